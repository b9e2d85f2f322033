"""The steps of cleaning, in their order, each a pure function that counts what it did.

Encoding, labels, length, ranges and coarser columns look at one record; near duplicates and records
per class look at one subject's records. Each is counted by the records that it changed or left out.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from enum import StrEnum

from client.cleaning.coarser import coarser
from client.cleaning.encoding import repaired
from client.cleaning.near_duplicates import near_duplicates
from client.cleaning.settings import Cleaning
from client.intake import LabelledRecord
from client.table_rows import stored_row


class Step(StrEnum):
    """What is counted in the datasheet."""

    ENCODING_REPAIRED = "encoding-repaired"
    LABEL_MAPPED = "label-mapped"
    LABEL_LEFT_OUT = "label-left-out"
    TOO_SHORT = "too-short"
    TOO_LONG = "too-long"
    OUT_OF_RANGE = "out-of-range"
    MADE_COARSER = "made-coarser"
    NEAR_DUPLICATE = "near-duplicate"
    TOO_MANY_OF_CLASS = "too-many-of-class"


def clean_record(
    cleaning: Cleaning, record: LabelledRecord
) -> tuple[LabelledRecord | None, list[Step]]:
    """One record after the steps that look at it alone; None when it is left out.

    Args:
        cleaning: What was declared.
        record: A complete record.
    """
    steps: list[Step] = []
    text = record.source.text
    if cleaning.repair_encoding and (mended := repaired(text)) != text:
        text = mended
        record = replace(record, source=replace(record.source, text=text))
        steps.append(Step.ENCODING_REPAIRED)
    if cleaning.labels:
        label = cleaning.labels.get(record.label, record.label)
        spans = tuple(
            replace(span, label=named)
            for span in record.spans
            if (named := cleaning.labels.get(span.label, span.label))
        )
        if record.label and not label:
            return None, [*steps, Step.LABEL_LEFT_OUT]
        if (label, spans) != (record.label, record.spans):
            record = replace(record, label=label, spans=spans)
            steps.append(Step.LABEL_MAPPED)
    if len(text) < cleaning.min_characters:
        return None, [*steps, Step.TOO_SHORT]
    if cleaning.max_characters is not None and len(text) > cleaning.max_characters:
        return None, [*steps, Step.TOO_LONG]
    if cleaning.ranges and _out_of_range(cleaning, text):
        return None, [*steps, Step.OUT_OF_RANGE]
    if cleaning.coarser and (less := _coarser(cleaning, text)) != text:
        record = replace(record, source=replace(record.source, text=less))
        steps.append(Step.MADE_COARSER)
    return record, steps


def clean_subject(
    cleaning: Cleaning, records: Sequence[LabelledRecord]
) -> tuple[list[LabelledRecord], Counter[str]]:
    """One subject's records after the steps that compare them with each other.

    Args:
        cleaning: What was declared.
        records: All of the subject's, in the order of the source.
    """
    kept, counts = list(records), Counter[str]()
    if cleaning.near_duplicates is not None and len(kept) > 1:
        near = near_duplicates([one.source.text for one in kept], cleaning.near_duplicates)
        counts[Step.NEAR_DUPLICATE.value] += len(near)
        gone = frozenset(near)
        kept = [record for at, record in enumerate(kept) if at not in gone]
    if cleaning.max_records_per_class is not None:
        of_class: Counter[str] = Counter()
        few = []
        for record in kept:
            of_class[record.label] += 1
            if of_class[record.label] <= cleaning.max_records_per_class:
                few.append(record)
        counts[Step.TOO_MANY_OF_CLASS.value] += len(kept) - len(few)
        kept = few
    return kept, +counts


def _coarser(cleaning: Cleaning, row: str) -> str:
    cells: dict[str, str] = json.loads(row)
    less = {
        name: coarser(how, cells[name]) for name, how in cleaning.coarser.items() if name in cells
    }
    return stored_row({**cells, **less})


def _out_of_range(cleaning: Cleaning, row: str) -> bool:
    """Whether a number of a row lies outside; a cell that is none is not judged."""
    cells: dict[str, str] = json.loads(row)
    for column, (least, most) in cleaning.ranges.items():
        try:
            number = float(cells.get(column, ""))
        except ValueError:
            continue
        if not least <= number <= most:
            return True
    return False
