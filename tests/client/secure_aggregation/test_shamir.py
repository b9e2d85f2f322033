"""Shares of a secret: enough give it, fewer tell nothing."""

from __future__ import annotations

import contextlib
import itertools
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit.errors import MalformedInput
from client.secure_aggregation.shamir import PRIME, SHARE_BYTES, combine, split


@given(
    secret=st.binary(min_size=32, max_size=32),
    shape=st.integers(1, 12).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n))),
    data=st.data(),
)
def test_any_threshold_of_shares_gives_the_secret(
    secret: bytes, shape: tuple[int, int], data: st.DataObject
) -> None:
    count, threshold = shape
    shares = split(secret, shares=count, threshold=threshold)
    places = data.draw(st.permutations(range(1, count + 1)))[
        : data.draw(st.integers(threshold, count))
    ]
    held = {place: shares[place - 1] for place in places}
    assert combine(held, threshold=threshold) == secret


def test_fewer_shares_are_the_same_whatever_the_secret_is() -> None:
    """Exhaustively, for a threshold of 2 and coefficients of a small range: the distribution of one
    share over all coefficients is a shift, so over the whole field it is uniform."""
    for place in (1, 2, 3):
        for secret in (0, 1, 77):
            seen = Counter(
                int.from_bytes(
                    split(
                        secret.to_bytes(32, "big"),
                        shares=3,
                        threshold=2,
                        below=lambda _, value=value: value,  # type: ignore[misc]
                    )[place - 1],
                    "big",
                )
                for value in range(50)
            )
            assert seen == Counter((secret + place * value) % PRIME for value in range(50))


def test_coefficients_are_drawn_from_the_whole_field() -> None:
    asked: list[int] = []

    def below(limit: int) -> int:
        asked.append(limit)
        return limit - 1

    shares = split(bytes(32), shares=4, threshold=3, below=below)
    assert asked == [PRIME, PRIME]
    assert all(len(share) == SHARE_BYTES for share in shares)
    assert combine({2: shares[1], 3: shares[2], 4: shares[3]}, threshold=3) == bytes(32)


def test_the_field_is_one() -> None:
    """Miller-Rabin, with the first dozen bases."""
    odd, twos = PRIME - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for base in (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37):
        powers = [pow(base, odd * 2**k, PRIME) for k in range(twos)]
        assert powers[0] == 1 or PRIME - 1 in powers


@pytest.mark.parametrize(("shares", "threshold"), [(3, 0), (3, 4), (0, 1)])
def test_an_impossible_threshold_is_refused(shares: int, threshold: int) -> None:
    with pytest.raises(ValueError, match="threshold must be"):
        split(bytes(32), shares=shares, threshold=threshold)


def test_a_secret_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        split(bytes(31), shares=2, threshold=2)


def test_too_few_shares_are_refused() -> None:
    shares = split(bytes(32), shares=3, threshold=3)
    with pytest.raises(ValueError, match="3 shares are needed, got 2"):
        combine({1: shares[0], 2: shares[1]}, threshold=3)
    with pytest.raises(ValueError, match="needed"):
        combine({0: shares[0], 1: shares[1], 2: shares[2]}, threshold=3)


@pytest.mark.parametrize("share", [bytes(32), bytes(34), b"\xff" * 33, PRIME.to_bytes(33, "big")])
def test_what_is_no_share_is_refused(share: bytes) -> None:
    with pytest.raises(MalformedInput, match="malformed share"):
        combine({1: share}, threshold=1)


def test_a_changed_share_gives_another_secret_or_none() -> None:
    secret = bytes(range(32))
    shares = split(secret, shares=3, threshold=3)
    for place, bit in itertools.product(range(3), (0, 7, 255)):
        changed = {number + 1: share for number, share in enumerate(shares)}
        flipped = int.from_bytes(shares[place], "big") ^ (1 << bit)
        changed[place + 1] = flipped.to_bytes(SHARE_BYTES, "big")
        with contextlib.suppress(MalformedInput):  # outside the field, or not 32 bytes
            assert combine(changed, threshold=3) != secret
