"""The command `data`: list, fetch, verify and look at data sets. Example: python run_bench.py data show digits"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from bench.cli.list import OWN_DATA, lines, terminal_width
from bench.cli.requests import DataRequest, check_choice
from bench.core.display import Display
from bench.core.errors import EXIT_FAILED, UserError
from bench.core.files import TEMPORARY, distinct, write_atomically
from bench.core.text import plural
from bench.data.arrays import channel_stats, class_counts
from bench.data.cache import opened
from bench.data.catalogue import CATALOGUE, NO_FLIP
from bench.data.datasets import DIGITS_SUMMARY, NAMES, Dataset, decoded_key, default_data_dir, load
from bench.data.fetch import fault
from bench.data.on_disk import find, places
from bench.data.provenance import content_words
from bench.plan.request import DEFAULT_STORE
from bench.plan.spec import content_id, slug
from bench.present.screen.progress import ScreenDisplay, make_console

OWN_AUGMENTATION = "as the recipe says; where a mirrored image means something else, use a recipe with flip = false"
SHEETS = (".png", ".pdf", ".svg", ".jpg")
MOST_ROWS = 20  # of a class balance on the terminal


def run(request: DataRequest) -> int:
    """List, fetch, verify or show; returns the exit code. Raises UserError."""
    data_dir = request.data_dir or default_data_dir()
    if request.action == "list":
        return show_list(request, data_dir)
    display = ScreenDisplay(make_console())
    return {"fetch": fetch_all, "verify": verify, "show": show}[request.action](request, data_dir, display)


def show_list(request: DataRequest, data_dir: Path) -> int:
    """Print what each data set is, whether it is here, its licence and its source. Raises UserError."""
    if request.names:
        raise UserError("data list takes no names; data show NAME tells more about one")
    if request.format == "markdown":
        print("\n".join(markdown()))
        return 0
    rows = [("digits", DIGITS_SUMMARY), ("", "here: inside scikit-learn; BSD-3-Clause")]
    for name, known in CATALOGUE.items():
        rows += [
            (name, known.summary),
            ("", state_of(name, data_dir)),
            ("", f"{known.cite}; licence: {known.licence}"),
            ("", f"augmentation: {known.augmentation}"),
        ]
    rows += OWN_DATA
    print(f"in {data_dir} (--data-dir or SEVIT_DATA)\n")
    print("\n".join(lines(rows, terminal_width())))
    return 0


def state_of(name: str, data_dir: Path) -> str:
    """How much of a published data set is in the data directory."""
    known, folder = CATALOGUE[name], data_dir / name
    if (folder / "decoded" / decoded_key(name)).is_dir():
        return "here, decoded"
    if all((folder / file.name).is_file() for file in known.files):
        return "fetched, not yet decoded"
    if copies := find(name, places(data_dir, name)):
        return f"here: {copies[0].path}"
    return f"not here; {sum(file.size for file in known.files) / 1e6:,.0f} MB to fetch"


def markdown() -> list[str]:
    """The catalogue as the lines of a Markdown table, for docs/data.md."""
    lines = [
        "| name | training + test images | classes | px | channel mean; standard deviation | files, MB, checksum | "
        "from, then from | licence |",
        "|---|---:|---:|---:|---|---|---|---|",
    ]
    for name, known in CATALOGUE.items():
        facts = known.facts
        valid = f" ({facts.valid:,} validation)" if facts.valid else ""
        channels = "; ".join(" ".join(f"{v:.4f}" for v in values) for values in (facts.mean, facts.std))
        files = "<br>".join(f"{f.name}, {f.size / 1e6:,.4g}, {f.checksum[:19]}…" for f in known.files)
        hosts = ", ".join(dict.fromkeys(urlsplit(url).netloc for url in known.files[0].urls))
        lines.append(
            f"| `{name}` | {facts.train:,} + {facts.test:,}{valid} | {facts.classes} | {facts.size} | {channels} | "
            f"{files} | {hosts} | {known.licence} |"
        )
    return lines


def published_names(names: tuple[str, ...], display: Display) -> list[str]:
    """Names of the catalogue as they are, without digits. Raises UserError that suggests what was meant."""
    for name in names:
        check_choice(name, NAMES, "dataset")
        if name not in CATALOGUE:
            display.line(f"{name}: part of an installed package, nothing to fetch")
    return [name for name in names if name in CATALOGUE]


def fetch_all(request: DataRequest, data_dir: Path, display: Display) -> int:
    """Fetch and decode data sets, so that no later command needs a network. Raises UserError."""
    if not request.names:
        raise UserError(f"data fetch needs names. Choices: {', '.join(CATALOGUE)}")
    for name in published_names(request.names, display):
        with display:
            dataset = load(name, data_dir, request.image_size, progress=display.progress, say=display.line)
        display.line("\n".join([name, *(f"  {line}" for line in facts(dataset))]))
    return 0


def verify(request: DataRequest, data_dir: Path, display: Display) -> int:
    """Check every byte of downloads and decoded copies against its checksum; 1 where something is wrong.

    Repairs nothing: the next use of a data set does.
    """
    wrong = 0
    for name in published_names(request.names, display) if request.names else CATALOGUE:
        with display:
            problems, state = verified(name, data_dir / name, bool(request.names), display)
        wrong += len(problems)
        display.line("\n".join(f"{name}: {problem}" for problem in problems) or f"{name}: {state}")
    return EXIT_FAILED if wrong else 0


def verified(name: str, folder: Path, must_be_here: bool, display: Display) -> tuple[list[str], str]:
    """(problems, the state in words) of one data set."""
    known, problems = CATALOGUE[name], list[str]()
    here = [file for file in known.files if (folder / file.name).exists()]
    for file in here:
        if why := fault(file, folder / file.name, display.progress):
            problems.append(f"{folder / file.name}: {why}")
    entries = [path for path in (folder / "decoded").glob("*") if path.is_dir()]
    decoded = sorted(path for path in entries if TEMPORARY not in path.name)  # the others are unfinished
    for entry in decoded:
        try:
            opened(entry)
        except (ValueError, OSError) as error:
            problems.append(f"{entry}: {error}")
    copies = plural(len(decoded), "decoded copy", "decoded copies")
    state = f"{len(here)} of {plural(len(known.files), 'file')}, {copies}"
    if (here or decoded or must_be_here) and len(here) < len(known.files) and not decoded:
        problems.append(f"incomplete: {state}; run_bench.py data fetch {name}")
    return problems, f"complete: {state}" if here or decoded else "not here"


def show(request: DataRequest, data_dir: Path, display: Display) -> int:
    """Print one data set's figures and class balance; draw a contact sheet of random images. Raises UserError."""
    if len(request.names) != 1:
        raise UserError(f"data show needs one name. Choices: {', '.join(NAMES)}, npz:FILE, folder:DIR")
    if request.seed < 0:
        raise UserError(f"--seed must be at least 0, not {request.seed}")
    if request.out is not None and (request.out.suffix not in SHEETS or request.out.is_dir()):
        raise UserError(f"--out must name a file that ends in {', '.join(SHEETS)}, not '{request.out}'")
    (name,) = request.names
    with display:
        dataset = load(name, data_dir, request.image_size, progress=display.progress, say=display.line)
    display.line("\n".join([dataset.ref.name, *(f"  {line}" for line in facts(dataset)), "", *balance(dataset)]))
    shown = [dataset.ref.name, dataset.ref.content_hash, dataset.arrays.classes]
    path = request.out or DEFAULT_STORE / "data" / f"{slug(dataset.ref.name)}-{content_id(shown)}.png"
    from bench.data.contact_sheet import contact_sheet

    write_atomically(path, contact_sheet(dataset, request.seed, path.suffix[1:]))
    display.line(f"\nwrote {path}")
    return 0


