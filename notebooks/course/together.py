"""Many seeds of one of the lecture's models at once: 15 seeds cost about as much as five in turn.

    PYTHONPATH=notebooks python -m course.together "tree, fixed"

in the project's folder adds the seeds from 6 on of one of evidence.LECTURES to data/evidence.csv,
and the losses of val's names to data/claims.npz. Every seed has the same first weights and the same
batches as when it is trained alone.
"""

import sys
import time

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from tqdm import tqdm

import helpers
from course import evidence, files, runs, storage

FILE = helpers.ROOT / "data" / "claims.npz"


def normalised(layer, h, gamma, beta, running):
    """BatchNorm of h, (S, B, C) or (S, B, T, C), for each of the S models alone."""
    bug = isinstance(layer, helpers.BatchNorm1dPart3)
    x = (h if bug else h.flatten(1, -2)).transpose(0, 1)                 # (examples, S, ...)
    c = (1 - 1 / len(x)) ** 0.5          # torch divides by n, the lecture's layer by n - 1
    flat = F.batch_norm(x.flatten(1), *running, training=True, momentum=layer.momentum,
                        eps=layer.eps * c**2)
    z = flat.view(x.shape).transpose(0, 1).reshape(h.shape)
    gamma, beta = (p.view(len(p), *[1] * (h.ndim - 2), -1) for p in (gamma, beta))
    return torch.addcmul(beta, gamma * c, z)


def forward(layers, parameters, running, x):
    """The logits of S models, (S, B, vocab_size), for x of shape (S, B, T)."""
    parameters, S = iter(parameters), len(x)
    for i, layer in enumerate(layers):
        match layer:
            case helpers.Embedding():
                table = next(parameters)
                first = table.shape[1] * torch.arange(S)[:, None, None]
                x = F.embedding(x + first, table.flatten(0, 1))
            case helpers.Flatten():
                x = x.flatten(2)
            case helpers.FlattenConsecutive():
                x = x.unflatten(2, (-1, layer.n)).flatten(3)
                x = x.squeeze(2) if x.shape[2] == 1 else x
            case helpers.Linear():
                shape, x = x.shape, x.flatten(1, -2) @ next(parameters)
                x = x if layer.bias is None else x + next(parameters)[:, None]
                x = x.unflatten(1, shape[1:-1])
            case helpers.Tanh():
                x = torch.tanh(x)
            case _:
                x = normalised(layer, x, next(parameters), next(parameters), running[i])
    return x


def train(models, X, Y, seeds, max_steps, batch_size, learning_rate):
    """Train the models as helpers.train does, each with its own batches; (S, steps) losses."""
    generators = [torch.Generator().manual_seed(seed + 1) for seed in seeds]
    parameters = [torch.stack([p.detach() for p in same]).requires_grad_()
                  for same in zip(*[m.parameters() for m in models], strict=True)]
    lossi = torch.zeros(max_steps, len(models))
    with helpers.mode(models[0], True):
        models[0](X[:2])                              # gives the running statistics their shape
    running = {i: [torch.full((len(models), *layer.running_mean.shape), start).flatten()
                   for start in (0.0, 1.0)]
               for i, layer in enumerate(models[0].layers) if hasattr(layer, "running_mean")}
    with helpers.threads(1):
        for step in tqdm(range(max_steps), mininterval=10):
            ix = torch.stack([torch.randint(0, len(X), (batch_size,), generator=g)
                              for g in generators])
            logits = forward(models[0].layers, parameters, running, X[ix])
            losses = F.cross_entropy(logits.flatten(0, 1), Y[ix].flatten(), reduction="none")
            lossi[step] = losses.detach().view(len(models), -1).mean(1)
            (losses.sum() / batch_size).backward()
            lr = learning_rate if step < 0.75 * max_steps else learning_rate / 10
            with torch.no_grad():
                for p in parameters:
                    p -= lr * p.grad
                    p.grad = None
    for s, model in enumerate(models):
        for p, together in zip(model.parameters(), parameters, strict=True):
            p.data = together[s].detach().clone()
        for i, (mean, var) in running.items():
            layer, shape = model.layers[i], models[0].layers[i].running_mean.shape
            layer.running_mean = mean.view(len(models), *shape)[s]
            layer.running_var = var.view(len(models), *shape)[s]
    return lossi.T.tolist()


def main(group):
    """Measure a group of evidence.LECTURES; keep its rows, and the losses of names (S, N)."""
    config, n = evidence.LECTURES[group]
    seeds = range(6, n + 1)
    configs = [runs.complete(config | {"seed": seed}) for seed in seeds]
    models, t0, c0 = [runs.build(c) for c in configs], time.perf_counter(), time.process_time()
    lossi = train(models, *runs.data(configs[0], "train"), seeds, **{
        name: configs[0][name] for name in ("max_steps", "batch_size", "learning_rate")})
    seconds, cpu = time.perf_counter() - t0, time.process_time() - c0
    rows = [runs.describe(model, c, losses, seconds / len(seeds), cpu / len(seeds))
            for model, c, losses in zip(models, configs, lossi, strict=True)]
    evidence.keep("claims", pd.DataFrame(rows))
    names = torch.stack([runs.position_losses(model, c, "val").nansum(1)
                         for model, c in zip(models, configs, strict=True)])
    with storage.locked(FILE):
        known = dict(np.load(FILE)) if FILE.is_file() else {}
        files.write_whole(FILE, lambda part: np.savez_compressed(
            part, **known | {group: names.numpy().astype(np.float16)}))


if __name__ == "__main__":
    main(sys.argv[1])
