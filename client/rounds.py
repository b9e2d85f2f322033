"""What a site does with one task of the coordinator: decide, reserve, train or evaluate, report.

One `train` task, in order; a crash between any two steps leaves the ledger right:

1. The guard decides (`client.review`), and the task's arrays are read as the plan says; where it
   starts from a model, the first round must bring that very model (`start-mismatch`). Outside of
   the policy's training hours the round is declined, not the plan. Where the plan asks for it, the
   site's own trainer is audited (`client.plan_audit`), once a plan. A no is a `Declined`.
2. The plan's whole budget is reserved. The model and the examples are loaded and the coordinator's
   state is checked, so that what cannot be trained costs nothing. The journal says to each subject
   that the plan may now use the records (`client.subject_trail`).
3. The round is started in the ledger, durably, once for ever.
4. It is trained. From the first gradient on it is spent, however it ends.
5. The report is signed, journalled and queued for the compliance service. Where the plan sums
   securely, that waits until the vector is masked (`client.secure_sums`).
6. The answer is what travels of the update (`client.learning.travelling`, `client.transport`), and
   the report names its digest. It is kept, sealed and durable (`client.kept_answers`): the same
   question gets the same answer again, while the site's guard still allows the plan.
7. What was computed with the records of somebody who was erased meanwhile is not answered with, and
   is not summed (`Work.check`): the round counts as spent, and the site is absent from it.

Nothing is sent from here: `client.tasks` gives the answer to the coordinator.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy.typing as npt

from audit.errors import Conflict, NotFound, Unreachable
from audit.key_manager import KeyDestroyed
from audit.log import Entry, utc_clock
from audit.words import count_of
from client.answers import Answers
from client.arrays import Arrays, arrays_digest
from client.fleet_tasks import IncomingTask
from client.guard import Allowed, Refused
from client.kept_answers import Answer, Asked, KeptAnswers
from client.learning.randomness import Keystream
from client.learning.travelling import Activity, chosen, names_in_update
from client.ledger import Ledger
from client.lessons import Lessons, Material, State
from client.plan_audit import PlanAudit
from client.policy import read_policy
from client.presentation import short
from client.progress import ActivityFile, Doing, Reporter
from client.proposals import check_hours
from client.refusals import Declined
from client.review import Review
from client.site import Site
from client.stopping import StopSignal
from client.subject_trail import Trail, Use
from client.transport import encode
from compliance.statements import SiteReport, TrainingPlan, utc_now

PLAN_ID = re.compile(r"sha256:[0-9a-f]{64}")

NOTED = "round-noted"
"""Journal entries of what the operator should look at; nothing of them leaves the site."""

START_MISMATCH = "start-mismatch"
"""Code of the refusal of a first round that starts from another model than its plan says."""

_ERASURES_AT_ONCE = 20
"""How often examples are read again because a subject was erased before it was journalled."""


def _require_start(plan: TrainingPlan, round_index: int, state_digest: str) -> None:
    """Train the first round of a plan that starts from a model from that very model only.

    Raises:
        Declined: When the coordinator sent another.
    """
    start = plan.starts_from
    if start is not None and round_index == 0 and state_digest != start.model:
        raise Declined(
            START_MISMATCH,
            "the model that was sent for the first round is not the one that the plan starts from",
            "tell the compliance officer: the plan was approved for another model",
        )


@dataclass(frozen=True)
class Work:
    """What a task came to.

    Attributes:
        plan: Whose task it was.
        answer: What the coordinator gets. Where the plan sums securely it stays here, and its
            report is the body of one that nobody has signed yet.
    """

    plan: TrainingPlan
    answer: Answer
    stretch: float = 1.0
    """`PlanModel.stretch` of the plan's model, where the plan distributes its noise."""
    check: Callable[[], None] = lambda: None
    """Raises `Declined` once a subject whose records went into it was erased."""


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
        kept: Its last answer to each plan.
        activity: Told what happens.
        stop: Says when to end.
        reporter: Where to say what happens.
        now: The present time, with its zone.
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
        kept: KeptAnswers,
        activity: ActivityFile,
        stop: StopSignal,
        reporter: Reporter,
        now: Callable[[], datetime] = utc_clock,
    ) -> None:
        self._site = site
        self._now = now
        self._ledger = ledger
        self._lessons = lessons
        self._review = review
        self._trail = trail
        self._audit = audit
        self._answers = answers
        self._kept = kept
        self._activity = activity
        self._stop = stop
        self._reporter = reporter

    def train(self, task: IncomingTask) -> Work:
        """Train a round, or find the answer that the same question got before.

        Raises:
            Declined: When this site says no.
            FiduciaryError: When the budget, the journal or the training says no.
        """
        allowed = self._allowed(task)
        arrays = self._opened(task, allowed, "train")
        asked = Asked(task.plan_id, task.round, arrays_digest(arrays))
        _require_start(allowed.plan, task.round, asked.state_digest)
        known = self._kept.find(asked)
        if known is not None:
            self._reporter.say(
                f"round {task.round + 1} of plan {short(task.plan_id)} is asked for again: the "
                "same answer, at no further cost"
            )
            return self._work(task, allowed.plan, known, None)
        plan, phase = allowed.plan, allowed.plan.phase_of(task.round)
        self._require_training_hours()
        self._audit.require(task.plan_id, plan)
        self._ledger.reserve(allowed.terms.reservation, allowed.terms.limits)
        state = self._lessons.completed(task.plan_id, plan, arrays)
        material = self._prepare(task, allowed, state)
        material = self._record_use(task, allowed, material, state)
        self._ledger.start_round(task.plan_id, task.round)
        subjects = frozenset(self._lessons.trained_subjects)
        self._begin("training", task, plan)
        label = f"round {task.round + 1} of {plan.rounds}, plan {short(task.plan_id)}"
        spent = self._ledger.epsilon_spent(task.plan_id)
        told = f"{label}, epsilon {spent} of {plan.privacy.epsilon}"
        began = time.monotonic()
        self._activity.update(epsilon_spent=str(spent))
        with self._reporter.steps(told, phase.steps_per_round) as shown:

            def progress(done: int, total: int) -> None:
                self._stop.check()
                shown(done, total, self._lessons.observed.records)
                self._activity.step(done, total, self._lessons.observed.records)

            with self._stop.interruptible():
                result = self._lessons.train(task.round, state, progress)
        self._note(task, label)
        moved = chosen(result.update, names_in_update(plan, task.round, result.update))
        sent = encode(moved, plan.transport.precision, Keystream())
        report = self._report(
            task, allowed, material, steps=result.steps, answer=arrays_digest(sent)
        )
        answer = self._answer(plan, sent, report)
        self._kept.keep(asked, answer)
        work = self._work(task, plan, answer, subjects)
        # After it is kept: an erasure marks the subject first and drops what is kept then.
        work.check()
        self._activity.update(rounds_trained=self._activity.activity.rounds_trained + 1)
        self._reporter.say(f"trained {told}: {count_of(result.steps, 'step')}")
        self._reporter.event(
            "round-trained",
            plan=task.plan_id,
            round=task.round,
            phase=phase.kind,
            steps=result.steps,
            seconds=round(time.monotonic() - began, 3),
            epsilon=float(spent),
        )
        return work

    def evaluate(self, task: IncomingTask) -> Work:
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
        arrays = self._opened(task, allowed, "evaluate")
        state = self._lessons.completed(task.plan_id, plan, arrays)
        material = self._prepare(task, allowed, state)
        self._ledger.allow_evaluation(task.plan_id, task.round, arrays_digest(arrays))
        material = self._record_use(task, allowed, material, state)
        self._begin("evaluating", task, plan)
        subjects = frozenset(self._lessons.held_out_subjects)
        with self._stop.interruptible():
            counts = self._lessons.evaluate(state).to_arrays()
        self._check_unerased(task.plan_id, subjects)
        report = self._report(task, allowed, material, steps=0, answer=arrays_digest(counts))
        self._reporter.say(f"evaluated round {task.round + 1} of plan {short(task.plan_id)}")
        self._reporter.event("round-evaluated", plan=task.plan_id, round=task.round)
        return self._work(task, plan, self._answer(plan, counts, report), subjects)

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
        if verdict.plan.secure_aggregation != bool(task.document):
            raise Declined(
                "aggregation-mismatch",
                "the plan and the coordinator differ in whether the answers are summed securely",
            )
        return verdict

    def _require_training_hours(self) -> None:
        found = check_hours(read_policy(self._site.paths.policy), self._now())
        if not found.passed:
            raise Declined(found.rule, found.detail, found.fix)

    def _opened(
        self, task: IncomingTask, allowed: Allowed, activity: Activity
    ) -> Mapping[str, npt.NDArray[Any]]:
        with self._stop.interruptible():
            return self._lessons.opened(task, allowed.plan, activity)

    def _prepare(self, task: IncomingTask, allowed: Allowed, state: State) -> Material:
        datasets = allowed.terms.reservation.datasets
        with self._stop.interruptible():
            return self._lessons.prepare(task.plan_id, allowed.plan, datasets, state)

    def _record_use(
        self, task: IncomingTask, allowed: Allowed, material: Material, state: State
    ) -> Material:
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
                material = self._prepare(task, allowed, state)
            else:
                return material
        raise Conflict(
            "subjects are being erased while the round begins", fix="wait until that is done"
        )

    def _begin(self, doing: Doing, task: IncomingTask, plan: TrainingPlan) -> None:
        self._activity.begin(doing, task.plan_id, task.round, plan)

    def _note(self, task: IncomingTask, label: str) -> None:
        """Tell the operator, and the journal, what training met that nobody else may know."""
        seen = self._lessons.observed
        if seen.unusable_subjects:
            self._reporter.say(
                f"{label}: the gradients of {count_of(seen.unusable_subjects, 'sampled subject')} "
                "were not finite and counted as zero; look for broken records, or a learning rate "
                "that is too large",
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
        self, task: IncomingTask, allowed: Allowed, material: Material, *, steps: int, answer: str
    ) -> SiteReport:
        plan = allowed.plan
        return SiteReport(
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
            deidentification=self._review.measured(allowed.terms.reservation.datasets),
        )

    def _work(
        self,
        task: IncomingTask,
        plan: TrainingPlan,
        answer: Answer,
        subjects: frozenset[str] | None,
    ) -> Work:
        """What a task came to; without `subjects`, of an answer that may hold anybody's."""
        shared = plan.privacy.noise_sites is not None
        before = self._lessons.erased() if subjects is None else frozenset()

        def check() -> None:
            self._check_unerased(task.plan_id, subjects, before)

        return Work(plan, answer, self._lessons.stretch() if shared else 1.0, check)

    def _check_unerased(
        self,
        plan_id: str,
        subjects: frozenset[str] | None,
        before: frozenset[str] = frozenset(),
    ) -> None:
        """Let nothing leave that was computed with the records of somebody who is erased by now.

        Raises:
            Declined: When that is so; a kept answer is destroyed with it.
        """
        erased = self._lessons.erased()
        if not (erased - before if subjects is None else erased & subjects):
            return
        self._kept.drop(plan_id)
        raise Declined(
            "subject-erased",
            "a data subject was erased while this site computed its answer, which stays here",
        )

    def _answer(self, plan: TrainingPlan, arrays: Arrays, report: SiteReport) -> Answer:
        if plan.secure_aggregation:
            return Answer(arrays, report.body())
        return Answer(arrays, self._answers.answer_report(report))
