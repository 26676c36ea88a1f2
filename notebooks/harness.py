"""Studies for notebook 09: many configurations, any number of workers, nothing lost.

A study is a list of configurations, or a space to search, in an Optuna storage. Any number of
workers, on this machine or on others that reach the storage, take its trials one by one:

    python notebooks/harness.py NAME sqlite:///study.db
"""

import contextlib
import json
import math
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import optuna
import pandas as pd
import psutil
import sqlalchemy
from optuna.distributions import BaseDistribution
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.trial import TrialState
from scipy.special import stdtrit
from sqlalchemy import URL
from sqlalchemy.exc import SQLAlchemyError

import helpers
import runs

BEAT, GRACE, RETRIES = 10, 60, 3     # seconds, seconds, times
LEFT = (TrialState.WAITING, TrialState.RUNNING)
PRUNER = optuna.pruners.MedianPruner(n_startup_trials=6, n_warmup_steps=3)
optuna.logging.set_verbosity(optuna.logging.ERROR)


class StorageError(OSError):
    """A study's storage cannot be read or written."""


def open_storage(where):
    """The Optuna storage at `where`: a database URL, or a file, .journal for a journal.

    Any other file is an SQLite database. Raises ValueError for neither, StorageError with a remedy.
    """
    if not isinstance(where, str | os.PathLike) or not str(where):
        raise ValueError(f"where is {where!r}; expected a file, or a URL as sqlite:///study.db")
    with storage_errors(where):
        url = os.path.expanduser(where)
        if "://" not in url:
            path = os.path.abspath(url)
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            if path.endswith(".journal"):
                return optuna.storages.JournalStorage(Journal(path))
            url = URL.create("sqlite", database=path).render_as_string()   # quotes what it must
        if not url.startswith("sqlite"):
            return optuna.storages.RDBStorage(url)
        options = {"timeout": 60, "isolation_level": None}
        storage = optuna.storages.RDBStorage(url, engine_kwargs={"connect_args": options})
        # SQLite knows no SELECT FOR UPDATE and locks at the first write: two workers could both
        # read that a trial waits, and both take it. So every transaction locks as it begins.
        sqlalchemy.event.listen(storage.engine, "begin",
                                lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
        return storage


class Journal(optuna.storages.journal.JournalFileBackend):
    """Optuna's journal file, without the half line that a full disk leaves at its end.

    Optuna would append to that line, and could not read the file any more.
    """

    def append_logs(self, logs):
        self._lock.acquire()
        try:
            with open(self._file_path, "r+b") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - 1))
                if file.read(1) not in (b"", b"\n"):
                    file.seek(0)
                    file.truncate(file.read().rfind(b"\n") + 1)
        finally:
            self._lock.release()
        super().append_logs(logs)


@contextlib.contextmanager
def storage_errors(where):
    """Turn whatever a storage raises when it cannot be reached or written into a StorageError."""
    try:
        yield
    except StorageError:
        raise
    except (SQLAlchemyError, StorageInternalError, OSError, ImportError) as error:
        cause = error.__cause__ or error
        reason = str(getattr(cause, "orig", None) or getattr(cause, "strerror", None) or cause)
        remedy = ("Install it" if isinstance(error, ImportError)
                  else "Free some space, allow writing there")
        shown = re.sub("://([^:/]*):.*@", r"://\1:***@", str(where))      # without a password
        raise StorageError(
            f"the study's storage {shown} cannot be used: {reason.splitlines()[0]}. Finished "
            f"trials are kept. {remedy}, or give another storage, and start again"
        ) from error


