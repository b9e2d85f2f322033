"""A data subject's request as a state machine. Pure: `step` is all that may happen to one.

```
received ─► identity-pending ─► verified ─► at-sites ─► answered ─► completed
    │              │                │           │            │
    └──────────────┴─ expired       └── refused ┴────────────┘        (refused: from all of these)
```

* Nothing goes to a site before it is known who asks.
* Each site has a part of its own: `held` until identity is proven, then `sent`, `taken` once the
  site has seen it, `answered` once it has signed what it did; `cancelled` when the request ended
  without it; `waived` by an officer when the site was revoked and can answer no more. One site's
  part waits for no other's.
* A request is completed when every site has answered or was waived, and no sooner. An officer
  closes it when a site refused its part or was waived; else it closes itself.
* Once a site has done something, the request cannot be refused any more: that would be untrue.
* What has ended stays ended.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final, Literal

from compliance.rules.ruling import ALLOWED, Refused, Ruling, contradiction
from compliance.statements import AnswerOutcome, SiteSealingKey, SubjectAnswer, SubjectRight

RequestStage = Literal[
    "received",
    "identity-pending",
    "verified",
    "at-sites",
    "answered",
    "completed",
    "refused",
    "expired",
]
PartState = Literal["held", "sent", "taken", "answered", "cancelled", "waived"]

ENDED: Final[frozenset[RequestStage]] = frozenset({"completed", "refused", "expired"})
WITHOUT_IDENTITY: Final[frozenset[RequestStage]] = frozenset({"received", "identity-pending"})
OVER: Final[frozenset[PartState]] = frozenset({"answered", "waived"})
"""States of a part that no site need do anything for."""
WAITING: Final[frozenset[PartState]] = frozenset({"sent", "taken"})
"""States of a part for which a site must do something."""


@dataclass(frozen=True)
class Part:
    """One site's part of a request."""

    site: str
    state: PartState = "held"
    outcome: AnswerOutcome | None = None


@dataclass(frozen=True)
class SubjectRequest:
    """Where a request stands."""

    right: SubjectRight
    parts: tuple[Part, ...]
    stage: RequestStage = "received"

    def part(self, site: str) -> Part | None:
        """A site's part."""
        return next((part for part in self.parts if part.site == site), None)

    @property
    def ended(self) -> bool:
        """Whether nothing more happens to it."""
        return self.stage in ENDED


# --- what may happen -----------------------------------------------------------------------------


@dataclass(frozen=True)
class IdentityAsked:
    """A code was sent, or a site was asked to check who asks."""


@dataclass(frozen=True)
class IdentityProven:
    """It is known who asks."""


@dataclass(frozen=True)
class Sent:
    """The sealed identifiers may be fetched by the sites."""


@dataclass(frozen=True)
class Taken:
    """A site has its part."""

    site: str


@dataclass(frozen=True)
class Answered:
    """A site signed what it did."""

    site: str
    outcome: AnswerOutcome


@dataclass(frozen=True)
class Waived:
    """An officer no longer waits for a site, which `is_revoked` and can answer nothing."""

    site: str
    is_revoked: bool


@dataclass(frozen=True)
class Completed:
    """The subject can be told that all is done, or not found, or refused by a site and why."""


@dataclass(frozen=True)
class RefusedByOfficer:
    """An officer refuses the whole request, on a ground that the law has."""


@dataclass(frozen=True)
class Expired:
    """Nobody proved who asks, for too long."""


Event = (
    IdentityAsked
    | IdentityProven
    | Sent
    | Taken
    | Answered
    | Waived
    | Completed
    | RefusedByOfficer
    | Expired
)


def open_request(right: SubjectRight, sites: tuple[str, ...]) -> SubjectRequest | Refused:
    """A new request.

    >>> open_request("access", ("north",)).stage
    'received'
    """
    if not sites:
        return contradiction("no-sites", "a request concerns at least one site")
    if len(set(sites)) != len(sites):
        return contradiction("site-twice", "each site is named once")
    return SubjectRequest(right, tuple(Part(site) for site in sorted(sites)))


def step(request: SubjectRequest, event: Event) -> SubjectRequest | Refused:
    """What a request becomes, or why it does not.

    Args:
        request: As it stands.
        event: What happened, or is asked for.
    """
    if request.ended:
        return _not_now(request, "it has ended")
    match event:
        case IdentityAsked() if request.stage in WITHOUT_IDENTITY:
            return replace(request, stage="identity-pending")
        case IdentityProven() if request.stage in WITHOUT_IDENTITY:
            return replace(request, stage="verified")
        case IdentityAsked() | IdentityProven():
            return _not_now(request, "it is known already who asks")
        case Expired():
            if request.stage not in WITHOUT_IDENTITY:
                return _not_now(request, "only a request of nobody in particular expires")
            return _ended(request, "expired")
        case Sent():
            if request.stage != "verified":
                return _not_now(request, "identity is proven before a site learns of it, and once")
            parts = tuple(replace(part, state="sent") for part in request.parts)
            return replace(request, stage="at-sites", parts=parts)
        case Taken(site):
            return _taken(request, site)
        case Answered(site, outcome):
            return _answered(request, site, outcome)
        case Waived(site, is_revoked):
            return _waived(request, site, is_revoked)
        case Completed():
            if request.stage != "answered":
                return _not_now(request, "not every site has answered")
            return replace(request, stage="completed")
        case RefusedByOfficer():
            if any(part.outcome == "done" for part in request.parts):
                return _not_now(request, "a site has done what was asked for already")
            return _ended(request, "refused")


