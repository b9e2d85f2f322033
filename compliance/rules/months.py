"""Calendar months, in which retention counts.

* A month is all of it: its last instant is what a period counts from. Whole months avoid every
  question about their lengths; the 31st plus one month needs no answer here.
* Months are those of UTC, as are the log's times.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

_MONTH: Final = re.compile(r"([0-9]{4})-(0[1-9]|1[0-2])", re.ASCII)


@dataclass(frozen=True, order=True)
class Month:
    """One month of one year."""

    year: int
    number: int

    @classmethod
    def parse(cls, text: str) -> Month | None:
        """The month that `2026-01` names; None when it names none.

        >>> Month.parse("2026-01"), Month.parse("2026-13")
        (Month(year=2026, number=1), None)
        """
        match = _MONTH.fullmatch(text)
        return None if match is None else cls(int(match[1]), int(match[2]))

    @classmethod
    def of(cls, moment: datetime) -> Month:
        """The month, in UTC, of a time with a zone.

        Raises:
            ValueError: When it has no zone: it could be of two months.
        """
        if moment.tzinfo is None:
            raise ValueError("a time without a zone has no month")
        utc = moment.astimezone(UTC)
        return cls(utc.year, utc.month)

    def plus(self, months: int) -> Month:
        """So many months later.

        >>> str(Month(2024, 11).plus(3))
        '2025-02'
        """
        count = self.year * 12 + self.number - 1 + months
        return Month(count // 12, count % 12 + 1)

    def first_after(self, months: int) -> Month:
        """The first month that begins when even this month's last instant is `months` months ago.

        An entry of 31 August is six months old when February ends, so:

        >>> str(Month(2024, 8).first_after(6))
        '2025-03'
        """
        return self.plus(months + 1)

    def __str__(self) -> str:
        return f"{self.year:04}-{self.number:02}"
