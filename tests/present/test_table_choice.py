"""Which columns and rows a table shows, in which order: --columns, --where, --sort, --out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from bench.analysis.tables import Comparison, compare
from bench.core.errors import UserError
from bench.core.files import from_json
from bench.present.table_choice import choose, parse_columns, parse_sort
from bench.present.table_formats import FORMATS, render
from bench.store.disk import Store
from tests.synthetic import DATA, failure, record, spec, write_store

Here = Callable[..., CompletedProcess[str]]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Three models, with FLOPs of two, and a failure, on one data set; one model on another."""
    store = write_store(tmp_path / "s", {"seresnet": 0.9, "vit_tiny": 0.8, "b_net": 0.7})
    store.write_record(record(spec("b_net"), 0.7, "hybrid", metrics={"flops": None}))
    store.write_failure(failure(spec("simple_vit")))
    digits = spec("seresnet", data=replace(DATA, name="digits"))
    store.write_record(record(digits, 0.95, started="2026-01-05T00:00:00.000+00:00"))
    return store


def names(comparisons: list[Comparison]) -> list[list[str]]:
    return [[row.model for row in comparison.rows] for comparison in comparisons]


def test_by_accuracy_then_name_unless_asked_otherwise(store: Store) -> None:
    store.write_record(record(spec("a_net"), 0.8))
    made = compare([store])
    assert names(made) == [["seresnet", "a_net", "vit_tiny", "b_net"], ["seresnet"]]
    assert choose(made) == made


@pytest.mark.parametrize(
    ("sort", "order"),
    [
        ("accuracy", ["b_net", "vit_tiny", "seresnet"]),
        ("-accuracy", ["seresnet", "vit_tiny", "b_net"]),
        ("flops", ["seresnet", "vit_tiny", "b_net"]),
        ("-flops", ["vit_tiny", "seresnet", "b_net"]),  # those without come last either way
        ("params", ["seresnet", "vit_tiny", "b_net"]),  # all equal: by accuracy
        ("-params", ["seresnet", "vit_tiny", "b_net"]),
        ("latency_ms", ["seresnet", "vit_tiny", "b_net"]),  # none has it
        ("model", ["b_net", "seresnet", "vit_tiny"]),
        ("-model", ["vit_tiny", "seresnet", "b_net"]),
        ("family", ["seresnet", "b_net", "vit_tiny"]),
    ],
)
def test_sorted(store: Store, sort: str, order: list[str]) -> None:
    assert names(choose(compare([store]), sort=sort)) == [order, ["seresnet"]]


@pytest.mark.parametrize(
    ("where", "rows", "failures"),
    [
        ("dataset == 'cifar10'", [["seresnet", "vit_tiny", "b_net"]], 1),
        ("dataset == 'digits'", [["seresnet"]], 0),
        ("accuracy > 0.75", [["seresnet", "vit_tiny"], ["seresnet"]], 0),
        ("family == 'vit' and accuracy > 0.75", [["vit_tiny"]], 0),
        ("flops > 0", [["seresnet", "vit_tiny"], ["seresnet"]], 0),
        ("model in ['b_net', 'simple_vit']", [["b_net"]], 1),
        ("model.str.contains('net')", [["seresnet", "b_net"], ["seresnet"]], 0),
        ("status != 'ok'", [[]], 1),
        ("message.str.startswith('out of memory')", [[]], 1),
        ("flops.isna() and status == 'ok'", [["b_net"]], 0),
        ("accuracy_low > 0.7 or model == 'b__t@'", [["seresnet", "vit_tiny"], ["seresnet"]], 0),
    ],
)
def test_where(store: Store, where: str, rows: list[list[str]], failures: int) -> None:
    made = choose(compare([store]), where)
    assert names(made) == rows
    assert sum(len(comparison.failures) for comparison in made) == failures


