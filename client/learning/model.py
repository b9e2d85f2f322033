"""The classifier that is trained: a frozen encoder, LoRA, and a linear head on mean-pooled tokens.

* Document logits are the attention-masked mean of token logits. As the head is linear, that is the
  head applied to the mean-pooled encoder output; so the release is an ordinary peft adapter for
  `AutoModelForTokenClassification` and needs nothing of Fiduciary (docs/adr/0005).
* Only the head and the LoRA `B` matrices are trained. `A` is drawn from the plan and stays fixed
  (FFA-LoRA, Sun et al. 2024, arXiv 2403.12313): averages of sites' updates are then exact.
* The base model is named by digest; weights come from safetensors only, never from pickle.
* Dropout is off: under per-subject clipping it costs accuracy, and results do not depend on it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from audit.canonical import canonical_bytes
from audit.errors import MalformedInput, VerificationFailed
from client.learning.base_model import (
    EMBEDDED_MODEL,
    HUB_NAME_OF_EMBEDDED,
    base_model_digest,
    resolve_base_model,
)
from client.learning.micro_batches import MicroBatches, Part
from client.learning.public_prior import label_sentences, prior_from_features
from client.learning.randomness import Keystream
from compliance.statements import TrainingPlan

State = dict[str, npt.NDArray[np.float32]]
"""Trained weights by name, in sorted order of names."""


class DocumentClassifier(nn.Module):
    """Encoder, masked mean over tokens, linear head. Its trainable layers are all `nn.Linear`.

    The head works on standardised features with one constant feature appended, whose weight is the
    bias. `BIAS_FEATURE` below 1 keeps the bias, which follows how common a label is at a site, from
    using up the clipping norm: on label-skewed banking77 a feature of 1 costs 2 points at ε = 3.
    """

    BIAS_FEATURE = 0.2

    def __init__(self, encoder: nn.Module, hidden_size: int, label_count: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(hidden_size + 1, label_count, bias=False)
        nn.init.zeros_(self.head.weight)
        self.centre = nn.Buffer(torch.zeros(hidden_size), persistent=False)
        self.scale = 1.0

    def pool(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Mean of the encoder's output over the tokens of each record, `(records, hidden)`."""
        # Positions are left to the model, as in the release: they differ between architectures, and
        # Opacus would need a row of them a record only if their embeddings were trained.
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        weights = attention_mask.to(hidden.dtype).unsqueeze(-1)
        pooled: Tensor = (hidden * weights).sum(1) / weights.sum(1)
        return pooled

    def standardise(self, pooled: Tensor) -> Tensor:
        """What the head sees: `(records, hidden + 1)`."""
        constant = pooled.new_full((len(pooled), 1), self.BIAS_FEATURE)
        return torch.cat([(pooled - self.centre) / self.scale, constant], dim=1)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Document logits, `(records, labels)`."""
        logits: Tensor = self.head(self.standardise(self.pool(input_ids, attention_mask)))
        return logits

    def released_head(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of the same head on plain pooled features."""
        trained = self.head.weight.detach()
        weight = trained[:, :-1] / self.scale
        return weight, trained[:, -1] * self.BIAS_FEATURE - weight @ self.centre

    def take_head(self, weight: Tensor, bias: Tensor) -> None:
        """Inverse of `released_head`."""
        with torch.no_grad():
            self.head.weight[:, :-1] = weight * self.scale
            self.head.weight[:, -1] = (bias + weight @ self.centre) / self.BIAS_FEATURE


