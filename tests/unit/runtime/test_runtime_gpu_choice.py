"""Which GPU a process trains on: by UUID or PCI address, never by an index of another order."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.agent_process import Machine
from tests.support.runtime_lab import ROOT

SAME = ("V100", "V100", "V100")
MIXED = ("A40", "V100")

PROGRAM = """
import json, pynvml, sys
from zeus_runtime.gpu import GpuUnavailable, open_gpu
turned, uuid, nameless = json.loads(sys.argv[1])
if turned:  # NVML's own order promises nothing
    by_index, count = pynvml.nvmlDeviceGetHandleByIndex, pynvml.nvmlDeviceGetCount
    pynvml.nvmlDeviceGetHandleByIndex = lambda index: by_index(count() - 1 - index)
if nameless:  # a driver that tells of this one all but its name
    name_of, uuid_of = pynvml.nvmlDeviceGetName, pynvml.nvmlDeviceGetUUID
    def name(handle):
        if uuid_of(handle) == nameless:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_UNKNOWN)
        return name_of(handle)
    pynvml.nvmlDeviceGetName = name
try:
    print(open_gpu(uuid=uuid).facts.uuid)
except GpuUnavailable as error:
    print(error)
"""


def chosen(
    machine: Machine,
    *,
    turned: bool = False,
    uuid: str | None = None,
    nameless: str = "",
    **environ: str,
) -> str:
    """Return the UUID of the GPU that a process with this environment opens, or why none."""
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps([turned, uuid, nameless])],
        env={**machine.environment, "PYTHONPATH": str(ROOT), **environ},
        capture_output=True,
        text=True,
        check=True,
    )
    return ended.stdout.strip()


@pytest.mark.parametrize("turned", [False, True])
def test_an_index_counts_by_pci_address_whatever_order_nvml_has(
    tmp_path: Path, turned: bool
) -> None:
    machine = Machine(tmp_path, SAME)
    for index, uuid in enumerate(machine.uuids):
        assert chosen(machine, turned=turned, CUDA_VISIBLE_DEVICES=f"{index},0") == uuid
    assert chosen(machine, turned=turned) == machine.uuids[0]


@pytest.mark.parametrize("turned", [False, True])
def test_a_uuid_names_its_gpu_whatever_order_there_is(tmp_path: Path, turned: bool) -> None:
    machine = Machine(tmp_path, MIXED)
    for uuid in machine.uuids:
        assert chosen(machine, turned=turned, CUDA_VISIBLE_DEVICES=uuid) == uuid
        assert chosen(machine, turned=turned, uuid=uuid, CUDA_VISIBLE_DEVICES="0") == uuid


def test_in_a_container_an_index_counts_among_the_gpus_that_are_in_it(tmp_path: Path) -> None:
    machine = Machine(tmp_path, SAME)
    inside = machine.uuids[2]
    assert chosen(machine, GPU_SIM_VISIBLE=inside, CUDA_VISIBLE_DEVICES="0") == inside
    assert chosen(machine, GPU_SIM_VISIBLE=inside) == inside
    assert "no GPU 2" in chosen(machine, GPU_SIM_VISIBLE=inside, CUDA_VISIBLE_DEVICES="2")
    outside = machine.uuids[0]
    assert "shows no GPU" in chosen(machine, GPU_SIM_VISIBLE=inside, CUDA_VISIBLE_DEVICES=outside)


@pytest.mark.parametrize("visible", ["0", "1", None])
def test_an_index_among_several_models_is_not_guessed(tmp_path: Path, visible: str | None) -> None:
    machine = Machine(tmp_path, MIXED)  # CUDA may call the second one 0: it is the faster
    environ = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    assert "CUDA_DEVICE_ORDER=PCI_BUS_ID" in chosen(machine, **environ)
    by_bus = chosen(machine, CUDA_DEVICE_ORDER="PCI_BUS_ID", **environ)
    assert by_bus == machine.uuids[int(visible or 0)]


@pytest.mark.parametrize("index", ["0", "1", "2"])
def test_an_index_beside_a_gpu_that_does_not_answer_is_not_guessed(
    tmp_path: Path, index: str
) -> None:
    machine = Machine(tmp_path, SAME)
    machine.simulator.set_fault(0, "lost")
    assert "by UUID" in chosen(machine, CUDA_VISIBLE_DEVICES=index)
    named = machine.uuids[2]
    assert chosen(machine, CUDA_VISIBLE_DEVICES=named) == named


def test_a_gpu_that_does_not_say_its_name_hides_no_other(tmp_path: Path) -> None:
    machine = Machine(tmp_path, SAME)
    first, last = machine.uuids[0], machine.uuids[2]
    assert chosen(machine, nameless=last, CUDA_VISIBLE_DEVICES="0") == first


def test_a_gpu_of_another_model_that_does_not_say_its_name_is_another_all_the_same(
    tmp_path: Path,
) -> None:
    machine = Machine(tmp_path, MIXED)
    told = chosen(machine, nameless=machine.uuids[0], CUDA_VISIBLE_DEVICES="0")
    assert "CUDA_DEVICE_ORDER=PCI_BUS_ID" in told


def test_the_beginning_of_several_uuids_names_none_of_them(tmp_path: Path) -> None:
    machine = Machine(tmp_path, SAME)
    assert "beginning of 3" in chosen(machine, CUDA_VISIBLE_DEVICES="GPU-")
