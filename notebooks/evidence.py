"""The evidence of notebook 09, kept in data/evidence.csv, and the command that measures it.

    python notebooks/evidence.py claims

measures a part of it again, with two workers, and goes on where it was stopped. Without a name it
lists the parts.
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import pandas as pd

import harness
import helpers
import runs

FILE = helpers.ROOT / "data" / "evidence.csv"


def seeds(configs, n=5):
    """Every configuration with the seeds 1 to n."""
    return [config | {"seed": seed} for seed in range(1, n + 1) for config in configs]


def sized(config, parameters=45_000):
    """The configuration, n_hidden (and n_skip) such that it has about so many parameters."""
    def count(width):
        skip = {"n_skip": width} if "n_skip" in runs.MODELS[config["model"]][1] else {}
        wide = config | {"n_hidden": width} | skip
        return abs(sum(p.nelement() for p in runs.build(wide).parameters()) - parameters), wide

    return min((count(width) for width in range(8, 120)), key=lambda pair: pair[0])[1]


def claims():
    """The lecture's models at its own recipe: 200,000 steps."""
    tree, small = {"model": "tree"}, {"n_embd": 10, "n_hidden": 68}
    return seeds([{"model": "mlp", "block_size": 3}, {"model": "mlp"},
                  tree | small | {"norm": "bug"}, tree | small, tree])


def copies():
    """Names that stand twice: kept, taken out of train, or out of the whole list."""
    wave = {"model": "wavenet", "n_hidden": 48, "n_skip": 48, "dilations": [1, 2, 4, 8],
            "epochs": 8}
    return seeds([wave | {"copies": how} for how in ("kept", "not in train", "none")])


CONTEXTS = {3: (2, [1, 1]), 4: (2, [1, 2]), 8: (2, [1, 2, 4]), 16: (2, [1, 2, 4, 8]),
            32: (2, [1, 2, 4, 8, 16]), 64: (2, [1, 2, 4, 8, 16, 32])}
LEVELS = {1: (16, [1]), 2: (4, [1, 4]), 4: (2, [1, 2, 4, 8]), 8: (2, [1, 2, 1, 2, 1, 2, 2, 4]),
          15: (2, [1] * 15)}


def stacks(shapes, **options):
    """WaveNets of about the same number of parameters, with (kernel_size, dilations) as given."""
    return seeds([sized({"model": "wavenet", "kernel_size": k, "dilations": d} | options)
                  for k, d in shapes.values()])


def context():
    """Context of 3 to 64 characters on names, at equal parameters."""
    return stacks(CONTEXTS, epochs=6)


def text():
    """Context of 3 to 64 characters on running text, at equal parameters."""
    return stacks(CONTEXTS, epochs=4, words="text", batch_size=16)


def levels():
    """1 to 15 levels that all see 16 characters, on names, at equal parameters."""
    return stacks(LEVELS, epochs=6)


def choices():
    """Activation, BatchNorm momentum and schedule of the lecture's tree, in 10,000 steps."""
    tree = {"model": "tree", "n_embd": 10, "n_hidden": 68, "max_steps": 10_000}
    return seeds([tree | change for change in (
        {}, {"activation": "relu"}, {"activation": "gelu"}, {"momentum": 0.01},
        {"momentum": 0.001}, {"schedule": "constant"}, {"schedule": "linear"},
        {"schedule": "cosine"})])


FIELD = [
    {"model": "flat"}, {"model": "torch tree"}, {"model": "wavenet"},
    {"model": "gru", "n_hidden": 184}, {"model": "lstm", "n_hidden": 160},
    {"model": "transformer", "n_hidden": 96, "learning_rate": 2e-3},
]


def equal_time():
    """The field, 45 seconds of the processor each."""
    return seeds([config | {"budget": 45.0} for config in FIELD])


def tuning():
    """The dropout of the rivals, 60 seconds of the processor each."""
    rivals = [config for config in FIELD if config["model"] not in ("torch tree", "wavenet")]
    return [config | {"budget": 60.0, "weight_decay": 0.1, "average": 0.99, "dropout": dropout}
            for config in rivals for dropout in (0.2, 0.4)]


STUDIES = {f.__name__: f for f in (claims, copies, context, text, levels, choices, equal_time,
                                   tuning)}


def record(name, where, workers=2):
    """Measure a part of the evidence, or what is left of it, and put its rows into FILE."""
    if name not in STUDIES:
        raise ValueError(f"{name!r} is no part of the evidence; expected {', '.join(STUDIES)}")
    study = harness.open_study(name, where, STUDIES[name]())
    harness.run_study(study, where, workers)
    rows = harness.table(study)
    keep(name, rows[rows.state == "complete"])


def keep(name, rows, file=FILE):
    """Put the rows of one part into the file, in place of its earlier ones."""
    rows = rows.reindex(columns=runs.ROW).sort_values("config", kind="stable")
    rows.insert(0, "part", name)
    old = pd.read_csv(file) if file.is_file() else rows[:0]
    whole = pd.concat([old[old.part != name], rows]).sort_values("part", kind="stable")
    part = file.with_suffix(".part")
    whole.to_csv(part, index=False, float_format="%.9g")
    part.replace(file)


def load(name, file=FILE):
    """The rows of one part as they were measured, a column for every setting."""
    rows = pd.read_csv(file)
    rows = rows[rows.part == name].reset_index(drop=True)
    if rows.empty:
        raise ValueError(f"{name!r} is no part of {file.name}; expected {', '.join(STUDIES)}")
    rows["by_position"] = rows.by_position.map(json.loads)
    settings = pd.DataFrame([runs.complete(json.loads(text)) for text in rows.config])
    return rows.join(settings[settings.columns.difference(rows.columns)])


def main():
    """Measure the part that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", nargs="?", choices=STUDIES, help="the part to measure")
    parser.add_argument("--storage", default=str(helpers.OUTPUT / "evidence.db"))
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    if arguments.name is None:
        return print("\n".join(f"{name}: {part.__doc__}" for name, part in STUDIES.items()))
    record(arguments.name, arguments.storage, arguments.workers)


if __name__ == "__main__":
    main()
