"""Reading request bodies that may be hostile.

* JSON is RFC 8259 with unique keys, no NaN or infinities and bounded depth: a document that two
  readers could understand differently is refused.
* A body has a size limit, checked against `Content-Length` first and against what arrives always.
* A sender that stops sending, sends next to nothing, or leaves, is given up on.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Final, NoReturn

from fastapi import Request
from starlette.requests import ClientDisconnect

from audit.errors import MalformedInput
from compliance.service.errors import TooLarge, TooSlow

MAX_JSON_BYTES: Final = 1024 * 1024
"""Over ten times the largest plan that a person would write."""

MAX_DEPTH: Final = 64
"""As canonical JSON (`audit.canonical`)."""

BODY_TIMEOUT_SECONDS: Final = 30.0
"""How long a body may take, beside what its size takes at `MIN_BYTES_PER_SECOND`."""

MIN_BYTES_PER_SECOND: Final = 8 * 1024
"""Slower than any line on which a release could be uploaded; a sender of drops never ends."""


class StrictRequest(Request):
    """A request whose JSON body is read strictly and whose body is bounded.

    Args:
        request: The request as it came; nothing of its body has been read.
        max_body_bytes: The most octets that its body may have.
    """

    def __init__(self, request: Request, max_body_bytes: int) -> None:
        super().__init__(request.scope, request.receive)
        self._max_body_bytes = max_body_bytes
        self._document: Any = None

    async def load(self) -> None:
        """Read and parse the whole body, if there is one.

        Raises:
            TooLarge: When it is larger than allowed.
            TooSlow: When it does not come.
            MalformedInput: When it is not strict JSON.
        """
        body = await self.body()
        self._document = parse_json(body) if body else None

    async def json(self) -> Any:
        """The document that `load` read."""
        return self._document

    async def stream(self) -> AsyncGenerator[bytes, None]:
        """The body's pieces as they come.

        Raises:
            TooLarge: When there is more than allowed.
            TooSlow: When the next piece does not come.
        """
        limit = self._max_body_bytes
        announced = self.headers.get("content-length", "")
        if announced.isascii() and announced.isdigit() and int(announced) > limit:
            raise TooLarge(f"the body is larger than {limit} bytes")
        received = 0
        clock = asyncio.get_running_loop().time
        began = clock()
        async with aclosing(super().stream()) as pieces:
            while True:
                try:
                    due = began + BODY_TIMEOUT_SECONDS + received / MIN_BYTES_PER_SECOND
                    async with asyncio.timeout_at(max(clock(), due)):
                        piece = await anext(pieces)
                except StopAsyncIteration:
                    return
                except TimeoutError as error:
                    raise TooSlow("the rest of the body did not come") from error
                except ClientDisconnect as error:
                    raise TooSlow("the sender left before the body was complete") from error
                received += len(piece)
                if received > limit:
                    raise TooLarge(f"the body is larger than {limit} bytes")
                yield piece


def parse_json(data: bytes) -> Any:
    """Strict JSON.

    Raises:
        MalformedInput: For anything that is not, without showing it.
    """
    try:
        value = json.loads(
            data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant
        )
    except RecursionError as error:
        raise MalformedInput(f"malformed JSON: nested deeper than {MAX_DEPTH} levels") from error
    except UnicodeDecodeError as error:
        raise MalformedInput("malformed JSON: not UTF-8") from error
    except json.JSONDecodeError as error:
        raise MalformedInput(f"malformed JSON: {error.msg} at character {error.pos}") from error
    except ValueError as error:  # an integer too long to convert
        raise MalformedInput("malformed JSON: a number is too long") from error
    _check_depth(value)
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise MalformedInput("malformed JSON: a key appears twice in one object")
    return members


def _no_constant(_name: str) -> NoReturn:
    raise MalformedInput("malformed JSON: NaN and infinities are not numbers")


def _check_depth(value: Any) -> None:
    level, layer = 0, [value]
    while layer:
        level += 1
        if level > MAX_DEPTH:
            raise MalformedInput(f"malformed JSON: nested deeper than {MAX_DEPTH} levels")
        deeper: list[Any] = []
        for item in layer:
            if isinstance(item, dict):
                deeper.extend(item.values())
            elif isinstance(item, list):
                deeper.extend(item)
        layer = [item for item in deeper if isinstance(item, dict | list)]
