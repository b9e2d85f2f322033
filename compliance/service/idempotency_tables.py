"""The table of answers that were given to calls with an idempotency key."""

from __future__ import annotations

from typing import Final

from sqlalchemy import String
from sqlalchemy.orm import Mapped, mapped_column

from compliance.service.sealed_columns import SealedColumns, SealedText
from compliance.service.tables import Base

_HASH: Final = String(64)
_TIME: Final = String(30)


class GivenAnswerRow(SealedColumns, Base):
    """The answer to a call, for a day. It may hold a token, so it is sealed."""

    __tablename__ = "given_answers"

    call_sha256: Mapped[str] = mapped_column(_HASH, primary_key=True)
    request_sha256: Mapped[str] = mapped_column(_HASH)
    expires_at: Mapped[str] = mapped_column(_TIME, index=True)
    answer: Mapped[str | None] = mapped_column(SealedText("given_answers.answer"))
