"""Per-subject clipping in one backward pass, as an Opacus `grad_sample_mode` of our own.

`OneBackwardModule` wraps a model as Opacus' `GradSampleModule` does. While it is open, each layer
that trains runs as an `autograd.Function` which computes what it always does, and puts its input
and its output's gradient on a tape instead of computing the weight's gradient
(`client.learning.tape`). After one backward pass, `collect` gives the subjects' gradients.

Formal guarantees:

* `collect` covers every trained weight exactly: a weight that trains in a layer that is not known
  here is refused at the start, with its name; so is one whose gradient took a path that no layer
  recorded, or that got none, after the backward pass.
* The layers' outputs and the gradients of their inputs are those of the wrapped module, so a step
  differs from one without privacy in nothing but clipping and noise.

| case | what happens |
|---|---|
| frozen weights | cost nothing; a layer with a frozen bias records its weight only |
| a weight used by several layers (tied embeddings) | one gradient, the sum over its uses |
| an embedding looked up once for the whole batch (positions) | looked up once a record |
| autocast to bfloat16 | layers compute in bfloat16; norms and sums are float32 |
| gradient checkpointing, reentrant or not | the layer is run twice and recorded once |
| dropout, padding | nothing special: gradients are those of the model as it ran |
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Final, Self

import torch
from opacus.grad_sample import AbstractGradSampleModule
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.grad import conv2d_input

from audit.words import count_of
from client.learning.subject_gradients import (
    SubjectGradients,
    check_records_are_independent,
)
from client.learning.tape import Dense, Layout, TapeGradients, Use, make_lookup, make_product

Record = Callable[[nn.Parameter, Callable[[Layout], Use]], None]
"""Takes a weight, and what its use is once the layout is known."""

RMS_NORMS: Final = frozenset({"LlamaRMSNorm", "MistralRMSNorm", "Qwen2RMSNorm", "Qwen3RMSNorm"})
"""Classes of transformers that compute `weight · x / √(mean(x²) + variance_epsilon)`, by name:
importing them all would cost seconds. Others scale by `1 + weight`, and are refused."""


class UnknownLayer(NotImplementedError):
    """A trained weight whose per-subject gradients are not known here."""


class OneBackwardModule(AbstractGradSampleModule):  # type: ignore[misc]
    """A model whose trained layers record what per-subject clipping needs.

    Args:
        m: The model; which weights train must be settled.
        batch_first: Must be true: records are along the first dimension.
        loss_reduction: Must be `sum`: the caller sums the records' losses.
        strict: Refuse what cannot be clipped. Must be true.

    Raises:
        UnknownLayer: When a trained weight is in a layer that is not known.
        NotImplementedError: When a layer mixes the records of a batch.
        ValueError: For another value of the last three.
    """

    GRAD_SAMPLE_MODE: ClassVar = "one_backward"

    def __init__(
        self,
        m: nn.Module,
        *,
        batch_first: bool = True,
        loss_reduction: str = "sum",
        strict: bool = True,
    ) -> None:
        if not (batch_first and loss_reduction == "sum" and strict):
            raise ValueError("one_backward is batch_first, sums losses, and is strict")
        check_records_are_independent(m)
        self.validate(m)
        super().__init__(m, batch_first=True, loss_reduction="sum")
        self.weights = [p for p in m.parameters() if p.requires_grad]
        self._names = {id(p): name for name, p in m.named_parameters()}
        self._uses: dict[int, list[Use]] = {}
        self._layout: Layout | None = None
        device = self.weights[0].device if self.weights else None
        # An input that needs a gradient, so that a layer is recorded where nothing else does.
        self._anchor = torch.zeros((), device=device, requires_grad=True)
        self._patched: list[nn.Module] = []
        for module in m.modules():
            make = _maker(module)
            if make is not None:
                module.forward = make(module, self)
                self._patched.append(module)

    @classmethod
    def validate(cls, module: nn.Module, *, strict: bool = True) -> list[NotImplementedError]:
        """What of a model cannot be clipped.

        Raises:
            UnknownLayer: With the first, when `strict`.
        """
        errors: list[NotImplementedError] = []
        for name, layer in module.named_modules():
            own = [key for key, p in layer.named_parameters(recurse=False) if p.requires_grad]
            if own and _maker(layer) is None:
                weight = f"{name}.{own[0]}" if name else own[0]
                errors.append(
                    UnknownLayer(
                        f"{weight}: how a {type(layer).__name__} is clipped per subject is not"
                        " known; freeze it, or use the engine `hooks` if Opacus knows it"
                    )
                )
        if errors and strict:
            raise errors[0]
        return errors

    def group(self, subject_of_record: Tensor, subject_count: int) -> None:
        """Say whose the records of the next forward pass are.

        Args:
            subject_of_record: `(records,)` integers in `[0, subject_count)`.
            subject_count: At least 1.
        """
        self._uses = {}
        self._layout = Layout(subject_of_record, subject_count)

    def backward(self, loss: Tensor) -> None:
        """One backward pass of the sum of the records' losses."""
        loss.backward()  # type: ignore[no-untyped-call]

    def collect(self) -> SubjectGradients:
        """The subjects' gradients of the backward pass that was just made.

        Raises:
            ValueError: When a weight got no gradient, or one that no layer recorded; or when torch
                was told to compute products of float32 less exactly.
        """
        uses, self._uses, self._layout = self._uses, {}, None
        if not _products_are_exact():
            raise ValueError(
                "products of float32 are computed with fewer bits, so norms could be understated:"
                ' torch.set_float32_matmul_precision("highest")'
            )
        for weight in self.weights:
            if weight.grad is not None:
                raise ValueError(
                    f"{self._name(weight)}: its gradient took a path that is not clipped"
                )
            if id(weight) not in uses:
                raise ValueError(f"{self._name(weight)}: trains, but got no gradient")
        return TapeGradients([uses[id(weight)] for weight in self.weights])

    def record(self, weight: nn.Parameter, make: Callable[[Layout], Use]) -> None:
        """Put a use of a weight on the tape; called by layers, in the backward pass."""
        layout = self._grouped()
        with torch.no_grad(), torch.autocast(weight.device.type, enabled=False):
            self._uses.setdefault(id(weight), []).append(make(layout))

    def run(self, function: type[torch.autograd.Function], layer: nn.Module, x: Tensor) -> Tensor:
        """The layer's output, recorded."""
        if not torch.is_grad_enabled():
            with torch.no_grad():
                plain: Tensor = type(layer).forward(layer, x)
            return plain
        output: Tensor = function.apply(x, self._anchor, layer, self)  # type: ignore[no-untyped-call]
        return output

    @property
    def records(self) -> int:
        """How many records the pass has that `group` announced.

        Raises:
            ValueError: When it announced none.
        """
        return self._grouped().record_count

    def remove_hooks(self) -> None:
        """Give the layers their own forward pass back."""
        while self._patched:
            del self._patched.pop().forward

    def close(self) -> None:
        """Undo everything that wrapping did to the model."""
        self.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _grouped(self) -> Layout:
        if self._layout is None:
            raise ValueError(
                "a backward pass without `group`: nobody knows whose records these are"
            )
        return self._layout

    def _name(self, weight: nn.Parameter) -> str:
        return self._names[id(weight)]


