"""What a report says of each model. Example: sections(stores, load(stores), compare(stores), images="digits")

Its architecture, its costs by module, all its runs, what it takes for what, and the test images it gets most wrong.
Reads stores and, for the images, what lies on this machine already; nothing is ever fetched, and torch never loaded.
"""

from __future__ import annotations

import contextlib
import io
import os
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.analysis.compare import read_predictions
from bench.analysis.tables import Comparison, Loaded, like_the_newest
from bench.core.errors import UserError
from bench.core.files import cache_dir
from bench.core.stats import Interval, share_interval
from bench.data import datasets
from bench.data.cache import opened
from bench.data.catalogue import CATALOGUE as PUBLISHED
from bench.plan.presets import check_image_size
from bench.present.report.story import display_name
from bench.store.disk import REFERENCE, Store, shared_device
from bench.store.records import Record
from models.registry import CATALOGUE, is_external

IMAGES = ("all", "digits", "none")  # of which data sets images are shown
MOST_CLASSES = 20  # of a confusion matrix that still fits a page
MOST_PAIRS = 10  # of classes, where there are more
MOST_IMAGES = 12

Whole = npt.NDArray[np.int64]
Predicted = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Module:
    """One module's share of the costs of an image's forward pass; flops are multiply-adds."""

    name: str
    params: int
    flops: int
    activations: int


@dataclass(frozen=True)
class RunRow:
    """One run, failed ones too; None where there is no figure."""

    run_id: str
    dataset: str
    recipe: str
    track: str
    budget: str
    seed: int
    status: str
    accuracy: Interval | None  # a share, with Wilson's 95 % interval for other test images
    train_seconds: float | None
    samples_seen: int | None
    device: str
    started: str
    commit: str
    message: str


@dataclass(frozen=True)
class Confused:
    """How often images of class `true` were taken for `predicted`, of how many of that class, over all runs."""

    true: str
    predicted: str
    count: int
    of: int


@dataclass(frozen=True)
class Confusion:
    """What a model takes for what in one comparison, summed over its runs (seeds).

    `counts`: a row a true class, a column a predicted one; empty for more than MOST_CLASSES. `confused`: the pairs of
    different classes that are confused most often, at most MOST_PAIRS.
    """

    subject: str  # the comparison's title
    dataset: str
    classes: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]
    confused: tuple[Confused, ...]
    runs: int
    why_not: str = ""  # there are no figures


@dataclass(frozen=True)
class WrongImage:
    """A test image that a run is most surely wrong about; `png` has the pixels that the model saw, not enlarged."""

    index: int  # in the test part
    true: str
    predicted: str
    other: str  # what the other model says; "" where there is none
    loss: float  # cross-entropy in nats
    png: bytes


@dataclass(frozen=True)
class WrongImages:
    """The most surely wrong answers of a model's first seed in one comparison; `why_not` where none can be shown."""

    subject: str
    dataset: str
    run_id: str = ""
    seed: int | None = None
    other_model: str = ""
    wrong: int = 0  # test images wrongly classified
    of: int = 0
    images: tuple[WrongImage, ...] = ()
    why_not: str = ""


@dataclass(frozen=True)
class ModelSection:
    """Everything a report says of one model."""

    name: str
    family: str
    architecture: str
    modules: tuple[Module, ...]
    modules_how: str  # how to get them, where there are none
    runs: tuple[RunRow, ...]
    confusions: tuple[Confusion, ...]
    wrong: tuple[WrongImages, ...]


def sections(
    stores: list[Store],
    found: Loaded,
    comparisons: Sequence[Comparison],
    images: str = "all",
    data_dir: Path | None = None,
    reference: str = REFERENCE,
) -> list[ModelSection]:
    """A section for each model, the reference first, then by name. `images` is one of IMAGES.

    `data_dir`: where downloads and decoded copies are; by default as everywhere.
    """
    gallery = Gallery(images, data_dir or datasets.default_data_dir())
    names = sorted({run["spec"]["model"] for run in found.runs}, key=lambda name: (name != reference, name))
    by_id = {run["run_id"]: run for run in found.runs}
    groups = [(c, [by_id[name] for name in c.run_ids if name in by_id]) for c in comparisons if c.rows]
    return [_section(name, found.runs, groups, stores, gallery, reference) for name in names]


