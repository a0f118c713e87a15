"""The training of a population: several networks at once, on windows that are cut once.

The loop over steps is that of one network (`trainer`), and what is said there of it holds here. A network leaves when
it diverges, when its patience is over, or when halving drops it; the others go on, and the arrays shrink.
"""

import contextlib
import dataclasses
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from ml import log
from ml.learn.checkpoint_file import Checkpoint
from ml.learn.checkpoints import CheckpointFolder, CheckpointSaver
from ml.learn.devices import Instance
from ml.learn.loop import Loop, Sums
from ml.learn.members import COMPLETED, DIVERGED, PRUNED, STOPPED, Member, MemberResult, badness
from ml.learn.pieces import Pieces
from ml.learn.population_state import PopulationLimits, PopulationProgress
from ml.learn.program import Program
from ml.learn.stacked import StackedSteps, StackedWindows, weights_of
from ml.learn.tensorboard import ScalarLog
from ml.learn.trainer import DIVERGED as DIVERGED_BECAUSE
from ml.learn.trainer import Report, dropout_keys, is_better
from ml.metrics import metric_line, rounded
from ml.train_sequence import TrainSequence

_SHRINK_AT = 0.75  # of the networks in the arrays: building smaller ones costs seconds of compilation


class PopulationTrainer:
    """Trains the networks of a population on the windows of one sequence and measures them on those of another.

    Args:
        members: the networks.
        instance: the devices and what is chosen for them.
        train: the training windows, of the longest lookback.
        validation: the validation windows, likewise, in the order of time.
        halving: after each of the first epochs the best 1/halving are kept; 1: all.

    Attributes:
        progress: where the training is.
    """

    def __init__(
        self,
        members: Sequence[Member],
        instance: Instance,
        train: TrainSequence,
        validation: TrainSequence,
        halving: float = 1.0,
    ):
        self._members, self._instance, self._train, self._validation = members, instance, train, validation
        self._shared, self._halving = members[0].settings, halving  # whose epochs, monitor and so on are everybody's
        lookbacks = [member.settings.lookback for member in members]
        self._widest = train.lookback_period, max(member.settings.nodes for member in members)
        with instance.strategy.scope():
            self._windows, self._held_out = (
                StackedWindows(sequence, lookbacks, instance.precision, self._shared.centred, train_on)
                for sequence, train_on in ((train, self._shared.train_on), (validation, "all"))
            )
        self.progress = PopulationProgress.begun(
            len(members), one_program=instance.one_program, hardware=instance.hardware
        )
        self._stack(self.progress.stacked)
        self._best = [np.zeros(variable.shape, np.float32) for variable in self._steps.variables]
        self._running = False  # whether that has been told

    def fit(
        self,
        *,
        stop: Callable[[], bool] = lambda: False,
        checkpoints: CheckpointFolder | None = None,
        identity: dict[str, Any] | None = None,
        tensorboard: Path | None = None,
        report: Report = log.say,
    ) -> list[MemberResult]:
        """Trains to the last epoch, or until no network is left, or the process is asked to end.

        Arguments as those of `trainer.Trainer.fit`; TensorBoard's folder gets a run a network.

        Returns:
            What came of each network, in order.

        Raises:
            UserError: the checkpoint is of another training or a longer one.
        """
        identity = identity or {}
        if checkpoints:
            limits = self._limits()
            if found := checkpoints.load(identity, limits.check, limits.largest()):
                self._restore(found, report)
        progress = self.progress

        def checkpoint():
            self._instance.keep_programs()
            return self._checkpoint(identity)

        saver = CheckpointSaver(checkpoints, self._shared.checkpoint_seconds, checkpoint, report)
        with contextlib.ExitStack() as stack:
            folders = [tensorboard / f"member-{member.number}" if tensorboard else None for member in self._members]
            scalars = [stack.enter_context(ScalarLog(folder)) for folder in folders]
            while progress.trained:
                if not self._train_epoch(stop, saver, report):
                    break
                self._end_epoch(report, scalars)
                saver.save(due=True, force=not progress.trained)
        self._instance.keep_programs()
        if stop():
            saver.save(force=True)
        return [self._result(number) for number in range(len(self._members))]

    def probabilities(self) -> np.ndarray:
        """Probability of buy of each validation window by every network's kept weights: float32, (windows, networks).

        nan where a network has none.
        """
        everyone = list(range(len(self._members)))
        if self.progress.stacked != everyone:
            self._stack(everyone)
        for variable, best in zip(self._steps.variables, self._best, strict=True):
            variable.assign(best)
        self.progress.stacked = everyone
        found = self._loop.predict(self._validation_order)
        found[:, [not epoch for epoch in self.progress.best_epochs]] = np.nan
        return found

    @property
    def _validation_order(self) -> np.ndarray:
        return self._validation.starts.astype(self._steps.start_type, copy=False)

    def _stack(self, networks: Sequence[int]) -> None:
        """Makes the arrays and the loop for some of the networks."""
        settings = [self._members[number].settings for number in networks]
        self._steps = StackedSteps(
            settings,
            self._instance,
            widest=self._widest,
            batch_size=self._shared.batch_size,
            windows=self._train.num_windows,
            train=self._windows,
            validation=self._held_out,
        )
        if not self.progress.one_program:
            widest = dataclasses.replace(self._shared, lookback=self._widest[0], nodes=self._widest[1])
            self._loop: Loop = Pieces(self._steps, widest, self._instance)
            return
        self._loop = Program(
            self._steps,
            batch_size=self._shared.batch_size,
            keys=self._shared.layers * len(self._steps.seeds),
            windows=self._train.num_windows,
            validation_windows=self._validation.num_windows,
        )

    def _train_epoch(self, stop: Callable[[], bool], saver: CheckpointSaver, report: Report) -> bool:
        """Trains the rest of an epoch. Returns whether it was finished; else the process was asked to end."""
        for _ in self.epoch_parts():
            if not self._running:
                report(f"running: step {self.progress.step} of {len(self._train)} done")
                self._running = True
            if stop():
                return False
            saver.save()
        return not stop()

    def epoch_parts(self) -> Iterator[None]:
        """Runs the rest of an epoch in calls of many steps, yielding after each."""
        progress, steps = self.progress, len(self._train)
        seeds, layers = self._steps.seeds, self._shared.layers
        orders = np.stack([self._train.order(progress.epoch, seed) for seed in seeds], axis=1)
        keys = np.stack([dropout_keys(seed, progress.epoch, steps, layers) for seed in seeds], axis=2)
        self._loop.begin_epoch(orders.astype(self._steps.start_type, copy=False), keys.reshape(steps, -1))
        bar = keras.utils.Progbar(steps) if sys.stdout.isatty() else None
        while progress.step < steps:
            began = time.perf_counter()
            sums = Sums(np.array(progress.loss_sum), np.array(progress.correct_sum))
            done, sums = self._loop.train(progress.step, steps, sums)
            progress.loss_sum, progress.correct_sum = sums.loss.tolist(), sums.correct.tolist()
            progress.step += done
            progress.seconds += time.perf_counter() - began
            if bar:
                over = progress.step == steps
                bar.update(progress.step, finalize=over)
                log.bar_shown = not over
            yield

    def _end_epoch(self, report: Report, scalars: Sequence[ScalarLog]) -> None:
        """Closes an epoch: the networks' metrics kept, those of the best so far printed, and who leaves has left."""
        progress = self.progress
        finite = self._finite_weights()
        order = self._validation_order
        measured = self._loop.measure(order)
        trained = progress.trained
        speed = len(trained) * self._train.num_windows / progress.seconds
        progress.epoch += 1
        improved = []
        for number in trained:
            place = progress.stacked.index(number)
            metrics = {
                "loss": rounded(progress.loss_sum[place] / self._train.num_windows),
                "accuracy": rounded(progress.correct_sum[place] / self._train.num_windows),
                "val_loss": rounded(measured.loss[place] / len(order)),
                "val_accuracy": rounded(measured.correct[place] / len(order)),
            }
            history = progress.histories[number]
            best = history[progress.best_epochs[number] - 1] if progress.best_epochs[number] else None
            usable = finite[place] and math.isfinite(metrics["loss"]) and math.isfinite(metrics["val_loss"])
            if usable and (best is None or is_better(metrics, best, self._shared.monitor)):
                improved.append(number)
                progress.best_epochs[number] = progress.epoch
                best = metrics
            kept = best or metrics
            metrics |= {f"best_{name}": kept[name] for name in ("val_loss", "val_accuracy")}
            metrics["windows_per_second"] = rounded(speed)
            history.append(metrics)
            scalars[number].write(progress.epoch, metrics)
        self._keep_weights(improved)
        leader = self._ranked(range(len(self._members)))[0]
        report(metric_line(progress.epoch, self._shared.epochs, progress.histories[leader][-1]), metrics=True)
        self._let_leave(report)
        self._shrink()
        progress.begin_epoch()

    def _let_leave(self, report: Report) -> None:
        """Notes which networks are trained no more after an epoch, and why."""
        progress, patience = self.progress, self._shared.patience
        for number in progress.trained:
            if not math.isfinite(progress.histories[number][-1]["loss"]):
                # As a job of its own, which ends well with the weights of an earlier epoch and fails without any.
                progress.statuses[number] = COMPLETED if progress.best_epochs[number] else DIVERGED
                report(f"member {self._members[number].number} leaves the population: {DIVERGED_BECAUSE}")
            elif progress.epoch == self._shared.epochs or (
                patience and progress.epoch - progress.best_epochs[number] >= patience
            ):
                progress.statuses[number] = COMPLETED
        trained = progress.trained
        left = self._ranked(trained)[math.ceil(len(trained) / self._halving) :]
        for number in left:
            progress.statuses[number] = PRUNED
        if left:
            report(f"the best {len(trained) - len(left)} of {len(trained)} members go on")

    def _shrink(self) -> None:
        """Makes smaller arrays of those that are still trained, where that is worth its compilation."""
        trained, stacked = self.progress.trained, self.progress.stacked
        if not trained or len(trained) > _SHRINK_AT * len(stacked):
            return
        rows = [stacked.index(number) for number in trained]
        before = self._values()
        self._stack(trained)
        self.progress.stacked = trained
        self._assign({name: values[rows] if values.ndim == 3 else values for name, values in before.items()})

    def _finite_weights(self) -> np.ndarray:
        """Whether all weights of each stacked network are numbers: others predict sell, which may score well."""
        return np.logical_and.reduce(
            [
                tf.reduce_all(tf.math.is_finite(variable.value), axis=(1, 2)).numpy()
                for variable in self._steps.variables
            ]
        )

    def _keep_weights(self, networks: Sequence[int]) -> None:
        """Keeps the weights of now as the best of some networks."""
        if not networks:
            return
        places = [self.progress.stacked.index(number) for number in networks]
        for best, variable in zip(self._best, self._steps.variables, strict=True):
            best[list(networks)] = np.asarray(variable.value)[places]

    def _ranked(self, networks: Sequence[int]) -> list[int]:
        """Networks by the monitored metric of their best epoch, the best first."""

        def place(number: int) -> tuple[float, int]:
            epoch = self.progress.best_epochs[number]
            best = self.progress.histories[number][epoch - 1] if epoch else {}
            return badness(best, self._shared.monitor), number

        return sorted(networks, key=place)

    def _result(self, number: int) -> MemberResult:
        progress, member = self.progress, self._members[number]
        best_epoch = progress.best_epochs[number]
        return MemberResult(
            member=member,
            status=progress.statuses[number] or STOPPED,
            history=progress.histories[number],
            best_epoch=best_epoch,
            weights=weights_of(member.settings, [best[number] for best in self._best]) if best_epoch else [],
        )

    def _variables(self) -> dict[str, Any]:
        groups = {"weight": self._steps.variables, "optimizer": self._steps.optimizer.variables}
        return {f"{name}_{i}": each for name, variables in groups.items() for i, each in enumerate(variables)}

    def _values(self) -> dict[str, np.ndarray]:
        return {name: np.asarray(variable.value) for name, variable in self._variables().items()}

    def _assign(self, values: dict[str, np.ndarray]) -> None:
        for name, variable in self._variables().items():
            variable.assign(values[name])

    def _limits(self) -> PopulationLimits:
        arrays = self._variables() | {f"best_{i}": best for i, best in enumerate(self._best)}
        shapes = {name: tuple(array.shape) for name, array in arrays.items()}
        return PopulationLimits(len(self._members), self._shared.epochs, len(self._train), shapes)

    def _checkpoint(self, identity: dict[str, Any]) -> Checkpoint:
        arrays = self._values() | {f"best_{i}": best for i, best in enumerate(self._best)}
        return Checkpoint(identity, dataclasses.asdict(self.progress), arrays)

    def _restore(self, checkpoint: Checkpoint, report: Report) -> None:
        """Goes on from a checkpoint that `PopulationLimits.check` let pass."""
        before, self.progress = self.progress, PopulationProgress(**checkpoint.progress)
        progress, instance = self.progress, self._instance
        report(f"resuming in epoch {progress.epoch + 1} at step {progress.step} from a checkpoint")
        if progress.hardware != instance.hardware:
            report(
                f"the checkpoint was made on other hardware ({progress.hardware}; here {instance.hardware}): "
                "results may differ in the last digits"
            )
            progress.hardware = instance.hardware
        if progress.one_program and instance.strategy.num_replicas_in_sync > 1:
            report("the training began on one device and goes on on several: results may differ in the last digits")
            progress.one_program = False
        if (progress.stacked, progress.one_program) != (before.stacked, before.one_program):
            self._stack(progress.stacked)
        self._assign(checkpoint.arrays)
        self._best = [checkpoint.arrays[f"best_{i}"].copy() for i in range(len(self._best))]
