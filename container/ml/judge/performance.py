"""What a model is worth on prices it has not seen: its scores, those of simple rules, and the money either makes.

Rules learn from the training rows alone and say something about every held-out row that the model does; the
best of them is what a model has to beat. Minutes that follow each other are right or wrong together, so every
interval comes from a circular block bootstrap: the held-out part is drawn anew, with repetition, in blocks that
are longer than what one label looks ahead, and the same draws serve the model and the rules, which pairs them.
An optimal position lasts until the next one is certain, so a label follows in part from prices before it: on a
random walk a simple rule is right in 7 minutes of 10, with nothing to earn. Accuracy is to be read beside the
rules', and whether there is money in it beside the profit.

All scores are functions of sums over minutes, so a draw is a weighting of the blocks' sums, whatever the rows.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import scipy.optimize
import scipy.special

from ml.errors import UserError
from ml.metrics import rounded
from ml.settings import Settings

CONFIDENCE = 0.95
DAY = 1440  # minutes, and so rows
MODEL, HOLDING, OPTIMAL = "model", "holding", "optimal position"

_RULE_MINUTES = (30, 60, 120, 240, 480, 720, 1440)  # what a rule's length is chosen from
_RESAMPLES = 1000
_CELLS_A_BLOCK = 24  # blocks begin at cells, sums are kept a cell: an hour where a block is a day
_MOST_CELLS = 4000  # of longer parts cells are larger, so that the draws stay at 32 MB
_LEAST_BLOCKS = 5  # of fewer blocks no interval can be told
_CALIBRATION_BINS = 10
_RANK_BINS = 256  # that the area under the ROC curve is summed over: off by less than 0.0001
_REGRESSORS = 60  # prices of a window that the logistic regression sees, evenly spaced
_FITTED_WINDOWS = 50_000
_RIDGE = 1e-3
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


class Estimate(NamedTuple):
    """A number and its 95 % confidence interval; nan where the rows are too few for one."""

    value: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class Performance:
    """What a model came to on held-out rows.

    Attributes:
        frame: the rows, indexed by `dt`: mid, optimal_position, probability, prediction (+1 long, -1 short).
        block: rows of a block of the bootstrap.
        scores: of the model and each rule, by name: accuracy, log_loss, brier, ece, auc.
        gains: what the model's scores differ from each rule's, the model's minus the rule's, paired.
        best_baseline: the rule with the highest accuracy on these rows.
        confusion: of the model: rows by label and prediction.
        calibration: of the model: columns probability, share, rows; a row a bin that has any.
        trading: of the model, the best rule, holding and the optimal position, by name: pnl, sharpe,
            max_drawdown, turnover.
        curves: their profit so far, columns by name, indexed as frame.
        verdict: what the accuracy says, one sentence.
        profit_verdict: what the profit says, one sentence.
    """

    frame: pd.DataFrame
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
        """The numbers that are printed and may be tuned for, as `ml.settings.METRICS` names them."""
        model, gain = self.scores[MODEL], self.gains[self.best_baseline]["accuracy"]
        trading = self.trading[MODEL]
        return {
            name: rounded(value)
            for name, value in {
                "val_log_loss": model["log_loss"].value,
                "val_brier": model["brier"].value,
                "val_ece": model["ece"].value,
                "val_auc": model["auc"].value,
                "val_baseline_accuracy": self.scores[self.best_baseline]["accuracy"].value,
                "val_accuracy_gain": gain.value,
                "val_accuracy_gain_low": gain.low,
                "val_accuracy_gain_high": gain.high,
                "val_pnl": trading["pnl"].value,
                "val_sharpe": trading["sharpe"],
                "val_max_drawdown": trading["max_drawdown"],
                "val_turnover": trading["turnover"],
            }.items()
        }

    def as_json(self) -> dict[str, Any]:
        """All but the rows, in JSON's types."""
        return _plain(
            {
                "verdict": self.verdict,
                "profit_verdict": self.profit_verdict,
                "best_baseline": self.best_baseline,
                "rows": len(self.frame),
                "first": str(self.frame.index[0]),
                "last": str(self.frame.index[-1]),
                "confidence": CONFIDENCE,
                "block_minutes": self.block,
                "scores": self.scores,
                "gains": self.gains,
                "confusion": self.confusion,
                "calibration": self.calibration.to_dict("list"),
                "trading": self.trading,
            }
        )


