"""The checks of the cells *Your turn* in notebook 12."""

import itertools

import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

import helpers
from course.checking import call, case, check, same_number, same_tensor, time_ratio, wrong


@check
def check_step_flops(step_flops):
    """12: the operations of a training step of the tree."""
    for B, T, C, H, V in ((1, 2, 1, 1, 2), (4, 2, 3, 5, 7), (2, 8, 3, 5, 7)):
        tree, X = helpers.make_tree(V, T, C, H), torch.zeros(max(2, B), T, dtype=torch.int64)
        with FlopCounterMode(display=False) as counter:
            F.cross_entropy(tree(X), X[:, 0]).backward()
        n = counter.get_total_flops() * B // len(X)
        same_number(*case(step_flops, B, T, C, H, V), n, 0, lambda got, n=n:
                    f"; torch counts {n / got:.3g} times as many" if got > 0 else "")
    return f"{step_flops(32, 8, 24, 128, 27):,} for 32 windows of the tree of notebook 05"


@check
def check_variance(variance):
    """12: a variance without var."""
    x = torch.randn(128, 128, generator=torch.Generator().manual_seed(0))
    for said, shifted in (("x of 2 rows", x[:2]), ("x of 128 rows", x),
                          ("x of 128 rows around 1,000", x + 1000)):
        where = f"variance(x) for {said}"
        same_tensor(where, call(where, variance, shifted), shifted.var(0))
    return f"{time_ratio(lambda: x.var(0), lambda: variance(x)):.1f} times as fast as x.var(0)"


@check
def check_length_batches(length_batches):
    """12: batches of names of about the same length."""
    torch.manual_seed(0)
    lengths = torch.randint(2, 12, (50,))
    X = torch.arange(50)[:, None].expand(50, 12).contiguous()          # a row is named in X
    Y = torch.where(torch.arange(12) < lengths[:, None], X, -1)
    where = "length_batches(X, Y, 8) for 50 names"
    batches = call(where, length_batches, X, Y, 8)
    found = call(where, lambda: [*itertools.islice(batches, 14)])
    same_number(f"{where}, batches in two epochs", len(found), 14)
    orders, groups = [], []
    for epoch in (found[:7], found[7:]):
        names = [name for x, _ in epoch for name in x[:, 0].tolist()]
        if twice := sorted(names) != [*range(50)] and next(
                n for n in range(50) if names.count(n) != 1) + 1:
            wrong(f"{where}: row {twice - 1} is in {names.count(twice - 1)} batches of an epoch; "
                  "each should be in one")
        for x, y in epoch:
            longest = lengths[x[:, 0]].max().item()
            if x.shape != y.shape or x.shape[1] != longest:
                wrong(f"{where}: x and y are {x.shape[1]} and {y.shape[1]} wide in a batch whose "
                      f"longest name has {longest} characters")
        orders.append([y.shape[1] for _, y in epoch])
        groups.append({frozenset(x[:, 0].tolist()) for x, _ in epoch})
    padding = sum((y < 0).sum().item() for _, y in found) / sum(y.numel() for _, y in found)
    if padding > 0.15:
        wrong(f"{where}: {padding:.0%} of the positions are padding; sort before you cut")
    if orders[0] == sorted(orders[0]) or orders[0] == orders[1]:
        wrong(f"{where}: the batches are {orders[0]} wide, then {orders[1]}; mix their order")
    if groups[0] == groups[1]:
        wrong(f"{where}: the same names share a batch in both epochs; shuffle them before you sort")
    return f"{padding:.0%} of the positions are padding"
