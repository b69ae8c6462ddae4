"""Sections of models and the facts at a report's end, against stores of known content and other implementations."""

from __future__ import annotations

import io
import os
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import confusion_matrix

from bench.analysis.compare import read_predictions
from bench.analysis.tables import compare, load
from bench.cli import main as cli
from bench.core.errors import UserError
from bench.core.events import ModulePart
from bench.data.catalogue import CATALOGUE as CATALOGUE_OF_DATA
from bench.data.datasets import CINIC_WHOLE, Dataset
from bench.data.datasets import load as load_data
from bench.plan import recipes
from bench.plan.budget import Budget
from bench.plan.request import DataOptions, TrainingOptions
from bench.plan.spec import DataRef
from bench.present.report import commands, facts, gallery
from bench.present.report.confusion import MOST_CLASSES, MOST_PAIRS, confusion, counted, most_confused
from bench.present.report.gallery import Gallery, sources
from bench.present.report.mistakes import MOST_IMAGES
from bench.present.report.model_text import run_cells
from bench.present.report.models import ModelSection, sections
from bench.store.disk import Store
from bench.store.records import finished
from models.registry import CATALOGUE
from tests.conftest import ROOT
from tests.synthetic import DATA, RECIPE, failure, record, session, spec, thorough_session, write_predicted, write_store

STORES = ROOT / "results/reference/cpu-2core"


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """The real ones."""
    return load_data("digits", tmp_path_factory.mktemp("data"))


def sections_of(store: Store, images: str = "all", data_dir: Path | None = None) -> dict[str, ModelSection]:
    """Sections by name."""
    return {one.name: one for one in sections([store], load([store]), compare([store]), images, data_dir)}


def digits_store(root: Path, digits: Dataset, **changes: Any) -> Store:
    """seresnet predicts 1 for every 7, with rising loss; vit_tiny predicts 2."""
    store, label = Store(root), digits.arrays.test_y
    for model, wrong in (("seresnet", 1), ("vit_tiny", 2)):
        for seed in (0, 1):
            loss = np.arange(len(label)) + seed
            write_predicted(
                store, spec(model, seed, data=digits.ref), label, np.where(label == 7, wrong, label), loss, **changes
            )
    return store


# --- confusion -------------------------------------------------------------------------------------------------------


def test_a_confusion_matrix_is_scikit_learns(tmp_path: Path) -> None:
    store, rng = Store(tmp_path), np.random.default_rng(0)
    every: list[Any] = []
    for seed in range(3):
        label, predicted = rng.integers(0, 10, 300), rng.integers(0, 9, 300)
        write_predicted(store, spec("seresnet", seed), label, predicted)
        every.append((label, predicted))
    (matrix,) = sections_of(store)["seresnet"].confusions
    label, predicted = (np.concatenate(part) for part in zip(*every, strict=True))
    truth = confusion_matrix(label, predicted, labels=range(10))
    assert np.array_equal(np.array(matrix.counts), truth)
    assert (matrix.runs, matrix.why_not) == (3, "")
    first = matrix.confused[0]
    assert first.count == (truth - np.diag(np.diag(truth))).max()
    assert first.of == truth[int(first.true)].sum()
    # a run whose predictions are damaged is left out
    path = store.run_dir(spec("seresnet", 1)) / "predictions.npz"
    path.write_bytes(path.read_bytes()[:-20])
    (matrix,) = sections_of(store)["seresnet"].confusions
    assert matrix.runs == 2
    assert np.array(matrix.counts).sum() == 600


def test_many_classes_are_shown_by_their_most_frequent_errors(tmp_path: Path) -> None:
    store, count = Store(tmp_path), MOST_CLASSES + 80
    label = np.repeat(np.arange(count), 20)
    predicted = np.where((label < 15) & (np.arange(len(label)) % 20 <= label), label + 50, label)
    data = replace(DATA, name="cifar100", num_classes=count)
    of = spec("seresnet", data=data)
    write_predicted(store, of, label, predicted, classes=[f"class {i}" for i in range(count)])
    (matrix,) = sections_of(store)["seresnet"].confusions
    assert matrix.counts == ()
    assert len(matrix.confused) == MOST_PAIRS
    assert [(c.true, c.predicted, c.count, c.of) for c in matrix.confused[:2]] == [
        ("class 14", "class 64", 15, 20),
        ("class 13", "class 63", 14, 20),
    ]


