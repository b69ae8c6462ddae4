"""From words to one frozen request. Example: parse(["--models", "seresnet", "--seeds", "0-4"]).training.seeds

The only module that sees an argparse.Namespace. Whatever can be wrong without data and without torch is refused here.
"""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.cli import hints, sweep_file
from bench.cli.parser import COMMANDS, flags_of, join_names, make_parser, path
from bench.core.errors import UserError
from bench.core.text import writable
from bench.plan import recipes
from bench.plan.budget import parse_budget, parse_fraction
from bench.plan.presets import (
    PRESETS,
    check_image_size,
    parse_batch_sizes,
    parse_duration,
    parse_image_sizes,
    parse_seeds,
)
from bench.plan.request import (
    DEFAULT_STORE,
    DataOptions,
    ExecutionOptions,
    OutputOptions,
    PlacementOptions,
    RunRequest,
    TimeRequest,
    TrainingOptions,
)
from bench.plan.settings import parse_settings
from bench.plan.spec import MOST_CLASSES
from models import registry
from models.errors import suggest

if TYPE_CHECKING:
    from bench.analysis.verdicts import Condition

EXECUTORS = {"local": "local", "ray": "ray or ray:ADDRESS", "slurm": "slurm, slurm:local or slurm:debug"}
SLURM_FLAVOURS = ("local", "debug")  # submitit's stand-ins for a cluster, on this machine
OWN_DATA = ("npz", "folder")
MOST_RUNS_PER_DEVICE = MOST_TOGETHER = 64
MOST_STARTS = 20
MOST_RETRIES = 100


@dataclass(frozen=True)
class ExplainRequest:
    """Where a training step of each model spends its time."""

    time: TimeRequest


@dataclass(frozen=True)
class TableRequest:
    """Comparisons as text. `columns` and `sort` are checked by bench.present.table_choice."""

    stores: tuple[Path, ...]
    reference: str | None
    by_device: bool
    format: str
    columns: str
    where: str
    sort: str
    out: Path | None


@dataclass(frozen=True)
class PlotRequest:
    """Comparisons as image files."""

    stores: tuple[Path, ...]
    reference: str | None
    by_device: bool
    out: Path | None
    formats: tuple[str, ...]
    widths: tuple[str, ...]
    style: str


@dataclass(frozen=True)
class ReportRequest:
    """Stores as one page."""

    stores: tuple[Path, ...]
    reference: str | None
    out: Path | None
    images: str
    claim: tuple[str, str] | None = None


@dataclass(frozen=True)
class CompareRequest:
    """Verdicts on pairs of models. `margin` is a share in 0..1."""

    stores: tuple[Path, ...]
    reference: str | None
    models: tuple[str, ...]
    margin: float
    target: float | None
    format: str
    out: Path | None
    fail_if: tuple[Condition, ...]
    require: tuple[Condition, ...] = ()


@dataclass(frozen=True)
class ExportRequest:
    """Runs for a dashboard. `to`: tensorboard or mlflow."""

    stores: tuple[Path, ...]
    to: str
    out: Path | None


@dataclass(frozen=True)
class WeightsRequest:
    """How to load a run's weights. `run`: a part of its id; empty where there is only one."""

    stores: tuple[Path, ...]
    run: str


@dataclass(frozen=True)
class CheckRequest:
    """Everything that is wrong with stores."""

    stores: tuple[Path, ...]
    rebuild: bool


@dataclass(frozen=True)
class CostRequest:
    """Parameters, FLOPs and activations. `depth`: of modules; None: one row per model and size."""

    models: tuple[str, ...]
    num_classes: int
    image_sizes: tuple[int, ...]
    depth: int | None
    format: str


@dataclass(frozen=True)
class DataRequest:
    """Data sets: list, fetch, verify or show."""

    action: str
    names: tuple[str, ...]
    data_dir: Path | None
    image_size: int | None
    out: Path | None
    format: str
    seed: int


@dataclass(frozen=True)
class ListRequest:
    """What there is to choose from."""

    what: str


@dataclass(frozen=True)
class CompletionRequest:
    """A script for `shell`."""

    shell: str


Request = (
    RunRequest
    | TimeRequest
    | ExplainRequest
    | TableRequest
    | PlotRequest
    | ReportRequest
    | CompareRequest
    | ExportRequest
    | WeightsRequest
    | CheckRequest
    | CostRequest
    | DataRequest
    | ListRequest
    | CompletionRequest
)


