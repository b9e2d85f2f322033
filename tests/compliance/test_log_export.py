"""The log as a file: one snapshot, streamed, recorded before its first octet, checked offline."""

from __future__ import annotations

import csv
import dataclasses
import io
import itertools
import json
import socket
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.orm import Session

import audit.cli
import compliance.cli
from audit.errors import (
    ExitCode,
    FiduciaryError,
    MalformedInput,
    Unreachable,
    VerificationFailed,
)
from audit.export_file import VerifiedExport, verify_export
from audit.storage import LogStorage
from compliance.log_views import LogExport
from compliance.service.log_export import (
    CSV_COLUMNS,
    ExportBroken,
    export_lines,
    guard_cell,
    prepare_export,
)
from compliance.service.registry import Registry
from tests.compliance.asking import everything, forged, with_history
from tests.compliance.running import FaultyStorage, RunningService
from tests.compliance.test_bad_input import problem

FORMULA_STARTS = "=+-@\t\r\n＝＋－＠"  # noqa: RUF001


@pytest.fixture
def history(service: RunningService, tmp_path: Path) -> RunningService:
    return with_history(service, tmp_path)


def exported(service: RunningService, path: Path, **wanted: Any) -> VerifiedExport:
    service.as_("officer").export_log(LogExport(**wanted), path)
    return verify_export(path, service.trust.log_key, service.trust.origin)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


# --- JSON Lines -----------------------------------------------------------------------------------


def test_the_whole_log_in_one_file(history: RunningService, tmp_path: Path) -> None:
    size = len(history.entries())
    rows = everything(history)
    path = tmp_path / "all.jsonl"
    seen: list[tuple[int, int]] = []
    count = history.as_("auditor").export_log(LogExport(), path, lambda *at: seen.append(at))
    assert (count, seen[-1]) == (size, (size, size))
    verified = verify_export(path, history.trust.log_key, history.trust.origin)
    assert (verified.entries, verified.whole, verified.filters) == (size, True, {})
    assert verified.statements == sum("statement" in row["payload"] for row in rows)
    header, *entries = lines(path)
    assert header["format"] == "fiduciary.log-export/1"
    assert (header["origin"], header["count"]) == (history.trust.origin, size)
    assert [entry["position"] for entry in entries] == list(range(size))
    for entry, row in zip(entries, rows, strict=True):
        assert entry["payload"] == row["payload"]
        assert entry["index"] == {name: row[name] for name in ("site", "plan", "release")}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_question_in_one_file(history: RunningService, tmp_path: Path) -> None:
    rows = everything(history)
    path = tmp_path / "north.jsonl"
    verified = exported(history, path, site="north", action="site.")
    expected = [
        row["position"]
        for row in rows
        if row["site"] == "north" and row["action"].startswith("site.")
    ]
    assert [entry["position"] for entry in lines(path)[1:]] == expected
    assert (verified.entries, verified.whole) == (len(expected), False)
    assert verified.filters == {"site": "north", "action": "site."}
    nothing = exported(history, tmp_path / "nothing.jsonl", actor="nobody")
    assert nothing.entries == 0


def test_an_export_is_recorded_and_not_in_itself(history: RunningService, tmp_path: Path) -> None:
    size = len(history.entries())
    exported(history, tmp_path / "log.jsonl", action="log.", since="2026-01-01T00:00:00Z")
    actor, action, name, payload = history.last_entry()
    assert (actor, action, name) == ("officer", "log.exported", "log:entries")
    assert payload == {
        "filters": {"action": "log.", "since": "2026-01-01T00:00:00.000Z"},
        "format": "jsonl",
        "size": size,
        "answers": 0,
    }


def test_no_entry_no_export(history: RunningService, tmp_path: Path) -> None:
    before = history.tables()
    for fault in ("append", "commit"):
        setattr(history.faults, fault, True)
        problem(history.http(history.token("officer")).get("/v1/log/export"), 503)
        with pytest.raises(Unreachable):
            exported(history, tmp_path / "log.jsonl")
        setattr(history.faults, fault, False)
        assert history.tables() == before
    assert not (tmp_path / "log.jsonl").exists()
    assert list(tmp_path.glob(".log*")) == []


