"""The benchmark's own parts: who gets which rows, what it runs, and what it says without data."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest

from bench.accuracy import product, tutorials
from bench.accuracy.cli import EXIT_SKIPPED, entries, gaps, main, tell
from bench.accuracy.datasets import (
    HEART,
    HOSPITALS,
    SITES,
    Dataset,
    deal,
    describe_skew,
    hold_out,
    read_banking77,
    read_heart_disease,
    read_medical_abstracts,
)
from bench.accuracy.product import DELTA, Score, plain_run, private_run
from client.learning.accounting import events_of, reported_epsilon
from client.learning.data import StoredRecord

LABELS = tuple(f"label {number}" for number in range(10))
RECORDS = [StoredRecord(f"row-{n}", f"text {n}", LABELS[n % 10]) for n in range(2000)]

ROW = "{age},1.0,{pain},{pressure},0,1.0,2.0,{rate},0.0,2.3,3.0,NaN,6.0,{diagnosis}"


@pytest.fixture
def heart(tmp_path: Path) -> Dataset:
    random = np.random.default_rng(0)
    for hospital in HOSPITALS:
        rows = [
            ROW.format(
                age=random.integers(20, 100),
                pain=random.integers(1, 5),
                pressure=random.integers(80, 200),
                rate=random.integers(60, 220),
                diagnosis=number % 2 * random.integers(1, 5),
            )
            for number in range(30)
        ]
        (tmp_path / f"processed.{hospital}.data").write_text("\n".join(rows), encoding="utf-8")
    return read_heart_disease(tmp_path)


def test_without_the_data_it_says_so_and_exits_as_skipped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FIDUCIARY_DATA", str(tmp_path / "nowhere"))
    assert main(["--quick"]) == EXIT_SKIPPED
    told = capsys.readouterr()
    assert told.out == ""
    assert "FIDUCIARY_DATA" in told.err
    assert "nowhere" in told.err


def test_no_runs_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["--seeds", "0"])
    assert "at least 1" in capsys.readouterr().err


def test_every_row_goes_to_one_site_and_always_the_same() -> None:
    dealt = deal(RECORDS, SITES, LABELS)
    subjects = [record.subject for site in dealt.values() for record in site]
    assert sorted(subjects) == sorted(record.subject for record in RECORDS)
    assert dealt == deal(RECORDS, SITES, LABELS)


def test_the_deal_is_skewed_and_the_skew_is_told() -> None:
    dealt = deal(RECORDS, SITES, LABELS)
    shares = np.array(
        [[sum(r.label == k for r in site) for k in LABELS] for site in dealt.values()]
    )
    assert (shares.max(axis=0) / shares.sum(axis=0)).mean() > 0.5
    dataset = Dataset("some", "text-classification", "base", LABELS, 500, dealt, RECORDS[:1])
    lines = list(describe_skew(dataset))
    assert [line.split()[0] for line in lines] == list(SITES)
    assert all(float(line.rsplit(" ", 1)[1]) > 0.1 for line in lines)


def test_copies_of_a_text_are_held_out_together() -> None:
    copies = [StoredRecord(f"copy-{n}", r.text, LABELS[0]) for n, r in enumerate(RECORDS)]
    training, held_out = hold_out(RECORDS + copies)
    assert len(held_out) == 2 * round(len(RECORDS) * 0.2)
    assert not {record.text for record in training} & {record.text for record in held_out}
    assert hold_out(RECORDS + copies) == (training, held_out)


def test_each_row_of_a_table_of_texts_is_a_subject(tmp_path: Path) -> None:
    for part in ("train", "test"):
        rows = 'text,category\n"hello, you",a\nbye,b\n'
        (tmp_path / f"{part}.csv").write_text(rows, encoding="utf-8")
    banking = read_banking77(tmp_path)
    assert banking.test == [
        StoredRecord("test-0", "hello, you", "a"),
        StoredRecord("test-1", "bye", "b"),
    ]
    assert banking.labels == ("a", "b")


def test_abstracts_get_the_names_of_their_conditions(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text(
        "condition_label,condition_name\n1,neoplasms\n2,digestive system diseases\n", "utf-8"
    )
    rows = "".join(f"{1 + n % 2},abstract {n}\n" for n in range(20))
    (tmp_path / "abstracts.csv").write_text(f"condition_label,medical_abstract\n{rows}", "utf-8")
    medical = read_medical_abstracts(tmp_path)
    assert medical.labels == ("neoplasms", "digestive system diseases")
    assert len(medical.test) == 4
    assert {record.label for record in medical.test} <= set(medical.labels)


def test_hospitals_are_sites_and_what_cannot_be_is_missing(heart: Dataset) -> None:
    assert list(heart.sites) == list(HOSPITALS)
    assert [len(records) for records in heart.sites.values()] == [24] * 4
    cells = json.loads(heart.test[0].text)
    assert set(cells) == {feature.name for feature in HEART}
    assert cells["chol"] == ""
    assert {record.label for record in heart.test} == {"healthy", "disease"}


@pytest.mark.parametrize("epsilon", [3, 8])
@pytest.mark.parametrize("central", [False, True])
def test_a_private_run_costs_what_it_says(heart: Dataset, epsilon: int, central: bool) -> None:
    run = private_run(heart, epsilon, central=central)
    assert run.key == f"heart_disease.{'central' if central else 'federated'}_dp_epsilon_{epsilon}"
    assert Decimal("0.97") * epsilon < reported_epsilon(events_of(run.phases), DELTA) <= epsilon
    assert run.nominal_subjects == (800 if central else 200)
    assert sum(map(len, run.sites.values())) == 96
    assert f"at δ = {DELTA}" in run.promise()


def test_a_plain_run_promises_nothing(heart: Dataset) -> None:
    run = plain_run(heart, central=False)
    assert run.promise() == "no guarantee"
    assert run.phases[0].noise_multiplier == Decimal("0.000001")


WHO = ("federated", "distributed", "central")


def test_every_figure_of_the_issue_has_a_key(heart: Dataset) -> None:
    keys = [entry.key for entry in entries(heart, 3, None, quick=False, with_tutorials=None)]
    assert len(keys) == len(set(keys))
    assert set(keys) == {
        f"heart_disease.{name}"
        for name in (
            *(f"{who}_dp_epsilon_{e}" for who in WHO for e in (8, 3)),
            "federated_plain",
            "central_plain",
            "opacus_fedavg_epsilon_8",
            "opacus_fedavg_epsilon_3",
        )
    }
    assert [e.key for e in entries(heart, 3, None, quick=True, with_tutorials=None)] == [
        "heart_disease.federated_dp_epsilon_8"
    ]
    alone = entries(heart, 3, None, quick=False, with_tutorials="alone")
    assert [e.key for e in alone] == [f"heart_disease.opacus_fedavg_epsilon_{e}" for e in (8, 3)]


def test_repetitions_differ_and_a_seed_repeats_them(heart: Dataset) -> None:
    run = private_run(heart, 3, central=False)
    steps: list[None] = []
    scores = list(product.scores_of(run, 3, 0, lambda: steps.append(None)))
    assert len(steps) == 3 * run.steps
    assert len({score.accuracy for score in scores}) > 1
    assert scores == list(product.scores_of(run, 3, 0, lambda: None))


def test_the_baseline_averages_sites_after_each_epoch(heart: Dataset) -> None:
    rounds: list[None] = []
    scores = list(tutorials.scores_of(heart, 8, 1, 0, lambda: rounds.append(None)))
    assert len(rounds) == tutorials.rounds_of(heart)
    assert 0 <= scores[0].accuracy <= 1


def test_means_spread_and_gap_are_told(heart: Dataset) -> None:
    entry = next(entries(heart, 2, None, quick=False, with_tutorials=None))
    line = tell(entry, [Score(0.8, 0.7), Score(0.9, 0.8)], 1.0)
    assert "accuracy 0.8500 ± 0.0707 (2 runs), macro F1 0.7500" in line
    results = {"x.federated_plain": 0.9, "x.federated_dp_epsilon_8": 0.88}
    assert list(gaps("x", results)) == ["x: ε = 8 costs 2.0 points of accuracy"]
