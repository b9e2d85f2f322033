"""What a backward pass leaves behind, and per-subject gradients of it without computing them.

The gradient of a linear layer's weight for subject `s` is `leftᵀ right`, where the rows of `left`
are the output's gradients at the subject's tokens and those of `right` the inputs there. So

    ‖gₛ‖² = Σ_{t,u} (leftₜ·leftᵤ)(rightₜ·rightᵤ)        and        Σₛ fₛ gₛ = (f ∘ left)ᵀ right,

which need no gradient of a subject (Goodfellow 2015, arXiv 1510.01799; Li et al. 2022, 2110.05679;
book-keeping: Bu et al. 2023, 2210.00038). An embedding is the same with one-hot rows on the left.

* Rows are packed by subject (`Layout`): with several records of a subject, `t` and `u` run over all
  of them, so it is the norm of the *sum* of its records' gradients.
* Where a weight is not much larger than its rows (LoRA, biases, norms, few long subjects), its
  gradients are made at once: that takes fewer operations.
* A weight that is used more than once (tied embeddings) has one gradient: the sum over its uses,
  and its norm counts the products between them.
* A norm made of products is computed in float32 and could come out too small where terms cancel.
  `ROUNDING` times the largest it could be is added, so that it is not understated.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

import torch
from torch import Tensor, nn

from client.learning.subject_gradients import add_by_subject, rows

ROUNDING: Final = 2.0**-21
"""Relative to the largest that a norm could be: four times the machine epsilon of float32 and more
than ten times what was measured (`tests/client/learning/test_tape.py`). Rounding errors of
sums behave like a random walk (Higham & Mary 2019, SIAM J. Sci. Comput. 41-5)."""


DENSE_FACTOR: Final = 2
"""A weight's gradients are made where they take at most so many times the memory of its rows. They
save operations: with 1 a step of full fine-tuning takes a fifth longer, with 4 a third."""

PART_BYTES: Final = 5 * 2**20
"""Gradients that are made are kept in tensors of at most this size, or of one subject. Such tensors
fit where a backward pass has let go of activations; larger ones are put beside them. With all of a
micro-batch in one tensor the peak of full fine-tuning is a fifth higher, at the same speed."""


class Layout:
    """Which record of a micro-batch is whose; on the CPU, as a GPU would have to be waited for.

    Args:
        subject_of_record: `(records,)` integers in `[0, subject_count)`.
        subject_count: At least 1.

    Raises:
        ValueError: When an integer is outside that range.
    """

    def __init__(self, subject_of_record: Tensor, subject_count: int) -> None:
        subject_of_record = subject_of_record.cpu()
        self.subject_of_record = subject_of_record
        self.subject_count = subject_count
        self.record_count = len(subject_of_record)
        counts = torch.bincount(subject_of_record, minlength=subject_count)
        if len(counts) != subject_count:
            raise ValueError(f"a record's subject is not below {subject_count}")
        self.most_records = int(counts.max()) if self.record_count else 0
        self._order = torch.argsort(subject_of_record, stable=True)
        ordered = subject_of_record[self._order]
        first = torch.cumsum(counts, 0) - counts
        self._rank = torch.arange(self.record_count) - first[ordered]
        self._ordered = ordered
        in_order = torch.equal(ordered, subject_of_record)
        self._is_a_view = in_order and bool((counts == self.most_records).all())

    def pack(self, records: Tensor) -> Tensor:
        """`(records, tokens, *shape)` as `(subjects, rows, *shape)`, zero-filled."""
        tokens, shape = records.shape[1], records.shape[2:]
        if self._is_a_view:
            return records.reshape(self.subject_count, self.most_records * tokens, *shape)
        packed = records.new_zeros((self.subject_count, self.most_records, tokens, *shape))
        order, ordered, rank = (
            index.to(records.device) for index in (self._order, self._ordered, self._rank)
        )
        packed[ordered, rank] = records[order]
        return packed.view(self.subject_count, self.most_records * tokens, *shape)

    def add(self, records: Tensor) -> Tensor:
        """`(records, *shape)` summed into `(subjects, *shape)`."""
        return add_by_subject(records, self.subject_of_record, self.subject_count)


class Use(Protocol):
    """One use of one weight in one backward pass."""

    def squared_norms(self) -> Tensor:
        """`(subjects,)`, never understated."""
        ...

    def weighted_sum(self, factors: Tensor, usable: Tensor | None) -> Tensor:
        """`Σₛ factors[s]·gₛ`, in the weight's shape."""
        ...

    def dense(self) -> Tensor:
        """`(subjects, *shape)`: every subject's gradient."""
        ...


