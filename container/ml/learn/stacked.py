"""The arithmetic of a step of several networks at once: their weights stacked, (networks, in, out).

Networks of different sizes are the widest one with zeros: where a kernel's rows and columns and a bias are 0, a unit's
output and all its gradients are 0 and stay so, and a window's prices beyond its lookback are 0 too. So each network is
exactly the one that `step.Steps` trains alone, but for the order in which the widest's products add up.
"""

from collections.abc import Sequence
from typing import Any, cast

import keras
import numpy as np
import tensorflow as tf

from ml.learn.devices import Instance
from ml.learn.network import CENTRE, graph, hashed, initial_weights
from ml.learn.optimizer import build_stacked_optimizer
from ml.learn.step import loss_weights
from ml.settings import Settings
from ml.train_sequence import TrainSequence, normalised, window_scales


class StackedWindows:
    """A sequence's prices on the devices; its labels, and windows of several lookbacks cut there, which end together.

    Args:
        sequence: of the longest lookback; a window is known by its start in it.
        lookbacks: all that windows are asked for.
        precision: the windows' type.
        centred: whether the networks take windows that lie around 0.
    """

    def __init__(
        self, sequence: TrainSequence, lookbacks: Sequence[int], precision: str, centred: bool, train_on: str = "all"
    ):
        self._longest, self._lookbacks = sequence.lookback_period, sorted(set(lookbacks))
        self._count = len(sequence.low)
        places = self._count * len(self._lookbacks)
        self.start_type: Any = np.int64 if places > np.iinfo(np.int32).max else sequence.start_type
        low = np.empty((len(self._lookbacks), self._count), sequence.low.dtype)
        height = np.empty(low.shape, np.float32)
        for i, lookback in enumerate(self._lookbacks):
            if lookback == self._longest:
                low[i], height[i] = sequence.low, sequence.height
            else:
                later = self._longest - lookback
                low[i], height[i] = (values[later:] for values in window_scales(sequence.prices, lookback))
                height[i][height[i] == 0] = 1
        # Variables, since a strategy keeps a copy of each on every device.
        self._prices, self._low, self._height, self._labels = (
            tf.Variable(cast(Any, values), trainable=False)  # the stubs know of tensors alone
            for values in (sequence.prices, low.reshape(-1), height.reshape(-1), sequence.labels)
        )
        weights = loss_weights(sequence, train_on)
        self._loss_weights = None if weights is None else tf.Variable(cast(Any, weights), trainable=False)
        self._dtype, self._offset = precision, CENTRE if centred else 0.0

    @graph(jit_compile=True)
    def labels(self, starts):
        """Labels int64 (orders, batch) of start rows (batch, orders)."""
        return tf.cast(tf.gather(self._labels, tf.transpose(starts)), tf.int64)

    def loss_weights(self, starts):
        """Of start rows (batch, orders) how much each window's loss counts, float32 (orders, batch); None: alike."""
        return None if self._loss_weights is None else tf.gather(self._loss_weights, tf.transpose(starts))

    def cutter(self, kinds: Sequence[tuple[int, int]]) -> Any:
        """A function that cuts windows (kinds, batch, longest lookback) at start rows (batch, orders).

        Args:
            kinds: of windows: which of the orders, and the lookback; shorter ones have zeros before their prices.
        """
        orders = np.array([order for order, _ in kinds], np.int32)
        lookbacks = np.array([lookback for _, lookback in kinds])
        tables = np.searchsorted(self._lookbacks, lookbacks).astype(self.start_type) * self._count
        offsets = np.arange(self._longest, dtype=self.start_type)
        inside = (offsets >= self._longest - lookbacks[:, None])[:, None, :]

        @graph(jit_compile=True)
        def cut(starts):
            starts = tf.cast(tf.gather(tf.transpose(starts), orders), self.start_type)
            prices = tf.gather(self._prices, starts[..., None] + offsets)
            scales = starts + tables[:, None]
            low, height = (tf.gather(values, scales)[..., None] for values in (self._low, self._height))
            windows = normalised(prices, low, height, lambda x: tf.cast(x, tf.float32)) - self._offset
            # What lies before a shorter window is out of its scale, and may be any number.
            return tf.cast(windows if inside.all() else tf.where(inside, windows, 0.0), self._dtype)

        return cut


