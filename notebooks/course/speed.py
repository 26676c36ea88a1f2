"""Behind notebook 12: the lecture's sampling, peak memory, and what a process has used."""

import functools
import operator
import os
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import psutil
import torch
import torch.nn.functional as F

import helpers
from course import fitting, models, wavenet

# Otherwise the profiler prints a line whenever it starts or stops.
os.environ.setdefault("KINETO_LOG_LEVEL", "6")


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


def usage():
    """What this process has used: seconds in the program, seconds in the system, page faults."""
    if sys.platform == "win32":
        process = psutil.Process()
        times = process.cpu_times()
        return times.user, times.system, process.memory_info().num_page_faults
    import resource  # not on Windows

    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime, used.ru_stime, used.ru_minflt


def peak(work):
    """The most memory, in MB, that work() takes beyond what was held before."""
    process, done = psutil.Process(), threading.Event()
    held = [process.memory_info().rss]

    def watch():
        while not done.wait(0.001):
            held.append(process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        work()
    finally:
        done.set()
        watcher.join()
    return (max(held) - held[0]) / 1e6


def peak_memory(work, way, *, vocab_size, block_size, n_embd, n_hidden, stack, windows, names):
    """The peak memory, in MB, of a `work` in one of two ways, "lecture" or "ours".

    Training takes 200 steps, evaluating as many `windows` as train has, sampling makes `names`
    names (50 in the lecture's way, which holds one at a time). What they read is random. `stack`
    has the sizes of a models.Stack. A first round, of one, loads what torch loads at a first use.
    """
    torch.set_num_threads(1)
    itos = {i: chr(96 + i) for i in range(vocab_size)}
    tree = helpers.make_tree(vocab_size, block_size, n_embd, n_hidden)
    net = models.Stack(vocab_size, *stack)
    X, rows = (torch.randint(vocab_size, size) for size in ((windows, block_size), (5000, 8)))
    optimizer, batches = torch.optim.AdamW(net.parameters(), fused=True), models.length_batches(
        rows, rows, 64)
    n, job = {
        ("training", "lecture"): (200, lambda n: helpers.train(
            tree, X, X[:, 0], max_steps=n, progress=fitting.quiet)),
        ("training", "ours"): (200, lambda n: fitting.fit(
            net, batches, optimizer, n, progress=fitting.quiet)),
        ("evaluating", "lecture"): (windows, lambda n: helpers.split_loss(
            tree, X[:n], X[:n, 0], n)),
        ("evaluating", "ours"): (windows, lambda n: helpers.split_loss(tree, X[:n], X[:n, 0])),
        ("sampling", "lecture"): (min(names, 50), lambda n: lecture_names(
            tree, block_size, itos, n)),
        ("sampling", "ours"): (names, lambda n: wavenet.generate(net, itos, n)),
    }[work, way]
    job(1)
    return peak(lambda: job(n))


def evaluation(chunk, *, vocab_size, block_size, n_embd, n_hidden, windows):
    """The cost of evaluating random windows in chunks: ms by the clock, and usage in ms."""
    torch.set_num_threads(1)
    tree = helpers.make_tree(vocab_size, block_size, n_embd, n_hidden)
    X = torch.randint(vocab_size, (windows, block_size))
    helpers.split_loss(tree, X[:1], X[:1, 0])
    before, t0 = usage(), time.perf_counter()
    helpers.split_loss(tree, X, X[:, 0], chunk)
    clock, (user, system, faults) = time.perf_counter() - t0, map(operator.sub, usage(), before)
    return 1e3 * clock, 1e3 * user, 1e3 * system, faults


def apart(work, jobs, at_once, **sizes):
    """work(*job, **sizes) of each job, in a process of its own; in quick mode in this one."""
    work = functools.partial(work, **sizes)
    if helpers.QUICK:
        return [work(*job) for job in jobs]
    with ProcessPoolExecutor(at_once, get_context("spawn"), max_tasks_per_child=1) as pool:
        return list(pool.map(work, *zip(*jobs, strict=True)))
