"""Reasons of recalls and notices, addresses of subjects and messages to them, in sealed columns."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any, Final

from alembic import op
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sqlalchemy import Column, LargeBinary, Text, column, delete, select, table, update

from audit.key_manager import KeyDestroyed
from compliance.service.sealed_columns import keys_of, open_cell, seal_cell

revision: Final = "0012"
down_revision: Final = "0011"

_REASONS: Final = {"recalls": "release_id", "notices": "notice_id"}
"""Tables with a reason, and their primary keys."""

_TEXTS: Final = {"subject_cases": ("request_id", "contact"), "subject_case_mail": ("id", "sealed")}
"""Tables with what is known of a subject while a request lasts: primary key, and column."""

_NONCE_BYTES: Final = 12


def upgrade() -> None:
    """Seal what was clear, and seal anew what had an envelope of its own."""
    for name, key in _REASONS.items():
        _change_reasons(name, key, LargeBinary(), _sealed_reason)
    _change_texts(_open_before, _sealed_text)


def downgrade() -> None:
    """The way back: reasons become clear."""
    for name, key in _REASONS.items():
        _change_reasons(name, key, Text(), _clear_reason)
    _change_texts(lambda place, _, cell: open_cell(op.get_bind(), place, cell), _seal_before)


def _change_reasons(
    name: str, key: str, kind: LargeBinary | Text, change: Callable[[str, str, Any], Any]
) -> None:
    """Write each reason in another form, in the place of the column that there was."""
    connection = op.get_bind()
    op.add_column(name, Column("changed", kind))
    rows = table(name, column(key), column("reason"), column("changed", kind))
    for row, reason in connection.execute(select(rows.c[key], rows.c.reason)).all():
        changed = change(name, row, reason)
        connection.execute(update(rows).where(rows.c[key] == row).values(changed=changed))
    with op.batch_alter_table(name) as batch:
        batch.drop_column("reason")
        batch.alter_column("changed", new_column_name="reason", existing_type=kind, nullable=False)


def _sealed_reason(name: str, row: str, reason: str) -> bytes:
    place = f"{name}.reason"
    return seal_cell(op.get_bind(), place, f"column:{place}", [row], reason)


def _clear_reason(name: str, _row: str, cell: bytes) -> str:
    return open_cell(op.get_bind(), f"{name}.reason", bytes(cell)) or ""


def _change_texts(
    opened: Callable[[str, str, bytes], str | None],
    closed: Callable[[str, str, Any, str], bytes],
) -> None:
    """Open every address and message, and close it in the other way; what is forgotten goes."""
    connection = op.get_bind()
    for name, (key, sealed) in _TEXTS.items():
        names = dict.fromkeys((key, "request_id"))
        rows = table(name, *map(column, names), column(sealed, LargeBinary()))
        query = select(rows.c[key], rows.c.request_id, rows.c[sealed])
        for row, request, cell in connection.execute(
            query.where(rows.c[sealed].is_not(None))
        ).all():
            text = opened(f"{name}.{sealed}", request, bytes(cell))
            if text is None and name == "subject_case_mail":
                connection.execute(delete(rows).where(rows.c[key] == row))
                continue
            new = None if text is None else closed(f"{name}.{sealed}", request, row, text)
            connection.execute(update(rows).where(rows.c[key] == row).values({sealed: new}))


def _sealed_text(place: str, request: str, row: Any, text: str) -> bytes:
    return seal_cell(op.get_bind(), place, _key_name(request), [row], text)


def _open_before(_place: str, request: str, sealed: bytes) -> str | None:
    try:
        key = keys_of(op.get_bind()).data_key(_key_name(request))
    except KeyDestroyed:
        return None
    nonce, text = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
    return AESGCM(key).decrypt(nonce, text, request.encode()).decode()


def _seal_before(_place: str, request: str, _row: Any, text: str) -> bytes:
    key = keys_of(op.get_bind()).generate_data_key(_key_name(request))
    nonce = secrets.token_bytes(_NONCE_BYTES)
    return nonce + AESGCM(key).encrypt(nonce, text.encode(), request.encode())


def _key_name(request: str) -> str:
    return f"subject-request:{request}"
