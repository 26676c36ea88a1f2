"""course.fitting, course.wavenet and course.models."""

import pytest
import torch
import torch.nn.functional as F

import helpers
from course import fitting, models, wavenet

STOI = {ch: i for i, ch in enumerate(".abcdefghijklmnopqrstuvwxyz")}
ITOS = {i: ch for ch, i in STOI.items()}
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


def test_packed_padded_and_one_by_one_are_the_same(net, names):
    X, Y = names
    losses = [wavenet.name_loss(net, X, Y, chunk, packed)
              for chunk, packed in ((4, True), (100, True), (3, False))]
    each = [wavenet.name_loss(net, *wavenet.encode_names([w], STOI)) * (len(w) + 1) for w in WORDS]
    assert losses == pytest.approx([sum(each) / sum(len(w) + 1 for w in WORDS)] * 3, abs=1e-6)


def test_every_parameter_of_a_wavenet_gets_a_gradient(net, names):
    fitting.position_loss(net(names[0]), names[1]).backward()
    assert all(p.grad is not None and p.grad.any() for p in net.parameters())


@pytest.mark.parametrize("kernel_size", [2, 3])
def test_a_wavenet_sees_its_receptive_field_and_no_later_position(kernel_size):
    torch.manual_seed(1)
    net = wavenet.WaveNet(27, 8, 12, [1, 2], kernel_size=kernel_size)
    X = torch.randint(1, 27, (1, 20))
    seen = []
    net.embedding.register_forward_hook(lambda *args: seen.append(args[2]))
    grad, = torch.autograd.grad(net(X)[0, 12].pow(2).sum(), seen)
    positions = grad[0].abs().sum(1).nonzero().flatten().tolist()
    assert positions == list(range(13 - net.receptive_field, 13))


def test_ring_buffers_give_what_whole_names_give(net, names):
    X, Y = names
    with torch.no_grad():
        rings = wavenet.ring_buffers(net, len(X))
        ringed = torch.stack([net(x, rings) for x in X.T], dim=1)
        assert (ringed - net(X))[Y != fitting.PAD].abs().max() < 1e-5
        with pytest.raises(ValueError, match="zip"):
            net(X[:, 0], wavenet.ring_buffers(net, len(X))[:-1])      # too few


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
    assert wavenet.generate(net, ITOS, 1, seed=7, max_length=8) == [slow]


def test_fit_is_torchs_own_loop(net, names):
    def optimizer(model):
        return torch.optim.AdamW(model.parameters(), 1e-2)

    torch.manual_seed(1)
    theirs = wavenet.WaveNet(27, 8, 12, [1, 2, 4])
    theirs_optimizer = optimizer(theirs)
    torch.manual_seed(2)
    ours = fitting.fit(net, wavenet.name_batches(*names, 4), optimizer(net), 8)
    torch.manual_seed(2)
    lossi = []
    for _, (X, Y) in zip(range(8), wavenet.name_batches(*names, 4), strict=False):
        loss = F.cross_entropy(theirs(X).flatten(0, 1), Y.flatten(), ignore_index=-1)
        lossi.append(loss.item())
        theirs_optimizer.zero_grad()
        loss.backward()
        theirs_optimizer.step()
    assert ours == pytest.approx(lossi, abs=1e-5)


def test_batches_that_end_early_are_told(net, names, capsys):
    batches = [names] * 3
    assert len(fitting.fit(net, batches, torch.optim.SGD(net.parameters(), 0.1), 9)) == 3
    assert "The batches ended after 3 of 9 steps" in capsys.readouterr().out


def test_an_interrupt_in_fit_leaves_the_losses(net, names, capsys):
    def interrupt(steps):
        raise KeyboardInterrupt

    lossi = fitting.fit(net, wavenet.name_batches(*names, 4),
                        torch.optim.SGD(net.parameters(), 0.1), 9, every=2, callback=interrupt)
    assert len(lossi) == 2
    assert "Stopped after 2 steps" in capsys.readouterr().out


