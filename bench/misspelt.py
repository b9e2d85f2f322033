"""Searches abstracts for what is known of people who are not in them, and for their names mistyped.

    python -m bench.misspelt [--people 10] [--seed 5]

* Spurious: each abstract of `medical_abstracts` is searched for so many invented people (names of
  the package's lists, numbers, an address). What is found beyond what stands there to the letter is
  a word that was taken for a slip.
* Found: every listed name of five letters or more is written with one random slip, and with two,
  and searched for. What is an everyday or learned word then is counted apart.

The last line is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import string
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from bench.accuracy.datasets import read_medical_abstracts
from client.deidentification.language_model import NamesOnlyEngine, model_folder
from client.deidentification.lexicon import Lexicon, load_lexicon
from client.deidentification.near_matches import MIN_ONE_SLIP_LETTERS, slips_allowed
from client.deidentification.person_level import Identifier, SubjectSearch, known_identifiers


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--people", type=int, default=10, help="that each abstract is searched for")
    parser.add_argument("--seed", type=int, default=5)
    options = parser.parse_args()
    folder = Path(os.environ.get("FIDUCIARY_DATA", "../shared/data")) / "medical_abstracts"
    dataset = read_medical_abstracts(folder)
    everybody = [*dataset.test, *(one for part in dataset.sites.values() for one in part)]
    engine = NamesOnlyEngine(model_folder())
    engine.load()
    lexicon = load_lexicon(engine.words, engine.other_than_nouns)
    draw = random.Random(options.seed)  # noqa: S311 - a seed gives the same people again
    told = spurious([record.text for record in everybody], lexicon, draw, options.people)
    told |= {f"slips_{slips}": slipped(lexicon, draw, slips) for slips in (1, 2)}
    print(json.dumps(told))


def spurious(
    texts: Sequence[str], lexicon: Lexicon, draw: random.Random, people: int
) -> dict[str, object]:
    """Words taken for slips of people who are not there, and the processor time of the search."""
    words: Counter[str] = Counter()
    seconds = 0.0
    given, surnames = (
        sorted(names | lexicon.ambiguous_names) for names in (lexicon.given_names, lexicon.surnames)
    )
    lists = (given, surnames, surnames, sorted(lexicon.place_words))
    for text in texts:
        known = known_identifiers(value for _ in range(people) for value in columns(lists, draw))
        begin = time.process_time()
        found = set(SubjectSearch((), lexicon, known).find(text))
        seconds += time.process_time() - begin
        exact = set(SubjectSearch(known, lexicon).find(text))
        words.update(text[one.start : one.end].lower() for one in found - exact)
    print(f"{words.total()} words of {len(texts)} abstracts taken for slips: {dict(words)}")
    return {
        "abstracts": len(texts),
        "people_each": people,
        "spurious": words.total(),
        "milliseconds_an_abstract": round(1000 * seconds / len(texts), 3),
    }


def columns(lists: Sequence[Sequence[str]], draw: random.Random) -> tuple[str, str, str, str]:
    """What a row says of an invented person: name, telephone, record number, address."""
    given, family, street, town = map(draw.choice, lists)
    return (
        f"{given} {family}".title(),
        f"07{draw.randrange(10**9):09}",
        f"{draw.randrange(10**8):08}",
        f"{draw.randrange(1, 99)} {street} Road, {town}".title(),
    )


def slipped(lexicon: Lexicon, draw: random.Random, slips: int) -> dict[str, int]:
    """How many listed names are found with so many slips; two in those that may have two."""
    counts: Counter[str] = Counter()
    for name in sorted(lexicon.given_names | lexicon.surnames):
        if (
            len(name) < MIN_ONE_SLIP_LETTERS
            or not name.isalpha()
            or slips_allowed(len(name)) < slips
        ):
            continue
        written = name
        for _ in range(slips):
            written = with_slip(written, draw)
        search = SubjectSearch((), lexicon, (Identifier("PERSON", name),))
        if list(search.find(written)):
            counts["found"] += 1
        elif lexicon.is_everyday(written) or lexicon.is_jargon(written):
            counts["a word of its own"] += 1
        else:
            counts["missed"] += 1
    print(f"with {slips} slips: {dict(counts)}")
    return dict(counts)


def with_slip(word: str, draw: random.Random) -> str:
    """A letter is wrong, missing or too many, or two changed places."""
    at = draw.randrange(len(word))
    head, tail, letter = word[:at], word[at:], draw.choice(string.ascii_lowercase)
    ways = (tail[1:], letter + tail, letter + tail[1:], tail[1:2] + tail[:1] + tail[2:])
    return head + draw.choice(ways)


if __name__ == "__main__":
    main()
