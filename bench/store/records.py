"""What a store holds, typed. Example: record = decode(content, run_id)

Everything that is read from a store passes through `decode`: strict JSON, the schema's number (an older record is
migrated, a newer one refused), the checksum, types and ranges. `Damaged` says in one sentence what is wrong. `encode`
makes the same checks, so that whatever is written can be read.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypeVar, get_args, overload

import msgspec
from msgspec import Meta

from bench.core.errors import UserError
from bench.core.events import Amount, Count, Epoch, ModulePart, Positive, Share, Whole
from bench.core.files import distinct, from_json, inert, sha256, to_json
from bench.core.stats import Interval, ratio_over_starts
from bench.plan.budget import parse_budget
from bench.plan.keys import Fact, SpeedKey, with_host
from bench.plan.spec import MOST_CLASSES, DataRef, Provenance, Recipe, RunSpec, Setting, to_dict

SCHEMA = 2  # of every record; raise it, and add to MIGRATIONS, when a field changes its meaning
Raw = dict[str, Any]  # JSON before its types are known
Environment = dict[str, Fact]
Classes = Annotated[int, Meta(ge=1, le=MOST_CLASSES)]
FailedStatus = Literal["oom", "diverged", "failed", "timeout", "killed", "interrupted", "lost"]
STATUSES = ("ok", *get_args(FailedStatus))
Status = Annotated[str, Meta(pattern=f"^({'|'.join(STATUSES)})$")]
CandidateStatus = Annotated[str, Meta(pattern=f"^({'|'.join((*STATUSES, 'slower', 'untried'))})$")]
Phase = Literal["start", "data", "build", "count", "move", "first step", "training", "validation", "test", "saving"]
PHASES: tuple[Phase, ...] = get_args(Phase)
# Of recipes and data, which bench/plan keeps as plain dataclasses: nobody may be asked for more, or for less.
LIMITS = {
    "epochs": (0, 10**12),
    "batch_size": (1, 10**9),
    "validations": (0, 10**9),
    "num_classes": (1, MOST_CLASSES),
    "image_size": (1, 10**7),
}
FACTS = ("device", "device_name", "torch", "torch_threads")  # what the environment of a finished run must say


class Damaged(ValueError):
    """A file of the store that cannot be trusted; the message says why."""


class _Record(msgspec.Struct, frozen=True, kw_only=True):
    pass


# --- runs --------------------------------------------------------------------------------------------------------


class Metrics(_Record, frozen=True, kw_only=True):
    """The figures of a finished run. A figure that could not be measured is None."""

    accuracy: Share  # of the test images
    val_accuracy: Share
    test_loss: Amount  # nats
    val_loss: Amount | None = None
    train_seconds: Amount | None  # None: it trained together with others
    first_step_seconds: Amount | None
    checkpoint_seconds: Amount
    wall_seconds: Amount | None = None
    pace_seconds: Amount | None = None  # measuring the pace for a budget in seconds
    pace_images_per_second: Amount | None = None
    loop_images_per_second: Amount | None = None  # in the training loop, loading included
    flops: Amount | Whole | None = None  # multiply-adds of one image, forward
    flops_2x: Amount | Whole | None = None
    train_flops_2x: Amount | Whole | None = None
    flops_audit: str | None = None
    params: Whole | None = None
    activations: Whole | None = None
    peak_memory_bytes: Whole | None = None
    epochs: Annotated[int, Meta(gt=0)] | Annotated[float, Meta(gt=0)]
    samples_seen: Count
    segments: Count
    train_images: Count
    test_images: Count
    val_images: Count | None = None  # older records do not say
    runs_at_once: Count | None = None  # on the same device; older records do not say
    together: Count = 1  # in the same process, taking turns


class Audit(_Record, frozen=True, kw_only=True):
    """fvcore's products against those of torch's FlopCounterMode on the meta device, for one image.

    verdict: `equal` to the integer, `mismatch`, or `failed` where torch's counter could not run (`why` says how).
    """

    verdict: str
    products: int
    torch: int | None
    differing: tuple[str, ...] = ()
    unsupported: tuple[str, ...] = ()  # operators that nothing counted and that are not known to be pointwise
    uncalled: tuple[str, ...] = ()  # modules that the forward pass leaves out
    unused: tuple[str, ...] = ()  # those of them that have parameters
    why: str = ""


class FinishedRun(_Record, frozen=True, kw_only=True):
    """A training that reached its end: a row with figures."""

    run_id: str
    status: Literal["ok"] = "ok"
    spec: RunSpec
    family: str
    started: str  # UTC, ISO 8601
    metrics: Metrics
    history: Annotated[tuple[Epoch, ...], Meta(min_length=1)]
    notes: tuple[str, ...]
    classes: tuple[str, ...]
    environment: Environment
    files: dict[str, str] = {}  # SHA-256 of the files beside the record, by name
    setting_used: str | None = None  # what really ran the steps
    first_step_from_cache: bool | None = None  # whether compiled code was there already; None: nothing was compiled
    target: Share | None = None  # validation accuracy to be timed, named before training
    seconds_from: str = ""  # the run_id of one of the same work that trained alone, where this one did not
    phases: dict[Phase, Amount] = {}  # seconds of the process that finished it; together its wall_seconds
    flops_audit: Audit | None = None
    modules: tuple[ModulePart, ...] | None = None
    provenance: Provenance | None = None

    @property
    def shared_device(self) -> bool:
        """Whether other runs trained on the same device at the same time, so that its seconds mean nothing."""
        return (self.metrics.runs_at_once or 1) > 1 or self.metrics.train_seconds is None

    @property
    def timed_alone(self) -> bool:
        """Whether its seconds were measured, while it trained alone; else there are none, or those of another run."""
        return not self.shared_device and not self.seconds_from


class FailedRun(_Record, frozen=True, kw_only=True):
    """A run that did not end well: a row with a reason."""

    run_id: str
    status: FailedStatus
    message: str = ""
    spec: RunSpec
    family: str
    started: str
    environment: Environment = {}


RunRecord = FinishedRun | FailedRun


def finished(runs: list[RunRecord]) -> list[FinishedRun]:
    """Those that finished, in the same order."""
    return [run for run in runs if isinstance(run, FinishedRun)]


# --- speed sessions ----------------------------------------------------------------------------------------------


class Sample(_Record, frozen=True, kw_only=True):
    """One measurement: `calls` calls took `seconds` together, as the `position`-th of its block."""

    model: str
    kind: str  # train | inference | latency
    block: Annotated[int, Meta(ge=0, le=1_000_000)]
    position: Annotated[int, Meta(ge=0, le=1_000_000)]
    batch_size: Count
    calls: Count
    seconds: Positive
    start: Annotated[int, Meta(ge=0, le=1_000_000)] = 0  # which process start; blocks are counted through all of them

    @property
    def seconds_per_call(self) -> float:
        """Seconds of one call."""
        return self.seconds / self.calls


class TimingFailure(_Record, frozen=True, kw_only=True):
    """A task that could not be timed; kind "" and no batch size stand for the whole model."""

    model: str
    kind: str
    batch_size: Count | None
    status: Status
    message: str


class MemoryUse(_Record, frozen=True, kw_only=True):
    """Peak memory of a task that ran alone."""

    model: str
    kind: str
    batch_size: Count
    bytes: Amount | Whole | None
    reserved_bytes: Amount | Whole | None


TaskName = tuple[str, str, int]  # model, kind, batch size


@dataclass
class TrialResults:
    """Results of trying each model alone: what cannot be timed, and the memory that the rest takes."""

    failures: list[TimingFailure] = field(default_factory=list)
    memory: list[MemoryUse] = field(default_factory=list)

    def tried(self) -> set[TaskName]:
        """Tasks of which it is known whether they run."""
        rows: list[MemoryUse | TimingFailure] = [*self.memory, *self.failures]
        return {(row.model, row.kind, row.batch_size) for row in rows if row.batch_size is not None}

    def failed_tasks(self) -> set[TaskName]:
        """Tasks that failed alone."""
        return {(row.model, row.kind, row.batch_size) for row in self.failures if row.batch_size is not None}

    def failed_models(self) -> set[str]:
        """Models that failed as a whole."""
        return {row.model for row in self.failures if not row.kind}


class Ceilings(_Record, frozen=True, kw_only=True):
    """What the device does at its best, in this session."""

    flops_per_second: Positive  # two operations per multiply-add, in the recipe's precision
    bytes_per_second: Positive  # read plus written
    launch_seconds: Positive  # an operator on one element
    loader_images_per_second: Positive


class Bound(_Record, frozen=True, kw_only=True):
    """What limits a training step, the share of its time that this explains, and the work behind it."""

    name: Literal["launch", "bandwidth", "compute", "loader"]
    share: Amount
    shares: dict[str, Amount]
    flops_per_second: Amount | None
    operators: Count
    bytes: Count
    flops_2x: Amount | Whole | None
    step_seconds: Positive
    twice_the_batch: Amount | None
    experiment: str


class OperatorGroups(_Record, frozen=True, kw_only=True):
    """Seconds of a training step, and of its groups of operators under the profiler."""

    step_seconds: Positive
    groups: dict[str, Amount]


class Energy(_Record, frozen=True, kw_only=True):
    """Joules per 1,000 training images by model, or why they are unknown."""

    source: str
    why_not: str
    joules_per_1000_images: dict[str, Amount] = {}


class Session(_Record, frozen=True, kw_only=True):
    """Models timed in turns under one setting on one device, in one process start after the other."""

    id: str
    started: str
    models: Annotated[tuple[str, ...], Meta(min_length=1)]
    sources: dict[str, str]  # SHA-256 of the file behind a model, else ""
    settings: dict[str, Setting]
    not_as_set: dict[str, tuple[str, ...]] = {}  # why a model did not run under its setting
    reference: str
    kinds: tuple[str, ...] = ()
    key: SpeedKey
    recipe: Recipe
    recipes: dict[str, Recipe] = {}  # by model, in a track
    num_classes: Classes
    stopped: Literal["narrow", "limit", "blocks", "alone"]
    blocks: Annotated[int, Meta(ge=1, le=1_000_000)]
    planned_blocks: Count | None = None
    starts: Count = 1
    planned_starts: Count = 1  # fewer than asked for where the limit does not allow more
    left_out: tuple[str, ...] = ()  # what the limit left no room for, in words
    half_width: Positive | None = None
    limit_seconds: Amount | None = None
    seconds: Amount | None = None
    samples: Annotated[tuple[Sample, ...], Meta(min_length=1)]
    first_calls: tuple[Sample, ...]
    build_seconds: dict[str, Amount]
    failures: tuple[TimingFailure, ...]
    memory: tuple[MemoryUse, ...]
    warnings: tuple[str, ...]
    gpu_before: dict[str, Fact | tuple[Fact, ...]] = {}  # whatever NVML reports
    gpu_after: dict[str, Fact | tuple[Fact, ...]] = {}
    ceilings: Ceilings | None
    bounds: dict[str, Bound]
    energy: Energy
    groups: dict[str, OperatorGroups] = {}
    environment: Environment

    def recipe_of(self, model: str) -> Recipe:
        """A model's own recipe in a track, else that for all."""
        return self.recipes.get(model, self.recipe)

    def seconds_per_call(self, model: str, kind: str, batch_size: int | None = None) -> list[float]:
        """Raw samples of one model and kind, by block; by default latency of one image, else the recipe's batch."""
        if batch_size is None:
            batch_size = 1 if kind == "latency" else self.recipe.batch_size
        wanted = (model, kind, batch_size)
        picked = [s for s in self.samples if (s.model, s.kind, s.batch_size) == wanted]
        return [s.seconds_per_call for s in sorted(picked, key=lambda s: s.block)]

    def by_start(self, model: str, kind: str, batch_size: int | None = None) -> list[list[float]]:
        """The same samples, one list for each process start."""
        starts = {s.block: s.start for s in self.samples}  # every task has every block
        found: dict[int, list[float]] = defaultdict(list)
        for block, seconds in enumerate(self.seconds_per_call(model, kind, batch_size)):
            found[starts[block]].append(seconds)
        return list(found.values())

    def ratio(self, numerator: str, denominator: str, kind: str, batch_size: int | None = None) -> Interval:
        """One model's time over another's, with its interval; `n` 0 and nan where not both were timed."""
        times = [self.by_start(model, kind, batch_size) for model in (numerator, denominator)]
        return ratio_over_starts(*times) if all(times) else Interval(math.nan, math.nan, math.nan, 0)


