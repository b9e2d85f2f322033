"""Sums of equal losses are the package's own, to the last bit."""

from __future__ import annotations

import numpy as np
import pytest

from client.learning.loss_distributions import Mechanism, loss_of_step
from client.learning.self_composition import SelfComposition


@pytest.mark.parametrize(
    "mechanism",
    [
        Mechanism(0.9, 0.1),
        Mechanism(5.0, 0.5),
        Mechanism(2.0, 1.0),
        Mechanism(1.5, 0.3, truncation=0.4),
    ],
)
@pytest.mark.parametrize("count", [1, 2, 7, 300])
@pytest.mark.parametrize("tail", [1e-15, 1e-9])
def test_a_sum_is_the_packages_own(mechanism: Mechanism, count: int, tail: float) -> None:
    loss = loss_of_step(mechanism, 1e-3)
    ours = SelfComposition.of(loss).repeated(count, tail)
    theirs = loss.self_compose(count, tail_mass_truncation=tail)
    assert ours._symmetric == theirs._symmetric
    for mine, given in (
        (ours._pmf_remove, theirs._pmf_remove),
        (ours._pmf_add, theirs._pmf_add),
    ):
        assert mine._lower_loss == given._lower_loss
        assert mine._infinity_mass == given._infinity_mass
        assert mine._discretization == given._discretization
        assert np.array_equal(mine._probs, given._probs)
