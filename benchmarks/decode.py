"""How long Tiny-ImageNet takes to decode, and to open again. Example: python benchmarks/decode.py --classes 200

Makes an archive in its layout from noise that compresses like photographs (500 training and 50 test images per class),
decodes it alternately on one core and on all, and opens the decoded copy, as every later start does.
"""

from __future__ import annotations

import argparse
import io
import statistics
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from unittest.mock import patch

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from bench.data import decode
from bench.data.arrays import Arrays, Facts
from bench.data.cache import Allocate, cached, opened
from bench.data.fetch import silent

ROOT = "tiny-imagenet-200"


def write_archive(path: Path, classes: int) -> None:
    """A zip in Tiny-ImageNet's layout; each class repeats one set of 50 images."""
    rng = np.random.default_rng(0)
    wnids = [f"n{i:08}" for i in range(classes)]
    jpegs = []
    for _ in range(50):
        # blurred noise: about 2 kB as JPEG, as the photographs are
        coarse = Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).resize((64, 64), Image.Resampling.BICUBIC)
        out = io.BytesIO()
        coarse.save(out, "JPEG", quality=90)
        jpegs.append(out.getvalue())
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{ROOT}/wnids.txt", "\n".join(wnids))
        archive.writestr(f"{ROOT}/words.txt", "")
        for wnid in wnids:
            for number in range(500):
                archive.writestr(f"{ROOT}/train/{wnid}/images/{wnid}_{number}.JPEG", jpegs[number % 50])
        rows = [f"val_{i}.JPEG\t{wnids[i % classes]}" for i in range(50 * classes)]
        archive.writestr(f"{ROOT}/val/val_annotations.txt", "\n".join(rows))
        for i in range(50 * classes):
            archive.writestr(f"{ROOT}/val/images/val_{i}.JPEG", jpegs[i % 50])


def seconds_to_decode(archive: Path, folder: Path, facts: Facts, cores: int) -> float:
    """Decode into a new copy below `folder`."""

    def make(allocate: Allocate) -> Arrays:
        return decode.tiny_imagenet({archive.name: archive}, facts, allocate, silent)

    begin = time.perf_counter()
    with patch("bench.data.decode.cores", lambda: cores):
        cached([folder], f"{cores}-{time.time_ns()}", make, print, "these images")
    return time.perf_counter() - begin


def main() -> None:
    """Print the times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, default=200, help="with 550 images each (default 200)")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    cores = decode.cores()
    facts = Facts(500 * arguments.classes, 50 * arguments.classes, arguments.classes, 64, (0.5,) * 3, (0.2,) * 3)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        archive = folder / "tiny-imagenet-200.zip"
        write_archive(archive, arguments.classes)
        print(f"{550 * arguments.classes:,} images of 64 px, an archive of {archive.stat().st_size / 1e6:.0f} MB")
        took: dict[int, list[float]] = {1: [], cores: []}
        for turn in range(arguments.rounds):
            for count in sorted(took, reverse=bool(turn % 2)):
                took[count].append(seconds_to_decode(archive, folder / "decoded", facts, count))
                print(f"  {count} core(s): {took[count][-1]:.1f} s", flush=True)
        ratios = [one / all_ for one, all_ in zip(took[1], took[cores], strict=True)]
        print(f"all {cores} cores are {statistics.median(ratios):.2f} times as fast as one ({min(ratios):.2f} to "
              f"{max(ratios):.2f}, n = {len(ratios)})")  # fmt: skip
        entry = next(path for path in (folder / "decoded").iterdir() if path.is_dir())
        again = []
        for _ in range(5):
            begin = time.perf_counter()
            opened(entry)
            again.append(time.perf_counter() - begin)
        print(f"opened again, with every byte checked: {', '.join(f'{s:.2f}' for s in again)} s")


if __name__ == "__main__":
    main()
