"""How well a site's de-identification did, as a site says it, and what may be asked of it."""

from __future__ import annotations

from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from typing import Annotated, Final, Literal, Self

from pydantic import Field, model_validator

from compliance.statements.documents import Document, Fraction, Time

Share = Annotated[Fraction, Field(ge=0, le=1)]

Method = Literal["evaluation", "review"]
"""On labelled texts that the site has, or on its own rows that a person looked through."""

FIGURE_DIGITS: Final = Decimal("0.0001")


class DeidentificationFigures(Document):
    """What one measurement of a pipeline found. Shares of a sample; it counts nobody.

    `recall_at_least` is the lower limit of the share of identifying characters that is found in a
    text, on average over texts; `leak_share_at_most` the upper limit of the share of texts in which
    at least one is missed. Each errs with a chance of 5 % (`client.recall.bounds`).
    """

    method: Method
    recall: Share
    """Share of all identifying characters that was found."""
    recall_at_least: Share
    leak_share: Share
    leak_share_at_most: Share
    measured_at: Time

    @model_validator(mode="after")
    def _bounds_hold(self) -> Self:
        if self.leak_share > self.leak_share_at_most:
            raise ValueError("leak_share: more than leak_share_at_most")
        return self


class DeidentificationDemand(Document):
    """What a plan asks of the pipeline that made each dataset; limits are held, not estimates.

    `measured` says how: on labelled texts, by a person's review of own rows, or either.
    """

    minimum_recall: Share | None = None
    maximum_leak_share: Share | None = None
    measured: Literal["evaluation", "review", "either"] = "either"
    not_older_than_days: Annotated[int, Field(ge=1, le=36_500)] = 365

    @model_validator(mode="after")
    def _asks_something(self) -> Self:
        if self.minimum_recall is None and self.maximum_leak_share is None:
            raise ValueError("a demand names minimum_recall, maximum_leak_share or both")
        return self


def at_least(value: float) -> Decimal:
    """A share as statements write a lower limit: rounded down.

    >>> at_least(0.97129)
    Decimal('0.9712')
    """
    return Decimal(repr(value)).quantize(FIGURE_DIGITS, ROUND_FLOOR)


def at_most(value: float) -> Decimal:
    """A share as statements write an upper limit: rounded up.

    >>> at_most(0.0312001)
    Decimal('0.0313')
    """
    return Decimal(repr(value)).quantize(FIGURE_DIGITS, ROUND_CEILING)
