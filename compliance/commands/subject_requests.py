"""Commands about data subjects' requests: their clocks, who asks, and how they end."""

from __future__ import annotations

import base64
import binascii
import os
import secrets
from pathlib import Path
from typing import Annotated, cast

import typer
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from pydantic import ValidationError
from rich.markup import escape

from audit.canonical import digest
from audit.durable import write_durably
from audit.errors import ExitCode, MalformedInput, NotFound
from audit.keys import VerifyKey
from audit.options import Json, read_bytes, read_text
from audit.terminal import print_json
from compliance.api import ComplianceClient
from compliance.commands.options import (
    DEFAULT_FOLDER,
    FolderOption,
    TokenOption,
    TrustOption,
    service,
)
from compliance.presentation import document, print_fields, say
from compliance.rules.subject_requests import RequestStage
from compliance.session import make_body
from compliance.statements import SubjectRight
from compliance.subject_requests_api import seal_to_sites, sealing_key
from compliance.subject_requests_presentation import print_case, print_page
from compliance.subject_requests_views import CaseView, IdentityMethod, SealedPackage
from compliance.subject_sealing import Identifiers, open_package

MAX_IDENTIFIER_BYTES = 16 * 1024
MAX_SEALED_PACKAGE_BYTES = 16 * 1024 * 1024

_OTHER_FILE = "give another file"

app = typer.Typer(
    invoke_without_command=True,
    rich_markup_mode="markdown",
    help="""
Requests of data subjects: who waits for what, until when.

Without a subcommand it lists them, the most urgent first. Who a subject is, only the sites can
tell. docs/subject-requests.md is the officer's guide.
""",
)

IdArgument = Annotated[
    str,
    typer.Argument(
        metavar="ID", help="The request, or the first digits of its id.", show_default=False
    ),
]


