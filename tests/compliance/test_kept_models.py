"""Kept models that hold somebody who was erased: which may go, and that it is recorded."""

from __future__ import annotations

from pathlib import Path

import pytest

from audit.errors import Conflict, MalformedInput, NotFound
from audit.statement import SignedStatement
from compliance.rules.kept_models import KeptModels
from compliance.statements import KeptModelRemoval, RemovedModel
from tests.compliance.erasing import Ground
from tests.compliance.federation import DIGEST, Coordinator, Site
from tests.compliance.running import RunningService
from tests.compliance.test_plan_starts import FOURTH, MODELS, WITH_START, after, finished


@pytest.fixture
def ground(
    service: RunningService, coordinator: Coordinator, north: Site, tmp_path: Path
) -> Ground:
    return Ground(service, coordinator, north, tmp_path)


def removal(ground: Ground, plan_id: str, *rounds: int) -> SignedStatement:
    models = tuple(RemovedModel(rounds=number, model=MODELS[0]) for number in rounds)
    return ground.coordinator.sign(KeptModelRemoval(plan_id=plan_id, models=models).body())


@pytest.mark.parametrize(
    ("known", "going"),
    [
        (KeptModels(plan_id=DIGEST, holds_from=None, undecided=False, needed=()), ()),
        (KeptModels(plan_id=DIGEST, holds_from=2, undecided=False, needed=()), (3, 4)),
        (KeptModels(plan_id=DIGEST, holds_from=0, undecided=False, needed=()), (1, 2, 3, 4)),
        (KeptModels(plan_id=DIGEST, holds_from=2, undecided=True, needed=()), ()),
        (KeptModels(plan_id=DIGEST, holds_from=2, undecided=False, needed=(4,)), (3,)),
    ],
)
def test_which_models_go(known: KeptModels, going: tuple[int, ...]) -> None:
    assert tuple(rounds for rounds in range(1, 5) if known.may_go(rounds)) == going


def test_they_go_once_it_is_decided_and_nothing_unfinished_starts_from_them(
    ground: Ground,
) -> None:
    a, of_a = finished(ground, name="a")
    calls, officer = ground.coordinator.api.erasures, ground.officer
    assert calls.kept_models(a).holds_from is None
    release = ground.release(a)
    ground.erase(a, first_rounds={a: 1})
    known = calls.kept_models(a)
    assert (known.holds_from, known.undecided, known.needed) == (1, True, ())
    with pytest.raises(Conflict, match="still needed: 2"):
        calls.report_removal(a, removal(ground, a, 2))

    later = ground.coordinator.plan(name="b", **FOURTH, **after(a, of_a, 2, MODELS[1]))
    b = ground.coordinator.api.submit_plan(later).plan_id
    officer.erasures.decide(ground.case(release).case_id, "withdraw", reason="they left")
    known = calls.kept_models(a)
    assert (known.undecided, known.needed) == (False, (2,))
    with pytest.raises(Conflict, match="still needed: 2"):
        calls.report_removal(a, removal(ground, a, 2))
    officer.reject_plan(b)

    for statement, error in (
        (removal(ground, a, 1, 2), Conflict),  # nobody who was erased is in the first
        (removal(ground, DIGEST, 2), MalformedInput),
    ):
        with pytest.raises(error):
            calls.report_removal(a, statement)
    done = removal(ground, a, 2)
    position = calls.report_removal(a, done).position
    assert calls.report_removal(a, done).position == position  # the same, after a crash
    assert ground.service.last_entry()[:2] == ("coordinator", "erasure.models-removed")
    with pytest.raises(NotFound):
        calls.kept_models(DIGEST)


def test_what_is_made_of_them_and_what_may_be_released_is_waited_for(ground: Ground) -> None:
    a, of_a = finished(ground, name="a")
    c, _ = finished(ground, name="c", **after(a, of_a, 2, MODELS[1]))
    first, second = ground.release(a), ground.release(c, **WITH_START)
    d, _ = finished(ground, name="d")
    ground.erase(a, d, first_rounds={a: 1, d: 0})
    calls, officer = ground.coordinator.api.erasures, ground.officer
    officer.erasures.decide(ground.case(first).case_id, "withdraw", reason="they left")
    assert calls.kept_models(a).undecided  # c's release holds a's rounds
    assert calls.kept_models(c).holds_from == 0
    officer.erasures.decide(ground.case(second).case_id, "withdraw", reason="they left")
    assert not calls.kept_models(a).undecided
    assert not calls.kept_models(c).undecided
    assert calls.kept_models(d).undecided  # it may be released yet, and gets its case then
