"""course.speed: what is measured in other processes."""

import pytest
import torch

from course import speed

SIZES = {"vocab_size": 27, "block_size": 4, "n_embd": 4, "n_hidden": 8, "stack": [4, 8],
         "windows": 500, "names": 5}


@pytest.mark.parametrize("way", ["lecture", "ours"])
@pytest.mark.parametrize("work", ["training", "evaluating", "sampling"])
def test_every_work_is_measured(work, way):
    assert speed.peak_memory(work, way, **SIZES) < 100


@pytest.mark.full
def test_a_peak_is_what_the_work_takes_beyond_what_was_there():
    assert 380 < speed.peak(lambda: torch.ones(100_000_000)) < 420            # 400 MB
