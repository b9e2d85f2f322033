"""What the service keeps of its log's witnesses, and what it refuses to keep."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from datetime import timedelta

import pytest
from sqlalchemy import insert, text, update
from sqlalchemy.orm import Session

from audit.checkpoint import Checkpoint, read_checkpoint, sign_checkpoint, verify_checkpoint
from audit.cosignature import WitnessKey, cosign, only_lines_of, verify_cosignature, with_lines
from audit.errors import FiduciaryError, MalformedInput, Unauthorised, Unreachable
from audit.keys import SigningKey
from audit.log import CHECKPOINT_BLOCK
from audit.merkle import verify_consistency
from audit.note import Note, NoteSignature
from compliance.log_views import WitnessView
from compliance.rules import Bearer
from compliance.service.errors import ServiceUnavailable
from compliance.service.tables import PlanSiteRow, SiteRow
from compliance.service.witnessing import keep_cosignature, witnessing
from tests.compliance.federation import Coordinator, Site
from tests.compliance.running import Clock, RunningService


def head_of(service: RunningService) -> str:
    """The newest head with the log's own line only."""
    note = service.as_("auditor").checkpoint()
    return only_lines_of(note, service.trust.log_key)


def cosigned(service: RunningService, site: Site, note: str | None = None, **ago: float) -> str:
    """A head as a site cosigns it."""
    shown = head_of(service) if note is None else note
    seconds = int((service.clock() - timedelta(**ago)).timestamp())
    return with_lines(shown, [cosign(shown, site.identity, seconds)])


def send(service: RunningService, site: Site, note: str | None = None) -> WitnessView:
    shown = cosigned(service, site) if note is None else note
    return site.client(service).cosign(shown)


def log_size(service: RunningService) -> int:
    return len(service.entries())


def grow(service: RunningService, coordinator: Coordinator) -> None:
    """One entry more."""
    coordinator.invite(f"guest-{log_size(service)}")


def stored(service: RunningService) -> list[tuple[str, int]]:
    return [(row[0], row[1]) for row in service.tables()["log_cosignatures"]]


def test_a_head_comes_with_the_proof_that_it_extends_an_earlier_one(
    service: RunningService, coordinator: Coordinator, north: Site
) -> None:
    client = north.client(service)
    before = verify_checkpoint(client.log_head(0).checkpoint, service.trust.log_key)
    assert client.log_head(0).growth is None
    for _ in range(3):
        grow(service, coordinator)
    shown = client.log_head(before.size)
    after = verify_checkpoint(shown.checkpoint, service.trust.log_key)
    assert shown.growth is not None
    assert (shown.growth.first, shown.growth.second) == (before.size, after.size)
    assert before.size < after.size
    verify_consistency(before.size, after.size, before.root, after.root, shown.growth.hashes)
    same = client.log_head(after.size).growth
    assert same is not None
    assert same.hashes == ()
    assert client.log_head(after.size + 1).growth is None
    with service.http(service.token("auditor")) as http:
        for since in ("-1", "x", str(2**53)):
            assert http.get("/v1/log/checkpoint", params={"since": since}).status_code == 422


def test_a_cosignature_is_kept_listed_and_merged_into_the_head(
    service: RunningService, coordinator: Coordinator, north: Site
) -> None:
    south = coordinator.welcome("south")
    note = cosigned(service, north)
    size = log_size(service)
    view = send(service, north, note)
    key = WitnessKey.of(north.identity.public)
    assert (view.witness, view.vkey, view.size) == ("hospitals/site/north", key.encoded(), size)
    assert view.cosigned_at == "2026-11-02T09:00:00.000Z"
    assert view.note == note
    send(service, south)
    # No entry was made: witnesses must not make the log grow.
    assert log_size(service) == size

    merged = service.as_("officer").checkpoint()
    head = verify_checkpoint(merged, service.trust.log_key)
    assert head.size == size
    for site in (north, south):
        key = WitnessKey.of(site.identity.public)
        assert verify_cosignature(merged, key) == (head, int(service.clock().timestamp()))
    assert len(Note.parse(merged).signatures) == 3
    assert service.as_("auditor").witnesses() == (view, send(service, south))

    # A newer head has nobody's word yet; what was said of the older one stays.
    grow(service, coordinator)
    assert service.as_("officer").checkpoint() == head_of(service)
    assert [item.size for item in service.as_("officer").witnesses()] == [size, size]


