"""The evidence of notebooks 09 to 11, kept in data/evidence.csv, and the command that measures it.

    PYTHONPATH=notebooks python -m course.evidence claims

in the project's folder measures the rows of a part that the file lacks, with two workers. If it was
stopped, it resumes. To measure rows again, delete them first. Without a name it lists the parts.
"""

import argparse
import bisect
import functools
import json

import optuna
import pandas as pd
from optuna.distributions import FloatDistribution

import helpers
from course import files, runs, storage, studies
from course.record import RECORD
from course.search import choice
from course.tables import holm, paired, table, with_settings

FILE = helpers.ROOT / "data" / "evidence.csv"
SEARCHES = helpers.ROOT / "data" / "searches.journal"


def seeds(configs, n=5):
    """Every configuration with the seeds 1 to n."""
    return [config | {"seed": seed} for seed in range(1, n + 1) for config in configs]


def sized(config, parameters=45_000):
    """The configuration with the n_hidden (and n_skip) that give about so many parameters."""
    def wide(width):
        skip = {"n_skip": width} if "n_skip" in runs.MODELS[config["model"]][1] else {}
        return config | {"n_hidden": width} | skip

    def excess(width):
        model = runs.build(runs.complete(wide(width)))
        return sum(p.nelement() for p in model.parameters()) - parameters

    top = 8
    while excess(top) < 0:
        top *= 2
    above = bisect.bisect_left(range(1, top), 0, key=excess) + 1         # the first not too small
    return wide(min((w for w in (above - 1, above) if w), key=lambda w: abs(excess(w))))


# The lecture's models, and how many seeds each has; course.together measures those from 6 on.
SMALL = {"model": "tree", "n_embd": 10, "n_hidden": 68}
LECTURES = {"flat, 3 letters": ({"model": "mlp", "block_size": 3}, 5),
           "flat, 8 letters": ({"model": "mlp"}, 20), "tree, bug": (SMALL | {"norm": "bug"}, 20),
           "tree, fixed": (SMALL, 20), "tree, 76K": ({"model": "tree"}, 5)}


def claims():
    """The lecture's models at its own recipe: 200,000 steps."""
    return [line for config, n in LECTURES.values() for line in seeds([config], n)]


def copies():
    """Names that appear twice: kept, taken out of train, or out of the whole list."""
    wave = {"model": "wavenet", "n_hidden": 48, "n_skip": 48, "dilations": [1, 2, 4, 8],
            "epochs": 8}
    return seeds([wave | {"copies": how} for how in ("kept", "not in train", "none")])


CONTEXTS = {3: (2, [1, 1]), 4: (2, [1, 2]), 8: (2, [1, 2, 4]), 16: (2, [1, 2, 4, 8]),
            32: (2, [1, 2, 4, 8, 16]), 64: (2, [1, 2, 4, 8, 16, 32])}
LEVELS = {1: (16, [1]), 2: (4, [1, 4]), 4: (2, [1, 2, 4, 8]), 8: (2, [1, 2, 1, 2, 1, 2, 2, 4]),
          15: (2, [1] * 15)}


# Shapes, what else is set, and the learning rates to try. The text takes larger ones.
RATES = 0.004, 0.008, 0.016, 0.032
ARMS = {"context": (CONTEXTS, {"epochs": 6}, RATES), "levels": (LEVELS, {"epochs": 6}, RATES),
        "text": (CONTEXTS, {"epochs": 8, "batch_size": 16, "pieces": 256,
                            "words": "data/shakespeare.txt"}, [2 * rate for rate in RATES])}


@functools.cache
def stacks(part):
    """{arm: a WaveNet with its kernel size and dilations}, all of about as many parameters."""
    shapes, options, _ = ARMS[part]
    return {arm: sized({"model": "wavenet", "kernel_size": k, "dilations": d} | options)
            for arm, (k, d) in shapes.items()}


def rates():
    """Every context and every number of levels at each of four learning rates, with one seed."""
    return seeds([config | {"learning_rate": rate} for part, (*_, rates) in ARMS.items()
                  for config in stacks(part).values() for rate in rates], 1)


