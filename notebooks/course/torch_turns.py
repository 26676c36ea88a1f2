"""The checks of the cells *Your turn* in notebooks 06 to 09 and 11."""

import re
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

import helpers
from course import models, wavenet
from course.checking import (
    call,
    case,
    check,
    count_parameters,
    same_number,
    same_tensor,
    shape,
    shown,
    wrong,
)


def take_weights(where, yours, right):
    """Load the state of `yours` into `right`; end the check unless names and shapes are equal."""
    expected, got = ({name: shape(t) for name, t in m.state_dict().items()} for m in (right, yours))
    for name in [*expected, *got]:
        if expected.get(name) != got.get(name):
            wrong(f"{where}: for {name} in state_dict() expected {expected.get(name, 'nothing')}, "
                  f"got {got.get(name, 'nothing')}")
    right.load_state_dict(yours.state_dict())


def same_outputs(where, yours, right, x):
    """End the check unless both modules return the same for x, in training and in evaluation."""
    for training, said in ((True, "in training"), (False, "in evaluation")):
        got = call(where, yours.train(training), x)
        same_tensor(f"{where}, {said}", got, right.train(training)(x))


@check
def check_level(Level):
    """06: one level of the tree as an nn.Module."""
    torch.manual_seed(1)
    for B, T, C, n in ((5, 4, 3, 6), (5, 8, 3, 4), (5, 2, 3, 4)):       # 4 positions, 4 channels
        where = f"Level({C}, {n}) for x of shape {(B, T, C)}"
        level, right = call(where, Level, C, n), models.Level(C, n)
        if type(level).__call__ is not nn.Module.__call__:
            wrong(f"{where}: what a module computes goes into forward, not into __call__")
        call(where, level, x := torch.randn(B, T, C))
        take_weights(where, level, right)
        same_outputs(where, level, right, x)
    return f"Level(24, 128) has {count_parameters(Level(24, 128)):,} parameters"


@check
def check_tree_net(TreeNet):
    """06: the tree as an nn.Module, every parameter registered."""
    torch.manual_seed(1)
    for T in (8, 16):
        where, net = case(TreeNet, 27, T, 6, 10)
        right, X = models.TreeNet(27, T, 6, 10), torch.randint(27, (4, T))
        call(f"{where} for {shape(X)} characters", net, X)
        if (got := count_parameters(net)) != (n := count_parameters(right)):
            wrong(f"{where}: expected {n:,} parameters, got {got:,}")
        take_weights(where, net, right)
        same_outputs(f"{where} for {shape(X)} characters", net, right, X)
        one = call(said := f"{where} for {shape(X[:1])} characters", net.eval(), X[:1])
        same_tensor(said, one, right.eval()(X[:1]))
    return f"the tree of notebook 05 has {count_parameters(TreeNet(27, 8, 24, 128)):,} parameters"


@check
def check_copy_weights(copy_weights):
    """06: our parameters and running statistics in a TreeNet."""
    torch.manual_seed(1)
    ours, net = helpers.make_tree(27, 8, 4, 8), models.TreeNet(27, 8, 4, 8)  # the first is square
    ours(torch.randint(27, (32, 8)))                                    # moves the statistics
    with torch.no_grad():
        for p in ours.parameters():
            p += torch.randn(p.shape)
        expected = {name: p.t().clone() if re.search(r"(linear|head)\.weight", name) else p.clone()
                    for (name, _), p in zip(net.named_parameters(), ours.parameters(), strict=True)}
    for i, norm in enumerate(norms := ours.layers[3::4]):
        for buffer in ("running_mean", "running_var"):
            expected[f"levels.{i}.norm.{buffer}"] = getattr(norm, buffer).flatten().clone()
    got = call(where := "copy_weights(ours, net)", copy_weights, ours, net)
    for tensor in [*ours.parameters(), *(m.running_mean for m in norms)]:
        tensor.data += 1                                                # shows shared memory
    if got is not net:
        wrong(f"{where}: expected the same net, filled, got {shown(got)}")
    for name, right in expected.items():
        same_tensor(f"{name} after {where}", net.state_dict()[name], right)
    return f"{len(expected)} tensors copied: 12 with parameters, 6 with running statistics"


