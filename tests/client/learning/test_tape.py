"""Per-subject norms and weighted sums without the gradients themselves, against the gradients."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from client.learning import tape
from client.learning.tape import (
    ROUNDING,
    Dense,
    Layout,
    Lookup,
    Parts,
    Product,
    TapeGradients,
    Use,
    make_lookup,
    make_product,
)

layouts = st.lists(st.integers(0, 3), min_size=1, max_size=8)


@given(layouts, st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_packing_keeps_every_row_with_its_subject(subjects: list[int], tokens: int) -> None:
    layout = Layout(torch.tensor(subjects), 4)
    records = torch.arange(1, len(subjects) * tokens + 1).view(len(subjects), tokens, 1)
    packed = layout.pack(records)
    for subject in range(4):
        expected = [
            value
            for record, owner in enumerate(subjects)
            if owner == subject
            for value in records[record].flatten().tolist()
        ]
        found = packed[subject].flatten().tolist()
        assert found == expected + [0] * (len(found) - len(expected))
    assert layout.add(records.sum(1)).flatten().tolist() == [
        int(packed[subject].sum()) for subject in range(4)
    ]


def test_a_subject_beyond_the_count_is_refused() -> None:
    with pytest.raises(ValueError, match="not below 2"):
        Layout(torch.tensor([0, 2]), 2)


def naive(uses: Sequence[Use]) -> Tensor:
    return torch.stack([use.dense().double() for use in uses]).sum(0)


def make_use(kind: str, generator: torch.Generator) -> Use:
    """A use of a weight `(7, 4)` by three subjects."""
    left = torch.randn(3, 5, 7, generator=generator)
    right = torch.randn(3, 5, 4, generator=generator)
    ids = torch.randint(0, 7, (3, 5), generator=generator)
    match kind:
        case "product":
            return Product(left, right, torch.Size((7, 4)), transposed=False)
        case "transposed":
            return Product(right, left, torch.Size((7, 4)), transposed=True)
        case "lookup":
            return Lookup(ids, right, 7)
        case "parts":
            gradients = torch.randn(3, 7, 4, generator=generator)
            return Parts([Dense(gradients[:2]), Dense(gradients[2:])], 2)
        case _:
            return Dense(torch.randn(3, 7, 4, generator=generator))


KINDS = ["product", "transposed", "lookup", "dense", "parts"]


@pytest.mark.parametrize("first", KINDS)
@pytest.mark.parametrize("second", [None, *KINDS])
@pytest.mark.parametrize("third", [None, "product"])
def test_uses_of_one_weight_have_the_norm_of_their_sum(
    first: str, second: str | None, third: str | None
) -> None:
    generator = torch.Generator().manual_seed(len(first) + len(second or ""))
    uses = [make_use(kind, generator) for kind in (first, second, third) if kind]
    others = [make_use("dense", generator)]
    gradients = TapeGradients([uses, others])
    wanted = naive(uses).flatten(1).square().sum(1)
    wanted = wanted + naive(others).flatten(1).square().sum(1)
    torch.testing.assert_close(gradients.squared_norms().double(), wanted, rtol=1e-4, atol=1e-5)
    factors = torch.tensor([0.5, 0.0, 2.0])
    total = gradients.weighted_sum(factors)[0]
    expected = torch.tensordot(factors.double(), naive(uses), dims=1)
    torch.testing.assert_close(total.double(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_subject_that_is_not_usable_leaves_no_trace(kind: str) -> None:
    use = make_use(kind, torch.Generator().manual_seed(1))
    for holder in use._parts if isinstance(use, Parts) else [use]:
        for tensor in vars(holder).values():
            if isinstance(tensor, Tensor) and tensor.is_floating_point() and len(tensor) > 1:
                tensor[1] = math.nan
    usable = torch.tensor([True, False, True])
    total = use.weighted_sum(torch.tensor([1.0, 0.0, 1.0]), usable)
    assert bool(total.isfinite().all())
    torch.testing.assert_close(total, use.dense()[[0, 2]].sum(0))


@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([1, 2, 3, 16, 64]),
    st.sampled_from([1, 8, 257]),
    st.floats(0, 12),
)
@settings(max_examples=60, deadline=None)
def test_a_norm_is_never_understated_and_hardly_overstated(
    seed: int, tokens: int, width: int, cancelling: float
) -> None:
    """Also where the tokens' parts cancel to a millionth of their size."""
    generator = torch.Generator().manual_seed(seed)
    left = torch.randn(1, tokens, width, generator=generator)
    right = torch.randn(1, tokens, width, generator=generator)
    if tokens > 1:  # the second half takes back the first, but for a small part
        half = tokens // 2
        left[:, half : 2 * half] = left[:, :half]
        noise = torch.randn(1, half, width, generator=generator)
        right[:, half : 2 * half] = -right[:, :half] + noise * 10.0**-cancelling
        left[:, 2 * half :] = 0
    exact = torch.bmm(left.double().mT, right.double()).square().sum()
    stated = Product(left, right, torch.Size((width, width)), transposed=False).squared_norms()
    size = (left.double().norm(dim=2) * right.double().norm(dim=2)).sum()
    assert float(stated) >= float(exact) * (1 - 1e-6)
    assert float(stated) <= float(exact) * (1 + 1e-6) + 2 * ROUNDING * float(size.square())


