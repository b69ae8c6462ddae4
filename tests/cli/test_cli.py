"""The command line from end to end on a data set that trains in seconds, and bad input that only a command finds."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pandas as pd
import pytest

from bench.cli.main import main
from bench.cli.readers import gates
from bench.cli.time import explanation_lines
from bench.core.display import Display
from bench.core.events import ModelCounted
from bench.drive.speed import SpeedResult
from bench.drive.sweep import SweepResult
from bench.executors.child import Outcome
from bench.measure.counting import child_models
from bench.plan.presets import PRESETS
from bench.plan.request import TimeRequest
from bench.plan.spec import session_of
from bench.store.disk import Store
from bench.store.records import Session, finished
from models.errors import ModelError
from tests.synthetic import DATA, spec, thorough_session, write_pair, write_store

Bench = Callable[..., "CompletedProcess[str]"]
Captured = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def words(tiny_npz: Path) -> list[str]:
    return [
        "--dataset",
        f"npz:{tiny_npz}",
        "--recipe",
        "smoke",
        "--epochs",
        "2",
        "--batch-size",
        "20",
        "--device",
        "cpu",
        "--timing-limit",
        "1s",
    ]


@pytest.fixture(scope="module")
def swept(forked: Bench, words: list[str], factory: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store after one sweep of two models."""
    root = tmp_path_factory.mktemp("store") / "with space"
    done = forked(*words, "--models", f"resnet20,{factory}:fine", "--results", root, before=bool)  # with its charts
    assert done.returncode == 0, done.stderr
    assert "epoch 2/2" in done.stdout
    assert "test accuracy" in done.stdout
    assert f"wrote {root}: 6 CSV files, " in done.stdout
    return root


def test_a_sweep_leaves_what_it_promises(swept: Path) -> None:
    results = pd.read_csv(swept / "results.csv").set_index("model")
    assert list(results["status"]) == ["ok", "ok"]
    row = results.loc["resnet20"]
    assert row["samples_seen"] == 2 * 100  # 108 training images make 5 batches of 20
    assert row["flops"] > 0
    assert row["peak_memory_bytes"] > 1e8
    assert row["train_images_per_second"] > 0
    linear = results[results["family"] == "external"].iloc[0]
    assert linear["accuracy"] > 0.5, "three brightnesses are easily told apart"
    for run_id in results["run_id"]:
        folder = swept / "runs" / run_id
        assert {p.name for p in folder.iterdir()} == {"spec.json", "record.json", "history.csv", "predictions.npz"}
        record = json.loads((folder / "record.json").read_text())
        with np.load(folder / "predictions.npz", allow_pickle=False) as data:
            assert (data["test_predicted"] == data["test_label"]).mean() == record["metrics"]["accuracy"]
            assert data["test_loss"].mean() == pytest.approx(record["metrics"]["test_loss"], rel=1e-5)
            assert len(data["val_predicted"]) == 12
        assert record["environment"]["torch"]
    drawn = {path.stem for path in (swept / "plots").glob("*.png")}
    assert drawn == {path.stem for path in (swept / "plots").glob("*.txt")}, "a caption beside each"
    assert len(drawn) >= 5
    timings = pd.read_csv(swept / "timings.csv")
    counts = timings.groupby(["kind", "block"])["model"].nunique()
    assert (counts == 2).all(), "each model once a block"
    assert set(results["segments"]) == {1}


def test_the_same_command_finds_the_work_done(here: Bench, words: list[str], factory: Path, swept: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in swept.rglob("record.json")}
    done = here(*words, "--models", f"resnet20,{factory}:fine", "--results", swept)
    assert done.returncode == 0
    assert "2 of 2 runs are done already" in done.stdout
    assert "epoch" not in done.stdout.replace("2 epochs", "")
    assert {p: p.stat().st_mtime_ns for p in swept.rglob("record.json")} == before
    assert len(Store(swept).sessions()) == 1


def test_a_run_repeats_bit_for_bit(here: Bench, untimed: None, words: list[str], swept: Path, tmp_path: Path) -> None:
    done = here(*words, "--models", "resnet20", "--results", tmp_path)
    assert done.returncode == 0, done.stderr
    (ours,) = finished(Store(tmp_path).runs())
    theirs = next(run for run in finished(Store(swept).runs()) if run.run_id == ours.run_id)
    same = ("train_loss", "val_loss", "val_accuracy", "lr", "samples_seen")
    one, other = ([[getattr(e, k) for k in same] for e in run.history] for run in (ours, theirs))
    assert one == other
    paths = (root / "runs" / ours.run_id / "predictions.npz" for root in (swept, tmp_path))
    a, b = (dict(np.load(p)) for p in paths)
    assert all(np.array_equal(a[k], b[k]) for k in a)