@check
def check_fit(fit):
    """07: the training loop, with any of torch's optimisers."""
    where = "fit(model, batches, optimizer, 3, schedule)"
    generator = torch.Generator().manual_seed(1)
    X, Y = (torch.randint(5, size, generator=generator) for size in ((3, 6, 2), (3, 6)))

    def batches():
        yield from zip(X, Y, strict=True)
        wrong(f"{where} takes more than 3 batches from `batches`, which may have no end")

    def trained(fit):
        torch.manual_seed(1)
        model = nn.Sequential(nn.Embedding(5, 3), nn.Flatten(), nn.BatchNorm1d(6), nn.Linear(6, 5))
        optimizer = torch.optim.SGD(model.eval().parameters(), lr=0.5)
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
        losses = call(where, fit, model, batches(), optimizer, 3, schedule)
        return losses, torch.cat([p.detach().flatten() for p in model.parameters()])

    def loop(model, batches, optimizer, max_steps, schedule, train=True, clear=True, fall=True):
        losses = []
        for _, (x, y) in zip(range(max_steps), batches, strict=False):
            losses.append(F.cross_entropy(model.train(train)(x), y))
            optimizer.zero_grad() if clear else None
            losses[-1].backward()
            optimizer.step()
            schedule.step() if fall else None
        return losses

    losses, weights = trained(fit)
    if not isinstance(losses, list) or [*map(type, losses)] != [float] * 3:
        wrong(f"{where}: expected a list of 3 plain numbers, loss.item() each, got {losses!s:.60}")
    for change, said in {"clear": "the gradients of all steps add up; call optimizer.zero_grad()",
                         "train": "the model is not in training mode; call model.train()",
                         "fall": "the schedule takes no steps"}.items():
        if torch.allclose(weights, trained(partial(loop, **{change: False}))[1], atol=1e-6):
            wrong(f"{where}: {said}")
    model = nn.Sequential(nn.Embedding(5, 3), nn.Flatten(), nn.Linear(6, 5))
    call("fit(model, batches, optimizer, 3), without a schedule,", fit, model, batches(),
         torch.optim.SGD(model.parameters(), lr=0.5), 3)
    expected, right = trained(loop)
    same_tensor(f"the losses of {where}", torch.tensor(losses), torch.stack(expected), 1e-5)
    same_tensor(f"the weights after {where}", weights, right, 1e-5)
    return f"three steps, with losses {', '.join(f'{loss:.3f}' for loss in losses)}"


@check
def check_adamw_step(adamw_step):
    """07: one step of AdamW."""
    options = {"lr": 0.1, "betas": (0.8, 0.95), "eps": 0.01, "weight_decay": 0.5}
    theirs = torch.tensor([1.0, -2.0, 3.0], requires_grad=True)
    optimizer = torch.optim.AdamW([theirs], **options)
    state = theirs.detach().clone(), torch.zeros(3), torch.zeros(3)
    for t, grad in enumerate(torch.tensor([[0.5, -1, 0], [0.1, 2, 0], [-3, 0.5, 0]]), start=1):
        theirs.grad = grad.clone()
        optimizer.step()
        p, m, v = state
        state = call(f"adamw_step, t = {t},", adamw_step, p, grad, m, v, t, *options.values())
        if not isinstance(state, tuple) or [*map(shape, state)] != [(3,)] * 3:
            wrong(f"adamw_step: expected the new p, m and v, three tensors, got {state!s:.60}")
        right = optimizer.state[theirs]
        for name, got, expected in (("m", state[1], right["exp_avg"]),
                                    ("v", state[2], right["exp_avg_sq"]), ("p", state[0], theirs)):
            same_tensor(f"the new {name} of step t = {t}", got, expected, 1e-6)
    return f"as torch.optim.AdamW, p is {[round(v, 4) for v in state[0].tolist()]} after 3 steps"


