"""Counts known identifiers that are still in a vault: the honest end of de-identification.

Who planted identifiers in a file (`client data demo`, or a site's own test rows) can ask which of
them are left in what was stored. The search opens every row and does not rely on how the
recognisers see text:

* Case, accents, spaces and punctuation do not matter: `07700 900-123` is found as `07700900123`.
* A name also counts as left when its family name alone stands as a word in a record of the same
  subject.
* Names, numbers and addresses are searched for in every record, whosever it is. Given names, towns
  and dates, which many people share, in the records of their own subject.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from audit.errors import MalformedInput, NotFound
from client.vault import Record
from compliance.statements import Document, first_problem

SHARED_KINDS = frozenset({"given-name", "town", "date", "date-of-birth"})
"""Kinds of which another person may have the same, so that only the subject's own records count."""

_GAP = r"[\W_]{0,3}"


class PlantedIdentifier(Document):
    """One identifier that stands in a subject's text."""

    kind: Annotated[str, Field(pattern=r"^[a-z][a-z-]{0,40}$")]
    value: Annotated[str, Field(min_length=1, max_length=500)]
    family_name: str = ""
    """For a name: the part that gives the person away alone."""


class Planted(Document):
    """`planted.json`: what was planted, by subject id."""

    format: Literal["fiduciary.planted/1"] = "fiduciary.planted/1"
    site: str = ""
    subjects: dict[str, tuple[PlantedIdentifier, ...]]


@dataclass(frozen=True)
class LeakCount:
    """What is left.

    Attributes:
        planted: Identifiers looked for.
        left: How many of them are still there.
        planted_by_kind: The first figure by kind.
        left_by_kind: The second.
        records: Records that were searched.
        subjects_with_leak: Subjects of whom something is left.
    """

    planted: int
    left: int
    planted_by_kind: Mapping[str, int] = field(default_factory=dict)
    left_by_kind: Mapping[str, int] = field(default_factory=dict)
    records: int = 0
    subjects_with_leak: int = 0


def read_planted(path: Path) -> Planted:
    """Read `planted.json`.

    Raises:
        NotFound: When there is no such file.
        MalformedInput: When it is something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise NotFound(f"there is no file {path}", fix="`client data demo` writes one") from error
    except (ValueError, RecursionError, OSError) as error:
        raise MalformedInput(f"{path.name} is not JSON", fix="use planted.json") from error
    try:
        return Planted.model_validate(content)
    except ValidationError as error:
        raise MalformedInput(
            f"malformed planted identifiers: {first_problem(error)}",
            fix="use the planted.json that `client data demo` wrote",
        ) from error


def count_leaks(
    planted: Planted, records: Iterable[Record], pseudonyms: Mapping[str, str]
) -> LeakCount:
    """Search records for planted identifiers.

    Args:
        planted: What to look for.
        records: Every record of the vault or of a dataset.
        pseudonyms: Pseudonym of each subject id of `planted`.
    """
    texts_of: defaultdict[str, list[str]] = defaultdict(list)
    for record in records:
        texts_of[record.subject].append(_plain(record.text))
    everything = _Texts([text for texts in texts_of.values() for text in texts])
    sought: Counter[str] = Counter()
    left: Counter[str] = Counter()
    leaking: set[str] = set()
    for subject, identifiers in planted.subjects.items():
        own = _Texts(texts_of.get(pseudonyms[subject], []))
        for identifier in identifiers:
            sought[identifier.kind] += 1
            where = own if identifier.kind in SHARED_KINDS else everything
            if where.hold(identifier.value) or own.hold(identifier.family_name):
                left[identifier.kind] += 1
                leaking.add(subject)
    return LeakCount(
        planted=sought.total(),
        left=left.total(),
        planted_by_kind=dict(sorted(sought.items())),
        left_by_kind=dict(sorted(left.items())),
        records=everything.count,
        subjects_with_leak=len(leaking),
    )


class _Texts:
    """Texts in one case and without accents, to be searched many times."""

    def __init__(self, texts: list[str]) -> None:
        self.count = len(texts)
        self._text = "\n\n\n\n".join(texts)  # further apart than a gap reaches
        self._squeezed = _squeezed(self._text)

    def hold(self, value: str) -> bool:
        """Whether the value stands in a text, whatever stands between its characters.

        Not inside a longer word or number: "Lin" is not in "online", nor 123 in 41235.
        """
        squeezed = _squeezed(value)
        if not squeezed or squeezed not in self._squeezed:
            return False
        body = _GAP.join(map(re.escape, squeezed))
        return re.search(rf"(?<![^\W_]){body}(?![^\W_])", self._text) is not None


def _squeezed(text: str) -> str:
    """Letters and digits only, in one case and without accents.

    >>> _squeezed("García, Ana (0770-0900)")
    'garciaana07700900'
    """
    return re.sub(r"[\W_]+", "", _plain(text))


def _plain(text: str) -> str:
    decomposed = unicodedata.normalize("NFKD", text)
    return "".join(char for char in decomposed if not unicodedata.combining(char)).casefold()
