"""Published formats to uint8 arrays. Example: cifar10({"cifar-10-binary.tar.gz": path}, facts, np.empty, silent)

A decoder reads verified files, asks `allocate` for image arrays (in memory, or files mapped into it) and fills them.
Nothing is unpickled, and nothing is unpacked to the disk. The order of the images is reproducible: the publisher's if
there is one, else by class and name.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import re
import signal
import struct
import tarfile
import threading
import warnings
import zipfile
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from itertools import chain, islice
from multiprocessing import current_process, get_context, parent_process
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.core.errors import UserError
from bench.core.files import inert
from bench.core.text import plural
from bench.data.archives import tar_members, zip_members
from bench.data.arrays import Arrays, Facts, WrongContent
from bench.data.fetch import Progress

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image

Allocate = Callable[[str, tuple[int, ...]], Any]  # name and shape -> an uint8 array
Decoder = Callable[[dict[str, Path], Facts, Allocate, Progress], Arrays]
BATCH, BATCH_BYTES = 500, 4_000_000  # images, and their bytes, that a worker decodes at a time
FEW = 4  # batches that this process decodes sooner than worker processes would start
NAMED = 3  # at most, of many in a sentence


def in_memory(name: str, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """The simplest Allocate."""
    return np.empty(shape, np.uint8)


# --- CIFAR ---------------------------------------------------------------------------------------------------------


def cifar10(paths: dict[str, Path], facts: Facts, allocate: Allocate, progress: Progress) -> Arrays:
    """CIFAR-10's binary version: five training files and one test file of records (label, 3 x 32 x 32 pixels)."""
    files = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin", "batches.meta.txt"]
    return _cifar(_only(paths), files, 1, facts, allocate)


def cifar100(paths: dict[str, Path], facts: Facts, allocate: Allocate, progress: Progress) -> Arrays:
    """CIFAR-100's binary version: records (coarse label, fine label, 3 x 32 x 32 pixels); the fine label counts."""
    return _cifar(_only(paths), ["train.bin", "test.bin", "fine_label_names.txt"], 2, facts, allocate)


def _cifar(archive: Path, files: list[str], labels: int, facts: Facts, allocate: Allocate) -> Arrays:
    *train, test, names = files
    contents = cifar_members(archive, files)
    side = facts.size
    parts = {}
    for part, chosen, count in (("train", train, facts.train), ("test", [test], facts.test)):
        raw = b"".join(contents[name] for name in chosen)
        if len(raw) != count * (labels + 3 * side * side):
            raise WrongContent(f"{archive.name} has {len(raw):,} bytes of {part} records, not {count:,} records")
        records = np.frombuffer(raw, np.uint8).reshape(count, -1)
        images = allocate(f"{part}_x", (count, side, side, 3))
        images[:] = records[:, labels:].reshape(count, 3, side, side).transpose(0, 2, 3, 1)
        parts[part] = (images, records[:, labels - 1].astype(np.int64))
    classes = tuple(contents[names].decode().split())
    return Arrays(*parts["train"], *parts["test"], classes)


def cifar_members(path: Path, names: Sequence[str]) -> dict[str, bytes]:
    """The files of these names in a CIFAR archive, or in its unpacked folder. Raises WrongContent for missing ones."""
    contents = {parts[-1]: read() for parts, read in members(path) if parts[-1] in names}
    if missing := [name for name in names if name not in contents]:
        raise WrongContent(f"{path.name} has no {', '.join(missing)}")
    return contents


Member = tuple[tuple[str, ...], Callable[[], bytes]]  # its path in the archive, and what reads it


def members(path: Path) -> Iterator[Member]:
    """The files of a tar archive or of an unpacked one's folder, in their order; each is to be read before the next."""
    if path.is_dir():
        for folder, _, names in os.walk(path):
            for file in (Path(folder, name) for name in names):
                if file.is_file():
                    yield file.relative_to(path).parts, file.read_bytes
        return
    with tarfile.open(path, "r:gz") as tar:
        for member in tar_members(tar):
            yield PurePosixPath(member.name).parts, partial(_bytes_of, tar, member)