def test_a_forgotten_payload_is_null_and_still_proven(
    history: RunningService, tmp_path: Path
) -> None:
    history.registry.keyring.destroy("action:plan.approved:2026-11")
    verified = exported(history, tmp_path / "log.jsonl")
    assert verified.forgotten == 1
    assert verified.whole
    (entry,) = (e for e in lines(tmp_path / "log.jsonl")[1:] if e["action"] == "plan.approved")
    assert entry["payload"] is None
    with (tmp_path / "log.csv").open("wb") as file:
        file.writelines(_export(history.registry, format="csv"))
    table = _table((tmp_path / "log.csv").read_bytes())
    assert [row["payload"] for row in table if row["action"] == "plan.approved"] == ["forgotten"]


# --- one snapshot, bounded memory -----------------------------------------------------------------


def _export(registry: Registry, **wanted: Any) -> Iterator[bytes]:
    return export_lines(registry, prepare_export(registry, LogExport(**wanted)))


def _append(registry: Registry, count: int) -> None:
    with registry.writing(None) as transaction:
        for number in range(count):
            transaction.record("thing.done", f"thing:{number}", {"number": number})


@pytest.mark.parametrize("format_", ["jsonl", "csv"])
def test_what_is_appended_meanwhile_is_not_in_the_file(
    history: RunningService, tmp_path: Path, format_: str
) -> None:
    _append(history.registry, 450)
    size = len(history.entries())
    made = _export(history.registry, format=format_)
    content = [next(made)]
    for piece in made:
        content.append(piece)
        if len(content) % 100 == 2:
            _append(history.registry, 3)
    assert len(content) == size + 1
    if format_ == "jsonl":
        path = tmp_path / "log.jsonl"
        path.write_bytes(b"".join(content))
        verified = verify_export(path, history.trust.log_key)
        assert (verified.entries, verified.checkpoint.size, verified.whole) == (size, size, True)


class CountingStorage(FaultyStorage):
    """The real storage; counts the leaves that are read."""

    def __init__(self, storage: LogStorage, service: RunningService, read: list[int]) -> None:
        super().__init__(storage, service.faults)
        self._read = read

    def read_leaves(self, positions: Sequence[int]) -> list[bytes | None]:
        self._read.extend(positions)
        return super().read_leaves(positions)


def test_it_is_read_as_it_is_sent(history: RunningService) -> None:
    _append(history.registry, 900)
    read: list[int] = []
    real = history.registry.storage

    def counting(session: Session) -> LogStorage:
        return CountingStorage(real(session), history, read)

    made = _export(dataclasses.replace(history.registry, storage=counting))
    assert read == []
    next(made)  # the header
    assert read == []
    for sent in range(1, 901):
        next(made)
        assert sent <= len(read) < sent + 200


def test_an_export_whose_index_changes_under_it_ends_early(history: RunningService) -> None:
    _append(history.registry, 300)
    for change in (
        "DELETE FROM log_index WHERE position = 250",
        "UPDATE log_index SET actor = 'other' WHERE position > 250",
    ):
        made = _export(history.registry, actor="anonymous")
        list(itertools.islice(made, 10))
        with history.registry.database.writing() as session:
            session.execute(text(change))
        with pytest.raises(ExportBroken):
            list(made)


def test_a_slow_reader_holds_no_connection(history: RunningService) -> None:
    _append(history.registry, 500)
    made = _export(history.registry)
    list(itertools.islice(made, 250))
    engine: Any = history.registry.database.engine
    assert engine.pool.checkedout() == 0
    assert len(list(made)) > 250


# --- what a client keeps --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cut", "kind", "message"),
    [
        (lambda data: data[:-10], MalformedInput, "cut off|announced"),
        (lambda data: data[: data.rindex(b"\n", 0, -1) + 1], MalformedInput, "announced"),
        (
            lambda data: data.replace(b'"actor":"officer"', b'"actor":"nobody1"'),
            VerificationFailed,
            "actor",
        ),
        (
            lambda data: data.replace(b'"filters":{}', b'"filters":{"after":1}'),
            VerificationFailed,
            "asked for",
        ),
        (
            lambda data: b"".join(data.splitlines(True)[i] for i in _swapped(data)),
            VerificationFailed,
            "order",
        ),
        (lambda data: b"not an export\n" * data.count(b"\n"), MalformedInput, "line 1"),
    ],
)
def test_a_forged_or_broken_file_does_not_appear(
    history: RunningService,
    tmp_path: Path,
    cut: Callable[[bytes], bytes],
    kind: type[FiduciaryError],
    message: str,
) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text("the last export")
    with (
        forged(history, path="/v1/log/export", cut=cut) as client,
        pytest.raises(kind, match=message),
    ):
        client.export_log(LogExport(), path)
    assert path.read_text() == "the last export"
    assert list(tmp_path.glob(".log*")) == []


