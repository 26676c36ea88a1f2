"""Every notebook with other hyperparameters and other words, and its exercises on top.

The cells run in this process, in quick mode, in one namespace a notebook.
"""

import re

import matplotlib.pyplot as plt
import nbformat
import pytest

import helpers
from course import PATHS, code_cells, tags

MARK = "\n# The check: leave it as it is.\n"

# Two or more typical wrong answers to each exercise: the code, and a pattern of what must be said.
WRONG = {
    "exercise-chance": [
        ("""
def chance_loss(n):
    return torch.tensor(n).log10()
""", r"chance_loss\(2\) should be 0.6931, got 0.3010"),
        ("""
def chance_loss(n):
    return 1 / n
""", r"chance_loss\(2\) should be 0.6931, got 0.5"),
    ],
    "exercise-relu": [
        ("""
class ReLU:
    def __call__(self, x):
        self.out = x.abs()
        return self.out
""", "expected .* got"),
        ("""
class ReLU:
    def __call__(self, x):
        return x.clamp(min=0)
""", "self.out"),
        ("""
class ReLU:
    def __call__(self, x):
        self.out = x.clamp_(min=0)
        return self.out
""", "changed its input"),
    ],
    "exercise-count": [
        ("""
def count(v, T, e, h):
    return v * e + e * T * h + 2 * h + h * v
""", "should be 12097, got 12070"),
        ("""
def count(v, T, e, h):
    return v * e + e * T * h + h * v + v
""", "should be 12097, got 11697"),
    ],
    "exercise-flatten": [
        ("""
def flatten_consecutive(x, n):
    B, T, C = x.shape
    return x.transpose(1, 2).reshape(B, T // n, C * n)
""", "another order"),
        ("""
def flatten_consecutive(x, n):
    B, T, C = x.shape
    return x.reshape(B, T // n, C * n)
""", r"expected \(2, 8\), got \(2, 1, 8\)"),
        ("""
def flatten_consecutive(x, n):
    B, T, C = x.shape
    return x.reshape(B, T // n, C * n).squeeze()
""", r"expected \(1, 2, 4\), got \(2, 4\)"),
    ],
    "exercise-tree": [
        ("""
def three_levels(v, e, h):
    return Sequential([Embedding(v, e), FlattenConsecutive(2), Linear(e, h), Linear(h, v)])
""", "fails"),
        ("""
def three_levels(v, e, h):
    return Sequential([Embedding(v, e), FlattenConsecutive(4), Linear(4 * e, h),
                       FlattenConsecutive(2), Linear(2 * h, v)])
""", r"groups of \[4, 2\]"),
        ("""
def three_levels(v, e, h):
    return Sequential([Embedding(v, e), FlattenConsecutive(2), Linear(2 * e, h),
                       FlattenConsecutive(2), Linear(2 * h, v)])
""", r"got \(4, 2, 27\)"),
        ("""
def three_levels(v, e, h):
    levels = [FlattenConsecutive(2), FlattenConsecutive(2), FlattenConsecutive(2)]
    return Sequential([Embedding(v, e), *levels, Linear(8 * e, h), Tanh(), Linear(h, v)])
""", r"the Linear weights are \[\(80, 16\)"),
        ("""
def three_levels(v, e, h):
    level = [FlattenConsecutive(2), Linear(2 * h, h)]
    return Sequential([Embedding(v, e), FlattenConsecutive(2), Linear(2 * e, h), *level, *level,
                       Linear(h, v)])
""", "without a Tanh"),
    ],
    "exercise-norm": [
        ("""
def batch_norm(x, eps=1e-5):
    return (x - x.mean(0, keepdim=True)) / torch.sqrt(x.var(0, keepdim=True) + eps)
""", "statistics of its own: the bug"),
        ("""
def batch_norm(x, eps=1e-5):
    dims = tuple(range(x.ndim - 1))
    var = x.var(dims, keepdim=True, correction=0)
    return (x - x.mean(dims, keepdim=True)) / torch.sqrt(var + eps)
""", "largest difference is 0.0"),
    ],
    "exercise-unseen": [
        ("""
def unseen_share(train, val):
    return len(set(val) - set(train)) / len(set(val))
""", "expected 0.667, got 0.5"),
        ("""
def unseen_share(train, val):
    return sum(word in set(train) for word in val) / len(val)
""", "expected 0.000, got 1.000"),
    ],
    "exercise-activations": [
        ("""
def activations(model, X):
    with helpers.mode(model, training=False), torch.no_grad():
        model(X)
    return [m.out for m in model.layers if isinstance(m, helpers.Tanh)]
""", "expected the shapes"),
        ("""
def activations(model, X):
    model(X)
    return [m.out.reshape(len(X), -1, n_hidden) for m in model.layers
            if isinstance(m, helpers.Tanh)]
""", "was in training, and its running statistics moved"),
        ("""
def activations(model, X):
    for m in model.layers:
        m.training = False
    model(X)
    return [m.out.reshape(len(X), -1, n_hidden) for m in model.layers
            if isinstance(m, helpers.Tanh)]
""", "stays in evaluation"),
    ],
}


