"""What a site does with one task of the coordinator: decide, reserve, train or evaluate, report.

One `train` task, in order; a crash between any two steps leaves the ledger right:

1. The guard decides (`client.review`). Where the plan asks for it, the site's own trainer is
   audited (`client.plan_audit`), once a plan. A no is a `Declined`.
2. The plan's whole budget is reserved. The model and the examples are loaded and the coordinator's
   state is checked, so that what cannot be trained costs nothing. The journal says to each subject
   that the plan may now use the records (`client.subject_trail`).
3. The round is started in the ledger, durably, once for ever.
4. It is trained. From the first gradient on it is spent, however it ends.
5. The report is signed, journalled and queued for the compliance service.

Nothing is sent from here: `client.worker` gives the answer to the coordinator.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from audit.errors import Conflict, NotFound, Unreachable
from audit.key_manager import KeyDestroyed
from audit.log import Entry
from client.answers import Answers
from client.arrays import Arrays, arrays_digest
from client.flower import IncomingTask
from client.guard import Allowed, Refused
from client.ledger import Ledger
from client.lessons import Lessons, Material
from client.plan_audit import PlanAudit
from client.policy import read_policy
from client.presentation import short
from client.progress import ActivityFile, Reporter
from client.refusals import Declined
from client.review import Review
from client.site import Site
from client.stopping import StopSignal
from client.subject_trail import Trail, Use
from compliance.statements import SiteReport, TrainingPlan, utc_now

PLAN_ID = re.compile(r"sha256:[0-9a-f]{64}")

NOTED = "round-noted"
"""Journal entries of what the operator should look at; nothing of them leaves the site."""

_ERASURES_AT_ONCE = 20
"""How often examples are read again because a subject was erased before it was journalled."""


@dataclass(frozen=True)
class Answer:
    """What the coordinator gets: arrays, and the site's signed report of exactly them."""

    arrays: Arrays
    report: dict[str, Any]


