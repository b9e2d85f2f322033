"""A program that is killed at its Nth database statement, for `test_ledger_killed`.

It forks a child for each N, in which every statement of ledger and journal counts, and the child
kills itself (SIGKILL) right before the Nth. What the child had been told is written to a pipe, so
that the parent knows what it could have acted on. Prints one JSON line for each N.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

from client.ledger import Ledger
from client.site import Site
from tests.client.site.documents import make_limits, make_reservation

PLAN = make_reservation().plan_id


def open_ledger(site: Site) -> Ledger:
    """With a cheap accountant: what is put to the test is what survives, not its epsilon."""
    return Ledger.open(
        site.paths.ledger,
        site.journal,
        site.principal,
        compose=lambda events, _delta: Decimal(sum(event.steps for event in events)),
    )


def scenario(site: Site, told: int) -> None:
    """Reserve, start two rounds, settle; each success is told before the next."""
    with open_ledger(site) as ledger:
        ledger.reserve(make_reservation(), make_limits())
        os.write(told, b"R")
        for round_index in (0, 1):
            ledger.start_round(PLAN, round_index)
            os.write(told, b"S")
        ledger.settle(PLAN)
        os.write(told, b"X")


def count_statements(kill_at: int) -> None:
    """Kill this process right before the Nth statement of any connection opened from now on."""
    left = kill_at
    connect = sqlite3.connect

    def statement(_text: str) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def counted(*arguments: Any, **options: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = connect(*arguments, **options)
        connection.set_trace_callback(statement)
        return connection

    sqlite3.connect = counted  # type: ignore[assignment]


def run_child(folder: Path, kill_at: int) -> tuple[str, bool]:
    """What the child was told before it died, and whether it came to its end."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        count_statements(kill_at)
        with Site.open(folder) as site:
            scenario(site, writing)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        told = pipe.read().decode()
    _, status = os.waitpid(child, 0)
    return told, os.waitstatus_to_exitcode(status) == 0


def look(folder: Path) -> dict[str, Any]:
    """What a new process finds, and what it may still do."""
    with Site.open(folder) as site, open_ledger(site) as ledger:
        plans = ledger.budget(make_reservation().delta).plans
        sequences = [
            site.journal.read(leaf.position)[1]["sequence"]
            for leaf in site.journal.leaves()
            if leaf.action.startswith("budget-")
        ]
        restarted: list[int | str] = []
        for round_index in range(3):
            try:
                ledger.reserve(make_reservation(), make_limits())
                ledger.start_round(PLAN, round_index)
                restarted.append(round_index)
            except Exception as error:  # noqa: BLE001  told to the test by name
                restarted.append(type(error).__name__)
        return {
            "reserved": len(plans),
            "started": plans[0].rounds_started if plans else 0,
            "settled": plans[0].settled if plans else False,
            "sequences": sequences,
            "last_sequence": max(sequences, default=0),
            "restarted": restarted,
        }


def main(folder: Path, step: int) -> None:
    fresh = folder / "fresh"
    Site.create(fresh, name="north", federation="hospitals").close()
    kill_at = 1
    while True:
        copy = folder / f"killed-{kill_at}"
        shutil.copytree(fresh, copy)
        told, ended = run_child(copy, kill_at)
        found = look(copy)
        sys.stdout.write(json.dumps({"kill_at": kill_at, "told": told, **found}) + "\n")
        shutil.rmtree(copy)
        if ended:
            return
        kill_at += step


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