# --- searches ----------------------------------------------------------------------------------------------------


class Candidate(_Record, frozen=True, kw_only=True):
    """One setting that was tried for a model, and the seconds of a call in each round."""

    setting: Setting
    status: CandidateStatus
    message: str
    seconds: tuple[Positive, ...]
    first_seconds: Amount | None = None
    trial_seconds: Amount | None = None


class SettingSearch(_Record, frozen=True, kw_only=True):
    """A search for a model's fastest setting, in the folder `tuning`."""

    id: str
    started: str
    model: str
    source: str
    key: SpeedKey
    recipe: Recipe
    num_classes: Classes
    limit_seconds: Positive
    candidates: Annotated[tuple[Candidate, ...], Meta(min_length=1)]
    chosen: Setting
    environment: Environment


class Trial(_Record, frozen=True, kw_only=True):
    """One short training of a learning-rate search."""

    lr: Positive
    rung: Annotated[int, Meta(ge=0, le=10)]
    status: Status
    message: str
    samples: Amount | Whole
    train_seconds: Amount | None  # None: other trials trained in the same process
    val_accuracy: Share | None
    val_loss: Amount | None
    val_images: Whole = 0  # older records do not say


class RunnerUp(_Record, frozen=True, kw_only=True):
    """The second best of the rates tried longest, and how far it is behind the chosen one: a share's interval."""

    lr: Positive
    val_accuracy: Share
    val_images: Count
    low: float
    high: float


