"""The coordinator's folder: one federation, its keys, its settings, and what its runs leave behind.

```
federation/                    (0700)
├── federation.toml            name, addresses, ports; yours to edit (`Settings`)
├── trust.json                 whom we believe to be the compliance service
├── identity.pem               Ed25519; signs kits, plans, admissions, rounds, releases   (0600)
├── ca/key.pem                 P-384; certifies sites and the server                      (0600)
├── ca/certificate.pem
├── models/signing.pem         P-384; signs the files of releases, made with the first    (0600)
├── tls/key.pem                P-384; the two ports                                       (0600)
├── tls/certificate.pem
├── secrets/control.token      bearer token of the control port                           (0600)
├── secrets/compliance.token   this coordinator's token at the compliance service         (0600)
├── sites/SITE.json            what was admitted: a site's keys, as we certified them
├── runs/PLAN/                 where each run stands, and its model (`server.runs`)
├── checkpoints/               models that later plans may start from (`server.checkpoints`)
├── releases/RELEASE/          what was released, before encryption
└── events.jsonl               calls to the two ports (`server.events`)
```

* `create_federation` leaves a complete folder or none: it builds beside it and renames.
* `Federation.open` refuses private files that others may read, before it reads them.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
import secrets
import shutil
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import Field, ValidationError

from audit.durable import sync_directory, write_durably
from audit.errors import Conflict, MalformedInput, NotFound
from audit.keys import SigningKey
from client.kit import fingerprint
from compliance.api import ComplianceClient
from compliance.statements import Document, Name, Time, first_problem, format_time
from compliance.trust import Trust
from server import authority
from server.checkpoints import Checkpoints
from server.errors import MalformedFederation

FEDERATION_ENVIRONMENT = "FIDUCIARY_FEDERATION"
"""Names the federation folder when no argument does."""

DEFAULT_FOLDER = "federation"
DEFAULT_FLEET_PORT = 9443
DEFAULT_CONTROL_PORT = 9444
CONTROL_HOST = "127.0.0.1"

RENEWAL_DAYS = 30

COMPLIANCE_TIMEOUT_SECONDS = 10.0
"""Short, so that a coordinator that is asked to stop does not wait for a service that hangs."""

PRIVATE_FILES = (
    "identity.pem",
    "ca/key.pem",
    "tls/key.pem",
    "secrets/control.token",
    "secrets/compliance.token",
)

_HOST = re.compile(r"^(?=.{1,253}$)[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9-]+)*$")

Port = Annotated[int, Field(ge=1, le=65535)]


class Settings(Document):
    """`federation.toml`.

    Attributes:
        name: The federation's name, in every kit and plan.
        created_at: When it was made.
        host: Name or address by which sites reach the partner port; it is in the certificate.
        bind: Address on which the partner port listens.
        fleet_port: The partner port.
        control_port: The control port; it listens on loopback only.
        poll_seconds: How often the compliance service is asked for plans and sites.
        kept_checkpoints: Of how many rounds of each plan the model is kept, sealed, so that a later
            plan may start from it; 0: of none.
    """

    format: Literal["fiduciary.federation/1"] = "fiduciary.federation/1"
    name: Name
    created_at: Time
    host: Annotated[str, Field(min_length=1, max_length=253)]
    bind: Annotated[str, Field(min_length=1, max_length=64)]
    fleet_port: Port = DEFAULT_FLEET_PORT
    control_port: Port = DEFAULT_CONTROL_PORT
    poll_seconds: Annotated[float, Field(ge=0.1, le=3600)] = 1.0
    kept_checkpoints: Annotated[int, Field(ge=0, le=1000)] = 8

    def to_toml(self) -> str:
        """The file's text. No value needs escaping: patterns and addresses only."""
        return (
            "# A federation's settings. Sites learn host and fleet_port from their kits:\n"
            "# change those before you invite anybody.\n"
            f'format = "{self.format}"\n'
            f'name = "{self.name}"\n'
            f'created_at = "{self.created_at}"\n\n'
            "# Where sites reach the partner port, and where it listens.\n"
            f'host = "{self.host}"\n'
            f'bind = "{self.bind}"\n'
            f"fleet_port = {self.fleet_port}\n\n"
            f"# The control port listens on {CONTROL_HOST} only.\n"
            f"control_port = {self.control_port}\n\n"
            "# How often the compliance service is asked for plans and sites.\n"
            f"poll_seconds = {self.poll_seconds}\n\n"
            "# Of how many rounds of each plan the model is kept, encrypted, for as long as the\n"
            "# plan may be: a retraining can start there. 0 keeps none and removes what there is.\n"
            f"kept_checkpoints = {self.kept_checkpoints}\n"
        )


