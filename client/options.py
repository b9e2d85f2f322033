"""Options that several `client` commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from client.site import DEFAULT_FOLDER, SITE_ENVIRONMENT

FolderOption = Annotated[
    Path | None,
    typer.Option(
        "--dir",
        metavar="DIR",
        help=f"The site's folder.  [default: ./{DEFAULT_FOLDER}]",
        envvar=SITE_ENVIRONMENT,
        show_default=False,
    ),
]
