"""Checks of the experiments of notebook 09: one run, the studies, the rivals, what is recorded.

The faults are real ones: workers are killed, files refuse to grow. Where a fault needs no process
of its own, a worker runs in this one, with a `measure` that takes no time.
"""

import contextlib
import json
import math
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import optuna
import pandas as pd
import psutil
import pytest
import scipy.stats
import torch
import torch.nn.functional as F
from optuna.trial import TrialState
from torch import nn

import evidence
import harness
import helpers
import rivals
import runs
from helpers import PAD

# Every model, small enough to be trained within a blink.
SMALL = {
    "mlp": {"n_embd": 4, "n_hidden": 8, "max_steps": 10},
    "tree": {"n_embd": 4, "n_hidden": 8, "max_steps": 10},
    "torch tree": {"n_embd": 4, "n_hidden": 8, "steps": 4},
    "flat": {"n_embd": 4, "n_hidden": 16, "steps": 4},
    "wavenet": {"n_hidden": 6, "n_skip": 8, "dilations": [1, 2], "steps": 4},
    "gru": {"n_hidden": 6, "steps": 4},
    "lstm": {"n_hidden": 6, "steps": 4},
    "transformer": {"n_hidden": 8, "n_layers": 2, "n_head": 2, "steps": 4},
    "n-gram": {"order": 3},
}
TRAINED = [model for model in SMALL if model != "n-gram"]
WHOLE = [model for model in SMALL if runs.MODELS[model][0] == "names"]
posix = pytest.mark.skipif(os.name == "nt", reason="fork, sh and the signals of POSIX")
RUNNING, WAITING, COMPLETE, FAIL, PRUNED = (
    TrialState.RUNNING, TrialState.WAITING, TrialState.COMPLETE, TrialState.FAIL, TrialState.PRUNED)


def test_no_model_is_left_out():
    assert set(SMALL) == set(runs.MODELS)


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """A file of 60 names, 26 of them copies: of the six of val, four stand in train, two do not."""
    names = helpers.load_words()
    file = tmp_path_factory.mktemp("words") / "words.txt"
    file.write_text("\n".join(names[:34] + names[:26]))
    return str(file)


def small(model, words, **settings):
    return {"model": model, "words": words} | SMALL[model] | settings


def by_hand(model, config, split):
    """[(word, the loss of each of its characters)] of a split, word by word in a plain loop."""
    stoi, parts = runs.load_parts(config["words"], config.get("copies", "kept"))
    c, out = runs.complete(config), []
    with helpers.mode(model, False), torch.no_grad():
        for w in parts[split]:
            if runs.MODELS[c["model"]][0] == "windows":
                X, Y = helpers.build_dataset([w], c["block_size"], stoi)
                logits = model(X)
            else:
                X, Y = helpers.encode_names([w], stoi)
                logits, Y = model(X)[0], Y[0]
            out.append((w, F.cross_entropy(logits, Y, reduction="none").tolist()))
    return out


# --------------------------------------------------------------------------- a configuration


@pytest.mark.parametrize(("config", "message"), [
    ({}, "model is None; expected one of mlp, tree"),
    ({"model": "wavnet"}, "model is 'wavnet'; expected one of .*wavenet"),
    ({"model": "wavenet", "dilation": [1]}, "has no setting 'dilation'; did you mean dilations?"),
    ({"model": "mlp", "zzz": 1}, "'mlp' has no setting 'zzz'; it has seed, words"),
    ({"model": "mlp", "dropout": 0.1}, "'mlp' has no setting 'dropout'"),
    ({"model": "mlp", "n_hidden": "64"}, "n_hidden is '64'; expected int"),
    ({"model": "mlp", "n_hidden": 64.0}, "n_hidden is 64.0; expected int"),
    ({"model": "mlp", "n_hidden": None}, "n_hidden is None; expected int"),
    ({"model": "mlp", "n_hidden": True}, "n_hidden is True; expected int"),
    ({"model": "mlp", "learning_rate": True}, "learning_rate is True; expected float"),
    ({"model": "wavenet", "gate": 1}, "gate is 1; expected bool"),
    ({"model": "wavenet", "dilations": 2}, "dilations is 2; expected list"),
    ({"model": "wavenet", "steps": True}, "steps is True; expected int"),
    ({"model": "wavenet", "steps": 2.5}, "steps is 2.5; expected int"),
    ({"model": "wavenet", "budget": "1"}, "budget is '1'; expected float"),
    ({"model": "mlp", "n_hidden": -1}, "n_hidden is -1; expected a number of 0 or more"),
    ({"model": "mlp", "learning_rate": math.nan}, "learning_rate is nan; expected a number"),
    ({"model": "mlp", "learning_rate": math.inf}, "learning_rate is inf; expected a number"),
    ({"model": "wavenet", "average": -0.5}, "average is -0.5; expected a number"),
    ({"model": "wavenet", "batch_size": 0}, "batch_size is 0; expected an integer of 1 or more"),
    ({"model": "transformer", "n_layers": 0}, "n_layers is 0; expected an integer of 1"),
    ({"model": "flat", "n_embd": 0}, "n_embd is 0; expected an integer of 1"),
    ({"model": "transformer", "n_hidden": 10}, "n_head is 4; expected a divisor of 10, n_hidden"),
    ({"model": "gru", "warmup": 1}, "warmup is 1.0; expected a number from 0 to below 1"),
    (None, "the configuration is None; expected a dict"),
    ("mlp", "the configuration is 'mlp'; expected a dict"),
])
def test_a_configuration_that_cannot_be_meant(config, message):
    with pytest.raises(ValueError, match=message.replace("?", r"\?")):
        runs.complete(config)


def test_complete_adds_the_defaults_and_leaves_its_argument():
    config = {"model": "gru", "n_hidden": 7, "budget": None}
    full = runs.complete(config)
    assert config == {"model": "gru", "n_hidden": 7, "budget": None}
    assert full == {"model": "gru"} | runs.MODELS["gru"][1] | {"n_hidden": 7}
    assert runs.MODELS["gru"][1]["n_hidden"] == 256


def test_key_is_one_text_for_equal_configurations():
    text = '{"learning_rate": 1.0, "model": "wavenet", "n_hidden": 8}'
    for config in ({"model": "wavenet", "n_hidden": 8, "learning_rate": 1.0},
                   {"learning_rate": 1, "n_hidden": 8, "model": "wavenet"},
                   {"model": "wavenet", "n_hidden": 8, "learning_rate": 1, "seed": 42,
                    "budget": None, "dilations": [1, 2, 4, 8, 1, 2], "dropout": 0}):
        assert runs.key(config) == text
    assert runs.key({"model": "wavenet", "budget": 45}) == runs.key(
        {"model": "wavenet", "budget": 45.0})
    assert runs.key(json.loads(text)) == text
    assert runs.key({"model": "wavenet", "seed": 1}) != runs.key({"model": "wavenet", "seed": 2})


def test_copies_are_left_where_the_setting_says(words):
    everything = helpers.load_words(words)
    stoi, kept = runs.load_parts(words, "kept")
    assert kept == helpers.split_words(everything)
    held_out = set(kept["val"]) | set(kept["test"])
    assert held_out & set(kept["train"])                     # else nothing is tested here

    other, less = runs.load_parts(words, "not in train")
    assert (less["val"], less["test"], other) == (kept["val"], kept["test"], stoi)
    assert less["train"] == [w for w in kept["train"] if w not in held_out]

    other, none = runs.load_parts(words, "none")
    every = none["train"] + none["val"] + none["test"]
    assert sorted(every) == sorted(set(everything))
    assert {split: len(part) for split, part in none.items()} == {"train": 27, "val": 3, "test": 4}
    assert other == stoi
    with pytest.raises(ValueError, match="copies is 'some'; expected 'kept'"):
        runs.load_parts(words, "some")


def test_the_text_has_each_paragraph_once():
    from pydoc_data.topics import topics

    stoi, parts = runs.load_parts("text", "kept")
    pieces = [piece for part in parts.values() for piece in part]
    assert all(0 < len(piece) <= 256 and "." not in piece for piece in pieces)
    assert "\N{MIDDLE DOT}" in stoi
    assert len(set(pieces)) == len(pieces)
    paragraphs = {p for text in topics.values() for p in text.split("\n\n")}
    assert sum(map(len, pieces)) == pytest.approx(sum(len(p) + 2 for p in paragraphs), rel=0.02)
    with pytest.raises(ValueError, match="copies is 'none'; running text has only 'kept'"):
        runs.load_parts("text", "none")


def test_a_word_list_that_changes_is_read_again(tmp_path, monkeypatch):
    file = tmp_path / "words.txt"
    file.write_text("abc\n" * 20)
    monkeypatch.chdir(tmp_path)
    config = small("wavenet", "words.txt")
    X, _ = runs.data(config, "train")
    assert runs.data(config, "train")[0] is X                # as long as it stays, it is kept
    file.write_text("abcde\n" * 20)
    assert runs.data(config, "train")[0].shape[1] == X.shape[1] + 2
    assert len(runs.load_parts("words.txt", "kept")[0]) == 6
    os.utime(file, ns=(1, 1))                                # of the same size, at another time
    file.write_text("vwxyz\n" * 20)
    assert "v" in runs.load_parts("words.txt", "kept")[0]


def test_a_split_that_is_not_there(words):
    with pytest.raises(ValueError, match="split is 'dev'; expected 'train', 'val' or 'test'"):
        runs.data(small("mlp", words), "dev")


def test_unseen_words(words):
    train = set(helpers.split_words(helpers.load_words(words))["train"])
    there, not_there = sorted(train)[0], "zzz"
    for copies, expected in (("kept", [False, True]), ("not in train", [False, True]),
                             ("none", [True, True])):
        config = {"words": words, "copies": copies}
        assert runs.unseen_words(config, [there, not_there]).tolist() == expected


# ------------------------------------------------------------------------------ the training


