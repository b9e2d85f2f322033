"""Messages of a site that wants to harm, over the real wire: each is refused with its reason, and
the round goes on with the others. What a signed report or an update may say: `test_replies`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, RecordDict
from flwr.app.message import Array

from audit.errors import FiduciaryError, Unreachable
from audit.statement import verify_statement
from client.arrays import Arrays, pack_arrays
from client.fleet_content import DOCUMENT
from client.fleet_frames import Frames
from client.fleet_tasks import IncomingTask
from client.flower import FleetConnection
from compliance.statements import Phase, RoundReport, TrainingPlan
from server.superlink import Answer, Lost
from server.superlink import link as link_module
from server.superlink.messages import MAX_REPORT_BYTES
from tests.server.conftest import Service
from tests.server.ground import INITIAL, Ground, ground
from tests.server.scripted import Script, ScriptedSite, SiteFiles
from tests.server.test_superlink import REPORT, STATE, ask, collect, poll
from tests.server.wired import Wired, wired

SITES: Final = ("st-elm", "lakeside", "riverside")
HOSTILE: Final = "lakeside"
HONEST: Final = tuple(sorted(set(SITES) - {HOSTILE}))
HONEST_MOVE: Final = 0.125


@pytest.fixture(scope="module")
def field_of_three(
    shared_service: Service, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Ground]:
    with ground(shared_service, tmp_path_factory.mktemp("ground"), SITES) as made:
        yield made


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wired]:
    with wired(tmp_path_factory.mktemp("net")) as made:
        yield made


def phase(rounds: int) -> Phase:
    return Phase(
        kind="probe",
        rounds=rounds,
        steps_per_round=1,
        sampling_rate=Decimal(1),
        learning_rate=Decimal(1),
        max_grad_norm=Decimal(1),
        noise_multiplier=Decimal(1),
    )


Attack = Callable[["HostileSite", FleetConnection, IncomingTask], RecordDict | None]
"""Gives what to send instead of an answer; None for the honest answer."""


@dataclass
class HostileSite(ScriptedSite):
    """An admitted site, with its own keys, that sends what its attack gives."""

    attack: Attack = lambda site, connection, task: None
    others: dict[str, SiteFiles] = field(default_factory=dict)
    """Of all sites, as if it had stolen their keys."""
    sent: list[RecordDict] = field(default_factory=list)

    def honest(self, task: IncomingTask) -> RecordDict:
        return content_of(self, task, self.travelling(task))

    def _answer(self, connection: FleetConnection, task: IncomingTask) -> None:
        content = self.attack(self, connection, task) if task.kind == "train" else None
        if content is None:
            super()._answer(connection, task)
            return
        self.sent.append(content)
        self.taken.append(connection._send(task.message, content))


def content_of(site: ScriptedSite, task: IncomingTask, arrays: Arrays) -> RecordDict:
    """What `FleetConnection.reply_arrays` would send."""
    report = {"plan_id": task.plan_id, "round": task.round, **site.report(task, arrays)}
    return document(pack_arrays(arrays), report)


def document(data: bytes, report: dict[str, Any]) -> RecordDict:
    array = Array(dtype="uint8", shape=(len(data),), stype=DOCUMENT, data=data)
    return RecordDict({"arrays": ArrayRecord({DOCUMENT: array}), "report": ConfigRecord(report)})


def run(
    field: Ground, plan_id: str, plan: TrainingPlan, hostile: ScriptedSite
) -> tuple[Any, list[RoundReport]]:
    run_id = field.link.open_run()
    others = [field.site(name, plan) for name in HONEST]
    try:
        with hostile, others[0], others[1]:
            state = field.training(plan_id, plan).run(run_id)
    finally:
        field.link.close_run(run_id, completed=False)
    evidence = field.compliance.plan_evidence(plan_id)
    key = field.federation.identity.public
    reports = [RoundReport.from_body(verify_statement(item, key)) for item in evidence.rounds]
    return state, reports


def moved(field: Ground, plan_id: str, state: Any) -> np.ndarray:
    """How far the model went from its start."""
    model = field.folder(plan_id).model(state)
    assert model is not None
    return np.concatenate([(model.current[n] - INITIAL[n]).ravel() for n in INITIAL])


def raw(make: Callable[[dict[str, Any]], RecordDict]) -> Attack:
    """An attack by what is sent, given an honest report."""

    def attack(site: HostileSite, _connection: FleetConnection, task: IncomingTask) -> RecordDict:
        honest = site.honest(task)
        return make(dict(honest.config_records["report"]))

    return attack


def filled(value: float, dtype: Any = np.float32) -> Attack:
    """An attack by numbers, under an honestly signed report of exactly them."""

    def attack(site: HostileSite, _connection: FleetConnection, task: IncomingTask) -> RecordDict:
        arrays = {name: np.full(array.shape, value, dtype) for name, array in INITIAL.items()}
        return content_of(site, task, arrays)

    return attack


def overheard(site: HostileSite, connection: FleetConnection, task: IncomingTask) -> RecordDict:
    """Another site's whole answer, as that site signed it."""
    del connection
    victim = ScriptedSite(site.others["st-elm"], site.plan)
    return content_of(victim, task, victim.travelling(task))


