"""Finds approved plans, runs them one after another, and releases what they made.

* Nothing starts on anybody's word: a plan must carry this coordinator's own signature, and the
  approval of it the compliance service's, for exactly this plan.
* Nothing starts while the compliance service is away; it is asked again, ever more slowly.
* A plan that cannot be run ends as failed with the reason; it never looks completed.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from audit.errors import FiduciaryError, Refused, Unreachable, VerificationFailed
from audit.keys import VerifyKey
from audit.statement import sign_statement, verify_statement
from audit.words import count_of
from client.learning.base_model import resolve_base_model
from client.learning.plan_model import PlanModel, State
from client.learning.tasks import build_model
from compliance.api import ComplianceClient
from compliance.resources import PlanEvidence, PlanView
from compliance.statements import Decision, Refusal, TrainingPlan, utc_now
from server.checkpoints import Keeper, kept_rounds
from server.erased_models import remove_erased
from server.errors import PlanRefused
from server.federation import Federation
from server.progress import RememberingReporter, Reporter
from server.registrar import Registrar
from server.releases import Release, build_release, publish, unreported
from server.rounds import Stopped, plain
from server.runs import RunFolder, RunState, all_runs
from server.starts import start_state
from server.superlink import SuperLink
from server.training import Training

MAX_BACKOFF_SECONDS = 15.0
MAX_TROUBLES = 20

REPORTS_SECONDS = 15.0
"""How long a release waits for reports that sites are still sending."""

REPORTS_LOOK_SECONDS = 0.25

TIDY_SECONDS = 3600.0
"""How often kept models are looked through for those whose time is over."""


def verify_plan(
    view: PlanView, *, federation: str, coordinator: VerifyKey, log_key: VerifyKey
) -> TrainingPlan:
    """The plan, if it is ours and was approved. Pure.

    Args:
        view: As the compliance service gives it.
        federation: This federation's name.
        coordinator: This coordinator's own key.
        log_key: The compliance service's log key, which signs decisions.

    Raises:
        VerificationFailed: When a signature or digest does not hold.
        PlanRefused: When the approval is not one of this plan by somebody else than its author.
    """
    if view.statement.digest != view.plan_id:
        raise VerificationFailed(f"plan {view.plan_id} is listed under another plan's id")
    plan = TrainingPlan.from_body(verify_statement(view.statement, coordinator))
    if plan.federation != federation:
        raise PlanRefused(f"plan {plan.name} is for federation {plan.federation}")
    if view.approval is None:
        raise PlanRefused(f"plan {plan.name} carries no approval")
    decision = Decision.from_body(verify_statement(view.approval, log_key))
    if decision.object != f"plan:{view.plan_id}" or decision.verdict != "approved":
        raise PlanRefused(f"the approval of plan {plan.name} is for something else")
    if decision.decided_by == plan.author:
        raise PlanRefused(f"plan {plan.name} was approved by its own author")
    return plan


class Coordinator:
    """The work of `server start`, in a thread of its own.

    Args:
        federation: The federation.
        link: The embedded SuperLink.
        registrar: Knows the admitted sites.
        reporter: Where news goes.
        stop: Set when the coordinator is asked to stop.
    """

    def __init__(
        self,
        federation: Federation,
        link: SuperLink,
        registrar: Registrar,
        reporter: Reporter,
        stop: threading.Event,
    ) -> None:
        self._federation = federation
        self._link = link
        self._registrar = registrar
        self._reporter = RememberingReporter(reporter)
        self._stop = stop
        self._refused: set[str] = set()
        self._troubles: list[str] = []
        self._compliance_away = ""
        self._tidied = float("-inf")

    def status(self) -> dict[str, Any]:
        """The live state, for `server status`."""
        view = self._reporter.view
        return {
            "pid": os.getpid(),
            "sites": {
                site: site in self._link.online() for site in sorted(self._link.registered())
            },
            "run": None if view is None else view.to_json(self._reporter.round_seconds),
            "compliance": self._compliance_away or "reachable",
            "errors": [*self._registrar.trouble, *self._troubles],
        }

    def run(self) -> None:
        """Work until asked to stop."""
        backoff_seconds = self._federation.settings.poll_seconds
        with self._federation.compliance() as compliance:
            while not self._stop.is_set():
                try:
                    self._work(compliance)
                    if self._compliance_away:
                        self._reporter.event("compliance-back")
                    self._compliance_away = ""
                    backoff_seconds = self._federation.settings.poll_seconds
                except Stopped:
                    return
                except Unreachable as error:
                    if not self._compliance_away:
                        self._reporter.note(f"waiting for the compliance service: {error}")
                        self._reporter.event("compliance-away", code=error.code)
                    self._compliance_away = str(error)
                    backoff_seconds = min(2 * backoff_seconds, MAX_BACKOFF_SECONDS)
                except FiduciaryError as error:
                    self._trouble(str(error), error.code)
                    backoff_seconds = min(2 * backoff_seconds, MAX_BACKOFF_SECONDS)
                self._stop.wait(backoff_seconds)

    def _work(self, compliance: ComplianceClient) -> None:
        """Finish what was begun, then take the oldest approved plan."""
        self._tidy(compliance)
        for folder, state in all_runs(self._federation.runs):
            if state.stage == "running" or (state.outcome_recorded and _released(state)):
                continue
            try:
                self._wind_up(compliance, folder, state)
            except Unreachable:
                raise
            except FiduciaryError as error:
                # It is tried again, and must not stand in the way of other plans.
                self._trouble(f"{state.name}: {error}", error.code)
        approved = [view for view in compliance.plans("approved") if self._is_new(view)]
        for view in sorted(approved, key=lambda view: view.approved_position or 0):
            self._train(compliance, view)

    def _tidy(self, compliance: ComplianceClient) -> None:
        """Remove kept models whose time is over, or that hold somebody erased, now and then.

        Raises:
            Unreachable: When the service is away; it is all tried again with the next work.
        """
        if time.monotonic() - self._tidied < TIDY_SECONDS:
            return
        keeping = self._federation.settings.kept_checkpoints > 0
        checkpoints, now = self._federation.checkpoints, datetime.now(UTC)
        removed = 0
        try:
            checkpoints.tidy(now, keeping=keeping)
            removed = remove_erased(
                checkpoints, compliance.erasures, self._federation.identity, now
            )
        except Unreachable:
            raise
        except FiduciaryError as error:
            # A refusal is an entry of the log: it is not asked for again before it is time.
            self._trouble(f"kept models were not looked through: {error}", error.code)
        self._tidied = time.monotonic()
        if removed:
            self._reporter.note(f"kept models that held erased subjects were removed: {removed}")

    def _is_new(self, view: PlanView) -> bool:
        return view.plan_id not in self._refused

    def _train(self, compliance: ComplianceClient, view: PlanView) -> None:
        try:
            plan = self._verified(view)
        except (VerificationFailed, PlanRefused) as error:
            self._refuse(compliance, view.plan_id, error)
            return
        folder = RunFolder.of(self._federation.runs, view.plan_id)
        self._reporter.note(
            f"{plan.name}: approved, {count_of(plan.rounds, 'round')} over"
            f" {count_of(len(plan.sites), 'site')}"
        )
        self._reporter.event(
            "run-started", plan=view.plan_id, rounds=plan.rounds, sites=len(plan.sites)
        )
        training = self._training(compliance, view.plan_id, plan, folder)
        try:
            model = build_model(plan, resolve_base_model(plan.base_model.name))
            initial = self._initial(plan, folder, model)
        except FiduciaryError as error:
            training().fail(plain(f"the coordinator cannot build the model: {error}"))
            return
        run_id, completed = self._link.open_run(), False
        try:
            state = training(model, initial).run(run_id)
            completed = state.stage == "completed"
        except (Stopped, Unreachable):
            raise
        except FiduciaryError as error:
            self._trouble(f"{plan.name}: {error}", error.code)
            state = training().fail(plain(str(error)))
        except Exception as error:
            # A fault of ours must not look like a run that is still going on.
            training().fail(f"the coordinator failed with {type(error).__name__}")
            raise
        finally:
            self._link.close_run(run_id, completed=completed)
        self._wind_up(compliance, folder, state)

    def _training(
        self, compliance: ComplianceClient, plan_id: str, plan: TrainingPlan, folder: RunFolder
    ) -> Callable[..., Training]:
        keeper = Keeper(
            self._federation.checkpoints,
            plan_id,
            plan,
            kept_rounds(plan.rounds, self._federation.settings.kept_checkpoints),
        )

        def make(model: PlanModel | None = None, initial: State | None = None) -> Training:
            return Training(
                plan_id,
                plan,
                folder,
                initial or ({} if model is None else model.get_state()),
                signer=self._federation.identity,
                wire=self._link,
                sites=self._registrar,
                compliance=compliance,
                reporter=self._reporter,
                stop=self._stop,
                stretch=1.0 if model is None else model.stretch(),
                keeper=keeper,
            )

        return make

    def _initial(self, plan: TrainingPlan, folder: RunFolder, model: PlanModel) -> State:
        """The model before the first round; a run that has finished one does not ask for it."""
        state, like = folder.load(), model.get_state()
        if plan.starts_from is None or (state is not None and state.rounds_done):
            return like
        return start_state(self._federation.checkpoints, plan.starts_from, like)

    def _wind_up(self, compliance: ComplianceClient, folder: RunFolder, state: RunState) -> None:
        """Record the outcome if that was interrupted, and release what was completed."""
        view = compliance.plan(state.plan_id)
        plan = self._verified(view)
        if not state.outcome_recorded:
            state = self._training(compliance, state.plan_id, plan, folder)().record_outcome(state)
        if _released(state):
            return
        release = build_release(
            self._federation, compliance, view, plan, folder, state,
            lambda: self._reported(compliance, state),
        )  # fmt: skip
        release_id = publish(self._federation, compliance, release)
        folder.save(state.model_copy(update={"release_id": release_id}))
        self._reporter.note(_release_line(plan, release, release_id))
        self._reporter.event(
            "release-published",
            plan=state.plan_id,
            release=release_id,
            bytes=release.ciphertext_bytes,
        )

    def _reported(self, compliance: ComplianceClient, state: RunState) -> PlanEvidence:
        """What was reported of a run, with what sites are still sending: a release tells of it.

        A site that is gone is not waited for long. Its report comes later, and until then the
        release does not pass its gate.

        Raises:
            Stopped: When the coordinator was asked to stop.
        """
        ends = time.monotonic() + REPORTS_SECONDS
        while True:
            evidence = compliance.plan_evidence(state.plan_id)
            missing = unreported(evidence, state)
            if not missing:
                return evidence
            if time.monotonic() >= ends:
                self._reporter.note(
                    f"{state.name}: not all reports of {', '.join(missing)} have come; until then "
                    "the release does not pass its gate"
                )
                return evidence
            if self._stop.wait(REPORTS_LOOK_SECONDS):
                raise Stopped

    def _verified(self, view: PlanView) -> TrainingPlan:
        return verify_plan(
            view,
            federation=self._federation.settings.name,
            coordinator=self._federation.identity.public,
            log_key=self._federation.trust.log_key,
        )

    def _refuse(self, compliance: ComplianceClient, plan_id: str, error: FiduciaryError) -> None:
        self._refused.add(plan_id)
        self._reporter.event("plan-refused", plan=plan_id, code=error.code)
        self._trouble(f"plan {plan_id} was refused: {error}", error.code)
        refusal = Refusal(
            refused_by="coordinator",
            object=f"plan:{plan_id}",
            code=error.code,
            reason=plain(str(error)),
            refused_at=utc_now(),
        )
        try:
            compliance.report_refusal(sign_statement(refusal.body(), self._federation.identity))
        except (Refused, VerificationFailed) as unrecorded:
            self._trouble(f"the refusal could not be recorded: {unrecorded}", unrecorded.code)

    def _trouble(self, sentence: str, code: str) -> None:
        if sentence not in self._troubles:
            self._reporter.note(f"trouble: {sentence}")
            self._reporter.event("trouble", code=code)
            self._troubles = [*self._troubles, sentence][-MAX_TROUBLES:]


def _released(state: RunState) -> bool:
    return state.stage == "failed" or state.release_id is not None


def _release_line(plan: TrainingPlan, release: Release, release_id: str) -> str:
    return (
        f"{plan.name}: released as {release_id} ({release.ciphertext_bytes / 1e6:.1f} MB, "
        f"encrypted); next, by an officer: compliance approve release {release_id}"
    )
