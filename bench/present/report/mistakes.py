"""A model's most confident mistakes, with images. Example: mistakes(title, run, rival_runs, stores, gallery).images"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.present.report.confusion import answers_of, class_name
from bench.present.report.gallery import Gallery
from bench.store.disk import Store
from bench.store.predictions import Arrays
from bench.store.records import FinishedRun

MOST_IMAGES = 12


@dataclass(frozen=True)
class WrongImage:
    """A misclassified test image; `png` has the pixels that the model saw, not enlarged."""

    index: int  # in the test part
    true: str
    predicted: str
    other: str  # the other model's prediction; "" where there is none
    loss: float  # cross-entropy in nats
    png: bytes


@dataclass(frozen=True)
class Mistakes:
    """The errors of highest loss of a model's first seed in one comparison; `why_not` where none can be shown."""

    subject: str
    seed: int
    other_model: str = ""
    wrong: int = 0  # misclassified test images
    of: int = 0
    images: tuple[WrongImage, ...] = ()
    why_not: str = ""


def mistakes(
    subject: str, run: FinishedRun, rival_runs: Sequence[FinishedRun], stores: list[Store], gallery: Gallery
) -> Mistakes:
    """The misclassified test images of highest loss, with the prediction of another model's run.

    Of the other model's runs it takes the one of the same seed, else the first that can be read. `why_not` says what
    keeps images from being shown.
    """
    sheet = Mistakes(subject, run.spec.seed)
    answers = answers_of(run, stores)
    if answers is None:
        return replace(sheet, why_not="The predictions are missing or damaged.")
    label = answers["test_label"]
    wrong = np.flatnonzero(answers["test_predicted"] != label)
    other_model, others = _rival_answers(run, answers, rival_runs, stores)
    sheet = replace(sheet, other_model=other_model, wrong=len(wrong), of=len(label))
    losses = answers.get("test_loss")
    if not len(wrong):
        return replace(sheet, why_not="Every test image was classified correctly.")
    if losses is None:
        return replace(sheet, why_not="The predictions hold no losses that could rank the images.")
    part = gallery.test_part(run)
    if isinstance(part, str):
        return replace(sheet, why_not=part)
    pixels, labels = part
    if not np.array_equal(labels, label):
        return replace(sheet, why_not="The images on this machine are in another order than the predictions.")
    worst = wrong[np.argsort(-np.nan_to_num(losses[wrong], nan=-1.0), kind="stable")][:MOST_IMAGES]
    images = [
        WrongImage(
            index=int(i),
            true=class_name(run, label[i]),
            predicted=class_name(run, answers["test_predicted"][i]),
            other="" if others is None else class_name(run, others[i]),
            loss=float(losses[i]),
            png=to_png(pixels[i]),
        )
        for i in worst
    ]
    return replace(sheet, images=tuple(images))


def _rival_answers(
    run: FinishedRun, answers: Arrays, rival_runs: Sequence[FinishedRun], stores: list[Store]
) -> tuple[str, npt.NDArray[Any] | None]:
    """The other model and its predictions; ("", None) where there are none for the same images."""
    for rival in sorted(rival_runs, key=lambda one: one.spec.seed != run.spec.seed):
        others = answers_of(rival, stores)
        if others is not None and np.array_equal(others["test_label"], answers["test_label"]):
            return rival.spec.model, others["test_predicted"]
    return "", None


def to_png(pixels: npt.NDArray[np.uint8]) -> bytes:
    """(S, S, 3) as a PNG of the same pixels."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
