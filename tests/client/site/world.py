"""Everything around one worker: an admitted site with data and a model, and an approved plan."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from audit.process_events import EventField
from client.arrays import arrays_digest
from client.learning.base_model import base_model_digest
from client.learning.plan_model import State
from client.learning.tasks.text_classification import TextClassifier
from client.learning.travelling import Activity, chosen, names_in_task
from client.ledger import Ledger
from client.site import Site
from client.stopping import StopSignal
from client.worker import Ending, Worker
from compliance.statements import Refusal, SiteReport, TrainingPlan
from tests.client.site.counterparts import FakeCompliance
from tests.client.site.documents import add_dataset, make_plan, make_policy, policy_toml
from tests.client.site.fleet import FakeFleet, Reply, make_task


class Notes:
    """A `Reporter` that keeps what it was told."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.events: list[tuple[str, dict[str, EventField]]] = []

    def say(self, message: str, *, problem: bool = False) -> None:
        self.lines.append(message)

    def event(self, name: str, **fields: EventField) -> None:
        self.events.append((name, fields))

    def steps(self, description: str, total: int) -> Any:
        notes = self

        class _Shown:
            def __enter__(self) -> Any:
                return lambda done, _total, _records: notes.lines.append(f"step {done} of {total}")

            def __exit__(self, *_: object) -> None:
                return None

        return _Shown()


@dataclass
class World:
    """One site, its counterparts, and the plan that they are about."""

    site: Site
    compliance: FakeCompliance
    model: Path
    fleet: FakeFleet = field(default_factory=FakeFleet)
    notes: Notes = field(default_factory=Notes)
    plan: TrainingPlan = field(init=False)
    plan_id: str = field(init=False)
    state: State = field(init=False)

    def __post_init__(self) -> None:
        self.site.paths.models.mkdir()
        shutil.copytree(self.model, self.site.paths.models / "tiny")
        self.digest = base_model_digest(self.model)
        add_dataset(self.site)
        self.allow()
        self.plan_id = self.approve()
        self.plan = self.compliance.plan(self.plan_id).plan
        self.state = TextClassifier.build(self.plan, self.model).get_state()

    def allow(self, **changes: Any) -> None:
        """Write the site's policy; by default one that allows the plan."""
        policy = make_policy(base_models=[self.digest], **changes)
        self.site.paths.policy.write_text(policy_toml(policy))

    def approve(self, **changes: Any) -> str:
        """Submit a plan for the tiny model and have it approved."""
        model = {"name": "tiny", "digest": self.digest}
        plan = make_plan(**{"base_model": model, **changes})
        plan_id = self.compliance.submit(self.compliance.coordinator.sign_plan(plan))
        self.compliance.decide(plan_id)
        return plan_id

    def train(self, round_index: int, *, plan_id: str | None = None, **options: Any) -> None:
        """Queue a `train` task."""
        asked = plan_id or self.plan_id
        state = options.get("state") or self.travelling("train", round_index, asked)
        self.fleet.tasks.append(make_task("train", asked, round_index, state))

    def evaluate(self, round_index: int, state: State | None = None) -> None:
        """Queue an `evaluate` task."""
        shown = self.travelling("evaluate", round_index, self.plan_id) if state is None else state
        self.fleet.tasks.append(make_task("evaluate", self.plan_id, round_index, shown))

    def travelling(self, activity: Activity, round_index: int, plan_id: str) -> State:
        """What a coordinator sends of the state."""
        plan = self.compliance.plan(plan_id).plan
        number = min(
            round_index, plan.rounds - 1
        )  # a round beyond the plan is refused all the same
        return chosen(self.state, names_in_task(plan, activity, number, self.state))

    def worker(self, stop: StopSignal | None = None, **options: Any) -> Worker:
        return Worker(
            self.site,
            connect=self.fleet.connect,
            service=self.compliance,
            stop=stop or StopSignal(),
            reporter=self.notes,
            pause=0.001,
            **options,
        )

    def run(self, **options: Any) -> Ending:
        """Serve the queued tasks to the end."""
        return self.worker(**options).run()

    def ledger(self) -> Ledger:
        return self.site.ledger()

    def started(self, plan_id: str | None = None) -> int:
        """Rounds of the plan that are spent."""
        with self.ledger() as ledger:
            plans = {plan.plan_id: plan for plan in ledger.budget(self.plan.privacy.delta).plans}
        wanted = plans.get(plan_id or self.plan_id)
        return 0 if wanted is None else wanted.rounds_started

    def actions(self) -> list[str]:
        """What the site's journal says happened, without beginnings and the subjects' trail."""
        actions = [leaf.action for leaf in self.site.journal.leaves()][3:]
        return [action for action in actions if not action.startswith(("subject.", "subjects."))]

    def codes(self) -> list[str]:
        """Codes of all refusals that the coordinator got."""
        return [reply.code for reply in self.fleet.replies if reply.code]


def report_of(reply: Reply) -> SiteReport:
    """The report in an answer; it must be about exactly the arrays beside it."""
    assert reply.arrays is not None
    report = SiteReport.from_body(reply.statement.body)
    assert report.update_digest == arrays_digest(reply.arrays)
    return report


def refusal_of(reply: Reply) -> Refusal:
    """The signed refusal in an answer; it must say what the answer says."""
    refusal = Refusal.from_body(reply.statement.body)
    assert (refusal.code, refusal.reason) == (reply.code, reply.reason)
    return refusal
