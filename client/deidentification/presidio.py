"""Presidio, and spaCy below it, imported without torch and transformers.

Both import them where they are installed, for engines that are not used here: four fifths of the
time that an ingest's process takes to start, and 300 MB in each of them. A process that has them
already keeps them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

_NOT_NEEDED: Final = ("torch", "transformers")


@contextmanager
def _left_out(*names: str) -> Iterator[None]:
    """Importing one of these fails inside, as if it were not installed."""
    absent = [name for name in names if name not in sys.modules]
    for name in absent:
        sys.modules[name] = None  # type: ignore[assignment]  # how Python marks what must not load
    try:
        yield
    finally:
        for name in absent:
            del sys.modules[name]


with _left_out(*_NOT_NEEDED):
    from presidio_analyzer import (
        AnalyzerEngine,
        EntityRecognizer,
        RecognizerRegistry,
        RecognizerResult,
    )
    from presidio_analyzer.context_aware_enhancers import ContextAwareEnhancer
    from presidio_analyzer.nlp_engine import NerModelConfiguration, NlpArtifacts, SpacyNlpEngine

__all__ = [
    "AnalyzerEngine",
    "ContextAwareEnhancer",
    "EntityRecognizer",
    "NerModelConfiguration",
    "NlpArtifacts",
    "RecognizerRegistry",
    "RecognizerResult",
    "SpacyNlpEngine",
]
