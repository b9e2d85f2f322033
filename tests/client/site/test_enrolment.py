"""Joining: every way in which it fails, what stays on the disk, and that it can go on."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from audit.errors import (
    Conflict,
    FiduciaryError,
    MalformedInput,
    NotFound,
    Refused,
    Unreachable,
    VerificationFailed,
)
from client.enrolment import Joined, Waiting, join
from client.policy import parse_policy
from client.site import Site
from tests.client.site.counterparts import (
    SITE_TOKEN,
    TOKEN,
    Coordinator,
    FakeCompliance,
    make_kit,
    write_kit,
)

Join = Callable[..., Joined]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "site"


@pytest.fixture
def enter(kit: Path, folder: Path, compliance: FakeCompliance, at_once: Waiting) -> Join:
    """`client join` with everything in its place; keywords change it."""

    def call(kit_file: Path = kit, **options: Any) -> Joined:
        return join(
            kit_file,
            options.pop("folder", folder),
            connect=options.pop("connect", compliance.connect),
            waiting=options.pop("waiting", at_once),
            **options,
        )

    return call


def actions(folder: Path) -> list[str]:
    with Site.open(folder) as site:
        return [leaf.action for leaf in site.journal.leaves()]


def test_join_ends_admitted(enter: Join, compliance: FakeCompliance, folder: Path) -> None:
    compliance.polls_until_admitted = 2
    slept: list[float] = []
    said: list[str] = []
    joined = enter(
        waiting=Waiting(60, slept.append, lambda: datetime.now(UTC)), announce=said.append
    )
    assert joined.stage == "admitted"
    assert len(slept) == 2
    with Site.open(folder) as site:
        assert site.token == SITE_TOKEN
        assert site.kit.token == TOKEN
        assert site.trust == compliance.trust
        assert compliance.views["north"].identity_key == site.identity.public.encoded()
        assert site.paths.certificate.read_text() == compliance.views["north"].certificate
    assert actions(folder) == ["site-created", "site-enrolled", "site-admitted"]
    assert any("server admit north" in line for line in said)


def test_private_keys_stay(enter: Join, compliance: FakeCompliance, folder: Path) -> None:
    enter()
    secrets = [folder / "keys" / "identity.pem", folder / "keys" / "node.pem"]
    sent = compliance.views["north"].model_dump_json()
    for path in secrets:
        material = path.read_text().split("-----")[2].strip()
        assert material.replace("\n", "") not in sent.replace("\\n", "")


def test_a_fresh_policy_refuses(enter: Join, folder: Path) -> None:
    enter()
    policy = parse_policy((folder / "policy.toml").read_bytes())
    assert policy.purposes == ()


def test_pending_is_no_failure_and_goes_on(
    enter: Join, compliance: FakeCompliance, folder: Path
) -> None:
    assert enter().stage == "pending"
    assert not (folder / "keys" / "certificate.pem").exists()
    compliance.admit("north")
    assert enter().stage == "admitted"
    assert actions(folder) == ["site-created", "site-enrolled", "site-admitted"]


def test_going_on_needs_no_unexpired_kit(enter: Join, compliance: FakeCompliance) -> None:
    enter()
    compliance.admit("north")
    later = Waiting(0, lambda _: None, lambda: datetime.now(UTC) + timedelta(days=30))
    assert enter(waiting=later).stage == "admitted"


def test_an_expired_kit_leaves_nothing(
    enter: Join, tmp_path: Path, coordinator: Coordinator, compliance: FakeCompliance, folder: Path
) -> None:
    stale = write_kit(tmp_path / "stale.kit", make_kit(coordinator, compliance.trust, hours=-1))
    with pytest.raises(Refused, match="expired"):
        enter(stale)
    assert not folder.exists()
    assert compliance.spent == {}


def test_an_altered_kit_leaves_nothing(enter: Join, kit: Path, folder: Path) -> None:
    kit.write_text(kit.read_text().replace('"payload": "ey', '"payload": "eZ'))
    with pytest.raises(VerificationFailed):
        enter()
    assert not folder.exists()


def test_another_fingerprint_leaves_nothing(enter: Join, folder: Path) -> None:
    with pytest.raises(VerificationFailed, match="fingerprint"):
        enter(expected_fingerprint="ab" * 32)
    assert not folder.exists()


def test_a_missing_kit_is_not_found(enter: Join, tmp_path: Path, folder: Path) -> None:
    with pytest.raises(NotFound, match="cannot read the kit"):
        enter(tmp_path / "nowhere.kit")
    assert not folder.exists()


def test_a_used_kit_leaves_no_folder(
    enter: Join, compliance: FakeCompliance, tmp_path: Path, folder: Path
) -> None:
    enter()
    with pytest.raises(Conflict, match="used already"):
        enter(folder=tmp_path / "second")
    assert not (tmp_path / "second").exists()
    assert folder.exists()


@pytest.mark.parametrize(
    "error",
    [
        Conflict("a site of this name is enrolled already"),
        Refused("the kit has expired"),
        MalformedInput("malformed request"),
        VerificationFailed("altered"),
    ],
)
def test_a_refused_enrolment_leaves_no_folder(
    enter: Join, compliance: FakeCompliance, folder: Path, error: FiduciaryError
) -> None:
    compliance.fail["enrol"] = error
    with pytest.raises(type(error)):
        enter()
    assert not folder.exists()


def test_an_absent_service_leaves_a_folder_that_goes_on(
    enter: Join, compliance: FakeCompliance, folder: Path
) -> None:
    compliance.fail["enrol"] = Unreachable("no route", fix="start it")
    with pytest.raises(Unreachable, match="not finished") as raised:
        enter()
    assert "same command again" in raised.value.fix
    assert enter().stage == "pending"


def test_a_lost_answer_loses_no_kit(enter: Join, compliance: FakeCompliance, folder: Path) -> None:
    """The token is spent, its answer never arrived: the same statement is sent again."""
    compliance.fail_after["enrol"] = Unreachable("connection reset")
    with pytest.raises(Unreachable):
        enter()
    spent = dict(compliance.spent)
    key = (folder / "keys" / "identity.pem").read_bytes()
    assert enter().stage == "pending"
    assert compliance.spent == spent
    assert (folder / "keys" / "identity.pem").read_bytes() == key


def test_a_new_kit_serves_a_folder_that_never_enrolled(
    enter: Join, compliance: FakeCompliance, tmp_path: Path, coordinator: Coordinator
) -> None:
    compliance.fail["enrol"] = Unreachable("no route")
    with pytest.raises(Unreachable):
        enter()
    again = make_kit(coordinator, compliance.trust, token="a-second-one-time-token")
    assert enter(write_kit(tmp_path / "again.kit", again)).stage == "pending"
    assert "a-second-one-time-token" in compliance.spent


def test_a_refusal_never_removes_a_folder_that_was_there(
    enter: Join, compliance: FakeCompliance, folder: Path
) -> None:
    """A site may hold data before it joins."""
    Site.create(folder, name="north", federation="hospitals").close()
    compliance.fail["enrol"] = Conflict("used")
    with pytest.raises(Conflict):
        enter()
    assert actions(folder) == ["site-created"]
    assert enter().stage == "pending"


@pytest.mark.parametrize("changes", [{"site": "south"}, {"federation": "banks"}])
def test_a_kit_for_another_site_leaves_the_folder_alone(
    enter: Join,
    compliance: FakeCompliance,
    tmp_path: Path,
    coordinator: Coordinator,
    changes: dict[str, Any],
) -> None:
    enter()
    other = write_kit(tmp_path / "other.kit", make_kit(coordinator, compliance.trust, **changes))
    with pytest.raises(Conflict, match="holds site north of federation hospitals"):
        enter(other)


def test_a_second_kit_for_an_enrolled_site_is_a_conflict(
    enter: Join, compliance: FakeCompliance, tmp_path: Path, coordinator: Coordinator
) -> None:
    enter()
    again = make_kit(coordinator, compliance.trust, token="a-second-one-time-token")
    with pytest.raises(Conflict, match="joined already"):
        enter(write_kit(tmp_path / "again.kit", again))


def test_a_revoked_site_is_told(enter: Join, compliance: FakeCompliance) -> None:
    enter()
    compliance.views["north"] = compliance.views["north"].model_copy(update={"state": "revoked"})
    with pytest.raises(Refused, match="revoked"):
        enter()


def _for_another_key(coordinator: Coordinator) -> Callable[[Any, str], str]:
    other = ec.generate_private_key(ec.SECP384R1()).public_key()
    return lambda _key, name: coordinator.certify(other, name)


def _for_another_name(coordinator: Coordinator) -> Callable[[Any, str], str]:
    return lambda key, _name: coordinator.certify(key, "south")


def _of_another_authority(coordinator: Coordinator) -> Callable[[Any, str], str]:
    stranger = ec.generate_private_key(ec.SECP384R1())
    return lambda key, name: coordinator.certify(key, name, signer=stranger)


def _for_a_server(coordinator: Coordinator) -> Callable[[Any, str], str]:
    return lambda key, name: coordinator.certify(key, name, for_server=True)


@pytest.mark.parametrize(
    ("certify", "problem"),
    [
        (_for_another_key, "another key"),
        (_for_another_name, "names south, not north"),
        (_of_another_authority, "not issued by this federation's CA"),
        (_for_a_server, "not for a TLS client"),
    ],
)
def test_a_certificate_that_is_not_this_sites_is_not_stored(
    enter: Join,
    compliance: FakeCompliance,
    coordinator: Coordinator,
    folder: Path,
    certify: Callable[[Coordinator], Callable[[Any, str], str]],
    problem: str,
) -> None:
    compliance.certify = certify(coordinator)
    compliance.polls_until_admitted = 0
    with pytest.raises(VerificationFailed, match=problem):
        enter()
    assert not (folder / "keys" / "certificate.pem").exists()
    compliance.certify = coordinator.certify
    assert enter().stage == "admitted"


def test_a_certificate_that_cannot_be_read_is_malformed(
    enter: Join, compliance: FakeCompliance
) -> None:
    compliance.certify = lambda _key, _name: "-----BEGIN CERTIFICATE-----"
    compliance.polls_until_admitted = 0
    with pytest.raises(MalformedInput, match="not a PEM certificate"):
        enter()
