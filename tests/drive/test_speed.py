"""The `time` command from end to end: rows, failures, refusals; its table and plots from known sessions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pandas as pd
import pytest
import torch

from bench.analysis.tables import compare
from bench.cli.main import main
from bench.core.errors import UserError
from bench.drive.speed import time_together, try_each
from bench.measure import limits
from bench.measure.run import session_of
from bench.measure.session import _groups
from bench.measure.timing import Task
from bench.plan.presets import parse_batch_sizes
from bench.present.screen.progress import Display, make_console
from bench.present.session_table import render_session, render_settings
from bench.store.disk import SPEED_COLUMNS, Store, speed_rows
from bench.store.records import Damaged, seal, validate
from tests.synthetic import DATA, ENVIRONMENT, RECIPE, record, session, spec, thorough_session, write_store

Bench = Callable[..., "CompletedProcess[str]"]


def test_failures_are_rows_and_the_session_goes_on(bench: Bench, factory: Path, tmp_path: Path) -> None:
    """One that raises, one that dies, two that cannot do a larger batch, one that dies in the session itself."""
    ways = ("fine", "raises", "dies_at_once", "no_memory_above_16", "dies_above_16", "dies_later")
    names = ",".join(f"{factory}:{way}" for way in ways)
    words = ["--batch-size=8", "--batch-sizes=4,32", "--image-size=16", "--num-classes=3", "--time-limit=3s"]
    done = bench("time", "--models", names, *words, "--device=cpu", "--results", tmp_path / "s")
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
    assert made["groups"].keys() == made["bounds"].keys()
    for model, step in made["groups"].items():
        assert step["step_seconds"] == made["bounds"][model]["step_seconds"]
        assert step["groups"]["matrix product"] > 0
    assert "again without it" in done.stdout
    assert {path.name.rsplit("-", 1)[1] for path in (tmp_path / "s" / "plots").glob("*.png")} >= {
        f"{kind}.png" for kind in ("throughput_vs_batch", "latency_vs_batch", "roofline", "step_time")
    }
    assert made["key"]["policy"] == "identical:eager"


def test_a_model_that_dies_at_large_batches_keeps_the_others(factory: Path) -> None:
    """Batches of 8, 32, 64: the process dies at 32 and again at 64, each is a row; the training step comes after."""
    name = f"{factory}:dies_above_16"
    few = replace(RECIPE, batch_size=8)
    made = replace(session_of([spec(name, recipe=few)], 0.0), batch_sizes=(8, 32, 64), image_size=8)
    found = try_each(made, Display(make_console()))
    assert {(m["kind"], m["batch_size"]) for m in found.memory} == {("latency", 1), ("inference", 8), ("train", 8)}
    assert [(f["kind"], f["batch_size"], f["status"]) for f in found.failures] == [
        ("inference", 32, "killed"),
        ("inference", 64, "killed"),
    ]
    assert not found.out_models()


@pytest.mark.parametrize("blocked", ["locks", "speed"])
def test_nobody_is_blamed_for_a_disk(blocked: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file where a folder must be: no lock before any model's turn, or no session after it. Nothing is repeated."""
    (tmp_path / blocked).write_text("")
    names = ("resnet20", "seresnet20")
    runs = [spec(name, recipe=replace(RECIPE, batch_size=4)) for name in names]
    assert time_together(session_of(runs, 0.0), Store(tmp_path), Display(make_console())) is None
    printed = capsys.readouterr().out
    assert printed.count("timing resnet20, seresnet20 in turns") == 1
    assert printed.count("failed: FileExistsError") == 1
    assert f"File exists: '{tmp_path / blocked}'" in printed
    assert "no model was at work" in printed


def test_settings_side_by_side() -> None:
    """A column each; what was found stands beside the model; a session of old has no settings."""
    eager, tuned = session({"seresnet": [1.0] * 3, "vit": [2.0] * 3}), session({"vit": [1.0] * 3})
    tuned |= {"key": {**tuned["key"], "policy": "tuned"}}
    tuned["settings"]["vit"] |= {"attention": "explicit", "compile_mode": "default"}
    lines = render_settings([eager, tuned]).splitlines()
    (row,) = (line.split() for line in lines if line.startswith("vit"))
    assert row[:3] == ["vit", "64.0", "128"]
    assert " ".join(row[3:]) == "channels_last, compiled (default), explicit attention"
    (row,) = (line.split() for line in lines if line.startswith("seresnet"))
    assert row == ["seresnet", "128", "–", "–"]
    assert "tuned" not in render_settings([{**eager, "settings": {}}])


