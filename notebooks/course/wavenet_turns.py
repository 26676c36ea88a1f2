"""The checks of the cells *Your turn* of notebook 09."""

import torch
import torch.nn.functional as F

from course import wavenet
from course.checking import (
    call,
    check,
    count_parameters,
    same_number,
    same_tensor,
    shape,
    wrong,
)


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