class StackedSteps:
    """What the steps of several networks are made of; an `Arithmetic` for a loop.

    Args:
        networks: the settings of each, which differ in nothing but `ml.settings.VARIED`.
        instance: the devices and what is chosen for them.
        widest: lookback and nodes that all are filled up to.
        batch_size: windows in a step.
        windows: training windows in an epoch.
        train: cuts training windows.
        validation: cuts validation windows.

    Attributes:
        start_type, networks, orders: as `loop.Arithmetic` has them.
        seeds: the seed of each order, which the networks of that seed share.
        variables: the weights, kernels (networks, in, out) and biases (networks, 1, out) in order.
        optimizer: their update rule, with its slots.
    """

    def __init__(
        self,
        networks: Sequence[Settings],
        instance: Instance,
        *,
        widest: tuple[int, int],
        batch_size: int,
        windows: int,
        train: StackedWindows,
        validation: StackedWindows,
    ):
        self._settings = networks[0]
        self.networks = (len(networks),)
        self.seeds = sorted({network.seed for network in networks})
        self.orders = (len(self.seeds),)
        self.start_type: Any = max(train.start_type, validation.start_type, key=lambda kind: np.dtype(kind).itemsize)
        self._whole_batch = float(min(batch_size, windows))
        self._train, self._validation = train, validation
        self._order_of = np.array([self.seeds.index(network.seed) for network in networks], np.int32)
        kinds = [(int(order), network.lookback) for order, network in zip(self._order_of, networks, strict=True)]
        self._cut, self._kind_of = _cutter(train, kinds)
        self._cut_held_out, self._kind_held_out = _cutter(validation, [(0, each.lookback) for each in networks])
        self._units = _column([network.nodes for network in networks], np.int32)
        dropouts = [network.dropout for network in networks]
        self._dropped = _column([round(dropout * 2**32) for dropout in dropouts], np.uint32)
        self._kept_share = _column([1 - dropout for dropout in dropouts], np.float32)
        self._smoothing = np.array([network.label_smoothing for network in networks], np.float32)[:, None]
        with instance.strategy.scope():
            self.variables = [
                keras.Variable(values, name="bias" if i % 2 else "kernel")
                for i, values in enumerate(stacked_weights(networks, widest))
            ]
            steps = -(-windows // batch_size)
            self.optimizer = build_stacked_optimizer(networks, steps, self.variables)
        self._weights = [variable.value for variable in self.variables]

    def gradients(self, starts, keys, rows, used=None):
        """The losses' gradient by each weight, and each network's sums of the loss and of the windows predicted right.

        Args:
            starts: of the windows, (batch, orders).
            keys: what the dropout masks are made from, uint32, (hidden layers * orders,).
            rows: int32, (batch,): the place of each window in the whole batch.
            used: bool, (batch,): which windows count; None: all.
        """
        windows = _of_networks(self._cut(starts), self._kind_of)
        labels = tf.gather(self._train.labels(starts), self._order_of)
        keys = tf.gather(tf.reshape(keys, (-1, *self.orders)), self._order_of, axis=1)
        with tf.GradientTape() as tape:
            output, losses, correct = self._forward(windows, labels, keys, rows)
            # As `step.smoothed_losses`, of each network its own.
            margins = (output[..., 1] - output[..., 0]) * tf.cast(2 * labels - 1, tf.float32)
            smoothed = losses + self._smoothing / 2 * margins if self._smoothing.any() else losses
            if (counts := self._train.loss_weights(starts)) is not None:
                smoothed *= tf.gather(counts, self._order_of)
            loss = tf.reduce_sum(_sums(smoothed, used)) / self._whole_batch
        return tape.gradient(loss, self._weights), _sums(losses, used), _sums(tf.cast(correct, tf.float32), used)

    def measure(self, starts, rows, used=None):
        """The sums of `gradients` over validation windows (batch,), and each one's probabilities, (batch, networks)."""
        labels = tf.repeat(self._validation.labels(starts[:, None]), *self.networks, axis=0)
        output, losses, correct = self._forward(self._held_out(starts), labels, None, rows)
        return _sums(losses, used), _sums(tf.cast(correct, tf.float32), used), _buys(output)

    def predict(self, starts, rows):
        """The probabilities of buy of validation windows (batch,): float32, (batch, networks)."""
        return _buys(self._logits(self._held_out(starts), None, rows))

    def _held_out(self, starts):
        return _of_networks(self._cut_held_out(starts[:, None]), self._kind_held_out)

    def _forward(self, windows, labels, keys, rows):
        """The output (networks, batch, 2); of each network and window the loss and whether it is predicted right."""
        output = self._logits(windows, keys, rows)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, output)
        return output, losses, tf.equal(output[..., 1] > output[..., 0], labels > 0)

    def _logits(self, windows, keys, rows) -> Any:
        """As `network.logits`, of every network.

        Args:
            windows: (networks, batch, lookback), or (1, batch, lookback) where all have the same.
            keys: uint32, (hidden layers, networks); None: nothing is dropped.
            rows: int32, (batch,).
        """
        *hidden, last_kernel, last_bias, output_kernel, output_bias = self._weights
        activation = windows
        for layer, (kernel, bias) in enumerate(zip(hidden[::2], hidden[1::2], strict=True)):
            activation = self._relu_dropout(_product(activation, kernel), bias, _key(keys, layer), rows)
        product = _product(activation, last_kernel)
        return self._output(product, last_bias, output_kernel, output_bias, _key(keys, -1), rows)

    def _relu_dropout(self, product, bias, key, rows):
        share = None if key is None else self._kept_share

        @tf.custom_gradient
        def fused(product, bias):
            activation = self._activation(product, bias, key, rows)
            return activation, lambda upstream: _backward(activation, upstream, share)

        return fused(product, bias)

    def _output(self, product, bias, kernel, output_bias, key, rows):
        """The last hidden layer and the output, in one as in `network._output`."""
        share = None if key is None else self._kept_share

        @tf.custom_gradient
        def fused(product, bias, kernel, output_bias):
            activation = self._activation(product, bias, key, rows)

            def backward(upstream):
                by_kernel = tf.matmul(activation, tf.cast(upstream, activation.dtype), transpose_a=True)
                return (
                    *_backward_of_output(activation, upstream, kernel, share),
                    tf.cast(by_kernel, tf.float32),
                    tf.reduce_sum(upstream, axis=1, keepdims=True),
                )

            return tf.cast(_product(activation, kernel), tf.float32) + output_bias, backward

        return fused(product, bias, kernel, output_bias)

    def _activation(self, product, bias, key, rows):
        if key is None or not self._dropped.any():
            return _relu(product, bias)
        return _relu_and_drop(product, bias, key, rows, self._units, self._dropped, self._kept_share)


