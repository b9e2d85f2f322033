"""Tables of data subjects' requests (`compliance.rules.subject_requests`).

* No identifier is here in clear: those of a subject are sealed to sites, an address for mail is
  encrypted under a key of its request, receipt codes and mailed codes are hashed.
* What is asked for often is indexed: what is open by deadline, and what a site must do.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import BigInteger, ForeignKey, Index, Integer, LargeBinary, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from compliance.service.sealed_columns import SealedColumns, SealedText
from compliance.service.tables import Base

_DIGEST: Final = String(71)
_NAME: Final = String(70)
_HASH: Final = String(64)
_TIME: Final = String(30)
_REQUEST: Final = String(32)
_POSITION: Final = BigInteger().with_variant(Integer, "sqlite")


def key_name(request_id: str) -> str:
    """The data key of what is kept of a subject while a request lasts."""
    return f"subject-request:{request_id}"


class CaseRow(SealedColumns, Base):
    """One request of one data subject."""

    __tablename__ = "subject_cases"

    request_id: Mapped[str] = mapped_column(_REQUEST, primary_key=True)
    right: Mapped[str] = mapped_column(String(20))
    jurisdiction: Mapped[str] = mapped_column(_NAME)
    stage: Mapped[str] = mapped_column(String(20))
    identity: Mapped[str] = mapped_column(String(20))
    filed_by: Mapped[str] = mapped_column(_NAME)
    received_at: Mapped[str] = mapped_column(_TIME)
    filed_at: Mapped[str] = mapped_column(_TIME)
    position: Mapped[int] = mapped_column(_POSITION, unique=True)
    rules_version: Mapped[str] = mapped_column(String(10))
    content_hmac: Mapped[str] = mapped_column(_HASH)
    """Of what was filed, so that the same call again is known from another with its id."""
    receipt_sha256: Mapped[str] = mapped_column(_HASH, unique=True)
    confirm_by: Mapped[str | None] = mapped_column(_TIME)
    confirmed_at: Mapped[str | None] = mapped_column(_TIME)
    verified_at: Mapped[str | None] = mapped_column(_TIME)
    due_at: Mapped[str] = mapped_column(_TIME)
    extended_at: Mapped[str | None] = mapped_column(_TIME)
    finished_at: Mapped[str | None] = mapped_column(_TIME)
    ground: Mapped[str] = mapped_column(String(64), default="")
    notice: Mapped[str] = mapped_column(Text, default="")
    contact: Mapped[str | None] = mapped_column(SealedText("subject_cases.contact"), deferred=True)
    """An address for mail; not there any more once its key was destroyed."""
    code_hash: Mapped[str | None] = mapped_column(_HASH)
    code_expires_at: Mapped[str | None] = mapped_column(_TIME)
    code_tries: Mapped[int] = mapped_column(Integer, default=0)
    codes_sent: Mapped[int] = mapped_column(Integer, default=0)

    def sealing_key(self, place: str) -> str:  # noqa: ARG002  one key for all of a request
        """What is destroyed so that the address is forgotten."""
        return key_name(self.request_id)

    __table_args__ = (
        Index(
            "subject_cases_by_deadline",
            "finished_at",
            "due_at",
            "request_id",
            "confirm_by",  # these two: what is open is counted without its rows
            "confirmed_at",
        ),
        Index("subject_cases_by_due", "due_at", "request_id"),
        Index("subject_cases_by_stage", "stage", "due_at", "request_id"),
    )


class CasePartRow(Base):
    """One site's part of a request."""

    __tablename__ = "subject_case_parts"

    request_id: Mapped[str] = mapped_column(
        ForeignKey("subject_cases.request_id"), primary_key=True
    )
    site: Mapped[str] = mapped_column(ForeignKey("sites.name"), primary_key=True)
    state: Mapped[str] = mapped_column(String(20))
    outcome: Mapped[str | None] = mapped_column(String(20))
    ground: Mapped[str] = mapped_column(String(64), default="")
    sealed: Mapped[bytes | None] = mapped_column(LargeBinary)
    sent_at: Mapped[str | None] = mapped_column(_TIME)
    taken_at: Mapped[str | None] = mapped_column(_TIME)
    answered_at: Mapped[str | None] = mapped_column(_TIME)
    reminders: Mapped[int] = mapped_column(Integer, default=0)
    reminded_at: Mapped[str | None] = mapped_column(_TIME)
    answer: Mapped[str | None] = mapped_column(ForeignKey("statements.digest"))
    package: Mapped[bytes | None] = mapped_column(LargeBinary)

    __table_args__ = (Index("subject_case_parts_by_site", "site", "state"),)


class CaseMailRow(SealedColumns, Base):
    """A message to a subject, encrypted until it is sent and forgotten then."""

    __tablename__ = "subject_case_mail"

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    """Given by who writes it: the sealed cell is bound to it."""
    request_id: Mapped[str] = mapped_column(ForeignKey("subject_cases.request_id"), index=True)
    purpose: Mapped[str] = mapped_column(String(20))
    written_at: Mapped[str] = mapped_column(_TIME)
    sealed: Mapped[str | None] = mapped_column(
        SealedText("subject_case_mail.sealed"), nullable=False
    )
    """The code that it tells, or else its purpose."""

    def sealing_key(self, place: str) -> str:  # noqa: ARG002  one key for all of a request
        """What is destroyed so that the message is forgotten."""
        return key_name(self.request_id)


class SiteSealingKeyRow(Base):
    """To which key identifiers are sealed for a site; its statement is signed by the site."""

    __tablename__ = "site_sealing_keys"

    site: Mapped[str] = mapped_column(ForeignKey("sites.name"), primary_key=True)
    statement: Mapped[str] = mapped_column(ForeignKey("statements.digest"))
