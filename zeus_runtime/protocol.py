"""The one contract shared by operator, agent and runtime.

Everything that crosses a process boundary is named here: the environment of a
run, the decision it receives, the result it hands back, the outcomes a run can
have, and the bodies of the agent's HTTP API.  This module imports nothing but
the standard library and runs on Python >= 3.9, because it is loaded inside the
user's training container.
"""

from __future__ import annotations

import binascii
import enum
import json
import math
import os
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Dict, List, Mapping, Optional, Tuple, Type, TypeVar

from zeus_runtime.stopping import StopRule

PROTOCOL_VERSION = 1

# --------------------------------------------------------------------------
# Environment of a run.  Batch size, learning rate and ids are plain variables,
# so that `args: ["--batch-size=$(ZEUS_BATCH_SIZE)"]` works in an unmodified
# script; everything else travels in one JSON document, ZEUS_DECISION.
# --------------------------------------------------------------------------

ENV_PREFIX = "ZEUS_"
ENV_JOB = "ZEUS_JOB"  # "<namespace>/<name>"
ENV_RECURRENCE = "ZEUS_RECURRENCE"  # id of the recurrence, unique in the store
ENV_ATTEMPT = "ZEUS_ATTEMPT"  # number of the attempt in its recurrence, from 1
ENV_BATCH_SIZE = "ZEUS_BATCH_SIZE"  # global batch size, samples
ENV_LEARNING_RATE = "ZEUS_LEARNING_RATE"  # present if the ZeusJob gives one
ENV_DECISION = "ZEUS_DECISION"  # JSON of `Decision`, at most 32 KiB
ENV_RESULT_PATH = "ZEUS_RESULT_PATH"  # file that takes the result
ENV_RESULT_BYTES = "ZEUS_RESULT_BYTES"  # its constant length, bytes
ENV_AGENT = "ZEUS_AGENT"  # address of the agent: unix:///path/to/socket or https://host:port
ENV_AGENT_CA = "ZEUS_AGENT_CA"  # certificates (PEM text, or the path of a file) that sign https
ENV_AGENT_TOKEN_FILE = "ZEUS_AGENT_TOKEN_FILE"  # noqa: S105 -- a name; the pod's token for it

INJECTED_ENVIRONMENT = (
    ENV_JOB,
    ENV_RECURRENCE,
    ENV_ATTEMPT,
    ENV_BATCH_SIZE,
    ENV_LEARNING_RATE,
    ENV_DECISION,
    ENV_RESULT_PATH,
    ENV_RESULT_BYTES,
    ENV_AGENT,
    ENV_AGENT_CA,
    ENV_AGENT_TOKEN_FILE,
)

DECISION_MAX_BYTES = 32 * 1024
RESULT_DEFAULT_BYTES = 4096  # what the kubelet keeps of a termination message
RESULT_MIN_BYTES = 1024
RESULT_CORE_MAX_BYTES = 900
DEFAULT_RESULT_PATH = "/dev/termination-log"

STOP_EXIT_CODE = 86
"""Exit code of a script that was stopped before its target (`StopTraining`)."""


class Outcome(str, enum.Enum):
    """How one attempt ended.  The comment says what the optimizer learns from it."""

    REACHED = "reached"  # the metric reached its target: epochs and cost
    COST_EXCEEDED = "cost_exceeded"  # stopped by the threshold: a censored number of epochs
    MAX_EPOCHS = "max_epochs"  # not reached in max_epochs, or given up: this batch size fails
    DIVERGED = "diverged"  # metric or loss is not finite: this batch size fails
    OUT_OF_MEMORY = "out_of_memory"  # infeasible on this GPU model, and so is every larger one
    CRASHED = "crashed"  # the script failed by itself: nothing
    PREEMPTED = "preempted"  # ended from outside: censored; the same decision goes on
    NO_TELEMETRY = "no_telemetry"  # no (believable) metric or measurement: nothing
    DECISION_NOT_APPLIED = "decision_not_applied"  # trained with another batch size: nothing
    LOST = "lost"  # the run ended and no result was found: nothing
    CANCELLED = "cancelled"  # the job was deleted or replaced: nothing


FINAL_BY_RUNTIME = frozenset(
    {
        Outcome.REACHED,
        Outcome.COST_EXCEEDED,
        Outcome.MAX_EPOCHS,
        Outcome.DIVERGED,
        Outcome.OUT_OF_MEMORY,
        Outcome.DECISION_NOT_APPLIED,
        Outcome.NO_TELEMETRY,
    }
)
"""Outcomes the runtime itself may claim; the executor judges the others."""

