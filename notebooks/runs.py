"""One configuration in, one row out: any model of the course, trained and measured. Notebook 09.

A configuration is a dict: a model of MODELS and the settings that differ from its defaults. A row
is a dict of plain values, with all that is needed to measure it again.
"""

import difflib
import functools
import json
import math
import os
import platform
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
import torch.nn.functional as F
from torch import nn

import helpers
import rivals

NAMES = "data/names.txt"
COMMON = {"seed": 42, "words": NAMES, "copies": "kept", "test": False}
LECTURE = COMMON | {
    "block_size": 8, "n_embd": 24, "n_hidden": 128, "max_steps": 200_000, "budget": None,
    "batch_size": 32,
    "learning_rate": 0.1, "schedule": "step", "norm": "fixed", "momentum": 0.1,
    "activation": "tanh",
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
    "transformer": ("names", FITTED | {"n_hidden": 64, "n_layers": 4, "n_head": 4,
                                       "dropout": 0.0}),
    "n-gram": ("names", COMMON | {"order": 5, "weight": 1.0}),
}
SIZES = ("block_size", "n_embd", "n_hidden", "n_skip", "n_layers", "n_head", "kernel_size", "group",
         "max_steps", "batch_size")
OPTIONAL = {"steps": 1000, "budget": 45.0, "average": 0.99}    # None by default: an example
ACTIVATIONS = {"tanh": torch.tanh, "relu": F.relu, "gelu": F.gelu, "silu": F.silu}
ROW = ["model", "seed", "steps", "parameters", "train", "val", "unseen", "copied", "test",
       "seconds", "cpu", "by_position", "config", "versions", "threads"]


class Diverged(ArithmeticError):
    """The loss of a training is no number."""


class Interrupted(Exception):
    """A training was stopped by hand; `lossi` are its losses so far."""

    lossi = ()


def complete(config):
    """The configuration with the default of every setting that it leaves out.

    Raises ValueError for an unknown model or setting, a value of another type, below 0 or, of a
    size, 0, a warmup of 1 or more, an n_head that does not divide n_hidden.
    """
    if not isinstance(config, dict):
        raise ValueError(f"the configuration is {config!r}; expected a dict with its 'model'")
    config = dict(config)
    model = config.pop("model", None)
    if model not in MODELS:
        raise ValueError(f"model is {model!r}; expected one of {', '.join(MODELS)}")
    defaults = MODELS[model][1]
    for name, value in config.items():
        if name not in defaults:
            close = difflib.get_close_matches(name, defaults, n=1)
            hint = f"did you mean {close[0]}?" if close else f"it has {', '.join(defaults)}"
            raise ValueError(f"the model {model!r} has no setting {name!r}; {hint}")
        default = OPTIONAL.get(name, defaults[name])
        if value is not None or defaults[name] is not None:
            _check_type(name, value, default)
            config[name] = float(value) if isinstance(default, float) else value
    whole = {"model": model} | defaults | config
    helpers.check_sizes(**{name: whole[name] for name in SIZES if name in whole})
    if whole.get("warmup", 0) >= 1:
        raise ValueError(f"warmup is {whole['warmup']!r}; expected a number from 0 to below 1")
    if whole.get("n_hidden", 0) % whole.get("n_head", 1):
        raise ValueError(f"n_head is {whole['n_head']}; expected a divisor of {whole['n_hidden']}, "
                         "n_hidden")
    return whole


def _check_type(name, value, default):
    kind = type(default)
    fits = isinstance(value, (int, float) if kind is float else kind)
    if not fits or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"{name} is {value!r}; expected {kind.__name__}, as in {default!r}")
    if kind in (int, float) and not 0 <= value < math.inf:
        raise ValueError(f"{name} is {value!r}; expected a number of 0 or more")


def key(config):
    """The configuration as a text that is the same for equal ones, defaults left out."""
    config = complete(config)
    defaults = MODELS[config["model"]][1]
    return json.dumps({k: v for k, v in config.items() if k == "model" or v != defaults[k]},
                      sort_keys=True)


def _cached(function):
    """Cache a function of a word list and more, until the list's file changes."""
    cached = functools.lru_cache(maxsize=8)(lambda files, *args: function(*args))

    @functools.wraps(function)
    def wrapper(words, *args):
        paths = Path(words).absolute(), helpers.ROOT / words       # where helpers.load_words looks
        stats = [(path, path.stat()) for path in paths if os.path.isfile(path)]
        return cached(tuple((p, s.st_mtime_ns, s.st_size) for p, s in stats), words, *args)
    return wrapper


