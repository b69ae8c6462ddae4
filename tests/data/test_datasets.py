"""From files to arrays: conversions, splits, hashes, and what is refused."""

from __future__ import annotations

import errno
import io
import os
import shutil
import threading
import time
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.core.errors import UserError
from bench.core.events import Event, Note, Report
from bench.data import datasets, own
from bench.data.arrays import Arrays, Identity, content_hash
from bench.data.catalogue import CATALOGUE
from bench.data.convert import convert
from bench.data.datasets import DataSource, load, split
from bench.data.fetch import fetch
from bench.data.identity import identify
from bench.data.own import check_arrays
from bench.executors.child import call
from tests.conftest import make_npz
from tests.tiny_archives import MAKERS, encoded, facts_of, published_here, put

HERE = Path()


def arrays(train: np.ndarray, test: np.ndarray | None = None) -> Arrays:
    test = train if test is None else test
    return Arrays(train, np.arange(len(train)) % 2, test, np.arange(len(test)) % 2, ("a", "b"))


def test_digits_are_fixed_and_stratified() -> None:
    data = load("digits", HERE)
    a = data.arrays
    assert a.train_x.shape == (1437, 32, 32, 3)
    assert a.test_x.shape == (360, 32, 32, 3)
    assert len(data.train_index) + len(data.val_index) == 1437
    assert not data.flip_keeps_labels
    whole = np.bincount(np.concatenate([a.train_y, a.test_y]))
    assert np.abs(np.bincount(a.test_y) - whole * 360 / 1797).max() <= 1, "stratified"
    again = load("digits", HERE)
    assert again.ref == data.ref
    from sklearn.datasets import load_digits

    assert sorted(np.concatenate([a.train_y, a.test_y])) == sorted(load_digits().target)


def test_split_is_stratified_disjoint_and_nested() -> None:
    labels = np.repeat([0, 1, 2], [100, 50, 7])
    train, val = split(labels)
    assert not set(train) & set(val)
    assert len(train) + len(val) == len(labels)
    assert np.bincount(labels[val]).tolist() == [10, 5, 1]
    smaller, same_val = split(labels, 0.5)
    smallest, _ = split(labels, 0.1)
    assert set(smallest) < set(smaller) < set(train)
    assert np.array_equal(val, same_val)
    assert np.bincount(labels[smaller]).tolist() == [45, 22, 3]


def test_the_only_image_of_a_class_is_trained_on() -> None:
    labels = np.repeat([0, 1, 2], [40, 40, 1])
    train, val = split(labels)
    assert np.bincount(labels[train]).tolist() == [36, 36, 1]
    assert np.bincount(labels[val]).tolist() == [4, 4]
    assert np.bincount(labels[split(labels, 0.01)[0]]).tolist() == [1, 1, 1]


def test_a_class_without_test_images_is_said(tmp_path: Path) -> None:
    x = np.zeros((40, 32, 32, 3), np.uint8)
    classes = np.array(["cat", "dog", "lynx"])
    np.savez(
        tmp_path / "x.npz", train_x=x, train_y=np.arange(40) % 3, test_x=x, test_y=np.arange(40) % 2, classes=classes
    )
    assert load(f"npz:{tmp_path / 'x.npz'}", tmp_path).notes == ("classes without test images: lynx",)


def test_npz_round_trip_and_hashes(tiny_npz: Path, tmp_path: Path) -> None:
    data = load(f"npz:{tiny_npz}", HERE)
    assert data.ref.name == "npz:tiny"
    assert data.ref.num_classes == 3
    assert data.arrays.classes == ("dark", "middle", "bright")
    raw = dict(np.load(tiny_npz))
    assert np.array_equal(data.arrays.train_x, raw["train_x"])
    raw["test_x"][0, 0, 0, 0] ^= 1
    changed = tmp_path / "tiny.npz"
    np.savez(changed, **raw)
    other = load(f"npz:{changed}", HERE)
    assert other.ref.content_hash != data.ref.content_hash, "one bit of one test image is another data set"
    assert other.ref.split_hash == data.ref.split_hash
    assert load(f"npz:{tiny_npz}", HERE, train_fraction=0.5).ref.split_hash != data.ref.split_hash


