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
from types import SimpleNamespace
from urllib.parse import urlsplit

import nbformat
import pytest

from save import PATHS, ROOT, code_cells, copied, hidden, tags

SCREENS = Path(os.environ.get("MAKEMORE_SCREENS", ROOT / "notebooks" / "output" / "screens"))
# With windows JupyterLab keeps only the cells in view in the page.
SETTINGS = {"@jupyterlab/notebook-extension:tracker": {"windowingMode": "none"},
            "@jupyterlab/apputils-extension:notification": {"fetchNews": "false"}}
UNANSWERED = """[...jupyterapp.shell.currentWidget.sessionContext.session.kernel._futures.values()]
    .filter(future => future.msg.header.msg_type == "comm_msg").length"""
CONTROLS = "input, select, textarea, button, .noUi-handle"
ERRORS = ('.jp-OutputArea [data-mime-type="application/vnd.jupyter.error"], '
          '.jp-OutputArea [data-mime-type="application/vnd.jupyter.stderr"]')

# {(notebook, cell of a panel): (cell that shows the like in print, what the reader does)}, as
# (action, label of the control, values). An action must change what the panel shows, unless it ends
# in "~"; `says` waits for a text or a pattern.
NAMES = [("type", "first letters", "em7"), ("says", "'7'"), ("type", "first letters", "em"),
         ("slide", "temperature", "ArrowLeft"), ("slide", "seed", "ArrowRight")]
SLOW = [("choose~", *item) for item in {
    "block_size": "32", "n_embd": "48", "n_hidden": "256", "learning_rate": "0.01",
    "batch_size": "512", "max_steps": "200,000"}.items()]
PANELS = {
    ("00", "try-names"): ("names", NAMES),
    ("01", "try-loss"): ("smooth", [("choose", "window", "1"), ("tick", "raw losses too")]),
    ("02", "try-shapes"): ("context-shapes", [
        ("says", "(32, 8, 10)"), ("slide", "block_size", "ArrowLeft"), ("says", "(32, 7, 10)"),
        ("slide", "n_embd", "ArrowRight"), ("says", "(32, 7, 11)"), ("slide", "n_hidden", "Home"),
        ("says", "(32, 1)")]),
    ("02", "try-bricks"): ("bricks-static", [
        ("says", "22,097 parameters"), ("choose~", "layers", "1 Flatten()"), ("press", "remove"),
        ("says", re.compile("Layer 1, Linear.*80.*10")), ("press", "start again"),
        ("press", "move down"), ("says", "Layer 0, Flatten()"), ("press", "move up"),
        ("choose~", "layers", "5 Linear(200, 27)"), ("choose~", "new layer", "Linear"),
        ("type~", "from", "27"), ("type~", "to", "9"), ("press", "add below"),
        ("says", "(32, 9)")]),
    ("04", "try-strays"): ("stray-figure", [("choose", "batch", "512")]),
    ("04", "try-positions"): ("positions-batches", [
        ("choose", "batch_size", "512"), ("choose", "statistic", "standard deviation"),
        ("slide", "channel", "ArrowRight")]),
    ("05", "try-names"): ("names-side", NAMES),
    ("05", "try-activations"): ("activations", [
        ("type", "letters so far", "emma"), ("type", "letters so far", "em7"), ("says", "'7'"),
        ("type", "letters so far", "emm")]),
    ("05", "try-playground"): ("playground-figure", [
        ("choose", "recipe", "fast"), ("says", "Usual for this recipe"), *SLOW,
        ("press", "Train"), ("says", "Run 3 is training."), ("press", "Train"),
        ("says", "Run 3 is still training; press Stop first"),
        ("says", re.compile(r"Run 3 training: step \d+ of \d+")),
        ("press", "Stop"), ("says", "Run 3 stopped"), ("choose~", "block_size", "4"),
        ("choose~", "batch_size", "32"), ("press", "Train"), ("says", "Run 4 finished"),
        ("press", "Save CSV"), ("says", "Saved: output/playground.csv, 4 runs.")]),
    ("07", "try-race"): ("race-figure", [
        ("choose", "optimisers", "SGD", "AdamW"), ("choose", "learning rate x", "0.1")]),
    ("09", "try-generator"): ("names", NAMES),
    ("09", "try-surprise"): ("names", [
        ("type", "name", "em7"), ("says", "'7'"), ("type", "name", "emma")]),
}


