import numpy as np
import pandas as pd

from ml.data.history import checked, gaps
from ml.data.sample_market import sample_market


def test_it_is_a_price_history_without_gaps():
    market = sample_market(rows=20_000)
    assert list(market) == ["bid", "ask", "mid"] and len(market) == 20_000
    assert gaps(checked(market, source="the sample market")).count == 0


def test_the_seed_decides():
    pd.testing.assert_frame_equal(sample_market(1000, seed=3), sample_market(1000, seed=3))
    assert not sample_market(1000, seed=3).equals(sample_market(1000, seed=4))


def test_prices_are_on_ticks_with_a_spread_of_at_least_one():
    market = sample_market(rows=20_000, seed=2)
    for side in ("bid", "ask"):
        assert (market[side] % 0.5 == 0).all()
    assert (market["ask"] - market["bid"]).min() >= 0.5


def test_it_stays_a_price_for_years():
    market = sample_market(rows=1_600_000)
    assert market["bid"].min() > 100 and market["ask"].max() < 1_000_000


def test_volatility_clusters():
    size = np.log(sample_market(rows=100_000)["mid"]).diff().abs().dropna()
    assert size.autocorr(60) > 0.1


def test_trends_can_be_predicted_and_are_gone_where_nothing_should_be():
    def autocorrelation(predictability):
        market = sample_market(rows=300_000, predictability=predictability)
        hours = np.log(market["mid"]).diff(60).iloc[60::60]
        return hours.autocorr(1), 1 / np.sqrt(len(hours))

    planted, deviation = autocorrelation(1.0)
    assert planted > 5 * deviation
    none, deviation = autocorrelation(0.0)
    assert abs(none) < 4 * deviation
