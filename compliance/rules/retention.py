"""What of an audit log may be shredded, and when.

* Rules are data (`retention.toml`): which actions, under which jurisdiction, kept how long, by what
  source. An operator names the jurisdictions that apply; until then nothing is ever shredded.
* The longest period of all rules that match wins. An action that no rule matches is kept for ever,
  and so is one that any matching rule keeps.
* A month is due when the whole of it is past its period. The present month never is.
* A period counts from the end of the entries' month or, where the rule says so, from the month in
  which what they are about was last in effect; while that is not over or not known, they are kept.
* An operator may choose other periods, never below the minimum of a rule that applies.
* A legal hold keeps what it covers, whatever the rules say.
* Subjects' keys (`subject:…`) are no matter of retention: erasure destroys those.

Sources are named in the data. Decision record: docs/adr/0013-retention.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cache
from importlib.resources import files
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field, model_validator

from audit.errors import MalformedInput
from audit.words import count_of
from compliance.rules.months import Month
from compliance.rules.ruling import ALLOWED, Refused, Ruling
from compliance.statements import Document, Name
from compliance.toml_file import parse_toml

ANY: Final = "any"
"""The jurisdiction of rules that always apply. They can only keep."""

SETTINGS_FORMAT: Final = "fiduciary.retention/1"

MAX_MONTHS: Final = 1200
"""A hundred years. A larger number is a mistake; `never` is a word."""

_PREFIX_ENDS: Final = (".", "-")
_ACTION_KEY: Final = "action:"

ActionPattern = Annotated[str, Field(pattern=r"^[a-z][a-z0-9._:/-]{0,99}$")]
"""An action, or with a trailing `.` or `-` every action that begins so."""

Months = Annotated[int, Field(strict=True, ge=0, le=MAX_MONTHS)]


def matches(pattern: str, action: str) -> bool:
    """Whether a pattern covers an action.

    >>> matches("plan.", "plan.approved"), matches("plan", "plan.approved")
    (True, False)
    """
    return action == pattern or (pattern.endswith(_PREFIX_ENDS) and action.startswith(pattern))


@dataclass(frozen=True, order=True)
class ActionKey:
    """The data key of one action in one month (`audit.log.action_key_name`)."""

    action: str
    month: Month

    @classmethod
    def parse(cls, name: str) -> ActionKey | None:
        """The key of that name; None when it is of another kind.

        >>> ActionKey.parse("subject:4f1c") is None
        True
        """
        if not name.startswith(_ACTION_KEY):
            return None
        action, _, month = name.removeprefix(_ACTION_KEY).rpartition(":")
        parsed = Month.parse(month)
        return None if parsed is None or not action else cls(action, parsed)

    @property
    def name(self) -> str:
        """As the keyring and the log know it."""
        return f"{_ACTION_KEY}{self.action}:{self.month}"


class Rule(Document):
    """One rule of `retention.toml`, which explains the fields."""

    id: Name
    jurisdiction: Name
    actions: Annotated[tuple[ActionPattern, ...], Field(min_length=1)]
    minimum_months: Months
    minimum_is: Literal["law", "choice"]
    shred_after_months: Months | Literal["never"]
    counts_from: Literal["entry", "last-in-effect"]
    source: Annotated[str, Field(min_length=1, max_length=200)]
    why: Annotated[str, Field(min_length=1, max_length=300)]

    @model_validator(mode="after")
    def _consistent(self) -> Rule:
        if self.shred_after_months == "never":
            return self
        if self.jurisdiction == ANY:
            raise ValueError(f"{self.id}: a rule that always applies can only keep")
        if self.shred_after_months < self.minimum_months:
            raise ValueError(f"{self.id}: shreds before its own minimum")
        return self

    def covers(self, action: str) -> bool:
        """Whether the rule is about an action."""
        return any(matches(pattern, action) for pattern in self.actions)

    def overlaps(self, pattern: str) -> bool:
        """Whether the rule is about some action that the pattern covers."""
        return any(matches(pattern, own) or matches(own, pattern) for own in self.actions)


def _distinct(rules: tuple[Rule, ...]) -> tuple[Rule, ...]:
    if len({rule.id for rule in rules}) != len(rules):
        raise ValueError("each id may appear once")
    return rules


class RuleBook(Document):
    """All rules of one version."""

    format: Literal["fiduciary.retention-rules/1"]
    version: Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}$")]
    rule: Annotated[tuple[Rule, ...], AfterValidator(_distinct)]

    @property
    def jurisdictions(self) -> tuple[str, ...]:
        """What an operator can name."""
        return tuple(sorted({rule.jurisdiction for rule in self.rule} - {ANY}))


class RetentionSettings(Document):
    """An operator's choices, `retention.toml` in the folder of a service or a site.

    `months` maps actions, or prefixes of them, to the period that replaces the rules' own choice.
    """

    format: Literal["fiduciary.retention/1"] = SETTINGS_FORMAT
    jurisdictions: tuple[Name, ...] = ()
    months: dict[ActionPattern, Months] = Field(default_factory=dict)


@dataclass(frozen=True)
class Hold:
    """A legal hold: what must not be shredded, and why.

    Attributes:
        name: Names it for the one who releases it.
        action: An action or a prefix; None covers every action.
        first: The first month covered; None: from the beginning.
        last: The last month covered; None: without end.
        reason: For the record.
        placed_by: Who placed it.
        placed_at: When.
    """

    name: str
    action: str | None
    first: Month | None
    last: Month | None
    reason: str
    placed_by: str
    placed_at: str

    def covers(self, key: ActionKey) -> bool:
        """Whether the hold keeps a key."""
        return (
            (self.action is None or matches(self.action, key.action))
            and (self.first is None or self.first <= key.month)
            and (self.last is None or key.month <= self.last)
        )


Status = Literal["due", "waiting", "in-effect", "kept", "held"]


@dataclass(frozen=True)
class Judgement:
    """What the rules say of one key.

    Attributes:
        key: The key.
        status: Whether it may be shredded now (`due`), later (`waiting`), not before what it is
            about ends (`in-effect`), never (`kept`), or not while a hold is in force (`held`).
        reason: One sentence.
        rule: The rule that decides; None when none matches.
        due: The first month in which it may be shredded, where that is known.
        hold: Name of a hold that covers it, if any.
    """

    key: ActionKey
    status: Status
    reason: str
    rule: Rule | None = None
    due: Month | None = None
    hold: str | None = None


LastInEffect = Callable[[ActionKey], Month | None]
"""The month in which what a key's entries are about ended; None: not ended, or not known."""


