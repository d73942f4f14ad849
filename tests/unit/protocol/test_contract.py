"""The result's wire form and the decision's: sizes, what is dropped first, what is refused."""

from __future__ import annotations

import binascii
import json
from dataclasses import asdict, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.stop_rules import RULE
from zeus_runtime.protocol import (
    DECISION_MAX_BYTES,
    FINAL_BY_RUNTIME,
    LEARNED_FROM,
    NEXT_ATTEMPT,
    RESULT_CORE_MAX_BYTES,
    RESULT_MIN_BYTES,
    Decision,
    MetricMode,
    Outcome,
    PowerProfilePoint,
    ProtocolError,
    Result,
    SweepMeasurement,
    decode_result,
    encode_result,
)

CORE = Result(
    job="a" * 63 + "/" + "b" * 40,
    recurrence="1234567890",
    attempt=20,
    sequence=200_000,
    outcome=Outcome.DECISION_NOT_APPLIED.value,
    batch_size=16_777_216,
    epochs=100_000,
    time_seconds=1234567.123456,
    energy_joules=123456789.123456,
    epoch_energy_joules=1234567.1234567,
    epoch_time_seconds=12345.67891234,
    gpu_model="NVIDIA H100 80GB HBM3 with a long name (simulated)",
    gpu_count=1024,
    gpu_driver="580.105.08",
    power_limit_watts=123.456789,
    max_power_watts=716800.0,
    best_metric=0.123456789,
    last_metric=0.123456789,
    full_power_epoch_joules=1234567.1234567,
    full_power_epoch_seconds=12345.67891234,
    sweep_joules=1234567.1234567,
    sweep_seconds=12345.67891234,
    sweeping=16_777_216,
    carried_epochs=100_000,
    carried_energy_joules=123456789.123456,
    carried_time_seconds=1234567.123456,
    carried_elsewhere=True,
)
POINTS = tuple(PowerProfilePoint(700.0 - 25.0 * n, 600.123456 - n, 0.123456789) for n in range(21))
SWEEP = tuple(SweepMeasurement(2**n, 12.3456789 * n, 1234.56789 * n) for n in range(3, 11))
MILESTONES = tuple((epoch, 0.5 + epoch / 1e4) for epoch in range(1, 400))


def body(data: bytes) -> dict[str, object]:
    parsed = json.loads(data.split(b" ", 2)[2])
    assert isinstance(parsed, dict)
    return parsed


def framed(payload: bytes) -> bytes:
    return f"zeus-result/1 {binascii.crc32(payload):08x} ".encode() + payload


def test_a_result_has_the_length_that_was_asked_for_and_comes_back_to_seven_digits() -> None:
    result = replace(CORE, power_profile=POINTS[:5], milestones=MILESTONES[:9], note="café ☕")
    data = encode_result(result, 4096)
    assert len(data) == 4096
    read = decode_result(data)
    assert read is not None
    assert read.job == result.job
    assert read.energy_joules == pytest.approx(result.energy_joules, rel=1e-6)
    assert read.milestones == tuple((e, pytest.approx(m)) for e, m in result.milestones)
    assert (read.note, len(read.power_profile)) == (result.note, 5)


def test_the_core_of_the_longest_names_and_numbers_keeps_to_its_size() -> None:
    data = encode_result(CORE, RESULT_MIN_BYTES)
    assert len(data.rstrip()) <= RESULT_CORE_MAX_BYTES


def test_without_room_note_profile_sweep_and_the_older_milestones_go_in_this_order() -> None:
    full = replace(
        CORE, note="n" * 300, power_profile=POINTS, sweep=SWEEP, milestones=MILESTONES[:30]
    )
    sizes = [len(encode_result(replace(full, **each), 8192).rstrip()) for each in (
        {"note": ""},
        {"note": "", "power_profile": ()},
        {"note": "", "power_profile": (), "sweep": ()},
    )]  # fmt: skip
    without_note = body(encode_result(full, sizes[0] + 1))
    assert "note" not in without_note
    assert "power_profile" in without_note
    without_profile = body(encode_result(full, sizes[1] + 1))
    assert "power_profile" not in without_profile
    assert len(without_profile["sweep"]) == len(SWEEP)  # type: ignore[arg-type]
    without_sweep = body(encode_result(full, sizes[2] + 1))
    assert "sweep" not in without_sweep
    assert without_sweep["sweep_joules"] == pytest.approx(CORE.sweep_joules)
    assert len(without_sweep["milestones"]) == 30  # type: ignore[arg-type]  # a decoded JSON list
    least = decode_result(encode_result(replace(full, milestones=MILESTONES), RESULT_MIN_BYTES))
    assert least is not None
    assert least.milestones[-1] == pytest.approx(MILESTONES[-1])  # the best metric always stays
    assert least.job == CORE.job


def test_a_sweep_comes_back_in_both_forms_that_it_is_sent_in() -> None:
    result = replace(CORE, sweep=(SweepMeasurement(8, 1.5, 200.0), SweepMeasurement(32, 0.5)))
    read = decode_result(encode_result(result))
    assert read is not None
    assert read.sweep == result.sweep
    assert Result.from_body(asdict(result)).sweep == result.sweep  # to the agent


@pytest.mark.parametrize(
    "sweep", [None, 5, "none", [5], [[]], [{}], [{"batch_size": 8}], [[1] * 9]]
)
def test_a_malformed_sweep_costs_the_sweep_alone(sweep: object) -> None:
    payload = json.dumps({"version": 1, "epochs": 4, "sweep": sweep}).encode()
    read = decode_result(framed(payload))
    assert read is not None
    assert (read.epochs, read.sweep) == (4, ())


