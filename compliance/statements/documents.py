"""What every document of the domain has in common.

* A document is data only: no code, no paths, no free-form options. Unknown fields are an error.
* A statement's bytes are canonical JSON (`audit.canonical`), so it has one digest, which
  `audit.statement` signs.
* Numbers with a fraction are decimals, written as strings: canonical JSON has no floats.
* Times are RFC 3339 in UTC. Digests are `sha256:<hex>`.
* A format change gets a new `format` value and an ADR; a reader refuses what it does not know.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Final, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)
from pydantic_core import ErrorDetails

from audit.errors import MalformedInput

_NAME = r"^[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?$"
_DIGEST = r"^sha256:[0-9a-f]{64}$"
_LONG: Final = re.compile(r"[a-z][a-z0-9_]{5,39}")
"""What may be a slip of a field's name. Too many shorter words are somebody's: Frank, of `rank`."""
_SLIP: Final = 0.8
"""How alike the name and its slip are at least, by `difflib`."""
_TIME = re.compile(r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{3})?Z$")


def _is_time(value: str) -> str:
    if not _TIME.fullmatch(value):
        raise ValueError("expected RFC 3339 in UTC, such as 2026-01-31T12:00:00Z")
    datetime.fromisoformat(value)
    return value


def _is_plain(value: Decimal) -> Decimal:
    if not value.is_finite():
        raise ValueError("expected a finite number")
    return value


Name = Annotated[str, Field(pattern=_NAME)]
"""Lower-case name of a site, plan, federation or release: 1 to 64 of `a-z 0-9 . _ -`."""

Digest = Annotated[str, Field(pattern=_DIGEST)]
"""`sha256:` and 64 hexadecimal digits."""

Time = Annotated[
    str,
    AfterValidator(_is_time),
    Field(json_schema_extra={"format": "date-time", "pattern": _TIME.pattern}),
]
"""RFC 3339 in UTC with a `Z`."""

Text = Annotated[str, Field(min_length=1, max_length=2000)]
"""One line or paragraph for people."""

Fraction = Annotated[Decimal, AfterValidator(_is_plain), Field(max_digits=18, allow_inf_nan=False)]
"""A decimal number, a string in JSON."""

Count = Annotated[int, Field(ge=0, le=2**53 - 1)]


def utc_now() -> str:
    """The present time as statements write it: RFC 3339, UTC, milliseconds."""
    return format_time(datetime.now(UTC))


def format_time(moment: datetime) -> str:
    """RFC 3339 in UTC with milliseconds and a `Z`.

    >>> format_time(datetime(2026, 1, 31, 12, 0, tzinfo=UTC))
    '2026-01-31T12:00:00.000Z'
    """
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Named(BaseModel):
    """A model whose field names may be told to whoever sent something else (`field_path`)."""

    _words: ClassVar[set[str]] = {"query", "path", "[key]"}

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        """Note what we call our fields."""
        Named._words.update(cls.model_fields)


class Document(Named):
    """A frozen, closed document; unknown fields are refused.

    `later` names the fields that a later format brought, with the number of that format. While such
    a field has its default it is not written: what an earlier format could say keeps its bytes, and
    its digest.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    later: ClassVar[Mapping[str, int]] = MappingProxyType({})

    @model_serializer(mode="wrap")
    def _without_later_defaults(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        written: dict[str, Any] = write(self)
        return {
            name: value
            for name, value in written.items()
            if name not in self.later or name in self._later_fields()
        }

    def _later_fields(self) -> list[str]:
        fields = type(self).model_fields
        return [
            name
            for name in sorted(self.later)
            if getattr(self, name) != fields[name].get_default(call_default_factory=True)
        ]

    def first_later_field(self, written: int) -> str | None:
        """A field, here or further inside, that format number `written` does not know, if any."""
        for name in self._later_fields():
            if self.later[name] > written:
                return name
        for name in type(self).model_fields:
            value = getattr(self, name)
            for part in value if isinstance(value, tuple) else (value,):
                found = part.first_later_field(written) if isinstance(part, Document) else None
                if found:
                    return f"{name}.{found}"
        return None


class Statement(Document):
    """A document that is signed, logged, and later proven.

    Each subclass fixes `format`, the first word of which is the statement's kind in the log.
    """

    kind: ClassVar[str]

    @model_validator(mode="after")
    def _says_what_its_format_knows(self) -> Self:
        written = str(getattr(self, "format", ""))
        later = self.first_later_field(format_number(written))
        if later:
            raise ValueError(f"{later}: unknown field of {written}")
        return self

    def body(self) -> dict[str, Any]:
        """The statement as canonical JSON can hold it: strings, integers, lists, objects."""
        return self.model_dump(mode="json")

    @classmethod
    def from_body(cls, body: Mapping[str, Any]) -> Self:
        """Read a statement.

        Raises:
            MalformedInput: With the first field that is wrong and why, and no word of what it says.
        """
        try:
            return cls.model_validate(body)
        except ValidationError as error:
            reason = first_problem(error, of_others=True)
            raise MalformedInput(f"malformed {cls.kind}: {reason}") from error


def format_number(written: str) -> int:
    """The number of a format.

    >>> format_number("fiduciary.plan/2")
    2
    """
    return int(written.rpartition("/")[2])


def first_problem(error: ValidationError, *, of_others: bool = False) -> str:
    """The first problem that pydantic found, as one sentence without the input's value.

    Args:
        error: What pydantic raised.
        of_others: Whether others wrote the input, so that its keys may be their words too
            (`field_path`). Whoever wrote a file should read the names that are in it.
    """
    problem = error.errors(include_url=False, include_input=False)[0]
    where = field_path(problem["loc"]) if of_others else ".".join(map(str, problem["loc"]))
    return f"{where or 'document'}: {problem_reason(problem)}"


def field_path(location: Sequence[int | str], known: Collection[str] = frozenset()) -> str:
    """Where in a document of others a problem is, without the words of who made it.

    Keys of maps and unknown fields are such words, as values are. Only the names of our own fields
    are shown, and what is so like one of them that it must be a slip.

    Args:
        location: Field names, keys and indices, from the outside inwards.
        known: More names of ours.

    >>> field_path(("privacy", "epsilom")), field_path(("privacy", "anna_schmidt"))
    ('privacy.epsilom', 'privacy.?')
    >>> field_path(("sealed", "Anna Schmidt", "[key]"))
    'sealed.?.[key]'
    """
    ours = Named._words.union(known)
    return ".".join(
        str(part) if isinstance(part, int) or _is_ours(part, ours) else "?" for part in location
    )


def _is_ours(part: str, ours: Collection[str]) -> bool:
    if part in ours:
        return True
    return _LONG.fullmatch(part) is not None and bool(
        difflib.get_close_matches(part, ours, n=1, cutoff=_SLIP)
    )


def problem_reason(problem: ErrorDetails) -> str:
    """What pydantic found, in the words of whoever wrote the document."""
    match problem["type"]:
        case "extra_forbidden":
            return "unknown field"
        case "string_pattern_mismatch" if problem["ctx"]["pattern"] == _NAME:
            return "a name is 1 to 64 of a-z 0-9 . _ -, a letter or a digit first and last"
        case "tuple_type" | "list_type":
            return "expected a list"
        case "too_short":
            return f"expected at least {problem['ctx']['min_length']} of them"
        case "too_long":
            return f"expected at most {problem['ctx']['max_length']} of them"
    return problem["msg"].removeprefix("Value error, ")
