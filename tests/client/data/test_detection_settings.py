"""What a site sets about detection, and how another language is added."""

from __future__ import annotations

from pathlib import Path

import pytest

from audit.errors import MalformedInput, NotFound, VerificationFailed
from client.deidentification.detection import Detector
from client.deidentification.findings import IDENTIFIER, PERSON
from client.deidentification.kinds import GDPR_SPECIAL_CATEGORIES, SAFE_HARBOR
from client.deidentification.language_model import MODEL_DIGEST, model_digest, model_folder
from client.deidentification.pipeline import Deidentifier
from client.deidentification.policy import ReplacementPolicy, read_replacement_policy
from client.deidentification.settings import Detection

HEAD = 'format = "fiduciary.deidentify/1"\n'

SPANISH = """
[detect]
language = "es"
model = "blank"

[[detect.pattern]]
kind = "PERSON"
regex = '(?i:paciente|señora|señor|sra?\\.|don|doña|dra?\\.)\\s*:?\\s+(?P<value>[A-ZÁÉÍÓÚÑ][\\wáéíóúñ]+(?:\\s+(?:de\\s+(?:la\\s+)?)?[A-ZÁÉÍÓÚÑ][\\wáéíóúñ]+){0,3})'

[[detect.pattern]]
kind = "ADDRESS"
regex = '(?i:calle|avenida|avda\\.|plaza|paseo)\\s+[\\w\\sáéíóúñ]{2,40}?,?\\s+\\d{1,4}'

[[detect.pattern]]
kind = "DATE_TIME"
regex = '\\b\\d{1,2} de (?:enero|febrero|marzo|abril|mayo|junio|julio|agosto|septiembre|octubre|noviembre|diciembre)(?: de \\d{4})?'
"""  # noqa: E501 - as a site writes it


def read(path: Path, content: str) -> Detection:
    path.write_text(HEAD + content, "utf-8")
    return read_replacement_policy(path).detect


def test_another_language_reads_with_rules_and_patterns(tmp_path: Path) -> None:
    spanish = Detector(read(tmp_path / "deidentify.toml", SPANISH))
    text = (
        "Paciente: Lucía de la Fuente Ibarra, nacida el 3 de marzo de 1951, NIF 12345678Z, vive en "
        "calle Mayor, 14. Tel. 612 345 678, lucia@correo.example. Dolor desde hace dos semanas."
    )
    found = {f.kind: text[f.start : f.end] for f in spanish.detect([text])[0]}
    assert found[PERSON] == "Lucía de la Fuente Ibarra"
    assert found["DATE_TIME"] == "3 de marzo de 1951"
    assert found["ADDRESS"] == "calle Mayor, 14"
    assert found["EMAIL_ADDRESS"] == "lucia@correo.example"
    left = text
    for value in found.values():
        left = left.replace(value, "")
    assert "Dolor desde hace dos semanas" in left
    assert not any(char.isdigit() for char in left)


def test_patterns_kept_kinds_and_recognizers_off(tmp_path: Path) -> None:
    written = """
    [detect]
    keep = ["AGE"]
    recognizers_off = ["UsItinRecognizer"]
    [[detect.pattern]]
    kind = "IDENTIFIER"
    regex = 'colour is (?P<value>[a-z]+)'
    """
    text = "a 42 year old whose colour is green"
    (plain,) = Detector().detect([text])
    (set_up,) = Detector(read(tmp_path / "d.toml", written)).detect([text])
    assert [text[f.start : f.end] for f in plain] == ["42"]
    assert [(f.kind, text[f.start : f.end]) for f in set_up] == [(IDENTIFIER, "green")]


def test_another_model_is_loaded_by_folder_and_digest(tmp_path: Path) -> None:
    folder = model_folder()
    same = Detector(Detection(model=str(folder), model_digest=MODEL_DIGEST))
    text = "Yesterday Ann Lee saw Dr. Brookfield."
    assert same.detect([text]) == Detector().detect([text])
    assert same.model_digest == model_digest(folder)
    with pytest.raises(VerificationFailed, match=MODEL_DIGEST):
        Detector(Detection(model=str(folder), model_digest="sha256:" + "0" * 64))
    with pytest.raises(NotFound, match="no_such_model is neither a folder nor"):
        Detector(Detection(model="no_such_model", model_digest=MODEL_DIGEST))


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        ('[detect]\nlanguage = "es"', "the packaged one reads English"),
        ('[detect]\nmodel = "/somewhere"', "model_digest: missing"),
        ('[[detect.pattern]]\nkind = "X"\nregex = "("', "regex"),
        ('[[detect.pattern]]\nkind = "X"\nregex = "a*"', "where there is nothing"),
        ('[[detect.pattern]]\nkind = "small"\nregex = "a"', "kind"),
        ("[detect]\nminimum_score = 2", "minimum_score"),
        ("[detect]\nthreshold = 0.5", "threshold"),
    ],
)
def test_a_wrong_setting_is_named(tmp_path: Path, written: str, reason: str) -> None:
    with pytest.raises(MalformedInput, match=reason):
        read(tmp_path / "deidentify.toml", written)


def test_an_unknown_recognizer_is_named_with_those_there_are() -> None:
    with pytest.raises(NotFound, match="no recogniser Nope") as raised:
        Detector(Detection(recognizers_off=("Nope",)))
    assert "UsSsnRecognizer" in str(raised.value.fix)


def test_settings_are_part_of_the_pipelines_digest(detector: Detector) -> None:
    kept = ReplacementPolicy(detect=Detection(keep=("AGE",)))
    assert (
        Deidentifier(bytes(32), detector).digest != Deidentifier(bytes(32), detector, kept).digest
    )


def test_every_listed_kind_is_one_that_is_found(detector: Detector) -> None:
    """The table of HIPAA's and the GDPR's kinds promises nothing that nobody looks for."""
    assert [entry.number for entry in SAFE_HARBOR] == list("ABCDEFGHIJKLMNOPQR")
    for entry in (*SAFE_HARBOR, *GDPR_SPECIAL_CATEGORIES):
        for kind, example in entry.examples.items():
            (findings,) = detector.detect([example.replace("[", "").replace("]", "")])
            sought = example[example.index("[") + 1 : example.index("]")]
            plain = example.replace("[", "").replace("]", "")
            assert any(f.kind == kind and sought in plain[f.start : f.end] for f in findings), (
                entry.number,
                kind,
                [(f.kind, plain[f.start : f.end]) for f in findings],
            )
