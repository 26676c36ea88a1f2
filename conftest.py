"""pytest, for the tests and the notebooks: quick by default, `--full` to train for real."""

import concurrent.futures
import contextlib
import functools
import os
import shutil
import signal
import socket
import sys
import tempfile
import uuid

import matplotlib
import nbval.kernel
import pytest
from jupyter_client.manager import KernelManager
from nbval.plugin import IPyNbCell

import save


def pytest_addoption(parser):
    parser.addoption("--full", action="store_true", help="train every notebook for real")


def pytest_configure(config):
    # The kernels and the other processes inherit this environment.
    os.environ["MAKEMORE_QUICK"] = "0" if config.getoption("--full") else "1"
    # The path of a socket has at most 104 characters, so its folder isn't in a TMPDIR of yours.
    folder = tempfile.TemporaryDirectory(dir="/tmp" if os.name == "posix" else None)
    config.add_cleanup(folder.cleanup)
    # With an IPYTHONDIR of their own, kernels do not run the startup files of your profile.
    os.environ |= {"OMP_NUM_THREADS": "1", "STUDY_GRACE": "4", "IPYTHONDIR": folder.name}
    matplotlib.use("agg")
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:    # a shell does this in the background
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if os.name == "posix":
        nbval.kernel.KernelManager = functools.partial(kernel_manager, folder.name)


def kernel_manager(folder, **options):
    """A kernel that listens on sockets in `folder`.

    nbval's own listens on TCP ports that were free a second before it binds them. If another
    process takes one in the meantime, the kernel dies at its start.
    """
    return KernelManager(transport="ipc", ip=f"{folder}/{uuid.uuid4().hex[:8]}", **options)


COURSE = {path.name for path in save.PATHS}


def pytest_ignore_collect(collection_path):
    """Leave out notebooks of your own, unless you name them."""
    return (collection_path.suffix == ".ipynb" and collection_path.name not in COURSE) or None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    """Leave out what only --full runs; keep the cells of a notebook in one process, in order."""
    if not config.getoption("--full"):
        long = [item for item in items if item.get_closest_marker("full")]
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item not in long]
    for item in items:
        if isinstance(item, IPyNbCell):
            item.add_marker(pytest.mark.xdist_group(item.path.stem))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """With --full a notebook must print its saved numbers; on another machine, losses near them."""
    if not isinstance(item, IPyNbCell):
        return (yield)
    earlier = item.parent.timed_out
    result = yield
    # A training that nbval interrupts ends without an error.
    assert item.parent.timed_out == earlier, "cut off by the time limit of a cell"
    if item.config.getoption("--full"):
        saved, found = item.cell.outputs, item.test_outputs
        if item.parent.nb.metadata.get("run_on") == save.machine():
            assert save.repeatable(item.cell, found) == save.repeatable(item.cell, saved), (
                "other numbers than the saved ones; if the notebook was changed, save it again: "
                f"python tests/save.py {item.path.name[:2]}")
        assert save.losses(found) == pytest.approx(save.losses(saved), abs=0.01)
    return result


def pytest_terminal_summary(terminalreporter, config):
    if config.getoption("--full"):
        terminalreporter.write_line(f"compared to the last digit: saved on {save.machine()}")
    own = {path.name for path in (save.ROOT / "notebooks").glob("*.ipynb")} - COURSE
    for why, names in (("changed since the last commit, so its form is not tested", save.edited()),
                       ("not in the README, so not run", own)):
        if names:
            terminalreporter.write_line(f"{why}: {', '.join(sorted(names))}")


@pytest.fixture
def words_file(tmp_path):
    """A function that writes words to a file, one a line, and returns its path."""
    file = tmp_path / "words.txt"
    return lambda words: file.write_text("\n".join(words), encoding="utf-8") and str(file)


@pytest.fixture
def only_this_computer(monkeypatch):
    """Fails a test that contacts another computer or moves something to a GPU.

    The machine claims to have a GPU.
    """
    import torch

    def here(original, host_of):
        def function(*args, **kwargs):
            if (host := host_of(*args)) not in (None, "", "localhost", "127.0.0.1", "::1"):
                pytest.fail(f"the notebook contacts {host!r}")
            return original(*args, **kwargs)
        return function

    monkeypatch.setattr(socket, "getaddrinfo", here(socket.getaddrinfo, lambda host, *_: host))
    monkeypatch.setattr(socket.socket, "connect", here(
        socket.socket.connect, lambda self, to: to[0] if isinstance(to, tuple) else None))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "_lazy_init", lambda: pytest.fail("the notebook uses the GPU"))
    # In torch's build for GPUs every optimiser asks whether one is recording; Timer waits for it.
    monkeypatch.setattr(torch.optim.Optimizer, "_accelerator_graph_capture_health_check",
                        lambda self: None)
    monkeypatch.setattr(torch.accelerator, "synchronize", lambda: None)


@pytest.fixture
def run(monkeypatch, tmp_path, only_this_computer):
    """A function that runs a notebook with other hyperparameters, quickly and in this process.

    It returns the notebook's namespace and its code cells. Names that are no hyperparameters of
    this notebook are ignored. Each cell runs inside the context `around(cell)`; `choose(cells)`
    returns the cells to run.
    """
    import matplotlib.pyplot as plt

    import helpers
    from course import runner

    def run(path, changes, around=lambda cell: contextlib.nullcontext(), choose=list):
        monkeypatch.chdir(path.parent)
        monkeypatch.setattr(sys, "path", sys.path[:])
        monkeypatch.setattr(helpers, "QUICK", True)
        monkeypatch.setenv("MAKEMORE_QUICK", "1")
        # Notebook 10 starts processes; in the kernel of its own test it does.
        for module in (concurrent.futures, runner):
            monkeypatch.setattr(module, "ProcessPoolExecutor",
                                lambda *_: concurrent.futures.ThreadPoolExecutor(1))
        monkeypatch.setattr(helpers, "OUTPUT", tmp_path / "output")
        known = {name: changes[name] for name in save.parameters(path) if name in changes}
        cells = save.code_cells(save.with_parameters(path, known))
        namespace = {"__name__": "__main__"}
        for cell in choose(cells):
            with around(cell):
                exec(compile(cell.source, f"{path.name}:{cell.id}", "exec"), namespace)
        assert not (tmp_path / "output").exists(), "a run with other values was kept as a result"
        return namespace, cells

    yield run
    plt.close("all")


CHROMIUM = ["--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
            "--disable-component-update", "--disable-sync"]


@pytest.fixture(scope="session")
def browser():
    api = pytest.importorskip("playwright.sync_api", reason="needs tests/requirements.txt")
    found = filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome")))
    if (path := next(found, None)) is None:
        pytest.skip("no Chromium on the path: install it, for example apt-get install chromium")
    root = hasattr(os, "geteuid") and os.geteuid() == 0
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path,
                                             args=CHROMIUM + ["--no-sandbox"] * root)
        yield browser
        browser.close()
