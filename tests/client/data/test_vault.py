"""What the vault promises: sealed rows, whole datasets, final erasures."""

from __future__ import annotations

import json
import sqlite3
import stat
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from audit.canonical import canonical_bytes
from audit.envelope import NONCE_BYTES, Envelope, seal, unseal
from audit.errors import (
    Conflict,
    MalformedInput,
    NotFound,
    Refused,
    Unreachable,
    VerificationFailed,
)
from audit.key_manager import KeyDestroyed
from audit.keyring import Keyring
from client.site import Site
from client.vault import (
    Content,
    CutOff,
    Dataset,
    Done,
    Provenance,
    Record,
    Staging,
    Vault,
    erasing,
    sealing,
)
from client.vault.quarantine import KeptOut
from client.vault.tables import digest_of
from tests.client.data.records import KEY, PIPELINE, ROWS, stage


def raw(site: Site) -> sqlite3.Connection:
    return sqlite3.connect(site.paths.vault)


class TestReading:
    def test_examples_come_back_as_they_went_in(self, vault: Vault) -> None:
        stage(vault, *ROWS)
        found = [(r.subject, r.text, r.label) for r in vault.examples("notes")]
        assert found == [(vault.pseudonym(who), text, label) for who, text, label in ROWS]

    def test_any_text_survives(self, vault: Vault) -> None:
        texts = ["", " ", "ü€𝄞", 'quotes " and \\', "a\r\nb\tc", "x" * 100_000, "\u202e"]
        stage(vault, *((f"s{n}", text, "l") for n, text in enumerate(texts)))
        assert [record.text for record in vault.examples("notes")] == texts

    def test_a_dataset_counts_subjects_records_and_labels(self, vault: Vault) -> None:
        dataset = stage(vault, *ROWS)
        assert (dataset.subjects, dataset.records, dataset.version) == (5, 10, 1)
        assert dataset.labels == ("even", "odd")
        assert dataset.datasheet.label_counts == {"even": 5, "odd": 5}
        assert vault.datasets() == (dataset,) == (vault.dataset("notes"),)

    def test_an_unknown_dataset_is_not_found(self, vault: Vault) -> None:
        for ask in (vault.dataset, vault.examples, vault.verify, vault.remove):
            with pytest.raises(NotFound, match="no dataset 'nothing'"):
                ask("nothing")

    def test_another_process_sees_the_same(self, site: Site, vault: Vault) -> None:
        stage(vault, *ROWS)
        with Vault.open(site.paths, site.keyring) as other:
            assert other.examples("notes") == vault.examples("notes")

    def test_a_group_is_sealed_with_the_record_and_counted(self, site: Site, vault: Vault) -> None:
        with Staging(vault, "notes") as staging:
            staging.add(
                Record(vault.pseudonym(f"P-{n}"), f"text {n}", "l", group)
                for n, group in enumerate(["curious-ward", "", "other", "other"])
            )
            dataset = staging.publish(Provenance(PIPELINE), lambda _dataset: None)
        assert [r.group for r in vault.examples("notes")] == ["curious-ward", "", "other", "other"]
        assert dataset.datasheet.groups == {"curious-ward": 1, "other": 2}
        stored = b"".join(p.read_bytes() for p in site.paths.root.rglob("*") if p.is_file())
        assert b"curious" not in stored
        vault.erase("P-0")
        vault.erase("P-1")
        assert vault.dataset("notes").datasheet.groups == {"other": 2}