def test_a_failure_alone_is_found_by_its_data_set(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write_failure(failure(spec("simple_vit")))
    assert len(choose(compare([store]), "dataset == 'cifar10'")[0].failures) == 1
    with pytest.raises(UserError, match="no row meets"):
        choose(compare([store]), "accuracy > 0")


def test_rows_left_out_are_mentioned(store: Store) -> None:
    made = choose(compare([store]), "accuracy > 0.75")
    assert made[0].notes[-1] == "Rows shown: 2 of 3, by --where accuracy > 0.75"
    assert not any("Rows shown" in note for note in made[1].notes)


def test_damage_is_not_hidden_by_a_condition(store: Store) -> None:
    (path, *_) = store.root.glob("runs/b_net*/record.json")
    path.write_text("{")
    assert "damaged records" in choose(compare([store]), "model == 'seresnet'")[-1].title


@pytest.mark.parametrize(
    ("where", "says"),
    [
        ("accuraccy > 0.5", "no column 'accuraccy'; did you mean 'accuracy'?"),
        ("accuracy >", "invalid syntax; the columns are model, family"),
        ("accuracy > 'much'", "the columns are model, family"),
        ("accuracy + 1", "not a condition"),
        ("model", "not a condition"),
        ("1", "not a condition"),
        ("True", "not a condition"),
        ("accuracy > @x", "the columns are"),
        ("accuracy @ accuracy", "without @"),
        ("accuracy ** 9**9**9 > 0", "without **"),
        ("model.__class__ == 1", "without __"),
        ("__import__('os').system('touch x')", "without __"),
        ("accuracy.to_csv('x') == 1", "no method 'to_csv'"),
        ("accuracy.values.tofile('x')", "no method"),
        ("x = 3", "invalid syntax"),
        ("accuracy > 0.5; accuracy", "invalid syntax"),
        ("open('x', 'w')", "the columns are"),
        ("(" * 300 + "1" + ")" * 300, "the columns are"),
        ("accuracy > 2", "no row meets --where accuracy > 2"),
    ],
)
def test_what_is_not_a_condition(
    store: Store, where: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as raised:
        choose(compare([store]), where)
    assert says in str(raised.value)
    assert "\n" not in str(raised.value)
    assert {path.name for path in tmp_path.iterdir()} == {"s"}, "nothing was written"


def test_unknown_columns_and_keys_name_the_choices() -> None:
    assert [column.key for column in parse_columns(" flops,accuracy,flops")] == ["flops", "accuracy"]
    with pytest.raises(UserError, match=r"unknown column 'flop'; did you mean 'flops'\? Choices: accuracy, train_sec"):
        parse_columns("accuracy,flop")
    with pytest.raises(UserError, match="unknown column ''"):
        parse_columns("accuracy,")
    assert parse_sort("-flops") == ("flops", True)
    assert parse_sort("model") == ("model", False)
    with pytest.raises(UserError, match=r"unknown key to sort by 'modell'; did you mean 'model'\? Choices: model, fam"):
        parse_sort("-modell")


def test_the_command_takes_all_of_them(store: Store, here: Here, tmp_path: Path) -> None:
    root = str(store.root)
    done = here("table", "--results", root, "--sort", "-flops", "--columns", "flops", "--where", "accuracy > 0.75")
    assert done.returncode == 0, done.stderr
    lines = [line.split()[0] for line in done.stdout.splitlines() if line]
    assert [line for line in lines if line in ("seresnet", "vit_tiny", "b_net")] == ["vit_tiny", "seresnet", "seresnet"]
    for words in (("--sort", "-flop"), ("--columns", "x"), ("--where", "accuracy > 2"), ("--sort", "--by-device")):
        done = here("table", "--results", root, *words)
        assert done.returncode == 2
        assert done.stdout == ""
        assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("style", FORMATS)
def test_a_table_in_a_file(style: str, store: Store, here: Here, tmp_path: Path) -> None:
    out = tmp_path / "new" / "table.x"
    done = here("table", "--results", str(store.root), "--format", style, "--out", str(out))
    assert (done.returncode, done.stdout) == (0, f"wrote {out}\n")
    assert out.read_text(encoding="utf-8") == render(compare([store]), style)
    if style == "json":
        assert len(from_json(out.read_bytes())) == 2


def test_a_table_that_cannot_be_written(store: Store, here: Here, tmp_path: Path) -> None:
    done = here("table", "--results", str(store.root), "--out", str(tmp_path))
    assert done.returncode == 2
    assert "choose another with --out" in done.stderr
