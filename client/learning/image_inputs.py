"""Images as a vision transformer reads them: resized and scaled by its own image processor.

* A record is a PNG in base64, with 8 bits a channel. Its size is read from its header and bounded
  before anything is unpacked: a small file can hold more pixels than a machine has memory.
* What is kept of an image are its resized pixels, in bytes; they are scaled when they are needed.
* Nothing of an image is in an error.
"""

from __future__ import annotations

import base64
import binascii
import io
import struct
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from audit.errors import MalformedInput, NotFound
from client.learning.randomness import Keystream

MAX_IMAGE_BYTES: Final = 32 * 1024 * 1024
"""Of a PNG file. A radiograph of 3000 by 3000 pixels has about 10 MB."""

MAX_PIXELS: Final = 2**25
"""33 megapixels, 100 MB once unpacked: more than a radiograph has."""

_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_MODES: Final = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA"})
_DAMAGED: Final = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    MemoryError,
    OverflowError,
)
"""What Pillow raises of a file that is not what its header says."""

_GRAINS: Final = (1, 2, 4, 8, 16)
_IMAGES_PER_GRAIN: Final = 8

Pixels = npt.NDArray[np.uint8]
"""`(channels, height, width)`."""


class ImageInputs:
    """A base model's image processor.

    Args:
        base_path: Folder of the base model.

    Raises:
        NotFound: When there is no Pillow here.
        MalformedInput: When the base model says nothing of how it reads images.
    """

    def __init__(self, base_path: Path) -> None:
        _pillow()
        import transformers

        try:
            # Other backends resize differently, and a plan's sites have to agree.
            processors: Any = transformers.AutoImageProcessor
            self.processor = processors.from_pretrained(
                base_path, backend="pil", local_files_only=True
            )
        except (OSError, ValueError) as error:
            raise MalformedInput(
                f"the base model in {base_path.name} has no image processor",
                fix="install it with its preprocessor_config.json",
            ) from error

    def pixels(self, image: Any) -> Pixels:
        """An RGB image of Pillow, resized and cropped."""
        done = self.processor(image, do_rescale=False, do_normalize=False)["pixel_values"][0]
        return np.asarray(done, dtype=np.uint8)

    def scaled(self, pixels: Sequence[Pixels]) -> Tensor:
        """What the model sees, `(images, channels, height, width)`."""
        done = self.processor(
            list(pixels),
            do_resize=False,
            do_center_crop=False,
            input_data_format="channels_first",
            return_tensors="np",
        )
        return torch.from_numpy(done["pixel_values"].astype(np.float32))

    def whole(self, image: Any) -> Tensor:
        """The same of one image as anybody else has it of the processor, in one go."""
        done = self.processor(image, return_tensors="np")["pixel_values"]
        return torch.from_numpy(done.astype(np.float32))


def check_image(text: str) -> bytes:
    """A record's PNG file, of which the header has been read.

    Raises:
        MalformedInput: When it is no base64, no PNG, or too large.
    """
    if len(text) > MAX_IMAGE_BYTES * 4 // 3 + 4:
        raise _malformed(f"more than {MAX_IMAGE_BYTES} bytes")
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise _malformed("no base64") from None
    if len(data) < 24 or not data.startswith(_SIGNATURE) or data[12:16] != b"IHDR":
        raise _malformed("no PNG")
    width, height = struct.unpack(">II", data[16:24])
    if not 0 < width * height <= MAX_PIXELS:
        raise _malformed(f"{width} by {height} pixels, not 1 to {MAX_PIXELS} in all")
    return data


def read_image(text: str) -> Any:
    """A record as an RGB image of Pillow.

    Raises:
        MalformedInput: When it is no PNG with 8 bits a channel, is damaged, or is too large.
    """
    data = check_image(text)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a warning may be made of what is in the file
            with _pillow().open(io.BytesIO(data), formats=("PNG",)) as image:
                if image.mode not in _MODES:
                    raise _malformed("not 8 bits a channel")
                if image.width * image.height > MAX_PIXELS:  # a second header says something else
                    raise _malformed("a damaged PNG")
                return image.convert("RGB")
    except (*_DAMAGED, _pillow().DecompressionBombError):
        raise _malformed("a damaged PNG") from None


def public_images(side: int) -> list[Any]:
    """Images that depend on nothing: plain colours, gradients and ever finer blots of colour.

    Args:
        side: Width and height in pixels.
    """
    pillow = _pillow()
    keystream = Keystream(b"fiduciary public images 1")
    images = []
    for grain in _GRAINS:
        for _ in range(_IMAGES_PER_GRAIN):
            words = keystream.words(grain * grain * 3)
            colours = (words >> np.uint64(56)).astype(np.uint8).reshape(grain, grain, 3)
            images.append(pillow.fromarray(colours).resize((side, side), pillow.Resampling.BICUBIC))
    return images


def _pillow() -> Any:
    try:
        from PIL import Image
    except ModuleNotFoundError as error:
        raise NotFound(
            "images need Pillow, which is not on this machine", fix="install it: pip install pillow"
        ) from error
    return Image


def _malformed(reason: str) -> MalformedInput:
    return MalformedInput(
        f"malformed image: {reason}",
        fix="ingest the image again, as a PNG with 8 bits a channel",
    )
