"""What a job would understand of price files, found out on this machine before anything is started."""

import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from console import remark
from ml.data.listing import list_together
from ml.errors import UserError
from ml.files import write_whole
from ml.hyperparameters import parse_settings
from ml.settings import Settings
from place.base import Record
from request import (
    TUNING,
    hyperparameters_of,
    local_paths,
    mapping,
    operation_of,
    ranges_of,
    s3_sources,
    training_part,
)

if TYPE_CHECKING:  # pandas takes a moment, which commands without prices need not wait for
    import numpy as np
    import pandas as pd

    from ml.data.understood import History

ROWS_SHOWN = 3
INSTRUMENTS_SHOWN = 10
_DIGITS = 10  # significant; the middle of bid and ask has noise behind them
_DRAWN = 1000  # stretches of a picture
_DOTS_PER_INCH = 160

# Settings that decide what the rows of a price history come to. A trial may have any value in a tuned one's range.
_OF_LABELS = {"horizon", "spread", "start_date", "end_date"}
_OF_WINDOWS = {"lookback", "folds", "validation_fraction", "test_fraction"}


@dataclasses.dataclass(frozen=True)
class Findings:
    """What a job would make of price files.

    Attributes:
        histories: each instrument's name and history as read; the name of a single one is empty.
        lines: the job's lines about rows, labels and gaps, and about training and validation rows; about gaps alone
            with a problem.
        facts: as far as the rows come to it what job.json says of them, and the rows of each part.
        problem: why the job would refuse the histories that were read; empty where it would train.
    """

    histories: list[tuple[str, "History"]]
    lines: list[str]
    facts: dict[str, Any]
    problem: str


def read_prices(paths: Sequence[Path], settings: Settings) -> list[tuple[str, "History"]]:
    """The price histories in files and folders of this machine, read as a job reads its channel.

    Returns:
        Each instrument's name and history; the name of a single one is empty.

    Raises:
        UserError: they cannot be read, or are no price history; the job's own message.
    """
    from ml.data.columns import Reading
    from ml.data.universe import read_instruments

    for path in paths:
        if str(path).startswith(("s3:/", "s3:\\")):
            raise UserError(f"{path} is not on this machine; copy it first: aws s3 cp --recursive s3://... FOLDER")
    return list(
        read_instruments(
            list_together(paths, remark),
            settings.start_date,
            settings.end_date,
            Reading.of(settings),
            source=f"channel {settings.prices_channel}",
            say=remark,
        )
    )


def look_at_prices(paths: Sequence[Path], settings: Settings) -> Findings:
    """What a job with these settings would make of price files.

    Raises:
        UserError: they cannot be read, or are no price history.
    """
    from ml.data.history import gaps
    from ml.data.prices import together
    from ml.learn.folds import described, folds_of, rows_of_parts

    histories = read_prices(paths, settings)
    try:
        prices = together(histories, settings, tell=lambda line: None)
    except UserError as error:
        lines = [f"{name or 'gaps'}: {gaps(history.frame)}" for name, history in histories]
        return Findings(histories, lines, {}, str(error))
    facts, lines = prices.facts, prices.lines
    try:
        folds = folds_of(prices.frame, settings)
    except UserError as error:
        return Findings(histories, lines, facts, str(error))
    windows = {
        "train_windows": _count_windows(folds[-1].train_rows, settings),
        "validation_windows": _count_windows(folds[-1].validation_rows, settings),
        "test_windows": _count_windows(tested.held_out if (tested := folds[-1].test_part) else None, settings),
    }
    line = (
        f"{described(folds)}; windows of {settings.lookback:,} bars: {windows['train_windows']:,} to train on, "
        f"{windows['validation_windows']:,} to validate on"
        + (f", {windows['test_windows']:,} to test on" if tested else "")
    )
    return Findings(histories, [*lines, line], facts | rows_of_parts(folds) | windows, "")


def _count_windows(rows: "pd.DataFrame | None", settings: Settings) -> int:
    from ml.segments import segment_bounds, valid_starts

    if rows is None:
        return 0
    return int(valid_starts(segment_bounds(rows, settings.max_gap), settings.lookback).sum())


def plain_values(findings: Findings) -> dict[str, Any]:
    """Plain values for programs."""
    found: dict[str, Any] = {**findings.facts, "problem": findings.problem}
    for name, history in findings.histories:
        rows = {
            "source": history.understood.as_json(),
            "first_rows": _records(history.frame.iloc[:ROWS_SHOWN]),
            "last_rows": _records(history.frame.iloc[-ROWS_SHOWN:]),
        }
        found |= {"instruments": found.get("instruments", {}) | {name: rows}} if name else rows
    return found


def _records(frame: "pd.DataFrame") -> list[dict[str, Any]]:
    return [
        {"time": str(time)} | dict(zip(frame.columns, map(float, values), strict=True))
        for time, values in zip(frame.index, frame.to_numpy(), strict=True)
    ]


