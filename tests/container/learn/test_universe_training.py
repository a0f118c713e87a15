"""Training on several instruments with gaps: resumable bit for bit, whatever the type of the starts."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from ml.data.sample_market import sample_universe
from ml.learn.fold_training import Places, train_fold
from ml.learn.folds import folds_of
from ml.optimal_position import optimal_positions
from ml.train_sequence import TrainSequence
from trainings import SMALL, Stop, cpu, same_weights, without_speed

CONFIG = dataclasses.replace(SMALL, horizon=20, max_gap="2h", validation_fraction=0.3)


@pytest.fixture(scope="module")
def fold():
    parts = [
        history.drop(history.index[300:700]).assign(symbol=name).iloc[: 1400 - 300 * (name == "NOISE")]
        for name, history in sample_universe(2, 1500, 4)
    ]
    frame = optimal_positions(pd.concat(parts), CONFIG.horizon, 0, CONFIG.max_gap)
    (found,) = folds_of(frame.assign(symbol=frame["symbol"].astype("category")), CONFIG)
    return found


def train(fold, folder=None, stop=None):
    return train_fold(CONFIG, cpu(), "hash", Places("job", folder), stop or Stop(), fold)


@pytest.fixture(scope="module")
def whole(fold):
    return train(fold)


def test_a_training_that_was_stopped_goes_on_to_the_same_weights(tmp_path, fold, whole):
    stopped = train(fold, tmp_path, Stop(after=3))
    assert stopped.result.stopped and not same_weights(stopped.model, whole.model)
    resumed = train(fold, tmp_path)
    assert same_weights(resumed.model, whole.model)
    assert without_speed(resumed.result.history) == without_speed(whole.result.history)


def test_starts_of_64_bits_train_the_same_weights(monkeypatch, fold, whole):
    monkeypatch.setattr("ml.train_sequence._INT32_ROWS", 100)
    assert TrainSequence(fold.train_rows, CONFIG.lookback).starts.dtype == np.int64
    wide = train(fold)
    assert same_weights(wide.model, whole.model)
    for mine, theirs in zip(wide.predict(), whole.predict(), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_rows_without_a_window_of_their_own_instrument_have_no_prediction(fold, whole):
    rows, probability = whole.predict()
    held_out = fold.validation_rows.reset_index(drop=True)
    first = held_out.groupby("symbol", observed=True).head(CONFIG.lookback - 1).index
    assert len(rows) == len(probability) and not set(first) & set(rows)
    expected = TrainSequence(fold.validation_rows, CONFIG.lookback, max_gap=CONFIG.max_gap, skip_flat=True)
    windows = expected.windows(expected.starts)
    np.testing.assert_allclose(whole.model.predict(windows, verbose=0)[:, 1], probability, atol=2e-6)
