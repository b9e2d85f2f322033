"""A person looks through a sample of a dataset's own rows and marks what the pipeline missed.

* One random row of each of so many random subjects, all drawn when the review begins: rows of one
  person resemble each other, and nobody chooses what is looked at.
* The rows come from the source file: in what is stored a name that was missed cannot be told from a
  stand-in. Each is de-identified again, and must give the very text that the dataset holds.
* What is kept between two sittings is sealed: pseudonyms, which row, and where marks are; no text.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from audit.canonical import canonical_bytes, digest
from audit.errors import Refused, VerificationFailed
from client.deidentification.findings import Finding, covered
from client.deidentification.measurement import CharacterCounts, count_characters, measurement_of
from client.deidentification.pipeline import Deidentified, Outcome, SourceRecord
from client.recall.evaluation import BATCH_TEXTS, Evaluation, evaluation_of, replaced_in
from client.recall.kept import SealedFolder
from client.vault import Dataset, Record

FORMAT: Final = "fiduciary.deidentification-review/1"

_DRAWS = 2**32


class NotTheSource(Refused):
    """The rows do not give what the dataset holds."""

    code = "not-the-source"


@dataclass(frozen=True)
class Marks:
    """What a person said of one row.

    Attributes:
        missed: `[start, end)` of what identifies somebody and was not found.
        wrong: Which of the findings, by number from 0, identify nobody.
    """

    missed: tuple[tuple[int, int], ...] = ()
    wrong: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Row:
    """A row to look through; in memory only.

    Attributes:
        subject: Pseudonym.
        text: As the source has it.
        found: What the pipeline found.
        stored: Digest of the de-identified text: marks are of this row and no other.
    """

    subject: str
    text: str
    found: tuple[Finding, ...]
    stored: str

    def counts(self, marks: Marks) -> CharacterCounts:
        """Characters of the row, by what the pipeline found and the person marked."""
        right = [one for at, one in enumerate(self.found) if at not in marks.wrong]
        missed = [Finding(start, end, "") for start, end in marks.missed]
        truth = covered(self.text, [*right, *missed])
        return count_characters(self.text, truth, covered(self.text, self.found))


@dataclass
class Session:
    """A review in the making.

    Attributes:
        dataset: Id of the dataset's version.
        pipeline: Digest of the pipeline that made it.
        drawn: By subject, in the order to look at them, a number that says which row.
        marks: By subject, the digest of the row and what was said of it.
    """

    dataset: str
    pipeline: str
    drawn: dict[str, int]
    marks: dict[str, tuple[str, Marks]] = field(default_factory=dict)

    @classmethod
    def begin(cls, dataset: Dataset, subjects: Sequence[str], sample: int) -> Session:
        """Draw the sample.

        Args:
            dataset: What is reviewed.
            subjects: Pseudonyms of all its subjects.
            sample: How many to look at; all where there are fewer.
        """
        draw = random.SystemRandom()
        chosen = draw.sample(list(subjects), min(sample, len(subjects)))
        drawn = {subject: draw.randrange(_DRAWS) for subject in chosen}
        return cls(dataset.id, dataset.datasheet.deidentification_digest, drawn)

    @classmethod
    def load(cls, folder: SealedFolder, dataset: Dataset) -> Session | None:
        """The review of a dataset that was begun and not ended; None when there is none.

        Raises:
            VerificationFailed: When it was altered.
        """
        kept = folder.read(_name(dataset))
        if kept is None:
            return None
        try:
            marks = {
                subject: (stored, Marks(tuple((a, b) for a, b in missed), frozenset(wrong)))
                for subject, (stored, missed, wrong) in kept["marks"].items()
            }
            # Canonical JSON sorts an object's names: the order to look in is a list.
            found = cls(kept["dataset"], kept["pipeline"], dict(kept["drawn"]), marks)
        except (KeyError, TypeError, ValueError) as error:
            raise VerificationFailed(
                "the review that was begun cannot be read",
                fix="begin it anew: `client deidentify review … --again`",
            ) from error
        same = (dataset.id, dataset.datasheet.deidentification_digest)
        return found if (found.dataset, found.pipeline) == same else None

    def save(self, folder: SealedFolder, dataset: Dataset) -> None:
        """Keep it, sealed; durable when this returns."""
        folder.write(
            _name(dataset),
            {
                "format": FORMAT,
                "dataset": self.dataset,
                "pipeline": self.pipeline,
                "drawn": [[subject, number] for subject, number in self.drawn.items()],
                "marks": {
                    subject: [stored, [list(span) for span in marks.missed], sorted(marks.wrong)]
                    for subject, (stored, marks) in self.marks.items()
                },
            },
        )

    def marks_of(self, row: Row) -> Marks | None:
        """What was said of a row; None when nobody looked at it."""
        stored, marks = self.marks.get(row.subject, (None, Marks()))
        return marks if stored == row.stored else None

    def mark(self, row: Row, marks: Marks) -> None:
        """Say something of a row."""
        self.marks[row.subject] = (row.stored, marks)


def forget(folder: SealedFolder, dataset: Dataset) -> None:
    """Remove what is kept of a review; harmless when there is none."""
    folder.remove(_name(dataset))


def rows_of(
    session: Session,
    records: Iterable[SourceRecord],
    held: Iterable[Record],
    pseudonym: Callable[[str], str],
    deidentify: Callable[[Sequence[SourceRecord]], list[Outcome]],
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> list[Row]:
    """The rows that a session drew, in its order.

    Args:
        session: The review.
        records: All records of the source file.
        held: All records of the dataset.
        pseudonym: Of a subject's id.
        deidentify: The pipeline that made the dataset.
        progress: Told how many of the drawn subjects' records are de-identified, of how many.

    Raises:
        NotTheSource: When a drawn subject has no row that gives what the dataset holds.
    """
    stored: defaultdict[str, set[str]] = defaultdict(set)
    for one in held:
        if one.subject in session.drawn:
            stored[one.subject].add(one.text.strip())
    of: defaultdict[str, dict[str, SourceRecord]] = defaultdict(dict)
    names: dict[str, str] = {}
    for record in records:
        name = names.setdefault(record.subject, pseudonym(record.subject))
        if name in session.drawn:
            of[name].setdefault(record.text, record)  # the same text twice is one row
    total, done = sum(map(len, of.values())), 0
    rows: list[Row] = []
    # Who was erased since is in the dataset no longer, and in the sample neither.
    for subjects in _batches([subject for subject in session.drawn if subject in stored]):
        batch = [record for subject in subjects for record in of[subject].values()]
        outcomes = iter(deidentify(batch) if batch else [])
        rows += [
            _drawn(subject, session.drawn[subject], of[subject].values(), outcomes, stored[subject])
            for subject in subjects
        ]
        done += len(batch)
        progress(done, total)
    return rows


def _batches(subjects: Sequence[str]) -> Iterable[Sequence[str]]:
    return (subjects[at : at + BATCH_TEXTS] for at in range(0, len(subjects), BATCH_TEXTS))


def _drawn(
    subject: str,
    number: int,
    records: Iterable[SourceRecord],
    outcomes: Iterable[Outcome],
    stored: set[str],
) -> Row:
    """The row of a subject's that is stored and was drawn."""
    fitting = [
        Row(subject, record.text, tuple(replaced_in(outcome)), digest(canonical_bytes(text)))
        for record, outcome in zip(records, outcomes, strict=False)
        if isinstance(outcome, Deidentified) and (text := outcome.text.strip()) in stored
    ]
    if not fitting:
        raise NotTheSource(
            "the file does not give the rows that the dataset holds",
            fix="name the file that the dataset was added from, and the same --subject, --text and "
            "--known; what changed texts on their way cannot be reviewed",
        )
    return fitting[number * len(fitting) // _DRAWS]


def evaluated(rows: Sequence[Row], session: Session) -> Evaluation | None:
    """What the review found; None while a row was not looked at."""
    counts = []
    for row in rows:
        marks = session.marks_of(row)
        if marks is None:
            return None
        counts.append(row.counts(marks))
    return evaluation_of(measurement_of(counts), 0) if counts else None


def marked(row: Row, marks: Marks, typed: str) -> Marks | None:
    """Marks after a person typed what was missed, or `-N` for a finding that identifies nobody.

    Every occurrence is marked, in whatever case it is typed, where it is not found already.

    Returns:
        None when the text holds no such thing, or there is no finding of that number.
    """
    number = typed[1:] if typed.startswith("-") else ""
    if number.isascii() and number.isdigit() and len(number) < 10:
        at = int(number) - 1
        return Marks(marks.missed, marks.wrong ^ {at}) if 0 <= at < len(row.found) else None
    if not typed.strip():
        return None
    known = covered(row.text, row.found)
    missed = dict.fromkeys(marks.missed)
    start = _find(row.text, typed, 0)
    none = start < 0
    while start >= 0:
        end = start + len(typed)
        if not all(known[start:end]):
            missed[start, end] = None
        start = _find(row.text, typed, end)
    return None if none else Marks(tuple(missed), marks.wrong)


def _find(text: str, typed: str, start: int) -> int:
    """Where a text holds what was typed, in any case; positions are the text's own."""
    wanted = typed.casefold()
    for at in range(start, len(text) - len(typed) + 1):
        if text[at : at + len(typed)].casefold() == wanted:
            return at
    return -1


def _name(dataset: Dataset) -> str:
    return f"review-session-{dataset.id}"


def summary(session: Session, rows: Sequence[Row]) -> dict[str, Any]:
    """How far a review is, as `--json` prints it: counts only."""
    done = sum(session.marks_of(row) is not None for row in rows)
    return {"rows": len(rows), "looked_at": done}
