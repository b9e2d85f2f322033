"""What single rows say of their own use: kept out of the vault, or out of a plan."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path

import pytest

from client.example_split import read_split
from client.ingest import Recorder, ingest
from client.intake import Columns, Intake
from client.review import eligible_subjects
from client.row_terms import LeftOut, MalformedTerms, terms_of
from client.site import Site
from client.source_file import UnfitRows, read_source
from client.vault import ANY_USE, Record, Terms, Vault, sealing
from tests.client.data.records import KEY, WordForWord
from tests.client.site.documents import make_plan

COLUMNS = Columns("who", "what", "kind", consent="ok", purposes="for", legal_basis="basis")
INTAKE = Intake(dataset="notes", purposes=("triage", "research"), legal_basis="consent")


def said(**cells: str) -> Mapping[str, str]:
    return {"ok": "yes", "for": "triage", "basis": "", **cells}


class TestTerms:
    def test_columns_that_are_not_named_narrow_nothing(self) -> None:
        assert terms_of(Columns("who", "what", "kind"), INTAKE, {}, "line 2") is ANY_USE

    @pytest.mark.parametrize(
        ("cells", "terms"),
        [
            ({}, Terms(("triage",))),
            ({"for": "research, triage"}, ANY_USE),
            ({"for": "research;marketing"}, Terms(("research",))),
            ({"for": "marketing"}, LeftOut.NO_PURPOSE),
            ({"for": ""}, LeftOut.NO_PURPOSE),
            ({"ok": "No"}, LeftOut.NO_CONSENT),
            ({"ok": ""}, LeftOut.NO_CONSENT),
            ({"for": "triage research", "basis": "public-task"}, Terms(None, "public-task")),
            ({"for": "triage research", "basis": "consent"}, ANY_USE),
        ],
    )
    def test_a_row_narrows_and_never_widens(
        self, cells: dict[str, str], terms: Terms | LeftOut
    ) -> None:
        assert terms_of(COLUMNS, INTAKE, said(**cells), "line 2") == terms

    @pytest.mark.parametrize("cells", [{"ok": "perhaps"}, {"for": "Triage!"}, {"basis": "because"}])
    def test_what_cannot_be_read_refuses_and_is_not_repeated(self, cells: dict[str, str]) -> None:
        with pytest.raises(MalformedTerms, match="line 2") as caught:
            terms_of(COLUMNS, INTAKE, said(**cells), "line 2")
        assert not any(value in str(caught.value) for value in cells.values())

    def test_terms_are_sealed_with_the_record(self) -> None:
        for terms in (ANY_USE, Terms(()), Terms(("a", "b"), "consent")):
            record = Record("5" * 64, "text", "l", "", terms)
            sealed = sealing.seal_record(KEY, "d", 0, record)
            assert sealing.open_record(KEY, "d", 0, record.subject, sealed) == record


ROWS = (
    "who,what,kind,ok,for,basis\n"
    "P-1,one,x,yes,triage,\n"
    "P-2,two,x,yes,triage research,\n"
    "P-3,three,x,no,triage,\n"
    "P-4,four,x,yes,research,\n"
    "P-5,five,x,yes,triage,public-task\n"
)


class TestUse:
    def add(self, tmp_path: Path, site: Site, vault: Vault) -> None:
        path = tmp_path / "notes.csv"
        path.write_text(ROWS)
        source = read_source(path, COLUMNS, INTAKE)
        ingest(source, INTAKE, vault, WordForWord(), Recorder(site.journal, site.principal))

    def test_a_plan_reads_the_rows_that_are_for_it(
        self, tmp_path: Path, site: Site, vault: Vault
    ) -> None:
        self.add(tmp_path, site, vault)
        sheet = vault.dataset("notes").datasheet
        assert (sheet.records, sheet.quarantined) == (4, {"no-consent": 1})
        assert sheet.columns == {
            "who": "subject", "what": "text", "kind": "label", "ok": "consent", "for": "purposes",
            "basis": "legal_basis",
        }  # fmt: skip
        assert (sheet.row_terms, sheet.legal_bases) == (True, ("public-task",))
        for purpose, basis, texts in (
            ("triage", "consent", {"one", "two"}),
            ("research", "consent", {"two", "four"}),
            ("triage", "public-task", {"five"}),
            ("research", "public-task", set()),
        ):
            plan = make_plan(
                purpose=purpose, legal_basis=basis, labels=("x", "y"), held_out_share=Decimal("0.5")
            )
            split = read_split(vault, plan, ("notes",))
            assert {e.text for e in (*split.training, *split.held_out)} == texts
            counted = eligible_subjects(vault, plan, vault.dataset("notes"))
            assert counted == {e.subject for e in (*split.training, *split.held_out)}

    def test_a_source_of_which_nothing_may_be_used_says_why(self, tmp_path: Path) -> None:
        path = tmp_path / "notes.csv"
        path.write_text("who,what,kind,ok,for,basis\nP-1,one,x,no,triage,\n")
        with pytest.raises(UnfitRows, match="no record that may be used: 1 no-consent"):
            read_source(path, COLUMNS, INTAKE)