def by_rate(part):
    """The val of a part's arms, one a line, at each learning rate, from the part `rates`."""
    rows = load("rates")
    arms = {runs.key(config): arm for arm, config in stacks(part).items()}
    rows["arm"] = [arms.get(runs.key({k: v for k, v in json.loads(text).items()
                                      if k not in ("seed", "learning_rate")}))
                   for text in rows.config]
    rows = rows.dropna(subset="arm").astype({"arm": int})
    return rows.pivot(index="arm", columns="learning_rate", values="val")


def tuned(part):
    """Each arm of a part at its own best learning rate, with five new seeds."""
    best = by_rate(part).idxmin(axis=1)
    return [config | {"learning_rate": best[arm], "seed": seed} for seed in range(2, 7)
            for arm, config in stacks(part).items()]


def context():
    """Context of 3 to 64 characters on names, at equal parameters."""
    return tuned("context")


def text():
    """Context of 3 to 64 characters on running text, at equal parameters."""
    return tuned("text")


def levels():
    """1 to 15 levels that all see 16 characters, on names, at equal parameters."""
    return tuned("levels")


# The field: a search for each family, all with as many trials of as many seconds.
TRIALS, BUDGET = 32, 45.0
SPACE = {"dropout": FloatDistribution(0.0, 0.4),
         "weight_decay": FloatDistribution(1e-3, 0.5, log=True),
         "learning_rate": FloatDistribution(3e-4, 2e-2, log=True),
         "batch_size": choice(16, 32, 64, 128, 256)}
SPACES = {
    "flat": {"n_embd": choice(16, 24, 48, 96), "n_hidden": choice(96, 192, 384, 768, 1536)},
    "torch tree": {"n_embd": choice(8, 16, 24, 48), "n_hidden": choice(64, 96, 128, 192),
                   "dropout": choice(0.0, 0.05, 0.1)},        # BatchNorm tolerates little
    "wavenet": {"n_hidden": choice(24, 32, 48, 64, 96, 128), "n_skip": choice(96, 192, 384),
                "dilations": choice([1, 2, 4], [1, 2, 4, 8], [1, 2, 4, 8, 1, 2],
                                    [1, 2, 4, 8] * 2, [1, 2, 4, 8] * 3)},
    "gru": {"n_hidden": choice(96, 128, 192, 256), "n_layers": choice(1, 2, 3)},
    "lstm": {"n_hidden": choice(96, 128, 192, 256), "n_layers": choice(1, 2, 3)},
    "transformer": {"n_hidden": choice(48, 64, 96), "n_layers": choice(1, 2, 3, 4)},
}


def search(family, where, workers=2):
    """Search for the settings of a family that are best after BUDGET seconds; add to SEARCHES."""
    base = {"model": family, "budget": BUDGET, "average": 0.99}
    study = studies.open_study(family, where, space=SPACE | SPACES[family], base=base,
                               n_trials=TRIALS)
    studies.run(study, where, workers)
    keep_search(family, where)
    winner.cache_clear()


def keep_search(family, where, file=SEARCHES):
    """Copy the search of a family to the file of searches, in place of an earlier one."""
    source = storage.open_storage(where)

    def write(part):
        old, new = map(storage.open_journal, (file, part))
        for name in sorted({*optuna.get_all_study_names(old), family}):
            optuna.copy_study(from_study_name=name, to_storage=new,
                              from_storage=source if name == family else old)

    with storage.locked(file):
        files.write_whole(file, write)


def searched(family, file=SEARCHES):
    """The kept search of a family, an Optuna study. Raises ValueError where there is none."""
    if not file.is_file():
        raise ValueError(f"{file.name} is missing; make it with the part \"searches\"")
    return optuna.load_study(study_name=family, storage=storage.open_journal(file))


@functools.cache
def winner(family, trials=None):
    """The best configuration of a family's search, or of its first trials, in two digits."""
    done = [t for t in searched(family).trials[:trials] if t.state.name == "COMPLETE"]
    config = json.loads(min(done, key=lambda t: t.value).user_attrs["row"]["config"])
    rounded = {k: float(f"{v:.2g}") for k, v in config.items() if isinstance(v, float)}
    return {k: v for k, v in (config | rounded).items() if k != "budget"}


