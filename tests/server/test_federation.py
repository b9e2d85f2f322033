"""The federation folder, kits, admissions and revocations, with a real compliance service."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from audit.errors import (
    Conflict,
    FiduciaryError,
    MalformedInput,
    NotFound,
    Refused,
    Unauthorised,
    Unreachable,
    VerificationFailed,
)
from audit.keys import SigningKey
from audit.statement import SignedStatement, sign_statement, verify_statement
from client.kit import Kit, read_kit
from compliance.api import ComplianceClient
from compliance.statements import (
    CertificateRenewal,
    SiteAdmission,
    certificate_digest,
    utc_now,
)
from server import authority, sites
from server.errors import MalformedFederation
from server.federation import PRIVATE_FILES, Federation
from server.founding import create_federation, renew_server_certificate
from server.screens import show_checkpoints
from server.sites import admit, admitted, invite, renew
from tests.server.conftest import Service, free_ports, make_federation
from tests.server.scripted import enrol, request_for


@dataclass
class World:
    service: Service
    federation: Federation
    folder: Path


@pytest.fixture(scope="module")
def world(shared_service: Service, tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("world")
    return World(shared_service, make_federation(shared_service, folder / "federation"), folder)


def invited(world: World, name: str, **options: Any) -> Path:
    path = world.folder / f"{name}.kit"
    with world.federation.compliance() as compliance:
        invite(world.federation, compliance, name, path=path, **options)
    return path


# --- the folder ----------------------------------------------------------------------------------


def test_private_files_are_private_and_the_rest_is_not(world: World) -> None:
    root = world.federation.root
    assert stat.S_IMODE(root.stat().st_mode) == 0o700
    for name in PRIVATE_FILES:
        assert stat.S_IMODE((root / name).stat().st_mode) == 0o600, name
    holding_secrets = {root / name for name in PRIVATE_FILES}
    for path in root.rglob("*"):
        if path.is_file() and path not in holding_secrets:
            assert b"PRIVATE KEY" not in path.read_bytes(), path


def test_the_authority_signed_the_server_certificate(world: World) -> None:
    root = world.federation.root
    server = x509.load_pem_x509_certificate((root / "tls/certificate.pem").read_bytes())
    server.verify_directly_issued_by(world.federation.authority)
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert "localhost" in names.get_values_for_type(x509.DNSName)


def test_the_server_certificate_is_renewed_in_time(world: World) -> None:
    path = world.federation.root / "tls/certificate.pem"
    before, now = path.read_bytes(), datetime.now(UTC)
    assert not renew_server_certificate(world.federation, now)
    assert path.read_bytes() == before
    later = now + timedelta(days=authority.SERVER_DAYS - 20)
    assert renew_server_certificate(world.federation, later)
    old, new = (x509.load_pem_x509_certificate(pem) for pem in (before, path.read_bytes()))
    assert new.not_valid_after_utc > later + timedelta(days=authority.SERVER_DAYS - 1)
    assert new.public_key() == old.public_key()
    new.verify_directly_issued_by(world.federation.authority)
    with pytest.raises(MalformedFederation, match="CA ended"):
        renew_server_certificate(world.federation, now + timedelta(days=20 * 365))
    path.write_bytes(before)


@pytest.mark.parametrize("name", PRIVATE_FILES)
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666])
def test_a_private_file_that_is_open_to_others_stops_everything(
    world: World, name: str, mode: int
) -> None:
    path = world.federation.root / name
    path.chmod(mode)
    try:
        with pytest.raises(MalformedFederation, match="open to others") as refused:
            Federation.open(world.federation.root)
        assert refused.value.fix == f"chmod 600 {path}"
    finally:
        path.chmod(0o600)


def test_an_open_folder_and_a_missing_key_stop_everything(world: World) -> None:
    root = world.federation.root
    root.chmod(0o755)
    try:
        with pytest.raises(MalformedFederation, match="open to others"):
            Federation.open(root)
    finally:
        root.chmod(0o700)
    key = (root / "ca/key.pem").rename(root / "ca/away.pem")
    try:
        with pytest.raises(MalformedFederation, match="is missing"):
            Federation.open(root)
    finally:
        key.rename(root / "ca/key.pem")
    Federation.open(root)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('name = "demo"', 'name = "De mo"', "name"),
        ("fleet_port = ", "fleet_port = 9", "fleet_port"),
        ("fleet_port = ", "fleet_prt = ", "fleet_prt: unknown field|fleet_port"),
        ("poll_seconds = 1.0", "poll_seconds = 0", "poll_seconds"),
        ('format = "fiduciary.federation/1"', 'format = "other/1"', "format"),
        ("fleet_port = ", "[[", "malformed"),
    ],
)
def test_malformed_settings_name_the_field(world: World, old: str, new: str, said: str) -> None:
    path = world.federation.root / "federation.toml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    try:
        with pytest.raises(MalformedFederation, match=said) as refused:
            Federation.open(world.federation.root)
        assert str(path) in refused.value.fix
    finally:
        path.write_text(text)


def test_a_federation_that_keeps_no_model_says_so(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    show_checkpoints(world.federation, None, as_json=False)
    assert "no model is kept; kept_checkpoints in federation.toml" in capsys.readouterr().out
    show_checkpoints(world.federation, None, as_json=True)
    assert json.loads(capsys.readouterr().out) == []


def test_no_federation_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound) as missing:
        Federation.open(tmp_path)
    assert "server init" in missing.value.fix


def _create(world: World, folder: Path, **changes: Any) -> Federation:
    fleet, control = free_ports(2)
    options: dict[str, Any] = {
        "name": "demo",
        "trust_file": world.service.trust_file,
        "token_file": world.service.folder / "tokens" / "coordinator.token",
        "fleet_port": fleet,
        "control_port": control,
    }
    return create_federation(folder, **{**options, **changes})


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({}, Conflict),  # the service has its coordinator already
        ({"name": "De mo"}, MalformedInput),
        ({"host": "https://example.org"}, MalformedInput),
        ({"host": "a b"}, MalformedInput),
        ({"fleet_port": 0}, MalformedInput),
        ({"fleet_port": 9000, "control_port": 9000}, MalformedInput),
        ({"trust_file": Path("/nowhere/trust.json")}, NotFound),
        ({"token_file": Path("/nowhere/token")}, NotFound),
    ],
)
def test_a_failed_init_leaves_nothing(
    world: World, tmp_path: Path, changes: dict[str, Any], error: type[FiduciaryError]
) -> None:
    with pytest.raises(error):
        _create(world, tmp_path / "federation", **changes)
    assert list(tmp_path.iterdir()) == []


def test_init_with_a_wrong_token_or_no_service_leaves_nothing(world: World, tmp_path: Path) -> None:
    (tmp_path / "wrong.token").write_text("not-the-token-of-anybody\n")
    with pytest.raises(Unauthorised):
        _create(world, tmp_path / "federation", token_file=tmp_path / "wrong.token")
    trust = json.loads(world.service.trust_file.read_text())
    (port,) = free_ports(1)
    (tmp_path / "trust.json").write_text(json.dumps({**trust, "url": f"https://127.0.0.1:{port}"}))
    with pytest.raises(Unreachable):
        _create(world, tmp_path / "federation", trust_file=tmp_path / "trust.json")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["trust.json", "wrong.token"]


def test_init_leaves_an_existing_folder_alone(world: World, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(Conflict, match="exists already"):
        _create(world, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


# --- kits ----------------------------------------------------------------------------------------


def test_a_kit_holds_what_a_site_needs_and_nothing_secret_but_its_token(world: World) -> None:
    path = invited(world, "reader")
    read = read_kit(path.read_bytes(), now=datetime.now(UTC))
    assert read.fingerprint == world.federation.fingerprint
    assert read.kit.site == "reader"
    assert read.kit.fleet_address == world.federation.fleet_address
    assert read.kit.trust == world.federation.trust
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert b"PRIVATE" not in path.read_bytes()


def test_an_expired_kit_is_refused_by_its_reader_and_by_the_service(
    world: World, tmp_path: Path
) -> None:
    path = invited(world, "expired", hours=1)
    later = datetime.now(UTC) + timedelta(hours=1, seconds=1)
    with pytest.raises(Refused, match="expired"):
        read_kit(path.read_bytes(), now=later)
    past = datetime.now(UTC) - timedelta(hours=2)
    kit = tmp_path / "past.kit"
    with world.federation.compliance() as compliance, pytest.raises(FiduciaryError):
        invite(world.federation, compliance, "past", path=kit, hours=1, now=past)
    assert list(tmp_path.iterdir()) == []


def _payload(change: Callable[[dict[str, Any]], dict[str, Any]]) -> Callable[[bytes], bytes]:
    def altered(data: bytes) -> bytes:
        statement = SignedStatement.from_json(json.loads(data))
        forged = sign_statement(change(statement.body), SigningKey.generate("forger"))
        return json.dumps(SignedStatement(forged.payload, statement.signatures).to_json()).encode()

    return altered


@pytest.mark.parametrize(
    "alter",
    [
        _payload(lambda kit: {**kit, "fleet_address": "evil.example:9443"}),
        _payload(lambda kit: {**kit, "site": "other"}),
        _payload(lambda kit: {**kit, "expires_at": "2099-01-01T00:00:00Z"}),
        lambda data: data[:-40],
        lambda data: b"{}",
        lambda data: b"",
    ],
)
def test_an_altered_kit_is_refused(world: World, alter: Callable[[bytes], bytes]) -> None:
    path = world.folder / "altered.kit"
    if not path.exists():
        invited(world, "altered")
    with pytest.raises((VerificationFailed, MalformedInput)):
        read_kit(alter(path.read_bytes()), now=datetime.now(UTC))


def test_a_kit_that_somebody_else_signed_has_another_fingerprint(world: World) -> None:
    """Whoever replaces the kit as a whole is caught by the call."""
    kit = read_kit(invited(world, "replaced").read_bytes(), now=datetime.now(UTC)).kit
    forger = SigningKey.generate("demo/coordinator")
    forged = Kit.from_body({**kit.body(), "coordinator_key": forger.public.encoded()})
    data = json.dumps(sign_statement(forged.body(), forger).to_json()).encode()
    assert read_kit(data, now=datetime.now(UTC)).fingerprint != world.federation.fingerprint
    with pytest.raises(VerificationFailed, match="fingerprint"):
        read_kit(data, now=datetime.now(UTC), expected_fingerprint=world.federation.fingerprint)


def test_a_kit_works_once(world: World, tmp_path: Path) -> None:
    path = invited(world, "once")
    enrol(path, tmp_path / "first")
    with pytest.raises(FiduciaryError) as refused:
        enrol(path, tmp_path / "second")
    assert not isinstance(refused.value, Unreachable)
    with world.federation.compliance() as compliance:
        assert [view.state for view in compliance.sites() if view.name == "once"] == ["pending"]


@pytest.mark.parametrize("name", ["St Elm", "", "../etc", "a" * 65, "-x"])
def test_a_site_name_that_is_none_is_refused(world: World, name: str, tmp_path: Path) -> None:
    with world.federation.compliance() as compliance, pytest.raises(MalformedInput):
        invite(world.federation, compliance, name, path=tmp_path / "x.kit")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("hours", [0, -1, 10_000])
def test_an_invitation_has_a_sensible_life(world: World, hours: int, tmp_path: Path) -> None:
    with world.federation.compliance() as compliance, pytest.raises(MalformedInput, match="hours"):
        invite(world.federation, compliance, "long", path=tmp_path / "x.kit", hours=hours)


def test_a_kit_is_never_overwritten(world: World) -> None:
    invited(world, "kept")
    with pytest.raises(Conflict, match="exists already"):
        invited(world, "kept")


# --- admission -----------------------------------------------------------------------------------


def test_an_admitted_site_has_a_certificate_for_its_own_key(world: World, tmp_path: Path) -> None:
    files = enrol(invited(world, "admitted"), tmp_path / "site")
    with world.federation.compliance() as compliance:
        view = admit(world.federation, compliance, "admitted")
        again = admit(world.federation, compliance, "admitted")
        assert (view.state, again.certificate) == ("approved", view.certificate)
        with pytest.raises(Conflict, match="enrolled already"):
            invite(world.federation, compliance, "admitted", path=tmp_path / "again.kit")
        record = admitted(world.federation, compliance.site("admitted"))
    files.fetch_certificate()
    certificate = x509.load_pem_x509_certificate(files.certificate.read_bytes())
    certificate.verify_directly_issued_by(world.federation.authority)
    key = authority.load_private_key(files.key.read_bytes())
    assert certificate.public_key() == key.public_key()
    assert record is not None
    assert record.identity == files.identity.public
    assert record.node_key == authority.public_pem(certificate)


def test_an_unknown_site_cannot_be_admitted(world: World) -> None:
    with world.federation.compliance() as compliance, pytest.raises(NotFound):
        admit(world.federation, compliance, "nobody")


def test_a_revoked_site_cannot_be_admitted_or_act(world: World, tmp_path: Path) -> None:
    files = enrol(invited(world, "leaver"), tmp_path / "site")
    with world.federation.compliance() as compliance:
        admit(world.federation, compliance, "leaver")
        assert compliance.revoke_site("leaver", reason="left").state == "revoked"
        with pytest.raises(Refused, match="was revoked"):
            admit(world.federation, compliance, "leaver")
    with pytest.raises(Unauthorised):
        files.fetch_certificate()


def test_a_register_that_names_another_key_is_not_believed(world: World, tmp_path: Path) -> None:
    enrol(invited(world, "tampered"), tmp_path / "site")
    with world.federation.compliance() as compliance:
        view = compliance.site("tampered")

        class Tampered:
            """A compliance service whose register was changed."""

            def __init__(self, **changes: Any) -> None:
                self.changes = changes

            def site(self, name: str) -> Any:
                return view.model_copy(update=self.changes)

        other = authority.make_authority("x", authority.generate_key(), datetime.now(UTC))
        for changes in (
            {"node_key": authority.public_pem(other)},
            {"state": "approved"},  # this coordinator never admitted it
            {"identity_key": SigningKey.generate("x/identity").public.encoded()},
            {"statement": sign_statement(view.statement.body, SigningKey.generate("x"))},
            {"enrolment": "sha256:" + "0" * 64},
        ):
            with pytest.raises(VerificationFailed):
                admit(world.federation, Tampered(**changes), "tampered")  # type: ignore[arg-type]
        admit(world.federation, compliance, "tampered")
        impostor = SigningKey.generate("tampered/identity").public.encoded()
        with pytest.raises(VerificationFailed, match="names other keys"):
            admitted(world.federation, view.model_copy(update={"identity_key": impostor}))


def test_an_admission_that_was_interrupted_is_taken_up_again(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record is written before the service hears of it."""
    enrol(invited(world, "halfway"), tmp_path / "site")
    with world.federation.compliance() as compliance:

        def fail(*_: object) -> None:
            raise Unreachable("gone")

        with monkeypatch.context() as patch:
            patch.setattr(compliance, "approve_site", fail)
            with pytest.raises(Unreachable):
                admit(world.federation, compliance, "halfway")
        record = admitted(world.federation, compliance.site("halfway"))
        assert record is not None
        view = admit(world.federation, compliance, "halfway")
    assert view.state == "approved"
    assert view.certificate == record.certificate


