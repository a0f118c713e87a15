"""Where prices come from: a key in KYDB, or the files of a channel."""

import itertools
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq

from ml.data.history import COLUMNS, between, bounds, checked, with_times
from ml.databases import TIMEOUT, connect, exists, patiently
from ml.errors import UserError, one_line, redacted

_SUFFIXES = (".parquet", ".csv", ".csv.gz")


def read_kydb(
    url: str,
    key: str,
    start=None,
    end=None,
    *,
    patience: float = 0,
    timeout: float = TIMEOUT,
    given_up: Callable[[], bool] = lambda: False,
) -> pd.DataFrame:
    """The history that a KYDB object's `curve(start, end)` gives, checked.

    Args:
        url: KYDB URL.
        key: of any object with such a method: a `TimeSeries`, or one of the user's own.
        start: first day or time; None: from the first row.
        end: last day or time, included; None: to the last row.
        patience: seconds to keep trying where the database does not answer.
        timeout: seconds without a byte after which a connection counts as dead.
        given_up: looked at between attempts: whether to end.

    Raises:
        UserError: it cannot be read, or is no price history.
    """
    source = f"{key} in {redacted(url)}"
    try:
        db = connect(url, timeout)
    except Exception as error:
        raise UserError(f"prices_db is no KYDB URL, received {redacted(url)}: {one_line(error)}") from None

    def curve():
        series = db.read(key, reload=True)
        if not callable(getattr(series, "curve", None)):
            raise UserError(
                f"{source} is a {type(series).__name__} without a method curve(start, end); "
                "set prices_key to a time series"
            )
        return series.curve(start, end)

    try:
        frame = patiently(curve, patience=patience, what=f"reading {source}", given_up=given_up)
    except UserError:
        raise
    except KeyError as error:
        raise UserError(_missing_key(db, url, key, error)) from None
    except Exception as error:
        raise UserError(
            f"the price history {source} cannot be read: {one_line(error)}; check the URL, the network "
            "and the job's permissions"
        ) from error
    return checked(frame, source=source)


def _missing_key(db, url: str, key: str, error: KeyError) -> str:
    source = f"{key} in {redacted(url)}"
    try:
        if exists(db, key):  # so it is something inside the object that is missing
            return f"the price history {source} cannot be read: {one_line(error)}"
        near = db.ls(key.rpartition("/")[0] or "/")
    except UserError as forbidden:
        return str(forbidden)
    except Exception:
        near = []
    hint = f"beside it are {', '.join(sorted(near)[:5])}" if near else "there is nothing in its folder"
    return f"there is no price history {source}; {hint}; set prices_key"


def read_channel(folder: Path, start=None, end=None) -> pd.DataFrame:
    """The history in a channel's Parquet and CSV files (.parquet, .csv, .csv.gz, in sub-folders too), checked.

    Times are in a column or index `dt`; files may come in any order but must not overlap.

    Args:
        folder: /opt/ml/input/data/<channel>.
        start: first day or time; None: from the first row.
        end: last day or time, included; None: to the last row.

    Raises:
        UserError: there is no such file, one cannot be read, or together they are no price history.
    """
    names = sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    files = [path for path in names if path.name.endswith(_SUFFIXES)]
    if not files:
        found = ", ".join(path.name for path in names[:5]) or "nothing"
        raise UserError(
            f"channel {folder.name} has no price files: {folder} must hold {', '.join(_SUFFIXES)} files, found {found}"
        )
    channel = f"channel {folder.name}"
    sources = [f"{channel}, {path.relative_to(folder)}" for path in files]
    parts = [
        (source, with_times(_read_file(path, source), source=source))
        for source, path in zip(sources, files, strict=True)
    ]
    parts = sorted(((source, frame) for source, frame in parts if len(frame)), key=lambda part: part[1].index[0])
    for (source, frame), (later, after) in itertools.pairwise(parts):
        if frame.index[-1] >= after.index[0] and frame.index.is_monotonic_increasing:
            raise UserError(
                f"{source} ends at {frame.index[-1]} and {later} begins at {after.index[0]}; a channel "
                "holds one price history: send files that follow each other in time"
            )
    source = sources[0] if len(files) == 1 else f"{channel}, {len(files)} files"
    history = checked(pd.concat([frame for _, frame in parts]) if parts else pd.DataFrame(), source=source)
    return between(history, *bounds(start, end))


def _read_file(path: Path, source: str) -> pd.DataFrame:
    try:
        if path.name.endswith(".parquet"):
            names = pq.read_schema(path).names
            times = "dt" if "dt" in names else "__index_level_0__"  # pandas' name of an unnamed index
            wanted = [name for name in (times, *COLUMNS) if name in names]
            return pq.read_table(path, columns=wanted).to_pandas(ignore_metadata=True).rename(columns={times: "dt"})
        return pd.read_csv(path, usecols=lambda name: name in ("dt", *COLUMNS))
    except Exception as error:
        raise UserError(f"{source} cannot be read: {one_line(error)}; send a whole Parquet or CSV file") from None
