"""The ledger's format: batch limits and units are durable, and the first format lives on.

`ledger-1.sqlite` was written by the version that had `fiduciary.ledger/1`, with its own `Ledger`.
Plan 1…1 (three rounds of two steps, noise 4, rate 0.5) started two rounds, evaluated one and was
settled; plan 2…2 (two full-batch rounds, noise 3.5) started one. It had spent epsilon 1.5277 and
committed 1.9238, as that version composed them.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest

from audit.errors import Refused, VerificationFailed
from audit.log import Entry
from client import ledger_format
from client.budget import AlreadyEvaluated, Audit, Reservation, RoundAlreadyStarted, RoundEvent
from client.learning.accounting import BatchCap, Event, reported_epsilon
from client.ledger import Ledger
from client.site import Site
from tests.client.site.documents import make_limits, make_plan, make_reservation

REAL = Path(__file__).parent / "ledger-1.sqlite"
DELTA = Decimal("0.00001")
FIRST, SECOND, THIRD = ("sha256:" + digit * 64 for digit in "123")


class _Kept:
    """A journal that keeps entries in memory."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []

    def record(self, entry: Entry) -> None:
        self.entries.append(entry)


def capped(plan_id: str = THIRD, **options: str) -> Reservation:
    cap = BatchCap(20, 300)
    plain = make_reservation(plan_id, noise="4", rate="0.1", **options)  # type: ignore[arg-type]
    return replace(plain, rounds=tuple(replace(each, cap=cap) for each in plain.rounds))


@pytest.fixture
def first_format(tmp_path: Path) -> Path:
    path = tmp_path / "ledger.sqlite"
    shutil.copy(REAL, path)
    return path


# --- what the second format stores ----------------------------------------------------------------


def test_a_plans_batch_limit_becomes_the_rounds_cap() -> None:
    limit = {"subjects": 20, "max_population": 300}
    plan = make_plan(format="fiduciary.plan/2", phase={"batch_limit": limit})
    reservation = Reservation.of(FIRST, plan, ["notes"])
    assert {each.cap for each in reservation.rounds} == {BatchCap(20, 300)}
    assert reservation.caps == (BatchCap(20, 300),)
    assert make_reservation().caps == ()


def test_batch_limits_are_composed_after_a_restart(local: Site) -> None:
    with local.ledger() as ledger:
        cost = ledger.reserve(capped(), make_limits())
        ledger.start_round(THIRD, 0)
    expected = reported_epsilon([Event(4.0, 0.1, 3, BatchCap(20, 300))], DELTA)
    assert cost.plan == expected
    with local.ledger() as ledger:
        found = ledger.budget(DELTA)
        assert found.committed == expected
        assert found.plans[0].caps == (BatchCap(20, 300),)
        assert found.spent == reported_epsilon([Event(4.0, 0.1, 1, BatchCap(20, 300))], DELTA)
        assert [reading.epsilon for reading in ledger.history(DELTA)] == [found.spent]
    (entry,) = [
        local.journal.read(leaf.position)[1]
        for leaf in local.journal.leaves()
        if leaf.action == "budget-reserved"
    ]
    assert entry["batch_limits"] == [{"subjects": 20, "max_population": 300}]


def test_a_plan_cannot_come_back_with_another_limit_or_unit(local: Site) -> None:
    with local.ledger() as ledger:
        ledger.reserve(capped(), make_limits())
        ledger.reserve(capped(), make_limits())
        wider = RoundEvent(Decimal(4), Decimal("0.1"), 1, BatchCap(20, 301))
        for other in (
            make_reservation(THIRD, noise="4", rate="0.1"),
            replace(capped(), rounds=(wider,) * 3),
            replace(capped(), max_records_per_subject=5),
        ):
            with pytest.raises(Refused, match="other rounds"):
                ledger.reserve(other, make_limits())
        ledger.reserve(make_reservation(FIRST, noise="9"), make_limits())
        with pytest.raises(Refused, match="other rounds"):
            ledger.reserve(
                replace(make_reservation(FIRST, noise="9"), unit="record"), make_limits()
            )


def test_half_a_limit_cannot_be_stored(local: Site) -> None:
    with local.ledger() as ledger:
        ledger.reserve(capped(), make_limits())
    connection = sqlite3.connect(local.paths.ledger)
    with pytest.raises(sqlite3.IntegrityError):
        connection.execute("UPDATE rounds SET max_population = NULL")
    connection.close()


