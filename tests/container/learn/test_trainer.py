import dataclasses
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from ml.errors import UserError
from ml.learn.checkpoints import CheckpointFolder
from ml.learn.network import build_network
from ml.learn.step import smoothed_losses
from ml.learn.trainer import Trainer
from ml.metrics import METRICS
from ml.train_sequence import TrainSequence
from trainings import REGULARISED, SMALL, Stop, cpu, fit, same_weights, sequence_of, silent, trainer_of, without_speed


def test_it_learns_what_can_be_learned():
    _, result, _ = fit(dataclasses.replace(SMALL, epochs=15, dropout=0.0))
    assert result.history[-1]["val_accuracy"] > 0.8


def test_the_loss_is_that_of_keras_on_the_same_windows():
    settings = dataclasses.replace(SMALL, epochs=1, learning_rate=1e-12, dropout=0.0)
    model, trainer = trainer_of(settings)
    model.compile(loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    expected = model.evaluate(sequence_of(1500, 1, settings), verbose=0)
    expected_validation = model.evaluate(sequence_of(400, 2, settings), verbose=0)
    metrics = trainer.fit(report=silent).history[0]
    np.testing.assert_allclose([metrics["loss"], metrics["accuracy"]], expected, rtol=2e-5)
    np.testing.assert_allclose([metrics["val_loss"], metrics["val_accuracy"]], expected_validation, rtol=2e-5)


def test_an_epoch_is_one_line_whose_numbers_the_declared_expressions_find():
    _, result, lines = fit()
    assert [line.split()[0] for line in lines] == ["epoch=1/3", "epoch=2/3", "epoch=3/3"]
    for line, metrics in zip(lines, result.history, strict=True):
        found = {name: re.search(metric.regex, line) for name, metric in METRICS.items() if not metric.once}
        assert {name: float(match.group(1)) for name, match in found.items()} == metrics


@pytest.mark.slow
def test_the_same_seed_gives_the_same_weights_and_another_others():
    one, same, other = (fit(dataclasses.replace(SMALL, seed=seed))[0] for seed in (5, 5, 6))
    assert same_weights(one, same)
    assert not same_weights(one, other)


def test_the_weights_kept_are_those_of_the_best_epoch():
    settings = dataclasses.replace(SMALL, epochs=6, learning_rate=0.3, monitor="val_accuracy")
    model, result, _ = fit(settings)
    scores = [epoch["val_accuracy"] for epoch in result.history]
    assert result.best_epoch == 1 + int(np.argmax(scores))
    assert result.best_epoch < 6, "choose settings whose last epoch is not the best"
    model.compile(loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    accuracy = model.evaluate(sequence_of(400, 2, settings), verbose=0)[1]
    assert accuracy == pytest.approx(max(scores), abs=1e-5)
    assert result.history[-1]["best_val_accuracy"] == max(scores)


def test_the_last_epochs_weights_are_kept_where_nothing_is_to_choose():
    settings = dataclasses.replace(SMALL, epochs=6, learning_rate=0.1)
    assert fit(settings)[1].best_epoch < 6, "choose settings whose last epoch is not the best"
    _, result, _ = fit(dataclasses.replace(settings, monitor="last"))
    assert result.best_epoch == 6
    assert result.history[-1]["best_val_loss"] == result.history[-1]["val_loss"]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_probabilities_are_the_kept_models(precision, monkeypatch):
    monkeypatch.setattr("ml.learn.pieces._PREDICTED_AT_ONCE", 100)
    settings = dataclasses.replace(SMALL, epochs=6, learning_rate=0.1)
    model, trainer = trainer_of(settings, instance=cpu(precision=precision))
    result = trainer.fit(report=silent)
    sequence = sequence_of(400, 2, settings, enable_shuffle=False)
    found = trainer.probabilities()
    expected = model.predict(sequence.windows(np.arange(sequence.num_windows)), verbose=0)[:, 1]
    assert found.dtype == np.float32
    full = precision == "float32"
    np.testing.assert_allclose(found, expected, atol=1e-6 if full else 0.03)
    accuracy = np.mean((found > 0.5) == sequence.labels)
    assert accuracy == pytest.approx(result.history[-1]["best_val_accuracy"], abs=1e-5 if full else 0.01)


def test_no_later_price_changes_a_models_probability():
    settings = dataclasses.replace(SMALL, epochs=2, monitor="last")
    found = []
    for later in (1.0, 1.3):
        with cpu().strategy.scope():
            model = build_network(settings)
        validation = sequence_of(400, 2, settings, enable_shuffle=False)
        frame = pd.DataFrame({"mid": validation.prices.copy(), "position": 1.0})
        frame.loc[200:, "mid"] *= later
        validation = TrainSequence(frame, settings.lookback, settings.batch_size, enable_shuffle=False)
        trainer = Trainer(model, settings, cpu(), sequence_of(1500, 1, settings, seed=5), validation)
        trainer.fit(report=silent)
        found.append(trainer.probabilities())
    before = 200 - settings.lookback + 1
    np.testing.assert_array_equal(found[0][:before], found[1][:before])
    assert np.abs(found[0][before:] - found[1][before:]).max() > 0.01


def test_every_window_weighs_the_same_also_in_a_smaller_last_batch():
    _, trainer = trainer_of(dataclasses.replace(SMALL, dropout=0.0))

    def gradients(first, last):
        starts = np.arange(first, last, dtype=np.int32)
        keys, rows = np.zeros(SMALL.layers, np.uint32), np.arange(len(starts), dtype=np.int32)
        return trainer.steps.gradients(starts, keys, rows)[0]

    for whole, most, rest in zip(gradients(0, 64), gradients(0, 60), gradients(60, 64), strict=True):
        np.testing.assert_allclose(most + rest, whole, atol=1e-6)
        assert np.abs(whole).max() > 1e-4


def test_patience_ends_a_training_that_no_longer_improves():
    settings = dataclasses.replace(SMALL, epochs=50, learning_rate=0.3, patience=2)
    _, result, lines = fit(settings)
    assert len(result.history) == result.best_epoch + 2 < 50
    assert "val_loss has not improved for 2 epochs" in lines[-1]


def test_without_validation_it_trains_to_the_last_epoch_and_keeps_it():
    _, result, lines = fit(validated=False)
    assert result.best_epoch == 3
    assert set(result.history[0]) == {"loss", "accuracy", "windows_per_second"}
    assert "val_" not in "".join(lines)


def test_a_stop_keeps_the_best_weights_so_far():
    model, result, _ = fit(dataclasses.replace(SMALL, epochs=10_000), stop=Stop(after=6))
    assert result.stopped and 1 <= len(result.history) < 10_000
    one_epoch, _, _ = fit(dataclasses.replace(SMALL, epochs=len(result.history)))
    assert same_weights(model, one_epoch)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "after"),
    [  # an epoch is a call of 1 step, 11 of 2, two of 1
        *((SMALL, after) for after in (1, 9, 14, 20)),
        *((REGULARISED, after) for after in (2, 15)),
    ],
)
def test_a_resume_is_bit_for_bit(tmp_path, monkeypatch, settings, after):
    monkeypatch.setattr("ml.learn.pieces.WINDOWS_PER_CALL", 128)
    uninterrupted, expected, _ = fit(settings)
    folder = CheckpointFolder(tmp_path, "job")
    _, first, _ = fit(settings, stop=Stop(after=after), checkpoints=folder, identity={"data": "x"})
    assert first.stopped
    resumed, result, lines = fit(settings, checkpoints=folder, identity={"data": "x"})
    assert "resuming in epoch" in lines[0]
    assert same_weights(resumed, uninterrupted)
    assert without_speed(result.history) == without_speed(expected.history)
    assert result.best_epoch == expected.best_epoch


