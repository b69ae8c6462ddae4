"""The `time` command from end to end: rows, failures, refusals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from subprocess import CompletedProcess
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from bench.cli.main import main
from bench.core.display import Display
from bench.core.events import Event, ModelTurn
from bench.drive import speed
from bench.drive.speed import time_together, try_each
from bench.executors.child import Outcome
from bench.executors.protocol import Device
from bench.measure import session
from bench.plan.request import TimeRequest
from bench.plan.spec import SessionSpec, session_of
from bench.present.screen.progress import ScreenDisplay, make_console
from bench.present.session_table import session_notes
from bench.store.disk import Store
from bench.store.views import SPEED_COLUMNS
from tests.synthetic import RECIPE, spec

Bench = Callable[..., "CompletedProcess[str]"]


@pytest.mark.long
def test_failures_are_rows_and_the_session_continues(here: Bench, factory: Path, tmp_path: Path) -> None:
    """One that raises, one that dies, two that cannot do a larger batch, one that dies in the session itself."""
    ways = ("fine", "raises", "dies_at_once", "no_memory_above_16", "dies_above_16", "dies_later")
    names = ",".join(f"{factory}:{way}" for way in ways)
    words = [
        "--batch-size=8",
        "--batch-sizes=4,32",
        "--image-size=16",
        "--num-classes=3",
        "--time-limit=600s",
        "--starts=1",
        "--within=50",
    ]
    done = here("time", "--models", names, *words, "--device=cpu", "--results", tmp_path / "s")
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    rows = pd.read_csv(tmp_path / "s" / "speed.csv")
    assert list(rows.columns) == list(SPEED_COLUMNS)
    rows["way"] = rows["model"].str.rsplit(":", n=1).str[1]
    ok = rows[rows["status"] == "ok"]
    kinds = {way: set(zip(part["kind"], part["batch_size"], strict=True)) for way, part in ok.groupby("way")}
    every = {("train", 8), ("inference", 4), ("inference", 32), ("latency", 1)}
    assert kinds == {
        "fine": every,
        "raises": every - {("train", 8)},
        "no_memory_above_16": every - {("inference", 32)},
        "dies_above_16": every - {("inference", 32)},
    }
    bad = {(r.way, r.kind if isinstance(r.kind, str) else ""): (r.status, r.message) for r in rows.itertuples()}
    assert bad["raises", "train"] == ("failed", "ValueError: broken in training")
    assert bad["no_memory_above_16", "inference"][0] == "oom"
    assert bad["dies_above_16", "inference"] == ("killed", "its process ended by exit code 7")
    assert bad["dies_at_once", ""] == ("killed", "its process ended by exit code 7")
    assert bad["dies_later", ""] == ("killed", "its process ended by exit code 7")
    train = ok[ok["kind"] == "train"].set_index("way")
    assert train.loc["fine", "bound"] in ("launch", "bandwidth", "compute", "loader")
    assert train.loc["fine", "memory_bytes"] > 1e8
    assert (train["n"] >= 3).all()
    assert train["joules_missing"].notna().all() or train["joules_per_1000_images"].notna().all()
    assert ok.loc[ok["way"] == "no_memory_above_16", "ratio"].notna().all()
    (made,) = Store(tmp_path / "s").sessions()
    assert made.groups.keys() == made.bounds.keys()
    for model, step in made.groups.items():
        assert step.step_seconds == made.bounds[model].step_seconds
        assert step.groups["matrix product"] > 0
    assert "again without it" in done.stdout
    assert {path.name.rsplit("-", 1)[1] for path in (tmp_path / "s" / "plots").glob("*.png")} >= {
        f"{kind}.png" for kind in ("throughput_vs_batch", "latency_vs_batch", "roofline", "step_time")
    }
    assert made.key.policy == "identical:eager"


def test_the_device_and_the_setting_are_said_before_anything_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`auto` on a GPU is one setting by the sweep's rule; a GPU that torch cannot use is a sentence."""

    def settled(device: Device, *asked: str) -> tuple[list[str], list[str]]:
        lines: list[str] = []
        display: Any = SimpleNamespace(line=lines.append)
        monkeypatch.setattr(speed, "local_devices", lambda name: [device])
        request = TimeRequest(("resnet20", "cct_2"), settings=asked or ("auto",), time_limit=120.0)
        return speed.settings_of(request, speed.the_device(request, display), Store(tmp_path), display), lines

    gpu, cpu = (Device("here", "this machine", kind, "Test", False, 2) for kind in ("cuda", "cpu"))
    assert settled(cpu) == (["eager"], [])
    line = "setting graphed, because 2 min of timing do not repay compiling; --setting chooses another"
    assert settled(gpu) == (["graphed"], [line])
    assert settled(gpu, "eager", "auto", "graphed") == (["eager", "graphed"], [line])
    assert settled(gpu, "eager") == (["eager"], [])
    assert settled(replace(cpu, note="torch here is a CPU build")) == (["eager"], ["torch here is a CPU build"])


