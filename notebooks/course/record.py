"""The best single model of the course, whose weights are kept with it. Notebook 09.

    PYTHONPATH=notebooks python -m course.record measure

in the project's folder measures the losses of the kept weights again; `train` makes new ones, in
about 20 minutes on two cores.
"""

import argparse
import json

import safetensors.torch

import helpers
from course import expected, runs
from course.files import write_whole

WEIGHTS = helpers.ROOT / "data" / "record.safetensors"
RECORD = {"model": "memory", "n_hidden": 256, "n_layers": 4, "dropout": 0.3, "embd_dropout": 0.1,
          "zoneout": 0.05, "learning_rate": 4e-3, "weight_decay": 0.3, "average": 0.997,
          "epochs": 40, "seed": 42, "threads": 2}


def measure(net, words=runs.NAMES):
    """{split: the net's loss on it}, for a file of words."""
    c = runs.complete(RECORD | {"words": words})
    return {split: runs.loss(net, c, split) for split in ("train", "val", "test")}


def train(file=WEIGHTS, **changes):
    """Train, keep the weights in float16 and beside them the row of what they give; return it."""
    row, net = runs.measure(RECORD | changes)
    half = {name: tensor.half() for name, tensor in net.state_dict().items()}
    net.load_state_dict(half)
    row |= measure(net, changes.get("words", runs.NAMES))
    write_whole(file, lambda part: safetensors.torch.save_file(half, part))
    write_whole(file.with_suffix(".json"),
                lambda part: part.write_text(json.dumps(row, indent=1) + "\n"))
    return row


def load(file=WEIGHTS):
    """(net, row): the net with the kept weights, and what was recorded with them."""
    row = json.loads(file.with_suffix(".json").read_text())
    net = runs.build(runs.complete(json.loads(row["config"])))
    net.load_state_dict(safetensors.torch.load_file(file))
    return net.eval(), row


def best(recipe, words):
    """The kept net for the file `words`, or one trained anew if the recipe is "record".

    For another list than the course's, "kept" trains a small net briefly.
    """
    if recipe == "kept" and expected.is_our_list(helpers.load_words(words)):
        return load()[0]
    changes = {"words": words}
    if recipe == "kept":
        print("The kept weights are for data/names.txt, so a small network is trained instead.")
        changes |= {"n_hidden": 64, "n_layers": 2, "dropout": 0.0, "epochs": 2}
    return runs.measure(RECORD | changes, partial=True)[1]


def main():
    """Train and keep the net, or measure the kept one again."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["train", "measure"])
    print(train() if parser.parse_args().what == "train" else measure(load()[0]))


if __name__ == "__main__":
    main()
