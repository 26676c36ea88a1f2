"""The rows of a study as a table, and the comparison of paired rows. Notebooks 09 to 11."""

import json

import pandas as pd
from optuna.trial import TrialState
from scipy.stats import ttest_ind, ttest_rel

from course import runs


def table(study):
    """A row for every trial: its number and state, every setting, and what was measured."""
    rows = []
    for t in study.get_trials(deepcopy=False):
        told = t.user_attrs
        if "task" in told and "skipped" not in told:
            row = told.get("row", {})
            config = row.get("config", told["task"])
            rows.append({
                "trial": t.number, "state": t.state.name.lower(), "worker": told.get("worker"),
                "error": told.get("error", "interrupted" if t.state == TrialState.FAIL else None),
                "retry of": t.system_attrs.get("retry_history", [None])[-1],
                **(runs.complete(json.loads(config)) if isinstance(config, str) else {}), **row})
    made = pd.DataFrame(rows)
    columns = ["trial", "state", "error", "worker", "retry of", *runs.ROW, *made]
    return made.reindex(columns=list(dict.fromkeys(columns)))


def with_settings(rows):
    """The rows, with a column for every setting of their configurations."""
    settings = pd.DataFrame([runs.complete(json.loads(text)) for text in rows.config])
    return rows.join(settings[settings.columns.difference(rows.columns)])


def holm(p):
    """Holm's corrected p-values of a list of p-values, in the order of the list."""
    corrected, highest = [0.0] * len(p), 0.0
    for rank, i in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        highest = max(highest, min(1.0, (len(p) - rank) * p[i]))
        corrected[i] = highest
    return corrected


def paired(rows, by, base, value="val"):
    """Each group of `rows` against the group `base`, over the same seeds.

    A line for every value of the column `by`: the number of pairs, mean and standard deviation of
    `value`; then the mean difference from `base`, its standard error, its 95% interval and p of
    the pairs (Student's t), the p without pairs (Welch's test), and a verdict in words: "lower"
    or "higher" only if both p are below 0.05.
    """
    if absent := [column for column in (by, value, "seed") if column not in rows]:
        raise ValueError(f"there is no column {absent[0]!r}; there are {', '.join(map(str, rows))}")
    if base not in set(rows[by]):
        raise ValueError(f"{base!r} is not in the column {by!r}; it has {sorted(set(rows[by]))}")
    if rows.duplicated([by, "seed"]).any():
        twice = rows[rows.duplicated([by, "seed"])].iloc[0]
        raise ValueError(f"{twice[by]!r} has two rows for seed {twice.seed}; keep one")
    wide = rows.pivot(index="seed", columns=by, values=value).astype(float)
    if wide.isna().any(axis=None) or len(wide) < 2:
        raise ValueError(f"{value!r} is needed for 2 or more seeds in each group; "
                         f"there are {wide.notna().sum().to_dict()}")
    lines = {}
    for name in rows[by].unique():
        lines[name] = {"pairs": len(wide), "mean": wide[name].mean(), "sd": wide[name].std()}
        if name != base:
            d = wide[name] - wide[base]
            test = ttest_rel(wide[name], wide[base])
            low, high = test.confidence_interval(0.95)
            unpaired = ttest_ind(wide[name], wide[base], equal_var=False).pvalue
            clear = max(test.pvalue, unpaired) < 0.05
            lines[name] |= {"difference": d.mean(), "se": d.std() / len(d) ** 0.5, "low": low,
                            "high": high, "p": test.pvalue, "p unpaired": unpaired,
                            "verdict": ("lower" if high < 0 else "higher") if clear
                            else "cannot tell"}
    return pd.DataFrame.from_dict(lines, orient="index").fillna({"verdict": "the base"})