def _bytes_of(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    assert file is not None, "tar_members yields regular files only"
    return file.read()


def _only(paths: dict[str, Path]) -> Path:
    (path,) = paths.values()
    return path


# --- SVHN, Fashion-MNIST -------------------------------------------------------------------------------------------


def svhn(paths: dict[str, Path], facts: Facts, allocate: Allocate, progress: Progress) -> Arrays:
    """SVHN's cropped digits, two MATLAB 5 files: X (32, 32, 3, N) uint8, y (N, 1) with 10 for the digit 0."""
    from scipy.io import loadmat, whosmat

    parts = {}
    for part, count in (("train", facts.train), ("test", facts.test)):
        path = paths[f"{part}_{facts.size}x{facts.size}.mat"]
        expected = {"X": (facts.size, facts.size, 3, count), "y": (count, 1)}
        shapes = {name: shape for name, shape, _ in whosmat(path)}  # before anything is unpacked
        if {name: shapes.get(name) for name in expected} != expected:
            raise WrongContent(f"{path.name} holds {shapes}, not {expected}")
        data = loadmat(path, variable_names=list(expected))
        if data["X"].dtype != np.uint8:
            raise WrongContent(f"{path.name} holds images of type {data['X'].dtype}, not uint8")
        images = allocate(f"{part}_x", (count, facts.size, facts.size, 3))
        images[:] = data["X"].transpose(3, 0, 1, 2)
        parts[part] = (images, data["y"].reshape(-1).astype(np.int64) % 10)
    return Arrays(*parts["train"], *parts["test"], tuple("0123456789"))


FASHION_CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip


def fashion_mnist(paths: dict[str, Path], facts: Facts, allocate: Allocate, progress: Progress) -> Arrays:
    """Fashion-MNIST's four IDX files; gray images (N, 28, 28)."""
    parts = {}
    for part, prefix, count in (("train", "train", facts.train), ("test", "t10k", facts.test)):
        images = allocate(f"{part}_x", (count, facts.size, facts.size))
        images[:] = _idx(paths[f"{prefix}-images-idx3-ubyte.gz"], images.shape)
        parts[part] = (images, _idx(paths[f"{prefix}-labels-idx1-ubyte.gz"], (count,)).astype(np.int64))
    return Arrays(*parts["train"], *parts["test"], FASHION_CLASSES)


def _idx(path: Path, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """One IDX file of bytes: two zeros, the type 8, the number of dimensions, each of them in 4 bytes, the values."""
    size = int(np.prod(shape))
    with gzip.open(path) as file:
        raw = file.read(4 + 4 * len(shape) + size + 1)  # one byte more than expected shows that there are too many
    head = struct.pack(f">BBBB{len(shape)}I", 0, 0, 8, len(shape), *shape)
    if raw[: len(head)] != head or len(raw) != len(head) + size:
        raise WrongContent(f"{path.name} is no IDX file of {shape} bytes")
    return np.frombuffer(raw, np.uint8, offset=len(head)).reshape(shape)


# --- Tiny-ImageNet, CINIC-10: archives of image files --------------------------------------------------------------


Files = list[tuple[int, tuple[str, ...]]]  # label and place in the archive


def tiny_imagenet(paths: dict[str, Path], facts: Facts, allocate: Allocate, progress: Progress) -> Arrays:
    """Tiny-ImageNet's zip of JPEG files, or the folder that it unpacks to.

    Its labelled validation part is the test part: its own test has no labels. Classes in the order of their
    WordNet numbers; training images of a class by number.
    """
    path = _only(paths)
    with contextlib.ExitStack() as opened:
        if path.is_dir():
            files_of = dict(members(path))
        else:
            archive = opened.enter_context(zipfile.ZipFile(path))
            infos = {PurePosixPath(info.filename).parts[1:]: info for info in zip_members(archive)}
            files_of = {parts: partial(archive.read, info) for parts, info in infos.items()}
        try:
            wnids = sorted(files_of["wnids.txt",]().decode().split())
            words = files_of["words.txt",]().decode("utf-8", "replace")  # names, not content
            annotations = files_of["val", "val_annotations.txt"]().decode()
        except KeyError as error:
            raise WrongContent(f"{path} has no {'/'.join(error.args[0])}") from None
        label = {wnid: i for i, wnid in enumerate(wnids)}
        train: Files = [
            (label.get(p[1], -1), p) for p in files_of if len(p) == 4 and p[0] == "train" and p[2] == "images"
        ]
        rows = [line.split("\t")[:2] for line in annotations.splitlines()]
        test: Files = [(label.get(wnid, -1), ("val", "images", name)) for name, wnid in rows]
        parts, modes = list[Any](), Counter[str]()
        both = (("train", train, facts.train), ("test", test, facts.test))
        for part, files, count in both:
            files.sort(key=lambda f: (f[0], [int(n) for n in re.findall(r"\d+", f[1][-1])], f[1][-1]))
            if len(files) != count or any(i < 0 or p not in files_of for i, p in files):
                raise WrongContent(f"{path} has {len(files):,} {part} images, not the published {count:,}")
        arrays = [allocate(f"{part}_x", (count, facts.size, facts.size, 3)) for part, _, count in both]
        for images, (part, files, _) in zip(arrays, both, strict=True):
            encoded = (("/".join(p), files_of[p]()) for _, p in files)
            modes += decode_images(enumerate(encoded), images, progress, f"decoding tiny_imagenet {part}")
            parts += [images, np.array([i for i, _ in files], np.int64)]
    train_x, train_y, test_x, test_y = parts
    return Arrays(train_x, train_y, test_x, test_y, _names(wnids, words), mode_notes(modes))


def _names(wnids: list[str], words: str) -> tuple[str, ...]:
    """The first synonym of each class, with its number if two classes share it."""
    known = dict(line.split("\t", 1) for line in words.splitlines() if "\t" in line)
    names = [known.get(wnid, wnid).split(",")[0].strip() for wnid in wnids]
    often = Counter(names)
    return tuple(name if often[name] == 1 else f"{name} ({wnid})" for name, wnid in zip(names, wnids, strict=True))


CINIC_PARTS = ("train", "valid", "test")


def cinic10(paths: dict[str, Path], facts: Facts, allocate: Allocate, progress: Progress) -> Arrays:
    """CINIC-10's tar of PNG files, part/class/name, or the folder that it unpacks to.

    Its validation part follows its training part in `train_x`.
    """
    archive = _only(paths)
    names: list[tuple[int, str, str]] = []
    for parts, _ in members(archive):  # first the names: where an image goes depends on all of them
        if len(parts) == 3 and parts[0] in CINIC_PARTS and not parts[2].startswith("."):
            names.append((CINIC_PARTS.index(parts[0]), parts[1], parts[2]))
            progress("listing cinic10", len(names), facts.train + facts.valid + facts.test)
    names.sort()
    counts = Counter(part for part, _, _ in names)
    if [counts[i] for i in range(3)] != [facts.train, facts.valid, facts.test]:
        raise WrongContent(f"{archive.name} has {[counts[i] for i in range(3)]} images in {', '.join(CINIC_PARTS)}")
    classes = tuple(sorted({label for _, label, _ in names}))
    labels = np.array([classes.index(label) for _, label, _ in names], np.int64)
    place = {f"{CINIC_PARTS[part]}/{label}/{name}": i for i, (part, label, name) in enumerate(names)}
    first_test = facts.train + facts.valid
    train_x = allocate("train_x", (first_test, facts.size, facts.size, 3))
    test_x = allocate("test_x", (facts.test, facts.size, facts.size, 3))
    both = _Joined(train_x, test_x)
    encoded = ((place[name], (name, read())) for parts, read in members(archive) if (name := "/".join(parts)) in place)
    notes = mode_notes(decode_images(encoded, both, progress, "decoding cinic10"))
    return Arrays(train_x, labels[:first_test], test_x, labels[first_test:], classes, notes, facts.train)


class _Joined:
    """Two arrays of images, written to as one."""

    def __init__(self, first: NDArray[np.uint8], second: NDArray[np.uint8]) -> None:
        self._first, self._second = first, second
        self.shape = (len(first) + len(second), *first.shape[1:])

    def __len__(self) -> int:
        return self.shape[0]

    def __setitem__(self, place: int, image: NDArray[np.uint8]) -> None:
        if place < len(self._first):
            self._first[place] = image
        else:
            self._second[place - len(self._first)] = image


# --- image files ---------------------------------------------------------------------------------------------------

Encoded = tuple[int, tuple[str, bytes | Path]]  # where it goes, its name, and its content or file
Batch = list[Encoded]
Block = tuple[list[int], "NDArray[np.uint8]", list[str], list[str]]  # places, images, remarks, complaints

# Pillow's names of the formats of own.py's endings, and GIF, which is often called .jpg
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "PPM", "TIFF", "GIF")
MOST_PIXELS = 2**28  # 800 MB as RGB: the largest photographs of telephones have 200 million
BITS_PER_SAMPLE = 258  # TIFF's tag
ORIENTATION = 0x0112  # EXIF's tag, and Pillow's name of what brings each of its values upright
TURNS = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}
DEPTH, WARNED = "bits: ", "warning: "  # remarks beside an image's mode
COLOUR_DEPTH = "bits of colours: "
DEPTHS = (8, 10, 12, 14, 16)  # bits of what detectors write into 16-bit files
MOST_WORDS = 100  # characters of a warning in a note


