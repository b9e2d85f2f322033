"""Errors that every Fiduciary command shares, and the exit codes that scripts rely on.

```
FiduciaryError            1   something unexpected; the message says what
├── Refused               3   a rule or a policy says no; nothing was done
├── NotFound              4   no such plan, entry, release, file
├── MalformedInput        5   input that cannot be read as what it claims to be
├── VerificationFailed    6   a signature, proof, digest or log does not verify
├── Unreachable           7   a service did not answer
├── Unauthorised          8   missing, wrong or insufficient credentials
├── Conflict              9   it exists already, or was used already
└── BudgetExhausted      10   the privacy budget does not allow it
```

* Every error carries what happened (`str(error)`) and what to do next (`error.fix`).
* Exit codes and `code` strings are part of the public interface: they do not change meaning.
* Only a `cli.py` prints or exits (`audit.terminal.run_app`); everything else raises.
"""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar


class ExitCode(IntEnum):
    """Stable exit codes of `audit`, `compliance`, `client` and `server`."""

    OK = 0
    UNEXPECTED = 1
    USAGE = 2
    REFUSED = 3
    NOT_FOUND = 4
    MALFORMED_INPUT = 5
    VERIFICATION_FAILED = 6
    UNREACHABLE = 7
    UNAUTHORISED = 8
    CONFLICT = 9
    BUDGET_EXHAUSTED = 10
    # `client check`: the first check that fails decides.
    CHECK_CONNECTION = 20
    CHECK_CLOCK = 21
    CHECK_CERTIFICATE = 22
    CHECK_KEYS = 23
    CHECK_MODEL = 24
    CHECK_DATASET = 25
    CHECK_POLICY = 26
    CHECK_BUDGET = 27
    CHECK_COMPUTE = 28
    INTERRUPTED = 130
    CLOSED_PIPE = 141
    """Whoever read the output went before its end, as `head` does. Not 0: what was not read may
    have been that a log does not verify."""


class FiduciaryError(Exception):
    """Base of every error that an operator may see.

    Args:
        message: One sentence that says what is wrong, with the values that matter.
        fix: What the operator does next, usually a command. May be empty.
    """

    exit_code: ClassVar[ExitCode] = ExitCode.UNEXPECTED
    code: ClassVar[str] = "unexpected"

    def __init__(self, message: str, *, fix: str = "") -> None:
        super().__init__(message)
        self.fix = fix


class Refused(FiduciaryError):
    """A rule or a policy says no; nothing was done."""

    exit_code = ExitCode.REFUSED
    code = "refused"


class NotFound(FiduciaryError):
    """There is no such thing."""

    exit_code = ExitCode.NOT_FOUND
    code = "not-found"


class MalformedInput(FiduciaryError):
    """Input that cannot be read as what it claims to be."""

    exit_code = ExitCode.MALFORMED_INPUT
    code = "malformed-input"


class VerificationFailed(FiduciaryError):
    """A signature, proof, digest or log does not verify."""

    exit_code = ExitCode.VERIFICATION_FAILED
    code = "verification-failed"


class Unreachable(FiduciaryError):
    """A service did not answer."""

    exit_code = ExitCode.UNREACHABLE
    code = "unreachable"


class Unauthorised(FiduciaryError):
    """Missing, wrong or insufficient credentials."""

    exit_code = ExitCode.UNAUTHORISED
    code = "unauthorised"


class Conflict(FiduciaryError):
    """It exists already, was used already, or changed underneath."""

    exit_code = ExitCode.CONFLICT
    code = "conflict"


class BudgetExhausted(FiduciaryError):
    """The privacy budget does not allow it."""

    exit_code = ExitCode.BUDGET_EXHAUSTED
    code = "budget-exhausted"
