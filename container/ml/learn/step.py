"""The arithmetic of a step: windows cut from prices, gradients, the update. `pieces` and `program` run it."""

from typing import Any, cast

import keras
import numpy as np
import tensorflow as tf

from ml.errors import UserError
from ml.learn.devices import Instance
from ml.learn.network import CENTRE, graph, logits
from ml.learn.optimizer import build_optimizer
from ml.settings import Settings
from ml.train_sequence import TrainSequence, normalised


class DeviceWindows:
    """A sequence's prices on the devices; its labels, and windows as the first hidden layer takes them, cut there.

    Args:
        sequence: the prices.
        precision: the windows' type.
        centred: whether the network takes windows that lie around 0.
        start_type: of the start rows.
        label_type: of the labels.
    """

    def __init__(self, sequence: TrainSequence, precision: str, centred: bool, start_type: Any, label_type: Any):
        # Variables, since a strategy keeps a copy of each on every device.
        self._prices, self._low, self._height, self._labels = (
            tf.Variable(cast(Any, values), trainable=False)  # the stubs know of tensors alone
            for values in (
                sequence.prices,
                sequence.low,
                sequence.height,
                sequence.labels.astype(label_type, copy=False),
            )
        )
        self._offsets = np.arange(sequence.lookback_period, dtype=start_type)
        self._dtype, self._offset = precision, CENTRE if centred else 0.0

    def __call__(self, starts):
        """Windows (batch, lookback) and labels int64 (batch,) of start rows (batch,)."""
        return self._windows(starts), self._labels_of(starts)

    @graph(jit_compile=True)
    def _labels_of(self, starts):
        return tf.cast(tf.gather(self._labels, starts), tf.int64)

    @graph(jit_compile=True)
    def _windows(self, starts):
        prices = tf.gather(self._prices, starts[:, None] + self._offsets)
        low, height = (tf.gather(values, starts)[:, None] for values in (self._low, self._height))
        scaled = normalised(prices, low, height, lambda x: tf.cast(x, tf.float32))
        return tf.cast(scaled - self._offset, self._dtype)  # in this order: near 0 bfloat16 is finer


