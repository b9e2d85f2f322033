"""Where a file keeps each node of a Merkle tree: in the order in which appending completes them.

Appending entry `n` completes its leaf hash and then, level by level, every subtree that ends at
it: the nodes `(level, n >> level)` for `level` from 0 to the number of trailing ones of `n`. A file
that takes them in that order is only ever appended to, and a node's place in it is a closed form
(the "stored hash index" of Go's golang.org/x/mod/sumdb/tlog, which counts it in a loop).

**Count.** Entry `n` completes `1 + z(n + 1)` nodes, where `z` counts trailing zeros. Summed over
the first `N` entries, `z` gives the exponent of 2 in `N!`, which is `N - ones(N)` (Legendre), so

    count(N) = 2 N - ones(N)

**Place.** Node `(level, index)` is completed by entry `n = (index + 1) 2**level - 1`, after the
nodes of all entries before it and after its own `level` lower nodes: at `count(n) + level`. In
binary `n` is `index` followed by `level` ones, so `ones(n) = ones(index) + level`, and

    place(level, index) = 2 n - ones(n) + level = (index + 1) 2**(level + 1) - 2 - ones(index)
"""

from __future__ import annotations


def node_count(size: int) -> int:
    """Number of nodes that the first `size` entries complete.

    >>> [node_count(size) for size in range(5)]
    [0, 1, 3, 4, 7]
    """
    return 2 * size - size.bit_count()


def node_place(level: int, index: int) -> int:
    """Place of node `(level, index)` among all nodes, from 0, in order of completion.

    It is below `node_count(size)` exactly when the first `size` entries complete the node.

    >>> [node_place(*node) for node in ((0, 0), (0, 1), (1, 0), (0, 2), (0, 3), (1, 1), (2, 0))]
    [0, 1, 2, 3, 4, 5, 6]
    """
    return ((index + 1) << (level + 1)) - 2 - index.bit_count()
