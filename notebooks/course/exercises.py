"""The checks of the coding exercises, and which of them have been passed."""

import copy

import pandas as pd
import torch
import torch.nn.functional as F
from torch import nn

import helpers
from course import checking, models, wavenet
from course.checking import (
    call,
    case,
    check,
    count_parameters,
    same_layers,
    same_number,
    same_tensor,
    shape,
    shown,
    time_ratio,
    wrong,
)


def progress():
    """A table of the notebooks: how many of their turns and exercises are right so far, and which.

    The checks leave an empty file in notebooks/output/right for every right answer.
    """
    from course import evidence_turns, speed_turns, torch_turns, turns  # scipy takes a second

    found = {}
    modules = vars(turns) | vars(torch_turns) | vars(evidence_turns) | vars(speed_turns)
    for name, function in sorted((modules | globals()).items()):
        if name.startswith("check_"):
            found.setdefault(function.__doc__[:2], {})[name] = (checking.RIGHT / name).exists()
    rows = {number: (sum(checks.values()), len(checks), ", ".join(
        name.removeprefix("check_").replace("_", " ") for name, right in checks.items() if right))
        for number, checks in sorted(found.items())}
    return pd.DataFrame.from_dict(rows, orient="index",
                                  columns=["right so far", "total", "which are right"])


@check
def check_count(count):
    """02: the parameters of the flat network, without building it."""
    for sizes in ((27, 3, 10, 200), (27, 8, 10, 200), (5, 2, 3, 4)):
        expected = count_parameters(helpers.make_mlp(*sizes))
        same_number(*case(count, *sizes), expected, 0, lambda got, expected=expected:
                    f" ({shown(abs(got - expected))} too {'many' if got > expected else 'few'})")
    return f"a context of 16 would have {count(27, 16, 10, 200):,} parameters"


@check
def check_deeper(deeper):
    """02: the flat network with any number of hidden layers."""
    for depth in (1, 2, 4):
        where, model = case(deeper, 27, 8, 10, 16, depth)
        got = call(f"{where} for (4, 8) characters", model, torch.zeros(4, 8, dtype=torch.int64))
        same_tensor(f"{where} for (4, 8) characters", 0 * got, torch.zeros(4, 27))
        hidden = ["Linear to 16, no bias", "BatchNorm1dPart3", "Tanh"]
        same_layers(where, model, ["Flatten", *hidden * depth, "Linear to 27"])
    sizes = [f"{count_parameters(deeper(27, 8, 10, 200, depth)):,}" for depth in (1, 2, 3)]
    return f"parameters with 1, 2 and 3 hidden layers: {', '.join(sizes)}"


@check
def check_joins_neighbours(joins_neighbours):
    """03: a test that tells right from wrong where the shapes are the same."""
    def swap(i, j):
        return lambda x: x.transpose(i, j).reshape(len(x), -1, 2 * x.shape[2])

    joins = {"one reshape": lambda x: x.reshape(len(x), -1, 2 * x.shape[2]),
             "even and odd positions": lambda x: torch.cat([x[:, ::2], x[:, 1::2]], 2),
             "positions and channels swapped": swap(1, 2),
             "examples and positions swapped": swap(0, 1),
             "the later position first": lambda x: torch.cat([x[:, 1::2], x[:, ::2]], 2),
             "two halves side by side": lambda x: torch.cat(x.chunk(2, 1), 2)}
    x = torch.arange(16.0).view(2, 4, 2)
    shares = {}
    for i, (label, join) in enumerate(joins.items()):
        where = f"joins_neighbours for '{label}'"
        got = call(where, joins_neighbours, join)
        if call(where, bool, got) != (i < 2):
            wrong(f"{where}: expected {i < 2}, got {got}")
        shares[label] = f"{(join(x) == joins['one reshape'](x)).float().mean():.0%}"
    return f"all six give the right shape; share of numbers in the right place: {shares}"


