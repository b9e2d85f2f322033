"""Micro-batches: whole subjects as far as memory allows, and fewer of them when it does not.

* A subject is in one micro-batch with all its records, or, where they exceed the limit, alone in
  several that follow each other. The last one is marked: only then is the subject clipped.
* When the memory runs out in a micro-batch, that one is done again in smaller ones and the limit
  stays smaller; what was done before stays. So each record is counted exactly once, and a subject
  is clipped once, whatever happens. That holds if work which fails leaves nothing behind, as
  `OneBackwardModule.group` and `SubjectOptimizer.accumulate` see to.
* What a micro-batch takes is what its records take when all are padded to the longest of them.
* How records are batched decides memory and speed, never results.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import torch

from client.learning.device_failures import OutOfMemory, is_out_of_memory


@dataclass(frozen=True)
class Part:
    """Records of one subject.

    Attributes:
        records: All that a step uses of the subject, or the next of them.
        weight: Of each record's loss: one over how many records the step uses of the subject.
        finished: Whether no more records of the subject follow.
    """

    records: Sequence[int]
    weight: float
    finished: bool = True

    @classmethod
    def whole(cls, records: Sequence[int]) -> Self:
        """All that a step uses of a subject, at least one record."""
        return cls(records, 1 / len(records))

    def split(self, count: int) -> tuple[Part, Part]:
        """The first `count` records, and the rest, which may be empty."""
        is_last = self.finished and count >= len(self.records)
        return (
            Part(self.records[:count], self.weight, is_last),
            Part(self.records[count:], self.weight, self.finished),
        )


class MicroBatches:
    """Feeds subjects to work that takes so much at once.

    Args:
        limit: Number of records in memory at once times the largest one's size, at least 1; it
            shrinks when they do not fit. A record that is larger is alone.
        size_of: A record's size, at least 1; by default every record counts 1.
    """

    def __init__(self, limit: int, size_of: Callable[[int], int] = lambda _: 1) -> None:
        if limit < 1:
            raise ValueError(f"limit must be at least 1, got {limit}")
        self.limit = limit
        self._size_of = size_of

    def run(self, parts: Sequence[Part], work: Callable[[Sequence[Part]], None]) -> None:
        """Do `work` on all parts, in their order.

        Args:
            parts: At most one of each subject, unless it is the only one here.
            work: Takes one micro-batch. Where memory runs out in it, it must leave nothing behind:
                the same records come again in smaller micro-batches.

        Raises:
            OutOfMemory: When not even one record fits.
        """
        for batch in self._packed(parts):
            if _fits(work, batch):
                continue
            # Only here is what the failed work held free again: its error kept it alive.
            torch.cuda.empty_cache()
            self._halve(batch)
            self.run(batch, work)

    def _packed(self, parts: Sequence[Part]) -> Iterator[list[Part]]:
        waiting: list[Part] = []
        records = longest = 0
        for part in parts:
            own = self._longest(part.records)
            if waiting and (records + len(part.records)) * max(longest, own) > self.limit:
                yield waiting
                waiting, records, longest = [], 0, 0
            if len(part.records) * own > self.limit:
                rest = part
                while rest.records:
                    piece, rest = rest.split(self._fitting(rest.records))
                    yield [piece]
                continue
            waiting.append(part)
            records, longest = records + len(part.records), max(longest, own)
        if waiting:
            yield waiting

    def _longest(self, records: Sequence[int]) -> int:
        return max(map(self._size_of, records), default=0)

    def _fitting(self, records: Sequence[int]) -> int:
        """How many of the first records fit; at least one."""
        longest = 0
        for count, record in enumerate(records):
            longest = max(longest, self._size_of(record))
            if (count + 1) * longest > self.limit:
                return max(1, count)
        return len(records)

    def _halve(self, batch: list[Part]) -> None:
        records = [record for part in batch for record in part.records]
        if len(records) == 1:
            raise OutOfMemory
        self.limit = max(1, len(records) * self._longest(records) // 2)


def _fits(work: Callable[[Sequence[Part]], None], batch: list[Part]) -> bool:
    try:
        work(batch)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return False
    return True
