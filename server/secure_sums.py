"""The coordinator's side of a secure sum: five exchanges, and the total.

A site that fails in one step is asked nothing further; the sum goes on while at least the plan's
quorum is left. The protocol and its guarantees are in `client.secure_aggregation`.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar

from audit.errors import FiduciaryError
from audit.statement import SignedStatement
from client.arrays import Arrays
from client.fleet_tasks import TaskKind
from client.secure_aggregation.collector import Collector, TooFewMembers
from client.secure_aggregation.masks import Vector
from client.secure_aggregation.messages import MASKED, Activity, Session
from compliance.statements import SiteReport
from server.errors import MalformedReply, QuorumNotReached
from server.rounds import Exchange
from server.superlink import Answer

T = TypeVar("T")


class Ask(Protocol):
    """Asks sites and judges their answers, as one round of one plan."""

    def __call__(
        self,
        kind: TaskKind,
        documents: Mapping[str, str],
        judge: Callable[[str, Answer], T],
        *,
        reply_bytes: int,
    ) -> Exchange[T]:
        """Ask the sites that `documents` has something for."""


@dataclass(frozen=True)
class Summed:
    """What came of a sum: over whom, and who was left out why."""

    total: Vector
    reports: dict[str, SiteReport]
    absent: dict[str, str]


def new_session(plan_id: str, round_index: int, activity: Activity, unit_exponent: int) -> Session:
    """A session that nobody has had before."""
    return Session(
        plan_id=plan_id,
        round=round_index,
        activity=activity,
        unit_exponent=unit_exponent,
        nonce=secrets.token_hex(16),
    )


def secure_sum(
    ask: Ask,
    collector: Collector,
    sites: tuple[str, ...],
    report_of: Callable[[str, Arrays, dict[str, str | int]], SiteReport],
    keep: Callable[[Collector, Mapping[str, SiteReport], Mapping[str, str]], None],
) -> Summed:
    """Sum what the sites train or count, without seeing any of it.

    Args:
        ask: Asks and waits.
        collector: The sum, just begun.
        sites: Who is asked: the plan's.
        report_of: Checks a site's report of the arrays that it sent.
        keep: Makes the sum durable before anything of it is revealed.

    Raises:
        QuorumNotReached: When fewer sites than the quorum were left in a step, with the reasons; or
            when shares do not fit, with whose they are.
        Stopped: When the coordinator was asked to stop.
    """
    session = collector.session
    reports: dict[str, SiteReport] = {}
    absent: dict[str, str] = {}

    def take(
        kind: TaskKind, documents: Mapping[str, str], judge: Callable[[str, Answer], T]
    ) -> None:
        _take(ask, collector, absent, reports, kind, documents, judge)

    begun = json.dumps({"session": session.model_dump(mode="json")})
    take(
        session.activity,
        dict.fromkeys(sites, begun),
        lambda site, answer: collector.accept_keys(site, _statement(answer)),
    )
    offers = _document(session, offers=_as_json(collector.offers))
    take(
        "deal",
        dict.fromkeys(collector.offers, offers),
        lambda site, answer: collector.accept_shares(site, _statement(answer)),
    )

    def masked(site: str, answer: Answer) -> None:
        if set(answer.arrays) != {MASKED}:
            raise MalformedReply("expected a masked vector")
        report = report_of(site, answer.arrays, answer.report)
        collector.accept_masked(site, answer.arrays[MASKED])
        reports[site] = report

    boxes = {
        site: _document(
            session,
            boxes={
                dealer: dealt.model_dump(mode="json")
                for dealer, dealt in collector.dealt_to(site).items()
            },
        )
        for site in collector.dealers
    }
    take("mask", boxes, masked)
    survivors = _document(session, survivors=collector.survivors)
    take(
        "attest",
        dict.fromkeys(collector.survivors, survivors),
        lambda site, answer: collector.accept_attestation(site, _statement(answer)),
    )
    keep(collector, reports, absent)
    return unmask(ask, collector, reports, absent)


def unmask(
    ask: Ask, collector: Collector, reports: Mapping[str, SiteReport], absent: Mapping[str, str]
) -> Summed:
    """The last step of a sum, also of one that a kill interrupted.

    Raises:
        QuorumNotReached, Stopped: As `secure_sum` does.
    """
    absent = dict(absent)
    attested = _document(collector.session, attested=_as_json(collector.attested))
    _take(
        ask,
        collector,
        absent,
        reports,
        "reveal",
        dict.fromkeys(collector.attested, attested),
        lambda site, answer: collector.accept_reveal(site, _statement(answer)),
    )
    try:
        total = collector.unmask()
    except FiduciaryError as error:
        said = f"the sum cannot be unmasked: {error}"
        raise QuorumNotReached(said, absent=absent, reports=reports) from error
    left_out = {site: reason for site, reason in absent.items() if site not in reports}
    return Summed(total, dict(reports), left_out)


def _take(
    ask: Ask,
    collector: Collector,
    absent: dict[str, str],
    reports: Mapping[str, SiteReport],
    kind: TaskKind,
    documents: Mapping[str, str],
    judge: Callable[[str, Answer], T],
) -> None:
    """One step: ask, note who was absent, and end it with at least the quorum."""
    vector, largest = collector.total.nbytes, max(map(len, documents.values()), default=0)
    size = vector if kind == "mask" else largest
    told = ask(kind, documents, _refusing(judge), reply_bytes=size)
    absent.update(told.absent)
    try:
        collector.close()
    except TooFewMembers as error:
        reasons = "; ".join(f"{site}: {reason}" for site, reason in sorted(absent.items()))
        raise QuorumNotReached(f"{error}: {reasons}", absent=absent, reports=reports) from error


def _refusing(judge: Callable[[str, Answer], T]) -> Callable[[str, Answer], T]:
    def refusing(site: str, answer: Answer) -> T:
        try:
            return judge(site, answer)
        except MalformedReply:
            raise
        except FiduciaryError as error:
            raise MalformedReply(str(error)) from error

    return refusing


def _document(session: Session, **content: object) -> str:
    return json.dumps({"session": session.digest, **content})


def _as_json(statements: Mapping[str, SignedStatement]) -> dict[str, object]:
    return {site: statement.to_json() for site, statement in statements.items()}


def _statement(answer: Answer) -> SignedStatement:
    try:
        return SignedStatement.from_json(json.loads(answer.document))
    except (FiduciaryError, ValueError, RecursionError) as error:
        raise MalformedReply(f"expected a signed document: {error}") from error
