"""The notebooks in a real browser: JupyterLab runs them, and every control of a panel is operated.

A person looks at the pictures of the panels, which are written to notebooks/output/screens, or to
the folder in the environment variable MAKEMORE_SCREENS.
"""

import contextlib
import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import nbformat
import psutil
import pytest

from course import PATHS, ROOT, code_cells, tags

SCREENS = Path(os.environ.get("MAKEMORE_SCREENS", ROOT / "notebooks" / "output" / "screens"))
MINUTE = 60_000        # Playwright counts in milliseconds
CHROMIUM = ["--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
            "--disable-component-update", "--disable-sync"]
SETTINGS = {
    # With windows JupyterLab keeps only the cells in view in the page.
    "@jupyterlab/notebook-extension:tracker": {"windowingMode": "none"},
    "@jupyterlab/apputils-extension:notification": {"fetchNews": "false"},
}
# Any notebook has it in Notebook 7.6, an empty one too.
ERROR_OF_NOTEBOOK_7 = "Cannot read properties of undefined (reading 'schema')"
CONTROLS = "input, select, textarea, button, .noUi-handle"
ERRORS = ('.jp-OutputArea [data-mime-type="application/vnd.jupyter.error"], '
          '.jp-OutputArea [data-mime-type="application/vnd.jupyter.stderr"]')


# ------------------------------------------------------------------------------- the panels


class Panel:
    """A panel in the page. Each action waits until what the panel shows is another.

    With quiet=True the action is not expected to show at once.
    """

    def __init__(self, output):
        self.output = output

    def type(self, label, text, quiet=False):
        """Text, or a number, into a text field, key by key."""
        field = self.output.get_by_label(label, exact=True)
        with self._operated(field, quiet):
            field.fill("")
            field.press_sequentially(text)
            field.press("Enter")

    def choose(self, label, *options, quiet=False):
        """One option of a dropdown, or one or more of a list, by their texts or numbers."""
        field = self.output.get_by_label(label, exact=True)
        by = "index" if isinstance(options[0], int) else "label"
        with self._operated(field, quiet):
            field.select_option(**{by: list(options)})

    def tick(self, label, quiet=False):
        """A checkbox."""
        field = self.output.get_by_label(label, exact=True)
        with self._operated(field, quiet):
            field.click()

    def slide(self, label, *keys, quiet=False):
        """A slider, by keys such as "ArrowRight" and "End"."""
        slider = self.output.locator(".widget-inline-hbox")
        label = slider.page.get_by_text(label, exact=True)
        handle = slider.filter(has=label).locator(".noUi-handle")
        for key in keys:
            with self._operated(handle, quiet):
                handle.press(key)

    def press(self, label, quiet=False):
        """A button."""
        button = self.output.get_by_role("button", name=re.compile(f"{label}$"))  # after an icon
        with self._operated(button, quiet):
            button.click()

    def says(self, text):
        """Wait until the panel has this text, or a text in which this pattern is found."""
        self.output.filter(has_text=text).wait_for(timeout=2 * MINUTE)

    @contextlib.contextmanager
    def _operated(self, control, quiet):
        before = self._settled()
        control.scroll_into_view_if_needed()
        control.evaluate("control => control.dataset.operated = true")
        yield
        if not quiet:
            until(lambda: self._shown() != before, f"{control} changes what is shown")

    def _settled(self):
        """What is shown, once it stays the same: the kernel may still answer the last key."""
        last = []

        def same():
            last.append(self._shown())
            return last[-2:] == [last[-1]] * 2

        until(same, "what is shown stays the same")
        return last[-1]

    def _shown(self):
        """The text and the pictures of the widgets that are no controls."""
        return self.output.evaluate("""async (output, controls) => {
            const parts = [...output.querySelectorAll('.jupyter-widgets:not(.widget-container)')]
                .filter(part => !part.matches(controls) && !part.querySelector(controls));
            const pictures = parts.flatMap(part => [part, ...part.querySelectorAll('*')])
                .filter(part => part.tagName === 'IMG');
            const bytes = await Promise.all(pictures.map(async picture => {
                const data = await (await fetch(picture.src)).arrayBuffer();
                return new Uint8Array(await crypto.subtle.digest('SHA-256', data)).join();
            }));
            return [...parts.map(part => part.innerText), ...bytes].join('\\n');
        }""", CONTROLS)

    def screenshot(self, name):
        """Save what the panel looks like."""
        self._settled()
        SCREENS.mkdir(parents=True, exist_ok=True)
        self.output.screenshot(path=SCREENS / f"{name}.png")

    def left_alone(self):
        """The controls that were not operated, by their label or text."""
        return self.output.evaluate("""(output, controls) =>
            [...output.querySelectorAll(controls)].filter(control => !control.dataset.operated)
                .map(control => control.closest('button, .widget-inline-hbox').innerText)""",
            CONTROLS)


