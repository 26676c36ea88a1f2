"""course.fitting, course.wavenet and course.models."""

import copy
import functools
from contextlib import nullcontext
from itertools import islice

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.io import wavfile

import helpers
from course import checking, fitting, memory, models, sound, speed_turns, wavenet

STOI, ITOS = helpers.build_vocab(helpers.load_words())
close = functools.partial(torch.allclose, atol=1e-5)
WORDS = ["emma", "ada", "eve", "ida", "nina", "otto", "anna", "adam", "edna", "dean"]


@pytest.fixture
def net():
    torch.manual_seed(1)
    return wavenet.WaveNet(27, 8, 12, [1, 2, 4])


@pytest.fixture
def names():
    return wavenet.encode_names(WORDS, STOI)


def test_names_are_encoded_by_hand():
    X, Y = wavenet.encode_names(["ab", "c"], STOI)
    assert X.tolist() == [[0, 1, 2], [0, 3, 0]]
    assert Y.tolist() == [[1, 2, 0], [3, 0, -1]]


def test_an_epoch_has_every_row_once_and_in_another_order_each_time():
    X = torch.arange(10)
    batches = fitting.window_batches(X, X + 1, 4)
    epochs = [torch.cat([torch.stack(next(batches)) for _ in range(3)], 1) for _ in range(2)]
    assert all(torch.equal(y, x + 1) and x.sort().values.equal(X) for x, y in epochs)
    assert not torch.equal(*epochs)
    batches = fitting.window_batches(X[:9], X[:9], 4)                    # a single row is left over
    assert [len(next(batches)[0]) for _ in range(5)] == [4, 4, 4, 4, 4]


def test_packed_padded_and_one_by_one_are_the_same(net, names):
    X, Y = names
    losses = [wavenet.name_loss(net, X, Y, chunk, packed)
              for chunk, packed in ((4, True), (100, True), (3, False))]
    each = [wavenet.name_loss(net, *wavenet.encode_names([w], STOI)) * (len(w) + 1) for w in WORDS]
    assert losses == pytest.approx([sum(each) / sum(len(w) + 1 for w in WORDS)] * 3, abs=1e-6)


@pytest.mark.parametrize("make", [
    *(functools.partial(wavenet.WaveNet, 27, 8, 12, [1, 2, 4], **switches) for switches in (
        {}, {"kernel_size": 3}, {"skip": False}, {"gate": False, "residual": False, "head": False})
      ), lambda: models.Stack(27, 24, 16), lambda: memory.MemoryNet(27, 16, [1, 2])])
def test_all_stacks_use_each_parameter_and_run_on_ring_buffers(make, names):
    X, Y = names
    torch.manual_seed(1)
    net = make()
    fitting.position_loss(net(X), Y).backward()
    assert all(p.grad is not None and p.grad.any() for p in net.parameters())
    with torch.no_grad():
        rings = wavenet.ring_buffers(net, len(X))
        ringed = torch.stack([net(x, rings) for x in X.T], dim=1)
        masked = net(X, [wavenet.WordHistory(X)] * len(net.layers))
        for other in (ringed, masked, models.ByLength(net, 2)(X)):
            assert (other - net(X))[Y != fitting.PAD].abs().max() < 1e-5
        if isinstance(net, models.Stack):
            assert (models.Packed(net)(X) - net(X)[Y != fitting.PAD]).abs().max() < 1e-5
        with pytest.raises(ValueError, match="zip"):
            net(X[:, 0], wavenet.ring_buffers(net, len(X))[:-1])      # too few


@pytest.mark.parametrize(("make", "field"), [
    (lambda: wavenet.WaveNet(27, 8, 12, [1, 2]), 4),
    (lambda: wavenet.WaveNet(27, 8, 12, [1, 2], kernel_size=3), 7),
    (lambda: models.Stack(27, 24, 16), 8),
    (lambda: models.Transformer(27, 8, 2, 2, 0.0, 20), 13),
    (lambda: models.Recurrent(torch.nn.GRU, 27, 8, 2), 13),
    (lambda: models.Recurrent(torch.nn.LSTM, 27, 8, 1), 13)])
