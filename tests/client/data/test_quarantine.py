"""Rows that were kept out: what is kept of them, and how they are shown, released and discarded."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from audit.errors import ExitCode, MalformedInput, NotFound, Refused, VerificationFailed
from audit.storage import LogUnavailable
from client.deidentification.pipeline import Deidentified, Quarantined, Reason
from client.ingest import Recorder, ingest
from client.intake import Columns, Intake
from client.quarantine import discard, find, release, waiting
from client.recall.review import Marks
from client.site import Site
from client.source_file import read_source
from client.sources import open_source
from client.sources.source import Source
from client.vault import Dataset, Vault
from tests.client.data.records import WordForWord, journalled

COLUMNS = Columns("who", "what", "kind")
ROWS = (
    "P-1,Zed says unfit things,a",
    "P-1,fine,b",
    "P-2,also unfit and Zed,a",
    "P-3,good,b",
)


@pytest.fixture
def source(tmp_path: Path) -> Source:
    path = tmp_path / "notes.csv"
    path.write_text("who,what,kind\n" + "\n".join(ROWS) + "\n", encoding="utf-8")
    return open_source(str(path))


@pytest.fixture
def dataset(source: Source, site: Site, vault: Vault) -> Dataset:
    intake = Intake("notes")
    checked = read_source(source, COLUMNS, intake)
    recorder = Recorder(site.journal, site.principal)
    return ingest(checked, intake, vault, WordForWord(), recorder, columns=COLUMNS).dataset


def test_of_a_row_that_is_kept_out_a_digest_is_kept_and_no_text(
    site: Site, vault: Vault, dataset: Dataset
) -> None:
    entries = vault.kept_out("notes")
    assert [entry.number for entry in entries] == [1, 2]
    assert {entry.reason for entry in entries} == {"analysis-failed"}
    assert {entry.subject for entry in entries} == {vault.pseudonym(f"P-{n}") for n in (1, 2)}
    assert dataset.datasheet.quarantined == {"analysis-failed": 2}
    vault.close()
    for file in site.paths.root.rglob("*"):
        assert not file.is_file() or not re.search(rb"Zed|unfit|analysis-failed", file.read_bytes())


def test_a_row_is_released_as_what_is_left_after_cutting(
    site: Site, vault: Vault, dataset: Dataset, source: Source
) -> None:
    entry = next(e for e in vault.kept_out("notes") if e.subject == vault.pseudonym("P-1"))
    found = find(vault, dataset, entry, source)
    text = found.record.source.text
    assert (text, len(found.records)) == ("Zed says unfit things", 2)
    pipeline = WordForWord()
    again = found.outcome(pipeline)
    assert isinstance(again, Quarantined)
    with pytest.raises(Refused, match="kept out again: analysis-failed"):
        release(vault, site.journal, site.principal, dataset, entry, found, again)
    cut = found.without(Marks(((9, 15), (0, 4))))
    outcome = cut.outcome(pipeline)
    changed = release(vault, site.journal, site.principal, dataset, entry, cut, outcome)
    assert changed == vault.dataset("notes")
    assert changed.digest != dataset.digest
    sheet = changed.datasheet
    assert (sheet.records, sheet.subjects, sheet.label_counts) == (3, 2, {"a": 1, "b": 2})
    assert sheet.quarantined == {"analysis-failed": 1}
    assert sheet.replacements == {"PERSON": 3}
    assert vault.verify("notes").problems == ()
    stored = [one for one in vault.examples("notes") if one.label == "a"]
    assert [(one.text, one.subject) for one in stored] == [("says things", entry.subject)]
    assert journalled(site)[-2:] == ["subject.ingested", "dataset-row-released"]
    with pytest.raises(NotFound, match=r"no row \d of"):
        release(vault, site.journal, site.principal, dataset, entry, cut, outcome)


def test_no_row_is_released_without_its_journal_entry(
    site: Site, vault: Vault, dataset: Dataset, source: Source
) -> None:
    class Full:
        def record(self, entry: object) -> object:
            raise LogUnavailable("the disk is full")

        record_many = record

    entry = vault.kept_out("notes")[0]
    found = find(vault, dataset, entry, source)
    with pytest.raises(LogUnavailable):
        release(vault, Full(), "site:north", dataset, entry, found, Deidentified("x"))
    assert vault.dataset("notes") == dataset
    assert len(vault.kept_out("notes")) == 2
    assert vault.verify("notes").problems == ()


def test_a_row_of_a_table_is_mended_in_its_source(
    site: Site, vault: Vault, dataset: Dataset, source: Source
) -> None:
    entry = vault.kept_out("notes")[0]
    found = find(vault, dataset, entry, source)
    table = replace(dataset, datasheet=dataset.datasheet.model_copy(update={"content": "table"}))
    with pytest.raises(Refused, match="a row of table cannot be released"):
        release(vault, site.journal, site.principal, table, entry, found, Deidentified("x"))


def test_another_source_or_a_mended_row_is_not_taken_for_it(
    vault: Vault, dataset: Dataset, tmp_path: Path
) -> None:
    other = tmp_path / "other.csv"
    mended = "\n".join(ROWS).replace("unfit", "fit")
    other.write_text(f"who,what,kind\n{mended}\n", encoding="utf-8")
    with pytest.raises(NotFound, match="does not hold row"):
        find(vault, dataset, vault.kept_out("notes")[0], open_source(str(other)))
    unknown = replace(vault.kept_out("notes")[0], columns={})
    with pytest.raises(MalformedInput, match="columns were read"):
        find(vault, dataset, unknown, open_source(str(other)))


def test_a_discarded_row_is_forgotten_and_still_counted(
    site: Site, vault: Vault, dataset: Dataset
) -> None:
    entry = waiting(vault, "notes", 1)
    with pytest.raises(MalformedInput, match="no reason"):
        discard(vault, site.journal, site.principal, dataset, entry, " ")
    discard(vault, site.journal, site.principal, dataset, entry, "a scan")
    assert [left.number for left in vault.kept_out("notes")] == [2]
    assert vault.dataset("notes").datasheet.quarantined == {"analysis-failed": 2}
    assert journalled(site)[-1] == "dataset-row-discarded"
    with pytest.raises(NotFound, match="no row 1"):
        waiting(vault, "notes", 1)


def test_an_erasure_reaches_what_was_kept_out(vault: Vault, dataset: Dataset) -> None:
    assert vault.erase("P-2").records_removed == 0
    assert [left.subject for left in vault.kept_out("notes")] == [vault.pseudonym("P-1")]
    with vault.transaction() as connection:  # it is gone, and not only sealed for ever
        assert connection.execute("SELECT count(*) FROM kept_out").fetchone() == (1,)
    vault.remove("notes")
    with pytest.raises(NotFound):
        vault.kept_out("notes")


def test_an_entry_that_was_moved_does_not_open(vault: Vault, dataset: Dataset) -> None:
    with vault.transaction() as connection:
        connection.execute("UPDATE kept_out SET number = number + 5")
    with pytest.raises(VerificationFailed, match="altered or moved"):
        vault.kept_out("notes")


def test_quarantine_as_an_operator_types_it(
    typed: Any, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = tmp_path / "notes.csv"
    notes.write_text(f"who,what,kind\nP-1,Maria Lopez wrote {'blah ' * 20}.,a\nP-2,ok then,b\n")
    monkeypatch.setattr("client.deidentification.pipeline.MAX_TEXT_CHARACTERS", 50)
    columns = ("--subject", "who", "--text", "what", "--label", "kind", "--dataset", "notes")
    code, out, _ = typed("add", str(notes), *columns)
    assert (code, "quarantine list notes" in out) == (ExitCode.OK, True)
    code, out, _ = typed("quarantine", "list", "notes", "--json")
    (row,) = json.loads(out)["rows"]
    assert (row["row"], row["reason"]) == (1, Reason.TOO_LONG)
    assert "what to do" in typed("quarantine", "list", "notes")[1]
    code, out, err = typed("quarantine", "show", "notes", "1", str(notes))
    assert (code, "no terminal" in err, "Maria" in out + err) == (ExitCode.REFUSED, True, False)
    monkeypatch.setattr("client.deidentify_cli.at_terminal", lambda: True)
    assert "Maria Lopez wrote" in typed("quarantine", "show", "notes", "1", str(notes))[2]

    def type_in(*lines: str) -> tuple[int, str, str]:
        answers = iter(lines)
        monkeypatch.setattr("builtins.input", lambda: next(answers))
        found: tuple[int, str, str] = typed("quarantine", "release", "notes", "1", str(notes))
        return found

    assert type_in("")[0] == ExitCode.REFUSED, "still too long"
    assert type_in("/quit")[0] == ExitCode.REFUSED
    monkeypatch.setattr("typer.confirm", lambda *_args, **_options: False)
    assert type_in("blah", "")[0] == ExitCode.REFUSED
    monkeypatch.setattr("typer.confirm", lambda *_args, **_options: True)
    code, out, err = type_in("blah", "")
    assert code == 0, err
    assert (code, out) == (ExitCode.OK, "released row 1: notes has 2 records\n")
    assert "no row of notes waits" in typed("quarantine", "list", "notes")[1]
    with Vault.open(site.paths, site.keyring) as vault:
        assert not any("Lopez" in record.text for record in vault.examples("notes"))
    code, _, err = typed("quarantine", "discard", "notes", "1", "--reason", "gone")
    assert code == ExitCode.NOT_FOUND
