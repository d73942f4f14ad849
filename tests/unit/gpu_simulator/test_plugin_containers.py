"""What the plug-in puts into containers, set up by several threads at once as gRPC does."""

from __future__ import annotations

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from gpu_simulator import create_state
from gpu_simulator.device_plugin.container import ContainerFiles

THREADS = 8


def test_containers_of_the_same_gpus_that_start_at_once_all_get_their_view(tmp_path: Path) -> None:
    simulator = create_state(tmp_path / "gpus", ["V100"] * 8)
    files = ContainerFiles(simulator.path)
    together = threading.Barrier(THREADS)
    every = [ids for size in (1, 2, 3) for ids in itertools.combinations(simulator.uuids(), size)]

    def set_up_all(_: int) -> None:
        for ids in every:
            together.wait(60)
            setup = files.setup(ids)
            view = next(m for m in setup.mounts if m.container_path.endswith("/visible"))
            assert Path(view.host_path).read_text().split() == sorted(ids)

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(set_up_all, range(THREADS)))
    views = list((tmp_path / "gpus.plugin" / "views").iterdir())
    assert len(views) == len(every), "nothing half-written is left"
    assert {path.stat().st_mode & 0o777 for path in views} == {0o644}