def test_the_guard_is_far_above_the_rounding_that_is_seen() -> None:
    """Without it, norms of what cancels do come out too small: by less than a tenth of it."""
    worst = 0.0
    for seed in range(300):
        generator = torch.Generator().manual_seed(seed)
        left = torch.randn(1, 32, 64, generator=generator)
        right = torch.randn(1, 32, 64, generator=generator)
        left[:, 16:] = left[:, :16]
        right[:, 16:] = 1e-4 * right[:, 16:] - right[:, :16]
        unguarded = (torch.bmm(left, left.mT) * torch.bmm(right, right.mT)).sum(dtype=torch.float64)
        exact = torch.bmm(left.double().mT, right.double()).square().sum()
        size = (left.norm(dim=2) * right.norm(dim=2)).sum().double().square()
        worst = max(worst, float((exact - unguarded) / size))
    assert 0 < worst < ROUNDING / 10


def test_small_weights_are_made_at_once_and_large_ones_never() -> None:
    layout = Layout(torch.tensor([0, 0, 1]), 2)
    small = nn.Parameter(torch.zeros(4, 4))
    large = nn.Parameter(torch.zeros(300, 400))
    left, right = torch.randn(3, 6, 4), torch.randn(3, 6, 4)
    assert isinstance(make_product(layout, small, left, right), Dense)
    wide = make_product(layout, large, torch.randn(3, 6, 300), torch.randn(3, 6, 400))
    assert isinstance(wide, Product)
    ids, values = torch.zeros(3, 6, dtype=torch.long), torch.randn(3, 6, 400)
    assert isinstance(make_lookup(layout, large, ids, values), Lookup)
    assert isinstance(make_lookup(layout, nn.Parameter(torch.zeros(2, 400)), ids, values), Dense)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("subjects_each", [1, 2, 5, 8])
def test_gradients_are_made_in_parts_of_a_size(
    transposed: bool, subjects_each: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tape, "PART_BYTES", 4 * 7 * 4 * subjects_each)
    generator = torch.Generator().manual_seed(subjects_each)
    left, right = (torch.randn(5, 3, width, generator=generator) for width in (7, 4))
    sides = (right, left) if transposed else (left, right)
    product = Product(*sides, torch.Size((7, 4)), transposed)
    made = product.made()
    assert isinstance(made, Dense if subjects_each >= 5 else Parts)
    torch.testing.assert_close(made.dense(), product.dense())
    torch.testing.assert_close(made.squared_norms(), product.squared_norms(), rtol=1e-4, atol=1e-4)
    factors = torch.rand(5, generator=generator)
    for usable in (None, torch.tensor([True, False, True, True, False])):
        torch.testing.assert_close(
            made.weighted_sum(factors, usable), product.weighted_sum(factors, usable)
        )


def test_a_tape_is_used_up_once_it_is_summed() -> None:
    gradients = TapeGradients([[make_use("dense", torch.Generator().manual_seed(3))]])
    gradients.weighted_sum(torch.ones(3))
    for use in (gradients.squared_norms, lambda: gradients.weighted_sum(torch.ones(3))):
        with pytest.raises(ValueError, match="used up"):
            use()
