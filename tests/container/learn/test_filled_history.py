"""A network trained on a forward-filled copy of real prices is worth what one trained on the prices themselves is."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from judging import MINUTE
from ml.judge.judging import instruments_of
from ml.judge.performance import MODEL, measure
from ml.learn.fold_training import Places, train_fold
from ml.learn.folds import folds_of
from ml.optimal_position import labelled
from trainings import SMALL, Stop, cpu

CONFIG = dataclasses.replace(
    SMALL, lookback=60, horizon=60, nodes=32, epochs=3, batch_size=512, spread=0.5, validation_fraction=0.55
)


def performance_of(history):
    frame = labelled(history, CONFIG.horizon, CONFIG.spread, CONFIG.max_gap)
    (fold,) = folds_of(frame, CONFIG)
    trained = train_fold(CONFIG, cpu(), "hash", Places("job"), Stop(), fold)
    return measure(instruments_of(fold, trained.predict()), CONFIG, MINUTE)


def minutes_missing(shared):
    """A month of which 2.9 % of the minutes are missing, here and there."""
    return pd.read_parquet(shared / "data/btcjpy_minutely_bid_ask_2018-01.parquet")


def weekends_missing(shared):
    """A month without its weekends."""
    month = pd.read_parquet(shared / "data/xbtusd_minutely_2017-06_2020-06.parquet").loc["2019-04"]
    return month[month.index.day_of_week < 5]


@pytest.mark.slow
@pytest.mark.parametrize("history_of", [minutes_missing, weekends_missing])
def test_a_filled_copy_has_the_verdict_and_the_scores_of_the_history(shared, history_of):
    history = history_of(shared)
    filled = history.reindex(pd.date_range(history.index[0], history.index[-1], freq="min", name="dt")).ffill()
    assert len(filled) > 1.029 * len(history)
    one, other = performance_of(history), performance_of(filled)
    print(one.verdict, other.verdict, sep="\n")
    assert one.verdict.split(" the best baseline")[0] == other.verdict.split(" the best baseline")[0]
    assert one.best_baseline.split(" of ")[0] == other.best_baseline.split(" of ")[0]
    assert one.profit_verdict.split(": ")[-1] == other.profit_verdict.split(": ")[-1]
    pairs = [(mine, other.scores[MODEL][name]) for name, mine in one.scores[MODEL].items()]
    for mine, theirs in [*pairs, (one.trading[MODEL]["pnl"], other.trading[MODEL]["pnl"])]:
        noise = np.hypot(mine.high - mine.value, theirs.high - theirs.value)  # of the difference of two networks
        assert mine.value == pytest.approx(theirs.value, abs=noise)