@check
def check_activations(activations, model, X):
    """05: what each Tanh of the tree gives for some windows."""
    X, trial, own = X[torch.randint(len(X), (16,))], copy.deepcopy(model), copy.deepcopy(model)
    with helpers.mode(own, training=False), torch.no_grad():
        own(X)
    expected = [m.out.reshape(len(X), -1, m.out.shape[-1]) for m in own.layers
                if isinstance(m, helpers.Tanh)]
    where = "activations of 16 windows"
    got = call(where, list, call(where, activations, trial, X))
    shapes = [[shape(a) for a in tensors] for tensors in (expected, got)]
    if shapes[0] != shapes[1]:
        wrong(f"{where}: expected tensors of the shapes {shapes[0]}, got {shapes[1]}")
    for old, new in zip(model.layers, trial.layers, strict=True):
        if hasattr(old, "running_mean") and not torch.equal(old.running_mean, new.running_mean):
            wrong(f"{where}: the model was in training, and its running statistics moved")
        if getattr(old, "training", None) != getattr(new, "training", None):
            wrong(f"{where}: the model stays in evaluation; helpers.mode restores the flags")
    for level, pair in enumerate(zip(got, expected, strict=True), start=1):
        same_tensor(f"{where}, level {level}", *pair)
    return f"channels beyond 0.9: {[f'{(a.abs() > 0.9).float().mean():.0%}' for a in got]}"


@check
def check_fold(fold, net):
    """06: one Linear that does what a Linear and a BatchNorm1d do in evaluation."""
    torch.manual_seed(1)
    linear, norm = nn.Linear(6, 4, bias=False), nn.BatchNorm1d(4, eps=0.1)
    where = "fold(Linear(6, 4), BatchNorm1d(4))"
    with torch.no_grad():
        for tensor in (norm.weight, norm.bias, norm.running_mean):
            tensor.uniform_(1, 3)
        norm.running_var.uniform_(0.1, 4)
        expected = norm.eval()(linear(x := torch.randn(8, 6)))
        bias = norm(linear(torch.zeros(1, 6)))[0]
        weight = (norm(linear(torch.eye(6))) - bias).T
        folded = call(where, fold, linear, norm)
        if not torch.equal(norm(linear(x)), expected):
            wrong(f"{where} changes the Linear or the BatchNorm1d; make a new Linear")
        if not isinstance(folded, nn.Linear) or folded.bias is None:
            wrong(f"{where}: expected an nn.Linear with a bias, got {shown(folded)}")
        worst = (call(f"the new Linear of {where}", folded, x) - expected).abs().max()
        fits = [torch.allclose(got, right, atol=1e-5)
                for got, right in ((folded.weight, weight), (folded.bias, bias))]
    if not all(fits):
        what = {0: "the weight and the bias are", 1: "only the bias is", 2: "only the weight is"}
        wrong(f"{where}: {what[fits[0] + 2 * fits[1]]} off; expected the same outputs, but the "
              f"largest difference is {worst:.4f}")
    n = sum(m.num_features for m in net.modules() if isinstance(m, nn.BatchNorm1d))
    return f"in the tree {2 * n} gammas and betas become {n} biases"


@check
def check_shapes(shapes):
    """06: what every module returns, seen by forward hooks."""
    net, X = models.TreeNet(27, 8, 6, 10).eval(), torch.zeros(4, 8, dtype=torch.int64)
    where = "shapes(net, X) for a TreeNet(27, 8, 6, 10) and 4 windows"
    expected = {"": (4, 27), "embedding": (4, 8, 6), "levels": (4, 1, 10), "head": (4, 27)}
    for i, T in enumerate((4, 2, 1)):
        expected |= {f"levels.{i}": (4, T, 10), f"levels.{i}.linear": (4, T, 10),
                     f"levels.{i}.norm": (4 * T, 10), f"levels.{i}.dropout": (4, T, 10)}
    got = call(where, dict, call(where, shapes, net, X))
    for name in [*expected, *got]:
        if expected.get(name) != got.get(name):
            wrong(f"{where}: for {name!r} expected {expected.get(name, 'nothing')}, "
                  f"got {got.get(name, 'nothing')}")
    first = call(where, shapes, net, X)
    net(X[:2])
    if first != got:
        wrong(f"{where}: the hooks are still attached, and the next call changes the result")
    return f"{len(got)} modules, and no hook is left behind"


@check
def check_momentum_steps(momentum_steps):
    """07: SGD with momentum, by hand."""
    p, grads = torch.tensor([1.0, -2.0]), torch.tensor([[1.0, 0.5], [-0.5, 0.5], [2.0, 0.5]])
    theirs = p.clone().requires_grad_()
    optimizer = torch.optim.SGD([theirs], lr=0.1, momentum=0.9)
    for n, grad in enumerate(grads, start=1):
        theirs.grad = grad.clone()
        optimizer.step()
        where = f"momentum_steps, step {n}"
        got = call(where, momentum_steps, p, grads[:n], 0.1, 0.9)
        same_tensor(where, got, theirs.detach(), 1e-6)
    return f"as torch.optim.SGD, {[round(v, 4) for v in got.tolist()]} after 3 steps"


