"""`compliance requests`: their clocks, who asks, and how they end."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, cast

import typer

from audit.canonical import digest
from audit.errors import ExitCode, NotFound
from audit.options import Json, read_bytes
from audit.terminal import print_json
from compliance.api import ComplianceClient
from compliance.commands import subject_filing, subject_packages
from compliance.commands.options import (
    DEFAULT_FOLDER,
    FolderOption,
    TokenOption,
    TrustOption,
    service,
)
from compliance.presentation import document
from compliance.rules.subject_requests import RequestStage
from compliance.statements import SubjectRight
from compliance.subject_requests_presentation import print_case, print_page
from compliance.subject_requests_views import CaseView

MAX_EVIDENCE_BYTES = 16 * 1024 * 1024

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


app.command()(subject_filing.new)


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
        else digest(read_bytes(evidence, MAX_EVIDENCE_BYTES, "give another file"))
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


app.command("make-key")(subject_packages.make_key)
app.command("open-package")(subject_packages.open_sealed_package)


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


def _told(view: CaseView, json: bool) -> None:
    print_json(document(view)) if json else print_case(view)
