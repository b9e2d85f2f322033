"""Images: how they are read, what is trained, and what others can load."""

from __future__ import annotations

import base64
import json
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from audit.errors import MalformedInput, VerificationFailed
from client.learning.aggregation import advance, begin, state_to_send
from client.learning.base_model import base_model_digest
from client.learning.data import StoredRecord
from client.learning.encoder_model import BIAS_FEATURE
from client.learning.image_inputs import ImageInputs, check_image, public_images, read_image
from client.learning.metrics import accuracy
from client.learning.plan_model import EncodedRecord, PlanModel
from client.learning.private_sgd import SiteTrainer
from client.learning.tasks import build_model, read_examples
from client.learning.tasks.image_classification import ImageClassifier
from compliance.statements import Adapter
from tests.client.learning.conftest import phase
from tests.client.learning.tasks_records.plans import (
    SIDE,
    difference_of_a_step,
    image_plan,
    logits_of,
    people,
    picture,
    png,
    run_load_example,
    save_vision,
    with_a_head,
)

TOKENS = (SIDE // 4) ** 2 + 1
UPPER = Adapter(rank=2, alpha=4, target_modules=("q_proj", "v_proj"), layers=1)
PHASES: Mapping[str, tuple[str, dict[str, Any]]] = {
    "probe": ("probe", {}),
    "adapter": ("adapter", {}),
    "upper": ("adapter", {"adapter": UPPER}),
    "full": ("full", {}),
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_vision(tmp_path_factory.mktemp("models") / "tiny-vit")


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def raw_png(*headers: tuple[int, int], depth: int = 8, after: bytes = b"") -> str:
    """A PNG of no more than a few bytes that says how large it is, if need be twice."""
    data = b"\x89PNG\r\n\x1a\n"
    for width, height in headers:
        data += chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0))
    data += after + chunk(b"IDAT", zlib.compress(bytes(64))) + chunk(b"IEND", b"")
    return base64.b64encode(data).decode()


# --- reading --------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_an_image_is_read_as_plain_pillow_and_transformers_read_it(base: Path, mode: str) -> None:
    from transformers import AutoImageProcessor

    inputs = ImageInputs(base)
    pixels = np.random.default_rng(2).integers(0, 256, (37, 23, 3), dtype=np.uint8)
    text = png(pixels, mode)
    ours = inputs.scaled([inputs.pixels(read_image(text))] * 2)
    processors: Any = AutoImageProcessor
    processor = processors.from_pretrained(base, backend="pil")
    image = Image.fromarray(pixels).convert(mode).convert("RGB")
    theirs = processor([image], return_tensors="pt")["pixel_values"]
    assert ours.shape == (2, 3, SIDE, SIDE)
    torch.testing.assert_close(ours[:1], theirs, rtol=0, atol=1e-6)
    assert torch.equal(ours[0], ours[1])


def test_the_processors_own_numbers_decide(base: Path, tmp_path: Path) -> None:
    other = save_vision(tmp_path / "other", image_mean=[0.1, 0.2, 0.3], image_std=[1, 2, 4])
    grey = Image.new("RGB", (50, 50), (51, 51, 51))
    inputs = ImageInputs(other)
    seen = inputs.scaled([inputs.pixels(grey)])[0, :, 0, 0]
    torch.testing.assert_close(seen, torch.tensor([0.1, 0, -0.025]), rtol=0, atol=1e-6)
    assert base_model_digest(other) != base_model_digest(base)
    with pytest.raises(VerificationFailed):
        build_model(image_plan(base), other)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("secret!", "no base64"),
        (base64.b64encode(b"secret").decode(), "no PNG"),
        (base64.b64encode(b"GIF89a" + b"secret" * 9).decode(), "no PNG"),
        (base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"secret" * 9).decode(), "no PNG"),
        (raw_png((60_000, 60_000)), "60000 by 60000 pixels"),
        (raw_png((0, 9)), "0 by 9 pixels"),
        (raw_png((2**32 - 1, 1)), "4294967295 by 1 pixels"),
    ],
)
def test_what_is_no_image_or_too_large_is_refused_before_it_is_unpacked(
    base: Path, text: str, reason: str
) -> None:
    with pytest.raises(MalformedInput, match=reason) as refusal:
        read_examples(image_plan(base), [StoredRecord("s", text, "ill")])
    assert refusal.value.fix
    assert refusal.value.__cause__ is None
    assert "secret" not in str(refusal.value)