def test_every_panel_has_its_interactions_the_like_in_print_and_a_still():
    cells = {(path.name[:2], cell.id): cell for path in PATHS
             for cell in code_cells(nbformat.read(path, as_version=4))}
    order = list(cells)
    assert PANELS.keys() == {key for key, cell in cells.items() if key[1].startswith("try-")
                             and "nbval-ignore-output" in tags(cell)}
    for (number, panel), (static, _) in PANELS.items():
        assert order.index((number, static)) < order.index((number, panel))
        assert cells[number, static].outputs, (number, static)
        still, = cells[number, panel].outputs
        assert {"image/png", "text/html"} & still.data.keys(), (number, panel)


def until(condition, what, seconds=120):
    """Wait for the condition; return what it found."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, f"after {seconds} s still not: {what}"
        time.sleep(0.1)
    return found


class Panel:
    def __init__(self, output):
        self.output = output

    def act(self, action, label, *values):
        if action == "says":
            return self.output.filter(has_text=label).wait_for(timeout=120_000)
        kind = action.rstrip("~")
        control = {
            "slide": lambda: self.output.locator(".widget-inline-hbox").filter(
                has=self.output.page.get_by_text(label, exact=True)).locator(".noUi-handle"),
            "press": lambda: self.output.get_by_role(         # an icon comes before the label
                "button", name=re.compile(f"{label}$")),
        }.get(kind, lambda: self.output.get_by_label(label, exact=True))()
        for value in values if kind == "slide" else [values]:
            before = self.settled()
            control.scroll_into_view_if_needed()
            control.evaluate("control => control.dataset.operated = true")
            if kind == "slide":
                control.press(value)
            elif kind == "choose":
                control.select_option(label=list(value))
            elif kind == "type":
                control.fill("")
                control.press_sequentially(*value)
                control.press("Enter")
            else:
                control.click()
            if action == kind:
                until(lambda before=before: self.shown() != before, f"{label} changes the panel")

    def settled(self):
        """What is shown once the kernel has answered every action and it stays the same."""
        seen = []

        def rests():
            seen.append((self.output.page.evaluate(UNANSWERED), self.shown()))
            return seen[-2:] == [(0, seen[-1][1])] * 2

        until(rests, "the panel rests")
        return seen[-1][1]

    def shown(self):
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

    def left_alone(self):
        """The controls that were not operated, by their label or text."""
        return self.output.evaluate("""(output, controls) =>
            [...output.querySelectorAll(controls)].filter(control => !control.dataset.operated)
                .map(control => control.closest('button, .widget-inline-hbox').innerText)""",
            CONTROLS)


@pytest.fixture(scope="session")
def lab(tmp_path_factory):
    """A server for a copy of the course, in the home of a user with a folder of notebooks."""
    root = copied((home := tmp_path_factory.mktemp("lab")) / "course")
    (home / "config" / "labconfig").mkdir(parents=True)
    (home / "config" / "labconfig" / "default_setting_overrides.json").write_text(
        json.dumps(SETTINGS), encoding="utf-8")
    (home / "config" / "jupyter_server_config.py").write_text("c.ServerApp.root_dir = '/'")
    token = secrets.token_hex()
    env = os.environ | {
        "JUPYTER_CONFIG_DIR": str(home / "config"), "JUPYTER_DATA_DIR": str(home / "data"),
        "JUPYTER_RUNTIME_DIR": str(home / "runtime"), "IPYTHONDIR": str(home / "ipython"),
        "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"), "JUPYTER_TOKEN": token,
        "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"), "MAKEMORE_QUICK": "1"}
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root",
               "--ip=127.0.0.1", "--port=0", "--ServerApp.root_dir=.",
               "--LabApp.extension_manager=readonly", "--expose-app-in-browser",
               # A kernel whose page is closed would keep its memory.
               "--MappingKernelManager.cull_idle_timeout=30",
               "--MappingKernelManager.cull_interval=5"]
    log = home / "log"
    with log.open("w", encoding="utf-8") as stream:
        server = subprocess.Popen(command, env=env, cwd=root, stdout=stream,
                                  stderr=subprocess.STDOUT)
    try:
        # The server says where it runs once it listens.
        until(lambda: server.poll() is not None
              or "is running at" in log.read_text(encoding="utf-8"), "the server answers")
        assert server.poll() is None, log.read_text(encoding="utf-8")
        info = next(home.glob("runtime/jpserver*.json")).read_text(encoding="utf-8")
        yield SimpleNamespace(url=json.loads(info)["url"], token=token, settings=home / "settings")
    finally:
        server.terminate()                      # it shuts its kernels down
        server.wait(30)


@contextlib.contextmanager
def opened(browser, server, path):
    """A page that must reach nothing but this machine and must log no error."""
    context = browser.new_context(viewport={"width": 1400, "height": 1500})
    context.set_default_timeout(60_000)
    page = context.new_page()
    requests, errors = [], []
    context.on("request", lambda request: requests.append(request.url))
    page.on("websocket", lambda socket: requests.append(socket.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text)
            if message.type == "error" else None)
    try:
        page.goto(f"{server.url}{path}?reset&token={server.token}")
        yield page
    except BaseException:
        page.screenshot(path=SCREENS / f"failed-{path.split('/')[-1]}.png")
        raise
    finally:
        context.close()
    urls = [urlsplit(request) for request in requests]
    assert {url.hostname for url in urls if url.scheme not in ("data", "blob")} == {"127.0.0.1"}
    assert errors == []


def menu(page, *labels):
    """Click on an item of the menu bar, and on the items below it."""
    page.locator(".lm-MenuBar-itemLabel").get_by_text(labels[0], exact=True).click()
    for label in labels[1:]:
        page.locator(".lm-Menu-itemLabel").get_by_text(label, exact=True).click()


def run_all(page, server, nb):
    """Clear the saved outputs, run all cells and wait for the last. It shows what was hidden."""
    cells = page.locator(".jp-Notebook .jp-Cell")
    until(lambda: cells.count() == len(nb.cells), "all cells are in the page")
    answers = [cells.nth(i).locator(".jp-Cell-outputWrapper")
               for i, cell in enumerate(nb.cells) if hidden(cell)]
    for answer in answers:
        answer.locator(".jp-OutputPlaceholder").wait_for()
        assert answer.inner_text().strip() == ""            # not even its first line
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
    assert all(answer.locator(".jp-OutputArea-output").count() for answer in answers)


def unreadable(page):
    """Texts of controls, tables and printed lines with a contrast below 4.5 to what is behind."""
    return page.evaluate("""() => {
        const canvas = new OffscreenCanvas(1, 1).getContext('2d', {willReadFrequently: true});
        const light = value => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
        function luminance(colors) {          // painted one over the other
            canvas.clearRect(0, 0, 1, 1);
            colors.forEach(c => { canvas.fillStyle = c; canvas.fillRect(0, 0, 1, 1); });
            const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].map(c => light(c / 255));
            return 0.2126 * r + 0.7152 * g + 0.0722 * b;
        }
        const texts = `.jupyter-widgets :is(.widget-label, .widget-label-basic, .widget-readout,
            input, select, button), .jp-Notebook :is(td, th, pre, summary)`;
        return [...document.querySelectorAll(texts)].map(element => {
            const text = element.innerText || element.value;
            if (element.disabled || !element.checkVisibility() || element.closest('.jp-InputArea'))
                return '';
            const behind = [];
            for (let node = element; node; node = node.parentElement)
                behind.unshift(getComputedStyle(node).backgroundColor);
            const a = luminance(behind) + 0.05;
            const b = luminance([...behind, getComputedStyle(element).color]) + 0.05;
            return Math.max(a / b, b / a) < 4.5 ? text : '';
        }).filter(text => text);
    }""")


@pytest.mark.browser
@pytest.mark.parametrize("path", PATHS[::-1], ids=lambda path: path.stem)
def test_notebook_runs_and_every_control_answers(path, browser, lab):
    nb = nbformat.read(path, as_version=4)
    shutil.rmtree(lab.settings, ignore_errors=True)       # the theme of the test before
    with opened(browser, lab, f"lab/tree/notebooks/{path.name}") as page:
        run_all(page, lab, nb)
        panels = {}
        for i, cell in enumerate(nb.cells):
            output = page.locator(".jp-Notebook .jp-Cell").nth(i).locator(".jp-OutputArea-output")
            if (path.name[:2], cell.id) in PANELS:
                panels[cell.id] = Panel(output)
            else:
                assert output.locator(".jupyter-widgets").count() == 0, cell.id
        for name, panel in panels.items():
            for action in PANELS[path.name[:2], name][1]:
                panel.act(*action)
            assert panel.left_alone() == []
        for theme in ("light", "dark"):
            if theme == "dark":
                menu(page, "Settings", "Theme", "JupyterLab Dark")
                page.locator("body[data-jp-theme-light=false]").wait_for(state="attached")
            for name, panel in panels.items():
                panel.settled()
                panel.output.screenshot(path=SCREENS / f"{path.name[:2]}-{name}-{theme}.png")
            assert unreadable(page) == []
        assert page.locator(ERRORS).all_inner_texts() == []
