"""Networks of notebooks 00, 05 and 09 for the page docs/names, which runs them in a browser.

    PYTHONPATH=notebooks python -m course.web

in the project's folder trains the page's own network, in five minutes of one core.
"""

import base64
import json
import tempfile
from pathlib import Path

import safetensors.torch

import helpers
from course import record, runs

DATA = helpers.ROOT / "docs" / "names" / "data.js"
SMALL = {"n_hidden": 128, "n_layers": 3, "dropout": 0.2, "weight_decay": 0.1, "batch_size": 128,
         "epochs": 20, "threads": 1}


def export(model, itos, file=helpers.OUTPUT / "my_names.safetensors", **about):
    """Write the model's weights, and what the page has to know about them; return the path."""
    Path(file).parent.mkdir(exist_ok=True)
    if isinstance(model, helpers.Sequential):
        kind, (weights, offsets, dots) = "Tree", as_convolutions(model)
    else:
        kind, weights, dots = type(model).__name__, model.state_dict(), 1
        offsets = [layer.conv.offsets for layer in model.layers]
    about |= {"model": kind, "characters": "".join(itos[i] for i in range(len(itos))),
              "offsets": json.dumps(offsets), "dots": str(dots)}
    safetensors.torch.save_file(weights, file, about)
    return file


def as_convolutions(model):
    """(weights, offsets, dots before a name) of a tree as the convolutions of notebook 08.

    Each batch normalisation, as it is after training, is folded into the layer before it. A flat
    network is a tree of one level.
    """
    embedding, *inner, last = model.layers
    weights = {"embedding.weight": embedding.weight, "head.0.weight": last.weight.T,
               "head.0.bias": last.bias}
    offsets, dilation, C = [], 1, embedding.weight.shape[1]
    for i, (linear, norm) in enumerate(zip(inner[1::4], inner[2::4], strict=True)):
        gain = (norm.gamma / (norm.running_var + norm.eps).sqrt()).flatten()
        weights[f"layers.{i}.conv.linear.weight"] = (linear.weight * gain).T
        weights[f"layers.{i}.conv.linear.bias"] = norm.beta - norm.running_mean.flatten() * gain
        n, C = len(linear.weight) // C, linear.weight.shape[1]          # n places are joined
        offsets.append([j * dilation for j in range(n - 1, 0, -1)])
        dilation *= n
    return {name: w.detach().contiguous() for name, w in weights.items()}, offsets, dilation


def main():
    """Train the page's network and write it, in float16, and all names as a script."""
    row, net = runs.measure(record.RECORD | SMALL)
    words = helpers.load_words()
    about = {"val": f"{record.measure(net.half().float())['val']:.3f}"}
    with tempfile.TemporaryDirectory() as folder:
        file = export(net.half(), helpers.build_vocab(words)[1], Path(folder) / "net", **about)
        weights = base64.b64encode(file.read_bytes()).decode()
    names = " ".join(sorted(set(words)))
    DATA.write_text(f'const WEIGHTS = "{weights}";\nconst NAMES = "{names}";\n')
    print(f"val {about['val']}, {row['parameters']:,} parameters, {row['cpu']:.0f} s")


if __name__ == "__main__":
    main()
