"""One configuration in, one row out: any model of the course, trained and measured.

A configuration is a dict: a model of MODELS and the settings that differ from its defaults.
`measure` and `key` complete it; every other function takes a completed one, here called c. A row
is a dict of plain values with everything you need to measure it again.
"""

import contextlib
import difflib
import functools
import json
import math
import platform
import subprocess
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

import helpers
from course import fitting, memory, models, own, wavenet

NAMES = "data/names.txt"
COMMON = {"seed": 42, "words": NAMES, "pieces": 0, "copies": "kept", "test": False}
LECTURE = COMMON | {
    "block_size": 8, "n_embd": 24, "n_hidden": 128, "max_steps": 200_000, "budget": None,
    "batch_size": 32, "learning_rate": 0.1, "schedule": "step", "norm": "fixed",
    "momentum": 0.1, "activation": "tanh",
}
FITTED = COMMON | {
    "epochs": 12, "steps": None, "budget": None, "batch_size": 256, "learning_rate": 4e-3,
    "weight_decay": 0.0, "warmup": 0.12, "average": None,
}
STACK = {"kernel_size": 2, "dropout": 0.0, "embd_dropout": 0.0, "head_dropout": 0.0,
         "residual": True, "gate": True, "skip": True, "head": True}
# The form of a model's data ("windows" or whole "names") and all its settings by default.
MODELS = {
    "mlp": ("windows", LECTURE | {"n_embd": 10, "n_hidden": 200}),
    "tree": ("windows", LECTURE | {"group": 2}),
    "torch tree": ("windows", FITTED | {
        "block_size": 8, "n_embd": 24, "n_hidden": 128, "learning_rate": 5e-3, "warmup": 0.3,
        "weight_decay": 0.01, "dropout": 0.0}),
    "flat": ("windows", FITTED | {"block_size": 5, "n_embd": 24, "n_hidden": 1536,
                                  "dropout": 0.0}),
    "wavenet": ("names", FITTED | STACK | {"n_hidden": 96, "n_skip": 192,
                                           "dilations": [1, 2, 4, 8, 1, 2]}),
    "gru": ("names", FITTED | {"n_hidden": 256, "n_layers": 2, "dropout": 0.0}),
    "lstm": ("names", FITTED | {"n_hidden": 256, "n_layers": 2, "dropout": 0.0}),
    "memory": ("names", FITTED | {"n_hidden": 192, "n_layers": 4, "dropout": 0.0,
                                  "embd_dropout": 0.0, "zoneout": 0.0, "threads": 1}),
    "transformer": ("names", FITTED | {"n_hidden": 64, "n_layers": 4, "n_head": 4,
                                       "dropout": 0.0}),
    "n-gram": ("names", COMMON | {"order": 5, "weight": 1.0}),
} | {name: (form, FITTED | settings) for name, (form, settings, _) in own.MODELS.items()}
CHECKED = ("block_size", "n_embd", "n_hidden", "n_skip", "n_layers", "n_head", "kernel_size",
           "dilations", "group", "max_steps", "batch_size")                # by helpers.check
OPTIONAL = {"steps": 1000, "budget": 45.0, "average": 0.99}    # None by default: an example
NORMS = {"fixed": helpers.BatchNorm1d, "bug": helpers.BatchNorm1dPart3}
ACTIVATIONS = {"tanh": torch.tanh, "relu": F.relu, "gelu": F.gelu, "silu": F.silu}
# The learning rate of step i of n, as a share of the first one; "step" is the lecture's.
SCHEDULES = {
    "step": lambda i, n: 1.0 if i < 0.75 * n else 0.1,
    "constant": lambda i, n: 1.0,
    "linear": lambda i, n: 1 - i / n,
    "cosine": lambda i, n: (1 + math.cos(math.pi * i / n)) / 2,
}
KNOWN = {"copies": ("kept", "not in train", "none"), "norm": NORMS, "activation": ACTIVATIONS,
         "schedule": SCHEDULES}
ROW = ["model", "seed", "steps", "parameters", "train", "val", "unseen", "copied", "test",
       "seconds", "cpu", "by_position", "config", "versions", "threads", "learning_rate", "commit",
       "processor"]


class Diverged(ArithmeticError):
    """The loss of a training is NaN or infinite."""


class Interrupted(Exception):
    """A training was stopped by hand; `lossi` holds its losses so far."""

    lossi = ()