def test_a_hundred_thousand_classes_need_no_matrix() -> None:
    """Of 10,000,000,000 cells, 80 GB."""
    label, predicted = np.array([99_999, 3, 99_999, 7]), np.array([0, 4, 0, 7])
    assert most_confused(counted(label, predicted, 100_000)) == [(99_999, 0, 2, 2), (3, 4, 1, 1)]


def test_no_errors_are_no_pairs() -> None:
    assert most_confused(counted([0, 1, 1], [0, 1, 1], 2)) == []
    assert counted([0, 1, 1], [0, 1, 0], 2) == {(0, 0): 1, (1, 0): 1, (1, 1): 1}


@pytest.mark.parametrize("predicted", [-1, 10])
def test_predictions_of_unknown_classes_are_damaged(tmp_path: Path, predicted: int) -> None:
    store, of = Store(tmp_path), spec("seresnet")
    write_predicted(store, of, [0, 1, 2], [0, 1, predicted], [1, 2, 3])
    (run,) = store.runs()
    assert read_predictions(run, [store]) is not None
    assert confusion("here", [run], [store]).why_not == "The predictions of these runs are missing or damaged."
    section = sections_of(store)["seresnet"]
    assert section.mistakes[0].why_not == "The predictions are missing or damaged."


# --- wrong images ----------------------------------------------------------------------------------------------------


def test_wrong_images_are_the_data_sets_own(tmp_path: Path, digits: Dataset) -> None:
    by_name = sections_of(digits_store(tmp_path, digits), images="digits")
    (shown,) = by_name["seresnet"].mistakes
    label = digits.arrays.test_y
    worst = np.flatnonzero(label == 7)[::-1][:MOST_IMAGES]  # losses rise with the index
    assert [image.index for image in shown.images] == worst.tolist()
    assert (shown.other_model, shown.seed, shown.wrong, shown.of) == ("vit_tiny", 0, (label == 7).sum(), len(label))
    for image in shown.images:
        assert (image.true, image.predicted, image.other) == ("7", "1", "2")
        assert image.loss == image.index  # of seed 0
        pixels = np.asarray(Image.open(io.BytesIO(image.png)))
        assert np.array_equal(pixels, digits.arrays.test_x[image.index])
    assert by_name["vit_tiny"].mistakes[0].other_model == "seresnet"


def test_the_other_models_prediction_is_of_the_same_seed(tmp_path: Path, digits: Dataset) -> None:
    store, label = digits_store(tmp_path, digits), digits.arrays.test_y
    write_predicted(store, spec("vit_tiny", 1, data=digits.ref), label, np.where(label == 7, 3, label))
    assert {image.other for image in sections_of(store)["seresnet"].mistakes[0].images} == {"2"}
    (store.run_dir(spec("seresnet", 0, data=digits.ref)) / "predictions.npz").unlink()
    (shown,) = sections_of(store)["seresnet"].mistakes
    assert (shown.seed, {image.other for image in shown.images}) == (1, {"3"})