class Steps:
    """What a training's steps are made of.

    Args:
        model: from `build_network`, built under `instance.strategy.scope()`.
        settings: centred, batch_size, layers, dropout, label_smoothing, and those of the optimizer.
        instance: the devices and what is chosen for them.
        train: the training windows.
        validation: the validation windows; None: nothing can be measured or predicted.

    Attributes:
        start_type: of start rows: int64 where int32 is too short.
        networks, orders: of one network, as `loop.Arithmetic` has them.
        windows: the training windows.
        weights: the model's trainable weights, in order (kernel, bias, ...), float32.
        optimizer: their update rule, with its slots.
    """

    networks: tuple[int, ...] = ()
    orders: tuple[int, ...] = ()

    def __init__(
        self,
        model: keras.Sequential,
        settings: Settings,
        instance: Instance,
        train: TrainSequence,
        validation: TrainSequence | None,
    ):
        self._settings = settings
        types = [sequence.start_type for sequence in (train, validation) if sequence]
        self.start_type: Any = np.int64 if np.int64 in types else np.int32
        self._whole_batch = float(min(settings.batch_size, train.num_windows))
        # The first host sends its variables to the others, and TensorFlow sends no int8.
        label_type = np.int8 if instance.hosts.count == 1 else np.int32
        of_windows = (instance.precision, settings.centred, self.start_type, label_type)
        with instance.strategy.scope():
            self.windows = DeviceWindows(train, *of_windows)
            self._validation_windows = None if validation is None else DeviceWindows(validation, *of_windows)
            weights = loss_weights(train, settings.train_on)
            self._loss_weights = None if weights is None else tf.Variable(cast(Any, weights), trainable=False)
            self.optimizer = build_optimizer(settings, len(train), model.trainable_variables, instance.precision)
        self.weights = [variable.value for variable in model.trainable_variables]

    def gradients(self, starts, keys, rows, used=None):
        """The loss' gradient by each weight, and the sums of the loss and of the windows predicted right.

        Args:
            starts: of the windows, (batch,).
            keys: what the dropout masks are made from, uint32, (hidden layers,).
            rows: int32, (batch,): the place of each window in the whole batch.
            used: bool, (batch,): which windows count; None: all.
        """
        windows, labels = self.windows(starts)
        with tf.GradientTape() as tape:
            output, losses, correct = self._forward(windows, labels, keys, rows, self._settings.dropout)
            smoothed = smoothed_losses(losses, output, labels, self._settings.label_smoothing)
            if self._loss_weights is not None:
                smoothed *= tf.gather(self._loss_weights, starts)
            # Not by the batch's own size: the few windows of an epoch's last batch would move the weights as far as
            # a whole one's, and in a direction of their own (17 after 119 of 4400 kept a real year's accuracy at 0.65).
            loss = self.optimizer.scale_loss(_sum(smoothed, used) / self._whole_batch)
        return tape.gradient(loss, self.weights), _sum(losses, used), _count(correct, used)

    def measure(self, starts, rows, used=None):
        """The sums of `gradients` over validation windows, and the probability of buy of each, float32, (batch,)."""
        output, losses, correct = self._forward(*self._held_out(starts), self._no_keys, rows, 0.0)
        return _sum(losses, used), _count(correct, used), tf.nn.softmax(output)[:, 1]

    def predict(self, starts, rows):
        """The probability of buy of each validation window, float32, (batch,)."""
        windows, _ = self._held_out(starts)
        output = logits(self.weights, windows, dropout=0.0, keys=self._no_keys, rows=rows)
        return tf.nn.softmax(output)[:, 1]

    @property
    def _no_keys(self) -> np.ndarray:
        return np.zeros(self._settings.layers, np.uint32)

    def _held_out(self, starts):
        if self._validation_windows is None:
            raise ValueError("this training has no validation windows")
        return self._validation_windows(starts)

    def _forward(self, windows, labels, keys, rows, dropout):
        """The network's output, (batch, 2), and of each window its loss and whether it is predicted right."""
        output = logits(self.weights, windows, dropout=dropout, keys=keys, rows=rows)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, output)
        return output, losses, tf.equal(output[:, 1] > output[:, 0], labels > 0)


def loss_weights(train: TrainSequence, train_on: str) -> np.ndarray | None:
    """How much the loss of each window counts: float32, (rows - lookback + 1,), by start row, in the mean 1.

    Args:
        train: the training windows.
        train_on: as in the settings.

    Returns:
        None where all windows count the same.

    Raises:
        UserError: the windows that are to count are not known, or there is none.
    """
    if train_on == "all":
        return None
    if train.decided is None:
        raise UserError("train_on=decided needs a column decided beside mid and position; use train_on=all")
    count = int(np.count_nonzero(train.decided[train.starts]))
    if not count:
        raise UserError(
            f"train_on=decided has nothing to learn from: none of the {train.num_windows:,} training windows ends on a "
            "decided bar; use train_on=all, more data, or a smaller horizon or spread"
        )
    return train.decided * np.float32(train.num_windows / count)


def smoothed_losses(losses, output, labels, smoothing: float):
    """The cross-entropy with a label of 1 - smoothing / 2, from that with a label of 1.

    Of two classes the other's loss is the label's plus the label's margin.
    """
    if not smoothing:
        return losses
    margins = (output[:, 1] - output[:, 0]) * tf.cast(2 * labels - 1, tf.float32)
    return losses + smoothing / 2 * margins


def _sum(values, used):
    return tf.reduce_sum(values if used is None else tf.where(used, values, 0.0))


def _count(correct, used):
    return _sum(tf.cast(correct, tf.float32), used)