def test_explain_prints_where_a_step_goes(here: Bench) -> None:
    done = here("time", "--explain", "resnet20", "--batch-size=4", "--device=cpu")
    assert done.returncode == 0, done.stderr
    assert "resnet20: a training step of 4 images" in done.stdout
    for group in ("convolution", "normalisation", "optimizer", "elementwise"):
        assert group in done.stdout


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--models", "vit_tinny"], "did you mean 'vit_tiny'"),
        (["--explain", "vit_tinny"], "did you mean 'vit_tiny'"),
        (["--batch-sizes", "1,x"], "whole numbers from 1"),
        (["--batch-sizes", "0"], "whole numbers from 1"),
        (["--batch-size", "0"], "at least 1"),
        (["--image-size", "4"], "8..1024"),
        (["--num-classes", "0"], "1..100000"),
        (["--within", "0"], "--within must lie in 0.1..50"),
        (["--within", "nan"], "--within must lie in 0.1..50"),
        (["--time-limit", "soon"], "write a time above 0"),
        (["--recipe", "sharde"], "did you mean 'shared'"),
        (["--device", "tpu"], "choices: cpu, cuda"),
    ],
)
def test_bad_input_is_one_sentence(words: list[str], says: str, capsys: Any, tmp_path: Path) -> None:
    assert main(["time", *words, "--results", str(tmp_path / "s")]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
    assert not (tmp_path / "s").exists()


def test_batch_sizes() -> None:
    assert parse_batch_sizes("128, 1,32,1") == (1, 32, 128)
    for text in ("", "1,,2", "-1", "9999999"):
        with pytest.raises(UserError):
            parse_batch_sizes(text)


def test_rows_of_speed_csv_by_hand() -> None:
    """A step of 1.0, 1.1, 1.2 s against one of 2.0, 2.2, 2.4 s at batch 128: half the speed, exactly."""
    made = thorough_session({"seresnet": [1.0, 1.1, 1.2], "vit_tiny": [2.0, 2.2, 2.4]})
    rows = {(r["model"], r["kind"], r["batch_size"]): r for r in speed_rows(made)}
    train = rows["vit_tiny", "train", 128]
    assert train["images_per_second"] == pytest.approx(128 / 2.2)
    assert (train["q1_ms"], train["median_ms"], train["q3_ms"]) == pytest.approx((2100, 2200, 2300))
    assert (train["ratio"], train["ratio_low"], train["ratio_high"]) == pytest.approx((0.5, 0.5, 0.5))
    assert "ratio" not in rows["seresnet", "train", 128]
    assert rows["vit_tiny", "inference", 32]["median_ms"] == pytest.approx(2.2 * 52)
    assert train["joules_per_1000_images"] is None
    assert "RAPL" in train["joules_missing"]


def test_the_table_names_what_a_reader_needs() -> None:
    made = thorough_session({"seresnet": [1.0, 1.1, 1.2], "vit_tiny": [2.0, 2.2, 2.4]})
    made["warnings"] = ["the machine became 12 % slower during the session: heat, or other work"]
    text = render_session(made, 160)
    for part in ("bandwidth", "0.500×", "confirmed", "58.2", "12 % slower", "60.0 GFLOP/s", "n = 3", "inference at 32"):
        assert part in text, part
    assert all(len(line) <= 160 for line in text.splitlines() if not line.startswith("·"))


def test_incomplete_blocks_are_damage() -> None:
    made = seal(session({"seresnet": [1.0, 1.1], "vit_tiny": [2.0, 2.1]}))
    validate(made, made["id"])
    made["samples"].pop()
    with pytest.raises(Damaged, match="not complete"):
        validate(seal(made), made["id"])


@pytest.mark.parametrize("field", ["half_width", "planned_blocks", "seconds"])
@pytest.mark.parametrize("value", ["", None, [], -1])
def test_figures_of_the_rule_are_numbers_where_given(field: str, value: Any) -> None:
    """The table's note formats them."""
    made = session({"seresnet": [1.0, 1.1]})
    validate(made, made["id"])
    with pytest.raises(Damaged):
        validate({**made, field: value}, made["id"])


def test_a_profiler_that_fails_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    def explain(call: Callable[[], object], device: torch.device) -> dict[str, float]:
        if call() == "b":
            raise RuntimeError("no kineto")
        return {"convolution": 0.5}

    monkeypatch.setattr(limits, "explain", explain)
    tasks = [Task(name, "train", 8, lambda name=name: name, lambda: None) for name in ("a", "b")]
    tasks.append(Task("a", "latency", 1, lambda: None, lambda: None))
    bounds = {name: {"step_seconds": 1.0} for name in ("a", "b")}
    events: list[dict[str, Any]] = []
    found, warnings = _groups(bounds, tasks, torch.device("cpu"), events.append)
    assert found == {"a": {"step_seconds": 1.0, "groups": {"convolution": 0.5}}}
    assert warnings == ["b: the profiler did not say where a step spends its time: RuntimeError: no kineto"]
    assert [e["model"] for e in events if e["event"] == "task"] == ["a", "", "b", ""]


@pytest.mark.parametrize("groups", [1, {"seresnet": {"groups": {}}}, {"seresnet": {"step_seconds": 1, "groups": []}}])
def test_groups_are_seconds_where_given(groups: Any) -> None:
    made = session({"seresnet": [1.0] * 3})
    fine = {"seresnet": {"step_seconds": 1.0, "groups": {"convolution": 0.7}}}
    assert validate({**made, "groups": fine}, made["id"])
    with pytest.raises(Damaged):
        validate({**made, "groups": groups}, made["id"])


def test_unequal_keys_never_share_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same question on two devices: refused with what differs; --by-device makes a table for each."""
    here = write_store(tmp_path / "a", {"seresnet": 0.9, "vit_tiny": 0.8})
    there, of = Store(tmp_path / "b"), spec("seresnet", device_name="Other CPU")
    there.write_record(of, {**record(of, 0.9), "environment": {**ENVIRONMENT, "device_name": "Other CPU"}})
    stores = ["--results", str(here.root), "--results", str(there.root)]
    for command in ("table", "plot"):
        assert main([command, *stores]) == 2
        error = capsys.readouterr().err
        assert "device_name: Test CPU or Other CPU" in error
        assert "--by-device" in error
    assert main(["table", *stores, "--by-device"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("Test CPU") == 1
    assert printed.count("Other CPU") == 1


def test_other_questions_may_stand_side_by_side(tmp_path: Path) -> None:
    """Another data set under another key is another comparison, and no reason to refuse."""
    store = write_store(tmp_path, {"seresnet": 0.9})
    of = spec("seresnet", data=replace(DATA, name="cifar100", content_hash="d" * 64), device_name="Other CPU")
    store.write_record(of, {**record(of, 0.5), "environment": {**ENVIRONMENT, "device_name": "Other CPU"}})
    assert len(compare([store], by_device=False)) == 2


def test_a_failed_audit_is_marked_in_every_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = write_store(tmp_path, {"seresnet": 0.9})
    of = spec("vit_tiny")
    made = record(of, 0.8, "vit")
    made["metrics"]["flops_audit"] = "mismatch"
    made["notes"] = ["FLOPs do not pass the audit: products 1 by fvcore, 2 by torch (fvcore conv 1; torch bmm 2)"]
    store.write_record(of, made)
    for style in ("text", "markdown", "latex", "csv"):
        assert main(["table", "--results", str(tmp_path), "--format", style]) == 0
        printed = capsys.readouterr().out
        mark = {"latex": "127.1$\\dagger$", "csv": "mismatch"}.get(style, "127.1†")
        assert printed.count(mark) == 1, printed
        if style != "csv":
            assert "products 1 by fvcore, 2 by torch" in printed.replace("\n", " ")
