"""The command about a release's gates."""

from __future__ import annotations

from typing import Final

import typer
from rich.text import Text

from audit.errors import ExitCode
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
from compliance.presentation import document, print_table

_COLOURS: Final = {"passed": "green", "failed": "red", "not-asked": "dim"}


def gates(
    release: ReleaseArgument,
    trust: TrustOption = None,
    token_file: TokenOption = None,
    folder: FolderOption = DEFAULT_FOLDER,
    json: Json = False,
) -> None:
    """Show what a release must keep before it can be approved, gate by gate, with its evidence.

    Exit codes: 0 every gate that was asked for is passed, 3 one failed.

    Example: `compliance gates 77b0e4`
    """
    with service(trust, token_file, folder) as client:
        view = client.gates(release_id_of(client, release))
    if json:
        print_json(document(view))
    else:
        rows = [
            (
                gate.name,
                Text(gate.verdict, style=_COLOURS[gate.verdict]),
                ", ".join(map(str, gate.positions[:6])) + (" …" if len(gate.positions) > 6 else ""),
                gate.why,
            )
            for gate in view.gates
        ]
        print_table(("gate", "verdict", "log entries", "why"), rows, "no gates")
    if not view.passes:
        raise typer.Exit(ExitCode.REFUSED)
