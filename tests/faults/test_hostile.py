"""Files that are read cannot execute code, write elsewhere, or control a terminal; fuzzing finds no traceback."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from bench.analysis.check import problems
from bench.analysis.frames import frame
from bench.analysis.tables import compare
from bench.cli.main import main
from bench.core.errors import UserError
from bench.core.files import distinct, sha256, to_json
from bench.data.datasets import from_npz
from bench.measure.checkpoint import Checkpoints
from bench.plan import recipes
from bench.plan.presets import parse_duration
from bench.present.charts.build import charts_of
from bench.present.charts.static import save_all
from bench.present.report import page
from bench.present.session_table import render_session
from bench.present.table_formats import FORMATS, render
from bench.store.disk import Store
from bench.store.records import Damaged, decode
from tests.conftest import ROOT
from tests.synthetic import record, sealed, session, spec, write_predicted, write_store

SHARED = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def examples(count: int) -> settings:
    """So many examples of a fuzz test, or the profile's if it asks for more: `make faults` does."""
    return settings(SHARED, max_examples=max(count, SHARED.max_examples))


HOSTILE = [
    "<img src=x onerror=alert(1)>",
    "=cmd|' /C calc'!A0",
    "+1+1",
    "@SUM(1)",
    "-2+3",
    "../../x",
    "/etc/passwd",
    "_x",
    r"a$\frac{$b",
    r"\input{/etc/passwd}",
    "NA",
    "007",
    "\x1b[31mred\x1b]0;title\x07",
    "two\nlines\r\tand a tab",
    "\u202eright to left",
    "a | b ` c",
    "x" * 300,
    "   ",
    "ünïcödé 🚀",
]


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_a_hostile_name_is_inert_everywhere(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "store"
    store = write_store(root, {"seresnet": 0.9, name: 0.8}, {"seresnet": [1.0, 1.1, 1.2], name: [2.0, 2.2, 2.1]})
    assert {p.name for p in tmp_path.iterdir()} == {"store"}, "nothing was written elsewhere"
    for path in root.glob("runs/*"):
        assert path.resolve().is_relative_to(root.resolve())
        assert re.fullmatch(r"[A-Za-z0-9_.-]+", path.name)
    for style in FORMATS:
        assert main(["table", "--results", str(root), "--format", style]) == 0
        printed = capsys.readouterr().out
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e]", printed)
        if style == "csv":
            cells = [cell for row in csv.reader(io.StringIO(printed)) for cell in row]
            assert not [c for c in cells if c.startswith(("=", "+", "-", "@", "\t", "\r"))]
        if style == "latex":
            assert r"\input" not in printed
            assert r"\frac" not in printed
    for path in root.glob("*.csv"):
        for row in csv.reader(io.StringIO(path.read_text())):
            assert not [c for c in row if c.startswith(("=", "+", "@", "\t", "\r")) or c.startswith("-2+")]
    shown = distinct([name, ""])  # nothing but spaces would look like a field without content
    assert set(frame([store])["model"]) == {"seresnet", shown[name]}


def test_hostile_names_in_plots(tmp_path: Path) -> None:
    names = {name: 0.5 + 0.01 * i for i, name in enumerate(HOSTILE[:14])}
    store = write_store(tmp_path, {"seresnet": 0.9, **names}, {n: [1.0, 1.1] for n in ("seresnet", *names)})
    charts, _ = charts_of([store])
    written = save_all(charts, tmp_path / "plots", formats=("svg",), columns=(2,))
    drawn = [path.read_text() for path in written if path.suffix == ".svg"]
    assert len(drawn) == len(charts) > 5
    for text in drawn:
        assert "<img" not in text
        assert "<script" not in text


LOOK_ALIKE = {
    "spaces": (("my model.py:f", "my  model.py:f"), ("my model.py:f", "my model.py:f [7c25]")),
    "control characters": (("my\x01model.py:f", "my\x02model.py:f"), ("my�model.py:f [2210]", "my�model.py:f [5d94]")),
    "composition": (("caf\u00e9.py:f", "cafe\u0301.py:f"), ("caf\u00e9.py:f", "caf\u00e9.py:f [311f]")),
}


