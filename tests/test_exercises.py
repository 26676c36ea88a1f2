"""The exercises: stubs, checks, solutions and wrong answers, in notebooks with other sizes.

The quick tests run the cells that the exercises need, --full the whole notebook.
"""

import dis
import itertools
import re
import types

import nbformat
import pytest

import helpers
from course import PATHS, ROOT, code_cells

MARK = "\n# The check: leave it as it is.\n"

# Two or more typical wrong answers to each exercise: the code, and a pattern of what must be said.
WRONG = {
    "exercise-chance": [
        ("""
def chance_loss(n):
    return torch.tensor(n).log10()
""", r"chance_loss\(2\) should be 0.6931, got 0.3010"),
        ("""
def chance_loss(n):
    return 1 / n
""", r"chance_loss\(2\) should be 0.6931, got 0.5"),
        ("""
def chance_loss(n):
    return torch.log(n)
""", r"should be 0.6931, but it fails: log\(\): argument 'input' \(position 1\) must be Tensor"),
        ("""
def chance_loss(n):
    return -torch.full((n,), 1 / n).log()
""", r"should be one number, 0.6931, got tensor\(\[0.6931, 0.6931\]\)"),
        ("""
def chance_loss(n):
    return float("nan")
""", "should be 0.6931, got nan"),
    ],
    "exercise-relu": [
        ("""
class ReLU:
    def __call__(self, x):
        self.out = x.abs()
        return self.out

    def parameters(self):
        return []
""", "expected .* got"),
        ("""
class ReLU:
    def __call__(self, x):
        return x.clamp(min=0)

    def parameters(self):
        return []
""", "self.out"),
        ("""
class ReLU:
    def __call__(self, x):
        self.out = x.clamp_(min=0)
        return self.out

    def parameters(self):
        return []
""", "changed its input"),
        ("""
class ReLU:
    def __call__(self, x):
        self.out = max(0, x)
        return self.out
""", "it fails: Boolean value of Tensor with more than one value is ambiguous"),
        ("""
class ReLU:
    def __call__(self, x):
        self.out = torch.max(x, 0)
        return self.out

    def parameters(self):
        return []
""", "expected a tensor, got max"),
        ("""
class ReLU:
    def __call__(self, x):
        self.out = x.clamp(min=0)
        return self.out
""", "it fails: 'ReLU' object has no attribute 'parameters'"),
    ],
    "exercise-count": [
        ("""
def count(v, T, e, h):
    return v * e + e * T * h + 2 * h + h * v
""", "should be 12097, got 12070"),
        ("""
def count(v, T, e, h):
    return v * e + e * T * h + h * v + v
""", "should be 12097, got 11697"),
        ("""
def count(v, T, e, h):
    return v * e + e * T * h + 4 * h + h * v + v
""", "should be 12097, got 12497"),
        ("""
def count(v, T, e):
    return v * e
""", "should be 12097, but it fails: count.. takes 3 positional arguments but 4 were given"),
    ],
    "exercise-flatten": [
        ("""
def flatten_consecutive(x, n):
    B, T, C = x.shape
    return x.transpose(1, 2).reshape(B, T // n, C * n)
""", r"another order: expected first \[0.0, 1.0, 2.0, 3.0\], got \[0.0, 2.0, 4.0, 6.0\]"),
        ("""
def flatten_consecutive(x, n):
    B, T, C = x.shape
    return x.reshape(B, T // 2, C * 2).squeeze(1)
""", r"\(3, 9, 5\) and n = 3 it fails: shape '\[3, 4, 10\]' is invalid for input of size 135"),
        ("""
def flatten_consecutive(x, n):
    B, T, C = x.shape
    return x.reshape(B, T // n, C * n)
""", r"expected \(2, 8\), got \(2, 1, 8\)"),
        ("""
def flatten_consecutive(x, n):
    B, T, C = x.shape
    return x.reshape(B, T // n, C * n).squeeze()
""", r"expected \(1, 2, 4\), got \(2, 4\)"),
        ("""
def flatten_consecutive(x, n):
    B, T, C = x.shape
    return x.view(B, T / n, C * n)
""", r"\(1, 4, 2\) and n = 2 it fails: view\(\): .* float"),
        ("""
def flatten_consecutive(x, n):
    return torch.cat([x[:, ::2], x[:, 1::2]], dim=2)
""", r"\(3, 9, 5\) and n = 3 it fails: Sizes of tensors must match except in dimension 2"),
        ("""
def flatten_consecutive(x, n):
    return [x[:, i:i + n].flatten(1) for i in range(0, x.shape[1], n)]
""", r"expected \(1, 2, 4\), got a list"),
    ],
    "exercise-tree": [
        ("""
def three_levels(v, e, h):
    return Sequential([Embedding(v, e), FlattenConsecutive(2), Linear(e, h), Linear(h, v)])
""", "fails"),
        ("""
def three_levels(v, e, h):
    return Sequential([Embedding(v, e), FlattenConsecutive(4), Linear(4 * e, h),
                       FlattenConsecutive(2), Linear(2 * h, v)])
""", r"layer 1 after .* should be FlattenConsecutive\(2\), got FlattenConsecutive\(4\)"),
        ("""
def three_levels(v, e, h):
    return Sequential([Embedding(v, e), FlattenConsecutive(2), Linear(2 * e, h),
                       FlattenConsecutive(2), Linear(2 * h, v)])
""", r"got \(4, 2, 27\)"),
        ("""
def three_levels(v, e, h):
    levels = [FlattenConsecutive(2), FlattenConsecutive(2), FlattenConsecutive(2)]
    return Sequential([Embedding(v, e), *levels, Linear(8 * e, h), Tanh(), Linear(h, v)])
""", r"layer 2 after .* should be Linear to 16, got FlattenConsecutive\(2\)"),
        ("""
def three_levels(v, e, h):
    level = [FlattenConsecutive(2), Linear(2 * h, h)]
    return Sequential([Embedding(v, e), FlattenConsecutive(2), Linear(2 * e, h), *level, *level,
                       Linear(h, v)])
""", r"layer 3 after .* should be Tanh, got FlattenConsecutive\(2\)"),
        ("""
def three_levels(v, e, h):
    level = [FlattenConsecutive(2), Tanh(), Linear(2 * h, h)]
    return Sequential([Embedding(v, e), FlattenConsecutive(2), Tanh(), Linear(2 * e, h),
                       *level, *level, Linear(h, v)])
""", "layer 2 after .* should be Linear to 16, got Tanh"),
        ("""
def three_levels(v, e, h):
    level = [FlattenConsecutive(2), Linear(2 * h, h), Tanh()]
    Sequential([Embedding(v, e), FlattenConsecutive(2), Linear(2 * e, h), Tanh(), *level, *level,
                Linear(h, v)])
""", "expected a Sequential, got NoneType"),
        ("""
def three_levels(v, e, h):
    return Sequential(Embedding(v, e), FlattenConsecutive(2), Linear(2 * e, h), Tanh())
""", r"it fails: Sequential.__init__\(\) takes 2 positional arguments"),
    ],
    "exercise-reshape": [
        ("""
def joins_neighbours(join):
    return join(torch.randn(3, 8, 5)).shape == (3, 4, 10)
""", "'places and channels swapped' expected False, got True"),
        ("""
def joins_neighbours(join):
    x = torch.arange(8.0).view(1, 4, 2)
    return torch.equal(join(x), torch.cat([x[:, ::2], x[:, 1::2]], dim=2))
""", "'examples and places swapped' expected False, got True"),
        ("""
def joins_neighbours(join):
    x = torch.randn(3, 2, 5)
    return torch.equal(join(x), torch.cat([x[:, ::2], x[:, 1::2]], dim=2))
""", "'two halves side by side' expected False, got True"),
        ("""
def joins_neighbours(join):
    x = torch.randn(3, 8, 5)
    return torch.equal(join(x), x)
""", "'one reshape' expected True, got False"),
        ("""
def joins_neighbours(join):
    x = torch.randn(3, 8, 5)
    return join(x) == torch.cat([x[:, ::2], x[:, 1::2]], dim=2)
""", "'one reshape' it fails: Boolean value of Tensor with more than one value is ambiguous"),
        ("""
def joins_neighbours(join):
    x = torch.randn(3, 8, 5)
    if torch.equal(join(x), torch.cat([x[:, ::2], x[:, 1::2]], dim=2)):
        return True
""", "'places and channels swapped' expected False, got None"),
    ],
    "exercise-grouped": [
        ("""
def grouped(v, e, h, groups):
    layers, C = [Embedding(v, e)], e
    for _ in groups:
        layers += [FlattenConsecutive(2), Linear(2 * C, h), Tanh()]
        C = h
    return Sequential([*layers, Linear(h, v)])
""", r"16, \[4, 2\]\) layer 1 .* should be FlattenConsecutive\(4\), got FlattenConsecutive\(2\)"),
        ("""
def grouped(v, e, h, groups):
    layers, C = [Embedding(v, e)], e
    for n in groups:
        layers += [FlattenConsecutive(n), Linear(2 * C, h), Tanh()]
        C = h
    return Sequential([*layers, Linear(h, v)])
""", r"groups \[4, 2\] and 8 characters it fails: mat1 and mat2 shapes cannot be multiplied"),
        ("""
def grouped(v, e, h, groups):
    layers, C = [Embedding(v, e)], e
    for n in groups:
        layers += [FlattenConsecutive(n), Linear(n * C, h)]
        C = h
    return Sequential([*layers, Linear(h, v)])
""", r"16, \[2, 2, 2\]\) layer 3 .* should be Tanh, got FlattenConsecutive\(2\)"),
        ("""
def grouped(v, e, h, groups):
    layers, C = [Embedding(v, e)], e
    for n in groups:
        layers.append([FlattenConsecutive(n), Linear(n * C, h), Tanh()])
        C = h
    return Sequential([*layers, Linear(h, v)])
""", r"groups \[2, 2, 2\] and 8 characters it fails: 'list' object is not callable"),
        ("""
def grouped(v, e, h, groups):
    layers, C = [Embedding(v, e)], e
    for n in groups:
        layers += [FlattenConsecutive(n), Linear(n * C, 68), Tanh()]
        C = 68
    return Sequential([*layers, Linear(68, v)])
""", "layer 2 .* should be Linear to 16, got Linear to 68"),
    ],
    "exercise-norm": [
        ("""
def batch_norm(x, eps=1e-5):
    return (x - x.mean(0, keepdim=True)) / torch.sqrt(x.var(0, keepdim=True) + eps)
""", "statistics of its own: the bug"),
        ("""
def batch_norm(x, eps=1e-5):
    dims = tuple(range(x.ndim - 1))
    var = x.var(dims, keepdim=True, correction=0)
    return (x - x.mean(dims, keepdim=True)) / torch.sqrt(var + eps)
""", "largest difference is 0.0"),
        ("""
def batch_norm(x, eps=1e-5):
    dims = 0 if x.ndim == 2 else (0, 1)
    return (x - x.mean(dims)) / x.std(dims)
""", r"\(32, 20\) the largest difference is nan"),
        ("""
def batch_norm(x, eps=1e-5):
    return (x - x.mean(-1)) / torch.sqrt(x.var(-1) + eps)
""", r"\(32, 20\) it fails: The size of tensor a \(20\) must match the size of tensor b \(32\)"),
        ("""
def batch_norm(x, eps=1e-5):
    dims = 0 if x.ndim == 2 else (0, 1)
    x -= x.mean(dims)
    x /= torch.sqrt(x.var(dims) + eps)
    return x
""", "it fails: a leaf Variable that requires grad is being used in an in-place operation"),
        ("""
def batch_norm(x, eps=1e-5):
    dims = tuple(range(x.ndim - 1))
    return x.mean(dims), x.var(dims)
""", r"\(32, 20\) became a tuple"),
    ],
    "exercise-unseen": [
        ("""
def unseen_share(train, val):
    return len(set(val) - set(train)) / len(set(val))
""", "expected 0.666667, got 0.5"),
        ("""
def unseen_share(train, val):
    return sum(word in set(train) for word in val) / len(val)
""", "expected 0, got 1.0"),
        ("""
def unseen_share(train, val):
    return [word for word in val if word not in train]
""", r"expected 0.5, got \['c'\]"),
        ("""
def unseen_share(train, val):
    return len(val - train) / len(val)
""", "it fails: TypeError"),
        ("""
def unseen_share(train, val):
    return round(sum(word not in train for word in val) / len(val), 3)
""", "expected 0.666667, got 0.667"),
    ],
    "exercise-activations": [
        ("""
def activations(model, X):
    with helpers.mode(model, training=False), torch.no_grad():
        model(X)
    return [m.out for m in model.layers if isinstance(m, helpers.Tanh)]
""", "expected tensors of the shapes"),
        ("""
def activations(model, X):
    return [m.out.reshape(len(m.out), -1, n_hidden) for m in model.layers
            if isinstance(m, helpers.Tanh)]
""", "expected tensors of the shapes|the shapes fit, but"),
        ("""
def activations(model, X):
    with helpers.mode(model, training=False), torch.no_grad():
        model(X)
    return (0 * m.out.reshape(len(X), -1, n_hidden) for m in model.layers
            if isinstance(m, helpers.Tanh))
""", "the shapes fit, but expected what the Tanh layers give"),
        ("""
def activations(model, X):
    model.eval()
""", "it fails: AttributeError.*has no attribute 'eval'"),
        ("""
def activations(model, X):
    with helpers.mode(model, training=False), torch.no_grad():
        model(X)
    return [m.out.tolist() for m in model.layers if isinstance(m, helpers.Tanh)]
""", "got .*<class 'list'>"),
        ("""
def activations(model, X):
    model(X)
    return [m.out.reshape(len(X), -1, n_hidden) for m in model.layers
            if isinstance(m, helpers.Tanh)]
""", "was in training, and its running statistics moved"),
        ("""
def activations(model, X):
    for m in model.layers:
        m.training = False
    model(X)
    return [m.out.reshape(len(X), -1, n_hidden) for m in model.layers
            if isinstance(m, helpers.Tanh)]
""", "stays in evaluation"),
    ],
    "exercise-conv": [
        ("""
def to_conv(linear, n):
    C_in, C_out = linear.weight.shape[0] // n, linear.weight.shape[1]
    conv = torch.nn.Conv1d(C_in, C_out, n, stride=n, bias=linear.bias is not None)
    conv.weight.data = linear.weight.t().reshape(C_out, C_in, n)
    if linear.bias is not None:
        conv.bias.data = linear.bias
    return conv
""", "the shapes fit, the largest difference is"),
        ("""
def to_conv(linear, n):
    C_in, C_out = linear.weight.shape[0] // n, linear.weight.shape[1]
    conv = torch.nn.Conv1d(C_in, C_out, n, stride=n)
    conv.weight.data = linear.weight.view(n, C_in, C_out).permute(2, 1, 0)
    conv.bias.data = torch.zeros(C_out) if linear.bias is None else linear.bias
    return conv
""", r"expected .* \(\(3, 3, 2\), 2, 2, False\), got .* True"),
        ("""
def to_conv(linear, n):
    C_in, C_out = linear.weight.shape[0] // n, linear.weight.shape[1]
    return torch.nn.Conv1d(C_in, C_out, n, dilation=n)
""", r"got \(\(4, 3, 2\), 2, 1, True\)"),
        ("""
def to_conv(linear, n):
    return torch.nn.Conv1d(linear.in_features // n, linear.out_features, n, stride=n)
""", "it fails: AttributeError.*'Linear' object has no attribute 'in_features'"),
        ("""
def to_conv(linear, n):
    C_in, C_out = linear.weight.shape[0] // n, linear.weight.shape[1]
    conv = torch.nn.Conv1d(C_in, C_out, n, stride=n, bias=linear.bias is not None)
    conv.weight.data = conv_weight(linear.weight)
    if linear.bias is not None:
        conv.bias.data = linear.bias
    return conv
""", r"for n = 3, 2 channels in, 5 out .* got \(\(5, 3, 2\), 3, 3, True\)"),
        ("""
def to_conv(linear, n):
    C_in, C_out = linear.weight.shape[0] // n, linear.weight.shape[1]
    return torch.nn.Conv1d(C_in, C_out, n, stride=n, bias=linear.bias)
""", "it fails: RuntimeError.'Boolean value of Tensor"),
        ("""
def to_conv(linear, n):
    C_in, C_out = linear.weight.shape[0] // n, linear.weight.shape[1]
    conv = torch.nn.Conv1d(C_in, C_out, n, stride=n, bias=linear.bias is not None)
    conv.weight.data *= torch.nan
    return conv
""", "the largest difference is nan"),
    ],
    "exercise-without": [
        ("""
def without_conv(net, X):
    embedding, pairs, (W_out, b_out) = net
    h = embedding[X]
    for level, (W, b) in enumerate(pairs):
        d = 1
        h = torch.tanh(torch.cat([h[:, :-d], h[:, d:]], dim=2) @ W + b)
    return h @ W_out + b_out
""", "expected the shape"),
        ("""
def without_conv(net, X):
    embedding, pairs, (W_out, b_out) = net
    h = embedding[X]
    for level, (W, b) in enumerate(pairs):
        d = 2**level
        h = torch.tanh(torch.cat([h[:, d:], h[:, :-d]], dim=2) @ W + b)
    return h @ W_out + b_out
""", "the shape fits, the largest difference is"),
        ("""
def without_conv(net, X):
    embedding, pairs, (W_out, b_out) = net
    h = embedding[X]
    for level, (W, b) in enumerate(pairs):
        d = 2**level
        h = torch.tanh(torch.cat([h[:, :-d], h[:, d:]], dim=1) @ W + b)
    return h @ W_out + b_out
""", "it fails: RuntimeError.'mat1 and mat2 shapes cannot be multiplied"),
        ("""
def without_conv(net, X):
    return dilated(net, X).tolist()
""", "got <class 'list'>"),
    ],
    "exercise-sees": [
        ("""
def sees(kernel_size, dilations):
    return 1 + (kernel_size - 1) * sum(dilations)
""", r"dilations \[1, 3\] the gradient finds 4 positions, got 5"),
        ("""
def sees(kernel_size, dilations):
    return kernel_size ** len(dilations)
""", r"kernel 3 and dilations \[1, 2\] the gradient finds 7 positions, got 9"),
        ("""
def sees(kernel_size, dilations):
    return kernel_size * sum(dilations)
""", "the gradient finds 8 positions, got 14"),
        ("""
def sees(kernel_size, dilations):
    return 1 + (kernel_size - 1) * dilations
""", "it fails: TypeError"),
    ],
    "exercise-depends": [
        ("""
def depends(function, x, t):
    x = x.clone().requires_grad_()
    grad, = torch.autograd.grad(function(x)[0, t].sum(), x)
    return grad[0].any(1).nonzero()[:, 0].tolist()
""", r"torch.cat\(\[x, -x\], 2\) and t = 9 expected \[9\], got \[\]"),
        ("""
def depends(function, x, t):
    x = x.clone().requires_grad_()
    found = torch.zeros(x.shape[1], dtype=torch.bool)
    for channel in function(x)[0, t]:
        grad, = torch.autograd.grad(channel, x, retain_graph=True)
        found |= grad[0].sum(1) != 0
    return found.nonzero()[:, 0].tolist()
""", r"x\[..., :1\] - x\[..., 1:\] and t = 9 expected \[9\], got \[\]"),
        ("""
def depends(function, x, t):
    return list(range(t + 1))
""", r"x.roll\(2, 1\) and t = 9 expected \[7, 9\], got \[0, 1, 2"),
        ("""
def depends(function, x, t):
    x.requires_grad_()
    for channel in function(x)[0, t]:
        channel.backward(retain_graph=True)
    return [i for i in range(x.shape[1]) if x.grad[0, i].any()]
""", r"t = 9 expected \[9, 12\], got \[7, 9, 12\]"),
        ("""
def depends(function, x, t):
    x = x.clone().requires_grad_()
    return [i for i in range(x.shape[1]) if torch.autograd.grad(function(x)[t], x)]
""", "it fails: IndexError"),
        ("""
def depends(function, x, t):
    x = x.clone().requires_grad_()
    grad, = torch.autograd.grad(function(x)[0, t].square().sum(), x)
    return grad[0].any(1)
""", r"expected \[7, 9\], got \[False, False"),
    ],
    "exercise-fold": [
        ("""
def fold(linear, norm):
    factor = norm.weight / norm.running_var.sqrt()
    folded = nn.Linear(linear.in_features, linear.out_features)
    folded.weight.copy_(factor[:, None] * linear.weight)
    folded.bias.copy_(norm.bias - factor * norm.running_mean)
    return folded
""", "the largest difference is"),
        ("""
def fold(linear, norm):
    factor = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    linear.weight.mul_(factor[:, None])
    return linear
""", "the given Linear or BatchNorm1d has changed"),
        ("""
def fold(linear, norm):
    factor = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    folded = nn.Linear(linear.in_features, linear.out_features)
    folded.weight.copy_(factor[:, None] * linear.weight)
    folded.bias.copy_(norm.bias.sub_(factor * norm.running_mean))
    return folded
""", "the given Linear or BatchNorm1d has changed"),
        ("""
def fold(linear, norm):
    factor = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    folded = nn.Linear(linear.in_features, linear.out_features)
    folded.weight.copy_(factor * linear.weight)
    return folded
""", "it fails: RuntimeError.'The size of tensor a"),
        ("""
def fold(linear, norm):
    factor = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    folded = nn.Linear(linear.in_features, linear.out_features)
    folded.weight.data = linear.weight.T * factor
    folded.bias.data = norm.bias - factor * norm.running_mean
    return folded
""", "it fails: RuntimeError.'mat1 and mat2 shapes cannot be multiplied"),
        ("""
def fold(linear, norm):
    return nn.Sequential(linear, norm)
""", "expected an nn.Linear with a bias"),
    ],
    "exercise-momentum": [
        ("""
def momentum_steps(p, grads, lr, momentum):
    for grad in grads:
        velocity = momentum * 0 + grad
        p = p - lr * velocity
    return p
""", "after step 2 expected"),
        ("""
def momentum_steps(p, grads, lr, momentum):
    velocity = 0
    for grad in grads:
        velocity = momentum * velocity + (1 - momentum) * grad
        p = p - lr * velocity
    return p
""", "after step 1 expected"),
        ("""
def momentum_steps(p, grads, lr, momentum):
    velocity = 0
    for grad in grads:
        velocity = momentum * velocity + grad
        p -= lr * velocity
    return p
""", "that was given has changed"),
        ("""
def momentum_steps(p, grads, lr, momentum):
    velocity = grads[0]
    p = p - lr * velocity
    for grad in grads[1:]:
        velocity *= momentum
        velocity += grad
        p = p - lr * velocity
    return p
""", "that was given has changed"),
        ("""
def momentum_steps(p, grads, lr, momentum):
    for grad in grads:
        velocity = momentum * velocity + grad
        p = p - lr * velocity
    return p
""", "it fails: UnboundLocalError"),
        ("""
def momentum_steps(p, grads, lr, momentum):
    path, velocity = [], 0
    for grad in grads:
        velocity = momentum * velocity + grad
        p = p - lr * velocity
        path.append(p)
    return path
""", r"after step 1 expected tensor\(.*\), got \[tensor"),
    ],
    "exercise-field": [
        ("""
def layers_for(samples, kernel_size=2):
    return math.ceil(math.log2(samples))
""", "to see 9 samples with kernel 3 takes 2 layers, got 4"),
        ("""
def layers_for(samples, kernel_size=2):
    layers = 0
    while kernel_size**layers <= samples:
        layers += 1
    return layers
""", "to see 2 samples with kernel 2 takes 1 layers, got 2; 0 see 1, 1 see 2"),
        ("""
def layers_for(samples, kernel_size=2):
    return math.ceil(math.log(samples, kernel_size))
""", "to see 125 samples with kernel 5 takes 3 layers, got 4"),
        ("""
def layers_for(samples, kernel_size=2):
    return mth.ceil(mth.log(samples, kernel_size))
""", "for 2 samples and kernel 2 it fails: name 'mth' is not defined"),
    ],
    "exercise-leak": [
        ("""
def first_leak(network, X, t):
    changed = X.clone()
    changed[:, t] = X[:, t] % 4 + 1
    return t + (network(X) != network(changed)).any(2).any(0)[t:].nonzero()[0].item()
""", "sees 2 ahead, character 7 of 12 changed: expected 5, got 7"),
        ("""
def first_leak(network, X, t):
    before = network(X)
    X[:, t] = X[:, t] % 4 + 1
    different = (network(X) != before).any(2).any(0)
    return different.nonzero()[0].item() if different.any() else X.shape[1]
""", "X was changed"),
        ("""
def first_leak(network, X, t):
    changed = X.clone()
    changed[:, t] = X[:, t] % 4 + 1
    different = (network(X) != network(changed)).any(2).any(0)
    return different.nonzero()[0].item() if different.any() else t
""", "sees nothing, character 7 of 12 changed: expected 12, got 7"),
        ("""
def first_leak(network, X, t):
    changed = X.clone()
    changed[:, t] = X[:, t] % 4 + 1
    return (network(X) != network(changed)).any(2).any(0).nonzero()[0].item()
""", "sees nothing, character 7 of 12 changed: it fails: index 0 is out of bounds"),
        ("""
def first_leak(network, X, t):
    changed = X.clone()
    changed[:, t] = X[:, t] % 4 + 1
    different = (network(X) != network(changed)).any(2).any(0)
    return different.nonzero().flatten() if different.any() else X.shape[1]
""", r"sees 2 ahead, character 7 of 12 changed: expected 5, got \[5, 7\]"),
        ("""
def first_leak(network, X, t):
    changed = X.clone()
    changed[:, t] += 1
    different = (network(X) != network(changed)).any(2).any(0)
    return different.nonzero()[0].item() if different.any() else X.shape[1]
""", "it fails: Class values must be smaller than num_classes"),
        ("""
def first_leak(network, X, t):
    changed = X.clone()
    changed[0, t] = X[0, t] % 4 + 1
    different = (network(X) != network(changed)).any(2).any(0)
    return different.nonzero()[0].item() if different.any() else X.shape[1]
""", "sees 3 ahead in row 1 only, character 7 of 12 changed: expected 4, got 7"),
        ("""
def first_leak(network, X, t):
    changed = X.clone()
    changed[:, t] = 1
    different = (network(X) != network(changed)).any(2).any(0)
    return different.nonzero()[0].item() if different.any() else X.shape[1]
""", "in row 1 only, .* expected 4, got 7"),
    ],
    "exercise-ring": [
        ("""
def ring_step(ring, t, x, back):
    ring[t % len(ring)] = x
    return ring[(t - back) % len(ring)]
""", "t = 0, 4 back, inputs 10, 20, ...: expected 0, got 10"),
        ("""
def ring_step(ring, t, x, back):
    old = ring[(t - back) % len(ring)]
    ring[t % len(ring)] = x
    return old
""", "t = 0, 4 back, inputs 10, 20, ...: expected 0, got 10"),
        ("""
def ring_step(ring, t, x, back):
    old = ring[t - back].clone()
    ring[t] = x
    return old
""", "t = 4, 4 back, inputs 10, 20, ...: it fails: index 4 is out of bounds"),
        ("""
def ring_step(ring, t, x, back):
    old = ring[t % len(ring)].clone()
    ring[t % len(ring)] = x
    return old
""", "t = 1, 1 back, inputs 10, 20, ...: expected 10, got 0"),
        ("""
def ring_step(ring, t, x, back):
    old = ring[-back]
    ring = torch.cat([ring[1:], x[None]])
    return old
""", r"10 should replace the oldest of \[0.0, 0.0, 0.0, 0.0\]"),
        ("""
def ring_step(ring, t, x, back):
    old = ring[t % back].clone()
    ring[t % back] = x
    return old
""", r"t = 1, 1 back, .* 20 should replace the oldest of \[10.0, 0.0, 0.0, 0.0\]"),
        ("""
def ring_step(ring, t, x, back):
    old = ring[(t - back) % len(ring), 0].clone()
    ring[t % len(ring)] = x
    return old
""", r"expected 0, got tensor\(\[0., 0., 0.\]\), not \(2, 3\)"),
        ("""
def ring_step(ring, t, x, back):
    old = ring[(t - back) % len(ring)].clone()
    ring[t % len(ring)] = x
    x *= 0
    return old
""", "the network on your rings, against whole names: max difference"),
    ],
    "exercise-luck": [
        ("""
def luck(n, sd):
    return np.random.default_rng(0).normal(0, sd, (10_000, n)).min(axis=1).mean()
""", r"luck\(2, 2.0\) is -1.1.; the winner looks better"),
        ("""
def luck(n, sd):
    return abs(np.random.default_rng(0).normal(0, sd, (10_000, n))).max(axis=1).mean()
""", r"luck\(1, 2.0\) should be near 0.00, got 1."),
        ("""
def luck(n, sd):
    return 0.0 if n == 1 else sd / n ** 0.5
""", r"luck\(2, 2.0\) should be near 1.13, got 1.41"),
        ("""
def luck(n, sd):
    return -np.random.default_rng(0).normal(0, sd, n).min()
""", r"luck\(1, 2.0\) should be near 0.00, got -0.25"),
        ("""
def luck(n, sd):
    return -np.random.default_rng(0).normal(0, sd, (10_000, n)).min(axis=1)
""", r"luck\(1, 2.0\) should be one number, got the shape \(10000,\)"),
        ("""
def luck(n, sd):
    return -torch.normal(0, sd, (10_000, n)).min(dim=1).mean()
""", r"for luck\(1, 2.0\) it fails: 'torch.return_types.min' object has no attribute 'mean'"),
        ("""
def luck(n, sd):
    return float("nan")
""", "should be near 0.00, got nan"),
    ],
    "exercise-first": [
        ("""
def without_first(losses):
    return losses[:, 1:].nanmean(1).mean()
""", r"expected \(1 \+ 2 \+ 3 \+ 4\) / 4 = 2.5, got 2.0000"),
        ("""
def without_first(losses):
    return losses[:, 1:].mean()
""", "= 2.5, got nan"),
        ("""
def without_first(losses):
    losses[:, 0] = np.nan
    return losses.nanmean()
""", "changed for the caller"),
        ("""
def without_first(losses):
    return losses[1:].nanmean()
""", "= 2.5, got 4.5"),
        ("""
def without_first(losses):
    return losses[:, 1:].nanmean(1)
""", r"expected one number, got tensor\(\[1., 3.\]\)"),
        ("""
def without_first(losses):
    return losses.dropna().mean()
""", "it fails: 'Tensor' object has no attribute 'dropna'"),
    ],
    "exercise-flops": [
        ("""
def conv_flops(N, L, C_in, C_out, kernel_size):
    return 2 * N * L * kernel_size * C_in * C_out
""", "the counter says 12, got 4; that is 3 times as many"),
        ("""
def conv_flops(N, L, C_in, C_out, kernel_size):
    return 3 * N * L * kernel_size * C_in * C_out
""", "the counter says 12, got 6; that is 2 times as many"),
        ("""
def conv_flops(N, L, C_in, C_out, kernel_size):
    return 3 * 2 * N * L * 2 * C_in * C_out
""", "kernel 3: .* that is 1.5 times as many"),
        ("""
def conv_flops(N, L, C_in, C_out, kernel_size):
    return 6 * N * (L - kernel_size + 1) * kernel_size * C_in * C_out
""", "the counter says 12, got 0$"),
        ("""
def conv_flops(N, L, C_in, C_out, kernel_size):
    forward = 2 * N * L * kernel_size * C_in * C_out
    return forward, 2 * forward
""", r"the counter says 12, got \(4, 8\)$"),
        ("""
def conv_flops(N, L, C, kernel_size):
    return 6 * N * L * kernel_size * C * C
""", "kernel 2 it fails: .* takes 4 positional arguments but 5 were given"),
    ],
    "exercise-batched": [
        ("""
def draw_names(probs, n):
    names = []
    for _ in range(n):
        name, ids = [], torch.zeros(1, dtype=torch.int64)
        while (ids := torch.multinomial(probs(ids), 1)[:, 0]).item():
            name.append(ids.item())
        names.append(name)
    return names
""", r"probs was called \d+ times"),
        ("""
def draw_names(probs, n):
    names, ids = [[] for _ in range(n)], torch.zeros(n, dtype=torch.int64)
    while len(ids):
        ids = torch.multinomial(probs(ids), 1)[:, 0]
        ids = ids[ids != 0]
        for name, i in zip(names, ids.tolist()):
            name.append(i)
    return names
""", r"can only give \[1\] and \[2, 3\], got"),
        ("""
def draw_names(probs, n):
    names, ids = [[] for _ in range(n)], torch.zeros(n, dtype=torch.int64)
    done = torch.zeros(n, dtype=torch.bool)
    while not done.all():
        ids = torch.multinomial(probs(ids), 1)[:, 0]
        done |= ids == 0
        for name, i, over in zip(names, ids.tolist(), done.tolist()):
            if not over:
                name.append(i)
    return names
""", "leave out those that are finished"),
        ("""
def draw_names(probs, n):
    return [[] for _ in range(n)]
""", r"can only give \[1\] and \[2, 3\], got \[\]"),
        ("""
def draw_names(probs, n):
    return [[1], [2, 3]] * (n // 2)
""", r"probs got \[\] names"),
        ("""
def draw_names(probs, n):
    names, ids = [[] for _ in range(n)], torch.zeros(n, dtype=torch.int64)
    while True:
        ids = torch.multinomial(probs(ids), 1)[:, 0]
        for name, i in zip(names, ids.tolist()):
            name.append(i)
""", "2,000 times, and no end"),
        ("""
def draw_names(probs, n):
    ids = torch.zeros(n, dtype=torch.int64)
    while (ids := torch.multinomial(probs(ids), 1)).any():
        pass
""", r"fails: probs takes \(M,\) int64, got \(300, 1\) torch.int64"),
        ("""
def draw_names(probs, n):
    return torch.multinomial(probs(torch.zeros(n, dtype=torch.int64)), 1)
""", "expected a list of 300 names, got Tensor"),
        ("""
def draw_names(probs, n):
    return torch.multinomial(probs(torch.zeros(n, dtype=torch.int64)), 1)[:, 0].tolist()
""", r"can only give \[1\] and \[2, 3\], got [12]$"),
    ],
}