def refs_in_a_child(report: Report, *sources: DataSource) -> None:
    """What a run finds; nothing may be parsed again."""
    own.read_npz = datasets.from_digits = None  # type: ignore[assignment]
    for source in sources:
        data = source.load()
        assert isinstance(data.arrays.train_x, np.memmap)
        report(Note(repr((data.ref, data.notes, data.provenance, data.flip_keeps_labels))))


def test_a_child_maps_what_the_driver_has_decoded(tiny_npz: Path) -> None:
    sources = [DataSource("digits", None, None, 1.0), DataSource(f"npz:{tiny_npz}", None, 24, 0.5)]
    planned = [source.load() for source in sources]
    events: list[Event] = []
    assert call(refs_in_a_child, tuple(sources), events.append).status == "ok"
    assert events == [Note(repr((d.ref, d.notes, d.provenance, d.flip_keeps_labels))) for d in planned]
    assert planned[1].notes == ("16 px resized to 24 px (bilinear, antialiased)",)


def test_a_changed_npz_is_read_again_and_its_old_copy_removed(tmp_path: Path, own_cache: Path) -> None:
    path = make_npz(tmp_path / "x.npz")
    first = load(f"npz:{path}", HERE)
    make_npz(path, per_class=41)
    assert load(f"npz:{path}", HERE).ref.content_hash != first.ref.content_hash
    entries = [entry for entry in (own_cache / "npz").iterdir() if entry.is_dir()]
    assert len(entries) == 1
    month = time.time() - 31 * 86400
    os.utime(entries[0], (month, month))
    load(f"npz:{make_npz(tmp_path / 'y.npz')}", HERE)
    assert not entries[0].exists(), "nobody has used it for a month"


def test_where_no_copy_can_be_kept_the_files_are_read(tiny_npz: Path, own_cache: Path) -> None:
    kept = [load(name, HERE) for name in ("digits", f"npz:{tiny_npz}")]
    for folder in ("digits", "npz"):
        shutil.rmtree(own_cache / folder)
        (own_cache / folder).touch()
    texts: list[str] = []
    for name, before in zip(("digits", f"npz:{tiny_npz}"), kept, strict=True):
        data = load(name, HERE, say=texts.append)
        assert (data.ref, data.notes, data.provenance) == (before.ref, before.notes, before.provenance)
    assert [text.partition(": ")[2] for text in texts] == [
        f"decoded images cannot be kept in {own_cache / 'npz'} (File exists)",
        "decoded again at every start",
    ]


def test_gray_and_odd_sizes_are_converted_and_said() -> None:
    gray = np.full((4, 28, 28), 200, np.uint8)
    done = convert(arrays(gray), None)
    assert done.train_x.shape == (4, 32, 32, 3)
    assert (done.train_x == 200).all()
    assert any("gray" in n for n in done.notes)
    assert any("28 px resized to 32" in n for n in done.notes)
    wide = np.zeros((2, 32, 48, 3), np.uint8)
    wide[:, :, 8:40] = 255
    assert (convert(arrays(wide), None).train_x == 255).all(), "the central square is kept"
    mixed = convert(arrays(np.zeros((2, 64, 64, 3), np.uint8), np.zeros((2, 32, 32, 3), np.uint8)), None)
    assert mixed.test_x.shape == mixed.train_x.shape == (2, 64, 64, 3), "one size for both parts"
    untouched = np.zeros((2, 64, 64, 3), np.uint8)
    assert convert(arrays(untouched), None).notes == ()
    assert convert(arrays(untouched), 16).train_x.shape == (2, 16, 16, 3)