@dataclass(frozen=True)
class Policy:
    """The rules as one operator applies them. Check the settings first: `may_apply`."""

    book: RuleBook
    settings: RetentionSettings

    def judge(
        self,
        key: ActionKey,
        holds: Iterable[Hold],
        now: datetime,
        last_in_effect: LastInEffect,
    ) -> Judgement:
        """What may happen to one key.

        Args:
            key: The key.
            holds: All holds in force.
            now: The present time, with its zone.
            last_in_effect: Asked only about what would be due otherwise.
        """
        rules = [rule for rule in _applying(self.book, self.settings) if rule.covers(key.action)]
        hold = next((hold for hold in holds if hold.covers(key)), None)
        judgement = self._judge(key, rules, hold, Month.of(now), last_in_effect)
        return judgement if hold is None else replace(judgement, hold=hold.name)

    def _judge(
        self,
        key: ActionKey,
        rules: list[Rule],
        hold: Hold | None,
        month: Month,
        last_in_effect: LastInEffect,
    ) -> Judgement:
        if not rules:
            named = ", ".join(self.settings.jurisdictions)
            why = f"no rule of {named} is about it" if named else "no jurisdiction is named"
            return Judgement(key, "kept", f"{why}, so it is kept")
        judgement = self._longest(key, rules, lambda _: key.month)
        if judgement.due is None or month < judgement.due:
            return judgement
        if hold is not None:
            return replace(judgement, status="held", reason=f"held: {hold.reason}")
        if any(rule.counts_from == "last-in-effect" for rule in rules):
            ended = last_in_effect(key)
            if ended is None:
                reason = "what it is about is still in effect, or nothing says that it ended"
                return Judgement(key, "in-effect", reason, judgement.rule)
            since = max(ended, key.month)
            judgement = self._longest(
                key, rules, lambda rule: key.month if rule.counts_from == "entry" else since
            )
            if judgement.due is None or month < judgement.due:
                return judgement
        return replace(judgement, status="due")

    def _longest(
        self, key: ActionKey, rules: list[Rule], since: Callable[[Rule], Month]
    ) -> Judgement:
        """By the rule whose period ends last."""
        chosen = [
            months for name, months in self.settings.months.items() if matches(name, key.action)
        ]
        latest: tuple[Month, int, Rule] | None = None
        for rule in rules:
            if rule.shred_after_months == "never":
                return Judgement(key, "kept", f"never shredded: {rule.why}", rule)
            wanted = max(chosen, default=rule.shred_after_months)
            months = max(wanted, rule.minimum_months)  # `may_apply` refuses less; so does this
            due = since(rule).first_after(months)
            # Where several end together, the one that demands most is the one to name.
            if latest is None or (due, rule.minimum_months) > (latest[0], latest[2].minimum_months):
                latest = (due, months, rule)
        if latest is None:
            raise ValueError("no rule is about this action")
        due, months, rule = latest
        return Judgement(key, "waiting", f"{count_of(months, 'month')}, {rule.source}", rule, due)


