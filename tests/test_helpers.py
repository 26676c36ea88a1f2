"""Checks of helpers.py against the real data, torch.nn, and loops written out by hand."""

import errno
import hashlib
import json
import math
import os
import random
import re
import runpy
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import helpers
from helpers import (
    BatchNorm1d,
    BatchNorm1dPart3,
    Embedding,
    Flatten,
    FlattenConsecutive,
    Linear,
    Sequential,
    Tanh,
)

matplotlib.use("Agg")

LETTERS = list("abcdefghijklmnopqrstuvwxyz")
NO_INTEGERS = [0, -1, 2.5, True]
NO_POSITIVES = [0, -1, math.nan, math.inf]


@pytest.fixture(autouse=True)
def same_start():
    torch.manual_seed(0)
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def words():
    return helpers.load_words()


@pytest.fixture(scope="module")
def vocab(words):
    return helpers.build_vocab(words)


@pytest.fixture(scope="module")
def stoi(vocab):
    return vocab[0]


@pytest.fixture(scope="module")
def itos(vocab):
    return vocab[1]


@pytest.fixture(scope="module")
def data(words, stoi):
    return helpers.build_dataset(words[:300], 8, stoi)


@pytest.fixture
def two_threads():
    # With a single thread from the start, a count that is never restored would go unseen.
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


class Fixed:
    """A model without parameters: gives `logits(x)` and keeps its inputs."""

    def __init__(self, logits):
        self.logits, self.inputs = logits, []

    def __call__(self, x):
        self.inputs.append(x)
        return self.logits(x)

    def parameters(self):
        return []


class Tripwire:
    """Passes its input on, and raises `error` when `trips(number of the call, input)`.

    The calls in training are numbered from 1; outside training the number is 0.
    """

    training = True

    def __init__(self, error, trips):
        self.error, self.trips, self.calls = error, trips, 0

    def __call__(self, x):
        self.calls += self.training
        if self.trips(self.calls if self.training else 0, x):
            raise self.error
        return x

    def parameters(self):
        return []


def close(a, b, tolerance=1e-6):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def small_mlp(seed=1):
    torch.manual_seed(seed)
    return helpers.make_mlp(27, 8, 4, 16)


def small_tree(seed=1):
    torch.manual_seed(seed)
    return helpers.make_tree(27, 8, 4, 16)


def nested_model():
    """Batch norms in two nested containers, with unequal flags and statistics of their own."""
    norms = [BatchNorm1d(12), BatchNorm1d(9), BatchNorm1d(9)]
    for norm in norms:
        norm.running_mean, norm.running_var = torch.randn(len(norm.gamma)), torch.tensor(2.0)
    norms[1].training = False
    inner = Sequential([norms[1], Tanh(), Sequential([Linear(9, 9), norms[2]])])
    first = Sequential([Flatten(), Linear(32, 12), norms[0], Linear(12, 9)])
    model = Sequential([Embedding(27, 4), first, inner, Linear(9, 27)])
    return helpers.ready(model), norms


def state_of(norms):
    return [(m.training, m.running_mean.tolist(), m.running_var.tolist()) for m in norms]


# ------------------------------------------------------------------------------- quick mode


@pytest.mark.parametrize(("quick", "steps", "expected"), [
    (False, 200_000, 200_000), (True, 200_000, 120), (True, 120, 120), (True, 3, 3),
])
def test_capped_cuts_only_in_quick_mode(monkeypatch, quick, steps, expected):
    monkeypatch.setattr(helpers, "QUICK", quick)
    assert helpers.capped(steps) == expected


@pytest.mark.parametrize(("value", "quick"), [("1", True), ("0", False), (None, False)])
def test_quick_mode_is_set_by_the_environment(monkeypatch, value, quick):
    monkeypatch.delenv("MAKEMORE_QUICK", raising=False)
    if value is not None:
        monkeypatch.setenv("MAKEMORE_QUICK", value)
    assert runpy.run_path(helpers.__file__)["QUICK"] is quick


# ------------------------------------------------------------------------------- load_words


def test_the_names_are_those_that_all_figures_are_for(words):
    content = (helpers.ROOT / "data" / "names.txt").read_bytes()
    assert hashlib.sha256(content).hexdigest() == (
        "bd02dfd33179e23ec2dd093cbd4de619834f75d660ef1ae04d3127e7a0110053"
    )
    assert len(words) == 32_257
    assert words[:3] == ["emma", "olivia", "ava"]
    assert helpers.changed("tree", words, config_of("tree")) == []


def test_what_editors_add_to_a_file_is_dropped(tmp_path):
    file = tmp_path / "words.txt"
    file.write_bytes(b"\xef\xbb\xbfemma\r\n\r\n  olivia \n\n \t \r\n\tava\r\nmia")
    assert helpers.load_words(file) == ["emma", "olivia", "ava", "mia"]


def test_any_alphabet_and_capitals_stay_as_they_are(tmp_path):
    names = ["Zo\u00eb", "jos\u00e9", "\u0410\u043d\u043d\u0430", "O'Neil", "anna maria"]
    file = tmp_path / "words.txt"
    file.write_text("\n".join(names), encoding="utf-8")
    assert helpers.load_words(str(file)) == names


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent\.txt"):
        helpers.load_words(tmp_path / "absent.txt")


@pytest.mark.parametrize(("content", "message"), [
    (b"", r"words\.txt.*no words"),
    (b"\n \r\n\t\n", r"words\.txt.*no words"),
    (b"\xef\xbb\xbf", r"words\.txt.*no words"),
    (b"emma\n\nst.john\n", r"words\.txt, line 3.*st\.john"),
    (b"zo\xeb\nemma\n", r"words\.txt, line 1.*not UTF-8.*byte 3"),
    (b"emma\r\n\r\nava\r\nzo\xeb\r\n", r"words\.txt, line 4.*not UTF-8.*byte 3"),
    ("emma\nava\n".encode("utf-16"), r"words\.txt, line 1.*not UTF-8"),
])
def test_a_bad_file_is_named_with_its_line(tmp_path, content, message):
    file = tmp_path / "words.txt"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        helpers.load_words(file)


def test_a_file_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    def refused(self):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    file = tmp_path / "mine.txt"
    file.write_text("emma")
    monkeypatch.setattr(Path, "read_bytes", refused)
    with pytest.raises(ValueError, match=r"mine\.txt: cannot be read \(Permission denied\); give"):
        helpers.load_words(file)


def test_a_relative_path_is_found_from_any_folder(tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    assert helpers.load_words("data/names.txt") == words


def test_a_file_in_the_current_folder_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "names.txt").write_text("mine\n")
    assert helpers.load_words("data/names.txt") == ["mine"]


# ------------------------------------------------------------------ vocabulary and splits


def test_the_vocabulary_is_the_dot_and_the_sorted_characters():
    stoi, itos = helpers.build_vocab(["da", "cab\u00e9", "aZ"])
    assert stoi == {".": 0, "Z": 1, "a": 2, "b": 3, "c": 4, "d": 5, "\u00e9": 6}
    assert {itos[i]: i for i in range(7)} == stoi
    assert len(itos) == 7


def test_the_real_vocabulary_has_27_characters(stoi):
    assert list(stoi) == [".", *LETTERS]


def test_the_split_is_that_of_the_lecture(words):
    shuffled, state = list(words), random.getstate()
    random.seed(42)
    random.shuffle(shuffled)
    random.setstate(state)
    n1, n2 = int(0.8 * len(words)), int(0.9 * len(words))
    assert helpers.split_words(words) == {
        "train": shuffled[:n1], "val": shuffled[n1:n2], "test": shuffled[n2:],
    }


def test_the_splits_have_the_known_sizes(words):
    sizes = {name: len(part) for name, part in helpers.split_words(words).items()}
    assert sizes == {"train": 25_805, "val": 3_226, "test": 3_226}


def test_splitting_leaves_its_input_and_the_random_state_alone():
    words, state = list(LETTERS), random.getstate()
    helpers.split_words(words)
    assert words == LETTERS
    assert random.getstate() == state


