"""Do networks beat a linear model? Example: python benchmarks/sane.py fashion_mnist --results STORE

Fits scikit-learn's logistic regression to the same training images as the runs of a store and tests it on the same test
images. A network that does not beat it after a short training was given wrong images, labels or parts.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from bench.core.stats import share_interval
from bench.data import datasets
from bench.store.disk import Store
from bench.store.records import finished


def linear_accuracy(dataset: datasets.Dataset, iterations: int) -> float:
    """Test accuracy of multinomial logistic regression on standardised pixels, C chosen on the validation part."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    arrays = dataset.arrays
    train = arrays.train_x[dataset.train_index].reshape(len(dataset.train_index), -1).astype(np.float32)
    mean, std = train.mean(axis=0), train.std(axis=0) + 1e-3
    held = {
        "validation": (arrays.train_x[dataset.val_index], arrays.train_y[dataset.val_index]),
        "test": (arrays.test_x, arrays.test_y),
    }
    best = (0.0, 0.0, 0.0)
    for strength in (1e-4, 1e-3, 1e-2):
        model = LogisticRegression(C=strength, max_iter=iterations)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # early stopping is a regularisation, too
            model.fit((train - mean) / std, arrays.train_y[dataset.train_index])
        scores = [model.score((x.reshape(len(x), -1) - mean) / std, y) for x, y in held.values()]
        print(f"  logistic regression, C {strength:g}: validation {100 * scores[0]:.2f} %", flush=True)
        best = max(best, (scores[0], scores[1], strength))
    return best[1]


def main() -> None:
    """Print both, with Wilson's 95 % intervals for other test images."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset")
    parser.add_argument("--results", type=Path, required=True, help="the store of the runs")
    parser.add_argument("--data-dir", type=Path, default=datasets.default_data_dir())
    parser.add_argument("--iterations", type=int, default=60)
    arguments = parser.parse_args()
    dataset = datasets.load(arguments.dataset, arguments.data_dir)
    begin = time.perf_counter()
    linear = share_interval(linear_accuracy(dataset, arguments.iterations), len(dataset.arrays.test_y))
    print(f"{dataset.ref.name}: logistic regression {100 * linear.value:.2f} % ({100 * linear.low:.2f} to "
          f"{100 * linear.high:.2f}), {time.perf_counter() - begin:.0f} s")  # fmt: skip
    for run in finished(Store(arguments.results).runs()):
        if run.spec.data.content_hash == dataset.ref.content_hash:
            own = share_interval(run.metrics.accuracy, len(dataset.arrays.test_y))
            verdict = "above it" if own.low > linear.high else "NOT CLEARLY ABOVE IT"
            title = f"{run.spec.model}, seed {run.spec.seed}, {run.metrics.epochs:g} epochs"
            print(f"  {title}: {100 * own.value:.2f} % ({100 * own.low:.2f} to {100 * own.high:.2f}): {verdict}")


if __name__ == "__main__":
    main()
