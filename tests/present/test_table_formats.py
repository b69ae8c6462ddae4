"""Six formats of one table: the same figures, honest gaps, names that stay inert."""

from __future__ import annotations

import csv
import html
import io
import math
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest

from bench.analysis.frames import frame
from bench.analysis.tables import ABOUT, COLUMNS, Comparison, compare
from bench.core.files import from_json
from bench.core.stats import Interval
from bench.present.table_formats import FORMATS, plus_minus, render, to_frame
from bench.store.disk import Store
from tests.synthetic import failure, record, spec, write_store

COLUMN = {column.key: column for column in COLUMNS}
HOSTILE = [
    *("_x", "a$\\frac{$b", "NA", "007", "=cmd|x", "<img onerror>", "a|b & 50%", "[red]name", "../../x", "*", "a~b^c"),
    *("</table><script>alert(1)</script>", '"><b onclick="x">', "x" * 200, "--", "{}", "</td>&amp;", "**bold**"),
]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return write_store(
        tmp_path / "s", {"vit_tiny": 0.8, "seresnet": 0.9}, {"seresnet": [1.0, 1.0, 2.0], "vit_tiny": [2.0, 2.0, 4.0]}
    )


def with_gaps(store: Store) -> list[Comparison]:
    """One model more, whose FLOPs were not counted and whose run shared the device, and a failed run."""
    of, failed = spec("resnet56"), spec("simple_vit")
    store.write_record(record(of, 0.7, metrics={"runs_at_once": 2, "flops": None}))
    store.write_failure(failure(failed))
    return compare([store])


