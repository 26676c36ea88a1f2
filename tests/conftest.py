"""Quick by default, `--full` to train for real. Everything runs on one thread a worker."""

import contextlib
import functools
import ipaddress
import os
import re
import signal
import socket
import tempfile
import uuid

import matplotlib
import nbformat
import nbval.kernel
import pytest
from jupyter_client.manager import KernelManager
from nbval.plugin import IPyNbCell
from xdist.scheduler import LoadScopeScheduling

from course import PATHS, code_cells, expected_numbers, kind, machine, repeatable, tags


def pytest_addoption(parser):
    parser.addoption("--full", action="store_true", help="train every notebook for real")


def pytest_configure(config):
    # The kernels and the workers inherit the environment of the process that starts them.
    os.environ["MAKEMORE_QUICK"] = "0" if config.getoption("--full") else "1"
    os.environ["OMP_NUM_THREADS"] = "1"
    matplotlib.use("agg")
    if config.getoption("--full"):
        config.pluginmanager.register(SameNumbers())
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # So a shell starts what it runs in the background. The tests send that signal.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if os.name == "posix":
        folder = tempfile.TemporaryDirectory(prefix="kernels-")
        config.add_cleanup(folder.cleanup)
        nbval.kernel.KernelManager = functools.partial(kernel_manager, folder.name)


def kernel_manager(folder, **options):
    """A kernel that is reached by sockets in `folder`, instead of nbval's own on TCP.

    On TCP it is told five free ports and binds them a second later. By then a process of a test
    beside it may have taken one, and the kernel dies at its start.
    """
    return KernelManager(transport="ipc", ip=f"{folder}/{uuid.uuid4().hex[:8]}", **options)


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--full"):
        long = [item for item in items if item.get_closest_marker("full")]
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item not in long]


class SameNumbers:
    """With --full, a notebook prints the numbers that are kept of a machine of this kind.

    Where none are kept, its last digits may differ: the notebooks hold their losses to ranges.
    A plugin of its own, for pytest calls a conftest's hooks only for the tests of its own folder.
    """

    def pytest_terminal_summary(self, terminalreporter):
        strict = [path.name[:2] for path in PATHS if expected_numbers(
            nbformat.read(path, as_version=4), path.stem, machine()) is not None]
        terminalreporter.write_line(f"{kind(machine())}: numbers are compared to the last digit in "
                                    f"{' '.join(strict) or 'none'}, elsewhere by range")

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item):
        result = yield
        if isinstance(item, IPyNbCell):
            notebook = item.parent
            expected = expected_numbers(notebook.nb, notebook.path.stem, machine())
            if expected is not None:
                found = repeatable(item.cell, item.test_outputs)
                assert found == expected.get(item.cell.id, []), (
                    "other numbers than those that are kept; if the notebook was changed, "
                    f"save it anew: python tests/course.py {notebook.path.name[:2]}")
        return result


class Scheduling(LoadScopeScheduling):
    """A worker takes a module or a notebook at a time, and the runs of whole notebooks singly."""

    SINGLY = "test_(exercises|settings|interruptions|machines|browser).py"

    def _split_scope(self, nodeid):
        if re.search(self.SINGLY, nodeid):
            return nodeid
        return super()._split_scope(nodeid)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    if config.getvalue("dist") == "loadscope":
        return Scheduling(config, log)
    return None


@pytest.fixture
def words_file(tmp_path):
    """A function that writes words to a file, one a line: its path."""

    def words_file(words):
        file = tmp_path / "words.txt"
        file.write_text("\n".join(words), encoding="utf-8")
        return str(file)

    return words_file


@pytest.fixture
def run(monkeypatch, tmp_path):
    """A function that runs the cells of a notebook with other parameters: its namespace, its cells.

    In this process, in quick mode, in one namespace. `around(cell)` is a context for each cell,
    `choose(cells)` those that run. Whoever asks for a machine but this one fails.
    """
    # Not at the top: they bring torch, which the process that only hands out tests can do without.
    import matplotlib.pyplot as plt

    import helpers

    connect, getaddrinfo = socket.socket.connect, socket.getaddrinfo

    def only_here(host):
        with contextlib.suppress(ValueError):
            if host in (None, "", "localhost") or ipaddress.ip_address(host).is_loopback:
                return
        pytest.fail(f"the notebook asks for {host!r}")

    def connect_here(self, address):
        if self.family in (socket.AF_INET, socket.AF_INET6):
            only_here(address[0])
        return connect(self, address)

    def resolve_here(host, *args, **kwargs):
        only_here(host)
        return getaddrinfo(host, *args, **kwargs)

    monkeypatch.setattr(socket.socket, "connect", connect_here)
    monkeypatch.setattr(socket, "getaddrinfo", resolve_here)

    def run(path, changes, around=lambda cell: contextlib.nullcontext(), choose=list):
        monkeypatch.chdir(path.parent)
        monkeypatch.setattr(helpers, "QUICK", True)
        monkeypatch.setattr(helpers, "OUTPUT", tmp_path / "output")
        namespace = {"__name__": "__main__"}
        cells = code_cells(nbformat.read(path, as_version=4))
        for cell in choose(cells):
            with around(cell):
                exec(compile(cell.source, f"{path.name}:{cell.id}", "exec"), namespace)
            if "parameters" in tags(cell):
                namespace.update({k: v for k, v in changes.items() if k in namespace})
        plt.close("all")
        assert not (tmp_path / "output").exists(), "a run with other values was kept as a result"
        return namespace, cells

    return run
