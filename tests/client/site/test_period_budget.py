"""The period's limit: which rounds count when, with which clock, beside the total."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from audit.errors import BudgetExhausted
from audit.log import Entry
from client.budget import Limits, NoReservation, RoundAlreadyStarted, compose_epsilon
from client.budget_period import ClockBehind, Period, refuse_clock_behind
from client.learning.accounting import Event
from client.ledger import Ledger
from compliance.statements import format_time
from tests.client.site.documents import make_reservation
from tests.client.site.test_ledger_format import REAL

DELTA = Decimal("0.00001")
FIRST, SECOND, THIRD, FOURTH = ("sha256:" + digit * 64 for digit in "1234")
START = datetime(2026, 11, 2, 9, tzinfo=UTC)


class Clock:
    """A clock that a test sets, in days after a start."""

    def __init__(self, start: datetime = START) -> None:
        self.start = start
        self.day = 0.0

    def __call__(self) -> str:
        return format_time(self.start + timedelta(days=self.day))


class Kept:
    """A journal that keeps entries in memory."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []

    def record(self, entry: Entry) -> None:
        self.entries.append(entry)


def steps(events: Iterable[Event], _delta: Decimal) -> Decimal:
    """Steps in place of epsilon, where only the bookkeeping matters."""
    return Decimal(sum(event.steps for event in events))


def limited(per_period: str, total: str = "100", *, days: int = 30) -> Limits:
    return Limits(Decimal(100), Decimal(total), DELTA, Period(days, Decimal(per_period)))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "ledger.sqlite"
    Ledger.create(made)
    return made


@pytest.fixture
def ledger(path: Path, clock: Clock) -> Iterator[Ledger]:
    with Ledger.open(path, Kept(), "site:north", compose=steps, clock=clock) as opened:
        yield opened


def train(ledger: Ledger, plan_id: str, rounds: int, limits: Limits) -> None:
    """Reserve a plan, start all of its rounds, and end it."""
    ledger.reserve(make_reservation(plan_id, rounds=rounds), limits)
    for index in range(rounds):
        ledger.start_round(plan_id, index)
    ledger.settle(plan_id)


# --- which rounds count -------------------------------------------------------------------------


def test_rounds_stop_counting_when_they_are_older_than_the_period(
    ledger: Ledger, clock: Clock
) -> None:
    train(ledger, FIRST, 4, limited("6"))
    clock.day = 29.9
    with pytest.raises(BudgetExhausted, match="allows within 30 days"):
        ledger.reserve(make_reservation(SECOND, rounds=3), limited("6"))
    assert ledger.open_plans() == []
    clock.day = 30
    cost = ledger.reserve(make_reservation(SECOND, rounds=3), limited("6"))
    assert (cost.period, cost.total) == (Decimal(3), Decimal(7))


def test_a_round_that_starts_late_counts_from_its_start(ledger: Ledger, clock: Clock) -> None:
    ledger.reserve(make_reservation(FIRST, rounds=4), limited("6"))
    clock.day = 40
    with pytest.raises(BudgetExhausted):  # reserved for 40 days, and may all start now
        ledger.reserve(make_reservation(SECOND, rounds=3), limited("6"))
    for index in range(4):
        ledger.start_round(FIRST, index)
    clock.day = 69.9
    with pytest.raises(BudgetExhausted):
        ledger.reserve(make_reservation(SECOND, rounds=3), limited("6"))
    clock.day = 70.1
    ledger.reserve(make_reservation(SECOND, rounds=3), limited("6"))


def test_rounds_that_were_given_back_do_not_count(ledger: Ledger) -> None:
    ledger.reserve(make_reservation(FIRST, rounds=6), limited("6"))
    ledger.start_round(FIRST, 0)
    with pytest.raises(BudgetExhausted):
        ledger.reserve(make_reservation(SECOND, rounds=5), limited("6"))
    ledger.settle(FIRST)
    assert ledger.reserve(make_reservation(SECOND, rounds=5), limited("6")).period == 6