def test_averaged_weights_get_their_own_statistics():
    X, Y = helpers.build_dataset(WORDS, 4, STOI)
    torch.manual_seed(1)
    net = models.TreeNet(27, 4, 5, 8)
    fitting.fit(net, [(X, Y)] * 9, torch.optim.SGD(net.parameters(), 0.5), 9, average=0.5)
    first = net.levels[0]
    with torch.no_grad():
        x = net.embedding(X)
        joined = first.linear(x.view(len(X), 2, -1)).flatten(0, 1)
    assert torch.allclose(first.norm.running_mean, joined.mean(0), atol=1e-5)


def test_what_fit_and_batches_cannot_use_is_refused(net, names):
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=5)
    with pytest.raises(ValueError, match="schedule has 5 steps left; expected 9"):
        fitting.fit(net, [names], optimizer, 9, schedule=schedule)
    with pytest.raises(ValueError, match="average is 2"):
        fitting.fit(net, [names], optimizer, 3, average=2)
    with pytest.raises(ValueError, match="expected as many rows in both"):
        next(fitting.window_batches(names[0], names[1][:3], 2))
    with pytest.raises(ValueError, match="one prediction for each target"):
        fitting.position_loss(torch.zeros(2, 3, 27), torch.zeros(2, 4).long())


@pytest.mark.parametrize("steps", [2, 5, 10, 40])
def test_one_cycle_works_for_every_number_of_steps(steps, net):
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    schedule = fitting.one_cycle(optimizer, 0.1, steps, warmup=0.1)
    for _ in range(steps - 1):
        optimizer.step()
        schedule.step()
    assert schedule.get_last_lr()[0] < 1e-3


def test_tree_net_is_our_tree_with_its_weights_in_evaluation():
    X, Y = helpers.build_dataset(WORDS, 8, STOI)
    torch.manual_seed(1)
    ours = helpers.make_tree(27, 8, 5, 6)
    helpers.train(ours, X, Y, max_steps=20, batch_size=8)
    net = models.TreeNet(27, 8, 5, 6)
    with torch.no_grad():
        for p, q in zip(net.parameters(), ours.parameters(), strict=True):
            p.copy_(q if p.ndim < 2 or q is ours.layers[0].weight else q.T)
        for level, norm in zip(net.levels, ours.layers[3::4], strict=True):
            level.norm.running_mean.copy_(norm.running_mean.flatten())
            level.norm.running_var.copy_(norm.running_var.flatten())
    with helpers.mode(ours, False), helpers.mode(net, False), torch.no_grad():
        assert (ours(X) - net(X)).abs().max() < 1e-5


def test_an_n_gram_by_hand():
    net = models.NGram(3, 1)
    net.count(torch.tensor([[0, 1, 1]]), torch.tensor([[1, 1, 0]]))
    shorter = (torch.tensor([1.0, 2, 0]) + 2 / 3) / 5                   # 2 kinds among 3
    after_1 = (torch.tensor([1.0, 1, 0]) + 2 * shorter) / 4
    assert torch.allclose(net(torch.tensor([[0, 1]]))[0, 1].exp(), after_1, atol=1e-6)


@pytest.mark.parametrize("make", [
    lambda: models.Transformer(27, 8, 2, 2, 0.0, 9),
    lambda: models.Recurrent(torch.nn.GRU, 27, 8, 2),
    lambda: models.Recurrent(torch.nn.LSTM, 27, 8, 1)])
def test_the_rivals_do_not_see_the_future(make):
    torch.manual_seed(1)
    net = make().eval()
    X = torch.randint(1, 27, (2, 9))
    changed = X.clone()
    changed[:, 5:] = X[:, 5:] % 26 + 1
    with torch.no_grad():
        assert torch.allclose(net(X)[:, :5], net(changed)[:, :5], atol=1e-6)
        assert not torch.allclose(net(X)[:, 5:], net(changed)[:, 5:], atol=1e-3)


def test_adamw_shrinks_the_matrices_alone():
    net = wavenet.WaveNet(27, 8, 12, [1])
    groups = models.adamw_groups(net, 0.1)
    shapes = {group["weight_decay"]: {tuple(p.shape) for p in group["params"]} for group in groups}
    assert (27, 8) in shapes[0.0]
    assert all(len(shape) == 2 for shape in shapes[0.1])
    assert sum(len(group["params"]) for group in groups) == len([*net.parameters()])
