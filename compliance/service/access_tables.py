"""Tables about who may do what: limits, appointments, keys, sessions.

They stand beside `principals`, whose rows are never rewritten by them.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import ForeignKey, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from compliance.service.tables import Base

_NAME: Final = String(70)
_HASH: Final = String(64)
_TIME: Final = String(30)


class RoleSiteRow(Base):
    """A role of a principal holds for this site. A role with no such row holds everywhere."""

    __tablename__ = "role_sites"

    principal: Mapped[str] = mapped_column(ForeignKey("principals.name"), primary_key=True)
    role: Mapped[str] = mapped_column(String(20), primary_key=True)
    site: Mapped[str] = mapped_column(_NAME, primary_key=True)


class AppointmentRow(Base):
    """An officer who was appointed where a second officer must confirm it."""

    __tablename__ = "appointments"

    principal: Mapped[str] = mapped_column(ForeignKey("principals.name"), primary_key=True)
    proposed_by: Mapped[str] = mapped_column(_NAME)
    proposed_at: Mapped[str] = mapped_column(_TIME)
    confirmed_by: Mapped[str | None] = mapped_column(_NAME)
    confirmed_at: Mapped[str | None] = mapped_column(_TIME)


class SiteRenewalRow(Base):
    """A site's request for its next certificate, and the certificate of before.

    `answer` names the admission that answered it; None while it waits. The certificate of before
    works on until another renewal: it is for the same key, and a site changes over when it can.
    """

    __tablename__ = "site_renewals"

    site: Mapped[str] = mapped_column(ForeignKey("sites.name"), primary_key=True)
    request: Mapped[str] = mapped_column(ForeignKey("statements.digest"))
    answer: Mapped[str | None] = mapped_column(ForeignKey("statements.digest"))
    former_certificate: Mapped[str | None] = mapped_column(Text)


class FormerTokenRow(Base):
    """A key that was replaced and works a while longer."""

    __tablename__ = "former_tokens"

    token_sha256: Mapped[str] = mapped_column(_HASH, primary_key=True)
    principal: Mapped[str] = mapped_column(ForeignKey("principals.name"), index=True)
    replaced_at: Mapped[str] = mapped_column(_TIME)
    works_until: Mapped[str] = mapped_column(_TIME)


class LastUseRow(Base):
    """When a principal last called. It is written now and then, and proves nothing."""

    __tablename__ = "last_uses"

    principal: Mapped[str] = mapped_column(ForeignKey("principals.name"), primary_key=True)
    used_at: Mapped[str] = mapped_column(_TIME)


class PersonRow(Base):
    """Which principal a person is, by an HMAC of the login provider's identifier."""

    __tablename__ = "people"

    tag: Mapped[str] = mapped_column(_HASH, primary_key=True)
    principal: Mapped[str] = mapped_column(ForeignKey("principals.name"), unique=True)


class SessionRow(Base):
    """What a person got by logging in."""

    __tablename__ = "sessions"

    token_sha256: Mapped[str] = mapped_column(_HASH, primary_key=True)
    principal: Mapped[str] = mapped_column(ForeignKey("principals.name"), index=True)
    opened_at: Mapped[str] = mapped_column(_TIME)
    expires_at: Mapped[str] = mapped_column(_TIME, index=True)
    ended_at: Mapped[str | None] = mapped_column(_TIME)


class SpentLoginRow(Base):
    """A login that opened a session, and opens no other."""

    __tablename__ = "spent_logins"

    login_id: Mapped[str] = mapped_column(String(40), primary_key=True)
    expires_at: Mapped[str] = mapped_column(_TIME, index=True)