def test_a_site_gets_its_next_certificate_once_and_for_its_own_key_alone(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = enrol(invited(world, "renewed"), tmp_path / "site")
    now = datetime.now(UTC)
    with world.federation.compliance() as compliance:
        # Admitted long ago, so that the certificate ends in eleven weeks.
        first = admit(world.federation, compliance, "renewed", now=now - timedelta(days=320))
        files.fetch_certificate()
        key = authority.load_private_key(files.key.read_bytes())

        def asked(signer: SigningKey = files.identity, **changes: Any) -> SignedStatement:
            body = {
                "federation": "demo",
                "site": "renewed",
                "certificate": certificate_digest(first.certificate or ""),
                "certificate_request": request_for("renewed", key),
                "requested_at": utc_now(),
                **changes,
            }
            return sign_statement(CertificateRenewal.from_body(body).body(), signer)

        record = admitted(world.federation, first)
        assert record is not None
        for forged, error in (
            (asked(SigningKey.generate("renewed/identity")), VerificationFailed),
            (asked(certificate_request=request_for("renewed", authority.generate_key())), Refused),
            (asked(certificate="sha256:" + "0" * 64), Refused),
            (asked(site="another"), Refused),
        ):
            view = first.model_copy(update={"renewal": forged})
            with pytest.raises(error):
                renew(world.federation, compliance, view, record, now)
        view = first.model_copy(update={"renewal": asked()})
        with pytest.raises(Refused, match="last 120 days"):
            renew(world.federation, compliance, view, record, now - timedelta(days=200))
        assert admitted(world.federation, first) == record  # nothing was issued

        certificate = (files.certificate, files.key)
        with ComplianceClient(files.kit.trust, files.token, certificate=certificate) as site:
            site.request_renewal("renewed", asked())
        view = compliance.site("renewed")
        with monkeypatch.context() as patch:

            def fail(*_: object) -> None:
                raise Unreachable("gone")

            patch.setattr(compliance, "renew_site", fail)
            with pytest.raises(Unreachable):
                renew(world.federation, compliance, view, record, now)
        issued = admitted(world.federation, view)
        assert issued is not None
        assert renew(world.federation, compliance, view, issued, now) == issued  # the same again
    files.fetch_certificate()
    renewed = x509.load_pem_x509_certificate(files.certificate.read_bytes())
    renewed.verify_directly_issued_by(world.federation.authority)
    assert renewed.not_valid_after_utc > now + timedelta(days=390)
    assert authority.public_pem(renewed) == record.node_key == issued.node_key
    assert (issued.admitted_at, issued.format) == (record.admitted_at, "fiduciary.admitted-site/2")


def test_an_admission_is_signed_and_names_the_enrolment(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    enrol(invited(world, "signed"), tmp_path / "site")
    with world.federation.compliance() as compliance:
        sent: list[SignedStatement] = []
        approve = compliance.approve_site

        def remember(name: str, admission: SignedStatement) -> Any:
            sent.append(admission)
            return approve(name, admission)

        monkeypatch.setattr(compliance, "approve_site", remember)
        view = admit(world.federation, compliance, "signed")
    body = verify_statement(sent[0], world.federation.identity.public)
    assert SiteAdmission.from_body(body).enrolment == view.enrolment
    assert sites.require_site_name("signed") == "signed"