def decode_images(
    encoded: Iterable[Encoded],
    out: NDArray[np.uint8] | _Joined,
    progress: Progress,
    what: str,
    fit: bool = False,
    depth: int = 16,
) -> Counter[str]:
    """Decode image files into out (N, S, S, 3), on all cores if there are many files.

    Returns how often each remark was made: see mode_notes. `fit`: turned upright by EXIF, cropped to the middle square
    and resized (bilinear, antialiased) to S; without it another size is an error. `depth`: bits of the values in 16-bit
    files, of which the upper 8 are kept; see depth_of. Raises WrongContent that names the
    first files that cannot be used, once all were tried.
    """
    size, remarks, done, wrong = out.shape[1], Counter[str](), 0, list[str]()
    # closed here, whatever happens: ending the workers must not wait for garbage collection
    with contextlib.closing(_map(_batches(encoded), size, fit, depth)) as blocks:
        for places, images, remarked, complaints in blocks:
            for place, image in zip(places, images, strict=True):
                out[place] = image
            remarks.update(remarked)
            wrong += complaints
            done += len(places) + len(complaints)
            progress(what, done, len(out))
    if wrong:
        raise WrongContent(first_of(wrong))
    return remarks


def first_of(things: list[str]) -> str:
    """The first few of a list that may be long, and the number of the others."""
    return ", ".join(things[:NAMED]) + (f" and {len(things) - NAMED:,} more" if len(things) > NAMED else "")