@check
def check_rate_at(rate_at):
    """07: the learning rate of OneCycleLR at any step."""
    for steps, peak in ((100, 1.0), (40, 0.3), (718, 0.005)):
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, peak, total_steps=steps)
        for step in range(steps):
            where = f"rate_at({step}, {steps}, {peak})"
            same_number(where, call(where, rate_at, step, steps, peak),
                        schedule.get_last_lr()[0], 1e-6 * peak)
            optimizer.step()
            if step < steps - 1:
                schedule.step()
    return "as torch's OneCycleLR, at every step of three schedules"


@check
def check_to_conv(to_conv):
    """08: FlattenConsecutive and Linear as one Conv1d."""
    torch.manual_seed(1)
    for n, C_in, C_out, bias in ((2, 3, 4, 1), (2, 3, 3, 0), (3, 2, 5, 1), (2, 128, 128, 1)):
        linear, flatten = helpers.Linear(n * C_in, C_out), helpers.FlattenConsecutive(n)
        linear.bias, x = torch.randn(C_out) if bias else None, torch.randn(512, C_in, 4 * n)
        where = f"to_conv for n = {n}, {C_in} channels in, {C_out} out"
        conv = call(where, to_conv, linear, n)
        got = call(where, lambda conv=conv: (
            tuple(conv.weight.shape), *conv.kernel_size, *conv.stride, conv.bias is not None))
        if got != (expected := ((C_out, C_in, n), n, n, bool(bias))):
            wrong(f"{where}: expected weight, kernel, stride, bias {expected}, got {got}")
        with torch.no_grad():                                           # .mT swaps T and C
            same_tensor(where, call(where, conv, x).mT, linear(flatten(x.mT)))
    x_last = x.mT.contiguous()
    with torch.no_grad():
        ratio = time_ratio(lambda: linear(flatten(x_last)), lambda: conv(x))
    return f"the same to 1e-4; the two layers take {ratio:.2f} times as long as Conv1d"


@check
def check_sees(sees):
    """08: how many positions a dilated stack sees."""
    for kernel_size, dilations in ((2, [1, 2, 4]), (2, [1]), (3, [1, 3]), (2, [1, 3]), (3, [1, 2]),
                                   (2, [2, 2]), (2, [1, 3, 9]), (3, [1, 2, 4, 8])):
        x = h = torch.zeros(1, 1, 64, dtype=torch.double, requires_grad=True)
        for d in dilations:
            h = F.conv1d(h, torch.ones(1, 1, kernel_size, dtype=torch.double), dilation=d)
        expected = torch.autograd.grad(h[0, 0, -1], x)[0].count_nonzero().item()
        same_number(*case(sees, kernel_size, dilations), expected, 0)
    return f"kernel 2 with dilations 1, 3, 9 sees {sees(2, [1, 3, 9])} of 14 characters"


@check
def check_depends(depends):
    """08: the receptive field by gradient."""
    cases = {"x + x.roll(2, 1)": ([7, 9], lambda x: x + x.roll(2, 1)),
             "x[:, 3:] * x[:, :-3]": ([9, 12], lambda x: x[:, 3:] * x[:, :-3]),
             "torch.cat([x, -x], 2)": ([9], lambda x: torch.cat([x, -x], 2)),
             "torch.cat([x.sin(), x.cos()], 2)": ([9], lambda x: torch.cat([x.sin(), x.cos()], 2)),
             "x[..., :1] - x[..., 1:]": ([9], lambda x: x[..., :1] - x[..., 1:])}
    x = torch.randn(1, 16, 2, generator=torch.Generator().manual_seed(1))
    for label, (expected, function) in cases.items():
        where = f"depends for {label} and t = 9"
        got = call(where, depends, function, x, 9)
        got = call(where, getattr(got, "tolist", lambda got=got: list(got)))
        if call(where, sorted, got) != expected:
            wrong(f"{where}: expected {expected}, got {got}")

    def stack(x, levels):
        h = x.mT
        for i in range(levels):
            h = F.conv1d(F.pad(h, (2**i, 0)), torch.ones(2, 2, 2), dilation=2**i)
        return h.mT

    seen = [len(depends(lambda x, n=n: stack(x, n), x, 15)) for n in (1, 3)]
    return "one level of pairs sees {} characters, three levels see {}".format(*seen)


