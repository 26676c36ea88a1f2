"""The panels of notebooks/widgets.py: their controls change what they show."""

import ipywidgets
import numpy as np
import pytest
import torch

import helpers
import widgets

STOI = {ch: i for i, ch in enumerate(".abcdefghijklmnopqrstuvwxyz")}
ITOS = {i: ch for ch, i in STOI.items()}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return helpers.make_tree(27, 8, 4, 8)


def parts(panel):
    """The controls of a panel by their label, and a function that gives what it shows."""
    row, shown = panel.children
    return {control.description: control for control in row.children}, lambda: shown.children[0]


def panels(model):
    losses = np.linspace(3, 2, 500).tolist()
    return {
        "windows": (widgets.windows_panel(STOI, "ava", 3), {"name": "emma", "block_size": 5}),
        "loss": (widgets.loss_panel(losses), {"window": 100, "raw losses too": True}),
        "shapes": (widgets.shapes_panel(27, 8, 10, 200),
                   {"block_size": 4, "n_embd": 3, "n_hidden": 7}),
        "tree": (widgets.tree_panel(10, 68), {"tree": (9, 3)}),
        "strays": (widgets.strays_panel(np.arange(50.0)), {"batch": 8}),
        "names": (widgets.names_panel(model, 8, ITOS),
                  {"temperature": 0.5, "first letters": "em", "seed": 3}),
        "activations": (widgets.activations_panel(model, 8, STOI, ITOS, "isabella"),
                        {"letters so far": "emma"}),
    }


@pytest.mark.parametrize("name", ["windows", "loss", "shapes", "tree", "strays", "names",
                                  "activations"])
def test_every_control_changes_what_is_shown(name, model):
    panel, changes = panels(model)[name]
    controls, shown = parts(panel)
    assert set(controls) == set(changes)
    for label, value in changes.items():
        before = shown().value
        controls[label].value = value
        assert isinstance(shown(), ipywidgets.Image | ipywidgets.HTML)
        assert shown().value != before, label


def test_unknown_letters_are_named_and_nothing_breaks(model):
    for name, label in (("windows", "name"), ("names", "first letters"),
                        ("activations", "letters so far")):
        controls, shown = parts(panels(model)[name][0])
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
    panels(model)
    after = [m.running_mean for m in model.layers if hasattr(m, "running_mean")]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert all(m.training for m in model.layers if hasattr(m, "training"))
