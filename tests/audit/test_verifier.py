"""The verifier notices whatever is done to a stored log, and touches nothing."""

from __future__ import annotations

import itertools
import shutil
import sqlite3
import tracemalloc
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from audit.checkpoint import read_checkpoint
from audit.cosignature import WitnessKey, cosign, with_lines
from audit.errors import FiduciaryError, MalformedInput, VerificationFailed
from audit.journal import Journal
from audit.keys import SigningKey
from audit.log import AuditLog
from audit.merkle import Frontier, hash_leaf
from audit.node_order import node_place
from audit.report import Report
from audit.sql_log import SqlLogStorage
from audit.sqlite_log import SCHEMA
from audit.storage import LOG_FORMAT
from audit.verifier import verify_log
from tests.audit.logs import (
    ORIGIN,
    Clock,
    Site,
    entries,
    entry,
    hashes_of_first_format,
    tamper,
)

LEAF_PLACES = {node_place(0, position): position for position in range(21)}
TABLES = ("log_entries", "log_nodes", "log_checkpoints", "log_meta")


@pytest.fixture(scope="module")
def log(filled: Site) -> Path:
    return filled.copy()


def dump(path: Path) -> list[list[Any]]:
    connection = sqlite3.connect(path)
    try:
        return [
            connection.execute(f"SELECT * FROM {table} ORDER BY 1, 2").fetchall()  # noqa: S608
            for table in TABLES
        ]
    finally:
        connection.close()


def rehash(path: Path, position: int, leaf: bytes) -> Path:
    """What an attacker without the signing key can do: change an entry and every hash over it."""
    target = tamper(path, "UPDATE log_entries SET leaf = ? WHERE position = ?", leaf, position)
    connection = sqlite3.connect(target)
    connection.execute("DELETE FROM log_nodes")
    frontier = Frontier()
    rows = connection.execute("SELECT leaf FROM log_entries ORDER BY position").fetchall()
    for (data,) in rows:
        frontier, nodes = frontier.append(hash_leaf(data))
        SqlLogStorage(connection).write_hashes(nodes)
    connection.commit()
    connection.close()
    return target


def leaf_at(path: Path, position: int) -> bytes:
    connection = sqlite3.connect(path)
    try:
        return bytes(
            connection.execute(
                "SELECT leaf FROM log_entries WHERE position = ?", (position,)
            ).fetchone()[0]
        )
    finally:
        connection.close()


# --- sound logs -----------------------------------------------------------------------------------


def test_a_sound_log(filled: Site, log: Path) -> None:
    report = verify_log(log, filled.signer.public)
    assert report.ok
    assert report.problems == ()
    assert report.first_bad_entry is None
    assert report.entries == report.signed_entries == 21
    assert report.root == filled.journal.checkpoint().split("\n")[2]
    assert report.key_pinned
    assert report.key == filled.key
    assert report.origin == ORIGIN
    assert report.to_json()["verified"] is True


def test_the_logs_own_word_for_its_key(filled: Site, log: Path) -> None:
    report = verify_log(log)
    assert report.ok
    assert not report.key_pinned
    assert report.key == filled.key


@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 7, 8])
def test_every_small_size(site: Site, size: int) -> None:
    for _ in range(size):
        site.journal.record(entry())
    report = verify_log(site.path, site.signer.public)
    assert report.ok
    assert report.entries == size


def test_progress_is_told(site: Site) -> None:
    site.fill(5100)
    seen: list[tuple[int, int]] = []
    verify_log(site.path, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(5000, 5100), (5100, 5100)]


def test_memory_stays_flat(site: Site) -> None:
    """500-byte entries: a verifier that kept them would need megabytes more for the long log."""
    peaks = []
    for count in (1500, 5500):
        site.journal.record_many(entry(payload={"x": "y" * 300}) for _ in range(count))
        tracemalloc.start()
        assert verify_log(site.path).ok
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 100_000


# --- any change of any stored value ---------------------------------------------------------------


