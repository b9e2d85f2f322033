"""Leaves: strict, canonical, and the fast check is exactly as strict as the slow one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit.canonical import canonical_bytes, parse_canonical_object
from audit.envelope import Envelope
from audit.errors import MalformedInput
from audit.leaf import Leaf, check_leaf, format_time, is_time
from audit.log import Entry
from audit.search import is_about
from tests.audit.logs import entry

LEAF = Leaf(
    7,
    "2026-01-31T12:00:00.000Z",
    "officer:anna",
    "plan.approved",
    "plan:sha256:" + "a" * 64,
    "0" * 64,
    "subject:" + "0" * 64,
    Envelope(bytes(12), bytes(40)),
)

plain = st.text(st.characters(codec="ascii", exclude_characters="\x7f"), min_size=1, max_size=20)
lines = plain.filter(str.isprintable) | st.text(min_size=1, max_size=10).filter(str.isprintable)
leaves = st.builds(
    Leaf,
    position=st.integers(0, 2**53 - 1),
    time=st.datetimes(timezones=st.just(UTC)).map(format_time),
    actor=lines,
    action=st.from_regex(r"\A[a-z][a-z0-9._:/-]{0,30}\Z"),
    object=lines,
    subject=st.none() | st.from_regex(r"\A[!-~]{1,20}\Z"),
    key=lines,
    envelope=st.builds(
        Envelope,
        st.binary(min_size=12, max_size=12),
        st.binary(min_size=16, max_size=60),
    ),
)


def changed(**changes: Any) -> bytes:
    fields = parse_canonical_object(LEAF.encoded()) | changes
    return canonical_bytes({name: value for name, value in fields.items() if value != "absent"})


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        (LEAF.object, True),
        ("sha256:" + "a" * 64, True),
        ("a" * 64, True),
        ("a" * 6, True),
        ("sha256:" + "a" * 12, True),
        ("a" * 5, False),  # too few to name one thing
        ("b" * 6, False),
        ("release:sha256:" + "a" * 64, False),
        ("sha256:", False),
        ("", False),
    ],
)
def test_what_an_entry_is_about_is_named_as_elsewhere(asked: str, found: bool) -> None:
    assert is_about(LEAF, asked) is found


@given(leaves)
def test_round_trip(leaf: Leaf) -> None:
    data = leaf.encoded()
    assert Leaf.parse(data) == leaf
    assert check_leaf(data) == leaf.position


def test_the_fast_check_of_every_end_of_a_ciphertext() -> None:
    """Over an alphabet that has each kind: unused bits, padding, foreign characters."""
    accepted = 0
    for body in ("A" * 24, "A" * 23 + "=", "A" * 23 + "-", "A" * 21):
        for end in map("".join, product("AQBEk+=-", repeat=4)):
            data = changed(ciphertext=body + end)
            try:
                expected: int | None = Leaf.parse(data).position
            except MalformedInput:
                expected = None
            try:
                found: int | None = check_leaf(data)
            except MalformedInput:
                found = None
            assert found == expected, body + end
            accepted += found is not None
    assert accepted > 1000


@given(leaves, st.data())
def test_the_fast_check_is_as_strict_as_parsing(leaf: Leaf, data: st.DataObject) -> None:
    mutated = bytearray(leaf.encoded())
    for _ in range(data.draw(st.integers(1, 2))):
        where = data.draw(st.integers(0, len(mutated) - 1))
        match data.draw(st.sampled_from(["flip", "drop", "repeat"])):
            case "flip":
                mutated[where] ^= 1 << data.draw(st.integers(0, 7))
            case "drop":
                del mutated[where]
            case _:
                mutated.insert(where, mutated[where])
    try:
        expected: int | None = Leaf.parse(bytes(mutated)).position
    except MalformedInput:
        expected = None
    try:
        found: int | None = check_leaf(bytes(mutated))
    except MalformedInput:
        found = None
    assert found == expected


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"\xff",
        LEAF.encoded() + b"\n",
        LEAF.encoded().replace(b",", b", "),
        changed(extra=1),
        changed(subject="absent"),
        changed(format="fiduciary.log-entry/2"),
        changed(position=-1),
        changed(position="7"),
        changed(position=True),
        changed(actor=""),
        changed(actor=None),
        changed(actor="line\nbreak"),
        changed(actor="x" * 301),
        changed(action="Approve plan"),
        changed(object=""),
        changed(subject=""),
        changed(subject="two words"),
        changed(subject=5),
        changed(key="x" * 301),
        changed(time="2026-01-31T12:00:00Z"),
        changed(time="2026-02-30T12:00:00.000Z"),
        changed(time="2026-01-31T12:00:00.000+00:00"),
        changed(nonce="AAAA"),
        changed(nonce="AAAAAAAAAAAAAAA"),
        changed(ciphertext=""),
        changed(ciphertext="AAAA"),
        changed(ciphertext="A" * 21 + "B=="),
        changed(ciphertext="A" * 25 + "B=="),
        changed(ciphertext="A" * 26 + "B="),
        changed(ciphertext="A" * 26),
        changed(ciphertext=None),
    ],
)
def test_malformed_leaves(data: bytes) -> None:
    with pytest.raises(MalformedInput):
        Leaf.parse(data)
    with pytest.raises(MalformedInput):
        check_leaf(data)


@given(st.binary(max_size=100))
def test_reading_raises_malformed_input_only(data: bytes) -> None:
    with pytest.raises(MalformedInput):
        check_leaf(data)


def test_associated_data_bind_everything_in_the_clear() -> None:
    base = LEAF.associated_data("log.test/a")
    fields = parse_canonical_object(base)
    assert fields.keys() == LEAF.clear().keys() | {"origin"}
    assert LEAF.associated_data("log.test/b") != base


@pytest.mark.parametrize(
    "changes",
    [
        {"actor": ""},
        {"actor": "a\x00b"},
        {"action": ""},
        {"action": "Plan"},
        {"object": "x" * 301},
        {"subject": "Erika Mustermann"},
        {"subject": ""},
    ],
)
def test_entries_are_checked_when_they_are_made(changes: dict[str, Any]) -> None:
    with pytest.raises(MalformedInput):
        entry(**changes)
    assert isinstance(entry(), Entry)


def test_times() -> None:
    zone = timezone(timedelta(hours=2))
    assert format_time(datetime(2026, 1, 31, 14, 0, 0, 1999, zone)) == "2026-01-31T12:00:00.001Z"
    with pytest.raises(MalformedInput):
        format_time(datetime(2026, 1, 31))  # noqa: DTZ001
    assert is_time("2026-01-31T12:00:00.001Z")
    assert not is_time("2026-01-31T25:00:00.001Z")