@check
def check_conv1d(conv1d):
    """08: a convolution as for loops."""
    generator, settings = torch.Generator().manual_seed(1), (
        (1, 1, 6, 2, 1, 1), (1, 1, 6, 2, 2, 1), (1, 1, 7, 2, 1, 2), (2, 1, 5, 2, 1, 1),
        (3, 4, 11, 3, 2, 2), (2, 3, 9, 1, 3, 1))
    for C_in, C_out, L, K, stride, dilation in settings:
        x, w = (torch.randint(1, 10, size, generator=generator).float()
                for size in ((C_in, L), (C_out, C_in, K)))
        move = {"stride": stride, "dilation": dilation}
        where = f"conv1d for x of shape {shape(x)}, w of shape {shape(w)}, {move}"
        got = call(where, conv1d, x, w, stride, dilation)
        expected = F.conv1d(x, w, **move)
        for said, other in {
            "the kernel is reversed; torch's conv1d takes it in its own order":
                F.conv1d(x, w.flip(-1), **move),
            "that is the last channel of x alone; add up over all channels":
                F.conv1d(x[-1:], w[:, -1:], **move),
            "that is the last product alone; add up over c and j":
                F.conv1d(x[-1:, (K - 1) * dilation:], w[:, -1:, -1:], stride=stride),
        }.items():
            if shape(got) == shape(expected) and torch.equal(got, other) \
                    and not torch.equal(other, expected):
                wrong(f"{where}: {said}")
        same_tensor(where, got, expected)
    return f"the same numbers as torch for {len(settings)} choices of stride, dilation and kernel"


@check
def check_dilated(dilated):
    """08: the tree at every position."""
    torch.manual_seed(1)
    X = torch.randint(27, (5, 20))
    for T in (4, 8):
        tree = helpers.make_tree(27, T, 4, 6)
        tree(X[:, :T])                                                  # running statistics
        where = f"dilated for a tree of {T} characters and X of shape {shape(X)}"
        with helpers.mode(tree, training=False), torch.no_grad():
            expected = torch.stack([tree(x) for x in X.unfold(1, T, 1).unbind(1)], dim=1)
            same_tensor(where, call(where, dilated, tree, X), expected)
    return "the tree's own numbers at all 13 positions where eight characters fit"


@check
def check_wavenet_layer(GatedLayer):
    """09: the convolution, gate, residual and skip of a WaveNet's layer."""
    for C, S, d in ((4, 6, 1), (3, 5, 4)):
        torch.manual_seed(1)
        x, where = torch.randn(2, C, 9), f"GatedLayer({C}, {S}, {d})"
        layer = call(where, GatedLayer, C, S, d)
        said = f"{where} for x of shape {shape(x)}"
        out = call(said, layer, x)
        if not isinstance(out, tuple) or len(out) != 2:
            wrong(f"{said}: expected two tensors, the next x and the skip, got {shape(out)}")
        for name, got, size in zip(("the next x", "the skip"), out, (C, S), strict=True):
            same_tensor(f"{said}: {name}", 0 * got, torch.zeros(2, size, 9))
        with torch.no_grad():
            moved = [(a - b).abs().amax((0, 1)) > 0 for a, b in zip(layer(x), layer(torch.cat(
                [x[..., :5], x[..., 5:] + 1], dim=2)), strict=True)]
        if (early := (moved[0] | moved[1])[:5].nonzero()).numel():
            wrong(f"{said}: position 5 of x changes the output at position {early[0].item()}; "
                  "pad at the left only, so that no position sees a later one")
        for name, size in (("conv", (2 * C, C, 2)), ("residual", (C, C, 1)), ("skip", (S, C, 1))):
            got = getattr(getattr(layer, name, None), "weight", None)
            if shape(got) != size:
                wrong(f"{where}.{name}: expected an nn.Conv1d with a weight of shape {size}")

        def halves(back, x=x, conv=layer.conv):
            return F.conv1d(F.pad(x, (back, 0)), conv.weight, conv.bias, dilation=back).chunk(2, 1)

        (f, g), (f1, g1) = halves(d), halves(1)
        z = torch.tanh(f) * torch.sigmoid(g)
        right = x + layer.residual(z), layer.skip(z)
        slips = {"f and g have changed places": torch.tanh(g) * torch.sigmoid(f),
                 "the tanh of f is missing": f * torch.sigmoid(g),
                 "the sigmoid of g is missing": torch.tanh(f) * g,
                 "g has a tanh as well; it needs a sigmoid": torch.tanh(f) * torch.tanh(g),
                 "the gate is added; it multiplies": torch.tanh(f) + torch.sigmoid(g)}
        if d > 1:
            slips[f"it looks 1 position back, not {d}"] = torch.tanh(f1) * torch.sigmoid(g1)
        slips = [(said, 1, layer.skip(other)) for said, other in slips.items()]
        for slip, i, other in (
                *slips, ("x itself is missing from the next x", 0, layer.residual(z)),
                ("W_r is missing from the next x", 0, x + z),
                ("the next x has a tanh too many", 0, torch.tanh(right[0])),
                ("the skip is made of the next x; it is made of z", 1, layer.skip(right[0])),
                ("the skip is made of x; it is made of z", 1, layer.skip(x))):
            if torch.allclose(out[i], other, atol=1e-5):
                wrong(f"{said}: {slip}")
        for name, got, expected in zip(("the next x", "the skip"), out, right, strict=True):
            same_tensor(f"{said}: {name}", got, expected)
    return f"GatedLayer(48, 96, 8) has {count_parameters(GatedLayer(48, 96, 8)):,} parameters"


