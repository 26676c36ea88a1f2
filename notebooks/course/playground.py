"""The playground of notebook 05: train trees by a button, watch them, and compare them.

The panel trains in a thread, so that the page stays usable, and each run has a random generator of
its own, so that it leaves the notebook's alone. Configurations are dicts with the lecture's names.
"""

import contextlib
import html
import io
import math
import threading
import time
from dataclasses import dataclass, field

import ipywidgets
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch.overrides import TorchFunctionMode

import helpers
from course import fitting, panels, plots
from course.files import write_whole

USUAL = {"lecture": {"learning_rate": 0.1, "batch_size": 32},
         "fast": {"learning_rate": 0.005, "batch_size": 256}}
DEFAULTS = {"block_size": 8, "n_embd": 24, "n_hidden": 128, "recipe": "lecture",
            **USUAL["lecture"], "max_steps": 2_000, "seed": 42}
OFFERED = {"block_size": [2, 4, 8, 16, 32], "n_embd": [4, 10, 16, 24, 32, 48],
           "n_hidden": [32, 68, 128, 200, 256], "recipe": list(USUAL),
           "learning_rate": [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 10.0],
           "batch_size": [2, 4, 8, 16, 32, 64, 128, 256, 512],
           "max_steps": [500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000]}
EXAMPLES = helpers.capped(10_000, 1_000)  # of each split are measured
RUNS = []  # on the leaderboard; a cell that is run again keeps them, a restart clears them


