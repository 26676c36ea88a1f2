"""helpers.py: data, layers, training, sampling and the check of hyperparameters."""

import contextlib
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import helpers
from course.files import write_whole

ROOT = helpers.ROOT
STOI = {ch: i for i, ch in enumerate(".abcdefghijklmnopqrstuvwxyz")}
ITOS = {i: ch for ch, i in STOI.items()}
WORDS = ["emma", "ada", "eve", "ida", "nina", "otto", "anna", "adam", "edna", "dean"]


@pytest.fixture
def data():
    return helpers.build_dataset(WORDS, 4, STOI)


@pytest.fixture
def tree():
    torch.manual_seed(1)
    return helpers.make_tree(27, 4, 5, 8)


# ------------------------------------------------------------------------------------- data


def test_the_names_and_their_split_are_those_of_the_course():
    words = helpers.load_words()
    parts = helpers.split_words(words)
    assert [len(part) for part in parts.values()] == [25_805, 3_226, 3_226]
    assert len(helpers.build_vocab(words)[0]) == 27
    sizes = [sum(len(w) + 1 for w in part) for part in parts.values()]
    assert sizes == [183_802, 22_949, 23_053]


def test_windows_by_hand():
    X, Y = helpers.build_dataset(["ab"], 3, STOI)
    assert X.tolist() == [[0, 0, 0], [0, 0, 1], [0, 1, 2]]
    assert Y.tolist() == [1, 2, 0]


@pytest.mark.parametrize(("content", "words"), [
    (b"ada\neve", ["ada", "eve"]), (b"\xef\xbb\xbfada\r\n\r\n  eve \r\n", ["ada", "eve"]),
    ("Zoë\n小明".encode(), ["Zoë", "小明"])])
def test_words_are_read_from_files_of_many_kinds(content, words, tmp_path):
    (tmp_path / "words.txt").write_bytes(content)
    assert helpers.load_words(tmp_path / "words.txt") == words


@pytest.mark.parametrize(("content", "said"), [
    (b"", "no words"), (b"a.b", "remove the '.' from 'a.b'"), (b"\xff\xfea", "not UTF-8")])
def test_files_without_words_are_refused(content, said, tmp_path):
    (tmp_path / "words.txt").write_bytes(content)
    with pytest.raises(ValueError, match=said):
        helpers.load_words(tmp_path / "words.txt")


def test_a_relative_path_counts_from_here_and_then_from_the_project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert len(helpers.load_words("data/names.txt")) == 32_257
    with pytest.raises(FileNotFoundError, match=r"nothing\.txt: no such file"):
        helpers.load_words("nothing.txt")


# --------------------------------------------------------------------- impossible values

REFUSED = [
    (lambda: helpers.check(n_hidden=0), "n_hidden is 0; expected an integer from 1"),
    (lambda: helpers.check(n_hidden=2.0), "n_hidden is 2.0"),
    (lambda: helpers.check(n_hidden=True), "n_hidden is True"),
    (lambda: helpers.check(n_hidden=10**9), "n_hidden is 1000000000"),
    (lambda: helpers.check(batch_size=1), "batch_size is 1; expected an integer from 2"),
    (lambda: helpers.check(learning_rate=0), "learning_rate is 0; expected a positive number"),
    (lambda: helpers.check(learning_rate=float("nan")), "learning_rate is nan"),
    (lambda: helpers.check(dropout=1.0), "dropout is 1.0; expected a number from 0 to below 1"),
    (lambda: helpers.check(seed=-1), "seed is -1; expected an integer from 0"),
    (lambda: helpers.check(dilations=[]), r"dilations is \[\]; expected a list such as"),
    (lambda: helpers.check(dilations=[1, 0]), r"dilations is \[1, 0\]"),
    (lambda: helpers.check(run_lecture=1), "run_lecture is 1; expected True or False"),
    (lambda: helpers.make_tree(27, 6, 5, 8, 4), "block_size 6 is not a power of 4"),
    (lambda: helpers.make_tree(27, 1, 5, 8), "block_size 1 is not a power of 2"),
    (lambda: helpers.make_mlp(27, 3, 5, 0), "n_hidden is 0"),
    (lambda: helpers.split_words(["a"] * 9), "9 words leave a split empty"),
    (lambda: helpers.build_dataset(["a!"], 3, STOI), "'!' is not in the vocabulary"),
    (lambda: helpers.rolling_mean([1.0], 0), "window is 0"),
    (lambda: helpers.FlattenConsecutive(2)(torch.zeros(1, 7, 3)), "7 positions do not divide"),
    (lambda: helpers.BatchNorm1d(3)(torch.zeros(1, 3)), "one value per channel has no variance"),
]


