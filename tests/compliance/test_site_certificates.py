"""Mutual TLS with sites: an admitted site's token works together with its own certificate alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP384R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from audit.errors import Conflict, MalformedInput, Unauthorised, Unreachable
from audit.statement import SignedStatement, sign_statement
from compliance import rules
from compliance.api import ComplianceClient
from compliance.statements import CertificateRenewal, certificate_digest
from tests.compliance.federation import Coordinator, Site, make_request
from tests.compliance.running import Clock, RunningService, running


def alone(service: RunningService, site: Site) -> ComplianceClient:
    """The site's token without its certificate, as a thief of the token has it."""
    return ComplianceClient(service.trust, site.token)


def with_certificate_of(
    service: RunningService, token: str | None, owner: Site, folder: Path
) -> ComplianceClient:
    certificate = service.certificate_of(owner.name)
    assert certificate is not None
    folder.mkdir(exist_ok=True)
    paths = (folder / f"{owner.name}.crt", folder / f"{owner.name}.key")
    paths[0].write_text(certificate)
    paths[1].write_bytes(
        owner.node_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    return ComplianceClient(service.trust, token, certificate=paths)


def test_a_sites_token_works_with_its_certificate_alone(
    service: RunningService, coordinator: Coordinator, tmp_path: Path
) -> None:
    north, south = Site("north"), coordinator.welcome("south")
    north.join(service, coordinator.invite("north"))
    with alone(service, north) as pending:
        assert pending.plans() == ()  # enrolment comes before the certificate
        coordinator.admit(north)
        with pytest.raises(Unauthorised, match="together with its certificate alone"):
            pending.plans()  # on a connection that is open already
        actor, action, _, payload = service.last_entry()
        assert (actor, action) == ("anonymous", "request.refused")
        assert payload["reason"] == "certificate-missing"
        assert pending.site("north").certificate is not None  # to fetch it, the token is enough
    with with_certificate_of(service, north.token, north, tmp_path) as admitted:
        assert admitted.plans() == ()
        assert admitted.access.identity().name == "site:north"
    with (
        with_certificate_of(service, north.token, south, tmp_path) as foreign,
        pytest.raises(Unauthorised, match="together with its certificate alone"),
    ):
        foreign.plans()
    assert service.last_entry()[3]["reason"] == "certificate-foreign"


def test_a_certificate_is_no_token_and_others_need_none(
    service: RunningService, north: Site, tmp_path: Path
) -> None:
    with (
        with_certificate_of(service, None, north, tmp_path) as nobody,
        pytest.raises(Unauthorised, match="needs a bearer token"),
    ):
        nobody.plans()
    with with_certificate_of(service, service.token("officer"), north, tmp_path) as officer:
        assert officer.access.identity().name == "officer"


def test_a_revoked_sites_certificate_opens_nothing(
    service: RunningService, north: Site, tmp_path: Path
) -> None:
    with with_certificate_of(service, north.token, north, tmp_path) as client:
        client.plans()
        service.as_("officer").revoke_site("north")
        with pytest.raises(Unauthorised, match="not valid"):
            client.plans()
    assert service.last_entry()[3]["reason"] == "token-revoked"


def test_a_certificate_that_no_site_was_admitted_with_is_refused_in_the_handshake(
    service: RunningService, coordinator: Coordinator, north: Site, tmp_path: Path
) -> None:
    stranger = Site("north")  # the same name by the same authority, but another key
    stranger.node_key = generate_private_key(SECP384R1())
    paths = (tmp_path / "stranger.crt", tmp_path / "stranger.key")
    paths[0].write_text(coordinator.certificate(stranger.node_key.public_key(), "north"))
    paths[1].write_bytes(
        stranger.node_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    with (
        ComplianceClient(service.trust, north.token, certificate=paths) as client,
        pytest.raises(Unreachable),
    ):
        client.plans()
    # Of the right certificate, without its key, nothing can be made.
    (tmp_path / "north.crt").write_text(service.certificate_of("north") or "")
    with pytest.raises(MalformedInput, match="no certificate and its key"):
        ComplianceClient(service.trust, north.token, certificate=(tmp_path / "north.crt", paths[1]))
    assert service.http().get("/health").status_code == 200


def test_certificates_are_known_after_a_restart(tmp_path: Path, clock: Clock) -> None:
    folder = tmp_path / "compliance"
    with running(folder, clock) as service:
        coordinator = Coordinator(service)
        coordinator.register()
        north = coordinator.welcome("north")
    with (
        running(folder, clock) as service,
        with_certificate_of(service, north.token, north, tmp_path) as client,
    ):
        assert client.plans() == ()


def test_sites_of_an_earlier_version_can_be_let_in_by_their_token(
    tmp_path: Path, clock: Clock
) -> None:
    folder = tmp_path / "compliance"
    with running(folder, clock) as service:
        coordinator = Coordinator(service)
        coordinator.register()
        north, south = coordinator.welcome("north"), coordinator.welcome("south")
    settings = folder / "compliance.toml"
    settings.write_text(settings.read_text() + "require_site_certificates = false\n")
    with running(folder, clock) as service:
        with alone(service, north) as client:
            assert client.plans() == ()
        with (
            with_certificate_of(service, north.token, south, tmp_path) as foreign,
            pytest.raises(Unauthorised, match="together with its certificate alone"),
        ):
            foreign.plans()


def test_the_rule() -> None:
    assert rules.may_come_by((), None, required=True) == rules.ALLOWED
    assert rules.may_come_by((b"n", b"o"), b"n", required=True) == rules.ALLOWED
    assert rules.may_come_by((b"n",), None, required=False) == rules.ALLOWED
    for shown, required in ((None, True), (b"s", True), (b"s", False)):
        ruling = rules.may_come_by((b"n",), shown, required=required)
        assert isinstance(ruling, rules.Refused)
        assert ruling.status == "unauthorised"


def renewal(service: RunningService, site: Site, **changes: Any) -> SignedStatement:
    """A site's request for the certificate after its present one."""
    body = {
        "federation": "hospitals",
        "site": site.name,
        "certificate": certificate_digest(service.certificate_of(site.name) or ""),
        "certificate_request": make_request(site.node_key, site.name),
        "requested_at": "2026-11-02T09:30:00Z",
        **changes,
    }
    return sign_statement(CertificateRenewal.from_body(body).body(), site.identity)


def test_a_certificate_is_renewed_and_the_one_before_works_on(tmp_path: Path, clock: Clock) -> None:
    folder = tmp_path / "compliance"
    with running(folder, clock) as service:
        coordinator = Coordinator(service)
        coordinator.register()
        north, south = coordinator.welcome("north"), coordinator.welcome("south")
        old = with_certificate_of(service, north.token, north, tmp_path)
        enrolment = old.site("north").enrolment

        def answer(request: SignedStatement, **changes: Any) -> SignedStatement:
            longer = coordinator.certificate(north.node_key.public_key(), "north", until=2031)
            fields = {"format": "fiduciary.admission/2", "renewal": request.digest, **changes}
            return coordinator.admission(north, enrolment, certificate=longer, **fields)

        with pytest.raises(Conflict, match="in its last 120 days"):
            old.request_renewal("north", renewal(service, north))
        clock.advance(days=3 * 365)
        with pytest.raises(Unauthorised, match="speaks for itself"):
            old.request_renewal("south", renewal(service, south))
        for changes in (
            {"certificate": "sha256:" + "0" * 64},
            {"certificate_request": make_request(generate_private_key(SECP384R1()), "north")},
            {"federation": "others"},
        ):
            with pytest.raises((Conflict, MalformedInput)):
                old.request_renewal("north", renewal(service, north, **changes))
        assert coordinator.api.site("north").renewal is None
        request = renewal(service, north)
        with pytest.raises(Conflict, match="no request that waits"):
            coordinator.api.renew_site("north", answer(request))
        position = old.request_renewal("north", request).position
        again = renewal(service, north, requested_at="2026-11-03T09:30:00Z")
        assert old.request_renewal("north", again).position == position  # one waits at a time
        view = coordinator.api.site("north")
        assert view.renewal == request
        assert view.certificate_ends_at == "2030-01-01T00:00:00.000Z"

        with pytest.raises(MalformedInput, match="ends no later"):
            coordinator.api.renew_site(
                "north",
                coordinator.admission(
                    north, enrolment, format="fiduciary.admission/2", renewal=request.digest
                ),
            )
        given = answer(request)
        view = coordinator.api.renew_site("north", given)
        assert coordinator.api.renew_site("north", given) == view  # the same call again
        assert (view.renewal, view.certificate_ends_at) == (None, "2031-01-01T00:00:00.000Z")
        assert service.last_entry()[1] == "site.renewed"
        assert old.plans() == ()
        with pytest.raises(Conflict, match="does not follow"):
            old.request_renewal("north", request)  # what was renewed is not renewed again
        old.close()
    with running(folder, clock) as service:
        new = with_certificate_of(service, north.token, north, tmp_path / "new")
        for certificate in (tmp_path / "north.crt", tmp_path / "new" / "north.crt"):
            paths = (certificate, tmp_path / "north.key")
            with ComplianceClient(service.trust, north.token, certificate=paths) as client:
                assert client.plans() == ()
        new.close()
        service.as_("officer").revoke_site("north")
        with (
            ComplianceClient(service.trust, north.token, certificate=paths) as client,
            pytest.raises(Unauthorised, match="not valid"),
        ):
            client.plans()


def test_a_session_outlives_renewals_and_an_older_certificate_leads_to_the_present_one(
    tmp_path: Path, clock: Clock
) -> None:
    folder = tmp_path / "compliance"
    with running(folder, clock) as service:
        coordinator = Coordinator(service)
        coordinator.register()
        north = coordinator.welcome("north")
        session = with_certificate_of(service, north.token, north, tmp_path)
        with_certificate_of(service, north.token, north, tmp_path / "restored").close()
        enrolment = session.site("north").enrolment
        for until in (2031, 2033):
            clock.advance(days=(until - 2 - clock().year) * 365 + 400)
            request = renewal(service, north)
            session.request_renewal("north", request)
            coordinator.api.renew_site(
                "north",
                coordinator.admission(
                    north,
                    enrolment,
                    certificate=coordinator.certificate(
                        north.node_key.public_key(), "north", until=until
                    ),
                    format="fiduciary.admission/2",
                    renewal=request.digest,
                ),
            )
            with_certificate_of(service, north.token, north, tmp_path).close()  # it is stored
        assert session.plans() == ()
        session.close()
    with running(folder, clock) as service:
        paths = (tmp_path / "restored" / "north.crt", tmp_path / "restored" / "north.key")
        with ComplianceClient(service.trust, north.token, certificate=paths) as client:
            with pytest.raises(Unreachable):
                client.plans()
            view = client.site("north", by_token_alone=True)
        assert view.certificate == (tmp_path / "north.crt").read_text()
