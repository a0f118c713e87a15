"""The training of one fold's model, from its rows to its weights."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml.learn.folds import Fold, Predicted, Trained
from ml.settings import Settings

if TYPE_CHECKING:
    import keras

    from ml.learn.devices import Instance


def identity_of(settings: Settings, precision: str, data: str, fold: Fold) -> dict[str, Any]:
    """What a checkpoint must share with the job that resumes from it: all that changes the weights.

    The last fold's is that of a job of one fold.

    Args:
        settings: each says itself whether it changes the weights.
        precision: of the multiplications, as chosen for the devices.
        data: hash of the labelled prices.
        fold: which part of them.
    """
    chosen = dataclasses.replace(settings, precision=precision)
    part = {"fold": f"{fold.number} of {fold.count}"} if fold.subfolder else {}
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
    from ml.train_sequence import TrainSequence

    def sequence(rows, **options) -> TrainSequence:
        return TrainSequence(
            rows, settings.lookback, settings.batch_size, max_gap=settings.max_gap, skip_flat=True, **options
        )

    train = sequence(fold.train_rows, seed=settings.seed)
    held_out = fold.validation_rows
    validation = None if held_out is None else sequence(held_out, enable_shuffle=False)
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
    )

    @functools.cache  # asked by the report, and by a guarded publication
    def predict() -> Predicted:
        if validation is None:
            raise ValueError("this training has no validation windows")
        return validation.starts + (settings.lookback - 1), trainer.probabilities()

    if instance.hosts.count > 1:
        if validation is not None and not result.stopped:
            predict()  # while all hosts are at it, each of which predicts a part
        model = _copied(model, settings)
    return Trained(model, result, predict)


def _copied(model: "keras.Model", settings: Settings) -> "keras.Model":
    """The model with weights of this process alone, which no other host needs to be asked for."""
    from ml.learn.network import build_network

    copied = build_network(settings)
    copied.set_weights(model.get_weights())
    return copied
