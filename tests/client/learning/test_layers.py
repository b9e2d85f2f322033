"""A transformer in two halves computes what it computes whole, and so do its gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from audit.errors import MalformedInput
from client.learning.layers import SplitLayers, padded, transformer_layers
from tests.client.learning.tiny_models import RECORDS, encoder, images, tokens, vision

LAYERS = 3
KINDS = ("bert", "roberta", "distilbert", "gpt2", "llama", "vit")


def transformer(kind: str) -> nn.Module:
    """The architecture without its task's head."""
    model: Any = vision(LAYERS) if kind == "vit" else encoder(kind, LAYERS)
    inner: nn.Module = getattr(model, model.base_model_prefix)
    return inner


def inputs_of(kind: str) -> dict[str, Tensor]:
    if kind == "vit":
        return {"pixel_values": images()}
    ids, mask = tokens()
    return {"input_ids": ids, "attention_mask": mask}


def of_records(hidden: Tensor, inputs: dict[str, Tensor]) -> Tensor:
    """Without what is made of padding, which means nothing."""
    mask = inputs.get("attention_mask")
    return hidden if mask is None else hidden * mask.unsqueeze(-1)


def upper_gradients(model: nn.Module, first: int, output: Tensor) -> list[Tensor]:
    upper = [p for layer in transformer_layers(model)[first:] for p in layer.parameters()]
    return list(torch.autograd.grad(output.tanh().square().sum(), upper))


@pytest.mark.parametrize("first", range(1, LAYERS))
@pytest.mark.parametrize("kind", KINDS)
def test_two_halves_are_the_whole(kind: str, first: int) -> None:
    """Output and upper gradients, from lower halves that were computed record by record."""
    inputs = inputs_of(kind)
    whole = transformer(kind)
    expected = of_records(whole(**inputs).last_hidden_state, inputs)
    wanted = upper_gradients(whole, first, expected)
    model = transformer(kind)
    split = SplitLayers(model, first)
    with torch.no_grad():
        hidden = split.lower(**inputs)
        apart = [
            split.lower(**{name: value[[row]] for name, value in inputs.items()})[0]
            for row in range(RECORDS)
        ]
    torch.testing.assert_close(torch.stack(apart), hidden, rtol=1e-4, atol=1e-4)
    assert not hidden.requires_grad
    got = of_records(split.upper(hidden, **inputs).last_hidden_state, inputs)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
    for one, other in zip(upper_gradients(model, first, got), wanted, strict=True):
        assert other.isfinite().all()
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_lower_half_does_not_run_again(kind: str) -> None:
    """Weights below may be anything at all: the upper half does not look at them."""
    inputs = inputs_of(kind)
    model = transformer(kind)
    split = SplitLayers(model, 2)
    with torch.no_grad():
        hidden = split.lower(**inputs)
        expected = split.upper(hidden, **inputs).last_hidden_state
        for layer in transformer_layers(model)[:2]:
            for parameter in layer.parameters():
                parameter.fill_(float("nan"))
        again = split.upper(hidden, **inputs).last_hidden_state
        assert torch.equal(again, expected)
        assert not split.lower(**inputs).isfinite().any()
        assert not model(**inputs).last_hidden_state.isfinite().any(), "the whole runs all of it"


@pytest.mark.parametrize("kind", KINDS)
def test_a_split_transformer_is_as_ever_when_called_whole(kind: str) -> None:
    """Also after a half failed: nothing of it is left."""
    inputs = inputs_of(kind)
    model = transformer(kind)
    expected = model(**inputs).last_hidden_state
    split = SplitLayers(model, 1)
    broken = {name: value[:, :0] for name, value in inputs.items()}
    for half in (split.lower, lambda **given: split.upper(torch.zeros(1, 1, 7), **given)):
        with pytest.raises((RuntimeError, ValueError, IndexError)):
            half(**broken)
    assert torch.equal(model(**inputs).last_hidden_state, expected)


def test_nothing_is_split_off_at_layer_0() -> None:
    model = transformer("bert")
    before = [layer.forward for layer in transformer_layers(model)]
    SplitLayers(model, 0)
    assert [layer.forward for layer in transformer_layers(model)] == before


@pytest.mark.parametrize("first", [-1, LAYERS, LAYERS + 1])
def test_a_layer_that_is_not_there_is_refused(first: int) -> None:
    with pytest.raises(MalformedInput, match="the base model has 3 layers") as refused:
        SplitLayers(transformer("bert"), first)
    assert refused.value.fix


def test_a_model_without_layers_is_refused() -> None:
    with pytest.raises(MalformedInput, match="a Sequential has no list of layers"):
        transformer_layers(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)))


def test_the_layers_are_the_longest_list_of_one_class() -> None:
    model = nn.Module()
    model.few = nn.ModuleList([nn.Linear(1, 1)])
    model.mixed = nn.ModuleList([nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 1), nn.ReLU()])
    model.many = nn.ModuleList([nn.Linear(1, 1) for _ in range(3)])
    assert transformer_layers(model) is model.many


def test_records_of_any_length_are_padded_with_zeros() -> None:
    rows = [torch.ones(2, 3), torch.ones(4, 3)]
    together = padded(rows)
    assert together.shape == (2, 4, 3)
    assert float(together.sum()) == 18
    assert not together[0, 2:].any()
    assert padded([torch.ones(3), torch.ones(3)]).shape == (2, 3)
