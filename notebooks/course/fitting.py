"""Training with any of torch's optimisers, on windows or on whole words. Notebook 07."""

import contextlib
import functools
import math
from itertools import chain, islice

import torch
import torch.nn.functional as F

import helpers

PAD = -1  # in Y: a position without a character to predict


def window_batches(X, Y, batch_size):
    """Batches of (X, Y) without end: each epoch takes every row once, in a new order."""
    while True:
        for ix in torch.randperm(len(X)).split(batch_size):
            if len(ix) > 1:                          # a single row has no variance
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


def fit(model, batches, optimizer, max_steps, schedule=None, **options):
    """Train on `max_steps` batches of (X, Y), and return the list of all losses."""
    losses = []
    with watched(model, batches, max_steps, losses, schedule, **options) as batches:
        for X, Y in batches:
            logits = model(X).flatten(0, -2)
            loss = F.cross_entropy(logits, Y.flatten(), ignore_index=-1)
            losses.append(loss.item())
            if not math.isfinite(losses[-1]):
                break
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if schedule:
                schedule.step()
    return losses


@contextlib.contextmanager
def watched(model, batches, max_steps, losses, schedule=None, *, average=None, every=1,
            callback=None, progress=helpers.Progress, threads=1):
    """Inside `with`, the first `max_steps` batches, for a loop that appends to `losses`.

    The model is in training mode. `progress` draws a bar; an interrupt ends the loop and keeps
    the losses. After each `every` steps `callback(steps_done)` is called. With `average` (as
    0.997) the nn.Module ends with an exponential moving average of its weights. Says why a
    training ended early. Raises ValueError for a schedule that is too short.
    """
    helpers.check(max_steps=max_steps, every=every)
    if average is not None:
        helpers.check(average=average)
    left = getattr(schedule, "total_steps", math.inf) - getattr(schedule, "last_epoch", 0)
    if left < max_steps:
        raise ValueError(f"schedule has {left} steps left; expected {max_steps}, as in max_steps")
    averaged = average and torch.optim.swa_utils.AveragedModel(
        model, avg_fn=lambda old, new, n: old.lerp(new, max(1 - average, 1 / (n + 1))))
    last, max_steps = None, helpers.capped(max_steps, 10)

    def counted(bar):
        nonlocal last
        for last, Y in islice(batches, max_steps):
            yield last, Y                                       # the loop takes its step here
            if averaged:
                averaged.update_parameters(model)
            bar.update()
            if callback and len(losses) % every == 0:
                callback(len(losses))

    try:
        with (helpers.mode(model, True), helpers.threads(threads),
              progress(max_steps, losses) as bar):
            yield counted(bar)
        if losses and not math.isfinite(losses[-1]):
            print(f"The loss is {losses[-1]} at step {len(losses) - 1}: stopped. "
                  "Lower the learning rate.")
        elif len(losses) < max_steps:
            print(f"The batches ended after {len(losses)} of {max_steps} steps.")
    except KeyboardInterrupt:
        print(f"Stopped after {len(losses)} steps; you can use the model and its losses.")
    if averaged and averaged.n_averaged:
        model.load_state_dict(averaged.module.state_dict())
        # BatchNorm's running statistics are those of the last weights, not of the average.
        torch.optim.swa_utils.update_bn(chain([last], (X for X, _ in islice(batches, 99))), model)


quiet = functools.partial(helpers.Progress, disable=True)       # a `progress` that shows nothing