class TestContent:
    def publish(self, vault: Vault, content: Content, *records: Record) -> Dataset:
        with Staging(vault, "notes", content=content) as staging:
            staging.add(records)
            return staging.publish(Provenance(PIPELINE), lambda _dataset: None)

    def test_labels_of_spans_are_counted_one_by_one(self, vault: Vault) -> None:
        who = [vault.pseudonym(f"P-{n}") for n in range(3)]
        dataset = self.publish(
            vault,
            "spans",
            Record(who[0], "ache, rash", '[[0,4,"SIGN"],[6,10,"SIGN"]]'),
            Record(who[1], "ache at home", '[[0,4,"SIGN"],[8,12,"PLACE"]]'),
            Record(who[2], "nothing", "[]"),
        )
        assert dataset.datasheet.label_counts == {"SIGN": 3, "PLACE": 1}
        assert (dataset.records, dataset.datasheet.content) == (3, "spans")
        vault.erase("P-1")
        vault.erase("P-2")
        after = vault.dataset("notes")
        assert (after.datasheet.label_counts, after.records) == ({"SIGN": 2}, 1)
        assert not vault.verify("notes").problems

    def test_language_has_no_labels(self, vault: Vault) -> None:
        dataset = self.publish(vault, "language", Record(vault.pseudonym("P"), "text", ""))
        assert (dataset.labels, dataset.records) == ((), 1)

    def test_the_datasheet_says_what_was_searched(self, vault: Vault) -> None:
        dataset = self.publish(vault, "image", Record(vault.pseudonym("P"), "UE5H", "l"))
        assert dataset.datasheet.deidentification == "pixels-not-searched"
        assert vault.dataset("notes") == dataset


class TestOlderVaults:
    def test_rows_and_datasheets_of_before_there_were_groups_open(
        self, site: Site, vault: Vault
    ) -> None:
        """Written here as they were then, byte for byte."""
        dataset_id, subject = "5" * 32, vault.pseudonym("P-1")
        with vault.transaction() as connection:
            key = vault.keys.ensure(subject)
            row = sealed(
                key,
                {"label": "urgent", "text": "an old text"},
                {
                    "format": "fiduciary.record/1",
                    "dataset": dataset_id,
                    "position": 0,
                    "subject": subject,
                },
            )
            connection.execute(
                "INSERT INTO datasets VALUES (?, 'old', 1, 'building', NULL)", (dataset_id,)
            )
            connection.execute(
                "INSERT INTO records VALUES (?, 0, ?, ?)", (dataset_id, subject, row)
            )
            sheet = {
                "format": "fiduciary.datasheet/1",
                "created_at": "2026-01-31T12:00:00Z",
                "purposes": ["triage"],
                "legal_basis": "consent",
                "deidentification_digest": PIPELINE,
                "label_counts": {"urgent": 1},
                "records": 1,
                "subjects": 1,
                "quarantined": {},
                "duplicates_dropped": 0,
                "empty_dropped": 0,
                "erased_rows_left_out": 0,
                "replacements": {},
                "digest": digest_of(connection, dataset_id),
            }
            place = {
                "format": "fiduciary.datasheet/1",
                "dataset": dataset_id,
                "name": "old",
                "version": 1,
            }
            described = sealed(site.keyring.generate_data_key("vault:datasheets"), sheet, place)
            connection.execute("UPDATE datasets SET state = 'ready', datasheet = ?", (described,))
        assert vault.examples("old") == [Record(subject, "an old text", "urgent", "")]
        found = vault.dataset("old").datasheet
        assert (found.content, found.groups) == ("text", {})
        assert found.deidentification == "identifiers-replaced"
        assert not vault.verify("old").problems
        assert vault.erase("P-1").records_removed == 1

    def test_what_has_neither_group_nor_other_content_is_written_as_before(
        self, vault: Vault
    ) -> None:
        """So an older version opens it too."""
        sheet = stage(vault, *ROWS).datasheet.model_dump(mode="json")
        assert not {"content", "groups", "deidentification"} & set(sheet)
        record = Record("p", "a text", "a label")
        row = sealing.seal_record(KEY, "d", 0, record)
        place = {"format": "fiduciary.record/1", "dataset": "d", "position": 0, "subject": "p"}
        envelope = Envelope(row[:NONCE_BYTES], row[NONCE_BYTES:])
        plain = unseal(KEY, envelope, canonical_bytes(place))
        assert plain == b'{"label":"a label","text":"a text"}'


