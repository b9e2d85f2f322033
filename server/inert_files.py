"""What may be in a release: safetensors and text, judged by name and by content.

A pickle runs whatever code its author chose, in the process that loads it, and looks like weights.
So nothing is taken for its name: a `.safetensors` file must be one to its last octet, JSON must
parse, text must be text. Checked where a release is made and where it is opened; the compliance
service, which sees names only, refuses the names.

| content | under which name | outcome |
|---|---|---|
| pickle, torch zip, anything else | `.pkl`, `.bin`, `.pt`, any unknown suffix | refused by name |
| pickle or torch zip | `.safetensors`, `.json`, `.jsonl`, `.sig`, `.md`, `.txt` | refused |
| safetensors with octets before, between or after its tensors | `.safetensors` | refused |
"""

from __future__ import annotations

import json
from pathlib import Path

from audit.errors import VerificationFailed
from compliance.rules.release_gates import INERT_SUFFIXES, WEIGHTS_SUFFIX

_FIX = "do not load it; tell the federation's coordinator"

_TEXT_CONTROLS = frozenset("\t\n\r")


def require_inert(path: Path) -> None:
    """Refuse a file that might run code when it is loaded.

    Raises:
        VerificationFailed: When it is neither safetensors nor text, whatever it is called.
    """
    suffix = path.suffix.lower()
    if suffix not in INERT_SUFFIXES:
        raise VerificationFailed(f"{path.name} is neither safetensors nor text", fix=_FIX)
    if suffix == WEIGHTS_SUFFIX:
        _require_safetensors(path)
        return
    try:
        text = path.read_text("utf-8")
        if any(not each.isprintable() and each not in _TEXT_CONTROLS for each in set(text)):
            raise VerificationFailed(f"{path.name} holds what is no text", fix=_FIX)
        if suffix in (".json", ".sig"):
            json.loads(text)
        elif suffix == ".jsonl":
            for line in text.splitlines():
                json.loads(line)
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise VerificationFailed(f"{path.name} is not what its name says", fix=_FIX) from error


def _require_safetensors(path: Path) -> None:
    from safetensors import SafetensorError, safe_open

    try:
        # It checks the header, and that the tensors fill the rest without gap or remainder.
        with safe_open(path, framework="numpy") as file:
            names = list(file.keys())
    except (SafetensorError, OSError) as error:
        raise VerificationFailed(f"{path.name} is not safetensors", fix=_FIX) from error
    if not names:
        raise VerificationFailed(f"{path.name} holds no tensor", fix=_FIX)