def measured(history: pd.DataFrame, training: int, probability: np.ndarray, settings: Settings) -> Performance:
    """What predictions of the last rows of a history are worth.

    Args:
        history: mid and position, bid and ask where known; it ends with the rows predicted.
        training: rows at its beginning that the model was trained on; rules are fitted on the same.
        probability: of buy, (rows,), of the last rows of the history.
        settings: lookback, horizon, spread, threshold.

    Raises:
        UserError: a probability is no number.
    """
    if not np.isfinite(probability).all():
        raise UserError("the model's probabilities are not numbers: the training diverged; lower learning_rate")
    rows = history.iloc[len(history) - len(probability) :]
    labels = rows["position"].to_numpy() > 0
    probability = np.asarray(probability, np.float64)
    model = Prediction(MODEL, probability, probability > 0.5)
    rules = baselines(history, training, len(probability), settings)
    block = max(DAY, 4 * settings.horizon)
    draws = _Draws(len(rows), block)
    scored = {each.name: _scores(draws.sums(each, labels)) for each in (model, *rules)}
    best = max(rules, key=lambda rule: scored[rule.name]["accuracy"][0])
    gains = {
        rule.name: {name: draws.estimate(values - scored[rule.name][name]) for name, values in scored[MODEL].items()}
        for rule in rules
    }
    scores = {
        name: {score: draws.estimate(values, least=0) for score, values in each.items()}
        for name, each in scored.items()
    }
    optimal = rows["position"].to_numpy()
    spread = (rows["ask"] - rows["bid"]).to_numpy() if "bid" in rows else np.full(len(rows), settings.spread)
    held = {
        MODEL: positions(model, settings.threshold),
        best.name: np.where(best.buy, 1.0, -1.0),
        HOLDING: np.ones(len(rows)),
        OPTIMAL: optimal,
    }
    profits = pd.DataFrame(
        {name: profit(position, rows["mid"].to_numpy(), spread) for name, position in held.items()}, rows.index
    )
    trading = {name: _trading(position, profits[name], draws) for name, position in held.items()}
    return Performance(
        frame=pd.DataFrame(
            {
                "mid": rows["mid"],
                "optimal_position": optimal,
                "probability": probability,
                "prediction": np.where(model.buy, 1.0, -1.0),
            }
        ),
        block=block,
        scores=scores,
        gains=gains,
        best_baseline=best.name,
        confusion={
            f"{label}_predicted_{said}": int(np.sum((labels == is_buy) & (model.buy == says_buy)))
            for label, is_buy in (("buy", True), ("sell", False))
            for said, says_buy in (("buy", True), ("sell", False))
        },
        calibration=_calibration_curve(probability, labels),
        trading=trading,
        curves=profits.cumsum(),
        verdict=_verdict(scores, gains[best.name]["accuracy"], best.name, draws),
        profit_verdict=_profit_verdict(trading[MODEL]["pnl"], draws),
    )


def _verdict(scores, gain: Estimate, best: str, draws: "_Draws") -> str:
    finding = (
        "better than"
        if gain.low > 0
        else "worse than"
        if gain.high < 0
        else "on too few minutes to be told from"
        if np.isnan(gain.low)
        else "not distinguishable from"
    )
    accuracy, theirs = (scores[name]["accuracy"].value for name in (MODEL, best))
    return (
        f"The model is {finding} the best baseline ({best}): accuracy {accuracy:.4f} against {theirs:.4f} on "
        f"{draws.rows:,} held-out minutes, a difference of {gain.value:+.4f} ({draws.evidence(gain, '+.4f')})."
    )


