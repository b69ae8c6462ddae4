"""Stores from strangers: whatever lies in one is read or named as damaged; nothing hangs, and nothing leaves it."""

from __future__ import annotations

import contextlib
import csv
import functools
import io
import json
import os
import random
import re
import shutil
import signal
import struct
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from bench.analysis.check import problems
from bench.analysis.compare import pairs
from bench.analysis.frames import frame
from bench.analysis.tables import compare
from bench.analysis.verdicts_csv import VERDICTS, verdicts_csv, write_verdicts
from bench.cli.main import main
from bench.core import files
from bench.core.errors import UserError
from bench.core.files import TEMPORARY, from_json, lock, read_file, remove_leftovers, to_csv
from bench.drive.estimates import known_seconds
from bench.plan.spec import RunSpec
from bench.present.charts.build import charts_of
from bench.present.report import page
from bench.present.report.confusion import counted, most_confused
from bench.present.table_formats import render
from bench.store import disk
from bench.store.disk import FOLDERS, VIEWS, Store
from bench.store.predictions import read_arrays
from bench.store.records import FinishedRun
from bench.store.views import history_csv
from tests.store.test_records import changed, full_session, lr_search, paths, setting_search
from tests.synthetic import failure, record, sealed, spec

IMAGES, VALIDATION = 40, 12
HANG_SECONDS = 60  # of one test, which takes a second


