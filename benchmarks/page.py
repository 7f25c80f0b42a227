"""How fast the leaderboard's page is: bytes, seconds to write, to show the table, to draw all, to filter and to sort.

`python benchmarks/page.py [RESULTS ...]` measures the page of 200 generated models in 50 cells, and of results folders.
Opened from disk in headless Chromium with nothing cached, five times; medians. Without Chromium it says so and ends.
"""

from __future__ import annotations

import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # the generator of records is a test's
TIMES = 5
READY = "return document.documentElement.dataset.ready"
PAINTED = "return performance.getEntriesByName('table painted')[0].startTime"
ACTIONS = {
    "all drawn": "return performance.getEntriesByName('all drawn')[0].startTime",
    "filter": (
        "const box = document.getElementById('filter-form').elements.protocol; const start = performance.now();"
        "box.value = 'overclustering'; box.dispatchEvent(new Event('change')); document.body.offsetHeight;"
        "return performance.now() - start"
    ),
    "sort": (
        "const start = performance.now(); document.querySelector('#table [data-key=value], #table [data-key^=metric]')"
        ".click(); document.body.offsetHeight; return performance.now() - start"
    ),
}


def main() -> None:
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and driver):
        print("no Chromium here (Debian: chromium, chromium-driver): nothing is measured")
        return
    with tempfile.TemporaryDirectory() as folder:
        pages = {"200 models x 50 cells": generated(Path(folder))}
        for place in sys.argv[1:]:
            pages[Path(place).name] = of_folder(place)
        print(
            f"{'page':<24}{'MB':>7}{'write s':>9}{'rows':>8}{'table s':>9}"
            + "".join(f"{n + ' s':>13}" for n in ACTIONS)
        )
        for name, (path, seconds) in pages.items():
            runs = [opened(path, chromium, driver) for _ in range(TIMES)]
            rows, *found = (statistics.median(values) for values in zip(*runs, strict=True))
            times = f"{found[0]:>9.2f}" + "".join(f"{value:>13.3f}" for value in found[1:])
            print(f"{name:<24}{path.stat().st_size / 1e6:>7.2f}{seconds:>9.1f}{rows:>8.0f}{times}")


def generated(folder: Path) -> tuple[Path, float]:
    from densebench.leaderboard import leaderboard_rows
    from densebench.leaderboard.page import page, payload
    from densebench.leaderboard.ranked import ranked
    from tests.leaderboard.many import many

    records = list(many(200, 50))
    start = time.perf_counter()
    rows = ranked(leaderboard_rows(records), folder, records)
    path = folder / "many.html"
    path.write_text(page(payload(rows, records), rows))
    return path, time.perf_counter() - start


def of_folder(place: str) -> tuple[Path, float]:
    from densebench.leaderboard import write_leaderboard

    start = time.perf_counter()
    (path,) = write_leaderboard(place, ["html"])
    return path.absolute(), time.perf_counter() - start


def opened(path: Path, chromium: str, driver: str) -> list[Any]:
    """Return the rows of the table, and seconds: to the table, and of each action."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(argument)
    browser = webdriver.Chrome(options=options, service=Service(driver))
    try:
        browser.get(path.as_uri())
        while not browser.execute_script(READY):
            time.sleep(0.02)
        rows = int(browser.find_element("id", "count").text.split()[0])
        times = [browser.execute_script(script) / 1000 for script in (PAINTED, *ACTIONS.values())]
        return [rows, *times]
    finally:
        browser.quit()


if __name__ == "__main__":
    main()