def cells(path: Path) -> Iterator[tuple[str, str, Any, str, bytes]]:
    """Every stored value: table, key column(s), key, column, bytes."""
    connection = sqlite3.connect(path)
    for table, key, column in (
        ("log_entries", "position", "leaf"),
        ("log_nodes", "place", "hash"),
        ("log_checkpoints", "size", "note"),
        ("log_meta", "name", "value"),
    ):
        for row_key, value in connection.execute(f"SELECT {key}, {column} FROM {table}"):  # noqa: S608
            yield table, key, row_key, column, value.encode() if isinstance(value, str) else value
    connection.close()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_flipped_bit_of_any_value(log: Path, filled: Site, data: st.DataObject) -> None:
    table, key, row_key, column, value = data.draw(st.sampled_from(list(cells(log))))
    bit = data.draw(st.integers(0, len(value) * 8 - 1))
    changed = bytearray(value)
    changed[bit // 8] ^= 1 << bit % 8
    new = "CAST(? AS TEXT)" if column in {"note", "value"} else "?"
    target = tamper(
        log,
        f"UPDATE {table} SET {column} = {new} WHERE {key} = ?",  # noqa: S608
        bytes(changed),
        row_key,
    )
    for pinned in (filled.signer.public, None):
        report = verify_log(target, pinned)
        assert not report.ok
        if table == "log_entries":
            assert report.first_bad_entry == row_key
        if table == "log_nodes" and row_key in LEAF_PLACES:
            assert report.first_bad_entry == LEAF_PLACES[row_key]
            assert "the stored hash was changed" in str(report.problems[0])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_flipped_bit_of_the_file(log: Path, filled: Site, data: st.DataObject) -> None:
    """Refused, or not a change: free space and counters of the file format hold no evidence."""
    changed = bytearray(log.read_bytes())
    bit = data.draw(st.integers(0, len(changed) * 8 - 1))
    changed[bit // 8] ^= 1 << bit % 8
    target = log.with_name("flipped.sqlite")
    target.write_bytes(bytes(changed))
    try:
        report = verify_log(target, filled.signer.public)
    except FiduciaryError:
        return
    if report.ok:
        assert dump(target) == dump(log)


def test_any_deleted_row(log: Path, filled: Site) -> None:
    for table, key, row_key, _, _ in cells(log):
        target = tamper(log, f"DELETE FROM {table} WHERE {key} = ?", row_key)  # noqa: S608
        report = verify_log(target, filled.signer.public)
        assert not report.ok, (table, row_key)
        if table == "log_entries" and row_key < 20:
            assert report.first_bad_entry == row_key
            assert "missing" in str(report.problems[0])


@pytest.mark.parametrize(
    ("statement", "first_bad", "what"),
    [
        ("UPDATE log_entries SET position = 21 WHERE position = 20", 20, "missing"),
        ("UPDATE log_entries SET position = -1 WHERE position = 0", 0, "missing"),
        ("UPDATE log_entries SET leaf = CAST(leaf AS TEXT) WHERE position = 3", 3, "bytes"),
        ("UPDATE log_entries SET leaf = zeroblob(0) WHERE position = 3", 3, "malformed"),
        ("UPDATE log_entries SET leaf = zeroblob(20000000) WHERE position = 3", 2, "or the next"),
        ("DELETE FROM log_entries", 0, "cut off"),
        ("DELETE FROM log_checkpoints", 0, "no signed checkpoint"),
        ("UPDATE log_checkpoints SET size = 20", None, "it signs 21"),
        ("UPDATE log_checkpoints SET note = 'x'", None, "malformed note"),
        ("INSERT INTO log_checkpoints VALUES (5, 'x')", None, "checkpoint of 5"),
        ("INSERT INTO log_nodes VALUES (900, zeroblob(32))", None, "1 stored hash without"),
        ("INSERT INTO log_nodes VALUES (39, zeroblob(32))", None, "1 stored hash without"),
        ("UPDATE log_nodes SET place = 900 WHERE place = 9", 4, "hash stored"),
        ("INSERT INTO log_meta VALUES ('more', 'x')", None, "metadata"),
        ("DELETE FROM log_meta", None, "metadata"),
        ("UPDATE log_meta SET value = 'x' WHERE name = 'format'", None, "format"),
        ("UPDATE log_meta SET value = 'x' WHERE name = 'origin'", None, "expected x"),
    ],
)
def test_changed_rows(
    log: Path, filled: Site, statement: str, first_bad: int | None, what: str
) -> None:
    report = verify_log(tamper(log, statement), filled.signer.public)
    assert what in " | ".join(map(str, report.problems))
    if first_bad is not None:
        assert report.first_bad_entry == first_bad


def test_swapped_entries(log: Path, filled: Site) -> None:
    for first, second in itertools.combinations((0, 5, 20), 2):
        target = tamper(
            log,
            "UPDATE log_entries SET leaf = CASE position WHEN ? THEN ? ELSE ? END"
            " WHERE position IN (?, ?)",
            first,
            leaf_at(log, second),
            leaf_at(log, first),
            first,
            second,
        )
        report = verify_log(target, filled.signer.public)
        assert report.first_bad_entry == first
        assert "moved" in str(report.problems[0])


def test_a_changed_entry_is_told_from_a_damaged_hash(log: Path, filled: Site) -> None:
    changed = leaf_at(log, 4).replace(b"site:north", b"site:south")
    target = tamper(log, "UPDATE log_entries SET leaf = ? WHERE position = 4", changed)
    report = verify_log(target, filled.signer.public)
    assert report.first_bad_entry == 4
    assert "an entry was changed" in str(report.problems[0])
    assert len(report.problems) == 1


# --- attackers who recompute ----------------------------------------------------------------------


def test_an_entry_changed_with_all_its_hashes(log: Path, filled: Site) -> None:
    changed = leaf_at(log, 4).replace(b"site:north", b"site:south")
    report = verify_log(rehash(log, 4, changed), filled.signer.public)
    assert not report.ok
    assert "rewritten together with their stored hashes" in str(report.problems[0])


def test_older_checkpoints_narrow_it_down(site: Site) -> None:
    for count in (1000, 60, 20):
        site.fill(count)
    path = site.copy()
    changed = leaf_at(path, 1050).replace(b"site:north", b"site:south")
    report = verify_log(rehash(path, 1050, changed), site.signer.public)
    assert report.signed_entries == 1000
    assert report.first_bad_entry == 1000


def test_a_history_rewritten_under_another_key(log: Path, filled: Site, tmp_path: Path) -> None:
    """Consistent with itself; only the key from its owner tells."""
    path = tmp_path / "forged.sqlite"
    connection = sqlite3.connect(path)
    for statement in SCHEMA:
        connection.execute(statement)
    forger = AuditLog(ORIGIN, SigningKey.generate(ORIGIN), filled.keyring)
    storage = SqlLogStorage(connection)
    forger.create(storage)
    forger.append_many(storage, entries(21))
    connection.commit()
    connection.close()
    itself = verify_log(path)
    assert itself.ok
    assert not itself.key_pinned
    pinned = verify_log(path, filled.signer.public)
    assert not pinned.ok
    assert "another key" in str(pinned.problems[0])


def test_appended_without_the_signing_key(log: Path, filled: Site) -> None:
    target = tamper(log, "INSERT INTO log_entries SELECT 21, leaf FROM log_entries LIMIT 1")
    report = verify_log(target, filled.signer.public)
    assert not report.ok
    assert report.signed_entries == 21
    forged = leaf_at(log, 20).replace(b'"position":20', b'"position":21')
    target = tamper(log, "INSERT INTO log_entries VALUES (21, ?)", forged)
    report = verify_log(rehash(target, 21, forged), filled.signer.public)
    assert report.first_bad_entry == 21
    assert "no signed checkpoint covers" in str(report.problems[0])


# --- a kept checkpoint ----------------------------------------------------------------------------


@pytest.fixture
def grown(site: Site) -> tuple[Site, str, Path]:
    """A log, an earlier checkpoint of it, and the same log cut back to before that checkpoint."""
    site.fill(4)
    short = site.copy("short.sqlite")
    site.fill(3)
    kept = site.journal.checkpoint()
    site.fill(5)
    return site, kept, short


def test_a_kept_checkpoint_is_contained(grown: tuple[Site, str, Path]) -> None:
    site, kept, _ = grown
    report = verify_log(site.path, site.signer.public, known=kept)
    assert report.ok
    assert report.known_entries == 7
    latest = verify_log(site.path, site.signer.public, known=site.journal.checkpoint())
    assert latest.ok
    assert latest.known_entries == 12


def test_a_log_cut_off_with_its_checkpoints(grown: tuple[Site, str, Path]) -> None:
    site, kept, short = grown
    assert verify_log(short, site.signer.public).ok  # nothing inside the file can tell
    report = verify_log(short, site.signer.public, known=kept)
    assert report.first_bad_entry == 4
    assert "the given checkpoint covers 7 entries and 4 are there" in str(report.problems[0])
    assert report.known_entries is None


def test_a_history_rewritten_with_the_stolen_key(grown: tuple[Site, str, Path]) -> None:
    """The thief signs another history; whoever kept a checkpoint notices."""
    site, kept, short = grown
    connection = sqlite3.connect(short)
    thief = AuditLog(ORIGIN, site.signer, site.keyring)
    thief.append_many(SqlLogStorage(connection), entries(8))
    connection.commit()
    connection.close()
    assert verify_log(short, site.signer.public).ok
    report = verify_log(short, site.signer.public, known=kept)
    assert not report.ok
    assert "the given checkpoint of 7 entries" in str(report.problems[0])


def test_a_kept_checkpoint_of_something_else(grown: tuple[Site, str, Path]) -> None:
    site, kept, _ = grown
    with pytest.raises(MalformedInput):
        verify_log(site.path, site.signer.public, known="junk")
    with pytest.raises(VerificationFailed):
        verify_log(site.path, site.signer.public, known=kept.replace("\n7\n", "\n8\n"))
    other = AuditLog("log.test/other", site.signer, site.keyring)
    connection = sqlite3.connect(":memory:")
    for statement in SCHEMA:
        connection.execute(statement)
    other.create(SqlLogStorage(connection))
    note = other.checkpoint(SqlLogStorage(connection))
    connection.close()
    assert read_checkpoint(note).size == 0
    with pytest.raises(VerificationFailed):
        verify_log(site.path, site.signer.public, known=note)


def test_a_report_of_nothing_is_not_ok() -> None:
    """`ok` is the absence of problems, so a report must never be made without looking."""
    report = Report("", "", False, 0, "", 0, 0, None, ())
    assert report.ok
    assert report.to_json()["first_bad_entry"] is None


# --- witnesses ------------------------------------------------------------------------------------

WITNESSES = tuple(SigningKey.generate(f"fed/site/{name}") for name in ("north", "south", "east"))
WITNESS_KEYS = tuple(WitnessKey.of(key.public) for key in WITNESSES)


def cosign_head(journal: Journal, *witnesses: SigningKey) -> None:
    note, size = journal.checkpoint(), journal.size()
    with journal._store.writing() as storage:
        for witness in witnesses:
            signed = with_lines(note, [cosign(note, witness, 1_770_000_000)])
            storage.write_cosignature(witness.name, size, signed)


@pytest.fixture
def witnessed(site: Site) -> Site:
    """Ten entries; north saw 10, south saw 7, east saw 4."""
    for count, witness in ((4, WITNESSES[2]), (3, WITNESSES[1]), (3, WITNESSES[0])):
        site.fill(count)
        cosign_head(site.journal, witness)
    return site


def judge(site: Site, path: Path, required: int, **options: Any) -> Report:
    return verify_log(
        path, site.signer.public, witnesses=WITNESS_KEYS, required_witnesses=required, **options
    )


def test_the_nth_largest_size_is_what_n_witnesses_vouch_for(witnessed: Site) -> None:
    for required, entries_vouched in ((1, 10), (2, 7), (3, 4)):
        report = judge(witnessed, witnessed.path, required)
        assert report.ok, report.problems
        assert report.witnessed_entries == entries_vouched
    assert [item.entries for item in report.witnesses] == [10, 7, 4]
    assert {item.time for item in report.witnesses} == {1_770_000_000}


def test_too_few_witnesses(witnessed: Site) -> None:
    stranger = WitnessKey.of(SigningKey.generate("fed/site/west").public)
    report = verify_log(
        witnessed.path,
        witnessed.signer.public,
        witnesses=[WITNESS_KEYS[0], WITNESS_KEYS[0], stranger],
        required_witnesses=2,
    )
    assert "1 of the given witnesses vouch" in str(report.problems[0])
    assert report.unchecked_cosignatures == 2
    assert report.witnessed_entries == 0


def test_entries_that_waited_too_long_for_their_witnesses(witnessed: Site) -> None:
    """The clock of these logs goes on by a second at each transaction."""
    assert judge(witnessed, witnessed.path, 3, unwitnessed_hours=0).ok
    late = Journal.open(
        witnessed.path,
        witnessed.signer,
        witnessed.keyring,
        lambda: datetime(2026, 2, 1, 13, 30, tzinfo=UTC),
    )
    late.record(entry())
    late.close()
    report = judge(witnessed, witnessed.path, 3)
    assert report.first_bad_entry == 4
    assert "fewer than 3 witnesses" in str(report.problems[0])
    assert judge(witnessed, witnessed.path, 3, unwitnessed_hours=25).ok


def test_the_log_keys_thief_cannot_have_the_witnesses_sign(witnessed: Site) -> None:
    """The log's own operator rewrites an entry and everything over it, with its own key."""
    stolen = witnessed.folder / "stolen"
    stolen.mkdir()
    thief = Journal.create(
        stolen / "journal.sqlite", ORIGIN, witnessed.signer, witnessed.keyring, Clock()
    )
    genuine = [witnessed.journal.read(position)[0] for position in range(10)]
    for leaf in genuine:
        actor = "site:innocent" if leaf.position == 5 else leaf.actor
        thief.record(entry(leaf.position, actor=actor, subject=leaf.subject))
    thief.close()
    path = stolen / "journal.sqlite"
    assert verify_log(path, witnessed.signer.public).ok  # without witnesses nobody would notice
    assert "0 of the given witnesses" in str(judge(witnessed, path, 1).problems[0])
    with sqlite3.connect(path) as forged, sqlite3.connect(witnessed.path) as honest:
        rows = honest.execute("SELECT * FROM log_cosignatures").fetchall()
        forged.executemany("INSERT INTO log_cosignatures VALUES (?, ?, ?)", rows)
    forged.close()
    honest.close()
    report = judge(witnessed, path, 1)
    assert not report.ok
    assert "what fed/site/east cosigned of 4 entries" in str(report.problems[0])


def test_a_log_cut_off_behind_its_witnesses(witnessed: Site) -> None:
    """Everything after the third entry is gone, checkpoints included; cosignatures are left."""
    short = Site(witnessed.folder / "short")
    short.signer = witnessed.signer
    path = witnessed.copy("cut.sqlite")
    connection = sqlite3.connect(path)
    connection.execute("DELETE FROM log_entries WHERE position >= 7")
    connection.execute("DELETE FROM log_nodes WHERE place >= 11")
    connection.execute("DELETE FROM log_checkpoints WHERE size > 7")
    connection.commit()
    connection.close()
    report = judge(witnessed, path, 1)
    assert "covers 10 entries and 7 are there" in str(report.problems)
    short.close()


@pytest.mark.parametrize("column", ["witness", "size", "note"])
def test_a_changed_cosignature(witnessed: Site, column: str) -> None:
    path = tamper(
        witnessed.copy(),
        f"UPDATE log_cosignatures SET {column} = (SELECT {column} FROM log_cosignatures"  # noqa: S608
        " WHERE size = 7) WHERE size = 10",
    )
    report = judge(witnessed, path, 1)
    assert not report.ok
    assert any("cosignature of" in str(problem) for problem in report.problems)


def in_first_format(path: Path) -> Path:
    """A log as `fiduciary.log/1` kept it: hashes by level and index, and no cosignatures."""
    target = path.with_name("first.sqlite")
    shutil.copyfile(path, target)
    connection = sqlite3.connect(target)
    connection.execute(
        "CREATE TABLE log_hashes (level INTEGER NOT NULL, position INTEGER NOT NULL,"
        " hash BLOB NOT NULL, PRIMARY KEY (level, position)) WITHOUT ROWID"
    )
    stored = dict(connection.execute("SELECT place, hash FROM log_nodes").fetchall())
    size = connection.execute("SELECT count(*) FROM log_entries").fetchone()[0]
    rows = hashes_of_first_format(stored, size)
    connection.executemany("INSERT INTO log_hashes VALUES (?, ?, ?)", rows)
    connection.execute("DROP TABLE log_nodes")
    connection.execute("DROP TABLE log_cosignatures")
    connection.execute("UPDATE log_meta SET value = 'fiduciary.log/1' WHERE name = 'format'")
    connection.commit()
    connection.close()
    return target


@pytest.mark.parametrize("size", [0, 1, 7, 8, 21])
def test_a_log_of_the_first_format_is_read_and_brought_up_to_date(site: Site, size: int) -> None:
    site.fill(size)
    path = in_first_format(site.copy())
    before = verify_log(path, site.signer.public)
    assert before.ok, before.problems
    again = Journal.open(path, site.signer, site.keyring)
    assert again.size() == size
    again.record(entry())
    cosign_head(again, WITNESSES[0])
    again.close()
    report = judge(site, path, 1)
    assert report.ok, report.problems
    assert report.witnessed_entries == size + 1
    connection = sqlite3.connect(path)
    tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master")}
    assert connection.execute("SELECT value FROM log_meta WHERE name = 'format'").fetchone() == (
        LOG_FORMAT,
    )
    connection.close()
    assert "log_hashes" not in tables


@pytest.mark.parametrize(
    ("statement", "position"),
    [
        ("UPDATE log_entries SET leaf = zeroblob(9) WHERE position = 5", 5),
        ("UPDATE log_hashes SET hash = zeroblob(32) WHERE level = 1 AND position = 3", 6),
        ("UPDATE log_hashes SET level = 9 WHERE level = 1 AND position = 2", 4),
        ("DELETE FROM log_hashes WHERE level = 0 AND position = 20", 20),
        ("INSERT INTO log_hashes VALUES (9, 0, zeroblob(32))", None),
    ],
)
def test_tampering_with_a_log_of_the_first_format(
    site: Site, statement: str, position: int | None
) -> None:
    site.fill(21)
    report = verify_log(tamper(in_first_format(site.copy()), statement), site.signer.public)
    assert not report.ok
    assert report.first_bad_entry == position
