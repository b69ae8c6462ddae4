"""A class-balanced part of CIFAR-10 as an .npz file. Example: python benchmarks/subset.py cifar10.npz part.npz 1111 250

Takes the first images of each class in the data set's own order. For machines on which 10,000 test images take longer
than the training.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


def first_of_each(labels: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Indices of the first `count` images of every class, in their order. Raises ValueError where a class has fewer."""
    members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    if min(map(len, members)) < count:
        raise ValueError(f"a class has only {min(map(len, members))} images")
    return np.sort(np.concatenate([indices[:count] for indices in members]))


def write(source: Path, out: Path, train: int, test: int) -> None:
    """Write so many training and test images of each class."""
    with np.load(source, allow_pickle=False) as data:
        arrays = {name: data[name] for name in data.files}
    for part, count in (("train", train), ("test", test)):
        chosen = first_of_each(arrays[f"{part}_y"], count)
        arrays |= {f"{part}_{kind}": arrays[f"{part}_{kind}"][chosen] for kind in "xy"}
    np.savez_compressed(out, **arrays)
    print(f"wrote {out}: {len(arrays['train_y']):,} training and {len(arrays['test_y']):,} test images")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="train_x, train_y, test_x, test_y as .npz")
    parser.add_argument("out", type=Path)
    parser.add_argument("train", type=int, help="training images per class")
    parser.add_argument("test", type=int, help="test images per class")
    arguments = parser.parse_args()
    write(arguments.source, arguments.out, arguments.train, arguments.test)


if __name__ == "__main__":
    main()
