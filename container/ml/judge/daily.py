"""What following predictions earned on each day: what `ml.judge.luck` tells luck by."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ml.judge.bars import DAY
from ml.judge.held_out import MODEL, Held
from ml.judge.instruments import Instrument
from ml.judge.luck import luck_of_results
from ml.judge.scores import Prediction
from ml.judge.trading import in_basis_points, positions
from ml.metrics import rounded
from ml.settings import Settings


class Members(NamedTuple):
    """What the members of a population predict.

    Attributes:
        rows: of the fold's validation rows those with a prediction, int, (windows,); the same for all members.
        probabilities: of buy, (members, windows).
        numbers: of the members, in that order.
        chosen: the number of the one that is kept.
        tries: how many members there were, those included that were dropped before they could predict.
    """

    rows: np.ndarray
    probabilities: np.ndarray
    numbers: Sequence[int]
    chosen: int
    tries: int


def daily_profits(held: Sequence[Held], followed: Sequence[Mapping[str, np.ndarray]]) -> pd.DataFrame:
    """What following positions earned on each day (UTC), before costs, in basis points of the price.

    Args:
        held: each instrument's held-out rows.
        followed: of each the positions that are followed by name, (rows,).

    Returns:
        A row a day with a held-out row, a column a name; of several instruments the sums.
    """
    parts = []
    for each, by_name in zip(held, followed, strict=True):
        mid = each.rows["mid"].to_numpy(np.float64)
        moves = in_basis_points(np.diff(mid, prepend=mid[0]), mid)
        number, days = pd.factorize(pd.DatetimeIndex(each.rows.index).floor("D"))
        sums = {
            name: np.bincount(number, np.concatenate([[0.0], position[:-1]]) * moves)
            for name, position in by_name.items()
        }
        parts.append(pd.DataFrame(sums, days))
    return parts[0] if len(parts) == 1 else pd.concat(parts).groupby(level=0).sum()


def daily_of(daily: pd.DataFrame, block: int, bar: pd.Timedelta) -> dict[str, Any]:
    """Daily profits in JSON's types, as `ml.deliver.results.Daily` describes them.

    Args:
        daily: from `daily_profits`: a column `model`, and one of the best rule where it is known.
        block: bars of a block of the bootstrap.
        bar: length of a bar.
    """
    found: dict[str, Any] = {
        "days": [f"{day:%Y-%m-%d}" for day in daily.index],
        "block_days": block_days(block, bar),
        "model": list(map(rounded, daily[MODEL])),
    }
    for rule in daily.columns.drop(MODEL):
        found |= {"rule": rule, "best_rule": list(map(rounded, daily[rule]))}
    return found


def block_days(block: int, bar: pd.Timedelta) -> int:
    """Days of a block of so many bars."""
    return max(1, -(-block * bar // DAY))


def daily_of_model(instruments: Sequence[Instrument], settings: Settings) -> pd.DataFrame:
    """What following a model earned on each day, where nothing else is known of it: a column `model`."""
    held = [Held.of(each, settings) for each in instruments if len(each.predicted)]
    return daily_profits(held, [{MODEL: _position(each, each.probability, settings)} for each in held])


def daily_of_members(instruments: Sequence[Instrument], members: Members, settings: Settings) -> pd.DataFrame:
    """What following each member earned on each day: a column a member, named by its number.

    Args:
        instruments: with any member's predictions of the validation rows.
        members: what all of them predict there.
        settings: of the member that is kept.
    """
    held = [Held.of(each, settings) for each in instruments if len(each.predicted)]
    ends = np.cumsum([len(each.probability) for each in held])[:-1]
    found = {}
    for number, probabilities in zip(members.numbers, members.probabilities, strict=True):
        followed = [
            {MODEL: _position(each, part, settings)}
            for each, part in zip(held, np.split(probabilities, ends), strict=True)
        ]
        found[number] = daily_profits(held, followed)[MODEL]
    return pd.DataFrame(found)


def luck_of_members(daily: pd.DataFrame, members: Members, best_rule: pd.Series, block: int) -> dict[str, Any]:
    """How much luck is in the choice of a member of a population.

    Args:
        daily: from `daily_of_members`.
        members: the same.
        best_rule: what following the best rule earned on each day, by its name (from `daily_profits`).
        block: days of a block of the bootstrap.
    """
    found = luck_of_results(
        daily.to_numpy(),
        best_rule.to_numpy(),
        [day.date() for day in pd.DatetimeIndex(best_rule.index)],
        chosen=list(members.numbers).index(members.chosen),
        tries=members.tries,
        block=block,
        rule=str(best_rule.name),
    )
    return found | {"chosen": str(members.chosen)}


def _position(held: Held, probability: np.ndarray, settings: Settings) -> np.ndarray:
    """The position of one who follows a model, (rows,)."""
    return positions(Prediction(MODEL, probability, probability > 0.5), settings.threshold, held.predicted)
