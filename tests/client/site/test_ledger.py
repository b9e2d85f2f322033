"""The ledger: reserve, start once, settle; never more than the policy allows; never lost."""

from __future__ import annotations

import shutil
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from audit.errors import BudgetExhausted, Conflict, NotFound, Refused, VerificationFailed
from audit.log import Entry
from audit.storage import LogUnavailable
from client.budget import (
    AlreadyEvaluated,
    Audit,
    Limits,
    NoReservation,
    Reservation,
    RoundAlreadyStarted,
    compose_epsilon,
)
from client.budget_history import readings_at
from client.erasure import erase_subject
from client.learning.accounting import Event
from client.ledger import Ledger
from client.ledger_journal import journalled_sequence
from client.site import Site
from client.vault import Vault
from tests.client.site.documents import (
    ZERO_DIGEST,
    add_dataset,
    make_limits,
    make_plan,
    make_reservation,
)

DELTA = Decimal("0.00001")
FIRST, SECOND = "sha256:" + "1" * 64, "sha256:" + "2" * 64


@pytest.fixture
def ledger(local: Site) -> Iterator[Ledger]:
    with local.ledger() as opened:
        yield opened


def journalled(site: Site) -> list[tuple[str, int]]:
    """Budget entries of the journal, with their sequence."""
    return [
        (leaf.action, site.journal.read(leaf.position)[1]["sequence"])
        for leaf in site.journal.leaves()
        if leaf.action.startswith("budget-")
    ]


# --- what it does -------------------------------------------------------------------------------


def test_reserve_start_settle(local: Site, ledger: Ledger) -> None:
    reservation = make_reservation(rounds=3)
    cost = ledger.reserve(reservation, make_limits())
    assert not cost.reserved
    assert ledger.open_plans() == [reservation.plan_id]
    ledger.start_round(reservation.plan_id, 1)
    assert ledger.settle(reservation.plan_id) == 2
    assert ledger.open_plans() == []
    budget = ledger.budget(DELTA)
    one = compose_epsilon([Event(1.0, 1.0, 1)], DELTA)
    assert budget.spent == budget.committed == one
    assert budget.plans[0].rounds_started == 1
    assert budget.plans[0].rounds_released == 2
    assert journalled(local) == [
        ("budget-reserved", 1),
        ("budget-round-started", 2),
        ("budget-settled", 3),
    ]


def test_a_plan_becomes_one_event_a_round() -> None:
    plan = make_plan(phase={"rounds": 3, "steps_per_round": 5})
    reservation = Reservation.of(FIRST, plan, ["notes"])
    assert len(reservation.rounds) == 3
    assert reservation.events == (Event(2.0, 0.5, 15),)


def test_a_reservation_counts_before_anything_trained(ledger: Ledger) -> None:
    ledger.reserve(make_reservation(rounds=3), make_limits())
    budget = ledger.budget(DELTA, Decimal(20))
    assert budget.spent == 0
    assert budget.committed == budget.reserved == compose_epsilon([Event(1.0, 1.0, 3)], DELTA)
    assert budget.left == 20 - budget.committed
    assert ledger.started_plans() == []


def test_a_round_starts_once(ledger: Ledger) -> None:
    ledger.reserve(make_reservation(), make_limits())
    ledger.start_round(make_reservation().plan_id, 0)
    with pytest.raises(RoundAlreadyStarted, match="started before"):
        ledger.start_round(make_reservation().plan_id, 0)
    ledger.start_round(make_reservation().plan_id, 1)


@pytest.mark.parametrize("round_index", [3, -1, 10**6])
def test_a_round_that_the_plan_has_not_is_refused(ledger: Ledger, round_index: int) -> None:
    ledger.reserve(make_reservation(rounds=3), make_limits())
    with pytest.raises(NoReservation):
        ledger.start_round(make_reservation().plan_id, round_index)


