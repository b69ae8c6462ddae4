"""Runs as TensorBoard's event files, one folder per run. Example: write(runs, Path("tensorboard"))

Written by tensorboard's own protocol buffers, without TensorFlow. A run's file is replaced whole, so exporting again
shows nothing twice.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bench.core.files import write_atomically
from bench.present.export.runs import ExportedRun

FILE = "events.out.tfevents.sevit-bench"  # TensorBoard reads files whose name has "tfevents" in it
FIELDS = {bool: "bool_value", str: "string_value"}  # of a parameter by its type; others are numbers


def write(runs: Iterable[ExportedRun], folder: Path) -> int:
    """Write `folder`/RUN_ID/events… for every run; returns how many. Raises ImportError without tensorboard."""
    count = 0
    for run in runs:
        write_atomically(folder / run.run_id / FILE, content(run))
        count += 1
    return count


def content(run: ExportedRun) -> bytes:
    """The event file of one run. Raises ImportError without tensorboard."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.plugins.hparams import api_pb2, metadata
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo, SessionStartInfo
    from tensorboard.summary.writer.record_writer import RecordWriter

    def scalar(name: str, value: float) -> Summary:
        return Summary(value=[Summary.Value(tag=name, simple_value=value)])

    def hparams(tag: str, **fields: Any) -> Summary:
        about = metadata.create_summary_metadata(HParamsPluginData(**fields))
        return Summary(value=[Summary.Value(tag=tag, metadata=about, tensor=metadata.NULL_TENSOR)])

    # A group of its own for each run: TensorBoard would average the runs of one group.
    start = SessionStartInfo(group_name=run.run_id, start_time_secs=run.started)
    for key, value in run.parameters.items():
        setattr(start.hparams[key], FIELDS.get(type(value), "number_value"), value)
    end = SessionEndInfo(status=api_pb2.STATUS_SUCCESS, end_time_secs=run.ended)
    file = io.BytesIO()
    writer = RecordWriter(file)
    for event in (
        Event(wall_time=run.started, file_version="brain.Event:2"),
        Event(wall_time=run.started, summary=hparams(metadata.SESSION_START_INFO_TAG, session_start_info=start)),
        *(
            Event(wall_time=point.time, step=point.step, summary=scalar(name, point.value))
            for name, points in run.curves.items()
            for point in points
        ),
        *(Event(wall_time=run.ended, step=run.last, summary=scalar(*figure)) for figure in run.figures.items()),
        Event(wall_time=run.ended, summary=hparams(metadata.SESSION_END_INFO_TAG, session_end_info=end)),
    ):
        writer.write(event.SerializeToString())
    return file.getvalue()
