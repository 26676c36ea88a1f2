"""course/playground.py: a run by itself, the picture, and the panel operated by its controls."""

import math
import threading

import ipywidgets
import pandas as pd
import pytest
import torch

import helpers
from course import playground

PARTS = helpers.split_words(helpers.load_words()[:400])
TINY = {"block_size": 4, "n_embd": 4, "n_hidden": 32, "max_steps": 30, "batch_size": 8}
STOI, _ = helpers.build_vocab([word for part in PARTS.values() for word in part])


@pytest.fixture(autouse=True)
def _board(monkeypatch):
    """An empty leaderboard, trainings of full length, and none left over."""
    monkeypatch.setattr(playground, "RUNS", [])
    monkeypatch.setattr(helpers, "QUICK", False)
    yield
    stop_all()


def join():
    for thread in threading.enumerate():
        if thread.name == "playground":
            thread.join(60)


def stop_all():
    for run in playground.RUNS:
        run.stop.set()
    join()


class Panel:
    """The panel's controls by their descriptions, and what its page says."""

    def __init__(self, config=TINY, runs=()):
        self.widgets, todo = {}, [playground.playground_panel(PARTS, config, runs)]
        while todo:
            widget = todo.pop()
            todo += getattr(widget, "children", ())
            self.widgets[getattr(widget, "description", "") or widget.model_id] = widget

    def click(self, name, **values):
        for key, value in values.items():
            self.widgets[key].value = value
        self.widgets[name].click()

    def page(self):
        return "\n".join(w.value for w in self.widgets.values() if isinstance(w, ipywidgets.HTML))

    def picture(self):
        return bytes(next(w.value for w in self.widgets.values() if isinstance(w, ipywidgets.Image)))


@pytest.fixture
def reached(monkeypatch):
    """An event: a training has made 20 steps, and goes on."""
    event, update = threading.Event(), playground.Run.update

    def noticed(run):
        if len(run.losses) == 20 and run.total > 1000:
            event.set()
        update(run)

    monkeypatch.setattr(playground.Run, "update", noticed)
    return event


@pytest.mark.parametrize("recipe", ["lecture", "fast"])
def test_a_run_has_the_losses_of_the_same_training_by_hand(recipe):
    config = TINY | {"recipe": recipe, "learning_rate": 0.01, "seed": 7}
    run = playground.run(PARTS, config)
    X, Y = helpers.build_dataset(PARTS["train"], 4, STOI)
    torch.manual_seed(7)
    model = helpers.make_tree(len(STOI), 4, 4, 32)
    losses = playground.trainer(recipe)(model, X, Y, max_steps=30, batch_size=8,
                                        learning_rate=0.01)
    assert run.losses == losses
    assert run.train == helpers.split_loss(model, X, Y)
    assert (run.status, run.note, run.looks[-1]) == ("finished", "", (30, run.val))


@pytest.mark.parametrize(("config", "said"), [
    ({"block_size": 6}, "not a power of 2"), ({"batch_size": 1}, "batch_size is 1; expected"),
    ({"n_hidden": 0}, "n_hidden is 0; expected"), ({"seed": -1}, "seed is -1; expected"),
    ({"learning_rate": 0}, "learning_rate is 0; expected"),
    ({"recipe": "slow"}, "expected 'lecture' or 'fast'"), ({"context": 8}, "unknown setting"),
])
def test_impossible_values_are_refused(config, said):
    with pytest.raises(ValueError, match=said):
        playground.run(PARTS, config)
    with pytest.raises(ValueError, match=said):
        playground.playground_panel(PARTS, config)


@pytest.mark.parametrize("rate", [300.0, 1e30])
def test_a_run_that_diverges_says_so_and_what_to_do(rate):
    run = playground.run(PARTS, TINY | {"learning_rate": rate, "max_steps": 120})
    assert run.status == "diverged"
    assert run.note.endswith("lower learning_rate")
    assert playground.draw_runs([run]).axes[0].lines


