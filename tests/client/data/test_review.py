"""A person's review of a dataset's own rows: the sample, the marks, the terminal, what is kept."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from audit.errors import ExitCode, VerificationFailed
from client.deidentification.findings import Finding
from client.deidentification.measurement import CharacterCounts
from client.deidentification.pipeline import Deidentified, Outcome, SourceRecord
from client.deidentification.replacement import replace_findings
from client.recall.kept import Measurements, SealedFolder
from client.recall.review import (
    Marks,
    NotTheSource,
    Row,
    Session,
    evaluated,
    forget,
    marked,
    rows_of,
)
from client.recall.review_screen import look_through, shown
from client.site import Site
from client.vault import Dataset, Vault
from tests.client.data.records import stage

ROWS = tuple((f"P-{n}", f"Ann-{n} met row {row} of Zed", "x") for n in range(8) for row in range(3))


def deidentify(records: Sequence[SourceRecord]) -> list[Outcome]:
    """Replaces `Ann-N`, and leaves Zed."""
    outcomes: list[Outcome] = []
    for record in records:
        found = [Finding(m.start(), m.end(), "PERSON") for m in re.finditer(r"Ann-\d", record.text)]
        text, replacements = replace_findings(record.text, found, lambda _found: "Eve")
        outcomes.append(Deidentified(text, {}, replacements))
    return outcomes


def records() -> Iterator[SourceRecord]:
    return (SourceRecord(who, text) for who, text, _ in ROWS)


@pytest.fixture
def dataset(vault: Vault) -> Dataset:
    """The first two rows of each subject; the third was left out on its way."""
    kept = [row for at, row in enumerate(ROWS) if at % 3 < 2]
    return stage(
        vault, *((who, re.sub(r"Ann-\d", "Eve", text), label) for who, text, label in kept)
    )


def drawn(vault: Vault, dataset: Dataset, sample: int = 5) -> tuple[Session, list[Row]]:
    subjects = [held.pseudonym for held in vault.subjects_of(dataset.id)]
    session = Session.begin(dataset, subjects, sample)
    return session, rows_of(
        session, records(), vault.examples("notes"), vault.pseudonym, deidentify
    )


# --- the sample -----------------------------------------------------------------------------------


def test_one_stored_row_of_each_drawn_subject_is_looked_at(vault: Vault, dataset: Dataset) -> None:
    session, rows = drawn(vault, dataset)
    assert [row.subject for row in rows] == list(session.drawn)
    assert len(rows) == 5
    assert {row.text[14] for row in rows} <= {"0", "1"}
    assert all(row.text[row.found[0].start :].startswith("Ann-") for row in rows)
    assert len(drawn(vault, dataset, sample=100)[1]) == 8
    subject = rows[0].subject
    for number, row in ((0, "0"), (2**31 - 1, "0"), (2**31, "1"), (2**32 - 1, "1")):
        one = Session(dataset.id, "", {subject: number})
        (seen,) = rows_of(one, records(), vault.examples("notes"), vault.pseudonym, deidentify)
        assert seen.text[14] == row


def test_another_file_than_the_datasets_is_refused(vault: Vault, dataset: Dataset) -> None:
    session, _ = drawn(vault, dataset)
    for other in (
        [],
        [SourceRecord(one.subject, f"{one.text}!") for one in records()],
        [SourceRecord(f"{one.subject}x", one.text) for one in records()],
    ):
        with pytest.raises(NotTheSource, match="does not give the rows"):
            rows_of(session, other, vault.examples("notes"), vault.pseudonym, deidentify)


def test_who_was_erased_meanwhile_is_not_looked_at(vault: Vault, dataset: Dataset) -> None:
    session, _ = drawn(vault, dataset, sample=8)
    vault.erase("P-3")
    rows = rows_of(session, records(), vault.examples("notes"), vault.pseudonym, deidentify)
    assert len(rows) == 7
    assert vault.pseudonym("P-3") not in [row.subject for row in rows]


# --- marks ----------------------------------------------------------------------------------------

ROW = Row("s", "Ann met zed, ZED and\tAnn", (Finding(0, 3, ""), Finding(21, 24, "")), "d")


def test_what_is_typed_is_marked_wherever_it_stands() -> None:
    marks = marked(ROW, Marks(), "Zed")
    assert marks == Marks(((8, 11), (13, 16)))
    assert marked(ROW, marks, "zed") == marks
    assert marked(ROW, marks, "ann") == marks, "found already"
    assert marked(ROW, marks, "-2") == Marks(marks.missed, frozenset({1}))
    assert marked(ROW, Marks(wrong=frozenset({1})), "-2") == Marks()
    for nothing in ("Bob", "-3", "-0", "-x", "-", "-99999999999", " "):
        assert marked(ROW, marks, nothing) is None, nothing


def test_counts_are_of_what_was_found_less_what_was_wrong_and_what_was_missed() -> None:
    assert ROW.counts(Marks()) == CharacterCounts(6, 6, 6)
    assert ROW.counts(Marks(((8, 11),))) == CharacterCounts(9, 6, 6)
    assert ROW.counts(Marks(((8, 11),), frozenset({0}))) == CharacterCounts(6, 3, 6)


def test_a_shown_row_says_in_words_and_numbers_what_is_there() -> None:
    row = Row("s", "Ann\x1b[2J met Zed", (Finding(0, 3, ""),), "d")
    text = shown(row, Marks(((12, 15),)))
    assert text.plain == "Ann[1]\N{REPLACEMENT CHARACTER}[2J met Zed"
    styles = {text.plain[span.start : span.end]: str(span.style) for span in text.spans}
    assert styles["Ann"] == "black on green"
    assert styles["Zed"] == "bold white on red"


# --- sittings -------------------------------------------------------------------------------------


def sit(session: Session, rows: list[Row], *typed: str) -> tuple[bool, int]:
    """Whether all was looked at, and how often it was saved."""
    lines, saved = iter(typed), []

    def ask() -> str:
        try:
            return next(lines)
        except StopIteration:
            raise EOFError from None

    with Path("/dev/null").open("w") as nowhere:
        done = look_through(session, rows, Console(file=nowhere), ask, lambda: saved.append(1))
    return done, len(saved)


def test_a_review_goes_on_where_it_was_left_and_ends_in_limits(
    site: Site, vault: Vault, dataset: Dataset
) -> None:
    kept = SealedFolder(site.paths.measurements, site.keyring)
    assert Session.load(kept, dataset) is None
    session, rows = drawn(vault, dataset)
    assert sit(session, rows, "zed", "", "", "nothing there", "/quit") == (False, 2)
    assert evaluated(rows, session) is None
    session.save(kept, dataset)
    for file in site.paths.measurements.iterdir():
        assert not re.search(rb"Ann|Zed|P-\d|drawn", file.read_bytes())
    again = Session.load(kept, dataset)
    assert again == session
    rows = rows_of(again, records(), vault.examples("notes"), vault.pseudonym, deidentify)
    assert sit(again, rows, "zed", "/back", "/clear", "-1", "", "", "", "zed", "") == (True, 4)
    found = evaluated(rows, again)
    assert found is not None
    assert (found.texts, found.leaks.value) == (5, 2 / 5)
    # Five findings of five characters and two Zeds, less the one that was no identifier.
    assert found.recall.value == pytest.approx(20 / 26)
    assert found.precision.value == pytest.approx(20 / 25)
    assert 0.8 < found.leaks_at_most < 0.82, "Clopper-Pearson for 2 of 5"
    forget(kept, dataset)
    assert Session.load(kept, dataset) is None


def test_marks_are_of_the_row_that_was_seen(vault: Vault, dataset: Dataset) -> None:
    session, rows = drawn(vault, dataset)
    sit(session, rows, "", "", "", "", "")
    assert evaluated(rows, session) is not None
    other = [Row(one.subject, one.text, one.found, "other") for one in rows]
    assert evaluated(other, session) is None


def test_a_session_of_another_version_or_an_altered_one_is_not_gone_on_with(
    site: Site, vault: Vault, dataset: Dataset
) -> None:
    kept = SealedFolder(site.paths.measurements, site.keyring)
    session, _ = drawn(vault, dataset)
    session.save(kept, dataset)
    replaced = stage(vault, *ROWS)
    assert Session.load(kept, replaced) is None
    (file,) = site.paths.measurements.iterdir()
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(VerificationFailed, match="altered or moved"):
        Session.load(kept, dataset)


# --- as an operator types it ----------------------------------------------------------------------


def test_review_as_an_operator_types_it(
    typed: Any, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = tmp_path / "notes.csv"
    people = ("Maria Lopez", "Sunniva Dahl", "Jo Fields")
    notes.write_text(
        "who,what\n" + "".join(f"P-{n},{name} has a zzgrunt\n" for n, name in enumerate(people))
    )
    columns = ("--subject", "who", "--text", "what")
    assert typed("add", str(notes), "--kind", "language", *columns)[0] == ExitCode.OK

    def review(*lines: str, at_terminal: bool = True) -> tuple[int, str, str]:
        answers = iter(lines)
        monkeypatch.setattr("client.deidentify_cli.at_terminal", lambda: at_terminal)
        monkeypatch.setattr("builtins.input", lambda: next(answers))
        code, out, err = typed(
            "review", str(notes), *columns, "--sample", "2", "--json", group="deidentify"
        )
        return code, out, err

    code, out, err = review(at_terminal=False)
    assert (code, out) == (ExitCode.REFUSED, "")
    assert "no terminal" in err
    assert json.loads(review("zzgrunt", "", "/quit")[1]) == {"rows": 2, "looked_at": 1}
    ended = json.loads(review("")[1])
    assert (ended["rows"], ended["looked_at"]) == (2, 2)
    assert ended["documents_with_leak"]["value"] == 0.5
    (shown,) = json.loads(typed("list", "--json")[1])
    (told,) = shown["deidentification_measured"]
    assert (told["method"], told["leak_share"]) == ("review", "0.5000")
    with Vault.open(site.paths, site.keyring) as vault:
        dataset = vault.dataset("default")
    assert len(Measurements(site.paths, site.keyring).of(dataset)) == 1
    assert [f.name.split("-")[0] for f in site.paths.measurements.iterdir()] == ["review"]
    monkeypatch.setattr("client.deidentification.pipeline.MAX_TEXT_CHARACTERS", 9_999)
    code, _, err = review("")
    assert (code, "another configuration" in err) == (ExitCode.REFUSED, True)