def test_a_model_that_dies_at_large_batches_keeps_the_others(factory: Path) -> None:
    """Batches of 8, 32, 64: the process dies at 32 and again at 64, each is a row; the training step comes after."""
    name = f"{factory}:dies_above_16"
    few = replace(RECIPE, batch_size=8)
    of = replace(session_of([spec(name, recipe=few)], 600.0), batch_sizes=(8, 32, 64), image_size=8)
    trials = try_each(of, ScreenDisplay(make_console()))
    assert {(row.kind, row.batch_size) for row in trials.memory} == {("latency", 1), ("inference", 8), ("train", 8)}
    failures = [(row.kind, row.batch_size, row.status) for row in trials.failures]
    assert failures == [("inference", 32, "killed"), ("inference", 64, "killed")]
    assert not trials.failed_models()


class InProcess:
    """Carries out the parts of a session in this process; `dies_at`: the start in which a model takes it down."""

    def __init__(self, dies_at: int = -1) -> None:
        self.dies_at, self.turns, self.starts = dies_at, list[list[str]](), 0

    def __call__(self, function: str, args: Any, on_event: Any, timeout: float, grace: float) -> Outcome:
        self.turns.append([])

        def report(event: Event) -> None:
            on_event(event)
            if isinstance(event, ModelTurn) and event.model and not event.kind:
                self.turns[-1].append(event.model)

        self.starts += 1
        if self.starts == self.dies_at:
            on_event(ModelTurn("resnet20"))
            return Outcome("killed", "its process ended by exit code 7")
        session.child_session(report, *args)
        return Outcome("ok")


def quick_session(models: tuple[str, ...], seconds: float) -> SessionSpec:
    """Few images and samples of one call, so that the pilot takes a moment."""
    runs = [spec(name, recipe=replace(RECIPE, batch_size=2)) for name in models]
    return replace(session_of(runs, seconds), half_width=5.0, image_size=8)


