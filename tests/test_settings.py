"""Every notebook with other hyperparameters and other words; with impossible ones, a clear error.

The values stand in for those of the cell tagged `parameters`, as with papermill. All in quick
mode. A few run in the quick tests, all with --full.
"""

import ast
import math
import random

import nbformat
import pytest
import torch

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
    "block_size": one_of(2, 4, 4, 8, 8, 9, 16, 16, 27, 32, *range(2, 33)),
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
    # A wide network on a long context gets smaller batches, then fewer neurons: seconds, not minutes.
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
                  "seed": 2**63 - 1},
    "a batch larger than the list": {"batch_size": 1000, "n_hidden": 32, "max_steps": 2,
                                     "race_steps": 2, "pair_steps": 2, "names_file": 300,
                                     "pair_seeds": 1, "workers": 1},
    "groups of 4": {"block_size": 16, "group_size": 4, "pair_seeds": 1},
    "groups of 3": {"block_size": 27, "group_size": 3, "pair_seeds": 1},
    "hot": {"learning_rate": 1e6, "pair_seeds": 1, "workers": 1},
}
DRAWN = 8
SETTINGS = [pytest.param(path, corner, id=f"{corner}-{path.stem}")
            for corner in [*CORNERS, *range(DRAWN)] for path in PATHS[::-1]]


def impossible(setting):
    """A pattern of what must be said about a drawn setting that cannot be, or None."""
    if "block_size" in setting and "long_block_size" not in setting:
        n, group = setting["block_size"], setting.get("group_size", 2)
        if group ** round(math.log(n, group)) != n:
            return f"block_size {n} is no power of {group}"
    return None


@pytest.fixture
def steps(monkeypatch):
    """A list that gets an entry for every backward pass."""
    steps, backward = [], torch.Tensor.backward

    def counted(self, *args, **kwargs):
        steps.append(1)
        return backward(self, *args, **kwargs)

    monkeypatch.setattr(torch.Tensor, "backward", counted)
    return steps


@pytest.mark.parametrize(("path", "which"), SETTINGS)
def test_runs_with_other_values(path, which, run, words_file, steps):
    setting = {k: v for k, v in (CORNERS[which] if which in CORNERS else drawn(path, which)).items()
               if k in parameters(path)}
    setting["names_file"] = words_file(helpers.load_words()[:: setting.get("names_file", 10)])
    message = impossible({"block_size": 8} | setting) if path.name[:2] > "02" else None
    if message is None:
        run(path, setting)
    else:
        with pytest.raises(ValueError, match=message):
            run(path, setting)
        assert not steps, "it was trained before the error"
