"""One plan's run, from its first round to its outcome; it reads top to bottom.

* A round counts only after the compliance service has recorded its signed report.
* A round that too few sites trained ends the run as failed, with the reason; so does a last round
  that nobody measured. A run that is stopped goes on when the coordinator comes back.
* The global model is what `client.learning.aggregation` makes of the sites' updates; what is
  evaluated and released is its average of iterates.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any, Protocol, TypeVar

from audit.errors import Unreachable
from audit.keys import SigningKey, VerifyKey
from audit.statement import SignedStatement, sign_statement
from client.arrays import arrays_digest, pack_arrays
from client.learning.aggregation import Iterate, advance, begin, mean_update, state_to_send
from client.learning.evaluation import Evaluation, sum_evaluations
from client.learning.language_evaluation import LanguageSummary
from client.learning.metrics import EvaluationReport, evaluation_report
from client.learning.plan_model import State
from compliance.api import ComplianceClient
from compliance.statements import (
    Metrics,
    RoundReport,
    RunOutcome,
    SiteReport,
    TrainingPlan,
    utc_now,
)
from server.errors import MalformedReply, QuorumNotReached
from server.progress import Reporter, RunView
from server.replies import (
    Accepted,
    Expected,
    accept_evaluation,
    accept_update,
    mean_norm,
    norm_of,
)
from server.rounds import Exchange, Stopped, Task, Wire, exchange
from server.runs import RoundSummary, RunFolder, RunState
from server.superlink import Answer

MAX_REASON_CHARACTERS = 1500
START_GRACE_SECONDS = 30.0
"""How long a run waits for all of its sites once a quorum of them is online."""

MAX_BACKOFF_SECONDS = 15.0

T = TypeVar("T")


class Identities(Protocol):
    """Who signs for a site."""

    def identity_of(self, site: str) -> VerifyKey | None:
        """The admitted site's identity key."""