def test_an_integer_of_numpy_is_a_seed_like_any_other(trained, itos):
    words = list("abcdefghijkl")
    assert helpers.split_words(words, np.int64(3)) == helpers.split_words(words, 3)
    assert helpers.sample(trained, 8, itos, 5, seed=np.int64(3)) == helpers.sample(
        trained, 8, itos, 5, seed=3)


def test_any_collection_of_texts_is_a_list_of_words():
    words = [chr(97 + i) for i in range(12)]
    for same in (tuple(words), np.array(words), pd.Series(words)):
        assert helpers.split_words(same, 3) == helpers.split_words(words, 3)
        assert helpers.build_vocab(same) == helpers.build_vocab(words)


def test_another_seed_gives_another_split():
    assert helpers.split_words(LETTERS, seed=1) != helpers.split_words(LETTERS)


@pytest.mark.parametrize("n", [*range(10, 31), 99, 101])
def test_ten_words_are_enough_to_split(n):
    words = [str(i) for i in range(n)]
    parts = helpers.split_words(words)
    assert all(parts.values())
    assert sorted(word for part in parts.values() for word in part) == sorted(words)


@pytest.mark.parametrize("n", range(10))
def test_no_split_is_ever_empty(n):
    try:
        parts = helpers.split_words(["a"] * n)
    except ValueError as error:
        parts, message = {}, str(error)
    assert all(parts.values())
    assert parts or re.search(rf"^{n} words .*empty", message)


# -------------------------------------------------------------------------------- windows


def test_the_windows_of_emma(stoi):
    X, Y = helpers.build_dataset(["emma", "ab"], 3, stoi)
    assert X.dtype == Y.dtype == torch.int64
    assert X.tolist() == [
        [0, 0, 0], [0, 0, 5], [0, 5, 13], [5, 13, 13], [13, 13, 1],
        [0, 0, 0], [0, 0, 1], [0, 1, 2],
    ]
    assert Y.tolist() == [5, 13, 13, 1, 0, 1, 2, 0]


def test_a_window_of_one_is_the_character_before(stoi):
    X, Y = helpers.build_dataset(["abc"], 1, stoi)
    assert (X.tolist(), Y.tolist()) == ([[0], [1], [2], [3]], [1, 2, 3, 0])


def test_the_real_splits_have_the_known_shapes(words, stoi):
    parts = helpers.split_words(words)
    shapes = [helpers.build_dataset(part, 8, stoi)[0].shape for part in parts.values()]
    assert shapes == [(183_802, 8), (22_949, 8), (23_053, 8)]


@pytest.mark.parametrize("block_size", NO_INTEGERS)
def test_a_bad_block_size_is_named(stoi, block_size):
    with pytest.raises(ValueError, match=f"block_size is {re.escape(repr(block_size))}"):
        helpers.build_dataset(["emma"], block_size, stoi)


def test_windows_of_no_words_are_refused(stoi):
    with pytest.raises(ValueError, match="no words"):
        helpers.build_dataset([], 3, stoi)


def test_an_unknown_character_is_named_with_its_word(stoi):
    with pytest.raises(ValueError, match="'\u00e9' in 'jos\u00e9'"):
        helpers.build_dataset(["emma", "jos\u00e9"], 3, stoi)


# ------------------------------------------------------------------ layers against torch.nn


def results(layer, parameters, x):
    """The output and the gradients of the input (if any) and the parameters."""
    leaves = [*parameters]
    if x.is_floating_point():
        x = x.clone().requires_grad_()
        leaves.insert(0, x)
    for p in parameters:
        p.requires_grad_()
    out = layer(x)
    upstream = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
    return [out.detach(), *(torch.autograd.grad(out, leaves, upstream) if leaves else [])]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(4, 6), (1, 6), (3, 5, 6), (2, 3, 4, 6)])
def test_linear_is_that_of_torch(shape, bias):
    ours, theirs, x = Linear(6, 7, bias=bias), nn.Linear(6, 7, bias=bias), torch.randn(shape)
    with torch.no_grad():
        theirs.weight.copy_(ours.weight.t())
        if bias:
            ours.bias += torch.randn(7)
            theirs.bias.copy_(ours.bias)
    got = results(ours, ours.parameters(), x)
    expected = results(theirs, list(theirs.parameters()), x)
    expected[2] = expected[2].t()
    close(got, expected)


def test_linear_starts_with_outputs_of_variance_one():
    layer = Linear(400, 300)
    assert layer.weight.shape == (400, 300)
    assert layer.weight.std().item() == pytest.approx(1 / 20, rel=0.02)
    assert layer.bias.tolist() == [0.0] * 300


@pytest.mark.parametrize("shape", [(4,), (4, 6), (2, 3, 4)])
def test_tanh_is_that_of_torch(shape):
    x = 3 * torch.randn(shape)
    close(results(Tanh(), [], x), results(nn.Tanh(), [], x))


@pytest.mark.parametrize("shape", [(4,), (4, 8), (2, 3, 4)])
def test_embedding_is_that_of_torch(shape):
    ours, theirs, x = Embedding(27, 5), nn.Embedding(27, 5), torch.randint(0, 27, shape)
    with torch.no_grad():
        theirs.weight.copy_(ours.weight)
    close(results(ours, ours.parameters(), x), results(theirs, [theirs.weight], x))


@pytest.mark.parametrize("shape", [(4, 6), (4, 3, 6), (1, 3, 6), (2, 3, 4, 5)])
def test_flatten_is_that_of_torch(shape):
    x = torch.randn(shape)
    close(results(Flatten(), [], x), results(nn.Flatten(), [], x), 0)


def test_nested_sequentials_are_those_of_torch():
    ours = Sequential([
        Embedding(27, 4), Sequential([Flatten(), Linear(12, 5, bias=False), Tanh()]),
        Linear(5, 27),
    ])
    theirs = nn.Sequential(
        nn.Embedding(27, 4), nn.Sequential(nn.Flatten(), nn.Linear(12, 5, bias=False), nn.Tanh()),
        nn.Linear(5, 27),
    )
    with torch.no_grad():
        for p, q in zip(theirs.parameters(), ours.parameters(), strict=True):
            p.copy_(q.t() if p.shape == q.t().shape and p.shape != (27, 4) else q)
    x = torch.randint(0, 27, (6, 3))
    got = results(ours, ours.parameters(), x)
    expected = results(theirs, list(theirs.parameters()), x)
    expected[2], expected[3] = expected[2].t(), expected[3].t()
    close(got, expected)
    assert ours.out.shape == (6, 27)


# ------------------------------------------------------------------------------ batch norm


def channels_last(theirs, x):
    """torch's batch norm on (B, T, C); it wants (N, C, L)."""
    return theirs(x) if x.ndim == 2 else theirs(x.transpose(1, 2)).transpose(1, 2)


def norm_pair(dim):
    ours, theirs = BatchNorm1d(dim), nn.BatchNorm1d(dim)
    with torch.no_grad():
        ours.gamma += 0.3 * torch.randn(dim)
        ours.beta += torch.randn(dim)
        theirs.weight.copy_(ours.gamma)
        theirs.bias.copy_(ours.beta)
    return ours, theirs


@pytest.mark.parametrize("shape", [(16, 5), (8, 4, 5), (1, 6, 5), (2, 1, 5)])
def test_running_statistics_follow_those_of_torch(shape):
    ours, theirs = norm_pair(5)
    for i in range(7):
        x = 2 * torch.randn(shape) + i
        ours(x)
        channels_last(theirs, x)
    close(ours.running_mean.flatten(), theirs.running_mean, 1e-5)
    close(ours.running_var.flatten(), theirs.running_var, 1e-5)


@pytest.mark.parametrize("shape", [(16, 5), (1, 5), (8, 4, 5), (1, 1, 5)])
def test_evaluation_is_that_of_torch(shape):
    ours, theirs = norm_pair(5)
    ours(3 * torch.randn(32, *shape[1:]) + 1)
    theirs.running_mean.copy_(ours.running_mean.flatten())
    theirs.running_var.copy_(ours.running_var.flatten())
    ours.training = False
    theirs.eval()
    kept, x = ours.running_mean.clone(), torch.randn(shape)
    got = results(ours, ours.parameters(), x)
    expected = results(lambda x: channels_last(theirs, x), list(theirs.parameters()), x)
    close(got, expected)
    assert torch.equal(ours.running_mean, kept)


