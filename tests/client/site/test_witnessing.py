"""The site as a witness: what it vouches for, what alarms it, and what does not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from audit.checkpoint import Checkpoint, read_checkpoint, sign_checkpoint, verify_checkpoint
from audit.cosignature import WitnessKey, verify_cosignature
from audit.errors import (
    Conflict,
    FiduciaryError,
    MalformedInput,
    NotFound,
    Unauthorised,
    Unreachable,
    VerificationFailed,
)
from audit.journal import Journal
from audit.keyring import Keyring
from audit.keys import SigningKey
from audit.log import Entry
from audit.storage import LogUnavailable
from audit.witness import WitnessStateAltered
from client import timers
from client.alarms import Alarm, LogAlarm, alarms
from client.guard import Allowed
from client.review import Review
from client.site import Site
from client.vault import Vault
from client.witnessing import ATTEMPTS, Witnessing, describe_witness
from client.worker import Ending
from compliance.log_views import LogConsistency, LogHead, WitnessView
from tests.client.site.counterparts import ORIGIN, Coordinator, FakeCompliance
from tests.client.site.world import World, refusal_of


def grow(compliance: FakeCompliance, entries: int = 1) -> None:
    for number in range(entries):
        compliance.log.record(Entry("test", "noise", f"thing:{number}", None, {}))


def signed(compliance: FakeCompliance, size: int, root: bytes = bytes(32), **changes: str) -> str:
    """A head that the log's key really signs, whatever the log holds."""
    head = Checkpoint(changes.get("origin", ORIGIN), size, root)
    return sign_checkpoint(head, compliance.log_key)


def journalled(site: Site) -> list[str]:
    return [leaf.action for leaf in site.journal.leaves()]


# --- a round --------------------------------------------------------------------------------------


def test_a_round_holds_cosigns_and_hands_in(joined: Site, compliance: FakeCompliance) -> None:
    witnessing = Witnessing(joined, compliance)
    for entries in (0, 1, 7):
        grow(compliance, entries)
        found = witnessing.round()
        assert (found.delivered, found.problem) == (True, None)
        assert found.held is not None
        key = WitnessKey.of(joined.identity.public)
        head, _ = verify_cosignature(joined.paths.log_checkpoint.read_text(), key)
        assert head == read_checkpoint(compliance.log.checkpoint())
        assert compliance.cosigned[-1] == found.held.note
    assert len(compliance.cosigned) == 3
    # Nothing new: nothing to say.
    assert witnessing.round().delivered
    assert len(compliance.cosigned) == 3
    assert not joined.paths.alarms.exists()
    # After a restart it is said once more, as it was said before.
    assert Witnessing(joined, compliance).round().delivered
    assert compliance.cosigned[3] == compliance.cosigned[2]


def test_a_site_that_was_not_admitted_keeps_its_word_for_later(
    joined: Site, compliance: FakeCompliance
) -> None:
    witnessing = Witnessing(joined, compliance)
    for error in (Unreachable("away"), Unauthorised("pending")):
        compliance.fail["cosign"] = error
        found = witnessing.round()
        assert (found.delivered, found.problem) == (False, error)
        assert found.held is not None
    compliance.fail_after["cosign"] = Unreachable("its answer was lost")
    assert not witnessing.round().delivered
    assert witnessing.round().delivered
    assert len(compliance.cosigned) == 2


def test_what_the_service_refused_for_good_is_not_sent_again(
    joined: Site, compliance: FakeCompliance
) -> None:
    """Each refusal is an entry of its log: a repeated one would make the log grow."""
    witnessing = Witnessing(joined, compliance)
    compliance.fail["cosign"] = refused = MalformedInput("the time has not come yet")
    assert witnessing.round().problem is refused
    found = witnessing.round()
    assert (found.problem, found.delivered, compliance.cosigned) == (None, False, [])
    grow(compliance)
    assert witnessing.round().delivered


def test_a_head_of_an_older_version_is_cosigned(joined: Site, compliance: FakeCompliance) -> None:
    grow(compliance, 3)
    joined.paths.log_checkpoint.write_text(compliance.log.checkpoint())
    assert describe_witness(joined)["cosigned_at"] is None
    assert Witnessing(joined, compliance).round().delivered
    assert describe_witness(joined)["cosigned_at"] is not None


