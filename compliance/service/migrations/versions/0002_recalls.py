"""What becomes of a release after its approval: recalls, and notices to those who hold it."""

from __future__ import annotations

from typing import Final

from alembic import op
from sqlalchemy import BigInteger, Column, ForeignKey, Integer, String, Text

revision: Final = "0002"
down_revision: Final = "0001"

_POSITION: Final = BigInteger().with_variant(Integer, "sqlite")


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "recalls",
        Column("release_id", String(71), ForeignKey("releases.release_id"), primary_key=True),
        Column("reason", Text, nullable=False),
        Column("recalled_by", String(70), nullable=False),
        Column("recalled_at", String(30), nullable=False),
        Column("position", _POSITION, nullable=False, unique=True),
    )
    op.create_table(
        "notices",
        Column("notice_id", String(32), primary_key=True),
        Column("release_id", String(71), ForeignKey("releases.release_id"), nullable=False),
        Column("recipient", String(70), ForeignKey("principals.name"), nullable=False),
        Column("kind", String(40), nullable=False),
        Column("reason", Text, nullable=False),
        Column("issued_at", String(30), nullable=False),
        Column("position", _POSITION, nullable=False, unique=True),
        Column("acknowledged_at", String(30)),
    )
    op.create_index("notices_by_recipient", "notices", ["recipient", "position"])


def downgrade() -> None:
    """Drop them."""
    op.drop_table("notices")
    op.drop_table("recalls")
