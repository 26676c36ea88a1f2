"""The interactive panels: controls above a picture, drawn here by course.plots or in the page."""

import base64
import html
import io
import json
from pathlib import Path

import ipywidgets
import matplotlib.pyplot as plt
import pandas as pd
import torch
from IPython.display import HTML

import helpers
from course import plots


class Panel(ipywidgets.VBox):
    """Controls, and as the last child what they show. A page without a kernel shows only that."""

    def _repr_mimebundle_(self, **kwargs):
        parts = self.children[-1].children
        still = ({"image/png": base64.b64encode(parts[0].value).decode()}
                 if isinstance(parts[0], ipywidgets.Image)
                 else {"text/html": "".join(part.value for part in parts)})
        return super()._repr_mimebundle_(**kwargs) | still


def panel(draw, **controls):
    """The controls in a row; below them what `draw` returns for their values.

    `draw` returns a figure, a DataFrame, a text, or a tuple of those. A text field redraws at every
    key, a slider when it's released.
    """
    shown = ipywidgets.VBox()

    def update(_=None):
        shown.children = show(draw, **{name: c.value for name, c in controls.items()})

    for control in controls.values():
        control.continuous_update = isinstance(control, ipywidgets.Text)
        control.style.description_width = "initial"
        control.observe(update, "value")
    update()
    return Panel([_row(controls.values()), shown])


def figure(kind, **options):
    """A figure of figures.js, which needs no kernel: it works on any page that runs scripts."""
    code = Path(__file__).with_name("figures.js").read_text(encoding="utf-8")
    return HTML(f'<div data-figure="{kind}" data-options="{html.escape(json.dumps(options))}">'
                f"Run this cell to see its figure.</div><script>{code}</script>")


def _row(controls):
    return ipywidgets.HBox(list(controls), layout={"flex_flow": "row wrap"})


def show(draw, **values):
    """What draw(**values) returns, as widgets; or its error, because nobody reads a log."""
    try:
        result = draw(**values)
        return [_as_widget(part) for part in (result if isinstance(result, tuple) else [result])]
    except ValueError as error:
        return [_as_widget(str(error))]
    except Exception as error:
        return [_as_widget(f"{type(error).__name__}: {error}")]


def _as_widget(result):
    if isinstance(result, plt.Figure):
        png = io.BytesIO()
        result.savefig(png, format="png", bbox_inches="tight")
        return ipywidgets.Image(value=png.getvalue(), format="png",
                                layout={"max_width": "100%", "align_self": "flex-start"})
    if isinstance(result, pd.DataFrame):
        # The class gives a table the look that it has as a cell's output, in a dark theme, too.
        table = result.to_html(border=0).replace("<table", '<table style="margin-left: 0"', 1)
        return ipywidgets.HTML(f'<div class="jp-RenderedHTMLCommon">{table}</div>')
    return ipywidgets.HTML(f"<pre>{html.escape(result)}</pre>")


def _slider(label, value, low, high, step=1):
    kind = ipywidgets.IntSlider if isinstance(step, int) else ipywidgets.FloatSlider
    return kind(value=value, min=low, max=high, step=step, description=label)


def _choice(label, options, value):
    return ipywidgets.Dropdown(options=options, value=value, description=label)


