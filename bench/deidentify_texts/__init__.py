"""Labelled texts about people who do not exist, to measure de-identification on.

* Templates of clinical notes, letters, forms, messages and chats, in two families: `seen.txt`, which
  whoever works on the recognisers may read the misses of, and `aside.txt`, whose misses nobody
  reads: its figures say what to expect of text that no rule was written for.
* Names, addresses, phones and dates come from Faker in the manners of many countries, other
  countries for each family; record numbers, plates and the like are made here.
* `forms` writes the same texts as careless people and scanners do, with the labels kept in place.
* `everyday.json` and `everyday_noisy.json`, `written_again_*.json` and `written_*.json` were written by
  hand by people who knew neither the rules nor the templates; docs/deidentification.md has the first
  readings. The misses of the first two have not been looked at, those of the others have: who works on
  the recognisers next has others written. They are files for `python -m bench.deidentify FILE …`.

Needs Faker, which the product does not; without it an error says which release to install. The texts
are the same each time they are made.
"""

from bench.deidentify_texts.generation import FAMILIES, forms, generate

__all__ = ["FAMILIES", "forms", "generate"]
