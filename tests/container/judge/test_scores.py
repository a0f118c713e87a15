import numpy as np
import pytest

from ml.judge.bootstrap import Bootstrap
from ml.judge.scores import Prediction, score


def scored(probability, labels, block=20):
    bootstrap = Bootstrap(len(labels), block)
    scores = score(Prediction("any", probability, probability > 0.5), labels, bootstrap)
    return {name: bootstrap.estimate(values) for name, values in scores.items()}


def test_scores_are_those_of_their_definitions():
    rng = np.random.default_rng(1)
    probability = rng.uniform(size=2000)
    labels = rng.uniform(size=2000) < probability**2
    found = {name: estimate.value for name, estimate in scored(probability, labels).items()}
    buys, sells = probability[labels], probability[~labels]
    bins = (probability * 10).astype(int)
    assert found == pytest.approx(
        {
            "accuracy": np.mean((probability > 0.5) == labels),
            "log_loss": -np.mean(np.where(labels, np.log(probability), np.log(1 - probability))),
            "brier": np.mean((probability - labels) ** 2),
            "ece": sum(
                abs(probability[bins == i].mean() - labels[bins == i].mean()) * np.mean(bins == i) for i in range(10)
            ),
            "auc": np.mean(buys[:, None] > sells),
        },
        abs=1e-4,
    )


def test_ties_and_certainty_have_scores():
    labels = np.arange(200) % 2 == 0
    constant = scored(np.full(200, 0.5), labels)
    assert constant["auc"].value == 0.5 and constant["accuracy"].value == 0.5
    perfect = scored(labels.astype(float), labels)
    assert perfect["auc"].value == perfect["accuracy"].value == 1 and np.isfinite(perfect["log_loss"].value)
    assert np.isnan(scored(np.full(200, 0.4), np.ones(200, bool))["auc"].value)
