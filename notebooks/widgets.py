"""The pictures and interactive panels of the notebooks: for each, a `draw_` function that a
notebook calls plainly, and a `_panel` function that puts controls above the same picture.
"""

import html
import io
import string

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.collections import LineCollection

import helpers

BLUE = helpers.COLORS[0]


def panel(draw, **controls):
    """The controls in a row; below them what `draw` returns for their values, anew on a change.

    `draw` returns a figure, a DataFrame, a text, or a tuple of those. Text fields answer to every
    key, sliders when they are let go.
    """
    shown = ipywidgets.VBox()

    def update(_=None):
        shown.children = show(draw, **{name: c.value for name, c in controls.items()})

    for control in controls.values():
        control.continuous_update = isinstance(control, ipywidgets.Text)
        control.style.description_width = "initial"
        control.observe(update, "value")
    update()
    return ipywidgets.VBox([_row(controls.values()), shown])


def _row(controls):
    return ipywidgets.HBox(list(controls), layout={"flex_flow": "row wrap"})


def show(draw, **values):
    """What draw(**values) returns, as widgets; its error in words, for nobody reads a log."""
    try:
        result = draw(**values)
    except ValueError as error:
        result = str(error)
    except Exception as error:
        result = f"{type(error).__name__}: {error}"
    return [_as_widget(part) for part in (result if isinstance(result, tuple) else [result])]


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


def _finished(fig):
    """`fig`, closed: the notebook shows it once, as the value of its cell."""
    plt.close(fig)
    return fig


def _slider(label, value, low, high, step=1):
    kind = ipywidgets.IntSlider if isinstance(step, int) else ipywidgets.FloatSlider
    return kind(value=value, min=low, max=high, step=step, description=label)


def _choice(label, options, value):
    return ipywidgets.Dropdown(options=options, value=value, description=label)


# ---------------------------------------------------------------------------- 01: the windows


def draw_windows(name, block_size):
    """Every window of `name` as a row of boxes, the character to predict at its right."""
    rows = ["." * block_size + name + "."]
    rows = [(rows[0][i : i + block_size], rows[0][i + block_size]) for i in range(len(name) + 1)]
    _, ax = plt.subplots(figsize=(max(4, 0.45 * block_size + 2.5), 0.42 * len(rows) + 0.7))
    for y, (window, target) in enumerate(rows):
        for x, ch in enumerate(window):
            _box(ax, x, y, ch, "#e8e8e8" if ch == "." else "#bfe0f5")
        ax.annotate("", (block_size + 0.75, y), (block_size - 0.35, y),
                    arrowprops={"arrowstyle": "->"})
        _box(ax, block_size + 1.3, y, target, "#f7d0b5")
    ax.set(xlim=(-0.6, block_size + 2), ylim=(len(rows) - 0.4, -0.6), aspect="equal")
    ax.set_title(f"{name!r}: {len(rows)} windows of {block_size}, one character to predict each")
    ax.axis("off")
    return _finished(ax.figure)


def _box(ax, x, y, text, color):
    ax.text(x, y, text, ha="center", va="center", family="monospace", size=12, bbox={
        "boxstyle": "square,pad=0.28", "facecolor": color, "edgecolor": "white"})


def windows_panel(stoi, name, block_size):
    """Type a name, choose a context: its windows."""

    def draw(name, block_size):
        unknown = sorted(set(name) - set(stoi) | (set(name) & {"."}))
        if unknown:
            return f"{', '.join(map(repr, unknown))}: not a letter of the word list; take it out."
        return draw_windows(name, block_size)

    return panel(draw, name=ipywidgets.Text(name, description="name"),
                 block_size=_slider("block_size", min(block_size, 16), 1, 16))