def parse(words: Sequence[str]) -> Request:
    """The request that a command line means; `run` is understood where no command is named.

    Raises UserError and ModelError with one sentence that names the choices or the remedy, and SystemExit after --help
    and --version.
    """
    words = join_names(with_command(list(words)))
    parser = make_parser()
    arguments, unknown = parser.parse_known_args(words)
    if unknown:
        flag = unknown[0].partition("=")[0]
        hint = hints.flag_hint(flag) if flag.startswith("-") else None
        more = f"; {hint}" if hint else suggest(flag, flags_of(parser, words[0]))
        raise UserError(f"unknown argument '{unknown[0]}'{more} (run_bench.py {words[0]} --help)")
    if arguments.command == "run" and arguments.config is not None:
        from_file = sweep_file.words_of(arguments.config, parser, words)
        arguments = parser.parse_args([words[0], *from_file, *words[1:]])  # of a flag that is given twice the last wins
    return READERS[arguments.command](arguments)


def with_command(words: list[str]) -> list[str]:
    """The words with their command in front. Raises UserError for an unknown one."""
    if words[:1] == ["help"] and words[1:2] not in (["-h"], ["--help"]):
        words = [*words[1:2], "--help"]
    if words[:1] in (["-h"], ["--help"], ["--version"]):
        return words
    if not words or words[0].startswith("-"):
        return ["run", *words]
    if words[0] not in COMMANDS:
        raise UserError(f"unknown command '{words[0]}'{suggest(words[0], COMMANDS)} Choices: {', '.join(COMMANDS)}")
    return words


# --- run and time ----------------------------------------------------------------------------------------------------


def run_request(arguments: Namespace) -> RunRequest:
    """A sweep."""
    models = parse_models(arguments.models)
    training = training_options(arguments)
    execution = execution_options(arguments)
    placement = placement_options(arguments)
    if arguments.slurm and placement.executor != "slurm":
        raise UserError("--slurm is for --executor slurm")
    if execution.setting == "tuned" and placement.executor != "local":
        raise UserError("--setting tuned times every model on one device; it needs --executor local")
    if training.budget and training.budget.kind == "seconds" and execution.runs_per_device > 1:
        raise UserError("a --budget in seconds needs the device to itself; leave --runs-per-device at 1")
    return RunRequest(
        models,
        training,
        data_options(arguments),
        execution,
        placement,
        OutputOptions(
            store=arguments.results,
            run_timeout=_duration(arguments.run_timeout, "--run-timeout"),
            timing_limit=_duration(arguments.timing_limit, "--timing-limit"),
            rerun=arguments.rerun,
            live=arguments.live,
            quiet=arguments.quiet,
            dry_run=arguments.dry_run,
            reference=parse_reference(arguments.reference, models),
            keep_weights=arguments.keep_weights,
            save_config=arguments.save_config,
        ),
        sweep_file.text_of(arguments, models),
    )


def training_options(arguments: Namespace) -> TrainingOptions:
    """What to train, for how long."""
    if arguments.preset is not None:
        check_choice(arguments.preset, PRESETS, "preset")
    tracks = recipes.parse_tracks(arguments.track)
    if arguments.trial_budget is not None and not tracks:
        raise UserError("--trial-budget is for the searches of a track; add --track shared, family or both")
    if arguments.epochs is not None and arguments.budget is not None:
        raise UserError("--epochs and --budget both say how long; give one")
    return TrainingOptions(
        preset=arguments.preset,
        recipe=None if arguments.recipe is None else parse_recipe(arguments.recipe),
        seeds=None if arguments.seeds is None else tuple(parse_seeds(arguments.seeds)),
        epochs=arguments.epochs,
        budget=None if arguments.budget is None else parse_budget(arguments.budget),
        batch_size=arguments.batch_size,
        validations=arguments.validations,
        tracks=tracks,
        trial_budget=None if arguments.trial_budget is None else parse_budget(arguments.trial_budget, "--trial-budget"),
        target=check_target(arguments.target),
    )


def data_options(arguments: Namespace) -> DataOptions:
    """Which images."""
    datasets = () if arguments.dataset is None else parse_datasets(arguments.dataset)
    if arguments.cinic_train and "cinic10" not in datasets:
        raise UserError("--cinic-train is for --dataset cinic10")
    if arguments.cinic_train == "train+valid":
        datasets = tuple(f"{name}:train+valid" if name == "cinic10" else name for name in datasets)
    check_image_size(arguments.image_size)
    return DataOptions(datasets, parse_fraction(arguments.train_fraction), arguments.image_size, arguments.data_dir)


