"""The ZeusJob, `zeus.energy/v1alpha1`: the one source of its fields, defaults and bounds.

The manifest loader, the reference page and the CustomResourceDefinition are all
made from these models, so everything that a schema can say is said in a field
(bounds, patterns, descriptions); rules between fields are in `checks`.

There are no floats: a fraction is a quoted decimal, as in every Kubernetes API,
because a float does not survive the way through JSON and back unchanged.
"""

from __future__ import annotations

import enum
from typing import Any, Literal

from pydantic import Field, StrictBool, StrictInt

from zeus_operator.api.base import ApiModel
from zeus_operator.api.fields import (
    DNS_LABEL_PATTERN,
    Annotations,
    BatchSizeValue,
    Choices,
    Decimal,
    Fraction,
    Labels,
)
from zeus_operator.api.learning import Exploration, PolicyName, Retry, Savings
from zeus_runtime.protocol import MetricMode

API_VERSION = "zeus.energy/v1alpha1"
KIND = "ZeusJob"


class ConcurrencyPolicy(enum.StrEnum):
    """What happens to a due recurrence while another still runs."""

    FORBID = "Forbid"
    ALLOW = "Allow"
    REPLACE = "Replace"


class Mode(enum.StrEnum):
    """How far the operator may go."""

    OPTIMIZE = "Optimize"
    OBSERVE = "Observe"
    RECOMMEND = "Recommend"


class Scaling(enum.StrEnum):
    """How the learning rate follows the batch size."""

    NONE = "None"
    SQUARE_ROOT = "SquareRoot"
    LINEAR = "Linear"


class DeletionPolicy(enum.StrEnum):
    """What becomes of what was learned when the ZeusJob is deleted."""

    RETAIN = "Retain"
    DELETE = "Delete"


class ThroughputSweep(enum.StrEnum):
    """Whether a run may measure a few steps at other batch sizes."""

    AUTO = "Auto"
    NEVER = "Never"


NAME_MAX_LENGTH = 40


class ObjectMeta(ApiModel):
    """Name and labels of the ZeusJob."""

    name: str = Field(
        min_length=1,
        max_length=NAME_MAX_LENGTH,
        pattern=DNS_LABEL_PATTERN,
        description=(
            "Name of the job, unique in its namespace: lower-case letters, digits and '-'. "
            "At most 40 characters, so that the names of its runs fit into a label."
        ),
    )
    namespace: str = Field(
        default="default",
        min_length=1,
        max_length=63,
        pattern=DNS_LABEL_PATTERN,
        description="Namespace of the job. What was learned belongs to (namespace, name).",
    )
    labels: Labels = Field(default_factory=dict, description="Labels of the ZeusJob itself.")
    annotations: Annotations = Field(
        default_factory=dict, description="Annotations of the ZeusJob itself."
    )


class Metric(ApiModel):
    """Which value of the validation metric is good enough."""

    target: Decimal = Field(
        description='Value at which the model is good enough, as a quoted decimal: "0.97".'
    )
    mode: MetricMode = Field(
        default=MetricMode.MAX,
        description=(
            "Max: larger is better (accuracy). Min: smaller is better (loss, error rate). In a "
            "cluster it can't be changed: what was learned would mean the opposite."
        ),
    )


class Objective(ApiModel):
    """What a run has to achieve, and what counts as its cost."""

    metric: Metric = Field(description="The validation metric that the script reports.")
    max_epochs: StrictInt = Field(
        ge=1,
        le=100_000,
        description="Most epochs of one attempt; an attempt that needs more has failed.",
    )
    energy_preference: Fraction = Field(
        default="0.5",
        description=(
            'Weight of energy against time, a quoted decimal from "0" (only time counts) to '
            '"1" (only energy counts): cost = preference x joules + (1 - preference) x largest '
            "power x seconds."
        ),
    )


class LearningRate(ApiModel):
    """The learning rate that goes with the default batch size, and how it follows another."""

    default: Decimal = Field(
        description='Learning rate at the default batch size, as a quoted decimal: "0.1".'
    )
    scaling: Scaling = Field(
        default=Scaling.SQUARE_ROOT,
        description=(
            "How the learning rate follows the batch size: SquareRoot and Linear multiply it by "
            "the (square root of the) ratio to the default batch size, None keeps it."
        ),
    )


