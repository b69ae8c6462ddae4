"""What needs a CUDA device: `make gpu`. Each test ends within a minute; those marked `alone` time something."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pandas as pd
import pytest
import torch

from bench.data.loader import Batches, HeldOut
from bench.plan.budget import Course
from bench.plan.recipes import shared
from bench.store.disk import Store
from bench.store.records import FinishedRun
from models.registry import CATALOGUE, build

Command = Callable[..., CompletedProcess[str]]
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
    pytest.mark.timeout(60),
]


@pytest.mark.parametrize("name", CATALOGUE)
def test_every_model_trains_in_bf16(name: str) -> None:
    device = torch.device("cuda")
    model = build(name, 10, 32).to(device, memory_format=torch.channels_last)
    images = torch.randn(8, 3, 32, 32, device=device).contiguous(memory_format=torch.channels_last)
    with torch.autocast("cuda", torch.bfloat16):
        loss = model(images).float().logsumexp(1).sum()
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_batches_are_those_of_the_cpu() -> None:
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (64, 16, 16, 3), dtype=np.uint8), np.arange(64)
    recipe = replace(shared(), batch_size=16, crop_padding=2)
    for resident in (True, False):
        on_cpu, on_gpu = (
            Batches.create(images, labels, recipe, 64, 0, torch.device(d), resident=resident) for d in ("cpu", "cuda")
        )
        for (x, y), (gx, gy) in zip(on_cpu.epoch(1), on_gpu.epoch(1), strict=True):
            assert torch.equal(y, gy.cpu())
            torch.testing.assert_close(x, gx.cpu())


STRONG = replace(shared(), batch_size=64, policy="trivialaugment", cutout=8, mixup=0.2, cutmix=1.0)


def cifar_like(count: int = 64 * 20) -> tuple[np.ndarray, np.ndarray]:
    return np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8), np.arange(count) % 10


@pytest.mark.parametrize("deterministic", [False, True])
def test_strong_batches_are_those_of_the_cpu(deterministic: bool) -> None:
    """Without the mix of two images: nearly all pixels equal, a few a grey level or a tie of a rotation apart."""
    recipe = replace(STRONG, mixup=0.0, cutmix=0.0)
    on_cpu, on_gpu = (Batches.create(*cifar_like(), recipe, 10, 0, torch.device(d)) for d in ("cpu", "cuda"))
    before = torch.are_deterministic_algorithms_enabled()
    try:
        torch.use_deterministic_algorithms(deterministic)
        gpu = torch.cat([x.cpu() for x, _ in on_gpu.epoch(0)])
    finally:
        torch.use_deterministic_algorithms(before)
    cpu = torch.cat([x for x, _ in on_cpu.epoch(0)])
    assert float(((cpu - gpu).abs() > 1e-5).float().mean()) < 1e-3


def test_streamed_batches_are_the_resident_ones() -> None:
    """While the GPU is busy, so that copies, buffers and steps do overlap."""
    device = torch.device("cuda")
    resident, streamed = (Batches.create(*cifar_like(), STRONG, 10, 0, device, resident=r) for r in (True, False))
    load = torch.randn(4096, 4096, device=device)
    kept = []
    for epoch in range(3):
        for part in zip(resident.epoch(epoch), streamed.epoch(epoch), strict=True):
            kept.append(part)
            load @ load
    assert not streamed.images.is_cuda
    for (x, y), (sx, sy) in kept:
        assert torch.equal(x, sx)
        assert torch.equal(y, sy)


@pytest.mark.parametrize("resident", [True, False])
def test_no_batch_waits_for_the_gpu(resident: bool) -> None:
    """torch's own alarm: within an epoch nothing is read back and nothing copied but from page-locked memory."""
    batches = Batches.create(*cifar_like(), STRONG, 10, 0, torch.device("cuda"), resident=resident)
    list(batches.epoch(0))
    epoch = batches.epoch(1)
    next(epoch)
    torch.cuda.set_sync_debug_mode("error")
    try:
        assert len(list(epoch)) == 19
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.alone
def test_a_sweep_on_the_gpu(bench: Command, tiny_npz: Path, tmp_path: Path) -> None:
    """Starts one process for the sweep, one for its run of 12 steps, one for a timing pass of 2 s."""
    data = ["--dataset", f"npz:{tiny_npz}", "--recipe", "smoke", "--epochs", "2", "--batch-size", "20"]
    done = bench(*data, "--models=resnet20", "--timing-limit=2s", "--results", tmp_path)
    assert done.returncode == 0, done.stderr
    (row,) = pd.read_csv(tmp_path / "results.csv").to_dict("records")
    assert row["device"] == "cuda"
    assert row["precision"] in {"bf16", "fp32"}
    assert row["setting"] == row["setting_used"] == "graphed", "what auto chooses for a sweep as short as this"
    assert row["peak_memory_bytes"] > 1e6
    assert row["train_images_per_second"] > 0
    (run,) = Store(tmp_path).runs()
    assert isinstance(run, FinishedRun)
    assert sum(run.phases.values()) == pytest.approx(run.metrics.wall_seconds, rel=0.02)
    assert run.notes == ()
    assert run.environment["mig"] in (True, False)


