"""Sets limits with Zeus's own client of zeusd; see `turns`.  Run by the Python that has Zeus."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pynvml
from turns import SetLimit, arguments, take_turns  # a file beside this one; ours are not there
from zeus.device.gpu.nvidia import ZeusdNVIDIAGPU
from zeus.utils.zeusd import ZeusdClient, ZeusdConfig


def main() -> None:
    """Set limits by the client alone, or as Zeus's optimizer does, and read back."""
    given = arguments()
    index = given["index"]
    client = ZeusdClient(ZeusdConfig.uds(given["socket"]))
    pynvml.nvmlInit()
    gpu = ZeusdNVIDIAGPU(index, client)

    def by_gpu(watts: int) -> None:
        gpu.set_power_management_limit(1000 * watts, block=True)  # looks, and sets through zeusd
        if gpu.get_power_management_limit() != 1000 * watts:
            raise SystemExit(f"asked for {watts} W, got another limit")

    @contextmanager
    def client_alone() -> Iterator[SetLimit]:
        client.get_power_limit([index])  # zeusd closes connections that rest for 5 s
        yield lambda watts: client.set_power_limit([index], 1000 * watts, block=True)

    @contextmanager
    def gpu_object() -> Iterator[SetLimit]:
        client.get_power_limit([index])
        yield by_gpu

    ways = {"client": client_alone, "gpu": gpu_object}
    take_turns(ways, given["lowest"], given["highest"])


if __name__ == "__main__":
    main()
