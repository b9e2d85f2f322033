"""This site's part in the secure sums of a round: what it trained, until the sum has it.

* `begin` answers a `train` or `evaluate` task with fresh keys; the vector stays here. `step`
  answers what follows. The protocol and its guarantees are in `client.secure_aggregation`.
* The site's signed report names the digest of the *masked* vector: a digest of counts could be
  guessed, and one of the update would tell whether two sums had the same.
* A coordinator that comes back after a crash begins another sum of the same round with the same
  vector. That is harmless until one is unmasked, and refused afterwards (`client.reveals`).
* After a crash of this site its keys are gone, and so is its part in that sum.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from audit.errors import FiduciaryError, MalformedInput
from audit.keys import VerifyKey
from audit.log import Entry
from audit.statement import SignedStatement
from client.answers import Answers
from client.arrays import Arrays, arrays_digest
from client.fleet_tasks import IncomingTask
from client.kept_answers import Answer
from client.peers import Peers
from client.refusals import Declined
from client.reveals import Reveals
from client.rounds import Work
from client.secure_aggregation.fixed_point import FixedPoint, join_counts
from client.secure_aggregation.masks import Vector
from client.secure_aggregation.member import Member
from client.secure_aggregation.messages import MASKED, Dealt, Session, read_document
from client.site import Site
from compliance.statements import SiteReport, utc_now

REVEALED = "round-revealed"
"""The journal's entry: in which sum this site's vector is."""


@dataclass
class _Part:
    """This site in one sum."""

    member: Member
    work: Work
    vector: Vector
    answer: Answer | None = None


class SecureSums:
    """The sums that this site is part of: at most one of updates and one of counts.

    Args:
        site: The site, opened.
        peers: Whose signatures count.
        answers: Makes its statements.
        waiting: Gives what is entered around each question to the compliance service.
    """

    def __init__(
        self,
        site: Site,
        peers: Peers,
        answers: Answers,
        waiting: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._site = site
        self._peers = peers
        self._answers = answers
        self._waiting = waiting
        self._reveals = Reveals(site.paths.reveals)
        self._parts: dict[str, _Part] = {}

    def begin(self, task: IncomingTask, work: Work) -> str:
        """Take part in a new sum with what was trained or counted.

        Returns:
            This site's signed keys, as JSON.

        Raises:
            MalformedInput: When the task names no sum of this round.
            AlreadyRevealed: When another sum of it was unmasked.
            Declined: When a share of the noise would be cut.
            FiduciaryError: When another site's key is not known and cannot be learned.
        """
        session = read_document(_fields(task.document, "session")["session"], Session)
        if (session.plan_id, session.round, session.activity) != (
            task.plan_id,
            task.round,
            task.kind,
        ):
            raise MalformedInput("the sum is for another round")
        self._reveals.check(session)
        known = self._parts.get(session.activity)
        if known is not None and known.member.session == session:
            # Keys of its own for each time it is asked would be as many parts in one sum.
            return _text(known.member.keys)
        plan = work.plan
        peers: Mapping[str, VerifyKey] = self._peers.of(plan.sites, self._waiting)
        member = Member(session, self._site.name, self._site.identity, peers, plan.quorum)
        self._parts[session.activity] = _Part(member, work, _vector(session, work))
        return _text(member.keys)

    def step(self, task: IncomingTask) -> str | Answer:
        """Answer a step of a sum: a document, or the masked vector with this site's report.

        Raises:
            Declined: When this site has no part in that sum, or no more, or somebody whose records
                are in its vector was erased since.
            MalformedInput: When the document is not one of that step.
            FiduciaryError: When the protocol refuses, or the journal cannot be written.
        """
        asked = _fields(task.document, "session", _CONTENT[task.kind])
        part, content = self._part(task, asked["session"]), asked[_CONTENT[task.kind]]
        match task.kind:
            case "deal":
                return _text(part.member.deal(_statements(content)))
            case "mask":
                return self._mask(part, content)
            case "attest":
                if not isinstance(content, list) or not all(isinstance(n, str) for n in content):
                    raise MalformedInput("malformed secure sum: expected names of survivors")
                return _text(part.member.attest(content))
            case _:
                return self._reveal(part, content)

    def forget(self, plan_id: str) -> None:
        """Let go of what was trained and counted for a plan that has ended; marks stay."""
        for activity, part in list(self._parts.items()):
            if part.member.session.plan_id == plan_id:
                del self._parts[activity]

    def _part(self, task: IncomingTask, session: object) -> _Part:
        for part in self._parts.values():
            present = part.member.session
            if present.digest == session:
                if (present.plan_id, present.round) != (task.plan_id, task.round):
                    raise MalformedInput("the sum is for another round")
                return part
        raise Declined(
            "secure-sum-unknown", "this site has no part in that sum, or lost it when it stopped"
        )

    def _mask(self, part: _Part, content: object) -> Answer:
        if not isinstance(content, dict):
            raise MalformedInput("malformed secure sum: expected boxes")
        part.work.check()
        dealt = {str(name): read_document(box, Dealt) for name, box in content.items()}
        arrays: Arrays = {MASKED: part.member.mask(dealt, part.vector)}
        if part.answer is None:
            report = SiteReport.from_body(part.work.answer.report).model_copy(
                update={"update_digest": arrays_digest(arrays), "reported_at": utc_now()}
            )
            part.answer = Answer({}, self._answers.answer_report(report))
        return Answer(arrays, part.answer.report)

    def _reveal(self, part: _Part, content: object) -> str:
        session = part.member.session
        revealed = part.member.reveal(_statements(content))
        if self._reveals.mark(session, part.member.attested):
            self._site.journal.record(
                Entry(
                    actor=self._site.principal,
                    action=REVEALED,
                    object=f"plan:{session.plan_id}",
                    subject=None,
                    payload={
                        "round": session.round,
                        "activity": session.activity,
                        "session": session.digest,
                        "survivors": sorted(revealed.body["seeds"]),
                    },
                )
            )
        return _text(revealed)


_CONTENT = {"deal": "offers", "mask": "boxes", "attest": "survivors", "reveal": "attested"}
"""Of each step, what its document holds beside the session."""


def _vector(session: Session, work: Work) -> Vector:
    if session.activity == "train":
        form = FixedPoint(session.unit_exponent, len(work.plan.sites))
        _require_whole_noise(session, work, form)
        return form.encode(work.answer.arrays)
    from client.learning.tasks import counts_like

    return join_counts({**counts_like(work.plan), **work.answer.arrays})


def _require_whole_noise(session: Session, work: Work, form: FixedPoint) -> None:
    """Where noise is shared, nothing of a share may be swallowed by a unit or cut at the bound.

    What one site's own noise protects may be rounded and cut as anybody likes; what only the sum's
    noise protects may not (`client.learning.distributed_noise`).
    """
    plan = work.plan
    if plan.privacy.noise_sites is None:
        return
    from client.learning.distributed_noise import MINIMUM_UNITS, units_of_noise

    units = units_of_noise(plan, session.round, form.unit)
    if units < MINIMUM_UNITS:
        raise MalformedInput(
            f"the coordinator's unit leaves {units:.2g} units to this site's share of the noise, "
            f"and {MINIMUM_UNITS:g} are needed"
        )
    if form.exponent < FixedPoint.of(plan, session.round, work.stretch).exponent:
        raise MalformedInput("the coordinator's unit is so small that the noise could be cut")
    if not form.holds(work.answer.arrays):
        raise Declined(
            "out-of-range", "this site's numbers do not fit the sum; cutting them would cut noise"
        )


def _fields(document: str, *names: str) -> dict[str, Any]:
    try:
        value = json.loads(document)
    except (ValueError, RecursionError) as error:
        raise MalformedInput("malformed secure sum: not JSON") from error
    if not isinstance(value, dict) or set(value) != set(names):
        raise MalformedInput(f"malformed secure sum: expected {' and '.join(names)}")
    return value


def _statements(value: object) -> dict[str, SignedStatement]:
    if not isinstance(value, dict):
        raise MalformedInput("malformed secure sum: expected signed statements by site")
    try:
        return {str(name): SignedStatement.from_json(each) for name, each in value.items()}
    except FiduciaryError as error:
        raise MalformedInput(f"malformed secure sum: {error}") from error


def _text(statement: SignedStatement) -> str:
    return json.dumps(statement.to_json())