def answer(namespace, code, check):
    """What the check says to the answer `code`."""
    scope = dict(namespace)
    exec(code, scope)
    exec(check[: check.rindex("\nprint(")], scope)
    function = re.search(r"def (check_\w+)\((\w+)\)", check)
    return scope[function[1]](scope[function[2]])


# The longest first, so that no worker begins with one when all the others have ended.
each_notebook = pytest.mark.parametrize("path", PATHS[::-1], ids=lambda path: path.stem)


def global_names(code):
    """(stored, used): the names of the namespace that a code object assigns and reads."""
    stored, used = set(), set()
    for instruction in dis.get_instructions(code):
        if instruction.opname in ("STORE_NAME", "STORE_GLOBAL"):
            stored.add(instruction.argval)
        elif instruction.opname in ("LOAD_NAME", "LOAD_GLOBAL"):
            used.add(instruction.argval)
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            used |= global_names(inner)[1]
    return stored, used


def needed(cells, answers):
    """The cells of the exercises, and those that assign what they use, directly or not.

    `answers` is {id of an exercise's cell: the codes of its answers}, which use names, too.
    """
    missing, chosen = set(), []
    for cell in reversed(cells):
        codes = [global_names(compile(text, cell.id, "exec"))
                 for text in [cell.source, *answers.get(cell.id, ())]]
        stored = codes[0][0]
        if cell.id in answers or stored & missing:
            missing = (missing - stored).union(*(used for _, used in codes))
            chosen.append(cell)
    return chosen[::-1]


