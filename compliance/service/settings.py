"""`compliance.toml`: what an operator may set."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from audit.errors import MalformedInput, NotFound
from compliance.statements import first_problem

FORMAT: Final = "fiduciary.compliance/1"
DEFAULT_DATABASE_URL: Final = "sqlite:///compliance.sqlite"

_TEMPLATE: Final = """\
# Settings of the compliance service, written by `compliance init`.
# trust.json repeats the port and the origin: do not change them here alone.
format = "{format}"
host = "{host}"
port = {port}
origin = "{origin}"
# SQLite beside this file, or for example postgresql+psycopg://user:password@host/database
database_url = "{database_url}"
"""


class Settings(BaseModel):
    """The settings of one service.

    Attributes:
        host: Address to listen on.
        port: Port to listen on.
        origin: Name of the log.
        database_url: SQLAlchemy URL; a relative SQLite path is relative to the folder.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["fiduciary.compliance/1"]
    host: str = Field(min_length=1, max_length=253, pattern=r"^[A-Za-z0-9.:_-]+$")
    port: int = Field(ge=1, le=65_535)
    origin: str = Field(min_length=1, max_length=200, pattern=r"^[A-Za-z0-9./:_-]+$")
    database_url: str = Field(
        default=DEFAULT_DATABASE_URL, min_length=1, max_length=2000, pattern=r'^[^"\\\s]+$'
    )

    def to_toml(self) -> str:
        """The file. No value can hold what TOML would need to escape."""
        return _TEMPLATE.format(**self.model_dump())


def make_settings(host: str, port: int, origin: str, database_url: str) -> Settings:
    """Settings from an operator's choices.

    Raises:
        MalformedInput: When one of them is not usable.
    """
    try:
        return Settings(
            format=FORMAT, host=host, port=port, origin=origin, database_url=database_url
        )
    except ValidationError as error:
        raise MalformedInput(f"malformed setting: {first_problem(error)}") from error


def read_settings(path: Path) -> Settings:
    """Read `compliance.toml`.

    Raises:
        NotFound: When there is none.
        MalformedInput: When it is not what it should be.
    """
    try:
        document = tomllib.loads(path.read_text("utf-8"))
        return Settings.model_validate(document)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFound(
            f"there is no compliance folder at {path.parent}",
            fix=f"make one: `compliance init {path.parent}`",
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise MalformedInput(f"malformed {path}: {error}") from error
    except ValidationError as error:
        raise MalformedInput(f"malformed {path}: {first_problem(error)}") from error