def lines_of(frame: "pd.DataFrame") -> list[str]:
    """The first and the last rows of a history as a table."""
    import numpy as np

    ends = [frame] if len(frame) <= 2 * ROWS_SHOWN else [frame.iloc[:ROWS_SHOWN], frame.iloc[-ROWS_SHOWN:]]
    table = [["time (UTC)", *frame.columns]]
    for number, part in enumerate(ends):
        if number:
            table.append(["..."] + [""] * len(frame.columns))
        for time, values in zip(part.index, part.to_numpy(), strict=True):
            prices = [
                np.format_float_positional(value, _DIGITS, unique=True, fractional=False, trim="-") for value in values
            ]
            table.append([str(time).removesuffix("+00:00"), *prices])
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]


def write_picture(frame: "pd.DataFrame", title: str, path: Path) -> None:
    """Draws the prices of a history, the lowest and the highest of each stretch where there are many.

    Args:
        frame: the history.
        title: above the chart.
        path: of the picture, which ends in .png or .svg.

    Raises:
        UserError: it cannot be written.
    """
    from ml.page import GREY, chart, date_ticks, number_ticks

    axes = chart(title, y="price")
    axes.plot(*_outline(frame), color=GREY, linewidth=0.8)
    axes.set_xlim(frame.index[0], frame.index[-1]) if len(frame) > 1 else None
    number_ticks(axes.yaxis)
    date_ticks(axes.xaxis)
    picture = io.BytesIO()
    axes.figure.savefig(picture, format=path.suffix[1:], dpi=_DOTS_PER_INCH)
    try:
        write_whole(path, picture.getvalue())
    except OSError as error:
        raise UserError(f"the picture {path} cannot be written: {error.strerror or error}") from None


def _outline(frame: "pd.DataFrame") -> tuple["pd.DatetimeIndex", "np.ndarray"]:
    """Times and prices of a line with all extremes and few points."""
    import numpy as np
    import pandas as pd

    mid = frame["mid"].to_numpy()
    starts = np.arange(0, len(mid), max(1, len(mid) // _DRAWN))
    ends = np.stack([np.minimum.reduceat(mid, starts), np.maximum.reduceat(mid, starts)], axis=1)
    return pd.DatetimeIndex(frame.index[starts]).repeat(2), ends.ravel()


def local_prices(request: Record) -> list[Path]:
    """The files of this machine that a request's job would read its prices from; none where the job reads others.

    A request as it was built: what `prepare` makes of it points to where the job reads. A user's own program reads
    its channels as it likes.
    """
    parameters = {name: str(value).strip().strip('"') for name, value in hyperparameters_of(request).items()}
    module = mapping(training_part(request).get("Environment")).get("SAGEMAKER_TRAINING_MODULE", "train:main")
    if "sagemaker_program" in parameters or module != "train:main" or parameters.get("prices_db"):
        return []
    channel = parameters.get("prices_channel", Settings().prices_channel)
    uri = str(mapping(s3_sources(request).get(channel)).get("S3Uri", ""))
    return local_paths(uri) if uri.startswith("file:") else []


def check_local_prices(request: Record, paths: Sequence[Path]) -> None:
    """Refuses a checked request whose job would refuse its prices, and tells what the job will understand of them.

    Of a tuning job what every trial would refuse is refused: the smallest lookback and horizon of its ranges count,
    and where something else of the labels or windows is tuned, these are left to the trials.

    Args:
        request: of `train` or `tune`.
        paths: of `local_prices`; without any nothing is looked at.

    Raises:
        UserError: with the job's own message.
    """
    if not paths:
        return
    parameters, tuned = dict(hyperparameters_of(request)), {}
    if operation_of(request) == TUNING:
        tuned = {entry["Name"]: _smallest(kind, entry) for kind, entry in ranges_of(request)}
        parameters |= {name: value for name, value in tuned.items() if name in ("lookback", "horizon")}
    settings = parse_settings(parameters)
    others = set(tuned) - {"lookback", "horizon"}
    if others & (_OF_LABELS | _OF_WINDOWS):
        histories = read_prices(paths, settings)
    else:
        findings = look_at_prices(paths, settings)
        histories = findings.histories
        if findings.problem:
            source = histories[0][1].understood.source if len(histories) == 1 else f"channel {settings.prices_channel}"
            raise UserError(f"{source}: {findings.problem}")
    (_, first), *others = histories
    names = ", ".join(name for name, _ in histories[:INSTRUMENTS_SHOWN])
    remark(f"prices: {len(histories):,} instruments: {names}" if others else f"prices: {first.understood}")


def _smallest(kind: str, entry: dict[str, Any]) -> str:
    values = entry["Values"] if kind.startswith("Categorical") else [entry["MinValue"]]
    return min(map(str, values), key=lambda value: float(value) if value.replace(".", "", 1).isdigit() else 0.0)
