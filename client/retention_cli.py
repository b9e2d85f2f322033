"""The `client retention` commands: when payloads of the site's own journal are shredded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from audit.options import Json
from audit.terminal import print_json
from client.options import FolderOption
from client.retention import site_retention
from client.site import Site
from compliance.presentation import say
from compliance.retention import Retention, parse_month
from compliance.retention_presentation import covers, print_retention, print_run
from compliance.retention_views import (
    HoldBody,
    HoldReleaseBody,
    HoldView,
    RetentionRunView,
    RetentionView,
)
from compliance.session import make_body

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="""
Show and run retention: when payloads of the site's own journal are shredded.

The site's operator names the jurisdictions that apply in `retention.toml` in the site's folder.
Without it **nothing is ever shredded**. A running `client start` looks daily by itself.
""",
)

NameArgument = Annotated[
    str, typer.Argument(metavar="NAME", help="The hold, such as case-17.", show_default=False)
]
ReasonOption = Annotated[
    str,
    typer.Option(
        "--reason",
        help="Why, for the record. Never write a person's data here.",
        show_default=False,
    ),
]


@app.command()
def show(folder: FolderOption = None, json: Json = False) -> None:
    """Show each action and month of the journal: the rule that applies, when it is due, the holds.

    Example: `client retention show --json | jq .jurisdictions`
    """
    with _retention(folder) as retention:
        view = RetentionView.of(retention.show())
    print_json(view.model_dump(mode="json")) if json else print_retention(view)


@app.command()
def run(
    folder: FolderOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Tell what would be shredded, and shred nothing.")
    ] = False,
    json: Json = False,
) -> None:
    """Shred what is due. This cannot be undone; entries and proofs stay, their payloads do not.

    Examples: `client retention run --dry-run` · `client retention run`
    """
    with _retention(folder) as retention:
        view = RetentionRunView.of(retention.run(dry_run=dry_run), dry_run=dry_run)
    print_json(view.model_dump(mode="json")) if json else print_run(view)


@app.command()
def hold(
    name: NameArgument,
    reason: ReasonOption,
    action: Annotated[
        str | None,
        typer.Option(
            "--action",
            help="This action, or with a trailing `.` or `-` all that begin so. Without it: all.",
            show_default=False,
        ),
    ] = None,
    first: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="MONTH",
            help="First month, 2026-01. Without it: from the beginning.",
            show_default=False,
        ),
    ] = None,
    last: Annotated[
        str | None,
        typer.Option(
            "--to", metavar="MONTH", help="Last month. Without it: no end.", show_default=False
        ),
    ] = None,
    folder: FolderOption = None,
    json: Json = False,
) -> None:
    """Keep what is needed in a dispute or an inquiry, whatever the rules say (legal hold).

    Example: `client retention hold case-17 --action round- --from 2026-01 --reason "inquiry"`
    """
    body = make_body(HoldBody, name=name, reason=reason, action=action, first=first, last=last)
    with _retention(folder) as retention:
        placed = retention.hold(
            body.name,
            reason=body.reason,
            action=body.action,
            first=parse_month(body.first),
            last=parse_month(body.last),
        )
    _show_hold("held by", HoldView.of(placed), json=json)


@app.command()
def release(
    name: NameArgument, reason: ReasonOption, folder: FolderOption = None, json: Json = False
) -> None:
    """End a legal hold. What it kept is shredded by the next run, if it is due.

    Example: `client retention release case-17 --reason "closed"`
    """
    body = make_body(HoldReleaseBody, reason=reason)
    with _retention(folder) as retention:
        ended = retention.release(name, reason=body.reason)
    _show_hold("released", HoldView.of(ended), json=json)


@contextmanager
def _retention(folder: Path | None) -> Iterator[Retention]:
    with Site.open(folder) as site, site.ledger() as ledger:
        yield site_retention(site, ledger)


def _show_hold(verb: str, view: HoldView, *, json: bool) -> None:
    if json:
        print_json(view.model_dump(mode="json"))
    else:
        say(f"{verb} {escape(view.name)}: {escape(covers(view))}")
