"""Recipes for the race in notebook 12, each with its cost and the val it reaches.

    PYTHONPATH=notebooks python -m course.race --trials today best --seeds 1 2 3

in the project's folder measures some trials, or all, and adds their rows to data/speed.csv.
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
from course import fitting, memory, models, wavenet

FILE = helpers.ROOT / "data" / "speed.csv"
BEST = {"model": "packed", "epochs": 3.25, "batches": "mixed", "batch_size": 64, "lr": 6e-3,
        "optimizer": "AdamW", "betas": (0.9, 0.99), "warmup": 0.1, "anneal": "linear",
        "n_embd": 24, "n_hidden": 120, "kernel_size": 5, "dilations": (1, 2)}
TODAY = {"model": "stack", "epochs": 5, "batches": "length", "anneal": "cos"}
TRIALS = {
    "today": TODAY,
    "best": {},
    "by length": {"model": "stack", "batches": "length"},
    "not looked up": {"model": "mixed stack"},
    "cosine": {"anneal": "cos"},
    "twice the learning rate": {"lr": 12e-3},
    "batches of 128": {"batch_size": 128, "lr": 9e-3},
    "NAdam": {"optimizer": "NAdam"},
    "seven characters": {"kernel_size": 7, "n_embd": 16},
    "one layer": {"dilations": (2,), "n_hidden": 160},
    "a memory": {"model": "memory", "n_hidden": 76},
    "GRU": {"model": "gru", "n_hidden": 106},
}


def build(c, vocab_size):
    """The untrained net of a trial, for whole words."""
    stack = models.Stack(vocab_size, c["n_embd"], c["n_hidden"], c["kernel_size"], c["dilations"])
    rivals = {
        "stack": lambda: stack, "packed": lambda: models.Packed(stack),
        "mixed stack": lambda: models.ByLength(stack, 16),
        "memory": lambda: memory.MemoryNet(vocab_size, c["n_hidden"], c["dilations"]),
        "gru": lambda: models.Recurrent(nn.GRU, vocab_size, c["n_hidden"], 1)}
    net = rivals[c["model"]]()
    return models.ByLength(net, 16) if c["model"] in ("memory", "gru") else net


def loss(net, X, Y):
    """The mean loss at the real positions, for logits at all positions or at those alone."""
    logits = net(X)
    return F.cross_entropy(logits.flatten(0, -2), Y[Y != fitting.PAD] if logits.ndim == 2
                           else Y.flatten(), ignore_index=fitting.PAD)


def measure(seed, names_file="data/names.txt", **changes):
    """Train on one thread, and return a row: seconds, operations (10^12) and val at the end."""
    c = BEST | changes
    words = helpers.load_words(names_file)
    stoi, _ = helpers.build_vocab(words)
    parts = helpers.split_words(words)
    (X, Y), (Xv, Yv) = (wavenet.encode_names(parts[part], stoi) for part in ("train", "val"))
    steps = helpers.capped(round(c["epochs"] * math.ceil(len(X) / c["batch_size"])), 4)
    torch.manual_seed(seed)
    net = build(c, len(stoi))
    how = {"lr": c["lr"], "betas": c["betas"]}
    optimizer = (torch.optim.AdamW(net.parameters(), fused=True, **how)
                 if c["optimizer"] == "AdamW" else torch.optim.NAdam(net.parameters(), **how))
    schedule = fitting.one_cycle(optimizer, c["lr"], steps, c["warmup"], cycle_momentum=False,
                                 anneal_strategy=c["anneal"])
    make = models.length_batches if c["batches"] == "length" else fitting.window_batches
    batches = make(X, Y, c["batch_size"])
    with helpers.threads(1):
        with FlopCounterMode(display=False) as counter:
            for x, y in itertools.islice(batches, 20):
                loss(net, x, y).backward()
        torch.manual_seed(seed)
        batches = make(X, Y, c["batch_size"])
        clock, cpu = time.perf_counter(), time.process_time()
        for x, y in itertools.islice(batches, steps):
            optimizer.zero_grad()
            loss(net, x, y).backward()
            optimizer.step()
            schedule.step()
        clock, cpu = time.perf_counter() - clock, time.process_time() - cpu
        val = wavenet.name_loss(getattr(net, "stack", net), Xv, Yv, packed=False)
    return {"seed": seed, "val": round(val, 5), "seconds": round(clock, 2), "cpu": round(cpu, 2),
            "operations": round(counter.get_total_flops() / 20 * steps / 1e12, 4),
            "parameters": sum(p.nelement() for p in net.parameters()), "steps": steps,
            "changes": json.dumps(changes), "processor": f"{platform.machine()}, "
            f"{torch.backends.cpu.get_cpu_capability()}", "torch": torch.__version__}


def main():
    """Measure the trials that are asked for, one after the other, and keep their rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", nargs="+", choices=TRIALS, default=list(TRIALS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--file", type=Path, default=FILE)
    options = parser.parse_args()
    for seed in options.seeds:
        for trial in options.trials:
            row = {"trial": trial} | measure(seed, **TRIALS[trial])
            new = not options.file.exists()
            with options.file.open("a", newline="") as file:
                writer = csv.DictWriter(file, row, lineterminator="\n")
                if new:
                    writer.writeheader()
                writer.writerow(row)
            print(*row.values())


if __name__ == "__main__":
    main()
