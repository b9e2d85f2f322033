"""Commands about retention: what the log may shred when, and what must not be."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape

from audit.options import Json
from audit.terminal import print_json
from compliance.commands.options import (
    DEFAULT_FOLDER,
    FolderOption,
    TokenOption,
    TrustOption,
    service,
)
from compliance.presentation import document, say
from compliance.retention_presentation import covers, print_retention, print_run

DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Tell what would be shredded, and shred nothing.")
]
HoldNameArgument = Annotated[
    str, typer.Argument(metavar="NAME", help="The hold, such as case-17.", show_default=False)
]
HoldReasonOption = Annotated[
    str,
    typer.Option(
        "--reason",
        help="Why, for the record. Never write a person's data here.",
        show_default=False,
    ),
]
HoldActionOption = Annotated[
    str | None,
    typer.Option(
        "--action",
        help="This action, or with a trailing `.` all that begin so. Without it: every action.",
        show_default=False,
    ),
]
FirstMonthOption = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="MONTH",
        help="First month, 2026-01. Without it: from the beginning.",
        show_default=False,
    ),
]
LastMonthOption = Annotated[
    str | None,
    typer.Option(
        "--to", metavar="MONTH", help="Last month. Without it: no end.", show_default=False
    ),
]


def show(
    trust: TrustOption = None,
    token_file: TokenOption = None,
    folder: FolderOption = DEFAULT_FOLDER,
    json: Json = False,
) -> None:
    """Show each action and month of the log: the rule that applies, when it is due, what is held.

    Nothing is ever due until `retention.toml` in the compliance folder names the jurisdictions that
    apply to you.

    Example: `compliance retention show --json | jq '.keys[] | select(.status == "due")'`
    """
    with service(trust, token_file, folder) as client:
        view = client.retention.show()
    print_json(document(view)) if json else print_retention(view)


def run(
    dry_run: DryRunOption = False,
    trust: TrustOption = None,
    token_file: TokenOption = None,
    folder: FolderOption = DEFAULT_FOLDER,
    json: Json = False,
) -> None:
    """Shred what is due. This cannot be undone; a running service also does it by itself, daily.

    For each action and month: the order is in the log, then the key is destroyed, then the
    key-encryption key is replaced, then the log confirms it. The entries stay and every proof
    still verifies; their payloads can never be read again. A run that fails is finished by the
    next.

    Examples: `compliance retention run --dry-run` · `compliance retention run`
    """
    with service(trust, token_file, folder) as client:
        view = client.retention.run(dry_run=dry_run)
    print_json(document(view)) if json else print_run(view)


def hold(
    name: HoldNameArgument,
    reason: HoldReasonOption,
    action: HoldActionOption = None,
    first: FirstMonthOption = None,
    last: LastMonthOption = None,
    trust: TrustOption = None,
    token_file: TokenOption = None,
    folder: FolderOption = DEFAULT_FOLDER,
    json: Json = False,
) -> None:
    """Keep what is needed in a dispute or an inquiry, whatever the rules say (legal hold).

    Example: `compliance retention hold case-17 --action release. --from 2026-01 --reason "lawsuit"`
    """
    with service(trust, token_file, folder) as client:
        view = client.retention.hold(name, reason=reason, action=action, first=first, last=last)
    if json:
        print_json(document(view))
    else:
        say(f"held by {escape(view.name)}: {escape(covers(view))}")


def release(
    name: HoldNameArgument,
    reason: HoldReasonOption,
    trust: TrustOption = None,
    token_file: TokenOption = None,
    folder: FolderOption = DEFAULT_FOLDER,
    json: Json = False,
) -> None:
    """End a legal hold. What it kept is shredded by the next run, if it is due.

    Example: `compliance retention release case-17 --reason "settled"`
    """
    with service(trust, token_file, folder) as client:
        view = client.retention.release(name, reason=reason)
    if json:
        print_json(document(view))
    else:
        say(f"released {escape(view.name)}: {escape(covers(view))}")