def _products_are_exact() -> bool:
    try:
        return torch.get_float32_matmul_precision() == "highest"
    except RuntimeError:  # set by `fp32_precision` of one of `torch.backends` alone
        return False


def _check_records(x: Tensor, records: int) -> None:
    if len(x) != records:
        raise ValueError(
            f"expected {count_of(records, 'record')} along the first dimension, got {len(x)}"
        )


def _tokens(x: Tensor, records: int) -> Tensor:
    """`(records, …, d)` as `(records, tokens, d)`."""
    _check_records(x, records)
    return x.detach().reshape(records, -1, x.shape[-1])


def _affine(owner: OneBackwardModule, layer: Any, x: Tensor, dy: Tensor, swapped: bool) -> None:
    """Record the weight `(p, d)` (`swapped`: `(d, p)`) and the bias of an affine layer."""
    records = owner.records
    x, dy = _tokens(x, records), _tokens(dy, records)
    if layer.weight.requires_grad:
        owner.record(
            layer.weight,
            lambda layout: make_product(layout, layer.weight, dy, x, transposed=swapped),
        )
    if layer.bias is not None and layer.bias.requires_grad:
        owner.record(layer.bias, lambda layout: Dense(layout.add(dy.float().sum(1))))


class _Linear(torch.autograd.Function):
    """`nn.Linear`, and transformers' `Conv1D`, whose weight is `(inputs, outputs)`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, _anchor: Tensor, layer: Any, owner: Any) -> Tensor:
        ctx.save_for_backward(x)
        ctx.layer, ctx.owner, ctx.swapped = layer, owner, not isinstance(layer, nn.Linear)
        weight = layer.weight.T if ctx.swapped else layer.weight
        return functional.linear(x, weight, layer.bias)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        dx = None
        if ctx.needs_input_grad[0]:
            weight = ctx.layer.weight.T if ctx.swapped else ctx.layer.weight
            dx = dy.matmul(weight.to(dy.dtype)).to(x.dtype)
        _affine(ctx.owner, ctx.layer, x, dy, swapped=ctx.swapped)
        return dx, torch.zeros_like(ctx.owner._anchor), None, None


class _Conv2d(torch.autograd.Function):
    """A convolution is a linear layer over the patches that its kernel sees."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, _anchor: Tensor, layer: nn.Conv2d, owner: Any) -> Tensor:
        ctx.save_for_backward(x)
        ctx.layer, ctx.owner = layer, owner
        return functional.conv2d(
            x, layer.weight, layer.bias, layer.stride, layer.padding, layer.dilation
        )

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Any:
        (x,), layer = ctx.saved_tensors, ctx.layer
        dx = None
        if ctx.needs_input_grad[0]:
            dx = conv2d_input(  # type: ignore[no-untyped-call]
                x.shape,
                layer.weight.to(dy.dtype),
                dy,
                layer.stride,
                layer.padding,
                layer.dilation,
            ).to(x.dtype)
        patches = functional.unfold(
            x.detach().float(), layer.kernel_size, layer.dilation, layer.padding, layer.stride
        )
        _affine(ctx.owner, layer, patches.mT, dy.flatten(2).mT, swapped=False)
        return dx, torch.zeros_like(ctx.owner._anchor), None, None