class Training:
    """The run of one approved plan.

    Args:
        plan_id: The plan's digest.
        plan: The plan, verified.
        folder: Where the run is kept.
        initial: The model's weights before the first round.
        signer: The coordinator's identity.
        wire: The SuperLink.
        sites: Identities of the admitted sites.
        compliance: Where reports go.
        reporter: Where news goes.
        stop: Set when the coordinator is asked to stop.
    """

    def __init__(
        self,
        plan_id: str,
        plan: TrainingPlan,
        folder: RunFolder,
        initial: State,
        *,
        signer: SigningKey,
        wire: Wire,
        sites: Identities,
        compliance: ComplianceClient,
        reporter: Reporter,
        stop: threading.Event,
    ) -> None:
        self._plan_id = plan_id
        self._plan = plan
        self._folder = folder
        self._initial = initial
        self._signer = signer
        self._wire = wire
        self._sites = sites
        self._compliance = compliance
        self._reporter = reporter
        self._stop = stop
        self._view = RunView(
            plan_id=plan_id,
            name=plan.name,
            round=0,
            rounds=plan.rounds,
            phase=plan.phases[0].kind,
            activity="starting",
            sites=plan.sites,
            epsilon_promised=str(plan.privacy.epsilon),
        )

    def run(self, run_id: int) -> RunState:
        """Do what is left of the run and record its outcome.

        Args:
            run_id: From `SuperLink.open_run`.

        Raises:
            Stopped: When the coordinator was asked to stop; the run goes on later.
        """
        state = self._folder.load() or self._folder.save(
            RunState(
                plan_id=self._plan_id,
                name=self._plan.name,
                rounds=self._plan.rounds,
                started_at=utc_now(),
                updated_at=utc_now(),
            )
        )
        try:
            state = self._record_pending(state)
            iterate = self._folder.model(state) or begin(self._initial)
            if state.rounds_done:
                self._reporter.note(f"{self._plan.name}: going on after round {state.rounds_done}")
            if state.stage == "running" and state.rounds_done < self._plan.rounds:
                self._await_sites()
            while state.stage == "running" and state.rounds_done < self._plan.rounds:
                iterate, state = self._round(run_id, iterate, state)
            if state.stage == "running":
                state = self._folder.save(state.model_copy(update={"stage": "completed"}))
        except QuorumNotReached as error:
            state = self._folder.load() or state
            state = self._folder.save(
                state.model_copy(update={"stage": "failed", "reason": str(error)})
            )
        finally:
            self._reporter.show(None)
        return self.record_outcome(state)

    def fail(self, reason: str) -> RunState:
        """End the run as failed, for a reason outside the rounds."""
        state = self._folder.load() or RunState(
            plan_id=self._plan_id,
            name=self._plan.name,
            rounds=self._plan.rounds,
            started_at=utc_now(),
            updated_at=utc_now(),
        )
        failed = state.model_copy(update={"stage": "failed", "reason": reason})
        return self.record_outcome(self._folder.save(failed))

    def record_outcome(self, state: RunState) -> RunState:
        """Sign the outcome once, and tell the compliance service until it has it."""
        if state.outcome is None:
            outcome = RunOutcome(
                plan_id=self._plan_id,
                verdict="completed" if state.stage == "completed" else "failed",
                reason=state.reason,
                rounds_done=state.rounds_done,
                metrics=state.metrics,
                finished_at=utc_now(),
            )
            signed = sign_statement(outcome.body(), self._signer)
            state = self._folder.save(state.model_copy(update={"outcome": signed.to_json()}))
        if not state.outcome_recorded:
            statement = SignedStatement.from_json(state.outcome)
            self._until_recorded(lambda: self._compliance.report_outcome(self._plan_id, statement))
            state = self._folder.save(state.model_copy(update={"outcome_recorded": True}))
            self._reporter.note(_ending(self._plan, state))
        return state

    # --- one round -----------------------------------------------------------------------------

    def _round(self, run_id: int, iterate: Iterate, state: RunState) -> tuple[Iterate, RunState]:
        number = state.rounds_done
        phase = self._plan.phase_of(number)
        started = time.monotonic()
        returning = frozenset(state.history[-1].participants if state.history else ())
        self._show(round=number, phase=phase.kind, epsilon_by_site=_texts(state.epsilon_by_site))

        sent = state_to_send(iterate, self._plan)
        trained = self._ask(
            run_id, "train", number, sent, returning, self._judge_update(number, sent)
        )
        if len(trained.accepted) < self._plan.quorum:
            raise QuorumNotReached(_without_quorum(number, self._plan.quorum, trained))

        updates = [trained.accepted[site].arrays for site in sorted(trained.accepted)]
        advanced = advance(iterate, self._plan, updates)
        evaluation, reports = self._evaluate(run_id, number, advanced, frozenset(trained.accepted))
        metrics = None if evaluation is None else _metrics(evaluation)
        epsilon = _epsilon_after(
            state, [item.report for item in trained.accepted.values()] + reports
        )
        report = RoundReport(
            plan_id=self._plan_id,
            round=number,
            phase=phase.kind,
            participants=tuple(sorted(trained.accepted)),
            absent=dict(sorted(trained.absent.items())),
            update_norm=mean_norm(norm_of(mean_update(updates, sent))),
            state_digest=arrays_digest(advanced.to_arrays()),
            epsilon_by_site=epsilon,
            metrics=metrics,
            finished_at=utc_now(),
        )
        statement = sign_statement(report.body(), self._signer)
        summary = RoundSummary(
            round=number,
            phase=phase.kind,
            participants=report.participants,
            absent=report.absent,
            report=statement.digest,
            state_digest=report.state_digest,
            metrics=metrics,
            seconds=round(time.monotonic() - started, 3),
        )
        state = self._folder.prepare_round(
            state,
            advanced,
            summary=summary,
            statement=statement,
            epsilon_by_site=epsilon,
            evaluation=evaluation,
        )
        state = self._record_pending(state)
        self._reporter.note(_round_line(self._plan, summary, epsilon))
        return advanced, state

    def _record_pending(self, state: RunState) -> RunState:
        if state.pending is None:
            return state
        statement = SignedStatement.from_json(state.pending.statement)
        self._until_recorded(lambda: self._compliance.report_round(self._plan_id, statement))
        return self._folder.finish_round(state)

    def _evaluate(
        self, run_id: int, number: int, advanced: Iterate, returning: frozenset[str]
    ) -> tuple[EvaluationReport | None, list[SiteReport]]:
        def judge(site: str, answer: Answer) -> tuple[Evaluation[Any], SiteReport]:
            expected = self._expected(site, number, "evaluate")
            return accept_evaluation(expected, answer.arrays, answer.report)

        told = self._ask(run_id, "evaluate", number, advanced.average, returning, judge)
        if not told.accepted:
            # The training of the round stands; only the last round cannot do without its metrics.
            if number + 1 == self._plan.rounds:
                raise QuorumNotReached(f"nobody measured the final model: {_reasons(told)}")
            return None, []
        total = sum_evaluations([counts for counts, _ in told.accepted.values()])
        evaluation = evaluation_report(total, self._plan.labels)
        metrics = _metrics(evaluation)
        self._show(
            accuracy=str(metrics.accuracy),
            macro_f1=_text(metrics.macro_f1),
            perplexity=_text(metrics.perplexity),
        )
        return evaluation, [report for _, report in told.accepted.values()]

    def _judge_update(self, number: int, like: State) -> Callable[[str, Answer], Accepted]:
        def judge(site: str, answer: Answer) -> Accepted:
            expected = self._expected(site, number, "train")
            return accept_update(expected, answer.arrays, answer.report, like)

        return judge

    def _expected(self, site: str, number: int, activity: str) -> Expected:
        identity = self._sites.identity_of(site)
        if identity is None:
            raise MalformedReply("the site is no longer admitted")
        return Expected(
            plan_id=self._plan_id,
            plan=self._plan,
            round=number,
            site=site,
            identity=identity,
            activity="train" if activity == "train" else "evaluate",
        )

    def _ask(
        self,
        run_id: int,
        kind: str,
        number: int,
        arrays: State,
        returning: frozenset[str],
        judge: Callable[[str, Answer], T],
    ) -> Exchange[T]:
        # A site may keep its held-out counts to itself: one that tells is enough for metrics.
        quorum = self._plan.quorum if kind == "train" else 1
        task = Task(
            run_id=run_id,
            kind="train" if kind == "train" else "evaluate",
            plan_id=self._plan_id,
            round=number,
            arrays=pack_arrays(arrays),
            sites=self._plan.sites,
            quorum=quorum,
            deadline_seconds=self._plan.deadline_seconds,
            returning=returning,
        )

        def watch(
            accepted: Collection[str], absent: Mapping[str, str], waiting: Collection[str]
        ) -> None:
            self._show(
                activity="training" if kind == "train" else "evaluating",
                answered=tuple(accepted),
                absent=dict(absent),
                waiting=tuple(waiting),
            )

        return exchange(self._wire, task, judge, clock=time.monotonic, stop=self._stop, watch=watch)

    # --- waiting -------------------------------------------------------------------------------

    def _await_sites(self) -> None:
        """Wait for a quorum, and a little longer for everybody."""
        quorum_since: float | None = None
        told = False
        while True:
            online = self._wire.online() & set(self._plan.sites)
            self._show(activity=f"waiting for sites ({len(online)} of {len(self._plan.sites)})")
            if len(online) == len(self._plan.sites):
                return
            if len(online) >= self._plan.quorum:
                quorum_since = quorum_since or time.monotonic()
                grace = min(START_GRACE_SECONDS, float(self._plan.deadline_seconds))
                if time.monotonic() - quorum_since >= grace:
                    return
            else:
                quorum_since = None
            if not told:
                missing = ", ".join(sorted(set(self._plan.sites) - online))
                self._reporter.note(f"{self._plan.name}: waiting for {missing}")
                told = True
            if self._stop.wait(0.1):
                raise Stopped

    def _until_recorded(self, call: Callable[[], object]) -> None:
        """Repeat a call until the compliance service answers: without evidence nothing goes on."""
        backoff_seconds, told = 0.5, False
        while True:
            try:
                call()
            except Unreachable as error:
                if not told:
                    self._reporter.note(f"{self._plan.name}: waiting for compliance: {error}")
                    told = True
                if self._stop.wait(backoff_seconds):
                    raise Stopped from error
                backoff_seconds = min(2 * backoff_seconds, MAX_BACKOFF_SECONDS)
            else:
                return

    def _show(self, **changes: object) -> None:
        self._view = replace(self._view, **changes)  # type: ignore[arg-type]
        self._reporter.show(self._view)


