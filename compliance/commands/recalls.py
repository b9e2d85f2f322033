"""Commands about recalls and notices."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape

from audit.options import Json
from audit.terminal import print_json
from compliance.commands.options import (
    DEFAULT_FOLDER,
    FolderOption,
    ReleaseArgument,
    TokenOption,
    TrustOption,
    release_id_of,
    service,
)
from compliance.presentation import document, print_table, say, short


def recall(
    release: ReleaseArgument,
    reason: Annotated[
        str, typer.Option(help="Why. Every holder is told; never write a person's data here.")
    ],
    trust: TrustOption = None,
    token_file: TokenOption = None,
    folder: FolderOption = DEFAULT_FOLDER,
    json: Json = False,
) -> None:
    """Recall a release: end every grant for good, and tell all who hold or held one.

    One officer is enough, and it is never undone. Downloads and key fetches are refused with the
    reason from now on. Copies made before are not undone: `compliance notices list` shows who said
    that they know.

    Exit codes: 4 no such release, 9 it was never approved.

    Example: `compliance recall 77b0e4 --reason "a subject in its training data was erased"`
    """
    with service(trust, token_file, folder) as client:
        view = client.recalls.recall(release_id_of(client, release), reason=reason)
    if json:
        print_json(document(view))
        return
    holders = len({grant.principal for grant in view.grants})
    position = "" if view.recall is None else f", log entry {view.recall.position}"
    say(f"[red]recalled[/] release {short(view.release_id)}{position}; notices: {holders}")


def list_notices(
    trust: TrustOption = None,
    token_file: TokenOption = None,
    folder: FolderOption = DEFAULT_FOLDER,
    json: Json = False,
) -> None:
    """List notices: yours, or everybody's for officers and auditors.

    Example: `compliance notices list --token-file my.token`
    """
    with service(trust, token_file, folder) as client:
        found = client.recalls.notices()
    if json:
        print_json([document(view) for view in found])
        return
    rows = [
        (
            view.notice_id,
            view.recipient,
            view.kind,
            short(view.release_id),
            view.issued_at,
            view.acknowledged_at or "not yet",
            view.reason,
        )
        for view in found
    ]
    heads = ("notice", "to", "what", "release", "issued", "acknowledged", "reason")
    print_table(heads, rows, "no notices")


def acknowledge(
    notice: Annotated[
        str, typer.Argument(metavar="NOTICE", help="Its id, from `compliance notices list`.")
    ],
    trust: TrustOption = None,
    token_file: TokenOption = None,
    folder: FolderOption = DEFAULT_FOLDER,
    json: Json = False,
) -> None:
    """Say that you read a notice to you, and acted on it. The log records it.

    Exit codes: 4 there is no such notice to you.

    Example: `compliance notices acknowledge 0123456789abcdef0123456789abcdef`
    """
    with service(trust, token_file, folder) as client:
        view = client.recalls.acknowledge(notice)
    if json:
        print_json(document(view))
        return
    say(f"acknowledged notice {escape(view.notice_id)}, about release {short(view.release_id)}")
