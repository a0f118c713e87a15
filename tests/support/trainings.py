"""Small trainings in this process, on prices that can be learned."""

import dataclasses

import numpy as np
import pandas as pd
import tensorflow as tf

from ml.learn.network import build_network
from ml.learn.trainer import Trainer
from ml.platform.hardware import make_instance
from ml.settings import Settings
from ml.train_sequence import TrainSequence

SMALL = Settings(
    lookback=20,
    nodes=16,
    layers=2,
    dropout=0.3,
    epochs=3,
    batch_size=64,
    seed=5,
    learning_rate=0.01,
    warmup_steps=0,
    schedule="constant",
    checkpoint_seconds=1,
    test_fraction=0.0,
)
REGULARISED = dataclasses.replace(SMALL, warmup_steps=10, schedule="cosine", weight_decay=0.1, label_smoothing=0.1)


def hide_gpus():
    """Numbers are compared to float32's last digits, and a GPU multiplies in a shorter type."""
    tf.config.set_visible_devices([], "GPU")


class Stop:
    """A stop request that comes when it has been looked at `after` times."""

    def __init__(self, after=None):
        self.looks, self.after = 0, after

    def __call__(self):
        self.looks += 1
        return self.after is not None and self.looks > self.after


def cpu(count=1, precision="float32", *, one_program=False):
    instance = make_instance(tf.config.list_logical_devices("CPU")[:count], precision, "test")
    return dataclasses.replace(instance, one_program=one_program)


def sequence_of(rows, market, settings, **options):
    prices = 1000 + np.random.default_rng(market).normal(size=rows).cumsum()
    rises = np.sign(np.diff(prices, append=prices[-1]))
    following = pd.DataFrame({"mid": prices, "position": np.roll(rises, 1)})  # learnable: the last move
    return TrainSequence(following, settings.lookback, settings.batch_size, **options)


def trainer_of(settings, *, instance=None, validated=True):
    instance = instance or cpu()
    with instance.strategy.scope():
        model = build_network(settings)
    rows = {"longest_lookback": settings.longest_lookback}
    train = sequence_of(1500, 1, settings, seed=settings.seed, **rows)
    validation = sequence_of(400, 2, settings, enable_shuffle=False, **rows) if validated else None
    return model, Trainer(model, settings, instance, train, validation)


def fit(settings=SMALL, *, stop=None, validated=True, instance=None, **options):
    model, trainer = trainer_of(settings, instance=instance, validated=validated)
    lines = []
    result = trainer.fit(stop=stop or Stop(), report=lambda line, **_: lines.append(line), **options)
    return model, result, [line for line in lines if not line.startswith("running")]


def silent(line, *, metrics=False):
    """Takes a training's lines where a test does not read them."""


def without_speed(history):
    return [{name: value for name, value in epoch.items() if name != "windows_per_second"} for epoch in history]


def same_weights(one, other):
    return all(np.array_equal(a, b) for a, b in zip(one.get_weights(), other.get_weights(), strict=True))
