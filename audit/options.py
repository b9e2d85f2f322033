"""Options and arguments that several `audit` commands share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from audit.cosignature import WitnessKey
from audit.errors import MalformedInput, NotFound

_MAX_KEYS_BYTES = 1_000_000

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Log = Annotated[
    str,
    typer.Argument(
        metavar="LOG",
        help="A site's journal, the compliance database (a file, or `postgresql://…`), the folder"
        " of a file-backed log, an exported bundle, or a copy of any of them.",
        show_default=False,
    ),
]
WitnessOption = Annotated[
    list[str] | None,
    typer.Option(
        "--witness",
        metavar="VKEY",
        help="Verifier key of a witness, from its owner (a site prints its own:"
        " `client witness --json`), or a file with one key a line. May be repeated.",
        show_default=False,
    ),
]


def witness_keys(texts: Sequence[str] | None) -> list[WitnessKey]:
    """The keys that `--witness` names.

    Raises:
        MalformedInput: When one is no verifier key.
    """
    keys = []
    for text in texts or ():
        inline = "+" in text or not Path(text).is_file()
        lines = [text] if inline else read_text(Path(text), _MAX_KEYS_BYTES).split("\n")
        keys += [WitnessKey.parse(line) for line in lines if line.strip()]
    return keys


def read_bytes(path: Path, limit: int, fix: str = "") -> bytes:
    """A file that a person named; a pipe will do. Never more than `limit` bytes are in memory.

    Args:
        path: The file.
        limit: Its most bytes.
        fix: What to name instead, for whoever named something that cannot be read.

    Raises:
        NotFound: When there is none, or it cannot be read.
        MalformedInput: When it is larger than `limit` bytes.
    """
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except (FileNotFoundError, IsADirectoryError) as error:
        raise NotFound(f"no file {path}", fix=fix) from error
    except OSError as error:
        raise NotFound(f"cannot read {path}: {error.strerror}", fix=fix) from error
    if len(data) > limit:
        raise MalformedInput(f"{path} is larger than {limit} bytes")
    return data


def read_text(path: Path, limit: int, fix: str = "") -> str:
    """A text file that a person named; see `read_bytes`.

    Raises:
        NotFound: When there is none, or it cannot be read.
        MalformedInput: When it is larger than `limit` bytes, or not UTF-8.
    """
    try:
        return read_bytes(path, limit, fix).decode("utf-8")
    except UnicodeDecodeError as error:
        raise MalformedInput(f"{path} is not UTF-8 text") from error
