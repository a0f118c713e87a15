"""How much of the best of many is luck: the statistics; `ml.judge.luck` puts them into words.

Of many settings that were tried on the same prices the best looks better than it is. Four questions, each answered
from all that were tried, those that were stopped early included:

- What would the best of so many without skill have come to? (`expected_best_sharpe`)
- How likely is it that the best one's Sharpe ratio is above 0 all the same? (`deflated_sharpe`)
- How often is the best on one half of the days below the median on the other half? (`overfitting_probability`)
- Could chance alone have put the best of them this far above the benchmark? (`spa_p_value`)

Sources: Bailey and Lopez de Prado, The Deflated Sharpe Ratio (2014); Bailey, Borwein, Lopez de Prado and Zhu, The
Probability of Backtest Overfitting (2017); Hansen, A Test for Superior Predictive Ability (2005).

NumPy and the standard library only: the launcher, which has no SciPy, asks the same of a tuning job's trials.
"""

import itertools
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

from ml.judge.bootstrap import Bootstrap

_CSCV_BLOCKS = 16  # 12,870 ways to choose one half


def expected_best_sharpe(sharpes: Sequence[float] | np.ndarray, tries: int = 0) -> float:
    """The highest Sharpe ratio to be expected of so many tries without skill that scatter as these do.

    Args:
        sharpes: of every try that is known, of a day or of a year; the result is of the same.
        tries: how many were made, where some are not known.
    """
    if len(sharpes) < 2:
        return 0.0
    tries = max(tries, len(sharpes))
    first, second = (NormalDist().inv_cdf(1 - share / tries) for share in (1, 1 / np.e))
    return float(np.std(sharpes, ddof=1) * ((1 - np.euler_gamma) * first + np.euler_gamma * second))


def deflated_sharpe(returns: np.ndarray, sharpes: Sequence[float] | np.ndarray, tries: int = 0) -> float:
    """The probability that the chosen try's true Sharpe ratio is above 0, given how many were tried.

    Args:
        returns: of the chosen try, (days,).
        sharpes: Sharpe ratio a day of every try that is known, the chosen one included.
        tries: as in `expected_best_sharpe`.

    Returns:
        In [0, 1]; nan where the returns are too few or do not vary.
    """
    days = len(returns)
    if days < 4 or not np.ptp(returns) > 0:
        return np.nan
    sharpe = np.mean(returns) / np.std(returns, ddof=1)
    skew, kurtosis = _skew_and_kurtosis(returns)
    variance = 1 - skew * sharpe + (kurtosis - 1) / 4 * sharpe**2
    if not variance > 0:
        return np.nan
    luck = expected_best_sharpe(sharpes, tries)
    return NormalDist().cdf(float((sharpe - luck) * np.sqrt((days - 1) / variance)))


def _skew_and_kurtosis(values: np.ndarray) -> tuple[float, float]:
    """Of at least four values, without bias; a normal distribution's are 0 and 3."""
    n = len(values)
    apart = values - np.mean(values)
    second, third, fourth = (float(np.mean(apart**power)) for power in (2, 3, 4))
    skew = np.sqrt(n * (n - 1)) / (n - 2) * third / second**1.5
    excess = (n - 1) / ((n - 2) * (n - 3)) * ((n + 1) * (fourth / second**2 - 3) + 6)
    return float(skew), float(excess + 3)


def overfitting_probability(results: np.ndarray, blocks: int = _CSCV_BLOCKS) -> float:
    """How often the best of one half of the days is at or below the median of all on the other half.

    The days are cut into blocks; every choice of one half of the blocks is tried (combinatorially symmetric
    cross-validation). One half says that choosing is guessing.

    Args:
        results: of each try on each day (returns, or gains over a benchmark), (days, tries); better is higher, and
            halves are compared by mean over standard deviation.
        blocks: an even number; days after the last whole block are left out.

    Returns:
        In [0, 1]; nan where there are fewer than two tries or two days a block, or one of them does not vary.
    """
    days, tries = results.shape
    length = days // blocks
    if tries < 2 or length < 2:
        return np.nan
    cut = results[: length * blocks].reshape(blocks, length, tries)
    chosen = np.array(list(itertools.combinations(range(blocks), blocks // 2)))
    halves = np.zeros((len(chosen), blocks))
    np.put_along_axis(halves, chosen, 1.0, axis=1)
    centre = results.mean(axis=0)  # taken off first, so that the squares keep their digits
    sums, squares = (cut - centre).sum(axis=1), ((cut - centre) ** 2).sum(axis=1)

    def ratios(weights: np.ndarray) -> np.ndarray:
        count = length * blocks // 2
        mean = weights @ sums / count
        variance = (weights @ squares - count * mean**2) / (count - 1)
        with np.errstate(invalid="ignore", divide="ignore"):
            return (mean + centre) / np.sqrt(variance)

    # The other half of a choice is a choice too: the last one for the first, and so on.
    first = ratios(halves)
    second = first[::-1]
    if not np.isfinite(first).all():
        return np.nan
    best = first.argmax(axis=1)
    theirs = np.take_along_axis(second, best[:, None], axis=1)
    rank = (second < theirs).sum(axis=1) + ((second == theirs).sum(axis=1) + 1) / 2
    return float(np.mean(rank / (tries + 1) <= 0.5))


def spa_p_value(gains: np.ndarray, bootstrap: Bootstrap) -> float:
    """Hansen's test of superior predictive ability: whether the best of all beats the benchmark by more than luck.

    Args:
        gains: of each try over the benchmark on each held-out row, (rows, tries); better is higher.
        bootstrap: of the same rows.

    Returns:
        The consistent p-value: how often resamples without skill show a best as good; nan where the rows are too few
        for intervals.
    """
    if not bootstrap.has_intervals:
        return np.nan
    rows = len(gains)
    means = np.stack([bootstrap.total(gain) for gain in gains.T]) / rows  # (tries, 1 + resamples)
    found, resampled = means[:, 0], means[:, 1:]
    error = resampled.std(axis=1)
    varies = error > 0
    if not varies.any():
        return 1.0 if found.max() <= 0 else 0.0
    found, resampled, error = found[varies], resampled[varies], error[varies]
    # Tries that are clearly worse than the benchmark say nothing about its best rival, so they stay where they are.
    hopeless = found < -error * np.sqrt(2 * np.log(np.log(rows)))
    null = np.where(hopeless, 0.0, found)
    best = max(0.0, (found / error).max())
    chance = np.maximum(0.0, ((resampled - null[:, None]) / error[:, None]).max(axis=0))
    return float(np.mean(chance > best))