def solutions(path):
    """{id of an exercise's cell: the code of its solution}."""
    cells = nbformat.read(path, as_version=4).cells
    return {cell.id: re.search(r"<summary>Solution</summary>\n\n```python\n(.*?)```",
                               below.source, re.S)[1]
            for cell, below in itertools.pairwise(cells) if MARK in cell.source}


@each_notebook
def test_exercises_can_be_solved_with_other_sizes(path, run, words_file, request):
    solved = solutions(path)
    assert solved or path == PATHS[0]
    answers = {id: [solution, *(wrong for wrong, _ in WRONG[id])]
               for id, solution in solved.items()}
    namespace, cells = run(path, {
        "names_file": words_file(helpers.load_words()[::4]), "block_size": 16,
        "long_block_size": 16, "n_embd": 8, "n_hidden": 48, "batch_size": 64, "seed": 7,
        "max_steps": 700, "pair_seeds": 2, "workers": 1,
    }, choose=lambda cells: cells if request.config.getoption("full") else needed(cells, answers))
    for cell in cells:
        if cell.id not in solved:
            continue
        stub, check = cell.source.split(MARK)
        assert answer(namespace, stub, check).startswith("not done yet")
        assert answer(namespace, solved[cell.id], check).startswith("right")
        assert len(WRONG[cell.id]) >= 2
        for wrong, message in WRONG[cell.id]:
            said = answer(namespace, wrong, check)
            assert said.startswith("wrong: "), (cell.id, said)
            assert re.search(message, said), (cell.id, said)
        # A wrong answer must not spoil what the right one needs.
        assert answer(namespace, solved[cell.id], check).startswith("right")


