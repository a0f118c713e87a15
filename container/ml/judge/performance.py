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
from ml.judge.daily import daily_profits
from ml.judge.decided import (
    DECIDED_ACCURACY,
    DECIDED_LOSS,
    decided_rows,
    decided_scores,
    decided_verdict,
    random_walk_scores,
)
from ml.judge.held_out import MODEL, Held, InstrumentScore, instrument_scores, profits_of_moments
from ml.judge.instruments import Instrument
from ml.judge.scores import ACCURACY, AUC, BRIER, ECE, LOG_LOSS, Prediction, calibration_curve, score
from ml.judge.trading import BASIS_POINTS, PRICE_UNITS, positions, trading_result
from ml.judge.verdict import accuracy_verdict, costs_in_words, profit_verdict
from ml.metrics import METRICS, rounded
from ml.settings import Settings

VALIDATION, TEST = "validation", "test"  # parts of a history that a model is measured on

DIVERGED = "the model's probabilities are not numbers: the training diverged; lower learning_rate"


@dataclasses.dataclass(frozen=True)
class Performance:
    """What a model came to on held-out rows.

    Attributes:
        frame: the rows from each instrument's first prediction on, indexed by `dt`: mid, optimal_position,
            probability, prediction (+1 long, -1 short), both nan where there is none, and symbol where there are
            several instruments.
        bar: length of a row's bar.
        block: bars of a block of the bootstrap.
        scores: of the model and each rule, by name: accuracy, log_loss, brier, ece, auc, and where it is known which
            bars are decided decided_accuracy and decided_loss.
        gains: the model's scores minus each rule's, paired, by the rule's name.
        best_baseline: the rule with the highest accuracy on these rows.
        confusion: of the model: rows by label and prediction.
        calibration: of the model: columns probability, share, rows; a row for each bin that has any.
        trading: of the model, the best rule, holding and the optimal position, by name: pnl, pnl_later, sharpe,
            max_drawdown, turnover.
        curves: their profit so far, columns by name, a row for each moment of frame.
        daily: what following the model and the best rule earned on each day, before costs
            (`ml.judge.daily.daily_profits`).
        decided_verdict: what the accuracy on decided bars says, one sentence; empty where they are not known.
        random_walk: what a rule scores on a random walk with these prices' volatility; empty where it is not known.
        verdict: what the accuracy says, one sentence.
        profit_verdict: what the profit says, one sentence.
        part: whose rows they are: validation or test.
        has_spread: whether a spread is paid.
        unit: of profits: price units, or of several instruments basis points of the price, summed over them.
        instruments: where there are several, what the model came to in each.
        unjudged: names of those without a prediction.
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
    daily: pd.DataFrame
    verdict: str
    profit_verdict: str
    part: str
    has_spread: bool
    decided_verdict: str = ""
    random_walk: dict[str, Estimate] = dataclasses.field(default_factory=dict)
    unit: str = PRICE_UNITS
    instruments: list[InstrumentScore] = dataclasses.field(default_factory=list)
    unjudged: list[str] = dataclasses.field(default_factory=list)

    @property
    def metrics(self) -> dict[str, float]:
        """The numbers that are printed once a job, by name; those of the validation part may be tuned for."""
        model, gain = self.scores[MODEL], self.gains[self.best_baseline][ACCURACY]
        trading = self.trading[MODEL]
        decided = {}
        if accuracy := model.get(DECIDED_ACCURACY):
            decided = {
                metrics.VAL_DECIDED_ACCURACY: accuracy.value,
                metrics.VAL_DECIDED_ACCURACY_LOW: accuracy.low,
                metrics.VAL_DECIDED_ACCURACY_HIGH: accuracy.high,
                metrics.VAL_DECIDED_LOSS: model[DECIDED_LOSS].value,
            }
            if self.part == TEST:  # SageMaker takes 40 metrics; the others are in metrics.json
                decided = {metrics.TEST_DECIDED_ACCURACY: accuracy.value}
        numbers = (
            {
                metrics.TEST_ACCURACY: model[ACCURACY].value,
                metrics.TEST_LOG_LOSS: model[LOG_LOSS].value,
                metrics.TEST_ACCURACY_GAIN: gain.value,
                metrics.TEST_ACCURACY_GAIN_LOW: gain.low,
                metrics.TEST_ACCURACY_GAIN_HIGH: gain.high,
                metrics.TEST_PNL: trading["pnl"].value,
                metrics.TEST_PNL_LATER: trading["pnl_later"].value,
                metrics.TEST_SHARPE: trading["sharpe"],
                **decided,
            }
            if self.part == TEST
            else {
                metrics.VAL_LOG_LOSS: model[LOG_LOSS].value,
                metrics.VAL_BRIER: model[BRIER].value,
                metrics.VAL_ECE: model[ECE].value,
                metrics.VAL_AUC: model[AUC].value,
                metrics.VAL_BASELINE_ACCURACY: self.scores[self.best_baseline][ACCURACY].value,
                metrics.VAL_ACCURACY_GAIN: gain.value,
                metrics.VAL_ACCURACY_GAIN_LOW: gain.low,
                metrics.VAL_ACCURACY_GAIN_HIGH: gain.high,
                **decided,
                metrics.VAL_PNL: trading["pnl"].value,
                metrics.VAL_SHARPE: trading["sharpe"],
                metrics.VAL_MAX_DRAWDOWN: trading["max_drawdown"],
                metrics.VAL_TURNOVER: trading["turnover"],
            }
        )
        return {name: rounded(value) for name, value in numbers.items()}

    def as_json(self) -> dict[str, Any]:
        """All but the rows, in JSON's types."""
        return _in_json_types(
            {
                "part": self.part,
                "decided_verdict": self.decided_verdict,
                "verdict": self.verdict,
                "profit_verdict": self.profit_verdict,
                "best_baseline": self.best_baseline,
                "rows": len(self.frame),
                "first": str(self.frame.index.min()),
                "last": str(self.frame.index.max()),
                "confidence": CONFIDENCE,
                "bar_seconds": self.bar / pd.Timedelta(seconds=1),
                "block_bars": self.block,
                "block_minutes": _whole(self.block * (self.bar / pd.Timedelta(minutes=1))),
                "scores": self.scores,
                "random_walk": self.random_walk,
                "gains": self.gains,
                "confusion": self.confusion,
                "calibration": self.calibration.to_dict("list"),
                "trading": self.trading,
                "profit_unit": self.unit,
            }
            | ({"instruments": [each._asdict() for each in self.instruments]} if self.instruments else {})
            | ({"instruments_without_prediction": self.unjudged} if self.unjudged else {})
        )


