"""helpers.py, course.files and course.expected."""

import contextlib
import hashlib
import os
import random
import runpy
from unittest.mock import Mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import helpers
from course import expected
from course.files import write_whole

ROOT = helpers.ROOT
STOI = {ch: i for i, ch in enumerate(".abcdefghijklmnopqrstuvwxyz")}
ITOS = {i: ch for ch, i in STOI.items()}
WORDS = ["emma", "ada", "eve", "ida", "nina", "otto", "anna", "adam", "edna", "dean"]


@pytest.fixture(scope="module")
def words():
    return helpers.load_words()


@pytest.fixture
def data():
    return helpers.build_dataset(WORDS, 4, STOI)


@pytest.fixture
def tree():
    torch.manual_seed(1)
    return helpers.make_tree(27, 4, 5, 8)


def test_the_names_and_their_split_are_those_of_the_course(words):
    assert hashlib.sha256((ROOT / "data/names.txt").read_bytes()).hexdigest() == (
        "bd02dfd33179e23ec2dd093cbd4de619834f75d660ef1ae04d3127e7a0110053")
    state, before = random.getstate(), list(words)
    parts = helpers.split_words(words).values()
    assert random.getstate() == state
    assert words == before
    assert [len(part) for part in parts] == [25_805, 3_226, 3_226]
    assert helpers.build_vocab(words) == (STOI, ITOS)
    shapes = [tuple(helpers.build_dataset(part, 8, STOI)[0].shape) for part in parts]
    assert shapes == [(183_802, 8), (22_949, 8), (23_053, 8)]
    X, Y = helpers.build_dataset(["ab"], 3, STOI)
    assert (X.tolist(), Y.tolist()) == ([[0, 0, 0], [0, 0, 1], [0, 1, 2]], [1, 2, 0])


@pytest.mark.parametrize(("content", "found"), [
    (b"ada\neve", ["ada", "eve"]), (b"\xef\xbb\xbfada\r\n\r\n  eve \r\n", ["ada", "eve"]),
    ("Zoë\n小明".encode(), ["Zoë", "小明"]), (b"x\nAda,F,9\nEve,F,8", ["x", "Ada,F,9", "Eve,F,8"]),
    (b"a.b", "remove the '.' from 'a.b'"), (b"\xff\xfea", "not UTF-8"), (b"a\0", "not UTF-8")])
def test_files_of_many_kinds_are_read_or_refused(content, found, tmp_path, capsys):
    (tmp_path / "words.txt").write_bytes(content)
    refused = isinstance(found, str)
    with pytest.raises(ValueError, match=found) if refused else contextlib.nullcontext():
        assert helpers.load_words(tmp_path / "words.txt") == found
    assert ("'Ada,F,9' is one line" in capsys.readouterr().out) == (b"," in content)


def test_a_relative_path_counts_from_here_and_then_from_the_project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path.replace("~", str(tmp_path)))
    assert len(helpers.load_words("data/names.txt")) == 32_257
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "names.txt").write_text("mine")
    for path in ("data/names.txt", "~/data/names.txt"):
        assert helpers.load_words(path) == ["mine"]
    with pytest.raises(FileNotFoundError, match=r"nothing\.txt: no such file"):
        helpers.load_words("nothing.txt")


def train(**changes):
    X, Y = helpers.build_dataset(WORDS, 4, STOI)
    options = {"X": X, "Y": Y, "max_steps": 3, "batch_size": 4} | changes
    helpers.train(helpers.make_tree(27, 4, 5, 8), **options)


def sample(itos=ITOS, **changes):
    helpers.sample(helpers.make_tree(27, 4, 5, 8), 4, itos, **{"n": 2} | changes)


