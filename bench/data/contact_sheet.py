"""A data set at a glance. Example: contact_sheet(dataset, seed=0, kind="png")"""

from __future__ import annotations

import io
import warnings

import numpy as np

from bench.core.files import distinct, inert
from bench.data.arrays import class_counts
from bench.data.datasets import Dataset

ROWS, COLUMNS = 20, 12  # at most: classes, and random images of each


def contact_sheet(dataset: Dataset, seed: int, kind: str) -> bytes:
    """Random training images, one row per class, beside its number of images; of many classes, a random choice.

    `kind`: png, pdf, svg or jpg.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    arrays, rng = dataset.arrays, np.random.default_rng(seed)
    train, test = class_counts(arrays)
    classes = np.arange(len(train))
    if len(classes) > ROWS:
        classes = np.sort(rng.choice(classes, ROWS, replace=False))
    figure, (sheet, bars) = plt.subplots(
        1, 2, figsize=(9, 0.9 + 0.42 * len(classes)), width_ratios=(COLUMNS, 5), sharey=True, layout="constrained"
    )
    sheet.imshow(_mosaic(dataset, classes, rng), extent=(0, COLUMNS, len(classes), 0), interpolation="nearest")
    shown = distinct(arrays.classes)
    names = [_short(shown[arrays.classes[i]]) for i in classes]
    sheet.set_yticks(np.arange(len(classes)) + 0.5, names, parse_math=False)
    sheet.set_xticks([])
    sheet.tick_params(length=0)
    sheet.spines[:].set_visible(False)
    sheet.set_title(f"{len(classes)} of {len(train)} classes, random training images" if len(classes) < len(train)
                    else "random training images", fontsize="medium")  # fmt: skip
    middle = np.arange(len(classes)) + 0.5
    bars.barh(middle - 0.18, [train[i] for i in classes], 0.34, color="#0072B2", label="training and validation")
    bars.barh(middle + 0.18, [test[i] for i in classes], 0.34, color="#E69F00", label="test")
    bars.set_xlim(left=0)
    bars.set_title("images per class", fontsize="medium")
    bars.tick_params(axis="y", length=0)
    bars.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(3, integer=True))
    bars.xaxis.set_major_formatter("{x:,.0f}")
    for side in ("top", "right"):
        bars.spines[side].set_visible(False)
    figure.suptitle(
        f"{inert(dataset.ref.name)} · {dataset.ref.image_size} px · content {dataset.ref.content_hash[:12]}",
        parse_math=False,
    )
    figure.legend(*bars.get_legend_handles_labels(), loc="outside lower right", ncols=2, frameon=False)
    out = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # a name in a script that no installed font has
        figure.savefig(out, dpi=150, format=kind)
    plt.close(figure)
    return out.getvalue()


def _mosaic(dataset: Dataset, classes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(classes * cell, COLUMNS * cell, 3) uint8; white between images, and where a class has fewer than COLUMNS."""
    images, labels, side = dataset.arrays.train_x, dataset.arrays.train_y, dataset.ref.image_size
    cell = side + max(1, side // 16)
    out = np.full((len(classes) * cell, COLUMNS * cell, 3), 255, np.uint8)
    for row, label in enumerate(classes):
        members = np.flatnonzero(labels == label)
        for column, i in enumerate(rng.permutation(members)[:COLUMNS]):
            out[row * cell : row * cell + side, column * cell : column * cell + side] = images[i]
    return out


def _short(name: str) -> str:
    return name if len(name) <= 22 else f"{name[:21]}…"