def complete(config):
    """The configuration with the default of every setting that it leaves out.

    Raises ValueError for an unknown model or setting and for a value outside its range.
    """
    if not isinstance(config, dict) or config.get("model") not in MODELS:
        model = config.get("model") if isinstance(config, dict) else config
        raise ValueError(f"model is {model!r}; expected one of {', '.join(MODELS)}")
    defaults = MODELS[config["model"]][1]
    c = {"model": config["model"]} | defaults
    for name, value in config.items():
        if name not in c:
            close = difflib.get_close_matches(name, defaults, n=1)
            hint = f"did you mean {close[0]}?" if close else f"it has {', '.join(defaults)}"
            raise ValueError(f"the model {c['model']!r} has no setting {name!r}; {hint}")
        if name != "model" and not (value is None and defaults[name] is None):
            c[name] = _checked(name, value, OPTIONAL.get(name, defaults[name]))
    helpers.check(**{name: c[name] for name in CHECKED if name in c})
    for name, known in KNOWN.items():
        if c.get(name) not in (None, *known):
            raise ValueError(f"{name} is {c[name]!r}; expected one of {', '.join(known)}")
    if c.get("warmup", 0) >= 1:
        raise ValueError(f"warmup is {c['warmup']!r}; expected a number from 0 to below 1")
    if c.get("n_hidden", 0) % c.get("n_head", 1):
        raise ValueError(f"n_head is {c['n_head']}; expected a divisor of {c['n_hidden']}, "
                         "n_hidden")
    return c


def _checked(name, value, example):
    kind, value = type(example), value.as_posix() if isinstance(value, Path) else value
    fits = isinstance(value, (int, float) if kind is float else kind)
    if not fits or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"{name} is {value!r}; expected {kind.__name__}, as in {example!r}")
    if kind in (int, float) and not 0 <= value < math.inf:
        raise ValueError(f"{name} is {value!r}; expected a number of 0 or more")
    return float(value) if kind is float else value


def key(config):
    """The configuration as a text that is the same for equal ones, defaults left out."""
    c = complete(config)
    defaults = MODELS[c["model"]][1]
    return json.dumps({k: v for k, v in c.items() if k == "model" or v != defaults[k]},
                      sort_keys=True)


def _cached(function):
    """Cache a function of a word list and more, until the list's file changes."""
    cached = functools.lru_cache(maxsize=8)(lambda files, *args: function(*args))

    @functools.wraps(function)
    def wrapper(words, *args):
        path = helpers.find_file(words).absolute()
        return cached((path, path.stat().st_mtime_ns, path.stat().st_size), words, *args)
    return wrapper


@_cached
def load_parts(words, pieces, copies):
    """(stoi, parts): vocabulary and the three splits of a list of words.

    With `pieces` the file is running text, cut into pieces of so many characters, '·' for '.'. With
    `copies` "not in train", train has no word of val or test; with "none", the list of distinct
    words is split.
    """
    if pieces:
        text = helpers.find_file(words).read_text(encoding="utf-8").replace(".", "·")
        everything = [text[i : i + pieces] for i in range(0, len(text), pieces)]
    else:
        everything = helpers.load_words(words)
    parts = helpers.split_words(list(dict.fromkeys(everything)) if copies == "none" else everything)
    if copies == "not in train":
        held_out = set(parts["val"]) | set(parts["test"])
        parts["train"] = [w for w in parts["train"] if w not in held_out]
    return helpers.build_vocab(everything)[0], parts


@_cached
def tensors(words, pieces, copies, split, form, block_size):
    """(X, Y) of a split, as windows or as whole names; in quick mode of its first 500 words."""
    stoi, parts = load_parts(words, pieces, copies)
    part = parts[split][:helpers.capped(len(parts[split]), 500)]
    if form == "windows":
        return helpers.build_dataset(part, block_size, stoi)
    return wavenet.encode_names(part, stoi)


def data(c, split):
    """(X, Y) of a split, "train", "val" or "test", in the form that the model takes."""
    return tensors(c["words"], c["pieces"], c["copies"], split, MODELS[c["model"]][0],
                   c.get("block_size"))


def build(c):
    """The untrained model of a configuration, drawn from its seed."""
    vocab_size = len(load_parts(c["words"], c["pieces"], c["copies"])[0])
    windows = vocab_size, c.get("block_size"), c.get("n_embd"), c.get("n_hidden")
    layers = c.get("n_hidden"), c.get("n_layers")
    torch.manual_seed(c["seed"])
    if c["model"] in own.MODELS:
        return own.MODELS[c["model"]][2](vocab_size, c)
    match c["model"]:
        case "mlp":
            return _lecture_model(helpers.make_mlp(*windows, norm=NORMS[c["norm"]]), c)
        case "tree":
            tree = helpers.make_tree(*windows, n=c["group"], norm=NORMS[c["norm"]])
            return _lecture_model(tree, c)
        case "torch tree":
            return models.small_head(models.TreeNet(*windows, c["dropout"]))
        case "flat":
            return models.make_flat(*windows, c["dropout"])
        case "wavenet":
            return wavenet.WaveNet(vocab_size, c["n_hidden"], c["n_skip"], c["dilations"],
                                   **{name: c[name] for name in STACK})
        case "transformer":
            parts = load_parts(c["words"], c["pieces"], c["copies"])[1]
            longest = max(len(word) for part in parts.values() for word in part)
            return models.Transformer(vocab_size, *layers, c["n_head"], c["dropout"], longest + 1)
        case "memory":
            return memory.MemoryNet(vocab_size, c["n_hidden"], [1] * c["n_layers"], **{
                name: c[name] for name in ("dropout", "embd_dropout", "zoneout")})
        case "n-gram":
            return models.NGram(vocab_size, c["order"], c["weight"])
    kind = {"gru": nn.GRU, "lstm": nn.LSTM}[c["model"]]
    return models.Recurrent(kind, vocab_size, *layers, c["dropout"])