def folder_of(root: Path, sizes: tuple[tuple[int, int], ...] = ((20, 30), (24, 30)), count: int = 12) -> Path:
    for part, number in (("train", count), ("val", 2)):
        for label, mode in (("cat", "RGB"), ("dög", "L"), ("zebra", "P")):
            folder = root / part / label
            folder.mkdir(parents=True)
            for i in range(number):
                Image.new(mode, sizes[i % len(sizes)], 10 * i).save(folder / f"{i}.png")
    return root


def test_folder_reads_images_of_every_kind(tmp_path: Path) -> None:
    photos = folder_of(tmp_path / "photos")
    (photos / "train" / ".ipynb_checkpoints").mkdir()  # neither a class
    (photos / "train" / "cat" / "notes.txt").write_text("no image")  # nor an image
    data = load(f"folder:{photos}", tmp_path / "data")
    assert data.ref.name == "folder:photos"
    assert data.arrays.classes == ("cat", "dög", "zebra")
    assert data.arrays.train_x.shape == (36, 32, 32, 3)
    assert len(data.arrays.test_y) == 6
    assert data.notes == (
        "left out 1 entry that is no image (.png, .jpg, .jpeg, .webp, .bmp, .ppm, .tif, .tiff)",
        "14 gray, 14 with a palette: converted to RGB",
        "image files of 20 to 30 px cropped to the middle square, resized to 32 px (bilinear, antialiased)",
    )
    assert not data.provenance.official
    (photos / "train" / "cat" / "0.png").write_bytes(b"<html>not found</html>")
    with pytest.raises(UserError, match=r"0\.png' cannot be read.*replace or remove such files"):
        load(f"folder:{photos}", tmp_path / "data")


def test_what_a_folder_has_beside_images_is_said_and_not_waited_for(tmp_path: Path) -> None:
    photos = folder_of(tmp_path / "photos", ((32, 32),))
    cats = photos / "train" / "cat"
    os.mkfifo(cats / "pipe.png")  # to open it would wait for ever
    (cats / "gone.png").symlink_to(tmp_path / "nowhere")
    (cats / "folder.png").mkdir()
    (photos / "test").mkdir()
    (photos / "val" / "cat").rename(photos / "test" / "cat")
    data = load(f"folder:{photos}", tmp_path / "data")
    assert data.notes[0] == "classes without test images: dög, zebra"
    assert data.notes[1].startswith("left out 3 entries that are no images")
    assert data.notes[2].startswith("val/ is not used")


def test_a_class_without_training_images_is_refused_in_a_folder_and_said_of_arrays(tmp_path: Path) -> None:
    photos = folder_of(tmp_path / "photos")
    (photos / "train" / "bird").mkdir()
    with pytest.raises(UserError, match="classes without images: bird"):
        load(f"folder:{photos}", tmp_path / "data")
    x = np.zeros((40, 32, 32, 3), np.uint8)
    np.savez(tmp_path / "x.npz", train_x=x, train_y=np.arange(40) % 2, test_x=x, test_y=np.arange(40) % 4)
    assert load(f"npz:{tmp_path / 'x.npz'}", tmp_path).notes == ("classes without training images: 2, 3",)


def test_names_of_classes_and_folders_may_be_anything(tmp_path: Path) -> None:
    photos = folder_of(tmp_path / "v.1")
    for part in ("train", "val"):
        os.rename(photos / part / "cat", os.fsencode(photos / part) + b"/c\xe4t")  # Latin-1, no UTF-8
    data = load(f"folder:{photos}", tmp_path / "data")
    assert "c\ufffdt" in data.arrays.classes
    assert data.ref.name == "folder:v.1"


def test_names_from_a_mac_are_the_same_names(tmp_path: Path) -> None:
    photos = folder_of(tmp_path / "photos")
    (photos / "train" / "cat").rename(photos / "train" / "caf\u00e9")
    (photos / "val" / "cat").rename(photos / "val" / "cafe\u0301")
    data = load(f"folder:{photos}", tmp_path / "data")
    assert data.arrays.classes == ("caf\u00e9", "d\u00f6g", "zebra")
    assert np.bincount(data.arrays.test_y).tolist() == [2, 2, 2]
    shutil.copytree(photos / "train" / "caf\u00e9", photos / "train" / "cafe\u0301")
    with pytest.raises(UserError, match="differ only in how accents are stored; merge them"):
        load(f"folder:{photos}", tmp_path / "data")


