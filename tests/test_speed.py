"""course.speed: what is measured in other processes."""

import re

import pytest
import torch

import helpers
from course import speed

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
