"""Noise is Gaussian of the promised scale, independent, and on a grid that data cannot move."""

from __future__ import annotations

import math
import re

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, chi2, kstest, norm
from torch import Tensor

from client.learning import noise
from client.learning.noise import CHUNK, add_noise, grid_step, standard_normal
from client.learning.randomness import Keystream

DEVIATION = 0.75
STEP = grid_step(DEVIATION)
SAMPLES = 1 << 20
Sample = npt.NDArray[np.float64]


def noise_of(count: int, seed: bytes, deviation: float = DEVIATION) -> Sample:
    drawn = add_noise(torch.zeros(count, dtype=torch.float64), deviation, Keystream(seed))
    return np.asarray(drawn.numpy())


def is_noise(sample: Sample, deviation: float) -> bool:
    """Normal of mean 0 and this deviation, and no value follows from the others.

    Kolmogorov-Smirnov, Anderson-Darling, the first four moments and two autocorrelations; for the
    right distribution each says no with probability below 1e-8.
    """
    z = sample / deviation
    n = len(z)
    moments = [
        (z.mean(), 0.0, 1.0),
        ((z**2).mean(), 1.0, 2.0),
        ((z**3).mean(), 0.0, 15.0),
        ((z**4).mean(), 3.0, 96.0),
        ((z[:-1] * z[1:]).mean(), 0.0, 1.0),
        ((z[: n // 2] * z[n // 2 : 2 * (n // 2)]).mean() / math.sqrt(2), 0.0, 1.0),
    ]
    close = all(abs(got - want) < 6 * math.sqrt(v / n) for got, want, v in moments)
    fits = kstest(z, norm.cdf).pvalue > 1e-9
    return bool(close and fits and anderson_darling(z) < 15)


def anderson_darling(z: Sample) -> float:
    """The statistic against the standard normal; above 15 with probability below 1e-6."""
    ordered = np.sort(z)
    n = len(ordered)
    weights = 2 * np.arange(1, n + 1) - 1
    terms = norm.logcdf(ordered) + norm.logsf(ordered[::-1])
    return float(-n - (weights * terms).sum() / n)


# --- the distribution -----------------------------------------------------------------------------


@pytest.mark.parametrize("deviation", [1e-9, 0.75, 1.0, 3.3e7])
def test_noise_is_normal_with_the_promised_deviation(deviation: float) -> None:
    assert is_noise(noise_of(SAMPLES, b"right", deviation), deviation)


@pytest.mark.parametrize("factor", [0.8, 0.97, 0.99, 1.01, 1.03])
def test_another_scale_is_told_apart(factor: float) -> None:
    assert not is_noise(noise_of(SAMPLES, b"scale", factor * DEVIATION), DEVIATION)


def test_other_distributions_of_the_same_scale_are_told_apart() -> None:
    uniform = (Keystream(b"uniform").uniform(SAMPLES) - 0.5) * math.sqrt(12)
    three = 2 * (Keystream(b"three").uniform(3 * SAMPLES).reshape(3, -1) - 0.5).sum(0)
    right = noise_of(SAMPLES, b"others") / DEVIATION
    for wrong in (
        uniform,
        three,  # a sum of three uniforms: right to the third moment
        np.clip(right, -3, 3),
        np.tile(right[: SAMPLES // 2], 2),  # repeated
        np.repeat(right[: SAMPLES // 2], 2),
        right - 0.02,
    ):
        assert not is_noise(wrong, 1.0)


def test_the_tail_is_as_heavy_as_it_should_be() -> None:
    sample = np.abs(noise_of(4 * SAMPLES, b"tail")) / DEVIATION
    for bound in (2.0, 3.0, 4.0, 4.5):
        count = int((sample > bound).sum())
        assert count > 10
        assert binomtest(count, len(sample), 2 * norm.sf(bound)).pvalue > 1e-6


def test_the_two_of_a_pair_are_independent() -> None:
    """Radius squared is chi-square with two degrees of freedom, the angle uniform, in pairs."""
    sample = standard_normal(SAMPLES, Keystream(b"pairs"))
    x, y = np.split(sample, 2)
    assert kstest(x**2 + y**2, chi2(2).cdf).pvalue > 1e-6
    assert kstest(np.arctan2(y, x) / (2 * np.pi) + 0.5, "uniform").pvalue > 1e-6
    assert abs(np.corrcoef(x**2, y**2)[0, 1]) < 6 / math.sqrt(len(x))


@pytest.mark.parametrize("size", [CHUNK, CHUNK // 2])
def test_chunks_and_calls_are_independent(size: int) -> None:
    keystream = Keystream(b"calls")
    zeros = torch.zeros(4 * size, dtype=torch.float64)
    parts = torch.cat([add_noise(zeros, 1.0, keystream) for _ in range(2)]).view(8, size).numpy()
    correlations = np.corrcoef(parts) - np.eye(8)
    assert np.abs(correlations).max() < 6 / math.sqrt(size)
    assert len(np.unique(parts[:, :4], axis=0)) == 8


def test_the_rounding_leaves_the_right_probability_to_each_grid_point() -> None:
    """Beside the exact probabilities of a rounded normal, over the 400 points around zero."""
    points = np.rint(noise_of(4 * SAMPLES, b"points") / STEP)
    edges = (np.arange(-200, 202) - 0.5) * (STEP / DEVIATION)
    expected = np.diff(norm.cdf(edges)) * len(points)
    counts = np.array([(points == k).sum() for k in range(-200, 201)])
    statistic = float(((counts - expected) ** 2 / expected).sum())
    assert 1e-6 < chi2(len(counts)).sf(statistic) < 1 - 1e-6


# --- resolution -----------------------------------------------------------------------------------


class _Words(Keystream):
    """Hands out chosen words, to look at values that are hardly ever drawn."""

    def __init__(self, radius: list[int], angle: list[int]) -> None:
        super().__init__(b"unused")
        self._chosen = np.array(radius + angle, dtype=np.uint64)

    def words(self, count: int) -> npt.NDArray[np.uint64]:
        assert count == len(self._chosen)
        return self._chosen.copy()


def test_the_largest_normal_and_the_mass_beyond_it() -> None:
    largest = float(standard_normal(2, _Words([0], [0]))[0])
    assert largest == pytest.approx(math.sqrt(2 * 75 * math.log(2)))
    assert 10.19 < largest < 10.21
    # Chances that exact noise would pass the largest in 1,000 steps of 22 million coordinates.
    assert 2 * norm.sf(largest) * 22e6 * 1000 < 1e-12
    assert 2 * norm.sf(math.sqrt(2 * 53 * math.log(2))) * 22e6 * 1000 > 1e-7, "53 bits would not do"


def test_a_radius_word_of_ones_is_the_origin() -> None:
    assert standard_normal(2, _Words([2**64 - 1], [2047])).tolist() == [0.0, 0.0]


def test_neighbouring_words_of_the_tail_are_far_less_than_a_grid_step_apart() -> None:
    """No holes: within a radius of 7.4 each grid cell is reached by very many words."""
    smallest = 2**23  # of 2**63: a radius of sqrt(2 * 40 * log 2) = 7.45
    for word in (smallest, 2**40, 2**62):
        first, second = (float(standard_normal(2, _Words([word], [bits]))[0]) for bits in (0, 1))
        assert 0 <= first - second < 2**-12 / 2**20
    turn = 2**11
    one, next_one = (standard_normal(2, _Words([0], [angle]))[1] for angle in (0, turn))
    assert 0 < float(next_one - one) < 2**-12 / 2**30


def test_computed_normals_are_within_the_stated_error_of_exact_ones() -> None:
    """The reference is in 80-bit arithmetic, from the same words."""
    if np.finfo(np.longdouble).nmant < 63:
        pytest.skip("no more exact arithmetic here")
    count = 1 << 18
    words = Keystream(b"exact").words(count)
    # Every magnitude of the uniform as often as any other, and the plain ones.
    words[: count // 4] >>= np.arange(count // 4, dtype=np.uint64) % np.uint64(63)
    radius_word, angle_word = words[: count // 2].tolist(), words[count // 2 :].tolist()
    computed = standard_normal(count, _Words(radius_word, angle_word))
    exact = np.longdouble
    low = (words[count // 2 :] & np.uint64(2047)).astype(exact) + exact(0.5)
    high = (words[: count // 2] & np.uint64(2**63 - 1)).astype(exact)
    radius = np.sqrt(-2 * np.log((high + low / 2048) / exact(2) ** 63))
    turns = (words[count // 2 :] >> np.uint64(11)).astype(exact) / exact(2) ** 53
    # The angle's word is signed, a half circle; the radius' first bit chooses which.
    half_circle = np.where(turns < 0.5, turns, turns - 1)
    angle = half_circle * exact("3.14159265358979323846264338327950288")
    radius *= 1 - 2 * (words[: count // 2] >> np.uint64(63)).astype(exact)
    wanted = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])
    radius = np.abs(np.concatenate([radius, radius]))
    allowed = 2.0**-49 * radius + 2.0**-53 / radius
    worst = float((np.abs(computed - wanted) / allowed).max())
    assert 0.1 < worst < 0.75  # the rest is for the grid's own additions


# --- the grid -------------------------------------------------------------------------------------


@given(st.floats(2.0**-800, 2.0**800))
@settings(max_examples=300, deadline=None)
def test_the_grid_is_a_power_of_two_of_the_deviation_alone(deviation: float) -> None:
    step = grid_step(deviation)
    assert math.frexp(step)[0] == 0.5
    assert 2.0**-12 <= step / deviation < 2.0**-11


def on_grid(values: Tensor, step: float) -> bool:
    steps = values.double() / step
    return bool((steps == steps.round()).all())


@given(
    st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=40),
    st.floats(1e-6, 1e6),
    st.sampled_from([torch.float32, torch.float64]),
)
@settings(max_examples=200, deadline=None)
def test_every_output_is_on_the_grid(
    values: list[float], deviation: float, dtype: torch.dtype
) -> None:
    noisy = add_noise(torch.tensor(values, dtype=dtype), deviation, Keystream(b"grid"))
    assert on_grid(noisy, grid_step(deviation))


@given(st.integers(-(2**40), 2**40), st.integers(-(2**40), 2**40))
@settings(max_examples=100, deadline=None)
def test_on_the_grid_the_noise_does_not_depend_on_the_total(one: int, other: int) -> None:
    first, second = (
        add_noise(torch.full((50,), k * STEP, dtype=torch.float64), DEVIATION, Keystream(b"k"))
        - k * STEP
        for k in (one, other)
    )
    assert torch.equal(first, second)


@given(st.floats(-100, 100))
@settings(max_examples=100, deadline=None)
def test_the_output_is_the_noisy_total_rounded_once(value: float) -> None:
    """Beside the same in 80-bit arithmetic; ties are too rare to be met."""
    total = torch.full((400,), value, dtype=torch.float64)
    drawn = standard_normal(400, Keystream(b"once")).astype(np.longdouble)
    wanted = np.rint((value + np.longdouble(DEVIATION) * drawn) / STEP) * STEP
    got = add_noise(total, DEVIATION, Keystream(b"once")).numpy()
    assert np.array_equal(got, wanted.astype(np.float64))


def test_neighbours_have_the_same_attainable_values() -> None:
    """Exhaustively, on 64 grid points: whatever the total, each is reached, and nothing between.

    Plain floating-point noise fails: its last bits tell a total of 1 from one of 1 + 2**-20.
    """
    deviation = 2.0**-3
    step = grid_step(deviation)
    reached, plain = [], []
    for total in (1.0, 1.0 + 2.0**-20, 1.0 + step / 3, 1.0 - step / 2, 1.0 + step):
        totals = torch.full((SAMPLES,), total, dtype=torch.float64)
        steps = (add_noise(totals, deviation, Keystream(b"set")) - 1.0) / step
        reached.append(set(steps[steps.abs() <= 32].tolist()))
        z = standard_normal(SAMPLES, Keystream(b"set"))
        small = z[np.abs(z) < 0.01]
        plain.append(set((total + deviation * small).tolist()))
    assert all(values == set(range(-32, 33)) for values in reached)
    assert plain[0].isdisjoint(plain[2])


def test_a_shift_of_the_total_shifts_the_distribution_and_nothing_else() -> None:
    """Between grid points the two nearest share the mass, as for an exact normal."""
    shift = 0.3 * STEP
    drawn = add_noise(
        torch.full((4 * SAMPLES,), shift, dtype=torch.float64), DEVIATION, Keystream(b"shift")
    ).numpy()
    assert is_noise(drawn - shift, DEVIATION)
    assert abs(float(drawn.mean()) - shift) < 6 * DEVIATION / math.sqrt(len(drawn))


@pytest.mark.parametrize("ratio", [1e6, 1e9, 1e12, 1e14])
def test_noise_far_below_the_total_is_still_exact(ratio: float) -> None:
    whole = float(2 ** round(math.log2(ratio)))
    totals = torch.full((1000,), whole, dtype=torch.float64)
    small = add_noise(torch.zeros(1000, dtype=torch.float64), 1.0, Keystream(b"far"))
    assert torch.equal(add_noise(totals, 1.0, Keystream(b"far")), whole + small)


# --- shapes, types, sizes -------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_the_result_is_the_grid_value_in_the_totals_type(dtype: torch.dtype) -> None:
    total = torch.linspace(-3, 3, 1000, dtype=torch.float64).to(dtype)
    exact = add_noise(total.double(), DEVIATION, Keystream(b"dtype"))
    noisy = add_noise(total, DEVIATION, Keystream(b"dtype"))
    assert noisy.dtype == dtype
    assert torch.equal(noisy, exact.to(dtype))


@pytest.mark.parametrize("shape", [(), (1,), (0,), (0, 3), (7, 5), (2, 3, 4)])
def test_any_shape_keeps_its_shape(shape: tuple[int, ...]) -> None:
    total = torch.ones(shape)
    noisy = add_noise(total, DEVIATION, Keystream(b"shape"))
    assert noisy.shape == total.shape
    assert bool((noisy != total).all())
    assert bool((total == 1).all()), "the total itself is left alone"


def test_strides_do_not_matter() -> None:
    total = torch.arange(600.0).view(20, 30)
    for view in (total.t(), total[::2, ::3], total[:1].expand(4, 30)):
        expected = add_noise(view.contiguous(), DEVIATION, Keystream(b"strides"))
        assert torch.equal(add_noise(view, DEVIATION, Keystream(b"strides")), expected)


def test_no_coordinates_use_no_words() -> None:
    keystream = Keystream(b"empty")
    add_noise(torch.zeros(0), DEVIATION, keystream)
    assert keystream.words(1) == Keystream(b"empty").words(1)


@pytest.mark.parametrize(
    "count", [1, 2, 3, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK - 1, 2 * CHUNK + 3]
)
def test_every_coordinate_gets_its_own_noise_across_chunks(count: int) -> None:
    total = torch.arange(count, dtype=torch.float64) * STEP
    rest = add_noise(total, DEVIATION, Keystream(b"chunks")) - total
    wanted = add_noise(torch.zeros(count, dtype=torch.float64), DEVIATION, Keystream(b"chunks"))
    assert torch.equal(rest, wanted)
    if count >= CHUNK:
        assert is_noise(rest.numpy(), DEVIATION)
        near = rest[CHUNK - 50 : CHUNK + 50]
        assert len(set(near.tolist())) > len(near) // 2


def test_memory_stays_bounded() -> None:
    """What is drawn at once is a chunk, however many coordinates there are."""
    taken: list[int] = []

    class Watched(Keystream):
        def words(self, count: int) -> npt.NDArray[np.uint64]:
            taken.append(count)
            return super().words(count)

    add_noise(torch.zeros(5 * CHUNK + 1), DEVIATION, Watched(b"memory"))
    assert taken == [CHUNK] * 5 + [2]


def test_a_total_with_a_gradient_gives_noise_without_one() -> None:
    assert not add_noise(
        torch.ones(3, requires_grad=True), DEVIATION, Keystream(b"g")
    ).requires_grad


# --- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 2.0**62 * STEP, -(2.0**62) * STEP])
@pytest.mark.parametrize("place", [0, CHUNK, 2 * CHUNK])
def test_what_no_noise_can_hide_is_refused(bad: float, place: int) -> None:
    total = torch.zeros(2 * CHUNK + 1, dtype=torch.float64)
    total[place] = bad
    with pytest.raises(ValueError, match=re.escape("below 2**62")):
        add_noise(total, DEVIATION, Keystream(b"bad"))


@pytest.mark.parametrize("deviation", [0.0, -1.0, math.nan, math.inf, 5e-324, 1e300])
def test_deviations_without_a_grid_are_refused(deviation: float) -> None:
    with pytest.raises(ValueError, match="deviation must be above 0 and finite"):
        add_noise(torch.zeros(3), deviation, Keystream(b"bad"))


def test_integers_are_refused() -> None:
    with pytest.raises(ValueError, match="expected floating-point numbers"):
        add_noise(torch.zeros(3, dtype=torch.int64), DEVIATION, Keystream(b"bad"))


def test_fresh_noise_is_never_the_same_twice() -> None:
    one, other = (add_noise(torch.zeros(50), DEVIATION, Keystream()) for _ in range(2))
    assert not torch.equal(one, other)


def test_what_is_exported() -> None:
    own = {
        name
        for name, value in vars(noise).items()
        if not name.startswith("_") and getattr(value, "__module__", "") == noise.__name__
    }
    assert own == {"add_noise", "grid_step", "standard_normal"}
