"""The search for a learning rate: made-up trials with a known best, stopped and resumed, planned by a dry run."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from subprocess import CompletedProcess

import msgspec
import pytest

from bench.core.errors import UserError
from bench.core.events import Event, OfRun, StepDone, TrialDone
from bench.data.datasets import DataSource
from bench.drive import lr_search as search
from bench.drive.context import SweepContext
from bench.executors.child import Outcome
from bench.executors.protocol import Answer, Device, Task
from bench.plan.budget import Budget, parse_budget
from bench.plan.recipes import LRS, in_track, length, parse_tracks, shared
from bench.plan.spec import RunSpec
from bench.present.screen.progress import ScreenDisplay, make_console
from bench.store.disk import Store
from bench.store.records import LRSearch, Trial
from tests import synthetic
from tests.engines import HERE, AtOnce

Bench = Callable[..., CompletedProcess[str]]
RATES = LRS["adamw"]
BUDGET = Budget("samples", 640)
SPEC = synthetic.spec("seresnet", recipe=in_track("shared", "cnn", synthetic.RECIPE, "seresnet"))
SOURCE = DataSource("none", Path(), None, 1.0)


Trials = list[tuple[float, int]]  # (lr, samples) of each trial


def curve(best: float, trials: Trials, stop_after: int = 10**9) -> AtOnce:
    """Trials as if accuracy had its peak at `best`; each is noted in `trials`."""

    def answer(task: Task, device: Device) -> Answer:
        if len(trials) == stop_after:
            raise KeyboardInterrupt
        spec = task.args[0]
        samples = round(length(spec.recipe).amount)
        trials.append((spec.recipe.lr, samples))
        accuracy = max(0.0, 0.8 - 0.2 * abs(math.log10(spec.recipe.lr / best)))
        done = TrialDone(samples=samples, train_seconds=1.0, val_accuracy=accuracy, val_loss=1.0, val_images=50)
        return Answer(Outcome("ok"), events=(done,))

    return AtOnce(answer)


def find(store: Store, executor: AtOnce) -> LRSearch:
    (result,) = find_all(store, executor, [SPEC])
    assert isinstance(result, LRSearch), result
    return result


def find_all(store: Store, executor: AtOnce, specs: list[RunSpec], together: int = 1) -> list[LRSearch | str]:
    context = SweepContext(store, executor, ScreenDisplay(make_console()))
    return search.find_all([(spec, SOURCE) for spec in specs], BUDGET, context, None, together)


def trial(lr: float, accuracy: float | None, **changes: object) -> Trial:
    plain = Trial(
        lr=lr, rung=1, status="ok", message="", samples=64, train_seconds=1.0, val_accuracy=accuracy, val_loss=1.0
    )
    return msgspec.structs.replace(plain, **changes)


@pytest.mark.parametrize(
    ("best", "chosen", "edge"),
    [(1e-3, 1e-3, False), (3e-3, 3e-3, False), (2e-2, 0.033, True), (1e-2, 1e-2, False), (1e-4, 9e-5, True)],
)
def test_the_best_of_a_known_curve_is_found(best: float, chosen: float, edge: bool, tmp_path: Path) -> None:
    """At the end of the list the next rate beyond is tried; where even that is the best, it is said."""
    trials: Trials = []
    result = find(Store(tmp_path), curve(best, trials))
    assert (result.chosen, result.edge) == (pytest.approx(chosen), edge)
    assert len(trials) == len(result.trials) == search.trials_of(RATES) == 7
    assert [samples for _, samples in trials] == [640] * 4 + [1280] * 3
    assert result.samples == 4 * 640 + 3 * 1280
    assert sum(trial.train_seconds for trial in result.trials) == 7.0
    assert ("a better one may lie beyond" in search.describe(result)) == edge
    assert result.runner_up is not None
    assert (result.runner_up.val_images, result.runner_up.low < 0) == (50, True)
    assert "cannot be told apart" in search.describe(result)


@pytest.mark.parametrize("together", [2, 3, 8])
def test_trials_that_train_together_rank_as_one_by_one(together: int, tmp_path: Path) -> None:
    """The first process of several dies after one of its trials: that one counts, the others are done by themselves."""
    died: list[str] = []
    one_by_one = curve(2e-3, [])

    def answer(task: Task, device: Device) -> Answer:
        if task.function.endswith("child_trial"):
            return one_by_one._answer(task, device)
        events: list[Event] = []
        for name, spec in task.args[0]:
            if events and not died:
                died.append(name)
                return Answer(Outcome("killed", "its process ended by SIGKILL"), events=tuple(events))
            found = one_by_one._answer(replace(task, args=(spec,)), device)
            events += [OfRun(name, event) for event in found.events]
        return Answer(Outcome("ok"), events=tuple(events))

    expected = find(Store(tmp_path / "alone"), curve(2e-3, []))
    (found,) = find_all(Store(tmp_path / "together"), AtOnce(answer), [SPEC], together)
    assert isinstance(found, LRSearch)
    assert died
    assert (found.chosen, found.edge) == (expected.chosen, expected.edge)
    assert sorted(found.trials, key=lambda t: (t.rung, t.lr)) == sorted(expected.trials, key=lambda t: (t.rung, t.lr))


def test_in_the_middle_the_last_trial_refines() -> None:
    assert search.one_more([trial(1e-3, 0.6), trial(3e-3, 0.5)], RATES) == pytest.approx(math.sqrt(3e-6), rel=0.05)
    assert search.one_more([trial(1e-2, 0.6), trial(3e-3, 0.5)], RATES) == pytest.approx(0.033)
    assert search.one_more([trial(3e-4, 0.6), trial(1e-3, 0.5)], RATES) == pytest.approx(9e-5)


def test_stopped_after_any_trial_it_resumes(tmp_path: Path) -> None:
    whole = find(Store(tmp_path / "whole"), curve(3e-3, []))
    for after in range(7):
        store, first, second = Store(tmp_path / str(after)), Trials(), Trials()
        executor = curve(3e-3, first, stop_after=after)
        with pytest.raises(KeyboardInterrupt):
            find(store, executor)
        assert executor.stopped
        assert search.known(SPEC, BUDGET, store) is None
        assert find(store, curve(3e-3, second)).trials == whole.trials
        assert (len(first), len(second)) == (after, 7 - after)
        assert search.known(SPEC, BUDGET, store) is not None


def test_a_failed_trial_is_a_row_and_never_the_best(tmp_path: Path) -> None:
    fine = curve(1e-3, [])

    def answer(task: Task, device: Device) -> Answer:
        good = fine._answer(task, device)
        return good if task.args[0].recipe.lr <= 2e-3 else Answer(Outcome("diverged", "loss"))

    result = find(Store(tmp_path), AtOnce(answer))
    assert result.chosen == 1e-3
    assert {trial.status for trial in result.trials} == {"ok", "diverged"}
    assert result.samples == sum(trial.samples for trial in result.trials if trial.status == "ok")
    assert Store(tmp_path).lr_search(result.id) == result, "it can be read back"


class Line:
    """A RunDisplay that expects one line."""

    def __init__(self, text: str) -> None:
        self.text = text

    def line(self, text: str) -> None:
        assert text == self.text

    def event(self, event: object) -> None:
        raise AssertionError(event)

    def ended(self, well: bool, text: str) -> None:
        raise AssertionError(text)


def test_what_diverged_was_trained_too() -> None:
    coming = search._Coming(search.search_of(SPEC, SOURCE, BUDGET), 1, 0, 1e-3)
    coming.on_event(StepDone(4))
    row = search.as_trial(Answer(Outcome("diverged", "loss")), coming, 128, Line("diverged: loss"))
    assert (row.samples, row.val_accuracy, row.status, row.lr) == (512, None, "diverged", 1e-3)
    silent = search.as_trial(Answer(Outcome("ok", "it said nothing")), coming, 128, Line("failed: it said nothing"))
    assert silent.status == "failed", "an end without a result is a failure"


@pytest.mark.parametrize(("status", "sentence"), [("oom", "oom: 5 GB"), ("diverged", "diverged")])
def test_what_says_nothing_of_a_rate_chooses_none(status: str, sentence: str, tmp_path: Path) -> None:
    """A trial that ran out of memory is not kept, and is made again; where all diverge, there is no best."""
    (why,) = find_all(Store(tmp_path), AtOnce(lambda *_: Answer(Outcome(status, "5 GB"))), [SPEC])
    assert isinstance(why, str)
    assert sentence in why
    assert search.known(SPEC, BUDGET, Store(tmp_path)) is None
    kept = Store(tmp_path).lr_searches()
    assert [trial.status for one in kept for trial in one.trials] == ["diverged"] * (7 if status == "diverged" else 0)


def test_one_model_after_the_other_on_one_device_and_side_by_side_on_two(tmp_path: Path) -> None:
    """Each model's trials stay in order either way, and the same is found."""
    specs = [SPEC, replace(SPEC, model="resnet56")]
    orders, rates = [], []
    for count in (1, 2):
        order: list[str] = []
        plain = curve(3e-3, [])._answer

        def answer(
            task: Task,
            device: Device,
            order: list[str] = order,
            plain: Callable[[Task, Device], Answer] = plain,
        ) -> Answer:
            order.append(task.args[0].model)
            return plain(task, device)

        devices = [replace(HERE, name=f"device {n}") for n in range(count)]
        results = find_all(Store(tmp_path / str(count)), AtOnce(answer, devices), specs)
        orders.append(order)
        rates.append([[trial.lr for trial in result.trials] for result in results if isinstance(result, LRSearch)])
        assert [len(trials) for trials in rates[-1]] == [7, 7]
    assert orders[0] == ["seresnet"] * 7 + ["resnet56"] * 7
    assert orders[1] == ["seresnet", "resnet56"] * 7
    assert rates[0] == rates[1]


