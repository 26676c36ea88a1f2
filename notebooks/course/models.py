"""The other models of the course: the tree in torch.nn, the field's rivals, the small stack.

N words or windows, L characters of the longest word with its end, T characters of a window, C
channels, V characters in the vocabulary.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import helpers
from course.fitting import PAD
from course.wavenet import CausalConv1d, make_head


class Activation:
    """A function of each element in place of a Tanh layer."""

    def __init__(self, function):
        self.function = function

    def __call__(self, x):
        self.out = self.function(x)
        return self.out

    def parameters(self):
        return []


class Level(nn.Module):
    """Joins two neighbours: (B, T, C) -> (B, T//2, n_hidden)."""

    def __init__(self, fan_in, n_hidden, dropout=0.0):
        super().__init__()
        self.linear = nn.Linear(2 * fan_in, n_hidden, bias=False)
        self.norm = nn.BatchNorm1d(n_hidden)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x):
        B, T, C = x.shape
        x = self.linear(x.view(B, T // 2, 2 * C))            # (B, T//2, n_hidden)
        x = self.norm(x.flatten(0, 1)).view(x.shape)         # positions are batch
        return self.dropout(torch.tanh(x))


class TreeNet(nn.Module):
    """The tree of notebook 05 in torch.nn: (B, block_size) -> (B, vocab_size)."""

    def __init__(self, vocab_size, block_size, n_embd, n_hidden, dropout=0.0):
        super().__init__()
        n_levels = len(helpers.tree_levels(block_size)) - 1
        widths = [n_embd] + [n_hidden] * (n_levels - 1)
        self.embedding = nn.Embedding(vocab_size, n_embd)
        self.levels = nn.Sequential(*[Level(C, n_hidden, dropout) for C in widths])
        self.head = nn.Linear(n_hidden, vocab_size)

    def forward(self, X):
        x = self.levels(self.embedding(X))           # (B, T) -> (B, 1, n_hidden)
        return self.head(x.squeeze(1))               # (B, vocab_size)


def small_head(net):
    """The net, the weight of its last layer scaled by 0.1, as everywhere in the course."""
    with torch.no_grad():
        net.head.weight *= 0.1
    return net


def adamw_groups(model, weight_decay):
    """Parameters for AdamW: matrices shrink, embeddings, biases and norms do not."""
    tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    tables.add(id(getattr(model, "place", None)))
    groups = {weight_decay: [], 0.0: []}
    for p in model.parameters():
        groups[weight_decay if p.ndim == 2 and id(p) not in tables else 0.0].append(p)
    return [{"params": ps, "weight_decay": decay} for decay, ps in groups.items() if ps]


def make_flat(vocab_size, block_size, n_embd, n_hidden, dropout=0.0):
    """An MLP over a window, wide, with dropout and without BatchNorm: (N, T) -> (N, V)."""
    return nn.Sequential(
        nn.Embedding(vocab_size, n_embd), nn.Flatten(), nn.Linear(block_size * n_embd, n_hidden),
        nn.GELU(), nn.Dropout(dropout), *make_head(n_hidden, vocab_size, deep=False))


class Recurrent(nn.Module):
    """A GRU or an LSTM over whole words: (N, L) -> (N, L, V)."""

    def __init__(self, kind, vocab_size, n_hidden, n_layers, dropout=0.0):
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, n_hidden)
        self.rnn = kind(n_hidden, n_hidden, n_layers, batch_first=True,
                        dropout=dropout if n_layers > 1 else 0.0)
        self.dropout = nn.Dropout(dropout)
        self.head = make_head(n_hidden, vocab_size, deep=False)

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
        self.head = make_head(n_hidden, vocab_size, deep=False)

    def forward(self, X):
        L = X.shape[1]
        mask = nn.Transformer.generate_square_subsequent_mask(L)
        x = self.dropout(self.embedding(X) + self.place[:L])                # (N, L, C)
        return self.head(self.norm(self.layers(x, mask, is_causal=True)))


class NGram(nn.Module):
    """Counts of what followed each context of 0 to `order` characters: (N, L) -> (N, L, V).

    Each context's counts are mixed with the prediction of the next shorter one, which weighs
    `weight` times the number of the context's different followers (with 1: Witten and Bell, 1991).
    The shortest is mixed with the uniform distribution. Gives log-probabilities.
    """

    def __init__(self, vocab_size, order, weight=1.0):
        super().__init__()
        self.vocab_size, self.order, self.weight, self.counts = vocab_size, order, weight, {}

    def count(self, X, Y):
        for x, y in zip(X.tolist(), Y.tolist(), strict=True):
            for t, target in enumerate(y):
                if target != PAD:
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
        return torch.tensor(np.array(rows)).log().to(torch.get_default_dtype())


class Rows:
    """The history in rows of one word each, for a CausalConv1d: called as history(x, offsets).

    Like WordHistory, without its masks: what is before a row is zero anyway.
    """

    def __call__(self, x, offsets):
        L = x.shape[1]
        return [F.pad(x, (0, 0, b, 0))[:, :L] for b in offsets]                   # (N, L, C) each


class ByLength(nn.Module):
    """The logits of `net` for rows of whole words, (N, L), computed with next to no padding.

    It takes some rows of about one length at a time. A batch of one length would need no padding
    either, but in such a batch all words end at the same place.
    """

    def __init__(self, net, size=64):
        super().__init__()
        self.net, self.size = net, size

    def forward(self, X):
        lengths, parts = (X != 0).sum(1) + 1, []
        order = lengths.argsort()
        for rows in order.split(self.size):
            logits = self.net(X[rows, :lengths[rows[-1]]])
            parts.append(F.pad(logits, (0, 0, 0, X.shape[1] - logits.shape[1])))
        return torch.cat(parts)[order.argsort()]                                # (N, L, V)


class StackLayer(nn.Module):
    """Causal convolution and GELU, added to the input if `residual`: (..., C_in) -> (..., C)."""

    def __init__(self, C_in, C, dilation, kernel_size, residual):
        super().__init__()
        self.conv = CausalConv1d(C_in, C, dilation, kernel_size)
        self.residual = residual

    def forward(self, x, history):
        z = F.gelu(self.conv(x, history))
        return x + z if self.residual else z


class Stack(nn.Module):
    """Predicts the next character at every position: (N, L) int64 -> (N, L, V).

    The first layer joins `kernel_size` characters; each of `dilations` adds one that joins two
    places. With ring buffers as `histories` X is one position, (N,).
    """

    def __init__(self, vocab_size, n_embd, n_hidden, kernel_size=5, dilations=(1, 2)):
        super().__init__()
        self.receptive_field = kernel_size + sum(dilations)
        self.embedding = nn.Embedding(vocab_size, n_embd)
        self.layers = nn.ModuleList([
            StackLayer(n_embd, n_hidden, 1, kernel_size, residual=False),
            *(StackLayer(n_hidden, n_hidden, d, 2, residual=True) for d in dilations)])
        self.head = make_head(n_hidden, vocab_size, deep=False)

    def forward(self, X, histories=None):
        x = self.embedding(X)                                                   # (N, L, C)
        histories = histories or [Rows()] * len(self.layers)
        for layer, history in zip(self.layers, histories, strict=True):
            x = layer(x, history)
        return self.head(x)


class Packed(nn.Module):
    """A Stack's logits at the P real positions of whole words: (N, L) -> (P, V).

    It computes nothing for the padding. And it needs the first layer's products only once for each
    character of the vocabulary: at every position, they can be looked up.
    """

    def __init__(self, stack):
        super().__init__()
        self.stack = stack

    def forward(self, X, histories=None):
        if histories:
            return self.stack(X, histories)                                 # one position
        conv, table = self.stack.layers[0].conv.linear, self.stack.embedding.weight
        V, k = len(table), conv.in_features // table.shape[1]
        real = F.pad(X[:, 1:] != 0, (1, 0), value=True)                     # (N, L), P of them True
        place = torch.arange(X.shape[1]).expand_as(X)[real]                 # (P,), in its word
        seen = F.pad(X, (k - 1, 0), value=V).unfold(1, k, 1)[real]          # (P, k) characters
        products = torch.einsum("ve,cke->kvc", F.pad(table, (0, 0, 0, 1)),  # V: before the word, 0
                                conv.weight.unflatten(1, (k, -1)))          # (k, V + 1, C)
        rows = F.embedding(seen + torch.arange(k) * (V + 1), products.flatten(0, 1))
        x = F.gelu(rows.sum(1) + conv.bias)                                 # (P, C)

        def history(x, offsets):
            return [F.pad(x, (0, 0, b, -b)) * (place >= b)[:, None] for b in offsets]

        for layer in self.stack.layers[1:]:
            x = layer(x, history)
        return self.stack.head(x)


def length_batches(X, Y, batch_size):
    """Batches of encode_names' (X, Y), without end: names of about one length, a row each.

    Every epoch takes all names once. They are shuffled, sorted by length and cut into batches, and
    the batches are shuffled. So there is next to no padding: (N, L), L the longest of a batch.
    """
    helpers.check(batch_size=batch_size)
    lengths = (Y != PAD).sum(1)
    while True:
        order = torch.randperm(len(X))
        batches = order[lengths[order].argsort(stable=True)].split(batch_size)
        for i in torch.randperm(len(batches)).tolist():
            L = int(lengths[batches[i][-1]])
            yield X[batches[i], :L], Y[batches[i], :L]
