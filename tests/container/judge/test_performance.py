import dataclasses
import json
import os

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml.data.sample_market import sample_market
from ml.errors import UserError
from ml.judge.performance import (
    MODEL,
    Prediction,
    _Draws,
    _scores,
    baselines,
    extremes,
    measured,
    positions,
    profit,
)
from ml.learn.folds import folds_of
from ml.metrics import METRICS, performance_line
from ml.optimal_position import labelled
from ml.settings import Settings

SMALL = Settings(lookback=30, horizon=20, spread=0.5, validation_fraction=0.2)
SEEDS = range(int(os.environ.get("POSITION_TRAINER_SEEDS", "2")))


def market(rows, seed=1, predictability=1.0, config=SMALL):
    return labelled(sample_market(rows + config.horizon, seed, predictability=predictability), config.horizon, 0)


def scored(probability, labels, block=20):
    draws = _Draws(len(labels), block)
    scores = _scores(draws.sums(Prediction("any", probability, probability > 0.5), labels))
    return {name: draws.estimate(values) for name, values in scores.items()}


# Scores


def test_scores_are_those_of_their_definitions():
    rng = np.random.default_rng(1)
    probability = rng.uniform(size=2000)
    labels = rng.uniform(size=2000) < probability**2
    found = {name: estimate.value for name, estimate in scored(probability, labels).items()}
    buys, sells = probability[labels], probability[~labels]
    bins = (probability * 10).astype(int)
    assert found == pytest.approx(
        {
            "accuracy": np.mean((probability > 0.5) == labels),
            "log_loss": -np.mean(np.where(labels, np.log(probability), np.log(1 - probability))),
            "brier": np.mean((probability - labels) ** 2),
            "ece": sum(
                abs(probability[bins == i].mean() - labels[bins == i].mean()) * np.mean(bins == i) for i in range(10)
            ),
            "auc": np.mean(buys[:, None] > sells),
        },
        abs=1e-4,
    )


def test_ties_and_certainty_have_scores():
    labels = np.arange(200) % 2 == 0
    constant = scored(np.full(200, 0.5), labels)
    assert constant["auc"].value == 0.5 and constant["accuracy"].value == 0.5
    perfect = scored(labels.astype(float), labels)
    assert perfect["auc"].value == perfect["accuracy"].value == 1 and np.isfinite(perfect["log_loss"].value)
    assert np.isnan(scored(np.full(200, 0.4), np.ones(200, bool))["auc"].value)


@pytest.mark.slow
def test_an_interval_holds_the_truth_as_often_as_it_says():
    rng, hits = np.random.default_rng(2), 0
    for _ in range(100):
        noise = pd.Series(rng.normal(size=2000)).rolling(40, min_periods=1).sum()  # right and wrong come in runs
        estimate = scored(np.full(2000, 0.9), noise.to_numpy() > 0, block=100)["accuracy"]
        hits += estimate.low <= 0.5 <= estimate.high
    assert 0.89 <= hits / 100 <= 0.99


def test_runs_widen_an_interval():
    rng = np.random.default_rng(3)
    labels = np.repeat(rng.uniform(size=40) < 0.5, 100)
    in_runs, spread_out = (
        scored(np.full(4000, 0.9), each, block=200)["accuracy"] for each in (labels, rng.permutation(labels))
    )
    assert in_runs.value == spread_out.value
    assert in_runs.high - in_runs.low > 3 * (spread_out.high - spread_out.low)


def test_longer_parts_are_drawn_in_larger_cells_to_the_same_intervals(monkeypatch):
    labels = np.repeat(np.random.default_rng(3).uniform(size=200) < 0.5, 100)
    fine = scored(np.full(20_000, 0.9), labels, block=1000)["accuracy"]
    monkeypatch.setattr("ml.judge.performance._MOST_CELLS", 100)
    coarse = scored(np.full(20_000, 0.9), labels, block=1000)["accuracy"]
    assert coarse.value == fine.value
    assert coarse.high - coarse.low == pytest.approx(fine.high - fine.low, rel=0.1)


def test_differences_are_paired():
    rng = np.random.default_rng(4)
    labels = np.repeat(rng.uniform(size=100) < 0.5, 40)
    draws = _Draws(4000, 200)
    one, other = (
        _scores(draws.sums(Prediction("any", np.full(4000, 0.9), says), labels))["accuracy"]
        for says in (np.ones(4000, bool), np.arange(4000) % 50 > 0)
    )
    gain, alone = draws.estimate(one - other), draws.estimate(one)
    assert gain.high - gain.low < (alone.high - alone.low) / 5


