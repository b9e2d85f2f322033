"""What is shown of a simulation, and its picture."""

from __future__ import annotations

import io
from dataclasses import replace
from decimal import Decimal
from xml.etree import ElementTree

import pytest
from rich.console import Console

from server.simulation.plot import sweep_svg
from server.simulation.results import Figures, RoundFigures, Spread
from server.simulation.screens import document_of, failures, print_table
from server.simulation.wire import Conditions


def _figures(epsilon: str = "8", accuracy: float = 0.75, *, rounds: int = 3) -> Figures:
    history = tuple(
        RoundFigures(
            number, "probe", 190, {"unavailable": 10}, 2.5 * (number + 1), accuracy, 0.7, None, 1.5
        )
        for number in range(rounds)
    )
    return Figures(
        epsilon=Decimal(epsilon),
        epsilon_spent=7.9,
        clipping=(0.3, 0.3),
        rounds=3,
        sites=200,
        verdict="completed" if rounds == 3 else "failed",
        reason="" if rounds == 3 else "too few sites",
        history=history,
        accuracy_of_sites=Spread(0.5, 0.74, 0.9, 190),
        macro_f1_of_sites=Spread(0.4, 0.7, 0.88, 190),
        bytes_to_site=320_000,
        bytes_from_site=180_400,
        simulated_seconds=1.5,
        computing_seconds=0.4,
        real_seconds=61.4,
    )


def _printed(figures: list[Figures]) -> str:
    written = io.StringIO()
    print_table(Console(file=written, width=40), figures)
    return written.getvalue()


def test_the_table_has_a_row_for_each_variant_whatever_the_terminal() -> None:
    lines = _printed([_figures("3", 0.7), _figures("8")]).splitlines()
    assert len(lines) == 3
    row = lines[2].split()
    assert row[:4] == ["8", "0.3", "3", "190/200"]
    assert "0.750 (0.50 to 0.90)" in lines[2]
    assert "0.700 (0.40 to 0.88)" in lines[2]
    assert "320.0" in lines[2]
    assert "180.4" in lines[2]


def test_a_language_model_shows_its_perplexity() -> None:
    figures = _figures()
    assert figures.last is not None
    last = replace(figures.last, macro_f1=None, perplexity=12.345)
    text = _printed([replace(figures, history=(last,), macro_f1_of_sites=None)])
    assert "perplexity" in text
    assert "12.35" in text or "12.34" in text
    assert "macro F1" not in text


def test_what_failed_and_who_refused_is_told() -> None:
    assert failures([_figures()]) == []
    assert failures([_figures(rounds=1)]) == ["epsilon 8 failed: too few sites"]
    figures = _figures()
    assert figures.last is not None
    refused = replace(figures.last, absent={"refused: purpose: not allowed": 3})
    told = failures([replace(figures, history=(refused,))])
    assert told == ["epsilon 8: 3 sites refused: purpose: not allowed"]


def test_the_document_says_that_it_is_not_private_and_how_to_repeat_it() -> None:
    document = document_of(
        [_figures()],
        Conditions(seed=9, dropout=0.05),
        sites=200,
        subjects=9,
        records=12,
        said=["x"],
    )
    assert (document["private"], document["seed"]) == (False, 9)
    assert document["assumed"] == {"bandwidth_mbit": 50.0, "dropout": 0.05}
    assert document["variants"][0]["history"][0]["absent"] == {"unavailable": 10}
    assert document["notes"][-1] == "x"


@pytest.mark.parametrize(
    ("figures", "axis", "points"),
    [
        ([_figures("1", 0.5), _figures("3", 0.6), _figures("8", 0.75)], "epsilon of each site", 3),
        ([_figures("8", 0.75)], "round", 3),
        ([_figures("8", rounds=0)], "round", 0),
    ],
)
def test_the_picture_is_over_epsilon_or_over_rounds(
    figures: list[Figures], axis: str, points: int
) -> None:
    root = ElementTree.fromstring(sweep_svg(figures))  # noqa: S314  we wrote it
    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert axis in texts
    assert len(list(root.iter("{http://www.w3.org/2000/svg}circle"))) == points
