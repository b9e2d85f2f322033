"""Plans that start from another plan's model, and the models that reports name."""

from __future__ import annotations

from typing import Final

from alembic import op
from sqlalchemy import Column, ForeignKey, Integer, String

revision: Final = "0014"
down_revision: Final = "0013"


def upgrade() -> None:
    """Make the tables. No plan of an earlier format starts from another, no report names models."""
    op.create_table(
        "plan_starts",
        Column("plan_id", String(71), ForeignKey("plans.plan_id"), primary_key=True),
        Column("starts_from", String(71), ForeignKey("plans.plan_id"), nullable=False),
        Column("rounds", Integer, nullable=False),
    )
    op.create_index("plan_starts_by_start", "plan_starts", ["starts_from"])
    op.create_table(
        "reported_models",
        Column("plan_id", String(71), ForeignKey("plans.plan_id"), primary_key=True),
        Column("rounds", Integer, primary_key=True, autoincrement=False),
        Column("model", String(71), nullable=False),
    )


def downgrade() -> None:
    """Drop them."""
    op.drop_table("reported_models")
    op.drop_table("plan_starts")
