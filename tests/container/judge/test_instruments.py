"""Several instruments judged together: what is planted is found where it is, and nothing knows the future."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from judging import MINUTE, SMALL
from ml.data.sample_market import sample_market, sample_universe
from ml.judge.baselines import baselines
from ml.judge.instruments import Instrument
from ml.judge.judging import instruments_of
from ml.judge.performance import MODEL, measure
from ml.learn.folds import folds_of
from ml.optimal_position import labelled
from ml.train_sequence import TrainSequence

CONFIG = dataclasses.replace(SMALL, lookback=30, horizon=20, validation_fraction=0.4)


def universe(histories, config=CONFIG):
    parts = [
        labelled(history, config.horizon, config.spread, config.max_gap).assign(symbol=name)
        for name, history in histories
    ]
    frame = pd.concat(parts)
    return frame.assign(symbol=frame["symbol"].astype("category"))


def held_out(frame, config=CONFIG, says=None):
    """The instruments of the only fold, with a prediction in every row that has a window."""
    (fold,) = folds_of(frame, config)
    validation = TrainSequence(
        fold.validation_rows, config.lookback, enable_shuffle=False, max_gap=config.max_gap, skip_flat=True
    )
    rows = validation.starts + config.lookback - 1
    probability = np.full(len(rows), 0.6) if says is None else says(fold.validation_rows.iloc[rows])
    return instruments_of(fold, (rows, probability))


def with_gaps(history, seed):
    rng = np.random.default_rng(seed)
    keep = np.ones(len(history), bool)
    for first in rng.integers(0, len(history), 3):
        keep[first : first + 200] = False
    return history[keep]


@pytest.mark.parametrize("seed", range(4))
def test_later_prices_change_nothing_before_them_over_gaps_and_instruments(seed):
    config = dataclasses.replace(CONFIG, max_gap="2h")
    rng = np.random.default_rng(seed)
    before = [(name, with_gaps(history, seed)) for name, history in sample_universe(3, 3000, seed)]
    moment = before[0][1].index[0] + pd.Timedelta(minutes=int(rng.integers(2000, 2900)))
    after = [
        (name, history.mul(np.where(history.index < moment, 1, rng.uniform(0.5, 2)), axis=0))
        for name, history in before
    ]
    one, other = (held_out(universe(histories, config), config) for histories in (before, after))
    for mine, theirs in zip(one, other, strict=True):
        pd.testing.assert_index_equal(mine.history.index, theirs.history.index)
        assert mine.training == theirs.training
        known = mine.history.index[-len(mine.probability) :] < moment
        np.testing.assert_array_equal(mine.probability[known], theirs.probability[known])
    times = np.concatenate([each.history.index[each.predicted] for each in one])
    checked = 0
    for rule, same in zip(*(baselines(each, config, MINUTE) for each in (one, other)), strict=True):
        assert rule.name == same.name
        known = times < moment
        np.testing.assert_array_equal(rule.probability[known], same.probability[: len(known)][known])
        checked += known.sum()
    assert checked


def test_one_instrument_is_measured_as_a_universe_of_it_is():
    history = labelled(sample_market(6000, 3), CONFIG.horizon, 0.5)
    probability = np.random.default_rng(1).uniform(size=2000)
    alone = measure([Instrument(history, 3000, probability)], CONFIG, MINUTE)
    nothing = Instrument(history.iloc[:0], 0, np.empty(0), "NEW")
    together = measure([Instrument(history, 3000, probability, "ONE"), nothing], CONFIG, MINUTE)
    assert alone.scores == together.scores and alone.gains == together.gains
    (row,) = together.instruments
    assert row.gain == alone.gains[alone.best_baseline]["accuracy"] and row.pnl == alone.trading[MODEL]["pnl"]
    assert together.trading[MODEL]["pnl"] == row.pnl_basis_points and together.unjudged == ["NEW"]
    assert "of 1 instruments" in together.verdict and "basis points" in together.profit_verdict


@pytest.mark.slow
def test_skill_planted_in_five_of_twenty_is_found_in_their_rows_and_in_no_others():
    frame = universe(sample_universe(20, 12_000, 2))
    rng = np.random.default_rng(7)
    planted = {f"SAMPLE_{number}" for number in (2, 5, 9, 14, 18)}

    def says(rows):
        right = (rows["position"] > 0).to_numpy()
        window = rows["mid"].groupby(rows["symbol"], observed=True).rolling(120, min_periods=1)
        middle = ((window.min() + window.max()) / 2).to_numpy()
        rule = rows["mid"].to_numpy() > middle
        knows = rows["symbol"].isin(planted).to_numpy() & (rng.random(len(rows)) < 0.8)
        return np.where(np.where(knows, right, rule), 0.7, 0.3)

    found = measure(held_out(frame, says=says), CONFIG, 5 * MINUTE)  # in blocks of a day of such bars
    assert {each.symbol for each in found.instruments if each.gain.low > 0} == planted
    assert {each.symbol for each in found.instruments[:5]} == planted and len(found.instruments) == 20


def test_blocks_are_the_same_times_for_all_so_instruments_that_move_together_tell_no_more_than_one():
    history = labelled(sample_market(12_000, 3), CONFIG.horizon, 0.5)
    probability = np.random.default_rng(1).uniform(size=8000)
    one = measure([Instrument(history, 3000, probability)], CONFIG, MINUTE)
    copies = [Instrument(history, 3000, probability, name) for name in "ABCDE"]
    five = measure(copies, CONFIG, MINUTE)
    for name, gain in one.gains.items():
        assert five.gains[name]["accuracy"] == pytest.approx(gain["accuracy"])
    assert five.trading[MODEL]["turnover"] == pytest.approx(5 * one.trading[MODEL]["turnover"])


@pytest.mark.slow
def test_a_forward_filled_copy_of_real_prices_has_their_verdict(shared):
    prices = pd.read_parquet(shared / "data/xbtusd_minutely_2017-06_2020-06.parquet").loc["2019-04"]
    config = dataclasses.replace(CONFIG, lookback=60, horizon=60, spread=0.5, validation_fraction=0.4)
    as_delivered = prices[prices.index.day_of_week < 5]  # as a market that closes over the weekend
    filled = as_delivered.reindex(prices.loc[as_delivered.index[0] : as_delivered.index[-1]].index).ffill()
    # What the model knows of the future it knows in the same minutes of both.
    known = pd.Series(np.random.default_rng(1).random(len(prices)) < 0.4, prices.index)
    results = []
    for history in (as_delivered, filled):
        frame = labelled(history, config.horizon, config.spread, config.max_gap)

        def says(rows):
            rule = rows["mid"] > rows["mid"].rolling(120, min_periods=1).mean()
            return np.where(np.where(known[rows.index], rows["position"] > 0, rule), 0.7, 0.3)

        results.append(measure(held_out(frame, config, says), config, MINUTE))
    one, other = results
    assert len(other.frame) > 1.2 * len(one.frame)  # the weekends
    assert other.frame["probability"].notna().sum() == pytest.approx(one.frame["probability"].notna().sum(), rel=0.15)
    assert one.verdict.split(" the best baseline")[0] == other.verdict.split(" the best baseline")[0]
    for name in ("accuracy", "log_loss", "auc"):
        mine, theirs = (each.scores[MODEL][name] for each in (one, other))
        assert mine.low < theirs.value < mine.high
    assert other.trading[MODEL]["pnl"].value == pytest.approx(
        one.trading[MODEL]["pnl"].value, abs=one.trading[MODEL]["pnl"].high - one.trading[MODEL]["pnl"].value
    )
