"""The page as a reader has it, in headless Chromium: from disk, with the network off."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from densebench.leaderboard import leaderboard_rows, published_rows
from densebench.leaderboard.page import page, payload
from densebench.leaderboard.ranked import ranked
from tests.leaderboard.conftest import metric
from tests.leaderboard.many import many
from tests.leaderboard.test_page import HOSTILE, depths, hostile_page, picture, side

CHROMIUM, DRIVER = (shutil.which(name) for name in ("chromium", "chromedriver"))
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="no Chromium here (Debian: chromium, chromium-driver)"),
]
TABLE = "#table tbody tr"


class Browser:
    """Chromium with a page open; it writes down errors of the console and every request."""

    def __init__(self) -> None:
        from selenium import webdriver
        from selenium.webdriver.chrome.service import Service

        options = webdriver.ChromeOptions()
        options.binary_location = str(CHROMIUM)
        for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=Service(str(DRIVER)))
        self.driver.set_script_timeout(20)
        self.driver.execute_cdp_cmd("Network.enable", {})

    def open(self, path: Path, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        """Open a file in a window of so many pixels, as a phone where it is narrow, until all is drawn."""
        self.logs()
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})
        self.driver.get(path.as_uri())
        self.driver.execute_async_script(
            "const done = arguments[0], ready = () => document.documentElement.dataset.ready;"
            "const look = () => ready() ? done() : setTimeout(look, 20); look();"
        )

    def js(self, script: str, *arguments: Any) -> Any:
        """Return what a script returns."""
        return self.driver.execute_script(script, *arguments)

    def texts(self, selector: str) -> list[str]:
        """Return the texts of all elements."""
        return self.js("return [...document.querySelectorAll(arguments[0])].map(e => e.textContent.trim())", selector)

    def click(self, selector: str) -> None:
        """Click an element as a pointer does."""
        from selenium.webdriver.common.by import By

        found = self.driver.find_element(By.CSS_SELECTOR, selector)
        self.js("arguments[0].scrollIntoView({block: 'center'})", found)
        found.click()

    def choose(self, form: str, name: str, value: str) -> None:
        """Choose an option of a select."""
        self.js(
            "const box = document.getElementById(arguments[0]).elements[arguments[1]]; box.value = arguments[2];"
            "if (box.value !== arguments[2]) throw new Error('no such option');"
            "box.dispatchEvent(new Event('change'))",
            form, name, value,
        )  # fmt: skip

    def logs(self) -> tuple[list[str], list[str]]:
        """Return what the console said, and the addresses of all requests since the last call."""
        said = [entry["message"] for entry in self.driver.get_log("browser")]
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        sent = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
        return said, sent


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    made = Browser()
    yield made
    made.driver.quit()


@pytest.fixture(scope="module")
def few(tmp_path_factory) -> Path:
    """The page of eight models in five cells, with pictures, and with what the papers print of hummingbird on VOC."""
    records = []
    for one in many(8, 5, n_classes=3):
        data = one.data.model_copy(update={"name": "voc"}) if one.protocol.name == "hummingbird" else one.data
        records.append(one.model_copy(update={"data": data, "artifacts": ("examples.png",)}))
    old = records[0].model_copy(update={"protocol": records[0].protocol.model_copy(update={"version": 1})})
    records.append(old.model_copy(update={"score_hash": "0" * 16}))
    rows = ranked(leaderboard_rows(records), "none", records)
    path = tmp_path_factory.mktemp("page") / "leaderboard.html"
    path.write_text(page(payload(rows, records, published_rows(), read=lambda *_: picture()), rows))
    return path


@pytest.fixture
def opened(browser, few) -> Iterator[Browser]:
    """The page, open; when a test is done, nothing was said on the console and nothing asked for."""
    browser.open(few)
    yield browser
    said, sent = browser.logs()
    assert said == []
    assert [url for url in sent if not url.startswith(("data:", few.as_uri()))] == []


def only_hummingbird(browser: Browser) -> None:
    browser.choose("filter-form", "protocol", "hummingbird")
    browser.choose("filter-form", "data", "voc")


def column(browser: Browser, key: str) -> list[str]:
    """Return the texts of a column of the table."""
    return browser.js(
        "const heads = [...document.querySelectorAll('#table thead th')];"
        "const at = heads.findIndex(h => h.querySelector(`[data-key='${arguments[0]}']`));"
        "return [...document.querySelectorAll('#table tbody tr')].map(r => r.cells[at].textContent.trim())",
        key,
    )


def test_a_click_on_a_head_sorts_and_says_so(opened):
    only_hummingbird(opened)
    opened.click("[data-key='parameters']")
    assert opened.texts("#table th[aria-sort='ascending']") == ["Parameters ▲"]
    ours = [text for text in column(opened, "parameters") if text]
    assert ours[0] == "5.72 M"
    assert ours[-1] == "304 M"
    assert column(opened, "parameters")[-1] == ""  # what a paper does not say comes last
    assert opened.js("return document.activeElement.dataset.key") == "parameters"
    opened.click("[data-key='parameters']")
    assert opened.texts("#table th[aria-sort='descending']") == ["Parameters ▼"]
    assert column(opened, "parameters")[0] == "304 M"
    assert column(opened, "parameters")[-1] == ""


def test_a_score_sorts_the_best_first(opened):
    opened.choose("filter-form", "protocol", "depth")
    opened.choose("filter-form", "data", "data00")
    opened.click("#table thead [data-key^='metric']")
    values = [float(text.split()[0]) for text in column(opened, opened.js("return document.activeElement.dataset.key"))]
    assert values == sorted(values)  # errors: the lowest


def test_filters_keep_what_was_asked_for_and_say_so(opened):
    everything = opened.texts("#count")
    opened.choose("filter-form", "size", "ViT-S")
    assert set(column(opened, "size")) == {"ViT-S"}
    assert opened.texts("#count") != everything
    assert opened.texts("#filters-said") == ["Backbone size: ViT-S"]
    opened.choose("filter-form", "status", "published")
    assert set(column(opened, "status")) == {"published"}
    assert all(
        "published" in name
        for name in opened.js("return [...document.querySelectorAll('#table tbody tr')].map(r => r.className)")
    )
    opened.choose("filter-form", "status", "withdrawn")
    assert opened.texts(TABLE) == []
    opened.choose("filter-form", "size", "")
    assert len(set(column(opened, "model"))) == 1
    assert set(column(opened, "rank")) == {""}
    opened.js(
        "const box = document.querySelector('[name=search]'); box.value = 'model_003 depth';"
        "box.dispatchEvent(new Event('input'))"
    )
    opened.choose("filter-form", "status", "")
    assert column(opened, "model") == ["model_003"]


def test_columns_can_be_chosen(opened):
    assert "Record" not in opened.texts("#table thead th")
    opened.click("#columns [name='record']")
    assert "Record" in opened.texts("#table thead th")
    opened.click("#columns [name='seconds']")
    assert "Time" not in opened.texts("#table thead th")
    only_hummingbird(opened)
    assert "Record" in opened.texts("#table thead th")
    assert sum(text.startswith("miou@") for text in opened.texts("#table thead th")) == 4


def test_two_chosen_rows_are_compared_and_drawn_alone(opened):
    only_hummingbird(opened)
    opened.click(f"{TABLE}.here:not(.chosen) input")
    assert opened.texts("#comparison") == []
    opened.click(f"{TABLE}.here:not(.chosen) input")
    heads = opened.texts("#comparison thead th")
    assert len(heads) == 5
    rows = opened.js(
        "const rows = [...document.querySelectorAll('#comparison tbody tr')];"
        "return rows.map(row => [...row.cells].map(cell => cell.textContent.trim()))"
    )
    assert [row[0] for row in rows] == ["miou@1 (%) ↑", "miou@1/8 (%) ↑", "miou@1/64 (%) ↑", "miou@1/128 (%) ↑"]
    for _, a, b, difference, _ in rows:
        assert float(difference.split()[0]) == pytest.approx(float(b.split()[0]) - float(a.split()[0]), abs=0.11)
    keys = opened.texts("#lines-plot .key li")
    assert keys[:2] == heads[1:3]
    opened.click("#clear")
    assert opened.texts("#comparison") == []
    assert len(opened.texts("#lines-plot .key li")) > 6


def test_a_paired_difference_stands_with_its_interval_and_turns_with_the_order(browser, record, tmp_path):
    records = depths(record, "ab")
    kept = {"a": side([1.0, 2.0, 3.0, 2.0]), "b": side([2.0, 3.5, 4.0, 3.0])}
    rows = leaderboard_rows(records)
    path = tmp_path / "pairs.html"
    path.write_text(page(payload(rows, records, sides=lambda runs, _: kept[runs[0].model.name]), rows))
    browser.open(path)
    cell = "#comparison tbody td:nth-of-type(3)"
    for first, other, sign, look in (("0", "1", "+", "worse"), ("1", "0", "-", "better")):
        for line in (first, other):
            browser.click(f"{TABLE} input[data-line='{line}']")
        (text,) = browser.texts(cell)
        assert text.startswith(f"{sign}1.125")
        low, high = (float(end) for end in text.partition("[")[2].rstrip("]").split(", "))
        assert low < float(text.split()[0]) < high
        assert browser.js(f"return document.querySelector('{cell}').className") == f"number {look}"
        browser.click("#clear")
    assert browser.logs()[0] == []


def test_models_of_other_settings_are_not_compared_without_a_word(opened):
    only_hummingbird(opened)
    opened.click(f"{TABLE}.here input")
    opened.click(f"{TABLE}.withdrawn input")
    assert "version of the protocol (2 against 1)" in opened.texts("#compare p")[0]


def test_the_keyboard_reaches_table_plots_and_details(opened):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    only_hummingbird(opened)
    opened.js("document.querySelector('#table tr.here button.name').focus()")
    ActionChains(opened.driver).send_keys(Keys.ENTER).perform()
    assert opened.js("return document.getElementById('details').open")
    assert "ViT" in " ".join(opened.texts("#details dd"))
    assert opened.texts("#details tbody th")[:1] == ["miou@1 (%) ↑"]
    loaded = "return [...document.querySelectorAll('#details img')].map(i => i.src.slice(0, 15) + i.alt)"
    assert opened.js(loaded)[0].startswith("data:image/jpegexamples.png of model_")
    assert {"class 0", "class 1", "class 2"} <= set(opened.texts("#details tbody th"))
    ActionChains(opened.driver).send_keys(Keys.ESCAPE).perform()
    assert not opened.js("return document.getElementById('details').open")
    opened.js("document.querySelector('#lines-plot .point[tabindex=\"0\"]').focus()")
    first = opened.texts("#tip")
    ActionChains(opened.driver).send_keys(Keys.ARROW_RIGHT).perform()
    second = opened.texts("#tip")
    assert first != second
    assert "miou@" in second[0]
    assert opened.js("return document.querySelectorAll('#lines-plot .point[tabindex=\"0\"]').length") == 1


def test_plots_show_costs_the_front_and_published_lines(opened):
    only_hummingbird(opened)
    for cost in ("parameters", "speed", "seconds", "memory"):
        opened.choose("cost-form", "cost", cost)
        assert len(opened.texts("#cost-plot .point")) == 9 + 4  # models, one of them twice, and a size each in the key
    opened.choose("cost-form", "cost", "parameters")  # more of them score more in these results
    assert opened.js("return document.querySelectorAll('#cost-plot .front').length") == 1
    assert opened.js("return document.querySelectorAll('#lines-plot polyline.series').length") > 8
    assert "as printed by the papers" in opened.texts("#lines-plot p")[0]
    assert opened.texts("#classes tbody th") == ["class 0", "class 1", "class 2"]


def test_what_is_copied_is_what_is_shown_and_computes_nothing(opened):
    only_hummingbird(opened)
    opened.click("#copy-csv")
    lines = list(csv.reader(io.StringIO(opened.js("return document.getElementById('copied-text').value"))))
    assert lines[0][0] == "Model"
    assert lines[0].count("miou@1/8 (%) ↑ low") == 1
    assert len(lines) == 1 + len(opened.texts(TABLE))
    opened.click("#copied button")
    opened.click("#copy-latex")
    latex = opened.js("return document.getElementById('copied-text').value")
    assert latex.count("\\textbf{") == 4
    assert latex.count("\\underline{") == 4
    assert "\\textcolor{gray}{26.4}" in latex
    assert latex.count("\\\\\n") == len(lines)


def test_light_and_dark_follow_the_system_and_the_switch(opened, few):
    colour = "return getComputedStyle(document.body).backgroundColor"
    assert opened.js(colour) == "rgb(255, 255, 255)"
    opened.click("#theme")
    assert opened.js(colour) == "rgb(20, 23, 27)"
    opened.open(few, dark=True)
    assert opened.js(colour) == "rgb(20, 23, 27)"
    assert opened.js(CONTRAST) == []
    opened.click("#theme")
    assert opened.js(colour) == "rgb(255, 255, 255)"
    assert opened.js(CONTRAST) == []


CONTRAST = """
const parse = (text) => (text.match(/[0-9.]+/g) || []).map(Number);
const linear = (c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
const light = (rgb) => [0.2126, 0.7152, 0.0722].reduce((sum, share, i) => sum + share * linear(rgb[i] / 255), 0);
const behind = (node) => {
  for (; node; node = node.parentElement) {
    const colour = parse(getComputedStyle(node).backgroundColor);
    if (colour.length < 4 || colour[3] > 0) return colour;
  }
  return [255, 255, 255];
};
const bad = [];
for (const node of document.querySelectorAll("body *")) {
  const own = [...node.childNodes].some((child) => child.nodeType === 3 && child.textContent.trim());
  if (!own || !node.checkVisibility() || node.disabled) continue;
  if (node.closest("noscript, script, style, svg, .unseen")) continue;
  const [a, b] = [light(parse(getComputedStyle(node).color)), light(behind(node))].sort((x, y) => y - x);
  const ratio = (a + 0.05) / (b + 0.05);
  if (ratio < 4.5) bad.push(`${node.tagName} ${node.className} ${node.textContent.slice(0, 30)} ${ratio.toFixed(2)}`);
}
return [...new Set(bad)];
"""
"""Texts with less contrast than WCAG's 4.5."""


def test_a_phone_shows_all_without_scrolling_the_page_sideways(browser, few):
    browser.open(few, width=390, height=844)
    assert browser.js("return document.documentElement.scrollWidth") <= 390
    assert not browser.js("return document.getElementById('filters').open")
    browser.click("#filters summary")
    only_hummingbird(browser)
    assert browser.js("return document.documentElement.scrollWidth") <= 390
    browser.click("#table tbody button.name")
    assert browser.js("return document.documentElement.scrollWidth") <= 390
    box = browser.js("const r = document.getElementById('details').getBoundingClientRect(); return [r.left, r.right]")
    assert box[0] >= 0
    assert box[1] <= 390
    assert browser.logs()[0] == []


def test_every_control_has_a_name_and_every_table_a_head(opened):
    nameless = opened.js(
        "return [...document.querySelectorAll('button, select, input, [role=region], section, nav')].filter(e =>"
        " !(e.getAttribute('aria-label') || e.labels?.length || e.textContent.trim() ||"
        " document.getElementById(e.getAttribute('aria-labelledby')))).map(e => e.outerHTML.slice(0, 80))"
    )
    assert nameless == []
    assert opened.js("return [...document.querySelectorAll('th')].filter(e => !e.scope).length") == 0
    assert opened.js("return document.documentElement.lang") == "en"


def test_hostile_names_are_shown_and_nothing_runs(browser, record, tmp_path):
    path = tmp_path / "hostile.html"
    path.write_text(hostile_page(record))
    browser.open(path)  # an alert would make the next line fail
    assert HOSTILE[:30] in browser.texts("#table tbody button.name")[0]
    browser.click("#table tbody button.name")
    assert browser.js("return document.querySelectorAll('img').length") == 0
    assert HOSTILE[:30] in " ".join(browser.texts("#details dd"))
    browser.click("#details button")
    browser.js("document.querySelector('[name=every]').click()")
    browser.click("#copy-csv")
    (heads, cells) = csv.reader(io.StringIO(browser.js("return document.getElementById('copied-text').value")))
    assert "'=cmd|' /C calc'!A0 (%) ↑" in heads
    assert cells[0] == browser.texts("#table tbody button.name")[0]
    browser.click("#copied button")
    browser.click("#copy-latex")
    assert "\\{\\{ 7 * 7 \\}\\}" in browser.js("return document.getElementById('copied-text').value")
    said, sent = browser.logs()
    assert said == []
    assert len([url for url in sent if not url.startswith("data:")]) == 1


def test_the_policy_refuses_scripts_and_requests_that_are_not_ours(browser, few):
    browser.open(few)
    browser.js(
        "const s = document.createElement('script'); s.textContent = 'window.ran = 1'; document.body.append(s);"
        "const i = document.createElement('img'); i.src = 'http://127.0.0.1:9/x.png'; document.body.append(i);"
    )
    assert browser.js("return window.ran") is None
    assert browser.js("return fetch('http://127.0.0.1:9/').then(() => 'sent', () => 'refused')") == "refused"
    assert any("Content Security Policy" in text for text in browser.logs()[0])


def test_without_javascript_the_static_table_is_shown(browser, few):
    browser.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.driver.get(few.as_uri())
        names = browser.driver.find_elements("css selector", "noscript tbody th[scope=row]")
        assert any(name.is_displayed() and name.text == "model_003" for name in names)
        assert not browser.driver.find_element("id", "app").is_displayed()
    finally:
        browser.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_a_page_of_nothing_and_one_of_a_number_that_is_none_open_without_an_error(browser, record, tmp_path):
    nothing = record("a", (metric("miou", float("nan"), None),))
    for name, records in (("empty", []), ("nan", [nothing])):
        rows = leaderboard_rows(records)
        path = tmp_path / f"{name}.html"
        path.write_text(page(payload(rows, records), rows))
        browser.open(path)
        assert browser.texts("#count") == [
            f"{len(rows)} row{'s' * (len(rows) != 1)}, {len(rows)} model{'s' * (not rows)}"
        ]
        assert browser.logs()[0] == []
    assert browser.texts("#table td.number span")[0] == "–"


def test_curves_of_layers_and_facets_are_drawn(browser, record, tmp_path):
    reads = [
        {"layer": i, "facet": facet, "ablation": False, "miou": 10.0 + i}
        for i in range(4)
        for facet in ("key", "token")
    ]
    scores = (metric("miou", 12, facet="key"), metric("miou", 13, facet="token"))
    one = record("a", scores, protocol="positional_effect", version=4)
    one = one.model_copy(update={"facts": {"reads": reads, "best": {"key": {"layer": 2}}}})
    rows = leaderboard_rows([one])
    path = tmp_path / "layers.html"
    path.write_text(page(payload(rows, [one]), rows))
    browser.open(path)
    kinds = "return [...document.querySelectorAll('#lines-form [name=kind] option')].map(o => o.value)"
    assert browser.js(kinds) == ["miou over facet", "miou over layers, key", "miou over layers, token"]
    browser.choose("lines-form", "kind", "miou over layers, key")
    assert browser.js("return document.querySelectorAll('#lines-plot g .point').length") == 4
    assert "the layer that is reported" in browser.js(
        "return document.querySelectorAll('#lines-plot g .point')[2].getAttribute('aria-label')"
    )
    browser.click(f"{TABLE} input")
    browser.choose("lines-form", "kind", "miou over layers, facets of a")
    assert browser.texts("#lines-plot .key li") == ["key", "token"]


@pytest.mark.slow
def test_ten_thousand_results_open_within_three_seconds(browser, tmp_path):
    records = list(many(200, 50))
    rows = leaderboard_rows(records)
    path = tmp_path / "many.html"
    path.write_text(page(payload(rows, records), rows))
    assert path.stat().st_size < 10e6
    browser.open(path)
    assert browser.texts("#count") == [f"{len(rows)} rows, 200 models"]
    assert len(browser.texts(TABLE)) == 100
    assert browser.js("return performance.getEntriesByName('table painted')[0].startTime") < 3000
