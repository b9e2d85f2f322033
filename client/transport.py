"""How the numbers of an update travel: as float32, as float16, or as int8 with a scale an array.

* `encode` makes the arrays that travel, `decode` reads them; the plan's `transport.precision` says
  which form. The digest in a site's report is of the arrays as they travel.
* The wire form is fixed: the update's names, shapes and one type; for int8 one more array,
  `SCALES`, with a scale for each array in the order of their names. Anything else is malformed.
* Counts never pass through here: they travel as they are.

Formal guarantees:

* **Privacy.** What is encoded is the update with its noise, and the randomness of rounding is
  independent of it and of every record. Encoding is post-processing (Dwork & Roth 2014,
  Proposition 2.1): it costs no epsilon, and its randomness is no secret.
* **Error.** float16 moves a number by at most 2^-11 of itself, or by 2^-25 where that is more, up
  to `FLOAT16_LARGEST`. int8 moves a number by less than its array's scale, which is 1/127 of the
  largest magnitude in the array.
* **Unbiased.** The expectation of a decoded int8 number is the number, but for 2^-45 of the scale:
  it is rounded up with a chance that is its distance to the lower neighbour (stochastic rounding;
  Alistarh et al. 2017, arXiv 1610.02132, section 3.1, with one bucket an array). Rounding of
  different numbers is independent.
* **Bounded.** Decoded numbers are float32 and finite; of int8 none is above `MAX_WEIGHT`, but for
  rounding.

| edge case | what happens |
|---|---|
| NaN or ±inf | `MalformedInput`, in both directions |
| float16: beyond ±65504 | cut to it: no weight of a working model moves so far |
| float16: below 2^-14 | subnormal, in steps of 2^-24; at most 2^-25 becomes 0 |
| int8: all numbers of an array are 0 | scale 0, numbers 0 |
| int8: an array of subnormal numbers | the scale is at least the smallest float32 above 0 |
| empty arrays, scalars | as any other; an empty array has scale 0 |
| int8: -128, a scale that is negative, or 0 beside numbers | malformed: `encode` never gives it |
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final, Literal, Protocol

import numpy as np
import numpy.typing as npt

from audit.errors import MalformedInput
from client.arrays import Arrays
from client.learning.plan_model import MAX_WEIGHT

Precision = Literal["float32", "float16", "int8"]

FLOAT16_LARGEST: Final = 65504.0

FLOAT16_ROUNDING: Final = 2.0**-11
"""Most that a number above 2^-14 moves, relative to it."""

FLOAT16_STEP: Final = 2.0**-25
"""Most that a smaller one moves."""

INT8_LARGEST: Final = 127

SCALES: Final = "#scales"
"""Name of the scales beside int8 arrays; no weight of a model has such a name."""

ROUNDING_DEVIATIONS: Final = 10.0
"""How far, in scales, the error of int8 rounding may be longer than expected. Honest rounding
exceeds it with a chance of exp(-10²/2) = 2e-22 (Boucheron, Lugosi & Massart 2013, Theorem 6.10: a
norm is convex and changes no more than its vector does)."""

_LARGEST_SCALE: Final = MAX_WEIGHT / INT8_LARGEST * (1 + 2.0**-20)

_TYPES: Final[Mapping[str, type[np.generic]]] = {
    "float32": np.float32,
    "float16": np.float16,
    "int8": np.int8,
}

_BLOCK: Final = 1 << 16
"""Numbers at a time: temporary arrays stay small, whatever the model."""


class Uniforms(Protocol):
    """Where rounding at random comes from (`client.learning.randomness.Keystream`)."""

    def uniform(self, count: int) -> npt.NDArray[np.float64]:
        """`count` independent uniforms in [0, 1)."""


def encode(update: Arrays, precision: Precision, uniforms: Uniforms) -> dict[str, npt.NDArray[Any]]:
    """The arrays that travel.

    Args:
        update: float32 arrays.
        precision: The plan's.
        uniforms: For int8; fresh in every call, since it is drawn independently of the update.

    Raises:
        MalformedInput: When a number is not finite, or a name is `SCALES`.

    >>> from client.learning.randomness import Keystream
    >>> sent = encode({"w": np.array([1.27, -0.5], np.float32)}, "int8", Keystream(b"seed"))
    >>> sent["w"], sent[SCALES]
    (array([127, -50], dtype=int8), array([0.01], dtype=float32))
    """
    for name, array in update.items():
        if name == SCALES or not np.isfinite(array).all():
            raise MalformedInput(f"malformed update: {name!r} holds a value that is not finite")
    match precision:
        case "float32":
            return dict(update)
        case "float16":
            return {name: _to_float16(array) for name, array in update.items()}
        case "int8":
            names = sorted(update)
            scales = np.array([_scale(update[name]) for name in names], np.float32)
            return {
                **{
                    name: _to_int8(update[name], float(scale), uniforms)
                    for name, scale in zip(names, scales, strict=True)
                },
                SCALES: scales,
            }


def decode(sent: Arrays, precision: Precision, like: Arrays) -> dict[str, npt.NDArray[np.float32]]:
    """The update that `encode` was given, but for rounding.

    Args:
        sent: As received, from anybody.
        precision: The plan's.
        like: For names and shapes.

    Raises:
        MalformedInput: With the first thing that `encode` could not have given.

    >>> like = {"w": np.zeros(2, np.float32)}
    >>> sent = {"w": np.array([127, -50], np.int8), SCALES: np.array([0.01], np.float32)}
    >>> decode(sent, "int8", like)["w"]
    array([ 1.27, -0.5 ], dtype=float32)
    """
    wanted = set(like) | ({SCALES} if precision == "int8" else set())
    if set(sent) != wanted:
        odd = min(set(sent) ^ wanted)
        raise _bad(f"{odd!r} is {'unknown' if odd in sent else 'missing'}")
    for name, array in like.items():
        _check_form(name, sent[name], array.shape, precision)
    if precision == "int8":
        return _of_int8(sent, like)
    return {name: np.asarray(sent[name], np.float32) for name in like}


def most_rounded(precision: Precision, longest: float, largest: float, size: int) -> float:
    """By how much longer a decoded update may be than the honest one that was encoded.

    Args:
        precision: The plan's.
        longest: Euclidean norm of the longest honest update.
        largest: Largest magnitude of a single number in one.
        size: How many numbers an update has, at least 0.
    """
    match precision:
        case "float32":
            return 0.0
        case "float16":
            return FLOAT16_ROUNDING * longest + FLOAT16_STEP * math.sqrt(size)
        case "int8":
            # Each error has mean 0 within an interval of a scale, so at most a quarter of its
            # square for a variance.
            return largest / INT8_LARGEST * (math.sqrt(size) / 2 + ROUNDING_DEVIATIONS)


def _to_float16(array: npt.NDArray[Any]) -> npt.NDArray[np.float16]:
    cut: npt.NDArray[Any] = np.clip(array, -FLOAT16_LARGEST, FLOAT16_LARGEST)
    return cut.astype(np.float16)


def _scale(array: npt.NDArray[Any]) -> np.float32:
    """The smallest float32 of which 127 reach every number of the array."""
    largest = float(np.abs(array).max(initial=0.0))
    scale = np.float32(largest / INT8_LARGEST)
    if float(scale) * INT8_LARGEST < largest:
        scale = np.nextafter(scale, np.float32(np.inf))
    return scale


def _to_int8(array: npt.NDArray[Any], scale: float, uniforms: Uniforms) -> npt.NDArray[np.int8]:
    flat = np.ascontiguousarray(array).reshape(-1)
    rounded = np.zeros(flat.size, np.int8)
    if scale > 0:
        for first in range(0, flat.size, _BLOCK):
            block = flat[first : first + _BLOCK].astype(np.float64) / scale
            up = np.floor(block + uniforms.uniform(block.size))
            # 127 plus almost 1 may be rounded to 128.
            rounded[first : first + _BLOCK] = np.clip(up, -INT8_LARGEST, INT8_LARGEST)
    return rounded.reshape(array.shape)


def _check_form(
    name: str, given: npt.NDArray[Any], shape: tuple[int, ...], precision: Precision
) -> None:
    if given.shape != shape:
        raise _bad(f"{name!r}: expected shape {shape}, got {given.shape}")
    if given.dtype != _TYPES[precision]:
        raise _bad(f"{name!r}: expected {precision}, got {given.dtype}")
    if precision != "int8" and not np.isfinite(given).all():
        raise _bad(f"{name!r} holds a value that is not finite")


def _of_int8(sent: Arrays, like: Arrays) -> dict[str, npt.NDArray[np.float32]]:
    names, scales = sorted(like), sent[SCALES]
    if scales.shape != (len(names),) or scales.dtype != np.float32:
        raise _bad(f"expected {len(names)} scales of float32")
    # A comparison with NaN is false.
    if not np.all((scales >= 0) & (scales <= _LARGEST_SCALE)):
        raise _bad(f"a scale is not a number from 0 to {_LARGEST_SCALE:g}")
    decoded = {}
    for name, scale in zip(names, scales, strict=True):
        whole = sent[name]
        if whole.min(initial=0) < -INT8_LARGEST or (scale == 0 and whole.any()):
            raise _bad(f"{name!r} holds a number that its scale does not give")
        decoded[name] = np.multiply(whole, scale, dtype=np.float32)
    return {name: decoded[name] for name in like}


def _bad(reason: str) -> MalformedInput:
    return MalformedInput(
        f"malformed update: {reason}", fix="run the same version and plan everywhere"
    )
