"""The members of a population: which networks a job trains at once, and what came of each."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ml.hyperparameters import parse_value
from ml.points import parse_points, parse_ranges
from ml.settings import Settings

COMPLETED, STOPPED, PRUNED, DIVERGED = "Completed", "Stopped", "Pruned", "Diverged"


@dataclasses.dataclass(frozen=True)
class Member:
    """One network of a population.

    Attributes:
        number: from 0, in the order of the points.
        point: the settings that it does not share with all, by name.
        settings: all of its settings: a job of its own with these trains the same network.
    """

    number: int
    point: dict[str, Any]
    settings: Settings


@dataclasses.dataclass(frozen=True)
class MemberResult:
    """What came of a member.

    Attributes:
        member: the network.
        status: COMPLETED, STOPPED with the job, PRUNED by halving, or DIVERGED before an epoch could be kept.
        history: one dict of metrics an epoch that it was trained.
        best_epoch: the epoch (from 1) of its weights; 0: there is none.
        weights: of that epoch, in the order of the network's; none where there is none.
    """

    member: Member
    status: str
    history: list[dict[str, float]]
    best_epoch: int
    weights: list[np.ndarray]

    @property
    def best(self) -> dict[str, float]:
        """The metrics of the best epoch; empty where there is none."""
        return self.history[self.best_epoch - 1] if self.best_epoch else {}

    def as_json(self) -> dict[str, Any]:
        """As metrics.json has it."""
        return {
            "member": self.member.number,
            "settings": self.member.point,
            "status": self.status,
            "epochs": len(self.history),
            "best_epoch": self.best_epoch or None,
            "metrics": self.best,
        }


def members_of(settings: Settings) -> list[Member]:
    """The networks that a job trains at once; none where it trains one of its own settings.

    Points are drawn from ranges by a Sobol sequence that is scrambled by the seed, so every range is covered evenly
    whatever the number of networks.

    All are on the rows of the longest lookback, so that they can be compared.
    """
    if not is_population(settings):
        return []
    points = parse_points(settings.points, parse_value) if settings.points else _drawn_points(settings)
    alone = dataclasses.replace(settings, population=1, ranges="", points="", halving=1.0)
    own = [dataclasses.replace(alone, **point) for point in points]
    longest = max(each.rows_lookback for each in own)
    return [
        Member(number, point, dataclasses.replace(each, longest_lookback=longest if longest > each.lookback else 0))
        for number, (point, each) in enumerate(zip(points, own, strict=True))
    ]


def widest_of(members: Sequence[Member]) -> Settings:
    """Settings whose lookback and nodes are the largest of all, which the arrays of a population are made for."""
    lookback, nodes = (max(getattr(member.settings, name) for member in members) for name in ("lookback", "nodes"))
    shared = members[0].settings
    longest = shared.rows_lookback if shared.rows_lookback > lookback else 0
    return dataclasses.replace(shared, lookback=lookback, nodes=nodes, longest_lookback=longest)


def with_lookbacks(members: Sequence[Member]) -> list[Settings]:
    """The settings of a member with the shortest lookback and of one with the longest; one where all have the same."""
    ordered = sorted((member.settings for member in members), key=lambda settings: settings.lookback)
    return ordered[:1] if ordered[0].lookback == ordered[-1].lookback else [ordered[0], ordered[-1]]


def is_population(settings: Settings) -> bool:
    """Whether a job trains several networks, or one that is given as a point."""
    return bool(settings.points) or settings.population > 1


def best_first(results: Sequence[MemberResult], monitor: str) -> list[MemberResult]:
    """Results by the monitored metric of their best epoch, those without one last; of equals the first member first."""
    return sorted(results, key=lambda result: (badness(result.best, monitor), result.member.number))


def badness(metrics: dict[str, float], monitor: str) -> float:
    """What is smaller for better metrics; infinite for none."""
    value = metrics.get(monitor, math.nan)
    return math.inf if math.isnan(value) else value if monitor == "val_loss" else -value


def _drawn_points(settings: Settings) -> list[dict[str, Any]]:
    from scipy.stats import qmc  # which takes a moment that other jobs need not wait for

    ranges = parse_ranges(settings.ranges, parse_value)
    sobol = qmc.Sobol(len(ranges), rng=np.random.default_rng(settings.seed))
    shares = sobol.random_base2(math.ceil(math.log2(settings.population)))[: settings.population]
    return [{range_.name: range_.at(share) for range_, share in zip(ranges, row, strict=True)} for row in shares]