def test_failures_are_rows_and_the_rest_goes_on(forked: Bench, words: list[str], factory: Path, tmp_path: Path) -> None:
    names = ",".join(f"{factory}:{f}" for f in ("raises", "dies", "leaves", "diverges", "fine"))
    done = forked(*words, "--models", names, "--results", tmp_path)
    assert done.returncode == 1
    results = pd.read_csv(tmp_path / "results.csv")
    ended = {str(row.model).rsplit(":", 1)[1]: (row.status, str(row.message)) for row in results.itertuples()}
    assert ended["fine"][0] == "ok"
    assert ended["raises"] == ("failed", "ValueError: broken in training")
    assert ended["dies"] == ("killed", "its process ended by exit code 7")
    assert ended["leaves"] == ("failed", "its process ended early and left no record")
    assert ended["diverges"] == ("diverged", "Diverged: training loss not finite at step 0")
    assert "Traceback" not in done.stdout + done.stderr
    (trace,) = [p for p in tmp_path.rglob("traceback.txt") if "raises" in p.parent.name]
    assert "broken in training" in trace.read_text()
    assert "killed" in done.stdout


def test_dry_run_runs_nothing(here: Bench, words: list[str], tmp_path: Path) -> None:
    done = here(*words, "--models", "resnet20", "--seeds", "0-1", "--results", tmp_path / "s", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("of training (from a step timed now)") == 2
    assert "nothing was run" in done.stdout
    assert not (tmp_path / "s").exists()


def test_table_and_plot(swept: Path, tmp_path: Path, capsys: Captured) -> None:
    for style in ("text", "markdown", "latex", "csv"):
        assert main(["table", "--results", str(swept), "--format", style]) == 0
        assert "resnet20" in capsys.readouterr().out
    plot = ["plot", "--results", str(swept), "--results", str(swept), "--out", str(tmp_path / "p")]
    assert main(plot) == 0
    names = {kind: {path.stem for path in (tmp_path / "p").glob(f"*.{kind}")} for kind in ("png", "svg", "pdf", "txt")}
    assert names["png"] == names["txt"] > {path.stem for path in (swept / "plots").glob("*.txt")}, "some after a sweep"
    assert not names["svg"] | names["pdf"], "PNG of one width, unless more is asked for"
    assert main([*plot, "--formats", "svg,png", "--widths", "1"]) == 0
    more = {kind: {path.stem for path in (tmp_path / "p").glob(f"*-1col.{kind}")} for kind in ("png", "svg", "pdf")}
    assert more["svg"] == more["png"] == {f"{stem}-1col" for stem in names["txt"]}
    assert not more["pdf"]


def test_cost_counts_in_a_child(capsys: Captured) -> None:
    assert main(["cost", "seresnet", "--by-module"]) == 0
    printed = capsys.readouterr().out
    for figure in ("127,105,568", "545,849", "861,818", "43,204,896"):
        assert figure in printed
    assert main(["cost", "seresnet20,resnet20", "vit_params", "--format", "csv"]) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.startswith("model,px,")
    assert [row.split(",")[0] for row in rows] == ["seresnet20", "resnet20", "vit_params"]


# --- commands on stores made here ------------------------------------------------------------------------------------


def ratios(text: str) -> dict[str, float]:
    """Each model's FLOPs over those of the reference, from a table as CSV."""
    head, *rows = (line.split(",") for line in text.splitlines())
    model, ratio = head.index("model"), head.index("flops_ratio")
    return {row[model]: float(row[ratio]) for row in rows}


def test_reference_is_what_ratios_refer_to(tmp_path: Path, capsys: Captured) -> None:
    """Models of 1/2, 2/2 and 3/2 of SE-ResNet-56's FLOPs."""
    store = write_store(tmp_path, {"vit_tiny": 0.7, "seresnet": 0.9, "swin": 0.8}, {"seresnet": [1.0], "swin": [2.0]})
    words = ["table", "--results", str(store.root), "--columns", "flops", "--format", "csv"]
    assert main(words) == 0
    assert ratios(capsys.readouterr().out) == pytest.approx({"vit_tiny": 0.5, "seresnet": 1.0, "swin": 1.5}, rel=1e-6)
    assert main([*words, "--reference", "vit_tiny"]) == 0
    assert ratios(capsys.readouterr().out) == pytest.approx({"vit_tiny": 1.0, "seresnet": 2.0, "swin": 3.0}, rel=1e-6)
    for command in ("table", "plot", "report", "compare"):
        assert main([command, "--results", str(store.root), "--reference", "swinn"]) == 2
        assert "no run of 'swinn' here; there are seresnet, swin, vit_tiny" in capsys.readouterr().err
    assert main(["report", "--results", str(store.root), "--claim", "swin,swinn"]) == 2
    assert "--claim: no run of 'swinn' here; there are seresnet, swin, vit_tiny" in capsys.readouterr().err


def test_compare_takes_commas_and_spaces_and_begins_with_the_reference(tmp_path: Path, capsys: Captured) -> None:
    store = Store(tmp_path)
    write_pair(store, {"seresnet": 0.9, "vit_tiny": 0.8, "swin": 0.7})
    words = ["compare", "--results", str(tmp_path)]
    texts = []
    for models in (["vit_tiny,swin"], ["vit_tiny", "swin"]):
        assert main([*words, *models]) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1]
    assert "\nvit_tiny against swin (" in texts[0]
    assert main(words) == 0
    assert capsys.readouterr().out.count("seresnet against ") == 2
    assert main([*words, "--reference", "swin"]) == 0
    assert capsys.readouterr().out.count("swin against ") == 2


