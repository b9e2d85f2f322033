"""What the officer commands have in common: whom to talk to, as whom, and what an ID may be."""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Final

import typer

from audit.errors import MalformedInput, NotFound, Unauthorised
from compliance.api import ComplianceClient
from compliance.tokens import read_token
from compliance.trust import Trust

DEFAULT_FOLDER: Final = Path("compliance-data")

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
        help="File with your token. Without it: your session (`compliance login`), else the"
        " officer's in the compliance folder.",
        envvar="FIDUCIARY_TOKEN_FILE",
        show_default=False,
    ),
]
FolderArgument = Annotated[
    Path,
    typer.Argument(
        metavar="[DIR]",
        help="The compliance folder.",
        envvar="FIDUCIARY_COMPLIANCE",
        show_default=True,
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
ReasonOption = Annotated[
    str, typer.Option(help="Why, for the record. Never write a person's data here.")
]
PlanArgument = Annotated[str, typer.Argument(metavar="ID", help="The plan.", show_default=False)]
ReleaseArgument = Annotated[
    str, typer.Argument(metavar="ID", help="The release.", show_default=False)
]


def load_trust(trust: Path | None, folder: Path) -> Trust:
    """The service's public facts, as the options name them.

    Raises:
        NotFound: When there is no such file.
        MalformedInput: When it is none.
    """
    return Trust.load(trust or folder / "trust.json")


def session_file(trust: Trust) -> Path:
    """Where `compliance login` keeps the token of a session at this service."""
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    name = hashlib.sha256(f"{trust.log_key.encoded()}\n{trust.url}".encode()).hexdigest()[:24]
    return Path(state) / "fiduciary" / f"{name}.session"


@contextmanager
def service(trust: Path | None, token: Path | None, folder: Path) -> Iterator[ComplianceClient]:
    """The service, as the options name it.

    The token is the named one, else that of who logged in, else the folder's officer's.

    Raises:
        NotFound: When a file is missing.
        MalformedInput: When a file is not what it should be.
        Unauthorised: When the session has ended: never is somebody else's token tried instead.
    """
    facts = load_trust(trust, folder)
    session = session_file(facts)
    logged_in = token is None and session.exists()
    if token is None:
        token = session if logged_in else folder / "tokens" / "officer.token"
    with ComplianceClient(facts, read_token(token)) as client:
        try:
            yield client
        except Unauthorised as error:
            if not logged_in or "not valid" not in str(error):
                raise
            raise Unauthorised(
                "your session has ended", fix="`compliance login` again, or `compliance logout`"
            ) from error


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


def plan_id_of(client: ComplianceClient, text: str) -> str:
    """The id of the plan that a whole id, its first digits or a name stands for."""

    def known() -> list[tuple[str, str]]:
        return [(view.plan_id, view.plan.name) for view in client.plans()]

    return resolve(text, "plan", known)


def release_id_of(client: ComplianceClient, text: str) -> str:
    """The id of the release that a whole id, its first digits, a name or an `@ALIAS` stands for."""
    if text.startswith("@"):
        for view in client.aliases.list():
            if view.alias == text[1:]:
                return view.release_id
        raise NotFound(f"there is no alias {text[1:]}", fix="list them: `compliance alias list`")

    def known() -> list[tuple[str, str]]:
        return [(view.release_id, view.manifest.name) for view in client.releases()]

    return resolve(text, "release", known)


def read_public_key(text: str) -> bytes:
    """An X25519 public key: base64, or a file that holds it."""
    path = Path(text)
    try:
        if len(text) < 200 and path.is_file():
            text = path.read_text("ascii")
        return base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError, OSError) as error:
        raise MalformedInput(
            "the public key is neither base64 nor a file that holds it",
            fix="make a key pair: `server release keygen FILE`",
        ) from error
