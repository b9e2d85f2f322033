"""Arrays as elements of a ring, so that sums of them are exact and can be masked.

Formal guarantees:

* **Headroom.** With `n` sites each number is at most `limit = (2**31 - 1) // n` in magnitude, so a
  sum of `n` lies within ±(2**31 - 1) and never wraps: what `decode` gives is the exact sum of what
  the sites encoded.
* **Bounded by construction.** Whatever a site sends, the mean that is decoded lies within ±`bound`
  in every coordinate.
* **Privacy.** Clipping to ±`bound` and rounding to `unit` are the same public function for
  everybody, applied to the noisy update: post-processing, which costs no epsilon.
* **Accuracy.** Rounding moves a number by at most `unit / 2`. `bound` is at least four of the
  longest steps that a population of the plan's nominal size can make in a single coordinate, and
  ten standard deviations of the noise: for 16 sites, 1,000 subjects and a noise multiplier of 1 the
  noise has over 15,000 units to a standard deviation. A site with more subjects than that, who all
  pull at one coordinate, is cut there.
* **One unit.** It is a power of two that the coordinator states and every site uses as stated; it
  has no influence on what is learned of anybody.

| edge case | what happens |
|---|---|
| NaN or ±inf | `ValueError`: it is not encoded as any number |
| a number beyond the bound | cut to it |
| no arrays, or empty ones | an empty vector |
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from audit.words import count_of
from client.secure_aggregation.masks import Vector
from compliance.statements import TrainingPlan

SUBJECTS_OVER_NOMINAL: Final = 4
NOISE_DEVIATIONS: Final = 10

Arrays = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class FixedPoint:
    """How real numbers of a round travel.

    Attributes:
        exponent: One unit is two to this power.
        sites: Most sites whose numbers are summed.
    """

    exponent: int
    sites: int

    @classmethod
    def covering(cls, bound: float, sites: int) -> FixedPoint:
        """The finest form that holds numbers up to `bound`, above 0, from each of the sites."""
        return cls(math.ceil(math.log2(bound / _limit(sites))), sites)

    @classmethod
    def of(cls, plan: TrainingPlan, round_index: int, stretch: float = 1.0) -> FixedPoint:
        """What a plan's round needs.

        Args:
            plan: States everything but `SUBJECTS_OVER_NOMINAL`.
            round_index: From 0.
            stretch: `client.learning.plan_model.PlanModel.stretch` of the plan's model.

        Raises:
            MalformedInput: When the plan has no such round.
        """
        phase = plan.phase_of(round_index)
        divisor = float(phase.sampling_rate) * plan.privacy.nominal_subjects
        noise = NOISE_DEVIATIONS * float(phase.noise_multiplier) / divisor
        step = float(phase.learning_rate) * float(phase.max_grad_norm)
        bound = phase.steps_per_round * step * (SUBJECTS_OVER_NOMINAL + noise)
        return cls.covering(bound * max(1.0, stretch), len(plan.sites))

    @property
    def limit(self) -> int:
        """Most units in a number."""
        return _limit(self.sites)

    @property
    def unit(self) -> float:
        """What one step of the ring is worth."""
        return math.ldexp(1.0, self.exponent)

    @property
    def bound(self) -> float:
        """Largest magnitude of a number."""
        return self.limit * self.unit

    def holds(self, arrays: Arrays) -> bool:
        """Whether `encode` cuts nothing: every number lies within the bound."""
        return all(float(np.abs(array).max(initial=0)) <= self.bound for array in arrays.values())

    def encode(self, arrays: Arrays) -> Vector:
        """Arrays, in the order of their names, as one vector modulo 2**32.

        >>> FixedPoint(exponent=-4, sites=2).encode({"w": np.array([1.0, -1.0])})
        array([        16, 4294967280], dtype=uint32)
        """
        parts = []
        for name in sorted(arrays):
            numbers = np.asarray(arrays[name], np.float64).ravel()
            if not np.isfinite(numbers).all():
                raise ValueError(f"{name} is not finite")
            units = np.rint(np.clip(numbers, -self.bound, self.bound) / self.unit)
            whole = np.clip(units, -self.limit, self.limit).astype(np.int64)
            parts.append(whole.astype("<u4"))
        return np.concatenate(parts) if parts else np.zeros(0, "<u4")

    def decode(self, total: Vector, like: Arrays) -> dict[str, npt.NDArray[np.float64]]:
        """A sum of encoded vectors as arrays of the names and shapes of `like`.

        Raises:
            ValueError: When the vector has another length.
        """
        return {
            name: units * self.unit
            for name, units in split_vector(total.view("<i4").astype(np.float64), like).items()
        }


def _limit(sites: int) -> int:
    return (2**31 - 1) // sites


def join_counts(arrays: Arrays) -> Vector:
    """Integer arrays, in the order of their names, as one vector modulo 2**64."""
    parts = [np.asarray(arrays[name], np.int64).ravel().astype("<u8") for name in sorted(arrays)]
    return np.concatenate(parts) if parts else np.zeros(0, "<u8")


def split_counts(total: Vector, like: Arrays) -> dict[str, npt.NDArray[np.int64]]:
    """A sum of `join_counts` as arrays of the names and shapes of `like`."""
    return split_vector(total.view("<i8").astype(np.int64), like)


def split_vector(vector: npt.NDArray[Any], like: Arrays) -> dict[str, npt.NDArray[Any]]:
    """Cut a vector into arrays, in the order of their names.

    Raises:
        ValueError: When the vector has another length.
    """
    sizes = {name: math.prod(like[name].shape) for name in sorted(like)}
    if vector.shape != (sum(sizes.values()),):
        raise ValueError(f"expected {count_of(sum(sizes.values()), 'number')}, got {vector.shape}")
    arrays, start = {}, 0
    for name, size in sizes.items():
        arrays[name] = vector[start : start + size].reshape(like[name].shape)
        start += size
    return arrays