# One name for each model, in tables and figures.
LECTURE = "tree, lecture's recipe"
LABELS = {"n-gram": "n-gram", "flat": "flat network", "torch tree": "tree", "wavenet": "WaveNet",
          "gru": "GRU", "lstm": "LSTM", "transformer": "Transformer", "tree": LECTURE}


def field():
    """The field by its labels: the lecture's tree, those of notebooks 07 and 09, the winners."""
    return {LECTURE: {"model": "tree"}, "tree, recipe of 07": {"model": "torch tree"},
            "WaveNet, recipe of 09": {
                "model": "wavenet", "dropout": 0.15, "embd_dropout": 0.1,
                "learning_rate": 3e-3, "weight_decay": 0.1, "average": 0.99},
            **{LABELS[family]: winner(family) for family in SPACES}}


# How many steps took BUDGET seconds on one thread of the first searches' machine, a median of five.
# GRU and Transformer: the median of their trials of this size, on a slower machine (notebook 11).
STEPS = {LECTURE: 46_477, "tree, recipe of 07": 13_586, "WaveNet, recipe of 09": 725,
         "flat network": 27_343, "tree": 21_332, "WaveNet": 2_233, "GRU": 3_223, "LSTM": 8_017,
         "Transformer": 3_275}


def equal_time():
    """The field, each with the steps that took BUDGET seconds on one machine."""
    return seeds([runs.with_steps(runs.complete(config), STEPS[label])
                  for label, config in field().items()])


def sixteen():
    """The winners of the first 16 trials where a later trial was better, as in equal_time."""
    steps = {"torch tree": 21_332, "wavenet": 2_233, "gru": 5_591, "transformer": 2_316}
    return seeds([runs.with_steps(runs.complete(winner(family, 16)), n)
                  for family, n in steps.items()])


def carried():
    """The WaveNet of the search and that of notebook 09, with the steps that took 77 seconds."""
    return seeds([runs.with_steps(runs.complete(field()[label]), steps) for label, steps in
                  (("WaveNet", 3_787), ("WaveNet, recipe of 09", 1_169))], 3)


# Four forms of each family for a long training: two with the settings of the best of its first 16
# trials, two with those of the best of all, mostly larger or with more dropout. The steps took 120
# seconds on the first machine, and those of sizes added later were timed in turns with such steps.
HEAD = {"embd_dropout": 0.1, "head_dropout": 0.1}
TREE = {"n_embd": 24, "learning_rate": 5e-3, "weight_decay": 0.01, "batch_size": 256,   # of 07
        "dropout": 0.1}
SIX = HEAD | {"dilations": [1, 2, 4, 8, 1, 2]}                                          # of 09
LONG = {16: {
    "flat": [{"n_hidden": 768, "dropout": 0.25, "steps": 33_445},
             {"n_hidden": 1536, "dropout": 0.4, "steps": 18_570}],
    "torch tree": [TREE | {"n_hidden": 128, "steps": 22_291},
                   TREE | {"n_hidden": 192, "steps": 14_130}],
    "wavenet": [SIX | {"n_hidden": 64, "dropout": 0.2, "steps": 5_279},
                SIX | {"n_hidden": 96, "dropout": 0.3, "steps": 3_304}],
    "gru": [{"n_hidden": 192, "n_layers": 1, "dropout": 0.3, "steps": 8_065},
            {"n_hidden": 192, "n_layers": 2, "dropout": 0.3, "steps": 4_404}],
    "lstm": [{"n_hidden": 192, "n_layers": 1, "dropout": 0.3, "steps": 11_541},
             {"n_hidden": 192, "n_layers": 2, "dropout": 0.3, "steps": 6_423}],
    "transformer": [{"n_hidden": 64, "n_layers": 4, "dropout": 0.1, "steps": 4_180},
                    {"n_hidden": 96, "n_layers": 4, "dropout": 0.2, "steps": 2_548}],
}, None: {
    "flat": [{"n_hidden": 768, "dropout": 0.4, "steps": 33_445},
             {"n_hidden": 1536, "dropout": 0.25, "steps": 18_570}],
    "torch tree": [{"n_hidden": 128, "dropout": 0.1, "steps": 37_300},
                   {"n_hidden": 192, "dropout": 0.1, "steps": 25_200, "n_embd": 24}],
    "wavenet": [HEAD | {"n_hidden": 48, "dropout": 0.2, "steps": 5_050},
                HEAD | {"n_hidden": 64, "dropout": 0.2, "steps": 3_910}],
    "gru": [{"n_hidden": 128, "dropout": 0.2, "steps": 7_430},
            {"n_hidden": 192, "dropout": 0.3, "steps": 4_404}],
    "lstm": [{"n_hidden": 192, "dropout": 0.15, "steps": 11_541},
             {"n_hidden": 256, "dropout": 0.4, "steps": 7_160}],
    "transformer": [{"n_hidden": 64, "dropout": 0.1, "steps": 7_600},
                    {"n_hidden": 64, "n_layers": 4, "dropout": 0.1, "steps": 4_180}],
}}