def _batches(encoded: Iterable[Encoded]) -> Iterator[Batch]:
    """As many as fit into BATCH_BYTES of file content: a photograph has a thousand times a thumbnail's."""
    batch, filled = Batch(), 0
    for place, (name, content) in encoded:
        batch.append((place, (name, content)))
        filled += content.stat().st_size if isinstance(content, Path) else len(content)
        if filled >= BATCH_BYTES or len(batch) >= BATCH:
            yield batch
            batch, filled = [], 0
    if batch:
        yield batch


def _map(batches: Iterator[Batch], size: int, fit: bool, depth: int) -> Generator[Block]:
    """Decoded batches in their order, a few in memory at a time. Raises UserError if a worker is killed."""
    workers = cores()
    first = list(islice(batches, FEW))
    if workers == 1 or len(first) < FEW or current_process().daemon:  # daemons, as runs are, may not have children
        yield from (decode_batch(batch, size, fit, depth) for batch in chain(first, batches))
        return
    # spawn: a fork of a process with torch's threads may hang
    with ProcessPoolExecutor(workers, get_context("spawn"), initializer=_begin_worker) as pool:
        waiting: deque[Future[Block]] = deque()
        try:
            for batch in chain(first, batches):
                with _deaf_to_interrupts():  # this starts workers as they are needed
                    waiting.append(pool.submit(decode_batch, batch, size, fit, depth))
                if len(waiting) > 3 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool:
            raise UserError(
                "a process that decoded images was killed, probably for lack of memory; rerun the same command"
            ) from None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def cores() -> int:
    """The number that this process may use: in a container, not all of the machine's."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """Processes started meanwhile never get Ctrl-C; this one gets it at the end."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin_worker() -> None:
    """A parent that ends, in whatever way, leaves no workers behind."""
    parent = parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def decode_batch(batch: Batch, size: int, fit: bool, depth: int = 16) -> Block:
    """In a worker process: the images, and a complaint for each file that cannot be decoded."""
    places, images, remarks, wrong = list[int](), list["NDArray[np.uint8]"](), list[str](), list[str]()
    for place, (name, content) in batch:
        try:
            image, remarked = decode_image(name, content, size, fit, depth)
        except WrongContent as error:
            wrong.append(str(error))
            continue
        places.append(place)
        images.append(image)
        remarks += remarked
    return places, np.stack(images) if images else np.empty((0, size, size, 3), np.uint8), remarks, wrong