def borrowed(site: HostileSite, connection: FleetConnection, task: IncomingTask) -> RecordDict:
    """Another site's signed report of the same arrays, in an envelope of its own."""
    content = overheard(site, connection, task)
    report = {**content.config_records["report"], "site": site.files.name}
    return document(pack_arrays(site.travelling(task)), report)


EMPTY: Final = pack_arrays({})
CASES: Final[dict[str, tuple[Attack, str]]] = {
    "infinite": (filled(np.inf), "not finite"),
    "minus infinite": (filled(-np.inf), "not finite"),
    "no number": (filled(np.nan), "not finite"),
    "above every weight": (filled(1e7), "a value above"),
    "longer than training can make it": (filled(1e3), "at most"),
    "half precision": (filled(0.1, np.float16), "expected float32, got float16"),
    "integers": (filled(1, np.int64), "expected float32, got int64"),
    "another site's whole answer": (overheard, "for another site"),
    "another site's signed report": (borrowed, "does not verify"),
    "a pickle": (raw(lambda report: document(b"\x80\x04N.", report)), "cannot be read"),
    "a header that lies about its length": (
        raw(lambda report: document(b"\xff" * 8 + EMPTY, report)),
        "cannot be read",
    ),
    "no arrays": (raw(lambda report: document(EMPTY, report)), "of other arrays"),
    "no report": (
        raw(lambda report: RecordDict({"arrays": document(EMPTY, report)["arrays"]})),
        "expected a record report",
    ),
    "nothing": (raw(lambda _report: RecordDict({})), "expected a record report"),
    "two documents": (
        raw(
            lambda report: RecordDict(
                {**document(EMPTY, report), "more": document(EMPTY, report)["arrays"]}
            )
        ),
        "expected a record report",
    ),
    "numbers that are no document": (
        raw(
            lambda report: RecordDict(
                {
                    "arrays": ArrayRecord({DOCUMENT: Array(np.zeros((2, 2), np.float32))}),
                    "report": ConfigRecord(report),
                }
            )
        ),
        "one safetensors document",
    ),
    "an endless report": (
        raw(lambda report: document(EMPTY, {**report, "statement": "x" * (MAX_REPORT_BYTES + 1)})),
        "short texts and numbers",
    ),
    "a report of other types": (
        raw(lambda report: document(EMPTY, {**report, "statement": [1.5, 2.5]})),
        "short texts and numbers",
    ),
    "a refusal that paints the screen": (
        raw(
            lambda _report: RecordDict(
                {"refusal": ConfigRecord({"code": "\x1b[2J", "reason": "\n" * 99 + "gone"})}
            )
        ),
        "refused:  [2J:  gone",
    ),
}


def test_each_is_refused_with_its_reason_and_the_rounds_go_on(field_of_three: Ground) -> None:
    """One run: in each round the same site tries something else."""
    ours, attacks = field_of_three, list(CASES.values())

    def by_round(
        site: HostileSite, connection: FleetConnection, task: IncomingTask
    ) -> RecordDict | None:
        attack, _ = attacks[task.round]
        return attack(site, connection, task)

    plan_id, plan = ours.approved(name="hostile", sites=SITES, phases=(phase(len(CASES)),))
    state, reports = run(ours, plan_id, plan, _hostile(ours, plan, by_round))
    assert state.stage == "completed"
    told = {
        name: report.absent.get(HOSTILE, "accepted")
        for name, report in zip(CASES, reports, strict=True)
    }
    unexpected = {name: told[name] for name, (_, said) in CASES.items() if said not in told[name]}
    assert unexpected == {}
    assert all(reason.isprintable() for reason in told.values())
    assert all(report.participants == HONEST for report in reports)
    np.testing.assert_allclose(moved(ours, plan_id, state), len(CASES) * HONEST_MOVE)