def stacked_weights(networks: Sequence[Settings], widest: tuple[int, int]) -> list[np.ndarray]:
    """The initial weights of networks as one array a layer, filled up with zeros to a lookback and nodes."""
    lookback, nodes = widest
    sizes = [lookback, *[nodes] * networks[0].layers, 2]
    found = []
    for layer in range(networks[0].layers + 1):
        found += [np.zeros((len(networks), rows, sizes[layer + 1]), np.float32) for rows in (sizes[layer], 1)]
    for network, settings in enumerate(networks):
        for layer, weights in enumerate(initial_weights(settings)):
            _own_part(settings, layer, found[layer][network])[...] = weights
    return found


def weights_of(settings: Settings, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    """One network's weights, in the order of its model's, from its part of stacked arrays; copies."""
    parts = [_own_part(settings, layer, array) for layer, array in enumerate(arrays)]
    return [(part[0] if layer % 2 else part).copy() for layer, part in enumerate(parts)]


def _own_part(settings: Settings, layer: int, array: np.ndarray) -> np.ndarray:
    """What a network fills of its part of a stacked kernel (even layers) or bias: a view, (in, out) or (1, out)."""
    columns = 2 if layer // 2 == settings.layers else settings.nodes
    if layer % 2:
        return array[:, :columns]
    # A shorter window's prices are the last ones of a longer one.
    return array[len(array) - settings.lookback :, :columns] if layer == 0 else array[: settings.nodes, :columns]


def _cutter(windows: StackedWindows, kinds: list[tuple[int, int]]) -> tuple[Any, np.ndarray]:
    """What cuts the windows of networks, each kind once, and which kind is whose."""
    distinct = sorted(set(kinds))
    return windows.cutter(distinct), np.array([distinct.index(kind) for kind in kinds])


def _of_networks(windows, kind_of: np.ndarray):
    """Windows (networks, batch, lookback) of each network's kind; of one kind they are left as they are."""
    kinds = windows.shape[0]
    if kinds == 1 or (len(kind_of) == kinds and np.array_equal(kind_of, np.arange(kinds))):
        return windows
    return tf.gather(windows, kind_of)


def _column(values: Sequence[Any], kind: Any) -> np.ndarray:
    """One number a network, (networks, 1, 1)."""
    return np.array(values, kind)[:, None, None]


def _key(keys, layer: int):
    return None if keys is None else keys[layer]


def _product(activation, kernel):
    return tf.matmul(activation, tf.cast(kernel, activation.dtype))


def _sums(values, used):
    return tf.reduce_sum(values if used is None else tf.where(used, values, 0.0), axis=1)


def _buys(output):
    probabilities: Any = tf.nn.softmax(output)  # the stubs know no ellipsis
    return tf.transpose(probabilities[..., 1])


# Compiled apart where the step is not, as in `network`.
@graph(jit_compile=True)
def _relu(product, bias):
    return tf.cast(tf.nn.relu(tf.cast(product, tf.float32) + bias), product.dtype)


@graph(jit_compile=True)
def _relu_and_drop(product, bias, key, rows, units, dropped, share):
    activation = tf.nn.relu(tf.cast(product, tf.float32) + bias)
    number = rows[None, :, None] * units + tf.range(tf.shape(product)[2])
    kept = hashed(key[:, None, None], number) >= dropped
    return tf.cast(tf.where(kept, activation / share, 0.0), product.dtype)


@graph(jit_compile=True)
def _backward(activation, upstream, share):
    upstream = tf.cast(upstream, tf.float32)
    gradient = tf.where(activation > 0, upstream if share is None else upstream / share, 0.0)
    return tf.cast(gradient, activation.dtype), tf.reduce_sum(gradient, axis=1, keepdims=True)


@graph(jit_compile=True)
def _backward_of_output(activation, upstream: Any, kernel: Any, share):
    by_activation = upstream[..., :1] * kernel[:, None, :, 0] + upstream[..., 1:] * kernel[:, None, :, 1]
    return _backward(activation, by_activation, share)
