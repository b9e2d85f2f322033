"""What a plan needs is checked again when it is loaded, whatever the guard saw before."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from audit.errors import Refused, VerificationFailed
from client.lessons import Lessons
from client.vault.store import Vault
from compliance.statements import TrainingPlan
from tests.client.site.world import World


@pytest.fixture
def lessons(world: World) -> Iterator[Lessons]:
    with Vault.open(world.site.paths, world.site.keyring) as vault:
        yield Lessons(vault, world.site.paths.models)


def prepare(lessons: Lessons, world: World, plan: TrainingPlan) -> None:
    with Vault.open(world.site.paths, world.site.keyring) as vault:
        names = tuple(dataset.name for dataset in vault.datasets())
    lessons.prepare(world.plan_id, plan, names, world.state)


def test_a_plan_that_fits_is_prepared(lessons: Lessons, world: World) -> None:
    prepare(lessons, world, world.plan)
    assert lessons.trained_subjects


def test_a_label_outside_the_plan_is_refused_and_not_named(lessons: Lessons, world: World) -> None:
    known, foreign = world.plan.labels
    plan = world.plan.model_copy(update={"labels": (known, "another")})
    with pytest.raises(Refused, match="a label that the plan does not name") as refused:
        prepare(lessons, world, plan)
    assert foreign not in str(refused.value) + refused.value.fix
    assert not lessons.trained_subjects


def test_a_base_model_that_changed_since_is_refused(lessons: Lessons, world: World) -> None:
    weights = world.site.paths.models / "tiny" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(VerificationFailed, match=r"expected sha256:.*got sha256:"):
        prepare(lessons, world, world.plan)
