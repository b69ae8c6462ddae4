"""Published layouts to arrays, held against the arrays that the archives were made of."""

from __future__ import annotations

import gzip
import io
import os
import signal
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from bench.core.errors import UserError
from bench.core.events import Report
from bench.data import archives, decode
from bench.data.archives import BadArchive, tar_members, zip_members
from bench.data.arrays import Arrays, Facts, WrongContent, check_facts
from bench.data.catalogue import CATALOGUE
from bench.data.datasets import load
from bench.data.fetch import silent
from bench.executors.child import call
from tests.conftest import ROOT
from tests.faults.processes import gone, workers
from tests.tiny_archives import MAKERS, encoded, facts_of, images, published_here, put, tarred, zipped

DEBIAN = Path("/usr/share/datasets/fashion-mnist")  # where Debian's package dataset-fashion-mnist puts it


def assert_same(found: Arrays, truth: Arrays) -> None:
    for part in ("train_x", "train_y", "test_x", "test_y"):
        assert np.array_equal(getattr(found, part), getattr(truth, part)), part
    assert (found.classes, found.notes, found.validation_from) == (truth.classes, truth.notes, truth.validation_from)


@pytest.mark.parametrize("name", MAKERS)
def test_every_layout_gives_the_arrays_it_was_made_of(name: str, tmp_path: Path) -> None:
    files, truth = MAKERS[name]()
    put(tmp_path, files)
    facts = facts_of(truth)
    found = CATALOGUE[name].decode({file: tmp_path / file for file in files}, facts, decode.in_memory, silent)
    assert_same(found, truth)
    check_facts(name, found, facts)


@pytest.mark.parametrize("name", MAKERS)
def test_tiny_files_are_called_as_in_the_catalogue(name: str) -> None:
    files, _ = MAKERS[name]()
    assert sorted(files) == sorted(file.name for file in CATALOGUE[name].files)


def test_published_counts_add_up() -> None:
    for name, known in CATALOGUE.items():
        train, test = known.facts.counts()
        assert sum(train) == known.facts.train + known.facts.valid, name
        assert sum(test) == known.facts.test, name
        assert len(train) == len(test) == known.facts.classes, name


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"test": 21}, "20 test images, not the published 21"),
        ({"train": 41}, "40 training images"),
        ({"classes": 11}, "10 classes"),
        ({"size": 64}, "pixels per side"),
        ({"mean": (0.4, 0.5, 0.6)}, "channels have mean 0.4974, 0.5007"),
        ({"std": (0.1, 0.1, 0.1)}, "standard deviation 0.2"),
        ({"train_counts": (5, 3, 4, 4, 4, 4, 4, 4, 4, 4)}, "images per class"),
    ],
)
def test_content_that_is_not_what_was_published_is_named(change: dict[str, object], says: str) -> None:
    x = np.random.default_rng(0).integers(0, 256, (60, 32, 32, 3), np.uint8)
    y = np.arange(60) % 10
    arrays = Arrays(x[:40], y[:40], x[40:], y[40:], tuple("0123456789"))
    check_facts("x", arrays, facts_of(arrays))
    with pytest.raises(WrongContent, match=says):
        check_facts("x", arrays, replace(facts_of(arrays), **change))  # type: ignore[arg-type]