def open_study(name, where, configs=(), space=None, base=None, n_trials=0, seed=0):
    """The study `name` in the storage `where`, made if it is new, with what it lacks added.

    A list of `configs`, each to be run once; or a `space` to search, {setting: choice(...) or a
    distribution of Optuna}, around the configuration `base`, in `n_trials` trials. What the study
    has already is not added again, so the same call resumes it. Raises ValueError for a
    configuration or a space that cannot be meant, StorageError.
    """
    if not isinstance(configs, list | tuple):
        raise ValueError(f"configs is {configs!r}; expected a list of configurations")
    configs = [json.loads(runs.key(config)) for config in configs]
    if space is not None:
        settings = runs.complete(base)
        if not isinstance(space, dict) or not space:
            raise ValueError(f"space is {space!r}; expected a dict, {{setting: choice(...)}}")
        for setting, d in space.items():
            if setting not in settings or not isinstance(d, BaseDistribution):
                raise ValueError(f"space has {setting!r}: {d!r}; expected choice(...) or another "
                                 f"distribution, for one of {', '.join(settings)}")
    with storage_errors(where):
        study = optuna.create_study(study_name=name, storage=open_storage(where),
                                    load_if_exists=True, pruner=PRUNER)
        if configs or space:
            requeue(study)
        if space:
            texts = {k: optuna.distributions.distribution_to_json(d) for k, d in space.items()}
            study.set_user_attr("search", {"space": texts, "base": base, "seed": seed})
        have = [t for t in study.get_trials(deepcopy=False)
                if t.state != TrialState.FAIL or "error" in t.user_attrs]
        done = {runs.key(t.user_attrs["config"]) for t in have if "config" in t.user_attrs}
        for config in configs:
            if runs.key(config) not in done:
                done.add(runs.key(config))
                study.enqueue_trial({}, user_attrs={"config": config})
        for _ in range(n_trials - len(have) if space else 0):
            study.enqueue_trial({}, user_attrs={"searched": True})
    return study


def is_stale(trial):
    """Whether the worker of a running trial is gone.

    On this machine, known by its host name, its process is looked up; this very process has no
    trial when it asks. Else the last sign of life counts: the worker is gone after GRACE seconds,
    so the clocks of several machines must agree better than that.
    """
    worker = trial.user_attrs.get("worker")
    if worker and worker["host"] == socket.gethostname():
        try:
            process = psutil.Process(worker["pid"])
            if (process.pid == os.getpid() or process.status() == psutil.STATUS_ZOMBIE
                    or abs(process.create_time() - worker["started"]) > 1):
                return True
        except psutil.Error:
            return True
    # A worker says who it is as soon as it has a trial; one that did not was killed in between.
    silent = time.time() - trial.user_attrs.get("alive", trial.datetime_start.timestamp())
    return silent > (GRACE if worker else BEAT)


def reclaim(study):
    """Fail the trials of workers that are gone, and queue them anew, each at most RETRIES times."""
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if is_stale(trial):
            tries = trial.user_attrs.get("tries", 1)
            if tries <= RETRIES:
                give_back(study, trial, tries + 1)
            else:
                fail(study, trial.number, f"its worker died in each of {tries} tries")


def give_back(study, trial, tries=1):
    """Fail a trial that was not finished, and queue it anew."""
    kept = {k: v for k, v in trial.user_attrs.items() if k in ("config", "searched")}
    with undisturbed():
        if trial.state == TrialState.FAIL or fail(study, trial.number):
            kept |= {"retry of": trial.number, "tries": tries}
            study.enqueue_trial(trial.params, user_attrs=kept)


def requeue(study):
    """Queue anew what was given back by a process that was killed between failing and queueing."""
    trials = study.get_trials(deepcopy=False)
    retried = {t.user_attrs.get("retry of") for t in trials}
    for t in trials:
        if (t.state == TrialState.FAIL and t.number not in retried and "error" not in t.user_attrs
                and {"config", "searched"} & set(t.user_attrs)):
            give_back(study, t, t.user_attrs.get("tries", 1))


