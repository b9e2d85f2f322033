"""What single rows of a source say of their own use: consent, purposes and legal basis.

* A row narrows what was stated for its dataset, and never widens it: a purpose that the operator
  did not state for the dataset counts for nothing.
* A row without consent, or without a purpose that is left, is kept out of the vault and counted:
  what nobody may use is not stored.
* A cell that cannot be read as what it should say refuses the source. No guess is made about
  consent.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum

from pydantic import TypeAdapter, ValidationError

from audit.errors import MalformedInput
from client.intake import LEGAL_BASES, Columns, Intake
from client.vault.contents import ANY_USE, Terms
from compliance.statements import Name

CONSENTED = frozenset({"yes", "y", "true", "1"})
NOT_CONSENTED = frozenset({"no", "n", "false", "0", ""})

_NAMES = TypeAdapter(Name)


class LeftOut(StrEnum):
    """Why a row is not stored."""

    NO_CONSENT = "no-consent"
    NO_PURPOSE = "no-purpose"


class MalformedTerms(MalformedInput):
    """A cell about consent, purposes or legal basis that does not say any."""

    code = "malformed-terms"


def terms_of(
    columns: Columns, intake: Intake, values: Mapping[str, str], place: str
) -> Terms | LeftOut:
    """What one row may be used for, or why it is left out.

    Args:
        columns: Which columns say it; none of them says that nothing is narrowed.
        intake: What was stated for the dataset.
        values: The row's cells by column.
        place: Where the row is, for errors.

    Raises:
        MalformedTerms: When a cell cannot be read.
    """
    if columns.consent and not _consents(values[columns.consent], place):
        return LeftOut.NO_CONSENT
    purposes = None
    if columns.purposes:
        said = _purposes(values[columns.purposes], place)
        purposes = tuple(purpose for purpose in intake.purposes if purpose in said)
        if not purposes:
            return LeftOut.NO_PURPOSE
        if purposes == intake.purposes:
            purposes = None
    basis = values[columns.legal_basis].strip() if columns.legal_basis else ""
    if basis and basis not in LEGAL_BASES:
        raise _malformed(place, "the legal basis is none", f"one of {', '.join(LEGAL_BASES)}")
    if basis == intake.legal_basis:
        basis = ""
    return Terms(purposes, basis) if purposes is not None or basis else ANY_USE


def _consents(cell: str, place: str) -> bool:
    word = cell.strip().casefold()
    if word in CONSENTED:
        return True
    if word in NOT_CONSENTED:
        return False
    raise _malformed(place, "the cell for consent says neither yes nor no", "write yes or no")


def _purposes(cell: str, place: str) -> frozenset[str]:
    words = frozenset(filter(None, re.split(r"[\s,;|]+", cell)))
    try:
        return frozenset(map(_NAMES.validate_python, words))
    except ValidationError as error:
        raise _malformed(
            place,
            "the cell for purposes holds a malformed name",
            "use 1 to 64 lower-case letters, digits, '.', '_' and '-', and commas between names",
        ) from error


def _malformed(place: str, reason: str, fix: str) -> MalformedTerms:
    return MalformedTerms(f"{place}: {reason}", fix=fix)