def test_fail_if_closes_the_gate(tmp_path: Path, capsys: Captured) -> None:
    write_pair(Store(tmp_path), {"seresnet": 0.9, "vit_tiny": 0.8})
    words = [
        "compare",
        "seresnet",
        "vit_tiny",
        "--results",
        str(tmp_path),
        "--out",
        str(tmp_path / "v.csv"),
        "--fail-if",
    ]
    assert main([*words, "accuracy < 5"]) == 0
    assert "\npassed: --fail-if 'accuracy < 5': seresnet against vit_tiny, " in capsys.readouterr().out
    assert main([*words, "accuracy > 5"]) == 1
    out = capsys.readouterr().out
    assert "\nfailed: --fail-if 'accuracy > 5': seresnet against vit_tiny, " in out
    (shown,) = re.findall(r"difference  .* points \((.*)\), images like these", out)
    assert f"vit_tiny, {shown} points: the whole interval" in out, "the ends are those of the line above"
    assert main([*words, "speed < 1"]) == 1, "no session timed them"
    assert "there is no interval, so it cannot be tested" in capsys.readouterr().out
    assert (tmp_path / "v.csv").read_text().startswith("dataset,")
    assert gates([], ()) == []


def test_a_requirement_must_be_shown(tmp_path: Path, capsys: Captured) -> None:
    write_pair(Store(tmp_path), {"seresnet": 0.9, "vit_tiny": 0.8})
    words = ["compare", "vit_tiny", "seresnet", "--results", str(tmp_path), "--format", "csv", "--require"]
    assert main([*words, "accuracy < -5"]) == 0
    out, err = capsys.readouterr()
    assert err.startswith("passed: --require 'accuracy < -5': vit_tiny against seresnet, -")
    assert "passed" not in out, "CSV stays CSV"
    assert main([*words, "accuracy > -10"]) == 1
    assert capsys.readouterr().err.startswith("undecided: --require 'accuracy > -10': vit_tiny against seresnet, -1")
    assert main([*words, "accuracy > -5"]) == 1
    assert capsys.readouterr().err.endswith(": the whole interval lies on the other side\n")


def test_a_style_is_matplotlibs_or_a_file(tmp_path: Path, capsys: Captured) -> None:
    store = write_store(tmp_path / "s", {"seresnet": 0.9, "vit_tiny": 0.8})
    words = ["plot", "--results", str(store.root), "--out", str(tmp_path / "p"), "--style"]
    hook = tmp_path / "hook.py"
    hook.write_text("raise SystemExit('executed')")
    assert main([*words, f"{hook}:look"]) == 2
    assert "no style" in capsys.readouterr().err
    (tmp_path / "mine.mplstyle").write_text("axes.grid: False\n")
    assert main([*words, str(tmp_path / "mine.mplstyle")]) == 0