class Cells(HTMLParser):
    """The rows of all tables as (tag, scope, text), and every tag and attribute there is."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[list[str]]] = []
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open.append(tag)
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag == "tr":
            self.rows.append([])
        if tag in ("th", "td"):
            self.rows[-1].append([tag, dict(attrs).get("scope") or "", ""])

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, "closed in order"

    def handle_data(self, data: str) -> None:
        if {"th", "td"} & {*self.open}:
            self.rows[-1][-1][2] += data


def test_a_narrow_terminal_loses_nothing(store: Store) -> None:
    wide, narrow = (render(compare([store]), "text", width) for width in (140, 60))
    assert max(len(line) for line in narrow.splitlines() if line.startswith(("seresnet", "vit"))) <= 60
    for figure in ("90.00", "127.1", "0.862", "0.500×"):
        assert figure in wide
        assert figure in narrow


def test_notes_and_titles_wrap_at_words(store: Store) -> None:
    lines = render(with_gaps(store), "text", 80).splitlines()
    assert max(map(len, lines)) <= 80
    wide = render(with_gaps(store), "text", 10_000).splitlines()
    assert " ".join(" ".join(lines[:2]).split()) == wide[0], "the title"
    for note in (line for line in wide if line.startswith("· ")):
        assert note in " ".join(" ".join(lines).split())


def test_a_long_name_breaks_no_figure(tmp_path: Path) -> None:
    store = write_store(tmp_path, {"x" * 300: 0.8, "seresnet": 0.9})
    text = render(compare([store]), "text", 60)
    assert all(figure in text for figure in ("90.00", "−0.60 +0.57", "127.1", "0.862"))
    assert "…" not in text


@pytest.mark.parametrize(
    ("interval", "shown"),
    [
        ((0.5679, 0.5582, 0.5776), "± 0.97"),
        ((0.99, 0.981, 0.995), "−0.90 +0.50"),
        ((0.5679, 0.55821, 0.57762), "± 0.97"),  # differ where it is not shown
        ((1.0, 0.9996, 1.0), "−0.04 +0.00"),
        ((0.5, float("nan"), float("nan")), ""),
    ],
)
def test_plus_minus_only_where_both_halves_are_equal(interval: tuple[float, float, float], shown: str) -> None:
    assert plus_minus(Interval(*interval, 3), COLUMN["accuracy"]) == shown


def test_the_best_is_marked_in_every_format_and_explained(store: Store) -> None:
    made = compare([store])
    for style, best, note in (
        ("text", "90.00*", "· *: the best"),
        ("markdown", "**90.00** −0.60 +0.57", "- Bold: the best"),
        ("latex", r"\textbf{90.00} $-$0.60 +0.57", "% Bold: the best"),
        ("html", "<strong>90.00</strong> −0.60 +0.57", "<li>Bold: the best"),
    ):
        text = render(made, style)
        assert best in text
        assert text.count(note) == 1
    (vit,) = (line for line in render(made, "markdown").splitlines() if line.startswith("| vit"))
    assert vit.count("**") == 2
    assert "**63.6**" in vit, "it has fewer FLOPs, and nothing else is better"


def test_one_model_is_never_the_best(tmp_path: Path) -> None:
    made = compare([write_store(tmp_path, {"seresnet": 0.9}, {"seresnet": [1.0, 1.0]})])
    for style, mark in (("text", "*"), ("markdown", "| **"), ("latex", "textbf"), ("html", "<strong>")):
        assert mark not in render(made, style)
        assert "the best" not in render(made, style)


def test_failures_are_shown_with_their_reason(store: Store) -> None:
    made = with_gaps(store)
    for style in FORMATS:
        text = render(made, style).replace("\\", "")
        assert "simple_vit" in text
        assert "out of memory at batch 128" in text


def test_a_store_of_failures_only(tmp_path: Path) -> None:
    store, of = Store(tmp_path), spec("simple_vit")
    store.write_failure(failure(of))
    for style in FORMATS:
        assert "simple_vit" in render(compare([store]), style).replace("\\", "")
        assert "oom" in render(compare([store]), style)


def test_no_comparison_at_all() -> None:
    for style in ("text", "markdown", "latex", "html"):
        assert "no finished runs" in render([], style)
    assert from_json(render([], "json").encode()) == []
    assert len(render([], "csv").splitlines()) == 1, "the head"


def test_an_empty_cell_is_explained_in_every_format(store: Store) -> None:
    made = with_gaps(store)
    for style in ("text", "markdown", "latex"):
        text = render(made, style).replace("\\", "")
        assert "–: runs shared the device: training, s of resnet56." in text
        assert "–: not counted: FLOPs, M mult-adds of resnet56." in text
        assert text.count("not timed together with the others") == 1, "there is a note already"
    shown = Cells(render(made, "html")).rows
    (row,) = (row for row in shown if row[0][2] == "resnet56")
    assert [cell[2] for cell in row if cell[2].startswith("–")] == [
        "– runs shared the device",
        *["– not timed together with the others"] * 3,
        "– not counted",
    ]
    (row,) = (row for row in from_json(render(made, "json").encode())[0]["rows"] if row["model"] == "resnet56")
    assert row["figures"]["flops"]["value"] is None
    assert row["figures"]["flops"]["missing"] == "not counted"


def test_columns_in_the_order_asked_for_and_no_others(store: Store) -> None:
    made, columns = with_gaps(store), (COLUMN["flops"], COLUMN["samples_seen"], COLUMN["accuracy"])
    (head,) = (line for line in render(made, "markdown", columns=columns).splitlines() if line.startswith("| model"))
    assert head == "| model | FLOPs, M mult-adds | samples seen, thousands | test accuracy, % ± 95 % interval |"
    assert "the same for all under a budget in epochs" in render(made, "text", columns=columns)
    for style in FORMATS:
        assert "latency" not in render(made, style, 10_000, columns).replace("speed or latency", "")
    read = pd.read_csv(io.StringIO(render(made, "csv", columns=columns[2:])))
    assert list(read.columns)[-4:] == ["accuracy", "accuracy_low", "accuracy_high", "message"]


def test_csv_holds_numbers_in_base_units(store: Store) -> None:
    read = pd.read_csv(io.StringIO(render(compare([store]), "csv"))).set_index("model")
    assert read.loc["seresnet", "flops"] == 127_105_568
    assert read.loc["vit_tiny", "train_images_per_second_ratio_low"] == pytest.approx(0.5 * math.exp(-0.02))
    assert len(to_frame(compare([store]))) == 2


def test_json_says_what_every_number_is(store: Store) -> None:
    (comparison,) = compare([store])
    (read,) = from_json(render([comparison], "json").encode())  # strict: no nan
    assert read["about"] == {name: getattr(comparison.conditions, name) for name in ABOUT}
    seresnet, vit = read["rows"]
    accuracy = seresnet["figures"]["accuracy"]
    value = comparison.rows[0].values["accuracy"]
    assert (accuracy["value"], accuracy["low"], accuracy["high"], accuracy["n"]) == tuple(value)
    assert (accuracy["unit"], accuracy["ends"], accuracy["best"]) == ("share", "95 % interval", True)
    speed = vit["figures"]["train_images_per_second"]
    assert (speed["unit"], speed["ends"], speed["best"]) == ("images/s", "quartiles", False)
    assert speed["ratio"]["value"] == pytest.approx(0.5)
    assert speed["ratio"]["ends"] == "95 % interval"
    flops = seresnet["figures"]["flops"]
    assert (flops["value"], flops["unit"], flops["ends"]) == (127_105_568, "mult-adds", "extremes")
    assert flops["audited"]
    assert flops["ratio"] == {"value": 1.0, "low": None, "high": None, "ends": None}
    assert read["notes"][: len(comparison.notes)] == list(comparison.notes)


def test_html_is_a_table_for_all_readers(store: Store) -> None:
    head, *rows = Cells(render(with_gaps(store), "html")).rows
    assert [cell[1] for cell in head] == ["col"] * len(head)
    assert all([tag for tag, _, _ in row] == ["th", *["td"] * (len(head) - 1)] for row in rows)
    assert all(row[0][1] == "row" for row in rows)
    assert all(text for row in rows for _, _, text in row), "no cell is blank"
    assert [cell[2] for cell in head][1:3] == ["test accuracy, % ± 95 % interval", "training, s"]


def unescaped(line: str, sign: str) -> int:
    return len(re.findall(rf"(?<!\\){re.escape(sign)}", line))


def test_latex_is_well_formed_whatever_the_names(tmp_path: Path) -> None:
    """No LaTeX here: braces are balanced, rows have as many cells as columns, nothing is read as an argument."""
    names = {name: 0.5 + i / 100 for i, name in enumerate(HOSTILE)}
    (comparison,) = compare([write_store(tmp_path, {"seresnet": 0.9, **names})])
    text = render([replace(comparison, title="two\nlines\r\\input{x}\x0band\u2028more")], "latex")
    lines = [line for line in text.split("\n") if line and not line.startswith("%")]
    assert lines[0].startswith(r"\begin{tabular}{l")
    assert lines[-1] == r"\end{tabular}"
    *rows, beneath = [line for line in lines if line.endswith(r" \\")]
    assert len(rows) == len(names) + 2
    assert len(rows) == len(lines) - 6, "what stands beneath, and three rules between begin and end"
    assert re.fullmatch(r"\\multicolumn\{\d+\}\{p\{0\.95\\linewidth\}\}\{\\footnotesize (.*)\} \\\\", beneath)
    assert r"two lines \textbackslash{}input\{x\} and more" in beneath
    columns = re.fullmatch(r"\\begin\{tabular\}\{(l+r+)\}", lines[0])
    assert columns is not None
    assert {unescaped(row, "&") for row in rows} == {len(columns[1]) - 1}
    for row in [*rows, beneath]:
        assert not row.startswith(("[", "*"))
        assert unescaped(row, "{") == unescaped(row, "}")
        assert unescaped(row, "$") % 2 == 0
        assert not unescaped(row, "%") + unescaped(row, "#") + unescaped(row, "~") + unescaped(row, "^")
        commands = re.findall(r"\\([a-zA-Z]+)", row)
        assert {*commands} <= {"textbackslash", "textless", "textgreater", "textbar", "textasciitilde"} | {
            *("textasciicircum", "textbf", "times", "pm", "cdot", "dagger", "multicolumn", "linewidth", "footnotesize")
        }


def test_hostile_names_stay_inert(tmp_path: Path) -> None:
    store = write_store(tmp_path / "s", {name: 0.5 + i / 100 for i, name in enumerate(HOSTILE)})
    comparisons = compare([store])
    assert sorted(frame([store])["model"]) == sorted(HOSTILE)
    text = render(comparisons, "text", 300)
    assert all(name in text for name in HOSTILE)
    assert r"a\$\textbackslash{}frac\{\$b" in render(comparisons, "latex")
    assert r"\<img onerror\>" in render(comparisons, "markdown")
    assert all(path.is_relative_to(tmp_path) for path in (tmp_path / "s").rglob("*"))
    assert len(list((tmp_path / "s" / "runs").iterdir())) == len(HOSTILE)
    cells = [cell for row in csv.reader(io.StringIO(render(comparisons, "csv"))) for cell in row]
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@"))]
    page = Cells(render(comparisons, "html"))
    assert page.tags == {*("div", "table", "caption", "thead", "tbody", "tr", "th", "td", "span", "strong", "ul", "li")}
    assert page.attributes == {"class", "scope"}
    assert {row[0][2] for row in page.rows} == {"model", *HOSTILE}
    (read,) = from_json(render(comparisons, "json").encode())
    assert sorted(row["model"] for row in read["rows"]) == sorted(HOSTILE)
    (row,) = (line for line in render(comparisons, "markdown").splitlines() if line.startswith("| a\\|b"))
    assert row.startswith(r"| a\|b \& 50% |")


def test_a_hostile_failure_stays_inert(store: Store) -> None:
    of = spec("simple_vit")
    store.write_failure(failure(of, message='<script>alert("1")</script>\n\\end{document}'))
    made = compare([store])
    text = render(made, "html")
    assert "<script" not in text
    assert "<script>" in html.unescape(text)
    assert r"\end{document}" not in "\n".join(
        line for line in render(made, "latex").split("\n") if not line.startswith("%")
    )
    assert r"\<script\>" in render(made, "markdown")


def test_the_same_store_gives_the_same_bytes(store: Store, tmp_path: Path) -> None:
    with_gaps(store)
    shutil.copytree(store.root, tmp_path / "copy")
    for style in FORMATS:
        assert render(compare([store]), style) == render(compare([Store(tmp_path / "copy")]), style)
