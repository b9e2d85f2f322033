"""Image classification: one label for an image, by the CLS token of a vision transformer.

* A record is a PNG (`client.learning.image_inputs`). The release is what plain transformers and
  peft load for `AutoModelForImageClassification`.
* Names of labels mean nothing to a vision transformer, so the head starts at zero. Features are
  centred on those of images that depend on nothing, and scaled by how far apart these are.
* A `full` phase leaves the CLS token and the position embeddings as they are: they are no layer
  whose per-subject gradients are known (`client.learning.one_backward`).
* Of a base model that would use more than the CLS token, or reads images in another order, nothing
  is trained: the release would not compute what was trained.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from audit.errors import MalformedInput
from client.learning.data import Example, StoredRecord
from client.learning.encoder_model import EncoderModel, EncoderNetwork
from client.learning.image_inputs import ImageInputs, check_image, public_images, read_image
from client.learning.plan_model import EncodedRecord
from client.learning.single_label import SingleLabel, read_labelled
from compliance.statements import TrainingPlan

LOAD_EXAMPLE = """import json
from pathlib import Path

import torch
from peft import PeftModel
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification

folder = {folder}
base = {base}
with open(f"{{folder}}/labels.json") as file:
    labels = json.load(file)
processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
if Path(folder, "adapter_config.json").exists():
    model = AutoModelForImageClassification.from_pretrained(
        base, num_labels=len(labels), ignore_mismatched_sizes=True
    )
    model = PeftModel.from_pretrained(model, folder).eval()
else:  # all weights were trained
    model = AutoModelForImageClassification.from_pretrained(folder).eval()

images = [Image.new("RGB", (256, 256), "grey")]  # Image.open("image.png").convert("RGB")
with torch.no_grad():
    logits = model(**processor(images, return_tensors="pt")).logits
print([labels[int(i)] for i in logits.argmax(1)])
"""

_PROCESSOR = "preprocessor_config.json"

_CHECKED = 1e-3
"""Difference of logits that comes of rounding; other ways to pool differ by much more."""


def read_examples(plan: TrainingPlan, records: Iterable[StoredRecord]) -> list[Example]:
    """Images with the class of each.

    Raises:
        MalformedInput: When a label is not one of the plan's, or a record is no PNG.
    """
    return read_labelled(plan, records, check_image)


class ImageNetwork(EncoderNetwork):
    """Its input is `pixel_values`, `(records, channels, height, width)`."""

    def encoder_inputs(self, *inputs: Tensor) -> dict[str, Tensor]:
        """Pixels."""
        return {"pixel_values": inputs[0]}

    def pool(self, hidden: Tensor, *inputs: Tensor) -> Tensor:
        """The first token, `(records, hidden)`."""
        del inputs
        return hidden[:, 0]


class ImageClassifier(SingleLabel, EncoderModel):
    """The model of a plan that classifies images."""

    network: ImageNetwork
    auto_class = "AutoModelForImageClassification"
    peft_task = None
    load_example: ClassVar[str] = LOAD_EXAMPLE

    @classmethod
    def load_example_of(cls, plan: TrainingPlan) -> str:
        """One for both kinds of releases: the folder says which it is."""
        del plan
        return cls.load_example

    def make_network(
        self, encoder: nn.Module, hidden_size: int, label_count: int, first_trained_layer: int
    ) -> ImageNetwork:
        """By the CLS token."""
        return ImageNetwork(encoder, hidden_size, label_count, first_trained_layer)

    def read_from(self, base_path: Path) -> None:
        """Load the image processor."""
        self.images = ImageInputs(base_path)
        self._processor_file = base_path / _PROCESSOR

    def start_head(self) -> None:
        """Centre and scale from public images; the head is zero."""
        side = int(max(torch.tensor(self._inner.config.image_size).flatten()))
        shown = public_images(side)
        pixels = [self.images.pixels(image) for image in shown]
        with torch.no_grad():
            try:
                hidden = self.network.encoder(
                    pixel_values=self.images.scaled(pixels)
                ).last_hidden_state
                logits = self._inner(pixel_values=self.images.whole(shown[-1])).logits
            except (ValueError, RuntimeError) as error:
                raise MalformedInput(
                    f"base model {self.plan.base_model.name!r} cannot read what its own image "
                    "processor makes of an RGB image",
                    fix="choose a vision transformer for RGB images",
                ) from error
            pooled = self.network.pool(hidden)
            head = self.released_head_module
            alike = head.in_features == pooled.shape[1] and torch.allclose(
                head(pooled[-1:]), logits, rtol=_CHECKED, atol=_CHECKED
            )
            if not alike:
                raise MalformedInput(
                    f"base model {self.plan.base_model.name!r} does not classify by its first "
                    "token alone",
                    fix="choose a vision transformer such as ViT or DeiT",
                )
            self._tokens = hidden.shape[1]
            centre = pooled.mean(0)
            length = float((pooled - centre).norm(dim=1).mean()) or 1.0
            self.network.see_through(centre, torch.eye(len(centre)) / length)

    def frozen_in_full(self) -> frozenset[str]:
        """Weights that are no layer's: CLS token, position embeddings, scales of layers."""
        return frozenset(
            name
            for name, _ in self.network.encoder.named_parameters()
            if name.rpartition(".")[2] not in ("weight", "bias")
        )

    def encode(self, examples: Sequence[Example]) -> list[EncodedRecord]:
        """Pixels and label of each."""
        return [
            EncodedRecord(self.images.pixels(read_image(example.text)), example.label, self._tokens)
            for example in examples
        ]

    def raw_inputs(self, records: Sequence[EncodedRecord]) -> tuple[Tensor, ...]:
        """Scaled pixels."""
        return (self.images.scaled([record.content for record in records]).to(self.device),)

    def save(self, folder: Path) -> None:
        """Beside adapter or model, how images are read."""
        super().save(folder)
        shutil.copyfile(self._processor_file, folder / _PROCESSOR)
