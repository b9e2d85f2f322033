"""`compliance.toml`: what an operator may set."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from audit.errors import MalformedInput, NotFound
from compliance.rules import LIMITABLE_ROLES
from compliance.statements import Name, first_problem
from compliance.toml_file import load_toml

FORMAT: Final = "fiduciary.compliance/1"
DEFAULT_DATABASE_URL: Final = "sqlite:///compliance.sqlite"

_TEMPLATE: Final = """\
# Settings of the compliance service, written by `compliance init`.
# trust.json repeats the port and the origin: do not change them here alone.
format = "{format}"
host = "{host}"
port = {port}
origin = "{origin}"
# SQLite beside this file, or for example
# postgresql+psycopg://user@host/database?password_file=/run/secrets/database_password
database_url = "{database_url}"
"""


class RoleOfGroup(BaseModel):
    """`[[oidc.roles]]`: what membership in a group of the login provider gives.

    Attributes:
        group: The group, as the groups claim names it.
        role: coordinator, officer, auditor or consumer.
        sites: The role holds for these alone; for officer and auditor.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    group: str = Field(min_length=1, max_length=200)
    role: Literal["coordinator", "officer", "auditor", "consumer"]
    sites: tuple[Name, ...] = ()

    @model_validator(mode="after")
    def _limitable(self) -> Self:
        if self.sites and self.role not in LIMITABLE_ROLES:
            raise ValueError(f"the role {self.role} cannot be limited to sites")
        return self


class OidcSettings(BaseModel):
    """`[oidc]`: how people log in (docs/access.md).

    Attributes:
        issuer: Address of the OpenID provider, exactly as its tokens name it.
        client_id: This service's name at the provider.
        client_secret_file: File with this service's secret there, mode 0600; none for a public
            client.
        audience: Whom ID tokens must be for; the client_id unless given.
        name_claim: The claim that names a person.
        groups_claim: The claim that lists a person's groups.
        scopes: What the provider is asked for.
        session_minutes: How long a session lasts.
        ca_file: Certificate authority of the provider; the system's without it.
        roles: What each group gives.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    issuer: str = Field(pattern=r"^https://[^\s?#]+[^\s?#/]$", max_length=500)
    client_id: str = Field(min_length=1, max_length=200)
    client_secret_file: Path | None = None
    audience: str | None = Field(default=None, min_length=1, max_length=200)
    name_claim: str = Field(default="preferred_username", min_length=1, max_length=100)
    groups_claim: str = Field(default="groups", min_length=1, max_length=100)
    scopes: tuple[str, ...] = ("openid", "profile")
    session_minutes: int = Field(default=60, ge=5, le=720)
    ca_file: Path | None = None
    roles: tuple[RoleOfGroup, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _asks_for_identity(self) -> Self:
        if "openid" not in self.scopes:
            raise ValueError("scopes must hold openid")
        return self


class Settings(BaseModel):
    """The settings of one service.

    Attributes:
        host: Address to listen on.
        port: Port to listen on.
        origin: Name of the log.
        database_url: SQLAlchemy URL; a relative SQLite path is relative to the folder.
        require_site_certificates: An admitted site must show its certificate. False lets sites of
            version 0.1 go on with their token alone while they are updated.
        oidc: How people log in, if not by token alone.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["fiduciary.compliance/1"]
    host: str = Field(min_length=1, max_length=253, pattern=r"^[A-Za-z0-9.:_-]+$")
    port: int = Field(ge=1, le=65_535)
    origin: str = Field(min_length=1, max_length=200, pattern=r"^[A-Za-z0-9./:_-]+$")
    database_url: str = Field(
        default=DEFAULT_DATABASE_URL, min_length=1, max_length=2000, pattern=r'^[^"\\\s]+$'
    )
    require_site_certificates: bool = True
    oidc: OidcSettings | None = None

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
        return load_toml(path, Settings)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFound(
            f"there is no compliance folder at {path.parent}",
            fix=f"make one: `compliance init {path.parent}`",
        ) from error