def _applying(book: RuleBook, settings: RetentionSettings) -> list[Rule]:
    """Rules of the named jurisdictions. Without any, those that only keep."""
    return [rule for rule in book.rule if rule.jurisdiction in (ANY, *settings.jurisdictions)]


def may_apply(book: RuleBook, settings: RetentionSettings) -> Ruling:
    """Whether an operator may choose this."""
    unknown = sorted(set(settings.jurisdictions) - set(book.jurisdictions))
    if unknown:
        return Refused(
            "jurisdiction-unknown",
            f"there are no rules for {', '.join(unknown)}",
            f"name some of {', '.join(book.jurisdictions)}",
            "malformed",
        )
    applying = _applying(book, settings)
    for pattern, months in sorted(settings.months.items()):
        about = [rule for rule in applying if rule.overlaps(pattern)]
        if not about:
            return Refused(
                "no-rule",
                f"no rule that applies is about {pattern}, so it is kept for ever",
                "remove it from months, or name the jurisdiction that allows an end",
            )
        for rule in about:
            if rule.shred_after_months == "never":
                return Refused(
                    "kept-for-ever",
                    f"{pattern} cannot get a period: rule {rule.id} ({rule.source}) keeps it: "
                    f"{rule.why}",
                    "remove it from months, or name actions more exactly",
                )
            if months < rule.minimum_months:
                basis = "the law's" if rule.minimum_is == "law" else "this product's"
                return Refused(
                    "below-minimum",
                    f"{count_of(months, 'month')} for {pattern} is below {basis} minimum of "
                    f"{rule.minimum_months}: rule {rule.id} ({rule.source})",
                    f"set at least {rule.minimum_months}",
                )
    return ALLOWED


@cache
def default_rules() -> RuleBook:
    """The rules of this version of the product."""
    source = files("compliance.rules").joinpath("retention.toml")
    return parse_rules(source.read_bytes())


def parse_rules(data: bytes) -> RuleBook:
    """Read rules.

    Raises:
        MalformedInput: With the line or rule that is wrong.
    """
    return parse_toml(data, RuleBook, "retention rules")


def parse_retention_settings(data: bytes, name: str = "retention.toml") -> RetentionSettings:
    """Read an operator's `retention.toml`. Whether it may be applied is `may_apply`'s to say.

    Raises:
        MalformedInput: With the line or key that is wrong.
    """
    fix = f"correct {name}; see docs/retention.md"
    settings = parse_toml(data, RetentionSettings, name, fix=fix)
    if "format" not in settings.model_fields_set:
        raise MalformedInput(
            f"malformed {name}: it has no format",
            fix=f'begin it with: format = "{SETTINGS_FORMAT}"',
        )
    return settings
