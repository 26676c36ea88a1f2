"""What is behind the notebooks, one module for each concern.

plots and pictures draw, panels and playground add controls, exercises checks answers, expected
has the published figures, fitting and wavenet train on whole words, models has the other networks;
runs, studies and evidence measure many of them, and speed measures time and memory.
"""

import importlib.metadata
import os
import platform
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def environment():
    """Print one line about Python, the packages and the machine, and one for each thing to mend."""
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    wanted = dict(line.split("==") for line in lines if "==" in line)
    odd = {package: version for package in wanted
           if (version := installed(package)) != wanted[package]}
    print(f"Python {platform.python_version()}, torch {installed('torch')}, {os.cpu_count()} CPU "
          f"cores, {len(wanted) - len(odd)} of {len(wanted)} packages as pinned")
    if not (3, 11) <= tuple(map(int, platform.python_version_tuple()[:2])) <= (3, 14):
        print("Python: use 3.11 to 3.14")
    for package, version in odd.items():
        print(f"{package}: {version}, pinned {wanted[package]}; run README's first command again")
    if not os.access(ROOT / "notebooks", os.W_OK):
        print("notebooks/output cannot be written: later notebooks will not see earlier results")


def installed(package):
    """The version of a package, or 'missing'."""
    try:
        return importlib.metadata.version(package).split("+")[0]
    except importlib.metadata.PackageNotFoundError:
        return "missing"
