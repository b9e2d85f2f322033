"""One backward pass gives exactly the gradients that one backward pass a subject gives."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from client.learning.hooks import HooksModule
from client.learning.one_backward import OneBackwardModule, UnknownLayer
from client.learning.subject_gradients import clip_and_sum
from tests.client.learning.tiny_models import encoder, images, tokens, vision

SUBJECTS = torch.tensor([0, 2, 1, 0, 2, 0])
"""Six records of three subjects, in no order."""

Loss = Callable[[nn.Module, slice | Tensor], Tensor]
"""The losses of some of the records."""


def exact(model: nn.Module, loss: Loss, norm: float) -> list[Tensor]:
    """The definition: each subject's gradient by a backward pass of its own, in float64 sums."""
    weights = [p for p in model.parameters() if p.requires_grad]
    totals = [torch.zeros_like(p, dtype=torch.float64) for p in weights]
    for subject in range(int(SUBJECTS.max()) + 1):
        chosen = torch.eq(SUBJECTS, subject).nonzero().flatten()
        gradients = torch.autograd.grad(loss(model, chosen).sum(), weights)
        size = math.sqrt(sum(float(g.double().square().sum()) for g in gradients))
        for total, g in zip(totals, gradients, strict=True):
            total += g.double() * min(1.0, norm / (size + 1e-6))
    return totals


def one_backward(model: nn.Module, loss: Loss, norm: float) -> list[Tensor]:
    with OneBackwardModule(model) as wrapped:
        wrapped.group(SUBJECTS, 3)
        wrapped.backward(loss(wrapped, slice(None)).sum())
        return clip_and_sum(wrapped.collect(), norm)


def assert_equal(got: list[Tensor], wanted: list[Tensor], tolerance: float = 1e-5) -> None:
    size = math.sqrt(sum(float(w.square().sum()) for w in wanted))
    off = math.sqrt(
        sum(float((g.double() - w).square().sum()) for g, w in zip(got, wanted, strict=True))
    )
    assert size > 0
    assert off <= tolerance * size, off / size


def check(model: nn.Module, loss: Loss, tolerance: float = 1e-5) -> None:
    """With hardly any clipping, and with every subject clipped."""
    for norm in (1e6, 1e-3):
        assert_equal(one_backward(model, loss, norm), exact(model, loss, norm), tolerance)


# --- architectures --------------------------------------------------------------------------------


def text_loss(model: nn.Module, chosen: slice | Tensor) -> Tensor:
    ids, mask = (part[chosen] for part in tokens())
    logits = model(input_ids=ids, attention_mask=mask).logits
    if logits.dim() == 3:  # a language model: each record's mean over its tokens
        losses = cross_entropy(logits[:, :-1].mT, ids[:, 1:], reduction="none")
        return (losses * mask[:, 1:]).sum(1) / mask[:, 1:].sum(1)
    labels = torch.arange(len(SUBJECTS))[chosen] % 3
    return cross_entropy(logits, labels, reduction="none")


@pytest.mark.parametrize(
    "kind", ["bert", "roberta", "distilbert", "llama", "gpt2", "gpt2-lm", "bert-mlm"]
)
def test_full_fine_tuning(kind: str) -> None:
    """Every weight trains; `-lm` models tie the output layer to the embedding."""
    model = encoder(kind)
    if kind == "bert-mlm":
        model.get_parameter("cls.predictions.bias").requires_grad_(False)  # of no layer
    check(model, text_loss)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
@pytest.mark.parametrize(
    ("kind", "targets"),
    [
        ("bert", ["query", "value"]),
        ("roberta", ["query", "value"]),
        ("distilbert", ["q_lin", "v_lin"]),
        ("llama", ["q_proj", "v_proj"]),
        ("gpt2", ["c_attn"]),
    ],
)
def test_lora(kind: str, targets: list[str]) -> None:
    import peft

    config = peft.LoraConfig(
        r=4, target_modules=targets, lora_dropout=0.0, fan_in_fan_out=kind == "gpt2"
    )
    model = peft.get_peft_model(encoder(kind), config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                nn.init.normal_(parameter, std=0.3)
    check(model, text_loss)


def image_loss(model: nn.Module, chosen: slice | Tensor) -> Tensor:
    labels = torch.arange(len(SUBJECTS))[chosen] % 3
    return cross_entropy(model(pixel_values=images()[chosen]).logits, labels, reduction="none")


def test_vision_transformer() -> None:
    """Its patches are a convolution; its bare parameters belong to no layer, and are frozen."""
    model = vision()
    for name, parameter in model.named_parameters():
        if name.endswith(("cls_token", "position_embeddings", "mask_token")):
            parameter.requires_grad_(False)
    check(model, image_loss)


def test_a_bare_parameter_is_refused_by_name() -> None:
    with pytest.raises(UnknownLayer, match=r"vit\.embeddings\.(cls_token|position_embeddings)"):
        OneBackwardModule(vision())


# --- layers and cases -----------------------------------------------------------------------------


def record_loss(model: nn.Module, chosen: slice | Tensor) -> Tensor:
    x = torch.randn(len(SUBJECTS), 5, 8, generator=torch.Generator().manual_seed(7))[chosen]
    output: Tensor = model(x)
    return output.tanh().square().flatten(1).sum(1)


class Squeeze(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 3, (2, 3), stride=(1, 2), padding=1, dilation=(2, 1), bias=True)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x.unsqueeze(1))
        return y


