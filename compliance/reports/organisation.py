"""`organisation.toml`: what only the organisation can state of itself.

* An officer writes it into the compliance folder. What it does not say stays a blank in every
  report; nothing is ever made up for it.
* Its keys are those that `registers.toml` asks for; any other is refused by name, so that a typing
  mistake is no silent blank.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from audit.canonical import digest
from audit.errors import MalformedInput
from compliance.rules.registers import LawBook
from compliance.toml_file import parse_table

FILE: Final = "organisation.toml"
FORMAT: Final = "fiduciary.organisation/1"
MAX_BYTES: Final = 256 * 1024
MAX_TEXT: Final = 10_000

_HEAD: Final = """\
# What only you can state, for `compliance report`. Take away the # of a line and write between the
# quotes; what stays away is a plain blank in the reports. Lists are fine: ["one", "two"].
format = "{format}"
"""


@dataclass(frozen=True)
class Organisation:
    """What an organisation states.

    Attributes:
        stated: Texts by key, `controller.name`.
        digest: Of the file; None where there is none.
    """

    stated: Mapping[str, str] = field(default_factory=dict)
    digest: str | None = None


def read_organisation(folder: Path, law: LawBook) -> Organisation:
    """Read the file in a compliance folder; without one nothing is stated.

    Raises:
        MalformedInput: With the key that is wrong.
    """
    try:
        with (folder / FILE).open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        return Organisation()
    return parse_organisation(data, law)


def parse_organisation(data: bytes, law: LawBook) -> Organisation:
    """Read the file's bytes.

    Raises:
        MalformedInput: With the key that is wrong.
    """
    document = parse_table(data, FILE, limit_bytes=MAX_BYTES, fix=f"correct {FILE}")
    if document.pop("format", None) != FORMAT:
        raise MalformedInput(
            f"malformed {FILE}: it has no known format", fix=f'begin it with: format = "{FORMAT}"'
        )
    known = {asked.key for _, asked in law.people_state()}
    stated: dict[str, str] = {}
    for table, values in document.items():
        if not isinstance(values, dict):
            raise _malformed(table, "expected a table, such as [controller]")
        for name, value in values.items():
            key = f"{table}.{name}"
            if key not in known:
                raise _malformed(key, "no report asks for it")
            text = _text(key, value)
            if text:
                stated[key] = text
    return Organisation(stated, digest(data))


def template(law: LawBook) -> str:
    """The file with every key that reports ask for, each a comment with its article."""
    tables: dict[str, list[str]] = {}
    for section, asked in law.people_state():
        table, _, name = asked.key.partition(".")
        line = f'# {asked.label} ({asked.who}; {section.article})\n#{name} = ""\n'
        tables.setdefault(table, []).append(line)
    parts = [f"\n[{table}]\n{''.join(lines)}" for table, lines in tables.items()]
    return _HEAD.format(format=FORMAT) + "".join(parts)


def _text(key: str, value: object) -> str:
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        value = "\n".join(value)
    if not isinstance(value, str):
        raise _malformed(key, "expected a text or a list of texts")
    if len(value) > MAX_TEXT:
        raise _malformed(key, f"more than {MAX_TEXT} characters")
    return value.strip()


def _malformed(key: str, reason: str) -> MalformedInput:
    return MalformedInput(
        f"malformed {FILE}: {key[:100]}: {reason}", fix=f"correct {FILE}; see docs/registers.md"
    )
