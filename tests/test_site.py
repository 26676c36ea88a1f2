"""The website: it builds without a warning, its links lead somewhere, and a browser shows it."""

import functools
import http.server
import re
import subprocess
import sys
import threading
from types import SimpleNamespace
from urllib.parse import unquote, urlsplit

import pytest

import test_browser
from save import ROOT

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("site")]        # it is built once


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site, built by the command of tests/README.md and served on this machine."""
    pytest.importorskip("furo", reason="needs tests/requirements.txt")
    folder = tmp_path_factory.mktemp("site")
    readme = (ROOT / "tests" / "README.md").read_text(encoding="utf-8")
    module, *options, _ = re.search(r"python -m (sphinx .*)", readme)[1].split()
    done = subprocess.run([sys.executable, "-m", module, *options, folder], cwd=ROOT, check=False,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield SimpleNamespace(folder=folder, token="", url=f"http://127.0.0.1:{server.server_port}/")
        server.shutdown()


def test_every_link_within_the_site_leads_somewhere(site):
    pages = {path: path.read_text(encoding="utf-8") for path in site.folder.rglob("*.html")}
    ids = {path: set(re.findall(r'\bid="([^"]+)"', text)) for path, text in pages.items()}
    for path, text in pages.items():
        for link in re.findall(r'\b(?:href|src)="([^"]+)"', text):
            url = urlsplit(link)
            target = (path.parent / unquote(url.path)).resolve() if url.path else path
            assert url.scheme or target.exists(), (path.name, link)
            assert not url.fragment or url.fragment in ids.get(target, url.fragment), link
    start = pages[site.folder / "notebooks" / "00_start_here.html"]
    assert len(set(re.findall(r'"(\d\d_\w+\.html)#exercises"', start))) == 12


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
@pytest.mark.parametrize("name", ["index", "notebooks/03_flatten_consecutive",
                                  "notebooks/09_wavenet"])
def test_a_page_fits_its_window_and_folds_the_answers(name, width, scheme, site, browser):
    with test_browser.opened(browser, site, f"{name}.html") as page:
        page.emulate_media(color_scheme=scheme)
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth") == width
        assert page.locator("img:not([alt]), img[alt='']").count() == 0
        page.screenshot(path=test_browser.SCREENS / f"site-{name[-9:]}-{width}-{scheme}.png")
        answers = page.locator("details.below-input")
        assert answers.count() or name == "index"
        for answer in answers.all():
            shown = answer.locator(".cell_output")
            assert not shown.is_visible()
            answer.locator("summary").click()
            assert shown.is_visible()
