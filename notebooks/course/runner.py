"""A runner that fits on a screen, and a question of your own. Notebook 10."""

import contextlib
import io
import itertools
import json
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_all_start_methods, get_context
from pathlib import Path

import helpers
from course import runs

# Where the system can, one process imports torch, and the workers are forked from it.
CONTEXT = get_context("spawn")
if "forkserver" in get_all_start_methods():
    CONTEXT = get_context("forkserver")
    CONTEXT.set_forkserver_preload(["torch", "torch._dynamo", "matplotlib.pyplot", "pandas"])


def quietly(config):
    """(row, model) of one configuration, without a progress bar."""
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        return runs.measure(config)


def measure_row(config):
    """The row of one configuration."""
    return quietly(config)[0]


def val_losses(config):
    """(N, L): the loss of each character of val's names, NaN after a name's end."""
    return runs.position_losses(quietly(config)[1], runs.complete(config), "val").numpy()


def missing(configs, lines):
    """{key: config} of the configurations that have no row in the JSON lines yet."""
    have = {json.loads(line)["config"] for line in lines}
    asked = {runs.key(config): config for config in configs}
    return {key: config for key, config in asked.items() if key not in have}


def run_all(configs, file, workers=2):
    """Measure what the file lacks, append a JSON line for each, and yield the rows."""
    lines = file.read_text().splitlines() if file.exists() else []
    pool = ProcessPoolExecutor(workers, CONTEXT)
    try:
        jobs = {pool.submit(measure_row, config): key
                for key, config in missing(configs, lines).items()}
        for job in as_completed(jobs):
            try:
                row = job.result()
            except (ArithmeticError, ValueError) as error:
                row = {"config": jobs[job], "error": str(error)}
            with file.open("a") as out:
                out.write(json.dumps(row) + "\n")
            yield row
    finally:
        pool.shutdown(cancel_futures=True)


def collect(arms, base, file, workers=2, **values):
    """The rows of every arm at every combination of `values`; only missing rows are measured.

    `arms` is {label: settings}, `values` {setting: list}. The table has a column `arm`, and one
    for every setting.
    """
    # These take a second, and the processes of run_all don't need them.
    import pandas as pd

    from course import tables

    file, asked = Path(file), {}
    for (label, arm), *chosen in itertools.product(arms.items(), *values.values()):
        config = base | arm | dict(zip(values, chosen, strict=True))
        asked[runs.key(config)] = label, config
    with helpers.Progress(len(asked), [], " runs") as bar:
        for _ in run_all([config for _, config in asked.values()], file, workers):
            bar.update()
    rows = pd.DataFrame(filter(lambda row: row["config"] in asked,
                               map(json.loads, file.read_text().splitlines())))
    rows.insert(0, "arm", [asked[key][0] for key in rows.config])
    for name in values:                                          # a failed row has no columns
        rows[name] = [asked[key][1][name] for key in rows.config]
    if "error" in rows:
        for label, error in rows[["arm", "error"]].dropna().drop_duplicates().to_numpy():
            print(f"{label} failed: {error}")
    return tables.with_settings(rows)


def at_best_rate(arms, rows):
    """The arms, each with the learning rate of its lowest mean val; says if that is at an edge."""
    means = rows.groupby(["arm", "learning_rate"]).val.agg(
        lambda val: val.mean(skipna=False)).unstack()            # NaN where a run failed
    best = means.idxmin(axis=1)
    for label in arms:
        if best[label] in (means.columns[0], means.columns[-1]):
            print(f"{label}: {best[label]:g} is at the edge of the learning rates; widen them")
    return {label: arm | {"learning_rate": float(best[label])} for label, arm in arms.items()}
