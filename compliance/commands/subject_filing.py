"""`compliance requests new`: a request that came by letter, by telephone or at the counter."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Annotated, cast

import typer

from audit.errors import MalformedInput, NotFound
from audit.keys import VerifyKey
from audit.options import Json, read_text
from audit.terminal import print_json
from compliance.api import ComplianceClient
from compliance.commands.options import (
    DEFAULT_FOLDER,
    FolderOption,
    TokenOption,
    TrustOption,
    service,
)
from compliance.commands.subject_packages import parse_key
from compliance.presentation import document, print_fields, say
from compliance.session import make_body
from compliance.statements import SubjectRight
from compliance.subject_requests_api import seal_to_sites, sealing_key
from compliance.subject_requests_views import IdentityMethod
from compliance.subject_sealing import Identifiers

MAX_IDENTIFIER_BYTES = 16 * 1024


def new(
    right: Annotated[
        str,
        typer.Option(
            help="access, erasure, rectification, restriction, objection or portability.",
            show_default=False,
        ),
    ],
    law: Annotated[str, typer.Option(help="gdpr or ccpa.", show_default=False)],
    site: Annotated[
        list[str], typer.Option(help="A site that must act; repeat for more.", show_default=False)
    ],
    identifiers: Annotated[
        Path,
        typer.Option(
            metavar="FILE",
            help="File with the subject's ids, one a line. It is sealed here, to each site.",
            show_default=False,
        ),
    ],
    details: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="File with what the site's operator must know; sealed, too.",
            show_default=False,
        ),
    ] = None,
    package_key: Annotated[
        str | None,
        typer.Option(
            metavar="KEY", help="The subject's key for a copy of the data.", show_default=False
        ),
    ] = None,
    identity: Annotated[
        str,
        typer.Option(
            help="Who says who asks: officer, site-verified, email-challenge, or not-required.",
        ),
    ] = "officer",
    email: Annotated[
        str | None,
        typer.Option(help="Where notices, or a code, are sent.", show_default=False),
    ] = None,
    received_at: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", help="When it came, if earlier: the clock runs from then.",
            show_default=False,
        ),
    ] = None,
    trust: TrustOption = None,
    token_file: TokenOption = None,
    folder: FolderOption = DEFAULT_FOLDER,
    json: Json = False,
) -> None:  # fmt: skip
    """File a request that came by letter, by telephone or at the counter.

    The identifiers are sealed on this machine to keys that the sites signed; the service gets
    nothing that it could read. Give the printed receipt code to the subject: it is shown this once.

    Example: `compliance requests new --right erasure --law gdpr --site north --identifiers ids.txt`
    """
    request_id = secrets.token_hex(16)
    subject_ids = tuple(filter(None, (line.strip() for line in _lines(identifiers))))
    if not subject_ids:
        raise MalformedInput(
            f"{identifiers} names nobody", fix="write the subject's ids into it, one on each line"
        )
    who = make_body(
        Identifiers,
        subject_ids=subject_ids,
        details="" if details is None else "\n".join(_lines(details)),
        package_key=None if package_key is None else parse_key(package_key),
    )
    with service(trust, token_file, folder) as client:
        keys = _verified_keys(client, site)
        filed = client.subject_requests.file(
            cast("SubjectRight", right),
            law,
            seal_to_sites(who, keys, request_id),
            sealed_to=keys,
            identity=cast("IdentityMethod", identity),
            email=email,
            received_at=received_at,
            request_id=request_id,
        )
    if json:
        print_json(document(filed))
        return
    print_fields(
        {
            "request": filed.request_id,
            "receipt code": filed.receipt_code,
            "stage": filed.stage,
            "due": filed.due_at,
        }
    )
    say("\nGive the receipt code to the subject now: it is not shown again.")


def _verified_keys(client: ComplianceClient, names: list[str]) -> dict[str, bytes]:
    """The sites' keys, each signed by the identity that the site enrolled with."""
    views = {view.site: view for view in client.subject_requests.sealing_keys()}
    missing = sorted(set(names) - set(views))
    if missing:
        raise NotFound(
            f"site {missing[0]} has told no key yet",
            fix="its operator runs `client start`, which does",
        )
    return {
        name: sealing_key(views[name], VerifyKey.parse(client.site(name).identity_key))
        for name in names
    }


def _lines(path: Path) -> list[str]:
    return read_text(path, MAX_IDENTIFIER_BYTES, "give another file").splitlines()
