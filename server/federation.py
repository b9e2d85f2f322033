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

* `server.founding` makes the folder.
* `Federation.open` refuses private files that others may read, before it reads them.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import Field, ValidationError

from audit.durable import write_durably
from audit.errors import NotFound
from audit.keys import SigningKey
from client.kit import fingerprint
from compliance.api import ComplianceClient
from compliance.statements import Document, Name, Time, first_problem
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

COMPLIANCE_TIMEOUT_SECONDS = 10.0
"""Short, so that a coordinator that is asked to stop does not wait for a service that hangs."""

PRIVATE_FILES = (
    "identity.pem",
    "ca/key.pem",
    "tls/key.pem",
    "secrets/control.token",
    "secrets/compliance.token",
)

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
    """An existing federation folder. `Federation.open` opens one; `server.founding` makes one."""

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
