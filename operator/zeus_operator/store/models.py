"""The tables.  `migrations/` makes them; a test holds the two together.

History is append-only but for the state of what is open.  What makes a crash
harmless is in the constraints: each thing that may happen once is UNIQUE.
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Float,
    ForeignKey,
    Identity,
    Index,
    Integer,
    MetaData,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    case,
    text,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _id() -> Column[int]:
    return Column("id", BigInteger, Identity(always=True), primary_key=True)


def _reference(name: str, target: str, *, nullable: bool = False) -> Column[int]:
    return Column(
        name, BigInteger, ForeignKey(f"{target}.id", ondelete="CASCADE"), nullable=nullable
    )


# What a job of this name has learned.  It outlives the job, so that deleting
# and applying a manifest (GitOps) does not lose it.
learned_states = Table(
    "learned_states",
    metadata,
    _id(),
    Column("namespace", Text, nullable=False),
    # A namespace that was deleted and made again is another one; '': on one machine.
    Column("namespace_uid", Text, nullable=False, server_default=""),
    Column("name", Text, nullable=False),
    # The latest tick of the schedule that was dealt with: a new incarnation does not repeat it.
    Column("last_tick", DateTime(timezone=True)),
    Column("created_at", DateTime(timezone=True), nullable=False),
    UniqueConstraint("namespace", "namespace_uid", "name"),
)

# One row per incarnation (uid); at most one of a name is alive.
jobs = Table(
    "jobs",
    metadata,
    _id(),
    _reference("learned_state_id", "learned_states"),
    Column("uid", Text, nullable=False, unique=True),
    Column("generation", Integer, nullable=False),
    Column("spec", JSON, nullable=False),
    Column("policy", Text, nullable=False),
    Column("seed", BigInteger, nullable=False),
    Column("manifest_path", Text, nullable=False),
    Column("suspended", Boolean, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False),
    # Failures before this do not count towards the pause.
    Column("resumed_at", DateTime(timezone=True), nullable=False),
    Column("deleted_at", DateTime(timezone=True)),
    # What a person asked for by an annotation, and the last value of it that was done.
    Column("handled", JSON, nullable=False, server_default=text("'{}'")),
    Index("ix_jobs_learned_state_id", "learned_state_id"),
    Index(
        "uq_jobs_alive",
        "learned_state_id",
        unique=True,
        postgresql_where=text("deleted_at IS NULL"),
    ),
)

run_requests = Table(
    "run_requests",
    metadata,
    _id(),
    _reference("job_id", "jobs"),
    Column("kind", Text, nullable=False),
    Column("recurrences", Integer, nullable=False),
    Column("requested_at", DateTime(timezone=True), nullable=False),
    Column("closed_at", DateTime(timezone=True)),  # complete or cancelled
    # A request with a token is made once for ever, and several of a job queue up.  Its
    # `closed_at` is set from the start, because the release before names the index on open
    # requests in its ON CONFLICT; `done_at` is when it was complete or cancelled.
    Column("token", Text),
    Column("done_at", DateTime(timezone=True)),
    CheckConstraint("recurrences > 0", name="recurrences_positive"),
    CheckConstraint("token IS NULL OR closed_at IS NOT NULL", name="token_closed"),
    Index(
        "uq_run_requests_token",
        "job_id",
        "token",
        unique=True,
        postgresql_where=text("token IS NOT NULL"),
    ),
    Index("ix_run_requests_job_id", "job_id"),
    Index(
        "uq_run_requests_open",
        "job_id",
        "kind",
        unique=True,
        postgresql_where=text("closed_at IS NULL"),
    ),
)

request_is_open = case(
    (run_requests.c.token.is_(None), run_requests.c.closed_at), else_=run_requests.c.done_at
).is_(None)
"""Whether a request of either kind may still make recurrences."""

recurrences = Table(
    "recurrences",
    metadata,
    _id(),
    _reference("learned_state_id", "learned_states"),
    _reference("job_id", "jobs"),
    _reference("request_id", "run_requests", nullable=True),
    Column("kind", Text, nullable=False),
    # From 1 over all incarnations, so that observations can be grouped; 0: a skipped tick.
    Column("ordinal", Integer, nullable=False),
    Column("scheduled_time", DateTime(timezone=True), nullable=False),
    Column("state", Text, nullable=False),
    Column("reason", Text, nullable=False, server_default=""),
    Column("created_at", DateTime(timezone=True), nullable=False),
    Column("ended_at", DateTime(timezone=True)),
    UniqueConstraint("job_id", "scheduled_time", "kind"),
    Index(
        "uq_recurrences_ordinal",
        "learned_state_id",
        "kind",
        "ordinal",
        unique=True,
        postgresql_where=text("ordinal > 0"),
    ),
    Index("ix_recurrences_request_id", "request_id"),
    Index("ix_recurrences_learned_state_id", "learned_state_id"),
    Index("ix_recurrences_open", "job_id", postgresql_where=text("state = 'open'")),
)

attempts = Table(
    "attempts",
    metadata,
    _id(),
    _reference("recurrence_id", "recurrences"),
    Column("number", Integer, nullable=False),
    Column("state", Text, nullable=False),
    Column("child_name", Text, nullable=False, unique=True),
    Column("decision", JSON, nullable=False),
    Column("decided_at", DateTime(timezone=True), nullable=False),
    Column("outcome", Text),
    Column("detail", Text, nullable=False, server_default=""),
    Column("epochs", Integer, nullable=False, server_default="0"),
    Column("energy_joules", Float),
    Column("time_seconds", Float),
    Column("cost_joules", Float),
    Column("epoch_cost_joules", Float),
    Column("power_limit_watts", Float),
    Column("best_metric", Float),
    Column("gpu_model", Text, nullable=False, server_default=""),
    Column("ended_at", DateTime(timezone=True)),
    Column("child_uid", Text, nullable=False, server_default=""),  # while the child lives
    UniqueConstraint("recurrence_id", "number"),
)

executions = Table(
    "executions",
    metadata,
    _id(),
    _reference("attempt_id", "attempts"),
    Column("uid", Text, nullable=False),
    Column("started_at", DateTime(timezone=True), nullable=False),
    Column("ended_at", DateTime(timezone=True)),
    Column("exit_code", Integer),
    Column("outcome", Text),
    Column("result", JSON(none_as_null=True)),
    Column("sequence", BigInteger),  # of `result`; an older one never replaces a newer one
    Column("output_path", Text, nullable=False, server_default=""),
    Column("output_tail", Text, nullable=False, server_default=""),
    Column("reason", Text, nullable=False, server_default=""),
    UniqueConstraint("attempt_id", "uid"),
)

observations = Table(
    "observations",
    metadata,
    _id(),
    _reference("learned_state_id", "learned_states"),
    Column(
        "attempt_id",
        BigInteger,
        ForeignKey("attempts.id", ondelete="CASCADE"),
        nullable=False,
        unique=True,
    ),
    Column("recurrence", Integer, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("batch_size", Integer, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("epochs", Integer, nullable=False),
    Column("cost_joules", Float, nullable=False),
    Column("epoch_cost_joules", Float),
    # What the costs were made of, so that they can be computed anew for another preference.
    Column("energy_joules", Float),
    Column("time_seconds", Float, nullable=False),
    Column("max_power_watts", Float, nullable=False),
    Column("eta", Float, nullable=False),
    Column("generation", Integer, nullable=False),
    Column("gpu_model", Text, nullable=False),
    Column("gpu_count", Integer, nullable=False),
    Column("milestones", JSON, nullable=False),
    Column("full_power_epoch_cost_joules", Float),
    # Defaults, because the release before this one still writes rows without them.
    Column("sweep", JSON, nullable=False, server_default=text("'[]'")),
    Column("sweep_cost_joules", Float, nullable=False, server_default="0"),
    Column("overlapping", Boolean, nullable=False, server_default=text("false")),
    Column("observed_at", DateTime(timezone=True), nullable=False),
    # The terms that it was observed under; None: of a release that did not keep them.
    Column("target", Float),
    Column("metric_mode", Text),
    Column("max_epochs", Integer),
    Index("ix_observations_learned_state_id", "learned_state_id"),
)

power_profiles = Table(
    "power_profiles",
    metadata,
    _id(),
    _reference("learned_state_id", "learned_states"),
    Column("batch_size", Integer, nullable=False),
    Column("gpu_model", Text, nullable=False),
    Column("gpu_driver", Text, nullable=False),
    Column("gpu_count", Integer, nullable=False),
    Column("points", JSON, nullable=False),
    Column("measured_at", DateTime(timezone=True), nullable=False),
    UniqueConstraint("learned_state_id", "batch_size", "gpu_model", "gpu_driver", "gpu_count"),
)

# Who may write: the one row's epoch is checked in each write transaction of a leader.
leadership = Table(
    "leadership",
    metadata,
    Column("id", SmallInteger, primary_key=True, autoincrement=False),
    Column("epoch", BigInteger, nullable=False),
    Column("holder", Text, nullable=False),
    Column("acquired_at", DateTime(timezone=True), nullable=False),
    CheckConstraint("id = 1", name="one_row"),
)
