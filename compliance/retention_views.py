"""Retention as callers see it, for both ends of the wire and for a site's own commands."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from compliance.resources import Answer, RequestBody
from compliance.retention import Outcome, Report
from compliance.rules.retention import ActionPattern, Hold, Judgement, Status
from compliance.statements import Name, Time

MonthText = Annotated[str, Field(pattern=r"^[0-9]{4}-(0[1-9]|1[0-2])$")]
HoldReason = Annotated[str, Field(min_length=1, max_length=500)]
"""For the record. Never a person's data: it is shown to whoever may see retention."""


class RetentionRunBody(RequestBody):
    """Whether to shred, or only to tell what would be."""

    dry_run: bool = False


class HoldBody(RequestBody):
    """A legal hold: an action or a prefix, else all; a span of months, open where none is given."""

    name: Name
    reason: HoldReason
    action: ActionPattern | None = None
    first: MonthText | None = None
    last: MonthText | None = None


class HoldReleaseBody(RequestBody):
    """Why a hold ends."""

    reason: HoldReason


class RetentionKeyView(Answer):
    """The payloads of one action in one month, and what the rules say of them."""

    key: str
    action: str
    month: MonthText
    entries: int
    status: Status
    reason: str
    rule: str | None
    source: str | None
    due: MonthText | None
    hold: str | None
    ordered: bool

    @classmethod
    def of(cls, judgement: Judgement, entries: int, *, ordered: bool) -> RetentionKeyView:
        """The view of a judgement."""
        key, rule, due = judgement.key, judgement.rule, judgement.due
        return cls(
            key=key.name,
            action=key.action,
            month=str(key.month),
            entries=entries,
            status=judgement.status,
            reason=judgement.reason,
            rule=None if rule is None else rule.id,
            source=None if rule is None else rule.source,
            due=None if due is None else str(due),
            hold=judgement.hold,
            ordered=ordered,
        )


class HoldView(Answer):
    """A legal hold."""

    name: str
    reason: str
    action: str | None
    first: MonthText | None
    last: MonthText | None
    placed_by: str
    placed_at: Time

    @classmethod
    def of(cls, hold: Hold) -> HoldView:
        """The view of a hold."""
        return cls(
            name=hold.name,
            reason=hold.reason,
            action=hold.action,
            first=None if hold.first is None else str(hold.first),
            last=None if hold.last is None else str(hold.last),
            placed_by=hold.placed_by,
            placed_at=hold.placed_at,
        )


class RetentionView(Answer):
    """What may be shredded when, and what is held."""

    rules_version: str
    jurisdictions: tuple[str, ...]
    keys: tuple[RetentionKeyView, ...]
    holds: tuple[HoldView, ...]

    @classmethod
    def of(cls, report: Report) -> RetentionView:
        """The view of a report."""
        return cls(
            rules_version=report.rules_version,
            jurisdictions=report.jurisdictions,
            keys=tuple(
                RetentionKeyView.of(
                    judgement,
                    report.counts.get(judgement.key.name, 0),
                    ordered=judgement.key.name in report.ordered,
                )
                for judgement in report.judgements
            ),
            holds=tuple(HoldView.of(hold) for hold in report.holds),
        )


class RetentionRunView(Answer):
    """What a run shredded and what it finished for an earlier one; with `dry_run`: would have."""

    dry_run: bool
    shredded: tuple[str, ...]
    finished: tuple[str, ...]

    @classmethod
    def of(cls, outcome: Outcome, *, dry_run: bool) -> RetentionRunView:
        """The view of an outcome."""
        return cls(
            dry_run=dry_run,
            shredded=tuple(judgement.key.name for judgement in outcome.shredded),
            finished=outcome.finished,
        )
