"""Limits of roles to sites, officers' appointments, replaced keys, last uses."""

from __future__ import annotations

from typing import Final

from alembic import op
from sqlalchemy import Column, ForeignKey, String

revision: Final = "0004"
down_revision: Final = "0003"


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "role_sites",
        Column("principal", String(70), ForeignKey("principals.name"), primary_key=True),
        Column("role", String(20), primary_key=True),
        Column("site", String(70), primary_key=True),
    )
    op.create_table(
        "appointments",
        Column("principal", String(70), ForeignKey("principals.name"), primary_key=True),
        Column("proposed_by", String(70), nullable=False),
        Column("proposed_at", String(30), nullable=False),
        Column("confirmed_by", String(70)),
        Column("confirmed_at", String(30)),
    )
    op.create_table(
        "former_tokens",
        Column("token_sha256", String(64), primary_key=True),
        Column("principal", String(70), ForeignKey("principals.name"), nullable=False),
        Column("replaced_at", String(30), nullable=False),
        Column("works_until", String(30), nullable=False),
    )
    op.create_index("ix_former_tokens_principal", "former_tokens", ["principal"])
    op.create_table(
        "last_uses",
        Column("principal", String(70), ForeignKey("principals.name"), primary_key=True),
        Column("used_at", String(30), nullable=False),
    )


def downgrade() -> None:
    """Drop them. Earlier versions know no limits: whom those held back is revoked, not widened."""
    op.execute(
        "UPDATE principals SET revoked_at = created_at WHERE revoked_at IS NULL AND name IN"
        " (SELECT principal FROM role_sites UNION"
        " SELECT principal FROM appointments WHERE confirmed_at IS NULL)"
    )
    for table in ("last_uses", "former_tokens", "appointments", "role_sites"):
        op.drop_table(table)
