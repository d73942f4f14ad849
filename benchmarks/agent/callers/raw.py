"""Sets limits of either server through a bare socket, as a program in C would; see `turns`."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.agent.callers.turns import SetLimit, arguments, take_turns

_END = b"\r\n\r\n"


class Connection:
    """One kept connection that speaks just enough HTTP."""

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(path)

    def close(self) -> None:
        """End it."""
        self._socket.close()

    def ask(self, method: str, url: str, body: bytes = b"") -> bytes:
        """Return the body of the answer.

        Raises:
            SystemExit: the answer is not a success.
        """
        head = f"{method} {url} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
        self._socket.sendall(head.encode() + body)
        data = self._socket.recv(65536)
        while _END not in data:
            data += self._socket.recv(65536)
        answer_head, _, answer = data.partition(_END)
        length = 0
        for line in answer_head.split(b"\r\n"):
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        while len(answer) < length:
            answer += self._socket.recv(65536)
        if answer_head[9:10] != b"2":
            raise SystemExit(f"{method} {url}: {answer_head!r} {answer!r}")
        return answer


def main() -> None:
    """Set limits of either server, on a connection that lasts for a turn."""
    given = arguments()
    session = f"/v1/sessions/raw-{given['session']}"
    of_agent = f"{session}/gpus/{given['uuid']}/power-limit"
    of_zeusd = f"/gpu/set_power_limit?gpu_ids={given['index']}&block=true&power_limit_mw="

    @contextmanager
    def agent() -> Iterator[SetLimit]:
        connection = Connection(given["socket"])

        def set_limit(watts: int) -> None:
            connection.ask("PUT", of_agent, b'{"power_limit_watts": %d}' % watts)

        connection.ask("PUT", session, b'{"job": "bench/set-limit", "ttl_seconds": 600}')
        set_limit(given["lowest"] - 1)  # the first of a lease
        yield set_limit
        connection.ask("DELETE", session)
        connection.close()

    @contextmanager
    def zeusd() -> Iterator[SetLimit]:
        connection = Connection(given["zeusd_socket"])

        def set_limit(watts: int) -> None:
            connection.ask("POST", f"{of_zeusd}{1000 * watts}")

        set_limit(given["lowest"] - 1)
        yield set_limit
        connection.close()

    take_turns({"agent": agent, "zeusd": zeusd}, given["lowest"], given["highest"])


if __name__ == "__main__":
    main()
