"""Shamir's secret sharing (1979, CACM 22-11) of 32-byte secrets over a prime field.

Formal guarantees:

* Any `threshold` shares give the secret; fewer are independent of it (information-theoretically),
  when the polynomial's coefficients are uniform, which `split` draws by rejection.
* A share is of no use against tampering by itself: who receives shares must know that they are the
  dealt ones. `client.secure_aggregation` has the dealer's signed commitment to each, and compares
  what comes of them with a commitment to the secret.

| edge case | what happens |
|---|---|
| a threshold below 1 or above the number of shares | `ValueError` |
| a secret that is not 32 bytes | `ValueError` |
| two shares of one place, or too few | `ValueError` |
| a share outside the field | `MalformedInput`: it came from elsewhere |
| shares that no secret of 32 bytes has | `MalformedInput` |
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from typing import Final

from audit.errors import MalformedInput

PRIME: Final = 2**256 + 297
"""The smallest prime above 2**256, so that every 32-byte secret is an element."""

SECRET_BYTES: Final = 32
SHARE_BYTES: Final = 33

Below = Callable[[int], int]
"""A uniform integer in `[0, n)`."""


def split(
    secret: bytes, *, shares: int, threshold: int, below: Below = secrets.randbelow
) -> list[bytes]:
    r"""Shares of a secret, for places 1, 2, … in order.

    Args:
        secret: 32 bytes.
        shares: How many.
        threshold: How many of them give the secret, 1 to `shares`.
        below: Source of the coefficients.

    >>> parts = split(bytes(31) + b"\x07", shares=3, threshold=2)
    >>> combine({1: parts[0], 3: parts[2]}, threshold=2)[-1]
    7
    """
    if len(secret) != SECRET_BYTES:
        raise ValueError(f"a secret has {SECRET_BYTES} bytes, got {len(secret)}")
    if not 1 <= threshold <= shares:
        raise ValueError(f"threshold must be 1 to {shares}, got {threshold}")
    coefficients = [int.from_bytes(secret, "big")]
    coefficients += [below(PRIME) for _ in range(threshold - 1)]
    return [_at(coefficients, place).to_bytes(SHARE_BYTES, "big") for place in range(1, shares + 1)]


def combine(shares: Mapping[int, bytes], *, threshold: int) -> bytes:
    """The secret, from `threshold` of the shares (those of the lowest places).

    Args:
        shares: Place (from 1) to share.
        threshold: As it was dealt.

    Raises:
        MalformedInput: When they are no shares of one secret of 32 bytes.
    """
    if threshold < 1 or len(shares) < threshold or min(shares, default=1) < 1:
        raise ValueError(f"{threshold} shares are needed, got {len(shares)}")
    chosen = {place: _element(shares[place]) for place in sorted(shares)[:threshold]}
    secret = 0
    for place, value in chosen.items():
        above, below = 1, 1
        for other in chosen:
            if other != place:
                above = above * other % PRIME
                below = below * (other - place) % PRIME
        secret = (secret + value * above * pow(below, -1, PRIME)) % PRIME
    if secret >= 2 ** (8 * SECRET_BYTES):
        raise MalformedInput("malformed shares: no secret has them")
    return secret.to_bytes(SECRET_BYTES, "big")


def _at(coefficients: list[int], place: int) -> int:
    value = 0
    for coefficient in reversed(coefficients):
        value = (value * place + coefficient) % PRIME
    return value


def _element(share: bytes) -> int:
    value = int.from_bytes(share, "big")
    if len(share) != SHARE_BYTES or value >= PRIME:
        raise MalformedInput("malformed share: outside the field")
    return value
