"""A request against AWS's own model of it, which botocore ships: no account and no network are needed.

botocore itself checks types, required and unknown keys and minimums; the model also knows maximums, patterns and
enumerations, so it is walked here.
"""

import dataclasses
import difflib
import functools
import math
import re
from collections.abc import Iterator
from typing import Any

import botocore.model
import botocore.session

from request import operation_of, s3_sources, training_part

_LONGEST = 80  # characters of a value in a message


@dataclasses.dataclass(frozen=True)
class Problem:
    """What is wrong with a request, as `where: what is allowed, received what`.

    `wrong_type`: the value is not what the rest of the program takes it for, so nothing else can be checked.
    """

    text: str
    wrong_type: bool = False


def find_problems(request: dict[str, Any]) -> list[Problem]:
    """What AWS's model of the request's operation forbids in it."""
    shape = _service_model().operation_model(operation_of(request)).input_shape
    return list(_shape_problems(shape, _with_remote_channels(request), ""))


def short(value: Any) -> str:
    """A value as messages show it: its repr, cut."""
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


@functools.cache
def _service_model() -> botocore.model.ServiceModel:
    return botocore.session.get_session().get_service_model("sagemaker")


def _with_remote_channels(request: dict[str, Any]) -> dict[str, Any]:
    """The request with file:// channels, which only local places have, in a form that the model accepts."""

    def replaced(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: replaced(item) for key, item in value.items()}
        if isinstance(value, list):
            return [replaced(item) for item in value]
        # No limit of AWS's is on paths of this machine, which may be many.
        return re.sub("^file:///.*", "s3://bucket", value) if isinstance(value, str) else value

    part = training_part(request)
    if not any(source["S3Uri"].startswith("file:///") for source in s3_sources(request).values()):
        return request
    part = {**part, "InputDataConfig": replaced(part["InputDataConfig"])}
    return part if training_part(request) is request else {**request, "TrainingJobDefinition": part}


_TYPES = {
    "structure": (dict, "a mapping"),
    "map": (dict, "a mapping"),
    "list": (list, "a list"),
    "string": (str, "text"),
    "integer": (int, "a whole number"),
    "long": (int, "a whole number"),
    "float": ((int, float), "a number"),
    "double": ((int, float), "a number"),
    "boolean": (bool, "true or false"),
}


def _shape_problems(shape: Any, value: Any, where: str) -> Iterator[Problem]:
    expected, words = _TYPES.get(shape.type_name, (object, "a value"))
    if not _is_a(value, expected):
        yield Problem(f"{where}: must be {words}, received {short(value)}", wrong_type=True)
    elif shape.type_name == "structure":
        yield from _structure_problems(shape, value, where)
    elif shape.type_name == "list":
        yield from _size_problems(shape, len(value), f"{len(value)} entries", "entries", where)
        for index, item in enumerate(value):
            yield from _shape_problems(shape.member, item, f"{where}[{index}]")
    elif shape.type_name == "map":
        yield from _size_problems(shape, len(value), f"{len(value)} entries", "entries", where)
        for key, item in value.items():
            yield from _shape_problems(shape.key, key, f"{where}, a key")
            yield from _shape_problems(shape.value, item, f"{where}.{str(key)[:_LONGEST]}")
    elif shape.type_name == "string":
        yield from _string_problems(shape, value, where)
    elif shape.type_name != "boolean":
        yield from _size_problems(shape, value, repr(value), "", where)


def _is_a(value: Any, expected: type | tuple[type, ...]) -> bool:
    """Whether a value is of a type; to Python a bool is a whole number, to AWS it is none."""
    return isinstance(value, expected) and (expected in (bool, object) or not isinstance(value, bool))


def _structure_problems(shape: Any, value: dict[str, Any], where: str) -> Iterator[Problem]:
    prefix = f"{where}." if where else ""
    for key in value.keys() - shape.members.keys():
        nearest = difflib.get_close_matches(str(key)[:_LONGEST], shape.members, n=1, cutoff=0.5)
        hint = f"did you mean {nearest[0]}?" if nearest else f"known: {', '.join(shape.members)}"
        yield Problem(f"{prefix}{str(key)[:_LONGEST]}: unknown key, received {short(value[key])}; {hint}")
    for key in shape.required_members:
        if key not in value:
            yield Problem(f"{prefix}{key}: missing; it is required")
    for key in value:
        if key in shape.members:
            yield from _shape_problems(shape.members[key], value[key], f"{prefix}{key}")


def _size_problems(shape: Any, size: float, received: str, unit: str, where: str) -> Iterator[Problem]:
    low, high = shape.metadata.get("min", -math.inf), shape.metadata.get("max", math.inf)
    if not low <= size <= high:
        allowed = (
            f"be at least {low}"
            if high == math.inf
            else f"have {low} to {high} {unit}"
            if unit
            else f"be in [{low}, {high}]"
        )
        yield Problem(f"{where}: must {allowed}, received {received}")


def _string_problems(shape: Any, value: str, where: str) -> Iterator[Problem]:
    wrong_size = list(_size_problems(shape, len(value), f"{len(value)}: {short(value)}", "characters", where))
    yield from wrong_size
    if value not in (shape.enum or [value]):
        allowed = ", ".join(shape.enum)
        if len(shape.enum) > 12:
            nearest = difflib.get_close_matches(value[:_LONGEST], shape.enum, n=3, cutoff=0) or shape.enum[:3]
            allowed = f"{len(shape.enum)} names, the nearest {', '.join(nearest)}"
        yield Problem(f"{where}: must be one of {allowed}, received {short(value)}")
    pattern = shape.metadata.get("pattern")
    if pattern and not wrong_size and not re.fullmatch(_python_pattern(pattern), value):
        yield Problem(f"{where}: must match {pattern}, received {short(value)}")


def _python_pattern(pattern: str) -> str:
    """A pattern of the model, which is Java's, for `re`, which has no Unicode classes by property."""
    return pattern.replace(r"\p{L}\p{Z}\p{N}", r"\w\s").replace(r"\p{Alnum}", "a-zA-Z0-9")