@pytest.mark.alone
def test_events_agree_with_the_wall_clock() -> None:
    """A long queue of products: both clocks see the same time but for the launch of the first."""
    import time

    from bench.measure.timing import event_stopwatch, wall_stopwatch

    device = torch.device("cuda")
    a = torch.randn(4096, 4096, device=device)
    events, wall = event_stopwatch(device), wall_stopwatch(time.perf_counter, torch.cuda.synchronize)
    events(lambda: a @ a, 50)
    by_events, by_wall = events(lambda: a @ a, 200), wall(lambda: a @ a, 200)
    assert by_events == pytest.approx(by_wall, rel=0.1)


@pytest.mark.alone
def test_a_speed_session_on_the_gpu(bench: Command, tmp_path: Path) -> None:
    """Starts one process for the command, one to try each of two models, one for their session of 3 s."""
    words = ["--models=resnet20,vit_params", "--batch-size=64", "--batch-sizes=64", "--train-batch-sizes=64"]
    words += ["--time-limit=3s"]
    done = bench("time", *words, "--results", tmp_path)
    assert done.returncode == 0, done.stderr
    rows = pd.read_csv(tmp_path / "speed.csv")
    train = rows[rows["kind"] == "train"]
    assert set(rows["setting"]) == {"graphed"}, "what auto chooses for a session as short as this"
    assert (train["memory_bytes"] > 1e6).all()
    assert (train["reserved_bytes"] >= train["memory_bytes"]).all()
    assert train["bound"].isin(["launch", "bandwidth", "compute", "loader"]).all()
    assert (train["joules_per_1000_images"].notna() | train["joules_missing"].notna()).all()


@pytest.mark.alone
def test_a_batch_that_does_not_fit_is_a_row(bench: Command, tmp_path: Path) -> None:
    """Starts one process for the command, one to try the model, one for a session of 1 s."""
    words = ["--models=resnet20", "--batch-size=8", "--batch-sizes=8,900000", "--image-size=256", "--time-limit=1s"]
    words += ["--setting=eager", "--train-batch-sizes=8"]
    done = bench("time", *words, "--results", tmp_path)
    assert done.returncode == 1
    rows = pd.read_csv(tmp_path / "speed.csv")
    assert set(rows.loc[rows["batch_size"] == 900_000, "status"]) == {"oom"}
    assert set(rows.loc[rows["batch_size"] == 8, "status"]) == {"ok"}


ASSERTS = """
import torch
from torch import nn

class Model(nn.Module):
    def __init__(self, classes, size):
        super().__init__()
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(3 * size * size, classes))

    def forward(self, x):
        if x.is_cuda and self.training and len(x) > 2:
            torch.zeros(2, device=x.device)[torch.tensor([5], device=x.device)]
        return self.head(x)

def breaks(classes, size): return Model(classes, size)
"""


