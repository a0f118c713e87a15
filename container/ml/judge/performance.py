"""What a model is worth on prices it has not seen: its scores, those of simple rules, and the money either makes.

An optimal position lasts until the next one is certain, so part of a label follows from prices before it. Even on a
random walk a simple rule is right 7 times in 10, and earns nothing. So read the accuracy beside the baselines', and
the profit for whether there is money in it.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ml import metrics
from ml.errors import UserError
from ml.judge.bars import bars_a_day
from ml.judge.baselines import baselines
from ml.judge.bootstrap import CONFIDENCE, Bootstrap, Estimate
from ml.judge.scores import ACCURACY, AUC, BRIER, ECE, LOG_LOSS, Prediction, calibration_curve, score
from ml.judge.trading import positions, profit, trading_result
from ml.judge.verdict import accuracy_verdict, profit_verdict
from ml.metrics import METRICS, rounded
from ml.settings import Settings

MODEL, HOLDING, OPTIMAL = "model", "holding", "optimal position"


@dataclasses.dataclass(frozen=True)
class Performance:
    """What a model came to on held-out rows.

    Attributes:
        frame: the rows, indexed by `dt`: mid, optimal_position, probability, prediction (+1 long, -1 short).
        bar: length of a row's bar.
        block: rows of a block of the bootstrap.
        scores: of the model and each rule, by name: accuracy, log_loss, brier, ece, auc.
        gains: the model's scores minus each rule's, paired, by the rule's name.
        best_baseline: the rule with the highest accuracy on these rows.
        confusion: of the model: rows by label and prediction.
        calibration: of the model: columns probability, share, rows; a row for each bin that has any.
        trading: of the model, the best rule, holding and the optimal position, by name: pnl, sharpe,
            max_drawdown, turnover.
        curves: their profit so far, columns by name, indexed as frame.
        verdict: what the accuracy says, one sentence.
        profit_verdict: what the profit says, one sentence.
    """

    frame: pd.DataFrame
    bar: pd.Timedelta
    block: int
    scores: dict[str, dict[str, Estimate]]
    gains: dict[str, dict[str, Estimate]]
    best_baseline: str
    confusion: dict[str, int]
    calibration: pd.DataFrame
    trading: dict[str, dict[str, Any]]
    curves: pd.DataFrame
    verdict: str
    profit_verdict: str

    @property
    def metrics(self) -> dict[str, float]:
        """The numbers that are printed once a job and may be tuned for, by name."""
        model, gain = self.scores[MODEL], self.gains[self.best_baseline][ACCURACY]
        trading = self.trading[MODEL]
        return {
            name: rounded(value)
            for name, value in {
                metrics.VAL_LOG_LOSS: model[LOG_LOSS].value,
                metrics.VAL_BRIER: model[BRIER].value,
                metrics.VAL_ECE: model[ECE].value,
                metrics.VAL_AUC: model[AUC].value,
                metrics.VAL_BASELINE_ACCURACY: self.scores[self.best_baseline][ACCURACY].value,
                metrics.VAL_ACCURACY_GAIN: gain.value,
                metrics.VAL_ACCURACY_GAIN_LOW: gain.low,
                metrics.VAL_ACCURACY_GAIN_HIGH: gain.high,
                metrics.VAL_PNL: trading["pnl"].value,
                metrics.VAL_SHARPE: trading["sharpe"],
                metrics.VAL_MAX_DRAWDOWN: trading["max_drawdown"],
                metrics.VAL_TURNOVER: trading["turnover"],
            }.items()
        }

    def as_json(self) -> dict[str, Any]:
        """All but the rows, in JSON's types."""
        return _in_json_types(
            {
                "verdict": self.verdict,
                "profit_verdict": self.profit_verdict,
                "best_baseline": self.best_baseline,
                "rows": len(self.frame),
                "first": str(self.frame.index[0]),
                "last": str(self.frame.index[-1]),
                "confidence": CONFIDENCE,
                "bar_seconds": self.bar / pd.Timedelta(seconds=1),
                "block_bars": self.block,
                "block_minutes": _whole(self.block * (self.bar / pd.Timedelta(minutes=1))),
                "scores": self.scores,
                "gains": self.gains,
                "confusion": self.confusion,
                "calibration": self.calibration.to_dict("list"),
                "trading": self.trading,
            }
        )


