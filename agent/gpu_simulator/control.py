"""`gpu-sim`: make, show and change a simulated machine's GPUs while others use them."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gpu_simulator import library
from gpu_simulator.build import BuildError, build_library
from gpu_simulator.faults import FAULTS, UNTIL_CLEARED, Scope, Throttle, Unsupported
from gpu_simulator.state import (
    STATE_VARIABLE,
    Simulator,
    SimulatorError,
    WritableBy,
    create_state,
    environment,
)

_UNSUPPORTED = {
    "power-set": Unsupported.POWER_SET,
    "energy": Unsupported.ENERGY_COUNTER,
    "power-usage": Unsupported.POWER_USAGE,
    "limit-get": Unsupported.LIMIT_GET,
    "persistence": Unsupported.PERSISTENCE,
    "clock-reasons": Unsupported.CLOCK_REASONS,
    "processes": Unsupported.PROCESSES,
    "mig": Unsupported.MIG,
    "minor-number": Unsupported.MINOR_NUMBER,
}
_THROTTLES = {reason.name.lower().replace("_", "-"): reason for reason in Throttle if reason.name}
_SCOPES = {"reads": Scope.READS, "writes": Scope.WRITES, "all": Scope.ALL}
_EPILOG = f"""\
The state is the file --state names, else ${STATE_VARIABLE}.  Example:

  gpu-sim --state /tmp/gpus create --gpu V100 --gpu A40
  eval "$(gpu-sim --state /tmp/gpus env)"
  python -c 'import pynvml; pynvml.nvmlInit(); print(pynvml.nvmlDeviceGetCount())'
  gpu-sim set --index 0 --limit 150
  gpu-sim fault set --index 0 hang 5
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the tool.  Exit code 0: done; 1: it could not be done; 2: wrong usage."""
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except (SimulatorError, BuildError) as error:
        print(f"gpu-sim: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # `gpu-sim show | head`
        sys.stderr.close()
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gpu-sim",
        description="Make, show and change simulated NVIDIA GPUs.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--state", type=Path, help=f"file of the state (default: ${STATE_VARIABLE})"
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    create = commands.add_parser("create", help="make a machine, replacing the one that is there")
    create.add_argument(
        "--gpu",
        action="append",
        metavar="MODEL",
        help="a GPU of this model, again for more (default: one V100)",
    )
    create.add_argument("--tick-ms", type=float, default=100.0, help="period of the energy counter")
    create.add_argument("--noise", type=float, default=0.0, help="relative, of time and power")
    create.add_argument("--workload", default="shufflenetv2", help="of work that names none")
    create.add_argument("--time-scale", type=float, default=1.0, help="multiplies step times")
    create.add_argument("--seed", type=int, default=0)
    create.add_argument(
        "--writable-by",
        choices=[rule.name.lower() for rule in WritableBy],
        default="creator",
        help="who may change limits besides root",
    )
    create.set_defaults(run=_create)

    show = commands.add_parser("show", help="show the GPUs")
    show.add_argument("-o", "--output", choices=["text", "json"], default="text")
    show.set_defaults(run=_show)

    change = commands.add_parser("set", help="change settings; a limit as another tool would")
    change.add_argument("--index", help="index or UUID of the GPU (default: every one)")
    change.add_argument("--limit", type=float, metavar="WATTS")
    change.add_argument("--persistence", choices=["on", "off"])
    change.add_argument("--workload")
    change.add_argument("--tick-ms", type=float, help="of the machine")
    change.add_argument("--noise", type=float, help="of the machine")
    change.add_argument("--time-scale", type=float, help="of the machine")
    change.set_defaults(run=_set)

    fault = commands.add_parser("fault", help="turn faults on and off")
    actions = fault.add_subparsers(required=True, metavar="ACTION")
    fault_set = actions.add_parser(
        "set", help="turn a fault on, or do driver-reload, counter-reset"
    )
    fault_set.add_argument("--index", help="index or UUID of the GPU (default: every one)")
    fault_set.add_argument(
        "--scope", choices=list(_SCOPES), help="calls that error, hang, slow hit"
    )
    fault_set.add_argument(
        "--calls", metavar="GROUPS", help="calls that error hits, as unsupported takes them"
    )
    fault_set.add_argument("--count", type=int, default=0, help="how many calls error hits")
    fault_set.add_argument(
        "name", choices=[*map(_to_option, FAULTS), "hang", "slow", "driver-reload", "counter-reset"]
    )
    fault_set.add_argument(
        "value",
        nargs="?",
        help="NVML code (error), watts (enforced-cap-watts), seconds (hang, slow; "
        f"'forever'), or some of {', '.join(_UNSUPPORTED)} (unsupported) or "
        f"{', '.join(_THROTTLES)} (throttle) with commas",
    )
    fault_set.set_defaults(run=_fault_set)
    fault_clear = actions.add_parser("clear", help="turn a fault, or every fault, off")
    fault_clear.add_argument("--index", help="index or UUID of the GPU (default: every one)")
    fault_clear.add_argument("name", nargs="?", choices=[*map(_to_option, FAULTS), "hang", "slow"])
    fault_clear.set_defaults(run=_fault_clear)

    driver = commands.add_parser("driver", help="unload and load the driver of the whole machine")
    driver.add_argument("action", choices=["unload", "load"])
    driver.set_defaults(run=_driver)
    mig = commands.add_parser("mig", help="cut A100 and H100 into MIG instances")
    mig_actions = mig.add_subparsers(required=True, metavar="ACTION")
    for name, what in (
        ("on", "switch MIG on: work is lost"),
        ("off", "switch it off: work and instances are lost"),
        ("create", "make instances of PROFILE, e.g. 1g.5gb"),
        ("destroy", "remove the instances of UUID, every one without"),
    ):
        action = mig_actions.add_parser(name, help=what)
        action.add_argument("--index", help="index or UUID of the GPU (default: every one)")
        if name in ("create", "destroy"):
            action.add_argument(
                "names",
                nargs="+" if name == "create" else "*",
                metavar="PROFILE" if name == "create" else "UUID",
            )
        action.set_defaults(run=_mig, action=name)

    plugin = commands.add_parser(
        "device-plugin", help="offer the GPUs to a node's kubelet, until SIGTERM"
    )
    plugin.add_argument(
        "--plugin-dir",
        type=Path,
        default=Path("/var/lib/kubelet/device-plugins"),
        help="the kubelet's folder (default: %(default)s)",
    )
    plugin.add_argument("--resource", default="nvidia.com/gpu", help="default: %(default)s")
    plugin.add_argument(
        "--replicas", type=int, default=1, help="pods that may share a GPU (time-slicing)"
    )
    plugin.add_argument(
        "--mig-strategy",
        choices=["none", "single", "mixed"],
        default="mixed",
        help="offer MIG instances not, as GPUs, or by profile (default: %(default)s)",
    )
    plugin.add_argument(
        "--device-ids",
        choices=["uuid", "device-file"],
        default="uuid",
        help="name devices as NVIDIA's plug-in does, or nvidia0 as Google's (default: %(default)s)",
    )
    plugin.add_argument("--poll-seconds", type=float, default=1.0, help="default: %(default)g")
    plugin.set_defaults(run=_device_plugin)
    env = commands.add_parser("env", help="print the environment to `eval`")
    env.set_defaults(run=_env)
    path = commands.add_parser("path", help="print the path of the library, built if needed")
    path.set_defaults(run=lambda _: print(build_library()))
    models = commands.add_parser("models", help="list GPU models and workloads")
    models.set_defaults(run=_models)
    return parser


def _to_option(name: str) -> str:
    return name.replace("_", "-")


def _to_fault(option: str) -> str:
    return {"hang": "hang_seconds", "slow": "slow_seconds"}.get(option, option.replace("-", "_"))


def _state_path(options: argparse.Namespace) -> Path:
    chosen = options.state or os.environ.get(STATE_VARIABLE)
    if not chosen:
        raise SimulatorError(f"name the state with --state or ${STATE_VARIABLE}")
    return Path(chosen)


def _chosen(simulator: Simulator, options: argparse.Namespace) -> Sequence[int | str]:
    if options.index is None:
        return range(simulator.device_count)
    return (int(options.index),) if options.index.isdecimal() else (options.index,)


def _create(options: argparse.Namespace) -> None:
    simulator = create_state(
        _state_path(options),
        options.gpu or ["V100"],
        tick_seconds=1e-3 * options.tick_ms,
        noise=options.noise,
        workload=options.workload,
        time_scale=options.time_scale,
        seed=options.seed,
        writable_by=WritableBy[options.writable_by.upper()],
    )
    for gpu in simulator.devices():
        print(f"{gpu.index}: {gpu.name} {gpu.uuid}")


def _show(options: argparse.Namespace) -> None:
    simulator = Simulator(_state_path(options))
    machine = {key: simulator.get(key) for key in library.keys(of_device=False)}
    gpus = simulator.devices()
    if options.output == "json":
        document: dict[str, Any] = {
            **machine,
            "path": str(simulator.path),
            "gpus": [
                {
                    "index": gpu.index,
                    "uuid": gpu.uuid,
                    "name": gpu.name,
                    "model": gpu.model,
                    "workload": gpu.workload,
                    "mig_instances": [vars(found) for found in simulator.instances(gpu.index)],
                    **{key: _json_number(value) for key, value in gpu.numbers.items()},
                }
                for gpu in gpus
            ],
        }
        print(json.dumps(document, indent=2, allow_nan=False))
        return
    print(
        f"{simulator.path}: counter tick {1e3 * machine['tick_seconds']:g} ms, "
        f"noise {machine['noise']:g}, time scale {machine['time_scale']:g}, "
        f"seed {machine['seed']:.0f}"
    )
    for gpu in gpus:
        numbers = gpu.numbers
        print(
            f"{gpu.index}: {gpu.name} {gpu.uuid}\n"
            f"   limit {numbers['limit_watts']:g} W "
            f"(enforced {numbers['enforced_limit_watts']:g}, "
            f"{numbers['min_limit_watts']:g} to {numbers['max_limit_watts']:g}), "
            f"now {numbers['power_watts']:.1f} W at {numbers['clock_mhz']:.0f} MHz, "
            f"{numbers['energy_joules']:.1f} J in all\n"
            f"   workload {gpu.workload}, {numbers['queued']:.0f} queued, "
            f"{numbers['finished']:.0f} done"
        )
        for instance in simulator.instances(gpu.index):
            print(f"   MIG {instance.profile} {instance.uuid}")
        for name, value in gpu.faults.items():
            print(f"   fault {_to_option(name)} {value:g}")


def _json_number(value: float) -> float | str:
    return "forever" if value > 1e200 else value


def _set(options: argparse.Namespace) -> None:
    simulator = Simulator(_state_path(options))
    if options.tick_ms is not None:
        simulator.set("tick_seconds", 1e-3 * options.tick_ms)
    if options.noise is not None:
        simulator.set("noise", options.noise)
    if options.time_scale is not None:
        simulator.set("time_scale", options.time_scale)
    for gpu in _chosen(simulator, options):
        if options.limit is not None:
            simulator.foreign_limit(gpu, options.limit)
        if options.persistence is not None:
            simulator.set("persistence", options.persistence == "on", gpu)
        if options.workload is not None:
            simulator.set_workload(gpu, options.workload)


def _fault_set(options: argparse.Namespace) -> None:
    simulator = Simulator(_state_path(options))
    for gpu in _chosen(simulator, options):
        if options.name == "driver-reload":
            simulator.reload_driver(gpu)
        elif options.name == "counter-reset":
            simulator.reset_counter(gpu)
        else:
            fault = _to_fault(options.name)
            scope = _SCOPES[options.scope] if options.scope else None
            calls = _mask(_UNSUPPORTED, options.calls, "--calls") if options.calls else None
            value = _fault_value(fault, options.value)
            simulator.set_fault(
                gpu,
                fault,
                value,
                scope=scope,
                calls=None if calls is None else Unsupported(calls),
                count=options.count,
            )


def _fault_value(fault: str, text: str | None) -> float:
    if fault == "unsupported":
        return float(_mask(_UNSUPPORTED, text, fault))
    if fault == "throttle":
        return float(_mask(_THROTTLES, text, fault))
    if fault == "hang_seconds" and text in (None, "forever"):
        return UNTIL_CLEARED
    if fault in ("error", "enforced_cap_watts", "slow_seconds") and text is None:
        raise SimulatorError(f"{_to_option(fault)} takes a number")
    try:
        return 1.0 if text is None else float(text)
    except ValueError:
        raise SimulatorError(f"{_to_option(fault)} takes a number, not {text!r}") from None


def _mask(names: Mapping[str, int], text: str | None, what: str) -> int:
    chosen = set((text or "").split(","))
    if not chosen <= set(names):
        raise SimulatorError(f"{what} takes some of {', '.join(names)}")
    return sum(names[name] for name in chosen)


def _driver(options: argparse.Namespace) -> None:
    simulator = Simulator(_state_path(options))
    if options.action == "unload":
        simulator.unload_driver()
    else:
        simulator.load_driver()


def _mig(options: argparse.Namespace) -> None:
    simulator = Simulator(_state_path(options))
    for gpu in _chosen(simulator, options):
        if options.action in ("on", "off"):
            simulator.set_mig_mode(gpu, options.action == "on")
        elif options.action == "create":
            for profile in options.names:
                print(simulator.create_instance(gpu, profile).uuid)
        else:
            for uuid in options.names or [found.uuid for found in simulator.instances(gpu)]:
                simulator.destroy_instance(gpu, uuid)


def _fault_clear(options: argparse.Namespace) -> None:
    simulator = Simulator(_state_path(options))
    for gpu in _chosen(simulator, options):
        simulator.clear_fault(gpu, _to_fault(options.name) if options.name else None)


def _device_plugin(options: argparse.Namespace) -> None:
    if importlib.util.find_spec("grpc") is None:
        raise SimulatorError("the device plug-in needs grpcio: pip install 'zeus-operator[agent]'")
    # Here: the other commands need no gRPC.
    from gpu_simulator.device_plugin import inventory, plugin

    if options.replicas < 1 or not 0 < options.poll_seconds <= 60:
        raise SimulatorError("--replicas is at least 1, --poll-seconds within 0 and 60")
    settings = inventory.Settings(
        options.resource,
        options.replicas,
        inventory.MigStrategy(options.mig_strategy),
        inventory.DeviceIds(options.device_ids),
    )
    plugin.serve(_state_path(options), options.plugin_dir, settings, options.poll_seconds)


def _env(options: argparse.Namespace) -> None:
    path = _state_path(options)
    Simulator(path)  # says what is wrong now rather than as "driver not loaded" later
    for name, value in environment(path).items():
        print(f"export {name}={shlex.quote(value)}")


def _models(_: argparse.Namespace) -> None:
    print("GPU models: " + ", ".join(library.models()))
    print("Workloads: " + ", ".join(library.workloads()))


if __name__ == "__main__":
    sys.exit(main())