@pytest.mark.parametrize("model", TRAINED)
def test_every_model_trains_and_every_parameter_gets_a_gradient(model, words):
    config = small(model, words)
    network = runs.build(config)
    before = [p.detach().clone() for p in network.parameters()]
    assert len(runs.train(network, config)) == (10 if "max_steps" in config else 4)
    assert all((p != b).any() for p, b in zip(network.parameters(), before, strict=True))

    X, Y = runs.data(config, "train")
    for p in network.parameters():
        p.grad = None
    F.cross_entropy(network(X).flatten(0, -2), Y.flatten(), ignore_index=PAD).backward()
    assert all(p.grad is not None and p.grad.any() for p in network.parameters())


@pytest.mark.parametrize("model", WHOLE)
def test_no_future_leaks(model, words):
    config = small(model, words)
    network = runs.build(config)
    if model == "n-gram":
        runs.train(network, config)
    V = len(runs.load_parts(words, "kept")[0])
    torch.manual_seed(0)
    X = torch.randint(1, V, (3, 7))
    X[:, 0] = 0
    changed = X.clone()
    changed[:, 4:] = X[:, 4:] % (V - 1) + 1
    with helpers.mode(network, False), torch.no_grad():
        logits, others = network(X), network(changed)
    assert logits.shape == (3, 7, V)
    assert torch.allclose(logits[:, :4], others[:, :4], atol=1e-6)
    assert not torch.allclose(logits[:, 4:], others[:, 4:], atol=1e-3)


def test_build_draws_from_the_seed_alone(words):
    def weights(seed):
        return torch.cat([p.flatten() for p in runs.build(small("gru", words, seed=seed))
                         .parameters()])

    first = weights(1)
    torch.rand(5)
    assert torch.equal(first, weights(1))
    assert not torch.equal(first, weights(2))


def test_the_settings_of_the_lectures_models(words):
    def layers(**settings):
        return runs.build(small("tree", words, **settings)).layers

    norms = [m for m in layers(norm="bug", momentum=0.03)
             if isinstance(m, helpers.BatchNorm1dPart3)]
    assert [(type(m), m.momentum) for m in norms] == [(helpers.BatchNorm1dPart3, 0.03)] * 3
    norms = [m for m in layers() if isinstance(m, helpers.BatchNorm1dPart3)]
    assert [(type(m), m.momentum) for m in norms] == [(helpers.BatchNorm1d, 0.1)] * 3
    assert sum(isinstance(m, helpers.FlattenConsecutive) for m in layers(
        group=4, block_size=16)) == 2
    x = torch.tensor([-1.0, 0.5])
    for name, expected in (("relu", [0, 0.5]), ("silu", (x * torch.sigmoid(x)).tolist()),
                           ("tanh", torch.tanh(x).tolist())):
        activations = [m for m in layers(activation=name)
                       if isinstance(m, rivals.Activation | helpers.Tanh)]
        assert len(activations) == 3
        assert all(m(x).tolist() == pytest.approx(expected) for m in activations)
    for settings, message in (({"norm": "none"}, "norm is 'none'; expected one of fixed, bug"),
                              ({"activation": "sin"}, "activation is 'sin'; expected one of tanh")):
        with pytest.raises(ValueError, match=message):
            layers(**settings)


@pytest.mark.parametrize(("kind", "expected"), [
    ("step", [1, 1, 1, 1, 1, 1, 0.1, 0.1]), ("constant", [1] * 8),
    ("linear", [1, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125]),
    ("cosine", [1, 0.96194, 0.85355, 0.69134, 0.5, 0.30866, 0.14645, 0.03806]),
])
def test_schedules_by_hand(kind, expected):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.2)
    schedule, rates = runs.make_schedule(kind, optimizer, 8), []
    for _ in range(8):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx([0.2 * share for share in expected], abs=2e-6)


def test_an_unknown_schedule(words):
    config = small("mlp", words, schedule="steps")
    with pytest.raises(ValueError, match="schedule is 'steps'; expected one of step, constant"):
        runs.train(runs.build(config), config)


def test_the_two_loops_of_the_lectures_recipe_agree(words):
    """At a constant rate by torch's SGD as by helpers.train, until that one lowers its rate."""
    losses = []
    for kind in ("step", "constant"):
        config = small("mlp", words, schedule=kind, max_steps=16)
        losses.append(runs.train(runs.build(config), config))
    assert losses[0][:13] == pytest.approx(losses[1][:13], abs=1e-5)
    assert abs(losses[0][15] - losses[1][15]) > 1e-4


@pytest.mark.parametrize(("model", "shrunk"), [
    ("wavenet", {"layers.0.conv.linear.weight", "layers.0.residual.weight", "layers.0.skip.weight",
                 "layers.1.conv.linear.weight", "layers.1.skip.weight", "head.2.weight",
                 "head.5.weight"}),
    ("flat", {"2.weight", "5.weight"}),
    ("gru", {"rnn.weight_ih_l0", "rnn.weight_hh_l0", "rnn.weight_ih_l1", "rnn.weight_hh_l1",
             "head.0.weight"}),
    ("torch tree", None),
])
def test_weight_decay_is_for_the_matrices(model, shrunk, words):
    config = runs.complete(small(model, words, weight_decay=0.3, learning_rate=0.01))
    network = runs.build(config)
    optimizer = runs.make_optimizer(network, config)
    names = {id(p): name for name, p in network.named_parameters()}
    groups = {group["weight_decay"]: {names[id(p)] for p in group["params"]}
              for group in optimizer.param_groups}
    everything = set(names.values())
    if shrunk is None:
        assert groups == {0.3: everything}                   # as in notebook 06
    else:
        assert groups == {0.3: shrunk, 0.0: everything - shrunk}
    assert {group["lr"] for group in optimizer.param_groups} == {0.01}


