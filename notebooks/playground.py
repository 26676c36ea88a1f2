"""The playground of notebook 05: train a tree by a button, watch it, compare the runs.

`run` trains one configuration plainly, `draw_runs` draws several over each other, and
`playground_panel` puts controls, buttons and a leaderboard around the two. A training from the
panel runs in a thread of its own, so that notebook and page stay usable; its random numbers come
from a generator of its own, so that neither disturbs the other. Configurations are dicts with the
lecture's names.
"""

import contextlib
import html
import io
import math
import os
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

USUAL = {"lecture": {"learning_rate": 0.1, "batch_size": 32},
         "fast": {"learning_rate": 0.005, "batch_size": 256}}
DEFAULTS = {"block_size": 8, "n_embd": 24, "n_hidden": 128, "recipe": "lecture",
            **USUAL["lecture"], "max_steps": 2_000, "seed": 42}
# What the panel offers; a default that is not among them is added.
OFFERED = {"block_size": [2, 4, 8, 16, 32], "n_embd": [4, 10, 16, 24, 32, 48],
           "n_hidden": [32, 68, 128, 200, 256], "recipe": list(USUAL),
           "learning_rate": [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 10.0],
           "batch_size": [2, 4, 8, 16, 32, 64, 128, 256, 512],
           "max_steps": [500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000]}
EXAMPLES = 10_000  # of each split are measured
LOOKS = 10  # at val, evenly spread over a training, more in one of over 50,000 steps
WINDOWS = {}  # the data sets made so far


# --------------------------------------------------------------------------------- one training