@pytest.mark.parametrize(("shape", "dims"), [((16, 5), 0), ((4, 3, 5), (0, 1))])
def test_training_differs_from_torch_by_the_variance_alone(shape, dims):
    ours, theirs = norm_pair(5)
    x = 2 * torch.randn(shape) + 1
    centred = x - x.mean(dims)

    def by_hand(unbiased):
        return centred / torch.sqrt(x.var(dims, correction=unbiased) + 1e-5) * ours.gamma + (
            ours.beta
        )

    close(ours(x), by_hand(1))
    close(channels_last(theirs, x), by_hand(0))
    assert (by_hand(1) - by_hand(0)).abs().max() > 0.01


def test_the_gradients_go_through_the_statistics_of_the_batch():
    ours, x = BatchNorm1d(5), torch.randn(4, 3, 5)
    _, of_x, _, _ = results(ours, ours.parameters(), x)
    assert of_x.sum((0, 1)).abs().max() < 1e-5
    assert not ours.running_mean.requires_grad


def test_part_3_keeps_statistics_for_each_position():
    ours, x = BatchNorm1dPart3(5), torch.randn(16, 4, 5)
    close(ours(x), (x - x.mean(0)) / torch.sqrt(x.var(0) + 1e-5))
    assert ours.running_mean.shape == ours.running_var.shape == (1, 4, 5)


def test_both_batch_norms_are_the_same_on_two_dimensions():
    old, new = BatchNorm1dPart3(5), BatchNorm1d(5)
    for _ in range(3):
        x = torch.randn(16, 5)
        for a, b in zip(results(old, old.parameters(), x), results(new, new.parameters(), x),
                        strict=True):
            assert torch.equal(a, b)
    assert torch.equal(old.running_mean, new.running_mean)
    assert torch.equal(old.running_var, new.running_var)
    old.training = new.training = False
    assert torch.equal(old(x), new(x))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("dim", "shape"), [
    (5, (5,)), (5, (2, 3, 4, 5)), (5, (4, 6)), (5, (4, 5, 3)), (5, (4, 1)), (1, (4, 5)),
    (1, (4, 3, 5)),
])
def test_batch_norm_refuses_other_shapes(dim, shape, training):
    ours = BatchNorm1d(dim)
    ours.training = training
    with pytest.raises(ValueError, match=rf"BatchNorm1d\({dim}\).*{re.escape(str(shape))}"):
        ours(torch.randn(shape))


@pytest.mark.parametrize("shape", [(1, 5), (1, 1, 5)])
def test_batch_norm_refuses_to_train_on_one_value_per_channel(shape):
    ours = BatchNorm1d(5)
    with pytest.raises(ValueError, match="no variance in training"):
        ours(torch.randn(shape))
    assert ours.running_var.tolist() == [1.0] * 5


# The warning is the lecture's trap itself: no error, only NaN from then on.
@pytest.mark.filterwarnings("ignore:var")
def test_part_3_keeps_the_nan_of_a_single_example():
    ours, x = BatchNorm1dPart3(5), torch.randn(1, 5)
    assert ours(x).isnan().all()
    assert ours.running_var.isnan().all()
    ours(torch.randn(16, 5))
    assert ours.running_var.isnan().all()


def test_part_3_evaluates_a_single_example():
    ours, x = BatchNorm1dPart3(5), torch.randn(1, 5)
    ours.training = False
    close(ours(x), x, 1e-4)


# ---------------------------------------------------------------------- FlattenConsecutive


@pytest.mark.parametrize("T", [2, 4, 6, 8])
def test_pairs_are_the_even_and_the_odd_positions(T):
    x = torch.randn(3, T, 5)
    expected = torch.cat([x[:, ::2], x[:, 1::2]], dim=2)
    got = FlattenConsecutive(2)(x)
    assert torch.equal(got, expected.squeeze(1) if T == 2 else expected)


@pytest.mark.parametrize(("n", "T"), [(1, 4), (3, 6), (4, 8), (8, 16), (3, 3), (8, 8), (1, 1)])
def test_groups_of_any_size(n, T):
    x = torch.randn(2, T, 5)
    expected = torch.cat([x[:, i::n] for i in range(n)], dim=2)
    if n == T:
        assert expected.shape == (2, 1, 5 * n)
        expected = expected[:, 0]
    got = FlattenConsecutive(n)(x)
    assert torch.equal(got, expected)


def test_a_batch_of_one_keeps_its_batch_dimension():
    assert FlattenConsecutive(2)(torch.randn(1, 2, 5)).shape == (1, 10)


def test_groups_of_an_input_that_is_not_contiguous():
    x = torch.randn(3, 5, 8).transpose(1, 2)
    assert not x.is_contiguous()
    expected = torch.cat([x[:, ::2], x[:, 1::2]], dim=2)
    assert torch.equal(FlattenConsecutive(2)(x), expected)


@pytest.mark.parametrize(("n", "shape", "message"), [
    (2, (4, 10), r"\(4, 10\), expected \(B, T, C\)"),
    (2, (4, 8, 3, 2), r"\(4, 8, 3, 2\), expected \(B, T, C\)"),
    (2, (4, 7, 10), "7 positions do not divide into groups of 2"),
    (3, (4, 8, 10), "8 positions do not divide into groups of 3"),
    (4, (4, 2, 10), "2 positions do not divide into groups of 4"),
])
def test_inputs_that_form_no_groups(n, shape, message):
    layer = FlattenConsecutive(n)
    with pytest.raises(ValueError, match=message):
        layer(torch.randn(shape))


@pytest.mark.parametrize("n", [0, -1, 2.0, True])
def test_bad_group_sizes(n):
    with pytest.raises(ValueError, match=rf"FlattenConsecutive\({re.escape(repr(n))}\)"):
        FlattenConsecutive(n)


# ---------------------------------------------------------------------------------- models


def count(model):
    return sum(p.nelement() for p in model.parameters())


MODELS = [
    (helpers.make_mlp, (3, 10, 200), 12_097), (helpers.make_mlp, (8, 10, 200), 22_097),
    (helpers.make_tree, (8, 10, 68), 22_397), (helpers.make_tree, (8, 24, 128), 76_579),
]


@pytest.mark.parametrize(("make", "sizes", "n_parameters"), MODELS)
def test_a_new_model_is_of_the_known_size_and_knows_nothing(make, sizes, n_parameters, words, stoi):
    model = make(27, *sizes)
    X, Y = helpers.build_dataset(words[:500], sizes[0], stoi)
    logits = model(X)
    assert count(model) == n_parameters
    assert logits.shape == (len(X), 27)
    assert F.cross_entropy(logits, Y).item() == pytest.approx(math.log(27), abs=0.05)
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize(("n", "block_size", "levels"), [
    (2, 2, 1), (2, 16, 4), (3, 9, 2), (3, 243, 5), (4, 16, 2), (8, 8, 1),
])
def test_a_tree_has_one_level_for_each_power(n, block_size, levels):
    model = helpers.make_tree(27, block_size, 3, 5, n=n)
    assert helpers.tree_levels(block_size, n) == [n**k for k in range(levels, -1, -1)]
    assert sum(isinstance(m, FlattenConsecutive) for m in model.layers) == levels
    assert model(torch.zeros(2, block_size, dtype=torch.int64)).shape == (2, 27)


@pytest.mark.parametrize(("block_size", "n"), [
    (7, 2), (6, 2), (12, 2), (8, 3), (8, 4), (1, 2), (1, 3),
])
def test_block_sizes_that_no_tree_ends_in(block_size, n):
    with pytest.raises(ValueError, match=f"block_size {block_size} is no power of {n}.*{n**3}"):
        helpers.make_tree(27, block_size, 10, 20, n=n)


@pytest.mark.parametrize("block_size", NO_INTEGERS)
def test_bad_block_sizes_of_a_tree(block_size):
    with pytest.raises(ValueError, match=f"block_size is {re.escape(repr(block_size))}"):
        helpers.make_tree(27, block_size, 10, 20)


