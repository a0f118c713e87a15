"""The held-out rows of each instrument: what following predictions earns there, and what each instrument adds."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from ml.judge.bootstrap import Bootstrap, Estimate
from ml.judge.instruments import Instrument, spreads_of
from ml.judge.scores import Prediction
from ml.judge.trading import BASIS_POINTS, PRICE_UNITS, in_basis_points, later, positions, profit
from ml.settings import Settings

MODEL, HOLDING, OPTIMAL = "model", "holding", "optimal position"


class InstrumentScore(NamedTuple):
    """What a model came to on one of several instruments.

    Attributes:
        symbol: its name.
        rows: held-out rows with a prediction.
        accuracy: the model's.
        baseline_accuracy: that of the rule that is best on all instruments.
        gain: their difference, paired.
        pnl: profit of following the model, in price units.
        pnl_basis_points: the same in basis points of the price.
    """

    symbol: str
    rows: int
    accuracy: float
    baseline_accuracy: float
    gain: Estimate
    pnl: Estimate
    pnl_basis_points: Estimate


@dataclasses.dataclass(frozen=True)
class Followed:
    """What following each of several positions came to in one instrument, by name.

    Attributes:
        profits: of each row, by unit: a frame with a column for each position.
        delayed: the same where every trade is made one bar later.
        traded: units traded in all.
    """

    profits: dict[str, pd.DataFrame]
    delayed: dict[str, pd.DataFrame]
    traded: dict[str, float]


@dataclasses.dataclass(frozen=True)
class Held:
    """One instrument's rows from the first prediction on.

    Attributes:
        name: of the instrument.
        rows: mid and position, indexed by time.
        spread: ask minus bid, (rows,).
        fee: share of the traded price that trading costs beside half the spread.
        predicted: which rows have a prediction, bool, (rows,).
        probability: of buy, (predictions,).
    """

    name: str
    rows: pd.DataFrame
    spread: np.ndarray
    fee: float
    predicted: np.ndarray
    probability: np.ndarray

    @classmethod
    def of(cls, instrument: Instrument, settings: Settings) -> "Held":
        """The held-out part of an instrument that has a prediction."""
        rows = instrument.judged
        spread = spreads_of(rows, settings.spread)
        probability = np.asarray(instrument.probability, np.float64)[len(instrument.probability) - len(rows) :]
        predicted = np.isfinite(probability)
        return cls(instrument.name, rows[["mid", "position"]], spread, settings.fee, predicted, probability[predicted])

    @property
    def labels(self) -> np.ndarray:
        """Whether the optimal position is long, bool, (predictions,)."""
        return self.rows["position"].to_numpy()[self.predicted] > 0

    @property
    def times(self) -> np.ndarray:
        """The rows' times in nanoseconds since 1970."""
        return pd.DatetimeIndex(self.rows.index).as_unit("ns").asi8

    def frame(self, named: bool) -> pd.DataFrame:
        """The rows as the report draws them, with the instrument's name where there are several."""
        probability = self._of_rows(self.probability)
        columns = {
            "mid": self.rows["mid"].astype(np.float64),
            "optimal_position": self.rows["position"].to_numpy(np.float64),
            "probability": probability,
            "prediction": self._of_rows(np.where(self.probability > 0.5, 1.0, -1.0)),
        }
        frame = pd.DataFrame(columns)
        return frame.assign(symbol=self.name) if named else frame

    def followed(self, model: Prediction, best: Prediction, threshold: float) -> Followed:
        """What following the model, the best rule, holding and the optimal position came to here."""
        mid = self.rows["mid"].to_numpy(np.float64)
        held = {
            MODEL: positions(model, threshold, self.predicted),
            best.name: positions(best, 0, self.predicted),
            HOLDING: np.ones(len(mid)),
            OPTIMAL: self.rows["position"].to_numpy(np.float64),
        }

        def earned(taken: dict[str, np.ndarray]) -> dict[str, pd.DataFrame]:
            profits = {name: profit(position, mid, self.spread, self.fee) for name, position in taken.items()}
            in_points = {name: in_basis_points(each, mid) for name, each in profits.items()}
            return {
                unit: pd.DataFrame(each, self.rows.index)
                for unit, each in ((PRICE_UNITS, profits), (BASIS_POINTS, in_points))
            }

        return Followed(
            earned(held),
            earned({name: later(position) for name, position in held.items()}),
            {name: float(np.abs(np.diff(position, prepend=0)).sum()) for name, position in held.items()},
        )

    def _of_rows(self, values: np.ndarray) -> np.ndarray:
        """Values of the predictions as those of the rows, nan where there is none."""
        if self.predicted.all():
            return values
        of_rows = np.full(len(self.rows), np.nan)
        of_rows[self.predicted] = values
        return of_rows


def profits_of_moments(
    profits: Sequence[pd.DataFrame], moments: Sequence[np.ndarray], times: np.ndarray
) -> pd.DataFrame:
    """The profits of all instruments together, a row for each moment, a column for each position that is followed.

    Args:
        profits: of each instrument, in one unit.
        moments: the moment of each of its rows, by number.
        times: of the moments, in nanoseconds since 1970.
    """
    if len(profits) == 1:
        return profits[0]
    together = {
        name: sum(np.bincount(moment, each[name], len(times)) for each, moment in zip(profits, moments, strict=True))
        for name in profits[0].columns
    }
    return pd.DataFrame(together, pd.DatetimeIndex(times, tz="UTC", name="dt"))


def instrument_scores(
    held: Sequence[Held],
    followed: Sequence[Followed],
    moments: Sequence[np.ndarray],
    bootstrap: Bootstrap,
    best: Sequence[Prediction],
) -> list[InstrumentScore]:
    """What the model came to in each instrument, the one with the highest gain first.

    Args:
        held: the instruments' rows.
        followed: what following positions came to in each.
        moments: the moment of each of their rows, by number.
        bootstrap: of the moments.
        best: what the best rule says in each.
    """
    found = []
    for each, earned, moment, rule in zip(held, followed, moments, best, strict=True):
        drawn, at_predicted = bootstrap.at(moment), bootstrap.at(moment[each.predicted])
        rows = at_predicted.total(np.ones(len(each.probability)))
        right, theirs = (
            at_predicted.total(says == each.labels) / np.where(rows, rows, np.nan)
            for says in (each.probability > 0.5, rule.buy)
        )
        found.append(
            InstrumentScore(
                each.name,
                len(each.probability),
                float(right[0]),
                float(theirs[0]),
                at_predicted.estimate(right - theirs),
                *(
                    drawn.estimate(drawn.total(earned.profits[unit][MODEL].to_numpy()))
                    for unit in (PRICE_UNITS, BASIS_POINTS)
                ),
            )
        )
    return sorted(found, key=lambda score: -score.gain.value)