def test_exchanged_channels_are_noticed_in_every_data_set_in_colour() -> None:
    """The tolerance lies below the differences between the channels' published means."""
    for name, known in CATALOGUE.items():
        if len(known.facts.mean) == 3:
            means = known.facts.mean
            assert abs(means[0] - means[2]) > 0.005, name


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "svhn", "tiny_imagenet", "cinic10"])
def test_an_archive_without_a_file_is_named(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the right checksum all the same: the catalogue's own mistake would look like this."""
    wrong = {
        "cifar10": {"cifar-10-binary.tar.gz": tarred({"a/data_batch_1.bin": b"x"})},
        "cifar100": {
            "cifar-100-binary.tar.gz": tarred({"train.bin": b"x", "test.bin": b"", "fine_label_names.txt": b""})
        },
        "svhn": {f"{part}_32x32.mat": MAKERS["svhn"]()[0]["test_32x32.mat"] for part in ("train", "test")},
        "tiny_imagenet": {"tiny-imagenet-200.zip": zipped({"tiny-imagenet-200/words.txt": b""})},
        "cinic10": {"CINIC-10.tar.gz": tarred({"train/cat/1.png": b""})},
    }[name]
    truth = MAKERS[name]()[1]
    monkeypatch.setitem(MAKERS, name, lambda: (wrong, truth))
    files, _ = published_here(monkeypatch, name)
    put(tmp_path / name, files)
    with pytest.raises(UserError, match=f"{name} has the published checksum but cannot.*please report") as caught:
        load(name, tmp_path)
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / name / "decoded").glob("*/about.json")), "nothing half made is left"


@pytest.mark.parametrize("cut", [100, 2_000])
@pytest.mark.parametrize("name", ["cifar10", "svhn", "tiny_imagenet", "cinic10", "fashion_mnist"])
def test_archives_that_break_off_raise_what_load_understands(name: str, cut: int, tmp_path: Path) -> None:
    files, truth = MAKERS[name]()
    put(tmp_path, {file: content[:-cut] for file, content in files.items()})
    understood = (ValueError, EOFError, zlib.error, gzip.BadGzipFile, tarfile.TarError, zipfile.BadZipFile)
    with pytest.raises(understood):
        CATALOGUE[name].decode({f: tmp_path / f for f in files}, facts_of(truth), decode.in_memory, silent)


# --- archives ------------------------------------------------------------------------------------------------------

ESCAPES = ["../x", "a/../../x", "/etc/x", "C:\\x", "..\\x", "\\\\host\\x"]


@pytest.mark.parametrize("name", ESCAPES)
def test_names_that_leave_their_folder_refuse_the_archive(name: str) -> None:
    with tarfile.open(fileobj=io.BytesIO(tarred({"fine": b"1", name: b"2"}))) as tar, pytest.raises(BadArchive):
        list(tar_members(tar))
    with zipfile.ZipFile(io.BytesIO(zipped({"fine": b"1", name: b"2"}))) as archive, pytest.raises(BadArchive):
        zip_members(archive)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_in_a_tar_refuse_it(kind: bytes) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        info = tarfile.TarInfo("x")
        info.type, info.linkname = kind, "/etc/passwd"
        tar.addfile(info)
    out.seek(0)
    with tarfile.open(fileobj=out) as tar, pytest.raises(BadArchive, match="link or a device"):
        list(tar_members(tar))


