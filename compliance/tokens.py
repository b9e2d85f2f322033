"""A principal's token for the compliance service, in a file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from audit.errors import MalformedInput, NotFound

MAX_TOKEN_BYTES: Final = 4096
"""A token is about 50 characters; a larger file is not a token file."""

_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]{16,200}")


def read_token(path: Path) -> str:
    """Read a token file.

    Raises:
        NotFound: When there is none, or it cannot be read.
        MalformedInput: When it holds no token.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_TOKEN_BYTES + 1)
    except OSError as error:
        raise NotFound(
            f"there is no token file at {path} that can be read",
            fix="pass --token-file, or set FIDUCIARY_TOKEN_FILE",
        ) from error
    token = data.decode("ascii", "replace").strip()
    if not _TOKEN.fullmatch(token):
        raise MalformedInput(
            f"{path} holds no token", fix="pass the file that `compliance` wrote the token to"
        )
    return token