LEARNED_FROM = frozenset(
    {
        Outcome.REACHED,
        Outcome.COST_EXCEEDED,
        Outcome.MAX_EPOCHS,
        Outcome.DIVERGED,
        Outcome.OUT_OF_MEMORY,
    }
)
"""Outcomes that become an observation of the optimizer."""

NEXT_ATTEMPT = frozenset(
    {
        Outcome.COST_EXCEEDED,
        Outcome.MAX_EPOCHS,
        Outcome.DIVERGED,
        Outcome.OUT_OF_MEMORY,
        Outcome.CRASHED,
        Outcome.NO_TELEMETRY,
        Outcome.DECISION_NOT_APPLIED,
        Outcome.LOST,
    }
)
"""Outcomes after which the recurrence still needs a model: another attempt follows."""


class MetricMode(str, enum.Enum):
    """Whether a larger or a smaller validation metric is better."""

    MAX = "Max"
    MIN = "Min"

    def is_reached(self, value: float, target: float) -> bool:
        """Whether `value` is at least as good as `target`."""
        return value >= target if self is MetricMode.MAX else value <= target

    def is_better(self, value: float, than: float) -> bool:
        """Whether `value` is strictly better than `than`."""
        return value > than if self is MetricMode.MAX else value < than


class ProtocolError(ValueError):
    """A message of the contract is malformed; the text says which field and why."""


class StopRuleError(ProtocolError):
    """Only the stop rule of a decision is not understood.

    Attributes:
        decision: the decision without it, by which a run may train.
    """

    def __init__(self, message: str, decision: Decision) -> None:
        super().__init__(message)
        self.decision = decision


T = TypeVar("T")


def _from_mapping(kind: Type[T], raw: Mapping[str, Any], where: str) -> T:
    """Build dataclass `kind` from `raw`; unknown keys are ignored (a newer peer may send them)."""
    if not isinstance(raw, Mapping):
        raise ProtocolError(f"{where}: expected an object, got {type(raw).__name__}")
    known = {f.name for f in fields(kind)}  # type: ignore[arg-type]
    try:
        return kind(**{key: value for key, value in raw.items() if key in known})
    except TypeError as error:
        raise ProtocolError(f"{where}: {error}") from None


# --------------------------------------------------------------------------
# The decision: what a run is told.
# --------------------------------------------------------------------------


@dataclass(frozen=True)
class PowerProfilePoint:
    """What one power limit costs and gives, measured while training.

    Args:
        certainty: share of what is enough to tell close limits apart; from 1 on it
            is not measured again.  Summed over the runs that measured it.
        whole_cycles: what follows an epoch (evaluation) is in the means.
    """

    power_limit_watts: float
    average_power_watts: float
    seconds_per_step: float
    certainty: float = 1.0
    whole_cycles: bool = False

    def to_body(self) -> Dict[str, Any]:
        """Return the fields by name, without those that say nothing new: messages are small."""
        return {
            f.name: getattr(self, f.name)
            for f in fields(self)
            if getattr(self, f.name) != f.default
        }


