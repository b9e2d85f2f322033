"""What the model of a plan does, whatever its task.

* A network is split at what a phase trains: what lies *below* is frozen and depends on one record
  alone, so a site computes it once a record (`client.learning.frozen`); what lies above is what an
  engine wraps. `PHASES_OF_TASK` says which phases a task has.
* Losses and results are a record's own: nothing here looks at two records at once, which is what
  clipping by subject rests on.
* Records are read by `client.learning.tasks`, which also builds the models.
"""

from __future__ import annotations

import contextlib
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from audit.errors import MalformedInput, VerificationFailed
from client.learning.base_model import base_model_digest
from client.learning.data import Example
from client.learning.evaluation import Evaluation
from client.learning.label_histogram import LabelHistogram
from client.learning.losses import classification_losses
from client.learning.tally import Tally
from compliance.statements import TrainingPlan

State = dict[str, npt.NDArray[np.float32]]
"""Trained weights by name, in sorted order of names."""

HISTOGRAM: Final = "label_histogram"
"""Name of the histogram in a state, where a plan has one."""

MAX_WEIGHT: Final = 1e6
"""No weight of a working model comes near; a hostile one could overflow what is computed of it."""


@dataclass(frozen=True)
class EncodedRecord:
    """A record as its model reads it.

    Attributes:
        content: Token ids, pixels or values of columns.
        target: What the model should say of it; the task knows its form.
        size: How much of a micro-batch it takes: tokens, or 1 where all records are of a size.
    """

    content: Any
    target: Any
    size: int


