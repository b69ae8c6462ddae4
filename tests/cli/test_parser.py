"""Words become requests; help, hints and errors say what a stranger needs. Nothing here trains or reads a store."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.cli import requests
from bench.cli.list import ROWS, lines
from bench.cli.main import FUNCTIONS, main
from bench.cli.parser import COMMANDS, EXAMPLES, flags_of, join_names, make_parser
from bench.cli.requests import (
    CompareRequest,
    CostRequest,
    DataRequest,
    ExplainRequest,
    PlotRequest,
    Request,
    TableRequest,
    parse,
)
from bench.core.errors import UserError
from bench.plan.budget import Budget
from bench.plan.presets import PRESETS, parse_seeds
from bench.plan.request import (
    DataOptions,
    ExecutionOptions,
    OutputOptions,
    PlacementOptions,
    RunRequest,
    TimeRequest,
    TrainingOptions,
)
from models.errors import ModelError
from tests.conftest import ROOT

Captured = pytest.CaptureFixture[str]


def sweep(*words: str) -> RunRequest:
    request = parse(words)
    assert isinstance(request, RunRequest)
    return request


def refused(*words: str) -> str:
    with pytest.raises((UserError, ModelError)) as caught:
        parse(words)
    return str(caught.value)


# --- requests --------------------------------------------------------------------------------------------------------


def test_no_words_mean_a_run_with_the_defaults() -> None:
    assert parse([]) == RunRequest(models=("seresnet", "vit_tiny"))
    assert parse(["run"]) == parse([])


def test_every_flag_of_run_arrives(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.toml"
    recipe.write_text("lr = 0.01")
    words = f"""run --models seresnet --preset quick --recipe {recipe} --seeds 0,2-3 --budget 10min --batch-size 64
        --validations 4 --target 0.9 --track both --trial-budget 1Msamples --dataset cifar10,svhn
        --train-fraction 1,0.1 --image-size 64 --data-dir d --setting compiled --tune-limit 2min --deterministic
        --device cuda:1 --executor ray:auto --retries 5 --results s --reference seresnet --run-timeout 2h
        --timing-limit 90 --keep-weights --rerun --live --dry-run"""
    assert parse(shlex.split(words)) == RunRequest(
        ("seresnet",),
        TrainingOptions(
            preset="quick",
            recipe=str(recipe),
            seeds=(0, 2, 3),
            budget=Budget("seconds", 600.0),
            batch_size=64,
            validations=4,
            tracks=("shared", "family"),
            trial_budget=Budget("samples", 1e6),
            target=0.9,
        ),
        DataOptions(("cifar10", "svhn"), (0.1, 1.0), 64, Path("d")),
        ExecutionOptions("compiled", 120.0, deterministic=True),
        PlacementOptions("cuda:1", "ray", "auto", retries=5),
        OutputOptions(
            Path("s"), 7200.0, 90.0, rerun=True, live=True, dry_run=True, reference="seresnet", keep_weights=True
        ),
    )
    more = sweep("--epochs", "3", "--runs-per-device", "2", "--executor", "slurm:debug", "--slurm", "time=9")
    assert (more.training.epochs, more.execution.runs_per_device) == (3, 2)
    assert (more.placement.executor, more.placement.address, more.placement.slurm) == ("slurm", "debug", "time=9")
    assert sweep("--dataset", "cinic10,digits", "--cinic-train", "train+valid").data.datasets == (
        "cinic10:train+valid",
        "digits",
    )


def test_every_flag_of_time_arrives() -> None:
    words = """time --models seresnet swin --recipe cnn --batch-size 8 --batch-sizes 32,1 --image-size 64
        --num-classes 5 --device cpu --setting eager,tuned --tune-limit 9 --deterministic --within 5 --time-limit 1min
        --results s --reference swin"""
    expected = TimeRequest(
        ("seresnet", "swin"),
        recipe="cnn",
        batch_size=8,
        batch_sizes=(1, 32),
        image_size=64,
        num_classes=5,
        device="cpu",
        settings=("eager", "tuned"),
        tune_limit=9.0,
        deterministic=True,
        half_width=0.05,
        time_limit=60.0,
        store=Path("s"),
        reference="swin",
    )
    assert parse(words.split()) == expected
    assert parse(["time"]) == TimeRequest(("seresnet", "vit_tiny"))
    assert parse(["time", "--explain", "swin"]) == ExplainRequest(TimeRequest(("swin",)))


def test_requests_of_readers() -> None:
    store = (Path("results/local"),)
    assert parse(["table"]) == TableRequest(store, None, False, "text", "", "", "", None)
    assert parse(["plot"]) == PlotRequest(store, None, False, None, ("png",), ("2",), "")
    two = parse(["plot", "--results", "a", "--results", "b", "--formats", "pdf, png", "--widths", "2,1", "--by-device"])
    assert two == PlotRequest((Path("a"), Path("b")), None, True, None, ("png", "pdf"), ("1", "2"), "")
    condition = ("accuracy", "<", -0.5)
    made = parse(["compare", "--margin", "1", "--target", "0.5", "--fail-if", "accuracy < -0.5", "--reference", "swin"])
    assert made == CompareRequest(store, "swin", (), 0.01, 0.5, "text", None, (condition,), ())  # type: ignore[arg-type]


def test_every_request_has_a_function() -> None:
    for target in FUNCTIONS.values():
        module, _, function = target.partition(":")
        path = ROOT / f"{module.replace('.', '/')}.py"
        assert f"\ndef {function}(" in path.read_text(encoding="utf-8")
    assert set(requests.READERS) == set(COMMANDS) - {"help"}


# --- lists of models -------------------------------------------------------------------------------------------------

BRACKETS = "timm:vit_tiny[depth=2,num_heads=3]"


@pytest.mark.parametrize(
    ("words", "models"),
    [
        (["seresnet,swin"], ("seresnet", "swin")),
        (["seresnet", "swin"], ("seresnet", "swin")),
        (["seresnet,", "swin"], None),
        (["seresnet,cct_2", "swin"], ("seresnet", "cct_2", "swin")),
        ([BRACKETS, "swin"], (BRACKETS, "swin")),
        ([f"{BRACKETS},swin"], (BRACKETS, "swin")),
        (["cct_*,-cct_2"], ("cct_7",)),
        (["cct_*", "-cct_2", "swin"], ("cct_7", "swin")),
    ],
)
@pytest.mark.parametrize("command", ["run", "time", "explain", "cost", "compare"])
def test_models_by_commas_and_by_spaces(command: str, words: list[str], models: tuple[str, ...] | None) -> None:
    before = {"run": ["--models"], "time": ["time", "--models"], "explain": ["time", "--explain"]}
    line = [*before.get(command, [command]), *words]
    if command == "compare" and any("*" in word for word in words):
        return  # its models are those of a store: no globs
    if models is None:
        assert "empty name" in refused(*line)
        return
    request = parse(line)
    request = request.time if isinstance(request, ExplainRequest) else request
    assert isinstance(request, RunRequest | TimeRequest | CostRequest | CompareRequest)
    assert request.models == models


def test_flags_after_models_are_flags() -> None:
    request = sweep("--models", "seresnet", "-seresnet", "swin", "--epochs", "3", "--rerun")
    assert (request.models, request.training.epochs, request.output.rerun) == (("swin",), 3, True)
    assert sweep("--models=seresnet", "swin").models == ("seresnet", "swin")
    assert sweep("--models", "-vit_*", "*vit*").models == ("simple_vit",)
    assert join_names(["table", "--sort", "-flops", "--out", "x"]) == ["table", "--sort=-flops", "--out", "x"]
    assert join_names(["--seeds", "-1"]) == ["--seeds", "-1"]


# --- paths -----------------------------------------------------------------------------------------------------------


def test_a_tilde_is_expanded_in_every_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "r.toml").write_text("lr = 0.01")
    made = sweep(
        *["--dataset", "npz:~/x.npz,folder:~/y", "--data-dir", "~/d", "--results", "~/s", "--recipe", "~/r.toml"]
    )
    assert made.data == DataOptions((f"npz:{tmp_path}/x.npz", f"folder:{tmp_path}/y"), data_dir=tmp_path / "d")
    assert (made.output.store, made.training.recipe) == (tmp_path / "s", str(tmp_path / "r.toml"))
    models = sweep("--models", "swin", "~/m.py:make", "--reference", "~/m.py:make")
    assert models.models == ("swin", f"{tmp_path}/m.py:make")
    assert models.output.reference == f"{tmp_path}/m.py:make"
    assert parse(["time", "--results", "~/s"]) == TimeRequest(("seresnet", "vit_tiny"), store=tmp_path / "s")
    assert parse(["plot", "--results", "~/s", "--out", "~/o", "--style", "~/a.mplstyle"]) == PlotRequest(
        (tmp_path / "s",), None, False, tmp_path / "o", ("png",), ("2",), f"{tmp_path}/a.mplstyle"
    )
    for command in ("table", "report", "compare"):
        assert getattr(parse([command, "--out", "~/o"]), "out") == tmp_path / "o"  # noqa: B009
    assert getattr(parse(["check", "--results", "~/s"]), "stores") == (tmp_path / "s",)  # noqa: B009
    shown = parse(["data", "show", "npz:~/x.npz", "--data-dir", "~/d", "--out", "~/o.png"])
    assert isinstance(shown, DataRequest)
    assert (shown.names, shown.data_dir, shown.out) == ((f"npz:{tmp_path}/x.npz",), tmp_path / "d", tmp_path / "o.png")
    cost = parse(["cost", "~/m.py:make"])
    assert isinstance(cost, CostRequest)
    assert cost.models == (f"{tmp_path}/m.py:make",)


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("--lr 0.1", "lr is a recipe's field: write FILE.toml"),
        ("--learning-rate 0.1", "lr is a recipe's field: write FILE.toml"),
        ("--optimizer sgd", "optimizer is a recipe's field: write FILE.toml"),
        ("--weight_decay=0.1", "weight_decay is a recipe's field: write FILE.toml"),
        ("--amp", "precision is a recipe's field: write FILE.toml"),
        ("--fp16", "precision is a recipe's field: write FILE.toml"),
        ("--resume", "the same command resumes"),
        ("--checkpoint x", "the same command resumes"),
        ("--workers 4", "not needed: images live on the device"),
        ("--num-workers 4", "not needed: images live on the device"),
        ("--num_workers=4", "not needed: images live on the device"),
        ("--gpu 0", "use --device cuda or cuda:N"),
        ("--output x", "--results names the store"),
        ("plot --output x", "--out the file that a command writes"),
        ("--compile", "use --setting compiled"),
        ("--models resnet18", "write torchvision:resnet18"),
        ("--models seresnet,resnet50", "write torchvision:resnet50"),
        ("--models vit_b_16", "write torchvision:vit_b_16"),
        ("--models vit_tiny_patch16_224", "write timm:vit_tiny_patch16_224"),
        ("--models my.py", "add :FUNCTION, as in my.py:make_model"),
        ("time --explain resnet34", "write torchvision:resnet34"),
        ("cost resnet18", "write torchvision:resnet18"),
    ],
)
def test_what_people_from_other_tools_look_for(line: str, sentence: str) -> None:
    said = refused(*line.split())
    assert sentence in said
    assert "did you mean" not in said


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        ("--modles x", "--models"),
        ("--epoch 3", "--epochs"),
        ("--seed 3", "--seeds"),
        ("--batchsize 3", "--batch-size"),
        ("--model swin", "--models"),
        ("--preset smok", "smoke"),
        ("--models vit_tinny", "vit_tiny"),
        ("--dataset cifar", "cifar10"),
        ("--dataset digits,shvn", "svhn"),
        ("--device cudda", "cuda"),
        ("--setting turned", "tuned"),
        ("--executor slrum", "slurm"),
        ("--recipe sharde", "shared"),
        ("--track famili", "family"),
        ("tabel", "table"),
        ("help tabel", "table"),
    ],
)
def test_a_suggestion_where_one_is_close(line: str, meant: str) -> None:
    assert f"did you mean '{meant}'?" in refused(*line.split())


@pytest.mark.parametrize(
    "line",
    [
        *(f"--{flag}" for flag in ("wandb", "cuda", "pretrained", "verbose", "ema", "log-dir", "world-size")),
        *(f"--models {name}" for name in ("mixer", "alexnet", "gpt2", "densenet")),
        *("--dataset imagenet", "--dataset mnist", "--device tpu", "--device mps", "--preset fast", "--recipe best"),
        *("--setting fast", "--executor k8s", "serve", "train"),
    ],
)
def test_no_suggestion_where_none_is_close(line: str) -> None:
    said = refused(*line.split())
    assert said.startswith("unknown ")
    assert "did you mean" not in said


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("--reference swin", "--reference 'swin' does not take part; choose from seresnet, vit_tiny"),
        ("time --reference swin", "--reference 'swin' does not take part"),
        ("--epochs 3 --budget 3epochs", "--epochs and --budget both say how long; give one"),
        ("--runs-per-device 65", "--runs-per-device must be between 1 and 64"),
        ("--retries -1", "--retries must be between 0 and 100"),
        ("--slurm time=9", "--slurm is for --executor slurm"),
        ("--setting tuned --executor ray", "it needs --executor local"),
        ("--budget 9s --runs-per-device 2", "needs the device to itself"),
        ("--device cpu:1", "unknown device 'cpu:1'; did you mean 'cpu'? Choices: cpu, cuda, cuda:N"),
        ("--device cuda:x", "unknown device 'cuda:x'"),
        ("--executor local:x", "write --executor local, not 'local:x'"),
        ("--executor slurm:x", "write --executor slurm, slurm:local or slurm:debug"),
        ("--dataset digits,digits", "--dataset takes different names"),
        ("--dataset npz:", "unknown dataset 'npz:'"),
        ("plot --formats gif", "--formats takes png, svg, pdf by commas, not 'gif'"),
        ("plot --widths 3", "--widths takes 1, 2 by commas, not '3'"),
        ("compare a,a", "a model is named twice"),
        ("report --claim a", "--claim takes two different models, as in seresnet,vit_tiny, not 'a'"),
        ("report --claim a a", "--claim takes two different models"),
        ("export", "the following arguments are required: --to (run_bench.py export --help)"),
        ("export --to wandb", "choose from"),
        ("compare --margin 0", "--margin must lie between 0 and 100 points"),
        ("compare --fail-if much", "not a condition"),
        ("cost swin --depth 0", "--depth must be between 1 and 100000"),
        ("cost", "the following arguments are required: MODEL (run_bench.py cost --help)"),
    ],
)
def test_refusals(line: str, sentence: str) -> None:
    assert sentence in refused(*line.split())


def test_an_empty_path_is_not_the_current_folder() -> None:
    """As of a shell's variable that is not set."""
    for line in ("run --results", "run --data-dir", "table --results", "table --out", "data show digits --out"):
        assert "must not be empty" in refused(*line.split(), "")
    assert "must not be empty" in refused("check", "--results=")


