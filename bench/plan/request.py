"""What the user asks for, parsed once. Example: RunRequest(models=("seresnet", "vit_tiny"))

bench.cli turns words into these; nothing beyond it sees the command line. Frozen, standard library only. Every value is
already checked as far as it can be without loading torch or data.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from bench.plan.budget import Budget

DEFAULT_STORE = Path("results/local")


@dataclass(frozen=True)
class TrainingOptions:
    """Which recipe, for how long, with which seeds. None: the recipe's or the preset's own."""

    preset: str | None = None
    recipe: str | None = None  # a name or a .toml file
    seeds: tuple[int, ...] | None = None
    epochs: int | None = None
    budget: Budget | None = None
    batch_size: int | None = None
    validations: int | None = None
    tracks: tuple[str, ...] = ()  # shared, family; none: no learning-rate search
    trial_budget: Budget | None = None  # of a first trial of the learning-rate search
    target: float | None = None  # validation accuracy whose time is asked for, in 0..1


@dataclass(frozen=True)
class DataOptions:
    """Which images. `datasets` empty: the preset's."""

    datasets: tuple[str, ...] = ()
    train_fractions: tuple[float, ...] = (1.0,)
    image_size: int | None = None  # pixels; None: the data set's own
    data_dir: Path | None = None  # downloads


@dataclass(frozen=True)
class ExecutionOptions:
    """How the same computation is executed."""

    setting: str = "auto"
    tune_limit: float | None = None  # seconds per model, of the search under `tuned`
    deterministic: bool = False
    runs_per_device: int = 1
    together: int | None = None  # seeds of a model in one process; None: what is worth it on a GPU, 1 on a CPU


@dataclass(frozen=True)
class PlacementOptions:
    """Where runs are executed."""

    device: str | None = None  # cpu, cuda or cuda:N; None: cuda where there is one
    executor: str = "local"  # local | ray | slurm
    address: str = ""  # of a Ray cluster, or SLURM's flavour
    slurm: str = ""  # options for SLURM jobs
    retries: int = 3  # of a run whose machine was lost


@dataclass(frozen=True)
class OutputOptions:
    """The store, limits, and what is shown."""

    store: Path = DEFAULT_STORE
    run_timeout: float | None = None  # seconds
    timing_limit: float | None = None  # seconds
    rerun: bool = False
    live: bool = False
    quiet: bool = False  # only the final table
    dry_run: bool = False
    reference: str | None = None  # the model that ratios refer to
    keep_weights: bool = False  # of each run, beside its record
    save_config: Path | None = None  # also write the sweep's file here


@dataclass(frozen=True)
class RunRequest:
    """A sweep."""

    models: tuple[str, ...]
    training: TrainingOptions = field(default_factory=TrainingOptions)
    data: DataOptions = field(default_factory=DataOptions)
    execution: ExecutionOptions = field(default_factory=ExecutionOptions)
    placement: PlacementOptions = field(default_factory=PlacementOptions)
    output: OutputOptions = field(default_factory=OutputOptions)
    toml: str = field(default="", compare=False, repr=False)  # the same as a file for --config; the store keeps it


@dataclass(frozen=True)
class TimeRequest:
    """Speed sessions, one per setting."""

    models: tuple[str, ...]
    recipe: str = "shared"
    batch_size: int | None = None  # of the training step
    batch_sizes: tuple[int, ...] | None = None  # of inference
    train_batch_sizes: tuple[int, ...] | None = None  # of training steps beside the recipe's
    starts: int = 3  # process starts
    image_size: int = 32
    num_classes: int = 10
    device: str | None = None
    settings: tuple[str, ...] = ("auto",)
    tune_limit: float | None = None  # seconds per model
    deterministic: bool = False
    half_width: float = 0.02  # of a ratio's 95 % interval, on the logarithm
    time_limit: float | None = None  # seconds of a whole session
    store: Path = DEFAULT_STORE
    reference: str | None = None
    quiet: bool = False  # only the tables
