"""Numbers as people read them: as many digits as mean something, never an exponent where none is needed."""

import itertools
import math
from collections.abc import Sequence

_DIGITS = 4  # significant ones
_MOST_DECIMALS = 10  # more are not counted at a glance: an exponent is
MISSING = "–"


def amounts(values: Sequence[float], sign: str = "") -> list[str]:
    """Numbers of one kind and any size, all with the decimals that give the largest four significant digits.

    Args:
        values: such as profits in price units; nan where there is none.
        sign: "+" to show it always.

    >>> amounts([-5721.75, 12.5]), amounts([0.0246, -0.0001]), amounts([0.00002934])
    (['-5,722', '12'], ['0.02460', '-0.00010'], ['0.00002934'])
    """
    finite = [abs(value) for value in values if math.isfinite(value)]
    decimals = max(0, _DIGITS - 1 - _magnitude(max(finite, default=0)))
    return [_written(value, decimals, sign) for value in values]


def amount(value: float, sign: str = "") -> str:
    """A number of any size, to four significant digits; a whole part is never rounded."""
    return amounts([value], sign)[0]


def share(value: float, sign: str = "") -> str:
    """A number near or below 1, such as an accuracy or a loss: four decimals."""
    return _written(value, 4, sign)


def tick(value: float, ticks: Sequence[float]) -> str:
    """A tick's label, with the decimals that tell it from its neighbours.

    >>> tick(1.1025, [1.1, 1.1025, 1.105]), tick(60_000, [50_000, 60_000]), tick(-0.0, [-0.5, -0.0, 0.5])
    ('1.1025', '60,000', '0.0')
    """
    steps = [abs(second - first) for first, second in itertools.pairwise(ticks) if second != first]
    if not steps:
        return amount(value)
    step = float(f"{min(steps):.9g}")  # 1.2 - 1.1 is a little less than 0.1
    decimals = max(0, -_magnitude(step))
    while abs(round(step, decimals) - step) > step / 1000 and decimals <= _MOST_DECIMALS:
        decimals += 1  # a step of 0.25 has two decimals
    return _written(value, decimals, "")


def _magnitude(value: float) -> int:
    return math.floor(math.log10(value)) if value else _DIGITS - 1


def _written(value: float, decimals: int, sign: str) -> str:
    if not math.isfinite(value):
        return MISSING
    if decimals > _MOST_DECIMALS:
        return f"{value:{sign}.{_DIGITS - 1}e}"
    return f"{round(value, decimals) + 0.0:{sign},.{decimals}f}"  # + 0.0: no minus before a zero