REFUSED = [                  # and what test_settings.py gives to the notebooks
    (lambda: train(max_steps=0), "max_steps is 0"), (lambda: train(every=0), "every is 0"),
    (lambda: train(Y=torch.zeros(46).long()), "X has 47 rows and Y has 46"),
    (lambda: sample(temperature=0), "temperature is 0"), (lambda: sample(n=0), "n is 0"),
    (lambda: sample(max_length=0), "max_length is 0"), (lambda: sample(seed=-1), "seed is -1"),
    (lambda: sample(prefix="a7"), "'7' is not in the vocabulary"),
    (lambda: sample(prefix="abc", max_length=3), "expected fewer than 3 letters"),
    (lambda: sample({0: ".", 1: "a"}), "expected 2 logits, one per character; got"),
    (lambda: helpers.check(n_hidden=True), "n_hidden is True"),
    (lambda: helpers.check(n_hidden=10**9), "n_hidden is 1000000000"),
    (lambda: helpers.make_tree(27, 1, 5, 8), "block_size 1 is not a power of 2"),
    (lambda: helpers.make_mlp(0, 3, 5, 6), "vocab_size is 0"),
    (lambda: helpers.make_tree(27, 8, 5, 6, 1), "group_size is 1; expected an integer from 2"),
    (lambda: helpers.build_dataset(["a"], 0, STOI), "block_size is 0"),
    (lambda: helpers.check(average=1), "average is 1; expected a number between 0 and 1"),
    (lambda: helpers.build_dataset(["a!"], 3, STOI), "'!' is not in the vocabulary"),
    (lambda: helpers.rolling_mean([1.0], 0), "window is 0"),
    (lambda: helpers.FlattenConsecutive(2)(torch.zeros(1, 7, 3)), "7 positions do not divide"),
    (lambda: helpers.BatchNorm1d(3)(torch.zeros(1, 3)), "one value per channel has no variance"),
]


@pytest.mark.parametrize(("attempt", "said"), REFUSED)
def test_an_impossible_value_is_named_with_what_was_expected(attempt, said, monkeypatch):
    monkeypatch.setattr(torch.Tensor, "backward", lambda self: pytest.fail("it trains already"))
    with pytest.raises(ValueError, match=said):
        attempt()


def test_numbers_of_numpy_are_numbers():
    model = helpers.make_tree(27, np.int64(8), 5, np.int64(6), n=np.int64(2))
    assert model(torch.zeros(3, 8).long()).shape == (3, 27)
    assert helpers.sample(model, 8, ITOS, 2, seed=np.int64(3))
    assert helpers.check(learning_rate=np.float32(0.1), n_hidden=np.int64(3))


def test_layers_equal_those_of_torch_over_random_shapes():
    hypothesis = pytest.importorskip("hypothesis")
    sizes, seeds = hypothesis.strategies.integers(1, 6), hypothesis.strategies.integers(0, 99)

    @hypothesis.settings(max_examples=25, deadline=None, database=None)
    @hypothesis.given(B=sizes, T=sizes, C=sizes, out=sizes, n=sizes, seed=seeds)
    def holds(B, T, C, out, n, seed):
        torch.manual_seed(seed)
        x = torch.randn(B, T, C)
        linear, bare = helpers.Linear(C, out), helpers.Linear(C, out, bias=False)
        linear.bias = torch.randn(out)
        assert torch.allclose(linear(x), F.linear(x, linear.weight.T, linear.bias), atol=1e-5)
        assert torch.allclose(bare(x), F.linear(x, bare.weight.T), atol=1e-5)
        table, IX = helpers.Embedding(out, C), torch.randint(0, out, (B, T))
        assert torch.equal(table(IX), F.embedding(IX, table.weight))
        assert torch.equal(helpers.Tanh()(x), torch.nn.Tanh()(x))
        assert torch.equal(helpers.Flatten()(x), torch.nn.Flatten()(x))
        groups = torch.randn(B, n * T, C)
        joined = torch.cat([groups[:, i::n] for i in range(n)], 2)
        assert torch.equal(helpers.FlattenConsecutive(n)(groups),
                           joined.squeeze(1) if T == 1 else joined)

        ours, theirs = helpers.BatchNorm1d(C), torch.nn.BatchNorm1d(C)
        ours.gamma, ours.beta = torch.randn(C), torch.randn(C)
        theirs.load_state_dict({"weight": ours.gamma, "bias": ours.beta}, strict=False)
        for _ in range(3):
            x = torch.randn(B + 1, T, C) * 3 + 1
            flat = x.flatten(0, 1)
            # torch normalises with the biased variance, the lecture with the unbiased one.
            less = ((flat.var(0, correction=0) + 1e-5) / (flat.var(0) + 1e-5)).sqrt()
            scaled = (theirs(flat) - ours.beta) * less + ours.beta
            assert torch.allclose(ours(x), scaled.view_as(x), atol=1e-4)
            part3 = helpers.BatchNorm1dPart3(C)(flat)
            assert torch.allclose(part3, helpers.BatchNorm1d(C)(flat))
        ours.training = theirs.training = False
        assert torch.allclose(ours.running_var.flatten(), theirs.running_var, rtol=1e-4)
        assert torch.allclose(ours(x), theirs(flat).view_as(x), atol=1e-4)

    holds()