def test_the_total_still_counts_what_the_period_has_forgotten(ledger: Ledger, clock: Clock) -> None:
    limits = limited("6", "8")
    train(ledger, FIRST, 5, limits)
    clock.day = 365
    with pytest.raises(BudgetExhausted, match="allows in all"):
        ledger.reserve(make_reservation(SECOND, rounds=4), limits)
    ledger.reserve(make_reservation(SECOND, rounds=3), limits)


def test_a_plan_that_is_reserved_goes_on_under_a_lower_limit(ledger: Ledger) -> None:
    ledger.reserve(make_reservation(FIRST, rounds=6), limited("6"))
    assert ledger.reserve(make_reservation(FIRST, rounds=6), limited("2")).reserved
    ledger.start_round(FIRST, 0)


def test_the_period_is_composed_and_never_added(path: Path, clock: Clock) -> None:
    limits = limited("90")
    with Ledger.open(path, Kept(), "site:north", clock=clock) as ledger:
        for day, plan_id in ((0, FIRST), (20, SECOND), (40, THIRD)):
            clock.day = day
            cost = ledger.reserve(make_reservation(plan_id, noise="4", rounds=4), limits)
            for index in range(4):
                ledger.start_round(plan_id, index)
        found = ledger.budget(DELTA, Decimal(100), period=limits.period)
    two = compose_epsilon([Event(4.0, 1.0, 8)], DELTA)
    assert cost.period == two
    assert cost.total == compose_epsilon([Event(4.0, 1.0, 12)], DELTA)
    assert found.period is not None
    assert found.period.spent == found.period.committed == two
    assert found.period.left == 90 - two


def test_what_was_refused_and_reserved_is_journalled_with_the_period(
    path: Path, clock: Clock
) -> None:
    journal = Kept()
    with Ledger.open(path, journal, "site:north", compose=steps, clock=clock) as ledger:
        ledger.reserve(make_reservation(FIRST, rounds=4), limited("6"))
        with pytest.raises(BudgetExhausted):
            ledger.reserve(make_reservation(SECOND, rounds=4), limited("6"))
    assert [
        (entry.action, entry.payload["epsilon_period"], entry.payload["period_days"])
        for entry in journal.entries
    ] == [("budget-reserved", "4", 30), ("budget-refused", "8", 30)]


def test_the_budget_shows_the_period(ledger: Ledger, clock: Clock) -> None:
    train(ledger, FIRST, 2, limited("6"))
    clock.day = 31
    ledger.reserve(make_reservation(SECOND, rounds=3), limited("6"))
    ledger.start_round(SECOND, 0)
    found = ledger.budget(DELTA, Decimal(100), period=Period(30, Decimal(6)))
    assert found.period is not None
    assert (found.spent, found.committed) == (Decimal(3), Decimal(5))
    assert (found.period.spent, found.period.committed) == (Decimal(1), Decimal(3))
    assert found.period.left == 3
    told = found.to_json()["period"]
    assert (told["days"], told["epsilon_limit"], told["epsilon_left"]) == (30, 6.0, 3.0)
    assert told["since"] == "2026-11-03T09:00:00.000Z"
    assert told["ledger_ahead"] is None
    assert ledger.budget(DELTA).to_json()["period"] is None


# --- clocks -------------------------------------------------------------------------------------


def test_a_clock_that_goes_back_a_little_makes_no_round_look_older(
    ledger: Ledger, clock: Clock
) -> None:
    ledger.reserve(make_reservation(FIRST, rounds=2), limited("2"))
    clock.day = 10
    ledger.start_round(FIRST, 0)
    clock.day = 10 - 0.5 / 24
    ledger.start_round(FIRST, 1)
    clock.day = 40 - 0.2 / 24
    with pytest.raises(BudgetExhausted):
        ledger.reserve(make_reservation(SECOND, rounds=1), limited("2"))