@pytest.mark.parametrize(
    "text",
    [
        raw_png((4, 4), (60_000, 60_000)),
        raw_png((4, 4), (6_000, 6_000)),
        raw_png((400, 400)),
        raw_png((4, 4), after=b"secret secret secret"),
        raw_png((4, 4), after=chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(80_000_000)))),
        raw_png((4, 4), depth=3),
        picture(1, 0)[:400],
    ],
    ids=["huge", "large", "short", "garbage", "text", "depth", "cut"],
)
def test_a_damaged_image_is_refused_without_a_word_of_it(base: Path, text: str) -> None:
    check_image(text + "=" * (-len(text) % 4))
    with pytest.raises(MalformedInput, match="malformed image: a damaged PNG") as refusal:
        read_image(text)
    assert refusal.value.__cause__ is None
    assert "secret" not in str(refusal.value)


def test_sixteen_bits_a_channel_are_refused_and_not_cut(base: Path) -> None:
    text = png(np.full((4, 4), 40_000, dtype=np.uint16))
    with pytest.raises(MalformedInput, match="not 8 bits a channel"):
        read_image(text)


def test_public_images_depend_on_nothing() -> None:
    first = [np.asarray(image) for image in public_images(16)]
    np.random.seed(1)
    torch.manual_seed(1)
    again = [np.asarray(image) for image in public_images(16)]
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert len({image.tobytes() for image in first}) == len(first)


# --- what a base model must be --------------------------------------------------------------------


def test_a_record_counts_its_tokens_and_features_have_norm_of_about_one(base: Path) -> None:
    model = built(base, "adapter")
    records = model.encode(people([1] * 8, picture))
    assert {record.size for record in records} == {TOKENS}
    norms = model.features(records)[:, :-1].norm(dim=1)
    assert 0.3 < float(norms.mean()) < 3
    assert BIAS_FEATURE < 1
    assert not logits_of(model, "probe", people([1] * 3, picture)).any()


def test_a_base_model_without_image_processor_is_refused(base: Path, tmp_path: Path) -> None:
    save_vision(tmp_path / "vit")
    (tmp_path / "vit" / "preprocessor_config.json").unlink()
    with pytest.raises(MalformedInput, match="has no image processor"):
        build_model(image_plan(tmp_path / "vit"), tmp_path / "vit")