def longer():
    """Four forms of each family of the field, the steps that took 120 seconds, one seed."""
    return [winner(family, trials) | {"average": 0.997} | form for trials, part in LONG.items()
            for family, forms in part.items() for form in forms]


# The steps of 200 seconds, by those of 120.
LONGEST = {18_570: 29_139, 14_130: 22_463, 25_200: 42_000, 5_279: 8_179, 5_050: 8_420,
           7_430: 12_380, 4_404: 6_954, 11_541: 17_335, 6_423: 10_700, 7_600: 12_670, 4_180: 7_007}


def best():
    """The two best forms of each family for 200 seconds, a new seed; the lecture's tree, n-gram."""
    configs = map(json.loads, load("longer").sort_values("val").groupby("model").head(2).config)
    configs = [config | {"steps": LONGEST[config["steps"]]} for config in configs]
    configs += [{"model": "tree"}, {"model": "n-gram", "order": 5, "weight": 4.0}]
    return [config | {"seed": 1, "test": True} for config in configs]


# What the record's recipe has beyond the paper, with the values that turn it off.
RECIPE = {"dropout": {"dropout": 0.0, "embd_dropout": 0.0}, "zoneout": {"zoneout": 0.0},
          "weight_decay": {"weight_decay": 0.0}, "average": {"average": None}}


def recipe():
    """The record's recipe for a small network, with less dropout, and without a part at a time."""
    small = RECORD | {"n_hidden": 96, "n_layers": 2, "dropout": 0.1, "epochs": 10,
                      "threads": 1}
    return seeds([small | change for change in ({}, *RECIPE.values())], 3)


STUDIES = {f.__name__: f for f in (claims, copies, context, text, levels, rates, equal_time,
                                   sixteen, carried, longer, best, recipe)}


def record(name, where, workers=2):
    """Measure the rows of a part that are missing from FILE, and keep those that are finished."""
    if name not in STUDIES:
        raise ValueError(f"{name!r} is not a part of the evidence; expected {', '.join(STUDIES)}")
    have, asked = set(rows_of(name).config), {runs.key(c): c for c in STUDIES[name]()}
    study = studies.open_study(name, where, [c for k, c in asked.items() if k not in have])
    try:
        studies.run(study, where, workers)
    finally:
        rows = table(study)
        # The storage may also hold what this part asked for before it was changed.
        keep(name, rows[(rows.state == "complete") & rows.config.isin(asked)])


def rows_of(name, file=FILE):
    """The rows of one part as the file has them; none, if there is no file."""
    rows = pd.read_csv(file) if file.is_file() else pd.DataFrame(columns=["part", *runs.ROW])
    return rows[rows.part == name].reset_index(drop=True)


def keep(name, new, file=FILE):
    """Add rows to one part in the file, each in place of an earlier one of its configuration."""
    new = new.reindex(columns=runs.ROW)
    new["by_position"] = new.by_position.map(json.dumps)
    new.insert(0, "part", name)
    with storage.locked(file):
        old = pd.read_csv(file) if file.is_file() else new[:0]
        old = old[(old.part != name) | ~old.config.isin(new.config)]
        whole = pd.concat([rows for rows in (old, new) if len(rows)] or [new])
        whole = whole.sort_values(["part", "config"], kind="stable")
        files.write_whole(file, lambda part: whole.to_csv(part, index=False,
                                                            float_format="%.9g"))


