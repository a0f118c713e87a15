"""Positions that look further ahead than horizon are told, and no others are."""

import numpy as np
import pytest

from ml.data.given_positions import given_look
from ml.data.sample_market import sample_market, sample_universe
from ml.data.segment_facts import SegmentFacts, segment_facts
from ml.optimal_position import optimal_positions


@pytest.fixture(scope="module", params=["bid and ask", "mid"])
def given(request):
    """Optimal positions that look 120 bars ahead, from a history with bid and ask or with mid and a spread of 5."""
    market = sample_market(20_000, 3)
    frame = optimal_positions(market if request.param == "bid and ask" else market[["mid"]], 120, 5.0)
    return frame[["bid", "ask", "mid", "position"] if request.param == "bid and ask" else ["mid", "position"]]


@pytest.mark.parametrize("horizon", [5, 30, 90])
def test_positions_of_a_longer_horizon_are_told_with_it(given, horizon):
    found = given_look(given, horizon)
    assert found and found.bars == (50 if horizon == 5 else pytest.approx(120, abs=5))


@pytest.mark.parametrize("horizon", [110, 120, 300])
def test_positions_of_about_this_horizon_or_a_shorter_one_are_not(given, horizon):
    assert given_look(given, horizon) is None


@pytest.mark.parametrize("seed", range(20))
def test_few_changes_prove_nothing(seed):
    frame = optimal_positions(sample_market(1500, seed), 300)
    assert given_look(frame, 300) is None


def test_positions_that_know_nothing_are_not_told():
    market = sample_market(20_000, 1)
    rng = np.random.default_rng(1)
    assert given_look(market.assign(position=rng.integers(-1, 2, len(market))), 30) is None
    trend = np.sign(market["mid"] - market["mid"].rolling(60, min_periods=1).mean())
    assert given_look(market.assign(position=trend), 30) is None
    assert given_look(market.assign(position=1.0), 30) is None


def test_the_furthest_of_several_instruments_is_told_in_log_and_record():
    facts = SegmentFacts("4d")
    for name, market in sample_universe(3, 8000):
        given = optimal_positions(market, 60 if name == "NOISE" else 20)
        facts.add(segment_facts(given, 20, 20, "4d", name))
    line = facts.lines()[-1]
    assert line.startswith("GIVEN POSITIONS LOOK TOO FAR AHEAD") and "of NOISE" in line and "set horizon=6" in line
    assert facts.as_json()["given_look"]["symbol"] == "NOISE" and line in facts.as_json()["summary"]
