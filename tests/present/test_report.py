"""The report as a file: what it holds, what it lets a browser do, what it says of stores with little in them."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from bench.present.charts.build import charts_of
from bench.present.charts.interactive import escape, figure
from bench.present.charts.model import Axis, Chart, Look, Mark, Series
from bench.present.report.page import build
from bench.store.disk import Store
from tests.conftest import ROOT
from tests.report_stores import HOSTILE, STORES
from tests.synthetic import RECIPE, record, spec

Here = Callable[..., CompletedProcess[str]]


class Elements(HTMLParser):
    """Every element with its attributes, and the text of scripts."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.text: list[str] = []
        self.within = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.within = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self.within = ""

    def handle_data(self, data: str) -> None:
        if self.within == "script":
            self.scripts[-1] += data
        else:
            self.text.append(data)


def parsed(page: bytes) -> Elements:
    elements = Elements()
    elements.feed(page.decode())
    return elements


def unpacked(text: str) -> str:
    return gzip.decompress(base64.b64decode(text)).decode()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The report of each of STORES, without the images for readers without a script."""
    root = tmp_path_factory.mktemp("stores")
    return {name: build([make(root / name)], still=False) for name, make in STORES.items()}


@pytest.mark.parametrize("name", STORES)
def test_only_the_pages_own_scripts_may_run(pages: dict[str, bytes], name: str) -> None:
    page = parsed(pages[name])
    (policy,) = [a["content"] for tag, a in page.elements if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None
    assert "unsafe-eval" not in policy
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    (rule,) = [rule for rule in policy.split("; ") if rule.startswith("script-src ")]
    kinds = [a.get("type") for tag, a in page.elements if tag == "script"]
    run = [text for kind, text in zip(kinds, page.scripts, strict=True) if kind is None]
    assert len(run) == 1
    if len(kinds) == 3:  # the library comes packed, and may run when it is unpacked
        run.insert(0, unpacked(page.scripts[1]))
    hashes = [f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in run]
    assert rule.split(" ")[1:] == hashes
    assert not [a for _, a in page.elements if any(key.startswith("on") for key in a)]


@pytest.mark.parametrize("name", STORES)
def test_it_loads_nothing(pages: dict[str, bytes], name: str) -> None:
    for tag, attributes in parsed(pages[name]).elements:
        for key in ("src", "href", "data", "action", "srcset", "poster"):
            address = attributes.get(key)
            assert address is None or address.startswith(("#", "data:")), (tag, address)


def test_hostile_names_are_text(pages: dict[str, bytes]) -> None:
    page = parsed(pages["hostile"])
    text = "".join(page.text)
    assert all(name in text for name in HOSTILE)
    assert "49" not in [word for part in page.text for word in part.split()], "{{ 7 * 7 }} is no sum"
    assert len(json.loads(unpacked(page.scripts[0]))) > 5


def test_the_same_store_makes_the_same_page(tmp_path: Path) -> None:
    store = STORES["one_model"](tmp_path / "s")
    assert build([store], still=False) == build([store], still=False)  # of images, test_static


def test_every_row_of_the_store_is_in_the_table(pages: dict[str, bytes]) -> None:
    rows = [a for tag, a in parsed(pages["full"]).elements if tag == "tr" and "data-facets" in a]
    assert len(rows) == 3 * 4 + 1, "four models under three conditions, and one failure"
    facets = [json.loads(str(row["data-facets"])) for row in rows]
    assert {f["dataset"] for f in facets} == {"cifar10", "digits"}
    assert "Bold: the best of the rows shown" in pages["full"].decode()


def test_no_cell_is_blank(pages: dict[str, bytes]) -> None:
    for name, page in pages.items():
        table = re.search(r'<table id="results">(.*?)</table>', page.decode(), re.DOTALL)
        for cell in re.findall(r"<td[^>]*>(.*?)</td>", table[1], re.DOTALL) if table else []:
            shown = re.sub(r"<[^>]+>", "", cell).strip()
            assert shown, name
            assert shown not in ("–", "-", "nan", "None"), name


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("empty", "There are no runs yet."),
        ("one_run", "trains both and times them together."),
        ("failures", "oom at step 7"),
        ("one_model", "Charts without data in these stores"),
    ],
)
def test_what_a_page_says_without_much_data(pages: dict[str, bytes], name: str, text: str) -> None:
    assert text in pages[name].decode()


def test_the_csv_files_are_whole(tmp_path: Path) -> None:
    store = STORES["full"](tmp_path / "s")
    page = parsed(build([store], still=False))
    links = {a["download"]: str(a["href"]) for tag, a in page.elements if "download" in a}
    for name in ("results.csv", "speed.csv", "history.csv", "timings.csv", "environment.csv"):
        head, _, content = links[name].partition(",")
        assert head == "data:text/csv;base64"
        assert base64.b64decode(content) == (store.root / name).read_bytes()


def test_committed_pages_show_no_images_but_digits(pages: dict[str, bytes]) -> None:
    stores = [Store(ROOT / "results/reference/cpu-2core/digits"), Store(ROOT / "results/reference/cpu-2core/sane")]
    page = build(stores, images="digits", still=False).decode()
    shown = re.findall(r"<h4>([^<]*)</h4>\n<p class=\"small\">[^<]*</p>\n<ul class=\"wrong\">", page)
    assert shown
    assert all(title.startswith("digits ") for title in shown)


def test_the_command(tmp_path: Path, here: Here) -> None:
    store = STORES["one_run"](tmp_path / "a store")
    done = here("report", "--results", store.root)
    assert done.returncode == 0, done.stderr
    assert (store.root / "report.html").read_bytes().startswith(b"<!doctype html>")
    assert "report.html" in done.stdout
    assert "MB" in done.stdout
    empty = STORES["empty"](tmp_path / "empty")
    assert here("report", "--results", empty.root, "--out", tmp_path / "x.html").returncode == 0
    assert "There are no runs yet." in (tmp_path / "x.html").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["report", "--results", "nowhere"], "no store 'nowhere'"),
        (["report", "--results", "docs"], "the store 'docs' holds no runs yet"),
        (["report", "--images", "some"], "choose from"),
        (["plot", "--formats", "png,gif"], "--formats takes png, svg, pdf by commas, not 'gif'"),
        (["plot", "--widths", "3"], "--widths takes 1, 2 by commas, not '3'"),
    ],
)
def test_bad_words_get_one_sentence(words: list[str], message: str, here: Here) -> None:
    done = here(*words)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_page_that_cannot_be_written_is_an_error(tmp_path: Path, here: Here) -> None:
    store = STORES["empty"](tmp_path / "s")
    (tmp_path / "file").write_text("")
    done = here("report", "--results", store.root, "--out", tmp_path / "file" / "x.html")
    assert done.returncode == 2
    assert "cannot be written" in done.stderr


# --- charts as plotly reads them -------------------------------------------------------------------------------------


def chart(*series: Series, **changes: Any) -> Chart:
    about: dict[str, Any] = {"key": "k", "stem": "k", "title": "t", "x": Axis("x"), "y": Axis("y"), "caption": ""}
    looks = {one.model: Look("#D55E00", "square", 1) for one in series}
    return Chart(**{**about, "series": series, "looks": looks, "subject": "s", **changes})


def test_figures_are_strict_json(tmp_path: Path) -> None:
    for name, make in STORES.items():
        for one in charts_of([make(tmp_path / name)])[0]:
            json.dumps(figure(one), allow_nan=False)


def test_intervals_become_lengths_and_nothing_else_does() -> None:
    marks = (Mark(1, 5, y_low=4, y_high=7), Mark(2, 6))
    (trace,) = figure(chart(Series("m", "points", marks)))["data"]
    assert trace["error_y"]["array"] == [2, None]
    assert trace["error_y"]["arrayminus"] == [1, None]
    assert "error_x" not in trace
    assert trace["marker"]["symbol"] == "square-open"


def test_what_all_marks_share_is_written_once() -> None:
    marks = tuple(Mark(i, i, hover=("run <r>", "seed 0", f"epoch {i}")) for i in (1, 2))
    (trace,) = figure(chart(Series("m", "line", marks)))["data"]
    assert trace["hovertemplate"] == "run &lt;r&gt;<br>seed 0<br>%{customdata}<extra></extra>"
    assert trace["customdata"] == ["epoch 1", "epoch 2"]


def test_a_line_is_cut_where_there_is_no_figure() -> None:
    (trace,) = figure(chart(Series("m", "line", (Mark(1, 1), Mark(math.nan, math.nan), Mark(2, 2)))))["data"]
    assert trace["x"] == [1, None, 2]
    assert trace["mode"] == "lines+markers"


def test_areas_are_areas() -> None:
    marks = (Mark(1, 1, area=1.0), Mark(2, 2, area=0.25))
    (trace,) = figure(chart(Series("m", "points", marks)))["data"]
    assert trace["marker"]["size"][0] == 2 * trace["marker"]["size"][1]


def test_bars_lie_side_by_side_or_end_to_end() -> None:
    series = [Series("", "bars", (Mark(3, 0, label="3"),), name=name, shade=1) for name in ("a", "b")]
    names = Axis("", names=("m",))
    beside = [one for one in figure(chart(*series, y=names))["data"] if one["type"] == "bar"]
    assert beside[0]["offset"] + beside[0]["width"] == pytest.approx(beside[1]["offset"])
    assert beside[0]["meta"]["models"] == ["m"]
    ends = figure(chart(*series, y=names, stacked=True))
    assert ends["layout"]["barmode"] == "stack"
    assert all("offset" not in one for one in ends["data"])


def test_texts_are_neither_markup_nor_formulas() -> None:
    assert escape("<b>$x$ & y</b> %{x}") == "&lt;b&gt;&#36;x&#36; &amp; y&lt;/b&gt; &#37;{x}"


def test_each_comparison_has_a_titled_section(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for precision in ("fp32", "bf16"):
        for model, accuracy in (("seresnet", 0.9), ("vit_tiny", 0.8)):
            store.write_record(record(spec(model, recipe=replace(RECIPE, precision=precision)), accuracy))
    page = build([store], images="none", still=False).decode()
    titles = re.findall(r'<tr class="title"><th scope="rowgroup" colspan="\d+"><span>(.*?)</span></th>', page)
    assert [title.endswith(", fp32") for title in titles] == [True, False]
    assert [title.endswith(", bf16") for title in titles] == [False, True]
    assert "<strong>The same in every row:</strong> cifar10 (" in page
    bodies = page.split("<tbody>")
    assert [body.count("<tr data-model") for body in bodies if '<tr class="title">' in body] == [2, 2]


def test_what_is_the_same_in_every_row_is_said_once(pages: dict[str, bytes]) -> None:
    for name, sections in (("one_run", 0), ("full", 3)):
        page = parsed(pages[name])
        assert [a["data-key"] for tag, a in page.elements if tag == "th" and "data-key" in a][:2] == [
            "model",
            "accuracy",
        ]
        assert sum(tag == "tr" and a.get("class") == "title" for tag, a in page.elements) == sections
        assert "".join(page.text).count("The same in every row:") == 1
