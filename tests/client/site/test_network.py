"""The site's own connections, against a TLS listener of the federation and one of a stranger."""

from __future__ import annotations

import http.server
import ipaddress
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from audit.errors import MalformedInput, NotFound, Unauthorised, Unreachable
from client.certificates import generate_node_key, read_node_key
from client.kit import Kit
from client.network import NetworkProbe, fleet_connector, open_service
from client.site import Site
from tests.client.site.counterparts import Coordinator, pem


class _Health(http.server.BaseHTTPRequestHandler):
    """Answers anything with 200 and a date."""

    def do_GET(self) -> None:
        peer = self.connection.getpeercert()
        self.server.peers.append(peer)  # type: ignore[attr-defined]
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        return None


def server_certificate(coordinator: Coordinator, key: ec.EllipticCurvePrivateKey) -> str:
    host = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(coordinator.authority.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.now(UTC) - timedelta(days=1))
        .not_valid_after(datetime.now(UTC) + timedelta(days=1))
        .add_extension(host, critical=True)
        .sign(coordinator.authority_key, hashes.SHA384())
    )
    return pem(certificate)


@contextmanager
def listening(folder: Path, coordinator: Coordinator) -> Iterator[tuple[str, list[Any]]]:
    """A TLS 1.3 listener of this coordinator that asks for client certificates."""
    folder.mkdir()
    key = generate_node_key()
    (folder / "key.pem").write_bytes(key)
    (folder / "cert.pem").write_text(server_certificate(coordinator, read_node_key(key)))
    (folder / "ca.pem").write_text(pem(coordinator.authority))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    context.load_verify_locations(folder / "ca.pem")
    context.verify_mode = ssl.CERT_OPTIONAL
    server = http.server.HTTPServer(("127.0.0.1", 0), _Health)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.peers = []  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}", server.peers  # type: ignore[attr-defined]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def at(site: Site, address: str, url: str = "https://127.0.0.1:1") -> Site:
    """The site, as if its kit named this address."""
    body = site.kit.body()
    trust = {**body["compliance"], "url": url}
    site.__dict__["kit"] = Kit.from_body({**body, "fleet_address": address, "compliance": trust})
    return site


def test_the_coordinator_is_reached_with_the_sites_certificate(
    tmp_path: Path, joined: Site, coordinator: Coordinator
) -> None:
    with listening(tmp_path / "fleet", coordinator) as (address, peers):
        NetworkProbe(at(joined, address)).reach_coordinator()
    assert peers[0]["subject"] == ((("commonName", "north"),),)


def test_a_stranger_at_the_address_is_noticed(tmp_path: Path, joined: Site) -> None:
    with listening(tmp_path / "fleet", Coordinator()) as (address, peers):
        with pytest.raises(Unauthorised, match="no certificate of this federation") as raised:
            NetworkProbe(at(joined, address)).reach_coordinator()
        assert "by telephone" in raised.value.fix
    assert peers == []


def test_nobody_at_the_address_is_unreachable(joined: Site) -> None:
    with pytest.raises(Unreachable, match="did not answer"):
        NetworkProbe(joined).reach_coordinator()
    with pytest.raises(Unreachable, match="did not answer"):
        NetworkProbe(joined).service_time()
    with pytest.raises(Unreachable):
        NetworkProbe(joined).site_view()


def test_a_certificate_of_another_key_is_named(joined: Site) -> None:
    joined.paths.node_key.write_bytes(generate_node_key())
    with pytest.raises(MalformedInput, match="cannot be used"):
        NetworkProbe(joined).reach_coordinator()


def test_another_certificate_than_the_pinned_one_is_no_service(
    tmp_path: Path, joined: Site, coordinator: Coordinator
) -> None:
    """Even one of the federation's own CA: the kit pins exactly one certificate."""
    with listening(tmp_path / "fleet", coordinator) as (address, _):
        site = at(joined, address, f"https://{address}")
        with pytest.raises(Unreachable):
            NetworkProbe(site).service_time()


def test_the_worker_needs_a_certificate_and_a_token(joined: Site, local: Site) -> None:
    assert callable(fleet_connector(joined))
    joined.paths.certificate.unlink()
    with pytest.raises(NotFound, match="has no certificate yet"):
        fleet_connector(joined)
    with pytest.raises(NotFound, match="has not joined"):
        open_service(local)