# --- what is no alarm -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        Unreachable("away"),
        NotFound("no such route"),
        Unauthorised("revoked"),
        MalformedInput("not JSON"),
        VerificationFailed("the service's own words"),
        FiduciaryError("500"),
    ],
)
def test_an_answer_that_fails_is_a_problem_and_no_alarm(
    joined: Site, compliance: FakeCompliance, error: FiduciaryError
) -> None:
    grow(compliance)
    witnessing = Witnessing(joined, compliance)
    held = witnessing.round().held
    grow(compliance)
    compliance.fail["log_head"] = error
    found = witnessing.round()
    assert (found.held, found.problem) == (held, error)
    assert witnessing.round().problem is None
    assert "log-alarm" not in journalled(joined)


@pytest.mark.parametrize("noise", ["", "<html>", "a\n1\nAA==\n\n— a AAAAAAAA\n", "x" * 70_000])
def test_noise_is_a_problem_and_no_alarm(
    joined: Site, compliance: FakeCompliance, noise: str
) -> None:
    grow(compliance)
    witnessing = Witnessing(joined, compliance)
    held = witnessing.round().held
    compliance.head = noise
    found = witnessing.round()
    assert found.held == held
    assert isinstance(found.problem, MalformedInput)
    compliance.head = None
    grow(compliance)
    compliance.consistency = LogConsistency(first=0, second=0, hashes=())
    assert isinstance(witnessing.round().problem, MalformedInput)
    assert "log-alarm" not in journalled(joined)


class Overtaken:
    """A `WitnessService` between whose answer and its use another process is faster, `times`."""

    def __init__(self, service: FakeCompliance, other: Witnessing, times: int) -> None:
        self._service = service
        self._other = other
        self._times = times

    def log_head(self, since: int) -> LogHead:
        shown = self._service.log_head(since)
        if self._times:
            self._times -= 1
            grow(self._service)
            self._other.round()
        return shown

    def cosign(self, note: str) -> WitnessView:
        return self._service.cosign(note)


@pytest.mark.parametrize("times", [1, ATTEMPTS - 1, ATTEMPTS])
def test_another_process_that_was_faster_is_no_alarm(
    joined: Site, compliance: FakeCompliance, times: int
) -> None:
    """Cron's `client witness` beside `client start`: the slower one asks again."""
    grow(compliance)
    fast = Witnessing(joined, compliance)
    fast.round()
    found = Witnessing(joined, Overtaken(compliance, fast, times)).round()
    if times < ATTEMPTS:
        assert found.problem is None
        assert found.held is not None
        assert found.held.checkpoint.size == compliance.log.size()
    else:
        assert isinstance(found.problem, Conflict)
    assert "log-alarm" not in journalled(joined)


# --- what is --------------------------------------------------------------------------------------

Attack = Callable[[FakeCompliance], None]


def _shrink(compliance: FakeCompliance) -> None:
    compliance.head = signed(compliance, compliance.log.size() - 1)


def _fork(compliance: FakeCompliance) -> None:
    compliance.head = signed(compliance, compliance.log.size())


def _rewrite(compliance: FakeCompliance) -> None:
    size = compliance.log.size()
    compliance.head = signed(compliance, size + 1)
    compliance.consistency = LogConsistency(first=size, second=size + 1, hashes=(bytes(32),))


def _rewrite_without_proof(compliance: FakeCompliance) -> None:
    size = compliance.log.size()
    compliance.head = signed(compliance, size + 1)
    compliance.consistency = LogConsistency(first=size, second=size + 1, hashes=())


def _other_key(compliance: FakeCompliance) -> None:
    head = read_checkpoint(compliance.log.checkpoint())
    compliance.head = sign_checkpoint(head, SigningKey.generate(ORIGIN))


def _other_key_and_size(compliance: FakeCompliance) -> None:
    """A size for which the service cannot have a proof: the key is looked at first."""
    compliance.head = sign_checkpoint(
        Checkpoint(ORIGIN, 10**9, bytes(32)), SigningKey.generate(ORIGIN)
    )


def _other_origin(compliance: FakeCompliance) -> None:
    compliance.head = signed(compliance, compliance.log.size(), origin="other/log")


ATTACKS = pytest.mark.parametrize(
    ("attack", "reason"),
    [
        (_shrink, "shrunk"),
        (_fork, "forked"),
        (_rewrite, "rewritten"),
        (_rewrite_without_proof, "rewritten"),
        (_other_key, "other-key"),
        (_other_key_and_size, "other-key"),
        (_other_origin, "other-origin"),
    ],
)


