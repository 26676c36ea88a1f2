"""The exercises: what the checks say to the stub, the solution and typical wrong answers."""

import itertools
import re

import pytest

import helpers
import test_notebooks
from course import checking, exercises
from save import PATHS

CALL = re.compile(r"\n\n\n(?:turns|exercises)\.check_\w+\(.*\)$")

# {cell: wrong answers}: in the solution `old` becomes `new`, and the check says `said` (a pattern).
# Where `old` is None, `new` is the whole answer.
WRONG = {
    "turn-windows": [
        ('name + "."', "name", r"of the shapes \(\(\d+, 16\), .* got \(\(\d+, 16\), "),
        ("context = [*context[1:], stoi[ch]]", "context.append(stoi[ch])\n        del context[0]",
         r"expected '\.+ -> .' in row 0, got '\.+\w+\. -> "),
    ],
    "turn-forward": [
        (".view(len(X), -1)", "", "fails: mat1 and mat2 shapes cannot be multiplied"),
        ("var(0)", "var(0, correction=0)", "the variance is divided by n; torch's var divides by"),
    ],
    "turn-step": [
        ("        p.grad = None", "        pass", "second step adds the gradients of the first"),
        ("p -= lr", "p += lr", "E went up the gradient"),
    ],
    "turn-linear": [
        (" / fan_in**0.5", "", r"self.weight of Linear\(6, 4, .*the shape is right, but"),
        ("return [self.weight] if self.bias is None else", "return [self.weight] or",
         r"parameters\(\): expected the tensors \[\(6, 4\), \(4,\)\], got \[\(6, 4\)\]"),
    ],
    "turn-norm": [
        ("(1 - m) * self.running_mean + m", "m * self.running_mean + (1 - m)",
         "self.running_mean after the first batch: the shape is right"),
        ("with torch.no_grad()", "if True", "self.running_mean carries gradients; update it in"),
        ("x.mean(0), x.var(0)", "x.mean(0).detach(), x.var(0)", "the gradient of x for the first"),
    ],
    "turn-sequential": [
        ("x = layer(x)", "layer(x)", "fails: mat1 and mat2 shapes cannot be multiplied"),
        ("p for layer in self.layers for p in layer.parameters()",
         "layer.parameters() for layer in self.layers", r"got \['a list', 'a list', 'a list'\]"),
    ],
    "exercise-deeper": [
        ("        fan_in = n_hidden\n", "", "2.*fails: mat1 and mat2 shapes cannot be multiplied"),
        ("BatchNorm1dPart3(n_hidden), ", "", "layer 3 .* be 'BatchNorm1dPart3', got 'Tanh'"),
    ],
    "turn-flatten": [
        ("x.reshape(B, T // self.n", "x.transpose(1, 2).reshape(B, T // self.n",
         r"the shape is right.*expected \.\.\. 0, 1, 2, 3 .* got \.\.\. 0, 2, 4, 6"),
        ("x.squeeze(1) if x.shape[1] == 1 else x", "x", r"the shape \(2, 8\), got \(2, 1, 8\)"),
    ],
    "turn-tree": [
        ("C * n", "C * 2", r"9, .*3\) for .* fails: mat1 and mat2 shapes cannot be multiplied"),
        ("T > 1", "T > 2", r"expected the shape \(4, 27\), got \(4, 2, 27\)"),
    ],
    "exercise-count": [
        ("* block_size", "", "expected 12,097, got 8,097 .4,000 too few"),
        ("vocab_size * n_embd", "block_size * vocab_size * n_embd", "got 12,637 .540 too many"),
    ],
    "exercise-reshape": [
        ("torch.equal(join(x), torch.cat([x[:, ::2], x[:, 1::2]], dim=2))",
         "join(x).shape == (3, 4, 10)",
         "'positions and channels swapped': expected False, got True"),
        ("3.0 * 8 * 5).view(3, 8, 5)", "8.0).view(1, 4, 2)",
         "'examples and positions swapped': expected False, got True"),
    ],
    "turn-test": [
        ("torch.allclose(out[0, 0], out[0, 3], atol=1e-5)", "bool(out.mean().abs() < 1e-4)",
         "is_right for the layer with the bug: expected False, got True"),
        ("out = layer_class(68)(x)\n    return torch.allclose(out[0, 0], out[0, 3], atol=1e-5)",
         "layer = layer_class(68)\n    layer(x)\n    return layer.running_mean.shape == (1, 1, 68)",
         "is_right for another way to fix it: expected True, got False"),
    ],
    "turn-fix": [
        ("tuple(range(x.ndim - 1))", "0", "every position has its own statistics: the bug"),
        (" + eps", "", "the largest difference is nan"),
        ("mean, var =", "x = x.detach()\n    mean, var =", "no gradient flows from the result"),
    ],
    "turn-unseen": [
        ("if name not in known", "", "that is the loss on all of val"),
        ("not in known", "in known", "that is the loss on the names that are in train"),
        ("for name in val", "for name in sorted(set(val))", "that is in val twice counts twice"),
    ],
    "exercise-activations": [
        ("[a.reshape(len(X), -1, a.shape[-1]) for a in tanhs]", "tanhs",
         "expected tensors of the shapes"),
        ("with helpers.mode(model, training=False), torch.no_grad():", "if True:",
         "was in training, and its running statistics moved"),
        ("with helpers.mode(model, training=False), torch.no_grad():",
         "for m in model.layers:\n        m.training = False\n    if True:", "stays in evaluation"),
    ],
    "turn-level": [
        ("self.norm(x.flatten(0, 1)).view(x.shape)", "self.norm(x)", "should contain 2 elements"),
        ("bias=False", "bias=True", r"for linear.bias in .* expected nothing, got \(6,\)"),
    ],
    "turn-module": [
        ("nn.ModuleList()", "[]", "expected 1,039 parameters, got 459"),
        ("x.squeeze(1)", "x", r"expected the shape \(4, 27\), got \(4, 1, 27\)"),
    ],
    "turn-copy": [
        ("p.t() if is_linear else p", "p", "fails: The size of tensor a"),
        ("theirs.copy_(p.t() if is_linear else p)", "theirs.data = p.data.t() if is_linear else "
         "p.data", "embedding.weight after .* the largest difference is 1.0000"),
    ],
    "exercise-hooks": [
        ("        hook.remove()", "        pass", "the hooks are still attached"),
        ("keep(name)) for", "lambda m, i, o: found.update({name: o.shape})) for", "'' .*got nothi"),
    ],
    "exercise-fold": [
        (" + norm.eps", "", "the weight and the bias are off; .* largest difference is"),
        ("norm.bias - factor *", "norm.bias - ", "only the bias is off"),
        ("folded = nn.Linear(linear.in_features, linear.out_features)",
         "folded = linear\n    folded.bias = nn.Parameter(torch.zeros(4))",
         "changes the Linear or the BatchNorm1d"),
    ],
    "turn-fit": [
        ("itertools.islice(batches, max_steps)", "batches", "takes more than 3 batches"),
        ("        optimizer.zero_grad()\n", "", "the gradients of all steps add up"),
        ("loss.item()", "loss", r"list of 3 plain numbers, loss.item\(\) each, got \[tensor"),
    ],
    "turn-adamw": [
        ("+ (1 - betas[1]) * grad**2", "+ grad**2", "the new v of step t = 1: the shape is right"),
        ("(1 - betas[0] ** t)", "(1 - betas[0])", "the new p of step t = 2: the shape is right"),
    ],
    "exercise-cycle": [
        ("(step - top) / (last - top)", "step / last", r"rate_at\(30, 100, 1.0\): expected 0.9"),
        ("if step <= top", "if step < 0", r"rate_at\(0, 100, 1.0\): expected 0.04, got 0.6"),
    ],
    "exercise-momentum": [
        ("velocity = momentum * velocity + grad", "velocity = grad", "step 2: the shape is right"),
        ("p = p - lr * velocity", "p -= lr * velocity", "changes the tensor that it is given"),
    ],
    "turn-conv1d": [
        ("] += w", "] = w", "that is the last product alone; add up over c and j"),
        ("w[o, c, j]", "w[o, c, K - 1 - j]", "the kernel is reversed"),
    ],
    "turn-dilated": [
        ("2**i", "1", r"of 4 .* expected the shape \(5, 17, 27\), got \(5, 18, 27\)"),
        ("conv_weight(linear.weight)", "linear.weight.t().reshape(6, -1, 2)",
         "the shape is right, but the largest difference"),
    ],
    "exercise-conv": [
        ("linear.weight.view(n, C_in, C_out).permute(2, 1, 0)",
         "linear.weight.t().reshape(C_out, C_in, n)", "the shape is right, but the largest diff"),
        ("bias=linear.bias is not None", "bias=True",
         r"expected weight, kernel, stride, bias \(\(3, 3, 2\), 2, 2, False\), got .* True"),
    ],
    "exercise-sees": [
        (None, "def sees(k, dilations):\n    return 1 + (k - 1) * sum(dilations)",
         r"sees\(2, \[1, 3\]\): expected 4, got 5"),
        (None, "def sees(k, dilations):\n    return k ** len(dilations)",
         r"sees\(3, \[1, 2\]\): expected 7, got 9"),
    ],
    "exercise-depends": [
        ("function(x)[0, t]", "[function(x)[0, t].square().sum()]",
         r"torch.cat\(\[x.sin\(\), x.cos\(\)\], 2\) and t = 9: expected \[9\], got \[\]"),
        ("grad[0].any(1)", "grad[0].sum(1) != 0", r"x\[..., 1:\] and t = 9: expected \[9\], got"),
    ],
    "turn-layer": [
        ("(self.dilation, 0)", "(0, self.dilation)", "position 5 of x changes the output at"),
        ("torch.sigmoid(g)", "torch.tanh(g)", "g has a tanh as well"),
        ("x + self.residual(z)", "x + z", "W_r is missing from the next x"),
        ("self.skip(z)", "self.skip(x)", "the skip is made of x; it is made of z"),
    ],
    "turn-loss": [
        ("[real], Y[real]", ".mT, Y.clamp(0)", "the padding counts as character 0"),
        ("F.cross_entropy(logits[real], Y[real])",
         "F.cross_entropy(logits.mT, Y, ignore_index=PAD, reduction='none').mean()",
         "that divides by all positions, the padding included"),
    ],
    "turn-pool": [
        ("f[:, t] * c + (1 - f[:, t])", "(1 - f[:, t]) * c + f[:, t]", "have changed places"),
        ("torch.stack(memories, dim=1)", "c", r"got the shape \(2, 3\), one memory"),
        ("torch.zeros_like(z[:, 0])", "z[:, 0]", "c starts as the first z; it should start at 0"),
    ],
    "turn-ring": [
        (".clone()", "", r"t = 0: .* got \.\.\. 10, 10, 10, 10"),
        ("ring[t % len(ring)] = x", "ring = torch.cat([ring[1:], x[None]])",
         r"10 should replace the oldest of \[0.0, 0.0, 0.0, 0.0\]"),
    ],
    "turn-condition": [
        (" + self.V(h)[:, :, None]", "", "random h: h changes nothing"),
        ("sigmoid(g)", "sigmoid(g - self.V(h)[:, 4:, None])", "V h reaches f only; g needs its h"),
    ],
    "exercise-field": [
        ("< samples", "<= samples", "expected 1, got 2; 0 would see 1, 1 see 2"),
        (None, "import math\ndef layers_for(samples, kernel_size=2):\n"
         "    return math.ceil(math.log(samples, kernel_size))",
         r"layers_for\(125, 5\): expected 3, got 4"),
    ],
    "exercise-leak": [
        ("return different", "different[:t] = False\n    return different",
         r"sees 2 ahead, X, 7\): expected 5, got 7"),
        ("X[:, t] % 4 + 1", "1", "in row 1 only, .* expected 4, got 7"),
    ],
    "turn-missing": [
        ("runs.key(config): config", "json.dumps(config): config", "written out: expected 1 left"),
        ("have = {", 'have = {json.loads(line)["val"] and ', "failed fails: 'val' .KeyError"),
        ("return {key: config", "return {key", "got a set"),
    ],
    "turn-interval": [
        ("stats.t.ppf(0.975, n - 1)", "1.96", "is 0.46 times as wide as it should be"),
        (" / n**0.5", "", "is 1.73 times as wide"), (", ddof=1", "", "is 0.82 times as wide"),
    ],
    "turn-holm": [
        ("max(highest, min(1.0, (len(p) - rank) * p[i]))", "min(1.0, (len(p) - rank) * p[i])",
         r"\[0.02, 0.021, 0.9\]\)\[1\]: expected 0.06, got 0.042"),
        ("min(1.0, (len(p) - rank) * p[i])", "(len(p) - rank) * p[i]", "expected 1, got 1.2"),
    ],
    "exercise-luck": [
        ("-searches", "searches", r"luck\(2, 2.0\): expected 1.128, got -1.1.*; the winner looks"),
        (".mean()", "", r"luck\(1, 2.0\): expected one number, 0, got \["),
    ],
    "turn-mix": [
        ("(counts > 0).sum()", "counts.sum()", "k is the sum of the counts; it counts the char"),
        ("counts.sum() + prior", "counts.sum()", r"the probabilities sum to 1\.250, not to 1"),
    ],
    "exercise-first": [
        (".nanmean()", ".nanmean(1).mean()", r"expected 2.5, got 2; by hand \(1 \+ 2"),
        ("nanmean", "mean", "expected 2.5, got nan"),
        ("return", "losses[:, 0] = 0\n    return", "changes the tensor that it is given"),
    ],
    "turn-flops": [
        ("2 * (B * T)", "(B * T)", r"expected 24, got 18; torch counts 1.33 times as many"),
        ("3 * forward", "forward", "torch counts 3 times as many"),
    ],
    "turn-variance": [
        ("(len(x) - 1)", "len(x)", "for x of 2 rows: the shape is right"),
        ("(x - x.mean(0)).square().sum(0)", "(x.square().sum(0) - len(x) * x.mean(0).square())",
         "for x of 128 rows around 1,000: the shape is right"),
    ],
    "turn-batches": [
        ("order[lengths[order].argsort(stable=True)]", "order", "positions are padding; sort bef"),
        (":L], Y[batches[i], :L]", ":], Y[batches[i], :]", "12 and 12 wide in a batch whose long"),
        ("torch.randperm(len(batches)).tolist()", "range(len(batches))", "wide, .*; mix their or"),
        ("while True", "for _ in range(1)", "batches in two epochs: expected 14, got 7"),
    ],
    "exercise-batched": [
        ("alive, ids = alive[going], ids[going]", "ids = ids * going",
         "2,000 calls of probs and no end"),
        ("def draw_names(probs, n):", "def draw_names(probs, n):\n    return [batch(probs, 1)[0] "
         "for _ in range(n)]\n\n\ndef batch(probs, n):", r"of probs: expected 3, got \d{3}"),
    ],
}


