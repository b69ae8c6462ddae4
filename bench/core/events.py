"""What a worker reports while it works. Example: report(Note("streams its images")); decode(encode(Tick())) == Tick()

A worker sends events through a pipe, a queue or a file of JSON lines; whoever receives them matches on the class. Add
an event by adding a class and listing it in `Event`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Annotated

import msgspec
from msgspec import Meta

Count = Annotated[int, Meta(ge=1)]
Whole = Annotated[int, Meta(ge=0)]
# Bounds that no measurement meets, within which sums, squares and ratios are finite; a float32 ends at 3.4e38.
Amount = Annotated[float, Meta(ge=0, le=1e40)]
Positive = Annotated[float, Meta(ge=1e-40, le=1e40)]
Share = Annotated[float, Meta(ge=0, le=1)]


class Epoch(msgspec.Struct, frozen=True, kw_only=True):
    """One validation: a row of history.csv. Seconds are of training only, without the first step of each segment."""

    epoch: Annotated[int, Meta(gt=0)] | Annotated[float, Meta(gt=0)]  # passes so far; whole after a whole pass
    train_loss: Amount
    val_loss: Amount
    val_accuracy: Share
    lr: Amount
    train_seconds: Amount | None  # None: others trained in the same process
    samples_seen: Count


class _Event(msgspec.Struct, frozen=True, tag_field="event"):
    pass


# --- before a sweep ----------------------------------------------------------------------------------------------


class ProbeStarted(_Event, frozen=True, tag="probe"):
    """A model is about to be tried; if the process dies now, this model is to blame."""

    model: str


class Probed(_Event, frozen=True, tag="probed"):
    """A model can be trained."""

    model: str
    warnings: tuple[str, ...] = ()
    weights_bytes: int = 0  # what --keep-weights would keep of a run


class ProbeFailed(_Event, frozen=True, tag="unfit"):
    """A model cannot be trained; `why` is a sentence for the user."""

    model: str
    why: str


class DeviceFound(_Event, frozen=True, tag="device"):
    """A device of the machine. `visible`: the CUDA_VISIBLE_DEVICES of a process that is to see this GPU alone."""

    type: str  # cpu | cuda
    index: int | None
    kind: str  # its model name
    native_bf16: bool
    threads: int
    visible: str | None = None
    note: str = ""  # why it is not the GPU that one would expect here


class Described(_Event, frozen=True, tag="described"):
    """The facts about a device and its machine, as a record keeps them."""

    environment: dict[str, str | int | float | bool | None]


class CostCounted(_Event, frozen=True, tag="cost"):
    """Training FLOPs of one image, two per multiply-add."""

    model: str
    num_classes: int
    image_size: int
    train_flops: float


class ModulePart(msgspec.Struct, frozen=True, kw_only=True):
    """The cost of one part of a model, for one image."""

    name: str
    params: Whole
    flops: Whole
    activations: Whole


class ModelCounted(_Event, frozen=True, kw_only=True, tag="model"):
    """A model at one image size: what was built, and its cost for one image. A row of the `cost` command."""

    model: str
    image_size: int
    stem: str  # what the first convolution or product does to the image
    resolutions: str  # at how many places that and all others work
    params: int
    flops: int  # multiply-adds, forward
    activations: int
    train_flops_2x: int | None  # forward and backward; None where torch's counter could not run
    audit: str  # equal | mismatch | failed
    notes: tuple[str, ...] = ()  # what a reader of the count must know
    modules: tuple[ModulePart, ...] = ()  # by module, the model itself first under the name ""


class Estimated(_Event, frozen=True, tag="estimate"):
    """Expected training seconds of a run, from a step timed now."""

    seconds: float


class Compiled(_Event, frozen=True, tag="compiled"):
    """A training step is compiled; `from_cache`: by an earlier process."""

    from_cache: bool


# --- one run -----------------------------------------------------------------------------------------------------


class Placed(_Event, frozen=True, tag="placed"):
    """The run as the device names it that took it."""

    run_id: str
    device_name: str


class Planned(_Event, frozen=True, tag="planned"):
    """How long the run will be."""

    steps: int
    epochs: float


class Continued(_Event, frozen=True, tag="continued"):
    """The run resumes from a checkpoint after `step` steps."""

    step: int


class StepDone(_Event, frozen=True, tag="step"):
    """So many steps have been launched."""

    step: int


class Tick(_Event, frozen=True, tag="tick"):
    """Still at work, in a phase that has no steps."""


class EpochDone(_Event, frozen=True, tag="epoch"):
    """A validation."""

    row: Epoch


class Note(_Event, frozen=True, tag="note"):
    """A sentence for the reader of the screen and of the record."""

    text: str


class TrialDone(_Event, frozen=True, tag="trial"):
    """What one learning-rate trial found."""

    samples: int
    train_seconds: float | None  # None: others trained in the same process
    val_accuracy: float
    val_loss: float
    val_images: int = 0


# --- speed sessions and setting searches -------------------------------------------------------------------------


class ModelTurn(_Event, frozen=True, tag="turn"):
    """From now on `model` is at work, and to blame if the process dies; "": no model is.

    In a speed session also at what, and the seconds that are left of its limit.
    """

    model: str
    kind: str = ""
    batch_size: int = 0
    seconds_left: float | None = None


class BlockDone(_Event, frozen=True, tag="block"):
    """A block of a speed session is done, of so many planned in this process start of so many."""

    block: int
    blocks: int
    start: int = 1
    starts: int = 1
    seconds_left: float | None = None


class Stage(_Event, frozen=True, tag="stage"):
    """What a session does now, in words."""

    text: str


class TaskStarted(_Event, frozen=True, tag="task"):
    """A task is about to be tried alone; if the process dies now, this task is to blame."""

    model: str
    kind: str
    batch_size: int


class TaskFailed(_Event, frozen=True, tag="task_failed"):
    """A task that cannot be timed."""

    model: str
    kind: str
    batch_size: int
    status: str
    message: str


class MemoryMeasured(_Event, frozen=True, tag="memory"):
    """Peak memory of a task that ran alone."""

    model: str
    kind: str
    batch_size: int
    bytes: int | None
    reserved_bytes: int | None


class CandidateStarted(_Event, frozen=True, tag="candidate"):
    """A setting search tries a candidate for the first time; -1: none, so none is to blame."""

    index: int
    text: str


class CandidateTurn(_Event, frozen=True, tag="candidate_turn"):
    """A setting search times a candidate again."""

    index: int
    text: str


class Explained(_Event, frozen=True, tag="explained"):
    """Seconds of a training step, and of its groups of operators under the profiler."""

    step_seconds: float
    groups: dict[str, float]


# --- the end -----------------------------------------------------------------------------------------------------


class Finished(_Event, frozen=True, tag="finished"):
    """A run of several that train in one process has reached its end."""


class Failed(_Event, frozen=True, tag="failure"):
    """The worker's function raised; `status` is one of bench.core.status."""

    status: str
    message: str
    traceback: str = ""


