"""Checks of notebooks/speed.py: the small stack, its batches, and the processes that measure."""

import itertools
import os
import time

import pytest
import torch

import helpers
import speed
from helpers import PAD

ITOS = dict(enumerate(".abcdefg"))
STOI = {ch: i for i, ch in ITOS.items()}
WORDS = ["ab", "gfedcba", "c", "abcabc", "dead", "bag", "age", "face"]


@pytest.fixture(autouse=True)
def same_start():
    torch.manual_seed(0)


def stack(**options):
    return speed.Stack(len(ITOS), 3, 6, **options).eval()


# ------------------------------------------------------------------------------ a small stack


def test_stack_by_hand():
    net = speed.Stack(2, 1, 1, kernel_size=2, dilations=[1])
    with torch.no_grad():
        for p in net.parameters():
            p.fill_(1.0)
        net.embedding.weight.copy_(torch.tensor([[10.0], [20.0]]))
        net.head[-1].weight.copy_(torch.tensor([[1.0], [-1.0]]))
        out = net(torch.tensor([[0, 1]]))
    # GELU leaves such large numbers alone: 10 + 1 and 10 + 20 + 1; then x + (past + x + 1).
    x = [11.0, 31.0]
    x = [x[0] + x[0] + 1, x[1] + x[0] + x[1] + 1]
    assert out[0].tolist() == [[x[0] + 1, -x[0] + 1], [x[1] + 1, -x[1] + 1]]


def test_stack_is_causal_and_sees_its_field():
    net = stack(kernel_size=5, dilations=[1, 2])
    assert net.receptive_field == 8
    x = torch.randn(1, 20, 3, requires_grad=True)
    out = x
    for layer in net.layers:
        out = layer(out, speed.Rows())
    out[0, 15].sum().backward()
    seen = (x.grad[0] != 0).any(1).nonzero()[:, 0]
    assert seen.tolist() == list(range(8, 16))


def test_stack_is_the_same_by_rows_by_masks_and_from_rings():
    net = stack()
    X, Y = helpers.encode_names(WORDS, STOI)
    real = Y != PAD
    with torch.no_grad():
        rows = net(X)
        masked = net(X, [helpers.WholeWords(X)] * len(net.layers))
        rings = helpers.ring_buffers(net, len(X))
        ringed = torch.stack([net(x, rings) for x in X.T], dim=1)
    assert torch.allclose(rows[real], masked[real], atol=1e-6)
    assert torch.allclose(rows[real], ringed[real], atol=1e-6)


def test_stack_generates_with_the_helpers():
    names = helpers.generate(stack(), ITOS, 20, seed=1, max_length=9)
    assert len(names) == 20
    assert all(len(name) <= 9 and set(name) <= set(STOI) for name in names)


def test_every_parameter_of_the_stack_gets_a_gradient():
    net = stack()
    X, Y = helpers.encode_names(WORDS, STOI)
    helpers.position_loss(net(X), Y).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


def test_stack_has_76_275_parameters_in_the_race():
    assert sum(p.nelement() for p in speed.Stack(27, 24, 120).parameters()) == 76_275


@pytest.mark.parametrize("bad", [{"kernel_size": 1}, {"dilations": [0]}])
def test_stack_says_what_is_wrong(bad):
    with pytest.raises(ValueError, match="expected an integer of"):
        stack(**bad)


def test_length_batches_have_every_name_once_an_epoch_and_hardly_any_padding():
    X, Y = helpers.encode_names(WORDS, STOI)
    for _ in range(2):
        epoch = list(itertools.islice(speed.length_batches(X, Y, 3), 3))
        names = [[i for i in y if i != PAD] for _, Y_ in epoch for y in Y_.tolist()]
        assert sorted(names) == sorted([STOI[ch] for ch in w + "."] for w in WORDS)
        for x, y in epoch:
            assert x.shape == y.shape
            assert (y != PAD).sum(1).max() == x.shape[1]
    lengths = sorted(len(w) + 1 for w in WORDS)
    assert sorted(x.shape[1] for x, _ in epoch) == [lengths[2], lengths[5], lengths[7]]


def test_length_batches_change_from_epoch_to_epoch():
    X, Y = helpers.encode_names(WORDS * 5, STOI)
    batches = speed.length_batches(X, Y, 4)
    first, second = ([x.tolist() for x, _ in itertools.islice(batches, 10)] for _ in range(2))
    assert first != second


# ---------------------------------------------------------------------------- other processes

SIZES = {"names_file": "data/names.txt", "block_size": 8, "n_embd": 4, "n_hidden": 8,
         "stack": [4, 8], "steps": 2, "names": 10, "windows": 100}


@pytest.mark.full
def test_a_child_counts_its_own_memory_and_not_that_of_its_parent():
    held = torch.ones(150_000_000)                                        # 600 MB, all written
    here = speed.peak_memory()
    used = speed.child("use_memory", work="sampling", way="ours", **SIZES)
    assert 50 < used < here - 500, (here, used, len(held))


@pytest.mark.full
def test_evaluating_everything_at_once_takes_more_memory():
    sizes = SIZES | {"n_hidden": 128, "windows": 30_000}
    whole, chunks = (speed.child("use_memory", work="evaluating", way=way, **sizes)
                     for way in ("lecture", "ours"))
    assert whole > chunks + 50


@pytest.mark.parametrize("way", ["lecture", "ours"])
@pytest.mark.parametrize("work", ["training", "sampling"])
def test_every_work_is_measured(work, way):
    assert speed.use_memory(work, way, **SIZES) > 50


@pytest.mark.full
def test_a_failing_child_says_why():
    with pytest.raises(speed.NotMeasured, match=r"use_memory failed: .*no such file"):
        speed.child("use_memory", work="none", way="ours",
                    **SIZES | {"names_file": "missing.txt"})


def test_a_child_that_hangs_is_ended():
    t0 = time.monotonic()
    with pytest.raises(speed.NotMeasured, match=r"took longer than 0\.2 seconds"):
        speed.child("use_memory", timeout=0.2, work="none", way="ours", **SIZES)
    assert time.monotonic() - t0 < 10


def test_without_a_compiler_nothing_is_compiled(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert speed.compiler() is None
    with pytest.raises(speed.NotMeasured, match="no C\\+\\+ compiler"):
        speed.compile_times(vocab_size=5, block_size=2, n_embd=2, n_hidden=2, batch_sizes=[2],
                            steps=1, rounds=1)


@pytest.mark.full
@pytest.mark.skipif(os.name == "nt", reason="a shell script stands for the compiler")
def test_a_broken_compiler_ends_with_a_word(monkeypatch, tmp_path):
    broken = tmp_path / "g++"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    assert speed.compiler() == str(broken)
    with pytest.raises(speed.NotMeasured, match="time_compiled failed"):
        speed.compile_times(vocab_size=5, block_size=2, n_embd=2, n_hidden=2, batch_sizes=[2],
                            steps=1, rounds=1)


def test_peak_memory_grows_with_what_is_held():
    before = speed.peak_memory()
    held = torch.ones(int(max(before, 50) * 1e6 / 4 * 1.5))
    assert speed.peak_memory() > before, len(held)
