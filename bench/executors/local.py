"""This machine as an executor: one thread per run, each with a child process. Example: LocalExecutor([device])

The default. Interruptions reach the driver's thread; the others stop their children once `stop` is called.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence

from bench.executors.child import Outcome, end_children
from bench.executors.processes import blocked
from bench.executors.protocol import Answer, Device, Message, Task, variables
from bench.executors.worker import work


class LocalExecutor:
    """Every device of this machine."""

    remote = False
    looking = False

    def __init__(self, devices: Sequence[Device]) -> None:
        self._devices = list(devices)
        self._messages: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._errors: list[BaseException] = []

    def devices(self) -> list[Device]:
        """All of them, from the start to the end."""
        return self._devices

    def start(self, tasks: Sequence[tuple[int, Task, Device]]) -> None:
        """One daemon thread each, so that a second interruption need not wait for them."""
        for ticketed in tasks:
            threading.Thread(target=self._work, args=ticketed, daemon=True).start()

    def events(self, seconds: float) -> list[Message]:
        """The messages. Raises what a thread raised, once: a bug of ours, or a full disk; the others still end."""
        if self._errors:
            raise self._errors.pop(0)
        messages: list[Message] = []
        try:
            messages.append(self._messages.get(timeout=seconds))
            while True:
                messages.append(self._messages.get_nowait())
        except queue.Empty:
            pass
        return messages

    def stop(self) -> None:
        """Every child saves and ends; one that takes longer than GRACE_SECONDS is ended."""
        self._stop.set()

    def close(self) -> None:
        """End what still runs: after a second interruption, nobody waits."""
        end_children()

    def _work(self, ticket: int, task: Task, device: Device) -> None:
        # Ctrl-C reaches every process of the terminal; blocked here, so also in a child, which `stop` asks to end
        with blocked("SIGINT"):
            try:
                answer = work(task, variables(task, device), lambda e: self._messages.put((ticket, e)), self._stop)
            except KeyboardInterrupt:
                answer = Answer(Outcome("interrupted", "stopped by the user"))
            except BaseException as error:
                self._errors.append(error)
                answer = Answer(Outcome("failed", f"{type(error).__name__}: {error}"))
            self._messages.put((ticket, answer))
