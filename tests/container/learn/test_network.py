import keras
import numpy as np
import pytest
import tensorflow as tf

from ml.learn.network import CENTRE, _hash, _relu_dropout, build_network, logits
from ml.settings import Settings


def weights_of(model):
    return [variable.value for variable in model.trainable_variables]


def keys(*values):
    return tf.constant(values, tf.uint32)


def test_the_network_is_dense_relu_dropout_and_a_softmax_over_two():
    model = build_network(Settings(lookback=60, nodes=16, layers=3, centred=False))
    kinds = [type(layer).__name__ for layer in model.layers]
    assert kinds == ["Dense", "Dropout"] * 3 + ["Dense"]
    centred = build_network(Settings(lookback=60, nodes=16, layers=3, centred=True))
    assert [type(layer).__name__ for layer in centred.layers] == ["Rescaling", *kinds]
    assert model.input_shape == (None, 60) and model.output_shape == (None, 2)
    np.testing.assert_allclose(model(np.random.rand(5, 60)).numpy().sum(axis=1), 1, rtol=1e-6)


def test_its_weights_follow_from_the_seed():
    one, same, other = (build_network(Settings(lookback=8, nodes=4, seed=seed)).get_weights() for seed in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(one, same, strict=True))
    assert not np.array_equal(one[0], other[0])
    assert not np.array_equal(one[2][:, :2], one[4][:4])  # nor are two layers alike


@pytest.mark.parametrize(("dropout", "centred"), [(0.0, False), (0.3, True)])
def test_the_fused_forward_predicts_what_the_keras_model_predicts(dropout, centred):
    model = build_network(Settings(lookback=20, nodes=32, dropout=dropout, seed=3, centred=centred))
    for variable in model.trainable_variables:  # biases start at 0, which would hide a missing one
        variable.assign(variable + 0.05)
    windows = np.random.default_rng(0).random((64, 20), np.float32)
    output = logits(
        weights_of(model),
        tf.constant(windows - (CENTRE if centred else 0)),
        dropout=0.0,
        keys=keys(1, 2),
        rows=tf.range(64),
    )
    np.testing.assert_allclose(tf.nn.softmax(output), model(windows, training=False), atol=1e-6)


def test_its_gradients_are_those_of_the_keras_model():
    model = build_network(Settings(lookback=20, nodes=32, dropout=0.0, seed=3, centred=False))
    windows = np.random.default_rng(0).random((64, 20), np.float32)
    labels = np.random.default_rng(1).integers(0, 2, 64)

    def gradients(forward):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(keras.losses.sparse_categorical_crossentropy(labels, forward()))
        return tape.gradient(loss, weights_of(model))

    ours = gradients(
        lambda: tf.nn.softmax(
            logits(weights_of(model), tf.constant(windows), dropout=0.0, keys=keys(1, 2), rows=tf.range(64))
        )
    )
    for own, theirs in zip(ours, gradients(lambda: model(windows)), strict=True):
        np.testing.assert_allclose(own, theirs, atol=1e-6)


@pytest.mark.parametrize("dtype", [tf.float32, tf.bfloat16, tf.float16])
def test_the_gradient_of_relu_dropout_follows_its_mask(dtype):
    product = tf.cast(tf.random.stateless_normal((64, 128), (1, 2)), dtype)
    bias = tf.constant(np.linspace(-0.5, 0.5, 128), tf.float32)
    with tf.GradientTape() as tape:
        tape.watch([product, bias])
        activation = _relu_dropout(product, bias, keys(7)[0], tf.range(64), 0.25)
        total = tf.reduce_sum(tf.cast(activation, tf.float32))
    by_product, by_bias = tape.gradient(total, [product, bias])
    passed = (activation > 0).numpy()
    np.testing.assert_allclose(tf.cast(by_product, tf.float32), passed / 0.75, rtol=1e-2)
    np.testing.assert_allclose(by_bias, (passed / 0.75).sum(axis=0), rtol=1e-2)


@pytest.mark.parametrize("dropout", [0.01, 0.2, 0.5, 0.95])
def test_dropout_drops_the_asked_share_and_keeps_the_mean(dropout):
    ones = tf.ones((1024, 512))
    dropped = _relu_dropout(ones, tf.zeros(512), keys(11)[0], tf.range(1024), dropout).numpy()
    deviation = np.sqrt(dropout * (1 - dropout) / dropped.size)
    assert abs((dropped == 0).mean() - dropout) < 5 * deviation
    assert abs(dropped.mean() - 1) < 5 * deviation / (1 - dropout)


def test_masks_of_other_keys_rows_and_units_are_independent():
    first, second = (_hash(key, tf.range(2048), 256).numpy() >= 2**31 for key in keys(1, 2))
    limit = 5 / np.sqrt(first.size)

    def correlation(a, b):
        return abs(np.mean((a - 0.5) * (b - 0.5)) * 4)

    assert correlation(first, second) < limit
    assert correlation(first[1:], first[:-1]) < limit
    assert correlation(first[:, 1:], first[:, :-1]) < limit
    per_unit, per_row = first.mean(axis=0), first.mean(axis=1)
    assert np.abs(per_unit - 0.5).max() < 6 * 0.5 / np.sqrt(2048)
    assert np.abs(per_row - 0.5).max() < 6 * 0.5 / np.sqrt(256)
