"""The checks of the cells *Your turn* from notebook 07 on; course.turns has them, too."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from course.checking import call, check, same_tensor, shape, wrong


@check
def check_fit(fit):
    """07: the training loop, with any of torch's optimisers."""
    where = "fit(model, batches, optimizer, 3, schedule)"
    generator = torch.Generator().manual_seed(1)
    X, Y = (torch.randint(5, size, generator=generator) for size in ((3, 6, 2), (3, 6)))

    def batches():
        yield from zip(X, Y, strict=True)
        wrong(f"{where} takes more than 3 batches from `batches`, which may have no end")

    def trained(fit):
        torch.manual_seed(1)
        model = nn.Sequential(nn.Embedding(5, 3), nn.Flatten(), nn.BatchNorm1d(6), nn.Linear(6, 5))
        optimizer = torch.optim.SGD(model.eval().parameters(), lr=0.5)
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
        losses = call(where, fit, model, batches(), optimizer, 3, schedule)
        return losses, torch.cat([p.detach().flatten() for p in model.parameters()])

    def loop(model, batches, optimizer, max_steps, schedule, train=True, clear=True, fall=True):
        losses = []
        for _, (x, y) in zip(range(max_steps), batches, strict=False):
            losses.append(F.cross_entropy(model.train(train)(x), y))
            optimizer.zero_grad() if clear else None
            losses[-1].backward()
            optimizer.step()
            schedule.step() if fall else None
        return losses

    losses, weights = trained(fit)
    if not isinstance(losses, list) or [*map(type, losses)] != [float] * 3:
        wrong(f"{where}: expected a list of 3 plain numbers, loss.item() each, got {losses!s:.60}")
    for change, said in {"clear": "the gradients of all steps add up; call optimizer.zero_grad()",
                         "train": "the model is not in training mode; call model.train()",
                         "fall": "the schedule takes no steps"}.items():
        if torch.allclose(weights, trained(partial(loop, **{change: False}))[1], atol=1e-6):
            wrong(f"{where}: {said}")
    expected, right = trained(loop)
    same_tensor(f"the losses of {where}", torch.tensor(losses), torch.stack(expected), 1e-5)
    same_tensor(f"the weights after {where}", weights, right, 1e-5)
    return f"three steps, with losses {', '.join(f'{loss:.3f}' for loss in losses)}"


@check
def check_adamw_step(adamw_step):
    """07: one step of AdamW."""
    options = {"lr": 0.1, "betas": (0.8, 0.95), "eps": 0.01, "weight_decay": 0.5}
    theirs = torch.tensor([1.0, -2.0, 3.0], requires_grad=True)
    optimizer = torch.optim.AdamW([theirs], **options)
    state = theirs.detach().clone(), torch.zeros(3), torch.zeros(3)
    for t, grad in enumerate(torch.tensor([[0.5, -1, 0], [0.1, 2, 0], [-3, 0.5, 0]]), start=1):
        theirs.grad = grad.clone()
        optimizer.step()
        p, m, v = state
        state = call(f"adamw_step, t = {t},", adamw_step, p, grad, m, v, t, *options.values())
        if not isinstance(state, tuple) or [*map(shape, state)] != [(3,)] * 3:
            wrong(f"adamw_step: expected the new p, m and v, three tensors, got {state!s:.60}")
        right = optimizer.state[theirs]
        for name, got, expected in (("m", state[1], right["exp_avg"]),
                                    ("v", state[2], right["exp_avg_sq"]), ("p", state[0], theirs)):
            same_tensor(f"the new {name} of step t = {t}", got, expected, 1e-6)
    return f"as torch.optim.AdamW, p is {[round(v, 4) for v in state[0].tolist()]} after 3 steps"
