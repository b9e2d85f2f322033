"""The learned recogniser for text without capitals: what it computes, reads, and is named by."""

from __future__ import annotations

import numpy as np
import pytest

from audit.errors import VerificationFailed
from client.deidentification import detection, pipeline, small_letters
from client.deidentification.casing import read_casing
from client.deidentification.detection import Detector
from client.deidentification.encoder import Encoder, Window
from client.deidentification.findings import covered
from client.deidentification.language_model import MODEL_DIGEST
from client.deidentification.settings import Detection
from client.deidentification.small_letters import (
    LAYERS,
    Asked,
    Reading,
    SmallLetters,
    encoder_folder,
)

SMALL = (
    "we switched to golden helix last spring and never looked back",
    "my parcel for amber went to the wrong house",
    "the statement shows a transfer from weather decision technologies",
)


def read(reader: SmallLetters, text: str, *parts: tuple[int, int]) -> Reading:
    (reading,) = reader.read([Asked(text, parts or [(0, len(text))])])
    return reading


@pytest.fixture(scope="module")
def reader(detector: Detector) -> SmallLetters:
    return SmallLetters(detector.lexicon)


def test_the_encoder_computes_what_transformers_does() -> None:
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    pieces = [101, 2026, 2171, 2003, 14085, 1012, 102]
    model = transformers.AutoModel.from_pretrained(encoder_folder())
    with torch.no_grad():
        whole = model(input_ids=torch.tensor([pieces]), output_hidden_states=True)
    encoder = Encoder(encoder_folder(), LAYERS, {})
    (read,) = encoder([Window(pieces, np.arange(len(pieces)))])
    assert np.abs(read - whole.hidden_states[LAYERS][0].numpy()).max() < 1e-4
    adapters = {
        "1.output.dense.down": np.ones((2, 1536), dtype=np.float32),
        "1.output.dense.up": np.full((384, 2), 0.5, dtype=np.float32),
    }
    with torch.no_grad():
        model.encoder.layer[1].output.dense.weight += 1  # two ranks of one half
        adapted = model(input_ids=torch.tensor([pieces]), output_hidden_states=True)
    last = np.array([4, 6])
    (own,) = Encoder(encoder_folder(), LAYERS, adapters)([Window(pieces, last)])
    assert np.abs(own - adapted.hidden_states[LAYERS][0, last].numpy()).max() < 1e-4


def test_a_window_is_read_alike_whatever_is_read_beside_it() -> None:
    encoder = Encoder(encoder_folder(), LAYERS, {})
    assert list(encoder([])) == []
    lengths = (3, 5, 17, 4, 130, 60, 3, 90)
    windows = [
        Window([101, *range(2000, 1998 + length), 102], np.arange(length)[-max(2, length // 3) :])
        for length in lengths
    ]
    together = list(encoder(windows))
    assert [len(own) for own in together] == [len(window.asked) for window in windows]
    for own, window in zip(together, windows, strict=True):
        (alone,) = encoder([window])
        assert np.array_equal(own, alone)


def test_names_of_everyday_words_are_found_where_nobody_writes_capitals(
    detector: Detector, reader: SmallLetters
) -> None:
    for text, name in zip(SMALL, ("golden helix", "amber", "weather decision"), strict=True):
        for written in (text, text.upper()):
            found = read(reader, written).names
            mask = covered(written, [*found])
            at = text.index(name)
            assert all(mask[place] for place in range(at, at + len(name)) if text[place] != " ")
            (all_found,) = detector.detect([written])
            assert covered(written, all_found)[at]


def test_it_says_where_in_the_text_a_part_of_it_names_somebody(reader: SmallLetters) -> None:
    before = "Dr. Lee has seen him. "
    text = before + SMALL[0].upper()
    later = read(reader, text, (len(before), len(text))).names
    moved = [(finding.start - len(before), finding.end - len(before)) for finding in later]
    alone = read(reader, SMALL[0].upper()).names
    assert moved == [(finding.start, finding.end) for finding in alone]
    assert moved


def test_silent_is_what_has_no_capitals_and_nothing_else(detector: Detector) -> None:
    def silent(text: str) -> list[str]:
        casing = read_casing(text, detector.lexicon)
        return [text[start:end] for start, end in casing.silent]

    assert silent("Ann is here. She is fine. Thank you.") == []
    assert silent("ann is here. she is fine") == ["ann is here. she is fine"]
    assert silent("ANN LEE IS HERE") == ["ANN LEE IS HERE"]
    careful = "The patient was seen at home. She is well. "
    assert silent(careful + "HER SON MARK WAS THERE.") == [" HER SON MARK WAS THERE."]


def test_it_reads_words_in_doubt_of_text_with_capitals(
    detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    firm = "He works for Monument as a driver these days."
    (found,) = detector.detect([firm])
    assert covered(firm, found)[firm.index("Monument")]
    monkeypatch.setattr(detection, "find_doubts", lambda *_: iter(()))
    assert detector.detect([firm]) == [[]]


def test_it_says_which_words_are_surely_nobody(reader: SmallLetters) -> None:
    text = "the wound was cleaned and dressed by precious on the ward"
    nobody = read(reader, text).nobody
    named = text.index("precious")
    assert not any(nobody[named : named + len("precious")])
    for word in ("wound", "cleaned", "dressed", "ward"):
        assert all(nobody[text.index(word) : text.index(word) + len(word)])
    elsewhere = read(reader, text, (0, 9)).nobody
    assert not any(elsewhere[9:])


def test_long_text_is_read_in_windows_that_end_with_sentences(reader: SmallLetters) -> None:
    text = "please send the letter again. " * 60
    pieces = reader._pieces(text)
    windows = list(small_letters._windows(text, pieces, 510))
    assert [start for start, _ in windows[1:]] == [end for _, end in windows[:-1]]
    assert (windows[0][0], windows[-1][1]) == (0, len(pieces))
    assert all(end - start <= small_letters.WINDOW_PIECES for start, end in windows)
    assert all(text[pieces[end - 1].start] == "." for _, end in windows)
    unbroken = "word " * 600
    pieces = reader._pieces(unbroken)
    windows = list(small_letters._windows(unbroken, pieces, 510))
    assert {end - start for start, end in windows[:-1]} == {small_letters.WINDOW_PIECES}
    assert read(reader, "").names == []


def test_what_is_read_beside_a_text_changes_nothing(detector: Detector) -> None:
    together = detector.detect(SMALL)
    assert together == [detector.detect([text])[0] for text in SMALL]


def test_an_encoder_that_nobody_reviewed_is_refused(
    detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(small_letters, "ENCODER_DIGEST", "sha256:" + "0" * 64)
    with pytest.raises(VerificationFailed):
        SmallLetters(detector.lexicon)


def test_the_pipelines_digest_names_the_adapter(monkeypatch: pytest.MonkeyPatch) -> None:
    before = pipeline.pipeline_digest(MODEL_DIGEST)
    monkeypatch.setattr(pipeline, "adapter_digest", lambda: "another")
    assert pipeline.pipeline_digest(MODEL_DIGEST) != before


def test_a_site_can_leave_it_out() -> None:
    without = Detector(Detection(small_letters=False))
    assert without._small_letters is None
    text = SMALL[1]
    (found,) = without.detect([text])
    assert not covered(text, found)[text.index("amber")]
