"""Writes the messages to `notes.csv`, and what was planted in them to `planted.json`.

* The same arguments write the same files, byte for byte. Sites with other names get other people.
* Only what stands in a text counts as planted, in the form in which it stands there.
* Topics overlap and a few labels are wrong, as in life: no model gets everything right.
"""

from __future__ import annotations

import csv
import io
import random
import string
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path

from audit.durable import write_durably
from audit.errors import Conflict
from client.demo_notes import messages
from client.demo_notes.messages import LABELS, Profile
from client.demo_notes.people import Person, make_person, other_person
from client.leaks import Planted, PlantedIdentifier

COLUMNS = ("subject_id", "full_name", "phone", "text", "label")

SECOND_TOPIC_SHARE = 0.08
"""Messages that mention another topic in passing."""

WRONG_LABEL_SHARE = 0.02

SMALL_LETTERS_SHARE = 0.18
CAPITALS_SHARE = 0.02
NOTE_SHARE = 0.1

MORE_RECORDS_SHARE = 0.3
"""Subjects who write again, each time with this chance, up to `MAX_RECORDS`."""

MAX_RECORDS = 4

_QUESTION_WORDS = ("can", "could", "is", "does", "do", "what", "why", "when", "who", "how", "am")
_FIRST_DAY = date(2025, 1, 6)
_BIRTH_FORMS = ("%d %B %Y", "%d/%m/%Y", "%Y-%m-%d", "%B %d, %Y", "%d.%m.%Y")
_DATE_FORMS = (*_BIRTH_FORMS, "%d %b")


@dataclass(frozen=True)
class Written:
    """What was written.

    Attributes:
        notes, planted: The files.
        records: Messages.
        identifiers: Planted identifiers.
        labels: The topics.
    """

    notes: Path
    planted: Path
    records: int
    identifiers: int
    labels: tuple[str, ...] = LABELS


@dataclass
class _Message:
    """A message in the making, and what stands in it."""

    person: Person
    profile: Profile
    source: random.Random
    planted: dict[tuple[str, str], PlantedIdentifier] = field(default_factory=dict)

    def filled(self, template: str) -> str:
        """The template with its slots filled; identifying values are noted."""
        names = [name for _, name, _, _ in string.Formatter().parse(template) if name]
        return template.format(**{name: self._value(name) for name in names})

    def _value(self, slot: str) -> str:
        person, source = self.person, self.source
        match slot:
            case "name":
                return self._note("name", person.full_name, person.family_name)
            case "given":
                return self._note("given-name", person.given_name)
            case "family":
                return self._note("name", person.family_name, person.family_name)
            case "record_number" | "phone" | "email" | "card" | "account" | "policy":
                return self._note(slot.replace("_", "-"), getattr(person, slot))
            case "street" | "town" | "postcode":
                return self._note(slot, getattr(person, slot))
            case "address":
                parts = (self._value(part) for part in ("street", "town", "postcode"))
                return ", ".join(parts)
            case "born":
                return self._note("date-of-birth", self._date(person.born, _BIRTH_FORMS))
            case "date":
                day = _FIRST_DAY + timedelta(days=source.randrange(500))
                return self._note("date", self._date(day, _DATE_FORMS))
            case "other":
                name = other_person(source)
                return self._note("other-person", name, name.partition(" ")[2])
            case "other_family":
                name = other_person(source).partition(" ")[2]
                return self._note("other-person", name, name)
            case "amount":
                sign = "£" if self.profile is Profile.BANK else "$"
                return f"{sign}{source.randrange(5, 900)}.{source.choice(('00', '50', '99', '20'))}"
            case _:
                return source.choice(_VOCABULARY[slot])

    def _date(self, day: date, forms: Sequence[str]) -> str:
        return day.strftime(self.source.choice(forms))

    def _note(self, kind: str, value: str, family_name: str = "") -> str:
        identifier = PlantedIdentifier(kind=kind, value=value, family_name=family_name)
        self.planted[kind, value] = identifier
        return value