def _section(
    name: str,
    runs: list[Record],
    groups: list[tuple[Comparison, list[Record]]],
    stores: list[Store],
    gallery: Gallery,
    reference: str,
) -> ModelSection:
    mine = [run for run in runs if run["spec"]["model"] == name]
    modules = modules_of(mine)
    confusions, wrong = [], []
    for comparison, group in groups:
        own = newest_of(name, group)
        if own:
            confusions.append(confusion(comparison.title, own, stores))
            others = rivals(name, comparison, group, reference)
            first = next((run for run in own if answers(run, stores) is not None), own[0])
            wrong.append(wrong_images(comparison.title, first, others, stores, gallery))
    how = "" if modules else f"Its costs by module: python run_bench.py cost {shlex.quote(name)} --by-module"
    return ModelSection(
        name=name,
        family=str(mine[-1].get("family", "")),
        architecture=architecture(name, mine[-1]),
        modules=modules,
        modules_how=how,
        runs=tuple(map(run_row, mine)),
        confusions=tuple(confusions),
        wrong=tuple(wrong),
    )


# --- what it is ------------------------------------------------------------------------------------------------------


def architecture(name: str, run: Record) -> str:
    """What a model is, in a sentence: from the catalogue, or of a stranger's what its name and its record say."""
    if name in CATALOGUE:
        summary = CATALOGUE[name].summary
        return f"{name} is {'a ' if summary[0].islower() else ''}{summary}."  # those of a package begin with its name
    source, _, what = name.partition(":")
    size = _size(run)
    if source in ("timm", "torchvision") and what:
        return f"{name} is {what} as the package {source} builds it{size}."
    if is_external(name):
        where, _, function = name.rpartition(":")
        content = str(run["spec"].get("model_source", ""))
        version = f", SHA-256 {content[:12]}…" if content else ""
        return f"{name} is what the function {function} of {where} builds{version}{size}."
    return f"{name} is a model that this version of the program does not know{size}."


def _size(run: Record) -> str:
    params = run.get("metrics", {}).get("params")
    return f", with {params:,} parameters" if params else ""


def modules_of(runs: Sequence[Record]) -> tuple[Module, ...]:
    """The costs by module of the newest run that has them."""
    for run in reversed(runs):
        with contextlib.suppress(KeyError, TypeError):
            rows = [Module(m["name"], m["params"], m["flops"], m["activations"]) for m in run.get("modules") or ()]
            if rows:
                return tuple(rows)
    return ()


def run_row(run: Record) -> RunRow:
    """One run as a row."""
    spec, metrics = run["spec"], run.get("metrics", {})
    recipe, accuracy = spec["recipe"], metrics.get("accuracy")
    return RunRow(
        run_id=run["run_id"],
        dataset=spec["data"]["name"],
        recipe=recipe["name"],
        track=recipe["track"],
        budget=recipe["budget"] or f"{recipe['epochs']} epochs",
        seed=spec["seed"],
        status=run["status"],
        accuracy=None if accuracy is None else share_interval(accuracy, metrics["test_images"]),
        train_seconds=None if shared_device(run) else metrics.get("train_seconds"),
        samples_seen=metrics.get("samples_seen"),
        device=spec["device_name"],
        started=run["started"],
        commit=str(run.get("environment", {}).get("commit") or ""),
        message=run.get("message") or "",
    )


# --- what it takes for what ------------------------------------------------------------------------------------------


def newest_of(model: str, group: list[Record]) -> list[Record]:
    """A comparison's runs of a model, of its newest code and recipe, by seed."""
    mine = [run for run in group if run["spec"]["model"] == model]
    return sorted(like_the_newest(mine), key=lambda run: int(run["spec"]["seed"])) if mine else []


def confusion(subject: str, runs: list[Record], stores: list[Store]) -> Confusion:
    """Summed over the runs whose predictions can be read."""
    names = class_names(runs[0])
    read = [found for run in runs if (found := answers(run, stores)) is not None]
    about = (subject, runs[0]["spec"]["data"]["name"], names)
    if not read:
        return Confusion(*about, (), (), 0, "The predictions of these runs are missing or damaged.")
    counts = sum((counted(f["test_label"], f["test_predicted"], len(names)) for f in read), counted([], [], len(names)))
    shown = tuple(map(tuple, counts.tolist())) if len(names) <= MOST_CLASSES else ()
    return Confusion(*about, shown, most_confused(counts, names), len(read))


