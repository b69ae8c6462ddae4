"""What fits into a limit: by hand, and by a fake clock on which a whole session ends when it should."""

from __future__ import annotations

import pytest

from bench.plan.session_plan import EXTRAS, Called, Costs, guess, plan_rest, starts_to_choose, task_seconds

EXTRA_SECONDS = {"limits": 5.0, "twice": 10.0, "energy": 12.0, "groups": 8.0}


def test_what_is_left_out_stands_last() -> None:
    """A start takes 10 s and a block 2 s: three starts of three blocks take 2 x 10 + 3 x 6 = 38 s."""
    costs = Costs(10.0, 2.0, EXTRA_SECONDS)

    def fits(left: float) -> tuple[int, tuple[str, ...]]:
        plan = plan_rest(left, costs, (3, 1), pilot=4)
        return plan.starts, plan.extras

    assert fits(0) == (1, ())
    assert fits(10.9) == (1, ())
    assert fits(11) == (1, ("limits",))
    assert fits(21) == (1, ("limits", "twice"))
    assert fits(33) == (1, ("limits", "twice", "energy"))
    assert fits(37.9) == (1, ("limits", "twice", "energy")), "the profiler only beside the whole pilot, 8 s"
    assert fits(38) == (3, ()), "three starts before any extra"
    assert fits(65) == (3, ("limits", "twice", "energy"))
    assert fits(78.9) == (3, ("limits", "twice", "energy"))
    assert fits(79) == (3, tuple(EXTRAS))


def test_blocks_have_what_remains() -> None:
    plan = plan_rest(100.0, Costs(10.0, 2.0, {"limits": 5.0}), (3, 1), pilot=4)
    assert (plan.starts, plan.block_seconds) == (3, 25.0)
    assert plan_rest(-3.0, Costs(10.0, 2.0), (2,), pilot=4).block_seconds == 0.0
    assert [starts_to_choose(n) for n in (1, 3, 5)] == [(1,), (3, 1), (5, 3, 1)]


def test_a_task_is_guessed_from_those_that_ran() -> None:
    """Twice the images take twice as long, inference a third of training; what compiling took comes again."""
    known = [Called("train", 128, 51.0, 1.0)]
    assert guess(known, "train", 256) == Called("train", 256, 52.0, 2.0)
    assert guess(known, "inference", 128).later == pytest.approx(1 / 3)
    assert guess(known, "latency", 1).later == pytest.approx(0.1 / 3), "launches take at least a tenth"
    measured = [*known, Called("inference", 32, 0.1, 0.1), Called("latency", 1, 0.02, 0.02)]
    assert guess(measured, "inference", 64) == Called("inference", 64, 0.2, 0.2), "of the same kind where there is one"
    assert guess([Called("latency", 1, 0.02, 0.02)], "train", 2).later == pytest.approx(0.12)
    assert guess([], "train", 8) == Called("train", 8, 0.0, 0.0)
    assert task_seconds(Called("train", 8, 3.0, 1.0), 0.2) == 7.0
    assert task_seconds(Called("train", 8, 0.3, 0.1), 0.2) == pytest.approx(1.0)


@pytest.mark.parametrize("limit", [20.0, 60.0, 180.0, 600.0])
@pytest.mark.parametrize("block", [0.5, 2.0, 4.5])
def test_a_session_ends_within_a_tenth_of_its_limit(limit: float, block: float) -> None:
    """Planned at each process start from what the ones before took, on a clock on which blocks take a little longer."""
    start, clock, starts, extras = 5.0, 5.0, 3, tuple[str, ...]()
    index = 0
    while index < starts:
        choices = (3, 1) if index == 0 else (starts - index,)
        costs = Costs(start, block, EXTRA_SECONDS)
        plan = plan_rest(limit - clock, costs, choices, pilot=4)
        starts, extras = index + plan.starts, plan.extras
        began, blocks = clock, 0
        while blocks < 3 or (clock - began) * (blocks + 1) / blocks <= plan.block_seconds:
            clock += block * 1.02
            blocks += 1
        index += 1
        clock += start if index < starts else 0.0
    clock += sum(EXTRA_SECONDS[name] for name in extras)
    assert 0.6 * limit < clock < 1.1 * limit
    assert starts == (3 if limit - 5 >= 2 * start + 9 * block else 1)
