"""Every notebook with other hyperparameters, other words, interrupts, and in other folders.

The notebooks run in quick mode, with papermill's parameters. Without --full only a few of them do.
"""

import contextlib
import ctypes
import math
import os
import random
import re
import shlex
import shutil
import string
import subprocess
import sys
import threading

import matplotlib.pyplot as plt
import nbformat
import pytest
import torch

import helpers
from save import PATHS, ROOT, code_cells, copied, executed, output_text, parameters

NAMES = helpers.load_words()
FEW = {"names_file": NAMES[::10], "pair_seeds": 2, "workers": 1}

# Other values: for each notebook those of its hyperparameters.
SMALL = dict.fromkeys(
    ["long_block_size", "n_embd", "n_hidden", "n_skip", "pair_hidden", "stack_hidden", "max_steps",
     "pair_steps", "race_steps", "epochs", "short_epochs", "pair_epochs", "tree_epochs",
     "stack_epochs", "workers", "sampled_names"], 1) | {
    "block_size": 2, "batch_size": 2, "pair_seeds": 2, "dilations": [1], "learning_rate": 1e-6}
SCRIPTS = 3 * ["$$", "a_$b^$", "Анна", "мария", "Пётр", "Zoë", "João", "Łukasz", "señor",
               "groß", "e\u0301mile", "李小龙", "علي"]
SETTINGS = {
    "all small, other scripts": SMALL | {"names_file": SCRIPTS},
    "all large": FEW | {"block_size": 32, "long_block_size": 32, "n_embd": 64, "n_hidden": 256,
                        "n_skip": 256, "dilations": [1, 2, 4, 8, 16, 32, 64], "max_steps": 3,
                        "race_steps": 3, "batch_size": 16, "pair_steps": 3, "seed": 10**9 - 2},
    "a batch larger than the list": FEW | {"names_file": NAMES[::300], "batch_size": 1000,
                                           "n_hidden": 32, "max_steps": 2, "race_steps": 2,
                                           "pair_steps": 2},
    "groups of 4, upper and lower case": FEW | {
        "block_size": 16, "group_size": 4,
        "names_file": [w.upper() if i % 3 else w.title() for i, w in enumerate(NAMES[::40])]},
    "groups of 3, spaces and marks": FEW | {
        "block_size": 27, "group_size": 3, "names_file": [
            "anna maria", "o'neill", "jean-luc", "a\tb", "x y z", "1 2 3", "#7"] * 4},
    "a learning rate of 10, ten words": FEW | {"learning_rate": 10.0, "names_file": NAMES[:10]},
    "other recipes, words of one letter": FEW | {
        "recipe": {"05": "fast"}, "learning_rate": 0.005, "run_lecture": False,
        "names_file": list(string.ascii_lowercase)},
    "one letter, one word, float64": FEW | {"names_file": ["a"] * 20, "seed": 7},
    "300 signs": FEW | {"names_file": [chr(0x4E00 + i % 300) + chr(0x4E00 + 7 * i % 300)
                                       for i in range(600)]},
    "words of 120 letters": FEW | {"names_file": [
        "".join(random.Random(i).choices(string.ascii_lowercase, k=120)) for i in range(30)]},
}
QUICKLY = ("03", "08")                             # of each kind of network one


@pytest.mark.parametrize(("path", "which"), [
    pytest.param(path, which, id=f"{which}-{path.stem}",
                 marks=[pytest.mark.full] * (i > 0 or path.name[:2] not in QUICKLY))
    for i, which in enumerate(SETTINGS) for path in PATHS[::-1]])
def test_runs_with_other_values_and_words(path, which, run, words_file, monkeypatch, request):
    setting = dict(SETTINGS[which])
    if setting.get("group_size", 2) != 2 and "group_size" not in parameters(path):
        del setting["block_size"]                     # here the tree joins pairs
    if recipe := setting.pop("recipe", {}).get(path.name[:2]):
        setting["recipe"] = recipe
    if "float64" in which and path.name[:2] != "10":         # its processes begin with float32
        torch.set_default_dtype(torch.float64)
        request.addfinalizer(lambda: torch.set_default_dtype(torch.float32))
    with monkeypatch.context() as patch:
        patch.setattr(plt, "close", lambda *_: None)  # so that every figure is there to be drawn
        namespace, _ = run(path, setting | {"names_file": words_file(setting["names_file"])})
    for number in plt.get_fignums():
        plt.figure(number).canvas.draw()
    for layer in helpers.modules(namespace.get("model")):      # what you edit is what is trained
        assert type(layer) is namespace.get(type(layer).__name__, type(layer))


@pytest.mark.parametrize("path", [
    pytest.param(path, marks=[pytest.mark.full] * (path.name[:2] != "03"), id=path.stem)
    for path in PATHS])