def execution_options(arguments: Namespace) -> ExecutionOptions:
    """How it is executed."""
    setting, *others = parse_settings(arguments.setting)
    if others:
        raise UserError("--setting of run is one for all; `time` takes several")
    if not 1 <= arguments.runs_per_device <= MOST_RUNS_PER_DEVICE:
        raise UserError(
            f"--runs-per-device must be between 1 and {MOST_RUNS_PER_DEVICE}, not {arguments.runs_per_device}"
        )
    if arguments.together is not None and not 1 <= arguments.together <= MOST_TOGETHER:
        raise UserError(f"--together must be between 1 and {MOST_TOGETHER}, not {arguments.together}")
    if arguments.runs_per_device > 1 and (arguments.together or 1) > 1:
        raise UserError("--together and --runs-per-device are two ways to share a device; name one of them")
    limit = _duration(arguments.tune_limit, "--tune-limit")
    return ExecutionOptions(setting, limit, arguments.deterministic, arguments.runs_per_device, arguments.together)


def placement_options(arguments: Namespace) -> PlacementOptions:
    """Where it is executed."""
    executor, address = parse_executor(arguments.executor)
    if not 0 <= arguments.retries <= MOST_RETRIES:
        raise UserError(f"--retries must be between 0 and {MOST_RETRIES}, not {arguments.retries}")
    return PlacementOptions(parse_device(arguments.device), executor, address, arguments.slurm, arguments.retries)


def time_request(arguments: Namespace) -> TimeRequest | ExplainRequest:
    """Speed sessions, or what a training step consists of."""
    models = parse_models(arguments.explain or arguments.models)
    settings = tuple(parse_settings(arguments.setting))
    if arguments.explain and len(settings) > 1:
        raise UserError("--explain takes one --setting")
    check_image_size(arguments.image_size)
    check_count(arguments.num_classes, "--num-classes")
    if not 0.1 <= arguments.within <= 50:
        raise UserError(f"--within must be between 0.1 and 50 percent, not {arguments.within:g}")
    if not (arguments.starts == 1 or 3 <= arguments.starts <= MOST_STARTS):
        raise UserError(
            f"--starts must be 1 or between 3 and {MOST_STARTS}, not {arguments.starts}: two give no usable interval"
        )
    sizes = arguments.train_batch_sizes
    request = TimeRequest(
        models,
        recipe=parse_recipe(arguments.recipe),
        batch_size=arguments.batch_size,
        batch_sizes=None if arguments.batch_sizes is None else parse_batch_sizes(arguments.batch_sizes),
        train_batch_sizes=None if sizes is None else parse_batch_sizes(sizes, "--train-batch-sizes"),
        starts=arguments.starts,
        image_size=arguments.image_size,
        num_classes=arguments.num_classes,
        device=parse_device(arguments.device),
        settings=settings,
        tune_limit=_duration(arguments.tune_limit, "--tune-limit"),
        deterministic=arguments.deterministic,
        half_width=arguments.within / 100,
        time_limit=_duration(arguments.time_limit, "--time-limit"),
        store=arguments.results,
        reference=parse_reference(arguments.reference, models),
        quiet=arguments.quiet,
    )
    return ExplainRequest(request) if arguments.explain else request


# --- the other commands ----------------------------------------------------------------------------------------------


def table_request(arguments: Namespace) -> TableRequest:
    """Comparisons as text."""
    return TableRequest(
        _stores(arguments),
        _reference(arguments.reference),
        arguments.by_device,
        arguments.format,
        arguments.columns,
        arguments.where,
        arguments.sort,
        arguments.out,
    )


def plot_request(arguments: Namespace) -> PlotRequest:
    """Comparisons as image files."""
    return PlotRequest(
        _stores(arguments),
        _reference(arguments.reference),
        arguments.by_device,
        arguments.out,
        parse_among(arguments.formats, ("png", "svg", "pdf"), "--formats"),
        parse_among(arguments.widths, ("1", "2"), "--widths"),
        os.path.expanduser(arguments.style),
    )


def report_request(arguments: Namespace) -> ReportRequest:
    """Stores as one page."""
    claim = None if arguments.claim is None else parse_claim(arguments.claim)
    return ReportRequest(_stores(arguments), _reference(arguments.reference), arguments.out, arguments.images, claim)


