"""What is kept of frozen layers: the same values, unreadable, each in its own place, bounded."""

from __future__ import annotations

import pickle
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from cryptography.exceptions import InvalidTag
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from client.learning.frozen import FrozenValues


class Counted:
    """Computes a value of its own for each record, and remembers for which it was asked."""

    def __init__(self, kind: int = 0, coordinates: int = 32) -> None:
        self.kind = kind
        self.coordinates = coordinates
        self.asked: list[int] = []

    def __call__(self, records: Sequence[int]) -> list[Tensor]:
        self.asked += records
        return [self.value(record) for record in records]

    def value(self, record: int) -> Tensor:
        generator = torch.Generator().manual_seed(1000 * self.kind + record)
        return torch.randn(1 + record % 3, self.coordinates, generator=generator)


@given(st.lists(st.lists(st.integers(0, 9), max_size=6), max_size=6), st.integers(0, 4000))
def test_values_are_those_computed_whatever_is_kept(batches: list[list[int]], limit: int) -> None:
    frozen, compute = FrozenValues(limit), Counted()
    for records in batches:
        got = frozen.of("probe", records, compute)
        assert len(got) == len(records)
        for record, value in zip(records, got, strict=True):
            assert value.dtype == torch.float32
            assert torch.equal(value, compute.value(record))
        assert frozen.kept_bytes <= limit


def test_a_value_is_computed_once_and_with_others_that_are_missing() -> None:
    frozen, compute = FrozenValues(), Counted()
    frozen.of("probe", [3, 1, 3], compute)
    frozen.of("probe", [1, 2, 3, 2], compute)
    frozen.of("probe", [2, 1], compute)
    assert compute.asked == [1, 3, 2]
    assert all(frozen.has("probe", record) for record in (1, 2, 3))
    assert not frozen.has("probe", 4)


def test_phases_have_values_of_their_own() -> None:
    frozen, probe, adapter = FrozenValues(), Counted(1), Counted(2)
    frozen.of("probe", [1], probe)
    assert not frozen.has("adapter", 1)
    (of_adapter,) = frozen.of("adapter", [1], adapter)
    (of_probe,) = frozen.of("probe", [1], probe)
    assert torch.equal(of_adapter, adapter.value(1))
    assert torch.equal(of_probe, probe.value(1))


def test_what_was_handed_out_can_change_without_changing_what_is_kept() -> None:
    frozen, compute = FrozenValues(), Counted()
    for _ in range(2):
        (value,) = frozen.of("probe", [1], compute)
        value.zero_()
    assert torch.equal(frozen.of("probe", [1], compute)[0], compute.value(1))
    assert compute.asked == [1]


def test_nothing_kept_holds_the_plain_values() -> None:
    """All that the object refers to, but the cipher, in which Python sees no bytes at all."""
    frozen, compute = FrozenValues(), Counted()
    frozen.of("probe", range(5), compute)
    held = pickle.dumps({name: value for name, value in vars(frozen).items() if name != "_cipher"})
    for record in range(5):
        plain = compute.value(record).numpy().tobytes()
        assert len(plain) >= 128
        for start in range(0, len(plain), 16):
            assert plain[start : start + 16] not in held
    # The check would see them: it does where they lie open.
    assert compute.value(1).numpy().tobytes()[:16] in pickle.dumps(compute.value(1).numpy())


def test_the_same_value_never_looks_the_same() -> None:
    """Two caches, and two places in one: nobody sees that two records are alike."""

    def alike(records: Sequence[int]) -> list[Tensor]:
        return [torch.ones(64) for _ in records]

    sealed = []
    for frozen in (FrozenValues(), FrozenValues()):
        frozen.of("probe", [1, 2], alike)
        sealed += [kept for kept, _shape in frozen._sealed.values()]
    assert len({kept[:12] for kept in sealed}) == len({kept[12:] for kept in sealed}) == 4


@pytest.mark.parametrize("place", [("probe", 2), ("adapter", 1)])
def test_a_value_in_anothers_place_is_refused(place: tuple[str, int]) -> None:
    frozen = FrozenValues()
    frozen.of("probe", [1], Counted())
    frozen._sealed[place] = frozen._sealed["probe", 1]
    with pytest.raises(InvalidTag):
        frozen.of(place[0], [place[1]], Counted())


def test_a_changed_value_is_refused() -> None:
    frozen = FrozenValues()
    frozen.of("probe", [1], Counted())
    sealed, shape = frozen._sealed["probe", 1]
    frozen._sealed["probe", 1] = (sealed[:20] + bytes([sealed[20] ^ 1]) + sealed[21:], shape)
    with pytest.raises(InvalidTag):
        frozen.of("probe", [1], Counted())


def test_beyond_the_limit_values_are_computed_anew_and_all_are_right() -> None:
    """A limit that does not end with a value: what is left over keeps nothing."""
    compute = Counted()
    one = FrozenValues()
    one.of("probe", [0], compute)
    frozen = FrozenValues(2 * one.kept_bytes + 10)
    compute.asked.clear()
    for _ in range(3):
        for record in (0, 3, 6, 9):  # of one size
            assert torch.equal(frozen.of("probe", [record], compute)[0], compute.value(record))
    assert compute.asked == [0, 3, 6, 9, 6, 9, 6, 9]
    assert frozen.kept_bytes == 2 * one.kept_bytes
    assert frozen.is_full, "so that nobody computes in advance what will not be kept"


def test_nothing_is_kept_without_room() -> None:
    frozen, compute = FrozenValues(0), Counted()
    assert frozen.is_full
    for _ in range(2):
        frozen.of("probe", [1], compute)
    assert compute.asked == [1, 1]
    assert frozen.kept_bytes == 0
    assert not frozen.has("probe", 1)


def test_values_need_not_lie_in_one_piece_of_memory() -> None:
    matrix = torch.arange(12.0).reshape(3, 4)
    frozen = FrozenValues()
    frozen.of("probe", [1], lambda _records: [matrix.T])
    (value,) = frozen.of("probe", [1], Counted())
    np.testing.assert_array_equal(value.numpy(), matrix.T.numpy())