def test_every_cell_runs_again_after_a_full_run_the_last_first(path, run, words_file):
    run(path, FEW | {"names_file": words_file(NAMES[::10])},
        choose=lambda cells: [*cells, *cells[::-1]])


# Values that make no sense, by the name of the hyperparameter, and what the reader is told.
IMPOSSIBLE = {
    "learning_rate": [(0, "learning_rate is 0; expected a positive number"),
                      (math.nan, "learning_rate is nan"), ("0.1", "learning_rate is '0.1'")],
    "weight_decay": [(-1, "weight_decay is -1; expected a number of 0")],
    "dilations": [([], r"dilations is \[\]; expected a list such as"),
                  ([1, 0], r"is \[1, 0\]"), (4, "dilations is 4")],
    "recipe": [("slow", "recipe is 'slow'"), ("fast", "'fast'")],
    "seed": [(10**9 + 1, "is 1000000001"), (-1, "seed is -1; expected"), ("a", "seed is 'a'")],
    "names_file": [("no.txt", "no.txt: no such file"), (NAMES[:9], "9 words .* at least 10")],
    "wav_file": [("no.wav", "no.wav: no such file; expected a WAV file")],
    "storage": [],                             # the study says so itself: test_studies.py
    "run_lecture": [("no", "run_lecture is 'no'; expected True or False")],
    "batch_size": [(1, "batch_size is 1; .* from 2"), ("32", "batch_size is '32'")],
    "group_size": [(1, "group_size is 1"), (2.0, "group_size is 2.0")],
}
CASES = [(path, {name: value}, said) for path in PATHS for name in parameters(path)
         for value, said in IMPOSSIBLE.get(
             name, [(value, f"{name.removeprefix('long_')} is {value}") for value in (0, 2.5)])]
CASES += [(path, {"block_size": n, "group_size": group}, f"{n} is not a power of {group}")
          for path in PATHS[3:] for n, group in ((6, 4), (12, 2))
          if "block_size" in parameters(path) and (group == 2 or "group_size" in parameters(path))]


@pytest.mark.parametrize(("path", "setting", "said"), [
    pytest.param(*case, id=f"{str(case[1])[1:-1]:.40}-{case[0].stem}") for case in CASES])
def test_an_impossible_value_is_refused_before_any_training(path, setting, said, run, words_file,
                                                            monkeypatch):
    monkeypatch.setattr(torch.Tensor, "backward", lambda self: pytest.fail("it trains already"))
    if isinstance(setting.get("names_file"), list):
        setting = {"names_file": words_file(setting["names_file"])}
    started = []
    with pytest.raises((ValueError, FileNotFoundError, OSError), match=said):
        run(path, setting, lambda cell: started.append(cell.id) or contextlib.nullcontext())
    # The parameters, papermill's own, setup, data, configuration; 01 splits its words step by step.
    assert len(started) <= 5 or "names_file" in setting, started


EVENTS = {"step": (torch.Tensor, "backward"), "character": (helpers, "draw_next")}
TRAINING = {"train", "fit"}                          # 07 writes its own fit
BY_HAND = f"{PATHS[1].name}:train"                   # the cell of 01 that writes the training out


@pytest.mark.parametrize(("path", "event", "k"), [
    pytest.param(path, event, k, id=f"{event} {k}-{path.stem}",
                 marks=[pytest.mark.full] * ((path.name[:2], event, k) not in (
                     ("03", "step", 2), ("00", "character", 3))))
    for event, k, numbers in (("step", 2, range(12)), ("step", 10, (1,)),
                              ("character", 3, (0, 5, 8)))
    for path in (PATHS[n] for n in numbers)])
def test_the_rest_of_a_notebook_works_after_an_interrupt(path, event, k, run, words_file,
                                                         monkeypatch):
    """Once in each cell, as by the stop button, in a step of a training or of a sampling."""
    count, stopped = [0], []
    original = getattr(*EVENTS[event])

    def counted(*args, **kwargs):
        frame, codes = sys._getframe(), set()
        while frame:
            codes.add(frame.f_code)
            frame = frame.f_back
        if threading.current_thread() is threading.main_thread() and (
                event == "character" or TRAINING & {c.co_name for c in codes}
                or BY_HAND in {c.co_filename for c in codes}):
            count[0] += 1
            if count[0] == k:
                stopped.append(True)
                raise KeyboardInterrupt
        return original(*args, **kwargs)

    @contextlib.contextmanager
    def around(cell):
        count[0] = 0
        may_end = event == "character" or (path.name.startswith("01") and cell.id == "train")
        with contextlib.suppress(*[KeyboardInterrupt] * may_end):
            yield

    monkeypatch.setattr(*EVENTS[event], counted)
    run(path, FEW | {"names_file": words_file(NAMES[::10])}, around)
    assert stopped