@pytest.mark.usefixtures("untimed")
def test_a_device_assert_ends_one_run(here: Command, tiny_npz: Path, tmp_path: Path) -> None:
    """A CUDA context does not survive it: the next model has another process, and another context.

    Starts two runs of 6 steps.
    """
    path = tmp_path / "mine.py"
    path.write_text(ASSERTS)
    data = ["--dataset", f"npz:{tiny_npz}", "--recipe", "smoke", "--epochs", "1", "--batch-size", "20"]
    done = here(*data, "--models", f"{path}:breaks,resnet20", "--results", tmp_path / "s")
    assert done.returncode == 1
    results = pd.read_csv(tmp_path / "s" / "results.csv").set_index("family")
    assert results.loc["external", "status"] in ("failed", "killed")
    assert results.loc["cnn", "status"] == "ok"


def test_a_resumed_run_continues_from_its_checkpoint(tiny_npz: Path, tmp_path: Path) -> None:
    """On a GPU the same history up to the kernels' own order of sums."""
    from bench.core.errors import Interrupted
    from bench.core.events import Event
    from bench.data.datasets import DataSource
    from bench.measure.run import run_one
    from bench.plan.recipes import smoke
    from bench.plan.spec import RunSpec, Setting

    source = DataSource(f"npz:{tiny_npz}", Path(), None, 1.0)
    recipe = replace(smoke(), epochs=3, batch_size=20, precision="fp32")
    spec = RunSpec("resnet20", source.load().ref, recipe, Setting(), "cuda", "here", 0, deterministic=True)
    events_left = [8]

    def stop(event: Event) -> None:
        events_left[0] -= 1
        if events_left[0] == 0:
            raise Interrupted("stopped")

    uninterrupted = run_one(spec, source.load(), Store(tmp_path / "a"), lambda event: None)
    with pytest.raises(Interrupted):
        run_one(spec, source.load(), Store(tmp_path / "b"), stop)
    resumed = run_one(spec, source.load(), Store(tmp_path / "b"), lambda event: None)
    assert isinstance(uninterrupted, FinishedRun)
    assert isinstance(resumed, FinishedRun)
    assert resumed.metrics.segments == 2
    losses = [[row.train_loss for row in run.history] for run in (uninterrupted, resumed)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("name", CATALOGUE)
def test_a_graphed_step_is_the_eager_one(name: str, optimizer: str) -> None:
    """Losses of ten steps with a falling learning rate; bf16's rounding times a few orders of summation."""
    from bench.measure.step import arrange, make_optimizer, make_step, set_lr
    from bench.plan.settings import SETTINGS

    device, recipe = torch.device("cuda"), replace(shared(), batch_size=16, precision="bf16", optimizer=optimizer)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(10, 16, 3, 32, 32, generator=generator).to(device)
    labels = torch.randint(10, (10, 16), generator=generator).to(device)
    losses = {}
    for setting in (SETTINGS["eager"], SETTINGS["graphed"]):
        torch.manual_seed(0)
        model = arrange(build(name, 10, 32), setting).to(device).train()
        optimiser = make_optimizer(model, recipe, setting.graphed)
        notes: list[str] = []
        step = make_step(model, optimiser, recipe, setting, device, notes.append)
        by_step = []
        for number in range(10):
            set_lr(optimiser, 1e-3 / (1 + number))
            by_step.append(step(images[number].contiguous(memory_format=torch.channels_last), labels[number]))
        assert notes == []
        assert step.used == setting.name
        losses[setting.name] = torch.stack(by_step).cpu()
    torch.testing.assert_close(losses["graphed"], losses["eager"], rtol=0.02, atol=0.02)


def test_dropout_draws_the_same_in_a_graph() -> None:
    from bench.measure.step import make_optimizer, make_step
    from bench.plan.settings import SETTINGS

    device, recipe = torch.device("cuda"), replace(shared(), batch_size=32, precision="fp32")
    images, labels = torch.randn(32, 100, device=device), torch.randint(10, (32,), device=device)
    losses = []
    for name in ("eager", "graphed"):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(100, 100), torch.nn.Dropout(0.5), torch.nn.Linear(100, 10)).to(
            device
        )
        optimizer = make_optimizer(model, recipe, name == "graphed")
        step = make_step(model, optimizer, recipe, SETTINGS[name], device)
        losses.append(torch.stack([step(images, labels) for _ in range(5)]))
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-4, atol=1e-5)