def test_train_is_the_lectures_loop_bit_for_bit(tree, data):
    X, Y = data
    torch.manual_seed(1)
    theirs = helpers.make_tree(27, 4, 5, 8)
    torch.manual_seed(2)
    ours = helpers.train(tree, X, Y, max_steps=40, batch_size=8, learning_rate=0.3)
    torch.manual_seed(2)
    with helpers.threads(1):
        lossi = []
        for i in range(40):
            ix = torch.randint(0, X.shape[0], (8,))
            loss = F.cross_entropy(theirs(X[ix]), Y[ix])
            for p in theirs.parameters():
                p.grad = None
            loss.backward()
            lr = 0.3 if i < 30 else 0.03
            for p in theirs.parameters():
                p.data += -lr * p.grad
            lossi.append(loss.item())
    assert ours == lossi
    assert all(map(torch.equal, tree.parameters(), theirs.parameters()))


def test_an_interrupt_leaves_the_model_and_its_losses_usable(tree, data, capsys):
    def interrupt(steps):
        torch.set_grad_enabled(False)         # as inside torch.no_grad
        raise KeyboardInterrupt

    for layer in tree.layers:
        layer.training = False
    model = helpers.Sequential([tree, torch.nn.Sequential(dropout := torch.nn.Dropout().eval())])
    with helpers.threads(2):
        lossi = helpers.train(model, *data, max_steps=10, batch_size=4, every=3, callback=interrupt)
        assert (len(lossi), torch.get_num_threads()) == (3, 2)
    assert "you can use the model" in capsys.readouterr().out
    assert torch.is_grad_enabled()
    assert not any(layer.training for layer in [dropout, *tree.layers])
    assert helpers.train(tree, *data, max_steps=2, batch_size=4)


def test_a_loss_that_is_nan_or_infinite_ends_the_training_before_the_weights(tree, data, capsys):
    lossi = helpers.train(tree, *data, max_steps=100, batch_size=4, learning_rate=1e38)
    assert not np.isfinite(lossi[-1])
    assert len(lossi) < 100
    before = [p.clone() for p in tree.parameters()]
    assert len(helpers.train(tree, *data, max_steps=5, batch_size=4)) == 1
    assert "at step 0: stopped. Lower learning_rate" in capsys.readouterr().out
    assert all(torch.equal(p.nan_to_num(), q.nan_to_num())
               for p, q in zip(tree.parameters(), before, strict=True))
    with pytest.raises(ValueError, match="the logits are NaN or infinite"):
        helpers.sample(tree, 4, ITOS)


@pytest.mark.parametrize("notebook", [True, False])
def test_the_bar_shows_steps_and_loss_and_is_drawn_rarely(notebook, monkeypatch, capsys):
    display = Mock()
    monkeypatch.setattr("tqdm.std.time", lambda: 1000.0)       # no figure depends on the speed
    monkeypatch.setattr(helpers, "display", display)
    monkeypatch.setattr(helpers, "get_ipython", lambda: object() if notebook else None)
    with helpers.Progress(2000, [3.0]) as bar:
        for _ in range(2000):
            bar.update()
    out, err = capsys.readouterr()
    assert (out, bool(err)) == ("", not notebook)
    texts = ([call.args[0]["text/plain"] for call in display.mock_calls] if notebook
             else err.split("\r")[1:])
    assert len(texts) <= 4
    assert "2000 of 2000 steps" in texts[-1]
    assert "loss 3.000" in texts[-1]


