"""How well de-identification does: measured on labelled text, with limits, kept and bound."""

from __future__ import annotations

import itertools
import json
import math
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from audit.errors import ExitCode, MalformedInput, VerificationFailed
from client.deidentification.measurement import (
    CharacterCounts,
    LabelledText,
    measurement_of,
    read_labelled,
)
from client.deidentification.pipeline import Deidentified, Outcome, Quarantined, Reason
from client.recall.bounds import ALPHA, mean_at_least, ratio_intervals, share_at_most
from client.recall.evaluation import evaluate, evaluation_of
from client.recall.kept import Measured, Measurements
from client.site import Site
from client.vault import Vault
from compliance.rules.deidentification import shortfall
from compliance.statements import DeidentificationDemand, DeidentificationFigures
from tests.client.data.records import PIPELINE, ROWS, add, journalled

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
OTHER = "sha256:" + "cd" * 32


def figures(**changes: Any) -> DeidentificationFigures:
    return DeidentificationFigures.model_validate(
        {
            "method": "evaluation",
            "recall": "0.99",
            "recall_at_least": "0.95",
            "leak_share": "0.02",
            "leak_share_at_most": "0.06",
            "measured_at": "2026-11-20T12:00:00.000Z",
            **changes,
        }
    )


# --- limits ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.02, 0.2])
def test_limits_err_at_most_as_often_as_they_say(share: float) -> None:
    """Exactly, over every sample of 40 texts, each of which loses all or nothing."""
    count, err_low, err_high = 40, 0.0, 0.0
    for missed in range(count + 1):
        chance = math.comb(count, missed) * share**missed * (1 - share) ** (count - missed)
        values = [0.0] * missed + [1.0] * (count - missed)
        err_low += chance * (mean_at_least(values) > 1 - share)
        err_high += chance * (share_at_most(missed, count) < share)
    assert err_low <= ALPHA
    assert err_high <= ALPHA


def test_limits_tighten_with_the_sample_and_meet_where_nothing_was_missed() -> None:
    limits = [mean_at_least([0.9] * count) for count in (1, 10, 100, 1000, 10_000)]
    assert all(smaller < larger for smaller, larger in itertools.pairwise(limits))
    assert 0.85 < limits[-1] < 0.9
    for count in (1, 20, 300):
        assert mean_at_least([1.0] * count) == pytest.approx(1 - share_at_most(0, count))
    assert (mean_at_least([0.0]), share_at_most(3, 3)) == (0.0, 1.0)


def test_an_interval_of_a_ratio_is_by_texts_not_characters() -> None:
    spread = [(100, 100)] * 9 + [(100, 0)]
    alike = [(100, 90)] * 10
    ((low, high), *_) = ratio_intervals(spread, [(1, 0)])
    assert low < 0.8
    assert high == 1.0
    assert ratio_intervals(alike, [(1, 0)]) == [(0.9, 0.9)]
    assert ratio_intervals(spread, [(1, 0)]) == ratio_intervals(spread, [(1, 0)])


def test_figures_are_those_of_the_counts() -> None:
    counts = [CharacterCounts(10, 10, 12), CharacterCounts(10, 8, 8), CharacterCounts(0, 0, 0)]
    found = evaluation_of(measurement_of(counts, {"PERSON": 4}, {"PERSON": 3}), 2)
    assert (found.texts, found.kept_out) == (3, 2)
    assert found.recall.value == pytest.approx(18 / 20)
    assert found.precision.value == pytest.approx(18 / 20)
    assert found.f2.value == pytest.approx(5 * 18 / (4 * 20 + 20))
    assert found.leaks.value == pytest.approx(1 / 3)
    assert found.spans["PERSON"].value == 0.75
    # A text without an identifier says nothing of recall, and something of leaks.
    assert found.recall_at_least == mean_at_least([1.0, 0.8])
    assert found.leaks_at_most == share_at_most(1, 3)
    for figure in (found.recall, found.precision, found.f2, found.leaks, found.spans["PERSON"]):
        assert figure.interval[0] <= figure.value <= figure.interval[1]
    told = found.figures("evaluation", "2026-11-20T12:00:00.000Z")
    assert told.recall_at_least <= Decimal(repr(found.recall_at_least))
    assert told.leak_share_at_most >= Decimal(repr(found.leaks_at_most))


# --- labelled files -------------------------------------------------------------------------------

ANN: dict[str, Any] = {
    "full_text": "Ann left",
    "spans": [{"entity_type": "PERSON", "start_position": 0, "end_position": 3}],
    "template_id": 7,
}


def labelled(folder: Path, content: Any) -> Path:
    path = folder / "labelled.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), "utf-8")
    return path


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("not json", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ({}, "expected a list"),
        ([], "holds no text"),
        ([{"spans": []}], "0.full_text: Field required"),
        ([ANN, {**ANN, "spans": [{**ANN["spans"][0], "end_position": 9}]}], "1.spans: 0 to 9"),
        ([{**ANN, "spans": [{**ANN["spans"][0], "end_position": 0}]}], "0.spans: 0 to 0"),
        ([{**ANN, "spans": [{**ANN["spans"][0], "start_position": -1}]}], "greater than or equal"),
    ],
)
def test_a_file_that_is_no_labelled_text_is_refused(
    tmp_path: Path, content: Any, says: str
) -> None:
    with pytest.raises(MalformedInput, match=says) as refused:
        read_labelled(labelled(tmp_path, content))
    assert "Ann" not in str(refused.value)


