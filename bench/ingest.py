"""Measures the memory that an ingest takes, by the number of rows.

    python -m bench.ingest [--rows 50000 100000 200000] [--pipeline 0]

Each size is a process of its own, whose peak resident memory the system tells (`ru_maxrss`). Rows
of about 1,000 characters, two a subject, are read, checked, sealed and published by the product's
own code; a stand-in for de-identification passes them as they are, so that 100,000 rows take a
minute and not hours. Everything is in a folder in memory where there is one: syncing a key for each
subject would otherwise be most of the time, and memory is what is measured. `--pipeline N` adds the
real pipeline on N rows, for its own memory. Flat memory means that twice the rows take the same.
The last line is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from client.deidentification.pipeline import Deidentified, Deidentifier, Outcome, SourceRecord
from client.ingest import RecordDeidentifier, Recorder, ingest
from client.intake import Columns, Intake
from client.site import Site
from client.source_file import read_source
from client.source_parts import PART_CHARACTERS, parts_of
from client.vault import Vault

MEMORY = Path("/dev/shm")  # noqa: S108 - a folder of our own is made in it

SENTENCE = "The patient was seen on the ward and feels better than the week before. "


class AsItIs:
    """Passes every text: what is measured is everything around de-identification."""

    digest = "sha256:" + "00" * 32

    def deidentify(self, records: Sequence[SourceRecord]) -> list[Outcome]:
        """Each text, unchanged."""
        return [Deidentified(record.text) for record in records]


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[50_000, 100_000, 200_000])
    parser.add_argument("--pipeline", type=int, default=0, metavar="N")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(one(*json.loads(options.one))))
        return
    results: dict[str, Any] = {}
    sizes = [(rows, False) for rows in options.rows]
    if options.pipeline:
        sizes += [(options.pipeline // 2, True), (options.pipeline, True)]
    for rows, real in sizes:
        command = [sys.executable, "-m", "bench.ingest", "--one", json.dumps([rows, real])]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        name = f"{'pipeline' if real else 'ingest'}_{rows}_rows"
        results[name] = json.loads(done.stdout.splitlines()[-1])
        print(f"{name}: {results[name]}")
    print(json.dumps(results))


def one(rows: int, real: bool) -> dict[str, Any]:
    """Ingest so many rows, and tell what it took."""
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as name:
        folder = Path(name)
        path = folder / "notes.csv"
        with path.open("w", encoding="utf-8") as file:
            file.write("who,what,kind\n")
            for at in range(rows):
                file.write(f"P-{at * 7919 % rows // 2},{at} {SENTENCE * 14},{at % 5}\n")
        deidentifier: RecordDeidentifier = Deidentifier(bytes(32)) if real else AsItIs()
        begin = time.process_time()
        with (
            Site.create(folder / "site", name="bench", federation="bench") as site,
            Vault.open(site.paths, site.keyring) as vault,
        ):
            before = peak_mib()
            intake = Intake(dataset="notes")
            source = read_source(path, Columns("who", "what", "kind"), intake)
            recorder = Recorder(site.journal, site.principal)
            dataset = ingest(source, intake, vault, deidentifier, recorder).dataset
        return {
            "records": dataset.records,
            "subjects": dataset.subjects,
            "readings": 1 + parts_of(source, PART_CHARACTERS),
            "peak_mib": peak_mib(),
            "peak_mib_over_start": round(peak_mib() - before, 1),
            "cpu_seconds": round(time.process_time() - begin, 1),
        }


def peak_mib() -> float:
    """Peak resident memory of this process."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)


if __name__ == "__main__":
    main()