@contextlib.contextmanager
def undisturbed():
    """Inside `with`, SIGINT and SIGTERM wait for its end: the stop button sends a worker both."""
    main = threading.current_thread() is threading.main_thread()     # none else is interrupted
    came, numbers = [], (signal.SIGINT, signal.SIGTERM) if main else ()
    before = {n: signal.signal(n, lambda number, frame: came.append(number)) for n in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for number in came:
            signal.raise_signal(number)


def fail(study, number, error=None):
    """Fail a trial; False if it is another worker's by now."""
    trial = study.trials[number]
    try:
        if error:
            study._storage.set_trial_user_attr(trial._trial_id, "error", error)
        study.tell(number, state=TrialState.FAIL)
    except (ValueError, RuntimeError):
        return False
    return True


@contextlib.contextmanager
def sign_of_life(trial):
    """Inside `with`, the trial says every BEAT seconds that its worker is alive."""
    trial.set_user_attr("alive", time.time())
    trial.set_user_attr("worker", {"host": socket.gethostname(), "pid": os.getpid(),
                                   "started": psutil.Process().create_time()})
    over = threading.Event()

    def beat():
        while not over.wait(BEAT):
            with contextlib.suppress(Exception):     # the worker itself meets the same error
                trial.set_user_attr("alive", time.time())

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def next_trial(study):
    """A waiting trial, now this worker's; None when no trial is left. Waits for others' trials."""
    while True:
        reclaim(study)
        if study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            trial = study.ask()
            if twin := twin_of(study, trial):
                fail(study, trial.number, f"the same configuration as trial {twin.number}")
            elif {"config", "searched"} & set(trial.user_attrs):
                return trial
            else:                                    # another worker took the last one
                fail(study, trial.number)
        elif is_orphan() or not study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            return None
        else:
            time.sleep(0.5)


def twin_of(study, trial):
    """An earlier trial with the same configuration that waits, runs or is done; else None."""
    if "config" in trial.user_attrs:
        for other in study.get_trials(deepcopy=False)[: trial.number]:
            if (other.state in (*LEFT, TrialState.COMPLETE)
                    and other.user_attrs.get("config") == trial.user_attrs["config"]):
                return other
    return None


def choice(*values):
    """A distribution over values of any kind, for the space of a study."""
    return optuna.distributions.CategoricalDistribution([json.dumps(value) for value in values])


def configure(study, trial):
    """The configuration of a trial: its own, or drawn from the study's space."""
    if "config" in trial.user_attrs:
        return trial.user_attrs["config"]
    search = study.user_attrs["search"]
    study.sampler = optuna.samplers.TPESampler(seed=search["seed"] + trial.number,
                                               constant_liar=True, n_startup_trials=8)
    config = dict(search["base"])
    for name, text in search["space"].items():
        d = optuna.distributions.json_to_distribution(text)
        if isinstance(d, optuna.distributions.CategoricalDistribution):
            config[name] = json.loads(trial.suggest_categorical(name, d.choices))
        elif isinstance(d, optuna.distributions.IntDistribution):
            config[name] = trial.suggest_int(name, d.low, d.high, step=d.step, log=d.log)
        else:
            config[name] = trial.suggest_float(name, d.low, d.high, step=d.step, log=d.log)
    return config


def work(study, where, measure=runs.measure):
    """Run waiting trials of the study, one after the other, until none is left.

    A trial that fails is recorded with its error, and the next one begins. One that is stopped by
    hand is queued anew, and KeyboardInterrupt raised. A worker that run_study started ends after
    its trial when the process that started it is gone.
    """
    while not is_orphan():
        with storage_errors(where):
            trial = next_trial(study)
        if trial is None:
            return
        try:
            run_trial(study, where, trial, measure)
        except UpdateFinishedTrialError:
            print(f"trial {trial.number} was given to another worker; this row is dropped",
                  file=sys.stderr)


def is_orphan():
    """Whether this process is a worker of run_study whose parent was killed."""
    if "STUDY_PARENT" not in os.environ:
        return False
    try:
        parent, own = psutil.Process(int(os.environ["STUDY_PARENT"])), psutil.Process()
        # A younger process only has the parent's number. Both times move when the clock is set, so
        # they are compared as they are now.
        return parent.status() == psutil.STATUS_ZOMBIE or parent.create_time() > own.create_time()
    except psutil.Error:
        return True


def run_trial(study, where, trial, measure):
    """Run one trial and record how it ended; UpdateFinishedTrialError if another took it."""
    def report(tenth, val):
        with storage_errors(where):
            trial.report(val, tenth)
            if tenth < 10 and trial.should_prune():      # what is done anyway is kept
                raise optuna.TrialPruned

    with storage_errors(where), sign_of_life(trial):
        try:
            config = configure(study, trial)
            row, _ = measure(config, report if "searched" in trial.user_attrs else None)
            if not math.isfinite(row["val"]):
                raise runs.Diverged(f"val is {row['val']}")
        except StorageError:
            raise
        except optuna.TrialPruned:
            study.tell(trial, state=TrialState.PRUNED, skip_if_finished=True)
        except (KeyboardInterrupt, runs.Interrupted) as error:
            give_back(study, study.trials[trial.number])
            raise KeyboardInterrupt from error
        except Exception as error:
            fail(study, trial.number, f"{type(error).__name__}: {error}")
        else:
            trial.set_user_attr("row", row)
            study.tell(trial, row["val"], skip_if_finished=True)


def start_worker(name, where, log=None):
    """A process that works on a study until no trial is left; what it says goes to `log`."""
    command = [sys.executable, str(Path(__file__).resolve()), name, str(where)]
    return subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | {
        "TQDM_DISABLE": "1", "OMP_NUM_THREADS": "1", "STUDY_PARENT": str(os.getpid())})


