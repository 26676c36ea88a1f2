"""pytest, for the tests and the notebooks: quick by default, `--full` to train for real."""

import functools
import os
import signal
import tempfile
import uuid

import matplotlib
import nbval.kernel
import pytest
from jupyter_client.manager import KernelManager
from nbval.plugin import IPyNbCell

from save import losses, machine, repeatable


def pytest_addoption(parser):
    parser.addoption("--full", action="store_true", help="train every notebook for real")


def pytest_configure(config):
    # The kernels and the other processes inherit this environment.
    os.environ["MAKEMORE_QUICK"] = "0" if config.getoption("--full") else "1"
    os.environ |= {"OMP_NUM_THREADS": "1", "STUDY_GRACE": "4"}
    matplotlib.use("agg")
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:    # a shell does this in the background
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if os.name == "posix":
        folder = tempfile.TemporaryDirectory(prefix="kernels-")
        config.add_cleanup(folder.cleanup)
        nbval.kernel.KernelManager = functools.partial(kernel_manager, folder.name)


def kernel_manager(folder, **options):
    """A kernel that listens on sockets in `folder`.

    nbval's own listens on TCP ports that were free a second before it binds them. If another
    process takes one in the meantime, the kernel dies at its start.
    """
    return KernelManager(transport="ipc", ip=f"{folder}/{uuid.uuid4().hex[:8]}", **options)


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
    result = yield
    if item.config.getoption("--full") and isinstance(item, IPyNbCell):
        saved, found = item.cell.outputs, item.test_outputs
        if item.parent.nb.metadata.get("run_on") == machine():
            assert repeatable(item.cell, found) == repeatable(item.cell, saved), (
                "other numbers than the saved ones; if the notebook was changed, save it again: "
                f"python tests/save.py {item.path.name[:2]}")
        assert losses(found) == pytest.approx(losses(saved), abs=0.01)
    return result


def pytest_terminal_summary(terminalreporter, config):
    if config.getoption("--full"):
        terminalreporter.write_line(f"compared to the last digit: notebooks saved on {machine()}")
