"""Kits that are expired, reused, altered, unknown or for somebody else."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, SECP384R1, generate_private_key

from audit.errors import (
    Conflict,
    FiduciaryError,
    MalformedInput,
    Refused,
    Unauthorised,
    VerificationFailed,
)
from audit.keys import SigningKey
from audit.statement import SignedStatement, sign_statement
from tests.compliance.federation import Coordinator, Kit, Site, make_request
from tests.compliance.running import Clock, RunningService


def enrol(service: RunningService, kit: Kit, statement: SignedStatement) -> str:
    return (
        service.client()
        .enrol(token=kit.token, kit_sha256=kit.sha256, statement=statement)
        .site_token
    )


def refused(
    service: RunningService, kit: Kit, site: Site, kind: type[FiduciaryError], reason: str
) -> None:
    """The enrolment fails for that reason, is recorded, and changes nothing else."""
    before = service.tables()
    with pytest.raises(kind):
        enrol(service, kit, site.enrolment())
    after = service.tables()
    actor, action, name, payload = service.last_entry()
    assert (actor, action) == ("anonymous", "request.refused")
    assert name == "operation:POST /v1/enrolments"
    assert payload["reason"] == reason
    assert kit.token not in str(payload)
    for table in ("sites", "principals", "invitations", "statements"):
        assert after[table] == before[table], table


def test_a_site_joins_and_is_admitted(service: RunningService, coordinator: Coordinator) -> None:
    site = Site("north")
    site.join(service, coordinator.invite("north"))
    view = site.client(service).site("north")
    assert view.state == "pending"
    assert view.certificate is None
    assert view.identity_key == site.identity.public.encoded()
    coordinator.admit(site)
    view = site.client(service).site("north")
    assert view.state == "approved"
    assert view.certificate is not None


def test_a_pending_site_can_do_nothing_but_look(
    service: RunningService, coordinator: Coordinator
) -> None:
    site = Site("north")
    site.join(service, coordinator.invite("north"))
    with pytest.raises(Unauthorised, match="pending"):
        site.client(service).report_refusal(site.refusal())
    with pytest.raises(Unauthorised, match="pending"):
        site.client(service).report_erasure(site.erasure())


def test_an_unknown_token(service: RunningService, coordinator: Coordinator) -> None:
    kit = coordinator.invite("north")
    unknown = Kit("never-announced-token", kit.sha256)
    refused(service, unknown, Site("north"), Unauthorised, "kit-unknown")


def test_an_altered_kit(service: RunningService, coordinator: Coordinator) -> None:
    kit = coordinator.invite("north")
    refused(service, Kit(kit.token, "00" * 32), Site("north"), Refused, "kit-altered")
    enrol(service, kit, Site("north").enrolment())  # the kit itself is not spent by that


def test_an_expired_kit(service: RunningService, coordinator: Coordinator, clock: Clock) -> None:
    kit = coordinator.invite("north", hours=1)
    clock.advance(hours=1)
    refused(service, kit, Site("north"), Refused, "kit-expired")


def test_a_kit_for_another_site(service: RunningService, coordinator: Coordinator) -> None:
    refused(service, coordinator.invite("north"), Site("south"), Refused, "kit-for-another-site")


def test_a_reused_kit(service: RunningService, coordinator: Coordinator) -> None:
    kit = coordinator.invite("north")
    enrol(service, kit, Site("north").enrolment())
    refused(service, kit, Site("north"), Conflict, "kit-spent")


def test_a_second_site_of_the_same_name(service: RunningService, coordinator: Coordinator) -> None:
    coordinator.welcome("north")
    refused(service, coordinator.invite("north"), Site("north"), Conflict, "site-exists")


def test_another_sites_identity_key(service: RunningService, coordinator: Coordinator) -> None:
    north = coordinator.welcome("north")
    copy = Site("south")
    copy.identity = SigningKey("another-name", north.identity._private)
    refused(service, coordinator.invite("south"), copy, Conflict, "key-in-use")


def test_a_lost_answer_can_be_asked_for_again_for_a_while(
    service: RunningService, coordinator: Coordinator, clock: Clock
) -> None:
    kit, statement = coordinator.invite("north"), Site("north").enrolment()
    token = enrol(service, kit, statement)
    tables = service.tables()
    clock.advance(minutes=9)
    assert enrol(service, kit, statement) == token
    assert service.tables() == tables
    clock.advance(minutes=2)
    with pytest.raises(Conflict, match="used already"):
        enrol(service, kit, statement)


def test_an_enrolment_signed_by_another_key(
    service: RunningService, coordinator: Coordinator
) -> None:
    site = Site("north")
    body = site.enrolment().body
    forged = sign_statement(body, SigningKey.generate("forger"))
    with pytest.raises(VerificationFailed):
        enrol(service, coordinator.invite("north"), forged)
    assert service.last_entry()[3]["reason"] == "verification-failed"


def test_a_node_key_that_is_not_the_sites(
    service: RunningService, coordinator: Coordinator
) -> None:
    kit, site = coordinator.invite("north"), Site("north")
    swapped = make_request(generate_private_key(SECP384R1()), "x")
    good = make_request(site.node_key, "x")
    # The signature of one request under the public key of the other.
    lines = good.splitlines()
    broken = "\n".join([*lines[:-2], swapped.splitlines()[-2], lines[-1]]) + "\n"
    for request in ("no pem at all", make_request(generate_private_key(SECP256R1()), "x"), broken):
        with pytest.raises(MalformedInput, match="certificate_request"):
            enrol(service, kit, site.enrolment(certificate_request=request))


def test_admission_must_fit_the_enrolment(
    service: RunningService, coordinator: Coordinator
) -> None:
    site, other = Site("north"), Site("south")
    enrolment = site.join(service, coordinator.invite("north")).digest
    wrong_key = coordinator.certificate(other.node_key.public_key(), "north")
    for changes, reason in (
        ({"site": "south"}, "admission-mismatch"),
        ({"federation": "banks"}, "admission-mismatch"),
        ({"enrolment": "sha256:" + "1" * 64}, "admission-mismatch"),
        ({"certificate": wrong_key}, "certificate-mismatch"),
        ({"certificate": "no pem"}, "malformed-input"),
    ):
        body = {**coordinator.admission(site, enrolment).body, **changes}
        admission = coordinator.sign(body)
        with pytest.raises(MalformedInput):
            coordinator.api.approve_site("north", admission)
        assert service.last_entry()[3]["reason"] == reason
    forged = sign_statement(
        coordinator.admission(site, enrolment).body, SigningKey.generate("forger")
    )
    with pytest.raises(VerificationFailed):
        coordinator.api.approve_site("north", forged)
    coordinator.admit(site)
    with pytest.raises(Conflict, match="not pending"):
        coordinator.admit(site)


def test_a_revoked_sites_token_and_name_are_dead(
    service: RunningService, coordinator: Coordinator, north: Site
) -> None:
    service.as_("officer").revoke_site("north", reason="key lost")
    with pytest.raises(Unauthorised, match="not valid"):
        north.client(service).plans()
    assert coordinator.api.site("north").state == "revoked"
    refused(service, coordinator.invite("north"), Site("north"), Conflict, "site-exists")
    with pytest.raises(MalformedInput, match="not an approved site: north"):
        coordinator.api.submit_plan(coordinator.plan())


def test_the_coordinator_key_is_recorded_once(service: RunningService) -> None:
    first, second = Coordinator(service), Coordinator(service)
    with pytest.raises(Conflict, match="no coordinator key"):
        first.api.submit_plan(first.plan())
    first.register()
    first.register()
    with pytest.raises(Conflict, match="another coordinator key"):
        second.register()
    with pytest.raises(VerificationFailed):
        second.api.submit_plan(second.plan())


def test_an_invitation_has_a_sensible_life_and_one_meaning(
    service: RunningService, coordinator: Coordinator
) -> None:
    with pytest.raises(MalformedInput, match="past"):
        coordinator.invite("north", hours=-1)
    with pytest.raises(MalformedInput, match="at most 30 days"):
        coordinator.invite("north", hours=24 * 31)
    kit = coordinator.invite("north")
    coordinator.announce("north", kit)
    with pytest.raises(Conflict, match="announced already"):
        coordinator.announce("south", kit)
