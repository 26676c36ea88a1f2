"""What the notebooks wrote once and use again, in the order in which the course needs it.

Data, layers, training, measuring, sampling, plots. The layers keep the form and the names of
Andrej Karpathy's lecture *Building makemore, part 5*; each is explained in the notebook that its
docstring names. Shapes: B is the batch, T the positions (time), C the channels. Every loss is
in nats per character, the end token included. Set the environment variable `MAKEMORE_QUICK=1`
to cap all trainings at a few hundred steps.
"""

import contextlib
import hashlib
import io
import json
import math
import os
import random
from collections.abc import Callable, Collection, Iterable
from itertools import chain, islice, repeat
from numbers import Integral, Real
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from IPython import get_ipython
from IPython.display import display
from tqdm import tqdm

ROOT = Path(__file__).resolve().parent
OUTPUT = ROOT / "notebooks" / "output"
QUICK = os.environ.get("MAKEMORE_QUICK") == "1"
QUICK_STEPS = 120
PAD = -1  # in Y: a position without a character to predict
MOST = 10**8  # a size beyond it is a slip: no memory holds it


def capped(steps, most=QUICK_STEPS):
    """`steps` as it is, or at most `most` in quick mode; both are integers of 1 or more."""
    check_sizes(steps=steps, most=most)
    return min(steps, most) if QUICK else steps


# ------------------------------------------------------------------------------- parameters


def check_sizes(low=1, **sizes):
    """Raise ValueError for a size, given by its name, that is no integer from `low` to MOST."""
    for name, value in sizes.items():
        if isinstance(value, bool) or not isinstance(value, Integral) or value < low:
            raise ValueError(f"{name} is {value!r}; expected an integer of {low} or more")
        if value > MOST:
            raise ValueError(f"{name} is {value}; expected an integer of {MOST:,} at most")


# Parameters that are no sizes: what is expected, and whether a number is that.
NUMBERS = {
    "learning_rate": ("a positive number", lambda x: 0 < x < math.inf),
    "weight_decay": ("a number of 0 or more", lambda x: 0 <= x < math.inf),
    "dropout": ("a number from 0 to below 1", lambda x: 0 <= x < 1),
    "embd_dropout": ("a number from 0 to below 1", lambda x: 0 <= x < 1),
    "average": ("a number between 0 and 1, or None", lambda x: 0 < x < 1),
    "temperature": ("a positive number", lambda x: 0 < x < math.inf),
    "seed": ("an integer from 0 to 2**63 - 1",
             lambda x: isinstance(x, Integral) and 0 <= x < 2**63),
}
# And those that are no numbers: their types, and what is expected.
OTHERS = {"storage": (str | os.PathLike | None, "a file, a database URL, or None"),
          "run_lecture": (bool, "True or False"), "path": (str | os.PathLike, "a file's path"),
          "callback": (Callable | None, "a function of the steps done, or None"),
          "optimizer": (torch.optim.Optimizer, "one of torch.optim")}


def check_numbers(**numbers):
    """Raise ValueError for a number, given by its name in NUMBERS, that cannot be meant."""
    for name, value in numbers.items():
        expected, fits = NUMBERS[name]
        if isinstance(value, bool) or not isinstance(value, Real) or not fits(value):
            raise ValueError(f"{name} is {value!r}; expected {expected}")


def check_dilations(dilations):
    """Raise ValueError unless `dilations` is a list of integers of 1 or more, one a layer."""
    if not isinstance(dilations, list | tuple) or not dilations:
        raise ValueError(f"dilations is {dilations!r}; expected a list, as [1, 2, 4, 8]")
    for dilation in dilations:
        check_sizes(dilation=dilation)


def check_parameters(least_batch=2, **parameters):
    """The hyperparameters of a notebook, by their names, as a dict, once each can be meant.

    Every notebook calls it before anything is built or trained. What is not in NUMBERS or OTHERS
    is a size or a count, 1 or more; batch normalisation needs a batch_size of 2. Raises ValueError.
    """
    for name, value in parameters.items():
        if name == "seed" and isinstance(value, Integral) and value >= 2**32:
            raise ValueError(f"seed is {value}; expected one below 2**32: others come after it")
        if name in NUMBERS:
            check_numbers(**{name: value})
        elif name in OTHERS:
            kind, expected = OTHERS[name]
            if not isinstance(value, kind):
                raise ValueError(f"{name} is {value!r}; expected {expected}")
        elif name == "dilations":
            check_dilations(value)
        elif name == "batch_size":
            check_sizes(least_batch, batch_size=value)
        else:
            check_sizes(**{name: value})
    return parameters


# ------------------------------------------------------------------------------------- data


def check_words(words, low=1):
    """Raise ValueError unless `words` is a list (or the like) of `low` texts or more without '.'"""
    if isinstance(words, str) or not isinstance(words, Collection):
        raise ValueError(f"words is {words!r:.60}; expected a list of texts, a word each")
    for word in words:
        if not isinstance(word, str):
            raise ValueError(f"words has {word!r:.60}; expected a list of texts, a word each")
        if "." in word:
            raise ValueError(f"{word!r} has a '.', which marks start and end; remove it")
    if len(words) < low:
        raise ValueError("no words; expected a list with at least one")


def load_words(names_file="data/names.txt"):
    """The words of a UTF-8 text file, one a line, in the order of the file.

    A relative path is looked up from the current folder, then from the project's folder. Blank
    lines, surrounding spaces, Windows line ends and a byte-order mark are dropped. Raises
    FileNotFoundError, or ValueError with the file and the line for an empty file, a word with
    '.', bytes that are not UTF-8, or a file that may not be read.
    """
    if not isinstance(names_file, str | os.PathLike):
        raise ValueError(f"names_file is {names_file!r}; expected the path of a text file")
    try:
        path = next((p for p in (Path(names_file), ROOT / names_file) if p.is_file()), None)
        content = path.read_bytes() if path else b""
    except OSError as error:
        raise ValueError(f"{names_file}: cannot be read ({error.strerror}); give names_file the "
                         "path of a text file that you may read") from None
    if path is None:
        raise FileNotFoundError(f"{names_file}: no such file (looked in the current folder and in "
                                "the project's folder); give names_file the path of a text file "
                                "with one word a line")
    words = []
    for number, line in enumerate(content.splitlines(), start=1):
        try:
            word = line.decode("utf-8").strip("\ufeff").strip()
        except UnicodeDecodeError as error:
            raise ValueError(f"{names_file}, line {number}: not UTF-8 ({error.reason} at byte "
                             f"{error.start + 1}); save the file with UTF-8 encoding") from None
        if "." in word:
            raise ValueError(f"{names_file}, line {number}: {word!r} has a '.', which is reserved "
                             "for the start and the end of a word; remove it")
        if word:
            words.append(word)
    if not words:
        raise ValueError(f"{names_file}: no words, expected one a line; is it the right file?")
    return words


