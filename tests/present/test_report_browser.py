"""The report in a browser with the network cut off: what people do with it, and what a hostile store may not do.

Needs Chromium (Debian's package `chromium`; SEVIT_CHROMIUM names another); skipped where there is none.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Route, sync_playwright

from bench.present.report.page import build
from tests.report_stores import HOSTILE, MODELS, STORES

CHROMIUM = os.environ.get("SEVIT_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser") or ""
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync"]
SCREEN = {"width": 1360, "height": 900}
WIDTHS = (375, 820, 1280)  # of a phone, a tablet, a desk, in CSS pixels
TABLE_FITS = (
    "document.querySelector('#results').offsetWidth <= document.querySelector('#results').parentElement.clientWidth"
)
pytestmark = [pytest.mark.long, pytest.mark.skipif(not CHROMIUM, reason="no Chromium here")]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def page_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The report of one of STORES, built once."""
    paths: dict[str, Path] = {}

    def path(name: str) -> Path:
        if name not in paths:
            folder = tmp_path_factory.mktemp(name)
            paths[name] = folder / "report.html"
            paths[name].write_bytes(build([STORES[name](folder / "store")], still=name == "one_model"))
        return paths[name]

    return path


@contextmanager
def opened(browser: Browser, path: Path, address: str = "", **how: object) -> Iterator[Page]:
    """The page from the disk, without a network; a console message or a request fails the test."""
    complaints: list[str] = []

    def on_message(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning", "trace"):
            complaints.append(message.text)

    def refuse(route: Route) -> None:
        if route.request.url.startswith(("file:", "data:", "blob:")):
            route.continue_()
        else:
            complaints.append(f"asked for {route.request.url}")
            route.abort()

    context: BrowserContext = browser.new_context(**{"viewport": SCREEN, **how})  # type: ignore[arg-type]
    context.set_offline(True)
    page = context.new_page()
    page.on("console", on_message)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", lambda dialog: (complaints.append(f"dialog: {dialog.message}"), dialog.dismiss()))
    page.route("**/*", refuse)
    page.goto(path.as_uri() + address)
    if how.get("java_script_enabled", True):
        page.wait_for_selector('html[data-ready="yes"]', state="attached")
    try:
        yield page
        assert not complaints
    finally:
        context.close()


@pytest.fixture(scope="module")
def drawn(browser: Browser, page_of: Callable[[str], Path]) -> Iterator[Callable[[str], Page]]:
    """The page of one of STORES with all charts, drawn once, which takes ten seconds; leave it as it was."""
    pages: dict[str, Page] = {}
    with ExitStack() as stack:

        def page(name: str) -> Page:
            if name not in pages:
                pages[name] = stack.enter_context(opened(browser, page_of(name)))
                draw_all(pages[name])
            return pages[name]

        yield page


def until(page: Page, condition: str) -> None:
    """Wait for it; Playwright's own way evaluates text within the page, which its policy forbids."""
    for _ in range(600):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"never: {condition}")


def draw_all(page: Page) -> None:
    """Open and scroll through the page, so that every chart is drawn."""
    page.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
    for plot in page.locator("figure .plot").all():
        plot.scroll_into_view_if_needed()
    until(page, "[...document.querySelectorAll('figure .plot')].every((plot) => plot.dataset.drawn)")
    page.wait_for_timeout(100)  # for the names beside the marks, which come after a chart


def column(page: Page, key: str) -> list[list[float]]:
    """The values of a column from top to bottom in each comparison's section, those without a figure left out."""
    script = """(key) => {
      const heads = [...document.querySelectorAll('#results thead th')].findIndex((head) => head.dataset.key === key);
      return [...document.querySelectorAll('#results tbody')].map((body) =>
        [...body.querySelectorAll('tr[data-model]')].filter((row) => !row.hidden)
          .map((row) => row.cells[heads] && row.cells[heads].dataset.value).filter((value) => value));
    }"""
    return [[float(value) for value in section] for section in page.evaluate(script, key)]