def _profit_verdict(profit: Estimate, draws: "_Draws") -> str:
    finding = (
        "a profit that chance does not explain"
        if profit.low > 0
        else "a loss that chance does not explain"
        if profit.high < 0
        else "whether that is chance cannot be told"
        if np.isnan(profit.low)
        else "no more than chance explains"
    )
    return (
        f"Following it with one unit, spread paid, came to {profit.value:+,.6g} price units "
        f"({draws.evidence(profit, '+,.6g')}): {finding}."
    )


# Rules


def baselines(history: pd.DataFrame, training: int, predicted: int, settings: Settings) -> list[Prediction]:
    """What simple rules, fitted on the training rows, say about the last rows.

    Each looks at prices up to its row and at labels that were known by then. Where a rule says yes or no, its
    probability is the share of buys among the training rows where it said the same.

    Args:
        history: mid and position; it ends with the rows to predict.
        training: rows at its beginning to fit on.
        predicted: rows at its end to predict.
        settings: lookback, horizon.
    """
    prices, buys = history["mid"].to_numpy(), history["position"].to_numpy() > 0
    fitted = buys[:training]

    def rule(name: str, says: np.ndarray) -> Prediction:
        # With one buy and one sell more than there were, so that no probability is 0 or 1.
        no, yes = (
            (fitted[says[:training] == answer].sum() + 1) / ((says[:training] == answer).sum() + 2)
            for answer in (False, True)
        )
        said = says[len(says) - predicted :]
        return Prediction(name, np.where(said, yes, no), said)

    def best_of(name: str, says_of: Callable[[int], np.ndarray]) -> Prediction:
        right = {minutes: np.mean(says_of(minutes)[:training] == fitted) for minutes in _RULE_MINUTES}
        minutes = max(right, key=right.get)
        return rule(f"{name} of {minutes} minutes", says_of(minutes))

    # A position needs the prices of the next `horizon` rows, so that long it is unknown.
    persisting = np.concatenate([np.zeros(min(settings.horizon, len(buys)), bool), buys[: -settings.horizon]])
    return [
        rule("majority", np.full(len(buys), 2 * fitted.sum() >= training)),
        rule("last known position", persisting),
        best_of("range rule", lambda minutes: prices > sum(extremes(prices, minutes)) / 2),
        best_of("momentum", lambda minutes: prices > _earlier(prices, minutes)),
        _regression(prices, buys, training, predicted, settings.lookback),
    ]