def windows(panel):
    panel.type("name", "emma")
    panel.slide("block_size", "ArrowRight", "End", "Home")
    panel.type("name", "em7")
    panel.says("'7': not a letter of the word list; take it out.")
    panel.type("name", "zoe")


def loss(panel):
    panel.choose("window", "1")
    panel.tick("raw losses too")


def shapes(panel):
    panel.says("(32, 8, 10)")
    panel.slide("block_size", "ArrowLeft")
    panel.says("(32, 7, 10)")
    panel.slide("n_embd", "ArrowRight")
    panel.says("(32, 7, 11)")
    panel.slide("n_hidden", "Home")
    panel.says("(32, 1)")


def bricks(panel):
    panel.says("It fits: 32 rows of 27 logits, 22,097 parameters.")
    panel.choose("layers", "1 Flatten()", quiet=True)
    panel.press("remove")
    panel.says("Layer 1, Linear(80, 200, bias=False), takes 80 numbers, and 10 come")
    panel.press("start again")
    panel.press("move down")
    panel.says("Layer 0, Flatten(), calculates")
    panel.press("move up")
    panel.choose("layers", "5 Linear(200, 27)", quiet=True)
    panel.choose("new layer", "Linear", quiet=True)
    panel.type("from", "27", quiet=True)
    panel.type("to", "9", quiet=True)
    panel.press("add below")
    panel.says("the loss needs logits of shape (32, 27), and (32, 9) come out")


def tree(panel):
    panel.says("receptive field 8 characters, 22,397 parameters")
    panel.slide("box", "ArrowRight")
    panel.choose("tree", "9 characters in groups of 3")
    panel.says("receptive field 9 characters")
    panel.slide("box", "ArrowRight")


def strays(panel):
    panel.choose("batch", "512")


def positions(panel):
    panel.choose("batch_size", "512")
    panel.choose("statistic", "standard deviation")
    panel.slide("channel", "ArrowRight")


def names(panel):
    panel.type("first letters", "em")
    panel.says(re.compile(r"(em\w*\n){9}em"))
    panel.slide("temperature", "ArrowLeft", "Home")
    panel.slide("seed", "ArrowRight")
    panel.type("first letters", "em7")
    panel.says("'7'")
    panel.type("first letters", "emi")


def activations(panel):
    panel.type("letters so far", "emma")
    panel.type("letters so far", "em7")
    panel.says("'7' is not a letter of the word list; take it out.")
    panel.type("letters so far", "emm")


def playground(panel):
    panel.choose("recipe", "fast")
    panel.says("Recipe fast: learning_rate 0.005 and batch_size 256 are usual for it")
    slow = {"block_size": "32", "n_embd": "48", "n_hidden": "256", "learning_rate": "0.01",
            "batch_size": "512", "max_steps": "200,000"}
    for label, option in slow.items():
        panel.choose(label, option, quiet=True)
    panel.press("Train")
    panel.says("Run 3: ")
    panel.press("Train")
    panel.says("Not started: Run 3 is still training.")
    panel.says(re.compile(r"step \d+ of \d+, train \d\.\d+, .* steps a second, \d+ s left"))
    panel.press("Stop")
    panel.says("Run 3 stopped after ")
    panel.choose("block_size", "4", quiet=True)
    panel.choose("batch_size", "32", quiet=True)
    panel.press("Train")
    panel.says("Run 4 finished after ")
    panel.choose("drawn", 3)
    panel.choose("against", "seconds")
    panel.press("Save CSV")
    panel.says("Saved: output/playground.csv, 4 runs.")


