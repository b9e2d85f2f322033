"""The site's policy: what its operator allows plans to do, in `policy.toml`.

* Default is to refuse: a policy names the purposes it allows, and a fresh one names none.
* Every key is required, so that a limit is never one that nobody chose; an unknown key is an error.
* A file of an earlier format is read as what it said; what it could not say is refused, or set so
  that it changes nothing (docs/adr/0024, 0041).
* A policy can only refuse. What it allows must still pass the guard's other rules.
* `client.proposals` checks a plan against it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from audit.errors import NotFound
from client.budget import Limits
from client.budget_period import Period
from client.training_hours import ALL_DAY, TrainingHours, Window, zone_named
from compliance.statements import (
    DeidentificationDemand,
    Digest,
    Document,
    Fraction,
    Name,
    PrivacyUnit,
    TaskName,
)
from compliance.toml_file import MAX_SETTINGS_BYTES, parse_toml

ANY_EMBEDDED = "any-embedded"
"""Allows every base model that comes with an installed package, whose weights the site verified."""

EMBEDDED_PREFIX = "embedded:"

FORMAT: Final = "fiduciary.policy/4"
_FIRST_FORMAT: Final = "fiduciary.policy/1"
_SECOND_FORMAT: Final = "fiduciary.policy/2"
_THIRD_FORMAT: Final = "fiduciary.policy/3"

_UNLIMITED_PERIOD_DAYS: Final = 365
"""Of an earlier format, whose period may cost as much as everything: any length says the same."""


def _number(value: object) -> object:
    """Accept `3`, `3.0` and `"3.0"`, and keep the digits as written."""
    if isinstance(value, bool) or not isinstance(value, int | str | Decimal):
        raise ValueError("expected a number")  # noqa: TRY004  pydantic wants a ValueError
    return value


def _distinct(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(set(values)) != len(values):
        raise ValueError("each value may appear once")
    return values


def _hours(value: str) -> str:
    Window.parse(value)
    return value


def _zone(value: str) -> str:
    zone_named(value)
    return value


Number = Annotated[Fraction, BeforeValidator(_number)]
BaseModelRule = Annotated[Literal["any-embedded"] | Digest, Field()]


class Policy(Document):
    """What the operator allows. `DEFAULT_POLICY` explains each key.

    `epsilon` limits are for adding or removing one data subject. `max_epsilon_total` bounds the
    composition of everything that was ever trained at this site, `max_epsilon_per_period` that of
    the rounds that start within any `period_days` days, both at `delta`. All hold for whole
    subjects also where a plan that protects single records is allowed.
    """

    format: Literal["fiduciary.policy/4"]
    purposes: Annotated[tuple[Name, ...], AfterValidator(_distinct)]
    tasks: Annotated[tuple[TaskName, ...], AfterValidator(_distinct)]
    base_models: Annotated[tuple[BaseModelRule, ...], AfterValidator(_distinct)]
    privacy_units: Annotated[
        tuple[PrivacyUnit, ...], Field(min_length=1), AfterValidator(_distinct)
    ]
    max_epsilon_per_plan: Annotated[Number, Field(gt=0, le=100)]
    max_epsilon_total: Annotated[Number, Field(gt=0, le=100)]
    max_epsilon_per_period: Annotated[Number, Field(gt=0, le=100)]
    period_days: Annotated[int, Field(ge=1, le=36_500, strict=True)]
    delta: Annotated[Number, Field(gt=0, lt=1)]
    minimum_subjects: Annotated[int, Field(ge=1, le=10**9)]
    require_secure_aggregation: Annotated[bool, Field(strict=True)]
    allow_distributed_noise: Annotated[bool, Field(strict=True)]
    training_hours: Annotated[
        tuple[Annotated[str, AfterValidator(_hours)], ...],
        Field(min_length=1, max_length=20),
        AfterValidator(_distinct),
    ]
    timezone: Annotated[str, AfterValidator(_zone)]
    share_evaluation: bool
    minimum_deidentification_recall: Annotated[Number, Field(ge=0, le=1)]
    maximum_deidentification_leak_share: Annotated[Number, Field(ge=0, le=1)]
    deidentification_measured_within_days: Annotated[int, Field(ge=1, le=36_500, strict=True)]

    @model_validator(mode="before")
    @classmethod
    def _from_earlier_format(cls, values: Any) -> Any:
        """Read an earlier format as what it said."""
        if not isinstance(values, dict):
            return values
        if values.get("format") == _FIRST_FORMAT:
            values = _second_format(values)
        if values.get("format") == _SECOND_FORMAT:
            values = _third_format(values)
        return _fourth_format(values) if values.get("format") == _THIRD_FORMAT else values

    @model_validator(mode="after")
    def _consistent(self) -> Policy:
        for smaller, larger in (
            ("max_epsilon_per_plan", "max_epsilon_total"),
            ("max_epsilon_per_period", "max_epsilon_total"),
            ("max_epsilon_per_plan", "max_epsilon_per_period"),
        ):
            if getattr(self, smaller) > getattr(self, larger):
                raise ValueError(
                    f"{smaller}: {getattr(self, smaller)} is more than "
                    f"{larger} {getattr(self, larger)}"
                )
        return self

    @property
    def limits(self) -> Limits:
        """What the ledger enforces of it. A period that may cost as much as all is no limit."""
        period = None
        if self.max_epsilon_per_period < self.max_epsilon_total:
            period = Period(self.period_days, self.max_epsilon_per_period)
        return Limits(self.max_epsilon_per_plan, self.max_epsilon_total, self.delta, period)

    @property
    def deidentification(self) -> DeidentificationDemand | None:
        """What must have been measured of a dataset's de-identification; None: nothing."""
        least = self.minimum_deidentification_recall
        most = self.maximum_deidentification_leak_share
        if least == 0 and most == 1:
            return None
        return DeidentificationDemand(
            minimum_recall=least,
            maximum_leak_share=most,
            not_older_than_days=self.deidentification_measured_within_days,
        )

    @property
    def hours(self) -> TrainingHours:
        """When rounds may begin."""
        return TrainingHours(self.training_hours, zone_named(self.timezone))


