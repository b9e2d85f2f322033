r"""What a site sets about detection: `[detect]` of `deidentify.toml`; all of it is optional.

```toml
[detect]
language = "en"                          # another language reads with rules and your patterns
keep = ["NRP", "AGE"]                    # kinds that stay in the text, on the site's own account
recognizers_off = ["UsItinRecognizer"]   # of Presidio's, by name
minimum_score = 0.0                      # of Presidio's own pattern recognisers
small_letters = true                     # the learned recogniser where capitals say nothing
model = "/models/en_core_web_lg"         # a spaCy package or folder; "blank" reads no names
model_digest = "sha256:…"                # of its files; the error for a wrong one says it

[[detect.pattern]]                       # numbers or words that only your site has
kind = "IDENTIFIER"
regex = '\bWARD-(?P<value>\d{3})'      # the group `value`, or the whole match

[[detect.model_recognizer]]              # reads beside the rest; what it needs is imported only now
engine = "transformer"                   # Hugging Face token classification, or "gliner"
model = "/models/deid-roberta"           # a folder
model_digest = "sha256:…"
labels = { PATIENT = "PERSON", HOSP = "ORGANIZATION" }   # the model's; others are not looked at
threshold = 0.3
```
"""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal

from pydantic import Field, model_validator

from compliance.statements import Document

Kind = Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]{0,63}$")]
FilesDigest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
Score = Annotated[float, Field(ge=0, le=1)]

PACKAGED: Final = "packaged"
"""The model that comes with the distribution."""

BLANK: Final = "blank"
"""No model: words and sentences alone."""


class Pattern(Document):
    """A regular expression of the site."""

    kind: Kind
    regex: Annotated[str, Field(min_length=1, max_length=2000)]

    @model_validator(mode="after")
    def _compiles(self) -> Pattern:
        try:
            matches_nothing = re.compile(self.regex).search("") is not None
        except re.error as error:
            raise ValueError(f"regex: {error}") from error
        if matches_nothing:
            raise ValueError("regex: it matches where there is nothing")
        return self


class ModelRecognizer(Document):
    """A learned recogniser that reads beside the packaged model."""

    engine: Literal["transformer", "gliner"]
    model: Annotated[str, Field(min_length=1)]
    model_digest: FilesDigest
    labels: Annotated[dict[str, Kind], Field(min_length=1)]
    threshold: Score = 0.3


class Detection(Document):
    """What `[detect]` says, or the defaults."""

    language: Annotated[str, Field(pattern=r"^[a-z]{2}$")] = "en"
    keep: tuple[Kind, ...] = ()
    recognizers_off: tuple[str, ...] = ()
    minimum_score: Score = 0.0
    small_letters: bool = True
    model: Annotated[str, Field(min_length=1)] = PACKAGED
    model_digest: FilesDigest | Literal[""] = ""
    pattern: tuple[Pattern, ...] = ()
    model_recognizer: tuple[ModelRecognizer, ...] = ()

    @model_validator(mode="after")
    def _fits_together(self) -> Detection:
        if self.model not in (PACKAGED, BLANK) and not self.model_digest:
            raise ValueError("model_digest: missing beside model")
        if self.model == PACKAGED and self.language != "en":
            raise ValueError('model: the packaged one reads English; name another, or "blank"')
        return self


DEFAULTS: Final = Detection()
