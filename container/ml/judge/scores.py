"""How good predictions are: accuracy, log-loss, Brier score, calibration error, area under the ROC curve."""

import dataclasses

import numpy as np
import pandas as pd

from ml.judge.bootstrap import Bootstrap

ACCURACY, LOG_LOSS, BRIER, ECE, AUC = "accuracy", "log_loss", "brier", "ece", "auc"

_CALIBRATION_BINS = 10
_RANK_BINS = 256  # for the area under the ROC curve, whose error is below 0.0001
_LEAST_PROBABILITY = 1e-7  # for the logarithm


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What a model or a rule says about each held-out row.

    Attributes:
        name: for the reader.
        probability: of buy, (rows,).
        buy: whether it says buy, bool, (rows,).
    """

    name: str
    probability: np.ndarray
    buy: np.ndarray


def score(prediction: Prediction, labels: np.ndarray, bootstrap: Bootstrap) -> dict[str, np.ndarray]:
    """Each score of the rows as they are (first) and of each resample: (1 + resamples,) each.

    Args:
        prediction: of the held-out rows.
        labels: whether the optimal position is long, bool, (rows,).
        bootstrap: of the same rows.
    """
    probability = np.clip(prediction.probability, _LEAST_PROBABILITY, 1 - _LEAST_PROBABILITY)
    of_label = np.where(labels, probability, 1 - probability)
    rows = bootstrap.total(np.ones(len(labels)))
    excess = bootstrap.histogram(_calibration_bin(probability), _CALIBRATION_BINS, probability - labels)
    return {
        ACCURACY: bootstrap.total(prediction.buy == labels) / rows,
        LOG_LOSS: bootstrap.total(-np.log(of_label)) / rows,
        BRIER: bootstrap.total((1 - of_label) ** 2) / rows,
        ECE: np.abs(excess).sum(axis=1) / rows,
        AUC: _area_under_roc(probability, labels, bootstrap),
    }


def _area_under_roc(probability: np.ndarray, labels: np.ndarray, bootstrap: Bootstrap) -> np.ndarray:
    """The share of pairs of a buy and a sell in which the buy has the higher probability, ties by half."""
    edges = np.unique(np.quantile(probability, np.linspace(0, 1, _RANK_BINS + 1)[1:-1]))
    ranks = np.searchsorted(edges, probability)
    buys, sells = (bootstrap.histogram(ranks, _RANK_BINS, values) for values in (labels, ~labels))
    below = sells.cumsum(axis=1) - sells / 2
    with np.errstate(invalid="ignore"):  # nan where all labels are the same
        return (buys * below).sum(axis=1) / (buys.sum(axis=1) * sells.sum(axis=1))


def _calibration_bin(probability: np.ndarray) -> np.ndarray:
    return np.minimum((probability * _CALIBRATION_BINS).astype(np.int64), _CALIBRATION_BINS - 1)


def calibration_curve(probability: np.ndarray, labels: np.ndarray) -> pd.DataFrame:
    """Mean probability, share of buys and number of rows of each tenth of the probabilities that has any."""
    grouped = pd.DataFrame({"probability": probability, "share": labels, "rows": 1}).groupby(
        _calibration_bin(probability)
    )
    return grouped.agg({"probability": "mean", "share": "mean", "rows": "sum"}).reset_index(drop=True)
