"""The notebook runs from top to bottom, agrees with the harness, and is committed with what it shows."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.conftest import ROOT
from tests.report_stores import one_run
from tests.synthetic import write_store

PATH = ROOT / "notebooks" / "compare.ipynb"


def outputs_of(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def executed() -> list[nbformat.NotebookNode]:
    """The outputs of all cells. Raises whatever fails in one of them."""
    notebook = nbformat.read(PATH, as_version=4)
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(PATH.parent)}}).execute()
    return outputs_of(notebook)


def words(outputs: list[nbformat.NotebookNode]) -> list[str]:
    """Printed lines, tables and the kinds of pictures, without what their layout may change; neighbours joined."""
    shown = []
    for output in outputs:
        data = output.get("data", {})
        shown += (output.get("text") or data.get("text/markdown") or data.get("text/plain", "")).split()
        shown += [kind for kind in data if kind.startswith("image/")]
    return shown


def test_on_a_known_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_store(tmp_path, {"seresnet": 0.9, "vit_tiny": 0.8}, {"seresnet": [1.0, 1.1], "vit_tiny": [2.0, 2.2]})
    monkeypatch.setenv("SEVIT_STORE", str(tmp_path))
    outputs = executed()
    (table,) = [o["data"]["text/markdown"] for o in outputs if "text/markdown" in o.get("data", {})]
    assert "**90.00** −0.60 +0.57" in table
    assert "(0.500×)" in table
    printed = "".join(o.get("text", "") for o in outputs)
    assert "vit_tiny trains 0.50 times as fast as seresnet (0.49 to 0.51; blocks of each start: [2])" in printed


def test_on_the_reference_store() -> None:
    """And it is committed with what it shows there, so that it can be read where it lies."""
    outputs = executed()
    assert words(outputs) == words(outputs_of(nbformat.read(PATH, as_version=4)))
    assert PATH.stat().st_size < 1_000_000
    assert sum("image/png" in o.get("data", {}) for o in outputs) >= 5
    printed = "".join(o.get("text", "") for o in outputs)
    assert "faster and at most 0.5 points less accurate: " in printed


def test_on_a_store_of_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEVIT_STORE", str(one_run(tmp_path).root))
    assert executed()
