"""Pictures of a folder, as the vault stores them: pixels alone, small, in one format.

* A file names its pictures by path, relative to its own folder; none may lie outside of it.
* JPEG and PNG of 8 bits a channel, up to `MAX_FILE_BYTES` and `MAX_PIXELS`. What is behind a
  transparent pixel is not kept.
* The stored PNG is written anew from pixels, turned upright and scaled down to at most `MAX_SIDE` a
  side: no EXIF, no place, no camera, no comment, no colour profile, no second frame.
* **Pixels are not searched.** A name that is burned into a picture, or a face, stays. So adding
  pictures needs the operator's explicit word (`client.source_file`), and their datasheet says so.
"""

from __future__ import annotations

import base64
import hashlib
import io
import warnings
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from audit.canonical import canonical_bytes, digest
from audit.errors import MalformedInput, NotFound
from client.deidentification.pipeline import Deidentified, Outcome, SourceRecord

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_FILE_BYTES = 32 * 1024 * 1024
"""Larger than a photograph or a scan; bounds what one file can take of memory."""

MAX_PIXELS = 50_000_000
"""Of one picture when it is opened: 50 million take 150 MB. A small file can hold far more."""

MAX_SIDE = 512
"""Pixels. No image model of the registry reads more than 384 a side."""

_FORMATS = ("PNG", "JPEG")
_MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"})
"""Pillow's modes with at most 8 bits a channel: others would be cut, not converted."""


class MalformedPicture(MalformedInput):
    """A picture that cannot be stored."""

    code = "malformed-picture"


class PictureFolder:
    """Reads pictures that a file beside them names. It stands where text has a de-identifier.

    Args:
        folder: Where the file is.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve()

    @property
    def digest(self) -> str:
        """Names these rules and the library that decodes: pixels are not searched."""
        configuration = {
            "format": "fiduciary.picture-deidentification/1",
            "libraries": {"pillow": metadata.version("pillow")},
            "pixels": "not searched",
            "rules": hashlib.sha256(Path(__file__).read_bytes()).hexdigest(),
        }
        return digest(canonical_bytes(configuration))

    def check(self, name: str, place: str) -> str:
        """Look at a picture without decoding it.

        Args:
            name: Its path, relative to the folder.
            place: Where it is named, for errors: they do not repeat the name.

        Returns:
            SHA-256 of the file, in hexadecimal.

        Raises:
            MalformedPicture: When it is none that can be stored.
            NotFound: When Pillow is not installed.
        """
        data = self._read(name, place)
        with _opened(data, place) as image:
            _check_size(image, place)
        return hashlib.sha256(data).hexdigest()

    def deidentify(self, records: Sequence[SourceRecord]) -> list[Outcome]:
        """The pictures that records name, in base64 of the PNG that is stored.

        Raises:
            MalformedPicture: When one cannot be decoded, or is not as it was checked.
        """
        return [
            Deidentified(base64.b64encode(self._png(record.text)).decode()) for record in records
        ]

    def _png(self, name: str) -> bytes:
        place = "a picture"
        data = self._read(name, place)
        try:
            with _opened(data, place) as image:
                _check_size(image, place)
                return _pixels_alone(image)
        except MalformedPicture:
            raise
        except Exception as error:  # a decoder fails in many ways on what is cut or hostile
            raise _malformed(place, "cannot be decoded") from error

    def _read(self, name: str, place: str) -> bytes:
        try:
            path = (self._folder / name).resolve()
            if Path(name).is_absolute() or not path.is_relative_to(self._folder):
                raise _malformed(place, "is outside the file's folder")
            with path.open("rb") as file:
                data = file.read(MAX_FILE_BYTES + 1)
        except (OSError, ValueError) as error:  # no such file, a folder, a name that cannot be one
            raise _malformed(place, "cannot be read") from error
        if len(data) > MAX_FILE_BYTES:
            raise _malformed(place, f"is larger than {MAX_FILE_BYTES // 1024**2} MiB")
        return data


def _opened(data: bytes, place: str) -> Image:
    image_library = _pillow()
    try:
        with warnings.catch_warnings():
            # Pillow warns of files that become very large; ours are refused by `_check_size`.
            warnings.simplefilter("ignore", image_library.DecompressionBombWarning)
            image: Image = image_library.open(io.BytesIO(data), formats=_FORMATS)
    except image_library.DecompressionBombError as error:
        raise _malformed(place, f"has more than {MAX_PIXELS:,} pixels") from error
    except Exception as error:
        raise _malformed(place, "is neither PNG nor JPEG") from error
    return image


def _check_size(image: Image, place: str) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise _malformed(place, f"has more than {MAX_PIXELS:,} pixels")
    if image.mode not in _MODES:
        raise _malformed(place, "has more than 8 bits a channel")


def _pixels_alone(image: Image) -> bytes:
    from PIL import Image, ImageOps

    grey = image.mode in ("1", "L") and not image.has_transparency_data
    if image.has_transparency_data:
        image = ImageOps.exif_transpose(image).convert("RGBA")
        ground = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(ground, image)
    else:
        image = ImageOps.exif_transpose(image)
    image = image.convert("L" if grey else "RGB")
    image.thumbnail((MAX_SIDE, MAX_SIDE))
    clean = Image.frombytes(image.mode, image.size, image.tobytes())
    written = io.BytesIO()
    clean.save(written, "PNG")
    return written.getvalue()


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise NotFound(
            "pictures need Pillow, which is not installed", fix="pip install pillow"
        ) from error
    return Image


def _malformed(place: str, reason: str) -> MalformedPicture:
    return MalformedPicture(
        f"{place}: the picture {reason}",
        fix="name PNG or JPEG files of 8 bits a channel by their path relative to the file",
    )
