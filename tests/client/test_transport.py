"""What becomes of an update on its way: bounds, no bias, and nothing but the fixed form is read."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from audit.errors import MalformedInput
from client.arrays import arrays_digest, pack_arrays, unpack_arrays
from client.learning.plan_model import MAX_WEIGHT
from client.learning.randomness import Keystream
from client.transport import (
    FLOAT16_LARGEST,
    FLOAT16_ROUNDING,
    FLOAT16_STEP,
    SCALES,
    Precision,
    decode,
    encode,
)

PRECISIONS: tuple[Precision, ...] = ("float32", "float16", "int8")

numbers = arrays_of.arrays(
    np.float32,
    arrays_of.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=6),
    elements=st.floats(-MAX_WEIGHT, MAX_WEIGHT, width=32),
)
updates = st.dictionaries(st.sampled_from(["a", "b.weight", "head.bias", "é"]), numbers)


def stream() -> Keystream:
    return Keystream(b"rounding")


def read_back(update: dict[str, Any], precision: Precision) -> dict[str, Any]:
    """Over the bytes of the wire."""
    sent = unpack_arrays(pack_arrays(encode(update, precision, stream())))
    return dict(decode(sent, precision, update))


@given(updates)
def test_float32_travels_as_it_is(update: dict[str, Any]) -> None:
    assert arrays_digest(read_back(update, "float32")) == arrays_digest(update)


@given(updates)
def test_float16_moves_a_number_by_a_stated_share(update: dict[str, Any]) -> None:
    read = read_back(update, "float16")
    for name, array in update.items():
        cut = np.clip(array.astype(np.float64), -FLOAT16_LARGEST, FLOAT16_LARGEST)
        allowed = np.maximum(FLOAT16_ROUNDING * np.abs(cut), FLOAT16_STEP)
        assert read[name].dtype == np.float32
        assert np.all(np.abs(read[name] - cut) <= allowed)


@given(updates)
def test_int8_moves_a_number_by_less_than_a_scale_and_makes_none_larger(
    update: dict[str, Any],
) -> None:
    read = read_back(update, "int8")
    assert set(read) == set(update)
    for name, array in update.items():
        largest = float(np.abs(array).max(initial=0))
        # A subnormal scale is at least the smallest float32 above 0.
        scale = max(largest / 127, 2.0**-149 if largest else 0.0) * (1 + 2.0**-22) + 2.0**-149
        assert read[name].dtype == np.float32
        assert read[name].shape == array.shape
        assert np.all(np.abs(read[name].astype(np.float64) - array) <= scale)
        assert np.all(np.abs(read[name]) <= 127 * scale)
        if not largest:
            assert not read[name].any()


def test_the_sign_and_the_largest_number_survive() -> None:
    update = {"w": np.array([-3.0, 3.0, 0.0], np.float32), "tiny": np.array([1e-45], np.float32)}
    read = read_back(update, "int8")
    np.testing.assert_allclose(read["w"], update["w"], rtol=1e-6)
    assert read["tiny"].shape == (1,)
    assert 0 <= read["tiny"][0] <= np.float32(2e-45)


def test_int8_is_right_on_average() -> None:
    """The mean of many; rounding to the nearest would be off by a quarter of a scale."""
    count = 200_000
    for value in (0.0025, -0.0025, 0.00051, 0.0):
        array = np.full(count + 1, value, np.float32)
        array[0] = 1.27  # a scale of 0.01
        read = read_back({"w": array}, "int8")["w"][1:].astype(np.float64)
        # A rounding deviates by at most half a scale; five deviations of the mean.
        assert abs(read.mean() - value) < 5 * 0.005 / count**0.5
        assert set(np.round(read / 0.01)) <= {-1.0, 0.0, 1.0}


def test_roundings_of_different_numbers_and_of_different_sites_are_independent() -> None:
    array = np.full(100_001, 0.005, np.float32)
    array[0] = 1.27
    first, second = (
        encode({"w": array}, "int8", Keystream(seed))["w"][1:].astype(np.float64)
        for seed in (b"one", b"two")
    )
    for one, other in ((first, second), (first[1:], first[:-1])):
        assert abs(np.corrcoef(one, other)[0, 1]) < 5 / 100_000**0.5


def test_a_site_s_own_rounding_comes_from_the_operating_system() -> None:
    array = np.linspace(-1, 1, 1000, dtype=np.float32)
    first, second = (encode({"w": array}, "int8", Keystream())["w"] for _ in range(2))
    assert (first != second).any()


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_not_sent(precision: Precision, value: float) -> None:
    with pytest.raises(MalformedInput, match="not finite"):
        encode({"w": np.array([1, value], np.float32)}, precision, stream())


def test_a_weight_cannot_have_the_name_of_the_scales() -> None:
    with pytest.raises(MalformedInput):
        encode({SCALES: np.zeros(1, np.float32)}, "int8", stream())


LIKE: dict[str, Any] = {"a": np.zeros((2, 3), np.float32), "b": np.zeros((), np.float32)}
WHOLE: dict[str, Any] = {"a": np.ones((2, 3), np.int8), "b": np.ones((), np.int8)}
SCALED: dict[str, Any] = {**WHOLE, SCALES: np.ones(2, np.float32)}
HALF: dict[str, Any] = {name: array.astype(np.float16) for name, array in WHOLE.items()}


@pytest.mark.parametrize(
    ("precision", "sent", "said"),
    [
        ("float16", {}, "missing"),
        ("float16", {**HALF, "c": HALF["a"]}, "'c' is unknown"),
        ("float16", {**HALF, SCALES: np.ones(2, np.float32)}, "unknown"),
        ("float16", LIKE, "expected float16"),
        ("float16", WHOLE, "expected float16"),
        ("float16", {**HALF, "a": HALF["a"].T}, "expected shape"),
        ("float16", {**HALF, "b": np.array(np.inf, np.float16)}, "not finite"),
        ("float16", {**HALF, "b": np.array(np.nan, np.float16)}, "not finite"),
        ("float32", HALF, "expected float32"),
        ("float32", {**LIKE, "b": np.array(np.nan, np.float32)}, "not finite"),
        ("int8", WHOLE, "'#scales' is missing"),
        ("int8", {**SCALED, "a": LIKE["a"]}, "expected int8"),
        ("int8", {**SCALED, "a": WHOLE["a"].astype(np.uint8)}, "expected int8"),
        ("int8", {**SCALED, SCALES: np.ones(3, np.float32)}, "2 scales"),
        ("int8", {**SCALED, SCALES: np.ones((2, 1), np.float32)}, "2 scales"),
        ("int8", {**SCALED, SCALES: np.ones(2, np.float64)}, "2 scales"),
        ("int8", {**SCALED, SCALES: np.array([1, -1e-9], np.float32)}, "a scale is not"),
        ("int8", {**SCALED, SCALES: np.array([1, np.nan], np.float32)}, "a scale is not"),
        ("int8", {**SCALED, SCALES: np.array([1, np.inf], np.float32)}, "a scale is not"),
        ("int8", {**SCALED, SCALES: np.array([1, 1e5], np.float32)}, "a scale is not"),
        ("int8", {**SCALED, SCALES: np.array([1, 0], np.float32)}, "its scale does not give"),
        ("int8", {**SCALED, "b": np.array(-128, np.int8)}, "its scale does not give"),
    ],
)
def test_anything_but_the_fixed_form_is_malformed(
    precision: Precision, sent: dict[str, Any], said: str
) -> None:
    with pytest.raises(MalformedInput, match=said):
        decode(sent, precision, LIKE)


def test_the_fixed_form_is_read() -> None:
    assert decode(SCALED, "int8", LIKE)["b"] == 1
    assert decode(HALF, "float16", LIKE)["a"].dtype == np.float32


anything = st.dictionaries(
    st.sampled_from(["a", "b", SCALES, "c"]),
    arrays_of.arrays(
        st.sampled_from([np.int8, np.float16, np.float32, np.uint8, np.int64]),
        st.sampled_from([(), (2,), (2, 3), (0,)]),
    ),
)


@given(anything, st.sampled_from(PRECISIONS))
def test_hostile_arrays_are_refused_or_become_a_bounded_update(
    sent: dict[str, Any], precision: Precision
) -> None:
    try:
        read = decode(sent, precision, LIKE)
    except MalformedInput:
        return
    assert set(read) == set(LIKE)
    for name, array in read.items():
        assert array.dtype == np.float32
        assert array.shape == LIKE[name].shape
        assert np.isfinite(array).all()
        if precision != "float32":
            assert np.abs(array).max(initial=0) <= MAX_WEIGHT * (1 + 1e-5)