def test_epochs_are_counted_in_batches_and_steps_come_first(words):
    n = len(runs.load_parts(words, "kept")[1]["train"])
    for settings, expected in (({"steps": None, "epochs": 3, "batch_size": 20}, 3 * -(-n // 20)),
                               ({"steps": 5, "epochs": 3, "budget": 9.0}, 5)):
        config = small("wavenet", words, **settings)
        assert len(runs.train(runs.build(config), config)) == expected


@pytest.mark.parametrize(("model", "settings"), [
    ("wavenet", {"steps": 10}), ("mlp", {"max_steps": 20}),
    ("mlp", {"max_steps": 20, "schedule": "linear"})])
def test_report_is_called_after_every_tenth(model, settings, words):
    said, config = [], small(model, words, **settings)
    row, _ = runs.measure(config, lambda *args: said.append(args))
    assert [tenth for tenth, _ in said] == list(range(1, 11))
    assert said[-1][1] == pytest.approx(row["val"], abs=1e-6)
    assert len({val for _, val in said}) > 5                 # of the model as it then is
    assert figures(runs.measure(config)[0]) == figures(row)  # to look changes nothing


@pytest.mark.parametrize(("model", "steps"), [("torch tree", "steps"), ("tree", "max_steps")])
def test_steps_repeat_what_a_budget_did(model, steps, words, monkeypatch):
    monkeypatch.setattr(helpers, "QUICK", False)             # else the cap decides, not the budget
    settings = {"model": model, "words": words, "n_embd": 4, "n_hidden": 8}
    row, model = runs.measure(settings | {"budget": 0.05})
    assert row["steps"] > 1
    again, other = runs.measure(settings | {steps: row["steps"]})
    assert figures(again) | {"config": ""} == figures(row) | {"config": ""}
    for one, same in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, same)                        # the probe leaves no trace in them


def test_the_probe_of_a_budget_is_long_enough(words, monkeypatch):
    config, clock, probes = small("flat", words, steps=None, budget=9.0), [0.0], []

    def train(model, config):                                # a first step of 5 s, then 0.01 each
        probes.append(config["steps"])
        clock[0] += 0.01 * config["steps"] + 5 * (len(probes) == 1)
        return [0.0] * config["steps"]

    monkeypatch.setattr(runs, "train", train)
    monkeypatch.setattr(runs.time, "process_time", lambda: clock[0])
    assert runs.steps_within(9.0, config) == pytest.approx(900, abs=1)
    assert probes[-1] * 0.01 > 9.0 / 20
    assert sum(probes) * 0.01 < 9.0 / 5


def test_a_training_that_diverges_or_is_stopped(words):
    with pytest.raises(runs.Diverged, match=r"the loss is nan at step \d+; lower learning_rate"):
        runs.measure(small("wavenet", words, learning_rate=1e30))
    network = runs.build(small("gru", words))
    with torch.no_grad():
        network.head[-1].bias[0] = math.inf
    with pytest.raises(runs.Diverged, match="the losses on val are no numbers"):
        runs.loss(network, small("gru", words))

    def stop(epoch, val):
        raise KeyboardInterrupt

    with pytest.raises(runs.Interrupted, match="stopped by hand after 1 of 4 steps") as caught:
        runs.measure(small("wavenet", words), stop)
    config = small("wavenet", words)
    assert caught.value.lossi == runs.train(runs.build(config), config)[:1]


@pytest.mark.parametrize(("warmup", "steps"), [(0.25, 4), (0.5, 2), (0.0, 1), (0.99, 1), (0.3, 3)])
def test_a_warmup_of_a_single_step(warmup, steps, words):
    config = small("wavenet", words, warmup=warmup, steps=steps)
    assert len(runs.train(runs.build(config), config)) == steps


# ----------------------------------------------------------------------------------- the row


def figures(row):
    return {name: value for name, value in row.items() if name not in ("seconds", "cpu")}


@pytest.mark.parametrize("model", SMALL)
def test_a_row_by_hand(model, words):
    config = small(model, words, seed=3, test=model == "gru")
    row, network = runs.measure(config)
    assert list(row) == runs.ROW
    assert json.loads(json.dumps(row)) == row
    assert runs.complete(json.loads(row["config"])) == runs.complete(config)
    assert (row["model"], row["seed"], row["threads"]) == (model, 3, 1)
    assert row["parameters"] == sum(p.nelement() for p in network.parameters())
    assert row["steps"] == SMALL[model].get("max_steps", SMALL[model].get("steps", 0))
    assert torch.__version__ in row["versions"]

    losses = by_hand(network, config, "val")
    known = set(runs.load_parts(words, "kept")[1]["train"])
    groups = {"val": losses, "unseen": [pair for pair in losses if pair[0] not in known],
              "copied": [pair for pair in losses if pair[0] in known]}
    for name, pairs in groups.items():
        assert row[name] == pytest.approx(np.mean([x for _, loss in pairs for x in loss]), abs=1e-5)
    assert abs(row["unseen"] - row["copied"]) > 1e-3

    places = [[loss[i] for _, loss in losses if i < len(loss) - 1] for i in range(10)]
    places.append([loss[-1] for _, loss in losses])
    assert [] in places                                      # the list has no word so long
    for value, place in zip(row["by_position"], places, strict=True):
        assert value == (pytest.approx(np.mean(place), abs=2e-5) if place else None)

    # The course's own measures, each by another way through the data.
    for split in ("train", "val", "test"):
        X, Y = runs.data(config, split)
        expected = (helpers.split_loss(network, X, Y) if Y.ndim == 1 else
                    helpers.name_loss(network, X, Y, packed=model == "wavenet"))
        if split == "test" and model != "gru":
            assert row["test"] is None
        else:
            assert row[split] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("model", ["mlp", "torch tree", "wavenet", "transformer"])
def test_the_same_row_again_to_the_last_digit(model, words):
    config = small(model, words) | ({} if model == "mlp" else {"dropout": 0.3})
    first, _ = runs.measure(config)
    torch.rand(7)
    again, _ = runs.measure(config)
    assert figures(again) == figures(first)
    other, _ = runs.measure(config | {"seed": 7})
    assert other["val"] != first["val"]


def test_a_list_without_copies_has_no_copied_names(words):
    row, _ = runs.measure(small("n-gram", words, copies="none"))
    assert row["unseen"] == row["val"]
    assert row["copied"] is None


# -------------------------------------------------------------------------------- the rivals


def test_the_torch_tree_is_the_tree():
    torch.manual_seed(1)
    ours, theirs = helpers.make_tree(27, 8, 5, 6), rivals.TorchTree(27, 8, 5, 6, dropout=0.5)
    linears = [m for m in ours.layers if isinstance(m, helpers.Linear)]
    norms = [m for m in ours.layers if isinstance(m, helpers.BatchNorm1d)]
    with torch.no_grad():
        theirs.embedding.weight[:] = ours.layers[0].weight
        for a, b in zip(linears, [*theirs.linears, theirs.head[-1]], strict=True):
            b.weight[:] = a.weight.T
        theirs.head[-1].bias[:] = linears[-1].bias = torch.randn(27)
        for a, b in zip(norms, theirs.norms, strict=True):
            for mine, other in ((a.gamma, b.weight), (a.beta, b.bias)):
                mine[:] = torch.randn(6)
                other[:] = mine
            b.running_mean[:] = a.running_mean = torch.randn(6)
            b.running_var[:] = a.running_var = torch.rand(6) + 0.5
        X = torch.randint(0, 27, (9, 8))
        with helpers.mode(ours, False), helpers.mode(theirs, False):
            assert torch.allclose(ours(X), theirs(X), atol=1e-5)
    assert (sum(p.nelement() for p in ours.parameters())
            == sum(p.nelement() for p in theirs.parameters()))


@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM])
def test_the_recurrent_models_look_back_to_the_start(kind):
    torch.manual_seed(0)
    for n_layers in (1, 2):
        model = rivals.Recurrent(kind, 9, 6, n_layers, dropout=0.5).eval()
        assert (model.rnn.num_layers, model.rnn.dropout) == (n_layers, 0.5 * (n_layers > 1))
        X = torch.randint(1, 9, (2, 11))
        other = X.clone()
        other[:, 0] = X[:, 0] % 8 + 1
        with torch.no_grad():
            assert model(X).shape == (2, 11, 9)
            assert not torch.equal(model(X)[:, -1], model(other)[:, -1])


def test_the_transformer_knows_places_and_looks_back_to_the_start():
    torch.manual_seed(0)
    model = rivals.Transformer(9, 8, 1, 2, 0.0, length=11).eval()
    X = torch.tensor([[0, 3, 5, 4], [0, 5, 3, 4]])
    with torch.no_grad():
        assert model(X).shape == (2, 4, 9)
        # The places start as zeros: so far one layer sees no more than which letters there were.
        assert torch.allclose(model(X)[0, -1], model(X)[1, -1], atol=1e-6)
        model.place.normal_()
        assert not torch.allclose(model(X)[0, -1], model(X)[1, -1], atol=1e-3)
        assert model(torch.zeros(1, 11, dtype=torch.int64)).shape == (1, 11, 9)


def counted(order, weight=1.0):
    """An n-gram of the two words ab and a; the vocabulary is '.', a, b."""
    model = rivals.NGram(3, order, weight)
    model.count(*helpers.encode_names(["ab", "a"], {".": 0, "a": 1, "b": 2}))
    return model


def test_witten_and_bell_by_hand():
    model = counted(1)
    # No context: 2 '.', 2 a, 1 b; 3 kinds share with the uniform: (n + 3 / 3) / (5 + 3).
    assert model.predict(()).tolist() == pytest.approx([3 / 8, 3 / 8, 2 / 8])
    # After '.': a twice, one kind. After a: b and '.', two kinds. After b: '.' once.
    assert model.predict((0,)).tolist() == pytest.approx([1 / 8, 19 / 24, 1 / 12])
    assert model.predict((1,)).tolist() == pytest.approx([7 / 16, 3 / 16, 6 / 16])
    assert model.predict((2,)).tolist() == pytest.approx([11 / 16, 3 / 16, 2 / 16])
    logits = model(torch.tensor([[0, 1, 2]]))
    assert logits.exp()[0, 1].tolist() == pytest.approx([7 / 16, 3 / 16, 6 / 16])
    # Twice the weight: (n + 6 / 3) / (5 + 6), and after b (n + 2 p) / (1 + 2).
    p = [4 / 11, 4 / 11, 3 / 11]
    assert counted(1, 2.0).predict((2,)).tolist() == pytest.approx(
        [(1 + 2 * p[0]) / 3, 2 * p[1] / 3, 2 * p[2] / 3])


def test_the_ngram_takes_the_longest_context_and_backs_off():
    one, two, none = counted(1), counted(2), counted(0)
    X = torch.tensor([[0, 1, 2, 2, 1]])
    logits = [model(X)[0].exp() for model in (none, one, two)]
    assert all(torch.allclose(p.sum(1), torch.ones(5)) for p in logits)
    assert torch.allclose(logits[0], logits[0][:1].expand(5, 3))
    # '.a': b once, '.' once, two kinds, mixed with what follows a.
    assert logits[2][1].tolist() == pytest.approx([(1 + 7 / 8) / 4, (3 / 8) / 4, (1 + 6 / 8) / 4])
    assert torch.equal(logits[2][3], logits[1][3])           # bb was never seen: as after b
    assert two.predict((2, 2)).tolist() == one.predict((2,)).tolist()


def test_counting_again_forgets_what_was_predicted():
    model = counted(1)
    before = model.predict((0,)).tolist()
    model.count(*helpers.encode_names(["b"], {".": 0, "a": 1, "b": 2}))
    assert model.predict((0,))[2] > before[2]


# ------------------------------------------------------------ workers that are killed, and two


@contextlib.contextmanager
def at_rest(where):
    """Inside `with`, no worker can write to a study: {number: (state, configuration, attributes)}.

    Read past Optuna, which keeps what it has read. A worker that has a trial cannot be done with
    it before the end, so it can be killed in the middle of one on any machine.
    """
    connection = sqlite3.connect(where, timeout=60, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    try:
        now = {}
        for number, kind, name, value in connection.execute(
                "SELECT number, state, key, value_json FROM trials "
                "JOIN trial_user_attributes USING (trial_id) ORDER BY number"):
            now.setdefault(number, (kind, {}))[1][name] = json.loads(value)
        yield {number: (kind, runs.key(attributes["config"]), attributes)
               for number, (kind, attributes) in now.items()}
    finally:
        connection.rollback()
        connection.close()


def wait_for(what, *args, seconds=120):
    """What `what(*args)` gives, as soon as it gives something."""
    deadline = time.monotonic() + seconds
    while not (value := what(*args)):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)
    return value


def numbers(now, kind, process):
    """The trials of a worker that are in one state."""
    return [number for number, entry in now.items()
            if entry[0] == kind and entry[2].get("worker", {}).get("pid") == process.pid]


def send(which, process, where, when):
    """Send a signal to a worker that has a trial: (its number, how all stood), or None so far."""
    with at_rest(where) as now:
        for number in numbers(now, "RUNNING", process):
            if when(now, number):
                process.send_signal(which)
                return number, now
    return None


# A worker that waits, with its trial begun, for as long as there is a file for the trial's seed.
HELD = """
import sys, time
from pathlib import Path
folder, notebooks, name, where = sys.argv[1:]
sys.path.insert(0, notebooks)
import runs
measure = runs.measure
def held(config, report=None):
    while Path(folder, f"hold {config['seed']}").exists():
        time.sleep(0.02)
    return measure(config, report)
runs.measure = held
import harness
harness.main(name, where)
"""