def test_class_names_of_arrays_can_be_written_down(tmp_path: Path) -> None:
    x, y = np.zeros((40, 32, 32, 3), np.uint8), np.arange(40) % 2
    np.savez(tmp_path / "x.npz", train_x=x, train_y=y, test_x=x, test_y=y, classes=np.array(["a", "b\ud800"]))
    assert load(f"npz:{tmp_path / 'x.npz'}", tmp_path).arrays.classes == ("a", "b\ufffd")


def test_a_folder_of_another_layout_is_told_what_it_has(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"needs train/CLASS/\* and test/CLASS/\*.*; it has nothing$"):
        load(f"folder:{tmp_path}", tmp_path / "data")
    for name in ("Train", "validation", ".git"):
        (tmp_path / name).mkdir()
    with pytest.raises(UserError, match=r"; it has Train, validation$"):
        load(f"folder:{tmp_path}", tmp_path / "data")


def test_twelve_bit_images_of_a_folder_are_scaled_alike(tmp_path: Path) -> None:
    photos = folder_of(tmp_path / "photos", ((32, 32),))
    for number, path in enumerate(sorted(photos.glob("*/*/*.png"))):
        Image.fromarray(np.full((32, 32), 4095 - 80 * number, np.uint16)).save(path)
    data = load(f"folder:{photos}", tmp_path / "data")
    assert "16-bit images hold values below 4,096 only: scaled as 12-bit ones" in data.notes
    both = [*data.arrays.train_x[:, 0, 0, 0], *data.arrays.test_x[:, 0, 0, 0]]
    assert sorted(both, reverse=True) == [(4095 - 80 * number) >> 4 for number in range(42)]


def test_a_folder_keeps_its_own_size_where_the_models_take_it(tmp_path: Path) -> None:
    photos = folder_of(tmp_path / "photos", ((64, 64),))
    assert load(f"folder:{photos}", tmp_path / "data").ref.image_size == 64
    assert load(f"folder:{photos}", tmp_path / "data", 40).ref.image_size == 40


def test_a_folder_unpacked_over_with_the_same_sizes_and_times_is_another(tmp_path: Path) -> None:
    photos = folder_of(tmp_path / "photos", ((32, 32),))
    first = load(f"folder:{photos}", tmp_path / "data")
    for number in range(12):
        cat, zebra = (photos / "train" / name / f"{number}.ppm" for name in ("cat", "zebra"))
        for path, value in ((cat, 1), (zebra, 2)):
            path.with_suffix(".png").unlink()
            Image.new("RGB", (32, 32), value).save(path)
            os.utime(path, (1, 1))
    before = load(f"folder:{photos}", tmp_path / "data")
    for number in range(12):  # as a second release, packed with equal times and sizes
        cat, zebra = (photos / "train" / name / f"{number}.ppm" for name in ("cat", "zebra"))
        contents = [cat.read_bytes(), zebra.read_bytes()]
        for path, content in zip((zebra, cat), contents, strict=True):
            path.write_bytes(content)
            os.utime(path, (1, 1))
    after = load(f"folder:{photos}", tmp_path / "data")
    assert len({data.ref.content_hash for data in (first, before, after)}) == 3


