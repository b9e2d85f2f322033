"""What replaces each kind of identifier: `deidentify.toml`, which is the site's to write.

```toml
format = "fiduciary.deidentify/1"

# Of each kind of finding; the actions are below.
[replace]
default = "stand-in"
US_SSN = "redact"
AGE = "generalise"
DATE_TIME = "generalise"
ADDRESS = "generalise"

# Originals of what is replaced, sealed to a key that the site does not have.
[reveal]
public_key = "…"            # of `client deidentify reveal-key`
kinds = ["PERSON", "IDENTIFIER"]
```

| action | what stands there afterwards |
|---|---|
| `stand-in` | something of the same kind and form, the same for the same original (the default) |
| `redact` | the kind in brackets: `[US_SSN]` |
| `generalise` | what is true of many: see below; where nothing is, as `redact` |

`[detect]` and its keys are in `client.deidentification.settings`.

Generalised, an age is itself up to 89 and `90+` above; a date is its year, unless who was born in
it is older than 89; an address or place is the first three digits of its ZIP code.

* Generalised forms are those of HIPAA's Safe Harbor, 45 CFR 164.514(b)(2)(i): (B) three digits of
  a ZIP code, `000` for the areas of at most 20,000 people; (C) years, and ages up to 89.
* Another policy is another pipeline: it enters the digest that datasets and measurements name.
"""

from __future__ import annotations

import base64
import binascii
import re
import tomllib
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field, ValidationError, model_validator

from audit.errors import MalformedInput
from client.deidentification.findings import ADDRESS, AGE, DATE_TIME, LOCATION
from client.deidentification.settings import DEFAULTS, Detection
from client.deidentification.spoken import as_written
from compliance.statements import Document, first_problem

Action = Literal["stand-in", "redact", "generalise"]

Kind = Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]{0,63}$")]

GENERALISED: Final = frozenset({AGE, DATE_TIME, ADDRESS, LOCATION})
"""Kinds of which something may be said that is true of many."""

OLDEST_AGE: Final = 89

RESTRICTED_ZIP_PREFIXES: Final = frozenset(
    re.findall(r"\d{3}", "036 059 063 102 203 556 692 790 821 823 830 831 878 879 884 890 893")
)
"""Areas of these ZIP codes hold 20,000 people or fewer (2000 Census; HHS, *Guidance Regarding
Methods for De-identification of Protected Health Information*, 2012)."""

MAX_SETTINGS_BYTES: Final = 64 * 1024

_ZIP = re.compile(r"(?<![\d-])(\d{5})(?:-\d{4})?(?![\d-])")
_YEAR = re.compile(r"(?<!\d)(?:19|20)\d\d(?!\d)")


class Replace(Document):
    """An action for each kind."""

    default: Literal["stand-in", "redact"] = "stand-in"
    kinds: dict[Kind, Action] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _can_be_generalised(self) -> Replace:
        for kind, action in self.kinds.items():
            if action == "generalise" and kind not in GENERALISED:
                raise ValueError(f"{kind}: only {', '.join(sorted(GENERALISED))} are generalised")
        return self

    def action(self, kind: str) -> Action:
        """What becomes of a finding."""
        return self.kinds.get(kind, self.default)


class Reveal(Document):
    """To whom originals are sealed, and of which kinds."""

    public_key: str
    kinds: Annotated[tuple[Kind, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _is_a_key(self) -> Reveal:
        if len(self.key) != 32:
            raise ValueError("public_key: expected 32 bytes in base64")
        return self

    @property
    def key(self) -> bytes:
        """The raw X25519 public key."""
        try:
            return base64.b64decode(self.public_key, validate=True)
        except (binascii.Error, ValueError):
            return b""


class ReplacementPolicy(Document):
    """What the site wrote, or the defaults: stand-ins for everything, and no way back."""

    format: Literal["fiduciary.deidentify/1"] = "fiduciary.deidentify/1"
    replace: Replace = Replace()
    reveal: Reveal | None = None
    detect: Detection = DEFAULTS

    @model_validator(mode="before")
    @classmethod
    def _kinds_beside_default(cls, values: object) -> object:
        """In the file, kinds stand beside `default`."""
        if isinstance(values, dict) and isinstance(values.get("replace"), dict):
            said = dict(values["replace"])
            default = {"default": said.pop("default")} if "default" in said else {}
            kinds = said.pop("kinds", None)
            values = {**values, "replace": {**default, "kinds": said if kinds is None else kinds}}
        return values


STAND_INS: Final = ReplacementPolicy()


def generalised(kind: str, original: str, this_year: int) -> str:
    """What may be said of an original that is true of many.

    Args:
        kind: The finding's kind.
        original: The text that was found.
        this_year: Years before which it may be the birth of somebody over 89 are not told.

    >>> generalised("AGE", "aged 93", 2026), generalised("AGE", "63-year-old", 2026)
    ('90+', '63')
    >>> generalised("DATE_TIME", "12 March 2024", 2026), generalised("DATE_TIME", "1936", 2026)
    ('2024', '[DATE_TIME]')
    >>> generalised("ADDRESS", "4 Elm St, Reno, NV 89501", 2026)
    '895**'
    >>> generalised("LOCATION", "03601", 2026), generalised("LOCATION", "Reno", 2026)
    ('000**', '[LOCATION]')
    """
    original = as_written(kind, original)
    if kind == AGE and (digits := re.search(r"\d{1,3}", original)):
        return digits.group() if int(digits.group()) <= OLDEST_AGE else f"{OLDEST_AGE + 1}+"
    if kind == DATE_TIME and (year := _YEAR.search(original)):
        told = int(year.group()) >= this_year - OLDEST_AGE
        return year.group() if told else redacted(kind)
    if kind in (ADDRESS, LOCATION):
        # A number that begins an address is a house's.
        whole = original.strip()
        codes = [m[1] for m in _ZIP.finditer(whole) if m.start() > 0 or m.end() == len(whole)]
        if codes:
            prefix = codes[-1][:3]
            return f"{'000' if prefix in RESTRICTED_ZIP_PREFIXES else prefix}**"
    return redacted(kind)


def redacted(kind: str) -> str:
    """The kind alone.

    >>> redacted("US_SSN")
    '[US_SSN]'
    """
    return f"[{kind}]"


def read_replacement_policy(path: Path) -> ReplacementPolicy:
    """Read `deidentify.toml`; the defaults where there is none.

    Raises:
        MalformedInput: With the line or key that is wrong.
    """
    fix = f"correct {path.name}; docs/deidentification.md lists the keys"
    try:
        with path.open("rb") as file:
            data = file.read(MAX_SETTINGS_BYTES + 1)
    except FileNotFoundError:
        return STAND_INS
    try:
        if len(data) > MAX_SETTINGS_BYTES:
            raise MalformedInput(f"malformed {path.name}: too large", fix=fix)
        values = tomllib.loads(data.decode("utf-8"))
        if "format" not in values:
            raise MalformedInput(f"malformed {path.name}: format: missing", fix=fix)
        return ReplacementPolicy.model_validate(values)
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise MalformedInput(f"malformed {path.name}: {error}", fix=fix) from error
    except ValidationError as error:
        raise MalformedInput(f"malformed {path.name}: {first_problem(error)}", fix=fix) from error
