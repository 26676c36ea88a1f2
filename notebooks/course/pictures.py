"""Drawings: the windows of a name, the tree, a batch as a cube, a stack of convolutions."""

import math

import matplotlib.pyplot as plt
from matplotlib.collections import LineCollection
from matplotlib.patches import Polygon, Rectangle, Wedge

import helpers
from course.plots import COLORS, INK, finished

TINTS = ["#bfe0f5", "#f7d0b5", "#c8e6c9"]              # light enough for black letters


def draw_windows(name, block_size):
    """The word once; below it the first 16 windows, each in its place, and what comes next."""
    text, count = "." * block_size + name + ".", len(name) + 1
    shown = min(count, 16)
    width = block_size + shown + 1
    fig, ax = plt.subplots(figsize=(min(24, max(3.2, 0.36 * width)), 0.42 * (shown + 1.1) + 0.5))
    size = min(12, 12 * 24 / width)
    for x, ch in enumerate(text[:width]):
        ax.text(x, 0.1, ch, ha="center", va="center", family="monospace", size=size)
    for y in range(shown):
        for x in range(y, y + block_size + 1):
            target = x == y + block_size
            _box(ax, x, y + 1, text[x], "#f7d0b5" if target else "#e8e8e8" if text[x] == "."
                 else "#bfe0f5", size)
        ax.add_patch(Rectangle((y - 0.5, y + 0.57), block_size, 0.86, fill=False, lw=1.5,
                               edgecolor=COLORS[0], zorder=5))
    ax.set(xlim=(-0.7, width - 0.3), ylim=(shown + 0.6, -0.5))
    ax.set_title(f"{name[:12]!r}: {count} examples" + f", the first {shown}" * (shown < count))
    ax.axis("off")
    return finished(fig)


def _box(ax, x, y, text, color, size=12):
    ax.text(x, y, text, ha="center", va="center", family="monospace", size=size, color="black",
            zorder=4)
    ax.add_patch(Rectangle((x - 0.44, y - 0.36), 0.88, 0.72, facecolor=color, edgecolor="none",
                           zorder=3))


def draw_mlp(window, vocab_size, n_embd, n_hidden):
    """The network of notebook 01 from left to right, for the characters of one window.

    Each column has what it is above and its shape below. Long columns are shortened.
    """
    T, hues = len(window), [COLORS[0], COLORS[1], COLORS[2], COLORS[3]]
    shown, cells = min(T, 4), min(n_embd, 10)
    fig, ax = plt.subplots(figsize=(9.6, 4.2))
    mid = [6 * (shown - 1 - 2 * t) / 2 / max(shown, 1) * 1.2 for t in range(shown)]
    row = 7.2 / (shown * cells)                              # the height of a number in the stack
    for t, y in enumerate(mid):
        _tile(ax, 0, y, 0.9, 0.9, hues[t])
        ax.text(0, y, window[T - shown + t], ha="center", va="center", family="monospace", size=14,
                color="white", zorder=4)
        for i in range(cells):
            _tile(ax, 2.2 + 0.27 * i, y, 0.22, 0.6, hues[t])
            _tile(ax, 7, 3.6 - (t * cells + i + 0.5) * row, 0.5, 0.8 * row, hues[t])
        _arrow(ax, (0.6, y), (1.95, y))
        _arrow(ax, (2.2 + 0.27 * cells, y), (6.6, 3.6 - (t + 0.5) * cells * row))
    neurons = [3.3 - 6.6 * i / 8 for i in range(9)]
    for y in neurons:
        ax.plot(10.5, y, "o", ms=12, color=COLORS[5], zorder=3)
        lines = [((7.3, 3.6 - (i + 0.5) * row), (10.3, y)) for i in range(0, shown * cells, 2)]
        lines += [((10.7, y), (13.6, 3.35 - 6.7 * j / 13)) for j in range(0, 14, 2)]
        ax.add_collection(LineCollection(lines, lw=0.4, color=INK, alpha=0.5))
    for j in range(14):
        _tile(ax, 13.9, 3.35 - 6.7 * j / 13, 0.5, 0.4, COLORS[4])
    count = vocab_size * (n_embd + n_hidden + 1) + (T * n_embd + 2) * n_hidden
    for x, what, size in ((0, f"{T} characters", f"(B, {T})"),
                          (3.3, f"{n_embd} numbers each", f"(B, {T}, {n_embd})"),
                          (7, f"{T * n_embd} numbers", f"(B, {T * n_embd})"),
                          (10.5, f"{n_hidden} neurons", f"(B, {n_hidden})"),
                          (13.9, f"{vocab_size} scores", f"(B, {vocab_size})")):
        ax.text(x, 4.5, what, ha="center", weight="bold")
        ax.text(x, -4.7, size, ha="center", family="monospace")
    for x, step in ((1.25, "look up\nin E"), (5.7, "side by\nside"),
                    (8.8, "@ W1, normalise,\ntanh"), (12.2, "@ W2\n+ b2")):
        ax.text(x, -5.9, step, ha="center", va="center", color=COLORS[1])
    ax.set_title(f"From {T} characters to {vocab_size} scores with {count:,} parameters")
    ax.set(xlim=(-1.2, 15.2), ylim=(-6.6, 5.1))
    ax.axis("off")
    return finished(fig)


