"""How much faster than a plain loop? Example: python benchmarks/versus_plain.py --data cifar10.npz --profile

Compares our whole training path with the loop that most CIFAR repositories have, on real images. First steps, with
compilation, are reported separately. benchmarks/duel.py describes the method, benchmarks/contenders.py the loops.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.contenders import SETTINGS, Task  # noqa: E402
from benchmarks.duel import Duel, at_least, describe, make_parser, run, save, show  # noqa: E402

NAMES = ("plain", "ours")
# (required, desired): ratios on a CPU; images/s on an H100
CPU_RATIOS = {"seresnet": (2.7, 3.5), "vit_tiny": (2.5, 3.0)}
H100_IMAGES_PER_SECOND = {"seresnet": (50_000, 90_000), "vit_tiny": (40_000, 65_000)}
FEWEST_IMAGES = 6_400


def judge(task: Task, duel: Duel) -> str:
    """The ratio of speeds, and whether it meets the targets."""
    speed = duel.ratio()  # seconds of plain by seconds of ours
    lines = [f"  ours is {show(speed, duel.unit())} times as fast"]
    device = duel.starts[0].facts["ours"]["device_name"]
    if task.device == "cpu" and task.model in CPU_RATIOS:
        required, desired = CPU_RATIOS[task.model]
        lines.append(
            f"  required {required}: {at_least(speed, required)}; desired {desired}: {at_least(speed, desired)}"
        )
    elif "H100" in device and task.model in H100_IMAGES_PER_SECOND:
        low, high = H100_IMAGES_PER_SECOND[task.model]
        rate = task.batch_size / duel.step_seconds("ours")
        lines.append(
            f"  good on an H100: {low:,} to {high:,} images/s; ours {rate:,.0f}, {100 * rate / low:.0f} % of it"
        )
    images = duel.plan.starts * duel.plan.pairs * duel.plan.steps * task.batch_size
    if images < FEWEST_IMAGES:
        lines.append(f"  only {images:,} images: a result needs at least {FEWEST_IMAGES:,}")
    return "\n".join(lines)


def profile(task: Task) -> None:
    """Print where a step of ours spends its time, and what share of it the device's limits explain."""
    import time

    import torch

    from bench.measure import limits
    from bench.measure.cost import train_flops
    from bench.measure.device import device_name, fix_numerics
    from bench.measure.session import build, training_task
    from bench.measure.timing import stopwatch_of
    from bench.plan.recipes import shared
    from bench.plan.spec import SessionSpec, Setting

    device = torch.device(task.device)
    fix_numerics(deterministic=False)
    recipe = replace(shared(), batch_size=task.batch_size, precision=task.precision, crop_padding=4)
    setting: Setting = Setting(**SETTINGS[task.setting])
    spec = SessionSpec(
        models=((task.model, ""),), recipe=recipe, setting=setting, device=task.device,
        device_name=device_name(device), image_size=32, num_classes=10, reference=task.model,
    )  # fmt: skip
    model, tasks = build(spec, task.model)
    step = training_task(tasks)
    step.prepare()
    stopwatch = stopwatch_of(device, time.perf_counter)
    stopwatch(step.call, 2)
    seconds = min(stopwatch(step.call, 1) for _ in range(5))
    groups = limits.explain(step.call, device)
    total = sum(groups.values())
    print(f"  a training step of ours, with its images on the device: {1000 * seconds:.1f} ms")
    for group, spent in groups.items():
        print(f"    {group:<20}{1000 * spent:>10.1f} ms{100 * spent / total:>7.1f} %")
    flops = train_flops(model, 32)
    if flops is None:
        print("    its floating-point operations could not be counted")
        return
    limit = limits.bound(
        limits.count_work(step.call, flops * task.batch_size), ceilings(recipe, device), task.batch_size, seconds
    )
    shares = ", ".join(f"{name} {100 * share:.0f} %" for name, share in limit.shares.items())
    print(f"    each limit alone would take {shares} of the step (docs/measurement.md)")


def ceilings(recipe: Any, device: Any) -> Any:
    """The device's best rates."""
    import time

    from bench.measure import limits
    from bench.measure.timing import stopwatch_of

    batches = limits.random_batches(recipe, 10, 32, device)
    return limits.measure_ceilings(device, recipe.precision, batches, stopwatch_of(device, time.perf_counter))


def main() -> None:
    parser = make_parser(__doc__ or "", "seresnet,vit_tiny", starts=3, pairs=2)
    parser.add_argument("--profile", action="store_true", help="also print where a step of ours spends its time")
    arguments = parser.parse_args()
    duels: dict[str, tuple[Task, Duel]] = {}
    for model in arguments.models.split(","):
        task, duel = duels[model] = run(arguments, NAMES, model)
        print(describe(task, duel), judge(task, duel), sep="\n", flush=True)
        save(arguments.save, duels)
        if arguments.profile:
            profile(task)


if __name__ == "__main__":
    main()
