"""Price histories: a KYDB object that keeps them, files of a channel, and the check that both pass through.

A price history is a frame indexed by `dt` (UTC, ascending, unique), float64, with `mid`, and `position`,
`bid`, `ask` where known. Naive times are UTC. It is checked once, where it enters; what is wrong is told
with its row.
"""

import concurrent.futures
import hashlib
import itertools
import uuid
from collections.abc import Callable, Sequence
from datetime import date, datetime, time
from pathlib import Path
from typing import NamedTuple

import kydb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from kydb.objdb import DBOBJ_CONFIG_PATH

from ml.databases import TIMEOUT, aws_code, connect, is_transient, one_line, patiently, redacted, write_files_whole
from ml.errors import UserError

COLUMNS = ("mid", "position", "bid", "ask")

_CLASS = {"TimeSeries": {"module_path": "ml.timeseries", "class_name": "TimeSeries"}}
_CHUNK_FOLDER = "/timeseries_chunks"  # apart from the series, so that db.ls shows the series alone
_CHUNK_ROWS = 65_536
_CHUNK_BYTES = 350_000  # a DynamoDB item holds 400 KB, its key and kydb's wrapping included
_CONNECTIONS = 8
_LOWEST, _HIGHEST = 1e-15, 1e15  # prices whose smallest and largest moves a float32 still holds
_MINUTE = 60 * 10**9  # in nanoseconds
_SUFFIXES = (".parquet", ".csv", ".csv.gz")


# The object in KYDB

