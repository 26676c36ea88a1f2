"""What the notebooks write, kept for those that come later.

The layers are those of Andrej Karpathy's lecture *Building makemore, part 5*. Shapes: B examples,
T positions, C channels. Losses: nats per character. `MAKEMORE_QUICK=1` trains briefly.
"""

import contextlib
import io
import math
import os
import random
from numbers import Integral, Real
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import torch
import torch.nn.functional as F
from IPython import get_ipython
from IPython.display import display
from tqdm import tqdm

ROOT = Path(__file__).resolve().parent
OUTPUT = ROOT / "notebooks" / "output"
QUICK = os.environ.get("MAKEMORE_QUICK", "").lower() in ("1", "true", "yes", "on")


def capped(steps, most=60):
    """`steps`, or at most `most` in quick mode."""
    return min(steps, most) if QUICK else steps


# What a hyperparameter must be: the words for it, its type, and a test. All others are sizes.
SIZE = ("an integer from 1 to 100,000,000", Integral, lambda x: 1 <= x <= 10**8)
PAIR = ("an integer from 2 to 100,000,000", Integral, lambda x: 2 <= x <= 10**8)
POSITIVE = ("a positive number", Real, lambda x: 0 < x < math.inf)
RULES = {
    "learning_rate": POSITIVE, "temperature": POSITIVE, "batch_size": PAIR, "group_size": PAIR,
    "run_lecture": ("True or False", bool, lambda x: True),
    "weight_decay": ("a number of 0 or more", Real, lambda x: 0 <= x < math.inf),
    "recipe": ("'kept' or 'record'", str, lambda x: x in ("kept", "record")),
    "average": ("a number between 0 and 1", Real, lambda x: 0 < x < 1), "pair_seeds": PAIR,
    "seed": ("an integer from 0 to 1,000,000,000", Integral, lambda x: 0 <= x <= 10**9),
    "dilations": ("a list such as [1, 2]", list, lambda x: {*map(type, x)} == {int} and min(x) > 0),
}


def check(**hyperparameters):
    """The hyperparameters as a dict; ValueError if one is outside its range."""
    for name, x in hyperparameters.items():
        expected, kind, fits = RULES.get(name, SIZE)
        if isinstance(x, bool) != (kind is bool) or not isinstance(x, kind) or not fits(x):
            raise ValueError(f"{name} is {x!r}; expected {expected}")
    return hyperparameters


# --------------------------------------------------------------------------------------------- data
def find_file(name, kind="a text file of words"):
    """The path of a file; a relative one counts from here, or else from ROOT."""
    if found := [p for p in (Path(name).expanduser(), ROOT / name) if p.is_file()]:
        return found[0]
    raise FileNotFoundError(f"{name}: no such file; expected {kind}")


def load_words(names_file="data/names.txt"):
    """The words of a UTF-8 text file, one a line. Prints the first that looks like a table's."""
    text = find_file(names_file).read_text(encoding="utf-8-sig", errors="replace")
    if {"\ufffd", "\0"} & set(text):
        raise ValueError(f"{names_file}: not UTF-8; save it with UTF-8 encoding")
    words = [word for line in text.split("\n") if (word := line.strip())]
    if odd := [word for word in words if set('<>{},;"\t') & set(word)]:
        print(f"{names_file}: {odd[0][:60]!r} is one line, so it counts as one word")
    if dotted := [word for word in words if "." in word]:
        raise ValueError(f"{names_file}: remove the '.' from {dotted[0]!r}; it marks a word's ends")
    return words


def build_vocab(words):
    """(stoi, itos): from character to integer and back. '.' is 0, the others are sorted."""
    stoi = {ch: i for i, ch in enumerate([".", *sorted(set("".join(words)) - {"."})])}
    return stoi, {i: ch for ch, i in stoi.items()}


def split_words(words, seed=42):
    """{'train', 'val', 'test'}: the words shuffled and cut at 80% and 90%, as in the lecture."""
    if len(words) < 10:
        raise ValueError(f"{len(words)} words leave a split empty; use at least 10 words")
    shuffled = list(words)
    random.Random(int(seed)).shuffle(shuffled)
    n1, n2 = int(0.8 * len(words)), int(0.9 * len(words))
    return {"train": shuffled[:n1], "val": shuffled[n1:n2], "test": shuffled[n2:]}


def build_dataset(words, block_size, stoi):
    """(X, Y), int64: each window, (N, block_size), and the character that follows it, (N,)."""
    check(block_size=block_size)
    if unknown := set("".join(words)) - set(stoi):
        raise ValueError(f"{min(unknown)!r} is not in the vocabulary; build it from all words")
    X, Y = [], []
    for w in words:
        context = [0] * block_size
        for ch in w + ".":
            X.append(context)
            Y.append(stoi[ch])
            context = [*context[1:], stoi[ch]]
    return torch.tensor(X), torch.tensor(Y)


