"""Pictures that a command writes: the name is checked before the work, and errors are clear."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import typer

from audit.errors import FiduciaryError


class PlotNotWritten(FiduciaryError):
    """The picture's file cannot be written."""

    code: ClassVar[str] = "plot-not-written"


def check_plot(path: Path | None, option: str = "--plot", suffix: str = ".svg") -> None:
    """Refuse a picture or page that could not be written, before anything slow is done.

    Raises:
        typer.BadParameter: When the name does not end in `suffix`.
        PlotNotWritten: When there is no such folder, or the name is a folder's.
    """
    if path is None:
        return
    if path.suffix.lower() != suffix:
        raise typer.BadParameter(f"give a name that ends in {suffix}", param_hint=option)
    if path.is_dir() or not path.parent.is_dir():
        what = "is a folder" if path.is_dir() else "lies in no folder that exists"
        raise PlotNotWritten(f"{path} {what}", fix=f"name another file with {option}")


def write_plot(path: Path, svg: str, option: str = "--plot") -> None:
    """Write a picture or page.

    Raises:
        PlotNotWritten: With the reason.
    """
    try:
        path.write_text(svg, encoding="utf-8")
    except OSError as error:
        raise PlotNotWritten(
            f"cannot write {path}: {error.strerror}",
            fix=f"name another file with {option}; everything else was done",
        ) from error
