"""The two sentences that a job ends with."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from ml.digits import amounts, share
from ml.judge.bars import bars_of, counted
from ml.judge.bootstrap import CONFIDENCE, LEAST_BLOCKS, Bootstrap, Estimate
from ml.judge.trading import PRICE_UNITS


def accuracy_verdict(
    accuracy: Estimate,
    theirs: Estimate,
    gain: Estimate,
    best: str,
    bootstrap: Bootstrap,
    bar: pd.Timedelta,
    instruments: int = 0,
) -> str:
    """What the accuracies of the model and the best baseline say, one sentence.

    Args:
        accuracy: the model's.
        theirs: the best baseline's.
        gain: their difference, paired.
        best: the best baseline's name.
        bootstrap: that the intervals come from.
        bar: length of a bar.
        instruments: how many there are, where there are several.
    """
    finding = (
        f"Too few held-out {bars_of(bar)} to compare the model with"
        if np.isnan(gain.low)
        else "The model is better than"
        if gain.low > 0
        else "The model is worse than"
        if gain.high < 0
        else "The model is not distinguishable from"
    )
    of_instruments = f" of {instruments:,} instruments" if instruments else ""
    return (
        f"{finding} the best baseline ({best}): accuracy {share(accuracy.value)} against {share(theirs.value)} on "
        f"{bootstrap.rows:,} held-out {bars_of(bar)}{of_instruments}, a difference of {share(gain.value, '+')} "
        f"({_evidence([share(end, '+') for end in gain[1:]], bootstrap, bar)})."
    )


def profit_verdict(profit: Estimate, bootstrap: Bootstrap, bar: pd.Timedelta, unit: str) -> str:
    """What the profit of following the model says, one sentence.

    Args:
        profit: of one unit; of several instruments their sum.
        bootstrap: that the interval comes from.
        bar: length of a bar.
        unit: of the profit.
    """
    finding = (
        f"too few held-out {bars_of(bar)} to say whether that is chance"
        if np.isnan(profit.low)
        else "a profit that chance does not explain"
        if profit.low > 0
        else "a loss that chance does not explain"
        if profit.high < 0
        else "no more than chance explains"
    )
    how = "with one unit" if unit == PRICE_UNITS else "in every instrument"
    value, *ends = amounts(profit, "+")
    return f"Following it {how}, spread paid, earned {value} {unit} ({_evidence(ends, bootstrap, bar)}): {finding}."


def _evidence(ends: Sequence[str], bootstrap: Bootstrap, bar: pd.Timedelta) -> str:
    """An interval in words, or why there is none."""
    if bootstrap.has_intervals:
        return f"{CONFIDENCE:.0%} interval {ends[0]} to {ends[1]}"
    return f"no interval from fewer than {LEAST_BLOCKS} blocks of {counted(bootstrap.block, bar)}; hold out more"