def draw_losses(lossi, window, raw=False):
    """The rolling mean of the losses, over the raw ones if asked; its noise in the title."""
    ax = helpers.plot_losses({f"mean of {window}": lossi}, window)
    if raw:
        every = max(1, len(lossi) // 20_000)
        ax.plot(np.arange(1, len(lossi) + 1)[::every], lossi[::every], lw=0.3, color="#bbbbbb",
                zorder=0, label="raw")
        for line in ax.legend().get_lines():         # the raw one is too thin to be seen there
            line.set_linewidth(2)
    smooth = helpers.rolling_mean(lossi, window)[-max(1, len(lossi) // 10) :]
    ax.set_title(f"Window {window}: over the last tenth the curve spans {np.ptp(smooth):.3f} nats")
    return _finished(ax.figure)


def loss_panel(lossi):
    """Choose the window of the rolling mean, with or without the raw losses."""
    sizes = [n for n in (1, 10, 100, 1000, 5000, 20_000) if n <= max(1, len(lossi) // 5)]
    return panel(lambda window, raw: draw_losses(lossi, window, raw),
                 window=_choice("window", sizes, sizes[len(sizes) // 2]),
                 raw=ipywidgets.Checkbox(False, description="raw losses too"))


# ------------------------------------------------------------------------------ 02: the shapes


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


def _misfit(brick, shape, first):
    """What keeps a brick from an input of this shape, and the remedy; None if it fits."""
    kind, *sizes = brick
    if kind == "Embedding":
        return None if first else "looks up characters, so it must be the first layer"
    if first:
        return "calculates, and characters are no numbers yet: put an Embedding first"
    if kind == "Flatten" and len(shape) == 2:
        return "has nothing left to flatten: take it out"
    if kind in ("Linear", "BatchNorm1d") and shape[-1] != sizes[0]:
        said = f"takes {sizes[0]} numbers, and {shape[-1]} come: make it {kind}({shape[-1]}"
        said += f", {sizes[1]})" if kind == "Linear" else ")"
        if len(shape) == 3 and sizes[0] == shape[1] * shape[2]:
            said += f", or put a Flatten before it: {shape[1]} · {shape[2]} = {sizes[0]}"
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
        if said := _misfit(brick, tuple(x.shape), i == 0):
            verdict = f"Layer {i}, {_name(brick)}, {said}."
            break
        layer = kinds[brick[0]](*brick[1:])
        x, count = layer(x), sum(p.nelement() for p in layer.parameters())
        total += count
        rows.append({"layer": _name(brick), "out": str(tuple(x.shape)),
                     "parameters": count})
    else:
        verdict = f"It fits: 32 rows of {vocab_size} logits, {total:,} parameters."
        if tuple(x.shape) != (32, vocab_size):
            verdict = (f"Every layer fits, but the loss needs logits of shape (32, {vocab_size}), "
                       f"and {tuple(x.shape)} come out.")
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
    right = ipywidgets.VBox([_row([kind, fan_in, fan_out]), _row(buttons), shown])
    return _row([chosen, right])


# -------------------------------------------------------------------------------- 03: the tree


def draw_tree(block_size, n, n_embd, n_hidden, letters=None, node=None):
    """The tree of FlattenConsecutive(n): a box a position, lines from what it joins.

    The (T, C) of each level stands at its right, with the characters that one box sees. `node`,
    (level, number from 0), is drawn in orange, with all that it is made of.
    """
    levels = helpers.tree_levels(block_size, n)
    letters = (letters or string.ascii_letters)[:block_size].rjust(block_size, ".")
    _, ax = plt.subplots(figsize=(9, 0.85 * len(levels) + 0.7))
    for level, count in enumerate(levels):
        span = block_size // count
        centres = [(i + 0.5) * span - 0.5 for i in range(count)]
        for i, x in enumerate(centres):
            seen = node and level <= node[0] and i // n ** (node[0] - level) == node[1]
            label = letters[i * span : (i + 1) * span] if span <= 8 else f"{span} letters"
            ax.text(x, -level, label, ha="center", va="center", family="monospace",
                    size=11 if block_size <= 16 else 7,
                    bbox={"boxstyle": "round,pad=0.3", "fc": "#f7c9a5" if seen else "#bfe0f5",
                          "ec": helpers.COLORS[1] if seen else BLUE})
            if level:
                for j in range(n):
                    child = (i * n + j + 0.5) * span / n - 0.5
                    ax.plot([child, x], [-level + 0.8, -level + 0.2], lw=2 if seen else 1,
                            color=helpers.COLORS[1] if seen else "gray")
        width = n_embd if level == 0 else n_hidden
        ax.text(block_size - 0.2, -level, f"  (T, C) = ({count}, {width}), a box sees {span}",
                va="center")
    ax.set(xlim=(-0.7, block_size * 1.45), ylim=(-len(levels) + 0.6, 0.5))
    count = f"{len(levels) - 1} level{'s' * (len(levels) > 2)}"
    title = f"{block_size} characters in groups of {n}: {count} to one position"
    if node:
        span = block_size // levels[node[0]]
        title += f"\norange: box {node[1] + 1} of level {node[0]} sees character"
        title += (f"s {node[1] * span + 1} to {(node[1] + 1) * span}" if span > 1
                  else f" {node[1] + 1}")
    ax.set_title(title)
    ax.axis("off")
    return _finished(ax.figure)


def tree_panel(vocab_size, n_embd, n_hidden):
    """Choose a context and a group size, then walk through the boxes: what each of them sees.

    Only pairs that end in one position are offered.
    """
    pairs = {f"{n**k} characters in groups of {n}": (n**k, n)
             for n, k in ((2, 1), (2, 2), (2, 3), (2, 4), (2, 5), (3, 2), (3, 3), (4, 2), (8, 1))}

    def boxes(tree):
        return [(f"level {level}, box {i + 1}", (level, i))
                for level, count in enumerate(helpers.tree_levels(*tree)) for i in range(count)]

    def draw(tree, node):
        model = helpers.make_tree(vocab_size, tree[0], n_embd, n_hidden, tree[1])
        count = sum(p.nelement() for p in model.parameters())
        return (draw_tree(*tree, n_embd, n_hidden, node=node),
                f"receptive field {tree[0]} characters, {count:,} parameters")

    tree = _choice("tree", pairs, (8, 2))
    node = ipywidgets.SelectionSlider(options=boxes((8, 2)), value=(2, 0), description="box")
    # Registered before the panel's own, which so never meets the boxes of another tree.
    tree.observe(lambda change: node.set_trait("options", boxes(change.new)), "value")
    return panel(draw, tree=tree, node=node)


# ------------------------------------------------------------------------ 04: how means stray


def draw_strays(sizes, values, trials=2000):
    """Histograms of the mean of N random ones of `values`, for every N in `sizes`."""
    rng, values = np.random.default_rng(0), np.asarray(values, float)
    values = values[np.isfinite(values)]
    _, ax = plt.subplots()
    if len(values) == 0:
        ax.set_title("No finite activation: the training diverged; lower learning_rate")
        return _finished(ax.figure)
    spreads = []
    for n, color in zip(sizes, helpers.COLORS, strict=False):
        means = rng.choice(values, (trials, n)).mean(axis=1)
        spreads.append(means.std())
        ax.hist(means, 60, density=True, alpha=0.55, color=color, label=f"mean of {n}")
    ax.set(xlabel="estimated mean of one channel", ylabel="density")
    ax.set_title("Spread of the estimate: " + ", ".join(
        f"{s:.3f} from {n}" for n, s in zip(sizes, spreads, strict=True)))
    ax.legend()
    return _finished(ax.figure)


def strays_panel(values):
    """Choose how many examples the estimate has, against four times as many."""
    return panel(lambda n: draw_strays([n, 4 * n], values),
                 n=_choice("batch", [2, 4, 8, 16, 32, 64, 128, 256, 512], 32))


def draw_positions(hpreact, batch_size, statistic="mean", channel=0, batches=40):
    """What the bug and the fix use in many random batches: a dot a batch.

    `hpreact` is (examples, positions, channels), before batch normalisation. The bug has a
    `statistic` ("mean" or "standard deviation") for each position, the fix one for all.
    """
    if batch_size < 2:
        raise ValueError(f"a batch of {batch_size} has no spread; use 2 or more")
    drawn = np.random.default_rng(0).integers(0, len(hpreact), (batches, batch_size))
    values = hpreact[drawn][..., channel]                       # (batches, batch_size, positions)
    measure = np.mean if statistic == "mean" else np.std
    bug, fix = measure(values, axis=1), measure(values, axis=(1, 2))
    _, ax = plt.subplots()
    jitter = np.linspace(-0.15, 0.15, batches)
    for t in range(bug.shape[1]):
        ax.plot(t + 1 + jitter, bug[:, t], "o", ms=4, alpha=0.6, color=BLUE,
                label="bug: one a position" if t == 0 else None)
    ax.plot(bug.shape[1] + 1 + jitter, fix, "s", ms=4, alpha=0.6, color=helpers.COLORS[1],
            label="fix: one for all")
    ticks = range(1, bug.shape[1] + 2)
    ax.set_xticks(ticks, [*map(str, ticks[:-1]), "all"])
    ax.set(xlabel="position", ylabel=f"{statistic} of channel {channel} (a dot a batch)")
    ax.set_title(f"Batches of {batch_size}: the fix's {statistic} strays by {fix.std():.3f}, "
                 f"the bug's by {bug.std(0).min():.3f} to {bug.std(0).max():.3f}", size=11)
    ax.legend()
    return _finished(ax.figure)


def positions_panel(hpreact):
    """Choose a batch size, a statistic and a channel: what bug and fix use."""
    return panel(
        lambda batch_size, statistic, channel: draw_positions(
            hpreact, batch_size, statistic, channel),
        batch_size=_choice("batch_size", [2, 4, 8, 16, 32, 64, 128, 256, 512], 32),
        statistic=_choice("statistic", ["mean", "standard deviation"], "mean"),
        channel=_slider("channel", 0, 0, hpreact.shape[2] - 1))


# ------------------------------------------------------------------ 00 and 05: names, activations


def draw_names(model, block_size, itos, temperature, prefix, seed):
    """Ten names that the model draws, one a line."""
    return "\n".join(helpers.sample(model, block_size, itos, 10, temperature=temperature,
                                    prefix=prefix, seed=seed))


def names_panel(model, block_size, itos):
    """Choose a temperature, first letters and a seed: ten names."""
    return panel(lambda **choices: draw_names(model, block_size, itos, **choices),
                 temperature=_slider("temperature", 1.0, 0.1, 2.0, 0.1),
                 prefix=ipywidgets.Text("", description="first letters"),
                 seed=_slider("seed", 1, 0, 50))


def draw_activations(model, window, itos):
    """The output of every Tanh of the tree for one window (block_size,): a row a position."""
    with helpers.mode(model, False), torch.no_grad():
        model(window[None])
    letters = "".join(itos[i] for i in window.tolist())
    levels = [m.out[0].reshape(-1, m.out.shape[-1]).numpy() for m in model.layers
              if isinstance(m, helpers.Tanh)]
    height = 0.9 + 0.33 * sum(len(act) + 1.6 for act in levels)
    fig, axes = plt.subplots(len(levels), figsize=(9, height), squeeze=False,
                             height_ratios=[len(act) + 0.3 for act in levels])
    for level, (ax, act) in enumerate(zip(axes[:, 0], levels, strict=True), start=1):
        picture = ax.imshow(act, aspect="auto", cmap="PuOr", vmin=-1, vmax=1, interpolation="none")
        span = len(letters) // len(act)
        seen = [letters[i * span : (i + 1) * span] for i in range(len(act))]
        ax.set_yticks(range(len(act)), seen, family="monospace")
        ax.set_title(f"level {level}", size=10)
        ax.grid(False)
    axes[-1, 0].set_xlabel("channel")
    fig.colorbar(picture, ax=axes, label="tanh output")
    return _finished(fig)


def activations_panel(model, block_size, stoi, itos, text):
    """Type the letters so far: the activations of each level for that window."""

    def draw(text):
        if unknown := [ch for ch in text if ch not in stoi]:
            return f"{unknown[0]!r} is not a letter of the word list; take it out."
        ids = [0] * block_size + [stoi[ch] for ch in text]
        return draw_activations(model, torch.tensor(ids[-block_size:]), itos)

    return panel(draw, text=ipywidgets.Text(text, description="letters so far"))


# ------------------------------------------------------------------------ 06: the optimiser race


def draw_race(runs, names, scale, batch_size):
    """Rolling means of the losses of the optimisers `names`, the mean of the last 50 in the legend.

    `runs` is {(name, times the learning rate, batch size): losses}. `scale` is one of its
    factors, or "best of each": for each optimiser the factor with the lowest end.
    """
    if not names:
        raise ValueError("choose at least one optimiser")
    _, ax = plt.subplots()
    ends, lowest, first = {}, np.inf, 0.0
    order = list(dict.fromkeys(key[0] for key in runs))
    for name in names:
        scales = [s for n, s, size in runs if (n, size) == (name, batch_size)]
        if scale == "best of each":
            best = min(scales, key=lambda s: _end(runs[name, s, batch_size]))
        else:
            best = scale
        losses = runs[name, best, batch_size]
        window = max(1, len(losses) // 15)
        smooth = helpers.rolling_mean(losses, window)
        ends[name] = _end(losses)
        lowest, first = min(lowest, smooth.min()), max(first, smooth[0])
        under = name == "Adam"                # AdamW is the same line, drawn on it
        ax.plot(np.arange(window, len(losses) + 1), smooth, color=helpers.COLORS[order.index(name)],
                ls=["-", "--"][order.index(name) % 2], marker="o" if len(smooth) == 1 else "",
                lw=5 if under else 2, alpha=0.4 if under else 1,
                label=f"{name}, rate x {best}: {ends[name]:.3f}")
    winner = min(ends, key=ends.get)
    behind = max(ends.values()) - ends[winner]
    ax.set(xlabel="step", ylabel="training loss (nats per character)")
    if np.isfinite(lowest) and np.isfinite(first):
        ax.set_ylim(lowest - 0.05, first + 0.1)      # a run that flies off leaves the picture
    ax.set_title(f"Batches of {batch_size}: {winner} ends lowest"
                 + f", the last is {behind:.3f} nats behind" * bool(0 < behind < np.inf))
    ax.legend()
    return _finished(ax.figure)


def _end(losses):
    """The mean of the last 50 losses; infinite if it is no number."""
    end = float(np.mean(losses[-50:]))
    return np.inf if np.isnan(end) else end


def race_panel(runs):
    """Choose optimisers, the learning rate and the batch size: the race of those runs."""
    names, scales, sizes = (list(dict.fromkeys(key[i] for key in runs)) for i in range(3))
    return panel(
        lambda names, scale, batch_size: draw_race(runs, names, scale, batch_size),
        names=ipywidgets.SelectMultiple(options=names, value=names, rows=len(names),
                                        description="optimisers"),
        scale=_choice("learning rate x", ["best of each", *scales], "best of each"),
        batch_size=_choice("batch", sizes, sizes[-1]))


# ----------------------------------------------------------------------------- 07: dilation


def cone(kernel_size, dilations, x):
    """What the output at position x is made of: a set of positions for the inputs and each level.

    Raises ValueError for a kernel below 2, no levels, or a dilation below 1.
    """
    if kernel_size < 2:
        raise ValueError(f"a kernel of {kernel_size} joins no neighbours; use 2 or more")
    if not dilations or min(dilations) < 1:
        raise ValueError(f"dilations {tuple(dilations)}: expected one level or more, each of 1 "
                         "or more")
    levels = [{x}]
    for d in reversed(dilations):
        levels.append({p - j * d for p in levels[-1] for j in range(kernel_size)})
    return levels[::-1]


def draw_dilation(kernel_size, dilations, name, output, other=None):
    """A causal stack over '.' and the letters of `name`: a dot a node, inputs at the top.

    Blue: what `output` (0 to the number of letters) is made of. Orange rings: the same for the
    output `other`. The title counts characters and nodes. Raises ValueError as `cone` does.
    """
    field = 1 + (kernel_size - 1) * sum(dilations)
    letters = "." * field + name
    ours = cone(kernel_size, dilations, field - 1 + output)
    theirs = cone(kernel_size, dilations, field - 1 + other) if other is not None else None
    small = min(1, 24 / len(letters))
    fig, ax = plt.subplots(figsize=(9, 0.95 * len(dilations) + 1.6))
    first, lines = 0, {}                   # lines and nodes together: one by one they take long
    for level in range(len(dilations) + 1):
        of_ours, of_theirs = ours[level], theirs[level] if theirs is not None else set()
        if level:
            d = dilations[level - 1]
            first += (kernel_size - 1) * d
            for x in range(first, len(letters)):
                lines.setdefault((x in of_ours, x in of_theirs), []).extend(
                    [(x, -level), (x - j * d, 1 - level)] for j in range(kernel_size))
            ax.text(len(letters) - 0.3, -level, f"dilation {d}", va="center")
        nodes = range(first, len(letters))
        ax.scatter(nodes, [-level] * len(nodes), s=260 * small**2, zorder=4, lw=2.5 * small**0.5,
                   color=["#8cc5e8" if x in of_ours else "#ececec" for x in nodes],
                   edgecolor=[helpers.COLORS[1] if x in of_theirs else "none" for x in nodes])
    for (blue, orange), segments in lines.items():
        ax.add_collection(LineCollection(
            segments, zorder=1 + blue + orange, lw=1.6 if blue or orange else 0.8,
            color=BLUE if blue else helpers.COLORS[1] if orange else "#e4e4e4",
            capstyle="projecting"))
    for x, ch in enumerate(letters):
        ax.text(x, 0, ch, ha="center", va="center", family="monospace", size=12 * small, zorder=5)
    for i in range(len(name) + 1):
        ax.text(field - 1 + i, -len(dilations), i, ha="center", va="center", size=9 * small,
                zorder=5)
    ax.text(len(letters) - 0.3, 0, "input", va="center")
    seen = len(ours[0])
    title = (f"Kernel {kernel_size}: output {output} sees "
             + (f"{seen} of " if seen < field else "")
             + f"1 + {kernel_size - 1}·({' + '.join(map(str, dilations))}) = {field} characters")
    title += (f"\n{sum(map(len, ours[1:]))} nodes for it alone; "
              f"{len(dilations)} for each further output of a shared network")
    if theirs is not None:
        shared = sum(len(a & b) for a, b in zip(ours[1:], theirs[1:], strict=True))
        title += f"\noutputs {other} (orange) and {output} (blue) have {shared} nodes in common"
    ax.set_title(title, size=11)
    ax.set(xlim=(-0.7, len(letters) + 0.13 * len(letters)), ylim=(-len(dilations) - 0.5, 0.5))
    ax.axis("off")
    return _finished(fig)


def dilation_panel(name):
    """Choose kernel, levels, growth of the dilations and two outputs: what they share."""
    last = len(name)
    return panel(
        lambda kernel_size, levels, growth, output, other: draw_dilation(
            kernel_size, [growth**i for i in range(levels)], name, output, other),
        kernel_size=_choice("kernel size", [2, 3], 2), levels=_slider("levels", 3, 1, 4),
        growth=_choice("each dilation is that before, times", [1, 2, 3], 2),
        output=_slider("output", last, 0, last),
        other=_slider("compare with output", max(0, last - 2), 0, last))


# ---------------------------------------------------------------------------- 08: the WaveNet


def _probabilities(model, ids):
    """What the model expects after each of the characters: (L,) int64 -> (L, vocab_size)."""
    with helpers.mode(model, False), torch.no_grad():
        return torch.softmax(model(ids[None])[0], dim=-1)


def draw_surprise(model, stoi, name):
    """The surprise of each character of `name`, -ln of its probability, as a coloured bar."""
    ids = torch.tensor([0, *(stoi[ch] for ch in name), 0])
    p = _probabilities(model, ids[:-1])
    surprise = -p[range(len(name) + 1), ids[1:]].log().numpy()
    fig, ax = plt.subplots(figsize=(max(5, 0.7 * len(name) + 2), 2.8))
    shade = plt.cm.cividis_r(surprise / max(surprise.max(), 3.3))
    ax.bar(range(len(surprise)), surprise, color=shade, edgecolor="gray")
    ax.set_xticks(range(len(surprise)), [*name, "."], family="monospace", size=13)
    ax.axhline(np.log(len(stoi)), color="gray", ls=":")
    ax.text(len(surprise) - 0.4, np.log(len(stoi)), "blind guess", va="bottom", color="dimgray")
    letters = [*name, "the end"]
    ax.set(ylabel="surprise (nats)", xlim=(-0.6, len(surprise) + 0.9))
    ax.set_title(f"Most surprising: {letters[surprise.argmax()]}, least: "
                 f"{letters[surprise.argmin()]}; mean {surprise.mean():.2f} nats", size=11)
    return _finished(fig)


def surprise_panel(model, stoi, name):
    """Type a name: what surprised the model in it."""

    def draw(name):
        if unknown := [ch for ch in name if ch not in stoi or ch == "."]:
            return f"{unknown[0]!r} is not a letter of the word list; take it out."
        return draw_surprise(model, stoi, name)

    return panel(draw, name=ipywidgets.Text(name, description="name"))


def draw_generator(model, itos, prefix, temperature, seed):
    """The probabilities of the character after `prefix` as bars, and ten names that begin so."""
    names = helpers.generate(model, itos, 10, temperature=temperature, prefix=prefix, seed=seed)
    stoi = {ch: i for i, ch in itos.items()}
    ids = torch.tensor([0, *(stoi[ch] for ch in prefix)])
    with helpers.mode(model, False), torch.no_grad():
        p = torch.softmax(model(ids[None])[0, -1] / temperature, dim=-1).numpy()
    fig, (left, right) = plt.subplots(1, 2, figsize=(11, 3.4), width_ratios=[3, 1.3])
    top, best = np.sort(np.argsort(-p)[:30]), p.argmax()
    left.bar(range(len(top)), p[top], color=BLUE)
    left.set_xticks(range(len(top)), ["end" if i == 0 else itos[i] for i in top],
                    family="monospace")
    left.set(ylabel="probability", xlabel="next character")
    left.set_title(f"After {prefix!r} comes most often {'the end' if best == 0 else itos[best]!r}: "
                   f"probability {p[best]:.2f}", size=11)
    right.axis("off")
    right.set_title(f"Ten names, temperature {temperature:.1f}", size=11)
    right.text(0, 0.95, "\n".join(names), va="top", family="monospace",
               transform=right.transAxes)
    return _finished(fig)


def generator_panel(model, itos, prefix):
    """Type the first letters, choose a temperature: the next character and ten names."""
    return panel(lambda **choices: draw_generator(model, itos, **choices),
                 prefix=ipywidgets.Text(prefix, description="first letters"),
                 temperature=_slider("temperature", 1.0, 0.1, 2.0, 0.1),
                 seed=_slider("seed", 1, 0, 50))


# --------------------------------------------------------------------------- 09, experiments


def draw_evidence(tables, part, value, contains=""):
    """The rows of one part of the evidence: a dot a seed, a line the mean of each group.

    `tables` has a table for each part, its groups in the column "group"; only those groups are
    drawn whose names contain the text. Raises ValueError if none does.
    """
    rows = _chosen(tables, part, contains)
    groups = rows.groupby("group")[value].mean().sort_values().index
    fig, ax = plt.subplots(figsize=(9, 1.2 + 0.36 * len(groups)))
    for y, group in enumerate(groups):
        values = rows[value][rows.group == group]
        ax.plot(values, [y] * len(values), "o", color=helpers.COLORS[0], alpha=0.6)
        ax.plot([values.mean()] * 2, [y - 0.3, y + 0.3], color=helpers.COLORS[1], lw=3)
    ax.set_yticks(range(len(groups)), [str(group) for group in groups])
    ax.invert_yaxis()
    unit = "seconds of the processor" if value == "cpu" else "nats per character"
    ax.set(xlabel=f"{value} ({unit})", title=f"{part}: {value}, a dot a seed, the line their mean")
    return _finished(fig)


def evidence_table(tables, part, value, contains=""):
    """The same rows as numbers: seeds, mean and standard deviation of each group, lowest first."""
    groups = _chosen(tables, part, contains).groupby("group")[value]
    table = pd.DataFrame({"seeds": groups.size(), f"mean {value}": groups.mean(),
                          "sd": groups.std()})
    return table.sort_values(f"mean {value}").round(4).astype(object).fillna("")


def _chosen(tables, part, contains):
    rows = tables[part]
    chosen = rows[rows.group.astype(str).str.contains(contains, case=False, regex=False)]
    if chosen.empty:
        raise ValueError(f"no group of {part!r} contains {contains!r}; it has "
                         f"{', '.join(map(str, rows.group.unique()))}")
    return chosen


def evidence_panel(tables):
    """Choose a part of the evidence and a figure, and filter its groups: picture and table."""
    return panel(lambda **choices: (draw_evidence(tables, **choices),
                                    evidence_table(tables, **choices)),
                 part=_choice("part", list(tables), next(iter(tables))),
                 value=_choice("figure", ["val", "train", "unseen", "gap", "cpu"], "val"),
                 contains=ipywidgets.Text("", description="groups that contain"))
