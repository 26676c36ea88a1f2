"""The other models of notebook 09, from torch.nn, and the n-gram, which needs no gradient.

N words or windows, L characters of the longest word with its end, T characters of a window, V
characters in the vocabulary.
"""

import numpy as np
import torch
from torch import nn

import helpers


class Activation:
    """A function of every element in the place of a Tanh layer."""

    def __init__(self, function):
        self.function = function

    def __call__(self, x):
        self.out = self.function(x)
        return self.out

    def parameters(self):
        return []


class TorchTree(nn.Module):
    """The tree of notebook 05 in torch.nn: (N, T) -> (N, V). Notebook 06."""

    def __init__(self, vocab_size, block_size, n_embd, n_hidden, dropout=0.0):
        super().__init__()
        n_levels = len(helpers.tree_levels(block_size)) - 1
        widths = [n_embd, *[n_hidden] * (n_levels - 1)]
        self.embedding = nn.Embedding(vocab_size, n_embd)
        self.linears = nn.ModuleList(nn.Linear(2 * C, n_hidden, bias=False) for C in widths)
        self.norms = nn.ModuleList(nn.BatchNorm1d(n_hidden) for _ in widths)
        self.dropout = nn.Dropout(dropout)
        self.head = helpers.make_head(n_hidden, vocab_size, deep=False)

    def forward(self, X):
        x = self.embedding(X)                                               # (N, T, C)
        for linear, norm in zip(self.linears, self.norms, strict=True):
            x = linear(x.reshape(len(X), x.shape[1] // 2, -1))              # (N, T / 2, n_hidden)
            x = self.dropout(torch.tanh(norm(x.flatten(0, 1)).view_as(x)))
        return self.head(x.squeeze(1))


def make_flat(vocab_size, block_size, n_embd, n_hidden, dropout=0.0):
    """An MLP over a window, wide, with dropout and without BatchNorm: (N, T) -> (N, V)."""
    return nn.Sequential(
        nn.Embedding(vocab_size, n_embd), nn.Flatten(), nn.Linear(block_size * n_embd, n_hidden),
        nn.GELU(), nn.Dropout(dropout), *helpers.make_head(n_hidden, vocab_size, deep=False))


class Recurrent(nn.Module):
    """A GRU or an LSTM over whole words: (N, L) -> (N, L, V)."""

    def __init__(self, kind, vocab_size, n_hidden, n_layers, dropout=0.0):
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, n_hidden)
        self.rnn = kind(n_hidden, n_hidden, n_layers, batch_first=True,
                        dropout=dropout if n_layers > 1 else 0.0)
        self.dropout = nn.Dropout(dropout)
        self.head = helpers.make_head(n_hidden, vocab_size, deep=False)

    def forward(self, X):
        x, _ = self.rnn(self.dropout(self.embedding(X)))                    # (N, L, C)
        return self.head(self.dropout(x))


class Transformer(nn.Module):
    """Causal attention over whole words: (N, L) -> (N, L, V), L at most `length`."""

    def __init__(self, vocab_size, n_hidden, n_layers, n_head, dropout, length):
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, n_hidden)
        self.place = nn.Parameter(torch.zeros(length, n_hidden))
        layer = nn.TransformerEncoderLayer(n_hidden, n_head, 4 * n_hidden, dropout, "gelu",
                                           batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, n_layers, enable_nested_tensor=False)
        self.norm, self.dropout = nn.LayerNorm(n_hidden), nn.Dropout(dropout)
        self.head = helpers.make_head(n_hidden, vocab_size, deep=False)

    def forward(self, X):
        L = X.shape[1]
        mask = nn.Transformer.generate_square_subsequent_mask(L)
        x = self.dropout(self.embedding(X) + self.place[:L])                # (N, L, C)
        return self.head(self.norm(self.layers(x, mask, is_causal=True)))


class NGram(nn.Module):
    """Counts of what followed each context of 0 to `order` characters: (N, L) -> (N, L, V).

    Each context's counts are mixed with the prediction of the next shorter one, which weighs
    `weight` times the number of the context's different followers (with 1: Witten and Bell, 1991).
    The shortest is mixed with the uniform distribution. Gives log-probabilities. Raises ValueError
    for an order below 0, and for a prediction before `count`.
    """

    def __init__(self, vocab_size, order, weight=1.0):
        super().__init__()
        helpers.check_sizes(vocab_size=vocab_size)
        helpers.check_sizes(0, order=order)
        self.vocab_size, self.order, self.weight, self.counts = vocab_size, order, weight, {}

    def count(self, X, Y):
        for x, y in zip(X.tolist(), Y.tolist(), strict=True):
            for t, target in enumerate(y):
                if target != helpers.PAD:
                    for k in range(min(self.order, t + 1) + 1):
                        context = tuple(x[t + 1 - k : t + 1])
                        if context not in self.counts:
                            self.counts[context] = np.zeros(self.vocab_size)
                        self.counts[context][target] += 1
        self.known = {}

    def predict(self, context):
        """(V,): the probabilities after a context, a tuple of at most `order` characters."""
        if not self.counts:
            raise ValueError("this NGram has no counts; give its count(X, Y) the words of train")
        if context not in self.known:
            shorter = (self.predict(context[1:]) if context
                       else np.full(self.vocab_size, 1 / self.vocab_size))
            n = self.counts.get(context)
            if n is not None:
                kinds = self.weight * np.count_nonzero(n)
                shorter = (n + kinds * shorter) / (n.sum() + kinds)
            self.known[context] = shorter
        return self.known[context]

    def forward(self, X):
        rows = [[self.predict(tuple(x[max(0, t + 1 - self.order) : t + 1]))
                 for t in range(len(x))] for x in X.tolist()]
        return torch.tensor(np.array(rows)).log().float()
