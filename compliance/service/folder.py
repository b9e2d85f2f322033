"""The compliance folder: made whole or not at all, and checked before every start.

```
compliance.toml             settings
trust.json                  public: hand it to everyone
compliance.sqlite           state and log (or a database elsewhere, by database_url)
keys/log.pem                Ed25519: signs checkpoints and decisions
keys/tls.pem                P-384: TLS; its certificate is keys/tls-certificate.pem
keys/release.pem            X25519: opens the data keys of releases
keyring/                    data keys of log entries
releases/                   ciphertexts
organisation.toml           what only you can state in reports; the officer's to write
retention.toml              which laws end retention; the officer's to write (docs/retention.md)
tokens/NAME.token           the first principals' tokens; the database has their hashes only
```

* `create_folder` builds everything in a temporary folder beside the target and renames it: an
  interrupted `compliance init` leaves no folder that looks usable.
* `open_registry` refuses key files that others may read, keys that do not belong to `trust.json`,
  a database at another revision than this version works on, and a log whose stored tree is not the
  one that its last checkpoint signed.
"""

from __future__ import annotations

import shutil
import socket
import ssl
import stat
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from sqlalchemy.exc import SQLAlchemyError

from audit.durable import sync_directory, write_durably
from audit.errors import (
    Conflict,
    FiduciaryError,
    MalformedInput,
    NotFound,
    Refused,
    VerificationFailed,
)
from audit.hpke import create_private_key, load_private_key
from audit.keyring import Keyring
from audit.keys import SigningKey
from audit.log import AuditLog
from audit.ownership import denied
from compliance.reports.organisation import FILE as ORGANISATION_FILE
from compliance.reports.organisation import template
from compliance.rules.logins import GroupRole
from compliance.rules.registers import default_law
from compliance.service.certificates import self_signed
from compliance.service.content import ContentFolder
from compliance.service.database import Database
from compliance.service.errors import ServiceUnavailable
from compliance.service.identities import hash_token
from compliance.service.login import LoginDesk
from compliance.service.provider import Provider
from compliance.service.registry import Registry, new_token
from compliance.service.schema import check_schema, make_tables
from compliance.service.settings import (
    DEFAULT_DATABASE_URL,
    OidcSettings,
    make_settings,
    read_settings,
)
from compliance.service.tables import PrincipalRow
from compliance.trust import Trust
from compliance.wire import Role

FIRST_PRINCIPALS: Final[tuple[Role, ...]] = ("coordinator", "officer", "auditor")
"""Made by `init`, each named after its only role."""


@dataclass(frozen=True)
class Folder:
    """Paths in a compliance folder."""

    path: Path

    @property
    def settings(self) -> Path:
        """Where and over which database to serve."""
        return self.path / "compliance.toml"

    @property
    def trust(self) -> Path:
        """The public facts."""
        return self.path / "trust.json"

    @property
    def log_key(self) -> Path:
        """Signs checkpoints and decisions."""
        return self.path / "keys" / "log.pem"

    @property
    def tls_key(self) -> Path:
        """The TLS key."""
        return self.path / "keys" / "tls.pem"

    @property
    def certificate(self) -> Path:
        """The TLS certificate."""
        return self.path / "keys" / "tls-certificate.pem"

    @property
    def release_key(self) -> Path:
        """Opens the data keys of releases."""
        return self.path / "keys" / "release.pem"

    @property
    def keyring(self) -> Path:
        """Data keys of log entries."""
        return self.path / "keyring"

    @property
    def releases(self) -> Path:
        """Ciphertexts of releases."""
        return self.path / "releases"

    def token(self, name: str) -> Path:
        """The token file of a first principal."""
        return self.path / "tokens" / f"{name}.token"


@dataclass(frozen=True)
class NewService:
    """What `compliance init` is asked for.

    Attributes:
        host: Address to listen on.
        port: Port to listen on; 0 picks a free one now and keeps it.
        public_host: Name or address under which others reach the service.
        origin: Name of the log, unique in the world.
        database_url: SQLAlchemy URL.
    """

    host: str
    port: int
    public_host: str
    origin: str
    database_url: str = DEFAULT_DATABASE_URL


