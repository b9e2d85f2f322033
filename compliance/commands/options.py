"""What the officer commands have in common: whom to talk to, as whom, and what an ID may be."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Final

import typer

from audit.errors import MalformedInput, NotFound
from compliance.api import ComplianceClient
from compliance.trust import Trust

DEFAULT_FOLDER: Final = Path("compliance-data")

MAX_TOKEN_BYTES: Final = 4096
"""A token is about 50 characters; a larger file is not a token file."""

_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")
_DIGITS: Final = re.compile(r"[0-9a-f]{6,64}")

TrustOption = Annotated[
    Path | None,
    typer.Option(
        "--trust",
        metavar="FILE",
        help="The service's `trust.json`. Without it: that of the compliance folder.",
        envvar="FIDUCIARY_TRUST",
        show_default=False,
    ),
]
TokenOption = Annotated[
    Path | None,
    typer.Option(
        "--token-file",
        metavar="FILE",
        help="File with your token. Without it: the officer's in the compliance folder.",
        envvar="FIDUCIARY_TOKEN_FILE",
        show_default=False,
    ),
]
FolderOption = Annotated[
    Path,
    typer.Option(
        "--dir",
        metavar="DIR",
        help="The compliance folder, where the other two options are not given.",
        envvar="FIDUCIARY_COMPLIANCE",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
ReasonOption = Annotated[
    str, typer.Option(help="Why, for the record. Never write a person's data here.")
]
PlanArgument = Annotated[str, typer.Argument(metavar="ID", help="The plan.", show_default=False)]
ReleaseArgument = Annotated[
    str, typer.Argument(metavar="ID", help="The release.", show_default=False)
]


def read_token(path: Path) -> str:
    """Read a token file.

    Raises:
        NotFound: When there is none.
        MalformedInput: When it holds no token.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_TOKEN_BYTES + 1)
    except (FileNotFoundError, IsADirectoryError) as error:
        raise NotFound(
            f"there is no token file at {path}",
            fix="pass --token-file, or set FIDUCIARY_TOKEN_FILE",
        ) from error
    token = data.decode("ascii", "replace").strip()
    if not re.fullmatch(r"[A-Za-z0-9_-]{16,200}", token):
        raise MalformedInput(
            f"{path} holds no token", fix="pass the file that `compliance` wrote the token to"
        )
    return token


@contextmanager
def service(trust: Path | None, token: Path | None, folder: Path) -> Iterator[ComplianceClient]:
    """The service, as the options name it.

    Raises:
        NotFound: When a file is missing.
        MalformedInput: When a file is not what it should be.
    """
    with ComplianceClient(
        Trust.load(trust or folder / "trust.json"),
        read_token(token or folder / "tokens" / "officer.token"),
    ) as client:
        yield client


def resolve(text: str, what: str, known: Callable[[], Sequence[tuple[str, str]]]) -> str:
    """The digest that a whole digest, its first digits, or a name stands for."""
    if _DIGEST.fullmatch(text):
        return text
    digits = text.removeprefix("sha256:").rstrip("…")
    is_prefix = _DIGITS.fullmatch(digits) is not None
    matches = [
        digest
        for digest, name in known()
        if name == text or (is_prefix and digest.startswith(f"sha256:{digits}"))
    ]
    if not matches:
        raise NotFound(f"there is no {what} {text}", fix=f"list them: `compliance {what}s`")
    if len(matches) > 1:
        raise MalformedInput(
            f"{len(matches)} {what}s are called {text}", fix="give more digits of the ID"
        )
    return matches[0]
