"""Which release an alias such as `production` may name. Pure.

* An alias is what people follow without looking, so putting a release there is a decision of its
  own: not by who submitted the release, and not by the officer who approved it.
* Going back is to a release that stood there before and was looked at then. One officer is enough,
  whoever they are: when a release does harm, nobody should wait for a second person.
* No alias is ever moved to a release that is not approved, so never to a recalled one.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from compliance.rules.access import Bearer
from compliance.rules.recalls import Recall
from compliance.rules.ruling import ALLOWED, Refused, Ruling
from compliance.wire import ReleaseState

MoveKind = Literal["set", "rollback"]


@dataclass(frozen=True)
class Move:
    """One move of an alias: what it named afterwards, and how it came there."""

    release_id: str
    kind: MoveKind


def may_set_alias(
    officer: Bearer,
    *,
    submitted_by: str,
    approved_by: str | None,
    state: ReleaseState,
    recall: Recall | None,
) -> Ruling:
    """Whether an officer may let an alias name a release.

    Args:
        officer: Who asks.
        submitted_by: Who submitted the release.
        approved_by: Who approved it; None where nobody did.
        state: Where it stands.
        recall: That it was recalled, if it was.
    """
    if recall is not None:
        return recall.refusal()
    if state != "approved":
        return Refused(
            "release-not-approved",
            f"the release is {state}, not approved",
            "approve it first: `compliance approve release ID`",
            "conflict",
        )
    if officer.name in (submitted_by, approved_by):
        return Refused(
            "own-work",
            "nobody puts a release behind an alias that they submitted or approved themselves",
            "ask another officer",
        )
    return ALLOWED


def rollback_target(moves: Sequence[Move], usable: Collection[str]) -> str | None:
    """The release that an alias goes back to; None when there is none.

    Args:
        moves: All moves of the alias, oldest first.
        usable: Of the releases that it ever named, those that are still approved.

    >>> history = [Move("a", "set"), Move("b", "set"), Move("c", "set")]
    >>> rollback_target(history, {"a", "b", "c"})
    'b'
    >>> rollback_target(history, {"a", "c"})
    'a'
    >>> rollback_target([*history, Move("b", "rollback")], {"a", "b", "c"})
    'a'
    """
    below = _standing(moves)[:-1]
    present = moves[-1].release_id if moves else None
    return next(
        (each for each in reversed(below) if each in usable and each != present),
        None,
    )


def _standing(moves: Sequence[Move]) -> list[str]:
    """What the alias named, without what was rolled back: the last is what it names now."""
    standing: list[str] = []
    for move in moves:
        if move.kind == "rollback":
            while standing and standing[-1] != move.release_id:
                standing.pop()
        else:
            standing.append(move.release_id)
    return standing