@pytest.fixture(scope="module")
def story(words, tmp_path_factory):
    """One study and all that befalls it: two workers, both killed, a third sent away, a resume."""
    if os.name == "nt":
        pytest.skip("Windows has no SIGKILL and no SIGTERM that a worker could answer")
    folder = tmp_path_factory.mktemp("story")
    where, log, out, workers = folder / "study.db", folder / "log", {}, []
    quick = {"model": "mlp", "words": words, "n_hidden": 50, "max_steps": 100}
    configs = [quick | {"seed": seed} for seed in range(8)]
    configs[2] |= {"learning_rate": 1e30}
    configs[7] |= {"n_hidden": 3000}                         # seconds long
    harness.open_study("story", where, configs)

    def hold(*seeds):
        for seed in seeds:
            (folder / f"hold {seed}").touch()

    def release(*seeds):
        for seed in seeds:
            (folder / f"hold {seed}").unlink()

    def start_held():
        workers.append(subprocess.Popen(
            [sys.executable, "-c", HELD, folder, Path(harness.__file__).parent, "story", where],
            env=os.environ | {"TQDM_DISABLE": "1"}))
        return workers[-1]

    def both_have_one():
        with at_rest(where) as now:
            return all(numbers(now, "RUNNING", worker) for worker in (a, b))

    try:
        hold(0, 1, 4, 5, 6)
        a, b = start_held(), start_held()
        wait_for(both_have_one)
        release(0, 1)                                        # so each completes one or more
        out["a"], out["a is killed"] = wait_for(
            send, signal.SIGKILL, a, where,
            lambda now, number: number in (4, 5) and now[2][0] == "FAIL" and all(
                numbers(now, "COMPLETE", worker) for worker in (a, b)))
        a.wait()
        release(4, 5)
        out["b"], out["b is killed"] = wait_for(
            send, signal.SIGKILL, b, where,
            lambda now, number: number == 6 and any(
                entry[2].get("retry of") == out["a"] for entry in now.values()))
        b.wait()
        release(6)
        with open(log, "w") as file:
            workers.append(c := harness.start_worker("story", where, file))
        out["c"], _ = wait_for(
            send, signal.SIGTERM, c, where,
            lambda now, number: number == 7 and 0.1 < time.time() - now[7][2]["alive"])
        out["code"], out["log"] = c.wait(20), log.read_text()
        with at_rest(where) as out["c is gone"]:
            pass
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    study = harness.open_study("story", where, configs)
    harness.work(study, where)
    with at_rest(where) as out["end"]:
        pass
    return out | {"configs": configs, "keys": [runs.key(config) for config in configs],
                  "where": where, "pids": [worker.pid for worker in workers],
                  "table": harness.table(study).set_index("trial")}


@pytest.mark.full
def test_two_workers_share_a_study(story):
    done = [(attributes["worker"]["pid"], config)
            for kind, config, attributes in story["a is killed"].values() if kind == "COMPLETE"]
    assert {pid for pid, _ in done} == set(story["pids"][:2])
    assert len({config for _, config in done}) == len(done)


@pytest.mark.full
def test_every_configuration_is_complete_exactly_once(story):
    complete = Counter(config for kind, config, _ in story["end"].values() if kind == "COMPLETE")
    assert complete == Counter(config for config in story["keys"] if "1e+30" not in config)
    # And nothing was begun beside that, but for what was interrupted and what diverged.
    assert len(story["end"]) == len(story["configs"]) + 3
    assert {kind for kind, *_ in story["end"].values()} == {"COMPLETE", "FAIL"}


@pytest.mark.full
def test_finished_trials_keep_their_rows(story):
    kept = {number: entry for number, entry in story["b is killed"].items()
            if entry[0] == "COMPLETE"}
    assert len(kept) >= 2
    for number, entry in kept.items():
        assert entry[2]["row"]["seconds"] > 0
        assert story["end"][number] == entry                 # seconds, worker, signs of life: all


@pytest.mark.full
def test_a_killed_workers_trial_is_taken_over(story):
    for i, name in enumerate("ab"):
        number, before = story[name], story[f"{name} is killed"]
        kind, config, attributes = before[number]
        assert (kind, attributes["worker"]["pid"]) == ("RUNNING", story["pids"][i])
        assert "row" not in attributes
        assert story["end"][number] == ("FAIL", config, attributes)
        line = story["table"].loc[number]
        assert (line.state, line.error) == ("fail", "interrupted")
        retry, = (n for n, entry in story["end"].items() if entry[2].get("retry of") == number)
        assert story["end"][retry][:2] == ("COMPLETE", config)
        assert story["end"][retry][2]["tries"] == 2
        assert story["table"].loc[retry, "retry of"] == number
    # The second worker itself saw that the first was gone, and lived on with its own trials.
    assert story["b is killed"][story["a"]][0] == "FAIL"


@pytest.mark.full
def test_a_worker_that_is_sent_away_gives_its_trial_back(story):
    assert story["code"] == 1
    assert story["log"].splitlines()[-1] == "stopped by hand; the trial is queued anew"
    assert "RUNNING" not in {kind for kind, *_ in story["c is gone"].values()}
    kind, config, _ = story["c is gone"][story["c"]]
    assert kind == "FAIL"
    retry, = (entry for entry in story["c is gone"].values()
              if entry[2].get("retry of") == story["c"])
    assert retry[:2] == ("WAITING", config)


@pytest.mark.full
def test_a_training_that_diverges_fails_once_and_for_all(story):
    trial, = (entry for entry in story["end"].values() if "1e+30" in entry[1])
    assert trial[0] == "FAIL"
    assert trial[2]["error"].startswith("Diverged: the loss is nan at step")
    line = story["table"].loc[2]
    assert (line.state, line.error) == ("fail", trial[2]["error"])
    assert story["a is killed"][2] == story["end"][2]        # long before the end


@pytest.mark.full
def test_a_finished_study_starts_no_worker(story, monkeypatch):
    monkeypatch.setattr(harness, "start_worker", None)
    study = harness.open_study("story", story["where"], story["configs"])
    harness.run_study(study, story["where"])
    with at_rest(story["where"]) as now:
        assert now == story["end"]


# --------------------------------------------------------------- a worker within this process


@pytest.fixture(params=["study.db", "study.journal"])
def where(request, tmp_path):
    return str(tmp_path / "new" / request.param)             # the folder is made


@pytest.fixture
def journal(tmp_path):
    """Where it does not matter: the faster storage."""
    return tmp_path / "study.journal"


def seeded(*seeds):
    return [{"model": "n-gram", "seed": seed} for seed in seeds]


class Measure:
    """A `measure` that trains nothing: val is the seed. `faults`: {seed: what to raise or call}."""

    def __init__(self, **faults):
        self.seeds, self.faults = [], faults

    def __call__(self, config, report=None):
        seed = runs.complete(config)["seed"]
        self.seeds.append(seed)
        fault = self.faults.pop(f"at_{seed}", None)
        if isinstance(fault, BaseException):
            raise fault
        extra = fault() if fault else {}
        return {"val": float(seed), "seed": seed, "config": runs.key(config)} | extra, None


def ends(study):
    """The states and errors of all trials, in their order."""
    table = harness.table(study)
    return [(kind, None if pd.isna(error) else error)
            for kind, error in zip(table.state, table.error, strict=True)]


def mark(study, trial, ago=0.0, **worker):
    """Make a running trial that of another worker, whose last sign of life was `ago` seconds ago"""
    trial.set_user_attr("worker", {"host": socket.gethostname(), "pid": os.getpid(),
                                   "started": psutil.Process().create_time()} | worker)
    trial.set_user_attr("alive", time.time() - ago)


@pytest.fixture(scope="module")
def dead():
    """A process that has ended, and its number."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_study_is_resumed_and_nothing_is_run_twice(where):
    measure = Measure()
    study = harness.open_study("s", where, seeded(1, 2, 2, 3))
    harness.work(study, where, measure)
    more = harness.open_study("s", where, [*seeded(4), *reversed(seeded(1, 2, 3))])
    harness.work(more, where, measure)
    assert measure.seeds == [1, 2, 3, 4]
    table = harness.table(harness.open_study("s", where))
    assert (table.trial.tolist(), table.val.tolist()) == ([0, 1, 2, 3], [1, 2, 3, 4])
    assert set(table.state) == {"complete"}
    assert set(table.worker) == {os.getpid()}
    other = harness.open_study("t", where, seeded(1))        # another study in the same storage
    assert len(other.trials) == 1


def test_the_trial_of_a_dead_worker_is_retried(journal, dead):
    study = harness.open_study("s", journal, seeded(1, 2))
    mark(study, study.ask(), pid=dead)
    measure = Measure()
    harness.work(harness.open_study("s", journal, seeded(1, 2)), journal, measure)
    assert sorted(measure.seeds) == [1, 2]
    table = harness.table(study)
    assert ends(study) == [("fail", "interrupted"), ("complete", None), ("complete", None)]
    assert table["retry of"].tolist()[2] == 0
    assert (table.seed.tolist()[1:], table.val.tolist()[1:]) == ([2, 1], [2, 1])


@posix
def test_who_counts_as_gone(journal, dead):
    parent = psutil.Process(os.getppid())
    zombie = subprocess.Popen(["true"])
    os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOWAIT)
    alive = {"pid": parent.pid, "started": parent.create_time()}
    gone = {"pid": zombie.pid, "started": psutil.Process(zombie.pid).create_time()}
    cases = [
        (False, 1, {"host": "elsewhere"}), (False, harness.GRACE - 10, {"host": "elsewhere"}),
        (True, harness.GRACE + 1, {"host": "elsewhere"}),
        (False, 1, alive), (True, harness.GRACE + 1, alive),   # it hangs
        (True, 1, alive | {"started": parent.create_time() - 9}),
        (True, 1, {"pid": dead}), (True, 1, gone),
        (True, 1, {}),                                       # this process has no trial now
    ]
    study = harness.open_study("s", journal, seeded(*range(len(cases))))
    for _, ago, worker in cases:
        mark(study, study.ask(), ago, **worker)
    harness.reclaim(study)
    gone = [t.state == FAIL for t in study.trials[: len(cases)]]
    assert gone == [expected for expected, *_ in cases]
    retries = [t.user_attrs["retry of"] for t in study.trials if t.state == WAITING]
    assert retries == [i for i, is_gone in enumerate(gone) if is_gone]
    zombie.wait()


def test_a_trial_that_was_just_taken_is_left_alone(journal, monkeypatch):
    """Between taking a trial and the first sign of life, only the time of its start is known."""
    study = harness.open_study("s", journal, seeded(1))
    study.ask()
    harness.reclaim(study)
    assert study.trials[0].state == RUNNING
    monkeypatch.setattr(harness, "BEAT", -1)
    harness.reclaim(study)
    assert [t.state for t in study.trials] == [FAIL, WAITING]


def test_a_worker_waits_for_the_trials_of_others(journal, monkeypatch):
    """It goes on looking until the other's trial has ended, or the other is gone."""
    study = harness.open_study("s", journal, seeded(1))
    trial, naps = study.ask(), []
    mark(study, trial, host="elsewhere")

    def nap(seconds):
        naps.append(seconds)
        if len(naps) == 2:
            trial.set_user_attr("alive", time.time() - harness.GRACE - 1)

    monkeypatch.setattr(harness.time, "sleep", nap)
    harness.work(study, journal, Measure())
    assert len(naps) == 2
    assert ends(study) == [("fail", "interrupted"), ("complete", None)]