def test_a_plan_that_was_not_reserved_cannot_start(ledger: Ledger) -> None:
    with pytest.raises(NoReservation):
        ledger.start_round(FIRST, 0)
    with pytest.raises(NoReservation):
        ledger.settle(FIRST)
    with pytest.raises(NoReservation):
        ledger.epsilon_spent(FIRST)


def test_a_settled_plan_stays_settled(local: Site, ledger: Ledger) -> None:
    ledger.reserve(make_reservation(), make_limits())
    ledger.settle(make_reservation().plan_id)
    assert ledger.settle(make_reservation().plan_id) == 0
    assert journalled(local) == [("budget-reserved", 1), ("budget-settled", 2)]
    with pytest.raises(NoReservation):
        ledger.start_round(make_reservation().plan_id, 0)
    with pytest.raises(NoReservation, match="settled"):
        ledger.reserve(make_reservation(), make_limits())


def test_reserving_again_changes_nothing(local: Site, ledger: Ledger) -> None:
    first = ledger.reserve(make_reservation(), make_limits())
    ledger.start_round(make_reservation().plan_id, 0)
    before = ledger.budget(DELTA)
    assert ledger.reserve(make_reservation(), make_limits()) == replace(first, reserved=True)
    assert ledger.budget(DELTA) == before
    assert len(journalled(local)) == 2


def test_a_plan_cannot_be_reserved_with_other_rounds(ledger: Ledger) -> None:
    ledger.reserve(make_reservation(noise="2"), make_limits())
    with pytest.raises(Refused, match="other rounds"):
        ledger.reserve(make_reservation(noise="1"), make_limits())


def test_a_dataset_that_joins_later_is_noted(ledger: Ledger) -> None:
    ledger.reserve(make_reservation(datasets=("a",)), make_limits())
    ledger.start_round(make_reservation().plan_id, 0)
    ledger.reserve(make_reservation(datasets=("b",)), make_limits())
    assert ledger.started_plans() == [(make_reservation().plan_id, ("a", "b"))]


# --- what it refuses ----------------------------------------------------------------------------


def test_it_refuses_before_it_overspends(local: Site, ledger: Ledger) -> None:
    one = make_reservation(FIRST, rounds=2)
    cost = ledger.reserve(one, make_limits("8"))
    assert cost.total < 8
    with pytest.raises(BudgetExhausted, match="exceed the epsilon 8"):
        ledger.reserve(make_reservation(SECOND, rounds=2), make_limits("8"))
    assert ledger.open_plans() == [FIRST]
    assert [action for action, _ in journalled(local)] == ["budget-reserved", "budget-refused"]


def test_a_refusal_tells_nothing_of_other_plans(ledger: Ledger) -> None:
    ledger.reserve(make_reservation(FIRST, rounds=2), make_limits("8"))
    spent = str(ledger.budget(DELTA).committed)
    with pytest.raises(BudgetExhausted) as raised:
        ledger.reserve(make_reservation(SECOND, rounds=2), make_limits("8"))
    assert spent not in str(raised.value)


def test_one_plan_may_not_cost_too_much(ledger: Ledger) -> None:
    with pytest.raises(BudgetExhausted, match="allows one plan"):
        ledger.reserve(make_reservation(), make_limits("20", per_plan="1"))
    assert ledger.open_plans() == []


def test_a_plan_that_promises_less_than_it_costs_is_refused(ledger: Ledger) -> None:
    with pytest.raises(BudgetExhausted, match="promises epsilon 1 but costs"):
        ledger.reserve(make_reservation(epsilon="1"), make_limits())


def test_a_settled_plan_gives_room(ledger: Ledger) -> None:
    ledger.reserve(make_reservation(FIRST, rounds=2), make_limits("8"))
    ledger.settle(FIRST)
    ledger.reserve(make_reservation(SECOND, rounds=2), make_limits("8"))


def test_epsilon_is_composed_and_never_added(ledger: Ledger) -> None:
    for plan_id in (FIRST, SECOND):
        ledger.reserve(make_reservation(plan_id, rounds=4, noise="4"), make_limits())
    budget = ledger.budget(DELTA)
    parts = [plan.epsilon_committed for plan in budget.plans]
    assert max(parts) < budget.committed < sum(parts)
    assert budget.committed == compose_epsilon([Event(4.0, 1.0, 8)], DELTA)


