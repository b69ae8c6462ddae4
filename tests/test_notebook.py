"""The notebook runs from top to bottom, its calculations agree with the harness, and it has no stored outputs."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.conftest import ROOT
from tests.report_stores import one_run
from tests.synthetic import write_store

PATH = ROOT / "notebooks" / "compare.ipynb"


def executed() -> list[nbformat.NotebookNode]:
    """The outputs of all cells. Raises whatever fails in one of them."""
    notebook = nbformat.read(PATH, as_version=4)
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(PATH.parent)}}).execute()
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def test_on_a_known_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_store(tmp_path, {"seresnet": 0.9, "vit_tiny": 0.8}, {"seresnet": [1.0, 1.1], "vit_tiny": [2.0, 2.2]})
    monkeypatch.setenv("SEVIT_STORE", str(tmp_path))
    outputs = executed()
    (table,) = [o["data"]["text/markdown"] for o in outputs if "text/markdown" in o.get("data", {})]
    assert "**90.00** −0.60 +0.57" in table
    assert "(0.500×)" in table
    printed = "".join(o.get("text", "") for o in outputs)
    assert "seresnet trains 2.00 times as fast as vit_tiny (2.00 to 2.00, 2 blocks)" in printed


def test_on_the_reference_store() -> None:
    outputs = executed()
    assert sum("image/png" in o.get("data", {}) for o in outputs) >= 5
    printed = "".join(o.get("text", "") for o in outputs)
    assert "faster and at most 0.5 points less accurate: " in printed


def test_on_a_store_of_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEVIT_STORE", str(one_run(tmp_path).root))
    assert executed()


def test_committed_without_outputs() -> None:
    for cell in nbformat.read(PATH, as_version=4).cells:
        assert not cell.get("outputs")
        assert not cell.get("execution_count")
