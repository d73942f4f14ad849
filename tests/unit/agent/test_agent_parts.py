"""Small parts: log lines, the table of NVML's errors, the command line."""

from __future__ import annotations

import json
import logging
import os
import threading
from pathlib import Path

import pytest

from tests.support.eventually import DEADLINE_SECONDS
from zeus_agent.listeners import SocketError, listen_unix
from zeus_agent.logs import JsonFormatter, TextFormatter, note
from zeus_agent.nvml import Kind, NvmlFailure
from zeus_agent.options import parser
from zeus_agent.patient_lines import MAX_WAITING_LINES, PatientLines


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


def test_a_uuid_that_nvml_no_longer_finds_is_a_gpu_that_was_lost() -> None:
    assert NvmlFailure(6, "nvmlDeviceGetHandleByUUID").kind is Kind.LOST
    assert NvmlFailure(6, "nvmlDeviceGetMigDeviceHandleByIndex").kind is Kind.UNKNOWN


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
        listen_unix(Path("/tmp") / ("x" * 120), shared=False)


# ---- a log that nobody reads ---------------------------------------------------------


def test_nobody_waits_for_a_log_that_is_not_read_and_no_early_line_is_lost() -> None:
    reading, writing = os.pipe()
    handler = PatientLines(writing)
    handler.setFormatter(TextFormatter())
    logger = logging.Logger("test")
    logger.addHandler(handler)
    count = 3 * MAX_WAITING_LINES  # far more than the pipe takes, and than may wait

    def log() -> None:
        for number in range(count):
            note(logger, logging.INFO, "x" * 200, number=number)

    logging_thread = threading.Thread(target=log, daemon=True)
    logging_thread.start()
    logging_thread.join(DEADLINE_SECONDS)
    assert not logging_thread.is_alive(), "it does not wait"
    with os.fdopen(reading) as lines:
        numbers = []
        for line in lines:
            if "dropped" in line:
                break
            numbers.append(int(line.rpartition("=")[2]))
    assert numbers == list(range(len(numbers))), "in their order"
    dropped = int(line.split()[2])
    assert MAX_WAITING_LINES < len(numbers) == count - dropped
    handler.flush()
    os.close(writing)


def test_a_line_longer_than_a_pipe_takes_at_once_is_written_whole_and_in_its_turn() -> None:
    reading, writing = os.pipe()
    handler = PatientLines(writing)
    logger = logging.Logger("test")
    logger.addHandler(handler)
    texts = ["a", "b" * 300_000, "c"]
    for text in texts:
        logger.warning(text)
    with os.fdopen(reading) as lines:
        assert [next(lines).rstrip() for _ in texts] == texts
    os.close(writing)


def test_a_log_whose_reader_is_gone_disturbs_nobody() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    logger = logging.Logger("test")
    logger.addHandler(PatientLines(writing))
    logger.warning("short")
    logger.warning("x" * 100_000)
    logger.handlers[0].flush()
    os.close(writing)