def build_vocab(words):
    """(stoi, itos): character to integer and back. '.' is 0, the others are sorted.

    Raises ValueError for no words or a word with '.'.
    """
    check_words(words)
    chars = sorted(set("".join(words)))
    stoi = {ch: i for i, ch in enumerate([".", *chars])}
    return stoi, {i: ch for ch, i in stoi.items()}


def split_words(words, seed=42):
    """{'train', 'val', 'test'}: the words shuffled and cut at 80% and 90%, as in the lecture.

    Leaves `words` as it is. Raises ValueError when a split would be empty.
    """
    check_numbers(seed=seed)
    check_words(words, 0)
    shuffled = list(words)
    random.Random(int(seed)).shuffle(shuffled)              # int: random refuses those of numpy
    n1, n2 = int(0.8 * len(shuffled)), int(0.9 * len(shuffled))
    parts = {"train": shuffled[:n1], "val": shuffled[n1:n2], "test": shuffled[n2:]}
    for name, part in parts.items():
        if not part:
            raise ValueError(
                f"{len(shuffled)} words leave the {name} split empty (80% / 10% / 10%); "
                "use a list of at least 10 words"
            )
    return parts


def build_dataset(words, block_size, stoi):
    """(X, Y): every window of `block_size` characters and the character that follows it.

    X is (N, block_size) and Y is (N,), both int64, N = letters + one end token a word. Raises
    ValueError for no words, a block_size that is no positive integer, an unknown character.
    """
    check_sizes(block_size=block_size)
    check_words(words)
    if not isinstance(stoi, dict) or "." not in stoi:
        raise ValueError(f"stoi is {stoi!r:.60}; expected a dict with '.', as build_vocab makes it")
    X, Y = [], []
    for w in words:
        context = [0] * block_size
        for ch in w + ".":
            if ch not in stoi:
                raise ValueError(f"build_dataset: {ch!r} in {w!r} is not in the vocabulary; build "
                                 "stoi with build_vocab from a list that has this word")
            X.append(context)
            Y.append(stoi[ch])
            context = [*context[1:], stoi[ch]]
    return torch.tensor(X), torch.tensor(Y)


def encode_names(words, stoi):
    """(X, Y) of whole words, a row each: X is '.' and the letters, Y the letters and '.'.

    Both are (N, L) int64, L = letters of the longest word + 1. Shorter words end in PAD: 0 in X,
    where nothing depends on it, and -1 in Y, which the loss leaves out. Raises ValueError for no
    words or an unknown character. Notebook 08.
    """
    check_words(words)
    if unknown := set("." + "".join(words)) - set(stoi or ()):
        raise ValueError(
            f"encode_names: {min(unknown)!r} is not in the vocabulary; build stoi with "
            "build_vocab from a list that has all the words"
        )
    X = torch.zeros(len(words), max(map(len, words)) + 1, dtype=torch.int64)
    Y = torch.full_like(X, PAD)
    for x, y, w in zip(X, Y, words, strict=True):
        ids = torch.tensor([stoi[ch] for ch in w + "."])
        x[1 : len(ids)] = ids[:-1]
        y[: len(ids)] = ids
    return X, Y


def window_batches(X, Y, batch_size):
    """Batches of (X, Y) without end: every epoch all rows once, in a new order. Notebook 06.

    Raises ValueError for no rows, X and Y of other lengths, a batch_size below 1.
    """
    check_sizes(batch_size=batch_size)
    if len(X) != len(Y) or len(X) == 0:
        raise ValueError(f"X of shape {tuple(X.shape)} and Y of shape {tuple(Y.shape)}; expected "
                         "as many rows in both, 1 or more")
    while True:
        for ix in torch.randperm(len(X)).split(batch_size):
            yield X[ix], Y[ix]


def name_batches(X, Y, batch_size, packed=True):
    """Like window_batches, for encode_names: `batch_size` words at a time, without the padding.

    Packed, a batch is one row with its words nose to tail, (1, P), which a WaveNet takes; else a
    row a word, cut to the longest. Notebook 08.
    """
    _check_rows(X, Y)
    for x, y in window_batches(X, Y, batch_size):
        yield _without_padding(x, y, packed)


def _check_rows(X, Y):
    if X.ndim != 2 or X.shape != Y.shape or len(X) == 0:
        raise ValueError(f"X of shape {tuple(X.shape)} and Y of shape {tuple(Y.shape)}; expected "
                         "(N, L) for both, N of 1 or more, as encode_names makes them")


def _without_padding(x, y, packed):
    real = y != PAD
    L = real.sum(1).max()
    return (x[real][None], y[real][None]) if packed else (x[:, :L], y[:, :L])


# ----------------------------------------------------------------------------------- layers


class Linear:
    """x @ weight + bias over the last dimension: (..., fan_in) -> (..., fan_out).

    The weight is (fan_in, fan_out), drawn from a normal distribution with standard deviation
    1/sqrt(fan_in); the bias is (fan_out,), zeros. Raises ValueError for a size below 1. Notebook
    02; lecture part 3.
    """

    def __init__(self, fan_in, fan_out, bias=True):
        check_sizes(fan_in=fan_in, fan_out=fan_out)
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
    """Mean 0 and variance 1 for each channel over the batch, then gamma * x + beta.

    (B, dim) -> (B, dim); ValueError for dim < 1. Training uses the batch's mean and (unbiased)
    variance, and moves the running ones by `momentum`; evaluation uses those. Notebook 02; part 3.
    """

    def __init__(self, dim, eps=1e-5, momentum=0.1):
        check_sizes(dim=dim)
        self.eps, self.momentum, self.training = eps, momentum, True
        self.gamma, self.beta = torch.ones(dim), torch.zeros(dim)
        self.running_mean, self.running_var = torch.zeros(dim), torch.ones(dim)

    def batch_dims(self, x):
        return 0

    def __call__(self, x):
        m, dims = self.momentum, self.batch_dims(x)
        if self.training:
            mean, var = x.mean(dims, keepdim=True), x.var(dims, keepdim=True)
            with torch.no_grad():
                self.running_mean = (1 - m) * self.running_mean + m * mean
                self.running_var = (1 - m) * self.running_var + m * var
        else:
            mean, var = self.running_mean, self.running_var
        self.out = self.gamma * ((x - mean) / torch.sqrt(var + self.eps)) + self.beta
        return self.out

    def parameters(self):
        return [self.gamma, self.beta]