def measure(
    instruments: Sequence[Instrument], settings: Settings, bar: pd.Timedelta, part: str = VALIDATION
) -> Performance:
    """What predictions of the last rows of histories are worth.

    Args:
        instruments: the histories, each with a model's probabilities for its last rows.
        settings: lookback, horizon, max_gap, spread, fee, threshold; monitor, for the verdict's words.
        bar: length of a bar (`ml.bars.bar_length`).
        part: what the last rows are: validation or test.

    Raises:
        UserError: there is no probability, or one that is no number.
    """
    held = [Held.of(instrument, settings) for instrument in instruments if np.isfinite(instrument.probability).any()]
    if not held:
        raise UserError(DIVERGED)
    probability = np.concatenate([each.probability for each in held])
    labels = np.concatenate([each.labels for each in held])
    model = Prediction(MODEL, probability, probability > 0.5)
    rules = baselines(instruments, settings, bar)
    times, moments = np.unique(np.concatenate([each.times for each in held]), return_inverse=True)
    moments = np.split(moments, np.cumsum([len(each.times) for each in held])[:-1])
    by_moment = Bootstrap(len(times), block_of(settings.horizon, bar))
    bootstrap = by_moment.at(
        np.concatenate([moment[each.predicted] for moment, each in zip(moments, held, strict=True)])
    )
    decided = decided_rows(instruments)
    scored = {
        each.name: score(each, labels, bootstrap) | decided_scores(each, labels, decided, bootstrap)
        for each in (model, *rules)
    }
    best = max(rules, key=lambda rule: scored[rule.name][ACCURACY][0])
    gains = {
        rule.name: {name: bootstrap.estimate(drawn - scored[rule.name][name]) for name, drawn in scored[MODEL].items()}
        for rule in rules
    }
    scores = {
        said: {name: bootstrap.estimate(drawn, least=0) for name, drawn in of_one.items()}
        for said, of_one in scored.items()
    }
    said = list(zip(held, *(_parts(each, held) for each in (model, best)), strict=True))
    followed = [each.followed(model_says, best_says, settings.threshold) for each, model_says, best_says in said]
    several = len(instruments) > 1
    unit = BASIS_POINTS if several else PRICE_UNITS
    profits = profits_of_moments([each.profits[unit] for each in followed], moments, times)
    delayed = profits_of_moments([each.delayed[unit] for each in followed], moments, times)
    traded = {name: sum(each.traded[name] for each in followed) for name in followed[0].traded}
    trading = {str(name): trading_result(profits[name], delayed[name], traded[name], by_moment, bar) for name in traded}
    has_spread = any(bool(each.spread.any()) for each in held)
    costs = costs_in_words(has_spread, settings.fee)
    return Performance(
        frame=pd.concat([each.frame(several) for each in held]),
        bar=bar,
        block=bootstrap.block,
        scores=scores,
        gains=gains,
        best_baseline=best.name,
        confusion=_confusion(labels, model.buy),
        calibration=calibration_curve(probability, labels),
        trading=trading,
        curves=profits.cumsum(),
        daily=daily_profits(
            held,
            [
                {
                    MODEL: positions(model_says, settings.threshold, each.predicted),
                    best.name: positions(best_says, 0, each.predicted),
                }
                for each, model_says, best_says in said
            ],
        ),
        verdict=accuracy_verdict(
            scores[MODEL][ACCURACY],
            scores[best.name][ACCURACY],
            gains[best.name][ACCURACY],
            best.name,
            bootstrap,
            bar,
            len(held) if several else 0,
            part=part,
            chose_epoch=part == VALIDATION and settings.monitor != "last",
        ),
        decided_verdict=""
        if decided is None
        else decided_verdict(scores[MODEL][DECIDED_ACCURACY], int(decided.sum()), bootstrap, bar, part),
        random_walk={} if decided is None else random_walk_scores(instruments, settings, bootstrap.block),
        profit_verdict=profit_verdict(
            trading[MODEL]["pnl"], trading[MODEL]["pnl_later"], bootstrap, bar, unit, part=part, costs=costs
        ),
        part=part,
        has_spread=has_spread,
        unit=unit,
        instruments=instrument_scores(held, followed, moments, by_moment, _parts(best, held)) if several else [],
        unjudged=[each.name for each in instruments if not np.isfinite(each.probability).any()],
    )


