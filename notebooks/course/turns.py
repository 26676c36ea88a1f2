"""The checks of the cells *Your turn* in notebooks 01 to 05."""

import torch
import torch.nn.functional as F

import helpers
from course.checking import (
    call,
    case,
    check,
    count_parameters,
    same_layers,
    same_number,
    same_tensor,
    shape,
    wrong,
)


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


def same_parameters(layer, expected):
    """End the check unless parameters() lists the `expected` tensors themselves."""
    got = call("parameters()", lambda: list(call("parameters()", layer.parameters)))
    if [*map(id, got)] != [*map(id, expected)]:
        wrong(f"parameters(): expected the tensors {[*map(shape, expected)]}, "
              f"got {[*map(shape, got)]}; expected these tensors themselves, no copies")


@check
def check_linear(Linear):
    """02: a matrix and a bias."""
    for bias in (True, False):
        torch.manual_seed(1)
        where = f"Linear(6, 4, bias={bias})"
        layer = call(where, Linear, 6, 4, bias)
        call(f"{where} for x of shape (5, 6)", layer, torch.ones(5, 6))   # None: not done yet
        torch.manual_seed(1)
        right = helpers.Linear(6, 4, bias)
        same_tensor(f"self.weight of {where}, after torch.manual_seed(1)",
                    getattr(layer, "weight", None), right.weight)
        if bias:
            same_tensor(f"self.bias of {where}", getattr(layer, "bias", None), right.bias)
            layer.bias.data += 3
            right.bias.data += 3
        for size in ((5, 6), (5, 2, 6)):
            x = torch.randn(size)
            said = f"{where} for x of shape {size}"
            same_tensor(said, call(said, layer, x), right(x))
            same_tensor(f"self.out after {said}", getattr(layer, "out", None), right.out)
        same_parameters(layer, [layer.weight, layer.bias][: 1 + bias])
    return f"Linear(30, 200, bias=False) has {count_parameters(Linear(30, 200, False)):,} weights"


@check
def check_norm_layer(BatchNorm1dPart3):
    """02: batch normalisation with its running statistics."""
    layer, right = (call("BatchNorm1dPart3(4, eps=0.5, momentum=0.3)", c, 4, 0.5, 0.3)
                    for c in (BatchNorm1dPart3, helpers.BatchNorm1dPart3))
    generator = torch.Generator().manual_seed(1)
    for batch in ("the first batch", "the second batch", "the third batch, in evaluation"):
        x = 3 + 2 * torch.randn(8, 4, generator=generator)
        layer.training = right.training = "eval" not in batch
        got = call(f"the output for {batch}", layer, x.requires_grad_())
        for name in ("gamma", "beta"):
            same_tensor(f"self.{name}", getattr(layer, name, None), getattr(right, name))
        same_tensor(f"the output for {batch}", got, expected := right(x))
        slopes = (torch.autograd.grad((out * x.detach()).sum(), x, retain_graph=True)[0]
                  for out in (got, expected))
        same_tensor(f"the gradient of x for {batch} (it flows through mean and var, too)", *slopes)
        for name in ("running_mean", "running_var"):
            if not torch.is_tensor(buffer := getattr(layer, name, None)):
                wrong(f"self.{name} after {batch}: expected a tensor, got {shape(buffer)}")
            if buffer.requires_grad:
                wrong(f"self.{name} carries gradients; update it inside torch.no_grad()")
            same_tensor(f"self.{name} after {batch}", buffer.flatten(),
                        getattr(right, name).flatten())
        layer.gamma, right.gamma = (torch.full((4,), 2.0) for _ in range(2))
    same_tensor("self.out", getattr(layer, "out", None), got)
    same_parameters(layer, [layer.gamma, layer.beta])
    return f"after two batches with mean 3 the running mean is {layer.running_mean.mean():.2f}"


@check
def check_sequential(Sequential):
    """02: a list of layers that is a layer."""
    torch.manual_seed(1)
    inner, last, x = [helpers.Linear(6, 4), helpers.Tanh()], helpers.Linear(4, 3), torch.ones(5, 6)
    model = call("Sequential([Linear, Tanh, Linear])", Sequential, [*inner, last])
    got = call("the model for x of shape (5, 6)", model, x)
    same_tensor("the model for x of shape (5, 6)", got, last(torch.tanh(inner[0](x))))
    same_tensor("self.out", getattr(model, "out", None), got)
    expected = [*inner[0].parameters(), *last.parameters()]
    same_parameters(model, expected)
    nested = call("a Sequential in a Sequential", Sequential, [Sequential(inner), last])
    same_tensor("a Sequential in a Sequential", nested(x), got)
    same_parameters(nested, expected)
    if len(getattr(model, "layers", ())) != 3:
        wrong("self.layers: expected the list of the 3 layers")
    return "also with a Sequential as a layer of another"


@check
def check_flatten(FlattenConsecutive):
    """03: n neighbours side by side."""
    for B, T, C, n in ((1, 4, 2, 2), (32, 8, 10, 2), (3, 9, 5, 3), (2, 8, 1, 8), (5, 6, 4, 1)):
        x = torch.arange(float(B * T * C)).view(B, T, C)
        expected = torch.cat([x[:, i::n] for i in range(n)], dim=2)
        where = f"FlattenConsecutive({n}) for x of shape {(B, T, C)}"
        layer = call(where, FlattenConsecutive, n)
        got = call(where, layer, x)
        same_tensor(where, got, expected.squeeze(1) if T == n else expected)
        same_tensor(f"self.out of {where}", getattr(layer, "out", None), got)
    same_parameters(layer, [])
    return f"(32, 8, 10) becomes {shape(FlattenConsecutive(2)(torch.ones(32, 8, 10)))}"


@check
def check_tree(tree):
    """03: the tree for any context and any group size."""
    for T, n in ((8, 2), (16, 2), (9, 3), (16, 4), (8, 8)):
        where, model = case(tree, 27, T, 10, 16, n)
        depth = len(helpers.tree_levels(T, n)) - 1
        with helpers.mode(model, training=False):
            said = f"{where} for (4, {T}) characters"
            got = call(said, model, torch.zeros(4, T, dtype=torch.int64))
        same_tensor(said, 0 * got, torch.zeros(4, 27))
        level = [f"FlattenConsecutive({n})", "Linear to 16, no bias", "BatchNorm1dPart3", "Tanh"]
        same_layers(where, model, [*level * depth, "Linear to 27"])
    sizes = {T: f"{count_parameters(tree(27, T, 10, 68, 2)):,}" for T in (8, 16, 32)}
    return f"parameters for a context of 8, 16 and 32: {', '.join(sizes.values())}"


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
    known = set(parts["train"])
    return f"{sum(w not in known for w in parts['val']):,} of {len(parts['val']):,} are unseen"