class Rounds:
    """Trains and evaluates rounds of plans that the site allows.

    Args:
        site: The site, opened.
        ledger: Its budget.
        lessons: Its training.
        review: Its guard.
        trail: Its journal of subjects.
        audit: Its audit of plans.
        answers: Makes its statements.
        activity: Told what happens.
        stop: Says when to end.
        reporter: Where to say what happens.
    """

    def __init__(
        self,
        site: Site,
        *,
        ledger: Ledger,
        lessons: Lessons,
        review: Review,
        trail: Trail,
        audit: PlanAudit,
        answers: Answers,
        activity: ActivityFile,
        stop: StopSignal,
        reporter: Reporter,
    ) -> None:
        self._site = site
        self._ledger = ledger
        self._lessons = lessons
        self._review = review
        self._trail = trail
        self._audit = audit
        self._answers = answers
        self._activity = activity
        self._stop = stop
        self._reporter = reporter

    def train(self, task: IncomingTask) -> Answer:
        """Train a round.

        Raises:
            Declined: When this site says no.
            FiduciaryError: When the budget, the journal or the training says no.
        """
        allowed = self._allowed(task)
        plan, phase = allowed.plan, allowed.plan.phase_of(task.round)
        self._audit.require(task.plan_id, plan)
        self._ledger.reserve(allowed.terms.reservation, allowed.terms.limits)
        material = self._record_use(task, allowed, self._prepare(task, allowed))
        self._ledger.start_round(task.plan_id, task.round)
        self._begin("training", task, plan)
        label = f"round {task.round + 1} of {plan.rounds}, plan {short(task.plan_id)}"
        spent = self._ledger.epsilon_spent(task.plan_id)
        told = f"{label}, epsilon {spent} of {plan.privacy.epsilon}"
        with self._reporter.steps(told, phase.steps_per_round) as shown:

            def progress(done: int, total: int) -> None:
                self._stop.check()
                shown(done, total, self._lessons.observed.records)

            with self._stop.interruptible():
                result = self._lessons.train(task.round, task.state, progress)
        self._note(task, label)
        report = self._report(
            task, plan, material, steps=result.steps, answer=arrays_digest(result.update)
        )
        self._reporter.say(f"trained {told}: {result.steps} steps")
        return Answer(result.update, report)

    def evaluate(self, task: IncomingTask) -> Answer:
        """Count right and wrong predictions on held-out subjects.

        Raises:
            Declined: When this site says no.
            FiduciaryError: When the ledger, the journal or the evaluation says no.
        """
        if not read_policy(self._site.paths.policy).share_evaluation:
            raise Declined(
                "evaluation-not-shared", "this site's policy does not share evaluation counts"
            )
        allowed = self._allowed(task)
        plan = allowed.plan
        plan.phase_of(task.round)
        self._audit.require(task.plan_id, plan)
        material = self._prepare(task, allowed)
        self._ledger.allow_evaluation(task.plan_id, task.round, arrays_digest(task.state))
        material = self._record_use(task, allowed, material)
        self._begin("evaluating", task, plan)
        with self._stop.interruptible():
            counts = self._lessons.evaluate(task.state).to_arrays()
        report = self._report(task, plan, material, steps=0, answer=arrays_digest(counts))
        self._reporter.say(f"evaluated round {task.round + 1} of plan {short(task.plan_id)}")
        return Answer(counts, report)

    def _allowed(self, task: IncomingTask) -> Allowed:
        if not PLAN_ID.fullmatch(task.plan_id):
            raise Declined("malformed-task", "the task names no plan")
        try:
            with self._stop.interruptible():
                verdict = self._review.of(task.plan_id)
        except Unreachable as error:
            raise Declined(
                "compliance-unreachable", "this site cannot ask the compliance service", error.fix
            ) from error
        except NotFound as error:
            raise Declined(
                "plan-unknown", "the compliance service knows no such plan for this site"
            ) from error
        if isinstance(verdict, Refused):
            raise Declined(verdict.code, verdict.reason, verdict.fix, whole_plan=True)
        return verdict

    def _prepare(self, task: IncomingTask, allowed: Allowed) -> Material:
        datasets = allowed.terms.reservation.datasets
        with self._stop.interruptible():
            return self._lessons.prepare(task.plan_id, allowed.plan, datasets, task.state)

    def _record_use(self, task: IncomingTask, allowed: Allowed, material: Material) -> Material:
        """Journal whose records the plan is about to use; what they are then.

        Raises:
            LogUnavailable: When the journal cannot be written; nothing may be used.
        """
        for _ in range(_ERASURES_AT_ONCE):
            trained = task.kind == "train"
            lessons = self._lessons
            try:
                self._trail.record(
                    Use.TRAINED if trained else Use.EVALUATED,
                    allowed,
                    lessons.trained_subjects if trained else lessons.held_out_subjects,
                    self._stop.check,
                )
            except KeyDestroyed:
                # Somebody was erased since the examples were read: they are read again, without.
                lessons.drop_examples()
                material = self._prepare(task, allowed)
            else:
                return material
        raise Conflict(
            "subjects are being erased while the round begins", fix="wait until that is done"
        )

    def _begin(self, doing: str, task: IncomingTask, plan: TrainingPlan) -> None:
        self._activity.update(
            doing=doing, plan_id=task.plan_id, round=task.round, rounds=plan.rounds
        )

    def _note(self, task: IncomingTask, label: str) -> None:
        """Tell the operator, and the journal, what training met that nobody else may know."""
        seen = self._lessons.observed
        if seen.unusable_subjects:
            self._reporter.say(
                f"{label}: the gradients of {seen.unusable_subjects} sampled subjects were not "
                "finite and counted as zero; look for broken records, or a learning rate that is "
                "too large",
                problem=True,
            )
        if seen.micro_batch_limit is not None:
            self._reporter.say(
                f"{label}: memory ran out, and micro-batches shrank to {seen.micro_batch_limit}; "
                "lower micro_batch_tokens in compute.toml",
                problem=True,
            )
        if seen.unusable_subjects or seen.micro_batch_limit is not None:
            self._site.journal.record(
                Entry(
                    actor=self._site.principal,
                    action=NOTED,
                    object=f"plan:{task.plan_id}",
                    subject=None,
                    payload={
                        "round": task.round,
                        "unusable_subjects": seen.unusable_subjects,
                        "micro_batch_limit": seen.micro_batch_limit,
                    },
                )
            )

    def _report(
        self, task: IncomingTask, plan: TrainingPlan, material: Material, *, steps: int, answer: str
    ) -> dict[str, Any]:
        report = SiteReport(
            plan_id=task.plan_id,
            site=self._site.name,
            round=task.round,
            activity=task.kind,
            steps=steps,
            epsilon_spent=self._ledger.epsilon_spent(task.plan_id),
            update_digest=answer,
            dataset_digest=material.dataset_digest,
            base_model_digest=plan.base_model.digest,
            deidentification_digest=material.deidentification_digest,
            software=self._answers.software,
            reported_at=utc_now(),
            audited_epsilon=self._audit.epsilon(task.plan_id) if plan.privacy_audit else None,
        )
        return {"site": self._site.name, "statement": self._answers.report(report).to_json()}
