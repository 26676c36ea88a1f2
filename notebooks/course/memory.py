"""A gated convolution with a memory. Notebook 09; source: arXiv:1611.01576."""

import torch

from course import models
from course.wavenet import CausalConv1d, RingBuffer, make_head


def pool(z, f):
    """c_t = f_t · c_(t-1) + (1 - f_t) · z_t, where c starts at 0: (N, L, C) each -> (N, L, C)."""
    c, memories = torch.zeros_like(z[:, 0]), []
    for z_t, f_t in zip(z.unbind(1), f.unbind(1), strict=True):
        c = torch.lerp(z_t, c, f_t)                     # z_t + f_t · (c - z_t)
        memories.append(c)
    return torch.stack(memories, dim=1)


class MemoryState(RingBuffer):
    """What a MemoryLayer keeps for one position at a time: its last inputs, and c (N, C)."""

    def __init__(self, size, N, C):
        super().__init__(size, N, C)
        self.c = torch.zeros(N, C)

    def keep(self, rows):
        super().keep(rows)
        self.c = self.c[rows]


class MemoryLayer(torch.nn.Module):
    """A gated convolution and, where `pooling`, its memory: x (..., C) -> the next x (..., C)."""

    State = MemoryState

    def __init__(self, C, dilation=1, pooling=True, dropout=0, zoneout=0):
        super().__init__()
        self.conv = CausalConv1d(C, 3 * C if pooling else 2 * C, dilation)
        self.dropout, self.pooling, self.zoneout = torch.nn.Dropout(dropout), pooling, zoneout
        with torch.no_grad():
            self.conv.linear.bias[2 * C :] = 1          # f about 0.73: half is left after two

    def forward(self, x, history):
        z, o, *f = self.conv(x, history).chunk(3 if self.pooling else 2, dim=-1)
        z, o = torch.tanh(z), torch.sigmoid(o)
        c = self.remember(z, torch.sigmoid(*f), history) if self.pooling else z
        return x + self.dropout(o * c)

    def remember(self, z, f, history):
        if self.training and self.zoneout:
            f = f.masked_fill(torch.rand_like(f) < self.zoneout, 1)     # there c stays as it is
        if z.ndim == 3:
            return pool(z, f)
        history.c = torch.lerp(z, history.c, f)                         # one position, (N, C)
        return history.c


class MemoryNet(torch.nn.Module):
    """Predicts the next character at every position: (N, L) int64 -> (N, L, vocab_size)."""

    def __init__(self, vocab_size, n_hidden, dilations, *, pooling=True, dropout=0,
                 embd_dropout=0, zoneout=0):
        super().__init__()
        self.embedding = torch.nn.Sequential(
            torch.nn.Embedding(vocab_size, n_hidden), torch.nn.Dropout(embd_dropout))
        self.layers = torch.nn.ModuleList(
            MemoryLayer(n_hidden, d, pooling, dropout, zoneout) for d in dilations)
        self.head = torch.nn.Sequential(
            torch.nn.Dropout(dropout), *make_head(n_hidden, vocab_size, deep=False))

    def forward(self, X, histories=None):
        x = self.embedding(X)                                                   # (N, L, C)
        histories = histories or [models.Rows()] * len(self.layers)
        for layer, history in zip(self.layers, histories, strict=True):
            x = layer(x, history)
        return self.head(x)