@dataclass(frozen=True)
class Federation:
    """An existing federation folder. Make one with `create_federation` or `Federation.open`."""

    root: Path
    settings: Settings

    @classmethod
    def open(cls, root: Path) -> Federation:
        """Open a folder.

        Raises:
            NotFound: When there is none.
            MalformedFederation: When its settings cannot be read, or a private file is open to
                others.
        """
        root = root.absolute()
        path = root / "federation.toml"
        try:
            settings = Settings.model_validate(tomllib.loads(path.read_text("utf-8")))
        except FileNotFoundError as error:
            raise NotFound(
                f"there is no federation at {root}",
                fix="make one with `server init`, or name it with --dir or "
                f"{FEDERATION_ENVIRONMENT}",
            ) from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise MalformedFederation(f"malformed {path}: {error}", fix=f"edit {path}") from error
        except ValidationError as error:
            raise MalformedFederation(
                f"malformed {path}: {first_problem(error)}", fix=f"edit {path}"
            ) from error
        _require_private(root)
        return cls(root, settings)

    @property
    def fleet_address(self) -> str:
        """`host:port` of the partner port, as sites dial it."""
        host = self.settings.host
        return (
            f"[{host}]:{self.settings.fleet_port}"
            if ":" in host
            else (f"{host}:{self.settings.fleet_port}")
        )

    @cached_property
    def identity(self) -> SigningKey:
        """Signs everything that the coordinator states."""
        return SigningKey.load(self.root / "identity.pem")

    @cached_property
    def trust(self) -> Trust:
        """The compliance service."""
        return Trust.load(self.root / "trust.json")

    @cached_property
    def control_token(self) -> str:
        """Bearer token of the control port."""
        return self._secret("control.token")

    @cached_property
    def authority(self) -> x509.Certificate:
        """The CA's certificate."""
        return x509.load_pem_x509_certificate((self.root / "ca/certificate.pem").read_bytes())

    @property
    def authority_key(self) -> ec.EllipticCurvePrivateKey:
        """The CA's key."""
        return authority.load_private_key((self.root / "ca/key.pem").read_bytes())

    @property
    def model_signing_key(self) -> ec.EllipticCurvePrivateKey:
        """Signs the files of releases (`server.model_signature`); made when it is first asked for.

        Raises:
            MalformedFederation: When others may read it.
        """
        path = self.root / "models/signing.pem"
        path.parent.mkdir(mode=0o700, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            write_durably(path, authority.private_pem(authority.generate_key()), replace=False)
        _require_mode(path)
        return authority.load_private_key(path.read_bytes())

    @property
    def fingerprint(self) -> str:
        """What a site's operator compares by telephone (`client.kit.fingerprint`)."""
        return fingerprint(
            ca_certificate=authority.certificate_pem(self.authority).decode("ascii"),
            coordinator_key=self.identity.public.encoded(),
            compliance_certificate=self.trust.certificate,
            log_key=self.trust.log_key.encoded(),
        )

    @property
    def sites(self) -> Path:
        """Folder of the admitted sites."""
        return self.root / "sites"

    @property
    def runs(self) -> Path:
        """Folder of the runs."""
        return self.root / "runs"

    @property
    def checkpoints(self) -> Checkpoints:
        """Models that later plans may start from."""
        return Checkpoints(self.root / "checkpoints")

    @property
    def releases(self) -> Path:
        """Folder of the releases."""
        return self.root / "releases"

    @property
    def events(self) -> Path:
        """The event log."""
        return self.root / "events.jsonl"

    def compliance(self) -> ComplianceClient:
        """A new conversation with the compliance service, as coordinator."""
        return ComplianceClient(
            self.trust,
            self._secret("compliance.token"),
            timeout_seconds=COMPLIANCE_TIMEOUT_SECONDS,
        )

    def _secret(self, name: str) -> str:
        return (self.root / "secrets" / name).read_text("utf-8").strip()


def default_folder(environment: Mapping[str, str] | None = None) -> Path:
    """The folder to use when none is named: `$FIDUCIARY_FEDERATION`, else `./federation`."""
    settings = os.environ if environment is None else environment
    return Path(settings.get(FEDERATION_ENVIRONMENT) or DEFAULT_FOLDER)


def create_federation(
    root: Path,
    *,
    name: str,
    trust_file: Path,
    token_file: Path,
    host: str = CONTROL_HOST,
    fleet_port: int = DEFAULT_FLEET_PORT,
    control_port: int = DEFAULT_CONTROL_PORT,
) -> Federation:
    """Make a federation folder and tell the compliance service who coordinates it.

    Args:
        root: The folder; it must not exist, or be empty.
        name: The federation's name.
        trust_file: The compliance service's `trust.json`.
        token_file: The coordinator's token, as `compliance init` wrote it.
        host: Name or address by which sites will reach the coordinator.
        fleet_port: The partner port.
        control_port: The loopback port.

    Raises:
        Conflict: When the folder exists, or the service knows another coordinator.
        MalformedInput: When a name, address or file is not one.
        NotFound: When a file is missing.
        Unreachable: When the service does not answer.
    """
    root, now = root.absolute(), datetime.now(UTC)
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise Conflict(f"{root} exists already", fix="choose another folder, or remove this one")
    settings = _settings(name, host, fleet_port, control_port, now)
    trust, token = Trust.load(trust_file), read_token(token_file)
    root.parent.mkdir(parents=True, exist_ok=True)
    building = root.with_name(f".{root.name}.{secrets.token_hex(4)}")
    building.mkdir(mode=0o700)
    try:
        _write(building, settings, trust, token, now)
        with Federation(building, settings).compliance() as compliance:
            compliance.register_coordinator(Federation(building, settings).identity.public)
        building.rename(root)
        sync_directory(root.parent)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
    return Federation.open(root)


def renew_server_certificate(federation: Federation, now: datetime) -> bool:
    """Certify the server's key again when its certificate ends within `RENEWAL_DAYS`.

    Sites trust the CA, not this certificate, so they notice nothing.

    Returns:
        Whether it was renewed.

    Raises:
        MalformedFederation: When the CA itself has ended.
    """
    path = federation.root / "tls/certificate.pem"
    current = x509.load_pem_x509_certificate(path.read_bytes())
    if federation.authority.not_valid_after_utc <= now:
        raise MalformedFederation(
            f"the federation's CA ended at {federation.authority.not_valid_after_utc:%Y-%m-%d}",
            fix="make a new federation: server init",
        )
    if current.not_valid_after_utc - now > timedelta(days=RENEWAL_DAYS):
        return False
    key = authority.load_private_key((federation.root / "tls/key.pem").read_bytes())
    renewed = authority.certify_server(
        _names(federation.settings.host),
        key.public_key(),
        federation.authority,
        federation.authority_key,
        now,
    )
    write_durably(path, authority.certificate_pem(renewed), mode=0o644)
    return True


def _names(host: str) -> list[str]:
    return [host, "localhost", CONTROL_HOST, "::1"]


def _write(root: Path, settings: Settings, trust: Trust, token: str, now: datetime) -> None:
    for folder in ("ca", "tls", "secrets", "sites", "runs", "releases"):
        (root / folder).mkdir(mode=0o700)
    authority_key, server_key = authority.generate_key(), authority.generate_key()
    certificate = authority.make_authority(settings.name, authority_key, now)
    server = authority.certify_server(
        _names(settings.host), server_key.public_key(), certificate, authority_key, now
    )
    SigningKey.generate(f"{settings.name}/coordinator").save(root / "identity.pem")
    write_durably(root / "ca/key.pem", authority.private_pem(authority_key))
    write_durably(root / "tls/key.pem", authority.private_pem(server_key))
    write_durably(root / "secrets/control.token", f"{secrets.token_urlsafe(32)}\n".encode())
    write_durably(root / "secrets/compliance.token", f"{token}\n".encode())
    public = {
        "ca/certificate.pem": authority.certificate_pem(certificate),
        "tls/certificate.pem": authority.certificate_pem(server),
        "federation.toml": settings.to_toml().encode("utf-8"),
    }
    for path, data in public.items():
        write_durably(root / path, data, mode=0o644)
    trust.save(root / "trust.json")


def _settings(name: str, host: str, fleet_port: int, control_port: int, now: datetime) -> Settings:
    try:
        settings = Settings(
            name=name,
            created_at=format_time(now),
            host=host,
            bind=_bind_address(host),
            fleet_port=fleet_port,
            control_port=control_port,
        )
    except ValidationError as error:
        raise MalformedInput(
            f"malformed federation: {first_problem(error)}",
            fix="names are 1 to 64 of a-z 0-9 . _ -; ports are 1 to 65535",
        ) from error
    if fleet_port == control_port:
        raise MalformedInput(
            f"both ports are {fleet_port}", fix="choose another --fleet-port or --control-port"
        )
    return settings


def _bind_address(host: str) -> str:
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        pass
    if host == "localhost":
        return CONTROL_HOST
    if not _HOST.match(host):
        raise MalformedInput(
            f"malformed host {host!r}", fix="give a DNS name or an IP address, without a port"
        )
    return "0.0.0.0"  # noqa: S104 - partners reach a named host from outside; the gate stands there


def read_token(path: Path) -> str:
    """A bearer token from a file.

    Raises:
        NotFound: When there is no file.
        MalformedInput: When it does not hold one line.
    """
    try:
        token = path.read_text("utf-8").strip()
    except (FileNotFoundError, IsADirectoryError) as error:
        raise NotFound(
            f"there is no token at {path}",
            fix="pass --token-file with the coordinator.token that `compliance init` wrote",
        ) from error
    except UnicodeDecodeError as error:
        raise MalformedInput(f"malformed token {path}") from error
    if not token or any(character.isspace() for character in token):
        raise MalformedInput(f"malformed token {path}", fix="it holds one line")
    return token


def _require_private(root: Path) -> None:
    for path in (root, *(root / name for name in PRIVATE_FILES)):
        try:
            mode = stat.S_IMODE(path.stat().st_mode)
        except FileNotFoundError as error:
            raise MalformedFederation(
                f"malformed federation: {path} is missing", fix="restore it from a backup"
            ) from error
        _require_mode(path, mode)


def _require_mode(path: Path, mode: int | None = None) -> None:
    mode = stat.S_IMODE(path.stat().st_mode) if mode is None else mode
    if mode & 0o077:
        wanted = "700" if path.is_dir() else "600"
        raise MalformedFederation(
            f"{path} is open to others (mode {mode:03o})", fix=f"chmod {wanted} {path}"
        )
