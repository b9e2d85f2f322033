"""Aliases of releases: what they name, moving them, and going back."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Annotated, Final, cast

from fastapi import APIRouter, Path
from sqlalchemy import select
from sqlalchemy.orm import Session

from audit.errors import NotFound
from compliance import rules
from compliance.alias_views import AliasBody, AliasMoveView, AliasView, RollbackBody
from compliance.rules.aliases import Move, MoveKind, may_set_alias, rollback_target
from compliance.service.access import requires
from compliance.service.call import Caller, Office
from compliance.service.errors import Denied, enforce
from compliance.service.filing import load_rows, parse_envelope
from compliance.service.gate import GatedRoute
from compliance.service.recalls import recall_of
from compliance.service.registry import Transaction
from compliance.service.release_tables import AliasMoveRow
from compliance.service.release_views import release_row, state_of
from compliance.service.routes.releases import READERS, reading_scope, releases_concerning
from compliance.service.tables import GrantRow, ReleaseRow
from compliance.statements import Decision, ReleaseManifest

router: Final = APIRouter(route_class=GatedRoute, prefix="/v1/aliases", tags=["aliases"])

Alias = Annotated[str, Path(pattern=r"^[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?$")]


@router.get("")
@requires(*READERS, "consumer", by_site=True)
def list_aliases(office: Office, caller: Caller) -> dict[str, list[AliasView]]:
    """Every alias and its history.

    A consumer sees those that name what was granted to it, a limited role those that name a
    release of its sites, and of their history the moves to such releases.
    """
    sites = reading_scope(caller).sites
    with office.reading() as session:
        moves = _moves(session)
        if sites is not None:
            mine = select(GrantRow.release_id).where(GrantRow.principal == caller.name)
            granted = set(session.scalars(mine))
            theirs = set(session.scalars(releases_concerning(sites)))
            shown = {}
            for name, rows in moves.items():
                if rows[-1].release_id in granted:
                    shown[name] = rows
                elif rows[-1].release_id in theirs:
                    shown[name] = [row for row in rows if row.release_id in theirs]
            moves = shown
        return {"aliases": [_view(session, rows) for _, rows in sorted(moves.items())]}


@router.put("/{alias}")
@requires("officer")
def set_alias(alias: Alias, body: AliasBody, office: Office, caller: Caller) -> AliasView:
    """Let an alias name an approved release that somebody else submitted and approved."""
    with office.writing(caller) as transaction:
        session = transaction.session
        release = release_row(session, body.release_id)
        moves = _moves(session).get(alias, [])
        if moves and moves[-1].release_id == body.release_id:
            return _view(session, moves)
        rows = load_rows(session, [release.release_id, release.decision])
        decision = None if release.decision is None else rows[release.decision]
        enforce(
            may_set_alias(
                caller,
                submitted_by=rows[release.release_id].filed_by,
                approved_by=None
                if decision is None
                else Decision.from_body(parse_envelope(decision).body).decided_by,
                state=state_of(release),
                recall=recall_of(session, release.release_id),
            )
        )
        return _move(transaction, alias, moves, release.release_id, "set", body.reason)


@router.post("/{alias}/rollback")
@requires("officer")
def roll_back(alias: Alias, body: RollbackBody, office: Office, caller: Caller) -> AliasView:
    """Let an alias name the release that it named before; one that was recalled is passed over."""
    with office.writing(caller) as transaction:
        session = transaction.session
        moves = _moves(session).get(alias, [])
        if not moves:
            raise NotFound("there is no such alias", fix="list them: `compliance alias list`")
        last = moves[-1]
        if last.release_id != body.leaving:
            if last.kind == "rollback" and last.previous == body.leaving:
                return _view(session, moves)
            raise Denied(
                rules.Refused(
                    "alias-moved",
                    "the alias names another release by now",
                    "look again: `compliance alias list`",
                    "conflict",
                )
            )
        target = rollback_target([_as_move(row) for row in moves], _usable(session, moves))
        if target is None:
            raise Denied(
                rules.Refused(
                    "nothing-before",
                    "no release that the alias named before is still approved",
                    "let it name another: `compliance alias set ALIAS ID`",
                    "conflict",
                )
            )
        return _move(transaction, alias, moves, target, "rollback", body.reason)


def _move(
    transaction: Transaction,
    alias: str,
    moves: list[AliasMoveRow],
    release_id: str,
    kind: MoveKind,
    reason: str,
) -> AliasView:
    previous = moves[-1].release_id if moves else None
    position = transaction.record(
        "alias.moved",
        f"release:{release_id}",
        {"alias": alias, "kind": kind, "previous": previous, "reason": reason},
    )
    row = AliasMoveRow(
        position=position,
        alias=alias,
        release_id=release_id,
        previous=previous,
        kind=kind,
        reason=reason,
        moved_by=transaction.actor,
        moved_at=transaction.time,
    )
    transaction.session.add(row)
    return _view(transaction.session, [*moves, row])


def _moves(session: Session) -> dict[str, list[AliasMoveRow]]:
    found: dict[str, list[AliasMoveRow]] = defaultdict(list)
    for row in session.scalars(select(AliasMoveRow).order_by(AliasMoveRow.position)):
        found[row.alias].append(row)
    return found


def _usable(session: Session, moves: Sequence[AliasMoveRow]) -> set[str]:
    query = select(ReleaseRow.release_id).where(
        ReleaseRow.release_id.in_({row.release_id for row in moves}),
        ReleaseRow.state == "approved",
    )
    return set(session.scalars(query))


def _as_move(row: AliasMoveRow) -> Move:
    return Move(row.release_id, cast(MoveKind, row.kind))


def _view(session: Session, moves: Sequence[AliasMoveRow]) -> AliasView:
    last = moves[-1]
    release = release_row(session, last.release_id)
    filed = load_rows(session, [last.release_id])[last.release_id]
    return AliasView(
        alias=last.alias,
        release_id=last.release_id,
        name=ReleaseManifest.from_body(parse_envelope(filed).body).name,
        state=state_of(release),
        history=tuple(
            AliasMoveView(
                release_id=row.release_id,
                previous=row.previous,
                kind=cast(MoveKind, row.kind),
                reason=row.reason,
                moved_by=row.moved_by,
                moved_at=row.moved_at,
                position=row.position,
            )
            for row in moves
        ),
    )