def files(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.full
@pytest.mark.parametrize("how", ["started in the project's folder", "read-only"])
@pytest.mark.parametrize("name", [path.name for path in PATHS])
def test_runs_in_a_folder_and_writes_only_its_output(name, how, tmp_path):
    """In a kernel, quickly, for a user without a screen who has set matplotlib up for scripts."""
    project = copied(tmp_path / "mes études, été 2026")
    nb = nbformat.read(project / "notebooks" / name, as_version=4)
    before, options = files(project), {}
    if how == "read-only":
        for path in [project, *project.rglob("*")]:
            path.chmod(0o555 if path.is_dir() else 0o444)
        if hasattr(os, "getuid") and os.getuid() == 0:
            drop, override = 24, 1           # root may write anywhere until it gives up this right
            options["preexec_fn"] = lambda: ctypes.CDLL(None).prctl(drop, override)
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "matplotlibrc").write_text("text.usetex: True")
    env = {k: v for k, v in os.environ.items()
           if k not in ("DISPLAY", "WAYLAND_DISPLAY", "PYTHONPATH")}
    env |= {"MAKEMORE_QUICK": "1", "PYTHONDONTWRITEBYTECODE": "1", "HOME": str(tmp_path / "home"),
            "MPLBACKEND": "agg", "MATPLOTLIBRC": str(tmp_path / "home"), "PYTHONSAFEPATH": "1"}
    run = executed(nb, project if how.startswith("started") else project / "notebooks", env,
                   **options)
    assert [cell.id for cell in run.cells if "image/png" in str(cell.get("outputs"))] == [
        cell.id for cell in nb.cells if "image/png" in str(cell.get("outputs"))]
    changed = [path for path, content in files(project).items() if before.get(path) != content]
    assert all(path.is_relative_to(project / "notebooks" / "output") for path in changed), changed
    assert how != "read-only" or not changed


@pytest.mark.full
def test_papermill_takes_the_readmes_command(tmp_path):
    project = copied(tmp_path / "course")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    command = shlex.split(re.search(r"^\.venv/bin/python -m papermill (.*)$", readme, re.M)[1])
    subprocess.run([sys.executable, "-m", "papermill", *command], cwd=project, check=True,
                   capture_output=True, env=os.environ | {"MAKEMORE_QUICK": "1"})
    out = nbformat.read(project / "out.ipynb", as_version=4)
    name, value = command[command.index("-p") + 1:][:2]
    assert f"{name} is {value}, not" in "\n".join(map(output_text, code_cells(out)))


def pytest_in(folder, *arguments, **env):
    """What pytest says in `folder`."""
    return subprocess.run([sys.executable, "-m", "pytest", *arguments], cwd=folder, text=True,
                          env=os.environ | env, stdout=subprocess.PIPE, check=False).stdout


@pytest.mark.full
def test_pytest_runs_in_notebooks_and_leaves_those_of_a_reader_alone(tmp_path):
    """In a commit to which a reader has added, with a TMPDIR too long for sockets and a profile."""
    project = shutil.copytree(ROOT, tmp_path / "a [x]", ignore=shutil.ignore_patterns(
        ".git", ".venv", "output", "__pycache__", ".*cache"))
    for command in ("init -q", "add .", "-c user.name=x -c user.email=x commit -q -m all"):
        subprocess.run(["git", *command.split()], cwd=project, check=True)
    for name, source in {"Untitled": "1 / 0", "03_flatten_consecutive-Copy1": "1 / 0",
                         "05_scaling_up": "print(1)"}.items():
        nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
        nbformat.write(nb, project / "notebooks" / f"{name}.ipynb")
    (startup := tmp_path / "profile_default" / "startup").mkdir(parents=True)
    (startup / "mine.py").write_text("import os\nos._exit(1)\n")
    (long := tmp_path / ("t" * 90)).mkdir()
    said = pytest_in(project / "notebooks", ".", "../tests/test_notebooks.py", "-n0", "-k",
                     "saved or readme or ruff or Untitled or Copy1 or (05_scaling_up and Cell)",
                     TMPDIR=str(long), IPYTHONDIR=str(tmp_path))
    assert re.search(r"^\d+ passed, \d+ skipped, \d+ deselected", said, re.M), said
    assert "form is not tested: 05_scaling_up.ipynb\n" in said
    assert "not run: 03_flatten_consecutive-Copy1.ipynb, Untitled.ipynb\n" in said


@pytest.mark.full
def test_a_training_that_a_time_limit_cuts_off_fails_and_the_cells_below_it_work():
    """Of the trainings of 03 the first fails, and the log misses the saved losses."""
    said = pytest_in(PATHS[3].parent, PATHS[3].name, "-n0", "--full", "--nbval-cell-timeout=8")
    assert "cut off by the time limit" in said, said
    assert re.search("^1 failed, 20 passed, 1 xfailed, 7 xpassed", said, re.M), said
