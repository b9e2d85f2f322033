"""Gaussian noise on a public grid, so that floating-point arithmetic tells nothing about the data.

The textbook sum `total + deviation * Z` in floating point is not the Gaussian mechanism: which
doubles it can give depends on `total`, and one impossible value tells two neighbours apart. Mironov
2012 (CCS, "On significance of the least significant bits") shows it for Laplace noise, Jin et al.
(arXiv 2112.05307) for Gaussian noise in DP-SGD, Haney et al. (arXiv 2207.13793) from the precision
that a sum's magnitude leaves. The remedy is the one in Mironov's snapping mechanism (§5.2): round
the noisy value to a power of two that follows from the noise's scale alone.

Formal guarantees. Write `g = grid_step(deviation)`; `g` lies in `[2**-12, 2**-11) * deviation`.

* **What is computed** is `round((total + deviation * Z) / g) * g`: the exact Gaussian mechanism,
  then a public function. So the grid asks for *no* larger sensitivity and costs no privacy, however
  many coordinates there are. (Rounding `total` by itself first would move neighbours apart by up to
  `g * sqrt(coordinates)`.) The conversion to the dtype of `total` is a public function as well.
* **Exact integers.** `total / g` is split without error into a whole number and a rest in
  [-1/2, 1/2]. The rest is added to the noise, that sum is rounded, and the two whole numbers are
  added as 64-bit integers. So the magnitude of `total` costs no bits, and the attainable values are
  all multiples of `g` within reach of the noise, whatever `total` is. Sums of several samples, the
  guard of Holohan & Braghin (arXiv 2107.10138), only make it costly to find out which samples can
  give a value; here every value has samples that give it, under every total.
* **Resolution.** Box-Muller turns 128 bits into two normals: 54 for the angle and 74 for the
  radius, so that small uniforms, which are the tail, have small neighbours. The largest normal is
  10.2, and 5e-14 is the chance that exact noise would pass it in 1,000 steps of 22 million
  coordinates. (53 bits would end at 8.57, which leaves out 2e-7, and be a comb from 6 on, where
  every sixth of such steps draws.) A computed normal is within `2**-49 * r + 2**-53 / r` of the
  exact one (measured by a test), where `r` is its pair's radius. A grid step is at least `2**-12`.
* **What this arithmetic costs.** Let `e` be the logarithm of computed over exact probability of
  what a pair comes out as. The sides of its grid cell move by the error above, and a cell holds
  more than 2**60 lattice points up to `r = 7.4`: there `|e| <= 2**-20`, and `E[e**2] <= 2**-66`.
  Beyond, and by the missing tail, the total variation is at most 2**-56 a pair. By Freedman's
  inequality the `n` pairs of a whole run, chosen adaptively, have computed over exact probability
  within `exp(±gamma)`, `gamma = 2**-33 * sqrt(2 * n * L) + 2**-20 * L`, but for a probability
  `beta = exp(-L) + n * 2**-56`. A run that is (epsilon, delta) with exact noise is then
  `(epsilon + 2 * gamma, exp(gamma) * delta + (1 + exp(epsilon + gamma)) * beta)` with ours. At
  `L = 46`:

| run | n | 2 * gamma | beta |
|---|---|---|---|
| 100 steps of 300 thousand coordinates | 1.5e7 | 1e-4 | 2e-10 |
| 1,000 steps of 22 million coordinates | 1.1e10 | 3.3e-4 | 1.6e-7 |

* **Sensitivity** is that of `total` as it was computed. Rounding errors of a floating-point *sum*
  (Casacuberta et al., arXiv 2207.10635) belong to whoever sums.
* **Timing** (Jin et al.) does not tell the samples: none is rejected, and nothing here branches on
  them.

| edge case | what happens |
|---|---|
| no coordinates | an empty tensor; no words are drawn |
| NaN or ±inf in `total`, or 2**62 grid steps and more | `ValueError`: clipping must have failed |
| noise far below `total` | exact all the same, up to 2**62 grid steps |
| many coordinates | besides the result, a few arrays of `CHUNK` doubles |
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from client.learning.randomness import Keystream

CHUNK = 3 << 13
"""Coordinates made at a time, an even number: their arrays stay in a core's cache. Twice as many
take almost twice the time; and two threads gain nothing, as they wait for each other at the
interpreter's lock between NumPy's short loops."""

_GRID_BITS = 12
_MAX_STEPS = 2.0**62
"""Whole numbers of grid steps are below it, so that their sum with the noise fits 64 bits."""

_RADIUS_MASK = np.int64(2**63 - 1)
_SPARE_BITS = 11
"""Low bits of the angle's word: the angle keeps 53, these continue the radius below its own 63."""
_SPARE_MASK = np.int64((1 << _SPARE_BITS) - 1)

_SINE = [(-1) ** k / math.factorial(2 * k + 1) for k in range(8)]
"""Taylor coefficients of `sin(x) / x`, in powers of `x**2`."""
_COSINE = [(-1) ** k / math.factorial(2 * k) for k in range(9)]


