"""course.speed and the small stack of course.models: the stack itself, and other processes."""

import re

import pytest
import torch

import helpers
from course import models, speed, wavenet
from course.fitting import PAD

WORDS = ["ada", "eve", "ida", "emma", "nina", "otto", "anna", "adam", "edna", "dean"] * 4
NAMES = wavenet.encode_names(WORDS, helpers.build_vocab(WORDS)[0])


@pytest.fixture
def stack():
    torch.manual_seed(0)
    return models.Stack(27, 24, 16, kernel_size=5, dilations=(1, 2))


def test_the_stack_is_causal_and_sees_its_field(stack):
    X = torch.randint(1, 27, (1, 20))
    embedded = stack.embedding(X).detach().requires_grad_()
    stack.embedding.register_forward_hook(lambda *args: embedded)
    grad, = torch.autograd.grad(stack(X)[0, 12].pow(2).sum(), embedded)
    assert grad[0].abs().sum(1).nonzero().flatten().tolist() == list(range(5, 13))
    assert stack.receptive_field == 8


def test_the_stack_is_the_same_by_rows_by_masks_and_from_rings(stack):
    X, Y = NAMES
    with torch.no_grad():
        rows, masks = stack(X), stack(X, [wavenet.WordHistory(X)] * 3)
        rings = wavenet.ring_buffers(stack, len(X))
        ringed = torch.stack([stack(x, rings) for x in X.T], dim=1)
    assert all((rows - other)[Y != PAD].abs().max() < 1e-5 for other in (masks, ringed))


def test_the_stack_of_the_race_has_76_275_parameters_and_all_get_a_gradient():
    net = models.Stack(27, 24, 120)
    assert sum(p.nelement() for p in net.parameters()) == 76_275
    net(torch.randint(27, (2, 9))).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in net.parameters())


def test_length_batches_have_every_name_once_an_epoch_and_change_with_the_epoch():
    X, batches = NAMES[0], models.length_batches(*NAMES, 6)
    epochs = [[next(batches) for _ in range(7)] for _ in range(2)]
    for epoch in epochs:
        rows = [row[row != 0].tolist() for x, _ in epoch for row in x]
        assert sorted(rows) == sorted(row[row != 0].tolist() for row in X)
        assert sum((y == PAD).sum() for _, y in epoch) <= 6
    first, second = ([x.tolist() for x, _ in epoch] for epoch in epochs)
    assert first != second


SETTING = {"names_file": "data/names.txt", "block_size": 4, "n_embd": 4, "n_hidden": 8,
           "stack": [4, 8], "steps": 2, "windows": 500, "names": 5}


@pytest.mark.parametrize("way", ["lecture", "ours"])
@pytest.mark.parametrize("work", ["training", "evaluating", "sampling"])
def test_every_work_is_measured(work, way):
    assert speed.use_memory(work=work, way=way, **SETTING) > 100


@pytest.mark.full
def test_a_child_counts_its_own_memory_and_not_that_of_its_parent():
    held = torch.ones(100_000_000)                       # 400 MB
    found = speed.peak_memories([("nothing", "ours")], **SETTING)
    assert found["nothing", "ours"] < speed.peak_memory() - 300, len(held)


def test_a_child_that_fails_or_hangs_says_why(capsys):
    with pytest.raises(speed.NotMeasured, match=r"took longer than 0\.01 seconds"):
        speed.child("use_memory", timeout=0.01, work="nothing", way="ours", **SETTING)
    assert speed.peak_memories([("a", "b")], **SETTING | {"names_file": "no/such"}) == {}
    said = capsys.readouterr().out
    assert re.search(r"a, b was not measured: use_memory failed: .*no/such", said)


def test_without_a_compiler_nothing_is_compiled(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(helpers, "QUICK", False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert speed.compile_times() == []
    assert "no C++ compiler was found" in capsys.readouterr().out
