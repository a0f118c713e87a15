"""The sentences that a job ends with."""

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
    *,
    part: str,
    chose_epoch: bool = False,
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
        part: whose rows they are: validation or test.
        chose_epoch: whether the epoch that is kept was chosen on the same rows.
    """
    finding = (
        f"Too few {part} {bars_of(bar)} to compare the model with"
        if np.isnan(gain.low)
        else "The model is better than"
        if gain.low > 0
        else "The model is worse than"
        if gain.high < 0
        else "The model is not distinguishable from"
    )
    of_instruments = f" of {instruments:,} instruments" if instruments else ""
    also = ", which also chose the epoch" if chose_epoch else ""
    return (
        f"{finding} the best baseline ({best}): accuracy {share(accuracy.value)} against {share(theirs.value)} on "
        f"{bootstrap.rows:,} {part} {bars_of(bar)}{of_instruments}{also}, a difference of {share(gain.value, '+')} "
        f"({_evidence([share(end, '+') for end in gain[1:]], bootstrap, bar)})."
    )


def profit_verdict(
    profit: Estimate, later: Estimate, bootstrap: Bootstrap, bar: pd.Timedelta, unit: str, *, part: str, costs: str
) -> str:
    """What the profit of following the model says, one sentence.

    Args:
        profit: of one unit; of several instruments their sum.
        later: the same where every trade is made one bar later.
        bootstrap: that the intervals come from.
        bar: length of a bar.
        unit: of the profit.
        part: whose rows they are: validation or test.
        costs: what trading costs, as `costs_in_words` says it.
    """
    finding = (
        f"too few {part} {bars_of(bar)} to say whether that is chance"
        if np.isnan(profit.low)
        else "a profit that chance does not explain"
        if profit.low > 0 and later.low > 0
        else "a profit that chance does not explain, but only where every trade fills at once"
        if profit.low > 0
        else "a loss that chance does not explain"
        if profit.high < 0
        else "no more than chance explains"
    )
    how = "with one unit" if unit == PRICE_UNITS else "in every instrument"
    value, *ends, delayed, low, high = amounts([*profit, *later], "+")
    then = f"{delayed} ({low} to {high})" if bootstrap.has_intervals else delayed
    return (
        f"Following it {how}, {costs}, earned {value} {unit} ({_evidence(ends, bootstrap, bar)}), and "
        f"with every trade one bar later {then}: {finding}."
    )


def costs_in_words(spread: bool, fee: float) -> str:
    """What trading costs in a verdict's words: half the spread where there is one, and a share of the price."""
    paid = [*(["spread"] if spread else []), *([f"a fee of {100 * fee:g} %"] if fee else [])]
    return f"{' and '.join(paid)} paid" if paid else "no costs paid"


def _evidence(ends: Sequence[str], bootstrap: Bootstrap, bar: pd.Timedelta) -> str:
    """An interval in words, or why there is none."""
    if bootstrap.has_intervals:
        return f"{CONFIDENCE:.0%} interval {ends[0]} to {ends[1]}"
    return f"no interval from fewer than {LEAST_BLOCKS} blocks of {counted(bootstrap.block, bar)}; hold out more"
