"""Brings the guard its facts: from the compliance service, the vault, the ledger, the policy file.

* What a plan's evidence proved is remembered for this process: it cannot become unproven.
* The site's own rules are asked again each time, so that an operator who tightens the policy or
  removes a dataset in the middle of a plan is obeyed from the next round on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime

from audit.errors import FiduciaryError, MalformedInput
from audit.keys import VerifyKey
from audit.log import utc_clock
from audit.witness import WitnessMoved
from audit.words import count_of
from client.base_models import installed_digest
from client.dataset_rules import DatasetFacts, uses
from client.evidence import EvidenceService, fetch_evidence
from client.findings import Finding
from client.guard import (
    Membership,
    SiteFacts,
    Verdict,
    Witnessed,
    check_evidence,
    check_site,
    decide,
)
from client.ledger import Ledger
from client.policy import Policy, read_policy
from client.recall.kept import Measurements
from client.site import Site
from client.vault.contents import Dataset
from client.vault.store import Vault
from client.witnessing import ATTEMPTS, LogWatch
from compliance.statements import DeidentificationFigures, TrainingPlan


class Review:
    """Decides on plans for one site.

    Args:
        site: Whose rules apply.
        vault: The site's data.
        ledger: The site's budget.
        service: The compliance service.
        now: The present time, with its zone.
    """

    def __init__(
        self,
        site: Site,
        vault: Vault,
        ledger: Ledger,
        service: EvidenceService,
        now: Callable[[], datetime] = utc_clock,
    ) -> None:
        self._site = site
        self._vault = vault
        self._ledger = ledger
        self._service = service
        self._now = now
        self._measurements = Measurements(site.paths, site.keyring)
        self._watch = LogWatch(site)
        self._eligible: dict[tuple[str, str, str], frozenset[str]] = {}
        self._proven: dict[str, tuple[tuple[Finding, ...], Witnessed]] = {}

    def of(self, plan_id: str) -> Verdict:
        """Whether this site takes part in a plan.

        Raises:
            Unreachable: When the compliance service does not answer.
            NotFound: When it knows no such plan.
            LogAlarm: When its log is not the one that this site cosigned.
            FiduciaryError: When the site's own files cannot be read.
        """
        findings, witnessed = self._prove(plan_id)
        if witnessed is None:
            return decide(findings, None, (), None)
        policy = self._read_policy()
        if isinstance(policy, Finding):
            return decide(findings, witnessed, (policy,), None)
        site_findings, terms = check_site(
            plan_id, witnessed.plan, self.facts(witnessed.plan, policy)
        )
        return decide(findings, witnessed, site_findings, terms)

    def facts(self, plan: TrainingPlan, policy: Policy) -> SiteFacts:
        """What the guard looks at for this plan."""
        digest, problem = self._base_model(plan.base_model.name)
        return SiteFacts(
            policy=policy,
            datasets=tuple(
                DatasetFacts(
                    name=dataset.name,
                    labels=frozenset(dataset.labels),
                    purposes=frozenset(dataset.datasheet.purposes),
                    legal_basis=dataset.datasheet.legal_basis,
                    content=dataset.datasheet.content,
                    measured=self._measurements.told([dataset]),
                    row_bases=frozenset(dataset.datasheet.legal_bases),
                )
                for dataset in self._vault.datasets()
            ),
            count_subjects=lambda names: self._count_subjects(plan, names),
            base_model_digest=digest,
            base_model_problem=problem,
            cost_of=self._ledger.cost_of,
            now=self._now(),
        )

    def measured(self, datasets: Sequence[str]) -> tuple[DeidentificationFigures, ...]:
        """What was measured of the de-identification of datasets of these names; it leaves."""
        return self._measurements.told([self._vault.dataset(name) for name in datasets])

    def notes(self, plan: TrainingPlan) -> tuple[str, ...]:
        """What the operator should know of an allowed plan; it tells counts and never leaves.

        Args:
            plan: The plan, as the service showed it.
        """
        names = [
            dataset.name
            for dataset in self._vault.datasets()
            if uses(plan, dataset.datasheet.purposes, dataset.datasheet.content)
        ]
        return notes_on(plan, self._count_subjects(plan, names)) if names else ()

    def _prove(self, plan_id: str) -> tuple[tuple[Finding, ...], Witnessed | None]:
        known = self._proven.get(plan_id)
        if known is not None:
            return known
        for attempt in range(ATTEMPTS):
            try:
                findings, witnessed = self._check(plan_id)
                break
            except WitnessMoved:
                if attempt == ATTEMPTS - 1:
                    raise
        if witnessed is not None:
            self._proven[plan_id] = (findings, witnessed)
        return findings, witnessed

    def _check(self, plan_id: str) -> tuple[tuple[Finding, ...], Witnessed | None]:
        """Fetch the evidence, accept its heads as a witness does, and let the guard see the rest.

        What is proven of a log that misbehaves is worth nothing, so the heads come first.
        """
        held = self._watch.held()
        seen = None if held is None else held.checkpoint
        evidence = fetch_evidence(self._service, plan_id, 0 if seen is None else seen.size)
        with suppress(MalformedInput):  # the guard says which proof is none, and refuses
            self._watch.accept_evidence(held, evidence)
        return check_evidence(plan_id, evidence, membership_of(self._site), seen)

    def _read_policy(self) -> Policy | Finding:
        try:
            return read_policy(self._site.paths.policy)
        except FiduciaryError as error:
            return Finding("policy-readable", False, str(error), error.fix)

    def _base_model(self, name: str) -> tuple[str | None, str]:
        try:
            return installed_digest(name, self._site.paths.models), ""
        except FiduciaryError as error:
            # Not the error's own words: they may name the site's folders, and a refusal leaves.
            return None, f"base model {name} cannot be used here ({error.code})"

    def _count_subjects(self, plan: TrainingPlan, names: Sequence[str]) -> int:
        excluded = {one.subject for one in self._vault.exclusions()}
        datasets = [self._vault.dataset(name) for name in names]
        if len(datasets) == 1 and not excluded and not datasets[0].datasheet.row_terms:
            return datasets[0].subjects
        # A subject may be in several datasets, and counts once; one who objected does not count.
        held = {subject for dataset in datasets for subject in self._subjects(plan, dataset)}
        return len(held - excluded)

    def _subjects(self, plan: TrainingPlan, dataset: Dataset) -> frozenset[str]:
        """Subjects with a record that the plan may use; those of one version are remembered."""
        if not dataset.datasheet.row_terms:
            return frozenset(one.pseudonym for one in self._vault.subjects_of(dataset.id))
        key = (dataset.digest, plan.purpose, plan.legal_basis)
        if key not in self._eligible:
            self._eligible[key] = eligible_subjects(self._vault, plan, dataset)
        return self._eligible[key]


def eligible_subjects(vault: Vault, plan: TrainingPlan, dataset: Dataset) -> frozenset[str]:
    """Who has a record in a dataset for the plan's purpose that the plan may use."""
    basis = dataset.datasheet.legal_basis
    return frozenset(
        record.subject
        for record in vault.each_example(dataset.name)
        if record.terms.allow(plan.purpose, plan.legal_basis, basis)
    )


def notes_on(plan: TrainingPlan, subjects: int) -> tuple[str, ...]:
    """Where a plan fits a population badly without breaking a promise, or with a weak one.

    Args:
        plan: The plan.
        subjects: The site's subjects for its purpose.
    """
    privacy, notes = plan.privacy, []
    if subjects < privacy.nominal_subjects:
        notes.append(
            f"the plan divides as if there were {count_of(privacy.nominal_subjects, 'subject')}"
            " here, "
            f"there are {subjects}: batches are smaller than it expects, which costs accuracy and"
            " no privacy; ask for a lower nominal_subjects"
        )
    if privacy.delta * subjects >= 1:
        notes.append(
            f"the promise may fail with a chance of {privacy.delta:f}, which is at least one in "
            f"your {count_of(subjects, 'subject')}; ask for a smaller delta, and lower it in"
            " policy.toml"
        )
    return tuple(notes)


def membership_of(site: Site) -> Membership:
    """Whom a site believes, from its kit."""
    kit = site.kit
    return Membership(
        federation=site.federation,
        site=site.name,
        coordinator_key=VerifyKey.parse(kit.coordinator_key),
        log_key=kit.trust.log_key,
        log_origin=kit.trust.origin,
    )
