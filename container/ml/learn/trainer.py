"""The training: epochs of steps on whatever devices there are, measured, resumable at any step.

Why a loop of our own and not `fit`: one loop must serve one device, several and later several hosts
(Keras' `fit` fails under MultiWorkerMirroredStrategy), must cut windows on the device from start indices,
must run many steps in one call (at batch 32 the calls would cost more than the arithmetic), and must
resume at any step with the shuffle, the dropout and the early-stopping counters where they were (Keras'
callbacks forget the last). What it replaces is small: shuffled order and dropout keys are functions of
(seed, epoch), so a checkpoint is the weights, the optimizer's slots and a few numbers.
"""

import dataclasses
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import keras
import numpy as np
import tensorflow as tf

from ml import log
from ml.errors import UserError
from ml.learn.checkpoint_file import Checkpoint
from ml.learn.checkpoints import CheckpointFolder, CheckpointSaver
from ml.learn.devices import Instance
from ml.learn.hosts import Hosts
from ml.learn.links import Message
from ml.learn.loop import Loop, Sums
from ml.learn.pieces import Pieces
from ml.learn.program import Program
from ml.learn.state import Progress, TrainingState
from ml.learn.step import Steps
from ml.learn.tensorboard import ScalarLog
from ml.metrics import metric_line, rounded
from ml.settings import Settings
from ml.train_sequence import TrainSequence

DIVERGED = "the loss is not a finite number"


class Report(Protocol):
    """Takes a line for the log, as `ml.log.say` does."""

    def __call__(self, line: str, *, metrics: bool = False) -> None: ...


@dataclasses.dataclass(frozen=True)
class TrainingResult:
    """What a training came to; the model holds the weights of `best_epoch`.

    Attributes:
        history: one dict of metrics an epoch.
        best_epoch: the epoch (from 1) of the kept weights; the last one where nothing is validated; 0
            where it was stopped before the first ended.
        stopped: whether a signal ended it before its last epoch.
    """

    history: list[dict[str, float]]
    best_epoch: int
    stopped: bool


def dropout_keys(seed: int, epoch: int, steps: int, layers: int) -> np.ndarray:
    """What the dropout masks of each step of an epoch are made from: uint32, (steps, hidden layers)."""
    return np.random.default_rng([seed, epoch, 1]).integers(2**32, size=(steps, layers), dtype=np.uint32)


def is_better(metrics: dict[str, float], best: dict[str, float], monitor: str) -> bool:
    """Whether an epoch's monitored metric is better than the best one's."""
    if monitor == "last":
        return True
    difference = metrics[monitor] - best[monitor]
    return difference < 0 if monitor == "val_loss" else difference > 0


