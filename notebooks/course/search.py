"""A space of configurations to search: what a study of notebook 11 draws its trials from."""

import json

from optuna.distributions import CategoricalDistribution, distribution_to_json, json_to_distribution
from optuna.samplers import TPESampler

from course import runs


def choice(*values):
    """A choice between values of any kind. For numbers, Optuna's FloatDistribution does as well."""
    return CategoricalDistribution([json.dumps(value) for value in values])


def describe(space, base):
    """A search as plain values: its space {setting: choice(...)}, the configuration around it."""
    if unknown := set(space) - set(runs.complete(base)):
        raise ValueError(f"the model {base['model']!r} has no setting {min(unknown)!r}")
    return {"space": {setting: distribution_to_json(d) for setting, d in space.items()},
            "base": json.loads(runs.key(base))}


def draw(study, trial, number):
    """The configuration of a trial; with the same trials before it, it is the same again."""
    search = study.user_attrs["search"]
    study.sampler = TPESampler(seed=number, constant_liar=True, n_startup_trials=8)
    config = dict(search["base"])
    for name, text in search["space"].items():
        d = json_to_distribution(text)
        if isinstance(d, CategoricalDistribution):
            config[name] = json.loads(trial.suggest_categorical(name, d.choices))
        else:
            config[name] = trial.suggest_float(name, d.low, d.high, log=d.log)
    return config
