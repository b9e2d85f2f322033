"""Tables of the registers.

What people wrote about a breach may name a person, so it is in one sealed column; the others hold
what the clock needs.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import ForeignKey, LargeBinary, String
from sqlalchemy.orm import Mapped, mapped_column

from compliance.service.tables import Base

_NAME: Final = String(70)
_TIME: Final = String(30)


class BreachRow(Base):
    """A personal data breach. `sealed` opens with the data key `breach:<name>`."""

    __tablename__ = "breaches"

    name: Mapped[str] = mapped_column(_NAME, primary_key=True)
    state: Mapped[str] = mapped_column(String(20), index=True)
    role: Mapped[str] = mapped_column(String(20))
    risk: Mapped[str] = mapped_column(String(20))
    aware_at: Mapped[str] = mapped_column(_TIME)
    authority_at: Mapped[str | None] = mapped_column(_TIME)
    controller_at: Mapped[str | None] = mapped_column(_TIME)
    subjects_at: Mapped[str | None] = mapped_column(_TIME)
    overdue_at: Mapped[str | None] = mapped_column(_TIME)
    closed_at: Mapped[str | None] = mapped_column(_TIME)
    filed_by: Mapped[str] = mapped_column(_NAME)
    filed_at: Mapped[str] = mapped_column(_TIME)
    sealed: Mapped[bytes] = mapped_column(LargeBinary)


class BreachSiteRow(Base):
    """A breach concerns this site. One without such a row concerns the whole service."""

    __tablename__ = "breach_sites"

    breach: Mapped[str] = mapped_column(ForeignKey("breaches.name"), primary_key=True)
    site: Mapped[str] = mapped_column(ForeignKey("sites.name"), primary_key=True, index=True)
