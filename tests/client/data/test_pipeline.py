"""Records come out de-identified or quarantined, and a person's records know of each other."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from audit.errors import NotFound, VerificationFailed
from client.deidentification import language_model, pipeline
from client.deidentification.detection import Detector
from client.deidentification.findings import Finding
from client.deidentification.language_model import (
    MODEL_DIGEST,
    check_model,
    model_digest,
    model_folder,
)
from client.deidentification.pipeline import (
    MAX_TEXT_CHARACTERS,
    Deidentified,
    Deidentifier,
    Quarantined,
    Reason,
    SourceRecord,
    pipeline_digest,
)
from tests.client.data.held_out import labelled
from tests.client.data.records import KEY, OTHER_KEY


def texts(deidentifier: Deidentifier, *records: SourceRecord) -> list[str]:
    outcomes = deidentifier.deidentify(records)
    assert all(isinstance(outcome, Deidentified) for outcome in outcomes), outcomes
    return [outcome.text for outcome in outcomes if isinstance(outcome, Deidentified)]


class TestPersonLevel:
    def test_a_name_found_once_is_found_in_every_record(self, deidentifier: Deidentifier) -> None:
        first, second = texts(
            deidentifier,
            SourceRecord("P", "My name is Grace Hollander and I have a question."),
            SourceRecord("P", "hollander again, the grace period is over. Grace was upset."),
        )
        given, family = first.split("is ")[1].split(" and")[0].split()
        assert second == f"{family.lower()} again, the grace period is over. {given} was upset."

    def test_another_subjects_records_do_not_matter(self, deidentifier: Deidentifier) -> None:
        (text, _) = texts(
            deidentifier,
            SourceRecord("P", "The hollander is a kind of beater."),
            SourceRecord("Q", "My name is Grace Hollander."),
        )
        assert "hollander" in text

    def test_known_columns_are_searched_for(self, deidentifier: Deidentifier) -> None:
        known = ("May Field", "0770 0900 123", "field.may@x.example", "7 Rose Court, Harrowby")
        (text,) = texts(
            deidentifier,
            SourceRecord(
                "P",
                "may field, 07700900-123. The field is green, May came by rose court, HARROWBY.",
                known,
            ),
        )
        assert "The field is green" in text
        for gone in ("may field", "07700900", "May came", "HARROWBY"):
            assert gone not in text

    def test_the_subject_id_is_searched_for(self, deidentifier: Deidentifier) -> None:
        (text,) = texts(deidentifier, SourceRecord("zx9q", "the code ZX-9Q is mine"))
        assert "9Q" not in text

    def test_short_and_common_words_are_not_searched_for(self, deidentifier: Deidentifier) -> None:
        sentence = "I am in the queue, is it on me to pay the sum of 12 now?"
        assert texts(deidentifier, SourceRecord("P", sentence, ("Al", "12", "In The"))) == [
            sentence
        ]


class TestConsistency:
    def test_one_original_one_stand_in_across_calls(self, detector: Detector) -> None:
        record = SourceRecord("P", "Call Maria Lopez on 07700 900123.")
        assert texts(Deidentifier(KEY, detector), record) == texts(
            Deidentifier(KEY, detector), record
        )

    def test_two_sites_share_no_stand_in(self, detector: Detector) -> None:
        record = SourceRecord("P", "Call Maria Lopez on 07700 900123.")
        (ours,) = texts(Deidentifier(KEY, detector), record)
        (theirs,) = texts(Deidentifier(OTHER_KEY, detector), record)
        assert set(ours.split()) & set(theirs.split()) == {"Call", "on"}

    def test_text_without_identifiers_is_untouched(self, deidentifier: Deidentifier) -> None:
        sentence = "Why is my card payment still pending after two days?"
        assert texts(deidentifier, SourceRecord("P", sentence)) == [sentence]

    def test_held_out_texts_lose_nothing_else(self, deidentifier: Deidentifier) -> None:
        for number, document in enumerate(labelled()):
            (text,) = texts(deidentifier, SourceRecord(f"P-{number}", document.full_text))
            assert text.count("\n") == document.full_text.count("\n")


class TestQuarantine:
    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            ("", Reason.NOT_TEXT),
            (" \n", Reason.NOT_TEXT),
            ("null \x00 byte", Reason.NOT_TEXT),
            ("broken \ufffd decoding", Reason.NOT_TEXT),
            ("x" * (MAX_TEXT_CHARACTERS + 1), Reason.TOO_LONG),
        ],
    )
    def test_unfit_texts_are_kept_out(
        self, deidentifier: Deidentifier, text: str, reason: Reason
    ) -> None:
        fine = SourceRecord("Q", "a fine text")
        outcomes = deidentifier.deidentify([SourceRecord("P", text), fine])
        assert outcomes == [Quarantined(reason), Deidentified("a fine text", {})]

    def test_a_failing_recogniser_keeps_out_only_its_text(self, detector: Detector) -> None:
        class Failing:
            """A detector in which one text makes a recogniser fail, as a bad regex would."""

            lexicon, model_digest = detector.lexicon, detector.model_digest

            def detect(self, given: Sequence[str]) -> list[list[Finding]]:
                if any("poison" in text for text in given):
                    raise RuntimeError("catastrophic backtracking near 'Maria'")
                return detector.detect(given)

        broken = Deidentifier(KEY, Failing())  # type: ignore[arg-type]
        outcomes = broken.deidentify(
            [SourceRecord("P", "poison"), SourceRecord("P", "Call Maria Lopez")]
        )
        assert outcomes[0] == Quarantined(Reason.ANALYSIS_FAILED)
        assert isinstance(outcomes[1], Deidentified)
        assert "Maria" not in outcomes[1].text

    def test_what_is_left_after_replacement_is_noticed(
        self, deidentifier: Deidentifier, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(pipeline, "replace_findings", lambda *_: ("it was Maria Lopez", ()))
        (outcome,) = deidentifier.deidentify([SourceRecord("P", "My name is Maria Lopez.")])
        assert outcome == Quarantined(Reason.IDENTIFIER_LEFT)


class TestDigests:
    def test_the_model_is_the_reviewed_one(self, deidentifier: Deidentifier) -> None:
        assert deidentifier.model_digest == MODEL_DIGEST == model_digest(model_folder())

    def test_an_altered_model_is_refused(self, tmp_path: Path) -> None:
        copy = tmp_path / "model"
        shutil.copytree(model_folder(), copy)
        assert check_model(copy) == MODEL_DIGEST
        with (copy / "ner" / "model").open("r+b") as file:
            file.seek(1000)
            file.write(b"\x00\x01\x02")
        with pytest.raises(VerificationFailed, match="was altered"):
            check_model(copy)

    def test_a_missing_model_is_not_found(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(language_model, "PACKAGE", "no_such_model_package")
        with pytest.raises(NotFound, match="not installed"):
            model_folder()

    def test_the_pipeline_has_a_digest(self, deidentifier: Deidentifier) -> None:
        assert deidentifier.digest == pipeline_digest(MODEL_DIGEST)
        assert deidentifier.digest != pipeline_digest("sha256:" + "0" * 64)
        assert len(deidentifier.digest) == 71


def test_a_chance_likeness_of_a_stand_in_is_no_leak(detector: Detector) -> None:
    """The stand-in of one name may be another name of the same subject."""
    first = Deidentifier(KEY, detector)
    (made,) = texts(first, SourceRecord("P", "My name is Maria Lopez."))
    stand_in = made.removeprefix("My name is ").removesuffix(".")
    (text,) = texts(
        first, SourceRecord("P", f"My name is Maria Lopez, my doctor is Dr {stand_in}.")
    )
    assert "Maria" not in text