def test_a_search_made_on_another_device_counts_where_any_will_do(tmp_path: Path) -> None:
    store = Store(tmp_path)
    find(store, curve(3e-3, []))
    elsewhere = replace(SPEC, device_name="another CPU")
    assert search.known(elsewhere, BUDGET, store) is None
    assert search.known(elsewhere, BUDGET, store, anywhere=True) == search.known(SPEC, BUDGET, store)
    assert search.known(replace(elsewhere, model="resnet56"), BUDGET, store, anywhere=True) is None


def test_one_search_serves_every_budget_of_the_runs() -> None:
    longer = replace(SPEC, recipe=replace(SPEC.recipe, epochs=50, lr=0.5), seed=3)
    assert search.search_id(longer, BUDGET) == search.search_id(SPEC, BUDGET)
    for other in (replace(SPEC, model="vit_tiny"), replace(SPEC, recipe=replace(SPEC.recipe, weight_decay=0.0))):
        assert search.search_id(other, BUDGET) != search.search_id(SPEC, BUDGET)
    assert search.search_id(SPEC, Budget("samples", 641)) != search.search_id(SPEC, BUDGET)


def test_a_first_trial_is_a_tenth_of_a_run() -> None:
    assert search.first_budget(SPEC, None) == Budget("epochs", 1)
    for text, kind, amount in (
        ("600s", "seconds", 60),
        ("100000samples", "samples", 10_000),
        ("1PFLOP", "flops", 1e14),
    ):
        budgeted = replace(SPEC, recipe=replace(SPEC.recipe, epochs=0, budget=text))
        assert search.first_budget(budgeted, None) == Budget(kind, pytest.approx(amount))
    assert search.first_budget(SPEC, Budget("epochs", 5)) == Budget("epochs", 5)
    with pytest.raises(UserError, match="--trial-budget 100samples is less than one batch"):
        search.first_budget(SPEC, Budget("samples", 100))
    with pytest.raises(UserError, match="--trial-budget 'much'"):
        parse_budget("much", "--trial-budget")


