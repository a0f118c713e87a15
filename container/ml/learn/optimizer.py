"""The update rule of a training and its learning rate."""

from collections.abc import Sequence
from typing import Any, cast

import keras
import numpy as np

from ml.settings import Settings


def build_optimizer(
    settings: Settings, steps: int, weights: Sequence[keras.Variable], precision: str
) -> keras.Optimizer:
    """The update rule for a model's weights, its slots made.

    Args:
        settings: optimizer, learning_rate, warmup_steps, schedule, epochs, weight_decay.
        steps: of an epoch.
        weights: the model's; biases do not decay.
        precision: of the multiplications; float16 needs its loss scaled, since its small gradients would become 0.
    """
    config = {"learning_rate": learning_rate(settings, steps)}
    if settings.weight_decay:  # Keras takes no None for adamw, and a 0 would cost a pass over the weights
        config["weight_decay"] = settings.weight_decay
    optimizer = cast(keras.Optimizer, keras.optimizers.get({"class_name": settings.optimizer, "config": config}))
    optimizer.exclude_from_weight_decay([variable for variable in weights if variable.name == "bias"])
    if precision == "float16":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    optimizer.build(weights)
    return optimizer


def build_stacked_optimizer(
    networks: Sequence[Settings], steps: int, weights: Sequence[keras.Variable]
) -> keras.Optimizer:
    """The update rule for the stacked weights of several networks, each with its own rates; arguments as above.

    Keras' rules work number by number, so a rate of each network, (networks, 1, 1), serves as well as one.
    """
    config = {"learning_rate": StackedRates(networks, steps)}
    optimizer = cast(keras.Optimizer, keras.optimizers.get({"class_name": networks[0].optimizer, "config": config}))
    if any(network.weight_decay for network in networks):
        default = optimizer.weight_decay or 0.0  # adamw's own, which Keras' 0.004 is
        decays = [network.weight_decay or default for network in networks]
        optimizer.weight_decay = np.array(decays, np.float32)[:, None, None]
    optimizer.exclude_from_weight_decay([variable for variable in weights if variable.name == "bias"])
    optimizer.build(weights)
    return optimizer


class StackedRates(keras.optimizers.schedules.LearningRateSchedule):
    """The learning rates of several networks, (networks, 1, 1), each as `learning_rate` has it.

    Args:
        networks: the settings of each.
        steps: of an epoch.
    """

    def __init__(self, networks: Sequence[Settings], steps: int):
        def column(values):
            return np.array(list(values), np.float32)[:, None, None]

        rises = [_warmup_steps(network, steps) for network in networks]
        self._cosine = networks[0].schedule == "cosine"
        self._rise, self._full = column(rises), column(network.learning_rate for network in networks)
        self._first = column(
            network.learning_rate / max(rise, 1) for network, rise in zip(networks, rises, strict=True)
        )
        self._fall = column(max(1, networks[0].epochs * steps - rise) for rise in rises)

    def __call__(self, step) -> Any:
        step = cast(Any, keras.ops.cast(step, "float32"))
        rising = (self._full - self._first) * (step / np.maximum(self._rise, 1)) + self._first
        full: Any = self._full + step * 0
        if self._cosine:
            share: Any = keras.ops.clip((step - self._rise) / self._fall, 0, 1)
            full = self._full * (0.5 * (1 + cast(Any, keras.ops.cos(np.float32(np.pi) * share))))
        return keras.ops.where(step < self._rise, rising, full)

    def get_config(self):
        raise NotImplementedError("a training's rates are in its settings")


def _warmup_steps(settings: Settings, steps: int) -> int:
    """At most half an epoch's, so that short trainings reach the full rate."""
    return min(settings.warmup_steps, -(-steps // 2))


def learning_rate(settings: Settings, steps: int) -> float | keras.optimizers.schedules.LearningRateSchedule:
    """The learning rate of each step, or of all, in a training of so many steps an epoch.

    Adam's first steps move every weight by the learning rate, all prices of a window that is not centred pull
    the same way, and the jump kills units for good: after five epochs on a year of real prices 93 % of the
    original's first 1024 do not fire on any of 400 windows of the month after it, 71 % with a warm-up of 10
    steps, and none are dead where windows are centred.
    """
    full, rise = settings.learning_rate, _warmup_steps(settings, steps)
    if settings.schedule == "cosine":
        return keras.optimizers.schedules.CosineDecay(
            full / rise if rise else full,
            max(1, settings.epochs * steps - rise),
            warmup_target=full if rise else None,
            warmup_steps=rise,
        )
    if not rise:
        return full
    return keras.optimizers.schedules.PolynomialDecay(full / rise, rise, full)  # a straight line, here upwards
