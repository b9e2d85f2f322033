"""Which of a subject's texts say nearly the same: MinHash sketches, and a count to be sure.

* Texts are compared by their runs of `RUN_WORDS` words, in small letters, without marks. How much
  two share is the Jaccard index of these sets: notes that were copied forward share most.
* Sketches propose pairs (Broder 1997; banding as in Leskovec, Rajaraman, Ullman, *Mining of Massive
  Datasets*, 3.4); each is then compared exactly. So what is called near is near; of pairs that
  share a fraction s, 1 - (1 - s**4)**16 are proposed: 98.7 % at 0.7, 99.98 % at 0.8.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Sequence
from typing import Final

RUN_WORDS: Final = 3
"""Single words are shared by texts that say different things; longer runs break at each change."""

BANDS: Final = 16
ROWS: Final = 4

_PRIME: Final = 2**61 - 1
_WORD: Final = re.compile(r"\w+")


def _coefficients() -> list[tuple[int, int]]:
    """Of the hash functions: fixed, so that the same texts give the same answer everywhere."""
    made = []
    for at in range(BANDS * ROWS):
        raw = hashlib.blake2b(f"fiduciary.minhash/{at}".encode(), digest_size=16).digest()
        made.append((1 + int.from_bytes(raw[:8], "big") % (_PRIME - 1),
                     int.from_bytes(raw[8:], "big") % _PRIME))  # fmt: skip
    return made


_COEFFICIENTS: Final = _coefficients()


def near_duplicates(texts: Sequence[str], least: float) -> list[int]:
    """Positions of texts that are near an earlier one which stays, in order.

    Args:
        texts: One subject's.
        least: The Jaccard index from which on two are near, in [0.7, 1].

    >>> near_duplicates(["a b c d e f g", "x y z", "A b c, d e f g!", "a b c"], 0.9)
    [2]
    """
    kept: defaultdict[tuple[int, tuple[int, ...]], list[int]] = defaultdict(list)
    runs: list[frozenset[int]] = []
    near: list[int] = []
    for at, text in enumerate(texts):
        mine = _runs(text)
        runs.append(mine)
        bands = _bands(mine)
        proposed = {other for band in bands for other in kept[band]}
        if any(_shared(mine, runs[other]) >= least for other in sorted(proposed)):
            near.append(at)
            continue
        for band in bands:
            kept[band].append(at)
    return near


def _runs(text: str) -> frozenset[int]:
    words = _WORD.findall(text.casefold())
    last = max(1, len(words) - RUN_WORDS + 1)
    return frozenset(
        int.from_bytes(
            hashlib.blake2b(" ".join(words[at : at + RUN_WORDS]).encode(), digest_size=7).digest(),
            "big",
        )
        for at in range(last)
    )


def _bands(runs: frozenset[int]) -> list[tuple[int, tuple[int, ...]]]:
    sketch = [min((a * run + b) % _PRIME for run in runs) for a, b in _COEFFICIENTS]
    return [(band, tuple(sketch[band * ROWS : (band + 1) * ROWS])) for band in range(BANDS)]


def _shared(one: frozenset[int], other: frozenset[int]) -> float:
    return len(one & other) / len(one | other)
