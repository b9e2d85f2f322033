"""95 % confidence intervals of shares, areas and means of clusters, from counts alone.

| of | by |
|---|---|
| a share | Wilson (1927), Statist. Assoc. 22 |
| an area under a ROC curve | method 5 of Newcombe (2006), Statistics in Medicine 25:559-573, which
  inverts the variance of Hanley & McNeil (1982), Radiology 143:29-36, and does not collapse at 1 |
| a mean over members of clusters | linearised ratio of sums, clusters independent: Cochran (1977),
  Sampling Techniques, section 6.4 |
"""

from __future__ import annotations

import math

Interval = tuple[float, float]
"""Lower and upper end of a 95 % confidence interval."""

Z_95 = 1.959963984540054
"""97.5 % quantile of the standard normal distribution."""

REPORT_DIGITS = 6
_BISECTIONS = 60  # halve [0, 1] to below a float's resolution


def wilson_interval(right: int, total: int) -> Interval:
    """95 % score interval of a share; everything is possible of nothing seen.

    >>> wilson_interval(0, 0)
    (0.0, 1.0)
    >>> [round(end, 4) for end in wilson_interval(81, 263)]
    [0.2553, 0.3662]
    """
    if not total:
        return (0.0, 1.0)
    share, spread = right / total, Z_95**2 / total
    centre = (share + spread / 2) / (1 + spread)
    half = math.sqrt(share * (1 - share) * spread + spread**2 / 4) / (1 + spread)
    low = 0.0 if right == 0 else centre - half
    return (low, 1.0 if right == total else centre + half)


def auc_interval(value: float, own: int, others: int) -> Interval:
    """Areas whose own standard error reaches `value`: Newcombe (2006), method 5.

    Args:
        value: The area, in [0, 1].
        own: Examples that should score above, at least 1.
        others: Examples that should score below, at least 1.
    """
    mean = (own + others) / 2 - 1

    def compatible(area: float) -> bool:
        variance = area * (1 - area) / own / others
        variance *= 1 + mean * (1 - area) / (2 - area) + mean * area / (1 + area)
        return abs(area - value) <= Z_95 * math.sqrt(max(variance, 0.0))

    def end(outside: float) -> float:
        inside = value
        for _ in range(_BISECTIONS):
            middle = (inside + outside) / 2
            if compatible(middle):
                inside = middle
            else:
                outside = middle
        return inside

    return (0.0 if compatible(0.0) else end(0.0), 1.0 if compatible(1.0) else end(1.0))


def ratio_interval(
    clusters: int, members: int, total: float, squares: tuple[float, float, float]
) -> Interval | None:
    """95 % interval of `total / members`, where the members of a cluster resemble each other.

    Args:
        clusters: Number of clusters.
        members: Number of members over all clusters, at least 1.
        total: Sum of the members' values.
        squares: Sums over clusters of a cluster's members squared, its members times its total,
            and its total squared.

    Returns:
        None for fewer than two clusters: nothing says how they differ.

    Four clusters of one member each are a plain sample:

    >>> ratio_interval(4, 4, 10.0, (4.0, 10.0, 30.0))
    (1.23484868811834, 3.76515131188166)
    """
    if clusters < 2:
        return None
    mean = total / members
    of_members, of_both, of_totals = squares
    residuals = max(0.0, of_totals - 2 * mean * of_both + mean**2 * of_members)
    half = Z_95 * math.sqrt(residuals * clusters / (clusters - 1)) / members
    return (mean - half, mean + half)


def rounded(value: float) -> float:
    """As reports tell figures."""
    return round(value, REPORT_DIGITS)


def rounded_interval(interval: Interval) -> Interval:
    """As reports tell intervals."""
    return (rounded(interval[0]), rounded(interval[1]))


def rounded_share(part: int, whole: int) -> float | None:
    """As reports tell shares; None of nothing.

    >>> rounded_share(2, 3), rounded_share(0, 0)
    (0.666667, None)
    """
    return rounded(part / whole) if whole else None


def share_interval(part: int, whole: int) -> Interval | None:
    """As reports tell the interval of a share; None of nothing."""
    return rounded_interval(wilson_interval(part, whole)) if whole else None
