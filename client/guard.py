"""The guard: whether this site takes part in a plan. It decides alone, and it is pure.

`check_evidence` asks who says so: the coordinator's signature, the officer's approval, and that
both are in the one log whose earlier heads this site has seen. `check_site` asks whether the site
agrees: its policy, its datasets, its base model and its budget. `decide` joins the findings.

* A plan that no rule objects to is allowed; one objection refuses it, and every rule is reported.
* Nothing is fetched, opened or written here. `client.review` brings the facts.
* The rules' names are the refusals' codes; they do not change meaning.
* A finding leaves the site inside a signed refusal, so it never tells how many subjects a site has,
  which labels its records carry, or what was spent on other plans.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise

from audit.checkpoint import Checkpoint, read_checkpoint
from audit.errors import FiduciaryError, VerificationFailed
from audit.keys import VerifyKey
from audit.leaf import Leaf
from audit.merkle import verify_consistency
from audit.proof import Proof, verify_proof
from audit.statement import SignedStatement, verify_statement
from audit.words import count_of
from client.budget import Cost, Limits, Reservation, over_limit, over_period
from client.dataset_rules import DatasetFacts, Demands, check_datasets
from client.evidence import LogEvidence, PlanEvidence
from client.findings import Finding, first_failure
from client.policy import Policy
from client.proposals import Proposal, check_proposal
from compliance.statements import Decision, TrainingPlan

_TELL = "do not train; tell the compliance officer what this site saw"


@dataclass(frozen=True)
class Membership:
    """Who this site is and whom it believes; from its own folder, never from the network."""

    federation: str
    site: str
    coordinator_key: VerifyKey
    log_key: VerifyKey
    log_origin: str


@dataclass(frozen=True)
class SiteFacts:
    """What is at the site.

    Attributes:
        policy: What the operator allows.
        datasets: Everything in the vault.
        count_subjects: Distinct subjects over datasets of these names, erased ones left out.
        base_model_digest: Digest of the plan's base model as it is installed here, None when it is
            not installed.
        base_model_problem: Why there is no digest.
        cost_of: What a reservation would cost under the policy's limits, beside everything spent or
            reserved.
        now: The present time, with its zone.
    """

    policy: Policy
    datasets: tuple[DatasetFacts, ...]
    count_subjects: Callable[[Sequence[str]], int]
    base_model_digest: str | None
    base_model_problem: str
    cost_of: Callable[[Reservation, Limits], Cost]
    now: datetime


@dataclass(frozen=True)
class Approval:
    """An officer's approval that the evidence proves, and where it stands in the log.

    Attributes:
        log: Origin of the log.
        plan_position: Entry of the plan.
        position: Entry of the decision.
        decision: Digest of the signed decision.
        decided_by: Who approved.
        decided_at: RFC 3339 time.
    """

    log: str
    plan_position: int
    position: int
    decision: str
    decided_by: str
    decided_at: str


@dataclass(frozen=True)
class Witnessed:
    """A plan that the evidence proves, with the newest tree head that proves it (a signed note)."""

    plan: TrainingPlan
    checkpoint: str
    approval: Approval


@dataclass(frozen=True)
class Terms:
    """On which terms the site would take part: what the plan needs, and what the policy allows."""

    reservation: Reservation
    limits: Limits


@dataclass(frozen=True)
class Allowed:
    """The site takes part, on these terms."""

    plan: TrainingPlan
    terms: Terms
    approval: Approval
    findings: tuple[Finding, ...]


@dataclass(frozen=True)
class Refused:
    """The site does not take part: the first rule that objects, why, and what to do."""

    code: str
    reason: str
    fix: str
    findings: tuple[Finding, ...]


Verdict = Allowed | Refused


# --- who says so -------------------------------------------------------------------------------


def check_evidence(
    plan_id: str, evidence: PlanEvidence, member: Membership, seen: Checkpoint | None
) -> tuple[tuple[Finding, ...], Witnessed | None]:
    """Verify a plan's signatures, approval and place in the log.

    Args:
        plan_id: The plan that the coordinator asks for.
        evidence: What the compliance service showed.
        member: Whom this site believes.
        seen: The tree head that this site saw last.

    Returns:
        A finding for each rule, and the plan when all of them are content.
    """
    signed = _plan_signed(plan_id, evidence.plan, member)
    if not signed.passed:
        return (signed,), None
    try:
        plan = TrainingPlan.from_body(evidence.plan.body)
    except FiduciaryError as error:
        problem = Finding("plan-signed", False, str(error), "ask the coordinator for a new plan")
        return (problem,), None
    findings = (
        signed,
        _addressed(plan, member),
        _approved(plan_id, plan, evidence.decision, member),
        _logged("plan-logged", "plan", evidence.plan, evidence.plan_entry, member),
        _logged("approval-logged", "approval", evidence.decision, evidence.decision_entry, member),
        _one_history(evidence, member, seen),
    )
    if (
        first_failure(findings) is not None
        or evidence.decision is None
        or evidence.decision_entry is None
    ):
        return findings, None
    decision = Decision.from_body(evidence.decision.body)
    approval = Approval(
        log=member.log_origin,
        plan_position=Leaf.parse(evidence.plan_entry.leaf).position,
        position=Leaf.parse(evidence.decision_entry.leaf).position,
        decision=evidence.decision.digest,
        decided_by=decision.decided_by,
        decided_at=decision.decided_at,
    )
    return findings, Witnessed(plan, _newest_note(evidence), approval)


def _plan_signed(plan_id: str, statement: SignedStatement, member: Membership) -> Finding:
    detail = f"plan {plan_id[:19]}… is signed by the coordinator of {member.federation}"
    if statement.digest != plan_id:
        detail = f"the service answered with plan {statement.digest[:19]}…, not {plan_id[:19]}…"
        return Finding("plan-signed", False, detail, _TELL)
    try:
        verify_statement(statement, member.coordinator_key)
    except FiduciaryError:
        detail = "the plan is not signed by the coordinator's key of the kit"
        return Finding("plan-signed", False, detail, _TELL)
    return Finding("plan-signed", True, detail)


def _addressed(plan: TrainingPlan, member: Membership) -> Finding:
    ask = "ask the coordinator to name this site and federation in the plan"
    if plan.federation != member.federation:
        detail = f"the plan is for federation {plan.federation}, not {member.federation}"
        return Finding("plan-addressed", False, detail, ask)
    return Finding(
        "plan-addressed",
        member.site in plan.sites,
        f"the plan asks {count_of(len(plan.sites), 'site')}; this one is "
        f"{'' if member.site in plan.sites else 'not '}among them",
        ask,
    )


def _approved(
    plan_id: str, plan: TrainingPlan, statement: SignedStatement | None, member: Membership
) -> Finding:
    ask = f"an officer who is not the author runs `compliance approve plan {plan_id}`"

    def no(detail: str, fix: str = ask) -> Finding:
        return Finding("plan-approved", False, detail, fix)

    if statement is None:
        return no("no officer has approved the plan")
    try:
        decision = Decision.from_body(verify_statement(statement, member.log_key))
    except VerificationFailed:
        return no("the approval is not signed by the compliance service", _TELL)
    except FiduciaryError as error:
        return no(str(error), _TELL)
    if decision.object != f"plan:{plan_id}":
        return no("the approval is for something else", _TELL)
    if decision.verdict != "approved":
        return no("the officer rejected the plan")
    if decision.decided_by == plan.author:
        return no("the plan was approved by its own author")
    return Finding("plan-approved", True, f"approved at {decision.decided_at}")


def _logged(
    rule: str,
    what: str,
    statement: SignedStatement | None,
    entry: LogEvidence | None,
    member: Membership,
) -> Finding:
    if statement is None:
        return Finding(rule, False, f"there is no {what} to look for", f"see to the {what} first")
    if entry is None:
        return Finding(rule, False, f"there is no log entry of the {what}", _TELL)
    try:
        proof = Proof.parse(entry.proof)
        verify_proof(proof, member.log_key, leaf=entry.leaf, origin=member.log_origin)
        leaf = Leaf.parse(entry.leaf)
    except FiduciaryError as error:
        return Finding(rule, False, f"the log does not prove the {what}: {error}", _TELL)
    if leaf.object != statement.log_object or leaf.position != proof.index:
        return Finding(
            rule, False, f"the log's entry is of another statement than the {what}", _TELL
        )
    return Finding(rule, True, f"the {what} is entry {leaf.position} of {member.log_origin}")


def _one_history(evidence: PlanEvidence, member: Membership, seen: Checkpoint | None) -> Finding:
    """The heads of both proofs extend the head that this site saw last, and one another."""
    heads = [] if seen is None else [seen]
    try:
        shown = [read_checkpoint(note) for note in _notes(evidence)]
        if seen is not None and any(head.size < seen.size for head in shown):
            smallest = min(head.size for head in shown)
            detail = f"the log shows {count_of(smallest, 'entry')}; this site has seen {seen.size}"
            return Finding("log-consistent", False, detail, _TELL)
        heads += sorted(shown, key=lambda head: head.size)
        growth = {(step.first, step.second): step.hashes for step in evidence.growth}
        for first, second in pairwise(heads):
            hashes = growth.get((first.size, second.size), ())
            verify_consistency(first.size, second.size, first.root, second.root, hashes)
    except FiduciaryError as error:
        detail = f"the log does not extend what this site has seen: {error}"
        return Finding("log-consistent", False, detail, _TELL)
    return Finding(
        "log-consistent",
        True,
        f"one history of {count_of(heads[-1].size, 'entry')} of {member.log_origin}",
    )


def _notes(evidence: PlanEvidence) -> list[str]:
    entries = [evidence.plan_entry, evidence.decision_entry]
    return [Proof.parse(entry.proof).checkpoint for entry in entries if entry is not None]


def _newest_note(evidence: PlanEvidence) -> str:
    return max(_notes(evidence), key=lambda note: read_checkpoint(note).size)


# --- whether this site agrees ------------------------------------------------------------------


def check_site(
    plan_id: str, plan: TrainingPlan, facts: SiteFacts
) -> tuple[tuple[Finding, ...], Terms]:
    """Ask the site's own rules about a plan.

    Returns:
        A finding for each rule, and the terms on which the site would take part.
    """
    policy = facts.policy
    chosen, dataset_findings = check_datasets(
        plan,
        facts.datasets,
        facts.count_subjects,
        Demands(policy.minimum_subjects, policy.deidentification, facts.now),
    )
    terms = Terms(Reservation.of(plan_id, plan, chosen), policy.limits)
    findings = (
        *check_proposal(policy, Proposal.of(plan)),
        *dataset_findings,
        _base_model(plan, facts),
        *_budget(terms, facts),
    )
    return findings, terms


def _base_model(plan: TrainingPlan, facts: SiteFacts) -> Finding:
    name, wanted = plan.base_model.name, plan.base_model.digest
    if facts.base_model_digest is None:
        return Finding(
            "base-model-present",
            False,
            facts.base_model_problem or f"base model {name} is not installed here",
            f"install it, or put its folder under models/ as {name.replace('/', '--')}",
        )
    return Finding(
        "base-model-present",
        facts.base_model_digest == wanted,
        f"base model {name} is {facts.base_model_digest[:19]}… here; the plan names {wanted[:19]}…",
        "install the very model that the plan names, or ask for a plan with this one",
    )


def _budget(terms: Terms, facts: SiteFacts) -> tuple[Finding, ...]:
    limits, fix = terms.limits, "`client budget` shows what was spent; policy.toml holds the limits"
    try:
        cost = facts.cost_of(terms.reservation, limits)
    except FiduciaryError as error:
        return (Finding("budget", False, str(error), error.fix),)
    if cost.reserved:
        kept = Finding("budget-period", True, "a plan that is reserved goes on")
        return Finding("budget", True, f"epsilon {cost.plan} is reserved for this plan"), kept
    problem, too_soon = over_limit(terms.reservation, cost, limits), over_period(cost, limits)
    room = "the policy has no limit within a period"
    if limits.period is not None:
        room = (
            f"the limit of {limits.period.max_epsilon} within {limits.period.days} days allows it"
        )
    return (
        Finding(
            "budget",
            problem is None,
            problem or f"the plan costs epsilon {cost.plan}, and the budget allows it",
            fix,
        ),
        Finding(
            "budget-period",
            too_soon is None,
            too_soon or room,
            f"wait until earlier rounds are older than that; {fix}",
        ),
    )


# --- the verdict -------------------------------------------------------------------------------


def decide(
    evidence_findings: Sequence[Finding],
    witnessed: Witnessed | None,
    site_findings: Sequence[Finding],
    terms: Terms | None,
) -> Verdict:
    """Join the findings: allowed only when every rule of both parts is content."""
    findings = (*evidence_findings, *site_findings)
    failure = first_failure(findings)
    if failure is not None:
        return Refused(failure.rule, failure.detail, failure.fix, findings)
    if witnessed is None or terms is None or not site_findings:
        # Only a caller's mistake leads here; it must not read as consent.
        return Refused("not-checked", "the plan was not checked completely", _TELL, findings)
    return Allowed(witnessed.plan, terms, witnessed.approval, findings)
