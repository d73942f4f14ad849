"""What a run measured of other batch sizes, at the power limit found, and beside which runs."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns; the release before writes rows without them."""
    op.add_column(
        "observations", sa.Column("full_power_epoch_cost_joules", sa.Float(), nullable=True)
    )
    op.add_column(
        "observations",
        sa.Column("sweep", sa.JSON(), server_default=sa.text("'[]'"), nullable=False),
    )
    op.add_column(
        "observations",
        sa.Column("sweep_cost_joules", sa.Float(), server_default="0", nullable=False),
    )
    op.add_column(
        "observations",
        sa.Column("overlapping", sa.Boolean(), server_default=sa.text("false"), nullable=False),
    )