@pytest.mark.parametrize("block_size", [1, 8])
@pytest.mark.parametrize("n", [1, 0, -2, 2.0, True])
def test_bad_group_sizes_of_a_tree(block_size, n):
    with pytest.raises(ValueError, match="group"):
        helpers.make_tree(27, block_size, 10, 20, n=n)


def test_a_tree_takes_the_batch_norm_it_is_given():
    model = helpers.make_tree(27, 8, 4, 6, norm=BatchNorm1dPart3)
    model(torch.randint(0, 27, (5, 8)))
    assert [m.running_mean.shape for m in model.layers if isinstance(m, BatchNorm1dPart3)] == [
        (1, 4, 6), (1, 2, 6), (1, 6),
    ]


def test_the_shape_table_names_every_layer(data):
    model = helpers.make_tree(27, 8, 4, 6)
    table = helpers.shape_table(model, data[0][:5])
    assert table["layer"].tolist() == [type(m).__name__ for m in model.layers]
    assert table["output shape"].tolist()[:4] == [(5, 8, 4), (5, 4, 8), (5, 4, 6), (5, 4, 6)]
    assert table["parameters"].sum() == count(model)
    assert all(m.running_var.eq(1).all() for m in model.layers if isinstance(m, BatchNorm1d))


# -------------------------------------------------------------------------------- training


@pytest.mark.parametrize("make", [small_mlp, small_tree])
def test_training_is_the_loop_of_the_lecture_bit_for_bit(make, data):
    X, Y = data
    ours, bare = make(), make()
    torch.manual_seed(42)
    got = helpers.train(ours, X, Y, max_steps=60)

    expected, parameters = [], bare.parameters()
    torch.manual_seed(42)
    with helpers.threads(1):
        for i in range(60):
            ix = torch.randint(0, X.shape[0], (32,))
            loss = F.cross_entropy(bare(X[ix]), Y[ix])
            for p in parameters:
                p.grad = None
            loss.backward()
            lr = 0.1 if i < 45 else 0.01
            for p in parameters:
                p.data += -lr * p.grad
            expected.append(loss.item())

    assert got == expected
    assert all(map(torch.equal, ours.parameters(), parameters))
    assert expected[-1] < expected[0] - 0.2


def test_training_takes_its_own_batch_size_and_learning_rate(data):
    X, Y = data
    model = Sequential([Embedding(27, 27), Flatten(), Linear(216, 27)])
    helpers.ready(model)
    before = [p.detach().clone() for p in model.parameters()]
    torch.manual_seed(3)
    ix = torch.randint(0, len(X), (5,))
    loss = F.cross_entropy(model(X[ix]), Y[ix])
    expected = torch.autograd.grad(loss, model.parameters())
    torch.manual_seed(3)
    got = helpers.train(model, X, Y, max_steps=1, batch_size=5, learning_rate=0.7)
    assert got == [pytest.approx(loss.item(), abs=1e-6)]
    for p, q, gradient in zip(model.parameters(), before, expected, strict=True):
        close(p.detach(), q - 0.7 * gradient)


def test_the_same_seed_trains_the_same_model(data):
    models = [small_tree(), small_tree()]
    losses = []
    for model in models:
        torch.manual_seed(7)
        losses.append(helpers.train(model, *data, max_steps=20))
    assert losses[0] == losses[1]
    assert all(map(torch.equal, models[0].parameters(), models[1].parameters()))


def test_training_draws_nothing_but_its_batches(data):
    model = small_mlp()
    torch.manual_seed(5)
    helpers.train(model, *data, max_steps=11, batch_size=17)
    state = torch.get_rng_state()
    torch.manual_seed(5)
    for _ in range(11):
        torch.randint(0, len(data[0]), (17,))
    assert torch.equal(state, torch.get_rng_state())


def torch_model():
    return nn.Sequential(
        nn.Embedding(27, 4), nn.Flatten(), nn.Linear(32, 16), nn.BatchNorm1d(16), nn.Tanh(),
        nn.Linear(16, 27),
    )


def test_an_nn_module_trains_as_with_the_optimizer_of_torch(data):
    X, Y = data
    model, bare = torch_model(), torch_model()
    bare.load_state_dict(model.state_dict())
    model.eval()
    torch.manual_seed(4)
    got = helpers.train(model, X, Y, max_steps=40, batch_size=16)

    optimizer = torch.optim.SGD(bare.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [30])
    expected = []
    torch.manual_seed(4)
    for _ in range(40):
        ix = torch.randint(0, len(X), (16,))
        optimizer.zero_grad()
        loss = F.cross_entropy(bare(X[ix]), Y[ix])
        loss.backward()
        optimizer.step()
        schedule.step()
        expected.append(loss.item())

    assert len(got) == 40
    assert got == pytest.approx(expected, abs=1e-4)
    close(model[3].running_var, bare[3].running_var, 1e-4)
    assert not any(m.training for m in model.modules())


def test_the_fast_recipe_is_adamw_on_one_cycle(data):
    X, Y = data[0][:101], data[1][:101]                      # 6 batches of 16, and 5 more
    ours, bare, seen = small_tree(), small_tree(), []
    torch.manual_seed(4)
    got = helpers.train(ours, X, Y, max_steps=20, batch_size=16, learning_rate=0.01, recipe="fast",
                        every=9, callback=seen.append)
    optimizer = torch.optim.AdamW(bare.parameters(), lr=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.01, total_steps=20)
    expected = []
    torch.manual_seed(4)
    while len(expected) < 20:
        for ix in torch.randperm(101).split(16)[: 20 - len(expected)]:
            optimizer.zero_grad()
            loss = F.cross_entropy(bare(X[ix]), Y[ix])
            loss.backward()
            optimizer.step()
            schedule.step()
            expected.append(loss.item())
    assert got == pytest.approx(expected, abs=1e-4)
    assert got[-1] < got[0] - 0.2
    assert seen == [9, 18]


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_the_fast_recipe_leaves_out_a_batch_of_one_row(steps, data):
    X, Y = data[0][:33], data[1][:33]                        # two batches of 16, and one row
    losses = helpers.train(small_tree(), X, Y, max_steps=steps, batch_size=16, recipe="fast",
                           learning_rate=0.01)
    assert len(losses) == steps
    assert np.isfinite(losses).all()


def test_an_unknown_recipe_is_named(data):
    with pytest.raises(ValueError, match="recipe is 'quick'; expected 'lecture' or 'fast'"):
        helpers.train(small_tree(), *data, max_steps=1, recipe="quick")


def test_frozen_parameters_stay_as_they_are(data):
    model = torch_model()
    model[0].weight.requires_grad_(False)
    model[2].bias.requires_grad_(False)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    helpers.train(model, *data, max_steps=5)
    unchanged = {name for name, p in model.named_parameters() if torch.equal(p, before[name])}
    assert unchanged == {"0.weight", "2.bias"}


def test_an_interrupt_keeps_the_losses_and_the_model(data, two_threads, capsys):
    model, norms = nested_model()
    model.layers.insert(1, Tripwire(KeyboardInterrupt, lambda call, x: call == 8))
    flags = [m.training for m in norms]
    losses = helpers.train(model, *data, max_steps=50)
    assert len(losses) == 7
    assert "after 7 steps" in capsys.readouterr().out
    assert [m.training for m in norms] == flags == [True, False, True]
    assert torch.get_num_threads() == 2
    assert math.isfinite(helpers.split_loss(model, *data))
    assert len(helpers.train(model, *data, max_steps=3)) == 3


def test_an_error_in_training_restores_flags_and_threads(data, two_threads):
    model, norms = nested_model()
    model.layers.insert(1, Tripwire(RuntimeError("broken"), lambda call, x: call == 3))
    with pytest.raises(RuntimeError, match="broken"):
        helpers.train(model, *data, max_steps=50)
    assert [m.training for m in norms] == [True, False, True]
    assert torch.get_num_threads() == 2