def _hostile(field: Ground, plan: TrainingPlan, attack: Attack) -> HostileSite:
    return HostileSite(field.sites[HOSTILE], plan, attack=attack, others=field.sites)


def replayed(site: HostileSite, _connection: FleetConnection, task: IncomingTask) -> RecordDict:
    """The first answer of its life, as it was."""
    return site.sent[0] if site.sent else site.honest(task)


def rewrapped(site: HostileSite, connection: FleetConnection, task: IncomingTask) -> RecordDict:
    """The arrays and the signed report of its first answer, in this round's envelope."""
    first = replayed(site, connection, task)
    report = {**first.config_records["report"], "plan_id": task.plan_id, "round": task.round}
    return RecordDict({"arrays": first["arrays"], "report": ConfigRecord(report)})


def in_turn(site: HostileSite, connection: FleetConnection, task: IncomingTask) -> RecordDict:
    attack = rewrapped if task.round == 2 else replayed
    return attack(site, connection, task)


def test_an_earlier_round_s_answer_does_not_count_again(field_of_three: Ground) -> None:
    ours = field_of_three
    plan_id, plan = ours.approved(name="replayed", sites=SITES, phases=(phase(rounds=3),))
    state, reports = run(ours, plan_id, plan, _hostile(ours, plan, in_turn))
    assert state.stage == "completed"
    assert reports[0].participants == tuple(sorted(SITES))
    said = ("its report is for another round", "its signed report is for another round")
    for report, reason in zip(reports[1:], said, strict=True):
        assert report.participants == HONEST
        assert report.absent == {HOSTILE: f"answer not accepted: {reason}"}


def test_an_earlier_run_s_answer_does_not_count(field_of_three: Ground) -> None:
    ours = field_of_three
    first_id, first = ours.approved(name="earlier", sites=SITES, phases=(phase(rounds=1),))
    before = _hostile(ours, first, replayed)
    run(ours, first_id, first, before)
    plan_id, plan = ours.approved(name="later", sites=SITES, phases=(phase(rounds=3),))
    later = _hostile(ours, plan, in_turn)
    later.sent = before.sent
    _, reports = run(ours, plan_id, plan, later)
    for report, reason in zip(reports, ("report", "report", "signed report"), strict=True):
        assert report.participants == HONEST
        said = f"answer not accepted: its {reason} is for another plan"
        assert report.absent == {HOSTILE: said}


def test_of_two_answers_the_first_counts_once(field_of_three: Ground) -> None:
    """The same one again, and another one that would be accepted by itself."""
    ours, taken = field_of_three, []

    def twice(site: HostileSite, connection: FleetConnection, task: IncomingTask) -> RecordDict:
        first = site.honest(task)
        taken.append(connection._send(task.message, first))
        taken.append(connection._send(task.message, first))
        more = {name: np.full_like(array, 10) for name, array in INITIAL.items()}
        return content_of(site, task, more)

    plan_id, plan = ours.approved(name="twice", sites=SITES, phases=(phase(rounds=1),))
    hostile = _hostile(ours, plan, twice)
    state, (report,) = run(ours, plan_id, plan, hostile)
    assert report.participants == tuple(sorted(SITES))
    np.testing.assert_allclose(moved(ours, plan_id, state), HONEST_MOVE)
    assert taken[0]
    assert hostile.taken[0] is False


