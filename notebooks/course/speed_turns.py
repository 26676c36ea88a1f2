"""The checks of the cells *Your turn* in notebook 12."""

import torch
from torch.utils.flop_counter import FlopCounterMode

import helpers
from course.checking import call, case, check, same_number, shape, wrong


@check
def check_operations(operations):
    """12: the operations of the tree's forward pass."""
    for B, levels, sizes in ((1, [2, 1], (1, 3, 5)), (7, [4, 2, 1], (3, 4, 6)),
                             (32, [8, 4, 2, 1], (24, 128, 27))):
        n_embd, n_hidden, vocab_size = sizes
        tree = helpers.make_tree(vocab_size, levels[0], n_embd, n_hidden)
        with helpers.mode(tree, False), FlopCounterMode(display=False) as counter:
            tree(torch.zeros(B, levels[0], dtype=torch.int64))
        n = counter.get_total_flops()
        same_number(*case(operations, B, levels, *sizes), n, 0, lambda got, n=n:
                    f"; torch counts {n / got:.3g} times as many" if got > 0 else "")
    return f"{n:,} for {B} windows, as torch counts"


@check
def check_shortest(shortest):
    """12: the shortest time of an operation, and what sets it."""
    for operations, size, limit in ((8e9, 1e6, "arithmetic"), (1e3, 4e9, "memory"),
                                    (16, 24, "calling")):
        where, got = case(shortest, operations, size, 1e11, 2e10, 1e-6)
        if not isinstance(got, tuple) or len(got) != 2:
            wrong(f"{where}: expected (seconds, what sets them), got {shape(got)}")
        times = {"arithmetic": operations / 1e11, "memory": size / 2e10, "calling": 1e-6}
        same_number(f"{where}, seconds", got[0], times[limit], 1e-9)
        if got[1] != limit:
            wrong(f"{where}: expected {limit!r}, got {got[1]!r}")
    return "the slowest of the three sets the time"


@check
def check_by_length(by_length):
    """12: batches of names of about one length."""
    torch.manual_seed(0)
    lengths = torch.randint(3, 12, (50,))
    where = "by_length(lengths, 8) for 50 names"
    got = [call(where, by_length, lengths, 8) for _ in range(2)]
    for batches in got:
        sizes = [shape(ix) for ix in batches]
        if sorted(torch.cat([*batches]).tolist()) != list(range(50)):
            wrong(f"{where}: every name should be in one batch once; the batches are {sizes}")
        if max(map(len, batches)) != 8:
            wrong(f"{where}: expected at most 8 names in a batch, got {sizes}")
        padding = sum(int((lengths[ix].max() - lengths[ix]).sum()) for ix in batches)
        best = sum(int((part.max() - part).sum()) for part in lengths.sort().values.split(8))
        same_number(f"{where}, characters of padding", padding, best, 0)
        if torch.cat([*batches]).tolist() == lengths.argsort(stable=True).tolist():
            wrong(f"{where}: the short names always come first; shuffle the batches")
    if [ix.tolist() for ix in got[0]] == [ix.tolist() for ix in got[1]]:
        wrong(f"{where}: the second epoch has the same batches as the first")
    return f"{padding} characters of padding for {int(lengths.sum())} characters"