def run_study(study, where, workers=2):
    """Work on a study with several processes until none of its trials is left.

    A bar shows the trials done and the time left. Started again after any end, it goes on with
    what is left. Raises ValueError for `workers` that is no integer of 1 or more, RuntimeError
    with the last words of the workers when trials are left.
    """
    helpers.check_sizes(workers=workers)
    processes = []

    def left():
        with storage_errors(where):
            if all(p.poll() is not None for p in processes):   # else one may be about to do so
                requeue(study)
            return len(study.get_trials(deepcopy=False, states=LEFT))

    if not (total := left()):
        return
    with tempfile.TemporaryFile("w+") as log, helpers.Progress(total, [], unit=" trials") as bar:
        processes += [start_worker(study.study_name, where, log) for _ in range(workers)]
        try:
            while any(p.poll() is None for p in processes):
                time.sleep(0.5)
                bar.update(max(0, total - left() - bar.n))
        except KeyboardInterrupt:
            print("Stopped by hand. Finished trials are kept; the same call goes on with the rest.")
            return
        finally:
            end_workers(processes)
        bar.update(max(0, total - left() - bar.n))
        log.seek(0)
        words = log.read().strip().splitlines() or ["they said nothing"]
    if left():
        raise RuntimeError(f"all workers have ended, and {left()} trials are left: {words[-1]}. "
                           "Start the same study again to go on")


def end_workers(processes):
    """Stop workers that still run: they queue their trials anew, or are ended after 10 seconds."""
    for p in processes:
        p.terminate()
    for p in processes:
        try:
            p.wait(10)
        except subprocess.TimeoutExpired:
            p.kill()
            p.wait()


