"""Every public function of helpers.py with values that cannot be meant.

Each row: its name, the call, what the message must say. A message names the value and what to do.
"""

import math
import re

import numpy as np
import pytest
import torch

import helpers
import playground
import rivals
import speed

WORDS = ["emma", "olivia", "ava", "mia", "zoe", "luna", "nora", "lily", "ella", "aria"]
STOI, ITOS = helpers.build_vocab(WORDS)
X, Y = helpers.build_dataset(WORDS, 4, STOI)
XN, YN = helpers.encode_names(WORDS, STOI)
V = len(STOI)
NAN = math.nan
REMEDY = r"\b(expected|use|give|remove|leave|build|lower|add|make|train|save)\b"


def tree():
    torch.manual_seed(0)
    return helpers.make_tree(V, 4, 3, 5)


def wavenet(**options):
    return helpers.WaveNet(
        **{"vocab_size": V, "n_hidden": 4, "n_skip": 4, "dilations": [1, 2]} | options)


def train(**options):
    return helpers.train(tree(), **{"X": X, "Y": Y, "max_steps": 1} | options)


def fit(**options):
    model = wavenet()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    return helpers.fit(**{"model": model, "batches": helpers.name_batches(XN, YN, 2),
                          "optimizer": optimizer, "max_steps": 1} | options)


def log(**options):
    config = {"block_size": 8, "n_embd": 10, "n_hidden": 68, **helpers.RECIPE}
    return helpers.performance_log(**{
        "stage": "tree", "words": WORDS, "config": config, "parameters": [], "train_loss": 2.0,
        "val_loss": 2.0, "seconds": 1.0, "steps": 1} | options)


def norm(x, training=True, dim=5):
    layer = helpers.BatchNorm1d(dim)
    layer.training = training
    return layer(x)


def schedule(steps):
    optimizer = torch.optim.SGD(wavenet().parameters(), 0.1)
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=steps)


def diverged():
    model = tree()
    model.layers[-1].weight.data.fill_(NAN)
    return model


