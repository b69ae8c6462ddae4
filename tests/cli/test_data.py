"""`run_bench.py data`, and what records and tables say of where images came from."""

from __future__ import annotations

import html
import json
import struct
import subprocess
import threading
from collections.abc import Callable
from dataclasses import asdict, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from bench.analysis.compare import pairs
from bench.analysis.tables import compare
from bench.analysis.verdicts_csv import to_rows
from bench.cli.main import main
from bench.data.cache import cached, remember
from bench.data.convert import convert
from bench.data.datasets import decoded_key
from bench.data.provenance import CINIC_OVERLAP
from bench.plan.spec import Provenance
from bench.present.pair_table import render as render_pairs
from bench.present.table_formats import FORMATS, render
from bench.store.disk import Store
from bench.store.records import Damaged, decode, encode, finished
from tests.data.test_decode import DEBIAN
from tests.synthetic import DATA, record, sealed, spec, write_predicted
from tests.tiny_archives import MAKERS, published_here, put

Captured = pytest.CaptureFixture[str]


def output(capsys: Captured, *words: str | Path) -> tuple[int, str]:
    code = main(["data", *map(str, words)])
    out = capsys.readouterr()
    return code, out.out + out.err


@pytest.fixture
def cifar(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A data directory with a tiny CIFAR-10 in it, fetched by hand."""
    files, _ = published_here(monkeypatch, "cifar10")
    put(tmp_path / "cifar10", files)
    return tmp_path


def test_list_says_what_is_here(cifar: Path, capsys: Captured) -> None:
    code, text = output(capsys, "list", "--data-dir", cifar)
    assert code == 0
    for name in ("digits", *MAKERS):
        assert f"\n{name} " in text
    assert text.count("fetched, not yet decoded") == 1
    assert "248 MB to fetch" in text
    output(capsys, "fetch", "cifar10", "--data-dir", cifar)
    assert output(capsys, "list", "--data-dir", cifar)[1].count("here, decoded") == 1


def test_fetch_decodes_and_says_what_it_is(cifar: Path, capsys: Captured) -> None:
    code, text = output(capsys, "fetch", "cifar10", "--data-dir", cifar)
    assert code == 0
    assert "40 training, 10 validation, 10 test images of 32 px, 10 classes" in text
    assert "the official content" in text


def test_digits_need_no_fetching(tmp_path: Path, capsys: Captured) -> None:
    for action in ("fetch", "verify"):
        code, text = output(capsys, action, "digits", "--data-dir", tmp_path)
        assert (code, text) == (0, "digits: part of an installed package, nothing to fetch\n")


def test_verify_finds_every_kind_of_damage(cifar: Path, capsys: Captured) -> None:
    assert output(capsys, "verify", "cifar10", "--data-dir", cifar)[0] == 0
    output(capsys, "fetch", "cifar10", "--data-dir", cifar)
    code, text = output(capsys, "verify", "--data-dir", cifar)
    assert code == 0
    assert "cifar10: complete: 1 of 1 file, 1 decoded copy" in text
    assert "svhn: not here" in text
    (cifar / "svhn").mkdir()
    (cifar / "svhn" / "train_32x32.mat").write_bytes(b"one of two files, and not the right one")
    (cifar / "cifar10" / "decoded" / ".tmp-being-made").mkdir()
    code, text = output(capsys, "verify", "--data-dir", cifar)
    assert code == 1
    assert "svhn: incomplete: 1 of 2 files, 0 decoded copies; run_bench.py data fetch svhn" in text
    assert "cifar10: complete" in text
    (cifar / "svhn" / "train_32x32.mat").unlink()
    assert output(capsys, "verify", "svhn", "--data-dir", cifar)[0] == 1, "asked for by name, it should be here"
    (decoded,) = (cifar / "cifar10" / "decoded").glob("*/train_x.npy")
    content = bytearray(decoded.read_bytes())
    content[-1] ^= 1
    decoded.write_bytes(content)
    archive = cifar / "cifar10" / "cifar-10-binary.tar.gz"
    archive.write_bytes(archive.read_bytes()[:-1])
    code, text = output(capsys, "verify", "cifar10", "--data-dir", cifar)
    assert code == 1
    assert "train_x.npy is damaged" in text
    assert str(archive) in text


def test_show_has_numbers_balance_and_a_sheet(cifar: Path, capsys: Captured, tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.png"
    code, text = output(capsys, "show", "cifar10", "--data-dir", cifar, "--out", sheet)
    assert code == 0
    assert "all classes have equally many training images" in text
    assert f"wrote {sheet}" in text
    with Image.open(sheet) as image:
        assert image.width > 1000
    made: dict[str, Any] = {
        "train_x": np.zeros((90, 16, 16, 3), np.uint8),
        "train_y": np.repeat(np.arange(30), 3),
        "test_x": np.zeros((30, 16, 16, 3), np.uint8),
        "test_y": np.arange(30),
        "classes": np.array(["<b>\x1b[31m$\\frac{x", *(f"class {i}" for i in range(29))]),
    }
    made["train_y"][-2:] = 0
    assert made["train_y"].tolist().count(29) == 1
    np.savez(tmp_path / "odd name.npz", **made)
    code, text = output(capsys, "show", f"npz:{tmp_path / 'odd name.npz'}", "--out", sheet)
    assert code == 0
    assert "… 10 more" in text, "thirty classes are shown in short"
    assert "largest to smallest class: 5.00" in text
    assert "\x1b" not in text


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["fetch"], "data fetch needs names"),
        (["fetch", "cifar"], "did you mean 'cifar10'"),
        (["verify", "npz:x"], "unknown dataset 'npz:x'"),
        (["show"], "data show needs one name"),
        (["show", "digits", "svhn"], "data show needs one name"),
        (["show", "tiny-imagenet"], "did you mean 'tiny_imagenet'"),
        (["show", "digits", "--image-size", "4"], "must be between 8 and 1024"),
        (["show", "digits", "--seed", "-1"], "--seed must be at least 0"),
        (["show", "digits", "--out", "x.foo"], "must name a file that ends in .png"),
        (["show", "digits", "--out", "."], "must name a file that ends in .png"),
        (["list", "digits"], "data list takes no names"),
        (["show", "npz:~/none.npz"], f"no file '{Path.home()}/none.npz'"),
        (["throw"], "invalid choice: 'throw'"),
    ],
)
def test_bad_words_get_a_sentence(words: list[str], sentence: str, capsys: Captured) -> None:
    code, text = output(capsys, *words)
    assert code == 2
    assert sentence in text
    assert text.count("\n") == 1


def test_cinic_train_is_for_cinic_only(capsys: Captured) -> None:
    assert main(["--cinic-train", "train+valid", "--dataset", "cifar10"]) == 2
    assert "--cinic-train is for --dataset cinic10" in capsys.readouterr().err


# --- what a record and a table say ---------------------------------------------------------------------------------


@pytest.mark.usefixtures("untimed")
def test_a_run_offline_with_the_data_in_place(
    tmp_path: Path, here: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    """CIFAR-10's decoded copy was put where the catalogue looks for it, with other images."""
    _, truth = MAKERS["cifar10"]()
    folder = tmp_path / "data" / "cifar10" / "decoded"
    cached([folder], decoded_key("cifar10"), lambda place: remember(convert(truth, None), place), print, "cifar10")
    words = ("--dataset", "cifar10", "--models", "seresnet20", "--epochs", "1", "--batch-size", "20")
    found = here(*words, "--data-dir", tmp_path / "data", "--results", tmp_path / "store")
    assert found.returncode == 0, found.stdout + found.stderr
    (run,) = finished(Store(tmp_path / "store").runs())
    origin = run.provenance
    assert origin is not None
    assert origin.source == "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
    assert origin.version.startswith("sha256:c4a38c50")
    assert origin.official is True
    row = pd.read_csv(tmp_path / "store" / "results.csv").iloc[0]
    assert row["content_hash"] == run.spec.data.content_hash
    assert row["split_hash"] == run.spec.data.split_hash
    assert row["data_source"] == origin.source
    assert row["data_official"]


def store_of(root: Path, *data: tuple[str, Provenance | None], models: tuple[str, ...] = ("seresnet",)) -> Store:
    store = Store(root)
    for name, origin in data:
        for model in models:
            of = spec(model, data=replace(DATA, name=name))
            store.write_spec(of)
            store.write_record(record(of, 0.9, provenance=origin and asdict(origin)))
    return store


OFFICIAL = Provenance("https://somewhere", "sha256:0", True)


@pytest.mark.parametrize("style", list(FORMATS))
def test_every_table_says_that_content_is_not_official(style: str, tmp_path: Path) -> None:
    for name, origin, words in (
        ("cifar10", OFFICIAL, None),
        ("cifar10", None, None),
        ("cifar10", Provenance("npz:x.npz", "sha256:1", False), "not the official content"),
        ("npz:cifar", Provenance("npz:cifar.npz", "sha256:1", False, "cifar10"), "not cifar10's official content"),
        ("folder:x", Provenance("folder:x", "sha256:1", False, "svhn", False), "not verified as svhn"),
        ("npz:own", Provenance("npz:own.npz", "sha256:1", False), None),
    ):
        store = store_of(tmp_path / f"{name}{words}{origin}"[:30].replace(":", "").replace("/", ""), (name, origin))
        text = " ".join(html.unescape(render(compare([store]), style)).split())
        warned = "official content" in text or "not verified" in text
        assert warned == (words is not None), name
        assert words is None or words in text


def test_a_pair_says_that_content_is_not_official(tmp_path: Path) -> None:
    store, label = Store(tmp_path), np.arange(1000) % 10
    for name, like in (("npz:cifar", "cifar10"), ("cinic10", ""), ("cifar10", "")):
        origin = asdict(Provenance("x", "y", not like, like))
        for model, wrong in (("seresnet", 100), ("vit_tiny", 200)):
            predicted = np.where(np.arange(1000) < wrong, (label + 1) % 10, label)
            write_predicted(store, spec(model, data=replace(DATA, name=name)), label, predicted, provenance=origin)
    made = pairs([store])
    text = render_pairs(made, width=10_000)
    assert text.count("npz:cifar (not cifar10's official content; ") == 1
    assert text.count("official content") == 1
    assert text.count(CINIC_OVERLAP) == 1
    copy = [pair for pair in made if pair.conditions.dataset != "cifar10"]
    assert CINIC_OVERLAP in render_pairs(copy, width=10_000), "a copy of CIFAR-10 shares its images too"
    assert sorted(row["content"] for row in to_rows(made)) == ["", "", "not cifar10's official content"]


def test_cinic10_beside_cifar10_is_warned_of(tmp_path: Path) -> None:
    both = store_of(tmp_path / "both", ("cifar10", OFFICIAL), ("cinic10:train+valid", OFFICIAL), ("svhn", OFFICIAL))
    warned = {c.conditions.dataset: CINIC_OVERLAP in c.notes for c in compare([both]) if c.conditions}
    assert warned == {"cifar10": True, "cinic10:train+valid": True, "svhn": False}
    alone = store_of(tmp_path / "alone", ("cinic10", OFFICIAL), ("svhn", OFFICIAL))
    assert not any(CINIC_OVERLAP in c.notes for c in compare([alone]))


def test_a_provenance_of_another_shape_is_damage() -> None:
    made = record(spec("seresnet"), 0.9)
    content = json.loads(encode(made))
    assert decode(sealed(content), made.run_id) == made
    with pytest.raises(Damaged, match="provenance"):
        decode(sealed({**content, "provenance": {"source": "x"}}), made.run_id)


# --- the real thing ------------------------------------------------------------------------------------------------

# Debian's copies lack what gzip noted of the originals: a name, and the second in which each was packed.
PACKED = {"train-images-idx3": 606, "train-labels-idx1": 606, "t10k-images-idx3": 627, "t10k-labels-idx1": 627}


class Proxy(BaseHTTPRequestHandler):
    """Gives the original files of Fashion-MNIST under the address that they have on the internet."""

    def do_GET(self) -> None:
        address, _, name = self.path.rpartition("/")
        assert address == "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"
        stem = name.removesuffix("-ubyte.gz")
        head = b"\x1f\x8b\x08\x08" + struct.pack("<I", 1_504_176_000 + PACKED[stem]) + b"\0\x03" + name[:-3].encode()
        content = head + b"\0" + (DEBIAN / name).read_bytes()[10:]
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *words: object) -> None:
        """Not to the terminal."""


@pytest.mark.skipif(not DEBIAN.is_dir(), reason="Debian's package dataset-fashion-mnist is not installed")
def test_the_original_fashion_mnist_from_its_own_address(
    tmp_path: Path, forked: Callable[..., subprocess.CompletedProcess[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real command, addresses, checksums and published facts; only the internet is a proxy in this process."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{server.server_port}")
    found = forked("data", "fetch", "fashion_mnist", "--data-dir", tmp_path)
    server.shutdown()
    assert found.returncode == 0, found.stdout + found.stderr
    assert "54,000 training, 6,000 validation, 10,000 test images of 32 px, 10 classes" in found.stdout
    assert "the official content" in found.stdout
    monkeypatch.setenv("SEVIT_OFFLINE", "1")
    again = forked("data", "verify", "fashion_mnist", "--data-dir", tmp_path)
    assert "fashion_mnist: complete: 4 of 4 files, 2 decoded copies" in again.stdout, again.stdout + again.stderr
