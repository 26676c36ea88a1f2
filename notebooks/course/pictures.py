"""Drawings: the windows of a name, the tree, a stack of dilated convolutions."""

import string

import matplotlib.pyplot as plt
from matplotlib.collections import LineCollection

import helpers
from course.plots import COLORS, INK, finished


def draw_windows(name, block_size):
    """Every window of `name` as a row of boxes, the character to predict at its right."""
    rows = ["." * block_size + name + "."]
    rows = [(rows[0][i : i + block_size], rows[0][i + block_size]) for i in range(len(name) + 1)]
    _, ax = plt.subplots(figsize=(max(4, 0.45 * block_size + 2.5), 0.42 * len(rows) + 0.7))
    for y, (window, target) in enumerate(rows):
        for x, ch in enumerate(window):
            _box(ax, x, y, ch, "#e8e8e8" if ch == "." else "#bfe0f5")
        ax.annotate("", (block_size + 0.75, y), (block_size - 0.35, y),
                    arrowprops={"arrowstyle": "->", "color": INK})
        _box(ax, block_size + 1.3, y, target, "#f7d0b5")
    ax.set(xlim=(-0.6, block_size + 2), ylim=(len(rows) - 0.4, -0.6), aspect="equal")
    ax.set_title(f"{name!r}: {len(rows)} windows of {block_size}, one character to predict each")
    ax.axis("off")
    return finished(ax.figure)


def _box(ax, x, y, text, color):
    ax.text(x, y, text, ha="center", va="center", family="monospace", size=12, color="black",
            bbox={"boxstyle": "square,pad=0.28", "facecolor": color, "edgecolor": "none"})


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
                    size=11 if block_size <= 16 else 7, color="black",
                    bbox={"boxstyle": "round,pad=0.3", "fc": "#f7c9a5" if seen else "#bfe0f5",
                          "ec": COLORS[1] if seen else COLORS[0]})
            if level:
                for j in range(n):
                    child = (i * n + j + 0.5) * span / n - 0.5
                    ax.plot([child, x], [-level + 0.8, -level + 0.2], lw=2 if seen else 1,
                            color=COLORS[1] if seen else INK)
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
    return finished(ax.figure)


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
        ax.text(field - 1 + i, -len(dilations), i, ha="center", va="center", size=9 * small,
                zorder=5, color="black")
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
    return finished(fig)
