"""Records are the truth, CSV files are views; half a file is never seen."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pandas as pd
import pytest

from bench.analysis.check import check
from bench.core.errors import UserError
from bench.core.files import to_csv, write_atomically
from bench.plan.spec import LATER, Setting, content_id, to_dict
from bench.store.disk import Store
from bench.store.records import Damaged, LRSearch, Session, SettingSearch, decode, encode, finished
from bench.store.views import RESULT_COLUMNS, sessions_of, views_of
from tests.conftest import ROOT
from tests.synthetic import failure, record, sealed, session, spec, write_store


def test_a_crash_while_writing_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "record.json"
    write_atomically(path, b"old")

    def fails(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path], "no temporary file is left"


def test_a_run_is_done_when_its_record_says_ok(tmp_path: Path) -> None:
    store, of = Store(tmp_path), spec("seresnet")
    assert not store.is_done(of)
    store.write_spec(of)
    assert not store.is_done(of), "an interrupted run leaves a spec and no record"
    store.write_record(failure(of))
    assert not store.is_done(of), "a failed run is tried again"
    store.write_record(record(of, 0.9))
    assert store.is_done(of)
    assert not store.is_done(spec("seresnet", seed=1))


def test_views_come_back_from_the_records(tmp_path: Path) -> None:
    store = write_store(tmp_path, {"seresnet": 0.9, "vit_tiny": 0.8}, {"seresnet": [1.0, 1.1], "vit_tiny": [2.0, 2.2]})
    names = ("results.csv", "history.csv", "timings.csv", "environment.csv")
    before = {name: (tmp_path / name).read_bytes() for name in names}
    (tmp_path / "results.csv").unlink()
    (tmp_path / "history.csv").write_bytes(before["history.csv"][:37])
    (tmp_path / "timings.csv").write_text("edited,by,hand\n")
    store.rebuild_views()
    assert {name: (tmp_path / name).read_bytes() for name in names} == before


def test_results_csv_has_what_a_reader_opens_it_for(tmp_path: Path) -> None:
    write_store(tmp_path, {"seresnet": 0.9}, {"seresnet": [1.0, 1.28, 2.0]})
    row = pd.read_csv(tmp_path / "results.csv").iloc[0]
    wanted = [
        "model",
        "family",
        "dataset",
        "recipe",
        "seed",
        "device",
        "status",
        "accuracy",
        "train_seconds",
        "train_images_per_second",
        "inference_images_per_second",
        "flops",
        "params",
        "activations",
        "peak_memory_bytes",
        "epochs",
        "samples_seen",
    ]
    assert set(wanted) <= set(RESULT_COLUMNS)
    assert not row[wanted].isna().any()
    assert row["train_images_per_second"] == pytest.approx(128 / 1.28), "the median of the session's blocks"
    assert row["inference_images_per_second"] == pytest.approx(4 * 128 / 1.28)
    assert row["latency_ms"] == pytest.approx(128)


def test_a_failed_run_is_a_row(tmp_path: Path) -> None:
    store = write_store(tmp_path, {"seresnet": 0.9})
    of = spec("vit_tiny")
    store.write_record(failure(of))
    store.rebuild_views()
    frame = pd.read_csv(tmp_path / "results.csv").set_index("model")
    assert frame.loc["vit_tiny", "status"] == "oom"
    assert frame.loc["vit_tiny", "message"] == "out of memory at batch 128"
    assert pd.isna(frame.loc["vit_tiny", "accuracy"])


def test_long_views_hold_every_raw_figure(tmp_path: Path) -> None:
    write_store(tmp_path, {"seresnet": 0.9}, {"seresnet": [1.0, 1.1, 1.2]})
    timings = pd.read_csv(tmp_path / "timings.csv")
    train = timings[timings["kind"] == "train"]
    assert (train["seconds"] / train["calls"]).tolist() == [1.0, 1.1, 1.2]
    history = pd.read_csv(tmp_path / "history.csv")
    accuracy = history[history["metric"] == "val_accuracy"]["value"]
    assert accuracy.tolist() == pytest.approx([0.3, 0.6, 0.9])


def test_a_session_under_other_conditions_is_not_joined() -> None:
    run, timed = record(spec("seresnet"), 0.9), session({"seresnet": [1.0]})
    assert sessions_of(run, [timed]) == [timed]
    for part, value in (
        ("torch", "2.14.0"),
        ("device_name", "Other"),
        ("batch_size", 64),
        ("threads", 1),
        ("deterministic", True),
    ):
        other = msgspec.structs.replace(timed, key=replace(timed.key, **{part: value}))
        assert sessions_of(run, [other]) == [], part
    newer = session({"seresnet": [1.0]}, started="2026-02-01T00:00:00.000+00:00")
    assert sessions_of(run, [timed, newer]) == [timed, newer]
    assert sessions_of(record(spec("vit_tiny"), 0.8), [timed]) == []
    tuned, found = Setting("tuned"), Setting("tuned", memory_format="contiguous")
    timed = msgspec.structs.replace(timed, key=replace(timed.key, policy="tuned"), settings={"seresnet": found})
    assert sessions_of(record(spec("seresnet", setting=found), 0.9), [timed]) == [timed]
    assert sessions_of(record(spec("seresnet", setting=tuned), 0.9), [timed]) == [], "another search found another"
    edited = record(spec("seresnet", model_source="f00"), 0.9)
    assert sessions_of(edited, [timed]) == [], "an edited model does not inherit the speed of its former self"


def test_records_without_later_fields_were_made_under_their_defaults(tmp_path: Path) -> None:
    """As commit e264175 wrote them: neither recipes nor settings had what came later, and names were hashes without."""
    store, of = Store(tmp_path), spec("seresnet")
    old = {"schema": 2, **msgspec.to_builtins(record(of, 0.9)), "spec": to_dict(of)}
    timed = {"schema": 2, **msgspec.to_builtins(session({"seresnet": [1.0]}))}
    for holder in (old["spec"], timed):
        holder["recipe"] = {k: v for k, v in holder["recipe"].items() if k not in LATER["recipe"]}
    two = {"name": "eager", "memory_format": "channels_last"}
    old["spec"]["setting"] = timed["settings"]["seresnet"] = two
    assert old["run_id"].endswith(content_id(old["spec"])), "the name that it had then"
    write_atomically(store.run_dir(of) / "record.json", sealed(old))
    write_atomically(tmp_path / "speed" / f"{timed['id']}.json", sealed(timed))
    candidate = {"setting": two, "status": "ok", "message": "", "seconds": [1.0]}
    about = {k: timed[k] for k in ("schema", "started", "key", "recipe", "num_classes", "environment")}
    about |= {"id": "search", "model": "seresnet", "source": "", "limit_seconds": 1.0}
    search = decode(sealed({**about, "candidates": [candidate], "chosen": two}), "search", SettingSearch)
    assert (search.chosen, search.candidates[0].setting) == (Setting(), Setting())
    (run,), (session_read,) = store.runs(), store.sessions()
    assert run.spec == of
    assert sessions_of(run, [session_read]) == [session_read]
    assert store.is_done(of)


def test_a_broken_record_is_left_out_and_named(tmp_path: Path) -> None:
    """It does not keep the others from being read, and its run is not done."""
    store, of = write_store(tmp_path, {"vit_tiny": 0.8}), spec("seresnet")
    for content in (b'{"schema": 1, ', b"[]", b"{}", b'{"schema": 0}', b"\xff\x00", b'{"schema": 2, "schema": 2}'):
        write_atomically(store.run_dir(of) / "record.json", content)
        damaged: list[str] = []
        assert [r.spec.model for r in store.runs(damaged)] == ["vit_tiny"]
        assert len(damaged) == 1
        assert str(store.run_dir(of)) in damaged[0]
        assert not store.is_done(of)


def test_a_record_of_the_future_is_refused(tmp_path: Path) -> None:
    store, of = Store(tmp_path), spec("seresnet")
    write_atomically(store.run_dir(of) / "record.json", b'{"schema": 99, "status": "ok"}')
    with pytest.raises(UserError, match=r"newer version .*schema 99; this one knows 1 to 2"):
        store.runs()


def test_a_record_of_the_past_is_migrated() -> None:
    """The committed store was written under schema 1."""
    store = Store(ROOT / "results/reference/cpu-2core")
    raw = [json.loads(p.read_text()) for p in sorted(store.root.glob("runs/*/record.json"))]
    assert {r["schema"] for r in raw} == {1}
    migrated = sorted(finished(store.runs()), key=lambda r: r.run_id)
    assert [r.metrics.accuracy for r in migrated] == [r["metrics"]["accuracy"] for r in raw]
    assert {r.metrics.segments for r in migrated} == {1}


# A store of every shape that records ever had: schema 1; without provenance; with searches; with parts; from a GPU. And
# small ones that older commits wrote: before later fields of settings and recipes, and of the data.
STORES = [
    *(f"results/reference/{name}" for name in ("cpu-2core", "cpu-2core/verdict", "cpu-2core/sane", "cpu-2core/digits")),
    "results/reference/h100",
    *(f"tests/store/fixtures/{commit}" for commit in ("4349ea0", "364e14a", "d8801cb", "f5f6d66")),
]


@pytest.mark.parametrize("name", STORES)
def test_every_committed_store_can_be_read(name: str) -> None:
    """To the last record; its CSV files are what the records give, byte for byte, or the last digit of a float."""
    store, damaged = Store(ROOT / name), list[str]()
    runs, sessions = store.runs(damaged), store.sessions(damaged)
    assert len(runs) == len(list(store.root.glob("runs/*/record.json")))
    assert len(sessions) == len(list(store.root.glob("speed/*.json")))
    assert len(store.lr_searches(damaged)) == len(list(store.root.glob("search/*.json")))
    assert not damaged
    for file, content in views_of(runs, sessions).items():
        assert content == (store.root / file).read_bytes(), file
    assert not check(store, rebuild=False)[0]


@pytest.mark.parametrize("name", STORES)
def test_what_was_read_can_be_written_and_read_again(name: str) -> None:
    store = Store(ROOT / name)
    for run in store.runs():
        assert decode(encode(run), run.run_id) == run
    for timed in store.sessions():
        assert decode(encode(timed), timed.id, Session) == timed
    for search in store.lr_searches():
        assert decode(encode(search), search.id, LRSearch) == search


@pytest.mark.parametrize(
    "harm",
    [
        {"metrics": {"accuracy": 1.5}},
        {"metrics": {"accuracy": "0.9"}},
        {"metrics": {"train_seconds": -1.0}},
        {"history": []},
        {"status": "fine"},
        {"spec": None},
        {"notes": [1]},
        {"run_id": "another-0123456789"},
        {"modules": [{"name": "fc", "params": -1, "flops": 1, "activations": 1}]},
    ],
    ids=str,
)
def test_a_record_with_a_bad_field_is_damaged(harm: dict[str, Any]) -> None:
    """Even where its checksum holds: types and ranges are checked when it is read."""
    of = spec("seresnet")
    body = {"schema": 2, **msgspec.to_builtins(record(of, 0.9)), "spec": to_dict(of)}
    assert decode(sealed(body), of.run_id)
    changed = {k: {**body[k], **v} if isinstance(v, dict) else v for k, v in harm.items()}
    with pytest.raises(Damaged):
        decode(sealed({**body, **changed}), of.run_id)


def test_a_flipped_digit_is_noticed(tmp_path: Path) -> None:
    store, of = write_store(tmp_path, {"seresnet": 0.9}), spec("seresnet")
    path = store.run_dir(of) / "record.json"
    path.write_text(path.read_text().replace('"accuracy": 0.9,', '"accuracy": 0.8,'))
    damaged: list[str] = []
    assert store.runs(damaged) == []
    assert "its checksum does not match" in damaged[0]


def test_a_store_that_cannot_be_written(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(UserError, match="choose another with --results"):
        Store(blocked / "store").check_writable()


def test_a_dry_run_answers_as_the_run_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    for place in ("there/a/b", "there"):
        Store(tmp_path / place).check_writable(keep=False)
    said = []
    for keep in (False, True):
        for place in ("there/a/" + 300 * "x", "/proc/x", "/dev/null/x", "/dev/null"):
            with pytest.raises(UserError) as refusal:
                Store(tmp_path / place).check_writable(keep)
            said.append(str(refusal.value))
        if not keep:
            assert [*tmp_path.rglob("*")] == [tmp_path / "there"]
    assert said[:4] == said[4:]


def test_csv_refuses_a_column_it_does_not_know() -> None:
    assert to_csv(("a", "b"), [{"a": None, "b": 'x"y,\nz'}]) == b'a,b\n,"x""y,\nz"\n'
    with pytest.raises(ValueError, match="c"):
        to_csv(("a",), [{"c": 1}])


def test_records_are_readable_json(tmp_path: Path) -> None:
    store, of = Store(tmp_path), spec("größe")
    store.write_record(record(of, 0.5))
    text = (store.run_dir(of) / "record.json").read_text(encoding="utf-8")
    assert json.loads(text)["spec"]["model"] == "größe"
    assert "größe" in text