TITLE = re.compile(
    r"^\*\*(\d+\. [^*]+)\*\* \((coding|concept|reflection), (?:easy|medium|hard), \d+ minutes; "
    r"(?:our own|((?:question|challenge|reflection) \d) of the lecture's notes)\)\.", re.M)


def exercises(path):
    """[(title, kind, its place in the notes or None, text, {id: code})] of a notebook."""
    cells = nbformat.read(path, as_version=4).cells
    code = {c.id: c.source for c in code_cells(nbformat.read(path, as_version=4))}
    text = "\n\n".join(f"<<{c.id}>>" if c.cell_type == "code" else c.source for c in cells)
    _, title, text = text.partition("\n## Exercises\n")
    assert title or path == PATHS[0], path.name
    titles = list(TITLE.finditer(text))
    assert len(titles) == len(re.findall(r"^\*\*\d", text, re.M)), "a title of another form"
    ends = [*(t.start() for t in titles), len(text)][1:]
    texts = [text[t.end():end] for t, end in zip(titles, ends, strict=True)]
    return [(*t.groups(), text, {id: code[id] for id in re.findall("<<(.+)>>", text)})
            for t, text in zip(titles, texts, strict=True)]


@each_notebook
def test_exercises_have_their_form(path):
    for number, (title, kind, _, text, code) in enumerate(exercises(path), start=1):
        assert title.startswith(f"{number}. ")
        if kind == "coding":
            stub, = (id for id, source in code.items() if MARK in source)
            assert len(WRONG[stub]) >= 2, title
            assert "<summary>Hint, if " in text, title
            assert "<summary>Solution</summary>\n\n```python" in text, title
        else:
            summary, most = {"concept": ("Answer", 150), "reflection": ("One answer", 350)}[kind]
            answer, = re.findall(rf"<summary>{summary}</summary>(.+?)</details>", text, re.S)
            assert len(answer.split()) <= most, title
            assert kind == "concept" or "\nSources: " in answer, title


def test_exercises_of_the_notes_are_all_there_and_the_readme_says_where():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ((?:question|challenge|reflection) \d) \|.*\| (.*) \|$", readme, re.M)
    assert [row for row, _ in rows] == [f"{kind} {n}" for kind, count in (
        ("question", 6), ("challenge", 5), ("reflection", 4)) for n in range(1, count + 1)]
    listed = [(row, *place) for row, places in rows
              for place in re.findall(r"\[(.+?)\]\(notebooks/(.+?)\)", places)]
    found = [(notes, title, path.name) for path in PATHS
             for title, _, notes, _, _ in exercises(path)]
    assert sorted(listed) == sorted(
        (notes, f"{name[:2]}, {title}", name) for notes, title, name in found if notes)
    assert sum(notes is None for notes, _, _ in found) >= 10
    stubs = {id for path in PATHS for *_, code in exercises(path)
             for id, source in code.items() if MARK in source}
    assert stubs == set(WRONG)
