"""What a device does wrong in the middle of training: memory that runs out, a GPU that vanishes.

* Memory that runs out is not the end: `client.learning.micro_batches` goes on with fewer records.
* Anything else that a device reports ends the round, with an error that names it. What was summed
  until then is dropped; nothing that has no noise yet is handed out.
* The errors hold no text of torch's: it may name shapes, which follow from private records.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar, Final

import torch

from audit.errors import FiduciaryError

OUT_OF_MEMORY: Final = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "STATUS_ALLOC_FAILED",
)
"""How torch's allocators and NVIDIA's libraries say it where the error has no type of its own."""

DEVICE_ERRORS: Final = ("CUDA error", "CUDA driver error", "HIP error", "cuDNN error", "NCCL error")
"""How torch says it where the error is no `AcceleratorError`."""


class OutOfMemory(FiduciaryError):
    """Not even one record fits into memory."""

    code: ClassVar[str] = "out-of-memory"

    def __init__(self) -> None:
        super().__init__(
            "the device's memory does not hold a training step of even one record",
            fix="free its memory, take a larger device, or ask for a plan with a smaller model"
            " or a smaller max_tokens",
        )


class DeviceLost(FiduciaryError):
    """The device failed or is gone; what it held is lost."""

    code: ClassVar[str] = "device-lost"

    def __init__(self, error: BaseException) -> None:
        super().__init__(
            f"the device failed during the round ({type(error).__name__}); no update was made",
            fix="see that it is there (`nvidia-smi`) and restart: client start",
        )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether less work at once could have helped."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in OUT_OF_MEMORY)


def is_device_lost(error: BaseException) -> bool:
    """Whether the device failed for another reason than its memory."""
    if is_out_of_memory(error) or not isinstance(error, RuntimeError):
        return False
    is_typed = isinstance(error, torch.AcceleratorError)
    return is_typed or any(text in str(error) for text in DEVICE_ERRORS)


@contextmanager
def device_failures_named() -> Iterator[None]:
    """Turn what a device reports into errors that tell the operator what to do.

    Raises:
        OutOfMemory: When memory ran out where no smaller micro-batch could help.
        DeviceLost: When the device failed otherwise.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise OutOfMemory from error
        if is_device_lost(error):
            raise DeviceLost(error) from error
        raise