@check
def check_masked_loss(masked_loss):
    """09: the mean loss over the positions that are no padding."""
    torch.manual_seed(1)
    logits, Y = torch.randn(2, 4, 5), torch.tensor([[1, 2, 0, -1], [3, -1, -1, -1]])
    real, where = Y >= 0, "masked_loss for logits of shape (2, 4, 5)"
    got = call(where, masked_loss, logits.requires_grad_(), Y)
    each = F.cross_entropy(logits.mT, Y, ignore_index=-1, reduction="none")
    mistakes = {"that is a sum; we need the mean": each.sum(),
                "that divides by all positions, the padding included": each.mean(),
                "that is the mean of the names' means": (each.sum(1) / real.sum(1)).mean(),
                "that leaves out the ends of the names, class 0": each[Y > 0].mean(),
                "the padding counts as character 0": F.cross_entropy(logits.mT, Y.clamp(0)),
                "the padding counts as the last character": F.cross_entropy(logits.mT, Y % 5)}
    if not getattr(got, "requires_grad", True):
        wrong(f"{where}: no gradient flows from the loss back to the logits")
    got = got.detach() if torch.is_tensor(got) else got
    same_number(where, got, each[real].mean().item(), 1e-5, lambda got: next(
        (f"; {said}" for said, x in mistakes.items() if abs(x - got) < 1e-5), ""))
    return "the mean over 4 characters of 8 positions"


@check
def check_ring_step(ring_step):
    """09: one step of a ring buffer."""
    for size in (4, 3, 1):
        ring, inputs = torch.zeros(size, 2, 3), [0] * size
        for t in range(2 * size + 1):
            old, inputs = ring[:, 0, 0].tolist(), [*inputs, 10 * t + 10]
            where, x = f"ring of {size}, t = {t}", torch.full((2, 3), 10.0 * t + 10)
            got = call(where, ring_step, ring, t, x, writes=True)
            same_tensor(where, got, torch.full((2, 3), float(inputs[-1 - size])))
            if sorted(ring[:, 1, 2].tolist()) != inputs[-size:]:
                wrong(f"{where}: {inputs[-1]} should replace the oldest of {old}, but the ring "
                      f"becomes {ring[:, 0, 0].tolist()}")
            if (x != 10 * t + 10).any():
                wrong(f"{where} changes x; leave it as it is")
    net, X = wavenet.WaveNet(27, 16, 16, [1, 2, 4]).eval(), torch.arange(8)[None]
    rings = wavenet.ring_buffers(net, len(X))
    with torch.no_grad():
        logits = [net(ids, [lambda x, offsets, r=r, t=t: [ring_step(r.values, t, x)]
                            for r in rings]) for t, ids in enumerate(X.T)]
        same_tensor("a WaveNet on your rings", torch.stack(logits, 1), net(X))
    return "a WaveNet on your rings gives the same logits as for whole names"


