import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ml.data.sample_market import sample_market
from ml.errors import UserError
from ml.learn.fold_training import Places, identity_of, predicted, train_fold
from ml.learn.folds import Fold, folds_of, refit_fold
from ml.optimal_position import labelled
from ml.settings import SETTINGS, Settings
from trainings import Stop, cpu, same_weights


def never():
    return False


LAST = Fold(1, 1, pd.DataFrame(), None)
SMALL = Settings(lookback=20, horizon=50, nodes=8, epochs=1, batch_size=512)


def another(name, settings):
    """Another value of a setting than the one that a job has."""
    value = getattr(settings, name)
    if SETTINGS[name].metadata["choices"]:
        return next(choice for choice in SETTINGS[name].metadata["choices"] if choice != value)
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value + 1
    return f"{value}x"


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
@pytest.mark.parametrize("name", SETTINGS)
def test_a_checkpoint_is_of_the_settings_that_change_the_weights_and_no_others(name, schedule):
    settings = Settings(schedule=schedule, precision="float32")
    changed = dataclasses.replace(settings, **{name: another(name, settings)})
    changes = SETTINGS[name].metadata["changes_weights"]
    expected = schedule == "cosine" if name == "epochs" else changes
    same = identity_of(settings, settings.precision, "hash", LAST) == identity_of(
        changed, changed.precision, "hash", LAST
    )
    assert same == (not expected)


def test_the_identity_is_the_one_that_earlier_checkpoints_hold():
    assert identity_of(Settings(), "float32", "hash", LAST) == {
        "lookback": 240,
        "horizon": 300,
        "max_gap": "4d",
        "nodes": 128,
        "layers": 2,
        "dropout": 0.2,
        "centred": True,
        "batch_size": 1024,
        "learning_rate": 0.001,
        "warmup_steps": 50,
        "schedule": "cosine",
        "weight_decay": 0.0,
        "label_smoothing": 0.0,
        "optimizer": "adam",
        "seed": 1,
        "validation_fraction": 0.1,
        "test_fraction": 0.1,
        "monitor": "val_loss",
        "epochs": 5,
        "precision": "float32",
        "data": "hash",
    }


def test_an_earlier_fold_is_another_training_than_the_last():
    folds = [Fold(number, 2, pd.DataFrame(), None) for number in (1, 2)]
    first, last = (identity_of(Settings(), "float32", "hash", fold) for fold in folds)
    assert first == last | {"fold": "1 of 2"} and last == identity_of(Settings(), "float32", "hash", LAST)


@pytest.fixture(scope="module")
def fold():
    return folds_of(labelled(sample_market(rows=1500, seed=3), 50, 0.0), SMALL)[0]


def test_a_new_setting_is_taken_to_change_the_weights_unless_it_says_otherwise(tmp_path, fold):
    # As a developer adds one: with `_setting`, and without a word about checkpoints.
    from ml.settings import _setting

    more = dataclasses.make_dataclass(
        "More",
        [("sharpness", int, _setting(1, "made up")), ("colour", int, _setting(1, "", changes_weights=False))],
        bases=(Settings,),
        frozen=True,
    )
    one = more(**dataclasses.asdict(SMALL))

    def train(settings):
        return train_fold(settings, cpu(), "hash", Places("job", tmp_path), never, fold)

    first = train(one)
    assert same_weights(train(dataclasses.replace(one, colour=2)).model, first.model)
    with pytest.raises(UserError, match="of another training: sharpness was 1 and is 2"):
        train(dataclasses.replace(one, sharpness=2))


def test_what_a_model_says_of_held_out_rows_is_what_its_training_measured(fold):
    trained = train_fold(SMALL, cpu(), "hash", Places("job"), never, fold)
    rows, probability = trained.predict()
    found_rows, found = predicted(trained.model, SMALL, cpu(), fold)
    np.testing.assert_array_equal(found_rows, rows)
    np.testing.assert_allclose(found, probability, atol=1e-6)
    history = trained.result.history[trained.result.best_epoch - 1]
    labels = fold.held_out["position"].to_numpy()[found_rows] > 0
    assert np.mean((found > 0.5) == labels) == pytest.approx(history["val_accuracy"], abs=1e-5)


def test_a_refit_trains_every_row_as_the_kept_epochs_were_trained(fold):
    settings = dataclasses.replace(SMALL, epochs=4, schedule="cosine", learning_rate=0.01, monitor="last")
    everything = Fold(1, 1, fold.prices, None)
    whole = train_fold(settings, cpu(), "hash", Places("job"), never, everything).result.history
    refit = train_fold(settings, cpu(), "hash", Places("job"), never, refit_fold(fold, 2)).result
    assert (refit.best_epoch, len(refit.history)) == (2, 2)
    assert [epoch["loss"] for epoch in refit.history] == [
        epoch["loss"] for epoch in whole[:2]
    ]  # the same learning rates
    shorter = dataclasses.replace(settings, epochs=2)
    other = train_fold(shorter, cpu(), "hash", Places("job"), never, everything).result.history
    assert other[1]["loss"] != refit.history[1]["loss"]


@pytest.mark.slow
def test_a_refit_that_was_stopped_goes_on_from_checkpoints_of_its_own(tmp_path, fold):
    settings, places = dataclasses.replace(SMALL, epochs=3), Places("job", tmp_path)
    train_fold(settings, cpu(), "hash", places, never, fold)
    refit = refit_fold(fold, 2)
    undisturbed = train_fold(settings, cpu(), "hash", Places("job"), never, refit)
    stopped = train_fold(settings, cpu(), "hash", places, Stop(after=3), refit)
    assert stopped.result.stopped and list((tmp_path / "job/refit-2").glob("*.ckpt"))
    resumed = train_fold(settings, cpu(), "hash", places, never, refit)
    assert same_weights(resumed.model, undisturbed.model)
    train_fold(settings, cpu(), "hash", places, never, refit_fold(fold, 3))  # of other epochs: another training


WITHOUT_TOOLKIT = """
import sys
class Absent:
    def find_spec(name, *_):
        if name.partition(".")[0] in ("sagemaker_training", "sagemaker"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent)
from ml.data.sample_market import sample_market
from ml.learn.fold_training import Places, train_fold
from ml.learn.folds import folds_of
from ml.optimal_position import labelled
from ml.platform.hardware import find_instance
from ml.settings import Settings
settings = Settings(lookback=20, horizon=50, nodes=8, epochs=1, batch_size=512)
history = labelled(sample_market(rows=1500, seed=3), 50, 0.0)
fold = folds_of(history, settings)[0]
trained = train_fold(settings, find_instance("auto"), "hash", Places("notebook"), lambda: False, fold)
print("epochs", len(trained.result.history), "platform" if "ml.platform.failure" in sys.modules else "")
"""


@pytest.mark.slow
def test_it_trains_where_sagemakers_toolkit_is_not_installed():
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TOOLKIT],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[3] / "container")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines()[-1].split() == ["epochs", "1"]


def test_the_room_of_learning_names_no_other_room():
    room = Path(__file__).resolve().parents[3] / "container/ml/learn"
    for path in room.glob("*.py"):
        for other in ("platform", "judge", "deliver", "data"):
            assert f"ml.{other}" not in path.read_text().replace("`ml.platform.hardware`", ""), path
