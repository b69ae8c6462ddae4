"""Does the interval of the time to equal accuracy hold its promise? Example: python benchmarks/equal_accuracy.py

Simulates pairs of models whose true ratio is known and counts how often the 95 % interval contains it. A model's
validation accuracy rises as top - drop * exp(-spent / pace); seeds differ in top and pace, validations of one seed in
noise. The truth: what the follower spends, over the leader's geometric mean where its curve crosses the follower's
mean final accuracy. LOG.md has results.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench.analysis.equal_accuracy import Curve, Point, gain  # noqa: E402


@dataclass(frozen=True)
class World:
    """A pair of models; accuracies and their spreads as shares, `pace` and its spread on the logarithm."""

    name: str
    leader_top: float = 0.89
    follower_top: float = 0.76
    seed_top: float = 0.003  # standard deviation over seeds of the accuracy a curve rises to
    seed_pace: float = 0.05
    noise: float = 0.0  # of one validation
    validations: int = 20


WORLDS = (
    World("as on the H100"),
    World("seeds differ more", seed_top=0.01, seed_pace=0.15),
    World("ten validations", validations=10),
    World("validations with noise", noise=0.003),
    World("two points apart", follower_top=0.87),
    World("a thousand validations", validations=1000),
    World("a thousand, seeds differ more", seed_top=0.01, seed_pace=0.15, validations=1000),
    World("seeds hardly differ", seed_top=0.0005, seed_pace=0.005),
    # the curve crosses the target just after a validation, so that half of the seeds seem to pass a whole one earlier
    World("crossing at a validation", seed_top=0.0005, seed_pace=0.005, follower_top=0.7742),
)
DROP, END, PACE = 0.6, 54.0, 10.0  # accuracy below the top at the start; seconds of a training; pace in seconds


def draw(rng: random.Random, world: World, top: float) -> Curve:
    """One seed's validations."""
    own_top, pace = rng.gauss(top, world.seed_top), PACE * math.exp(rng.gauss(0, world.seed_pace))
    spent = [END * (i + 1) / world.validations for i in range(world.validations)]
    return [Point(at, own_top - DROP * math.exp(-at / pace) + rng.gauss(0, world.noise)) for at in spent]


def truth(world: World, rng: random.Random, seeds: int = 10_000) -> float:
    """The true ratio, from many seeds."""
    still = World("", seed_top=world.seed_top, seed_pace=world.seed_pace, validations=1)
    target = sum(draw(rng, still, world.follower_top)[-1].accuracy for _ in range(seeds)) / seeds
    logs = [
        math.log(END / (PACE * math.exp(rng.gauss(0, world.seed_pace))))
        - math.log(math.log(DROP / (rng.gauss(world.leader_top, world.seed_top) - target)))
        for _ in range(seeds)
    ]
    return math.exp(sum(logs) / seeds)


def coverage(world: World, seeds: int, sessions: int, seed: int = 0) -> tuple[float, float]:
    """(share of the intervals that contain the truth, share of sessions that have one)."""
    rng = random.Random(seed)
    true, covered, given = truth(world, rng), 0, 0
    for _ in range(sessions):
        leader, follower = (
            [draw(rng, world, top) for _ in range(seeds)] for top in (world.leader_top, world.follower_top)
        )
        ratio = gain(leader, follower).ratio
        given += not math.isnan(ratio.low)
        covered += ratio.low <= true <= ratio.high
    return covered / max(given, 1), given / sessions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, default=2000)
    sessions = parser.parse_args().sessions
    for world in WORLDS:
        shares = [coverage(world, seeds, sessions) for seeds in (2, 3, 5, 10)]
        text = "  ".join(f"{100 * held:.1f} % ({100 * given:.0f} % have one)" for held, given in shares)
        print(f"{world.name:32}{text}")


if __name__ == "__main__":
    main()
