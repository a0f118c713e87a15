import dataclasses

import numpy as np
import pytest

from judging import MINUTE, SMALL, market
from ml.judge.instruments import Instrument
from ml.judge.performance import MODEL, measure
from ml.judge.scores import Prediction
from ml.judge.trading import later, positions, profit
from ml.settings import Settings


def test_profit_is_what_the_position_before_earned_less_half_the_spread_on_what_was_traded():
    earned = profit(np.array([1.0, 1, -1, -1, 0]), np.array([100.0, 103, 101, 100, 104]), np.full(5, 0.5))
    assert earned.tolist() == [-0.25, 3, -2 - 0.5, 1, -4 - 0.25]


def test_a_fee_is_a_share_of_the_traded_price_and_a_trade_may_come_one_bar_later():
    position, mid = np.array([1.0, 1, -1]), np.array([100.0, 110, 100])
    assert profit(position, mid, np.zeros(3), fee=0.01).tolist() == [-1, 10, -10 - 2]
    assert later(position).tolist() == [0, 1, 1]
    assert profit(later(position), mid, np.zeros(3), fee=0.01).tolist() == [0, -1.1, -10]


def test_what_is_earned_one_bar_later_is_measured_beside_what_is_earned_at_once():
    history = market(12_000, config=dataclasses.replace(SMALL, horizon=300))
    follows = np.where(history["mid"].diff().shift(-1)[-9000:] > 0, 0.9, 0.1)  # knows the next bar and no more
    found = measure([Instrument(history, 2000, follows)], Settings(lookback=60, spread=0.0), MINUTE)
    trading = found.trading[MODEL]
    assert trading["pnl"].low > 0 > trading["pnl_later"].value
    assert found.profit_verdict.endswith(
        "a profit that chance does not explain, but only where every trade fills at once."
    )


def test_a_verdict_names_only_costs_that_were_paid():
    history = market(3000)[["mid", "position"]]
    for settings, said in (
        ({"spread": 0.5}, "with one unit, spread paid, earned"),
        ({"spread": 0.0, "fee": 0.0005}, "with one unit, a fee of 0.05 % paid, earned"),
        ({"spread": 0.5, "fee": 0.0005}, "with one unit, spread and a fee of 0.05 % paid, earned"),
        ({"spread": 0.0}, "with one unit, no costs paid, earned"),
    ):
        probability = np.random.default_rng(1).uniform(size=1000)
        found = measure([Instrument(history, 1500, probability)], dataclasses.replace(SMALL, **settings), MINUTE)
        assert said in found.profit_verdict


def test_a_sharpe_ratio_needs_as_many_blocks_as_an_interval():
    history = market(12_000)
    for rows, known in ((7100, False), (7300, True)):
        found = measure([Instrument(history, 2000, np.full(rows, 0.9))], SMALL, MINUTE)
        for trading in (found.trading[MODEL], found.trading["optimal position"]):
            assert np.isfinite(trading["sharpe"]) == np.isfinite(trading["pnl"].low) == known
        assert np.isfinite(found.metrics["val_sharpe"]) == known


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
