"""One table for the `cost` command, whatever the format."""

from __future__ import annotations

import csv

from bench.core.events import ModelCounted, ModulePart
from bench.present.cost_table import FORMATS, head, line, module_table, notes_of

SERESNET = ModelCounted(
    model="seresnet",
    image_size=32,
    stem="3x3, stride 1",
    resolutions="32x32, 16x16, 8x8",
    params=861_818,
    flops=127_105_568,
    activations=545_849,
    train_flops_2x=753_638_592,
    audit="equal",
    modules=(
        ModulePart(name="", params=861_818, flops=127_105_568, activations=545_849),
        ModulePart(name="layer1", params=43_038, flops=43_204_896, activations=300_000),
    ),
)
STRANGE = ModelCounted(
    model="timm:vit_tiny_patch16_224[depth=2,img_size=32]|x",
    image_size=1024,
    stem="patch 64, 15 channels",
    resolutions="8x8+1",
    params=1,
    flops=1_186_531_840,
    activations=2,
    train_flops_2x=None,
    audit="mismatch",
    notes=("FLOPs of these operators are not counted: " + ", ".join(f"aten::operator_{n}" for n in range(9)),),
)


def test_text_fits_eighty_columns_with_every_figure() -> None:
    lines = "\n".join([head("text"), line(SERESNET, "text"), line(STRANGE, "text")]).splitlines()
    assert max(map(len, lines)) <= 80
    first, second, figures, more = lines[:4]
    assert figures.split() == ["seresnet", "32", "861,818", "127,105,568", "545,849", "equal"]
    assert more.split("  ")[1] == "3x3, stride 1; 32x32, 16x16, 8x8"
    for heads, row, title, figure in (
        (first, figures, "parameters", "861,818"),
        (first, figures, "multiply-adds", "127,105,568"),
        (first, figures, "activations", "545,849"),
        (second, more, "flops_2x", "254,211,136"),
        (second, more, "train_flops_2x", "753,638,592"),
    ):
        assert heads.index(f" {title}") + len(title) == row.index(f" {figure}") + len(figure), title
    assert STRANGE.model in lines, "a long name has a line of its own"
    assert "aten::operator_8" in lines[-1]


def test_markdown_and_csv_have_one_line_per_model() -> None:
    cells = (
        "`seresnet` | 32 | 3x3, stride 1 | 32x32, 16x16, 8x8 | 861,818 | 127,105,568 | 545,849 | 753,638,592 | equal"
    )
    assert line(SERESNET, "markdown") == f"| {cells} |"
    assert line(STRANGE, "markdown").count("|") == head("markdown").splitlines()[0].count("|") + 1
    assert "\\|x" in line(STRANGE, "markdown")
    first, second = csv.DictReader([head("csv"), line(SERESNET, "csv"), line(STRANGE, "csv")])
    assert (first["px"], first["stem"], first["multiply-adds"]) == ("32", "3x3, stride 1", "127105568")
    assert second["train_flops_2x"] == "–"
    assert all("operator_8" not in line(STRANGE, style) for style in FORMATS[1:])
    assert notes_of(STRANGE)[0].startswith(f"{STRANGE.model}, 1024 px: FLOPs")


def test_parts_of_a_model() -> None:
    heads, whole, part = module_table(SERESNET).splitlines()
    assert heads.split() == ["parameters", "multiply-adds", "activations"]
    assert whole.split() == ["seresnet", "861,818", "127,105,568", "545,849"]
    assert part.split() == ["layer1", "43,038", "43,204,896", "300,000"]
