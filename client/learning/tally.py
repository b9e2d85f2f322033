"""What can be counted at sites and summed over them: named arrays of integers.

* `+` is exact and order does not matter, so sums can be made by anybody, or by a protocol that
  shows nobody the summands.
* What comes from elsewhere is checked: a tally that no examples could have given is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from audit.errors import MalformedInput
from client.arrays import Arrays

Counts = npt.NDArray[np.int64]

MAX_EXAMPLES = 10**9
"""No site holds more; keeps every count and fixed-point sum far from the end of int64."""


@dataclass(frozen=True, eq=False)
class Tally:
    """Integer arrays over some examples that add up; `+` gives those over both.

    A kind of tally is a subclass whose fields are its arrays, all of them int64.
    """

    @classmethod
    def shapes(cls, label_count: int) -> dict[str, tuple[int, ...]]:
        """Shape of each array."""
        raise NotImplementedError

    @property
    def label_count(self) -> int:
        """Number of labels; 0 where there are none."""
        raise NotImplementedError

    @property
    def examples(self) -> int:
        """Number of what was predicted: records, or tokens."""
        raise NotImplementedError

    @classmethod
    def empty(cls, label_count: int) -> Self:
        """Counts over no examples."""
        shapes = cls.shapes(label_count)
        return cls(**{name: np.zeros(shape, np.int64) for name, shape in shapes.items()})

    def __add__(self, other: Self) -> Self:
        """Counts over the examples of both.

        Raises:
            MalformedInput: When they are about different numbers of labels.
        """
        if type(self) is not type(other) or self.label_count != other.label_count:
            raise MalformedInput(
                f"counts of {self.label_count} labels cannot be added to counts of "
                f"{other.label_count}",
                fix="evaluate the same plan at every site",
            )
        names = self.shapes(self.label_count)
        return type(self)(**{name: getattr(self, name) + getattr(other, name) for name in names})

    def to_arrays(self, prefix: str = "") -> dict[str, Counts]:
        """As they travel: int64 arrays by name."""
        return {prefix + name: getattr(self, name) for name in self.shapes(self.label_count)}

    @classmethod
    def from_arrays(cls, arrays: Arrays, label_count: int, prefix: str = "") -> Self:
        """Read what `to_arrays` wrote, believing nothing.

        Raises:
            MalformedInput: With the first thing that no examples could have given.
        """
        shapes = cls.shapes(label_count)
        for name, shape in shapes.items():
            array = arrays[prefix + name]
            if array.dtype != np.int64 or array.shape != shape:
                raise malformed(
                    f"expected int64 {name} of shape {shape}, got {array.dtype} {array.shape}"
                )
        counts = cls(**{name: arrays[prefix + name] for name in shapes})
        counts.check()
        return counts

    def check(self) -> None:
        """Refuse arrays that no examples could have given.

        Raises:
            MalformedInput: With the first thing that is wrong.
        """
        raise NotImplementedError


def malformed(reason: str) -> MalformedInput:
    """The error for counts that no examples could have given."""
    return MalformedInput(
        f"malformed evaluation: {reason}", fix="run the same version at every site"
    )
