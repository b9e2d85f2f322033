"""Each subject is whole at exactly one simulated site, and the same seed gives the same deal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit.errors import MalformedInput
from client.learning.data import StoredRecord
from client.simulation.partition import (
    Dealt,
    deal_as_told,
    deal_evenly,
    deal_skewed,
    site_names,
)

LABELS = ("a", "b", "c")


@st.composite
def _records(draw: st.DrawFn, least: int = 8) -> list[StoredRecord]:
    """Subjects with one to three records each, in any order."""
    made = []
    for subject in range(draw(st.integers(least, 40))):
        for number in range(draw(st.integers(1, 3))):
            label = draw(st.sampled_from(LABELS))
            made.append(StoredRecord(f"s{subject}", f"text {number}", label))
    return draw(st.permutations(made))


def _check_whole(dealt: Dealt, records: Sequence[StoredRecord], sites: Sequence[str]) -> None:
    assert set(dealt) == set(sites)
    everything = [record for of in dealt.values() for record in of]
    assert Counter(everything) == Counter(records)
    homes = {(record.subject, site) for site, of in dealt.items() for record in of}
    assert len(homes) == len({record.subject for record in records})


@given(records=_records(), count=st.integers(1, 8), seed=st.integers(0, 2**31))
def test_an_even_deal_keeps_subjects_whole_and_sizes_equal(
    records: list[StoredRecord], count: int, seed: int
) -> None:
    sites = site_names(count)
    dealt = deal_evenly(records, sites, seed)
    _check_whole(dealt, records, sites)
    sizes = [len({record.subject for record in of}) for of in dealt.values()]
    assert max(sizes) - min(sizes) <= 1
    assert deal_evenly(records, sites, seed) == dealt


@given(
    records=_records(),
    count=st.integers(1, 8),
    seed=st.integers(0, 2**31),
    concentration=st.sampled_from((0.05, 0.5, 100.0)),
)
def test_a_skewed_deal_keeps_subjects_whole_and_sizes_equal(
    records: list[StoredRecord], count: int, seed: int, concentration: float
) -> None:
    sites = site_names(count)
    dealt = deal_skewed(records, sites, seed, concentration)
    _check_whole(dealt, records, sites)
    sizes = [len({record.subject for record in of}) for of in dealt.values()]
    assert max(sizes) - min(sizes) <= 1
    assert deal_skewed(records, sites, seed, concentration) == dealt


@given(records=_records(), seed=st.integers(0, 2**31))
def test_a_column_decides_who_is_where(records: list[StoredRecord], seed: int) -> None:
    told = [f"ward {(hash(record) + seed) % 3}" for record in records]
    dealt, several = deal_as_told(records, told)
    _check_whole(dealt, records, site_names(len(set(told))))
    places: dict[str, set[str]] = {}
    for record, value in zip(records, told, strict=True):
        places.setdefault(record.subject, set()).add(value)
    assert several == sum(len(found) > 1 for found in places.values())


def test_a_column_s_values_become_sites_in_their_order() -> None:
    records = [StoredRecord("p", "x"), StoredRecord("q", "y"), StoredRecord("q", "z")]
    dealt, several = deal_as_told(records, ["west", "east", "east"])
    assert dealt == {"sim-001": records[1:], "sim-002": records[:1]}
    assert several == 0


def test_a_small_concentration_skews_and_a_large_one_hardly_does() -> None:
    records = [StoredRecord(f"s{n}", "x", LABELS[n % 3]) for n in range(600)]
    shares = {
        concentration: _largest_share(deal_skewed(records, site_names(20), 3, concentration))
        for concentration in (0.1, 1000.0)
    }
    assert shares[1000.0] < 0.5
    assert shares[0.1] > 0.7


def _largest_share(dealt: Dealt) -> float:
    """Of a site's commonest label, mean over sites."""
    shares = []
    for of in dealt.values():
        counted = Counter(record.label for record in of)
        shares.append(max(counted.values()) / len(of))
    return sum(shares) / len(shares)


def test_another_seed_deals_otherwise() -> None:
    records = [StoredRecord(f"s{n}", "x", "a") for n in range(40)]
    assert deal_evenly(records, site_names(4), 1) != deal_evenly(records, site_names(4), 2)


def test_fewer_subjects_than_sites_are_refused() -> None:
    with pytest.raises(MalformedInput, match="2 subjects cannot be dealt to 3 sites"):
        deal_evenly([StoredRecord("a", "x"), StoredRecord("b", "y")], site_names(3), 0)


def test_a_concentration_is_above_zero() -> None:
    with pytest.raises(MalformedInput, match="must be above 0"):
        deal_skewed([StoredRecord("a", "x")], site_names(1), 0, 0.0)