@contextlib.contextmanager
def opened_image(name: str, content: bytes | Path) -> Iterator[tuple[Image.Image, list[str]]]:
    """An image file, and a list that has Pillow's warnings at the end. Raises WrongContent that names the file.

    Its content decides about its format, but only among those of FORMATS: another one may start a program, as
    PostScript does. Whatever an image's decoder raises means that the file cannot be used.
    """
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = MOST_PIXELS // 2  # Pillow refuses twice as many
    said = list[str]()
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            source = content if isinstance(content, Path) else io.BytesIO(content)
            with Image.open(source, formats=FORMATS) as image:
                yield image, said
            bomb = Image.DecompressionBombWarning
            said += [inert(str(warning.message)) for warning in caught if warning.category is not bomb]
    except (WrongContent, MemoryError):
        raise
    except Exception as error:
        raise WrongContent(f"image '{name}' cannot be read: {str(error) or type(error).__name__}") from None


def decode_image(
    name: str, content: bytes | Path, size: int, fit: bool, depth: int = 16
) -> tuple[NDArray[np.uint8], list[str]]:
    """One image file as (size, size, 3) uint8, and what to note: mode, bits of 16-bit gray, the first of its warnings.

    Gray images get three equal channels, transparency is dropped, and 16-bit gray keeps the upper 8 of `depth` bits.
    Raises WrongContent that names the file.
    """
    from PIL import Image, ImageOps

    with opened_image(name, content) as (image, said):
        remarks, deep = [image.mode], _has_deep_colours(image)  # loading forgets it
        rgb, bits = _eight_bits(image, name, depth)
        rgb = rgb.convert("RGB")
        if deep:
            remarks.append(f"{COLOUR_DEPTH}{_bits_for(256 * int(np.asarray(rgb).max()))}")
        if fit:
            if (turn := TURNS.get(_orientation(image, said))) is not None:
                rgb = rgb.transpose(Image.Transpose[turn])
            rgb = ImageOps.fit(rgb, (size, size), Image.Resampling.BILINEAR)
    if rgb.size != (size, size):
        raise WrongContent(f"image '{name}' has {rgb.width}x{rgb.height} px, not {size}x{size}")
    remarks += [f"{DEPTH}{bits}"] * (bits > 0) + [f"{WARNED}{text}" for text in said[:1]]
    return np.asarray(rgb), remarks


