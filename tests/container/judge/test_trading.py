import dataclasses

import numpy as np
import pytest

from judging import MINUTE, SMALL, market
from ml.judge.instruments import Instrument
from ml.judge.performance import MODEL, measure
from ml.judge.scores import Prediction
from ml.judge.trading import positions, profit
from ml.settings import Settings


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
    earned_with = Instrument(history, 2000, np.random.default_rng(1).uniform(size=9000))
    found = measure([earned_with], Settings(lookback=60), MINUTE)
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