def extremes(prices: np.ndarray, minutes: int) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest of the last prices up to each, that one included; the first rows have fewer."""
    rolling = pd.Series(prices).rolling(minutes, min_periods=1)
    return rolling.min().to_numpy(), rolling.max().to_numpy()


def _earlier(prices: np.ndarray, minutes: int) -> np.ndarray:
    """The price so many rows before each, the first one where there is none."""
    return prices[np.maximum(np.arange(len(prices)) - minutes, 0)]


def _regression(prices: np.ndarray, buys: np.ndarray, training: int, predicted: int, lookback: int) -> Prediction:
    """Logistic regression with a ridge on the normalised window, thinned to evenly spaced prices."""
    low, high = extremes(prices, lookback)
    height = np.where(high > low, high - low, 1)
    back = np.unique(np.linspace(0, lookback - 1, min(lookback, _REGRESSORS)).round().astype(np.int64))

    def regressors(rows):
        scaled = (prices[rows[:, None] - back] - low[rows, None]) / height[rows, None]
        return np.column_stack([scaled - 0.5, np.ones(len(rows))]).astype(np.float32)

    rows = np.linspace(lookback - 1, training - 1, min(training - lookback + 1, _FITTED_WINDOWS)).astype(np.int64)
    x, sign = regressors(rows), np.where(buys[rows], 1.0, -1.0)
    ridge = np.full(x.shape[1], _RIDGE)
    ridge[-1] = 0  # the intercept

    def loss(weights):
        margin = sign * (x @ weights.astype(np.float32))
        slope = -sign * scipy.special.expit(-margin) / len(x)
        return np.logaddexp(0, -margin).mean() + ridge @ weights**2 / 2, (
            slope.astype(np.float32) @ x
        ) + ridge * weights

    weights = scipy.optimize.minimize(loss, np.zeros(x.shape[1]), jac=True, method="L-BFGS-B").x
    last = np.arange(len(prices) - predicted, len(prices))
    probability = np.concatenate(
        [
            scipy.special.expit(regressors(part) @ weights)
            for part in np.array_split(last, -(-len(last) // _FITTED_WINDOWS))
        ]
    )
    return Prediction("logistic regression", probability, probability > 0.5)


# Scores and their intervals


class _Draws:
    """The held-out rows as they are, and drawn anew a thousand times in blocks, the same for every question.

    Args:
        rows: held-out rows.
        block: rows of a block.
    """

    def __init__(self, rows: int, block: int):
        self.rows, self.block = rows, block
        width = max(-(-block // _CELLS_A_BLOCK), -(-rows // _MOST_CELLS))
        self._cell = np.arange(rows) // width
        self._cells = int(self._cell[-1]) + 1
        self._blocks = rows / block
        length = -(-block // width)
        drawn = -(-self._cells // length)
        begins = np.random.default_rng(0).integers(self._cells, size=(_RESAMPLES, drawn))
        self._weights = np.zeros((1 + _RESAMPLES, self._cells))  # of each cell in each draw
        for place in range(length):  # after the last cell a block goes on with the first
            np.add.at(self._weights, (np.arange(1, 1 + _RESAMPLES)[:, None], (begins + place) % self._cells), 1)
        self._weights *= self._cells / (drawn * length)  # as many rows as there are
        self._weights[0] = 1

    def total(self, values: np.ndarray) -> np.ndarray:
        """Sums of values (rows,) over the rows as they are and over each draw: (1 + draws,)."""
        return self._weights @ np.bincount(self._cell, values, self._cells)

    def histogram(self, bins: np.ndarray, count: int, values: np.ndarray) -> np.ndarray:
        """Likewise a bin: sums of values (rows,) by bin (rows,): (1 + draws, count)."""
        sums = np.bincount(self._cell * count + bins, values, self._cells * count)
        return self._weights @ sums.reshape(self._cells, count)

    def sums(self, prediction: Prediction, labels: np.ndarray) -> dict[str, np.ndarray]:
        """What `_scores` needs, over the rows as they are (first) and each draw."""
        probability = np.clip(prediction.probability, _LEAST_PROBABILITY, 1 - _LEAST_PROBABILITY)
        given = np.where(labels, probability, 1 - probability)  # the probability of what came
        edges = np.unique(np.quantile(probability, np.linspace(0, 1, _RANK_BINS + 1)[1:-1]))
        ranks = np.searchsorted(edges, probability)
        bins = _calibration_bin(probability)
        return {
            "rows": self.total(np.ones(len(labels))),
            "right": self.total(prediction.buy == labels),
            "log_loss": self.total(-np.log(given)),
            "brier": self.total((1 - given) ** 2),
            "excess": self.histogram(bins, _CALIBRATION_BINS, probability - labels),
            "buys": self.histogram(ranks, _RANK_BINS, labels),
            "sells": self.histogram(ranks, _RANK_BINS, ~labels),
        }

    def evidence(self, estimate: Estimate, style: str) -> str:
        """An estimate's interval in words, or why it has none."""
        if np.isnan(estimate.low):
            return f"no interval from fewer than {_LEAST_BLOCKS} blocks of {self.block:,} minutes; hold out more"
        return f"{CONFIDENCE:.0%} interval {estimate.low:{style}} to {estimate.high:{style}}"

    def estimate(self, values: np.ndarray, least: float = -np.inf) -> Estimate:
        """A statistic of the rows (first) and its draws as a number with its interval.

        The draws' deviation, widened for few blocks as Student's is, since their quantiles are too narrow.
        """
        if self._blocks < _LEAST_BLOCKS:
            return Estimate(float(values[0]), np.nan, np.nan)
        freedom = self._blocks - 1
        half = (
            scipy.special.stdtrit(freedom, (1 + CONFIDENCE) / 2) * np.std(values[1:]) * np.sqrt(self._blocks / freedom)
        )
        return Estimate(float(values[0]), float(max(values[0] - half, least)), float(values[0] + half))


