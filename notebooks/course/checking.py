"""What the checks of the exercises share: call the answer, compare it, say what is wrong."""

import contextlib
import functools

import torch
from torch.utils.benchmark import Timer

import helpers

RIGHT = helpers.OUTPUT / "right"  # an empty file for each check that an answer has passed


class Ended(Exception):
    """Ends a check with the line to print."""


def wrong(text):
    """End the check: the answer is wrong."""
    raise Ended(f"wrong: {text}")


def check(function):
    """Make `function` print one line: "right: " and what it returns, or what ended it."""

    @functools.wraps(function)
    def checked(*args):
        try:
            print(f"right: {function(*args)}")
        except Ended as said:
            print(said)
        else:
            with contextlib.suppress(OSError):     # the map of notebook 00 then misses one
                RIGHT.mkdir(parents=True, exist_ok=True)
                (RIGHT / function.__name__).touch()

    return checked


def call(where, answer, *args, writes=False):
    """What the reader's `answer` returns. The check ends if it fails, returns None or writes."""
    before = [a.detach().clone() if torch.is_tensor(a) else None for a in args]
    try:
        got = answer(*args)
    except Ended:
        raise
    except Exception as error:
        wrong(f"{where} fails: {error} ({type(error).__name__})")
    if got is None:
        raise Ended("not done yet")
    for a, b in zip(args, before, strict=True):
        if b is not None and not writes and not torch.equal(a.nan_to_num(-1), b.nan_to_num(-1)):
            wrong(f"{where} changes the tensor that it is given; leave it as it is")
    return got


def case(answer, *args):
    """(the call as text, what it returns)."""
    given = ", ".join(f"x of shape {shape(a)}" if torch.is_tensor(a) else str(a) for a in args)
    where = f"{answer.__name__}({given})"
    return where, call(where, answer, *args)


def shown(value):
    """A number to read: 12,097 or 0.6931; anything else in at most 60 characters."""
    try:
        value = float(value)
    except (TypeError, ValueError, RuntimeError):
        return str(value)[:60]
    return f"{value:,.0f}" if value.is_integer() else f"{value:.4g}"


def same_number(where, got, expected, tolerance=1e-6, note=lambda got: ""):
    """End the check unless `got` is one number within `tolerance` of `expected`."""
    try:
        number = float(got)
    except (TypeError, ValueError, RuntimeError):
        wrong(f"{where}: expected one number, {shown(expected)}, got {shown(got)}")
    if not abs(number - expected) <= tolerance:                          # as is NaN
        digits = shown if shown(expected) != shown(number) else "{:.8g}".format
        wrong(f"{where}: expected {digits(expected)}, got {digits(number)}{note(number)}")


def shape(value):
    """A tensor's shape, or for anything else its type."""
    if torch.is_tensor(value):
        return tuple(value.shape)
    return None if value is None else f"a {type(value).__name__}"


def same_tensor(where, got, expected, tolerance=1e-4):
    """End the check unless `got` is a tensor of the shape and the numbers of `expected`."""
    if shape(got) != shape(expected):
        wrong(f"{where}: expected the shape {shape(expected)}, got {shape(got)}")
    got, expected = got.detach(), expected.detach()
    apart = (got - expected).abs()
    if not apart.max() <= tolerance:                                     # as is NaN
        start = max(0, int((~(apart <= tolerance)).flatten().nonzero()[0]) - 1)
        some = [", ".join(map(shown, t.flatten()[start:start + 4])) for t in (expected, got)]
        wrong(f"{where}: the shape is right, but the largest difference is {apart.max():.4f}: "
              f"expected ... {some[0]} ..., got ... {some[1]} ...")


def same_layers(where, model, expected):
    """End the check unless the layers after the Embedding are the `expected` ones, all different.

    "Linear to 16, no bias", "FlattenConsecutive(2)"; others by the names of their classes.
    """
    names = {"FlattenConsecutive": lambda m: f"FlattenConsecutive({m.n})",
             "Linear": lambda m: f"Linear to {m.weight.shape[1]}" + ", no bias" * (m.bias is None)}
    layers = [m for m in helpers.modules(model) if type(m).__name__ not in (
        "Sequential", "Embedding")]
    found = [names.get(type(m).__name__, lambda m: type(m).__name__)(m) for m in layers]
    ends = [*expected, "nothing"], [*found, "nothing"]
    for place, (want, got) in enumerate(zip(*ends, strict=False), start=1):
        if want != got:
            wrong(f"{where}: layer {place} after the Embedding should be {want!r}, got {got!r}")
    if len({*map(id, layers)}) < len(layers):
        wrong(f"{where}: the same layer is in the list twice; make new ones for every level")


def count_parameters(model):
    """The number of parameters of a model."""
    return sum(p.nelement() for p in model.parameters())


def time_ratio(first, second):
    """How many times as long `first()` takes as `second()`, on one thread."""
    first, second = (Timer("work()", globals={"work": work}).blocked_autorange(
        min_run_time=0.01 if helpers.QUICK else 0.5).median for work in (first, second))
    return first / second