def loss_panel(lossi):
    """Choose the window of the rolling mean, with or without the raw losses."""
    sizes = [n for n in (1, 10, 100, 1000, 5000, 20_000) if n <= max(1, len(lossi) // 5)]
    return panel(lambda window, raw: plots.draw_losses(lossi, window, raw),
                 window=_choice("window", sizes, sizes[len(sizes) // 2]),
                 raw=ipywidgets.Checkbox(False, description="raw losses too"))


def shapes_panel(vocab_size, block_size, n_embd, n_hidden):
    """Choose the sizes of the flat network: shapes and parameters layer by layer."""

    def draw(block_size, n_embd, n_hidden):
        model = helpers.make_mlp(vocab_size, block_size, n_embd, n_hidden,
                                 norm=helpers.BatchNorm1dPart3)
        table = helpers.shape_table(model, torch.zeros(32, block_size, dtype=torch.int64))
        table.loc["sum"] = ["", "", table.parameters.sum()]
        return table

    return panel(draw, block_size=_slider("block_size", min(block_size, 16), 1, 16),
                 n_embd=_slider("n_embd", min(n_embd, 64), 1, 64),
                 n_hidden=_slider("n_hidden", min(n_hidden, 512), 1, 512))


def _flat_bricks(vocab_size, block_size, n_embd, n_hidden):
    return [("Embedding", vocab_size, n_embd), ("Flatten",),
            ("Linear", block_size * n_embd, n_hidden, False), ("BatchNorm1d", n_hidden),
            ("Tanh",), ("Linear", n_hidden, vocab_size)]


def _name(brick):
    sizes = ", ".join(map(str, brick[1:3]))
    return f"{brick[0]}({sizes}{', bias=False' * (len(brick) > 3)})"


def _misfit(brick, shape, first, vocab_size):
    """What keeps a brick from an input of this shape, and the remedy; None if it fits."""
    kind, *sizes = brick
    if kind == "Embedding":
        if not first:
            return "looks up characters, so it has to be the first layer"
        return None if sizes[0] >= vocab_size else (
            f"has {sizes[0]} rows for {vocab_size} characters: make it "
            f"Embedding({vocab_size}, {sizes[1]})")
    if first:
        return "needs numbers, and these are still characters: put an Embedding first"
    if kind == "Flatten" and len(shape) == 2:
        return "has nothing left to flatten: take it out"
    if kind in ("Linear", "BatchNorm1d") and shape[-1] != sizes[0]:
        said = f"expects {sizes[0]} numbers but receives {shape[-1]}: make it {kind}({shape[-1]}"
        said += f", {sizes[1]})" if kind == "Linear" else ")"
        if len(shape) == 3 and sizes[0] == shape[1] * shape[2]:
            said += f", or put a Flatten before it ({shape[1]} · {shape[2]} = {sizes[0]})"
        return said
    return None


def brick_table(bricks, vocab_size, block_size):
    """(table, verdict) for a model of `bricks`: ("Linear", 80, 200), ("Tanh",) and so on.

    ("Linear", 80, 200, False) has no bias.

    The table has the shape after each layer for a batch of 32, and its parameters, up to the
    first layer that does not fit. The verdict says in words what is wrong, or the number of
    parameters.
    """
    kinds = {"Embedding": helpers.Embedding, "Flatten": helpers.Flatten, "Linear": helpers.Linear,
             "BatchNorm1d": helpers.BatchNorm1dPart3, "Tanh": helpers.Tanh}
    x, rows, total = torch.zeros(32, block_size, dtype=torch.int64), [], 0
    for i, brick in enumerate(bricks):
        if said := _misfit(brick, tuple(x.shape), i == 0, vocab_size):
            verdict = f"Layer {i}, {_name(brick)}, {said}."
            break
        layer = kinds[brick[0]](*brick[1:])
        x, count = layer(x), sum(p.nelement() for p in layer.parameters())
        total += count
        rows.append({"layer": _name(brick), "out": str(tuple(x.shape)),
                     "parameters": count})
    else:
        verdict = f"It fits: 32 rows of {vocab_size} logits, {total:,} parameters."
        if x.ndim == 2 and x.shape[1] > vocab_size:
            verdict = (f"Every layer fits, and F.cross_entropy accepts {tuple(x.shape)} silently, "
                       f"but {x.shape[1] - vocab_size} of the logits belong to no character.")
        elif tuple(x.shape) != (32, vocab_size):
            verdict = (f"Every layer fits, and the loss needs logits of shape (32, {vocab_size}), "
                       f"but these are {tuple(x.shape)}.")
    return pd.DataFrame(rows, columns=["layer", "out", "parameters"]), verdict


def bricks_panel(vocab_size, block_size, n_embd, n_hidden):
    """The flat network as a list of layers: add, remove and move them; shapes and parameters."""
    start = _flat_bricks(vocab_size, block_size, n_embd, n_hidden)
    bricks, shown = list(start), ipywidgets.VBox()
    chosen = ipywidgets.Select(description="layers", rows=9, layout={"width": "270px"})
    kind = _choice("new layer", ["Embedding", "Flatten", "Linear", "BatchNorm1d", "Tanh"], "Linear")
    fan_in, fan_out = (ipywidgets.BoundedIntText(n_hidden, 1, 9999, description=label,
                                                 layout={"width": "150px"})
                       for label in ("from", "to"))

    def update(place):
        chosen.options = [(f"{i} {_name(brick)}", i) for i, brick in enumerate(bricks)]
        chosen.value = min(place, len(bricks) - 1) if bricks else None
        shown.children = show(lambda: brick_table(bricks, vocab_size, block_size)[::-1])

    def add(place):
        sizes = {"Embedding": 2, "Linear": 2, "BatchNorm1d": 1}.get(kind.value, 0)
        bricks.insert(place + 1, (kind.value, fan_in.value, fan_out.value)[: 1 + sizes])
        return place + 1

    def remove(place):
        del bricks[place : place + 1]
        return place

    def move(place, by):
        if 0 <= place + by < len(bricks):
            bricks[place], bricks[place + by] = bricks[place + by], bricks[place]
            place += by
        return place

    def start_again(_):
        bricks[:] = start
        return 0

    actions = {"add below": add, "remove": remove, "move up": lambda place: move(place, -1),
               "move down": lambda place: move(place, 1), "start again": start_again}
    buttons = [ipywidgets.Button(description=label, layout={"width": "110px"})
               for label in actions]
    for button in buttons:
        button.on_click(lambda b: update(actions[b.description](
            -1 if chosen.value is None else chosen.value)))
    for control in (chosen, kind, fan_in, fan_out):
        control.style.description_width = "initial"

    def offer(_=None):
        fan_in.disabled = kind.value in ("Flatten", "Tanh")
        fan_out.disabled = kind.value not in ("Embedding", "Linear")

    kind.observe(offer, "value")
    update(1)
    right = ipywidgets.VBox([_row([kind, fan_in, fan_out]), _row(buttons)])
    return Panel([_row([chosen, right]), shown])


def spreads_panel(values):
    """Choose how many examples the estimate has, against four times as many."""
    return panel(lambda n: plots.draw_spreads([n, 4 * n], values),
                 n=_choice("batch", [2, 4, 8, 16, 32, 64, 128, 256, 512], 32))


def positions_panel(hpreact):
    """Choose a batch size, a statistic and a channel: what bug and fix use."""
    return panel(
        lambda batch_size, statistic, channel: plots.draw_positions(
            hpreact, batch_size, statistic, channel),
        batch_size=_choice("batch_size", [2, 4, 8, 16, 32, 64, 128, 256, 512], 32),
        statistic=_choice("statistic", ["mean", "standard deviation"], "mean"),
        channel=_slider("channel", 0, 0, hpreact.shape[2] - 1))


def names_panel(model, block_size, itos):
    """Choose a temperature, first letters and a seed: ten names."""
    return panel(lambda **choices: plots.draw_names(model, block_size, itos, **choices),
                 temperature=_slider("temperature", 1.0, 0.1, 2.0, 0.1),
                 prefix=ipywidgets.Text("", description="first letters"),
                 seed=_slider("seed", 1, 0, 50))


def activations_panel(model, block_size, stoi, itos, text):
    """Type the letters so far: the activations of each level for that window."""

    def draw(text):
        if unknown := [ch for ch in text if ch not in stoi]:
            return f"{unknown[0]!r} is not in the word list; leave it out."
        ids = [0] * block_size + [stoi[ch] for ch in text]
        return plots.draw_activations(model, torch.tensor(ids[-block_size:]), itos)

    return panel(draw, text=ipywidgets.Text(text, description="letters so far"))


def race_panel(runs):
    """Choose optimisers and the learning rate: the race of those runs."""
    names, factors = (list(dict.fromkeys(key[i] for key in runs)) for i in range(2))
    return panel(
        lambda names, factor: plots.draw_race(runs, names, factor),
        names=ipywidgets.SelectMultiple(options=names, value=names, rows=len(names),
                                        description="optimisers"),
        factor=_choice("learning rate x", ["best of each", *factors], "best of each"))


def surprise_panel(model, stoi, name):
    """Type a name: what surprised the model in it."""

    def draw(name):
        if unknown := [ch for ch in name if ch not in stoi or ch == "."]:
            return f"{unknown[0]!r} is not in the word list; leave it out."
        return plots.draw_surprise(model, stoi, name)

    return panel(draw, name=ipywidgets.Text(name, description="name"))


def generator_panel(model, itos, prefix):
    """Type the first letters, choose a temperature: the next character and ten names."""
    return panel(lambda **choices: plots.draw_generator(model, itos, **choices),
                 prefix=ipywidgets.Text(prefix, description="first letters"),
                 temperature=_slider("temperature", 1.0, 0.1, 2.0, 0.1),
                 seed=_slider("seed", 1, 0, 50))
