"""Canonical JSON: RFC 8785 vectors, one encoding per value, and strict reading."""

from __future__ import annotations

import enum
import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from audit.canonical import (
    MAX_DEPTH,
    MAX_INTEGER,
    MalformedCanonical,
    canonical_bytes,
    digest,
    parse_canonical,
    parse_canonical_object,
)
from tests.audit.vectors import JCS_KEYS_IN_ORDER, JCS_STRING, JCS_STRING_ENCODED

texts = st.text()  # hypothesis makes no lone surrogates by default
values = st.recursive(
    st.none() | st.booleans() | st.integers(-MAX_INTEGER, MAX_INTEGER) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=20,
)


class Colour(str, enum.Enum):  # noqa: UP042  (the older spelling is what this is about)
    RED = "red"


def test_key_order_of_rfc_8785() -> None:
    shuffled = {key: position for position, key in reversed(list(enumerate(JCS_KEYS_IN_ORDER)))}
    assert tuple(json.loads(canonical_bytes(shuffled))) == JCS_KEYS_IN_ORDER


def test_escapes_of_rfc_8785() -> None:
    assert canonical_bytes(JCS_STRING) == JCS_STRING_ENCODED


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, b"null"),
        (True, b"true"),
        (-0, b"0"),
        (MAX_INTEGER, b"9007199254740991"),
        ("\x7f\u2028", b'"\x7f\xe2\x80\xa8"'),
        ("\b\f\t\x1f", b'"\\b\\f\\t\\u001f"'),
        ((1, [2]), b"[1,[2]]"),
        ({"b": {}, "a": []}, b'{"a":[],"b":{}}'),
        ({"colour": Colour.RED}, b'{"colour":"red"}'),
    ],
)
def test_encoding(value: object, expected: bytes) -> None:
    assert canonical_bytes(value) == expected


@pytest.mark.parametrize(
    "value",
    [
        0.5,
        float("nan"),
        MAX_INTEGER + 1,
        -MAX_INTEGER - 1,
        {1: "a"},
        {Colour.RED: 1},
        b"bytes",
        {"a": {1, 2}},
        "\ud800",
        {"\udfff": 1},
        object(),
    ],
)
def test_values_without_a_canonical_form(value: object) -> None:
    with pytest.raises(MalformedCanonical):
        canonical_bytes(value)


def test_depth_is_bounded() -> None:
    value: Any = 1
    for _ in range(MAX_DEPTH):
        value = [value]
    assert parse_canonical(canonical_bytes(value)) == value
    with pytest.raises(MalformedCanonical):
        canonical_bytes([value])
    with pytest.raises(MalformedCanonical):
        parse_canonical(b"[" * 100_000 + b"]" * 100_000)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b" 1",
        b"1 ",
        b'{"a": 1}',
        b'{"b":1,"a":2}',
        b'{"a":1,"a":1}',
        b'{"a":1,"a":2}',
        b"1.0",
        b"1e3",
        b"-0",
        b"01",
        b"NaN",
        b"-Infinity",
        b"9007199254740992",
        b"1" * 5000,
        b'"\\u0061"',
        b'"\\/"',
        b'"\\ud83d\\ude00"',
        b'"\\ud800"',
        b'"\xff"',
        b"\xef\xbb\xbf1",
        b"[1,]",
        b"[1]]",
        b"'a'",
    ],
)
def test_bytes_that_are_not_canonical(data: bytes) -> None:
    with pytest.raises(MalformedCanonical):
        parse_canonical(data)


def test_an_object_is_an_object() -> None:
    assert parse_canonical_object(b'{"a":1}') == {"a": 1}
    with pytest.raises(MalformedCanonical):
        parse_canonical_object(b"[]")


def test_digest() -> None:
    assert digest(b"abc") == (
        "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )


@given(values)
def test_round_trip(value: Any) -> None:
    data = canonical_bytes(value)
    assert parse_canonical(data) == value
    assert json.loads(data) == value


@given(st.binary(max_size=60))
@example(b'{"a":1}')
@example(b'"\\u000f"')
def test_reading_accepts_only_what_writing_makes(data: bytes) -> None:
    try:
        value = parse_canonical(data)
    except MalformedCanonical:
        return
    assert canonical_bytes(value) == data


@given(st.text(alphabet='[]{}",:0123456789.eE-tfnul\\u \n', max_size=30))
def test_reading_raises_nothing_else(text: str) -> None:
    try:
        value = parse_canonical(text.encode())
    except MalformedCanonical:
        return
    assert canonical_bytes(value) == text.encode()