def test_a_trial_whose_workers_always_die_is_given_up(journal, dead):
    study, tries = harness.open_study("s", journal, seeded(1)), harness.RETRIES + 1
    for _ in range(tries):
        mark(study, study.ask(), pid=dead)
        harness.reclaim(study)
    expected = [("fail", "interrupted")] * (tries - 1)
    expected.append(("fail", f"its worker died in each of {tries} tries"))
    assert ends(study) == expected
    measure = Measure()
    harness.work(harness.open_study("s", journal, seeded(1)), journal, measure)
    assert measure.seeds == []


@pytest.mark.parametrize("error", [
    ValueError("no such thing"), FileNotFoundError("names.csv"), RuntimeError("out of memory"),
    ZeroDivisionError(), runs.Diverged("the loss is nan at step 3")], ids=repr)
def test_an_error_is_its_trials_own(journal, error):
    measure = Measure(at_1=error)
    for _ in range(2):
        study = harness.open_study("s", journal, seeded(1, 2))
        harness.work(study, journal, measure)
        assert ends(study) == [("fail", f"{type(error).__name__}: {error}"), ("complete", None)]
    assert measure.seeds == [1, 2]


def test_a_missing_word_list_is_no_storage_error(journal):
    study = harness.open_study("s", journal, [{"model": "n-gram", "words": "absent.txt"}])
    harness.work(study, journal)
    assert ends(study)[0][1].startswith("FileNotFoundError: absent.txt: no such file")


def test_a_trial_that_is_stopped_by_hand_is_queued_anew(where):
    # The one comes from within a training, the other from anywhere else.
    measure = Measure(at_2=runs.Interrupted("by hand") if where.endswith(".db")
                      else KeyboardInterrupt())
    study = harness.open_study("s", where, seeded(1, 2, 3))
    with pytest.raises(KeyboardInterrupt):
        harness.work(study, where, measure)
    assert [t.state for t in study.trials] == [COMPLETE, FAIL, WAITING, WAITING]
    harness.work(harness.open_study("s", where, seeded(1, 2, 3)), where, measure)
    assert measure.seeds == [1, 2, 3, 2]
    assert ends(study) == [("complete", None), ("fail", "interrupted"), ("complete", None),
                           ("complete", None)]


def test_what_was_failed_but_not_queued_anew_is_not_lost(journal):
    """A worker may die between the two; the configurations are known to whoever resumes."""
    study = harness.open_study("s", journal, seeded(1, 2))
    harness.fail(study, study.ask().number)
    measure = Measure()
    harness.work(harness.open_study("s", journal, seeded(1, 2)), journal, measure)
    assert sorted(measure.seeds) == [1, 2]


def in_this_process(monkeypatch, measure):
    """run_study with workers that are this process, one after the other; they measure that."""
    def start(name, where, log=None):
        harness.work(harness.open_study(name, where), where, measure)
        process = subprocess.Popen([sys.executable, "-c", ""])
        process.wait()
        return process

    monkeypatch.setattr(harness, "start_worker", start)


SEARCH = {"space": {"n_hidden": harness.choice(4)}, "base": {"model": "gru"}}


@pytest.mark.parametrize("asked", [{"configs": seeded(1, 2)}, SEARCH | {"n_trials": 2}])
def test_run_study_queues_what_was_failed_and_is_not_queued(journal, monkeypatch, asked):
    study = harness.open_study("s", journal, **asked)
    harness.fail(study, study.ask().number)
    measure = Measure()
    in_this_process(monkeypatch, measure)
    harness.run_study(study, journal, workers=1)
    expected = [("fail", "interrupted"), ("complete", None), ("complete", None)]
    assert ends(study) == expected
    assert study.trials[2].user_attrs["retry of"] == 0
    monkeypatch.setattr(harness, "start_worker", None)       # nothing is left, nothing is added
    harness.run_study(harness.open_study("s", journal, **asked), journal)
    assert ends(study) == expected


def test_run_study_says_that_a_trial_is_left_that_a_worker_did_not_queue(journal, monkeypatch):
    def killed():
        harness.fail(study, 0)
        raise RuntimeError("killed")

    study = harness.open_study("s", journal, seeded(1))
    in_this_process(monkeypatch, Measure(at_1=killed))
    with pytest.raises(RuntimeError, match="1 trials are left"):
        harness.run_study(study, journal, workers=1)
    harness.run_study(study, journal, workers=1)
    assert ends(study) == [("fail", "interrupted"), ("complete", None)]


def test_signals_wait_while_a_trial_is_given_back(journal, monkeypatch):
    study, fail = harness.open_study("s", journal, seeded(1)), harness.fail
    before = signal.getsignal(signal.SIGTERM)

    def interrupted(*args):
        done = fail(*args)
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
        return done

    monkeypatch.setattr(harness, "fail", interrupted)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            harness.give_back(study, study.trials[study.ask().number])
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        assert signal.getsignal(signal.SIGTERM) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGTERM, before)
    assert [t.state for t in study.trials] == [FAIL, WAITING]


@posix
def test_two_signals_lose_nothing(tmp_path):
    """The stop button sends a worker SIGINT, and a moment later its parent sends it SIGTERM."""
    where = tmp_path / "study.db"
    for ms in (0, 2, 5, 10, 20, 40):
        study = harness.open_study(f"{ms} ms", where, seeded(1))
        if (pid := os.fork()) == 0:
            signal.alarm(60)                                 # whatever happens, it ends
            with contextlib.suppress(BaseException):
                signal.signal(signal.SIGTERM, signal.default_int_handler)
                harness.work(harness.open_study(f"{ms} ms", where), where,
                             Measure(at_1=lambda: time.sleep(60)))
            os._exit(0)
        wait_for(lambda study=study: "worker" in study.trials[0].user_attrs)
        time.sleep(0.05)
        os.kill(pid, signal.SIGINT)
        time.sleep(ms / 1000)
        os.kill(pid, signal.SIGTERM)
        os.waitpid(pid, 0)
        harness.work(study, where, Measure())
        assert [t.state for t in study.trials] == [FAIL, COMPLETE], ms


@pytest.mark.parametrize("when", ["before it says so", "before it is pruned", "while it reports"])
def test_a_worker_leaves_a_trial_that_another_took(journal, monkeypatch, when, capsys):
    """The other one takes its time, so that this one sees no more than that the trial is gone."""
    def take(number):
        if taken or number:
            return
        taken.append(number)
        harness.fail(harness.open_study("s", journal), number, "taken")

    def measure(config, report):
        report(1, 1.0)
        if when == "before it is pruned":
            take(len(measured))
        elif when == "while it reports":
            take(len(measured))
            report(2, 1.0)
        measured.append(config)
        if when == "before it is pruned" and len(measured) == 1:
            raise optuna.TrialPruned
        return {"val": 1.0}, None

    taken, measured, next_trial = [], [], harness.next_trial

    def late(study):
        trial = next_trial(study)
        if trial and when == "before it says so":
            take(trial.number)
        return trial

    monkeypatch.setattr(harness, "next_trial", late)
    study = harness.open_study("s", journal, **SEARCH, n_trials=2)
    harness.work(study, journal, measure)
    assert ends(study) == [("fail", "taken"), ("complete", None)]
    if when == "before it says so":
        assert "trial 0 was given to another worker" in capsys.readouterr().err


def test_a_late_row_is_dropped(where, capsys):
    """The worker was thought gone: another has run its trial by the time it is done."""
    others = Measure()

    def overtaken():
        other = harness.open_study("s", where)
        harness.give_back(other, other.trials[0], 2)
        harness.work(other, where, others)
        return {"late": True}

    study = harness.open_study("s", where, seeded(1))
    harness.work(study, where, Measure(at_1=overtaken))
    assert others.seeds == [1]
    assert ends(study) == [("fail", "interrupted"), ("complete", None)]
    assert not any("late" in t.user_attrs.get("row", {}) for t in study.trials)
    assert "trial 0 was given to another worker; this row is dropped" in capsys.readouterr().err


def test_a_late_error_is_dropped(journal):
    def overtaken():
        other = harness.open_study("s", journal)
        harness.give_back(other, other.trials[0], 2)
        raise ValueError("late")

    study = harness.open_study("s", journal, seeded(1))
    harness.work(study, journal, Measure(at_1=overtaken))
    assert ends(study) == [("fail", "interrupted"), ("complete", None)]