def test_an_explanation_adds_up() -> None:
    """Groups of 30 and 10 ms are 75 and 25 %, as bars of 40 characters."""

    class Explanation:
        spec = session_of([spec("seresnet")], 1.0)
        step_seconds = 0.05
        groups = {"convolution": 0.03, "optimizer": 0.01}  # noqa: RUF012

    title, first, second = explanation_lines("seresnet", Explanation())  # type: ignore[arg-type]
    assert "128 images (32 px, fp32, channels_last, eager) on Test CPU: 50.0 ms" in title
    assert first.split() == ["convolution", "30.0", "ms", "75.0", "%", "█" * 30]
    assert second.split() == ["optimizer", "10.0", "ms", "25.0", "%", "█" * 10]


def counted(model: str, image_size: int) -> ModelCounted:
    """What a child says of a model."""
    return ModelCounted(
        model=model,
        image_size=image_size,
        stem="patch 2",
        resolutions="16x16",
        params=5,
        flops=7,
        activations=3,
        train_flops_2x=None,
        audit="failed",
        notes=("not audited",),
    )


def test_cost_prints_rows_as_they_come(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    """Notes stand beneath a row in text, and go to the other stream in CSV, which must stay CSV."""
    row = counted("swin", 32)

    def call(function: str, args: object, on_event: Callable[[ModelCounted], None], grace: float) -> Outcome:
        assert (function, args) == ("bench.measure.counting:child_models", (("swin",), 10, (32,), None))
        on_event(row)
        return Outcome("failed", "ModelError: 'x' cannot be built")

    monkeypatch.setattr("bench.cli.cost.call", call)
    assert main(["cost", "swin", "--format", "csv"]) == 2
    printed = capsys.readouterr()
    assert len(printed.out.splitlines()) == 2
    assert printed.err == "swin, 32 px: not audited\nrun_bench.py: 'x' cannot be built\n"
    assert main(["cost", "swin"]) == 2
    assert "  not audited" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("message", "sentence"),
    [
        ("ModelError: 'cct_2' is no model", "'cct_2' is no model"),
        ("Stop: no more", "model 'cct_2' cannot be counted on 32 px images: Stop: no more"),
        ("its process ended", "model 'cct_2' cannot be counted on 32 px images: its process ended"),
    ],
)
def test_cost_names_the_model_that_ended_its_process(
    message: str, sentence: str, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    def call(function: str, args: object, on_event: Callable[[ModelCounted], None], grace: float) -> Outcome:
        for size in (32, 64):
            on_event(counted("swin", size))
        return Outcome("failed", message)

    monkeypatch.setattr("bench.cli.cost.call", call)
    assert main(["cost", "swin,cct_2", "--image-size", "32,64"]) == 2
    assert capsys.readouterr().err.startswith(f"run_bench.py: {sentence}")


def test_cost_says_what_takes_less_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*sizes: int) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 239995200024 bytes")

    monkeypatch.setattr("torch.randn", refuse)
    with pytest.raises(ModelError, match=r"^model 'resnet20' fails on 32 px images: not enough memory; smaller images"):
        child_models(lambda event: None, ("resnet20",), 10, (32,))