class PlanModel(ABC):
    """The model of one plan; make one with `client.learning.tasks.build_model`.

    Attributes:
        plan: Whose model it is.
        network: All weights.
        device: Where it computes.
        built_from: Folder of the base model and seed, where `build_model` made it: what another
            process needs to make the same.
        load_example: Code that loads a release without Fiduciary; `{folder}`, `{base}` and
            `{max_tokens}` are to be filled in.
        counts: What an evaluation counts.
    """

    plan: TrainingPlan
    network: nn.Module
    device: torch.device
    load_example: ClassVar[str]
    counts: ClassVar[type[Tally]]

    def __init__(self, plan: TrainingPlan, network: nn.Module) -> None:
        self.plan = plan
        self.network = network
        self.device = torch.device("cpu")
        self.built_from: tuple[Path, int | None] | None = None
        self.histogram = LabelHistogram(len(plan.labels))
        self._has_histogram = plan.class_weights == "histogram"

    # --- weights ----------------------------------------------------------------------------------

    @abstractmethod
    def weights(self, kind: str) -> Mapping[str, nn.Parameter]:
        """What a phase trains, by the names that a state has, or other names of its own."""

    @abstractmethod
    def trained_module(self, kind: str) -> nn.Module:
        """What an engine wraps in a phase; it holds all of the phase's weights."""

    @property
    @abstractmethod
    def is_adapted(self) -> bool:
        """Whether anything below the head differs from the base model."""

    @abstractmethod
    def exchanged(self) -> Mapping[str, nn.Parameter]:
        """Weights that a state holds as they are."""

    def _own_state(self) -> State:
        return copies(self.exchanged())

    def _take_own_state(self, state: State) -> None:
        weights = self.exchanged()
        for name, array in state.items():
            weights[name].copy_(torch.from_numpy(array))

    @classmethod
    def load_example_of(cls, plan: TrainingPlan) -> str:
        """Code that loads a release of the plan; `load_example` unless a task has several."""
        del plan
        return cls.load_example

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write the release's files, as plain libraries read them."""

    def to(self, device: torch.device) -> None:
        """Compute on a device from now on."""
        self.network.to(device)
        self.histogram.to(device)
        self.device = device

    def set_trainable(self, kind: str) -> nn.Module:
        """Let the weights of a phase train and freeze all others; what an engine wraps.

        Raises:
            MalformedInput: When a probe is to be trained on a base model that is adapted already.
        """
        started = self.plan.starts_from is not None
        if kind == "probe" and (started or self.plan_trains("full")) and self.is_adapted:
            raise MalformedInput(
                "a probe is trained on the base model, and this state has another",
                fix="leave the probe out" if started else "start the plan anew",
            )
        for part in (self.network, self.histogram):
            for parameter in part.parameters():
                parameter.requires_grad_(False)
        if kind == "histogram":
            self.histogram.counts.weight.requires_grad_(True)
            return self.histogram
        for parameter in self.weights(kind).values():
            parameter.requires_grad_(True)
        return self.trained_module(kind)

    def plan_trains(self, kind: str) -> bool:
        """Whether the plan has such a phase."""
        return any(phase.kind == kind for phase in self.plan.phases)

    def get_state(self) -> State:
        """Copies of the weights that training may change, in sorted order of names."""
        state = self._own_state()
        if self._has_histogram:
            state[HISTOGRAM] = _array(self.histogram.counts.weight[0])
        return {name: state[name] for name in sorted(state)}

    def set_state(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Take weights as `get_state` gives them.

        Raises:
            MalformedInput: When names or shapes differ, or a value is not finite. Nothing is
                changed then.
        """
        check_state(state, self.get_state())
        taken = {name: np.array(array, dtype=np.float32) for name, array in state.items()}
        with torch.no_grad():
            if self._has_histogram:
                counts = torch.from_numpy(taken.pop(HISTOGRAM))
                self.histogram.counts.weight.copy_(counts.unsqueeze(0))
            self._take_own_state(taken)

    def state_in(self, arrays: Mapping[str, npt.NDArray[Any]]) -> State:
        """The state that a release's weights are; a state as it is.

        A release has no histogram of labels: it is that of the present state.
        """
        own = self.get_state()
        if set(arrays) == set(own):
            return dict(arrays)
        histogram = {name: own[name] for name in own if name == HISTOGRAM}
        return self._released(arrays) | histogram

    def _released(self, arrays: Mapping[str, npt.NDArray[Any]]) -> State:
        """A release's weights by the names of a state."""
        return dict(arrays)

    def stretch(self) -> float:
        """How much longer an update may be as a state holds it than as it was trained; at least 1.

        The gradient is clipped in the form that trains; bounds on updates need the other.
        """
        return 1.0

    # --- records ----------------------------------------------------------------------------------

    @abstractmethod
    def encode(self, examples: Sequence[Example]) -> list[EncodedRecord]:
        """Examples as the model reads them, each by itself."""

    def shares(self, record: EncodedRecord) -> tuple[float, ...]:
        """`(labels,)`: each label's share of what a record says, summing to at most 1.

        Asked for where a plan counts labels.
        """
        raise NotImplementedError

    def keeps_below(self, kind: str) -> bool:
        """Whether a phase has a frozen lower part that is worth computing once a record."""
        del kind
        return False

    def below(self, kind: str, records: Sequence[EncodedRecord]) -> list[Tensor]:
        """Of each record, what a phase's frozen lower part makes of it, on the CPU.

        Called without gradients, where `keeps_below`.
        """
        raise NotImplementedError

    @abstractmethod
    def inputs(
        self, kind: str, records: Sequence[EncodedRecord], below: Sequence[Tensor] | None
    ) -> tuple[Tensor, ...]:
        """What `trained_module(kind)` is called with, on the model's device."""

    @abstractmethod
    def losses(self, outputs: Any, records: Sequence[EncodedRecord]) -> Tensor:
        """Loss of each record, `(records,)`."""

    @abstractmethod
    def results(
        self, outputs: Any, records: Sequence[EncodedRecord]
    ) -> list[npt.NDArray[np.float32]]:
        """Of each record, what evaluation needs of the outputs; the task knows its form."""

    @abstractmethod
    def evaluation(
        self,
        examples: Sequence[Example],
        records: Sequence[EncodedRecord],
        results_of: Callable[[list[int]], list[npt.NDArray[np.float32]]],
    ) -> Evaluation[Any]:
        """Counts over examples.

        Args:
            examples: Held-out examples.
            records: The same, encoded.
            results_of: `results` of the records at some rows.
        """

    def class_losses(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The plan's classification loss of each row; see `client.learning.losses`."""
        weights = self.histogram.class_weights() if self._has_histogram else None
        return classification_losses(logits, targets, weights, float(self.plan.focal_gamma))

    def kind_of_state(self) -> str:
        """The cheapest phase whose `trained_module` computes what the present state says."""
        above = "full" if self.plan_trains("full") else "adapter"
        return above if self.is_adapted or not self.plan_trains("probe") else "probe"


def seed_of(plan: TrainingPlan) -> bytes:
    """The seed of what is drawn for a plan's model and is the same for every party."""
    return bytes.fromhex(plan.seed.removeprefix("sha256:"))


def trained_names(kind: str, names: Iterable[str]) -> frozenset[str]:
    """Of a state's arrays, those that a phase may move; all others stay as they are.

    Args:
        kind: Of the phase.
        names: Of the state.
    """
    if kind == "histogram":
        return frozenset({HISTOGRAM}.intersection(names))
    if kind == "probe":
        return frozenset(name for name in names if name.startswith("head."))
    return frozenset(names) - {HISTOGRAM}


def check_base_model(plan: TrainingPlan, path: Path) -> None:
    """Refuse a base model that is not the plan's.

    Raises:
        VerificationFailed: When its digest is another.
        NotFound, Refused: As `base_model_digest` does.
    """
    digest = base_model_digest(path)
    if digest != plan.base_model.digest:
        raise VerificationFailed(
            f"base model {plan.base_model.name!r}: expected {plan.base_model.digest}, got {digest}",
            fix="install the base model that the plan names, or ask for a new plan",
        )


def check_state(state: Mapping[str, npt.NDArray[Any]], expected: State) -> None:
    """Refuse weights or updates that are not exactly the named, shaped, finite arrays expected.

    Raises:
        MalformedInput: With the first array that is wrong and why.
    """
    if set(state) != set(expected):
        odd = min(set(state) ^ set(expected))
        raise _bad_state(f"{odd!r} is {'unknown' if odd in state else 'missing'}")
    for name, array in expected.items():
        given = np.asarray(state[name])
        if given.shape != array.shape:
            raise _bad_state(f"{name!r}: expected shape {array.shape}, got {given.shape}")
        if given.dtype != np.float32:
            raise _bad_state(f"{name!r}: expected float32, got {given.dtype}")
        if not np.isfinite(given).all():
            raise _bad_state(f"{name!r} holds a value that is not finite")
        if given.size and np.abs(given).max() > MAX_WEIGHT:
            raise _bad_state(f"{name!r} holds a value above {MAX_WEIGHT:g}")


def copies(weights: Mapping[str, nn.Parameter]) -> State:
    """The weights as a state holds them."""
    return {name: _array(weight) for name, weight in weights.items()}


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """No progress bars and no advice on a freshly initialised head, which is what we want."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    bars = logging.is_progress_bar_enabled()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        with warnings.catch_warnings():
            # peft 0.21 reads an attribute that transformers 5.23 renamed.
            warnings.filterwarnings("ignore", ".*is_gradient_checkpointing.*", FutureWarning)
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def _array(weight: Tensor) -> npt.NDArray[np.float32]:
    # A copy: on the CPU, `numpy` would share the weight's memory.
    return weight.detach().cpu().numpy().astype(np.float32, copy=True)


def _bad_state(reason: str) -> MalformedInput:
    return MalformedInput(
        f"malformed model state: {reason}", fix="run the same version and plan everywhere"
    )
