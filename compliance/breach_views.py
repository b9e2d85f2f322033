"""Breaches as callers see them, for both ends of the wire."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from compliance.log_views import Moment
from compliance.resources import Answer, RequestBody
from compliance.rules.breaches import (
    BreachRecipient,
    BreachRisk,
    BreachRole,
    BreachState,
    ClockStatus,
)
from compliance.statements import Digest, Name, Time

BreachText = Annotated[str, Field(max_length=10_000)]
"""What people write about a breach. It is encrypted, and never in the log in any readable form."""

MAX_SITES = 100

Sites = Annotated[tuple[Name, ...], Field(max_length=MAX_SITES)]
"""Which sites a breach concerns; none: the whole service."""

People = Annotated[int, Field(ge=0, le=2**53 - 1)]


class BreachContent(Answer):
    """What is stated of a breach (GDPR Art. 33(3) and (5)). Only the sealed column has it."""

    facts: BreachText = ""
    effects: BreachText = ""
    remedial_action: BreachText = ""
    categories_of_subjects: BreachText = ""
    categories_of_data: BreachText = ""
    subjects: People | None = None
    records: People | None = None
    risk_reason: BreachText = ""
    reasons_for_delay: BreachText = ""
    authority_reference: BreachText = ""
    reasons_not_to_tell_subjects: BreachText = ""
    closing_reason: BreachText = ""

    @property
    def stated(self) -> frozenset[str]:
        """Names of what is stated."""
        return frozenset(
            name for name in type(self).model_fields if getattr(self, name) not in ("", None)
        )


class BreachUpdateBody(RequestBody):
    """What to state anew of a breach; what is not given stays as it is."""

    aware_at: Moment | None = None
    risk: BreachRisk | None = None
    sites: Sites | None = None
    facts: BreachText | None = None
    effects: BreachText | None = None
    remedial_action: BreachText | None = None
    categories_of_subjects: BreachText | None = None
    categories_of_data: BreachText | None = None
    subjects: People | None = None
    records: People | None = None
    risk_reason: BreachText | None = None
    reasons_not_to_tell_subjects: BreachText | None = None


class BreachBody(BreachUpdateBody):
    """A new breach."""

    name: Name
    role: BreachRole = "controller"
    aware_at: Moment
    facts: Annotated[str, Field(min_length=1, max_length=10_000)]


class NotificationBody(RequestBody):
    """Who was told of a breach, and when; `reference` is the authority's own."""

    to: BreachRecipient
    at: Moment
    reasons_for_delay: BreachText = ""
    reference: BreachText = ""


class ClosureBody(RequestBody):
    """Why nothing more is to be done."""

    reason: BreachText = ""


class BreachClockView(Answer):
    """How a breach stands against the law's clock, at the moment of the answer."""

    status: ClockStatus
    due_at: Time | None
    article: str


class BreachView(Answer):
    """One breach.

    Attributes:
        name: Names it in the register.
        state: A closed one does not change any more.
        role: What whoever runs the register is, as to these data.
        risk: To the people concerned.
        sites: Which sites it concerns; none: the whole service.
        aware_at: When it became known.
        authority_at: When the supervisory authority was notified.
        controller_at: When the controller was told, by a processor.
        subjects_at: When the people concerned were told.
        overdue_at: When the alarm was recorded that the clock had run out.
        closed_at: When it was closed.
        filed_by: Who recorded it.
        filed_at: When.
        clock: How it stands now.
        content: What is stated.
        salt: Hexadecimal; makes the commitment one that cannot be guessed.
        commitment: Digest of content and salt, which its newest entry in the log holds.
        positions: Its entries in the log, oldest first.
    """

    name: Name
    state: BreachState
    role: BreachRole
    risk: BreachRisk
    sites: tuple[Name, ...] = ()
    aware_at: Time
    authority_at: Time | None
    controller_at: Time | None
    subjects_at: Time | None
    overdue_at: Time | None
    closed_at: Time | None
    filed_by: str
    filed_at: Time
    clock: BreachClockView
    content: BreachContent
    salt: str
    commitment: Digest
    positions: tuple[int, ...]
