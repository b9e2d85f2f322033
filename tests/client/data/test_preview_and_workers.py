"""`client data add --dry-run` stores nothing and shows text on a terminal alone; `--workers`."""

from __future__ import annotations

import io
import json
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from audit.errors import ExitCode, FiduciaryError, NotFound
from client.deidentification.pipeline import (
    Deidentified,
    Outcome,
    Quarantined,
    Reason,
    SourceRecord,
)
from client.deidentification.replacement import Replacement
from client.deidentifier_pool import (
    MOST_WORKERS,
    WORTH_CHARACTERS,
    DeidentifierPool,
    WorkerEnded,
    dealt,
    usual_workers,
)
from client.ingest import Recorder, ingest
from client.intake import Intake
from client.preview import Previewed, counted, print_preview, side_by_side
from client.site import Site
from client.vault import Vault
from tests.client.data.records import PIPELINE, ROWS, journalled, source_file


class Shouting:
    """A pipeline for processes of a pool: tells who it is, and how many records came together."""

    digest = PIPELINE

    def __init__(self, secret: bytes) -> None:
        if not secret:
            raise NotFound("the model is not installed", fix="install it")
        self._secret = secret

    def deidentify(self, records: Sequence[SourceRecord]) -> list[Outcome]:
        if any(record.text == "end" for record in records):
            os._exit(9)
        subjects = len({record.subject for record in records})
        return [
            Quarantined(Reason.NOT_TEXT)
            if not record.text
            else Deidentified(f"{record.text.upper()} {subjects} {self._secret.decode()}")
            for record in records
        ]


RECORDS = [SourceRecord(f"P-{n % 5}", f"text {n}" if n else "") for n in range(20)]


def test_a_pool_gives_each_record_its_own_outcome_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    with DeidentifierPool(b"key", 2, Shouting) as pool:
        assert pool.digest == PIPELINE
        assert list(pool._pool.map(os.getenv, ["OMP_NUM_THREADS"])) == ["1"], "one thread each"
        (mask,) = pool._pool.map(signal.pthread_sigmask, [signal.SIG_BLOCK], [()])
        assert signal.SIGINT in mask, "Ctrl-C is for the process that asks, from the first moment"
        assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
        first, *outcomes = pool.deidentify(RECORDS)
        assert first == Quarantined(Reason.NOT_TEXT)
        told = [outcome.text for outcome in outcomes if isinstance(outcome, Deidentified)]
        assert [text.rpartition(" ")[0][:-2] for text in told] == [
            f"TEXT {n}" for n in range(1, 20)
        ]
        assert {text.split(" ", 2)[2] for text in told} == {"2 key", "3 key"}, "five in two shares"
        with pytest.raises(WorkerEnded, match="memory"):
            pool.deidentify([SourceRecord("P", "end")])


