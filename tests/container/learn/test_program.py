import dataclasses

import numpy as np
import pytest

from ml.learn.checkpoints import CheckpointFolder
from ml.learn.program import _Pace
from trainings import REGULARISED, SMALL, Stop, cpu, fit, same_weights, silent, trainer_of, without_speed


def one_program(precision="float32"):
    return cpu(precision=precision, one_program=True)


def losses(settings, instance):
    _, trainer = trainer_of(settings, instance=instance)
    result = trainer.fit(report=silent)
    history = [value for epoch in without_speed(result.history) for value in epoch.values()]
    return np.array(history), trainer.probabilities(), trainer


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "precision"),
    [
        *(({"optimizer": name}, "float32") for name in ("adam", "adamw", "nadam", "rmsprop", "sgd")),
        *(({}, precision) for precision in ("bfloat16", "float16")),
        ({"batch_size": 74}, "float32"),  # leaves one window of 1481
        ({"batch_size": 2000}, "float32"),  # more than there are
        ({"layers": 1, "dropout": 0.0, "label_smoothing": 0.0}, "float32"),
    ],
    ids=str,
)
def test_one_program_gives_the_losses_of_the_pieces(changes, precision):
    settings = dataclasses.replace(REGULARISED, **changes)
    expected, expected_probabilities, _ = losses(settings, cpu(precision=precision))
    found, probabilities, trainer = losses(settings, one_program(precision))
    tolerance = {"float32": 1e-4, "bfloat16": 0.03, "float16": 5e-3}[precision]
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)
    np.testing.assert_allclose(probabilities, expected_probabilities, rtol=0, atol=3 * tolerance)
    assert [trainer.loop._call.experimental_get_tracing_count()] == [1]
    assert [trainer.loop._evaluate.experimental_get_tracing_count()] == [1]


@pytest.mark.slow
@pytest.mark.parametrize("after", [1, 3, 8])
def test_a_resume_of_one_program_is_bit_for_bit_wherever_its_calls_begin(tmp_path, monkeypatch, after):
    uninterrupted, expected, _ = fit(REGULARISED, instance=one_program())
    monkeypatch.setattr(_Pace, "adapt", lambda self, *_: setattr(self, "steps", 7))  # other calls than above
    folder = CheckpointFolder(tmp_path, "job")
    _, first, _ = fit(REGULARISED, stop=Stop(after=after), checkpoints=folder, instance=one_program())
    assert first.stopped
    resumed, result, lines = fit(REGULARISED, checkpoints=folder, instance=one_program())
    assert "resuming in epoch" in lines[0]
    assert same_weights(resumed, uninterrupted)
    assert without_speed(result.history) == without_speed(expected.history)


@pytest.mark.slow
@pytest.mark.parametrize("began_as_one", [True, False])
def test_a_resume_keeps_to_the_loop_that_the_training_began_with(tmp_path, began_as_one):
    began, other = (cpu(one_program=one) for one in (began_as_one, not began_as_one))
    uninterrupted, _, _ = fit(SMALL, instance=began)
    folder = CheckpointFolder(tmp_path, "job")
    fit(SMALL, stop=Stop(after=3), checkpoints=folder, instance=began)
    resumed, _, _ = fit(SMALL, checkpoints=folder, instance=other)
    assert same_weights(resumed, uninterrupted)
    assert not same_weights(resumed, fit(SMALL, instance=other)[0])


def on(card):
    return dataclasses.replace(cpu(), facts={"device": card, "driver": "580"})


def test_a_resume_on_another_card_is_told_and_goes_on(tmp_path):
    folder = CheckpointFolder(tmp_path, "job")
    fit(SMALL, stop=Stop(after=3), checkpoints=folder, instance=on("A"))
    _, _, same = fit(SMALL, stop=Stop(after=1), checkpoints=folder, instance=on("A"))
    assert not any("other hardware" in line for line in same)
    _, result, lines = fit(SMALL, checkpoints=folder, instance=on("B"))
    assert "made on other hardware (device A, driver 580; here device B, driver 580)" in "".join(lines)
    assert len(result.history) == 3


def test_a_checkpoint_that_names_neither_loop_nor_hardware_is_resumed_by_pieces(tmp_path):
    folder = CheckpointFolder(tmp_path, "job")
    fit(SMALL, stop=Stop(after=3), checkpoints=folder)
    found = folder.load({})
    old = {name: value for name, value in found.progress.items() if name not in ("one_program", "hardware")}
    folder.save(dataclasses.replace(found, progress=old))
    resumed, _, lines = fit(SMALL, checkpoints=folder, instance=one_program())
    assert "resuming in epoch" in lines[0]
    assert same_weights(resumed, fit(SMALL)[0])


def test_calls_grow_until_they_take_about_a_second():
    pace, sizes = _Pace(), []
    for seconds in (9.0, 0.016, 0.256, 1.1, 4.4):  # the first one compiles
        sizes.append(pace.steps)
        pace.adapt(pace.steps, seconds)
    assert [*sizes, pace.steps] == [1, 16, 256, 1000, 909, 206]
