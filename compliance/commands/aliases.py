"""Commands about aliases of releases."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape

from audit.errors import NotFound
from audit.options import Json
from audit.terminal import print_json
from compliance.alias_views import AliasView
from compliance.commands.options import (
    DEFAULT_FOLDER,
    FolderOption,
    ReasonOption,
    ReleaseArgument,
    TokenOption,
    TrustOption,
    release_id_of,
    service,
)
from compliance.presentation import document, print_table, say, short

AliasArgument = Annotated[
    str, typer.Argument(metavar="ALIAS", help="A name such as `staging` or `production`.")
]


def set_alias(
    alias: AliasArgument,
    release: ReleaseArgument,
    reason: ReasonOption = "",
    trust: TrustOption = None,
    token_file: TokenOption = None,
    folder: FolderOption = DEFAULT_FOLDER,
    json: Json = False,
) -> None:
    """Let an alias name an approved release. Not by who submitted or approved it.

    Consumers fetch what it names with `server release fetch @ALIAS`; each still needs a grant.

    Exit codes: 3 it is your own work, 4 no such release, 9 not approved, or recalled.

    Example: `compliance alias set production 77b0e4 --reason "passed the trial in staging"`
    """
    with service(trust, token_file, folder) as client:
        view = client.aliases.set(alias, release_id_of(client, release), reason=reason)
    _show(view, json=json)


def list_aliases(
    trust: TrustOption = None,
    token_file: TokenOption = None,
    folder: FolderOption = DEFAULT_FOLDER,
    json: Json = False,
) -> None:
    """List every alias with all its moves, the newest last.

    Example: `compliance alias list`
    """
    with service(trust, token_file, folder) as client:
        found = client.aliases.list()
    if json:
        print_json([document(view) for view in found])
        return
    rows = [
        (
            view.alias,
            short(move.release_id),
            f"{view.name}, {view.state}" if move is view.history[-1] else "",
            move.kind,
            move.moved_by,
            move.moved_at,
            f"{move.position}",
            move.reason,
        )
        for view in found
        for move in view.history
    ]
    heads = ("alias", "release", "names now", "how", "by", "time", "log entry", "reason")
    print_table(heads, rows, "no aliases")


def roll_back(
    alias: AliasArgument,
    reason: ReasonOption = "",
    trust: TrustOption = None,
    token_file: TokenOption = None,
    folder: FolderOption = DEFAULT_FOLDER,
    json: Json = False,
) -> None:
    """Let an alias name the release that it named before. One officer is enough.

    A release that was recalled meanwhile is passed over.

    Exit codes: 4 no such alias, 9 it named nothing before that is still approved.

    Example: `compliance alias rollback production --reason "misses urgent messages"`
    """
    with service(trust, token_file, folder) as client:
        present = next((each for each in client.aliases.list() if each.alias == alias), None)
        if present is None:
            raise NotFound(f"there is no alias {alias}", fix="list them: `compliance alias list`")
        view = client.aliases.roll_back(alias, leaving=present.release_id, reason=reason)
    _show(view, json=json)


def _show(view: AliasView, *, json: bool) -> None:
    if json:
        print_json(document(view))
        return
    last = view.history[-1]
    say(
        f"[bold]{escape(view.alias)}[/] names {escape(view.name)} {short(view.release_id)},"
        f" log entry {last.position}"
    )