def test_what_follows_a_speed_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    """When it is done its charts, in one line, then its table; verdicts.csv anew where the store has one."""
    store = Store(tmp_path)
    write_pair(store, {"seresnet": 0.9, "vit_tiny": 0.8})
    session = thorough_session({"seresnet": [1.0, 1.1, 1.2], "vit_tiny": [2.0, 2.2, 2.4]})

    def timed(request: TimeRequest, display: Display, on_session: Callable[[Session], None]) -> SpeedResult:
        assert request.models == ("seresnet", "vit_tiny")
        store.write_session(session)
        store.rebuild_views()
        on_session(session)
        return SpeedResult(1, (session,), store)

    monkeypatch.setattr("bench.drive.speed.run", timed)
    (tmp_path / "verdicts.csv").write_text("old")
    assert main(["time", "--results", str(tmp_path)]) == 1
    printed = capsys.readouterr().out
    assert (tmp_path / "verdicts.csv").read_text().startswith("dataset,")
    drawn = {path.name for path in (tmp_path / "plots").glob("*.png")}
    wrote = f"wrote {tmp_path}: 2 CSV files, {len(drawn)} plots; speed.csv has more columns\n"
    notes, found, table = printed.partition(wrote)
    assert found
    assert "0.500×" in table
    assert "·" in notes, "notes are above"
    assert not any(line.startswith("·") for line in table.splitlines())
    assert {name.rsplit("-", 1)[1] for name in drawn} >= {"latency_vs_batch.png", "roofline.png"}
    monkeypatch.setattr("bench.cli.time.draw", lambda *_: 1 / 0)
    assert main(["time", "--quiet", "--results", str(tmp_path)]) == 1
    quiet = capsys.readouterr()
    assert quiet.out.strip() == table.strip(), "the tables and nothing else"
    assert quiet.err == "the plots could not be drawn: ZeroDivisionError: division by zero\n"
    monkeypatch.setattr("bench.drive.speed.run", lambda *_: SpeedResult(1, (), store))
    assert main(["time", "--quiet", "--results", str(tmp_path)]) == 1
    assert "nothing was timed" in capsys.readouterr().err


