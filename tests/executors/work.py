"""What child processes of test_child.py do. Example: looks(report)"""

from __future__ import annotations

import atexit
import hashlib
import os
import sys
import threading
import time
from pathlib import Path

from bench.core.errors import Interrupted
from bench.core.events import Described, EpochDone, Note, Report, Tick


def looks(report: Report) -> None:
    """Its process, as it finds it."""
    torch = sys.modules.get("torch")
    loaded = torch is not None
    import torch

    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{os.getppid()}/status").read_text().splitlines())
    report(
        Described(
            {
                "preloaded": loaded,
                "cuda": torch.cuda.is_initialized() or torch.cuda._is_in_bad_fork(),
                "threads": torch.get_num_threads(),
                "parent": os.getppid(),
                "parent_threads": int(status["Threads"]),
                "folder": str(Path.cwd()),
                **{name: os.environ.get(name) for name in ("ADDED", "CHANGED", "REMOVED", "PYTHONSAFEPATH")},
            }
        )
    )


def misses(report: Report) -> None:
    """What could not be imported before."""
    loaded = set(sys.modules)
    from bench.measure import preload

    report(Note(" ".join(sorted({*preload.MODULES} - loaded))))


def speaks(report: Report) -> None:
    print("to standard output")
    print("to standard error", file=sys.stderr)


def trains(report: Report) -> None:
    """The hash of a small model's weights after three steps."""
    import torch

    from models import registry

    torch.manual_seed(0)
    model = registry.build("resnet20", 10, 32)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    images, labels = torch.randn(32, 3, 32, 32), torch.arange(32) % 10
    for _ in range(3):
        loss = torch.nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    content = b"".join(parameter.detach().numpy().tobytes() for parameter in model.parameters())
    report(Note(hashlib.sha256(content).hexdigest()))


def draws(report: Report) -> None:
    """Numbers of generators that nobody has seeded."""
    import random

    import numpy as np

    report(Note(f"{random.random()} {np.random.rand()}"))


def builds(report: Report, name: str) -> None:
    from models import registry

    report(Note(str(registry.build(name, 10, 32))))


def uses_gpu(report: Report) -> None:
    """A sum on the GPU, and what the server has open of NVIDIA's devices."""
    import torch

    opened = [os.readlink(path) for path in Path(f"/proc/{os.getppid()}/fd").iterdir()]
    report(Note(f"{torch.ones(3, device='cuda').sum().item()} {sum('nvidia' in path for path in opened)}"))


def exits(report: Report, code: int) -> None:
    sys.exit(code)


def saves(report: Report, folder: Path) -> None:
    """Says that it has started, and saves when it is asked to stop."""
    (folder / "started").write_text(str(os.getppid()))
    try:
        while True:
            report(Tick())
            time.sleep(0.01)
    except Interrupted:
        (folder / "saved").touch()
        raise


def sleeps(report: Report, path: Path) -> None:
    """Sleeps in a single call, in which nobody can reach it."""
    path.write_text(f"{os.getpid()} {os.getppid()}")
    time.sleep(1000)


def lies(report: Report) -> None:
    report(EpochDone(None))  # type: ignore[arg-type]


def stays(report: Report, how: str) -> None:
    """Leaves something behind that never ends."""
    if how == "atexit":
        atexit.register(time.sleep, 1e6)
        return
    threading.Thread(target=time.sleep, args=(1e6,)).start()
    if how == "exits":
        sys.exit()


def fails(report: Report) -> None:
    """With a text that is no UTF-8."""
    report(Note("on \udcff"))
    raise ValueError("bad \udcff name")


def commands(report: Report) -> None:
    """Prints what a terminal would obey."""
    os.write(2, b"\x1b[31mred\x1b[0m \x1b]0;title\x07\x1b[2Jclear\r\nnext \x9b5m \xc2\x9b\tline")


def floods(report: Report) -> None:
    """Prints more than is passed on."""
    for _ in range(300):
        os.write(1, b"0123456789abcdef" * 1024)


def raises_base(report: Report) -> None:
    class Own(BaseException):
        pass

    raise Own("not an\x1b[31m Exception")


def prints(report: Report) -> None:
    """Prints, by Python and from below it, and reports the arguments that it sees."""
    print("in Python")
    os.write(1, b"below it\n")
    report(Note(" ".join(sys.argv[1:])))
