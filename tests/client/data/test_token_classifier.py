"""A transformer as a site's own recogniser, on a small model with the classes of a real one."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch

from audit.errors import ExitCode, MalformedInput, VerificationFailed
from client.deidentification import pipeline
from client.deidentification.detection import Detector
from client.deidentification.findings import Finding
from client.deidentification.language_model import model_digest
from client.deidentification.pipeline import Deidentifier, Quarantined, Reason, SourceRecord
from client.deidentification.policy import ReplacementPolicy
from client.deidentification.recognizers import load_model_rule
from client.deidentification.settings import BLANK, Detection, ModelRecognizer
from client.deidentification.token_classifier import TokenClassifier, whole_word
from client.vault import Vault
from tests.client.data.tiny_models import TOGETHER, rewrite, save_token_classifier

LABELS = {"NAME": "PERSON", "HOSP": "ORGANIZATION"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_token_classifier(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="module")
def rule(model: Path) -> TokenClassifier:
    return TokenClassifier(model, LABELS, 0.5)


def settings(folder: Path, digest: str = "", labels: dict[str, str] = LABELS) -> ModelRecognizer:
    digest = digest or model_digest(folder)
    return ModelRecognizer(
        engine="transformer", model=str(folder), model_digest=digest, labels=labels
    )


def read(rule: Callable[[str], Any], text: str) -> set[tuple[str, str]]:
    return {(text[f.start : f.end], f.kind) for f in rule(text)}


def test_an_operator_adds_data_with_it(
    model: Path, typed: Any, vault: Vault, site: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    """The whole way: deidentify.toml, a wrong digest, a wrong label, and the stored texts."""
    monkeypatch.setattr(pipeline, "Detector", Detector)  # that of this deidentify.toml
    notes = tmp_path / "notes.csv"
    sentence = "the vial went to zorblin at noon"
    notes.write_text(f"who,note,topic\nP-1,{sentence},a\nP-2,nothing else went wrong,b\n")
    written = f"""
    format = "fiduciary.deidentify/1"
    [detect]
    language = "es"
    model = "{BLANK}"
    [[detect.model_recognizer]]
    engine = "transformer"
    model = "{model}"
    model_digest = "DIGEST"
    labels = {{ LABEL = "PERSON" }}
    """
    words = ["add", str(notes), "--subject", "who", "--text", "note", "--label", "topic"]
    words += ["--dataset", "notes", "--purpose", "triage", "--legal-basis", "consent"]

    def adds(digest: str, label: str) -> tuple[int, str, str]:
        site.paths.deidentify.write_text(
            written.replace("DIGEST", digest).replace("LABEL", label), "utf-8"
        )
        told: tuple[int, str, str] = typed(*words)
        return told

    digest = model_digest(model)
    code, _, told = adds("sha256:" + "0" * 64, "NAME")
    assert (code, digest in told) == (ExitCode.VERIFICATION_FAILED, True)
    code, _, told = adds(digest, "PATIENT")
    assert (code, "has no label PATIENT" in told) == (ExitCode.MALFORMED_INPUT, True)
    assert "HOSP, NAME" in told
    code, out, told = adds(digest, "NAME")
    assert code == ExitCode.OK, told
    assert "Loading weights" not in told + out
    stored = {record.text for record in vault.examples("notes")}
    (changed,) = stored - {"nothing else went wrong"}
    assert changed.startswith("the vial went to ")
    assert changed.endswith(" at noon")
    assert "zor" not in changed.lower()
    (plain,) = Detector(Detection(language="es", model=BLANK)).detect([sentence])
    assert plain == [], "nothing else finds it"


def test_labels_map_and_words_are_whole(rule: TokenClassifier) -> None:
    text = "Zorblin-Vane, of Quexford's, saw zorba."
    assert read(rule, text) == {
        ("Zorblin", "PERSON"),
        ("Quexford", "ORGANIZATION"),
        ("zorba", "PERSON"),
    }


def test_offsets_count_characters_of_the_text_as_it_is(rule: TokenClassifier) -> None:
    for text in (
        "👩🏽‍⚕️ näh\u0308er \U0001d4b3 Zörblin 🏥 Quéxham é",
        "  \n\tzo\u0308rblin\u00a0\u200b,quex",
    ):
        found = [text[f.start : f.end] for f in rule(text)]
        assert [word[:1].lower() for word in found] == ["z", "q"]
        assert [len(word) > 3 and not word[-1:].isspace() for word in found] == [True, True]
        assert found[0].lower().endswith("rblin")
    assert list(rule(" \n\u00a0")) == []


def test_the_threshold_counts_even_where_nothing_is_likelier(model: Path) -> None:
    text = "call maybelline or zorblin"
    both = {("maybelline", "PERSON"), ("zorblin", "PERSON")}
    assert read(TokenClassifier(model, LABELS, 0.39), text) == both
    assert read(TokenClassifier(model, LABELS, 0.41), text) == {("zorblin", "PERSON")}


def test_labels_that_are_not_named_are_left_alone(model: Path) -> None:
    only = TokenClassifier(model, {"HOSP": "ORGANIZATION"}, 0.5)
    assert read(only, "zorblin at quexford") == {("quexford", "ORGANIZATION")}


@pytest.mark.parametrize("filler", ["on we go. ", "x,", "ab"])
def test_a_text_longer_than_the_model_reads_is_read_to_its_end(
    rule: TokenClassifier, filler: str
) -> None:
    for before in range(0, TOGETHER, 3):
        start = before * len(filler) + 1
        text = filler * before + " Zorblin " + filler * 12
        assert Finding(start, start + 7, "PERSON") in list(rule(text)), before


def test_a_model_that_answers_with_no_number_keeps_the_text_out(model: Path) -> None:
    detect = Detection(model=BLANK, model_recognizer=(settings(model),))
    detector = Detector(detect)
    broken = next(rule for rule in detector._rules if isinstance(rule, TokenClassifier))
    record = SourceRecord("P", "went to zorblin")
    deidentifier = Deidentifier(bytes(32), detector, ReplacementPolicy(detect=detect))
    with torch.no_grad():
        broken._model.classifier.bias.fill_(float("nan"))
    assert deidentifier.deidentify([record]) == [Quarantined(Reason.ANALYSIS_FAILED)]


def test_what_reads_a_model_is_in_the_pipelines_digest(
    model: Path, detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    detect = Detection(model_recognizer=(settings(model),))
    mine = Deidentifier(bytes(32), detector, ReplacementPolicy(detect=detect))
    plain = Deidentifier(bytes(32), detector)
    before, plain_before = mine.digest, plain.digest
    real = metadata.version
    monkeypatch.setattr(
        metadata, "version", lambda name: "0" if name == "transformers" else real(name)
    )
    assert mine.digest != before
    assert plain.digest == plain_before


def test_what_is_no_such_model_is_refused(tmp_path: Path) -> None:
    folder = save_token_classifier(tmp_path / "model")
    with pytest.raises(VerificationFailed, match="was altered"):
        load_model_rule(settings(folder, "sha256:" + "0" * 64))
    with pytest.raises(MalformedInput, match="no label WARD") as raised:
        load_model_rule(settings(folder, labels={"WARD": "ORGANIZATION"}))
    assert "HOSP, NAME" in raised.value.fix
    configuration = (folder / "config.json").read_text("utf-8")
    rewrite(folder / "config.json", max_position_embeddings=10)
    with pytest.raises(MalformedInput, match=r"reads 8 tokens|cannot be read"):
        load_model_rule(settings(folder))
    (folder / "config.json").write_text(configuration, "utf-8")
    rewrite(folder / "tokenizer_config.json", model_max_length=8)
    with pytest.raises(MalformedInput, match="reads 8 tokens"):
        load_model_rule(settings(folder))
    rewrite(folder / "tokenizer_config.json", model_max_length=512)
    weights = torch.nn.Linear(2, 2).state_dict()
    torch.save(weights, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(MalformedInput, match="cannot be read as a model that labels tokens"):
        load_model_rule(settings(folder))


def test_a_model_without_a_head_for_labels_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = save_token_classifier(tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    kept = {name: weight for name, weight in weights.items() if "classifier" not in name}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(MalformedInput, match=r"lacks weights: classifier\.bias"):
        load_model_rule(settings(folder))
    assert json.loads((folder / "config.json").read_text("utf-8"))["model_type"] == "bert"


@pytest.mark.parametrize(
    ("text", "at", "word"),
    [("a Zörblin's b", 3, "Zörblin"), ("患者zorblin去", 3, "zorblin"), ("患者张三", 2, "张")],
)
def test_words_are_whole_where_spaces_part_them(text: str, at: int, word: str) -> None:
    start, end = whole_word(text, at, at + 1)
    assert text[start:end] == word
