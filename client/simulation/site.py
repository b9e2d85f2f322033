"""What a simulated site does with a task: decide, train or evaluate, sign; as `client.rounds`.

The guard's rules, the trainer, the split, the accountant and the report are a real site's. What a
site remembers between rounds, the rounds it has started, is in Flower's context of its node; all
else can be made anew by any worker process, which keeps one model and all sites' examples warm.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from flwr.app import ConfigRecord, Context, Message, RecordDict

from audit.canonical import canonical_bytes, digest
from audit.errors import FiduciaryError
from audit.log import utc_clock
from audit.statement import sign_statement
from client.arrays import Arrays, arrays_digest
from client.budget import Cost, Limits, Reservation, RoundAlreadyStarted
from client.dataset_rules import CONTENT_OF_TASK, DatasetFacts
from client.deflated import open_arrays
from client.findings import first_failure
from client.fleet_tasks import IncomingTask, answer_content, refusal_content, task_of
from client.guard import SiteFacts, check_site
from client.learning.accounting import Event, joined, reported_epsilon
from client.learning.base_model import base_model_digest, resolve_base_model
from client.learning.data import Example, StoredRecord, split_by_subject
from client.learning.frozen import DEFAULT_LIMIT_BYTES, FrozenValues
from client.learning.passes import Settings
from client.learning.plan_model import PlanModel, State
from client.learning.private_sgd import SiteTrainer
from client.learning.randomness import Keystream
from client.learning.tasks import build_model, read_examples
from client.learning.travelling import (
    Activity,
    check_names,
    chosen,
    names_in_task,
    names_in_update,
)
from client.policy import Policy, parse_policy
from client.refusals import Declined
from client.simulation.bundle import (
    Bundle,
    identity_of,
    noise_seed,
    rounding_seed,
    split_secret,
)
from client.transport import encode
from compliance.statements import Refusal, SiteReport, TrainingPlan, utc_now

SIMULATION = "simulation"
"""Name of what an answer says beside a real one: `seconds` that the site computed."""

DATASET = "simulated"

NOT_DEIDENTIFIED = digest(b"simulated: nothing was de-identified")

_STARTED = "started"


def handle(folder: str, message: Message, context: Context) -> Message:
    """Answer one task, in whichever process it arrives.

    Args:
        folder: The simulation's folder.
        message: The task; it names the site.
        context: What the site remembers.
    """
    return Message(_sites_of(folder).answer(message, context.state), reply_to=message)


@lru_cache(maxsize=1)
def _sites_of(folder: str) -> SimulatedSites:
    """The sites of a simulation; a worker process serves one."""
    torch.set_num_threads(1)  # a worker is a core
    return SimulatedSites(Bundle(Path(folder)))


@dataclass
class _Warm:
    """A site's examples under the present plan."""

    trainer: SiteTrainer
    held_out: list[Example]


