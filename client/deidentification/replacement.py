"""Writes stand-ins in place of findings, and tells where every character of the original went.

* What is outside the findings stays, character by character, in its order.
* A span of the original that overlaps a finding comes to cover the whole stand-in: a part of an
  identifier has no part of its stand-in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from client.deidentification.findings import Finding


@dataclass(frozen=True)
class Replacement:
    """A stand-in: `[start, end)` of the original became `[new_start, new_end)` of the result."""

    start: int
    end: int
    new_start: int
    new_end: int


def replace_findings(
    text: str, findings: Sequence[Finding], stand_in: Callable[[Finding], str]
) -> tuple[str, tuple[Replacement, ...]]:
    """The text with stand-ins, and where each of them is.

    Args:
        text: The original.
        findings: Disjoint, in order (`client.deidentification.findings.settle`).
        stand_in: What replaces a finding.
    """
    pieces: list[str] = []
    replacements: list[Replacement] = []
    done = length = 0
    for finding in findings:
        original, new = text[done : finding.start], stand_in(finding)
        new_start = length + len(original)
        length = new_start + len(new)
        replacements.append(Replacement(finding.start, finding.end, new_start, length))
        pieces += [original, new]
        done = finding.end
    return "".join([*pieces, text[done:]]), tuple(replacements)


def from_original(length: int, replacements: Sequence[Replacement]) -> tuple[tuple[int, int], ...]:
    """The spans of a result of `length` characters that come from the original, also empty ones."""
    starts = [0, *(replacement.new_end for replacement in replacements)]
    ends = [*(replacement.new_start for replacement in replacements), length]
    return tuple(zip(starts, ends, strict=True))


def moved(start: int, end: int, replacements: Sequence[Replacement]) -> tuple[int, int]:
    """Where a span of the original is in the result.

    >>> moved(6, 9, [Replacement(0, 3, 0, 5)])  # "Ann: ache" -> "Marie: ache"
    (8, 11)
    >>> moved(1, 9, [Replacement(0, 3, 0, 5)])
    (0, 11)
    """
    new_start, new_end = start, end
    for replacement in replacements:
        grown = replacement.new_end - replacement.end
        if replacement.start <= start:
            new_start = replacement.new_start if start < replacement.end else start + grown
        if replacement.start < end:
            new_end = replacement.new_end if end <= replacement.end else end + grown
    return new_start, new_end
