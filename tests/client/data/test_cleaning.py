"""Steps of cleaning: what each does, that it is counted, and that nobody depends on others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit.errors import ExitCode, MalformedInput
from client.cleaning.coarser import Coarser, coarser
from client.cleaning.encoding import repaired
from client.cleaning.near_duplicates import near_duplicates
from client.cleaning.settings import NO_CLEANING, Cleaning, read_cleaning
from client.cleaning.steps import Step, clean_record, clean_subject
from client.deidentification.pipeline import SourceRecord
from client.intake import LabelledRecord
from client.labelled_spans import LabelledSpan
from client.site import Site
from client.table_rows import stored_row
from client.vault import Vault
from tests.client.data.records import source_file


def record(text: str, label: str = "l", **more: Any) -> LabelledRecord:
    return LabelledRecord(SourceRecord("P", text), label, **more)


def cleaned(text: str, label: str = "l", **settings: Any) -> tuple[str, str, list[Step]] | Step:
    fit, steps = clean_record(Cleaning(**settings), record(text, label))
    return steps[-1] if fit is None else (fit.source.text, fit.label, steps)


class TestEncoding:
    @pytest.mark.parametrize(
        "meant",
        ["naïve café", "\u201cquoted\u201d \u2013 don\u2019t", "30 °C, ½ dose", "😀 ok", "ÀÉÎ"],
    )
    def test_what_was_read_wrongly_once_or_twice_is_mended(self, meant: str) -> None:
        def read_wrongly(text: str) -> str:
            return "".join(
                bytes([byte]).decode("cp1252", "ignore") or bytes([byte]).decode("latin-1")
                for byte in text.encode()
            )

        once = read_wrongly(meant)
        assert once != meant
        assert repaired(once) == repaired(read_wrongly(once)) == meant

    @pytest.mark.parametrize(
        "text", ["", "plain", "Ã la carte", "â", "São Tomé", "Îles", "x\u20ac"]
    )
    def test_other_text_stays(self, text: str) -> None:
        assert repaired(text) == text

    @given(st.text())
    def test_any_text_comes_to_rest(self, text: str) -> None:
        assert repaired(repaired(text)) == repaired(text) or "Ã" in text or "Â" in text

    def test_a_byte_order_mark_goes(self) -> None:
        assert repaired("\ufeffdear") == repaired("ï»¿dear") == "dear"


NOTE = " ".join(f"word{n}" for n in range(60))


class TestNearDuplicates:
    def test_copied_forward_notes_are_near_and_the_first_stays(self) -> None:
        texts = [NOTE, "something else entirely was written here", NOTE + " again", NOTE.upper()]
        assert near_duplicates(texts, 0.9) == [2, 3]

    def test_what_shares_less_stays(self) -> None:
        half = " ".join(NOTE.split()[:40]) + " " + " ".join(f"new{n}" for n in range(20))
        assert near_duplicates([NOTE, half], 0.7) == []

    def test_short_and_empty_texts(self) -> None:
        assert near_duplicates(["ok", "OK!", "no", ""], 1.0) == [1]

    @given(st.lists(st.sampled_from("abcd"), max_size=12), st.integers(0, 11))
    def test_equal_texts_are_always_near(self, words: list[str], at: int) -> None:
        texts = [" ".join(words[:at]), " ".join(words[:at])]
        assert near_duplicates(texts, 0.8) == [1]


class TestSteps:
    def test_nothing_declared_changes_nothing(self) -> None:
        one = record("schÃ¶n")
        assert clean_record(NO_CLEANING, one) == (one, [])
        assert clean_subject(NO_CLEANING, [one, one]) == ([one, one], {})

    def test_each_step_of_one_record(self) -> None:
        mended = cleaned("schÃ¶n", repair_encoding=True)
        assert mended == ("schön", "l", [Step.ENCODING_REPAIRED])
        assert cleaned("ab", min_characters=3) == Step.TOO_SHORT
        assert cleaned("abcd", max_characters=3) == Step.TOO_LONG
        assert cleaned("abc", min_characters=3, max_characters=3) == ("abc", "l", [])
        assert cleaned("x", "Cardio", labels={"Cardio": "c"}) == ("x", "c", [Step.LABEL_MAPPED])
        assert cleaned("x", "n/a", labels={"n/a": ""}) == Step.LABEL_LEFT_OUT

    @pytest.mark.parametrize(
        ("age", "stays"), [("0", 1), ("120", 1), ("121", 0), ("-1", 0), ("?", 1)]
    )
    def test_numbers_out_of_range(self, age: str, stays: bool) -> None:
        settings = Cleaning(ranges={"age": (0, 120)})
        fit, steps = clean_record(settings, record(json.dumps({"age": age})))
        assert (fit is not None, steps) == (stays, [] if stays else [Step.OUT_OF_RANGE])

    def test_columns_made_coarser(self) -> None:
        settings = Cleaning.model_validate(
            {"coarser": {"zip": "zip", "age": "age", "seen": "year"}}
        )
        row = {"zip": "03601", "age": "97", "seen": "3 May 2024", "sex": "f"}
        fit, steps = clean_record(settings, record(json.dumps(row)))
        assert fit is not None
        less = {"zip": "000", "age": "90", "seen": "2024", "sex": "f"}
        assert (json.loads(fit.source.text), steps) == (less, [Step.MADE_COARSER])
        kept = record(stored_row({"age": "60"}))
        assert clean_record(settings, kept) == (kept, [])

    @pytest.mark.parametrize(
        ("how", "cell", "less"),
        [
            ("zip", "94110", "941"), ("zip", "941101234", "941"), ("zip", "94110-1234", "941"),
            ("zip", "20301", "000"), ("zip", "9411", ""), ("zip", "SW1A", ""),
            ("age", "0.5", "0.5"), ("age", "89.9", "89.9"), ("age", "90", "90"),
            ("age", "101", "90"), ("age", "-1", ""),
            ("year", "1999/12/31", "1999"), ("year", "31.12.99", ""), ("year", "", ""),
        ],
    )  # fmt: skip
    def test_what_cannot_be_read_is_emptied(self, how: Coarser, cell: str, less: str) -> None:
        assert coarser(how, cell) == less

    def test_labels_of_spans_are_mapped_or_dropped_alone(self) -> None:
        spans = (LabelledSpan(0, 1, "A"), LabelledSpan(2, 3, "B"))
        fit, steps = clean_record(
            Cleaning(labels={"A": "C", "B": ""}), record("x y", "", spans=spans)
        )
        assert fit is not None
        assert (fit.spans, steps) == ((LabelledSpan(0, 1, "C"),), [Step.LABEL_MAPPED])

    def test_steps_that_compare_a_subjects_records(self) -> None:
        records = [record(f"number {n} of five", "ab"[n % 2]) for n in range(5)]
        kept, counts = clean_subject(Cleaning(max_records_per_class=2), records)
        assert kept == records[:4]
        assert counts == {"too-many-of-class": 1}
        kept, counts = clean_subject(
            Cleaning(near_duplicates=0.9), [record(NOTE), record(NOTE + "!")]
        )
        assert (len(kept), counts) == (1, {"near-duplicate": 1})


class TestSettings:
    def written(self, tmp_path: Path, content: str) -> Path:
        path = tmp_path / "clean.toml"
        path.write_text(content)
        return path

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("", "format: missing"),
            ('format = "fiduciary.cleaning/1"\nsurprise = 1', "surprise"),
            ('format = "fiduciary.cleaning/1"\nnear_duplicates = 0.5', "near_duplicates"),
            (
                'format = "fiduciary.cleaning/1"\nmin_characters = 9\nmax_characters = 3',
                "less than",
            ),
            ('format = "fiduciary.cleaning/1"\n[ranges]\nage = [9, 1]', "second number"),
            ("[", "malformed clean.toml"),
        ],
    )
    def test_what_is_wrong_is_named(self, tmp_path: Path, content: str, message: str) -> None:
        with pytest.raises(MalformedInput, match=message):
            read_cleaning(self.written(tmp_path, content))

    def test_steps_that_do_not_fit_the_content_are_refused(self) -> None:
        with pytest.raises(MalformedInput, match="move the spans"):
            Cleaning(repair_encoding=True).check("spans")
        with pytest.raises(MalformedInput, match="no table"):
            Cleaning(ranges={"age": (0, 1)}).check("text")
        with pytest.raises(MalformedInput, match="no text"):
            Cleaning(near_duplicates=0.9).check("image")
        with pytest.raises(MalformedInput, match="column 'zpi'"):
            Cleaning.model_validate({"coarser": {"zpi": "zip"}}).check("table", ("zip",))
        for content in ("text", "spans", "language", "table", "image"):
            NO_CLEANING.check(content)

    def test_the_datasheet_says_what_was_declared_and_done(
        self, typed: Any, tmp_path: Path, site: Site
    ) -> None:
        settings = self.written(
            tmp_path,
            'format = "fiduciary.cleaning/1"\nmin_characters = 4\nnear_duplicates = 0.9\n'
            '[labels]\nold = "new"\n',
        )
        path = tmp_path / "n.csv"
        path.write_text(
            "who,what,kind\nP,the bill is wrong,old\nP,The bill is wrong!,new\nP,ok,new\n"
        )
        code, out, err = typed(
            "add", str(path), "--subject", "who", "--text", "what", "--label", "kind",
            "--clean", str(settings),
        )  # fmt: skip
        assert code == ExitCode.OK, err
        assert "1 row cleaned: near-duplicate" in out
        with Vault.open(site.paths, site.keyring) as vault:
            sheet = vault.dataset("default").datasheet
        assert sheet.cleaned == {"label-mapped": 1, "near-duplicate": 1, "too-short": 1}
        assert json.loads(sheet.cleaning)["labels"] == {"old": "new"}
        assert (sheet.records, sheet.label_counts) == (1, {"new": 1})


@given(
    st.lists(
        st.tuples(st.sampled_from("pqr"), st.sampled_from([NOTE, NOTE + " x", "y z"])), min_size=1
    )
)
@settings(deadline=None)
def test_what_is_kept_of_one_person_does_not_depend_on_others(rows: list[tuple[str, str]]) -> None:
    """The promise is about adding or removing one person (docs/privacy.md)."""
    cleaning = Cleaning(near_duplicates=0.8, max_records_per_class=1)

    def kept(of: list[tuple[str, str]]) -> list[str]:
        mine = [r for r, _ in source_file(*((*row, "l") for row in of)).read()]
        records = [one for one in mine if one.source.subject == "p"]
        return [one.source.text for one in clean_subject(cleaning, records)[0]]

    assert kept(rows) == kept([row for row in rows if row[0] == "p"])