@_cached
def load_parts(words, copies):
    """(stoi, parts): vocabulary and the three splits of a word list or of running text.

    `words` is a file of words, or "text" for the topics of Python's own help, each paragraph
    once, in pieces of 256 characters, with '·' for '.'. `copies`: "kept"; "not in train" leaves
    out of train all that also stands in val or test; "none" splits the list of distinct words.
    """
    if copies not in ("kept", "not in train", "none"):
        raise ValueError(f"copies is {copies!r}; expected 'kept', 'not in train' or 'none'")
    if words == "text":
        if copies != "kept":
            raise ValueError(f"copies is {copies!r}; running text has only 'kept'")
        return _text_parts()
    everything = helpers.load_words(words)
    parts = helpers.split_words(list(dict.fromkeys(everything)) if copies == "none" else everything)
    if copies == "not in train":
        held_out = set(parts["val"]) | set(parts["test"])
        parts["train"] = [w for w in parts["train"] if w not in held_out]
    return helpers.build_vocab(everything)[0], parts


def _text_parts():
    from pydoc_data.topics import topics

    paragraphs = "\n\n".join(topics[name] for name in sorted(topics)).split("\n\n")
    text = "\n\n".join(dict.fromkeys(paragraphs)).replace(".", "·")   # topics share paragraphs
    pieces = [text[i : i + 256] for i in range(0, len(text), 256)]
    return helpers.build_vocab(pieces)[0], helpers.split_words(pieces)


@_cached
def tensors(words, copies, split, form, block_size):
    """(X, Y) of a split, as windows or as whole names."""
    stoi, parts = load_parts(words, copies)
    if form == "windows":
        return helpers.build_dataset(parts[split], block_size, stoi)
    return helpers.encode_names(parts[split], stoi)


def data(config, split):
    """(X, Y) of a split, "train", "val" or "test", in the form that the model takes."""
    config = complete(config)
    if split not in ("train", "val", "test"):
        raise ValueError(f"split is {split!r}; expected 'train', 'val' or 'test'")
    return tensors(config["words"], config["copies"], split, MODELS[config["model"]][0],
                   config.get("block_size"))


def build(config):
    """The untrained model of a configuration, drawn from its seed."""
    config = complete(config)
    model, c = config["model"], config
    vocab_size = len(load_parts(c["words"], c["copies"])[0])
    torch.manual_seed(c["seed"])
    if model in ("mlp", "tree"):
        return _lecture_model(vocab_size, c)
    if model == "torch tree":
        return rivals.TorchTree(vocab_size, c["block_size"], c["n_embd"], c["n_hidden"],
                                c["dropout"])
    if model == "flat":
        return rivals.make_flat(vocab_size, c["block_size"], c["n_embd"], c["n_hidden"],
                                c["dropout"])
    if model == "wavenet":
        return helpers.WaveNet(vocab_size, c["n_hidden"], c["n_skip"], c["dilations"],
                               **{name: c[name] for name in STACK})
    if model == "transformer":
        length = data(c, "train")[0].shape[1], data(c, "val")[0].shape[1]
        return rivals.Transformer(vocab_size, c["n_hidden"], c["n_layers"], c["n_head"],
                                  c["dropout"], max(*length, data(c, "test")[0].shape[1]))
    if model == "n-gram":
        return rivals.NGram(vocab_size, c["order"], c["weight"])
    kind = {"gru": nn.GRU, "lstm": nn.LSTM}[model]
    return rivals.Recurrent(kind, vocab_size, c["n_hidden"], c["n_layers"], c["dropout"])


def _lecture_model(vocab_size, c):
    norms = {"fixed": helpers.BatchNorm1d, "bug": helpers.BatchNorm1dPart3}
    for name, known in (("norm", norms), ("activation", ACTIVATIONS)):
        if c[name] not in known:
            raise ValueError(f"{name} is {c[name]!r}; expected one of {', '.join(known)}")
    sizes = vocab_size, c["block_size"], c["n_embd"], c["n_hidden"]
    if c["model"] == "mlp":
        model = helpers.make_mlp(*sizes, norm=norms[c["norm"]])
    else:
        model = helpers.make_tree(*sizes, n=c["group"], norm=norms[c["norm"]])
    for i, layer in enumerate(model.layers):
        if isinstance(layer, helpers.BatchNorm1dPart3):
            layer.momentum = c["momentum"]
        if isinstance(layer, helpers.Tanh) and c["activation"] != "tanh":
            model.layers[i] = rivals.Activation(ACTIVATIONS[c["activation"]])
    return model


