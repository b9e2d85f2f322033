"""Whether what was measured of a site's de-identification is what is asked of it. Pure.

* The limits of the measurement count, not its estimates: a small sample says little, and its limits
  say so.
* What was measured longer ago than is asked counts as not measured.
* One measurement must keep the whole demand; two may not share it out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from audit.words import count_of
from compliance.statements import DeidentificationDemand, DeidentificationFigures


def shortfall(
    demand: DeidentificationDemand, figures: Sequence[DeidentificationFigures], now: datetime
) -> str:
    """Why a demand is not kept, in words for an operator; empty when it is.

    Args:
        demand: What is asked.
        figures: What was measured; the newest of each method.
        now: The moment to count age from.
    """
    how = "" if demand.measured == "either" else f" by {demand.measured}"
    wanted = [each for each in figures if demand.measured in ("either", each.method)]
    if not wanted:
        return f"it was not measured{how}"
    oldest = now - timedelta(days=demand.not_older_than_days)
    fresh = [each for each in wanted if datetime.fromisoformat(each.measured_at) >= oldest]
    if not fresh:
        return f"it was not measured{how} within {count_of(demand.not_older_than_days, 'day')}"
    reasons = [_missed(demand, each) for each in fresh]
    return "" if "" in reasons else reasons[0]


def _missed(demand: DeidentificationDemand, figures: DeidentificationFigures) -> str:
    least, most = demand.minimum_recall, demand.maximum_leak_share
    if least is not None and figures.recall_at_least < least:
        return (
            f"{figures.method} shows a recall of at least {figures.recall_at_least}, "
            f"{least} is asked"
        )
    if most is not None and figures.leak_share_at_most > most:
        return (
            f"{figures.method} shows at most {figures.leak_share_at_most} of texts with a leak, "
            f"{most} is allowed"
        )
    return ""


def in_words(figures: Iterable[DeidentificationFigures]) -> str:
    """What was measured, for people.

    >>> from compliance.statements import DeidentificationFigures
    >>> in_words([])
    'not measured'
    >>> in_words([DeidentificationFigures(
    ...     method="review", recall="0.99", recall_at_least="0.95", leak_share="0.01",
    ...     leak_share_at_most="0.04", measured_at="2026-11-02T10:00:00Z")])
    'at least 0.95, texts with a leak at most 0.04 (review of 2026-11-02)'
    """
    told = [
        f"at least {each.recall_at_least}, texts with a leak at most {each.leak_share_at_most} "
        f"({each.method} of {each.measured_at[:10]})"
        for each in figures
    ]
    return "; ".join(told) or "not measured"