def test_an_ingest_starts_the_next_batches_before_it_waits(
    site: Site, vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Noted(DeidentifierPool):
        """Notes when each batch is started and waited for, by the number of its records."""

        digest = PIPELINE

        def __init__(self) -> None:
            self.notes: list[str] = []

        def start(self, records: Sequence[SourceRecord]) -> Callable[[], list[Outcome]]:
            number = sum(note.startswith("start") for note in self.notes)
            self.notes.append(f"start {number}")

            def outcomes() -> list[Outcome]:
                self.notes.append(f"wait {number}")
                return [Deidentified(f"{record.text} done") for record in records]

            return outcomes

    monkeypatch.setattr("client.source_parts.BATCH_RECORDS", 1)
    pool = Noted()
    recorder = Recorder(site.journal, site.principal)
    ingest(source_file(*ROWS), Intake(dataset="notes"), vault, pool, recorder)
    assert pool.notes == [
        "start 0", "start 1", "start 2", "wait 0", "start 3", "wait 1", "start 4", "wait 2",
        "wait 3", "wait 4",
    ]  # fmt: skip
    assert {(record.subject, record.text) for record in vault.examples("notes")} == {
        (vault.pseudonym(who), f"{text} done") for who, text, _ in ROWS
    }


def test_what_is_wrong_in_a_process_is_said_in_its_own_words() -> None:
    with DeidentifierPool(b"", 1, Shouting) as pool, pytest.raises(FiduciaryError) as said:
        _ = pool.digest
    assert (str(said.value), said.value.fix) == ("the model is not installed", "install it")


def test_a_subject_is_in_one_share_and_shares_are_alike() -> None:
    records = [SourceRecord(f"P-{n % 7}", "x" * (n + 1)) for n in range(70)]
    shares = dealt(records, 3)
    assert sorted(at for share in shares for at in share) == list(range(70))
    subjects = [{records[at].subject for at in share} for share in shares]
    assert sum(map(len, subjects)) == 7
    assert {len(share) for share in shares} <= {20, 30}
    assert dealt(records[:1], 3) == [[0], [], []]


def test_more_processes_are_started_only_where_they_are_worth_it() -> None:
    assert usual_workers(WORTH_CHARACTERS - 1) == 1
    assert 1 <= usual_workers(WORTH_CHARACTERS) <= min(MOST_WORKERS, os.cpu_count() or 1)


# --- the preview ----------------------------------------------------------------------------------

ROW = Previewed(
    "Ann\x1b[2J rang", Deidentified("Eve-Lou rang", {"PERSON": 1}, (Replacement(0, 3, 0, 7),))
)


def test_a_preview_colours_what_was_replaced_and_steers_no_terminal() -> None:
    original, result = side_by_side(ROW)
    assert original.plain == "Ann\N{REPLACEMENT CHARACTER}[2J rang"
    assert [(span.start, span.end) for span in original.spans] == [(0, 3)]
    assert [(span.start, span.end) for span in result.spans] == [(0, 7)]
    kept_out = Previewed("1,2", Quarantined(Reason.IDENTIFIER_IN_CELL, "age"))
    assert side_by_side(kept_out)[1].plain == "kept out: identifier-in-cell age"
    assert counted([ROW, kept_out]) == {
        "previewed": 2,
        "replacements": {"PERSON": 1},
        "quarantined": {"identifier-in-cell age": 1},
        "stored": 0,
    }
    shown = io.StringIO()
    print_preview([ROW, kept_out], Console(file=shown, width=60))
    assert "Eve-Lou rang" in shown.getvalue()
    assert "\x1b[2J" not in shown.getvalue()


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    path = tmp_path / "notes.csv"
    rows = "".join(f"P-{n},Maria Lopez wrote number {n}.\n" for n in range(12))
    path.write_text(f"who,what\n{rows}", encoding="utf-8")
    return path


def test_a_dry_run_stores_nothing_and_gives_a_script_counts_alone(
    typed: Any, notes: Path, site: Site
) -> None:
    before = journalled(site)
    columns = ("--kind", "language", "--subject", "who", "--text", "what")
    code, out, err = typed("add", str(notes), *columns, "--dry-run", "--json")
    assert code == ExitCode.OK
    told = json.loads(out)
    assert (told["previewed"], told["stored"]) == (10, 0)
    assert told["replacements"]["PERSON"] == 10
    assert "Maria" not in out + err
    assert "nothing was stored" in typed("add", str(notes), *columns, "--dry-run")[1]
    assert journalled(site) == before
    assert not site.paths.vault.exists()
    code, _, err = typed(
        "add", str(notes), "--kind", "image", "--subject", "who", "--image", "what", "--label",
        "who", "--dry-run", "--accept-unsearched-pixels",
    )  # fmt: skip
    assert code == ExitCode.MALFORMED_INPUT


def test_a_dry_run_says_what_is_wrong_with_a_source(typed: Any, notes: Path) -> None:
    columns = ("--kind", "language", "--subject", "whom", "--text", "what")
    code, _, err = typed("add", str(notes), *columns, "--dry-run")
    assert (code, "whom" in err) == (ExitCode.MALFORMED_INPUT, True)
