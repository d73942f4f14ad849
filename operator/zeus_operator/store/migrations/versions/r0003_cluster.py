"""What the operator in a cluster needs: namespaces by uid, requests by token, children, leaders.

The release before runs on this schema.  Its statements that touch what is not merely added:

- `INSERT INTO learned_states ... ON CONFLICT DO NOTHING` names no index, so any unique one
  serves it; its rows are of no known namespace uid ('').  It finds a learned state by namespace
  and name, which is one row for whatever it has written itself.
- `INSERT INTO run_requests ... ON CONFLICT (job_id, kind) WHERE closed_at IS NULL` needs a unique
  index on just that, so `uq_run_requests_open` stays as it is.  A request with a token is closed
  for that index, and for the release before, from the start; `done_at` says when it really was.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns, widen what makes a learned state unique, and make `leadership`."""
    op.add_column(
        "learned_states", sa.Column("namespace_uid", sa.Text(), server_default="", nullable=False)
    )
    # The wider one first, so that no moment is without.
    op.create_unique_constraint(
        op.f("uq_learned_states_namespace_namespace_uid_name"),
        "learned_states",
        ["namespace", "namespace_uid", "name"],
    )
    op.drop_constraint(op.f("uq_learned_states_namespace_name"), "learned_states", type_="unique")
    op.add_column(
        "jobs",
        sa.Column("handled", sa.JSON(), server_default=sa.text("'{}'"), nullable=False),
    )
    op.create_index("ix_jobs_learned_state_id", "jobs", ["learned_state_id"], unique=False)
    op.add_column("run_requests", sa.Column("token", sa.Text(), nullable=True))
    op.add_column("run_requests", sa.Column("done_at", sa.DateTime(timezone=True), nullable=True))
    op.create_check_constraint(
        op.f("ck_run_requests_token_closed"),
        "run_requests",
        "token IS NULL OR closed_at IS NOT NULL",
    )
    op.create_index(
        "uq_run_requests_token",
        "run_requests",
        ["job_id", "token"],
        unique=True,
        postgresql_where=sa.text("token IS NOT NULL"),
    )
    op.create_index("ix_run_requests_job_id", "run_requests", ["job_id"], unique=False)
    op.create_index(
        "ix_recurrences_learned_state_id", "recurrences", ["learned_state_id"], unique=False
    )
    op.add_column("attempts", sa.Column("child_uid", sa.Text(), server_default="", nullable=False))
    op.add_column("executions", sa.Column("reason", sa.Text(), server_default="", nullable=False))
    op.add_column("observations", sa.Column("target", sa.Float(), nullable=True))
    op.add_column("observations", sa.Column("metric_mode", sa.Text(), nullable=True))
    op.add_column("observations", sa.Column("max_epochs", sa.Integer(), nullable=True))
    op.create_table(
        "leadership",
        sa.Column("id", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("holder", sa.Text(), nullable=False),
        sa.Column("acquired_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("id = 1", name=op.f("ck_leadership_one_row")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_leadership")),
    )
