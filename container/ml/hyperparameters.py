"""Settings from the texts that a request holds, with a message for each that is wrong.

The job and the launcher read hyperparameters with it. It imports nothing heavy, so the launcher starts fast.
"""

import contextlib
import difflib
import json
import math
import re
import zoneinfo
from collections.abc import Mapping
from datetime import date, datetime, timedelta, timezone
from typing import Any

from ml.dates import relative_day, today
from ml.errors import UserError
from ml.kydb_urls import check_url
from ml.points import parse_points, parse_ranges
from ml.settings import PRESETS, SETTINGS, Settings

# Limits of a key, in bytes of UTF-8, below those of every backend (255 for a file's name, 1,024 for an S3 key), since
# temporary files, versions and chunks have names that are made from the key's and longer.
_PART_BYTES, _KEY_BYTES = 180, 800

# Written by SageMaker, its tuner and its SDK among the user's hyperparameters.
PLATFORM_PREFIXES = ("sagemaker_", "_tuning_")


def _parse_bool(text: str) -> bool:
    try:
        return {"true": True, "false": False}[text.lower()]
    except KeyError:
        raise ValueError("true or false") from None


def _parse_int(text: str) -> int:
    try:
        number = float(text)  # tuners and YAML write 1440.0 and 1e3 for whole numbers
        whole = int(text) if re.fullmatch(r"[+-]?\d+", text) else int(number)
    except (ValueError, OverflowError):
        raise ValueError("a whole number") from None
    if not math.isfinite(number) or whole != number:
        raise ValueError("a whole number")
    return whole


