"""Behind notebook 12: memory and torch.compile, measured in processes of their own."""

import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time

import psutil
import torch
import torch.nn.functional as F

import helpers
from course import fitting, models, wavenet


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


def memories(jobs, **setting):
    """{(work, way): MB} of use_memory for each of `jobs`, in a process of its own.

    In quick mode in this one.
    """
    measure, found = use_memory if helpers.QUICK else functools.partial(child, "use_memory"), {}
    for work, way in jobs:
        try:
            found[work, way] = measure(work=work, way=way, **setting)
        except NotMeasured as why:
            print(f"{work}, {way} was not measured: {why}")
    return found


def usage():
    """(seconds of the processor, seconds of them in the system, page faults) of this process."""
    process = psutil.Process()
    times = process.cpu_times()
    if sys.platform == "win32":
        return times.user + times.system, times.system, process.memory_info().num_page_faults
    import resource  # not on Windows

    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    return times.user + times.system, times.system, faults


def held(work):
    """The most memory, in MB (10^6 bytes), that work() holds beyond what was held before it."""
    process, done = psutil.Process(), threading.Event()
    before = most = process.memory_info().rss

    def watch():
        nonlocal most
        while not done.wait(0.002):
            most = max(most, process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        work()
    finally:
        done.set()
        watcher.join()
    return (most - before) / 1e6


def use_memory(work, way, names_file, block_size, n_embd, n_hidden, stack, steps, windows, names):
    """The memory, in MB, that a `work` holds in one of two ways, "lecture" or "ours".

    Training takes `steps`, evaluating the first `windows` of train, sampling makes `names` names.
    Imports and data do not count, nor what torch loads at a first use. `stack` has the sizes of a
    models.Stack.
    """
    torch.set_num_threads(1)
    words = helpers.load_words(names_file)
    stoi, itos = helpers.build_vocab(words)
    train = helpers.split_words(words)["train"]
    tree = helpers.make_tree(len(stoi), block_size, n_embd, n_hidden)
    net = models.Stack(len(stoi), *stack)
    X, Y = helpers.build_dataset(train, block_size, stoi)
    batches = models.length_batches(*wavenet.encode_names(train, stoi), 64)
    optimizer = torch.optim.AdamW(net.parameters(), fused=True)
    size, job = {
        ("training", "lecture"): (steps, lambda n: helpers.train(tree, X, Y, max_steps=n)),
        ("training", "ours"): (steps, lambda n: fitting.fit(net, batches, optimizer, n)),
        ("evaluating", "lecture"): (windows, lambda n: helpers.split_loss(tree, X[:n], Y[:n], n)),
        ("evaluating", "ours"): (windows, lambda n: helpers.split_loss(tree, X[:n], Y[:n])),
        ("sampling", "lecture"): (50, lambda n: lecture_names(tree, block_size, itos, n)),
        ("sampling", "ours"): (names, lambda n: wavenet.generate(net, itos, n)),
    }[work, way]
    job(2)
    return held(lambda: job(size))


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
