"""`requests.toml` in the compliance folder: what an operator decides about subjects' requests.

* Without the file nothing is offered to the public: an open door is somebody's decision.
* Days, holidays and time zone are the operator's; deadlines are the law's (`rules/deadlines.toml`).
"""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path
from typing import Annotated, Final, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from audit.errors import MalformedInput
from compliance.rules.deadlines import WorkingCalendar, deadline_book
from compliance.service.errors import ServiceUnavailable
from compliance.statements import Name
from compliance.subject_requests_views import Email, IdentityMethod
from compliance.toml_file import parse_toml

FILE: Final = "requests.toml"


def _zone(value: str) -> str:
    try:
        ZoneInfo(value)
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise ValueError("no such time zone") from error
    return value


def _known(value: tuple[str, ...]) -> tuple[str, ...]:
    known = deadline_book().jurisdictions
    unknown = sorted(set(value) - set(known))
    if unknown:
        raise ValueError(f"no deadlines for {unknown[0]}; there are some for {', '.join(known)}")
    return value


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class MailSettings(_Settings):
    """How mail leaves.

    Attributes:
        kind: `smtp`, or `files`, which writes messages into a folder for tests and laptops.
        sender: Whom it comes from.
        folder: Of `files`, beside this file.
        host: Of `smtp`.
        port: Of `smtp`.
        security: TLS from the first octet, or after STARTTLS. There is no mail in clear.
        user: Name for the server, where it wants one.
        password_file: File with the password, beside this file or with a whole path.
        certificate_authority: PEM file of who certifies the server, where the system does not know.
    """

    kind: Literal["smtp", "files"]
    sender: Email
    folder: Annotated[str, Field(min_length=1, max_length=500)] = "mail"
    host: Annotated[str, Field(pattern=r"^[A-Za-z0-9.:_-]{1,253}$")] = "localhost"
    port: Annotated[int, Field(ge=1, le=65_535)] = 465
    security: Literal["tls", "starttls"] = "tls"
    user: str = ""
    password_file: str = ""
    certificate_authority: str = ""


class SubjectSettings(_Settings):
    """What an operator decides.

    Attributes:
        public: Whether subjects may file requests without a token.
        jurisdictions: Under which laws they may.
        identity: How they may show who they are.
        identity_days: After so many days without proof a request expires.
        timezone: Whose days are counted.
        holidays: Days that are no working days, besides Saturdays and Sundays.
        remind_after_days: A site that has not answered is reminded each time so many days passed.
        address: Where subjects reach the service, for messages: `https://requests.example`.
        mail: How mail leaves; None where none does.
    """

    format: Literal["fiduciary.requests/1"] = "fiduciary.requests/1"
    public: bool = False
    jurisdictions: Annotated[tuple[Name, ...], AfterValidator(_known)] = ()
    identity: tuple[Literal["site-verified", "email-challenge"], ...] = ("site-verified",)
    identity_days: Annotated[int, Field(ge=1, le=366)] = 28
    timezone: Annotated[str, AfterValidator(_zone)] = "UTC"
    holidays: Annotated[tuple[date, ...], Field(max_length=1000)] = ()
    remind_after_days: Annotated[int, Field(ge=1, le=366)] = 3
    address: Annotated[str, Field(pattern=r"^(https://[A-Za-z0-9.:_\[\]-]+)?$")] = ""
    mail: MailSettings | None = None

    @property
    def working(self) -> WorkingCalendar:
        """The operator's days."""
        return WorkingCalendar(ZoneInfo(self.timezone), frozenset(self.holidays))

    @property
    def remind_after(self) -> timedelta:
        """How long a site is waited for, each time."""
        return timedelta(days=self.remind_after_days)

    def offers(self, jurisdiction: str, method: IdentityMethod) -> bool:
        """Whether the public may ask under this law and show who they are in this way."""
        if method == "email-challenge" and self.mail is None:
            return False
        known = method == "not-required" or method in self.identity
        return self.public and jurisdiction in self.jurisdictions and known


def parse_subject_settings(data: bytes) -> SubjectSettings:
    """Read the file.

    Raises:
        MalformedInput: With the line or key that is wrong.
    """
    fix = f"correct {FILE}"
    return parse_toml(data, SubjectSettings, FILE, fix=fix)


def subject_settings(folder: Path) -> SubjectSettings:
    """The settings as the file says now; what is wrong with it is the service's fault.

    Raises:
        ServiceUnavailable: When it cannot be read.
    """
    try:
        return parse_subject_settings((folder / FILE).read_bytes())
    except FileNotFoundError:
        return SubjectSettings()
    except (MalformedInput, OSError) as error:
        fix = getattr(error, "fix", "") or "check its permissions"
        raise ServiceUnavailable(
            f"{FILE} in the compliance folder cannot be used", fix=fix
        ) from error