def test_record_level_and_subject_level_plans_compose(local: Site) -> None:
    """A record-level plan of two records a subject is, to the subject, its bound."""
    records = replace(
        make_reservation(FIRST, noise="12", rate="0.5", rounds=2),
        unit="record",
        max_records_per_subject=2,
    )
    with local.ledger() as ledger:
        cost = ledger.reserve(records, make_limits())
        assert cost.plan == reported_epsilon([Event(12.0, 0.5, 2)], DELTA)
        bound = Event(6.0, 0.75, 2)
        assert cost.subject == cost.total == reported_epsilon([bound], DELTA) > cost.plan
        # The same noise and rate as the first: what they are to a subject differs all the same.
        ledger.reserve(make_reservation(SECOND, noise="12", rate="0.5", rounds=1), make_limits())
        ledger.start_round(FIRST, 0)
    with local.ledger() as ledger:
        found = ledger.budget(DELTA)
        assert found.committed == reported_epsilon([bound, Event(12.0, 0.5, 1)], DELTA)
        assert ledger.epsilon_spent(FIRST) == reported_epsilon([Event(12.0, 0.5, 1)], DELTA)
        assert found.spent == reported_epsilon([Event(6.0, 0.75, 1)], DELTA)
        part = found.plans[0]
        assert (part.unit, part.epsilon_committed) == ("record", cost.plan)
        assert part.epsilon_of_subject == cost.subject


def test_the_policy_bounds_what_a_record_level_plan_costs_a_subject(local: Site) -> None:
    from audit.errors import BudgetExhausted

    records = replace(make_reservation(FIRST, noise="12"), unit="record")
    with local.ledger() as ledger:
        alone = ledger.cost_of(records, make_limits())
        assert alone.plan < 1 < alone.subject
        with pytest.raises(BudgetExhausted, match="costs a data subject epsilon"):
            ledger.reserve(records, make_limits("20", per_plan="1"))


# --- a file of the first format -------------------------------------------------------------------


def _stored(path: Path) -> tuple[str, list[tuple[object, ...]]]:
    connection = sqlite3.connect(path)
    (name,) = connection.execute("SELECT value FROM meta WHERE name = 'format'").fetchone()
    rounds = connection.execute(
        "SELECT plan_id, round, noise_multiplier, sampling_rate, steps, state, started_at "
        "FROM rounds ORDER BY plan_id, round"
    ).fetchall()
    connection.close()
    return str(name), rounds


def test_a_real_file_of_the_first_format_is_brought_up_to_date(first_format: Path) -> None:
    before, rounds = _stored(first_format)
    assert before == "fiduciary.ledger/1"
    journal = _Kept()
    with Ledger.open(first_format, journal, "site:north") as ledger:
        found = ledger.budget(DELTA)
        assert (found.spent, found.committed) == (Decimal("1.5277"), Decimal("1.9238"))
        assert ledger.open_plans() == [SECOND]
        with pytest.raises(RoundAlreadyStarted):
            ledger.start_round(SECOND, 0)
        with pytest.raises(AlreadyEvaluated):
            ledger.allow_evaluation(FIRST, 0, "sha256:" + "b" * 64)
        ledger.start_round(SECOND, 1)
        ledger.reserve(capped(), make_limits())
        ledger.remember_audit(THIRD, "here", Audit(Decimal(1), passes=True), {})
    migrated = journal.entries[0]
    assert (migrated.action, migrated.object) == ("budget-migrated", "ledger")
    assert migrated.payload == {
        "sequence": 8,
        "from": "fiduciary.ledger/1",
        "to": "fiduciary.ledger/2",
    }
    after, kept = _stored(first_format)
    assert after == "fiduciary.ledger/2"
    untouched = [row for row in kept if row[0] != THIRD and row[:2] != (SECOND, 1)]
    assert untouched == [row for row in rounds if row[:2] != (SECOND, 1)]


def test_it_is_brought_up_to_date_once(first_format: Path) -> None:
    journal = _Kept()
    for _ in range(3):
        Ledger.open(first_format, journal, "site:north").close()
    assert [entry.action for entry in journal.entries] == ["budget-migrated"]


