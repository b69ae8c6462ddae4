"""Checkpoints of one run. Example: keeper = Checkpoints(folder, conditions, parameter_bytes); state = keeper.load()

A checkpoint's name holds its step and the SHA-256 of its content, so that one rename publishes both; the previous one
is kept. Reading executes nothing: torch.load(weights_only=True), and only once the checksum has been verified.
"""

from __future__ import annotations

import io
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from bench.core.files import inert, read_file, sha256, write_atomically
from bench.plan.keys import Fact

State = dict[str, Any]  # tensors and plain data, by name

SHARE = 0.01  # of the time may go into saving
KEEP = 2
MOST_BYTES = 1 << 36  # of a checkpoint that is read
# Until the first save has been timed: the throughput of a slow disk, and the time of a flush to it.
GUESSED_BYTES_PER_SECOND, GUESSED_SECONDS = 50e6, 0.02
NAME = re.compile(r"(\d{9})-([0-9a-f]{64})\.pt")


class Checkpoints:
    """Saves within SHARE of the time since its creation, and loads the newest checkpoint that is intact.

    `conditions`: facts that must be equal for a checkpoint to be resumed (the run, the code, torch, the device).
    `notes` collects, as sentences, problems that do not end the run; `seconds` is the time spent on saving.
    """

    def __init__(
        self,
        folder: Path,
        conditions: dict[str, Fact],
        parameter_bytes: int,
        now: Callable[[], float] = time.monotonic,
        share: float = SHARE,
    ) -> None:
        self.folder, self.conditions, self.share = folder, conditions, share
        self.seconds, self.notes = 0.0, list[str]()
        self._now, self._start = now, now()
        # weights and two moments of each
        self._expected = GUESSED_SECONDS + 3 * parameter_bytes / GUESSED_BYTES_PER_SECOND

    def due(self) -> bool:
        """Whether another save, if it takes as long as the last one, stays within the share."""
        return self.seconds + self._expected <= self.share * (self._now() - self._start)

    def save(self, step: int, state: State) -> None:
        """Write a checkpoint of `step` and remove all but the previous one. A full disk becomes a note."""
        start = self._now()
        buffer = io.BytesIO()
        torch.save({"conditions": self.conditions, "state": state}, buffer)
        content = buffer.getvalue()
        try:
            write_atomically(self.folder / f"{step:09d}-{sha256(content)}.pt", content)
            for path in self._paths()[KEEP:]:
                path.unlink(missing_ok=True)
        except OSError as error:
            self.notes.append(f"the checkpoint of step {step} could not be written ({error.strerror})")
        took = self._now() - start
        self.seconds += took
        self._expected = took

    def load(self, try_out: Callable[[State], object] = lambda state: None) -> State | None:
        """The newest intact state of this run for which `try_out` does not raise; or None.

        Unusable checkpoints are removed, with a note.
        """
        for path in self._paths():
            try:
                state = self._read(path)
                try:
                    try_out(state)
                except Exception as error:  # a forged state may make torch raise anything
                    raise ValueError(f"it does not fit the model ({type(error).__name__})") from None
            except ValueError as error:
                self.notes.append(f"checkpoint of step {int(path.name[:9])} not used: {error}")
                path.unlink(missing_ok=True)
            else:
                return state
        return None

    def clear(self) -> None:
        """Remove all of them: the run is done, or must start over."""
        for path in self._paths():
            path.unlink(missing_ok=True)
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()

    def _paths(self) -> list[Path]:
        """Newest first."""
        return sorted((p for p in self.folder.glob("*.pt") if NAME.fullmatch(p.name)), reverse=True)

    def _read(self, path: Path) -> State:
        """The state in a file. Raises ValueError that says why it cannot be used."""
        content = read_file(path, MOST_BYTES)
        if sha256(content) != path.stem.partition("-")[2]:
            raise ValueError("its checksum does not match")
        try:
            loaded = torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
            conditions, state = loaded["conditions"], loaded["state"]
        except Exception as error:  # a forged file may make torch's reader raise anything
            raise ValueError(f"it cannot be read ({type(error).__name__}: {inert(str(error))[:100]})") from None
        if not isinstance(conditions, dict) or not isinstance(state, dict):
            raise ValueError("it is not a checkpoint")
        if conditions != self.conditions:
            names = {*conditions, *self.conditions}
            changed = sorted(name for name in names if conditions.get(name) != self.conditions.get(name))
            raise ValueError(f"it was made under other conditions ({inert(', '.join(map(str, changed)))[:100]})")
        return state
