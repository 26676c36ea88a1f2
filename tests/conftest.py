"""Quick by default, `--full` to train for real. Everything runs on one thread a worker."""

import os

import matplotlib


def pytest_addoption(parser):
    parser.addoption("--full", action="store_true", help="train every notebook for real")


def pytest_configure(config):
    # The kernels and the workers inherit the environment of the process that starts them.
    os.environ["MAKEMORE_QUICK"] = "0" if config.getoption("--full") else "1"
    os.environ["OMP_NUM_THREADS"] = "1"
    matplotlib.use("agg")
