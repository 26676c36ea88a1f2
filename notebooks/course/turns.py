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
            same_tensor(where, got, mlp(X, *parameters))
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
        for step in ("the first step", "the second step"):
            copies = [p.detach().clone().requires_grad_() for p in parameters]
            loss = F.cross_entropy(mlp(X, *copies), Y)
            loss.backward()
            got = call(f"train_step(X, Y, 0.1), {step},", train_step, X, Y, 0.1)
            same_number(f"{step} returns the loss", got, loss.item(), 1e-4)
            for name, p, old, first in zip(names, parameters, copies, kept, strict=True):
                moved = p.detach() - old.detach()
                if not moved.any():
                    wrong(f"{name} has not moved after {step}")
                if torch.allclose(moved, 0.1 * old.grad, atol=1e-6):
                    wrong(f"{name} went up the gradient, and the loss with it; go down")
                if first.any() and torch.allclose(moved, -0.1 * (old.grad + first), atol=1e-6):
                    wrong(f"{step} adds the gradients of the first; set p.grad = None before it")
                same_tensor(f"{name} after {step}", p, old.detach() - 0.1 * old.grad, 1e-5)
            kept = [old.grad for old in copies]
    finally:
        with torch.no_grad():
            for p, old in zip(state, before, strict=True):
                p.copy_(old)
                p.grad = None
    return f"on the same batch the loss was {got:.4f} in the second step"


class AsRows(helpers.BatchNorm1d):
    """Right as well: the positions as further rows of a table."""

    def __call__(self, x):
        self.out = super().__call__(x.reshape(-1, x.shape[-1])).view(x.shape)
        return self.out


@check
def check_is_right(is_right):
    """04: a test that tells the layer with the bug from a right one."""
    for label, layer, expected in (("the layer with the bug", helpers.BatchNorm1dPart3, False),
                                   ("the layer with the fix", helpers.BatchNorm1d, True),
                                   ("another way to fix it", AsRows, True)):
        where = f"is_right for {label}"
        got = call(where, is_right, layer)
        if call(where, bool, got) != expected:
            wrong(f"{where}: expected {expected}, got {got}")
    return "the layer with the bug fails your test, and two ways to fix it pass"


@check
def check_batch_norm(batch_norm, vocab_size, config, Xtr, Ytr, Xval, Yval):
    """04: normalise each channel over all other dimensions."""
    for size in ((32, 20), (32, 4, 20), (2, 2, 3)):
        x = 3 + 5 * torch.randn(size, generator=torch.Generator().manual_seed(1))
        x[..., -1] = 3.0                                                # a channel without variance
        where, got = case(batch_norm, x.requires_grad_())
        bug = helpers.BatchNorm1dPart3(size[-1])(x)
        if len(size) == 3 and shape(got) == size and torch.allclose(got, bug, atol=1e-4):
            wrong(f"{where}: every position has its own statistics: the bug")
        same_tensor(where, got, helpers.BatchNorm1d(size[-1])(x))
        if not got.requires_grad:
            wrong(f"{where}: no gradient flows from the result back to x")

    class Yours(helpers.BatchNorm1d):
        def __call__(self, x):
            super().__call__(x)                                         # the running statistics
            if self.training:
                self.out = self.gamma * batch_norm(x) + self.beta
            return self.out

    losses = []
    for norm in (helpers.BatchNorm1dPart3, Yours):
        torch.manual_seed(config["seed"])
        model = helpers.make_tree(vocab_size, config["block_size"], config["n_embd"],
                                  config["n_hidden"], config["group_size"], norm)
        helpers.train(model, Xtr, Ytr, max_steps=2000, batch_size=config["batch_size"],
                      learning_rate=config["learning_rate"])
        losses.append(helpers.split_loss(model, Xval, Yval))
    return "val after a short run with the bug {:.4f}, with your function {:.4f}".format(*losses)


@check
def check_unseen_loss(unseen_loss, model, parts, block_size, stoi):
    """05: the loss on the names of val that are not in train."""
    def loss(words):
        return helpers.split_loss(model, *helpers.build_dataset(words, block_size, stoi))

    train, new = parts["train"][:60], sorted(set(parts["val"]) - set(parts["train"]))[:20]
    val = [*train[:10], *new, *new[:5]]
    where = f"unseen_loss for {len(train)} names of train and {len(val)} of val"
    got = call(where, unseen_loss, model, train, val)
    mistakes = {"that is the loss on all of val": loss(val),
                "that is the loss on the names that are in train": loss(train[:10]),
                "a name that is in val twice counts twice": loss(new),
                "average over characters, not over names": sum(
                    loss([word]) for word in val[10:]) / len(val[10:])}
    same_number(where, got, loss(val[10:]), 1e-5, lambda got: next(
        (f"; {said}" for said, x in mistakes.items() if abs(x - got) < 1e-5), ""))
    return f"on unseen names the loss is {unseen_loss(model, parts['train'], parts['val']):.4f}"