def _parts(prediction: Prediction, held: Sequence[Held]) -> list[Prediction]:
    """A prediction of all instruments as those of each."""
    ends = np.cumsum([len(each.probability) for each in held])[:-1]
    return [
        Prediction(prediction.name, probability, buy)
        for probability, buy in zip(np.split(prediction.probability, ends), np.split(prediction.buy, ends), strict=True)
    ]


def block_of(horizon: int, bar: pd.Timedelta) -> int:
    """Rows of a block of the bootstrap: a day, or four times what a label looks ahead where that is longer."""
    return max(bars_a_day(bar), 4 * horizon)


def _confusion(labels: np.ndarray, says_buy: np.ndarray) -> dict[str, int]:
    return {
        f"{label}_predicted_{said}": int(np.sum((labels == is_buy) & (says_buy == is_said)))
        for label, is_buy in (("buy", True), ("sell", False))
        for said, is_said in (("buy", True), ("sell", False))
    }


def fold_row(
    number: int,
    rows: tuple[int, int],
    times: pd.Index,
    best_epoch: int,
    kept: Mapping[str, float],
    performance: Performance,
) -> dict[str, Any]:
    """A fold in metrics.json: its rows and time, the epoch kept and its scores, the numbers that are printed once.

    Args:
        number: of the fold, from 1.
        rows: how many it was trained on, and how many were held out.
        times: of its held-out rows.
        best_epoch: the epoch kept, from 1.
        kept: that epoch's metrics.
        performance: of its model.
    """
    return {
        "fold": number,
        "train_rows": rows[0],
        "validation_rows": rows[1],
        "first": str(times.min()),
        "last": str(times.max()),
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
        if metric.mean_of and all(metric.mean_of in row for row in table)
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
