"""What the networks of a population differ in, as a request says it: points one by one, or ranges to draw them from.

It imports nothing heavy, since the launcher checks requests with it.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping
from typing import Any

from ml.errors import UserError
from ml.settings import SETTINGS, VARIED

_KINDS = {"IntegerParameterRanges": int, "ContinuousParameterRanges": float, "CategoricalParameterRanges": str}
_SCALINGS = ("Auto", "Linear", "Logarithmic", "ReverseLogarithmic")

Parse = Callable[[str, Any], Any]  # `ml.hyperparameters.parse_value`: the typed value of a setting, or UserError


@dataclasses.dataclass(frozen=True)
class Range:
    """What a setting is drawn from.

    Attributes:
        name: of the setting.
        low, high: both included.
        scaling: Linear, Logarithmic or ReverseLogarithmic.
        values: to choose from instead, where there are any.
    """

    name: str
    low: float = 0.0
    high: float = 0.0
    scaling: str = "Linear"
    values: tuple[Any, ...] = ()

    def at(self, share: float) -> Any:
        """The value at a share of the range, in [0, 1), scaled; whole where the setting is."""
        if self.values:
            return self.values[int(share * len(self.values))]
        whole = SETTINGS[self.name].type is int
        # Each whole number gets the same share, the two ends as well.
        low, high = (self.low - 0.5, self.high + 0.5) if whole else (self.low, self.high)
        if self.scaling == "Logarithmic":
            value = low * (high / low) ** share
        elif self.scaling == "ReverseLogarithmic":  # logarithmic in the distance from 1
            value = 1 - (1 - low) * ((1 - high) / (1 - low)) ** share
        else:
            value = low + share * (high - low)
        value = min(max(float(f"{value:.6g}"), self.low), self.high)  # six digits, which a table shows whole
        return round(value) if whole else value


def parse_points(text: str, parse: Parse) -> list[dict[str, Any]]:
    """The points of a population from JSON text: of each network its own settings by name.

    Raises:
        UserError: it is no list of such objects, or a value is wrong.
    """
    entries = _json("points", text)
    example = '[{"learning_rate": 0.001}, {"learning_rate": 0.01}]'
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
        raise UserError(f"hyperparameter points must be a JSON list such as {example}, received {text[:100]!r}")
    return [_parse_point(entry, f"member {number} of points", parse) for number, entry in enumerate(entries)]


def parse_ranges(text: str, parse: Parse) -> list[Range]:
    """The ranges of a population from the JSON text of SageMaker's ParameterRanges.

    Raises:
        UserError: it is something else, or a bound is wrong.
    """
    groups = _json("ranges", text)
    if not isinstance(groups, dict) or not groups or not all(isinstance(each, list) for each in groups.values()):
        raise UserError(
            'hyperparameter ranges must be ParameterRanges in JSON such as {"ContinuousParameterRanges": [{"Name": '
            f'"learning_rate", "MinValue": "0.0001", "MaxValue": "0.01"}}]}}, received {text[:100]!r}'
        )
    found: list[Range] = []
    for kind, entries in groups.items():
        if kind not in _KINDS:
            raise UserError(f"hyperparameter ranges has {kind!r}, and knows {', '.join(_KINDS)}")
        for entry in entries:
            if not isinstance(entry, dict) or not isinstance(entry.get("Name"), str):
                raise UserError(f"hyperparameter ranges: an entry of {kind} needs a Name, received {str(entry)[:100]}")
            found.append(_parse_range(kind, entry, parse))
    names = [range_.name for range_ in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"hyperparameter ranges has {', '.join(twice)} more than once")
    if not found:
        raise UserError("hyperparameter ranges has no range, so there is nothing in which the networks would differ")
    return found


def refuse_shared(name: str) -> None:
    """Refuses a setting that is one value for all members of a population.

    Raises:
        UserError: it is one, or none at all.
    """
    if name not in VARIED:
        what = "is one value for all members of a population" if name in SETTINGS else "is unknown"
        raise UserError(f"hyperparameter {name} {what}; they may differ in {', '.join(VARIED)}")


def _parse_point(entry: Mapping[str, Any], where: str, parse: Parse) -> dict[str, Any]:
    point = {}
    for name, value in entry.items():
        refuse_shared(name)
        try:
            point[name] = parse(name, value)
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
    return point


def _parse_range(kind: str, entry: Mapping[str, Any], parse: Parse) -> Range:
    name = entry["Name"]
    refuse_shared(name)
    where = f"the range of {name}"
    if kind == "CategoricalParameterRanges":
        values = entry.get("Values")
        if not isinstance(values, list) or not values:
            raise UserError(f"{where} needs Values, received {values!r}")
        return Range(name, values=tuple(_parse_point({name: value}, where, parse)[name] for value in values))
    whole = SETTINGS[name].type is int
    if whole != (kind == "IntegerParameterRanges"):
        raise UserError(f"{where} must be among the {'Integer' if whole else 'Continuous'}ParameterRanges")
    low, high = (_parse_point({name: entry.get(bound)}, where, parse)[name] for bound in ("MinValue", "MaxValue"))
    if low > high:
        raise UserError(f"{where} must have a MinValue of at most its MaxValue, received {low:g} and {high:g}")
    scaling = entry.get("ScalingType", "Auto")
    if scaling not in _SCALINGS:
        raise UserError(f"{where} must have a ScalingType of {', '.join(_SCALINGS)}, received {scaling!r}")
    if scaling == "Auto":
        scaling = SETTINGS[name].metadata["scaling"]
        scaling = "Linear" if scaling == "Logarithmic" and low <= 0 else scaling
    if scaling == "Logarithmic" and low <= 0:
        raise UserError(f"{where} is Logarithmic and needs a MinValue above 0, received {low:g}")
    if scaling == "ReverseLogarithmic" and (whole or not 0 <= low <= high < 1):
        raise UserError(f"{where} is ReverseLogarithmic and must be continuous in [0, 1), received {low:g} to {high:g}")
    return Range(name, low, high, scaling)


def _json(name: str, text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise UserError(f"hyperparameter {name} is no JSON: {error}, received {text[:100]!r}") from None


def _refuse_constant(text: str) -> float:
    raise ValueError(f"{text} is no number")
