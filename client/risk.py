"""How many people share what a table says of each: k-anonymity over quasi-identifiers.

* A quasi-identifier names nobody, and several of them together may: age, sex and district.
* People are counted, not rows: of a person with several rows, each row is a way to be recognised.
* k of a table is the smallest number of people who share a combination (Sweeney, *k-anonymity: a
  model for protecting privacy*, 2002). A combination whose people all have one class tells that
  class of each of them, however many they are (Machanavajjhala et al., *l-diversity*, 2007).
* This measures; nothing is promised by it. Training is protected by differential privacy.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from audit.errors import MalformedInput
from client.vault.contents import Record

DEFAULT_K = 5
"""As for what may be stored of a category (`client.table_rows.MIN_CATEGORY_SUBJECTS`)."""


@dataclass(frozen=True)
class Risk:
    """What was found.

    Attributes:
        columns: The quasi-identifiers.
        wanted: From how many people on a combination is shared enough.
        subjects: People in the table.
        combinations: Different combinations of values.
        k: People who share the rarest combination.
        rare_combinations: Combinations that fewer than `wanted` share.
        subjects_at_risk: People with such a combination.
        unique_subjects: People with a combination that nobody shares.
        one_class_combinations: Combinations that enough share, all of one class.
        rare_values: Of each column alone, values that fewer than `wanted` people have.
    """

    columns: tuple[str, ...]
    wanted: int
    subjects: int
    combinations: int
    k: int
    rare_combinations: int
    subjects_at_risk: int
    unique_subjects: int
    one_class_combinations: int
    rare_values: Mapping[str, int]


def measure_risk(
    records: Iterable[Record], columns: Sequence[str], wanted: int = DEFAULT_K
) -> Risk:
    """Count who shares what.

    Args:
        records: Of a table's dataset.
        columns: The quasi-identifiers.
        wanted: From how many people on a combination is shared enough.

    Raises:
        MalformedInput: When there is no such column, or none is named.
    """
    if not columns:
        raise MalformedInput("no column given", fix="name quasi-identifiers with --columns")
    who: defaultdict[tuple[str, ...], set[str]] = defaultdict(set)
    classes: defaultdict[tuple[str, ...], set[str]] = defaultdict(set)
    values: dict[str, defaultdict[str, set[str]]] = {name: defaultdict(set) for name in columns}
    subjects: set[str] = set()
    for record in records:
        cells: dict[str, str] = json.loads(record.text)
        if missing := [name for name in columns if name not in cells]:
            raise MalformedInput(
                f"the dataset has no column {missing[0]!r}",
                fix=f"one of {', '.join(sorted(cells))}",
            )
        combination = tuple(cells[name] for name in columns)
        subjects.add(record.subject)
        who[combination].add(record.subject)
        classes[combination].add(record.label)
        for name, value in zip(columns, combination, strict=True):
            values[name][value].add(record.subject)
    rare = [people for people in who.values() if len(people) < wanted]
    return Risk(
        columns=tuple(columns),
        wanted=wanted,
        subjects=len(subjects),
        combinations=len(who),
        k=min(map(len, who.values()), default=0),
        rare_combinations=len(rare),
        subjects_at_risk=len(set().union(*rare)),
        unique_subjects=len(set().union(*(people for people in rare if len(people) == 1))),
        one_class_combinations=sum(
            len(people) >= wanted and len(classes[combination]) == 1
            for combination, people in who.items()
        ),
        rare_values={
            name: sum(len(people) < wanted for people in found.values())
            for name, found in values.items()
        },
    )