def race(panel):
    panel.choose("optimisers", "SGD", "AdamW")
    panel.choose("learning rate x", "0.1")
    panel.choose("batch", "32")


def dilation(panel):
    panel.choose("kernel size", "3")
    panel.slide("levels", "ArrowLeft")
    panel.choose("each dilation is that before, times", "3")
    panel.slide("output", "ArrowLeft")
    panel.slide("compare with output", "ArrowLeft")


def generator(panel):
    panel.type("first letters", "em7")
    panel.says("'7'")
    panel.type("first letters", "em")
    panel.slide("temperature", "ArrowLeft")
    panel.slide("seed", "ArrowRight")


def surprise(panel):
    panel.type("name", "em7")
    panel.says("'7' is not a letter of the word list; take it out.")
    panel.type("name", "emma")


def evidence(panel):
    panel.choose("figure", "train")
    panel.says("mean train")
    panel.type("groups that contain", "tree")
    panel.type("groups that contain", "treehouse")
    panel.says("no group of 'claims' contains 'treehouse'")
    panel.type("groups that contain", "", quiet=True)
    panel.choose("part", "levels")


# (notebook, cell of the panel): (cell with the like in print, what a reader does with the panel).
PANELS = {
    ("00", "try-names"): ("names", generator),
    ("01", "try-windows"): ("windows-figure", windows),
    ("01", "try-loss"): ("smooth", loss),
    ("02", "try-shapes"): ("context-shapes", shapes),
    ("02", "try-bricks"): ("bricks-static", bricks),
    ("03", "try-tree"): ("picture", tree),
    ("04", "try-strays"): ("stray-figure", strays),
    ("04", "try-positions"): ("positions-batches", positions),
    ("05", "try-names"): ("sample", names),
    ("05", "try-activations"): ("activations", activations),
    ("05", "try-playground"): ("playground-figure", playground),
    ("06", "try-race"): ("race-figure", race),
    ("07", "try-dilation"): ("picture-two", dilation),
    ("08", "try-generator"): ("generator", generator),
    ("08", "try-surprise"): ("surprise", surprise),
    ("09", "try-panel"): ("try-static", evidence),
}


# ------------------------------------------------------------------------ server and browser


def until(condition, what, seconds=120):
    """Wait for the condition."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"after {seconds} s still not: {what}"
        time.sleep(0.1)


@pytest.fixture(scope="session")
def course(tmp_path_factory):
    """A copy of what a reader has, for a run of the notebooks writes files."""
    root = tmp_path_factory.mktemp("course")
    for folder in ("notebooks", "data"):
        shutil.copytree(ROOT / folder, root / folder,
                        ignore=shutil.ignore_patterns("output", "__pycache__"))
    for name in ("helpers.py", "requirements.txt"):
        shutil.copy(ROOT / name, root)
    return root


class Server(NamedTuple):
    """Where a server answers, and the folder in which it keeps what a user has set."""

    url: str
    token: str
    settings: Path

    def address(self, path):
        return f"{self.url}{path}?reset&token={self.token}"


@contextlib.contextmanager
def served(module, root, home):
    """A server that knows nothing of the user's settings."""
    overrides = home / "config" / "labconfig" / "default_setting_overrides.json"
    overrides.parent.mkdir(parents=True)
    overrides.write_text(json.dumps(SETTINGS), encoding="utf-8")
    token = secrets.token_hex()
    env = os.environ | {
        "JUPYTER_CONFIG_DIR": str(home / "config"), "JUPYTER_DATA_DIR": str(home / "data"),
        "JUPYTER_RUNTIME_DIR": str(home / "runtime"), "IPYTHONDIR": str(home / "ipython"),
        "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"), "JUPYTER_TOKEN": token,
        "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"), "MAKEMORE_QUICK": "1"}
    command = [sys.executable, "-m", module, "--no-browser", "--allow-root", "--ip=127.0.0.1",
               "--port=0", f"--ServerApp.root_dir={root}", "--LabApp.extension_manager=readonly",
               # A kernel whose page is closed would keep its memory.
               "--MappingKernelManager.cull_idle_timeout=30",
               "--MappingKernelManager.cull_interval=5"]
    with (home / "log").open("w", encoding="utf-8") as log:
        server = psutil.Popen(command, env=env, cwd=root, stdout=log, stderr=subprocess.STDOUT)
    try:
        # Its file with the address comes first, the port a moment later.
        until(lambda: server.poll() is not None or any(
            c.status == psutil.CONN_LISTEN for c in server.net_connections()), "the server answers")
        assert server.poll() is None, (home / "log").read_text(encoding="utf-8")
        info = next(home.glob("runtime/jpserver*.json")).read_text(encoding="utf-8")
        yield Server(json.loads(info)["url"], token, home / "settings")
    finally:
        kernels = server.children(recursive=True)
        server.terminate()
        _, alive = psutil.wait_procs([server, *kernels], timeout=10)
        for process in alive:
            process.kill()


