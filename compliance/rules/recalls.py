"""What may be recalled, and what a recall ends.

A recall only takes away: one officer is enough, so that harm stops at once, also where that officer
approved the release. It is never undone; the model comes back as a new release, by two people.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from compliance.rules.ruling import ALLOWED, Refused, Ruling
from compliance.wire import ReleaseState


@dataclass(frozen=True)
class Recall:
    """That a release was recalled, when, and why."""

    recalled_at: datetime
    reason: str

    def refusal(self) -> Refused:
        """What whoever asks for the release from now on is told."""
        day = self.recalled_at.date().isoformat()
        return Refused(
            "release-recalled",
            f"the release was recalled on {day}: {self.reason}",
            "stop using it and remove your copies; acknowledge the notice: `compliance notices`",
            "conflict",
        )


def may_recall(state: ReleaseState) -> Ruling:
    """Whether a release can be recalled: somebody must have been able to get it."""
    if state == "approved":
        return ALLOWED
    if state == "recalled":
        return Refused("already-recalled", "it is recalled already", status="conflict")
    return Refused(
        "release-not-approved",
        f"the release is {state}: nobody can have it yet",
        "reject it instead: `compliance reject release ID`",
        "conflict",
    )