def test_training_runs_on_one_thread_with_every_layer_in_training(data, two_threads):
    model, norms = nested_model()
    seen = []
    model.layers.insert(1, Tripwire(None, lambda call, x: call and seen.append(
        (torch.get_num_threads(), [m.training for m in norms])
    )))
    helpers.train(model, *data, max_steps=2)
    assert seen == [(1, [True, True, True])] * 2
    assert [m.training for m in norms] == [True, False, True]
    assert torch.get_num_threads() == 2


def test_a_loss_that_is_no_number_stops_the_training(data, capsys):
    model, called = small_mlp(), []
    losses = helpers.train(model, *data, max_steps=1000, learning_rate=1e30,
                           every=1, callback=called.append)
    assert not math.isfinite(losses[-1])
    assert all(map(math.isfinite, losses[:-1]))
    assert 1 < len(losses) < 20
    assert f"at step {len(losses) - 1}: stopped" in capsys.readouterr().out
    # The loss that is no number reaches neither the weights nor the caller's function.
    assert called == list(range(1, len(losses)))
    assert all(p.isfinite().all() for p in model.parameters())


def test_the_callback_is_called_after_every_so_many_steps(data):
    calls = []
    losses = helpers.train(small_mlp(), *data, max_steps=10, every=3, callback=calls.append)
    assert calls == [3, 6, 9]
    assert len(losses) == 10


def test_measuring_in_the_callback_does_not_disturb_the_training(data, itos):
    models, losses = [small_mlp(), small_mlp()], []

    def measure(step):
        helpers.split_loss(models[1], *data)
        helpers.sample(models[1], 8, itos, 2, max_length=3)

    for model, callback in zip(models, [None, measure], strict=True):
        torch.manual_seed(2)
        losses.append(helpers.train(model, *data, max_steps=12, every=5, callback=callback))
    assert losses[0] == losses[1]
    assert all(map(torch.equal, models[0].parameters(), models[1].parameters()))


def test_an_interrupt_in_the_callback_counts_the_step_that_is_done(data, capsys):
    def interrupt(step):
        raise KeyboardInterrupt

    losses = helpers.train(small_mlp(), *data, max_steps=10, every=4, callback=interrupt)
    assert len(losses) == 4
    assert "after 4 steps" in capsys.readouterr().out


@pytest.mark.parametrize("every", [None, *NO_INTEGERS])
def test_a_callback_needs_its_interval(data, every):
    with pytest.raises(ValueError, match=f"every is {re.escape(repr(every))}"):
        helpers.train(small_mlp(), *data, max_steps=2, every=every, callback=print)


@pytest.mark.parametrize(("name", "value"), [
    *(("max_steps", v) for v in [0, -5, 1.5, True]),
    *(("batch_size", v) for v in NO_INTEGERS),
    *(("learning_rate", v) for v in NO_POSITIVES),
])
def test_bad_settings_are_named_before_the_first_step(data, name, value):
    model = small_mlp()
    before, state = [p.detach().clone() for p in model.parameters()], torch.get_rng_state()
    with pytest.raises(ValueError, match=f"^{name} is {re.escape(repr(value))}"):
        helpers.train(model, *data, **({"max_steps": 2} | {name: value}))
    assert all(map(torch.equal, model.parameters(), before))
    assert torch.equal(torch.get_rng_state(), state)


def zeros(*shape, dtype=torch.int64):
    return torch.zeros(shape, dtype=dtype)


@pytest.mark.parametrize("use", [
    lambda *args: helpers.train(*args, max_steps=2), helpers.split_loss,
], ids=["train", "split_loss"])
@pytest.mark.parametrize(("X", "Y", "message"), [
    (zeros(5, 8), zeros(4), r"\(5, 8\).*\(4,\)"),
    (zeros(5), zeros(5), r"\(5,\).*\(5,\)"),
    (zeros(5, 8), zeros(5, 1), r"\(5, 8\).*\(5, 1\)"),
    (zeros(0, 8), zeros(0), r"\(0, 8\).*\(0,\)"),
    (zeros(5, 8, dtype=torch.float32), zeros(5), "X is torch.float32"),
    (zeros(5, 8), zeros(5, dtype=torch.int32), "Y is torch.int32"),
    (zeros(5, 8), torch.tensor([0, 1, 2, 27, 3]), r"\(1, 27\).* 27\b"),
])
def test_bad_data_are_refused(use, X, Y, message):
    model = small_mlp()
    with pytest.raises(ValueError, match=message):
        use(model, X, Y)


def test_a_model_that_leaves_two_positions_is_refused(data):
    model = helpers.ready(Sequential([
        Embedding(27, 4), FlattenConsecutive(2), FlattenConsecutive(2), Linear(16, 27),
    ]))
    with pytest.raises(ValueError, match=r"2 positions.*FlattenConsecutive\(2\)"):
        helpers.train(model, *data, max_steps=2)


def test_a_model_with_too_few_outputs_is_refused(data):
    model = helpers.make_mlp(27, 8, 4, 16)
    model.layers[-1] = Linear(16, 25)
    with pytest.raises(ValueError, match=r"\(1, 25\).* 26\b"):
        helpers.train(helpers.ready(model), *data, max_steps=2)


def test_a_model_that_asks_for_no_gradients_is_refused(data):
    model = Sequential([Embedding(27, 4), Flatten(), Linear(32, 27)])
    with pytest.raises(ValueError, match=r"gradients.*ready"):
        helpers.train(model, *data, max_steps=2)


# -------------------------------------------------------------------------------- progress


@pytest.fixture
def clock(monkeypatch):
    # A clock that only the test moves: no figure here depends on the machine's speed.
    now = [1000.0]
    monkeypatch.setattr("tqdm.std.time", lambda: now[0])
    return now


@pytest.fixture
def shown(monkeypatch):
    texts, plain = [], helpers.Progress.display

    def display(self, *args, **kwargs):
        texts.append(str(self))
        return plain(self, *args, **kwargs)

    monkeypatch.setattr(helpers.Progress, "display", display)
    return texts


def test_instant_updates_are_hardly_ever_drawn(clock, shown):
    with helpers.Progress(2000, []) as bar:
        for _ in range(2000):
            bar.update()
    assert len(shown) <= 4
    assert "2000 of 2000" in shown[-1]


def test_the_bar_moves_about_twice_a_second(clock, shown):
    with helpers.Progress(5000, []) as bar:
        for _ in range(5000):
            clock[0] += 0.001
            bar.update()
    assert 6 <= len(shown) <= 15


def test_training_hardly_ever_draws(clock, shown, data):
    helpers.train(small_mlp(), *data, max_steps=300)
    assert 1 <= len(shown) <= 4
    assert "300 of 300" in shown[-1]


def test_outside_a_notebook_the_bar_goes_to_stderr(capsys):
    losses = [9.0] * 500 + [2.0] * 1000
    with helpers.Progress(10, losses) as bar:
        bar.update(10)
    out, err = capsys.readouterr()
    assert out == ""
    assert "10 of 10 steps" in err
    assert "loss 2.000" in err


def test_in_a_notebook_one_plain_output_is_updated(clock, monkeypatch, capsys):
    shown, updates = [], []

    class Handle:
        def update(self, content, raw):
            updates.append(content["text/plain"])

    def display(content, raw, display_id):
        shown.append(content["text/plain"])
        return Handle()

    monkeypatch.setattr(helpers, "get_ipython", object)
    monkeypatch.setattr(helpers, "display", display)
    with helpers.Progress(2000, [3.0]) as bar:
        for _ in range(2000):
            bar.update()
    assert len(shown) == 1
    assert 1 <= len(updates) <= 4
    assert "2000 of 2000" in updates[-1]
    assert "loss 3.000" in updates[-1]
    assert capsys.readouterr() == ("", "")


# ------------------------------------------------------------------------------ split_loss


@pytest.fixture(scope="module")
def trained(data):
    torch.manual_seed(1)
    model = helpers.make_tree(27, 8, 4, 16)
    helpers.train(model, *data, max_steps=100)
    return model


@pytest.mark.parametrize("chunk", [1, 7, 100, 4096])
def test_the_loss_of_a_split_does_not_depend_on_the_chunk(trained, data, chunk):
    X, Y = data[0][:200], data[1][:200]
    with helpers.mode(trained, False), torch.no_grad():
        expected = F.cross_entropy(trained(X), Y).item()
    assert helpers.split_loss(trained, X, Y, chunk=chunk) == pytest.approx(expected, abs=1e-6)


