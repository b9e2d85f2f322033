"""The Merkle tree: RFC 6962 vectors, an independent oracle, every size, every corruption."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit.errors import NotFound, VerificationFailed
from audit.merkle import (
    EMPTY_ROOT,
    Frontier,
    consistency_proof,
    hash_leaf,
    inclusion_proof,
    root,
    verify_consistency,
    verify_inclusion,
)
from tests.audit.vectors import (
    RFC6962_CONSISTENCY,
    RFC6962_INCLUSION,
    RFC6962_LEAVES,
    RFC6962_ROOTS,
)

SIZES = 40


class Tree:
    """A stored tree in memory that refuses to overwrite, and counts what it reads."""

    def __init__(self, leaves: Sequence[bytes]) -> None:
        self.hashes: dict[tuple[int, int], bytes] = {}
        self.reads = 0
        self.frontier = Frontier()
        for leaf in leaves:
            self.frontier, nodes = self.frontier.append(hash_leaf(leaf))
            for level, index, value in nodes:
                assert (level, index) not in self.hashes
                self.hashes[level, index] = value

    def read(self, level: int, index: int) -> bytes:
        self.reads += 1
        return self.hashes[level, index]


def oracle_root(leaves: Sequence[bytes]) -> bytes:
    """The definition of RFC 6962 section 2.1, word for word."""
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return sha256(b"\x00" + leaves[0]).digest()
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return sha256(b"\x01" + oracle_root(leaves[:split]) + oracle_root(leaves[split:])).digest()


def oracle_path(index: int, leaves: Sequence[bytes]) -> tuple[bytes, ...]:
    """The definition of RFC 6962 section 2.1.1."""
    if len(leaves) <= 1:
        return ()
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    if index < split:
        return (*oracle_path(index, leaves[:split]), oracle_root(leaves[split:]))
    return (*oracle_path(index - split, leaves[split:]), oracle_root(leaves[:split]))


def oracle_subproof(first: int, leaves: Sequence[bytes], known: bool) -> tuple[bytes, ...]:
    """The definition of RFC 6962 section 2.1.2."""
    if first == len(leaves):
        return () if known else (oracle_root(leaves),)
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    if first <= split:
        return (*oracle_subproof(first, leaves[:split], known), oracle_root(leaves[split:]))
    return (
        *oracle_subproof(first - split, leaves[split:], False),
        oracle_root(leaves[:split]),
    )


LEAVES = [bytes([number]) * number for number in range(SIZES)]
TREE = Tree(LEAVES)


def test_roots_of_rfc_6962() -> None:
    tree = Tree(RFC6962_LEAVES)
    for size, expected in enumerate(RFC6962_ROOTS, start=1):
        assert root(tree.read, size) == expected
        assert Tree(RFC6962_LEAVES[:size]).frontier.root() == expected
    assert Frontier().root() == EMPTY_ROOT == root(tree.read, 0)


@pytest.mark.parametrize(("index", "size", "path"), RFC6962_INCLUSION)
def test_inclusion_of_rfc_6962(index: int, size: int, path: tuple[str, ...]) -> None:
    proof = tuple(map(bytes.fromhex, path))
    assert inclusion_proof(Tree(RFC6962_LEAVES).read, index, size) == proof
    verify_inclusion(hash_leaf(RFC6962_LEAVES[index]), index, size, proof, RFC6962_ROOTS[size - 1])


@pytest.mark.parametrize(("first", "second", "path"), RFC6962_CONSISTENCY)
def test_consistency_of_rfc_6962(first: int, second: int, path: tuple[str, ...]) -> None:
    proof = tuple(map(bytes.fromhex, path))
    assert consistency_proof(Tree(RFC6962_LEAVES).read, first, second) == proof
    verify_consistency(first, second, RFC6962_ROOTS[first - 1], RFC6962_ROOTS[second - 1], proof)


@pytest.mark.parametrize("size", range(SIZES + 1))
def test_every_size_against_the_definition(size: int) -> None:
    leaves = LEAVES[:size]
    head = oracle_root(leaves)
    assert root(TREE.read, size) == head
    for index in range(size):
        proof = inclusion_proof(TREE.read, index, size)
        assert proof == oracle_path(index, leaves)
        verify_inclusion(hash_leaf(leaves[index]), index, size, proof, head)
    for first in range(1, size + 1):
        proof = consistency_proof(TREE.read, first, size)
        assert proof == oracle_subproof(first, leaves, True)
        verify_consistency(first, size, oracle_root(leaves[:first]), head, proof)


def test_a_frontier_loads_from_storage() -> None:
    for size in range(SIZES):
        frontier = Frontier.load(TREE.read, size)
        frontier, nodes = frontier.append(hash_leaf(LEAVES[size]))
        assert frontier == Tree(LEAVES[: size + 1]).frontier
        assert all(TREE.hashes[level, index] == value for level, index, value in nodes)


def test_proofs_read_a_logarithm_of_the_tree() -> None:
    tree = Tree([b"%d" % number for number in range(5000)])
    bound = 2 * (5000).bit_length()
    for index, size in ((0, 5000), (4998, 4999), (2500, 3333)):
        tree.reads = 0
        inclusion_proof(tree.read, index, size)
        assert tree.reads <= bound
        tree.reads = 0
        consistency_proof(tree.read, index + 1, size)
        assert tree.reads <= bound


def test_the_empty_tree_is_a_prefix_of_every_tree() -> None:
    assert consistency_proof(TREE.read, 0, 7) == ()
    verify_consistency(0, 7, EMPTY_ROOT, root(TREE.read, 7), ())
    verify_consistency(0, 0, EMPTY_ROOT, EMPTY_ROOT, ())
    with pytest.raises(VerificationFailed):
        verify_consistency(0, 7, root(TREE.read, 1), root(TREE.read, 7), ())
    with pytest.raises(VerificationFailed):
        verify_consistency(0, 7, EMPTY_ROOT, root(TREE.read, 7), (EMPTY_ROOT,))


@pytest.mark.parametrize(("index", "size"), [(0, 0), (5, 5), (-1, 5), (6, 5)])
def test_no_inclusion_outside_the_tree(index: int, size: int) -> None:
    with pytest.raises(NotFound):
        inclusion_proof(TREE.read, index, size)
    with pytest.raises(VerificationFailed):
        verify_inclusion(EMPTY_ROOT, index, size, (), EMPTY_ROOT)


@pytest.mark.parametrize(("first", "second"), [(2, 1), (-1, 1)])
def test_no_consistency_backwards(first: int, second: int) -> None:
    with pytest.raises(NotFound):
        consistency_proof(TREE.read, first, second)
    with pytest.raises(VerificationFailed):
        verify_consistency(first, second, EMPTY_ROOT, EMPTY_ROOT, ())


def corrupted(proof: tuple[bytes, ...], data: st.DataObject) -> tuple[bytes, ...]:
    """A proof that is not `proof`: a bit flipped, a hash dropped, added, cut or swapped."""
    kinds = ["append", "prepend"]
    if proof:
        kinds += ["flip", "drop", "shorten"]
    if len(proof) > 1:
        kinds.append("swap")
    kind = data.draw(st.sampled_from(kinds))
    items = list(proof)
    where = data.draw(st.integers(0, max(len(proof) - 1, 0)))
    if kind == "append":
        items.append(data.draw(st.sampled_from([EMPTY_ROOT, *proof])))
    elif kind == "prepend":
        items.insert(0, data.draw(st.sampled_from([EMPTY_ROOT, *proof])))
    elif kind == "drop":
        items.pop(where)
    elif kind == "shorten":
        items[where] = items[where][:-1]
    elif kind == "swap":
        items.reverse()
    else:
        bit = data.draw(st.integers(0, 255))
        changed = bytearray(items[where])
        changed[bit // 8] ^= 1 << bit % 8
        items[where] = bytes(changed)
    return tuple(items)


@given(st.data())
def test_corrupted_inclusion_is_noticed(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, SIZES))
    index = data.draw(st.integers(0, size - 1))
    proof = corrupted(inclusion_proof(TREE.read, index, size), data)
    with pytest.raises(VerificationFailed):
        verify_inclusion(hash_leaf(LEAVES[index]), index, size, proof, root(TREE.read, size))


@given(st.data())
def test_corrupted_consistency_is_noticed(data: st.DataObject) -> None:
    second = data.draw(st.integers(1, SIZES))
    first = data.draw(st.integers(1, second))
    proof = corrupted(consistency_proof(TREE.read, first, second), data)
    with pytest.raises(VerificationFailed):
        verify_consistency(first, second, root(TREE.read, first), root(TREE.read, second), proof)


@given(st.data())
def test_inclusion_holds_for_one_leaf_one_place_one_tree(data: st.DataObject) -> None:
    size = data.draw(st.integers(2, SIZES))
    index = data.draw(st.integers(0, size - 1))
    proof = inclusion_proof(TREE.read, index, size)
    leaf, head = hash_leaf(LEAVES[index]), root(TREE.read, size)
    other = data.draw(st.integers(0, SIZES - 1).filter(lambda n: n != index))
    with pytest.raises(VerificationFailed):
        verify_inclusion(leaf, other, size, proof, head)
    with pytest.raises(VerificationFailed):
        verify_inclusion(hash_leaf(LEAVES[other]), index, size, proof, head)
    with pytest.raises(VerificationFailed):
        verify_inclusion(leaf, index, size, proof, root(TREE.read, size - 1))


@given(st.data())
def test_consistency_refuses_another_history(data: st.DataObject) -> None:
    second = data.draw(st.integers(2, SIZES))
    first = data.draw(st.integers(1, second - 1))
    changed = data.draw(st.integers(0, first - 1))
    forked = Tree([b"changed" if n == changed else leaf for n, leaf in enumerate(LEAVES)])
    with pytest.raises(VerificationFailed):
        verify_consistency(
            first,
            second,
            root(TREE.read, first),
            root(forked.read, second),
            consistency_proof(forked.read, first, second),
        )


def test_a_leaf_is_no_interior_node() -> None:
    """Without the prefixes, `left || right` as a leaf would hash to their parent."""
    left, right = hash_leaf(LEAVES[0]), hash_leaf(LEAVES[1])
    assert hash_leaf(left + right) != root(TREE.read, 2)