def test_a_resume_remembers_the_patience_already_used(tmp_path):
    settings = dataclasses.replace(SMALL, epochs=50, learning_rate=0.3, patience=2)
    uninterrupted, expected, _ = fit(settings)
    folder = CheckpointFolder(tmp_path, "job")
    looks_an_epoch = 2  # one call an epoch, looked at inside and after
    fit(settings, stop=Stop(after=looks_an_epoch * (expected.best_epoch + 1)), checkpoints=folder)
    resumed, result, _ = fit(settings, checkpoints=folder)
    assert len(result.history) == len(expected.history)
    assert same_weights(resumed, uninterrupted)


def test_a_finished_training_resumes_to_its_result(tmp_path):
    folder = CheckpointFolder(tmp_path, "job")
    one, _, _ = fit(checkpoints=folder)
    again, result, lines = fit(checkpoints=folder)
    assert same_weights(one, again) and len(result.history) == 3
    assert not [line for line in lines if line.startswith("epoch=")]


def test_a_checkpoint_of_a_longer_training_is_refused(tmp_path):
    fit(checkpoints=CheckpointFolder(tmp_path, "job"), identity={})
    with pytest.raises(UserError, match="of a longer training, in epoch 4, and epochs is 2; set it to more"):
        fit(dataclasses.replace(SMALL, epochs=2), checkpoints=CheckpointFolder(tmp_path, "job"), identity={})


