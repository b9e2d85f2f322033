"""Rows of a table as numbers, by what a plan says of its columns and by nothing else.

* A record is a JSON object of column to text. What it says is scaled by public ranges and named by
  public categories, so no record changes how another is read.
* A column that is absent, empty, `nan` or `?` is missing, and so is a category that the plan does
  not name. A number that is none is refused: cells such as `5,3` would vanish silently otherwise.
* A numeral is read by its value: `1`, `1.0` and `1e0` are one category.
* Nothing of a cell is in an error: it leaves the site, and a cell is personal data.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from audit.errors import MalformedInput
from compliance.statements import Feature

MISSING_MARKS: Final = frozenset({"", "?", "nan"})
"""What says in a cell that there is nothing, in small letters and without white space around."""

MAX_ROW_BYTES: Final = 16 * 1024 * 1024
"""Longer than a row of as many columns as a plan can name, each of a page of text."""

MAX_NUMERAL: Final = 100
"""Longer than any number that a table has a reason to hold."""


class TableInputs:
    """Reads records of a plan.

    Each column has *slots*: a number one for its value and one for being missing, a category one
    for each value and one for being missing. Slots of a column are consecutive, and columns are in
    the plan's order.

    Args:
        features: The plan's columns.
    """

    def __init__(self, features: Sequence[Feature]) -> None:
        self.features = tuple(features)
        counts = [1 + max(1, len(feature.values)) for feature in self.features]
        self.slot_count = sum(counts)
        self.first_slots = [sum(counts[:place]) for place in range(len(counts))]
        self._values = [
            {_spelling(value): place for place, value in reversed(list(enumerate(feature.values)))}
            for feature in self.features
        ]

    def cells(self, text: str) -> npt.NDArray[np.float32]:
        """A record as `(2, columns)`: of each column a slot, from 0 in the column, and a value.

        The value is a number's, scaled to [-1, 1], and 0 of a category or of what is missing.

        Raises:
            MalformedInput: When the text is no object of texts, or a number is none.
        """
        row = parse_row(text)
        found = np.zeros((2, len(self.features)), dtype=np.float32)
        for place, feature in enumerate(self.features):
            cell = row.get(feature.name, "").strip()
            missing = max(1, len(feature.values))
            if cell.lower() in MISSING_MARKS:
                found[0, place] = missing
            elif feature.kind == "category":
                found[0, place] = self._values[place].get(_spelling(cell), missing)
            else:
                found[1, place] = _scaled(cell, feature)
        return found


def parse_row(text: str) -> dict[str, str]:
    """A record of a table as columns and their texts.

    Raises:
        MalformedInput: When it is too long, no JSON object, names a column twice, or holds
            anything but texts.
    """
    if len(text) > MAX_ROW_BYTES:
        raise _malformed(f"more than {MAX_ROW_BYTES} characters")
    try:
        row = json.loads(text, object_pairs_hook=_without_doubles)
    except (ValueError, RecursionError) as error:
        # `from None`: a parser's own words quote the record.
        reason = "a column twice" if isinstance(error, _DoubleColumn) else "no JSON"
        raise _malformed(reason) from None
    if not isinstance(row, dict) or not all(isinstance(cell, str) for cell in row.values()):
        raise _malformed("no object of columns and their texts")
    return row


class _DoubleColumn(ValueError):
    pass


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) != len(pairs):
        raise _DoubleColumn
    return row


def _scaled(cell: str, feature: Feature) -> float:
    number = _number(cell)
    if number is None:
        raise MalformedInput(
            f"malformed record: column {feature.name!r} holds what is no number",
            fix="correct the table: decimal points, no units, and nothing where a value is missing",
        )
    low, high = float(feature.low or 0), float(feature.high or 0)
    return min(1.0, max(-1.0, 2 * (number - low) / (high - low) - 1))


def _number(cell: str) -> float | None:
    if len(cell) > MAX_NUMERAL or "_" in cell:  # Python's own way of writing numerals
        return None
    try:
        number = float(cell)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _spelling(value: str) -> str:
    """One spelling for all numerals of a value; any other text as it is."""
    value = value.strip()
    number = _number(value)
    return value if number is None else repr(number + 0.0)  # no negative zero


def _malformed(reason: str) -> MalformedInput:
    return MalformedInput(
        f"malformed record of a table: {reason}",
        fix="ingest the table again: a record is a JSON object of column to text",
    )
