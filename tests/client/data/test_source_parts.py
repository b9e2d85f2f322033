"""A source larger than memory: part by part, whole subjects, each once, and only the same rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit.canonical import digest
from client.deidentification.pipeline import Outcome, SourceRecord
from client.deidentifier_pool import WorkerEnded
from client.ingest import Recorder, ingest
from client.intake import Columns, Intake
from client.site import Site
from client.source_file import SourceChanged, read_source
from client.source_parts import batches, parts_of
from client.sources.sql_query import DatabaseFailed
from client.vault import Vault
from tests.client.data.records import ROWS, WordForWord, source_file

COLUMNS = Columns("who", "what", "kind")


def pseudonym(subject: str) -> str:
    return digest(subject.encode()).removeprefix("sha256:")


@given(st.lists(st.tuples(st.sampled_from("abcdefgh"), st.sampled_from("xyz")), min_size=1))
def test_every_subject_comes_once_and_whole_whatever_the_parts(rows: list[tuple[str, str]]) -> None:
    source = source_file(*((who, what, "l") for who, what in rows))
    one = [s for batch in batches(source, pseudonym) for s in batch]
    several = [s for batch in batches(source, pseudonym, part_characters=900) for s in batch]
    assert several == one
    assert [s.pseudonym for s in one] == sorted({pseudonym(who) for who, _ in rows})
    for subject in one:
        mine = [what for who, what in rows if pseudonym(who) == subject.pseudonym]
        assert [r.source.text for r in subject.records] == list(dict.fromkeys(mine))
        assert subject.repeated == len(mine) - len(subject.records)
    # From any subject on, the rest is the same.
    for at, subject in enumerate(one):
        rest = batches(source, pseudonym, subject.pseudonym, part_characters=900)
        assert [s for batch in rest for s in batch] == one[at + 1 :]


def test_parts_hold_about_so_much_each() -> None:
    source = source_file(*((f"P-{n}", "x" * 1000, "l") for n in range(100)))
    assert parts_of(source, 50_000) == 4
    assert parts_of(source, 10**9) == 1


def test_a_source_that_changes_while_it_is_read_is_refused(
    tmp_path: Path, site: Site, vault: Vault
) -> None:
    path = tmp_path / "notes.csv"
    path.write_text("who,what,kind\nP,a,x\nQ,b,y\n")
    source = read_source(path, COLUMNS, Intake(dataset="notes"))
    assert len(source.records) == 2
    path.write_text("who,what,kind\nP,a,x\nQ,c,y\n")
    with pytest.raises(SourceChanged, match=r"notes\.csv changed"):
        ingest(
            source,
            Intake(dataset="notes"),
            vault,
            WordForWord(),
            Recorder(site.journal, site.principal),
        )
    assert vault.datasets() == ()


class Interrupted(WordForWord):
    """Presses Ctrl-C before the third batch."""

    def deidentify(self, records: Sequence[SourceRecord]) -> list[Outcome]:
        if len(self.batches) == 2:
            raise KeyboardInterrupt
        return super().deidentify(records)


@pytest.fixture
def stopped(site: Site, vault: Vault, monkeypatch: pytest.MonkeyPatch) -> Recorder:
    """An ingest that was stopped after two of five subjects."""
    monkeypatch.setattr("client.source_parts.BATCH_RECORDS", 1)
    recorder = Recorder(site.journal, site.principal)
    with pytest.raises(KeyboardInterrupt):
        ingest(source_file(*ROWS), Intake(dataset="notes"), vault, Interrupted(), recorder)
    assert vault.datasets() == ()
    return recorder


class TestGoingOn:
    def test_only_the_rest_is_done(self, vault: Vault, stopped: Recorder) -> None:
        rest = WordForWord()
        result = ingest(source_file(*ROWS), Intake(dataset="notes"), vault, rest, stopped)
        assert (result.resumed, rest.batches) == (True, [2, 2, 2])
        assert sorted(r.text for r in vault.examples("notes")) == sorted(t for _, t, _ in ROWS)
        assert result.dataset.datasheet.replacements == {"PERSON": 10}

    @pytest.mark.parametrize(
        ("error", "goes_on"),
        [
            (DatabaseFailed("the connection ended"), True),
            (WorkerEnded("no memory"), True),
            (OSError(28, "no space left"), True),
            (SourceChanged("other rows"), False),
            (ValueError("a fault"), False),
        ],
    )
    def test_what_may_pass_leaves_what_was_done(
        self, vault: Vault, stopped: Recorder, error: Exception, goes_on: bool
    ) -> None:
        class Failing(WordForWord):
            def deidentify(self, records: Sequence[SourceRecord]) -> list[Outcome]:
                if len(self.batches) == 1:
                    raise error
                return super().deidentify(records)

        intake, failing = Intake(dataset="notes"), Failing()
        with pytest.raises(type(error)):
            ingest(source_file(*ROWS), intake, vault, failing, stopped)
        rest = WordForWord()
        result = ingest(source_file(*ROWS), intake, vault, rest, stopped)
        assert (result.resumed, len(rest.batches)) == ((True, 2) if goes_on else (False, 5))
        assert result.dataset.records == len(ROWS)

    def test_another_source_begins_anew(self, vault: Vault, stopped: Recorder) -> None:
        other = source_file(*ROWS[:-1])
        result = ingest(other, Intake(dataset="notes"), vault, WordForWord(), stopped)
        assert (result.resumed, result.interrupted_ingests_removed) == (False, 1)
        assert result.dataset.records == 9

    def test_what_was_altered_is_not_gone_on_from(self, vault: Vault, stopped: Recorder) -> None:
        with vault.transaction() as connection:
            connection.execute("UPDATE ingest_progress SET sealed = zeroblob(60)")
        result = ingest(source_file(*ROWS), Intake(dataset="notes"), vault, WordForWord(), stopped)
        assert (result.resumed, result.interrupted_ingests_removed) == (False, 1)
        assert sorted(r.text for r in vault.examples("notes")) == sorted(t for _, t, _ in ROWS)

    def test_who_is_erased_meanwhile_does_not_come_back(
        self, vault: Vault, stopped: Recorder
    ) -> None:
        done = sorted({vault.pseudonym(who): who for who, _, _ in ROWS}.items())
        vault.erase(done[0][1])
        result = ingest(source_file(*ROWS), Intake(dataset="notes"), vault, WordForWord(), stopped)
        assert result.resumed
        assert done[0][0] not in {record.subject for record in vault.examples("notes")}
        assert (result.dataset.subjects, result.dataset.records) == (4, 8)
        assert sum(result.dataset.datasheet.label_counts.values()) == 8

    def test_who_is_readmitted_meanwhile_comes_back(self, vault: Vault, stopped: Recorder) -> None:
        first = min((vault.pseudonym(who), who) for who, _, _ in ROWS)[1]
        vault.erase(first)
        vault.readmit(first)
        result = ingest(source_file(*ROWS), Intake(dataset="notes"), vault, WordForWord(), stopped)
        assert (result.resumed, result.dataset.subjects) == (False, 5)