# ------------------------------------------------------------------------------------------- layers
class Linear:
    """x @ weight + bias: (..., fan_in) -> (..., fan_out)."""
    def __init__(self, fan_in, fan_out, bias=True):
        self.weight = torch.randn((fan_in, fan_out)) / fan_in**0.5
        self.bias = torch.zeros(fan_out) if bias else None

    def __call__(self, x):
        self.out = x @ self.weight
        if self.bias is not None:
            self.out += self.bias
        return self.out

    def parameters(self):
        return [self.weight] if self.bias is None else [self.weight, self.bias]


class BatchNorm1dPart3:
    """Normalises each channel over the batch, as in part 3 of the lecture: (B, dim) -> (B, dim)."""
    def __init__(self, dim, eps=1e-5, momentum=0.1):
        self.eps, self.momentum, self.training = eps, momentum, True
        self.gamma, self.beta = torch.ones(dim), torch.zeros(dim)
        self.running_mean, self.running_var = torch.zeros(dim), torch.ones(dim)

    def __call__(self, x):
        if self.training:
            m, mean, var = self.momentum, x.mean(0, keepdim=True), x.var(0, keepdim=True)
            with torch.no_grad():
                self.running_mean = (1 - m) * self.running_mean + m * mean
                self.running_var = (1 - m) * self.running_var + m * var
        else:
            mean, var = self.running_mean, self.running_var
        self.out = self.gamma * ((x - mean) / torch.sqrt(var + self.eps)) + self.beta
        return self.out

    def parameters(self):
        return [self.gamma, self.beta]


class BatchNorm1d:
    """Normalises each channel over all other dimensions. Takes (B, dim) or (B, T, dim)."""
    def __init__(self, dim, eps=1e-5, momentum=0.1):
        self.eps, self.momentum, self.training = eps, momentum, True
        self.gamma, self.beta = torch.ones(dim), torch.zeros(dim)
        self.running_mean, self.running_var = torch.zeros(dim), torch.ones(dim)

    def __call__(self, x):
        if self.training:
            dims = 0 if x.ndim == 2 else (0, 1)              # the fix
            if x.numel() == x.shape[-1]:
                raise ValueError("one value per channel has no variance; use a larger batch")
            mean, var = x.mean(dims, keepdim=True), x.var(dims, keepdim=True)
            m = self.momentum
            with torch.no_grad():
                self.running_mean = (1 - m) * self.running_mean + m * mean
                self.running_var = (1 - m) * self.running_var + m * var
        else:
            mean, var = self.running_mean, self.running_var
        self.out = self.gamma * ((x - mean) / torch.sqrt(var + self.eps)) + self.beta
        return self.out

    def parameters(self):
        return [self.gamma, self.beta]


class Tanh:
    """tanh of each element, any shape."""
    def __call__(self, x):
        self.out = torch.tanh(x)
        return self.out

    def parameters(self):
        return []


class Embedding:
    """A row of `weight` for each integer: (B, T) int64 -> (B, T, embedding_dim)."""
    def __init__(self, num_embeddings, embedding_dim):
        self.weight = torch.randn((num_embeddings, embedding_dim))

    def __call__(self, IX):
        self.out = self.weight[IX]
        return self.out

    def parameters(self):
        return [self.weight]


class Flatten:
    """All positions of an example side by side: (B, T, C) -> (B, T*C)."""
    def __call__(self, x):
        self.out = x.view(x.shape[0], -1)
        return self.out

    def parameters(self):
        return []


