"""The site is built without a warning, holds every page and public name, and asks no other machine for anything."""

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

import densebench

REPOSITORY = Path(__file__).parents[2]
PAGES = sorted((REPOSITORY / "docs").rglob("*.md"))
LOADS = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href"}
"""Elements that fetch something when a page is opened, and where they say what."""
ELSEWHERE = re.compile(r"^\s*(?:\w+:)?//")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


class Fetched(HTMLParser):
    """Collects what a page loads from elsewhere."""

    def __init__(self, page: Path):
        super().__init__()
        self.found: list[str] = []
        self.feed(page.read_text())

    def handle_starttag(self, tag, attrs):
        value = dict(attrs).get(LOADS.get(tag, "")) or ""
        if ELSEWHERE.match(value):
            self.found.append(value)


def test_every_page_is_built_and_stands_in_the_menu(site):
    front = (site / "index.html").read_text()
    for page in PAGES:
        name = page.relative_to(REPOSITORY / "docs").with_suffix(".html").as_posix()
        assert (site / name).is_file()
        assert f'href="{name}"' in front, f"{name} is in no menu: mkdocs.yml"


def test_the_site_loads_nothing_from_elsewhere(site):
    pages = sorted(site.rglob("*.html"))
    assert len(pages) >= len(PAGES)
    assert {page.name: found for page in pages if (found := Fetched(page).found)} == {}
    styles = "".join(path.read_text() for path in site.rglob("*.css"))
    assert re.findall(r"@import[^;]*//|url\(\s*[\"']?(?:\w+:)?//[^)]*", styles) == []


def test_what_a_page_would_load_is_found(tmp_path):
    page = tmp_path / "page.html"
    page.write_text('<a href="https://a.org">a</a><img src="b.png"><script src="https://c.org/c.js"></script>')
    assert Fetched(page).found == ["https://c.org/c.js"]


def test_the_reference_has_every_public_name(site):
    text = (site / "api.html").read_text()
    for name in densebench.__all__:
        assert name == "__version__" or f'id="densebench.{name}"' in text, f"{name} is not in docs/api.md"
