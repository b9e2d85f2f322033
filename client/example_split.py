"""What a site learns from: a plan's examples out of the vault, each trained on or held out.

Training, evaluation and the attack on a model read through this one function, so that they agree on
what a record says and on which side its subject is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from client.learning.data import Example, StoredRecord, split_by_subject
from client.learning.tasks import read_examples
from client.vault.store import Vault
from compliance.statements import TrainingPlan


@dataclass(frozen=True)
class ExampleSplit:
    """A plan's examples at a site.

    Attributes:
        training: Of subjects that are trained on.
        held_out: Of subjects that the plan is evaluated on.
        datasets_of: Of each subject, by pseudonym, names of the datasets that hold records.
    """

    training: list[Example]
    held_out: list[Example]
    datasets_of: Mapping[str, Sequence[str]]


def read_split(vault: Vault, plan: TrainingPlan, datasets: Sequence[str]) -> ExampleSplit:
    """Read a plan's examples.

    Left out are subjects who objected or asked for restriction, and records that are for other
    purposes, or processed on another legal basis, than the plan's.

    Args:
        vault: The site's data.
        plan: Says how records are read, and which share of subjects is held out.
        datasets: Names of datasets.

    Raises:
        NotFound: When there is no such dataset.
        VerificationFailed: When a row was altered.
        MalformedInput: When a label is not one of the plan's, or a record is none of its task.
    """
    datasets_of: dict[str, list[str]] = {}
    excluded = {one.subject for one in vault.exclusions()}

    def records() -> Iterator[StoredRecord]:
        for name in datasets:
            sheet = vault.dataset(name).datasheet
            for record in vault.each_example(name):
                if record.subject in excluded:
                    continue
                if sheet.row_terms and not record.terms.allow(
                    plan.purpose, plan.legal_basis, sheet.legal_basis
                ):
                    continue
                names = datasets_of.setdefault(record.subject, [])
                if name not in names:
                    names.append(name)
                yield StoredRecord(record.subject, record.text, record.label, record.group)

    examples = read_examples(plan, records())
    training, held_out = split_by_subject(examples, plan.held_out_share, vault.split_secret())
    return ExampleSplit(training, held_out, datasets_of)
