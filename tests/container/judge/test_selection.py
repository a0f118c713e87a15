"""Luck among many tries, against independent implementations where they are installed."""

import numpy as np
import pandas as pd
import pytest

from ml.judge.bootstrap import Bootstrap
from ml.judge.selection import deflated_sharpe, expected_best_sharpe, overfitting_probability, spa_p_value


def tries(seed, days=320, count=12, skill=0.0):
    """Daily results of tries; the first has the skill."""
    results = np.random.default_rng(seed).normal(size=(days, count))
    results[:, 0] += skill
    return results


@pytest.fixture
def ffn():
    return pytest.importorskip("ffn", reason="ffn is in tests/requirements.txt: make test installs it")


@pytest.mark.parametrize("seed", range(5))
def test_the_deflated_sharpe_ratio_is_that_of_ffn(ffn, seed):
    results = tries(seed, skill=0.15)
    sharpes = results.mean(axis=0) / results.std(axis=0, ddof=1)
    expected = ffn.core.calc_deflated_sharpe_ratio(
        pd.Series(results[:, 0]), sharpes, nperiods=1, annualized_trials=False
    )
    assert deflated_sharpe(results[:, 0], sharpes) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("blocks", [4, 8])
@pytest.mark.parametrize("seed", range(3))
def test_the_probability_of_overfitting_is_that_of_ffn(ffn, seed, blocks):
    results = tries(seed, days=83, count=7, skill=0.1 * seed)
    expected = ffn.core.calc_prob_backtest_overfitting(pd.DataFrame(results), blocks)
    assert overfitting_probability(results, blocks) == pytest.approx(expected)


@pytest.mark.parametrize("skill", [0.0, 0.06, 0.12])
def test_the_spa_p_value_is_near_that_of_arch(skill):
    bootstrap = pytest.importorskip("arch.bootstrap", reason="arch is in tests/requirements.txt")
    days = 1000
    gains = np.random.default_rng(3).normal(size=(days, 10)) - np.r_[0.0, np.linspace(0, 0.5, 9)]
    gains[:, 0] += skill
    theirs = bootstrap.SPA(np.zeros(days), -gains, block_size=10, reps=1000, bootstrap="circular", seed=1)
    theirs.compute()
    assert spa_p_value(gains, Bootstrap(days, 10)) == pytest.approx(theirs.pvalues["consistent"], abs=0.05)


def test_skill_is_told_from_luck():
    lucky, skilled = tries(0), tries(0, skill=0.4)
    rows = Bootstrap(len(lucky), 5)
    assert spa_p_value(lucky, rows) > 0.2 > 0.01 > spa_p_value(skilled, rows)
    assert overfitting_probability(skilled, 8) < 0.05 < 0.3 < overfitting_probability(lucky, 8)


def test_without_skill_choosing_is_guessing():
    found = [overfitting_probability(tries(seed, days=160), 8) for seed in range(60)]
    assert np.mean(found) == pytest.approx(0.5, abs=0.08)


def test_more_tries_raise_the_bar():
    few, many = (expected_best_sharpe(np.random.default_rng(0).normal(size=count)) for count in (10, 1000))
    assert 1.0 < few < 2.2 < 3.0 < many < 3.6
    assert expected_best_sharpe([0.5]) == 0.0
    known = np.random.default_rng(0).normal(size=10)
    assert expected_best_sharpe(known, tries=1000) > 1.5 * expected_best_sharpe(known) > 0
    assert expected_best_sharpe(known, tries=10) == expected_best_sharpe(known)


def test_what_cannot_be_told_is_nan():
    assert np.isnan(deflated_sharpe(np.ones(50), [0.1, 0.2]))
    assert np.isnan(deflated_sharpe(np.arange(3.0), [0.1, 0.2]))
    assert np.isnan(overfitting_probability(tries(0)[:, :1]))
    assert np.isnan(overfitting_probability(tries(0, days=20)))
    assert np.isnan(overfitting_probability(np.ones((320, 3))))
    assert np.isnan(spa_p_value(tries(0, days=20), Bootstrap(20, 10)))
