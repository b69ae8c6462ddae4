"""Copies of published data sets as other programs leave them: the same arrays, no download, and no pickle that runs."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import struct
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.cli.main import main
from bench.core.errors import UserError
from bench.data import on_disk
from bench.data.arrays import Arrays, WrongContent
from bench.data.datasets import load
from bench.data.pickles import labels, pixels, plain
from tests.tiny_archives import MAKERS, published_here, put, tarred

NUMPY = b"cnumpy.core.multiarray\n_reconstruct\n"  # as NumPy called it when CIFAR was published


def python2(value: Any) -> bytes:
    """A pickle as Python 2 wrote it with protocol 2: the opcodes of the published files, put together by hand."""

    def code(value: Any) -> bytes:
        match value:
            case bytes():
                return b"T" + struct.pack("<i", len(value)) + value
            case bool():
                return b"\x88" if value else b"\x89"
            case int():
                return b"J" + struct.pack("<i", value)
            case None:
                return b"N"
            case tuple():
                return b"(" + b"".join(map(code, value)) + b"t"
            case list():
                return b"](" + b"".join(map(code, value)) + b"e"
            case dict():
                return b"}(" + b"".join(code(k) + code(v) for k, v in value.items()) + b"u"
            case np.ndarray():
                kind = (
                    b"cnumpy\ndtype\n"
                    + code((b"u1", 0, 1))
                    + b"R"
                    + code((3, b"|", None, None, None, -1, -1, 0))
                    + b"b"
                )
                state = b"(" + code(1) + code(value.shape) + kind + code(False) + code(value.tobytes()) + b"t"
                return NUMPY + b"(cnumpy\nndarray\n" + code((0,)) + code(b"b") + b"tR" + state + b"b"
        raise AssertionError(value)

    return b"\x80\x02" + code(value) + b"."


def batch(x: np.ndarray, y: np.ndarray, key: bytes) -> bytes:
    rows = x.transpose(0, 3, 1, 2).reshape(len(x), -1)
    return python2({b"batch_label": b"a batch", key: y.tolist(), b"data": rows, b"filenames": [b"x.png"] * len(x)})


def python_version(name: str, truth: Arrays) -> tuple[str, dict[str, bytes]]:
    """The folder's name and the files of CIFAR's Python version."""
    names = [text.encode() for text in truth.classes]
    if name == "cifar100":
        return "cifar-100-python", {
            "train": batch(truth.train_x, truth.train_y, b"fine_labels"),
            "test": batch(truth.test_x, truth.test_y, b"fine_labels"),
            "meta": python2({b"fine_label_names": names}),
        }
    files = {
        f"data_batch_{i + 1}": batch(truth.train_x[10 * i :][:10], truth.train_y[10 * i :][:10], b"labels")
        for i in range(5)
    }
    files["test_batch"] = batch(truth.test_x, truth.test_y, b"labels")
    return "cifar-10-batches-py", {**files, "batches.meta": python2({b"label_names": names})}


def laid_out(name: str, form: str, root: Path) -> Arrays:
    """A copy of a tiny data set in `root`, unpacked or packed; returns its truth."""
    files, truth = MAKERS[name]()
    if name.startswith("cifar"):
        folder, members = python_version(name, truth)
        if form == "packed":
            archive = "cifar-100-python.tar.gz" if name == "cifar100" else "cifar-10-python.tar.gz"
            put(root, {archive: tarred({f"{folder}/{file}": content for file, content in members.items()})})
        else:
            put(root / folder, members)
    elif form == "packed" or name in ("svhn", "fashion_mnist"):
        put(root, files)
    elif name == "tiny_imagenet":
        with zipfile.ZipFile(io.BytesIO(files["tiny-imagenet-200.zip"])) as archive:
            archive.extractall(root)
    else:
        with tarfile.open(fileobj=io.BytesIO(files["CINIC-10.tar.gz"])) as tar:
            tar.extractall(root / "CINIC-10", filter="data")
    return truth


@pytest.mark.parametrize("form", ["unpacked", "packed"])
@pytest.mark.parametrize("name", MAKERS)
def test_a_copy_is_used_instead_of_a_download(
    name: str, form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_cifar: Arrays
) -> None:
    published_here(monkeypatch, name)
    monkeypatch.setenv("SEVIT_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    inside = tmp_path / "data" if name in ("cifar10", "svhn") else tmp_path / "mine"  # ./data is looked into as well
    truth = laid_out(name, form, inside)
    if name == "cifar100":
        digests = {file: hashlib.md5(content).hexdigest() for file, content in python_version(name, truth)[1].items()}
        monkeypatch.setattr(on_disk, "CIFAR100", on_disk.CIFAR100)
        monkeypatch.setitem(on_disk.CIFAR100_MD5, "train", digests["train"])
        monkeypatch.setitem(on_disk.CIFAR100_MD5, "test", digests["test"])
    data = load(name, tmp_path / "mine")
    assert data.ref.name == name
    assert np.array_equal(data.arrays.train_y, truth.train_y)
    assert np.array_equal(data.arrays.test_y, truth.test_y)
    assert data.arrays.classes == truth.classes
    if name != "fashion_mnist":  # resized
        assert np.array_equal(data.arrays.train_x, truth.train_x)
        assert np.array_equal(data.arrays.test_x, truth.test_x)
    assert data.arrays.validation_from == truth.validation_from
    origin = data.provenance
    known = name not in ("tiny_imagenet", "cinic10") or form == "packed"  # by checksums of the files, or of the pixels
    assert origin.official == known
    assert (origin.like, origin.checked) == (("", True) if known else (name, False))
    if name.startswith("cifar") or not known:
        assert origin.version == f"sha256:{data.ref.content_hash}"
    again = load(name, tmp_path / "mine", say=pytest.fail)
    assert (again.ref, again.provenance, again.notes) == (data.ref, data.provenance, data.notes)


def test_a_copy_of_other_images_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_cifar: Arrays
) -> None:
    published_here(monkeypatch, "cifar10")
    monkeypatch.setenv("SEVIT_OFFLINE", "1")
    x = small_cifar.train_x.copy()
    x[0, 0, 0, 0] ^= 1
    changed = Arrays(x, small_cifar.train_y, small_cifar.test_x, small_cifar.test_y, small_cifar.classes)
    put(tmp_path / "cifar-10-batches-py", python_version("cifar10", changed)[1])
    said: list[str] = []
    with pytest.raises(UserError, match="could not be fetched"):
        load("cifar10", tmp_path, say=said.append)
    assert said[0].startswith(f"'{tmp_path / 'cifar-10-batches-py'}' is not used as cifar10: as many images")


def test_the_commands_name_the_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    published_here(monkeypatch, "tiny_imagenet")
    laid_out("tiny_imagenet", "unpacked", tmp_path)
    folder = tmp_path / "tiny-imagenet-200"
    assert main(["data", "list", "--data-dir", str(tmp_path)]) == 0
    assert f"here:{folder}" in "".join(capsys.readouterr().out.split()), "wrapped at the terminal's width"
    with pytest.raises(UserError, match=f"use --dataset tiny_imagenet --data-dir '{tmp_path}'"):
        load(f"folder:{folder}", tmp_path)


# --- pickles -------------------------------------------------------------------------------------------------------


def test_arrays_and_lists_come_out_as_they_went_in() -> None:
    rows = np.arange(12, dtype=np.uint8).reshape(3, 4)
    found = plain(python2({b"data": rows, b"labels": [0, 2, 1]}))
    assert np.array_equal(pixels(found["data"]), rows)
    assert labels(found["labels"], 3).tolist() == [0, 2, 1]
    by_columns = plain(python2({b"data": rows}).replace(b"\x89", b"\x88"))["data"]
    assert pixels(by_columns).ravel("F").tolist() == list(range(12))


class Evil:
    def __init__(self, function: Any, *args: Any) -> None:
        self.call = (function, args)

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("function", [os.system, eval, Path.touch, np.frombuffer, getattr, bytearray])
def test_a_pickle_that_calls_anything_is_refused_and_runs_nothing(protocol: int, function: Any, tmp_path: Path) -> None:
    content = pickle.dumps({"data": Evil(function, f"touch {tmp_path}/executed")}, protocol)
    with pytest.raises(WrongContent, match="which no file of CIFAR does"):
        plain(content)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not a pickle",
        pickle.dumps([1, 2]),
        python2({b"data": [1]})[:-5],
        b"\x80\x02]" + b"\x85" * 100_000 + b".",
        b"\x80\x02cnumpy\ndtype\n}U\x01xK\x01sb.",  # sets an attribute of the class
        b"\x80\x02\x8a\xff\xff",
        b"\x82\x01.",  # a registered extension
        b"Pid\n.",  # a persistent object
    ],
)
def test_a_damaged_or_hostile_pickle_is_a_sentence(content: bytes) -> None:
    with pytest.raises(WrongContent):
        plain(content)


def test_an_object_of_a_large_number_takes_no_room() -> None:
    """Python's own reader would make room for 2,147,483,648."""
    assert plain(b"\x80\x02}r\xff\xff\xff\x7f.") == {}


@pytest.mark.parametrize("value", [None, [1], b"x", 3])
def test_what_is_no_array_of_bytes_is_refused(value: Any) -> None:
    with pytest.raises(WrongContent, match="no array of bytes"):
        pixels(plain(python2({b"data": value}))["data"])
    wrong = python2({b"data": np.zeros((2, 3), np.uint8)})
    for other in (wrong.replace(b"u1", b"O8"), wrong.replace(b"J\x03\0\0\0t", b"J\x04\0\0\0t")):
        with pytest.raises(WrongContent, match="no array of bytes"):
            pixels(plain(other)["data"])


@pytest.mark.parametrize("value", [None, [True], [3], [-1], [b"0"]])
def test_labels_are_numbers_of_classes(value: Any) -> None:
    with pytest.raises(WrongContent, match="no list of numbers below 3"):
        labels(plain(python2({b"labels": value}))["labels"], 3)
