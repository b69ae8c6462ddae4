"""Checkpoints of one run. Example: keeper = Checkpoints(folder, about, parameter_bytes); state = keeper.load()

A checkpoint's name holds its step and the SHA-256 of its content, so that one rename publishes both; the previous one
stays. Reading never executes anything: torch.load(weights_only=True), and only after the checksum was found to hold.
"""

from __future__ import annotations

import io
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from bench.core.files import inert, sha256, write_atomically

SHARE = 0.01  # of the time may go into saving
KEEP = 2
# Until one was timed: a slow disk's bytes a second, and what a flush to it takes.
GUESSED_BYTES_PER_SECOND, GUESSED_SECONDS = 50e6, 0.02
NAME = re.compile(r"(\d{9})-([0-9a-f]{64})\.pt")


class Checkpoints:
    """Saves so seldom that it costs under SHARE of the time since its creation, and finds the newest that is whole.

    `about`: plain facts that must be equal for a checkpoint to be continued (the run, the code, torch, the device).
    `notes` collects, as sentences, what went wrong without ending the run; `seconds` is the time spent on saving.
    """

    def __init__(
        self,
        folder: Path,
        about: dict[str, Any],
        parameter_bytes: int,
        now: Callable[[], float] = time.monotonic,
        share: float = SHARE,
    ) -> None:
        self.folder, self.about, self.share = folder, about, share
        self.seconds, self.notes = 0.0, list[str]()
        self._now, self._start = now, now()
        # weights and two moments of each
        self._expected = GUESSED_SECONDS + 3 * parameter_bytes / GUESSED_BYTES_PER_SECOND

    def due(self) -> bool:
        """Whether one more save, as long as the last one, would stay within the share."""
        return self.seconds + self._expected <= self.share * (self._now() - self._start)

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Write a checkpoint of `step` and drop all but the previous one. A full disk is a note, not an end."""
        start = self._now()
        buffer = io.BytesIO()
        torch.save({"about": self.about, "state": state}, buffer)
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

    def load(self, try_out: Callable[[dict[str, Any]], object] = lambda state: None) -> dict[str, Any] | None:
        """The newest state that is whole, of this very run, and with which `try_out` does not raise; or None.

        What cannot be used is removed, with a note.
        """
        for path in self._paths():
            try:
                found = self._read(path)
                try:
                    try_out(found)
                except Exception as error:  # of a stranger's making: whatever torch says of it
                    raise ValueError(f"it does not fit the model ({type(error).__name__})") from None
            except ValueError as error:
                self.notes.append(f"checkpoint of step {int(path.name[:9])} not used: {error}")
                path.unlink(missing_ok=True)
            else:
                return found
        return None

    def clear(self) -> None:
        """Remove all of them: the run is done, or must begin anew."""
        for path in self._paths():
            path.unlink(missing_ok=True)
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()

    def _paths(self) -> list[Path]:
        """Newest first."""
        return sorted((p for p in self.folder.glob("*.pt") if NAME.fullmatch(p.name)), reverse=True)

    def _read(self, path: Path) -> dict[str, Any]:
        """The state in a file. Raises ValueError that says why it cannot be used."""
        content = path.read_bytes()
        if sha256(content) != path.stem.partition("-")[2]:
            raise ValueError("its checksum does not hold")
        try:
            found = torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
            about, state = found["about"], found["state"]
        except Exception as error:  # a stranger's file may make torch's reader raise anything
            raise ValueError(f"it cannot be read ({type(error).__name__}: {inert(str(error))[:100]})") from None
        if not isinstance(about, dict) or not isinstance(state, dict):
            raise ValueError("it holds something else")
        if about != self.about:
            changed = sorted(k for k in {*about, *self.about} if about.get(k) != self.about.get(k))
            raise ValueError(f"it was made under other conditions ({inert(', '.join(map(str, changed)))[:100]})")
        return state
