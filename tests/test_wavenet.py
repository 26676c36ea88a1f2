"""Checks of the WaveNet in helpers.py, of training on whole names and of cached generation."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F

import helpers
from helpers import PAD, CausalConv1d, RingBuffer, WaveNet, WholeWords

ITOS = dict(enumerate(".abcdefg"))
STOI = {ch: i for i, ch in ITOS.items()}
WORDS = ["ab", "gfedcba", "c", "abcabc", "dead", "bag", "age", "face"]
SWITCHES = [dict(zip(("residual", "gate", "skip", "head"), values, strict=True))
            for values in itertools.product([False, True], repeat=4)]


@pytest.fixture(autouse=True)
def same_start():
    torch.manual_seed(0)


def wavenet(**options):
    dilations = options.pop("dilations", [1, 2, 4])
    model = WaveNet(len(ITOS), 6, 10, dilations, **options)
    return model.eval()


def rows(N=4, L=20):
    """Rows of one long word each."""
    X = torch.randint(1, len(ITOS), (N, L))
    X[:, 0] = 0
    return X


# ------------------------------------------------------------------------------ whole names


def test_encode_names_by_hand():
    X, Y = helpers.encode_names(["ab", "c"], STOI)
    assert X.tolist() == [[0, 1, 2], [0, 3, 0]]
    assert Y.tolist() == [[1, 2, 0], [3, 0, PAD]]
    assert X.dtype == Y.dtype == torch.int64


def test_encode_names_has_the_positions_of_the_windows():
    _, Y = helpers.encode_names(WORDS, STOI)
    _, targets = helpers.build_dataset(WORDS, 8, STOI)
    assert torch.equal(Y[Y != PAD], targets)


def test_encode_names_says_what_is_wrong():
    with pytest.raises(ValueError, match="no words"):
        helpers.encode_names([], STOI)
    with pytest.raises(ValueError, match="'x' is not in the vocabulary"):
        helpers.encode_names(["ax"], STOI)


def test_window_batches_gives_every_row_once_an_epoch_in_another_order():
    X = torch.arange(10)[:, None]
    batches = helpers.window_batches(X, X[:, 0], 4)
    epochs = [torch.cat([next(batches)[1] for _ in range(3)]).tolist() for _ in range(2)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(10))
    assert epochs[0] != epochs[1]


@pytest.mark.parametrize("packed", [True, False])
def test_name_batches_keeps_every_character(packed):
    X, Y = helpers.encode_names(WORDS, STOI)
    batches = helpers.name_batches(X, Y, 3, packed)
    seen = []
    for _ in range(3):
        x, y = next(batches)
        assert x.shape == y.shape
        assert not packed or (len(x) == 1 and (y != PAD).all())
        starts = (x == 0).nonzero().tolist() if packed else [(i, 0) for i in range(len(x))]
        for row, place in starts:
            word = y[row, place:].tolist()
            seen.append("".join(ITOS[i] for i in word[: word.index(0)]))
    assert sorted(seen) == sorted(WORDS)


def test_name_loss_is_the_mean_over_all_characters():
    X, Y = helpers.encode_names(WORDS, STOI)
    model = wavenet(dropout=0.5)
    losses = [F.cross_entropy(model(x[None, :n])[0], y[:n], reduction="none")
              for x, y, n in zip(X, Y, (Y != PAD).sum(1), strict=True)]
    expected = torch.cat(losses).mean().item()
    assert abs(expected - torch.stack([part.mean() for part in losses]).mean()) > 1e-3
    model.train()
    for packed, chunk in itertools.product([True, False], [1, 3, 1024]):
        assert abs(helpers.name_loss(model, X, Y, chunk, packed) - expected) < 1e-5
    assert all(m.training for m in model.modules())


def test_position_loss_wants_a_prediction_for_each_target():
    with pytest.raises(ValueError, match=r"expected \(2, 3, 8\)"):
        helpers.position_loss(torch.zeros(2, 8), torch.zeros(2, 3, dtype=torch.int64))


# ---------------------------------------------------------------------------------- training


def data():
    X, Y = helpers.encode_names(WORDS, STOI)
    return helpers.name_batches(X, Y, 4)


def test_fit_is_a_bare_loop():
    model, other = wavenet().train(), wavenet().train()
    other.load_state_dict(model.state_dict())
    optimizers = [torch.optim.AdamW(m.parameters(), lr=0.01) for m in (model, other)]
    schedules = [torch.optim.lr_scheduler.StepLR(o, 2, 0.1) for o in optimizers]
    torch.manual_seed(1)
    losses = helpers.fit(model, data(), optimizers[0], 5, schedule=schedules[0])
    torch.manual_seed(1)
    expected = []
    for X, Y in itertools.islice(data(), 5):
        loss = F.cross_entropy(other(X)[0], Y[0])
        expected.append(loss.item())
        optimizers[1].zero_grad()
        loss.backward()
        optimizers[1].step()
        schedules[1].step()
    assert losses == pytest.approx(expected, abs=1e-5)
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.allclose(p, q, atol=1e-5)


@pytest.mark.parametrize("stop", [None, 3])
def test_fit_ends_with_the_average_of_the_weights(stop):
    model, kept, average = wavenet(), [], 0.5

    def look(step):
        kept.append([p.detach().clone() for p in model.parameters()])
        if step == stop:
            raise KeyboardInterrupt

    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = helpers.fit(model, data(), optimizer, 4, average=average, every=1, callback=look)
    assert len(losses) == (stop or 4)
    expected = kept[0]
    for n, weights in enumerate(kept[1:], start=1):
        share = max(1 - average, 1 / (n + 1))
        expected = [old.lerp(new, share) for old, new in zip(expected, weights, strict=True)]
    for p, q in zip(model.parameters(), expected, strict=True):
        assert torch.allclose(p, q, atol=1e-6)


def test_fit_stops_before_a_loss_that_is_no_number_reaches_the_weights(capsys):
    model = wavenet()
    batches = itertools.chain(itertools.islice(data(), 2), iter([None]))

    def spoiled():
        yield next(batches)
        yield next(batches)
        with torch.no_grad():
            model.head[-1].bias[0] = math.nan
        yield next(data())

    losses = helpers.fit(model, spoiled(), torch.optim.SGD(model.parameters(), lr=0.1), 9)
    assert [math.isfinite(loss) for loss in losses] == [True, True, False]
    assert "Lower the learning rate" in capsys.readouterr().out
    assert all(p.isfinite().all() for p in model.layers.parameters())


def test_fit_restores_flags_and_threads_and_refuses_bad_values():
    model, before = wavenet(), torch.get_num_threads()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    helpers.fit(model, data(), optimizer, 1)
    assert not model.training
    assert torch.get_num_threads() == before
    for average in (0, 1, 1.5):
        with pytest.raises(ValueError, match="average is"):
            helpers.fit(model, data(), optimizer, 1, average=average)
    with pytest.raises(ValueError, match="max_steps is 0"):
        helpers.fit(model, data(), optimizer, 0)
    with pytest.raises(ValueError, match="every is None"):
        helpers.fit(model, data(), optimizer, 1, callback=print)


# ------------------------------------------------------------------------------- the network


@pytest.mark.parametrize("kernel_size", [2, 3])
@pytest.mark.parametrize("dilation", [1, 3, 30])
def test_causal_conv_is_torchs(kernel_size, dilation):
    ours = CausalConv1d(5, 7, dilation, kernel_size)
    theirs = torch.nn.Conv1d(5, 7, kernel_size, dilation=dilation)
    X, x = rows(2), torch.randn(2, 20, 5)
    with torch.no_grad():
        theirs.weight[:] = ours.linear.weight.view(7, kernel_size, 5).transpose(1, 2)
        theirs.bias[:] = ours.linear.bias
        padded = F.pad(x.transpose(1, 2), ((kernel_size - 1) * dilation, 0))
        assert torch.allclose(ours(x, WholeWords(X)), theirs(padded).transpose(1, 2), atol=1e-5)


@pytest.mark.parametrize("options", [
    {"kernel_size": 1}, {"kernel_size": 2.0}, {"dilation": 0}, {"dilation": -1},
    {"dilation": True}, {"C_in": 0}, {"C_out": 0}])
def test_causal_conv_refuses(options):
    name, value = next(iter(options.items()))
    with pytest.raises(ValueError, match=f"{name} is {value!r}; expected an integer"):
        CausalConv1d(**{"C_in": 3, "C_out": 3} | options)


@pytest.mark.parametrize("switches", SWITCHES, ids=str)
def test_every_parameter_gets_a_gradient(switches):
    model = wavenet(**switches)
    model(rows()).pow(2).sum().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("switches", SWITCHES, ids=str)
def test_no_future_leaks(switches):
    model, X = wavenet(**switches), rows()
    changed = X.clone()
    changed[:, 12:] = X[:, 12:] % 7 + 1
    with torch.no_grad():
        assert torch.equal(model(X)[:, :12], model(changed)[:, :12])
        assert not torch.equal(model(X)[:, 12:], model(changed)[:, 12:])


@pytest.mark.parametrize(("dilations", "kernel_size"), [
    ([1], 2), ([1, 2, 4], 2), ([1, 2, 4, 1, 2], 2), ([3], 4), ([1, 3], 3)])
def test_receptive_field_by_changing_one_character(dilations, kernel_size):
    model, X = wavenet(dilations=dilations, kernel_size=kernel_size), rows(1, 40)
    field = model.receptive_field
    with torch.no_grad():
        before = model(X)[0, -1]
        for back in range(1, 39):
            changed = X.clone()
            changed[0, -1 - back] = X[0, -1 - back] % 7 + 1
            if back >= field:
                assert torch.equal(model(changed)[0, -1], before)
        changed[0, -field] = X[0, -field] % 7 + 1
        assert not torch.equal(model(changed)[0, -1], before)


@pytest.mark.parametrize("switches", SWITCHES, ids=str)
def test_nose_to_tail_is_a_row_each(switches):
    model = wavenet(**switches)
    X, Y = helpers.encode_names(WORDS, STOI)
    real = Y != PAD
    with torch.no_grad():
        assert torch.allclose(model(X)[real], model(X[real][None])[0], atol=1e-5)


@pytest.mark.parametrize("kernel_size", [2, 3])
@pytest.mark.parametrize("switches", SWITCHES, ids=str)
def test_ring_buffers_give_the_logits_of_whole_words(switches, kernel_size):
    model, X = wavenet(kernel_size=kernel_size, **switches), rows()
    rings = helpers.ring_buffers(model, len(X))
    with torch.no_grad():
        cached = torch.stack([model(ids, rings) for ids in X.T], dim=1)
        assert torch.allclose(cached, model(X), atol=1e-5)


def test_ring_buffer_by_hand():
    ring = RingBuffer(3, 2, 1)
    got = [ring(torch.full((2, 1), value), [3, 1]) for value in (1.0, 2.0, 3.0, 4.0, 5.0)]
    assert [tuple(tap[0].item() for tap in taps) for taps in got] == [
        (0, 0), (0, 1), (0, 2), (1, 3), (2, 4)]
    ring.keep(torch.tensor([False, True]))
    assert ring.values.shape == (3, 1, 1)


@pytest.mark.filterwarnings("ignore:Initializing zero-element")
def test_the_network_says_what_is_wrong():
    with pytest.raises(ValueError, match=r"dilations is \[\]"):
        wavenet(dilations=[])
    with pytest.raises(ValueError, match="n_hidden is 0"):
        WaveNet(8, 0, 4, [1])
    with pytest.raises(ValueError, match="n_skip is 0"):
        WaveNet(8, 4, 0, [1])
    with pytest.raises(ValueError, match=r"\(0, 5\); expected"):
        wavenet()(torch.zeros(0, 5, dtype=torch.int64))


# ------------------------------------------------------------------------------- generation


def slow_greedy(model, prefix, length):
    ids = [0, *(STOI[ch] for ch in prefix)]
    with torch.no_grad():
        while len(ids) <= length:
            i = model(torch.tensor([ids]))[0, -1].argmax().item()
            if i == 0:
                break
            ids.append(i)
    return "".join(ITOS[i] for i in ids[1:])


@pytest.mark.parametrize("prefix", ["", "a", "gab"])
def test_generate_follows_the_slow_way(prefix):
    model = wavenet()
    with torch.no_grad():
        model.head[-1].weight *= 20
    expected = slow_greedy(model, prefix, 30)
    assert helpers.generate(model, ITOS, 3, temperature=1e-3, prefix=prefix, max_length=30) == (
        3 * [expected])


def test_generate_repeats_with_a_seed_and_leaves_all_as_it_was():
    model = wavenet(dropout=0.5).train()
    state = torch.get_rng_state()
    first, second = (helpers.generate(model, ITOS, 50, seed=3) for _ in range(2))
    assert first == second
    assert len(set(first)) > 5
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert max(map(len, helpers.generate(model, ITOS, 50, max_length=4))) == 4


@pytest.mark.parametrize(("options", "message"), [
    ({"prefix": "ax"}, "'x' is not in the vocabulary"), ({"n": 0}, "n is 0"),
    ({"temperature": 0}, "temperature is 0"), ({"max_length": 0}, "max_length is 0")])
def test_generate_says_what_is_wrong(options, message):
    with pytest.raises(ValueError, match=message):
        helpers.generate(wavenet(), ITOS, **options)


def test_generate_notices_a_diverged_model():
    model = wavenet()
    with torch.no_grad():
        model.head[-1].bias[0] = math.nan
    with pytest.raises(ValueError, match="the training diverged"):
        helpers.generate(model, ITOS)