def test_a_reply_that_is_larger_than_its_task_can_need_costs_only_its_sender(
    field_of_three: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = field_of_three
    monkeypatch.setattr(link_module, "REPLY_ALLOWANCE_BYTES", 60_000)
    attack = raw(lambda report: document(bytes(200_000), report))
    plan_id, plan = ours.approved(
        name="oversized", sites=SITES, phases=(phase(rounds=1),), deadline_seconds=10
    )
    state, (report,) = run(ours, plan_id, plan, _hostile(ours, plan, attack))
    assert state.stage == "completed"
    assert report.participants == HONEST
    assert set(report.absent) == {HOSTILE}
    assert report.absent[HOSTILE] in (
        "it was restarted before it answered",  # it dialled again, and was not asked once more
        "no answer within the deadline of 10 seconds",
    )


# --- a rule that bears one of three ---------------------------------------------------------------


@pytest.mark.parametrize("rule", ["median", "trimmed-mean"])
def test_what_is_accepted_and_hostile_does_not_move_a_model_by_a_robust_rule(
    field_of_three: Ground, rule: str
) -> None:
    """As long as the norm bound lets through, the other way, in every round."""
    ours = field_of_three
    for chosen, tolerated in (("mean", 0), (rule, 1)):
        plan_id, plan = ours.approved(
            name=f"{rule}-{chosen}",
            sites=SITES,
            quorum=3,
            phases=(phase(rounds=2),),
            aggregation={"rule": chosen, "tolerated": tolerated},
        )
        state, reports = run(ours, plan_id, plan, _hostile(ours, plan, filled(-25)))
        assert all(report.participants == tuple(sorted(SITES)) for report in reports)
        went = moved(ours, plan_id, state)
        if chosen == "mean":
            assert (went < -15).all()
        else:
            np.testing.assert_allclose(went, 2 * HONEST_MOVE)
            assert reports[0].update_norm == pytest.approx(
                Decimal(HONEST_MOVE * went.size**0.5), abs=Decimal("0.00001")
            )


def test_with_too_few_answers_for_the_rule_no_weaker_one_stands_in(field_of_three: Ground) -> None:
    ours = field_of_three
    plan_id, plan = ours.approved(
        name="too-few",
        sites=SITES,
        quorum=3,
        phases=(phase(rounds=1),),
        aggregation={"rule": "median", "tolerated": 1},
    )
    refusing = ScriptedSite(ours.sites[HOSTILE], plan, Script(refuse="not-today"))
    state, reports = run(ours, plan_id, plan, refusing)
    assert state.stage == "failed"
    assert "of the 3 sites that it needs: lakeside: refused: not-today" in state.reason
    assert reports == []


# --- below messages -------------------------------------------------------------------------------


def test_a_site_cannot_answer_another_s_task_in_its_own_name(net: Wired) -> None:
    """It knows the task's id, and names itself: the task stays open for the site that was asked."""
    victim, attacker = net.admit("asked"), net.admit("uninvited")
    run_id = net.link.open_run()
    with net.connect(victim) as connection, net.connect(attacker) as forging:
        message_id = ask(net, run_id, "asked")
        task = poll(connection)
        task.message.metadata.dst_node_id = forging.node_id  # whom a reply names as its sender
        with pytest.raises(Unreachable, match="waits for no answer of this site"):
            forging.reply_arrays(task, STATE, REPORT)
        ask(net, run_id, "uninvited")
        assert not forging.reply_arrays(task, STATE, REPORT)
        assert net.link.collect(run_id, {"asked": message_id}) == {}
        task.message.metadata.dst_node_id = connection.node_id
        assert connection.reply_arrays(task, STATE, REPORT)
        (answer,) = collect(net, run_id, {"asked": message_id}).values()
        assert isinstance(answer, Answer)
    net.link.close_run(run_id, completed=True)


def test_bytes_that_are_not_what_their_id_says_are_no_answer(net: Wired) -> None:
    files, run_id = net.admit("swaps"), net.link.open_run()
    with net.connect(files) as connection:
        message_id = ask(net, run_id, "swaps")
        task, push = poll(connection), connection._client.push_answer

        def swapped(frames: Frames) -> Frames:
            frames.framed = [frames.framed[0], *(part[:-1] + b"\x01" for part in frames.framed[1:])]
            return push(frames)

        connection._client.push_answer = swapped  # type: ignore[method-assign]
        try:
            taken = connection.reply_arrays(task, STATE, REPORT)
        except FiduciaryError:
            taken = False
        settled = net.link.collect(run_id, {"swaps": message_id})
        assert not taken
        assert all(isinstance(answer, Lost) for answer in settled.values())
        # The coordinator serves on.
        message_id = ask(net, run_id, "swaps", round_index=1)
        connection._client.push_answer = push  # type: ignore[method-assign]
        assert connection.reply_arrays(poll(connection), STATE, REPORT)
        (answer,) = collect(net, run_id, {"swaps": message_id}).values()
        assert isinstance(answer, Answer)
    net.link.close_run(run_id, completed=True)
