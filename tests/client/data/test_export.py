"""Exports: the journal first, a whole file or none, and nobody who is restricted."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest

from audit.errors import Conflict, ExitCode, MalformedInput, NotFound, VerificationFailed
from client.export import export
from client.site import Site
from client.vault import Provenance, Record, Staging, Terms, Vault
from client.vault.excluding import exclude
from tests.client.data.records import PIPELINE, ROWS, journalled, stage


def test_an_export_says_what_each_record_may_be_used_for(
    typed: Any, site: Site, vault: Vault, tmp_path: Path
) -> None:
    who = [vault.pseudonym(f"P-{n}") for n in range(3)]
    with Staging(vault, "notes") as staging:
        staging.add(
            [
                Record(who[0], "one", "l"),
                Record(who[1], "zwölf", "l", "ward", Terms(("triage",), "public-task")),
                Record(who[2], "three", "l"),
            ]
        )
        provenance = Provenance(PIPELINE, purposes=("triage", "research"), legal_basis="consent")
        staging.publish(provenance, lambda _dataset: None)
    with vault.transaction() as connection:
        exclude(connection, who[2], "R-1", "2026-01-01T00:00:00.000Z")
    file = tmp_path / "out.jsonl"
    code, out, err = typed("export", "notes", str(file), "--reason", "review", "--json")
    assert code == ExitCode.OK, err
    assert json.loads(out)["records"] == 2
    first, second = map(json.loads, file.read_text(encoding="utf-8").splitlines())
    assert (first["subject"], first["purposes"], first["legal_basis"]) == (
        who[0], ["triage", "research"], "consent",
    )  # fmt: skip
    assert (second["content"], second["group"]) == ("zwölf", "ward")
    assert (second["purposes"], second["legal_basis"]) == (["triage"], "public-task")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    leaf, payload = site.journal.read(site.journal.size() - 1)
    assert (leaf.action, leaf.object) == ("dataset-exported", "dataset:notes")
    assert payload["reason"] == "review"


def test_what_cannot_be_exported_leaves_no_file(site: Site, vault: Vault, tmp_path: Path) -> None:
    stage(vault, *ROWS)
    file = tmp_path / "out.jsonl"

    def write(name: str = "notes", path: Path = file, reason: str = "review") -> int:
        return export(vault, name, path, site.journal, site.principal, reason)

    before = journalled(site)
    for wrong, error in (
        ({"name": "else"}, NotFound),
        ({"path": tmp_path / "gone" / "out"}, NotFound),
        ({"reason": " "}, MalformedInput),
    ):
        with pytest.raises(error):
            write(**wrong)
    assert journalled(site) == before
    with vault.transaction() as connection:
        connection.execute("UPDATE records SET sealed = zeroblob(40) WHERE position = 5")
    with pytest.raises(VerificationFailed):
        write()
    assert not list(tmp_path.glob("*out.jsonl*"))
    file.write_text("mine")
    with pytest.raises(Conflict):
        write()
    assert file.read_text() == "mine"