def _parse_float(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        raise ValueError("a number") from None
    if not math.isfinite(number):
        raise ValueError("a finite number")
    return number


def parse_time(text: str, *, end: bool = False, day: date | None = None) -> datetime:
    """The UTC time that an ISO 8601 text means; naive times are UTC.

    Args:
        text: a day (`2020-06-01`), a time (`2020-06-01T12:30`, with or without an offset), or a day before another
            (`-3y`, as `ml.dates` has them).
        end: whether it closes a range, so that a day means its last moment.
        day: that the last kind counts from; None: today.

    Raises:
        ValueError: it is neither.
    """
    if relative := relative_day(text, day or today()):
        text = relative.isoformat()
    try:
        moment = datetime.fromisoformat(text)
        if re.fullmatch(r"\d{4}-?\d{2}-?\d{2}", text) and end:
            moment = datetime.combine(moment, datetime.max.time())
        return moment.replace(tzinfo=timezone.utc) if moment.tzinfo is None else moment.astimezone(timezone.utc)
    except (ValueError, OverflowError):
        raise ValueError("a date such as 2020-06-01, 2020-06-01T12:30 or -3y") from None


_GAP = re.compile(r"(\d+(?:\.\d+)?) ?(s|min|h|d)")
_GAP_UNITS = {"s": "seconds", "min": "minutes", "h": "hours", "d": "days"}


def parse_gap(text: str) -> timedelta | None:
    """The longest time between two bars of one segment.

    Args:
        text: a number and a unit (`90s`, `30min`, `12h`, `4d`), or `off`: None, every gap is bridged.

    Raises:
        ValueError: it is neither.
    """
    if text.strip().lower() == "off":
        return None
    found = _GAP.fullmatch(text.strip().lower())
    with contextlib.suppress(OverflowError):
        if found and (gap := timedelta(**{_GAP_UNITS[found[2]]: float(found[1])})):
            return gap
    raise ValueError("a time above 0 such as 90s, 30min, 12h or 4d, or off")


def _check_gap(text: str) -> str:
    parse_gap(text)
    return text.lower()


def _check_zone(text: str) -> str:
    try:
        zoneinfo.ZoneInfo(text)
    except (ValueError, OSError, zoneinfo.ZoneInfoNotFoundError):  # ValueError, OSError: no name of a file
        raise ValueError("the IANA name of a zone, such as UTC, Europe/Berlin or America/New_York") from None
    return text


def _check_bar(text: str) -> str:
    if text and not re.fullmatch(r"([1-9]\d{0,5})?(ms|s|sec|min|m|h|d)", text.lower()):
        raise ValueError("a bar's length, such as 30s, 1min, 5min, 1h or 1d")
    return text.lower()


def _check_time_format(text: str) -> str:
    if text and text not in ("s", "ms", "us", "ns") and not re.search(r"%[YyDcxsG]", text):
        raise ValueError("a form with a year, such as %d/%m/%Y %H:%M, or s, ms, us or ns")
    return text


_CHECKS = {"max_gap": _check_gap, "timezone": _check_zone, "resample": _check_bar, "time_format": _check_time_format}
_PARSERS = {bool: _parse_bool, int: _parse_int, float: _parse_float, str: str}


def parse_value(name: str, value: Any, day: date | None = None) -> Any:
    """The typed value of one hyperparameter.

    Args:
        name: its name, one of `SETTINGS`.
        value: text as SageMaker sends it (`"60"`, or JSON-quoted as its Python SDK does), or a YAML
            scalar (60, true).
        day: that relative dates count from; None: today.

    Raises:
        UserError: it is not of the type, in the range or among the choices.
    """
    field = SETTINGS[name]
    text = str(value).strip()
    if len(text) >= 2 and text[0] == text[-1] == '"':
        with contextlib.suppress(ValueError):  # not a JSON string after all: the parser below complains
            text = str(json.loads(text)).strip()
    parsed: Any
    try:
        if name in ("start_date", "end_date"):
            parsed: Any = parse_time(text, end=name == "end_date", day=day) if text else None
        elif name in _CHECKS:
            parsed = _CHECKS[name](text)
        else:
            parsed = _PARSERS[field.type](text)
    except ValueError as expected:
        raise UserError(f"hyperparameter {name} must be {expected}, received {value!r}") from None
    if name in ("prices_db", "model_db") and parsed:
        check_url(name, str(parsed))
    if name in ("prices_key", "model_key"):
        for key in str(parsed).split(",") if name == "prices_key" else [str(parsed)]:  # prices may be under several
            _check_key(name, key)
    interval, choices = field.metadata["interval"], field.metadata["choices"]
    if interval and parsed not in interval:
        raise UserError(f"hyperparameter {name} must be in {interval}, received {value!r}")
    if choices and parsed not in choices:
        raise UserError(f"hyperparameter {name} must be one of {', '.join(choices)}, received {value!r}")
    return parsed


def _check_key(name: str, key: str) -> None:
    """Refuses a key that a backend of KYDB does not take, or that does not read as one word in a log.

    Raises:
        UserError: with what is wrong.
    """
    parts = key.removeprefix("/").split("/")
    wrong = [part for part in parts if not part or part.startswith(".")]  # kydb refuses a part with a dot before it
    if wrong or not key.isprintable() or re.search(r"[\s=]", key):
        raise UserError(
            f"hyperparameter {name} must be a key such as {SETTINGS[name].default}, of printable characters without "
            f"blanks and =, and no part that is empty or begins with a dot, received {key!r}"
        )
    last = Settings(model_key=key).h5_name if name == "model_key" else parts[-1]
    longest = max(len(part.encode()) for part in (*parts, last))
    if longest > _PART_BYTES or len(key.encode()) > _KEY_BYTES:
        raise UserError(
            f"hyperparameter {name} must have parts of at most {_PART_BYTES} bytes and at most {_KEY_BYTES} in all, "
            f"received one part of {longest} and {len(key.encode())} in all: {key[:50]!r}..."
        )


def unknown_name(name: str) -> str:
    """The message for a hyperparameter that does not exist, with the nearest that does."""
    nearest = difflib.get_close_matches(name, SETTINGS, n=1, cutoff=0.5)
    hint = f"did you mean {nearest[0]}?" if nearest else f"known: {', '.join(SETTINGS)}"
    return f"unknown hyperparameter {name}; {hint}"


def problems_with(hyperparameters: Mapping[str, Any], day: date | None = None) -> tuple[dict[str, Any], list[str]]:
    """The values that are right, those of their preset included, and a message for each that is wrong.

    Args:
        hyperparameters: name to text or YAML scalar; names that SageMaker adds are passed over.
        day: that relative dates count from; None: today.
    """
    values, problems = {}, []
    for name, value in hyperparameters.items():
        if name.startswith(PLATFORM_PREFIXES):
            continue
        if name not in SETTINGS:
            problems.append(unknown_name(name))
            continue
        try:
            values[name] = parse_value(name, value, day)
        except UserError as error:
            problems.append(str(error))
    values = PRESETS[values.get("preset", "default")] | values
    start, end = values.get("start_date"), values.get("end_date")
    if start and end and start >= end:
        problems.append(
            f"hyperparameter start_date must be before end_date, received "
            f"{hyperparameters['start_date']!r} and {hyperparameters['end_date']!r}"
        )
    if bool(values.get("bid_column")) != bool(values.get("ask_column")):
        given, other = ("bid", "ask") if values.get("bid_column") else ("ask", "bid")
        problems.append(
            f"hyperparameter {given}_column needs {other}_column too, received {given}_column="
            f"{values[f'{given}_column']!r} alone; set both, or price_column"
        )
    if values.get("patience") and values.get("validation_fraction") == 0:
        problems.append(
            "hyperparameter patience needs a validation part, received validation_fraction=0; "
            "set patience=0 or a validation_fraction above 0"
        )
    validation, test = (values.get(name, SETTINGS[name].default) for name in ("validation_fraction", "test_fraction"))
    if values.get("publish_if", "always") != "always" and not (validation or test):
        problems.append(
            f"hyperparameter publish_if={values['publish_if']} needs a test or a validation part, received "
            "test_fraction=0 and validation_fraction=0"
        )
    if values.get("patience") and values.get("monitor") == "last":
        problems.append(
            "hyperparameter patience needs a monitored metric, received monitor=last; set patience=0 "
            "or monitor=val_loss"
        )
    if values.get("refit") and not (validation or test):
        problems.append(
            "hyperparameter refit needs a test or a validation part, received test_fraction=0 and "
            "validation_fraction=0: every row is trained on as it is"
        )
    folds = values.get("folds", 1)
    if folds > 1 and not validation:
        problems.append(f"hyperparameter folds={folds} needs a validation part, received validation_fraction=0")
    if folds * validation + test >= 1:
        problems.append(
            "hyperparameter folds times validation_fraction, and test_fraction, must leave rows to train on: together "
            f"below 1, received {folds} times {validation} and {test}"
        )
    problems.extend(_population_problems(values))
    return values, problems


def _population_problems(values: Mapping[str, Any]) -> list[str]:
    """What is wrong with a population, and with the lookback whose rows are used."""
    given: dict[str, Any] = {name: field.default for name, field in SETTINGS.items()} | dict(values)
    problems, lookbacks = [], [given["lookback"]]
    try:
        if given["points"]:
            points = parse_points(given["points"], parse_value)
            lookbacks = [point.get("lookback", given["lookback"]) for point in points]
        for range_ in parse_ranges(given["ranges"], parse_value) if given["ranges"] else []:
            if range_.name == "lookback":
                lookbacks = list(range_.values) or [int(range_.high)]
    except UserError as error:
        problems.append(str(error))
    if 0 < given["longest_lookback"] < max(lookbacks):
        problems.append(
            f"hyperparameter longest_lookback must be 0 or at least lookback, received {given['longest_lookback']} and "
            f"a lookback of {max(lookbacks)}"
        )
    if given["points"] and (given["ranges"] or given["population"] > 1):
        problems.append("hyperparameter points takes the place of population and ranges; set it or those, not both")
    elif given["population"] > 1 and not given["ranges"]:
        problems.append(
            f"hyperparameter population={given['population']} needs ranges, which say what its members differ in"
        )
    elif given["ranges"] and given["population"] == 1:
        problems.append("hyperparameter ranges needs a population, received population=1; set it to how many to train")
    several = given["points"] or given["population"] > 1
    if given["halving"] > 1 and not several:
        problems.append(f"hyperparameter halving={given['halving']:g} needs a population, received population=1")
    if several:
        reasons = {
            "validation_fraction": (given["validation_fraction"] == 0, "chooses its best member on a validation part"),
            "monitor": (given["monitor"] == "last", "chooses its best member by a metric, val_loss or val_accuracy"),
            "folds": (given["folds"] > 1, "chooses its best member on one validation part, and a fold would choose "
                      "another; set folds=1"),
            "precision": (given["precision"] == "float16", "cannot share the loss scale that float16 needs, which one "
                          "member that diverges would spoil for all; set float32 or bfloat16"),
        }  # fmt: skip
        problems.extend(
            f"a population {why}, received {name}={given[name]}" for name, (wrong, why) in reasons.items() if wrong
        )
    return problems


def parse_settings(hyperparameters: Mapping[str, Any], day: date | None = None) -> Settings:
    """The settings of a job from its hyperparameters, relative dates counted from a day (None: today).

    Raises:
        UserError: one line with every problem found.
    """
    values, problems = problems_with(hyperparameters, day)
    if problems:
        raise UserError("; ".join(problems))
    return Settings(**values)