def sealed(key: bytes, content: dict[str, Any], place: dict[str, Any]) -> bytes:
    envelope = seal(
        key, json.dumps(content, separators=(",", ":")).encode(), canonical_bytes(place)
    )
    return envelope.nonce + envelope.ciphertext


class TestSecrecy:
    def test_nothing_of_text_or_label_is_on_disk(self, site: Site, vault: Vault) -> None:
        stage(vault, ("Jane Roe", "a most singular sentence", "peculiar-label"))
        stored = b"".join(p.read_bytes() for p in site.paths.root.rglob("*") if p.is_file())
        for secret in (b"singular", b"peculiar", b"Jane", b"Roe"):
            assert secret not in stored
        assert vault.pseudonym("Jane Roe").encode() in stored

    def test_the_file_is_readable_by_its_owner_only(self, site: Site, vault: Vault) -> None:
        stage(vault, *ROWS)
        for path in site.paths.root.glob("vault.sqlite*"):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path.name

    @pytest.mark.usefixtures("secrets_of_their_own")
    def test_pseudonyms_differ_between_sites_and_forgive_space(
        self, site: Site, vault: Vault, tmp_path: Path
    ) -> None:
        with (
            Site.create(tmp_path / "south", name="south", federation="test") as south,
            Vault.open(south.paths, south.keyring) as other,
        ):
            assert other.pseudonym("P-1") != vault.pseudonym("P-1")
        assert vault.pseudonym(" P-1\n") == vault.pseudonym("P-1")
        assert vault.pseudonym("e\u0301") == vault.pseudonym("\u00e9")
        assert vault.pseudonym("p-1") != vault.pseudonym("P-1")
        assert len(vault.pseudonym("P-1")) == 64

    def test_an_empty_subject_is_refused(self, vault: Vault) -> None:
        with pytest.raises(MalformedInput, match="empty"):
            vault.pseudonym("  ")

    def test_every_subject_has_a_key_of_its_own(self, site: Site, vault: Vault) -> None:
        stage(vault, *ROWS)
        keys = [name for name in site.keyring.names() if name.startswith("subject:")]
        assert len(keys) == 5
        assert len({site.keyring.data_key(name) for name in keys}) == 5


class TestTampering:
    @pytest.mark.parametrize(
        "change",
        [
            "UPDATE records SET sealed = zeroblob(length(sealed)) WHERE position = 3",
            "UPDATE records SET sealed = x'00' WHERE position = 3",
            "UPDATE records SET sealed = (SELECT sealed FROM records WHERE position = 2)"
            " WHERE position = 3",
            "UPDATE records SET subject = (SELECT subject FROM records WHERE position = 9)"
            " WHERE position = 3",
        ],
    )
    def test_an_altered_or_moved_row_does_not_open(
        self, site: Site, vault: Vault, change: str
    ) -> None:
        stage(vault, *ROWS)
        with raw(site) as connection:
            assert connection.execute(change).rowcount == 1
        assert vault.verify("notes").problems
        with pytest.raises(VerificationFailed, match="record 3"):
            vault.examples("notes")

    def test_a_removed_row_is_noticed(self, site: Site, vault: Vault) -> None:
        stage(vault, *ROWS)
        assert vault.verify("notes").problems == ()
        with raw(site) as connection:
            connection.execute("DELETE FROM records WHERE position = 9")
        problems = vault.verify("notes").problems
        assert any("expected 10 records, got 9" in problem for problem in problems)
        assert any("digest" in problem for problem in problems)

    def test_an_altered_datasheet_does_not_open(self, site: Site, vault: Vault) -> None:
        stage(vault, *ROWS)
        with raw(site) as connection:
            connection.execute("UPDATE datasets SET version = 7")
        with pytest.raises(VerificationFailed, match="datasheet"):
            vault.datasets()
        assert vault.verify("notes").problems

    def test_another_file_is_no_vault(self, site: Site) -> None:
        site.paths.vault.write_bytes(b"not a database at all, not at all" * 100)
        with pytest.raises(VerificationFailed, match="cannot be read"):
            Vault.open(site.paths, site.keyring)

    def test_another_format_is_refused(self, site: Site, vault: Vault) -> None:
        with raw(site) as connection:
            connection.execute("UPDATE vault_meta SET value = 'fiduciary.vault/2'")
        with pytest.raises(VerificationFailed, match="format fiduciary"):
            Vault.open(site.paths, site.keyring)


