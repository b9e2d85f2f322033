"""One training step of a model four ways: plain, ours, and Opacus' hooks and ghost mode.

What is trained on what is the benchmark's (`Work`); how a step is taken is here, once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

import torch
from torch import Tensor, nn

from client.learning.one_backward import OneBackwardModule
from client.learning.randomness import Keystream
from client.learning.subject_optimizer import SubjectOptimizer

RECORDS_PER_SUBJECT: Final = 2
NOISE: Final = 1.0
NORM: Final = 1.0

Step = Callable[[], None]


class Work(Protocol):
    """What a step is taken on."""

    @property
    def micro_batch(self) -> int:
        """Records in it."""
        ...

    @property
    def records(self) -> int:
        """Of a step."""
        ...

    def batches(self) -> Sequence[tuple[Tensor, ...]]:
        """The micro-batches of a step."""
        ...

    def losses(self, model: Any, *batch: Tensor) -> Tensor:
        """Loss of each record of a micro-batch."""
        ...


def plain_step(work: Work, model: nn.Module) -> Step:
    """Without privacy."""
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-4)

    def step() -> None:
        optimizer.zero_grad()
        for batch in work.batches():
            work.losses(model, *batch).sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def private_optimizer(work: Work, weights: list[nn.Parameter]) -> SubjectOptimizer:
    """Ours."""
    return SubjectOptimizer(
        torch.optim.SGD(weights, lr=1e-4),
        noise_multiplier=NOISE,
        max_grad_norm=NORM,
        public_divisor=work.records / RECORDS_PER_SUBJECT,
        keystream=Keystream(),
    )


def our_step(work: Work, model: nn.Module) -> Step:
    """Clipped per subject in one backward pass."""
    engine = OneBackwardModule(model)
    optimizer = private_optimizer(work, engine.weights)
    subjects = torch.arange(work.micro_batch) // RECORDS_PER_SUBJECT
    count = work.micro_batch // RECORDS_PER_SUBJECT

    def step() -> None:
        optimizer.zero_grad()
        for batch in work.batches():
            engine.group(subjects, count)
            engine.backward(work.losses(engine, *batch).sum())
            optimizer.accumulate(engine.collect(), count)
        optimizer.step()

    return step


def opacus_settings(work: Work) -> dict[str, Any]:
    """Of its optimisers."""
    return {
        "noise_multiplier": NOISE,
        "max_grad_norm": NORM,
        "expected_batch_size": work.records,
        "loss_reduction": "sum",
    }


def hooks_step(work: Work, model: nn.Module) -> Step:
    """Opacus, with the gradient of every record in memory."""
    from opacus.grad_sample import GradSampleModule
    from opacus.optimizers import DPOptimizer

    inner = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    hooked: Any = GradSampleModule(model, loss_reduction="sum", strict=False)
    optimizer: Any = DPOptimizer(inner, **opacus_settings(work))

    def step() -> None:
        batches = work.batches()
        for number, batch in enumerate(batches, start=1):
            work.losses(hooked, *batch).sum().backward()  # type: ignore[no-untyped-call]
            optimizer.signal_skip_step(number < len(batches))
            optimizer.step()
            optimizer.zero_grad()

    return step


def ghost_step(work: Work, model: nn.Module) -> Step:
    """Opacus, with norms in a first backward pass and clipped gradients in a second one."""
    from opacus.grad_sample import GradSampleModuleFastGradientClipping
    from opacus.optimizers import DPOptimizerFastGradientClipping

    inner = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    ghost: Any = GradSampleModuleFastGradientClipping(
        model, max_grad_norm=NORM, use_ghost_clipping=True, loss_reduction="sum", strict=False
    )
    optimizer: Any = DPOptimizerFastGradientClipping(inner, **opacus_settings(work))

    def step() -> None:
        batches = work.batches()
        for number, batch in enumerate(batches, start=1):
            optimizer.signal_skip_step(number < len(batches))
            losses = work.losses(ghost, *batch)
            losses.sum().backward(retain_graph=True)  # type: ignore[no-untyped-call]
            optimizer.zero_grad()
            factors = ghost.get_clipping_coef()
            ghost.disable_hooks()
            (factors * losses).sum().backward()
            ghost.enable_hooks()
            optimizer.step()

    return step


STEPS: Final[dict[str, Callable[[Work, nn.Module], Step]]] = {
    "plain": plain_step,
    "dp": our_step,
    "hooks": hooks_step,
    "ghost": ghost_step,
}