def test_tracks_by_their_words() -> None:
    assert parse_tracks("both") == ("shared", "family")
    assert parse_tracks("") == ()
    with pytest.raises(UserError, match="did you mean 'family'"):
        parse_tracks("familly")
    base = replace(shared(), epochs=7, batch_size=32)
    own = in_track("family", "vit", base, "vit_tiny")
    assert (own.name, own.epochs, own.batch_size, own.track) == ("vit", 7, 32, "family")
    assert in_track("family", "cnn", base, "seresnet").optimizer == "sgd"
    assert in_track("shared", "vit", base, "vit_tiny") == replace(base, track="shared")
    with pytest.raises(UserError, match="track shared"):
        in_track("family", "external", base, "mine.py:net")


def test_a_track_from_the_command_line(
    here: Bench, untimed: None, tiny_npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Searched once, in one child per trial; the run gets the chosen rate; a second budget finds the search done."""
    monkeypatch.setitem(LRS, "sgd", (1e-2, 1e-1))  # two of four: a child is started for each
    sweep = [f"--dataset=npz:{tiny_npz}", "--recipe=smoke", "--batch-size=16", "--device=cpu"]
    words = ["--models=resnet20", "--track=family", "--trial-budget=16samples", *sweep, "--results", tmp_path]
    done = here(*words, "--budget=48samples")
    assert done.returncode == 0, done.stderr
    assert "trial 5 of 5" in done.stdout
    assert "Learning rates found on validation" in here("table", "--results", tmp_path).stdout
    chosen = {one.spec.model: one.chosen for one in Store(tmp_path).lr_searches()}
    recipes = {run.spec.model: run.spec.recipe for run in Store(tmp_path).runs()}
    assert {model: recipe.lr for model, recipe in recipes.items()} == chosen
    assert {model: (recipe.name, recipe.track) for model, recipe in recipes.items()} == {"resnet20": ("cnn", "family")}
    again = here(*words, "--budget=64samples")
    assert again.returncode == 0, again.stderr
    assert "trial" not in again.stdout.replace("as many trials", "")
    assert len(Store(tmp_path).runs()) == 2
    assert here("check", "--results", tmp_path).returncode == 0