def test_links_and_bombs_in_a_zip_refuse_it(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        link = zipfile.ZipInfo("x")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    with zipfile.ZipFile(out) as archive, pytest.raises(BadArchive, match="link or a device"):
        zip_members(archive)
    bomb = zipped({"zeros": bytes(50_000_000)})
    assert len(bomb) < 50_000
    with zipfile.ZipFile(io.BytesIO(bomb)) as archive, pytest.raises(BadArchive, match="would unpack to 50,000,000"):
        zip_members(archive)


def test_absurd_sizes_and_numbers_refuse_an_archive(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = tarred({f"f{i}": b"12345678" for i in range(4)})
    for limit, value, says in (
        ("MOST_MEMBERS", 3, "more than 3 members"),
        ("MOST_BYTES", 30, "too large"),
        ("MOST_MEMBER_BYTES", 7, "too large"),
    ):
        with monkeypatch.context() as patched, tarfile.open(fileobj=io.BytesIO(whole)) as tar:
            patched.setattr(archives, limit, value)
            with pytest.raises(BadArchive, match=says):
                list(tar_members(tar))
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:  # a size that the file does not have
        info = tarfile.TarInfo("x")
        info.size = 2**40
        tar.addfile(tarfile.TarInfo("fine"))
        out.write(info.tobuf())
    out.seek(0)
    with tarfile.open(fileobj=out) as tar, pytest.raises((BadArchive, tarfile.TarError)):
        list(tar_members(tar))


def test_a_name_that_is_there_twice_refuses_an_archive() -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for content in (b"1", b"2"):
            info = tarfile.TarInfo("x")
            info.size = 1
            tar.addfile(info, io.BytesIO(content))
    out.seek(0)
    with tarfile.open(fileobj=out) as tar, pytest.raises(BadArchive, match="twice"):
        list(tar_members(tar))


# --- image files ---------------------------------------------------------------------------------------------------


def test_images_of_every_mode_become_rgb() -> None:
    gray = images(1, 32, 0, ())[0]
    deep = Image.fromarray(gray.astype(np.uint16) * 257)
    content = io.BytesIO()
    deep.save(content, "PNG")
    found, (mode, *_) = decode.decode_image("deep.png", content.getvalue(), 32, fit=False)
    assert mode.startswith("I")
    assert np.array_equal(found, np.repeat(gray[..., None], 3, -1)), "16 bits are scaled, not clipped"
    for pillow_mode in ("1", "L", "LA", "P", "RGBA", "CMYK"):
        content = io.BytesIO()
        Image.new(pillow_mode, (32, 32), 1).save(content, "TIFF" if pillow_mode == "CMYK" else "PNG")
        found, (mode,) = decode.decode_image("x", content.getvalue(), 32, fit=False)
        assert found.shape == (32, 32, 3)
        assert mode == pillow_mode
    said = decode.mode_notes(Counter({"RGB": 5, "L": 1_200, "CMYK": 1}))
    assert said == ("1 of mode CMYK, 1,200 gray: converted to RGB",)
    assert decode.mode_notes(Counter({"RGB": 5})) == ()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"<html>not found</html>", "'a.png' cannot be read"),
        (b"", "'a.png' cannot be read"),
        (encoded(images(1, 32, 0)[0], "PNG")[:-40], "'a.png' cannot be read"),
        (encoded(images(1, 64, 0)[0], "PNG"), "64x64 px, not 32x32"),
    ],
)
def test_corrupt_images_are_named(content: bytes, says: str) -> None:
    with pytest.raises(WrongContent, match=says):
        decode.decode_image("a.png", content, 32, fit=False)


@pytest.fixture
def two_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes, and small batches that are worth starting them."""
    monkeypatch.setattr(decode, "FEW", 2)
    monkeypatch.setattr(decode, "BATCH", 7)
    monkeypatch.setattr(decode, "cores", lambda: 2)


@pytest.mark.usefixtures("two_workers")
def test_many_images_decode_in_worker_processes_as_in_this_one(tmp_path: Path) -> None:
    x = images(40, 32, 7)
    files: list[decode.Encoded] = [(place, (f"{place}.png", encoded(image, "PNG"))) for place, image in enumerate(x)]
    out, seen = np.zeros_like(x), []
    modes = decode.decode_images(
        iter(files), out, lambda what, done, of: seen.append((what, done, of)), "decoding", fit=False
    )
    assert np.array_equal(out, x)
    assert modes == Counter(RGB=40)
    assert seen[-1] == ("decoding", 40, 40)
    assert [done for _, done, _ in seen] == [7, 14, 21, 28, 35, 40]
    on_disk = out * 0
    for place, (name, content) in files:
        assert isinstance(content, bytes)
        (tmp_path / name).write_bytes(content)
        files[place] = (place, (name, tmp_path / name))
    decode.decode_images(iter(files), on_disk, silent, "decoding", fit=True)
    assert np.array_equal(on_disk, x), "read by the workers themselves"


@pytest.mark.parametrize("how_many", [1, 5])
def test_all_images_are_tried_and_the_broken_ones_named(how_many: int) -> None:
    files: list[decode.Encoded] = [(i, (f"{i}.png", encoded(image, "PNG"))) for i, image in enumerate(images(9, 32, 7))]
    for place in range(how_many):
        files[place] = (place, (f"{place}.png", b"broken"))
    with pytest.raises(WrongContent) as caught:
        decode.decode_images(iter(files), np.zeros((9, 32, 32, 3), np.uint8), silent, "decoding")
    named = [f"{place}.png" for place in range(9) if f"'{place}.png'" in str(caught.value)]
    assert named == [f"{place}.png" for place in range(min(how_many, 3))]
    assert ("and 2 more" in str(caught.value)) == (how_many == 5)


def test_batches_are_bounded_by_their_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Photographs are a thousand times as large as thumbnails: so many at a time would fill the memory."""
    monkeypatch.setattr(decode, "BATCH_BYTES", 1_000)
    (tmp_path / "x").write_bytes(bytes(600))
    items: list[decode.Encoded] = [(i, ("x", tmp_path / "x")) for i in range(5)]
    assert [len(batch) for batch in decode._batches(iter(items))] == [2, 2, 1]
    items = [(i, ("x", bytes(10))) for i in range(1_200)]
    assert [len(batch) for batch in decode._batches(iter(items))] == [100] * 12


