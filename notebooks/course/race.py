"""Recipes for the race in notebook 12, each with its cost and the val it reaches.

    PYTHONPATH=notebooks python -m course.race --trials cosine tied --seeds 1 2 3

in the project's folder measures what data/speed.csv lacks of some trials, or of all.
"""

import argparse
import csv
import itertools
import json
import math
import platform
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import helpers
from course import fitting, memory, models, runs, wavenet

FILE = helpers.ROOT / "data" / "speed.csv"
BEST = {"model": "packed", "epochs": 3.25, "batches": "mixed", "batch_size": 64, "lr": 6e-3,
        "optimizer": "AdamW", "betas": (0.9, 0.99), "warmup": 0.1, "anneal": "linear",
        "n_embd": 24, "n_hidden": 120, "kernel_size": 5, "dilations": (1, 2),
        "gain": 1, "grows": False, "update": {"fused": True}, "one_tensor": False,
        "bfloat16": False, "compiled": False}
BY_LENGTH = {"model": "stack", "batches": "length", "anneal": "cos"}
LECTURE = {"model": "tree"}
TRIALS = {
    "the lecture's recipe": LECTURE,
    "the last recipe, same run": {},
    "the last recipe": {},
    "by length, 5 epochs, cosine": BY_LENGTH | {"epochs": 5},
    "by length, 4 epochs, cosine": BY_LENGTH | {"epochs": 4},
    "by length": {"model": "stack", "batches": "length"},
    "groups of 16, padded": {"model": "mixed stack"},
    "cosine": {"anneal": "cos"},
    "no warm-up": {"warmup": 1e-3},
    "warm-up of 30%": {"warmup": 0.3},
    "half the learning rate": {"lr": 3e-3},
    "twice the learning rate": {"lr": 12e-3},
    "batches of 32": {"batch_size": 32, "lr": 4e-3},
    "batches of 128": {"batch_size": 128, "lr": 9e-3},
    "batches of 128, 4 epochs": {"batch_size": 128, "lr": 9e-3, "epochs": 4},
    "batches that grow": {"grows": True},
    "He's initialisation": {"gain": 6**0.5},
    "NAdam": {"optimizer": "NAdam"},
    "Muon": {"optimizer": "Muon"},
    "seven characters": {"kernel_size": 7, "n_embd": 16},
    "one wide layer": {"dilations": (2,), "n_hidden": 160},
    "GLU": {"model": "glu", "n_hidden": 81},
    "tied": {"model": "tied"},
    "a memory": {"model": "memory", "n_hidden": 76},
    "a memory, twice the learning rate": {"model": "memory", "n_hidden": 76, "lr": 12e-3},
    "GRU": {"model": "gru", "n_hidden": 106},
    "GRU, twice the learning rate": {"model": "gru", "n_hidden": 106, "lr": 12e-3},
    "update by foreach": {"update": {"foreach": True}},
    "update in a loop": {"update": {"foreach": False}},
    "one tensor": {"one_tensor": True},
    "bfloat16": {"bfloat16": True},
    "compiled": {"compiled": True},
}


class GLULayer(models.StackLayer):
    """A StackLayer with a gated linear unit in place of GELU."""

    def __init__(self, C_in, C, *options):
        super().__init__(C_in, 2 * C, *options)

    def forward(self, x, history):
        z = F.glu(self.conv(x, history))
        return x + z if self.residual else z


def gated(stack, c):
    """The stack with gated layers."""
    C = c["n_hidden"]
    stack.layers = nn.ModuleList([
        GLULayer(c["n_embd"], C, 1, c["kernel_size"], False),
        *(GLULayer(C, C, d, 2, True) for d in c["dilations"])])
    return stack


def tied(stack, c):
    """The stack with the weight of its embedding as that of its last layer, too."""
    last = nn.Linear(*stack.embedding.weight.shape[::-1])
    last.weight = stack.embedding.weight
    stack.head = nn.Sequential(nn.Linear(c["n_hidden"], c["n_embd"], bias=False), last)
    with torch.no_grad():
        stack.head[0].weight *= 0.1
    return stack


def build(c, vocab_size):
    """The untrained net of a trial, for whole words."""
    stack = models.Stack(vocab_size, c["n_embd"], c["n_hidden"], c["kernel_size"], c["dilations"])
    rivals = {
        "stack": lambda: stack, "packed": lambda: models.Packed(stack),
        "mixed stack": lambda: models.ByLength(stack, 16),
        "glu": lambda: models.ByLength(gated(stack, c), 16),
        "tied": lambda: models.Packed(tied(stack, c)),
        "memory": lambda: memory.MemoryNet(vocab_size, c["n_hidden"], c["dilations"]),
        "gru": lambda: models.Recurrent(nn.GRU, vocab_size, c["n_hidden"], 1)}
    with torch.no_grad():
        for layer in stack.layers:
            layer.conv.linear.weight *= c["gain"]
    net = rivals[c["model"]]()
    return models.ByLength(net, 16) if c["model"] in ("memory", "gru") else net


def loss(net, X, Y):
    """The mean loss at the real positions, for logits at all positions or at those alone."""
    logits = net(X)
    return F.cross_entropy(logits.flatten(0, -2), Y[Y != fitting.PAD] if logits.ndim == 2
                           else Y.flatten(), ignore_index=fitting.PAD)


