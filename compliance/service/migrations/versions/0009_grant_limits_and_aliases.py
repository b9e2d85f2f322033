"""How often a grant may be used, and the moves of aliases."""

from __future__ import annotations

from typing import Final

from alembic import op
from sqlalchemy import (
    BigInteger,
    Column,
    ForeignKey,
    ForeignKeyConstraint,
    Integer,
    String,
    Text,
)

revision: Final = "0009"
down_revision: Final = "0008"

_POSITION: Final = BigInteger().with_variant(Integer, "sqlite")


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "grant_limits",
        Column("release_id", String(71), primary_key=True),
        Column("principal", String(70), primary_key=True),
        Column("max_downloads", Integer, nullable=False),
        Column("counted_from", Integer, nullable=False),
        ForeignKeyConstraint(
            ["release_id", "principal"], ["grants.release_id", "grants.principal"]
        ),
    )
    op.create_table(
        "alias_moves",
        Column("position", _POSITION, primary_key=True, autoincrement=False),
        Column("alias", String(70), nullable=False),
        Column("release_id", String(71), ForeignKey("releases.release_id"), nullable=False),
        Column("previous", String(71), ForeignKey("releases.release_id")),
        Column("kind", String(20), nullable=False),
        Column("reason", Text, nullable=False),
        Column("moved_by", String(70), nullable=False),
        Column("moved_at", String(30), nullable=False),
    )
    op.create_index("ix_alias_moves_alias", "alias_moves", ["alias"])


def downgrade() -> None:
    """Drop them."""
    op.drop_table("alias_moves")
    op.drop_table("grant_limits")