def test_a_folder_is_decoded_once_until_a_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos = folder_of(tmp_path / "photos")
    first = load(f"folder:{photos}", tmp_path / "data")
    with monkeypatch.context() as patched:
        patched.setattr("bench.data.own.decode_images", lambda *_, **__: pytest.fail("it was decoded already"))
        again = load(f"folder:{photos}", tmp_path / "data")
    assert again.ref == first.ref
    Image.new("RGB", (20, 30), 255).save(photos / "train" / "cat" / "0.png")
    assert load(f"folder:{photos}", tmp_path / "data").ref.content_hash != first.ref.content_hash
    kept = [path for path in (tmp_path / "data" / "folders").iterdir() if path.is_dir()]
    assert len(kept) == 1, "nobody will ask for the copy of before the change"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"train_x": np.zeros((4, 8, 8, 3), np.float32)}, "train_x must be uint8"),
        ({"train_x": np.zeros((4, 8, 8, 4), np.uint8)}, "train_x must be uint8"),
        ({"train_x": np.zeros((4, 0, 0, 3), np.uint8)}, "train_x must be uint8"),
        ({"test_x": np.zeros((4, 8), np.uint8)}, "test_x must be uint8"),
        ({"train_y": np.zeros(4)}, "train_y must be"),
        ({"train_y": np.zeros(3, int)}, "4 images and train_y 3 labels"),
        ({"test_y": np.array([0, 1, 2, -1])}, "labels must lie in"),
        ({"classes": np.array(["one"])}, "labels must lie in 0..0"),
        ({"train_y": np.ones(4, int)}, "at least two classes"),
        ({"train_y": np.array([0, 1, 0, 10**12])}, "at most 100,000 classes"),
        ({"classes": np.array("one")}, "names, if any"),
    ],
)
def test_arrays_that_are_no_data_set(change: dict[str, np.ndarray], says: str) -> None:
    raw = {f"{p}_x": np.zeros((4, 8, 8, 3), np.uint8) for p in ("train", "test")}
    raw |= {f"{p}_y": np.array([0, 1, 0, 1]) for p in ("train", "test")}
    with pytest.raises(UserError, match=says):
        check_arrays({**raw, **change}, "x.npz")


def test_files_that_are_no_npz(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    with pytest.raises(UserError, match="no file"):
        load(f"npz:{path}", HERE)
    path.write_bytes(b"PK\x03\x04 truncated")
    with pytest.raises(UserError, match="not a readable"):
        load(f"npz:{path}", HERE)
    path.write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match=r"plain arrays: its content is of another kind$"):  # not "load it unsafely"
        load(f"npz:{path}", HERE)
    os.mkfifo(tmp_path / "pipe")
    for other in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(UserError, match="a folder, a device or a pipe"):
            load(f"npz:{other}", HERE)
    np.save(tmp_path / "x.npy", np.zeros(3))
    with pytest.raises(UserError, match="holds a single array"):
        load(f"npz:{tmp_path / 'x.npy'}", HERE)
    np.savez(path, train_x=np.zeros(1))
    with pytest.raises(UserError, match="has no train_y, test_x, test_y"):
        load(f"npz:{path}", HERE)


@pytest.mark.parametrize("member", ["classes", "train_x.npy"])
def test_a_member_that_is_no_array_is_named(member: str, tiny_npz: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tiny_npz) as good, zipfile.ZipFile(tmp_path / "x.npz", "w") as bad:
        for name in {*good.namelist()} - {member, f"{member}.npy"}:
            bad.writestr(name, good.read(name))
        bad.writestr(member, b"some text")
    with pytest.raises(UserError, match=f"not a readable .npz file.*'{member.removesuffix('.npy')}' is no array"):
        load(f"npz:{tmp_path / 'x.npz'}", tmp_path)


def test_an_npz_that_unpacks_to_a_thousand_times_its_size_is_refused(tmp_path: Path) -> None:
    x, y = np.zeros((3_000, 64, 64, 3), np.uint8), np.arange(3_000) % 2
    np.savez_compressed(tmp_path / "x.npz", train_x=x, train_y=y, test_x=x[:2], test_y=y[:2])
    with pytest.raises(UserError, match=r"'train_x\.npy' would unpack to 36,864,128 bytes"):
        load(f"npz:{tmp_path / 'x.npz'}", tmp_path)


