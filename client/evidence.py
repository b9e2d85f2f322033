"""What the compliance service can prove of a plan.

It only carries: nothing in `PlanEvidence` is believed before the witness (`client.witnessing`) has
checked its heads, and the guard (`client.guard`) everything else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from audit.checkpoint import read_checkpoint
from audit.errors import MalformedInput
from audit.proof import Proof
from audit.statement import SignedStatement
from audit.words import count_of
from compliance.log_views import LogConsistency, LogProof
from compliance.resources import PlanView


class EvidenceService(Protocol):
    """The part of the compliance service that answers for plans."""

    def plan(self, plan_id: str) -> PlanView:
        """One plan."""

    def log_proof(self, position: int) -> LogProof:
        """A leaf with its inclusion proof and checkpoint."""

    def log_consistency(self, first: int, second: int) -> LogConsistency:
        """Proof that one tree extends another."""


@dataclass(frozen=True)
class LogEvidence:
    """One entry of the compliance log: its bytes, and its proof as text."""

    leaf: bytes
    proof: str


@dataclass(frozen=True)
class TreeGrowth:
    """Proof that the tree of `first` entries is a prefix of the tree of `second`."""

    first: int
    second: int
    hashes: tuple[bytes, ...]


@dataclass(frozen=True)
class PlanEvidence:
    """A plan with everything that is said to prove it. Nothing here is verified.

    Attributes:
        plan: The coordinator's signed plan.
        decision: The officer's signed decision, if there is one.
        plan_entry: The plan in the log.
        decision_entry: The decision in the log.
        growth: From the head that the site saw last, to those of the two entries' proofs.
    """

    plan: SignedStatement
    decision: SignedStatement | None
    plan_entry: LogEvidence
    decision_entry: LogEvidence | None
    growth: tuple[TreeGrowth, ...]


def fetch_evidence(service: EvidenceService, plan_id: str, seen_size: int) -> PlanEvidence:
    """Ask the compliance service for a plan and its proofs.

    Args:
        service: Where to ask.
        plan_id: Digest of the plan.
        seen_size: Size of the tree that the site saw last; 0 for none.

    Raises:
        NotFound: When the service knows no such plan.
        MalformedInput: When an answer cannot be read.
        Unreachable: When the service does not answer.
    """
    view = service.plan(plan_id)
    plan_entry = _entry(service, view.submitted_position)
    decision_entry = None
    if view.approval is not None and view.approved_position is not None:
        decision_entry = _entry(service, view.approved_position)
    entries = [plan_entry] if decision_entry is None else [plan_entry, decision_entry]
    sizes = sorted({_claimed_size(entry) for entry in entries})
    growth = []
    first = seen_size
    for size in sizes:
        if 0 < first < size:
            answer = service.log_consistency(first, size)
            if (answer.first, answer.second) != (first, size):
                raise MalformedInput(
                    f"the service's proof is not from {first} to {count_of(size, 'entry')}"
                )
            growth.append(TreeGrowth(answer.first, answer.second, answer.hashes))
        first = max(first, size)
    return PlanEvidence(
        plan=view.statement,
        decision=view.approval,
        plan_entry=plan_entry,
        decision_entry=decision_entry,
        growth=tuple(growth),
    )


def heads_of(evidence: PlanEvidence) -> list[str]:
    """The signed heads that the evidence rests on.

    Raises:
        MalformedInput: When a proof is none.
    """
    entries = (evidence.plan_entry, evidence.decision_entry)
    return [Proof.parse(entry.proof).checkpoint for entry in entries if entry is not None]


def _entry(service: EvidenceService, position: int) -> LogEvidence:
    answer = service.log_proof(position)
    return LogEvidence(answer.leaf, answer.proof)


def _claimed_size(entry: LogEvidence) -> int:
    return read_checkpoint(Proof.parse(entry.proof).checkpoint).size