class OfRun(_Event, frozen=True, tag="of_run"):
    """An event of one of the runs, or trials, that train in one process."""

    name: str
    said: Event


Event = (
    ProbeStarted
    | Probed
    | ProbeFailed
    | DeviceFound
    | Described
    | CostCounted
    | ModelCounted
    | Estimated
    | Compiled
    | Placed
    | Planned
    | Continued
    | StepDone
    | Tick
    | EpochDone
    | Note
    | TrialDone
    | ModelTurn
    | BlockDone
    | Stage
    | TaskStarted
    | TaskFailed
    | MemoryMeasured
    | CandidateStarted
    | CandidateTurn
    | Explained
    | Finished
    | Failed
    | OfRun
)
FREQUENT = (StepDone, Tick)  # thousands per second on a GPU: senders thin them out, and losing one loses nothing
Report = Callable[[Event], None]


def is_frequent(event: Event | Numbered) -> bool:
    """Whether an event may be left out where there are many."""
    return isinstance(event.said if isinstance(event, OfRun) else event, FREQUENT)


def of_run(events: Iterable[Event], name: str) -> tuple[Event, ...]:
    """The events of one of several runs."""
    return tuple(event.said for event in events if isinstance(event, OfRun) and event.name == name)


class Numbered(msgspec.Struct, frozen=True):
    """An event that must not be lost or taken twice on its way from another machine."""

    n: int
    event: Event


def encode(event: Event | Numbered) -> bytes:
    """One line of JSON, without the line break; `?` for what is no UTF-8, as in an exception that names a file."""
    try:
        return msgspec.json.encode(event)
    except UnicodeEncodeError:
        return json.dumps(msgspec.to_builtins(event), ensure_ascii=False).encode(errors="replace")


_DECODE_EVENT = msgspec.json.Decoder(Event)
_DECODE_NUMBERED = msgspec.json.Decoder(Numbered)


def decode(line: bytes) -> Event | Numbered:
    """What `encode` wrote. Raises msgspec.DecodeError for anything else."""
    return _DECODE_NUMBERED.decode(line) if line.startswith(b'{"n":') else _DECODE_EVENT.decode(line)