def random_batches(X, Y, batch_size):
    """The lecture's batches: `batch_size` examples drawn with torch.randint, without end."""
    while True:
        ix = torch.randint(0, X.shape[0], (batch_size,))
        yield X[ix], Y[ix]


def make_schedule(kind, optimizer, max_steps):
    """The learning rate over the steps, as a share of the first: "step" is the lecture's."""
    rates = {
        "step": lambda i: 1.0 if i < 0.75 * max_steps else 0.1,
        "constant": lambda i: 1.0,
        "linear": lambda i: 1 - i / max_steps,
        "cosine": lambda i: (1 + math.cos(math.pi * i / max_steps)) / 2,
    }
    if kind not in rates:
        raise ValueError(f"schedule is {kind!r}; expected one of {', '.join(rates)}")
    return torch.optim.lr_scheduler.LambdaLR(optimizer, rates[kind])


def make_optimizer(model, config):
    """AdamW that shrinks the matrices alone, as in notebook 08; the tree of 06 shrinks all."""
    embeddings = [m.weight for m in model.modules() if isinstance(m, nn.Embedding)]
    embeddings += [model.place] if config["model"] == "transformer" else []
    decays = {name: config["model"] == "torch tree"
              or (p.ndim == 2 and all(p is not table for table in embeddings))
              for name, p in model.named_parameters()}
    groups = [{"params": [p for name, p in model.named_parameters() if decays[name] == on],
               "weight_decay": config["weight_decay"] * on} for on in (True, False)]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=config["learning_rate"],
                             fused=True)


def train(model, config, report=None):
    """Train the model of a configuration; return its losses.

    `report(tenth, val)` is called after every tenth of the training, if given. Raises Diverged
    when the loss is no number, Interrupted when the training was stopped by hand, with the losses
    so far as its attribute `lossi`.
    """
    c = complete(config)
    if c["model"] == "n-gram":
        model.count(*data(c, "train"))
        return []
    lossi, steps = (_train_as_in_the_lecture if "max_steps" in c else _train_with_adamw)(
        model, c, report)
    if lossi and not math.isfinite(lossi[-1]):
        raise Diverged(f"the loss is {lossi[-1]} at step {len(lossi) - 1}; lower learning_rate")
    if len(lossi) < steps:
        error = Interrupted(f"stopped by hand after {len(lossi)} of {steps} steps")
        error.lossi = lossi
        raise error
    return lossi


def _train_as_in_the_lecture(model, c, report):
    X, Y = data(c, "train")
    steps = helpers.capped(c["max_steps"])
    options = _reporting(model, c, steps, report)
    torch.manual_seed(c["seed"] + 1)
    if c["schedule"] == "step":
        return helpers.train(model, X, Y, max_steps=steps, batch_size=c["batch_size"],
                             learning_rate=c["learning_rate"], **options), steps
    optimizer = torch.optim.SGD(model.parameters(), lr=c["learning_rate"])
    schedule = make_schedule(c["schedule"], optimizer, steps)
    return helpers.fit(model, random_batches(X, Y, c["batch_size"]), optimizer, steps,
                       schedule=schedule, **options), steps


def _train_with_adamw(model, c, report):
    epoch = math.ceil(len(data(c, "train")[0]) / c["batch_size"])
    steps = helpers.capped(c["steps"] or c["epochs"] * epoch, 16)
    optimizer = make_optimizer(model, c)
    # OneCycleLR divides by 0 when its warmup is a single step; a little less of it is the same.
    warmup = c["warmup"] * (0.999 if c["warmup"] * steps == 1 else 1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, c["learning_rate"], total_steps=steps, pct_start=warmup,
        cycle_momentum=c["model"] == "torch tree")
    torch.manual_seed(c["seed"] + 1)
    return helpers.fit(model, batches(c), optimizer, steps, schedule=schedule,
                       average=c["average"], **_reporting(model, c, steps, report)), steps