def test_a_network_sees_its_receptive_field_and_no_later_position(make, field):
    torch.manual_seed(1)
    net = make()
    X = torch.randint(1, 27, (1, 20))
    seen = []
    net.embedding.register_forward_hook(lambda *args: seen.append(args[2]))
    grad, = torch.autograd.grad(net(X)[0, 12].pow(2).sum(), seen)
    positions = grad[0].abs().sum(1).nonzero().flatten().tolist()
    assert positions == list(range(13 - field, 13))
    assert getattr(net, "receptive_field", field) == field


def test_generated_names_follow_the_seed_and_the_prefix_and_equal_the_slow_way(net):
    names = wavenet.generate(net, ITOS, 5, seed=1, prefix="an", max_length=8)
    assert names == wavenet.generate(net, ITOS, 5, seed=1, prefix="an", max_length=8)
    assert all(name.startswith("an") and len(name) <= 8 for name in names)
    generator, slow = torch.Generator().manual_seed(7), ""
    with helpers.mode(net, False), torch.no_grad():
        while len(slow) < 8:
            logits = net(torch.tensor([[0, *map(STOI.get, slow)]]))[:, -1]
            if not (i := torch.multinomial(logits.softmax(1), 1, generator=generator).item()):
                break
            slow += ITOS[i]
    state = torch.get_rng_state()
    assert wavenet.generate(net, ITOS, 1, seed=7, max_length=8) == [slow]
    assert torch.equal(torch.get_rng_state(), state)
    assert net.training


def test_fit_is_torchs_own_loop(net, names):
    theirs = copy.deepcopy(net)
    ours, optimizer = (torch.optim.AdamW(model.parameters(), 1e-2) for model in (net, theirs))
    torch.manual_seed(2)
    batches = wavenet.name_batches(*names, 4, packed=False)              # with PAD
    ours = fitting.fit(net, batches, ours, 8)
    torch.manual_seed(2)
    lossi = []
    for X, Y in islice(wavenet.name_batches(*names, 4, packed=False), 8):
        loss = F.cross_entropy(theirs(X).flatten(0, 1), Y.flatten(), ignore_index=-1)
        lossi.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert ours == pytest.approx(lossi, abs=1e-5)
    assert all(map(close, net.parameters(), theirs.parameters()))


def test_a_fit_that_ends_early_says_why(net, names, capsys, monkeypatch):
    monkeypatch.setattr(helpers, "QUICK", True)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    assert len(fitting.fit(net, [names] * 12, optimizer, 12)) == 10            # in quick mode
    assert len(fitting.fit(net, [names] * 3, optimizer, 12)) == 3
    assert "The batches ended after 3 of 10 steps" in capsys.readouterr().out
    torch.nn.init.constant_(net.head[-1].bias, float("nan"))
    before = [p.clone() for p in net.layers.parameters()]
    assert len(fitting.fit(net, [names] * 9, optimizer, 9)) == 1
    assert "The loss is nan at step 0: stopped" in capsys.readouterr().out
    assert all(map(torch.equal, net.layers.parameters(), before))


@pytest.mark.parametrize("stop", [None, 3])
def test_fit_ends_with_the_average_of_the_weights_even_after_an_interrupt(stop, net, names, capsys):
    kept = []

    def look(step):
        kept.append([p.detach().clone() for p in net.parameters()])
        if step == stop:
            raise KeyboardInterrupt

    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    lossi = fitting.fit(net, [names] * 4, optimizer, 4, average=0.7, every=1, callback=look)
    assert len(lossi) == len(kept) == (stop or 4)
    assert ("Stopped after 3 steps" in capsys.readouterr().out) == bool(stop)
    average = kept[0]
    for n, weights in enumerate(kept[1:], start=2):
        average = [a + (w - a) * max(0.3, 1 / n) for a, w in zip(average, weights, strict=True)]
    assert all(map(close, net.parameters(), average))


