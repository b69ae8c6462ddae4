"""What the documents point to is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.conftest import ROOT

DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("results/**/README.md")])


def test_every_test_that_a_promise_names_exists() -> None:
    text = (ROOT / "docs/reliability.md").read_text(encoding="utf-8")
    promised: list[tuple[str, str]] = []
    for line in text.splitlines():
        file = ""
        for match in re.finditer(r"`((?:tests/)?[\w/]+\.py)?(?:::(test_\w+))`", line):
            file = match.group(1) or file
            promised.append((file, match.group(2)))
    assert len(promised) > 35
    for file, name in promised:
        path = ROOT / file if file.startswith("tests/") else ROOT / "tests/faults" / file
        assert f"def {name}(" in path.read_text(encoding="utf-8"), f"{file}::{name}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_that_a_document_names_exist(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    history = path.name in ("LOG.md", "CHANGELOG.md")  # names things as they were called then
    named = re.findall(r"`((?:bench|models|tests|benchmarks|docs)/[\w/.]+\.(?:py|md))`", text)
    assert [name for name in named if not history and not (ROOT / name).is_file()] == []
    links = re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", text)
    assert [link for link in links if not (path.parent / link).exists()] == []


def test_the_table_of_data_sets_is_the_catalogues() -> None:
    from bench.cli import data as data_command

    assert "\n".join(data_command.markdown()) in (ROOT / "docs/data.md").read_text(encoding="utf-8")