class BatchNorm1d(BatchNorm1dPart3):
    """BatchNorm1dPart3 with its statistics over every dimension but the last.

    (B, dim) or (B, T, dim) -> the same shape. Raises ValueError for any other shape and, in
    training, for a single value per channel, which has no variance. Notebook 04.
    """

    def batch_dims(self, x):
        dim = len(self.gamma)
        if x.ndim not in (2, 3) or x.shape[-1] != dim:
            raise ValueError(
                f"BatchNorm1d({dim}): input of shape {tuple(x.shape)}, expected (B, {dim}) or "
                f"(B, T, {dim}); the channels come last"
            )
        if self.training and x.numel() <= dim:
            raise ValueError(
                f"BatchNorm1d({dim}): {x.numel() // dim} value per channel has no variance in "
                "training; use a batch_size of 2 or more, or set training = False to evaluate"
            )
        return 0 if x.ndim == 2 else (0, 1)


class Tanh:
    """tanh of every element, any shape. Notebook 02; lecture part 3."""

    def __call__(self, x):
        self.out = torch.tanh(x)
        return self.out

    def parameters(self):
        return []


class Embedding:
    """A row of `weight` (num_embeddings, embedding_dim) for each integer.

    (B, T) int64 -> (B, T, embedding_dim). Raises ValueError for a size below 1. Notebook 02;
    lecture part 5.
    """

    def __init__(self, num_embeddings, embedding_dim):
        check_sizes(num_embeddings=num_embeddings, embedding_dim=embedding_dim)
        self.weight = torch.randn((num_embeddings, embedding_dim))

    def __call__(self, IX):
        self.out = self.weight[IX]
        return self.out

    def parameters(self):
        return [self.weight]


class Flatten:
    """All positions of an example side by side: (B, T, C) -> (B, T*C). Notebook 02."""

    def __call__(self, x):
        self.out = x.view(x.shape[0], -1)
        return self.out

    def parameters(self):
        return []