@pytest.fixture(scope="session")
def lab(course, tmp_path_factory):
    with served("jupyterlab", course, tmp_path_factory.mktemp("lab")) as server:
        yield server


@pytest.fixture(scope="session")
def browser():
    api = pytest.importorskip("playwright.sync_api", reason="Playwright is missing: "
                              "python -m pip install -r requirements.txt")
    found = filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome")))
    if (path := next(found, None)) is None:
        pytest.skip("no Chromium on the path: install it, for example apt-get install chromium")
    root = hasattr(os, "geteuid") and os.geteuid() == 0
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path,
                                             args=CHROMIUM + ["--no-sandbox"] * root)
        yield browser
        browser.close()


@contextlib.contextmanager
def opened(browser, address, tolerated=()):
    """A page that must reach nothing but this machine and must log no error but the tolerated."""
    context = browser.new_context(viewport={"width": 1400, "height": 1500})
    context.set_default_timeout(MINUTE)
    page = context.new_page()
    requests, errors = [], []
    context.on("request", lambda request: requests.append(request.url))
    page.on("websocket", lambda socket: requests.append(socket.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text)
            if message.type == "error" else None)
    try:
        page.goto(address)
        yield page
    except BaseException:
        SCREENS.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=SCREENS / f"failed-{urlsplit(address).path.split('/')[-1]}.png")
        raise
    finally:
        context.close()
    urls = [urlsplit(request) for request in requests]
    assert {url.hostname for url in urls if url.scheme not in ("data", "blob")} == {"127.0.0.1"}
    assert [error for error in errors if error not in tolerated] == []


def run_all(page, server, nb):
    """Clear what is committed, run all cells and wait for the last."""
    cells = page.locator(".jp-Notebook .jp-Cell")
    until(lambda: cells.count() == len(nb.cells), "all cells are in the page")
    name = urlsplit(page.url).path.split("/")[-1]

    def idle():
        answer = page.request.get(f"{server.url}api/sessions?token={server.token}")
        return any(s["path"].endswith(name) and s["kernel"]["connections"]
                   and s["kernel"]["execution_state"] == "idle" for s in answer.json())

    until(idle, "the kernel is idle and the page connected to it")
    menu(page, "Edit", "Clear Outputs of All Cells")
    prompts = page.locator(".jp-Notebook .jp-CodeCell .jp-InputPrompt")
    until(lambda: not re.search(r"\d", "".join(prompts.all_inner_texts())), "nothing was run yet")
    menu(page, "Run", "Run All Cells")
    numbers = [f"[{n}]:" for n in range(1, len(code_cells(nb)) + 1)]
    errors = page.locator(ERRORS)
    until(lambda: prompts.all_inner_texts() == numbers or errors.count(), "all cells were run", 180)
    assert errors.all_inner_texts() == []


def menu(page, *labels):
    """Click on an item of the menu bar, and on the items below it."""
    page.locator(".lm-MenuBar-itemLabel").get_by_text(labels[0], exact=True).click()
    for label in labels[1:]:
        page.locator(".lm-Menu-itemLabel").get_by_text(label, exact=True).click()


