"""Training on several instruments with gaps: resumable bit for bit, whatever the type of the starts."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from ml.data.sample_market import sample_universe
from ml.learn.fold_training import Places, train_fold
from ml.learn.folds import folds_of
from ml.optimal_position import labelled, optimal_positions
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


def train(fold, folder=None, stop=None, instance=None):
    return train_fold(CONFIG, instance or cpu(), "hash", Places("job", folder), stop or Stop(), fold)


@pytest.fixture(scope="module")
def whole(fold):
    return train(fold)


def test_a_training_that_was_stopped_goes_on_to_the_same_weights(tmp_path, fold, whole):
    stopped = train(fold, tmp_path, Stop(after=3))
    assert stopped.result.stopped and not same_weights(stopped.model, whole.model)
    resumed = train(fold, tmp_path)
    assert same_weights(resumed.model, whole.model)
    assert without_speed(resumed.result.history) == without_speed(whole.result.history)


@pytest.mark.slow
@pytest.mark.parametrize("one_program", [False, True])
def test_starts_of_64_bits_train_the_same_weights(monkeypatch, fold, whole, one_program):
    instance = cpu(one_program=one_program)
    narrow = train(fold, instance=instance) if one_program else whole
    monkeypatch.setattr("ml.train_sequence._INT32_ROWS", 100)
    assert TrainSequence(fold.train_rows, CONFIG.lookback).starts.dtype == np.int64
    wide = train(fold, instance=instance)
    assert same_weights(wide.model, narrow.model)
    for mine, theirs in zip(wide.predict(), narrow.predict(), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_rows_without_a_window_of_their_own_instrument_have_no_prediction(fold, whole):
    rows, probability = whole.predict()
    held_out = fold.validation_rows.reset_index(drop=True)
    first = held_out.groupby("symbol", observed=True).head(CONFIG.lookback - 1).index
    assert len(rows) == len(probability) and not set(first) & set(rows)
    expected = TrainSequence(fold.validation_rows, CONFIG.lookback, max_gap=CONFIG.max_gap, skip_flat=True)
    windows = expected.windows(expected.starts)
    np.testing.assert_allclose(whole.model.predict(windows, verbose=0)[:, 1], probability, atol=2e-6)


def test_a_universe_has_the_training_windows_of_its_instruments_alone(fold):
    together = TrainSequence(fold.train_rows, CONFIG.lookback, max_gap=CONFIG.max_gap, skip_flat=True)
    alone = [
        TrainSequence(fold.prices.iloc[rows], CONFIG.lookback, max_gap=CONFIG.max_gap, skip_flat=True)
        for rows in fold.parts[0]
    ]
    order = together.order(3)
    known = {
        start: (window, label)
        for start, window, label in zip(order, together.windows(order), together.labels[order], strict=True)
    }
    expected = [
        (window, label)
        for each in alone
        for window, label in zip(each.windows(each.starts), each.labels[each.starts], strict=True)
    ]
    assert len(known) == len(expected) == together.num_windows
    for (window, label), (mine, same) in zip((known[start] for start in sorted(known)), expected, strict=True):
        np.testing.assert_array_equal(window, mine)
        assert label == same


LAST = dataclasses.replace(CONFIG, monitor="last")  # else labels of held-out rows choose the epoch


def trained_on(histories):
    parts = [labelled(history, LAST.horizon, 0, LAST.max_gap).assign(symbol=name) for name, history in histories]
    frame = pd.concat(parts)
    (found,) = folds_of(frame.assign(symbol=frame["symbol"].astype("category")), LAST)
    return found, train_fold(LAST, cpu(), "hash", Places("job"), Stop(), found)


@pytest.fixture(scope="module")
def before():
    histories = [
        (name, history.drop(history.index[[*range(300, 700), *range(1250, 1250 + 10 * len(name))]]))
        for name, history in sample_universe(3, 1500, 4)
    ]
    return histories, *trained_on(histories)


@pytest.mark.parametrize("minutes", [0, 200])
def test_later_prices_change_neither_the_network_nor_what_it_predicted_before_them(before, minutes):
    histories, fold, trained = before
    moment = fold.split.held_out_begin + pd.Timedelta(minutes=minutes)
    rng = np.random.default_rng(minutes)
    changed, other = trained_on(
        (name, history.mul(np.where(history.index < moment, 1, rng.uniform(0.5, 2, len(history))), axis=0))
        for name, history in histories
    )
    assert changed.split == fold.split and changed.parts == fold.parts
    assert same_weights(trained.model, other.model)
    (rows, probability), (same_rows, same) = trained.predict(), other.predict()
    earlier, same_earlier = (fold.held_out.index[each] < moment for each in (rows, same_rows))
    np.testing.assert_array_equal(rows[earlier], same_rows[same_earlier])
    np.testing.assert_array_equal(probability[earlier], same[same_earlier])
    assert earlier.any() == (minutes == 200) and not np.array_equal(probability, same)
