"""A site's no to a task of the coordinator."""

from __future__ import annotations


class Declined(Exception):
    """This site says no to a task. Code and text leave the site; the fix is for its operator.

    Args:
        code: Stable kebab-case reason.
        reason: One sentence.
        fix: What the operator could do.
        whole_plan: Whether it says no to every round of the plan.
    """

    def __init__(self, code: str, reason: str, fix: str = "", *, whole_plan: bool = False) -> None:
        super().__init__(reason)
        self.code = code
        self.fix = fix
        self.whole_plan = whole_plan