def compare_request(arguments: Namespace) -> CompareRequest:
    """Verdicts. Models are those of the stores: they need not be in the registry any more."""
    fail_if, require = map(_conditions, (arguments.fail_if, arguments.require))
    if not 0 < arguments.margin < 100:
        raise UserError(f"--margin must lie between 0 and 100 points, not {arguments.margin:g}")
    models = tuple(map(_model_name, registry.split_names(",".join(arguments.models)))) if arguments.models else ()
    if len(set(models)) < len(models):
        raise UserError("a model is named twice; name different ones to compare")
    return CompareRequest(
        _stores(arguments),
        _reference(arguments.reference),
        models,
        arguments.margin / 100,
        check_target(arguments.target),
        arguments.format,
        arguments.out,
        fail_if,
        require,
    )


def _conditions(texts: list[str]) -> tuple[Condition, ...]:
    if not texts:
        return ()
    from bench.analysis.verdicts import parse_condition

    return tuple(map(parse_condition, texts))


def export_request(arguments: Namespace) -> ExportRequest:
    """Runs for a dashboard; stores may be named with --results and without."""
    arguments.results = [*arguments.stores, *(arguments.results or [])]
    return ExportRequest(_stores(arguments), arguments.to, arguments.out)


def weights_request(arguments: Namespace) -> WeightsRequest:
    """How to load a run's weights."""
    return WeightsRequest(_stores(arguments), arguments.run)


def check_request(arguments: Namespace) -> CheckRequest:
    """Everything that is wrong with stores."""
    return CheckRequest(_stores(arguments), arguments.rebuild)


def cost_request(arguments: Namespace) -> CostRequest:
    """What models cost."""
    models = parse_models(",".join(arguments.models))
    sizes = parse_image_sizes(arguments.image_size)
    check_count(arguments.num_classes, "--num-classes")
    check_count(arguments.depth, "--depth")
    if arguments.by_module and (len(sizes) > 1 or arguments.format):
        raise UserError("--by-module takes one --image-size and no --format")
    depth = arguments.depth if arguments.by_module else None
    return CostRequest(models, arguments.num_classes, sizes, depth, arguments.format or "text")


def data_request(arguments: Namespace) -> DataRequest:
    """Data sets."""
    check_image_size(arguments.image_size)
    return DataRequest(
        arguments.action,
        tuple(map(expand_dataset, arguments.names)),
        arguments.data_dir,
        arguments.image_size,
        arguments.out,
        arguments.format,
        arguments.seed,
    )


def list_request(arguments: Namespace) -> ListRequest:
    """What there is to choose from."""
    return ListRequest(arguments.what)


def completion_request(arguments: Namespace) -> CompletionRequest:
    """A script for a shell."""
    return CompletionRequest(arguments.shell)


READERS: dict[str, Callable[[Namespace], Request]] = {
    "run": run_request,
    "time": time_request,
    "compare": compare_request,
    "table": table_request,
    "plot": plot_request,
    "report": report_request,
    "data": data_request,
    "export": export_request,
    "weights": weights_request,
    "check": check_request,
    "cost": cost_request,
    "list": list_request,
    "completion": completion_request,
}


# --- values ----------------------------------------------------------------------------------------------------------


def parse_models(text: str) -> tuple[str, ...]:
    """Names, globs and exclusions by commas. Raises ModelError, and UserError with how to write what was meant."""
    for part in registry.split_names(text):
        name = part.removeprefix("-")
        if name not in registry.CATALOGUE and (hint := hints.model_hint(name)):
            raise UserError(f"unknown model '{name}'; {hint} (run_bench.py list models)")
    return tuple(map(_model_name, registry.expand_names(text)))


def parse_reference(text: str | None, models: Sequence[str]) -> str | None:
    """The model that ratios refer to. Raises UserError for one that does not take part."""
    name = _reference(text)
    if name is not None and name not in models:
        raise UserError(f"--reference '{name}' does not take part; choose from {', '.join(models)}")
    return name


def parse_claim(text: str) -> tuple[str, str]:
    """The two models of a claim. Raises UserError unless there are two different ones."""
    names = list(map(_model_name, registry.split_names(text)))
    if len(names) != 2 or names[0] == names[1]:
        raise UserError(f"--claim takes two different models, as in seresnet,vit_tiny, not '{text}'")
    return names[0], names[1]