def test_datasets_that_share_subjects_share_one_budget(ledger: Ledger) -> None:
    """Nothing tells apart who is in which dataset: what two plans do to both is composed."""
    ledger.reserve(make_reservation(FIRST, noise="4", datasets=("notes",)), make_limits())
    ledger.reserve(make_reservation(SECOND, noise="5", datasets=("letters",)), make_limits())
    for plan_id in (FIRST, SECOND):
        for round_index in range(3):
            ledger.start_round(plan_id, round_index)
    budget = ledger.budget(DELTA, Decimal(20))
    assert budget.spent == compose_epsilon([Event(4.0, 1.0, 3), Event(5.0, 1.0, 3)], DELTA)
    assert budget.to_json()["population"].startswith("every data subject of this site")


@pytest.mark.parametrize("change", ["replaced", "erased", "removed"])
def test_a_new_version_of_a_dataset_has_no_budget_of_its_own(local: Site, change: str) -> None:
    add_dataset(local, "notes")
    with local.ledger() as ledger:
        ledger.reserve(make_reservation(FIRST, rounds=2), make_limits("8"))
        ledger.start_round(FIRST, 0)
        ledger.start_round(FIRST, 1)
        before = ledger.budget(DELTA).spent
        with Vault.open(local.paths, local.keyring) as vault:
            if change == "erased":
                erase_subject(local, vault, ledger, "P-003")
            elif change == "removed":
                vault.remove("notes")
    add_dataset(local, "notes", replace=change != "removed")
    add_dataset(local, "notes-2")
    with local.ledger() as ledger:
        assert ledger.budget(DELTA).spent == before
        for datasets in (("notes",), ("notes-2",)):
            with pytest.raises(BudgetExhausted, match="exceed the epsilon 8"):
                ledger.reserve(
                    make_reservation(SECOND, rounds=2, datasets=datasets), make_limits("8")
                )


def test_an_odometer_tells_how_epsilon_grew(ledger: Ledger) -> None:
    assert ledger.history(DELTA) == ()
    for plan_id, noise in ((FIRST, "4"), (SECOND, "5")):
        ledger.reserve(make_reservation(plan_id, noise=noise), make_limits())
        for round_index in range(3):
            ledger.start_round(plan_id, round_index)
    history = ledger.history(DELTA, points=2)
    assert [(reading.rounds, reading.plan_id) for reading in history] == [(3, FIRST), (6, SECOND)]
    assert history[0].epsilon == compose_epsilon([Event(4.0, 1.0, 3)], DELTA)
    assert history[1].epsilon == ledger.budget(DELTA).spent
    assert len(ledger.history(DELTA)) == 6


def test_plans_that_train_in_turns_have_few_readings() -> None:
    turns = ["a", "b"] * 500
    assert len(readings_at(turns, 24)) <= 25
    assert readings_at(turns, 24)[-1] == 1000
    assert readings_at([], 24) == []


def test_the_budget_says_what_holds_for_plans_that_were_chosen_later(ledger: Ledger) -> None:
    ledger.reserve(make_reservation(FIRST, noise="1.5", rate="0.2", steps=9), make_limits())
    budget = ledger.budget(DELTA, Decimal(20))
    assert budget.adaptive is not None
    assert budget.adaptive > budget.committed
    told = budget.to_json()
    assert told["epsilon_adaptive"] == float(budget.adaptive)
    assert told["kinds"]["epsilon_limit"].startswith("filter")
    assert told["kinds"]["epsilon_spent"].startswith("odometer")
    assert ledger.budget(DELTA).adaptive is None, "no order can be fixed without a limit"
    assert ledger.budget(DELTA, with_plans=False).plans == ()