class LRSearch(_Record, frozen=True, kw_only=True):
    """A search for a model's learning rate, in the folder `search`; finished once it has `chosen`."""

    id: str
    started: str
    budget: str
    spec: RunSpec  # of its first trial
    trials: tuple[Trial, ...]
    chosen: Positive | None = None
    edge: bool = False  # the best rate is the highest or the lowest one tried
    runner_up: RunnerUp | None = None

    @property
    def samples(self) -> float:
        """Training samples of all trials: the price of the choice."""
        return sum(trial.samples for trial in self.trials)


AnyRecord = FinishedRun | FailedRun | Session | SettingSearch | LRSearch
R = TypeVar("R", bound=AnyRecord)

# --- to and from bytes -------------------------------------------------------------------------------------------


def encode(record: AnyRecord) -> bytes:
    """The record as stored: readable JSON with its schema's number and a checksum.

    Raises Damaged for whatever `decode` would refuse.
    """
    plain: Raw = msgspec.to_builtins(record, builtin_types=())
    plain = {k: v for k, v in plain.items() if v is not None or k in ("ceilings", "chosen")}
    if isinstance(record, FinishedRun | FailedRun | LRSearch):
        plain["spec"] = to_dict(record.spec)
    plain = {"schema": SCHEMA, **plain}
    try:
        _convert(from_json(to_json(plain)), type(record))
    except ValueError as error:
        raise Damaged(str(error)) from None
    return to_json({**plain, "checksum": _checksum(plain)})


