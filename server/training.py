"""One plan's run, from its first round to its outcome; it reads top to bottom.

* A round counts only after the compliance service has recorded its signed report.
* No round begins before a quorum is online: a round that nobody started costs nobody anything.
* A round that too few sites trained all the same is missed: it is reported without participants and
  the model stays as it is. One more than the plan's `missed_rounds` ends the run as failed, with
  the reason; so does a final model that nobody trained or measured.
* A run that is stopped or killed goes on when the coordinator comes back (`server.runs`).
* The global model is what `client.learning.aggregation` makes of the sites' updates; what is
  evaluated and released is its average of iterates.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Protocol

from audit.keys import SigningKey
from audit.statement import SignedStatement, sign_statement
from audit.words import count_of
from client.fleet_tasks import TaskKind
from client.learning.aggregation import (
    Iterate,
    advance_by,
    begin,
    combined_update,
    miss,
    state_to_send,
)
from client.learning.metrics import EvaluationReport, evaluation_report
from client.learning.plan_model import State
from client.learning.travelling import chosen, completed, names_in_update
from compliance.statements import (
    SiteReport,
    TrainingPlan,
    utc_now,
)
from server.attendance import Attendance
from server.errors import QuorumNotReached
from server.gathering import IN_VAIN, Gathering, Identities, Trained
from server.progress import Reporter, RunView
from server.recording import Recorder, Recording
from server.replies import (
    mean_norm,
    norm_of,
)
from server.round_reports import epsilon_after, metrics_of, round_report, run_outcome
from server.rounds import Exchange, Task, Wire
from server.runs import AggregatedRound, PendingRound, RoundSummary, RunFolder, RunState
from server.telling import ending_in_words, round_in_words, tell_end, tell_exchange, tell_round

START_GRACE_SECONDS = 30.0
"""How long a run waits for all of its sites once a quorum of them is online."""

_ACTIVITIES = {"train": "training", "evaluate": "evaluating"}


class Keeper(Protocol):
    """Keeps models that later plans may start from (`server.checkpoints`)."""

    @property
    def rounds(self) -> frozenset[int]:
        """After how many rounds."""

    def keep(self, rounds: int, model: State, now: datetime) -> None:
        """Keep the model after some rounds; again after a crash, without harm."""


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
        stretch: `PlanModel.stretch` of the plan's model.
        keeper: Keeps models that later plans may start from.
        clock: Monotonic seconds, by which deadlines are kept.
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
        compliance: Recorder,
        reporter: Reporter,
        stop: threading.Event,
        stretch: float = 1.0,
        keeper: Keeper | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._plan_id = plan_id
        self._plan = plan
        self._folder = folder
        self._initial = initial
        self._signer = signer
        self._wire = wire
        self._sites = sites
        self._recording = Recording(compliance, stop, self._note)
        self._reporter = reporter
        self._stop = stop
        self._stretch = stretch
        self._keeper = keeper
        self._clock = clock
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
        state = self._folder.load() or self._folder.save(self._unbegun())
        gathering = Gathering(
            self._plan_id,
            self._plan,
            run_id,
            wire=self._wire,
            sites=self._sites,
            stop=self._stop,
            watch=self._watch,
            tell=self._tell,
            clock=self._clock,
            kept=self._folder.sums,
            stretch=self._stretch,
        )
        try:
            state = self._record_pending(state)
            self._folder.tidy(state)
            iterate = self._folder.model(state) or begin(self._initial)
            if state.rounds_done:
                self._note(f"going on after round {state.rounds_done}")
            grace_seconds = min(START_GRACE_SECONDS, float(self._plan.deadline_seconds))
            while state.stage == "running" and state.rounds_done < self._plan.rounds:
                if state.aggregated is None:
                    self._await_quorum(grace_seconds)
                grace_seconds = 0.0
                iterate, state = self._round(gathering, iterate, state)
            if state.stage == "running":
                _check_model(state)
                state = self._folder.save(state.model_copy(update={"stage": "completed"}))
        except QuorumNotReached as error:
            state = self._folder.load() or state
            self._reporter.event("round-failed", plan=self._plan_id, round=state.rounds_done)
            failed = {"stage": "failed", "reason": str(error), "aggregated": None}
            state = self._folder.save(state.model_copy(update=failed))
        finally:
            self._reporter.show(None)
        return self.record_outcome(state)

    def fail(self, reason: str) -> RunState:
        """End the run as failed, for a reason outside the rounds."""
        state = self._folder.load() or self._unbegun()
        failed = state.model_copy(update={"stage": "failed", "reason": reason})
        return self.record_outcome(self._folder.save(failed))

    def record_outcome(self, state: RunState) -> RunState:
        """Sign the outcome once, and tell the compliance service until it has it."""
        if state.outcome is None:
            signed = sign_statement(run_outcome(state, utc_now()).body(), self._signer)
            state = self._folder.save(state.model_copy(update={"outcome": signed.to_json()}))
        if not state.outcome_recorded:
            statement = SignedStatement.from_json(state.outcome)
            self._recording.outcome(self._plan_id, statement)
            state = self._folder.save(state.model_copy(update={"outcome_recorded": True}))
            self._note(ending_in_words(state))
            tell_end(self._reporter, state)
        return state

    def _unbegun(self) -> RunState:
        now = utc_now()
        return RunState(
            plan_id=self._plan_id,
            name=self._plan.name,
            rounds=self._plan.rounds,
            started_at=now,
            updated_at=now,
        )

    # --- one round -----------------------------------------------------------------------------

    def _round(
        self, gathering: Gathering, iterate: Iterate, state: RunState
    ) -> tuple[Iterate, RunState]:
        number = state.rounds_done
        phase = self._plan.phase_of(number)
        started = self._clock()
        returning = frozenset(state.history[-1].participants if state.history else ())
        self._show(round=number, phase=phase.kind, epsilon_by_site=_texts(state.epsilon_by_site))

        aggregated = state.aggregated
        if aggregated is None:
            state, aggregated = self._train(gathering, iterate, state, returning)
        advanced = self._folder.aggregate(aggregated)
        evaluation, reports = self._measure(gathering, advanced, state, aggregated)
        metrics = None if evaluation is None else metrics_of(evaluation)
        epsilon = epsilon_after(aggregated.epsilon_by_site, reports)
        report = round_report(
            self._plan_id, phase.kind, aggregated, advanced, epsilon, metrics, utc_now()
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
            seconds=round(max(aggregated.seconds, self._clock() - started), 3),
        )
        state = self._folder.prepare_round(
            state,
            aggregated,
            summary=summary,
            statement=statement,
            epsilon_by_site=epsilon,
            # A missed round changed nothing: what was measured before still holds.
            evaluation=state.evaluation if summary.missed and metrics is None else evaluation,
        )
        state = self._record_pending(state)
        self._note(round_in_words(self._plan, summary, epsilon))
        tell_round(self._reporter, self._plan_id, summary, epsilon)
        return advanced, state

    def _train(
        self,
        gathering: Gathering,
        iterate: Iterate,
        state: RunState,
        returning: frozenset[str],
    ) -> tuple[RunState, AggregatedRound]:
        """Have a round trained, and write what became of it.

        Raises:
            QuorumNotReached: When the round had none, and the plan bears no more of those.
        """
        number, started = state.rounds_done, self._clock()
        sent = state_to_send(iterate, self._plan)
        try:
            trained = gathering.train(number, sent, returning)
        except QuorumNotReached as error:
            if state.rounds_missed >= self._plan.missed_rounds:
                raise
            missing = {site: error.absent.get(site, IN_VAIN) for site in self._plan.sites}
            trained = Trained([], dict(error.reports), missing)
            participants: tuple[str, ...] = ()
            advanced, norm = miss(iterate, self._plan), 0.0
        else:
            participants = tuple(sorted(trained.reports))
            part = chosen(sent, names_in_update(self._plan, number, sent))
            update = completed(combined_update(self._plan.aggregation, trained.updates, part), sent)
            advanced, norm = advance_by(iterate, self._plan, update), norm_of(update)
        return self._folder.prepare_aggregate(
            state,
            advanced,
            participants=participants,
            absent=dict(sorted(trained.absent.items())),
            update_norm=mean_norm(norm),
            epsilon_by_site=epsilon_after(state.epsilon_by_site, trained.reports.values()),
            seconds=round(self._clock() - started, 3),
        )

    def _measure(
        self, gathering: Gathering, advanced: Iterate, state: RunState, aggregated: AggregatedRound
    ) -> tuple[EvaluationReport | None, list[SiteReport]]:
        """Have a model evaluated that is not yet, or not any more, the one that was."""
        number, trained = aggregated.round, bool(aggregated.participants)
        last = number + 1 == self._plan.rounds
        if trained or (last and state.trained and state.metrics is None):
            return self._evaluate(gathering, number, advanced, frozenset(aggregated.participants))
        return None, []

    def _record_pending(self, state: RunState) -> RunState:
        if state.pending is None:
            return state
        statement = SignedStatement.from_json(state.pending.statement)
        self._recording.round(self._plan_id, statement)
        self._keep(state, state.pending)
        return self._folder.finish_round(state)

    def _keep(self, state: RunState, pending: PendingRound) -> None:
        """Keep the model of a recorded round, before it counts: after a crash it is kept again."""
        rounds, keeper = pending.summary.round + 1, self._keeper
        if keeper is None or rounds not in keeper.rounds:
            return
        if all(summary.missed for summary in (*state.history, pending.summary)):
            return  # it is still what the run started from
        keeper.keep(rounds, self._folder.pending_model(pending).average, datetime.now(UTC))

    def _evaluate(
        self, gathering: Gathering, number: int, advanced: Iterate, returning: frozenset[str]
    ) -> tuple[EvaluationReport | None, list[SiteReport]]:
        try:
            counted = gathering.evaluate(number, advanced.average, returning)
        except QuorumNotReached as error:
            # The training of the round stands; only the last round cannot do without its metrics.
            if number + 1 == self._plan.rounds:
                raise QuorumNotReached(f"nobody measured the final model: {error}") from error
            return None, []
        evaluation = evaluation_report(counted.total, self._plan.labels)
        metrics = metrics_of(evaluation)
        self._show(
            accuracy=str(metrics.accuracy),
            macro_f1=_text(metrics.macro_f1),
            perplexity=_text(metrics.perplexity),
        )
        return evaluation, list(counted.reports.values())

    def _watch(
        self,
        kind: TaskKind,
        accepted: Collection[str],
        absent: Mapping[str, str],
        waiting: Collection[str],
    ) -> None:
        self._show(
            activity=_ACTIVITIES.get(kind, "summing"),
            answered=tuple(accepted),
            absent=dict(absent),
            waiting=tuple(waiting),
        )

    def _tell(self, task: Task, told: Exchange[Any]) -> None:
        tell_exchange(self._reporter, task, told)

    # --- waiting -------------------------------------------------------------------------------

    def _await_quorum(self, grace_seconds: float) -> None:
        attendance = Attendance(
            sites=self._plan.sites,
            quorum=self._plan.quorum,
            deadline_seconds=self._plan.deadline_seconds,
            online=self._wire.online,
            admitted=lambda site: self._sites.identity_of(site) is not None,
            clock=self._clock,
            stop=self._stop,
        )
        everybody = len(self._plan.sites)
        attendance.await_quorum(
            grace_seconds,
            watch=lambda count: self._show(activity=f"waiting for sites ({count} of {everybody})"),
            tell=lambda missing: self._note(f"waiting for {', '.join(missing)}"),
        )

    def _note(self, words: str) -> None:
        self._reporter.note(f"{self._plan.name}: {words}")

    def _show(self, **changes: object) -> None:
        self._view = replace(self._view, **changes)  # type: ignore[arg-type]
        self._reporter.show(self._view)


def _check_model(state: RunState) -> None:
    """A run that changed nothing, or whose model nobody measured, is no success."""
    if not state.trained:
        raise QuorumNotReached(
            f"nothing was trained: {count_of(state.rounds_missed, 'round')} had no quorum"
        )
    if state.metrics is None:
        raise QuorumNotReached("nobody measured the final model")


def _text(value: Decimal | None) -> str:
    return "" if value is None else str(value)


def _texts(epsilon: Mapping[str, Decimal]) -> dict[str, str]:
    return {site: f"{value:.2f}" for site, value in epsilon.items()}