def _swapped(data: bytes) -> list[int]:
    order = list(range(data.count(b"\n")))
    order[3], order[4] = order[4], order[3]
    return order


def test_a_connection_that_breaks_leaves_no_file(
    history: RunningService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _append(history.registry, 2000)
    size = len(history.entries())

    def broken(storage: FaultyStorage, positions: Sequence[int]) -> list[bytes | None]:
        leaves = zip(positions, storage_read(storage, positions), strict=True)
        return [None if position == size - 5 else leaf for position, leaf in leaves]

    storage_read = FaultyStorage.read_leaves
    monkeypatch.setattr(FaultyStorage, "read_leaves", broken)
    for format_ in ("jsonl", "csv"):
        with pytest.raises(Unreachable):
            history.as_("officer").export_log(
                LogExport.model_validate({"format": format_}), tmp_path / "log"
            )
    assert list(tmp_path.glob("*log*")) == []


# --- CSV ------------------------------------------------------------------------------------------


def _table(data: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(data.decode("utf-8"), newline="")))


def test_csv_holds_what_the_log_shows(history: RunningService, tmp_path: Path) -> None:
    rows = everything(history)
    path = tmp_path / "log.csv"
    count = history.as_("officer").export_log(LogExport(format="csv"), path)
    assert count == len(rows)
    table = _table(path.read_bytes())
    assert tuple(table[0]) == CSV_COLUMNS
    for cells, row in zip(table, rows, strict=True):
        for name in ("time", "actor", "action", "object", "leaf_hash"):
            assert cells[name] == row[name]
        for name in ("subject", "site", "plan", "release"):
            assert cells[name] == (row[name] or "")
        assert json.loads(cells["payload"]) == row["payload"]
        assert int(cells["position"]) == row["position"]
        assert int(cells["checkpoint_size"]) == len(rows)
    assert len({cells["checkpoint_root"] for cells in table}) == 1


def test_csv_guards_what_a_spreadsheet_would_run(history: RunningService) -> None:
    attack = '=HYPERLINK("http://x","y")'
    with history.registry.writing(None) as transaction:
        transaction.actor = attack
        transaction.record("thing.done", "@SUM(1)", {"text": "=1+1", "\n=1": '"'})
    data = b"".join(_export(history.registry, format="csv", action="thing."))
    (cells,) = _table(data)
    assert (cells["actor"], cells["object"]) == (f"'{attack}", "'@SUM(1)")
    assert json.loads(cells["payload"]) == {"text": "=1+1", "\n=1": '"'}
    assert data.count(b"\n") == 2  # no cell breaks a line


@given(st.text() | st.text(alphabet=FORMULA_STARTS + "'a1", min_size=1))
def test_a_guarded_cell_is_no_formula_and_can_be_restored(cell: str) -> None:
    guarded = guard_cell(cell)
    assert guarded[:1] not in set(FORMULA_STARTS)
    assert (guarded.removeprefix("'") if guarded.startswith("'") else guarded) == cell