def test_too_few_rows_have_no_interval_and_a_verdict_that_says_so():
    history = market(6000)
    found = measured(history, 4000, np.full(1000, 0.6), dataclasses.replace(SMALL, horizon=20))
    assert np.isnan(found.scores[MODEL]["accuracy"].low)
    assert found.verdict.startswith("The model is on too few minutes to be told from the best baseline (")
    assert "no interval from fewer than 5 blocks of 1,440 minutes" in found.verdict
    assert found.profit_verdict.endswith(": whether that is chance cannot be told.")
    json.dumps(found.as_json())


def test_a_model_that_diverged_is_told():
    with pytest.raises(UserError, match="the training diverged; lower learning_rate"):
        measured(market(6000), 4000, np.full(1000, np.nan), SMALL)


# Rules


def test_rules_say_what_they_are_named_for():
    history = market(5000)
    rules = {rule.name.split(" of ")[0]: rule for rule in baselines(history, 4000, 500, SMALL)}
    assert list(rules) == ["majority", "last known position", "range rule", "momentum", "logistic regression"]
    mid, buys = history["mid"], (history["position"] > 0).to_numpy()
    assert set(rules["majority"].buy) == {bool(buys[:4000].mean() >= 0.5)}
    np.testing.assert_array_equal(rules["last known position"].buy, buys[-520:-20])
    minutes = int(next(rule.name for rule in rules.values() if "range" in rule.name).split()[-2])
    window = mid.rolling(minutes)
    np.testing.assert_array_equal(rules["range rule"].buy, (mid > (window.min() + window.max()) / 2)[-500:])
    share = buys[:4000][(mid > (mid.rolling(minutes, 1).min() + mid.rolling(minutes, 1).max()) / 2)[:4000]].mean()
    assert rules["range rule"].probability[rules["range rule"].buy] == pytest.approx(share, abs=1e-3)


def test_logistic_regression_learns_what_is_linear_in_the_window():
    rng = np.random.default_rng(5)
    mid = 1000 + rng.normal(size=6000).cumsum()
    low, high = extremes(mid, 30)
    history = pd.DataFrame({"mid": mid, "position": np.where(mid - low > 0.3 * (high - low), 1.0, -1.0)})
    *_, regression = baselines(history, 4000, 1000, SMALL)
    assert np.mean(regression.buy == (history["position"] > 0)[-1000:]) > 0.97


@settings(max_examples=15, deadline=None)
@given(moment=st.integers(0, 2999), seed=st.integers(0, 5), factor=st.floats(0.5, 2), folds=st.integers(1, 3))
def test_later_prices_change_nothing_before_them(moment, seed, factor, folds):
    config = dataclasses.replace(SMALL, folds=folds)
    before = sample_market(3000, seed)
    after = before.copy()
    after.iloc[moment:] *= factor * (1 + 0.01 * np.random.default_rng(seed).random((3000 - moment, 1)))
    one, other = (folds_of(labelled(prices, config.horizon, config.spread), config) for prices in (before, after))
    checked = 0
    for mine, theirs in zip(one, other, strict=True):
        for rows in ("history", "train_rows", "validation_rows"):
            pd.testing.assert_index_equal(getattr(mine, rows).index, getattr(theirs, rows).index)
        predicted = len(mine.validation_rows) - config.lookback + 1
        known = max(0, moment - (len(mine.history) - predicted))
        for rule, same in zip(
            *(baselines(fold.history, len(fold.train_rows), predicted, config) for fold in (mine, theirs)), strict=True
        ):
            if known:
                assert rule.name == same.name
                np.testing.assert_array_equal(rule.probability[:known], same.probability[:known])
                np.testing.assert_array_equal(rule.buy[:known], same.buy[:known])
                checked += 1
    assert checked or moment <= len(one[0].history) - predicted


# Money


def test_profit_is_what_the_position_before_earned_less_half_the_spread_on_what_was_traded():
    earned = profit(np.array([1.0, 1, -1, -1, 0]), np.array([100.0, 103, 101, 100, 104]), np.full(5, 0.5))
    assert earned.tolist() == [-0.25, 3, -2 - 0.5, 1, -4 - 0.25]


def test_an_unsure_model_keeps_its_position():
    probability = np.array([0.52, 0.6, 0.45, 0.55, 0.3, 0.5])
    model = Prediction(MODEL, probability, probability > 0.5)
    assert positions(model, 0.06).tolist() == [0, 1, 1, 1, -1, -1]
    assert positions(model, 0).tolist() == [1, 1, -1, 1, -1, -1]


