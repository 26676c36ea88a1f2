"""The WaveNet, its batches of whole words, and generation from ring buffers. Notebook 09.

N words, L characters of the longest word with its end, C channels, S channels of the skips.
"""

import torch
import torch.nn.functional as F

import helpers
from course.fitting import PAD, position_loss, window_batches


def encode_names(words, stoi):
    """(X, Y) of whole words, a row each: X is '.' and the letters, Y the letters and '.'.

    Both are (N, L) int64. Shorter words are filled up: X with 0, on which nothing depends, and Y
    with PAD, which the loss leaves out.
    """
    if unknown := set("." + "".join(words)) - set(stoi):
        raise ValueError(f"{min(unknown)!r} is not in the vocabulary; build stoi with build_vocab "
                         "from a list that has all the words")
    X = torch.zeros(len(words), max(map(len, words)) + 1, dtype=torch.int64)
    Y = torch.full_like(X, PAD)
    for x, y, w in zip(X, Y, words, strict=True):
        ids = torch.tensor([stoi[ch] for ch in w + "."])
        x[1 : len(ids)] = ids[:-1]
        y[: len(ids)] = ids
    return X, Y


def without_padding(X, Y, packed):
    """The real positions of (X, Y): packed, (1, P), one after the other; else cut to the longest.

    Either way all words are there, and the WaveNet's outputs at real positions are the same.
    """
    real = Y != PAD
    L = real.sum(1).max()
    return (X[real][None], Y[real][None]) if packed else (X[:, :L], Y[:, :L])


def name_batches(X, Y, batch_size, packed=True):
    """Like window_batches, for encode_names: `batch_size` words at a time, without the padding."""
    for x, y in window_batches(X, Y, batch_size):
        yield without_padding(x, y, packed)


def name_loss(model, X, Y, chunk=1024, packed=True):
    """Mean loss over all characters of encode_names' (X, Y), in eval mode, `chunk` words at a time.

    The sum over the real positions by their number: a character counts the same in every word. In
    quick mode only the first 256 words count.
    """
    X, Y, total = X[:helpers.capped(len(X), 256)], Y[:helpers.capped(len(Y), 256)], 0.0
    with helpers.mode(model, False), torch.inference_mode():
        for x, y in zip(X.split(chunk), Y.split(chunk), strict=True):
            x, y = without_padding(x, y, packed)
            total += position_loss(model(x), y).item()
    return total / (Y != PAD).sum().item()


class WordHistory:
    """The inputs some positions earlier, in rows of whole words; 0 before the start of a word."""

    def __init__(self, X):
        place = torch.arange(X.shape[1])
        self.age = place - torch.where(X == 0, place, 0).cummax(1).values      # (N, L)

    def __call__(self, x, offsets):
        L = x.shape[1]
        return [F.pad(x, (0, 0, b, 0))[:, :L] * (self.age >= b)[..., None] for b in offsets]


class RingBuffer:
    """The inputs some calls earlier, for one position at a time: the last `size` inputs (N, C)."""

    def __init__(self, size, N, C):
        self.values, self.t = torch.zeros(size, N, C), 0

    def __call__(self, x, offsets):
        size = len(self.values)
        taps = [self.values[(self.t - offset) % size].clone() for offset in offsets]
        self.values[self.t % size] = x
        self.t += 1
        return taps

    def keep(self, rows):
        self.values = self.values[:, rows]


class CausalConv1d(torch.nn.Module):
    """A dilated convolution that sees only the past: (..., C_in) -> (..., C_out)."""

    def __init__(self, C_in, C_out, dilation=1, kernel_size=2):
        super().__init__()
        self.offsets = [j * dilation for j in range(kernel_size - 1, 0, -1)]
        self.linear = torch.nn.Linear(kernel_size * C_in, C_out)

    def forward(self, x, history):
        return self.linear(torch.cat([*history(x, self.offsets), x], dim=-1))


