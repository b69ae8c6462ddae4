"""Every kind of record comes back as it was written, and whatever is wrong with one is said in a sentence."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

import msgspec
import pytest

from bench.core.errors import UserError
from bench.core.files import distinct, to_json
from bench.plan.keys import SpeedKey
from bench.plan.settings import SETTINGS
from bench.plan.spec import Setting
from bench.store.records import (
    AnyRecord,
    Audit,
    Damaged,
    FailedRun,
    FinishedRun,
    LRSearch,
    Session,
    SettingSearch,
    decode,
    encode,
    inert_copy,
)
from tests.synthetic import ENVIRONMENT, RECIPE, failure, record, sealed, spec, thorough_session

Path = tuple[str | int, ...]
KEY = SpeedKey("cpu", "Test CPU", None, "2.13.0", "fp32", 128, 32, "tuned", False, 2)


def full_run() -> FinishedRun:
    """A finished run with every optional field."""
    return record(
        spec("seresnet"),
        0.9,
        metrics={"runs_at_once": 2, "pace_seconds": 1.5, "flops_2x": 2, "train_flops_2x": 6, "flops_audit": "equal"},
        files={"history.csv": "a" * 64},
        setting_used="eager",
        target=0.8,
        flops_audit=asdict_struct(Audit(verdict="equal", products=5, torch=5, unused=("head",))),
        modules=[{"name": "fc", "params": 1, "flops": 2, "activations": 3}],
        provenance={"source": "a mirror", "version": "sha256:0", "official": False, "like": "cifar10", "checked": True},
        notes=["streams its images"],
    )


def full_session() -> Session:
    """A thorough session with every optional field, a failure and energy."""
    failed = {"model": "vit_tiny", "kind": "train", "batch_size": 256, "status": "oom", "message": "out of memory"}
    session = thorough_session(
        {"seresnet": [1.0, 1.1], "vit_tiny": [2.0, 2.2]},
        failures=[failed],
        warnings=["another process was running"],
        energy={"source": "nvml", "why_not": "", "joules_per_1000_images": {"seresnet": 3.5}},
        groups={"seresnet": {"step_seconds": 1.0, "groups": {"convolution": 0.7}}},
        recipes={"seresnet": asdict(RECIPE)},
        not_as_set={"vit_tiny": ["no compiler"]},
        kinds=["train", "inference", "latency"],
        half_width=0.02,
        planned_blocks=30,
        limit_seconds=60.0,
    )
    return msgspec.structs.replace(session, seconds=59.0)


def setting_search() -> SettingSearch:
    """Two candidates, of which the first was chosen."""
    chosen = {"setting": asdict(SETTINGS["tuned"]), "status": "ok", "message": "", "seconds": [1.0, 1.1]}
    slower = {"setting": asdict(replace(SETTINGS["tuned"], memory_format="contiguous")), "status": "slower"}
    plain = {
        **{"id": "seresnet-tuned", "started": "2026-01-01", "model": "seresnet", "source": "", "num_classes": 10},
        **{"key": asdict(KEY), "recipe": asdict(RECIPE), "limit_seconds": 180.0, "environment": ENVIRONMENT},
        "candidates": [
            {**chosen, "first_seconds": 2.0, "trial_seconds": 3.0},
            {**slower, "message": "", "seconds": [1.5]},
        ],
        "chosen": asdict(SETTINGS["tuned"]),
    }
    return msgspec.convert(plain, SettingSearch)


def lr_search() -> LRSearch:
    """Two trials, of which one diverged."""
    trial = {"rung": 0, "message": "", "samples": 500, "train_seconds": 1.0}
    plain = {
        **{"id": "seresnet-shared", "started": "2026-01-01", "budget": "3epochs", "spec": asdict(spec("seresnet"))},
        "trials": [
            {**trial, "lr": 0.001, "status": "ok", "val_accuracy": 0.5, "val_loss": 1.0},
            {**trial, "lr": 0.01, "status": "diverged", "val_accuracy": None, "val_loss": None},
        ],
        **{"chosen": 0.001, "edge": True},
    }
    return msgspec.convert(plain, LRSearch)


def asdict_struct(struct: msgspec.Struct) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.to_builtins(struct)
    return plain


RECORDS: list[AnyRecord] = [full_run(), failure(spec("vit_tiny")), full_session(), setting_search(), lr_search()]
each = pytest.mark.parametrize("of", RECORDS, ids=lambda of: type(of).__name__)


def name_of(of: AnyRecord) -> str:
    return of.run_id if isinstance(of, FinishedRun | FailedRun) else of.id


def body_of(of: AnyRecord) -> dict[str, Any]:
    """As plain data, without the checksum."""
    body: dict[str, Any] = json.loads(encode(of))
    del body["checksum"]
    return body


def read(body: dict[str, Any], of: AnyRecord) -> AnyRecord:
    """What a file with this content, under the name and with the checksum that fit, is read as."""
    kind = type(of)
    if kind in (FinishedRun, FailedRun):
        return decode(sealed(body), name_of(of))
    return decode(sealed(body), name_of(of), kind)


def paths(value: Any, path: Path = ()) -> Iterator[Path]:
    """To every field, and into the first element of every list."""
    items = value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*path, key)
        yield from paths(inner, (*path, key))


def changed(body: Any, path: Path, value: Any) -> Any:
    """A copy with another value at the end of a path."""
    if not path:
        return value
    copy = dict(body) if isinstance(body, dict) else list(body)
    copy[path[0]] = changed(copy[path[0]], path[1:], value)
    return copy


@each
def test_a_record_comes_back_as_it_was_written(of: AnyRecord) -> None:
    again = read(body_of(of), of)
    assert again == of
    assert encode(again) == encode(of)
    assert inert_copy(of) == of


@each
def test_a_field_of_another_type_is_damage(of: AnyRecord) -> None:
    body = body_of(of)
    everywhere = list(paths(body))
    assert len(everywhere) > 40
    for path in everywhere:
        if path[-1] == "schema" or path[0] in ("gpu_before", "gpu_after"):
            continue
        value = body
        for key in path:
            value = value[key]  # type: ignore[index]
        with pytest.raises(Damaged) as damage:
            read(changed(body, path, "text" if isinstance(value, dict | list) else {"not": []}), of)
        assert 10 < len(str(damage.value)) <= 200, path
        assert str(damage.value).isprintable()


@each
def test_a_missing_field_is_damage_unless_older_records_lack_it(of: AnyRecord) -> None:
    body = body_of(of)
    required = {field.name for field in msgspec.structs.fields(type(of)) if field.required}
    assert {"started", "environment" if isinstance(of, FinishedRun) else "id"} & required or isinstance(of, FailedRun)
    for name in body.keys() - {"schema"}:
        rest = {key: value for key, value in body.items() if key != name}
        if name in required:
            with pytest.raises(Damaged, match=name):
                read(rest, of)
        elif name not in ("status", "chosen"):
            read(rest, of)


RANGES: list[tuple[int, Path, Any, str]] = [
    (0, ("metrics", "accuracy"), 1.01, "metrics.accuracy"),
    (0, ("metrics", "val_accuracy"), -0.1, "metrics.val_accuracy"),
    (0, ("metrics", "flops"), -1, "metrics.flops"),
    (0, ("metrics", "params"), -1, "metrics.params"),
    (0, ("metrics", "peak_memory_bytes"), -1, "metrics.peak_memory_bytes"),
    (0, ("metrics", "epochs"), 0, "metrics.epochs"),
    (0, ("metrics", "segments"), 0, "metrics.segments"),
    (0, ("history", 0, "epoch"), 0, "epoch"),
    (0, ("history", 0, "val_accuracy"), 2, "val_accuracy"),
    (0, ("history",), [], "history"),
    (0, ("target",), 90, "target"),
    (0, ("status",), "fine", "status"),
    (0, ("spec", "recipe", "epochs"), -1, "epochs: expected 0 to"),
    (0, ("spec", "recipe", "batch_size"), 0, "batch_size: expected 1 to"),
    (0, ("spec", "recipe", "epochs"), 10**17, "epochs: expected 0 to"),
    (0, ("spec", "recipe", "budget"), "lots", "budget that is none"),
    (0, ("spec", "data", "num_classes"), 10**9, "num_classes: expected 1 to 100,000"),
    (0, ("metrics", "flops"), 5e-324, "5e-324 is no plausible number"),
    (0, ("metrics", "wall_seconds"), 1e308, r"1e\+308 is no plausible number"),
    (0, ("history", 0, "train_seconds"), 1e45, "train_seconds"),
    (2, ("samples", 0, "seconds"), 1e45, "seconds"),
    (2, ("num_classes",), 10**9, "num_classes"),
    (2, ("gpu_before",), {"clock": {"deep": {}}}, "gpu_before"),
    (0, ("environment",), {"device": "cpu", "torch": "2"}, "environment lacks device_name, torch_threads"),
    (0, ("run_id",), "another-0123456789", "differs from its file's name"),
    (0, ("modules", 0, "params"), -1, "params"),
    (1, ("status",), "fine", "status"),
    (2, ("samples", 0, "seconds"), 0.0, "seconds"),
    (2, ("samples", 0, "block"), 7, "blocks of .* are not complete"),
    (2, ("samples", 0, "calls"), 0, "calls"),
    (2, ("blocks",), 3, "not complete"),
    (2, ("models",), ["seresnet"], "does not name"),
    (2, ("models",), ["seresnet", "vit_tiny", "seresnet"], "twice"),
    (2, ("stopped",), "early", "stopped"),
    (2, ("recipes", "seresnet", "batch_size"), 0, "batch_size: expected 1 to"),
    (2, ("failures", 0, "status"), "fine", "status"),
    (2, ("ceilings", "launch_seconds"), 0.0, "launch_seconds"),
    (2, ("energy", "joules_per_1000_images"), {"seresnet": -1.0}, "joules"),
    (3, ("candidates", 0, "status"), "fine", "status"),
    (3, ("candidates",), [], "candidates"),
    (3, ("chosen", "memory_format"), "strided", "not among its candidates"),
    (4, ("chosen",), 0.5, "not among its trials"),
    (4, ("trials", 0, "lr"), 0.0, "lr"),
    (4, ("trials", 0, "rung"), 11, "rung"),
    (4, ("trials", 0, "status"), "fine", "status"),
    (4, ("trials", 0, "samples"), -1, "samples"),
]


@pytest.mark.parametrize(("index", "path", "value", "sentence"), RANGES)
def test_a_value_out_of_range_is_damage(index: int, path: Path, value: Any, sentence: str) -> None:
    of = RECORDS[index]
    with pytest.raises(Damaged, match=sentence):
        read(changed(body_of(of), path, value), of)


def test_the_message_names_the_field_first() -> None:
    of = RECORDS[0]
    with pytest.raises(Damaged, match=r"^metrics\.accuracy: expected `float` <= 1\.0$"):
        read(changed(body_of(of), ("metrics", "accuracy"), 1.5), of)


@each
def test_a_record_that_could_not_be_read_is_not_written(of: AnyRecord) -> None:
    if isinstance(of, FinishedRun):
        wrong: AnyRecord = msgspec.structs.replace(of, target=90.0)
    elif isinstance(of, SettingSearch):
        wrong = msgspec.structs.replace(of, chosen=Setting("eager"))
    elif isinstance(of, LRSearch):
        wrong = msgspec.structs.replace(of, chosen=0.5)
    elif isinstance(of, Session):
        wrong = msgspec.structs.replace(of, blocks=0)
    else:
        wrong = msgspec.structs.replace(of, status="fine")  # type: ignore[arg-type]
    with pytest.raises(Damaged):
        encode(wrong)


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        (b'"accuracy": 0.9', b'"accuracy": 0.8', "its checksum does not match"),
        (b'"accuracy": 0.9', b'"accuracy": NaN', "not valid JSON: NaN"),
        (b'"accuracy": 0.9', b'"accuracy": 1e999', "not valid JSON: 1e999"),
        (b'"accuracy": 0.9', b'"accuracy": 0.9, "accuracy": 0.9', "not valid JSON: a field is there twice"),
        (b'"schema": 2', b'"schema": 0', "not a record"),
        (b'"schema": 2', b'"schema": "2"', "not a record"),
        (b'"schema": 2', b'"schema": true', "not a record"),
    ],
)
def test_bytes_that_are_no_record(old: bytes, new: bytes, sentence: str) -> None:
    content = encode(RECORDS[0])
    assert content.count(old) >= 1
    with pytest.raises(Damaged, match=sentence):
        decode(content.replace(old, new, 1), name_of(RECORDS[0]))


def test_schema_1_needs_no_checksum_and_the_future_is_refused() -> None:
    of = RECORDS[0]
    past = {**body_of(of), "schema": 1}
    again = decode(to_json(past), name_of(of))
    assert isinstance(again, FinishedRun)
    assert (again.metrics.segments, again.files) == (1, {})
    with pytest.raises(UserError, match=r"newer version .*schema 3; this one knows 1 to 2"):
        decode(to_json({**past, "schema": 3}), name_of(of))


def test_texts_of_strangers_become_harmless() -> None:
    hostile = record(spec("a\x1b[31m\nb"), 0.9, notes=["\u202ereversed"])
    copy = inert_copy(hostile)
    assert isinstance(copy, FinishedRun)
    assert (copy.spec.model, copy.notes) == ("a�[31m b", ("�reversed",))


def test_different_texts_never_look_the_same() -> None:
    digits = hashlib.sha256(b"a  b").hexdigest()
    assert distinct(["a b", "a  b", "c\n d", "a b"]) == {"a b": "a b", "a  b": f"a b [{digits[:4]}]", "c\n d": "c d"}
    forged = f"a b [{digits[:4]}]"  # a name that looks as the other one would
    assert distinct(["a b", "a  b", forged]) == {"a b": "a b", "a  b": f"a b [{digits[:5]}]", forged: forged}


def test_json_is_written_as_json_itself_indents_it() -> None:
    plain = {
        "b": [],
        "a": {},
        "é\u2028\x7f": 'x"\\/\n',
        "n": [1e-70, 1e22, -0.0, 10**17, None, True, [[{"k": 0}]]],
        "": "x",
    }
    assert to_json(plain).decode() == json.dumps(plain, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    with pytest.raises(ValueError, match="JSON compliant"):
        to_json([float("nan")])
