"""Fixtures for the tests that run whole notebooks."""

import contextlib
import socket
import sys

import pytest

from save import code_cells, parameters, with_parameters


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
    # In torch's build for GPUs every optimiser asks whether one is recording.
    monkeypatch.setattr(torch.optim.Optimizer, "_accelerator_graph_capture_health_check",
                        lambda self: None)


@pytest.fixture
def run(monkeypatch, tmp_path, only_this_computer):
    """A function that runs a notebook with other hyperparameters, quickly and in this process.

    It returns the notebook's namespace and its code cells. Names that are no hyperparameters of
    this notebook are ignored. Each cell runs inside the context `around(cell)`; `choose(cells)`
    returns the cells to run.
    """
    import matplotlib.pyplot as plt

    import helpers

    def run(path, changes, around=lambda cell: contextlib.nullcontext(), choose=list):
        monkeypatch.chdir(path.parent)
        monkeypatch.setattr(sys, "path", sys.path[:])
        monkeypatch.setattr(helpers, "QUICK", True)
        monkeypatch.setattr(helpers, "OUTPUT", tmp_path / "output")
        known = parameters(path)
        cells = code_cells(with_parameters(path, {k: v for k, v in changes.items() if k in known}))
        namespace = {"__name__": "__main__"}
        for cell in choose(cells):
            with around(cell):
                exec(compile(cell.source, f"{path.name}:{cell.id}", "exec"), namespace)
        assert not (tmp_path / "output").exists(), "a run with other values was kept as a result"
        return namespace, cells

    yield run
    plt.close("all")
