"""Aliases: who moves them, what they may name, going back; and two releases side by side."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit.errors import Conflict, ExitCode, MalformedInput, NotFound, Refused, Unreachable
from compliance.api import ComplianceClient
from compliance.rules.aliases import Move, rollback_target
from compliance.statements import format_time
from tests.compliance.federation import Consumer, Coordinator, Site
from tests.compliance.running import RunningService
from tests.compliance.test_cli import Run, officer, run

__all__ = ["officer", "run"]


@pytest.fixture
def releases(
    service: RunningService, coordinator: Coordinator, north: Site, tmp_path: Path
) -> list[str]:
    """Three approved releases, of two plans."""
    plans = [coordinator.approved_plan(name=name) for name in ("first", "second")]
    made = []
    for number in range(3):
        plan_id = plans[min(number, 1)]
        if number < 2:
            coordinator.run(plan_id, north)
        release = coordinator.release(plan_id, name=f"triage-{number + 1}")
        coordinator.api.submit_release(release.manifest, sealed_key=release.sealed_key)
        coordinator.api.upload_release(release.release_id, release.file(tmp_path))
        service.as_("officer").approve_release(release.release_id)
        made.append(release.release_id)
    return made


@pytest.fixture
def second(service: RunningService) -> ComplianceClient:
    """Another officer than the one who approves."""
    token = service.as_("officer").add_principal("second", ["officer"]).token
    service.folder.token("second").write_text(token)
    return service.client(token)


def test_a_release_reaches_an_alias_by_two_people_and_leaves_it_by_one(
    service: RunningService, second: ComplianceClient, releases: list[str]
) -> None:
    officer, (one, two, three) = service.as_("officer"), releases
    with pytest.raises(Refused, match="submitted or approved themselves"):
        officer.aliases.set("production", one)
    assert service.last_entry()[3]["reason"] == "own-work"
    for release_id in releases:
        view = second.aliases.set("production", release_id, reason="passed the trial")
        assert (view.release_id, view.state) == (release_id, "approved")
    actor, action, about, payload = service.last_entry()
    assert (actor, action, about) == ("second", "alias.moved", f"release:{three}")
    assert payload == {
        "alias": "production",
        "kind": "set",
        "previous": two,
        "reason": "passed the trial",
    }
    back = officer.aliases.roll_back("production", leaving=three, reason="misses messages")
    assert back.release_id == two
    tables = service.tables()
    assert officer.aliases.roll_back("production", leaving=three) == back  # the answer was lost
    assert second.aliases.set("production", two) == back
    assert service.tables() == tables
    with pytest.raises(Conflict, match="another release by now"):
        officer.aliases.roll_back("production", leaving=one)
    assert officer.aliases.roll_back("production", leaving=two).release_id == one
    with pytest.raises(Conflict, match="no release that the alias named before"):
        officer.aliases.roll_back("production", leaving=one)
    (listed,) = service.as_("auditor").aliases.list()
    assert [(move.kind, move.release_id) for move in listed.history] == [
        ("set", one),
        ("set", two),
        ("set", three),
        ("rollback", two),
        ("rollback", one),
    ]
    for move in listed.history:
        assert service.entries()[move.position][2] == f"release:{move.release_id}"


def test_no_alias_is_moved_to_a_recalled_release(
    service: RunningService, second: ComplianceClient, releases: list[str]
) -> None:
    officer, (one, two, three) = service.as_("officer"), releases
    for release_id in releases:
        second.aliases.set("production", release_id)
    officer.recalls.recall(two, reason="wrong labels")
    with pytest.raises(Conflict, match="recalled on 2026-11-02: wrong labels"):
        second.aliases.set("production", two)
    officer.recalls.recall(three, reason="wrong labels")
    (view,) = officer.aliases.list()
    assert (view.release_id, view.state) == (three, "recalled")  # nothing moves by itself
    assert officer.aliases.roll_back("production", leaving=three).release_id == one


def test_what_an_alias_may_be(
    service: RunningService,
    second: ComplianceClient,
    coordinator: Coordinator,
    releases: list[str],
    tmp_path: Path,
) -> None:
    for name in ("Production", "a b", "-", "x" * 65):
        with pytest.raises(MalformedInput):
            second.aliases.set(name, releases[0])
    with pytest.raises(NotFound, match="no such alias"):
        second.aliases.roll_back("production", leaving=releases[0])
    with pytest.raises(NotFound, match="no such release"):
        second.aliases.set("production", "sha256:" + "9" * 64)
    plan_id = second.release(releases[0]).plan_id
    undecided = coordinator.release(plan_id, name="undecided")
    coordinator.api.submit_release(undecided.manifest, sealed_key=undecided.sealed_key)
    with pytest.raises(Conflict, match="announced, not approved"):
        second.aliases.set("production", undecided.release_id)
    assert second.aliases.list() == ()


def test_a_move_happens_whole_or_not_at_all(
    service: RunningService, second: ComplianceClient, releases: list[str]
) -> None:
    one, two, _ = releases
    steps: list[Callable[[], object]] = [
        lambda: second.aliases.set("staging", one),
        lambda: second.aliases.set("staging", two),
        lambda: second.aliases.roll_back("staging", leaving=two),
    ]
    for move in steps:
        before = service.tables()
        for fault in ("append", "commit"):
            setattr(service.faults, fault, True)
            with pytest.raises(Unreachable):
                move()
            setattr(service.faults, fault, False)
            assert service.tables() == before
        service.faults.after_commit = True
        with pytest.raises(Unreachable):
            move()
        service.faults.after_commit = False
        after = service.tables()
        assert len(after["log_entries"]) == len(before["log_entries"]) + 1
        move()
        assert service.tables() == after


def test_a_consumer_sees_the_aliases_of_what_it_was_granted(
    service: RunningService, second: ComplianceClient, releases: list[str]
) -> None:
    desk = Consumer(service)
    second.aliases.set("production", releases[0])
    assert desk.api.aliases.list() == ()
    service.as_("officer").grant(
        releases[0],
        desk.name,
        public_key=desk.public_key,
        purpose="triage",
        expires_at=format_time(service.clock() + timedelta(days=1)),
    )
    assert [view.release_id for view in desk.api.aliases.list()] == [releases[0]]
    second.aliases.set("production", releases[1])
    assert desk.api.aliases.list() == ()


_IDS = st.sampled_from("abcd")


@given(st.lists(_IDS, max_size=12), st.sets(_IDS), st.integers(0, 12))
def test_going_back_ends_and_never_returns_to_what_was_left(
    sets: list[str], usable: set[str], count: int
) -> None:
    moves = [Move(each, "set") for each in sets]
    for _ in range(count):
        target = rollback_target(moves, usable)
        if target is None:
            break
        assert target in usable
        assert target != moves[-1].release_id
        moves.append(Move(target, "rollback"))
    assert len(moves) <= 2 * len(sets)


def test_the_commands(
    officer: Run, service: RunningService, second: ComplianceClient, releases: list[str]
) -> None:
    code, _, err = officer("alias", "set", "production", "triage-1")
    assert code == ExitCode.REFUSED, err
    for name in ("triage-1", "triage-2"):
        code, out, err = officer("alias", "set", "production", name, name="second")
        assert code == 0, err
    assert "production names triage-2" in out
    code, out, _ = officer("releases", "@production", "--json")
    assert json.loads(out)["release_id"] == releases[1]
    code, out, err = officer("compare", "@production", "triage-1", "--json")
    assert code == 0, err
    lines = {line["fact"]: line for line in json.loads(out)["lines"]}
    assert not lines["accuracy"]["differs"]
    assert lines["name"]["differs"]
    assert lines["gate epsilon"]["first"] == "passed"
    assert not any(fact.startswith("plan.") for fact in lines)  # of plans only the name differs
    code, out, _ = officer("compare", "triage-1", "triage-2")
    assert "≠" in out
    code, out, _ = officer("alias", "rollback", "production", "--reason", "worse")
    assert "names triage-1" in out
    code, out, _ = officer("alias", "list")
    assert "rollback" in out
    assert "worse" in out
    for arguments in (("alias", "rollback", "nothing"), ("releases", "@nothing")):
        code, _, err = officer(*arguments)
        assert code == ExitCode.NOT_FOUND, err


def test_plans_are_compared_field_by_field(
    officer: Run,
    service: RunningService,
    coordinator: Coordinator,
    releases: list[str],
    north: Site,
    tmp_path: Path,
) -> None:
    plan_id = coordinator.approved_plan(
        name="third", retention_days=30, labels=["urgent", "routine", "other"]
    )
    coordinator.run(plan_id, north)
    measured = {
        "evaluation": {
            "accuracy_low": "0.8",
            "accuracy_high": "0.95",
            "groups": [
                {"group": "f", "examples": 30, "accuracy": "0.9", "low": "0.7", "high": "0.97"}
            ],
        }
    }
    release = coordinator.release(plan_id, name="triage-4", **measured)
    coordinator.api.submit_release(release.manifest, sealed_key=release.sealed_key)
    code, out, err = officer("compare", "triage-1", "triage-4", "--json")
    assert code == 0, err
    lines = {line["fact"]: (line["first"], line["second"]) for line in json.loads(out)["lines"]}
    assert lines["accuracy"] == ("0.9", "0.9 (0.8 to 0.95)")
    assert lines["accuracy of f"] == ("", "0.9 (0.7 to 0.97), 30 examples")
    assert lines["state"] == ("approved", "announced")
    told = {fact: pair for fact, pair in lines.items() if fact.startswith("plan.")}
    assert told == {
        "plan.labels": ("urgent, routine", "urgent, routine, other"),
        "plan.retention_days": ("365", "30"),
    }