def test_a_training_in_the_panel_leaves_the_global_generator_and_the_threads_alone(reached):
    threads, panel = torch.get_num_threads(), Panel()
    torch.manual_seed(5)
    expected = torch.randn(160)
    torch.manual_seed(5)
    panel.click("Train", max_steps=200_000)
    got = torch.randn(80)
    assert reached.wait(60)
    got = torch.cat([got, torch.randn(80)])
    panel.click("Stop")
    join()
    assert torch.equal(got, expected)
    assert torch.get_num_threads() == threads
    assert playground.RUNS[0].losses[:20] == playground.run(PARTS, TINY).losses[:20]


def test_train_and_stop(reached):
    panel = Panel(runs=[playground.run(PARTS, TINY)])
    panel.click("Train", max_steps=200_000)
    assert reached.wait(60)
    panel.click("Train")
    assert "Run 2 is still training; press Stop first" in panel.page()
    panel.click("Stop")
    join()
    run = playground.RUNS[1]
    assert (run.status, math.isfinite(run.val)) == ("stopped", True)
    assert 20 <= len(run.losses) < 200_000
    assert "Run 2 stopped" in panel.page()
    before = panel.picture()
    panel.click("Train", max_steps=500)
    join()
    assert "Run 3 finished: step 500 of 500, val " in panel.page()
    assert panel.picture().startswith(b"\x89PNG")
    assert panel.picture() != before
    again = Panel(runs=playground.RUNS[:1])
    assert [run.number for run in playground.RUNS] == [1, 2, 3]
    assert "stopped" in again.page()


def test_a_new_panel_ends_the_training_of_an_earlier_one(reached):
    Panel().click("Train", max_steps=200_000)
    assert reached.wait(60)
    Panel()
    join()
    assert playground.RUNS[0].status == "stopped"


def test_what_goes_wrong_is_said_in_the_page(monkeypatch):
    def broken(*_):
        raise MemoryError("no room for <weights>")

    panel = Panel()
    for name in ("draw_runs", "helpers.make_tree"):
        with monkeypatch.context() as patch:
            patch.setattr(f"course.playground.{name}", broken)
            panel.click("Train")
            join()
        assert "MemoryError: no room for &lt;weights&gt;" in panel.page()
    assert [run.status for run in playground.RUNS] == ["finished", "failed"]


def test_the_csv_is_the_leaderboard_written_whole_or_not_at_all(monkeypatch, tmp_path):
    runs = [playground.run(PARTS, TINY | {"recipe": recipe}) for recipe in playground.USUAL]
    panel = Panel(runs=runs)
    monkeypatch.setattr(helpers, "OUTPUT", tmp_path / "output")
    panel.click("Save CSV")
    assert "Saved: output/playground.csv, 2 runs." in panel.page()
    assert [path.name for path in helpers.OUTPUT.iterdir()] == ["playground.csv"]
    back = pd.read_csv(helpers.OUTPUT / "playground.csv", keep_default_na=False)
    pd.testing.assert_frame_equal(back, playground.table(runs), check_dtype=False)
    assert back.val.is_monotonic_increasing
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(helpers, "OUTPUT", tmp_path / "file")
    panel.click("Save CSV")
    assert "Error: " in panel.page()


def test_only_a_choice_of_the_recipe_sets_its_usual_values():
    panel = Panel({"recipe": "fast", "learning_rate": 0.1})
    values = [panel.widgets[name] for name in ("learning_rate", "batch_size")]
    assert [control.value for control in values] == [0.1, 32]
    for recipe, usual in (("lecture", [0.1, 32]), ("fast", [0.005, 256])):
        panel.widgets["recipe"].value = recipe
        assert [control.value for control in values] == usual
        assert f"learning_rate {usual[0]}, batch_size {usual[1]}" in panel.page()


def test_the_title_names_the_run_with_the_lowest_val_and_the_figure_is_not_pyplots():
    runs = [playground.Run(playground.DEFAULTS | {"n_hidden": n}, losses=[3.0, 2.5], val=val)
            for n, val in ((32, 2.6), (68, 2.5))]
    ax = playground.draw_runs(runs).axes[0]
    assert "2.500: run 2, n_hidden 68" in ax.get_title() + ax.get_title(loc="left")
    assert ax.figure.number is None if hasattr(ax.figure, "number") else True