class WaveNetLayer(torch.nn.Module):
    """Convolution, gate, residual and skip: x (..., C) -> the next x (..., C), skip (..., S)."""

    def __init__(self, C, S, dilation, kernel_size, dropout, residual, gate, skip):
        super().__init__()
        self.conv = CausalConv1d(C, 2 * C if gate else C, dilation, kernel_size)
        self.residual = torch.nn.Linear(C, C) if residual else None
        self.skip = torch.nn.Linear(C, S) if skip else None
        self.dropout, self.gate = torch.nn.Dropout(dropout), gate

    def forward(self, x, history):
        z = self.conv(x, history)
        if self.gate:
            f, g = z.chunk(2, dim=-1)                                           # (..., C) each
            z = torch.tanh(f) * torch.sigmoid(g)
        else:
            z = torch.tanh(z)
        z = self.dropout(z)
        skip = self.skip(z) if self.skip else 0
        return (x + self.residual(z) if self.residual else z), skip


def make_head(S, vocab_size, deep, dropout=0):
    """From S channels to logits: ReLU, Linear, ReLU, Linear, or the last one alone."""
    nn = torch.nn
    drop = nn.Dropout(dropout)
    layers = [nn.ReLU(), drop, nn.Linear(S, S), nn.ReLU(), drop] if deep else []
    head = nn.Sequential(*layers, nn.Linear(S, vocab_size))
    with torch.no_grad():
        head[-1].weight *= 0.1
    return head


class WaveNet(torch.nn.Module):
    """Predicts the next character at every position: (N, L) int64 -> (N, L, vocab_size)."""

    def __init__(self, vocab_size, n_hidden, n_skip, dilations, *, kernel_size=2, dropout=0,
                 embd_dropout=0, head_dropout=0, residual=True, gate=True, skip=True, head=True):
        super().__init__()
        self.receptive_field = 1 + (kernel_size - 1) * sum(dilations)
        self.embedding = torch.nn.Sequential(
            torch.nn.Embedding(vocab_size, n_hidden), torch.nn.Dropout(embd_dropout))
        self.layers = torch.nn.ModuleList(
            WaveNetLayer(n_hidden, n_skip, d, kernel_size, dropout, residual, gate, skip)
            for d in dilations)
        if skip:
            self.layers[-1].residual = None
        self.head = make_head(n_skip if skip else n_hidden, vocab_size, head, head_dropout)

    def forward(self, X, histories=None):
        x, skips = self.embedding(X), 0                                         # (N, L, C)
        histories = histories or [WordHistory(X)] * len(self.layers)
        for layer, history in zip(self.layers, histories, strict=True):
            x, skip = layer(x, history)
            skips = skips + skip                                                # (N, L, S)
        return self.head(skips if self.layers[-1].skip else x)


def ring_buffers(model, N):
    """Empty ring buffers for N words, one for each layer of the model."""
    return [getattr(layer, "State", RingBuffer)(
        layer.conv.offsets[0], N, layer.conv.linear.in_features // (len(layer.conv.offsets) + 1))
        for layer in model.layers]


def generate(model, itos, n=10, *, temperature=1.0, prefix="", seed=None, max_length=100):
    """`n` new words, all at once, at a fixed cost for each character. Otherwise as `sample`.

    Source: arXiv:1611.09482.
    """
    stoi, generator = helpers.start_sampling(n, itos, temperature, prefix, seed, max_length)
    words, alive = [prefix] * n, torch.arange(n)
    ids, rings = torch.zeros(n, dtype=torch.int64), ring_buffers(model, n)
    with helpers.mode(model, False), torch.inference_mode():
        for t in range(max_length):
            logits = model(ids, rings) / temperature                           # (N, vocab_size)
            if t < len(prefix):
                ids = torch.full((n,), stoi[prefix[t]])
                continue
            ids = helpers.draw_next(logits, itos, generator)[:, 0]
            going = ids != 0
            alive, ids = alive[going], ids[going]
            for ring in rings:
                ring.keep(going)
            for word, i in zip(alive.tolist(), ids.tolist(), strict=True):
                words[word] += itos[i]
            if len(alive) == 0:
                break
    return words