class FlattenConsecutive:
    """Every `n` neighbouring positions side by side: (B, T, C) -> (B, T//n, C*n).

    A single position left loses its dimension: (B, C*n). Raises ValueError for n below 1, an
    input that is not (B, T, C), T not divisible by n. Notebook 03; lecture part 5.
    """

    def __init__(self, n):
        if isinstance(n, bool) or not isinstance(n, int) or n < 1:
            raise ValueError(f"FlattenConsecutive({n!r}): expected an integer of 1 or more")
        self.n = n

    def __call__(self, x):
        if x.ndim != 3:
            raise ValueError(
                f"FlattenConsecutive({self.n}): input of shape {tuple(x.shape)}, expected "
                "(B, T, C); after one position is left, no FlattenConsecutive may follow"
            )
        B, T, C = x.shape
        if T % self.n:
            raise ValueError(
                f"FlattenConsecutive({self.n}): {T} positions do not divide into groups of "
                f"{self.n}; use a block_size that is a power of {self.n}"
            )
        x = x.reshape(B, T // self.n, C * self.n)
        self.out = x.squeeze(1) if x.shape[1] == 1 else x
        return self.out

    def parameters(self):
        return []


class Sequential:
    """Calls its layers one after the other. Notebook 02; lecture part 5."""

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
    """The flat network, ready to train: (B, block_size) -> (B, vocab_size). Notebook 02."""
    check_sizes(vocab_size=vocab_size, block_size=block_size, n_embd=n_embd, n_hidden=n_hidden)
    return ready(Sequential([
        Embedding(vocab_size, n_embd), Flatten(),
        Linear(n_embd * block_size, n_hidden, bias=False), norm(n_hidden), Tanh(),
        Linear(n_hidden, vocab_size),
    ]))


def tree_levels(block_size, n=2):
    """Positions left after each level: [8, 4, 2, 1] for 8 characters in groups of 2.

    Raises ValueError when block_size is no power of n, or n is no integer of 2 or more.
    """
    check_sizes(block_size=block_size)
    check_sizes(2, group_size=n)
    levels = [block_size]
    while levels[-1] % n == 0:
        levels.append(levels[-1] // n)
    if len(levels) == 1 or levels[-1] != 1:
        raise ValueError(
            f"block_size {block_size} is no power of {n}, so groups of {n} do not end in one "
            f"position; use a block_size of {n}, {n**2}, {n**3} or {n**4}"
        )
    return levels


def make_tree(vocab_size, block_size, n_embd, n_hidden, n=2, norm=BatchNorm1d):
    """The hierarchical network, ready to train: (B, block_size) -> (B, vocab_size).

    Each level joins `n` neighbours, until one position is left. Raises ValueError when
    block_size is no power of n. Notebook 03; lecture part 5.
    """
    check_sizes(vocab_size=vocab_size, n_embd=n_embd, n_hidden=n_hidden)
    layers, C = [Embedding(vocab_size, n_embd)], n_embd
    for _ in tree_levels(block_size, n)[1:]:
        layers += [FlattenConsecutive(n), Linear(C * n, n_hidden, bias=False),
                   norm(n_hidden), Tanh()]
        C = n_hidden
    return ready(Sequential([*layers, Linear(n_hidden, vocab_size)]))


def ready(model):
    """The model, its last layer's weight times 0.1, its parameters asking for gradients.

    A small last layer makes the first predictions nearly uniform. Raises ValueError for a model
    that does not end in a Linear. Notebook 01.
    """
    if not model.layers or not hasattr(model.layers[-1], "weight"):
        last = type(model.layers[-1]).__name__ if model.layers else "nothing"
        raise ValueError(f"the model ends in {last}; expected a Linear, which gives the logits")
    with torch.no_grad():
        model.layers[-1].weight *= 0.1
    for p in model.parameters():
        p.requires_grad = True
    return model


class WholeWords:
    """The past in rows of whole words, for a CausalConv1d: called as past(x, backs).

    For each of `backs`, what stood so many places before in x (N, L, C), and 0 where that is
    before the start of the word: a '.' (0) in X (N, L) starts a word. So a row may hold one word
    and its padding, or many words nose to tail. Raises ValueError for another shape. Notebook 08.
    """

    def __init__(self, X):
        if X.ndim != 2 or X.numel() == 0:
            raise ValueError(f"X of shape {tuple(X.shape)}; expected (N, L), rows of words, N >= 1")
        place = torch.arange(X.shape[1])
        self.age = place - torch.where(X == 0, place, 0).cummax(1).values      # (N, L)

    def __call__(self, x, backs):
        L = x.shape[1]
        return [F.pad(x, (0, 0, b, 0))[:, :L] * (self.age >= b)[..., None] for b in backs]


class RingBuffer:
    """The past at one position, for a CausalConv1d: keeps its last `size` inputs (N, C).

    Called as past(x, backs): the inputs so many calls ago, 0 before the first; then x takes the
    place of the oldest. Raises ValueError for sizes below 1. Notebook 08; arXiv:1611.09482.
    """

    def __init__(self, size, N, C):
        check_sizes(size=size, N=N, C=C)
        self.values, self.t = torch.zeros(size, N, C), 0

    def __call__(self, x, backs):
        size = len(self.values)
        taps = [self.values[(self.t - back) % size].clone() for back in backs]
        self.values[self.t % size] = x
        self.t += 1
        return taps

    def keep(self, rows):
        """Go on with these rows of the N only."""
        self.values = self.values[:, rows]


class CausalConv1d(torch.nn.Module):
    """A dilated convolution that sees only the past: (..., C_in) -> (..., C_out).

    Each output joins the inputs at `kernel_size` places, `dilation` apart, the last one its own,
    by one Linear, the earliest first as in FlattenConsecutive. `past` gives the earlier ones: a
    WholeWords or a RingBuffer. Raises ValueError for a kernel_size below 2, other sizes below 1.
    Notebook 08; arXiv:1609.03499.
    """

    def __init__(self, C_in, C_out, dilation=1, kernel_size=2):
        super().__init__()
        check_sizes(C_in=C_in, C_out=C_out, dilation=dilation)
        check_sizes(2, kernel_size=kernel_size)
        self.backs = [j * dilation for j in range(kernel_size - 1, 0, -1)]
        self.linear = torch.nn.Linear(kernel_size * C_in, C_out)

    def forward(self, x, past):
        return self.linear(torch.cat([*past(x, self.backs), x], dim=-1))


class WaveNetLayer(torch.nn.Module):
    """Convolution, gate, residual and skip: x (..., C) -> the next x (..., C), skip (..., S).

    Without gate the convolution goes through a tanh, without residual the next x is the layer's
    output alone, without skip the second value is 0. Notebook 08; arXiv:1609.03499.
    """

    def __init__(self, C, S, dilation, kernel_size, dropout, residual, gate, skip):
        super().__init__()
        self.conv = CausalConv1d(C, 2 * C if gate else C, dilation, kernel_size)
        self.residual = torch.nn.Linear(C, C) if residual else None
        self.skip = torch.nn.Linear(C, S) if skip else None
        self.dropout, self.gate = torch.nn.Dropout(dropout), gate

    def forward(self, x, past):
        z = self.conv(x, past)
        if self.gate:
            f, g = z.chunk(2, dim=-1)                                           # (..., C) each
            z = torch.tanh(f) * torch.sigmoid(g)
        else:
            z = torch.tanh(z)
        z = self.dropout(z)
        skip = self.skip(z) if self.skip else 0
        return (x + self.residual(z) if self.residual else z), skip


def make_head(S, vocab_size, deep, dropout=0):
    """The way from S channels to logits: ReLU, Linear, ReLU, Linear, or the last one alone.

    The last Linear starts with a tenth of its weight, as everywhere in the course. Notebook 08.
    """
    check_sizes(S=S, vocab_size=vocab_size)
    check_numbers(dropout=dropout)
    nn = torch.nn
    drop = nn.Dropout(dropout)
    layers = [nn.ReLU(), drop, nn.Linear(S, S), nn.ReLU(), drop] if deep else []
    head = nn.Sequential(*layers, nn.Linear(S, vocab_size))
    with torch.no_grad():
        head[-1].weight *= 0.1
    return head


class WaveNet(torch.nn.Module):
    """Predicts the next character at every position: (N, L) int64 -> (N, L, vocab_size).

    C = n_hidden, S = n_skip. X: whole words or, with ring buffers as `pasts`, one position, (N,).
    Raises ValueError for no layers, sizes below 1, no words. Notebook 08; arXiv:1609.03499.
    """

    def __init__(self, vocab_size, n_hidden, n_skip, dilations, *, kernel_size=2, dropout=0,
                 embd_dropout=0, head_dropout=0, residual=True, gate=True, skip=True, head=True):
        super().__init__()
        check_sizes(vocab_size=vocab_size, n_hidden=n_hidden)
        check_sizes(n_skip=n_skip, kernel_size=kernel_size)
        check_numbers(dropout=dropout, embd_dropout=embd_dropout)
        check_dilations(dilations)
        self.receptive_field = 1 + (kernel_size - 1) * sum(dilations)
        self.embedding = torch.nn.Sequential(
            torch.nn.Embedding(vocab_size, n_hidden), torch.nn.Dropout(embd_dropout))
        self.layers = torch.nn.ModuleList(
            WaveNetLayer(n_hidden, n_skip, d, kernel_size, dropout, residual, gate, skip)
            for d in dilations)
        if skip:
            self.layers[-1].residual = None
        self.head = make_head(n_skip if skip else n_hidden, vocab_size, head, head_dropout)

    def forward(self, X, pasts=None):
        x, skips = self.embedding(X), 0                                         # (N, L, C)
        for layer, past in zip(self.layers, pasts or repeat(WholeWords(X)), strict=False):
            x, skip = layer(x, past)
            skips = skips + skip                                                # (N, L, S)
        return self.head(skips if self.layers[-1].skip else x)


# --------------------------------------------------------------------------------- training


def modules(model):
    """The model and every layer in it, nested containers and nn.Modules included."""
    if isinstance(model, torch.nn.Module):
        yield from model.modules()
    else:
        yield model
        for layer in getattr(model, "layers", []):
            yield from modules(layer)


@contextlib.contextmanager
def mode(model, training):
    """Inside `with`, every layer's `training` flag is `training`; afterwards as it was.

    Raises ValueError for a model that cannot be called.
    """
    if not callable(model):
        raise ValueError(f"the model is {model!r:.60}; expected one as make_tree makes it")
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
    """Inside `with`, torch computes on `n` threads; afterwards on as many as before.

    One is best for models this small: their matrices are too little work to share, and threads
    that wait for each other cost more than they bring.
    """
    check_sizes(n=n)
    before, gradients = torch.get_num_threads(), torch.is_grad_enabled()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        # An interrupt just where a `with torch.no_grad()` begins or ends leaves gradients off.
        torch.set_grad_enabled(gradients)


class Progress(tqdm):
    """A tqdm bar with the mean of the last 1,000 losses, drawn at most twice a second.

    In a notebook it is plain text that updates in place, so it needs no widget and stands in
    the saved file as it ended. `losses` is the list that the training loop appends to.
    """

    monitor_interval = 0
    FORMAT = "{percentage:3.0f}% |{bar:20}| {n_fmt} of {total_fmt}{unit}, {rate_fmt}, "

    def __init__(self, total, losses, unit=" steps", **kwargs):
        self.losses, self.handle = losses, None
        if get_ipython() is not None:
            kwargs["file"] = io.StringIO()
        super().__init__(total=total, unit=unit, mininterval=0.5, ascii=" .:#", **kwargs,
                         bar_format=self.FORMAT + "{elapsed} gone, {remaining} left")

    def display(self, msg=None, pos=None):
        text = str(self) if msg is None else msg
        if self.losses and text:
            text += f", loss {np.mean(self.losses[-1000:]):.3f}"
        if get_ipython() is None:
            return super().display(text, pos)
        if self.handle is None:
            self.handle = display({"text/plain": text}, raw=True, display_id=True)
        else:
            self.handle.update({"text/plain": text}, raw=True)


def train(model, X, Y, *, max_steps=200_000, batch_size=32, learning_rate=0.1,
          recipe="lecture", every=None, callback=None, progress=Progress):
    """Train with the lecture's recipe, or a fast one; return the list of all losses (floats).

    Plain SGD on one thread, on batches drawn with torch.randint; the learning rate falls to a
    tenth after three quarters of the steps. "fast" is AdamW with OneCycleLR, every example once an
    epoch (notebook 06), for batches of some 256 and a learning rate of some 0.005. X is (N, T)
    int64, Y (N,) int64; the model maps (B, T) to (B, vocab_size) and may be of our layers or an
    nn.Module. After each `every` steps `callback(steps_done)` is called, if given. `progress` is
    made with (max_steps, losses) and used as Progress is: `with` it, `update()` after each step. An
    interrupt ends the training early with a word, and model and losses stay usable; so does a loss
    that is no number, before it reaches the weights. Raises ValueError before the first update for
    bad sizes, shapes or values. Lecture part 5.
    """
    check_sizes(max_steps=max_steps, batch_size=batch_size)
    check_parameters(callback=callback)
    if callback:
        check_sizes(every=every)
    check_numbers(learning_rate=learning_rate)
    check_model(model, X, Y)
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise ValueError("train: no parameter asks for gradients; call helpers.ready(model)")
    if recipe not in ("lecture", "fast"):
        raise ValueError(f"recipe is {recipe!r}; expected 'lecture' or 'fast'")
    if recipe == "fast":
        optimizer = torch.optim.AdamW(parameters, learning_rate, fused=True)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, learning_rate, total_steps=max(2, max_steps))
        rows = len(X) - (len(X) % batch_size == 1 < len(X))     # one row alone has no variance
        return fit(model, window_batches(X[:rows], Y[:rows], batch_size), optimizer, max_steps,
                   schedule=schedule, every=every, callback=callback, progress=progress)
    lossi = []
    with mode(model, True), threads(1), progress(max_steps, lossi) as bar:
        try:
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
                    if p.grad is not None:
                        p.data += -lr * p.grad
                bar.update()
                if callback and (i + 1) % every == 0:
                    callback(i + 1)
        except KeyboardInterrupt:
            print(f"Stopped by hand after {len(lossi)} steps; model and losses are usable.")
    return lossi


def fit(model, batches, optimizer, max_steps, *, schedule=None, average=None, every=None,
        callback=None, progress=Progress):
    """Train with any of torch's optimisers and return the list of all losses (floats).

    `batches` gives pairs (X, Y): the model maps X to (*Y.shape, vocab_size), and positions where Y
    is PAD do not count. `schedule` is stepped after every step. With `average` (0 to 1, as 0.997),
    the nn.Module ends with an exponential moving average of its weights. Runs on one thread; after
    each `every` steps `callback(steps_done)` is called, if given. `progress`, an interrupt and a
    loss that is no number: as in `train`. Raises ValueError for bad sizes, no batches, a schedule
    of fewer steps. Notebook 06.
    """
    check_sizes(max_steps=max_steps)
    check_parameters(optimizer=optimizer, callback=callback)
    if callback:
        check_sizes(every=every)
    if average is not None:
        check_numbers(average=average)
        if not isinstance(model, torch.nn.Module):
            raise ValueError(f"the model is a {type(model).__name__}; an average of its weights "
                             "takes an nn.Module: use average=None or a model of notebook 06")
    left = getattr(schedule, "total_steps", math.inf) - getattr(schedule, "last_epoch", 0)
    if left < max_steps:
        raise ValueError(f"schedule has {left} steps left; expected {max_steps}, as max_steps says")
    batches = iter(batches if isinstance(batches, Iterable) else [batches])
    match first := list(islice(batches, 1)):
        case [(torch.Tensor(), torch.Tensor())]:
            pass
        case _:
            raise ValueError(f"batches gives {first!r:.60}; expected pairs (X, Y) of tensors, as "
                             "window_batches gives them")
    averaged = average and torch.optim.swa_utils.AveragedModel(
        model, avg_fn=lambda old, new, n: old.lerp(new, max(1 - average, 1 / (n + 1))))
    lossi = []
    with mode(model, True), threads(1), progress(max_steps, lossi) as bar:
        try:
            for i, (X, Y) in enumerate(islice(chain(first, batches), max_steps)):
                loss = position_loss(model(X), Y) / (Y != PAD).sum()
                lossi.append(loss.item())
                if not math.isfinite(lossi[-1]):
                    print(f"The loss is {lossi[-1]} at step {i}: stopped. Lower the learning rate.")
                    break
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                if schedule:
                    schedule.step()
                if averaged:
                    averaged.update_parameters(model)
                bar.update()
                if callback and (i + 1) % every == 0:
                    callback(i + 1)
        except KeyboardInterrupt:
            print(f"Stopped by hand after {len(lossi)} steps; model and losses are usable.")
    if averaged and averaged.n_averaged:
        model.load_state_dict(averaged.module.state_dict())
    return lossi


def position_loss(logits, Y):
    """The sum of the losses of all positions of Y (any shape) that are not PAD, a scalar.

    Logits: (*Y.shape, vocab_size). Raises ValueError for other shapes, a target out of range.
    """
    if logits.shape[:-1] != Y.shape:
        raise ValueError(
            f"logits of shape {tuple(logits.shape)} for targets of shape {tuple(Y.shape)}; "
            f"expected {(*Y.shape, logits.shape[-1])}: one prediction for each target"
        )
    logits = logits.reshape(-1, logits.shape[-1])
    try:
        return F.cross_entropy(logits, Y.flatten(), ignore_index=PAD, reduction="sum")
    except IndexError as error:               # looked at only now: a look at each step takes time
        raise ValueError(f"Y goes from {Y.min()} to {Y.max()}; expected 0 to {logits.shape[1] - 1} "
                         f"or PAD, {PAD}: make the model with vocab_size = len(stoi)") from error


def check_model(model, X, Y):
    """Raise ValueError unless (X, Y) is a data set and the model gives it (B, vocab_size)."""
    for name, value in (("X", X), ("Y", Y)):
        if not isinstance(value, torch.Tensor):
            raise ValueError(f"{name} is a {type(value).__name__}; expected a tensor, as "
                             "build_dataset makes it")
    if X.ndim != 2 or Y.ndim != 1 or len(X) != len(Y) or len(X) == 0:
        raise ValueError(
            f"X of shape {tuple(X.shape)} and Y of shape {tuple(Y.shape)}; expected (N, T) and "
            "(N,) with the same N of 1 or more, as build_dataset makes them"
        )
    if X.dtype != torch.int64 or Y.dtype != torch.int64:
        raise ValueError(f"X is {X.dtype} and Y is {Y.dtype}; expected int64 character numbers")
    try:
        with mode(model, False), torch.no_grad():
            shape = tuple(model(X[:1]).shape)
    except (RuntimeError, IndexError) as error:
        raise ValueError(
            f"the model does not take windows of {X.shape[1]} characters ({error}); use the "
            "block_size that it was made for"
        ) from error
    if len(shape) == 3:
        raise ValueError(
            f"the model gives {shape}, expected (1, vocab_size): {shape[1]} positions are left; "
            f"add a FlattenConsecutive({shape[1]}) level or use a smaller block_size"
        )
    if min(int(X.min()), int(Y.min())) < 0:
        raise ValueError("X or Y has a negative number; expected character numbers from 0")
    top = max(int(X.max()), int(Y.max()))
    if len(shape) != 2 or shape[1] <= top:
        raise ValueError(
            f"the model gives {shape}, expected (1, vocab_size) with a vocab_size above {top}, "
            "the largest character number; make the model with vocab_size = len(stoi)"
        )


# -------------------------------------------------------------------------------- measuring


def shape_table(model, X):
    """A table of the layers of a Sequential: output shape for the windows X, parameters."""
    with mode(model, False), torch.no_grad():
        model(X)
    if any(not hasattr(m, "out") for m in model.layers):
        raise ValueError(f"the layers of this {type(model).__name__} keep no `out`; expected a "
                         "model of our own layers, as make_tree makes it")
    rows = [
        (type(m).__name__, tuple(m.out.shape), sum(p.nelement() for p in m.parameters()))
        for m in model.layers
    ]
    return pd.DataFrame(rows, columns=["layer", "output shape", "parameters"])


def split_loss(model, X, Y, chunk=4096):
    """Mean loss over all of (X, Y), in eval mode, `chunk` windows at a time.

    The layers keep their running statistics and their training flags. X (N, T), Y (N,).
    """
    check_sizes(chunk=chunk)
    check_model(model, X, Y)
    total = 0.0
    with mode(model, False), torch.inference_mode():
        for x, y in zip(X.split(chunk), Y.split(chunk), strict=True):
            total += F.cross_entropy(model(x), y, reduction="sum").item()
    return total / len(X)


def name_loss(model, X, Y, chunk=1024, packed=True):
    """Mean loss over all characters of encode_names' (X, Y), in eval mode, `chunk` words at a time.

    The sum over the real positions by their number, so that a character counts the same in a
    short word and in a long one. `packed` as in name_batches. Notebook 08.
    """
    check_sizes(chunk=chunk)
    _check_rows(X, Y)
    total = 0.0
    with mode(model, False), torch.inference_mode():
        for x, y in zip(X.split(chunk), Y.split(chunk), strict=True):
            x, y = _without_padding(x, y, packed)
            total += position_loss(model(x), y).item()
    return total / (Y != PAD).sum().item()


# A stage: its notebook; the lecture's (block_size, n_embd, n_hidden); the parameters; the
# lecture's train and val; the val range of independent reruns on the lecture's list (to half a
# unit of the published digits); train and val of one rerun on ours, with 0.006 to either side.
RECIPE = {"max_steps": 200_000, "batch_size": 32, "learning_rate": 0.1, "seed": 42}
STAGES = {
    "MLP, 3 letters": (1, (3, 10, 200), 12_097, (2.058, 2.105), (2.1055, 2.1072), (2.060, 2.120)),
    "MLP, 8 letters": (2, (8, 10, 200), 22_097, (1.918, 2.027), (2.0295, 2.0345), (1.923, 2.039)),
    "tree": (3, (8, 10, 68), 22_397, (1.941, 2.029), (2.0245, 2.0355), (1.942, 2.038)),
    "tree, fixed": (4, (8, 10, 68), 22_397, (1.912, 2.022), (2.0175, 2.0245), (1.912, 2.030)),
    "tree, scaled": (5, (8, 24, 128), 76_579, (1.769, 1.993), (1.9865, 1.9945), (1.767, 2.001)),
}
LISTS = {
    "71779929036aaf049a2268928187719ac43190941ebce328725dab9a4ec0dedd": "ours",
    "0a30b5557f192f32ab962680889aac5f6fda0f4cecf40a6d0b5694f58ea8cc4d": "lecture",
}


def changed(stage, words, config):
    """What differs from the values that the figures of `stage` are for: a list of clauses.

    `words` is the list as loaded, `config` the hyperparameters by the lecture's names. Raises
    ValueError for an unknown stage, or a config that lacks a value.
    """
    if stage not in STAGES:
        raise ValueError(f"stage is {stage!r}; expected one of {', '.join(STAGES)}")
    sizes = dict(zip(("block_size", "n_embd", "n_hidden"), STAGES[stage][1], strict=True))
    if missing := sorted({*sizes, *RECIPE} - set(config)):
        raise ValueError(f"config has no {', '.join(missing)}; expected the values of the run")
    usual = sizes | RECIPE | {"group_size": 2}
    why = [f"{k} is {v}, not {usual[k]}" for k, v in config.items() if v != usual[k]]
    return why + ["the word list is another"] * (_whose(words) is None)


def is_our_list(words):
    """Whether `words` is data/names.txt, in its order."""
    return _whose(words) == "ours"


def _whose(words):
    check_words(words, 0)
    return LISTS.get(hashlib.sha256("\n".join(words).encode()).hexdigest())


def check_learning(stage, words, config, lossi):
    """Print the loss at step 0 and at the end; check them where the lecture's values are used.

    Step 0 must be near ln(vocabulary) and the end clearly lower. A training that was stopped by
    hand before step 300 is not checked, one that diverged is. Raises AssertionError.
    """
    if not len(lossi) or (len(lossi) < 300 and math.isfinite(lossi[-1])):
        none = "nothing was trained, " * (not len(lossi))
        return print(f"Learning is not checked: {none}{len(lossi)} steps are too few to tell.")
    check_words(words)
    chance = math.log(len(set("".join(words))) + 1)
    first, last = lossi[0], float(np.mean(lossi[-100:]))
    print(f"step 0: {first:.3f}, chance: {chance:.3f}, mean of the last 100 steps: {last:.3f}")
    if why := changed(stage, words, config):
        return print(f"Not held against the expected fall: {', '.join(why)}.")
    assert abs(first - chance) < 0.3, f"step 0 gave {first:.3f}: is the last layer scaled down?"
    assert last < first - 0.5, f"the loss fell from {first:.3f} to {last:.3f} only"


def performance_log(stage, words, config, parameters, train_loss, val_loss, seconds, steps):
    """Hold `stage` against its expected figures; return the log of all stages so far.

    A row measured at the lecture's values is kept in notebooks/output/, a file a stage, so that
    the later notebooks can show it. Raises AssertionError when a figure that applies is missed.
    `parameters` are the model's tensors, `seconds` and `steps` those of the training alone.
    """
    why = changed(stage, words, config)
    number, _, count, _, reruns, ours = STAGES[stage]
    n_params = sum(p.nelement() for p in parameters)
    low, high = reruns if _whose(words) == "lecture" else (ours[1] - 0.006, ours[1] + 0.006)
    row = {"parameters": f"{n_params:,}", "train": f"{train_loss:.3f}", "val": f"{val_loss:.3f}",
           "expected val": f"{round(low, 4)} to {round(high, 4)}", "seconds": f"{seconds:.0f}"}
    print(f"{stage}: train {train_loss:.6f}, val {val_loss:.6f}")
    if steps < config["max_steps"]:
        why.append(f"training ended after {steps:,} of {config['max_steps']:,} steps"
                   if steps else "nothing was trained")
    if why:
        print(f"Not held against the expected figures: {', '.join(why)}.")
        row["expected val"] = "none"
    else:
        assert n_params == count, f"{n_params} parameters, expected {count}"
        assert low <= val_loss <= high, (
            f"val {val_loss:.4f} is outside {low:.4f} to {high:.4f}. Check the versions (notebook "
            "00 compares them with requirements.txt), the word list (its checksum is in "
            "data/README.md), that helpers.train runs on one thread, as it was written, and that "
            "no cell above was changed or run twice."
        )
        save_json(OUTPUT / f"log_{number:02d}.json", row)
    rows = {}
    for name, (n, _, _, lecture, _, _) in STAGES.items():
        if n <= number:
            file = OUTPUT / f"log_{n:02d}.json"
            kept = {}
            with contextlib.suppress(OSError, ValueError, TypeError):
                kept = dict(json.loads(file.read_text()))
            rows[f"{n:02d} {name}"] = (row if n == number else kept) | {
                "lecture train / val": "{:.3f} / {:.3f}".format(*lecture)
            }
    table = pd.DataFrame.from_dict(rows, orient="index", columns=[*row, "lecture train / val"])
    return table.fillna("not run yet")


def save_json(path, content):
    """Write `content` to `path` whole or not at all; say so where nothing can be written.

    Raises ValueError for what is no path.
    """
    path = Path(check_parameters(path=path)["path"])
    part = path.with_suffix(f".{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(content, indent=1))
        part.replace(path)
    except OSError as error:
        print(f"{path.name} cannot be written ({error.strerror}): not kept for later notebooks.")
    finally:
        with contextlib.suppress(OSError):
            part.unlink()


# --------------------------------------------------------------------------------- sampling


def sample(model, block_size, itos, n=10, *, temperature=1.0, prefix="", seed=None, max_length=100):
    """`n` new words from the model, all at once, in eval mode.

    Each starts with `prefix` and ends at the model's '.' or after `max_length` letters. The
    logits are divided by `temperature` before the softmax: below 1 safer, above 1 wilder. A
    `seed` gives the same words again; the global generator is left alone. Raises ValueError for
    bad sizes, a temperature of 0 or less, an unknown character, logits that are no numbers.
    """
    check_sizes(block_size=block_size)
    stoi, generator = start_sampling(n, itos, temperature, prefix, seed, max_length)
    start = ([0] * block_size + [stoi[ch] for ch in prefix])[-block_size:]
    words, alive = [prefix] * n, torch.arange(n)
    context = torch.tensor([start] * n)
    check_model(model, context[:1], torch.tensor([len(itos) - 1]))
    with mode(model, False), torch.inference_mode():
        for _ in range(max_length - len(prefix)):
            logits = torch.cat([model(part) for part in context.split(4096)]) / temperature
            ix = draw_next(logits, generator)
            going = ix[:, 0] != 0
            alive, ix = alive[going], ix[going]
            context = torch.cat([context[going, 1:], ix], dim=1)
            for word, i in zip(alive.tolist(), ix[:, 0].tolist(), strict=True):
                words[word] += itos[i]
            if len(alive) == 0:
                break
    return words


def generate(model, itos, n=10, *, temperature=1.0, prefix="", seed=None, max_length=100):
    """`n` new words from a WaveNet, all at once, each character at a fixed cost by ring buffers.

    As `sample` in all else, errors included. Notebook 08; arXiv:1611.09482.
    """
    stoi, generator = start_sampling(n, itos, temperature, prefix, seed, max_length)
    words, alive = [prefix] * n, torch.arange(n)
    ids, rings = torch.zeros(n, dtype=torch.int64), ring_buffers(model, n)
    with mode(model, False), torch.inference_mode():
        for t in range(max_length):
            logits = model(ids, rings) / temperature                           # (N, vocab_size)
            if t < len(prefix):
                ids = torch.full((n,), stoi[prefix[t]])
                continue
            ids = draw_next(logits, generator)[:, 0]
            going = ids != 0
            alive, ids = alive[going], ids[going]
            for ring in rings:
                ring.keep(going)
            for word, i in zip(alive.tolist(), ids.tolist(), strict=True):
                words[word] += itos[i]
            if len(alive) == 0:
                break
    return words


def ring_buffers(model, N):
    """The empty ring buffers for N words, one for each layer of a WaveNet. Notebook 08."""
    check_sizes(N=N)
    if not all(hasattr(layer, "conv") for layer in getattr(model, "layers", [None])):
        raise ValueError(f"the model is a {type(model).__name__}; expected layers with a `conv`, "
                         "as those of a WaveNet (use sample for a tree)")
    convs = [layer.conv for layer in model.layers]
    return [RingBuffer(conv.backs[0], N, conv.linear.in_features // (len(conv.backs) + 1))
            for conv in convs]


def start_sampling(n, itos, temperature, prefix, seed, max_length):
    """(stoi, generator) for sampling; raises ValueError for values that cannot be meant."""
    check_sizes(n=n, max_length=max_length)
    check_numbers(temperature=temperature)
    if seed is not None:
        check_numbers(seed=seed)
    if not isinstance(itos, dict) or set(itos) != {*range(len(itos))}:
        raise ValueError(f"itos is {itos!r:.60}; expected that of build_vocab, a dict from 0 on")
    stoi = {ch: i for i, ch in itos.items() if i}
    if not isinstance(prefix, str):
        raise ValueError(f"prefix is {prefix!r}; expected a text, or '' for none")
    for ch in prefix:
        if ch not in stoi:
            raise ValueError(f"prefix {prefix!r}: {ch!r} is not in the vocabulary; leave it out")
    # One of torch that knows how many characters itos has, so that draw_next can check it.
    generator = type("Draws", (torch.Generator,), {"vocab_size": len(itos)})()
    generator.seed() if seed is None else generator.manual_seed(int(seed))
    return stoi, generator


def draw_next(logits, generator):
    """A character for each row of the logits, drawn by its probability: (N, V) -> (N, 1).

    Raises ValueError for logits that are no numbers, or not as many as itos has characters.
    """
    if getattr(generator, "vocab_size", logits.shape[1]) != logits.shape[1]:
        raise ValueError(f"itos has {generator.vocab_size} characters, the model {logits.shape[1]} "
                         "logits; use the itos of the words that it was trained on")
    if not logits.isfinite().all():
        raise ValueError("the logits are no numbers; the training diverged, train anew")
    return torch.multinomial(F.softmax(logits, dim=1), 1, generator=generator)


# ------------------------------------------------------------------------------------ plots

COLORS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]


def use_style():
    """The course's one plot style: Okabe and Ito's colours, which colour-blind readers can tell."""
    plt.rcParams.update({
        "figure.figsize": (9, 3.6), "figure.dpi": 100, "figure.constrained_layout.use": True,
        "axes.prop_cycle": plt.cycler(color=COLORS), "axes.grid": True, "axes.titleweight": "bold",
        "axes.titlelocation": "left", "axes.spines.top": False, "axes.spines.right": False,
        "axes.axisbelow": True, "grid.alpha": 0.3, "font.size": 11, "legend.frameon": False,
        "image.cmap": "viridis", "savefig.facecolor": "white",
    })


def rolling_mean(losses, window):
    """The mean of every `window` losses in a row: (n,) -> (n - window + 1,), any n and window.

    A window longer than the list is cut to it. Raises ValueError for no losses or a window that
    is no positive integer.
    """
    check_sizes(window=window)
    if len(losses) == 0:
        raise ValueError("rolling_mean: no losses; train for at least one step")
    window = min(window, len(losses))
    sums = np.cumsum(np.concatenate([[0.0], losses]))
    return (sums[window:] - sums[:-window]) / window


def plot_losses(curves, window=1000, title="Training loss", decay_at=None):
    """Draw rolling means of {label: losses} over the steps; return the axes.

    The window is at most a fifth of the steps, so that a short run shows a curve, too. A dotted
    line marks the step `decay_at`, from which on the learning rate is lower. Curves without a loss
    are left out; where all are, the axes say so.
    """
    check_sizes(window=window)
    if not curves:
        raise ValueError("plot_losses: no losses; give it {label: losses}")
    _, ax = plt.subplots()
    for label, losses in curves.items():
        if len(losses) == 0:                    # stopped by hand before its first step
            continue
        smooth = rolling_mean(losses, min(window, max(1, len(losses) // 5)))
        first = len(losses) - len(smooth) + 1
        every = max(1, len(smooth) // 4000)
        ax.plot(np.arange(first, len(losses) + 1)[::every], smooth[::every], label=label)
    ax.set(xlabel="step", ylabel="loss (nats per character)", title=title)
    if not ax.lines:
        ax.text(0.5, 0.5, "no losses yet", transform=ax.transAxes, ha="center", va="center")
        return ax
    if decay_at is not None:
        ax.axvline(decay_at, color="gray", ls=":", label="learning rate / 10")
    ax.legend()
    return ax
