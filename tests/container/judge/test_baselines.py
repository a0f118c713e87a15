import dataclasses

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from judging import MINUTE, SMALL, market
from ml.data.sample_market import sample_market
from ml.judge.baselines import _RIDGE, _logistic_weights, baselines, extremes
from ml.judge.instruments import Instrument
from ml.learn.folds import folds_of
from ml.optimal_position import labelled
from ml.settings import Settings


def test_rules_say_what_they_are_named_for():
    history = market(5000)
    rules = {
        rule.name.split(" of ")[0]: rule
        for rule in baselines([Instrument(history, 4000, np.zeros(500))], SMALL, MINUTE)
    }
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
    *_, regression = baselines([Instrument(history, 4000, np.zeros(1000))], SMALL, MINUTE)
    assert np.mean(regression.buy == (history["position"] > 0)[-1000:]) > 0.97


@pytest.mark.parametrize("skill", [0.0, 1.0, 100.0], ids=["chance", "skill", "separable"])
def test_the_regressions_weights_are_those_of_scikit_learn(skill):
    linear_model = pytest.importorskip("sklearn.linear_model", reason="ffn in tests/requirements.txt brings it")
    rng = np.random.default_rng(1)
    walks = rng.normal(size=(3000, 30)).cumsum(axis=1)  # columns as alike as a window's neighbouring prices
    x = np.column_stack([walks / np.abs(walks).max(axis=1, keepdims=True), np.ones(3000)]).astype(np.float32)
    buys = skill * (x[:, 0] - x[:, 20] + 0.1) + rng.logistic(size=3000) * (skill < 100) > 0
    theirs = linear_model.LogisticRegression(C=1 / (_RIDGE * 3000), solver="newton-cholesky", tol=1e-6)
    theirs.fit(x[:, :-1], buys)
    ours = _logistic_weights(x, np.where(buys, 1.0, -1.0))
    np.testing.assert_allclose(ours, [*theirs.coef_[0], theirs.intercept_[0]], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_regression_on_one_kind_of_label_says_that_one(sign):
    x = np.column_stack([np.random.default_rng(1).random((500, 5)), np.ones(500)]).astype(np.float32)
    assert np.all(np.sign(x @ _logistic_weights(x, np.full(500, sign))) == sign)


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
            *(
                baselines([Instrument(fold.history, len(fold.train_rows), np.zeros(predicted))], config, MINUTE)
                for fold in (mine, theirs)
            ),
            strict=True,
        ):
            if known:
                assert rule.name == same.name
                np.testing.assert_array_equal(rule.probability[:known], same.probability[:known])
                np.testing.assert_array_equal(rule.buy[:known], same.buy[:known])
                checked += 1
    assert checked or moment <= len(one[0].history) - predicted


def test_the_range_rule_on_real_prices_is_as_good_as_known(shared):
    prices = pd.read_parquet(shared / "data/xbtusd_minutely_2017-06_2020-06.parquet").loc["2019-06-01":]
    history = labelled(prices, 300, 0.5)
    rules = baselines([Instrument(history, 525_000, np.zeros(42_900))], Settings(spread=0.5), MINUTE)
    labels = (history["position"] > 0).to_numpy()[-42_900:]
    accuracy = {rule.name: np.mean(rule.buy == labels) for rule in rules}
    assert accuracy["range rule of 120 minutes"] == pytest.approx(0.6695, abs=0.001)
    assert max(accuracy, key=accuracy.get) == "range rule of 120 minutes"


def test_rules_are_named_by_the_length_of_the_bars():
    history = market(5000)
    names = [
        rule.name for rule in baselines([Instrument(history, 4000, np.zeros(500))], SMALL, pd.Timedelta(minutes=5))
    ]
    assert names[2].startswith("range rule of ") and names[2].endswith(" bars of 5 minutes")
