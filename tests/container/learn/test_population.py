import dataclasses
import os
import subprocess
import sys

import numpy as np
import pytest

from ml.errors import UserError
from ml.learn.checkpoints import CheckpointFolder
from ml.learn.hosts import ONE_HOST
from ml.learn.members import best_first
from ml.learn.optimizer import StackedRates, learning_rate
from ml.learn.population_training import Population, train_members
from small_populations import POINTS, fit_population, members_at
from trainings import REGULARISED, SMALL, Stop, cpu, fit, sequence_of, without_speed


@pytest.fixture(scope="module")
def alone():
    """What came of a job of its own of each member: model and result."""
    return [fit(member.settings)[:2] for member in members_at()]


@pytest.fixture(scope="module")
def together():
    """A population that is over, for tests that only read it."""
    return fit_population(members_at())


def numbers(history):
    return [list(metrics.values()) for metrics in without_speed(history)]


def same_results(one, other):
    return all(
        without_speed(a.history) == without_speed(b.history)
        and (a.status, a.best_epoch) == (b.status, b.best_epoch)
        and all(np.array_equal(x, y) for x, y in zip(a.weights, b.weights, strict=True))
        for a, b in zip(one, other, strict=True)
    )


@pytest.mark.slow
@pytest.mark.parametrize("one_program", [False, True])
def test_members_are_what_jobs_of_their_own_train(alone, one_program):
    _, results, _ = fit_population(members_at(), instance=cpu(one_program=one_program))
    for result, (model, own) in zip(results, alone, strict=True):
        np.testing.assert_allclose(numbers(result.history), numbers(own.history), rtol=0, atol=1e-4)
        assert result.best_epoch == own.best_epoch
        for mine, theirs in zip(result.weights, model.get_weights(), strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-3)
    losses = [min(epoch["val_loss"] for epoch in own.history) for _, own in alone]
    assert best_first(results, "val_loss")[0].member.number == int(np.argmin(losses))


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adam", "adamw", "nadam", "rmsprop", "sgd"])
def test_every_optimizer_has_rates_of_each_member(optimizer):
    settings = dataclasses.replace(REGULARISED, epochs=1, optimizer=optimizer, warmup_steps=5)
    points = [{"learning_rate": 0.03}, {"learning_rate": 0.003, "weight_decay": 0.0, "warmup_steps": 0}]
    for result in fit_population(members_at(points, settings))[1]:
        own = fit(result.member.settings)[1]
        np.testing.assert_allclose(numbers(result.history), numbers(own.history), rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_the_rates_of_members_are_those_of_their_own_jobs(schedule):
    settings = dataclasses.replace(REGULARISED, schedule=schedule)
    members = members_at(
        [{"warmup_steps": 0}, {"warmup_steps": 7, "learning_rate": 0.3}, {"warmup_steps": 999}], settings
    )
    rates = StackedRates([member.settings for member in members], 24)
    for member in members:
        own = learning_rate(member.settings, 24)
        for step in (0, 1, 6, 7, 8, 11, 12, 13, 40, 71, 72, 80):
            expected = float(own(step)) if callable(own) else own
            assert float(rates(step)[member.number, 0, 0]) == pytest.approx(expected, rel=1e-5, abs=1e-9)


def test_a_population_may_be_of_one_member():
    (member,) = members_at([{"seed": 7}])
    trainer, (result,), _ = fit_population([member], halving=2)
    assert result.status == "Completed" and trainer.probabilities().shape == (381, 1)
    np.testing.assert_allclose(numbers(result.history), numbers(fit(member.settings)[1].history), rtol=0, atol=1e-5)


def test_what_members_are_filled_up_with_stays_zero(together):
    trainer, _, _ = together
    kernel = trainer._best[0]
    assert np.count_nonzero(kernel[4, :7]) == 0 and np.count_nonzero(kernel[4, 7]) == 11  # 13 prices of 20, 11 units
    assert np.count_nonzero(trainer._best[2][3, 9:]) == np.count_nonzero(trainer._best[1][3, :, 9:]) == 0


@pytest.mark.slow
def test_probabilities_are_those_of_the_members_models(together, alone):
    trainer, results, _ = together
    probabilities = trainer.probabilities()
    assert probabilities.dtype == np.float32 and probabilities.shape == (381, len(POINTS))
    for place, (result, (model, _)) in enumerate(zip(results, alone, strict=True)):
        model.set_weights(result.weights)
        settings = result.member.settings
        own = sequence_of(400, 2, settings, enable_shuffle=False, longest_lookback=settings.longest_lookback)
        expected = model.predict(own.windows(own.starts), verbose=0)[:, 1]
        np.testing.assert_allclose(probabilities[:, place], expected, rtol=0, atol=1e-5)


def test_the_lines_of_epochs_are_those_of_the_best_member_so_far(together):
    _, results, lines = together
    for epoch, line in enumerate(lines, 1):
        best = min((metrics["val_loss"], r.member.number) for r in results for metrics in r.history[:epoch])[1]
        assert line.startswith(f"epoch={epoch}/3 ")
        assert f" val_loss={results[best].history[epoch - 1]['val_loss']:.6g} " in line
        assert f" best_val_loss={min(m['val_loss'] for m in results[best].history[:epoch]):.6g} " in line


@pytest.mark.slow
def test_halving_drops_the_worse_and_does_not_touch_the_others(together):
    _, everyone, _ = together
    trainer, results, lines = fit_population(members_at(), halving=3)
    assert sorted(len(result.history) for result in results) == [1] * 5 + [2] * 2 + [3]
    assert [result.status for result in results if len(result.history) == 3] == ["Completed"]
    assert {result.status for result in results if len(result.history) < 3} == {"Pruned"}
    assert "the best 3 of 8 members go on" in lines and "the best 1 of 3 members go on" in lines
    first = [result.history[0]["val_loss"] for result in results]
    assert {r.member.number for r in results if len(r.history) > 1} == set(np.argsort(first)[:3].tolist())
    for result, whole in zip(results, everyone, strict=True):
        np.testing.assert_allclose(
            numbers(result.history), numbers(whole.history[: len(result.history)]), rtol=0, atol=1e-5
        )
    assert np.isfinite(trainer.probabilities()).all(), "members that were dropped predict as well"


DIVERGING = dataclasses.replace(SMALL, optimizer="sgd", weight_decay=1.0)
DIVERGES = {"learning_rate": 100.0}


@pytest.mark.slow
def test_a_member_that_diverges_leaves_and_the_others_go_on():
    _, expected, _ = fit_population(members_at([{}, {"seed": 7}, {"nodes": 9}, {"dropout": 0.0}], DIVERGING))
    points = [{}, {"seed": 7}, DIVERGES, {"nodes": 9}, {"dropout": 0.0}]
    trainer, results, lines = fit_population(members_at(points, DIVERGING))
    assert [result.status for result in results] == ["Completed"] * 2 + ["Diverged"] + ["Completed"] * 2
    diverged = results.pop(2)
    assert diverged.best_epoch == 0 and diverged.best == {} and len(diverged.history) == 1
    assert "member 2 leaves the population: the loss is not a finite number" in lines
    assert best_first([diverged, *results], "val_loss")[-1] is diverged
    for result, other in zip(results, expected, strict=True):
        np.testing.assert_allclose(numbers(result.history), numbers(other.history), rtol=0, atol=1e-5)
    probabilities = trainer.probabilities()
    assert np.isnan(probabilities[:, 2]).all() and np.isfinite(np.delete(probabilities, 2, axis=1)).all()


def test_start_rows_may_be_too_many_for_32_bits_in_training_alone(monkeypatch):
    members = members_at([{}, {"lookback": 13}], dataclasses.replace(REGULARISED, epochs=1))
    _, expected, _ = fit_population(members)
    monkeypatch.setattr("ml.train_sequence._INT32_ROWS", 1000)  # of 1,500 to train on and 400 to validate on
    trainer, results, _ = fit_population(members)
    assert trainer._steps.start_type == trainer._windows.start_type == np.int64 != trainer._held_out.start_type
    assert same_results(results, expected)


def test_a_population_of_which_all_diverge_is_told():
    members = members_at([DIVERGES, DIVERGES | {"seed": 2}], DIVERGING)
    _, results, _ = fit_population(members)
    with pytest.raises(UserError, match="training diverged: .* for every member of the population"):
        train_members(ONE_HOST, members, lambda _: Population(results, None, False))


@pytest.mark.slow
def test_patience_is_each_members_own():
    settings = dataclasses.replace(SMALL, epochs=12, patience=2)
    members = members_at([{"learning_rate": 0.3}, {"learning_rate": 0.001}], settings)
    _, results, _ = fit_population(members)
    assert results[0].best_epoch + 2 == len(results[0].history) < len(results[1].history)
    assert {result.status for result in results} == {"Completed"}
    for result in results:
        assert len(result.history) == len(fit(result.member.settings)[1].history)


RESUMED = [{}, {"seed": 7}, {"nodes": 9, "lookback": 13}, {"learning_rate": 0.02}]


@pytest.fixture(scope="module", params=[False, True], ids=["pieces", "program"])
def uninterrupted(request):
    """A population on one of the loops, its instance and what came of it."""
    instance = cpu(one_program=request.param)
    trainer, results, _ = fit_population(members_at(RESUMED), halving=2, instance=instance)
    return instance, results, trainer.probabilities()


@pytest.mark.slow
@pytest.mark.parametrize("after", [1, 3, 5])  # looks: in the first epoch, and where some members have been dropped
def test_a_resume_is_bit_for_bit(tmp_path, uninterrupted, after):
    instance, expected, probabilities = uninterrupted
    folder, members = CheckpointFolder(tmp_path, "job"), members_at(RESUMED)
    _, first, _ = fit_population(members, halving=2, instance=instance, stop=Stop(after=after), checkpoints=folder)
    assert "Stopped" in {result.status for result in first}
    resumed, results, lines = fit_population(members, halving=2, instance=instance, checkpoints=folder)
    assert "resuming in epoch" in lines[0]
    assert same_results(results, expected)
    np.testing.assert_array_equal(resumed.probabilities(), probabilities)


class Killed(Exception):
    """Ends a training without a word, as SIGKILL does: nothing more is saved."""


def killed_after(looks):
    stop = Stop(after=looks)

    def look():
        if stop():
            raise Killed

    return look


@pytest.mark.slow
def test_a_population_that_is_killed_ten_times_ends_in_the_same_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr("ml.learn.pieces.WINDOWS_PER_CALL", 128)  # 13 calls an epoch
    monkeypatch.setattr("ml.learn.checkpoints._SHARE", 1e9)
    members = members_at(RESUMED, dataclasses.replace(REGULARISED, checkpoint_seconds=0, epochs=4))
    whole, expected, _ = fit_population(members, halving=2)
    random, folder, kills, results = np.random.default_rng(1), CheckpointFolder(tmp_path, "job"), 0, []
    while not results:
        stop = killed_after(random.integers(1, 10)) if kills < 10 else None
        try:
            resumed, results, _ = fit_population(members, halving=2, stop=stop, checkpoints=folder)
        except Killed:
            kills += 1
    assert kills >= 5
    assert same_results(results, expected)
    np.testing.assert_array_equal(resumed.probabilities(), whole.probabilities())


@pytest.mark.slow
def test_a_finished_population_resumes_to_its_result(tmp_path):
    folder = CheckpointFolder(tmp_path, "job")
    members = members_at([{}, {"seed": 7}])
    one, results, _ = fit_population(members, checkpoints=folder)
    again, same, lines = fit_population(members, checkpoints=folder)
    assert same_results(results, same) and not [line for line in lines if line.startswith("epoch=")]
    np.testing.assert_array_equal(one.probabilities(), again.probabilities())


def test_a_checkpoint_of_a_longer_training_is_refused(tmp_path):
    folder = CheckpointFolder(tmp_path, "job")
    fit_population(members_at([{}, {"seed": 7}]), checkpoints=folder)
    with pytest.raises(UserError, match="of a longer training, in epoch 4, and epochs is 2"):
        settings = dataclasses.replace(REGULARISED, epochs=2)
        fit_population(members_at([{}, {"seed": 7}], settings), checkpoints=folder)


@pytest.mark.slow
def test_a_checkpoint_that_cannot_be_of_this_population_is_passed_over(tmp_path, capsys):
    folder = CheckpointFolder(tmp_path, "job")
    fit_population(members_at([{}, {"seed": 7}]), checkpoints=folder, identity={})
    _, results, _ = fit_population(members_at([{}, {"seed": 7}, {"seed": 8}]), checkpoints=folder, identity={})
    assert "is damaged (its progress does not fit this training) and is passed over" in capsys.readouterr().out
    assert len(results) == 3 and {result.status for result in results} == {"Completed"}


def test_a_stop_before_the_first_epoch_leaves_members_without_weights():
    _, results, _ = fit_population(members_at(), stop=Stop(after=0))
    assert {(result.status, result.best_epoch, len(result.history)) for result in results} == {("Stopped", 0, 0)}


def test_each_member_has_a_run_in_tensorboard(tmp_path):
    fit_population(members_at([{}, {"seed": 7}]), tensorboard=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["member-0", "member-1"]
    assert all(len(list(path.glob("events*"))) == 1 for path in tmp_path.iterdir())


@pytest.mark.slow
def test_a_lower_precision_learns_the_same():
    members = members_at(settings=dataclasses.replace(REGULARISED, epochs=6))
    full, low = (fit_population(members, instance=cpu(precision=each))[1] for each in ("float32", "bfloat16"))
    for one, other in zip(full, low, strict=True):
        assert one.best["val_loss"] == pytest.approx(other.best["val_loss"], abs=0.02)


@pytest.mark.slow
def test_several_devices_give_the_losses_of_one():
    # Logical devices must be made before TensorFlow runs, so this runs in a process of its own.
    script = """
import sys
sys.path[:0] = sys.argv[1:]
import tensorflow as tf
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2)
from small_populations import fit_population, members_at
from trainings import cpu, hide_gpus, without_speed
hide_gpus()
for count in (1, 2):
    trainer, results, _ = fit_population(members_at(), instance=cpu(count), halving=2)
    print("losses", *(value for result in results for epoch in without_speed(result.history)
                      for value in epoch.values()), *trainer.probabilities().reshape(-1))
"""
    output = subprocess.run(
        [sys.executable, "-c", script, *sys.path], capture_output=True, text=True, check=False, env=os.environ
    )
    lines = [line.split()[1:] for line in output.stdout.splitlines() if line.startswith("losses")]
    assert len(lines) == 2, output.stderr[-2000:]
    one, several = (np.array(line, float) for line in lines)
    np.testing.assert_allclose(one, several, rtol=0, atol=2e-4)