def grid_step(deviation: float) -> float:
    """The smallest power of two that is at least `deviation / 4096`.

    Args:
        deviation: Standard deviation of the noise, above 0 and finite.

    Raises:
        ValueError: When the deviation is no such number, or so small or large that the grid's
            numbers would leave the range of a double.

    >>> grid_step(1.0) == 2**-12, grid_step(1.5) == 2**-11
    (True, True)
    """
    if not 2.0**-900 < deviation < 2.0**900:
        raise ValueError(f"deviation must be above 0 and finite, got {deviation}")
    mantissa, exponent = math.frexp(deviation)  # deviation = mantissa * 2**exponent, in [1/2, 1)
    return math.ldexp(1.0, exponent - _GRID_BITS - (mantissa == 0.5))


def add_noise(total: Tensor, deviation: float, keystream: Keystream) -> Tensor:
    """`total + deviation * Z` with `Z` standard normal, rounded to a multiple of `grid_step`.

    Args:
        total: Any shape, any floating dtype, any device, any strides. It is not changed.
        deviation: Standard deviation of the noise, above 0 and finite, in the units of `total`.
        keystream: Source of the noise.

    Returns:
        A contiguous tensor of the shape, dtype and device of `total`. The grid value is rounded to
        that dtype at last: float32 holds it exactly up to 2**24 steps, 4,096 deviations.

    Raises:
        ValueError: When `total` is not floating-point, or holds a number that is not finite or
            beyond 2**62 grid steps: no noise could hide it, and clipping must have failed.
    """
    if not total.is_floating_point():
        raise ValueError(f"expected floating-point numbers, got {total.dtype}")
    step = grid_step(deviation)
    wide = torch.promote_types(total.dtype, torch.float32)  # NumPy has no bfloat16
    noisy = torch.empty(total.shape, dtype=wide)
    source, target = total.detach().to("cpu", wide).reshape(-1).numpy(), noisy.view(-1).numpy()

    for start in range(0, len(source), CHUNK):
        piece = slice(start, start + CHUNK)
        count = len(source[piece])
        words = keystream.words(count + count % 2)
        target[piece] = _noisy(source[piece], deviation, step, words)
    return noisy.to(total.device, total.dtype)


def _noisy(
    source: npt.NDArray[Any], deviation: float, step: float, words: npt.NDArray[np.uint64]
) -> npt.NDArray[np.float64]:
    steps = np.multiply(source, 1 / step, dtype=np.float64)
    if not max(steps.max(), -steps.min()) < _MAX_STEPS:  # nor is a NaN
        raise ValueError(f"expected finite numbers below 2**62 * {step}")
    whole = np.rint(steps)
    steps -= whole
    moved = _normals(words)[: len(steps)]
    moved *= deviation / step
    moved += steps
    on_grid = whole.astype(np.int64)
    on_grid += np.rint(moved, out=moved).astype(np.int64)
    np.multiply(on_grid, step, out=moved)
    return moved


def standard_normal(count: int, keystream: Keystream) -> npt.NDArray[np.float64]:
    """`count` independent standard normal samples by Box-Muller.

    They are for rounding and for statistics; added as they are, they hide nothing for certain.
    """
    return _normals(keystream.words(count + count % 2))[:count]


def _normals(words: npt.NDArray[np.uint64]) -> npt.NDArray[np.float64]:
    """As many as there are words, an even number."""
    radius_word, angle_word = np.split(words.view(np.int64), 2)
    # The half of a last place keeps the logarithm finite.
    radius = (angle_word & _SPARE_MASK) + 0.5
    radius *= 2.0**-_SPARE_BITS
    radius += radius_word & _RADIUS_MASK
    radius *= 2.0**-63
    np.log(radius, out=radius)
    radius *= -2.0
    np.sqrt(radius, out=radius)
    # A half circle of angles; the radius word's other bit, as a sign, chooses the half.
    radius.view(np.int64)[:] ^= radius_word & ~_RADIUS_MASK
    normals = np.empty(len(words))
    cosine, sine = np.split(normals, 2)
    half_angle = (angle_word & ~_SPARE_MASK) * np.float64(math.pi / 4 * 2.0**-63)
    _double_angle(half_angle, cosine, sine)
    cosine *= radius
    sine *= radius
    return normals


def _double_angle(
    half: npt.NDArray[np.float64],
    cosine: npt.NDArray[np.float64],
    sine: npt.NDArray[np.float64],
) -> None:
    """Write cosine and sine of twice `half`, which lies in [-pi/4, pi/4].

    Taylor series, whose first missing terms are below 2**-54, and the double-angle formulas: three
    times as fast as NumPy's functions where those are not vectorised. torch's are as fast, but
    wait for its threads even with a thousand numbers, which takes milliseconds on a busy machine.
    """
    square = half * half
    _series(square, _COSINE, sine)
    _series(square, _SINE, cosine)
    cosine *= half
    sine *= cosine  # sin(2x) / 2 = cos(x) * sin(x)
    sine *= 2.0
    cosine *= cosine  # cos(2x) = 1 - 2 * sin(x)**2
    cosine *= -2.0
    cosine += 1.0


def _series(
    x: npt.NDArray[np.float64], coefficients: list[float], out: npt.NDArray[np.float64]
) -> None:
    """Horner's rule, from the highest power down."""
    out[:] = coefficients[-1]
    for coefficient in coefficients[-2::-1]:
        out *= x
        out += coefficient