@pytest.mark.parametrize("state", ["waits", "is done"])
def test_a_configuration_that_two_parents_add_runs_once(journal, state):
    measure, study = Measure(), harness.open_study("s", journal, seeded(1))
    if state == "is done":
        harness.work(study, journal, measure)
    for config in seeded(1, 2):                              # as a parent that looked too early
        study.enqueue_trial({}, user_attrs={"config": config})
    harness.work(study, journal, measure)
    assert measure.seeds == [1, 2]
    assert ends(study) == [("complete", None), ("fail", "the same configuration as trial 0"),
                           ("complete", None)]


def test_a_trial_that_waits_or_runs_is_a_twin(journal):
    study = harness.open_study("s", journal, seeded(1, 2))
    for config in seeded(1, 2):
        study.enqueue_trial({}, user_attrs={"config": config})
    study.ask()
    assert [t.state for t in study.trials[:2]] == [RUNNING, WAITING]
    assert [harness.twin_of(study, study.trials[i]).number for i in (2, 3)] == [0, 1]
    assert harness.twin_of(study, study.trials[1]) is None


def test_a_retry_is_no_twin_of_the_trial_that_failed(journal):
    study = harness.open_study("s", journal, seeded(1))
    harness.give_back(study, study.trials[study.ask().number], 2)
    assert harness.twin_of(study, study.ask()) is None


def test_signs_of_life_while_a_trial_runs(journal, monkeypatch):
    monkeypatch.setattr(harness, "BEAT", 0.02)
    study = harness.open_study("s", journal, seeded(1))
    seen = []

    def look():
        for _ in range(2):
            seen.append(study.trials[0].user_attrs["alive"])
            time.sleep(0.2)
        return {}

    harness.work(study, journal, Measure(at_1=look))
    assert seen[1] > seen[0]
    last = study.trials[0].user_attrs
    time.sleep(0.1)
    assert study.trials[0].user_attrs == last
    assert last["worker"] == {"host": socket.gethostname(), "pid": os.getpid(),
                              "started": psutil.Process().create_time()}


@posix
def test_two_workers_cannot_take_the_same_trial(where):
    """Each of four processes takes all it can get, from the same moment on, as fast as it can."""
    n, start = 12, time.time() + 0.5
    harness.open_study("s", where, seeded(*range(n)))
    children = []
    for _ in range(4):
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            signal.alarm(60)                                 # whatever happens, it ends
            with contextlib.suppress(BaseException):
                study = harness.open_study("s", where)
                time.sleep(max(0, start - time.time()))
                while (number := study.ask().number) < n:
                    os.write(writer, f"{number} ".encode())
                os.write(writer, b"done")
            os._exit(0)
        os.close(writer)
        children.append((pid, reader))
    taken = []
    for pid, reader in children:
        with os.fdopen(reader) as file:
            *numbers, last = file.read().split()
        os.waitpid(pid, 0)
        assert last == "done"
        taken += map(int, numbers)
    assert sorted(taken) == list(range(n))


# ------------------------------------------------------------------------------- the storage


@contextlib.contextmanager
def full_disk(file, room):
    """Inside `with`, no file of this process grows beyond the size of `file` and `room`."""
    resource = pytest.importorskip("resource", reason="Windows has no limits of that kind")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (os.path.getsize(file) + room, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_named_and_nothing_is_lost(where):
    measure = Measure(at_2=lambda: {"notes": "x" * 300_000})
    study = harness.open_study("s", where, seeded(1, 2, 3))
    # Room for the signs of life, but not for the row.
    with full_disk(where, 100_000), pytest.raises(harness.StorageError) as caught:
        harness.work(study, where, measure)
    text = str(caught.value)
    assert f"the study's storage {where} cannot be used: " in text
    assert "Finished trials are kept. Free some space" in text
    assert "\n" not in text
    before = study.trials[0].user_attrs
    again = harness.open_study("s", where, seeded(1, 2, 3))
    assert [t.state for t in again.trials] == [COMPLETE, RUNNING, WAITING]
    harness.work(again, where, measure)
    assert measure.seeds == [1, 2, 3, 2]
    assert ends(again) == [("complete", None), ("fail", "interrupted"), ("complete", None),
                           ("complete", None)]
    assert harness.open_study("s", where).trials[0].user_attrs == before


def test_half_a_line_in_a_journal_does_not_spoil_it(journal):
    study = harness.open_study("s", journal, seeded(1))
    with full_disk(journal, 20), pytest.raises(harness.StorageError):
        harness.open_study("s", journal, seeded(2))
    assert not journal.read_bytes().endswith(b"\n")          # this is what it is about
    harness.work(harness.open_study("s", journal, seeded(2)), journal, Measure())
    assert ends(study) == [("complete", None)] * 2
    lines = journal.read_bytes().splitlines()
    assert all(json.loads(line) for line in lines)


def test_a_disk_that_fills_up_while_a_search_reports(tmp_path):
    where = tmp_path / "study.db"

    def measure(config, report):
        with full_disk(where, -os.path.getsize(where)):
            report(1, 2.0)

    study = harness.open_study("s", where, space={"n_hidden": harness.choice(4)},
                               base={"model": "gru"}, n_trials=1)
    with pytest.raises(harness.StorageError, match=r"study\.db cannot be used"):
        harness.work(study, where, measure)
    assert [t.state for t in study.trials] == [RUNNING]      # it is not the trial's fault


def test_a_password_is_not_shown():
    shown = r"postgresql://me:\*\*\*@host/db"
    with (pytest.raises(harness.StorageError, match=shown) as caught,
          harness.storage_errors("postgresql://me:secret@host/db")):
        raise OSError("gone")
    assert "secret" not in str(caught.value)


def test_a_storage_that_cannot_be_written_is_named(tmp_path):
    file = tmp_path / "study.db"
    harness.open_study("s", file, seeded(1))
    frozen = f"sqlite:///file:{file}?mode=ro&uri=true"
    with pytest.raises(harness.StorageError, match="readonly database") as caught:
        harness.open_study("s", frozen, seeded(1, 2))
    assert frozen in str(caught.value)
    assert "allow writing there, or give another storage" in str(caught.value)
    assert isinstance(caught.value, OSError)
    harness.work(harness.open_study("s", file, seeded(1, 2)), file, Measure())
    assert ends(harness.open_study("s", file)) == [("complete", None)] * 2


@pytest.mark.parametrize("bad", [None, 5, "", b"study.db", ["study.db"]])
def test_a_storage_that_is_no_text_is_named(bad):
    with pytest.raises(ValueError, match=f"where is {re.escape(repr(bad))}; expected a file, or"):
        harness.open_study("s", bad, seeded(1))


@pytest.mark.parametrize(("url", "message"), [
    ("://", "storage :// cannot be used: Could not parse"),
    ("nosuch://me:secret@host/x", r"storage nosuch://me:\*\*\*@host/x cannot be used: Can't load"),
    ("oracle+cx_oracle://me:secret@host/x", "No module named 'cx_Oracle'.*Install it, or give"),
])
def test_a_url_that_cannot_be_used_is_named(url, message, monkeypatch):
    monkeypatch.setitem(sys.modules, "cx_Oracle", None)
    if "cx_oracle" in url:
        message = message.replace("No module named 'cx_Oracle'", "cx_Oracle")
    with pytest.raises(harness.StorageError, match=message) as caught:
        harness.open_study("s", url, seeded(1))
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("name", ["a b.db", "50%3F of {it}.db", "a%20b.journal"] + [
    "what?.db", "what?.journal"] * (os.name != "nt"))
def test_a_path_is_the_file_that_it_names(tmp_path, monkeypatch, name):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    for where in (tmp_path / name, f"~/{name}"):
        assert len(harness.open_study("s", where, seeded(1)).trials) == 1
    assert (tmp_path / name).is_file()
    assert {path.name.partition("-")[0] for path in tmp_path.iterdir()} == {name}


@pytest.mark.parametrize("name", ["words.txt/study.db", "words.txt/study.journal", "a.journal"])
def test_a_path_that_cannot_be_is_named(tmp_path, name):
    (tmp_path / "words.txt").touch()
    (tmp_path / "a.journal").mkdir()
    with pytest.raises(harness.StorageError, match=f"the study's storage {tmp_path / name} cannot"):
        harness.open_study("s", tmp_path / name, seeded(1))


def test_a_file_that_is_no_database_is_named(tmp_path):
    (tmp_path / "study.db").write_text("emma\nolivia\n" * 100)
    with pytest.raises(harness.StorageError, match="not a database"):
        harness.open_study("s", tmp_path / "study.db", seeded(1))


def test_a_configuration_that_cannot_be_meant_adds_nothing(journal):
    with pytest.raises(ValueError, match="did you mean order"):
        harness.open_study("s", journal, [*seeded(1), {"model": "n-gram", "ordre": 3}])
    with pytest.raises(ValueError, match="model is None"):
        harness.open_study("s", journal, space={"n_hidden": harness.choice(4)}, base={}, n_trials=2)
    for bad, message in (
            ({"configs": {"model": "mlp"}}, "configs is {'model': 'mlp'}; expected a list"),
            ({"configs": None}, "configs is None; expected a list"),
            ({"configs": ["mlp"]}, "configuration is 'mlp'; expected a dict"),
            (SEARCH | {"space": ["n_hidden"]}, r"space is \['n_hidden'\]; expected a dict"),
            (SEARCH | {"space": {}}, "space is {}; expected a dict"),
            (SEARCH | {"space": {"n_hidden": [4, 8]}}, r"space has 'n_hidden': \[4, 8\]; expect"),
            (SEARCH | {"space": {"n_hiden": harness.choice(4)}}, "space has 'n_hiden': .*one of"),
            (SEARCH | {"base": None}, "configuration is None; expected a dict")):
        with pytest.raises(ValueError, match=message):
            harness.open_study("s", journal, **bad, n_trials=2)
    assert harness.open_study("s", journal).trials == []
    assert harness.table(harness.open_study("s", journal)).empty


def test_the_table_has_all_columns_before_a_trial_is_finished(journal):
    first = ["trial", "state", "error", "worker", "retry of", *runs.ROW]
    assert list(harness.table(harness.open_study("s", journal))) == first
    study = harness.open_study("s", journal, seeded(1, 2))
    harness.fail(study, study.ask().number, "no")
    table = harness.table(study)
    assert list(table) == first
    assert table[runs.ROW].isna().all(axis=None)
    assert table.state.tolist() == ["fail", "waiting"]


def test_the_command_line_names_what_there_is(journal, tmp_path, monkeypatch):
    monkeypatch.setattr(signal, "signal", None)              # it gets not that far
    with pytest.raises(SystemExit, match=r"no study 's' in .*study\.journal; it has none"):
        harness.main("s", str(journal))
    harness.open_study("mine", journal)
    with pytest.raises(SystemExit, match="it has mine"):
        harness.main("s", str(journal))


# ------------------------------------------------------------------- the parent of the workers


def fake_workers(monkeypatch, command):
    """Workers that are a command of the shell; the list of those that were started."""
    started = []

    def start(name, where, log=None):
        started.append(subprocess.Popen(["sh", "-c", command], stdout=log, stderr=log))
        return started[-1]

    monkeypatch.setattr(harness, "start_worker", start)
    return started


@pytest.mark.parametrize("workers", [0, -1, "2", True, 1.0, None])
def test_workers_are_counted(journal, monkeypatch, workers):
    monkeypatch.setattr(harness, "start_worker", None)
    study = harness.open_study("s", journal)                 # even where there is nothing to do
    with pytest.raises(ValueError, match=f"workers is {workers!r}; expected an integer of 1"):
        harness.run_study(study, journal, workers=workers)


@posix
@pytest.mark.full
def test_a_python_that_starts_another_as_its_child(journal, words, tmp_path, monkeypatch):
    """As in a virtual environment on Windows: a worker's parent is not who started it."""
    launcher = tmp_path / "python"
    launcher.write_text(f'#!/bin/sh\n"{sys.executable}" "$@"\nexit $?\n')
    launcher.chmod(0o755)
    study = harness.open_study("s", journal, [small("n-gram", words)])
    monkeypatch.setattr(sys, "executable", str(launcher))
    harness.run_study(study, journal, workers=1)
    assert ends(study) == [("complete", None)]


@posix
def test_who_is_an_orphan(monkeypatch, dead):
    assert not harness.is_orphan()                           # run_study did not start this one
    zombie = subprocess.Popen(["true"])
    os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOWAIT)
    younger = subprocess.Popen(["sleep", "100"])             # it has a number that was another's
    try:
        for pid, orphan in ((os.getppid(), False), (dead, True), (zombie.pid, True),
                            (younger.pid, True)):
            monkeypatch.setenv("STUDY_PARENT", str(pid))
            assert harness.is_orphan() == orphan
    finally:
        younger.kill()
        younger.wait()
        zombie.wait()


