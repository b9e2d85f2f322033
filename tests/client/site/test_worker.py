"""The worker: what it trains, what it refuses, and what it leaves behind either way."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
import torch

from audit.errors import Conflict, Unauthorised, Unreachable
from audit.journal import Journal
from audit.statement import SignedStatement, verify_statement
from audit.storage import LogUnavailable
from client import lessons, worker
from client.arrays import arrays_digest, pack_arrays
from client.deflated import deflate
from client.erasure import erase_subject
from client.learning.data import Example, split_by_subject
from client.learning.plan_model import State
from client.learning.private_sgd import RoundResult, SiteTrainer
from client.outbox import Outbox
from client.progress import read_activity
from client.transport import decode
from client.vault import Vault
from client.worker import Ending
from compliance.resources import Recorded
from compliance.statements import StartsFrom
from tests.client.site.documents import (
    ZERO_DIGEST,
    add_dataset,
    make_limits,
    make_reservation,
)
from tests.client.site.fleet import make_task
from tests.client.site.world import World, refusal_of, report_of


@pytest.fixture(autouse=True)
def _eager(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "TEND_SECONDS", 0.0)


def held_out_subjects(world: World) -> int:
    """How many of the dataset's subjects the site's secret keeps aside."""
    with Vault.open(world.site.paths, world.site.keyring) as vault:
        subjects = sorted({record.subject for record in vault.examples("notes")})
        everybody = [Example(subject=subject, text="", label=0) for subject in subjects]
        split = split_by_subject(everybody, world.plan.held_out_share, vault.split_secret())
    return len(split[1])


# --- a whole plan ---------------------------------------------------------------------------------


def test_a_plan_from_its_first_round_to_its_end(world: World) -> None:
    for round_index in range(4):
        world.train(round_index)
        world.evaluate(round_index)
    world.fleet.tasks.append(lambda: world.compliance.end(world.plan_id))

    assert world.run(once=True) is Ending.COMPLETED

    trained, evaluated = world.fleet.replies[::2], world.fleet.replies[1::2]
    spent = []
    for round_index, reply in enumerate(trained):
        report = report_of(reply)
        assert (report.round, report.activity, report.steps) == (round_index, "train", 2)
        assert report.base_model_digest == world.digest
        assert reply.arrays is not None
        assert {name: array.shape for name, array in reply.arrays.items()} == {
            name: array.shape for name, array in world.state.items() if name.startswith("head.")
        }
        assert np.abs(reply.arrays["head.weight"]).max() > 0
        spent.append(report.epsilon_spent)
        verify_statement(reply.statement, world.site.identity.public)
    assert spent == sorted(set(spent))
    assert spent[-1] <= world.plan.privacy.epsilon
    held_out = held_out_subjects(world)
    for reply in evaluated:
        assert report_of(reply).activity == "evaluate"
        assert reply.arrays is not None
        matrix = reply.arrays["confusion"]
        assert matrix.shape == (2, 2)
        assert matrix.dtype == np.int64
        assert matrix.sum() == 2 * held_out  # two records a subject, however many are held out
    assert [item.digest for item in world.compliance.reports] == [
        reply.statement.digest for reply in world.fleet.replies
    ]
    with world.ledger() as ledger:
        plan = ledger.budget(world.plan.privacy.delta).plans[0]
    assert plan.settled
    assert plan.rounds_started == 4
    assert world.actions() == [
        "budget-reserved",
        *["budget-round-started", "round-train", "budget-evaluation-allowed", "round-evaluate"] * 4,
        "budget-settled",
    ]
    activity = read_activity(world.site.paths.worker_state)
    assert activity is not None
    assert (activity.plan_id, activity.steps, activity.pace()) == (None, None, None)


def test_nothing_trains_before_its_round_is_spent_and_journalled(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = SiteTrainer.train_round

    def watched(self: SiteTrainer, *arguments: Any) -> RoundResult:
        assert world.started() == 1
        assert world.actions()[-1] == "budget-round-started"
        return honest(self, *arguments)

    monkeypatch.setattr(SiteTrainer, "train_round", watched)
    world.train(0)
    world.run()
    assert [reply.code for reply in world.fleet.replies] == [""]


def test_a_plan_that_ends_early_gives_the_rest_back(world: World) -> None:
    world.train(0)
    world.fleet.tasks.append(lambda: world.compliance.end(world.plan_id, "failed"))
    assert world.run(once=True) is Ending.FAILED
    with world.ledger() as ledger:
        plan = ledger.budget(world.plan.privacy.delta).plans[0]
    assert (plan.rounds_started, plan.rounds_released) == (1, 3)


def test_the_lines_hold_no_text(world: World) -> None:
    world.train(0)
    world.run()
    said = "\n".join(world.notes.lines)
    assert "trained round 1 of 4" in said
    for word in ("urgent", "routine", "note "):
        assert word not in said


# --- what it refuses ------------------------------------------------------------------------------


def test_a_refused_plan_is_signed_journalled_reported_and_answered(world: World) -> None:
    world.allow(purposes=["billing"])
    world.train(0)
    world.train(0)
    assert world.run() is Ending.STOPPED
    assert world.codes() == ["purpose", "purpose"]
    refusal = refusal_of(world.fleet.replies[0])
    assert refusal.object == f"plan:{world.plan_id}"
    assert refusal.refused_by == "site:north"
    assert len(world.compliance.refusals) == 1, "a repeated refusal is stated once"
    assert world.actions() == ["task-refused"]
    assert world.started() == 0


def test_a_round_outside_training_hours_is_declined_and_the_plan_stays(world: World) -> None:
    world.allow(training_hours=["22:00-06:00"], timezone="Europe/Berlin")
    clock = [datetime(2026, 11, 2, 12, tzinfo=UTC)]

    def at(moment: datetime) -> None:
        clock[0] = moment

    world.train(0)
    world.fleet.tasks.append(lambda: at(datetime(2026, 11, 2, 15, tzinfo=UTC)))
    world.train(0)
    world.fleet.tasks.append(lambda: at(datetime(2026, 11, 2, 21, tzinfo=UTC)))
    world.train(0)
    world.fleet.tasks.append(lambda: at(datetime(2026, 11, 3, 6, tzinfo=UTC)))
    world.evaluate(0)
    assert world.run(once=True, now=lambda: clock[0]) is Ending.STOPPED
    assert [reply.code for reply in world.fleet.replies] == [
        "training-hours",
        "training-hours",
        "",
        "",
    ]
    refusal = refusal_of(world.fleet.replies[0])
    assert refusal.object == f"plan:{world.plan_id}"
    assert "trains next from 2026-11-02T21:00Z" in refusal.reason
    assert len(world.compliance.refusals) == 1, "the same refusal is stated once"
    assert world.started() == 1
    assert world.actions()[:2] == ["task-refused", "budget-reserved"]


def test_a_clock_behind_the_ledger_spends_nothing_of_a_period(world: World) -> None:
    world.allow(max_epsilon_per_period="9")
    with world.ledger() as ledger:
        ledger.reserve(make_reservation(ZERO_DIGEST, noise="50"), make_limits("30"))
        ledger.settle(ZERO_DIGEST)
    with sqlite3.connect(world.site.paths.ledger) as connection:
        connection.execute("UPDATE plans SET reserved_at = '2999-01-01T00:00:00.000Z'")
    connection.close()
    world.train(0)
    world.run()
    assert world.codes() == ["clock-behind"]
    assert world.started() == 0
    assert any("set the clock by NTP" in line for line in world.notes.lines)


def test_once_ends_with_a_refused_plan(world: World) -> None:
    world.allow(purposes=["billing"])
    world.train(0)
    assert world.run(once=True) is Ending.REFUSED


def test_an_unapproved_plan_is_refused(world: World) -> None:
    plan = world.plan.model_copy(update={"name": "another-plan"})
    plan_id = world.compliance.submit(world.compliance.coordinator.sign_plan(plan))
    world.train(0, plan_id=plan_id)
    world.run()
    assert world.codes() == ["plan-approved"]
    assert world.started(plan_id) == 0


@pytest.mark.parametrize(
    ("plan_id", "code"),
    [
        (ZERO_DIGEST, "plan-unknown"),
        ("", "malformed-task"),
        ("../../etc/passwd", "malformed-task"),
        ("sha256:" + "A" * 64, "malformed-task"),
    ],
)
def test_an_unknown_plan_is_refused(world: World, plan_id: str, code: str) -> None:
    world.fleet.tasks.append(make_task("train", plan_id, 0, world.state))
    world.run()
    assert world.codes() == [code]


def test_a_round_that_the_plan_has_not_is_refused(world: World) -> None:
    world.train(4)
    world.run()
    assert world.codes() == ["malformed-input"]
    assert world.started() == 0


def test_a_model_named_by_path_is_refused(world: World) -> None:
    plan_id = world.approve(
        base_model={"name": str(world.model), "digest": world.digest}, name="by-path"
    )
    world.train(0, plan_id=plan_id)
    world.run()
    assert world.codes() == ["base-model-present"]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda state: {**state, "head.bias": np.zeros(3, np.float32)},
        lambda state: {**state, "head.bias": np.full(2, np.nan, np.float32)},
        lambda state: {**state, "surprise": np.zeros(2, np.float32)},
        lambda state: {"head.bias": state["head.bias"]},
    ],
    ids=["shape", "nan", "unknown", "missing"],
)
def test_a_state_that_does_not_fit_costs_nothing(world: World, spoil: Any) -> None:
    world.train(1, state=spoil(world.travelling("train", 1, world.plan_id)))
    world.train(1)
    world.run()
    assert world.codes() == ["malformed-input"]
    assert report_of(world.fleet.replies[1]).round == 1


def test_a_state_that_the_site_can_build_itself_is_refused(world: World) -> None:
    world.train(0, state=world.state)
    world.run()
    assert world.codes() == ["malformed-input"]
    assert "not needed" in world.fleet.replies[0].reason
    assert world.started() == 0


def moved(state: State) -> State:
    """A state whose head was trained before."""
    head = {name: array + np.float32(0.5) for name, array in state.items() if "head" in name}
    return {**state, **head}


def test_the_first_round_of_a_plan_starts_from_the_very_model_that_it_names(world: World) -> None:
    """Any other is refused by a code of its own, and costs nothing; all of the model travels."""
    model = moved(world.state)
    start = StartsFrom.after(world.plan_id, world.plan, 2, arrays_digest(model))
    plan_id = world.approve(
        format="fiduciary.plan/4", name="onward", starts_from=start.model_dump(mode="json")
    )
    nearly = {**model, "head.bias": model["head.bias"] + np.float32(1e-6)}
    part = {"head.bias": model["head.bias"]}
    for sent in (world.state, nearly, part, model, model):
        world.train(0, plan_id=plan_id, state=sent)
    world.fleet.tasks.append(make_task("evaluate", plan_id, 0, nearly))  # it moved meanwhile
    world.run()
    assert world.codes() == ["start-mismatch", "start-mismatch", "malformed-input"]
    assert len(world.fleet.replies) == 6
    assert report_of(world.fleet.replies[3]) == report_of(world.fleet.replies[4])
    assert world.started(plan_id) == 1
    refusals = [refusal.body["code"] for refusal in world.compliance.refusals]
    assert refusals.count("start-mismatch") == 1


def test_a_site_that_joins_a_started_plan_later_builds_on_what_it_is_sent(world: World) -> None:
    start = StartsFrom.after(world.plan_id, world.plan, 2, f"sha256:{'3' * 64}")
    plan_id = world.approve(
        format="fiduciary.plan/4", name="onward", starts_from=start.model_dump(mode="json")
    )
    world.train(1, plan_id=plan_id, state=moved(world.state))
    world.run()
    assert world.codes() == []
    assert report_of(world.fleet.replies[0]).round == 1


@pytest.mark.parametrize("precision", ["float16", "int8"])
def test_a_plan_that_is_lean_gets_a_lean_answer(world: World, precision: Any) -> None:
    transport = {"precision": precision, "compression": "deflate"}
    plan_id = world.approve(format="fiduciary.plan/3", name="lean", transport=transport)
    asked = world.travelling("train", 1, plan_id)
    packed = deflate(pack_arrays(asked))
    task = replace(make_task("train", plan_id, 1, {}), deflated=packed)
    world.fleet.tasks += [task, task, make_task("train", plan_id, 2, asked)]
    world.run()
    first, again, refused = world.fleet.replies
    assert first.arrays is not None
    plan = world.compliance.plan(plan_id).plan
    update = decode(first.arrays, precision, asked)
    assert np.abs(update["head.weight"]).max() > 0
    report = report_of(first)  # of the arrays as they travel
    assert report_of(again).update_digest == report.update_digest
    assert plan.transport.precision == precision
    assert refused.code == "malformed-input"
    assert "not compressed" in refused.reason
    assert world.started(plan_id) == 1


def test_a_compressed_state_that_the_plan_does_not_need_costs_nothing(world: World) -> None:
    plan_id = world.approve(
        format="fiduciary.plan/3", name="lean", transport={"compression": "deflate"}
    )
    plain = make_task("train", plan_id, 1, {})
    bomb = replace(plain, deflated=deflate(bytes(50_000_000)))
    whole = replace(plain, deflated=deflate(pack_arrays(world.state)))
    world.fleet.tasks += [bomb, whole]
    packed = deflate(pack_arrays(world.travelling("train", 1, world.plan_id)))
    world.fleet.tasks.append(replace(make_task("train", world.plan_id, 1, {}), deflated=packed))
    world.run()
    assert world.codes() == ["malformed-input"] * 3
    reasons = [reply.reason for reply in world.fleet.replies]
    assert "bytes that the plan needs" in reasons[0]
    assert "not needed" in reasons[1] or "bytes that the plan needs" in reasons[1]
    assert "the plan says no" in reasons[2]
    assert world.started(plan_id) == world.started() == 0


def test_an_earlier_round_is_trained_from_the_model_as_built(world: World) -> None:
    """A coordinator that came back may ask for a round that came before what this site has."""
    world.train(2)
    world.train(0)
    world.run()
    assert [report_of(reply).round for reply in world.fleet.replies] == [2, 0]


def test_a_round_is_not_trained_twice(world: World) -> None:
    sent = world.travelling("train", 1, world.plan_id)
    other = {name: array + 1 for name, array in sent.items()}
    world.train(1)
    world.train(1, state=other)
    world.run()
    assert world.codes() == ["round-already-started"]
    assert world.started() == 1


def test_the_same_question_gets_the_same_answer(world: World) -> None:
    """A coordinator that came back asks again: no second training, no second cost."""
    world.train(0)
    world.train(0)
    world.run()
    first, second = world.fleet.replies
    assert first.statement == second.statement
    assert report_of(second).update_digest == report_of(first).update_digest
    assert world.started() == 1


def test_a_restarted_worker_does_not_train_a_spent_round(world: World) -> None:
    world.train(0)
    world.run()
    for path in world.site.paths.answers.iterdir():
        path.unlink()
    world.train(0)
    world.train(1)
    world.run()
    assert world.codes() == ["round-already-started"]
    assert report_of(world.fleet.replies[-1]).round == 1


def test_a_tightened_policy_is_obeyed_from_the_next_round(world: World) -> None:
    world.train(0)
    world.fleet.tasks.append(lambda: world.allow(purposes=[]))
    world.train(1)
    world.run()
    assert world.codes() == ["purpose"]
    assert world.started() == 1


def test_two_plans_cannot_spend_the_same_budget(world: World) -> None:
    world.allow(max_epsilon_total="9", max_epsilon_per_plan="8")
    expensive = {"rounds": 4, "steps_per_round": 2, "sampling_rate": "1", "noise_multiplier": "2"}
    first = world.approve(name="first", phase=expensive)
    second = world.approve(name="second", phase=expensive)
    world.train(0, plan_id=first)
    world.train(0, plan_id=second)
    world.run()
    assert world.codes() == ["budget"]
    assert (world.started(first), world.started(second)) == (1, 0)


def test_a_malformed_message_is_journalled(world: World) -> None:
    def malformed() -> None:
        world.fleet.on_malformed("malformed-task", "unknown task 'query'")

    world.fleet.tasks.append(malformed)
    world.fleet.tasks.append(lambda: None)
    world.run()
    assert world.actions() == ["task-refused"]
    assert len(world.compliance.refusals) == 1


# --- evaluation -----------------------------------------------------------------------------------


def test_evaluation_needs_the_operators_consent(world: World) -> None:
    world.train(0)
    world.fleet.tasks.append(lambda: world.allow(share_evaluation=False))
    world.evaluate(0)
    world.run()
    assert world.codes() == ["evaluation-not-shared"]


def test_one_state_a_round_is_evaluated(world: World) -> None:
    sent = world.travelling("evaluate", 0, world.plan_id)
    other = {name: array + 1 for name, array in sent.items()}
    world.train(0)
    world.evaluate(0)
    world.evaluate(0)
    world.evaluate(0, other)
    world.run()
    assert world.codes() == ["already-evaluated"]


def test_a_site_that_took_no_part_is_not_evaluated(world: World) -> None:
    world.evaluate(0)
    world.run()
    assert world.codes() == ["no-reservation"]


# --- data that changes ----------------------------------------------------------------------------


class _Watched(SiteTrainer):
    """Remembers which subjects each trainer was given."""

    seen: list[set[str]]

    def __init__(self, model: Any, plan: Any, examples: Sequence[Example], **more: Any) -> None:
        _Watched.seen.append({example.subject for example in examples})
        super().__init__(model, plan, examples, **more)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[set[str]]:
    _Watched.seen = []
    monkeypatch.setattr(lessons, "SiteTrainer", _Watched)
    return _Watched.seen


class _Seeded(SiteTrainer):
    def __init__(self, model: Any, plan: Any, examples: Sequence[Example], **more: Any) -> None:
        super().__init__(model, plan, examples, seed=1, **more)


def test_an_update_with_repeatable_noise_does_not_leave(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lessons, "SiteTrainer", _Seeded)
    world.train(0)
    world.run()
    assert world.codes() == ["refused"]
    assert world.fleet.replies[0].arrays is None
    assert world.started() == 1, "it was trained: it is spent"
    assert any("seed" in line for line in world.notes.lines)


def test_the_model_stays_warm_while_nothing_changes(world: World, seen: list[set[str]]) -> None:
    for round_index in range(3):
        world.train(round_index)
    world.run()
    assert len(seen) == 1


def test_an_erased_subject_is_in_no_later_round(world: World, seen: list[set[str]]) -> None:
    erased: list[str] = []

    def erase() -> None:
        with Vault.open(world.site.paths, world.site.keyring) as vault, world.ledger() as ledger:
            subject = next(
                name
                for name in (f"P-{index:03}" for index in range(24))
                if vault.pseudonym(name) in seen[0]
            )
            receipt = erase_subject(world.site, vault, ledger, subject).receipt
            assert receipt.plans == (world.plan_id,)
            erased.append(receipt.subject)

    world.train(0)
    world.fleet.tasks.append(erase)
    world.train(1)
    world.run()
    assert len(seen) == 2
    assert seen[1] == seen[0] - set(erased)
    digests = [report_of(reply).dataset_digest for reply in world.fleet.replies]
    assert digests[0] != digests[1]
    assert len(world.compliance.erasures) == 1, "a running worker sends the receipt"


def test_held_out_subjects_never_train(world: World, seen: list[set[str]]) -> None:
    world.train(0)
    world.evaluate(0)
    world.run()
    with Vault.open(world.site.paths, world.site.keyring) as vault:
        everybody = {record.subject for record in vault.examples("notes")}
    assert seen[0] <= everybody  # by chance, once in 200 times, nobody is held out
    assert len(everybody - seen[0]) == held_out_subjects(world)
    matrix = world.fleet.replies[1].arrays
    assert matrix is not None
    assert matrix["confusion"].sum() == 2 * len(everybody - seen[0])


def test_a_second_dataset_for_the_purpose_is_used_too(world: World, seen: list[set[str]]) -> None:
    add_dataset(world.site, "letters", subjects=40)
    world.train(0)
    world.run()
    assert len(seen[0]) > 24
    with world.ledger() as ledger:
        assert ledger.started_plans() == [(world.plan_id, ("letters", "notes"))]


# --- faults ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["plan", "log_proof"])
def test_without_the_compliance_service_nothing_is_decided(world: World, method: str) -> None:
    def away() -> None:
        world.compliance.fail[method] = Unreachable("no route")

    world.fleet.tasks.append(away)
    world.train(0)
    world.train(0)
    world.run()
    assert world.codes() == ["compliance-unreachable"]
    assert report_of(world.fleet.replies[1]).round == 0


def test_a_report_that_cannot_be_sent_waits(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "TEND_SECONDS", 3600.0)
    world.compliance.fail["report_site"] = Unreachable("no route")
    world.train(0)
    world.evaluate(0)
    world.run()
    assert report_of(world.fleet.replies[0]).round == 0, "the answer carries the statement itself"
    assert world.compliance.reports == []
    assert len(Outbox(world.site).files()) == 2
    world.fleet.tasks.append(lambda: None)
    world.run()
    assert len(world.compliance.reports) == 2
    assert Outbox(world.site).files() == []


def test_the_coordinator_waits_for_no_report(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A round's reports go in one call, after its last answer."""
    monkeypatch.setattr(worker, "TEND_SECONDS", 3600.0)
    calls: list[tuple[int, int]] = []
    record = world.compliance.report_site

    def counted(plan_id: str, *reports: SignedStatement) -> Recorded:
        calls.append((len(world.fleet.replies), len(reports)))
        return record(plan_id, *reports)

    monkeypatch.setattr(world.compliance, "report_site", counted)
    world.train(0)
    world.evaluate(0)
    world.run()
    assert calls == [(2, 2)]