def parse_recipe(text: str) -> str:
    """A recipe's name or file. Raises UserError where there is none, or it cannot be used."""
    name = os.path.expanduser(text)
    recipes.load(name)
    return name


def parse_datasets(text: str) -> tuple[str, ...]:
    """Names by commas; a comma in the name of one's own file or folder stays.

    Raises UserError for an unknown name and for one that is given twice.
    """
    from bench.data.datasets import CINIC_WHOLE, NAMES

    names = list[str]()
    for piece in text.split(","):
        is_one = piece.strip() in (*NAMES, CINIC_WHOLE) or _is_own(piece.strip())
        if names and _is_own(names[-1]) and not is_one:
            names[-1] += f",{piece}"
        else:
            names.append(piece.strip())
    if len(set(names)) < len(names) or not all(names):
        raise UserError(f"--dataset takes different names by commas, not '{text}'")
    for name in names:
        kind, _, rest = name.partition(":")
        if name not in (*NAMES, CINIC_WHOLE) and not (kind in OWN_DATA and rest):
            choices = f"{', '.join(NAMES)}, npz:FILE, folder:DIR"
            raise UserError(f"unknown dataset '{name}'{suggest(name, NAMES)} Choices: {choices}")
    return tuple(map(expand_dataset, names))


def _is_own(name: str) -> bool:
    return name.partition(":")[0] in OWN_DATA and ":" in name


def expand_dataset(name: str) -> str:
    """`npz:~/x.npz` and `folder:~/x` with their paths expanded."""
    kind, colon, rest = name.partition(":")
    return f"{kind}{colon}{os.path.expanduser(rest)}" if kind in OWN_DATA else name


def parse_device(text: str | None) -> str | None:
    """The device, by its form: whether it is here only torch can say. Raises UserError."""
    kind, colon, index = (text or "cpu").partition(":")
    if kind not in ("cpu", "cuda") or (colon and (kind == "cpu" or not index.isdecimal())):
        raise UserError(f"unknown device '{text}'{suggest(kind, ('cpu', 'cuda'))} Choices: cpu, cuda, cuda:N")
    return text


def parse_executor(text: str) -> tuple[str, str]:
    """(executor, what stands behind its colon). Raises UserError that names the choices."""
    name, colon, where = text.partition(":")
    if name not in EXECUTORS:
        raise UserError(f"unknown executor '{name}'{suggest(name, EXECUTORS)} Choices: {', '.join(EXECUTORS.values())}")
    if colon and (name == "local" or not where or (name == "slurm" and where not in SLURM_FLAVOURS)):
        raise UserError(f"write --executor {EXECUTORS[name]}, not '{text}'")
    return name, where


def parse_among(text: str, choices: tuple[str, ...], flag: str) -> tuple[str, ...]:
    """Words by commas, each one of the choices, in the choices' order. Raises UserError."""
    words = [word.strip() for word in text.split(",")]
    if unknown := [word for word in words if word not in choices]:
        raise UserError(f"{flag} takes {', '.join(choices)} by commas, not '{unknown[0]}'")
    return tuple(choice for choice in choices if choice in words)


def check_choice(name: str, choices: Collection[str], what: str) -> None:
    """Raise UserError, with what may have been meant, for an unknown name."""
    if name not in choices:
        raise UserError(f"unknown {what} '{name}'{suggest(name, choices)} Choices: {', '.join(choices)}")


def check_count(value: int, flag: str) -> None:
    """Raise UserError for a number of classes or levels that no model has."""
    if not 1 <= value <= MOST_CLASSES:
        raise UserError(f"{flag} must be between 1 and {MOST_CLASSES}, not {value}")


def check_target(target: float | None) -> float | None:
    """Raise UserError for a target that is no share of images."""
    if target is not None and not 0 < target < 1:
        raise UserError(f"--target must lie between 0 and 1, such as 0.9, not {target:g}")
    return target


def _duration(text: str | None, flag: str) -> float | None:
    return None if text is None else parse_duration(text, flag)


def _model_name(text: str) -> str:
    """As records have it; models.files.model_file finds the file again."""
    return writable(os.path.expanduser(text))


def _reference(text: str | None) -> str | None:
    return None if text is None else _model_name(text)


def _stores(arguments: Namespace) -> tuple[Path, ...]:
    return tuple(arguments.results or [path(str(DEFAULT_STORE))])