@dataclass(frozen=True)
class Decision:
    """What the operator decided for one attempt; JSON in `ZEUS_DECISION`.

    Args:
        batch_size: global batch size, samples.
        target: the metric's target value.
        metric_mode: `MetricMode` value.
        max_epochs: most epochs this attempt may do.
        eta: energy preference; 1 counts only energy, 0 only time.
        cost_threshold_joules: the attempt stops before the epoch that would
            push its cost over this; None: no threshold.
        seed: seed that the script may use (`zeus_runtime.seed`).
        power_min_percent, power_max_percent: bounds of the power limit in
            percent of the device's default limit.
        power_profile: a profile measured by an earlier run of the same batch
            size, GPU model, driver and world size; empty: profile in this run.
        optimize_power: False keeps the limit found (control runs, Observe).
        profile_gpu_model, profile_driver, profile_gpu_count: what `power_profile` was measured
            on.  The runtime profiles anew where they differ from what it finds.
        stop_rule: asked after each epoch, besides the threshold; None: nothing else ends it.
        sweep_batch_sizes: global batch sizes of which a few steps are measured in this run,
            where that pays and fits into memory.
    """

    batch_size: int
    target: float
    metric_mode: str
    max_epochs: int
    eta: float = 0.5
    cost_threshold_joules: Optional[float] = None
    learning_rate: Optional[float] = None
    seed: int = 0
    power_min_percent: float = 0.0
    power_max_percent: float = 100.0
    optimize_power: bool = True
    power_profile: Tuple[PowerProfilePoint, ...] = ()
    profile_gpu_model: str = ""
    profile_driver: str = ""
    profile_gpu_count: int = 1
    stop_rule: Optional[StopRule] = None
    sweep_batch_sizes: Tuple[int, ...] = ()
    version: int = PROTOCOL_VERSION

    def to_json(self) -> str:
        """Return the JSON text, checked against `DECISION_MAX_BYTES`."""
        rule = None if self.stop_rule is None else self.stop_rule.to_body()
        body = {**asdict(replace(self, stop_rule=None)), "stop_rule": rule}
        text = json.dumps(body, separators=(",", ":"), allow_nan=False)
        if len(text.encode()) > DECISION_MAX_BYTES:
            raise ProtocolError(f"{ENV_DECISION} would be longer than {DECISION_MAX_BYTES} bytes")
        return text

    @classmethod
    def from_json(cls, text: str) -> Decision:
        """Parse `text`.

        Raises:
            StopRuleError: all but the stop rule is understood.
            ProtocolError: the text is not a decision this version understands.
        """
        try:
            raw = json.loads(text)
        except ValueError as error:
            raise ProtocolError(f"{ENV_DECISION} is not JSON: {error}") from None
        if not isinstance(raw, dict):
            raise ProtocolError(f"{ENV_DECISION}: expected an object")
        if raw.get("version", PROTOCOL_VERSION) != PROTOCOL_VERSION:
            raise ProtocolError(
                f"{ENV_DECISION} has version {raw.get('version')}, this runtime speaks "
                f"{PROTOCOL_VERSION}: install the zeus-operator release of the operator"
            )
        raw["power_profile"] = tuple(
            _from_mapping(PowerProfilePoint, point, f"{ENV_DECISION}.power_profile")
            for point in raw.get("power_profile", ())
        )
        raw["sweep_batch_sizes"] = tuple(raw.get("sweep_batch_sizes", ()))
        rule = raw.pop("stop_rule", None)
        decision = _from_mapping(cls, raw, ENV_DECISION)
        MetricMode(decision.metric_mode)  # a wrong mode must fail here, not at the first report
        if rule is None:
            return decision
        try:
            return replace(decision, stop_rule=StopRule.from_body(rule))
        except (TypeError, ValueError, AttributeError) as error:
            raise StopRuleError(f"{ENV_DECISION}.stop_rule: {error}", decision) from None

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> Optional[Decision]:
        """Return the decision of this process, or None outside a ZeusJob."""
        text = environ.get(ENV_DECISION)
        return cls.from_json(text) if text else None


# --------------------------------------------------------------------------
# The result: what a run hands back.
# --------------------------------------------------------------------------

_MAGIC = "zeus-result/1"


@dataclass(frozen=True)
class SweepMeasurement:
    """What a few steps at another batch size say of a whole epoch at it.

    At the power limit found, before any was set.  What follows an epoch (evaluation), and
    whatever else a whole epoch of this run took more than its steps do, is in the figures.

    Args:
        epoch_joules: None: not known.
    """

    batch_size: int
    epoch_seconds: float
    epoch_joules: Optional[float] = None


