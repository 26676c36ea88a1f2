"""One configuration in, one row out; the recorded rows of notebooks 10 and 11 are whole."""

import functools
import json
import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F

import helpers
from course import evidence, own, record, runner, runs, studies, together, wavenet

# Every model, small enough to train within a blink.
SMALL = {
    "mlp": {"n_embd": 4, "n_hidden": 8, "max_steps": 10},
    "tree": {"n_embd": 4, "n_hidden": 8, "max_steps": 10},
    "torch tree": {"n_embd": 4, "n_hidden": 8, "steps": 4, "dropout": 0.3},
    "flat": {"n_embd": 4, "n_hidden": 16, "steps": 4, "average": 0.9},
    "wavenet": {"n_hidden": 6, "n_skip": 8, "dilations": [1, 2], "steps": 4, "dropout": 0.3},
    "gru": {"n_hidden": 6, "steps": 4, "test": True},
    "lstm": {"n_hidden": 6, "steps": 4},
    "memory": {"n_hidden": 6, "n_layers": 2, "steps": 4, "zoneout": 0.3},
    "transformer": {"n_hidden": 8, "n_layers": 2, "n_head": 2, "steps": 4},
    "n-gram": {"order": 3},
    "bag": {"n_hidden": 8, "steps": 4},
}
PARTS = list(evidence.STUDIES)


@pytest.fixture
def small(words_file):
    """A function that returns a small configuration; some words of val are in train, too."""
    names = helpers.load_words()
    words = words_file(names[:34] + names[:26])
    return lambda model, **settings: runs.complete(
        {"model": model, "words": words} | SMALL[model] | settings)


def figures(row):
    return {name: value for name, value in row.items() if name not in ("seconds", "cpu")}


def by_hand(model, c, split):
    """[(word, the loss of each of its characters)] of a split, one word at a time."""
    stoi, parts = runs.load_parts(c["words"], 0, c["copies"])
    out = []
    with helpers.mode(model, False), torch.no_grad():
        for word in parts[split]:
            if runs.MODELS[c["model"]][0] == "windows":
                X, Y = helpers.build_dataset([word], c["block_size"], stoi)
            else:
                X, Y = wavenet.encode_names([word], stoi)
            logits = model(X).flatten(0, -2)
            out.append((word, F.cross_entropy(logits, Y.flatten(), reduction="none").tolist()))
    return out


@pytest.mark.parametrize(("config", "message"), [
    (None, "model is None"), ("mlp", "model is 'mlp'"), ({}, "model is None; expected one of mlp"),
    ({"model": "wavnet"}, "model is 'wavnet'; expected one of .*wavenet"),
    ({"model": "wavenet", "dilation": [1]}, r"no setting 'dilation'; did you mean dilations\?"),
    ({"model": "mlp", "n_hidden": "64"}, "n_hidden is '64'; expected int"),
    ({"model": "mlp", "learning_rate": math.nan}, "learning_rate is nan; expected a number"),
    ({"model": "wavenet", "dilations": 2}, "dilations is 2; expected list"),
    ({"model": "transformer", "n_hidden": 10}, "n_head is 4; expected a divisor of 10, n_hidden"),
    ({"model": "gru", "warmup": 1}, "warmup is 1.0; expected a number from 0 to below 1"),
    ({"model": "mlp", "schedule": "steps"}, "schedule is 'steps'; expected one of step, constant"),
    ({"model": "gru", "copies": "no"}, "copies is 'no'; expected one of kept")])