def copy_studies(studies, file):
    """Keep the searches of `studies` in a journal, each in place of an earlier one of its name.

    Their parameters, values and rows, without what belongs to the machines that ran them. Trials
    that were interrupted are left out. The file is written whole or not at all.
    """
    file, kept = Path(file), {s.study_name: s for s in studies}
    if file.is_file():
        old = open_storage(file)
        for name in optuna.get_all_study_names(old):
            kept.setdefault(name, optuna.load_study(study_name=name, storage=old))
    written = file.with_suffix(f".{os.getpid()}.journal")
    try:
        storage = open_storage(written)
        for name in sorted(kept):
            copy = optuna.create_study(study_name=name, storage=storage)
            for t in kept[name].get_trials():
                told = {k: t.user_attrs[k] for k in ("row", "error") if k in t.user_attrs}
                if t.state in (TrialState.COMPLETE, TrialState.PRUNED) or "error" in told:
                    t.user_attrs = told
                    t.system_attrs = {}
                    copy.add_trial(t)
        written.replace(file)
    finally:
        written.unlink(missing_ok=True)


# ----------------------------------------------------------------------------------- tables


def table(study):
    """A row a trial: number, state, worker, error, and for finished trials all of the row.

    The columns of runs.ROW are always there, even if no trial is finished.
    """
    rows = []
    for t in study.get_trials(deepcopy=False):
        if {"config", "searched"} & set(t.user_attrs):
            error = t.user_attrs.get("error")
            if t.state == TrialState.FAIL and not error:
                error = "interrupted"
            rows.append({"trial": t.number, "state": t.state.name.lower(), "error": error,
                         "worker": t.user_attrs.get("worker", {}).get("pid"),
                         "retry of": t.user_attrs.get("retry of"), **t.user_attrs.get("row", {})})
    made = pd.DataFrame(rows)
    columns = ["trial", "state", "error", "worker", "retry of", *runs.ROW, *made]
    return made.reindex(columns=list(dict.fromkeys(columns)))


def paired(rows, by, base, value="val", pair="seed"):
    """Each group of `rows` against the group `base`, over the same seeds.

    A table with a line for every value of the column `by`: number of pairs, mean and standard
    deviation of `value`; the mean difference from `base`, its standard error, its interval of 95%
    (Student's t), and a verdict in words. Raises ValueError for a column or a base that is not
    there, fewer than 2 pairs, or a group that lacks a seed or has one twice.
    """
    if absent := [column for column in (by, value, pair) if column not in rows]:
        raise ValueError(f"there is no column {absent[0]!r}; there are {', '.join(map(str, rows))}")
    if base not in set(rows[by]):
        raise ValueError(f"{base!r} is not in the column {by!r}; it has {sorted(set(rows[by]))}")
    if rows.duplicated([by, pair]).any():
        twice = rows[rows.duplicated([by, pair])].iloc[0]
        raise ValueError(f"{twice[by]!r} has two rows for {pair} {twice[pair]}; keep one")
    wide = rows.pivot(index=pair, columns=by, values=value)
    if wide.isna().any(axis=None) or len(wide) < 2:
        raise ValueError(f"{value!r} must be there for 2 or more values of {pair!r} in each group; "
                         f"there are {wide.notna().sum().to_dict()}")
    lines = {}
    for name in rows[by].unique():
        lines[name] = {"pairs": len(wide), "mean": wide[name].mean(), "sd": wide[name].std()}
        if name != base:
            d = wide[name] - wide[base]
            error = d.std() / len(d) ** 0.5
            half = stdtrit(len(d) - 1, 0.975) * error
            low, high = d.mean() - half, d.mean() + half
            verdict = "lower" if high < 0 else "higher" if low > 0 else "cannot tell"
            lines[name] |= {"difference": d.mean(), "se": error, "low": low, "high": high,
                            "verdict": verdict}
    return pd.DataFrame.from_dict(lines, orient="index").fillna({"verdict": "the base"})


def main(name, where):
    """Work on the study `name` until none of its trials is left."""
    names = optuna.get_all_study_names(open_storage(where))
    if name not in names:
        sys.exit(f"there is no study {name!r} in {where}; it has {', '.join(names) or 'none'}")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        work(open_study(name, where), where)
    except KeyboardInterrupt:
        sys.exit("stopped by hand; the trial is queued anew")
    except StorageError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python notebooks/harness.py NAME STORAGE")
    main(*sys.argv[1:])
