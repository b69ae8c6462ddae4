"""`run_bench.py data`: fetch, check, list and look at data sets. Example: python run_bench.py data show digits"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from urllib.parse import urlsplit

from bench.core.errors import EXIT_FAILED, UserError
from bench.core.files import TEMPORARY, inert, write_atomically
from bench.data.arrays import channel_stats, class_counts
from bench.data.cache import opened
from bench.data.catalogue import CATALOGUE, NO_FLIP
from bench.data.datasets import DIGITS_SUMMARY, NAMES, Dataset, decoded_key, default_data_dir, load
from bench.data.fetch import fault
from bench.data.provenance import content_words
from bench.plan.spec import slug
from bench.present.screen.progress import Display, make_console
from models.registry import suggest

OWN_AUGMENTATION = "as the recipe says; where a mirrored image means something else, use a recipe with flip = false"
SHEETS = (".png", ".pdf", ".svg", ".jpg")
MOST_ROWS = 20  # of a class balance on the terminal, and of a contact sheet


def run(arguments: argparse.Namespace) -> int:
    """List, fetch, verify or show; returns the exit code. Raises UserError."""
    data_dir = arguments.data_dir or default_data_dir()
    display = Display(make_console())
    return {"list": show_list, "fetch": fetch_all, "verify": verify, "show": show}[arguments.action](
        arguments, data_dir, display
    )


def show_list(arguments: argparse.Namespace, data_dir: Path, display: Display) -> int:
    """Every data set: what it is, what is here of it, its licence and source."""
    if arguments.names:
        raise UserError("data list takes no names; data show NAME tells more about one")
    if arguments.format == "markdown":
        print("\n".join(markdown()))
        return 0
    print(f"in {data_dir} (--data-dir or SEVIT_DATA)\n")
    print(f"digits         {DIGITS_SUMMARY}\n{'':15}here: inside scikit-learn; BSD-3-Clause")
    for name, known in CATALOGUE.items():
        folder = data_dir / name
        in_place = [file for file in known.files if (folder / file.name).is_file()]
        if (folder / "decoded" / decoded_key(name)).is_dir():
            state = "here, decoded"
        elif len(in_place) == len(known.files):
            state = "fetched, not yet decoded"
        else:
            state = f"not here; {sum(file.size for file in known.files) / 1e6:,.0f} MB to fetch"
        print(
            f"{name:14} {known.summary}\n{'':15}{state}\n{'':15}{known.cite}; licence: {known.licence}\n"
            f"{'':15}augmentation: {known.augmentation}"
        )
    print(
        "npz:FILE       train_x, train_y, test_x, test_y[, classes]: uint8 images, integer labels\n"
        "folder:DIR     train/CLASS/* and test/CLASS/* (or val/CLASS/*) of image files"
    )
    return 0


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


def published_names(names: list[str], display: Display) -> list[str]:
    """Names of the catalogue as they are, without digits. Raises UserError that suggests what was meant."""
    for name in names:
        if name not in NAMES:
            raise UserError(f"unknown dataset '{name}'{suggest(name, NAMES)} Choices: {', '.join(NAMES)}")
        if name not in CATALOGUE:
            display.line(f"{name}: part of a package that is installed, nothing to fetch")
    return [name for name in names if name in CATALOGUE]


def fetch_all(arguments: argparse.Namespace, data_dir: Path, display: Display) -> int:
    """Fetch and decode data sets, so that no later command needs a network. Raises UserError."""
    if not arguments.names:
        raise UserError(f"data fetch needs names. Choices: {', '.join(CATALOGUE)}")
    for name in published_names(arguments.names, display):
        with display:
            dataset = load(name, data_dir, arguments.image_size, progress=display.progress, say=display.line)
        display.line("\n".join([name, *(f"  {line}" for line in facts(dataset))]))
    return 0


def verify(arguments: argparse.Namespace, data_dir: Path, display: Display) -> int:
    """Read every byte of what is here, downloads and decoded copies, and hold it against its checksum; 1 if not whole.

    Repairs nothing: the next use of a data set does.
    """
    wrong = 0
    for name in published_names(arguments.names, display) if arguments.names else CATALOGUE:
        folder, known, lines = data_dir / name, CATALOGUE[name], list[str]()
        with display:
            here = [file for file in known.files if (folder / file.name).exists()]
            for file in here:
                if why := fault(file, folder / file.name, display.progress):
                    lines.append(f"{folder / file.name}: {why}")
            entries = [path for path in (folder / "decoded").glob("*") if path.is_dir()]
            decoded = sorted(path for path in entries if TEMPORARY not in path.name)  # those are being made, or left
            for entry in decoded:
                try:
                    opened(entry)
                except (ValueError, OSError) as error:
                    lines.append(f"{entry}: {error}")
        state = f"{len(here)} of {len(known.files)} files, {len(decoded)} decoded copies"
        if (here or decoded or arguments.names) and len(here) < len(known.files) and not decoded:
            lines.append(f"not whole: {state}; run_bench.py data fetch {name}")
        state = f"whole: {state}" if here or decoded else "not here"
        wrong += len(lines)
        display.line("\n".join(f"{name}: {line}" for line in lines) or f"{name}: {state}")
    return EXIT_FAILED if wrong else 0


def show(arguments: argparse.Namespace, data_dir: Path, display: Display) -> int:
    """Numbers of one data set, the balance of its classes, and a contact sheet of random images. Raises UserError."""
    if len(arguments.names) != 1:
        raise UserError(f"data show needs one name. Choices: {', '.join(NAMES)}, npz:FILE, folder:DIR")
    if arguments.seed < 0:
        raise UserError(f"--seed must be at least 0, not {arguments.seed}")
    if arguments.out is not None and (arguments.out.suffix not in SHEETS or arguments.out.is_dir()):
        raise UserError(f"--out must name a file that ends in {', '.join(SHEETS)}, not '{arguments.out}'")
    (name,) = arguments.names
    with display:
        dataset = load(name, data_dir, arguments.image_size, progress=display.progress, say=display.line)
    display.line("\n".join([dataset.ref.name, *(f"  {line}" for line in facts(dataset)), "", *balance(dataset)]))
    path = arguments.out or Path("results/local/data") / f"{slug(dataset.ref.name)}-{dataset.ref.content_hash[:8]}.png"
    from bench.data.contact_sheet import contact_sheet

    write_atomically(path, contact_sheet(dataset, arguments.seed, path.suffix[1:]))
    display.line(f"\nwrote {path}")
    return 0


def facts(dataset: Dataset) -> list[str]:
    """What a data set is, in lines: numbers, size, channels, source, hashes, what was done to it."""
    arrays, ref, origin = dataset.arrays, dataset.ref, dataset.provenance
    mean, std = channel_stats(arrays.train_x[dataset.train_index])
    official = content_words(ref.name, asdict(origin)) or ("the official content" if origin.official else "one's own")
    known, own = CATALOGUE.get(ref.name.partition(":")[0]), ":" in ref.name
    return [
        f"{len(dataset.train_index):,} training, {len(dataset.val_index):,} validation, {len(arrays.test_y):,} test "
        f"images of {ref.image_size} px, {ref.num_classes} classes",
        f"channel mean {_shares(mean)}, standard deviation {_shares(std)}",
        f"from {origin.source} ({' '.join(part[:19] for part in origin.version.split())})",
        f"content {ref.content_hash[:16]}, split {ref.split_hash[:16]}: {official}",
        f"augmentation: {known.augmentation if known else OWN_AUGMENTATION if own else NO_FLIP}",
        *dataset.notes,
    ]


def _shares(values: list[float]) -> str:
    return " ".join(f"{value / 255:.4f}" for value in values)


def balance(dataset: Dataset) -> list[str]:
    """Images of each class, the largest first; many classes in short."""
    train, test = class_counts(dataset.arrays)
    order = sorted(range(len(train)), key=lambda i: (-train[i], i))
    names = [inert(name) for name in dataset.arrays.classes]
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
        rows.append(f"{train.count(0)} of {len(train)} classes have no training images: nobody can learn them")
    return rows