def test_an_impossible_configuration_is_refused_before_a_step(config, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        studies.open_study("s", tmp_path / "s.db", [config])
    assert not (tmp_path / "s.db").exists()


def test_equal_configurations_have_one_key():
    config = {"n_hidden": 7, "model": "gru", "dropout": 0}
    assert runs.key(config) == runs.key(runs.complete(config)) == '{"model": "gru", "n_hidden": 7}'


@pytest.mark.parametrize("model", SMALL)
def test_one_configuration_is_one_row_and_the_same_again(model, small):
    assert runs.MODELS.keys() - own.MODELS <= SMALL.keys()
    c = small(model, seed=3)
    row, network = runs.measure(c)
    assert list(row) == runs.ROW
    assert json.loads(json.dumps(row)) == row
    assert runs.complete(json.loads(row["config"])) == c
    assert row["parameters"] == sum(p.nelement() for p in network.parameters())
    assert row["steps"] == SMALL[model].get("max_steps", SMALL[model].get("steps", 0))
    losses, known = by_hand(network, c, "val"), runs.load_parts(c["words"], 0, "kept")[1]["train"]
    for name, wanted in (("val", (True, False)), ("unseen", (False,)), ("copied", (True,))):
        each = [x for word, loss in losses for x in loss if (word in known) in wanted]
        assert row[name] == pytest.approx(np.mean(each), abs=1e-5)
    places = [[loss[i] for _, loss in losses if i < len(loss) - 1] for i in range(10)]
    for value, place in zip(row["by_position"], [*places, [loss[-1] for _, loss in losses]],
                            strict=True):
        assert value == (pytest.approx(np.mean(place), abs=2e-5) if place else None)
    assert (row["test"] is not None) == (model == "gru")
    torch.rand(5)
    assert figures(runs.measure(c)[0]) == figures(row)
    if model != "n-gram":
        assert runs.measure(c | {"seed": 4})[0]["val"] != row["val"]


@pytest.mark.parametrize(("copies", "duplicates"), [("kept", True), ("not in train", False),
                                                    ("none", False)])
def test_copies_are_where_the_setting_says(copies, duplicates, small):
    c = small("gru", copies=copies)
    assert c == runs.complete(c | {"words": Path(c["words"])})
    parts = runs.load_parts(c["words"], 0, copies)[1]
    held_out = set(parts["val"]) | set(parts["test"])
    assert bool(held_out & set(parts["train"])) == duplicates
    assert runs.unseen_words(c, parts["val"]).all() == (copies == "none")


@pytest.mark.parametrize(("model", "settings"), [
    ("gru", {"steps": 10}), ("mlp", {"max_steps": 20}), ("mlp", {"schedule": "linear"})])
def test_val_is_reported_after_every_tenth(model, settings, small):
    said, c = [], small(model, **settings)
    row, _ = runs.measure(c, lambda *args: said.append(args))
    assert [tenth for tenth, _ in said] == list(range(1, 11))
    assert said[-1][1] == pytest.approx(row["val"], abs=1e-6)
    assert figures(runs.measure(c)[0]) == figures(row)               # to look changes nothing


def test_steps_repeat_what_a_budget_did(small, monkeypatch):
    monkeypatch.setattr(helpers, "QUICK", False)
    row, model = runs.measure(small("torch tree", steps=None, budget=0.05))
    again, other = runs.measure(small("torch tree", steps=row["steps"]))
    assert row["steps"] > 1
    assert again["val"] == row["val"]
    assert all(map(torch.equal, model.parameters(), other.parameters()))


def test_a_training_that_diverges_or_is_stopped(small):
    with pytest.raises(runs.Diverged, match=r"the loss is nan at step \d+; lower learning_rate"):
        runs.measure(small("wavenet", learning_rate=1e30))
    c = small("gru")
    network = runs.build(c)
    torch.nn.init.constant_(network.head[-1].bias, math.inf)
    with pytest.raises(runs.Diverged, match="the losses on val are NaN or infinite"):
        runs.loss(network, c)

    def stop(tenth, val):
        raise KeyboardInterrupt

    with pytest.raises(runs.Interrupted, match="stopped by hand after 1 of 4 steps"):
        runs.measure(c, stop)
    assert runs.measure(c, stop, partial=True)[0]["steps"] == 1


def test_a_question_says_which_runs_failed_and_why(small, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(runner, "ProcessPoolExecutor", lambda *_: ThreadPoolExecutor(1))
    rows = runner.collect({"pairs": {}, "threes": {"group": 3}}, small("tree"), tmp_path / "rows",
                          seed=[1, 2])
    said = capsys.readouterr().out
    assert said.count("threes failed: block_size 8 is not a power of 3") == 1
    assert rows.val.notna().tolist() == (rows.arm == "pairs").tolist()


@pytest.mark.parametrize("part", PARTS)
def test_recorded_rows_are_whole(part):
    rows = evidence.load(part)
    assert sorted(rows.config) == sorted({*map(runs.key, evidence.STUDIES[part]())})
    assert (rows.test.notna() == (part == "best")).all()             # only the last opened test
    assert not rows.duplicated(["group", "seed"]).any() or part in ("longer", "best")
    count = functools.cache(lambda c: sum(
        p.nelement() for p in runs.build(runs.complete(json.loads(c))).parameters()))
    for row in rows.to_dict("records"):
        c = runs.complete(json.loads(row["config"]))
        assert 1.2 < row["train"] < row["val"] < 2.6
        assert row["steps"] == (c.get("steps") or c.get("max_steps", row["steps"]))
        assert row["parameters"] == count(json.dumps(c | {"seed": 1}))


@pytest.mark.parametrize("group", ["flat, 8 letters", "tree, bug", "tree, fixed"])
def test_seeds_that_train_together_end_as_if_alone(group, small):
    config = evidence.LECTURES[group][0] | {"n_embd": 4, "n_hidden": 8, "max_steps": 30}
    configs = [small(**config, seed=seed) for seed in (1, 2)]
    models = [runs.build(c) for c in configs]
    together.train(models, *runs.data(configs[0], "train"), (1, 2), 30, 32, 0.1)
    for c, model in zip(configs, models, strict=True):
        assert runs.loss(model, c) == pytest.approx(runs.measure(c)[0]["val"], abs=1e-4)


def test_a_kept_net_gives_what_it_gave(small, tmp_path):
    words, file = small("memory")["words"], tmp_path / "r.safetensors"
    new = record.train(file, words=words, n_hidden=4, epochs=1)
    net, row = record.load(file)
    assert row == new | record.measure(net, words) == new


@pytest.mark.full
def test_the_record_is_what_was_recorded(monkeypatch):
    net, row = record.load()
    monkeypatch.setattr(helpers, "QUICK", False)
    assert runs.loss(net, runs.complete(record.RECORD)) == pytest.approx(row["val"], abs=1e-4)
    assert row["config"] == runs.key(record.RECORD)
    assert max(row["val"], row["test"]) <= 1.907


def test_rows_are_kept_beside_the_others(tmp_path):
    file, rows = tmp_path / "evidence.csv", evidence.rows_of("claims")
    rows["by_position"] = rows.by_position.map(json.loads)
    evidence.keep("claims", rows[:2], file)
    evidence.keep("copies", rows[:1], file)
    evidence.keep("claims", rows[1:3].assign(val=2.5), file)
    assert evidence.rows_of("claims", file).val.value_counts()[2.5] == 2
    assert len(pd.read_csv(file)) == 4
    assert list(tmp_path.iterdir()) == [file]
    with pytest.raises(ValueError, match="'text' is not a part of"):
        evidence.load("text", file)


def test_searches_are_alike_and_a_new_one_takes_the_place_of_the_old(small, tmp_path, monkeypatch):
    monkeypatch.delattr("os.symlink")                                # Windows may refuse it
    for family, space in evidence.SPACES.items():
        trials = evidence.searched(family).trials
        assert len(trials) >= evidence.TRIALS
        assert {*trials[0].params} == {*evidence.SPACE, *space}
    file, where = tmp_path / "searches.journal", tmp_path / "s.db"
    study = studies.open_study("gru", where, [small("n-gram")])
    evidence.keep_search("gru", where, file)
    studies.work(study)
    evidence.keep_search("gru", where, file)
    assert [t.state.name for t in evidence.searched("gru", file).trials] == ["COMPLETE"]
