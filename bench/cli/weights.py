"""How to load the weights that a run kept. Example: python run_bench.py weights seresnet-digits-smoke-s0"""

from __future__ import annotations

from bench.cli.readers import open_stores
from bench.cli.requests import OWN_DATA, WeightsRequest
from bench.core.errors import UserError
from bench.core.files import sha256
from bench.store.disk import WEIGHTS, Store
from bench.store.records import FinishedRun

EXAMPLE = """\
# {run.run_id}: test accuracy {accuracy!r} in its record. Run this in the folder of run_bench.py.
import json, torch
from safetensors import safe_open
from bench.data.datasets import DataSource
from models.registry import build

with safe_open({path!r}, "pt") as file:
    weights = {{name: file.get_tensor(name) for name in file.keys()}}
    mean, std = (torch.tensor(json.loads(file.metadata()[name]))[:, None, None] for name in ("mean", "std"))
model = build({run.spec.model!r}, num_classes={data.num_classes}, image_size={data.image_size}).eval()
model.load_state_dict(weights)
arrays = DataSource({source!r}, data_dir=None, image_size={data.image_size}, train_fraction=1.0).load().arrays
images = (torch.from_numpy(arrays.test_x).permute(0, 3, 1, 2) - mean) / std
with torch.no_grad():
    predicted = torch.cat([model(part).argmax(1) for part in images.split(256)])
print((predicted.numpy() == arrays.test_y).mean())
"""


def show(request: WeightsRequest) -> int:
    """Print an example that loads a run's weights and tests them; returns the exit code."""
    stores = open_stores(request.stores)
    every = [(store, run) for store in stores for run in store.runs() if isinstance(run, FinishedRun)]
    having = {run.run_id: (store, run) for store, run in every if WEIGHTS in run.files}
    if not having:
        raise UserError("no run here has kept its weights; add --keep-weights to `run` (and --rerun to finished runs)")
    matches = [request.run] if request.run in having else [name for name in having if request.run in name]
    if len(matches) != 1:
        problem = f"'{request.run}' is a part of several runs' ids" if matches else f"no weights of '{request.run}'"
        raise UserError(f"{problem if request.run else 'name a run'}; choose from {', '.join(matches or having)}")
    print(example(*having[matches[0]]), end="")
    return 0


def example(store: Store, run: FinishedRun) -> str:
    """Python code that loads the weights and prints the share of the test images that they get right.

    Raises UserError where the weights are not those of the record.
    """
    path = store.run_dir(run.spec) / WEIGHTS
    try:
        content = store.read_beside(run.run_id, WEIGHTS)
    except (OSError, ValueError) as error:
        raise UserError(f"'{path}' cannot be read ({error}); rerun the run with --keep-weights --rerun") from None
    if sha256(content) != run.files[WEIGHTS]:
        raise UserError(f"'{path}' is not the file that the run's record describes; train again with --rerun")
    data, kind = run.spec.data, run.spec.data.name.partition(":")[0]
    source = f"{kind}:{run.provenance.path}" if kind in OWN_DATA and run.provenance else data.name
    return EXAMPLE.format(run=run, data=data, source=source, path=str(path.resolve()), accuracy=run.metrics.accuracy)