def test_a_word_for_another_head_of_the_same_size_is_not_merged(
    service: RunningService, north: Site
) -> None:
    """A log that was rewritten keeps rows of its past; mixed in, they would hide the fork."""
    head = read_checkpoint(head_of(service))
    past = sign_checkpoint(Checkpoint(head.origin, head.size, bytes(32)), service.registry.signer)
    with witnessing(service.registry, _bearer()) as session:
        storage = service.registry.storage(session)
        key = WitnessKey.of(north.identity.public)
        keep_cosignature(session, storage, key, cosigned(service, north, past))
    assert service.as_("officer").checkpoint() == head_of(service)
    assert verify_checkpoint(service.as_("officer").checkpoint(), service.trust.log_key) == head


def test_the_newest_is_kept_and_the_last_of_each_block(
    service: RunningService, coordinator: Coordinator, north: Site
) -> None:
    key = WitnessKey.of(north.identity.public)
    first = send(service, north)
    grow(service, coordinator)
    second = send(service, north)
    assert second.size == first.size + 1
    assert stored(service) == [(key.name, second.size)]
    # An older word that comes late adds nothing.
    assert send(service, north, first.note) == second
    assert stored(service) == [(key.name, second.size)]
    # Over the border of a block: sizes that a test cannot fill with entries.
    block = CHECKPOINT_BLOCK
    with witnessing(service.registry, _bearer()) as session:
        storage = service.registry.storage(session)
        for size in (block - 2, block - 1, block, block + 5, 3 * block + 1, 3 * block + 2):
            made = Checkpoint(service.trust.origin, size, bytes(32))
            note = sign_checkpoint(made, service.registry.signer)
            keep_cosignature(session, storage, key, cosigned(service, north, note))
    assert [size for _, size in stored(service)] == [block - 1, block + 5, 3 * block + 2]


def test_the_same_head_at_a_later_time_replaces(
    service: RunningService, north: Site, clock: Clock
) -> None:
    first = send(service, north)
    assert send(service, north, first.note) == first
    clock.advance(minutes=1)
    later = send(service, north)
    assert later.size == first.size
    assert later.cosigned_at > first.cosigned_at
    assert send(service, north, first.note) == later


def _bearer() -> Bearer:
    return Bearer("site:north", frozenset({"site"}), None, None)


# --- what is refused ------------------------------------------------------------------------------

Forge = Callable[[RunningService, Site], str]


def _by_another_key(service: RunningService, site: Site) -> str:
    stranger = Site(site.name)
    return cosigned(service, stranger)


def _by_the_plain_key(service: RunningService, site: Site) -> str:
    text_ = Note.parse(head_of(service)).text
    plain = Note.parse(sign_checkpoint(Checkpoint.parse_text(text_), site.identity)).signatures
    return with_lines(head_of(service), plain)


def _not_cosigned(service: RunningService, site: Site) -> str:
    return head_of(service)


def _wrong_line(service: RunningService, site: Site) -> str:
    key = WitnessKey.of(site.identity.public)
    return with_lines(head_of(service), [NoteSignature(key.name, key.note_id, bytes(72))])


def _not_signed_by_the_log(service: RunningService, site: Site) -> str:
    head = read_checkpoint(head_of(service))
    note = sign_checkpoint(head, SigningKey.generate(head.origin))
    return cosigned(service, site, note)


def _with_the_logs_stolen_key(service: RunningService, site: Site) -> str:
    head = read_checkpoint(head_of(service))
    forged = Checkpoint(head.origin, head.size, bytes(32))
    return cosigned(service, site, sign_checkpoint(forged, service.registry.signer))


def _with_extensions(service: RunningService, site: Site) -> str:
    head = read_checkpoint(head_of(service))
    forged = Checkpoint(head.origin, head.size, head.root, ("something",))
    return cosigned(service, site, sign_checkpoint(forged, service.registry.signer))


def _of_the_future(service: RunningService, site: Site) -> str:
    head = read_checkpoint(head_of(service))
    forged = Checkpoint(head.origin, head.size + 1, head.root)
    return cosigned(service, site, sign_checkpoint(forged, service.registry.signer))


def _of_another_log(service: RunningService, site: Site) -> str:
    head = read_checkpoint(head_of(service))
    forged = Checkpoint("other/log", head.size, head.root)
    return cosigned(service, site, sign_checkpoint(forged, service.registry.signer))


def _at_a_later_time(service: RunningService, site: Site) -> str:
    return cosigned(service, site, minutes=-6)


