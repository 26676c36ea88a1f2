"""Quick by default, `--full` to train for real. Everything runs on one thread a worker."""

import os

import matplotlib
import pytest
from xdist.scheduler import LoadScopeScheduling


def pytest_addoption(parser):
    parser.addoption("--full", action="store_true", help="train every notebook for real")


def pytest_configure(config):
    # The kernels and the workers inherit the environment of the process that starts them.
    os.environ["MAKEMORE_QUICK"] = "0" if config.getoption("--full") else "1"
    os.environ["OMP_NUM_THREADS"] = "1"
    matplotlib.use("agg")


class Scheduling(LoadScopeScheduling):
    """A worker takes a module or a notebook at a time, and the runs of whole notebooks singly."""

    def _split_scope(self, nodeid):
        if any(name in nodeid for name in ("test_exercises.py", "test_browser.py")):
            return nodeid
        return super()._split_scope(nodeid)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    if config.getvalue("dist") == "loadscope":
        return Scheduling(config, log)
    return None