class TimeSeries(kydb.DbObj):
    """A price history in a KYDB database of any kind, in chunks that fit its items.

    The object itself holds a list of its chunks: key, first and last time, rows and checksum. A write puts
    new chunks under new keys and then replaces the list, one item, so that a reader sees all of it or
    nothing. One writer at a time: of two that write at once, the later list wins.

    Example:
        >>> db = kydb.connect("dynamodb://epython/timeseries")
        >>> time_series(db, "/symbols/ml/training_data/FX_BTC_JPY").replace(frame)
        >>> db["/symbols/ml/training_data/FX_BTC_JPY"].curve(date(2017, 6, 1), date(2020, 6, 1))
    """

    def init(self):
        """Called by kydb when the object is made."""
        write_files_whole(self.db)

    @kydb.stored
    def chunks(self):
        """The chunks in the order of time: dicts of key, first, last (ns since 1970), rows and sha256."""
        return []

    def curve(self, start: date | None = None, end: date | None = None) -> pd.DataFrame:
        """The rows from start to end, both included.

        Args:
            start: first day or time; None: from the first row.
            end: last day or time; a `date` (not a `datetime`) means its whole day; None: to the last row.

        Returns:
            Frame indexed by `dt` (UTC); empty where there are no rows.

        Raises:
            UserError: a chunk is missing or damaged.
        """
        first, last = _bounds(start, end)
        try:
            table = self._read(first, last)
        except KeyError:  # a writer replaced the chunks since the list was read
            self.chunks.setvalue(self.db.read(self.key, reload=True).chunks())
            try:
                table = self._read(first, last)
            except KeyError as error:
                raise UserError(f"{self.key} in {redacted(self.db.url)} has lost its chunk {error}; "
                                "write the series again") from None
        return _frame(table, first, last)

    def replace(self, frame: pd.DataFrame) -> None:
        """Writes a history: the rows between its first and its last time are replaced, others stay.

        Raises:
            UserError: the frame is no price history, or has other columns than the rows that stay.
        """
        frame = checked(frame, source="the frame to write")
        first, last = (int(moment.value) for moment in (frame.index[0], frame.index[-1]))
        before = [chunk for chunk in self.chunks() if chunk["last"] < first]
        after = [chunk for chunk in self.chunks() if chunk["first"] > last]
        # A small neighbour is merged, so that appending a minute at a time does not leave a chunk a minute.
        if before and before[-1]["rows"] + len(frame) <= _CHUNK_ROWS:
            before.pop()
        kept = {chunk["key"] for chunk in before + after}
        touched = [chunk for chunk in self.chunks() if chunk["key"] not in kept]
        if touched:
            theirs = _frame(self._tables(touched), None, None)
            outside = theirs[(theirs.index < frame.index[0]) | (theirs.index > frame.index[-1])]
            if kept or len(outside):
                self._refuse_other_columns(frame, theirs)
            if len(outside):
                frame = pd.concat([outside, frame[theirs.columns]]).sort_index()
        elif kept:
            self._refuse_other_columns(frame, _frame(self._tables((before or after)[:1]), None, None))
        self._write(before, frame, after, [chunk["key"] for chunk in touched])

    def append(self, frame: pd.DataFrame) -> None:
        """Adds rows after the last one.

        Raises:
            UserError: a row is not after the last one.
        """
        if self.chunks() and len(frame):
            last = pd.Timestamp(self.chunks()[-1]["last"], tz="UTC")
            first = checked(frame, source="the frame to append").index[0]
            if first <= last:
                raise UserError(f"the frame to append to {self.key} begins at {first}, and the series ends at "
                                f"{last}; append later rows, or use replace")
        self.replace(frame)

    def delete(self) -> None:
        """Deletes the series and its chunks."""
        super().delete()
        self._delete_chunks([chunk["key"] for chunk in self.chunks()])

    def _read(self, first: int | None, last: int | None) -> pa.Table | None:
        return self._tables([chunk for chunk in self.chunks()
                             if (last is None or chunk["first"] <= last)
                             and (first is None or chunk["last"] >= first)])

    def _tables(self, chunks: Sequence[dict]) -> pa.Table | None:
        if not chunks:
            return None
        with concurrent.futures.ThreadPoolExecutor(_CONNECTIONS) as pool:
            return pa.concat_tables(pool.map(self._table, chunks))

    def _table(self, chunk: dict) -> pa.Table:
        content = self.db.read(chunk["key"], reload=True)
        if hashlib.sha256(content).hexdigest() != chunk["sha256"]:
            raise UserError(f"chunk {chunk['key']} of {self.key} in {redacted(self.db.url)} is damaged: its checksum "
                            "does not match; write the series again")
        return pq.read_table(pa.BufferReader(content))

    def _refuse_other_columns(self, frame: pd.DataFrame, stored: pd.DataFrame) -> None:
        if set(frame.columns) != set(stored.columns):
            raise UserError(f"the frame to write has columns {', '.join(frame.columns)} and {self.key} has "
                            f"{', '.join(stored.columns)}; write the same columns, or the whole series")

    def _write(self, before: list[dict], frame: pd.DataFrame, after: list[dict], obsolete: list[str]) -> None:
        old, written = self.chunks(), []
        try:
            for content, rows in _encoded(frame):
                chunk = {"key": f"{_CHUNK_FOLDER}{self.key}/{uuid.uuid4().hex}",
                         "first": int(rows.index[0].value), "last": int(rows.index[-1].value),
                         "rows": len(rows), "sha256": hashlib.sha256(content).hexdigest()}
                written.append(chunk)
                self.db[chunk["key"]] = content
        except BaseException:
            self._delete_chunks([chunk["key"] for chunk in written])
            raise
        self.chunks.setvalue([*before, *written, *after])
        try:
            self.write()
        except BaseException:  # which may have arrived all the same: both lists' chunks must stay
            self.chunks.setvalue(old)
            raise
        self._delete_chunks(obsolete)

    def _delete_chunks(self, keys: list[str]) -> None:
        for key in keys:
            try:
                self.db.delete(key)
            except Exception as error:  # an orphan costs space only, and what failed before must be told
                print(f"chunk {key} of {self.key} could not be deleted: {one_line(error)}", flush=True)


def time_series(db, key: str) -> TimeSeries:
    """The series under a key, or a new, empty one; registers the class in the database."""
    register(db)
    return db.read(key, reload=True) if _exists(db, key) else db.new("TimeSeries", key)


def register(db) -> None:
    """Makes `db[key]` return TimeSeries objects; classes registered before stay.

    Raises:
        UserError: the registered classes may not be read, so adding one would lose the others.
    """
    classes = db.read(DBOBJ_CONFIG_PATH, reload=True) if _exists(db, DBOBJ_CONFIG_PATH) else {}
    if classes | _CLASS != classes:
        db.upload_objdb_config(classes | _CLASS)


