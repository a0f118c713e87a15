"""Steps run as one program: XLA compiles the whole loop over many steps, the update included.

On one GPU a step of separately compiled pieces costs 0.9 ms, of which the arithmetic is 0.2; in one program a step
costs 0.22 ms (docs/speed.md). What a shape costs to compile is paid once: the numbers of a call's steps are values, and
an epoch's smaller last batch is a whole one of which some windows do not count.
"""

import math
import time
from typing import Any, cast

import numpy as np
import tensorflow as tf
from tensorflow.python.framework import ops

from ml.learn.loop import Sums
from ml.learn.network import graph
from ml.learn.step import Steps

_SECONDS_A_CALL = 1.0  # a stop signal, a due checkpoint and the progress bar wait as long
_GROWTH = 16  # of a call's steps over those of the one before, at most

_NAMES_BEGIN = 1 << 20  # counting as far takes 0.1 s; what precedes a first training takes some thousands

_CALL = (tf.TensorSpec((), tf.int32), tf.TensorSpec((), tf.int32), *[tf.TensorSpec((), tf.float64)] * 2)


class Program:
    """A `Loop` whose calls are one program each, for training and for validation, on one device.

    Args:
        steps: the arithmetic.
        batch_size: windows in a step.
        layers: hidden layers of the network.
        windows: of an epoch.
        validation_windows: of the validation part.
    """

    def __init__(self, steps: Steps, *, batch_size: int, layers: int, windows: int, validation_windows: int):
        self._steps, self._pace = steps, _Pace()
        self._batches = _Batches(windows, batch_size, steps.start_type)
        self._validation_batches = _Batches(validation_windows, batch_size, steps.start_type)
        keys = np.zeros((self._batches.count, layers), np.uint32)
        self._keys = tf.Variable(cast(Any, keys), trainable=False)  # the stubs know of tensors alone
        _align_names()
        for function in (self._train, *([self._evaluate] if validation_windows else [])):
            cast(Any, function).get_concrete_function()  # the stubs take it for a method

    def begin_epoch(self, order: np.ndarray, keys: np.ndarray) -> None:
        self._batches.assign(order)
        self._keys.assign(keys)

    def train(self, first: int, last: int, sums: Sums) -> tuple[int, Sums]:
        steps = min(self._pace.steps, last - first)
        began = time.perf_counter()
        loss, correct = (float(total) for total in self._train(first, first + steps, *sums))
        self._pace.adapt(steps, time.perf_counter() - began)
        return steps, Sums(loss, correct)

    def measure(self, order: np.ndarray) -> Sums:
        self._validation_batches.assign(order)
        loss, correct, _ = self._evaluate()
        return Sums(float(loss), float(correct))

    def predict(self, order: np.ndarray) -> np.ndarray:
        self._validation_batches.assign(order)
        return self._evaluate()[2].numpy().reshape(-1)[: len(order)]

    @graph(jit_compile=True, input_signature=_CALL)
    def _train(self, first, end, loss_sum, correct_sum):
        """Trains the steps [first, end) of the epoch and adds to its sums, one step's after the other's.

        The sums do not depend on where calls begin, so neither does a resume's last digit.
        """

        def run(step, *sums):
            starts, rows, used = self._batches.batch(step)
            gradients, *results = self._steps.gradients(starts, self._keys[step], rows, used)
            self._steps.optimizer.apply(gradients)
            return step + 1, *_added(sums, results)

        return tf.while_loop(lambda step, *_: step < end, run, (first, loss_sum, correct_sum))[1:]

    @graph(jit_compile=True, input_signature=())
    def _evaluate(self):
        """The sums over the validation windows, and the probability of buy of each, (steps, batch)."""
        batches = self._validation_batches
        zero = tf.constant(0.0, tf.float64)
        probabilities = tf.TensorArray(tf.float32, batches.count, element_shape=(batches.size,))

        def run(step, probabilities, *sums):
            starts, rows, used = batches.batch(step)
            *results, probability = self._steps.measure(starts, rows, used)
            return step + 1, probabilities.write(step, probability), *_added(sums, results)

        _, probabilities, *sums = tf.while_loop(
            lambda step, *_: step < batches.count, run, (0, probabilities, zero, zero)
        )
        return *sums, probabilities.stack()


class _Batches:
    """Start rows on the device, in batches of one size: the last one is filled up with windows that do not count."""

    def __init__(self, windows: int, batch_size: int, start_type: Any):
        self._windows, self._start_type = windows, start_type
        self.size = max(1, min(batch_size, windows))
        self.count = math.ceil(windows / self.size)
        starts = np.zeros((self.count, self.size), start_type)
        self._starts = tf.Variable(cast(Any, starts), trainable=False)

    def assign(self, order: np.ndarray) -> None:
        filled = np.zeros(self.count * self.size, self._start_type)
        filled[: len(order)] = order
        self._starts.assign(filled.reshape(self.count, self.size))

    def batch(self, step):
        """Of a batch's windows the start rows, the places in it, and whether they count."""
        rows = tf.range(self.size)
        counted = tf.cast(step, self._start_type) * self.size + tf.cast(rows, self._start_type) < self._windows
        return self._starts[step], rows, counted


class _Pace:
    """How many steps a call is to have, so that it takes about a second.

    Attributes:
        steps: of the next call; one at first, which compiles and says nothing of the speed.
    """

    def __init__(self):
        self.steps = 1
        self._compiled = False

    def adapt(self, steps: int, seconds: float) -> None:
        """Takes account of a call."""
        wanted = steps * _SECONDS_A_CALL / max(seconds, 1e-6) if self._compiled else _GROWTH
        self._compiled = True
        self.steps = max(1, min(int(wanted), self.steps * _GROWTH))


def _align_names() -> None:
    """Makes TensorFlow name the functions that are traced next as in every other process.

    It numbers them with a counter that every tensor advances, so a resume, which makes other tensors before, would have
    other names; and XLA finds a kept program by its functions' names.
    """
    while ops.uid() % _NAMES_BEGIN:
        pass


def _added(sums, results):
    return (total + tf.cast(result, tf.float64) for total, result in zip(sums, results, strict=True))