def _tile(ax, x, y, width, height, color):
    ax.add_patch(Rectangle((x - width / 2, y - height / 2), width, height, facecolor=color, lw=0,
                           zorder=3))


def _arrow(ax, start, end):
    ax.annotate("", end, start, arrowprops={"arrowstyle": "->", "color": INK})


def draw_readme_tree(letters, n_embd, n_hidden):
    """The tree of a word of 8 letters: a box a position, lines from what it joins.

    At the right are the (T, C) of each level and how many characters one box sees.
    """
    block_size, n, levels = 8, 2, [8, 4, 2, 1]
    _, ax = plt.subplots(figsize=(9, 0.85 * len(levels) + 0.7))
    for level, count in enumerate(levels):
        span = block_size // count
        centres = [(i + 0.5) * span - 0.5 for i in range(count)]
        for i, x in enumerate(centres):
            ax.text(x, -level, letters[i * span : (i + 1) * span], ha="center", va="center",
                    family="monospace", size=11, color="black",
                    bbox={"boxstyle": "round,pad=0.3", "fc": "#bfe0f5", "ec": COLORS[0]})
            if level:
                for j in range(n):
                    child = (i * n + j + 0.5) * span / n - 0.5
                    ax.plot([child, x], [-level + 0.8, -level + 0.2], lw=1, color=INK)
        width = n_embd if level == 0 else n_hidden
        ax.text(block_size - 0.2, -level, f"  (T, C) = ({count}, {width}), a box sees {span}",
                va="center")
    ax.set(xlim=(-0.7, block_size * 1.45), ylim=(-len(levels) + 0.6, 0.5))
    ax.set_title("8 characters in groups of 2: 3 levels to one position")
    ax.axis("off")
    return finished(ax.figure)