def counted(label: npt.ArrayLike, predicted: npt.ArrayLike, classes: int) -> Whole:
    """How many images of each class (rows) were taken for each (columns)."""
    both = np.asarray(label, np.int64) * classes + np.asarray(predicted, np.int64)
    return np.bincount(both, minlength=classes * classes).reshape(classes, classes)


def most_confused(counts: Whole, names: Sequence[str]) -> tuple[Confused, ...]:
    """Different classes that are confused most often; ties in the order of the classes."""
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:MOST_PAIRS]
    places = [divmod(int(place), len(names)) for place in order]
    return tuple(
        Confused(names[true], names[said], int(wrong[true, said]), int(counts[true].sum()))
        for true, said in places
        if wrong[true, said]
    )


def answers(run: Record, stores: list[Store]) -> Predicted | None:
    """A run's predictions, where every class in them is one of the data's; else None."""
    found = read_predictions(run, stores)
    classes = len(class_names(run))
    if found is None:
        return None
    for name in ("test_label", "test_predicted"):
        values = found[name]
        if values.dtype.kind not in "iu" or not len(values) or values.min() < 0 or values.max() >= classes:
            return None
    return found


def class_names(run: Record) -> tuple[str, ...]:
    """The names in the record; numbers where they are not as many as there are classes."""
    names, count = tuple(run.get("classes", ())), run["spec"]["data"]["num_classes"]
    return names if len(names) == count else tuple(map(str, range(count)))


# --- what it gets most wrong -----------------------------------------------------------------------------------------


def rivals(model: str, comparison: Comparison, group: list[Record], reference: str) -> list[Record]:
    """The runs of the model to ask as well: the reference, else the most accurate of the others."""
    others = [row.model for row in comparison.rows if row.model != model]
    if not others:
        return []
    return newest_of(reference if reference in others else others[0], group)


def wrong_images(subject: str, run: Record, others: list[Record], stores: list[Store], gallery: Gallery) -> WrongImages:
    """The test images of highest loss that a run got wrong, beside what a run of another model says of them.

    Of the other model's runs the one of the same seed is asked, else its first that can be read. Whatever keeps images
    from being shown is a sentence.
    """
    dataset, seed = run["spec"]["data"]["name"], run["spec"]["seed"]
    found = answers(run, stores)
    if found is None:
        return WrongImages(subject, dataset, run["run_id"], seed, why_not="The predictions are missing or damaged.")
    wrong = np.flatnonzero(found["test_predicted"] != found["test_label"])
    other, theirs = _rival(run, found, others, stores)
    about = (subject, dataset, run["run_id"], seed, other, len(wrong), len(found["test_label"]))
    losses = found.get("test_loss")
    if not len(wrong):
        return WrongImages(*about, why_not="Every test image was classified rightly.")
    if losses is None or losses.shape != found["test_label"].shape or losses.dtype.kind != "f":
        return WrongImages(*about, why_not="The predictions hold no losses that could rank the images.")
    shown = gallery.test_part(run)
    if isinstance(shown, str):
        return WrongImages(*about, why_not=shown)
    pixels, labels = shown
    if not np.array_equal(labels, found["test_label"]):
        return WrongImages(*about, why_not="The images on this machine are in another order than the predictions.")
    worst = wrong[np.argsort(-np.nan_to_num(losses[wrong], nan=-1.0), kind="stable")][:MOST_IMAGES]
    names = class_names(run)
    return WrongImages(
        *about,
        images=tuple(
            WrongImage(
                index=int(i),
                true=names[found["test_label"][i]],
                predicted=names[found["test_predicted"][i]],
                other="" if theirs is None else names[theirs[i]],
                loss=float(losses[i]),
                png=to_png(pixels[i]),
            )
            for i in worst
        ),
    )


def _rival(
    run: Record, found: Predicted, others: list[Record], stores: list[Store]
) -> tuple[str, npt.NDArray[Any] | None]:
    """The other model and its answers; ("", None) where there are none to the same images."""
    for other in sorted(others, key=lambda o: o["spec"]["seed"] != run["spec"]["seed"]):
        theirs = answers(other, stores)
        if theirs is not None and np.array_equal(theirs["test_label"], found["test_label"]):
            return other["spec"]["model"], theirs["test_predicted"]
    return "", None