def test_the_total_is_at_the_policys_delta(ledger: Ledger) -> None:
    delta = Decimal("0.001")
    cost = ledger.cost_of(make_reservation(), Limits(Decimal(20), Decimal(20), delta))
    events = make_reservation().events
    assert (cost.plan, cost.total) == (
        compose_epsilon(events, DELTA),
        compose_epsilon(events, delta),
    )
    assert cost.total < cost.plan


def test_cost_of_tells_what_reserve_would_find(ledger: Ledger) -> None:
    ledger.reserve(make_reservation(FIRST), make_limits())
    asked = ledger.cost_of(make_reservation(SECOND), make_limits())
    assert ledger.reserve(make_reservation(SECOND), make_limits()) == asked


def test_one_state_a_round_is_evaluated(ledger: Ledger) -> None:
    with pytest.raises(NoReservation):
        ledger.allow_evaluation(FIRST, 0, "sha256:aa")
    ledger.reserve(make_reservation(FIRST), make_limits())
    ledger.allow_evaluation(FIRST, 0, "sha256:aa")
    ledger.allow_evaluation(FIRST, 0, "sha256:aa")
    ledger.allow_evaluation(FIRST, 1, "sha256:bb")
    with pytest.raises(AlreadyEvaluated):
        ledger.allow_evaluation(FIRST, 0, "sha256:bb")


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    moves=st.lists(
        st.tuples(st.sampled_from("rsx"), st.integers(0, 2), st.integers(0, 3)), max_size=25
    )
)
def test_whatever_happens_the_limit_holds(
    tmp_path_factory: pytest.TempPathFactory, moves: list[tuple[str, int, int]]
) -> None:
    """Random reserve, start and settle: committed never exceeds the limit, spent never shrinks."""
    path = tmp_path_factory.mktemp("ledger") / "ledger.sqlite"
    Ledger.create(path)
    limits = make_limits("30")

    def compose(events: object, _delta: Decimal) -> Decimal:
        # Steps stand in for epsilon: composition is checked elsewhere, bookkeeping here.
        return Decimal(sum(event.steps for event in events))  # type: ignore[attr-defined]

    started: set[tuple[int, int]] = set()
    with Ledger.open(path, _Silent(), "site:north", compose=compose) as ledger:
        for move, plan, round_index in moves:
            plan_id = f"sha256:{plan:064x}"
            if move == "r":
                try:
                    ledger.reserve(make_reservation(plan_id, rounds=4, steps=3), limits)
                except (BudgetExhausted, NoReservation):
                    continue
            elif move == "s":
                try:
                    ledger.start_round(plan_id, round_index)
                except (RoundAlreadyStarted, NoReservation):
                    continue
                assert (plan, round_index) not in started
                started.add((plan, round_index))
            else:
                try:
                    ledger.settle(plan_id)
                except NoReservation:
                    continue
            budget = ledger.budget(DELTA)
            assert budget.spent == 3 * len(started)
            assert budget.spent <= budget.committed <= 30


class _Silent:
    """A journal that keeps nothing."""

    def record(self, entry: Entry) -> None:
        return None


# --- faults -------------------------------------------------------------------------------------


class _Faulty:
    """A journal that fails: before it wrote, or after.

    `record` counts; at `fail_at` it raises, with or without having written.
    """

    def __init__(self, site: Site, fail_at: int, *, written: bool) -> None:
        self._site = site
        self._left = fail_at
        self._written = written

    def record(self, entry: Entry) -> None:
        self._left -= 1
        if self._left == 0 and not self._written:
            raise LogUnavailable("disk full")
        self._site.journal.record(entry)
        if self._left == 0:
            raise LogUnavailable("connection lost")