def _exists(db, key: str) -> bool:
    """Whether a key exists; kydb's own answer for S3 is no where reading is forbidden."""
    if hasattr(db, "s3"):
        from botocore.exceptions import ClientError
        try:
            db.s3.head_object(Bucket=db.db_name, Key=db._get_full_path(key)[1:])
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
                return False
            if is_transient(error):
                raise
            raise UserError(f"{key} in {redacted(db.url)} may not be read ({aws_code(error)}); grant s3:GetObject, "
                            "and s3:ListBucket, without which S3 does not say whether a key exists") from None
        return True
    return db.exists(key)


def _encoded(frame: pd.DataFrame):
    """(Parquet bytes, rows) of one chunk after the other, each small enough for any backend."""
    for first in range(0, len(frame), _CHUNK_ROWS):
        rows = frame.iloc[first:first + _CHUNK_ROWS]
        content = _parquet(rows)
        pieces = -(-len(content) // _CHUNK_BYTES)
        if pieces == 1:
            yield content, rows
            continue
        size = -(-len(rows) // (pieces + 1))  # one piece more, since pieces do not compress alike
        for begin in range(0, len(rows), size):
            piece = rows.iloc[begin:begin + size]
            yield _parquet(piece), piece


def _parquet(rows: pd.DataFrame) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pandas(rows.reset_index(), preserve_index=False), sink, compression="zstd",
                   use_dictionary=list(rows.columns), column_encoding={"dt": "DELTA_BINARY_PACKED"})
    return sink.getvalue().to_pybytes()


def _frame(table: pa.Table | None, first: int | None, last: int | None) -> pd.DataFrame:
    """Rows of a table between two times, both included, as a history."""
    if table is None:
        return pd.DataFrame({"mid": []}, pd.DatetimeIndex([], tz="UTC", name="dt").as_unit("ns"))
    frame = table.to_pandas(ignore_metadata=True)
    frame["dt"] = pd.to_datetime(frame["dt"], utc=True).dt.as_unit("ns")
    return _between(frame.set_index("dt"), first, last)


# Times

def _bounds(start, end) -> tuple[int | None, int | None]:
    """Start and end in nanoseconds since 1970; None where open."""
    if end is not None and isinstance(end, date) and not isinstance(end, datetime):
        end = datetime.combine(end, time.max)
    return tuple(None if moment is None else _nanoseconds(pd.Timestamp(moment)) for moment in (start, end))


def _nanoseconds(moment: pd.Timestamp) -> int:
    moment = moment.tz_localize("UTC") if moment.tzinfo is None else moment.tz_convert("UTC")
    try:
        return int(moment.as_unit("ns").value)
    except pd.errors.OutOfBoundsDatetime:  # such as 9999-12-31, an end that is open
        return int((pd.Timestamp.max if moment.year > 2000 else pd.Timestamp.min).value)


def _between(frame: pd.DataFrame, first: int | None, last: int | None) -> pd.DataFrame:
    times = frame.index.asi8
    begin = 0 if first is None else int(np.searchsorted(times, first, "left"))
    end = len(frame) if last is None else int(np.searchsorted(times, last, "right"))
    return frame.iloc[begin:end]


# Reading

def read_kydb(url: str, key: str, start=None, end=None, *, patience: float = 0,
              timeout: float = TIMEOUT, given_up: Callable[[], bool] = lambda: False) -> pd.DataFrame:
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
            raise UserError(f"{source} is a {type(series).__name__} without a method curve(start, end); "
                            "set prices_key to a time series")
        return series.curve(start, end)

    try:
        frame = patiently(curve, patience=patience, what=f"reading {source}", given_up=given_up)
    except UserError:
        raise
    except KeyError as error:
        raise UserError(_missing_key(db, url, key, error)) from None
    except Exception as error:
        raise UserError(f"the price history {source} cannot be read: {one_line(error)}; check the URL, the network "
                        "and the job's permissions") from error
    return checked(frame, source=source)


def _missing_key(db, url: str, key: str, error: KeyError) -> str:
    source = f"{key} in {redacted(url)}"
    try:
        if _exists(db, key):  # so it is something inside the object that is missing
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
    names = sorted(path for path in folder.rglob("*")
                   if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts))
    files = [path for path in names if path.name.endswith(_SUFFIXES)]
    if not files:
        found = ", ".join(path.name for path in names[:5]) or "nothing"
        raise UserError(f"channel {folder.name} has no price files: {folder} must hold "
                        f"{', '.join(_SUFFIXES)} files, found {found}")
    channel = f"channel {folder.name}"
    sources = [f"{channel}, {path.relative_to(folder)}" for path in files]
    parts = [(source, _with_times(_read_file(path, source), source=source))
             for source, path in zip(sources, files, strict=True)]
    parts = sorted(((source, frame) for source, frame in parts if len(frame)), key=lambda part: part[1].index[0])
    for (source, frame), (later, after) in itertools.pairwise(parts):
        if frame.index[-1] >= after.index[0] and frame.index.is_monotonic_increasing:
            raise UserError(f"{source} ends at {frame.index[-1]} and {later} begins at {after.index[0]}; a channel "
                            "holds one price history: send files that follow each other in time")
    source = sources[0] if len(files) == 1 else f"{channel}, {len(files)} files"
    history = checked(pd.concat([frame for _, frame in parts]) if parts else pd.DataFrame(), source=source)
    return _between(history, *_bounds(start, end))


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


