"""Studies keep what was measured, whoever is killed; pairs are computed as by hand."""

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pandas as pd
import psutil
import pytest
import sqlalchemy
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState

from course import runs, search, storage, studies, tables
from test_browser import until

WORDS = ["anna", "bob", "carla", "dora", "eva", "fritz", "gina", "hans", "ida", "jo"] * 20


@pytest.fixture
def words(words_file):
    return words_file(WORDS)


def ngrams(words, n):
    return [{"model": "n-gram", "words": words, "order": order} for order in range(n)]


def states(study):
    return list(tables.table(study).state)


# A worker that hangs at the seed 7, started by a parent that waits for it.
HANGS = """
import time
from course import runs, studies
measure = runs.measure
runs.measure = lambda config, report: time.sleep(600 if config.get("seed") == 7 else 0) \
    or measure(config, report)
studies.work(studies.open_study("s", "s.db"))
"""
PARENT = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])"


def python(*command, **options):
    """A Python process that finds the course, in the current folder."""
    path = os.pathsep.join(map(os.path.abspath, sys.path))
    return subprocess.Popen([sys.executable, "-c", *command], **options,
                            env=os.environ | {"PYTHONPATH": path})


@pytest.mark.full
def test_two_workers_measure_every_configuration_once(words, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONSAFEPATH", "1")
    monkeypatch.chdir(tmp_path)
    diverging = {"model": "tree", "words": words, "n_hidden": 8, "learning_rate": 1e38}
    configs = [*ngrams(words, 6), diverging, *ngrams(words, 6)]
    study = studies.open_study("s", "new folder/s 100%.db", configs)
    studies.run(study, "new folder/s 100%.db", workers=2)
    rows = tables.table(study)
    assert (tmp_path / "new folder" / "s 100%.db").is_file()
    assert sorted(rows.config.dropna()) == sorted(runs.key(c) for c in ngrams(words, 6))
    assert rows[rows.state == "fail"].model.tolist() == ["tree"]
    assert "Diverged: the loss" in rows.error.dropna().item()
    seen = rows.copy()
    studies.run(studies.open_study("s", "new folder/s 100%.db", configs), "new folder/s 100%.db")
    pd.testing.assert_frame_equal(tables.table(study), seen)        # neither is measured again


def test_a_killed_worker_and_a_killed_parent_lose_nothing(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(studies, "GRACE", 2)
    hanging = {"model": "n-gram", "words": words, "order": 1, "seed": 7}
    configs = [*ngrams(words, 2), hanging, *ngrams(words, 4)]
    study = studies.open_study("s", "s.db", configs)
    parent = python(PARENT, HANGS)
    until(lambda: states(study) == ["complete", "complete", "running", "waiting", "waiting"],
          "the third trial runs")
    before = tables.table(study)
    worker = until(lambda: tables.table(study).worker.dropna().get(2), "its worker is known")
    parent.kill()                                                           # kill -9
    parent.wait()
    psutil.Process(int(worker)).kill()
    studies.work(studies.open_study("s", "s.db", configs))                  # the same call again
    after = tables.table(study)
    assert after.state.tolist() == ["complete"] * 2 + ["fail"] + ["complete"] * 3
    assert (after.error[2], after["retry of"][5]) == ("interrupted", 2)
    assert after.config[5] == runs.key(hanging)
    assert after.seconds[:2].tolist() == before.seconds[:2].tolist()


def test_a_worker_whose_parent_is_gone_ends(words, tmp_path, monkeypatch):
    study, parents = studies.open_study("s", tmp_path / "s.db", ngrams(words, 2)), iter([5, 5, 1])
    monkeypatch.setenv("STUDY_WORKER", "1")
    monkeypatch.setattr(os, "getppid", lambda: next(parents))
    studies.work(study)
    assert states(study) == ["complete", "waiting"]


def test_stopped_by_hand_resumes(words, tmp_path, monkeypatch):
    where = tmp_path / "s.db"
    study = studies.open_study("s", where, ngrams(words, 3))
    with monkeypatch.context() as patch:
        patch.setattr(runs, "measure", Mock(side_effect=[
            ({"val": 1.0, "config": runs.key(ngrams(words, 1)[0])}, None), runs.Interrupted]))
        with pytest.raises(KeyboardInterrupt):
            studies.work(study)
    assert states(study) == ["complete", "fail", "waiting"]
    studies.work(studies.open_study("s", where, ngrams(words, 3)))
    rows = tables.table(study)
    assert rows.state.tolist() == ["complete", "fail", "complete", "complete"]
    assert rows.val[0] == 1.0                                       # it was not measured again


def test_a_stopped_parent_ends_its_workers(words, tmp_path, monkeypatch, capsys):
    study = studies.open_study("s", tmp_path / "s.db", ngrams(words, 1))
    started = [python("import time; time.sleep(600)") for _ in range(2)]
    ready = iter(started)
    monkeypatch.setattr(studies, "start_worker", lambda *_: next(ready))
    monkeypatch.setattr(studies.time, "sleep", lambda _: signal.raise_signal(signal.SIGINT))
    studies.run(study, tmp_path / "s.db", 2)
    assert all(p.poll() for p in started)                      # killed: neither None nor 0
    assert "Stopped by hand" in capsys.readouterr().out


@pytest.mark.full
def test_two_processes_open_the_same_new_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = "from course import storage; storage.open_storage('s.db')"
    assert [process.wait(60) for process in (python(code), python(code))] == [0, 0]


@pytest.mark.parametrize(("where", "message"), [
    ("postgresql+nothing://here/db", "nothing"), ("no database", "not a database"),
    ("sqlite:////no/such/folder/s.db", "unable to open"),
    ("sqlite:///file:s.db?mode=ro&uri=true", r"readonly database\. Finished trials are kept")])
def test_an_unusable_storage_is_one_clear_error(where, message, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    studies.open_study("s", "s.db", ngrams(words, 1))
    Path("no database").write_text("words\n" * 1000, encoding="utf-8")
    with pytest.raises(storage.StorageError, match=message):
        studies.open_study("s", where, ngrams(words, 2))


def test_a_full_disk_is_one_clear_error(words, tmp_path, request):
    def full(connection, _):
        connection.execute("PRAGMA max_page_count=1")

    studies.open_study("s", tmp_path / "s.db", ngrams(words, 1))
    sqlalchemy.event.listen(sqlalchemy.Engine, "connect", full)
    request.addfinalizer(lambda: sqlalchemy.event.remove(sqlalchemy.Engine, "connect", full))
    with pytest.raises(storage.StorageError, match="disk is full"):
        studies.open_study("s", tmp_path / "s.db", ngrams(words, 100))


def test_workers_that_end_too_early_say_why(words, tmp_path, monkeypatch):
    study = studies.open_study("s", tmp_path / "s.db", ngrams(words, 1))
    monkeypatch.setattr(studies, "start_worker", lambda name, where, log: python(
        "raise SystemExit('no power')", stderr=log))
    with pytest.raises(RuntimeError, match="ended with 1 trials left: no power"):
        studies.run(study, tmp_path / "s.db", 1)


def test_a_search_stays_in_its_space_prunes_and_resumes(words, tmp_path, monkeypatch):
    space = {"order": search.choice(0, 1, 2), "weight": FloatDistribution(0.5, 4, log=True)}
    base, drawn = {"model": "n-gram", "words": words}, []

    def measure(config, report):
        drawn.append(runs.complete(config))
        for tenth in (5, 10):
            report(tenth, 1.0 + config["order"])
        return {"val": 1.0 + config["order"], "config": runs.key(config)}, None

    monkeypatch.setattr(runs, "measure", measure)
    for n in (8, 12, 12):
        study = studies.open_study("s", tmp_path / "s.db", space=space, base=base, n_trials=n)
        studies.work(study)
    assert len(drawn) == len(study.trials) == 12
    assert all(c["order"] in (0, 1, 2) and 0.5 <= c["weight"] <= 4 for c in drawn)
    assert TrialState.PRUNED in {t.state for t in study.trials}
    studies.work(studies.open_study("t", tmp_path / "s.db", space=space, base=base, n_trials=12))
    assert drawn[12:] == drawn[:12]
    with pytest.raises(ValueError, match="no setting 'ordr'"):
        studies.open_study("u", tmp_path / "s.db", space={"ordr": search.choice(1)}, base=base)


ROWS = pd.DataFrame({"seed": [1, 2, 3] * 2, "group": ["a"] * 3 + ["b"] * 3,
                     "val": [2.30, 2.34, 2.38, 2.29, 2.32, 2.36]})


def test_paired_by_hand():
    lines = tables.paired(ROWS, "group", "a")
    d = np.array([-0.01, -0.02, -0.02])
    se = d.std(ddof=1) / 3**0.5
    expected = [d.mean(), se, d.mean() - 4.302653 * se, d.mean() + 4.302653 * se]
    assert lines.loc["b", ["difference", "se", "low", "high"]].tolist() == pytest.approx(expected)
    assert lines.verdict.tolist() == ["the base", "cannot tell"]     # without pairs it could not
    assert lines.loc["a", ["mean", "sd"]].tolist() == pytest.approx([2.34, 0.04])
    apart = ROWS.assign(val=ROWS.val - (ROWS.group == "b"))
    assert tables.paired(apart, "group", "b").verdict["a"] == "higher"
    assert tables.paired(ROWS[ROWS.seed < 3], "group", "a").verdict["b"] == "cannot tell"


@pytest.mark.parametrize(("rows", "by", "base", "message"), [
    (ROWS, "size", "a", "no column 'size'"), (ROWS, "group", "c", "'c' is not in"),
    (pd.concat([ROWS, ROWS[:1]]), "group", "a", "two rows"),
    (ROWS[ROWS.seed == 1], "group", "a", "2 or more")])
def test_paired_says_what_is_missing(rows, by, base, message):
    with pytest.raises(ValueError, match=message):
        tables.paired(rows, by, base)


@pytest.mark.full
def test_two_workers_on_a_server_that_other_machines_reach(words):
    """With PostgreSQL, on a loopback port."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found or importlib.util.find_spec("psycopg") is None:
        pytest.skip("needs PostgreSQL's initdb (Debian: postgresql) and tests/requirements.txt")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port, user = free.getsockname()[1], []
    with tempfile.TemporaryDirectory() as folder:
        if os.getuid() == 0:                              # the server refuses to run as root
            user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
            shutil.chown(folder, "postgres", "postgres")

        def control(tool, *arguments):
            command = [*user, found[-1].with_name(tool), "-D", f"{folder}/data", *arguments]
            subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)

        control("initdb", "-A", "trust", "-U", "course")
        control("pg_ctl", "-w", "-l", f"{folder}/log", "-o",
                f"-p {port} -k {folder} -c listen_addresses=127.0.0.1", "start")
        try:
            where = f"postgresql+psycopg://course@127.0.0.1:{port}/postgres"
            study = studies.open_study("s", where, ngrams(words, 20))
            both = [studies.start_worker("s", where) for _ in range(2)]
            assert [process.wait(120) for process in both] == [0, 0]
            rows = tables.table(study)
            assert sorted(rows.config) == sorted(map(runs.key, ngrams(words, 20)))
            assert set(rows.state) == {"complete"}
        finally:
            control("pg_ctl", "-m", "immediate", "stop")