def draw_flat_and_tree(window, target, n):
    """The flat network beside the tree that joins n at a time: both read `window`.

    Lines lead from each box to what is made of it, and at the bottom to the predicted `target`.
    """
    block_size = len(window)
    levels = helpers.tree_levels(block_size, n)
    fig, axes = plt.subplots(1, 2, figsize=(9.6, 0.85 * len(levels) + 1.3))
    size = min(11, 80 / block_size)
    for ax, counts in zip(axes, ([block_size, 1], levels), strict=True):
        step = (len(levels) - 1) / (len(counts) - 1)          # both end at the same height
        for level, count in enumerate(counts):
            span = block_size // count
            centres = [(i + 0.5) * span - 0.5 for i in range(count)]
            for i, x in enumerate(centres):
                label = window[i * span : (i + 1) * span] if span <= 8 else f"{span} characters"
                ax.text(x, -level * step, label, ha="center", va="center", family="monospace",
                        size=size, color="black", zorder=4,
                        bbox={"boxstyle": "round,pad=0.3", "fc": "#bfe0f5", "ec": COLORS[0]})
                if level:
                    ends = block_size // counts[level - 1]
                    ax.add_collection(LineCollection(
                        [((j + 0.5 * ends - 0.5, (1 - level) * step), (x, -level * step))
                         for j in range(i * span, (i + 1) * span, ends)], color=INK, lw=1))
        ax.annotate(target, (x, 1 - len(levels)), (x, -len(levels)), ha="center", va="center",
                    family="monospace", color="black", size=11,
                    bbox={"boxstyle": "round,pad=0.3", "fc": "#f7d0b5", "ec": COLORS[1]},
                    arrowprops={"arrowstyle": "<-", "color": COLORS[1], "shrinkB": 10})
        ax.text(x + block_size / 25, -len(levels), "predicted", va="center")
        ax.set(xlim=(-0.8, block_size - 0.2), ylim=(-len(levels) - 0.5, 0.5))
        ax.axis("off")
    axes[0].set_title(f"flat: {block_size} at once")
    axes[1].set_title(f"tree: {n} at a time, in {len(levels) - 1} "
                      f"level{'s' * (len(levels) > 2)}")
    return finished(fig)


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
    """A causal stack over '.' and the letters of `name`: a dot for each node, inputs at the bottom.

    Blue: what `output` (0 to the number of letters) is made of. Orange rings: the same for the
    output `other`. The title says what they see and share. Raises ValueError as `cone` does.
    """
    field = 1 + (kernel_size - 1) * sum(dilations)
    letters = "." * field + name
    ours = cone(kernel_size, dilations, field - 1 + output)
    theirs = cone(kernel_size, dilations, field - 1 + other) if other is not None else None
    small = min(1, 24 / len(letters))
    fig, ax = plt.subplots(figsize=(9, 0.95 * len(dilations) + 1.4))
    first, lines = 0, {}                   # lines and nodes together: one by one they take long
    for level in range(len(dilations) + 1):
        of_ours, of_theirs = ours[level], theirs[level] if theirs is not None else set()
        if level:
            d = dilations[level - 1]
            first += (kernel_size - 1) * d
            for x in range(first, len(letters)):
                lines.setdefault((x in of_ours, x in of_theirs), []).extend(
                    [(x, level), (x - j * d, level - 1)] for j in range(kernel_size))
            ax.text(len(letters) - 0.3, level, f"dilation {d}", va="center")
        nodes = range(first, len(letters))
        ax.scatter(nodes, [level] * len(nodes), s=260 * small**2, zorder=4, lw=2.5 * small**0.5,
                   color=[COLORS[5] if x in of_ours else "#bbbbbb" for x in nodes],
                   edgecolor=[COLORS[1] if x in of_theirs else "none" for x in nodes])
    for (blue, orange), segments in lines.items():
        ax.add_collection(LineCollection(
            segments, zorder=1 + blue + orange, lw=1.6 if blue or orange else 0.8,
            color=COLORS[0] if blue else COLORS[1] if orange else INK + "50",
            capstyle="projecting"))
    for x, ch in enumerate(letters):
        ax.text(x, 0, ch, ha="center", va="center", family="monospace", size=12 * small, zorder=5,
                color="black")
    for i in range(len(name) + 1):
        ax.text(field - 1 + i, len(dilations), i, ha="center", va="center", size=9 * small,
                zorder=5, color="black")
    ax.text(len(letters) - 0.3, 0, "input", va="center")
    seen, count = len(ours[0]), sum(map(len, ours[1:]))
    title = f"Output {output} sees " + (f"only {seen} of the " if seen < field else "")
    title += f"{field} characters" + " that it spans" * (seen < field)
    title += f", through {count} node" + "s" * (count > 1)
    if theirs is not None:
        shared = sum(len(a & b) for a, b in zip(ours[1:], theirs[1:], strict=True))
        title += f"\nand shares {shared} of them with output {other}"
    ax.set_title(title)
    ax.set(xlim=(-0.7, 1.13 * len(letters)), ylim=(-0.5, len(dilations) + 0.5))
    ax.axis("off")
    return finished(fig)


def draw_kernel(x, kernel, moves):
    """Where the kernel lies on `x` for each output: a drawing for each (stride, dilation)."""
    fig, axes = plt.subplots(1, len(moves), figsize=(9.6, 2.9), sharey=True)
    for ax, (stride, dilation) in zip(axes, moves, strict=True):
        starts = range(0, len(x) - (len(kernel) - 1) * dilation, stride)
        for i, value in enumerate(x):
            _box(ax, i, 0, value, "#e8e8e8")
        for t, start in enumerate(starts):
            ax.plot([-0.4, len(x) - 0.6], [t + 1] * 2, color=INK, lw=0.6, alpha=0.5)
            for j, weight in enumerate(kernel):
                _box(ax, start + j * dilation, t + 1, f"\u00d7{weight}", TINTS[j], 10)
            ax.text(len(x) - 0.3, t + 1, f"t = {t}", va="center")
        ax.set(xlim=(-0.7, len(x) + 0.9), ylim=(len(x) - 0.4, -0.5))
        ax.set_title(f"stride {stride}, dilation {dilation}:\n{len(starts)} outputs", size=11)
        ax.axis("off")
    return finished(fig)