def _lecture_model(model, c):
    for i, layer in enumerate(model.layers):
        if isinstance(layer, NORMS[c["norm"]]):
            layer.momentum = c["momentum"]
        if isinstance(layer, helpers.Tanh) and c["activation"] != "tanh":
            model.layers[i] = models.Activation(ACTIVATIONS[c["activation"]])
    return model


def random_batches(X, Y, batch_size):
    """The lecture's batches: `batch_size` examples drawn with torch.randint, without end."""
    while True:
        ix = torch.randint(0, X.shape[0], (batch_size,))
        yield X[ix], Y[ix]


def train(model, c, report=None):
    """Train the model of a configuration; return its losses.

    `report(tenth, val)`, if given, is called after every tenth of the training. Raises Diverged
    when the loss is NaN or infinite, and Interrupted, with the losses so far as its attribute
    `lossi`, when the training was stopped by hand.
    """
    if c["model"] == "n-gram":
        model.count(*data(c, "train"))
        return []
    X, Y = data(c, "train")
    steps = (c.get("max_steps") or c["steps"]
             or c["epochs"] * math.ceil(len(X) / c["batch_size"]))
    by_lecture = c.get("schedule") == "step"
    steps = helpers.capped(steps) if by_lecture else helpers.capped(steps, 10)
    every = math.ceil(steps / 10)
    options = {"every": every, "callback": report and (
        lambda i: report(i // every, loss(model, c)))}
    torch.manual_seed(c["seed"] + 1)
    if by_lecture:
        lossi = helpers.train(model, X, Y, max_steps=steps, batch_size=c["batch_size"],
                              learning_rate=c["learning_rate"], **options)
    else:
        optimizer, schedule = make_optimizer(model, c, steps)
        fitted = models.ByLength(model) if c["model"] == "memory" else model
        lossi = fitting.fit(fitted, batches(c), optimizer, steps, schedule=schedule,
                            average=c.get("average"),
                            threads=c.get("threads", 1), **options)
    if lossi and not math.isfinite(lossi[-1]):
        raise Diverged(f"the loss is {lossi[-1]} at step {len(lossi) - 1}; lower learning_rate")
    if len(lossi) < steps:
        error = Interrupted(f"stopped by hand after {len(lossi)} of {steps} steps")
        error.lossi = lossi
        raise error
    return lossi


def make_optimizer(model, c, steps):
    """(optimizer, schedule): SGD for the lecture's models, AdamW with OneCycleLR for the others."""
    if "schedule" in c:
        optimizer = torch.optim.SGD(model.parameters(), c["learning_rate"])
        return optimizer, torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda i: SCHEDULES[c["schedule"]](i, steps))
    tree = c["model"] == "torch tree"           # notebook 07 decays all of its parameters
    decayed = {"params": model.parameters(), "weight_decay": c["weight_decay"]}
    groups = [decayed] if tree else models.adamw_groups(model, c["weight_decay"])
    optimizer = torch.optim.AdamW(groups, lr=c["learning_rate"], fused=True)
    return optimizer, fitting.one_cycle(optimizer, c["learning_rate"], steps, c["warmup"],
                                        cycle_momentum=tree)


def batches(c):
    """Batches of train without end, in the form that the configuration's model takes."""
    X, Y = data(c, "train")
    if "schedule" in c:
        return random_batches(X, Y, c["batch_size"])
    if MODELS[c["model"]][0] == "windows":
        return fitting.window_batches(X, Y, c["batch_size"])
    return wavenet.name_batches(X, Y, c["batch_size"], c["model"] == "wavenet")


def steps_within(budget, c):
    """How many steps the processor does in `budget` seconds, measured on a model thrown away."""
    train(build(c), with_steps(c, 2))               # the first steps are slower than the others
    steps = 8
    while True:
        model, t0 = build(c), time.process_time()
        done = len(train(model, with_steps(c, steps)))
        t = time.process_time() - t0
        if done < steps or t > budget / 20:
            return max(1, int(budget / t * done))
        steps = math.ceil(steps * min(8, max(2, budget / 15 / t)))


def with_steps(c, steps):
    """The configuration with a number of steps in place of a budget."""
    return c | {"max_steps" if "max_steps" in c else "steps": steps, "budget": None}


@torch.no_grad()
def position_losses(model, c, split):
    """(N, L): the loss of every character of every word of a split, NaN after a word's end.

    In quick mode only of the first 256 words. Raises Diverged when a loss is NaN or infinite.
    """
    words = load_parts(c["words"], c["pieces"], c["copies"])[1][split]
    lengths = torch.tensor([len(w) + 1 for w in words[:helpers.capped(len(words), 256)]])
    X, Y = data(c, split)
    rows = len(lengths) if Y.ndim == 2 else lengths.sum()
    X, Y = X[:rows], Y[:rows]
    out = torch.full((len(lengths), int(lengths.max())), torch.nan)
    real = torch.arange(out.shape[1]) < lengths[:, None]
    values = []
    with helpers.mode(model, False), helpers.threads(1):
        for x, y in zip(X.split(1024), Y.split(1024), strict=True):
            if y.ndim == 2:
                x, y = wavenet.without_padding(x, y, c["model"] == "wavenet")
            each = F.cross_entropy(model(x).flatten(0, -2), y.flatten(), reduction="none",
                                   ignore_index=fitting.PAD)
            values.append(each[y.flatten() != fitting.PAD])
    values = torch.cat(values)
    if not values.isfinite().all():
        raise Diverged(f"the losses on {split} are NaN or infinite; lower learning_rate")
    out[real] = values
    return out


def loss(model, c, split="val"):
    """The mean loss over all characters of a split."""
    return position_losses(model, c, split).nanmean().item()


def unseen_words(c, words):
    """(N,) bool: which words are not in train, copies kept; all of them for a list without any."""
    if c["copies"] == "none":
        return torch.ones(len(words), dtype=torch.bool)
    known = set(load_parts(c["words"], c["pieces"], "kept")[1]["train"])
    return torch.tensor([w not in known for w in words])


def measure(config, report=None, partial=False):
    """Train a configuration from scratch: (row, model), the row as a dict of plain values.

    `seconds` are the clock's, `cpu` the processor's own. `unseen` is val over the words that are
    not in train, `copied` over those that are (see unseen_words; None where there are none).
    `by_position` is val at the first character, the second, ..., the tenth, and at the end of the
    word. `test` is None unless the configuration asks for it. With `partial`, a training that is
    stopped by hand still gives the row of what was trained by then.
    """
    c = complete(config)
    steps = c.get("budget") and not c.get("steps") and steps_within(c["budget"], c)
    model = build(c)
    t0, c0 = time.perf_counter(), time.process_time()
    try:
        lossi = train(model, with_steps(c, steps) if steps else c, report)
    except Interrupted as stopped:
        if not partial:
            raise
        lossi = stopped.lossi
    return describe(model, c, lossi, time.perf_counter() - t0, time.process_time() - c0), model


@functools.cache
def commit():
    """The project's commit, or None where there is no git."""
    with contextlib.suppress(OSError):
        done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=helpers.ROOT,
                              capture_output=True, text=True)
        return done.stdout.strip() or None


def describe(model, c, lossi, seconds, cpu):
    """The row of a trained model; see measure."""
    val = position_losses(model, c, "val")
    unseen = unseen_words(c, load_parts(c["words"], c["pieces"], c["copies"])[1]["val"][:len(val)])
    last = torch.arange(len(val)), (~val.isnan()).sum(1) - 1
    ends, letters = val[last], val.clone()
    letters[last] = torch.nan
    letters = F.pad(letters, (0, 10), value=torch.nan)[:, :10]
    places = [*letters.nanmean(0).tolist(), ends.mean().item()]
    return {
        "model": c["model"], "seed": c["seed"], "steps": len(lossi),
        "parameters": sum(p.nelement() for p in model.parameters()),
        "train": loss(model, c, "train"), "val": val.nanmean().item(),
        "unseen": val[unseen].nanmean().item() if unseen.any() else None,
        "copied": val[~unseen].nanmean().item() if not unseen.all() else None,
        "test": loss(model, c, "test") if c["test"] else None,
        "seconds": round(seconds, 2), "cpu": round(cpu, 2),
        "by_position": [None if math.isnan(p) else round(p, 5) for p in places],
        "config": key(c),
        "versions": f"Python {platform.python_version()}, torch {torch.__version__}",
        "threads": c.get("threads", 1), "learning_rate": c.get("learning_rate"),
        "commit": commit(),
        "processor": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
    }
