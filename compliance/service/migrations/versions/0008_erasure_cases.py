"""Erasures that reach models: plans of erased subjects, cases of releases, follow-ups."""

from __future__ import annotations

from typing import Final

from alembic import op
from sqlalchemy import BigInteger, Column, ForeignKey, Integer, String, Text

revision: Final = "0008"
down_revision: Final = "0007"

_POSITION: Final = BigInteger().with_variant(Integer, "sqlite")
_STATEMENT: Final = "statements.digest"


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "erased_plans",
        Column("erasure", String(71), ForeignKey(_STATEMENT), primary_key=True),
        Column("plan_id", String(71), ForeignKey("plans.plan_id"), primary_key=True),
        Column("site", String(70), nullable=False),
        Column("subject", String(64), nullable=False),
        Column("first_round", Integer, nullable=False),
    )
    op.create_index("erased_plans_by_plan", "erased_plans", ["plan_id"])
    op.create_table(
        "erasure_cases",
        Column("case_id", String(32), primary_key=True),
        Column("release_id", String(71), ForeignKey("releases.release_id"), nullable=False),
        Column("state", String(20), nullable=False),
        Column("opened_at", String(30), nullable=False),
        Column("position", _POSITION, nullable=False, unique=True),
        Column("debt", Text, nullable=False),
        Column("decision", String(71), ForeignKey(_STATEMENT)),
        Column("choice", String(20)),
        Column("retraining_plan", String(71), ForeignKey("plans.plan_id")),
        Column("replaced_by", String(71), ForeignKey("releases.release_id")),
        Column("closed_at", String(30)),
    )
    op.create_index("ix_erasure_cases_state", "erasure_cases", ["state"])
    op.create_index("erasure_cases_by_release", "erasure_cases", ["release_id", "position"])
    op.create_table(
        "case_erasures",
        Column("case_id", String(32), ForeignKey("erasure_cases.case_id"), primary_key=True),
        Column("erasure", String(71), ForeignKey(_STATEMENT), primary_key=True),
    )
    op.create_index("case_erasures_by_erasure", "case_erasures", ["erasure"])
    op.create_table(
        "erasure_follow_ups",
        Column("position", _POSITION, primary_key=True, autoincrement=False),
        Column("statement", String(71), nullable=False),
        Column("erasure", String(71), ForeignKey(_STATEMENT), nullable=False),
    )
    op.create_index("erasure_follow_ups_by_erasure", "erasure_follow_ups", ["erasure", "position"])


def downgrade() -> None:
    """Drop them."""
    for name in ("erasure_follow_ups", "case_erasures", "erasure_cases", "erased_plans"):
        op.drop_table(name)