@check
def check_condition(ConditionalLayer):
    """09: a layer that is told something."""
    torch.manual_seed(1)
    layer = call("ConditionalLayer(4, 6, 2, 3)", ConditionalLayer, 4, 6, 2, 3)
    x, h = torch.randn(5, 4, 9), torch.randn(5, 3)

    def outputs(V_h):
        fg = F.conv1d(F.pad(x, (2, 0)), layer.conv.weight, layer.conv.bias, dilation=2)
        f, g = (fg + V_h[:, :, None]).chunk(2, dim=1)
        z = torch.tanh(f) * torch.sigmoid(g)
        return x + layer.residual(z), layer.skip(z)

    for given in (0 * h, h):
        where = f"forward for x of shape (5, 4, 9) and {'random' if given.any() else 'zeros as'} h"
        got = call(where, layer, x, given)
        if not isinstance(got, tuple) or len(got) != 2:
            wrong(f"{where}: expected two tensors, the next x and the skip, got {shape(got)}")
        V_h = layer.V(given)
        for said, other in {"h changes nothing": 0 * V_h, "V h reaches f only; g needs its half":
                            V_h * (torch.arange(8) < 4)}.items():
            if given.any() and torch.allclose(got[1], outputs(other)[1], atol=1e-5):
                wrong(f"{where}: {said}")
        for name, yours, ours in zip(("the next x", "the skip"), got, outputs(V_h), strict=True):
            same_tensor(f"{where}: {name}", yours, ours)
    return f"{layer.V.weight.nelement()} weights tell a layer of 4 channels what h is"


@check
def check_pool(pool):
    """09: the memory of a gated convolution."""
    torch.manual_seed(1)
    for L in (5, 1):
        z, f = torch.randn(2, L, 3), torch.rand(2, L, 3)
        where = f"pool for z and f of shape {shape(z)}"

        def memories(z, f, start):
            c, found = start, []
            for z_t, f_t in zip(z.unbind(1), f.unbind(1), strict=True):
                c = f_t * c + (1 - f_t) * z_t
                found.append(c)
            return torch.stack(found, dim=1)

        zero = torch.zeros(2, 3)
        got, right = call(where, pool, z, f), memories(z, f, zero)
        if shape(got) in ((2, 3), (2, 1, 3)) and shape(got) != shape(z):
            wrong(f"{where}: got the shape {shape(got)}, one memory; return those of all positions")
        if shape(got) == (L, 2, 3) and L != 2:
            wrong(f"{where}: got the shape {shape(got)}; stack the memories along dim=1")
        for said, other in {
                "f and 1 - f have changed places": memories(z, 1 - f, zero),
                "c starts as the first z; it should start at 0": memories(z, f, z[:, 0]),
                "the factor 1 - f of z is missing": memories(z / (1 - f), f, zero),
                "nothing is carried from one position to the next": (1 - f) * z,
                "all positions are the last one": right[:, -1:].expand_as(z)}.items():
            if shape(got) == shape(z) and torch.allclose(got, other, atol=1e-5) \
                    and not torch.allclose(other, right, atol=1e-5):
                wrong(f"{where}: {said}")
        same_tensor(where, got, right)
    if not call(where, pool, z.requires_grad_(), f).requires_grad:
        wrong(f"{where}: no gradient flows from the memories back to z")
    return "with f = 0.9, a quarter of a memory is left after 13 positions"


@check
def check_mix(mix):
    """11: the counts of a context, mixed with what the shorter one says."""
    counts, shorter = torch.tensor([0.0, 6, 2, 0]), torch.tensor([0.1, 0.2, 0.3, 0.4])
    for weight in (1.0, 4.0):
        where = f"mix({counts.tolist()}, {shorter.tolist()}, {weight})"
        got = call(where, mix, counts, shorter, weight)
        for kind, k in (("the sum of the counts", 8), ("the size of the vocabulary", 4)):
            other = (counts + weight * k * shorter) / (8 + weight * k)
            if shape(got) == (4,) and torch.allclose(got, other):
                wrong(f"{where}: k is {kind}; it counts the characters that followed, here 2")
        if shape(got) == (4,) and abs(got.sum() - 1) > 1e-4:
            wrong(f"{where}: the probabilities sum to {got.sum():.3f}, not to 1")
        same_tensor(where, got, (counts + 2 * weight * shorter) / (8 + 2 * weight))
    return f"a character that never followed still has a probability of {got[0]:.3f}"