def draw_layout(pair, weights):
    """The order in which a Linear on a pair and a convolution keep their weights in memory.

    `pair` holds each position's channels. The convolution's weights are left open.
    """
    fig, ax = plt.subplots(figsize=(8.4, 2.9))
    by_position = [(j, c) for j in range(2) for c in range(len(pair[0]))]
    rows = {"the pair, flattened": (by_position, [pair[j][c] for j, c in by_position]),
            "Linear, W[:, 0]": (by_position, weights),
            "convolution, w[0]": (sorted(by_position, key=lambda jc: jc[1]), "?" * len(weights))}
    for y, (label, (places, values)) in enumerate(rows.items()):
        ax.text(-0.6, y, label, ha="right", va="center")
        for x, ((j, c), value) in enumerate(zip(places, values, strict=True)):
            _box(ax, x, y, value, TINTS[j])
            if y:
                ax.text(x, y + 0.5, f"c = {c}, j = {j}", ha="center", va="center", size=9)
    ax.set(xlim=(-2.4, len(weights) - 0.4), ylim=(2.7, -0.5))
    ax.set_title("A Linear sorts its weights by position, a convolution by channel")
    ax.axis("off")
    return finished(fig)


def draw_cube(sizes, *averaged):
    """A batch (B, T, C) as a cube of numbers: those with one colour and tone share one mean.

    A drawing for each of `averaged`, the dimensions that the mean is taken over, such as (0, 1).
    """
    B, T, C = (min(size, most) for size, most in zip(sizes, (6, 4, 5), strict=True))
    _, axes = plt.subplots(1, len(averaged), figsize=(4.6 * len(averaged), 3), squeeze=False)
    for ax, dims in zip(axes[0], averaged, strict=True):
        def cell(b, t, c, corners, ax=ax, dims=dims):
            b, t, c = (0 if d in dims else i for d, i in enumerate((b, t, c)))
            ax.add_patch(Polygon([(x + 0.4 * z, y + 0.3 * z) for x, y, z in corners], lw=0.8,
                                 facecolor=[*COLORS[:5], INK][(b + t) % 6],
                                 alpha=0.9 - 0.13 * c, ec="white"))

        for t in range(T):
            for b in range(B):
                cell(b, t, 0, [(b, -t, 0), (b + 1, -t, 0), (b + 1, -t - 1, 0), (b, -t - 1, 0)])
            for c in range(C):
                cell(B - 1, t, c, [(B, -t, c), (B, -t, c + 1), (B, -t - 1, c + 1), (B, -t - 1, c)])
        for b in range(B):
            for c in range(C):
                cell(b, 0, c, [(b, 0, c), (b + 1, 0, c), (b + 1, 0, c + 1), (b, 0, c + 1)])
        ax.text(B / 2, -T - 0.2, f"B = {sizes[0]} examples", ha="center", va="top")
        ax.text(-0.3, -T / 2, f"T = {sizes[1]} positions", rotation=90, ha="right", va="center")
        ax.text(B + 0.2 * C + 0.4, 0.15 * C - T, f"C = {sizes[2]}\nchannels", va="top")
        each = math.prod(sizes[d] for d in dims)
        count = math.prod(sizes) // each
        ax.set_title(f"Averaged over {', '.join(map(str, dims))}: {count} mean{'s' * (count > 1)} "
                     f"of {each} numbers", size=11)
        ax.set(xlim=(-1, B + 0.4 * C + 1.6), ylim=(-T - 0.9, 0.3 * C + 0.2), aspect="equal")
        ax.axis("off")
    return finished(axes[0, 0].figure)


