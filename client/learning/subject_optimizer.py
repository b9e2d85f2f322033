"""An Opacus optimiser whose unit of privacy is the data subject.

Formal guarantees:

* Neighbours are two datasets that differ by adding or removing *all records of one subject*.
* One `step` releases `(Σ_s clip(g_s) + sigma·(1 + r)·C·Z) / D` with `Z` standard normal (rounded
  to a public grid, `client.learning.noise`), where `clip(g) = g · min(1, C / (‖g‖ + 1e-6))`, `C =
  max_grad_norm`, `sigma = noise_multiplier`, `r = ROUNDING_ALLOWANCE`, `D` a public constant. `g_s`
  is whatever the caller gives for subject `s`; the trainer gives the gradient of the mean loss over
  at most k of the subject's records. The exact sum's L2 sensitivity is `C`.
* The caller samples: with subjects Poisson-sampled at rate `q` the step is the subsampled Gaussian
  mechanism that `client.learning.accounting` accounts for. A choice of records at random, drawn for
  each subject alone and kept secret, changes nothing: the step is a mixture over such choices,
  neighbours can share them for everybody else, and the divergence is jointly convex.
* Neither `D`, nor `sigma`, nor the number of steps depends on how many subjects or records there
  are.
* **Assumption.** No record's gradient depends on another subject's records; layers that mix
  records (batch normalisation) are refused by the engines.
* **Arithmetic.** Sums are float32, so a subject also changes how the others' parts are rounded.
  The noise is larger by the factor `1 + r`, so that it holds for a sensitivity of `(1 + r)·C`: room
  for `r·C` of such rounding. Rounding errors of sums behave like a random walk (Higham & Mary 2019,
  SIAM J. Sci. Comput. 41-5) and follow the norm of the sum: the worst is that all subjects'
  gradients point the same way. Products of rows that cancel within a subject are rounded by more,
  but the subject's norm is overstated by more still (`client.learning.tape`). Measured, not proven:
  `tests/client/learning/test_rounding.py`.

| edge case | what happens |
|---|---|
| no subject sampled | the step is noise only, and counts |
| a subject's gradient is zero | stays zero (no division by zero) |
| any coordinate NaN or ±inf | the subject's whole gradient counts as zero; others are untouched |
| finite, but the norm overflows float32 | likewise zero |
| a subject's records span micro-batches | summed first, clipped once after the last |
| a trainable weight without per-record gradients | refused: it would be unclipped and unnoised |

DP-SGD: Abadi et al. 2016 (arXiv 1607.00133). User-level unit: McMahan et al. 2018 (1710.06963).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import torch
from opacus.optimizers import DPOptimizer
from torch import Tensor
from torch.optim import Optimizer

from client.learning.noise import add_noise
from client.learning.randomness import Keystream
from client.learning.subject_gradients import SubjectGradients, clip_and_sum
from client.learning.tape import DenseGradients

ROUNDING_ALLOWANCE: Final = 2.0**-10
"""r, relative to C: what float32 sums may add to a step's sensitivity by their rounding."""


