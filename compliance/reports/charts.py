"""Geometry of the bars that a report shows. The template draws them as SVG: no script, no picture.

What a bar shows is in a table too, so nobody needs to see it; that a limit is passed is said in
words as well as by colour.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from compliance.report_views import Chart

WIDTH: Final = 720
ROW_HEIGHT: Final = 30
LABEL_WIDTH: Final = 210
VALUE_WIDTH: Final = 230
MAX_LABEL: Final = 30

_TOP: Final = 8
_BAR_HEIGHT: Final = 16


@dataclass(frozen=True)
class DrawnBar:
    """One bar.

    Attributes:
        label: As it fits.
        whole_label: In full.
        y: Of its upper edge, in pixels, as the other lengths.
        width: Of the bar.
        limit_x: Where the limit is; None without one.
        over: Whether it passes the limit.
        words: What it shows, said.
    """

    label: str
    whole_label: str
    y: int
    width: float
    limit_x: float | None
    over: bool
    words: str


@dataclass(frozen=True)
class DrawnChart:
    """A chart, ready to be drawn."""

    id: str
    title: str
    height: int
    bars: tuple[DrawnBar, ...]

    width: int = WIDTH
    label_width: int = LABEL_WIDTH
    bar_height: int = _BAR_HEIGHT


def draw(chart: Chart) -> DrawnChart:
    """Place the bars of a chart."""
    space = WIDTH - LABEL_WIDTH - VALUE_WIDTH
    scale = chart.scale

    def length(value: Decimal) -> float:
        return round(float(max(value, Decimal(0)) / scale) * space, 1)

    bars = []
    for index, bar in enumerate(chart.bars):
        over = bar.limit is not None and bar.value > bar.limit
        limit = "" if bar.limit is None else f" of {bar.limit}"
        bars.append(
            DrawnBar(
                label=bar.label
                if len(bar.label) <= MAX_LABEL
                else f"{bar.label[: MAX_LABEL - 1]}…",
                whole_label=bar.label,
                y=_TOP + index * ROW_HEIGHT,
                width=length(bar.value),
                limit_x=None if bar.limit is None else LABEL_WIDTH + length(bar.limit),
                over=over,
                words=f"{bar.value}{limit} {chart.unit}{', OVER' if over else ''}",
            )
        )
    return DrawnChart(chart.id, chart.title, _TOP * 2 + ROW_HEIGHT * len(bars), tuple(bars))
