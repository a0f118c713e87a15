"""Every hyperparameter, declared once.

The job parses its hyperparameters with it, the launcher checks requests with it, and the table in the docs is
printed from it (`python -m ml.settings`). It imports nothing heavy, so the launcher starts fast.
"""

import contextlib
import dataclasses
import difflib
import json
import math
import operator
import re
import zoneinfo
from collections.abc import Callable, Mapping
from datetime import date, datetime, timedelta, timezone
from pathlib import PurePosixPath
from typing import Any

from ml.dates import relative_day, today
from ml.errors import UserError
from ml.kydb_urls import check_url


@dataclasses.dataclass(frozen=True)
class Interval:
    """A range of numbers, written the way people write it: `[0, 1)`."""

    text: str

    def __contains__(self, value: float) -> bool:
        low, high = (float(bound) for bound in self.text[1:-1].split(","))
        above = operator.ge if self.text[0] == "[" else operator.gt
        below = operator.le if self.text[-1] == "]" else operator.lt
        return above(value, low) and below(value, high)

    def __str__(self) -> str:
        return self.text


def _setting(
    default: Any,
    text: str,
    *,
    interval: str | None = None,
    choices: tuple[str, ...] = (),
    scaling: str | None = None,
    changes_weights: "bool | Callable[[Settings], bool]" = True,
) -> Any:
    """A field of `Settings`: its default, its sentence for the user, and what it may be.

    Args:
        default: where neither the user nor a preset gives another.
        text: the sentence.
        interval: of a number, as `Interval` writes it.
        choices: of a text.
        scaling: SageMaker's ScalingType for a tuning range over it; None: it makes no sense to tune.
        changes_weights: whether another value trains other weights on the same labelled prices: a checkpoint of
            the one is then refused by a job of the other. A function says it of a job's settings. False for what
            changes only the prices or their labels, since checkpoints hold the hash of those as well.
    """
    metadata = {
        "help": text,
        "changes_weights": changes_weights,
        "interval": Interval(interval) if interval else None,
        "choices": choices,
        "scaling": scaling,
    }
    return dataclasses.field(default=default, metadata=metadata)


def _cosine(settings: "Settings") -> bool:
    """Whether the learning rate falls as a cosine, which depends on how many epochs it falls in."""
    return settings.schedule == "cosine"


MAX_GAP = "4d"  # a weekend or a night is bridged, a hole of weeks is not

# Values by the name of a preset, for the settings that a job does not give.
PRESETS = {
    "default": {},
    "original": {  # the job that this project began with
        "lookback": 1440,
        "nodes": 1024,
        "layers": 2,
        "dropout": 0.2,
        "epochs": 10,
        "batch_size": 4096,
        "centred": False,
        "learning_rate": 0.001,
        "warmup_steps": 50,
        "schedule": "constant",
        "weight_decay": 0.0,
        "label_smoothing": 0.0,
        "optimizer": "adam",
        "monitor": "val_loss",
        "patience": 0,
    },
}