def test_what_follows_a_sweep(charts: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    """Only this sweep's comparisons, by the reference asked for; a chart that fails is exit code 1, and no more."""
    store = Store(tmp_path)
    write_pair(store, {"seresnet": 0.9, "vit_tiny": 0.8})
    write_pair(store, {"swin": 0.6}, data=replace(DATA, name="svhn", content_hash="d" * 64))
    specs = tuple(spec(model, seed) for model in ("seresnet", "vit_tiny") for seed in range(3))
    monkeypatch.setattr("bench.drive.sweep.run", lambda request, display: SweepResult(0, specs, store, ()))
    words = ["--reference", "vit_tiny", "--results", str(tmp_path)]
    assert main(words) == 0
    printed = capsys.readouterr().out
    before, wrote, after = printed.partition(f"wrote {tmp_path}: 6 CSV files, ")
    assert wrote, "one line for all files"
    assert "digits" not in before, "the table comes last"
    assert "svhn" not in after, "the charts are the store's, the table is the sweep's"
    row = next(line for line in after.splitlines() if line.startswith("vit_tiny"))
    assert "80." in row, "accuracy is the first column"
    assert printed.splitlines()[-1] == "vit_tiny is worse than seresnet: -9.89 points (-10.92 to -8.86)"
    assert "more: run_bench.py compare, table or report" in after
    assert len(after.splitlines()) < 24
    assert main([*words, "--quiet"]) == 0
    quiet = capsys.readouterr().out
    assert quiet.strip() in printed, "the table and nothing else"
    assert "wrote" not in quiet
    assert "is worse" not in quiet
    monkeypatch.setattr("bench.present.charts.static.save_all", lambda *_: 1 / 0)
    assert main(words) == 1
    printed = capsys.readouterr().out
    assert "the plots could not be drawn: ZeroDivisionError" in printed
    assert f"wrote {tmp_path}: 6 CSV files\n" in printed
    monkeypatch.setattr("bench.drive.sweep.run", lambda request, display: SweepResult(0, (), store, ()))
    assert main([*words, "--dry-run"]) == 0
    assert "wrote" not in capsys.readouterr().out
    assert main([*words, "--quiet"]) == 0
    assert capsys.readouterr() == ("", "no run finished; the same command without --quiet shows why\n")


# --- bad input -------------------------------------------------------------------------------------------------------

BAD = [
    (["--models", "vit_tinny"], "did you mean 'vit_tiny'"),
    (["--models", "1,,2"], "empty name"),
    (["--models", ""], "empty name"),
    (["--models", "efficient_*"], "no model matches"),
    (["--models", "nofile.py:f", "--dataset", "digits"], "no file 'nofile.py'"),
    (["--models", "timm:resnet81", "--dataset", "digits"], "did you mean 'resnet18'"),
    (["--dataset", "cifar"], "did you mean 'cifar10'"),
    (["--dataset", "npz:none.npz", "--device", "cpu"], "no file 'none.npz'"),
    (["--dataset", "folder:none", "--device", "cpu"], "no folder"),
    (["--recipe", "sharde"], "did you mean 'shared'"),
    (["--recipe", "none.toml"], "no recipe file"),
    (["--preset", "smok"], "did you mean 'smoke'"),
    (["--seeds", "1,,2"], "whole numbers"),
    (["--seeds", "-1"], "whole numbers"),
    (["--seeds", "0,0"], "twice"),
    (["--epochs", "-3"], "--epochs: must be at least 1, not -3"),
    (["--epochs", "1000000000000", "--dataset", "digits", "--device", "cpu"], "epochs must be at most 1,000,000"),
    (["--epochs", "three"], "--epochs: must be a whole number, not 'three'"),
    (["--batch-size", "0"], "--batch-size: must be at least 1, not 0"),
    (["--batch-size", "5000", "--dataset", "digits"], "more than the 1295 training images"),
    (["--train-fraction", "0"], r"write shares in (0, 1]"),
    (["--train-fraction", "nan"], r"write shares in (0, 1]"),
    (["--budget", "5apples"], "write an amount such as 50epochs"),
    (["--budget", "1s", "--epochs", "3", "--device", "cpu"], "give one"),
    (["--budget", "8samples", "--device", "cpu"], "less than one batch"),
    (["--budget", "9s", "--runs-per-device", "2", "--device", "cpu"], "needs the device to itself"),
    (["--trial-budget", "1s"], "add --track"),
    (["--track", "famili"], "did you mean 'family'"),
    (["--track", "family", "--models", "timm:resnet18", "--device", "cpu"], "of no known family"),
    (["--target", "90"], "--target must lie between 0 and 1"),
    (["--validations", "-1", "--device", "cpu"], "validations must be between 0 and 10,000"),
    (["--image-size", "-4"], "--image-size must be between 8 and 1024"),
    (["--device", "tpu"], "Choices: cpu, cuda, cuda:N"),
    (["--setting", "turned"], "did you mean 'tuned'"),
    (["--setting", "eager,tuned"], "`time` takes several"),
    (["--setting", "graphed", "--device", "cpu"], "needs a CUDA device"),
    (["--tune-limit", "0"], "--tune-limit '0'"),
    (["--runs-per-device", "0"], "--runs-per-device must be between 1 and 64"),
    (["time", "--setting", ""], "unknown setting ''"),
    (["time", "--explain", "resnet20", "--setting", "eager,tuned"], "--explain takes one --setting"),
    (["--modles", "seresnet"], "did you mean '--models'"),
    (["tabel"], "did you mean 'table'"),
    (["table", "--results", "none"], "no store 'none'"),
    (["table", "--format", "word"], "invalid choice"),
    (["plot", "--results", "none"], "no store 'none'"),
    (["list", "nothing"], "invalid choice"),
    (["list"], "required"),
    (["cost", "seresnet", "--image-size", "0"], "at least 1"),
    (["cost", "seresnet", "--by-module", "--depth", "-1"], "--depth must be between 1 and 100000"),
    (["cost", "vit_tiny", "--image-size", "30"], "not a multiple of 8"),
    (["cost", "seresnet", "--image-size", "32,"], "such as 32,64"),
    (["cost", "seresnet", "--image-size", "32,64", "--by-module"], "takes one --image-size"),
]


@pytest.mark.parametrize(("words", "says"), BAD, ids=lambda v: " ".join(v) if isinstance(v, list) else None)
def test_bad_input_is_one_sentence(words: list[str], says: str, capsys: Captured, tmp_path: Path) -> None:
    if words[0].startswith("-"):
        words = [*words, "--results", str(tmp_path / "s")]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
    assert "Traceback" not in error
    assert not (tmp_path / "s").exists(), "nothing was begun"


@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
def test_a_read_only_store_is_found_before_training(
    words: list[str], dry: list[str], tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.drive.sweep.probe", lambda *call: {})
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert main([*words, *dry, "--models", "resnet20", "--results", str(blocked / "s")]) == 2
    assert "choose another with --results DIR" in capsys.readouterr().err


def test_the_default_says_what_it_costs_and_how_to_get_the_full_comparison(capsys: Captured, tmp_path: Path) -> None:
    """Stopped before any work by a store that cannot be written."""
    blocked = tmp_path / "file"
    blocked.write_text("")
    main(["--models", "resnet20", "--device", "cpu", "--results", str(blocked / "s")])
    printed = " ".join(capsys.readouterr().out.split())
    assert "--preset full --models resnet20" in printed
    assert PRESETS["smoke"].cost in printed
    assert PRESETS["full"].cost in printed
