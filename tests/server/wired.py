"""The embedded SuperLink behind its two real ports, without a compliance service."""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from client.flower import FleetConnection
from server import authority
from server.events import EventLog
from server.gate import ControlGate, PartnerGate
from server.listeners import Listeners, ServerTls, bind
from server.superlink import SuperLink
from tests.server.scripted import request_for

TOKEN = "the-coordinator's-own-token"


@dataclass(frozen=True)
class Authority:
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @classmethod
    def make(cls, name: str) -> Authority:
        key = authority.generate_key()
        return cls(key, authority.make_authority(name, key, datetime.now(UTC)))


@dataclass(frozen=True)
class NodeFiles:
    """A site's certificate and key, and whom it trusts."""

    name: str
    ca: Path
    certificate: Path
    key: Path

    @property
    def public_key(self) -> str:
        return authority.public_pem(x509.load_pem_x509_certificate(self.certificate.read_bytes()))


@dataclass
class Wired:
    link: SuperLink
    folder: Path
    federation: Authority
    partner_port: int
    control_port: int
    events: Path
    status: dict[str, Any] = field(default_factory=dict)

    @property
    def partner(self) -> str:
        return f"127.0.0.1:{self.partner_port}"

    def certify(self, name: str, by: Authority | None = None) -> NodeFiles:
        """Files of a site whose certificate some CA signed."""
        signer, key = by or self.federation, authority.generate_key()
        request = authority.read_request(request_for(name, key), name)
        certificate = authority.certify_site(
            name, request, signer.certificate, signer.key, datetime.now(UTC)
        )
        folder = self.folder / f"{name}-{len(list(self.folder.iterdir()))}"
        folder.mkdir()
        files = NodeFiles(
            name, self.folder / "ca.pem", folder / "certificate.pem", folder / "key.pem"
        )
        files.certificate.write_bytes(authority.certificate_pem(certificate))
        files.key.write_bytes(authority.private_pem(key))
        return files

    def admit(self, name: str) -> NodeFiles:
        """A certified site whose key is let in."""
        files = self.certify(name)
        self.link.register(name, files.public_key)
        return files

    def connect(self, files: NodeFiles, **options: Any) -> FleetConnection:
        return FleetConnection(self.partner, files.ca, files.certificate, files.key, **options)

    def http(self, port: int, files: NodeFiles | None = None) -> httpx.Client:
        """A plain HTTP client, with a client certificate or without."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cafile=self.folder / "ca.pem")
        if files is not None:
            context.load_cert_chain(files.certificate, files.key)
        return httpx.Client(
            base_url=f"https://127.0.0.1:{port}", verify=context, trust_env=False, timeout=10
        )

    def recorded(self) -> list[dict[str, Any]]:
        """The event log."""
        text = self.events.read_text() if self.events.exists() else ""
        return [json.loads(line) for line in text.splitlines()]


@contextmanager
def wired(folder: Path) -> Iterator[Wired]:
    """Serve an embedded SuperLink on two free loopback ports."""
    federation = Authority.make("demo")
    server_key = authority.generate_key()
    certificate = authority.certify_server(
        ["localhost", "127.0.0.1"],
        server_key.public_key(),
        federation.certificate,
        federation.key,
        datetime.now(UTC),
    )
    (folder / "ca.pem").write_bytes(authority.certificate_pem(federation.certificate))
    (folder / "server.pem").write_bytes(authority.certificate_pem(certificate))
    (folder / "server.key").write_bytes(authority.private_pem(server_key))
    link, events = SuperLink(TOKEN), EventLog(folder / "events.jsonl")
    control, partner = bind("127.0.0.1", 0, "control"), bind("127.0.0.1", 0, "fleet")
    made = Wired(
        link=link,
        folder=folder,
        federation=federation,
        partner_port=partner.getsockname()[1],
        control_port=control.getsockname()[1],
        events=folder / "events.jsonl",
    )
    with ExitStack() as stack:
        stack.enter_context(
            Listeners(
                ControlGate(link.application, TOKEN, lambda: made.status, events),
                PartnerGate(link.fleet, link, link.mailboxes, link.turns, events),
                control_socket=control,
                partner_socket=partner,
                tls=ServerTls(folder / "server.pem", folder / "server.key", folder / "ca.pem"),
                release=link.close,
            )
        )
        yield made
