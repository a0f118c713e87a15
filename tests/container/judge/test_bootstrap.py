import numpy as np
import pandas as pd
import pytest

from ml.judge.bootstrap import Bootstrap
from ml.judge.scores import Prediction, score


def scored(probability, labels, block=20):
    bootstrap = Bootstrap(len(labels), block)
    scores = score(Prediction("any", probability, probability > 0.5), labels, bootstrap)
    return {name: bootstrap.estimate(values) for name, values in scores.items()}


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
    monkeypatch.setattr("ml.judge.bootstrap._MOST_CELLS", 100)
    coarse = scored(np.full(20_000, 0.9), labels, block=1000)["accuracy"]
    assert coarse.value == fine.value
    assert coarse.high - coarse.low == pytest.approx(fine.high - fine.low, rel=0.1)


def test_differences_are_paired():
    rng = np.random.default_rng(4)
    labels = np.repeat(rng.uniform(size=100) < 0.5, 40)
    bootstrap = Bootstrap(4000, 200)
    one, other = (
        score(Prediction("any", np.full(4000, 0.9), says), labels, bootstrap)["accuracy"]
        for says in (np.ones(4000, bool), np.arange(4000) % 50 > 0)
    )
    gain, alone = bootstrap.estimate(one - other), bootstrap.estimate(one)
    assert gain.high - gain.low < (alone.high - alone.low) / 5
