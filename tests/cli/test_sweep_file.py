"""A sweep as one TOML file: what is asked for on the command line and what a file says are the same request."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from bench.cli import sweep_file
from bench.cli.requests import parse
from bench.core.errors import UserError
from bench.drive import sweep
from bench.plan.request import RunRequest
from bench.store.disk import Store

EVERYTHING = """--models 'vit_*,-vit_lite' timm:resnet18[in_chans=3,depth=2] --preset quick --seeds 0,2-3 --budget 10min
    --batch-size 64 --validations 4 --target 0.9 --track both --trial-budget 1Msamples --dataset cinic10,npz:~/x.npz
    --train-fraction 1,0.1 --cinic-train train+valid --image-size 64 --data-dir d --setting compiled --tune-limit 2min
    --runs-per-device 1 --deterministic --device cuda:1 --executor slurm:debug --slurm time=9,mem=8 --retries 0
    --keep-weights --results s --reference vit_tiny --run-timeout 2h --timing-limit 90"""


def asked(*words: str | Path) -> RunRequest:
    request = parse([str(word) for word in words])
    assert isinstance(request, RunRequest)
    return request


def without_path(request: RunRequest) -> RunRequest:
    return replace(request, output=replace(request.output, save_config=None))


@pytest.mark.parametrize("line", ["", "--models swin --epochs 3", EVERYTHING])
def test_a_saved_sweep_is_the_same_request(line: str, tmp_path: Path) -> None:
    path = tmp_path / "sub" / "sweep.toml"
    once = asked(*shlex.split(line), "--save-config", path, "--rerun", "--live", "--dry-run")
    sweep_file.save(path, once.toml)
    again = asked("--config", path)
    assert again.toml == once.toml
    assert again == without_path(asked(*shlex.split(line)))  # without what was for that one time
    assert asked("--config", path, "--rerun", "--live", "--dry-run") == without_path(once)


def test_flags_beside_a_file_win(tmp_path: Path) -> None:
    path = tmp_path / "sweep.toml"
    path.write_text(
        'models = ["swin", "cct_2"]\nseeds = [0, 1]\nepochs = 3\ntrain-fraction = [0.1, 1]\nrerun = false\n'
    )
    plain = asked("--config", path)
    assert plain == asked("--models", "swin,cct_2", "--seeds", "0,1", "--epochs", "3", "--train-fraction", "0.1,1")
    other = asked("--budget", "10min", "--config", path, "--seeds", "7", "--models", "seresnet", "-swin")
    assert other == asked("--models", "seresnet", "--budget", "10min", "--seeds", "7", "--train-fraction", "0.1,1")
    path.write_text('budget = "1Msamples"\ntarget = 0.5')
    assert asked("--config", path, "--epochs=2") == asked("--epochs", "2", "--target", "0.5")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("modles = 1", "unknown key 'modles'; did you mean 'models'? Choices: models, preset, "),
        ("batch_size = 8", "unknown key 'batch_size'; did you mean 'batch-size'?"),
        ("lr = 0.1", "unknown key 'lr'; lr is a recipe's field: write FILE.toml and use --recipe FILE.toml"),
        ('config = "x"', "unknown key 'config'"),
        ("epochs = 1.5", "epochs must be a whole number, not 1.5"),
        ("epochs = true", "epochs must be a whole number, not True"),
        ("epochs = 0", "--epochs: must be at least 1, not 0"),
        ('target = "high"', "target must be a number, not 'high'"),
        ("seeds = [true]", "seeds must be text or a number, or a list of them, not [True]"),
        ("models = []", "models must be text or a number, or a list of them, not []"),
        ("deterministic = 1", "deterministic must be true or false, not 1"),
        ("results = 3", "results must be text, not 3"),
        ("[data]\ndataset = 1", "unknown key 'data'"),
        ('cinic-train = "all"', "--cinic-train: invalid choice: 'all'"),
        ("seeds = [", "cannot be read"),
    ],
)
def test_a_file_that_cannot_be_used(content: str, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(content)
    with pytest.raises(UserError) as caught:
        parse(["--config", str(path)])
    assert sentence in str(caught.value)
    assert str(path) in str(caught.value)


def test_no_such_file_and_no_such_place(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no sweep file 'none\.toml'"):
        parse(["--config", "none.toml"])
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="the sweep cannot be written to"):
        sweep_file.save(tmp_path / "file" / "sweep.toml", "")


def test_the_store_keeps_the_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once for each sweep, however often it is resumed; not on a dry run."""
    from bench.drive.context import SweepContext

    monkeypatch.setattr(sweep, "make_plans", lambda *_: [])
    monkeypatch.setattr(sweep.auto_setting, "with_setting", lambda plans, _: plans)
    monkeypatch.setattr(sweep, "compile_ahead", lambda *_: None)
    monkeypatch.setattr(sweep.lr_search, "with_best_lr", lambda *_: pytest.fail("kept before anything long begins"))
    context = SweepContext(Store(tmp_path), None, None)  # type: ignore[arg-type]
    for line in ("--seeds 1", "--seeds 2", "--seeds 1 --rerun"):
        with pytest.raises(pytest.fail.Exception):
            sweep.carry_out(asked(*line.split()), context)
    kept = sorted(tmp_path.glob("sweeps/*.toml"))
    assert {asked("--config", path).training.seeds for path in kept} == {(1,), (2,)}
    assert len(kept) == 2
