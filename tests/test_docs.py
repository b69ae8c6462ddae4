"""What the documents point to is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bench.cli import data as data_command
from tests.conftest import ROOT


def test_every_test_that_a_promise_names_exists() -> None:
    text = (ROOT / "docs/reliability.md").read_text(encoding="utf-8")
    named: list[tuple[str, str]] = []
    for line in text.splitlines():
        file = ""
        for found in re.finditer(r"`((?:tests/)?[\w/]+\.py)?(?:::(test_\w+))`", line):
            file = found.group(1) or file
            named.append((file, found.group(2)))
    assert len(named) > 35
    for file, name in named:
        path = ROOT / file if file.startswith("tests/") else ROOT / "tests/faults" / file
        assert f"def {name}(" in path.read_text(encoding="utf-8"), f"{file}::{name}"


DOCUMENTS = [
    ROOT / name
    for name in (
        "docs/cluster.md",
        "docs/data.md",
        "docs/measurement.md",
        "docs/performance.md",
        "docs/report.md",
        "docs/sizes.md",
        "CONTRIBUTING.md",
    )
]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.name)
def test_files_named_in_documents_exist(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:bench|models|tests|benchmarks)/[\w/]+\.py)`", text))
    assert named
    for name in named:
        assert (ROOT / name).is_file(), name


def test_the_table_of_data_sets_is_the_catalogues() -> None:
    assert "\n".join(data_command.markdown()) in (ROOT / "docs/data.md").read_text(encoding="utf-8")