def test_the_loss_of_one_example(trained, data):
    X, Y = data
    losses = [helpers.split_loss(trained, X[i : i + 1], Y[i : i + 1]) for i in range(5)]
    expected = helpers.split_loss(trained, X[:5], Y[:5])
    assert np.mean(losses) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("chunk", NO_INTEGERS)
def test_bad_chunks_are_named(trained, data, chunk):
    with pytest.raises(ValueError, match=f"chunk is {re.escape(repr(chunk))}"):
        helpers.split_loss(trained, *data, chunk=chunk)


def test_measuring_sees_every_nested_layer_in_eval_mode_and_changes_nothing(data):
    X, Y = data[0][:100], data[1][:100]
    model, norms = nested_model()
    before, flags = state_of(norms), [m.training for m in norms]
    got = helpers.split_loss(model, X, Y, chunk=9)
    assert state_of(norms) == before
    for m in norms:
        m.training = False
    assert got == pytest.approx(F.cross_entropy(model(X), Y).item(), abs=1e-6)
    assert flags == [True, False, True]


def test_measuring_an_nn_module_changes_nothing(data):
    model = torch_model()
    model[3].eval()
    flags = [m.training for m in model.modules()]
    buffers = [b.clone() for b in model.buffers()]
    got = helpers.split_loss(model, *data)
    assert [m.training for m in model.modules()] == flags
    assert all(map(torch.equal, model.buffers(), buffers))
    expected = F.cross_entropy(model.eval()(data[0]), data[1]).item()
    assert got == pytest.approx(expected, abs=1e-5)


def test_measuring_restores_the_flags_when_the_model_raises(data):
    X, Y = data[0][:20], data[1][:20]
    model, norms = nested_model()
    # Only the last chunk of 20 = 7 + 7 + 6 trips the wire: an error halfway through.
    model.layers.append(Tripwire(RuntimeError("broken"), lambda call, x: len(x) == 6))
    before = state_of(norms)
    with pytest.raises(RuntimeError, match="broken"):
        helpers.split_loss(model, X, Y, chunk=7)
    assert state_of(norms) == before
    assert model.layers[-1].training


# -------------------------------------------------------------------------------- sampling


def spell(rows):
    """A model for the vocabulary '.abc': the logits of the next character after the last."""
    table = torch.tensor(rows)
    return Fixed(lambda x: table[x[:, -1]])


ABC = {0: ".", 1: "a", 2: "b", 3: "c"}
NEVER = -1e4


def test_sampling_feeds_the_windows_that_training_saw():
    model = spell([[NEVER, 0, NEVER, NEVER], [NEVER, NEVER, 0, NEVER],
                   [NEVER, NEVER, NEVER, 0], [0, NEVER, NEVER, NEVER]])
    assert helpers.sample(model, 2, ABC, 1) == ["abc"]
    X, _ = helpers.build_dataset(["abc"], 2, {ch: i for i, ch in ABC.items()})
    # The first call is the check of the model, on the same first window.
    assert torch.equal(torch.cat(model.inputs[1:]), X)


def test_words_that_end_early_do_not_disturb_the_others():
    # Every letter is followed by itself or the end: a row mixed up would mix the letters.
    stop, go = math.log(0.3), math.log(0.7)
    model = spell([[NEVER, 0, 0, 0], [stop, go, NEVER, NEVER], [stop, NEVER, go, NEVER],
                   [stop, NEVER, NEVER, go]])
    words = helpers.sample(model, 2, ABC, 600, seed=0)
    assert {len(set(word)) for word in words} == {1}
    assert all(((x[:, 0] == 0) | (x[:, 0] == x[:, 1])).all() for x in model.inputs)
    assert {word[0] for word in words} == set("abc")
    assert np.mean([len(word) == 1 for word in words]) == pytest.approx(0.3, abs=0.06)
    assert np.mean([len(word) for word in words]) == pytest.approx(1 / 0.3, abs=0.3)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_the_temperature_divides_the_logits(temperature):
    logits = torch.tensor([NEVER, 2.0, 1.0, 0.0])
    model = Fixed(lambda x: logits.expand(len(x), 4))
    words = helpers.sample(model, 1, ABC, 5000, temperature=temperature, seed=0, max_length=1)
    shares = [words.count(ch) / 5000 for ch in "abc"]
    expected = torch.softmax(torch.tensor([2.0, 1.0, 0.0]) / temperature, dim=0).tolist()
    assert shares == pytest.approx(expected, abs=0.025)


@pytest.mark.parametrize("n", [1, 2, 30, 5000])
def test_sampling_gives_as_many_words_as_asked(trained, itos, n):
    words = helpers.sample(trained, 8, itos, n, max_length=4, seed=0)
    assert len(words) == n
    assert set("".join(words)) <= set(LETTERS)


def test_a_seed_gives_the_same_words_again(trained, itos):
    first = helpers.sample(trained, 8, itos, 30, seed=3)
    torch.rand(1)
    assert helpers.sample(trained, 8, itos, 30, seed=3) == first
    assert helpers.sample(trained, 8, itos, 30, seed=4) != first
    assert helpers.sample(trained, 8, itos, 30) != helpers.sample(trained, 8, itos, 30)


@pytest.mark.parametrize("seed", [None, 3])
def test_sampling_leaves_the_global_generator_alone(trained, itos, seed):
    state = torch.get_rng_state()
    helpers.sample(trained, 8, itos, 3, seed=seed)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("prefix", ["e", "emm", "abcdefghijkl"])
def test_the_prefix_is_kept_and_seen_by_the_model(itos, stoi, prefix):
    model = Fixed(lambda x: F.one_hot(x[:, -1], 27) * 1e4)
    words = helpers.sample(model, 8, itos, 2, prefix=prefix, max_length=len(prefix) + 2)
    assert words == [prefix + 2 * prefix[-1]] * 2
    seen = ([0] * 8 + [stoi[ch] for ch in prefix])[-8:]
    assert model.inputs[1].tolist() == [seen] * 2


@pytest.mark.parametrize("prefix", ["em\u00e9", "E", "."])
def test_an_unknown_character_in_the_prefix_is_named(trained, itos, prefix):
    with pytest.raises(ValueError, match=f"'{re.escape(prefix[-1])}' is not in the vocabulary"):
        helpers.sample(trained, 8, itos, prefix=prefix)


@pytest.mark.parametrize(("name", "value"), [
    *(("temperature", v) for v in NO_POSITIVES),
    *((name, v) for name in ("n", "block_size", "max_length") for v in NO_INTEGERS),
])
def test_bad_settings_of_sampling_are_named(trained, itos, name, value):
    with pytest.raises(ValueError, match=f"^{name} is {re.escape(repr(value))}"):
        helpers.sample(trained, **({"block_size": 8, "itos": itos} | {name: value}))


@pytest.mark.parametrize("prefix", ["", "ab"])
def test_a_model_that_never_ends_is_cut(prefix):
    model = Fixed(lambda x: torch.tensor([NEVER, 0.0, 0.0, 0.0]).expand(len(x), 4))
    words = helpers.sample(model, 3, ABC, 5, prefix=prefix, max_length=7)
    assert [len(word) for word in words] == [7] * 5


def test_a_very_low_temperature_gives_the_likeliest_word(trained, itos):
    cold = helpers.sample(trained, 8, itos, 20, temperature=1e-6, max_length=12)
    assert len(cold) == 20
    assert len(set(cold)) == 1
    assert len(set(helpers.sample(trained, 8, itos, 20, seed=0))) > 10


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_diverged_model_is_not_sampled(itos, value):
    model = small_mlp()
    model.layers[-1].weight.data.fill_(value)
    flags = [m.training for m in model.layers if isinstance(m, BatchNorm1d)]
    with pytest.raises(ValueError, match="diverged, train"):
        helpers.sample(model, 8, itos)
    assert [m.training for m in model.layers if isinstance(m, BatchNorm1d)] == flags == [True]


