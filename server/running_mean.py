"""The mean of updates that come one by one: the same bytes in whatever order they come.

* An update is added when it was accepted, and can be forgotten then: memory does not depend on the
  number of sites.
* A rule that compares the sites' updates needs them all: `Updates` keeps them for those alone.
* Floating-point addition depends on the order of its terms, so that a round that is run again, with
  the same updates, could give another model and another digest. Integers do not: each weight is
  added as two of them. No weight is above `MAX_WEIGHT`, and no plan has more than `MAX_UPDATES`
  sites, so the units are fixed and nothing overflows.
* The first counts units of 2^-32, the second what is left in units of 2^-84. A sum is exact but for
  what lies below that: it is at least as exact as a sum in float64.

Reference: fixed-point accumulation as in Demmel & Nguyen, "Parallel Reproducible Summation", IEEE
Transactions on Computers 64(7), 2015, with the bound known beforehand.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from audit.errors import MalformedInput
from client.arrays import Arrays
from client.learning.plan_model import State, check_state
from compliance.statements import TrainingPlan

MAX_UPDATES: Final = 1000
"""As many sites as a plan can name (`TrainingPlan.sites`)."""

_COARSE: Final = -32
"""Exponent of the first unit: 1000 weights of 1e6 are below 2^30, so below 2^62 units."""

_FINE: Final = _COARSE - 52
"""Exponent of the second: 1000 halves of a first unit are below 2^61 of these."""

_BLOCK: Final = 1 << 16
"""Weights at a time: temporary arrays stay small, whatever the model."""


class RunningMean:
    """Adds updates up.

    Args:
        like: The global state, for names and shapes.

    >>> one = {"w": np.array([1, 0.1], np.float32)}
    >>> mean = RunningMean(one)
    >>> mean.add(one)
    >>> mean.add({"w": np.array([2, -0.1], np.float32)})
    >>> mean.value()["w"]
    array([1.5, 0. ], dtype=float32)
    """

    def __init__(self, like: State) -> None:
        self._like = like
        self._count = 0
        self._sums = {
            name: np.zeros((2, array.size), dtype=np.int64) for name, array in like.items()
        }

    @property
    def count(self) -> int:
        """How many updates were added."""
        return self._count

    def add(self, update: Arrays) -> None:
        """Add an update.

        Raises:
            MalformedInput: When it has other names or shapes, is not finite or too large, or is one
                too many; the sum is then as it was.
        """
        check_state(update, self._like)
        if self._count == MAX_UPDATES:
            raise MalformedInput(f"more than {MAX_UPDATES} updates")
        for name, sums in self._sums.items():
            weights = update[name].reshape(-1)
            for first in range(0, weights.size, _BLOCK):
                block = slice(first, first + _BLOCK)
                self._add_block(sums[:, block], weights[block].astype(np.float64))
        self._count += 1

    def _add_block(self, sums: npt.NDArray[np.int64], weights: npt.NDArray[np.float64]) -> None:
        # Scaling by a power of two and this subtraction are exact.
        coarse = np.rint(np.ldexp(weights, -_COARSE))
        rest = weights - np.ldexp(coarse, _COARSE)
        sums[0] += coarse.astype(np.int64)
        sums[1] += np.rint(np.ldexp(rest, -_FINE)).astype(np.int64)

    def value(self) -> State:
        """The mean, float32.

        Raises:
            MalformedInput: When nothing was added.
        """
        if not self._count:
            raise MalformedInput("no update to aggregate", fix="wait for a quorum of sites")
        means: State = {}
        for name, sums in self._sums.items():
            mean = np.empty(sums.shape[1], dtype=np.float32)
            for first in range(0, mean.size, _BLOCK):
                block = slice(first, first + _BLOCK)
                whole = np.ldexp(sums[0, block].astype(np.float64), _COARSE)
                rest = np.ldexp(sums[1, block].astype(np.float64), _FINE)
                mean[block] = (whole + rest) / self._count
            means[name] = mean.reshape(self._like[name].shape)
        return means


class Updates:
    """What is kept of a round's accepted updates until all are in.

    Args:
        plan: Says which rule makes one update of them.
        like: The global state, for names and shapes.
    """

    def __init__(self, plan: TrainingPlan, like: State) -> None:
        self._mean = RunningMean(like) if plan.aggregation.rule == "mean" else None
        self._kept: dict[str, State] = {}

    def add(self, site: str, update: Arrays) -> None:
        """Take a site's accepted update.

        Raises:
            MalformedInput: When it does not fit.
        """
        if self._mean is not None:
            self._mean.add(update)
        else:
            self._kept[site] = dict(update)

    def values(self) -> list[State]:
        """Their mean, or all of them in the order of their sites' names.

        Raises:
            MalformedInput: When there is none and the rule is the mean.
        """
        if self._mean is not None:
            return [self._mean.value()]
        return [self._kept[site] for site in sorted(self._kept)]
