"""What a model's frozen part makes of each record: computed once, and kept encrypted in memory.

* A value is kept under AES-256-GCM with a key that this process alone has, bound to its record. It
  is decrypted for the micro-batch that needs it: a memory dump or a swapped page shows no more of
  the records than that batch.
* Keeping is bounded: beyond the limit values are computed anew each time. What is kept decides
  speed, never results.
* The values belong to one set of records and one base model; whoever changes either drops this.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
import torch
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from torch import Tensor

DEFAULT_LIMIT_BYTES: Final = 2 * 1024**3

_NONCE_BYTES: Final = 12
_TAG_BYTES: Final = 16

Compute = Callable[[Sequence[int]], list[Tensor]]
"""Values of some records, each a float32 tensor on the CPU."""


class FrozenValues:
    """Values of records by kind of phase.

    Args:
        limit_bytes: How much is kept.
    """

    def __init__(self, limit_bytes: int = DEFAULT_LIMIT_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._cipher = AESGCM(os.urandom(32))
        self._sealed: dict[tuple[str, int], tuple[bytes, tuple[int, ...]]] = {}
        self._bytes = 0
        self._is_full = limit_bytes <= 0

    @property
    def kept_bytes(self) -> int:
        """How much is kept."""
        return self._bytes

    def of(self, kind: str, records: Sequence[int], compute: Compute) -> list[Tensor]:
        """Values of records, in their order; those that are not kept are computed together."""
        missing = sorted({record for record in records if not self.has(kind, record)})
        computed = dict(zip(missing, compute(missing), strict=True)) if missing else {}
        for record, value in computed.items():
            self._keep(kind, record, value)
        return [
            computed[record] if record in computed else self._open(kind, record)
            for record in records
        ]

    def has(self, kind: str, record: int) -> bool:
        """Whether a record's value is kept."""
        return (kind, record) in self._sealed

    @property
    def is_full(self) -> bool:
        """Whether a value did not fit any more: what is missing is not worth preparing."""
        return self._is_full

    def _open(self, kind: str, record: int) -> Tensor:
        sealed, shape = self._sealed[kind, record]
        place = _place(kind, record)
        plain = self._cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], place)
        array = np.frombuffer(bytearray(plain), dtype=np.float32)
        return torch.from_numpy(array).reshape(shape)

    def _keep(self, kind: str, record: int, value: Tensor) -> None:
        plain = value.detach().contiguous().numpy().tobytes()
        if self._bytes + _NONCE_BYTES + len(plain) + _TAG_BYTES > self._limit_bytes:
            self._is_full = True
            return
        nonce = os.urandom(_NONCE_BYTES)
        sealed = nonce + self._cipher.encrypt(nonce, plain, _place(kind, record))
        self._sealed[kind, record] = (sealed, tuple(value.shape))
        self._bytes += len(sealed)


def _place(kind: str, record: int) -> bytes:
    return f"{kind} {record}".encode()