def test_a_pickle_in_an_npz_is_not_opened(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (tmp_path / "executed",))  # type: ignore[return-value]

    path = tmp_path / "evil.npz"
    np.savez(path, train_x=np.array([Evil()], dtype=object), train_y=[0], test_x=[0], test_y=[0])
    with pytest.raises(UserError, match="not a readable"):
        load(f"npz:{path}", HERE)
    assert not (tmp_path / "executed").exists()


def test_without_a_network_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files, _ = published_here(monkeypatch, "cifar10", "http://127.0.0.1:9")  # nobody listens there
    (file,) = files
    with pytest.raises(UserError) as caught:
        load("cifar10", tmp_path / "data")
    text = str(caught.value)
    assert "127.0.0.1:9" in text
    assert str(tmp_path / "data" / "cifar10" / file) in text
    assert "--data-dir or SEVIT_DATA" in text
    assert "\n" not in text


def test_a_read_only_data_dir_is_decoded_into_the_users_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files, truth = published_here(monkeypatch, "cifar10")
    put(tmp_path / "shared" / "cifar10", files)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "mine"))

    def refuse(path: Path) -> None:
        if tmp_path / "shared" in path.parents:
            raise OSError(errno.EROFS, "Read-only file system", str(path))

    monkeypatch.setattr("bench.data.cache.reserve", refuse)
    said: list[str] = []
    data = load("cifar10", tmp_path / "shared", say=said.append)
    assert np.array_equal(data.arrays.train_x, truth.train_x)
    assert len(said) == 1
    assert load("cifar10", tmp_path / "shared", say=pytest.fail).ref == data.ref, "a child of a sweep finds it there"


def test_a_data_dir_that_is_a_file_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("")
    with pytest.raises(UserError, match="is not a folder"):
        load("cifar10", tmp_path / "x")


def test_unknown_names_get_a_suggestion() -> None:
    with pytest.raises(UserError, match="did you mean 'cifar10'"):
        load("cifar", HERE)
    with pytest.raises(UserError, match="Choices: digits"):
        load("imagenet", HERE)


