"""How much of the best of many tries is luck, in figures and in sentences.

A try is a trial of a tuning job or a member of a population. Each is known by what following it earned on each day of
validation, before costs: costs are no luck, and a try that trades seldom would look better for that alone.

NumPy and the standard library only, since the launcher asks this of trials.
"""

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

import numpy as np

from ml.digits import MISSING
from ml.judge.bootstrap import CONFIDENCE, Bootstrap
from ml.judge.selection import deflated_sharpe, expected_best_sharpe, overfitting_probability, spa_p_value

_MOST_BLOCKS, _LEAST_BLOCKS = 16, 6  # that the days are cut into, to choose on one half and look at the other
_YEAR = 365.25  # days


def luck_of_tries(daily: Mapping[str, Mapping[str, Any]], chosen: str, tries: int) -> dict[str, Any]:
    """How much luck is in the choice of a try.

    Args:
        daily: results of each try that is known, by its name, as `ml.deliver.results.Daily` describes them.
        chosen: the name of the one that was chosen.
        tries: how many were judged, those included whose results are not known, such as ones that were stopped early.

    Returns:
        As `ml.deliver.results.Luck` describes it; empty where there was no choice, or where the chosen one's results
        are not known.
    """
    if tries < 2 or chosen not in daily:
        return {}
    own = daily[chosen]
    # Others were judged on other days where settings say so: they count, and tell nothing.
    same = {name: each for name, each in daily.items() if 2 * len({*each["days"]} & {*own["days"]}) >= len(own["days"])}
    days = sorted(set.intersection(*({*each["days"]} for each in same.values())))
    if not days:
        days, same = own["days"], {chosen: own}
    known = {name: _on(days, each, "model") for name, each in same.items()}
    known = {name: results for name, results in known.items() if name == chosen or np.ptp(results) > 0}
    with_rule = own if "best_rule" in own else next((each for each in same.values() if "best_rule" in each), {})
    return luck_of_results(
        np.column_stack(list(known.values())),
        _on(days, with_rule, "best_rule") if with_rule else None,
        [date.fromisoformat(day) for day in days],
        chosen=list(known).index(chosen),
        tries=tries,
        block=own["block_days"],
        rule=with_rule.get("rule", ""),
    ) | {"chosen": chosen}


def _on(days: Sequence[str], daily: Mapping[str, Any], which: str) -> np.ndarray:
    """One of a try's results on some of its days, (days,)."""
    place = {day: number for number, day in enumerate(daily["days"])}
    return np.asarray(daily[which], np.float64)[[place[day] for day in days]]


def luck_of_results(
    results: np.ndarray,
    best_rule: np.ndarray | None,
    days: Sequence[date],
    *,
    chosen: int,
    tries: int,
    block: int,
    rule: str = "",
) -> dict[str, Any]:
    """How much luck is in the choice of a try.

    Args:
        results: what following each try earned on each day, before costs, (days, tries).
        best_rule: what following the best rule earned, (days,); None: it is not known.
        days: the days, in the order of time, at least one.
        chosen: the column of the try that was chosen.
        tries: how many were judged, at least as many as there are columns.
        block: days of a block of the bootstrap.
        rule: the best rule's name.

    Returns:
        As `ml.deliver.results.Luck` describes it, without `chosen`. A figure is None where the days are too few.
    """
    count = len(days)
    mean, deviation = results.mean(axis=0), results.std(axis=0, ddof=min(1, count - 1))
    sharpes = np.divide(mean, deviation, out=np.full(len(mean), np.nan), where=deviation > 0)
    known = sharpes[np.isfinite(sharpes)]
    year = np.sqrt(_YEAR * count / ((days[-1] - days[0]).days + 1))
    blocks = min(_MOST_BLOCKS, 2 * (count // (2 * max(2, block))))
    figures = {
        "sharpe": sharpes[chosen] * year,
        "expected_best_sharpe": expected_best_sharpe(known, tries) * year if len(known) > 1 else np.nan,
        "deflated_sharpe": deflated_sharpe(results[:, chosen], known, tries) if len(known) > 1 else np.nan,
        "overfitting_probability": (
            overfitting_probability(results[:, np.isfinite(sharpes)], blocks) if blocks >= _LEAST_BLOCKS else np.nan
        ),
        "spa_p_value": (
            np.nan if best_rule is None else spa_p_value((results.T - best_rule).T, Bootstrap(count, block))
        ),
    }
    figures = {name: float(f"{value:.6g}") if np.isfinite(value) else None for name, value in figures.items()}
    facts = {"tries": tries, "known": results.shape[1], "days": count, "rule": rule, **figures}
    return facts | {"verdict": _verdict(facts), "rows": _rows(facts)}


def _verdict(facts: Mapping[str, Any]) -> str:
    """Whether luck can explain the winner, one sentence."""
    winner = f"the best of {facts['tries']:,} tries"
    deflated, p_value = facts["deflated_sharpe"], facts["spa_p_value"]
    if deflated is None or p_value is None:
        return (
            f"How much of {winner} is luck cannot be told from the results of {facts['known']:,} on "
            f"{facts['days']:,} days of validation."
        )
    if deflated >= CONFIDENCE and p_value <= 1 - CONFIDENCE:
        return f"Luck alone does not explain {winner}."
    return f"Luck alone can explain {winner}."


def _rows(facts: Mapping[str, Any]) -> list[list[str]]:
    """Each figure's name, its value and what it says, for a table."""
    tries, known = facts["tries"], facts["known"]
    counted_only = f" {tries - known:,} of them left no results to use and are only counted." if tries > known else ""
    rule = f"the best rule ({facts['rule']})" if facts["rule"] else "the best rule"
    told = {
        "expected_best_sharpe": (
            "Sharpe ratio a year of the luckiest",
            "{:.2f}",
            lambda value: (
                f"Of {tries:,} tries without skill the luckiest would be expected to show {value:.2f}; the chosen one "
                f"shows {_number(facts['sharpe'])}, over {facts['days']:,} days and before costs.{counted_only}"
            ),
        ),
        "deflated_sharpe": (
            "deflated Sharpe ratio",
            "{:.3f}",
            lambda value: (
                f"That the chosen one earns anything before costs is {_percent(value)} likely, once it counts that "
                f"{tries:,} were tried; {CONFIDENCE:.0%} would be convincing."
            ),
        ),
        "overfitting_probability": (
            "probability of overfitting",
            "{:.3f}",
            lambda value: (
                "Whoever chooses the best on one half of the days gets one of the lower half on the other days in "
                f"{_percent(value)} of the cases; at 50% choosing is guessing."
            ),
        ),
        "spa_p_value": (
            "p-value against the best rule",
            "{:.3f}",
            lambda value: (
                f"Were no try better than {rule}, luck alone would put the best of them as far ahead of it in "
                f"{_percent(value)} of the cases; below {1 - CONFIDENCE:.0%} would be convincing."
            ),
        ),
    }
    rows = []
    for name, (title, form, sentence) in told.items():
        value = facts[name]
        unknown = f"Not known: {facts['days']:,} days are too few, or the results that it needs are missing."
        rows.append([title, MISSING, unknown] if value is None else [title, form.format(value), sentence(value)])
    return rows


def _number(value: float | None) -> str:
    return MISSING if value is None else f"{value:.2f}"


def _percent(share: float) -> str:
    return "less than 0.1%" if share < 0.001 else "more than 99.9%" if share > 0.999 else f"{share:.1%}"
