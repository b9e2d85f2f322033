"""Fills templates, and writes texts as careless people and scanners do."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from importlib import resources

from audit.errors import NotFound
from bench.deidentify_texts.values import LOCALES, Values
from client.deidentification.measurement import LabelledSpan, LabelledText

FAMILIES = tuple(LOCALES)

FAKER = "40.63.0"
"""The release that the published figures were made with: another has other names."""

_SLOT = re.compile(r"\{(\w+)\}")
_LOOK_ALIKES = {"o": "0", "l": "1", "i": "l", "m": "rn", "e": "c", "s": "5", "O": "0", "I": "l"}
_NOISE_SHARE = 0.02
"""Share of letters that a scan or a slip of the finger changes."""


def generate(family: str, count: int, seed: int = 20261126) -> list[LabelledText]:
    """Texts of one family.

    Args:
        family: One of `FAMILIES`.
        count: How many; templates take turns.
        seed: Decides the values; with one release of Faker the texts are the same to the byte,
            whenever they are made.

    Raises:
        NotFound: When Faker is not installed.
    """
    try:
        import faker
    except ImportError as error:
        raise NotFound(
            "generated texts need Faker, which is not installed",
            fix=f"pip install 'faker=={FAKER}', or leave --generated out",
        ) from error

    choice = random.Random(f"{family}/{seed}")  # noqa: S311 - made-up people
    faker.Faker.seed(choice.getrandbits(63))
    people = {locale: faker.Faker(locale) for locale in dict.fromkeys(LOCALES[family])}
    for provider in (provider for person in people.values() for provider in person.get_providers()):
        if isinstance(getattr(provider, "cities", None), list):
            provider.cities.sort()  # it_IT has them in the order of a set, another in each process
    templates = _templates(family)
    return [
        _filled(
            templates[number % len(templates)],
            Values(people[choice.choice(LOCALES[family])], choice),
        )
        for number in range(count)
    ]


def forms(labelled: list[LabelledText], seed: int = 7) -> dict[str, list[LabelledText]]:
    """The texts as they are, in small letters, in capitals, and noisy, with their labels."""
    choice = random.Random(seed)  # noqa: S311 - as above
    return {
        "": labelled,
        ".small_letters": [_rewritten(text, str.lower) for text in labelled],
        ".capitals": [_rewritten(text, str.upper) for text in labelled],
        ".noisy": [_rewritten(text, lambda char: _noisy(char, choice)) for text in labelled],
    }


def _templates(family: str) -> list[str]:
    content = resources.files("bench.deidentify_texts").joinpath(f"{family}.txt").read_text("utf-8")
    return [template.strip("\n") for template in content.split("---\n")]


def _filled(template: str, values: Values) -> LabelledText:
    text, spans, end = "", [], 0
    for slot in _SLOT.finditer(template):
        text += template[end : slot.start()]
        end, kind = slot.end(), slot.group(1)
        maker = values.makers.get(kind)
        value = maker() if maker else values.unlabelled[kind]()
        if maker:
            spans.append(_span(kind.lower(), len(text), len(text) + len(value)))
        text += value
    return LabelledText(full_text=text + template[end:], spans=tuple(spans))


def _span(kind: str, start: int, end: int) -> LabelledSpan:
    return LabelledSpan(entity_type=kind, start_position=start, end_position=end)


def _rewritten(labelled: LabelledText, write: Callable[[str], str]) -> LabelledText:
    """The text with each character written anew, and its labels moved along."""
    pieces = list(map(write, labelled.full_text))
    starts = [0]
    for piece in pieces:
        starts.append(starts[-1] + len(piece))
    spans = tuple(
        _span(s.entity_type, starts[s.start_position], starts[s.end_position])
        for s in labelled.spans
    )
    return LabelledText(full_text="".join(pieces), spans=spans)


def _noisy(char: str, choice: random.Random) -> str:
    """As a scanner or a hurried hand writes a character."""
    if choice.random() >= _NOISE_SHARE:
        return "" if char in ",." and choice.random() < 0.1 else char
    if char == " ":
        return choice.choice(("  ", "\n", " "))
    if char.isalpha():
        return choice.choice((_LOOK_ALIKES.get(char, char), char + char, "", char.swapcase()))
    return char
