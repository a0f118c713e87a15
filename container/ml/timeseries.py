"""Price histories in KYDB. The path of this class is stored in users' databases."""

import concurrent.futures
import hashlib
import uuid
from collections.abc import Sequence
from datetime import date

import kydb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from kydb.objdb import DBOBJ_CONFIG_PATH

from ml.data.history import between, bounds, checked
from ml.databases import exists, write_files_whole
from ml.errors import UserError, one_line, redacted

_CLASS = {"TimeSeries": {"module_path": "ml.timeseries", "class_name": "TimeSeries"}}
_CHUNK_FOLDER = "/timeseries_chunks"  # apart from the series, so that db.ls shows the series alone
_CHUNK_ROWS = 65_536
_CHUNK_BYTES = 350_000  # a DynamoDB item holds 400 KB, its key and kydb's wrapping included
_CONNECTIONS = 8


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
        first, last = bounds(start, end)
        try:
            table = self._read(first, last)
        except KeyError:  # a writer replaced the chunks since the list was read
            self.chunks.setvalue(self.db.read(self.key, reload=True).chunks())
            try:
                table = self._read(first, last)
            except KeyError as error:
                raise UserError(
                    f"{self.key} in {redacted(self.db.url)} has lost its chunk {error}; write the series again"
                ) from None
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
                raise UserError(
                    f"the frame to append to {self.key} begins at {first}, and the series ends at "
                    f"{last}; append later rows, or use replace"
                )
        self.replace(frame)

    def delete(self) -> None:
        """Deletes the series and its chunks."""
        super().delete()
        self._delete_chunks([chunk["key"] for chunk in self.chunks()])

    def _read(self, first: int | None, last: int | None) -> pa.Table | None:
        return self._tables(
            [
                chunk
                for chunk in self.chunks()
                if (last is None or chunk["first"] <= last) and (first is None or chunk["last"] >= first)
            ]
        )

    def _tables(self, chunks: Sequence[dict]) -> pa.Table | None:
        if not chunks:
            return None
        with concurrent.futures.ThreadPoolExecutor(_CONNECTIONS) as pool:
            return pa.concat_tables(pool.map(self._table, chunks))

    def _table(self, chunk: dict) -> pa.Table:
        content = self.db.read(chunk["key"], reload=True)
        if hashlib.sha256(content).hexdigest() != chunk["sha256"]:
            raise UserError(
                f"chunk {chunk['key']} of {self.key} in {redacted(self.db.url)} is damaged: its checksum "
                "does not match; write the series again"
            )
        return pq.read_table(pa.BufferReader(content))

    def _refuse_other_columns(self, frame: pd.DataFrame, stored: pd.DataFrame) -> None:
        if set(frame.columns) != set(stored.columns):
            raise UserError(
                f"the frame to write has columns {', '.join(frame.columns)} and {self.key} has "
                f"{', '.join(stored.columns)}; write the same columns, or the whole series"
            )

    def _write(self, before: list[dict], frame: pd.DataFrame, after: list[dict], obsolete: list[str]) -> None:
        old, written = self.chunks(), []
        try:
            for content, rows in _encoded(frame):
                chunk = {
                    "key": f"{_CHUNK_FOLDER}{self.key}/{uuid.uuid4().hex}",
                    "first": int(rows.index[0].value),
                    "last": int(rows.index[-1].value),
                    "rows": len(rows),
                    "sha256": hashlib.sha256(content).hexdigest(),
                }
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
    return db.read(key, reload=True) if exists(db, key) else db.new("TimeSeries", key)


def register(db) -> None:
    """Makes `db[key]` return TimeSeries objects; classes registered before stay.

    Raises:
        UserError: the registered classes may not be read, so adding one would lose the others.
    """
    classes = db.read(DBOBJ_CONFIG_PATH, reload=True) if exists(db, DBOBJ_CONFIG_PATH) else {}
    if classes | _CLASS != classes:
        db.upload_objdb_config(classes | _CLASS)


def _encoded(frame: pd.DataFrame):
    """(Parquet bytes, rows) of one chunk after the other, each small enough for any backend."""
    for first in range(0, len(frame), _CHUNK_ROWS):
        rows = frame.iloc[first : first + _CHUNK_ROWS]
        content = _parquet(rows)
        pieces = -(-len(content) // _CHUNK_BYTES)
        if pieces == 1:
            yield content, rows
            continue
        size = -(-len(rows) // (pieces + 1))  # one piece more, since pieces do not compress alike
        for begin in range(0, len(rows), size):
            piece = rows.iloc[begin : begin + size]
            yield _parquet(piece), piece


def _parquet(rows: pd.DataFrame) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(
        pa.Table.from_pandas(rows.reset_index(), preserve_index=False),
        sink,
        compression="zstd",
        use_dictionary=list(rows.columns),
        column_encoding={"dt": "DELTA_BINARY_PACKED"},
    )
    return sink.getvalue().to_pybytes()


def _frame(table: pa.Table | None, first: int | None, last: int | None) -> pd.DataFrame:
    """Rows of a table between two times, both included, as a history."""
    if table is None:
        return pd.DataFrame({"mid": []}, pd.DatetimeIndex([], tz="UTC", name="dt").as_unit("ns"))
    frame = table.to_pandas(ignore_metadata=True)
    frame["dt"] = pd.to_datetime(frame["dt"], utc=True).dt.as_unit("ns")
    return between(frame.set_index("dt"), first, last)