@dataclasses.dataclass(frozen=True)
class Settings:
    """The hyperparameters of a job, parsed and checked; build it with `parse_settings`."""

    # Defaults are what did best on real prices before 2020 (`make research`).
    preset: str = _setting(
        "default", "named values for the settings that are not given", choices=tuple(PRESETS), changes_weights=False
    )
    # The windows and the labels
    lookback: int = _setting(
        240,
        "prices in a window, the predicted minute included",
        interval="[2, 100000]",
        scaling="Logarithmic",
    )
    horizon: int = _setting(
        300,
        "minutes that an optimal position looks ahead; part of the purge before the validation rows",
        interval="[3, 100000]",
    )
    max_gap: str = _setting(
        MAX_GAP,
        "longest time between two bars of one segment, such as 30min, 12h or 4d, which no window and no label crosses; "
        "off: any",
    )
    spread: float = _setting(
        0.0, "ask minus bid, in price units, where the history has only mid", interval="[0, inf)", changes_weights=False
    )
    # The network
    nodes: int = _setting(128, "units in a hidden layer", interval="[1, 65536]", scaling="Logarithmic")
    layers: int = _setting(2, "hidden layers", interval="[1, 32]", scaling="Linear")
    dropout: float = _setting(0.2, "share of hidden units dropped in training", interval="[0, 1)", scaling="Linear")
    centred: bool = _setting(
        True, "subtract one half from the inputs, which then lie around 0; learns faster and overfits faster"
    )
    # The training
    epochs: int = _setting(
        5, "passes over the training windows", interval="[1, 100000]", scaling="Linear", changes_weights=_cosine
    )
    batch_size: int = _setting(
        1024, "windows in a step, over all devices", interval="[1, 1048576]", scaling="Logarithmic"
    )
    learning_rate: float = _setting(0.001, "step size of the optimizer", interval="(0, 100]", scaling="Logarithmic")
    warmup_steps: int = _setting(
        50,
        "steps in which the learning rate rises to its full size, at most half an epoch's",
        interval="[0, 1000000]",
        scaling="Linear",
    )
    schedule: str = _setting(
        "cosine",
        "the learning rate after the warm-up: constant, or a cosine that reaches 0 at the last step",
        choices=("constant", "cosine"),
        scaling="Categorical",
    )
    weight_decay: float = _setting(
        0.0,
        "share of a kernel, times the learning rate, taken off in a step; 0: none (adamw: Keras' 0.004)",
        interval="[0, 100]",
        scaling="Logarithmic",
    )
    label_smoothing: float = _setting(
        0.0,
        "how far training pulls the labels 0 and 1 towards one half; 1 would be all the way",
        interval="[0, 1)",
        scaling="Linear",
    )
    optimizer: str = _setting(
        "adam", "update rule", choices=("adam", "adamw", "nadam", "rmsprop", "sgd"), scaling="Categorical"
    )
    seed: int = _setting(
        1, "of the initial weights, the shuffle and the dropout", interval="[0, 2147483647]", scaling="Linear"
    )
    validation_fraction: float = _setting(
        0.1, "share of the rows, the last ones, held out; 0 switches validation off", interval="[0, 1)"
    )
    folds: int = _setting(
        1,
        "stretches of validation_fraction at the end that are validated in turn, each by a model of its own "
        "trained on what came before; the last one's is kept",
        interval="[1, 100]",
        changes_weights=False,
    )
    monitor: str = _setting(
        "val_loss",
        "validation metric that chooses the epoch whose weights are kept; last: no choice, the last epoch's are",
        choices=("val_loss", "val_accuracy", "last"),
    )
    patience: int = _setting(
        0,
        "epochs without a better monitored metric before training stops; 0: train to the last epoch",
        interval="[0, 100000]",
        changes_weights=False,
    )
    precision: str = _setting(
        "auto",
        "of the multiplications; auto takes what the hardware multiplies fastest",
        choices=("auto", "float32", "bfloat16", "float16"),
    )
    # The data
    prices_db: str = _setting("", "KYDB URL of the price history; empty: read the channel", changes_weights=False)
    prices_key: str = _setting(
        "/symbols/ml/training_data/FX_BTC_JPY",
        "KYDB key of the price history; of several instruments with commas between them, or a pattern such as "
        "/symbols/ml/training_data/*",
        changes_weights=False,
    )
    prices_channel: str = _setting(
        "train",
        "channel with CSV, Parquet, Feather or JSON files, read where prices_db is empty",
        changes_weights=False,
    )
    time_column: str = _setting(
        "",
        "column of the times in the channel's files: a name, or a number from 1; of a day and a time of day: "
        "Date+Time; empty: found by its name",
        changes_weights=False,
    )
    price_column: str = _setting(
        "",
        "column of the price: a name, or a number from 1; empty: mid, bid and ask, or the close, found by their names",
        changes_weights=False,
    )
    bid_column: str = _setting(
        "", "column of the bid, with ask_column; empty: as price_column says", changes_weights=False
    )
    ask_column: str = _setting(
        "", "column of the ask, with bid_column; empty: as price_column says", changes_weights=False
    )
    time_format: str = _setting(
        "",
        "how the times are written, such as %d/%m/%Y %H:%M, or s, ms, us, ns since 1970; empty: found out",
        changes_weights=False,
    )
    timezone: str = _setting(
        "UTC",
        "zone of times that are written without one, such as Europe/Berlin or Etc/GMT+5 (5 hours west)",
        changes_weights=False,
    )
    resample: str = _setting(
        "",
        "length of a bar, of which the last price is kept, such as 1min, 30s or 1h; empty: every row is a bar",
        changes_weights=False,
    )
    start_date: datetime | None = _setting(
        None,
        "first day or time used (UTC), or a day before the job's: -90d, -2w, -6m, -3y; empty: the first there is",
        changes_weights=False,
    )
    end_date: datetime | None = _setting(
        None,
        "last day or time used, included (UTC), or a day before the job's, as above; empty: the last there is",
        changes_weights=False,
    )
    # The results
    threshold: float = _setting(
        0.0,
        "when following predictions, keep the position while the probability of buy is this near to 0.5",
        interval="[0, 0.5)",
        scaling="Linear",
        changes_weights=False,
    )
    model_db: str = _setting("", "KYDB URL that the model is published to; empty: model/ only", changes_weights=False)
    model_key: str = _setting(
        "/ml/models/fx_btc_jpy_model.h5",
        "KYDB key of the model; its last part names the .h5 file in model/ too",
        changes_weights=False,
    )
    replace_lookback: bool = _setting(
        False,
        "publish over a model that takes another number of prices, which the key's readers must know",
        changes_weights=False,
    )
    publish_if: str = _setting(
        "always",
        "whether to publish: always, or where the held-out rows show the model better, or not worse, than the one that "
        "is under the key",
        choices=("always", "not_worse", "better"),
        changes_weights=False,
    )
    # The run
    checkpoint_seconds: int = _setting(
        60,
        "seconds between checkpoints, where the job has a checkpoints folder; also one an epoch, and never more "
        "than 1 % of the time",
        interval="[1, 86400]",
        changes_weights=False,
    )
    read_seconds: int = _setting(
        60,
        "seconds to keep trying where KYDB does not answer before the training",
        interval="[0, 86400]",
        changes_weights=False,
    )
    publish_seconds: int = _setting(
        300, "seconds to keep trying where KYDB refuses the model", interval="[0, 86400]", changes_weights=False
    )
    kydb_timeout: int = _setting(
        20,
        "seconds without a byte after which a connection to KYDB counts as dead",
        interval="[1, 3600]",
        changes_weights=False,
    )
    tensorboard: bool = _setting(True, "write TensorBoard logs to output/tensorboard", changes_weights=False)
    allow_cpu: bool = _setting(
        False, "train on the CPU of an instance whose GPU TensorFlow cannot use", changes_weights=False
    )

    def changing_weights(self) -> dict[str, Any]:
        """The settings that decide what weights come out of the same labelled prices, by name."""
        found = {}
        for field in dataclasses.fields(self):
            changes = field.metadata["changes_weights"]
            if changes(self) if callable(changes) else changes:
                found[field.name] = getattr(self, field.name)
        return found

    @property
    def weights(self) -> int:
        """Trainable weights of the network, 4 bytes each in its files."""
        between = (self.layers - 1) * (self.nodes + 1) * self.nodes
        return (self.lookback + 1) * self.nodes + between + (self.nodes + 1) * 2

    @property
    def h5_name(self) -> str:
        """Name of the .h5 file in model/: the last part of model_key."""
        name = PurePosixPath(self.model_key).name
        return name if name.endswith(".h5") else f"{name}.h5"