class ClassifierModel:
    """The model of one plan. Make one with `build`."""

    def __init__(self, plan: TrainingPlan, peft_model: Any, tokenizer: Any) -> None:
        self.labels = plan.labels
        self.max_tokens = plan.max_tokens
        self.base_model = plan.base_model
        self._peft = peft_model
        self._tokenizer = tokenizer
        inner = peft_model.base_model.model
        encoder = getattr(inner, inner.base_model_prefix)
        self.network = DocumentClassifier(encoder, int(inner.config.hidden_size), len(plan.labels))
        self._lora = {
            name.removesuffix(_LORA_SUFFIX): parameter
            for name, parameter in encoder.named_parameters()
            if name.endswith(".lora_B" + _LORA_SUFFIX)
        }
        adapted = [name.removesuffix(".lora_B") for name in self._lora]
        matrices = sum(1 for name, _ in encoder.named_parameters() if ".lora_" in name)
        if matrices != 2 * len(adapted) or not all(
            any(f".{name}".endswith(f".{target}") for name in adapted)
            for target in plan.adapter.target_modules
        ):
            raise _bad_targets(plan)

    @classmethod
    def build(cls, plan: TrainingPlan, base_path: Path, seed: int | None = None) -> ClassifierModel:
        """Load the base model, add LoRA that changes nothing yet and a head from label names.

        Args:
            plan: Names the base model's digest, labels and adapter.
            base_path: Folder of the base model (`resolve_base_model`).
            seed: Seed of the fixed LoRA `A`; by default a hash of the plan, so that every party of
                a plan has the same.

        Raises:
            VerificationFailed: When the base model's digest is not the plan's.
            MalformedInput: When the adapter's target modules are not in the model.
        """
        digest = base_model_digest(base_path)
        if digest != plan.base_model.digest:
            raise VerificationFailed(
                f"base model {plan.base_model.name!r}: expected {plan.base_model.digest}, "
                f"got {digest}",
                fix="install the base model that the plan names, or ask for a new plan",
            )
        import peft
        import transformers

        with quiet_transformers(), torch.random.fork_rng(devices=[]):
            settings = transformers.AutoConfig.from_pretrained(
                base_path, num_labels=len(plan.labels), local_files_only=True
            )
            for name, value in settings.to_dict().items():
                if "drop" in name and isinstance(value, float):
                    setattr(settings, name, 0.0)
            base = transformers.AutoModelForTokenClassification.from_pretrained(
                base_path, config=settings, use_safetensors=True, local_files_only=True
            )
            tokenizer = transformers.AutoTokenizer.from_pretrained(base_path, local_files_only=True)
            config = peft.LoraConfig(
                task_type=peft.TaskType.TOKEN_CLS,
                r=plan.adapter.rank,
                lora_alpha=plan.adapter.alpha,
                target_modules=list(plan.adapter.target_modules),
                lora_dropout=0.0,
            )
            try:
                wrapped = peft.get_peft_model(base, config)
            except ValueError as error:
                raise _bad_targets(plan) from error
            model = cls(plan, wrapped, tokenizer)
        model._draw_projections(_adapter_seed(plan) if seed is None else str(seed).encode())
        model._start_from_labels()
        return model

    def _draw_projections(self, seed: bytes) -> None:
        keystream = Keystream(seed)
        for name, parameter in sorted(self.network.encoder.named_parameters()):
            if name.endswith(".lora_A" + _LORA_SUFFIX):
                bound = 1 / math.sqrt(parameter.shape[1])
                values = (2 * keystream.uniform(parameter.numel()) - 1) * bound
                with torch.no_grad():
                    parameter.copy_(torch.from_numpy(values).view_as(parameter))

    def _start_from_labels(self) -> None:
        network = self.network
        features = self.features(self.encode(label_sentences(self.labels)))[:, :-1]
        prior = prior_from_features(features, len(self.labels))
        network.centre.copy_(prior.centre)
        network.scale = prior.scale
        with torch.no_grad():
            network.head.weight[:, :-1] = prior.head_weight

    def set_trainable(self, kind: str) -> list[nn.Parameter]:
        """Let the weights of a phase (`probe` or `adapter`) train and freeze all others."""
        for parameter in self._peft.parameters():
            parameter.requires_grad_(False)
        trained = list(self.network.head.parameters())
        if kind == "adapter":
            trained += [self._lora[name] for name in sorted(self._lora)]
        for parameter in trained:
            parameter.requires_grad_(True)
        return trained

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, cut to the plan's `max_tokens`."""
        if not texts:
            return []
        encoded = self._tokenizer(list(texts), truncation=True, max_length=self.max_tokens)
        ids: list[list[int]] = encoded["input_ids"]
        return ids

    def pad(self, token_ids: Sequence[list[int]]) -> tuple[Tensor, Tensor]:
        """`(input_ids, attention_mask)`, each `(records, longest)`."""
        longest = max(len(ids) for ids in token_ids)
        fill = int(self._tokenizer.pad_token_id or 0)
        padded = [ids + [fill] * (longest - len(ids)) for ids in token_ids]
        mask = [[1] * len(ids) + [0] * (longest - len(ids)) for ids in token_ids]
        return torch.tensor(padded), torch.tensor(mask)

    def features(self, token_ids: Sequence[list[int]], *, adapted: bool = False) -> Tensor:
        """What the head sees, `(records, hidden + 1)`; of the frozen encoder unless `adapted`."""
        result = torch.zeros(len(token_ids), self.network.head.in_features)
        by_length = sorted(range(len(token_ids)), key=lambda i: len(token_ids[i]))
        switch = contextlib.nullcontext() if adapted else self._peft.disable_adapter()
        self.network.eval()

        def compute(parts: Sequence[Part]) -> None:
            chosen = [record for part in parts for record in part.records]
            ids, mask = self.pad([token_ids[i] for i in chosen])
            result[chosen] = self.network.standardise(self.network.pool(ids, mask))

        with torch.no_grad(), switch:
            MicroBatches(_INFERENCE_BATCH).run([Part.whole([i]) for i in by_length], compute)
        return result

    def logits(self, texts: Sequence[str]) -> Tensor:
        """Document logits of texts, `(texts, labels)`."""
        return self.head_logits(self.features(self.encode(texts), adapted=True))

    def head_logits(self, features: Tensor) -> Tensor:
        """Document logits `(records, labels)` of what `features` gave."""
        with torch.no_grad():
            logits: Tensor = self.network.head(features)
        return logits

    @property
    def is_adapted(self) -> bool:
        """Whether LoRA changes the encoder at all: its `B` start at zero, and then it does not."""
        return any(bool(parameter.any()) for parameter in self._lora.values())

    def get_state(self) -> State:
        """Copies of the weights that training may change, in sorted order of names."""
        weight, bias = self.network.released_head()
        state = {"head.weight": weight.numpy(), "head.bias": bias.numpy()}
        for name, parameter in self._lora.items():
            state[name] = parameter.detach().numpy().copy()
        return {name: state[name] for name in sorted(state)}

    def set_state(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Take weights as `get_state` gives them.

        Raises:
            MalformedInput: When names or shapes differ, or a value is not finite. Nothing is
                changed then.
        """
        own = self.get_state()
        check_state(state, own)
        with torch.no_grad():
            weight = torch.from_numpy(np.array(state["head.weight"], dtype=np.float32))
            bias = torch.from_numpy(np.array(state["head.bias"], dtype=np.float32))
            self.network.take_head(weight, bias)
            for name, parameter in self._lora.items():
                parameter.copy_(torch.from_numpy(np.array(state[name], dtype=np.float32)))

    def save_adapter(self, folder: Path) -> None:
        """Write `adapter_model.safetensors` and `adapter_config.json`, as plain peft reads them."""
        weight, bias = self.network.released_head()
        inner = self._peft.base_model.model
        wrapper = inner.classifier if hasattr(inner, "classifier") else inner.score
        head = wrapper.modules_to_save["default"]
        with torch.no_grad():
            head.weight.copy_(weight)
            head.bias.copy_(bias)
        config = self._peft.peft_config["default"]
        embedded = self.base_model.name == EMBEDDED_MODEL
        config.base_model_name_or_path = HUB_NAME_OF_EMBEDDED if embedded else self.base_model.name
        folder.mkdir(parents=True, exist_ok=True)
        # Left to itself, peft asks the hub whether embeddings were resized: they never are.
        self._peft.save_pretrained(
            str(folder), safe_serialization=True, save_embedding_layers=False
        )
        config_file = folder / "adapter_config.json"
        settings = json.loads(config_file.read_text(encoding="utf-8"))
        settings["target_modules"] = sorted(settings["target_modules"])  # peft keeps a set
        config_file.write_text(json.dumps(settings, indent=2, sort_keys=True), encoding="utf-8")
        (folder / "README.md").unlink(missing_ok=True)  # the release brings its own model card


MAX_WEIGHT = 1e6
"""No weight of a working model comes near; a hostile one could overflow what is computed of it."""

_INFERENCE_BATCH = 128
_LORA_SUFFIX = ".default.weight"


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


def _bad_state(reason: str) -> MalformedInput:
    return MalformedInput(
        f"malformed model state: {reason}", fix="run the same version and plan everywhere"
    )


def _bad_targets(plan: TrainingPlan) -> MalformedInput:
    return MalformedInput(
        f"adapter.target_modules {list(plan.adapter.target_modules)} are not linear layers of "
        f"base model {plan.base_model.name!r}",
        fix="name the model's attention projections, such as query and value",
    )


def _adapter_seed(plan: TrainingPlan) -> bytes:
    return hashlib.sha256(canonical_bytes(plan.body())).digest()


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


__all__ = [
    "EMBEDDED_MODEL",
    "ClassifierModel",
    "DocumentClassifier",
    "State",
    "base_model_digest",
    "check_state",
    "resolve_base_model",
]
