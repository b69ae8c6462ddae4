"""How much training a run gets. Example: parse_budget("10min") == Budget("seconds", 600.0)

Epochs, samples, device-seconds or training FLOPs. All but epochs become a number of samples before the training
begins, and the schedule ends there: a run is trained to its budget, never cut off by it.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from bench.core.errors import UserError

# Unit -> (kind, factor). FLOP are operations, two a multiply-add, as torch counts the forward and the backward pass.
UNITS = {
    "epochs": ("epochs", 1),
    "s": ("seconds", 1),
    "min": ("seconds", 60),
    "h": ("seconds", 3600),
    **{f"{p}FLOP": ("flops", 10**e) for p, e in (("G", 9), ("T", 12), ("P", 15), ("E", 18))},
    "samples": ("samples", 1),
    "ksamples": ("samples", 10**3),
    "Msamples": ("samples", 10**6),
}
CANONICAL = {"seconds": "s", "flops": "GFLOP", "samples": "samples"}
DEFAULT_VALIDATIONS = 10  # validations of a run under a budget not given in epochs


@dataclass(frozen=True)
class Budget:
    """`amount` in epochs, seconds, operations or samples, as `kind` says."""

    kind: str  # epochs | seconds | flops | samples
    amount: float

    @property
    def text(self) -> str:
        """As a recipe keeps it: the same for `10min` and `600s`; no text for epochs, which have their own field."""
        if self.kind == "epochs":
            return ""
        unit = CANONICAL[self.kind]
        return f"{self.amount / UNITS[unit][1]:.12g}{unit}"


def parse_budget(text: str, flag: str = "--budget") -> Budget:
    """`50epochs`, `10min`, `2PFLOP`, `1Msamples`. Raises UserError that names the choices."""
    found = re.fullmatch(r"(\d+(?:\.\d*)?(?:e\+?\d{1,2})?)\s*([A-Za-z]+)", text.strip())
    word = found[2].lower() if found else ""
    unit = next((u for u in UNITS if u.lower() in (word, f"{word}s", word[:-1] if len(word) > 2 else word)), None)
    if found is None or unit is None:
        raise UserError(f"{flag} '{text}': write an amount such as 50epochs, 10min, 2PFLOP or 1Msamples")
    kind, factor = UNITS[unit]
    amount = float(found[1]) * factor
    if kind in ("epochs", "samples") and amount < 1e15:
        if abs(amount - round(amount)) > 1e-9 * amount:  # 4.1 million is not quite a whole number of floating point
            raise UserError(f"{flag} '{text}': {kind} are whole numbers")
        amount = float(round(amount))
    if not 0 < amount < 1e24 or (kind in ("epochs", "samples", "seconds") and amount > 1e12):
        raise UserError(f"{flag} '{text}' is out of range")
    return Budget(kind, amount)


def parse_fraction(text: str) -> tuple[float, ...]:
    """`0.01,0.1,1` as shares of the training images, ascending. Raises UserError."""
    try:
        shares = tuple(sorted({float(part) for part in text.split(",")}))
    except ValueError:
        shares = (math.nan,)
    if not all(0 < share <= 1 for share in shares):
        raise UserError(f"--train-fraction '{text}': write shares in (0, 1] by commas, such as 0.01,0.1,1")
    return shares


@dataclass(frozen=True)
class Course:
    """How many samples a training sees, in batches of which size, and after which steps it is looked at.

    Every batch is full but the last, so that the samples are exactly those asked for; no batch is of a single image,
    which BatchNorm could not normalise.
    """

    samples: int
    batch_size: int
    steps_per_epoch: int
    validations: int = 0  # evenly over the steps; 0: after every epoch

    def __post_init__(self) -> None:
        if not self.samples >= self.batch_size >= 1 <= self.steps_per_epoch:
            raise ValueError("a course is at least one batch")

    @property
    def steps(self) -> int:
        """Batches in all."""
        return math.ceil(self.samples / self.batch_size)

    @property
    def epochs(self) -> float:
        """Passes through the training images but those that an epoch's last, short batch would have held."""
        passes = self.samples / (self.steps_per_epoch * self.batch_size)
        return int(passes) if passes.is_integer() else passes

    @property
    def marks(self) -> tuple[int, ...]:
        """Numbers of steps after which the model is validated, ascending; the last one is the end."""
        if self.validations:
            return tuple(sorted({math.ceil(self.steps * k / self.validations) for k in range(1, self.validations + 1)}))
        return tuple(sorted({*range(self.steps_per_epoch, self.steps, self.steps_per_epoch), self.steps}))

    def images(self, step: int) -> int:
        """Images of the batch at `step`, counted from 0."""
        left = self.samples - step * self.batch_size
        if left == self.batch_size + 1 > 2:  # the last one takes one of these, and is not alone
            return self.batch_size - 1
        if left <= 1 < self.batch_size:
            return 2
        return min(self.batch_size, left)

    def seen(self, step: int) -> int:
        """Samples seen after so many steps."""
        if step == self.steps:
            return self.samples
        short = self.samples % self.batch_size == 1 < self.batch_size and step == self.steps - 1
        return step * self.batch_size - short


def samples_for(
    budget: Budget, batch_size: int, flops_per_image: float | None = None, images_per_second: float | None = None
) -> int:
    """Samples that a budget buys, at least one batch. `flops_per_image`: forward and backward, two a multiply-add.

    Seconds buy whole batches, the others single images. Raises ValueError where what a budget needs is not known.
    """
    if budget.kind == "samples":
        return round(budget.amount)
    if budget.kind == "flops":
        if not flops_per_image:
            raise ValueError("a budget in FLOP needs the model's training FLOPs, which could not be counted")
        return max(batch_size, round(budget.amount / flops_per_image))
    if budget.kind == "seconds":
        if not images_per_second:
            raise ValueError("a budget in seconds needs the measured speed")
        return max(1, round(budget.amount * images_per_second / batch_size)) * batch_size
    raise ValueError("epochs need no conversion")