def _orientation(image: Image.Image, said: list[str]) -> Any:
    """EXIF's, once the image is loaded: PNG files may have it at their end, and Pillow itself turns TIFF files.

    EXIF that cannot be read is added to the warnings: viewers show such a picture as it lies.
    """
    try:
        return image.getexif().get(ORIENTATION)
    except Exception as error:
        said.append(f"EXIF cannot be read: {str(error) or type(error).__name__}")
        return None


def _has_deep_colours(image: Image.Image) -> bool:
    """Whether its colours have 16 bits, of which Pillow reads the upper 8."""
    if image.mode.startswith("I"):
        return False
    if image.format == "TIFF":
        return 16 in image.tag_v2.get(BITS_PER_SAMPLE, ())  # type: ignore[attr-defined]
    return image.format == "PNG" and any(";16" in str(args) for *_, args in image.tile)  # type: ignore[attr-defined]


def _bits_for(value: int) -> int:
    """Which of DEPTHS holds a value."""
    return next(bits for bits in DEPTHS if value < 2**bits)


def _eight_bits(image: Image.Image, name: str, depth: int) -> tuple[Image.Image, int]:
    """Scale 16-bit gray, which Pillow would clip at 255; which of DEPTHS holds its values, 0 for other images.

    Raises WrongContent for numbers that are no colours.
    """
    from PIL import Image

    image.load()
    if not image.mode.startswith("I") and image.mode != "F":
        return image, 0
    values = np.asarray(image)
    # Pillow has read 16-bit PNG files as 32-bit integers
    if image.mode == "F" or (image.mode == "I" and (image.format != "PNG" or values.max() > 0xFFFF)):
        raise WrongContent(f"image '{name}' holds 32-bit numbers (mode {image.mode}), which are no colours")
    most = int(values.max())
    upper = np.minimum(values.astype(np.uint32) >> (depth - 8), 255).astype(np.uint8)
    return Image.fromarray(upper), _bits_for(most)


def depth_of(remarks: Counter[str], kind: str = DEPTH) -> int:
    """Bits of the values of all 16-bit images together: one scale for all keeps their brightness comparable."""
    return max((int(text.removeprefix(kind)) for text in remarks if text.startswith(kind)), default=16)


MODES = {
    "L": "gray",
    "1": "black and white",
    "P": "with a palette",
    "LA": "gray with transparency",
    "RGBA": "with transparency",
}


def mode_notes(remarks: Counter[str]) -> tuple[str, ...]:
    """Notes on images that were not RGB, that hold fewer bits than their files, or of which Pillow warned."""
    warned = {text.removeprefix(WARNED): count for text, count in remarks.items() if text.startswith(WARNED)}
    modes = {mode: n for mode, n in remarks.items() if not mode.startswith((WARNED, DEPTH, COLOUR_DEPTH))}
    odd = {mode: count for mode, count in modes.items() if mode != "RGB"}
    kinds = ", ".join(f"{count:,} {MODES.get(mode, f'of mode {mode}')}" for mode, count in sorted(odd.items()))
    notes = [f"{kinds}: converted to RGB"] if odd else []
    if (depth := depth_of(remarks)) < 16:
        notes.append(f"16-bit images hold values below {2**depth:,} only: scaled as {depth}-bit ones")
    if (depth := depth_of(remarks, COLOUR_DEPTH)) < 16:
        notes.append(
            f"16-bit colour images hold values below {2**depth:,} only, but just their upper 8 bits can be read: they "
            f"are dark, with at most {plural(2 ** (depth - 8), 'level')} of each colour; save them with 8 bits"
        )
    if warned:
        often = max(sorted(warned), key=lambda text: warned[text])
        notes.append(f"Pillow warned of {plural(sum(warned.values()), 'image file')}: {often[:MOST_WORDS]}")
    return tuple(notes)
