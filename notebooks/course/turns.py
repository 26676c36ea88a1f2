"""The checks of the cells *Your turn*: "not done yet", "right: ..." or "wrong: ..."."""

import torch
import torch.nn.functional as F

import helpers
from course.checking import call, case, check, same_number, same_tensor, shape, wrong


@check
def check_windows(windows_of, words, block_size, stoi):
    """01: the training examples of one name."""
    itos = {i: ch for ch, i in stoi.items()}

    def rows(X, Y):
        return [f"{''.join(map(itos.get, x))} -> {itos[y]}"
                for x, y in zip(X.tolist(), Y.tolist(), strict=True)]

    for name in (min(words, key=len), max(words, key=len)):
        where = f"windows_of({name!r})"
        got = call(where, windows_of, name)
        expected = helpers.build_dataset([name], block_size, stoi)
        shapes = tuple(map(shape, got if isinstance(got, tuple) else [got]))
        if shapes != (wanted := tuple(map(shape, expected))):
            wrong(f"{where}: expected tensors of the shapes {wanted}, got {shapes}")
        for i, (ours, yours) in enumerate(zip(rows(*expected), call(where, rows, *got),
                                              strict=True)):
            if ours != yours:
                wrong(f"{where}: expected {ours!r} in row {i}, got {yours!r}")
    return f"{name!r} gives {len(got[0])} examples"


def mlp(X, E, W1, bngain, bnbias, W2, b2, squash=torch.tanh, correction=1):
    """The logits of notebook 01, and two ways to get them wrong."""
    hpreact = E[X].view(len(X), -1) @ W1
    spread = torch.sqrt(hpreact.var(0, correction=correction) + 1e-5)
    return squash(bngain * ((hpreact - hpreact.mean(0)) / spread) + bnbias) @ W2 + b2


@check
def check_forward(forward, parameters, X):
    """01: the forward pass of the MLP."""
    before = [p.detach().clone() for p in parameters]
    generator = torch.Generator().manual_seed(1)
    try:
        with torch.no_grad():
            for p in parameters:                       # so that no gain is 1 and no bias is 0
                p += 0.5 * torch.randn(p.shape, generator=generator)
            E, W1, bngain, bnbias, W2, b2 = parameters
            where, got = case(forward, X)
            for said, other in {
                "the variance is divided by n; torch's var divides by n - 1":
                    mlp(X, *parameters, correction=0),
                "the tanh is missing": mlp(X, *parameters, squash=lambda x: x),
                "bngain and bnbias are missing": mlp(X, E, W1, 1, 0, W2, b2),
                "b2 is missing": mlp(X, E, W1, bngain, bnbias, W2, 0),
            }.items():
                if shape(got) == shape(other) and torch.allclose(got, other, atol=1e-4):
                    wrong(f"{where}: {said}")
            same_tensor(f"{where}, with test weights", got, mlp(X, *parameters))
            same = X[:1].repeat(4, 1)
            same_tensor("forward(X) for four equal windows, so without a variance",
                        call("forward(X)", forward, same), mlp(same, *parameters))
    finally:
        with torch.no_grad():
            for p, old in zip(parameters, before, strict=True):
                p.copy_(old)
    return f"{len(X)} windows give {got.nelement():,} logits"


@check
def check_step(train_step, parameters, buffers, X, Y):
    """01: one step of training."""
    state = [*parameters, *buffers]
    before = [p.detach().clone() for p in state]
    names = ["E", "W1", "bngain", "bnbias", "W2", "b2"]
    kept = [torch.zeros_like(p) for p in parameters]
    try:
        for step, lr in (("the first step", 0.1), ("the second step", 0.2)):
            copies = [p.detach().clone().requires_grad_() for p in parameters]
            loss = F.cross_entropy(mlp(X, *copies), Y)
            loss.backward()
            got = call(f"train_step(X, Y, {lr}), {step},", train_step, X, Y, lr)
            if torch.is_tensor(got):
                wrong("return the loss as a plain number, loss.item(); got a tensor")
            same_number(f"{step} returns the loss", got, loss.item(), 1e-4)
            for name, p, old, first in zip(names, parameters, copies, kept, strict=True):
                moved = p.detach() - old.detach()
                if not moved.any():
                    wrong(f"{name} has not moved after {step}")
                if torch.allclose(moved, lr * old.grad, atol=1e-6):
                    wrong(f"{name} went up the gradient, and the loss with it; go down")
                if first.any() and torch.allclose(moved, -lr * (old.grad + first), atol=1e-6):
                    wrong(f"{step} adds the gradients of the first; set p.grad = None before it")
                same_tensor(f"{name} after {step}", p, old.detach() - lr * old.grad, 1e-5)
            kept = [old.grad for old in copies]
    finally:
        with torch.no_grad():
            for p, old in zip(state, before, strict=True):
                p.copy_(old)
                p.grad = None
    return f"on the same batch the loss was {got:.4f} in the second step"