def measure(
    history: pd.DataFrame, training: int, probability: np.ndarray, settings: Settings, bar: pd.Timedelta
) -> Performance:
    """What predictions of the last rows of a history are worth.

    Args:
        history: mid and position, bid and ask where known; it ends with the rows predicted.
        training: rows at its beginning that the model was trained on; rules are fitted on the same.
        probability: of buy, (rows,), of the last rows of the history.
        settings: lookback, horizon, spread, threshold.
        bar: length of a bar (`ml.judge.bars.bar_length`).

    Raises:
        UserError: a probability is no number.
    """
    if not np.isfinite(probability).all():
        raise UserError("the model's probabilities are not numbers: the training diverged; lower learning_rate")
    rows = history.iloc[len(history) - len(probability) :]
    labels = rows["position"].to_numpy() > 0
    probability = np.asarray(probability, np.float64)
    model = Prediction(MODEL, probability, probability > 0.5)
    rules = baselines(history, training, len(probability), settings, bar)
    bootstrap = Bootstrap(len(rows), block_of(settings.horizon, bar))
    scored = {each.name: score(each, labels, bootstrap) for each in (model, *rules)}
    best = max(rules, key=lambda rule: scored[rule.name][ACCURACY][0])
    gains = {
        rule.name: {name: bootstrap.estimate(drawn - scored[rule.name][name]) for name, drawn in scored[MODEL].items()}
        for rule in rules
    }
    scores = {
        said: {name: bootstrap.estimate(drawn, least=0) for name, drawn in of_one.items()}
        for said, of_one in scored.items()
    }
    trading, curves = _followed(model, best, rows, settings, bootstrap, bar)
    return Performance(
        frame=pd.DataFrame(
            {
                "mid": rows["mid"],
                "optimal_position": rows["position"].to_numpy(),
                "probability": probability,
                "prediction": np.where(model.buy, 1.0, -1.0),
            }
        ),
        bar=bar,
        block=bootstrap.block,
        scores=scores,
        gains=gains,
        best_baseline=best.name,
        confusion=_confusion(labels, model.buy),
        calibration=calibration_curve(probability, labels),
        trading=trading,
        curves=curves,
        verdict=accuracy_verdict(
            scores[MODEL][ACCURACY], scores[best.name][ACCURACY], gains[best.name][ACCURACY], best.name, bootstrap, bar
        ),
        profit_verdict=profit_verdict(trading[MODEL]["pnl"], bootstrap, bar),
    )


def block_of(horizon: int, bar: pd.Timedelta) -> int:
    """Rows of a block of the bootstrap: a day, or four times what a label looks ahead where that is longer."""
    return max(bars_a_day(bar), 4 * horizon)


def _followed(model: Prediction, best: Prediction, rows: pd.DataFrame, settings: Settings, bootstrap, bar):
    """What following the model, the best rule, holding and the optimal position came to, and their profit so far."""
    spread = (rows["ask"] - rows["bid"]).to_numpy() if "bid" in rows else np.full(len(rows), settings.spread)
    held = {
        MODEL: positions(model, settings.threshold),
        best.name: np.where(best.buy, 1.0, -1.0),
        HOLDING: np.ones(len(rows)),
        OPTIMAL: rows["position"].to_numpy(),
    }
    profits = pd.DataFrame(
        {name: profit(position, rows["mid"].to_numpy(), spread) for name, position in held.items()}, rows.index
    )
    trading = {name: trading_result(position, profits[name], bootstrap, bar) for name, position in held.items()}
    return trading, profits.cumsum()


def _confusion(labels: np.ndarray, says_buy: np.ndarray) -> dict[str, int]:
    return {
        f"{label}_predicted_{said}": int(np.sum((labels == is_buy) & (says_buy == is_said)))
        for label, is_buy in (("buy", True), ("sell", False))
        for said, is_said in (("buy", True), ("sell", False))
    }


def fold_row(
    number: int,
    train_rows: int,
    validation_rows: pd.DataFrame,
    best_epoch: int,
    kept: Mapping[str, float],
    performance: Performance,
) -> dict[str, Any]:
    """A fold in metrics.json: its rows and time, the epoch kept and its scores, the numbers that are printed once.

    Args:
        number: of the fold, from 1.
        train_rows: how many it was trained on.
        validation_rows: its held-out rows.
        best_epoch: the epoch kept, from 1.
        kept: that epoch's metrics.
        performance: of its model.
    """
    return {
        "fold": number,
        "train_rows": train_rows,
        "validation_rows": len(validation_rows),
        "first": str(validation_rows.index[0]),
        "last": str(validation_rows.index[-1]),
        "best_epoch": best_epoch,
        **{name: kept[name] for name in (metrics.VAL_LOSS, metrics.VAL_ACCURACY)},
        **performance.metrics,
        "best_baseline": performance.best_baseline,
        "verdict": performance.verdict,
    }


def mean_metrics(table: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The declared means over the folds' rows."""
    return {
        metric.name: rounded(float(np.mean([row[metric.mean_of] for row in table])))
        for metric in METRICS.values()
        if metric.mean_of
    }


def _whole(value: float) -> float | int:
    return int(value) if value.is_integer() else value


def _in_json_types(value: Any) -> Any:
    """A value in JSON's types, numbers to the digits that are printed."""
    if isinstance(value, Estimate):
        return {name: rounded(number) for name, number in value._asdict().items()}
    if isinstance(value, dict):
        return {name: _in_json_types(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_in_json_types(item) for item in value]
    return rounded(value) if isinstance(value, float) else value