SETTINGS = {field.name: field for field in dataclasses.fields(Settings)}

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


def _check_gap(text: str) -> str:
    parse_gap(text)
    return text.lower()


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
    if values.get("publish_if", "always") != "always" and values.get("validation_fraction") == 0:
        problems.append(
            f"hyperparameter publish_if={values['publish_if']} needs a validation part, received validation_fraction=0"
        )
    if values.get("patience") and values.get("monitor") == "last":
        problems.append(
            "hyperparameter patience needs a monitored metric, received monitor=last; set patience=0 "
            "or monitor=val_loss"
        )
    fraction = values.get("validation_fraction", SETTINGS["validation_fraction"].default)
    if values.get("folds", 1) > 1 and not 0 < values["folds"] * fraction < 1:
        problems.append(
            f"hyperparameter folds times validation_fraction must be in (0, 1), received "
            f"{values['folds']} times {fraction}"
        )
    return values, problems


def parse_settings(hyperparameters: Mapping[str, Any], day: date | None = None) -> Settings:
    """The settings of a job from its hyperparameters, relative dates counted from a day (None: today).

    Raises:
        UserError: one line with every problem found.
    """
    values, problems = problems_with(hyperparameters, day)
    if problems:
        raise UserError("; ".join(problems))
    return Settings(**values)


def settings_table() -> str:
    """The settings as a Markdown table: name, default, the other presets' values that differ, range, meaning."""
    others = list(PRESETS.values())[1:]
    columns = ["name", *PRESETS, "range", "meaning"]
    rows = [columns, ["---"] * len(columns)]
    for name, field in SETTINGS.items():
        allowed = field.metadata["interval"] or ", ".join(field.metadata["choices"])
        if isinstance(field.default, bool):
            allowed = "true, false"
        different = [None if preset.get(name, field.default) == field.default else preset[name] for preset in others]
        rows.append([name, *map(_written, [field.default, *different]), allowed, field.metadata["help"]])
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in rows)


def _written(value) -> str:
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


if __name__ == "__main__":
    print(settings_table())
