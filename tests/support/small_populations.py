"""Small populations in this process, on prices that can be learned."""

import dataclasses
import json

from ml.learn.members import Member, members_of
from ml.learn.population import PopulationTrainer
from trainings import REGULARISED, Stop, cpu, sequence_of

# Every setting that members may differ in differs, the widths among them; the first two share their windows.
POINTS = [
    {},
    {"learning_rate": 0.003, "dropout": 0.0},
    {"learning_rate": 0.02, "seed": 7},
    {"nodes": 9, "weight_decay": 0.0},
    {"lookback": 13, "nodes": 11, "label_smoothing": 0.0, "warmup_steps": 3},
    {"lookback": 13, "seed": 7},
    {"lookback": 2, "nodes": 1, "dropout": 0.5},
    {"dropout": 0.6, "warmup_steps": 0},
]


def members_at(points=POINTS, settings=REGULARISED):
    """The members of a population at points, in a job with the given settings."""
    return members_of(dataclasses.replace(settings, points=json.dumps(points)))


def population_of(members: list[Member], *, instance=None, halving=1.0):
    """What trains members at once, on the prices of `trainings.trainer_of`."""
    shared = members[0].settings
    longest = dataclasses.replace(shared, lookback=max(member.settings.lookback for member in members))
    options = {"longest_lookback": shared.rows_lookback}
    train = sequence_of(1500, 1, longest, **options)
    validation = sequence_of(400, 2, longest, enable_shuffle=False, **options)
    return PopulationTrainer(members, instance or cpu(), train, validation, halving)


def fit_population(members, *, stop=None, instance=None, halving=1.0, **options):
    """The trainer of a population, what came of its members, and the lines that it printed."""
    trainer, lines = population_of(members, instance=instance, halving=halving), []
    results = trainer.fit(stop=stop or Stop(), report=lambda line, **_: lines.append(line), **options)
    return trainer, results, [line for line in lines if not line.startswith("running")]
