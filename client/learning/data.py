"""Examples that a site trains on, and the split into training and held-out subjects.

* A subject is whoever privacy is promised to; a subject's records stay on one side of the split.
* The split is a keyed hash of the subject: the same in every round and after a restart, and not to
  be foreseen by anyone without the site's secret.
* A label that the plan does not name is refused, never dropped. How a task reads records is said in
  `client.learning.tasks`.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from audit.errors import MalformedInput
from audit.words import count_of


@dataclass(frozen=True)
class Span:
    """Characters `[start, end)` of a text, and the index of their label in the plan's labels."""

    start: int
    end: int
    label: int


@dataclass(frozen=True)
class Example:
    """One record.

    Attributes:
        subject: Whose record it is.
        text: De-identified content as the task reads it: text, an object of columns as JSON, or an
            image in base64.
        label: Index into the plan's labels; 0 where a record has no class of its own.
        group: What evaluation is sliced by, one of the plan's groups; empty for none.
        spans: Labelled parts of the text, where the task labels parts; in order, without overlap.
    """

    subject: str
    text: str
    label: int = 0
    group: str = ""
    spans: tuple[Span, ...] = ()


@dataclass(frozen=True)
class StoredRecord:
    """One record as a site keeps it.

    Attributes:
        subject: Whose record it is.
        text: De-identified content.
        label: The class as the site spells it, or labelled spans as JSON; empty for none.
        group: What the site says the record is grouped by; empty for none.
    """

    subject: str
    text: str
    label: str = ""
    group: str = ""


def check_examples(examples: Sequence[Example], label_count: int) -> None:
    """Refuse examples whose label index lies outside the plan.

    Raises:
        MalformedInput: With the first label that is out of range.
    """
    for example in examples:
        labels = [span.label for span in example.spans] or [example.label] * bool(label_count)
        outside = [label for label in labels if not 0 <= label < label_count]
        if outside:
            raise MalformedInput(
                f"label {outside[0]} is not one of the plan's {count_of(label_count, 'label')}",
                fix="train this dataset under a plan that names all of its labels",
            )


def split_by_subject(
    examples: Sequence[Example], held_out_share: Decimal | float, secret: bytes
) -> tuple[list[Example], list[Example]]:
    """Split into `(training, held out)` by HMAC-SHA256 of the subject.

    Args:
        examples: The site's examples.
        held_out_share: Expected share of subjects held out, in (0, 1).
        secret: The site's own key; whoever lacks it cannot tell a subject's side.
    """
    if not 0 < held_out_share < 1:
        raise ValueError(f"held_out_share must lie in (0, 1), got {held_out_share}")
    threshold = int(Decimal(held_out_share) * 2**64)
    training: list[Example] = []
    held_out: list[Example] = []
    for example in examples:
        mac = hmac.new(secret, example.subject.encode(), hashlib.sha256).digest()
        is_held_out = int.from_bytes(mac[:8], "big") < threshold
        (held_out if is_held_out else training).append(example)
    return training, held_out


def label_index(label: str, labels: Sequence[str]) -> int:
    """Where a label is among a plan's.

    Raises:
        MalformedInput: When the plan does not name it.
    """
    try:
        return labels.index(label)
    except ValueError:
        raise foreign_label(repr(label), labels) from None


def group_of(group: str, groups: Sequence[str]) -> str:
    """The group, where the plan declares it; empty otherwise."""
    return group if group in groups else ""


def foreign_label(label: str, labels: Sequence[str]) -> MalformedInput:
    """The error for a label that a plan does not name."""
    shown = ", ".join(labels[:5]) + (", …" if len(labels) > 5 else "")
    return MalformedInput(
        f"label {label} is not one of the plan's {count_of(len(labels), 'label')} ({shown})",
        fix="train this dataset under a plan that names all of its labels",
    )