class TestVersions:
    def test_nobody_sees_a_dataset_before_it_is_published(self, site: Site, vault: Vault) -> None:
        with Staging(vault, "notes") as staging:
            staging.add([Record(vault.pseudonym("P"), "text", "label")])
            with Vault.open(site.paths, site.keyring) as other:
                assert other.datasets() == ()
            staging.publish(Provenance(PIPELINE), lambda _dataset: None)
        assert len(vault.examples("notes")) == 1

    def test_leaving_without_publishing_leaves_nothing(self, site: Site, vault: Vault) -> None:
        with Staging(vault, "notes") as staging:
            staging.add([Record(vault.pseudonym("P"), "text", "label")])
        assert vault.datasets() == ()
        with raw(site) as connection:
            assert connection.execute("SELECT count(*) FROM records").fetchone() == (0,)

    def test_a_replacement_is_a_new_version(self, vault: Vault) -> None:
        first = stage(vault, *ROWS)
        second = stage(vault, ROWS[0])
        assert (first.version, second.version) == (1, 2)
        assert first.digest != second.digest
        assert len(vault.examples("notes")) == 1

    def test_the_same_name_twice_is_a_conflict(self, vault: Vault) -> None:
        stage(vault, *ROWS)
        with pytest.raises(Conflict, match="holds a dataset 'notes'"):
            Staging(vault, "notes").__enter__()
        stage(vault, *ROWS)  # the lock is free again

    def test_two_ingests_at_once_are_refused(self, site: Site, vault: Vault) -> None:
        with (
            Staging(vault, "notes"),
            Vault.open(site.paths, site.keyring) as other,
            pytest.raises(Conflict, match="another ingest"),
        ):
            Staging(other, "others").__enter__()

    def test_when_the_announcement_fails_nothing_becomes_visible(self, vault: Vault) -> None:
        def fails(_dataset: object) -> None:
            raise OSError("disk full")

        with Staging(vault, "notes") as staging:
            staging.add([Record(vault.pseudonym("P"), "text", "label")])
            with pytest.raises(OSError, match="disk full"):
                staging.publish(Provenance(PIPELINE), fails)
        assert vault.datasets() == ()

    def test_an_empty_dataset_is_refused(self, vault: Vault) -> None:
        with pytest.raises(Refused, match="no record is left"), Staging(vault, "notes") as staging:
            staging.publish(Provenance(PIPELINE), lambda _dataset: None)

    def test_a_removed_dataset_is_gone(self, vault: Vault) -> None:
        stage(vault, *ROWS)
        assert vault.remove("notes").records == 10
        assert vault.datasets() == ()


