"""Spans of text that identify somebody, and how overlapping ones are settled."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

PERSON = "PERSON"
LOCATION = "LOCATION"
ORGANIZATION = "ORGANIZATION"
ADDRESS = "ADDRESS"
PHONE_NUMBER = "PHONE_NUMBER"
EMAIL_ADDRESS = "EMAIL_ADDRESS"
URL = "URL"
IP_ADDRESS = "IP_ADDRESS"
DATE_TIME = "DATE_TIME"
AGE = "AGE"
CREDIT_CARD = "CREDIT_CARD"
IBAN_CODE = "IBAN_CODE"
GROUP = "NRP"
"""A nationality, religion or political group, under Presidio's name."""

OCCUPATION = "TITLE"
"""What somebody does or is called, under the name of presidio-research."""

IDENTIFIER = "IDENTIFIER"
"""Record, account, customer, insurance and every other number given to one person or thing."""

NUMBER = "NUMBER"
"""A run of digits or a code that nothing announces, too long to be a quantity."""

_STRUCTURED = (
    EMAIL_ADDRESS, URL, IP_ADDRESS, IBAN_CODE, CREDIT_CARD, "US_SSN", DATE_TIME, IDENTIFIER,
    PHONE_NUMBER,
)  # fmt: skip
_NAMED = (ORGANIZATION, PERSON, ADDRESS, LOCATION)
_BARE = (AGE, NUMBER)
"""Numbers that may be a part of a name or an address."""

_RANK = {kind: rank for rank, kind in enumerate(_STRUCTURED)} | dict.fromkeys(_NAMED, 100)
_RANK |= dict.fromkeys(_BARE, 200)
_TIE = {kind: rank for rank, kind in enumerate(_NAMED)}


@dataclass(frozen=True, order=True)
class Finding:
    """A span `text[start:end]` that identifies somebody.

    Attributes:
        start: First character.
        end: One past the last character.
        kind: One of this module's kinds, or another Presidio entity type.
    """

    start: int
    end: int
    kind: str


def settle(text: str, findings: Iterable[Finding]) -> list[Finding]:
    """Disjoint findings that cover every character that any finding covers.

    A number or address of a definite form keeps its whole span, and among names the longer one;
    others are cut back to what is left of theirs. Where that holds no letter or digit it goes to
    the finding that it touches, and is dropped where there is none.
    Edges lose white space.
    """
    ordered = sorted(
        _joined(findings),
        key=lambda f: (_RANK.get(f.kind, 50), f.start - f.end, f.start, _TIE.get(f.kind, 0)),
    )
    owner: list[Finding | None] = [None] * len(text)
    for finding in reversed(ordered):  # who comes first in the order has the last word
        start, end = max(0, finding.start), min(finding.end, len(text))
        owner[start:end] = [finding] * max(0, end - start)
    edges = {max(0, edge) for f in ordered for edge in (f.start, f.end) if edge < len(text)}
    pieces: list[Finding] = []
    last: Finding | None = None
    for begin, end in pairwise([*sorted(edges), len(text)]):
        holder = owner[begin]  # the same up to the next edge
        if holder is not None and holder is last:
            pieces[-1] = Finding(pieces[-1].start, end, holder.kind)
        elif holder is not None:
            pieces.append(Finding(begin, end, holder.kind))
        last = holder
    whole = (_trimmed(text, piece) for piece in _with_their_marks(text, pieces))
    return [piece for piece in whole if piece is not None]


def _with_their_marks(text: str, pieces: list[Finding]) -> list[Finding]:
    """Pieces that hold no letter or digit joined to the one they touch: "(" to its number."""
    joined: list[Finding] = []
    for piece in pieces:
        last = joined[-1] if joined else None
        if last and last.end == piece.start:
            if not _says_something(text, piece):
                joined[-1] = Finding(last.start, piece.end, last.kind)
                continue
            if not _says_something(text, last):
                joined[-1] = Finding(last.start, piece.end, piece.kind)
                continue
        joined.append(piece)
    return joined


def _says_something(text: str, piece: Finding) -> bool:
    return any(char.isalnum() for char in text[piece.start : piece.end])


def covered(text: str, findings: Iterable[Finding]) -> bytearray:
    """One byte for each character of the text: 1 where a finding covers it."""
    mask = bytearray(len(text))
    for finding in findings:
        start, end = max(0, finding.start), min(finding.end, len(text))
        mask[start:end] = b"\x01" * max(0, end - start)
    return mask


def _joined(findings: Iterable[Finding]) -> list[Finding]:
    """Findings of one kind that overlap are one finding."""
    joined: list[Finding] = []
    for finding in sorted(findings, key=lambda f: (f.kind, f.start, f.end)):
        last = joined[-1] if joined else None
        if last and last.kind == finding.kind and finding.start < last.end:
            joined[-1] = Finding(last.start, max(last.end, finding.end), last.kind)
        else:
            joined.append(finding)
    return joined


def _trimmed(text: str, piece: Finding) -> Finding | None:
    start, end = piece.start, piece.end
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return Finding(start, end, piece.kind) if _says_something(text, piece) else None