@pytest.mark.parametrize("late", [False, True])
def test_a_lost_answer_is_lost_and_the_site_goes_on(world: World, late: bool) -> None:
    if late:
        world.fleet.accepts = False
    else:
        world.fleet.lose_next_reply = Unreachable("connection reset")
    world.train(0)
    world.train(1)
    world.run()
    assert world.started() == 2
    assert any("did not arrive" in line for line in world.notes.lines)


def test_an_unexpected_error_tells_nothing_of_its_text(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: SiteTrainer, *_: Any) -> RoundResult:
        raise RuntimeError("shape mismatch in 'Mrs Doe, 4 Elm Street'")

    with monkeypatch.context() as patched:
        patched.setattr(SiteTrainer, "train_round", broken)
        world.train(0)
        world.run()
    assert world.codes() == ["training-failed"]
    assert world.fleet.replies[0].reason == "RuntimeError"
    assert "Doe" not in "".join(world.notes.lines)
    assert world.started() == 1, "it may have trained: it is spent"
    world.train(1)
    world.run()
    assert report_of(world.fleet.replies[-1]).round == 1


@pytest.mark.parametrize(
    ("error", "code", "advice"),
    [
        (torch.AcceleratorError("CUDA error: unknown error"), "device-lost", "nvidia-smi"),
        (MemoryError(), "out-of-memory", "max_tokens"),
    ],
)
def test_a_device_that_fails_spends_the_round_and_sends_no_update(
    world: World, monkeypatch: pytest.MonkeyPatch, error: Exception, code: str, advice: str
) -> None:
    def broken(self: SiteTrainer, *_: Any) -> None:
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(SiteTrainer, "_step", broken)
        world.train(0)
        world.run()
    assert world.codes() == [code]
    assert world.fleet.replies[0].arrays is None
    assert world.fleet.replies[0].reason == "its operator was told the reason"
    assert any(advice in line for line in world.notes.lines)
    assert world.started() == 1, "it may have trained: it is spent"


def test_without_a_journal_the_worker_ends(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise LogUnavailable("disk full")

    world.train(0)
    world.fleet.tasks.append(lambda: monkeypatch.setattr(Journal, "record", full))
    world.train(1)
    with pytest.raises(LogUnavailable):
        world.run()
    monkeypatch.undo()
    assert len(world.fleet.replies) == 1


def test_it_dials_again(world: World) -> None:
    world.fleet.refuse_connections = [Unreachable("no route"), Unauthorised("not yet admitted")]

    def drop() -> None:
        raise Unreachable("connection reset")

    world.train(0)
    world.fleet.tasks.append(drop)
    world.train(1)
    world.run()
    assert world.fleet.connections == 2
    assert world.started() == 2


def test_a_site_that_stays_unknown_ends_with_the_reason(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "UNAUTHORISED_SECONDS", 0.0)
    world.fleet.refuse_connections = [Unauthorised("not admitted", fix="ask")]
    with pytest.raises(Unauthorised, match="not admitted"):
        world.run()


def test_two_workers_do_not_share_a_site(world: World) -> None:
    def second() -> None:
        with pytest.raises(Conflict, match="running already"):
            world.worker().run()

    world.fleet.tasks.append(second)
    assert world.run() is Ending.STOPPED
