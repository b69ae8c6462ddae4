"""What a record must look like to be believed. Example: record = checked(content, folder_name)

Everything that is read back from a store passes through here: strict JSON, the version (an older one is migrated, a
newer one refused), the fields, the checksum. What remains wrong is said in a sentence, as `Damaged`.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable
from dataclasses import fields
from functools import cache
from typing import Any

from bench.errors import UserError
from bench.files import from_json, inert, sha256
from bench.spec import LATER_DEFAULTS, DataRef, Recipe, RunSpec, Setting

Record = dict[str, Any]

SCHEMA = 2  # of record.json and of speed sessions; raise it, and add to MIGRATIONS, when a field changes its meaning
STATUSES = ("ok", "oom", "diverged", "failed", "timeout", "killed", "interrupted", "lost")


KINDS = {"samples": "session", "candidates": "tuning", "trials": "search"}  # by a field that only they have


class Damaged(ValueError):
    """A file of the store that cannot be believed; the message says why."""


def seal(record: Record) -> Record:
    """The record with its checksum: SHA-256 over its canonical JSON, so that a flipped bit is noticed."""
    body = {k: v for k, v in record.items() if k != "checksum"}
    return {**body, "checksum": _checksum(body)}


def _checksum(body: Record) -> str:
    return sha256(json.dumps(body, sort_keys=True, allow_nan=False).encode())


def checked(content: bytes, name: str) -> Record:
    """The record or session in `content`, which stands in a folder or file called `name`, in today's schema.

    Raises Damaged, and UserError for a schema of the future.
    """
    try:
        found = from_json(content)
    except (ValueError, RecursionError) as error:
        raise Damaged(f"no valid JSON: {inert(str(error))[:120]}") from None
    version = found.get("schema") if isinstance(found, dict) else None
    if type(version) is not int or version < 1:
        raise Damaged("no record")
    if version > SCHEMA:
        raise UserError(
            f"'{name}' was written by a newer version of this program (schema {version}; this one knows 1 to {SCHEMA});"
            " update the checkout, or name another store with --results"
        )
    if version >= 2 and found.get("checksum") != _checksum({k: v for k, v in found.items() if k != "checksum"}):
        raise Damaged("its checksum does not hold")
    for step in range(version, SCHEMA):
        found = MIGRATIONS[step](found)
    return validate(filled(found), name)


def filled(record: Record) -> Record:
    """A record, session or spec with the fields that came later (spec.LATER), at their defaults: it was made so."""
    new = dict(record)
    for part, defaults in LATER_DEFAULTS.items():
        if isinstance(new.get(part), dict):
            new[part] = {**defaults, **new[part]}
    if isinstance(new.get("spec"), dict):
        new["spec"] = filled(new["spec"])
    later = LATER_DEFAULTS["setting"]
    if isinstance(new.get("settings"), dict):  # a session's, by model
        new["settings"] = {k: {**later, **v} if isinstance(v, dict) else v for k, v in new["settings"].items()}
    if isinstance(new.get("recipes"), dict):  # a session's, by model
        own = LATER_DEFAULTS["recipe"]
        new["recipes"] = {k: {**own, **v} if isinstance(v, dict) else v for k, v in new["recipes"].items()}
    if isinstance(new.get("chosen"), dict):  # a tuning's
        new["chosen"] = {**later, **new["chosen"]}
    if isinstance(new.get("candidates"), list):
        new["candidates"] = [filled(row) if isinstance(row, dict) else row for row in new["candidates"]]
    return new


def validate(record: Record, name: str) -> Record:
    """A record, session or search of today's schema. Raises Damaged that names the first thing wrong."""
    import fastjsonschema

    kind = next((kind for field, kind in KINDS.items() if field in record), "run")
    try:
        _validator(kind)(record)
        if kind == "run" and record["status"] == "ok":
            _validator("finished")(record)
    except fastjsonschema.JsonSchemaValueException as error:
        raise Damaged(inert(error.message)[:200]) from None
    if record["run_id" if kind == "run" else "id"] != name:
        raise Damaged("it stands under another name than its own")
    if kind == "session":
        _check_samples(record)
    if kind == "search" and record["chosen"] not in [None, *(trial["lr"] for trial in record["trials"])]:
        raise Damaged("what it chose is not among its trials")
    if kind == "tuning" and record["chosen"] not in [row["setting"] for row in record["candidates"]]:
        raise Damaged("what it chose is not among its candidates")
    return record


def _check_samples(session: Record) -> None:
    """Whatever was timed has one sample in every block: ratios are taken within blocks."""
    blocks: dict[tuple[str, str, int], list[int]] = defaultdict(list)
    for sample in session["samples"]:
        blocks[sample["model"], sample["kind"], sample["batch_size"]].append(sample["block"])
    wanted = list(range(session["blocks"]))
    for (model, kind, batch_size), found in blocks.items():
        if sorted(found) != wanted:
            raise Damaged(f"its {kind} blocks of {inert(model)} at batch {batch_size} are not complete")
    if {model for model, _, _ in blocks} - {*session["models"]}:
        raise Damaged("it has samples of a model that it does not name")


