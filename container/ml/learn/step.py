"""What runs on the devices: windows cut from prices, gradients, updates, and sums over all devices."""

from typing import Any, cast

import keras
import numpy as np
import tensorflow as tf

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
    """

    def __init__(self, sequence: TrainSequence, precision: str, centred: bool, start_type: Any):
        # Variables, since a strategy keeps a copy of each on every device.
        self._prices, self._low, self._height, self._labels = (
            tf.Variable(cast(Any, values), trainable=False)  # the stubs know of tensors alone
            for values in (sequence.prices, sequence.low, sequence.height, sequence.labels)
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
    """The steps of a training as graphs: many in one call, each on all devices.

    Args:
        model: from `build_network`, built under `instance.strategy.scope()`.
        settings: centred, batch_size, layers, dropout, label_smoothing, and those of the optimizer.
        instance: the devices and what is chosen for them.
        train: the training windows.
        validation: the validation windows; None: nothing can be measured or predicted.

    Attributes:
        start_type: of the start rows that its graphs take.
        weights: the model's trainable weights, in order (kernel, bias, ...), float32.
        optimizer: their update rule, with its slots.
    """

    def __init__(
        self,
        model: keras.Sequential,
        settings: Settings,
        instance: Instance,
        train: TrainSequence,
        validation: TrainSequence | None,
    ):
        self._settings, self._strategy = settings, instance.strategy
        types = [sequence.start_type for sequence in (train, validation) if sequence]
        self.start_type: Any = np.int64 if np.int64 in types else np.int32
        self._whole_batch = float(min(settings.batch_size, train.num_windows))
        with instance.strategy.scope():
            self.windows = DeviceWindows(train, instance.precision, settings.centred, self.start_type)
            self._validation_windows = (
                None
                if validation is None
                else DeviceWindows(validation, instance.precision, settings.centred, self.start_type)
            )
            self.optimizer = build_optimizer(settings, len(train), model.trainable_variables, instance.precision)
        self.weights = [variable.value for variable in model.trainable_variables]
        self.gradients = graph(self._gradients_of, jit_compile=instance.compile_step)
        # Not wrapped otherwise: several devices meet in the update, which a nested function cannot hold.
        self._update = (
            graph(self.optimizer.apply, jit_compile=True) if instance.compile_update else self.optimizer.apply
        )
        starts, keys = tf.TensorSpec((None, None), self.start_type), tf.TensorSpec((None, None), tf.uint32)
        self.train = graph(self._train, input_signature=(starts, keys))
        self.measure = graph(self._measure, input_signature=(starts, keys))
        self.predict = graph(self._predict, input_signature=(tf.TensorSpec((None,), self.start_type),))

    def _train(self, starts, keys):
        """Trains on each row of starts.

        Args:
            starts: start rows of the windows, (steps, batch).
            keys: what each step's dropout masks are made from, uint32, (steps, hidden layers).

        Returns:
            The sums over all windows of the loss and of those predicted right.
        """
        return self._sums(self._replica_step, starts, keys)

    def _measure(self, starts, keys):
        """The sums of `train` over validation windows; nothing is trained, and the keys are not used."""
        return self._sums(self._replica_measure, starts, keys)

    def _predict(self, starts):
        """Probability of buy of the validation windows that begin at starts: float32, (batch,)."""
        # A device leaves zeros where a window is another's.
        return self._strategy.reduce("SUM", self._strategy.run(self._replica_predict, (starts,)), axis=None)

    def _sums(self, replica_function, starts, keys):
        """Runs a function on each row of starts, over all devices, and adds up what it returns."""

        def run(step, *sums):
            results = self._strategy.run(replica_function, (starts[step], keys[step]))
            return step + 1, *(
                total + self._strategy.reduce("SUM", result, axis=None)
                for total, result in zip(sums, results, strict=True)
            )

        _, *sums = tf.while_loop(lambda step, *_: step < tf.shape(starts)[0], run, (0, 0.0, 0.0))
        return sums

    def _replica_step(self, starts, keys):
        mine, rows = _share(starts)
        gradients, loss, correct = self.gradients(mine, keys, rows)
        self._update(gradients)
        return loss, correct

    def _replica_measure(self, starts, keys):
        mine, rows = _share(starts)
        _, losses, correct = self._forward(*self._held_out(mine), keys, rows, 0.0)
        return tf.reduce_sum(losses), _count(correct)

    def _replica_predict(self, starts):
        mine, rows = _share(starts)
        windows, _ = self._held_out(mine)
        output = logits(self.weights, windows, dropout=0.0, keys=np.zeros(self._settings.layers, np.uint32), rows=rows)
        return tf.scatter_nd(rows[:, None], tf.nn.softmax(output)[:, 1], tf.shape(starts))

    def _held_out(self, starts):
        if self._validation_windows is None:
            raise ValueError("this training has no validation windows")
        return self._validation_windows(starts)

    def _gradients_of(self, starts, keys, rows):
        """The loss' gradient by each weight, and the sums of the loss and of the windows predicted right."""
        windows, labels = self.windows(starts)
        with tf.GradientTape() as tape:
            output, losses, correct = self._forward(windows, labels, keys, rows, self._settings.dropout)
            smoothed = smoothed_losses(losses, output, labels, self._settings.label_smoothing)
            # Not by the batch's own size: the few windows of an epoch's last batch would move the weights as far as
            # a whole one's, and in a direction of their own (17 after 119 of 4400 kept a real year's accuracy at 0.65).
            loss = self.optimizer.scale_loss(tf.reduce_sum(smoothed) / self._whole_batch)
        return tape.gradient(loss, self.weights), tf.reduce_sum(losses), _count(correct)

    def _forward(self, windows, labels, keys, rows, dropout):
        """The network's output, (batch, 2), and of each window its loss and whether it is predicted right."""
        output = logits(self.weights, windows, dropout=dropout, keys=keys, rows=rows)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, output)
        return output, losses, tf.equal(output[:, 1] > output[:, 0], labels > 0)


def smoothed_losses(losses, output, labels, smoothing: float):
    """The cross-entropy with a label of 1 - smoothing / 2, from that with a label of 1.

    Of two classes the other's loss is the label's plus the label's margin.
    """
    if not smoothing:
        return losses
    margins = (output[:, 1] - output[:, 0]) * tf.cast(2 * labels - 1, tf.float32)
    return losses + smoothing / 2 * margins


def _share(starts):
    """The part of a batch that is this device's, and the place of each window in the whole."""
    context = tf.distribute.get_replica_context()
    # Not tf.range(first, ...): where a device has no window, it would begin beyond its end, which is an error.
    rows = tf.range(tf.shape(starts)[0])[context.replica_id_in_sync_group :: context.num_replicas_in_sync]
    return tf.gather(starts, rows), rows


def _count(correct):
    return tf.reduce_sum(tf.cast(correct, tf.float32))
