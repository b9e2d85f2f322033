"""Keyed choices: the same original gives the same stand-in at one site, and tells nothing of it.

**Formal guarantees.** Every choice is a function of HMAC-SHA256(site secret, purpose, original).
Without the secret nobody can test a guess of the original against a stand-in; two sites with
different secrets choose independently. A stand-in never equals its original; a finding that is
nothing but form words gets none and stays (`SurrogateMaker.form_words`).
"""

from __future__ import annotations

import hashlib
import hmac
import string
from collections.abc import Callable, Sequence

from audit.errors import MalformedInput

SECRET_BYTES = 32

MAX_ATTEMPTS = 100
"""A stand-in equals its original by chance for short originals; another attempt settles it."""


class KeyedChoice:
    """A source of reproducible choices for one original."""

    def __init__(self, secret: bytes, purpose: str, original: str) -> None:
        """Begin the sequence of choices for one original.

        Args:
            secret: 32 bytes, the site's own.
            purpose: Separates kinds: a word that is both name and town gets two stand-ins.
            original: The normalised original.

        Raises:
            MalformedInput: When the secret has another length.
        """
        if len(secret) != SECRET_BYTES:
            raise MalformedInput(f"malformed secret: expected {SECRET_BYTES} bytes")
        self._secret = secret
        self._message = (
            b"fiduciary.surrogate/1\x00" + purpose.encode() + b"\x00" + original.encode()
        )
        self._block = 0
        self._bytes = b""

    def below(self, limit: int) -> int:
        """A number in `[0, limit)`, even to within 2**-40."""
        return int.from_bytes(self._take(8), "big") % limit

    def one_of(self, values: Sequence[str]) -> str:
        """One of the values."""
        return values[self.below(len(values))]

    def like(self, text: str) -> str:
        """Text of the same shape: digits for digits, letters for letters, the rest as it is."""
        return "".join(self._like(char) for char in text)

    def _like(self, char: str) -> str:
        if char.isdecimal():
            return string.digits[self.below(10)]
        if char.isalpha():
            letter = string.ascii_lowercase[self.below(26)]
            return letter.upper() if char.isupper() else letter
        return char

    def _take(self, count: int) -> bytes:
        while len(self._bytes) < count:
            message = self._block.to_bytes(4, "big") + self._message
            self._bytes += hmac.new(self._secret, message, hashlib.sha256).digest()
            self._block += 1
        taken, self._bytes = self._bytes[:count], self._bytes[count:]
        return taken


def differing(original: str, attempt: Callable[[int], str]) -> str:
    """The first attempt that is not the original, whatever case either is in.

    Raises:
        MalformedInput: When no attempt differs; the row is then quarantined.
    """
    for count in range(MAX_ATTEMPTS):
        made = attempt(count)
        if made.casefold() != original.casefold():
            return made
    raise MalformedInput("no stand-in differs from its original")