@posix
def test_workers_that_all_end_too_early(journal, monkeypatch):
    started = fake_workers(monkeypatch, "echo never; echo no memory >&2; exit 3")
    study = harness.open_study("s", journal, seeded(1, 2))
    with pytest.raises(RuntimeError, match="2 trials are left: no memory"):
        harness.run_study(study, journal, workers=2)
    assert len(started) == 2
    fake_workers(monkeypatch, "exit 3")
    with pytest.raises(RuntimeError, match="2 trials are left: they said nothing"):
        harness.run_study(study, journal, workers=1)


@posix
def test_a_parent_that_is_stopped_ends_its_workers(journal, monkeypatch, capsys):
    started, sleep = fake_workers(monkeypatch, "exec sleep 100"), time.sleep

    def interrupt(seconds):
        monkeypatch.setattr(harness.time, "sleep", sleep)
        raise KeyboardInterrupt

    study = harness.open_study("s", journal, seeded(1, 2))
    monkeypatch.setattr(harness.time, "sleep", interrupt)
    harness.run_study(study, journal, workers=2)
    assert [process.poll() for process in started] == [-signal.SIGTERM] * 2
    assert "Finished trials are kept" in capsys.readouterr().out
    assert [t.state for t in study.trials] == [WAITING] * 2


def test_a_worker_ends_after_its_trial_when_its_parent_is_gone(journal, monkeypatch, dead):
    def orphaned(config, report=None):
        monkeypatch.setenv("STUDY_PARENT", str(dead))
        return {"val": 1.0}, None

    study = harness.open_study("s", journal, seeded(1, 2))
    harness.work(study, journal, orphaned)
    assert [t.state for t in study.trials] == [COMPLETE, WAITING]
    harness.work(study, journal, orphaned)                   # and takes no other one
    assert [t.state for t in study.trials] == [COMPLETE, WAITING]
    monkeypatch.setenv("STUDY_PARENT", str(os.getppid()))
    harness.work(study, journal, Measure())
    assert [t.state for t in study.trials] == [COMPLETE, COMPLETE]


def test_a_worker_that_does_not_listen_is_ended():
    class Deaf:
        calls = ()

        def terminate(self):
            self.calls += ("terminate",)

        def kill(self):
            self.calls += ("kill",)

        def wait(self, timeout=None):
            if timeout:
                raise subprocess.TimeoutExpired("worker", timeout)
            self.calls += ("wait",)

    worker = Deaf()
    harness.end_workers([worker])
    assert worker.calls == ("terminate", "kill", "wait")


# ------------------------------------------------------------------------------------ search


SPACE = {
    "n_hidden": optuna.distributions.IntDistribution(4, 64, log=True),
    "n_layers": optuna.distributions.IntDistribution(1, 3),
    "learning_rate": optuna.distributions.FloatDistribution(1e-4, 1e-1, log=True),
    "dropout": optuna.distributions.FloatDistribution(0.0, 0.5, step=0.25),
    "words": harness.choice("a.txt", "b.txt"),
    "average": harness.choice(None, 0.9),
}
BASE = {"model": "gru", "batch_size": 7}


class Searched:
    """A `measure` with a known best, learning_rate 0.01, that shows from the first report on."""

    def __init__(self):
        self.configs = []

    def __call__(self, config, report):
        self.configs.append(config)
        val = abs(math.log10(config["learning_rate"]) + 2)
        for tenth in range(1, 6):
            report(tenth, val + 1 / tenth)
        return {"val": val + 0.2, "config": runs.key(config)}, None


def search(where, n_trials=12, seed=0, measure=None):
    study = harness.open_study("s", where, space=SPACE, base=BASE, n_trials=n_trials, seed=seed)
    harness.work(study, where, measure or Searched())
    return study


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    where, measure = tmp_path_factory.mktemp("search") / "study.journal", Searched()
    return where, search(where, measure=measure), measure


def test_a_search_stays_within_its_space(searched):
    _, study, measure = searched
    assert len(measure.configs) == len(study.trials) == 12
    for config in measure.configs:
        assert set(config) == set(SPACE) | set(BASE)
        assert runs.complete(config)["batch_size"] == 7      # types as they should be
        assert 4 <= config["n_hidden"] <= 64
        assert config["n_layers"] in (1, 2, 3)
        assert 1e-4 <= config["learning_rate"] <= 1e-1
        assert config["dropout"] in (0.0, 0.25, 0.5)
        assert config["words"] in ("a.txt", "b.txt")
        assert config["average"] in (None, 0.9)
    for name in SPACE:
        assert len({config[name] for config in measure.configs}) > 1
    complete = [t for t in study.trials if t.state == COMPLETE]
    assert [t.user_attrs["row"]["config"] for t in complete] == [
        runs.key(measure.configs[t.number]) for t in complete]


def test_bad_trials_of_a_search_are_pruned(searched):
    _, study, _ = searched
    states = [t.state for t in study.trials]
    assert set(states) == {COMPLETE, PRUNED}
    assert states[:6] == [COMPLETE] * 6
    for trial in study.trials[6:]:
        # Worse than the median of those that were finished before, as all can see from the start.
        before = [t.intermediate_values[1] for t in study.trials[: trial.number]
                  if t.state == COMPLETE]
        assert (trial.state == PRUNED) == (trial.intermediate_values[1] > np.median(before))
        assert (max(trial.intermediate_values) == 5) == (trial.state == COMPLETE)
    table = harness.table(study)
    assert set(table.state[table.val.isna()]) == {"pruned"}
    assert table.error.isna().all()


def test_a_trial_that_has_come_to_its_end_is_not_pruned(tmp_path):
    vals = iter([*range(6), 100.0, 101.0])

    def measure(config, report):
        val = next(vals)
        for tenth in (10,) if val == 100.0 else range(1, 11):
            report(tenth, val)
        return {"val": val, "config": runs.key(config)}, None

    study = search(tmp_path / "study.journal", n_trials=8, measure=measure)
    assert [t.state for t in study.trials] == [COMPLETE] * 7 + [PRUNED]


def test_a_search_that_is_resumed_adds_what_is_missing(searched):
    where, study, measure = searched
    search(where, measure=measure)
    assert len(measure.configs) == len(study.trials) == 12
    search(where, n_trials=13, measure=measure)
    assert len(measure.configs) == len(study.trials) == 13


def test_a_search_is_repeated_by_its_seed(searched, tmp_path):
    again, other = Searched(), Searched()
    search(tmp_path / "again.journal", n_trials=10, measure=again)
    search(tmp_path / "other.journal", n_trials=1, seed=100, measure=other)
    assert again.configs == searched[2].configs[:10]         # 8 at random, and 2 by what they gave
    assert other.configs != again.configs[:1]


def test_a_search_draws_the_same_again_for_a_trial_that_was_stopped(tmp_path):
    where, configs = tmp_path / "study.journal", []

    def measure(config, report):
        configs.append(config)
        if len(configs) == 2:
            raise KeyboardInterrupt
        return {"val": 1.0}, None

    with pytest.raises(KeyboardInterrupt):
        search(where, 3, measure=measure)
    study = search(where, 3, measure=measure)
    assert len(configs) == 4
    assert configs[1] == configs[3] != configs[2]
    assert [t.state for t in study.trials] == [COMPLETE, FAIL, COMPLETE, COMPLETE]


