"""Questions to the audit log and their answers, its heads and proofs, for both ends of the wire.

* A question is a set of conditions on the index: exact values, one prefix of an action, a span of
  time. Nothing is searched in payloads: they are sealed, and no plaintext is indexed.
* An answer carries, beside each decrypted entry, the leaf and its path to the root that the one
  checkpoint of the answer signs (`audit.shown` checks them).
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema

from audit.canonical import canonical_bytes, digest
from audit.leaf import Leaf
from audit.search import EntryFilter
from compliance.resources import Answer, RequestBody
from compliance.statements import Digest, Name, Time, format_time
from compliance.wire import Octets

MAX_ENTRIES: Final = 1000
"""Entries in one answer; the next ones come with its cursor, or all of them with an export."""

_MOMENT: Final = re.compile(
    r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{1,6})?([Zz]|[+-]\d\d:\d\d)", re.ASCII
)
_MILLISECOND: Final = timedelta(milliseconds=1)


def _moment(text: str) -> str:
    """A moment as entries write it: UTC, milliseconds, rounded up so that none is let in early."""
    if not _MOMENT.fullmatch(text):
        raise ValueError("expected RFC 3339, such as 2026-01-31T12:00:00Z")
    try:
        moment = datetime.fromisoformat(text.upper()).astimezone(UTC)
        return format_time(moment + (-timedelta(microseconds=moment.microsecond) % _MILLISECOND))
    except OverflowError as error:
        raise ValueError("expected a year from 1 to 9999") from error


Moment = Annotated[
    str,
    Field(max_length=40),
    AfterValidator(_moment),
    WithJsonSchema({"type": "string", "format": "date-time", "maxLength": 40}),
]
"""RFC 3339 with any offset; kept as UTC with milliseconds."""

_Text = Annotated[str, Field(min_length=1, max_length=300)]
_Position = Annotated[int, Field(ge=-1, le=2**53 - 1)]

Order = Literal["newest", "oldest"]
ExportFormat = Literal["jsonl", "csv"]


class LogFilter(BaseModel):
    """Which entries are wanted; what is not given accepts all.

    Attributes:
        since: Not before this moment.
        until: Before this moment.
        actor: Exactly this actor.
        action: Exactly this action, or with a trailing `.` every action that begins so.
        object: Exactly this object, `<kind>:<id>`.
        subject: Exactly this keyed pseudonym.
        site: What this site did, or what was done to it.
        plan: About this plan: its decision, reports, outcome, releases.
        release: About this release.
        after: Behind this position.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    since: Moment | None = None
    until: Moment | None = None
    actor: _Text | None = None
    action: Annotated[str, Field(pattern=r"^[a-z][a-z0-9._:/-]{0,99}$")] | None = None
    object: _Text | None = None
    subject: Annotated[str, Field(pattern=r"^[!-~]{1,200}$")] | None = None
    site: Name | None = None
    plan: Digest | None = None
    release: Digest | None = None
    after: _Position | None = None

    def conditions(self) -> dict[str, Any]:
        """The conditions that were given."""
        return self.model_dump(include=set(LogFilter.model_fields), exclude_none=True)

    def accepts(self, leaf: Leaf) -> bool:
        """Whether the clear fields of an entry meet the conditions on them."""
        words = EntryFilter(self.actor, self.action, None, self.subject)
        return (
            words.accepts(leaf)
            and self.object in (None, leaf.object)
            and (self.since is None or leaf.time >= self.since)
            and (self.until is None or leaf.time < self.until)
            and (self.after is None or leaf.position > self.after)
        )


class LogQuery(LogFilter):
    """A question that is answered page by page."""

    order: Order = "newest"
    limit: Annotated[int, Field(ge=1, le=MAX_ENTRIES)] = 100
    cursor: Annotated[str, Field(min_length=1, max_length=500)] | None = None

    def identity(self) -> str:
        """Digest of what all pages of one answer have in common."""
        return digest(canonical_bytes({"order": self.order, "filters": self.conditions()}))


class LogExport(LogFilter):
    """A question that is answered as one file, oldest entry first."""

    format: ExportFormat = "jsonl"


class LogEntryView(BaseModel):
    """One entry of the log, decrypted, with what proves it.

    Attributes:
        position: From 0.
        time: By the log's clock.
        actor: Who did it.
        action: What was done.
        object: What it was done to.
        subject: Keyed pseudonym of the data subject concerned, if any.
        site: What the index says that the entry is about; unproven, like the next two.
        plan: Likewise.
        release: Likewise.
        payload: Null once its key has been destroyed: the entry is forgotten, its proof stays.
        leaf: The bytes that were hashed, payload sealed.
        leaf_hash: RFC 6962 hash of the leaf, hexadecimal.
        path: Hashes that lead from the leaf to the root, leaf first.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    position: int
    time: Time
    actor: str
    action: str
    object: str
    subject: str | None
    site: str | None
    plan: str | None
    release: str | None
    payload: dict[str, Any] | None
    leaf: Annotated[Octets, WithJsonSchema({"type": "string", "contentEncoding": "base64"})]
    leaf_hash: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    path: tuple[Octets, ...]


class LogPage(BaseModel):
    """One page of an answer.

    Attributes:
        checkpoint: The signed note that all paths lead to, with the witnesses' cosignatures of it.
        size: The answer covers entries before this position, on this page and on all that follow.
        entries: In the order that was asked for.
        next: Cursor of the next page; null when this is the last.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    checkpoint: str
    size: int
    entries: tuple[LogEntryView, ...]
    next: str | None


class CosignatureBody(RequestBody):
    """A head of the log with the site's cosignature: a C2SP tlog-checkpoint note."""

    note: Annotated[str, Field(max_length=16_384)]


class LogProof(Answer):
    """A leaf and its C2SP tlog-proof."""

    leaf: Octets
    proof: str


class WitnessView(Answer):
    """One witness of the log, and the newest head that it vouched for.

    Attributes:
        witness: Key name of the witness, `<federation>/site/<name>`.
        vkey: Its verifier key; compare it with the one that the site itself publishes.
        size: Entries of the newest head that it cosigned.
        cosigned_at: When it did so.
        note: That head, signed by the log and by the witness.
    """

    witness: str
    vkey: str
    size: int
    cosigned_at: Time
    note: str


class LogConsistency(Answer):
    """RFC 6962 consistency proof between two tree sizes."""

    first: int
    second: int
    hashes: tuple[Octets, ...]


class LogHead(Answer):
    """The newest head of the log.

    Attributes:
        checkpoint: C2SP tlog-checkpoint text, with the lines of the witnesses that cosigned it.
        growth: Proof that it extends the log of the size that was asked about; None where nothing
            was asked, or where the log does not have that many entries.
    """

    checkpoint: str
    growth: LogConsistency | None = None
