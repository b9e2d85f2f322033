"""A program that writes a trail and is killed at its Nth statement, for `test_trail_killed`.

It forks a child for each N; the child kills itself (SIGKILL) right before the Nth statement of
vault, keyring or journal. Then the trail is written again, as a restarted worker does. Prints one
JSON line for each N.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections import Counter
from pathlib import Path

from client import subject_trail
from client.site import Site
from client.subject_trail import Trail, Use
from client.vault import Vault
from tests.client.site.documents import add_dataset, make_allowed, make_limits
from tests.client.site.killed_ledger import count_statements

SUBJECTS = 7
ALLOWED = make_allowed()


def write(site: Site) -> None:
    with Vault.open(site.paths, site.keyring) as vault:
        dataset = vault.dataset("notes")
        subjects = {record.subject: (dataset,) for record in vault.examples("notes")}
        Trail(site.journal, vault, site.principal).record(Use.TRAINED, ALLOWED, subjects)


def run_child(folder: Path, kill_at: int) -> bool:
    """Whether the child came to its end."""
    child = os.fork()
    if child == 0:
        count_statements(kill_at)
        with Site.open(folder) as site:
            write(site)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status) == 0


def entries(site: Site) -> Counter[str]:
    """How many entries each subject has."""
    leaves = site.journal.leaves()
    return Counter(leaf.subject for leaf in leaves if leaf.subject is not None)


def main() -> None:
    folder = Path(sys.argv[1])
    subject_trail.PAGE_ENTRIES = 3
    original = folder / "original"
    with Site.create(original, name="north", federation="test") as site:
        add_dataset(site, subjects=SUBJECTS)
        with site.ledger() as ledger:
            ledger.reserve(ALLOWED.terms.reservation, make_limits("100"))
    kill_at, ended = 0, False
    while not ended:
        kill_at += 1
        copy = folder / "copy"
        shutil.copytree(original, copy)
        ended = run_child(copy, kill_at)
        with Site.open(copy) as site:
            before = entries(site)
            write(site)
            after = entries(site)
        found = {
            "ended": ended,
            "written": len(before),
            "subjects": len(after),
            "most": max(after.values()),
        }
        print(json.dumps(found), flush=True)  # noqa: T201
        shutil.rmtree(copy)


if __name__ == "__main__":
    main()
