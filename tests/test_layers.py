"""Our layers against torch's own, over shapes that hypothesis draws."""

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import helpers

settings.register_profile("quick", max_examples=25, deadline=None, derandomize=True, database=None)
settings.register_profile("full", settings.get_profile("quick"), max_examples=500)
settings.load_profile("quick" if helpers.QUICK else "full")

SIZES = st.integers(1, 12)
SEEDS = st.integers(0, 2**31)
LEADING = st.lists(SIZES, max_size=3)


def close(a, b, atol=2e-5):
    assert a.shape == b.shape
    torch.testing.assert_close(a, b, atol=atol, rtol=1e-4)


@given(LEADING, SIZES, SIZES, st.booleans(), SEEDS)
def test_linear(leading, fan_in, fan_out, bias, seed):
    torch.manual_seed(seed)
    ours, torchs = helpers.Linear(fan_in, fan_out, bias), nn.Linear(fan_in, fan_out, bias)
    with torch.no_grad():
        torchs.weight.copy_(ours.weight.T)
        if bias:
            ours.bias.normal_()
            torchs.bias.copy_(ours.bias)
    x = torch.randn(*leading, fan_in, requires_grad=True)
    close(ours(x), torchs(x))
    for p in ours.parameters():
        p.requires_grad = True
    ours_dx, ours_dw = torch.autograd.grad(ours(x).sin().sum(), [x, ours.weight])
    torchs_dx, torchs_dw = torch.autograd.grad(torchs(x).sin().sum(), [x, torchs.weight])
    close(ours_dx, torchs_dx)
    close(ours_dw.T, torchs_dw)


@given(st.integers(2, 12), st.none() | SIZES, SIZES, st.integers(1, 4), st.floats(0.01, 1), SEEDS)
def test_batch_norm(B, T, dim, batches, momentum, seed):
    torch.manual_seed(seed)
    ours, torchs = helpers.BatchNorm1d(dim, momentum=momentum), nn.BatchNorm1d(dim, 1e-5, momentum)
    with torch.no_grad():
        for parameter, of_torch in ((ours.gamma, torchs.weight), (ours.beta, torchs.bias)):
            of_torch.copy_(parameter.normal_())
    shape = (B, dim) if T is None else (B, T, dim)

    def of_torch(x):                              # torch wants its channels before its positions
        return torchs(x) if T is None else torchs(x.transpose(1, 2)).transpose(1, 2)

    n = B * (T or 1)
    for _ in range(batches):
        x = 3 + 5 * torch.randn(shape)
        # In training torch divides by n where we divide by n - 1; its eps is then another, too.
        ours.eps = torchs.eps * n / (n - 1)
        scaled = (of_torch(x) - torchs.bias) * ((n - 1) / n) ** 0.5 + torchs.bias
        close(ours(x), scaled, atol=1e-4)
    close(ours.running_mean.flatten(), torchs.running_mean)
    close(ours.running_var.flatten(), torchs.running_var, atol=1e-4)
    ours.training, ours.eps = False, torchs.eps
    torchs.eval()
    close(ours(x), of_torch(x), atol=1e-4)


@given(LEADING, SIZES, SIZES, SEEDS)
def test_embedding(leading, num_embeddings, embedding_dim, seed):
    torch.manual_seed(seed)
    ours = helpers.Embedding(num_embeddings, embedding_dim)
    torchs = nn.Embedding(num_embeddings, embedding_dim, _weight=ours.weight)
    X = torch.randint(0, num_embeddings, leading)
    assert torch.equal(ours(X), torchs(X))


@given(st.lists(SIZES, min_size=2, max_size=4), SEEDS)
def test_tanh_and_flatten(shape, seed):
    torch.manual_seed(seed)
    x = torch.randn(shape)
    assert torch.equal(helpers.Tanh()(x), nn.Tanh()(x))
    assert torch.equal(helpers.Flatten()(x), nn.Flatten()(x))


@given(SIZES, st.integers(1, 6), st.integers(1, 5), SIZES, SIZES, SEEDS)
def test_flatten_consecutive_and_linear_are_a_convolution_with_a_stride(B, groups, n, C, C_out,
                                                                        seed):
    torch.manual_seed(seed)
    ours, conv = helpers.Linear(n * C, C_out), nn.Conv1d(C, C_out, n, stride=n)
    with torch.no_grad():
        conv.weight.copy_(ours.weight.view(n, C, C_out).permute(2, 1, 0))
        conv.bias.copy_(ours.bias)
    x = torch.randn(B, groups * n, C)
    joined = helpers.FlattenConsecutive(n)(x)
    windows = x.unfold(1, n, n).transpose(2, 3).flatten(2)             # (B, groups, n * C)
    assert torch.equal(joined, windows[:, 0] if groups == 1 else windows)
    got = ours(joined)
    close(got[:, None] if groups == 1 else got, conv(x.transpose(1, 2)).transpose(1, 2))


@given(SIZES, SIZES, SIZES, SIZES, st.integers(1, 8), st.integers(2, 4), SEEDS)
def test_causal_convolution_is_conv1d_with_zeros_on_its_left(N, L, C_in, C_out, dilation,
                                                             kernel_size, seed):
    torch.manual_seed(seed)
    ours = helpers.CausalConv1d(C_in, C_out, dilation, kernel_size)
    conv = nn.Conv1d(C_in, C_out, kernel_size, dilation=dilation)
    with torch.no_grad():
        conv.weight.copy_(ours.linear.weight.view(C_out, kernel_size, C_in).transpose(1, 2))
        conv.bias.copy_(ours.linear.bias)
    X = torch.randint(1, 9, (N, L))
    X[:, 0] = 0                                                  # one word a row
    x = torch.randn(N, L, C_in)
    padded = F.pad(x.transpose(1, 2), ((kernel_size - 1) * dilation, 0))
    expected = conv(padded).transpose(1, 2)
    close(ours(x, helpers.WholeWords(X)), expected)
    ring = helpers.RingBuffer((kernel_size - 1) * dilation, N, C_in)
    close(torch.stack([ours(x[:, t], ring) for t in range(L)], dim=1), expected)


@given(LEADING, st.integers(2, 12), SEEDS)
def test_position_loss_is_cross_entropy_where_there_is_a_target(leading, V, seed):
    torch.manual_seed(seed)
    logits, Y = torch.randn(*leading, V), torch.randint(helpers.PAD, V, leading)
    real = Y != helpers.PAD
    each = -F.log_softmax(logits, -1)[real].gather(-1, Y[real][:, None])
    close(helpers.position_loss(logits, Y), each.sum(), atol=1e-3)


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=60), st.integers(1, 80))
def test_rolling_mean_is_that_of_pandas(losses, window):
    expected = pd.Series(losses).rolling(min(window, len(losses))).mean().dropna()
    assert list(helpers.rolling_mean(losses, window)) == pytest.approx(list(expected), abs=1e-9)


@given(st.lists(st.text(st.characters(exclude_characters=".", exclude_categories=["Cs"]),
                        min_size=1, max_size=20), min_size=1, max_size=10), st.integers(1, 20))
def test_windows_of_any_words_hold_what_came_before(words, block_size):
    stoi, itos = helpers.build_vocab(words)
    X, Y = helpers.build_dataset(words, block_size, stoi)
    assert len(X) == sum(len(word) + 1 for word in words)
    rows = iter(zip(X.tolist(), Y.tolist(), strict=True))
    for word in words:
        for i, ch in enumerate(word + "."):
            x, y = next(rows)
            assert itos[y] == ch
            assert "".join(itos[j] for j in x) == ("." * block_size + word[:i])[-block_size:]
