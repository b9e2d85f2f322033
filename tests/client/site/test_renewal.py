"""The site's certificate is renewed before it ends, by itself."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Self

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from audit.errors import Unauthorised, Unreachable, VerificationFailed
from audit.statement import verify_statement
from client import timers, worker
from client.renewal import Renewal, present_certificate
from client.site import Site
from client.status import read_expiry
from client.worker import Ending
from compliance.presentation import print_sites
from compliance.statements import CertificateRenewal, certificate_digest
from tests.client.site.counterparts import FakeCompliance
from tests.client.site.fleet import FakeFleet
from tests.client.site.world import World

DAYS = 300
"""How long certificates of the fake coordinator last."""


class Moment:
    """A clock that moves when told to."""

    def __init__(self) -> None:
        self.now = datetime.now(UTC)

    def __call__(self) -> datetime:
        return self.now


def actions(site: Site) -> list[str]:
    return [leaf.action for leaf in site.journal.leaves() if leaf.action.startswith("site-renew")]


def test_a_certificate_is_asked_for_in_time_and_fetched(
    joined: Site, compliance: FakeCompliance
) -> None:
    moment = Moment()
    renewal = Renewal(joined, compliance, moment)
    first = joined.paths.certificate.read_text()
    compliance.fail["site"] = Unreachable("nobody is asked before it is time")
    assert not renewal.tend()
    moment.now += timedelta(days=DAYS - 59)
    with pytest.raises(Unreachable):
        renewal.tend()
    for _ in range(2):
        assert not renewal.tend()  # asked once, however often it looks
    assert actions(joined) == ["site-renewal-requested"]
    request = compliance.views["north"].renewal
    assert request is not None
    asked = CertificateRenewal.from_body(verify_statement(request, joined.identity.public))
    assert asked.certificate == certificate_digest(first)

    compliance.renew("north", days=2 * DAYS)
    assert renewal.tend()
    assert joined.paths.certificate.read_text() == compliance.views["north"].certificate != first
    assert actions(joined) == ["site-renewal-requested", "site-renewed"]
    assert not renewal.tend()


def test_what_is_no_renewal_is_not_stored(joined: Site, compliance: FakeCompliance) -> None:
    moment = Moment()
    moment.now += timedelta(days=DAYS - 59)
    renewal = Renewal(joined, compliance, moment)
    first = joined.paths.certificate.read_bytes()
    compliance.renew("north", days=DAYS - 1)
    with pytest.raises(VerificationFailed, match="ends no later"):
        renewal.tend()

    foreign = compliance.coordinator.certify(
        ec.generate_private_key(ec.SECP384R1()).public_key(), "north", days=2 * DAYS
    )
    view = compliance.views["north"]
    compliance.views["north"] = view.model_copy(update={"certificate": foreign})
    with pytest.raises(VerificationFailed, match="another key"):
        renewal.tend()
    assert joined.paths.certificate.read_bytes() == first


def test_the_end_is_shown_and_warned_of(
    joined: Site, compliance: FakeCompliance, capsys: pytest.CaptureFixture[str]
) -> None:
    certificate = present_certificate(joined)
    assert certificate is not None
    end = certificate.not_valid_after_utc
    far, near, over = (read_expiry(joined, end - timedelta(days=days)) for days in (31, 29, -1))
    assert far is not None
    assert near is not None
    assert over is not None
    assert (far["soon"], near["soon"], near["days_left"], over["days_left"]) == (
        False,
        True,
        29,
        -1,
    )
    joined.paths.certificate.unlink()
    assert read_expiry(joined) is None
    for ends_at, said in (
        ("2999-01-01T00:00:00.000Z", "2999-01-01"),
        ("2020-01-01T00:00:00.000Z", "ended, has not asked for the next"),
    ):
        view = compliance.views["north"].model_copy(update={"certificate_ends_at": ends_at})
        print_sites([view])
        assert said in " ".join(capsys.readouterr().out.split())


class Strict(FakeFleet):
    """A coordinator that lets nobody in by a certificate that has ended."""

    def __init__(self, world: World, now: datetime, *, answers_at: int | None) -> None:
        super().__init__()
        self._world, self._now, self._answers_at = world, now, answers_at
        self.turned_away = 0

    def connect(self, on_malformed: Callable[[str, str], None]) -> Self:
        certificate = present_certificate(self._world.site)
        assert certificate is not None
        if certificate.not_valid_after_utc > self._now:
            return super().connect(on_malformed)
        self.turned_away += 1
        if self.turned_away == self._answers_at:
            self._world.compliance.renew("north", days=3 * DAYS)
        raise Unauthorised("certificate expired")


def test_a_site_that_slept_past_the_end_of_its_certificate_comes_back_by_itself(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timers, "ENDED_SECONDS", 0.0)
    monkeypatch.setattr(worker, "UNAUTHORISED_SECONDS", 0.0)
    now = datetime.now(UTC) + timedelta(days=DAYS + 100)
    world.fleet = fleet = Strict(world, now, answers_at=3)
    world.train(0)
    world.compliance.asked_by_token_alone.clear()
    assert world.run(now=lambda: now) is Ending.STOPPED
    assert (fleet.turned_away, len(fleet.replies)) == (3, 1)
    assert actions(world.site) == ["site-renewal-requested", "site-renewed"]
    assert any("the next one is asked for" in line for line in world.notes.lines)
    # The service may know the old certificate no more.
    assert world.compliance.asked_by_token_alone == [True] * 4


def test_a_site_that_may_not_renew_does_not_wait_for_ever(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timers, "ENDED_SECONDS", 0.0)
    monkeypatch.setattr(worker, "UNAUTHORISED_SECONDS", 0.0)
    now = datetime.now(UTC) + timedelta(days=DAYS + 100)
    world.fleet = Strict(world, now, answers_at=None)
    world.compliance.fail["site"] = Unauthorised("the token is not valid")
    with pytest.raises(Unauthorised, match="certificate expired"):
        world.run(now=lambda: now)


def test_a_worker_dials_again_with_its_new_certificate(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timers, "RENEWAL_SECONDS", 0.0)
    now = datetime.now(UTC) + timedelta(days=DAYS - 59)
    first = world.site.paths.certificate.read_text()

    def coordinator_answers() -> None:
        assert world.compliance.views["north"].renewal is not None
        world.compliance.renew("north", days=2 * DAYS)

    world.fleet.tasks.append(coordinator_answers)
    world.train(0)
    assert world.run(now=lambda: now) is Ending.STOPPED
    assert world.fleet.connections == 2
    assert len(world.fleet.replies) == 1  # the round after it is trained as any other
    assert world.site.paths.certificate.read_text() != first
    assert "the node certificate was renewed" in world.notes.lines
