"""What a minority of hostile sites can do to the combined update, and what Flower's rules give."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pytest
from flwr.server.strategy.aggregate import aggregate_krum, aggregate_median, aggregate_trimmed_avg
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from audit.errors import MalformedInput
from client.learning.aggregation import combined_update
from client.learning.plan_model import State
from client.learning.robust_rules import RULES, krum, median, trimmed_mean
from compliance.statements import Aggregation

LIKE: State = {"a": np.zeros((2, 3), np.float32), "b": np.zeros(4, np.float32)}
HONEST_LENGTH: Final = 1.0
REACH: Final = 1e4
"""What a hostile site may send: the bound on norms lets a hundred honest updates through."""

ROBUST: Final = ("trimmed-mean", "median", "krum")
ATTACKS: Final = ("flipped", "huge", "colluding", "copied", "nearly honest", "zero")


def flat(update: State) -> npt.NDArray[np.float64]:
    return np.concatenate([update[name].ravel() for name in LIKE]).astype(np.float64)


def state(numbers: npt.NDArray[Any]) -> State:
    first = LIKE["a"].size
    return {
        "a": numbers[:first].reshape(LIKE["a"].shape).astype(np.float32),
        "b": numbers[first:].astype(np.float32),
    }


def length(numbers: npt.NDArray[Any]) -> float:
    return float(np.linalg.norm(numbers))


@dataclass(frozen=True)
class Scene:
    """Honest updates that agree roughly, and what the others send, who know all of them."""

    honest: list[State]
    hostile: list[State]

    @property
    def honest_mean(self) -> npt.NDArray[np.float64]:
        mean: npt.NDArray[np.float64] = np.mean([flat(update) for update in self.honest], axis=0)
        return mean

    @property
    def spread(self) -> float:
        """The largest distance between two honest updates."""
        return max(length(flat(a) - flat(b)) for a in self.honest for b in self.honest)


def attack(kind: str, honest: Sequence[State], count: int, random: np.random.Generator) -> Any:
    mean = np.mean([flat(update) for update in honest], axis=0)
    spread = np.std([flat(update) for update in honest], axis=0)
    maximal = -mean / length(mean) * REACH
    for number in range(count):
        match kind:
            case "flipped":  # the honest mean's opposite, as long as the bound lets through
                yield state(maximal)
            case "huge":
                way = random.normal(size=mean.size)
                yield state(way / length(way) * REACH)
            case "colluding":  # close to each other, far from everybody else
                yield state(maximal / 10 + random.normal(size=mean.size) * 1e-3)
            case "copied":
                yield honest[number % len(honest)]
            case "nearly honest":  # "a little is enough" (Baruch et al. 2019, arXiv 1902.06156)
                yield state(mean - spread)
            case _:
                yield state(np.zeros_like(mean))


@st.composite
def scenes(draw: st.DrawFn, rule: str) -> tuple[Scene, int]:
    tolerated = draw(st.integers(1, 3))
    least = Aggregation.model_validate({"rule": rule, "tolerated": tolerated}).needed_updates
    count = draw(st.integers(least, least + 3))
    hostile = draw(st.integers(0, tolerated))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    way = random.normal(size=flat(LIKE).size)
    way *= HONEST_LENGTH / length(way)
    noise = draw(st.sampled_from([0.0, 0.01, 0.3]))
    honest = [
        state(way + noise * random.normal(size=way.size) / math.sqrt(way.size))
        for _ in range(count - hostile)
    ]
    sent = list(attack(draw(st.sampled_from(ATTACKS)), honest, hostile, random))
    return Scene(honest, sent), tolerated


def combine(rule: str, tolerated: int, updates: Sequence[State]) -> npt.NDArray[np.float64]:
    chosen = Aggregation.model_validate({"rule": rule, "tolerated": tolerated})
    return flat(combined_update(chosen, updates, LIKE))


properties = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.mark.parametrize("rule", ["trimmed-mean", "median"])
@properties
@given(data=st.data())
def test_each_number_lies_among_those_that_honest_sites_sent(
    rule: str, data: st.DataObject
) -> None:
    scene, tolerated = data.draw(scenes(rule))
    result = combine(rule, tolerated, [*scene.hostile, *scene.honest])
    honest = np.stack([flat(update) for update in scene.honest])
    assert (result >= honest.min(axis=0)).all()
    assert (result <= honest.max(axis=0)).all()


@properties
@given(data=st.data())
def test_krum_stays_as_near_to_an_honest_update_as_it_says(data: st.DataObject) -> None:
    scene, tolerated = data.draw(scenes("krum"))
    updates = [*scene.hostile, *scene.honest]
    result, count = combine("krum", tolerated, updates), len(updates)
    assert any((result == flat(update)).all() for update in updates)
    nearest = min(length(result - flat(update)) for update in scene.honest)
    stretch = math.sqrt((count - tolerated - 2) / (count - 2 * tolerated - 1))
    assert nearest <= scene.spread * stretch * (1 + 1e-6) + 1e-9


@pytest.mark.parametrize("kind", ["flipped", "huge", "colluding"])
@pytest.mark.parametrize("count", [5, 8, 11])
@pytest.mark.parametrize("tolerated", [1, 3])
def test_a_mean_is_led_away_and_the_other_rules_are_not(
    kind: str, count: int, tolerated: int
) -> None:
    if count < 2 * tolerated + 3:
        count = 2 * tolerated + 3
    random = np.random.default_rng(count)
    way = np.ones(flat(LIKE).size)
    honest = [state(way + 0.1 * random.normal(size=way.size)) for _ in range(count - tolerated)]
    scene = Scene(honest, list(attack(kind, honest, tolerated, random)))
    updates = [*honest, *scene.hostile]
    led = flat(combined_update(Aggregation(), updates, LIKE))
    assert length(led - scene.honest_mean) > 5 * length(scene.honest_mean)
    for rule in ROBUST:
        kept = combine(rule, tolerated, updates)
        assert length(kept - scene.honest_mean) <= scene.spread, rule
        assert kept @ scene.honest_mean > 0.9 * length(kept) * length(scene.honest_mean), rule


@pytest.mark.parametrize("rule", ROBUST)
def test_one_hostile_site_more_than_is_tolerated_can_win(rule: str) -> None:
    """So that the tests above are known to be able to fail."""
    honest = [state(np.ones(10) + 0.01 * k) for k in range(3)]
    scene = [*honest, *attack("flipped", honest, 4, np.random.default_rng(0))]
    assert length(combine(rule, 1, scene) - 1) > 100


@pytest.mark.parametrize(
    ("rule", "tolerated", "needed"),
    [("trimmed-mean", 1, 3), ("median", 2, 5), ("krum", 1, 5), ("krum", 2, 7)],
)
def test_with_fewer_updates_than_it_needs_no_weaker_rule_stands_in(
    rule: str, tolerated: int, needed: int
) -> None:
    updates = [state(np.full(10, float(number))) for number in range(needed)]
    combine(rule, tolerated, updates)
    with pytest.raises(MalformedInput, match=f"{rule} needs {needed} updates") as refused:
        combine(rule, tolerated, updates[1:])
    assert "no weaker rule" in refused.value.fix


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_lets_nothing_through_that_does_not_fit(rule: str) -> None:
    tolerated = 0 if rule == "mean" else 1
    good = [state(np.ones(10))] * 5
    for bad in ({"a": LIKE["a"]}, {**LIKE, "b": np.full(4, np.nan, np.float32)}):
        with pytest.raises(MalformedInput, match="malformed model state"):
            combine(rule, tolerated, [*good, bad])


@pytest.mark.parametrize("rule", ["trimmed-mean", "median"])
@properties
@given(data=st.data())
def test_who_sent_what_does_not_matter(rule: str, data: st.DataObject) -> None:
    scene, tolerated = data.draw(scenes(rule))
    updates = [*scene.honest, *scene.hostile]
    mixed = data.draw(st.permutations(updates))
    assert combine(rule, tolerated, updates).tolist() == combine(rule, tolerated, mixed).tolist()


@properties
@given(data=st.data())
def test_flower_gives_the_same(data: st.DataObject) -> None:
    scene, tolerated = data.draw(scenes("krum"))
    updates = [*scene.honest, *scene.hostile]
    count = len(updates)
    as_flower = [([u[name].astype(np.float64) for name in LIKE], 1) for u in updates]
    theirs = aggregate_median(as_flower)
    ours = median(updates, tolerated)
    for name, array in zip(LIKE, theirs, strict=True):
        np.testing.assert_array_equal(ours[name], array.astype(np.float32))
    # A fraction that `int(fraction * n)` makes the number of sites of.
    theirs = aggregate_trimmed_avg(as_flower, (tolerated + 0.5) / count)
    ours = trimmed_mean(updates, tolerated)
    for name, array in zip(LIKE, theirs, strict=True):
        np.testing.assert_allclose(ours[name], array, rtol=1e-6, atol=1e-12 * REACH)
    theirs = aggregate_krum(as_flower, tolerated, to_keep=0)
    scores = _krum_scores(updates, tolerated)
    best, second = sorted(scores)[:2]
    if second > best * (1 + 1e-9):  # else both may choose either
        ours = krum(updates, tolerated)
        for name, array in zip(LIKE, theirs, strict=True):
            np.testing.assert_array_equal(ours[name], array.astype(np.float32))


def _krum_scores(updates: Sequence[State], tolerated: int) -> list[float]:
    """As the paper says it, one site at a time."""
    scores = []
    for number, update in enumerate(updates):
        others = [other for at, other in enumerate(updates) if at != number]
        distances = sorted(length(flat(update) - flat(other)) ** 2 for other in others)
        scores.append(sum(distances[: len(updates) - tolerated - 2]))
    return scores


def test_krum_counts_copies_as_sites_and_takes_the_first_of_equals() -> None:
    ones, twos = state(np.ones(10)), state(np.full(10, 2.0))
    updates = [ones, twos, twos, ones, twos, ones]
    assert combine("krum", 1, updates).tolist() == [1.0] * 10
    assert combine("krum", 1, updates[1:]).tolist() == [2.0] * 10
