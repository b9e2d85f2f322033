"""The step that the coordinator takes with a round's combined update.

* `average`: the update times the server's learning rate; at rate 1 that is FedAvg (McMahan et al.
  2017, arXiv 1602.05629).
* `momentum`: FedAvgM (Hsu et al. 2019, arXiv 1909.06335), `m = momentum * m + update`, and the step
  is the rate times `m`. In the long run that is `1 / (1 - momentum)` times the step of `average`.
* `adam`: FedAdam (Reddi et al. 2021, arXiv 2003.00295), `m = momentum * m + (1 - momentum) *
  update`, `v = second_momentum * v + (1 - second_momentum) * update²`, and the step is the rate
  times `m / (sqrt(v) + adaptivity)`, with both moments' start at zero corrected as Kingma & Ba 2015
  (arXiv 1412.6980, section 2) do. Each weight moves by about the rate, however long its update is.
* A phase begins with moments of zero: the one before trained other weights, by steps of another
  length, and a phase starts from its average, where none of its last steps led.
* A `histogram` phase counts and does not descend: its step is the update, whatever the plan says.
* Moments are float32, as a checkpoint holds them; steps are computed in float64 from them. So a run
  that was resumed equals one that was not, to the last bit. A number whose updates are zero stays.
* All of it is post-processing of private updates, and costs no privacy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from audit.errors import MalformedInput
from client.learning.plan_model import State
from compliance.statements import Aggregation

_CLOCK: Final = "clock"
_PARTS: Final = ("first", "second")


@dataclass(frozen=True)
class Moments:
    """What an optimiser remembers within a phase; nothing where it averages.

    Attributes:
        phase: Number of the plan's phase that it belongs to.
        steps: Steps taken in it, at least 1 where anything is remembered.
        first: The momentum, by name.
        second: Adam's second moment, by name, nowhere below 0.
    """

    phase: int = 0
    steps: int = 0
    first: State = field(default_factory=dict)
    second: State = field(default_factory=dict)

    def to_arrays(self) -> State:
        """Arrays for a checkpoint; none where nothing is remembered."""
        if not self.steps:
            return {}
        return {
            _CLOCK: np.array([self.phase, self.steps], dtype=np.float32),
            **{f"first/{name}": array for name, array in self.first.items()},
            **{f"second/{name}": array for name, array in self.second.items()},
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]], like: State) -> Moments:
        """Read what `to_arrays` gave; of a checkpoint without any, nothing is remembered.

        Raises:
            MalformedInput: When a part is missing or none that an optimiser could have left.
        """
        if not arrays:
            return cls()
        parts: dict[str, State] = {part: {} for part in _PARTS}
        clock = None
        for name, array in arrays.items():
            part, _, rest = name.partition("/")
            if name == _CLOCK:
                clock = np.asarray(array)
            elif part in parts and rest in like and np.shape(array) == like[rest].shape:
                parts[part][rest] = np.asarray(array, dtype=np.float32)
            else:
                raise _malformed(f"{name!r} is unknown or of another shape")
        if clock is None or clock.shape != (2,) or not (clock >= (0, 1)).all():
            raise _malformed("it does not say which step it is of")
        for part, state in parts.items():
            if state and set(state) != set(like):
                raise _malformed(f"{part} moments are missing")
            if not all(np.isfinite(array).all() for array in state.values()):
                raise _malformed(f"{part} moments are not finite")
        if not parts["first"] or any((array < 0).any() for array in parts["second"].values()):
            raise _malformed("its moments are none that steps leave")
        return cls(int(clock[0]), int(clock[1]), parts["first"], parts["second"])


def server_step(
    settings: Aggregation, kind: str, phase: int, update: State, before: Moments
) -> tuple[State, Moments]:
    """The step that a combined update makes, and what is remembered of it.

    Args:
        settings: The plan's.
        kind: Of the phase.
        phase: Its number in the plan.
        update: The combined update, float32.
        before: What the round before left; of another phase, it is forgotten.
    """
    rate = float(settings.learning_rate)
    if kind == "histogram":
        return update, Moments()
    if settings.server == "average":
        return {name: _float32(rate * _float64(array)) for name, array in update.items()}, Moments()
    if before.phase != phase or not before.steps:
        before = Moments(phase=phase)
    steps, decay = before.steps + 1, float(settings.momentum)
    if settings.server == "momentum":
        first = {n: _float32(decay * _moment(before.first, n) + u) for n, u in update.items()}
        step = {name: _float32(rate * _float64(array)) for name, array in first.items()}
        return step, Moments(phase, steps, first)
    second_decay, floor = float(settings.second_momentum), float(settings.adaptivity)
    first = {
        n: _float32(decay * _moment(before.first, n) + (1 - decay) * _float64(u))
        for n, u in update.items()
    }
    second = {
        n: _float32(
            second_decay * _moment(before.second, n) + (1 - second_decay) * np.square(_float64(u))
        )
        for n, u in update.items()
    }
    rate *= math.sqrt(1 - second_decay**steps) / (1 - decay**steps)
    step = {
        name: _float32(rate * _float64(first[name]) / (np.sqrt(_float64(second[name])) + floor))
        for name in update
    }
    return step, Moments(phase, steps, first, second)


def _moment(moments: State, name: str) -> npt.NDArray[np.float64] | float:
    return _float64(moments[name]) if moments else 0.0


def _float64(array: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    return np.asarray(array, dtype=np.float64)


def _float32(array: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    return np.asarray(array, dtype=np.float32)


def _malformed(reason: str) -> MalformedInput:
    return MalformedInput(
        f"malformed checkpoint: the optimiser's state: {reason}", fix="restore the checkpoint"
    )
