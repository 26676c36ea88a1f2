"""Studies for notebook 10: many configurations, any number of workers, nothing lost.

Optuna keeps a study in a database and hands its trials to the workers. To add a worker, on this
computer or another: PYTHONPATH=notebooks python -m course.studies NAME STORAGE
"""

import contextlib
import json
import math
import os
import subprocess
import sys
import tempfile
import time
import warnings

import optuna
from optuna.trial import TrialState

import helpers
from course import runs, search, storage

LEFT = TrialState.WAITING, TrialState.RUNNING
BEAT, RETRIES = 1, 3                             # seconds between two signs of life; tries
GRACE = int(os.environ.get("STUDY_GRACE", 10))   # silent for so many seconds, a worker is gone
optuna.logging.set_verbosity(optuna.logging.ERROR)
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)


@storage.clear_errors()
def open_study(name, where, configs=(), space=None, base=None, n_trials=0):
    """The study `name` in the storage `where`, with every missing trial queued.

    Give a list of `configs`, or a `space` to search in `n_trials` trials around the configuration
    `base`: {setting: search.choice(...)}. The same call resumes the study.
    """
    tasks = [*map(runs.key, configs), *range(n_trials)]
    searched = space and search.describe(space, base)
    study = optuna.create_study(
        study_name=name, load_if_exists=True, storage=storage.open_storage(
            where, heartbeat_interval=BEAT, grace_period=GRACE, heartbeat_stale_trial_callback=(
                optuna.storages.RetryHeartbeatStaleTrialCallback(RETRIES))),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=6, n_warmup_steps=3))
    if searched:
        study.set_user_attr("search", searched)
    have = {t.user_attrs["task"] for t in trials_of(study)}
    known = [t.user_attrs.get("task") for t in study.get_trials(deepcopy=False)]
    for task in dict.fromkeys([*known, *tasks]):    # interrupted ones, and new ones
        if task is not None and task not in have:
            study.enqueue_trial({}, user_attrs={"task": task})
    return study


def trials_of(study, *states):
    """The study's trials in these states, or in any, without the interrupted and skipped ones."""
    return [t for t in study.get_trials(deepcopy=False, states=states or None)
            if "task" in t.user_attrs and "skipped" not in t.user_attrs
            and (t.state != TrialState.FAIL or "error" in t.user_attrs)]


def work(study):
    """Run the study's trials, one after the other, until none is waiting or running."""
    parent = os.getppid()
    while trials_of(study, *LEFT) and not ("STUDY_WORKER" in os.environ and os.getppid() != parent):
        if trials_of(study, TrialState.WAITING):
            # Raised if another worker took over this trial, after a long silence.
            with contextlib.suppress(ValueError, optuna.exceptions.UpdateFinishedTrialError):
                study.optimize(lambda trial: objective(study, trial), n_trials=1)
        else:                                    # another worker may yet be killed
            optuna.storages.fail_stale_trials(study)
            time.sleep(0.2)


def objective(study, trial):
    """Measure a trial's configuration: its val, or NaN, which Optuna takes for a failure."""
    def report(tenth, val):
        trial.report(val, tenth)
        if tenth < 10 and trial.should_prune():
            raise optuna.TrialPruned

    task = trial.user_attrs.get("task")
    earlier = [t.user_attrs["task"] for t in trials_of(study) if t.number < trial.number]
    if task is None or task in earlier:          # the queue was empty, or the task queued twice
        trial.set_user_attr("skipped", True)
        raise optuna.TrialPruned
    trial.set_user_attr("worker", os.getpid())
    try:
        listed = isinstance(task, str)
        config = json.loads(task) if listed else search.draw(study, trial, task)
        row, _ = runs.measure(config, None if listed else report)
    except (optuna.TrialPruned, *storage.ERRORS):
        raise
    except runs.Interrupted as stopped:
        raise KeyboardInterrupt from stopped
    except Exception as error:
        trial.set_user_attr("error", f"{type(error).__name__}: {error}")
        return math.nan
    trial.set_user_attr("row", row)
    return row["val"]


def start_worker(name, where, log=None):
    """A process that works on a study; its output goes to the file `log`."""
    path = [str(helpers.ROOT), str(helpers.ROOT / "notebooks"), os.environ.get("PYTHONPATH", "")]
    return subprocess.Popen(
        [sys.executable, "-m", "course.studies", name, str(where)], stdout=log, stderr=log,
        start_new_session=True, env=os.environ | {
            "PYTHONPATH": os.pathsep.join(filter(None, path)), "STUDY_GRACE": str(GRACE),
            "STUDY_WORKER": "1", "TQDM_DISABLE": "1", "OMP_NUM_THREADS": "1"})


def run(study, where, workers=2):
    """Work on a study with several processes until all its trials are finished.

    You can stop it at any time: the same call goes on with the rest.
    """
    helpers.check(workers=workers)
    study, processes = open_study(study.study_name, where), []
    total = len(trials_of(study, *LEFT))
    with tempfile.TemporaryFile("w+") as log, helpers.Progress(total, [], " trials") as bar:
        try:
            for _ in range(workers if total else 0):
                processes.append(start_worker(study.study_name, where, log))
            while any(p.poll() is None for p in processes):
                time.sleep(0.2)
                bar.update(max(0, total - len(trials_of(study, *LEFT)) - bar.n))
        except KeyboardInterrupt:
            print("Stopped by hand. Finished trials are kept; the same call goes on.")
            return
        finally:
            for p in processes:
                p.kill()
                p.wait()
        log.seek(0)
        words = log.read().splitlines() or ["no output"]
    if rest := len(trials_of(study, *LEFT)):
        raise RuntimeError(f"the workers ended with {rest} trials left: {words[-1]}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python -m course.studies NAME STORAGE")
    try:
        with storage.clear_errors():
            work(open_study(*sys.argv[1:]))
    except storage.StorageError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit("stopped by hand; run the same command again to go on")
