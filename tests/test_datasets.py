"""From files to arrays: conversions, splits, hashes, and what is refused."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.data import datasets
from bench.data.datasets import Arrays, Known, check_arrays, convert, load, split
from bench.errors import UserError
from models.torchvision_import import ensure_torchvision

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


def test_folder_reads_images_of_every_kind(tmp_path: Path) -> None:
    for part, count in (("train", 12), ("val", 2)):
        for label, mode in (("cat", "RGB"), ("dög", "L"), ("zebra", "P")):
            folder = tmp_path / part / label
            folder.mkdir(parents=True)
            for i in range(count):
                Image.new(mode, (20 + i, 30), 100).save(folder / f"{i}.png")
    data = load(f"folder:{tmp_path}", HERE)
    assert data.arrays.classes == ("cat", "dög", "zebra")
    assert data.arrays.train_x.shape == (36, 32, 32, 3)
    assert len(data.arrays.test_y) == 6
    (tmp_path / "train" / "cat" / "0.png").write_bytes(b"<html>not found</html>")
    with pytest.raises(UserError, match=r"0\.png' cannot be read"):
        load(f"folder:{tmp_path}", HERE)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"train_x": np.zeros((4, 8, 8, 3), np.float32)}, "train_x must be uint8"),
        ({"train_x": np.zeros((4, 8, 8, 4), np.uint8)}, "train_x must be uint8"),
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
    with pytest.raises(UserError, match="no readable"):
        load(f"npz:{path}", HERE)
    np.save(tmp_path / "x.npy", np.zeros(3))
    with pytest.raises(UserError, match="holds a single array"):
        load(f"npz:{tmp_path / 'x.npy'}", HERE)
    np.savez(path, train_x=np.zeros(1))
    with pytest.raises(UserError, match="has no train_y, test_x, test_y"):
        load(f"npz:{path}", HERE)


def test_a_pickle_in_an_npz_is_not_opened(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (tmp_path / "executed",))  # type: ignore[return-value]

    path = tmp_path / "evil.npz"
    np.savez(path, train_x=np.array([Evil()], dtype=object), train_y=[0], test_x=[0], test_y=[0])
    with pytest.raises(UserError, match="no readable"):
        load(f"npz:{path}", HERE)
    assert not (tmp_path / "executed").exists()


def test_known_arrays_are_called_by_their_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in for CIFAR-10 of the same number of images: the real one is not in the project."""
    train = np.zeros((50_000, 8, 8, 3), np.uint8)
    test = np.ones((20, 8, 8, 3), np.uint8)
    made = arrays(train, test)

    def sha(a: np.ndarray) -> str:
        return hashlib.sha256(a.tobytes()).hexdigest()

    known = Known(
        sha(train), sha(made.train_y.astype(np.uint8)), sha(made.test_y.astype(np.uint8)), {sha(test): "20 restored"}
    )
    monkeypatch.setitem(datasets.KNOWN, "cifar10", known)
    assert datasets.identify(made) == ("cifar10", ("20 restored",))
    assert datasets.identify(arrays(train[:100])) == (None, ())
    relabelled = Arrays(train, 1 - made.train_y, test, made.test_y, ("a", "b"))
    assert datasets.identify(relabelled)[0] is None


def test_without_a_network_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ensure_torchvision()
    from torchvision.datasets import CIFAR10

    monkeypatch.setattr(CIFAR10, "url", "http://127.0.0.1:9/cifar-10-python.tar.gz")  # nobody listens there
    with pytest.raises(UserError) as caught:
        load("cifar10", tmp_path / "data")
    text = str(caught.value)
    assert "127.0.0.1:9" in text
    assert str(tmp_path / "data") in text
    assert "--dataset digits needs none" in text


def test_unknown_names_get_a_suggestion() -> None:
    with pytest.raises(UserError, match="did you mean 'cifar10'"):
        load("cifar", HERE)
    with pytest.raises(UserError, match="Choices: digits"):
        load("imagenet", HERE)