@dataclass(frozen=True)
class Result:
    """What one execution of an attempt has measured so far.

    Rewritten after every epoch, so that it survives SIGKILL; `outcome` is None
    until the runtime knows it.  Energies are joules summed over the GPUs of the
    run, times are seconds of a monotonic clock.

    Args:
        sequence: grows with each write of this execution.
        epochs: training epochs that are over; the last may have ended in its middle, where the
            target was reached or the script ended its training.
        energy_joules: energy of the whole run so far; None: not measurable here.
        time_seconds: seconds of the whole run so far (training and evaluation).
        epoch_energy_joules, epoch_time_seconds: of one whole epoch at the power limit
            that the run held (segments at another limit are left out); None
            until such a segment was measured.
        power_limit_watts: the limit held, per GPU; None: not set by us.
        max_power_watts: largest settable limit summed over the GPUs, for the cost.
        milestones: (epoch, metric) each time the best metric improved.
        power_profile: the points measured or used.
        full_power_epoch_joules, full_power_epoch_seconds: of one epoch at the power limit
            that was found, before any was set; None: not measured.
        sweep: other batch sizes of which a few steps were measured.
        sweep_joules, sweep_seconds: the part of the totals that these steps took; None:
            there was none.
        sweeping: the batch size that a sweep serves right now; None: none is going on.
        carried_epochs, carried_energy_joules, carried_time_seconds: the part of the totals that
            earlier executions of the same attempt did, up to the checkpoint with which this one
            went on; None: it began with an untrained model (or, of the energy, not known).
        carried_elsewhere: that part ran on other GPUs; None: it did not.
        note: one sentence for people, e.g. why energy is unknown.
    """

    job: str = ""
    recurrence: str = ""
    attempt: int = 0
    sequence: int = 0
    outcome: Optional[str] = None
    batch_size: int = 0
    epochs: int = 0
    time_seconds: float = 0.0
    energy_joules: Optional[float] = None
    epoch_energy_joules: Optional[float] = None
    epoch_time_seconds: Optional[float] = None
    gpu_model: str = ""
    gpu_count: int = 0
    gpu_driver: str = ""
    power_limit_watts: Optional[float] = None
    max_power_watts: float = 0.0
    best_metric: Optional[float] = None
    last_metric: Optional[float] = None
    milestones: Tuple[Tuple[int, float], ...] = ()
    power_profile: Tuple[PowerProfilePoint, ...] = ()
    full_power_epoch_joules: Optional[float] = None
    full_power_epoch_seconds: Optional[float] = None
    sweep: Tuple[SweepMeasurement, ...] = ()
    sweep_joules: Optional[float] = None
    sweep_seconds: Optional[float] = None
    sweeping: Optional[int] = None
    carried_epochs: Optional[int] = None
    carried_energy_joules: Optional[float] = None
    carried_time_seconds: Optional[float] = None
    carried_elsewhere: Optional[bool] = None
    note: str = ""
    version: int = PROTOCOL_VERSION

    @classmethod
    def from_body(cls, raw: Mapping[str, Any]) -> Result:
        """Parse the JSON object of a result.

        Raises:
            ProtocolError: a field is missing or malformed, or the version is another.
        """
        if raw.get("version") != PROTOCOL_VERSION:
            raise ProtocolError(f"result: version {raw.get('version')!r} is not understood")
        try:
            milestones = tuple((int(e), float(m)) for e, m in raw.get("milestones", ()))
            points = tuple(
                _from_mapping(PowerProfilePoint, point, "result.power_profile")
                for point in raw.get("power_profile", ())
            )
        except (TypeError, ValueError, OverflowError) as error:
            raise ProtocolError(f"result: {error}") from None
        values = {**raw, "milestones": milestones, "power_profile": points}
        return _from_mapping(cls, {**values, "sweep": _measurements(raw.get("sweep"))}, "result")


def _measurements(raw: Any) -> Tuple[SweepMeasurement, ...]:
    """Parse a sweep; a malformed one is none, since the run that it was part of still counts."""
    try:
        return tuple(
            _from_mapping(SweepMeasurement, each, "result.sweep")
            if isinstance(each, Mapping)
            else SweepMeasurement(*each)  # as `encode_result` shortens it
            for each in raw or ()
        )
    except (TypeError, ProtocolError):
        return ()


def _rounded(value: Any) -> Any:
    """Shorten floats to 7 significant digits; a termination message is small."""
    if isinstance(value, float):
        return float(f"{value:.7g}") if math.isfinite(value) else None
    if isinstance(value, (list, tuple)):
        return [_rounded(item) for item in value]
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return value


