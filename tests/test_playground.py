"""notebooks/playground.py: the plain training, the pictures, and the panel by its buttons."""

import math
import threading
import time

import pandas as pd
import pytest
import torch

import helpers
import playground

PARTS = helpers.split_words(helpers.load_words()[:400])
TINY = {"block_size": 4, "n_embd": 4, "n_hidden": 32, "max_steps": 30, "batch_size": 8}
STOI, _ = helpers.build_vocab([word for part in PARTS.values() for word in part])


@pytest.fixture(autouse=True)
def _style():
    helpers.use_style()


@pytest.fixture
def long_runs(monkeypatch):
    """Trainings go on until they are stopped."""
    monkeypatch.setattr(helpers, "QUICK", False)


@pytest.fixture
def board():
    board = playground.Board()
    yield board
    board.end()


@pytest.fixture
def panel(board):
    return make_panel(board)


def make_panel(board, config=TINY):
    return playground.playground_panel(PARTS, config, board=board)


def wait(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def choose(panel, **values):
    for name, value in values.items():
        panel.controls[name].value = value


def trained(panel):
    """Click Train and wait for the end; the Run."""
    panel.train.click()
    panel.board.join()
    return panel.board.runs[-1]


def begun(panel, steps=1):
    """Click Train and wait until it has made some steps; the Run."""
    panel.train.click()
    run = panel.board.current
    wait(lambda: len(run.losses) >= steps)
    return run


@pytest.mark.parametrize("recipe", ["lecture", "fast"])
def test_a_run_is_helpers_own_training_digit_for_digit_and_repeats(recipe):
    config = TINY | {"recipe": recipe, "learning_rate": 0.01, "seed": 7}
    run = playground.run(PARTS, config)
    X, Y = helpers.build_dataset(PARTS["train"], 4, STOI)
    torch.manual_seed(7)
    model = helpers.make_tree(len(STOI), 4, 4, 32)
    losses = helpers.train(model, X, Y, max_steps=30, batch_size=8, learning_rate=0.01,
                           recipe=recipe)
    assert run.losses == losses == playground.run(PARTS, config).losses
    assert run.train == pytest.approx(helpers.split_loss(model, X, Y), abs=1e-5)
    assert (run.status, run.note, run.looks[-1][2]) == ("finished", "", run.val)
    assert run.parameters == sum(p.nelement() for p in model.parameters())


def test_a_plain_run_is_capped_in_quick_mode_and_names_what_it_cannot_do(monkeypatch):
    monkeypatch.setattr(helpers, "QUICK", True)
    monkeypatch.setattr(helpers, "QUICK_STEPS", 12)
    monkeypatch.setattr(helpers.capped, "__defaults__", (12,))
    assert len(playground.run(PARTS, TINY).losses) == 12
    for config, said in (({"block_size": 6}, "block_size 6 is no power of 2"),
                         ({"batch_size": 1}, "batch_size of 2 or more"),
                         ({"n_hidden": 0}, "n_hidden is 0; expected"),
                         ({"learning_rate": 0}, "learning_rate is 0; expected"),
                         ({"recipe": "slow"}, "expected 'lecture' or 'fast'"),
                         ({"context": 8}, "unknown setting 'context'; expected one of block_size")):
        with pytest.raises(ValueError, match=said):
            playground.run(PARTS, TINY | config)


def test_a_training_beside_leaves_generator_and_thread_count_alone(panel, long_runs):
    threads, fresh = torch.get_num_threads(), []
    torch.manual_seed(5)
    expected = torch.cat([torch.randn(100) for _ in range(10)])
    torch.manual_seed(5)
    choose(panel, max_steps=200_000)
    run = begun(panel)
    got = []
    for _ in range(10):
        before = len(run.losses)
        got.append(torch.randn(100))
        wait(lambda before=before: len(run.losses) > before)
    panel.halt.click()
    panel.board.join()
    assert torch.equal(torch.cat(got), expected)
    thread = threading.Thread(target=lambda: fresh.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert torch.get_num_threads() == fresh[0] == threads
    alone = playground.run(PARTS, TINY)
    assert run.losses[:22] == alone.losses[:22], "before the learning rate falls"


def test_train_returns_at_once_and_the_line_tells_how_it_goes(panel, long_runs):
    choose(panel, max_steps=200_000)
    panel.train.click()
    assert panel.board.current.number == 1
    assert threading.current_thread() is threading.main_thread()
    wait(lambda: "steps a second" in panel.line.value and panel.picture.value)
    for word in ("Run 1: step ", " of 200,000, train ", "val ", " s left"):
        assert word in panel.line.value
    assert not panel.halt.disabled


def test_a_second_train_is_refused_with_a_word_and_stop_makes_room(panel, long_runs):
    choose(panel, max_steps=200_000)
    run = begun(panel, 20)
    panel.train.click()
    assert "Not started: Run 1 is still training. Wait for its end, or press Stop first." in (
        panel.message.value)
    panel.halt.click()
    wait(lambda: panel.halt.disabled)
    panel.board.join()
    assert panel.board.runs == [run]
    assert run.status == "stopped"
    assert 20 <= len(run.losses) < 200_000
    assert math.isfinite(run.val)
    assert "Run 1 stopped after " in panel.line.value
    assert "stopped" in panel.leaders.value
    choose(panel, max_steps=500)
    assert trained(panel).status == "finished"
    assert "Run 2 finished after 500 steps" in panel.line.value


def test_an_error_is_shown_in_the_page_and_makes_a_failed_row(panel, monkeypatch):
    def broken(*_, **__):
        raise MemoryError("no room for <weights>")

    with monkeypatch.context() as patch:
        patch.setattr(helpers, "make_tree", broken)
        run = trained(panel)
    assert (run.status, run.note) == ("failed", "MemoryError: no room for <weights>")
    assert "Run 1 failed: MemoryError: no room for &lt;weights&gt;." in panel.message.value
    assert "Run 1 failed after 0 steps" in panel.line.value
    assert "failed: MemoryError: no room for &lt;weights&gt;" in panel.leaders.value
    assert panel.halt.disabled
    assert trained(panel).status == "finished"


def test_a_picture_that_cannot_be_drawn_is_said_and_the_training_goes_on(panel, monkeypatch,
                                                                         long_runs):
    def broken(*_):
        raise RuntimeError("no ink")

    choose(panel, max_steps=200_000)
    monkeypatch.setattr(playground, "draw_runs", broken)
    run = begun(panel)
    wait(lambda: "RuntimeError: no ink" in panel.message.value)
    before = len(run.losses)
    wait(lambda: len(run.losses) > before)
    assert run.status == "training"


def test_a_training_that_diverges_says_so_and_what_to_do(board):
    run = trained(make_panel(board, TINY | {"learning_rate": 1e30}))
    assert run.status == "diverged"
    assert run.note.endswith("; lower learning_rate")
    assert len(run.losses) < 30
    panel = make_panel(board, TINY | {"learning_rate": 300.0, "max_steps": 120})
    said = f"is worse than blind guessing, {math.log(len(STOI)):.2f}; lower learning_rate"
    assert trained(panel).note.endswith(said)
    assert "Run 2 finished: val " in panel.message.value
    assert panel.picture.value


def test_the_board_outlives_the_panel_and_its_training_does_not(board, long_runs):
    first = make_panel(board)
    trained(first)
    choose(first, max_steps=200_000)
    run = begun(first)
    thread = board._thread
    second = make_panel(board)
    assert not thread.is_alive()
    assert board.current is None
    assert (run.status, run.note) == ("stopped", "by a new panel")
    assert [r.number for r in board.runs] == [1, 2]
    assert "finished" in second.leaders.value
    assert "stopped: by a new panel" in second.leaders.value
    assert second.drawn.value == tuple(board.runs)
    assert trained(second).number == 3


def test_runs_given_to_the_panel_come_onto_the_board_once(board):
    config = TINY | {"n_hidden": 68}
    for _ in range(2):
        pair = [playground.run(PARTS, c) for c in (TINY, config)]
        panel = playground.playground_panel(PARTS, TINY, runs=pair, board=board)
    assert [r.number for r in board.runs] == [1, 2]
    assert [label for label, _ in panel.drawn.options] == ["run 1: n_hidden 32",
                                                           "run 2: n_hidden 68"]


def test_the_csv_is_the_board_and_a_failing_write_is_said(panel, monkeypatch, tmp_path):
    trained(panel)
    choose(panel, block_size=8, recipe="fast")
    trained(panel)
    monkeypatch.setattr(helpers, "OUTPUT", tmp_path / "output")
    panel.save.click()
    assert "Saved: output/playground.csv, 2 runs." in panel.message.value
    assert [p.name for p in (tmp_path / "output").iterdir()] == ["playground.csv"]
    back = pd.read_csv(tmp_path / "output" / "playground.csv", keep_default_na=False)
    expected = playground.table(panel.board.runs)
    pd.testing.assert_frame_equal(back, expected, check_dtype=False)
    assert list(expected.val) == sorted(round(r.val, 6) for r in panel.board.runs)
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(helpers, "OUTPUT", tmp_path / "file")
    panel.save.click()
    assert "file/playground.csv cannot be written (" in panel.message.value
    assert "nothing is saved" in panel.message.value


def test_the_choice_of_runs_and_of_the_axis_changes_the_picture(panel):
    trained(panel)
    choose(panel, n_hidden=68)
    trained(panel)
    one, two = panel.board.runs
    assert panel.drawn.value == (one, two)
    seen = {panel.picture.value}
    panel.drawn.value = (two,)
    seen.add(panel.picture.value)
    panel.against.value = "seconds"
    seen.add(panel.picture.value)
    assert len(seen) == 3
    panel.drawn.value = ()
    assert panel.picture.layout.display == "none"
    panel.drawn.value = (one,)
    assert panel.picture.layout.display is None


def test_the_recipe_brings_its_usual_rate_and_batch_and_only_sizes_that_work_are_offered(panel):
    choose(panel, recipe="fast")
    assert (panel.controls["learning_rate"].value, panel.controls["batch_size"].value) == (0.005,
                                                                                          256)
    assert "learning_rate 0.005 and batch_size 256" in panel.message.value
    offered = {name: [v for _, v in c.options] for name, c in panel.controls.items()}
    assert min(offered["batch_size"]) >= 2
    assert all(helpers.tree_levels(size) for size in offered["block_size"])


def test_the_picture_says_which_run_is_lowest_and_draws_what_is_measured():
    runs = [playground.Run(playground.DEFAULTS | {"n_hidden": n}, losses=[3.0, 2.5] * 20,
                           looks=[(20, 1.0, val), (40, 2.0, val)], val=val, status="finished")
            for n, val in ((32, 2.6), (68, 2.5))]
    ax = playground.draw_runs(runs).axes[0]
    assert ax.get_title(loc="left") == "Run 2 is lowest: val 2.500, 0.100 below run 1"
    texts = [t.get_text() for t in ax.get_legend().get_texts()]
    assert texts[:2] == ["run 1: n_hidden 32", "run 2: n_hidden 68"]
    seconds = playground.draw_runs(runs, "seconds").axes[0]
    assert max(seconds.lines[1].get_xdata()) == 2.0
    assert "seconds" in seconds.get_xlabel()
    runs[0].losses.append(math.nan)
    assert playground.draw_runs(runs[:1]).axes[0].get_ylim()[1] < 4
    with pytest.raises(ValueError, match="No run to draw"):
        playground.draw_runs([])


def test_the_windows_of_a_list_are_made_once_and_a_stop_ends_the_making():
    made = playground.windows(PARTS["train"], 2, STOI, playground.Stop())
    expected = helpers.build_dataset(PARTS["train"], 2, STOI)
    assert all(torch.equal(a, b) for a, b in zip(made, expected, strict=True))
    assert playground.windows(list(PARTS["train"]), 2, STOI, playground.Stop()) is made
    stop = playground.Stop()
    stop.set()
    run = playground.run(PARTS, TINY | {"block_size": 16}, stop=stop)
    assert (run.status, run.losses) == ("stopped", [])
