"""An interrupt in any training or sampling of a notebook: the cells that follow still work."""

import contextlib
import math
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time

import nbformat
import pytest
import torch
from jupyter_client.manager import start_new_kernel
from optuna.trial import TrialState

import harness
import helpers
from course import PATHS, code_cells

# The first loss that is never computed; the n-th step; the n-th character of a sampling.
EVENTS = {"loss": (torch.nn.functional, "cross_entropy"), "step": (torch.Tensor, "backward"),
          "character": (helpers, "draw_next")}

# These measure something small, which the cells below them need; run again, they take a moment.
MEASURE = {"01": {"initial-loss", "exercise-scale"}, "03": {"flow"},
           "06": {"equal", "biased", "speed", "speed-norm", "batches", "cost", "exercise-scale"},
           "07": {"all-names", "padding", "gradients"}, "08": {"tree-loss", "test-gradients"},
           "09": {"trade"},
           "10": {"flops", "limit", "profile", "dispatch", "same", "steps", "train-steps",
                  "batches", "stack-same", "growth"}}


@pytest.fixture
def interrupting(monkeypatch):
    """A function: contexts for cells, in each of which the n-th step or character is the last.

    As when the interrupt button is pressed: KeyboardInterrupt where the code then is, once a cell.
    """

    def interrupting(path, event, n):
        count, interrupted = [0], {}
        owner, name = EVENTS[event]
        original = getattr(owner, name)

        def counted(*args, **kwargs):
            if event != "loss" or torch.is_grad_enabled():
                count[0] += 1
                if count[0] == n:
                    raise KeyboardInterrupt
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, counted)

        @contextlib.contextmanager
        def around(cell):
            count[0] = -math.inf if cell.id in MEASURE.get(path.name[:2], ()) else 0
            try:
                yield
                how = "handled"
            except KeyboardInterrupt:
                how = "ended the cell"
            if count[0] >= n:
                interrupted[cell.id] = how

        return around, interrupted

    return interrupting


# The workers of 09's study are interrupted and killed in tests/test_harness.py.
def stops(numbers, events, quick):
    """A test for each of the notebooks and each event that is the last; without --full a few."""
    return [pytest.param(PATHS[k], event, n, id=f"{event} {n}-{PATHS[k].stem}",
                         marks=[pytest.mark.full] * (k not in quick or n != 20))
            for k in numbers for event, n in events]


TRAINED = stops(range(11), [("loss", 1), ("step", 2), ("step", 20)], quick=(1, 3))
SAMPLED = stops((0, 5, 8, 10), [("character", 1), ("character", 3)], quick=())


@pytest.fixture
def changes(words_file):
    return {"names_file": words_file(helpers.load_words()[::10]), "pair_seeds": 1, "workers": 1}


@pytest.mark.parametrize(("path", "event", "n"), TRAINED)
def test_a_training_that_is_stopped_lets_the_rest_of_the_notebook_work(path, event, n, run,
                                                                       interrupting, changes):
    around, interrupted = interrupting(path, event, n)
    run(path, changes, around)
    assert interrupted
    assert [cell for cell, how in interrupted.items() if how != "handled"] == []


@pytest.mark.parametrize(("path", "event", "n"), SAMPLED)
def test_a_sampling_that_is_stopped_lets_the_rest_of_the_notebook_work(path, event, n, run,
                                                                       interrupting, changes):
    around, interrupted = interrupting(path, event, n)
    run(path, changes, around)
    assert interrupted


# -------------------------------------------------------------------- at any moment, by a signal


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="a timer of Unix")
def test_wherever_an_interrupt_comes_the_next_training_works():
    """Also where a `with torch.no_grad()` begins or ends: one in ten comes there."""
    rng, X, Y = random.Random(0), torch.randint(0, 27, (100, 8)), torch.randint(0, 27, (100,))
    model, threads = helpers.make_tree(27, 8, 4, 8), torch.get_num_threads()
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        for _ in range(60):
            signal.setitimer(signal.ITIMER_REAL, 0.01 + 0.02 * rng.random())
            helpers.train(model, X, Y, max_steps=10**7, batch_size=8)
            assert torch.is_grad_enabled()
            assert torch.get_num_threads() == threads
            assert all(layer.training for layer in model.layers if hasattr(layer, "training"))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# ------------------------------------------------------------------------ with a real kernel


@pytest.mark.full
@pytest.mark.parametrize("path", [PATHS[1], PATHS[3]], ids=lambda path: path.stem)
def test_the_kernel_is_interrupted_in_its_200_000_steps(path):
    """As by Jupyter's stop button, in the second second; then every other cell works."""
    env = os.environ | {"MAKEMORE_QUICK": "0"}
    kernel, client = start_new_kernel(cwd=str(path.parent), env=env)
    try:
        for cell in code_cells(nbformat.read(path, as_version=4)):
            texts, timers = [], []

            def listen(message, texts=texts, timers=timers, cell=cell):
                content = message["content"]
                texts.append(content.get("text", "") + content.get("evalue", ""))
                bar = content.get("data", {}).get("text/plain", "")
                if cell.id == "train" and "of 200000 steps" in bar and not timers:
                    timers.append(threading.Timer(1, kernel.interrupt_kernel))
                    timers[0].start()

            reply = client.execute_interactive(cell.source, output_hook=listen, timeout=300)
            assert reply["content"]["status"] == "ok", (cell.id, texts)
            if cell.id == "train":
                steps = int(re.search(r"Stopped by hand after (\d+) steps", "".join(texts))[1])
                assert 0 < steps < 100_000
            if cell.id == "log":
                assert f"training ended after {steps:,} of 200,000 steps" in "".join(texts)
    finally:
        client.stop_channels()
        kernel.shutdown_kernel(now=True)


STUDY = """
import sys, harness
configs = [dict(model="mlp", max_steps=400, seed=seed) for seed in range(1, 7)]
study = harness.open_study("killed", sys.argv[1], configs)
harness.run_study(study, sys.argv[1], workers=2)
"""


@pytest.mark.full
def test_a_kernel_that_is_killed_in_a_study_loses_nothing_that_was_finished(tmp_path):
    where = str(tmp_path / "study.db")
    command = [sys.executable, "-c", STUDY, where]
    options = {"cwd": PATHS[0].parent, "env": os.environ | {"MAKEMORE_QUICK": "1"}}
    kernel = subprocess.Popen(command, **options)
    study, complete = None, []
    while not complete:
        assert kernel.poll() is None, "it ended before it was killed"
        time.sleep(0.05)
        with contextlib.suppress(KeyError, harness.StorageError):
            study = harness.open_study("killed", where)
            complete = study.get_trials(states=(TrialState.COMPLETE,))
    kernel.kill()
    kernel.wait()
    kept = {trial.number: trial.user_attrs for trial in complete}
    subprocess.run(command, check=True, **options)
    after = harness.table(study).set_index("trial")
    assert (after.state == "complete").sum() == 6
    trials = {trial.number: trial for trial in study.get_trials()}
    assert all(trials[number].user_attrs == attributes for number, attributes in kept.items())