@ATTACKS
def test_a_log_that_misbehaves_is_refused_journalled_and_kept_as_evidence(
    joined: Site, compliance: FakeCompliance, attack: Attack, reason: str
) -> None:
    grow(compliance, 5)
    witnessing = Witnessing(joined, compliance)
    held = witnessing.round().held
    assert held is not None
    attack(compliance)
    for again in (False, True):
        fresh = Witnessing(joined, compliance) if again else witnessing
        with pytest.raises(LogAlarm, match=rf"misbehaved \({reason}\)") as caught:
            fresh.round()
        assert caught.value.exit_code == 6
        assert "train nothing; show" in caught.value.fix
    assert joined.paths.log_checkpoint.read_text() == held.note
    assert compliance.cosigned == [held.note]

    # Looked at twice, it is one alarm.
    assert journalled(joined).count("log-alarm") == 1
    leaf, payload = joined.journal.read(joined.journal.size() - 1)
    assert (leaf.actor, leaf.object) == ("site:north", f"log:{ORIGIN}")
    (kept,) = alarms(joined)
    assert kept.path.name in caught.value.fix
    assert kept.path.stat().st_mode & 0o777 == 0o600
    assert kept.alarm == Alarm.model_validate(payload)
    alarm = kept.alarm
    assert alarm is not None
    assert (alarm.reason, alarm.held, alarm.shown) == (reason, held.note, compliance.head)
    # The file alone convinces: both heads, the first of them by log and witness.
    key = WitnessKey.of(joined.identity.public)
    assert alarm.held is not None
    assert verify_cosignature(alarm.held, key)[0] == verify_checkpoint(
        alarm.held, compliance.log_key.public
    )

    # The log is right again: the site goes on, and the evidence stays until a person moves it.
    compliance.head = compliance.consistency = None
    grow(compliance)
    assert witnessing.round().delivered
    assert len(alarms(joined)) == 1
    attack(compliance)
    with pytest.raises(LogAlarm):
        witnessing.round()
    assert len(alarms(joined)) == 2


def test_an_alarm_is_raised_when_nothing_can_be_written(
    joined: Site, compliance: FakeCompliance, monkeypatch: pytest.MonkeyPatch
) -> None:
    witnessing = Witnessing(joined, compliance)
    witnessing.round()

    def full(*_: object) -> None:
        raise LogUnavailable("the disk is full")

    monkeypatch.setattr(type(joined.journal), "record", full)
    joined.paths.alarms.write_text("in the way")
    _fork(compliance)
    with pytest.raises(LogAlarm, match=r"\(forked\).*disk is full.*could not be written"):
        witnessing.round()


def test_an_altered_memory_ends_the_run(world: World) -> None:
    Witnessing(world.site, world.compliance).round()
    path = world.site.paths.log_checkpoint
    path.write_text(path.read_text().replace("\n2\n", "\n1\n"))
    with pytest.raises(WitnessStateAltered, match="log-checkpoint does not verify"):
        world.run()
    assert "log-checkpoint does not verify" in describe_witness(world.site)["problem"]
    assert world.fleet.connections == 0


# --- the heads that prove a plan ------------------------------------------------------------------


def review(world: World) -> Review:
    vault = Vault.open(world.site.paths, world.site.keyring)
    return Review(world.site, vault, world.ledger(), world.compliance)


def test_heads_that_prove_a_plan_are_held_too(world: World) -> None:
    assert isinstance(review(world).of(world.plan_id), Allowed)
    found = describe_witness(world.site)
    assert found["size"] == world.compliance.log.size()
    # So a round against a shorter log knows.
    _shrink(world.compliance)
    with pytest.raises(LogAlarm, match="shrunk"):
        Witnessing(world.site, world.compliance).round()


def test_a_plan_that_another_history_proves_is_an_alarm(
    world: World, tmp_path: Path, coordinator: Coordinator
) -> None:
    grow(world.compliance, 4)
    Witnessing(world.site, world.compliance).round()
    # The same key, another log, in which the plan is approved as well.
    other = FakeCompliance(tmp_path / "rewritten", coordinator)
    other.log_key = world.compliance.log_key
    other.log.close()
    signed_plan = world.compliance.filed[world.plan_id].statement
    rebuilt = _rebuilt(tmp_path / "again", other)
    grow(rebuilt, 7)
    plan_id = rebuilt.submit(signed_plan)
    rebuilt.decide(plan_id)
    world.compliance = rebuilt
    with pytest.raises(LogAlarm, match="rewritten"):
        review(world).of(plan_id)
    assert "log-alarm" in journalled(world.site)


