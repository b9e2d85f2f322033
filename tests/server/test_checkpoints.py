"""Kept models: sealed, bounded, and gone when their time is over."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit.errors import MalformedInput, NotFound, VerificationFailed
from audit.keyring import Keyring
from client.arrays import arrays_digest
from client.learning.accounting import Event, epsilon_of, event_of_subject, events_of
from compliance.rules.starts import Part
from compliance.statements import StartsFrom, TrainingPlan
from server.checkpoints import Checkpoints, kept_rounds
from server.starts import Start, epsilon_with_start, unit_of_line
from tests.server.conftest import plan_of

PLAN_ID = f"sha256:{'a' * 64}"
OTHER_ID = f"sha256:{'ab' * 32}"
NOW = datetime(2026, 11, 2, 9, tzinfo=UTC)
MODEL = {"head.weight": np.arange(12, dtype=np.float32).reshape(3, 4)}
DIGEST = arrays_digest(MODEL)


@given(st.integers(1, 500), st.integers(0, 60))
def test_kept_rounds_are_bounded_and_leave_no_long_gap(rounds: int, limit: int) -> None:
    kept = sorted(kept_rounds(rounds, limit))
    assert len(kept) == min(rounds, limit)
    if kept:
        assert kept[-1] == rounds
        gaps = np.diff([0, *kept])
        assert gaps.max() <= -(-rounds // limit)


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    made = Checkpoints(tmp_path / "checkpoints")
    made.keep(PLAN_ID, plan_of(name="a"), 2, MODEL, NOW)
    return made


def file_of(tmp_path: Path) -> Path:
    return tmp_path / "checkpoints" / ("a" * 16) / "2.sealed"


def test_a_kept_model_opens_as_what_it_was_and_lies_sealed(
    checkpoints: Checkpoints, tmp_path: Path
) -> None:
    (label,) = checkpoints.kept(NOW)
    assert (label.plan_id, label.rounds, label.model) == (PLAN_ID, 2, DIGEST)
    found = checkpoints.open(PLAN_ID, 2, DIGEST, NOW)
    np.testing.assert_array_equal(found["head.weight"], MODEL["head.weight"])
    assert MODEL["head.weight"].tobytes() not in file_of(tmp_path).read_bytes()
    before = file_of(tmp_path).read_bytes()
    checkpoints.keep(PLAN_ID, plan_of(name="a"), 2, MODEL, NOW + timedelta(days=1))
    assert file_of(tmp_path).read_bytes() == before, "it is kept once"


def test_another_model_of_the_same_round_takes_its_place(
    checkpoints: Checkpoints, tmp_path: Path
) -> None:
    other = {"head.weight": MODEL["head.weight"] + 1}
    checkpoints.keep(PLAN_ID, plan_of(name="a"), 2, other, NOW)
    with pytest.raises(VerificationFailed, match="not the one that the plan names"):
        checkpoints.open(PLAN_ID, 2, DIGEST, NOW)
    checkpoints.open(PLAN_ID, 2, arrays_digest(other), NOW)
    with Keyring.open(tmp_path / "checkpoints/keyring") as keyring:
        assert len(list(keyring.names())) == 1, "the key of the first is destroyed"


@pytest.mark.parametrize("at", [40, -1])
def test_what_was_altered_does_not_open(checkpoints: Checkpoints, tmp_path: Path, at: int) -> None:
    path = file_of(tmp_path)
    data = bytearray(path.read_bytes())
    at = data.index(b"plan_name") + 12 if at > 0 else at
    data[at] ^= 1
    path.write_bytes(data)
    with pytest.raises((VerificationFailed, MalformedInput)):
        checkpoints.open(PLAN_ID, 2, DIGEST, NOW)


def test_a_file_that_was_moved_does_not_open(checkpoints: Checkpoints, tmp_path: Path) -> None:
    moved = tmp_path / "checkpoints" / ("ab" * 8) / "2.sealed"
    moved.parent.mkdir()
    file_of(tmp_path).rename(moved)
    with pytest.raises(VerificationFailed, match="not the one that the plan names"):
        checkpoints.open(OTHER_ID, 2, DIGEST, NOW)
    moved.write_bytes(b"something else\n")
    with pytest.raises(MalformedInput, match="no kept model"):
        checkpoints.kept(NOW)


def test_it_goes_when_its_plans_retention_is_over(checkpoints: Checkpoints, tmp_path: Path) -> None:
    days = plan_of().retention_days
    last = NOW + timedelta(days=days, seconds=-1)
    assert checkpoints.tidy(last) == 0
    checkpoints.open(PLAN_ID, 2, DIGEST, last)
    over = NOW + timedelta(days=days)
    assert checkpoints.kept(over) == []
    with pytest.raises(NotFound, match="not kept any more"):
        checkpoints.open(PLAN_ID, 2, DIGEST, over)
    assert checkpoints.tidy(over) == 1
    assert not file_of(tmp_path).exists()
    with Keyring.open(tmp_path / "checkpoints/keyring") as keyring:
        assert list(keyring.names()) == []


def test_a_coordinator_that_keeps_none_removes_all(checkpoints: Checkpoints) -> None:
    assert checkpoints.tidy(NOW, keeping=False) == 1
    assert checkpoints.kept(NOW) == []


def test_models_that_hold_somebody_are_removed_for_good(
    checkpoints: Checkpoints, tmp_path: Path
) -> None:
    for plan_id, name, rounds in ((PLAN_ID, "a", 1), (PLAN_ID, "a", 3), (OTHER_ID, "b", 3)):
        checkpoints.keep(plan_id, plan_of(name=name), rounds, MODEL, NOW)
    assert checkpoints.remove("a", 1, NOW) == 2
    assert [(each.plan_name, each.rounds) for each in checkpoints.kept(NOW)] == [("a", 1), ("b", 3)]
    with Keyring.open(tmp_path / "checkpoints/keyring") as keyring:
        assert len(list(keyring.names())) == 2
    assert checkpoints.remove("a", 1, NOW) == 0
    with pytest.raises(NotFound, match="no model of c"):
        checkpoints.remove("c", 0, NOW)


def test_one_is_found_by_name_or_id(checkpoints: Checkpoints) -> None:
    for name in ("a", PLAN_ID, "a" * 10):
        assert checkpoints.find(name, 2, NOW).plan_id == PLAN_ID
    with pytest.raises(NotFound, match="kept after: 2"):
        checkpoints.find("a", 1, NOW)
    checkpoints.keep(OTHER_ID, plan_of(name="b"), 2, MODEL, NOW)
    with pytest.raises(MalformedInput, match="fits several plans"):
        checkpoints.find("sha256:a", 2, NOW)


# --- what is told of a line -----------------------------------------------------------------------


def part(rounds: int, plan_id: str = PLAN_ID, **changes: Any) -> Part:
    return Part(plan_id, plan_of(**changes), rounds)


def test_epsilon_is_composed_over_the_rounds_that_a_model_holds() -> None:
    line = (part(2, sites=("st-elm",), quorum=1), part(3, OTHER_ID))
    found = epsilon_with_start(line)
    one, both = (
        epsilon_of([Event(1.0, 1.0, steps)], line[-1].plan.privacy.delta) for steps in (3, 5)
    )
    assert 0 <= float(found["lakeside"]) - one <= 1e-4, "it was in the second plan alone"
    assert 0 <= float(found["st-elm"]) - both <= 1e-4
    assert both < 2 * one
    assert epsilon_with_start(line[1:]) == {}


def records(most: int) -> dict[str, Any]:
    privacy = plan_of().privacy.model_copy(
        update={"unit": "record", "max_records_per_subject": most}
    )
    return {"privacy": privacy}


def test_plans_of_different_units_compose_to_what_they_tell_of_a_subject() -> None:
    line = (part(2, **records(2)), part(3, OTHER_ID))
    assert unit_of_line(line) == "subject"
    first = [event_of_subject(e, "record", 2) for e in events_of(line[0].plan.phases, 2)]
    events = (*first, *events_of(line[1].plan.phases))
    exact = epsilon_of(events, line[-1].plan.privacy.delta)
    assert 0 <= float(epsilon_with_start(line)["st-elm"]) - exact <= 1e-4
    assert unit_of_line((part(2, **records(2)), part(3, OTHER_ID, **records(2)))) == "record"


def test_what_was_left_of_a_plan_counts_no_labels_again() -> None:
    phases = tuple(
        plan_of().phases[0].model_copy(update={"kind": kind, "rounds": rounds})
        for kind, rounds in (("histogram", 1), ("probe", 3), ("adapter", 2))
    )
    earlier = TrainingPlan.model_validate(
        {**plan_of().model_dump(), "class_weights": "histogram", "phases": phases}
    )
    left = [
        [
            (phase.kind, phase.rounds)
            for phase in Start(
                StartsFrom.after(PLAN_ID, earlier, rounds, DIGEST), earlier
            ).phases_left
        ]
        for rounds in (1, 3, 4, 6)
    ]
    assert left == [
        [("probe", 3), ("adapter", 2)],
        [("probe", 1), ("adapter", 2)],
        [("adapter", 2)],
        [],
    ]
    assert earlier.privacy.delta == Decimal("0.00001")
