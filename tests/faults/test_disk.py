"""Full disks, read-only disks, flipped bits, edited views: found, named, and repaired by the same command."""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bench.analysis.check import check, problems
from bench.analysis.tables import compare
from bench.cli.main import main
from bench.core.errors import UserError
from bench.core.files import write_atomically
from bench.data.datasets import DataSource
from bench.drive.sweep import Views
from bench.plan.recipes import smoke
from bench.plan.spec import RunSpec, Setting
from bench.present.table_formats import FORMATS, render
from bench.store.disk import VIEWS, Store
from bench.store.records import FinishedRun, Metrics, encode, finished
from tests.conftest import ROOT

BITS = 40 if "SEVIT_KILLS" in os.environ else 10


def specs_of(source: DataSource) -> list[RunSpec]:
    """The runs of the fixture `pristine`."""
    recipe = replace(smoke(), epochs=2, batch_size=20, precision="fp32")
    return [RunSpec(m, source.load().ref, recipe, Setting(), "cpu", "here", 0) for m in ("resnet20", "vit_params")]


def in_namespace(script: str, *words: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a shell script where it can mount file systems that no other process sees."""
    able = shutil.which("unshare") and subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode == 0
    if not able:
        pytest.skip("no user namespaces here, so no file system can be mounted")
    command = ["unshare", "-rm", "sh", "-c", script, "sh", *map(str, words)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)


FULL = """
mount -t tmpfs -o size=$2 tmpfs "$1" || exit 99
shift 2
"$@" --results "$STORE"; echo "first: $?"
mount -o remount,size=100m "$STORE"
"$@" --results "$STORE"; echo "second: $?"
"$1" run_bench.py check --results "$STORE"; echo "check: $?"
"""


def test_a_full_disk_is_a_sentence_and_the_same_command_finishes(
    words: list[str], factory: Path, tmp_path: Path
) -> None:
    """A real file system of ten pages; then it grows."""
    command = [sys.executable, "run_bench.py", *words, "--epochs=2", "--models", f"resnet20,{factory}:fine"]
    done = in_namespace(f'STORE="$1"\n{FULL}', tmp_path, "40k", *command)
    assert "first: 1" in done.stdout or "first: 2" in done.stdout, done.stdout + done.stderr
    assert "No space left on device" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert "second: 0" in done.stdout, done.stdout + done.stderr
    assert "2 finished runs, 0 failed runs" in done.stdout
    assert "check: 0" in done.stdout, done.stdout


def test_a_read_only_store_is_found_before_training(words: list[str], factory: Path, tmp_path: Path) -> None:
    script = 'mount -t tmpfs -o ro tmpfs "$1" && shift && "$@"'
    command = [sys.executable, "run_bench.py", *words, f"--models={factory}:fine", "--results", tmp_path / "s"]
    done = in_namespace(script, tmp_path, *command)
    assert done.returncode == 2, done.stderr
    assert "Read-only file system" in done.stderr
    assert "choose another with --results DIR" in done.stderr
    assert "epoch 1/" not in done.stdout


LIMITED = """
import resource, sys
from pathlib import Path
from bench.core.files import write_atomically
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
try:
    write_atomically(Path(sys.argv[1]), b"x" * 20_000)
except OSError as error:
    print(error.strerror)
"""


def test_a_file_size_limit_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    write_atomically(path, b"old")
    done = subprocess.run([sys.executable, "-c", LIMITED, str(path)], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "File too large\n", done.stderr
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def files_of(root: Path) -> list[str]:
    """One of each kind of file that a store consists of."""
    kinds = ["runs/*/record.json", "runs/*/spec.json", "runs/*/history.csv", "runs/*/predictions.npz", "speed/*.json"]
    return [str(sorted(root.glob(kind))[0].relative_to(root)) for kind in (*kinds, *VIEWS)]


@pytest.mark.parametrize("index", range(10))
def test_a_flipped_bit_in_any_file_is_found(store: Store, pristine: Path, index: int) -> None:
    """Ten random bits (40 in `make faults`) in each kind of file; tables of what is left never fail."""
    name = files_of(pristine)[index]
    path, rng = store.root / name, random.Random(index)
    content = path.read_bytes()
    assert list(problems(store)) == []
    for _ in range(BITS):
        damaged = bytearray(content)
        damaged[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        try:
            faults = list(problems(store))
        except UserError:  # a flipped bit in the schema's number may make it one of the future
            continue
        assert faults, f"{name} is damaged, and nothing says so"
        assert any(part in faults[0] for part in (Path(name).parent.name, Path(name).name, store.root.name))
        for style in FORMATS:
            render(compare([store]), style)
    path.write_bytes(content)
    assert list(problems(store)) == []


def test_views_come_back(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    """Deleted, truncated, edited, not even text: `check` says so, `check --rebuild` repairs it."""
    before = {name: (store.root / name).read_bytes() for name in VIEWS}
    (store.root / "results.csv").unlink()
    (store.root / "history.csv").write_bytes(before["history.csv"][:100])
    (store.root / "timings.csv").write_text("edited,by,hand\n1,2,3\n")
    (store.root / "environment.csv").write_bytes(b"\xff\x00\xfe")
    (store.root / "speed.csv").write_bytes(b"")
    assert main(["check", "--results", str(store.root)]) == 1
    printed = capsys.readouterr().out
    assert all(name in printed for name in VIEWS)
    assert "5 problems" in printed
    assert main(["check", "--rebuild", "--results", str(store.root)]) == 0
    assert "0 problems" in capsys.readouterr().out
    assert {name: (store.root / name).read_bytes() for name in VIEWS} == before


def test_verdicts_are_held_against_the_runs(store: Store) -> None:
    """Edited, cut, of other runs: `check` says so. None at all, or other last digits, is no fault."""
    path = store.root / "verdicts.csv"
    content = path.read_bytes()
    rounded = re.sub(rb"\d\.\d{12,}", lambda match: match[0][:13], content)
    assert rounded != content
    for sound in (content, rounded):
        path.write_bytes(sound)
        assert list(problems(store)) == []
    edited = [content.replace(*words) for words in ((b"no verdict", b"better"), (b"0.5", b"0.6"), (b",", b"", 1))]
    for damaged in (*edited, content[:-9], content.splitlines(keepends=True)[0], b"", b"\xff", b"\0"):
        path.write_bytes(damaged)
        assert list(problems(store)) == ["verdicts.csv differs from the records (check --rebuild writes it anew)"]
    path.unlink()
    assert list(problems(store)) == []
    assert check(store, rebuild=True)[0] == []
    assert path.read_bytes() == content
    shutil.rmtree(next(store.root.glob("runs/vit_params*")))
    assert check(store, rebuild=True)[0] == ["verdicts.csv is about runs that are not here"]


def test_a_damaged_record_is_said_in_the_table(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    path = next(store.root.glob("runs/vit_params*/record.json"))
    path.write_bytes(path.read_bytes()[:500])
    assert main(["table", "--results", str(store.root)]) == 0
    printed = " ".join(capsys.readouterr().out.split())  # a long path begins a line of its own
    assert "resnet20" in printed
    assert "vit_params" in printed.split("left out: ")[1]


def test_the_schema_of_the_future_is_refused_everywhere(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    path = next(store.root.glob("runs/*/record.json"))
    path.write_text(path.read_text().replace('"schema": 2', '"schema": 3', 2))
    for words in (["table"], ["plot"], ["check"]):
        assert main([*words, "--results", str(store.root)]) == 2
        assert "newer version of this program (schema 3" in capsys.readouterr().err


def test_check_holds_records_against_each_other(store: Store) -> None:
    """Records with a valid checksum of their own that contradict the files beside them."""
    run = finished(store.runs())[0]
    folder = store.root / "runs" / run.run_id

    def problems_with(**changes: Any) -> str:
        (folder / "record.json").write_bytes(encode(msgspec.structs.replace(run, **changes)))
        return "\n".join(check(store, rebuild=True)[0])

    def metrics(**changes: Any) -> Metrics:
        return msgspec.structs.replace(run.metrics, **changes)

    first, second = run.history
    slower = msgspec.structs.replace(first, train_seconds=1e6)
    assert problems_with() == ""
    assert "another accuracy" in problems_with(metrics=metrics(accuracy=0.123))
    assert "losses give another mean" in problems_with(metrics=metrics(test_loss=9.0))
    assert "test_predicted of 60 images, not 59" in problems_with(metrics=metrics(test_images=59))
    assert "epochs are not 1 to" in problems_with(history=(second, first))
    assert "epochs are not 1 to" in problems_with(history=(first, first))
    assert "train_seconds falls" in problems_with(history=(slower, second))
    assert "not the hash of its spec" in problems_with(spec=replace(run.spec, seed=1))
    assert "predictions.npz is missing" not in problems_with()
    (folder / "predictions.npz").unlink()
    assert "predictions.npz is missing" in problems_with()


def test_views_cost_is_linear_in_the_number_of_runs(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rebuild takes 1 ms a run, a run 1 s: the share of the time that goes into views does not grow with the runs."""
    for runs in (2_000, 20_000):
        time, cost = [0.0], [0.0]
        done = [0]

        def rebuild(time: list[float] = time, cost: list[float] = cost, done: list[int] = done) -> None:
            time[0] += done[0] / 1000
            cost[0] += done[0] / 1000

        monkeypatch.setattr(store, "rebuild_views", rebuild)
        views = Views(store, now=lambda time=time: time[0])
        for _ in range(runs):
            time[0] += 1.0
            done[0] += 1
            views.rebuild_if_due()
        # a hundredth of the time, and the one rebuild that the last pause has not yet paid for
        assert 0 < cost[0] <= 0.01 * time[0] + runs / 1000


def test_odd_paths(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A store whose path has a space, an umlaut, a line break and a formula in it."""
    root = tmp_path / "=größe of\nmy store 🚀"
    assert main([*words, "--models=resnet20", "--epochs=1", "--results", str(root)]) == 0
    assert main(["table", "--results", str(root)]) == 0
    assert main(["check", "--results", str(root)]) == 0
    assert "1 finished run, 0 failed runs" in capsys.readouterr().out


def test_a_sidecar_that_crashes_costs_no_measurement(
    words: list[str],
    untimed: None,
    charts: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Plots after a sweep; the FLOP count of a run; NVML while a machine is described."""
    from bench.machine import environment
    from bench.measure import counting
    from bench.measure.run import run_one
    from bench.present.charts import static

    def breaks(*_: object, **__: object) -> None:
        raise RuntimeError("broken on purpose")

    monkeypatch.setattr(static, "save_all", breaks)
    assert main([*words, "--models=resnet20", "--epochs=1", "--results", str(tmp_path / "s")]) == 1
    assert "the plots could not be drawn: RuntimeError: broken on purpose" in capsys.readouterr().out
    assert isinstance(Store(tmp_path / "s").runs()[0], FinishedRun)
    assert (tmp_path / "s" / "results.csv").is_file()

    monkeypatch.setattr(counting, "count", breaks)
    monkeypatch.setattr(counting, "cache_dir", lambda: tmp_path / "cache")  # where no count is known yet
    source = DataSource(words[0].removeprefix("--dataset="), Path(), None, 1.0)
    record = run_one(specs_of(source)[0], source.load(), Store(tmp_path / "t"), lambda event: None)
    assert record.metrics.flops is None
    assert any("FLOPs not counted: RuntimeError: broken on purpose" in note for note in record.notes)
    assert record.metrics.params

    monkeypatch.setitem(sys.modules, "pynvml", None)  # its import raises
    assert environment.driver_version().startswith("unknown (")