def _rebuilt(folder: Path, like: FakeCompliance) -> FakeCompliance:
    """A service with a log of its own under the very same key."""
    made = FakeCompliance(folder, like.coordinator)
    made.log.close()
    made.log_key = like.log_key
    made.log = Journal.create(
        folder / "rebuilt.sqlite", ORIGIN, like.log_key, Keyring.create(folder / "rebuilt-keyring")
    )
    return made


# --- in `client start` ----------------------------------------------------------------------------


@pytest.mark.parametrize("handed_in", ["each", "first"])
def test_the_worker_witnesses_at_its_start_and_before_each_round(
    world: World, monkeypatch: pytest.MonkeyPatch, handed_in: str
) -> None:
    """Every look holds a newer head; cosignatures that follow each other closely wait."""
    monkeypatch.setattr(timers, "HAND_IN_SECONDS", 0.0 if handed_in == "each" else 3600.0)
    sizes: list[int] = []

    def look() -> None:
        sizes.append(describe_witness(world.site)["size"])
        grow(world.compliance)

    world.fleet.tasks.append(look)
    for round_index in range(2):
        world.train(round_index)
        world.fleet.tasks.append(look)
    assert world.run() is Ending.STOPPED
    assert sizes == sorted(set(sizes))
    assert len(sizes) == 3
    cosigned = [read_checkpoint(note).size for note in world.compliance.cosigned]
    assert cosigned == (sizes if handed_in == "each" else sizes[:1])
    assert world.codes() == []


def test_the_worker_witnesses_on_a_timer(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timers, "WITNESS_SECONDS", 0.0)
    monkeypatch.setattr(timers, "HAND_IN_SECONDS", 0.0)
    world.fleet.tasks += [lambda: grow(world.compliance), lambda: grow(world.compliance)]
    world.run()
    sizes = [read_checkpoint(note).size for note in world.compliance.cosigned]
    assert sizes == [sizes[0], sizes[0] + 1, sizes[0] + 2]


def test_the_worker_witnesses_while_the_coordinator_is_away(world: World) -> None:
    world.fleet.refuse_connections = [Unreachable("the coordinator is away")]
    world.run()
    assert world.compliance.cosigned


def test_a_service_that_is_away_stops_no_training(world: World) -> None:
    world.train(0)

    def away() -> None:
        world.compliance.fail["log_head"] = Unreachable("the service is away")

    world.fleet.tasks.append(away)
    world.train(1)
    assert world.run() is Ending.STOPPED
    assert world.codes() == []
    assert any("could not be witnessed: the service is away" in line for line in world.notes.lines)


@ATTACKS
def test_an_alarm_before_the_first_round_ends_the_worker_unconnected(
    world: World, attack: Attack, reason: str
) -> None:
    Witnessing(world.site, world.compliance).round()
    attack(world.compliance)
    world.train(0)
    with pytest.raises(LogAlarm, match=reason):
        world.run()
    assert (world.fleet.connections, world.started()) == (0, 0)
    # Again after a restart, for as long as the log is wrong.
    with pytest.raises(LogAlarm, match=reason):
        world.run()
    world.compliance.head = world.compliance.consistency = None
    assert world.run() is Ending.STOPPED
    assert world.started() == 1


@ATTACKS
def test_an_alarm_between_two_rounds_refuses_the_round_and_ends_the_worker(
    world: World, attack: Attack, reason: str
) -> None:
    def strike() -> None:
        Witnessing(world.site, world.compliance).round()
        attack(world.compliance)

    world.train(0)
    world.fleet.tasks.append(strike)
    world.train(1)
    with pytest.raises(LogAlarm, match=reason):
        world.run()
    assert world.started() == 1
    assert world.codes() == ["log-alarm"]
    assert reason in refusal_of(world.fleet.replies[-1]).reason
    assert world.actions()[-2:] == ["log-alarm", "task-refused"]
    assert json.loads(world.site.paths.worker_state.read_text())["doing"] == "stopped"