def load(name, file=FILE):
    """The rows of one part as they were measured, with a column for every setting, and `group`.

    `gap` is val minus train. Raises ValueError for a part that is not in the file.
    """
    rows = rows_of(name, file)
    if rows.empty:
        raise ValueError(f"{name!r} is not a part of {file.name}; expected {', '.join(STUDIES)}")
    rows["by_position"] = rows.by_position.map(json.loads)
    rows = with_settings(rows)
    rows["gap"] = rows.val - rows.train
    rows["group"] = [group_of(name, row) for row in rows.to_dict("records")]
    return rows


def group_of(part, row):
    """What a row of a part is compared by: rows of one group differ in their seed alone."""
    if part == "claims" and row["model"] == "mlp":
        return f"flat, {row['block_size']} letters"
    if part == "claims":
        return "tree, 76K" if row["n_hidden"] == 128 else f"tree, {row['norm']}"
    if part == "copies":
        return row["copies"]
    if part in ("context", "text"):
        return 1 + (row["kernel_size"] - 1) * sum(row["dilations"])
    if part == "recipe":
        gone = [name for name in RECIPE if not row[name] > 0]
        return f"without {gone[0]}".replace("_", " ") if gone else "the whole recipe"
    if part == "levels":
        return len(row["dilations"])
    if part == "rates":
        return runs.key(json.loads(row["config"]) | {"seed": 0})
    if part in ("equal_time", "carried"):
        config = {k: v for k, v in json.loads(row["config"]).items()
                  if k not in ("seed", "steps", "max_steps")}
        return next(label for label, other in field().items() if other == config)
    return LABELS[row["model"]]


# Part, claim, base and other group, the figure compared, the lecture's difference.
CLAIMS = [
    ("claims", "context 3 to 8, flat", "flat, 3 letters", "flat, 8 letters", "val", -0.078),
    ("claims", "flat to tree with the bug", "flat, 8 letters", "tree, bug", "val", 0.002),
    ("claims", "flat to tree, fixed", "flat, 8 letters", "tree, fixed", "val", -0.005),
    ("claims", "BatchNorm bug to fix", "tree, bug", "tree, fixed", "val", -0.007),
    ("claims", "22K to 76K", "tree, fixed", "tree, 76K", "val", -0.029),
    ("claims", "22K to 76K, train", "tree, fixed", "tree, 76K", "train", -0.143),
    ("claims", "22K to 76K, gap of val to train", "tree, fixed", "tree, 76K", "gap", 0.114),
    ("copies", "copies out of train: val", "kept", "not in train", "val", None),
    ("copies", "copies out of train: their val", "kept", "not in train", "copied", None),
    ("copies", "copies out of train: val of the others", "kept", "not in train", "unseen", None),
]


def verdicts(*parts):
    """The claims of these parts, or of all, checked against the recorded rows: a table.

    `p Holm` takes the larger of a claim's two p, and corrects it for all the lines of the table.
    A claim survives if that is below 0.05; then all three are.
    """
    lines = {}
    for name, claim, base, other, value, lecture in CLAIMS:
        if name in (parts or STUDIES):
            rows = load(name)
            rows = rows[rows.group.isin([base, other])]
            rows = rows[rows.duplicated("seed", keep=False)]             # the seeds that both have
            line = paired(rows, "group", base, value)
            lines[claim] = {"lecture": lecture, **line.loc[other, [
                "pairs", "difference", "low", "high", "p", "p unpaired"]]}
    found = pd.DataFrame.from_dict(lines, orient="index").astype({"pairs": int, "lecture": float})
    found["p Holm"] = holm(found[["p", "p unpaired"]].max(axis=1).tolist())
    found["survives"] = found["p Holm"].lt(0.05).map({True: "yes", False: "no"})
    return found


def main():
    """Measure the part that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", nargs="?", choices=[*STUDIES, "searches"],
                        help="the part to measure")
    parser.add_argument("--storage", default=str(helpers.OUTPUT / "evidence.db"))
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    if arguments.name is None:
        print("\n".join(f"{name}: {part.__doc__}" for name, part in STUDIES.items()))
    elif arguments.name == "searches":
        for family in SPACES:
            search(family, arguments.storage, arguments.workers)
    else:
        record(arguments.name, arguments.storage, arguments.workers)


if __name__ == "__main__":
    main()