@check
def check_layers_for(layers_for):
    """09: how many layers see so many samples."""
    for args, n in (((2,), 1), ((8,), 3), ((9,), 4), ((9, 3), 2), ((28, 3), 4), ((125, 5), 3),
                    ((16_000,), 14)):
        k = [*args, 2][1]
        same_number(*case(layers_for, *args), n, 0, lambda got, k=k, n=n:
                    f"; {n - 1} would see {k ** (n - 1):,}, {n} see {k**n:,}")
    n = int(layers_for(100))
    return f"100 samples take {n} layers, which see {2**n}; a second takes {layers_for(16_000)}"


@check
def check_first_leak(first_leak):
    """09: the first position that changes with character t."""
    X = (torch.arange(4)[:, None] + torch.arange(12)) % 4 + 1

    def ahead(n, rows):
        """A network that adds, in some rows, what is n positions ahead."""
        def network(X):
            x = F.one_hot(X - 1, 4).float()                             # knows 1 to 4 only
            return x + torch.isin(torch.arange(4), rows)[:, None, None] * x.roll(-n, 1)
        return network

    networks = {"a network that sees 2 ahead": (5, ahead(2, torch.arange(4))),
                "a network that sees nothing": (12, lambda X: torch.zeros(4, 12, 6)),
                "a WaveNet": (7, wavenet.WaveNet(5, 4, 32, [1, 2, 4]))}
    networks |= {f"a network that sees 3 ahead in row {i} only": (4, ahead(3, torch.tensor([i])))
                 for i in range(4)}
    for label, (expected, network) in networks.items():
        where = f"first_leak({label}, X, 7)"
        same_number(where, call(where, first_leak, network, X, 7), expected, 0)
    return "for all seven networks; the WaveNet gives 7, so it sees nothing ahead"


@check
def check_luck(luck):
    """10: by how much the best of n equal configurations looks better than it is."""
    for n, expected in ((1, 0.0), (2, 0.564), (20, 1.867)):             # known means, for sd = 1
        same_number(*case(luck, n, 2.0), 2 * expected, 0.15, lambda got, n=n:
                    "; the winner looks better: count that as +" if n > 1 and got < 0 else "")
    return (f"with noise of 0.003, the best of 50 equal configurations looks {luck(50, 0.003):.4f} "
            "better than it is")


@check
def check_without_first(without_first, losses):
    """11: the mean loss without the first letter of each name."""
    nan = float("nan")
    for rows, by_hand, expected in (
            ([[9.0, 1.0, nan, nan], [9.0, 2.0, 3.0, 4.0]], "(1 + 2 + 3 + 4) / 4", 2.5),
            ([[5.0, 3.0, 1.0]], "(3 + 1) / 2", 2.0)):
        where = f"without_first({rows})"
        got = call(where, without_first, torch.tensor(rows))
        same_number(where, got, expected, note=lambda got, by_hand=by_hand: f"; by hand {by_hand}")
    return f"{losses.nanmean():.3f} becomes {without_first(losses):.3f}, and nothing was learned"


@check
def check_draw_names(draw_names):
    """12: a sampler for all names at once."""
    table = torch.tensor([[0, 0.5, 0.5, 0], [1, 0, 0, 0], [0, 0, 0, 1], [1, 0, 0, 0]])
    calls, where = [], "draw_names(probs, 300)"

    def probs(ids):
        if ids.ndim != 1 or ids.dtype != torch.int64:
            raise ValueError(f"probs expects (M,) int64, got {shape(ids)} {ids.dtype}")
        calls.append(len(ids))
        if len(calls) > 2000:
            raise RuntimeError("2,000 calls of probs and no end; the longest name needs 3")
        return table[ids]

    torch.manual_seed(0)
    names = call(where, draw_names, probs, 300)
    if not isinstance(names, list) or len(names) != 300:
        got = len(names) if isinstance(names, list) else shape(names)
        wrong(f"{where}: expected a list of 300 names, got {got}")
    if odd := [name for name in names if name not in ([1], [2, 3])]:
        wrong(f"{where}: expected names [1] and [2, 3] only, got {shown(odd[0])}")
    same_number(f"{where}, calls of probs", len(calls), 3)
    ones = names.count([1])
    same_number(f"{where}, names [1]", ones, 150, 50)
    if calls != (expected := [300, 300, 300 - ones]):
        wrong(f"{where}: expected probs to be called with {expected} names, got {calls}; leave out "
              "those that are finished")
    return f"{ones} times [1] and {300 - ones} times [2, 3], in 3 calls"