def draw_wavenet(dilations):
    """One layer of a WaveNet, the same in the paper's figure 4, and the whole: inputs below."""
    fig, (ours, paper, whole) = plt.subplots(1, 3, figsize=(10.6, 5.4), width_ratios=[1, 1, 1])
    for ax, own in ((ours, True), (paper, False)):
        for x, y, text, color in (
                (1, 0, "x (C)", None), (1, 1.3, "causal convolution\ndilation d"
                                        + ", C \u2192 2C" * own, "#bfe0f5"),
                (0.35, 2.8, "tanh", "#f7d0b5"), (1.65, 2.8, "sigmoid", "#f7d0b5"),
                (1, 4, "\u00d7", "#f7d0b5"), (1, 5.3, "1\u00d71, $W_r$\nC \u2192 C" if own else
                 "1\u00d71", "#c8e6c9"), (1, 6.7, "+", "#e8e8e8"), (1, 7.8, "next x (C)", None),
                (2.6, 6.7, "skip (S)" if own else "skip", None),
                *[(2.6, 5.3, "1\u00d71, $W_s$\nC \u2192 S", "#c8e6c9")] * own):
            _block(ax, x, y, text, color)
        for start, end in (((1, 0.25), (1, 0.8)), ((0.6, 1.8), (0.4, 2.45)),
                           ((1.4, 1.8), (1.6, 2.45)), ((0.45, 3.15), (0.85, 3.75)),
                           ((1.55, 3.15), (1.15, 3.75)), ((1, 4.3), (1, 4.85)),
                           ((1, 5.75), (1, 6.4)), ((1, 7), (1, 7.55))):
            _arrow(ax, start, end)
        _line(ax, (1, 0.5), (-0.45, 0.5), (-0.45, 6.7), (0.8, 6.7))
        _line(ax, *[(1, 4.5), (2.6, 4.5), (2.6, 4.85)] if own else [(1, 6), (2.6, 6), (2.6, 6.4)])
        if own:
            _arrow(ax, (2.6, 5.75), (2.6, 6.4))
        for x, y, text in ((0.25, 2.15, "f"), (1.75, 2.15, "g"), (0.85, 4.5, "z")):
            ax.text(x, y, f"${text}$", ha="center", va="center")
        ax.set(xlim=(-0.7, 3.5), ylim=(-0.3, 8.1))
    ours.set_title("Our layer: two 1\u00d71", size=11)
    paper.set_title("The paper's figure 4: one 1\u00d71", size=11)
    shown = dilations if len(dilations) <= 6 else [*dilations[:3], None, *dilations[-2:]]
    step = 4.2 / len(shown)
    for x, y, text, color in (
            (0.7, 0, "characters", None), (0.7, 0.9, "embedding, V \u2192 C", "#e8e8e8"),
            (2.6, 5.6, "sum", "#e8e8e8"), (2.6, 6.7, "ReLU, 1\u00d71,\nReLU, 1\u00d71", "#c8e6c9"),
            (2.6, 7.8, "logits (V)", None)):
        _block(whole, x, y, text, color)
    for x, *ends in ((0.7, 0.25, 0.55), (2.6, 5.9, 6.2), (2.6, 7.2, 7.55)):
        _arrow(whole, *((x, y) for y in ends))
    for i, d in enumerate(shown):
        y = 0.9 + (i + 1) * step
        _block(whole, 0.7, y, f"layer, dilation {d}" if d else "\u22ee", d and "#bfe0f5")
        _arrow(whole, (0.7, y - step + 0.28), (0.7, y - 0.28))
        if d:
            _line(whole, (1.5, y), (2.6, y), (2.6, 5.25), arrow=i == len(shown) - 1)
    whole.text(2.7, 0.9 + 1.5 * step, "skips (S)", va="center")
    whole.set(xlim=(-0.5, 3.6), ylim=(-0.3, 8.1))
    whole.set_title(f"{len(dilations)} layers, {1 + sum(dilations)} characters", size=11)
    for ax in (ours, paper, whole):
        ax.axis("off")
    return finished(fig, math=True)


