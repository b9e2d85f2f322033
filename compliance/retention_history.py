"""What a log says of retention: which keys were ordered to be shredded, which holds are in force.

* It is read from the entries whose action begins with `retention.`, and from nowhere else.
* A hold that cannot be read is an error: it must not count as one that covers less.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from audit.errors import MalformedInput
from compliance.rules.months import Month
from compliance.rules.retention import Hold

ACTION_PREFIX: Final = "retention."
ORDERED: Final = "retention.ordered"
SHREDDED: Final = "retention.shredded"
HELD: Final = "retention.held"
RELEASED: Final = "retention.released"

HOLD_PREFIX: Final = "hold:"
"""How the object of an entry about a hold begins."""


@dataclass(frozen=True)
class Event:
    """An entry of the log whose action begins with `retention.`."""

    position: int
    time: str
    actor: str
    action: str
    object: str
    payload: Mapping[str, Any]


@dataclass
class History:
    """What the log says of retention so far.

    Attributes:
        ordered: Position of the order for each key that was ordered and not confirmed.
        holds: Holds in force, by name.
    """

    ordered: dict[str, int] = field(default_factory=dict)
    holds: dict[str, Hold] = field(default_factory=dict)

    @classmethod
    def of(cls, events: Iterable[Event]) -> History:
        """What entries say, in order."""
        history = cls()
        for event in events:
            match event.action:
                case "retention.ordered":
                    history.ordered.setdefault(event.object, event.position)
                case "retention.shredded":
                    history.ordered.pop(event.object, None)
                case "retention.held":
                    hold = _read_hold(event)
                    history.holds[hold.name] = hold
                case "retention.released":
                    history.holds.pop(event.object.removeprefix(HOLD_PREFIX), None)
                case _:
                    pass
        return history


def _read_hold(event: Event) -> Hold:
    payload = event.payload
    return Hold(
        name=event.object.removeprefix(HOLD_PREFIX),
        action=payload["action"],
        first=_month(payload["first"]),
        last=_month(payload["last"]),
        reason=payload["reason"],
        placed_by=event.actor,
        placed_at=event.time,
    )


def _month(text: str | None) -> Month | None:
    month = None if text is None else Month.parse(text)
    if text is not None and month is None:
        # A hold that cannot be read must not count as one that covers less.
        raise MalformedInput(f"malformed hold in the log: {text} is no month")
    return month
