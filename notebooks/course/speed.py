"""Behind notebook 12: the lecture's sampling, peak memory, and what a process has used."""

import sys
import threading

import psutil
import torch
import torch.nn.functional as F

import helpers
from course import fitting, models, wavenet


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
    process = psutil.Process()
    if sys.platform == "win32":
        faults = process.memory_info().num_page_faults
    else:
        import resource  # not on Windows

        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    times = process.cpu_times()
    return times.user, times.system, faults


def peak_memory(work, way, *, vocab_size, block_size, n_embd, n_hidden, stack, windows, names):
    """The most memory, in MB, that a `work` takes in one of two ways, "lecture" or "ours".

    Training takes 200 steps, evaluating as many `windows` as train has, sampling makes `names`
    names (50 in the lecture's way, which holds one at a time). The windows and names to train on
    are random. `stack` has the sizes of a models.Stack. For a process of its own: what it held
    before does not count, but what it had given back would be used again.
    """
    torch.set_num_threads(1)
    itos = {i: chr(96 + i) for i in range(vocab_size)}
    tree = helpers.make_tree(vocab_size, block_size, n_embd, n_hidden)
    net = models.Stack(vocab_size, *stack)
    X, rows = (torch.randint(vocab_size, size) for size in ((windows, block_size), (5000, 8)))
    optimizer = torch.optim.AdamW(net.parameters(), fused=True)
    works = {
        ("training", "lecture"): lambda: helpers.train(
            tree, X, X[:, 0], max_steps=200, progress=fitting.quiet),
        ("training", "ours"): lambda: fitting.fit(
            net, models.length_batches(rows, rows, 64), optimizer, 200, progress=fitting.quiet),
        ("evaluating", "lecture"): lambda: helpers.split_loss(tree, X, X[:, 0], windows),
        ("evaluating", "ours"): lambda: helpers.split_loss(tree, X, X[:, 0]),
        ("sampling", "lecture"): lambda: lecture_names(tree, block_size, itos, min(names, 50)),
        ("sampling", "ours"): lambda: wavenet.generate(net, itos, names),
    }
    process, done = psutil.Process(), threading.Event()
    held = [process.memory_info().rss]

    def watch():
        while not done.wait(0.001):
            held.append(process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        works[work, way]()
    finally:
        done.set()
        watcher.join()
    return (max(held) - held[0]) / 1e6
