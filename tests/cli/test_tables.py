"""The command `table` on stores of several devices and questions, and on a failed audit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bench.analysis.tables import compare
from bench.cli.main import main
from bench.store.disk import Store
from tests.synthetic import DATA, ENVIRONMENT, record, spec, write_store


def test_unequal_keys_never_share_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same question on two devices: refused with what differs; --by-device makes one table for each."""
    here = write_store(tmp_path / "a", {"seresnet": 0.9, "vit_tiny": 0.8})
    there, of = Store(tmp_path / "b"), spec("seresnet", device_name="Other CPU")
    there.write_record(record(of, 0.9, environment={**ENVIRONMENT, "device_name": "Other CPU"}))
    stores = ["--results", str(here.root), "--results", str(there.root)]
    for command in ("table", "plot"):
        assert main([command, *stores]) == 2
        error = capsys.readouterr().err
        assert "device_name: Test CPU or Other CPU" in error
        assert "--by-device" in error
    assert main(["table", *stores, "--by-device"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("Test CPU") == 1
    assert printed.count("Other CPU") == 1


def test_other_questions_may_stand_side_by_side(tmp_path: Path) -> None:
    """Another data set under another key is another comparison, and no reason to refuse."""
    store = write_store(tmp_path, {"seresnet": 0.9})
    of = spec("seresnet", data=replace(DATA, name="cifar100", content_hash="d" * 64), device_name="Other CPU")
    store.write_record(record(of, 0.5, environment={**ENVIRONMENT, "device_name": "Other CPU"}))
    assert len(compare([store], by_device=False)) == 2


def test_a_failed_audit_is_marked_in_every_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = write_store(tmp_path, {"seresnet": 0.9})
    of = spec("vit_tiny")
    note = "FLOPs do not pass the audit: products 1 by fvcore, 2 by torch (fvcore conv 1; torch bmm 2)"
    store.write_record(record(of, 0.8, "vit", metrics={"flops_audit": "mismatch"}, notes=[note]))
    for style in ("text", "markdown", "latex", "csv"):
        assert main(["table", "--results", str(tmp_path), "--format", style]) == 0
        printed = capsys.readouterr().out
        mark = {"latex": "127.1$\\dagger$", "csv": "mismatch"}.get(style, "127.1†")
        assert printed.count(mark) == 1, printed
        if style != "csv":
            assert "products 1 by fvcore, 2 by torch" in " ".join(printed.split())