class Twice(nn.Module):
    """One layer in two places, and its weight in a third."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)
        self.other = nn.Linear(8, 8, bias=False)
        self.other.weight = self.layer.weight

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.other(self.layer(self.layer(x).relu()).relu())
        return y


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Linear(8, 4),
        lambda: nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 64, bias=False), nn.LayerNorm((5, 64))),
        lambda: nn.Sequential(nn.RMSNorm(8), nn.Linear(8, 8)),
        lambda: nn.Sequential(nn.LayerNorm(8, bias=False), nn.Linear(8, 3)),
        Squeeze,
        Twice,
    ],
)
def test_layers(make: Callable[[], nn.Module]) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        model = make()
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.5)
    check(model, record_loss)


def test_only_what_trains_is_recorded() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    model[0].weight.requires_grad_(False)
    model[1].bias.requires_grad_(False)
    check(model, record_loss)
    assert len(one_backward(model, record_loss, 1.0)) == 2


def test_the_output_and_the_inputs_gradient_are_the_models_own() -> None:
    model = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 8), nn.RMSNorm(8))
    x = torch.randn(6, 5, 8, requires_grad=True)
    output = model(x)
    (plain,) = torch.autograd.grad(output.square().sum(), x)
    with OneBackwardModule(model) as wrapped:
        wrapped.group(SUBJECTS, 3)
        ours = wrapped(x)
        torch.testing.assert_close(ours, output)
        (gradient,) = torch.autograd.grad(ours.square().sum(), x)
    torch.testing.assert_close(gradient, plain)


def test_closing_gives_the_model_back() -> None:
    model = nn.Linear(8, 4)
    with OneBackwardModule(model):
        assert "forward" in vars(model)
    assert "forward" not in vars(model)
    loss = record_loss(model, slice(None)).sum()
    loss.backward()  # type: ignore[no-untyped-call]
    assert model.weight.grad is not None


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert", "gpt2"])
def test_both_engines_agree(kind: str) -> None:
    """Also where positions are looked up once for all records."""
    model: Any = without_dropout(encoder(kind))
    with HooksModule(model) as hooked:
        hooked.group(SUBJECTS, 3)
        ids, mask = tokens()
        logits = hooked._hooked(input_ids=ids, attention_mask=mask).logits
        hooked.backward(cross_entropy(logits, torch.arange(6) % 3, reduction="sum"))
        oracle = [total.double() for total in clip_and_sum(hooked.collect(), 0.01)]
    assert_equal(one_backward(model, text_loss, 0.01), oracle)


def without_dropout(model: nn.Module) -> nn.Module:
    """Training, but with nothing random."""
    part: Any
    for part in model.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
        if hasattr(part, "dropout") and isinstance(part.dropout, float):
            part.dropout = 0.0
    return model.train()


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing(reentrant: bool) -> None:
    model: Any = without_dropout(encoder("bert"))
    wanted = exact(model, text_loss, 1e-2)
    model.activation_checkpointing_enable({"use_reentrant": reentrant})
    assert_equal(one_backward(model, text_loss, 1e-2), wanted)


def test_dropout_is_the_models_own() -> None:
    """The same masks, drawn once: the gradient is that of the network as it ran."""
    model = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5), nn.Linear(8, 3))
    wanted: list[Tensor] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(9)
        record_loss(model, slice(None)).sum().backward()  # type: ignore[no-untyped-call]
        wanted = [p.grad.double() for p in model.parameters() if p.grad is not None]
        model.zero_grad()
        torch.manual_seed(9)
        assert_equal(one_backward(model, record_loss, 1e6), wanted)


def test_autocast_to_bfloat16() -> None:
    """Norms are those of what is added up: no subject counts for more than the clipping norm."""
    model = encoder("bert")

    def loss(wrapped: nn.Module, chosen: slice | Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return text_loss(wrapped, chosen).float()

    assert_equal(one_backward(model, loss, 1e6), exact(model, loss, 1e6), tolerance=3e-2)
    for subject in range(3):
        with OneBackwardModule(model) as wrapped:
            wrapped.group(torch.zeros(2, dtype=torch.long), 1)
            wrapped.backward(loss(wrapped, torch.tensor([subject, subject + 1])).sum())
            clipped = clip_and_sum(wrapped.collect(), 0.01)
        size = math.sqrt(sum(float(g.double().square().sum()) for g in clipped))
        assert 0.0099 < size <= 0.01 * (1 + 1e-6)


# --- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv1d(2, 2, 1),
        nn.GRU(2, 2),
        nn.GroupNorm(1, 2),
        nn.Conv2d(2, 2, 1, groups=2),
        nn.Conv2d(2, 2, 3, padding="same"),
        nn.Embedding(3, 2, max_norm=1.0),
        nn.utils.parametrizations.weight_norm(nn.Linear(2, 2)),
        nn.Bilinear(2, 2, 2),
    ],
)
def test_an_unknown_layer_is_refused_by_name(layer: nn.Module) -> None:
    model = nn.ModuleDict({"known": nn.Linear(2, 2), "odd": layer})
    with pytest.raises(UnknownLayer, match=r"odd\."):
        OneBackwardModule(model)
    assert len(OneBackwardModule.validate(model, strict=False)) >= 1
    for parameter in layer.parameters():
        parameter.requires_grad_(False)
    OneBackwardModule(model).close()


def test_a_subclass_of_a_known_layer_is_refused() -> None:
    class Scaled(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(2 * x)

    with pytest.raises(UnknownLayer, match="Scaled"):
        OneBackwardModule(Scaled(2, 2))


def test_a_weight_that_is_used_behind_the_layers_back_is_refused() -> None:
    class Behind(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.layer(x) @ self.layer.weight
            return y

    model = Behind()
    with OneBackwardModule(model) as wrapped:
        wrapped.group(SUBJECTS, 3)
        wrapped.backward(record_loss(wrapped, slice(None)).sum())
        with pytest.raises(ValueError, match=r"layer\.weight: its gradient took a path"):
            wrapped.collect()


def test_a_backward_pass_that_nobody_announced_is_refused() -> None:
    with OneBackwardModule(nn.Linear(8, 3)) as wrapped:
        with pytest.raises(ValueError, match="without `group`"):
            wrapped.backward(record_loss(wrapped, slice(None)).sum())
        wrapped.group(SUBJECTS[:4], 3)
        with pytest.raises(ValueError, match="expected 4 records"):
            wrapped.backward(record_loss(wrapped, slice(None)).sum())


@pytest.mark.parametrize(
    "changed", [{"batch_first": False}, {"loss_reduction": "mean"}, {"strict": False}]
)
def test_settings_of_opacus_that_would_mean_something_else(changed: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="batch_first"):
        OneBackwardModule(nn.Linear(2, 2), **changed)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_record_that_is_not_finite_spares_the_other_subjects(bad: float) -> None:
    model = nn.Sequential(nn.Linear(8, 64, bias=False), nn.Linear(64, 2))

    def loss(chosen: Tensor, poison: bool) -> Callable[[nn.Module], Tensor]:
        def compute(wrapped: nn.Module) -> Tensor:
            losses = record_loss(wrapped, chosen)
            factors = torch.where((SUBJECTS[chosen] == 1) & poison, bad, 1.0)
            return (losses * factors).sum()

        return compute

    def run(chosen: Tensor, subjects: Tensor, poison: bool) -> list[Tensor]:
        with OneBackwardModule(model) as wrapped:
            wrapped.group(subjects, int(subjects.max()) + 1)
            wrapped.backward(loss(chosen, poison)(wrapped))
            return clip_and_sum(wrapped.collect(), 0.5)

    everyone = torch.arange(6)
    others = (SUBJECTS != 1).nonzero().flatten()
    spared = run(everyone, SUBJECTS, poison=True)
    without = run(others, torch.tensor([0, 1, 0, 1, 0]), poison=False)
    for got, wanted in zip(spared, without, strict=True):
        torch.testing.assert_close(got, wanted)


def test_without_gradients_nothing_is_recorded() -> None:
    with OneBackwardModule(nn.Linear(8, 3)) as wrapped, torch.no_grad():
        wrapped(torch.randn(2, 8))
        assert wrapped._uses == {}


@pytest.mark.parametrize("engine", [OneBackwardModule, HooksModule])
@pytest.mark.parametrize(
    "layer",
    [
        nn.BatchNorm1d(4),
        nn.BatchNorm1d(4, affine=False),
        nn.InstanceNorm1d(4, track_running_stats=True),
    ],
)
def test_a_layer_that_mixes_records_is_refused_even_frozen(
    engine: Callable[[nn.Module], Any], layer: nn.Module
) -> None:
    for parameter in layer.parameters():
        parameter.requires_grad_(False)
    with pytest.raises(NotImplementedError, match=r"1: a \w+ mixes the records"):
        engine(nn.Sequential(nn.Linear(4, 4), layer))


@pytest.mark.parametrize("layer", [nn.LayerNorm(8), nn.RMSNorm(8)])
def test_records_along_another_dimension_are_refused(layer: nn.Module) -> None:
    """A sequence-first model would be clipped as if its tokens were records."""
    with OneBackwardModule(layer) as wrapped:
        wrapped.group(SUBJECTS, 3)
        with pytest.raises(ValueError, match="expected 6 records along the first dimension, got 5"):
            wrapped.backward(wrapped(torch.randn(5, 6, 8)).sum())


def test_less_exact_products_are_refused() -> None:
    with OneBackwardModule(nn.Linear(8, 3)) as wrapped:
        wrapped.group(SUBJECTS, 3)
        wrapped.backward(record_loss(wrapped, slice(None)).sum())
        torch.set_float32_matmul_precision("high")
        try:
            with pytest.raises(ValueError, match="fewer bits"):
                wrapped.collect()
        finally:
            torch.set_float32_matmul_precision("highest")
