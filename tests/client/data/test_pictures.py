"""Pictures come out as pixels alone, and what is none is refused without its name."""

from __future__ import annotations

import base64
import io
import struct
import zlib
from importlib import metadata
from pathlib import Path

import pytest
from PIL import Image, PngImagePlugin

from client import pictures
from client.deidentification.pipeline import Deidentified, SourceRecord
from client.pictures import MAX_SIDE, MalformedPicture, PictureFolder

ORIENTATION, GPS, CAMERA = 0x0112, 0x8825, 0x010F


def photograph(path: Path, size: tuple[int, int] = (40, 20), mode: str = "RGB") -> Path:
    """A JPEG with everything that a camera and a careless archive write into one."""
    image = Image.new(mode, size, "white")
    image.putpixel((0, 0), 0 if mode == "L" else (0, 0, 0))
    exif = Image.Exif()
    exif[ORIENTATION] = 6  # turn by 90 degrees to see it upright
    exif[CAMERA] = "SecretCamera"
    exif.get_ifd(GPS)[2] = (51.0, 30.0, 26.0)
    image.save(path, "JPEG", exif=exif, comment=b"SecretName", icc_profile=b"SecretProfile")
    return path


def stored(folder: Path, name: str) -> bytes:
    (outcome,) = PictureFolder(folder).deidentify([SourceRecord("P", name)])
    assert isinstance(outcome, Deidentified)
    return base64.b64decode(outcome.text, validate=True)


def chunks(png: bytes) -> list[bytes]:
    """The kinds of chunks of a PNG, in order, read without the library that wrote it."""
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    kinds, at = [], 8
    while at < len(png):
        (length,) = struct.unpack(">I", png[at : at + 4])
        kinds.append(png[at + 4 : at + 8])
        assert (
            zlib.crc32(png[at + 4 : at + 8 + length])
            == struct.unpack(">I", png[at + 8 + length : at + 12 + length])[0]
        )
        at += 12 + length
    return kinds


def test_nothing_but_pixels_is_left_of_a_photograph(tmp_path: Path) -> None:
    raw = photograph(tmp_path / "a.jpg").read_bytes()
    assert b"Secret" in raw
    assert Image.open(io.BytesIO(raw)).getexif()[CAMERA] == "SecretCamera"
    png = stored(tmp_path, "a.jpg")
    assert set(chunks(png)) == {b"IHDR", b"IDAT", b"IEND"}
    assert b"Secret" not in png
    image = Image.open(io.BytesIO(png))
    assert not image.getexif()
    assert image.size == (20, 40), "turned upright before its orientation was dropped"


def test_nothing_but_pixels_is_left_of_a_png(tmp_path: Path) -> None:
    notes = PngImagePlugin.PngInfo()
    notes.add_text("Patient", "SecretName")
    notes.add_itxt("Comment", "SecretName", zip=True)
    image = Image.new("P", (9, 7))
    frames = [Image.new("P", (9, 7), n) for n in (1, 2)]
    image.save(
        tmp_path / "a.png", pnginfo=notes, save_all=True, append_images=frames, dpi=(300, 300)
    )
    assert b"SecretName" in (tmp_path / "a.png").read_bytes()
    png = stored(tmp_path, "a.png")
    assert chunks(png) == [b"IHDR", b"IDAT", b"IEND"]
    assert Image.open(io.BytesIO(png)).mode == "RGB"


def test_what_is_behind_transparent_pixels_is_not_kept(tmp_path: Path) -> None:
    Image.new("RGBA", (4, 4), (200, 10, 10, 0)).save(tmp_path / "a.png")
    image = Image.open(io.BytesIO(stored(tmp_path, "a.png")))
    assert image.getpixel((1, 1)) == (255, 255, 255)


