"""The notebook runs from top to bottom, and is committed without outputs."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.conftest import ROOT
from tests.synthetic import write_store

PATH = ROOT / "notebooks" / "compare.ipynb"


def executed() -> nbformat.NotebookNode:
    notebook = nbformat.read(PATH, as_version=4)
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(PATH.parent)}}).execute()
    return notebook


def test_on_a_known_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_store(tmp_path, {"seresnet": 0.9, "vit_tiny": 0.8}, {"seresnet": [1.0, 1.1], "vit_tiny": [2.0, 2.2]})
    monkeypatch.setenv("SEVIT_STORE", str(tmp_path))
    outputs = [o for cell in executed().cells if cell.cell_type == "code" for o in cell.outputs]
    assert sum("image/png" in o.get("data", {}) for o in outputs) == 4
    (table,) = [o["data"]["text/markdown"] for o in outputs if "text/markdown" in o.get("data", {})]
    assert "**90.00** −0.60 +0.57" in table
    assert "(0.500×)" in table


def test_on_the_reference_store() -> None:
    outputs = [o for cell in executed().cells if cell.cell_type == "code" for o in cell.outputs]
    assert sum("image/png" in o.get("data", {}) for o in outputs) >= 4


def test_committed_without_outputs() -> None:
    for cell in nbformat.read(PATH, as_version=4).cells:
        assert not cell.get("outputs")
        assert not cell.get("execution_count")
