"""How each of the four commands begins: Ctrl-C ends it from its first moment on.

What a command imports takes a second and more, and Python answers Ctrl-C during an import with a
traceback. Nothing was begun by then that would have to be ended, so the process ends at once, with
exit code 130 as `audit.terminal.run_app` ends a command that runs.

* Next to nothing is imported before: here, and by the packages' own `__init__`.
* Where Ctrl-C is ignored, as in a shell's background jobs, it stays so.
* Python swallows a Ctrl-C that comes while a finaliser runs, and what is imported later has many.
  It comes again, after a moment.
"""

from __future__ import annotations

import os
import signal
import sys
from importlib import import_module

_INTERRUPTED = 130
"""`audit.errors.ExitCode.INTERRUPTED`, which may not be loaded yet."""

_MOMENT_SECONDS = 0.02
"""Until the finaliser is surely over; if not, it comes once more."""


def run_command(module: str) -> None:
    """Import a command's module and run its `main`.

    Args:
        module: Such as `audit.cli`.
    """
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, _end)
    command = import_module(module)
    sys.unraisablehook = _come_again
    try:
        signal.signal(signal.SIGINT, before)
        command.main()
    except KeyboardInterrupt:  # just before or after what `run_app` watches over
        _end(signal.SIGINT, None)


def _come_again(swallowed: sys.UnraisableHookArgs) -> None:
    if swallowed.exc_type is not KeyboardInterrupt:
        sys.__unraisablehook__(swallowed)
        return
    from threading import Timer

    again = Timer(_MOMENT_SECONDS, os.kill, (os.getpid(), signal.SIGINT))
    again.daemon = True
    again.start()


def _end(_number: int, _frame: object) -> None:
    os._exit(_INTERRUPTED)