class _LayerNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, _anchor: Tensor, layer: nn.LayerNorm, owner: Any) -> Tensor:
        if torch.is_autocast_enabled(x.device.type):
            x = x.float()  # as autocast does
        y, mean, deviation = torch.native_layer_norm(
            x, layer.normalized_shape, layer.weight, layer.bias, layer.eps
        )
        ctx.save_for_backward(x, mean, deviation)
        ctx.layer, ctx.owner = layer, owner
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Any:
        (x, mean, deviation), layer, owner = ctx.saved_tensors, ctx.layer, ctx.owner
        dx = None
        if ctx.needs_input_grad[0]:
            dx = torch.ops.aten.native_layer_norm_backward(
                dy,
                x,
                layer.normalized_shape,
                mean,
                deviation,
                layer.weight,
                layer.bias,
                [True, False, False],
            )[0]
        if layer.weight.requires_grad:
            _scale(owner, layer.weight, dy, (x - mean) * deviation)
        if layer.bias is not None and layer.bias.requires_grad:
            _scale(owner, layer.bias, dy, None)
        return dx, torch.zeros_like(owner._anchor), None, None


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, _anchor: Tensor, layer: Any, owner: Any) -> Tensor:
        wide = x.float()
        scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + _rms_epsilon(layer))
        ctx.save_for_backward(x, scale)
        ctx.layer, ctx.owner = layer, owner
        normed = (wide * scale).to(x.dtype)
        output: Tensor = layer.weight * normed
        return output

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Any:
        (x, scale), layer, owner = ctx.saved_tensors, ctx.layer, ctx.owner
        normed = x.float() * scale
        dx = None
        if ctx.needs_input_grad[0]:
            scaled = dy.float() * layer.weight
            along = (scaled * normed).mean(-1, keepdim=True)
            dx = (scale * (scaled - normed * along)).to(x.dtype)
        _scale(owner, layer.weight, dy, normed)
        return dx, torch.zeros_like(owner._anchor), None, None