class BatchSize(ApiModel):
    """The batch sizes that may be tried; global, in samples."""

    default: BatchSizeValue = Field(
        description="The batch size in use today; one of `choices`. Savings are against it."
    )
    choices: Choices = Field(
        description="The batch sizes that may be tried, each once. Kept in ascending order."
    )
    learning_rate: LearningRate | None = Field(
        default=None,
        description="If given, the run finds its learning rate in ZEUS_LEARNING_RATE.",
    )
    throughput_sweep: ThroughputSweep = Field(
        default=ThroughputSweep.AUTO,
        description=(
            "Auto: where a run's second epoch begins, it may train a handful of steps at each of "
            "the other choices, on its own data and at its own learning rate, to learn what an "
            "epoch at them costs; once per GPU model, and only where that takes a small share of "
            "an epoch. Never: every step has the batch size of the run."
        ),
    )


class Power(ApiModel):
    """Bounds of the power limit, in percent of the device's default limit."""

    min_percent: StrictInt = Field(
        default=1,
        ge=1,
        le=100,
        description=(
            "Lowest power limit to try, in percent of the device's default limit. The device's own "
            "bounds hold as well, so the default of 1 means: as low as the device goes."
        ),
    )
    max_percent: StrictInt = Field(
        default=100,
        ge=1,
        le=100,
        description="Highest power limit to try, in percent of the device's default limit.",
    )


class Gpu(ApiModel):
    """Which GPU the runs are expected to get."""

    product: str | None = Field(
        default=None,
        min_length=1,
        max_length=128,
        description=(
            "GPU model that runs are placed on, as the node label `nvidia.com/gpu.product` names "
            "it. On one machine it changes nothing: there, the GPU found is used."
        ),
    )


class TemplateMeta(ApiModel):
    """Labels and annotations of the child workload."""

    labels: Labels = Field(default_factory=dict, description="Labels put on the child.")
    annotations: Annotations = Field(
        default_factory=dict, description="Annotations put on the child."
    )


class WorkloadTemplate(ApiModel):
    """The child workload of a run."""

    metadata: TemplateMeta = Field(
        default_factory=TemplateMeta,
        description="Labels and annotations of the child, for instance Kueue's queue name.",
    )
    spec: dict[str, Any] = Field(
        description=(
            "The child kind's own spec, passed on as it is but for the fields that the operator "
            "owns. `$(ZEUS_BATCH_SIZE)` and the other injected names may stand in command, args "
            "and env."
        ),
        max_length=64,
        json_schema_extra={"x-kubernetes-preserve-unknown-fields": True},
    )


class Workload(ApiModel):
    """What a run executes."""

    api_version: Literal[
        "batch/v1",
        "jobset.x-k8s.io/v1alpha2",
        "kubeflow.org/v1",
        "trainer.kubeflow.org/v1alpha1",
    ] = Field(
        default="batch/v1", description="API version of the child workload: that of its kind."
    )
    kind: Literal["Job", "JobSet", "PyTorchJob", "TrainJob"] = Field(
        default="Job",
        description=(
            "Kind of the child workload. Which kinds are allowed is up to who runs the operator; "
            "Job always is unless they say else. It can't be changed."
        ),
    )
    container: str | None = Field(
        default=None,
        min_length=1,
        max_length=63,
        pattern=DNS_LABEL_PATTERN,
        description=(
            "Name of the container that trains. Needed only where it is not the one container "
            "that asks for GPUs. A TrainJob's is always called node."
        ),
    )
    inject_runtime: StrictBool = Field(
        default=False,
        description=(
            "If true, an init container puts zeus_runtime into the container that trains, so that "
            "its image needs no change. The container must say its `command` then, because a "
            "launcher goes in front of it. On one machine it changes nothing."
        ),
    )
    template: WorkloadTemplate = Field(description="The child workload.")


