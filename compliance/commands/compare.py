"""The command that shows two releases side by side."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.text import Text

from audit.options import Json
from audit.terminal import print_json
from compliance.api import ComplianceClient
from compliance.commands.options import (
    DEFAULT_FOLDER,
    FolderOption,
    TokenOption,
    TrustOption,
    release_id_of,
    service,
)
from compliance.comparison import compare as compare_releases
from compliance.gate_views import GatesView
from compliance.presentation import document, print_table, short
from compliance.release_views import ReleaseView
from compliance.resources import PlanView


def compare(
    first: Annotated[str, typer.Argument(metavar="A", help="A release.", show_default=False)],
    second: Annotated[str, typer.Argument(metavar="B", help="Another.", show_default=False)],
    trust: TrustOption = None,
    token_file: TokenOption = None,
    folder: FolderOption = DEFAULT_FOLDER,
    json: Json = False,
) -> None:
    """Show two releases side by side: figures, ε, sites, base model, gates, and how plans differ.

    Intervals are 95 %. What differs is marked.

    Example: `compliance compare @production 77b0e4`
    """
    with service(trust, token_file, folder) as client:
        found = compare_releases(_look_up(client, first), _look_up(client, second))
    if json:
        print_json(document(found))
        return
    rows = [
        (
            line.fact,
            Text(line.first, style="yellow" if line.differs else ""),
            Text(line.second, style="yellow" if line.differs else ""),
            "≠" if line.differs else "",
        )
        for line in found.lines
    ]
    print_table(("", short(found.first), short(found.second), ""), rows, "nothing to compare")


def _look_up(client: ComplianceClient, text: str) -> tuple[ReleaseView, PlanView, GatesView]:
    release = client.release(release_id_of(client, text))
    return release, client.plan(release.plan_id), client.gates(release.release_id)
