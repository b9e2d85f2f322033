"""One update out of several, while a minority of the sites may send anything.

Formal guarantees, for `n` updates of which at most `f = tolerated` come from hostile sites, who may
know all others and agree with each other:

* `trimmed_mean` and `median` (Yin et al. 2018, arXiv 1803.01498), `n >= 2f + 1`: each number of
  the result lies between the smallest and the largest that honest sites sent for it.
* `krum` (Blanchard et al. 2017, arXiv 1703.02757), `n >= 2f + 3`: the result is one of the updates,
  and no further from the nearest honest one than `D * sqrt((n - f - 2) / (n - 2f - 1))`, with `D`
  the largest distance between two honest ones. (The best honest score is at most `(n - f - 2) *
  D²`; of the neighbours that a hostile update is scored by, `n - 2f - 1` at least are honest.)
* All read nothing but private updates: they are post-processing, and cost no privacy.

What they do not promise: honest sites that differ leave room between them, and noise makes them
differ. Who stays within that room moves the result within it, round after round.

| edge case | what happens |
|---|---|
| fewer updates than the rule needs | refused; no weaker rule stands in |
| an even number of updates | the median is the mean of the two in the middle |
| two scores of `krum` are equal | the first in the given order, that of the sites' names |
| equal updates | each counts; copies of one honest site's update are hostile sites like any other |
| NaN or infinite | never come here: `check_state` refuses them |

Flower has the same rules (`flwr.server.strategy.aggregate`), and tests compare with them. Not used
here: they compute in float32 (Krum's distances by a difference of squares, which cancels), take a
fraction instead of a number of sites and cut `int(fraction * n)`, and draw a server's dependencies
into what a partner must review.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Updates = Sequence[Mapping[str, npt.NDArray[Any]]]
Combined = dict[str, npt.NDArray[np.float32]]


def mean(updates: Updates, tolerated: int = 0) -> Combined:
    """Each site weighs the same. One hostile site moves it by an n-th of what it may send."""
    del tolerated
    return _by_number(updates, lambda numbers: np.mean(numbers, axis=0))


def trimmed_mean(updates: Updates, tolerated: int) -> Combined:
    """Mean of each number without its `tolerated` smallest and largest.

    >>> sent = [{"a": np.array([value], np.float32)} for value in (1, 2, 3, 4, 1e6)]
    >>> float(trimmed_mean(sent, 1)["a"][0])
    3.0
    """
    kept = slice(tolerated, len(updates) - tolerated)
    # Sorted, not partitioned: the sum then does not depend on who sent what.
    return _by_number(updates, lambda numbers: np.mean(np.sort(numbers, axis=0)[kept], axis=0))


def median(updates: Updates, tolerated: int) -> Combined:
    """Median of each number, whatever `tolerated` is.

    >>> sent = [{"a": np.array([value], np.float32)} for value in (1, 2, 1e6)]
    >>> float(median(sent, 1)["a"][0])
    2.0
    """
    del tolerated
    return _by_number(updates, lambda numbers: np.median(numbers, axis=0))


def krum(updates: Updates, tolerated: int) -> Combined:
    """The update that lies closest to its `n - tolerated - 2` nearest others.

    The sum of squared distances to them is its score. The result is one site's update, with all of
    that site's noise: no averaging takes any of it away.
    """
    distances = _squared_distances(updates)
    closest = len(updates) - tolerated - 2
    np.fill_diagonal(distances, np.inf)  # none is its own neighbour, also among equals
    scores = np.sort(distances, axis=1)[:, :closest].sum(axis=1)
    chosen = updates[int(np.argmin(scores))]
    return {name: array.astype(np.float32) for name, array in chosen.items()}


RULES: Final[Mapping[str, Callable[[Updates, int], Combined]]] = {
    "mean": mean,
    "trimmed-mean": trimmed_mean,
    "median": median,
    "krum": krum,
}
"""By the plan's `aggregation.rule`."""


def _by_number(
    updates: Updates, fold: Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]
) -> Combined:
    """Fold what the sites sent for each number: `(sites, *shape)` to `(*shape)`, in float64."""
    return {
        name: np.asarray(fold(np.stack([u[name].astype(np.float64) for u in updates]))).astype(
            np.float32
        )
        for name in updates[0]
    }


def _squared_distances(updates: Updates) -> npt.NDArray[np.float64]:
    """`(sites, sites)`, in float64, array by array: no update is held twice as a whole."""
    count = len(updates)
    distances = np.zeros((count, count))
    for one in range(count):
        for other in range(one):
            squared = sum(
                float(np.square(mine.astype(np.float64) - updates[other][name]).sum())
                for name, mine in updates[one].items()
            )
            distances[one, other] = distances[other, one] = squared
    return distances
