"""Training hours: when a site begins rounds, in its own wall time.

* Windows are wall time of one zone, such as `22:00-06:00` in `Europe/Berlin`. One that ends before
  it starts goes past midnight; `24:00` is the end of a day. The end is not part of it.
* Clocks that change move with the wall: on such a night `22:00-06:00` lasts seven or nine hours. A
  window inside the hour that is left out does not happen that day, one inside the hour that comes
  twice happens twice.
* Pure: the moment is passed in. A round that began inside goes on to its end.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from functools import cached_property
from typing import Final
from zoneinfo import ZoneInfo

ALL_DAY: Final = "00:00-24:00"

SEARCH_DAYS: Final = 4
"""How far ahead the next start is looked for: further than a zone has ever left out of its days."""

_WINDOW: Final = re.compile(
    r"([01]\d|2[0-3]):([0-5]\d)-(?:([01]\d|2[0-3]):([0-5]\d)|24:00)", re.ASCII
)
_DAY_MINUTES: Final = 24 * 60


@dataclass(frozen=True)
class Window:
    """A part of each day.

    Attributes:
        start: Minute of the day, 0 to 1439; the first one inside.
        end: Minute of the day, 0 to 1440; the first one outside. Never `start`.
    """

    start: int
    end: int

    @classmethod
    def parse(cls, text: str) -> Window:
        """Read `HH:MM-HH:MM`.

        Raises:
            ValueError: When it is something else, or empty.

        >>> Window.parse("22:00-06:00")
        Window(start=1320, end=360)
        """
        found = _WINDOW.fullmatch(text)
        if found is None:
            raise ValueError(f"expected hours such as 22:00-06:00, got {text[:40]!r}")
        hours, minutes, end_hours, end_minutes = found.groups()
        start = 60 * int(hours) + int(minutes)
        end = _DAY_MINUTES if end_hours is None else 60 * int(end_hours) + int(end_minutes)
        if start == end:
            raise ValueError(f"{text} lasts no time; the whole day is {ALL_DAY}")
        return cls(start, end)

    def includes(self, minute: int) -> bool:
        """Whether a minute of the day is inside."""
        if self.start < self.end:
            return self.start <= minute < self.end
        return minute >= self.start or minute < self.end


def zone_named(name: str) -> ZoneInfo:
    """A time zone by its IANA name.

    Raises:
        ValueError: When this machine knows none of that name.
    """
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        raise ValueError(
            f"unknown time zone {name[:60]!r}; use a name such as Europe/Berlin or UTC"
        ) from error


@dataclass(frozen=True)
class TrainingHours:
    """When a site begins rounds.

    Attributes:
        windows: As the policy writes them, at least one.
        zone: Whose wall time they are.
    """

    windows: tuple[str, ...]
    zone: tzinfo

    def include(self, moment: datetime) -> bool:
        """Whether a round may begin.

        Args:
            moment: With its time zone.
        """
        local = moment.astimezone(self.zone)
        minute = 60 * local.hour + local.minute
        return any(window.includes(minute) for window in self._parsed)

    def next_start(self, moment: datetime) -> datetime | None:
        """The first minute from `moment` on in which a round may begin, in UTC.

        Minute by minute, as the zone's own rules have them: no arithmetic on wall time can be wrong
        about a change of clocks.

        Args:
            moment: With its time zone.

        Returns:
            `moment` itself when it is inside; None when nothing comes within `SEARCH_DAYS`.
        """
        if self.include(moment):
            return moment.astimezone(UTC)
        minute = moment.astimezone(UTC).replace(second=0, microsecond=0)
        for _ in range(SEARCH_DAYS * _DAY_MINUTES):
            minute += timedelta(minutes=1)
            if self.include(minute):
                return minute
        return None

    def refusal(self, moment: datetime) -> str | None:
        """Why no round may begin now, and when the next one may; None when one may.

        The sentence stays the same until the next start, so that a coordinator that asks again and
        again is answered with one signed refusal.
        """
        if self.include(moment):
            return None
        upcoming = self.next_start(moment)
        when = "" if upcoming is None else f"; it trains next from {upcoming:%Y-%m-%dT%H:%MZ}"
        return f"this site begins rounds {self} only{when}"

    @cached_property
    def _parsed(self) -> tuple[Window, ...]:
        return tuple(Window.parse(text) for text in self.windows)

    def __str__(self) -> str:
        return f"{', '.join(self.windows)} {self.zone}"