def _reporting(model, c, steps, report):
    if not report:
        return {}
    every = math.ceil(steps / 10)
    return {"every": every, "callback": lambda i: report(i // every, loss(model, c))}


def batches(config):
    """Batches of train without end, in the form that the configuration's model takes."""
    X, Y = data(config, "train")
    if MODELS[config["model"]][0] == "windows":
        return helpers.window_batches(X, Y, config["batch_size"])
    return helpers.name_batches(X, Y, config["batch_size"], config["model"] == "wavenet")


def steps_within(budget, config):
    """How many steps the processor does in `budget` seconds, by a probe that is thrown away."""
    train(build(config), with_steps(config, 2))        # pays for what is done once
    steps = 8
    while True:
        model, t0 = build(config), time.process_time()
        done = len(train(model, with_steps(config, steps)))
        t = time.process_time() - t0
        if done < steps or t > budget / 20:
            return max(1, int(budget / t * done))
        steps = math.ceil(steps * min(8, max(2, budget / 15 / t)))


def with_steps(config, steps):
    """The configuration with a number of steps in the place of a budget."""
    return config | {"max_steps" if "max_steps" in complete(config) else "steps": steps,
                     "budget": None}


@torch.no_grad()
def position_losses(model, config, split):
    """(N, L): the loss of every character of every word of a split, NaN where there is none.

    Raises Diverged when the model's own losses are no numbers.
    """
    c = complete(config)
    X, Y = data(c, split)
    parts = load_parts(c["words"], c["copies"])[1]
    lengths = torch.tensor([len(w) + 1 for w in parts[split]])
    out = torch.full((len(lengths), int(lengths.max())), torch.nan)
    real = torch.arange(out.shape[1]) < lengths[:, None]
    packed = c["model"] == "wavenet"
    values = []
    with helpers.mode(model, False), helpers.threads(1):
        for x, y in zip(X.split(1024), Y.split(1024), strict=True):
            if y.ndim == 2:
                x, y = helpers._without_padding(x, y, packed)
            each = F.cross_entropy(model(x).flatten(0, -2), y.flatten(), reduction="none",
                                   ignore_index=helpers.PAD)
            values.append(each[y.flatten() != helpers.PAD])
    values = torch.cat(values)
    if not values.isfinite().all():
        raise Diverged(f"the losses on {split} are no numbers; lower learning_rate")
    out[real] = values
    return out


def loss(model, config, split="val"):
    """The mean loss over all characters of a split."""
    return position_losses(model, config, split).nanmean().item()


def unseen_words(config, words):
    """(N,) bool: which words do not stand in train, copies kept; all, if the list has no copies."""
    if config["copies"] == "none":
        return torch.ones(len(words), dtype=torch.bool)
    known = set(load_parts(config["words"], "kept")[1]["train"])
    return torch.tensor([w not in known for w in words])


def measure(config, report=None, partial=False):
    """Train a configuration from nothing: (row, model), the row as a dict of plain values.

    `seconds` are those of the training on the clock, `cpu` the processor's own. `unseen` is val
    over the words that do not stand in train, `copied` over those that do (see unseen_words; None
    where there are none), `by_position` val at the first character, the second, ...,
    the tenth, and at the end of the word. `test` is None unless the configuration asks for it.
    With `partial` a training that is stopped by hand gives the row of what was trained by then.
    """
    config = complete(config)
    timed = config
    if config.get("budget") and not config.get("steps"):
        timed = with_steps(config, steps_within(config["budget"], config))
    model = build(config)
    t0, c0 = time.perf_counter(), time.process_time()
    try:
        lossi = train(model, timed, report)
    except Interrupted as stopped:
        if not partial:
            raise
        lossi = stopped.lossi
    seconds, cpu = time.perf_counter() - t0, time.process_time() - c0
    parts = load_parts(config["words"], config["copies"])[1]
    val = position_losses(model, config, "val")
    unseen = unseen_words(config, parts["val"])
    ends = val[torch.arange(len(val)), (~val.isnan()).sum(1) - 1]
    letters = val.clone()
    letters[torch.arange(len(val)), (~val.isnan()).sum(1) - 1] = torch.nan
    letters = F.pad(letters, (0, 10), value=torch.nan)[:, :10]
    places = [*letters.nanmean(0).tolist(), ends.mean().item()]
    row = {
        "model": config["model"], "seed": config["seed"], "steps": len(lossi),
        "parameters": sum(p.nelement() for p in model.parameters()),
        "train": loss(model, config, "train"), "val": val.nanmean().item(),
        "unseen": val[unseen].nanmean().item() if unseen.any() else None,
        "copied": val[~unseen].nanmean().item() if not unseen.all() else None,
        "test": loss(model, config, "test") if config["test"] else None,
        "seconds": round(seconds, 2), "cpu": round(cpu, 2),
        "by_position": [None if math.isnan(p) else round(p, 5) for p in places],
        "config": key(config),
        "versions": f"Python {platform.python_version()}, torch {torch.__version__}",
        "threads": 1,
    }
    return row, model


