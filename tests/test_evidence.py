"""The recorded evidence of notebook 09: whole, as the README says, and measured again in full."""

import json
import math

import pytest

import evidence
import helpers
import runs
from course import ROOT

PARTS = list(evidence.STUDIES)


@pytest.fixture
def in_full(monkeypatch):
    monkeypatch.setattr(helpers, "QUICK", False)


@pytest.mark.parametrize("part", PARTS)
def test_every_configuration_is_recorded_once_and_nothing_else(part):
    recorded = evidence.rows_of(part).config
    assert sorted(recorded) == sorted(runs.key(config) for config in evidence.STUDIES[part]())


@pytest.mark.parametrize("part", PARTS)
def test_five_paired_seeds_or_more(part):
    seeds = evidence.load(part).groupby("group").seed.apply(sorted)
    assert all(found == seeds.iloc[0] for found in seeds)
    assert len(set(seeds.iloc[0])) == len(seeds.iloc[0]) >= 5


@pytest.mark.parametrize("part", PARTS)
def test_rows_are_those_of_whole_trainings(part):
    for row in evidence.load(part).to_dict("records"):
        config = runs.complete(json.loads(row["config"]))
        if "max_steps" in config:
            assert row["steps"] == config["max_steps"]
        elif config["budget"] is None:
            words = len(runs.data(config, "train")[0])
            assert row["steps"] == config["epochs"] * math.ceil(words / config["batch_size"])
        else:
            assert 0.7 < row["cpu"] / config["budget"] < 1.4
        assert row["parameters"] == sum(p.nelement() for p in runs.build(config).parameters())
        assert 1.2 < row["train"] < row["val"] < 2.6
        assert "torch 2." in row["versions"]


def test_readme_has_the_verdicts():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for line in evidence.readme_lines():
        assert line in readme


def test_a_recorded_row_is_measured_again(request, in_full):
    if not request.config.getoption("--full"):
        pytest.skip("takes minutes; run with --full")
    row = evidence.rows_of("claims").iloc[0]
    again, _ = runs.measure(json.loads(row.config))
    assert again["parameters"] == row.parameters
    for name in ("train", "val", "unseen"):
        assert again[name] == pytest.approx(row[name], abs=0.006), name