SMALL = """
from torch import nn

def small(classes, size):
    head = nn.Linear(8 * ((size - 1) // 2) ** 2, classes)
    return nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), head)
"""


@pytest.mark.alone  # `tuned` times its candidates
@pytest.mark.usefixtures("untimed")
@pytest.mark.parametrize("setting", ["compiled", "graphed", "fused", "tuned"])
def test_settings_from_the_command_line(here: Command, tiny_npz: Path, tmp_path: Path, setting: str) -> None:
    """Starts one run of 12 steps of a model that compiles within seconds, under `tuned` a search before it."""
    path = tmp_path / "mine.py"
    path.write_text(SMALL)
    data = ["--dataset", f"npz:{tiny_npz}", "--recipe", "smoke", "--epochs", "2", "--batch-size", "20"]
    words = ["--models", f"{path}:small", "--setting", setting, "--tune-limit=5s"]
    done = here(*data, *words, "--results", tmp_path / "s")
    assert done.returncode == 0, done.stderr
    assert "falling back" not in done.stdout
    results = pd.read_csv(tmp_path / "s" / "results.csv")
    assert set(results["setting"]) == {setting}
    assert setting == "tuned" or set(results["setting_used"]) == {setting}


@pytest.mark.usefixtures("untimed")
def test_models_compiled_side_by_side_are_found_in_the_cache(
    here: Command, tiny_npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Starts two processes that compile a small model each, then two fused runs of 6 steps, which compile nothing."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = tmp_path / "mine.py"
    path.write_text(
        f"{SMALL}\ndef other(classes, size): return nn.Sequential(nn.AvgPool2d(2), small(classes, size // 2))"
    )
    data = ["--dataset", f"npz:{tiny_npz}", "--recipe", "smoke", "--epochs", "1", "--batch-size", "20"]
    done = here(*data, "--models", f"{path}:small,{path}:other", "--setting=fused", "--results", tmp_path / "s")
    assert done.returncode == 0, done.stderr
    assert "compiling 2 models, " in done.stdout
    for run in Store(tmp_path / "s").runs():
        assert isinstance(run, FinishedRun)
        assert (run.setting_used, run.first_step_from_cache) == ("fused", True)


@pytest.mark.parametrize("name", ["resnet20", "vit_params"])
def test_a_captured_evaluation_is_the_eager_one(name: str) -> None:
    """The last batch padded; after the weights have changed, too. The tolerance is that of docs/measurement.md."""
    from bench.measure.evaluate import evaluate, make_forward
    from bench.measure.step import arrange
    from bench.plan.settings import SETTINGS

    device = torch.device("cuda")
    images, labels = cifar_like(1100)
    batches = Batches.create(images, labels, replace(shared(), precision="bf16"), 10, 0, device)
    held_out, model = HeldOut.create(images, labels, batches), arrange(build(name, 10, 32), SETTINGS["graphed"])
    model, notes = model.to(device), list[str]()
    captured = make_forward(model, SETTINGS["graphed"], device, "bf16", notes.append)
    for _ in range(2):
        eager = evaluate(model, held_out.batches(), make_forward(model, SETTINGS["eager"], device, "bf16"))
        found = evaluate(model, held_out.batches(), captured)
        np.testing.assert_allclose(found.losses, eager.losses, rtol=0.02, atol=0.02)
        assert (found.predicted == eager.predicted).mean() > 0.99
        with torch.no_grad():
            for weight in model.parameters():
                weight.mul_(1.1)
    assert notes == []


def test_draws_made_ahead_are_those_of_the_cpu() -> None:
    recipe = replace(shared(), batch_size=64)
    on_cpu, on_gpu = (Batches.create(*cifar_like(), recipe, 10, 0, torch.device(d)) for d in ("cpu", "cuda"))
    for (x, y), (gx, gy) in zip(on_cpu.steps_between(5, 45), on_gpu.steps_between(5, 45), strict=True):
        assert torch.equal(y, gy.cpu())
        torch.testing.assert_close(x, gx.cpu())


def test_an_epoch_of_training_never_waits() -> None:
    """The whole loop under torch's alarm, which `train` itself would trigger only when an epoch's losses are read."""
    from bench.measure.device import resolve_precision
    from bench.measure.evaluate import Evaluation
    from bench.measure.train import Stepped, begin, train

    device = torch.device("cuda")
    recipe = replace(shared(), batch_size=64, epochs=1, precision=resolve_precision("auto", device))
    batches = Batches.create(*cifar_like(), recipe, 10, 0, device)
    model = build("resnet20", 10, 32).to(device, memory_format=torch.channels_last)
    training = begin(model, batches, Course(batches.steps * 64, 64, batches.steps))

    def no_validation() -> Evaluation:
        raise AssertionError("the epoch ends before it")

    events = train(training, no_validation)
    try:
        for step in range(1, batches.steps + 1):
            assert next(events) == Stepped(step)
            torch.cuda.set_sync_debug_mode("error" if step < batches.steps else "default")
    finally:
        torch.cuda.set_sync_debug_mode("default")
    with pytest.raises(AssertionError, match="ends before it"):
        next(events)


@pytest.mark.parametrize("setting", ["eager", "graphed"])
def test_seeds_that_train_together_are_those_one_by_one(
    tiny_npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    """Three seeds of 12 steps with dropout, each from a generator of its own; equal up to the order of sums."""
    from bench.core.events import Finished, OfRun
    from bench.data.datasets import DataSource
    from bench.measure.device import device_name
    from bench.measure.run import run_one
    from bench.measure.together import child_runs
    from bench.plan.recipes import smoke
    from bench.plan.settings import SETTINGS
    from bench.plan.spec import RunOptions, RunSpec
    from models import registry

    def small(name: str, classes: int, size: int) -> torch.nn.Module:
        body = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, stride=2), torch.nn.ReLU(), torch.nn.Flatten())
        return torch.nn.Sequential(body, torch.nn.Dropout(0.3), torch.nn.Linear(8 * ((size - 1) // 2) ** 2, classes))

    monkeypatch.setattr(registry, "build", small)
    source = DataSource(f"npz:{tiny_npz}", Path(), None, 1.0)
    recipe = replace(smoke(), epochs=2, batch_size=20, precision="fp32", lr=0.01)
    name, ref = device_name(torch.device("cuda")), source.load().ref
    specs = [RunSpec("resnet20", ref, recipe, SETTINGS[setting], "cuda", name, seed) for seed in range(3)]
    events: list[object] = []
    store, alone = Store(tmp_path / "together"), Store(tmp_path / "alone")
    named = [(f"run {spec.seed}", spec) for spec in specs]
    child_runs(events.append, named, source, store.root, RunOptions(together=3))
    assert [e.said for e in events if isinstance(e, OfRun)].count(Finished()) == 3
    for spec in specs:
        expected, found = run_one(spec, source.load(), alone, lambda event: None), store.record(spec)
        assert isinstance(found, FinishedRun)
        assert (found.setting_used, expected.setting_used) == (setting, setting)
        losses = [[row.train_loss for row in run.history] for run in (found, expected)]
        np.testing.assert_allclose(losses[0], losses[1], rtol=1e-3)