_VOCABULARY = {
    "clinic": messages.CLINICS,
    "exam": messages.EXAMS,
    "drug": messages.DRUGS,
    "dose": messages.DOSES,
}


def write_notes(folder: Path, profile: Profile, *, site: str, subjects: int, seed: int) -> Written:
    """Write `notes.csv` and `planted.json`.

    Args:
        folder: Made when there is none.
        profile: Whose messages.
        site: Decides, with the seed, who writes.
        subjects: How many people write.
        seed: Any number.

    Raises:
        Conflict: When one of the files exists.
    """
    notes, planted_file = folder / "notes.csv", folder / "planted.json"
    for path in (notes, planted_file):
        if path.exists():
            raise Conflict(f"{path} exists", fix="choose another folder")
    source = random.Random(f"fiduciary.demo/1|{profile}|{site}|{seed}")  # noqa: S311 - no secret
    rows: list[tuple[str, ...]] = []
    planted: defaultdict[str, dict[tuple[str, str], PlantedIdentifier]] = defaultdict(dict)
    for number in range(1, subjects + 1):
        person = make_person(number, site, source)
        for label, text, found in _messages_of(person, profile, source):
            rows.append((person.subject_id, person.full_name, person.phone, text, label))
            planted[person.subject_id].update(found)
    source.shuffle(rows)
    document = Planted(
        site=site, subjects={who: tuple(found.values()) for who, found in planted.items() if found}
    )
    folder.mkdir(parents=True, exist_ok=True)
    write_durably(notes, _as_csv(rows))
    write_durably(planted_file, document.model_dump_json(indent=1).encode() + b"\n")
    count = sum(map(len, document.subjects.values()))
    return Written(notes, planted_file, len(rows), count)


def _messages_of(
    person: Person, profile: Profile, source: random.Random
) -> list[tuple[str, str, dict[tuple[str, str], PlantedIdentifier]]]:
    made = []
    for _ in range(MAX_RECORDS):
        label = source.choice(LABELS)
        message = _Message(person, profile, source)
        text = _cased(_composed(message, label), source)
        if source.random() < WRONG_LABEL_SHARE:
            label = source.choice(LABELS)
        made.append((label, text, message.planted))
        if source.random() > MORE_RECORDS_SHARE:
            break
    return made


def _composed(message: _Message, label: str) -> str:
    """A message about one topic, put together from an opening, who writes, what for, and more."""
    source, profile = message.source, message.profile
    request = message.filled(source.choice(messages.REQUESTS[profile][label]))
    if source.random() < NOTE_SHARE:
        template = messages.NOTES[profile].replace("{request}", request.replace("{", "{{"))
        return message.filled(template)
    detail = source.choice((*messages.DETAILS[label], *messages.SHARED_DETAILS))
    sentences = [
        message.filled(source.choice(messages.OPENINGS)),
        message.filled(source.choice(messages.IDENTITIES[profile])),
        _sentence(request),
    ]
    if source.random() < 0.7:
        sentences.append(_sentence(message.filled(detail)))
    if source.random() < SECOND_TOPIC_SHARE:
        other = source.choice(messages.REQUESTS[profile][source.choice(LABELS)])
        sentences.append(_sentence("by the way, " + message.filled(other)))
    closing = message.filled(source.choice(messages.CLOSINGS))
    gap = "\n" if source.random() < 0.4 else " "
    return (" ".join(filter(None, sentences)) + gap + closing).strip()


def _sentence(text: str) -> str:
    asks = text.split()[0].lower() in _QUESTION_WORDS
    return text[0].upper() + text[1:] + ("?" if asks else ".")


def _cased(text: str, source: random.Random) -> str:
    chance = source.random()
    if chance < SMALL_LETTERS_SHARE:
        return text.lower()
    if chance < SMALL_LETTERS_SHARE + CAPITALS_SHARE:
        return text.upper()
    return text


def _as_csv(rows: list[tuple[str, ...]]) -> bytes:
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer)
    writer.writerow(COLUMNS)
    writer.writerows(rows)
    return buffer.getvalue().encode()
