"""`zeus-agent serve`: start, run, stop."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import resource
import signal
import socket
import stat
import sys
from pathlib import Path

from aiohttp import web

from zeus_agent import logs
from zeus_agent.broker import Broker
from zeus_agent.fleet import DriverBroken
from zeus_agent.journal import Journal, JournalError, read_boot_id
from zeus_agent.logs import note
from zeus_agent.metrics import Metrics, agent_version
from zeus_agent.server import Server

logger = logging.getLogger("zeus_agent")

EXIT_USAGE = 2  # wrong arguments, or another agent is running
EXIT_DRIVER = 3  # the driver is broken beyond what initializing again cures
EXIT_NOT_RESTORED = 4  # a limit could not be restored; it is saved for the next start

STOP_TIMEOUT_SECONDS = 5.0
BACKLOG = 1024
_MAX_SOCKET_PATH_BYTES = 107  # sockaddr_un has 108, one of them ends the text


class SocketError(Exception):
    """The socket can't be used; the text says why."""


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    top = argparse.ArgumentParser(
        prog="zeus-agent",
        description="Sets GPU power limits on behalf of training runs, and puts them back.",
    )
    top.add_argument("--version", action="version", version=agent_version())
    commands = top.add_subparsers(dest="command", required=True)
    serve = commands.add_parser("serve", help="run the agent")
    serve.add_argument("--socket", type=Path, required=True, help="path of the Unix socket")
    serve.add_argument(
        "--state-dir", type=Path, required=True, help="folder for the limits to put back"
    )
    serve.add_argument(
        "--allow-uid",
        type=int,
        action="append",
        default=[],
        metavar="N",
        help="user that may call besides root and the agent's own; may be given several times",
    )
    serve.add_argument(
        "--idle-exit-seconds",
        type=_positive,
        metavar="S",
        help="exit by itself when there has been no session for so long",
    )
    serve.add_argument(
        "--poll-seconds", type=_positive, default=1.0, metavar="S", help="period of looks at GPUs"
    )
    serve.add_argument(
        "--nvml-timeout-seconds",
        type=_positive,
        default=1.5,
        metavar="S",
        help="longest time of one visit to the driver",
    )
    serve.add_argument("--log-format", choices=("text", "json"), default="text")
    return top


def main(argv: list[str] | None = None) -> int:
    """Run the program and return its exit code."""
    options = parser().parse_args(argv)
    logs.configure(options.log_format)
    _allow_many_connections()
    try:
        return asyncio.run(serve(options))
    except (JournalError, SocketError) as error:
        print(f"zeus-agent: {error}", file=sys.stderr)
        return EXIT_USAGE


async def serve(options: argparse.Namespace) -> int:
    """Serve until a signal, idleness, or a fault; return the exit code.

    Raises:
        JournalError, SocketError: another agent is running, or a path can't be used.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signal_number, stop.set)
    journal = Journal(options.state_dir, read_boot_id())
    try:
        require_free(options.socket)
        metrics = Metrics()
        broker = Broker(
            journal,
            metrics,
            poll_seconds=options.poll_seconds,
            nvml_timeout_seconds=options.nvml_timeout_seconds,
        )
        server = Server(broker, metrics, frozenset(options.allow_uid))
        runner = server.runner()
        await broker.start()
        await runner.setup()
        listener = listen(options.socket, shared=bool(options.allow_uid))
        site = web.SockSite(runner, listener, backlog=BACKLOG)
        await site.start()
        inode = options.socket.lstat().st_ino
        note(logger, logging.INFO, "serving", socket=options.socket, version=agent_version())
        try:
            exit_code = await _until_end(broker, stop, options.idle_exit_seconds)
        finally:
            _remove_socket(options.socket, inode)
            await site.stop()
            # Restoring begins while connections end; `stop` ends what these still open.
            broker.end_all_sessions("the agent stops")
            await runner.cleanup()
            restored = await broker.stop(STOP_TIMEOUT_SECONDS)
        note(logger, logging.INFO, "stopped", limits_restored=restored)
        return exit_code if restored or exit_code else EXIT_NOT_RESTORED
    finally:
        journal.close()


async def _until_end(broker: Broker, stop: asyncio.Event, idle_exit_seconds: float | None) -> int:
    """Wait for a reason to end; return the exit code."""
    stopping = asyncio.create_task(_wait_for(stop))
    period = None if idle_exit_seconds is None else min(1.0, idle_exit_seconds / 4.0)
    while True:
        ends: set[asyncio.Future[None]] = {stopping, broker.failure}
        await asyncio.wait(ends, timeout=period, return_when=asyncio.FIRST_COMPLETED)
        if stopping.done():
            return 0
        if broker.failure.done():
            error = broker.failure.exception()
            note(logger, logging.CRITICAL, "the agent ends", reason=str(error))
            if not isinstance(error, DriverBroken):
                logger.critical("a task failed", exc_info=error)
            stopping.cancel()
            return EXIT_DRIVER if isinstance(error, DriverBroken) else 1
        if idle_exit_seconds is not None and broker.idle_seconds() >= idle_exit_seconds:
            note(logger, logging.INFO, "no session for a while: the agent ends")
            stopping.cancel()
            return 0


async def _wait_for(event: asyncio.Event) -> None:
    await event.wait()


def listen(path: Path, *, shared: bool) -> socket.socket:
    """Return a listening socket at `path`; what a killed agent left there is replaced.

    Args:
        path: where callers connect.
        shared: other users may connect (who may call is checked for each request).

    Raises:
        SocketError: a live agent is listening there, or the path can't be used.
    """
    # Bound under another name and then renamed: at `path` there is always one that answers.
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    if len(os.fsencode(temporary)) > _MAX_SOCKET_PATH_BYTES:
        raise SocketError(f"the socket's path {path} is too long for a Unix socket")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.parent.mkdir(mode=0o755 if shared else 0o700, parents=True, exist_ok=True)
        require_free(path)
        temporary.unlink(missing_ok=True)
        listener.bind(os.fspath(temporary))
        temporary.chmod(0o666 if shared else 0o600)
        listener.listen(BACKLOG)
        temporary.rename(path)
    except OSError as error:
        listener.close()
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise SocketError(f"can't listen at {path}: {error.strerror or error}") from error
    except SocketError:
        listener.close()
        raise
    return listener


def require_free(path: Path) -> None:
    """Check that nothing but a dead socket is at `path`.

    Raises:
        SocketError: something else is.
    """
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise SocketError(f"{path} exists and is no socket; remove it or choose another path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(os.fspath(path))
        except OSError:
            return  # nobody listens: left by an agent that was killed
    raise SocketError(
        f"another agent is listening at {path}; stop it, or give this one a path of its own with "
        "--socket"
    )


def _remove_socket(path: Path, inode: int) -> None:
    """Remove the socket's file, unless a later agent has already put its own there."""
    try:
        if path.lstat().st_ino == inode:
            path.unlink()
    except FileNotFoundError:
        return


def _allow_many_connections() -> None:
    """Raise the soft limit of open files to the hard one: idle callers must not lock others out."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _positive(text: str) -> float:
    value = float(text)
    if not 0.0 < value < float("inf"):
        raise argparse.ArgumentTypeError("expected a number of seconds above 0")
    return value


if __name__ == "__main__":
    sys.exit(main())