@pytest.mark.parametrize("written", [False, True], ids=["not-persisted", "persisted-but-errored"])
@pytest.mark.parametrize("fail_at", [1, 2, 3])
def test_a_journal_that_fails_stops_the_work_and_loses_nothing(
    local: Site, fail_at: int, written: bool
) -> None:
    """Whatever the journal does, what was committed is spent, and it is journalled in the end."""
    journal = _Faulty(local, fail_at, written=written)
    done = []
    with Ledger.open(local.paths.ledger, journal, "site:north") as ledger:
        steps = (
            lambda: ledger.reserve(make_reservation(), make_limits()),
            lambda: ledger.start_round(make_reservation().plan_id, 0),
            lambda: ledger.settle(make_reservation().plan_id),
        )
        for step in steps:
            try:
                step()
                done.append(True)
            except LogUnavailable:
                break
    assert len(done) == fail_at - 1
    with local.ledger() as ledger:
        plan = ledger.budget(DELTA).plans[0]
        assert plan.rounds_started == (1 if fail_at >= 2 else 0)
        assert plan.settled == (fail_at == 3)
        if fail_at == 2:  # the caller was told no: nothing trained, and the round stays spent
            with pytest.raises(RoundAlreadyStarted):
                ledger.start_round(make_reservation().plan_id, 0)
    sequences = [sequence for _, sequence in journalled(local)]
    assert sorted(set(sequences)) == list(range(1, fail_at + 1))
    assert len(sequences) == fail_at + written


def test_what_a_crash_left_is_journalled_first(local: Site) -> None:
    with Ledger.open(local.paths.ledger, _Faulty(local, 1, written=False), "site:north") as ledger:
        with pytest.raises(LogUnavailable):
            ledger.reserve(make_reservation(), make_limits())
        ledger.start_round(make_reservation().plan_id, 0)
    assert journalled(local) == [("budget-reserved", 1), ("budget-round-started", 2)]


def test_an_entry_whose_retention_ended_hides_no_earlier_one(local: Site, ledger: Ledger) -> None:
    ledger.reserve(make_reservation(), make_limits())
    ledger.start_round(make_reservation().plan_id, 0)
    (newest,) = local.journal.leaves(local.journal.size() - 2, 1)
    local.keyring.destroy(newest.key)
    assert journalled_sequence(local.journal) == 1


def test_what_cannot_be_noted_for_the_journal_does_not_happen(local: Site, ledger: Ledger) -> None:
    """A change and the text of its entry are one transaction."""
    other = sqlite3.connect(local.paths.ledger, isolation_level=None)
    other.execute(
        "CREATE TRIGGER full BEFORE INSERT ON journal_outbox "
        "BEGIN SELECT raise(ABORT, 'disk full'); END"
    )
    with pytest.raises(sqlite3.DatabaseError, match="disk full"):
        ledger.reserve(make_reservation(), make_limits())
    other.execute("DROP TRIGGER full")
    other.close()
    assert ledger.budget(DELTA).plans == ()
    assert not ledger.reserve(make_reservation(), make_limits()).reserved


def test_an_audit_is_kept_once(local: Site, ledger: Ledger) -> None:
    ledger.remember_audit(FIRST, "here", Audit(Decimal(9), passes=False), {})
    with pytest.raises(Conflict, match="audited here already"):
        ledger.remember_audit(FIRST, "here", Audit(Decimal(0), passes=True), {})
    assert ledger.audit_of(FIRST, "here") == Audit(Decimal(9), passes=False)
    assert journalled(local) == [("budget-audited", 1)]


