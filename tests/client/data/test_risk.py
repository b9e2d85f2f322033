"""k-anonymity over quasi-identifiers, and cells that few people share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from audit.errors import ExitCode, MalformedInput
from client.deidentification.pipeline import Deidentified, SourceRecord
from client.risk import measure_risk
from client.site import Site
from client.table_rows import TableDeidentifier, stored_row
from client.vault import Record, Vault
from tests.client.data.records import WordForWord


def row(subject: str, label: str = "l", **cells: str) -> Record:
    return Record(subject, json.dumps(cells), label)


def test_people_are_counted_and_not_rows() -> None:
    records = [
        *(row(f"p{n}", "ill", age="60", sex="f") for n in range(5)),
        *(row(f"q{n}", "ab"[n % 2], age="60", sex="m") for n in range(6)),
        row("alone", age="91", sex="f"),
        row("alone", age="91", sex="f"),
        row("p0", age="40", sex="f"),
        row("two", age="40", sex="f"),
    ]
    found = measure_risk(records, ["age", "sex"])
    assert (found.subjects, found.combinations, found.k) == (13, 4, 1)
    assert (found.rare_combinations, found.subjects_at_risk, found.unique_subjects) == (2, 3, 1)
    assert found.one_class_combinations == 1, "everybody of 60 and f is ill"
    assert found.rare_values == {"age": 2, "sex": 0}
    assert measure_risk(records, ["sex"]).k == 6
    assert measure_risk([], ["sex"]).k == 0


def test_unknown_columns_are_refused() -> None:
    with pytest.raises(MalformedInput, match="no column 'zip'"):
        measure_risk([row("p", age="1")], ["age", "zip"])
    with pytest.raises(MalformedInput, match="no column given"):
        measure_risk([row("p", age="1")], [])


def test_rare_cells_are_emptied_and_counted() -> None:
    records = [
        SourceRecord(f"p{n}", stored_row({"town": "Harrowby", "age": "6"})) for n in range(5)
    ]
    rare = SourceRecord("q", stored_row({"town": "Smallville", "age": "7"}))
    table = TableDeidentifier(WordForWord(), ["town"], [*records, rare], suppress_rare=True)
    shared, emptied = table.deidentify([records[0], rare])
    assert shared == Deidentified(records[0].text)
    assert emptied == Deidentified(stored_row({"town": "", "age": "7"}), {"RARE_VALUE": 1})
    plain = TableDeidentifier(WordForWord(), ["town"], [*records, rare])
    assert table.digest != plain.digest


def test_the_command_tells_counts_and_no_values(typed: Any, tmp_path: Path, site: Site) -> None:
    path = tmp_path / "t.csv"
    rows = "".join(f"P-{n},{60 + n % 2},f,x\n" for n in range(12))
    path.write_text(f"who,age,sex,class\n{rows}P-90,61,intersex,x\n")
    code, _, err = typed(
        "add", str(path), "--kind", "table", "--subject", "who", "--features", "age",
        "--categories", "sex", "--suppress-rare", "--label", "class",
    )  # fmt: skip
    assert code == ExitCode.OK, err
    with Vault.open(site.paths, site.keyring) as vault:
        assert vault.dataset("default").datasheet.replacements == {"RARE_VALUE": 1}
        assert not any("intersex" in record.text for record in vault.examples("default"))
    code, out, err = typed("risk", "default", "--columns", "age,sex", "--json")
    assert code == ExitCode.OK, err
    assert (json.loads(out)["subjects"], json.loads(out)["k"]) == (13, 1)
    code, out, _ = typed("risk", "default", "--columns", "age", "--k", "7")
    assert "61" not in out
    assert typed("risk", "default", "--columns", "zip")[0] == ExitCode.MALFORMED_INPUT
