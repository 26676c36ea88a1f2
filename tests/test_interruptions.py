"""An interrupt in any training or sampling of a notebook: the cells that follow still work."""

import contextlib
import math

import pytest
import torch

import helpers
from course import PATHS

EVENTS = {"step": (torch.Tensor, "backward"), "character": (helpers, "draw_next")}

# These measure something small, which the cells below them need; run again, they take a moment.
MEASURE = {"test-gradients", "exercise-scale", "lecture-names", "sample", "growth"}


@pytest.fixture
def interrupting(monkeypatch):
    """A function: contexts for cells, in each of which the n-th step or character is the last.

    As when the interrupt button is pressed: KeyboardInterrupt where the code then is, once a cell.
    """

    def interrupting(event, n, cells=None):
        count, interrupted = [0], {}
        owner, name = EVENTS[event]
        original = getattr(owner, name)

        def counted(*args, **kwargs):
            count[0] += 1
            if count[0] == n:
                raise KeyboardInterrupt
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, counted)

        @contextlib.contextmanager
        def around(cell):
            spared = cell.id in MEASURE or (cells and cell.id not in cells)
            count[0] = -math.inf if spared else 0
            try:
                yield
                how = "handled"
            except KeyboardInterrupt:
                how = "ended the cell"
            if count[0] >= n:
                interrupted[cell.id] = how

        return around, interrupted

    return interrupting


# 09 trains in processes of its own; tests/test_harness.py interrupts and kills those. 10 times
# steps, so there it is the race's turn: step 30 is one of the tree's, or of the lecture's long run.
def stops(numbers, steps, quick):
    """A test for each of the notebooks and each step that is the last; without --full a few."""
    return [pytest.param(PATHS[k], n, id=f"{n}-{PATHS[k].stem}",
                         marks=[pytest.mark.full] * (k not in quick or n > 20))
            for k in numbers for n in steps]


TRAINED = stops(range(9), (2, 20), quick=(1, 3)) + stops([10], [30], quick=())
SAMPLED = stops((0, 5, 8, 10), (1, 3), quick=(0,))


@pytest.fixture
def changes(words_file):
    return {"names_file": words_file(helpers.load_words()[::10]), "pair_seeds": 1}


@pytest.mark.parametrize(("path", "n"), TRAINED)
def test_a_training_that_is_stopped_lets_the_rest_of_the_notebook_work(path, n, run, interrupting,
                                                                       changes):
    cells = {"race-run", "race-lecture"} if n == 30 else None
    around, interrupted = interrupting("step", n, cells)
    run(path, changes, around)
    assert interrupted
    assert set(interrupted.values()) == {"handled"}, interrupted


@pytest.mark.parametrize(("path", "n"), SAMPLED)
def test_a_sampling_that_is_stopped_lets_the_rest_of_the_notebook_work(path, n, run, interrupting,
                                                                       changes):
    around, interrupted = interrupting("character", n)
    run(path, changes, around)
    assert interrupted