def test_the_optimal_position_earns_most_and_holding_what_the_price_did():
    history = market(12_000, config=dataclasses.replace(SMALL, horizon=300))
    found = measured(history, 2000, np.random.default_rng(1).uniform(size=9000), Settings(lookback=60))
    earned = {name: each["pnl"].value for name, each in found.trading.items()}
    rows = history.iloc[-9000:]
    assert earned["holding"] == pytest.approx(
        rows["mid"].iloc[-1] - rows["mid"].iloc[0] - (rows["ask"] - rows["bid"]).iloc[0] / 2
    )
    assert earned["optimal position"] == max(earned.values())
    assert found.trading["holding"]["turnover"] == pytest.approx(1 / (9000 / 1440))
    total = found.curves["holding"].to_numpy()
    assert found.trading["holding"]["max_drawdown"] == pytest.approx(
        max(max(0, total[:i].max()) - total[i] for i in range(1, 9000))
    )
    assert list(found.frame) == ["mid", "optimal_position", "probability", "prediction"]


def test_what_is_printed_is_declared():
    history = market(30_000)
    found = measured(history, 20_000, np.random.default_rng(1).uniform(size=9000), SMALL)
    once = {name for name, metric in METRICS.items() if metric.once and not name.startswith("mean_")}
    assert set(found.metrics) == once
    assert performance_line(found.metrics).count("=") == len(once)


# The verdict, where the truth is known


def table_model(history, training, predicted, *facts):
    """Probability of buy of the last rows: the share of buys among the training rows with the same facts."""
    facts = [pd.Series(fact, history.index) for fact in facts]
    share = (history["position"][:training] > 0).groupby([fact[:training] for fact in facts]).mean()
    return share.reindex(pd.MultiIndex.from_arrays([fact[-predicted:] for fact in facts])).fillna(0.5).to_numpy()


def place_in_range(history, minutes, levels):
    """Where the price is between the lowest and the highest of its last minutes: a whole number from 0."""
    mid = history["mid"].to_numpy()
    low, high = extremes(mid, minutes)
    return np.minimum(((mid - low) / np.where(high > low, high - low, 1) * levels).astype(int), levels - 1)


def drift(seed, rows):
    """-1, 0 or 1 a minute: what the simulated market's regime is, which its prices do not tell.

    Two markets of the same seed and length differ by what the drift alone has moved the price.
    """
    moved = np.log(sample_market(rows, seed)["mid"] / sample_market(rows, seed, predictability=0)["mid"])
    hour = (moved.shift(-30) - moved.shift(30)).fillna(0)
    return np.sign(hour).where(hour.abs() > 5e-4, 0).to_numpy()


@pytest.mark.parametrize("seed", SEEDS)
def test_skill_is_found_where_it_is_planted_and_nowhere_else(seed):
    rows, config = 300_000, Settings(lookback=300, spread=0.0)
    for predictability in (1.0, 0.0):
        history = market(rows, seed, predictability, config)
        places = [place_in_range(history, minutes, levels) for minutes, levels in ((300, 10), (120, 4))]
        # The best that can be known of this market, its regime; where there is none, another market's.
        regime = drift(seed if predictability else seed + 1000, rows + config.horizon)[:rows]
        probability = table_model(history, 190_000, 100_000, *places, regime)
        found = measured(history, 190_000, probability, config)
        print(seed, predictability, found.verdict, found.profit_verdict)
        if predictability:
            assert "is better than the best baseline" in found.verdict
            assert "a profit that chance does not explain" in found.profit_verdict
        else:
            assert "is better than" not in found.verdict
            assert "a profit" not in found.profit_verdict


def test_the_range_rule_on_real_prices_is_as_good_as_known(shared):
    prices = pd.read_parquet(shared / "data/xbtusd_minutely_2017-06_2020-06.parquet").loc["2019-06-01":]
    history = labelled(prices, 300, 0.5)
    rules = baselines(history, 525_000, 42_900, Settings(spread=0.5))
    labels = (history["position"] > 0).to_numpy()[-42_900:]
    accuracy = {rule.name: np.mean(rule.buy == labels) for rule in rules}
    assert accuracy["range rule of 120 minutes"] == pytest.approx(0.6695, abs=0.001)
    assert max(accuracy, key=accuracy.get) == "range rule of 120 minutes"
