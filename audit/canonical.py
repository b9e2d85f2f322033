"""Canonical JSON: one value, one sequence of bytes, one digest.

A strict subset of the JSON Canonicalization Scheme (RFC 8785):

* Values are `null`, booleans, integers, strings, arrays and objects. There are no floats: their
  shortest form differs between languages. Write a fraction as a decimal in a string.
* Integers satisfy `|n| <= 2**53 - 1`, so that every JSON reader holds them exactly.
* Object keys are unique strings, sorted by UTF-16 code units (RFC 8785 section 3.2.3).
* No white space; the shortest escapes; UTF-8 without lone surrogates.
* `parse_canonical` accepts exactly the bytes that `canonical_bytes` can write.

Decision record: docs/adr/0002-canonical-encoding.md.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from json.encoder import encode_basestring
from typing import Any, Final, NoReturn, TypeAlias

from audit.errors import MalformedInput

JsonValue: TypeAlias = "bool | int | str | list[JsonValue] | dict[str, JsonValue] | None"

MAX_INTEGER: Final = 2**53 - 1
"""Largest magnitude that an IEEE double, and so every JSON reader, holds exactly (RFC 7493)."""

MAX_DEPTH: Final = 64
"""Deeper than any document of ours; keeps hostile input from exhausting the stack."""

MAX_DOCUMENT_BYTES: Final = 16 * 1024 * 1024
"""The largest document is a log entry with the largest payload in base64: 11 MiB."""


class MalformedCanonical(MalformedInput):
    """Bytes or a value that canonical JSON cannot hold."""

    code = "malformed-canonical"


def canonical_bytes(value: object) -> bytes:
    r"""The one encoding of `value`.

    Args:
        value: `None`, bool, int, str, and lists, tuples and mappings of them.

    Raises:
        MalformedCanonical: For a float, an integer beyond 2**53 - 1, a key that is no string, a
            lone surrogate, more than `MAX_DEPTH` levels, or any other type.

    >>> canonical_bytes({"b": [1, None], "a": "\u20ac\n"})
    b'{"a":"\xe2\x82\xac\\n","b":[1,null]}'
    """
    try:
        return _text(value, 0).encode()
    except UnicodeEncodeError as error:
        raise MalformedCanonical("malformed canonical JSON: lone surrogate in a string") from error


def parse_canonical(data: bytes) -> JsonValue:
    """Read canonical bytes, and only canonical bytes.

    Raises:
        MalformedCanonical: When `data` is too long, is not JSON, holds what canonical JSON does
            not allow, or is not the canonical encoding of what it says (white space, key order,
            duplicate keys, needless escapes).

    >>> parse_canonical(b'{"a":1}')
    {'a': 1}
    """
    if len(data) > MAX_DOCUMENT_BYTES:
        raise MalformedCanonical(f"malformed canonical JSON: more than {MAX_DOCUMENT_BYTES} bytes")
    try:
        value: JsonValue = _DECODER.decode(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise MalformedCanonical("malformed canonical JSON: not UTF-8") from error
    except RecursionError as error:
        raise MalformedCanonical("malformed canonical JSON: nested too deeply") from error
    except ValueError as error:
        raise MalformedCanonical(f"malformed canonical JSON: {error}") from error
    if canonical_bytes(value) != data:
        raise MalformedCanonical(
            "malformed canonical JSON: white space, key order, a duplicate key or an escape differs"
            " from the canonical form"
        )
    return value


def parse_canonical_object(data: bytes) -> dict[str, JsonValue]:
    """Read canonical bytes that hold an object.

    Raises:
        MalformedCanonical: As `parse_canonical`, or when the value is no object.
    """
    value = parse_canonical(data)
    if not isinstance(value, dict):
        raise MalformedCanonical("malformed canonical JSON: expected an object")
    return value


def odd_fields(given: Collection[str], expected: Collection[str]) -> str:
    """What is wrong with an object's keys, and no key of who made it: that may be a name.

    >>> odd_fields({"at", "anna"}, {"at", "by", "why"})
    'missing by, why; 1 unknown'
    """
    missing, unknown = sorted(set(expected) - set(given)), len(set(given) - set(expected))
    said = [f"missing {', '.join(missing)}"] if missing else []
    return "; ".join([*said, f"{unknown} unknown"] if unknown else said)


def digest(data: bytes) -> str:
    """`sha256:` and the hexadecimal SHA-256 of `data`.

    >>> digest(b"")
    'sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855'
    """
    return "sha256:" + hashlib.sha256(data).hexdigest()


def _text(value: Any, depth: int) -> str:
    """`value` as canonical text; the log writes thousands a second, so it is one pass."""
    kind = type(value)
    if kind is str:
        return encode_basestring(value)
    if kind is bool:
        return "true" if value else "false"
    if kind is int or isinstance(value, int):
        if not -MAX_INTEGER <= value <= MAX_INTEGER:
            raise MalformedCanonical("malformed canonical JSON: integer beyond 2**53 - 1")
        return int.__repr__(value)
    if value is None:
        return "null"
    if isinstance(value, str):
        return encode_basestring(str.__str__(value))
    if depth >= MAX_DEPTH:
        raise MalformedCanonical(f"malformed canonical JSON: more than {MAX_DEPTH} levels")
    depth += 1
    if kind is dict or isinstance(value, Mapping):
        keys = list(value)
        for key in keys:
            if type(key) is not str:
                raise MalformedCanonical(
                    f"malformed canonical JSON: key of type {type(key).__name__}"
                )
        if len(keys) > 1:
            keys.sort(key=None if all(map(str.isascii, keys)) else _utf16)
        members = []
        for key in keys:
            item = value[key]
            text = encode_basestring(item) if type(item) is str else _text(item, depth)
            members.append(f"{encode_basestring(key)}:{text}")
        return "{" + ",".join(members) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join([_text(item, depth) for item in value]) + "]"
    raise MalformedCanonical(
        f"malformed canonical JSON: {kind.__name__} has no canonical form",
        fix="write fractions as decimal strings and bytes as base64",
    )


def _utf16(key: str) -> bytes:
    return key.encode("utf-16-be", "surrogatepass")


def _reject_float(text: str) -> NoReturn:
    raise ValueError(f"number with a fraction or exponent: {text[:40]}")


def _reject_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


def _bounded_integer(text: str) -> int:
    if len(text) > len("-9007199254740991"):
        raise ValueError("integer beyond 2**53 - 1")
    return int(text)


_DECODER: Final = json.JSONDecoder(
    parse_float=_reject_float, parse_constant=_reject_constant, parse_int=_bounded_integer
)