def test_it_sorts(browser: Browser, page_of: Callable[[str], Path]) -> None:
    with opened(browser, page_of("full"), viewport={"width": 1280, "height": 800}) as page:
        assert page.evaluate(TABLE_FITS), "no column is cut"
        assert page.evaluate("document.documentElement.scrollHeight") <= 10 * 800, "what few read is folded away"
        head = page.locator('#results th[data-key="flops"]')
        before = column(page, "flops")
        head.locator("button").click()
        assert head.get_attribute("aria-sort") == "descending"
        assert column(page, "flops") == [sorted(section, reverse=True) for section in before] != before
        head.locator("button").press("Enter")
        assert head.get_attribute("aria-sort") == "ascending"
        assert column(page, "flops") == [sorted(section) for section in before]
        head.locator("button").click()
        assert column(page, "flops") == before


def test_it_filters_the_table_and_the_charts(browser: Browser, page_of: Callable[[str], Path]) -> None:
    with opened(browser, page_of("full")) as page:
        rows = page.locator("#results tbody tr[data-model]:visible")
        everything = rows.count()
        page.locator('#filters select[data-facet="dataset"]').select_option("digits")
        assert rows.count() == len(MODELS)
        assert page.locator("#count").inner_text() == f"{len(MODELS)} of {everything} rows"
        shown = page.locator("section.group:visible")
        assert any("digits" in text for text in shown.locator("h3").all_inner_texts())
        assert not any(text.startswith("cifar10 ") for text in shown.locator("h3").all_inner_texts())
        page.locator("#clear").click()
        assert rows.count() == everything


def test_hovering_shows_the_run_and_a_click_highlights_its_model_everywhere(drawn: Callable[[str], Page]) -> None:
    page = drawn("full")
    plot = page.locator('.plot[data-key="accuracy_vs_throughput"]').first
    plot.scroll_into_view_if_needed()
    place = plot.evaluate("""(plot) => {
      const trace = plot.data.find((one) => one.meta.model === 'vit_flops' && one.meta.labels);
      const { xaxis, yaxis } = plot._fullLayout, box = plot.getBoundingClientRect();
      return [box.x + xaxis._offset + xaxis.d2p(trace.x[0]), box.y + yaxis._offset + yaxis.d2p(trace.y[0])];
    }""")
    page.mouse.move(*place)
    label = page.locator(".hoverlayer .hovertext").first
    label.wait_for()
    assert "vit_flops" in label.text_content()
    page.mouse.click(*place)
    chip = page.locator('.chip[data-model="vit_flops"]')
    until(page, "document.querySelector('.chip[data-model=vit_flops]').ariaPressed === 'true'")
    assert "model=vit_flops" in page.url
    faded = """() => [...document.querySelectorAll('figure .plot')].flatMap((plot) => plot.data
      .filter((trace) => trace.meta.model).map((trace) => [trace.meta.model, trace.opacity]))"""
    page.wait_for_timeout(300)
    for model, opacity in page.evaluate(faded):
        assert (opacity >= 0.3) == (model == "vit_flops"), (model, opacity)
    assert set(page.locator("#results tr.chosen").evaluate_all("rows => rows.map(r => r.dataset.model)")) == {
        "vit_flops"
    }
    chip.click()
    assert chip.get_attribute("aria-pressed") == "false"


def test_one_switch_moves_every_learning_curve(drawn: Callable[[str], Page]) -> None:
    page = drawn("full")
    titles = """() => [...document.querySelectorAll('.plot[data-key="learning_curves"]')]
      .map((plot) => plot.layout.xaxis.title.text)"""
    seen = set()
    switch = page.locator('figure:has(.plot[data-key="learning_curves"]) .switch').first
    for word in switch.locator("input").evaluate_all("all => all.map((one) => one.value)"):
        switch.locator(f'input[value="{word}"]').check()
        page.wait_for_timeout(200)
        (title,) = set(page.evaluate(titles))
        seen.add(title)
    assert len(seen) == 4, "epochs, seconds, FLOPs and samples"


def test_a_link_makes_the_same_view(browser: Browser, page_of: Callable[[str], Path]) -> None:
    with opened(browser, page_of("full")) as page:
        page.locator('#results th[data-key="params"] button').click()
        page.locator('#filters select[data-facet="dataset"]').select_option("digits")
        page.locator('.chip[data-model="cct_2"]').click()
        page.locator('figure .switch input[value="samples"]').first.evaluate("(radio) => radio.click()")
        address, order = page.locator("#link").get_attribute("href"), column(page, "params")
    assert address is not None
    with opened(browser, page_of("full"), address) as page:
        assert column(page, "params") == order
        assert page.locator('#filters select[data-facet="dataset"]').input_value() == "digits"
        assert page.locator('.chip[data-model="cct_2"]').get_attribute("aria-pressed") == "true"
        assert page.locator('figure .switch input[value="samples"]').first.is_checked()


