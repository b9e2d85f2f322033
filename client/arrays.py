"""Named arrays as bytes: one form for the wire, for checkpoints and for digests.

* The form is safetensors: reading it executes nothing and cannot be confused with pickle.
* Equal arrays give equal bytes, whatever the order of their names, so a digest is well defined.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy

from audit.errors import MalformedInput

Arrays = Mapping[str, npt.NDArray[Any]]
"""Name to array."""


def pack_arrays(arrays: Arrays) -> bytes:
    """Arrays as one safetensors document.

    Args:
        arrays: Name to array, of any shapes, in any order.
    """
    ordered = {name: np.asarray(arrays[name], order="C") for name in sorted(arrays)}
    return bytes(safetensors.numpy.save(ordered))


def unpack_arrays(document: bytes) -> dict[str, npt.NDArray[Any]]:
    """Read what `pack_arrays` wrote.

    Raises:
        MalformedInput: If the bytes are no safetensors document.
    """
    try:
        return dict(safetensors.numpy.load(document))
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError) as error:
        raise MalformedInput(f"malformed arrays: {error}") from error


def arrays_digest(arrays: Arrays) -> str:
    """`sha256:` digest of arrays, as `SiteReport.update_digest` and the coordinator compute it.

    >>> arrays_digest({"a": np.zeros(2, np.float32)})[:15]
    'sha256:a16e7166'
    """
    return "sha256:" + hashlib.sha256(pack_arrays(arrays)).hexdigest()