class SimulatedSites:
    """All sites of a simulation, in one process.

    Args:
        bundle: Their plans and records.
    """

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        self._settings = bundle.settings()
        self._records: dict[str, list[StoredRecord]] = {}
        self._frozen: dict[str, tuple[FrozenValues, FrozenValues]] = {}
        self._plan_id = ""
        self._plan: TrainingPlan | None = None
        self._model: PlanModel | None = None
        self._initial: State = {}
        self._refusals: dict[str, Declined | None] = {}
        self._warm: dict[str, _Warm] = {}

    def answer(self, message: Message, remembered: RecordDict) -> RecordDict:
        """The content of an answer to a task.

        Args:
            message: The task, with the site's name.
            remembered: The site's own state, which is brought up to date.
        """
        task = task_of(message, message)
        site = str(message.content.config_records["task"]["site"])
        try:
            return self._do(site, task, remembered)
        except Declined as no:
            return self._refusal(site, task, no.code, str(no))
        except FiduciaryError as error:
            # Simulated records are public: the reason may be told, as a real site would not.
            return self._refusal(site, task, error.code, str(error))
        except Exception as error:  # noqa: BLE001  torch raises anything; the run must tell why
            reason = f"{type(error).__name__}: {error}"
            return self._refusal(site, task, "training-failed", reason)

    def _do(self, site: str, task: IncomingTask, remembered: RecordDict) -> RecordDict:
        plan = self._prepared(task.plan_id)
        self._require_consent(site, task.plan_id, plan)
        started = _started(remembered, task.plan_id)
        warm = self._examples(site, plan)
        state = self._state(task, plan)
        began, steps = time.perf_counter(), 0
        arrays: Arrays
        if task.kind == "train":
            if task.round in started:
                raise RoundAlreadyStarted(f"round {task.round} was started before")
            started = [*started, task.round]
            remembered[_STARTED] = ConfigRecord({"plan": task.plan_id, "rounds": started})
            warm.trainer.reseed(noise_seed(self._settings.seed, site, task.round))
            result = warm.trainer.train_round(task.round, state)
            moved = chosen(result.update, names_in_update(plan, task.round, result.update))
            seed = rounding_seed(self._settings.seed, site, task.round)
            steps, arrays = result.steps, encode(moved, plan.transport.precision, Keystream(seed))
        else:
            arrays = warm.trainer.evaluate(state, warm.held_out).to_arrays()
        spent = _spent(Reservation.of(task.plan_id, plan, [DATASET]), tuple(started))
        report = self._report(site, task, plan, steps=steps, spent=spent, arrays=arrays)
        content = answer_content(task, arrays, report)
        content[SIMULATION] = ConfigRecord({"seconds": time.perf_counter() - began})
        return content

    # --- what a site needs ----------------------------------------------------------------------

    def _prepared(self, plan_id: str) -> TrainingPlan:
        """The plan, with its model; what belongs to another plan is dropped."""
        if self._plan is None or self._plan_id != plan_id:
            self._warm, self._refusals, self._model = {}, {}, None
            self._plan, self._plan_id = self._bundle.plan(plan_id), plan_id
        return self._plan

    def _require_consent(self, site: str, plan_id: str, plan: TrainingPlan) -> None:
        if site not in self._refusals:
            self._refusals[site] = self._objection(site, plan_id, plan)
        objection = self._refusals[site]
        if objection is not None:
            raise objection

    def _objection(self, site: str, plan_id: str, plan: TrainingPlan) -> Declined | None:
        """What a site's guard says against a plan (`client.guard.check_site`)."""
        records = self._of(site)
        text = self._settings.policy
        policy = parse_policy(text.encode("utf-8")) if text else allowing(plan)
        # Nothing is de-identified in a simulation: what is asked of that says nothing here.
        plan = plan.model_copy(update={"deidentification": None})
        nothing = {
            "minimum_deidentification_recall": Decimal(0),
            "maximum_deidentification_leak_share": Decimal(1),
        }
        facts = SiteFacts(
            policy=policy.model_copy(update=nothing),
            datasets=(
                DatasetFacts(
                    DATASET,
                    _labels_of(plan, records),
                    frozenset({plan.purpose}),
                    plan.legal_basis,
                    CONTENT_OF_TASK[plan.task],
                ),
            ),
            count_subjects=lambda _: len({record.subject for record in records}),
            base_model_digest=base_model_digest(resolve_base_model(plan.base_model.name)),
            base_model_problem="",
            cost_of=_cost,
            now=utc_clock(),
        )
        findings, _ = check_site(plan_id, plan, facts)
        failure = first_failure(findings)
        return None if failure is None else Declined(failure.rule, failure.detail, failure.fix)

    def _examples(self, site: str, plan: TrainingPlan) -> _Warm:
        if self._model is None:
            base = resolve_base_model(plan.base_model.name)
            self._model = build_model(plan, base, self._settings.seed)
            self._initial = self._model.get_state()
        if site not in self._warm:
            examples = read_examples(plan, self._of(site))
            secret = split_secret(self._settings.seed, site)
            training, held_out = split_by_subject(examples, plan.held_out_share, secret)
            trainer = SiteTrainer(
                self._model,
                plan,
                training,
                noise_seed(self._settings.seed, site, 0),
                settings=Settings(),
                frozen=self._frozen_of(site, len(plan.sites)),
            )
            self._warm[site] = _Warm(trainer, held_out)
        return self._warm[site]

    def _state(self, task: IncomingTask, plan: TrainingPlan) -> State:
        """The global state, of what travelled and the model as it was built."""
        activity: Activity = "train" if task.kind == "train" else "evaluate"
        wanted = names_in_task(plan, activity, task.round, self._initial)
        like = chosen(self._initial, wanted)
        arrays = open_arrays(task.state, task.deflated, plan.transport.compression, like)
        check_names(arrays, wanted)
        return {**self._initial, **arrays}

    def _frozen_of(self, site: str, sites: int) -> tuple[FrozenValues, FrozenValues]:
        """Plans of one simulation differ in privacy alone, so frozen layers' values stay."""
        if site not in self._frozen:
            limit = DEFAULT_LIMIT_BYTES // (2 * sites)
            self._frozen[site] = (FrozenValues(limit), FrozenValues(limit))
        return self._frozen[site]

    def _of(self, site: str) -> list[StoredRecord]:
        if site not in self._records:
            self._records[site] = self._bundle.records(site)
        return self._records[site]

    # --- what a site says -----------------------------------------------------------------------

    def _report(
        self,
        site: str,
        task: IncomingTask,
        plan: TrainingPlan,
        *,
        steps: int,
        spent: Decimal,
        arrays: Arrays,
    ) -> Mapping[str, Any]:
        report = SiteReport(
            plan_id=task.plan_id,
            site=site,
            round=task.round,
            activity=task.kind,
            steps=steps,
            epsilon_spent=spent,
            update_digest=arrays_digest(arrays),
            dataset_digest=digest(canonical_bytes([vars(record) for record in self._of(site)])),
            base_model_digest=plan.base_model.digest,
            deidentification_digest=NOT_DEIDENTIFIED,
            software=f"fiduciary {version('fiduciary')} (simulated)",
            reported_at=utc_now(),
        )
        signed = sign_statement(report.body(), identity_of(site, self._settings.secret))
        return {"site": site, "statement": signed.to_json()}

    def _refusal(self, site: str, task: IncomingTask, code: str, reason: str) -> RecordDict:
        refusal = Refusal(
            refused_by=f"site:{site}",
            object=f"plan:{task.plan_id}",
            code=code,
            reason=reason[:500],
            refused_at=utc_now(),
        )
        signed = sign_statement(refusal.body(), identity_of(site, self._settings.secret))
        return refusal_content(code, reason[:500], signed.to_json())


