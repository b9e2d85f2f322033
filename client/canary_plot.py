"""How far canaries moved, in and out, as a picture: one self-contained SVG, no plotting package."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

if TYPE_CHECKING:  # so that `client --help` does not wait for torch
    from client.learning.canaries import CanaryScores

WIDTH, HEIGHT, MARGIN = 720, 320, 48
BARS = 60
OUT, IN = "#8a6d3b", "#0b6e4f"


def canary_svg(canaries: CanaryScores, title: str) -> str:
    """Draw both histograms over one axis.

    Args:
        canaries: The scores of an audit.
        title: What was audited; escaped.
    """
    import numpy as np

    scores, included = canaries.scores, canaries.included
    # A broken trainer moves canaries very far: the middle of the picture must stay readable.
    low, high = np.quantile(scores, [0.001, 0.999])
    bins = np.linspace(low, high if high > low else low + 1, BARS + 1)
    sides: list[list[int]] = [
        np.histogram(np.clip(scores[side], bins[0], bins[-1]), bins)[0].tolist()
        for side in (~included, included)
    ]
    edges: list[float] = bins.tolist()
    top = max(1, *(max(counts) for counts in sides))

    def x(value: float) -> float:
        return MARGIN + (WIDTH - 2 * MARGIN) * (value - edges[0]) / (edges[-1] - edges[0])

    def y(count: float) -> float:
        return HEIGHT - MARGIN - (HEIGHT - 2 * MARGIN) * count / top

    def outline(counts: Sequence[int], colour: str) -> str:
        corners = [f"{x(edges[0]):.1f},{y(0):.1f}"]
        for left, right, count in zip(edges, edges[1:], counts, strict=False):
            corners += [f"{x(left):.1f},{y(count):.1f}", f"{x(right):.1f},{y(count):.1f}"]
        corners.append(f"{x(edges[-1]):.1f},{y(0):.1f}")
        return (
            f'<polygon points="{" ".join(corners)}" fill="{colour}" fill-opacity="0.25" '
            f'stroke="{colour}"/>'
        )

    ticks = "".join(
        f'<text x="{x(value):.1f}" y="{y(0) + 16:.1f}" text-anchor="middle">{value:.1f}</text>'
        for value in edges[::10]
    )
    caption = (
        f"moved, in standard deviations of the promised noise; those in should move by "
        f"{canaries.expected_effect:.2f} more"
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'font-family="sans-serif" font-size="12" role="img">'
        f"<title>{escape(title)}</title>"
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>'
        f'<text x="{MARGIN}" y="20" font-size="14">{escape(title)}</text>'
        f"{outline(sides[0], OUT)}{outline(sides[1], IN)}"
        f'<line x1="{MARGIN}" x2="{WIDTH - MARGIN}" y1="{y(0):.1f}" y2="{y(0):.1f}" '
        f'stroke="#333333"/>{ticks}'
        f'<text x="{WIDTH / 2}" y="{HEIGHT - 12}" text-anchor="middle">{caption}</text>'
        f'<text x="{WIDTH - MARGIN}" y="36" text-anchor="end" fill="{OUT}">'
        f"out: {int((~included).sum())}</text>"
        f'<text x="{WIDTH - MARGIN}" y="52" text-anchor="end" fill="{IN}">'
        f"in: {int(included.sum())}</text></svg>\n"
    )
