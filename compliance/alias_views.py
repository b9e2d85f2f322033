"""Aliases of releases as callers see them."""

from __future__ import annotations

from compliance.resources import Answer, RequestBody
from compliance.rules.aliases import MoveKind
from compliance.statements import Digest, Name, Time
from compliance.wire import Reason, ReleaseState


class AliasBody(RequestBody):
    """The release that an alias is to name."""

    release_id: Digest
    reason: Reason = ""


class RollbackBody(RequestBody):
    """Go back from `leaving`: a repeat, when the alias has gone back already, does nothing."""

    leaving: Digest
    reason: Reason = ""


class AliasMoveView(Answer):
    """One move of an alias. `position` is its log entry."""

    release_id: Digest
    previous: Digest | None
    kind: MoveKind
    reason: str
    moved_by: str
    moved_at: Time
    position: int


class AliasView(Answer):
    """An alias, the release that it names, and how it came there, oldest first.

    `state` is the release's: an alias of a recalled release still names it, and opens nothing.
    """

    alias: Name
    release_id: Digest
    name: Name
    state: ReleaseState
    history: tuple[AliasMoveView, ...]