class Dense:
    """Gradients that exist, `(subjects, *shape)`."""

    def __init__(self, gradients: Tensor) -> None:
        self._gradients = gradients

    def squared_norms(self) -> Tensor:
        """Squared L2 norms."""
        norms: Tensor = torch.linalg.vector_norm(self._gradients.flatten(1), dim=1)
        return norms.square()

    def weighted_sum(self, factors: Tensor, usable: Tensor | None) -> Tensor:
        """A weighted sum over subjects."""
        total: Tensor = torch.tensordot(factors, rows(self._gradients, usable), dims=1)
        return total

    def dense(self) -> Tensor:
        """As given."""
        return self._gradients


class Parts:
    """Gradients that exist, in a tensor for every `each` subjects."""

    def __init__(self, parts: Sequence[Dense], each: int) -> None:
        self._parts = parts
        self._each = each

    def squared_norms(self) -> Tensor:
        """Squared L2 norms."""
        return torch.cat([part.squared_norms() for part in self._parts])

    def weighted_sum(self, factors: Tensor, usable: Tensor | None) -> Tensor:
        """A weighted sum over subjects."""
        shares = torch.split(factors, self._each)
        if usable is None:
            chosen: Sequence[Tensor | None] = [None] * len(shares)
        else:
            chosen = torch.split(usable, self._each)
        sums = (
            part.weighted_sum(share, whose)
            for part, share, whose in zip(self._parts, shares, chosen, strict=True)
        )
        total = next(sums)
        for one in sums:
            total += one
        return total

    def dense(self) -> Tensor:
        """Every subject's gradient."""
        return torch.cat([part.dense() for part in self._parts])