def words_file(folder, words):
    file = folder / "names.txt"
    file.write_text("\n".join(words), encoding="utf-8")
    return str(file)


OTHER_SCRIPTS = ["Анна", "мария", "Пётр", "Zoë", "João", "Émile", "Łukasz", "Øyvind", "señor", "ß"]


SETTINGS = {
    "other sizes": lambda _: {"block_size": 16, "long_block_size": 16, "n_embd": 8, "n_hidden": 48,
                              "batch_size": 64, "seed": 7, "max_steps": 700, "pair_seeds": 2},
    "other order": lambda folder: {
        "names_file": words_file(folder, helpers.load_words()[::-1]), "pair_seeds": 1},
    "other scripts": lambda folder: {
        "names_file": words_file(folder, 3 * OTHER_SCRIPTS), "pair_seeds": 1},
    "tiny": lambda _: {"block_size": 2, "long_block_size": 1, "n_embd": 1, "n_hidden": 2,
                       "batch_size": 2, "max_steps": 1, "pair_seeds": 1, "pair_steps": 1,
                       "learning_rate": 1.0},
}


@pytest.fixture
def run(monkeypatch, tmp_path):
    """A function that runs the cells of a notebook with other parameters: its namespace."""

    def run(path, setting):
        monkeypatch.chdir(path.parent)
        monkeypatch.setattr(helpers, "QUICK", True)
        monkeypatch.setattr(helpers, "OUTPUT", tmp_path / "output")
        namespace = {"__name__": "__main__"}
        cells = code_cells(nbformat.read(path, as_version=4))
        for cell in cells:
            exec(compile(cell.source, f"{path.name}:{cell.id}", "exec"), namespace)
            if "parameters" in tags(cell):
                changes = SETTINGS[setting](tmp_path)
                namespace.update({k: v for k, v in changes.items() if k in namespace})
        plt.close("all")
        assert not (tmp_path / "output").exists(), "a run with other values was kept as a result"
        return namespace, cells

    return run


def answer(namespace, code, check):
    """What the check says to the answer `code`."""
    scope = dict(namespace)
    exec(code, scope)
    exec(check[: check.rindex("\nprint(")], scope)
    function = re.search(r"def (check_\w+)\((\w+)\)", check)
    return scope[function[1]](scope[function[2]])


@pytest.mark.parametrize("setting", ["other order", "other scripts", "tiny"])
@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_runs_with_other_values(path, setting, run):
    run(path, setting)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_runs_with_other_sizes_and_its_exercises_can_be_solved(path, run):
    namespace, cells = run(path, "other sizes")
    all_cells = nbformat.read(path, as_version=4).cells
    exercises = [c for c in cells if MARK in c.source]
    assert exercises or path == PATHS[0]
    for cell in exercises:
        stub, check = cell.source.split(MARK)
        assert answer(namespace, stub, check).startswith("not done yet")
        place = next(i for i, c in enumerate(all_cells) if c.id == cell.id)
        solution = re.search(r"<summary>Solution</summary>\n\n```python\n(.*?)```",
                             all_cells[place + 1].source, re.S)[1]
        assert answer(namespace, solution, check).startswith("right")
        assert len(WRONG[cell.id]) >= 2
        for wrong, message in WRONG[cell.id]:
            said = answer(namespace, wrong, check)
            assert said.startswith("wrong: "), (cell.id, said)
            assert re.search(message, said), (cell.id, said)
        # A wrong answer must not spoil what the right one needs.
        assert answer(namespace, solution, check).startswith("right")
