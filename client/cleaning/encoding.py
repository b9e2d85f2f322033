"""Mends text that was written as UTF-8 and read as Windows-1252, once or twice over.

Only sequences are mended that begin as the UTF-8 of Latin letters, of typographic marks and of
emoji do, and are valid UTF-8 as a whole: "Ã" before a letter stays. A byte-order mark goes.
"""

from __future__ import annotations

import re
from typing import Final

ROUNDS: Final = 3
"""Nobody reads a text wrongly more often than that."""


def _read_wrongly(byte: int) -> str:
    """The character that a reader of Windows-1252 makes of a byte; Latin-1 where it has none."""
    raw = bytes([byte])
    try:
        return raw.decode("cp1252")
    except UnicodeDecodeError:
        return raw.decode("latin-1")


_BYTE_OF: Final = {_read_wrongly(byte): byte for byte in range(256)}
_CONTINUED = "[" + "".join(re.escape(_read_wrongly(byte)) for byte in range(0x80, 0xC0)) + "]"
_WRONG: Final = re.compile(f"[ÂÃÅÆË]{_CONTINUED}|[âï]{_CONTINUED}{{2}}|ð{_CONTINUED}{{3}}")


def repaired(text: str) -> str:
    """The text as it was meant.

    >>> repaired("schÃ¶n, Ã la carte"), repaired("CAFÃ‰ Ã‰tÃ©")
    ('schön, Ã la carte', 'CAFÉ Été')
    """
    for _ in range(ROUNDS):
        mended = _WRONG.sub(_mended, text)
        if mended == text:
            break
        text = mended
    return text.replace("\ufeff", "")


def _mended(match: re.Match[str]) -> str:
    raw = bytes(_BYTE_OF[char] for char in match.group())
    try:
        meant = raw.decode("utf-8")
    except UnicodeDecodeError:
        return match.group()
    if match.group()[0] in "ÅÆË" and meant not in _BYTE_OF:
        return match.group()  # no letter or mark of Windows-1252: it was not read wrongly
    return meant
