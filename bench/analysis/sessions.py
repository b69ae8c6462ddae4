"""What a speed session says about itself. Example: why_ended(session), turns("seresnet", "vit_tiny", session)"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby

from bench.core.stats import Interval
from bench.core.text import duration, plural
from bench.store.records import Session

STOPPED = {
    "narrow": "enough to know every ratio within ±{within:g} %",
    "limit": "stopped by the time limit; ±{within:g} % would have taken {planned}",
    "blocks": "stopped before every ratio was known within ±{within:g} %",
    "alone": "one model, so no ratios",
}


def setting_of(session: Session) -> str:
    """The setting of all its models, or `tuned`."""
    return session.key.policy.removeprefix("identical:")


def why_ended(session: Session) -> str:
    """Why a session ended, for its note."""
    within = 100 * (0.02 if session.half_width is None else session.half_width)
    planned = plural(session.planned_blocks or session.blocks, "block")
    stopped = STOPPED[session.stopped].format(within=within, planned=planned)
    return f"{stopped} as far as blocks decide" if session.starts > 1 and session.stopped != "limit" else stopped


def about_starts(session: Session) -> str:
    """What a reader must know of the process starts, in a sentence; nothing of one model alone."""
    if session.stopped == "alone":
        return ""
    if session.starts > 1:
        return (
            f"In {session.starts} process starts, each building the models in another order: intervals are over starts "
            "and blocks."
        )
    return (
        "One process start: two copies of one network differ by about 1 % for the life of a process, so differences "
        "under 2 % give no verdict."
    )


def about_limit(session: Session) -> str:
    """What the limit left no room for, in a sentence."""
    if not session.left_out or session.limit_seconds is None:
        return ""
    parts = list(session.left_out)
    last = f"{', '.join(parts[:-1])} and {parts[-1]}" if parts[1:] else parts[0]
    return f"Left out, as the limit of {duration(session.limit_seconds)} had no room: {last}."


# --- speed is a curve ------------------------------------------------------------------------------------------------


def train_sizes(session: Session) -> list[int]:
    """The batch sizes at which training steps were timed."""
    return sorted({sample.batch_size for sample in session.samples if sample.kind == "train"})


def turns(a: str, b: str, session: Session) -> str:
    """Where the order of two models turns with the batch size of the training step; "" where it was not seen to."""
    return order_by_batch(a, b, {size: session.ratio(b, a, "train", size) for size in train_sizes(session)})


def order_by_batch(a: str, b: str, ratios: Mapping[int, Interval]) -> str:
    """`vit_tiny is faster up to 256, seresnet from 512 on`, from A's speed over B's at each batch size.

    Sizes at which the interval includes 1 (or is nan) are on nobody's side. "" where one model leads at all others.
    """
    sides = {size: a if r.low > 1 else b if r.high < 1 else "" for size, r in sorted(ratios.items())}
    known = [(size, name) for size, name in sides.items() if name]
    runs = [(name, [size for size, _ in run]) for name, run in groupby(known, key=lambda pair: pair[1])]
    if len(runs) < 2:
        return ""
    if len(runs) == 2:
        (first, below), (second, above) = runs
        return f"{first} is faster up to {below[-1]}, {second} from {above[0]} on"
    return "; ".join(f"{name} is faster at {_range(sizes)}" for name, sizes in runs)


def _range(sizes: list[int]) -> str:
    return str(sizes[0]) if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
