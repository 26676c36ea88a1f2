"""The panels of notebooks/widgets.py: their controls change what they show."""

import html

import ipywidgets
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.colors import to_rgb

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
    return {control.description: control for control in row.children}, lambda: shown.children[-1]


def panels(model):
    """{panel: (a function that makes it, {a control of it: another value})}."""
    losses = np.linspace(3, 2, 500).tolist()
    return {
        "windows": (lambda: widgets.windows_panel(STOI, "ava", 3),
                    {"name": "emma", "block_size": 5}),
        "loss": (lambda: widgets.loss_panel(losses), {"window": 100, "raw losses too": True}),
        "shapes": (lambda: widgets.shapes_panel(27, 8, 10, 200),
                   {"block_size": 4, "n_embd": 3, "n_hidden": 7}),
        "tree": (lambda: widgets.tree_panel(27, 10, 68), {"tree": (9, 3), "box": (1, 1)}),
        "strays": (lambda: widgets.strays_panel(np.arange(50.0)), {"batch": 8}),
        "positions": (lambda: widgets.positions_panel(np.arange(600.0).reshape(100, 3, 2) % 7),
                      {"batch_size": 4, "statistic": "standard deviation", "channel": 1}),
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
                     {"part": "two", "figure": "train", "groups that contain": "b"}),
    }


@pytest.mark.parametrize("name", ["windows", "loss", "shapes", "tree", "strays", "positions",
                                  "names", "activations", "dilation", "race", "generator",
                                  "surprise", "evidence"])
def test_every_control_changes_what_is_shown(name, model):
    make, changes = panels(model)[name]
    panel = make()
    controls, shown = parts(panel)
    assert set(controls) == set(changes)
    for label, value in changes.items():
        before = [part.value for part in panel.children[1].children]
        controls[label].value = value
        assert isinstance(shown(), ipywidgets.Image | ipywidgets.HTML)
        assert [part.value for part in panel.children[1].children] != before, label


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
    controls, shown = parts(widgets.tree_panel(27, 10, 68))
    for value in controls["tree"].options.values():
        controls["tree"].value = value
        assert f"receptive field {value[0]} characters" in shown().value
        assert controls["box"].value == (0, 0)
        assert len(controls["box"].options) == sum(helpers.tree_levels(*value))


def test_a_box_of_the_tree_is_drawn_with_all_that_it_is_made_of():
    fig = widgets.draw_tree(8, 2, 10, 68, "isabella", node=(2, 1))
    orange = [t.get_text() for t in fig.axes[0].texts if t.get_bbox_patch()
              and t.get_bbox_patch().get_edgecolor()[:3] == to_rgb(helpers.COLORS[1])]
    assert orange == ["e", "l", "l", "a", "el", "la", "ella"]
    assert "box 2 of level 2 sees characters 5 to 8" in fig.axes[0].get_title(loc="left") + (
        fig.axes[0].get_title())


def test_an_error_of_any_kind_is_shown():
    number = ipywidgets.IntText(1, description="number")
    controls, shown = parts(widgets.panel(lambda number: f"{1 / number}", number=number))
    controls["number"].value = 0
    assert shown().value == "<pre>ZeroDivisionError: division by zero</pre>"
    controls["number"].value = 2
    assert shown().value == "<pre>0.5</pre>"


# ------------------------------------------------------------------------------- the bricks


E, L = ("Embedding", 27, 10), ("Linear", 80, 200)
MISFITS = {
    "characters first": ([L], "Layer 0, Linear(80, 200), calculates, and characters are no"),
    "embedding later": ([E, ("Flatten",), E], "Layer 2, Embedding(27, 10), looks up characters"),
    "no flatten": ([E, L], "Layer 1, Linear(80, 200), takes 80 numbers, and 10 come: make it "
                           "Linear(10, 200), or put a Flatten before it: 8 · 10 = 80."),
    "another width": ([E, ("Flatten",), L, ("BatchNorm1d", 100)],
                      "Layer 3, BatchNorm1d(100), takes 100 numbers, and 200 come: make it "
                      "BatchNorm1d(200)."),
    "flat twice": ([E, ("Flatten",), ("Flatten",)], "Layer 2, Flatten(), has nothing left"),
    "no logits": ([E], "Every layer fits, but the loss needs logits of shape (32, 27), and "
                       "(32, 8, 10) come out."),
    "nothing": ([], "Every layer fits, but the loss needs logits of shape (32, 27), and (32, 8)"),
}


@pytest.mark.parametrize("name", MISFITS)
def test_bricks_say_what_does_not_fit(name):
    bricks, said = MISFITS[name]
    table, verdict = widgets.brick_table(bricks, 27, 8)
    assert verdict.startswith(said)
    assert len(table) < len(bricks) or verdict.startswith("Every layer fits")


def test_bricks_are_added_removed_and_moved():
    list_, right = widgets.bricks_panel(27, 8, 10, 200).children
    (kind, fan_in, fan_out), buttons = (row.children for row in right.children[:2])
    click = {button.description: button.click for button in buttons}

    def said():
        verdict, table = right.children[2].children
        return html.unescape(verdict.value), table.value

    def layers():
        return [label.split(" ", 1)[1] for label, _ in list_.options]

    whole = layers()
    assert "It fits: 32 rows of 27 logits, 22,097 parameters." in said()[0]
    list_.value = 1
    click["remove"]()
    assert "put a Flatten before it" in said()[0]
    list_.value = 0
    kind.value = "Flatten"
    assert (fan_in.disabled, fan_out.disabled) == (True, True)
    click["add below"]()
    assert layers() == whole
    list_.value = 4
    click["move up"]()
    assert layers()[3] == "Tanh()"
    assert list_.value == 3                                  # what was moved stays chosen
    click["move down"]()
    assert layers() == whole
    kind.value, fan_in.value, fan_out.value = "Linear", 5, 6
    click["add below"]()
    assert layers()[5] == "Linear(5, 6)"
    assert "takes 5 numbers, and 200 come" in said()[0]
    for _ in [*whole, None, None]:
        click["remove"]()
        click["move up"]()
    assert layers() == []
    click["add below"]()
    assert layers() == ["Linear(5, 6)"]
    click["start again"]()
    assert layers() == whole
    assert "22,097" in said()[0]


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