def test_images_of_a_size_that_the_model_does_not_read_are_refused(tmp_path: Path) -> None:
    folder = save_vision(tmp_path / "vit")
    config = json.loads((folder / "preprocessor_config.json").read_bytes())
    config["size"] = {"height": 20, "width": 20}
    (folder / "preprocessor_config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(MalformedInput, match="cannot read what its own image processor makes"):
        build_model(image_plan(folder), folder)


def test_a_model_that_does_not_classify_by_its_first_token_alone_is_refused(tmp_path: Path) -> None:
    import transformers

    config = transformers.Dinov2Config(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=SIDE,
        patch_size=4,
    )
    folder = save_vision(tmp_path / "other")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        transformers.Dinov2ForImageClassification(config).save_pretrained(folder)
    with pytest.raises(MalformedInput, match="does not classify by its first token alone"):
        build_model(image_plan(folder, phase("full")), folder)


def test_a_base_model_that_lacks_weights_is_refused(base: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = save_vision(tmp_path / "vit")
    weights = load_file(folder / "model.safetensors")
    lacking = next(name for name in weights if name.endswith("q_proj.weight") or "query" in name)
    del weights[lacking]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(MalformedInput, match="has no weights of the right shape for"):
        build_model(image_plan(folder), folder)


# --- training -------------------------------------------------------------------------------------


def built(base: Path, which: str) -> ImageClassifier:
    kind, changes = PHASES[which]
    model = build_model(image_plan(base, phase(kind), **changes), base)
    assert isinstance(model, ImageClassifier)
    return model


@pytest.mark.parametrize("engine", ["one_backward", "hooks"])
@pytest.mark.parametrize("which", PHASES)
def test_a_step_equals_the_naive_computation(base: Path, which: str, engine: str) -> None:
    kind, changes = PHASES[which]
    learn = phase(kind, learning_rate="1000", max_grad_norm="0.3")
    plan = image_plan(base, learn, **changes)
    model = built(base, which)
    if kind != "probe":  # a probe is of the base model, which LoRA must not differ from
        with_a_head(model)
    assert difference_of_a_step(model, plan, engine, people([1, 3, 2], picture)) <= 1e-5


def test_all_weights_train_but_those_of_no_layer(base: Path) -> None:
    model = built(base, "full")
    names = {name for name, _ in model.network.encoder.named_parameters()}
    assert model.frozen_in_full() == {"embeddings.cls_token", "embeddings.position_embeddings"}
    trained = {name.removeprefix("encoder.") for name in model.get_state() if "head." not in name}
    assert trained == names - model.frozen_in_full()
    before = {name: p.detach().clone() for name, p in model.network.encoder.named_parameters()}
    with_a_head(model)
    plan = image_plan(base, phase("full", learning_rate="100"))
    SiteTrainer(model, plan, people([1] * 4, picture)).train_round(0, model.get_state())
    moved = {
        name
        for name, p in model.network.encoder.named_parameters()
        if not torch.equal(p, before[name])
    }
    # All keys of a record moved alike change no attention: the gradient of that bias is rounding.
    biases = {name for name in trained if name.endswith("k_proj.bias")}
    assert moved | biases == trained


def test_sites_learn_with_hardly_any_noise_from_probe_to_adapter(base: Path) -> None:
    plan = image_plan(
        base,
        phase("histogram", max_grad_norm="1", learning_rate="1"),
        phase("probe", rounds=10, max_grad_norm="1", learning_rate="2"),
        phase("adapter", rounds=3, max_grad_norm="1", learning_rate="1"),
        class_weights="histogram",
    )
    model = build_model(plan, base)
    sites = [
        people([1] * 10, lambda at, label, s=site: picture(100 * s + at, label)) for site in (1, 2)
    ]
    trainers = [SiteTrainer(model, plan, site) for site in sites]
    iterate = begin(model.get_state())
    for number in range(plan.rounds):
        state = state_to_send(iterate, plan)
        iterate = advance(iterate, plan, [t.train_round(number, state).update for t in trainers])
    held_out = people([1] * 20, lambda at, label: picture(900 + at, label))
    assert model.kind_of_state() == "adapter"
    assert accuracy(trainers[0].evaluate(iterate.average, held_out).everybody.confusion) >= 0.9


@pytest.mark.parametrize("which", ["adapter", "full"])
def test_a_state_survives_being_set_and_a_wrong_one_changes_nothing(base: Path, which: str) -> None:
    model = built(base, which)
    with_a_head(model)
    state, examples = model.get_state(), people([1] * 4, picture)
    before = logits_of(model, which, examples)
    again = built(base, which)
    again.set_state(state)
    torch.testing.assert_close(logits_of(again, which, examples), before, rtol=1e-5, atol=1e-5)
    broken = {**state, "head.bias": np.full(2, np.inf, np.float32)}
    with pytest.raises(MalformedInput, match="not finite"):
        again.set_state(broken)
    torch.testing.assert_close(logits_of(again, which, examples), before, rtol=1e-5, atol=1e-5)


# --- releases -------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["upper", "full"])
def test_the_example_loads_the_release_and_computes_the_same(
    base: Path, which: str, tmp_path: Path
) -> None:
    kind, changes = PHASES[which]
    model = built(base, which)
    with_a_head(model)
    model.save(tmp_path / "release")
    weights = (
        ("config.json", "model") if which == "full" else ("adapter_config.json", "adapter_model")
    )
    assert sorted(file.name for file in (tmp_path / "release").iterdir()) == [
        weights[0],
        f"{weights[1]}.safetensors",
        "preprocessor_config.json",
    ]
    texts = [picture(n, n % 2) for n in range(4)]
    for number, text in enumerate(texts):
        (tmp_path / f"{number}.png").write_bytes(base64.b64decode(text))
    by = '[Image.open(f"{n}.png").convert("RGB") for n in range(4)]'
    plan = image_plan(base, phase(kind), **changes)
    said, names = run_load_example(plan, tmp_path / "release", base, "images", by, tmp_path)
    expected = logits_of(model, kind, people([1] * 4, lambda at, _label: texts[at]))
    torch.testing.assert_close(torch.tensor(said), expected, rtol=1e-4, atol=1e-4)
    assert names == str([plan.labels[int(label)] for label in expected.argmax(1)])


def test_saving_twice_gives_the_same_bytes_and_no_path(base: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        reference = image_plan(base).base_model.model_copy(update={"name": "tiny/vit"})
        build_model(image_plan(base, base_model=reference), base).save(tmp_path / name)
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()
        assert str(base).encode() not in file.read_bytes()


def encoded(model: PlanModel, text: str) -> EncodedRecord:
    return model.encode(people([1], lambda _at, _label: text))[0]


def test_what_is_kept_of_an_image_are_bytes(base: Path) -> None:
    model = built(base, "adapter")
    record = encoded(model, picture(3, 1))
    assert record.content.dtype == np.uint8
    assert record.content.nbytes == 3 * SIDE * SIDE
    assert model.shares(record) == (1.0, 0.0)
