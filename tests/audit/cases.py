"""Cases that another implementation has judged: proofs, notes and verifier keys, sound and spoiled.

They are enumerated, not drawn, so that `generate_vectors.py` and the tests see the same ones in the
same order; `fingerprint` tells when they no longer are the ones that were judged.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from audit.keys import SigningKey
from audit.merkle import Frontier, consistency_proof, hash_leaf, inclusion_proof, root
from audit.note import sign_note
from tests.audit.vectors import ENOCH_KEY, GO_KEY, GO_TWO_SIGNATURES

ALL_PROOFS_UP_TO = 257
"""Sizes of which every proof is compared; one more than a power of two."""

SIZES = (1, 2, 3, 4, 5, 6, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 127, 129, 256, 257, 700, 1000)
"""Sizes of the spoiled proofs: around powers of two, where proofs change their shape."""


class Tree:
    """The log of the entries `entry 0`, `entry 1`, …"""

    def __init__(self, size: int) -> None:
        self.hashes: dict[tuple[int, int], bytes] = {}
        frontier = Frontier()
        for number in range(size):
            frontier, nodes = frontier.append(hash_leaf(b"entry %d" % number))
            self.hashes.update({(level, index): value for level, index, value in nodes})

    def read(self, level: int, index: int) -> bytes:
        return self.hashes[level, index]


@dataclass(frozen=True)
class Inclusion:
    """A claim that the leaf is in the tree, which may be wrong."""

    index: int
    size: int
    leaf: bytes
    root: bytes
    path: tuple[bytes, ...]


@dataclass(frozen=True)
class Consistency:
    """A claim that the first tree is a prefix of the second, which may be wrong."""

    first: int
    second: int
    first_root: bytes
    second_root: bytes
    path: tuple[bytes, ...]


def inclusion_cases() -> Iterator[Inclusion]:
    """At every size, the sound proof of five entries and what can be done to it."""
    tree = Tree(max(SIZES) + 1)
    for size in SIZES:
        head = root(tree.read, size)
        for index in sorted({0, 1, size // 2, size - 2, size - 1} & set(range(size))):
            leaf = tree.read(0, index)
            path = inclusion_proof(tree.read, index, size)
            yield Inclusion(index, size, leaf, head, path)
            for spoiled in _spoiled_paths(path, (leaf, head)):
                yield Inclusion(index, size, leaf, head, spoiled)
            for other in (index - 1, index + 1, index ^ 2, index + size):
                yield Inclusion(other, size, leaf, head, path)
            for other in (0, size - 1, size + 1, size * 2, size // 2):
                yield Inclusion(index, other, leaf, head, path)
            yield Inclusion(index, size, _flipped(leaf), head, path)
            yield Inclusion(index, size, leaf, _flipped(head), path)
            yield Inclusion(index, size, leaf, root(tree.read, size + 1), path)


def consistency_cases() -> Iterator[Consistency]:
    """At every size, the sound proof from six earlier sizes and what can be done to it."""
    tree = Tree(max(SIZES) + 1)
    for second in SIZES:
        new = root(tree.read, second)
        power = 1 << (second.bit_length() - 1)
        for first in sorted(
            {1, 2, second // 2, power, second - 1, second} & {*range(1, second + 1)}
        ):
            old = root(tree.read, first)
            path = consistency_proof(tree.read, first, second)
            yield Consistency(first, second, old, new, path)
            for spoiled in _spoiled_paths(path, (old, new)):
                yield Consistency(first, second, old, new, spoiled)
            for other in (first - 1, first + 1, first ^ 2, second + 1):
                if other > 0:  # the judge has no proofs from the empty tree
                    yield Consistency(other, second, old, new, path)
            for other in (second - 1, second + 1, second * 2, second // 2):
                yield Consistency(first, other, old, new, path)
            yield Consistency(first, second, new, old, path)
            yield Consistency(first, second, _flipped(old), new, path)
            yield Consistency(first, second, old, _flipped(new), path)
            yield Consistency(first, second, root(tree.read, second + 1), new, path)


def note_cases() -> list[str]:
    """A note that two keys of Go's own tests signed, with every character and line changed."""
    note = GO_TWO_SIGNATURES
    lines = note.splitlines(keepends=True)
    cases = [note, "", "\n", "\n\n", note + "\n", "\n" + note, note * 2]
    for place in range(len(note)):
        head, character, tail = note[:place], note[place], note[place + 1 :]
        cases += [head + tail, head + character * 2 + tail, head, note[place:]]
        cases += [head + chr(ord(character) ^ bit) + tail for bit in (1, 2, 4, 8, 16, 32)]
        cases += [
            head + other + tail
            for other in ("\n", "\r", "\t", "\0", " ", "+", "=", "\x7f", "\x85", "\xa0", "\u2028")
        ]
    for place, line in enumerate(lines):
        rest = [*lines[:place], *lines[place + 1 :]]
        cases.append("".join(rest))
        cases += ["".join([*rest[:to], line, *rest[to:]]) for to in range(len(lines))]
        cases += ["".join([*lines[:to], line, *lines[to:]]) for to in range(len(lines) + 1)]
    cases += [note + lines[-1] * count for count in (1, 97, 98, 99)]
    cases.append(sign_note("nobody known\n", SigningKey.from_seed("somebody", bytes(32))))
    return [case for case in cases if not any("\ud800" <= item <= "\udfff" for item in case)]


