"""`compliance requests make-key` and `open-package`: a copy of one's data, for its subject."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from pydantic import ValidationError
from rich.markup import escape

from audit.durable import write_durably
from audit.encoding import decode_base64, encode_base64
from audit.errors import Conflict, MalformedInput
from audit.hpke import PUBLIC_KEY_BYTES
from audit.options import read_bytes, read_text
from compliance.presentation import say
from compliance.subject_requests_views import SealedPackage
from compliance.subject_sealing import open_package

MAX_SEALED_PACKAGE_BYTES = 16 * 1024 * 1024
MAX_KEY_FILE_BYTES = 1024

_OTHER_FILE = "give another file"


def make_key(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A file that is not there.", show_default=False)
    ],
) -> None:
    """Make a key for a copy of one's data; needs no service. For subjects who want one.

    The file is the only way to open the copy. The printed public key goes into the request.

    Example: `compliance requests make-key my.key`
    """
    key = X25519PrivateKey.generate()
    try:
        write_durably(file, f"{encode_base64(key.private_bytes_raw())}\n".encode(), replace=False)
    except FileExistsError as error:
        raise Conflict(f"{file} exists already", fix="choose another file") from error
    say(encode_base64(key.public_key().public_bytes_raw()))


def open_sealed_package(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="The sealed copy, or the service's answer with it.",
            show_default=False,
        ),
    ],
    key: Annotated[
        Path, typer.Option(metavar="FILE", help="What `make-key` made.", show_default=False)
    ],
    request: Annotated[str, typer.Option(help="The whole id of the request.", show_default=False)],
    site: Annotated[str, typer.Option(help="The site that made it.", show_default=False)],
    output: Annotated[
        Path, typer.Option("--output", metavar="FILE", help="Where to write it.")
    ] = Path("package.json"),
) -> None:
    """Open a copy of one's data; needs no service.

    Example: `compliance requests open-package north.sealed --key my.key --request ID --site north`
    """
    private = X25519PrivateKey.from_private_bytes(
        parse_key(read_text(key, MAX_KEY_FILE_BYTES, _OTHER_FILE).strip())
    )
    sealed = _sealed_copy(read_bytes(file, MAX_SEALED_PACKAGE_BYTES, _OTHER_FILE))
    write_durably(output, open_package(sealed, private, request_id=request, site=site))
    say(f"written to {escape(os.fspath(output))}")


def parse_key(text: str) -> bytes:
    """An X25519 key, private or public, in base64.

    Raises:
        MalformedInput: When it is none.
    """
    key = decode_base64(text, "key")
    if len(key) != PUBLIC_KEY_BYTES:
        raise MalformedInput(f"malformed key: expected {PUBLIC_KEY_BYTES} bytes, got {len(key)}")
    return key


def _sealed_copy(data: bytes) -> bytes:
    """The sealed copy that a file is, or that the service's answer in it holds."""
    try:
        return SealedPackage.model_validate_json(data).sealed
    except ValidationError:
        return data