class FlattenConsecutive:
    """Lays `n` neighbouring positions side by side: (B, T, C) -> (B, T//n, C*n), or (B, C*n)."""
    def __init__(self, n):
        self.n = n

    def __call__(self, x):
        B, T, C = x.shape
        if T % self.n:
            raise ValueError(f"FlattenConsecutive({self.n}): {T} positions do not divide into "
                             f"groups of {self.n}; use a block_size that is a power of {self.n}")
        x = x.reshape(B, T // self.n, C * self.n)
        self.out = x.squeeze(1) if x.shape[1] == 1 else x
        return self.out

    def parameters(self):
        return []


class Sequential:
    """Calls its layers one after the other."""
    def __init__(self, layers):
        self.layers = layers

    def __call__(self, x):
        for layer in self.layers:
            x = layer(x)
        self.out = x
        return self.out

    def parameters(self):
        return [p for layer in self.layers for p in layer.parameters()]


def make_mlp(vocab_size, block_size, n_embd, n_hidden, norm=BatchNorm1d):
    """The flat network, ready to train: (B, block_size) -> (B, vocab_size)."""
    check(vocab_size=vocab_size, block_size=block_size, n_embd=n_embd, n_hidden=n_hidden)
    return initialised(Sequential([
        Embedding(vocab_size, n_embd), Flatten(), Linear(n_embd * block_size, n_hidden, bias=False),
        norm(n_hidden), Tanh(), Linear(n_hidden, vocab_size)]))


def tree_levels(block_size, n=2):
    """Positions left after each level: [8, 4, 2, 1] for 8 characters in groups of 2."""
    check(block_size=block_size, group_size=n)
    depth = max(1, round(math.log(block_size, n)))
    if n**depth != block_size:
        raise ValueError(f"block_size {block_size} is not a power of {n}; try {n**2} or {n**3}")
    return [n**k for k in range(depth, -1, -1)]


def make_tree(vocab_size, block_size, n_embd, n_hidden, n=2, norm=BatchNorm1d):
    """The tree, ready to train: each level joins `n` neighbours, until one position is left."""
    check(vocab_size=vocab_size, n_embd=n_embd, n_hidden=n_hidden)
    layers, C = [Embedding(vocab_size, n_embd)], n_embd
    for _ in tree_levels(block_size, n)[1:]:
        layers += [FlattenConsecutive(n), Linear(C * n, n_hidden, bias=False), norm(n_hidden),
                   Tanh()]
        C = n_hidden
    return initialised(Sequential([*layers, Linear(n_hidden, vocab_size)]))


def initialised(model):
    """A new model whose last layer is scaled by 0.1 and whose parameters ask for gradients."""
    with torch.no_grad():
        model.layers[-1].weight *= 0.1
    for p in model.parameters():
        p.requires_grad = True
    return model


# ----------------------------------------------------------------------------------------- training
def modules(model):
    """The model and each layer in it, nested containers and nn.Modules included."""
    inner = model.children() if isinstance(model, torch.nn.Module) else getattr(model, "layers", ())
    return [model, *(m for layer in inner for m in modules(layer))]


@contextlib.contextmanager
def mode(model, training):
    """Inside `with`, each layer's `training` flag is `training`; afterwards as it was."""
    before = [(m, m.training) for m in modules(model) if hasattr(m, "training")]
    try:
        for m, _ in before:
            m.training = training
        yield model
    finally:
        for m, was in before:
            m.training = was


@contextlib.contextmanager
def threads(n):
    """Inside `with`, torch computes on `n` threads: one is best for models this small."""
    before, gradients = torch.get_num_threads(), torch.is_grad_enabled()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        torch.set_grad_enabled(gradients)  # an interrupt inside torch.no_grad can leave them off


class Progress(tqdm):
    """A tqdm bar with the mean of the last 1,000 of `losses`; in a notebook, text that is saved."""
    monitor_interval = 0

    def __init__(self, total, losses, unit=" steps", **kwargs):
        self.losses, self.handle = losses, None
        super().__init__(total=total, unit=unit, mininterval=0.5, ascii=" .:#", bar_format=(
            "{percentage:3.0f}% |{bar:20}| {n_fmt} of {total_fmt}{unit}, {rate_fmt}, "
            "{elapsed} gone, {remaining} left"), file=get_ipython() and io.StringIO(), **kwargs)

    def display(self, msg=None, pos=None):
        text = str(self) if msg is None else msg
        if self.losses and text:
            text += f", loss {pd.Series(self.losses[-1000:]).mean():.3f}"
        if get_ipython() is None:
            super().display(text, pos)
        elif self.handle:
            self.handle.update({"text/plain": text}, raw=True)
        else:
            self.handle = display({"text/plain": text}, raw=True, display_id=True)


def train(model, X, Y, *, max_steps=200_000, batch_size=32, learning_rate=0.1, every=1,
          callback=None, progress=Progress):
    """Train with the lecture's recipe, SGD on one thread; return the list of all losses.

    X is (N, T) and Y (N,), both int64. After each `every` steps `callback(steps_done)` is called.
    An interrupt, or a loss that is NaN or infinite, ends the training early and says so.
    """
    check(max_steps=max_steps, batch_size=batch_size, learning_rate=learning_rate, every=every)
    if len(X) != len(Y):
        raise ValueError(f"X has {len(X)} rows and Y has {len(Y)}; expected as many in both")
    parameters = [p for p in model.parameters() if p.requires_grad]
    lossi, max_steps = [], capped(max_steps)
    try:
        with mode(model, True), threads(1), progress(max_steps, lossi) as bar:
            for i in range(max_steps):
                ix = torch.randint(0, X.shape[0], (batch_size,))
                loss = F.cross_entropy(model(X[ix]), Y[ix])
                lossi.append(loss.item())
                if not math.isfinite(lossi[-1]):
                    print(f"The loss is {lossi[-1]} at step {i}: stopped. Lower learning_rate.")
                    break
                for p in parameters:
                    p.grad = None
                loss.backward()
                lr = learning_rate if i < 0.75 * max_steps else learning_rate / 10
                for p in parameters:
                    p.data += -lr * p.grad
                bar.update()
                if callback and (i + 1) % every == 0:
                    callback(i + 1)
    except KeyboardInterrupt:
        print(f"Stopped after {len(lossi)} steps; you can use the model and its losses.")
    return lossi


# --------------------------------------------------------------------------- measuring and sampling
def shape_table(model, X):
    """A table of the layers of a Sequential: output shape for the windows X, parameters."""
    with mode(model, False), torch.no_grad():
        model(X)
    rows = [(type(m).__name__, tuple(m.out.shape), sum(p.nelement() for p in m.parameters()))
            for m in model.layers]
    return pd.DataFrame(rows, columns=["layer", "output shape", "parameters"])


def split_loss(model, X, Y, chunk=4096):
    """Mean loss over (X, Y) in eval mode, `chunk` windows at a time; of 1,024 in quick mode."""
    X, Y = X[:capped(len(X), 1024)], Y[:capped(len(Y), 1024)]
    with mode(model, False), torch.inference_mode():
        return sum(F.cross_entropy(model(x), y, reduction="sum").item()
                   for x, y in zip(X.split(chunk), Y.split(chunk), strict=True)) / len(X)


def start_sampling(n, itos, temperature, prefix, seed, max_length):
    """(stoi, generator) for sampling; ValueError if a value is outside its range."""
    check(n=n, max_length=max_length, temperature=temperature)
    stoi = {ch: i for i, ch in itos.items() if i}
    if unknown := set(prefix) - set(stoi):
        raise ValueError(f"prefix {prefix!r}: {min(unknown)!r} is not in the vocabulary")
    if len(prefix) >= max_length:
        raise ValueError(f"prefix {prefix!r}: expected fewer than {max_length} letters, max_length")
    generator = torch.Generator()
    generator.seed() if seed is None else generator.manual_seed(int(check(seed=seed)["seed"]))
    return stoi, generator


def draw_next(logits, itos, generator):
    """A character for each row of the logits, drawn by its probability: (N, V) -> (N, 1)."""
    if logits.shape[1] != len(itos):
        raise ValueError(f"expected {len(itos)} logits, one per character; got {logits.shape[1]}")
    if not logits.isfinite().all():
        raise ValueError("the logits are NaN or infinite; train again with a lower learning rate")
    return torch.multinomial(F.softmax(logits, dim=1), 1, generator=generator)


def sample(model, block_size, itos, n=10, *, temperature=1.0, prefix="", seed=None, max_length=100):
    """`n` new words from the model, all at once, in eval mode.

    Each begins with `prefix` and ends at the model's '.' or after `max_length` letters. A
    `temperature` below 1 is safer, above 1 wilder. The same `seed` gives the same words. An
    interrupt ends the sampling with the letters so far.
    """
    stoi, generator = start_sampling(n, itos, temperature, prefix, seed, max_length)
    words, alive = [prefix] * n, torch.arange(n)
    context = torch.tensor([([0] * block_size + [stoi[ch] for ch in prefix])[-block_size:]] * n)
    with contextlib.suppress(KeyboardInterrupt), mode(model, False), torch.inference_mode():
        for _ in range(max_length - len(prefix)):
            logits = torch.cat([model(part) for part in context.split(4096)])
            ix = draw_next(logits / temperature, itos, generator)
            going = ix[:, 0] != 0
            alive, ix = alive[going], ix[going]
            context = torch.cat([context[going, 1:], ix], dim=1)
            for word, i in zip(alive.tolist(), ix[:, 0].tolist(), strict=True):
                words[word] += itos[i]
            if len(alive) == 0:
                break
    return words


def rolling_mean(losses, window):
    """The mean of each `window` losses in a row: (n,) -> (n - window + 1,)."""
    window = min(check(window=window)["window"], max(1, len(losses)))
    return pd.Series(losses, dtype=float).rolling(window).mean().to_numpy()[window - 1:]


def plot_losses(curves, window=1000, decay_at=None):
    """Draw rolling means of {label: losses}, over a fifth of the steps at most; return the axes."""
    _, ax = plt.subplots()
    for label, losses in curves.items():
        if len(losses):
            smooth = rolling_mean(losses, min(window, max(1, len(losses) // 5)))
            steps, every = range(len(losses) + 1)[-len(smooth):], max(1, len(smooth) // 4000)
            ax.plot(steps[::every], smooth[::every], label=label)
    ax.set(xlabel="step", ylabel="loss (nats per character)", title="Training loss")
    if decay_at is not None:
        ax.axvline(decay_at, color="gray", ls=":", label="learning rate / 10")
    if ax.lines:
        ax.legend()
    return ax
