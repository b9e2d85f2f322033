"""The entities that `EntityReader` computes are those of spaCy's own recogniser."""

from __future__ import annotations

import random
from typing import Any

import pytest

from client.deidentification.entity_reader import EntityReader
from client.deidentification.language_model import model_folder

_PIECES = (
    "Ann Smith", "Dr. José van der Berg", "Jane", "42", "two weeks", "of", "the", "\n", "   ",
    "New York", "on 3 May 2019", "Acme Corp.", "and", "said", "French", "$4", ",", ".", "in",
    "U.S.", "University of Applied Sciences of the Northern Provinces", "(", ")", "MRN", "12:30",
    "war",
)  # fmt: skip


@pytest.fixture(scope="module")
def language() -> Any:
    import spacy

    return spacy.load(
        model_folder(),
        exclude=["tok2vec", "tagger", "parser", "senter", "attribute_ruler", "lemmatizer"],
    )


def _texts() -> list[str]:
    chosen = random.Random(4)
    counts = [1, 2, 3, *(chosen.randrange(4, 60) for _ in range(40)), 400]
    return ["", *(" ".join(chosen.choices(_PIECES, k=count)) for count in counts), " "]


def test_what_is_found_is_what_spacy_finds(language: Any) -> None:
    texts = _texts()
    reader = EntityReader(language.get_pipe("ner"))
    docs = [language.make_doc(text) for text in texts]
    expected = [[(e.start, e.end, e.label_) for e in doc.ents] for doc in language.pipe(texts)]
    assert sum(map(len, expected)) > 200
    assert any(end - start > 5 for own in expected for start, end, _ in own)

    together = reader.read(docs)
    alone = [reader.read([doc])[0] for doc in docs[:20]]

    assert together == expected
    assert alone == expected[:20]
