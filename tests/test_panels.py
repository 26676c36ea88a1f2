"""course.panels, plots and pictures: each control changes what is shown, and errors are said."""

import re

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

import helpers
from course import panels, pictures, plots, wavenet

STOI, ITOS = helpers.build_vocab(helpers.load_words())
LOSSI = np.linspace(3, 2, 400).tolist()
RUNS = {(name, factor): [3 - factor * i / 99 for i in range(60)]
        for name in ("SGD", "Adam") for factor in (0.1, 1)}


MAKE = {
    "loss": lambda tree, net: panels.loss_panel(LOSSI),
    "shapes": lambda tree, net: panels.shapes_panel(27, 8, 5, 6),
    "spreads": lambda tree, net: panels.spreads_panel(torch.randn(500).numpy()),
    "positions": lambda tree, net: panels.positions_panel(torch.randn(99, 4, 3).numpy()),
    "race": lambda tree, net: panels.race_panel(RUNS),
    "names": lambda tree, net: panels.names_panel(tree, 8, ITOS),
    "activations": lambda tree, net: panels.activations_panel(tree, 8, STOI, ITOS, "emma"),
    "surprise": lambda tree, net: panels.surprise_panel(net, STOI, "emma"),
    "generator": lambda tree, net: panels.generator_panel(net, ITOS, "e"),
}


@pytest.fixture
def models():
    torch.manual_seed(1)
    return helpers.make_tree(27, 8, 5, 6), wavenet.WaveNet(27, 8, 12, [1, 2], dropout=0.5)


def shown(panel):
    return [child.value for child in panel.children[1].children]


def other_value(control):
    """A value that is offered but not chosen."""
    if isinstance(control, ipywidgets.Text):
        return control.value[:-1] or "a"
    if isinstance(control, ipywidgets.Checkbox):
        return not control.value
    if isinstance(control, ipywidgets.SelectMultiple):
        return control.value[1:]
    if hasattr(control, "_options_full"):
        return next(v for _, v in control._options_full if v != control.value)
    return control.min if control.value != control.min else control.max


@pytest.mark.parametrize("name", MAKE)
def test_every_control_changes_what_is_shown(name, models):
    panel = MAKE[name](*models)
    kinds = [type(child) for child in panel.children[1].children]      # of no error
    for control in panel.children[0].children:
        before, value = shown(panel), control.value
        control.value = other_value(control)
        assert shown(panel) != before, control.description
        assert [type(child) for child in panel.children[1].children] == kinds
        control.value = value
        assert shown(panel) == before, control.description


@pytest.mark.parametrize("name", ["activations", "surprise", "generator"])
def test_a_letter_that_is_not_in_the_list_is_named(name, models):
    panel = MAKE[name](*models)
    text = next(c for c in panel.children[0].children if isinstance(c, ipywidgets.Text))
    text.value = "a7"
    assert "'7'" in panel.children[1].children[0].value.replace("&#x27;", "'")


@pytest.mark.parametrize(("draw", "said"), [
    (lambda n: 1 / n, "ZeroDivisionError"),
    (lambda n: plt.Figure().suptitle(r"$\x$").figure, "Unknown symbol")])   # found as it is drawn
def test_an_error_of_any_kind_is_shown(draw, said):
    assert said in shown(panels.panel(draw, n=ipywidgets.IntSlider(0)))[0]


def test_a_panel_leaves_the_model_as_it_was(models):
    tree, net = models
    before, state = tree.layers[3].running_mean.clone(), torch.get_rng_state()
    for name in ("names", "activations", "surprise", "generator"):
        MAKE[name](tree, net)
    assert torch.equal(tree.layers[3].running_mean, before)
    assert torch.equal(torch.get_rng_state(), state)
    for model in models:
        assert all(m.training for m in helpers.modules(model) if hasattr(m, "training"))


def test_a_run_that_diverged_is_not_the_best_and_does_not_count_as_a_cost():
    figure = plots.draw_race(RUNS | {("SGD", 0.1): [3.0, float("nan")]}, ["SGD", "Adam"],
                             "best of each")
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert labels[0].startswith("SGD, learning rate x 1:")
    vals = {"SGD": pd.DataFrame({1: [2.5, 2.0], 2: [2.7, 2.0]}, [0.1, 1.0]),
            "Adam": pd.DataFrame({1: [2.0, 2.1], 2: [2.0, np.nan]}, [0.1, 1.0])}
    title = "".join(map(plots.draw_rates(vals).axes[0].get_title, ("left", "center")))
    assert title == "A wrong learning rate costs SGD up to 0.60 nats, Adam up to 0.10"


def test_a_long_word_is_cut_and_the_title_says_so():
    figure = plots.draw_surprise(wavenet.WaveNet(27, 8, 12, [1, 2]), STOI, "emma" * 400)
    assert figure.get_figwidth() < 30
    assert "over the first 30" in "".join(map(figure.axes[0].get_title, ("left", "center")))


@pytest.mark.parametrize(("bricks", "said"), [
    ([("Embedding", 27, 5), ("Flatten",), ("Linear", 40, 27)], "It fits"),
    ([("Linear", 40, 27)], "put an Embedding first"),
    ([("Embedding", 5, 4)], "has 5 rows for 27 characters"),
    ([("Embedding", 27, 5), ("Linear", 40, 27)], "expects 40 numbers but receives 5"),
    ([("Embedding", 27, 5), ("Flatten",), ("Flatten",)], "nothing left to flatten"),
    ([("Embedding", 27, 5)], r"these are \(32, 8, 5\)"),
    ([("Embedding", 27, 5), ("Flatten",)], r"accepts \(32, 40\) silently, but 13 of")])
def test_bricks_say_what_does_not_fit(bricks, said):
    _, verdict = panels.brick_table(bricks, 27, 8)
    assert re.search(said, verdict)


def test_a_cone_counts_each_node_once():
    levels = pictures.cone(2, [1, 2, 4], 7)
    assert [len(level) for level in levels] == [8, 4, 2, 1]
    with pytest.raises(ValueError, match="a kernel of 1 joins no neighbours"):
        pictures.cone(1, [1], 3)
