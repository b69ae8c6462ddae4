"""A class-balanced part of CIFAR-10 as an .npz file. Example: python benchmarks/subset.py cifar10.npz part.npz 1111 250

The first images of each class, in the data set's own order: so many of the training and of the test part. For machines
on which all 10,000 test images would take longer than the training.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


def first_of_each(labels: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Indices of the first `count` images of every class, in their order. Raises ValueError where a class has fewer."""
    members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    if min(map(len, members)) < count:
        raise ValueError(f"a class has only {min(map(len, members))} images")
    return np.sort(np.concatenate([indices[:count] for indices in members]))


def main(source: Path, out: Path, train: int, test: int) -> None:
    """Write the part."""
    with np.load(source, allow_pickle=False) as data:
        arrays = {name: data[name] for name in data.files}
    for part, count in (("train", train), ("test", test)):
        chosen = first_of_each(arrays[f"{part}_y"], count)
        arrays |= {f"{part}_{kind}": arrays[f"{part}_{kind}"][chosen] for kind in "xy"}
    np.savez_compressed(out, **arrays)
    print(f"wrote {out}: {len(arrays['train_y']):,} training and {len(arrays['test_y']):,} test images")


if __name__ == "__main__":
    if len(sys.argv) != 5:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
