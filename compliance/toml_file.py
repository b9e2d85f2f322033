"""What people write as TOML: bounded, UTF-8, and refused by the line or the key that is wrong."""

from __future__ import annotations

import tomllib
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ValidationError

from audit.errors import MalformedInput
from compliance.statements import first_problem

MAX_SETTINGS_BYTES: Final = 64 * 1024
"""Settings are a few pages."""

Model = TypeVar("Model", bound=BaseModel)


def load_toml(
    path: Path,
    model: type[Model],
    *,
    limit_bytes: int = MAX_SETTINGS_BYTES,
    fix: str = "",
    format_stated: bool = False,
    exact: bool = False,
) -> Model:
    """Read a file.

    Args:
        path: The file.
        model: What it holds.
        limit_bytes: Its most bytes; never more are in memory.
        fix: What to do when it is malformed.
        format_stated: Whether it must say its `format`, although the model has a default.
        exact: Whether a number with a point is a `Decimal`, as it is written.

    Raises:
        OSError: When it is not there, or cannot be read: what that means, the caller knows.
        MalformedInput: With the line or key that is wrong.
    """
    with path.open("rb") as file:
        data = file.read(limit_bytes + 1)
    return parse_toml(
        data,
        model,
        path.name,
        limit_bytes=limit_bytes,
        fix=fix,
        format_stated=format_stated,
        exact=exact,
    )


def parse_toml(
    data: bytes,
    model: type[Model],
    name: str,
    *,
    limit_bytes: int = MAX_SETTINGS_BYTES,
    fix: str = "",
    format_stated: bool = False,
    exact: bool = False,
) -> Model:
    """Read a file's bytes; what they hold is checked.

    Args:
        data: UTF-8.
        model: What they hold.
        name: What to call them in errors.
        limit_bytes: How many they may be.
        fix: What to do when they are malformed.
        format_stated: Whether they must say their `format`, although the model has a default.
        exact: Whether a number with a point is a `Decimal`, as it is written.

    Raises:
        MalformedInput: With the line or key that is wrong.
    """
    values = parse_table(data, name, limit_bytes=limit_bytes, fix=fix, exact=exact)
    if format_stated and "format" not in values:
        raise MalformedInput(f"malformed {name}: format: missing", fix=fix)
    return check_table(values, model, name, fix=fix)


def parse_table(
    data: bytes,
    name: str,
    *,
    limit_bytes: int = MAX_SETTINGS_BYTES,
    fix: str = "",
    exact: bool = False,
) -> dict[str, Any]:
    """Read a file's bytes, whatever they hold; see `parse_toml`.

    Raises:
        MalformedInput: With the line that is wrong.
    """
    if len(data) > limit_bytes:
        raise MalformedInput(f"malformed {name}: more than {limit_bytes} bytes", fix=fix)
    try:
        return tomllib.loads(data.decode("utf-8"), parse_float=Decimal if exact else float)
    except UnicodeDecodeError as error:
        raise MalformedInput(f"malformed {name}: not UTF-8", fix=f"save {name} as UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        raise MalformedInput(f"malformed {name}: not TOML: {error}", fix=fix) from error


def check_table(values: dict[str, Any], model: type[Model], name: str, *, fix: str = "") -> Model:
    """Whether a table is what it should be.

    Raises:
        MalformedInput: With the key that is wrong.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise MalformedInput(f"malformed {name}: {first_problem(error)}", fix=fix) from error
