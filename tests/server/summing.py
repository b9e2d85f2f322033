"""Sites that take part in secure sums: real keys, real TLS, the real protocol, and a script."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from audit.errors import FiduciaryError
from audit.keys import VerifyKey
from audit.statement import SignedStatement
from client.arrays import Arrays
from client.fleet_tasks import IncomingTask
from client.flower import FleetConnection
from client.learning.tasks import counts_like
from client.secure_aggregation.fixed_point import FixedPoint, join_counts
from client.secure_aggregation.masks import Vector
from client.secure_aggregation.member import Member
from client.secure_aggregation.messages import MASKED, Dealt, Session, read_document
from tests.server.scripted import ScriptedSite


@dataclass
class SummingSite(ScriptedSite):
    """A scripted site of a plan that sums securely; a context manager.

    Attributes:
        peers: Identity of every site.
        vanish: Steps that it does not answer, as a site that was cut off.
        before: Called with the step before it answers.
        vectors: What it put into each sum, by activity.
        twist: Changes the document or the masked vector before it is sent.
    """

    peers: Mapping[str, VerifyKey] = field(default_factory=dict)
    vanish: tuple[str, ...] = ()
    before: Callable[[str], None] = lambda step: None
    vectors: dict[str, Vector] = field(default_factory=dict)
    twist: Callable[[str, Any], Any] = lambda step, answer: answer
    parts: dict[str, tuple[Member, Vector]] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)

    def _answer(self, connection: FleetConnection, task: IncomingTask) -> None:
        self.seen.append((task.kind, task.round))
        self.before(task.kind)
        if task.kind in self.vanish:
            return
        try:
            answer = self._part(task)
        except FiduciaryError as error:
            self.refused.append(str(error))
            connection.reply_refusal(task, error.code, str(error), "{}")
            return
        answer = self.twist(task.kind, answer)
        with suppress(FiduciaryError):  # as a worker: a reply that finds no taker is no end
            if isinstance(answer, str):
                connection.reply_document(task, answer)
            else:
                connection.reply_arrays(task, answer, self.report(task, answer))

    def _part(self, task: IncomingTask) -> str | Arrays:
        asked = json.loads(task.document)
        if task.kind in ("train", "evaluate"):
            session = read_document(asked["session"], Session)
            member = Member(
                session, self.files.name, self.files.identity, self.peers, self.plan.quorum
            )
            self.vectors[task.kind] = self._vector(task, session)
            self.parts[session.digest] = (member, self.vectors[task.kind])
            return _text(member.keys)
        member, vector = self.parts[asked["session"]]
        match task.kind:
            case "deal":
                return _text(member.deal(_statements(asked["offers"])))
            case "mask":
                dealt = {name: read_document(box, Dealt) for name, box in asked["boxes"].items()}
                return {MASKED: member.mask(dealt, vector)}
            case "attest":
                return _text(member.attest(asked["survivors"]))
            case _:
                return _text(member.reveal(_statements(asked["attested"])))

    def _vector(self, task: IncomingTask, session: Session) -> Vector:
        if task.kind == "train":
            form = FixedPoint(session.unit_exponent, len(self.plan.sites))
            return form.encode(self.update(task))
        counts = self.script.counts(len(self.plan.labels))
        return join_counts({**counts_like(self.plan), **counts})

    def activity_of(self, task: IncomingTask) -> str:
        """Of which sum a step is."""
        if task.kind in ("train", "evaluate"):
            return task.kind
        return self.parts[json.loads(task.document)["session"]][0].session.activity


def random_update(seed: int) -> Callable[[Arrays], Arrays]:
    """An update that no other site has, of about the length of honest ones."""
    generator = np.random.default_rng(seed)

    def update(state: Arrays) -> Arrays:
        return {
            name: generator.uniform(-0.1, 0.1, array.shape).astype(np.float32)
            for name, array in state.items()
        }

    return update


def _text(statement: SignedStatement) -> str:
    return json.dumps(statement.to_json())


def _statements(value: Mapping[str, Any]) -> dict[str, SignedStatement]:
    return {name: SignedStatement.from_json(each) for name, each in value.items()}