BAD = [
    ("check_sizes: zero", lambda: helpers.check_sizes(n=0), "n is 0"),
    ("check_sizes: text", lambda: helpers.check_sizes(n="8"), "n is '8'"),
    ("check_sizes: NaN", lambda: helpers.check_sizes(n=NAN), "n is nan"),
    ("check_sizes: beyond all memory", lambda: helpers.check_sizes(n=10**8 + 1),
     "n is 100000001; .* 100,000,000 at most"),
    ("check_sizes: below its least", lambda: helpers.check_sizes(2, n=1), "n is 1; .* 2 or more"),
    ("check_numbers: NaN", lambda: helpers.check_numbers(learning_rate=NAN),
     "learning_rate is nan"),
    ("check_numbers: list", lambda: helpers.check_numbers(dropout=[0.1]), r"dropout is \[0.1\]"),
    ("check_numbers: one", lambda: helpers.check_numbers(dropout=1.0), "dropout is 1.0"),
    ("check_dilations: none", lambda: helpers.check_dilations([]), r"dilations is \[\]"),
    ("check_dilations: text", lambda: helpers.check_dilations("124"), "dilations is '124'"),
    ("check_dilations: zero", lambda: helpers.check_dilations([1, 0]), "dilation is 0"),
    ("check_dilations: huge", lambda: helpers.check_dilations([10**12]), f"dilation is {10**12}"),
    ("check_words: None", lambda: helpers.check_words(None), "words is None; expected a list"),
    ("check_words: a file", lambda: helpers.check_words(b"ab"), "words has 97; .* list of texts"),
    ("check_words: no words", lambda: helpers.check_words([]), "no words; expected a list"),
    ("check_words: dot", lambda: helpers.check_words(["a", "b."]), r"'b\.' has a '\.'"),
    ("check_parameters: batch", lambda: helpers.check_parameters(batch_size=1), "batch_size is 1"),
    ("check_parameters: None", lambda: helpers.check_parameters(n_embd=None), "n_embd is None"),
    ("check_parameters: seed", lambda: helpers.check_parameters(seed=-1), "seed is -1"),
    ("check_parameters: seed of a float", lambda: helpers.check_parameters(seed=1.0),
     "seed is 1.0"),
    ("check_parameters: seed too large", lambda: helpers.check_parameters(seed=2**63), "seed is 9"),
    ("check_parameters: decay", lambda: helpers.check_parameters(weight_decay=-0.1),
     "weight_decay is -0.1"),
    ("check_parameters: storage", lambda: helpers.check_parameters(storage=7), "storage is 7"),
    ("capped: negative", lambda: helpers.capped(-1), "steps is -1"),
    ("capped: text", lambda: helpers.capped("many"), "steps is 'many'"),
    ("load_words: no file", lambda: helpers.load_words("nowhere.txt"), "nowhere.txt: no such file"),
    ("load_words: a number", lambda: helpers.load_words(7), "names_file is 7"),
    ("load_words: None", lambda: helpers.load_words(None), "names_file is None"),
    ("load_words: a folder", lambda: helpers.load_words("data"), "data: no such file"),
    ("load_words: empty name", lambda: helpers.load_words(""), "^: no such file"),
    ("load_words: a name too long", lambda: helpers.load_words("long" * 2000),
     "longlong: (cannot be read|no such file)"),        # the second on Windows
    ("build_vocab: dot", lambda: helpers.build_vocab(["a.b"]), r"'a\.b' has a '\.'"),
    ("build_vocab: no words", lambda: helpers.build_vocab([]), "no words; expected a list"),
    ("build_vocab: None", lambda: helpers.build_vocab(None), "words is None"),
    ("build_vocab: one text", lambda: helpers.build_vocab("emma"), "'emma'.*list"),
    ("build_vocab: numbers", lambda: helpers.build_vocab([1, 2]),
     "words has 1; expected a list of texts"),
    ("split_words: none", lambda: helpers.split_words([]), "0 words"),
    ("split_words: three", lambda: helpers.split_words(WORDS[:3]), "3 words leave the val split"),
    ("split_words: one text", lambda: helpers.split_words("emma"), "'emma'.*list"),
    ("split_words: None", lambda: helpers.split_words(None), "words is None; expected a list"),
    ("split_words: a number", lambda: helpers.split_words(5), "words is 5; expected a list"),
    ("split_words: a generator", lambda: helpers.split_words(w for w in WORDS),
     "words is <generator .*; expected a list"),
    ("split_words: seed", lambda: helpers.split_words(WORDS, seed=-1), "seed is -1"),
    ("build_dataset: context 0", lambda: helpers.build_dataset(WORDS, 0, STOI), "block_size is 0"),
    ("build_dataset: context 2.5", lambda: helpers.build_dataset(WORDS, 2.5, STOI),
     "block_size is 2.5"),
    ("build_dataset: no words", lambda: helpers.build_dataset([], 3, STOI),
     "no words; expected a list"),
    ("build_dataset: context of 10**12", lambda: helpers.build_dataset(WORDS, 10**12, STOI),
     "block_size is 1000000000000; expected"),
    ("build_dataset: dot", lambda: helpers.build_dataset(["a.b"], 3, STOI), r"'a\.b' has a '\.'"),
    ("build_dataset: stoi None", lambda: helpers.build_dataset(WORDS, 3, None),
     "stoi is None; expected a dict"),
    ("build_dataset: no dot in stoi", lambda: helpers.build_dataset(["a"], 3, {"a": 0}),
     r"stoi is \{'a': 0\}; expected a dict with '\.'"),
    ("build_dataset: a letter", lambda: helpers.build_dataset(["xy"], 3, STOI), "'x' in 'xy'"),
    ("build_dataset: one text", lambda: helpers.build_dataset("emma", 3, STOI), "'emma'.*list"),
    ("encode_names: no words", lambda: helpers.encode_names([], STOI),
     "no words; expected a list"),
    ("encode_names: dot", lambda: helpers.encode_names(["a.b"], STOI), r"'a\.b' has a '\.'"),
    ("encode_names: None", lambda: helpers.encode_names(None, STOI), "words is None"),
    ("encode_names: no stoi", lambda: helpers.encode_names(["b"], None), "'.' is not in the voc"),
    ("encode_names: no dot", lambda: helpers.encode_names(["b"], {"b": 1}), "'.' is not in the"),
    ("encode_names: a letter", lambda: helpers.encode_names(["xy"], STOI),
     "'x' is not in the vocabulary"),
    ("encode_names: one text", lambda: helpers.encode_names("emma", STOI), "'emma'.*list"),
    ("window_batches: batch", lambda: next(helpers.window_batches(X, Y, 0)), "batch_size is 0"),
    ("window_batches: no rows", lambda: next(helpers.window_batches(X[:0], Y[:0], 2)), r"\(0, 4\)"),
    ("window_batches: lengths", lambda: next(helpers.window_batches(X, Y[:3], 2)), r"\(3,\)"),
    ("name_batches: batch", lambda: next(helpers.name_batches(XN, YN, True)), "batch_size is True"),
    ("name_batches: windows", lambda: next(helpers.name_batches(X, Y, 2)), r"\(\d+, 4\).*\(\d+,\)"),
    ("Linear: no inputs", lambda: helpers.Linear(0, 5), "fan_in is 0"),
    ("Linear: outputs", lambda: helpers.Linear(5, -1), "fan_out is -1"),
    ("BatchNorm1dPart3: dim", lambda: helpers.BatchNorm1dPart3(0), "dim is 0"),
    ("BatchNorm1d: dim", lambda: helpers.BatchNorm1d(2.0), "dim is 2.0"),
    ("BatchNorm1d: channels", lambda: norm(torch.zeros(3, 4)), r"\(3, 4\), expected \(B, 5\)"),
    ("BatchNorm1d: dimensions", lambda: norm(torch.zeros(3, 2, 2, 5)), r"\(3, 2, 2, 5\)"),
    ("BatchNorm1d: one example", lambda: norm(torch.zeros(1, 5)), "1 value per channel"),
    ("BatchNorm1d: empty", lambda: norm(torch.zeros(0, 5)), "0 value per channel"),
    ("Embedding: size", lambda: helpers.Embedding(0, 5), "num_embeddings is 0"),
    ("Embedding: width", lambda: helpers.Embedding(5, "4"), "embedding_dim is '4'"),
    ("FlattenConsecutive: zero", lambda: helpers.FlattenConsecutive(0), r"FlattenConsecutive\(0\)"),
    ("FlattenConsecutive: groups", lambda: helpers.FlattenConsecutive(2)(torch.zeros(4, 7, 3)),
     "7 positions do not divide"),
    ("FlattenConsecutive: shape", lambda: helpers.FlattenConsecutive(2)(torch.zeros(4, 8)),
     r"\(4, 8\), expected \(B, T, C\)"),
    ("make_mlp: context", lambda: helpers.make_mlp(V, 0, 3, 5), "block_size is 0"),
    ("make_mlp: width", lambda: helpers.make_mlp(V, 3, -3, 5), "n_embd is -3"),
    ("make_mlp: hidden", lambda: helpers.make_mlp(V, 3, 3, None), "n_hidden is None"),
    ("make_mlp: a slip of the key", lambda: helpers.make_mlp(V, 3, 3, 10**12),
     "n_hidden is 1000000000000"),
    ("make_mlp: vocabulary", lambda: helpers.make_mlp(0, 3, 3, 5), "vocab_size is 0"),
    ("tree_levels: 6", lambda: helpers.tree_levels(6), "block_size 6 is no power of 2"),
    ("tree_levels: 6 in fours", lambda: helpers.tree_levels(6, 4), "block_size 6 is no power of 4"),
    ("tree_levels: groups of 1", lambda: helpers.tree_levels(8, 1), "group_size is 1"),
    ("make_tree: context", lambda: helpers.make_tree(V, 12, 3, 5), "block_size 12 is no power"),
    ("make_tree: width", lambda: helpers.make_tree(V, 4, 0, 5), "n_embd is 0"),
    ("make_tree: hidden", lambda: helpers.make_tree(V, 4, 3, 2.5), "n_hidden is 2.5"),
    ("ready: no layers", lambda: helpers.ready(helpers.Sequential([])),
     "ends in nothing; expected a Linear"),
    ("ready: no weight at the end", lambda: helpers.ready(helpers.Sequential([helpers.Tanh()])),
     "ends in Tanh; expected a Linear"),
    ("WholeWords: shape", lambda: helpers.WholeWords(XN[0]), r"\(\d+,\)"),
    ("RingBuffer: size", lambda: helpers.RingBuffer(0, 2, 3), "size is 0"),
    ("RingBuffer: words", lambda: helpers.RingBuffer(2, -1, 3), "N is -1"),
    ("CausalConv1d: dilation", lambda: helpers.CausalConv1d(2, 2, 0), "dilation is 0"),
    ("CausalConv1d: kernel", lambda: helpers.CausalConv1d(2, 2, 1, 1), "kernel_size is 1"),
    ("WaveNetLayer: dilation", lambda: helpers.WaveNetLayer(4, 4, 0, 2, 0, True, True, True),
     "dilation is 0"),
    ("WaveNetLayer: kernel", lambda: helpers.WaveNetLayer(4, 4, 1, "2", 0, True, True, True),
     "kernel_size is '2'"),
    ("WaveNet: no layers", lambda: wavenet(dilations=[]), r"dilations is \[\]"),
    ("WaveNet: a dilation", lambda: wavenet(dilations=[1, 2.0]), "dilation is 2.0"),
    ("WaveNet: a number", lambda: wavenet(dilations=3), "dilations is 3"),
    ("WaveNet: hidden", lambda: wavenet(n_hidden=0), "n_hidden is 0"),
    ("WaveNet: skip", lambda: wavenet(n_skip=-2), "n_skip is -2"),
    ("WaveNet: vocabulary", lambda: wavenet(vocab_size=0), "vocab_size is 0"),
    ("WaveNet: kernel", lambda: wavenet(kernel_size="2"), "kernel_size is '2'"),
    ("WaveNet: dropout", lambda: wavenet(dropout=1.5), "dropout is 1.5"),
    ("WaveNet: all dropped", lambda: wavenet(dropout=1.0), "dropout is 1.0"),
    ("WaveNet: dropout nan", lambda: wavenet(dropout=math.nan), "dropout is nan"),
    ("WaveNet: embedding", lambda: wavenet(embd_dropout="0.1"), "embd_dropout is '0.1'"),
    ("WaveNet: head", lambda: wavenet(head_dropout=None), "dropout is None"),
    ("WaveNet: no words", lambda: wavenet()(XN[:0]), r"\(0, \d+\); expected"),
    ("WaveNet: one dimension", lambda: wavenet()(XN[0]), r"\(\d+,\)"),
    ("make_head: channels", lambda: helpers.make_head(0, V, True), "S is 0"),
    ("make_head: dropout", lambda: helpers.make_head(4, V, True, -0.1), "dropout is -0.1"),
    ("mode: None", lambda: helpers.mode(None, True).__enter__(), "the model is None"),
    ("threads: zero", lambda: helpers.threads(0).__enter__(), "n is 0"),
    ("train: steps", lambda: train(max_steps=0), "max_steps is 0"),
    ("train: steps as 1e3", lambda: train(max_steps=1e3), "max_steps is 1000.0"),
    ("train: batch", lambda: train(batch_size=-1), "batch_size is -1"),
    ("train: one example", lambda: train(batch_size=1), "1 value per channel"),
    ("train: rate NaN", lambda: train(learning_rate=NAN), "learning_rate is nan"),
    ("train: rate of text", lambda: train(learning_rate="0.1"), "learning_rate is '0.1'"),
    ("train: recipe", lambda: train(recipe="slow"), "recipe is 'slow'"),
    ("train: callback without every", lambda: train(callback=print), "every is None"),
    ("train: callback of a number", lambda: train(every=1, callback=5), "callback is 5"),
    ("train: no model", lambda: helpers.train(None, X, Y, max_steps=1), "the model is None"),
    ("train: lengths", lambda: train(Y=Y[:5]), r"\(5,\)"),
    ("train: floats", lambda: train(X=X.float()), "X is torch.float32"),
    ("train: an array", lambda: train(X=X.numpy()), "X is a ndarray; expected a tensor"),
    ("train: a list", lambda: train(Y=Y.tolist()), "Y is a list; expected a tensor"),
    ("train: negative", lambda: train(X=X - 5),
     "X or Y has a negative number; expected character numbers from 0"),
    ("train: unknown number", lambda: train(Y=Y + 50),
     rf"\(1, {V}\), expected .* vocab_size above {int(Y.max()) + 50}"),
    ("train: other context", lambda: train(X=torch.cat([X, X], 1)), r"2 positions|8 characters"),
    ("train: empty", lambda: train(X=X[:0], Y=Y[:0]), r"\(0, 4\)"),
    ("fit: steps", lambda: fit(max_steps=-1), "max_steps is -1"),
    ("fit: average", lambda: fit(average=1), "average is 1"),
    ("fit: average of text", lambda: fit(average="0.9"), "average is '0.9'"),
    ("fit: average of our layers", lambda: fit(model=tree(), average=0.9),
     "model is a Sequential; .* average=None"),
    ("fit: no batches", lambda: fit(batches=[]),
     r"batches gives \[\]; expected pairs \(X, Y\)"),
    ("fit: batches None", lambda: fit(batches=None), r"batches gives \[None\]; expected pairs"),
    ("fit: batches of None", lambda: fit(batches=[None]), r"gives \[None\]; expected pairs"),
    ("fit: batches of numbers", lambda: fit(batches=[7]), r"batches gives \[7\]; expected pairs"),
    ("fit: batches of X alone", lambda: fit(batches=[XN]), r"gives \[tensor[^;]*; expected pairs"),
    ("fit: batches of three", lambda: fit(batches=[(XN, YN, 1)]), r"gives \[\(tensor[^;]*; .*pair"),
    ("fit: batches of lists", lambda: fit(batches=[([1], [2])]), r"gives \[\(\[1\], \[2\]\)\]"),
    ("fit: targets", lambda: fit(batches=[(XN, YN[:, 1:])]),
     rf"targets of shape \({len(YN)}, {YN.shape[1] - 1}\); expected"),
    ("fit: a target", lambda: fit(batches=[(XN, YN.clamp(min=V))]),
     f"Y goes from {V} to {V}; expected 0 to {V - 1}"),
    ("fit: optimizer", lambda: fit(optimizer=None), "optimizer is None; .* torch.optim"),
    ("fit: callback", lambda: fit(every=1, callback="print"), "callback is 'print'"),
    ("fit: no model", lambda: fit(model=None), "the model is None"),
    ("fit: schedule", lambda: fit(schedule=schedule(3), max_steps=4),
     "schedule has 3 steps left; expected 4"),
    ("position_loss: shapes", lambda: helpers.position_loss(torch.zeros(2, V), YN),
     rf"shape \(2, {V}\) for .* one prediction for"),
    ("position_loss: a target", lambda: helpers.position_loss(torch.zeros(2, 3),
                                                             torch.tensor([0, 3])),
     "Y goes from 0 to 3; expected 0 to 2"),
    ("position_loss: below PAD", lambda: helpers.position_loss(torch.zeros(2, 3),
                                                              torch.tensor([0, -2])),
     "Y goes from -2 to 0; expected 0 to 2"),
    ("check_model: our own", lambda: helpers.check_model(tree(), X[:, :2], Y),
     r"input of shape \(1, 5\), expected \(B, T, C\)"),
    ("check_model: None", lambda: helpers.check_model(None, X, Y), "the model is None"),
    ("shape_table: nn.Module", lambda: helpers.shape_table(wavenet(), XN),
     "layers of this WaveNet keep no `out`"),
    ("shape_table: None", lambda: helpers.shape_table(None, X), "the model is None"),
    ("split_loss: None", lambda: helpers.split_loss(None, X, Y), "the model is None"),
    ("split_loss: chunk", lambda: helpers.split_loss(tree(), X, Y, chunk=0), "chunk is 0"),
    ("split_loss: lengths", lambda: helpers.split_loss(tree(), X, Y[1:]), r"\(\d+,\)"),
    ("name_loss: chunk", lambda: helpers.name_loss(wavenet(), XN, YN, chunk=None), "chunk is None"),
    ("name_loss: windows", lambda: helpers.name_loss(wavenet(), X, Y), r"\(\d+, 4\).*\(\d+,\)"),
    ("name_loss: None", lambda: helpers.name_loss(None, XN, YN), "the model is None"),
    ("name_loss: a target", lambda: helpers.name_loss(wavenet(), XN, YN + 50), "Y goes from 49 to"),
    ("name_loss: empty", lambda: helpers.name_loss(wavenet(), XN[:0], YN[:0]), r"\(0, \d+\)"),
    ("changed: stage", lambda: helpers.changed("forest", WORDS, {}), "'forest'"),
    ("changed: a value is missing", lambda: helpers.changed("tree", WORDS, {}),
     "config has no batch_size, block_size"),
    ("is_our_list: None", lambda: helpers.is_our_list(None), "words is None"),
    ("check_learning: stage", lambda: helpers.check_learning("x", WORDS, {}, [3.0] * 400), "'x'"),
    ("check_learning: words", lambda: helpers.check_learning("tree", None, {}, [3.0] * 400),
     "words is None"),
    ("performance_log: words", lambda: log(words=None), "words is None"),
    ("performance_log: stage", lambda: log(stage="forest"), "'forest'"),
    ("performance_log: config", lambda: log(config={"seed": 42}),
     "config has no batch_size, block_size"),
    ("save_json: a number", lambda: helpers.save_json(5, {}), "path is 5; expected a file's path"),
    ("sample: n", lambda: helpers.sample(tree(), 4, ITOS, 0), "n is 0"),
    ("sample: context", lambda: helpers.sample(tree(), 0, ITOS), "block_size is 0"),
    ("sample: wrong context", lambda: helpers.sample(tree(), 8, ITOS), "2 positions"),
    ("sample: temperature", lambda: helpers.sample(tree(), 4, ITOS, temperature=-1),
     "temperature is -1"),
    ("sample: temperature of text", lambda: helpers.sample(tree(), 4, ITOS, temperature="hot"),
     "temperature is 'hot'"),
    ("sample: prefix", lambda: helpers.sample(tree(), 4, ITOS, prefix="X"), "prefix 'X': 'X'"),
    ("sample: prefix of a number", lambda: helpers.sample(tree(), 4, ITOS, prefix=5),
     "prefix is 5"),
    ("sample: length", lambda: helpers.sample(tree(), 4, ITOS, max_length=0), "max_length is 0"),
    ("sample: seed", lambda: helpers.sample(tree(), 4, ITOS, seed="a"), "seed is 'a'"),
    ("sample: a seed of a float of numpy",
     lambda: helpers.sample(tree(), 4, ITOS, seed=np.float64(3)), r"seed is .*3\.0"),
    ("sample: n of 10**12", lambda: helpers.sample(tree(), 4, ITOS, 10**12), "n is 1000000000000"),
    ("sample: no model", lambda: helpers.sample(None, 4, ITOS), "the model is None"),
    ("sample: itos", lambda: helpers.sample(tree(), 4, list(ITOS.values())), r"itos is \['\.'"),
    ("sample: itos too short", lambda: helpers.sample(tree(), 4, dict(enumerate(".ab"))),
     f"itos has 3 characters, the model {V}"),
    ("sample: itos too long", lambda: helpers.sample(tree(), 4, ITOS | {V: "!"}),
     f"vocab_size above {V}"),
    ("sample: diverged", lambda: helpers.sample(diverged(), 4, ITOS),
     "logits are no numbers; the training diverged"),
    ("generate: n", lambda: helpers.generate(wavenet(), ITOS, -1), "n is -1"),
    ("generate: temperature", lambda: helpers.generate(wavenet(), ITOS, temperature=NAN),
     "temperature is nan"),
    ("generate: a tree", lambda: helpers.generate(tree(), ITOS),
     "the model is a Sequential; expected layers with a `conv`"),
    ("generate: no model", lambda: helpers.generate(None, ITOS), "the model is a NoneType"),
    ("generate: itos", lambda: helpers.generate(wavenet(), None), "itos is None; expected .* dict"),
    ("generate: itos too short", lambda: helpers.generate(wavenet(), dict(enumerate(".ab"))),
     f"itos has 3 characters, the model {V}"),
    ("generate: itos too long", lambda: helpers.generate(wavenet(), ITOS | {V: "!"}),
     f"itos has {V + 1} characters, the model {V}"),
    ("ring_buffers: words", lambda: helpers.ring_buffers(wavenet(), 0), "N is 0"),
    ("start_sampling: temperature", lambda: helpers.start_sampling(1, ITOS, 0, "", None, 5),
     "temperature is 0"),
    ("draw_next: NaN", lambda: helpers.draw_next(torch.full((1, 3), NAN), None),
     "logits are no numbers"),
    ("rolling_mean: window", lambda: helpers.rolling_mean([1.0], 0), "window is 0"),
    ("rolling_mean: no losses", lambda: helpers.rolling_mean([], 5),
     "rolling_mean: no losses"),
    ("plot_losses: window", lambda: helpers.plot_losses({"a": [1.0]}, window=-1), "window is -1"),
    ("plot_losses: window of text", lambda: helpers.plot_losses({"a": [1.0]}, window="9"),
     "window is '9'"),
    ("plot_losses: no curves", lambda: helpers.plot_losses({}), "plot_losses: no losses; give it"),
]
# And some of the modules behind the notebooks.
PARTS = helpers.split_words(WORDS)
BESIDE = [
    ("Stack: vocabulary", lambda: speed.Stack(-5, 2, 3), "vocab_size is -5"),
    ("Stack: width", lambda: speed.Stack(5, 0, 3), "n_embd is 0"),
    ("Stack: hidden", lambda: speed.Stack(5, 2, "3"), "n_hidden is '3'"),
    ("Stack: kernel", lambda: speed.Stack(5, 2, 3, kernel_size="2"), "kernel_size is '2'"),
    ("Stack: dilation", lambda: speed.Stack(5, 2, 3, dilations=["1"]), "dilation is '1'"),
    ("length_batches: batch", lambda: next(speed.length_batches(XN, YN, 0)), "batch_size is 0"),
    ("length_batches: text", lambda: next(speed.length_batches(XN, YN, "3")), "batch_size is '3'"),
    ("length_batches: lengths", lambda: next(speed.length_batches(XN, YN[1:], 3)),
     rf"\({len(XN)}, .* and Y of shape \({len(XN) - 1}, "),
    ("playground: no val", lambda: playground.run({"train": WORDS}), "no words for 'val'"),
    ("playground: empty val", lambda: playground.run(PARTS | {"val": []}), "no words for 'val'"),
    ("playground: no train", lambda: playground.run(PARTS | {"train": []}), "no words for 'train'"),
    ("playground: no parts", lambda: playground.run(None), "no words for 'train'"),
    ("playground: seed", lambda: playground.run(PARTS, {"seed": "a"}), "seed is 'a'"),
    ("playground: seed below 0", lambda: playground.run(PARTS, {"seed": -1}), "seed is -1"),
    ("NGram: order", lambda: rivals.NGram(V, -1), "order is -1"),
    ("NGram: order of text", lambda: rivals.NGram(V, "2"), "order is '2'"),
    ("NGram: vocabulary", lambda: rivals.NGram(0, 2), "vocab_size is 0"),
    ("NGram: predict", lambda: rivals.NGram(V, 2).predict(()), r"NGram has no counts; .*count\("),
    ("NGram: forward", lambda: rivals.NGram(V, 2)(XN), r"NGram has no counts; .*count\("),
]
ALL = [*BAD, *BESIDE]


