"""The privacy budget as a picture: how ε grew with the rounds, and where the limit is.

* One self-contained SVG: no script, no font, no request to anywhere.
* It needs no plotting package, which a site would have to install for this alone.
* Texts that came from elsewhere (plans' names) are escaped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from xml.sax.saxutils import escape

from client.budget import Budget
from client.budget_history import Reading

WIDTH, HEIGHT = 720, 320
LEFT, RIGHT, TOP, BOTTOM = 56, 150, 24, 44

SPENT, RESERVED, LIMIT = "#0b6e4f", "#b7791f", "#8a1c4a"

TICKS = 5

_Scale = Callable[[float], float]


def budget_svg(budget: Budget, history: Sequence[Reading]) -> str:
    """Draw a budget.

    Args:
        budget: The whole budget.
        history: Its readings, oldest first; may be empty.
    """
    rounds = history[-1].rounds if history else 0
    tops = [float(budget.committed), *(float(reading.epsilon) for reading in history)]
    if budget.limit is not None:
        tops.append(float(budget.limit))
    top = max(*tops, 1e-9) * 1.08

    def x(count: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * count / max(rounds, 1)

    def y(epsilon: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * epsilon / top

    parts = [_axes(x, y, rounds, top)]
    points = [(0, 0.0), *((reading.rounds, float(reading.epsilon)) for reading in history)]
    line = " ".join(f"{x(count):.1f},{y(epsilon):.1f}" for count, epsilon in points)
    parts.append(f'<polyline points="{line}" fill="none" stroke="{SPENT}" stroke-width="2"/>')
    parts += [
        f'<circle cx="{x(count):.1f}" cy="{y(epsilon):.1f}" r="2.5" fill="{SPENT}"/>'
        for count, epsilon in points[1:]
    ]
    parts += _plan_ends(budget, history, x)
    marks = [(float(budget.spent), SPENT, f"spent {budget.spent}")]
    if budget.committed > budget.spent:
        marks.append((float(budget.committed), RESERVED, f"and reserved {budget.committed}"))
    if budget.limit is not None:
        marks.append((float(budget.limit), LIMIT, f"limit {budget.limit}"))
    parts += _marks(marks, y)
    title = f"epsilon at delta {budget.delta:f}, for adding or removing one data subject"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'font-family="sans-serif" font-size="11"><title>{escape(title)}</title>'
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>'
        f'<text x="{LEFT}" y="15">{escape(title)}</text>' + "".join(parts) + "</svg>\n"
    )


def _axes(x: _Scale, y: _Scale, rounds: int, top: float) -> str:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    parts = [
        f'<path d="M{LEFT} {TOP}V{bottom}H{right}" fill="none" stroke="black"/>',
        f'<text x="{(LEFT + right) / 2}" y="{HEIGHT - 8}" text-anchor="middle">'
        "rounds started, of all plans</text>",
    ]
    for step in range(TICKS + 1):
        epsilon = top / 1.08 * step / TICKS
        parts.append(
            f'<text x="{LEFT - 6}" y="{y(epsilon) + 4:.1f}" text-anchor="end">{epsilon:.2f}</text>'
        )
    parts += [
        f'<text x="{x(step):.1f}" y="{bottom + 15}" text-anchor="middle">{step}</text>'
        for step in sorted({round(rounds * n / TICKS) for n in range(TICKS + 1)})
    ]
    return "".join(parts)


def _plan_ends(budget: Budget, history: Sequence[Reading], x: _Scale) -> list[str]:
    """A thin line where a plan's last round so far is, with its name on hover."""
    names = {plan.plan_id: plan.plan_name for plan in budget.plans}
    last = {reading.plan_id: reading.rounds for reading in history}
    return [
        f'<path d="M{x(count):.1f} {TOP}V{HEIGHT - BOTTOM}" stroke="#999" stroke-dasharray="2 3">'
        f"<title>{escape(names.get(plan_id, plan_id))}</title></path>"
        for plan_id, count in last.items()
    ]


def _marks(marks: Sequence[tuple[float, str, str]], y: _Scale) -> list[str]:
    parts = []
    lowest = HEIGHT - BOTTOM + 12.0
    for epsilon, colour, label in marks:
        baseline = min(y(epsilon) + 4, lowest - 13)  # labels of equal values stand above each other
        lowest = baseline
        parts.append(
            f'<path d="M{LEFT} {y(epsilon):.1f}H{WIDTH - RIGHT}" stroke="{colour}" '
            f'stroke-dasharray="6 3"/><text x="{WIDTH - RIGHT + 6}" y="{baseline:.1f}" '
            f'fill="{colour}">{escape(label)}</text>'
        )
    return parts
