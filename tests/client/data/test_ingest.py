"""From a file to a dataset: all of it or nothing, with the journal first."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from audit.errors import Conflict, MalformedInput, Refused
from audit.log import Entry
from client.ingest import Recorder, ingest
from client.intake import Columns, Intake
from client.site import Site
from client.source_file import DuplicateRows, SourceFile, UnfitRows, read_source
from client.source_parts import BATCH_RECORDS
from client.vault import Vault
from tests.client.data.records import ROWS, WordForWord, add, journalled, source_file

COLUMNS = Columns("who", "what", "kind")


def read(
    tmp_path: Path, content: str, *, drop_duplicates: bool = False, drop_empty: bool = False
) -> SourceFile:
    path = tmp_path / "notes.csv"
    path.write_text(content, encoding="utf-8")
    intake = Intake(dataset="notes", drop_duplicates=drop_duplicates, drop_empty=drop_empty)
    return read_source(path, COLUMNS, intake)


class TestReading:
    def test_several_records_of_one_subject_are_fine(self, tmp_path: Path) -> None:
        source = read(tmp_path, "who,what,kind\nP,a,x\nP,b,x\nQ,a,y\n")
        assert len(source.records) == 3
        assert source.subjects_with_several_records == 1

    def test_the_same_text_twice_for_one_subject_is_refused(self, tmp_path: Path) -> None:
        content = "who,what,kind\nP,a,x\nQ,a,x\nP, a ,y\nP,a,x\n"
        with pytest.raises(DuplicateRows, match=r"line 4 repeats .* \(and 1 more such rows\)"):
            read(tmp_path, content)
        source = read(tmp_path, content, drop_duplicates=True)
        assert (len(source.records), source.duplicates_dropped) == (2, 2)
        assert source.records[0].label == "x"

    @pytest.mark.parametrize(
        ("row", "lacking"), [(",a,x", "subject"), ("P, ,x", "text"), ("P,a,", "label")]
    )
    def test_incomplete_rows_are_refused(self, tmp_path: Path, row: str, lacking: str) -> None:
        content = f"who,what,kind\nR,fine,x\n{row}\n"
        with pytest.raises(UnfitRows, match=f"line 3 has no {lacking}"):
            read(tmp_path, content)
        source = read(tmp_path, content, drop_empty=True)
        assert (len(source.records), source.empty_dropped) == (1, 1)

    def test_a_file_without_records_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(UnfitRows, match="no record"):
            read(tmp_path, "who,what,kind\n")

    def test_labels_that_are_texts_are_refused(self, tmp_path: Path) -> None:
        lines = "".join(f"P{n},t,label {n}\n" for n in range(1001))
        with pytest.raises(MalformedInput, match="does not look like classes"):
            read(tmp_path, f"who,what,kind\n{lines}")
        with pytest.raises(MalformedInput, match="does not look like classes"):
            read(tmp_path, f"who,what,kind\nP,t,{'long ' * 50}\n")

    def test_known_columns_come_along(self, tmp_path: Path) -> None:
        path = tmp_path / "notes.csv"
        path.write_text("who,what,kind,name,phone\nP,t,x,Ann Li,\n", encoding="utf-8")
        columns = Columns("who", "what", "kind", ("name", "phone"))
        (record,) = read_source(path, columns, Intake(dataset="notes")).records
        assert record.source.known == ("Ann Li",)


class TestIntake:
    @pytest.mark.parametrize("name", ["", "Notes", "a b", "../x", "-a"])
    def test_names_are_checked(self, name: str) -> None:
        with pytest.raises(MalformedInput, match="dataset name"):
            Intake(dataset=name)
        with pytest.raises(MalformedInput, match="purpose name"):
            Intake(dataset="notes", purposes=(name,))

    def test_the_legal_basis_is_one_of_the_six(self) -> None:
        assert Intake(dataset="notes", legal_basis="consent").legal_basis == "consent"
        with pytest.raises(MalformedInput, match="unknown legal basis"):
            Intake(dataset="notes", legal_basis="because")


class TestIngest:
    def test_the_journal_says_so_before_the_dataset_shows(self, site: Site, vault: Vault) -> None:
        seen: list[int] = []

        class Watching(Recorder):
            def about_to_show(self, dataset: object, held: object) -> None:
                with Vault.open(site.paths, site.keyring) as other:
                    seen.append(len(other.datasets()))

        ingest(
            source_file(*ROWS),
            Intake(dataset="notes"),
            vault,
            WordForWord(),
            Watching(site.journal, site.principal),
        )
        assert seen == [0]
        assert len(vault.datasets()) == 1

    def test_the_journal_names_digest_and_counts(self, site: Site, vault: Vault) -> None:
        intake = Intake(dataset="notes", purposes=("triage",), legal_basis="consent")
        dataset = add(site, vault, *ROWS, intake=intake)
        leaf, payload = site.journal.read(site.journal.size() - 1)
        assert (leaf.action, leaf.object) == ("dataset-added", "dataset:notes")
        assert leaf.subject is None
        assert payload["digest"] == dataset.digest
        assert (payload["records"], payload["subjects"]) == (10, 5)
        assert (payload["purposes"], payload["legal_basis"]) == (["triage"], "consent")

    def test_unfit_records_are_kept_out_and_counted(self, site: Site, vault: Vault) -> None:
        dataset = add(site, vault, ("P", "fine", "x"), ("P", "unfit", "x"), ("Q", "unfit", "y"))
        assert dataset.datasheet.quarantined == {"analysis-failed": 2}
        assert [record.text for record in vault.examples("notes")] == ["fine"]
        assert dataset.labels == ("x",)

    def test_when_nothing_is_left_nothing_is_stored(self, site: Site, vault: Vault) -> None:
        before = journalled(site)
        with pytest.raises(Refused, match="no record is left"):
            add(site, vault, ("P", "unfit", "x"))
        assert vault.datasets() == ()
        assert journalled(site) == before

    def test_subjects_stay_whole_in_batches(self, site: Site, vault: Vault) -> None:
        rows = [(f"P-{n % 7}", f"text {n}", "x") for n in range(3 * BATCH_RECORDS)]
        deidentifier = WordForWord()
        progress: list[tuple[int, int]] = []
        result = ingest(
            source_file(*rows),
            Intake(dataset="notes"),
            vault,
            deidentifier,
            Recorder(site.journal, site.principal),
            lambda done, total: progress.append((done, total)),
        )
        assert sum(deidentifier.batches) == len(rows)
        assert len(deidentifier.batches) > 1
        assert all(size >= BATCH_RECORDS for size in deidentifier.batches[:-1])
        assert result.subjects_with_several_records == 7
        assert progress[-1] == (len(rows), len(rows))
        assert [done for done, _ in progress] == sorted({done for done, _ in progress})

    def test_a_dataset_is_replaced_only_when_asked(self, site: Site, vault: Vault) -> None:
        add(site, vault, *ROWS)
        with pytest.raises(Conflict):
            add(site, vault, ROWS[0])
        assert len(vault.examples("notes")) == 10
        replaced = add(site, vault, ROWS[0], intake=Intake(dataset="notes", replace=True))
        assert (replaced.version, len(vault.examples("notes"))) == (2, 1)

    def test_a_failing_journal_leaves_nothing(self, site: Site, vault: Vault) -> None:
        class Full:
            """A journal that cannot be written."""

            def record(self, _entry: Entry) -> None:
                raise OSError("disk full")

            def record_many(self, _entries: Iterable[Entry]) -> None:
                raise OSError("disk full")

        with pytest.raises(OSError, match="disk full"):
            ingest(
                source_file(*ROWS),
                Intake(dataset="notes"),
                vault,
                WordForWord(),
                Recorder(Full(), site.principal),
            )
        assert vault.datasets() == ()
        add(site, vault, *ROWS)
