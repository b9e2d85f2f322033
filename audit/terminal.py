"""How the four commands talk to a person and to a script.

* Results go to standard output, progress and errors to standard error.
* `--json` prints one JSON document and nothing else on standard output.
* An error is one sentence, then what to do next, then a stable exit code (`audit.errors`).
* Colours and progress bars appear only where the stream is a terminal (`NO_COLOR` works).
"""

from __future__ import annotations

import errno
import json
import re
import sys
from collections.abc import Callable
from importlib.metadata import version
from typing import Annotated, Any, TextIO, cast

import click
import typer
from click.utils import PacifyFlushWrapper
from rich.console import Console
from rich.markup import escape

from audit.errors import ExitCode, FiduciaryError
from audit.ownership import denied

_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""C0 and C1 controls, but for tabs and line breaks."""

_NO_SUCH_PATH = frozenset(
    {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP}
)
"""There is no file or folder of this name, or the other where one is wanted."""

_OWN_PACKAGES = frozenset({"audit", "client", "compliance", "server"})


def out() -> Console:
    """A console on standard output, made on demand so that redirection is respected."""
    return Console(soft_wrap=True)


def err() -> Console:
    """A console on standard error, for progress and messages."""
    return Console(stderr=True, soft_wrap=True)


def _print_version(wanted: bool) -> None:
    if wanted:
        out().print(f"fiduciary {version('fiduciary')}", highlight=False)
        raise typer.Exit


VersionOption = Annotated[
    bool,
    typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version."),
]
"""The `--version` of a command's callback."""


def print_json(value: Any) -> None:
    """Print one JSON document on standard output, with stable key order."""
    sys.stdout.write(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def visible(text: str) -> str:
    r"""Text without characters that steer a terminal: what is shown may come from a hostile file.

    >>> visible("log\x1b[2J")
    'log�[2J'
    """
    return _CONTROLS.sub("\N{REPLACEMENT CHARACTER}", text)


def print_error(error: FiduciaryError) -> None:
    """Print what is wrong and what to do next on standard error."""
    console = err()
    console.print(visible(f"[bold red]error:[/] {escape(str(error))}"))
    if error.fix:
        console.print(visible(f"  [bold]fix:[/] {escape(error.fix)}"))


def run_app(app: typer.Typer, *, extra: str = "") -> None:
    """Run a Typer application and turn every outcome into its exit code.

    Args:
        app: The application.
        extra: The extra of the distribution whose packages the commands need.

    Raises:
        SystemExit: Always, with a member of `ExitCode` or a code that the command chose.
    """
    sys.exit(_exit_code_of(lambda: app(standalone_mode=False), extra))


def _exit_code_of(call: Callable[[], object], extra: str) -> int:
    try:
        result = call()
        sys.stdout.flush()
    except SystemExit as ended:
        if ended.code == 1:  # so Rich and Typer end at a closed pipe, and nobody else does
            return int(ExitCode.CLOSED_PIPE)
        raise
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if not extra or package in _OWN_PACKAGES:
            raise
        print_error(
            FiduciaryError(
                f"this command needs the package {package}, which is not installed",
                fix=f"pip install 'fiduciary[{extra}]'",
            )
        )
        return int(ExitCode.UNEXPECTED)
    except FiduciaryError as error:
        print_error(error)
        return int(error.exit_code)
    except click.exceptions.Exit as error:
        return int(error.exit_code)
    except click.ClickException as error:
        error.show()
        return int(error.exit_code)
    except (KeyboardInterrupt, click.exceptions.Abort):
        err().print("interrupted")
        return int(ExitCode.INTERRUPTED)
    except BrokenPipeError:  # at the flush: what is left is for nobody
        sys.stdout = cast("TextIO", PacifyFlushWrapper(sys.stdout))
        return int(ExitCode.CLOSED_PIPE)
    except PermissionError as error:
        print_error(denied(error))
        return int(ExitCode.UNEXPECTED)
    except OSError as error:
        about = f"{error.filename}: " if error.filename else ""
        print_error(
            FiduciaryError(
                f"{about}{error.strerror or error}",
                fix="check the path, its permissions and the free space, then try again",
            )
        )
        return int(ExitCode.NOT_FOUND if error.errno in _NO_SUCH_PATH else ExitCode.UNEXPECTED)
    return result if isinstance(result, int) else int(ExitCode.OK)
