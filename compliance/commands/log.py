"""The audit log as an officer reads it: asked for, verified, shown or saved."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.markup import escape

from audit.errors import MalformedInput
from audit.options import Json
from audit.presentation import progress_bar
from audit.terminal import err, print_json
from audit.words import count_of
from compliance.api import ComplianceClient
from compliance.commands.options import (
    DEFAULT_FOLDER,
    FolderOption,
    TokenOption,
    TrustOption,
    plan_id_of,
    release_id_of,
    service,
)
from compliance.log_access import VerifiedPage
from compliance.log_views import MAX_ENTRIES, LogExport, LogQuery
from compliance.presentation import (
    document,
    print_entries,
)
from compliance.session import make_body

_DATE: Final = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)

_FILTERS: Final = "Which entries"


def log(
    since: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="Not before this moment: RFC 3339, or a date (in UTC).",
            rich_help_panel=_FILTERS,
        ),
    ] = None,
    until: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Before this moment.", rich_help_panel=_FILTERS),
    ] = None,
    actor: Annotated[
        str | None, typer.Option(help="Only entries by this actor.", rich_help_panel=_FILTERS)
    ] = None,
    action: Annotated[
        str | None,
        typer.Option(
            help="Only this action, or with a trailing `.` all below it: `plan.`.",
            rich_help_panel=_FILTERS,
        ),
    ] = None,
    object_: Annotated[
        str | None,
        typer.Option(
            "--object",
            metavar="OBJECT",
            help="Only entries about this, `kind:id`.",
            rich_help_panel=_FILTERS,
        ),
    ] = None,
    subject: Annotated[
        str | None,
        typer.Option(
            metavar="PSEUDONYM",
            help="Only entries about this data subject, by the site's keyed pseudonym.",
            rich_help_panel=_FILTERS,
        ),
    ] = None,
    site: Annotated[
        str | None,
        typer.Option(
            help="Only what this site did, or what was done to it.", rich_help_panel=_FILTERS
        ),
    ] = None,
    plan: Annotated[
        str | None,
        typer.Option(metavar="ID", help="Only entries about this plan.", rich_help_panel=_FILTERS),
    ] = None,
    release: Annotated[
        str | None,
        typer.Option(
            metavar="ID", help="Only entries about this release.", rich_help_panel=_FILTERS
        ),
    ] = None,
    after: Annotated[
        int | None,
        typer.Option(min=-1, help="Only entries after this position.", rich_help_panel=_FILTERS),
    ] = None,
    order: Annotated[
        str | None, typer.Option(help="`newest` first, or `oldest`. [default: newest]")
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(min=1, max=MAX_ENTRIES, help="At most so many entries. [default: 100]"),
    ] = None,
    all_: Annotated[
        bool, typer.Option("--all", help="All of them, however many, page after page.")
    ] = False,
    format_: Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="FORMAT",
            help="Save all of them to a file: `jsonl` with proofs, or `csv` for a spreadsheet.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE", help="The file that --format makes."),
    ] = None,
    checkpoint: Annotated[
        bool, typer.Option("--checkpoint", help="Print the signed checkpoint instead.")
    ] = False,
    trust: TrustOption = None,
    token_file: TokenOption = None,
    folder: FolderOption = DEFAULT_FOLDER,
    json: Json = False,
) -> None:
    """Show the audit log, decrypted: who did what, when, and what was refused. Newest first.

    **What is shown was verified** with the log's key of `trust.json`: each entry is in the signed
    log, its clear fields are those of the log, and each statement is the one that the log names.
    The rest of a payload is the service's word: the log holds it encrypted. That nothing was left
    out is checked by `audit verify` on the database.

    Each question is an entry of the log itself, with its filters.

    **Files.** `--format jsonl` makes a file that anyone can check with `audit verify-export`,
    offline. `--format csv` is for spreadsheets and carries no proofs; a cell that could be taken
    for a formula has an apostrophe in front. Both hold decrypted payloads: they are readable by
    you alone, and appear whole or not at all.

    Exit codes: 0 shown, 5 a filter is malformed, 6 **what the service shows does not verify**, 8
    you are neither officer nor auditor.

    Examples: `compliance log --action request.refused` · `compliance log --plan 3fa2c1 --all` ·
    `compliance log --site north --since 2026-11-01 --format jsonl -o november.jsonl`
    """
    with service(trust, token_file, folder) as client:
        if checkpoint:
            note = client.checkpoint()
            print_json({"checkpoint": note}) if json else typer.echo(note, nl=False)
            return
        filters = {
            "since": _moment(since),
            "until": _moment(until),
            "actor": actor,
            "action": action,
            "object": object_,
            "subject": subject,
            "site": site,
            "plan": None if plan is None else plan_id_of(client, plan),
            "release": None if release is None else release_id_of(client, release),
            "after": after,
        }
        if format_ is not None or output is not None:
            if order is not None or limit is not None:
                raise MalformedInput(
                    "a file holds all entries, oldest first",
                    fix="leave --order and --limit out, or leave --format out",
                )
            _save(client, make_body(LogExport, format=format_ or "jsonl", **filters), output, json)
            return
        page_size = limit or (MAX_ENTRIES if all_ else 100)
        query = make_body(LogQuery, order=order or "newest", limit=page_size, **filters)
        pages = client.log_pages(query)
        _show(list(pages) if all_ else [next(pages)], json)


def _save(client: ComplianceClient, wanted: LogExport, output: Path | None, json: bool) -> None:
    if output is None:
        raise MalformedInput("--format makes a file", fix="name it: -o FILE")
    with progress_bar("exporting", quiet=json) as progress:
        count = client.export_log(wanted, output, progress)
    verified = wanted.format == "jsonl"
    if json:
        print_json({"file": str(output), "entries": count, "verified": verified})
        return
    checked = "verified" if verified else "not verifiable: CSV carries no proofs"
    err().print(
        f"{count_of(count, 'entry')} written to {escape(str(output))}, {checked}", highlight=False
    )


def _show(pages: list[VerifiedPage], json: bool) -> None:
    last = pages[-1]
    entries = [view for page in pages for view in page.entries]
    if json:
        print_json(
            {
                "verified": True,
                "checkpoint": last.note,
                "signed_entries": last.checkpoint.size,
                "entries": [document(view) for view in entries],
                "more": last.next is not None,
            }
        )
        return
    print_entries(entries)
    err().print(
        f"verified: {count_of(len(entries), 'entry')} in the log {escape(last.checkpoint.origin)},"
        f" signed at {count_of(last.checkpoint.size, 'entry')}; payloads except statements are the"
        " service's word",
        highlight=False,
    )
    if last.next is not None:
        err().print("there are more: --all shows them, --format saves them", highlight=False)


def _moment(text: str | None) -> str | None:
    return f"{text}T00:00:00Z" if text is not None and _DATE.fullmatch(text) else text
