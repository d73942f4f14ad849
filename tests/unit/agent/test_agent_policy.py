"""What the administrator's policy says of a wish, and how its file is read."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.eventually import eventually
from zeus_agent.leases import LeaseMachine
from zeus_agent.limits import Apply, Bounds, Rules
from zeus_agent.policy import Amount, DeviceLimits, GpuRule, Policy
from zeus_agent.policy_file import CHANGES_PER_MINUTE, PolicyError, PolicyFile, parse_policy
from zeus_agent.rate import TokenBucket
from zeus_runtime.protocol import ErrorCode

A100 = "NVIDIA A100-SXM4-40GB"
DEVICE = DeviceLimits(400_000, Bounds(100_000, 400_000))
FULL = b"""
version: 1
dryRun: true
namespaces: {allow: ["team-*", "ml"], deny: ["team-b"]}
sharedGpus: Allow
maxChangesPerMinute: 60
persistenceMode: Enable
gpus:
  - model: "*A100*"
    minPercent: 50
    maxPercent: 100
    defaultPercent: 90
  - {model: "*", maxWatts: 250.5}
"""


# ---- decisions ---------------------------------------------------------------------------


def test_without_rules_everything_that_the_device_accepts_is_allowed() -> None:
    assert Policy(shares=True).refusal(A100, "anyone", True, DEVICE) is None
    assert Policy().rules_for(A100, DEVICE) == Rules()


@pytest.mark.parametrize(
    ("namespace", "is_allowed"),
    [("team-a", True), ("team-b", False), ("ml", True), ("mlx", False), ("", False), (None, True)],
)
def test_a_namespace_needs_to_be_allowed_and_a_denial_wins(
    namespace: str | None, is_allowed: bool
) -> None:
    policy = Policy(allowed_namespaces=("team-*", "ml"), denied_namespaces=("team-b",))
    refusal = policy.refusal(A100, namespace, False, DEVICE)
    assert (refusal is None) is is_allowed
    if refusal is not None:
        assert refusal.code is ErrorCode.POLICY_DENIED
        assert repr(namespace) in refusal.message


def test_a_shared_board_is_left_alone_unless_the_policy_says_otherwise() -> None:
    refusal = Policy().refusal(A100, "ml", True, DEVICE)
    assert refusal is not None
    assert refusal.code is ErrorCode.GPU_SHARED
    assert Policy(shares=True).refusal(A100, "ml", True, DEVICE) is None


def test_bounds_are_of_the_devices_default_or_in_watts_and_what_is_left_out_is_the_devices() -> (
    None
):
    rule = GpuRule("*A100*", Amount(percent=50), Amount(watts=300))
    assert Policy(gpus=(rule,)).rules_for(A100, DEVICE).allowed == Bounds(200_000, 300_000)
    rule = GpuRule("*A100*", minimum=Amount(percent=50))
    assert Policy(gpus=(rule,)).rules_for(A100, DEVICE).allowed == Bounds(200_000, 400_000)
    assert Policy(gpus=(rule,)).rules_for("V100", DEVICE).allowed is None


def test_the_first_rule_for_a_model_holds_whatever_the_case() -> None:
    policy = Policy(gpus=(GpuRule("*a100*", maximum=Amount(watts=300)), GpuRule("*")))
    assert policy.rules_for(A100, DEVICE).allowed == Bounds(100_000, 300_000)
    assert policy.rules_for("Tesla V100", DEVICE).allowed is None


def test_bounds_in_percent_of_a_default_that_the_device_does_not_tell_refuse_the_wish() -> None:
    policy = Policy(gpus=(GpuRule("*", minimum=Amount(percent=50)),))
    unknown = DeviceLimits(None, Bounds(100_000, 400_000))
    refusal = policy.refusal(A100, None, False, unknown)
    assert refusal is not None
    assert refusal.code is ErrorCode.POLICY_DENIED
    assert "bound it in watts" in refusal.message
    assert policy.rules_for(A100, unknown).default_milliwatts is None


def test_a_node_default_is_of_the_devices_default_or_in_watts() -> None:
    percent = Policy(gpus=(GpuRule("*", default=Amount(percent=90)),))
    assert percent.rules_for(A100, DEVICE).default_milliwatts == 360_000
    watts = Policy(gpus=(GpuRule("*", default=Amount(watts=250)),))
    assert watts.rules_for(A100, DeviceLimits()).default_milliwatts == 250_000


@given(
    st.integers(0, 1_000_000),
    st.one_of(st.none(), st.floats(1, 200), st.floats(1, 200)),
    st.one_of(st.none(), st.integers(1, 700)),
)
def test_what_is_allowed_is_always_within_the_device_and_at_most_the_policys_maximum(
    wanted: int, low_percent: float | None, high_watts: int | None
) -> None:
    rule = GpuRule(
        "*",
        None if low_percent is None else Amount(percent=low_percent),
        None if high_watts is None else Amount(watts=high_watts),
    )
    machine = LeaseMachine("GPU-0", itertools.count(1).__next__)
    machine.bounds = DEVICE.bounds
    machine.set_rules(Policy(gpus=(rule,)).rules_for(A100, DEVICE))
    machine.request("a", wanted, 0)
    work = machine.next_work(0.0)
    assert isinstance(work, Apply)
    target = work.target_milliwatts
    assert DEVICE.bounds is not None
    assert DEVICE.bounds.clamp(target) == target
    if high_watts is not None:
        assert target <= max(high_watts * 1000, DEVICE.bounds.min_milliwatts)


MANY_BY_ALIASES = "a: &a [1, 1, 1, 1, 1, 1]\n" + "".join(
    f"{name}: &{name} [{', '.join(6 * [f'*{before}'])}]\n"
    for before, name in itertools.pairwise("abcdefghijk")
)
MANY_BY_ALIASES += "version: *k"
MANY_BY_MERGES = "a: &a {v: 1, w: 1, x: 1, y: 1, z: 1}\n" + "".join(
    f"{name}: &{name} {{<<: [{', '.join(9 * [f'*{before}'])}]}}\n"
    for before, name in itertools.pairwise("abcdefghijk")
)


# ---- the file ------------------------------------------------------------------------------


def test_a_whole_policy_is_read() -> None:
    assert parse_policy(FULL) == Policy(
        allowed_namespaces=("team-*", "ml"),
        denied_namespaces=("team-b",),
        shares=True,
        changes_per_minute=60.0,
        enable_persistence=True,
        dry_run=True,
        gpus=(
            GpuRule("*A100*", Amount(percent=50), Amount(percent=100), Amount(percent=90)),
            GpuRule("*", None, Amount(watts=250.5)),
        ),
    )


def test_what_is_left_out_is_careful() -> None:
    policy = parse_policy(b"version: 1")
    assert policy == Policy(changes_per_minute=CHANGES_PER_MINUTE)
    assert not policy.shares


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "the document: expected keys and values"),
        ("[]", "the document: expected keys and values"),
        ("version: [", "no YAML"),
        ("[" * 100_000, "no YAML"),
        ("version: 1\ndryRun: !!bool maybe", "no YAML: KeyError('maybe')"),
        ('version: !!int ""', "no YAML: IndexError"),
        ('version: 1\nmaxChangesPerMinute: !!float ""', "no YAML: IndexError"),
        ("version: 1\nx: !!timestamp foo", "no YAML: AttributeError"),
        ("version: 1\nmaxChangesPerMinute: 1" + 400 * "0", "maxChangesPerMinute: expected a num"),
        ("version: 1\nmaxChangesPerMinute: -1" + 400 * "0", "maxChangesPerMinute: expected a num"),
        ("version: 0x" + 9_000 * "f", "version: expected 1, found a huge number"),
        ("version: 1\n? 0x" + 9_000 * "f" + "\n: 1", "a huge number: unknown"),
        (MANY_BY_ALIASES, "version: expected 1, found [["),
        (MANY_BY_MERGES, "a mapping of more than 1000 keys"),
        ("\x00", "no YAML"),
        ("{}", "version: expected 1, found None"),
        ("version: 2", "version: expected 1, found 2"),
        ("version: true", "version: expected 1, found True"),
        ("version: 1\ndryrun: true", "dryrun: unknown; there are dryRun, gpus"),
        ("version: 1\nversion: 1", "line 2: key 'version' is there twice"),
        ("version: 1\ndryRun: 1", "dryRun: expected true or false, found 1"),
        ("version: 1\nsharedGpus: deny", "sharedGpus: expected Deny or Allow, found 'deny'"),
        ("version: 1\npersistenceMode: On", "persistenceMode: expected Keep or Enable"),
        ("version: 1\nmaxChangesPerMinute: 0", "maxChangesPerMinute: expected a number above 0"),
        ("version: 1\nmaxChangesPerMinute: .inf", "maxChangesPerMinute: expected a number"),
        ("version: 1\nmaxChangesPerMinute: yes", "maxChangesPerMinute: expected a number"),
        ("version: 1\nnamespaces: {allow: x}", "namespaces.allow: expected a list"),
        ("version: 1\nnamespaces: {allow: [1]}", "namespaces.allow[0]: expected text"),
        ("version: 1\nnamespaces: {alow: []}", "namespaces.alow: unknown; there are allow, deny"),
        ("version: 1\nnamespaces: 3", "namespaces: expected keys and values"),
        ("version: 1\ngpus: {}", "gpus: expected a list"),
        ("version: 1\ngpus: [{}]", "gpus[0].model: missing"),
        ("version: 1\ngpus: [{model: x, minPercnt: 5}]", "gpus[0].minPercnt: unknown"),
        (
            "version: 1\ngpus: [{model: x, minPercent: '5'}]",
            "gpus[0].minPercent: expected a number",
        ),
        ("version: 1\ngpus: [{model: x, minPercent: .nan}]", "gpus[0].minPercent: expected"),
        ("version: 1\ngpus: [{model: x, maxPercent: 300}]", "at most 200, found 300"),
        (
            "version: 1\ngpus: [{model: x, minPercent: 5, minWatts: 5}]",
            "gpus[0].minWatts: minPercent is given too",
        ),
        (
            "version: 1\ngpus: [{model: y}, {model: x, minWatts: 9, maxWatts: 5}]",
            "gpus[1]: its min (9 W) is above its max (5 W)",
        ),
        (
            "version: 1\ngpus: [{model: x, defaultPercent: 90, maxPercent: 80}]",
            "gpus[0]: its default (90 %) is above its max (80 %)",
        ),
    ],
)
def test_a_wrong_policy_is_refused_with_the_path_of_what_is_wrong(text: str, says: str) -> None:
    with pytest.raises(PolicyError) as refused:
        parse_policy(text.encode())
    assert says in str(refused.value)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_policy_or_refused(data: bytes) -> None:
    with contextlib.suppress(PolicyError):
        assert isinstance(parse_policy(data), Policy)


def write(path: Path, text: str) -> None:
    """Replace a file as editors and the kubelet do: by another one."""
    other = path.with_name("other")
    other.write_text(text)
    other.replace(path)


def test_a_policy_that_changes_is_read_again_and_one_that_does_not_is_not(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    write(path, "version: 1")
    file = PolicyFile(path)
    assert not file.refresh()
    write(path, "version: 1\ndryRun: true")
    assert file.refresh()
    assert file.policy.dry_run
    write(path, "version: 1\ndryRun: true  # the same in other words")
    assert not file.refresh()
    assert file.problem == ""


def test_a_wrong_policy_leaves_the_one_before_in_force_and_says_so_until_it_is_right(
    tmp_path: Path,
) -> None:
    path = tmp_path / "policy.yaml"
    write(path, "version: 1\nsharedGpus: Allow")
    file = PolicyFile(path)
    write(path, "version: 1\nsharedGpus: Perhaps")
    assert not file.refresh()
    assert file.policy.shares
    assert str(path) in file.problem
    assert "sharedGpus: expected Deny or Allow" in file.problem
    path.unlink()
    assert not file.refresh()
    assert "can't be read" in file.problem
    assert file.policy.shares
    write(path, "version: 1\nsharedGpus: Deny")
    assert file.refresh()
    assert (file.problem, file.policy.shares) == ("", False)


def test_a_policy_that_could_not_be_read_for_a_moment_is_read_though_it_did_not_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "policy.yaml"
    write(path, "version: 1")
    file = PolicyFile(path)
    write(path, "version: 1\ndryRun: true")

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(Path, "open", fail)
    assert not file.refresh()
    assert "can't be read: Input/output error" in file.problem
    monkeypatch.undo()
    assert file.refresh()
    assert (file.problem, file.policy.dry_run) == ("", True)


def test_a_policy_that_is_written_over_with_its_size_and_time_kept_is_noticed(
    tmp_path: Path,
) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text("version: 1\ndryRun: false")
    os.utime(path, ns=(1, 1))
    file = PolicyFile(path)
    begun = path.stat().st_ctime_ns

    def write_over() -> bool:
        path.write_text("version: 1\ndryRun: true ")
        os.utime(path, ns=(1, 1))
        return path.stat().st_ctime_ns != begun  # the clock of files ticks by some milliseconds

    eventually(write_over, "the file's time of change is another one")
    assert file.refresh()
    assert file.policy.dry_run


def test_a_config_map_whose_link_is_swapped_is_noticed(tmp_path: Path) -> None:
    for version, text in (
        ("..1", "version: 1\ndryRun: false"),
        ("..2", "version: 1\ndryRun: true "),
    ):
        (tmp_path / version).mkdir()
        (tmp_path / version / "policy.yaml").write_text(text)
        # The same size and time would not hide it.
        os.utime(tmp_path / version / "policy.yaml", ns=(1, 1))
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "policy.yaml").symlink_to("..data/policy.yaml")
    file = PolicyFile(tmp_path / "policy.yaml")
    (tmp_path / "..tmp").symlink_to("..2")
    (tmp_path / "..tmp").replace(tmp_path / "..data")
    assert file.refresh()
    assert file.policy.dry_run


def test_a_start_without_a_valid_policy_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="can't be read: No such file"):
        PolicyFile(tmp_path / "none")
    (tmp_path / "big").write_bytes(b"#" * ((128 << 10) + 1))
    with pytest.raises(PolicyError, match="larger than 128 KiB"):
        PolicyFile(tmp_path / "big")


# ---- the rate ------------------------------------------------------------------------------


def test_a_burst_is_let_through_and_then_the_rate_holds() -> None:
    bucket = TokenBucket(120.0, 3, 0.0)
    assert [bucket.take(0.0) for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]
    assert bucket.take(0.25) == 0.25
    assert bucket.take(0.5) == 0.0
    assert bucket.take(0.5) == 0.5
    assert [bucket.take(1000.0) for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]


def test_a_rate_that_changes_gives_nothing_away() -> None:
    bucket = TokenBucket(120.0, 3, 0.0)
    for _ in range(3):
        bucket.take(0.0)
    bucket.change(60.0, 3, 0.0)
    assert bucket.take(0.0) == 1.0


@given(st.lists(st.floats(0.0, 5.0), max_size=60))
def test_in_any_minute_no_more_than_burst_and_rate_are_let_through(gaps: list[float]) -> None:
    bucket, now, taken = TokenBucket(60.0, 5, 0.0), 0.0, 0
    for gap in gaps:
        now += gap
        taken += bucket.take(now) == 0.0
    assert taken <= 5 + now + 1e-6