def test_what_cannot_be_measured_is_said_and_not_a_perfect_score() -> None:
    nobody = [LabelledText(full_text="nobody here", spans=())]
    with pytest.raises(MalformedInput, match="no text with a labelled identifier"):
        evaluate(nobody, lambda records: [Deidentified(one.text) for one in records])

    def kept_out(records: Any) -> list[Outcome]:
        return [Quarantined(Reason.NOT_TEXT) for _ in records]

    with pytest.raises(MalformedInput, match="keeps out every text"):
        evaluate([LabelledText.model_validate(ANN)], kept_out)


# --- kept at the site -----------------------------------------------------------------------------


def test_a_measurement_is_of_one_pipeline_and_one_version_of_a_dataset(
    site: Site, vault: Vault
) -> None:
    dataset = add(site, vault, *ROWS)
    kept = Measurements(site.paths, site.keyring)
    assert kept.of(dataset) == ()
    evaluation = Measured(figures(), {"texts": 3, "share": 0.25})
    review = Measured(figures(method="review"), {})
    kept.keep(OTHER, evaluation, site.journal, site.principal, "")
    assert kept.of(dataset) == ()
    kept.keep(PIPELINE, review, site.journal, site.principal, "another version")
    assert kept.of(dataset) == ()
    kept.keep(PIPELINE, evaluation, site.journal, site.principal, "")
    kept.keep(PIPELINE, review, site.journal, site.principal, dataset.id)
    assert kept.of(dataset) == (evaluation, review)
    newer = Measured(figures(recall_at_least="0.5"), {})
    kept.keep(PIPELINE, newer, site.journal, site.principal, "")
    assert kept.of(dataset) == (newer, review)
    assert journalled(site).count("deidentification-measured") == 5


def test_a_measurement_that_was_altered_or_moved_does_not_count(site: Site, vault: Vault) -> None:
    dataset = add(site, vault, *ROWS)
    kept = Measurements(site.paths, site.keyring)
    kept.keep(OTHER, Measured(figures(), {}), site.journal, site.principal, "")
    (other,) = site.paths.measurements.iterdir()
    assert b"recall" not in other.read_bytes()
    own = other.with_name(other.name.replace("cd", "ab"))
    own.write_bytes(other.read_bytes())
    with pytest.raises(VerificationFailed, match="altered or moved"):
        kept.of(dataset)
    own.write_bytes(b"")
    with pytest.raises(VerificationFailed, match="altered or moved"):
        kept.of(dataset)


def test_evaluate_as_an_operator_types_it(
    typed: Any, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = tmp_path / "notes.csv"
    notes.write_text("who,what\nP-1,Please call Maria Lopez.\n", "utf-8")
    assert (
        typed("add", str(notes), "--kind", "language", "--subject", "who", "--text", "what")[0] == 0
    )
    path = labelled(tmp_path, [ANN, {"full_text": "zzyx qu", "spans": [
        {"entity_type": "CODE", "start_position": 0, "end_position": 4}]}])  # fmt: skip
    code, out, _ = typed("evaluate", str(path), "--json", group="deidentify")
    assert code == ExitCode.OK
    measured = json.loads(out)
    assert measured["texts"] == 2
    assert set(measured["full_span_recall"]) == {"CODE", "PERSON"}
    (shown,) = json.loads(typed("list", "--json")[1])
    assert shown["deidentification_digest"] == measured["deidentification_digest"]
    (told,) = shown["deidentification_measured"]
    assert told["measured_at"] == measured["measured_at"]
    assert Decimal(told["recall"]) == Decimal(repr(measured["character_recall"]["value"])).quantize(
        Decimal("0.0001"), "ROUND_FLOOR"
    )
    assert f"at least {told['recall_at_least']}" in typed("show", "default")[1]
    assert "character recall" in typed("evaluate", str(path), group="deidentify")[1]
    assert typed("evaluate", "nothing.json", group="deidentify")[0] == ExitCode.NOT_FOUND


# --- what is asked --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("demand", "measured", "why"),
    [
        ({"minimum_recall": "0.95"}, [figures()], ""),
        ({"minimum_recall": "0.96"}, [figures()], "a recall of at least 0.95, 0.96 is asked"),
        ({"maximum_leak_share": "0.06"}, [figures()], ""),
        ({"maximum_leak_share": "0.05"}, [figures()], "at most 0.06 of texts with a leak, 0.05"),
        ({"minimum_recall": "0.5"}, [], "not measured"),
        ({"minimum_recall": "0.5", "measured": "review"}, [figures()], "not measured by review"),
        ({"minimum_recall": "0.5", "not_older_than_days": 6}, [figures()], ""),
        ({"minimum_recall": "0.5", "not_older_than_days": 5}, [figures()], "within 5 days"),
        (
            {"minimum_recall": "0.96"},
            [figures(), figures(method="review", recall_at_least="0.97")],
            "",
        ),
        # Two measurements do not share a demand out.
        (
            {"minimum_recall": "0.96", "maximum_leak_share": "0.06"},
            [figures(), figures(method="review", recall_at_least="0.97", leak_share_at_most="0.2")],
            "0.96 is asked",
        ),
    ],
)
def test_limits_decide_whether_a_demand_is_kept(
    demand: dict[str, Any], measured: list[DeidentificationFigures], why: str
) -> None:
    said = shortfall(DeidentificationDemand.model_validate(demand), measured, NOW)
    assert why in said
    assert bool(why) == bool(said)


def test_a_demand_that_asks_nothing_is_none() -> None:
    with pytest.raises(ValidationError, match="minimum_recall, maximum_leak_share or both"):
        DeidentificationDemand()
    later = NOW + timedelta(days=400)
    demand = DeidentificationDemand(minimum_recall=Decimal("0.1"))
    assert "within 365 days" in shortfall(demand, [figures()], later)
