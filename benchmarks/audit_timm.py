"""How many timm families pass the FLOP audit. Example: python benchmarks/audit_timm.py --most 60

One model of each family (timm's modules), the first by name among those that look small, at 32 or else 64 px with
random weights. Downloads nothing. Prints one line per family and the operators left uncounted; LOG.md has the result.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.measure.cost import Cost, count
from models.torchvision_import import ensure_torchvision

ensure_torchvision()
import timm  # noqa: E402

SMALL = ("atto", "femto", "pico", "nano", "zepto", "micro", "xxt", "xxs", "xtiny", "tiny", "_ti", "xs", "mini", "small")
SMALL += ("_s", "18", "26", "b0", "_050", "_a0", "l16", "q", "_100", "")
SECONDS = 60


def pick(family: str) -> str:
    """The family's smallest model, as far as its name tells."""
    names = sorted(timm.list_models(module=family))
    return next(name for part in SMALL for name in names if part in name)


def measure(name: str) -> tuple[int, Cost]:
    """(image size, cost) at 32 px, or at 64 where the model refuses 32. Raises what the model raises."""
    for size in (32, 64):
        try:
            try:
                model = timm.create_model(name, num_classes=10, img_size=size)
            except TypeError:
                model = timm.create_model(name, num_classes=10)
            return size, count(model, size)
        except TimeoutError:
            raise
        except Exception:
            if size == 64:
                raise
    raise AssertionError


def alarm(*_: object) -> None:
    raise TimeoutError(f"over {SECONDS} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--most", type=int, default=1000, help="families at most")
    parser.add_argument("--skip", default="", help="families to leave out, by commas")
    arguments = parser.parse_args()
    families = [f for f in timm.list_modules() if f not in arguments.skip.split(",") and timm.list_models(module=f)]
    signal.signal(signal.SIGALRM, alarm)
    verdicts, unsupported = Counter[str](), Counter[str]()
    for family in families[: arguments.most]:
        name = pick(family)
        signal.alarm(SECONDS)
        try:
            size, cost = measure(name)
            audit = cost.audit
            verdict, detail = audit.verdict, f"{size} px  {cost.flops:>14,}  {audit.why or ' | '.join(audit.differing)}"
            unsupported.update(audit.unsupported)
            detail += f"  {', '.join(audit.unsupported)}"
        except Exception as error:
            verdict, detail = "not run", f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
        finally:
            signal.alarm(0)
        verdicts[verdict] += 1
        print(f"{verdict:<9} {family:<24} {name:<32} {detail}".rstrip(), flush=True)
    print(f"\n{sum(verdicts.values())} families: {dict(verdicts)}")
    print(f"operators left uncounted: {dict(unsupported.most_common())}")


if __name__ == "__main__":
    main()