def test_a_clock_that_goes_back_further_stops_the_work(ledger: Ledger, clock: Clock) -> None:
    train(ledger, FIRST, 2, limited("6"))
    ledger.reserve(make_reservation(SECOND, rounds=2), limited("6"))
    clock.day = -1
    for plan_id in (SECOND, THIRD):  # one of them is reserved already
        with pytest.raises(ClockBehind, match="the privacy ledger knows") as raised:
            ledger.reserve(make_reservation(plan_id, rounds=2), limited("6"))
        assert "max_epsilon_per_period" in raised.value.fix
    found = ledger.budget(DELTA, period=Period(30, Decimal(6))).period
    assert found is not None
    assert found.ahead == "2026-11-02T09:00:00.000Z"
    clock.day = 2
    ledger.settle(SECOND)
    clock.day = 1  # behind the end of a plan alone
    with pytest.raises(ClockBehind):
        ledger.reserve(make_reservation(THIRD, rounds=2), limited("6"))
    clock.day = 3
    ledger.reserve(make_reservation(FOURTH, rounds=1), limited("6"))
    clock.day = 2.5  # behind a reservation alone
    with pytest.raises(ClockBehind):
        ledger.reserve(make_reservation(THIRD, rounds=2), limited("6"))
    # Without such a limit nothing depends on the clock.
    ledger.reserve(make_reservation(THIRD, rounds=2), Limits(Decimal(9), Decimal(9), DELTA))


def test_a_clock_may_be_an_hour_behind_and_no_more() -> None:
    refuse_clock_behind("2026-11-02T09:00:00.000Z", "2026-11-02T10:00:00.000Z")
    with pytest.raises(ClockBehind):
        refuse_clock_behind("2026-11-02T09:00:00.000Z", "2026-11-02T10:00:00.001Z")


def test_a_clock_that_was_ahead_gives_nothing_back_in_the_end(ledger: Ledger, clock: Clock) -> None:
    train(ledger, FIRST, 4, limited("6"))
    clock.day = 20
    train(ledger, SECOND, 1, limited("6"))
    clock.day = 3
    with pytest.raises(ClockBehind):
        ledger.reserve(make_reservation(THIRD, rounds=1), limited("6"))
    clock.day = 20
    with pytest.raises(BudgetExhausted):
        ledger.reserve(make_reservation(THIRD, rounds=2), limited("6"))
    assert ledger.reserve(make_reservation(THIRD, rounds=1), limited("6")).period == 6


def test_a_round_without_a_time_counts_for_ever(path: Path, ledger: Ledger, clock: Clock) -> None:
    train(ledger, FIRST, 4, limited("6"))
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE rounds SET started_at = NULL WHERE round = 0")
    connection.close()
    clock.day = 10_000
    assert ledger.cost_of(make_reservation(SECOND, rounds=1), limited("6")).period == 2


def test_a_round_counts_at_least_from_its_reservation(
    path: Path, ledger: Ledger, clock: Clock
) -> None:
    """An earlier version stored what a clock that was behind said."""
    train(ledger, FIRST, 4, limited("6"))
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE rounds SET started_at = '2020-01-01T00:00:00.000Z'")
    connection.close()
    clock.day = 29
    assert ledger.cost_of(make_reservation(SECOND, rounds=1), limited("6")).period == 5
    clock.day = 31
    assert ledger.cost_of(make_reservation(SECOND, rounds=1), limited("6")).period == 1