def _checksum(body: Raw) -> str:
    return sha256(json.dumps(body, sort_keys=True, allow_nan=False).encode())


@overload
def decode(content: bytes, name: str, kind: type[R]) -> R: ...
@overload
def decode(content: bytes, name: str, kind: None = None) -> RunRecord: ...
def decode(content: bytes, name: str, kind: Any = None) -> Any:
    """The record in `content`, from a folder or file called `name`, in today's schema; without a `kind`, a run's.

    Raises Damaged, and UserError for a schema of the future.
    """
    raw = decode_raw(content, name)
    if kind is None:
        kind = FinishedRun if raw.get("status") == "ok" else FailedRun
    record = _convert(raw, kind)
    if (record.run_id if isinstance(record, FinishedRun | FailedRun) else record.id) != name:
        raise Damaged("its id differs from its file's name")
    if isinstance(record, Session | SettingSearch) and record.key != (key := with_host(record.key, record.environment)):
        record = msgspec.structs.replace(record, key=key)
    return record


def decode_raw(content: bytes, name: str) -> Raw:
    """The same before its types are checked: strict JSON of today's schema with a valid checksum."""
    try:
        raw = from_json(content)
    except ValueError as error:
        raise Damaged(f"not valid JSON: {inert(str(error))[:120]}") from None
    version = raw.get("schema") if isinstance(raw, dict) else None
    if type(version) is not int or version < 1:
        raise Damaged("not a record")
    if version > SCHEMA:
        raise UserError(
            f"'{name}' was written by a newer version of this program (schema {version}; this one knows 1 to {SCHEMA});"
            " update the checkout, or name another store with --results"
        )
    if version >= 2 and raw.get("checksum") != _checksum({k: v for k, v in raw.items() if k != "checksum"}):
        raise Damaged("its checksum does not match")
    for step in range(version, SCHEMA):
        raw = MIGRATIONS[step](raw)
    return raw


