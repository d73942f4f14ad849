"""Small parts: log lines, the energy meter, the table of NVML's errors, the command line."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from zeus_agent.gpu import EnergyMeter
from zeus_agent.logs import JsonFormatter, TextFormatter, note
from zeus_agent.main import SocketError, listen, parser
from zeus_agent.nvml import Kind, NvmlFailure


class Lines(logging.Handler):
    """Keeps the lines of both formats."""

    def __init__(self) -> None:
        super().__init__()
        self.text: list[str] = []
        self.json: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.text.append(TextFormatter().format(record))
        self.json.append(JsonFormatter().format(record))


@pytest.fixture
def lines() -> Lines:
    return Lines()


def logger_of(lines: Lines) -> logging.Logger:
    logger = logging.Logger("test")
    logger.addHandler(lines)
    return logger


@pytest.mark.parametrize(
    "forged", ["a\nERROR forged", 'a" uid=0', "a uid=0", "a\u2028b", "\x1b[2J"]
)
def test_a_name_that_a_caller_chose_can_not_forge_a_line_or_a_field(
    lines: Lines, forged: str
) -> None:
    note(logger_of(lines), logging.INFO, "session opened", session=forged, uid=7)
    (line,) = lines.text
    assert len(line.splitlines()) == 1
    assert line.endswith(f"session={json.dumps(forged)} uid=7")
    assert json.loads(lines.json[0])["session"] == forged


def test_fields_without_a_value_are_left_out(lines: Lines) -> None:
    note(logger_of(lines), logging.INFO, "m", a=None, b="", c=0, d=1.5)
    assert lines.text[0].endswith("INFO m c=0 d=1.5")


def test_energy_goes_on_when_the_drivers_counter_begins_again() -> None:
    meter = EnergyMeter()
    resets = [meter.add(value) for value in (5_000, 7_000, 7_000, 1_000, 3_000)]
    assert resets == [False, False, False, True, False]
    assert meter.total_joules == pytest.approx(2.0 + 0.0 + 1.0 + 2.0)


@pytest.mark.parametrize(
    ("codes", "kind"),
    [
        ((1, 9, 18), Kind.DRIVER),
        ((2,), Kind.ARGUMENT),
        ((3, 13, 21, 25), Kind.UNSUPPORTED),
        ((4,), Kind.PERMISSION),
        ((10, 19, 27), Kind.TRANSIENT),
        ((15, 16, 28), Kind.LOST),
        ((12,), Kind.ABSENT),
        ((17, 999, 12345), Kind.UNKNOWN),
    ],
)
def test_each_nvml_error_asks_for_what_the_table_says(codes: tuple[int, ...], kind: Kind) -> None:
    assert {NvmlFailure(code, "nvmlX").kind for code in codes} == {kind}


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf", "soon"])
def test_a_period_that_is_none_is_refused(seconds: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parser().parse_args(
            ["serve", "--socket", "s", "--state-dir", "d", "--poll-seconds", seconds]
        )
    assert ended.value.code == 2
    assert "--poll-seconds" in capsys.readouterr().err


def test_a_socket_path_that_is_too_long_is_named() -> None:
    with pytest.raises(SocketError, match="too long"):
        listen(Path("/tmp") / ("x" * 120), shared=False)