def _with_times(frame: pd.DataFrame, *, source: str) -> pd.DataFrame:
    """The frame indexed by `dt` in UTC, not yet in order."""
    if "dt" in frame.columns:
        frame = frame.set_index("dt")
    index = frame.index
    if not isinstance(index, pd.DatetimeIndex):
        if pd.api.types.is_numeric_dtype(index):
            raise UserError(f"{source}: it must have a column or index dt with times, such as 2020-06-01T12:30; "
                            f"received columns {', '.join(map(str, frame.columns)) or 'none'} and numbers as index")
        try:
            index = pd.to_datetime(index, utc=True, format="ISO8601")
        except (ValueError, TypeError) as error:
            raise UserError(f"{source}: dt must hold times such as 2020-06-01T12:30, received something else: "
                            f"{one_line(error)}") from None
    if index.hasnans:
        raise UserError(f"{source}: dt is empty in {int(index.isna().sum()):,} rows, the first is row "
                        f"{int(np.argmax(index.isna())) + 1:,}; give every row a time")
    index = index.tz_localize("UTC") if index.tz is None else index.tz_convert("UTC")
    try:
        index = index.as_unit("ns")
    except pd.errors.OutOfBoundsDatetime as error:
        raise UserError(f"{source}: dt must be between the years 1677 and 2262: {one_line(error)}") from None
    return frame.set_axis(index.rename("dt"))


def checked(frame: pd.DataFrame, *, source: str) -> pd.DataFrame:
    """A frame as a price history, or the reason why it is none.

    Args:
        frame: times as index or column `dt`; `mid`, or `bid` and `ask`, whose middle is then mid; other
            columns than `COLUMNS` are dropped.
        source: where it comes from, for the message.

    Raises:
        UserError: a column is missing, or the first of the rows that are wrong, with how many there are.
    """
    if not isinstance(frame, pd.DataFrame):
        raise UserError(f"{source} must be a pandas DataFrame, received {type(frame).__name__}")
    twice = [name for name in ("dt", *COLUMNS) if list(frame.columns).count(name) > 1]
    if twice:
        raise UserError(f"{source} has more than one column {' and '.join(twice)}; keep one of each")
    if not len(frame):
        raise UserError(f"{source} has no rows; check start_date and end_date")
    frame = _with_times(frame, source=source)
    if "mid" not in frame and not {"bid", "ask"} <= set(frame.columns):
        raise UserError(f"{source}: a column mid is needed, or bid and ask; received "
                        f"{', '.join(map(str, frame.columns)) or 'none'}")
    if ("bid" in frame) != ("ask" in frame):
        frame = frame.drop(columns=["bid", "ask"], errors="ignore")
    history = {}
    for name in (name for name in COLUMNS if name in frame):
        if pd.api.types.is_complex_dtype(frame[name]):
            raise UserError(f"{source}: {name} must hold real numbers, received complex ones")
        try:
            history[name] = frame[name].to_numpy(np.float64, copy=False)
        except (ValueError, TypeError) as error:
            raise UserError(f"{source}: {name} must hold numbers: {one_line(error)}") from None
    if "mid" not in history:
        history = {"mid": (history["bid"] + history["ask"]) / 2} | history

    def refuse(wrong: np.ndarray, problem: str, values: np.ndarray | None = None, remedy: str = "") -> None:
        if wrong.any():
            row = int(np.argmax(wrong))
            shown = "" if values is None else f" ({values[row]})"
            raise UserError(f"{source}: {problem} in {int(wrong.sum()):,} of {len(wrong):,} rows, the first at "
                            f"{frame.index[row]}{shown}{remedy}")

    steps = np.diff(frame.index.asi8, prepend=frame.index.asi8[0] - 1)
    refuse(steps < 0, "times go backwards", remedy="; sort the rows by dt")
    refuse(steps == 0, "a time comes twice", remedy="; keep one row a minute")
    for name, values in history.items():
        refuse(np.isnan(values), f"{name} is NaN", remedy="; drop or fill these rows")
        refuse(np.isinf(values), f"{name} is infinite", values)
        if name == "position":
            refuse(~np.isin(values, (-1, 0, 1)), "position is not -1, 0 or 1", values)
        else:
            refuse(values <= 0, f"{name} is not above 0", values)
            refuse((values < _LOWEST) | (values > _HIGHEST), f"{name} is not within {_LOWEST:g} to {_HIGHEST:g}",
                   values, "; write prices in another unit")
    if "bid" in history:
        refuse(history["bid"] > history["ask"], "bid is above ask", history["bid"])
    return pd.DataFrame(history, frame.index)