def closes_itself(request: SubjectRequest) -> bool:
    """Whether nobody need look at it before the subject is told: all answered, none refused."""
    return request.stage == "answered" and all(
        part.state == "answered" and part.outcome != "refused" for part in request.parts
    )


def may_answer(
    answer: SubjectAnswer, request: SubjectRequest, caller_site: str | None
) -> Refused | None:
    """What is wrong with a site's answer to this request, if anything."""
    if answer.site != caller_site:
        return Refused("not-this-site", "a site speaks for itself", status="forbidden")
    if answer.right != request.right:
        return contradiction("other-right", f"the request asks for {request.right}")
    return None


def _taken(request: SubjectRequest, site: str) -> SubjectRequest | Refused:
    part = request.part(site)
    if part is None:
        return _not_this_site()
    if part.state != "sent":
        return _not_now(request, f"the site's part is {part.state}")
    return _with(request, replace(part, state="taken"))


def _answered(
    request: SubjectRequest, site: str, outcome: AnswerOutcome
) -> SubjectRequest | Refused:
    part = request.part(site)
    if part is None:
        return _not_this_site()
    if part.state not in WAITING:
        return _not_now(request, f"the site's part is {part.state}")
    return _over(_with(request, replace(part, state="answered", outcome=outcome)))


def _waived(request: SubjectRequest, site: str, is_revoked: bool) -> SubjectRequest | Refused:
    part = request.part(site)
    if part is None:
        return _not_this_site()
    if not is_revoked:
        return Refused(
            "site-can-answer",
            "the site takes part and can answer: it is reminded by itself",
            "wait, or revoke the site if it is gone: `compliance revoke site SITE`",
            "conflict",
        )
    if part.state not in WAITING:
        return _not_now(request, f"the site's part is {part.state}")
    return _over(_with(request, replace(part, state="waived")))


def _over(request: SubjectRequest) -> SubjectRequest:
    """With the stage that follows once no site need do anything more."""
    if all(one.state in OVER for one in request.parts):
        return replace(request, stage="answered")
    return request


def _ended(request: SubjectRequest, stage: Literal["refused", "expired"]) -> SubjectRequest:
    """End it; a part that was not answered never will be."""
    parts = tuple(
        part if part.state in OVER else replace(part, state="cancelled") for part in request.parts
    )
    return replace(request, stage=stage, parts=parts)


def _with(request: SubjectRequest, changed: Part) -> SubjectRequest:
    parts = tuple(changed if part.site == changed.site else part for part in request.parts)
    return replace(request, parts=parts)


def _not_now(request: SubjectRequest, why: str) -> Refused:
    return Refused(
        "request-state",
        f"the request is {request.stage}: {why}",
        "show it: `compliance requests show ID`",
        "conflict",
    )


def _not_this_site() -> Refused:
    return Refused("not-this-site", "the request does not concern this site", status="forbidden")


# --- keys to which identifiers are sealed --------------------------------------------------------

KEY_OVERLAP: Final = timedelta(days=1)
"""How long after a key was replaced something may still come that was sealed to it: a form that
was open meanwhile, sent by somebody who does not say to which key."""


def may_replace_key(stated: SiteSealingKey, present: SiteSealingKey) -> Ruling:
    """Whether a site's key takes the place of the one that the service knows.

    A statement of before is genuine for ever: whoever kept it must not bring back a key that the
    site gave up.
    """
    if stated.generation > present.generation:
        return ALLOWED
    return Refused(
        "key-replaced",
        f"a key of generation {present.generation} has replaced this one,"
        f" of generation {stated.generation}",
        "make a newer one: `client requests rotate-key`",
        "conflict",
    )


def may_be_sealed_to(site: str, key: bytes, present: SiteSealingKey) -> Ruling:
    """Whether identifiers that were sealed to a key can be opened by their site."""
    if key == present.key:
        return ALLOWED
    return Refused(
        "key-replaced",
        f"site {site} has replaced the key that this was sealed to",
        "load the page again, or repeat the command",
        "conflict",
    )


def earlier_key_in_use(published_at: datetime, oldest_open: datetime | None, now: datetime) -> bool:
    """Whether anything that is not answered may be sealed to a key before the present one.

    Args:
        published_at: When the service took the present key.
        oldest_open: When the oldest request came that the site has not answered, if there is one.
        now: The present time.
    """
    over = published_at + KEY_OVERLAP
    return now < over or (oldest_open is not None and oldest_open < over)
