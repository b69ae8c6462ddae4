"""Where a run's wall-clock goes. Example: phases.enter("validation")

Exactly one phase counts at any moment, so their seconds add up to the wall-clock by construction.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from bench.store.records import PHASES, Phase


class Phases:
    """Seconds by phase of a run. `before`: seconds that passed in this process until now, which belong to `start`."""

    def __init__(self, now: Callable[[], float] = time.perf_counter, before: float = 0.0) -> None:
        self._now, self._since = now, now()
        self._current: Phase = "start"
        self._seconds: dict[Phase, float] = dict.fromkeys(PHASES, 0.0)
        self._seconds[self._current] = before

    def enter(self, phase: Phase) -> None:
        """From now on, time counts for `phase`."""
        now = self._now()
        self._seconds[self._current] += now - self._since
        self._current, self._since = phase, now

    @contextlib.contextmanager
    def of(self, phase: Phase) -> Iterator[None]:
        """Count what happens inside for `phase`, then go on with the phase before."""
        outer = self._current
        self.enter(phase)
        try:
            yield
        finally:
            self.enter(outer)

    def seconds(self) -> dict[Phase, float]:
        """Seconds of each phase until now, in the order of PHASES."""
        self.enter(self._current)
        return {phase: self._seconds[phase] for phase in PHASES}
