"""course/playground.py: a run by itself, the picture, and the panel operated by its controls."""

import math
import threading

import pandas as pd
import pytest
import torch

import helpers
from course import playground

PARTS = helpers.split_words(helpers.load_words()[:400])
TINY = {"block_size": 4, "n_embd": 4, "n_hidden": 32, "max_steps": 30, "batch_size": 8}
STOI, _ = helpers.build_vocab(helpers.load_words()[:400])


def join():  # the training of a panel
    for thread in threading.enumerate():
        if thread.name == "playground":
            thread.join(60)


@pytest.fixture(autouse=True)
def reached(monkeypatch):
    """An empty leaderboard, full length, and an event: a long training has made 20 steps."""
    event, update = threading.Event(), playground.Run.update
    monkeypatch.setattr(playground.Run, "update", lambda run: (
        event.set() if len(run.losses) == 20 and run.total > 1000 else None, update(run)))
    monkeypatch.setattr(playground, "RUNS", [])
    monkeypatch.setattr(helpers, "QUICK", False)
    yield event
    playground.playground_panel(PARTS)                      # a new panel ends the last training
    join()


class Panel:
    def __init__(self, config=TINY, runs=()):
        *rows, self.message, shown = playground.playground_panel(PARTS, config, runs).children
        self.picture, self.leaders = shown.children
        self.line = rows[1].children[-1]
        self.controls = {w.description: w for row in rows for w in row.children}

    def click(self, name, **values):
        for key, value in values.items():
            self.controls[key].value = value
        self.controls[name].click()

    def page(self):
        return "\n".join(w.value for w in (self.line, self.message, self.leaders))


@pytest.mark.parametrize("recipe", ["lecture", "fast"])
def test_a_run_has_the_losses_of_the_same_training_by_hand(recipe):
    run = playground.run(PARTS, TINY | {"recipe": recipe, "learning_rate": 0.01, "seed": 7})
    X, Y = helpers.build_dataset(PARTS["train"], 4, STOI)
    torch.manual_seed(7)
    model = helpers.make_tree(len(STOI), 4, 4, 32)
    train = playground.trainer(recipe)
    assert run.losses == train(model, X, Y, max_steps=30, batch_size=8, learning_rate=0.01)
    first = [t[: playground.EXAMPLES] for t in (X, Y)]
    assert run.train == helpers.split_loss(model, *first)
    assert (run.status, run.note, run.looks[-1]) == ("finished", "", (30, run.val))


@pytest.mark.parametrize(("config", "said"), [
    ({"block_size": 6}, "not a power of 2"), ({"batch_size": 1}, "batch_size is 1; expected"),
    ({"x": 8}, "unknown setting"), ({"recipe": "slow"}, "expected 'lecture' or 'fast'")])
def test_impossible_values_are_refused(config, said):
    for refuses in (playground.run, playground.playground_panel):
        with pytest.raises(ValueError, match=said):
            refuses(PARTS, config)


@pytest.mark.parametrize("rate", [300.0, 1e30])
def test_a_run_that_diverges_says_so_and_what_to_do(rate):
    run = playground.run(PARTS, TINY | {"learning_rate": rate, "max_steps": 120})
    assert (run.status, run.note[-19:]) == ("diverged", "lower learning_rate")
    assert playground.draw_runs([run]).axes[0].lines


def test_train_and_stop_leave_the_global_generator_and_the_threads_alone(reached):
    alone, threads = playground.run(PARTS, TINY), torch.get_num_threads()
    panel = Panel(runs=[alone])
    expected = torch.manual_seed(5) and torch.randn(160)
    torch.manual_seed(5)
    panel.click("Train", max_steps=200_000)
    got = torch.randn(80)
    assert reached.wait(60)
    assert torch.equal(torch.cat([got, torch.randn(80)]), expected)
    panel.click("Train")
    assert "Run 2 is still training; press Stop first" in panel.page()
    panel.click("Stop")
    join()
    assert math.isfinite(playground.RUNS[1].val)
    assert playground.RUNS[1].losses[:20] == alone.losses[:20]
    assert torch.get_num_threads() == threads
    assert "Run 2 stopped" in panel.page()
    before = bytes(panel.picture.value)
    panel.click("Train", max_steps=30)
    join()
    assert "Run 3 finished: step 30 of 30, val " in panel.page()
    assert b"PNG" in before != bytes(panel.picture.value)
    panel.click("Train", max_steps=200_000)
    Panel()                                                 # ends that training
    join()
    assert [r.status for r in playground.RUNS] == ["finished", "stopped", "finished", "stopped"]


@pytest.mark.parametrize(
    ("name", "status"), [("draw_runs", "finished"), ("helpers.make_tree", "failed")])
def test_what_goes_wrong_is_said_in_the_page(monkeypatch, name, status):
    panel = Panel()
    monkeypatch.setattr(f"course.playground.{name}", lambda *_: [][1 < 2])
    panel.click("Train")
    join()
    assert "IndexError: list index out of range" in panel.page()
    assert [run.status for run in playground.RUNS] == [status]


def test_the_csv_is_the_leaderboard_and_a_full_disk_is_said(monkeypatch, tmp_path):
    runs = [playground.run(PARTS, TINY | {"recipe": recipe}) for recipe in playground.USUAL]
    panel = Panel(runs=runs)
    monkeypatch.setattr(helpers, "OUTPUT", tmp_path / "output")
    panel.click("Save CSV")
    assert "Saved: output/playground.csv, 2 runs." in panel.page()
    [path] = helpers.OUTPUT.iterdir()
    back = pd.read_csv(path, keep_default_na=False)
    pd.testing.assert_frame_equal(back, playground.table(runs), check_dtype=False)
    assert back.val.is_monotonic_increasing
    ax = playground.draw_runs(runs).axes[0]
    best = f"{back.val[0]:.3f}: run {back.run[0]}"
    assert best in ax.get_title() + ax.get_title(loc="left")
    monkeypatch.setattr(helpers, "OUTPUT", path)             # a file, where a folder is needed
    panel.click("Save CSV")
    assert "Error: " in panel.page()


def test_only_a_choice_in_the_panel_sets_the_usual_values_of_a_recipe():
    panel = Panel({"recipe": "fast", "learning_rate": 0.1})
    assert (panel.controls["learning_rate"].value, panel.page()) == (0.1, "\n\n")
    for recipe, rate, batch in (("lecture", 0.1, 32), ("fast", 0.005, 256)):
        panel.controls["recipe"].value = recipe
        assert f"learning_rate {rate}, batch_size {batch}" in panel.page()
        assert [panel.controls[k].value for k in ("learning_rate", "batch_size")] == [rate, batch]
