"""Findings: what a rule looked at, whether it is content, and what the operator does if not.

Policy, guard and preflight all answer in findings, so that an operator reads every verdict in the
same form and a refusal always names its rule, its reason and its remedy.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One rule's verdict.

    Attributes:
        rule: Stable kebab-case name of the rule; also the refusal's code.
        passed: Whether the rule is content.
        detail: What was found, with the values that matter; never text or identifiers of people.
        fix: What the operator does next when the rule is not content; else empty.
    """

    rule: str
    passed: bool
    detail: str
    fix: str = ""

    def to_json(self) -> dict[str, object]:
        """The finding as `--json` prints it."""
        return {"rule": self.rule, "passed": self.passed, "detail": self.detail, "fix": self.fix}


def first_failure(findings: Iterable[Finding]) -> Finding | None:
    """The first finding that is not content, in the order of the rules."""
    return next((finding for finding in findings if not finding.passed), None)