def unreadable(page):
    """Texts of controls, tables and printed lines with a contrast below 4.5 to what is behind."""
    return page.evaluate("""() => {
        const canvas = new OffscreenCanvas(1, 1).getContext('2d', {willReadFrequently: true});
        const light = value => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
        function luminance(colors) {          // painted one over the other
            canvas.clearRect(0, 0, 1, 1);
            for (const color of colors) {
                canvas.fillStyle = color;
                canvas.fillRect(0, 0, 1, 1);
            }
            const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].map(c => light(c / 255));
            return 0.2126 * r + 0.7152 * g + 0.0722 * b;
        }
        const texts = `.jupyter-widgets :is(.widget-label, .widget-label-basic, .widget-readout,
            input, select, button), .jp-Notebook :is(td, th, pre, summary)`;
        return [...document.querySelectorAll(texts)].filter(element => {
            if (element.disabled || !element.checkVisibility() || element.closest('.jp-InputArea')
                || !(element.innerText || element.value)) return false;
            const behind = [];
            for (let node = element; node; node = node.parentElement)
                behind.unshift(getComputedStyle(node).backgroundColor);
            const a = luminance(behind);
            const b = luminance([...behind, getComputedStyle(element).color]);
            return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05) < 4.5;
        }).map(element => `${element.tagName} ${element.className}: `
            + (element.innerText || element.value).slice(0, 60));
    }""")


# ---------------------------------------------------------------------------------- the tests


def test_every_panel_has_its_interactions_and_the_like_in_print():
    cells = {(path.name[:2], cell.id): cell for path in PATHS
             for cell in code_cells(nbformat.read(path, as_version=4))}
    order = list(cells)
    assert PANELS.keys() == {key for key, cell in cells.items() if key[1].startswith("try-")
                             and "nbval-ignore-output" in tags(cell)}
    for (number, panel), (static, _) in PANELS.items():
        assert order.index((number, static)) < order.index((number, panel))
        assert cells[number, static].outputs, (number, static)


@pytest.mark.browser
@pytest.mark.parametrize("path", PATHS[::-1], ids=lambda path: path.stem)
def test_notebook_runs_and_every_control_answers(path, browser, lab):
    nb = nbformat.read(path, as_version=4)
    shutil.rmtree(lab.settings, ignore_errors=True)       # the theme of the test before
    with opened(browser, lab.address(f"lab/tree/notebooks/{path.name}")) as page:
        run_all(page, lab, nb)
        panels = {}
        for i, cell in enumerate(nb.cells):
            output = page.locator(".jp-Notebook .jp-Cell").nth(i).locator(".jp-OutputArea-output")
            if (key := (path.name[:2], cell.id)) in PANELS:
                panels["-".join(key)] = Panel(output)
            else:
                assert output.locator(".jupyter-widgets").count() == 0, cell.id
        for name, panel in panels.items():
            PANELS[tuple(name.split("-", 1))][1](panel)
            assert panel.left_alone() == []
            panel.screenshot(f"{name}-light")
        assert page.locator(ERRORS).all_inner_texts() == []
        assert unreadable(page) == []
        menu(page, "Settings", "Theme", "JupyterLab Dark")
        page.locator("body[data-jp-theme-light=false]").wait_for(state="attached")
        for name, panel in panels.items():
            panel.screenshot(f"{name}-dark")
        assert unreadable(page) == []


@pytest.mark.browser
def test_a_panel_works_in_notebook_7(browser, course, tmp_path):
    path = next(path for path in PATHS if path.name.startswith("03"))
    nb = nbformat.read(path, as_version=4)
    with (served("notebook", course, tmp_path) as server,
          opened(browser, server.address(f"notebooks/notebooks/{path.name}"),
                 tolerated=[ERROR_OF_NOTEBOOK_7]) as page):
        run_all(page, server, nb)
        panel = Panel(page.locator(".jp-OutputArea-output", has=page.locator(".jupyter-widgets")))
        # Notebook 7 takes the arrow keys for itself, so the slider stays where it is.
        panel.choose("tree", "9 characters in groups of 3")
        panel.says("receptive field 9 characters")


@pytest.mark.browser
def test_jupyter_execute_runs_a_notebook(course):
    path = course / "notebooks" / "01_mlp_baseline.ipynb"
    before = path.read_bytes()
    subprocess.run([sys.executable, "-m", "jupyter", "execute", path], check=True, cwd=course,
                   env=os.environ | {"MAKEMORE_QUICK": "1"})
    assert path.read_bytes() == before
