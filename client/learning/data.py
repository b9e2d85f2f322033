"""Examples that a site trains on, and the split into training and held-out subjects.

* A subject is whoever privacy is promised to; a subject's records stay on one side of the split.
* The split is a keyed hash of the subject: the same in every round and after a restart, and not to
  be foreseen by anyone without the site's secret.
* A label that the plan does not name is refused, never dropped.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal

from audit.errors import MalformedInput


@dataclass(frozen=True)
class Example:
    """One record.

    Attributes:
        subject: Whose record it is.
        text: De-identified text.
        label: Index into the plan's labels.
        group: What evaluation is sliced by, as the plan declares it; empty for none.
    """

    subject: str
    text: str
    label: int
    group: str = ""


def examples_from_records(
    records: Iterable[tuple[str, str, str]], labels: Sequence[str]
) -> list[Example]:
    """Turn `(subject, text, label name)` records into examples of a plan.

    Raises:
        MalformedInput: When a label is not one of `labels`.
    """
    index = {label: position for position, label in enumerate(labels)}
    examples = []
    for subject, text, label in records:
        if label not in index:
            raise _foreign_label(repr(label), labels)
        examples.append(Example(subject=subject, text=text, label=index[label]))
    return examples


def check_examples(examples: Sequence[Example], label_count: int) -> None:
    """Refuse examples whose label index lies outside the plan.

    Raises:
        MalformedInput: With the first label that is out of range.
    """
    for example in examples:
        if not 0 <= example.label < label_count:
            raise MalformedInput(
                f"label {example.label} is not one of the plan's {label_count} labels",
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


def _foreign_label(label: str, labels: Sequence[str]) -> MalformedInput:
    shown = ", ".join(labels[:5]) + (", …" if len(labels) > 5 else "")
    return MalformedInput(
        f"label {label} is not one of the plan's {len(labels)} labels ({shown})",
        fix="train this dataset under a plan that names all of its labels",
    )