# --- commands -------------------------------------------------------------------------------------

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(
    history: RunningService,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Run:
    """Run `compliance` as the officer, or `audit`: exit code, standard output, standard error."""
    history.trust.save(tmp_path / "trust.json")
    trust, token = str(tmp_path / "trust.json"), str(history.folder.token("officer"))
    whom = ("--trust", trust, "--token-file", token)

    def run(name: str, *arguments: str) -> tuple[int, str, str]:
        more = whom if name == "compliance" else ()
        monkeypatch.setattr(sys, "argv", [name, *arguments, *more])
        main = compliance.cli.main if name == "compliance" else audit.cli.main
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return int(str(ended.value.code or 0)), captured.out, captured.err

    return run


def test_the_command_shows_verified_entries(history: RunningService, run: Run) -> None:
    plan = next(v for v in history.as_("officer").plans() if v.state == "completed").plan_id
    code, out, err = run("compliance", "log", "--limit", "3")
    assert code == 0
    assert "verified: 3 entries" in err
    assert "--all" in err
    assert out.index("site.revoked") < out.index("principal.revoked")
    code, out, err = run("compliance", "log", "--plan", plan.removeprefix("sha256:")[:12])
    assert code == 0
    for action in ("plan.submitted", "plan.approved", "site.reported", "run.ended"):
        assert action in out
    assert "plan.rejected" not in out
    code, out, _ = run("compliance", "log", "--release", "kept", "--json")
    shown = json.loads(out)
    assert {entry["action"] for entry in shown["entries"]} == {
        "release.announced",
        "release.uploaded",
        "release.approved",
        "release.granted",
        "grant.revoked",
    }
    code, out, _ = run("compliance", "log", "--since", "2026-11-02", "--until", "2026-11-03")
    assert "service.created" in out
    code, out, _ = run("compliance", "log", "--until", "2026-11-02")
    assert "no entries" in out


def test_the_command_follows_all_pages(history: RunningService, run: Run) -> None:
    _append(history.registry, 120)
    size = len(history.entries())
    code, out, _ = run("compliance", "log", "--all", "--limit", "50", "--json")
    assert code == 0
    shown = json.loads(out)
    assert [e["position"] for e in shown["entries"]] == list(reversed(range(size)))
    assert shown["more"] is False


def test_a_saved_file_verifies_offline(
    history: RunningService, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "log.jsonl"
    code, _, err = run("compliance", "log", "--site", "north", "--format", "jsonl", "-o", str(path))
    assert code == 0
    assert "verified" in err
    key = history.trust.log_key.encoded()

    def nobody_is_asked(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(socket.socket, "connect", nobody_is_asked)
    code, out, _ = run("audit", "verify-export", str(path), "--key", key)
    assert code == 0
    assert "verified" in out
    assert "site north" in out
    assert "not shown" in out
    code, out, _ = run("audit", "verify-export", str(path), "--key", key, "--json")
    assert json.loads(out)["filters"] == {"site": "north"}
    key_file = tmp_path / "key"
    key_file.write_text(key + "\n")
    assert run("audit", "verify-export", str(path), "--key", str(key_file))[0] == 0
    path.write_bytes(path.read_bytes().replace(b'"site:north"', b'"site:south"', 1))
    code, _, err = run("audit", "verify-export", str(path), "--key", key)
    assert code == ExitCode.VERIFICATION_FAILED
    assert "line" in err
    code, _, err = run("audit", "verify-export", str(tmp_path / "nowhere"), "--key", key)
    assert code == ExitCode.NOT_FOUND


def test_csv_is_said_to_carry_no_proofs(run: Run, history: RunningService, tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    code, _, err = run("compliance", "log", "--format", "csv", "-o", str(path))
    assert (code, "carries no proofs" in err) == (0, True)
    code, _, err = run(
        "audit", "verify-export", str(path), "--key", history.trust.log_key.encoded()
    )
    assert code == ExitCode.MALFORMED_INPUT
    assert "jsonl" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--format", "jsonl"), "name it: -o FILE"),
        (("--format", "xml", "-o", "x"), "format"),
        (("--format", "csv", "-o", "x", "--limit", "3"), "--limit"),
        (("--order", "random"), "order"),
        (("--since", "yesterday"), "since"),
        (("--site", "No Site"), "site"),
    ],
)
def test_wrong_options_are_said(run: Run, arguments: tuple[str, ...], message: str) -> None:
    code, _, err = run("compliance", "log", *arguments)
    assert code == ExitCode.MALFORMED_INPUT
    assert message in err


def test_a_damaged_log_is_not_shown(history: RunningService, run: Run) -> None:
    with history.registry.database.writing() as session:
        session.execute(text("UPDATE log_nodes SET hash = zeroblob(32)"))
    code, _, err = run("compliance", "log", "--limit", "2")
    assert code == ExitCode.VERIFICATION_FAILED
    assert "inclusion proof" in err
    code, _, _ = run("compliance", "log", "--format", "jsonl", "-o", "never.jsonl")
    assert code != 0
    assert not Path("never.jsonl").exists()
