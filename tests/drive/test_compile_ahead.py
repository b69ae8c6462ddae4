"""Models compiled side by side before the first run: which, where, and what is said. Nothing is compiled here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.core.display import Display
from bench.core.events import Compiled
from bench.drive import compile_ahead as module
from bench.drive.compile_ahead import compile_ahead, side_by_side
from bench.drive.context import SweepContext
from bench.executors.child import Outcome
from bench.executors.protocol import Answer, Device, Task
from bench.plan.settings import SETTINGS
from bench.plan.spec import RunSpec
from bench.present.screen.progress import ScreenDisplay, make_console
from bench.store.disk import Store
from tests.engines import HERE, AtOnce
from tests.synthetic import RECIPE, spec

DONE = Answer(Outcome("ok"), events=(Compiled(False),))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))


def runs(*models: str, setting: str = "compiled", seeds: int = 2, **changes: Any) -> list[RunSpec]:
    recipe = replace(RECIPE, **changes)
    return [spec(m, s, setting=SETTINGS[setting], recipe=recipe) for s in range(seeds) for m in models]


class Ahead:
    """One call: the tasks that the executor got, and the lines on the screen."""

    def __init__(self, specs: list[RunSpec], answers: dict[str, Answer] | None = None, **more: Any) -> None:
        self.tasks, self.lines = list[Task](), list[str]()
        device: Device = replace(HERE, seats=more.pop("seats", 1), threads=3)

        def answer(task: Task, device: Device) -> Answer:
            self.tasks.append(task)
            return (answers or {}).get(task.args[0].model, DONE)

        executor = AtOnce(answer, [device], remote=more.pop("remote", False))
        display: Display = ScreenDisplay(make_console())
        display.line = self.lines.append  # type: ignore[method-assign]
        compile_ahead(specs, SweepContext(Store(Path("unused")), executor, display), **{"cores": 8, **more})

    @property
    def models(self) -> list[str]:
        return [task.args[0].model for task in self.tasks]


def test_each_model_is_compiled_once_in_its_runs_surroundings_and_never_again() -> None:
    """Two seeds, optimizers and lengths share their code; another batch size is another step."""
    specs = [
        *runs("seresnet", "cct_2"),
        *runs("cct_2", epochs=9, lr=0.5, optimizer="sgd"),
        *runs("cct_2", batch_size=7),
    ]
    ahead = Ahead(specs)
    assert ahead.models == ["seresnet", "cct_2", "cct_2"]
    assert [task.args[1] for task in ahead.tasks] == [2, 2, 2], "three at once share eight cores"
    assert {dict(task.environment)["OMP_NUM_THREADS"] for task in ahead.tasks} == {"3"}
    assert ahead.lines[0] == "compiling 3 models, 3 at once, before the first run"
    assert [line.partition(" in ")[0] for line in ahead.lines[1:]] == [
        "  seresnet: compiled", "  cct_2: compiled", "  cct_2: compiled", "compiled"
    ]  # fmt: skip
    assert Ahead(specs).lines == [], "the markers in the cache say so"
    assert Ahead([*specs, *runs("vit_tiny", "resnet20", setting="fused")]).models == ["vit_tiny", "resnet20"]
    assert not Ahead(runs("vit_tiny", "resnet20")).tasks, "fused is the same code, captured"


def test_where_it_saves_nothing_nothing_is_done() -> None:
    assert not Ahead(runs("seresnet", "cct_2", setting="eager")).tasks
    assert not Ahead(runs("seresnet")).tasks, "one model: its first run does as well"
    assert not Ahead(runs("seresnet", "cct_2"), cores=3).tasks, "one compilation keeps two cores busy"
    assert Ahead(runs("vit_tiny", "cct_2"), cores=4).models == ["vit_tiny", "cct_2"]
    assert not Ahead(runs("seresnet", "cct_2"), remote=True).tasks, "another machine has another cache"
    assert Ahead(runs("seresnet"), seats=2).models == ["seresnet"], "two seeds would compile it at once"


def test_what_fails_is_left_to_its_run_and_tried_again_next_time() -> None:
    failed = {"cct_2": Answer(Outcome("failed", "no such instruction"))}
    ahead = Ahead(runs("seresnet", "cct_2"), failed)
    assert "  cct_2: failed: no such instruction; left to its run" in ahead.lines
    assert Ahead(runs("seresnet", "cct_2"), seats=2).models == ["seresnet", "cct_2"], "threads are shared: other code"
    assert Ahead(runs("vit_tiny", "cct_2")).models == ["vit_tiny", "cct_2"]


def test_no_more_at_once_than_asked_and_an_interruption_stops_them() -> None:
    class Executor(AtOnce):
        most = 0

        def events(self, seconds: float) -> list[Any]:
            self.most = max(self.most, len(self._started))
            return super().events(seconds)

    executor, ended = Executor(lambda task, device: DONE), list[str]()
    jobs = [(Task(name, "", ()), HERE) for name in "abcde"]
    side_by_side(jobs, 2, executor, lambda task, answer, seconds: ended.append(task.name))
    assert (executor.most, ended) == (2, list("abcde"))

    def interrupt(task: Task, device: Device) -> Answer:
        raise KeyboardInterrupt

    executor, answers = Executor(interrupt), list[str]()
    with pytest.raises(KeyboardInterrupt):
        side_by_side(jobs, 2, executor, lambda task, answer, seconds: answers.append(answer.outcome.status))
    assert answers == ["interrupted", "interrupted"]


def test_another_version_of_torch_compiles_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    one = runs("seresnet")[0]
    before = module.step_id(one, HERE)
    monkeypatch.setattr(module, "package_version", lambda name: "99")
    assert module.step_id(one, HERE) != before