# What a history is like

class Gaps(NamedTuple):
    """Minutes that a history lacks.

    Attributes:
        count: places where minutes are missing.
        minutes: minutes missing in all of them.
        longest_minutes: minutes missing in the longest.
        longest_at: the last time before it; empty where there is no gap.
    """

    count: int
    minutes: int
    longest_minutes: int
    longest_at: str

    def __str__(self) -> str:
        if not self.count:
            return "no minute missing"
        return (f"{self.minutes:,} minutes missing in {self.count:,} gaps (the longest {self.longest_minutes:,} after "
                f"{self.longest_at})")


def gaps(history: pd.DataFrame) -> Gaps:
    """The gaps of a history; windows run across them."""
    missing = np.diff(history.index.asi8) // _MINUTE - 1
    if not (missing > 0).any():
        return Gaps(0, 0, 0, "")
    longest = int(np.argmax(missing))
    return Gaps(int((missing > 0).sum()), int(missing[missing > 0].sum()), int(missing[longest]),
                str(history.index[longest]))


def fingerprint(history: pd.DataFrame) -> str:
    """SHA-256 of a history's times and values."""
    digest = hashlib.sha256(np.ascontiguousarray(history.index.asi8))
    for name in history.columns:
        digest.update(name.encode("utf-8"))
        digest.update(np.ascontiguousarray(history[name].to_numpy()))
    return digest.hexdigest()


def split_by_time(history: pd.DataFrame, validation_fraction: float, lookback: int,
                  horizon: int) -> tuple[pd.DataFrame, pd.DataFrame | None]:
    """Training rows, and the last rows to validate on; between them lookback + horizon rows that neither uses.

    Without that purge the last training labels would be made from validation prices.

    Returns:
        The two parts; the second is None where validation_fraction is 0.

    Raises:
        UserError: a part has no window.
    """
    rows = len(history)
    if rows < lookback:
        raise UserError(f"{rows:,} rows of prices are fewer than the {lookback:,} of one window; use more data or a "
                        "smaller lookback")
    if not validation_fraction:
        return history, None
    held_out = round(rows * validation_fraction)
    if held_out < lookback:
        raise UserError(f"lookback {lookback:,} is larger than the validation part: {held_out:,} of {rows:,} rows "
                        f"(validation_fraction {validation_fraction}); use more data, a smaller lookback, or a "
                        "larger validation_fraction")
    training = rows - held_out - lookback - horizon
    if training < lookback:
        raise UserError(f"{max(training, 0):,} rows are left to train on, fewer than the {lookback:,} of one window: "
                        f"of {rows:,} rows validation takes {held_out:,} and the purge {lookback + horizon:,}; use "
                        "more data, a smaller lookback, or validation_fraction=0")
    return history.iloc[:training], history.iloc[rows - held_out:]
