"""Damage that knows what it damages: lines, numbers, base64, members, in texts that were sound."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import strategies as st

CHARACTERS = tuple(
    "\n\r\t\0 +=-_/.:,\"'{}[]\\0159afzAZ\x7f\x85\xa0\u2014\u2028\ud800\u00e9\U0001f600"
)
"""What parsers stumble over: separators, escapes, controls, spaces, a surrogate, other scripts."""

NUMBERS = (
    "-1",
    "-0",
    "00",
    "1.0",
    "1e3",
    "9007199254740991",
    "9007199254740992",
    "18446744073709551616",
    "9" * 5000,
    "\u0661",
)

RUN = 20_000
"""Length of a character or line repeated senselessly."""


@st.composite
def damaged(draw: st.DrawFn, samples: Sequence[str]) -> str:
    """One of the samples after one to four pieces of damage."""
    text = draw(st.sampled_from(samples))
    for _ in range(draw(st.integers(1, 4))):
        if len(text) > RUN:
            break  # repeated repetition would exhaust the tests' memory, not the parser's
        text = draw(st.sampled_from(_DAMAGE))(draw, text)
    return text


def damaged_bytes(samples: Sequence[bytes]) -> st.SearchStrategy[bytes]:
    """As `damaged`, for what is read as bytes; some results are no UTF-8."""
    texts = damaged([sample.decode("utf-8") for sample in samples])
    encoded = texts.map(lambda text: text.encode("utf-8", "surrogatepass"))
    return encoded | st.tuples(encoded, st.integers(0, 2**16), st.integers(0, 255)).map(_overwrite)


def _overwrite(drawn: tuple[bytes, int, int]) -> bytes:
    data, place, value = drawn
    if not data:
        return data
    place %= len(data)
    return data[:place] + bytes([value]) + data[place + 1 :]


def _place(draw: st.DrawFn, text: str) -> int:
    return draw(st.integers(0, max(len(text) - 1, 0)))


def _character(draw: st.DrawFn) -> str:
    return draw(st.sampled_from(CHARACTERS) | st.characters())


def _insert(draw: st.DrawFn, text: str) -> str:
    place = _place(draw, text)
    return text[:place] + _character(draw) + text[place:]


def _replace(draw: st.DrawFn, text: str) -> str:
    place = _place(draw, text)
    return text[:place] + _character(draw) + text[place + 1 :]


def _flip(draw: st.DrawFn, text: str) -> str:
    place = _place(draw, text)
    if not text:
        return text
    return text[:place] + chr(ord(text[place]) ^ (1 << draw(st.integers(0, 6)))) + text[place + 1 :]


def _delete(draw: st.DrawFn, text: str) -> str:
    place = _place(draw, text)
    return text[:place] + text[place + draw(st.integers(1, 5)) :]


def _truncate(draw: st.DrawFn, text: str) -> str:
    return text[: _place(draw, text)]


def _duplicate(draw: st.DrawFn, text: str) -> str:
    start, end = sorted((_place(draw, text), _place(draw, text)))
    return text[:end] + text[start:end] + text[end:]


def _run(draw: st.DrawFn, text: str) -> str:
    place = _place(draw, text)
    return text[:place] + draw(st.sampled_from(CHARACTERS)) * RUN + text[place:]


def _number(draw: st.DrawFn, text: str) -> str:
    found = list(re.finditer(r"[0-9]+", text))
    if not found:
        return text
    match = draw(st.sampled_from(found))
    return text[: match.start()] + draw(st.sampled_from(NUMBERS)) + text[match.end() :]


def _lines(draw: st.DrawFn, text: str) -> str:
    lines = text.splitlines(keepends=True)
    if not lines:
        return text
    place = draw(st.integers(0, len(lines) - 1))
    line = lines[place]
    match draw(st.sampled_from(["drop", "repeat", "move", "many", "empty", "join"])):
        case "drop":
            del lines[place]
        case "repeat":
            lines.insert(place, line)
        case "move":
            lines.insert(draw(st.integers(0, len(lines) - 1)), lines.pop(place))
        case "many":
            lines[place:place] = [line] * (200 if len(line) < 1000 else 2)
        case "empty":
            lines.insert(place, "\n")
        case _:
            lines[place] = line.rstrip("\n")
    return "".join(lines)


def _base64(draw: st.DrawFn, text: str) -> str:
    """Another spelling of a base64 value: its unused bits, its padding, its alphabet."""
    found = list(re.finditer(r"[A-Za-z0-9+/]{4,}={0,2}", text))
    if not found:
        return text
    match = draw(st.sampled_from(found))
    value = match.group()
    body = value.rstrip("=")
    spelt = draw(
        st.sampled_from(
            [
                body,
                value + "=",
                body[:-1] + chr(ord(body[-1]) + 1) + value[len(body) :],
                value.replace("+", "-").replace("/", "_"),
                value[:8] + "\n" + value[8:],
                value + value,
            ]
        )
    )
    return text[: match.start()] + spelt + text[match.end() :]


def _members(draw: st.DrawFn, text: str) -> str:
    """A JSON member twice, or two of them in the other order."""
    found = list(re.finditer(r'"[^"]*":(?:"[^"]*"|[0-9]+|null)', text))
    if not found:
        return text
    match, other = draw(st.sampled_from(found)), draw(st.sampled_from(found))
    return text[: match.end()] + "," + other.group() + text[match.end() :]


_DAMAGE: tuple[Callable[[Any, str], str], ...] = (
    _insert,
    _replace,
    _flip,
    _delete,
    _truncate,
    _duplicate,
    _run,
    _number,
    _lines,
    _base64,
    _members,
)