def test_sampling_leaves_a_nested_model_as_it_was(itos):
    model, norms = nested_model()
    before = state_of(norms)
    helpers.sample(model, 8, itos, 1, max_length=5)
    assert state_of(norms) == before


def test_sampling_restores_the_flags_when_the_model_raises():
    wire = Tripwire(RuntimeError("broken"), lambda call, x: x[0, -1] != 0)
    spelled = spell([[NEVER, 0, NEVER, NEVER]] * 4)
    norm = BatchNorm1d(4)
    model = Sequential([wire, spelled, norm])
    with pytest.raises(RuntimeError, match="broken"):
        helpers.sample(model, 2, ABC, 1)
    assert norm.training
    assert wire.training
    assert len(spelled.inputs) == 2


# ----------------------------------------------------------------------------------- plots


@pytest.mark.parametrize(("window", "expected"), [
    (1, [4.0, 2.0, 0.0, 6.0]), (2, [3.0, 1.0, 3.0]), (3, [2.0, 8 / 3]), (4, [3.0]), (9, [3.0]),
])
def test_rolling_means_by_hand(window, expected):
    assert helpers.rolling_mean([4.0, 2.0, 0.0, 6.0], window) == pytest.approx(expected)


def test_the_rolling_mean_goes_through_the_means_of_the_lecture():
    losses = torch.rand(1000, dtype=torch.float64).tolist()
    expected = torch.tensor(losses, dtype=torch.float64).view(-1, 10).mean(1)
    assert helpers.rolling_mean(losses, 10)[::10] == pytest.approx(expected.numpy())


@pytest.mark.parametrize("window", NO_INTEGERS)
def test_bad_windows_are_named(window):
    with pytest.raises(ValueError, match=f"window is {re.escape(repr(window))}"):
        helpers.rolling_mean([1.0], window)


def test_no_losses_have_no_mean():
    with pytest.raises(ValueError, match="no losses"):
        helpers.rolling_mean([], 10)


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("decay", [True, False])
def test_one_line_for_each_curve_and_one_for_the_learning_rate(n, decay):
    curves = {f"curve {i}": [3.0 - i] * 50 for i in range(n)}
    ax = helpers.plot_losses(curves, window=10, decay_at=37.5 if decay else None)
    assert len(ax.lines) == n + decay
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels == [*curves, "learning rate / 10"][: n + decay]
    for i in range(n):
        assert ax.lines[i].get_ydata() == pytest.approx(np.full(41, 3.0 - i))


def test_each_point_stands_at_the_last_step_of_its_window():
    # Ten losses, because the window is at most a fifth of them.
    losses = [4.0, 2.0, 0.0, 6.0, 4.0, 4.0, 4.0, 4.0, 4.0, 4.0]
    x, y = helpers.plot_losses({"a": losses}, window=2).lines[0].get_data()
    assert x.tolist() == list(range(2, 11))
    assert y.tolist() == [3.0, 1.0, 3.0, 5.0, 4.0, 4.0, 4.0, 4.0, 4.0]


def test_a_single_loss_can_be_drawn():
    ax = helpers.plot_losses({"a": [3.0]})
    ax.figure.canvas.draw()
    assert ax.lines[0].get_ydata().tolist() == [3.0]


def test_a_training_without_a_step_is_drawn_as_such(recwarn):
    ax = helpers.plot_losses({"a": []}, decay_at=7)
    assert [text.get_text() for text in ax.texts] == ["no losses yet"]
    assert not ax.lines
    assert not recwarn
    plt.close("all")


def test_a_curve_without_losses_does_not_hide_the_others():
    ax = helpers.plot_losses({"a": [], "b": [3.0, 2.0], "c": np.array([])})
    assert [line.get_label() for line in ax.lines] == ["b"]
    assert not ax.texts
    plt.close("all")


def test_a_long_curve_is_thinned():
    line = helpers.plot_losses({"a": np.linspace(3, 2, 200_000)}).lines[0]
    assert 4000 <= len(line.get_xdata()) < 8000


def test_the_style_can_be_used_and_drawn():
    with plt.rc_context():
        helpers.use_style()
        ax = helpers.plot_losses({"a": [3.0, 2.0], "b": [2.0, 1.0]}, window=1)
        ax.figure.canvas.draw()
        assert [line.get_color() for line in ax.lines[:2]] == helpers.COLORS[:2]
    assert len(set(helpers.COLORS)) == len(helpers.COLORS)


# --------------------------------------------------------------------------- expected figures

# Written out here as well, so that a slip in the table of helpers cannot pass unseen.
SIZES = {
    "MLP, 3 letters": ((3, 10, 200), 12_097, 2.120),
    "MLP, 8 letters": ((8, 10, 200), 22_097, 2.039),
    "tree": ((8, 10, 68), 22_397, 2.038),
    "tree, fixed": ((8, 10, 68), 22_397, 2.030),
    "tree, scaled": ((8, 24, 128), 76_579, 2.001),
}


def config_of(stage, **changes):
    sizes = dict(zip(("block_size", "n_embd", "n_hidden"), SIZES[stage][0], strict=True))
    recipe = {"max_steps": 200_000, "batch_size": 32, "learning_rate": 0.1, "seed": 42}
    return sizes | recipe | changes


@pytest.fixture
def output(tmp_path, monkeypatch):
    monkeypatch.setattr(helpers, "OUTPUT", tmp_path / "output")
    monkeypatch.setattr(helpers, "QUICK", False)
    return tmp_path / "output"


def log(stage, words, val_loss, config=None, n_parameters=None, steps=200_000):
    parameters = [torch.zeros(n_parameters or SIZES[stage][1])]
    return helpers.performance_log(
        stage, words, config or config_of(stage), parameters, 1.9, val_loss, 12.3, steps
    )


def files(folder):
    return sorted(p.name for p in folder.iterdir()) if folder.exists() else []


@pytest.mark.parametrize("stage", SIZES)
@pytest.mark.parametrize("offset", [-0.0059, 0.0, 0.0059])
def test_a_figure_in_its_range_is_kept(stage, offset, words, output):
    number = list(SIZES).index(stage) + 1
    val = SIZES[stage][2] + offset
    table = log(stage, words, val)
    assert files(output) == [f"log_{number:02d}.json"]
    assert json.loads((output / f"log_{number:02d}.json").read_text())["val"] == f"{val:.3f}"
    assert len(table) == number
    assert table["val"].iloc[-1] == f"{val:.3f}"
    assert table["val"].tolist()[:-1] == ["not run yet"] * (number - 1)


@pytest.mark.parametrize("stage", SIZES)
@pytest.mark.parametrize("offset", [-0.0061, 0.0061, 1.0, math.nan])
def test_a_figure_outside_its_range_is_named(stage, offset, words, output):
    expected = SIZES[stage][2]
    message = f"{expected + offset:.4f} is outside {expected - 0.006:.4f} to {expected + 0.006:.4f}"
    with pytest.raises(AssertionError, match=re.escape(message)):
        log(stage, words, expected + offset)
    assert files(output) == []


def test_the_list_of_the_lecture_has_ranges_of_its_own(monkeypatch, output):
    words = ["emma", "olivia"]
    digest = hashlib.sha256(b"emma\nolivia").hexdigest()
    monkeypatch.setitem(helpers.LISTS, digest, "lecture")
    log("MLP, 3 letters", words, 2.1060)
    with pytest.raises(AssertionError, match=r"2\.1200 is outside 2\.1055 to 2\.1072"):
        log("MLP, 3 letters", words, 2.120)


def test_another_number_of_parameters_is_named(words, output):
    with pytest.raises(AssertionError, match="12098 parameters, expected 12097"):
        log("MLP, 3 letters", words, 2.12, n_parameters=12_098)
    assert files(output) == []


def test_a_later_stage_shows_the_earlier_ones(words, output):
    log("MLP, 3 letters", words, 2.1201)
    log("tree", words, 2.0381)
    table = log("tree, fixed", words, 2.0301)
    assert table["val"].tolist() == ["2.120", "not run yet", "2.038", "2.030"]
    assert table["parameters"].tolist() == ["12,097", "not run yet", "22,397", "22,397"]
    assert table["lecture train / val"].tolist() == [
        "2.058 / 2.105", "1.918 / 2.027", "1.941 / 2.029", "1.912 / 2.022",
    ]
    assert len(log("MLP, 3 letters", words, 2.12)) == 1