@pytest.mark.parametrize(("names", "shown"), LOOK_ALIKE.values(), ids=LOOK_ALIKE)
def test_names_that_look_alike_stay_two_models(
    names: tuple[str, str], shown: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each with its own accuracy in every output; and a command takes a name as it is, or as it is shown."""
    store, label, seconds = Store(tmp_path), np.arange(20) % 10, {names[0]: [1.0, 1.1], names[1]: [2.0, 2.2]}
    for name, right in zip(names, (18, 10), strict=True):
        write_predicted(store, spec(name), label, np.where(np.arange(20) < right, label, (label + 1) % 10))
    store.write_session(session(seconds, reference=names[0]))
    store.rebuild_views()
    accuracies = dict(zip(shown, (0.9, 0.5), strict=True))

    (comparison,) = compare([store], reference=names[1])
    assert {row.model: row.values["accuracy"].value for row in comparison.rows} == accuracies
    assert comparison.reference == shown[1]
    assert comparison.rows[0].ratios["train_images_per_second"].value == pytest.approx(2)
    for way in (names, shown):
        assert main(["compare", *way, "--results", str(tmp_path), "--format", "csv"]) == 0
        (pair,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
        assert (pair["model_a"], pair["model_b"], float(pair["difference_points"])) == (*shown, pytest.approx(40))
    with (tmp_path / "results.csv").open(newline="") as file:
        assert {row["model"]: float(row["accuracy"]) for row in csv.DictReader(file)} == dict(
            zip(names, (0.9, 0.5), strict=True)
        )
    charts, _ = charts_of([store], reference=names[0])
    (drawn,) = [chart for chart in charts if chart.key == "accuracy_vs_params"]
    assert {series.model: series.marks[0].y for series in drawn.series} == pytest.approx(
        {name: 100 * accuracy for name, accuracy in accuracies.items()}
    )
    (differences,) = [chart for chart in charts if chart.key == "differences"]
    assert differences.y.names == (f"{shown[0]} − {shown[1]}",)
    html = page.build([store], "none", still=False, reference=names[0], claim=names).decode()
    assert all(f">{name}<" in html for name in shown)
    assert len(render_session(store.sessions()[0]).split(shown[1])) > 2


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**6), 10**6)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value inside."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(p for key, inner in inside for p in places(inner, (*path, key)))]


def mutate(original: Any, data: st.DataObject) -> Any:
    """One value somewhere replaced by anything, or removed."""
    changed = json.loads(json.dumps(original))
    *parents, last = data.draw(st.sampled_from(places(changed)[1:]))
    holder = changed
    for key in parents:
        holder = holder[key]
    if data.draw(st.booleans()):
        holder[last] = data.draw(JSON)
    elif isinstance(holder, dict):
        del holder[last]
    else:
        holder.pop(last)
    return changed


@pytest.mark.long
@examples(150)
@given(data=st.data())
def test_a_mutated_record_is_read_or_left_out(data: st.DataObject, store: Store) -> None:
    """With a checksum that holds, as an attacker would write it: the checks of the fields must be enough."""
    kind = data.draw(st.sampled_from(["runs/*/record.json", "speed/*.json"]))
    path = data.draw(st.sampled_from(sorted(store.root.glob(kind))))
    content = path.read_bytes()
    path.write_bytes(sealed(mutate(json.loads(content), data)))
    with contextlib.suppress(UserError):
        store.rebuild_views()
        comparisons = compare([store])
        for style in FORMATS:
            render(comparisons, style)
        list(problems(store))
    path.write_bytes(content)


@examples(300)
@given(content=st.binary(max_size=200) | st.text(max_size=200).map(str.encode) | JSON.map(to_json))
@example(b'{"schema": 1e999}')
@example(b'{"schema": ' + b"9" * 5000 + b"}")
@example(b"[" * 100_000)
@example(b'{"schema": 2, "status": NaN}')
def test_any_bytes_are_a_record_or_damaged(content: bytes) -> None:
    with contextlib.suppress(Damaged, UserError):
        decode(content, "x")


@examples(300)
@given(
    changes=st.dictionaries(
        st.sampled_from(["epochs", "lr", "flip", "name", "base", "optimizer", "batch_size", "precision", "x"]),
        st.integers() | st.floats() | st.booleans() | st.text(max_size=5) | st.lists(st.integers(), max_size=2),
        max_size=4,
    ),
    noise=st.text(max_size=10),
)
def test_any_recipe_file_is_a_recipe_or_a_sentence(changes: dict[str, Any], noise: str, tmp_path: Path) -> None:
    text = "".join(f"{key} = {json.dumps(value)}\n" for key, value in changes.items()) + noise
    path = tmp_path / "r.toml"
    path.write_text(text, encoding="utf-8", errors="replace")
    with contextlib.suppress(UserError):
        recipe = recipes.load(str(path))
        assert tomllib.loads(path.read_text(encoding="utf-8")).get("epochs", recipe.epochs) == recipe.epochs


@examples(200)
@given(
    text=st.text(max_size=8) | st.sampled_from(["1e400", "nan", "inf", "-1", "0", "1h", "2 min", "1e9h", "_1", "1_0"])
)
def test_any_duration_is_seconds_or_a_sentence(text: str) -> None:
    with contextlib.suppress(UserError):
        assert 0 < parse_duration(text, "--run-timeout") < 1e9


@examples(150)
@given(data=st.data())
def test_any_npz_is_data_or_a_sentence(data: st.DataObject, tiny_npz: Path, tmp_path: Path) -> None:
    content = bytearray(tiny_npz.read_bytes())
    for _ in range(data.draw(st.integers(1, 5))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content)))]
    path = tmp_path / "fuzzed.npz"
    path.write_bytes(content)
    with contextlib.suppress(UserError):
        from_npz(path)


def test_an_npz_of_absurd_size_is_refused(tmp_path: Path) -> None:
    """A header that promises 2**50 bytes, which an allocation would believe."""
    path = tmp_path / "bomb.npz"
    header = io.BytesIO()
    np.lib.format.write_array_header_2_0(
        header, {"descr": "|u1", "fortran_order": False, "shape": (2**30, 1024, 1024, 3)}
    )
    import zipfile

    with zipfile.ZipFile(path, "w") as archive:
        for name in ("train_x", "train_y", "test_x", "test_y"):
            archive.writestr(f"{name}.npy", header.getvalue())
    with pytest.raises(UserError, match=r"not a readable \.npz file"):
        from_npz(path)


@examples(100)
@given(data=st.data())
def test_any_checkpoint_is_a_state_or_passed_over(data: st.DataObject, tmp_path_factory: Any) -> None:
    """Under a name whose checksum holds: what remains is torch's reader, allowed to read weights only."""
    folder = tmp_path_factory.mktemp("checkpoints")
    keeper = Checkpoints(folder, {"run_id": "x"}, 0)
    keeper.save(1, {"progress": {"step": 1}, "weights": [1.0, 2.0]})
    (path,) = folder.glob("*.pt")
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.unlink()
    (folder / f"000000001-{sha256(bytes(content))}.pt").write_bytes(content)
    assert keeper.load() is None or isinstance(keeper.load(), dict)
    shutil.rmtree(folder)


NO_NETWORK = """
import socket

def refuse(self, address, *rest):
    if self.family in (socket.AF_INET, socket.AF_INET6):
        open({log!r}, "a").write(repr(address) + "\\n")
        raise OSError("no network call was asked for")
    return original(self, address, *rest)

original = socket.socket.connect
socket.socket.connect = socket.socket.connect_ex = refuse
def lookup(*words, **named):
    open({log!r}, "a").write(repr(words) + "\\n")
    raise OSError("no name was asked for")
socket.getaddrinfo = lookup
"""


@pytest.mark.long
def test_no_network_call_that_nobody_asked_for(words: list[str], tmp_path: Path) -> None:
    """Sockets of the command and of its children refuse and log every call: a whole sweep makes none."""
    log = tmp_path / "calls"
    (tmp_path / "sitecustomize.py").write_text(NO_NETWORK.format(log=str(log)))
    names = "cct_2,timm:resnet18"  # all three packages that could
    command = [sys.executable, "run_bench.py", *words, "--epochs=1", "--models", names, "--results", tmp_path / "s"]
    path = {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [*map(str, command)], cwd=ROOT, env={**os.environ, **path}, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr
    probe = "import socket; socket.create_connection(('127.0.0.1', 9))"
    subprocess.run([sys.executable, "-c", probe], env={**os.environ, **path}, capture_output=True)
    assert "127.0.0.1" in log.read_text(), "the watch works"
    assert len(log.read_text().splitlines()) == 1


@pytest.mark.parametrize("name", ["cpu-2core", "h100"])
def test_the_reference_stores_are_sound(name: str) -> None:
    assert list(problems(Store(ROOT / "results/reference" / name))) == []


def test_a_foreign_record_cannot_claim_another_place(tmp_path: Path) -> None:
    """Its run_id is a path; the folder is another."""
    store, of = Store(tmp_path), spec("seresnet")
    store.write_record(record(of, 0.9))
    path = store.run_dir(of) / "record.json"
    path.write_bytes(sealed({**json.loads(path.read_text()), "run_id": "../../elsewhere"}))
    damaged: list[str] = []
    assert store.runs(damaged) == []
    assert "differs from its file's name" in damaged[0]


def test_random_command_lines_never_raise(capsys: pytest.CaptureFixture[str]) -> None:
    """Words of the real grammar in random order, for the commands that read."""
    rng = random.Random(7)
    vocabulary = ["table", "plot", "check", "list", "cost", "--results", "/nonexistent", "--format", "csv", "--rebuild"]
    vocabulary += ["models", "--depth", "-1", "vit_*", "", "--out", "\x1b[2J", "seresnet,,", "--help=1", "\ud800"]
    for _ in range(200):
        words = rng.choices(vocabulary, k=rng.randint(1, 4))
        if words[0] not in ("table", "plot", "check", "list"):
            continue
        with contextlib.suppress(SystemExit):
            assert main(words) in (0, 1, 2)
        error = capsys.readouterr().err
        assert "\x1b" not in error
        assert "Traceback" not in error