_THIRD_FORMAT_DEFAULTS: Final[Mapping[str, Any]] = {
    "period_days": _UNLIMITED_PERIOD_DAYS,
    "require_secure_aggregation": False,
    "allow_distributed_noise": False,
    "training_hours": [ALL_DAY],
    "timezone": "UTC",
}
"""What the second format meant where it said nothing. It knew no plan with distributed noise."""

_FOURTH_FORMAT_DEFAULTS: Final[Mapping[str, Any]] = {
    "minimum_deidentification_recall": 0,
    "maximum_deidentification_leak_share": 1,
    "deidentification_measured_within_days": 365,
}
"""What the third format meant where it said nothing."""


def _second_format(values: Mapping[str, Any]) -> dict[str, Any]:
    """`fiduciary.policy/1`: `require_unit = "subject"` is all that it could say."""
    if values.get("require_unit") != "subject" or "privacy_units" in values:
        raise ValueError(f'require_unit: {_FIRST_FORMAT} has require_unit = "subject"')
    kept = {name: value for name, value in values.items() if name != "require_unit"}
    return {**kept, "format": _SECOND_FORMAT, "privacy_units": ["subject"]}


def _third_format(values: Mapping[str, Any]) -> dict[str, Any]:
    """`fiduciary.policy/2`: a period may cost as much as everything, at any hour."""
    later = {*_THIRD_FORMAT_DEFAULTS, "max_epsilon_per_period"} & set(values)
    if later:
        raise ValueError(f"{min(later)}: unknown field of earlier formats than {_THIRD_FORMAT}")
    added = dict(_THIRD_FORMAT_DEFAULTS)
    if "max_epsilon_total" in values:
        added["max_epsilon_per_period"] = values["max_epsilon_total"]
    return {**values, **added, "format": _THIRD_FORMAT}


def _fourth_format(values: Mapping[str, Any]) -> dict[str, Any]:
    """`fiduciary.policy/3`: nothing need be measured of de-identification."""
    later = set(_FOURTH_FORMAT_DEFAULTS) & set(values)
    if later:
        raise ValueError(f"{min(later)}: unknown field of earlier formats than {FORMAT}")
    return {**values, **_FOURTH_FORMAT_DEFAULTS, "format": FORMAT}