class Product:
    """Gradients `leftᵀ right` a subject.

    Args:
        left: `(subjects, rows, p)`.
        right: `(subjects, rows, d)`.
        shape: Of the weight: `(p, d)`, or another with as many numbers.
        transposed: The weight is `(d, p)`.
    """

    def __init__(self, left: Tensor, right: Tensor, shape: torch.Size, transposed: bool) -> None:
        self.left = left
        self.right = right
        self._shape = shape
        self._transposed = transposed

    def squared_norms(self) -> Tensor:
        """By the products of rows; see the module."""
        left, right = self.left.float(), self.right.float()
        if left.shape[1] == 1:
            squares = left.square().sum(2, dtype=torch.float64) * right.square().sum(2)
            return squares.squeeze(1).to(left.dtype)
        products = torch.bmm(left, left.mT).mul_(torch.bmm(right, right.mT))
        return _guarded(products, left, right)

    def weighted_sum(self, factors: Tensor, usable: Tensor | None) -> Tensor:
        """One product over all rows."""
        left = rows(self.left.float(), usable) * factors.view(-1, 1, 1)
        right = rows(self.right.float(), usable)
        left, right = left.flatten(0, 1), right.flatten(0, 1)
        total = right.T @ left if self._transposed else left.T @ right
        return total.view(self._shape)

    def dense(self) -> Tensor:
        """Every subject's gradient."""
        first, second = self.sides()
        return torch.bmm(first.mT, second).view(-1, *self._shape)

    def made(self) -> Use:
        """The same gradients, as tensors."""
        each = max(1, PART_BYTES // (4 * self._shape.numel()))
        sides = (torch.split(side, each) for side in (self.left, self.right))
        parts = [
            Dense(Product(left, right, self._shape, self._transposed).dense())
            for left, right in zip(*sides, strict=True)
        ]
        return parts[0] if len(parts) == 1 else Parts(parts, each)

    def sides(self) -> tuple[Tensor, Tensor]:
        """The factors, first that of the weight's rows, in float32."""
        left, right = self.left.float(), self.right.float()
        return (right, left) if self._transposed else (left, right)


class Lookup:
    """Gradients of an embedding: rows of `values` added up at `indices`.

    Args:
        indices: `(subjects, rows)`.
        values: `(subjects, rows, d)`; zero where nothing is looked up.
        count: Rows of the weight.
    """

    def __init__(self, indices: Tensor, values: Tensor, count: int) -> None:
        self.indices = indices
        self.values = values
        self._count = count

    def squared_norms(self) -> Tensor:
        """By the products of rows of equal index."""
        values = self.values.float()
        same = self.indices.unsqueeze(1) == self.indices.unsqueeze(2)
        products = torch.bmm(values, values.mT).mul_(same)
        return _guarded(products, torch.ones_like(values[..., :1]), values)

    def weighted_sum(self, factors: Tensor, usable: Tensor | None) -> Tensor:
        """Scattered at once."""
        values = rows(self.values.float(), usable) * factors.view(-1, 1, 1)
        total = values.new_zeros((self._count, values.shape[2]))
        return total.index_add_(0, self.indices.flatten(), values.flatten(0, 1))

    def dense(self) -> Tensor:
        """Every subject's gradient."""
        subjects, _, width = self.values.shape
        total = self.values.new_zeros((subjects * self._count, width), dtype=torch.float32)
        offsets = torch.arange(subjects, device=total.device).unsqueeze(1) * self._count
        total.index_add_(0, (self.indices + offsets).flatten(), self.values.float().flatten(0, 1))
        return total.view(subjects, self._count, width)


class TapeGradients:
    """`SubjectGradients` of what was recorded of each weight."""

    def __init__(self, uses: Sequence[Sequence[Use]]) -> None:
        self._uses: Sequence[Sequence[Use]] | None = uses

    def squared_norms(self) -> Tensor:
        """Over all weights together.

        Raises:
            ValueError: When the tape was used up by `weighted_sum`.
        """
        if self._uses is None:
            raise ValueError("the tape of this backward pass is used up")
        return torch.stack([_squared_norms(uses) for uses in self._uses]).sum(0)

    def weighted_sum(self, factors: Tensor, usable: Tensor | None = None) -> list[Tensor]:
        """One tensor a weight. The tape is used up: each use is let go once it is summed.

        Raises:
            ValueError: When it was used up before.
        """
        if self._uses is None:
            raise ValueError("the tape of this backward pass is used up")
        left, self._uses = list(reversed(self._uses)), None
        totals = []
        while left:
            first, *others = left.pop()
            total = first.weighted_sum(factors, usable)
            for use in others:
                total = total + use.weighted_sum(factors, usable)
            totals.append(total)
        return totals


class DenseGradients(TapeGradients):
    """Gradients that exist: one `(subjects, *shape)` tensor a weight, used once."""

    def __init__(self, per_weight: Sequence[Tensor]) -> None:
        super().__init__([[Dense(gradients)] for gradients in per_weight])


def _squared_norms(uses: Sequence[Use]) -> Tensor:
    """Of the sum over the uses of one weight."""
    if len(uses) == 1:
        return uses[0].squared_norms()
    norms = torch.stack([use.squared_norms() for use in uses])
    total = norms.sum(0)
    for number, one in enumerate(uses):
        for other in uses[number + 1 :]:
            total = total + 2 * _inner_products(one, other)
    return total.clamp(min=0) + ROUNDING * norms.sqrt().sum(0).square()


def _inner_products(one: Use, other: Use) -> Tensor:
    """`(subjects,)`: of the gradients of two uses of one weight."""
    if isinstance(one, Product) and isinstance(other, Lookup):
        one, other = other, one
    if isinstance(one, Lookup) and isinstance(other, Product):
        # ⟨onehot(i)ᵀ v, lᵀ r⟩ = Σ_{t,u} l[u, i_t] (v_t · r_u)
        left, right = other.sides()
        picked = left.gather(2, one.indices.unsqueeze(1).expand(-1, left.shape[1], -1))
        products = torch.bmm(right, one.values.float().mT)
        return (picked * products).sum((1, 2), dtype=torch.float64).float()
    return (one.dense() * other.dense()).flatten(1).sum(1, dtype=torch.float64).float()


def _guarded(products: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """The sum of `products`, and what rounding may have taken from it."""
    sizes: Tensor = torch.linalg.vector_norm(left, dim=2) * torch.linalg.vector_norm(right, dim=2)
    total = products.sum((1, 2), dtype=torch.float64).clamp(min=0)
    return (total + ROUNDING * sizes.sum(1, dtype=torch.float64).square()).to(left.dtype)


def make_product(
    layout: Layout, weight: nn.Parameter, left: Tensor, right: Tensor, *, transposed: bool = False
) -> Use:
    """The use of a weight whose gradient is `leftᵀ right`, `(records, tokens, ·)` each."""
    one, other = layout.pack(left), layout.pack(right)
    product = Product(one, other, weight.shape, transposed)
    is_small = weight.numel() <= DENSE_FACTOR * one.shape[1] * (one.shape[2] + other.shape[2])
    return product.made() if is_small else product


def make_lookup(layout: Layout, weight: nn.Parameter, indices: Tensor, values: Tensor) -> Use:
    """The use of an embedding, `(records, tokens)` and `(records, tokens, d)`."""
    packed = layout.pack(indices)
    lookup = Lookup(packed, layout.pack(values), len(weight))
    return Dense(lookup.dense()) if len(weight) <= packed.shape[1] else lookup
