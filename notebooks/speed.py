"""Behind notebook 10: a small stack for the race, and what has to run in a process of its own.

N names, L characters of the longest of them with its end, C channels, V characters in the
vocabulary. Memory is in MB (10^6 bytes), time in seconds.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import psutil
import torch
import torch.nn.functional as F
from torch import nn

import helpers
import rivals

# ------------------------------------------------------------------------------ a small stack


class Rows:
    """The past in rows of one word each, for a CausalConv1d: called as past(x, backs).

    As helpers.WholeWords, without its masks: before the start of a row is zero anyway.
    """

    def __call__(self, x, backs):
        L = x.shape[1]
        return [F.pad(x, (0, 0, b, 0))[:, :L] for b in backs]                   # (N, L, C) each


class StackLayer(nn.Module):
    """Causal convolution and GELU, added to the input where `residual`: (..., C_in) -> (..., C)."""

    def __init__(self, C_in, C, dilation, kernel_size, residual):
        super().__init__()
        self.conv = helpers.CausalConv1d(C_in, C, dilation, kernel_size)
        self.residual = residual

    def forward(self, x, past):
        z = F.gelu(self.conv(x, past))
        return x + z if self.residual else z


class Stack(nn.Module):
    """Predicts the next character at every position: (N, L) int64 -> (N, L, V).

    The first layer joins `kernel_size` characters of `n_embd` numbers each, one that costs little;
    each of `dilations` adds a layer that joins two places, with a residual. X: whole words, a row
    each, or, with ring buffers as `pasts`, one position, (N,). Raises ValueError for sizes below 1,
    a kernel_size below 2.
    """

    def __init__(self, vocab_size, n_embd, n_hidden, kernel_size=5, dilations=(1, 2)):
        super().__init__()
        helpers.check_sizes(vocab_size=vocab_size, n_embd=n_embd, n_hidden=n_hidden)
        helpers.check_sizes(2, kernel_size=kernel_size)
        for dilation in dilations:
            helpers.check_sizes(dilation=dilation)
        self.receptive_field = kernel_size + sum(dilations)
        self.embedding = nn.Embedding(vocab_size, n_embd)
        self.layers = nn.ModuleList([
            StackLayer(n_embd, n_hidden, 1, kernel_size, residual=False),
            *(StackLayer(n_hidden, n_hidden, d, 2, residual=True) for d in dilations)])
        self.head = helpers.make_head(n_hidden, vocab_size, deep=False)

    def forward(self, X, pasts=None):
        x = self.embedding(X)                                                   # (N, L, C)
        for layer, past in zip(self.layers, pasts or [Rows()] * len(self.layers), strict=True):
            x = layer(x, past)
        return self.head(x)


def length_batches(X, Y, batch_size):
    """Batches of encode_names' (X, Y), without end: names of about one length, a row each.

    Every epoch all names once: in a new order, sorted by length, cut into batches, and these in a
    new order. So there is next to no padding, (N, L) with L the longest of the batch. Raises
    ValueError for a batch_size below 1, X and Y of other shapes.
    """
    helpers.check_sizes(batch_size=batch_size)
    helpers._check_rows(X, Y)
    lengths = (Y != helpers.PAD).sum(1)
    while True:
        order = torch.randperm(len(X))
        batches = order[lengths[order].argsort(stable=True)].split(batch_size)
        for i in torch.randperm(len(batches)).tolist():
            L = int(lengths[batches[i][-1]])
            yield X[batches[i], :L], Y[batches[i], :L]


# ---------------------------------------------------------------------------- other processes


class NotMeasured(Exception):
    """A process of its own could not measure; the text says why."""


def child(job, timeout=300, env=None, **options):
    """What `job(**options)` of this module returns, from a Python process of its own.

    The options and the result must go through JSON. Raises NotMeasured when the process fails or
    takes longer than `timeout` seconds; it is ended then, with all that it started.
    """
    posix = os.name == "posix"
    process = subprocess.Popen(
        [sys.executable, __file__, job, json.dumps(options)], text=True, start_new_session=posix,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ | (env or {}))
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        _end(process, posix)
        raise NotMeasured(f"{job} took longer than {timeout} seconds") from None
    except BaseException:                               # interrupted by hand: leave nothing behind
        _end(process, posix)
        raise
    if process.returncode:
        last = (err.strip().splitlines() or [f"exit status {process.returncode}"])[-1]
        raise NotMeasured(f"{job} failed: {last[:300]}")
    return json.loads(out.strip().splitlines()[-1])


def _end(process, posix):
    with contextlib.suppress(OSError):
        os.killpg(process.pid, signal.SIGKILL) if posix else process.kill()
    process.communicate()


def peak_memory():
    """The most memory that this process has held at once, in MB.

    Linux keeps a high-water mark for each program. ru_maxrss of resource.getrusage is the same
    figure, but a child begins with that of the process that started it. macOS counts it in bytes;
    Windows has it in psutil.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(row for row in status.read_text().splitlines() if row.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 / 1e6
    try:
        import resource
    except ImportError:
        return psutil.Process().memory_info().peak_wset / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def use_memory(work, way, names_file, block_size, n_embd, n_hidden, stack, steps, windows, names):
    """The peak memory, in MB, of a `work` done in one of two ways, "lecture" or "ours".

    Training takes `steps`, evaluating the first `windows` of train, sampling makes `names` names;
    any other work is none: the imports and the names alone. `stack` are the sizes of a Stack.
    """
    torch.set_num_threads(1)
    words = helpers.load_words(names_file)
    stoi, itos = helpers.build_vocab(words)
    train = helpers.split_words(words)["train"]
    tree = helpers.make_tree(len(stoi), block_size, n_embd, n_hidden)
    net = Stack(len(stoi), *stack)
    if work == "training" and way == "lecture":
        helpers.train(tree, *helpers.build_dataset(train, block_size, stoi), max_steps=steps)
    elif work == "training":
        optimizer = torch.optim.AdamW(net.parameters(), fused=True)
        batches = length_batches(*helpers.encode_names(train, stoi), 64)
        for X, Y in (next(batches) for _ in range(steps)):
            optimizer.zero_grad()
            helpers.position_loss(net(X), Y).backward()
            optimizer.step()
    elif work == "evaluating":
        X, Y = (t[:windows] for t in helpers.build_dataset(train, block_size, stoi))
        if way == "ours":
            helpers.split_loss(tree, X, Y)
        else:
            with helpers.mode(tree, training=False), torch.no_grad():
                F.cross_entropy(tree(X), Y)
    elif work == "sampling" and way == "ours":
        helpers.generate(net, itos, names)
    elif work == "sampling":
        sample_one_by_one(tree, block_size, itos, min(names, 50))
    return peak_memory()


@torch.no_grad()
def sample_one_by_one(model, block_size, itos, n, generator=None, max_length=100):
    """`n` names in the lecture's way: one name, one character, one window at a time."""
    names = []
    with helpers.mode(model, training=False):
        for _ in range(n):
            out, context = [], [0] * block_size
            while len(out) < max_length:
                probs = F.softmax(model(torch.tensor([context])), dim=1)
                ix = torch.multinomial(probs, num_samples=1, generator=generator).item()
                context = [*context[1:], ix]
                if ix == 0:
                    break
                out.append(itos[ix])
            names.append("".join(out))
    return names


def compiler():
    """The C++ compiler that torch.compile would call, or None."""
    names = [os.environ.get("CXX"), *(["cl"] if os.name == "nt" else ["g++", "clang++", "c++"])]
    return next((path for name in names if name and (path := shutil.which(name))), None)


def compile_times(timeout=240, **sizes):
    """A torch.nn tree, as it is and by torch.compile: a dict of times, from a process of its own.

    `sizes` are vocab_size, block_size, n_embd, n_hidden, and batch_sizes, steps and rounds. Raises
    NotMeasured with the reason where there is no compiler, it fails, or it takes too long.
    """
    if compiler() is None:
        raise NotMeasured("no C++ compiler found (g++, clang++ or cl), and torch.compile needs one")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as cache:
        return child("time_compiled", timeout, {"TORCHINDUCTOR_CACHE_DIR": cache,
                                                "TORCHINDUCTOR_COMPILE_THREADS": "1"}, **sizes)


def time_compiled(vocab_size, block_size, n_embd, n_hidden, batch_sizes, steps, rounds):
    """{"difference", "rows"}: of the losses of 20 steps, and times for each size of the batch.

    A row has the batch, the seconds of a step plain and compiled, and those of compiling.
    """
    torch.set_num_threads(1)
    sizes, rows, losses = (vocab_size, block_size, n_embd, n_hidden), [], []
    for batch_size in batch_sizes:
        torch.manual_seed(0)
        X = torch.randint(vocab_size, (steps, batch_size, block_size))
        Y, runs = X[:, :, 0], []
        for wrap in (lambda model: model, torch.compile):
            torch.manual_seed(1)
            model = rivals.TorchTree(*sizes)
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1, fused=True)
            runs.append((wrap(model), optimizer))
        t0 = time.perf_counter()
        losses += [_sgd(*run, X[:20], Y[:20]) for run in reversed(runs)]
        seconds = time.perf_counter() - t0
        times = {run: [] for run in runs}
        for _ in range(rounds):
            for run in runs:
                t0 = time.perf_counter()
                _sgd(*run, X, Y)
                times[run].append((time.perf_counter() - t0) / steps)
        plain, compiled = map(min, times.values())
        rows.append({"batch": batch_size, "plain": plain, "compiled": compiled,
                     "compiling": seconds})
    pairs = zip(losses[::2], losses[1::2], strict=True)
    return {"difference": max(abs(a - b) for x, y in pairs for a, b in zip(x, y, strict=True)),
            "rows": rows}


def _sgd(model, optimizer, X, Y):
    losses = []
    for x, y in zip(X, Y, strict=True):
        loss = F.cross_entropy(model(x), y)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return losses


if __name__ == "__main__":
    job, options = sys.argv[1], json.loads(sys.argv[2])
    print(json.dumps({"use_memory": use_memory, "time_compiled": time_compiled}[job](**options)))
