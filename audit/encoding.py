"""Strict base64 (RFC 4648 section 4): each value has exactly one spelling.

Python's decoder skips foreign characters and ignores the unused bits of the last one, so that two
texts may decode to the same bytes. Evidence must not be that pliable.
"""

from __future__ import annotations

import base64
import binascii

from audit.errors import MalformedInput


def encode_base64(data: bytes) -> str:
    """Standard alphabet, padded, no line breaks."""
    return binascii.b2a_base64(data, newline=False).decode("ascii")


def decode_base64(text: str, what: str = "base64") -> bytes:
    """The bytes that `text` is the one encoding of.

    Args:
        text: Standard alphabet, padded.
        what: What the text is, for the message.

    Raises:
        MalformedInput: For any other spelling.
    """
    try:
        data = base64.b64decode(text.encode("ascii"), validate=True)
    except (UnicodeEncodeError, binascii.Error, ValueError) as error:
        raise MalformedInput(f"malformed {what}: not base64") from error
    if encode_base64(data) != text:
        raise MalformedInput(f"malformed {what}: not the canonical base64 of its bytes")
    return data
