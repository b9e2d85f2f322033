"""A second device for a machine that has none: tensors that only copies bring to the CPU or back.

As a GPU does, it refuses operations that mix its tensors with the CPU's, and `numpy()`. It computes
on the CPU, so results can be compared bit by bit. What it is asked for that makes a GPU wait is
counted. It is a Python backend of torch's (`torch.utils.backend_registration`), which cannot be
taken back: import this in a process of its own.

    python -m tests.client.learning.other_device BASE ENGINE:KIND...

prints one JSON object: see `compare`.
"""

from __future__ import annotations

import json
import sys
import traceback
from collections import Counter
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils.backend_registration import (
    _DummyBackendModule,
    _setup_privateuseone_for_python_backend,
)

import client.learning
from client.learning.passes import Settings
from client.learning.private_sgd import SiteTrainer
from client.learning.randomness import Keystream
from client.learning.subject_optimizer import SubjectOptimizer
from client.learning.tasks import build_model
from tests.client.learning.conftest import people, phase, plan_for

NAME: Final = "other"

_PRODUCT: Final = str(Path(client.learning.__file__).parent)

waits: Counter[str] = Counter()
"""How often each line of Fiduciary's made the device wait, copies aside."""

_held: dict[int, Tensor] = {}
"""Of each storage of the device's, the CPU's tensor with what it says."""


class _Module(_DummyBackendModule):
    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]


def _is_here(value: Any) -> bool:
    return isinstance(value, Tensor) and value.device.type == NAME


def _new(held: Tensor) -> Tensor:
    """A tensor of the device; it says it is contiguous, whatever holds its numbers."""
    tensor: Tensor = torch._C._acc.create_empty_tensor(held.shape, held.dtype)
    _held[tensor.untyped_storage()._cdata] = held
    return tensor


def _numbers(tensor: Tensor) -> Tensor:
    held = _held[tensor.untyped_storage()._cdata]
    return held if held.shape == tensor.shape else held.reshape(tensor.shape)


def _waited() -> None:
    lines = [f for f in traceback.extract_stack() if _PRODUCT in f.filename]
    if lines:
        waits[f"{Path(lines[-1].filename).name}: {lines[-1].line}"] += 1


def _run(operator: Any, *args: Any, **kwargs: Any) -> Any:
    """Any operation: on the CPU's tensors that hold the numbers."""
    name = operator._schema.name
    if name == "aten::_copy_from":
        source, target = (_numbers(t) if _is_here(t) else t for t in args[:2])
        target.copy_(source)
        return args[1]
    if name in ("aten::_local_scalar_dense", "aten::equal", "aten::nonzero"):
        _waited()
    given: dict[int, Tensor] = {}
    kept = []

    def held(value: Any) -> Any:
        if _is_here(value):
            numbers = _numbers(value)
            given[id(numbers)] = value
            kept.append(numbers)
            return numbers
        if isinstance(value, Tensor) and value.dim():
            raise RuntimeError(f"{operator}: a tensor of {tuple(value.shape)} on {value.device}")
        return torch.device("cpu") if isinstance(value, torch.device) else value

    args, kwargs = pytree.tree_map(held, (args, kwargs))
    if name in ("aten::view", "aten::_reshape_alias"):
        result = args[0].reshape(args[1])
    elif name == "aten::as_strided":
        result = args[0].contiguous().as_strided(*args[1:], **kwargs)
    else:
        result = operator(*args, **kwargs)

    def returned(numbers: Tensor) -> Tensor:
        tensor = given.get(id(numbers))
        if tensor is None:
            return _new(numbers)
        if tensor.shape != numbers.shape:  # an `out` that was resized
            tensor.data = _new(numbers)
        return tensor

    return pytree.tree_map_only(Tensor, returned, result)


def set_up() -> torch.library.Library:
    """Add the device; it is there as long as what is returned."""
    _setup_privateuseone_for_python_backend(NAME, backend_module=_Module())
    # As on a GPU, a module's weights remain the same objects when it moves.
    torch.__future__.set_swap_module_params_on_conversion(True)
    library = torch.library.Library("_", "IMPL")  # type: ignore[no-untyped-call]
    library.fallback(_run, "PrivateUse1")  # type: ignore[no-untyped-call]
    return library


def compare(base: Path, engine: str, kind: str) -> dict[str, Any]:
    """Train and evaluate on the CPU and on the device.

    Returns:
        `differences`: of each round's update, the largest number's distance between devices.
        `sizes`: of each round's update, its largest number.
        `confusions_agree`: whether evaluation counts the same.
        `waits`: lines that made the device wait in the last round's one step, and how often.
    """
    phases = [phase(name, noise_multiplier="1") for name in ("histogram", "probe", kind)]
    if kind == "full":
        del phases[1]
    plan = plan_for(base, phases, class_weights="histogram")
    updates: list[list[np.ndarray]] = []
    confusions = []
    for device in ("cpu", NAME):
        model = build_model(plan, base)
        settings = Settings(device=device, engine=engine)
        trainer = SiteTrainer(model, plan, people([1, 3, 2, 1]), seed=1, settings=settings)
        state = model.get_state()
        updates.append([])
        for number in range(len(phases)):
            waits.clear()
            update = trainer.train_round(number, state).update
            state = {name: state[name] + update[name] for name in state}
            updates[-1].append(np.concatenate([array.ravel() for array in update.values()]))
        seen = dict(waits)
        evaluation = trainer.evaluate(state, people([1, 2]))
        confusions.append(evaluation.to_arrays()["confusion"].tolist())
    cpu, other = updates
    return {
        "differences": [float(abs(a - b).max()) for a, b in zip(cpu, other, strict=True)],
        "sizes": [float(abs(a).max()) for a in cpu],
        "confusions_agree": confusions[0] == confusions[1],
        "waits": seen,
    }


def step_with_sums_of_the_cpu() -> dict[str, Any]:
    """What a step makes of the sums that the processes of several devices left in memory.

    Returns:
        `weight`: three numbers, from 1, after a step down a sum of 2, 4 and 6 divided by 2.
    """
    weight = torch.nn.Parameter(torch.ones(3, device=NAME))
    optimizer = SubjectOptimizer(
        torch.optim.SGD([weight], lr=1.0),
        noise_multiplier=1e-9,
        max_grad_norm=1.0,
        public_divisor=2.0,
        keystream=Keystream(b"other device"),
    )
    optimizer.take_sums([torch.tensor([2.0, 4.0, 6.0])])
    optimizer.step()
    return {"weight": weight.tolist()}


if __name__ == "__main__":
    library = set_up()
    found = {each: compare(Path(sys.argv[1]), *each.split(":")) for each in sys.argv[2:]}
    found["sums of the CPU"] = step_with_sums_of_the_cpu()
    sys.stdout.write(json.dumps(found))