class Suicide(bytes):
    """Content that ends the process that unpickles it, as the kernel does where memory is short."""

    def __reduce__(self) -> tuple[object, tuple[int]]:
        return (os._exit, (9,))


@pytest.mark.usefixtures("two_workers")
def test_a_worker_that_is_killed_is_a_sentence() -> None:
    files: list[decode.Encoded] = [(i, (f"{i}.png", Suicide(b"x"))) for i in range(40)]
    with pytest.raises(UserError, match="a process that decoded images was killed"):
        decode.decode_images(iter(files), np.zeros((40, 32, 32, 3), np.uint8), silent, "decoding")


def in_a_child(report: Report, folder: str) -> None:
    decode.FEW, decode.BATCH = 2, 7
    x = images(40, 32, 7)
    out = np.zeros_like(x)
    files: list[decode.Encoded] = [(i, (f"{i}.png", encoded(image, "PNG"))) for i, image in enumerate(x)]
    decode.decode_images(iter(files), out, silent, "decoding")
    (Path(folder) / "same").write_text(str(np.array_equal(out, x)))


def test_the_child_of_a_run_can_decode_too(tmp_path: Path) -> None:
    """It is a daemon and may have no children of its own."""
    outcome = call(in_a_child, (str(tmp_path),), print)
    assert outcome.status == "ok", outcome.message
    assert (tmp_path / "same").read_text() == "True"


def test_photographs_stand_upright(tmp_path: Path) -> None:
    upright = np.zeros((40, 40, 3), np.uint8)
    upright[:20] = 255
    lying = Image.fromarray(np.rot90(upright).copy())
    exif = lying.getexif()
    exif[0x0112] = 6  # turn it a quarter to the right to see it as it was
    lying.save(tmp_path / "a.jpg", exif=exif, quality=95)
    found, _ = decode.decode_image("a.jpg", tmp_path / "a.jpg", 40, fit=True)
    assert found[:18].min() > 240
    assert found[22:].max() < 15


@pytest.mark.parametrize("mode", ["I", "F"])
def test_numbers_that_are_no_colours_are_refused(mode: str) -> None:
    content = io.BytesIO()
    Image.new(mode, (32, 32), 1).save(content, "TIFF")
    with pytest.raises(WrongContent, match=f"32-bit numbers .mode {mode}."):
        decode.decode_image("x", content.getvalue(), 32, fit=True)


