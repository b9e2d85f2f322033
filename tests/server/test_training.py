"""Rounds over real TLS with scripted sites and a real compliance service."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from audit.errors import MalformedInput
from audit.statement import SignedStatement, verify_statement
from client.arrays import Arrays, arrays_digest
from compliance.api import ComplianceClient
from compliance.statements import Phase, RoundReport, RunOutcome
from server.registrar import Registrar
from server.rounds import Stopped
from server.training import Training
from tests.server.conftest import Service, until
from tests.server.ground import INITIAL, Ground, ground
from tests.server.scripted import Script, ScriptedSite


@pytest.fixture(scope="module")
def field(shared_service: Service, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    with ground(shared_service, tmp_path_factory.mktemp("ground")) as made:
        yield made


def rounds_of(field: Ground, plan_id: str) -> list[RoundReport]:
    evidence = field.compliance.plan_evidence(plan_id)
    return [
        RoundReport.from_body(verify_statement(item, field.federation.identity.public))
        for item in evidence.rounds
    ]


def outcome_of(field: Ground, plan_id: str) -> RunOutcome:
    view = field.compliance.plan(plan_id)
    assert view.outcome is not None
    return RunOutcome.from_body(verify_statement(view.outcome, field.federation.identity.public))


def run(field: Ground, training: Training) -> Any:
    run_id = field.link.open_run()
    try:
        return training.run(run_id)
    finally:
        field.link.close_run(run_id, completed=False)


def test_a_run_tells_rounds_answers_and_epsilon_as_events(field: Ground) -> None:
    plan_id, plan = field.approved(name="told", quorum=1)
    field.notes.events.clear()
    with (
        field.site("st-elm", plan, Script()),
        field.site("lakeside", plan, Script(refuse="purpose-of-jane-doe")),
    ):
        state = run(field, field.training(plan_id, plan))
    assert state.stage == "completed"
    told = [(name, fields) for name, fields in field.notes.events if fields.get("plan") == plan_id]
    lines = [name for name, fields in told if fields.get("round") == 0]
    assert lines == [
        *("answer-accepted", "site-absent", "answer-accepted", "site-absent"),
        *("round-finished", "epsilon-reported"),
    ]
    absent = [fields for name, fields in told if name == "site-absent"]
    assert {(fields["site"], fields["code"]) for fields in absent} == {("lakeside", "refused")}
    finished = [fields for name, fields in told if name == "round-finished"]
    assert [fields["round"] for fields in finished] == [0, 1, 2]
    assert {(fields["participants"], fields["absent"]) for fields in finished} == {(1, 1)}
    assert told[-1] == (
        "run-ended",
        {"plan": plan_id, "verdict": "completed", "rounds": 3},
    )
    assert "jane" not in str(told)


def test_a_run_averages_uniformly_measures_and_reports_each_round(field: Ground) -> None:
    plan_id, plan = field.approved(name="uniform")
    ones = Script(update=lambda state: {k: np.ones_like(v) for k, v in state.items()})
    threes = Script(update=lambda state: {k: np.full_like(v, 3) for k, v in state.items()})
    with field.site("st-elm", plan, ones) as elm, field.site("lakeside", plan, threes):
        state = run(field, field.training(plan_id, plan))
    assert (state.stage, state.rounds_done, state.outcome_recorded) == ("completed", 3, True)
    assert elm.seen == [(kind, number) for number in range(3) for kind in ("train", "evaluate")]
    reports = rounds_of(field, plan_id)
    assert [report.round for report in reports] == [0, 1, 2]
    assert all(report.participants == ("lakeside", "st-elm") for report in reports)
    # A mean of 2 in each of 15 weights.
    assert reports[0].update_norm == Decimal(f"{(15 * 4) ** 0.5:.6f}")
    assert reports[-1].epsilon_by_site == {"lakeside": Decimal("0.3"), "st-elm": Decimal("0.3")}
    # Two sites, each 9 right and 2 wrong in each of 3 classes.
    assert reports[-1].metrics is not None
    assert reports[-1].metrics.accuracy == Decimal("0.818182")
    assert reports[-1].metrics.examples == 66
    assert outcome_of(field, plan_id).verdict == "completed"
    model = field.folder(plan_id).model(state)
    assert model is not None
    np.testing.assert_allclose(model.current["head.bias"], 6.0)
    assert arrays_digest(model.to_arrays()) == reports[-1].state_digest
    assert len(list(field.folder(plan_id).path.glob("checkpoint-*"))) == 1
    assert len(field.link._state.object_store) == 0


def test_a_silent_site_is_absent_and_the_quorum_goes_on(field: Ground) -> None:
    plan_id, plan = field.approved(
        name="silent", quorum=1, deadline_seconds=5, phases=(simple_phase(rounds=1),)
    )
    silent = Script(silent=("train",))
    with field.site("st-elm", plan), field.site("lakeside", plan, silent) as lakeside:
        state = run(field, field.training(plan_id, plan))
    assert state.stage == "completed"
    (report,) = rounds_of(field, plan_id)
    assert report.participants == ("st-elm",)
    assert report.absent == {"lakeside": "no answer within the deadline of 5 seconds"}
    assert lakeside.seen[0] == ("train", 0)


def test_a_run_without_a_quorum_fails_with_the_reasons(field: Ground) -> None:
    plan_id, plan = field.approved(name="refused", quorum=2)
    refusing = Script(refuse="purpose-not-allowed")
    with field.site("st-elm", plan), field.site("lakeside", plan, refusing):
        state = run(field, field.training(plan_id, plan))
    assert (state.stage, state.rounds_done) == ("failed", 0)
    outcome = outcome_of(field, plan_id)
    assert outcome.verdict == "failed"
    assert "of the 2 sites that it needs" in outcome.reason
    assert "lakeside: refused: purpose-not-allowed" in outcome.reason
    assert rounds_of(field, plan_id) == []


def test_a_site_may_keep_its_counts_to_itself(field: Ground) -> None:
    plan_id, plan = field.approved(name="discreet", phases=(simple_phase(rounds=1),))
    discreet = Script(refuse="evaluation-not-shared", refused_kinds=("evaluate",))
    with field.site("st-elm", plan), field.site("lakeside", plan, discreet):
        state = run(field, field.training(plan_id, plan))
    assert state.stage == "completed"
    (report,) = rounds_of(field, plan_id)
    assert report.participants == ("lakeside", "st-elm")
    assert report.metrics is not None
    assert report.metrics.examples == 33


def test_a_model_that_nobody_measured_is_not_completed(field: Ground) -> None:
    plan_id, plan = field.approved(name="unmeasured", phases=(simple_phase(rounds=2),))
    discreet = Script(refuse="evaluation-not-shared", refused_kinds=("evaluate",))
    with field.site("st-elm", plan, discreet), field.site("lakeside", plan, discreet):
        state = run(field, field.training(plan_id, plan))
    assert (state.stage, state.rounds_done) == ("failed", 1)
    assert "nobody measured the final model: lakeside: refused" in state.reason


def _nan(arrays: Arrays) -> Arrays:
    return {name: np.full_like(array, np.nan) for name, array in arrays.items()}


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (Script(update=_nan), "not finite"),
        (Script(update=lambda s: {k: np.full_like(v, 1e5) for k, v in s.items()}), "at most"),
        (Script(update=lambda s: {k: v[..., :1] for k, v in s.items()}), "expected shape"),
        (Script(update=lambda s: {"head.bias": s["head.bias"]}), "missing"),
        (Script(update=lambda s: {k: v.astype(np.float64) for k, v in s.items()}), "float32"),
        (Script(alter=lambda s: {k: v * 2 for k, v in s.items()}), "of other arrays"),
        (Script(claim=lambda body: {**body, "round": 2}), "for another round"),
        (Script(claim=lambda body: {**body, "site": "st-elm"}), "for another site"),
        (Script(claim=lambda body: {**body, "plan_id": f"sha256:{'0' * 64}"}), "for another plan"),
        (Script(claim=lambda body: {**body, "epsilon_spent": "9"}), "the plan allows"),
        (Script(envelope=lambda given: {**given, "statement": "{}"}), "does not verify"),
        (Script(envelope=lambda given: {**given, "site": "st-elm"}), "another site"),
    ],
)
def test_a_malformed_answer_does_not_count(field: Ground, script: Script, said: str) -> None:
    plan_id, plan = field.approved(name="malformed", quorum=1, phases=(simple_phase(rounds=1),))
    with field.site("st-elm", plan), field.site("lakeside", plan, script):
        state = run(field, field.training(plan_id, plan))
    assert state.stage == "completed"
    (report,) = rounds_of(field, plan_id)
    assert report.participants == ("st-elm",)
    assert said in report.absent["lakeside"]
    model = field.folder(plan_id).model(state)
    assert model is not None
    np.testing.assert_allclose(model.current["head.bias"], 0.125)


def test_an_answer_signed_with_another_key_does_not_count(field: Ground) -> None:
    plan_id, plan = field.approved(name="forged", quorum=1, phases=(simple_phase(rounds=1),))
    files = field.sites["lakeside"]
    forger = ScriptedSite(
        type(files)(files.name, files.folder, field.sites["st-elm"].identity, files.kit), plan
    )
    with field.site("st-elm", plan), forger:
        run(field, field.training(plan_id, plan))
    (report,) = rounds_of(field, plan_id)
    assert "does not verify" in report.absent["lakeside"]


def test_a_run_goes_on_from_its_last_finished_round(field: Ground) -> None:
    plan_id, plan = field.approved(name="resumed")
    stop = threading.Event()

    def slow(state: Arrays) -> Arrays:
        if len(elm.seen) > 2:  # in the second round
            stop.set()
            time.sleep(0.2)
        return {name: np.ones_like(array) for name, array in state.items()}

    elm = field.site("st-elm", plan, Script(update=slow))
    with field.site("lakeside", plan), elm, pytest.raises(Stopped):
        run(field, field.training(plan_id, plan, stop=stop))
    state = field.folder(plan_id).load()
    assert state is not None
    assert (state.stage, state.rounds_done, state.outcome) == ("running", 1, None)
    before = field.folder(plan_id).model(state)
    with field.site("st-elm", plan) as elm, field.site("lakeside", plan):
        state = run(field, field.training(plan_id, plan))
    assert (state.stage, state.rounds_done) == ("completed", 3)
    assert [number for kind, number in elm.seen if kind == "train"] == [1, 2]
    assert [report.round for report in rounds_of(field, plan_id)] == [0, 1, 2]
    after = field.folder(plan_id).model(state)
    assert before is not None
    assert after is not None
    np.testing.assert_allclose(after.current["head.bias"] - before.current["head.bias"], 2 * 0.125)


def test_sites_that_spent_a_round_refuse_it_and_the_run_fails_honestly(field: Ground) -> None:
    plan_id, plan = field.approved(name="spent", quorum=1)
    spent = Script(refuse="round-already-started")
    with field.site("st-elm", plan, spent), field.site("lakeside", plan, spent):
        state = run(field, field.training(plan_id, plan))
    assert state.stage == "failed"
    assert state.reason.count("round-already-started") == 2


def test_a_round_counts_only_after_its_report_was_recorded(field: Ground) -> None:
    """The compliance service goes away during the round and comes back later."""
    plan_id, plan = field.approved(name="unrecorded", phases=(simple_phase(rounds=2),))
    away = threading.Event()

    def last_words(state: Arrays) -> Arrays:
        if not away.is_set():
            away.set()
            field.service.stop()
        return {name: np.ones_like(array) for name, array in state.items()}

    result: list[Any] = []
    work = threading.Thread(target=lambda: result.append(run(field, field.training(plan_id, plan))))
    try:
        with field.site("st-elm", plan, Script(update=last_words)), field.site("lakeside", plan):
            work.start()
            until(
                lambda: any("waiting for compliance" in line for line in field.notes.lines),
                "the coordinator to notice",
            )
            state = field.folder(plan_id).load()
            assert state is not None
            assert state.rounds_done == 0
            assert state.pending is not None
            field.service.start()
            work.join(60)
    finally:
        if field.service.process.poll() is not None:
            field.service.start()
    assert result
    assert result[0].stage == "completed"
    assert [report.round for report in rounds_of(field, plan_id)] == [0, 1]


def test_a_crash_between_report_and_count_repeats_the_same_report(field: Ground) -> None:
    plan_id, plan = field.approved(name="crashed", phases=(simple_phase(rounds=2),))
    training = field.training(plan_id, plan)
    folder = field.folder(plan_id)

    class Crash(Exception):
        pass

    def record_and_crash(call: Callable[[], object]) -> None:
        call()
        raise Crash

    training._recording.until_answered = record_and_crash  # type: ignore[method-assign]
    with field.site("st-elm", plan), field.site("lakeside", plan):
        with pytest.raises(Crash):
            run(field, training)
        state = folder.load()
        assert state is not None
        assert state.pending is not None
        assert state.rounds_done == 0
        state = run(field, field.training(plan_id, plan))
    assert state.stage == "completed"
    assert [report.round for report in rounds_of(field, plan_id)] == [0, 1]
    statement = SignedStatement.from_json(state.outcome or {})
    assert statement.digest == (field.compliance.plan(plan_id).outcome or statement).digest


def test_a_changed_checkpoint_is_not_trained_from(field: Ground) -> None:
    plan_id, plan = field.approved(name="changed", phases=(simple_phase(rounds=1),))
    with field.site("st-elm", plan), field.site("lakeside", plan):
        state = run(field, field.training(plan_id, plan))
    path = field.folder(plan_id).path / state.checkpoint
    path.write_bytes(path.read_bytes()[:-1] + b"\1")
    with pytest.raises(MalformedInput, match="was changed"):
        field.folder(plan_id).model(state)
    path.unlink()
    with pytest.raises(MalformedInput, match="cannot read"):
        field.folder(plan_id).model(state)


def test_a_run_waits_for_its_sites_and_says_for_whom(field: Ground) -> None:
    plan_id, plan = field.approved(name="patient", phases=(simple_phase(rounds=1),))
    result: list[Any] = []
    work = threading.Thread(target=lambda: result.append(run(field, field.training(plan_id, plan))))
    with field.site("st-elm", plan) as elm:
        work.start()
        until(lambda: "patient: waiting for lakeside" in " ".join(field.notes.lines), "a note")
        assert elm.seen == []
        with field.site("lakeside", plan):
            work.join(60)
    assert result[0].stage == "completed"


def test_what_is_shown_follows_the_run(field: Ground) -> None:
    plan_id, plan = field.approved(name="shown", phases=(simple_phase(rounds=2),))
    field.notes.views.clear()
    with field.site("st-elm", plan), field.site("lakeside", plan):
        run(field, field.training(plan_id, plan))
    views = [view for view in field.notes.views if view.plan_id == plan_id]
    assert {view.activity for view in views} >= {"training", "evaluating"}
    assert views[-1].round == 1
    assert views[-1].accuracy == "0.818182"
    assert any(view.answered for view in views)
    assert any("round 2 of 2 (probe), 2 of 2 sites" in line for line in field.notes.lines)


def test_the_registrar_lets_revoked_sites_out_and_believes_its_own_record(field: Ground) -> None:
    other = Registrar(field.federation, field.link, field.notes, field.stop)
    assert other.identity_of("st-elm") is None
    other.look(field.compliance)
    assert other.identity_of("st-elm") == field.sites["st-elm"].identity.public
    record = field.federation.sites / "lakeside.json"
    text = record.read_text()
    record.write_text(text.replace(field.sites["lakeside"].identity.public.encoded(), "other"))
    try:
        other.look(field.compliance)
        assert "lakeside" not in field.link.registered()
        assert other.identity_of("lakeside") is None
        assert "names other keys" in " ".join(other.trouble)
    finally:
        record.write_text(text)
    other.look(field.compliance)
    assert field.link.registered() == {"st-elm", "lakeside"}
    assert other.trouble == []


def test_the_registrar_looks_at_once_so_that_sites_that_dial_again_are_known(
    field: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop, looked = threading.Event(), threading.Event()
    registrar = Registrar(field.federation, field.link, field.notes, stop)
    monkeypatch.setattr(stop, "wait", lambda _: stop.set())  # it ends where it would first wait
    monkeypatch.setattr(registrar, "look", lambda _: looked.set())
    registrar.start()
    registrar.join(10)
    assert looked.is_set()


def simple_phase(rounds: int) -> Phase:
    return Phase(
        kind="probe",
        rounds=rounds,
        steps_per_round=1,
        sampling_rate=Decimal(1),
        learning_rate=Decimal(1),
        max_grad_norm=Decimal(1),
        noise_multiplier=Decimal(1),
    )


def test_the_initial_model_is_what_sites_train_from_first(field: Ground) -> None:
    plan_id, plan = field.approved(name="initial", phases=(simple_phase(rounds=1),))
    given: list[str] = []

    def remember(state: Arrays) -> Arrays:
        given.append(arrays_digest(state))
        return {name: np.zeros_like(array) for name, array in state.items()}

    with (
        field.site("st-elm", plan, Script(update=remember)),
        field.site("lakeside", plan, Script(update=remember)),
    ):
        run(field, field.training(plan_id, plan))
    assert given == [arrays_digest(INITIAL)] * 2
    assert isinstance(field.compliance, ComplianceClient)
