"""Search for a model's fastest setting. Example: candidates = search(spec, "seresnet", skip, report)

Every candidate of settings.space is built and tried, simplest first. Those that are not clearly slower than the best
then take turns, in rounds, in one process. bench/drive/setting_search.py starts the search and reads its record.
"""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from bench.core.events import CandidateStarted, CandidateTurn, Report
from bench.core.status import one_line, status_of
from bench.measure.build import build_plain
from bench.measure.device import describe, fix_numerics
from bench.measure.session import build, training_task
from bench.measure.setting_choice import choose, setting_search_id
from bench.measure.step import has_attention_choice
from bench.measure.timing import Stopwatch, Task, calls_for, stopwatch_of
from bench.plan.keys import session_key
from bench.plan.settings import space, words
from bench.plan.spec import SessionSpec, Setting
from bench.store.disk import Store, now
from bench.store.records import Candidate, SettingSearch

TRIAL_SHARE = 0.6  # of the time limit, after which no candidate is started
CLEARLY_SLOWER = 1.5  # times the best trial: dropped
FEWEST_ROUNDS, MOST_ROUNDS = 5, 15
SAMPLE_SECONDS = {"cpu": 0.2, "cuda": 0.05}
Failures = Mapping[int, tuple[str, str]]  # (status, message) of candidates that took a process down, by index


def child_setting_search(report: Report, spec: SessionSpec, skip: Failures, root: Path) -> None:
    """Search for one model and write the record. `skip`: candidates that took an earlier process down."""
    ((name, source),) = spec.models
    store = Store(root.absolute())  # a model may change the directory
    with store.claim_timing():
        started = now()
        fix_numerics(spec.deterministic)
        facts = describe(torch.device(spec.device))
        candidates = search(spec, name, skip, report)
        record = SettingSearch(
            id=setting_search_id(spec, facts),
            started=started,
            model=name,
            source=source,
            key=session_key(spec, facts),
            recipe=spec.recipe,
            num_classes=spec.num_classes,
            limit_seconds=spec.seconds,
            candidates=candidates,
            chosen=candidates[choose(candidates)].setting,
            environment=facts,
        )
        report(CandidateStarted(-1, "writing"))  # a crash from here on is not a candidate's
        store.write_setting_search(record)


@dataclass
class _Trying:
    """A candidate during the search."""

    setting: Setting
    status: str = "untried"
    message: str = ""
    seconds: list[float] = field(default_factory=list)
    first_seconds: float | None = None
    trial_seconds: float | None = None
    task: Task | None = None  # while it has not been dropped
    calls: int = 0

    def result(self) -> Candidate:
        return Candidate(
            setting=self.setting,
            status=self.status,
            message=self.message,
            seconds=tuple(self.seconds),
            first_seconds=self.first_seconds,
            trial_seconds=self.trial_seconds,
        )


def search(spec: SessionSpec, name: str, skip: Failures, report: Report) -> tuple[Candidate, ...]:
    """All candidates: each with its status, first call, and the seconds of a call in each round."""
    device, start = torch.device(spec.device), time.perf_counter()
    stopwatch = stopwatch_of(device, time.perf_counter)
    choice = has_attention_choice(build_plain(name, spec.num_classes, spec.image_size))
    candidates = [_Trying(setting) for setting in space(spec.device, choice)]
    for index, candidate in enumerate(candidates):
        if index in skip:
            candidate.status, candidate.message = skip[index]
        elif index and time.perf_counter() - start > TRIAL_SHARE * spec.seconds:
            candidate.message = "no time left"
        else:
            title = f"candidate {index + 1} of {len(candidates)}: {words(candidate.setting)}"
            report(CandidateStarted(index, title))
            _try(candidate, spec, name, stopwatch)
            _drop_the_slow(candidates, device)
    _race(candidates, stopwatch, lambda: time.perf_counter() - start > spec.seconds, report)
    return tuple(candidate.result() for candidate in candidates)


def _try(candidate: _Trying, spec: SessionSpec, name: str, stopwatch: Stopwatch) -> None:
    """Build the training step; time its first call and two later ones."""
    not_as_set: list[str] = []
    alone = replace(spec, setting=candidate.setting, own_settings=(), batch_sizes=(1,))
    try:
        _, tasks = build(alone, name, not_as_set.append)
        task = training_task(tasks)
        task.prepare()
        candidate.first_seconds = stopwatch(task.call, 1)
        if not_as_set:
            raise RuntimeError(not_as_set[0])
        once = min(stopwatch(task.call, 1) for _ in range(2))
    except Exception as error:  # the model has passed its probe, so this setting is what fails
        candidate.status, candidate.message = status_of(error), one_line(error)
        candidate.first_seconds = None
        return
    candidate.status, candidate.trial_seconds = "slower", once
    candidate.task, candidate.calls = task, calls_for(once, SAMPLE_SECONDS[spec.device])


def _drop_the_slow(candidates: list[_Trying], device: torch.device) -> None:
    """Free what is clearly slower than the best before the next candidate is tried; the default stays."""
    trials = [c.trial_seconds for c in candidates if c.trial_seconds is not None]
    for candidate in candidates[1:]:
        if candidate.trial_seconds is not None and candidate.trial_seconds > CLEARLY_SLOWER * min(trials):
            candidate.task = None
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _race(candidates: list[_Trying], stopwatch: Stopwatch, time_is_up: Callable[[], bool], report: Report) -> None:
    """Rounds in random order, each candidate once per round."""
    kept = [index for index, candidate in enumerate(candidates) if candidate.task is not None]
    rng = random.Random(0)
    for number in range(MOST_ROUNDS):
        if number >= FEWEST_ROUNDS and time_is_up():
            break
        title = f"{len(kept)} candidates in turns, round {number + 1}"
        for index in rng.sample(kept, len(kept)):
            report(CandidateTurn(index, title))  # so that a crash can be attributed
            candidate = candidates[index]
            assert candidate.task is not None
            candidate.task.prepare()
            candidate.seconds.append(stopwatch(candidate.task.call, candidate.calls) / candidate.calls)
            candidate.status = "ok"
