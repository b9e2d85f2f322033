"""What a rule answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Status = Literal["unauthorised", "forbidden", "refused", "conflict", "malformed"]


@dataclass(frozen=True)
class Allowed:
    """Yes."""


@dataclass(frozen=True)
class Refused:
    """No, and why. `code` is stable and kebab-case; `reason` and `fix` are for people."""

    code: str
    reason: str
    fix: str = ""
    status: Status = "refused"


Ruling = Allowed | Refused

ALLOWED: Final = Allowed()


def contradiction(code: str, reason: str, fix: str = "") -> Refused:
    """A refusal of what contradicts itself or what it refers to."""
    return Refused(code, reason, fix, "malformed")