@pytest.mark.parametrize(("attempt", "said"), REFUSED)
def test_an_impossible_value_is_named_with_what_was_expected(attempt, said):
    with pytest.raises(ValueError, match=said):
        attempt()


@pytest.mark.parametrize(("changes", "said"), [
    ({"max_steps": 0}, "max_steps is 0"), ({"batch_size": 1}, "batch_size is 1"),
    ({"learning_rate": -1}, "learning_rate is -1")])
def test_train_refuses_before_the_first_step(changes, said, tree, data):
    before = [p.clone() for p in tree.parameters()]
    with pytest.raises(ValueError, match=said):
        helpers.train(tree, *data, **{"max_steps": 3, "batch_size": 4} | changes)
    with pytest.raises(ValueError, match="X has 47 rows and Y has 46"):
        helpers.train(tree, data[0], data[1][:-1])
    assert all(torch.equal(a, b) for a, b in zip(before, tree.parameters(), strict=True))


@pytest.mark.parametrize(("changes", "said"), [
    ({"prefix": "a7"}, "'7' is not in the vocabulary"), ({"temperature": 0}, "temperature is 0"),
    ({"n": 0}, "n is 0"), ({"prefix": "abc", "max_length": 3}, "expected fewer than 3 letters"),
    ({"itos": {0: ".", 1: "a"}}, "expected one logit per character of itos, 2")])
def test_sample_refuses(changes, said, tree):
    options = {"itos": ITOS, "n": 2} | changes
    with pytest.raises(ValueError, match=said):
        helpers.sample(tree, 4, options.pop("itos"), options.pop("n"), **options)


def test_numbers_of_numpy_are_numbers():
    assert helpers.tree_levels(np.int64(8), np.int64(2)) == [8, 4, 2, 1]
    assert helpers.check(learning_rate=np.float32(0.1), n_hidden=np.int64(3))


# ----------------------------------------------------------------------------------- layers


def test_layers_equal_those_of_torch_over_random_shapes():
    hypothesis = pytest.importorskip("hypothesis")
    sizes = hypothesis.strategies.integers(1, 6)

    @hypothesis.settings(max_examples=30, deadline=None)
    @hypothesis.given(B=sizes, T=sizes, C=sizes, out=sizes)
    def holds(B, T, C, out):
        x = torch.randn(B, T, C)
        linear = helpers.Linear(C, out)
        linear.bias = torch.randn(out)
        theirs = F.linear(x, linear.weight.T, linear.bias)
        assert torch.allclose(linear(x), theirs, atol=1e-5)
        norm, torchs = helpers.BatchNorm1d(C), torch.nn.BatchNorm1d(C)
        for _ in range(3):
            y = torch.randn(B + 1, T, C) * 3 + 1
            norm(y)
            torchs(y.flatten(0, 1))
        norm.training = False
        torchs.eval()
        flat = torchs(y.flatten(0, 1)).view_as(y)
        assert torch.allclose(norm(y), flat, atol=1e-4)
        assert torch.equal(helpers.Flatten()(x), x.reshape(B, T * C))
        pairs = torch.cat([x, x], 1)                             # 2T positions
        joined = helpers.FlattenConsecutive(2)(pairs)
        expected = torch.cat([pairs[:, ::2], pairs[:, 1::2]], 2)
        assert torch.equal(joined, expected.squeeze(1) if T == 1 else expected)

    holds()


def test_the_bug_has_statistics_for_each_position_and_the_fix_one_for_all():
    x = torch.randn(32, 4, 6)
    bug, fix = helpers.BatchNorm1dPart3(6), helpers.BatchNorm1d(6)
    bug(x)
    fix(x)
    assert bug.running_mean.shape == (1, 4, 6)
    assert fix.running_mean.shape == (1, 1, 6)


@pytest.mark.parametrize(("model", "count"), [
    (lambda: helpers.make_mlp(27, 3, 10, 200), 12_097),
    (lambda: helpers.make_mlp(27, 8, 10, 200), 22_097),
    (lambda: helpers.make_tree(27, 8, 10, 68), 22_397),
    (lambda: helpers.make_tree(27, 8, 24, 128), 76_579)])
def test_the_models_have_the_lectures_sizes(model, count):
    model = model()
    assert sum(p.nelement() for p in model.parameters()) == count
    table = helpers.shape_table(model, torch.zeros(5, 3 if count == 12_097 else 8).long())
    assert table["output shape"].iloc[-1] == (5, 27)
    assert table.parameters.sum() == count