def _scores(sums: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Scores of the rows (first) and of each draw: (1 + draws,) each."""
    rows, buys, sells = sums["rows"], sums["buys"], sums["sells"]
    below = sells.cumsum(axis=1) - sells / 2  # sells that rank below a buy, ties by half
    with np.errstate(invalid="ignore"):  # no area where all labels are the same
        area = (buys * below).sum(axis=1) / (buys.sum(axis=1) * sells.sum(axis=1))
    return {
        "accuracy": sums["right"] / rows,
        "log_loss": sums["log_loss"] / rows,
        "brier": sums["brier"] / rows,
        "ece": np.abs(sums["excess"]).sum(axis=1) / rows,
        "auc": area,
    }


def _calibration_bin(probability: np.ndarray) -> np.ndarray:
    return np.minimum((probability * _CALIBRATION_BINS).astype(np.int64), _CALIBRATION_BINS - 1)


def _calibration_curve(probability: np.ndarray, labels: np.ndarray) -> pd.DataFrame:
    """Mean probability, share of buys and rows of each bin that has any."""
    grouped = pd.DataFrame({"probability": probability, "share": labels, "rows": 1}).groupby(
        _calibration_bin(probability)
    )
    return grouped.agg({"probability": "mean", "share": "mean", "rows": "sum"}).reset_index(drop=True)


# Money


def positions(prediction: Prediction, threshold: float) -> np.ndarray:
    """+1 or -1 a row, the position before it while the model is unsure (probability within threshold of 0.5).

    0 until it is sure for the first time.
    """
    decided = np.where(prediction.buy, 1.0, -1.0)
    if threshold:
        decided[np.abs(prediction.probability - 0.5) <= threshold] = np.nan
    return pd.Series(decided).ffill().fillna(0.0).to_numpy()


def profit(position: np.ndarray, mid: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """What each row earns, in price units a unit held: previous position x price change - |trade| x spread / 2."""
    held = np.concatenate([[0.0], position[:-1]])
    return held * np.diff(mid, prepend=mid[0]) - np.abs(position - held) * spread / 2


def _trading(position: np.ndarray, profits: pd.Series, draws: _Draws) -> dict[str, Any]:
    """Profit (with its interval), Sharpe ratio a year, deepest drawdown, units traded a day."""
    total = profits.cumsum().to_numpy()
    days = profits.groupby(profits.index.floor("D")).sum()
    span = (profits.index[-1] - profits.index[0]) / pd.Timedelta(days=1) + 1 / DAY
    deviation = days.std() if len(days) > 1 else np.nan
    sharpe = days.mean() / deviation * np.sqrt(365.25 * len(days) / max(span, 1)) if deviation else np.nan
    return {
        "pnl": draws.estimate(draws.total(profits.to_numpy())),
        "sharpe": float(sharpe),
        "max_drawdown": float((np.maximum.accumulate(np.maximum(total, 0)) - total).max()),
        "turnover": float(np.abs(np.diff(position, prepend=0)).sum() / span),
    }


def _plain(value):
    """A value in JSON's types, numbers to the digits that are printed."""
    if isinstance(value, Estimate):
        return {name: rounded(number) for name, number in value._asdict().items()}
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return rounded(value) if isinstance(value, float) else value
