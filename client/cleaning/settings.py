"""How a dataset's records are cleaned: a TOML file that the operator writes.

```toml
format = "fiduciary.cleaning/1"

# Mend text that was written as UTF-8 and read as Windows-1252 ("schÃ¶n").
repair_encoding = true

# Records whose text is shorter or longer are left out.
min_characters = 20
max_characters = 20000

# Of a subject's records that share so much of their words, the first is kept.
near_duplicates = 0.9

# Of each class, a subject keeps so many records.
max_records_per_class = 10

# Other names for classes; records of a class that becomes "" are left out.
[labels]
"Cardio" = "cardiology"
"n/a" = ""

# Columns of a table of which less is stored: "zip" three digits, "age" up to 89 and 90 above,
# "year" of a date.
[coarser]
zip = "zip"

# Rows of a table with a number outside are left out.
[ranges]
age = [0, 120]
```

* Every key but `format` may be left out. An unknown key is an error.
* Each step looks at one record, or at the records of one subject. None looks at other people's:
  if the presence of one person decided which records of another are trained on, a promise about
  adding or removing one person would not hold. So near duplicates are those of one subject, and
  what is an outlier is declared and not estimated.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field, model_validator

from audit.canonical import digest
from audit.errors import MalformedInput
from client.cleaning.coarser import Coarser
from client.vault.contents import Content
from compliance.statements import Document
from compliance.toml_file import load_toml

MAX_CLEANING_BYTES: Final = 1024 * 1024
"""A map of a thousand labels takes a tenth of it."""

LEAST_SIMILARITY: Final = 0.7
"""Below, sketches of 64 hashes overlook too many pairs (`client.cleaning.near_duplicates`)."""

Number = Annotated[float, Field(allow_inf_nan=False)]


class Cleaning(Document):
    """What the operator wrote; without a file, nothing is cleaned."""

    format: Literal["fiduciary.cleaning/1"] = "fiduciary.cleaning/1"
    repair_encoding: bool = False
    min_characters: Annotated[int, Field(ge=0)] = 0
    max_characters: Annotated[int, Field(ge=1)] | None = None
    near_duplicates: Annotated[float, Field(ge=LEAST_SIMILARITY, le=1)] | None = None
    max_records_per_class: Annotated[int, Field(ge=1)] | None = None
    labels: dict[str, str] = Field(default_factory=dict)
    coarser: dict[str, Coarser] = Field(default_factory=dict)
    ranges: dict[str, tuple[Number, Number]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _consistent(self) -> Cleaning:
        if self.max_characters is not None and self.max_characters < self.min_characters:
            raise ValueError("max_characters: less than min_characters")
        for column, (least, most) in self.ranges.items():
            if most < least:
                raise ValueError(f"ranges.{column}: the second number is less than the first")
        return self

    @property
    def digest(self) -> str:
        """Names the settings."""
        return digest(self.model_dump_json().encode())

    @property
    def declared(self) -> str:
        """What differs from no cleaning, as JSON; empty when nothing does."""
        return "" if self == NO_CLEANING else self.model_dump_json(exclude_defaults=True)

    def check(self, content: Content, cells: Sequence[str] = ()) -> None:
        """Look whether the steps fit what the records are.

        Args:
            content: What the records are.
            cells: Columns of a table.

        Raises:
            MalformedInput: When one of them would do nothing, or harm.
        """
        words = content in ("text", "spans", "language")
        for declared, fits, name, why in (
            (self.repair_encoding, words and content != "spans", "repair_encoding",
             "it would move the spans, or there is no text"),
            (self.near_duplicates is not None, words, "near_duplicates", "there is no text"),
            (self.min_characters or self.max_characters, words, "min_characters and max_characters",
             "there is no text"),
            (self.ranges, content == "table", "ranges", "there is no table"),
            (self.coarser, content == "table", "coarser", "there is no table"),
            (self.max_records_per_class is not None, content in ("text", "table", "image"),
             "max_records_per_class", "records have no class of their own"),
        ):  # fmt: skip
            if declared and not fits:
                raise MalformedInput(
                    f"cleaning of {content} cannot have {name}: {why}", fix="leave the key out"
                )
        if missing := sorted({*self.ranges, *self.coarser} - {*cells}):
            raise MalformedInput(
                f"cleaning names the column {missing[0]!r}, which is none of the table's",
                fix="name it with --features or --categories, or correct its name",
            )


NO_CLEANING: Final = Cleaning()


def read_cleaning(path: Path) -> Cleaning:
    """Read the file.

    Raises:
        MalformedInput: With the line or key that is wrong, or when there is no such file.
    """
    fix = f"correct {path.name}; docs/data.md lists the keys"
    try:
        return load_toml(
            path, Cleaning, limit_bytes=MAX_CLEANING_BYTES, fix=fix, format_stated=True
        )
    except OSError as error:
        raise MalformedInput(f"{path.name} cannot be read", fix="check the path") from error
