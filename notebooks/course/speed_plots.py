"""The figures of notebook 12: where time and memory go."""

import itertools

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import LogLocator, NullLocator

from course.plots import COLORS, INK, finished

BOUND = {"arithmetic": COLORS[0], "memory": COLORS[4], "the call": COLORS[2],
         "none of these": COLORS[1]}


def draw_roofline(rows, peak, bandwidth):
    """Operations a second against operations a byte, under the roofs of memory and arithmetic.

    `rows` has the columns "operations", "bytes", "seconds" and "bound by", a name for each row.
    """
    fig, ax = plt.subplots(figsize=(9, 4.2))
    x, y = rows.operations / rows.bytes, rows.operations / rows.seconds / 1e9
    ends = np.array([x.min() / 2, peak / bandwidth, 6 * x.max()])
    ax.plot(ends, np.minimum(peak, bandwidth * ends) / 1e9, color=INK, lw=2)
    ax.text(ends[2], 0.9 * peak / 1e9, "peak", color=INK, ha="right", va="top")
    ax.annotate("bandwidth", (ends[0], bandwidth * ends[0] / 1e9), (12, -2), color=INK,
                textcoords="offset points")
    for bound, color in BOUND.items():
        if (rows["bound by"] == bound).any():
            ax.plot(x[rows["bound by"] == bound], y[rows["bound by"] == bound], "o", color=color,
                    label=bound)
    for name, bound in rows["bound by"].items():
        left = name in ("Linear, level 1", "h - mean, large")         # beside it is another name
        below = bound == "arithmetic" or name == "mean of h"          # above it, too
        ax.annotate(name, (x[name], y[name]), (-7 if left else 7, -10 if below else 3),
                    size=9, ha="right" if left else "left", textcoords="offset points",
                    color=BOUND[bound])
    reached = y / np.minimum(peak, bandwidth * x) * 1e9
    ax.set(xscale="log", yscale="log", xlabel="operations a byte", ylabel="GFLOP/s",
           title=f"The {reached.idxmin()} reaches {reached.min():.1%} of what the roofs allow")
    ax.legend(title="bound by", loc="lower right")
    return finished(fig)


def draw_profile(averages, steps):
    """A bar for each part of a profiled step that record_function named: its share of the time."""
    parts = {e.key: e.cpu_time_total / steps for e in averages if e.is_user_annotation}
    parts = dict(sorted(parts.items(), key=lambda part: part[1]))
    total = sum(parts.values())
    fig, ax = plt.subplots()
    ax.barh([*parts], [100 * t / total for t in parts.values()],
            color=[COLORS[name == "Linear"] for name in parts])
    for y, t in enumerate(parts.values()):
        ax.text(100 * t / total, y, f" {100 * t / total:.0f}%, {t / 1e3:.2f} ms", va="center")
    forward = [name for name in parts if name in ("Linear", "BatchNorm1d")]
    ax.set(xlabel="share of the profiled step (%)", xlim=(0, 120 * max(parts.values()) / total),
           title="Going forward, " + ", ".join(
               f"{name} takes {parts[name] / total:.0%}" for name in forward[::-1]))
    ax.grid(axis="y", visible=False)
    return finished(fig)


def draw_waterfall(way, goal):
    """A bar for each change, from the seconds before it to those after it, and one for them all.

    `way` has the columns "seconds" and "val"; a change after which val misses the `goal` is gray.
    """
    fig, ax = plt.subplots(figsize=(9, 0.9 + 0.42 * len(way)))
    seconds, first = way.seconds.astype(float), way.seconds.iloc[0]
    bars = [(first, first), *itertools.pairwise(seconds), (first, seconds.iloc[-1])]
    for y, (start, end) in enumerate(bars):
        val = way.val.iloc[min(y, len(way) - 1)]
        color = INK if not val <= goal + 1e-9 else COLORS[1] if y == len(way) else COLORS[0]
        ax.plot([start, end], [y, y], lw=12, color=color, solid_capstyle="butt")
        ax.plot([end, end], [y, min(y + 1, len(way))], lw=1, color=INK)
        factor = f"÷ {start / end:.1f}" if end <= start else f"{end / start:.1f} times as slow"
        text = (f"{end:,.0f} s" if end >= 100 else f"{end:.3g} s") + f"  {factor}" * (y > 0)
        text += f"  (val {val:.3f})" * (not val <= goal + 1e-9)
        ax.annotate(text, (max(start, end), y), (8, 0), textcoords="offset points", va="center",
                    color=color if y else INK)
    ax.set_yticks(range(len(bars)), [*way.index, "all together"])
    ax.invert_yaxis()
    ax.set(xscale="log", xlabel="seconds to the goal, one thread",
           title=f"From {first:.0f} to {seconds.iloc[-1]:.1f} seconds: "
                 f"{first / seconds.iloc[-1]:.0f} times as fast")
    ax.set_xlim(min(seconds) / 1.3, 8 * max(seconds))
    ax.xaxis.set_major_formatter("{x:g}")
    ax.grid(axis="y", visible=False)
    return finished(fig)


def draw_peaks(jobs, peaks):
    """A bar for each (work, way): its peak memory in MB."""
    fig, ax = plt.subplots(figsize=(9, 0.8 + 0.4 * len(jobs)))
    bars = ax.barh([", ".join(job) for job in jobs], peaks,
                   color=[COLORS[way == "ours"] for _, way in jobs])
    ax.bar_label(bars, [f" {mb:,.0f}" for mb in peaks])
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    most = jobs[peaks.index(max(peaks))][0]
    ax.set(xlabel="peak memory of the job alone (MB)", xlim=(0, 1.15 * max(*peaks, 1)),
           title=f"{most.capitalize()} takes " + ", ".join(
               f"{mb:,.0f} MB ({way})" for (job, way), mb in zip(jobs, peaks, strict=True)
               if job == most))
    return finished(fig)


def draw_growth(costs):
    """Time and memory against the size of each "what", with the factor of the last doubling."""
    fig, axes = plt.subplots(1, 2, figsize=(10, 4.6))
    grown = {}
    for ax, column in zip(axes, ("ms", "MB"), strict=True):
        for color, (what, rows) in zip(COLORS, costs.groupby("what", sort=False), strict=False):
            before, last = rows[column].iloc[-2:]
            grown[what, column] = last / before
            ax.plot(rows["size"], rows[column], "o-", color=color, ms=4,
                    label=f"{what}: {last / before:.1f} times")
        ax.legend(title="last doubling", loc="upper center", bbox_to_anchor=(0.5, -0.18))
        ax.set(xscale="log", yscale="log", xlabel="size",
               ylabel={"ms": "time of a step (ms)", "MB": "memory kept (MB)"}[column])
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_locator(LogLocator(subs=(1, 2, 5) if axis is ax.yaxis else (1,)))
            axis.set_major_formatter("{x:g}")
            axis.set_minor_locator(NullLocator())
    dearest = max((what for what, column in grown if column == "ms"),
                  key=lambda what: grown[what, "ms"])
    fig.suptitle(f"Doubling the {dearest} costs most: {grown[dearest, 'ms']:.1f} times the time, "
                 f"{grown[dearest, 'MB']:.1f} times the memory", size=11, weight="bold", x=0.02,
                 ha="left")
    return finished(fig)