def test_a_large_picture_is_scaled_down_and_a_small_one_is_not(tmp_path: Path) -> None:
    photograph(tmp_path / "large.jpg", (4 * MAX_SIDE, 2 * MAX_SIDE), "L")
    large = Image.open(io.BytesIO(stored(tmp_path, "large.jpg")))
    assert (large.size, large.mode) == ((MAX_SIDE // 2, MAX_SIDE), "L")
    Image.new("1", (3, 5)).save(tmp_path / "small.png")
    small = Image.open(io.BytesIO(stored(tmp_path, "small.png")))
    assert (small.size, small.mode) == ((3, 5), "L")


def test_pixels_of_a_png_are_as_they_were(tmp_path: Path) -> None:
    image = Image.effect_noise((32, 32), 80).convert("RGB")
    image.save(tmp_path / "a.png")
    assert Image.open(io.BytesIO(stored(tmp_path, "a.png"))).tobytes() == image.tobytes()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("../outside.png", "outside the file's folder"),
        ("link.png", "outside the file's folder"),
        ("/etc/hostname", "outside the file's folder"),
        ("absent.png", "cannot be read"),
        ("folder", "cannot be read"),
        (".", "cannot be read"),
        ("a\0b", "cannot be read"),
        ("x" * 5000, "cannot be read"),
        ("text.png", "neither PNG nor JPEG"),
        ("anim.gif", "neither PNG nor JPEG"),
        ("empty.png", "neither PNG nor JPEG"),
        ("deep.png", "more than 8 bits"),
        ("bomb.png", "more than 50,000,000 pixels"),
        ("huge-bomb.png", "more than 50,000,000 pixels"),
        ("heavy.png", "larger than 32 MiB"),
    ],
)
def test_what_is_no_picture_is_refused_by_its_place(
    tmp_path: Path, name: str, message: str
) -> None:
    folder = tmp_path / "in"
    (folder / "folder").mkdir(parents=True)
    Image.new("RGB", (2, 2)).save(tmp_path / "outside.png")
    (folder / "link.png").symlink_to(tmp_path / "outside.png")
    (folder / "text.png").write_text("SecretName")
    (folder / "empty.png").write_bytes(b"")
    Image.new("P", (2, 2)).save(folder / "anim.gif")
    Image.new("I;16", (2, 2)).save(folder / "deep.png")
    for kind, side in (("bomb", 9_600), ("huge-bomb", 60_000)):
        (folder / f"{kind}.png").write_bytes(header_only(side))
    with (folder / "heavy.png").open("wb") as file:
        file.truncate(pictures.MAX_FILE_BYTES + 1)
    with pytest.raises(MalformedPicture, match=message) as caught:
        PictureFolder(folder).check(name, "scans.csv, line 7")
    assert str(caught.value).startswith("scans.csv, line 7: ")
    assert "Secret" not in str(caught.value)
    if len(name) > 1:
        assert name not in str(caught.value)
    with pytest.raises(MalformedPicture):
        PictureFolder(folder).deidentify([SourceRecord("P", name)])


def header_only(side: int) -> bytes:
    """A PNG that promises `side` by `side` pixels and holds none."""
    png = io.BytesIO()
    Image.new("L", (1, 1)).save(png, "PNG")
    data = bytearray(png.getvalue())
    data[16:24] = struct.pack(">II", side, side)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return bytes(data)


def test_a_picture_that_is_cut_off_is_noticed_when_it_is_decoded(tmp_path: Path) -> None:
    photograph(tmp_path / "a.jpg", (200, 200))
    whole = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(whole[: len(whole) * 2 // 3])
    folder = PictureFolder(tmp_path)
    folder.check("a.jpg", "line 2")
    with pytest.raises(MalformedPicture, match="cannot be decoded"):
        folder.deidentify([SourceRecord("P", "a.jpg")])


def test_a_folder_that_is_a_link_is_fine(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    Image.new("RGB", (2, 2)).save(tmp_path / "real" / "a.png")
    (tmp_path / "link").symlink_to(tmp_path / "real", target_is_directory=True)
    assert stored(tmp_path / "link", "a.png")


def test_the_digest_says_that_pixels_are_not_searched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = PictureFolder(tmp_path).digest
    assert before == PictureFolder(tmp_path / "other").digest
    monkeypatch.setattr(metadata, "version", lambda _name: "0")
    assert PictureFolder(tmp_path).digest != before
