"""Confidence intervals by a circular block bootstrap.

Neighbouring rows are right or wrong together, so the held-out part is resampled in blocks longer than what one label
looks ahead. The same resamples serve the model and every baseline, which pairs them.

Every score is a function of sums over rows. Sums are kept per cell (a small run of rows), so a resample only
reweights cells, and its cost does not grow with the rows.
"""

import copy
from typing import NamedTuple

import numpy as np

CONFIDENCE = 0.95
LEAST_BLOCKS = 5  # with fewer blocks no interval is given

_RESAMPLES = 1000
_CELLS_PER_BLOCK = 24  # a block begins at a cell: at any hour where a block is a day
_MOST_CELLS = 4000  # longer parts have larger cells, so that the weights stay at 32 MB


class Estimate(NamedTuple):
    """A number and its 95 % confidence interval; nan where the rows are too few for one."""

    value: float
    low: float
    high: float


class Bootstrap:
    """The held-out rows as they are, and a thousand resamples of them in blocks.

    Blocks are stretches of time: instruments move together, so a resample draws the same stretches of all.
    Statistics are arrays (1 + resamples,): first that of the rows as they are, then that of each resample.

    Args:
        moments: held-out moments; of one instrument, rows.
        block: moments of a block.

    Attributes:
        rows: rows that statistics are of; one a moment, until `at` says otherwise.
    """

    def __init__(self, moments: int, block: int):
        self.rows, self.block = moments, block
        width = max(-(-block // _CELLS_PER_BLOCK), -(-moments // _MOST_CELLS))
        self._cell = np.arange(moments) // width
        self._cells = int(self._cell[-1]) + 1
        self._blocks = moments / block
        length = -(-block // width)
        drawn = -(-self._cells // length)
        begins = np.random.default_rng(0).integers(self._cells, size=(_RESAMPLES, drawn))
        self._weights = np.zeros((1 + _RESAMPLES, self._cells))  # of each cell in each resample
        for place in range(length):  # after the last cell a block continues with the first
            np.add.at(self._weights, (np.arange(1, 1 + _RESAMPLES)[:, None], (begins + place) % self._cells), 1)
        self._weights *= self._cells / (drawn * length)  # every resample has as many rows as there are
        self._weights[0] = 1

    @property
    def has_intervals(self) -> bool:
        """Whether there are blocks enough for intervals."""
        return self._blocks >= LEAST_BLOCKS

    def at(self, moments: np.ndarray) -> "Bootstrap":
        """The same resamples for rows of the given moments, by number from 0, (rows,)."""
        other = copy.copy(self)
        other.rows, other._cell = len(moments), self._cell[moments]
        return other

    def total(self, values: np.ndarray) -> np.ndarray:
        """Sums of values (rows,): (1 + resamples,)."""
        return self._weights @ np.bincount(self._cell, values, self._cells)

    def histogram(self, bins: np.ndarray, count: int, values: np.ndarray) -> np.ndarray:
        """Sums of values (rows,) for each bin (rows,) of `count`: (1 + resamples, count)."""
        sums = np.bincount(self._cell * count + bins, values, self._cells * count)
        return self._weights @ sums.reshape(self._cells, count)

    def estimate(self, statistic: np.ndarray, least: float = -np.inf) -> Estimate:
        """A statistic (1 + resamples,) as a number with its interval, which ends at `least`.

        Half-width: Student-t quantile times the bootstrap's standard deviation, since percentile intervals are too
        narrow with few blocks.
        """
        if not self.has_intervals:
            return Estimate(float(statistic[0]), np.nan, np.nan)
        import scipy.special  # here, since the launcher, which has no SciPy, draws resamples too

        freedom = self._blocks - 1
        half = (
            scipy.special.stdtrit(freedom, (1 + CONFIDENCE) / 2)
            * np.std(statistic[1:])
            * np.sqrt(self._blocks / freedom)
        )
        return Estimate(float(statistic[0]), float(max(statistic[0] - half, least)), float(statistic[0] + half))
