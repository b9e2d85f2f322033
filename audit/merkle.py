"""The Merkle tree of RFC 6962 section 2.1 (unchanged in RFC 9162), with stored interior hashes.

* Pure: storage is a function that reads the hash of a complete subtree; what to write is returned.
* A node `(level, index)` is the hash of leaves `index * 2**level` to `(index + 1) * 2**level - 1`,
  stored once all of them exist and never changed after. Level 0 are the leaf hashes.
* Appending writes two nodes on average and reads none (`Frontier` holds the complete subtrees that
  make up the tree). Proofs and roots read O(log n) nodes. Nothing is rebuilt at start.
* Leaves and interior nodes are hashed with different prefixes, so neither passes for the other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from audit.errors import NotFound, VerificationFailed
from audit.words import count_of

HASH_BYTES: Final = 32

EMPTY_ROOT: Final = hashlib.sha256(b"").digest()
"""Root of a tree without leaves (RFC 6962 section 2.1)."""

HashReader: TypeAlias = Callable[[int, int], bytes]
"""Reads the stored hash of node `(level, index)`."""

Node: TypeAlias = tuple[int, int, bytes]
"""`(level, index, hash)` of a complete subtree."""


def hash_leaf(data: bytes) -> bytes:
    """`SHA-256(0x00 || data)`."""
    return hashlib.sha256(b"\x00" + data).digest()


def hash_children(left: bytes, right: bytes) -> bytes:
    """`SHA-256(0x01 || left || right)`."""
    return hashlib.sha256(b"\x01" + left + right).digest()


@dataclass(frozen=True)
class Frontier:
    """The right edge of a tree: enough to append and to know the root.

    Attributes:
        size: Number of leaves.
        peaks: Hashes of the complete subtrees that the tree consists of, largest first; one for
            each set bit of `size`.
    """

    size: int = 0
    peaks: tuple[bytes, ...] = ()

    @classmethod
    def load(cls, read_hash: HashReader, size: int) -> Frontier:
        """The frontier of the first `size` leaves, in O(log size) reads."""
        return cls(size, tuple(_peaks(read_hash, 0, size)))

    def append(self, leaf_hash: bytes) -> tuple[Frontier, list[Node]]:
        """The frontier with one more leaf, and the nodes that this completed."""
        return self.extend((leaf_hash,))

    def extend(self, leaf_hashes: Iterable[bytes]) -> tuple[Frontier, list[Node]]:
        """The frontier with more leaves, and the nodes that they completed, in that order."""
        size, peaks, nodes = self.size, list(self.peaks), []
        sha256 = hashlib.sha256
        for leaf_hash in leaf_hashes:
            nodes.append((0, size, leaf_hash))
            index, level, current = size, 0, leaf_hash
            while index & 1:
                current = sha256(b"\x01" + peaks.pop() + current).digest()  # hash_children
                index >>= 1
                level += 1
                nodes.append((level, index, current))
            peaks.append(current)
            size += 1
        return Frontier(size, tuple(peaks)), nodes

    def root(self) -> bytes:
        """Root hash of the tree."""
        return _fold(self.peaks) if self.peaks else EMPTY_ROOT


def root(read_hash: HashReader, size: int) -> bytes:
    """Root hash of the first `size` leaves, in O(log size) reads."""
    return Frontier.load(read_hash, size).root()


def inclusion_proof(read_hash: HashReader, index: int, size: int) -> tuple[bytes, ...]:
    """Audit path of leaf `index` in the tree of the first `size` leaves, from the leaf upwards.

    Raises:
        NotFound: Unless `0 <= index < size`.
    """
    return _inclusion_proof(lambda start, end: _range_root(read_hash, start, end), index, size)


def inclusion_proofs(
    read_hash: HashReader, indices: Sequence[int], size: int
) -> list[tuple[bytes, ...]]:
    """`inclusion_proof` of several leaves; what their paths share is put together once.

    Raises:
        NotFound: Unless each is one of the first `size` leaves.
    """
    known: dict[tuple[int, int], bytes] = {}

    def range_root(start: int, end: int) -> bytes:
        found = known.get((start, end))
        if found is None:
            found = known[start, end] = _range_root(read_hash, start, end)
        return found

    return [_inclusion_proof(range_root, index, size) for index in indices]


def _inclusion_proof(
    range_root: Callable[[int, int], bytes], index: int, size: int
) -> tuple[bytes, ...]:
    if not 0 <= index < size:
        raise NotFound(f"entry {index} is not in a tree of {count_of(size, 'entry')}")
    path: list[bytes] = []
    start, end = 0, size
    while end - start > 1:
        split = start + _largest_power_below(end - start)
        if index < split:
            path.append(range_root(split, end))
            end = split
        else:
            path.append(range_root(start, split))
            start = split
    return tuple(reversed(path))


def consistency_proof(read_hash: HashReader, first: int, second: int) -> tuple[bytes, ...]:
    """Proof that the tree of `first` leaves is a prefix of the tree of `second` leaves.

    It is empty when `first` is 0 (an empty tree is a prefix of every tree) or equals `second`.

    Raises:
        NotFound: Unless `0 <= first <= second`.
    """
    if not 0 <= first <= second:
        raise NotFound(f"there is no proof from {first} to {count_of(second, 'entry')}")
    if first == 0:
        return ()
    path: list[bytes] = []
    start, end = 0, second
    while end != first:
        split = start + _largest_power_below(end - start)
        if first <= split:
            path.append(_range_root(read_hash, split, end))
            end = split
        else:
            path.append(_range_root(read_hash, start, split))
            start = split
    if start != 0:  # otherwise the subtree left over is the first tree, whose root is known
        path.append(_range_root(read_hash, start, end))
    return tuple(reversed(path))


def verify_inclusion(
    leaf_hash: bytes, index: int, size: int, proof: Sequence[bytes], expected_root: bytes
) -> None:
    """Check an audit path (RFC 9162 section 2.1.3.2).

    Raises:
        VerificationFailed: When it does not lead from the leaf to the root.
    """
    if not 0 <= index < size:
        raise VerificationFailed(f"inclusion proof: entry {index} is not in a tree of {size}")
    _check_lengths((leaf_hash, expected_root, *proof), "inclusion proof")
    node, last, current = index, size - 1, leaf_hash
    for sibling in proof:
        if last == 0:
            raise VerificationFailed(f"inclusion proof: {count_of(len(proof), 'hash')}, too many")
        if node & 1 or node == last:
            current = hash_children(sibling, current)
            while not node & 1 and node:
                node >>= 1
                last >>= 1
        else:
            current = hash_children(current, sibling)
        node >>= 1
        last >>= 1
    if last:
        raise VerificationFailed(f"inclusion proof: {count_of(len(proof), 'hash')}, too few")
    _check_root(current, expected_root, "inclusion proof: root")


def verify_consistency(
    first: int, second: int, first_root: bytes, second_root: bytes, proof: Sequence[bytes]
) -> None:
    """Check a consistency proof (RFC 9162 section 2.1.4.2).

    Raises:
        VerificationFailed: When the first tree is not shown to be a prefix of the second.
    """
    if not 0 <= first <= second:
        raise VerificationFailed(f"consistency proof: a log of {first} cannot become {second}")
    _check_lengths((first_root, second_root, *proof), "consistency proof")
    if first in (0, second):
        if proof:
            raise VerificationFailed(f"consistency proof: {count_of(len(proof), 'hash')}, too many")
        if first == second:
            _check_root(first_root, second_root, "consistency proof: root at equal size")
        else:
            _check_root(first_root, EMPTY_ROOT, "consistency proof: root of the empty log")
        return
    path = list(proof)
    if first & (first - 1) == 0:
        path.insert(0, first_root)
    if not path:
        raise VerificationFailed("consistency proof: it is empty")
    node, last = first - 1, second - 1
    while node & 1:
        node >>= 1
        last >>= 1
    old = new = path[0]
    for sibling in path[1:]:
        if last == 0:
            raise VerificationFailed(f"consistency proof: {count_of(len(proof), 'hash')}, too many")
        if node & 1 or node == last:
            old = hash_children(sibling, old)
            new = hash_children(sibling, new)
            while not node & 1 and node:
                node >>= 1
                last >>= 1
        else:
            new = hash_children(new, sibling)
        node >>= 1
        last >>= 1
    if last:
        raise VerificationFailed(f"consistency proof: {count_of(len(proof), 'hash')}, too few")
    _check_root(old, first_root, "consistency proof: first root")
    _check_root(new, second_root, "consistency proof: second root")


def _peaks(read_hash: HashReader, start: int, end: int) -> list[bytes]:
    """Complete subtrees that make up leaves `start` to `end`, largest first.

    `start` is a multiple of every power of two that fits in the range, as RFC 6962 splits give.
    """
    hashes = []
    while start < end:
        level = (end - start).bit_length() - 1
        hashes.append(read_hash(level, start >> level))
        start += 1 << level
    return hashes


def _range_root(read_hash: HashReader, start: int, end: int) -> bytes:
    return _fold(_peaks(read_hash, start, end))


def _fold(peaks: Sequence[bytes]) -> bytes:
    current = peaks[-1]
    for peak in reversed(peaks[:-1]):
        current = hash_children(peak, current)
    return current


def _largest_power_below(count: int) -> int:
    """Largest power of two that is smaller than `count`, for `count > 1`."""
    return 1 << ((count - 1).bit_length() - 1)


def _check_lengths(hashes: Sequence[bytes], what: str) -> None:
    for item in hashes:
        if len(item) != HASH_BYTES:
            raise VerificationFailed(f"{what}: a hash has {len(item)} bytes, expected {HASH_BYTES}")


def _check_root(got: bytes, expected: bytes, what: str) -> None:
    if got != expected:
        raise VerificationFailed(f"{what}: got {got.hex()}, expected {expected.hex()}")