def test_missing_images_are_explained(tmp_path: Path, digits: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    store = digits_store(tmp_path / "store", digits)
    assert "--images none" in sections_of(store, images="none")["seresnet"].mistakes[0].why_not
    with pytest.raises(UserError, match="all, digits, none"):
        Gallery("some", tmp_path)
    other = Store(tmp_path / "other")
    data = replace(digits.ref, content_hash="0" * 64)
    write_predicted(
        other, spec("seresnet", data=data), digits.arrays.test_y, 0 * digits.arrays.test_y, digits.arrays.test_y
    )
    (shown,) = sections_of(other)["seresnet"].mistakes
    assert (shown.images, shown.other_model) == ((), "")
    assert "are not those of the run" in shown.why_not
    looked: list[int] = []
    monkeypatch.setattr(gallery, "at_hand", lambda source, data_dir, size: looked.append(size))
    huge = Store(tmp_path / "huge")
    write_predicted(huge, spec("seresnet", data=replace(digits.ref, image_size=10**6)), [1, 0], [0, 0], [1, 1])
    assert "not on this machine" in sections_of(huge)["seresnet"].mistakes[0].why_not
    assert not looked
    monkeypatch.undo()
    turned = Store(tmp_path / "turned")
    label = digits.arrays.test_y[::-1]
    write_predicted(turned, spec("seresnet", data=digits.ref), label, 0 * label, label)
    assert "another order" in sections_of(turned)["seresnet"].mistakes[0].why_not


def test_runs_without_losses_or_without_mistakes(tmp_path: Path, digits: Dataset) -> None:
    label = digits.arrays.test_y
    for name, predicted, words in (("a", 0 * label, "no losses"), ("b", label, "classified correctly")):
        store = Store(tmp_path / name)
        write_predicted(store, spec("seresnet", data=digits.ref), label, predicted)
        assert words in sections_of(store)["seresnet"].mistakes[0].why_not


def own_arrays(path: Path) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (60, 16, 16, 3), np.uint8), np.arange(60) % 3
    np.savez(path, train_x=x, train_y=y, test_x=x[:30], test_y=y[:30], classes=np.array(["a", "b", "c"]))


def test_a_local_file_is_found_and_checked_by_its_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    own_arrays(tmp_path / "mine.npz")
    dataset = load_data("npz:mine.npz", tmp_path)
    label, origin = dataset.arrays.test_y, {"source": "npz:mine.npz", "version": "", "official": False}
    store = Store(tmp_path / "store")
    of, changes = (
        spec("seresnet", data=dataset.ref),
        {"classes": list("abc"), "provenance": {**origin, "checked": True}},
    )
    write_predicted(store, of, label, (label + 1) % 3, np.arange(30), **changes)
    (shown,) = sections_of(store, data_dir=tmp_path)["seresnet"].mistakes
    first = shown.images[0]
    assert (first.index, first.true, first.predicted, first.other) == (29, "c", "a", "")
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(first.png))), dataset.arrays.test_x[29])
    (tmp_path / "mine.npz").write_bytes(b"no longer")
    assert "not on this machine" in sections_of(store, data_dir=tmp_path)["seresnet"].mistakes[0].why_not


