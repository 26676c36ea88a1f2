"""Behind notebook 12: repetitions, peak memory and torch.compile, each in a process of its own."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import psutil
import torch
import torch.nn.functional as F

import helpers
from course import fitting, models, wavenet

# How often notebook 12 repeats what it measures: in full, and in quick mode, to see that it runs.
REPEATS = {
    "rounds": (5, 1), "limit": (300, 10), "profile": (100, 3), "calls": (20_000, 200),
    "loop": (400, 5), "train": (2000, 20), "products": (4e9, 1), "examples": (12_800, 1),
    "race": (4000, 20), "looks": (4, 2), "epoch_steps": (10**8, 16), "lecture": (10**8, 40),
    "names": (100, 5), "few": (200, 2), "many": (10**8, 50), "trials": (3, 1), "costs": (4, 1),
    "backward": (5, 1), "windows": (10**8, 2000), "val_looks": (10, 1),
    "batch_sizes": ([32, 64, 128, 256, 512, 1024, 2048], [32, 2048]),
    "chunks": ([64, 256, 1024, 4096], [64, 1024]),
    "sampled": ([10, 40, 160, 640, 2560, 10_240], [10, 20]),
    "contexts": ([2, 4, 8, 16, 32, 64, 128], [2, 4]),
    "widths": ([16, 32, 64, 128, 256, 512, 1024], [16, 32]),
    "depths": ([1, 2, 4, 8, 16, 32], [1, 2]),
    "works": (["training", "evaluating", "sampling"], ["evaluating"]),
}


def repeats():
    """The repetitions by their names, as attributes."""
    return SimpleNamespace(**{name: both[helpers.QUICK] for name, both in REPEATS.items()})


def thread_counts():
    """[1, 2] where two threads can run at once, else [1]."""
    alone = helpers.QUICK or os.cpu_count() == 1 or os.environ.get("OMP_NUM_THREADS") == "1"
    return [1] if alone else [1, 2]


class NotMeasured(Exception):
    """A process of its own could not measure; the text says why."""


def child(job, timeout=300, env=None, **options):
    """What `job(**options)` of this module returns, from a Python process of its own.

    Options and result go through JSON. NotMeasured if it fails or runs longer than `timeout` s.
    """
    path = [str(helpers.ROOT), str(helpers.ROOT / "notebooks"), os.environ.get("PYTHONPATH", "")]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, path))} | (env or {})
    command = [sys.executable, "-m", "course.speed", job, json.dumps(options)]
    try:
        done = subprocess.run(command, env=env, timeout=timeout, capture_output=True, text=True)
    except subprocess.TimeoutExpired:
        raise NotMeasured(f"{job} took longer than {timeout} seconds") from None
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise NotMeasured(f"{job} failed: {last[:300]}")
    return json.loads(done.stdout.splitlines()[-1])


def peak_memories(jobs, **setting):
    """{(work, way): peak memory in MB} of use_memory for each of `jobs`, two at a time."""
    def used(job):
        try:
            return child("use_memory", work=job[0], way=job[1], **setting)
        except NotMeasured as why:
            print(f"{', '.join(job)} was not measured: {why}")
    with ThreadPoolExecutor(2) as pool:
        return {job: mb for job, mb in zip(jobs, pool.map(used, jobs), strict=True) if mb}


def peak_memory():
    """The most memory that this process has held at once, in MB (10^6 bytes)."""
    # ru_maxrss of a child begins with that of its parent; Linux's own figure does not.
    if (status := Path("/proc/self/status")).exists():
        return int(re.search(r"VmHWM:\s*(\d+)", status.read_text())[1]) * 1024 / 1e6
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset / 1e6
    import resource  # on macOS, in bytes

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def use_memory(work, way, names_file, block_size, n_embd, n_hidden, stack, steps, windows, names):
    """The peak memory, in MB, of a `work` done in one of two ways, "lecture" or "ours".

    Training takes `steps`, evaluating the first `windows` of train, sampling makes `names` names;
    any other work is only the imports and the names. `stack` has the sizes of a models.Stack.
    """
    torch.set_num_threads(1)
    words = helpers.load_words(names_file)
    stoi, itos = helpers.build_vocab(words)
    train = helpers.split_words(words)["train"]
    tree = helpers.make_tree(len(stoi), block_size, n_embd, n_hidden)
    net = models.Stack(len(stoi), *stack)
    if work == "training" and way == "lecture":
        helpers.train(tree, *helpers.build_dataset(train, block_size, stoi), max_steps=steps)
    elif work == "training":
        batches = models.length_batches(*wavenet.encode_names(train, stoi), 64)
        fitting.fit(net, batches, torch.optim.AdamW(net.parameters(), fused=True), steps)
    elif work == "evaluating":
        X, Y = (t[:windows] for t in helpers.build_dataset(train, block_size, stoi))
        helpers.split_loss(tree, X, Y, *[windows] * (way == "lecture"))         # all at once
    elif work == "sampling" and way == "lecture":
        lecture_names(tree, block_size, itos, min(names, 50))
    elif work == "sampling":
        wavenet.generate(net, itos, names)
    return peak_memory()


@torch.no_grad()
def lecture_names(model, block_size, itos, n, generator=None, max_length=100):
    """`n` names as in the lecture: one name, one character, one window at a time."""
    names = []
    with helpers.mode(model, training=False):
        for _ in range(n):
            out, context = "", [0] * block_size
            while len(out) < max_length:
                probs = F.softmax(model(torch.tensor([context])), dim=1)
                ix = torch.multinomial(probs, num_samples=1, generator=generator).item()
                if ix == 0:
                    break
                context = [*context[1:], ix]
                out += itos[ix]
            names.append(out)
    return names


def compile_times(timeout=240, **sizes):
    """The rows of time_compiled from a process of its own; if there are none, it prints why."""
    usual = {"win32": "cl", "darwin": "clang++"}.get(sys.platform, "g++")
    try:
        if helpers.QUICK:
            raise NotMeasured("quick mode compiles nothing")
        if not shutil.which(os.environ.get("CXX", usual)):
            raise NotMeasured("no C++ compiler was found, and torch.compile needs one")
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as cache:
            return child("time_compiled", timeout, {"TORCHINDUCTOR_CACHE_DIR": cache,
                                                    "TORCHINDUCTOR_COMPILE_THREADS": "1"}, **sizes)
    except NotMeasured as why:
        print(f"torch.compile was not measured: {why}.")
        return []


def time_compiled(vocab_size, block_size, n_embd, n_hidden, batch_sizes, steps, rounds):
    """A row for each batch size: seconds of a step, plain and compiled, and of compiling.

    `difference` is the largest between the losses of 20 steps of the two.
    """
    torch.set_num_threads(1)

    def trained(X, compiles):
        """A function that trains a new tree for some steps: (seconds, losses)."""
        torch.manual_seed(1)
        tree = models.small_head(models.TreeNet(vocab_size, block_size, n_embd, n_hidden))
        optimizer = torch.optim.SGD(tree.parameters(), lr=0.1, fused=True)
        model = torch.compile(tree) if compiles else tree

        def train(steps):
            losses, t0 = [], time.perf_counter()
            for x in X[:steps]:
                loss = F.cross_entropy(model(x), x[:, 0])
                losses.append(loss.item())
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            return time.perf_counter() - t0, losses
        return train

    rows = []
    for batch_size in batch_sizes:
        torch.manual_seed(0)
        X = torch.randint(vocab_size, (steps, batch_size, block_size))
        runs = [trained(X, compiles) for compiles in (False, True)]
        (_, a), (compiling, b) = [train(20) for train in runs]
        times = [[train(steps)[0] / steps for train in runs] for _ in range(rounds)]
        plain, compiled = map(min, zip(*times, strict=True))
        rows.append({"batch": batch_size, "plain": plain, "compiled": compiled,
                     "compiling": compiling,
                     "difference": max(abs(x - y) for x, y in zip(a, b, strict=True))})
    return rows


if __name__ == "__main__":
    job, options = sys.argv[1], json.loads(sys.argv[2])
    print(json.dumps({"use_memory": use_memory, "time_compiled": time_compiled}[job](**options)))