def test_a_checkpoint_of_other_data_is_refused(tmp_path):
    folder = CheckpointFolder(tmp_path, "job")
    fit(checkpoints=folder, identity={"data": "x", "nodes": 16})
    with pytest.raises(UserError, match="data was 'x' and is 'y'"):
        fit(checkpoints=folder, identity={"data": "y", "nodes": 16})


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_lower_precisions_learn_the_same(precision):
    settings = dataclasses.replace(SMALL, epochs=8, dropout=0.0)
    full = fit(settings)[1].history[-1]["val_accuracy"]
    low = fit(settings, instance=cpu(precision=precision))[1].history[-1]["val_accuracy"]
    assert low == pytest.approx(full, abs=0.03) and low > 0.85


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "nadam", "rmsprop", "sgd"])
def test_every_optimizer_lowers_the_loss(optimizer):
    rate = 0.1 if optimizer == "sgd" else 0.003
    history = fit(dataclasses.replace(SMALL, optimizer=optimizer, learning_rate=rate, epochs=5))[1].history
    assert history[-1]["loss"] < history[0]["loss"]


def test_tensorboard_logs_hold_the_metrics(tmp_path):
    _, result, _ = fit(tensorboard=tmp_path)
    values = {}
    for path in tmp_path.glob("events*"):
        for record in tf.data.TFRecordDataset(str(path)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            for value in event.summary.value:
                assert value.metadata.plugin_data.plugin_name == "scalars"
                values[value.tag, event.step] = float(tf.make_ndarray(value.tensor))
    assert values["val_loss", 2] == pytest.approx(result.history[1]["val_loss"])
    assert {step for _, step in values} == {1, 2, 3}


def test_the_learning_rate_rises_to_its_full_size():
    _, trainer = trainer_of(dataclasses.replace(SMALL, warmup_steps=40))  # cut to half of the 24 steps of an epoch
    assert float(trainer.steps.optimizer.learning_rate) == pytest.approx(0.01 / 12, rel=1e-4)
    trainer.fit(report=silent)
    assert float(trainer.steps.optimizer.learning_rate) == pytest.approx(0.01, rel=1e-4)


@pytest.mark.parametrize("warmup_steps", [0, 12])
def test_a_cosine_falls_from_the_full_rate_to_zero_at_the_last_step(warmup_steps):
    _, trainer = trainer_of(dataclasses.replace(SMALL, warmup_steps=warmup_steps, schedule="cosine"))
    steps = 3 * 24  # epochs of 1481 windows in batches of 64
    rates = [float(trainer.steps.optimizer._learning_rate(step)) for step in range(steps + 1)]
    assert np.argmax(rates) == warmup_steps and max(rates) == pytest.approx(0.01)
    assert rates[(warmup_steps + steps) // 2] == pytest.approx(0.005)
    assert rates[-2] > rates[-1] == pytest.approx(0, abs=1e-9)


def test_a_training_that_diverges_from_the_start_is_told():
    with pytest.raises(UserError, match=r"training diverged: .* lower learning_rate \(100\)"):
        fit(dataclasses.replace(SMALL, optimizer="sgd", learning_rate=100.0, weight_decay=1.0, warmup_steps=0))


@pytest.mark.parametrize("monitor", ["val_loss", "val_accuracy", "last"])
def test_a_training_that_diverges_later_keeps_its_best_epoch(monitor, monkeypatch):
    model, trainer = trainer_of(dataclasses.replace(SMALL, epochs=5, monitor=monitor))
    lines, parts = [], trainer._epoch_parts

    def poisoned(progress):
        if progress.epoch == 2:
            trainer.steps.weights[0].assign(trainer.steps.weights[0] * np.nan)
        yield from parts(progress)

    monkeypatch.setattr(trainer, "_epoch_parts", poisoned)
    result = trainer.fit(report=lambda line, **_: lines.append(line))
    assert lines[-1] == "stopping early: the loss is not a finite number"
    assert len(result.history) == 3 and np.isnan(result.history[2]["loss"])
    assert result.best_epoch in (1, 2) and all(np.isfinite(weight).all() for weight in model.get_weights())


def test_weight_decay_pulls_kernels_and_leaves_biases():
    one_step = dataclasses.replace(SMALL, epochs=1, batch_size=2000, optimizer="sgd", dropout=0.0)
    initial = trainer_of(one_step)[0].get_weights()
    free, _, _ = fit(one_step, validated=False)
    held, _, _ = fit(dataclasses.replace(one_step, weight_decay=0.5), validated=False)
    for before, without, decayed in zip(initial, free.get_weights(), held.get_weights(), strict=True):
        if before.ndim == 1:
            np.testing.assert_array_equal(decayed, without)
        else:
            np.testing.assert_allclose(decayed - without, -0.01 * 0.5 * before, rtol=0, atol=1e-5)


def test_smoothed_labels_are_those_of_keras_and_the_loss_reported_is_not_smoothed():
    output = tf.constant(np.random.default_rng(1).normal(size=(50, 2)), tf.float32)
    labels = tf.constant(np.random.default_rng(2).integers(0, 2, 50))
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, output)
    expected = tf.keras.losses.categorical_crossentropy(
        tf.one_hot(labels, 2), output, from_logits=True, label_smoothing=0.3
    )
    np.testing.assert_allclose(smoothed_losses(losses, output, labels, 0.3), expected, rtol=1e-5)
    still = dataclasses.replace(SMALL, epochs=1, learning_rate=1e-12)
    plain, smoothed = (fit(dataclasses.replace(still, label_smoothing=share))[1] for share in (0.0, 0.3))
    assert without_speed(plain.history) == without_speed(smoothed.history)


def test_a_model_of_smoothed_labels_is_less_sure():
    windows, _ = sequence_of(400, 2, dataclasses.replace(SMALL, batch_size=400))[0]
    models = [fit(dataclasses.replace(SMALL, epochs=10, dropout=0.0, label_smoothing=share))[0] for share in (0, 0.4)]
    sure, less_sure = (np.median(np.max(model(windows), axis=1)) for model in models)
    assert sure > 0.95 > 0.85 > less_sure


@pytest.mark.parametrize(("devices", "batch_size"), [(2, 63), (4, 74)])  # which they cannot share; 74 leaves 1 window
@pytest.mark.slow
def test_several_devices_give_the_losses_of_one(devices, batch_size):
    # Logical devices must be made before TensorFlow runs, so this runs in a process of its own.
    script = """
import dataclasses, sys
devices, batch_size = map(int, sys.argv[1:3])
sys.path[:0] = sys.argv[3:]
import tensorflow as tf
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * devices)
from trainings import REGULARISED, cpu, hide_gpus, silent, trainer_of, without_speed
hide_gpus()
settings = dataclasses.replace(REGULARISED, batch_size=batch_size)
for count in (1, devices):
    _, trainer = trainer_of(settings, instance=cpu(count))
    result = trainer.fit(report=silent)
    print("losses", *(value for epoch in without_speed(result.history) for value in epoch.values()),
          *trainer.probabilities())
"""
    output = subprocess.run(
        [sys.executable, "-c", script, str(devices), str(batch_size), *sys.path],
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [line.split()[1:] for line in output.stdout.splitlines() if line.startswith("losses")]
    assert len(lines) == 2, output.stderr[-2000:]
    one, several = (np.array(line, float) for line in lines)
    np.testing.assert_allclose(one, several, rtol=0, atol=1e-4)