def to_png(pixels: npt.NDArray[np.uint8]) -> bytes:
    """(S, S, 3) as a PNG of the same pixels."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


# --- images at hand --------------------------------------------------------------------------------------------------

TestPart = tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]


class Gallery:
    """Test images by data set, each looked for once. `images`: one of IMAGES; nothing is fetched for any of them."""

    def __init__(self, images: str, data_dir: Path) -> None:
        if images not in IMAGES:
            raise UserError(f"--images '{images}': choose from {', '.join(IMAGES)}")
        self.images, self.data_dir = images, data_dir
        self._found: dict[tuple[str, int, str], TestPart | str] = {}

    def test_part(self, run: Record) -> TestPart | str:
        """The test images that a run saw, with their labels; or a sentence why there are none to show."""
        data = run["spec"]["data"]
        if self.images == "none":
            return "Images are left out (--images none)."
        if self.images == "digits" and data["name"] != "digits":
            return "Only images of the digits are shown here (--images all shows those of every data set at hand)."
        key = (data["name"], data["image_size"], data["content_hash"])
        if key not in self._found:
            self._found[key] = self._look_for(run, *key)
        return self._found[key]

    def _look_for(self, run: Record, name: str, size: int, wanted: str) -> TestPart | str:
        shown, others = display_name(name), False
        for source in sources(run, self.data_dir):
            try:
                check_image_size(size)  # a record could ask for any, and more than the memory holds
                with offline():
                    arrays, content = at_hand(source, self.data_dir, size)
            except Exception:  # of files that anybody may have changed; a report goes on without their images
                continue
            if content == wanted and arrays.test_x.shape[1:] == (size, size, 3):
                return arrays.test_x, arrays.test_y
            others = True
        if others:
            return f"The images of {shown} on this machine are not those that the run saw."
        return f"The images of {shown} are not on this machine, and a report fetches nothing."


def sources(run: Record, data_dir: Path) -> list[str]:
    """Where a run's images may lie, as arguments of --dataset.

    Records keep the name of one's own file or folder and not its path, so it is looked for in the current directory
    and in the data directory; whether it is the same is decided by its content.
    """
    name = run["spec"]["data"]["name"]
    kind, _, stem = str(run.get("provenance", {}).get("source", "")).partition(":")
    places = [] if ":" in name and name != datasets.CINIC_WHOLE else [name]
    if kind not in ("npz", "folder"):
        kind, _, stem = name.partition(":")
        stem += ".npz" * (kind == "npz")
    file = Path(stem).name  # never out of these two folders, whatever a record says
    if kind in ("npz", "folder") and file not in ("", ".."):
        places += [f"{kind}:{folder / file}" for folder in (Path.cwd(), data_dir) if (folder / file).exists()]
    return places


def at_hand(source: str, data_dir: Path, size: int) -> tuple[Any, str]:
    """Arrays and content hash of a source without the network. Raises whatever keeps them from being read."""
    base = source.partition(":")[0]
    if source in PUBLISHED or source == datasets.CINIC_WHOLE:
        key, facts = datasets.decoded_key(base), PUBLISHED[base].facts
        own = size == facts.size and len(facts.mean) == 3  # as datasets.published names its copies
        for folder in (data_dir / base / "decoded", cache_dir() / base / "decoded"):
            with contextlib.suppress(FileNotFoundError, ValueError):
                return opened(folder / (key if own else f"{key}-{size}px"))
        if not all((data_dir / base / file.name).is_file() for file in PUBLISHED[base].files):
            raise FileNotFoundError(source)
    found = datasets.open_source(source, data_dir, size, lambda what, done, of: None, lambda text: None)
    return found.arrays, found.content_hash


@contextlib.contextmanager
def offline() -> Iterator[None]:
    """No connection is tried within: a file that is there but damaged must not be fetched again either."""
    before = os.environ.get("SEVIT_OFFLINE")
    os.environ["SEVIT_OFFLINE"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["SEVIT_OFFLINE"]
        else:
            os.environ["SEVIT_OFFLINE"] = before