def test_a_migrated_file_is_like_a_fresh_one(first_format: Path, tmp_path: Path) -> None:
    Ledger.open(first_format, _Kept(), "site:north").close()
    Ledger.create(tmp_path / "fresh.sqlite")
    columns = []
    for path in (first_format, tmp_path / "fresh.sqlite"):
        connection = sqlite3.connect(path)
        columns.append(
            {
                table: connection.execute(f"PRAGMA table_info({table})").fetchall()
                for table in ("plans", "rounds", "evaluations", "audits", "journal_outbox")
            }
        )
        connection.close()
    assert columns[0] == columns[1]


def test_cut_off_in_the_middle_the_file_is_of_one_format_or_the_other(
    first_format: Path, tmp_path: Path
) -> None:
    """A process that dies leaves a prefix of what it wrote to the write-ahead log."""
    holding = sqlite3.connect(first_format)  # keeps the log from being merged at a close
    holding.execute("SELECT count(*) FROM plans").fetchone()
    Ledger.open(first_format, _Kept(), "site:north").close()
    log = first_format.with_name("ledger.sqlite-wal").read_bytes()
    assert len(log) > 4096
    copied = tmp_path / "copy" / "ledger.sqlite"
    copied.parent.mkdir()
    seen, sequences = [], []
    for end in [*range(0, len(log), 2048), len(log)]:
        shutil.copy(REAL, copied)
        for suffix in ("-wal", "-shm"):
            copied.with_name(copied.name + suffix).unlink(missing_ok=True)
        copied.with_name("ledger.sqlite-wal").write_bytes(log[:end])
        seen.append(_stored(copied)[0])
        journal = _Kept()
        with Ledger.open(copied, journal, "site:north", compose=_steps) as ledger:
            assert ledger.budget(DELTA).committed == 4 + 2
            ledger.reserve(capped(), make_limits())
        assert journal.entries[-1].action == "budget-reserved"
        sequences.append([entry.payload["sequence"] for entry in journal.entries])
    holding.close()
    assert seen[0] == "fiduciary.ledger/1"
    assert seen[-1] == "fiduciary.ledger/2"
    assert seen == sorted(seen)
    assert sequences[0] == [8, 9]
    assert sequences[-1] == [9], "the entry was journalled, and is not again"
    assert all(each in ([8, 9], [9]) for each in sequences)


def _steps(events: Iterable[Event], _delta: Decimal) -> Decimal:
    return Decimal(sum(event.steps for event in events))


def test_what_fails_leaves_the_first_format_whole(
    first_format: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = (*ledger_format._MIGRATION[:3], "UPDATE nothing SET value = 1")
    with monkeypatch.context() as patched:
        patched.setattr(ledger_format, "_MIGRATION", broken)
        with pytest.raises(VerificationFailed, match="cannot be read"):
            Ledger.open(first_format, _Kept(), "site:north")
    assert _stored(first_format)[0] == "fiduciary.ledger/1"
    with Ledger.open(first_format, _Kept(), "site:north", compose=_steps) as ledger:
        assert ledger.budget(DELTA).committed == 6


def test_a_process_of_the_earlier_version_cannot_reserve_without_limits(
    first_format: Path,
) -> None:
    """One that had the file open while it was migrated: its rows have too few columns."""
    earlier = ledger_format.connect(first_format)
    earlier.execute("SELECT count(*) FROM rounds").fetchone()
    Ledger.open(first_format, _Kept(), "site:north").close()
    with pytest.raises(sqlite3.OperationalError, match="9 columns but 7 values"):
        earlier.execute(
            "INSERT INTO rounds VALUES (?, ?, ?, ?, ?, 'reserved', NULL)", (FIRST, 9, "4", "1", 1)
        )
    earlier.close()


def test_a_site_with_a_ledger_of_the_first_format_goes_on(local: Site) -> None:
    for suffix in ("", "-wal", "-shm"):
        path = local.paths.ledger.with_name(local.paths.ledger.name + suffix)
        path.unlink(missing_ok=True)
    shutil.copy(REAL, local.paths.ledger)
    with local.ledger() as ledger:
        ledger.start_round(SECOND, 1)
    actions = [leaf.action for leaf in local.journal.leaves()]
    assert actions[-2:] == ["budget-migrated", "budget-round-started"]
