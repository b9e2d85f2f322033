"""What a site tells of a language model on its held-out subjects: counts of predicted tokens.

* A token's loss is the negative logarithm of the probability that the model gave it, in nats. It is
  cut at `LARGEST_LOSS` and summed in fixed point: the sums are exact, and no float leaves a site.
* Sums of products over records make the interval of the perplexity one over independent records:
  tokens of one record are no independent trials.
* The likeliest token's share of right predictions has an interval that takes tokens as independent;
  it is too narrow.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from audit.errors import MalformedInput
from audit.words import count_of
from client.learning.intervals import (
    Interval,
    ratio_interval,
    rounded,
    rounded_interval,
    wilson_interval,
)
from client.learning.tally import MAX_EXAMPLES, Counts, Tally, malformed

LARGEST_LOSS = 32.0
"""A probability below 1e-14 counts as this."""

LOSS_UNIT = 2**16
"""A loss of 1 in the sum of losses: a token's is exact to 1e-5."""

PRODUCT_UNIT = 2**3
"""Of products with a record's loss. The sums over a thousand sites of `MAX_EXAMPLES` tokens each
stay below the end of int64."""

MAX_RECORD_TOKENS = 512
"""The longest record that a plan can ask for."""

_TOKENS, _RIGHT, _LOSS, _RECORDS = range(4)


@dataclass(frozen=True, eq=False)
class LanguageCounts(Tally):
    """Counts over predicted tokens.

    Attributes:
        predictions: `(4,)`: tokens, how many of them were the likeliest one, the sum of their
            losses in `LOSS_UNIT`, and the records that they are of.
        products: `(3,)`: sums over records of its tokens squared, its tokens times its loss, and
            its loss squared, a record's loss being the sum over its tokens; the last two in
            `PRODUCT_UNIT`.
    """

    predictions: Counts
    products: Counts

    @classmethod
    def shapes(cls, label_count: int = 0) -> dict[str, tuple[int, ...]]:
        """Shape of each array."""
        del label_count
        return {"predictions": (4,), "products": (3,)}

    @classmethod
    def count(cls, records: Sequence[npt.NDArray[np.floating]]) -> Self:
        """Count records.

        Args:
            records: Of each, `(tokens, 2)`: a token's loss, and whether it was the likeliest.

        Raises:
            MalformedInput: When a loss is not finite.

        >>> LanguageCounts.count([np.array([[0.5, 1.0], [1.5, 0.0]])]).predictions.tolist()
        [2, 1, 131072, 1]
        """
        counts = cls.empty(0)
        for record in records:
            tokens = len(record)
            if not tokens:
                continue
            if not np.isfinite(record).all():
                raise MalformedInput(
                    "the model gives scores that are not finite", fix="refuse this model"
                )
            losses = record[:, 0].astype(np.float64).clip(0.0, LARGEST_LOSS)
            loss = float(losses.sum())
            told = (tokens, int(record[:, 1].sum()), int(np.rint(losses * LOSS_UNIT).sum()), 1)
            counts.predictions[:] += np.array(told, np.int64)
            products = (
                tokens**2,
                round(tokens * loss * PRODUCT_UNIT),
                round(loss**2 * PRODUCT_UNIT),
            )
            counts.products[:] += np.array(products, np.int64)
        return counts

    @property
    def label_count(self) -> int:
        """Language has no labels."""
        return 0

    @property
    def examples(self) -> int:
        """Number of predicted tokens."""
        return int(self.predictions[_TOKENS])

    def check(self) -> None:
        """Refuse arrays that no records could have given."""
        tokens, right, loss, records = (int(number) for number in self.predictions)
        of_tokens, of_both, of_losses = (int(number) for number in self.products)
        if min(tokens, right, loss, records, of_tokens, of_both, of_losses) < 0:
            raise malformed("its predictions hold numbers that cannot be counts")
        if tokens > MAX_EXAMPLES:
            raise malformed(f"it counts {count_of(tokens, 'token')}, more than {MAX_EXAMPLES}")
        if right > tokens or not records <= tokens <= records * MAX_RECORD_TOKENS:
            raise malformed("its predictions count other tokens than there are")
        if loss > tokens * LARGEST_LOSS * LOSS_UNIT:
            raise malformed("its losses are larger than they can be")
        # Records have at least one token and at most `MAX_RECORD_TOKENS`; a sum of n squares is at
        # least the square of the sum over n. Losses are rounded by less than the slack.
        nats = loss / LOSS_UNIT
        bounds = (
            (of_tokens, tokens**2 / max(records, 1), MAX_RECORD_TOKENS * tokens, 1),
            (of_both, nats, MAX_RECORD_TOKENS * nats, PRODUCT_UNIT),
            (
                of_losses,
                nats**2 / max(records, 1),
                MAX_RECORD_TOKENS * LARGEST_LOSS * nats,
                PRODUCT_UNIT,
            ),
        )
        for product, least, most, unit in bounds:
            slack = 0 if unit == 1 else records + 2 * tokens
            if not least * unit - slack <= product <= most * unit + slack:
                raise malformed("its products are not those of its predictions")


@dataclass(frozen=True)
class LanguageSummary:
    """Figures of a language model. `examples` are tokens, `accuracy` is the likeliest one's."""

    examples: int
    records: int
    accuracy: float
    accuracy_interval: Interval
    perplexity: float | None
    perplexity_interval: Interval | None


def language_summary(counts: LanguageCounts) -> LanguageSummary:
    """Figures of the summed counts; no perplexity of nothing.

    Perplexity is the exponential of the mean loss of a token, and so are the ends of its interval.
    """
    tokens, right, loss, records = (int(number) for number in counts.predictions)
    of_tokens, of_both, of_losses = (int(number) for number in counts.products)
    perplexity, interval = None, None
    if tokens:
        nats = loss / LOSS_UNIT
        perplexity = rounded(math.exp(nats / tokens))
        products = (float(of_tokens), of_both / PRODUCT_UNIT, of_losses / PRODUCT_UNIT)
        ends = ratio_interval(records, tokens, nats, products)
        if ends is not None:
            low, high = max(ends[0], 0.0), min(ends[1], LARGEST_LOSS)
            interval = rounded_interval((math.exp(low), math.exp(high)))
    return LanguageSummary(
        examples=tokens,
        records=records,
        accuracy=rounded(right / tokens) if tokens else 0.0,
        accuracy_interval=rounded_interval(wilson_interval(right, tokens)),
        perplexity=perplexity,
        perplexity_interval=interval,
    )


def language_in_words(figures: LanguageSummary) -> str:
    """The figures in one line."""
    low, high = figures.accuracy_interval
    line = f"next-token accuracy {figures.accuracy:.6f} (95 % interval {low:.4f} to {high:.4f})"
    if figures.perplexity is not None:
        line = f"perplexity {figures.perplexity:.4f}{_between(figures)}, {line}"
    return line


def _between(figures: LanguageSummary) -> str:
    if figures.perplexity_interval is None:
        return ""
    low, high = figures.perplexity_interval
    return f" (95 % interval {low:.4f} to {high:.4f})"