# --------------------------------------------------------------------------------- training


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
    assert all(torch.equal(a, b) for a, b in zip(tree.parameters(), theirs.parameters(),
                                                 strict=True))


@pytest.mark.parametrize("where", ["a step", "the first instant"])
def test_an_interrupt_leaves_the_model_and_its_losses_usable(where, tree, data, capsys):
    def interrupt(steps):
        raise KeyboardInterrupt

    @contextlib.contextmanager
    def at_once(total, losses):
        raise KeyboardInterrupt
        yield

    options = ({"every": 3, "callback": interrupt} if where == "a step"
               else {"progress": at_once})
    for layer in tree.layers:
        layer.training = False
    lossi = helpers.train(tree, *data, max_steps=10, batch_size=4, **options)
    assert len(lossi) == (3 if where == "a step" else 0)
    assert "you can use the model" in capsys.readouterr().out
    assert torch.is_grad_enabled()
    assert not any(layer.training for layer in tree.layers)
    assert helpers.train(tree, *data, max_steps=2, batch_size=4)


def test_a_loss_that_is_infinite_ends_the_training(tree, data, capsys):
    lossi = helpers.train(tree, *data, max_steps=100, batch_size=4, learning_rate=1e38)
    assert not np.isfinite(lossi[-1])
    assert len(lossi) < 100
    assert "Lower learning_rate" in capsys.readouterr().out
    with pytest.raises(ValueError, match="the logits are NaN or infinite"):
        helpers.sample(tree, 4, ITOS)


def test_mode_reaches_nested_layers_and_puts_the_flags_back(tree):
    model = helpers.Sequential([tree, torch.nn.Sequential(torch.nn.Dropout())])
    with helpers.mode(model, False):
        assert not any(m.training for m in helpers.modules(model) if hasattr(m, "training"))
    assert all(m.training for m in helpers.modules(model) if hasattr(m, "training"))


def test_split_loss_is_the_mean_and_leaves_the_statistics_alone(tree, data):
    helpers.train(tree, *data, max_steps=5, batch_size=4)
    before = tree.layers[3].running_mean.clone()
    whole = helpers.split_loss(tree, *data, chunk=1000)
    assert helpers.split_loss(tree, *data, chunk=7) == pytest.approx(whole, abs=1e-6)
    assert torch.equal(tree.layers[3].running_mean, before)


@pytest.mark.parametrize(("value", "quick"), [("1", True), ("true", True), ("0", False)])
def test_quick_mode_is_read_from_the_environment(value, quick):
    done = subprocess.run([sys.executable, "-c", "import helpers; print(helpers.capped(10**6))"],
                          env=os.environ | {"MAKEMORE_QUICK": value, "PYTHONPATH": str(ROOT)},
                          capture_output=True, text=True, check=True)
    assert (int(done.stdout) < 10**6) == quick


# --------------------------------------------------------------------- sampling and plotting


def test_samples_follow_the_seed_the_prefix_and_the_length(tree):
    state = torch.get_rng_state()
    names = helpers.sample(tree, 4, ITOS, 20, seed=3, prefix="an", max_length=6)
    assert names == helpers.sample(tree, 4, ITOS, 20, seed=3, prefix="an", max_length=6)
    assert names != helpers.sample(tree, 4, ITOS, 20, seed=4, prefix="an", max_length=6)
    assert all(name.startswith("an") and len(name) <= 6 for name in names)
    assert torch.equal(torch.get_rng_state(), state)


def test_rolling_mean_by_hand_and_with_a_nan():
    assert helpers.rolling_mean([2.0, 4.0, 6.0, 8.0], 2).tolist() == [3, 5, 7]
    assert helpers.rolling_mean([2.0, 4.0], 9).tolist() == [3]
    found = helpers.rolling_mean([1.0, float("nan"), 3.0, 5.0], 2)
    assert np.isnan(found[:2]).all()
    assert found[2] == 4


def test_losses_are_drawn_and_none_at_all_too():
    ax = helpers.plot_losses({"a": [3.0, 2.0, 1.0], "b": []}, decay_at=2)
    assert len(ax.lines) == 2
    assert not helpers.plot_losses({"a": []}).lines


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    write_whole(tmp_path / "new" / "a.txt", lambda part: part.write_text("old"))

    def fails(part):
        part.write_text("half")
        raise OSError("full")

    with pytest.raises(OSError, match="full"):
        write_whole(tmp_path / "new" / "a.txt", fails)
    assert [f.read_text() for f in (tmp_path / "new").iterdir()] == ["old"]