@pytest.mark.parametrize("change", [
    {"block_size": 4}, {"n_embd": 12}, {"n_hidden": 64}, {"max_steps": 1000}, {"batch_size": 64},
    {"learning_rate": 0.2}, {"seed": 1},
])
def test_other_hyperparameters_are_not_held_against_the_figures(change, words, output, capsys):
    table = log("tree", words, 9.0, config=config_of("tree", **change))
    [(name, value)] = change.items()
    assert f": {name} is {value}, not" in capsys.readouterr().out
    assert table["expected val"].iloc[-1] == "none"
    assert table["val"].iloc[-1] == "9.000"
    assert files(output) == []


def test_another_word_list_is_not_held_against_the_figures(words, output, capsys):
    log("tree", words[:-1], 9.0)
    assert "the word list is another" in capsys.readouterr().out
    assert files(output) == []


def test_the_same_words_in_another_order_are_another_list(words):
    assert helpers.changed("tree", words[::-1], config_of("tree")) == ["the word list is another"]


def test_a_training_that_ended_early_is_neither_held_to_the_figures_nor_kept(
    words, output, capsys
):
    log("tree", words, 9.0, steps=400)
    assert "training ended after 400 of 200,000 steps" in capsys.readouterr().out
    assert files(output) == []


def test_a_training_stopped_before_its_first_step_is_logged_as_none(words, output, capsys):
    assert log("tree", words, 3.3, steps=0)["expected val"].iloc[-1] == "none"
    assert "nothing was trained" in capsys.readouterr().out
    for losses in ([], np.array([])):
        helpers.check_learning("tree", words, config_of("tree"), losses)
        assert "nothing was trained, 0 steps are too few" in capsys.readouterr().out
    assert files(output) == []


def test_a_folder_that_cannot_be_written_costs_a_word_only(words, tmp_path, output, monkeypatch,
                                                           capsys):
    # Below a regular file nobody can write, not even the root user of a container.
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(helpers, "OUTPUT", tmp_path / "file" / "output")
    table = log("tree", words, 2.038)
    assert "log_03.json cannot be written" in capsys.readouterr().out
    assert table["val"].iloc[-1] == "2.038"


def test_a_kept_file_is_replaced_whole(tmp_path):
    file = tmp_path / "new" / "log.json"
    for content in ({"val": "1" * 1000}, {"val": "2"}):
        helpers.save_json(file, content)
        assert json.loads(file.read_text()) == content
        assert files(file.parent) == ["log.json"]


def test_a_path_may_be_a_text(tmp_path):
    helpers.save_json(str(tmp_path / "log.json"), {"val": "1"})
    assert files(tmp_path) == ["log.json"]


def test_an_interrupt_before_the_file_is_replaced_leaves_nothing_behind(tmp_path, monkeypatch):
    def interrupted(self, target):
        raise KeyboardInterrupt

    helpers.save_json(tmp_path / "log.json", {"val": "1"})
    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        helpers.save_json(tmp_path / "log.json", {"val": "2"})
    assert files(tmp_path) == ["log.json"]
    assert json.loads((tmp_path / "log.json").read_text()) == {"val": "1"}


def test_a_kept_file_survives_a_full_disk(tmp_path, monkeypatch, capsys):
    file, write = tmp_path / "log.json", Path.write_text
    helpers.save_json(file, {"val": "1"})

    def half(self, text, *args, **kwargs):
        write(self, text[: len(text) // 2], *args, **kwargs)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_text", half)
    helpers.save_json(file, {"val": "2"})
    assert json.loads(file.read_text()) == {"val": "1"}
    assert [f.name for f in tmp_path.iterdir()] == ["log.json"]
    assert "log.json cannot be written (No space left" in capsys.readouterr().out


def test_learning_as_expected_is_printed(words, capsys):
    helpers.check_learning("tree", words, config_of("tree"), [3.3] + [9.0] * 250 + [2.1] * 100)
    assert capsys.readouterr().out == (
        "step 0: 3.300, chance: 3.296, mean of the last 100 steps: 2.100\n"
    )


@pytest.mark.parametrize(("lossi", "message"), [
    ([3.7] + [2.1] * 300, "step 0 gave 3.700"),
    ([2.9] + [2.1] * 300, "step 0 gave 2.900"),
    ([3.3] + [2.9] * 300, "fell from 3.300 to 2.900 only"),
    ([3.3, math.nan], "fell from 3.300 to nan only"),
])
def test_learning_that_went_wrong_is_named(words, lossi, message):
    with pytest.raises(AssertionError, match=message):
        helpers.check_learning("tree", words, config_of("tree"), lossi)


@pytest.mark.parametrize("steps", [0, 1, 299])
def test_learning_of_a_training_stopped_by_hand_is_not_checked(words, capsys, steps):
    helpers.check_learning("tree", words, config_of("tree"), [9.0] * steps)
    assert f"{steps} steps are too few" in capsys.readouterr().out


def test_learning_with_other_values_is_not_checked(words, capsys):
    config = config_of("tree", max_steps=400, seed=1)
    helpers.check_learning("tree", words, config, [9.0] * 300)
    out = capsys.readouterr().out
    assert "max_steps is 400, not 200000" in out
    assert "seed is 1, not 42" in out


def test_learning_on_another_word_list_is_not_checked(capsys):
    helpers.check_learning("tree", ["abba"], config_of("tree"), [9.0] * 300)
    out = capsys.readouterr().out
    assert "chance: 1.099" in out
    assert "the word list is another" in out


@pytest.mark.parametrize(("X", "Y", "message"), [
    ([[0, 30]], [1], "above 30"), ([[0, -1]], [1], "negative"), ([[0, 1]], [-100], "negative"),
])
def test_character_numbers_out_of_range_end_before_training(X, Y, message):
    torch.manual_seed(0)
    model, X, Y = helpers.make_mlp(27, 2, 3, 4), torch.tensor(X * 5), torch.tensor(Y * 5)
    X[0] = 0
    for call in (lambda: helpers.train(model, X, Y, max_steps=3),
                 lambda: helpers.split_loss(model, X, Y)):
        with pytest.raises(ValueError, match=message):
            call()


def test_windows_of_another_length_than_the_models_are_named(itos):
    model = helpers.make_mlp(27, 8, 3, 4)
    with pytest.raises(ValueError, match="windows of 3 characters"):
        helpers.train(model, torch.zeros(9, 3, dtype=torch.int64), torch.zeros(9).long())
    with pytest.raises(ValueError, match="windows of 5 characters"):
        helpers.sample(model, 5, itos)


def test_a_parameter_that_takes_no_part_is_left_alone():
    class Half(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = torch.nn.Linear(2, 5), torch.nn.Linear(2, 2)

        def forward(self, x):
            return self.used(x.float())

    model = Half()
    before = model.unused.weight.clone()
    X, Y = torch.zeros(9, 2, dtype=torch.int64), torch.zeros(9, dtype=torch.int64)
    assert len(helpers.train(model, X, Y, max_steps=3)) == 3
    assert torch.equal(model.unused.weight, before)


def test_vocabulary_refuses_the_reserved_character():
    with pytest.raises(ValueError, match=r"'a\.b' has a '\.'"):
        helpers.build_vocab(["emma", "a.b"])


@pytest.mark.parametrize("content", ['{"par', "null", "7", '"text"', "[1, 2]", "[]", "{}"])
def test_a_kept_row_that_cannot_be_read_counts_as_not_run(content, words, tmp_path, monkeypatch):
    monkeypatch.setattr(helpers, "OUTPUT", tmp_path)
    (tmp_path / "log_01.json").write_text(content)
    config = helpers.RECIPE | {"block_size": 8, "n_embd": 10, "n_hidden": 1}
    table = helpers.performance_log("MLP, 8 letters", words, config, [], 2.0, 2.0, 1.0, 9)
    assert table.loc["01 MLP, 3 letters", "val"] == "not run yet"