def needed(cells, answers):
    """The cells that define what the exercises and their answers use, directly or not."""
    missing, chosen = set(), []
    for cell in reversed(cells):
        texts = [cell.source, *answers.get(cell.id, ())]
        names = [test_notebooks.global_names(compile(text, cell.id, "exec")) for text in texts]
        assigned = names[0][0]
        if cell.id in answers or assigned & missing:
            missing = (missing - assigned).union(*(used for _, used in names))
            if cell.id not in answers:
                chosen.append(cell)
    return chosen[::-1]


# The longest first, so that no process begins with it when the others have finished.
@pytest.mark.parametrize("path", PATHS[:0:-1], ids=lambda path: path.stem)
def test_checks_judge_answers(path, run, words_file, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(checking, "RIGHT", tmp_path)
    stubs, answers = {}, {}
    for cell, below in itertools.pairwise(test_notebooks.read(path).cells):
        if CALL.search(cell.source):
            stubs[cell.id] = cell.source
            solution = re.search("<summary>Solution</summary>\n\n```python\n(.*?)```",
                                 below.source, re.S)[1]
            answers[cell.id] = [solution, *(solution.replace(old, new) if old else new
                                            for old, new, _ in WRONG[cell.id])]
    namespace, _ = run(path, {
        "names_file": words_file(helpers.load_words()[::20]), "block_size": 16,
        "long_block_size": 16, "n_embd": 8, "n_hidden": 32, "batch_size": 64, "seed": 7,
        "max_steps": 100, "pair_seeds": 2, "workers": 1,
    }, choose=lambda cells: needed(cells, answers))
    for id, (solution, *wrong) in answers.items():
        stub, check = stubs[id][:CALL.search(stubs[id]).start()], CALL.search(stubs[id])[0]

        def said(answer, check=check):
            capsys.readouterr()
            exec(answer + "\n" + check, dict(namespace))
            return capsys.readouterr().out

        assert said(stub).endswith("not done yet\n")
        for answer, (_, _, message) in zip(wrong, WRONG[id], strict=True):
            assert re.search(f"^wrong: .*{message}.*\n$", found := said(answer), re.M), found
        # The last, because a wrong answer must not spoil what the right one needs.
        assert "right: " in said(solution), (id, said(solution))


def test_progress_counts_the_right_answers(tmp_path, monkeypatch):
    monkeypatch.setattr(checking, "RIGHT", tmp_path)
    (tmp_path / "check_forward").touch()
    assert exercises.progress().loc["01"].tolist() == [1, 3, "forward"]


TITLE = re.compile(
    r"^### \d+\. [^\n]+\n\n\*(coding|concept|reflection) · (?:easy|medium|hard) · \d+ minutes · "
    r"(?:our own|(?:question|challenge|reflection) \d of the lecture's notes)\*\n\n", re.M)


def test_exercises_have_their_form():
    from_the_notes, coding = set(), set()
    for path in PATHS[1:]:
        cells = test_notebooks.read(path).cells
        whole = "\n\n".join(f"<<{c.id}>>" if CALL.search(c.source) else c.source for c in cells)
        text = whole.partition("\n## Exercises\n")[2]
        from_the_notes |= set(re.findall(r"^\*.*?(\w+ \d) of the lecture's notes\*$", whole, re.M))
        titles = list(TITLE.finditer(text))
        assert len(titles) == len(re.findall(r"^### ", text, re.M)) > 0, path.name
        ends = [*(t.start() for t in titles[1:]), len(text)]
        for title, end in zip(titles, ends, strict=True):
            kind, body = title[1], text[title.end():end]
            if kind == "coding":
                stub, = re.findall("<<(.+)>>", body)
                coding.add(stub)
                assert "<summary>Hint, if " in body, title[0]
                assert "<summary>Solution</summary>\n\n```python" in body, title[0]
            else:
                summary, most = ("Answer", 150) if kind == "concept" else ("One answer", 350)
                answer, = re.findall(rf"<summary>{summary}</summary>(.+?)</details>", body, re.S)
                assert len(answer.split()) <= most, title[0]
                assert kind == "concept" or "\nSources: " in answer, title[0]
    assert coding == {cell for cell in WRONG if not cell.startswith("turn-")}
    assert all(len(answers) >= 2 for answers in WRONG.values())
    assert from_the_notes == {f"{kind} {n}" for kind, count in (
        ("question", 6), ("challenge", 5), ("reflection", 4)) for n in range(1, count + 1)}
