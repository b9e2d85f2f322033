"""A sweep as a picture: accuracy over epsilon, or over the rounds of one epsilon.

One self-contained SVG, as `client.budget_plot` makes them: no script, no font, no plotting package.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final
from xml.sax.saxutils import escape

from audit.words import count_of
from server.simulation.results import Figures

WIDTH, HEIGHT = 720, 360
LEFT, RIGHT, TOP, BOTTOM = 56, 170, 24, 44
COLOURS: Final = ("#0b6e4f", "#8a1c4a", "#1c4a8a", "#b7791f", "#5b3a8c", "#3a6b7a")
TICKS: Final = 5

Series = tuple[str, Sequence[tuple[float, float]]]
"""A name and its points, from left to right."""


def sweep_svg(figures: Sequence[Figures]) -> str:
    """Draw a sweep.

    Args:
        figures: Of its variants, at least one.
    """
    by_epsilon = len({each.epsilon for each in figures}) > 1
    series = _over_epsilon(figures) if by_epsilon else _over_rounds(figures)
    title = (
        "simulated accuracy over epsilon; thin lines: lowest to highest site"
        if by_epsilon
        else f"simulated accuracy over rounds, epsilon {figures[0].epsilon}"
    )
    xs = [x for _, points in series for x, _ in points] or [0.0, 1.0]
    low, high = min(xs), max(xs)

    def x(value: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (value - low) / ((high - low) or 1.0)

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * value

    parts = [_axes(title, "epsilon of each site" if by_epsilon else "round", x, y, low, high)]
    baseline = -math.inf
    for number, (name, points) in sorted(
        enumerate(series), key=lambda item: -(item[1][1][-1][1] if item[1][1] else 0)
    ):
        if not points:
            continue
        colour = COLOURS[number % len(COLOURS)]
        line = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in points)
        dots = "".join(
            f'<circle cx="{x(a):.1f}" cy="{y(b):.1f}" r="2.5" fill="{colour}"/>' for a, b in points
        )
        baseline = max(baseline + 13, y(points[-1][1]) + 4)
        parts.append(
            f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>{dots}'
            f'<text x="{WIDTH - RIGHT + 8}" y="{baseline:.1f}" fill="{colour}">'
            f"{escape(name)}</text>"
        )
    if by_epsilon:
        parts += [
            f'<path d="M{x(float(each.epsilon)):.1f} {y(each.accuracy_of_sites.lowest):.1f}'
            f'V{y(each.accuracy_of_sites.highest):.1f}" stroke="#999"/>'
            for each in figures
            if each.accuracy_of_sites is not None
        ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'font-family="sans-serif" font-size="11"><title>{escape(title)}</title>'
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>' + "".join(parts) + "</svg>\n"
    )


def _over_epsilon(figures: Sequence[Figures]) -> list[Series]:
    """A line for each clipping norm and number of rounds."""
    lines: dict[str, list[tuple[float, float]]] = {}
    for each in sorted(figures, key=lambda each: each.epsilon):
        if each.last is None or each.last.accuracy is None:
            continue
        points = lines.setdefault(_without_epsilon(each), [])
        points.append((float(each.epsilon), each.last.accuracy))
    return list(lines.items())


def _over_rounds(figures: Sequence[Figures]) -> list[Series]:
    return [
        (
            _without_epsilon(each),
            [
                (float(one.round + 1), one.accuracy)
                for one in each.history
                if one.accuracy is not None
            ],
        )
        for each in figures
    ]


def _without_epsilon(figures: Figures) -> str:
    norms = "/".join(f"{norm:g}" for norm in dict.fromkeys(figures.clipping))
    return f"{count_of(figures.rounds, 'round')}, clip {norms}"


def _axes(
    title: str,
    below: str,
    x: Callable[[float], float],
    y: Callable[[float], float],
    low: float,
    high: float,
) -> str:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    parts = [
        f'<text x="{LEFT}" y="15">{escape(title)}</text>',
        f'<path d="M{LEFT} {TOP}V{bottom}H{right}" fill="none" stroke="black"/>',
        f'<text x="{(LEFT + right) / 2}" y="{HEIGHT - 8}" text-anchor="middle">{below}</text>',
    ]
    for step in range(TICKS + 1):
        share = step / TICKS
        parts.append(
            f'<text x="{LEFT - 6}" y="{y(share) + 4:.1f}" text-anchor="end">{share:.1f}</text>'
        )
        value = low + (high - low) * share
        parts.append(
            f'<text x="{x(value):.1f}" y="{bottom + 15}" text-anchor="middle">{value:.3g}</text>'
        )
    return "".join(parts)