def test_three_starts_are_one_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each builds the models in another order, calls them as often, and adds as many blocks."""
    monkeypatch.setitem(session.SAMPLE_SECONDS, "cpu", 0.0)
    call, display = InProcess(), ScreenDisplay(make_console())
    made = time_together(quick_session(("resnet20", "vit_params"), 600.0), Store(tmp_path), display, call=call)
    assert made is not None
    assert call.turns == [["resnet20", "vit_params"], ["vit_params", "resnet20"], ["resnet20", "vit_params"]]
    assert (made.starts, made.planned_starts, made.blocks, made.planned_blocks) == (3, 3, 12, 12)
    assert (made.stopped, made.left_out) == ("narrow", ())
    assert [len(start) for start in made.by_start("vit_params", "train")] == [4, 4, 4]
    assert {s.start for s in made.first_calls} == {0, 1, 2}
    assert Store(tmp_path).sessions() == [made], "one record, which can be read"


def test_a_limit_too_short_for_three_starts_has_one_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(session.SAMPLE_SECONDS, "cpu", 0.0)
    call, display = InProcess(), ScreenDisplay(make_console())
    made = time_together(quick_session(("resnet20", "vit_params"), 0.0), Store(tmp_path), display, call=call)
    assert made is not None
    assert (call.starts, made.starts, made.stopped, made.blocks) == (1, 1, "limit", 3)
    assert made.left_out == ("inference at batch 2", "latency at batch 1", "2 further process starts")
    assert "had no room: inference at batch 2" in " ".join(session_notes(made, 1000).split())


def test_a_start_that_dies_keeps_those_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(session.SAMPLE_SECONDS, "cpu", 0.0)
    call, display = InProcess(dies_at=2), ScreenDisplay(make_console())
    made = time_together(quick_session(("resnet20", "vit_params"), 600.0), Store(tmp_path), display, call=call)
    assert made is not None
    assert (made.starts, made.planned_starts, made.blocks) == (1, 3, 4)
    (row,) = made.failures
    assert (row.model, row.status) == ("resnet20", "killed")
    assert row.message == "process start 2: its process ended by exit code 7"
    assert Store(tmp_path).sessions() == [made]


@pytest.mark.parametrize("blocked", ["locks", "speed"])
def test_nobody_is_blamed_for_a_disk(blocked: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file where a folder must be: no lock before any model's turn, or no session after it. Nothing is repeated."""
    (tmp_path / blocked).write_text("")
    names = ("resnet20", "seresnet20")
    runs = [spec(name, recipe=replace(RECIPE, batch_size=4)) for name in names]
    assert time_together(session_of(runs, 0.0), Store(tmp_path), ScreenDisplay(make_console())) is None
    printed = capsys.readouterr().out
    assert printed.count("timing resnet20, seresnet20 in turns") == 1
    assert printed.count("failed: FileExistsError") == 1
    assert f"File exists: '{tmp_path / blocked}'" in printed
    assert "no model was running" in printed


def test_explain_prints_where_a_step_goes(here: Bench) -> None:
    done = here("time", "--explain", "resnet20", "--batch-size=4", "--device=cpu")
    assert done.returncode == 0, done.stderr
    assert "resnet20: a training step of 4 images" in done.stdout
    for group in ("convolution", "normalisation", "optimizer", "elementwise"):
        assert group in done.stdout


@pytest.mark.parametrize("quiet", [False, True])
def test_explain_is_quiet_where_it_is_told(quiet: bool, here: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tables alone: no note on the device, no caveat; that stands once for all models."""

    def explain(request: TimeRequest, model: str, display: Display) -> speed.Explanation:
        display.line("a note on the device")
        return speed.Explanation(session_of([spec(model)], 1.0), 0.04, {"convolution": 0.03, "other": 0.01})

    monkeypatch.setattr(speed, "explain", explain)
    done = here("time", "--explain", "resnet20,vit_tiny", *(["--quiet"] if quiet else []))
    assert done.returncode == 0, done.stderr
    tables = [line for line in done.stdout.splitlines() if "note on" not in line and not line.startswith("Self time")]
    assert len(tables) == 6
    assert len(done.stdout.splitlines()) == (6 if quiet else 9)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--models", "vit_tinny"], "did you mean 'vit_tiny'"),
        (["--explain", "vit_tinny"], "did you mean 'vit_tiny'"),
        (["--batch-sizes", "1,x"], "whole numbers from 1"),
        (["--batch-sizes", "0"], "whole numbers from 1"),
        (["--batch-size", "0"], "at least 1"),
        (["--image-size", "4"], "between 8 and 1024"),
        (["--num-classes", "0"], "between 1 and 100000"),
        (["--starts", "2"], "two give no usable interval"),
        (["--train-batch-sizes", "0"], "--train-batch-sizes '0': write whole numbers from 1"),
        (["--within", "0"], "--within must be between 0.1 and 50"),
        (["--within", "nan"], "--within must be between 0.1 and 50"),
        (["--time-limit", "soon"], "write a time above 0"),
        (["--recipe", "sharde"], "did you mean 'shared'"),
        (["--device", "tpu"], "Choices: cpu, cuda, cuda:N"),
    ],
)
def test_bad_input_is_one_sentence(words: list[str], says: str, capsys: Any, tmp_path: Path) -> None:
    assert main(["time", *words, "--results", str(tmp_path / "s")]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
    assert not (tmp_path / "s").exists()
