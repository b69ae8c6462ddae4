"""Test images that are on this machine. Example: Gallery("digits", data_dir).test_part(run)

Nothing is ever downloaded; a sentence says why there is nothing to show.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bench.core.errors import UserError
from bench.core.files import cache_dir
from bench.data import datasets
from bench.data.arrays import Arrays
from bench.data.cache import opened
from bench.data.catalogue import CATALOGUE as PUBLISHED
from bench.data.on_disk import find, places
from bench.plan.presets import check_image_size
from bench.present.report.wording import display_name
from bench.store.records import FinishedRun

IMAGES = ("all", "digits", "none")  # data sets whose images are shown
TestPart = tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]


class Gallery:
    """Test images by data set, each looked for once. `images` is one of IMAGES."""

    def __init__(self, images: str, data_dir: Path) -> None:
        if images not in IMAGES:
            raise UserError(f"--images '{images}': choose from {', '.join(IMAGES)}")
        self.images, self.data_dir = images, data_dir
        self._parts: dict[tuple[str, int, str], TestPart | str] = {}

    def test_part(self, run: FinishedRun) -> TestPart | str:
        """The test images that a run saw, with their labels; or a sentence that says why there are none."""
        data = run.spec.data
        if self.images == "none":
            return "Images are left out (--images none)."
        if self.images == "digits" and data.name != "digits":
            return "Only images of the digits are shown here (--images all shows every data set on this machine)."
        key = (data.name, data.image_size, data.content_hash)
        if key not in self._parts:
            self._parts[key] = self._look_for(run)
        return self._parts[key]

    def _look_for(self, run: FinishedRun) -> TestPart | str:
        data, others = run.spec.data, False
        for source in sources(run, self.data_dir):
            try:
                check_image_size(data.image_size)  # a damaged record could ask for more than fits in memory
                with offline():
                    arrays, content = at_hand(source, self.data_dir, data.image_size)
            except Exception:  # a file may have been changed by anyone; the report goes on without its images
                continue
            if content == data.content_hash and arrays.test_x.shape[1:] == (data.image_size, data.image_size, 3):
                return arrays.test_x, arrays.test_y
            others = True
        if others:
            return f"The images of {display_name(data.name)} on this machine are not those of the run."
        return f"The images of {display_name(data.name)} are not on this machine, and a report downloads nothing."


def sources(run: FinishedRun, data_dir: Path) -> list[str]:
    """Where a run's images may be, as arguments of --dataset.

    Local files are looked for at the path that was given, of which older records keep the name only, then by that name
    in the current directory and in the data directory; the content decides whether it is the same.
    """
    name = run.spec.data.name
    kind, _, stem = (run.provenance.source if run.provenance else "").partition(":")
    places = [] if ":" in name and name != datasets.CINIC_WHOLE else [name]
    if kind not in ("npz", "folder"):
        kind, _, stem = name.partition(":")
        stem += ".npz" * (kind == "npz")
    file = Path(stem).name
    if kind in ("npz", "folder") and file not in ("", ".."):
        given = Path(run.provenance.path if run.provenance else "").expanduser()
        # A record may be a stranger's: only a file or folder of the data's own name is opened, and no pipe or device.
        here = [given] if given.name == file else []
        fits = Path.is_file if kind == "npz" else Path.is_dir
        found = [place for place in (*here, Path.cwd() / file, data_dir / file) if fits(place)]
        places += list(dict.fromkeys(f"{kind}:{place}" for place in found))
    return places


def at_hand(source: str, data_dir: Path, size: int) -> tuple[Arrays, str]:
    """Arrays and content hash of a source, without the network. Raises whatever keeps them from being read."""
    base = source.partition(":")[0]
    if source in PUBLISHED or source == datasets.CINIC_WHOLE:
        key, facts = datasets.decoded_key(base), PUBLISHED[base].facts
        own = size == facts.size and len(facts.mean) == 3  # as datasets.published names its copies
        for folder in (data_dir / base / "decoded", cache_dir() / base / "decoded"):
            with contextlib.suppress(FileNotFoundError, ValueError):
                return opened(folder / (key if own else f"{key}-{size}px"))
        fetched = all((data_dir / base / file.name).is_file() for file in PUBLISHED[base].files)
        if not fetched and not find(base, places(data_dir, base)):
            raise FileNotFoundError(source)
    source_data = datasets.open_source(source, data_dir, size, lambda what, done, of: None, lambda text: None)
    return source_data.arrays, source_data.content_hash


@contextlib.contextmanager
def offline() -> Iterator[None]:
    """Forbid connections: a file that is there but damaged must not be downloaded again either."""
    before = os.environ.get("SEVIT_OFFLINE")
    os.environ["SEVIT_OFFLINE"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["SEVIT_OFFLINE"]
        else:
            os.environ["SEVIT_OFFLINE"] = before
