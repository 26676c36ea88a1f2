"""Training with any of torch's optimisers, on windows or on whole words. Notebook 07."""

import math
from itertools import chain, islice

import torch
import torch.nn.functional as F

import helpers

PAD = -1  # in Y: a position without a character to predict


def window_batches(X, Y, batch_size):
    """Batches of (X, Y) without end: every epoch all rows once, in a new order. Notebook 07."""
    helpers.check(batch_size=batch_size)
    if len(X) != len(Y) or len(X) == 0:
        raise ValueError(f"X of shape {tuple(X.shape)} and Y of shape {tuple(Y.shape)}; expected "
                         "as many rows in both, 1 or more")
    while True:
        for ix in torch.randperm(len(X)).split(batch_size):
            yield X[ix], Y[ix]


def position_loss(logits, Y):
    """The sum of the losses at all positions of Y (any shape) that are not PAD, a scalar."""
    if logits.shape[:-1] != Y.shape:
        raise ValueError(f"logits of shape {tuple(logits.shape)} for targets of shape "
                         f"{tuple(Y.shape)}; expected one prediction for each target")
    return F.cross_entropy(logits.flatten(0, -2), Y.flatten(), ignore_index=PAD, reduction="sum")


def one_cycle(optimizer, learning_rate, steps, warmup=0.3, **options):
    """OneCycleLR: the learning rate rises for the share `warmup` of the steps, then falls to 0."""
    # torch divides by 0 when the rise is a single step; a little less of it is the same.
    warmup *= 0.999 if warmup * steps == 1 else 1
    return torch.optim.lr_scheduler.OneCycleLR(
        optimizer, learning_rate, total_steps=max(2, steps), pct_start=warmup, **options)


def fit(model, batches, optimizer, max_steps, *, schedule=None, average=None, every=1,
        callback=None, progress=helpers.Progress):
    """Train on `batches` of (X, Y) and return the list of all losses.

    The model maps X to (*Y.shape, vocab_size); positions where Y is PAD do not count. `schedule`
    is stepped after every step. With `average` (as 0.997) the nn.Module ends with an exponential
    moving average of its weights. `callback`, `progress`, an interrupt and a loss that is NaN or
    infinite: as in helpers.train. Notebook 07.
    """
    helpers.check(max_steps=max_steps, every=every)
    if average is not None:
        helpers.check(average=average)
    left = getattr(schedule, "total_steps", math.inf) - getattr(schedule, "last_epoch", 0)
    if left < max_steps:
        raise ValueError(f"schedule has {left} steps left; expected {max_steps}, as in max_steps")
    averaged = average and torch.optim.swa_utils.AveragedModel(
        model, avg_fn=lambda old, new, n: old.lerp(new, max(1 - average, 1 / (n + 1))))
    lossi, last, max_steps = [], None, helpers.capped(max_steps, 16)
    try:
        with helpers.mode(model, True), helpers.threads(1), progress(max_steps, lossi) as bar:
            for i, (X, Y) in enumerate(islice(batches, max_steps)):
                last = X
                loss = position_loss(model(X), Y) / (Y != PAD).sum()
                lossi.append(loss.item())
                if not math.isfinite(lossi[-1]):
                    print(f"The loss is {lossi[-1]} at step {i}: stopped. Lower the learning rate.")
                    break
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                if schedule:
                    schedule.step()
                if averaged:
                    averaged.update_parameters(model)
                bar.update()
                if callback and (i + 1) % every == 0:
                    callback(i + 1)
            else:
                if len(lossi) < max_steps:
                    print(f"The batches ended after {len(lossi)} of {max_steps} steps.")
    except KeyboardInterrupt:
        print(f"Stopped after {len(lossi)} steps; you can use the model and its losses.")
    if averaged and averaged.n_averaged:
        model.load_state_dict(averaged.module.state_dict())
        # BatchNorm's running statistics are those of the last weights, not of the average.
        torch.optim.swa_utils.update_bn(chain([last], (X for X, _ in islice(batches, 99))), model)
    return lossi