def test_nothing_is_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other commands would download a damaged file again; a report leaves everything as it is."""
    from bench.data import fetch

    asked: list[Any] = []
    monkeypatch.setattr(fetch, "_complete", lambda job, say: asked.append(job))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("SEVIT_OFFLINE", raising=False)
    store, data_dir = Store(tmp_path / "store"), tmp_path / "data"
    write_predicted(store, spec("seresnet"), [0, 1], [1, 1], [1, 1])
    assert "downloads nothing" in sections_of(store, data_dir=data_dir)["seresnet"].mistakes[0].why_not
    assert not data_dir.exists()
    (data_dir / "cifar10").mkdir(parents=True)
    for file in CATALOGUE_OF_DATA["cifar10"].files:
        (data_dir / "cifar10" / file.name).write_bytes(b"half a file")
    assert "downloads nothing" in sections_of(store, data_dir=data_dir)["seresnet"].mistakes[0].why_not
    assert "SEVIT_OFFLINE" not in os.environ
    assert not asked


@pytest.mark.parametrize("source", ["npz:../../secret.npz", "folder:..", "npz:/etc/secret.npz"])
def test_a_record_cannot_name_other_places(tmp_path: Path, source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret.npz").write_bytes(b"")
    origin = {"source": source, "version": "", "official": False}
    run = record(spec("seresnet", data=replace(DATA, name="npz:x")), 0.5, provenance=origin)
    assert sources(run, tmp_path / "data") == [f"npz:{tmp_path / 'secret.npz'}"] * source.startswith("npz")


def test_images_are_found_at_the_path_that_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    place = tmp_path / "elsewhere" / "shapes"
    place.mkdir(parents=True)
    of = spec("seresnet", data=replace(DATA, name="folder:shapes"))
    origin = {"source": "folder:shapes", "version": "", "official": False, "path": "elsewhere/shapes"}
    assert sources(record(of, 0.5, provenance=origin), tmp_path / "data") == ["folder:elsewhere/shapes"]
    for path in (str(tmp_path), "elsewhere/shapes/missing", "/dev/null"):  # of another name, absent, a device
        assert sources(record(of, 0.5, provenance=origin | {"path": path}), tmp_path / "data") == []


# --- the rest of a section -------------------------------------------------------------------------------------------


def test_a_section_of_every_model_and_run(tmp_path: Path) -> None:
    store = write_store(tmp_path, {"vit_tiny": 0.8, "seresnet": 0.9, "timm:resnet18[x=1]": 0.7})
    of = spec("seresnet", 1)
    store.write_record(failure(of, "oom", "out of memory"))
    strange = spec("my/file.py:net", model_source="ab" * 32)
    store.write_record(failure(strange, "failed"))
    by_name = sections_of(store)
    assert list(by_name) == ["seresnet", "my/file.py:net", "timm:resnet18[x=1]", "vit_tiny"]
    section = by_name["seresnet"]
    assert section.architecture == f"seresnet is {CATALOGUE['seresnet'].summary}."
    assert section.modules_how == "To count its cost by module: python run_bench.py cost seresnet --by-module"
    ok, lost = map(run_cells, section.runs)
    started = "2026-01-01 00:00"
    assert ok == ["cifar10", "shared, 3 epochs", "0", "ok", "90.00 % (89.40–90.57)", "37.0 s", started, "0000000"]
    assert lost[3:6] == ["oom. out of memory", "none", "not measured"]
    assert section.confusions[0].why_not
    assert by_name["timm:resnet18[x=1]"].architecture.startswith(
        "timm:resnet18[x=1] is resnet18[x=1] as built by the package timm"
    )
    assert "the function net of my/file.py, SHA-256 abababababab…" in by_name["my/file.py:net"].architecture
    assert by_name["my/file.py:net"].confusions == ()


@pytest.mark.parametrize("name", CATALOGUE)
def test_architectures_are_sentences(tmp_path: Path, name: str) -> None:
    sentence = sections_of(write_store(tmp_path, {name: 0.5}))[name].architecture
    assert sentence.startswith(f"{name} is ")
    assert sentence.endswith(".")


def test_costs_by_module_where_the_record_has_them(tmp_path: Path) -> None:
    store, of = Store(tmp_path), spec("seresnet")
    rows = [{"name": "stem", "params": 432, "flops": 442_368, "activations": 16_384}]
    write_predicted(store, of, [0, 1], [0, 1], modules=rows)
    section = sections_of(store)["seresnet"]
    assert section.modules == (ModulePart(name="stem", params=432, flops=442_368, activations=16_384),)
    assert section.modules_how == ""


def test_hostile_names_are_quoted_and_inert(tmp_path: Path) -> None:
    name = "<script>alert(1)</script>; rm -rf ~\u202e\n$(x)"
    store = Store(tmp_path)
    write_predicted(store, spec(name), [0, 1], [1, 1], [1, 2])
    (section,) = sections_of(store).values()
    assert isinstance(section, ModelSection)
    assert not {"\n", "\u202e"} & set(section.name + section.architecture + section.modules_how)
    words = shlex.split(section.modules_how.partition(": ")[2])
    assert words == ["python", "run_bench.py", "cost", section.name, "--by-module"]


def test_an_empty_store(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert sections_of(store) == {}
    loaded = load([store])
    assert facts.environment(loaded) == []
    assert len(commands.reproduce(loaded, [store])) == 5
    assert {file.name for file in facts.raw_files([store])} == {
        *("results.csv", "speed.csv", "history.csv", "timings.csv", "environment.csv")
    }


def test_the_committed_predictions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Confusion matrices agree with the accuracies of the records."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    store = Store(STORES / "verdict")
    for section in sections_of(store, "digits", tmp_path).values():
        assert len(section.confusions) == 3
        for matrix in section.confusions:
            assert matrix.runs == 3
        right = sum(np.trace(np.array(matrix.counts)) for matrix in section.confusions)
        accuracies = [run.metrics.accuracy for run in finished(section.runs)]
        assert right == round(sum(accuracies) * 2500)
        assert all("digits" in shown.why_not for shown in section.mistakes)


# --- facts -----------------------------------------------------------------------------------------------------------


def test_the_environment_has_every_value(tmp_path: Path) -> None:
    store = write_store(tmp_path, {"seresnet": 0.9, "vit_tiny": 0.8}, {"seresnet": [0.1] * 3, "vit_tiny": [0.2] * 3})
    of = spec("cct_2")
    write_predicted(
        store,
        of,
        [0, 1],
        [0, 1],
        environment={"device": "cpu", "device_name": "Test CPU", "torch": "3", "torch_threads": 2},
    )
    values = {fact.name: fact.values for fact in facts.environment(load([store]))}
    assert values["torch"] == (("2.13.0", 3), ("3", 1))
    assert values["dirty"] == (("no", 3),)


def test_the_protocol_has_ten_sentences() -> None:
    assert len(facts.PROTOCOL) == 10
    assert all(line.endswith(".") and len(line) < 260 for line in facts.PROTOCOL)


def test_raw_files_are_made_from_the_records(tmp_path: Path) -> None:
    """Whatever lies in the folder: a view that was edited, one that is missing, a link to something private."""
    store = write_store(tmp_path, {"seresnet": 0.9})
    contents = {name: (tmp_path / name).read_bytes() for name in ("results.csv", "history.csv", "speed.csv")}
    (tmp_path / "results.csv").write_bytes(contents["results.csv"].replace(b"0.9", b"0.99"))
    (tmp_path / "history.csv").unlink()
    for name in ("speed.csv", "verdicts.csv"):
        (tmp_path / name).unlink(missing_ok=True)
        (tmp_path / name).symlink_to(__file__)
    files = {file.name: file.content for file in facts.raw_files([store])}
    assert {name: files[name] for name in contents} == contents
    assert "verdicts.csv" not in files


def test_raw_files_of_stores_whose_names_look_alike(tmp_path: Path) -> None:
    stores = [write_store(tmp_path / name, {name: 0.9}) for name in ("my store", "my_store")]
    files = {file.name: file.content for file in facts.raw_files(stores)}
    assert len(files) == 10
    first, second = (content for name, content in files.items() if name.endswith("-results.csv"))
    assert (b"my store" in first, b"my_store" in second) == (True, True)


def parsed(line: str) -> Any:
    """A command as the program understands it."""
    python, script, *words = shlex.split(line)
    assert (python, script) == ("python", "run_bench.py")
    return cli.parse(words)


def test_commands_of_the_committed_stores() -> None:
    """They are those of the stores' READMEs, but for the path of the data, and --device, which a GPU would change."""
    store = Store(STORES / "verdict")
    checkout, first, second, *_ = commands.reproduce(load([store]), [store])
    assert checkout == "git checkout 5d92a12ff884db595c0a5f9b0141528fcc8f0edb"
    request = parsed(first)
    assert request.models == ("seresnet", "resnet56", "vit_flops", "cct_2")
    assert request.data.datasets == ("npz:cifar10_part.npz",)
    assert request.training == TrainingOptions(
        recipe="shared",
        seeds=(0, 1, 2),
        budget=Budget("seconds", 40),
        batch_size=32,
        validations=4,
        tracks=("shared", "family"),
        trial_budget=Budget("samples", 640),
        target=0.25,
    )
    request = parsed(second)
    training = request.training
    assert (training.tracks, training.budget, training.validations) == (("shared",), Budget("samples", 3840), 2)
    assert request.execution.runs_per_device == 2
    store = Store(STORES / "sane")
    _, fashion, cifar, *_ = commands.reproduce(load([store]), [store])
    assert parsed(fashion).data.datasets == ("fashion_mnist",)
    assert parsed(cifar).data.datasets == ("npz:cifar10.npz",)
    training = parsed(cifar).training
    assert (training.epochs, training.batch_size, training.seeds) == (2, 64, (0,))


