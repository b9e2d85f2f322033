"""Compressed documents on the wire: marked as such, and inflated in bounded memory.

* A compressed document begins with `MARK`. No safetensors document does: it begins with the length
  of its header, which would be over 10^17 bytes.
* The plan says whether documents are compressed. One that is, where the plan says no, is refused,
  and the other way round: the sender has no choice.
* `inflate` gives at most as many bytes as the plan's model needs, and never holds more than that
  beside the document: what would become larger is refused when the limit is reached.
"""

from __future__ import annotations

import zlib
from typing import Any, Final, Literal

import numpy.typing as npt

from audit.errors import MalformedInput
from client.arrays import Arrays, unpack_arrays

Compression = Literal["none", "deflate"]

MARK: Final = b"fiduciary.deflate/1\n"

LEVEL: Final = 6
"""zlib's default. Numbers with noise repeat little, and higher levels save no more of them."""

_HEADER_BYTES: Final = 1024
_HEADER_BYTES_PER_ARRAY: Final = 512
"""More than a safetensors header holds of an array beside its name: type, shape, place."""

_BYTES_PER_CHARACTER: Final = 6
"""A character of a name, escaped as JSON."""


def deflate(document: bytes) -> bytes:
    """A document, compressed and marked; the same document gives the same bytes.

    >>> inflate(deflate(bytes(1000)), 1000) == bytes(1000), len(deflate(bytes(1000)))
    (True, 37)
    """
    stream = zlib.compressobj(LEVEL)
    return b"".join((MARK, stream.compress(document), stream.flush()))


def is_deflated(document: bytes) -> bool:
    """Whether a document is marked as compressed."""
    return document.startswith(MARK)


def inflate(document: bytes, limit_bytes: int) -> bytes:
    """What `deflate` was given.

    Args:
        document: As received, from anybody.
        limit_bytes: Most that it may become.

    Raises:
        MalformedInput: When it would become larger, was cut off or altered, or is none.
    """
    if not is_deflated(document):
        raise MalformedInput("malformed arrays: they are not compressed, as the plan has it")
    stream = zlib.decompressobj()
    try:
        inflated = stream.decompress(memoryview(document)[len(MARK) :], limit_bytes + 1)
    except zlib.error as error:
        raise MalformedInput(f"malformed arrays: {error}") from error
    if len(inflated) > limit_bytes:
        raise MalformedInput(
            f"malformed arrays: more than the {limit_bytes} bytes that the plan needs"
        )
    if not stream.eof or stream.unused_data:
        raise MalformedInput("malformed arrays: the compressed document is cut off or too long")
    return inflated


def largest_document(like: Arrays) -> int:
    """Bytes of a packed document with such arrays, at most.

    Args:
        like: Arrays of these names and shapes, float32 or wider than what travels.
    """
    return _HEADER_BYTES + sum(
        array.nbytes + _HEADER_BYTES_PER_ARRAY + _BYTES_PER_CHARACTER * len(name)
        for name, array in like.items()
    )


def open_arrays(
    arrays: dict[str, npt.NDArray[Any]], deflated: bytes, compression: Compression, like: Arrays
) -> dict[str, npt.NDArray[Any]]:
    """The arrays of a message, once it is known what the plan says.

    Args:
        arrays: Of a message that was not compressed.
        deflated: The document of one that was; else empty.
        compression: The plan's.
        like: What the plan needs at most, for its size alone.

    Raises:
        MalformedInput: When the message is not compressed as the plan says, or becomes too large.
    """
    if compression == "none":
        if deflated:
            raise MalformedInput("malformed arrays: they are compressed, and the plan says no")
        return arrays
    return unpack_arrays(inflate(deflated, largest_document(like)))