@pytest.mark.parametrize(("attempt", "said"), [
    (lambda net, fit: fit([], 9, schedule=fitting.one_cycle(
        torch.optim.SGD(net.parameters(), 0.1), 0.1, 5)), "schedule has 5 steps left; expected 9"),
    (lambda net, fit: fit([], 3, average=2), "average is 2"),
    (lambda net, fit: fitting.position_loss(torch.zeros(2, 3, 27), torch.zeros(2, 4).long()),
     "one prediction for each target"),
    (lambda net, fit: wavenet.generate(net, ITOS, prefix="a7"), "'7' is not in the vocabulary"),
    (lambda net, fit: models.NGram(27, 2)(torch.zeros(1, 3).long()), "this NGram has no counts")])
def test_what_cannot_be_used_is_refused(attempt, said, net):
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    with pytest.raises(ValueError, match=said):
        attempt(net, lambda batches, *args, **options: fitting.fit(
            net, batches, optimizer, *args, **options))


@pytest.mark.parametrize("steps", [2, 5, 10, 40])
def test_one_cycle_works_for_every_number_of_steps(steps, net):
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    schedule = fitting.one_cycle(optimizer, 0.1, steps, warmup=0.1)
    for _ in range(steps - 1):
        optimizer.step()
        schedule.step()
    assert schedule.get_last_lr()[0] < 1e-3


def test_an_n_gram_by_hand():
    net = models.NGram(3, 1)
    net.count(torch.tensor([[0, 1, 1]]), torch.tensor([[1, 1, 0]]))
    shorter = (torch.tensor([1.0, 2, 0]) + 2 / 3) / 5                   # 2 kinds among 3
    after_1 = (torch.tensor([1.0, 1, 0]) + 2 * shorter) / 4
    assert torch.allclose(net(torch.tensor([[0, 1]]))[0, 1].exp(), after_1, atol=1e-6)


def test_length_batches_pass_the_check_of_the_exercise(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(checking, "RIGHT", tmp_path)
    speed_turns.check_length_batches(models.length_batches)
    assert "right: " in capsys.readouterr().out


def test_adamw_shrinks_the_matrices_alone():
    net = models.Transformer(27, 8, 1, 2, 0, 9)
    groups = {g["weight_decay"]: [*map(id, g["params"])] for g in models.adamw_groups(net, 0.1)}
    assert {id(net.place), id(net.embedding.weight)} < {*groups[0.0]}
    assert groups[0.1] == [id(p) for p in net.parameters() if p.ndim == 2][2:]
    assert sum(map(len, groups.values())) == len([*net.parameters()])


def test_a_wav_file_is_read_or_refused(tmp_path):
    for seconds, loud, said in ((5, 9e3, ""), (3, 9e3, "3.0 seconds; expected 4"), (5, 0, "equal"),
                                (0, 0, "scipy can't read it")):
        t, file = np.arange(16_000 * seconds) / 16_000, tmp_path / f"{seconds} {loud}.wav"
        tone = loud * np.sin(2 * np.pi * 440 * np.stack([t, t], 1))
        wavfile.write(file, 16_000, tone.astype(np.int16)) if seconds else file.write_bytes(b"MP3")
        with pytest.raises(ValueError, match=said) if said else nullcontext():
            wave = sound.read_wav(file, 8_000, 20).numpy()
            assert np.abs(np.fft.rfft(wave)).argmax() == 440 * 5
    turned = np.r_[wave[:8_000], -wave[8_000:]]
    assert sound.in_phase(wave, turned, 8_000) == pytest.approx(1000, abs=15)


def test_a_memory_is_the_weighted_sum_of_what_came_before():
    z, f = torch.randn(2, 6, 3), torch.rand(2, 6, 3)
    for t, c in enumerate(memory.pool(z, f).unbind(1)):
        kept = [(1 - f[:, s]) * f[:, s + 1 : t + 1].prod(1) * z[:, s] for s in range(t + 1)]
        assert close(c, sum(kept))