def facts(dataset: Dataset) -> list[str]:
    """A data set in lines: counts, size, channels, source, hashes, what was done to it."""
    arrays, ref, origin = dataset.arrays, dataset.ref, dataset.provenance
    mean, std = channel_stats(arrays.train_x[dataset.train_index])
    official = content_words(ref.name, origin) or ("the official content" if origin.official else "your own content")
    known, own = CATALOGUE.get(ref.name.partition(":")[0]), ":" in ref.name
    return [
        f"{len(dataset.train_index):,} training, {len(dataset.val_index):,} validation, {len(arrays.test_y):,} test "
        f"images of {ref.image_size} px, {plural(ref.num_classes, 'class', 'classes')}",
        f"channel mean {_shares(mean)}, standard deviation {_shares(std)}",
        f"from {origin.source} ({' '.join(part[:19] for part in origin.version.split())})",
        f"content {ref.content_hash[:16]}, split {ref.split_hash[:16]}: {official}",
        f"augmentation: {known.augmentation if known else OWN_AUGMENTATION if own else NO_FLIP}",
        *dataset.notes,
    ]


def _shares(values: list[float]) -> str:
    return " ".join(f"{value / 255:.4f}" for value in values)


def balance(dataset: Dataset) -> list[str]:
    """Images per class, the largest first; of many classes the largest and the smallest."""
    train, test = class_counts(dataset.arrays)
    order = sorted(range(len(train)), key=lambda i: (-train[i], i))
    names = [*map(distinct(dataset.arrays.classes).__getitem__, dataset.arrays.classes)]
    width = min(40, max(len("class"), *(len(name) for name in names)))
    rows = [f"{'class':{width}}  {'training':>9}  {'test':>7}"]
    shown = order if len(order) <= MOST_ROWS else [*order[: MOST_ROWS // 2], *order[-MOST_ROWS // 2 :]]
    for place, i in enumerate(shown):
        if place == MOST_ROWS // 2 and len(order) > MOST_ROWS:
            rows.append(f"… {len(order) - len(shown)} more")
        rows.append(f"{names[i][:width]:{width}}  {train[i]:>9,}  {test[i]:>7,}")
    least, most = min(train), max(train)
    if least == most:
        rows.append("all classes have equally many training images")
    elif least:
        rows.append(f"largest to smallest class: {most / least:.2f}")
    else:
        rows.append(f"{train.count(0)} of {len(train)} classes have no training images, so no model can learn them")
    return rows
