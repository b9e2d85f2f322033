"""Writes the checked-in vectors of `data/`. The tests only read them.

    python -m tests.audit.generate_vectors probes CHECKOUT
    python -m tests.audit.generate_vectors sumdb

* `merkle_probes.json`: the inclusion and consistency probes in a checkout of
  transparency-dev/merkle (Apache-2.0), each hash written once.
* `sumdb.json`: what golang.org/x/mod/sumdb says of `cases.py`, through `sumdb.go`. Needs Debian's
  golang-go and golang-golang-x-mod-dev.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.audit.cases import fingerprint, judged

HERE = Path(__file__).parent
PROBES = HERE / "data" / "merkle_probes.json"
SUMDB = HERE / "data" / "sumdb.json"


def merkle_probes(checkout: Path) -> dict[str, Any]:
    """The probes of a checkout: hashes in one list, referred to by their place in it."""
    hashes: list[str] = []

    def place(encoded: str) -> int:
        value = base64.b64decode(encoded).hex()
        if value not in hashes:
            hashes.append(value)
        return hashes.index(value)

    found: dict[str, list[Any]] = {"inclusion": [], "consistency": []}
    fields = {
        "inclusion": ("leafIdx", "treeSize", "leafHash", "root"),
        "consistency": ("size1", "size2", "root1", "root2"),
    }
    for kind, (first, second, *two) in fields.items():
        folder = checkout / "testdata" / kind
        for path in sorted(folder.rglob("*.json")):
            probe = json.loads(path.read_text())
            found[kind].append(
                [
                    str(path.relative_to(folder).with_suffix("")),
                    probe[first],
                    probe[second],
                    *(place(probe[name]) for name in two),
                    [place(item) for item in probe["proof"] or ()],
                    not probe["wantErr"],
                ]
            )
    return {
        "source": "github.com/transparency-dev/merkle testdata/, Apache-2.0",
        "columns": ["name", "index|first", "size|second", "leaf|root1", "root|root2", "path", "ok"],
        **found,
        "hashes": hashes,
    }


def sumdb() -> dict[str, Any]:
    """Go's verdicts on our cases."""
    cases = judged()
    answer = subprocess.run(
        ["go", "run", str(HERE / "sumdb.go")],
        input=json.dumps(cases),
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "GO111MODULE": "off", "GOPATH": "/usr/share/gocode"},
    )
    return {
        "source": "golang.org/x/mod v0.7.0 sumdb/tlog and sumdb/note, through sumdb.go",
        "cases": fingerprint(cases),
        **json.loads(answer.stdout),
    }


def write(path: Path, vectors: dict[str, Any]) -> None:
    """One line for each item of a list, so that a change can be read."""
    parts = []
    for name, value in vectors.items():
        if isinstance(value, list) and value and isinstance(value[0], dict | list):
            rows = ",\n  ".join(json.dumps(item, ensure_ascii=False) for item in value)
            parts.append(f" {json.dumps(name)}: [\n  {rows}\n ]")
        else:
            parts.append(f" {json.dumps(name)}: {json.dumps(value, ensure_ascii=False)}")
    path.write_text("{\n" + ",\n".join(parts) + "\n}\n", "utf-8")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["probes", checkout]:
            write(PROBES, merkle_probes(Path(checkout)))
        case ["sumdb"]:
            write(SUMDB, sumdb())
        case _:
            sys.exit(__doc__)