def test_a_ledger_of_the_first_format_has_the_times_that_a_period_needs(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    path.write_bytes(REAL.read_bytes())
    with sqlite3.connect(path) as connection:
        times = [row[0] for row in connection.execute("SELECT started_at FROM rounds")]
        (latest,) = connection.execute("SELECT max(started_at) FROM rounds").fetchone()
    connection.close()
    assert len([time for time in times if time]) == 3
    after = datetime.fromisoformat(latest)
    for days, expected in ((29, 6), (31, 1)):
        clock = Clock(after)
        clock.day = days
        with Ledger.open(path, Kept(), "site:north", compose=steps, clock=clock) as ledger:
            found = ledger.budget(DELTA, period=Period(30, Decimal(9))).period
            assert found is not None
            assert found.committed == expected, "one round is reserved and always counts"


# --- nobody spends twice --------------------------------------------------------------------------

TOTAL, PER_PERIOD, DAYS = 16, 5, 30


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    moves=st.lists(
        st.tuples(st.sampled_from("rrsssstttxb"), st.integers(0, 4), st.integers(0, 3)),
        max_size=60,
    )
)
def test_whatever_happens_no_window_costs_more_than_the_limit(
    tmp_path_factory: pytest.TempPathFactory, moves: list[tuple[str, int, int]]
) -> None:
    """Reserve, start, end, let time pass, put the clock back: both limits hold in true time."""
    path = tmp_path_factory.mktemp("ledger") / "ledger.sqlite"
    Ledger.create(path)
    clock, limits = Clock(), limited(str(PER_PERIOD), str(TOTAL), days=DAYS)
    true_day, started = 0.0, []
    reserved: set[int] = set()
    with Ledger.open(path, Kept(), "site:north", compose=steps, clock=clock) as ledger:
        for move, plan, number in moves:
            plan_id = f"sha256:{plan:064x}"
            clock.day = true_day
            try:
                if move == "r":
                    ledger.reserve(make_reservation(plan_id, rounds=4), limits)
                    reserved.add(plan)
                elif move == "s":
                    # As the worker does: the reservation is asked for again before each round.
                    ledger.reserve(make_reservation(plan_id, rounds=4), limits)
                    reserved.add(plan)
                    for index in range(number + 1):
                        with suppress(RoundAlreadyStarted):
                            ledger.start_round(plan_id, index)
                            started.append(true_day)
                elif move == "x":
                    ledger.settle(plan_id)
                elif move == "b":
                    clock.day = true_day - 10 * (number + 1)
                    ledger.reserve(make_reservation(plan_id, rounds=4), limits)
                else:
                    true_day += (0.5, 4, 11, 29)[number]
            except (BudgetExhausted, NoReservation, ClockBehind):
                continue
    assert len(started) <= TOTAL
    for day in started:
        assert sum(day <= other < day + DAYS for other in started) <= PER_PERIOD


CONTENDER = """
import sys, time
from decimal import Decimal
from pathlib import Path
from audit.errors import BudgetExhausted
from client.budget import Limits
from client.budget_period import Period
from client.ledger import Ledger
from tests.client.site.documents import make_reservation

class Silent:
    def record(self, entry):
        return None

def slowly(events, delta):
    time.sleep(0.05)  # between the look at the budget and the reservation
    return Decimal(sum(event.steps for event in events))

limits = Limits(Decimal(100), Decimal(sys.argv[3]), Decimal("0.00001"),
                Period(30, Decimal(sys.argv[4])))
with Ledger.open(Path(sys.argv[1]), Silent(), "site:north", compose=slowly) as ledger:
    print("ready", flush=True)
    sys.stdin.readline()
    for number in range(3):
        plan_id = "sha256:" + f"{sys.argv[2]}{number}" * 32
        try:
            ledger.reserve(make_reservation(plan_id, rounds=4), limits)
            print("reserved", flush=True)
        except BudgetExhausted:
            print("refused", flush=True)
"""


@pytest.mark.parametrize(("total", "per_period"), [("10", "100"), ("100", "10")])
def test_processes_that_reserve_at_once_never_take_more_than_there_is(
    path: Path, total: str, per_period: str
) -> None:
    """Three processes ask for three plans of 4 each; 10 are there, by one limit or the other."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", CONTENDER, str(path), digit, total, per_period],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for digit in "abc"
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    said = []
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        out, _ = process.communicate()
        assert process.returncode == 0
        said += out.split()
    assert sorted(said) == ["refused"] * 7 + ["reserved"] * 2
    with Ledger.open(path, Kept(), "site:north", compose=steps) as ledger:
        assert ledger.budget(DELTA).committed == 8