class TestErasure:
    def test_rows_and_key_are_gone_and_the_rest_stays(self, site: Site, vault: Vault) -> None:
        before = stage(vault, *ROWS)
        stage(vault, ("P-1", "elsewhere", "odd"), name="calls")
        result = vault.erase("P-1")
        pseudonym = vault.pseudonym("P-1")
        assert result.pseudonym == pseudonym
        assert (result.datasets, result.records_removed) == (("calls", "notes"), 3)
        assert result.key_destroyed
        assert pseudonym not in {record.subject for record in vault.examples("notes")}
        after = vault.dataset("notes")
        assert (after.records, after.subjects) == (8, 4)
        assert after.datasheet.label_counts == {"even": 4, "odd": 4}
        assert after.digest != before.digest
        assert vault.verify("notes").problems == ()
        with pytest.raises(KeyDestroyed):
            site.keyring.data_key(f"subject:{pseudonym}")

    def test_the_pages_of_erased_rows_are_overwritten(self, site: Site, vault: Vault) -> None:
        stage(vault, *ROWS)
        with raw(site) as connection:
            query = "SELECT sealed FROM records WHERE subject = ?"
            rows = connection.execute(query, (vault.pseudonym("P-1"),)).fetchall()
        vault.erase("P-1")
        stored = b"".join(path.read_bytes() for path in site.paths.root.glob("vault.sqlite*"))
        assert rows
        for (sealed,) in rows:
            assert sealed not in stored

    def test_a_copy_made_before_opens_no_more(self, site: Site, vault: Vault) -> None:
        stage(vault, *ROWS)
        with raw(site) as connection:
            saved = connection.serialize()
        vault.erase("P-1")
        vault.close()
        for path in site.paths.root.glob("vault.sqlite-*"):
            path.unlink()
        site.paths.vault.write_bytes(saved)
        with Vault.open(site.paths, site.keyring) as restored:
            assert restored.pseudonym("P-1") not in {r.subject for r in restored.examples("notes")}
            assert len(restored.examples("notes")) == 8
            assert "2 records can no longer be opened" in restored.verify("notes").problems[0]

    def test_repeating_it_returns_the_first_result(self, vault: Vault) -> None:
        stage(vault, *ROWS)
        assert vault.erase("P-1") == vault.erase("P-1 ")

    def test_an_unknown_subject_is_not_found(self, vault: Vault) -> None:
        stage(vault, *ROWS)
        with pytest.raises(NotFound, match="no record of this subject"):
            vault.erase("P-99")
        assert not vault.is_erased("P-99")

    def test_a_subject_of_a_removed_dataset_can_be_erased(self, vault: Vault) -> None:
        stage(vault, *ROWS)
        vault.remove("notes")
        result = vault.erase("P-1")
        assert (result.records_removed, result.key_destroyed) == (0, True)

    def test_the_last_subject_leaves_an_empty_dataset(self, vault: Vault) -> None:
        stage(vault, ("P", "text", "label"))
        vault.erase("P")
        assert vault.examples("notes") == []
        assert vault.dataset("notes").labels == ()
        assert vault.verify("notes").problems == ()

    def test_an_erased_subject_does_not_come_back(self, vault: Vault) -> None:
        stage(vault, *ROWS)
        vault.erase("P-1")
        again = stage(vault, *ROWS)
        assert again.datasheet.erased_rows_left_out == 2
        assert vault.pseudonym("P-1") not in {r.subject for r in vault.examples("notes")}

    def test_readmission_is_explicit_and_uses_a_new_key(self, site: Site, vault: Vault) -> None:
        stage(vault, *ROWS)
        vault.erase("P-1")
        with pytest.raises(NotFound, match="not erased"):
            vault.readmit("P-2")
        vault.readmit("P-1")
        stage(vault, *ROWS)
        assert len(vault.examples("notes")) == 10
        pseudonym = vault.pseudonym("P-1")
        assert site.keyring.data_key(f"subject:{pseudonym}:2")
        assert vault.erase("P-1").records_removed == 2
        with pytest.raises(KeyDestroyed):
            site.keyring.data_key(f"subject:{pseudonym}:2")

    def test_nobody_is_let_in_while_the_old_key_is_there(
        self, site: Site, vault: Vault, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Another process marks the subject after this one has looked for unfinished erasures."""
        stage(vault, *ROWS)
        with Vault.open(site.paths, site.keyring) as other:
            half_erase(vault, monkeypatch)
            with monkeypatch.context() as patched:
                patched.setattr(erasing, "finish", lambda *_: None)
                with pytest.raises(Conflict, match="being erased"):
                    other.readmit("P-1")
            assert other.is_erased("P-1")
            other.readmit("P-1")
        with pytest.raises(KeyDestroyed):
            site.keyring.data_key(f"subject:{vault.pseudonym('P-1')}")

    def test_a_late_look_destroys_no_new_key(
        self, site: Site, vault: Vault, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Another process finishes an erasure and lets the subject in again meanwhile."""
        stage(vault, *ROWS)
        with Vault.open(site.paths, site.keyring) as other:
            half_erase(vault, monkeypatch)
            connection = vault._file.connection

            def execute(query: str, *values: Any) -> Any:
                found = connection.execute(query, *values)
                if not query.startswith("SELECT subject FROM erased_subjects WHERE"):
                    return found
                rows = found.fetchall()
                other.readmit("P-1")
                stage(other, *ROWS)
                return SimpleNamespace(fetchall=lambda: rows)

            monkeypatch.setattr(vault._file, "connection", SimpleNamespace(execute=execute))
            erasing.finish(vault._file, vault.keys)
            monkeypatch.undo()
        assert len(vault.examples("notes")) == 10

    def test_erasing_during_an_ingest_keeps_the_subject_out(self, site: Site, vault: Vault) -> None:
        stage(vault, *ROWS)
        with Vault.open(site.paths, site.keyring) as other, Staging(vault, "more") as staging:
            staging.add([Record(vault.pseudonym("P-1"), "before", "l")])
            other.erase("P-1")
            staging.add([Record(vault.pseudonym("P-1"), "after", "l")])
            staging.add([Record(vault.pseudonym("P-2"), "stays", "l")])
            dataset = staging.publish(Provenance(PIPELINE), lambda _dataset: None)
        assert (dataset.records, dataset.datasheet.erased_rows_left_out) == (1, 1)
        assert [record.text for record in vault.examples("more")] == ["stays"]
        assert vault.verify("more").problems == ()

    def test_opening_the_vault_finishes_an_erasure(
        self, site: Site, vault: Vault, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        stage(vault, *ROWS)
        half_erase(vault, monkeypatch)
        with Vault.open(site.paths, site.keyring), pytest.raises(KeyDestroyed):
            site.keyring.data_key(f"subject:{vault.pseudonym('P-1')}")

    def test_a_row_of_an_erased_subject_is_not_even_kept_out(
        self, site: Site, vault: Vault
    ) -> None:
        stage(vault, *ROWS)
        vault.erase("P-1")
        with Staging(vault, "more") as staging:
            rows = [KeptOut(vault.pseudonym(who), "why", PIPELINE) for who in ("P-1", "P-2")]
            staging.add([Record(vault.pseudonym("P-2"), "text", "l")], kept_out=rows)
            staging.publish(Provenance(PIPELINE), lambda _dataset: None)
        assert [left.subject for left in vault.kept_out("more")] == [vault.pseudonym("P-2")]
        with raw(site) as connection:
            assert connection.execute("SELECT count(*) FROM kept_out").fetchone() == (1,)


class TestInterruption:
    """What an ingest that was cut off leaves, and what goes on from there."""

    def cut_off(self, vault: Vault, error: BaseException) -> None:
        with suppress(type(error)), Staging(vault, "more", work="this") as staging:
            staging.add([Record(vault.pseudonym("P-1"), "text", "l")], Done("a", rows=1))
            raise error

    @pytest.mark.parametrize(
        "error", [KeyboardInterrupt(), CutOff("cut"), OSError("full"), Unreachable("gone")]
    )
    def test_the_same_work_goes_on_and_other_work_begins_anew(
        self, vault: Vault, error: BaseException
    ) -> None:
        self.cut_off(vault, error)
        with suppress(KeyboardInterrupt), Staging(vault, "more", work="this") as staging:
            went_on = staging.done.rows, staging.leftovers_removed
            raise KeyboardInterrupt
        assert went_on == (1, 0)
        with Staging(vault, "more", work="other") as staging:
            assert (staging.done, staging.leftovers_removed) == (Done(), 1)

    def test_a_fault_that_would_come_again_leaves_nothing(self, site: Site, vault: Vault) -> None:
        self.cut_off(vault, ValueError("a fault"))
        with raw(site) as connection:
            assert connection.execute("SELECT count(*) FROM datasets").fetchone() == (0,)

    def test_who_is_let_in_again_meanwhile_is_not_passed_by(self, vault: Vault) -> None:
        stage(vault, *ROWS)
        vault.erase("P-1")
        self.cut_off(vault, KeyboardInterrupt())  # the subject's rows were left out
        vault.readmit("P-1")
        with Staging(vault, "more", work="this") as staging:
            assert staging.done == Done()

    def test_what_nobody_sees_yet_is_not_told_of(self, vault: Vault) -> None:
        stage(vault, *ROWS)
        self.cut_off(vault, KeyboardInterrupt())
        held = vault.about("P-1").datasets
        assert [(dataset.name, count) for dataset, count in held] == [("notes", 2)]


class TestFile:
    def test_its_settings_are_what_the_guarantees_rest_on(self, vault: Vault) -> None:
        with vault.transaction() as connection:
            found = {
                name: connection.execute(f"PRAGMA {name}").fetchone()[0]
                for name in (
                    "journal_mode", "synchronous", "secure_delete", "foreign_keys", "temp_store"
                )
            }  # fmt: skip
        assert found == {
            "journal_mode": "wal",
            "synchronous": 2,
            "secure_delete": 1,
            "foreign_keys": 1,
            "temp_store": 2,
        }

    def test_a_transaction_holds_the_lock_from_its_beginning(
        self, site: Site, vault: Vault
    ) -> None:
        with Vault.open(site.paths, site.keyring) as other, other.transaction():
            vault._file.connection.execute("PRAGMA busy_timeout = 0")
            with pytest.raises(Conflict, match="cannot be used now"), vault.transaction():
                pytest.fail("two writers at once")

    def test_removed_rows_do_not_linger_in_the_log(self, site: Site, vault: Vault) -> None:
        stage(vault, *ROWS)
        vault.remove("notes")
        assert site.paths.vault.with_name("vault.sqlite-wal").stat().st_size == 0


class TestSealing:
    def test_how_far_an_ingest_came_opens_for_its_own_version_alone(self) -> None:
        sealed = sealing.seal_progress(KEY, "a" * 32, "work", Done("b", rows=1))
        assert sealing.open_progress(KEY, "a" * 32, sealed) == ("work", Done("b", rows=1))
        with pytest.raises(VerificationFailed):
            sealing.open_progress(KEY, "b" * 32, sealed)

    def test_rows_that_run_into_each_other_have_another_digest(self) -> None:
        two, one = sealing.DatasetDigest("a"), sealing.DatasetDigest("a")
        two.add(0, "s", b"first")
        two.add(1, "t", b"second")
        one.add(0, "s", b"first" + bytes(7) + b"\x01" + bytes(7) + b"\x01tsecond")
        assert one.digest() != two.digest()
        one.add(1, "t", b"")
        two.add(1, "t", b"")
        assert one.digest() != two.digest()


def half_erase(vault: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    """Erase `P-1` up to the key, which stays: the process is killed there."""

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(vault.keys, "destroy", killed)
        with pytest.raises(KeyboardInterrupt):
            vault.erase("P-1")


class TestKeyring:
    @pytest.mark.usefixtures("secrets_of_their_own")
    def test_without_the_keyring_nothing_opens(
        self, site: Site, vault: Vault, tmp_path: Path
    ) -> None:
        stage(vault, *ROWS)
        with (
            Keyring.create(tmp_path / "stranger") as stranger,
            Vault.open(site.paths, stranger) as robbed,
        ):
            with pytest.raises(VerificationFailed):
                robbed.datasets()
            assert robbed.pseudonym("P-1") != vault.pseudonym("P-1")

    def test_rotating_the_key_encryption_key_changes_nothing(
        self, site: Site, vault: Vault
    ) -> None:
        stage(vault, *ROWS)
        before = vault.examples("notes")
        site.keyring.rotate()
        assert vault.examples("notes") == before