DEFAULT_POLICY = """\
# What this site allows. Only you can change it: the coordinator has no way to.
# Look at a plan with `client policy check plan.toml` (or a plan's id) before you allow it.
format = "fiduciary.policy/4"

# Purposes for which records may be used, as plans and datasets name them.
# EMPTY MEANS THAT EVERY PLAN IS REFUSED. Allow one like this: purposes = ["triage-research"]
purposes = []

# Tasks that may be trained: "text-classification", "token-classification",
# "causal-language-modelling", "image-classification", "tabular-classification".
tasks = ["text-classification"]

# Base models: "any-embedded" (those of installed packages), or digests like "sha256:…".
base_models = ["any-embedded"]

# Whom a plan must protect: "subject" is a whole data subject with all their records. Add "record"
# to allow plans that promise their epsilon to single records; a subject then bears more, which the
# limits below still bound.
privacy_units = ["subject"]

# Privacy loss (epsilon, add or remove one subject) that one plan may cost, and that all plans
# together may cost, ever, at this site. Smaller is more private: 1 is strong, 8 is common, and
# above 10 the promise means little.
max_epsilon_per_plan = 8
max_epsilon_total = 10

# Privacy loss that all rounds which start within any period_days days may cost together. A plan
# that would exceed it is refused until earlier rounds are older than that; rounds that are reserved
# and not yet started always count. Set it to max_epsilon_total to have no such limit.
max_epsilon_per_period = 8
period_days = 365

# The chance with which the promise may fail: at most one in the number of subjects.
delta = 0.00001

# Refuse to train on fewer subjects than this (the plan may ask for more).
minimum_subjects = 50

# Refuse plans in which the coordinator sees this site's own update. With true, it may learn only
# sums over several sites (secure_aggregation in the plan).
require_secure_aggregation = false

# Allow plans in which each site adds only its share of the noise (noise_sites in the plan). THE
# PROMISE THEN RESTS ON OTHERS: that so many other sites are honest, add their share and do not
# share what they know with the coordinator. With false, this site's own noise is enough.
allow_distributed_noise = false

# When rounds may begin, in the wall time of a time zone such as "Europe/Berlin": for example
# training_hours = ["22:00-06:00"]. Rounds at other times are declined one by one, the plan stays
# allowed; a round that began goes on to its end.
training_hours = ["00:00-24:00"]
timezone = "UTC"

# Answer "evaluate" with counts of right and wrong predictions, and of how sure the model was, on
# held-out subjects. They never train, and the counts have no noise: set to false where even counts
# are too much.
share_evaluation = true

# What must have been measured, here, of the pipeline that de-identified the texts that a plan would
# use, within so many days (`client deidentify evaluate`, `client deidentify review`): a recall of
# at least, and a share of texts in which something was missed of at most. The limits of the
# measurement count, not its estimates. 0 and 1 ask for nothing.
minimum_deidentification_recall = 0
maximum_deidentification_leak_share = 1
deidentification_measured_within_days = 365
"""


def read_policy(path: Path) -> Policy:
    """Read a site's policy.

    Raises:
        NotFound: When there is no such file; everything is refused then.
        MalformedInput: With the line or key that is wrong.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_SETTINGS_BYTES + 1)
    except FileNotFoundError as error:
        raise NotFound(
            f"no policy at {path}; every plan is refused",
            fix="write one with `client policy init`",
        ) from error
    return parse_policy(data, name=path.name)


def parse_policy(data: bytes, *, name: str = "policy.toml") -> Policy:
    """Read a policy's bytes.

    Args:
        data: UTF-8 TOML.
        name: What to call it in errors.

    Raises:
        MalformedInput: With the line or key that is wrong.
    """
    fix = f"correct {name}; `client policy init --print` shows a complete one"
    return parse_toml(data, Policy, name, fix=fix, exact=True)


def write_default_policy(path: Path) -> None:
    """Write `DEFAULT_POLICY`, which refuses everything, unless there is a policy already."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(DEFAULT_POLICY)
        file.flush()
        os.fsync(file.fileno())
