"""Requests of data subjects at several sites, messages to subjects, and the sites' sealing keys."""

from __future__ import annotations

from typing import Final

from alembic import op
from sqlalchemy import BigInteger, Column, ForeignKey, Integer, LargeBinary, String, Text

revision: Final = "0005"
down_revision: Final = "0004"

_POSITION: Final = BigInteger().with_variant(Integer, "sqlite")


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "subject_cases",
        Column("request_id", String(32), primary_key=True),
        Column("right", String(20), nullable=False),
        Column("jurisdiction", String(70), nullable=False),
        Column("stage", String(20), nullable=False),
        Column("identity", String(20), nullable=False),
        Column("filed_by", String(70), nullable=False),
        Column("received_at", String(30), nullable=False),
        Column("filed_at", String(30), nullable=False),
        Column("position", _POSITION, nullable=False, unique=True),
        Column("rules_version", String(10), nullable=False),
        Column("content_hmac", String(64), nullable=False),
        Column("receipt_sha256", String(64), nullable=False, unique=True),
        Column("confirm_by", String(30)),
        Column("confirmed_at", String(30)),
        Column("verified_at", String(30)),
        Column("due_at", String(30), nullable=False),
        Column("extended_at", String(30)),
        Column("finished_at", String(30)),
        Column("ground", String(64), nullable=False),
        Column("notice", Text, nullable=False),
        Column("contact", LargeBinary),
        Column("code_hash", String(64)),
        Column("code_expires_at", String(30)),
        Column("code_tries", Integer, nullable=False),
        Column("codes_sent", Integer, nullable=False),
    )
    op.create_index(
        "subject_cases_by_deadline", "subject_cases", ["finished_at", "due_at", "request_id"]
    )
    op.create_index("subject_cases_by_stage", "subject_cases", ["stage", "due_at", "request_id"])
    op.create_table(
        "subject_case_parts",
        Column("request_id", String(32), ForeignKey("subject_cases.request_id"), primary_key=True),
        Column("site", String(70), ForeignKey("sites.name"), primary_key=True),
        Column("state", String(20), nullable=False),
        Column("outcome", String(20)),
        Column("ground", String(64), nullable=False),
        Column("sealed", LargeBinary),
        Column("sent_at", String(30)),
        Column("taken_at", String(30)),
        Column("answered_at", String(30)),
        Column("reminders", Integer, nullable=False),
        Column("reminded_at", String(30)),
        Column("answer", String(71), ForeignKey("statements.digest")),
        Column("package", LargeBinary),
    )
    op.create_index("subject_case_parts_by_site", "subject_case_parts", ["site", "state"])
    op.create_table(
        "subject_case_mail",
        Column("id", Integer, primary_key=True, autoincrement=True),
        Column("request_id", String(32), ForeignKey("subject_cases.request_id"), nullable=False),
        Column("purpose", String(20), nullable=False),
        Column("written_at", String(30), nullable=False),
        Column("sealed", LargeBinary, nullable=False),
    )
    op.create_index("ix_subject_case_mail_request_id", "subject_case_mail", ["request_id"])
    op.create_table(
        "site_sealing_keys",
        Column("site", String(70), ForeignKey("sites.name"), primary_key=True),
        Column("statement", String(71), ForeignKey("statements.digest"), nullable=False),
    )


def downgrade() -> None:
    """Drop them."""
    for table in ("site_sealing_keys", "subject_case_mail", "subject_case_parts", "subject_cases"):
        op.drop_table(table)