def _migrate_1(old: Record) -> Record:
    """Schema 1 had no checkpoints, hence one segment a run; ten blocks a session; no checksums, no audit."""
    new = {**old, "schema": 2}
    if isinstance(old.get("samples"), list) and isinstance(old.get("key"), dict):
        key = {k: v for k, v in old["key"].items() if k != "setting"}
        blocks = [s.get("block") for s in old["samples"] if isinstance(s, dict)]
        new |= {
            "key": {**key, "policy": f"identical:{old['key'].get('setting')}"},
            "settings": {},
            "reference": "seresnet",
            "stopped": "blocks",
            "blocks": 1 + max((b for b in blocks if isinstance(b, int)), default=0),
            "build_seconds": {},
            "failures": [],
            "memory": [],
            "warnings": [],
            "first_calls": [],
            "ceilings": None,
            "bounds": {},
            "energy": {"source": "", "why_not": "not measured under schema 1"},
        }
    if old.get("status") == "ok" and isinstance(old.get("metrics"), dict):
        new["metrics"] = {**old["metrics"], "segments": 1, "checkpoint_seconds": 0.0}
        new["files"] = {}
    return new


MIGRATIONS: dict[int, Callable[[Record], Record]] = {1: _migrate_1}

# --- fields --------------------------------------------------------------------------------------------------------

_PLAIN = {
    "str": {"type": "string"},
    "int": {"type": "integer"},
    "float": {"type": "number"},
    "bool": {"type": "boolean"},
}
_TEXT = {"type": "string"}
_COUNT = {"type": "integer", "minimum": 1}
_AMOUNT = {"type": "number", "minimum": 0}
_POSITIVE = {"type": "number", "exclusiveMinimum": 0}
_SHARE = {"type": "number", "minimum": 0, "maximum": 1}
_MAYBE = {"type": ["number", "null"], "minimum": 0}


def _object(required: Record, **more: Any) -> Record:
    return {"type": "object", "required": list(required), "properties": required, **more}


def _where_given(**optional: Any) -> Record:
    """Fields that may be missing, and where they are there are such."""
    return {"dependencies": {name: {"properties": {name: kind}} for name, kind in optional.items()}}


def _of(made: type) -> Record:
    """The fields of a frozen dataclass of bench.spec, whose types are written as text."""
    nested = {"DataRef": DataRef, "Recipe": Recipe, "Setting": Setting}
    return _object(
        {f.name: _of(nested[str(f.type)]) if str(f.type) in nested else _PLAIN[str(f.type)] for f in fields(made)}
    )


