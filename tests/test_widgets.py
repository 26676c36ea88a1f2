"""The panels of notebooks/widgets.py: their controls change what they show."""

import ipywidgets
import numpy as np
import pandas as pd
import pytest
import torch

import helpers
import widgets

STOI = {ch: i for i, ch in enumerate(".abcdefghijklmnopqrstuvwxyz")}
ITOS = {i: ch for ch, i in STOI.items()}
ROWS = pd.DataFrame({"group": ["a", "a", "b"], "val": [2.0, 2.1, 2.2], "train": [1.5, 1.6, 1.8]})
WAVENET = helpers.WaveNet(27, 6, 10, [1, 2, 4], dropout=0.5)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return helpers.make_tree(27, 8, 4, 8)


def parts(panel):
    """The controls of a panel by their label, and a function that gives what it shows."""
    row, shown = panel.children
    return {control.description: control for control in row.children}, lambda: shown.children[0]


def panels(model):
    """{panel: (a function that makes it, {a control of it: another value})}."""
    losses = np.linspace(3, 2, 500).tolist()
    return {
        "windows": (lambda: widgets.windows_panel(STOI, "ava", 3),
                    {"name": "emma", "block_size": 5}),
        "loss": (lambda: widgets.loss_panel(losses), {"window": 100, "raw losses too": True}),
        "shapes": (lambda: widgets.shapes_panel(27, 8, 10, 200),
                   {"block_size": 4, "n_embd": 3, "n_hidden": 7}),
        "tree": (lambda: widgets.tree_panel(10, 68), {"tree": (9, 3)}),
        "strays": (lambda: widgets.strays_panel(np.arange(50.0)), {"batch": 8}),
        "names": (lambda: widgets.names_panel(model, 8, ITOS),
                  {"temperature": 0.5, "first letters": "em", "seed": 3}),
        "activations": (lambda: widgets.activations_panel(model, 8, STOI, ITOS, "isabella"),
                        {"letters so far": "emma"}),
        "dilation": (lambda: widgets.dilation_panel("diondra"),
                     {"kernel size": 3, "levels": 4, "each dilation is that before, times": 3,
                      "output": 2, "compare with output": 0}),
        "race": (lambda: widgets.race_panel({
            (name, scale, size): [loss * (1 + scale / size) for loss in losses[::10]]
            for name in ("SGD", "AdamW") for scale in (0.1, 1) for size in (32, 256)}),
            {"optimisers": ("AdamW",), "learning rate x": 1, "batch": 32}),
        "generator": (lambda: widgets.generator_panel(WAVENET, ITOS, "ma"),
                      {"temperature": 0.5, "first letters": "em", "seed": 3}),
        "surprise": (lambda: widgets.surprise_panel(WAVENET, STOI, "isabella"), {"name": "emma"}),
        "evidence": (lambda: widgets.evidence_panel({"one": ROWS,
                                                     "two": ROWS.assign(val=ROWS.val + 1)}),
                     {"part": "two", "figure": "train"}),
    }


@pytest.mark.parametrize("name", ["windows", "loss", "shapes", "tree", "strays", "names",
                                  "activations", "dilation", "race", "generator", "surprise",
                                  "evidence"])
def test_every_control_changes_what_is_shown(name, model):
    make, changes = panels(model)[name]
    controls, shown = parts(make())
    assert set(controls) == set(changes)
    for label, value in changes.items():
        before = shown().value
        controls[label].value = value
        assert isinstance(shown(), ipywidgets.Image | ipywidgets.HTML)
        assert shown().value != before, label


def test_unknown_letters_are_named_and_nothing_breaks(model):
    for name, label in (("windows", "name"), ("names", "first letters"),
                        ("activations", "letters so far"), ("generator", "first letters"),
                        ("surprise", "name")):
        controls, shown = parts(panels(model)[name][0]())
        controls[label].value = "em7"
        assert "&#x27;7&#x27;" in shown().value
        controls[label].value = "emma"
        assert "&#x27;7&#x27;" not in str(shown().value)


def test_every_tree_that_is_offered_can_be_drawn():
    controls, shown = parts(widgets.tree_panel(10, 68))
    for value in controls["tree"].options.values():
        controls["tree"].value = value
        assert isinstance(shown(), ipywidgets.Image)


def test_a_panel_leaves_the_model_as_it_was(model):
    before = [m.running_mean.clone() for m in model.layers if hasattr(m, "running_mean")]
    for make, _ in panels(model).values():
        make()
    after = [m.running_mean for m in model.layers if hasattr(m, "running_mean")]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert all(m.training for m in model.layers if hasattr(m, "training"))
    assert all(m.training for m in WAVENET.modules())


def test_a_cone_counts_nodes_once_and_names_what_it_cannot_draw():
    assert [len(level) for level in widgets.cone(2, [1, 2, 4], 7)] == [8, 4, 2, 1]
    assert widgets.cone(2, [1, 3], 4)[0] == {0, 1, 3, 4}
    assert len(widgets.cone(3, [1, 2], 9)[0]) == 7
    with pytest.raises(ValueError, match="kernel of 1 joins no neighbours"):
        widgets.cone(1, [1, 2], 4)
    with pytest.raises(ValueError, match=r"dilations \(1, 0\): expected"):
        widgets.cone(2, [1, 0], 4)
    with pytest.raises(ValueError, match=r"dilations \(\): expected one level or more"):
        widgets.cone(2, [], 4)


def test_a_race_shows_the_best_rate_and_survives_a_run_that_flew_off():
    runs = {("SGD", 0.1, 32): [3.0] * 60, ("SGD", 10, 32): [2.0] * 60,
            ("AdamW", 0.1, 32): [3.0, float("nan")], ("AdamW", 10, 32): [3.0, float("inf")]}
    for scale, best in (("best of each", 10), (0.1, 0.1)):
        ax = widgets.draw_race(runs, ["SGD", "AdamW"], scale, 32).axes[0]
        assert ax.get_legend().get_texts()[0].get_text().startswith(f"SGD, rate x {best}: ")
        assert "SGD ends lowest" in ax.get_title(loc="left") + ax.get_title()
    with pytest.raises(ValueError, match="at least one optimiser"):
        widgets.draw_race(runs, [], 10, 32)