class SubjectOptimizer(DPOptimizer):  # type: ignore[misc]
    """Clips each subject once, sums, adds noise, divides by a public constant, and steps.

    Args:
        optimizer: The optimiser to wrap; it must hold every trainable weight and no other.
        noise_multiplier: sigma, above 0.
        max_grad_norm: C, above 0.
        public_divisor: D, above 0: sampling rate times nominal number of subjects.
        keystream: Source of the noise. None where sums are only made, for a process that adds the
            noise: no step can be taken then.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        *,
        noise_multiplier: float,
        max_grad_norm: float,
        public_divisor: float,
        keystream: Keystream | None,
    ) -> None:
        for name, value in (
            ("noise_multiplier", noise_multiplier),
            ("max_grad_norm", max_grad_norm),
            ("public_divisor", public_divisor),
        ):
            if not 0 < value < float("inf"):
                raise ValueError(f"{name} must be above 0 and finite, got {value}")
        super().__init__(
            optimizer,
            noise_multiplier=noise_multiplier,
            max_grad_norm=max_grad_norm,
            expected_batch_size=None,
            loss_reduction="sum",
        )
        self._public_divisor = public_divisor
        self._keystream = keystream
        self._unfinished: list[Tensor] | None = None
        self.steps = 0
        """Noisy steps taken so far."""
        self.unusable_subjects = 0
        """How often a subject counted as zero so far. It is private: for the operator alone."""

    def accumulate(
        self, gradients: SubjectGradients, subject_count: int, *, finished: bool = True
    ) -> None:
        """Fold the subjects' gradients of the last backward pass into the step's sum.

        Where it raises, also for want of memory, the sum is what it was.

        Args:
            gradients: Of the optimiser's weights, in its order.
            subject_count: Number of subjects in this micro-batch.
            finished: `False` when the one subject of this micro-batch has more records to come in
                the next one.

        Raises:
            ValueError: When an unfinished subject is not alone in its micro-batch.
        """
        if self._unfinished is not None or not finished:
            if subject_count != 1:
                raise ValueError("an unfinished subject must be the only one of its micro-batch")
            whole = torch.ones(1, device=self.params[0].device)
            pieces = gradients.weighted_sum(whole)
            if self._unfinished is not None:
                pieces = [a + b for a, b in zip(self._unfinished, pieces, strict=True)]
            if not finished:
                self._unfinished = pieces
                return
            gradients = DenseGradients([piece.unsqueeze(0) for piece in pieces])
        counted = _Counted(gradients)
        total = clip_and_sum(counted, self.max_grad_norm)
        for p in self.params:
            if p.summed_grad is None:
                p.summed_grad = torch.zeros_like(p, dtype=torch.float32)
        # From here on nothing needs memory that could run out.
        self._unfinished = None
        for p, clipped in zip(self.params, total, strict=True):
            p.summed_grad.add_(clipped)
        self.unusable_subjects += counted.unusable

    def take_sums(self, sums: Sequence[Tensor]) -> None:
        """Let a step's sum be one that others made with `accumulate`, of disjoint subjects.

        Args:
            sums: Of each weight, float32, on any device. They are read in `step`.
        """
        for p, total in zip(self.params, sums, strict=True):
            p.summed_grad = total

    def pre_step(self, closure: Callable[[], float] | None = None) -> bool:
        """Noise and scale what `accumulate` summed. An empty sum is a step of noise alone.

        Raises:
            ValueError: When a closure is given, or a subject's last records are missing.
        """
        if closure is not None:
            raise ValueError("a closure would recompute gradients behind the clipping")
        if self._unfinished is not None:
            raise ValueError("a subject's last records are missing")
        for p in self.params:
            if p.summed_grad is None:
                p.summed_grad = torch.zeros_like(p, dtype=torch.float32)
        self.add_noise()
        self.steps += 1
        if self.step_hook is not None:  # an Opacus accountant's, if one was attached
            self.step_hook(self)
        return True

    @property
    def accumulated_iterations(self) -> int:
        """One: however many micro-batches a step has, Opacus' accountants count one."""
        return 1

    def signal_skip_step(self, do_skip: bool = True) -> None:  # noqa: ARG002  as in Opacus
        """Refused: Opacus' `BatchMemoryManager` would take a noisy step a micro-batch.

        Raises:
            ValueError: Always.
        """
        raise ValueError("give micro-batches to `accumulate`, and call `step` once")

    def step(self, closure: Callable[[], float] | None = None) -> None:
        """One noisy step; raises as `pre_step` does."""
        self.pre_step(closure)
        self.original_optimizer.step()

    def add_noise(self) -> None:
        """Set each weight's `grad` to `(sum + sigma·(1 + r)·C·Z) / D`, on the grid of the noise.

        Raises:
            ValueError: When there is no keystream.
        """
        if self._keystream is None:
            raise ValueError("this process has no keystream: it makes sums, and no steps")
        deviation = float(self.noise_multiplier) * float(self.max_grad_norm)
        deviation *= 1 + ROUNDING_ALLOWANCE
        for p in self.params:
            noisy = add_noise(p.summed_grad, deviation, self._keystream)
            p.grad = noisy.div_(self._public_divisor).to(p.device, p.dtype)
            p.summed_grad = None

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget everything accumulated since the last step."""
        self._unfinished = None
        super().zero_grad(set_to_none)


class _Counted:
    """Gradients as they are, that notice how many subjects clipping leaves out."""

    def __init__(self, gradients: SubjectGradients) -> None:
        self._gradients = gradients
        self.unusable = 0

    def squared_norms(self) -> Tensor:
        return self._gradients.squared_norms()

    def weighted_sum(self, factors: Tensor, usable: Tensor | None = None) -> list[Tensor]:
        if usable is not None:
            self.unusable = int((~usable).sum())
        return self._gradients.weighted_sum(factors, usable)
