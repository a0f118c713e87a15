"""The training of one fold's model, from its rows to its weights, and what a trained model says of held-out rows."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ml.learn.folds import Fold, Predicted, Trained
from ml.settings import Settings

if TYPE_CHECKING:
    import keras
    import pandas as pd

    from ml.learn.devices import Instance
    from ml.train_sequence import TrainSequence

_PREDICTED_AT_ONCE = 4096  # windows


def identity_of(settings: Settings, precision: str, data: str, fold: Fold) -> dict[str, Any]:
    """What a checkpoint must share with the job that resumes from it: all that changes the weights.

    The last fold's is that of a job of one fold. A refit's names its number of epochs.

    Args:
        settings: each says itself whether it changes the weights.
        precision: of the multiplications, as chosen for the devices.
        data: hash of the labelled prices.
        fold: which part of them.
    """
    chosen = dataclasses.replace(settings, precision=precision)
    part: dict[str, Any] = {}
    if fold.refit:
        part = {"refit": fold.refit}
    elif fold.subfolder:
        part = {"fold": f"{fold.number} of {fold.count}"}
    return chosen.changing_weights() | {"data": data} | part


@dataclasses.dataclass(frozen=True)
class Places:
    """Where a job keeps what its trainings write.

    Attributes:
        job: the job's name, under which its checkpoints are kept.
        checkpoints: folder to resume from and to save to; None: nowhere.
        tensorboard: folder for TensorBoard's logs; None: nowhere.
    """

    job: str
    checkpoints: Path | None = None
    tensorboard: Path | None = None


def train_fold(
    settings: Settings, instance: "Instance", data: str, places: Places, stop: Callable[[], bool], fold: Fold
) -> Trained:
    """Trains a fold's model.

    A refit ends after its number of epochs. Its learning rate is that of the training whose epoch was kept: a cosine
    falls over all `epochs`, and is cut off at the same place, since that is how the weights that were measured came
    about. One that fell to 0 within the kept epochs would be another training, of which nothing is known.

    Args:
        settings: of the network and the training.
        instance: the devices.
        data: hash of the labelled prices.
        places: of the checkpoints and logs.
        stop: whether the process is asked to end.
        fold: the rows to train and to validate on.

    Raises:
        UserError: a checkpoint of this job is of another training, or the training diverged.
    """
    # TensorFlow takes seconds to import; whoever only cuts folds does without.
    from ml.learn.checkpoints import CheckpointFolder
    from ml.learn.network import build_network
    from ml.learn.trainer import Trainer

    train = windows_of(fold.train_rows, settings, seed=settings.seed)
    held_out = fold.validation_rows
    validation = None if held_out is None else windows_of(held_out, settings, enable_shuffle=False)
    del held_out
    with instance.strategy.scope():
        model = build_network(settings)
    trainer = Trainer(model, settings, instance, train, validation)
    for each in (train, validation):
        if each:
            each.free_prices()
    result = trainer.fit(
        stop=stop,
        checkpoints=CheckpointFolder(places.checkpoints, places.job, fold.subfolder) if places.checkpoints else None,
        identity=identity_of(settings, instance.precision, data, fold),
        tensorboard=places.tensorboard / fold.subfolder if places.tensorboard else None,
        report=fold.report,
        epochs=fold.refit or None,
    )

    @functools.cache  # asked by the report, and by a guarded publication
    def predict() -> Predicted:
        if validation is None:
            raise ValueError("this training has no validation windows")
        return validation.starts + (settings.lookback - 1), trainer.probabilities()

    if instance.hosts.count > 1:
        if validation is not None and (result.best_epoch or not result.stopped):
            predict()  # while all hosts are at it, each of which predicts a part
        model = _copied(model, settings)
    return Trained(model, result, predict)


def predicted(model: "keras.Model", settings: Settings, instance: "Instance", fold: Fold) -> Predicted:
    """What a trained model says of a fold's held-out rows, as `Trained.predict` does of the validation rows.

    Args:
        model: from `build_network`.
        settings: that it was trained with.
        instance: the devices it was trained on, of which one predicts.
        fold: whose held-out rows are predicted.
    """
    import tensorflow as tf

    from ml.learn.network import graph, logits
    from ml.learn.step import DeviceWindows

    sequence = windows_of(fold.held_out, settings, enable_shuffle=False)
    windows = DeviceWindows(sequence, instance.precision, settings.centred, sequence.start_type, np.int8)
    start_type: Any = sequence.start_type
    weights = [variable.value for variable in model.trainable_variables]
    no_keys, places = np.zeros(settings.layers, np.uint32), np.arange(_PREDICTED_AT_ONCE, dtype=np.int32)

    @graph(input_signature=(tf.TensorSpec((_PREDICTED_AT_ONCE,), start_type),))
    def probabilities(starts):
        output = logits(weights, windows(starts)[0], dropout=0.0, keys=no_keys, rows=places)
        return tf.nn.softmax(output)[:, 1]

    starts = sequence.starts
    # Filled up with the last window: a smaller batch would be compiled once more.
    filled = np.pad(starts, (0, -len(starts) % _PREDICTED_AT_ONCE), "edge").reshape(-1, _PREDICTED_AT_ONCE)
    probability = np.concatenate([probabilities(part).numpy() for part in filled])[: len(starts)]
    return starts + (settings.lookback - 1), probability


def windows_of(rows: "pd.DataFrame", settings: Settings, **options: Any) -> "TrainSequence":
    """The windows of some rows of a fold; options are those of `TrainSequence` that settings do not have."""
    from ml.train_sequence import TrainSequence

    return TrainSequence(
        rows,
        settings.lookback,
        settings.batch_size,
        max_gap=settings.max_gap,
        skip_flat=True,
        longest_lookback=settings.longest_lookback,
        **options,
    )


def _copied(model: "keras.Model", settings: Settings) -> "keras.Model":
    """The model with weights of this process alone, which no other host needs to be asked for."""
    from ml.learn.network import build_network

    copied = build_network(settings)
    copied.set_weights(model.get_weights())
    return copied
