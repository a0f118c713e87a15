import dataclasses
import json
import os
import re

import numpy as np
import pandas as pd
import pytest

from judging import MINUTE, SMALL, market
from ml.data.sample_market import sample_market
from ml.errors import UserError
from ml.judge.baselines import extremes
from ml.judge.instruments import Instrument
from ml.judge.performance import MODEL, TEST, VALIDATION, fold_row, mean_metrics, measure
from ml.metrics import FOLDS, METRICS, PERFORMANCE, performance_line
from ml.settings import Settings

SEEDS = range(int(os.environ.get("POSITION_TRAINER_SEEDS", "2")))


def test_too_few_rows_have_no_interval_and_a_verdict_that_says_so():
    history = market(6000)
    found = measure([Instrument(history, 4000, np.full(1000, 0.6))], dataclasses.replace(SMALL, horizon=20), MINUTE)
    assert np.isnan(found.scores[MODEL]["accuracy"].low)
    assert found.verdict.startswith("Too few validation minutes to compare the model with the best baseline (")
    assert "no interval from fewer than 5 blocks of 1,440 minutes" in found.verdict
    assert found.profit_verdict.endswith(": too few validation minutes to say whether that is chance.")
    json.dumps(found.as_json())


def test_a_verdict_says_which_rows_it_is_of_and_whether_they_also_chose_the_epoch():
    instruments = [Instrument(market(6000), 4000, np.full(1000, 0.6))]
    said = {
        (part, monitor): measure(instruments, dataclasses.replace(SMALL, monitor=monitor), MINUTE, part)
        for part in (VALIDATION, TEST)
        for monitor in ("val_loss", "last")
    }
    assert "on 1,000 validation minutes, which also chose the epoch," in said[VALIDATION, "val_loss"].verdict
    assert "on 1,000 validation minutes, a" in said[VALIDATION, "last"].verdict
    for monitor in ("val_loss", "last"):
        found = said[TEST, monitor]
        assert "on 1,000 test minutes, a" in found.verdict and found.as_json()["part"] == "test"
        assert set(found.metrics) == {name for name, metric in METRICS.items() if metric.group == TEST}
        assert not any(METRICS[name].goal for name in found.metrics)  # a search cannot choose by them


def test_a_model_that_diverged_is_told():
    with pytest.raises(UserError, match="the training diverged; lower learning_rate"):
        measure([Instrument(market(6000), 4000, np.full(1000, np.nan))], SMALL, MINUTE)


def test_what_is_printed_is_declared():
    history = market(30_000)
    found = measure([Instrument(history, 20_000, np.random.default_rng(1).uniform(size=9000))], SMALL, MINUTE)
    once = {name for name, metric in METRICS.items() if metric.group == PERFORMANCE}
    assert set(found.metrics) == once
    assert performance_line(found.metrics).count("=") == len(once)


def test_verdicts_count_bars_by_their_length_and_profits_by_their_digits():
    history = market(8000)
    history[["bid", "ask", "mid"]] *= 3e-9  # a coin at 0.00003
    said = {}
    for bar in (pd.Timedelta(seconds=1), pd.Timedelta(minutes=5), pd.Timedelta(hours=1)):
        history.index = pd.date_range("2024-01-01", periods=len(history), freq=bar, tz="UTC")
        found = measure([Instrument(history, 4000, np.random.default_rng(1).uniform(size=3500))], SMALL, bar)
        said[bar] = found.verdict + found.profit_verdict
        as_json = found.as_json()
        assert as_json["block_bars"] * as_json["bar_seconds"] == as_json["block_minutes"] * 60 >= 86_400
        profit = found.trading[MODEL]["pnl"].value
        (text,) = re.findall(r"earned ([-+]0\.0\d+) price units", found.profit_verdict)
        assert float(text) == pytest.approx(profit, rel=1e-3)
    assert "3,500 validation seconds" in said[pd.Timedelta(seconds=1)]
    assert "3,500 validation bars of 5 minutes" in said[pd.Timedelta(minutes=5)]
    assert "3,500 validation hours" in said[pd.Timedelta(hours=1)]
    assert all("minute" not in text.replace("bars of 5 minutes", "") for text in said.values())


def test_a_sharpe_ratio_does_not_depend_on_how_long_the_bars_are():
    history = market(30_000)
    minutely = measure([Instrument(history, 10_000, np.random.default_rng(1).uniform(size=14_400))], SMALL, MINUTE)
    held = history[-14_400:].iloc[29::30]  # the same days in bars of half an hour
    halves = pd.concat([history[:10_000], held])
    coarse = measure([Instrument(halves, 10_000, np.full(len(held), 0.9))], SMALL, pd.Timedelta(minutes=30))
    assert coarse.trading["holding"]["sharpe"] == pytest.approx(minutely.trading["holding"]["sharpe"], rel=0.1)
    assert coarse.trading["holding"]["turnover"] == pytest.approx(minutely.trading["holding"]["turnover"], rel=0.1)
    assert coarse.block == 80 and minutely.block == 1440


def test_a_fold_keeps_its_rows_and_the_scores_of_the_epoch_it_kept():
    history = market(8000)
    found = measure([Instrument(history, 4000, np.full(1000, 0.6))], SMALL, MINUTE)
    row = fold_row(
        2, (4000, 1029), history.index[-1029:], 3, {"val_loss": 0.5, "val_accuracy": 0.75, "loss": 0.4}, found
    )
    assert (row["fold"], row["train_rows"], row["validation_rows"], row["best_epoch"]) == (2, 4000, 1029, 3)
    assert row["val_loss"] == 0.5 and "loss" not in row and row["val_pnl"] == found.metrics["val_pnl"]
    assert row["first"] == str(history.index[-1029]) and row["verdict"] == found.verdict


def test_means_are_over_the_folds_and_one_fold_has_none():
    table = [dict.fromkeys(METRICS, value) for value in (1.0, 2.0)]
    assert set(mean_metrics(table).values()) == {1.5}
    assert {name for name, metric in METRICS.items() if metric.group == FOLDS} == set(mean_metrics(table))


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


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_skill_is_found_where_it_is_planted_and_nowhere_else(seed):
    rows, config = 300_000, Settings(lookback=300, spread=0.0)
    for predictability in (1.0, 0.0):
        history = market(rows, seed, predictability, config)
        places = [place_in_range(history, minutes, levels) for minutes, levels in ((300, 10), (120, 4))]
        # The best that can be known of this market, its regime; where there is none, another market's.
        regime = drift(seed if predictability else seed + 1000, rows + config.horizon)[:rows]
        probability = table_model(history, 190_000, 100_000, *places, regime)
        found = measure([Instrument(history, 190_000, probability)], config, MINUTE)
        print(seed, predictability, found.verdict, found.profit_verdict)
        if predictability:
            assert "is better than the best baseline" in found.verdict
            assert "a profit that chance does not explain" in found.profit_verdict
        else:
            assert "is better than" not in found.verdict
            assert "a profit" not in found.profit_verdict