def encode_result(result: Result, size_bytes: int = RESULT_DEFAULT_BYTES) -> bytes:
    """Return `result` as exactly `size_bytes` bytes: magic, CRC-32, JSON, padding.

    The core is always kept; detail goes first the note, then the power profile, then the
    sweep, then the older milestones.

    Raises:
        ProtocolError: the core itself does not fit.
    """
    points = [point.to_body() for point in result.power_profile]
    sweep = [(each.batch_size, each.epoch_seconds, each.epoch_joules) for each in result.sweep]
    # Not `asdict`, which copies each value of what is replaced here: twice an epoch that was most
    # of what a run adds to training.
    body: Dict[str, Any] = _rounded({**vars(result), "power_profile": points, "sweep": sweep})
    milestones: List[Any] = body["milestones"]
    while True:
        text = json.dumps(
            {key: value for key, value in body.items() if value not in (None, "", [], ())},
            separators=(",", ":"),
            allow_nan=False,
        )
        payload = text.encode("utf-8")
        line = f"{_MAGIC} {binascii.crc32(payload):08x} ".encode() + payload
        if len(line) + 1 <= size_bytes:
            return line.ljust(size_bytes - 1, b" ") + b"\n"
        if body["note"]:
            body["note"] = ""
        elif body["power_profile"]:
            body["power_profile"] = []
        elif body["sweep"]:
            body["sweep"] = []
        elif milestones:
            # Every second one goes; the last (the best metric) always stays.
            kept = milestones[::-2][::-1] if len(milestones) > 1 else []
            milestones = body["milestones"] = kept
        else:
            raise ProtocolError(f"a result needs more than the {size_bytes} bytes there are")


def decode_result(data: bytes) -> Optional[Result]:
    """Return the result in `data`, or None if it holds none of ours.

    A kubelet hands over whatever the container wrote; without our magic and a
    matching CRC it is only diagnostic text.
    """
    start = data.rfind(_MAGIC.encode() + b" ")
    if start < 0:
        return None
    parts = data[start:].split(b" ", 2)
    if len(parts) != 3:
        return None
    payload = parts[2].rstrip()
    try:
        if int(parts[1], 16) != binascii.crc32(payload):
            return None
        raw = json.loads(payload)
    except (ValueError, RecursionError):  # brackets nested thousands deep
        return None
    try:
        return Result.from_body(raw) if isinstance(raw, dict) else None
    except ProtocolError:
        return None


# --------------------------------------------------------------------------
# The agent's HTTP API, version 1.  JSON bodies; limits in watts.
#
#   GET    /v1/node                                  NodeInfo
#   PUT    /v1/sessions/{session}                    SessionRequest -> SessionInfo   (idempotent)
#   GET    /v1/sessions/{session}                    SessionInfo
#   POST   /v1/sessions/{session}/renew              -> SessionInfo
#   PUT    /v1/sessions/{session}/gpus/{uuid}/power-limit     PowerLimitRequest -> Lease
#   DELETE /v1/sessions/{session}/gpus/{uuid}/power-limit     restore and release
#   PUT    /v1/sessions/{session}/report             the Result so far, as JSON
#   DELETE /v1/sessions/{session}                    restore and release all, end the session
#   GET    /v1/leases                                [Lease], the caller's own if it is a pod
#   GET    /v1/reports                               [PodReport], the newest first
#   GET    /v1/reports/{pod uid}                     PodReport
#   GET    /v1/openapi.json                          this, for programs
#   GET    /healthz   /readyz   /metrics
#
# An error is a status of 4xx or 5xx with the body `ApiError`.
# --------------------------------------------------------------------------

API_PREFIX = "/v1"
AGENT_UNIX_SCHEME = "unix://"
AGENT_HTTPS_SCHEME = "https://"
AGENT_AUDIENCE = "zeus-agent"  # of the ServiceAccount tokens that an agent takes
SESSION_TTL_SECONDS = 30.0


@dataclass(frozen=True)
class GpuInfo:
    """One GPU as the agent sees it.  Limits in watts."""

    uuid: str
    model: str
    index: int
    power_limit_watts: Optional[float] = None
    min_limit_watts: Optional[float] = None
    max_limit_watts: Optional[float] = None
    default_limit_watts: Optional[float] = None
    can_set_power_limit: bool = False
    healthy: bool = True
    reason: str = ""  # why it is not healthy or its limit can't be set


@dataclass(frozen=True)
class NodeInfo:
    """`GET /v1/node`."""

    node: str
    agent_version: str
    driver: str = ""
    simulated: bool = False
    gpus: Tuple[GpuInfo, ...] = ()
    note: str = ""  # why there are no GPUs, in one sentence

    @classmethod
    def from_body(cls, raw: Mapping[str, Any]) -> NodeInfo:
        """Parse a response body."""
        gpus = tuple(_from_mapping(GpuInfo, gpu, "node.gpus") for gpu in raw.get("gpus", ()))
        return _from_mapping(cls, {**raw, "gpus": gpus}, "node")


