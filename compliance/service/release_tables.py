"""Tables of what becomes of a release after its approval.

Like those of `compliance.service.tables`, they say where things stand; the log says how they came
to be so.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import BigInteger, ForeignKey, ForeignKeyConstraint, Index, Integer, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from compliance.service.sealed_columns import SealedColumns, SealedText
from compliance.service.tables import Base

_NAME: Final = String(70)
_TIME: Final = String(30)
_POSITION: Final = BigInteger().with_variant(Integer, "sqlite")


class GrantLimitRow(Base):
    """How often a grant's holder may download; without a row as often as they like.

    `counted_from` is what `grants.downloads` was when the grant was made: a new grant counts anew.
    """

    __tablename__ = "grant_limits"

    release_id: Mapped[str] = mapped_column(String(71), primary_key=True)
    principal: Mapped[str] = mapped_column(_NAME, primary_key=True)
    max_downloads: Mapped[int] = mapped_column(Integer)
    counted_from: Mapped[int] = mapped_column(Integer)

    __table_args__ = (
        ForeignKeyConstraint(
            ["release_id", "principal"], ["grants.release_id", "grants.principal"]
        ),
    )


class AliasMoveRow(Base):
    """That an alias was moved to a release. The last move of an alias is what it names."""

    __tablename__ = "alias_moves"

    position: Mapped[int] = mapped_column(_POSITION, primary_key=True, autoincrement=False)
    alias: Mapped[str] = mapped_column(_NAME, index=True)
    release_id: Mapped[str] = mapped_column(ForeignKey("releases.release_id"))
    previous: Mapped[str | None] = mapped_column(ForeignKey("releases.release_id"))
    kind: Mapped[str] = mapped_column(String(20))
    reason: Mapped[str] = mapped_column(Text)
    moved_by: Mapped[str] = mapped_column(_NAME)
    moved_at: Mapped[str] = mapped_column(_TIME)


class RecallRow(SealedColumns, Base):
    """That a release was recalled. Written once; nothing takes it back."""

    __tablename__ = "recalls"

    release_id: Mapped[str] = mapped_column(ForeignKey("releases.release_id"), primary_key=True)
    reason: Mapped[str] = mapped_column(SealedText("recalls.reason"))
    recalled_by: Mapped[str] = mapped_column(_NAME)
    recalled_at: Mapped[str] = mapped_column(_TIME)
    position: Mapped[int] = mapped_column(_POSITION, unique=True)


class NoticeRow(SealedColumns, Base):
    """What a holder of a release must be told, and whether they said that they know."""

    __tablename__ = "notices"

    notice_id: Mapped[str] = mapped_column(String(32), primary_key=True)
    release_id: Mapped[str] = mapped_column(ForeignKey("releases.release_id"))
    recipient: Mapped[str] = mapped_column(ForeignKey("principals.name"))
    kind: Mapped[str] = mapped_column(String(40))
    reason: Mapped[str] = mapped_column(SealedText("notices.reason"))
    issued_at: Mapped[str] = mapped_column(_TIME)
    position: Mapped[int] = mapped_column(_POSITION, unique=True)
    acknowledged_at: Mapped[str | None] = mapped_column(_TIME)

    __table_args__ = (Index("notices_by_recipient", "recipient", "position"),)
