"""The checks of the cells *Your turn* in notebook 10."""

import json

from scipy.stats import ttest_1samp

from course import runs, tables
from course.checking import call, case, check, same_number, shown, wrong


@check
def check_missing(missing):
    """10: which configurations have no row yet."""
    tree, other = {"model": "tree", "seed": 1}, {"model": "tree", "seed": 2}
    written_out = other | {"n_hidden": 128, "learning_rate": 0.1}
    row, failed = ({"config": runs.key(other)} | more for more in ({"val": 2.1}, {"error": "NaN"}))
    for said, configs, rows in (("an empty file", [tree, other], []),
                                ("one row", [tree, other], [row]),
                                ("one row that failed", [tree, other], [failed]),
                                ("a default written out", [tree, written_out], [row])):
        where = f"missing for 2 configurations and {said}"
        got = call(where, missing, configs, [json.dumps(line) for line in rows])
        left = [tree] if rows else configs
        if not isinstance(got, dict):
            wrong(f"{where}: expected a dict {{key: configuration}}, got a {type(got).__name__}")
        if got != {runs.key(c): c for c in left}:
            wrong(f"{where}: expected {len(left)} left, {[*map(runs.key, left)]}, "
                  f"got {len(got)}, {[*got]}")
    return "a row that is there is skipped, however its configuration is written"


@check
def check_interval(interval):
    """10: the 95% interval of a mean difference."""
    for d in ([-0.01, -0.02, -0.02], [0.003, -0.001, 0.004, 0.002, 0.007]):
        where, got = case(interval, d)
        low, high = expected = ttest_1samp(d, 0).confidence_interval(0.95)
        if not isinstance(got, tuple) or len(got) != 2:
            wrong(f"{where}: expected (low, high), got {shown(got)}")
        for name, ours, yours in zip(("low", "high"), expected, got, strict=True):
            width = (got[1] - got[0]) / (high - low)
            same_number(f"{where}, {name}", yours, ours, 1e-8, lambda _, width=width:
                        f"; the interval is {width:.2f} times as wide as it should be")
    return f"from {low:.4f} to {high:.4f} for five pairs"


@check
def check_holm(holm):
    """10: Holm's correction."""
    for p in ([0.01, 0.02, 0.04], [0.04, 0.01, 0.3], [0.02, 0.021, 0.9], [0.7, 0.6]):
        where, got = case(holm, p)
        expected = tables.holm(p)
        if len(got := call(where, list, got)) != len(p):
            wrong(f"{where}: expected {len(p)} numbers, got {len(got)}")
        for i, (yours, ours) in enumerate(zip(got, expected, strict=True)):
            same_number(f"{where}[{i}]", yours, ours, 1e-9)
    return f"{p} becomes {expected}"