def _epsilon_after(state: RunState, reports: list[SiteReport]) -> dict[str, Decimal]:
    epsilon = dict(state.epsilon_by_site)
    for report in reports:
        epsilon[report.site] = max(epsilon.get(report.site, Decimal(0)), report.epsilon_spent)
    return dict(sorted(epsilon.items()))


def _metrics(evaluation: EvaluationReport) -> Metrics:
    """What signed statements say of an evaluation."""
    figures = evaluation.everybody
    accuracy, examples = _fraction(figures.accuracy), figures.examples
    if isinstance(figures, LanguageSummary):
        perplexity = None if figures.perplexity is None else _fraction(figures.perplexity)
        return Metrics(accuracy=accuracy, perplexity=perplexity, examples=examples)
    return Metrics(accuracy=accuracy, macro_f1=_fraction(figures.macro.f1), examples=examples)


def _fraction(value: float) -> Decimal:
    return Decimal(f"{value:.6f}")


def _text(value: Decimal | None) -> str:
    return "" if value is None else str(value)


def _texts(epsilon: Mapping[str, Decimal]) -> dict[str, str]:
    return {site: f"{value:.2f}" for site, value in epsilon.items()}


def _without_quorum(number: int, quorum: int, told: Exchange[T]) -> str:
    return (
        f"round {number + 1} had {len(told.accepted)} of the {quorum} sites that it needs: "
        f"{_reasons(told)}"
    )


def _reasons(told: Exchange[T]) -> str:
    absent = (f"{site}: {reason}" for site, reason in sorted(told.absent.items()))
    return "; ".join(absent)[:MAX_REASON_CHARACTERS]


def _round_line(plan: TrainingPlan, summary: RoundSummary, epsilon: Mapping[str, Decimal]) -> str:
    spent = f", epsilon up to {max(epsilon.values()):.2f}" if epsilon else ""
    measured = f", accuracy {summary.metrics.accuracy:.4f}" if summary.metrics else ""
    if summary.metrics and summary.metrics.perplexity is not None:
        measured += f", perplexity {summary.metrics.perplexity:.2f}"
    absent = "".join(f"; without {site}: {reason}" for site, reason in summary.absent.items())
    return (
        f"{plan.name}: round {summary.round + 1} of {plan.rounds} ({summary.phase}), "
        f"{len(summary.participants)} of {len(plan.sites)} sites{measured}{spent}, "
        f"{summary.seconds:.1f} s{absent}"
    )


def _ending(plan: TrainingPlan, state: RunState) -> str:
    if state.stage == "completed":
        return f"{plan.name}: completed after {state.rounds_done} rounds"
    return f"{plan.name}: failed after {state.rounds_done} rounds: {state.reason}"
