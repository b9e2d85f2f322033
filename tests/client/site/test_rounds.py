"""What a round tells the operator, how the site's settings reach it, and the audit of a plan."""

from __future__ import annotations

import json
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import pytest

from client import lessons, plan_audit, rounds
from client.budget import Audit
from client.learning import private_sgd
from client.learning.data import Example
from client.learning.observations import Observations
from client.learning.passes import Settings
from client.learning.privacy_audit import AuditResult, audit_mechanism
from client.learning.private_sgd import SiteTrainer
from client.recall.kept import Measured, Measurements
from client.vault import Vault
from compliance.statements import DeidentificationFigures, utc_now
from tests.client.learning.broken_trainers import NoNoise
from tests.client.site.documents import ZERO_DIGEST
from tests.client.site.world import World, report_of

PLAN_2 = {"format": "fiduciary.plan/2"}


@pytest.fixture
def audits(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Fewer canaries, and the engines of the audits that ran."""
    ran: list[str] = []

    def few(*given: Any, **options: Any) -> AuditResult:
        ran.append(options["engine"])
        return audit_mechanism(*given, **{**options, "canaries": 60})

    monkeypatch.setattr(plan_audit, "audit_mechanism", few)
    return ran


def audited_plan(world: World) -> str:
    return world.approve(privacy_audit=True, name="audited", **PLAN_2)


def journalled(world: World, action: str) -> list[dict[str, Any]]:
    journal = world.site.journal
    return [journal.read(leaf.position)[1] for leaf in journal.leaves() if leaf.action == action]


# --- what was measured of de-identification -------------------------------------------------------


def test_a_report_tells_what_was_measured_of_the_pipeline_of_its_records(world: World) -> None:
    asked = {"format": "fiduciary.plan/4", "deidentification": {"minimum_recall": "0.9"}}
    plan_id = world.approve(name="asking", **asked)
    world.train(0)
    world.train(0, plan_id=plan_id)
    world.run()
    assert world.codes() == ["deidentification-measured"]
    assert report_of(world.fleet.replies[0]).deidentification == ()
    figures = DeidentificationFigures(
        method="evaluation",
        recall=Decimal("0.99"),
        recall_at_least=Decimal("0.95"),
        leak_share=Decimal("0.01"),
        leak_share_at_most=Decimal("0.05"),
        measured_at=utc_now(),
    )
    kept = Measurements(world.site.paths, world.site.keyring)
    measured = Measured(figures, {})
    kept.keep(ZERO_DIGEST, measured, world.site.journal, world.site.principal, "")
    plan_id = world.approve(name="asking-again", **asked)
    world.train(0, plan_id=plan_id)
    world.run()
    assert report_of(world.fleet.replies[-1]).deidentification == (figures,)


# --- the audit of a plan --------------------------------------------------------------------------


def test_a_plan_that_asks_for_it_is_audited_once(world: World, audits: list[str]) -> None:
    plan_id = audited_plan(world)
    for round_index in (0, 1):
        world.train(round_index, plan_id=plan_id)
    world.run()
    assert world.codes() == []
    first, second = (report_of(reply) for reply in world.fleet.replies)
    assert first.audited_epsilon == second.audited_epsilon
    assert first.audited_epsilon is not None
    assert 0 <= first.audited_epsilon <= 8
    world.train(2, plan_id=plan_id)
    world.run()
    assert report_of(world.fleet.replies[-1]).audited_epsilon == first.audited_epsilon
    assert audits == ["one_backward"], "a restart does not repeat it"
    (evidence,) = journalled(world, "budget-audited")
    assert evidence["passes"] is True
    assert Decimal(evidence["lower_bound"]) == first.audited_epsilon
    assert "one_backward; fp32; cpu" in evidence["installation"]


def test_no_budget_is_spent_before_the_audit(world: World, audits: list[str]) -> None:
    world.train(0, plan_id=audited_plan(world))
    world.run()
    actions = [action for action in world.actions() if action.startswith("budget-")]
    assert actions[:2] == ["budget-audited", "budget-reserved"]


def test_a_plan_that_does_not_ask_is_not_audited(world: World, audits: list[str]) -> None:
    world.train(0)
    world.run()
    assert audits == []
    assert report_of(world.fleet.replies[0]).audited_epsilon is None


def test_a_plan_whose_promise_is_not_kept_is_refused_and_stays_so(
    world: World, audits: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan_id = audited_plan(world)
    with monkeypatch.context() as broken:
        broken.setattr(private_sgd, "SubjectOptimizer", NoNoise)
        world.train(0, plan_id=plan_id)
        world.run()
    assert world.codes() == ["privacy-audit-failed"]
    assert "promises 8" in world.fleet.replies[0].reason
    assert world.started(plan_id) == 0
    assert any("broken" in line for line in world.notes.lines)
    world.train(0, plan_id=plan_id)  # with a trainer that would pass
    world.run()
    assert world.codes() == ["privacy-audit-failed"] * 2
    assert audits == ["one_backward"], "nobody tries until one passes"
    assert [entry["passes"] for entry in journalled(world, "budget-audited")] == [False]


def test_another_installation_is_audited_anew(world: World, audits: list[str]) -> None:
    plan_id = audited_plan(world)
    world.train(0, plan_id=plan_id)
    world.run()
    world.site.paths.compute.write_text('format = "fiduciary.compute/1"\nengine = "hooks"\n')
    world.train(1, plan_id=plan_id)
    world.run()
    assert world.codes() == []
    assert audits == ["one_backward", "hooks"]


def test_a_result_is_never_replaced(world: World) -> None:
    from audit.errors import Conflict

    with world.ledger() as ledger:
        ledger.remember_audit(world.plan_id, "here", Audit(Decimal(9), passes=False), {})
        with pytest.raises(Conflict, match="audited here already"):
            ledger.remember_audit(world.plan_id, "here", Audit(Decimal(0), passes=True), {})
        assert ledger.audit_of(world.plan_id, "here") == Audit(Decimal(9), passes=False)
        assert ledger.audit_of(world.plan_id, "there") is None


# --- the site's settings --------------------------------------------------------------------------


def test_the_sites_settings_reach_the_trainer(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Settings] = []

    class _Recording(SiteTrainer):
        def __init__(self, *parts: Any, settings: Settings, **more: Any) -> None:
            given.append(settings)
            super().__init__(*parts, settings=settings, **more)

    monkeypatch.setattr(lessons, "SiteTrainer", _Recording)
    world.site.paths.compute.write_text(
        'format = "fiduciary.compute/1"\nengine = "hooks"\nmicro_batch_tokens = 64\n'
    )
    world.train(0)
    world.run()
    assert world.codes() == []
    assert [(each.engine, each.micro_batch_tokens) for each in given] == [("hooks", 64)]


# --- what only the operator may know --------------------------------------------------------------


class _Noticing(SiteTrainer):
    """Meets gradients that are not finite, and too little memory."""

    def train_round(self, *parts: Any, **options: Any) -> Any:
        result = super().train_round(*parts, **options)
        self.observed = Observations(records=40, unusable_subjects=3, micro_batch_limit=16)
        return result


def test_what_the_operator_should_look_at_is_told_and_never_leaves(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lessons, "SiteTrainer", _Noticing)
    world.train(0)
    world.run()
    told = "\n".join(world.notes.lines)
    assert "3 sampled subjects were not finite and counted as zero" in told
    assert "micro-batches shrank to 16" in told
    assert journalled(world, rounds.NOTED) == [
        {"round": 0, "unusable_subjects": 3, "micro_batch_limit": 16}
    ]
    (reply,) = world.fleet.replies
    assert "unusable" not in json.dumps(reply.statement.to_json())


def test_a_quiet_round_notes_nothing(world: World) -> None:
    world.train(0)
    world.run()
    assert journalled(world, rounds.NOTED) == []
    assert any("epsilon" in line and "of 8: 2 steps" in line for line in world.notes.lines)


def test_a_trainer_counts_records_and_subjects_that_are_not_finite(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainers: list[SiteTrainer] = []

    class _Kept(SiteTrainer):
        def __init__(self, model: Any, plan: Any, examples: Sequence[Example], **more: Any) -> None:
            super().__init__(model, plan, examples, **more)
            trainers.append(self)

    monkeypatch.setattr(lessons, "SiteTrainer", _Kept)
    world.train(0)
    world.run()
    (trainer,) = trainers
    assert trainer.observed.records > 0
    assert trainer.observed.unusable_subjects == 0
    assert trainer.observed.micro_batch_limit is None


@pytest.mark.parametrize("asked", ["train", "evaluate"])
def test_nothing_leaves_that_was_computed_with_somebody_who_was_erased_meanwhile(
    world: World, monkeypatch: pytest.MonkeyPatch, asked: str
) -> None:
    class Erasing(SiteTrainer):
        def train_round(self, *parts: Any, **options: Any) -> Any:
            return erased_after("train", super().train_round(*parts, **options))

        def evaluate(self, *parts: Any) -> Any:
            return erased_after("evaluate", super().evaluate(*parts))

    def erased_after(activity: str, result: Any) -> Any:
        if activity == asked:
            with Vault.open(world.site.paths, world.site.keyring) as vault:
                for index in range(24):
                    vault.erase(f"P-{index:03}")
        return result

    monkeypatch.setattr(lessons, "SiteTrainer", Erasing)
    world.train(0)
    if asked == "evaluate":
        world.evaluate(0)
    world.run()
    assert world.codes() == ["subject-erased"]
    assert world.fleet.replies[-1].arrays is None