def test_a_large_photograph_is_read_and_a_picture_that_would_fill_the_memory_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Pillow's own limits are a warning from 89 and an error from 179 million pixels; here in small."""
    assert decode.MOST_PIXELS > 16_320 * 12_240, "what a telephone of 2023 takes"
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)  # put back at the end
    monkeypatch.setattr(decode, "MOST_PIXELS", 10_000)
    content = encoded(np.zeros((90, 100, 3), np.uint8), "PNG")
    assert decode.decode_image("x", content, 32, fit=True)[1] == ["RGB"]
    with pytest.raises(WrongContent, match=r"'x' cannot be read: .*decompression bomb"):
        decode.decode_image("x", encoded(np.zeros((101, 100, 3), np.uint8), "PNG"), 32, fit=True)


# Beside the orientation: a signed rational of -1/0, a unit that is text, a tag cut off. As Pillow has read them.
STRANGE_EXIF = {
    "rational": (0x9204, 10, 1, struct.pack("<ii", -1, 0)),
    "text": (0x0128, 2, 4, b"cm\0\0"),
    "far": (0x010F, 2, 5_000, b"\xff\xff\0\0"),
}


def exif_of(tag: int, kind: int, count: int, value: bytes, turn: int = 6) -> bytes:
    """A JPEG's EXIF segment: little-endian TIFF with the orientation and one other tag (TIFF 6.0, section 2)."""
    inline = value if len(value) == 4 else struct.pack("<I", 38)
    entries = sorted([(0x0112, 3, 1, struct.pack("<HH", turn, 0)), (tag, kind, count, inline)])
    ifd = b"".join(struct.pack("<HHI", *entry[:3]) + entry[3] for entry in entries)
    return b"Exif\0\0II*\0\x08\0\0\0\x02\0" + ifd + bytes(4) + (value if len(value) > 4 else b"")


@pytest.mark.parametrize("strange", STRANGE_EXIF)
def test_impossible_exif_turns_no_photograph_away(strange: str) -> None:
    upright = np.zeros((40, 40, 3), np.uint8)
    upright[:20] = 255
    content = io.BytesIO()
    exif = exif_of(*STRANGE_EXIF[strange])
    Image.fromarray(np.rot90(upright).copy()).save(content, "JPEG", exif=exif, quality=95)
    found, remarks = decode.decode_image("a.jpg", content.getvalue(), 40, fit=True)
    assert remarks[0] == "RGB"
    assert found[:18].min() > 240
    assert found[22:].max() < 15


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "deep"])
def test_every_orientation_is_what_pillow_makes_of_it(kind: str, turn: int) -> None:
    gray = np.add.outer(np.arange(40) * 5, np.arange(40)).astype(np.uint8)
    stored = Image.fromarray(gray.astype(np.uint16) * 257 if kind == "deep" else gray)
    exif = stored.getexif()
    exif[0x0112] = turn
    content = io.BytesIO()
    options = {"lossless": True} if kind == "WEBP" else {}
    stored.save(content, "PNG" if kind == "deep" else kind, exif=exif, **options)
    found, _ = decode.decode_image("a", content.getvalue(), 40, fit=True)
    plain = Image.fromarray(gray)
    plain.getexif()[0x0112] = turn
    expected = np.asarray(ImageOps.exif_transpose(plain)).astype(int)
    assert np.abs(found[..., 0] - expected).max() <= (12 if kind == "JPEG" else 0)


def test_postscript_in_an_image_file_starts_no_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("a program was started"))
    (tmp_path / "a.png").write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\n%%EndComments\nshowpage\n%%EOF\n"
    )
    with pytest.raises(WrongContent, match=r"a\.png' cannot be read"):
        decode.decode_image("a.png", tmp_path / "a.png", 32, fit=True)


def test_whatever_a_decoder_raises_names_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    content = encoded(images(1, 32, 0)[0], "PNG")
    for error in (struct.error("x"), TypeError(), KeyError(1), NotImplementedError("x"), RecursionError("x")):

        def raises(self: object, error: Exception = error) -> None:
            raise error

        monkeypatch.setattr("PIL.ImageFile.ImageFile.load", raises)
        with pytest.raises(WrongContent, match=r"'a' cannot be read: \w"):
            decode.decode_image("a", content, 32, fit=True)


