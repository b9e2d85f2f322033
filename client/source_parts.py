"""A source larger than memory, read part by part: whole subjects, in the order of their pseudonyms.

* A part is a range of pseudonyms. A source is read once for each part; reading is cheap beside
  de-identifying, and nothing has to be written to disk to bring a subject's records together.
* In memory are the records of one part, about `PART_CHARACTERS` of text, since pseudonyms are
  spread evenly. One subject's records are always in memory together.
* The order of the work depends on nothing but the pseudonyms, so "done up to this one" says it all.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from client.intake import LabelledRecord
from client.source_file import SourceFile

PART_CHARACTERS = 64_000_000
"""Of text in memory at once, where a character takes one to four bytes."""

ROW_CHARACTERS = 1_000
"""What a row takes beside its text, in the same measure."""

BATCH_RECORDS = 64
"""Records de-identified and stored together; whole subjects, so a batch may be larger."""

_RANGE = 16**8
"""The first eight hexadecimal digits of a pseudonym say in which part it is."""


@dataclass(frozen=True)
class SubjectRecords:
    """One subject's records, in the order of the source.

    Attributes:
        pseudonym: The subject's.
        records: The first of those that repeat.
        repeated: How many repeat an earlier one.
    """

    pseudonym: str
    records: tuple[LabelledRecord, ...]
    repeated: int


def batches(
    source: SourceFile,
    pseudonym: Callable[[str], str],
    reached: str = "",
    part_characters: int = PART_CHARACTERS,
) -> Iterator[list[SubjectRecords]]:
    """Batches of whole subjects, by pseudonym.

    Args:
        source: A checked source.
        pseudonym: Of a subject's id (`client.vault.store.Vault.pseudonym`).
        reached: The last pseudonym that is done; it and lower ones are left out.
        part_characters: How much may be in memory at once.

    Raises:
        SourceChanged: When the source gives other rows than when it was checked.
    """
    parts = parts_of(source, part_characters)
    first = int(reached[:8], 16) * parts // _RANGE if reached else 0
    batch: list[SubjectRecords] = []
    count = 0
    for part in range(first, parts):
        for subject in _subjects(source, pseudonym, part, parts, reached):
            batch.append(subject)
            count += len(subject.records)
            if count >= BATCH_RECORDS:
                yield batch
                batch, count = [], 0
    if batch:
        yield batch


def parts_of(source: SourceFile, part_characters: int) -> int:
    """Into how many parts a source is cut."""
    weight = source.characters + source.rows * ROW_CHARACTERS
    return max(1, -(-weight // part_characters))


def _subjects(
    source: SourceFile, pseudonym: Callable[[str], str], part: int, parts: int, reached: str
) -> list[SubjectRecords]:
    """The subjects of one part that are not done yet, by pseudonym."""
    found: defaultdict[str, dict[str, LabelledRecord]] = defaultdict(dict)
    repeated: defaultdict[str, int] = defaultdict(int)
    last, name = None, ""
    for record, content in source.read():
        if record.source.subject != last:
            last, name = record.source.subject, pseudonym(record.source.subject)
        if int(name[:8], 16) * parts // _RANGE != part or name <= reached:
            continue
        if content in found[name]:
            repeated[name] += 1
        else:
            found[name][content] = record
    return [
        SubjectRecords(name, tuple(records.values()), repeated[name])
        for name, records in sorted(found.items())
    ]
