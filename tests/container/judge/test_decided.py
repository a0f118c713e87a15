"""Decided bars: where a model is right for other reasons than that positions are carried on."""

import dataclasses

import numpy as np
import pytest

from judging import MINUTE, SMALL, market
from ml.judge.bootstrap import Bootstrap, Estimate
from ml.judge.decided import decided_rows, decided_scores, decided_verdict, random_walk_scores
from ml.judge.instruments import Instrument
from ml.judge.performance import MODEL, mean_metrics, measure
from ml.judge.scores import Prediction
from ml.optimal_position import decided_bars

CONFIG = dataclasses.replace(SMALL, horizon=60, spread=0.0)
DECIDED_METRICS = {f"val_decided_{name}" for name in ("accuracy", "accuracy_low", "accuracy_high", "loss")}


def last_hour(history):
    """Whether the price rose in the last hour, as a probability of buy."""
    mid = history["mid"].to_numpy()
    return np.where(mid > np.concatenate([np.full(60, mid[0]), mid[:-60]]), 0.7, 0.3)


def judged(history, probability):
    """Accuracy on all rows and on decided ones, and the verdict."""
    labels, decided = history["position"].to_numpy() > 0, decided_bars(history)
    bootstrap = Bootstrap(len(labels), 1440)
    prediction = Prediction(MODEL, probability, probability > 0.5)
    scored = decided_scores(prediction, labels, decided, bootstrap)
    accuracy = bootstrap.estimate(scored["decided_accuracy"])
    return np.mean(prediction.buy == labels), accuracy, decided_verdict(accuracy, decided.sum(), bootstrap, MINUTE)


def test_a_rule_that_only_carries_positions_on_is_no_better_than_chance():
    found = [
        judged(history, last_hour(history)) for history in (market(30_000, seed, 0.0, CONFIG) for seed in range(6))
    ]
    assert all(all_rows > 0.6 for all_rows, *_ in found)
    assert sum("is no better than chance" in verdict for *_, verdict in found) >= 5
    assert not any("is better than chance" in verdict for *_, verdict in found)


def test_foresight_is_found_on_decided_bars():
    history = market(30_000, 1, 0.0, CONFIG)
    knows = np.random.default_rng(1).random(len(history)) < 0.2  # of one bar in five what comes
    probability = np.where(knows, np.where(history["position"] > 0, 0.9, 0.1), last_hour(history))
    _, accuracy, verdict = judged(history, probability)
    assert accuracy.value == pytest.approx(0.6, abs=0.05) and "the model is better than chance: right on 0." in verdict
    assert "the model is worse than chance" in judged(history, 1 - probability)[2]


def test_scores_are_those_of_the_decided_rows_alone():
    rng = np.random.default_rng(1)
    labels, decided, probability = rng.random(3000) < 0.5, rng.random(3000) < 0.1, rng.random(3000)
    bootstrap = Bootstrap(3000, 100)
    found = decided_scores(Prediction("", probability, probability > 0.5), labels, decided, bootstrap)
    given = np.where(labels, probability, 1 - probability)[decided]
    assert found["decided_accuracy"][0] == pytest.approx(np.mean(given > 0.5))
    assert found["decided_loss"][0] == pytest.approx(-np.log(given).mean())
    other = np.where(decided, probability, rng.random(3000))
    same = decided_scores(Prediction("", other, other > 0.5), labels, decided, bootstrap)
    np.testing.assert_array_equal(found["decided_accuracy"], same["decided_accuracy"])


def test_few_decided_bars_have_a_verdict_that_says_so():
    nothing = Estimate(0.5, np.nan, np.nan)
    assert decided_verdict(nothing, 0, Bootstrap(9000, 1440), MINUTE).startswith("None of the 9,000 held-out minutes")
    assert "fewer than 5 blocks; hold out more" in decided_verdict(nothing, 7, Bootstrap(3000, 1440), MINUTE)
    assert decided_verdict(nothing, 7, Bootstrap(9000, 1440), MINUTE).endswith("and not carried on.")


def test_where_positions_are_given_nothing_is_said_of_decided_bars():
    history = market(8000)[["mid", "position"]]
    instrument = Instrument(history, 4000, np.full(1000, 0.6))
    found = measure([instrument], SMALL, MINUTE)
    assert found.decided_verdict == "" and found.random_walk == {} and not DECIDED_METRICS & set(found.metrics)
    assert decided_rows([instrument, Instrument(market(8000), 4000, np.full(1000, 0.6))]) is None
    means = mean_metrics([dict(found.metrics, val_loss=1.0, val_accuracy=0.5)])
    assert "mean_val_accuracy_gain" in means and "mean_val_decided_accuracy" not in means


@pytest.mark.slow
def test_a_random_walk_tells_what_carrying_on_alone_is_right_about():
    history = market(30_000, 2, 1.0, CONFIG)
    probability = np.full(9000, np.nan)
    probability[500:] = 0.6
    walk = random_walk_scores([Instrument(history, 20_000, probability)], CONFIG, 1440)
    assert walk["accuracy"].value > 0.62
    assert walk["decided_accuracy"].low < 0.5 < walk["decided_accuracy"].high
    # It is of these prices' returns, and of no label of theirs.
    turned = history.assign(position=-history["position"])
    assert random_walk_scores([Instrument(turned, 20_000, probability)], CONFIG, 1440) == walk
    calm = history.assign(mid=10_000 + (history["mid"] - 10_000) / 2)
    assert random_walk_scores([Instrument(calm, 20_000, probability)], CONFIG, 1440) != walk


def test_a_walk_that_is_too_short_has_no_scores():
    history = market(100, config=SMALL).iloc[:20]
    assert random_walk_scores([Instrument(history, 10, np.full(5, 0.6))], SMALL, 1440) == {}


def test_a_job_s_column_and_the_labels_own_say_the_same():
    full = market(6000, config=CONFIG)
    slim = full[["mid", "position"]].assign(spread=full["ask"] - full["bid"], decided=decided_bars(full))
    one, other = (measure([Instrument(each, 3000, np.full(2000, 0.6))], CONFIG, MINUTE) for each in (full, slim))
    assert repr(one.as_json()) == repr(other.as_json()) and set(one.metrics) >= DECIDED_METRICS
