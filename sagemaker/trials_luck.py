"""How much of a tuning job's best trial is luck, from what its trials left on this machine."""

import contextlib
import functools
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from leaderboard import best_of, objective_value
from ml.judge.luck import luck_of_tries
from place.outcome import read_metrics


def luck_of_trials(
    trials: list[dict[str, Any]], folder_of: Callable[[str], Path], *, maximize: bool, parents: int = 0
) -> dict[str, Any]:
    """How much luck is in the choice of the best trial.

    Every trial that reached an objective is a try, pruned and stopped ones too.

    Args:
        trials: of the tuning job.
        folder_of: the folder of a job by its name.
        maximize: whether a higher objective is better.
        parents: how many trials of earlier tuning jobs the search learned from.

    Returns:
        As `ml.deliver.results.Luck` describes it; empty where there was no choice, or the best trial left no daily
        results, as a user's own script does.
    """
    judged = [trial for trial in trials if objective_value(trial) is not None]
    best = best_of(trials, maximize=maximize)
    if best is None:
        return {}
    read = functools.cache(lambda job: read_metrics(folder_of(job) / "model").get("daily"))
    daily = {}
    for trial in judged:
        name = trial["TrainingJobName"]
        if found := _daily_of(read(trial.get("MemberOf", name)), trial.get("Member")):
            daily[name] = found
    return luck_of_tries(daily, best["TrainingJobName"], len(judged) + parents)


def _daily_of(daily: Any, member: int | None) -> dict[str, Any]:
    """The daily results in a job's metrics.json; empty where there are none, or they are damaged.

    Args:
        daily: as `ml.deliver.results.Daily` describes it.
        member: of a job that trained several, the one that is asked for.
    """
    with contextlib.suppress(KeyError, TypeError, ValueError):
        days = [f"{date.fromisoformat(day)}" for day in daily["days"]]
        with_rule = {"best_rule": daily["best_rule"]} if "best_rule" in daily else {}
        model = daily["model"] if member is None else daily["members"][str(member)]
        results = np.array([model, *with_rule.values()], np.float64)
        whole = np.isfinite(results).all() and results.shape[1:] == (len(set(days)),) and len(days) > 0
        if whole and type(daily["block_days"]) is int and daily["block_days"] > 0:
            own = {"days": days, "model": model, "block_days": daily["block_days"]}
            return own | with_rule | {"rule": str(daily.get("rule", ""))}
    return {}
