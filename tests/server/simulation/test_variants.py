"""Plans of a simulation: what is replaced, what is swept, and what is said of the rest."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from audit.errors import MalformedInput
from client.learning.accounting import epsilon_of, events_of
from client.simulation.partition import site_names
from server.errors import MalformedPlanFile
from server.simulation.variants import (
    FEDERATION,
    MAX_VARIANTS,
    Variant,
    left_out,
    plan_of,
    share_of_data,
    variants,
)
from tests.server.simulation.small import PLAN, plan_file, small_plan

TEN = site_names(10)


@pytest.mark.parametrize(
    ("stated", "given", "expected"), [("", None, 10), ("quorum = 1", None, 5), ("", 3, 3)]
)
def test_simulated_sites_take_the_place_of_the_file_s_and_the_quorum_keeps_its_share(
    tmp_path: Path, stated: str, given: int | None, expected: int
) -> None:
    file, path = plan_file(tmp_path, PLAN.replace("rounds = 4", f"rounds = 4\n{stated}"))
    plan = plan_of(file, path, TEN, Variant(), given)
    assert (plan.sites, plan.quorum, plan.federation) == (TEN, expected, FEDERATION)


def test_a_sweep_solves_the_noise_for_each_epsilon(tmp_path: Path) -> None:
    file, path = plan_file(tmp_path)
    for each in variants([Decimal(1), Decimal(3)], [2], []):
        plan = plan_of(file, path, TEN, each)
        spent = epsilon_of(events_of(plan.phases), plan.privacy.delta)
        assert each.epsilon is not None
        assert 0.95 * float(each.epsilon) < spent <= float(each.epsilon)
        assert plan.rounds == 2


def test_another_clipping_norm_leaves_noise_and_epsilon_as_they_were(tmp_path: Path) -> None:
    file, path = plan_file(tmp_path)
    plain = plan_of(file, path, TEN, Variant())
    clipped = plan_of(file, path, TEN, Variant(clipping=Decimal("0.6")))
    for before, after in zip(plain.phases, clipped.phases, strict=True):
        assert after.max_grad_norm == Decimal("0.6")
        assert after.noise_multiplier == before.noise_multiplier
        assert float(after.learning_rate * after.max_grad_norm) == pytest.approx(
            float(before.learning_rate * before.max_grad_norm), rel=1e-3
        )


def test_rounds_cannot_be_swept_where_the_file_states_its_phases(tmp_path: Path) -> None:
    phase = """
[[phases]]
kind = "full"
rounds = 3
steps_per_round = 1
sampling_rate = 1.0
learning_rate = 1.0
max_grad_norm = 0.3
"""
    file, path = plan_file(tmp_path, PLAN.replace("rounds = 4\n", "") + phase)
    assert plan_of(file, path, TEN, Variant()).rounds == 3
    with pytest.raises(MalformedPlanFile, match="states its own rounds"):
        plan_of(file, path, TEN, Variant(rounds=2))


def test_variants_are_all_combinations_each_once() -> None:
    assert variants([], [], []) == (Variant(),)
    assert len(variants([Decimal(1), Decimal(2)], [3, 4, 5], [Decimal(1)])) == 6
    with pytest.raises(MalformedInput, match="given twice"):
        variants([Decimal(1), Decimal("1.0")], [], [])
    with pytest.raises(MalformedInput, match=f"more than {MAX_VARIANTS}"):
        variants([], list(range(1, MAX_VARIANTS + 2)), [])


def test_what_is_not_simulated_is_said(tmp_path: Path) -> None:
    plain, _ = plan_file(tmp_path)
    assert left_out(plain) == ()
    asked = PLAN.replace(
        "rounds = 4", "rounds = 4\nprivacy_audit = true\nsecure_aggregation = true"
    ).replace("nominal_subjects = 40", "nominal_subjects = 40\nnoise_sites = 2")
    file, path = plan_file(tmp_path, asked)
    told = " ".join(left_out(file))
    for name in ("secure_aggregation", "noise_sites", "privacy_audit"):
        assert name in told
    plan = plan_of(file, path, TEN, Variant())
    assert not plan.secure_aggregation
    assert not plan.privacy_audit
    assert plan.privacy.noise_sites is None
    transport = '\n[transport]\nprecision = "int8"\ncompression = "deflate"\n'
    lean, path = plan_file(tmp_path, PLAN + transport)
    assert left_out(lean) == ()
    assert plan_of(lean, path, TEN, Variant()).transport == lean.transport


def test_nominal_subjects_far_from_the_data_are_pointed_out(tmp_path: Path) -> None:
    plan = small_plan(tmp_path, sites=10)
    assert share_of_data(plan, 400) == ""
    assert "too small" in share_of_data(plan, 100)
    assert "too large" in share_of_data(plan, 1000)
