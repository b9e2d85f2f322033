"""A program that is killed at its Nth database statement, for `test_ingest_killed`.

It forks a child for each N, in which every statement of vault, keyring and journal counts that can
change something, and the child kills itself (SIGKILL) right before the Nth: between two of them
nothing on disk differs. Prints one JSON line for each N.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import sys
from pathlib import Path
from typing import Any

from PIL import Image

from client import source_parts
from client.ingest import Recorder, deidentifier_for, ingest
from client.intake import Columns, Intake
from client.site import Site
from client.source_file import read_source
from client.vault import Vault
from tests.client.data.records import ROWS, WordForWord, add, journalled, source_file

OLD = (("P-1", "the old version", "old"), ("P-9", "of another person", "old"))


def replace_dataset(site: Site, vault: Vault) -> bool:
    source_parts.BATCH_RECORDS = 4  # so that a few rows are several batches
    recorder = Recorder(site.journal, site.principal)
    wanted = Intake(dataset="notes", replace=True)
    return ingest(source_file(*ROWS), wanted, vault, WordForWord(), recorder).resumed


def erase_subject(_site: Site, vault: Vault) -> bool:
    vault.erase("P-1")
    return False


def replace_by_pictures(site: Site, vault: Vault) -> bool:
    """As `client data add --kind image --group ward --replace` does it."""
    path = site.paths.root.parent / "pictures" / "scans.csv"
    columns = Columns("who", label="finding", content="image", group="ward", image="file")
    intake = Intake(dataset="notes", replace=True, accept_unsearched_pixels=True)
    source = read_source(path, columns, intake)
    deidentifier = deidentifier_for(path.parent, columns, source, b"")
    recorder = Recorder(site.journal, site.principal)
    return ingest(source, intake, vault, deidentifier, recorder).resumed


def make_pictures(folder: Path) -> None:
    folder.mkdir()
    for shade in range(3):
        Image.new("L", (4, 4), shade).save(folder / f"{shade}.png")
    rows = "".join(f"P-{shade},{shade}.png,x,ICU\n" for shade in range(3))
    (folder / "scans.csv").write_text(f"who,file,finding,ward\n{rows}")


STRIDES = {"ingest": 1, "erase": 1, "pictures": 3}
"""The pictures differ in what is stored, not in how: a third of the places shows that."""

SCENARIOS = {"ingest": replace_dataset, "erase": erase_subject, "pictures": replace_by_pictures}


def count_statements(kill_at: int) -> None:
    """Kill this process right before the Nth statement of any connection opened from now on."""
    left = kill_at
    connect = sqlite3.connect

    def statement(text: str) -> None:
        nonlocal left
        left -= not text.lstrip().upper().startswith(("SELECT", "PRAGMA"))
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def counted(*arguments: Any, **options: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = connect(*arguments, **options)
        connection.set_trace_callback(statement)
        return connection

    sqlite3.connect = counted  # type: ignore[assignment]


def run_child(folder: Path, scenario: str, kill_at: int) -> bool:
    """Whether the child came to its end."""
    child = os.fork()
    if child == 0:
        count_statements(kill_at)
        with Site.open(folder) as site, Vault.open(site.paths, site.keyring) as vault:
            SCENARIOS[scenario](site, vault)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status) == 0


def look(folder: Path, scenario: str) -> dict[str, Any]:
    """What a new process finds, and whether the work can be done again."""
    with Site.open(folder) as site, Vault.open(site.paths, site.keyring) as vault:
        datasets = vault.datasets()
        found = {
            "versions": [(dataset.name, dataset.version) for dataset in datasets],
            "texts": sorted(record.text for record in vault.examples("notes")),
            "groups": [record.group for record in vault.examples("notes")],
            "sheet": vault.dataset("notes").datasheet.model_dump(mode="json"),
            "problems": list(vault.verify("notes").problems),
            "erased": vault.is_erased("P-1"),
            "journal": journalled(site).count("dataset-added"),
            "keys": sum(name.startswith("subject:") for name in site.keyring.names()),
        }
        found["staged"] = staged(folder)
        found["resumed"] = SCENARIOS[scenario](site, vault)
        found["after"] = sorted(record.text for record in vault.examples("notes"))
        found["sheet_after"] = vault.dataset("notes").datasheet.model_dump(mode="json")
        found["problems_after"] = list(vault.verify("notes").problems)
    with sqlite3.connect(folder / "vault.sqlite") as connection:
        (building,) = connection.execute(
            "SELECT count(*) FROM datasets WHERE state = 'building'"
        ).fetchone()
    return found | {"building_after": building}


def staged(folder: Path) -> int:
    """Rows that a killed ingest left for the next one."""
    with sqlite3.connect(folder / "vault.sqlite") as connection:
        (count,) = connection.execute(
            "SELECT count(*) FROM records JOIN datasets ON id = dataset WHERE state = 'building'"
        ).fetchone()
    return int(count)


def main() -> None:
    folder, scenario = Path(sys.argv[1]), sys.argv[2]
    original = folder / "original"
    with (
        Site.create(original, name="north", federation="test") as site,
        Vault.open(site.paths, site.keyring) as vault,
    ):
        add(site, vault, *OLD)
    make_pictures(folder / "pictures")
    kill_at, ended = 0, False
    while not ended:
        kill_at += STRIDES[scenario]
        copy = folder / "copy"
        shutil.copytree(original, copy)
        ended = run_child(copy, scenario, kill_at)
        print(json.dumps(look(copy, scenario) | {"ended": ended}), flush=True)  # noqa: T201
        shutil.rmtree(copy)


if __name__ == "__main__":
    main()
