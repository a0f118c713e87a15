"""The model, and its forward pass as training runs it.

Keras owns the weights and the files; the training step owns the arithmetic. Keras' dropout draws its
random bits one kernel at a time and takes a sixth of a step on a CPU, so the step uses a fused one: bias,
ReLU and dropout in one pass over memory, whose mask is a hash of (key, row, unit). Being a function of
numbers that a checkpoint holds, the mask survives a resume, and it does not depend on how many devices
share a batch.
"""

import functools
import itertools
from typing import Any, cast

import keras
import numpy as np
import tensorflow as tf

from ml.settings import Settings

# AutoGraph, which rewrites Python's loops and conditions over tensors, takes a second for a step that has none.
graph = functools.partial(tf.function, autograph=False)

CENTRE = 0.5  # of normalised windows


def build_network(settings: Settings) -> keras.Sequential:
    """Dense ReLU layers with dropout, softmax over sell and buy.

    Args:
        settings: lookback (inputs, one a price of the normalised window), nodes, layers, dropout, seed (of the
            initial weights), centred (whether a first layer, without weights, subtracts CENTRE from the windows).

    Returns:
        A float32 model: (batch, lookback) normalised windows in, (batch, 2) probabilities out.
    """
    model = keras.Sequential([keras.Input((settings.lookback,), name="normalised_window")], name="position")
    if settings.centred:
        model.add(keras.layers.Rescaling(1.0, offset=-CENTRE, name="centred"))
    for layer in range(settings.layers):
        seed = settings.seed + layer
        initial = _initial(seed)
        model.add(keras.layers.Dense(settings.nodes, "relu", kernel_initializer=initial, name=f"hidden_{layer + 1}"))
        if settings.dropout:
            model.add(keras.layers.Dropout(settings.dropout, seed=seed, name=f"dropout_{layer + 1}"))
    initial = _initial(settings.seed + settings.layers)
    model.add(keras.layers.Dense(2, "softmax", kernel_initializer=initial, name="sell_buy"))
    return model


def initial_weights(settings: Settings) -> list[np.ndarray]:
    """The weights of `build_network(settings)`, in order (kernel, bias, ...), without a model."""
    sizes = [settings.lookback, *[settings.nodes] * settings.layers, 2]
    weights = []
    for layer, shape in enumerate(itertools.pairwise(sizes)):
        weights += [np.asarray(_initial(settings.seed + layer)(shape)), np.zeros(shape[1], np.float32)]
    return weights


def _initial(seed: int) -> Any:  # whose type Keras' stubs take for text
    return keras.initializers.GlorotUniform(seed=seed)


def logits(weights, windows, *, dropout: float, keys, rows) -> tf.Tensor:
    """The network's output before the softmax, as in the model but fused and in mixed precision.

    Args:
        weights: the model's weights in order (kernel, bias, ...), float32.
        windows: (batch, lookback), as the first hidden layer takes them, in the precision of the multiplications.
        dropout: share of hidden units dropped; 0 to predict.
        keys: uint32, (hidden layers,): what this step's masks are made from.
        rows: int32, (batch,): the place of each window in the whole batch.

    Returns:
        float32, (batch, 2).
    """
    *hidden, last_kernel, last_bias, output_kernel, output_bias = weights
    activation = windows
    for layer, (kernel, bias) in enumerate(zip(hidden[::2], hidden[1::2], strict=True)):
        activation = _relu_dropout(_product(activation, kernel), bias, keys[layer], rows, dropout)
    output = _output(_product(activation, last_kernel), last_bias, output_kernel, output_bias, keys[-1], rows, dropout)
    return cast(tf.Tensor, output)  # the stubs take its gradient for a part of it


def _product(activation, kernel):
    return activation @ tf.cast(kernel, activation.dtype)


def _relu_dropout(product, bias, key, rows, dropout):
    """dropout(relu(product + bias)) with its gradient, each one pass over memory."""

    @tf.custom_gradient
    def fused(product, bias):
        activation = _forward(product, bias, key, rows, dropout)
        return activation, lambda upstream: _backward(activation, upstream, dropout)

    return fused(product, bias)


def _output(product, bias, kernel, output_bias, key, rows, dropout):
    """The last hidden layer's dropout(relu(product + bias)) and the output it leads to, with their gradient.

    The gradient by the hidden layer is a product with a kernel two wide: made inside the pass that needs it,
    it spares writing a whole layer's gradient and reading it again.
    """

    @tf.custom_gradient
    def fused(product, bias, kernel, output_bias):
        activation = _forward(product, bias, key, rows, dropout)

        def backward(upstream):
            by_kernel = tf.matmul(activation, tf.cast(upstream, activation.dtype), transpose_a=True)
            return (
                *_backward_of_output(activation, upstream, kernel, dropout),
                tf.cast(by_kernel, tf.float32),
                tf.reduce_sum(upstream, axis=0),
            )

        return tf.cast(_product(activation, kernel), tf.float32) + output_bias, backward

    return fused(product, bias, kernel, output_bias)


# XLA compiles these even where the step is not compiled: there they are single loops over memory
# between multiplications that other kernels do faster.
@graph(jit_compile=True)
def _forward(product, bias, key, rows, dropout):
    activation = tf.nn.relu(tf.cast(product, tf.float32) + bias)
    if dropout:
        kept = _hash(key, rows, tf.shape(product)[1]) >= tf.constant(round(dropout * 2**32), tf.uint32)
        activation = tf.where(kept, activation / (1 - dropout), 0.0)
    return tf.cast(activation, product.dtype)


@graph(jit_compile=True)
def _backward(activation, upstream, dropout):
    # A unit passed its gradient on where it was kept and above zero, which is where its output is not 0.
    gradient = tf.where(activation > 0, tf.cast(upstream, tf.float32) / (1 - dropout), 0.0)
    return tf.cast(gradient, activation.dtype), tf.reduce_sum(gradient, axis=0)


@graph(jit_compile=True)
def _backward_of_output(activation, upstream, kernel, dropout):
    return _backward(activation, upstream[:, :1] * kernel[:, 0] + upstream[:, 1:] * kernel[:, 1], dropout)


def _hash(key, rows, units):
    """A uniform uint32 for each (row, unit)."""
    return hashed(key, rows[:, None] * units + tf.range(units))


def hashed(key, number):
    """A uniform uint32 for each int32 number: an integer hash of it and the key.

    Shifts and factors are those of a 32-bit mixer found by search and listed in C. Wellons' hash-prospector
    (public domain): every input bit changes every output bit with probability near one half.
    """
    mixed = tf.bitwise.bitwise_xor(tf.bitcast(number, tf.uint32) * tf.constant(0x9E3779B9, tf.uint32), key)
    for shift, factor in ((16, 0x21F0AAAD), (15, 0xD35A2D97)):
        mixed = _shift_xor(mixed, shift) * tf.constant(factor, tf.uint32)
    return _shift_xor(mixed, 15)


def _shift_xor(number, bits):
    return tf.bitwise.bitwise_xor(number, tf.bitwise.right_shift(number, tf.constant(bits, tf.uint32)))
