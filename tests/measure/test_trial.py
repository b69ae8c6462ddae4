"""A learning-rate trial. Example: python -m pytest tests/measure/test_trial.py"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from bench.data.datasets import Arrays, DataSource
from bench.drive.lr_search import SEED
from bench.measure.run import Images, run_trial
from bench.measure.supervise import to_end
from bench.plan.recipes import shared
from bench.plan.spec import RunSpec, Setting


def test_a_trial_never_reads_the_test_set(tiny_npz: Path) -> None:
    """Its dataset has none."""
    dataset = DataSource(f"npz:{tiny_npz}", Path(), None, 1.0).load()
    blind = Arrays(**{**dataset.arrays.__dict__, "test_x": None, "test_y": None})
    recipe = replace(shared(), epochs=0, budget="64samples", batch_size=16, precision="fp32", validations=1)
    spec = RunSpec("resnet20", dataset.ref, recipe, Setting(), "cpu", "here", SEED)
    done = to_end(run_trial(spec, Images(replace(dataset, arrays=blind)), lambda event: None))
    assert done.samples == 64
    assert 0 <= done.val_accuracy <= 1
    assert np.isfinite(done.val_loss)
