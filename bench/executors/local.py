"""This machine as an engine: a thread a run, each with a child process. Example: LocalEngine(devices)

The default. Interruptions reach the thread that drives; the others' children are asked to stop through `stop`.
"""

from __future__ import annotations

import queue
import signal
import threading
from collections.abc import Sequence

from bench.executors.child import Outcome, end_children
from bench.executors.protocol import Answer, Device, Heard, Task, variables
from bench.executors.worker import work


class LocalEngine:
    """Every device of this machine."""

    far = False
    looking = False

    def __init__(self, devices: Sequence[Device]) -> None:
        self._devices = list(devices)
        self._heard: queue.SimpleQueue[Heard] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._raised: list[BaseException] = []

    def devices(self) -> list[Device]:
        """They are all there from the beginning, and stay."""
        return self._devices

    def start(self, tasks: Sequence[tuple[int, Task, Device]]) -> None:
        """A thread each: daemons, so that a second interruption leaves them, and with them their children, behind."""
        for words in tasks:
            threading.Thread(target=self._work, args=words, daemon=True).start()

    def events(self, seconds: float) -> list[Heard]:
        """What was heard. Raises what a thread raised, once: a fault of ours, or a full disk; the others still end."""
        if self._raised:
            raise self._raised.pop(0)
        found: list[Heard] = []
        try:
            found.append(self._heard.get(timeout=seconds))
            while True:
                found.append(self._heard.get_nowait())
        except queue.Empty:
            pass
        return found

    def stop(self) -> None:
        """Every child saves and ends; within GRACE_SECONDS, or it is ended."""
        self._stop.set()

    def close(self) -> None:
        """End what still runs: after a second interruption, which waits for nobody."""
        end_children()

    def _work(self, ticket: int, task: Task, device: Device) -> None:
        # Ctrl-C reaches every process of the terminal; blocked here, it is in the children too, who are asked to stop
        if hasattr(signal, "pthread_sigmask"):
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            answer = work(task, variables(task, device), lambda e: self._heard.put((ticket, e)), self._stop)
        except KeyboardInterrupt:
            answer = Answer(Outcome("interrupted", "stopped by the user"))
        except BaseException as error:
            self._raised.append(error)
            answer = Answer(Outcome("failed", f"{type(error).__name__}: {error}"))
        self._heard.put((ticket, answer))