@pytest.mark.parametrize(("call", "message"), [row[1:] for row in ALL], ids=[row[0] for row in ALL])
def test_a_bad_value_is_named_with_its_remedy(call, message):
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        call()
    assert re.search(message, str(error.value)), str(error.value)
    assert re.search(REMEDY, str(error.value)), str(error.value)


# What would say nothing: each pattern must ask for more than this.
USELESS = ("bad value for X, Y, words, itos, batches, config, model or block_size: got None, a "
           "list, -1, 0 or 1; expected something else, use a better one; no words, no losses")


@pytest.mark.parametrize("pattern", [row[2] for row in ALL], ids=[row[0] for row in ALL])
def test_a_useless_message_would_fail(pattern):
    assert not re.search(pattern, USELESS)


# No value of theirs is checked.
EXEMPT = {
    "Tanh", "Flatten", "Sequential",      # take no sizes; a wrong input is told by torch
    "Progress",                           # stands where tqdm does; train hands it what it needs
    "modules",                            # goes through anything, for mode
    "use_style",                          # takes nothing
}


def test_the_table_has_every_public_function():
    public = {name for name, value in vars(helpers).items()
              if not name.startswith("_") and getattr(value, "__module__", None) == "helpers"}
    assert {"train", "WaveNet", "mode"} <= public
    assert {row[0].split(":")[0] for row in BAD} == public - EXEMPT
    assert public >= EXEMPT