@pytest.mark.parametrize(
    ("forge", "reason"),
    [
        (_by_another_key, "verification-failed"),
        (_by_the_plain_key, "verification-failed"),
        (_not_cosigned, "verification-failed"),
        (_wrong_line, "verification-failed"),
        (_not_signed_by_the_log, "verification-failed"),
        (_with_the_logs_stolen_key, "head-unknown"),
        (_with_extensions, "head-unknown"),
        (_of_the_future, "head-unknown"),
        (_of_another_log, "verification-failed"),
        (_at_a_later_time, "cosigned-in-future"),
        (lambda service, site: "no note", "malformed-note"),
        (lambda service, site: "a\n" * 9000, "malformed-input"),
    ],
)
def test_a_bad_cosignature_is_refused_and_the_refusal_is_an_entry(
    service: RunningService, north: Site, forge: Forge, reason: str
) -> None:
    note = forge(service, north)
    answer = service.http(north.token).post("/v1/log/cosignatures", json={"note": note})
    assert answer.status_code == 422
    actor, action, name, payload = service.last_entry()
    assert (actor, action) == ("site:north", "request.refused")
    assert name == "operation:POST /v1/log/cosignatures"
    assert payload["reason"] == reason
    assert stored(service) == []


def test_a_body_is_bounded(service: RunningService, north: Site) -> None:
    answer = service.http(north.token).post("/v1/log/cosignatures", json={"note": "a" * 40_000})
    assert answer.status_code == 413


def test_only_an_approved_site_vouches(service: RunningService, coordinator: Coordinator) -> None:
    site = Site("south")
    site.join(service, coordinator.invite("south"))
    with pytest.raises(Unauthorised, match="the site is pending"):
        send(service, site)
    assert service.last_entry()[3]["reason"] == "site-not-approved"
    coordinator.admit(site)
    send(service, site)
    coordinator.api.revoke_site("south")
    with pytest.raises(Unauthorised):
        send(service, site)
    # What it vouched for while it took part is still true.
    assert [item.witness for item in service.as_("auditor").witnesses()] == ["hospitals/site/south"]


def test_a_site_vouches_for_itself_only(
    service: RunningService, coordinator: Coordinator, north: Site
) -> None:
    south = coordinator.welcome("south")
    with pytest.raises(FiduciaryError, match="not cosigned by hospitals/site/north"):
        north.client(service).cosign(cosigned(service, south))
    assert stored(service) == []


def test_a_key_that_is_named_like_another_sites_is_no_witness(
    service: RunningService, coordinator: Coordinator, north: Site
) -> None:
    posing = Site("posing")
    posing.identity = SigningKey.generate(north.identity.name)
    posing.join(service, coordinator.invite("posing"))
    coordinator.admit(posing)
    with pytest.raises(MalformedInput, match="expected hospitals/site/posing"):
        send(service, posing)
    assert service.last_entry()[3]["reason"] == "witness-name"


# --- the exception to "no entry, no action" -------------------------------------------------------


Change = Callable[[Session], object]


def _by_the_object(session: Session) -> None:
    session.get_one(SiteRow, "north").state = "revoked"


@pytest.mark.parametrize(
    "change",
    [
        _by_the_object,
        lambda session: session.execute(insert(PlanSiteRow).values(plan_id="x", site="north")),
        lambda session: session.execute(update(SiteRow).values(state="revoked")),
        lambda session: session.execute(text("DELETE FROM log_checkpoints")),
        lambda session: session.execute(text("DROP INDEX log_index_by_actor")),
    ],
)
def test_nothing_but_cosignatures_changes_without_an_entry(
    service: RunningService, north: Site, change: Change
) -> None:
    before = service.tables()

    def attempt() -> None:
        with witnessing(service.registry, _bearer()) as session:
            change(session)

    with pytest.raises(ServiceUnavailable, match="without an audit entry"):
        attempt()
    assert service.tables() == before


@pytest.mark.parametrize("fault", ["commit", "after_commit"])
def test_a_failing_database_is_answered_with_503_and_a_repeat_helps(
    service: RunningService, north: Site, fault: str
) -> None:
    note = cosigned(service, north)
    setattr(service.faults, fault, True)
    with pytest.raises(Unreachable):
        send(service, north, note)
    setattr(service.faults, fault, False)
    assert bool(stored(service)) == (fault == "after_commit")
    assert send(service, north, note).note == note
    assert len(stored(service)) == 1


def test_a_token_that_ended_meanwhile_keeps_nothing(
    service: RunningService, coordinator: Coordinator, north: Site
) -> None:
    coordinator.api.revoke_site("north")
    with pytest.raises(FiduciaryError), witnessing(service.registry, _bearer()):
        raise AssertionError("it must not begin")


def test_a_tampered_cosignature_is_not_shown_as_a_witness(
    service: RunningService, north: Site
) -> None:
    send(service, north)
    database = sqlite3.connect(service.folder.path / "compliance.sqlite")
    database.execute("UPDATE log_cosignatures SET note = replace(note, 'north ', 'north A')")
    database.commit()
    database.close()
    with pytest.raises(FiduciaryError):
        service.as_("auditor").witnesses()