def _convert(raw: Raw, kind: type[R]) -> R:
    try:
        record = msgspec.convert(raw, kind)
    except (msgspec.ValidationError, OverflowError, RecursionError) as error:
        raise Damaged(_sentence(str(error))) from None
    if isinstance(record, FinishedRun | FailedRun | LRSearch):
        _check_limits(record.spec.recipe, record.spec.data)
    elif isinstance(record, Session):
        _check_limits(record.recipe, record.key, *record.recipes.values())
    else:
        _check_limits(record.recipe, record.key)
    if isinstance(record, FinishedRun) and (missing := [fact for fact in FACTS if fact not in record.environment]):
        raise Damaged(f"its environment lacks {', '.join(missing)}")
    if isinstance(record, Session):
        _check_samples(record)
    if isinstance(record, LRSearch) and record.chosen not in [None, *(trial.lr for trial in record.trials)]:
        raise Damaged("the chosen rate is not among its trials")
    if isinstance(record, SettingSearch) and record.chosen not in [row.setting for row in record.candidates]:
        raise Damaged("the chosen setting is not among its candidates")
    return record


def _check_limits(*parts: Recipe | DataRef | SpeedKey) -> None:
    for part in parts:
        for name, (least, most) in LIMITS.items():
            if not least <= getattr(part, name, least) <= most:
                raise Damaged(f"{name}: expected {least} to {most:,}")
        if isinstance(part, Recipe) and part.budget:
            try:
                parse_budget(part.budget)
            except UserError:
                raise Damaged("its recipe has a budget that is none") from None


def _sentence(message: str) -> str:
    """msgspec's "Expected `float`, got `str` - at `$.metrics.accuracy`" with the field first."""
    what, _, where = inert(message).partition(" - at ")
    field_name = where.strip("`").removeprefix("$").removeprefix(".")
    return f"{field_name}: {what[:1].lower()}{what[1:]}"[:200] if field_name else what[:200]