def key_cases() -> list[str]:
    """Verifier keys: every part of two real ones, and every character changed, as Go's tests do."""
    cases = []
    for key in (GO_KEY, ENOCH_KEY):
        cases.append(key)
        cases += [key[start:end] for start in range(len(key)) for end in range(start + 1, len(key))]
        for place in range(len(key)):
            head, character, tail = key[:place], key[place], key[place + 1 :]
            cases += [head + chr(ord(character) + 1) + tail, head + character.upper() + tail]
            cases += [head + other + tail for other in ("+", " ", "\n", "\xa0", "=", character * 2)]
    return cases


@dataclass(frozen=True)
class Signing:
    """A text and its signers, as names and RFC 8032 seeds."""

    text: str
    signers: tuple[tuple[str, bytes], ...]

    def note(self) -> str:
        """The note as we sign it."""
        return sign_note(self.text, *(SigningKey.from_seed(*signer) for signer in self.signers))


SIGNINGS = (
    Signing("text\n", (("example.com/log", bytes(32)),)),
    Signing("\n", (("a", bytes([1]) * 32),)),
    Signing("empty\n\n\nlines\n\n", (("example.com/log", bytes(range(32))),)),
    Signing("Ognuno sta solo sul cuor della terra\n\ned è subito sera.\n", (("è", b"q" * 32),)),
    Signing("— looks like 0123456789ab=\n", (("one", b"1" * 32), ("two", b"2" * 32))),
    Signing("del \x7f and next line \x85\n", (("x/y-z_0.9:8080", b"\xff" * 32),)),
)


def judged(trees: int = ALL_PROOFS_UP_TO) -> dict[str, Any]:
    """All cases, as the judge reads them."""
    return {
        "Leaves": trees,
        "Inclusion": [
            {
                "Index": case.index,
                "Size": case.size,
                "Leaf": _text(case.leaf),
                "Root": _text(case.root),
                "Path": _texts(case.path),
            }
            for case in inclusion_cases()
        ],
        "Consistency": [
            {
                "First": case.first,
                "Second": case.second,
                "FirstRoot": _text(case.first_root),
                "SecondRoot": _text(case.second_root),
                "Path": _texts(case.path),
            }
            for case in consistency_cases()
        ],
        "Notes": note_cases(),
        "Known": [GO_KEY, ENOCH_KEY],
        "Keys": key_cases(),
        "Sign": [
            {
                "Text": case.text,
                "Names": [name for name, _ in case.signers],
                "Seeds": [seed.hex() for _, seed in case.signers],
            }
            for case in SIGNINGS
        ],
    }


def fingerprint(cases: dict[str, Any]) -> str:
    """SHA-256 of the cases."""
    return hashlib.sha256(json.dumps(cases, sort_keys=True).encode()).hexdigest()


def _spoiled_paths(path: tuple[bytes, ...], known: Sequence[bytes]) -> Iterator[tuple[bytes, ...]]:
    for place, item in enumerate(path):
        head, tail = path[:place], path[place + 1 :]
        yield (*head, *tail)
        yield (*head, item, item, *tail)
        yield (*head, _flipped(item), *tail)
        yield head
        if tail:
            yield (*head, tail[0], item, *tail[1:])
    for extra in known:
        yield (extra, *path)
        yield (*path, extra)


def _flipped(value: bytes) -> bytes:
    return value[:13] + bytes([value[13] ^ 4]) + value[14:]


def _text(value: bytes) -> str:
    return base64.b64encode(value).decode()


def _texts(values: Sequence[bytes]) -> list[str]:
    return [_text(value) for value in values]