def test_files_come_out_as_they_are_in_the_store(browser: Browser, page_of: Callable[[str], Path]) -> None:
    for script in (True, False):
        with opened(browser, page_of("full"), java_script_enabled=script, accept_downloads=True) as page:
            with page.expect_download() as coming:
                page.locator('a.download[download="results.csv"]').click()
            stored = (page_of("full").parent / "store" / "results.csv").read_bytes()
            assert Path(coming.value.path()).read_bytes() == stored


def test_it_is_readable_without_javascript(browser: Browser, page_of: Callable[[str], Path]) -> None:
    with opened(browser, page_of("one_model"), java_script_enabled=False) as page:
        assert page.locator(".lead").first.inner_text()
        assert page.locator("#results tbody tr[data-model]:visible").count() == 1
        images = page.locator("figure img.still")
        assert images.count() >= 10
        assert images.first.is_visible()
        assert not page.locator(".controls").first.is_visible()


def test_it_prints_with_still_images(drawn: Callable[[str], Page]) -> None:
    page = drawn("one_model")
    page.emulate_media(media="print")
    assert page.locator("figure img.still:visible").count() >= page.locator("figure").count()
    assert not page.locator("nav").is_visible()
    assert not page.locator(".plot").first.is_visible()
    printed = page.pdf(format="A4", print_background=True)
    page.emulate_media(media="null")
    assert printed.startswith(b"%PDF")
    assert printed.count(b"/Type /Page\n") >= 4
    assert printed.count(b"/Subtype /Image") >= 10, "the charts are on paper"


@pytest.mark.parametrize("name", STORES)
def test_every_store_makes_a_page_that_fits_and_is_quiet(drawn: Callable[[str], Page], name: str) -> None:
    page = drawn(name)
    for width in (*WIDTHS, SCREEN["width"]):
        page.set_viewport_size({"width": width, "height": SCREEN["height"]})
        until(page, f"document.documentElement.scrollWidth <= {width}")  # nothing sticks out
    assert page.evaluate("window.owned") is None
    assert page.locator("#verdict .lead").first.inner_text()


def test_hostile_names_are_shown_as_they_were_written(drawn: Callable[[str], Page]) -> None:
    page = drawn("hostile")
    names = page.locator("#results tbody .name").all_inner_texts()
    assert set(HOSTILE) <= set(names)
    assert page.locator("main script, main svg[onload], main img[onerror]").count() == 0
    labels = page.locator(".plot .ytick text").all_text_contents()
    assert {"_x", "NA", "$x^2$"} <= set(labels)


@pytest.mark.parametrize(("name", "theme"), [("one_model", "light"), ("failures", "dark")])
def test_axe_finds_nothing_serious(browser: Browser, page_of: Callable[[str], Path], name: str, theme: str) -> None:
    with opened(browser, page_of(name), color_scheme=theme) as page:
        assert not serious(page)
        page.locator("#theme").click()
        page.wait_for_timeout(200)
        assert not serious(page), "the other theme"


def serious(page: Page) -> list[tuple[str, list[str]]]:
    """What axe-core calls serious or critical: the rule, and elements that break it."""
    outside = {"exclude": [[".plot svg"]]}  # a chart is one image to a reader of screens, with its caption as its name
    violations = [
        v
        for v in Axe().run(page, context=outside, options={"resultTypes": ["violations"]}).response["violations"]
        if v["impact"] in ("serious", "critical")
    ]
    return [(v["id"], [node["html"][:200] for node in v["nodes"][:3]]) for v in violations]


def test_every_control_is_reached_by_keyboard(browser: Browser, page_of: Callable[[str], Path]) -> None:
    with opened(browser, page_of("full")) as page:
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.className") == "skip"
        for control in ("#theme", "#filters select", "#results thead button", ".chip", ".switch input", "a.download"):
            page.locator(control).first.focus()
            assert page.evaluate("(c) => document.activeElement.matches(c)", control), control
            assert page.locator(control).first.evaluate("(one) => one.tabIndex") == 0
