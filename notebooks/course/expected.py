"""The published figures of the lecture's five models, and the log of ours beside them."""

import hashlib
import json
import math

import pandas as pd

import helpers
from course.files import write_whole

# A stage: its notebook; the lecture's (block_size, n_embd, n_hidden); the parameters; the
# lecture's train and val; the val range of independent reruns on the lecture's list (to half a
# unit of the published digits); train and val of one rerun on ours, with 0.006 to either side.
RECIPE = {"max_steps": 200_000, "batch_size": 32, "learning_rate": 0.1, "seed": 42}
STAGES = {
    "MLP, 3 letters": (1, (3, 10, 200), 12_097, (2.058, 2.105), (2.1055, 2.1072), (2.060, 2.120)),
    "MLP, 8 letters": (2, (8, 10, 200), 22_097, (1.918, 2.027), (2.0295, 2.0345), (1.923, 2.039)),
    "tree": (3, (8, 10, 68), 22_397, (1.941, 2.029), (2.0245, 2.0355), (1.942, 2.038)),
    "tree, fixed": (4, (8, 10, 68), 22_397, (1.912, 2.022), (2.0175, 2.0245), (1.912, 2.030)),
    "tree, scaled": (5, (8, 24, 128), 76_579, (1.769, 1.993), (1.9865, 1.9945), (1.767, 2.001)),
}
LECTURE = "lecture train / val"                                          # a column of the log
LISTS = {
    "71779929036aaf049a2268928187719ac43190941ebce328725dab9a4ec0dedd": "ours",
    "0a30b5557f192f32ab962680889aac5f6fda0f4cecf40a6d0b5694f58ea8cc4d": "lecture",
}


def which_list(words):
    """'ours' for data/names.txt in its order, 'lecture' for the lecture's file, else None."""
    return LISTS.get(hashlib.sha256("\n".join(words).encode()).hexdigest())


def is_our_list(words):
    """Whether `words` is data/names.txt, in its order."""
    return which_list(words) == "ours"


def changed(stage, words, config):
    """What differs from the values that the figures of `stage` are for: a list of clauses."""
    sizes = dict(zip(("block_size", "n_embd", "n_hidden"), STAGES[stage][1], strict=True))
    usual = sizes | RECIPE | {"group_size": 2}
    why = [f"{k} is {config[k]}, not {v}" for k, v in usual.items() if config.get(k, v) != v]
    return why + ["this is another word list"] * (which_list(words) is None)


def performance_log(stage, words, config, parameters, train_loss, val_loss, seconds, steps,
                    names=(), losses=()):
    """Hold `stage` against its expected figures; return the log of all stages so far.

    A row measured at the lecture's values is kept in notebooks/output/ for the later notebooks,
    with `names` that the model made up and the curve of its `losses`. AssertionError if a figure
    that applies is missed. `parameters` are the model's tensors.
    """
    number, _, count, lecture, reruns, ours = STAGES[stage]
    n_params = sum(p.nelement() for p in parameters)
    low, high = (reruns if which_list(words) == "lecture"
                 else (round(ours[1] - 0.006, 4), round(ours[1] + 0.006, 4)))
    row = _row(n_params, train_loss, val_loss, seconds, f"{low} to {high}")
    print(f"{stage}: train {train_loss:.6f}, val {val_loss:.6f}")
    why = changed(stage, words, config)
    if steps < RECIPE["max_steps"]:
        why.append(f"the model was trained for {steps:,} steps")
    if why:
        print(f"Other figures are expected here: {', '.join(why)}.")
        row["expected val"] = "none"
    else:
        assert n_params == count, f"{n_params} parameters, expected {count}"
        assert low <= val_loss <= high, (
            f"val {val_loss:.4f} is outside {low} to {high}. Check the versions (notebook 00), the "
            "word list (its checksum is in data/README.md), and run all cells from the top.")
        save_json(log_file(number), row | {"names": names, "curve": thin_curve(losses)})
    row[LECTURE] = "{:.3f} / {:.3f}".format(*lecture)
    return _log(f"{number:02d} {stage}", row, number)


def log_with(label, parameters, train_loss, val_loss, seconds):
    """The log of the lecture's five models, and a row for a model of ours below."""
    count = sum(p.nelement() for p in parameters)
    return _log(label, _row(count, train_loss, val_loss, seconds, "") | {LECTURE: ""})


