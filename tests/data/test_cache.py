"""Decoded copies: whole or not at all, checked at every opening, made once, never unpickled."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bench.data import cache
from bench.data.arrays import PARTS, Arrays, content_hash, hash_arrays
from bench.data.cache import Allocate, opened
from tests.conftest import ROOT

X = np.random.default_rng(0).integers(0, 256, (30, 8, 8, 3), np.uint8)
Y = np.arange(30) % 3
TRUTH = Arrays(X[:20], Y[:20], X[20:], Y[20:], ("a", "b", "ü"), ("a note",), 15)


def make(allocate: Allocate) -> Arrays:
    train, test = allocate("train_x", (20, 8, 8, 3)), allocate("test_x", (10, 8, 8, 3))
    train[:], test[:] = X[:20], X[20:]
    return Arrays(train, Y[:20], test, Y[20:], TRUTH.classes, TRUTH.notes, 15)


def cached(
    folder: Path, key: str, make: Callable[[Allocate], Arrays], say: Callable[[str], None]
) -> tuple[Arrays, str]:
    return cache.cached([folder], key, make, say, "these images")


def never(allocate: Allocate) -> Arrays:
    raise AssertionError("it is there already")


def assert_truth(found: tuple[Arrays, str]) -> None:
    arrays, content = found
    for part in PARTS:
        assert np.array_equal(getattr(arrays, part), getattr(TRUTH, part))
    assert (arrays.classes, arrays.notes, arrays.validation_from) == (TRUTH.classes, TRUTH.notes, 15)
    assert content == content_hash(TRUTH) == hash_arrays(X[:20], Y[:20], X[20:], Y[20:])


def test_the_second_time_it_is_mapped_and_not_made(tmp_path: Path) -> None:
    said: list[str] = []
    assert_truth(cached(tmp_path, "k", make, said.append))
    again = cached(tmp_path, "k", never, said.append)
    assert_truth(again)
    assert isinstance(again[0].train_x, np.memmap)
    assert not said
    assert sorted(p.name for p in (tmp_path / "k").iterdir()) == [
        "about.json", "test_x.npy", "test_y.npy", "train_x.npy", "train_y.npy",
    ]  # fmt: skip


def test_what_a_caller_writes_never_reaches_the_disk(tmp_path: Path) -> None:
    arrays, _ = cached(tmp_path, "k", make, print)
    arrays.train_x[:] = 0
    assert_truth(cached(tmp_path, "k", never, print))


def damage_byte(entry: Path) -> None:
    content = bytearray((entry / "train_x.npy").read_bytes())
    content[-5] ^= 1
    (entry / "train_x.npy").write_bytes(content)


def damage_length(entry: Path) -> None:
    content = (entry / "test_x.npy").read_bytes()
    (entry / "test_x.npy").write_bytes(content[:-100])


def damage_about(entry: Path) -> None:
    about = json.loads((entry / "about.json").read_text())
    about["about"]["classes"] = ["x", "y", "z"]
    (entry / "about.json").write_text(json.dumps(about))


def damage_json(entry: Path) -> None:
    (entry / "about.json").write_bytes(b'{"about": {')


def damage_missing(entry: Path) -> None:
    (entry / "train_y.npy").unlink()


def damage_pickle(entry: Path) -> None:
    """As if somebody had put objects where numbers were: they must not come to life."""

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[Path]]:
            return (Path.touch, (entry.parent / "executed",))

    with (entry / "train_y.npy").open("wb") as file:
        np.save(file, np.array([Evil()] * 20, dtype=object), allow_pickle=True)


DAMAGE = [damage_byte, damage_length, damage_about, damage_json, damage_missing, damage_pickle]


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_copy_is_noticed_and_made_again(damage: Callable[[Path], None], tmp_path: Path) -> None:
    cached(tmp_path, "k", make, print)
    damage(tmp_path / "k")
    with pytest.raises(ValueError, match=r"\w"):
        opened(tmp_path / "k")
    said: list[str] = []
    assert_truth(cached(tmp_path, "k", make, said.append))
    assert len(said) == 1
    assert "cannot be used" in said[0]
    assert "decoding again" in said[0]
    assert_truth(cached(tmp_path, "k", never, said.append))
    assert not (tmp_path / "executed").exists()


def test_a_failure_leaves_nothing_and_what_a_kill_left_is_cleared_away(tmp_path: Path) -> None:
    def fails(allocate: Allocate) -> Arrays:
        allocate("train_x", (20, 8, 8, 3))
        raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError):
        cached(tmp_path, "k", fails, print)
    assert not [p for p in tmp_path.iterdir() if p.is_dir()]
    leftover = tmp_path / ".tmp-123k"  # a process that was killed could not
    leftover.mkdir()
    assert_truth(cached(tmp_path, "k", make, print))
    assert not leftover.exists()


def test_another_key_is_another_copy(tmp_path: Path) -> None:
    cached(tmp_path, "k", make, print)
    with pytest.raises(AssertionError, match="it is there already"):
        cached(tmp_path, "k2", never, print)


UNKEEPABLE = pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])


def refusing(number: int, below: Path) -> Callable[[Path], None]:
    def refuse(path: Path) -> None:
        if below in path.parents:
            raise OSError(number, os.strerror(number), str(path))

    return refuse


@UNKEEPABLE
def test_where_one_folder_takes_nothing_the_next_does(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "reserve", refusing(number, tmp_path / "shared"))
    said: list[str] = []
    folders = [tmp_path / "shared", tmp_path / "mine"]
    assert_truth(cache.cached(folders, "k", make, said.append, "these images"))
    assert said == [f"these images: decoded images cannot be kept in {tmp_path / 'shared'} ({os.strerror(number)})"]
    assert_truth(cache.cached(folders, "k", never, said.append, "these images"))
    assert len(said) == 1, "the second time it is simply there"
    assert not (tmp_path / "shared" / "k").exists()


@UNKEEPABLE
def test_where_nothing_can_be_written_it_is_made_in_memory(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "reserve", refusing(number, tmp_path))
    said: list[str] = []
    assert_truth(cached(tmp_path, "k", make, said.append))
    assert "cannot be kept" in said[0]
    assert said[1] == "these images: decoded again at every start"
    assert not (tmp_path / "k").exists()


def test_a_full_disk_elsewhere_is_not_this_ones(tmp_path: Path) -> None:
    """What `make` meets, in a download say, is neither swallowed nor tried again."""
    tried: list[int] = []

    def fails(allocate: Allocate) -> Arrays:
        tried.append(1)
        raise OSError(errno.ENOSPC, "no space", "a.tar.gz.part")

    with pytest.raises(OSError, match=r"a\.tar\.gz\.part"):
        cached(tmp_path, "k", fails, pytest.fail)
    assert tried == [1]


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EIO, errno.EACCES])
def test_what_cannot_be_read_just_now_is_not_thrown_away(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its download may be gone: a copy is made again only where it is known to be damaged."""
    cached(tmp_path, "k", make, print)

    def refuse(path: Path, **more: object) -> None:
        raise OSError(number, os.strerror(number), str(path))

    with monkeypatch.context() as patched:
        patched.setattr(cache.np, "load", refuse)
        with pytest.raises(OSError, match=re.escape(os.strerror(number))):
            cached(tmp_path, "k", never, pytest.fail)
    assert_truth(cached(tmp_path, "k", never, pytest.fail))


