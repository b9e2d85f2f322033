"""A site's own patterns, and the learned recognisers that it configures, as rules.

* A model is loaded from a folder whose files have the digest that the site wrote down. It runs no
  code of the folder's, reads no pickle and asks no hub. What reads it is imported only then.
* A model that fails on a text raises, so that the text is kept out. Presidio's own recognisers of
  such models answer as if nothing were there, and read no end of what is too long: they are not
  used.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module, util
from pathlib import Path
from typing import Final

from audit.errors import NotFound
from client.deidentification.findings import Finding
from client.deidentification.language_model import check_model
from client.deidentification.settings import ModelRecognizer, Pattern

Rule = Callable[[str], Iterable[Finding]]
"""Findings of a text, in any order; they may overlap."""

LIBRARIES: Final = {
    "transformer": ("torch", "transformers"),
    "gliner": ("torch", "transformers", "gliner"),
}
"""What reads the models of each engine."""

_READERS: Final = {
    "transformer": ("token_classifier", "TokenClassifier"),
    "gliner": ("gliner_model", "GlinerModel"),
}
"""Modules of this package, and the class in them."""

_HOW: Final = {
    "gliner": "pip install --no-deps gliner==0.2.29 (it would replace transformers otherwise)"
}


def pattern_rule(pattern: Pattern) -> Rule:
    """A site's regular expression as a rule."""
    compiled = re.compile(pattern.regex)
    group = "value" if "value" in compiled.groupindex else 0

    def rule(text: str) -> Iterator[Finding]:
        for match in compiled.finditer(text):
            if match.end(group) > match.start(group):
                yield Finding(*match.span(group), pattern.kind)

    return rule


def load_model_rule(settings: ModelRecognizer) -> Rule:
    """A learned recogniser, from a checked folder.

    Raises:
        NotFound: When there is no such folder, or what reads it is not installed.
        VerificationFailed: When the files are others than the site wrote down.
        MalformedInput: When they are no such model, or it lacks a label of the settings.
        Refused: When the model brings code of its own.
    """
    folder = Path(settings.model)
    if not folder.is_dir():
        raise NotFound(f"there is no folder {folder}", fix="correct model in deidentify.toml")
    check_model(folder, settings.model_digest)
    for package in LIBRARIES[settings.engine]:
        if util.find_spec(package) is None:
            raise NotFound(
                f"deidentify.toml asks for a {settings.engine} recogniser, and {package} is not"
                " installed",
                fix=f"{_HOW.get(package, f'pip install {package}')}, or take the recogniser out",
            )
    module, name = _READERS[settings.engine]
    reader = getattr(import_module(f"client.deidentification.{module}"), name)
    rule: Rule = reader(folder, settings.labels, settings.threshold)
    return rule
