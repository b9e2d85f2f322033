"""The sum of n equal privacy losses, as `dp-accounting` computes it, for many n at once.

The package cuts a sum to the range that Chernoff's bound leaves it, from moments of the single loss
at forty orders. They do not depend on n and are nine tenths of the work, and a site asks for one
more step after every round: here they are computed once. A test compares each number with the
package's own `self_compose`; both are exactly the same.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_ORDERS = (*range(-20, 0), *range(1, 21))
"""Over the number of bins: the orders of the package's bounds."""


@dataclass(frozen=True)
class SelfComposition:
    """One loss, ready to be added to itself.

    Attributes:
        loss: A `PrivacyLossDistribution` with dense parts.
        parts: Of its one or two orders of neighbours, the distribution and its moments.
    """

    loss: Any
    parts: tuple[tuple[Any, npt.NDArray[np.float64]], ...]

    @classmethod
    def of(cls, loss: Any) -> SelfComposition:
        """Compute the moments of a loss."""
        both = (loss._pmf_remove,) if loss._symmetric else (loss._pmf_remove, loss._pmf_add)
        dense = [part.to_dense_pmf() for part in both]
        return cls(loss, tuple((part, _log_moments(part._probs)) for part in dense))

    def repeated(self, count: int, tail: float) -> Any:
        """The loss added to itself.

        Args:
            count: How often, at least 1; from a few thousand on the bounds are loose.
            tail: Mass that may be moved to an infinite loss.
        """
        from dp_accounting.pld import privacy_loss_distribution as pld

        return pld.PrivacyLossDistribution(
            *(_repeated(part, moments, count, tail) for part, moments in self.parts)
        )


def _log_moments(probabilities: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Log of the moment generating function, at `_ORDERS` over the number of bins."""
    import numpy as np
    from scipy import special

    bins = np.arange(len(probabilities))
    orders = (order / len(probabilities) for order in _ORDERS)
    # Where the largest term's probability is hardly a float, a moment comes out infinite: `_bounds`
    # does without that order.
    with np.errstate(over="ignore"):
        return np.array([special.logsumexp(bins * order, b=probabilities) for order in orders])


def _repeated(part: Any, log_moments: npt.NDArray[np.float64], count: int, tail: float) -> Any:
    import numpy as np
    from dp_accounting.pld import pld_pmf
    from scipy import fft

    probabilities = part._probs
    lower, upper = _bounds(log_moments, len(probabilities), count, tail)
    length = upper - lower + 1
    padded = fft.next_fast_len(max(length, len(probabilities)))
    whole = np.real(fft.ifft(fft.fft(probabilities, padded) ** count))
    # The transform wraps around at its length; the range of interest begins at `lower`.
    kept = np.array(np.roll(whole, -lower)[:length])
    infinite = tail - math.expm1(count * math.log1p(-part._infinity_mass))
    return pld_pmf.DensePLDPmf(
        part._discretization,
        part._lower_loss * count + lower,
        kept,
        infinite,
        part._pessimistic_estimate,
    )


def _bounds(
    log_moments: npt.NDArray[np.float64], bins: int, count: int, tail: float
) -> tuple[int, int]:
    """First and last bin of the sum outside of which its mass is at most `tail`."""
    lower, upper = 0, (bins - 1) * count
    for multiple, moment in zip(_ORDERS, log_moments.tolist(), strict=True):
        order = multiple / bins
        bound = (count * moment + math.log(2 / tail)) / order
        if not math.isfinite(bound):
            continue
        if order > 0:
            upper = min(upper, math.ceil(bound))
        else:
            lower = max(lower, math.floor(bound))
    return lower, upper