@pytest.mark.parametrize("command", ["table", "compare", "plot", "report", "data show digits"])
def test_a_device_is_not_replaced_by_a_file(command: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in ("/dev/null", "/dev/stdout", str(tmp_path / "pipe")):
        assert "is a device or a pipe; name a file" in refused(*command.split(), "--out", name)


def test_a_comma_in_the_name_of_a_file_stays() -> None:
    assert sweep("--dataset", "npz:a,b.npz").data.datasets == ("npz:a,b.npz",)
    assert sweep("--dataset", "npz:a.npz,folder:b").data.datasets == ("npz:a.npz", "folder:b")
    both = sweep("--dataset", "npz:a, b.npz,cifar10,folder:c,d").data.datasets
    assert both == ("npz:a, b.npz", "cifar10", "folder:c,d")


AT_ONCE = [
    *("--help", "help", "help run", "--version", "list models", "list datasets", "list presets", "list recipes"),
    *("--lr 1", "--models resnet18", "--dataset cifar", "--device cudda", "--setting turned", "--executor rey"),
    *("--preset smok", "--recipe sharde", "--track famili", "--seeds x", "cost vit_tinny", "compare --fail-if x"),
    *("time --device cudda", "time --setting turned", "time --models vit_tinny", "table --columns flop", "tabel"),
    "table --results none",
]


def test_an_answer_at_once() -> None:
    """Help, lists and typos load no torch, and neither matplotlib nor pandas nor scipy's statistics."""
    code = f"""
import sys
from bench.cli.main import main
for line in {AT_ONCE!r}:
    try:
        main(line.split())
    except SystemExit:
        pass
    slow = {{"torch", "timm", "matplotlib", "pandas", "scipy.stats"}} & set(sys.modules)
    assert not slow, (line, slow)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


# --- help ------------------------------------------------------------------------------------------------------------


def help_of(capsys: Captured, *words: str) -> str:
    with pytest.raises(SystemExit) as leaving:
        main(list(words))
    assert leaving.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("command", COMMANDS)
def test_help_fits_a_terminal_and_ends_in_examples(
    command: str, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    text = help_of(capsys, command, "--help")
    assert max(map(len, text.splitlines())) <= 80
    assert help_of(capsys, "help", command) == text
    assert text.startswith(f"usage: run_bench.py {command} ")
    about, examples = text.split("\nexamples:\n")
    assert [line.removeprefix("  python ") for line in examples.splitlines()] == EXAMPLES[command]
    for flag in flags_of(make_parser(), command):
        assert flag in about


def test_help_without_a_command(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    text = help_of(capsys, "--help")
    assert max(map(len, text.splitlines())) <= 80
    assert help_of(capsys, "help") == help_of(capsys, "-h") == text
    for command, summary in COMMANDS.items():
        assert re.search(
            rf"^ +{command}\s+{re.escape(summary)}$", text, re.MULTILINE
        )  # a long name has a line of its own


@pytest.mark.parametrize("line", [line for command in EXAMPLES for line in EXAMPLES[command]])
def test_examples_of_the_help_parse(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program, *words = shlex.split(line)
    assert program == "run_bench.py"
    monkeypatch.chdir(tmp_path)
    Path("sweep.toml").write_text('models = ["seresnet"]')
    with contextlib.suppress(SystemExit):  # help
        parse(words)


def test_flags_of_run_stand_in_groups(capsys: Captured) -> None:
    text = help_of(capsys, "help", "run")
    groups = ["what to train", "data", "how it is executed", "where", "output"]
    places = [text.index(f"\n{title}:\n") for title in groups]
    assert places == sorted(places)
    for flag, title in (("--models", 0), ("--dataset", 1), ("--setting", 2), ("--device", 3), ("--results", 4)):
        assert places[title] < text.index(f"\n  {flag} ") < [*places[1:], len(text)][title]


def test_version(capsys: Captured) -> None:
    assert help_of(capsys, "--version") == "sevit-bench 0.1.0\n"


# --- lists and errors ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ROWS)
def test_lists_wrap_at_words(what: str) -> None:
    rows = ROWS[what]()
    text = "\n".join(lines(rows, 80))
    assert max(map(len, text.splitlines())) <= 80
    assert " ".join(text.split()) == " ".join(" ".join(row) for row in rows)


def test_presets_are_listed_with_their_cost(capsys: Captured) -> None:
    assert main(["list", "presets"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    for preset in PRESETS.values():
        assert f"Cost: {preset.cost}" in text


def test_an_error_wraps_on_a_terminal_only(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["--dataset", "cifar"]) == 2
    sentence = capsys.readouterr().err
    assert sentence.count("\n") == 1
    assert len(sentence) > 80
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert main(["--dataset", "cifar"]) == 2
    wrapped = capsys.readouterr().err
    assert max(map(len, wrapped.splitlines())) <= 80
    assert wrapped.split() == sentence.split()


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (KeyboardInterrupt(), 130, "interrupted; finished runs are kept, rerun the same command to resume"),
        (OSError(28, "No space left on device", "x"), 2, "No space left on device 'x'; fix this, then rerun the same"),
        (MemoryError(), 2, "not enough memory (on this machine); end other programs"),
    ],
)
def test_what_the_machine_does(
    error: BaseException, code: int, sentence: str, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(request: Request) -> int:
        raise error

    monkeypatch.setattr("bench.cli.list.show", fail)
    assert main(["list", "models"]) == code
    printed = capsys.readouterr().err
    assert sentence in printed
    assert "Traceback" not in printed


def test_memory_is_saved_by_smaller_images_only_where_there_are_images(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(request: Request) -> int:
        raise MemoryError("1 TB")

    monkeypatch.setattr("bench.cli.data.run", fail)
    assert main(["data", "list"]) == 2
    assert "not enough memory (1 TB); a smaller --image-size takes less" in capsys.readouterr().err


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="no terminals that hang up")
def test_a_closed_terminal_ends_a_command_in_order_unless_it_is_not_to_hear_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def close(request: Request) -> int:
        signal.raise_signal(signal.SIGHUP)
        return 0

    terminal, other_end = os.openpty()
    stdin, before = os.dup(0), signal.getsignal(signal.SIGHUP)
    monkeypatch.setattr("bench.cli.list.show", close)
    try:
        os.dup2(other_end, 0)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nohup
        assert main(["list", "models"]) == 0
        assert os.isatty(0)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        assert main(["list", "models"]) == 143
        assert not os.isatty(0), "reading and writing a closed terminal is an error"
    finally:
        signal.signal(signal.SIGHUP, before)
        os.dup2(stdin, 0)
        for descriptor in (terminal, other_end, stdin):
            os.close(descriptor)


def test_seeds() -> None:
    assert parse_seeds("0") == [0]
    assert parse_seeds("0-2, 7") == [0, 1, 2, 7]
    for text in ("2-0", "0-99999999", "1-2-3"):
        with pytest.raises(UserError):
            parse_seeds(text)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.lists(
        st.one_of(
            st.text(max_size=8), st.sampled_from(["--models", "--seeds", "table", "--epochs", "3", "cost", "--sort"])
        ),
        max_size=4,
    )
)
def test_any_words_parse_or_get_a_sentence(words: list[str]) -> None:
    if {"-h", "--help", "help"} & set(words):
        return
    with contextlib.suppress(UserError, ModelError, SystemExit):
        assert type(parse(words)) in FUNCTIONS