@pytest.fixture(autouse=True)
def no_hang() -> Iterator[None]:
    """A pipe that a reader waits for ends the test, not the machine's day."""

    def rings(*_: object) -> None:
        raise AssertionError("it hangs")

    before = signal.signal(signal.SIGALRM, rings)
    signal.alarm(HANG_SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def npz(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def predictions(seed: int = 0) -> dict[str, Any]:
    """Of both parts: three of four right, with losses of 1."""
    arrays: dict[str, Any] = {}
    for part, count in (("val", VALIDATION), ("test", IMAGES)):
        label = np.arange(count) % 10
        wrong = (np.arange(count) + seed) % 4 == 0
        arrays[f"{part}_label"] = label.astype(np.int16)
        arrays[f"{part}_predicted"] = np.where(wrong, (label + 1) % 10, label).astype(np.int16)
        arrays[f"{part}_loss"] = np.ones(count, np.float32)
    return arrays


def sound_run(of: RunSpec, family: str) -> tuple[FinishedRun, dict[str, bytes]]:
    """A finished run and its files, with which `check` finds nothing wrong."""
    arrays = predictions(of.seed + len(family))
    share = {part: float((arrays[f"{part}_label"] == arrays[f"{part}_predicted"]).mean()) for part in ("val", "test")}
    figures = {
        "accuracy": share["test"],
        "test_images": IMAGES,
        "val_images": VALIDATION,
        "train_flops_2x": 753_638_592,
    }
    run = record(of, share["val"], family, metrics=figures, target=0.5)
    return run, {"history.csv": history_csv(run.history), "predictions.npz": npz(**arrays)}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with records of every kind and nothing wrong; do not write to it."""
    store = Store(tmp_path_factory.mktemp("sound"))
    for model, family in (("seresnet", "cnn"), ("vit_tiny", "hybrid")):
        for seed in range(2):
            store.write_spec(spec(model, seed))
            store.write_record(*sound_run(spec(model, seed), family))
    store.write_record(failure(spec("cct_2")))
    store.write_session(full_session())
    store.write_setting_search(setting_search())
    store.write_lr_search(lr_search())
    store.rebuild_views()
    write_verdicts(store)
    return store.root


@pytest.fixture
def store(sound: Path, tmp_path: Path) -> Store:
    """A copy to damage."""
    return Store(Path(shutil.copytree(sound, tmp_path / "store")))


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder of the user's, which no command on the store may touch."""
    folder = tmp_path / "home"
    (folder / "deep").mkdir(parents=True)
    for name in ("private", f"{TEMPORARY}work", f"deep/{TEMPORARY}work"):
        (folder / name).write_text("mine")
    return folder


def untouched(outside: Path) -> bool:
    contents = {path.relative_to(outside).as_posix(): path.read_text() for path in outside.rglob("*") if path.is_file()}
    return contents == dict.fromkeys(("private", f"{TEMPORARY}work", f"deep/{TEMPORARY}work"), "mine")


READERS: dict[str, Callable[[Store], object]] = {
    "table": lambda store: [render(compare([store]), style) for style in ("text", "csv")],
    "plot": lambda store: charts_of([store]),
    "report": lambda store: page.build([store], still=False),
    "compare": lambda store: pairs([store]),
    "check": lambda store: list(problems(store)),
    "notebook": lambda store: frame([store]),
    "views": lambda store: (store.rebuild_views(), write_verdicts(store)),
    "search": lambda store: (store.setting_search("seresnet-tuned"), store.lr_search("seresnet-shared")),
    "forecast": lambda store: known_seconds(spec("seresnet"), 1000, store.runs()),
}


def read_all(store: Store, names: Iterable[str] = READERS) -> list[str]:
    """Every reader; only `compare` and `table` may have nothing to say. What `check` finds wrong."""
    for name in names:
        with contextlib.suppress(UserError):
            READERS[name](store)
    return list(problems(store))


TEMPLATE = functools.cache(page._template)


@pytest.fixture
def light(monkeypatch: pytest.MonkeyPatch) -> None:
    """The report without its charts' script, and its template read once: each takes longer than all readers."""
    monkeypatch.setattr(page, "_plotly", lambda: "")
    monkeypatch.setattr(page, "_template", TEMPLATE)


def test_nothing_is_wrong_with_the_sound_one(store: Store, light: None) -> None:
    assert read_all(store) == []


# --- records ---------------------------------------------------------------------------------------------------------

VALUES = [
    *(None, True, 0, -1, 1, 10**17, 1e308, 5e-324, 1e39, 1e-39, 1e-9, -1.0, "", "x", "\x1b[2J", "=1+1", "lots"),
    *([], {}, [[]], {"": None}, "a" * 1000, "2026"),
]
KINDS = ["runs/seresnet*/record.json", "runs/cct*/record.json", "speed/*.json", "tuning/*.json", "search/*.json"]


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_every_field_of_a_record_may_be_anything(store: Store, kind: str, light: None) -> None:
    """Each field in turn, under a checksum that holds: the record is read, or left out and named."""
    rng, path = random.Random(kind), min(store.root.glob(kind))
    body = json.loads(path.read_bytes())
    readers = (
        ("compare", "search") if kind.startswith(("tuning", "search")) else READERS
    )  # the others read none of these
    for place in paths(body):
        if place[0] in ("checksum", "schema"):
            continue
        for value in rng.sample(VALUES, 1 if len(place) > 1 else 2):
            path.write_bytes(sealed(changed(body, place, value)))
            try:
                damaged: list[str] = []
                for read in (store.runs, store.sessions, store.setting_searches, store.lr_searches):
                    read(damaged)
                assert len(damaged) <= 1
                if not damaged:
                    read_all(store, readers)
            except Exception as error:
                error.add_note(f"{place} = {value!r}")
                raise


@pytest.mark.parametrize(
    "content", [b"[1,2]", b"5", b"[" * 100_000, b"{}", b'{"recipe": 1}', b"\xff", b"null"], ids=range(7)
)
def test_a_spec_that_is_none(store: Store, content: bytes) -> None:
    (store.run_dir(spec("seresnet")) / "spec.json").write_bytes(content)
    (problem,) = problems(store)
    assert "spec.json " in problem


def test_json_that_is_nested_too_deeply_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="nested too deeply"):
        from_json(b"[" * 100_000)


# --- files that are none ---------------------------------------------------------------------------------------------

RUN_PARTS = ("spec.json", "predictions.npz", "history.csv", "record.json")
SESSION = f"speed/{full_session().id}.json"
OTHERS = (*VIEWS, VERDICTS, SESSION, "tuning/seresnet-tuned.json", "search/seresnet-shared.json")


def as_pipe(path: Path, _: Path) -> None:
    os.mkfifo(path)


def as_device(path: Path, _: Path) -> None:
    path.symlink_to("/dev/zero")


def as_link(path: Path, outside: Path) -> None:
    path.symlink_to(outside / "private")


def as_folder(path: Path, _: Path) -> None:
    path.mkdir()


def as_endless(path: Path, _: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 36)  # of holes, which take no room


@pytest.mark.parametrize("put", [as_pipe, as_device, as_link, as_folder, as_endless])
def test_what_is_no_file_is_named(store: Store, outside: Path, put: Callable[[Path, Path], None], light: None) -> None:
    own = f"runs/{spec('seresnet').run_id}"
    for name in (*(f"{own}/{file}" for file in RUN_PARTS), *OTHERS):
        path = store.root / name
        path.unlink()
        put(path, outside)
        found = list(problems(store))
        assert any(path.name in line for line in found), (name, found)
    read_all(store)
    assert b"mine" not in page.build([store], still=False)
    assert untouched(outside)


def test_a_link_is_replaced_by_the_view_and_not_written_through(store: Store, outside: Path) -> None:
    for name in ("results.csv", VERDICTS):
        content = (store.root / name).read_bytes()
        (store.root / name).unlink()
        (store.root / name).symlink_to(outside / "private")
        store.rebuild_views()
        write_verdicts(store)
        assert not (store.root / name).is_symlink()
        assert (store.root / name).read_bytes() == content
    assert untouched(outside)


# --- links -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["private", "new"])
def test_a_locks_owner_is_not_written_through_a_link(store: Store, outside: Path, target: str) -> None:
    about = store.root / "locks/views.owner"
    about.unlink(missing_ok=True)
    about.symlink_to(outside / target)
    store.rebuild_views()
    assert untouched(outside)
    assert about.read_text() == f"process {os.getpid()} on {os.uname().nodename}"


@pytest.mark.parametrize("put", [as_pipe, as_device, as_link, as_folder])
def test_a_lock_that_is_none_is_refused(tmp_path: Path, outside: Path, put: Callable[[Path, Path], None]) -> None:
    put(tmp_path / "x.lock", outside)
    with pytest.raises(UserError, match="in the place of a lock"), lock(tmp_path / "x.lock"):
        pass
    assert untouched(outside)


def test_an_owner_that_is_a_pipe_is_another_process(tmp_path: Path) -> None:
    with lock(tmp_path / "x.lock"):
        (tmp_path / "x.owner").unlink()
        os.mkfifo(tmp_path / "x.owner")
        assert files.holder(tmp_path / "x.lock") == "another process"


@pytest.mark.parametrize("name", [*FOLDERS, "run", "checkpoints"])
def test_a_folder_that_is_a_link_is_refused(
    store: Store, outside: Path, name: str, capsys: pytest.CaptureFixture[str], light: None
) -> None:
    """Nothing is written, removed or read behind it, and the message says which it is."""
    of = spec("seresnet")
    run = f"runs/{of.run_id}"
    place = store.root / {"run": run, "checkpoints": f"{run}/checkpoints"}.get(name, name)
    if place.exists():
        shutil.rmtree(place)
    place.symlink_to(outside)
    read_all(store)
    attempts: list[Callable[[], object]] = [
        lambda: store.write_spec(of),
        lambda: store.write_record(*sound_run(of, "cnn")),
        lambda: store.claim(of.run_id).__enter__(),
        lambda: store.claim_timing().__enter__(),
        lambda: store.write_session(full_session()),
        lambda: store.write_setting_search(setting_search()),
        lambda: store.write_lr_search(lr_search()),
        lambda: store.keep_sweep("models = ['seresnet']"),
        lambda: store.place("plots"),
        lambda: store.place("slurm"),
    ]
    refused = 0
    for attempt in attempts:
        try:
            attempt()
        except UserError as error:
            refused += f"'{place}' is a link" in str(error)
    assert refused >= 1
    assert untouched(outside)
    if name != "checkpoints":
        with pytest.raises(UserError, match="is a link"):
            store.check_writable()
    assert main(["plot", "--results", str(store.root), "--formats", "svg"]) in (0, 1, 2) if name == "plots" else True
    assert untouched(outside)


def test_leftovers_are_removed_one_level_deep(tmp_path: Path, outside: Path) -> None:
    (tmp_path / f"{TEMPORARY}file").write_text("half")
    (tmp_path / f"{TEMPORARY}link").symlink_to(outside / "private")
    (tmp_path / f"{TEMPORARY}folder").mkdir()
    remove_leftovers(tmp_path)
    assert [path.name for path in tmp_path.glob(f"{TEMPORARY}*")] == [f"{TEMPORARY}folder"]
    remove_leftovers(outside)
    assert (outside / "deep" / f"{TEMPORARY}work").exists()


def test_a_folder_that_looks_like_a_leftover_keeps_nobody_from_working(store: Store) -> None:
    for folder in (store.root, store.root / "speed", store.run_dir(spec("seresnet"))):
        (folder / f"{TEMPORARY}x").mkdir()
    store.rebuild_views()
    with store.claim(spec("seresnet").run_id), store.claim_timing():
        pass
    assert list(problems(store)) == []


# --- a run's files as one --------------------------------------------------------------------------------------------


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.mark.parametrize("step", range(14))
def test_a_rerun_that_dies_leaves_the_old_run_or_none(store: Store, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed, or the disk full, at each operation on a file: check finds nothing wrong, or the run is begun again."""
    of = spec("seresnet")
    run, contents = sound_run(of, "another family")
    before = store.record(of)
    counted_calls = 0

    def dies_at(operation: Callable[..., Any], error: BaseException) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal counted_calls
            counted_calls += 1
            if counted_calls > step:
                raise error
            return operation(*arguments, **options)

        return call

    with monkeypatch.context() as patch:
        for name in ("fsync", "replace", "unlink"):
            patch.setattr(os, name, dies_at(getattr(os, name), Killed()))
        with contextlib.suppress(Killed):
            store.write_record(run, contents)
    after = store.record(of)
    if isinstance(after, FinishedRun):
        assert after.metrics in (run.metrics, before.metrics if isinstance(before, FinishedRun) else None)
        found = [line for line in problems(store) if not line.startswith((*VIEWS, VERDICTS))]
        assert found == []
    else:
        assert not store.is_done(of)
    with store.claim(of.run_id):
        store.write_record(run, contents)
    assert store.record(of) == msgspec_files(run, store)
    assert not [*store.run_dir(of).glob(f"{TEMPORARY}*")]


def msgspec_files(run: FinishedRun, store: Store) -> FinishedRun:
    checksums = {name: files.sha256((store.run_dir(run.spec) / name).read_bytes()) for name in disk.RUN_FILES}
    return msgspec.structs.replace(run, files=checksums)


def test_a_full_disk_leaves_the_old_run_whole(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        store.write_record(*sound_run(spec("seresnet"), "another family"))
    monkeypatch.undo()
    assert list(problems(store)) == []


def test_a_folder_that_was_removed_in_a_run_is_whole_again(store: Store) -> None:
    of = spec("seresnet")
    shutil.rmtree(store.root / "runs" / of.run_id)
    store.write_record(*sound_run(of, "cnn"))
    assert list(problems(store)) == []


def test_what_a_machine_sends_replaces_a_run_as_one(store: Store) -> None:
    """Files without the record that describes them are none of the store's."""
    of = spec("seresnet")
    store.adopt(
        [(f"runs/{of.run_id}/history.csv", b"half"), (f"runs/{of.run_id}/predictions.npz", b"half")], again=True
    )
    assert list(problems(store)) == []


# --- predictions -----------------------------------------------------------------------------------------------------


def damaged_predictions() -> dict[str, tuple[dict[str, Any], str]]:
    """Arrays that replace sound ones, and what check says."""
    structured = np.zeros(IMAGES, [("a", np.int16)])
    return {
        "nan": ({"test_loss": np.full(IMAGES, np.nan, np.float32)}, "the test losses give another mean"),
        "one nan": ({"test_loss": np.r_[np.nan, np.ones(IMAGES - 1)].astype(np.float32)}, "the test losses give"),
        "empty": ({"test_loss": np.zeros(0, np.float32)}, "test_loss of 0 images, not 40"),
        "one": ({"test_loss": np.ones(1, np.float32)}, "test_loss of 1 images, not 40"),
        "0-d": ({"test_loss": np.float32(1)}, r"test_loss of shape \(\)"),
        "no loss": ({"val_loss": None}, "lacks val_loss"),
        "one validated": ({f"val_{k}": np.ones(1, np.int16) for k in ("label", "predicted")}, "of 1 images, not 12"),
        "structured": ({"test_label": structured}, "not one class for each image"),
        "void": ({"test_label": structured.view("V2")}, "not one class for each image"),
        "text": ({"test_label": np.full(IMAGES, "x")}, "not one class for each image"),
        "dates": ({"test_loss": np.full(IMAGES, "2026", "M8[D]")}, "not one loss for each image"),
        "objects": ({"test_label": np.full(IMAGES, None)}, "not one class for each image"),
        "2-d": ({"test_label": np.zeros((IMAGES, 1), np.int16)}, "not one class for each image"),
        "val loss": ({"val_loss": np.zeros(VALIDATION, np.float32)}, "the val losses give another mean"),
    }


@pytest.mark.parametrize("name", damaged_predictions())
def test_predictions_that_say_nothing_are_named(store: Store, name: str, light: None) -> None:
    harm, sentence = damaged_predictions()[name]
    of = spec("seresnet")
    run, contents = sound_run(of, "cnn")
    arrays = {k: v for k, v in (predictions(of.seed + len("cnn")) | harm).items() if v is not None}
    store.write_record(run, {**contents, "predictions.npz": npz(**arrays)})
    store.rebuild_views()
    own = [line for line in read_all(store) if line.startswith(of.run_id)]
    assert own
    assert any(re.search(sentence, line) for line in own), own


def bomb(name: str, shape: tuple[int, ...], size: int) -> bytes:
    """An npz of one array, whose header says `shape` and whose content unpacks to `size` zeros."""
    header = repr({"descr": "<i8", "fortran_order": False, "shape": shape}).encode().ljust(117) + b"\n"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive, archive.open(f"{name}.npy", "w") as file:
        file.write(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header)
        for _ in range(size // (1 << 20)):
            file.write(bytes(1 << 20))
    return buffer.getvalue()


@pytest.mark.parametrize("shape", [(1 << 30,), (IMAGES,), (-1,), (1 << 62,), (0,)], ids=str)
def test_a_bomb_is_not_unpacked(shape: tuple[int, ...]) -> None:
    content, unpacked = bomb("test_label", shape, 64 << 20), 0
    assert len(content) < 1 << 20
    read = zipfile.ZipExtFile.read

    def counting(self: zipfile.ZipExtFile, n: int | None = -1) -> bytes:
        nonlocal unpacked
        unpacked += len(data := read(self, n))
        return data

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zipfile.ZipExtFile, "read", counting)
        with pytest.raises(ValueError, match="test_label"):
            read_arrays(content, ("test_label",), IMAGES)
        assert read_arrays(content, ("test_predicted",), IMAGES) == {}
    assert unpacked < 1000, "the header, and one byte more than the images take"


def test_a_validation_part_of_unknown_size_is_bounded() -> None:
    with pytest.raises(ValueError, match="val_label of 1,073,741,824 images"):
        read_arrays(bomb("val_label", (1 << 30,), 1 << 20), ("val_label",), None)


def test_many_classes_are_counted_by_what_occurs() -> None:
    """100,000 classes are 10 billion cells; three images are three pairs."""
    found = counted([5, 5, 99_999, 7], [6, 6, 0, 7], 100_000)
    assert found == {(5, 6): 2, (99_999, 0): 1, (7, 7): 1}
    assert most_confused(found) == [(5, 6, 2, 2), (99_999, 0, 1, 1)]


# --- CSV -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("=1+1", "'=1+1"),
        ("+1", "'+1"),
        ("-1", "'-1"),
        ("@SUM(1)", "'@SUM(1)"),
        ("\t=1", "'\t'=1"),
        ("\n=1+1", "'\n'=1+1"),
        ("\r=1", "'\r'=1"),
        (" =1", "' =1"),
        ("\uff1d1+1", "'\uff1d1+1"),
        ("a;=cmd|'/C calc'!A0;", "a;'=cmd|'/C calc'!A0;"),
        ("a\n=1", "a\n'=1"),
        ("a=1;b", "a=1;b"),
        ("vit-tiny", "vit-tiny"),
    ],
)
def test_a_cell_that_a_spreadsheet_would_compute_is_text(text: str, cell: str) -> None:
    content = to_csv(("a", "b"), [{"a": text, "b": -1.5}]).decode()
    assert list(csv.reader(io.StringIO(content, newline=""))) == [["a", "b"], [cell, "-1.5"]]
    assert (f'"{cell}"' in content) == (cell != text), "in quotes, so that no other locale splits it"


# --- views -----------------------------------------------------------------------------------------------------------


def test_verdicts_are_read_and_written_under_one_lock(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the slower of two sweeps that end at once would write what it read before the faster one's runs."""
    monkeypatch.setattr(disk, "VIEWS_WAIT_SECONDS", 0.0)
    (store.root / VERDICTS).unlink()
    held: list[str | None] = []
    whole = verdicts_csv(store)

    def watched(_: Store) -> bytes | None:
        held.append(files.holder(store.root / "locks/views.lock"))
        return whole

    monkeypatch.setattr("bench.analysis.verdicts_csv.verdicts_csv", watched)
    assert write_verdicts(store) == store.root / VERDICTS
    assert held == [f"process {os.getpid()} on {os.uname().nodename}"]
    with store.claim_views():
        assert write_verdicts(store) is None, "the other process has it"


def test_a_bounded_file(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"four")
    assert read_file(tmp_path / "x", most=4) == b"four"
    with pytest.raises(ValueError, match="larger than the 3 bytes"):
        read_file(tmp_path / "x", most=3)
    with pytest.raises(FileNotFoundError):
        read_file(tmp_path / "y")
