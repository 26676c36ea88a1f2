"""What is behind the notebooks, one module for each concern.

plots and pictures draw, panels and playground add controls, exercises and the modules with turns in
their name check answers, expected has the published figures, fitting and wavenet train on whole
words, sound reads and draws it, models and memory have the other networks, record the best of them,
own is for yours, and web takes one into a browser; runs, runner, studies and evidence measure many,
with storage, search and tables behind them, and together trains many seeds at once; speed,
speed_plots and race are for time and memory; checking and files are what the others share.
"""

import importlib.metadata
import os
import platform
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def environment():
    """Print one line if Python, packages and folder are right, or else a table of what is not."""
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if "==" in line)
    rows = [(package, installed(package), pin, "run README's first command again")
            for package, pin in pins.items() if installed(package) != pin]
    if not (3, 11) <= sys.version_info[:2] <= (3, 14):
        rows.append(("Python", platform.python_version(), "3.11 to 3.14",
                     "delete .venv and start again"))
    output = ROOT / "notebooks" / "output"
    if not os.access(output if output.exists() else output.parent, os.W_OK):
        rows.append(("notebooks/output", "read-only", "writable",
                     "make it writable, so that results are kept"))
    state = (f"{len(rows)} to fix" if rows
             else f"all {len(pins)} packages have the pinned versions, results can be saved")
    print(f"Python {platform.python_version()}, torch {installed('torch')}: {state}, "
          f"{os.cpu_count()} cores")
    for row in [("package", "installed", "pinned", "what to do"), *rows] if rows else []:
        print("{:17} {:10} {:13} {}".format(*row))


def installed(package):
    """The version of a package, or 'missing'."""
    try:
        return importlib.metadata.version(package).split("+")[0]
    except importlib.metadata.PackageNotFoundError:
        return "missing"