def test_split_loss_is_the_mean_and_leaves_the_statistics_alone(tree, data):
    before = tree.layers[3].running_mean.clone()
    whole = helpers.split_loss(tree, *data, chunk=1000)
    assert helpers.split_loss(tree, *data, chunk=7) == pytest.approx(whole, abs=1e-6)
    assert torch.equal(tree.layers[3].running_mean, before)


def test_quick_mode_is_read_from_the_environment_and_caps_a_training(tree, data, monkeypatch):
    for value, steps in {"1": 60, "true": 60, "TRUE": 60, "0": 10**6, "": 10**6}.items():
        monkeypatch.setenv("MAKEMORE_QUICK", value)
        assert runpy.run_path(helpers.__file__)["capped"](10**6) == steps
    monkeypatch.setattr(helpers, "QUICK", True)
    assert len(helpers.train(tree, *data, max_steps=61, batch_size=2)) == 60


def test_samples_follow_the_seed_the_prefix_and_the_length(tree):
    state = torch.get_rng_state()
    names, again, others = (helpers.sample(tree, 4, ITOS, 20, seed=seed, prefix="an", max_length=6)
                            for seed in (3, 3, 4))
    assert names == again != others
    assert all(name.startswith("an") and len(name) <= 6 for name in names)
    assert torch.equal(torch.get_rng_state(), state)
    assert len(set(helpers.sample(tree, 4, ITOS, 20, temperature=1e-6))) == 1


def test_a_word_that_ends_does_not_disturb_the_others():
    follows = [[-99, 9, 9, -99], [-99, -99, -99, 9], [9, -99, -99, -99], [9, -99, -99, -99]]
    table = torch.tensor(follows).float()                  # after '.' a or b, after a c, else '.'
    words = helpers.sample(lambda X: table[X[:, 0]], 2, dict(enumerate(".abc")), 20, seed=1)
    assert set(words) == {"ba", "bb", "aacc", "abc"}


@pytest.mark.parametrize(("values", "window", "means"), [
    ([2.0, 4.0, 6.0, 8.0], 2, [3, 5, 7]), ([2.0, 4.0], 9, [3]),
    ([1.0, np.nan, 3.0, 5.0], 2, [np.nan, np.nan, 4])])
def test_rolling_mean_by_hand_and_with_a_nan(values, window, means):
    np.testing.assert_equal(helpers.rolling_mean(values, window), means)


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    write_whole(tmp_path / "new" / "a.txt", lambda part: part.write_text("old"))

    def fails(part):
        part.write_text("half")
        raise OSError("full")

    with pytest.raises(OSError, match="full"):
        write_whole(tmp_path / "new" / "a.txt", fails)
    assert [f.read_text() for f in (tmp_path / "new").iterdir()] == ["old"]


@pytest.mark.parametrize("stage", expected.STAGES)
def test_a_figure_in_its_range_is_kept_and_any_other_is_named(stage, words, tmp_path, monkeypatch):
    monkeypatch.setattr(helpers, "OUTPUT", tmp_path / "output")
    number, sizes, count, *_, (_, val) = expected.STAGES[stage]
    config = dict(zip(("block_size", "n_embd", "n_hidden"), sizes, strict=True)) | expected.RECIPE

    def log(val, words=words, count=count, steps=200_000, **changes):
        return expected.performance_log(
            stage, words, config | changes, [torch.zeros(count)], 1.9, val, 12, steps)

    for wrong in (val - 0.0061, val + 0.0061, float("nan")):
        with pytest.raises(AssertionError, match="is outside"):
            log(wrong)
    with pytest.raises(AssertionError, match=f"{count + 1} parameters, expected {count}"):
        log(val, count=count + 1)
    for other in ({"words": words[::-1]}, {"steps": 9}, {"n_hidden": 7}, {"seed": 1}):
        assert log(9.0, **other)["expected val"].iloc[-1] == "none"
    assert not (tmp_path / "output").exists()
    for right in (val - 0.0059, val + 0.0059):
        assert log(right)["val"].tolist() == ["not run yet"] * (number - 1) + [f"{right:.3f}"]
    assert [file.name for file in (tmp_path / "output").iterdir()] == [f"log_{number:02d}.json"]
