"""Whether a model is better than another on the same held-out rows, by the paired block bootstrap."""

from typing import NamedTuple

import numpy as np

from ml.judge.bootstrap import CONFIDENCE, LEAST_BLOCKS, Bootstrap, Estimate

_LEAST_PROBABILITY = 1e-7  # for the logarithm


class Comparison(NamedTuple):
    """Two models on the same rows.

    Attributes:
        new: log-loss of the new model, in nats.
        old: of the other.
        difference: new minus old with its interval; below 0: the new one is better.
        skill: new minus that of always saying the share of buys; below 0: the new one knows something.
        text: the difference in words.
    """

    new: float
    old: float
    difference: Estimate
    skill: Estimate
    text: str

    @property
    def has_interval(self) -> bool:
        """Whether the rows are enough to tell."""
        return not np.isnan(self.difference.low)

    @property
    def has_skill(self) -> bool:
        """Whether the new model says more than the share of buys does.

        Where the labels themselves are broken, a model that learned nothing is better than one that learned them
        while they were right.
        """
        return bool(self.skill.high < 0)

    @property
    def is_better(self) -> bool:
        """Whether the interval lies below 0."""
        return bool(self.difference.high < 0)

    @property
    def is_not_worse(self) -> bool:
        """Whether the interval reaches 0 or lies below it; rows too few for an interval say nothing."""
        return bool(self.difference.low <= 0)


def compared(
    new: np.ndarray,
    old: np.ndarray,
    labels: np.ndarray,
    block: int,
    share: float,
    times: np.ndarray | None = None,
    *,
    part: str = "validation",
) -> Comparison:
    """Compares the probabilities of buy of two models.

    Args:
        new: (rows,).
        old: (rows,), of the same rows.
        labels: (rows,), whether buy was right.
        block: rows of a block of the bootstrap, longer than what a label looks ahead.
        share: of buys among the training rows.
        times: of the rows, (rows,), where they are of several instruments.
        part: whose rows they are: validation or test.
    """
    moments = np.arange(len(labels)) if times is None else np.unique(times, return_inverse=True)[1]
    bootstrap = Bootstrap(int(moments.max()) + 1, block).at(moments)
    always = np.full(len(labels), share)
    losses = [_log_losses(np.asarray(each, np.float64), labels) for each in (new, old, always)]
    means = [float(each.mean()) for each in losses[:2]]
    difference, skill = (bootstrap.estimate(bootstrap.total(losses[0] - other) / len(labels)) for other in losses[1:])
    interval = (
        f"{CONFIDENCE:.0%} interval {difference.low:+.4f} to {difference.high:+.4f}"
        if bootstrap.has_intervals
        else f"no interval from fewer than {LEAST_BLOCKS} blocks of {block:,} rows; hold out more"
    )
    text = (
        f"log-loss {means[0]:.4f} against {means[1]:.4f} of the model under the key on the same {len(labels):,} {part} "
        f"rows, a difference of {difference.value:+.4f} ({interval})"
    )
    return Comparison(means[0], means[1], difference, skill, text)


def _log_losses(probability: np.ndarray, labels: np.ndarray) -> np.ndarray:
    given = np.where(labels, probability, 1 - probability)  # the probability of what came
    return -np.log(np.clip(given, _LEAST_PROBABILITY, 1))