def test_two_threads_cannot_both_take_the_last(local: Site) -> None:
    outcomes: list[str] = []

    def reserve(plan_id: str) -> None:
        with Site.open(local.paths.root) as site, site.ledger() as ledger:
            try:
                ledger.reserve(make_reservation(plan_id, rounds=2), make_limits("8"))
                outcomes.append("reserved")
            except BudgetExhausted:
                outcomes.append("refused")

    threads = [
        threading.Thread(target=reserve, args=(f"sha256:{number:064x}",)) for number in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["refused", "refused", "refused", "reserved"]


def test_a_missing_ledger_is_never_made_anew(local: Site) -> None:
    local.paths.ledger.unlink()
    with pytest.raises(NotFound, match=r"ledger .* is missing"):
        local.ledger()
    assert not local.paths.ledger.exists()


def test_a_ledger_is_never_replaced(local: Site) -> None:
    with pytest.raises(Conflict):
        Ledger.create(local.paths.ledger)


@pytest.mark.parametrize("content", [b"", b"not a database at all, only some text" * 40])
def test_a_file_that_is_no_ledger_is_refused(local: Site, content: bytes) -> None:
    local.paths.ledger.write_bytes(content)
    with pytest.raises(VerificationFailed, match="ledger"):
        local.ledger()


def test_a_ledger_of_a_later_format_is_refused(local: Site) -> None:
    connection = sqlite3.connect(local.paths.ledger)
    connection.execute("UPDATE meta SET value = 'fiduciary.ledger/3'")
    connection.commit()
    connection.close()
    with pytest.raises(
        VerificationFailed, match=r"expected fiduciary\.ledger/2, got .*/3"
    ) as refused:
        local.ledger()
    assert "install the version" in refused.value.fix


def _remove_write_ahead_log(path: Path) -> None:
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def test_a_ledger_put_back_to_an_earlier_copy_is_noticed(local: Site, tmp_path: Path) -> None:
    with local.ledger() as ledger:
        ledger.reserve(make_reservation(FIRST), make_limits())
    shutil.copy(local.paths.ledger, tmp_path / "earlier.sqlite")
    with local.ledger() as ledger:
        ledger.start_round(FIRST, 0)
    _remove_write_ahead_log(local.paths.ledger)
    shutil.copy(tmp_path / "earlier.sqlite", local.paths.ledger)
    with pytest.raises(VerificationFailed, match="earlier copy"):
        local.ledger()


def test_a_fresh_ledger_in_place_of_the_old_one_is_noticed(local: Site) -> None:
    with local.ledger() as ledger:
        ledger.reserve(make_reservation(FIRST), make_limits())
    _remove_write_ahead_log(local.paths.ledger)
    local.paths.ledger.unlink()
    Ledger.create(local.paths.ledger)
    with pytest.raises(VerificationFailed, match="knows 1 change "):
        local.ledger()


def test_cut_off_in_the_middle_of_any_write_the_ledger_is_whole(
    local: Site, tmp_path: Path
) -> None:
    """A process that dies leaves a prefix of what it wrote to the write-ahead log, byte by byte.

    Every prefix must open, as the state after one of the changes, and never as an earlier one than
    a shorter prefix.
    """
    copied = tmp_path / "ledger.sqlite"
    holding = sqlite3.connect(local.paths.ledger)  # keeps the log from being merged at a close
    holding.execute("SELECT count(*) FROM plans").fetchone()
    with Ledger.open(local.paths.ledger, _Silent(), "site:north", compose=_steps) as ledger:
        ledger.reserve(make_reservation(), make_limits())
        ledger.start_round(ZERO_DIGEST, 0)
        ledger.start_round(ZERO_DIGEST, 1)
        ledger.settle(ZERO_DIGEST)
    written = local.paths.ledger.with_name("ledger.sqlite-wal").read_bytes()
    frame = 24 + 4096
    assert (len(written) - 32) % frame == 0
    assert len(written) > 10 * frame
    seen = []
    for start in range(32, len(written) + 1, frame):
        for length in {start, min(start + 24, len(written)), min(start + 1000, len(written))}:
            shutil.copy(local.paths.ledger, copied)
            _remove_write_ahead_log(copied)
            copied.with_name("ledger.sqlite-wal").write_bytes(written[:length])
            with Ledger.open(copied, _Silent(), "site:north", compose=_steps) as ledger:
                plans = ledger.budget(DELTA).plans
                seen.append((plans[0].rounds_started, plans[0].settled) if plans else (-1, False))
    holding.close()
    assert seen == sorted(seen)
    assert set(seen) == {(-1, False), (0, False), (1, False), (2, False), (2, True)}


def _steps(events: Iterable[Event], _delta: Decimal) -> Decimal:
    """Steps in place of epsilon, where only the bookkeeping matters."""
    return Decimal(sum(event.steps for event in events))
