"""Every notebook with other hyperparameters and other words; with impossible ones, a clear error.

The values stand in for those of the cell tagged `parameters`, as with papermill; the notebooks
run in quick mode. The quick tests take one setting and six notebooks: all small, and words in
other scripts. --full takes all.
"""

import ast
import contextlib
import math
import random
import string

import nbformat
import pytest
import torch

import harness
import helpers
from course import PATHS, code_cells, tags


def parameters(path):
    """{name: value} of a notebook's parameters cell."""
    cell, = (c for c in code_cells(nbformat.read(path, as_version=4)) if "parameters" in tags(c))
    return {node.targets[0].id: ast.literal_eval(node.value)
            for node in ast.parse(cell.source).body}


def log_uniform(low, high):
    return lambda rng: round(math.exp(rng.uniform(math.log(low), math.log(high))))


def one_of(*values):
    return lambda rng: rng.choice(values)


# The sensible ranges, by the name of the parameter.
RANGES = {
    "block_size": lambda rng: rng.randint(1, 32),
    "long_block_size": lambda rng: rng.randint(1, 32),
    "group_size": one_of(2, 2, 2, 3, 4),
    "n_embd": log_uniform(1, 256), "n_hidden": log_uniform(1, 256), "n_skip": log_uniform(1, 256),
    "pair_hidden": log_uniform(1, 64), "stack_hidden": log_uniform(1, 256),
    "dilations": lambda rng: [rng.choice([1, 2, 3, 4, 8, 16]) for _ in range(rng.randint(1, 8))],
    "max_steps": log_uniform(1, 100_000), "pair_steps": log_uniform(1, 20_000),
    "race_steps": log_uniform(1, 300), "epochs": log_uniform(1, 20),
    "short_epochs": log_uniform(1, 3), "pair_epochs": log_uniform(1, 10),
    "tree_epochs": log_uniform(1, 10), "stack_epochs": log_uniform(1, 10),
    "batch_size": log_uniform(2, 512),
    "learning_rate": lambda rng: math.exp(rng.uniform(math.log(1e-4), math.log(2))),
    "weight_decay": lambda rng: rng.choice([0.0, rng.random()]),
    "dropout": lambda rng: rng.choice([0.0, 0.9 * rng.random()]),
    "recipe": {"05": one_of("lecture", "fast"), "08": one_of("short", "record", "lecture")},
    "seed": lambda rng: rng.randrange(2**32),
    "pair_seeds": one_of(1, 2, 3), "workers": one_of(1, 2), "storage": one_of(None),
    "run_lecture": one_of(True, False), "sampled_names": log_uniform(1, 20_000),
    "names_file": one_of(1, 3, 10, 30),            # every so many names of ours
}


