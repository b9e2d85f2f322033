"""A plan's training at this site, kept warm between rounds.

* The model is loaded once a plan; tokens and features of the examples are kept while the examples
  stay the same.
* Before each round the datasets' digests are compared, and who is excluded. After an erasure, a new
  version or an objection they differ, and examples, tokens and features are dropped and read again:
  an erased or excluded subject is in no later batch and no longer in memory.
* A subject trains or is held out for evaluation, never both, in every plan of this site.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from audit.canonical import canonical_bytes, digest
from audit.errors import MalformedInput, Refused
from client.base_models import find_base_model
from client.deflated import open_arrays
from client.example_split import read_split
from client.fleet_tasks import IncomingTask
from client.learning.data import Example
from client.learning.distributed_noise import noise_share
from client.learning.evaluation import Evaluation
from client.learning.observations import Observations
from client.learning.passes import Settings
from client.learning.plan_model import PlanModel
from client.learning.private_sgd import DEFAULT_SETTINGS, Progress, RoundResult, SiteTrainer
from client.learning.tasks import build_model
from client.learning.travelling import Activity, check_names, chosen, names_in_task
from client.vault.contents import Dataset
from client.vault.store import Vault
from compliance.statements import TrainingPlan

State = Mapping[str, npt.NDArray[Any]]
"""Trained weights by name."""


_Key = tuple[tuple[tuple[str, str], ...], frozenset[str]]
"""What examples were read from: datasets with their digests, and who was left out."""


def _key_of(digests: Mapping[str, str], excluded: frozenset[str]) -> _Key:
    return tuple(digests.items()), excluded


@dataclass(frozen=True)
class Material:
    """What a round trains on, by digest.

    Attributes:
        dataset_digest: Of the one dataset, or of the list of several.
        deidentification_digest: Of the pipeline that made it, or of the list of several.
    """

    dataset_digest: str
    deidentification_digest: str


class Lessons:
    """Trains and evaluates one plan at a time on the vault's examples.

    Args:
        vault: The site's data.
        models: The site's own folder of base models.
        settings: How the site computes.
    """

    def __init__(self, vault: Vault, models: Path, settings: Settings = DEFAULT_SETTINGS) -> None:
        self._vault = vault
        self._models = models
        self._settings = settings
        self._plan_id: str | None = None
        self._model: PlanModel | None = None
        self._initial: dict[str, npt.NDArray[Any]] = {}
        self._like: dict[str, npt.NDArray[Any]] = {}
        self._key: _Key | None = None
        self._trainer: SiteTrainer | None = None
        self._held_out: list[Example] = []
        self._trained_subjects: Mapping[str, tuple[Dataset, ...]] = {}
        self._held_out_subjects: Mapping[str, tuple[Dataset, ...]] = {}

    @property
    def trained_subjects(self) -> Mapping[str, tuple[Dataset, ...]]:
        """Subjects that the prepared plan trains on, each with the datasets that hold records."""
        return self._trained_subjects

    @property
    def held_out_subjects(self) -> Mapping[str, tuple[Dataset, ...]]:
        """Subjects that the prepared plan is evaluated on, likewise."""
        return self._held_out_subjects

    def erased(self) -> frozenset[str]:
        """The pseudonyms of all who are erased, as the vault knows it now."""
        return self._vault.erased()

    def opened(
        self, task: IncomingTask, plan: TrainingPlan, activity: Activity
    ) -> dict[str, npt.NDArray[Any]]:
        """The arrays of a task, read as the plan says, of the names that its round needs.

        Raises:
            VerificationFailed: When the base model is another.
            MalformedInput: When the task is not compressed as the plan says, would become larger
                than its round needs, or holds other names.
        """
        self._load(task.plan_id, plan)
        wanted = names_in_task(plan, activity, task.round, self._like)
        like = chosen(self._like, wanted)
        arrays = open_arrays(task.state, task.deflated, plan.transport.compression, like)
        check_names(arrays, wanted)
        return arrays

    def completed(self, plan_id: str, plan: TrainingPlan, arrays: State) -> State:
        """The global state: what travelled, and what no round has moved yet as the model was built.

        Args:
            plan_id: The plan's digest.
            plan: The plan.
            arrays: As `opened` gave them.
        """
        self._load(plan_id, plan)
        missing = set(self._like) - set(arrays)
        if not missing <= set(self._initial):
            # An earlier round is asked for again, after what came later was let go of.
            self.forget()
            self._load(plan_id, plan)
        # Later rounds need no more of the model as built than this one does.
        self._initial = chosen(self._initial, frozenset(missing))
        whole = {**self._initial, **arrays}
        return {name: whole[name] for name in self._like}

    def _load(self, plan_id: str, plan: TrainingPlan) -> PlanModel:
        if self._plan_id == plan_id and self._model is not None:
            return self._model
        self.forget()
        model = build_model(plan, find_base_model(plan.base_model.name, self._models))
        self._model, self._plan_id = model, plan_id
        self._initial = dict(model.get_state())
        # Names and shapes alone: all of an array is one number in memory.
        self._like = {
            name: np.broadcast_to(np.zeros((), np.float32), array.shape)
            for name, array in self._initial.items()
        }
        return model

    def prepare(
        self, plan_id: str, plan: TrainingPlan, datasets: tuple[str, ...], state: State
    ) -> Material:
        """Load what the plan needs, and check the coordinator's state, before any budget is spent.

        Raises:
            VerificationFailed: When the base model is another, or a row was altered.
            MalformedInput: When the state does not fit the plan.
            Refused: When a dataset holds a label that the plan does not name, or what its task
                cannot read.
        """
        model = self._load(plan_id, plan)
        model.set_state(state)
        found = [self._vault.dataset(name) for name in datasets]
        key = _key_of({dataset.name: dataset.digest for dataset in found}, self._excluded())
        if key != self._key or self._trainer is None:
            self.drop_examples()
            training, self._held_out = self._read(plan, found)
            self._trainer = SiteTrainer(
                model, plan, training, settings=self._settings, noise_share=noise_share(plan)
            )
            self._key = key
        return _material(found)

    def stretch(self) -> float:
        """How much longer an update may be as it is sent than as it trained (`PlanModel.stretch`).

        For the plan whose task was opened last.
        """
        if self._model is None:
            raise RuntimeError("open a task first")
        return self._model.stretch()

    def train(self, round_index: int, state: State, progress: Progress | None) -> RoundResult:
        """Train one round of the prepared plan.

        Raises:
            Refused: When the noise can be repeated from a seed: nothing of it may leave the site.
        """
        result = self._prepared().train_round(round_index, state, progress)
        if result.seeded:
            raise Refused(
                "the noise came from a seed, so whoever knows it can subtract it",
                fix="seeds are for tests and benchmarks: remove it",
            )
        return result

    @property
    def observed(self) -> Observations:
        """What the operator, and nobody else, may know of the present or last round."""
        return Observations() if self._trainer is None else self._trainer.observed

    def evaluate(self, state: State) -> Evaluation[Any]:
        """Counts of the held-out subjects under `state`, for the prepared plan."""
        return self._prepared().evaluate(state, self._held_out)

    def forget_changed(self) -> None:
        """Drop the examples when the vault no longer holds exactly them."""
        if self._key is None:
            return
        present = {dataset.name: dataset.digest for dataset in self._vault.datasets()}
        wanted = {name: present.get(name, "") for name, _ in self._key[0]}
        if _key_of(wanted, self._excluded()) != self._key:
            self.drop_examples()

    def drop_examples(self) -> None:
        """Drop the examples: the next `prepare` reads them anew."""
        if self._trainer is not None:
            self._trainer.close()
        self._trainer = None
        self._held_out = []
        self._trained_subjects = self._held_out_subjects = {}
        self._key = None

    def _excluded(self) -> frozenset[str]:
        return frozenset(one.subject for one in self._vault.exclusions())

    def forget(self) -> None:
        """Drop model and examples."""
        self.drop_examples()
        self._model = None
        self._plan_id = None
        self._initial, self._like = {}, {}

    def _prepared(self) -> SiteTrainer:
        if self._trainer is None:
            raise RuntimeError("prepare a plan first")
        return self._trainer

    def _read(
        self, plan: TrainingPlan, datasets: Sequence[Dataset]
    ) -> tuple[list[Example], list[Example]]:
        by_name = {dataset.name: dataset for dataset in datasets}
        try:
            split = read_split(self._vault, plan, tuple(by_name))
        except MalformedInput as error:
            # Its text may name a label, which is the site's to know.
            raise Refused(
                "a dataset holds a label that the plan does not name, or a record that its task "
                "cannot read",
                fix="ask for a plan that names all labels and columns",
            ) from error
        self._trained_subjects, self._held_out_subjects = (
            {
                example.subject: tuple(by_name[name] for name in split.datasets_of[example.subject])
                for example in side
            }
            for side in (split.training, split.held_out)
        )
        return split.training, split.held_out


def _material(datasets: list[Dataset]) -> Material:
    return Material(
        dataset_digest=_joined([dataset.digest for dataset in datasets]),
        deidentification_digest=_joined(
            sorted({dataset.datasheet.deidentification_digest for dataset in datasets})
        ),
    )


def _joined(digests: list[str]) -> str:
    return digests[0] if len(digests) == 1 else digest(canonical_bytes(digests))