def allowing(plan: TrainingPlan) -> Policy:
    """A policy that allows what a plan asks for; the plan's own minimum of subjects still holds."""
    most = Decimal(100)
    return Policy(
        format="fiduciary.policy/4",
        purposes=(plan.purpose,),
        tasks=(plan.task,),
        base_models=(plan.base_model.digest,),
        privacy_units=(plan.privacy.unit,),
        max_epsilon_per_plan=most,
        max_epsilon_total=most,
        delta=plan.privacy.delta,
        max_epsilon_per_period=most,
        period_days=365,
        minimum_subjects=1,
        require_secure_aggregation=False,
        allow_distributed_noise=True,
        training_hours=("00:00-24:00",),
        timezone="UTC",
        share_evaluation=True,
        minimum_deidentification_recall=Decimal(0),
        maximum_deidentification_leak_share=Decimal(1),
        deidentification_measured_within_days=365,
    )


def _labels_of(plan: TrainingPlan, records: list[StoredRecord]) -> frozenset[str]:
    if plan.task == "token-classification":
        # A span's label is checked when it is read.
        return frozenset()
    return frozenset(record.label for record in records) - {""}


def _started(remembered: RecordDict, plan_id: str) -> list[int]:
    """Rounds that a site has started under a plan."""
    record = remembered.config_records.get(_STARTED)
    if record is None or record["plan"] != plan_id:
        return []
    return [int(number) for number in record["rounds"]]


def _spent(reservation: Reservation, started: tuple[int, ...]) -> Decimal:
    """What a site's ledger would say: epsilon of the rounds that it started."""
    events = joined(reservation.rounds[number].event for number in started)
    return _epsilon(events, reservation.delta)


def _cost(reservation: Reservation, limits: Limits) -> Cost:
    """What a plan costs a site that has spent nothing."""
    subject = reservation.subject_events
    return Cost(
        plan=_epsilon(reservation.events, reservation.delta),
        subject=_epsilon(subject, reservation.delta),
        total=_epsilon(subject, limits.delta),
        reserved=False,
    )


@lru_cache(maxsize=4096)
def _epsilon(events: tuple[Event, ...], delta: Decimal) -> Decimal:
    """Sites that took part in as many rounds have spent the same."""
    return reported_epsilon(events, delta)
