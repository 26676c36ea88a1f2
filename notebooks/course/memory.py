"""A gated convolution with a memory, the best single model of the course. Notebook 09.

    PYTHONPATH=notebooks python -m course.memory train

in the project's folder trains it, about 20 minutes on two cores, and writes data/memory.safetensors
and data/memory_record.json; `measure` reads the weights and measures their losses again.
"""

import argparse
import json
import math
import time

import safetensors.torch
import torch

import helpers
from course import expected, fitting, models, wavenet
from course.files import write_whole
from course.wavenet import CausalConv1d, RingBuffer, make_head

WEIGHTS = helpers.ROOT / "data" / "memory.safetensors"
RECORD = {"n_hidden": 192, "n_layers": 4, "dropout": 0.4, "embd_dropout": 0.1, "zoneout": 0.05,
          "learning_rate": 0.004, "weight_decay": 0.3, "batch_size": 256, "epochs": 40,
          "average": 0.997, "seed": 42, "threads": 2}


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
            self.conv.linear.bias[2 * C :] = 1          # f near 1: forget little at first

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


def build(vocab_size, options):
    """The MemoryNet of the options (as RECORD), its weights drawn anew."""
    return MemoryNet(vocab_size, options["n_hidden"], [1] * options["n_layers"], **{
        name: options[name] for name in ("dropout", "embd_dropout", "zoneout")})


def train(words, stoi, options, **others):
    """A MemoryNet trained on the words; `others` are for fitting.fit."""
    (X, Y), peak = wavenet.encode_names(words, stoi), options["learning_rate"]
    torch.manual_seed(options["seed"])
    net = build(len(stoi), options)
    groups = [{"params": [p for p in net.parameters() if (p.ndim == 2) == matrix],
               "weight_decay": matrix * options["weight_decay"]} for matrix in (True, False)]
    optimizer = torch.optim.AdamW(groups, lr=peak, betas=(0.9, 0.95), fused=True)

    def shorten(*_):
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)

    optimizer.register_step_pre_hook(shorten)
    steps = options["epochs"] * math.ceil(len(X) / options["batch_size"])
    schedule = fitting.one_cycle(optimizer, peak, steps, warmup=0.1, cycle_momentum=False)
    fitting.fit(net, models.length_batches(X, Y, options["batch_size"]), optimizer, steps, schedule,
                average=options["average"], threads=options["threads"], **others)
    return net.eval()


def measure(net, parts, stoi):
    """{part: loss} of the words in each of `parts`."""
    few = helpers.capped(10**9, 512)
    return {part: wavenet.name_loss(net, *wavenet.encode_names(sorted(words[:few], key=len), stoi),
                                    packed=False) for part, words in parts.items()}


def record(parts, stoi, options=RECORD, file=WEIGHTS, **others):
    """Train, keep the weights in float16 and beside them what these give; return the latter."""
    wall, cpu = time.perf_counter(), time.process_time()
    net = train(parts["train"], stoi, options, **others)
    row = {"options": options, "parameters": sum(p.nelement() for p in net.parameters()),
           "seconds": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    half = {name: tensor.half() for name, tensor in net.state_dict().items()}
    write_whole(file, lambda part: safetensors.torch.save_file(half, part))
    net.load_state_dict(half)
    row |= measure(net, parts, stoi)
    write_whole(file.with_name(f"{file.stem}_record.json"),
                lambda part: part.write_text(json.dumps(row, indent=1) + "\n"))
    return row


def load(file=WEIGHTS):
    """(net, row): the net with the kept weights, and what was recorded with them."""
    row = json.loads(file.with_name(f"{file.stem}_record.json").read_text())
    weights = safetensors.torch.load_file(file)
    net = build(len(weights["embedding.0.weight"]), row["options"])
    net.load_state_dict(weights)
    return net.eval(), row


def best(recipe, words):
    """The kept net for recipe "kept", or one trained anew; for another list a short training."""
    if recipe == "kept" and expected.is_our_list(words):
        return load()[0]
    options = RECORD
    if recipe == "kept":
        print("The kept weights are for data/names.txt. Here is a short training instead.")
        options = RECORD | {"n_hidden": 64, "epochs": 2, "threads": 1}
    return train(helpers.split_words(words)["train"], helpers.build_vocab(words)[0], options)


def main():
    """Train and keep the net, or measure the kept one again."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["train", "measure"])
    words = helpers.load_words()
    parts, (stoi, _) = helpers.split_words(words), helpers.build_vocab(words)
    keep = parser.parse_args().what == "train"
    print(record(parts, stoi) if keep else measure(load()[0], parts, stoi))


if __name__ == "__main__":
    main()
