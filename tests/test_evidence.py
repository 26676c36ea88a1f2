"""The recorded evidence of notebook 09: whole, as the README says, and measured again in full."""

import json
import math
import os
import platform
import signal
import time

import pandas as pd
import pytest

import evidence
import helpers
import runs
from course import ROOT

PARTS = list(evidence.STUDIES)
PAIRED = [part for part in PARTS if part not in ("carried", "longer", "best")]


@pytest.fixture
def in_full(monkeypatch):
    monkeypatch.setattr(helpers, "QUICK", False)


@pytest.mark.parametrize("part", PARTS)
def test_every_configuration_is_recorded_once_and_nothing_else(part):
    recorded = evidence.rows_of(part).config
    assert sorted(recorded) == sorted(runs.key(config) for config in evidence.STUDIES[part]())


@pytest.mark.parametrize("part", PAIRED)
def test_five_paired_seeds_or_more(part):
    seeds = evidence.load(part).groupby("group").seed.apply(sorted)
    assert all(found == seeds.iloc[0] for found in seeds)
    assert len(set(seeds.iloc[0])) == len(seeds.iloc[0]) >= 5


@pytest.mark.parametrize("part", PARTS)
def test_rows_are_those_of_whole_trainings(part):
    for row in evidence.load(part).to_dict("records"):
        config = runs.complete(json.loads(row["config"]))
        assert "torch 2." in row["versions"]
        assert 1.2 < row["train"] < row["val"] < 2.6
        here = f"Python {platform.python_version()},"
        if config["words"] == "text" and not row["versions"].startswith(here):
            continue                    # the topics of Python's help change with every release
        if config["model"] == "n-gram":
            assert row["steps"] == 0
        elif config["budget"] is not None:
            assert 0.7 < row["cpu"] / config["budget"] < 1.4
        elif "max_steps" in config:
            assert row["steps"] == config["max_steps"]
        else:
            words = len(runs.data(config, "train")[0])
            assert row["steps"] == config["epochs"] * math.ceil(words / config["batch_size"])
        assert row["parameters"] == sum(p.nelement() for p in runs.build(config).parameters())


@pytest.mark.parametrize("family", evidence.SPACES)
def test_every_family_was_searched_alike(family):
    trials = evidence.searched(family).trials
    assert len(trials) == evidence.TRIALS
    assert {t.state.name for t in trials} <= {"COMPLETE", "PRUNED"}
    space = evidence.SPACE | evidence.SPACES[family]
    for t in trials:
        assert set(t.params) == set(space)
        assert all(d._contains(d.to_internal_repr(t.params[k])) for k, d in space.items())
        assert len(t.intermediate_values) in (9, 10) or t.state.name == "PRUNED"
    complete = [t for t in trials if t.state.name == "COMPLETE"]
    lowest = min(complete, key=lambda t: t.user_attrs["row"]["val"]).user_attrs["row"]
    best = runs.complete(evidence.winner(family))
    for name, value in runs.complete(json.loads(lowest["config"])).items():
        if isinstance(value, float) and name != "budget":
            assert best[name] == pytest.approx(value, rel=0.06)
        else:
            assert best[name] == value or name == "budget"


def test_seeds_of_the_final_runs_are_not_those_of_the_searches():
    searched = {t.user_attrs["row"]["seed"] for family in evidence.SPACES
                for t in evidence.searched(family).trials if "row" in t.user_attrs}
    for part in ("equal_time", "best"):
        assert not searched & set(evidence.rows_of(part).seed)


def test_only_the_last_runs_opened_test():
    for part in PARTS:
        assert evidence.rows_of(part).test.notna().all() == (part == "best")
    chosen = evidence.load("longer").groupby("model").val.idxmin()
    best = evidence.load("best")
    assert sorted(best.model[~best.model.isin(["tree", "n-gram"])]) == sorted(chosen.index)


def test_readme_has_the_field():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for line in evidence.field_lines():
        assert line in readme


def test_readme_has_the_verdicts():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for line in evidence.readme_lines():
        assert line in readme


@pytest.mark.skipif(os.name == "nt", reason="Windows has no fork")
def test_two_processes_that_keep_rows_at_once_lose_none(tmp_path):
    file, start, n, children = tmp_path / "evidence.csv", time.time() + 0.5, 25, []
    for part in ("claims", "copies"):
        children.append(os.fork())
        if children[-1] == 0:
            code = 1
            try:
                signal.alarm(60)                             # whatever happens, it ends
                time.sleep(max(0, start - time.time()))
                for i in range(n):
                    evidence.keep(part, pd.DataFrame([{"config": f"{i}", "by_position": []}]), file)
                code = 0
            finally:
                os._exit(code)
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0, 0]
    for part in ("claims", "copies"):
        assert sorted(map(int, evidence.rows_of(part, file).config)) == list(range(n))
    assert list(tmp_path.iterdir()) == [file]


def test_a_recorded_row_is_measured_again(request, in_full):
    if not request.config.getoption("--full"):
        pytest.skip("takes minutes; run with --full")
    row = evidence.rows_of("claims").iloc[0]
    again, _ = runs.measure(json.loads(row.config))
    assert again["parameters"] == row.parameters
    for name in ("train", "val", "unseen"):
        assert again[name] == pytest.approx(row[name], abs=0.006), name
