"""`client check`: each check fails alone, with its own exit code and a remedy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from audit.errors import ExitCode, FiduciaryError, MalformedInput, Unauthorised, Unreachable
from audit.keys import SigningKey
from client.certificates import read_node_key
from client.preflight import Check, Preflight, exit_code_of
from client.site import Site
from client.vault import Vault
from compliance.resources import SiteView
from tests.client.site.counterparts import FakeCompliance
from tests.client.site.documents import (
    ZERO_DIGEST,
    add_dataset,
    make_limits,
    make_policy,
    make_reservation,
    policy_toml,
)


@dataclass
class FakeProbe:
    """`client.preflight.Probe`: answers from a fake service; a set error is raised instead."""

    compliance: FakeCompliance
    skew: timedelta = timedelta(0)
    coordinator_error: FiduciaryError | None = None
    calls: list[str] = field(default_factory=list)

    def service_time(self) -> datetime:
        return datetime.now(UTC) + self.skew

    def site_view(self) -> SiteView:
        return self.compliance.site("north")

    def reach_coordinator(self) -> None:
        self.calls.append("coordinator")
        if self.coordinator_error is not None:
            raise self.coordinator_error


@pytest.fixture
def ready(joined: Site) -> Site:
    """A site on which every check passes."""
    add_dataset(joined)
    joined.paths.policy.write_text(policy_toml(make_policy()))
    return joined


@pytest.fixture
def probe(compliance: FakeCompliance) -> FakeProbe:
    return FakeProbe(compliance)


def run(site: Site, probe: FakeProbe, *, days: float = 0, **options: Any) -> dict[str, Check]:
    preflight = Preflight(
        site,
        probe,
        lambda: datetime.now(UTC) + timedelta(days=days),
        options.get("load_model", lambda _folder: ZERO_DIGEST),
    )
    return {check.name: check for check in preflight.run()}


def failed(checks: dict[str, Check]) -> list[str]:
    return [name for name, check in checks.items() if check.outcome == "failed"]


def test_a_ready_site_passes_everything(ready: Site, probe: FakeProbe) -> None:
    checks = run(ready, probe)
    assert {check.outcome for check in checks.values()} == {"ok"}
    assert exit_code_of(tuple(checks.values())) == ExitCode.OK
    assert probe.calls == ["coordinator"]


def test_the_order_and_the_codes_are_stable(ready: Site, probe: FakeProbe) -> None:
    names = ["connection", "clock", "certificate", "keys", "model", "dataset", "policy", "budget"]
    names.append("compute")
    assert [(check.name, int(check.exit_code)) for check in run(ready, probe).values()] == list(
        zip(names, range(20, 29), strict=True)
    )


def _service_away(site: Site, probe: FakeProbe) -> None:
    probe.compliance.fail["site"] = Unreachable("no route", fix="start it")


def _coordinator_away(site: Site, probe: FakeProbe) -> None:
    probe.coordinator_error = Unreachable("no route", fix="start it")


def _stranger(site: Site, probe: FakeProbe) -> None:
    probe.coordinator_error = Unauthorised("another certificate", fix="compare")


def _revoked(site: Site, probe: FakeProbe) -> None:
    view = probe.compliance.views["north"]
    probe.compliance.views["north"] = view.model_copy(update={"state": "revoked"})


def _clock(site: Site, probe: FakeProbe) -> None:
    probe.skew = timedelta(seconds=-31)


def _no_certificate(site: Site, probe: FakeProbe) -> None:
    site.paths.certificate.unlink()


def _stolen_certificate(site: Site, probe: FakeProbe) -> None:
    other = ec.generate_private_key(ec.SECP384R1()).public_key()
    site.paths.certificate.write_text(probe.compliance.coordinator.certify(other, "north"))


def _expired_certificate(site: Site, probe: FakeProbe) -> None:
    own = read_node_key(site.paths.node_key.read_bytes()).public_key()
    coordinator = probe.compliance.coordinator
    site.paths.certificate.write_text(coordinator.certify(own, "north", since=9, days=-1))


def _early_certificate(site: Site, probe: FakeProbe) -> None:
    own = read_node_key(site.paths.node_key.read_bytes()).public_key()
    coordinator = probe.compliance.coordinator
    site.paths.certificate.write_text(coordinator.certify(own, "north", since=-9, days=90))


def _readable_key(site: Site, probe: FakeProbe) -> None:
    site.paths.identity.chmod(0o644)


def _readable_token(site: Site, probe: FakeProbe) -> None:
    site.paths.token.chmod(0o640)


def _other_identity(site: Site, probe: FakeProbe) -> None:
    view = probe.compliance.views["north"]
    key = SigningKey.generate(site.origin).public.encoded()
    probe.compliance.views["north"] = view.model_copy(update={"identity_key": key})


def _damaged_row(site: Site, probe: FakeProbe) -> None:
    with Vault.open(site.paths, site.keyring) as vault, vault.transaction() as connection:
        connection.execute("UPDATE records SET sealed = zeroblob(60) WHERE position = 3")


def _no_dataset(site: Site, probe: FakeProbe) -> None:
    with Vault.open(site.paths, site.keyring) as vault:
        vault.remove("notes")


def _silent_policy(site: Site, probe: FakeProbe) -> None:
    site.paths.policy.write_text(policy_toml(make_policy(purposes=[])))


def _spent(site: Site, probe: FakeProbe) -> None:
    with site.ledger() as ledger:
        ledger.reserve(make_reservation(rounds=5), make_limits("30"))


def _no_ledger(site: Site, probe: FakeProbe) -> None:
    site.paths.ledger.unlink()


@pytest.mark.parametrize(
    ("name", "break_it", "remedy"),
    [
        ("connection", _service_away, "start it"),
        ("connection", _coordinator_away, "start it"),
        ("connection", _stranger, "compare"),
        ("connection", _revoked, "ask the coordinator"),
        ("clock", _clock, "NTP"),
        ("certificate", _no_certificate, "client join"),
        ("certificate", _stolen_certificate, "server admit"),
        ("certificate", _expired_certificate, "client start"),
        ("certificate", _early_certificate, "NTP"),
        ("keys", _readable_key, "chmod"),
        ("keys", _readable_token, "chmod"),
        ("keys", _other_identity, "restore"),
        ("dataset", _damaged_row, "restore"),
        ("dataset", _no_dataset, "client data add"),
        ("policy", _silent_policy, "policy.toml"),
        ("budget", _spent, "justify"),
        ("budget", _no_ledger, "backup"),
    ],
)
def test_each_check_fails_alone(
    ready: Site,
    probe: FakeProbe,
    name: str,
    break_it: Callable[[Site, FakeProbe], None],
    remedy: str,
) -> None:
    break_it(ready, probe)
    checks = run(ready, probe)
    assert failed(checks) == [name]
    assert remedy in checks[name].fix
    assert exit_code_of(tuple(checks.values())) == checks[name].exit_code


def test_a_pending_site_is_told_whom_to_ask(
    ready: Site, probe: FakeProbe, compliance: FakeCompliance
) -> None:
    view = compliance.views["north"].model_copy(update={"state": "pending"})
    compliance.views["north"] = view
    checks = run(ready, probe)
    assert "server admit north" in checks["connection"].fix


def test_a_model_that_does_not_load_fails(ready: Site, probe: FakeProbe) -> None:
    def broken(folder: Path) -> str:
        raise MalformedInput("the base model does not load", fix="install it again")

    assert failed(run(ready, probe, load_model=broken)) == ["model"]


def test_own_models_are_looked_for(ready: Site, probe: FakeProbe) -> None:
    ready.paths.policy.write_text(policy_toml(make_policy(base_models=[ZERO_DIGEST])))
    assert run(ready, probe)["model"].outcome == "warning"
    (ready.paths.models / "tiny").mkdir(parents=True)
    assert run(ready, probe)["model"].outcome == "ok"


def test_a_certificate_that_expires_soon_warns(ready: Site, probe: FakeProbe) -> None:
    checks = run(ready, probe, days=280)
    assert checks["certificate"].outcome == "warning"
    assert "expires on" in checks["certificate"].detail
    assert failed(checks) == ["clock"]


def test_how_the_site_computes_is_told(ready: Site, probe: FakeProbe) -> None:
    assert "engine one_backward on cpu, fp32" in run(ready, probe)["compute"].detail
    ready.paths.compute.write_text('format = "fiduciary.compute/1"\ndevice = "cuda:99"\n')
    found = run(ready, probe)
    assert failed(found) == ["compute"]
    assert "cuda:99 is not here" in found["compute"].detail
    assert "compute.toml" in found["compute"].fix
    ready.paths.compute.write_text("device = ")
    assert failed(run(ready, probe)) == ["compute"]


def test_a_dataset_without_purpose_warns(ready: Site, probe: FakeProbe) -> None:
    add_dataset(ready, "older", purposes=())
    found = run(ready, probe)["dataset"]
    assert found.outcome == "warning"
    assert "--dataset older --purpose PURPOSE --replace" in found.fix


def test_a_purpose_without_dataset_warns(ready: Site, probe: FakeProbe) -> None:
    ready.paths.policy.write_text(policy_toml(make_policy(purposes=["billing"])))
    assert run(ready, probe)["policy"].outcome == "warning"


def test_an_unreadable_policy_fails_what_needs_it(ready: Site, probe: FakeProbe) -> None:
    ready.paths.policy.write_text("purposes = ,\n")
    checks = run(ready, probe)
    assert failed(checks) == ["model", "policy", "budget"]
    assert "line 1" in checks["policy"].detail


def test_one_failure_hides_no_other(ready: Site, probe: FakeProbe) -> None:
    for break_it in (_clock, _no_certificate, _no_ledger):
        break_it(ready, probe)
    checks = run(ready, probe)
    assert failed(checks) == ["clock", "certificate", "budget"]
    assert exit_code_of(tuple(checks.values())) == ExitCode.CHECK_CLOCK
