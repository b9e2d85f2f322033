"""Coarser values of a table's columns: what many share instead of what few do.

HIPAA's Safe Harbor, 45 CFR 164.514(b)(2)(i): (B) three digits of a ZIP code, (C) years, and one
category for all who are 90 or older. A cell that is none of what its column was declared to be is
emptied: what cannot be read cannot be made coarser.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final, Literal

from client.deidentification.policy import OLDEST_AGE, RESTRICTED_ZIP_PREFIXES

Coarser = Literal["zip", "age", "year"]

_ZIP: Final = re.compile(r"(\d{3})\d{2}(?:-?\d{4})?")
_AGE: Final = re.compile(r"\d{1,3}(?:\.\d*)?")
_YEAR: Final = re.compile(r"(?<!\d)(?:19|20)\d\d(?!\d)")


def coarser(how: Coarser, cell: str) -> str:
    """A cell made coarser; an empty one stays empty.

    >>> [coarser("zip", cell) for cell in ("94110", "03601-1234", "94", "")]
    ['941', '000', '', '']
    >>> [coarser("age", cell) for cell in ("89", "93", "old")]
    ['89', '90', '']
    >>> coarser("year", "2024-05-01"), coarser("year", "May")
    ('2024', '')
    """
    return _HOW[how](cell.strip())


def _zip(cell: str) -> str:
    match = _ZIP.fullmatch(cell)
    if match is None:
        return ""
    return "000" if match[1] in RESTRICTED_ZIP_PREFIXES else match[1]


def _age(cell: str) -> str:
    if not _AGE.fullmatch(cell):
        return ""
    return cell if float(cell) < OLDEST_AGE + 1 else str(OLDEST_AGE + 1)


def _year(cell: str) -> str:
    match = _YEAR.search(cell)
    return match.group() if match else ""


_HOW: Final[Mapping[Coarser, Callable[[str], str]]] = {"zip": _zip, "age": _age, "year": _year}