def _schemas() -> dict[str, Record]:
    spec = _of(RunSpec)
    recipe = spec["properties"]["recipe"]["properties"]
    recipe |= {"epochs": {"type": "integer", "minimum": 0}, "batch_size": _COUNT}
    facts = {"type": "object", "additionalProperties": {"type": ["string", "number", "boolean", "null"]}}
    epoch = _object(
        {
            "epoch": _POSITIVE,
            **dict.fromkeys(("train_loss", "val_loss", "lr", "train_seconds"), _AMOUNT),
            "val_accuracy": _SHARE,
            "samples_seen": _COUNT,
        }
    )
    metrics = {
        **dict.fromkeys(("accuracy", "val_accuracy"), _SHARE),
        **dict.fromkeys(("test_loss", "train_seconds", "first_step_seconds", "checkpoint_seconds"), _AMOUNT),
        **dict.fromkeys(("flops", "params", "activations", "peak_memory_bytes", "loop_images_per_second"), _MAYBE),
        **dict.fromkeys(("train_images", "test_images", "samples_seen", "segments"), _COUNT),
        "epochs": _POSITIVE,
    }
    sample = {
        **dict.fromkeys(("model", "kind"), _TEXT),
        **{k: {"type": "integer", "minimum": 0, "maximum": 1_000_000} for k in ("block", "position")},
        **dict.fromkeys(("batch_size", "calls"), _COUNT),
        "seconds": _POSITIVE,
    }
    failure = {**dict.fromkeys(("model", "kind", "message"), _TEXT), "status": {"enum": list(STATUSES)}}
    failure |= {"batch_size": {"type": ["integer", "null"], "minimum": 1}}
    memory = {
        **dict.fromkeys(("model", "kind"), _TEXT),
        "batch_size": _COUNT,
        "bytes": _MAYBE,
        "reserved_bytes": _MAYBE,
    }
    bound = {
        "name": {"enum": ["launch", "bandwidth", "compute", "loader"]},
        "share": _AMOUNT,
        "shares": {"type": "object", "additionalProperties": _AMOUNT},
        **dict.fromkeys(("flops_per_second", "flops_2x", "twice_the_batch"), _MAYBE),
        **dict.fromkeys(("operators", "bytes"), _COUNT),
        "step_seconds": _POSITIVE,
        "experiment": _TEXT,
    }
    ceilings = {"required": ["flops_per_second", "bytes_per_second", "launch_seconds", "loader_images_per_second"]}
    whole = {"type": "integer", "minimum": 0}
    module = {"name": _TEXT, **dict.fromkeys(("params", "flops", "activations"), whole)}
    groups = _object({"step_seconds": _POSITIVE, "groups": {"type": "object", "additionalProperties": _AMOUNT}})
    joules = {"type": "object", "additionalProperties": _AMOUNT}
    texts = {"type": "array", "items": _TEXT}
    candidate = {
        "setting": _of(Setting),
        "status": {"enum": [*STATUSES, "slower", "untried"]},
        "message": _TEXT,
        "seconds": {"type": "array", "items": _POSITIVE},
    }
    yes_or_no = {"type": "boolean"}
    provenance = {**dict.fromkeys(("source", "version", "like"), _TEXT), "official": yes_or_no, "checked": yes_or_no}
    trial = {
        "lr": _POSITIVE,
        "rung": {"type": "integer", "minimum": 0, "maximum": 10},
        "status": {"enum": list(STATUSES)},
        "message": _TEXT,
        **dict.fromkeys(("samples", "train_seconds"), _AMOUNT),
        "val_accuracy": {"type": ["number", "null"], "minimum": 0, "maximum": 1},
        "val_loss": _MAYBE,
    }
    return {
        "search": _object(
            {
                **dict.fromkeys(("id", "started", "budget"), _TEXT),
                "spec": spec,
                "trials": {"type": "array", "items": _object(trial)},
                "chosen": {"type": ["number", "null"], "exclusiveMinimum": 0},
                "edge": {"type": "boolean"},
            }
        ),
        "tuning": _object(
            {
                **dict.fromkeys(("id", "started", "model", "source"), _TEXT),
                "key": facts,
                "recipe": spec["properties"]["recipe"],
                "num_classes": _COUNT,
                "limit_seconds": _POSITIVE,
                "candidates": {"type": "array", "items": _object(candidate), "minItems": 1},
                "chosen": _of(Setting),
                "environment": facts,
            }
        ),
        "run": _object(
            {"run_id": _TEXT, "status": {"enum": list(STATUSES)}, "spec": spec, "family": _TEXT, "started": _TEXT},
            **_where_given(
                message=_TEXT,
                target=_SHARE,
                provenance=_object(provenance),
                modules={"type": "array", "items": _object(module)},
            ),
        ),
        "finished": _object(
            {
                "metrics": _object(metrics, additionalProperties={"type": ["number", "string", "null"]}),
                "history": {"type": "array", "items": epoch, "minItems": 1},
                "notes": texts,
                "classes": texts,
                "files": {"type": "object", "additionalProperties": _TEXT},
                "environment": {**facts, "required": ["device", "device_name", "torch", "torch_threads"]},
            }
        ),
        "session": _object(
            {
                "id": _TEXT,
                "started": _TEXT,
                "models": {**texts, "minItems": 1, "uniqueItems": True},
                "sources": {"type": "object", "additionalProperties": _TEXT},
                "key": facts,
                "recipe": spec["properties"]["recipe"],
                "num_classes": _COUNT,
                "samples": {"type": "array", "items": _object(sample), "minItems": 1},
                "first_calls": {"type": "array", "items": _object(sample)},
                "settings": {
                    "type": "object",
                    "additionalProperties": {"type": "object", "additionalProperties": {"type": ["string", "boolean"]}},
                },
                "reference": _TEXT,
                "stopped": {"enum": ["narrow", "limit", "blocks", "alone"]},
                "blocks": {"type": "integer", "minimum": 1, "maximum": 1_000_000},
                "build_seconds": {"type": "object", "additionalProperties": _AMOUNT},
                "failures": {"type": "array", "items": _object(failure)},
                "memory": {"type": "array", "items": _object(memory)},
                "warnings": texts,
                "ceilings": {"type": ["object", "null"], "additionalProperties": _POSITIVE, **ceilings},
                "bounds": {"type": "object", "additionalProperties": _object(bound)},
                "energy": _object({"source": _TEXT, "why_not": _TEXT}, **_where_given(joules_per_1000_images=joules)),
                "environment": facts,
            },
            **_where_given(
                recipes={"type": "object", "additionalProperties": spec["properties"]["recipe"]},
                half_width=_POSITIVE,
                planned_blocks=_COUNT,
                limit_seconds=_AMOUNT,
                seconds=_AMOUNT,
                groups={"type": "object", "additionalProperties": groups},
            ),
        ),
    }


@cache
def _validator(kind: str) -> Callable[[Record], Any]:
    import fastjsonschema  # not at the top: a typo's answer needs none of it

    return fastjsonschema.compile(_schemas()[kind], detailed_exceptions=False)
