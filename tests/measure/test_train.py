"""The loop against a plain one, the clock against a fake one, the schedule against its formula."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.core.errors import Diverged
from bench.core.events import EpochDone, Event, StepDone
from bench.data.augment import Mix, mix_labels
from bench.data.loader import EVAL_BATCH, Batches, HeldOut
from bench.measure.checkpoint import State
from bench.measure.evaluate import Evaluation, evaluate, make_forward
from bench.measure.step import make_optimizer, make_step
from bench.measure.supervise import Clock, Clocks, Keeper, Trained, supervise, to_end
from bench.measure.train import Training, begin, lr_factor, train
from bench.plan.budget import Course
from bench.plan.recipes import shared
from bench.plan.spec import Colocation, Recipe, RunOptions, Setting

CPU = torch.device("cpu")
RECIPE = replace(shared(), epochs=3, batch_size=8, precision="fp32", warmup_fraction=1 / 3, crop_padding=1)
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (30, 8, 8, 3), dtype=np.uint8)
LABELS = (np.arange(30) % 3).astype(np.int64)
FINE = Evaluation(np.zeros(1, np.int64), np.zeros(1, np.float32), np.zeros(1, np.int64))


def small_model() -> nn.Module:
    torch.manual_seed(5)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3))


def small_batches() -> Batches:
    return Batches.create(IMAGES, LABELS, RECIPE, 3, 0, CPU)


class Kept:
    """A keeper that saves whenever it is asked, `limit` times."""

    def __init__(self, limit: int) -> None:
        self.limit, self.steps, self.state = limit, list[int](), dict[str, object]()

    def due(self) -> bool:
        return len(self.steps) < self.limit

    def save(self, step: int, state: State) -> None:
        self.steps.append(step)
        self.state = copy.deepcopy(state)


class FakeTime:
    """A clock that moves by one second at each reading, and counts synchronisations."""

    def __init__(self) -> None:
        self.reads = self.syncs = 0

    def now(self) -> float:
        self.reads += 1
        return float(self.reads)

    def sync(self) -> None:
        self.syncs += 1


@dataclass
class Observed:
    """A training on two fake clocks, with everything it reported."""

    trained: Trained
    steady: FakeTime
    first: FakeTime
    events: list[Event]


def run(
    model: nn.Module,
    recipe: Recipe = RECIPE,
    validate: Callable[[], Evaluation] = lambda: FINE,
    keeper: Keeper | None = None,
    state: State | None = None,
    options: RunOptions = RunOptions(),  # noqa: B008  # frozen
) -> Observed:
    steady, first, events = FakeTime(), FakeTime(), list[Event]()
    batches = Batches.create(IMAGES, LABELS, recipe, 3, 0, CPU)
    course = Course(recipe.epochs * 24, 8, 3, recipe.validations)
    training = begin(model, batches, course, state=state, options=options)
    clocks = Clocks(Clock(first.now, first.sync), Clock(steady.now, steady.sync))
    return Observed(to_end(supervise(training, validate, clocks, events.append, keeper)), steady, first, events)


def test_schedule_by_its_formula() -> None:
    assert lr_factor(0, 100, 10) == pytest.approx(1 / 11)
    assert lr_factor(9, 100, 10) == pytest.approx(10 / 11)
    assert lr_factor(10, 100, 10) == 1
    assert lr_factor(55, 100, 10) == pytest.approx(0.5)
    assert lr_factor(100, 100, 10) == pytest.approx(0)
    assert lr_factor(25, 100, 0) == pytest.approx((1 + math.cos(math.pi / 4)) / 2)
    factors = [lr_factor(s, 50, 5.5) for s in range(50)]
    assert factors[:6] == sorted(factors[:6])
    assert factors[6:] == sorted(factors[6:], reverse=True)


def test_the_loop_equals_a_plain_one_bit_for_bit() -> None:
    """Written again with torch's own AdamW, schedule by hand, no clock, no hooks."""
    ours = small_model()
    run(ours)
    plain = small_model()
    weights = [p for p in plain.parameters() if p.ndim > 1]
    others = [p for p in plain.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": weights, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}], lr=1e-3, fused=True
    )
    step, batches = 0, small_batches()
    for epoch in range(3):
        plain.train()
        for images, labels in batches.epoch(epoch):
            for group in optimizer.param_groups:
                group["lr"] = 1e-3 * ((step + 1) / 4 if step < 3 else 0.5 * (1 + math.cos(math.pi * (step - 3) / 6)))
            optimizer.zero_grad()
            F.cross_entropy(plain(images), labels, label_smoothing=0.1).backward()
            nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
            optimizer.step()
            step += 1
    for (name, a), b in zip(ours.state_dict().items(), plain.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_the_clock_counts_training_alone() -> None:
    """Two readings and two synchronisations per epoch, one pair more for the first step; validation is outside."""
    validations = 0

    def validate() -> Evaluation:
        nonlocal validations
        validations += 1
        return FINE

    seen = run(small_model(), validate=validate)
    assert (seen.steady.reads, seen.steady.syncs) == (6, 6)
    assert (seen.first.reads, seen.first.syncs) == (2, 2)
    assert seen.trained.train_seconds == 3.0
    assert seen.trained.first_step_seconds == 1.0
    assert [row.train_seconds for row in seen.trained.history] == [1.0, 2.0, 3.0]
    assert validations == 3


def test_checkpoints_are_not_on_the_clock() -> None:
    """Each one splits a stretch in two; a stretch that ends an epoch, and the first step, are followed by none."""
    keeper = Kept(limit=100)
    seen = run(small_model(), keeper=keeper)
    assert keeper.steps == [2, 4, 5, 7, 8]
    assert (seen.steady.reads, seen.first.reads) == (2 * 8, 2)


def test_steps_and_samples_are_exact() -> None:
    seen = run(small_model())
    steps = [event.step for event in seen.events if isinstance(event, StepDone)]
    rows = tuple(event.row for event in seen.events if isinstance(event, EpochDone))
    assert steps == list(range(1, 10))  # 30 images make 3 full batches of 8
    assert seen.trained.samples_seen == 3 * 3 * 8
    assert rows == seen.trained.history
    assert [row.samples_seen for row in rows] == [24, 48, 72]


def test_trainings_that_take_turns_are_those_that_run_alone() -> None:
    """Round robin over three generators, step by step: the weights are the same to the last bit."""

    def three() -> list[Training]:
        parts = [Batches.create(IMAGES, LABELS, RECIPE, 3, seed, CPU) for seed in range(3)]
        return [begin(small_model(), part, Course(72, 8, 3)) for part in parts]

    alone, in_turns = three(), three()
    for training in alone:
        assert len(list(train(training, lambda: FINE))) == 9 + 3
    for turn in zip(*(train(training, lambda: FINE) for training in in_turns), strict=True):
        assert len({type(event) for event in turn}) == 1
    for one, other in zip(alone, in_turns, strict=True):
        weights = zip(one.model.state_dict().values(), other.model.state_dict().values(), strict=True)
        assert all(torch.equal(a, b) for a, b in weights)


def test_divergence_is_named_with_its_step() -> None:
    class Breaks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.calls = small_model(), 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            return self.inner(x) * (float("nan") if self.calls > 5 else 1.0)

    with pytest.raises(Diverged) as caught:
        run(Breaks())
    assert caught.value.step == 5


def test_a_loss_of_nan_on_validation_is_no_accuracy() -> None:
    """The last update can break the weights after the last finite training loss."""
    broken = Evaluation(FINE.predicted, np.array([np.nan], np.float32), FINE.labels)
    with pytest.raises(Diverged, match="validation loss"):
        run(small_model(), validate=lambda: broken)


@pytest.mark.parametrize(("name", "kind"), [("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD)])
def test_vectors_are_not_decayed(name: str, kind: type) -> None:
    model = small_model()
    optimizer = make_optimizer(model, replace(RECIPE, optimizer=name))
    assert type(optimizer) is kind
    decayed, spared = optimizer.param_groups
    assert decayed["weight_decay"] == 0.05
    assert spared["weight_decay"] == 0
    assert {p.ndim for p in spared["params"]} == {1}
    assert sum(len(g["params"]) for g in optimizer.param_groups) == len(list(model.parameters()))
    if name == "sgd":
        assert decayed["nesterov"]


def test_evaluation_against_a_plain_count() -> None:
    model = small_model()
    held_out = HeldOut.create(IMAGES, LABELS, small_batches())
    found = evaluate(model, held_out.batches(), make_forward(model, Setting(), CPU, "fp32"))
    assert not model.training
    (images, labels), *rest = held_out.batches()
    assert not rest
    with torch.no_grad():
        logits = model(images)
    assert found.accuracy == (logits.argmax(1) == labels).float().mean()
    assert found.loss == pytest.approx(float(F.cross_entropy(logits, labels)), rel=1e-6)
    assert np.array_equal(found.labels, LABELS)


def static(call: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """What a graph does with memory: every replay fills the same tensor anew, from the same inputs."""
    out = call().clone()

    def replay() -> Tensor:
        return out.copy_(call())

    return replay


def test_a_captured_evaluation_is_the_eager_one() -> None:
    """Of one shape in every call, the last batch padded, while the weights change between two validations."""
    count, generator = 2 * EVAL_BATCH + 7, np.random.default_rng(1)
    images = generator.integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    held_out, shapes = HeldOut.create(images, np.arange(count) % 3, small_batches()), list[int]()
    model = small_model()
    model.register_forward_pre_hook(lambda module, words: shapes.append(len(words[0])))
    eager, graphed = Setting(), Setting("graphed", graphed=True)
    captured = make_forward(model, graphed, CPU, "fp32", capture=static)
    for _ in range(2):
        expected = evaluate(model, held_out.batches(), make_forward(model, eager, CPU, "fp32"))
        shapes.clear()
        found = evaluate(model, held_out.batches(), captured)
        assert set(shapes) == {EVAL_BATCH}
        np.testing.assert_allclose(found.losses, expected.losses, rtol=1e-5, atol=1e-6)
        assert np.array_equal(found.predicted, expected.predicted)
        assert np.array_equal(found.labels, expected.labels)
        with torch.no_grad():
            for weight in model.parameters():
                weight.mul_(1.5)


def test_an_evaluation_that_cannot_be_captured_is_eager_and_says_so_once() -> None:
    def fails(call: Callable[[], Tensor]) -> Callable[[], Tensor]:
        call()
        raise RuntimeError("no graph here")

    model, notes = small_model(), list[str]()
    held_out = HeldOut.create(IMAGES, LABELS, small_batches())
    forward = make_forward(model, Setting("graphed", graphed=True), CPU, "fp32", notes.append, fails)
    expected = evaluate(model, held_out.batches(), make_forward(model, Setting(), CPU, "fp32"))
    for _ in range(2):
        assert np.array_equal(evaluate(model, held_out.batches(), forward).losses, expected.losses)
    assert notes == ["validation: graphed failed, falling back to eager: RuntimeError: no graph here"]


def test_mixed_labels_weigh_the_losses_of_both() -> None:
    """Zhang et al. 2018: the loss of a mixed label is the mixed loss; with label smoothing too."""
    images, labels, share = torch.randn(8, 3, 8, 8), torch.arange(8) % 3, 0.3
    mix = Mix(*torch.tensor([share, share, 0, 0, 0, 0]))
    one, other = (F.cross_entropy(small_model()(images), y, label_smoothing=0.1) for y in (labels, labels.roll(1)))
    model = small_model()
    loss = make_step(model, make_optimizer(model, RECIPE), RECIPE, Setting(), CPU)(images, mix_labels(labels, 3, mix))
    torch.testing.assert_close(loss, (share * one + (1 - share) * other).detach())


def test_bf16_runs_under_autocast() -> None:
    seen: set[torch.dtype] = set()
    model = small_model()
    next(model.children()).register_forward_hook(lambda module, args, out: seen.add(out.dtype))
    run(model, replace(RECIPE, precision="bf16", epochs=1))
    assert seen == {torch.bfloat16}
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_a_run_that_once_shared_its_device_says_so_when_it_resumes_alone() -> None:
    """Its seconds include those of the shared segment."""
    keeper = Kept(limit=1)
    shared_run = run(small_model(), keeper=keeper, options=RunOptions(colocation=Colocation(4))).trained
    alone = run(small_model(), state=keeper.state).trained
    never = run(small_model()).trained
    assert (shared_run.runs_at_once, alone.runs_at_once, never.runs_at_once) == (4, 4, 1)
    assert [epoch.val_loss for epoch in alone.history] == [epoch.val_loss for epoch in shared_run.history]
