"""Which seeds train together, what becomes of them when one or all of them fail, and whose seconds they have."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any, cast

import msgspec
import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from bench.analysis.compare import pairs
from bench.analysis.tables import compare
from bench.core.events import Event, Failed, Finished, OfRun
from bench.data.datasets import Dataset, DataSource
from bench.drive.context import SweepContext
from bench.drive.planning import Plan
from bench.drive.runs import RunPolicy, Views, train_all
from bench.drive.together import MOST, arrange, in_parts
from bench.executors.child import Outcome
from bench.executors.protocol import Answer, Device, Task
from bench.executors.worker import files_to_return
from bench.plan.spec import RunSpec
from bench.present.pair_table import render as render_pairs
from bench.present.screen.progress import ScreenDisplay
from bench.present.table_formats import render
from bench.store.disk import Store
from bench.store.records import FinishedRun
from bench.store.seconds import with_seconds
from tests import synthetic
from tests.engines import HERE, AtOnce

Bench = Callable[..., "CompletedProcess[str]"]
CPU = replace(HERE, kind="Test CPU")
GPU = replace(CPU, name="cuda:0", type="cuda")
ALONE_SECONDS = 30.0


def plan_of(seeds: int = 5, models: tuple[str, ...] = ("seresnet",), **changes: Any) -> Plan:
    specs = [synthetic.spec(model, seed, **changes) for seed in range(seeds) for model in models]
    return Plan(specs, DataSource("none", Path(), None, 1.0), cast(Dataset, None))


def seeds_of(specs: tuple[RunSpec, ...]) -> list[int]:
    return [spec.seed for spec in specs]


def context_of(root: Path, *devices: Device, answer: Callable[[Task, Device], Answer] | None = None) -> SweepContext:
    said = Console(file=io.StringIO(), width=200)
    return SweepContext(Store(root), AtOnce(cast(Any, answer), devices or (CPU,)), ScreenDisplay(said))


def record_of(spec: RunSpec, together: int = 1, seconds_from: str = "") -> FinishedRun:
    """What a run leaves: three epochs of 1,000 images, 10 s each where it trained alone."""
    made = synthetic.record(spec, 0.6 + 0.01 * spec.seed, train_seconds=ALONE_SECONDS)
    if together == 1:
        return made
    history = tuple(msgspec.structs.replace(row, train_seconds=None) for row in made.history)
    metrics = msgspec.structs.replace(made.metrics, train_seconds=None, first_step_seconds=None, together=together)
    return msgspec.structs.replace(made, metrics=metrics, history=history, seconds_from=seconds_from)


# --- which ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("together", "devices", "single", "groups"), [
    (None, [HERE], [0, 1, 2, 3, 4], []),
    (None, [GPU], [0], [[1, 2, 3, 4]]),
    (None, [GPU, replace(GPU, name="cuda:1")], [0], [[1, 2], [3, 4]]),  # no device waits
    (None, [replace(GPU, name=f"cuda:{n}") for n in range(4)], [0, 1, 2, 3, 4], []),
    (1, [GPU], [0, 1, 2, 3, 4], []),
    (3, [HERE], [0], [[1, 2], [3, 4]]),  # parts as equal as can be
    (4, [HERE, HERE], [0], [[1, 2, 3, 4]]),  # as asked
])  # fmt: skip
def test_the_first_seed_trains_alone(
    together: int | None, devices: list[Device], single: list[int], groups: list[list[int]], tmp_path: Path
) -> None:
    plan = plan_of()
    made = arrange([plan], {spec.run_id for spec in plan.specs}, together, context_of(tmp_path, *devices), False)
    assert sorted(spec.seed for spec, _ in made.single) == single
    assert [seeds_of(group.specs) for group in made.groups] == groups
    assert {group.alone.seed for group in made.groups} <= {0}


def test_what_trained_alone_before_gives_the_seconds(tmp_path: Path) -> None:
    """Seed 2 of an earlier sweep; not under --rerun, which does it again."""
    plan, context = plan_of(), context_of(tmp_path, GPU)
    context.store.write_record(record_of(plan.specs[1], 2, "somewhere"), {})
    context.store.write_record(record_of(plan.specs[2]), {})
    todo = {plan.specs[n].run_id for n in (0, 3, 4)}
    (group,) = arrange([plan], todo, None, context, False).groups
    assert (seeds_of(group.specs), group.alone.seed) == ([0, 3, 4], 2)
    made = arrange([plan], {spec.run_id for spec in plan.specs}, None, context, True)
    assert ([spec.seed for spec, _ in made.single], made.groups[0].alone.seed) == ([0], 0)


def test_models_do_not_train_together_and_parts_are_even() -> None:
    specs = plan_of(21).specs
    assert [len(part) for part in in_parts(specs[1:], MOST)] == [7, 6, 7]
    assert [spec for part in in_parts(specs[1:], MOST) for spec in part] == specs[1:]


# --- what becomes of them -------------------------------------------------------------------------------------------


def trained(
    plan: Plan, root: Path, answer: Callable[[Store, Task], Answer | None], together: int = 8
) -> tuple[int, list[Task], str, Store]:
    """(failures, the tasks in their order, what the screen says, the store) of a sweep; tasks end as `answer` says.

    None: well.
    """
    tasks: list[Task] = []
    store = Store(root)

    def reply(task: Task, device: Device) -> Answer:
        tasks.append(task)
        if (scripted := answer(store, task)) is not None:
            return scripted
        if task.function.endswith("child_run"):
            store.write_record(record_of(task.args[0]), {})
            return Answer(Outcome("ok"))
        for _, spec in task.args[0]:
            store.write_record(record_of(spec, len(task.args[0]), task.args[3].seconds_from), {})
        return Answer(Outcome("ok"), events=tuple(OfRun(name, Finished()) for name, _ in task.args[0]))

    context = context_of(root, answer=reply)
    todo = {spec.run_id for spec in plan.specs}
    result = train_all([plan], todo, context, Views(store), RunPolicy(together=together, timeout=60.0))
    screen = cast(ScreenDisplay, context.display).console.file
    assert isinstance(screen, io.StringIO)
    return result.failures, tasks, screen.getvalue(), store


def test_one_task_for_several_records(tmp_path: Path) -> None:
    """Those alone come first, whatever the order of the seeds; a group may take as long as its runs one by one."""
    plan = plan_of(4, ("seresnet", "vit_tiny"))
    failures, tasks, _, store = trained(plan, tmp_path, lambda store, task: None)
    assert failures == 0
    assert [task.function.partition(":")[2] for task in tasks] == ["child_run"] * 2 + ["child_runs"] * 2
    assert [task.timeout for task in tasks] == [60, 60, 180, 180]
    assert [run.status for run in store.runs()] == ["ok"] * 8
    assert tasks[2].args[3].seconds_from == tasks[0].args[0].run_id
    assert (tasks[2].args[3].together, tasks[2].args[3].samples) == (8, None)


def test_several_records_come_home_from_a_disk_that_is_not_shared(tmp_path: Path) -> None:
    """As from a node of Ray or SLURM: they come with the answer."""

    def answer(store: Store, task: Task) -> Answer | None:
        if not task.function.endswith("child_runs"):
            return None
        far = Store(tmp_path / "far")
        for _, spec in task.args[0]:
            far.write_record(record_of(spec, 2, task.args[3].seconds_from), {"history.csv": b"epoch"})
        events = tuple(OfRun(name, Finished()) for name, _ in task.args[0])
        return Answer(Outcome("ok"), "far", events, files_to_return(far.root))

    failures, _, _, store = trained(plan_of(3), tmp_path / "here", answer)
    assert failures == 0
    assert [run.metrics.together for run in store.runs() if isinstance(run, FinishedRun)] == [1, 2, 2]
    assert len(list(store.root.glob("runs/*/history.csv"))) == 2


def test_a_failure_is_ones_own_and_memory_is_tried_again_alone(tmp_path: Path) -> None:
    def answer(store: Store, task: Task) -> Answer | None:
        if not task.function.endswith("child_runs"):
            return None
        (one, _), (two, _), (three, spec) = task.args[0]
        store.write_record(record_of(spec, 3, task.args[3].seconds_from), {})
        ends: list[tuple[str, Event]] = [
            (one, Failed("diverged", "training loss not finite at step 3")), (two, Failed("oom", "MemoryError")),
            (three, Finished()),
        ]  # fmt: skip
        return Answer(Outcome("ok"), events=tuple(OfRun(name, end) for name, end in ends))

    plan = plan_of(4)
    failures, tasks, screen, store = trained(plan, tmp_path, answer)
    assert failures == 1
    statuses = {run.spec.seed: run.status for run in store.runs()}
    assert statuses == {0: "ok", 1: "diverged", 2: "ok", 3: "ok"}
    assert [task.args[0].seed for task in tasks if task.function.endswith("child_run")] == [0, 2]
    assert "seed 2: oom: MemoryError; retrying by itself" in screen
    assert "seed 1: diverged: training loss not finite at step 3" in screen


@pytest.mark.parametrize("status", ["killed", "timeout", "failed", "oom"])
def test_the_end_of_the_process_leaves_the_unfinished_to_go_on_one_by_one(status: str, tmp_path: Path) -> None:
    """As after a device assert: one of three had finished."""

    def answer(store: Store, task: Task) -> Answer | None:
        if not task.function.endswith("child_runs"):
            return None
        name, spec = task.args[0][0]
        store.write_record(record_of(spec, 3, task.args[3].seconds_from), {})
        return Answer(Outcome(status, "device-side assert triggered"), events=(OfRun(name, Finished()),))

    failures, tasks, screen, store = trained(plan_of(4), tmp_path, answer)
    assert failures == 0
    assert [task.args[0].seed for task in tasks if task.function.endswith("child_run")] == [0, 2, 3]
    assert screen.count("their process ended (device-side assert triggered); it goes on by itself") == 2
    assert [run.status for run in store.runs()] == ["ok"] * 4


def test_an_interruption_is_a_row_of_each_that_had_not_finished(tmp_path: Path) -> None:
    def answer(store: Store, task: Task) -> Answer | None:
        if task.function.endswith("child_runs"):
            raise KeyboardInterrupt
        return None

    with pytest.raises(KeyboardInterrupt):
        trained(plan_of(3), tmp_path, answer)
    runs = sorted(Store(tmp_path).runs(), key=lambda run: run.spec.seed)
    assert [run.status for run in runs] == ["ok", "interrupted", "interrupted"]


def test_under_a_budget_in_seconds_all_get_the_images_of_the_first(tmp_path: Path) -> None:
    """The group starts once the first has measured the pace; where that failed, the next one does."""
    timed = {"recipe": replace(synthetic.RECIPE, epochs=0, budget="10s", validations=3)}
    _, tasks, _, store = trained(plan_of(3, **timed), tmp_path / "well", lambda store, task: None)
    first = next(run for run in store.runs() if run.spec.seed == 0)
    assert isinstance(first, FinishedRun)
    assert tasks[1].args[3].samples == first.metrics.samples_seen

    def fails(store: Store, task: Task) -> Answer | None:
        first = getattr(task.args[0], "seed", None) == 0
        return Answer(Outcome("failed", "no")) if first else None

    failures, tasks, _, _ = trained(plan_of(4, **timed), tmp_path / "badly", fails)
    assert failures == 1
    assert [task.args[0].seed for task in tasks[:2]] == [0, 1]
    assert [spec.seed for _, spec in tasks[2].args[0]] == [2, 3]
    assert tasks[2].args[3].seconds_from == tasks[1].args[0].run_id


# --- whose seconds --------------------------------------------------------------------------------------------------


def test_their_seconds_are_those_of_the_one_alone(tmp_path: Path) -> None:
    """Images each saw over images/s alone; the first step of a process is in neither."""
    _, _, _, store = trained(plan_of(3), tmp_path, lambda store, task: None)
    raw = {run.spec.seed: run for run in store.runs() if isinstance(run, FinishedRun)}
    timed = {run.spec.seed: run for run in with_seconds(store.runs()) if isinstance(run, FinishedRun)}
    assert raw[1].metrics.train_seconds is None
    assert timed[0] == raw[0]
    batch, seen = raw[0].spec.recipe.batch_size, raw[0].metrics.samples_seen
    for seed in (1, 2):
        assert timed[seed].metrics.train_seconds == pytest.approx(ALONE_SECONDS)
        for row in timed[seed].history:
            expected = ALONE_SECONDS * (row.samples_seen - batch) / (seen - batch)
            assert row.train_seconds == pytest.approx(expected)
    lonely = [run for run in store.runs() if run.spec.seed]
    assert with_seconds(lonely) == lonely, "without the run alone there are none"


def test_tables_say_where_seconds_come_from_and_ratios_count_what_was_measured(tmp_path: Path) -> None:
    plan = plan_of(3, ("seresnet", "vit_tiny"))
    _, _, _, store = trained(plan, tmp_path, lambda store, task: None)
    store.rebuild_views()
    results = pd.read_csv(tmp_path / "results.csv")
    assert results["train_seconds"].notna().all()
    assert sorted(results["together"]) == [1, 1, 2, 2, 2, 2]
    named = set(results["seconds_from"].dropna())
    assert named == {spec.run_id for spec in plan.specs if spec.seed == 0}
    (comparison,) = compare([store])
    words = " ".join(render([comparison], "text").split())
    assert "4 of 6 runs trained together with other seeds" in words
    assert "the run alone (seresnet seed 0, vit_tiny seed 0)" in words
    assert comparison.rows[0].values["train_seconds"].n == 1


def test_seconds_of_one_run_are_one_measurement_however_many_have_them(tmp_path: Path) -> None:
    store, label = Store(tmp_path), np.arange(400) % 10
    for model, seconds in (("seresnet", 20.0), ("vit_tiny", 30.0)):
        for seed in range(3):
            beside = {"metrics": {"train_seconds": None, "together": 2}} if seed else {}
            beside |= {"seconds_from": synthetic.spec(model).run_id} if seed else {}
            predicted = np.where(label == seed, (label + 1) % 10, label)
            synthetic.write_predicted(
                store, synthetic.spec(model, seed), label, predicted, train_seconds=seconds, **beside
            )
    (pair,) = pairs([store])
    assert (pair.training_seconds.n, pair.training_seconds.value) == (1, pytest.approx(20 / 30))
    assert pair.equal_accuracy is not None
    assert pair.equal_accuracy.seconds is not None
    words = " ".join(render_pairs([pair]).split())
    assert "All seconds are from seresnet seed 0 and vit_tiny seed 0, alone" in words


# --- for real -------------------------------------------------------------------------------------------------------


def test_from_the_command_line(here: Bench, untimed: None, tiny_npz: Path, tmp_path: Path) -> None:
    """One alone, two together (tests/measure/test_together.py shows that each is what it would be by itself)."""
    words = [f"--dataset=npz:{tiny_npz}", "--recipe=smoke", "--batch-size=20", "--epochs=2", "--device=cpu"]
    words += ["--models=vit_params", "--timing-limit=1s", "--seeds=0-2", "--together=2", "--results", str(tmp_path)]
    done = here(*words)
    assert done.returncode == 0, done.stderr
    runs = sorted(Store(tmp_path).runs(), key=lambda run: run.spec.seed)
    metrics = [run.metrics for run in runs if isinstance(run, FinishedRun)]
    assert [figures.together for figures in metrics] == [1, 2, 2]
    assert [figures.train_seconds is None for figures in metrics] == [False, True, True]
    assert "vit_params, seed 2: epoch 2/2" in done.stdout
    assert done.stdout.count("trained together with 1 other seed") == 2
    assert here("check", "--results", tmp_path).returncode == 0