def drawn(path, i):
    """The i-th setting of a notebook: a value within its range for every parameter."""
    rng = random.Random(f"{path.stem} {i}")
    ranges = {name: RANGES[name] for name in parameters(path)}
    setting = {name: (draw[path.name[:2]] if isinstance(draw, dict) else draw)(rng)
               for name, draw in ranges.items()}
    if path.name[:2] > "02":                              # a tree wants a power of its group
        group = setting.get("group_size", 2)
        setting["block_size"] = rng.choice([group**k for k in range(1, 6) if group**k <= 32])
    # A wide network on a long context gets smaller batches, then fewer neurons: it takes seconds.
    for name, least in (("batch_size", 2), ("n_hidden", 16)):
        while setting[name] > least and work(setting) > 4e7:
            setting[name] = max(least, setting[name] // 2)
    return setting


def work(setting):
    """Multiplications of a forward pass of the widest layer, roughly."""
    return setting.get("block_size", 8) * setting["batch_size"] * setting["n_hidden"] ** 2


CORNERS = {
    "all small": {"block_size": 2, "long_block_size": 1, "n_embd": 1, "n_hidden": 1, "n_skip": 1,
                  "pair_hidden": 1, "stack_hidden": 1, "dilations": [1], "max_steps": 1,
                  "pair_steps": 1, "race_steps": 1, "epochs": 1, "pair_epochs": 1, "batch_size": 2,
                  "pair_seeds": 1, "workers": 1, "sampled_names": 1, "seed": 0,
                  "learning_rate": 1e-6},
    "all large": {"block_size": 32, "long_block_size": 32, "n_embd": 64, "n_hidden": 256,
                  "n_skip": 256, "dilations": [1, 2, 4, 8, 16, 32, 64], "max_steps": 3,
                  "race_steps": 3, "batch_size": 16, "pair_seeds": 1, "pair_steps": 3,
                  "seed": 2**32 - 1},
    "a batch larger than the list": {"batch_size": 1000, "n_hidden": 32, "max_steps": 2,
                                     "race_steps": 2, "pair_steps": 2, "names_file": 300,
                                     "pair_seeds": 1, "workers": 1},
    "groups of 4": {"block_size": 16, "group_size": 4, "pair_seeds": 1},
    "groups of 3": {"block_size": 27, "group_size": 3, "pair_seeds": 1},
    "hot": {"learning_rate": 10.0, "pair_seeds": 1, "workers": 1},
}
DRAWN = 8


def runs(choices):
    """A test for each of the choices and each notebook.

    The longest first, so that no worker begins with one when all the others have ended.
    """
    return [pytest.param(path, choice, id=f"{choice}-{path.stem}")
            for choice in choices for path in PATHS[::-1]]


@pytest.fixture
def steps(monkeypatch):
    """A list that gets an entry for every backward pass."""
    steps, backward = [], torch.Tensor.backward

    def counted(self, *args, **kwargs):
        steps.append(1)
        return backward(self, *args, **kwargs)

    monkeypatch.setattr(torch.Tensor, "backward", counted)
    return steps


@pytest.mark.full
@pytest.mark.parametrize(("path", "which"), runs([*CORNERS, *range(DRAWN)]))
def test_runs_with_other_values(path, which, run, words_file):
    setting = {k: v for k, v in (CORNERS[which] if which in CORNERS else drawn(path, which)).items()
               if k in parameters(path)}
    if "group_size" in CORNERS.get(which, {}) and "group_size" not in setting:
        setting.pop("block_size", None)                      # such a tree joins 2 in any case
    setting["names_file"] = words_file(helpers.load_words()[:: setting.get("names_file", 10)])
    run(path, setting)


def letters(n, length):
    """`n` words of so many letters, by chance."""
    rng = random.Random(0)
    return ["".join(rng.choices(string.ascii_lowercase, k=length)) for _ in range(n)]


NAMES = helpers.load_words()
WORDS = {
    "another order": NAMES[::-3],
    "50 words": NAMES[:50],
    "ten words": NAMES[:10],
    "other scripts": 3 * ["Анна", "мария", "Пётр", "Zoë", "João", "Émile", "Łukasz", "Øyvind",
                          "señor", "ß", "e\u0301mile", "李小龙", "علي"],
    "one letter": list(string.ascii_lowercase),
    "one letter, one word": ["a"] * 20,
    "200 letters": letters(30, 200),
    "upper and lower case": [w.upper() if i % 3 else w.title() for i, w in enumerate(NAMES[::40])],
    "spaces and marks": ["anna maria", "o'neill", "jean-luc", "a\tb", "x y z", "1 2 3", "#7"] * 4,
}


@pytest.mark.full
@pytest.mark.parametrize(("path", "which"), runs(WORDS))
def test_runs_with_other_words(path, which, run, words_file):
    run(path, {"names_file": words_file(WORDS[which]), "pair_seeds": 1, "workers": 1})


# The other notebooks take longer: their trainings compare more models, or start processes.
@pytest.mark.parametrize("path", [
    pytest.param(path, id=path.stem,
                 marks=[pytest.mark.full] * (path.name[:2] in ("05", "06", "08", "09", "10")))
    for path in PATHS[::-1]])
def test_runs_all_small_and_in_other_scripts(path, run, words_file):
    run(path, CORNERS["all small"] | {"names_file": words_file(WORDS["other scripts"])})


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_too_few_words_end_at_loading(path, n, run, words_file, steps):
    with pytest.raises(ValueError, match=f"{n} words? leaves? the .* split empty .* at least 10"):
        run(path, {"names_file": words_file(NAMES[:n])})
    assert not steps


# By the name of the parameter: what cannot be, and what must be said.
IMPOSSIBLE = {
    "block_size": [(0, "block_size is 0"), (2.5, "block_size is 2.5"), ("8", "block_size is '8'")],
    "long_block_size": [(0, "block_size is 0")],
    "group_size": [(1, "group_size is 1"), (2.0, "group_size is 2.0")],
    "batch_size": [(0, "batch_size is 0"), ("32", "batch_size is '32'")],
    "learning_rate": [(0, "learning_rate is 0"), (-0.1, "learning_rate is -0.1"),
                      (math.nan, "learning_rate is nan"), ("0.1", "learning_rate is '0.1'")],
    "weight_decay": [(-1, "weight_decay is -1")],
    "dropout": [(1.0, "dropout is 1.0"), (-0.1, "dropout is -0.1")],
    "dilations": [([], r"dilations is \[\]"), ([1, 0], "dilation is 0"), (4, "dilations is 4")],
    "recipe": [("slow", "recipe is 'slow'")],
    "seed": [(2**32, "seed is 4294967296"), (-1, "seed is -1"), (1.5, "seed is 1.5"),
             ("a", "seed is 'a'")],
    "names_file": [("nowhere.txt", "nowhere.txt: no such file"), (7, "names_file is 7")],
    "storage": [(7, "storage is 7"), ("mysql://u:p@h/db", "mysql"),
                ("../helpers.py/study.db", "study.db")],
    "run_lecture": [("no", "run_lecture is 'no'")],
}
SIZES = [(0, "is 0"), (-3, "is -3"), (2.5, "is 2.5"), (None, "is None")]
CANNOT = [pytest.param(path, {name: value}, f"{name} {said}" if said[:2] == "is" else said,
                       id=f"{name} {value}-{path.stem}")
          for path in PATHS for name in parameters(path)
          for value, said in IMPOSSIBLE.get(name, SIZES)]
for path in PATHS:
    if path.name[:2] not in ("00", "08"):                # those have no batch normalisation
        CANNOT.append(pytest.param(path, {"batch_size": 1}, "batch_size is 1; .* 2 or more",
                                   id=f"batch_size 1-{path.stem}"))
    for n, group in ((6, 4), (12, 2), (9, 2)):
        if "group_size" in parameters(path) or (group == 2 and path.name[:2] > "02"):
            CANNOT.append(pytest.param(path, {"block_size": n, "group_size": group},
                                       f"block_size {n} is no power of {group}",
                                       id=f"{n} in groups of {group}-{path.stem}"))


@pytest.mark.parametrize(("path", "setting", "said"), CANNOT)
def test_an_impossible_value_ends_before_any_training(path, setting, said, run, steps):
    cells = []

    def around(cell):
        cells.append(cell.id)
        return contextlib.nullcontext()

    errors = ValueError, AssertionError, FileNotFoundError, harness.StorageError
    with pytest.raises(errors, match=said):
        run(path, setting, around)
    assert not steps
    assert len(cells) <= 5, cells