class Trainer:
    """Trains a model on the windows of one sequence and measures it on those of another.

    Args:
        model: from `build_network`, built under `instance.strategy.scope()`.
        settings: of the network and the training, and checkpoint_seconds.
        instance: the devices and what is chosen for them.
        train: the training windows.
        validation: the validation windows; None: no validation, the last epoch's weights are kept.

    Attributes:
        steps: what its steps are made of.
        loop: what runs them.
    """

    def __init__(
        self,
        model: keras.Sequential,
        settings: Settings,
        instance: Instance,
        train: TrainSequence,
        validation: TrainSequence | None,
    ):
        self._model, self._settings, self._instance = model, settings, instance
        self._train, self._validation = train, validation
        self._running = False  # whether that has been told
        self.steps = Steps(model, settings, instance, train, validation)
        self.loop = self._loop_of(one_program=instance.one_program)

    def fit(
        self,
        *,
        stop: Callable[[], bool] = lambda: False,
        checkpoints: CheckpointFolder | None = None,
        identity: dict[str, Any] | None = None,
        tensorboard: Path | None = None,
        report: Report = log.say,
        epochs: int | None = None,
    ) -> TrainingResult:
        """Trains to the last epoch, or until patience runs out or the process is asked to end.

        Args:
            stop: whether to end, asked between calls into TensorFlow, about once a second; where hosts train
                together, any of them ends them all.
            checkpoints: where to resume from and to save to; the first host's alone is used.
            identity: what this training is of; a checkpoint of anything else is not used.
            tensorboard: folder for TensorBoard's logs.
            report: takes each line for the log of the first host.
            epochs: to end after, whatever the learning rate falls over; None: the settings' own.

        Raises:
            UserError: the checkpoint is of another training or a longer one, or the training diverged before an
                epoch could be kept.
        """
        identity, epochs = identity or {}, epochs or self._settings.epochs
        hosts = self._instance.hosts
        stop = hosts.deciding_together(stop)
        if not hosts.first:
            checkpoints, tensorboard, report = None, None, silent
        state = TrainingState(
            self.steps,
            epochs,
            len(self._train),
            validated=self._validation is not None,
            instance=self._instance,
        )
        found = checkpoints and checkpoints.load(identity, state.check, state.largest_checkpoint())
        found = _of_first_host(hosts, found)
        if found:
            state.restore(found)
            report(f"resuming in epoch {state.progress.epoch + 1} at step {state.progress.step} from a checkpoint")
            self._go_on_with_loop_of(state.progress, report)
        progress = state.progress

        def checkpoint():
            self._instance.keep_programs()
            return state.checkpoint(identity)

        saver = CheckpointSaver(checkpoints, self._settings.checkpoint_seconds, checkpoint, report)
        with ScalarLog(tensorboard) as scalars:
            while progress.epoch < epochs and not self._over_early(progress):
                if not self._train_epoch(progress, stop, saver, report):
                    break
                if self._end_epoch(progress, report, scalars):
                    state.keep_weights()
                over = progress.epoch == epochs or bool(self._over_early(progress))
                saver.save(due=True, force=over)
        self._instance.keep_programs()
        stopped = stop()
        if stopped:
            saver.save(force=True)
        elif not state.best:
            raise UserError(
                f"training diverged: {DIVERGED} after its first epoch; lower learning_rate "
                f"({self._settings.learning_rate:g})"
            )
        elif progress.epoch < epochs:
            report(f"stopping early: {self._over_early(progress)}")
        if state.best:
            self._model.set_weights(state.best)
        return TrainingResult(progress.history, progress.best_epoch, stopped)

    def probabilities(self) -> np.ndarray:
        """Probability of buy of each validation window, from the model's weights: float32, (windows,)."""
        return self.loop.predict(self._validation_order)

    def dropout_keys(self, epoch: int) -> np.ndarray:
        """What each step's dropout masks are made from: uint32, (steps, hidden layers)."""
        return dropout_keys(self._settings.seed, epoch, len(self._train), self._settings.layers)

    @property
    def _validation_order(self) -> np.ndarray:
        if self._validation is None:
            raise ValueError("this training has no validation windows")
        return self._validation.starts.astype(self.steps.start_type, copy=False)

    def _loop_of(self, *, one_program: bool) -> Loop:
        if not one_program:
            return Pieces(self.steps, self._settings, self._instance)
        return Program(
            self.steps,
            batch_size=self._settings.batch_size,
            keys=self._settings.layers,
            windows=self._train.num_windows,
            validation_windows=0 if self._validation is None else self._validation.num_windows,
        )

    def _go_on_with_loop_of(self, progress: Progress, report: Report) -> None:
        """Goes on with the loop that the training began with, whose results are not the other's to the last bit."""
        instance = self._instance
        if progress.hardware and progress.hardware != instance.hardware:
            report(
                f"the checkpoint was made on other hardware ({progress.hardware}; here {instance.hardware}): "
                "results may differ in the last digits"
            )
        progress.hardware = instance.hardware
        if progress.one_program and instance.strategy.num_replicas_in_sync > 1:
            report("the training began on one device and goes on on several: results may differ in the last digits")
            progress.one_program = False
        if progress.one_program != instance.one_program:
            self.loop = self._loop_of(one_program=progress.one_program)

    def _train_epoch(
        self, progress: Progress, stop: Callable[[], bool], saver: CheckpointSaver, report: Report
    ) -> bool:
        """Trains the rest of an epoch. Returns whether it was finished; else the process was asked to end."""
        for _ in self._epoch_parts(progress):
            if not self._running:  # what takes long before the first epoch's line is over
                report(f"running: step {progress.step} of {len(self._train)} done")
                self._running = True
            if stop():
                return False
            saver.save()
        return not stop()

    def _epoch_parts(self, progress: Progress) -> Iterator[None]:
        """Runs the rest of an epoch in calls of many steps, yielding after each."""
        order = self._train.order(progress.epoch).astype(self.steps.start_type, copy=False)
        self.loop.begin_epoch(order, self.dropout_keys(progress.epoch))
        bar = keras.utils.Progbar(len(self._train)) if sys.stdout.isatty() and self._instance.hosts.first else None
        while progress.step < len(self._train):
            began = time.perf_counter()
            steps, sums = self.loop.train(
                progress.step, len(self._train), Sums(progress.loss_sum, progress.correct_sum)
            )
            progress.loss_sum, progress.correct_sum = sums
            progress.step += steps
            progress.seconds += time.perf_counter() - began
            if bar:
                over = progress.step == len(self._train)
                bar.update(progress.step, finalize=over)
                log.bar_shown = not over
            yield

    def _end_epoch(self, progress: Progress, report: Report, scalars: ScalarLog) -> bool:
        """Closes an epoch: its metrics, printed and kept. Returns whether it is the best so far."""
        metrics = {
            "loss": progress.loss_sum / self._train.num_windows,
            "accuracy": progress.correct_sum / self._train.num_windows,
        }
        speed = self._train.num_windows / progress.seconds
        if self._validation:
            metrics |= self._measured()
        metrics = {name: rounded(value) for name, value in metrics.items()}
        best = progress.history[progress.best_epoch - 1] if progress.best_epoch else None
        improved = self._finite(metrics) and (
            not self._validation or best is None or is_better(metrics, best, self._settings.monitor)
        )
        if self._validation:
            kept = metrics if improved or best is None else best
            metrics |= {f"best_{name}": kept[name] for name in ("val_loss", "val_accuracy")}
        metrics["windows_per_second"] = rounded(speed)
        report(metric_line(progress.epoch + 1, self._settings.epochs, metrics), metrics=True)
        scalars.write(progress.epoch + 1, metrics)
        progress.history.append(metrics)
        if improved:
            progress.best_epoch = progress.epoch + 1
        progress.epoch += 1
        progress.step, progress.loss_sum, progress.correct_sum, progress.seconds = 0, 0.0, 0.0, 0.0
        return improved

    def _measured(self) -> dict[str, float]:
        """Loss and accuracy over the validation windows."""
        order = self._validation_order
        sums = self.loop.measure(order)
        return {"val_loss": sums.loss / len(order), "val_accuracy": sums.correct / len(order)}

    def _finite(self, metrics: dict[str, float]) -> bool:
        """Whether an epoch's weights and losses are numbers: others predict sell, which may score well."""
        return all(np.isfinite(metrics[name]) for name in ("loss", "val_loss") if name in metrics) and all(
            bool(tf.reduce_all(tf.math.is_finite(weight))) for weight in self.steps.weights
        )

    def _over_early(self, progress: Progress) -> str:
        """Why no further epoch is to be trained; empty: go on."""
        if progress.history and not np.isfinite(progress.history[-1]["loss"]):
            return DIVERGED
        patience = self._settings.patience
        if patience and self._validation and progress.epoch - progress.best_epoch >= patience:
            return f"{self._settings.monitor} has not improved for {patience} epochs"
        return ""


def _of_first_host(hosts: Hosts, found: Checkpoint | None) -> Checkpoint | None:
    """The checkpoint that the first host has found, on every host."""
    if hosts.count == 1:
        return found
    told = hosts.from_first(
        "checkpoint", Message([found.identity, found.progress], found.arrays) if found else Message(None)
    )
    if not told.values:
        return None
    identity, progress = told.values
    return Checkpoint(identity, progress, dict(told.arrays))


def silent(line: str, *, metrics: bool = False) -> None:
    """Takes the lines that the first host reports."""