def draw_memory():
    """A MemoryLayer at three positions: the memory goes from each one to the next."""
    n = 3
    fig, ax = plt.subplots(figsize=(3.3 * n + 0.4, 4.6))
    for t in range(n):
        x = 3.5 * t
        for dx, y, text, color in (
                (0, 0, f"$x_{t}$", None), (0, 1.2, "convolution, kernel 2", "#bfe0f5"),
                (-0.9, 2.4, "f, sigmoid", "#f7d0b5"), (0, 2.4, "z, tanh", "#f7d0b5"),
                (0.95, 2.4, "o, sigmoid", "#f7d0b5"), (-0.4, 3.6, f"memory $c_{t}$", "#c8e6c9"),
                (0.5, 4.6, "\u00d7", "#f7d0b5"), (0.5, 5.5, "+", "#e8e8e8"),
                (0.5, 6.4, f"next $x_{t}$", None)):
            _block(ax, x + dx, y, text, color)
        for (a, b), (c, d) in (
                ((0, 0.25), (0, 0.85)), ((-0.5, 1.55), (-0.85, 2.05)), ((0, 1.55), (0, 2.05)),
                ((0.5, 1.55), (0.9, 2.05)), ((-0.8, 2.75), (-0.55, 3.25)),
                ((-0.05, 2.75), (-0.25, 3.25)), ((0.95, 2.75), (0.6, 4.35)),
                ((-0.2, 3.95), (0.35, 4.5)), ((0.5, 4.8), (0.5, 5.25)), ((0.5, 5.75), (0.5, 6.15)),
                ((-3.2 if t else -1.9, 3.6), (-1.1, 3.6)),
                *[((-3.3, 0.1), (-1, 0.9))] * (t > 0)):
            _arrow(ax, (x + a, b), (x + c, d))
        _line(ax, (x, 0.5), (x + 1.6, 0.5), (x + 1.6, 5.5), (x + 0.7, 5.5))
    ax.text(-2.05, 3.6, "0", ha="right", va="center")
    ax.set(xlim=(-2.4, 3.5 * n - 1.6), ylim=(-0.3, 6.6))
    ax.set_title("Positions are joined twice: by the convolution below, and by the memory", size=11)
    ax.axis("off")
    return finished(fig, math=True)


def _block(ax, x, y, text, color=None):
    """A text, in a box if it has a colour."""
    ax.text(x, y, text, ha="center", va="center", zorder=4, color="black" if color else INK,
            size=10, bbox=color and {"boxstyle": "round,pad=0.3", "fc": color, "ec": "none"})


def _line(ax, *points, arrow=True):
    """A line through the points, with an arrow at its end."""
    ax.plot(*zip(*points[:-1 if arrow else None], strict=True), color=INK, lw=1.2)
    if arrow:
        _arrow(ax, points[-2], points[-1])


def draw_ages(words, ages):
    """The words nose to tail, each with its dot and a colour of its own; below, each one's age."""
    text = "".join(f".{word}" for word in words)
    fig, ax = plt.subplots(figsize=(max(4, 0.42 * len(text) + 1.6), 1.5))
    which = -1
    for x, (ch, age) in enumerate(zip(text, ages, strict=True)):
        which += ch == "."
        _box(ax, x, 0, ch, ("#bfe0f5", "#f7d0b5", "#c8e6c9")[which % 3])
        ax.text(x, 0.85, age, ha="center", va="center", family="monospace")
    ax.text(-0.8, 0.85, "age", ha="right", va="center")
    ax.set(xlim=(-2.2, len(text) - 0.4), ylim=(1.25, -0.5))
    ax.set_title(f"{len(words)} words in {len(text)} positions, none of them padding", size=11)
    ax.axis("off")
    return finished(fig)


def draw_rings(size, inputs):
    """A ring of `size` places after each of the inputs, in blue the place that it was put in."""
    fig, axes = plt.subplots(1, len(inputs), figsize=(1.45 * len(inputs), 2.3))
    ring = [0] * size
    for t, (ax, x) in enumerate(zip(axes, inputs, strict=True)):
        old, ring[t % size] = ring[t % size], x
        for place, value in enumerate(ring):
            start = 90 - 360 * place / size
            ax.add_patch(Wedge((0, 0), 1, start - 360 / size, start, width=0.55, ec="white",
                               fc="#bfe0f5" if place == t % size else "#e8e8e8"))
            middle = math.radians(start - 180 / size)
            ax.text(0.72 * math.cos(middle), 0.72 * math.sin(middle), value, ha="center",
                    va="center", color="black", size=10)
        ax.text(0, 0, f"t = {t}", ha="center", va="center", size=9)
        ax.text(0, -1.35, f"in {x}\nout {old}", ha="center", va="top", size=10)
        ax.set(xlim=(-1.05, 1.05), ylim=(-2.1, 1.05), aspect="equal")
        ax.axis("off")
    fig.suptitle(f"A ring of {size}: from t = {size} on, it returns what went in {size} calls ago",
                 x=0.01, ha="left", weight="bold", size=11)
    return finished(fig)