def test_pillows_warnings_are_a_note_and_not_on_the_screen(recwarn: pytest.WarningsRecorder) -> None:
    content = io.BytesIO()
    palette = Image.fromarray(images(1, 32, 0)[0]).quantize(8)
    palette.save(content, "PNG", transparency=bytes(range(8)))
    pairs: list[decode.Encoded] = [(i, (f"{i}.png", content.getvalue())) for i in range(3)]
    remarks = decode.decode_images(iter(pairs), np.zeros((3, 32, 32, 3), np.uint8), silent, "x", fit=True)
    assert decode.mode_notes(remarks) == (
        "3 with a palette: converted to RGB",
        "Pillow warned of 3 image files: Palette images with Transparency expressed in bytes should be converted to "
        "RGBA images",
    )
    assert not recwarn.list


@pytest.mark.parametrize(("bits", "kept"), [(8, 8), (9, 10), (12, 12), (13, 14), (16, 16)])
def test_the_depth_of_sixteen_bit_files_is_that_of_the_brightest(bits: int, kept: int) -> None:
    most = 2**bits - 1
    values = np.linspace(0, most, 32 * 32).round().astype(np.uint16).reshape(32, 32)
    pairs = [(number, (f"{number}.png", encoded(values // dim, "PNG"))) for number, dim in enumerate((1, 16))]
    out = np.zeros((2, 32, 32, 3), np.uint8)
    remarks = decode.decode_images(iter(pairs), out, silent, "x", fit=True)
    assert decode.depth_of(remarks) == kept
    assert any(f"scaled as {kept}-bit" in note for note in decode.mode_notes(remarks)) == (kept < 16)
    decode.decode_images(iter(pairs), out, silent, "x", fit=True, depth=kept)
    assert (out[0, ..., 0] == values >> (kept - 8)).all(), "the brightest image"
    assert (out[1, ..., 0] == (values // 16) >> (kept - 8)).all(), "a dark one on the same scale"
    assert decode.depth_of(Counter(["RGB"])) == 16


def deep_png(pixels: NDArray[np.uint16]) -> bytes:
    """Colours of 16 bits, which Pillow does not write (RFC 2083)."""
    height, width, channels = pixels.shape
    header = struct.pack(">IIBBBBB", width, height, 16, {2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    lines = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(lines)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def deep_tiff(pixels: NDArray[np.uint16]) -> bytes:
    """The same as a TIFF file of one strip, its entries in the order of their tags (TIFF 6.0)."""
    height, width, channels = pixels.shape
    entries = {256: width, 257: height, 258: 0, 259: 1, 262: 2, 273: 0, 277: channels, 278: height, 279: pixels.nbytes}
    entries[258] = 8 + 2 + 12 * len(entries) + 4  # where the bits of each channel stand, then the pixels
    entries[273] = entries[258] + 2 * channels
    counts = {258: (3, channels)}  # of type SHORT; the others are one LONG
    directory = b"".join(struct.pack("<HHII", tag, *counts.get(tag, (4, 1)), value) for tag, value in entries.items())
    start = b"II*\0" + struct.pack("<IH", 8, len(entries))
    return start + directory + bytes(4) + struct.pack("<H", 16) * channels + pixels.astype("<u2").tobytes()


@pytest.mark.parametrize(
    ("write", "channels", "bits"),
    [
        (deep_png, 3, 12),
        (deep_png, 4, 10),
        (deep_png, 2, 12),
        (deep_tiff, 3, 12),
        (deep_png, 3, 16),
        (deep_tiff, 3, 16),
    ],
)
def test_colours_of_sixteen_bit_files_that_hold_fewer_are_named(
    write: Callable[[NDArray[np.uint16]], bytes], channels: int, bits: int
) -> None:
    pixels = np.linspace(0, 2**bits - 1, 8 * 8 * channels).astype(np.uint16).reshape(8, 8, channels)
    image, remarks = decode.decode_image("x.png", write(pixels), 8, fit=True)
    assert (image[..., 0] == pixels[..., 0] >> 8).all()
    notes = [note for note in decode.mode_notes(Counter(remarks)) if "16-bit" in note]
    assert decode.depth_of(Counter(remarks)) == 16, "nothing that can be scaled"
    assert len(notes) == (bits < 16)
    for note in notes:
        assert f"values below {2**bits:,} only" in note
        assert f"at most {2 ** (bits - 8)} levels of each colour; save them with 8 bits" in note
    with_bright_one = Counter([*remarks, f"{decode.COLOUR_DEPTH}16"])
    assert not [note for note in decode.mode_notes(with_bright_one) if "16-bit" in note]


DECODING = """
import sys, time
import numpy as np
from bench.data import decode
from tests.tiny_archives import encoded, images

if __name__ == "__main__":
    decode.FEW, decode.BATCH, decode.cores = 1, 2, lambda: 2
    image = encoded(images(1, 32, 0)[0], "PNG")

    def endless():
        while True:
            yield 0, ("x.png", image)

    def progress(what, done, of):
        if done >= 20:
            print("started", flush=True)
            time.sleep(1000)

    try:
        decode.decode_images(endless(), np.zeros((9, 32, 32, 3), np.uint8), progress, "decoding")
    except KeyboardInterrupt:
        print("interrupted", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_workers_end_with_who_asked_and_say_nothing(number: signal.Signals, tmp_path: Path) -> None:
    (tmp_path / "decoding.py").write_text(DECODING)
    asks = subprocess.Popen(
        [sys.executable, tmp_path / "decoding.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert asks.stdout is not None
    assert asks.stdout.readline() == "started\n"
    decoders = workers(asks.pid)
    assert len(decoders) == 2
    if number == signal.SIGINT:
        os.killpg(asks.pid, number)  # as a terminal does: to all of them
    else:
        asks.kill()
    out, err = asks.communicate(timeout=60)
    assert gone(decoders)
    if number == signal.SIGINT:
        assert (out, err, asks.returncode) == ("interrupted\n", "", 0)


def test_an_idx_file_must_be_what_its_head_says(tmp_path: Path) -> None:
    good = struct.pack(">II", 0x801, 3) + bytes([1, 2, 3])
    for content in (
        good[:-1],
        good + b"x",
        struct.pack(">II", 0x901, 3) + b"123",
        struct.pack(">II", 0x801, 4) + b"123",
    ):
        (tmp_path / "x.gz").write_bytes(gzip.compress(content))
        with pytest.raises(WrongContent, match="no IDX file"):
            decode._idx(tmp_path / "x.gz", (3,))
    (tmp_path / "x.gz").write_bytes(gzip.compress(good))
    assert decode._idx(tmp_path / "x.gz", (3,)).tolist() == [1, 2, 3]


@pytest.mark.skipif(not DEBIAN.is_dir(), reason="Debian's package dataset-fashion-mnist is not installed")
def test_the_real_fashion_mnist_is_what_is_published() -> None:
    """All 70,000 images of the original files (Debian's copies differ in their gzip heads only)."""
    known = CATALOGUE["fashion_mnist"]
    paths = {file.name: DEBIAN / file.name for file in known.files}
    found = decode.fashion_mnist(paths, known.facts, decode.in_memory, silent)
    check_facts("fashion_mnist", found, known.facts)


def test_facts_that_are_asked_for() -> None:
    facts = Facts(90, 20, 10, 32, (0.5,) * 3, (0.2,) * 3, valid=10)
    assert facts.counts() == ([10] * 10, [2] * 10)