class _Embedding(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, ids: Tensor, _anchor: Tensor, layer: nn.Embedding, owner: Any) -> Tensor:
        records = owner.records
        if len(ids) == 1 and records > 1:
            ids = ids.expand(records, *ids.shape[1:])  # positions: the same for every record
        ctx.ids, ctx.layer, ctx.owner = ids, layer, owner
        return functional.embedding(ids, layer.weight, layer.padding_idx)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Any:
        layer, owner = ctx.layer, ctx.owner
        records = owner.records
        dy = _tokens(dy, records)
        ids = ctx.ids.reshape(records, -1)
        if layer.padding_idx is not None:
            dy = dy.masked_fill((ids == layer.padding_idx).unsqueeze(-1), 0.0)
        owner.record(layer.weight, lambda layout: make_lookup(layout, layer.weight, ids, dy))
        return None, torch.zeros_like(owner._anchor), None, None


def _scale(
    owner: OneBackwardModule, weight: nn.Parameter, dy: Tensor, normed: Tensor | None
) -> None:
    """Record a weight that multiplies (or, without `normed`, is added to) each token."""
    gradient = dy.detach().float()
    if normed is not None:
        gradient = gradient * normed
    records = owner.records
    _check_records(gradient, records)
    # The weight may have several dimensions (LayerNorm over more than the last).
    tokens = gradient.reshape(records, -1, *weight.shape).sum(1)
    owner.record(weight, lambda layout: Dense(layout.add(tokens)))


def _rms_epsilon(layer: Any) -> float:
    epsilon = getattr(layer, "variance_epsilon", getattr(layer, "eps", None))
    if epsilon is None:  # as `nn.RMSNorm` does
        return float(torch.finfo(layer.weight.dtype).eps)
    return float(epsilon)


Forward = Callable[[Tensor], Tensor]
_Maker = Callable[[Any, OneBackwardModule], Forward]


def _with(function: type[torch.autograd.Function]) -> _Maker:
    def make(layer: nn.Module, owner: OneBackwardModule) -> Forward:
        return lambda x: owner.run(function, layer, x)

    return make


def _maker(layer: Any) -> _Maker | None:
    """How a layer records itself; None when it trains nothing of its own, or is not known."""
    own = dict(layer.named_parameters(recurse=False))
    if not any(p.requires_grad for p in own.values()) or not own.keys() <= {"weight", "bias"}:
        return None
    kind = type(layer)
    if kind is nn.Linear:
        return _with(_Linear)
    if kind is nn.LayerNorm and layer.elementwise_affine:
        return _with(_LayerNorm)
    if kind is nn.RMSNorm and len(layer.normalized_shape) == 1:
        return _with(_RMSNorm)
    if kind is nn.Embedding:
        plain = layer.max_norm is None and not layer.scale_grad_by_freq and not layer.sparse
        return _with(_Embedding) if plain else None
    if kind is nn.Conv2d:
        plain = layer.groups == 1 and layer.padding_mode == "zeros"
        return _with(_Conv2d) if plain and not isinstance(layer.padding, str) else None
    if kind.__module__.startswith("transformers."):
        if kind.__name__ == "Conv1D":
            return _with(_Linear)
        if kind.__name__ in RMS_NORMS:
            return _with(_RMSNorm)
    return None