def test_a_damaged_copy_stays_until_the_new_one_stands(tmp_path: Path) -> None:
    cached(tmp_path, "k", make, print)
    damage_byte(tmp_path / "k")

    def fails(allocate: Allocate) -> Arrays:
        raise RuntimeError("no network")

    with pytest.raises(RuntimeError):
        cached(tmp_path, "k", fails, print)
    assert (tmp_path / "k" / "test_x.npy").is_file(), "most of it may still be of use to somebody"


def test_space_is_reserved_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk below a mapped file kills the process that writes to it; so the space is taken first."""
    reserved: list[int] = []
    real = cache.reserve

    def watch(path: Path) -> None:
        real(path)
        reserved.append(path.stat().st_blocks * 512 - path.stat().st_size)

    monkeypatch.setattr(cache, "reserve", watch)
    cached(tmp_path, "k", make, print)
    assert len(reserved) == 2
    if hasattr(cache.os, "posix_fallocate"):
        assert min(reserved) >= 0, "a sparse file has fewer blocks than bytes"


ASK = """
import sys
from pathlib import Path
from tests.data.test_cache import assert_truth, cached, make
folder = Path(sys.argv[1])

def counted(allocate):
    with (folder / "made").open("a") as file:
        file.write("x")
    return make(allocate)

assert_truth(cached(folder, "k", counted, print))
"""


def test_processes_that_ask_at_once_make_it_once(tmp_path: Path) -> None:
    asked = [subprocess.Popen([sys.executable, "-c", ASK, str(tmp_path)], cwd=ROOT) for _ in range(3)]
    assert [process.wait(120) for process in asked] == [0, 0, 0]
    assert (tmp_path / "made").read_text() == "x"


def test_the_digest_is_that_of_the_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    import hashlib

    monkeypatch.setattr(cache, "CHUNK", 100)
    raw = X.tobytes()
    chunks = [hashlib.sha256(raw[i : i + 100]).digest() for i in range(0, len(raw), 100)]
    assert cache._digest(X) == hashlib.sha256(b"".join(chunks)).hexdigest()