# --- the published ones --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MAKERS)
def test_every_published_name_loads_at_its_own_size(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files, truth = published_here(monkeypatch, name)
    put(tmp_path / name, files)
    data = load(name, tmp_path)
    expected = convert(truth, None)
    assert np.array_equal(data.arrays.train_x, expected.train_x)
    assert np.array_equal(data.arrays.test_x, expected.test_x)
    assert data.ref.image_size == {"tiny_imagenet": 64}.get(name, 32)
    assert data.ref.num_classes == len(truth.classes)
    assert data.ref.name == name
    assert data.notes == expected.notes
    assert data.flip_keeps_labels == (name != "svhn")
    assert data.provenance.official
    assert data.provenance.source == "http://127.0.0.1:9/" + CATALOGUE[name].files[0].name
    assert all(file.checksum in data.provenance.version for file in CATALOGUE[name].files)
    everything = np.sort(np.concatenate([data.train_index, data.val_index]))
    assert np.array_equal(everything, np.arange(len(truth.train_y)))


class Served:
    """A local server of files under their names; `cut` of them break off in the middle the first time."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.cut: set[str] = set()
        self.asked: list[tuple[str, str | None]] = []
        served = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                name, wanted = self.path.rpartition("/")[2], self.headers.get("Range")
                served.asked.append((name, wanted))
                content, first = served.files[name], int(wanted[6:-1]) if wanted else 0
                self.send_response(206 if wanted else 200)
                self.send_header("Content-Length", str(len(content) - first))
                if wanted:
                    self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
                self.end_headers()
                whole = name not in served.cut
                served.cut.discard(name)
                self.wfile.write(content[first:] if whole else content[: len(content) // 2])

            def log_message(self, *words: object) -> None:
                """Not to the terminal."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "SEVIT_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    served = Served()
    yield served
    served.server.shutdown()
    served.server.server_close()


@pytest.mark.parametrize("name", MAKERS)
def test_from_nothing_but_a_network_connection(
    name: str, served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fetched over a connection that breaks off in the middle of each file, decoded, held against the truth."""
    served.files, truth = published_here(monkeypatch, name, served.address)
    served.cut = set(served.files)
    monkeypatch.setitem(fetch.__kwdefaults__, "sleep", lambda seconds: None)
    seen: set[str] = set()
    data = load(name, tmp_path / "data", progress=lambda what, done, of: seen.add(what))
    assert np.array_equal(data.arrays.train_x, convert(truth, None).train_x)
    assert np.array_equal(data.arrays.test_y, truth.test_y)
    assert seen >= set(served.files)
    for file, content in served.files.items():
        asked = [wanted for path, wanted in served.asked if path == file]
        assert asked == [None, f"bytes={len(content) // 2}-"], "the rest, and only once"


def test_the_second_load_needs_neither_download_nor_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files, _ = published_here(monkeypatch, "tiny_imagenet")
    put(tmp_path / "tiny_imagenet", files)
    first, small = load("tiny_imagenet", tmp_path), load("tiny_imagenet", tmp_path, 32)
    assert small.ref.image_size == 32
    assert any("64 px resized to 32 px (bilinear, antialiased)" in note for note in small.notes)
    for file in files:
        (tmp_path / "tiny_imagenet" / file).unlink()
    monkeypatch.setattr(datasets, "fetch", lambda *_: pytest.fail("everything is decoded already"))
    assert load("tiny_imagenet", tmp_path).ref == first.ref
    assert load("tiny_imagenet", tmp_path, 32).ref == small.ref
    for kept in (tmp_path / "tiny_imagenet" / "decoded").glob("*/train_x.npy"):
        kept.write_bytes(kept.read_bytes()[:-1])
    with pytest.raises(BaseException, match="decoded already"):  # damaged: it wants the download again
        load("tiny_imagenet", tmp_path)


def test_cinic10_keeps_its_three_parts_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files, truth = published_here(monkeypatch, "cinic10")
    put(tmp_path / "cinic10", files)
    data = load("cinic10", tmp_path)
    assert data.train_index.tolist() == list(range(20)), "its training part, all of it"
    assert data.val_index.tolist() == list(range(20, 40)), "its validation part, all of it"
    half = load("cinic10", tmp_path, train_fraction=0.5)
    assert set(half.train_index) < set(range(20))
    assert np.bincount(truth.train_y[half.train_index]).tolist() == [1] * 10
    assert np.array_equal(half.val_index, data.val_index)
    whole = load("cinic10:train+valid", tmp_path)
    assert whole.ref.name == "cinic10:train+valid"
    assert len(whole.train_index) + len(whole.val_index) == 40
    assert whole.train_index.max() > 20 > whole.val_index.min(), "drawn from both"
    assert whole.ref.content_hash == data.ref.content_hash
    assert whole.ref.split_hash != data.ref.split_hash
    assert len(whole.arrays.test_y) == 20


# --- who are these? ------------------------------------------------------------------------------------------------


def test_cifar10_is_known_by_its_content(small_cifar: Arrays) -> None:
    assert identify(small_cifar) == Identity("cifar10", True)
    copy = replace(small_cifar, test_x=small_cifar.test_x ^ 1)
    assert identify(copy) == Identity("cifar10", False, notes=("a known copy",))
    other = identify(replace(small_cifar, test_x=small_cifar.test_x ^ 2))
    assert other == Identity("cifar10", False, notes=("the test images are not the official ones",))


def test_a_jpeg_copy_is_not_called_cifar10(small_cifar: Arrays, tmp_path: Path) -> None:
    through_jpeg = np.stack(
        [np.asarray(Image.open(io.BytesIO(encoded(image, "JPEG"))).convert("RGB")) for image in small_cifar.train_x]
    )
    assert np.abs(through_jpeg.astype(int) - small_cifar.train_x).mean() < 12, "nobody would see it"
    path = tmp_path / "cifar10.npz"
    rest = {"train_y": small_cifar.train_y, "test_x": small_cifar.test_x, "test_y": small_cifar.test_y}
    np.savez(path, train_x=through_jpeg, **rest)
    data = load(f"npz:{path}", tmp_path)
    assert data.ref.name == "npz:cifar10"
    assert (data.provenance.like, data.provenance.checked, data.provenance.official) == ("cifar10", True, False)
    assert "not its official content" in data.notes[0]
    assert "2 to 3 points" in data.notes[0]
    for _ in range(2):  # decoded, then mapped
        assert load(f"npz:{path}", tmp_path, 64).provenance.like == "cifar10", "it shows before anything is resized"


def write_pngs(root: Path, arrays: Arrays) -> Path:
    for part, x, y in (("train", arrays.train_x, arrays.train_y), ("test", arrays.test_x, arrays.test_y)):
        for i, (image, label) in enumerate(zip(x, y, strict=True)):
            folder = root / part / arrays.classes[label]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(folder / f"{i}.png")
    return root


def test_lossless_files_in_another_order_are_not_verified_whole(small_cifar: Arrays, tmp_path: Path) -> None:
    pngs = write_pngs(tmp_path / "pngs", small_cifar)
    for size in (None, 64):
        data = load(f"folder:{pngs}", tmp_path / "data", size)
        assert data.ref.name == "folder:pngs"
        words = "cifar10's own training images, in another order; the test images are not verified"
        assert data.notes[0] == words
        assert (data.provenance.like, data.provenance.checked) == ("cifar10", False)


def test_other_test_labels_are_not_called_another_order(small_cifar: Arrays) -> None:
    found = identify(replace(small_cifar, test_y=small_cifar.test_y[::-1].copy()))
    assert found == Identity(like="cifar10", notes=("cifar10's training images, with other test images or labels",))


def test_numbers_alone_accuse_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """These are the stand-in's own arrays, and nothing is pinned that could say so."""
    _, truth = MAKERS["svhn"]()
    monkeypatch.setitem(CATALOGUE, "svhn", replace(CATALOGUE["svhn"], facts=facts_of(truth)))
    found = identify(truth)
    assert (found.like, found.checked) == ("svhn", False)
    assert "not verified to be the official ones" in found.notes[0]
    fewer = replace(truth, train_x=truth.train_x[1:], train_y=truth.train_y[1:])
    assert identify(fewer) == Identity()


def test_a_pinned_content_tells_the_one_from_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """KMNIST has the numbers of Fashion-MNIST."""
    _, truth = MAKERS["fashion_mnist"]()
    facts = replace(facts_of(truth), content=content_hash(truth))
    monkeypatch.setitem(CATALOGUE, "fashion_mnist", replace(CATALOGUE["fashion_mnist"], facts=facts))
    assert identify(truth) == Identity("fashion_mnist", True)
    other = identify(replace(truth, test_x=truth.test_x[::-1].copy()))
    assert (other.name, other.like, other.checked) == (None, "fashion_mnist", True)
    assert "but different images" in other.notes[0]


REAL = Path(os.environ.get("SEVIT_TEST_CIFAR10", "no file"))  # CIFAR-10's arrays as an .npz file


@pytest.mark.skipif(not REAL.is_file(), reason="SEVIT_TEST_CIFAR10 names no file")
def test_the_real_cifar10_is_known_by_its_content() -> None:
    """50,000 training images bit for bit; 20 of the 10,000 test images of this copy went through JPEG."""
    with np.load(REAL, allow_pickle=False) as raw:
        arrays = check_arrays(dict(raw), "cifar10.npz")
    found = identify(arrays)
    assert found.name == "cifar10"
    assert not found.official
    assert "20 of the 10,000 test images" in found.notes[0]
    order = np.random.default_rng(0).permutation(50_000)
    shuffled = replace(arrays, train_x=arrays.train_x[order], train_y=arrays.train_y[order])
    assert "in another order" in identify(shuffled).notes[0]
