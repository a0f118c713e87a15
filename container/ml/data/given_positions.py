"""How far ahead positions that were given, not computed, can be seen to look."""

from typing import NamedTuple

import numpy as np
import pandas as pd

from ml.optimal_position import FIRST_MINUTE

_MARGIN = 1.25  # times the horizon that the look ahead must exceed to be told
_CHANCE = 0.001  # with which positions of the horizon itself may seem to look further
_SCANNED = 10  # horizons


class GivenLook(NamedTuple):
    """Given positions that look further ahead than `horizon`.

    Attributes:
        bars: that they look ahead.
        horizon: of the settings.
        changes: of position from which that is seen.
        symbol: the instrument's name.
    """

    bars: int
    horizon: int
    changes: int
    symbol: str

    def line(self) -> str:
        """For the log and the report."""
        of_symbol = f" of {self.symbol}" if self.symbol else ""
        return (
            f"GIVEN POSITIONS LOOK TOO FAR AHEAD: after each of {self.changes:,} changes of position{of_symbol} the "
            f"price does not come back for {self.bars:,} bars, and horizon is {self.horizon:,}; training labels know "
            f"held-out prices, so scores are too good: set horizon={self.bars}"
        )


def given_look(history: pd.DataFrame, horizon: int, symbol: str = "") -> GivenLook | None:
    """How far ahead an instrument's given positions look, where that is seen to be further than the horizon.

    A position that looks ahead N bars, as the optimal one does, changes only where the price does not come back for
    N bars. So the change with the earliest return tells N. Positions of the horizon itself might all last longer by
    chance: a random walk that stayed on one side for h bars stays there for k bars with probability sqrt(h / k).
    Positions that see the future in another way, or only some of whose changes do, are not recognised.

    Args:
        history: mid and position, and bid and ask where they are known, a row a bar.
        horizon: bars that the job takes labels to look ahead.
        symbol: the instrument's name.

    Returns:
        None where no further look is seen, which proves nothing.
    """
    mid, position = history["mid"].to_numpy(), np.sign(history["position"].to_numpy())
    bid, ask = (history[name].to_numpy() if name in history else mid for name in ("bid", "ask"))
    scanned = _SCANNED * horizon
    shortest, changes = scanned, 0
    for row in np.flatnonzero((position[1:] != position[:-1]) & (position[1:] != 0)) + 1:
        ahead = mid[row + FIRST_MINUTE : row + scanned + 1]
        returned = ahead <= ask[row] if position[row] > 0 else ahead >= bid[row]
        if returned.any():
            shortest = min(shortest, int(np.argmax(returned)) + FIRST_MINUTE - 1)
            if shortest < _MARGIN * horizon:
                return None
        elif len(mid) - row <= scanned:
            continue  # it might return after the last row
        changes += 1
    by_chance = (horizon / shortest) ** (changes / 2)
    return GivenLook(shortest, horizon, changes, symbol) if by_chance < _CHANCE else None
