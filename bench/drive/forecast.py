"""What to begin first, and when all is done. Example: Forecast().seconds(Size("a", flops=1e15), "H100")

Longest first (Graham 1969, doi:10.1137/0117039): begun in falling order of their lengths, runs end together to within a
third of what is possible at best. Lengths are reckoned from FLOPs until something has been measured.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Size:
    """How much a run is: its FLOPs, seconds where they are known, and the group of those that take equally long."""

    group: str
    flops: float | None = None
    seconds: float | None = None

    @property
    def rank(self) -> tuple[float, float]:
        """What is begun first has the higher one."""
        return (self.flops or 0.0, self.seconds or 0.0)


class Forecast:
    """Seconds of runs to come, from those that ended in this sweep: of the same group, else by FLOPs a second."""

    def __init__(self) -> None:
        self._groups: dict[tuple[str, str], _Mean] = defaultdict(_Mean)
        self._rates: dict[str, _Mean] = defaultdict(_Mean)  # FLOPs, by the seconds that they took
        self._everywhere = _Mean()

    def learn(self, size: Size, kind: str, seconds: float) -> None:
        """A run of this size took so long on a device of this kind."""
        self._groups[size.group, kind].add(seconds, 1)
        if size.flops:
            self._rates[kind].add(size.flops, seconds)
            self._everywhere.add(size.flops, seconds)

    def seconds(self, size: Size, kind: str) -> float | None:
        """How long one will take there; None where nothing is known."""
        if (same := self._groups.get((size.group, kind))) is not None:
            return same.value
        if size.seconds is not None:
            return size.seconds
        rate = self._rates.get(kind, self._everywhere).value
        return size.flops / rate if rate and size.flops else None


@dataclass
class _Mean:
    """A sum over a sum: a mean that costs the same however many there were."""

    above: float = 0.0
    below: float = 0.0

    def add(self, above: float, below: float) -> None:
        self.above, self.below = self.above + above, self.below + below

    @property
    def value(self) -> float | None:
        return self.above / self.below if self.below else None


def makespan(seconds: Iterable[float], free: Iterable[float]) -> float:
    """When the last of runs that are begun in this order ends, in seconds from now, on seats that are free then.

    `free`: for each seat the seconds until it is free. inf where there is work and no seat.
    """
    seats = list(free)
    heapq.heapify(seats)
    last = max(seats, default=0.0)
    for length in seconds:
        if not seats:
            return float("inf")
        end = heapq.heapreplace(seats, seats[0] + length)
        end += length
        last = max(last, end)
    return last