def test_a_result_of_an_older_runtime_has_no_sweep() -> None:
    new = ("full_power_epoch_joules", "full_power_epoch_seconds", "sweep", "sweep_joules",
           "sweep_seconds", "sweeping")  # fmt: skip
    old = {name: value for name, value in asdict(CORE).items() if name not in new}
    read = Result.from_body(old)
    assert [getattr(read, name) for name in new] == [None, None, (), None, None, None]
    assert read.energy_joules == CORE.energy_joules


def test_a_result_of_an_older_runtime_carries_nothing() -> None:
    new = ("carried_epochs", "carried_energy_joules", "carried_time_seconds", "carried_elsewhere")
    old = {name: value for name, value in asdict(CORE).items() if name not in new}
    read = Result.from_body(old)
    assert [getattr(read, name) for name in new] == [None] * 4
    assert read.energy_joules == CORE.energy_joules


def test_what_a_result_carries_comes_back_and_costs_nothing_where_there_is_none() -> None:
    read = decode_result(encode_result(CORE))
    assert read is not None
    assert (read.carried_epochs, read.carried_elsewhere) == (100_000, True)
    assert read.carried_energy_joules == pytest.approx(CORE.carried_energy_joules, rel=1e-6)
    assert b"carried" not in encode_result(Result(epochs=3))


def test_a_core_that_does_not_fit_is_an_error_and_no_half_result() -> None:
    with pytest.raises(ProtocolError, match="more than the 200 bytes"):
        encode_result(CORE, 200)


def test_the_newest_of_several_results_in_a_message_counts() -> None:
    old, new = (encode_result(replace(CORE, sequence=n), 1024) for n in (1, 2))
    read = decode_result(b"noise of the script\n" + old + new)
    assert read is not None
    assert read.sequence == 2


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"Traceback (most recent call last):",
        b"zeus-result/1",
        b"zeus-result/1 zzzzzzzz {}",
        framed(b"{}"),
        framed(b"[1, 2]"),
        framed(b'{"version": 2}'),
        framed(b'{"version": 1, "milestones": [[1]]}'),
        framed(b'{"version": 1, "milestones": [[1, 1%s]]}' % (b"0" * 400)),
        framed(b'{"version": 1, "milestones": 5}'),
        framed(b'{"version": 1, "power_profile": [{}]}'),
        framed(b"[" * 100_000),
        encode_result(CORE, 1024).replace(b"20", b"21", 1),
        encode_result(CORE, 1024)[:400],
    ],
    ids=range(14),
)
def test_what_is_not_a_whole_result_of_ours_is_none(data: bytes) -> None:
    assert decode_result(data) is None


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300), st.integers(0, 1023))
def test_a_damaged_result_is_never_taken_for_another(noise: bytes, where: int) -> None:
    whole = encode_result(CORE, 1024)
    damaged = whole[:where] + noise + whole[where + len(noise) :]
    read = decode_result(damaged)
    assert read is None or read == decode_result(whole)


def test_a_decision_comes_back_as_it_was() -> None:
    decision = Decision(
        batch_size=64,
        target=0.95,
        metric_mode=MetricMode.MAX.value,
        max_epochs=30,
        cost_threshold_joules=1234.5,
        learning_rate=0.05,
        power_profile=POINTS,
        profile_gpu_model="Tesla V100",
        profile_driver="570",
        stop_rule=RULE,
        sweep_batch_sizes=(16, 32, 128),
    )
    assert Decision.from_json(decision.to_json()) == decision


def test_a_decision_of_an_older_operator_stops_by_nothing_new_and_sweeps_nothing() -> None:
    body = json.loads(Decision(8, 0.5, "Max", 3).to_json())
    for name in ("stop_rule", "sweep_batch_sizes"):
        del body[name]
    read = Decision.from_json(json.dumps(body))
    assert (read.stop_rule, read.sweep_batch_sizes) == (None, ())


def test_a_rule_of_many_levels_a_profile_and_many_sizes_fit_into_the_environment() -> None:
    decision = Decision(
        batch_size=64,
        target=0.95,
        metric_mode="Max",
        max_epochs=100_000,
        power_profile=POINTS,
        stop_rule=replace(RULE, levels=RULE.levels * 50),
        sweep_batch_sizes=tuple(2**n for n in range(24)),
    )
    assert len(decision.to_json()) < DECISION_MAX_BYTES / 2


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "not JSON"),
        ("[]", "expected an object"),
        ('{"version": 9}', "version 9, this runtime speaks 1"),
        ('{"batch_size": 8}', "missing"),
        (
            '{"batch_size": 8, "target": 1, "metric_mode": "Best", "max_epochs": 3}',
            "Best",
        ),
    ],
)
def test_a_decision_that_is_not_understood_says_why(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Decision.from_json(text)


def test_a_decision_larger_than_an_environment_may_be_is_refused() -> None:
    decision = Decision(8, 0.5, "Max", 3, power_profile=POINTS * 60)
    with pytest.raises(ProtocolError, match=str(DECISION_MAX_BYTES)):
        decision.to_json()


def test_every_outcome_is_either_the_end_of_its_recurrence_or_asks_for_what_comes_next() -> None:
    ends = {Outcome.REACHED, Outcome.CANCELLED}
    same_decision_again = {Outcome.PREEMPTED}
    assert ends | same_decision_again | NEXT_ATTEMPT == set(Outcome)
    assert not (ends | same_decision_again) & NEXT_ATTEMPT
    assert LEARNED_FROM < FINAL_BY_RUNTIME