@dataclass(eq=False)
class Run:
    """One training, under way or over. Losses in nats per character.

    `losses` has one a step; `looks` are (step, seconds, val). `status` is training, finished,
    stopped, diverged or failed, `note` says why. `train` and `val` are measured at the end,
    `seconds` are those of the training. `names` are the words in train.
    """

    config: dict
    number: int = 0
    status: str = "training"
    note: str = ""
    names: int = 0
    parameters: int = 0
    total: int = 0
    losses: list = field(default_factory=list)
    looks: list = field(default_factory=list)
    train: float = math.nan
    val: float = math.nan
    seconds: float = 0.0

    def latest_val(self):
        """The val at the end or, before, at the last look; nan if there was none."""
        return self.looks[-1][2] if math.isnan(self.val) and self.looks else self.val

    def smoothed(self):
        """The mean of the last losses, as many as `window` says; nan before the first step."""
        return float(np.mean(self.losses[-self.window():])) if self.losses else math.nan

    def window(self):
        """How many losses are averaged: a tenth of the steps so far, 1,000 at the most."""
        return min(1000, max(1, len(self.losses) // 10))


class Stop(threading.Event):
    """Set it to end a training before its next step; with `hurry`, without measuring it."""

    hurry = False


class Stopped(Exception):
    """A training was ended by its Stop."""


class OwnDraws(TorchFunctionMode):
    """Inside `with`, this thread's random tensors come from `generator`, not from the global one.

    So a thread draws the same numbers whatever the others do, and leaves theirs alone.
    """

    def __init__(self, generator):
        super().__init__()
        self.generator = generator

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in (torch.randn, torch.randint, torch.randperm):
            kwargs = {"generator": self.generator} | kwargs
        return func(*args, **kwargs)


class _Watch:
    """Stands in helpers.train where the progress bar is: keeps the losses, tells, and stops."""

    def __init__(self, run, on_progress, stop):
        self.run, self.on_progress, self.stop = run, on_progress, stop
        self.start = self.told = time.perf_counter()

    def __call__(self, total, losses):
        self.run.losses = losses
        return self

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return None

    def update(self):
        now = time.perf_counter()
        self.run.seconds = now - self.start
        if self.stop.is_set():
            raise Stopped
        if self.on_progress and now - self.told > 0.4:
            self.told = now
            self.on_progress(self.run)


def complete(config):
    """The configuration with the default of every setting that it leaves out.

    Raises ValueError for an unknown setting, sizes that are no positive integers, a bad seed.
    """
    if unknown := set(config) - set(DEFAULTS):
        raise ValueError(f"unknown setting {min(unknown)!r}; expected one of {', '.join(DEFAULTS)}")
    config = DEFAULTS | config
    helpers.check_parameters(**{name: config[name] for name in ("n_embd", "n_hidden", "seed")})
    helpers.tree_levels(config["block_size"])
    return config


def run(parts, config=None, on_progress=None, stop=None):
    """Train a tree of one configuration on parts["train"]; return its Run.

    `parts` are word lists as split_words makes them, `config` what differs from DEFAULTS. The same
    configuration gives the same losses, those of helpers.train after torch.manual_seed(seed); the
    global generator is left alone. `on_progress(run)` is called before the first step, then some
    twice a second; `stop` is a Stop. Raises ValueError for values that make no sense.
    """
    this = Run(complete(config or {}))
    _carry_out(this, parts, on_progress, stop or Stop())
    return this


def _carry_out(run, parts, on_progress, stop):
    for name in ("train", "val"):
        if not isinstance(parts, dict) or not parts.get(name):
            raise ValueError(f"parts has no words for {name!r}; expected those of split_words")
    c, run.names = run.config, len(parts["train"])
    if on_progress:
        on_progress(run)
    stoi, _ = helpers.build_vocab([word for part in parts.values() for word in part])
    run.total = helpers.capped(c["max_steps"])
    generator = torch.Generator().manual_seed(int(c["seed"]))
    with contextlib.suppress(Stopped), helpers.threads(1), OwnDraws(generator):
        X, Y = windows(parts["train"], c["block_size"], stoi, stop)
        Xdev, Ydev = windows(parts["val"], c["block_size"], stoi, stop)
        model = helpers.make_tree(len(stoi), c["block_size"], c["n_embd"], c["n_hidden"])
        run.parameters = sum(p.nelement() for p in model.parameters())
        watch = _Watch(run, on_progress, stop)

        def look(step):
            seconds, val = time.perf_counter() - watch.start, _mean_loss(model, Xdev, Ydev, stop)
            if not math.isnan(val):
                run.looks.append((step, seconds, val))

        with contextlib.suppress(Stopped):
            helpers.train(model, X, Y, max_steps=run.total, batch_size=c["batch_size"],
                          learning_rate=c["learning_rate"], recipe=c["recipe"],
                          every=max(1, min(run.total // LOOKS, 5_000)), callback=look,
                          progress=watch)
        if run.losses:
            run.val = _mean_loss(model, Xdev, Ydev, stop)
            run.train = _mean_loss(model, X, Y, stop)
    run.status, run.note = _judge(run, stop, chance=math.log(len(stoi)))


def _judge(run, stop, chance):
    steps = len(run.losses)
    if steps and not math.isfinite(run.losses[-1]):
        return "diverged", f"the loss is {run.losses[-1]} at step {steps}; lower learning_rate"
    status = "finished" if steps == run.total else "stopped"
    if run.val > chance and steps >= 100:
        return status, (f"val {run.val:.3g} is worse than blind guessing, {chance:.2f}; "
                        "lower learning_rate")
    return status, "by a new panel" * (stop.hurry and status == "stopped")


def windows(words, block_size, stoi, stop):
    """build_dataset's (X, Y) of the words, made once for each list and block_size.

    Raises Stopped when `stop` is set meanwhile.
    """
    key = tuple(words), block_size, tuple(stoi)
    if key not in WINDOWS:
        pieces = []
        for i in range(0, len(words), 500):
            if stop.is_set():
                raise Stopped
            pieces.append(helpers.build_dataset(words[i : i + 500], block_size, stoi))
        WINDOWS[key] = tuple(torch.cat(tensors) for tensors in zip(*pieces, strict=True))
    return WINDOWS[key]


def _mean_loss(model, X, Y, stop):
    """The mean loss over the first EXAMPLES, in pieces; nan when there is no time for it."""
    X, Y, total = X[:EXAMPLES], Y[:EXAMPLES], 0.0
    for x, y in zip(X.split(1000), Y.split(1000), strict=True):
        if stop.hurry:
            return math.nan
        total += helpers.split_loss(model, x, y) * len(x)
    return total / len(X)


# ------------------------------------------------------------------------------ tables, pictures


def table(runs):
    """The leaderboard: a row a run, the lowest val first, runs without a val last."""
    rows = [{"run": r.number, **r.config, "parameters": r.parameters, "steps": len(r.losses),
             "train": round(r.train, 6), "val": round(r.latest_val(), 6),
             "seconds": round(r.seconds, 1), "names": r.names, "status": r.status, "note": r.note}
            for r in runs]
    columns = ["run", *DEFAULTS, "parameters", "steps", "train", "val", "seconds", "names",
               "status", "note"]
    return pd.DataFrame(rows, columns=columns).sort_values("val", kind="stable", ignore_index=True)


def labels(runs):
    """A name for each run: its number and the settings in which the runs differ."""
    differ = [k for k in DEFAULTS if len({r.config[k] for r in runs}) > 1]
    return [f"run {r.number or i}" + ": " * bool(differ)
            + ", ".join(f"{k} {r.config[k]}" for k in differ) for i, r in enumerate(runs, start=1)]


class Picture(Figure):
    """A figure that belongs to no pyplot: any thread may draw it, and a notebook shows it."""

    def _repr_png_(self):
        png = io.BytesIO()
        self.savefig(png, format="png")
        return png.getvalue()


def draw_runs(runs, against="step"):
    """Draw runs over each other: a line for the smoothed train loss, marks for val.

    `against` is "step" or "seconds". Raises ValueError for no run that has a loss.
    """
    names = dict(zip(runs, labels(runs), strict=True))
    places = {r: r.number or i for i, r in enumerate(runs, start=1)}
    runs = [r for r in runs if r.losses]
    if not runs:
        raise ValueError("No run to draw: train one, or choose one in the list.")
    figure = Picture(figsize=(10, 4.2))
    ax = figure.add_subplot()
    drawn = np.concatenate([_draw_run(ax, r, names[r], places[r] - 1, against) for r in runs])
    drawn = drawn[np.isfinite(drawn)]
    if len(drawn):
        top = min(drawn.max(), drawn.min() + 1)       # a run that flies off leaves the picture
        ax.set_ylim(drawn.min() - 0.03, top + 0.03)
    ax.plot([], [], color="gray", label="line: train, smoothed")
    ax.plot([], [], "o", color="gray", label="marks: val")
    ax.set(xlabel="training time (seconds)" if against == "seconds" else "step",
           ylabel="loss (nats per character)", title=_finding(runs, places))
    ax.legend(fontsize=10 if len(runs) < 6 else 8)
    return figure


def _draw_run(ax, run, label, k, against):
    """Draw one run in the k-th style; return all losses that it drew."""
    color, dashes = helpers.COLORS[k % 7], ["-", "--", ":"][k // 7 % 3]
    losses, looks = list(run.losses), list(run.looks)       # the training may be going on
    window = min(1000, max(1, len(losses) // 10))
    smooth = helpers.rolling_mean(losses, window)
    x, every = np.arange(window, len(losses) + 1), max(1, len(smooth) // 2000)
    steps, seconds, vals = np.array([(0, 0.0, math.nan), *looks]).T
    if against == "seconds":
        x = np.interp(x, [*steps, len(losses)], [*seconds, max(run.seconds, seconds[-1])])
        steps = seconds
    mark = "os^DvPX"[k % 7]
    ax.plot(x[::every], smooth[::every], color=color, ls=dashes, lw=1.2)
    ax.plot(steps, vals, mark, color=color, ms=6)
    ax.plot([], [], color=color, ls=dashes, marker=mark, label=label)
    return np.concatenate([smooth, vals])


def _finding(runs, places):
    ranked = sorted((r for r in runs if math.isfinite(r.latest_val())), key=Run.latest_val)
    if not ranked:
        return f"Run {places[runs[0]]}: val is not measured yet"
    best, *others = ranked
    title = f"Run {places[best]}" + " is lowest" * bool(others) + f": val {best.latest_val():.3f}"
    if others:
        behind = others[0].latest_val() - best.latest_val()
        title += f", {behind:.3f} below run {places[others[0]]}"
    return title + " so far" * any(r.status == "training" for r in runs)


def save_csv(runs, path):
    """Write the leaderboard to `path`, whole or not at all. Raises OSError."""
    part = path.with_suffix(f".{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        table(runs).to_csv(part, index=False)
        part.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            part.unlink()
        raise


# ------------------------------------------------------------------------------------ the panel


class Board:
    """The runs so far, and the one training that may be under way, in a thread of its own."""

    def __init__(self):
        self.runs, self.current = [], None
        self._lock, self._stop, self._thread = threading.Lock(), Stop(), None

    def add(self, run):
        """Give a finished run its number and keep it, unless the same one is there already."""
        with self._lock:
            if all((r.config, r.losses) != (run.config, run.losses) for r in self.runs):
                run.number = self._next()
                self.runs.append(run)

    def start(self, parts, config, on_progress, on_end):
        """Train beside the caller; return the Run at once.

        `on_progress(run)` and `on_end(run)` are called in its thread. What goes wrong there makes
        a failed run. Raises RuntimeError while another training is under way.
        """
        with self._lock:
            if self.current:
                raise RuntimeError(f"Run {self.current.number} is still training. "
                                   "Wait for its end, or press Stop first.")
            run = Run(complete(config), number=self._next())
            stop = Stop()
            thread = threading.Thread(target=self._work, daemon=True,
                                      args=(run, parts, on_progress, on_end, stop))
            thread.start()
            self.current, self._stop, self._thread = run, stop, thread
        return run

    def stop(self):
        """Ask the training to end. It does so before its next step."""
        self._stop.set()

    def end(self):
        """End the training that is under way, if any, and wait until it is gone."""
        self._stop.hurry = True
        self._stop.set()
        self.join()

    def join(self, timeout=None):
        """Wait for the training to end."""
        if self._thread:
            self._thread.join(timeout)

    def _next(self):
        return 1 + max((r.number for r in [*self.runs, self.current] if r), default=0)

    def _work(self, run, parts, on_progress, on_end, stop):
        try:
            _carry_out(run, parts, on_progress, stop)
        except Exception as error:
            run.status, run.note = "failed", f"{type(error).__name__}: {error}"
        with self._lock:
            self.runs.append(run)
            self.current = None
        on_end(run)


BOARD = Board()  # of this kernel: it outlives the cell, and a restart clears it


def playground_panel(parts, defaults=None, runs=(), board=BOARD):
    """Controls, Train and Stop, the live picture, and the leaderboard of `board`.

    `parts` as in `run`, `defaults` what the controls show first, `runs` come onto the board. A
    training that an earlier panel started is ended before.
    """
    board.end()
    for r in runs:
        board.add(r)
    return Playground(parts, complete(defaults or {}), board)


class Playground(ipywidgets.VBox):
    """The panel that playground_panel makes."""

    def __init__(self, parts, defaults, board):
        self.parts, self.board, self.seed = parts, board, defaults["seed"]
        self.controls = {
            name: ipywidgets.Dropdown(
                options=[(f"{v:,}" if isinstance(v, int) else f"{v}", v)
                         for v in sorted({*offered, defaults[name]})], value=defaults[name],
                description=name, style={"description_width": "7em"}, layout={"width": "15em"})
            for name, offered in OFFERED.items()}
        self.controls["recipe"].observe(self._usual, "value")
        self.train = ipywidgets.Button(description="Train", button_style="primary", icon="play")
        self.halt = ipywidgets.Button(description="Stop", icon="stop", disabled=True)
        self.save = ipywidgets.Button(description="Save CSV", icon="save")
        self.line, self.message = ipywidgets.HTML(), ipywidgets.HTML()
        self.picture = ipywidgets.Image(format="png", layout={"max_width": "100%"})
        self.drawn = ipywidgets.SelectMultiple(
            description="drawn", rows=5, style={"description_width": "7em"},
            layout={"width": "46em", "max_width": "100%"})
        self.against = ipywidgets.Dropdown(options=["step", "seconds"], description="against",
                                           style={"description_width": "7em"},
                                           layout={"width": "15em"})
        self.leaders = ipywidgets.HTML()
        self._lock, self._told, self._choosing = threading.RLock(), 0.0, False
        for button, action in ((self.train, self._train), (self.halt, self._halt),
                               (self.save, self._save)):
            button.on_click(lambda _, action=action: self._guarded(action))
        for control in (self.drawn, self.against):
            control.observe(lambda _: self._guarded(self._draw), "value")
        wrap = {"flex_flow": "row wrap"}
        super().__init__([
            ipywidgets.HBox(list(self.controls.values()), layout=wrap),
            ipywidgets.HBox([self.train, self.halt, self.line], layout=wrap),
            self.message, self.picture,
            ipywidgets.HBox([self.drawn, self.against], layout=wrap),
            self.leaders, self.save,
        ])
        self._list(board.runs)

    def _guarded(self, action):
        """What goes wrong in a handler would end in a log: say it in the page."""
        try:
            action()
        except Exception as error:
            self._say(f"{type(error).__name__}: {error}")

    def _say(self, text):
        self.message.value = f"<div role='status'>{html.escape(text)}</div>"

    def _usual(self, change):
        usual = USUAL[change.new]
        for name, value in usual.items():
            self.controls[name].value = value
        self._say(f"Recipe {change.new}: " + " and ".join(
            f"{name} {value}" for name, value in usual.items()) + " are usual for it, and now set.")

    def _train(self):
        config = {name: control.value for name, control in self.controls.items()}
        self._say("")
        try:
            self.board.start(self.parts, config | {"seed": self.seed}, self._progress, self._end)
        except RuntimeError as error:
            self._say(f"Not started: {error}")

    def _halt(self):
        if run := self.board.current:
            self._say(f"Stopping run {run.number}; its val is being measured.")
        self.board.stop()

    def _save(self):
        path = helpers.OUTPUT / "playground.csv"
        name = f"{path.parent.name}/{path.name}"
        try:
            save_csv(self.board.runs, path)
        except OSError as error:
            return self._say(f"{name} cannot be written ({error.strerror}): nothing is saved.")
        return self._say(f"Saved: {name}, {len(self.board.runs)} runs.")

    def _progress(self, run):
        steps, now = len(run.losses), time.perf_counter()
        if steps == 0:
            self.halt.disabled = False
            self.line.value = (f"Run {run.number}: cutting the names into windows of "
                               f"{run.config['block_size']} characters")
            return
        speed = steps / run.seconds
        val = f"val {run.looks[-1][2]:.3f}" if run.looks else "val not yet measured"
        self.line.value = (
            f"Run {run.number}: step {steps:,} of {run.total:,}, train {run.smoothed():.3f}, "
            f"{val}; {speed:,.0f} steps a second, {(run.total - steps) / speed:,.0f} s left")
        if now - self._told > 1:
            self._guarded(self._draw)        # a training need not end for the want of a picture
            self._told = time.perf_counter()

    def _end(self, run):
        self.halt.disabled = True
        measured = f": train {run.train:.3f}, val {run.val:.3f}" * (not math.isnan(run.val))
        self.line.value = (f"Run {run.number} {run.status} after {len(run.losses):,} steps, "
                           f"{run.seconds:.1f} s{measured}")
        self._say(f"Run {run.number} {run.status}: {run.note}." if run.note else "")
        self._guarded(lambda: self._list([run]))

    def _list(self, new):
        """Show the board; draw the `new` runs, too."""
        with self._lock:
            runs, chosen = list(self.board.runs), [*self.drawn.value, *new]
            self._choosing = True
            self.drawn.options = list(zip(labels(runs), runs, strict=True))
            self.drawn.value = [r for r in runs if r in chosen]
            self._choosing = False
        self.leaders.value = _leaderboard(runs)
        self._draw()

    def _draw(self):
        if self._choosing:
            return
        with self._lock:
            runs = [r for r in [*self.drawn.value, self.board.current] if r and r.losses]
            self.picture.layout.display = None if runs else "none"
            if runs:
                self.picture.value = draw_runs(runs, self.against.value)._repr_png_()


STYLE = """<style>
.playground-runs {font-size: 12px; line-height: 1.6}
.playground-runs th, .playground-runs td {padding: 1px 5px; text-align: right; white-space: nowrap}
.playground-runs th {vertical-align: bottom}
</style>"""


def _leaderboard(runs):
    """The table as HTML, the notes below it. Word lists are told apart only where they differ."""
    if not runs:
        return "No run yet: press Train."
    t = table(runs)
    notes = "".join(f"<div>Run {r.number} {r.status}: {html.escape(r.note)}.</div>"
                    for r in runs if r.note)
    t["steps"] = [f"{done:,}" + f" of {most:,}" * (done < most)
                  for done, most in zip(t.steps, t.max_steps, strict=True)]
    same = ["names"] if t.names.nunique() == 1 else []
    rows = t.drop(columns=["seed", "max_steps", "note", *same]).to_html(
        index=False, border=0, na_rep="", classes="playground-runs", formatters={
            "parameters": "{:,}".format, "names": "{:,}".format, "learning_rate": "{:g}".format,
            "train": "{:.3f}".format, "val": "{:.3f}".format, "seconds": "{:.1f}".format})
    for name in DEFAULTS:
        rows = rows.replace(f"<th>{name}<", f"<th>{name.replace('_', '_<br>')}<")  # narrow columns
    return f"{STYLE}<div style='overflow-x: auto'>{rows}</div>{notes}"
