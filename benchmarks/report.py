"""The size of a report, and how soon it can be used. Example: python benchmarks/report.py --runs 500 --times 7

A store of synthetic runs (ten models, five data sets, ten epochs, a thorough speed session) becomes a page, which
Chromium opens from disk several times, each in a fresh profile: seconds from the start of navigation until the table
sorts and the charts in sight can be used. Prints every sample, the median and the extremes.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from playwright.sync_api import sync_playwright  # noqa: E402

from bench.present.report.page import size_text, write  # noqa: E402
from tests.report_stores import large  # noqa: E402

LIMIT_SECONDS = 3.0
FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync"]
DRAWN = """() => [...document.querySelectorAll('figure .plot')]
  .filter((plot) => plot.getBoundingClientRect().top < innerHeight).every((plot) => plot.dataset.drawn)"""


def main() -> int:
    """Print size and seconds; returns 1 where the median is above LIMIT_SECONDS."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--times", type=int, default=7)
    arguments = parser.parse_args()
    chromium = os.environ.get("SEVIT_CHROMIUM") or shutil.which("chromium")
    if not chromium:
        print("no Chromium found; set SEVIT_CHROMIUM to one", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        store = large(Path(folder) / "store", arguments.runs)
        store.rebuild_views()
        path = Path(folder) / "report.html"
        start = time.perf_counter()
        size = write([store], path)
        print(f"{arguments.runs} runs: {size_text(size)}, written in {time.perf_counter() - start:.1f} s")
        samples = []
        with sync_playwright() as playwright:
            for _ in range(arguments.times):
                browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
                page = browser.new_page(viewport={"width": 1360, "height": 900})
                start = time.perf_counter()
                page.goto(path.as_uri())
                page.wait_for_selector('html[data-ready="yes"]', state="attached")
                while not page.evaluate(DRAWN):  # wait_for_function evaluates text, which the page's policy forbids
                    page.wait_for_timeout(10)
                samples.append(time.perf_counter() - start)
                browser.close()
    print("seconds until usable: " + ", ".join(f"{seconds:.2f}" for seconds in samples))
    middle = statistics.median(samples)
    print(
        f"median {middle:.2f} ({min(samples):.2f} to {max(samples):.2f}, n = {len(samples)}); limit: {LIMIT_SECONDS:g}"
    )
    return 0 if middle < LIMIT_SECONDS else 1


if __name__ == "__main__":
    raise SystemExit(main())
