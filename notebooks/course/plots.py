"""Plots of data, in one style: each returns a figure, or a table, that a notebook shows."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from IPython.core.interactiveshell import InteractiveShell
from matplotlib.text import Text
from matplotlib_inline.backend_inline import set_matplotlib_formats

import helpers
from course import wavenet

INK = "#797979"        # as readable on white as on the dark theme's #111111: a contrast of 4.3
COLORS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", INK]


def use_style():
    """The course's one plot style, for a light page and a dark one.

    Okabe and Ito's colours, which colour-blind readers can tell; gray ink; no background. All else
    is matplotlib's default, whatever a reader's own settings say.
    """
    plt.rcdefaults()
    for name in ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color",
                 "grid.color"):
        plt.rcParams[name] = INK
    plt.rcParams.update({
        "figure.figsize": (9, 3.6), "figure.dpi": 100, "figure.constrained_layout.use": True,
        "axes.prop_cycle": plt.cycler(color=COLORS), "axes.grid": True, "axes.titleweight": "bold",
        "axes.titlelocation": "left", "axes.spines.top": False, "axes.spines.right": False,
        "axes.axisbelow": True, "grid.alpha": 0.3, "font.size": 11, "legend.frameon": False,
        "image.cmap": "viridis", "axes.facecolor": "none", "savefig.facecolor": "none",
    })
    plt.style.library["ggplot"] = {}                    # Optuna's plots would change to it
    if InteractiveShell.initialized():
        InteractiveShell.instance().enable_matplotlib("inline")  # whatever MPLBACKEND says
        # With a figure.facecolor of "none" JupyterLab would put a white card behind the picture.
        set_matplotlib_formats("png", facecolor="none")


def finished(fig, math=False):
    """`fig`, closed: the notebook shows it once, as the value of its cell.

    Unless its text is `math`, a "$" is a "$": it may be in a word. The powers of ten at a
    logarithmic axis are always mathematics.
    """
    powers = {label for ax in fig.axes for axis in (ax.xaxis, ax.yaxis)
              if axis.get_scale() == "log" for label in axis.get_ticklabels(which="both")}
    for text in set(fig.findobj(Text)) - powers:
        text.set_parse_math(math)
    plt.close(fig)
    return fig


def draw_losses(lossi, window, raw=False):
    """The rolling mean of the losses, over the raw ones if asked; its noise in the title."""
    ax = helpers.plot_losses({f"mean of {window}": lossi}, window)
    if raw:
        every = max(1, len(lossi) // 20_000)
        ax.plot(np.arange(1, len(lossi) + 1)[::every], lossi[::every], lw=0.3, color=INK, alpha=0.5,
                zorder=0, label="raw")
        for line in ax.legend().get_lines():         # the raw one is too thin to be seen there
            line.set_linewidth(2)
    smooth = helpers.rolling_mean(lossi, window)[-max(1, len(lossi) // 10) :]
    ax.set_title(f"Means of {window}: over the last tenth "
                 f"the curve spans {np.ptp(smooth):.3f} nats")
    return finished(ax.figure)


def draw_spreads(sizes, values):
    """Histograms of 2,000 means of N random ones of `values`, for every N in `sizes`."""
    rng, values = np.random.default_rng(0), np.asarray(values, float)
    values = values[np.isfinite(values)]
    _, ax = plt.subplots()
    if len(values) == 0:
        ax.set_title("No finite activation: the training diverged; lower learning_rate")
        return finished(ax.figure)
    spreads = []
    for n, color in zip(sizes, COLORS, strict=False):
        means = rng.choice(values, (2000, n)).mean(axis=1)
        spreads.append(means.std())
        ax.hist(means, 60, density=True, alpha=0.55, color=color, label=f"mean of {n}")
    ax.set(xlabel="estimated mean of one channel", ylabel="density")
    ax.set_title("Standard deviation of the mean: " + ", ".join(
        f"{s:.3f} for {n} numbers" for n, s in zip(sizes, spreads, strict=True)), size=11)
    ax.legend()
    return finished(ax.figure)


def draw_positions(hpreact, batch_size, statistic="mean", channel=0):
    """What the bug and the fix use in 40 random batches: one dot for each batch.

    `hpreact` is (examples, positions, channels), before batch normalisation. The bug has a
    `statistic` ("mean" or "standard deviation") for each position, the fix one for all.
    """
    if batch_size < 2:
        raise ValueError(f"a batch of {batch_size} has no spread; use 2 or more")
    drawn = np.random.default_rng(0).integers(0, len(hpreact), (40, batch_size))
    values = hpreact[drawn][..., channel]                       # (40, batch_size, positions)
    measure = np.mean if statistic == "mean" else np.std
    bug, fix = measure(values, axis=1), measure(values, axis=(1, 2))
    _, ax = plt.subplots()
    jitter = np.linspace(-0.15, 0.15, 40)
    for t in range(bug.shape[1]):
        ax.plot(t + jitter, bug[:, t], "o", ms=4, alpha=0.8, color=COLORS[0],
                label="bug: one for each position" if t == 0 else None)
    ax.plot(bug.shape[1] + jitter, fix, "s", ms=4, alpha=0.8, color=COLORS[1],
            label="fix: one for all")
    ticks = range(bug.shape[1] + 1)
    ax.set_xticks(ticks, [*map(str, ticks[:-1]), "all"])
    ax.set(xlabel="position", ylabel=f"{statistic} of channel {channel}, batches of {batch_size}")
    ax.set_title(f"The bug has {bug.shape[1]} {statistic}s for one channel, up to "
                 f"{np.ptp(bug.mean(0)):.2f} apart; the fix has one", size=11)
    ax.legend()
    return finished(ax.figure)


def draw_names(model, block_size, itos, temperature, prefix, seed):
    """Ten names that the model draws, one a line."""
    return "\n".join(helpers.sample(model, block_size, itos, 10, temperature=temperature,
                                    prefix=prefix, seed=seed))


def draw_activations(model, window, itos):
    """The output of every Tanh of the tree for one window (block_size,): a row a position."""
    with helpers.mode(model, False), torch.no_grad():
        model(window[None])
    letters = "".join(itos[i] for i in window.tolist())
    levels = [m.out[0].reshape(-1, m.out.shape[-1]).numpy() for m in model.layers
              if isinstance(m, helpers.Tanh)]
    height = min(40, 0.9 + 0.33 * sum(len(act) + 1.6 for act in levels))
    fig, axes = plt.subplots(len(levels), figsize=(9, height), squeeze=False,
                             height_ratios=[len(act) + 0.3 for act in levels])
    for level, (ax, act) in enumerate(zip(axes[:, 0], levels, strict=True), start=1):
        picture = ax.imshow(act, aspect="auto", cmap="coolwarm", vmin=-1, vmax=1,
                            interpolation="none")
        span = len(letters) // len(act)
        seen = [letters[i * span : (i + 1) * span] for i in range(len(act))]
        ax.set_yticks(range(len(act)), seen, family="monospace")
        ax.set_title(f"level {level}", size=10)
        ax.grid(False)
    axes[-1, 0].set_xlabel("channel")
    fig.colorbar(picture, ax=axes, label="tanh output")
    return finished(fig)


def draw_curves(curves, decay_at):
    """Losses {label: (steps, losses)}, the last 0.4 nats of them, labelled at their ends.

    Each point is the mean of ten. A dotted line marks the step where the learning rate falls.
    """
    fig, ax = plt.subplots(figsize=(9, 4))
    curves = {label: (steps, pd.Series(losses).rolling(10, min_periods=1).mean().to_numpy())
              for label, (steps, losses) in curves.items()}
    ends = {label: losses[-1] for label, (_, losses) in curves.items() if np.isfinite(losses[-1])}
    for place, label in enumerate(sorted(ends, key=ends.get)):
        steps, losses = curves[label]
        color = COLORS[list(curves).index(label)]
        ax.plot(steps, losses, color=color, marker="o" if len(steps) == 1 else "")
        ax.annotate(f"{label}: {ends[label]:.3f}", (1.01, 0.06 + 0.09 * place), color=color,
                    xycoords="axes fraction", va="center")
    if ends:
        ax.set_ylim(min(ends.values()) - 0.03, max(ends.values()) + 0.4)
        ax.set_title(f"Training loss: the lowest at the end is {min(ends, key=ends.get)!r}")
    ax.axvline(decay_at, ls=":", color=plt.rcParams["text.color"])
    ax.set(xlabel="step", ylabel="loss (nats per character)")
    return finished(fig)


def draw_history(history):
    """Train and val, a row {"step", "train", "val"} for each look, as labelled lines."""
    table = pd.DataFrame(history, columns=["step", "train", "val"]).set_index("step")
    fig, ax = plt.subplots()
    ax.set(xlabel="step", ylabel="loss (nats per character)")
    if table.empty:
        ax.set_title("The training ended before the first look")
        return finished(fig)
    end, best = table.iloc[-1], table.val.min()
    ax.fill_between(table.index, table.train, table.val, alpha=0.12, color=COLORS[1])
    for name, color in zip(table, COLORS, strict=False):
        ax.plot(table[name], "o-", ms=3, color=color)
        ax.annotate(f" {name} {end[name]:.3f}", (table.index[-1], end[name]), color=color,
                    va="center", annotation_clip=False)
    ax.set_title(f"At the end val is {end.val - end.train:.2f} above train"
                 + f", and {end.val - best:.2f} above its lowest, at step "
                   f"{table.index[table.val == best].max():,.0f}" * bool(end.val - best > 0.01))
    return finished(fig)


def draw_sizes(table):
    """Val against parameters: each row's `val` as a labelled dot, and its `seeds` as a bar.

    `seeds` are the vals of other seeds. Models of about the same size are drawn side by side.
    """
    fig, ax = plt.subplots(figsize=(9, 4))
    near = {stage: int(((table.parameters[:i] / row.parameters).between(0.9, 1.1)).sum())
            for i, (stage, row) in enumerate(table.iterrows())}
    for color, (stage, row) in zip(COLORS, table.iterrows(), strict=False):
        x = row.parameters * 1.12 ** near[stage]
        if row.seeds:
            ax.plot([x] * 2, [min(row.seeds), max(row.seeds)], lw=14, alpha=0.35, color=color,
                    solid_capstyle="butt")
        ax.plot(x, row.val, "o", ms=4, color=color)
        place, side = [((-12, 0), "right"), ((0, 18), "center"), ((12, 0), "left")][near[stage] % 3]
        ax.annotate(f"{stage}\n{row.val:.3f}", (x, row.val), place, ha=side, va="center",
                    textcoords="offset points", color=color)
    last, others = table.iloc[-1], table.val[:-1].min()
    spans = [max(seeds) - min(seeds) for seeds in table.seeds if seeds]
    ax.set(xscale="log", xlabel="parameters (log scale)", ylabel="val (nats per character)")
    ax.set_xticks(ticks := [table.parameters[stage] for stage in table.index if not near[stage]],
                  [f"{tick:,}" for tick in ticks])
    ax.minorticks_off()
    ax.margins(0.25, 0.25)
    change, moved = last.val - others, max(spans, default=0)
    ax.set_title(
        f"Val of {last.name!r} is {abs(change):.3f} {'below' if change < 0 else 'above'} the best "
        "of the smaller models"
        + f";\nthe seeds of a model differ by up to {moved:.3f}" * bool(spans)
        if len(table) > 1 else f"Val of one model: {last.val:.3f}", size=11)
    return finished(fig)


def draw_valley(paths, steepness):
    """The path of each optimiser over loss = (x² + steepness · y²) / 2, one panel each.

    `paths` is {name: (steps + 1, 2) positions}.
    """
    fig, axes = plt.subplots(1, len(paths), figsize=(3.2 * len(paths) + 1, 3.2), squeeze=False,
                             sharey=True)
    paths = {name: np.asarray(path) for name, path in paths.items()}
    low, high = (extreme([extreme(path, axis=0) for path in paths.values()], axis=0)
                 for extreme in (np.min, np.max))
    margin = 0.1 * (high - low)
    x, y = np.meshgrid(*np.linspace(low - margin, high + margin, 120).T)
    left = {}
    for ax, color, (name, path) in zip(axes[0], COLORS, paths.items(), strict=False):
        loss = (x**2 + steepness * y**2) / 2
        ax.contour(x, y, loss, loss.max() * np.linspace(0.02, 1, 9) ** 2, colors=INK,
                   linewidths=0.6, alpha=0.6)
        ax.plot(*path.T, "o-", ms=3, lw=1, color=color)
        left[name] = (path[-1, 0] ** 2 + steepness * path[-1, 1] ** 2) / 2
        ax.set_title(f"{name}: loss {left[name]:.2g}", size=11, color=color)
        ax.set(xlabel="x", ylabel="y" if ax is axes[0, 0] else "")
        ax.grid(False)
    fig.suptitle(f"After {len(path) - 1} steps {min(left, key=left.get)} is the lowest",
                 x=0.01, ha="left", weight="bold")
    return finished(fig)


def draw_rates(vals):
    """Val against the learning rate, divided by the best one; a line for each optimiser.

    `vals` is {name: a table with a row for each learning rate and a column for each seed}. The
    line joins the means, the band spans the seeds.
    """
    fig, ax = plt.subplots(figsize=(9, 4))
    cost, worst = {}, 0.0
    for name, color, marker in zip(vals, COLORS, "osD^v", strict=False):
        table = vals[name].replace([np.inf, -np.inf], np.nan)
        means = table.mean(axis=1)
        if not means.notna().any():
            continue
        x = table.index / means.idxmin()
        ax.plot(x, means, marker + "-", color=color, label=f"{name}, best {means.idxmin():g}")
        ax.fill_between(x, table.min(axis=1), table.max(axis=1), color=color, alpha=0.2, lw=0)
        cost[name] = means.max() - means.min()
        worst = max(worst, means.max())
    ax.set(xscale="log", xlabel="learning rate / best learning rate",
           ylabel="val (nats per character)")
    ticks = [0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100]
    ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.minorticks_off()
    if cost:
        low, high = ax.dataLim.intervalx
        ax.set_xlim(low / 1.3, high * 1.3)
        most, least = max(cost, key=cost.get), min(cost, key=cost.get)
        ax.set_title(f"A wrong learning rate costs {most} up to {cost[most]:.2f} nats"
                     + f", {least} up to {cost[least]:.2f}" * (len(cost) > 1))
        ax.legend()
    return finished(fig)


def draw_race(runs, names, factor):
    """Rolling means of the losses of the optimisers `names`, the mean of the last 50 in the legend.

    `runs` is {(name, times the learning rate to begin with): losses}. `factor` is one of these,
    or "best of each": for each optimiser the one with the lowest end.
    """
    if not names:
        raise ValueError("choose at least one optimiser")
    _, ax = plt.subplots()
    ends, lowest, first = {}, np.inf, 0.0
    order = list(dict.fromkeys(name for name, _ in runs))
    for name in names:
        factors = [f for n, f in runs if n == name]
        best = (min(factors, key=lambda f: _end(runs[name, f])) if factor == "best of each"
                else factor)
        losses = runs[name, best]
        window = max(1, len(losses) // 15)
        smooth = helpers.rolling_mean(losses, window)
        ends[name] = _end(losses)
        lowest, first = min(lowest, smooth.min()), max(first, smooth[0])
        ax.plot(np.arange(window, len(losses) + 1), smooth, color=COLORS[order.index(name)],
                marker="o" if len(smooth) == 1 else "",
                label=f"{name}, learning rate x {best:g}: {ends[name]:.3f}")
    winner = min(ends, key=ends.get)
    behind = max(ends.values()) - ends[winner]
    ax.set(xlabel="step", ylabel="training loss (nats per character)")
    if np.isfinite(lowest) and np.isfinite(first):
        ax.set_ylim(lowest - 0.05, first + 0.1)      # a run that diverges leaves the plot
    ax.set_title(f"The curves end within {behind:.3f} nats of each other" if 0 < behind < np.inf
                 else f"{winner} ends lowest")
    ax.legend(title=f"line: mean of {window} steps; number: of the last 50")
    return finished(ax.figure)


def _end(losses):
    """The mean of the last 50 losses; infinite if it is NaN."""
    end = float(np.mean(losses[-50:]))
    return np.inf if np.isnan(end) else end


def _probabilities(model, ids):
    """What the model expects after each of the characters: (L,) int64 -> (L, vocab_size)."""
    with helpers.mode(model, False), torch.no_grad():
        return torch.softmax(model(ids[None])[0], dim=-1)


def draw_surprise(model, stoi, name):
    """The surprise of the first 30 characters of `name`, -ln of its probability, as bars."""
    most = 30
    ids = torch.tensor([0, *(stoi[ch] for ch in name), 0])
    p = _probabilities(model, ids[:-1])
    surprise = -p[range(len(name) + 1), ids[1:]].log().numpy()[:most]
    fig, ax = plt.subplots(figsize=(max(5, 0.7 * len(surprise) + 1.3), 2.8))
    shade = plt.cm.cividis_r(surprise / max(surprise.max(), 3.3))
    ax.bar(range(len(surprise)), surprise, color=shade, edgecolor=INK)
    ax.set_xticks(range(len(surprise)), [*name, "."][:most], family="monospace", size=13)
    ax.axhline(np.log(len(stoi)), color=INK, ls=":")
    ax.text(len(surprise) - 0.4, np.log(len(stoi)), "blind guess", va="bottom")
    letters = [*name, "the end"]
    ax.set(ylabel="surprise (nats)", xlim=(-0.6, len(surprise) + 0.9))
    ax.set_title(f"Most surprising: {letters[surprise.argmax()]}, least: "
                 f"{letters[surprise.argmin()]}; mean {surprise.mean():.2f} nats"
                 + f" over the first {most}" * (len(name) >= most), size=11)
    return finished(fig)


def draw_generator(model, itos, prefix, temperature, seed):
    """The probabilities of the character after `prefix` as bars, and ten names that begin so."""
    names = wavenet.generate(model, itos, 10, temperature=temperature, prefix=prefix, seed=seed)
    stoi = {ch: i for i, ch in itos.items()}
    ids = torch.tensor([0, *(stoi[ch] for ch in prefix)])
    with helpers.mode(model, False), torch.no_grad():
        p = torch.softmax(model(ids[None])[0, -1] / temperature, dim=-1).numpy()
    fig, (left, right) = plt.subplots(1, 2, figsize=(11, 3.4), width_ratios=[3, 1.3])
    top, best = np.sort(np.argsort(-p)[:30]), p.argmax()
    left.bar(range(len(top)), p[top], color=COLORS[0])
    left.set_xticks(range(len(top)), ["end" if i == 0 else itos[i] for i in top],
                    family="monospace")
    left.set(ylabel="probability", xlabel="next character")
    likeliest = "the end" if best == 0 else repr(itos[best])
    left.set_title(f"After {prefix!r}, the likeliest is {likeliest}: {p[best]:.2f}", size=11)
    right.axis("off")
    right.set_title(f"Ten names, temperature {temperature:.1f}", size=11)
    right.text(0, 0.95, "\n".join(names), va="top", family="monospace",
               transform=right.transAxes)
    return finished(fig)


def draw_costs(costs):
    """How many times as fast as windows the convolution is: dots measured, dotted lines counted.

    `costs` has a row for each "data" and "window", with the columns "counted" and "measured".
    """
    fig, ax = plt.subplots(figsize=(9, 4))
    for color, (data, rows) in zip(COLORS, costs.groupby("data", sort=False), strict=False):
        ax.plot(rows.window, rows.counted, ":", color=color)
        ax.plot(rows.window, rows.measured, "o-", color=color)
        end = rows.iloc[-1]
        ax.annotate(f"{data}: {end.measured:.1f}", (end.window, end.measured),
                    (9, 0), textcoords="offset points", color=color, va="center")
    ax.axhline(1, color=INK, lw=1)
    ax.set(xscale="log", yscale="log", xlabel="window (characters)", ylabel="times as fast")
    ax.set_xticks(windows := sorted(set(costs.window)), [f"{w:,}" for w in windows])
    ax.set_yticks([1, 10, 100], ["1", "10", "100"])
    ax.minorticks_off()
    most, least = costs.loc[costs.measured.idxmax()], costs.loc[costs.measured.idxmin()]
    ax.set_title("Convolution: " + ",\n".join(
        f"{float(f'{row.measured:.2g}'):g} times as fast on {row.data}, "
        f"with a window of {row.window:,}"
        for row in (most, least)), size=11)
    return finished(fig)


def draw_padding(differences):
    """A bar for each output: how far its logits are from those of the tree."""
    fig, ax = plt.subplots(figsize=(9, 3))
    ax.bar(range(len(differences)), differences, color=COLORS[1])
    ax.set(xlabel="output", ylabel="largest difference of a logit")
    others = sum(not difference < 1e-4 for difference in differences)           # as is NaN
    ax.set_title(f"With zeros at the left, {others} of {len(differences)} outputs change")
    return finished(fig)