@dataclass(eq=False)
class Run:
    """One training: its `status` is training, finished, stopped, diverged or failed.

    `losses` has one per step, `looks` are (step, val), `val` is the latest. `stop` ends it.
    """

    config: dict
    number: int = 0
    status: str = "training"
    note: str = ""
    parameters: int = 0
    total: int = 0
    losses: list = field(default_factory=list)
    looks: list = field(default_factory=list)
    train: float = math.nan
    val: float = math.nan
    seconds: float = 0.0
    stop: threading.Event = field(default_factory=threading.Event)

    def begin(self, total, losses):
        """Take the place of helpers.Progress in a training."""
        self.total, self.losses, self.begun = total, losses, time.perf_counter()
        self.told = self.begun
        return contextlib.nullcontext(self)

    def update(self):
        """After a step: stop if asked to, look at val now and then, report twice a second."""
        now = time.perf_counter()
        self.seconds = now - self.begun
        if self.stop.is_set():
            raise InterruptedError
        if len(self.losses) % max(1, min(self.total // 10, 5_000)) == 0:
            self.val = self.look()
            self.looks.append((len(self.losses), self.val))
        if now - self.told > 0.5:
            self.on_progress()
            self.told = time.perf_counter()


class OwnDraws(TorchFunctionMode):
    """Inside `with`, this thread draws its random tensors from `generator`, not the global one."""

    def __init__(self, generator):
        super().__init__()
        self.own = {"generator": generator}

    def __torch_function__(self, func, types, args=(), kwargs=None):
        draws = func in (torch.randn, torch.randint, torch.randperm)
        return func(*args, **(self.own if draws else {}), **(kwargs or {}))


def train_fast(model, X, Y, *, max_steps, batch_size, learning_rate, **options):
    """Like helpers.train, but AdamW with OneCycleLR, every example once an epoch (notebook 07)."""
    optimizer = torch.optim.AdamW(model.parameters(), learning_rate, fused=True)
    schedule = fitting.one_cycle(optimizer, learning_rate, max_steps)
    return fitting.fit(model, fitting.window_batches(X, Y, batch_size), optimizer, max_steps,
                       schedule, **options)


def trainer(recipe, learning_rate=None):
    """What trains by `recipe`; ValueError if it is unknown or has the other one's learning rate."""
    if recipe not in USUAL:
        raise ValueError(f"recipe is {recipe!r}; expected 'lecture' or 'fast'")
    if recipe == "fast" and learning_rate == USUAL["lecture"]["learning_rate"]:
        raise ValueError(f"learning_rate is {learning_rate}, for recipe 'lecture'; with 'fast' set "
                         "learning_rate = 0.005, batch_size = 256 and max_steps = 8_616")
    return helpers.train if recipe == "lecture" else train_fast


def complete(config):
    """`config` with the defaults for what it leaves out. Raises ValueError if a value is bad."""
    if unknown := set(config) - set(DEFAULTS):
        raise ValueError(f"unknown setting {min(unknown)!r}; expected one of {', '.join(DEFAULTS)}")
    config = DEFAULTS | config
    trainer(config["recipe"])
    helpers.check(**{name: value for name, value in config.items() if name != "recipe"})
    helpers.tree_levels(config["block_size"])
    return config


def run(parts, config=None, *, into=None, on_progress=lambda: None):
    """Train a tree with `config` over DEFAULTS, or that of the Run `into`; return the Run."""
    run = into or Run(complete(config or {}))
    c, stoi = run.config, helpers.build_vocab([w for part in parts.values() for w in part])[0]
    with helpers.threads(1), OwnDraws(torch.Generator().manual_seed(int(c["seed"]))):
        some = parts["train"][:helpers.capped(10**9, 500)]
        train = helpers.build_dataset(some, c["block_size"], stoi)
        val = [t[:EXAMPLES] for t in helpers.build_dataset(parts["val"], c["block_size"], stoi)]
        model = helpers.make_tree(len(stoi), c["block_size"], c["n_embd"], c["n_hidden"])
        run.parameters = sum(p.nelement() for p in model.parameters())
        run.look, run.on_progress = lambda: helpers.split_loss(model, *val), on_progress
        with contextlib.suppress(InterruptedError):
            trainer(c["recipe"])(model, *train, progress=run.begin, **{
                name: c[name] for name in ("max_steps", "batch_size", "learning_rate")})
        run.val = run.look()
        run.train = helpers.split_loss(model, *(t[:EXAMPLES] for t in train))
    steps, last = len(run.losses), run.losses[-1]
    run.status = "finished" if steps == run.total else "stopped"
    if not math.isfinite(last) or (steps >= 100 and run.val > math.log(len(stoi))):
        run.status = "diverged"
        run.note = f"loss {last:.3g} at step {steps}, worse than guessing; lower learning_rate"
    return run


def table(runs):
    """The leaderboard: one row per run, the lowest val first, runs without a val last."""
    rows = [{"run": r.number, **r.config, "parameters": r.parameters, "steps": len(r.losses),
             "train": round(r.train, 6), "val": round(r.val, 6), "seconds": round(r.seconds, 1),
             "status": r.status, "note": r.note} for r in runs]
    return pd.DataFrame(rows).sort_values("val", kind="stable", ignore_index=True)


def save_csv(runs, path):
    """Write the leaderboard to `path`, whole or not at all. Raises OSError."""
    write_whole(path, lambda part: table(runs).to_csv(part, index=False))


def draw_runs(runs):
    """A figure of the runs that any thread may draw: lines for train, smoothed, markers for val."""
    ax = Figure(figsize=(10, 4.2)).add_subplot()
    differ = [k for k in DEFAULTS if len({r.config[k] for r in runs}) > 1][:3]  # what fits
    names = [", ".join([f"run {r.number or i}", *(f"{k} {r.config[k]}" for k in differ)])
             for i, r in enumerate(runs, start=1)]
    for i, r in enumerate(runs, start=1):
        losses, k = list(r.losses), ((r.number or i) - 1) % 7   # a copy, for it may be training
        smooth = helpers.rolling_mean(losses, min(1000, len(losses) // 10 + 1))
        x, every = np.arange(len(losses) - len(smooth), len(losses)) + 1, len(smooth) // 2000 + 1
        ax.plot(x[::every], smooth[::every], color=plots.COLORS[k], lw=1.2, label=names[i - 1])
        ax.plot(*np.array([(0, math.nan), *r.looks]).T, "os^DvPX"[k], color=plots.COLORS[k])
    ax.set_ylim(top=min(ax.get_ylim()[1], ax.get_ylim()[0] + 1.5))  # where one diverges
    best = min(runs, key=lambda r: (math.isnan(r.val), r.val))
    ax.set(xlabel="step", ylabel="loss (nats per character)",
           title=f"The lowest val is {best.val:.3f}: {names[runs.index(best)]}")
    ax.legend(title="line: train, smoothed; markers: val")
    return ax.figure


def playground_panel(parts, defaults=None, runs=()):
    """Controls, the live picture, and the leaderboard, which `runs` join."""
    first = complete(defaults or {})
    for old in RUNS:
        old.stop.set()                               # one training at a time
    for new in (r for r in runs if r not in RUNS):
        new.number = len(RUNS) + 1
        RUNS.append(new)
    controls = {name: ipywidgets.Dropdown(
        options=[(f"{v:,}" if isinstance(v, int) else f"{v}", v)
                 for v in sorted({*offered, first[name]})],
        value=first[name], description=name, layout={"width": "15em"})
        for name, offered in OFFERED.items()}
    train, stop, save = (ipywidgets.Button(description=x) for x in ("Train", "Stop", "Save CSV"))
    line, message, leaders = (ipywidgets.HTML() for _ in range(3))
    picture = ipywidgets.Image(layout={"max_width": "100%"})

    def say(text):
        message.value = f"<div role='status'>{html.escape(text)}</div>"

    def guarded(action):
        def handler(*_):
            try:
                action()
            except Exception as error:               # it would end in a log, which nobody reads
                say(f"{type(error).__name__}: {error}")
        return handler

    @guarded
    def draw():
        drawn, png = [r for r in RUNS[-7:] if r.losses], io.BytesIO()
        if drawn:
            r, steps = drawn[-1], len(drawn[-1].losses)
            line.value = (f"Run {r.number} {r.status}: step {steps:,} of {r.total:,}, val "
                          f"{r.val:.3f}, {steps / max(r.seconds, 1e-9):,.0f} steps a second")
            leaders.value = table(RUNS).to_html(index=False, border=0)
            draw_runs(drawn).savefig(png, format="png")
            picture.value = png.getvalue()

    @guarded
    def start():
        if RUNS and RUNS[-1].status == "training":
            raise RuntimeError(f"Run {RUNS[-1].number} is still training; press Stop first")
        RUNS.append(Run(first | {k: c.value for k, c in controls.items()}, number=len(RUNS) + 1))
        say(f"Run {len(RUNS)} is training.")
        threading.Thread(target=work, args=[RUNS[-1]], name="playground", daemon=True).start()

    def work(this):
        try:
            run(parts, into=this, on_progress=draw)
        except Exception as error:
            this.status, this.note = "failed", f"{type(error).__name__}: {error}"
        say(f"Run {this.number} {this.status}. {this.note}")
        draw()

    @guarded
    def set_usual():
        for name, value in (usual := USUAL[controls["recipe"].value]).items():
            controls[name].value = value
        say("Usual for this recipe, and now set: " + ", ".join(f"{k} {usual[k]}" for k in usual))

    @guarded
    def write():
        save_csv(RUNS, helpers.OUTPUT / "playground.csv")
        say(f"Saved: {helpers.OUTPUT.name}/playground.csv, {len(RUNS)} runs.")

    train.on_click(start)
    stop.on_click(lambda _: [r.stop.set() for r in RUNS])
    save.on_click(write)
    controls["recipe"].observe(set_usual, "value")
    draw()
    boxes = [ipywidgets.HBox(box, layout={"flex_flow": "row wrap"})
             for box in (list(controls.values()), [train, stop, save, line])]
    return panels.Panel([*boxes, message, ipywidgets.VBox([picture, leaders])])