def _check_samples(session: Session) -> None:
    """Every timed task has one sample in every block, because ratios are taken within blocks."""
    blocks: dict[tuple[str, str, int], list[int]] = defaultdict(list)
    for sample in session.samples:
        blocks[sample.model, sample.kind, sample.batch_size].append(sample.block)
    for (model, kind, batch_size), numbers in blocks.items():
        if len(numbers) != session.blocks or sorted(numbers) != list(range(len(numbers))):
            raise Damaged(f"its {kind} blocks of {inert(model)} at batch {batch_size} are not complete")
    starts = {(sample.block, sample.start) for sample in session.samples}
    if len(starts) != session.blocks or {start for _, start in starts} != {*range(session.starts)}:
        raise Damaged("its blocks do not belong to one process start each")
    if {model for model, _, _ in blocks} - {*session.models}:
        raise Damaged("it has samples of a model that it does not name")
    if len(set(session.models)) < len(session.models):
        raise Damaged("it names a model twice")


def shown_names(records: Iterable[AnyRecord]) -> dict[str, str]:
    """How each text of records that are shown together is shown: see `distinct`."""
    return distinct(text for record in records for text in _texts(_without_figures(record)))


def inert_copy(record: R, names: Mapping[str, str] | None = None) -> R:
    """A record with every text in it harmless to a terminal, a table or a plot, whoever wrote it.

    Different texts stay different: those of the record, or of all that `names` were made of.
    """
    if names is None:
        names = shown_names([record])
    return msgspec.convert(_inert(msgspec.to_builtins(record), names), type(record))


def _inert(value: Any, names: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        return names.get(value) or inert(value)
    if isinstance(value, dict):
        # most values are numbers, of which there are hundreds of thousands in a large store
        return {
            names.get(k) or inert(k): _inert(v, names) if isinstance(v, str | dict | list | tuple) else v
            for k, v in value.items()
        }
    return [_inert(v, names) for v in value] if isinstance(value, list | tuple) else value


def _without_figures(record: AnyRecord) -> Any:
    """A record without its long lists: they name nothing that it does not name elsewhere."""
    fields = msgspec.structs.asdict(record)
    return msgspec.to_builtins({name: value for name, value in fields.items() if name not in ("samples", "history")})


def _texts(value: Any) -> Iterator[str]:
    """Every text inside, keys too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list | tuple):
        for inner in (*value, *value.values()) if isinstance(value, dict) else value:
            yield from _texts(inner)


# --- older schemas -----------------------------------------------------------------------------------------------


def _migrate_1(old: Raw) -> Raw:
    """Schema 1 had no checkpoints, so one segment per run; ten blocks per session; no checksums and no audit."""
    new = {**old, "schema": 2}
    if isinstance(old.get("samples"), list) and isinstance(old.get("key"), dict):
        key = {k: v for k, v in old["key"].items() if k != "setting"}
        blocks = [s.get("block") for s in old["samples"] if isinstance(s, dict)]
        new |= {
            "key": {**key, "policy": f"identical:{old['key'].get('setting')}"},
            "settings": {},
            "reference": "seresnet",
            "stopped": "blocks",
            "blocks": 1 + max((b for b in blocks if isinstance(b, int)), default=0),
            "build_seconds": {},
            "failures": [],
            "memory": [],
            "warnings": [],
            "first_calls": [],
            "ceilings": None,
            "bounds": {},
            "energy": {"source": "", "why_not": "not measured under schema 1"},
        }
    if old.get("status") == "ok" and isinstance(old.get("metrics"), dict):
        new["metrics"] = {**old["metrics"], "segments": 1, "checkpoint_seconds": 0.0}
        new["files"] = {}
    return new


MIGRATIONS: dict[int, Callable[[Raw], Raw]] = {1: _migrate_1}
