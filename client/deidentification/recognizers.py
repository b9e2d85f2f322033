"""Presidio recognisers around this package's rules, a site's patterns, and models it configures.

A model is loaded from a folder whose files have the digest that the site wrote down, and what reads
it is imported only then.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from audit.errors import NotFound
from client.deidentification.findings import Finding
from client.deidentification.language_model import check_model
from client.deidentification.presidio import EntityRecognizer, RecognizerResult
from client.deidentification.settings import ModelRecognizer, Pattern

_MODULES: Final = {
    "transformer": ("huggingface_ner_recognizer", "HuggingFaceNerRecognizer", "transformers"),
    "gliner": ("gliner_recognizer", "GLiNERRecognizer", "gliner"),
}
"""Presidio's module, its class, and the package that it needs."""


class RuleRecognizer(EntityRecognizer):
    """A Presidio recogniser around one pure rule."""

    def __init__(
        self,
        name: str,
        kinds: Sequence[str],
        rule: Callable[[str], Iterable[Finding]],
        language: str,
    ) -> None:
        super().__init__(supported_entities=list(kinds), name=name, supported_language=language)
        self._rule = rule

    def load(self) -> None:
        """Nothing to load."""

    def analyze(self, text: str, entities: object, nlp_artifacts: object) -> list[RecognizerResult]:  # noqa: ARG002 - Presidio's interface
        """What the rule finds, as Presidio results with score 1."""
        return [RecognizerResult(f.kind, f.start, f.end, 1.0) for f in self._rule(text)]


def pattern_rule(pattern: Pattern) -> Callable[[str], Iterable[Finding]]:
    """A site's regular expression as a rule."""
    compiled = re.compile(pattern.regex)
    group = "value" if "value" in compiled.groupindex else 0

    def rule(text: str) -> Iterator[Finding]:
        for match in compiled.finditer(text):
            if match.end(group) > match.start(group):
                yield Finding(*match.span(group), pattern.kind)

    return rule


def load_model_recognizer(settings: ModelRecognizer, language: str) -> EntityRecognizer:
    """A learned recogniser, from a checked folder.

    Raises:
        NotFound: When there is no such folder, or what reads it is not installed.
        VerificationFailed: When the files are others than the site wrote down.
    """
    folder = Path(settings.model)
    if not folder.is_dir():
        raise NotFound(f"there is no folder {folder}", fix="correct model in deidentify.toml")
    check_model(folder, settings.model_digest)
    module_name, class_name, package = _MODULES[settings.engine]
    try:
        importlib.import_module(package)
    except ImportError as error:
        raise NotFound(
            f"deidentify.toml asks for a {settings.engine} recogniser, and {package} is not"
            " installed",
            fix=f"pip install {package}, or take the recogniser out",
        ) from error
    module = importlib.import_module(f"presidio_analyzer.predefined_recognizers.ner.{module_name}")
    # It may have been imported while its package was kept out (`client.deidentification.presidio`).
    recognizer: Any = getattr(importlib.reload(module), class_name)
    labels = {
        "label_mapping" if settings.engine == "transformer" else "entity_mapping": settings.labels
    }
    made = recognizer(
        model_name=str(folder),
        supported_language=language,
        threshold=settings.threshold,
        **labels,
    )
    made.load()
    return made  # type: ignore[no-any-return]