class ZeusJobSpec(ApiModel):
    """A recurring training job: when, what, which batch sizes, and what is good enough."""

    schedule: str | None = Field(
        default=None,
        min_length=1,
        max_length=128,
        description=(
            "When a recurrence is due: five cron fields, or @hourly, @daily, @weekly, @monthly, "
            "@yearly. Without it the job runs on demand, or `runs` times."
        ),
    )
    time_zone: str | None = Field(
        default=None,
        min_length=1,
        max_length=64,
        description="IANA time zone of the schedule, such as Europe/Berlin. Default: UTC.",
    )
    suspend: StrictBool = Field(
        default=False, description="If true, no new recurrence starts. Running ones go on."
    )
    concurrency_policy: ConcurrencyPolicy = Field(
        default=ConcurrencyPolicy.FORBID,
        description=(
            "What happens to a due recurrence while another still runs. Forbid: it waits, and "
            "when the other has ended, the latest of those that came due meanwhile runs (unless "
            "`startingDeadlineSeconds` has passed). Allow: both run; on one machine, where one "
            "runs at a time, it waits as with Forbid. Replace: the running one is stopped, unless "
            "a person asked for it."
        ),
    )
    starting_deadline_seconds: StrictInt | None = Field(
        default=None,
        ge=0,
        le=31_536_000,
        description=(
            "A recurrence that could not start within this time is skipped. Without it, it waits "
            "as long as it takes; of several that are due only the latest runs."
        ),
    )
    runs: StrictInt | None = Field(
        default=None,
        ge=1,
        le=100_000,
        description="Recurrences to run back to back, one after the other. Not with `schedule`.",
    )
    successful_jobs_history_limit: StrictInt = Field(
        default=3,
        ge=0,
        le=1000,
        description=(
            "Successful children that are kept in the cluster, for their logs. The history of the "
            "job does not depend on it; on one machine nothing is removed."
        ),
    )
    failed_jobs_history_limit: StrictInt = Field(
        default=1,
        ge=0,
        le=1000,
        description=(
            "Failed children that are kept in the cluster, for their logs. The history of the job "
            "does not depend on it; on one machine nothing is removed."
        ),
    )
    deletion_policy: DeletionPolicy = Field(
        default=DeletionPolicy.RETAIN,
        description=(
            "What becomes of what was learned when the ZeusJob is deleted. Retain: it is kept for "
            "the operator's retention time, 30 days by default, so that deleting and applying it "
            "anew under the same name loses nothing. Delete: it is erased as soon as the ZeusJob "
            "is gone. On one machine it changes nothing."
        ),
    )
    objective: Objective = Field(description="What is good enough, and what counts as cost.")
    batch_size: BatchSize = Field(description="The batch sizes that may be tried.")
    mode: Mode = Field(
        default=Mode.OPTIMIZE,
        description=(
            "Optimize: batch size and power limit are chosen. Observe: the default runs and is "
            "measured. Recommend: as Observe, and says what it would choose."
        ),
    )
    power: Power = Field(default_factory=Power, description="Bounds of the power limit.")
    gpu: Gpu = Field(default_factory=Gpu, description="The GPU of the runs.")
    policy: PolicyName = Field(
        default=PolicyName.STRUCTURED,
        description=(
            "Which policy chooses the batch size. structured: learns across neighbouring batch "
            "sizes. zeus: as published at NSDI'23."
        ),
    )
    retry: Retry = Field(default_factory=Retry, description="Attempts of a recurrence.")
    exploration: Exploration = Field(
        default_factory=Exploration, description="What trying other batch sizes may cost."
    )
    savings: Savings = Field(default_factory=Savings, description="How savings are measured.")
    workload: Workload = Field(description="The workload that each run executes.")


class ZeusJob(ApiModel):
    """A recurring training job whose batch size and power limit are learned."""

    api_version: Literal["zeus.energy/v1alpha1"] = Field(description="Always zeus.energy/v1alpha1.")
    kind: Literal["ZeusJob"] = Field(description="Always ZeusJob.")
    metadata: ObjectMeta = Field(description="Name and labels of the job.")
    spec: ZeusJobSpec = Field(description="The job.")

    @property
    def key(self) -> str:
        """Return `namespace/name`."""
        return f"{self.metadata.namespace}/{self.metadata.name}"

    def spec_document(self) -> dict[str, Any]:
        """Return the spec as plain JSON values, defaults filled in, absent fields left out.

        This is what the store keeps as `JobRecord.spec`;
        `ZeusJobSpec.model_validate` reads it back.
        """
        return self.spec.model_dump(mode="json", by_alias=True, exclude_none=True)