def test_kept_searches_have_what_was_found_and_no_machine(tmp_path, monkeypatch):
    study, folder = search(tmp_path / "study.journal"), tmp_path / "kept"
    file = folder / "kept.journal"
    mark(study, study.ask(), pid=1)                          # one that runs is left out
    harness.copy_studies([study], file)
    kept = optuna.load_study(study_name="s", storage=harness.open_storage(file))
    ended = [t for t in study.trials if t.state.is_finished()]
    assert len(kept.trials) == len(ended) == len(study.trials) - 1
    for t, was in zip(kept.trials, ended, strict=True):
        assert (t.state, t.value, t.params, t.intermediate_values) == (
            was.state, was.value, was.params, was.intermediate_values)
        assert t.user_attrs.get("row") == was.user_attrs.get("row")
    assert kept.best_value == study.best_value
    assert socket.gethostname() not in file.read_text()
    assert list(folder.iterdir()) == [file]
    # Another study comes beside it, and the same one takes its own place.
    other = optuna.create_study(study_name="other")
    other.add_trial(optuna.trial.create_trial(value=1.0))
    for _ in range(2):
        harness.copy_studies([other], file)
    storage = harness.open_storage(file)
    assert optuna.get_all_study_names(storage) == ["other", "s"]
    assert len(optuna.load_study(study_name="other", storage=storage).trials) == 1
    before = file.read_bytes()
    monkeypatch.setattr(optuna.Study, "add_trial", None)
    with pytest.raises(TypeError):
        harness.copy_studies([other], file)
    assert file.read_bytes() == before
    assert list(folder.iterdir()) == [file]


# ------------------------------------------------------------------------------------ tables


def rows_of(**groups):
    return pd.DataFrame([{"model": name, "seed": seed, "val": val}
                         for name, values in groups.items()
                         for seed, val in enumerate(values, start=1)])


def test_paired_by_hand():
    rows = rows_of(base=[1.0, 2.0, 3.0], up=[1.1, 2.3, 3.2], down=[0.5, 1.6, 2.4],
                   wild=[2.0, 1.0, 3.3])
    table = harness.paired(rows.sample(frac=1, random_state=0), "model", "base").loc[
        ["base", "up", "down", "wild"]]
    assert table.pairs.tolist() == [3] * 4
    assert table["mean"].tolist() == pytest.approx([2, 2.2, 1.5, 2.1])
    assert table.sd.tolist()[:2] == pytest.approx([1, np.std([1.1, 2.3, 3.2], ddof=1)])
    up = table.loc["up"]                                     # differences 0.1, 0.3, 0.2
    half = 4.302653 * 0.1 / 3**0.5                           # t of 2 degrees at 97.5%
    assert (up.difference, up.se) == pytest.approx((0.2, 0.1 / 3**0.5))
    assert (up.low, up.high) == pytest.approx((0.2 - half, 0.2 + half), abs=1e-6)
    assert table.verdict.tolist() == ["the base", "cannot tell", "lower", "cannot tell"]
    assert table.loc["base", ["difference", "se", "low", "high"]].isna().all()
    turned = harness.paired(rows, "model", "down").loc["base"]
    assert (turned.verdict, turned.difference) == ("higher", pytest.approx(0.5))


def test_paired_is_the_paired_t_test():
    rng = np.random.default_rng(0)
    luck = rng.normal(size=8)
    groups = {"base": luck + rng.normal(0, 0.1, 8), "new": luck + rng.normal(0.1, 0.1, 8)}
    line = harness.paired(rows_of(**groups), "model", "base").loc["new"]
    test = scipy.stats.ttest_rel(groups["new"], groups["base"])
    low, high = test.confidence_interval(0.95)
    assert (line.low, line.high) == pytest.approx((low, high), rel=1e-9)
    assert line.difference / line.se == pytest.approx(test.statistic)
    assert line.verdict == ("higher" if test.pvalue < 0.05 else "cannot tell")


def test_paired_over_other_columns():
    rows = rows_of(a=[1, 2, 3], b=[2, 3, 5]).rename(columns={"val": "test", "seed": "fold"})
    line = harness.paired(rows, "model", "a", value="test", pair="fold").loc["b"]
    assert line.difference == pytest.approx(4 / 3)


@pytest.mark.parametrize("names", [("modle", "val", "seed"), ("model", "vall", "seed"),
                                   ("model", "val", "sed")])
def test_paired_names_a_column_that_is_not_there(names):
    by, value, pair = names
    unknown, = set(names) - {"model", "val", "seed"}
    with pytest.raises(ValueError, match=f"no column '{unknown}'; there are model, seed, val"):
        harness.paired(rows_of(a=[1, 2], b=[1, 2]), by, "a", value=value, pair=pair)


@pytest.mark.parametrize(("rows", "base", "message"), [
    (rows_of(a=[1, 2], b=[1, 2]), "c", "'c' is not in the column 'model'; it has"),
    (rows_of(a=[1, 2], b=[1]), "a", r"2 or more values of 'seed'.*'b': 1"),
    (rows_of(a=[1], b=[1]), "a", "2 or more values of 'seed'"),
    (rows_of(a=[1, 2], b=[1, math.nan]), "a", r"'val' must be there.*'b': 1"),
    (pd.concat([rows_of(a=[1, 2], b=[1, 2]), rows_of(b=[3])]), "a", "'b' has two rows for seed 1"),
])
def test_paired_says_what_is_wrong(rows, base, message):
    with pytest.raises(ValueError, match=message):
        harness.paired(rows, "model", base)


# ---------------------------------------------------------------------------------- evidence


@pytest.fixture(scope="module")
def measured(words):
    """The table of three finished runs, as of a study."""
    configs = [small("wavenet", words, seed=2), small("wavenet", words, seed=1),
               small("mlp", words, seed=1)]
    return pd.DataFrame([{"trial": i, "state": "complete"} | runs.measure(config)[0]
                         for i, config in enumerate(configs)])


def test_recorded_rows_come_back(measured, words, tmp_path):
    file = tmp_path / "evidence.csv"
    evidence.keep("claims", measured, file)
    rows = evidence.load("claims", file)
    expected = measured.sort_values("config", ignore_index=True)
    assert rows.part.tolist() == ["claims"] * 3
    for name in ("model", "seed", "steps", "parameters", "config", "versions", "by_position"):
        assert rows[name].tolist() == expected[name].tolist()
    for name in ("train", "val", "unseen", "copied", "seconds", "cpu"):
        assert rows[name].tolist() == pytest.approx(expected[name].tolist(), rel=1e-8)
    assert rows.test.isna().all()
    # A column for every setting, the defaults too.
    assert rows.n_hidden.tolist() == [runs.complete(json.loads(c))["n_hidden"] for c in rows.config]
    assert sorted(rows.learning_rate) == [0.004, 0.004, 0.1]
    assert set(rows.words) == {words}
    assert rows.columns.is_unique
    again, _ = runs.measure(json.loads(rows.config[0]))      # a row says how to make it again
    assert again["val"] == pytest.approx(rows.val[0], rel=1e-8)


def test_a_part_is_kept_beside_the_others(measured, tmp_path):
    file = tmp_path / "evidence.csv"
    evidence.keep("copies", measured[:2], file)
    evidence.keep("claims", measured[2:], file)
    before = evidence.load("copies", file)
    evidence.keep("claims", measured[:1], file)
    evidence.keep("claims", measured[2:].assign(val=9.5), file)      # instead of that row alone
    claims = evidence.load("claims", file).set_index("model").val
    assert (claims.loc["mlp"], len(claims)) == (9.5, 2)
    assert claims.loc["wavenet"] == pytest.approx(measured.val[0], rel=1e-8)
    pd.testing.assert_frame_equal(evidence.load("copies", file), before)
    assert [path.name for path in tmp_path.iterdir()] == ["evidence.csv"]
    first = file.read_bytes()
    evidence.keep("copies", measured[1::-1], file)           # in another order, the same file
    assert file.read_bytes() == first


def test_the_file_is_written_whole_or_not_at_all(measured, tmp_path, monkeypatch):
    file = tmp_path / "evidence.csv"
    evidence.keep("claims", measured[:1], file)
    first = file.read_bytes()
    many = pd.concat([measured.assign(config=[f"{i} {c}" for c in measured.config])
                      for i in range(30)])
    with full_disk(file, 1000), pytest.raises(OSError, match="File too large"):
        evidence.keep("claims", many, file)
    assert file.read_bytes() == first


def test_a_part_that_is_not_there(measured, tmp_path):
    file = tmp_path / "evidence.csv"
    evidence.keep("claims", measured, file)
    with pytest.raises(ValueError, match=r"'claim' is no part of evidence\.csv; expected claims,"):
        evidence.load("claim", file)
    with pytest.raises(ValueError, match="'claim' is no part of the evidence; expected claims,"):
        evidence.record("claim", tmp_path / "study.db")


def test_recording_keeps_what_the_part_asks_for_now(tmp_path, monkeypatch):
    kept, where = [], tmp_path / "study.db"
    monkeypatch.setattr(evidence, "keep", lambda name, rows: kept.append(rows))
    monkeypatch.setattr(evidence, "rows_of", lambda name: pd.DataFrame({"config": []}))
    monkeypatch.setattr(harness, "run_study",
                        lambda study, where, workers: harness.work(study, where, Measure()))
    for seeds in ((1, 2), (2, 3), ()):
        monkeypatch.setitem(evidence.STUDIES, "claims", lambda seeds=seeds: seeded(*seeds))
        evidence.record("claims", where)
    assert [list(rows.seed) if len(rows) else [] for rows in kept] == [[1, 2], [2, 3], []]