def create_folder(target: Path, new: NewService, clock: Callable[[], datetime]) -> Folder:
    """Make a compliance folder with its keys, database, log and first principals.

    Raises:
        Conflict: When the target holds something already.
        MalformedInput: When a setting is not usable.
        ServiceUnavailable: When the database cannot be used.
        FiduciaryError: When the folder cannot be written.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise Conflict(
            f"{target} exists already and is not empty",
            fix="start it with `compliance start`, or choose another folder",
        )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with partial_folder(target) as partial:
            _build(Folder(partial), new, clock)
            partial.replace(target)
        sync_directory(target.parent)
    except PermissionError as error:
        raise denied(error) from error
    except OSError as error:
        raise FiduciaryError(
            f"cannot make {target}: {error.strerror or error}",
            fix="check the disk's free space and your permission to write there",
        ) from error
    except SQLAlchemyError as error:
        raise ServiceUnavailable(
            f"the database cannot be used: {type(error).__name__}",
            fix="check database_url, and that the database is empty",
        ) from error
    return Folder(target)


@contextmanager
def partial_folder(target: Path) -> Iterator[Path]:
    """A private folder beside the target, which is gone afterwards unless it was renamed."""
    partial = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.partial-"))
    try:
        yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _build(folder: Folder, new: NewService, clock: Callable[[], datetime]) -> None:
    port = new.port or _free_port(new.host)
    settings = make_settings(new.host, port, new.origin, new.database_url)
    if settings.database_url == DEFAULT_DATABASE_URL:
        # SQLite gives its journals the mode of the database, whose contents are nobody else's.
        write_durably(folder.path / "compliance.sqlite", b"")
    for part in ("keys", "tokens", "releases"):
        (folder.path / part).mkdir(mode=0o700)
    signer = SigningKey.generate(new.origin)
    signer.save(folder.log_key)
    release_key = create_private_key(folder.release_key)
    hosts = dict.fromkeys((new.public_host, "127.0.0.1", "localhost"))
    tls_key, certificate = self_signed(tuple(hosts), clock())
    tls_pem = tls_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    write_durably(folder.tls_key, tls_pem)
    certificate_pem = certificate.public_bytes(Encoding.PEM)
    write_durably(folder.certificate, certificate_pem, mode=0o644)
    trust = Trust(
        url=f"https://{_url_host(new.public_host)}:{port}",
        certificate=certificate_pem.decode("ascii"),
        origin=new.origin,
        log_key=signer.public,
        release_key=release_key.public_key().public_bytes_raw(),
    )
    trust.save(folder.trust)
    write_durably(folder.settings, settings.to_toml().encode("utf-8"))
    write_durably(folder.path / ORGANISATION_FILE, template(default_law()).encode("utf-8"))
    keyring = Keyring.create(folder.keyring)
    registry = Registry(
        trust=trust,
        database=Database(settings.database_url, folder.path),
        log=AuditLog(new.origin, signer, keyring, clock),
        signer=signer,
        release_key=release_key,
        keyring=keyring,
        content=ContentFolder(folder.releases),
        clock=clock,
        folder=folder.path,
    )
    try:
        _found(registry, folder)
    finally:
        registry.close()


def _found(registry: Registry, folder: Folder) -> None:
    """Begin the log and the first principals, in one transaction."""
    make_tables(registry.database)
    with registry.writing(None) as transaction:
        transaction.actor = "compliance"
        registry.log.create(transaction.storage)
        transaction.record(
            "service.created",
            f"key:{registry.signer.public.key_id}",
            {"trust": registry.trust.to_json()},
        )
        for role in FIRST_PRINCIPALS:
            token = new_token()
            write_durably(folder.token(role), f"{token}\n".encode("ascii"))
            transaction.record("principal.added", f"principal:{role}", {"roles": [role]})
            transaction.session.add(
                PrincipalRow(
                    name=role,
                    roles=role,
                    token_sha256=hash_token(token),
                    created_by=transaction.actor,
                    created_at=transaction.time,
                )
            )


def open_registry(folder: Folder, clock: Callable[[], datetime]) -> Registry:
    """Open a compliance folder for service.

    Raises:
        NotFound: When the folder or a file of it is missing.
        Refused: When a secret file may be read by others.
        MalformedInput: When a file is not what it should be.
        VerificationFailed: When the log is not the one that was signed, or keys do not belong.
        Conflict: When the database is not at the revision that this version works on, or is moved
            to another one just now.
    """
    registry = load_registry(folder, clock)
    try:
        registry.database.serve()
        check_schema(registry)
        with registry.reading() as session:
            registry.log.check(registry.storage(session))
        registry.content.remove_partial()
        oidc = read_settings(folder.settings).oidc
        if oidc is not None:
            registry = replace(registry, login=_open_login(oidc, folder.path, registry))
    except BaseException:
        registry.close()
        raise
    return registry


def _open_login(oidc: OidcSettings, folder: Path, registry: Registry) -> LoginDesk:
    """The login provider of `compliance.toml`. It is not asked anything yet."""
    secret = None
    if oidc.client_secret_file is not None:
        path = folder / oidc.client_secret_file
        _check_secret_files((path,))
        secret = path.read_text("utf-8").strip()
    ca_file = None if oidc.ca_file is None else folder / oidc.ca_file
    try:
        provider = Provider(oidc.issuer, oidc.client_id, secret, ca_file, registry.clock)
    except (OSError, ssl.SSLError) as error:
        raise MalformedInput(
            f"malformed {ca_file}: not a PEM certificate", fix="check ca_file in [oidc]"
        ) from error
    return LoginDesk(
        provider,
        registry.keyring,
        audience=oidc.audience or oidc.client_id,
        name_claim=oidc.name_claim,
        groups_claim=oidc.groups_claim,
        scopes=oidc.scopes,
        given=[GroupRole(entry.group, entry.role, entry.sites) for entry in oidc.roles],
        session=timedelta(minutes=oidc.session_minutes),
        clock=registry.clock,
    )


def load_registry(folder: Folder, clock: Callable[[], datetime]) -> Registry:
    """A compliance folder's keys and settings, checked; its database is not looked at yet.

    Raises:
        NotFound: When the folder or a file of it is missing.
        Refused: When a secret file may be read by others.
        MalformedInput: When a file is not what it should be.
        VerificationFailed: When keys do not belong.
    """
    settings = read_settings(folder.settings)
    wrapping_keys = sorted(folder.keyring.glob("*.key"))
    _check_secret_files((folder.log_key, folder.tls_key, folder.release_key, *wrapping_keys))
    trust = Trust.load(folder.trust)
    signer = SigningKey.load(folder.log_key)
    release_key = load_private_key(folder.release_key)
    if signer.public != trust.log_key or trust.origin != settings.origin:
        raise _foreign_key(folder.log_key)
    if release_key.public_key().public_bytes_raw() != trust.release_key:
        raise _foreign_key(folder.release_key)
    if folder.certificate.read_text("utf-8") != trust.certificate:
        raise _foreign_key(folder.certificate)
    keyring = Keyring.open(folder.keyring)
    return Registry(
        trust=trust,
        database=Database(settings.database_url, folder.path),
        log=AuditLog(settings.origin, signer, keyring, clock),
        signer=signer,
        release_key=release_key,
        keyring=keyring,
        content=ContentFolder(folder.releases),
        clock=clock,
        folder=folder.path,
        require_site_certificates=settings.require_site_certificates,
    )


def _check_secret_files(paths: Sequence[Path]) -> None:
    for path in paths:
        try:
            mode = path.stat().st_mode
        except FileNotFoundError as error:
            raise NotFound(
                f"{path} is missing",
                fix="restore it from the backup: without it the service is not itself",
            ) from error
        if stat.S_IMODE(mode) & 0o077:
            raise Refused(
                f"{path} can be read or changed by others",
                fix=f"chmod 600 {path}; if that is news to you, treat the key as stolen",
            )


def _foreign_key(path: Path) -> VerificationFailed:
    return VerificationFailed(
        f"{path} does not belong to trust.json",
        fix="restore the folder from one backup: its files belong together",
    )


def _free_port(host: str) -> int:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def _url_host(host: str) -> str:
    return f"[{host}]" if ":" in host else host