def test_every_condition_is_in_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shared.toml").write_text('base = "shared"\nlr = 0.5\n')
    store, model = Store(tmp_path / "store"), "timm:vit_tiny_patch16_224[depth=2,num_heads=3]"
    data = DataRef("cinic10:train+valid", "c" * 64, "s" * 64, 10, 64, train_fraction=0.1)
    for seed in (0, 1, 2, 5):
        # another learning rate than the named recipe's
        of = spec(model, seed, data=data, recipe=replace(RECIPE, lr=0.5), deterministic=True)
        write_predicted(store, of, [0, 1], [0, 1])
    (line, *_) = (line for line in commands.reproduce(load([store]), [store]) if "--models" in line)
    request = parsed(line)
    assert (request.models, request.training.seeds, request.training.epochs) == ((model,), (0, 1, 2, 5), 3)
    assert request.training.recipe == "shared.toml"
    assert request.data == DataOptions((CINIC_WHOLE,), (0.1,), image_size=64)
    assert (request.execution.deterministic, request.placement.device) == (True, "cpu")


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_named_recipes_are_known_again(tmp_path: Path, name: str) -> None:
    store, of = Store(tmp_path), spec("seresnet", recipe=replace(recipes.load(name), precision="fp32", flip=False))
    write_predicted(store, of, [0, 1], [0, 1])
    assert parsed(commands.reproduce(load([store]), [store])[1]).training.recipe == name


