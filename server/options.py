"""Options that several `server` commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from server.federation import Federation, default_folder

Folder = Annotated[
    Path | None,
    typer.Option("--dir", help="The federation's folder.", show_default="./federation"),
]
FolderArgument = Annotated[
    Path | None,
    typer.Argument(metavar="[DIR]", help="The federation's folder.", show_default="./federation"),
]


def open_federation(folder: Path | None) -> Federation:
    """The federation in a folder, or in the one to use when none is named.

    Raises:
        FiduciaryError: As `Federation.open` does.
    """
    return Federation.open(folder or default_folder())
