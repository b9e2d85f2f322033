"""Versions of what computes a release."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

SOFTWARE = (
    "fiduciary",
    "torch",
    "transformers",
    "peft",
    "opacus",
    "dp-accounting",
    "flwr",
    "safetensors",
    "cryptography",
)


def software_versions() -> dict[str, str]:
    """Versions of what computed the release."""
    return {"python": platform.python_version(), **{name: version_of(name) for name in SOFTWARE}}


def version_of(name: str) -> str:
    """A package's version; `unknown` where it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"