def test_a_time_session_and_that_of_a_sweep(tmp_path: Path) -> None:
    seconds = {"seresnet": [0.1] * 3, "vit_tiny": [0.2] * 3}
    store = write_store(tmp_path, {"seresnet": 0.9}, seconds)  # a sweep's, which comes with it
    store.write_session(thorough_session(seconds, id="thorough", half_width=0.05, limit_seconds=90.0))
    lines = [line for line in commands.reproduce(load([store]), [store]) if " time " in line]
    assert len(lines) == 1
    request = parsed(lines[0])
    assert (request.models, request.batch_sizes) == (("seresnet", "vit_tiny"), (1, 32, 128))
    assert (request.half_width, request.time_limit, request.reference) == (0.05, 90.0, None)
    assert session(seconds).ceilings is None


@pytest.mark.parametrize(("device", "words"), [("cpu", []), ("cuda", ["--setting", "eager"])])
def test_eager_is_named_where_auto_is_something_else(tmp_path: Path, device: str, words: list[str]) -> None:
    store = Store(tmp_path)
    write_predicted(store, spec("seresnet", device=device), [0, 1], [0, 1])
    (line, *_) = (line.split() for line in commands.reproduce(load([store]), [store]) if "--models" in line)
    assert [word for word in line if word in ("--setting", "eager")] == words


def test_reading_commands_name_every_store(tmp_path: Path) -> None:
    stores = [Store(tmp_path / "a b"), Store(tmp_path / "c")]
    lines = commands.reproduce(load(stores), stores)  # nothing is there to be made again
    assert (
        lines[0]
        == f"python run_bench.py check --results {shlex.quote(str(tmp_path / 'a b'))} --results {tmp_path / 'c'}"
    )
    assert [line.split()[2] for line in lines] == ["check", "table", "compare", "plot", "report"]


def test_seeds_in_words() -> None:
    assert commands.seeds_text((3, 0, 1, 2, 7, 9, 10)) == "0-3,7,9-10"


def test_sections_never_load_torch() -> None:
    code = (
        "import sys; from pathlib import Path; from bench.present.report.models import sections; "
        "from bench.store.disk import Store; "
        f"from bench.analysis.tables import compare, load; s = [Store(Path({str(STORES / 'sane')!r}))]; "
        "sections(s, load(s), compare(s), 'none'); assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
