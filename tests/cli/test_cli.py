"""The command line from end to end on a data set that trains in seconds, and every kind of bad input."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.cli.main import COMMANDS, main, parse
from bench.core.errors import UserError
from bench.plan.presets import parse_seeds
from bench.store.disk import Store

Bench = Callable[..., "CompletedProcess[str]"]


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
def swept(bench: Bench, words: list[str], factory: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store after one sweep of two models."""
    root = tmp_path_factory.mktemp("store") / "with space"
    done = bench(*words, "--models", f"resnet20,{factory}:fine", "--results", root)
    assert done.returncode == 0, done.stderr
    assert "epoch 2/2" in done.stdout
    assert "test accuracy" in done.stdout
    assert f"wrote {root / 'results.csv'}" in done.stdout
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
    (ours,) = Store(tmp_path).runs()
    theirs = next(r for r in Store(swept).runs() if r["run_id"] == ours["run_id"])
    same = ("train_loss", "val_loss", "val_accuracy", "lr", "samples_seen")
    assert [[e[k] for k in same] for e in ours["history"]] == [[e[k] for k in same] for e in theirs["history"]]
    paths = (root / "runs" / ours["run_id"] / "predictions.npz" for root in (swept, tmp_path))
    a, b = (dict(np.load(p)) for p in paths)
    assert all(np.array_equal(a[k], b[k]) for k in a)


def test_failures_are_rows_and_the_rest_goes_on(bench: Bench, words: list[str], factory: Path, tmp_path: Path) -> None:
    names = ",".join(f"{factory}:{f}" for f in ("raises", "dies", "leaves", "diverges", "fine"))
    done = bench(*words, "--models", names, "--results", tmp_path)
    assert done.returncode == 1
    results = pd.read_csv(tmp_path / "results.csv")
    found = {row.model.rsplit(":", 1)[1]: (row.status, str(row.message)) for row in results.itertuples()}
    assert found["fine"][0] == "ok"
    assert found["raises"] == ("failed", "ValueError: broken in training")
    assert found["dies"] == ("killed", "its process ended by exit code 7")
    assert found["leaves"] == ("failed", "its process ended early and left no record")
    assert found["diverges"] == ("diverged", "Diverged: training loss not finite at step 0")
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


def test_table_plot_and_cost_commands(swept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for style in ("text", "markdown", "latex", "csv"):
        assert main(["table", "--results", str(swept), "--format", style]) == 0
        assert "resnet20" in capsys.readouterr().out
    plot = ["plot", "--results", str(swept), "--results", str(swept), "--out", str(tmp_path / "p")]
    assert main([*plot, "--formats", "svg,png", "--widths", "1"]) == 0
    drawn = {kind: {path.stem for path in (tmp_path / "p").glob(f"*.{kind}")} for kind in ("svg", "png", "txt", "pdf")}
    assert drawn["svg"] == drawn["png"] == {f"{stem}-1col" for stem in drawn["txt"]}
    assert {path.stem for path in (swept / "plots").glob("*.txt")} < drawn["txt"], "a sweep's end draws some of them"
    assert not drawn["pdf"]
    capsys.readouterr()
    assert main(["cost", "seresnet", "--by-module"]) == 0
    printed = capsys.readouterr().out
    for figure in ("127,105,568", "545,849", "861,818", "43,204,896"):
        assert figure in printed


BAD = [
    (["--models", "vit_tinny"], "did you mean 'vit_tiny'"),
    (["--models", "1,,2"], "empty name"),
    (["--models", ""], "empty name"),
    (["--models", "efficient_*"], "no model matches"),
    (["--models", "nofile.py:f", "--dataset", "digits"], "no file 'nofile.py'"),
    (["--models", "timm:resnet81", "--dataset", "digits"], "did you mean 'resnet18'"),
    (["--dataset", "cifar"], "did you mean 'cifar10'"),
    (["--dataset", "npz:none.npz"], "no file 'none.npz'"),
    (["--dataset", "folder:none"], "needs train/CLASS"),
    (["--recipe", "sharde"], "did you mean 'shared'"),
    (["--recipe", "none.toml"], "no recipe file"),
    (["--preset", "smok"], "invalid choice"),
    (["--seeds", "1,,2"], "whole numbers"),
    (["--seeds", "-1"], "whole numbers"),
    (["--seeds", "0,0"], "twice"),
    (["--epochs", "-3"], "epochs must be at least 1"),
    (["--epochs", "three"], "invalid int value"),
    (["--batch-size", "0"], "batch size must be at least 1"),
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
    (["--validations", "-1", "--device", "cpu"], "validations must lie"),
    (["--image-size", "-4"], "--image-size must lie in 8..1024"),
    (["--device", "tpu"], "choices: cpu, cuda"),
    (["--setting", "turned"], "did you mean 'tuned'"),
    (["--setting", "eager,tuned"], "`time` takes several"),
    (["--setting", "graphed", "--device", "cpu"], "needs a CUDA device"),
    (["--tune-limit", "0"], "--tune-limit '0'"),
    (["--runs-per-device", "0"], "--runs-per-device must lie in 1..64"),
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
    (["cost", "seresnet", "--by-module", "--depth", "-1"], "at least 1"),
    (["cost", "vit_tiny", "--image-size", "30"], "not a multiple of 8"),
    (["cost", "seresnet", "--image-size", "32,"], "such as 32,64"),
    (["cost", "seresnet", "--image-size", "32,64", "--by-module"], "at one --image-size"),
]


@pytest.mark.parametrize(("words", "says"), BAD, ids=lambda v: " ".join(v) if isinstance(v, list) else None)
def test_bad_input_is_one_sentence(
    words: list[str], says: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    if words[0].startswith("-"):
        words = [*words, "--results", str(tmp_path / "s")]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
    assert "Traceback" not in error
    assert not (tmp_path / "s").exists(), "nothing was begun"


def test_a_read_only_store_is_found_before_training(words: list[str], tmp_path: Path, capsys) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert main([*words, "--models", "resnet20", "--results", str(blocked / "s")]) == 2
    assert "choose another with --results DIR" in capsys.readouterr().err


def test_the_default_says_how_to_get_the_full_comparison(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Stopped before any work by a store that cannot be written."""
    blocked = tmp_path / "file"
    blocked.write_text("")
    main(["--models", "resnet20", "--device", "cpu", "--results", str(blocked / "s")])
    assert "--preset full --models resnet20" in capsys.readouterr().out


def test_seeds() -> None:
    assert parse_seeds("0") == [0]
    assert parse_seeds("0-2, 7") == [0, 1, 2, 7]
    for text in ("2-0", "0-99999999", "1-2-3"):
        with pytest.raises(UserError):
            parse_seeds(text)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.lists(
        st.one_of(st.text(max_size=8), st.sampled_from(["--models", "--seeds", "table", "--epochs", "3"])), max_size=4
    )
)
def test_any_words_parse_or_get_a_sentence(words: list[str]) -> None:
    if {"-h", "--help"} & set(words):
        return
    with contextlib.suppress(UserError, SystemExit):
        assert parse(words).command in COMMANDS