def as_one(net):
    """All parameters of the net as one; theirs, and their gradients, are views of it."""
    parameters, start = list(net.parameters()), 0
    whole = nn.Parameter(nn.utils.parameters_to_vector(parameters).detach())
    whole.grad = torch.zeros_like(whole)
    for p in parameters:
        place = slice(start, start := start + p.nelement())
        p.data, p.grad = whole.data[place].view_as(p), whole.grad[place].view_as(p)
    return whole


def make_optimizers(net, c):
    """The optimisers of a trial: two for Muon, which is for the matrices between the layers."""
    how = {"lr": c["lr"], "betas": c["betas"]}
    if c["optimizer"] == "NAdam":
        return [torch.optim.NAdam(net.parameters(), **how)]
    parameters, others = [as_one(net)] if c["one_tensor"] else list(net.parameters()), []
    if c["optimizer"] == "Muon":
        matrices = [layer.conv.linear.weight for layer in net.stack.layers]
        parameters = [p for p in parameters if all(p is not m for m in matrices)]
        others = [torch.optim.Muon(matrices, c["lr"], weight_decay=0.01,
                                   adjust_lr_fn="match_rms_adamw")]
    return [torch.optim.AdamW(parameters, **c["update"], **how), *others]


def lecture(seed):
    """The lecture's tree, its number of steps, what trains it and what measures its val."""
    c = runs.complete(LECTURE | {"seed": seed})
    net = runs.build(c)
    runs.data(c, "train")                        # kept, so that its making isn't timed
    return (net, helpers.capped(c["max_steps"], 4),
            lambda net, steps, whole: runs.train(net, runs.with_steps(c, steps)),
            lambda: runs.loss(net, c))


def prepare(seed, c):
    """The net of any other trial, its number of steps, what trains it and what measures its val."""
    words = helpers.load_words()
    stoi, _ = helpers.build_vocab(words)
    parts = helpers.split_words(words)
    (X, Y), (Xv, Yv) = (wavenet.encode_names(parts[part], stoi) for part in ("train", "val"))
    total = helpers.capped(round(c["epochs"] * math.ceil(len(X) / c["batch_size"])), 4)
    torch.manual_seed(seed)
    net = build(c, len(stoi))
    optimizers = make_optimizers(net, c)
    schedules = [fitting.one_cycle(optimizer, c["lr"], total, c["warmup"], cycle_momentum=False,
                                   anneal_strategy=c["anneal"]) for optimizer in optimizers]
    make = models.length_batches if c["batches"] == "length" else fitting.window_batches

    def train(net, steps, whole):
        torch.manual_seed(seed)
        batches = make(X, Y, c["batch_size"])
        if c["grows"]:
            half, more = (make(X, Y, c["batch_size"] * k // 2) for k in (1, 3))
            batches = itertools.chain(itertools.islice(half, steps // 2), more)
        for x, y in itertools.islice(batches, steps):
            for optimizer in optimizers:
                optimizer.zero_grad(set_to_none=not c["one_tensor"])
            with torch.autocast("cpu", torch.bfloat16, c["bfloat16"]):
                L = loss(net, x, y)
            L.backward()
            for each in optimizers + whole * schedules:
                each.step()

    return net, total, train, lambda: wavenet.name_loss(getattr(net, "stack", net), Xv, Yv,
                                                        packed=False)


def measure(seed, **changes):
    """Train on one thread, and return a row: seconds, operations (10^12) and val at the end."""
    c = BEST | changes
    net, steps, train, val = lecture(seed) if changes == LECTURE else prepare(seed, c)
    with helpers.threads(1):
        clock, cpu = time.perf_counter(), time.process_time()
        train(torch.compile(net) if c["compiled"] else net, steps, whole=True)
        clock, cpu = time.perf_counter() - clock, time.process_time() - cpu
        val = val()
        with FlopCounterMode(display=False) as counter:
            train(net, 20, whole=False)
    return {"seed": seed, "val": round(val, 5), "seconds": round(clock, 2), "cpu": round(cpu, 2),
            "operations": round(counter.get_total_flops() / 20 * steps / 1e12, 4),
            "parameters": sum(p.nelement() for p in net.parameters()), "steps": steps,
            "changes": json.dumps(changes), "processor": f"{platform.machine()}, "
            f"{torch.backends.cpu.get_cpu_capability()}", "torch": torch.__version__}


def main():
    """Measure the trials that are asked for and that the file lacks, and keep their rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", nargs="+", choices=TRIALS, default=list(TRIALS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--file", type=Path, default=FILE)
    options = parser.parse_args()
    have = []
    if options.file.exists():
        with options.file.open(newline="") as file:
            have = [(row["trial"], int(row["seed"])) for row in csv.DictReader(file)]
    for seed in options.seeds:
        for trial in options.trials:
            if (trial, seed) in have:
                continue
            row = {"trial": trial} | measure(seed, **TRIALS[trial])
            with options.file.open("a", newline="") as file:
                writer = csv.DictWriter(file, row, lineterminator="\n")
                if not file.tell():
                    writer.writeheader()
                writer.writerow(row)
            print(*row.values())


if __name__ == "__main__":
    main()
