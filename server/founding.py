"""Making a federation's folder, and certifying its server again before the certificate ends.

* `create_federation` leaves a complete folder or none: it builds beside it and renames.
* The compliance service records who coordinates before the folder appears.
"""

from __future__ import annotations

import ipaddress
import re
import secrets
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from pydantic import ValidationError

from audit.durable import sync_directory, write_durably
from audit.errors import Conflict, MalformedInput
from audit.keys import SigningKey
from compliance.statements import first_problem, format_time
from compliance.tokens import read_token
from compliance.trust import Trust
from server import authority
from server.errors import MalformedFederation
from server.federation import (
    CONTROL_HOST,
    DEFAULT_CONTROL_PORT,
    DEFAULT_FLEET_PORT,
    Federation,
    Settings,
)

RENEWAL_DAYS = 30

_HOST = re.compile(r"^(?=.{1,253}$)[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9-]+)*$")


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
