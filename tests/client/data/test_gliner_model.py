"""GLiNER as a site's own recogniser: on the library where it is installed, and on a stand-in.

The stand-in has the library's names and cuts texts as it does; what the two share is compared where
both are there.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import inspect
import random
import re
import sys
import types
import warnings
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from audit.errors import MalformedInput, NotFound, Refused
from client.deidentification.detection import Detector
from client.deidentification.gliner_model import OVERLAP_WORDS, GlinerModel, Word, windows
from client.deidentification.language_model import model_digest
from client.deidentification.recognizers import load_model_rule
from client.deidentification.settings import BLANK, Detection, ModelRecognizer
from tests.client.data.tiny_models import rewrite, save_tokenizer

INSTALLED = importlib.util.find_spec("gliner") is not None
MOST_WORDS, MOST_TOKENS = 24, 64
LABELS = {"person": "PERSON"}
FILLERS = ["on", "we", "go", "x", "saw", "the", "cat", "went", ",", ".", "at"]


class StandIn:
    """`gliner.GLiNER` as far as it is used, for a model that finds words with "zorblin" in them.

    It reads `MOST_WORDS` words, warns where it is given more, and reads no token after
    `MOST_TOKENS`, without a word. Like the library it counts words by their tokens.
    """

    def __init__(self, folder: Path) -> None:
        from transformers import AutoTokenizer

        self.config = types.SimpleNamespace(
            max_len=MOST_WORDS,
            encoder_config=types.SimpleNamespace(max_position_embeddings=MOST_TOKENS),
        )
        self.model = torch.nn.Linear(2, 2, bias=False)
        self.data_processor = types.SimpleNamespace(
            words_splitter=lambda text: (
                (found.group(), *found.span()) for found in re.finditer(r"\w+(?:[-_]\w+)*|\S", text)
            ),
            transformer_tokenizer=AutoTokenizer.from_pretrained(folder, local_files_only=True),
        )

    @classmethod
    def from_pretrained(
        cls, model_id: str, local_files_only: bool = False, map_location: str = "cpu"
    ) -> StandIn:
        """As the library: from a folder, and from a hub unless told otherwise."""
        assert local_files_only, "a hub would be asked"
        assert map_location in ("cpu", "cuda")
        return cls(Path(model_id))

    def predict_entities(
        self, text: str, labels: Sequence[str], flat_ner: bool = True, threshold: float = 0.5
    ) -> list[dict[str, Any]]:
        """As the library."""
        assert flat_ner
        words = list(self.data_processor.words_splitter(text))
        if len(words) > MOST_WORDS:
            warnings.warn(f"Sentence has been truncated to {MOST_WORDS}", stacklevel=2)
        asked = [word for label in labels for word in ("<<ENT>>", label)] + ["<<SEP>>"]
        read = self.data_processor.transformer_tokenizer(
            asked + [word for word, _, _ in words],
            is_split_into_words=True,
            truncation=True,
            max_length=MOST_TOKENS,
        )
        seen = sorted({at for at in read.word_ids() if at is not None and at >= len(asked)})
        answer: list[dict[str, Any]] = []
        for position, at in enumerate(seen[:MOST_WORDS]):
            if re.match("z.rblin", words[at - len(asked)][0]) and threshold <= 0.9:
                _, start, end = words[position]
                answer.append({"start": start, "end": end, "label": labels[0], "score": 0.9})
        return answer


def save_model(folder: Path) -> Path:
    """What the stand-in reads, with the files that a real model has."""
    save_tokenizer(folder)
    (folder / "gliner_config.json").write_text('{"encoder_config": {"model_type": "bert"}}')
    save_file({"weight": torch.zeros(2, 2)}, folder / "model.safetensors")
    return folder


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> type[StandIn]:
    module = types.ModuleType("gliner")
    module.__spec__ = importlib.machinery.ModuleSpec("gliner", None)
    module.GLiNER = StandIn  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "gliner", module)
    return StandIn


def settings(folder: Path, labels: dict[str, str] = LABELS) -> ModelRecognizer:
    digest = model_digest(folder)
    return ModelRecognizer(engine="gliner", model=str(folder), model_digest=digest, labels=labels)


def holds_what_a_site_needs(rule: Any) -> None:
    """What must be so of any model that finds "zorblin"."""

    def read(text: str) -> list[str]:
        assert {f.kind for f in rule(text)} <= {"PERSON"}
        return [text[f.start : f.end] for f in rule(text)]

    assert read("the zorblin went on.") == ["zorblin"]
    assert read("👩🏽‍⚕️ the zörblin went on 🏥") == ["zörblin"], "words without a token"
    assert read("") == read(" \n") == []
    for filler in ("on we go. ", "x,", "saw the cat "):
        for before in range(0, 40, 3):
            text = filler * before + " zorblin " + filler * 12
            assert "zorblin" in read(text), (filler, before)


def test_the_stand_in_is_read_to_the_end(tmp_path: Path, stand_in: type[StandIn]) -> None:
    holds_what_a_site_needs(load_model_rule(settings(save_model(tmp_path / "model"))))


def test_it_reads_beside_the_rest(tmp_path: Path, stand_in: type[StandIn]) -> None:
    model = settings(save_model(tmp_path / "model"))
    sentence = "ayer zorblin"
    detect = Detection(language="es", model=BLANK, model_recognizer=(model,))
    ((finding,),) = Detector(detect).detect([sentence])
    assert (finding.kind, sentence[finding.start : finding.end]) == ("PERSON", "zorblin")


def test_what_would_be_cut_is_an_error(tmp_path: Path, stand_in: type[StandIn]) -> None:
    model = GlinerModel(save_model(tmp_path / "model"), LABELS, 0.5)
    model._most_words += 1
    with pytest.raises(UserWarning, match="truncated"):
        list(model("a " * 100))


def test_what_is_incomplete_or_brings_code_is_refused(
    tmp_path: Path, stand_in: type[StandIn]
) -> None:
    folder = save_model(tmp_path / "model")
    with pytest.raises(MalformedInput, match="no room for a text"):
        load_model_rule(settings(folder, {"person " * 40: "PERSON"}))
    save_file({"other": torch.zeros(2, 2)}, folder / "model.safetensors")
    with pytest.raises(MalformedInput, match="lacks weights: weight"):
        load_model_rule(settings(folder))
    rewrite(folder / "gliner_config.json", encoder_config={"auto_map": {"AutoModel": "x.Y"}})
    with pytest.raises(Refused, match="code of its own"):
        load_model_rule(settings(folder))
    rewrite(folder / "gliner_config.json", encoder_config=None)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(MalformedInput, match=r"lacks model\.safetensors, encoder_config") as said:
        load_model_rule(settings(folder))
    assert "safe_serialization=True" in said.value.fix
    (folder / "gliner_config.json").unlink()
    with pytest.raises(MalformedInput, match="cannot be read as a GLiNER model"):
        load_model_rule(settings(folder))


@pytest.mark.skipif(INSTALLED, reason="gliner is installed")
def test_a_missing_library_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="gliner is not installed") as raised:
        load_model_rule(settings(save_model(tmp_path / "model")))
    assert "pip install --no-deps gliner" in raised.value.fix


def test_windows_hold_every_word_and_what_stands_around_it() -> None:
    rng = random.Random(1)
    words = [Word(at, at + 1, rng.choice([1, 1, 2, 5, 80])) for at in range(400)]
    for most_words, most_tokens in ((100, 10_000), (24, 57), (384, 300)):
        runs = list(windows(words, most_words, most_tokens))
        assert (runs[0][0], runs[-1][1]) == (0, len(words))
        for (first, last), (after, _) in pairwise(runs):
            assert first < after <= last, "no word between them"
        for first, last in runs:
            assert 0 < last - first <= most_words
            assert last - first == 1 or sum(w.tokens for w in words[first:last]) <= most_tokens
    assert all(a[1] - b[0] == OVERLAP_WORDS for a, b in pairwise(windows(words, 100, 10_000)))
    assert list(windows([], 10, 10)) == []


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real model of GLiNER's with a tiny encoder, which learns one word in a second."""
    from gliner import GLiNER, GLiNERConfig
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("gliner")
    torch.manual_seed(0)
    encoder = BertConfig(
        vocab_size=len(save_tokenizer(folder / "encoder")),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=MOST_TOKENS,
    )
    BertModel(encoder).save_pretrained(folder / "encoder")
    shape = {"hidden_size": 32, "max_width": 3, "max_len": MOST_WORDS, "num_rnn_layers": 0}
    made = GLiNER.from_config(
        GLiNERConfig(model_name=str(folder / "encoder"), span_mode="markerV0", dropout=0.0, **shape)
    )
    rng = random.Random(0)
    collate = made._create_data_collator()
    optimizer = torch.optim.Adam(made.model.parameters(), 3e-3)
    for _ in range(100):
        examples = []
        for _ in range(16):
            words = rng.choices(FILLERS, k=8)
            at = rng.randrange(8)
            words[at] = "zorblin"
            examples.append({"tokenized_text": words, "ner": [[at, at, "person"]]})
        made.model(**collate(examples)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    made.eval().save_pretrained(folder / "model", safe_serialization=True)
    (folder / "encoder").rename(folder / "elsewhere")
    return folder / "model"


@pytest.mark.skipif(
    not INSTALLED,
    reason="gliner is not installed; docs/deidentification.md says how a site adds it",
)
@pytest.mark.filterwarnings("default")
class TestTheLibrary:
    def test_a_model_of_its_own_is_read_to_the_end(self, trained: Path) -> None:
        holds_what_a_site_needs(load_model_rule(settings(trained)))

    def test_the_stand_in_has_its_names(self, trained: Path) -> None:
        from gliner import GLiNER

        real = GLiNER.from_pretrained(str(trained), local_files_only=True)
        ours = StandIn(trained)
        for name in ("predict_entities", "from_pretrained"):
            theirs = inspect.signature(getattr(real, name)).parameters
            for parameter in inspect.signature(getattr(ours, name)).parameters:
                assert parameter in theirs, (name, parameter)
        text = "the zorblin-on, went"
        splitter = real.data_processor.words_splitter
        assert list(splitter(text)) == list(ours.data_processor.words_splitter(text))
        with pytest.warns(UserWarning, match="truncated"):
            real.predict_entities("a " * 30, ["person"])