def _row(count, train_loss, val_loss, seconds, expected_val):
    return {"parameters": f"{count:,}", "train": f"{train_loss:.3f}", "val": f"{val_loss:.3f}",
            "expected val": expected_val, "seconds": f"{seconds:.0f}"}


def _log(label, row, number=6):
    """A table of the stages before notebook `number`, as kept, and `row`."""
    rows = {f"{n:02d} {name}": kept_row(n) | {LECTURE: "{:.3f} / {:.3f}".format(*lecture)}
            for name, (n, _, _, lecture, _, _) in STAGES.items() if n < number}
    table = pd.DataFrame.from_dict(rows | {label: row}, orient="index", columns=list(row))
    return table.fillna("not run yet")


def log_file(number):
    """Where the row of a notebook is kept."""
    return helpers.OUTPUT / f"log_{number:02d}.json"


def kept_row(number):
    """The row of notebook `number`, with its "names"; {} if it has not been run."""
    try:
        return dict(json.loads(log_file(number).read_text()))
    except (OSError, ValueError, TypeError):
        return {}


def thin_curve(losses):
    """(steps, losses): every 500th point of the rolling mean of 1,000 losses."""
    smooth = helpers.rolling_mean(losses, 1000)
    steps = range(len(losses) - len(smooth) + 1, len(losses) + 1)
    return list(steps[::500]), smooth[::500].round(4).tolist()


def kept_curves(*stages):
    """{stage: (steps, losses)} from the log; says which of the stages are missing there."""
    curves = {stage: kept_row(STAGES[stage][0]).get("curve") for stage in stages}
    if missing := [f"{s} (notebook {STAGES[s][0]:02d})" for s in stages if not curves[s]]:
        print(f"Not run yet, so left out: {', '.join(missing)}.")
    return {stage: curve for stage, curve in curves.items() if curve}


def names_so_far(own):
    """Print the names of all models: `own` is {label: names}, the others are in the log."""
    rows = {stage: own.get(stage, kept_row(number).get("names"))
            for stage, (number, *_) in STAGES.items()}
    rows = {label: names for label, names in own.items() if label not in STAGES} | rows
    for label, names in rows.items():
        print(f"{label:15} {' · '.join(names) if names else 'not run yet'}")


def recorded(stage):
    """The vals of a stage's seeds 1 to 5 on our list, from data/evidence.csv."""
    kept = pd.read_csv(helpers.ROOT / "data" / "evidence.csv")
    bug = kept.config.str.contains('"norm": "bug"')
    same = (kept.part == "claims") & (kept.parameters == STAGES[stage][2]) & (kept.seed <= 5)
    return kept.val[same & (bug == (stage == "tree"))].tolist()


def goal(stage, words, config):
    """(the val that `stage` ends at, where it is from); NaN if it was never measured."""
    if why := changed(stage, words, config):
        return math.nan, f"not recorded: {', '.join(why)}; with run_lecture = True it is measured"
    if not is_our_list(words):
        return STAGES[stage][3][1], "the lecture's own figure"
    vals = recorded(stage)
    return sum(vals) / len(vals), (f"recorded, {len(vals)} seeds, from {min(vals):.4f} to "
                                   f"{max(vals):.4f}")


def sizes_so_far(stage, parameters, val_loss):
    """A table of parameters and val: of `stage` as given, of the stages before it from the log.

    `seeds` are the recorded vals of other seeds.
    """
    rows = {}
    for name, (number, _, count, *_) in STAGES.items():
        row = ({"val": val_loss} if name == stage
               else kept_row(number) if number < STAGES[stage][0] else {})
        if "val" in row:
            size = sum(p.nelement() for p in parameters) if name == stage else count
            rows[name] = {"parameters": size, "val": float(row["val"]),
                          "seeds": recorded(name) if size == count else []}
        elif number < STAGES[stage][0]:
            print(f"Not run yet, so left out: {name} (notebook {number:02d}).")
    return pd.DataFrame.from_dict(rows, orient="index")


def save_json(path, content):
    """Write `content` to `path` whole or not at all; say so if it cannot be written."""
    try:
        write_whole(path, lambda part: part.write_text(json.dumps(content, indent=1)))
    except OSError as error:
        print(f"{path.name} cannot be written ({error.strerror}): later notebooks will not see it.")
