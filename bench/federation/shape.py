"""What is compared: so many sites, rounds and weights."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Shape:
    """One federation of the bench.

    Attributes:
        sites: How many take part in every round.
        rounds: Rounds of the run; in each all sites train and evaluate.
        width: Of the two hidden layers of the network that is trained.
    """

    sites: int = 4
    rounds: int = 5
    width: int = 497

    @property
    def weights(self) -> int:
        """Trained float32 weights: one column of three slots, two labels."""
        return self.width * (3 + self.width + 2) + 2
