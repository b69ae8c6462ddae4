"""Archives in the published data sets' true layouts, a few images each, and the arrays that must come out of them."""

from __future__ import annotations

import gzip
import hashlib
import io
import struct
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bench.data.arrays import Arrays, Facts
from bench.data.catalogue import CATALOGUE
from bench.data.fetch import RemoteFile

CIFAR = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
Made = tuple[dict[str, bytes], Arrays]


def images(count: int, size: int, seed: int, colours: tuple[int, ...] = (3,)) -> np.ndarray:
    """Smooth noise, so that JPEG keeps it nearly: (count, size, size, *colours) uint8."""
    coarse = np.random.default_rng(seed).integers(0, 256, (count, size // 8, size // 8, *colours), np.uint8)
    return coarse.repeat(8, axis=1).repeat(8, axis=2)


def tarred(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def zipped(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return out.getvalue()


def encoded(image: np.ndarray, kind: str) -> bytes:
    out = io.BytesIO()
    Image.fromarray(image).save(out, kind, **({"quality": 95} if kind == "JPEG" else {}))
    return out.getvalue()


def _records(x: np.ndarray, *labels: np.ndarray) -> bytes:
    """As the CIFAR pages describe them: label bytes, then 1,024 red, 1,024 green, 1,024 blue, row by row."""
    out = bytearray()
    for i, image in enumerate(x):
        out += bytes(int(label[i]) for label in labels)
        for channel in range(3):
            out += image[:, :, channel].tobytes()
    return bytes(out)


def cifar10() -> Made:
    x, y = images(60, 32, 0), np.arange(60) % 10
    members = {"cifar-10-batches-bin/batches.meta.txt": "\n".join([*CIFAR, "", ""]).encode()}
    for i in range(5):
        part = slice(10 * i, 10 * i + 10)
        members[f"cifar-10-batches-bin/data_batch_{i + 1}.bin"] = _records(x[part], y[part])
    members["cifar-10-batches-bin/test_batch.bin"] = _records(x[50:], y[50:])
    members["cifar-10-batches-bin/readme.html"] = b"<html>"
    return {"cifar-10-binary.tar.gz": tarred(members)}, Arrays(x[:50], y[:50], x[50:], y[50:], CIFAR)


def cifar100() -> Made:
    x, y = images(300, 32, 1), np.arange(300) % 100
    names = tuple(f"fine_{i:02}" for i in range(100))
    coarse = y // 5
    members = {
        "cifar-100-binary/coarse_label_names.txt": "\n".join(f"coarse_{i}" for i in range(20)).encode(),
        "cifar-100-binary/fine_label_names.txt": "\n".join(names).encode() + b"\n",
        "cifar-100-binary/train.bin": _records(x[:200], coarse[:200], y[:200]),
        "cifar-100-binary/test.bin": _records(x[200:], coarse[200:], y[200:]),
    }
    return {"cifar-100-binary.tar.gz": tarred(members)}, Arrays(x[:200], y[:200], x[200:], y[200:], names)


def svhn() -> Made:
    from scipy.io import savemat

    x, y = images(60, 32, 2), np.arange(60) % 10
    files = {}
    for part, rows in (("train", slice(0, 40)), ("test", slice(40, 60))):
        out = io.BytesIO()
        # 10 stands for the digit 0, as in the original
        labels = np.where(y[rows] == 0, 10, y[rows]).astype(np.uint8)[:, None]
        savemat(out, {"X": x[rows].transpose(1, 2, 3, 0), "y": labels}, do_compression=True)
        files[f"{part}_32x32.mat"] = out.getvalue()
    return files, Arrays(x[:40], y[:40], x[40:], y[40:], tuple("0123456789"))


def fashion_mnist() -> Made:
    from bench.data.decode import FASHION_CLASSES

    x, y = np.random.default_rng(3).integers(0, 256, (60, 28, 28), np.uint8), np.arange(60) % 10
    files = {}
    for prefix, rows in (("train", slice(0, 40)), ("t10k", slice(40, 60))):
        head = struct.pack(">IIII", 0x803, len(x[rows]), 28, 28)
        files[f"{prefix}-images-idx3-ubyte.gz"] = gzip.compress(head + x[rows].tobytes())
        head = struct.pack(">II", 0x801, len(x[rows]))
        files[f"{prefix}-labels-idx1-ubyte.gz"] = gzip.compress(head + y[rows].astype(np.uint8).tobytes())
    return files, Arrays(x[:40], y[:40], x[40:], y[40:], FASHION_CLASSES)


def tiny_imagenet() -> Made:
    """Two classes; wnids.txt in another order than the sorted one; the second image of the first class is gray."""
    wnids = ("n02000002", "n01000001")
    root, names = "tiny-imagenet-200", {"n01000001": "goldfish", "n02000002": "tabby"}
    members = {
        f"{root}/": b"",
        f"{root}/wnids.txt": "\n".join(wnids).encode(),
        f"{root}/words.txt": b"n00001740\tentity\nn01000001\tgoldfish, Carassius auratus\nn02000002\ttabby, cat\n",
    }
    train, labels = images(22, 64, 4), []
    gray = train[1, :, :, 0].copy()
    train[1] = gray[:, :, None]
    decoded = []
    for label, wnid in enumerate(sorted(wnids)):
        for number in range(11):  # 10 comes after 9, though not in the alphabet
            image = train[len(labels)]
            jpeg = encoded(gray if len(labels) == 1 else image, "JPEG")
            members[f"{root}/train/{wnid}/images/{wnid}_{number}.JPEG"] = jpeg
            decoded.append(np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB")))
            labels.append(label)
        members[f"{root}/train/{wnid}/{wnid}_boxes.txt"] = b""
    test, annotations, test_y = images(4, 64, 5), [], [1, 0, 0, 1]
    held_out = []
    for number, label in enumerate(test_y):
        jpeg = encoded(test[number], "JPEG")
        members[f"{root}/val/images/val_{number}.JPEG"] = jpeg
        held_out.append((label, number, np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB"))))
        annotations.append(f"val_{number}.JPEG\t{sorted(wnids)[label]}\t0\t0\t9\t9")
    members[f"{root}/val/val_annotations.txt"] = "\n".join(annotations).encode()
    members[f"{root}/test/images/test_0.JPEG"] = encoded(test[0], "JPEG")
    held_out.sort(key=lambda row: row[:2])
    return {"tiny-imagenet-200.zip": zipped(members)}, Arrays(
        np.stack(decoded),
        np.array(labels),
        np.stack([row[2] for row in held_out]),
        np.array([row[0] for row in held_out]),
        tuple(names[wnid] for wnid in sorted(wnids)),
        ("1 gray: converted to RGB",),
    )


def cinic10() -> Made:
    """Two images of each of the ten classes in each part; in the archive in another order; one is gray."""
    x = images(60, 32, 6)
    x[7] = x[7, :, :, :1]
    members, place = {}, 0
    for part in ("train", "valid", "test"):
        for label in CIFAR:
            for name in ("cifar10-train-1.png", "n02691156_1.png"):
                members[f"./{part}/{label}/{name}"] = encoded(x[place, :, :, 0] if place == 7 else x[place], "PNG")
                place += 1
    shuffled = {name: members[name] for name in sorted(members, key=lambda n: hashlib.md5(n.encode()).digest())}
    y = np.arange(60) // 2 % 10
    whole = {"./README.md": b"", "./imagenet-contributors.csv": b"", **shuffled}
    made = Arrays(x[:40], y[:40], x[40:], y[40:], CIFAR, ("1 gray: converted to RGB",), 20)
    return {"CINIC-10.tar.gz": tarred(whole)}, made


MAKERS: dict[str, Callable[[], Made]] = {
    f.__name__: f for f in (cifar10, cifar100, svhn, fashion_mnist, tiny_imagenet, cinic10)
}


def facts_of(arrays: Arrays) -> Facts:
    """What would be published of these, by numpy's own mean and deviation."""
    first = arrays.validation_from or len(arrays.train_y)
    axes = (0, 1, 2)
    part = arrays.train_x[:first] / 255
    mean, std = np.atleast_1d(part.mean(axis=axes)), np.atleast_1d(part.std(axis=axes))
    return Facts(
        train=first,
        test=len(arrays.test_y),
        classes=len(arrays.classes),
        size=arrays.train_x.shape[1],
        mean=tuple(mean),
        std=tuple(std),
        valid=len(arrays.train_y) - first,
        train_counts=tuple(np.bincount(arrays.train_y)),
        test_counts=tuple(np.bincount(arrays.test_y)),
    )


def published_here(
    monkeypatch: pytest.MonkeyPatch, name: str, address: str = "http://127.0.0.1:9", **changes: Any
) -> Made:
    """Put the tiny archives of a data set into the catalogue, to be fetched from `address`/FILE; returns its truth."""
    files, arrays = MAKERS[name]()
    remote = tuple(
        RemoteFile(file, (f"{address}/{file}",), len(content), f"sha256:{hashlib.sha256(content).hexdigest()}")
        for file, content in files.items()
    )
    made = replace(CATALOGUE[name], files=remote, facts=facts_of(arrays), **changes)
    monkeypatch.setitem(CATALOGUE, name, made)
    return files, arrays


def put(folder: Path, files: dict[str, bytes]) -> None:
    """As if they had been fetched by hand."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