@app.callback()
def list_requests(
    context: typer.Context,
    overdue: Annotated[
        bool, typer.Option("--overdue", help="Only what is late; exit code 3 when there is any.")
    ] = False,
    open_only: Annotated[bool, typer.Option("--open", help="Only what has not ended.")] = False,
    stage: Annotated[
        str | None, typer.Option(help="Only this stage, such as at-sites.", show_default=False)
    ] = None,
    right: Annotated[
        str | None, typer.Option(help="Only what asks for this.", show_default=False)
    ] = None,
    site: Annotated[
        str | None, typer.Option(help="Only what concerns this site.", show_default=False)
    ] = None,
    after: Annotated[
        str | None, typer.Option(help="The next page, as it was named.", show_default=False)
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Requests on a page.")] = 100,
    trust: TrustOption = None,
    token_file: TokenOption = None,
    folder: FolderOption = DEFAULT_FOLDER,
    json: Json = False,
) -> None:
    """List data subjects' requests, the most urgent first, and how many are open and late.

    Exit codes: 0 listed, 3 with `--overdue`: a deadline was missed.

    Examples: `compliance requests --open` · `compliance requests --overdue --json`
    """
    if context.invoked_subcommand is not None:
        return
    with service(trust, token_file, folder) as client:
        page = client.subject_requests.page(
            stage=cast("RequestStage | None", stage),
            right=cast("SubjectRight | None", right),
            site=site,
            overdue=overdue,
            open_only=open_only,
            after=after,
            limit=limit,
        )
    print_json(document(page)) if json else print_page(page)
    if overdue and page.overdue:
        raise typer.Exit(ExitCode.REFUSED)


@app.command()
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
    who = make_body(
        Identifiers,
        subject_ids=tuple(filter(None, (line.strip() for line in _lines(identifiers)))),
        details="" if details is None else "\n".join(_lines(details)),
        package_key=None if package_key is None else _key(package_key),
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


@app.command()
def show(
    request: IdArgument,
    trust: TrustOption = None,
    token_file: TokenOption = None,
    folder: FolderOption = DEFAULT_FOLDER,
    json: Json = False,
) -> None:
    """Show one request: its clocks, and what each site did.

    Example: `compliance requests show 3fa2c1`
    """
    with service(trust, token_file, folder) as client:
        view = _find(client, request)
    _told(view, json)


@app.command()
def verify(
    request: IdArgument,
    method: Annotated[
        str,
        typer.Option(
            help="How you know, such as identity-card. Never what was shown.", show_default=False
        ),
    ],
    trust: TrustOption = None,
    token_file: TokenOption = None,
    folder: FolderOption = DEFAULT_FOLDER,
    json: Json = False,
) -> None:
    """State that you know who asks. The sites get the sealed identifiers then, and not before.

    Example: `compliance requests verify 3fa2c1 --method identity-card`
    """
    with service(trust, token_file, folder) as client:
        found = _find(client, request)
        view = client.subject_requests.verify(found.request_id, method=method)
    _told(view, json)


@app.command()
def confirm(
    request: IdArgument,
    trust: TrustOption = None,
    token_file: TokenOption = None,
    folder: FolderOption = DEFAULT_FOLDER,
    json: Json = False,
) -> None:
    """State that you told the subject that the request came, and how it is handled.

    Example: `compliance requests confirm 3fa2c1`
    """
    with service(trust, token_file, folder) as client:
        view = client.subject_requests.confirm(_find(client, request).request_id)
    _told(view, json)


@app.command()
def extend(
    request: IdArgument,
    reason: Annotated[
        str, typer.Option(help="Why it takes longer: the subject is told.", show_default=False)
    ],
    trust: TrustOption = None,
    token_file: TokenOption = None,
    folder: FolderOption = DEFAULT_FOLDER,
    json: Json = False,
) -> None:
    """Take the longer period that the law allows, once, with a notice inside the first.

    Example: `compliance requests extend 3fa2c1 --reason "records in three archives"`
    """
    with service(trust, token_file, folder) as client:
        found = _find(client, request)
        view = client.subject_requests.extend(found.request_id, reason=reason)
    _told(view, json)


@app.command()
def refuse(
    request: IdArgument,
    ground: Annotated[
        str,
        typer.Option(help="A ground of the law, such as legal-claims.", show_default=False),
    ],
    reason: Annotated[str, typer.Option(help="In other words, for the subject.")] = "",
    trust: TrustOption = None,
    token_file: TokenOption = None,
    folder: FolderOption = DEFAULT_FOLDER,
    json: Json = False,
) -> None:
    """Refuse a request, on a ground that the law has for it. A wrong name lists the grounds.

    Once a site has done what was asked for, nothing can be refused any more.

    Example: `compliance requests refuse 3fa2c1 --ground legal-claims`
    """
    with service(trust, token_file, folder) as client:
        found = _find(client, request)
        view = client.subject_requests.refuse(found.request_id, ground=ground, reason=reason)
    _told(view, json)


@app.command()
def waive(
    request: IdArgument,
    site: Annotated[
        str, typer.Option("--site", help="The site that was revoked.", show_default=False)
    ],
    reason: Annotated[
        str,
        typer.Option(
            "--reason",
            help="Why it cannot answer, for the log. Never write a person's data here.",
            show_default=False,
        ),
    ],
    evidence: Annotated[
        Path | None,
        typer.Option(
            "--evidence",
            metavar="FILE",
            help="A document that shows it; its digest is logged, the file stays with you.",
            show_default=False,
        ),
    ] = None,
    trust: TrustOption = None,
    token_file: TokenOption = None,
    folder: FolderOption = DEFAULT_FOLDER,
    json: Json = False,
) -> None:
    """No longer wait for a site that was revoked: it can answer nothing. Then close the request.

    Example: `compliance requests waive 3fa2c1 --site south --reason "the hospital closed"`
    """
    shown = (
        None
        if evidence is None
        else digest(read_bytes(evidence, MAX_SEALED_PACKAGE_BYTES, _OTHER_FILE))
    )
    with service(trust, token_file, folder) as client:
        found = _find(client, request)
        view = client.subject_requests.waive(found.request_id, site, reason=reason, evidence=shown)
    _told(view, json)


@app.command()
def close(
    request: IdArgument,
    reason: Annotated[str, typer.Option(help="What the subject is told besides.")] = "",
    trust: TrustOption = None,
    token_file: TokenOption = None,
    folder: FolderOption = DEFAULT_FOLDER,
    json: Json = False,
) -> None:
    """Close a request of which a site refused its part, or was waived. Others close themselves.

    Example: `compliance requests close 3fa2c1 --reason "north keeps what the law requires"`
    """
    with service(trust, token_file, folder) as client:
        found = _find(client, request)
        view = client.subject_requests.close(found.request_id, reason=reason)
    _told(view, json)


@app.command("make-key")
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
    write_durably(file, base64.b64encode(key.private_bytes_raw()) + b"\n", replace=False)
    say(base64.b64encode(key.public_key().public_bytes_raw()).decode("ascii"))


@app.command("open-package")
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
    private = X25519PrivateKey.from_private_bytes(_key("\n".join(_lines(key)).strip()))
    sealed = _sealed_copy(read_bytes(file, MAX_SEALED_PACKAGE_BYTES, _OTHER_FILE))
    write_durably(output, open_package(sealed, private, request_id=request, site=site))
    say(f"written to {escape(os.fspath(output))}")


# --- what several have in common -----------------------------------------------------------------


def _find(client: ComplianceClient, request: str) -> CaseView:
    """A request by its id, or the first digits of it."""
    if len(request) == 32:
        return client.subject_requests.show(request)
    found, after = [], None
    while True:
        page = client.subject_requests.page(after=after, limit=1000)
        found += [view for view in page.requests if view.request_id.startswith(request)]
        after = page.next
        if after is None:
            break
    if len(found) != 1 or len(request) < 6:
        raise NotFound(
            f"{len(found)} requests have an id that begins so",
            fix="list them: `compliance requests`; give six or more digits",
        )
    return found[0]


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


def _sealed_copy(data: bytes) -> bytes:
    """The sealed copy that a file is, or that the service's answer in it holds."""
    try:
        return SealedPackage.model_validate_json(data).sealed
    except ValidationError:
        return data


def _told(view: CaseView, json: bool) -> None:
    print_json(document(view)) if json else print_case(view)


def _lines(path: Path) -> list[str]:
    return read_text(path, MAX_IDENTIFIER_BYTES, _OTHER_FILE).splitlines()


def _key(text: str) -> bytes:
    try:
        key = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise MalformedInput("malformed key: not base64") from error
    if len(key) != 32:
        raise MalformedInput(f"malformed key: expected 32 bytes, got {len(key)}")
    return key
