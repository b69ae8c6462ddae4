"""An executor that trains nothing. Example: AtOnce(lambda task, device: Answer(Outcome("ok")))"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from bench.executors.child import Outcome
from bench.executors.protocol import Answer, Device, Message, Task

HERE = Device("here", "here", "cpu", "some CPU", native_bf16=False, threads=1)


class AtOnce:
    """Answers every task as soon as it is asked, in the order in which they were started."""

    looking = False

    def __init__(
        self, answer: Callable[[Task, Device], Answer], devices: Sequence[Device] = (HERE,), remote: bool = False
    ) -> None:
        self.remote, self.stopped = remote, False
        self._answer, self._devices = answer, list(devices)
        self._started: deque[tuple[int, Task, Device]] = deque()

    def devices(self) -> list[Device]:
        """Always the same."""
        return self._devices

    def start(self, tasks: Sequence[tuple[int, Task, Device]]) -> None:
        """Nothing happens before somebody asks for events."""
        self._started.extend(tasks)

    def events(self, seconds: float) -> list[Message]:
        """One answer."""
        if not self._started:
            return []
        ticket, task, device = self._started[0]
        answer = Answer(Outcome("interrupted")) if self.stopped else self._answer(task, device)
        self._started.popleft()
        return [(ticket, answer)]

    def stop(self) -> None:
        """What has not been answered yet is interrupted."""
        self.stopped = True

    def close(self) -> None:
        """Nothing to leave behind."""