@dataclass(frozen=True)
class SessionRequest:
    """Body of `PUT /v1/sessions/{session}`: who trains what, for logs and metrics only.

    Args:
        ends_with_connection: the session ends soon after the connection that used it last has
            closed.  The agent sees processes on its own machine; of one in a pod it sees only
            this.
    """

    job: str = ""
    recurrence: str = ""
    attempt: int = 0
    ttl_seconds: float = SESSION_TTL_SECONDS
    ends_with_connection: bool = False


@dataclass(frozen=True)
class PowerLimitRequest:
    """Body of `PUT .../power-limit`.  A `sequence` lower than one already seen is refused (409)."""

    power_limit_watts: float
    sequence: int = 0


@dataclass(frozen=True)
class Lease:
    """A power limit held for a session.

    Args:
        fence: grows with every new lease of the GPU; a former holder is told apart by it.
        requested_watts: what the session asked for.
        applied_watts: what NVML read back after it was set.
        previous_watts: what the agent found before, and puts back.
        clamped: the request was outside the bounds and was moved to the nearest one.
        foreign_change: someone else changed the limit; the agent yields and no longer sets it.
        dry_run: the policy on the node only tries itself out: nothing was set.
    """

    session: str
    gpu_uuid: str
    fence: int
    requested_watts: float
    applied_watts: float
    previous_watts: float
    clamped: bool = False
    foreign_change: bool = False
    expires_in_seconds: float = SESSION_TTL_SECONDS
    dry_run: bool = False

    @classmethod
    def from_body(cls, raw: Mapping[str, Any]) -> Lease:
        """Parse a response body."""
        return _from_mapping(cls, raw, "lease")


@dataclass(frozen=True)
class SessionInfo:
    """A session and the leases it holds."""

    session: str
    ttl_seconds: float
    leases: Tuple[Lease, ...] = ()

    @classmethod
    def from_body(cls, raw: Mapping[str, Any]) -> SessionInfo:
        """Parse a response body."""
        leases = tuple(Lease.from_body(lease) for lease in raw.get("leases", ()))
        return _from_mapping(cls, {**raw, "leases": leases}, "session")


@dataclass(frozen=True)
class PodReport:
    """The newest report of a pod, kept after its session has ended.

    For the operator's ServiceAccount alone: what a pod says of itself is for nobody else.

    Args:
        received_at: when it came, seconds since 1970 by the node's clock.
        result: as the pod sent it; not checked against anything but its shape.
    """

    pod_uid: str
    namespace: str
    pod: str
    received_at: float
    result: Result

    @classmethod
    def from_body(cls, raw: Mapping[str, Any]) -> PodReport:
        """Parse a response body.

        Raises:
            ProtocolError: it is malformed.
        """
        if not isinstance(raw.get("result"), Mapping):
            raise ProtocolError("report.result: expected an object")
        return _from_mapping(cls, {**raw, "result": Result.from_body(raw["result"])}, "report")


@dataclass(frozen=True)
class ApiError:
    """Body of every response of 4xx and 5xx.

    `code` is stable and meant for programs; `message` says what, where and what to do.
    """

    code: str
    message: str
    details: Dict[str, Any] = field(default_factory=dict)


class ErrorCode(str, enum.Enum):
    """Values of `ApiError.code`."""

    BAD_REQUEST = "bad_request"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not_found"
    GPU_LEASED = "gpu_leased"  # another session holds the lease
    STALE_SEQUENCE = "stale_sequence"
    GPU_LOST = "gpu_lost"
    NO_PERMISSION = "no_permission"  # the agent itself may not set limits
    NOT_SUPPORTED = "not_supported"
    NVML_TIMEOUT = "nvml_timeout"
    NVML_ERROR = "nvml_error"
    STATE_NOT_SAVED = "state_not_saved"  # the limit found could not be stored: nothing was set
    FOREIGN_CHANGE = "foreign_change"
    TOO_MANY_SESSIONS = "too_many_sessions"
    UNAUTHENTICATED = "unauthenticated"  # no token, or one that proves nothing here
    IDENTITY_UNAVAILABLE = "identity_unavailable"  # nobody can check the token now; try again
    NOT_OWNER = "not_owner"  # the GPU is not the caller's
    GPU_SHARED = "gpu_shared"  # others use the board too, and the policy leaves those alone
    POLICY_DENIED = "policy_denied"  # the node's administrator does not allow it
    RATE_LIMITED = "rate_limited"  # changes come faster than the policy allows
    NOT_READY = "not_ready"  # of `GET /readyz` alone: the message says what is missing
    INTERNAL = "internal"  # a fault of the agent; its log says more
