"""Price histories in KYDB. The path of this class is stored in users' databases."""

import concurrent.futures
import hashlib
import pickle
import random
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from datetime import date
from typing import Any

import kydb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from kydb.dbobj import IS_DB_OBJ
from kydb.objdb import DBOBJ_CONFIG_PATH

from ml import series_chunks
from ml.data.history import bounds, checked
from ml.databases import DamagedValue, exists, mend, unpickled
from ml.errors import UserError, one_line, redacted
from ml.items import item_now, swap
from ml.log import say
from ml.series_chunks import encoded, frame_of, is_chunk_of, is_list_of_chunks, keys_of, moment, overlapping, spans

_CLASS = {"TimeSeries": {"module_path": "ml.timeseries", "class_name": "TimeSeries"}}
_CHUNK_FOLDER = "/timeseries_chunks"  # apart from the series, so that db.ls shows the series alone
_CONNECTIONS = 8
_ATTEMPTS = 10  # to write, where others write the same series at the same time


class _LostChunk(Exception):
    """A chunk that the list names is missing or damaged."""

    def __init__(self, chunk: dict[str, Any], how: str):
        super().__init__(f"chunk {chunk['key']} {how}")
        self.chunk = chunk


class TimeSeries(kydb.DbObj):
    """A price history in a KYDB database of any kind, in chunks that fit its items.

    The object itself holds a list of its chunks: key, first and last time, rows and checksum. A write reads the list,
    puts new chunks under new keys, and replaces the list, one item, if it is still the one that was read; if another
    writer was faster, the write is made again from that writer's list. So writers may write at the same time, and a
    reader sees all of a write or nothing. Only then are the chunks deleted that the replaced list alone named.

    Example:
        >>> db = kydb.connect(f"files:/{folder}")
        >>> time_series(db, "/symbols/ml/training_data/FX_BTC_JPY").replace(frame)
        >>> len(db["/symbols/ml/training_data/FX_BTC_JPY"].curve(date(2019, 1, 1), date(2019, 1, 1)))
        1440

    Attributes:
        wrote: called with the number of rows of each chunk that `replace` and `append` have written.
    """

    def init(self):
        """Called by kydb when the object is made."""
        mend(self.db)
        self._store = getattr(self.db, "persist_db", self.db)  # of a cache what it caches
        self._name = f"{self.key} in {redacted(self._store.url)}"
        self._chunk_folder = f"{_CHUNK_FOLDER}/{self.key.strip('/')}"
        self._damage = ""  # of the list, told by whoever needs it
        self.wrote: Callable[[int], None] = lambda rows: None

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
            UserError: a chunk is missing or damaged; the message says which rows can still be read.
        """
        if self._damage:
            raise DamagedValue(self._damage)
        first, last = bounds(start, end)
        while True:
            chunks = self._valid(self.chunks())
            try:
                return frame_of(self._tables(overlapping(chunks, first, last)), first, last)
            except _LostChunk as lost:
                content = item_now(self._store, self.key)
                if content is None:
                    raise UserError(f"{self._name} has been deleted") from None
                self._keep(self._listed(content))
                if self.chunks() == chunks:  # so no writer has replaced the chunks since the list was read
                    raise UserError(self._what_is_left(chunks, lost)) from None

    def replace(self, frame: pd.DataFrame) -> None:
        """Writes a history: the rows between its first and its last time are replaced, others stay.

        Also mends a damaged series: chunks that are lost may be replaced by rows that cover them whole, and a list
        that is lost by the whole series.

        Raises:
            UserError: the frame is no price history, has other columns than the rows that stay, or covers only a
                part of a damaged chunk.
        """
        frame = checked(frame, source="the frame to write")
        self._rewrite(lambda chunks: self._merged(chunks, frame), mends=True)

    def append(self, frame: pd.DataFrame) -> None:
        """Adds rows after the last one.

        Raises:
            UserError: a row is not after the last one.
        """
        frame = checked(frame, source="the frame to append")

        def merged(chunks):
            if chunks and frame.index[0].value <= chunks[-1]["last"]:
                raise UserError(
                    f"the frame to append to {self.key} begins at {frame.index[0]}, and the series ends at "
                    f"{moment(chunks[-1]['last'])}; append later rows, or use replace"
                )
            return self._merged(chunks, frame)

        self._rewrite(merged)

    def delete(self) -> None:
        """Deletes the series and its chunks."""
        _refuse_a_cache(self.db)
        try:
            chunks = self._listed(item_now(self._store, self.key))
        except DamagedValue:
            chunks = []
        super().delete()
        self._delete_chunks(chunks)

    def _keep(self, chunks: list[dict[str, Any]]) -> None:
        self.chunks.setvalue(chunks)  # pyright: ignore[reportFunctionMemberAccess, reportAttributeAccessIssue]

    # Reading

    def _valid(self, chunks: Any) -> list[dict[str, Any]]:
        """The list of chunks, if it is one."""
        if is_list_of_chunks(chunks):
            return chunks
        raise DamagedValue(f"{self._name} has a damaged list of chunks; write the whole series again with replace")

    def _listed(self, content: bytes | None) -> list[dict[str, Any]]:
        """The chunks that a stored list names."""
        if content is None:
            return []
        stored = unpickled(self._store, self.key, content)
        if not isinstance(stored, dict) or stored.get("meta", {}).get("class_name") != self.class_name:
            raise UserError(f"{self._name} is a {type(stored).__name__} and no {self.class_name}; choose another key")
        return self._valid(stored.get("data", {}).get("chunks", []))

    def _tables(self, chunks: Sequence[dict]) -> pa.Table | None:
        if not chunks:
            return None
        with concurrent.futures.ThreadPoolExecutor(_CONNECTIONS) as pool:
            return pa.concat_tables(pool.map(self._table, chunks))

    def _table(self, chunk: dict) -> pa.Table:
        try:
            content = self.db.read(chunk["key"], reload=True)
        except KeyError:
            raise _LostChunk(chunk, "is missing") from None
        except DamagedValue:
            raise _LostChunk(chunk, "is damaged") from None
        if not isinstance(content, bytes) or hashlib.sha256(content).hexdigest() != chunk["sha256"]:
            raise _LostChunk(chunk, "is damaged: its checksum does not match")
        # `pq.read_table` leaves native threads that may hold the bytes while Python ends, and abort the process then
        # (apache/arrow issue 49942); as many chunks as there are connections are decoded at the same time anyway.
        table = pq.ParquetFile(pa.BufferReader(content)).read(use_threads=False)
        if not is_chunk_of(table, chunk):
            raise _LostChunk(chunk, "does not hold the rows that the list says")
        return table

    def _is_readable(self, chunk: dict) -> bool:
        try:
            self._table(chunk)
        except _LostChunk:
            return False
        return True

    def _what_is_left(self, chunks: Sequence[dict], lost: _LostChunk) -> str:
        with concurrent.futures.ThreadPoolExecutor(_CONNECTIONS) as pool:
            readable = list(pool.map(self._is_readable, chunks))
        return (
            f"{self._name} is damaged: {lost}; rows that cannot be read: {spans(chunks, readable, False)}; rows that "
            f"can: {spans(chunks, readable, True)}; write the lost rows again with replace, from the first to the "
            "last of them"
        )

    # Writing

    def _rewrite(
        self, merged: Callable[[list[dict]], tuple[list[dict], pd.DataFrame, list[dict]]], mends=False
    ) -> None:
        """Replaces the list by one made from it, again and again until no other writer comes between.

        Args:
            merged: from the chunks of a list those that stay before and after the rows to write, and these rows.
            mends: whether a damaged list counts as an empty one.
        """
        _refuse_a_cache(self.db)
        for attempt in range(_ATTEMPTS):
            old = item_now(self._store, self.key)
            try:
                chunks = self._listed(old)
            except DamagedValue as damage:
                if not mends:
                    raise
                chunks = []
                say(
                    f"{one_line(damage)}; it is replaced, and holds only the rows that are written now; the chunks "
                    f"of before stay in {self._chunk_folder}"
                )
            try:
                before, rows, after = merged(chunks)
            except _LostChunk as lost:
                if item_now(self._store, self.key) != old:
                    continue  # another writer has replaced the chunk, and the list with it
                raise UserError(
                    f"{self._name} is damaged: {lost}, and the rows to write cover a part of it only; write all rows "
                    f"from {moment(lost.chunk['first'])} to {moment(lost.chunk['last'])}"
                ) from None
            if self._replaced(old, chunks, before, rows, after):
                self._damage = ""
                return
            time.sleep(random.uniform(0, 0.05 * 2 ** min(attempt, 5)))  # noqa: S311 - as in `ml.items`
        raise UserError(
            f"{self._name} was written by others {_ATTEMPTS} times while this wrote; nothing was changed, write again "
            "when they have ended"
        )

    def _replaced(self, old: bytes | None, chunks: list, before: list, rows: pd.DataFrame, after: list) -> bool:
        """Writes the rows as chunks, and swaps the list; returns whether nobody else was faster."""
        written = self._write_chunks(rows)
        listed = [*before, *written, *after]
        try:
            swapped = swap(self._store, self.key, old, self._pickled(listed))
        except (
            UserError
        ):  # it was refused; after other errors the list may be written, and both lists' chunks must stay
            self._delete_chunks(written)
            raise
        found = item_now(self._store, self.key)
        if swapped and found == old:
            raise OSError(f"{self._name}: what was read back is not what was written")
        now = self._listed(found)
        # A connection may have broken after the list was written, and others may have written on top of it since.
        if not (swapped or keys_of(written) & keys_of(now)):
            self._delete_chunks(written)
            return False
        self._keep(now)
        kept = keys_of(listed) | keys_of(now)
        self._delete_chunks([chunk for chunk in chunks if chunk["key"] not in kept])
        return True

    def _merged(self, chunks: list[dict], frame: pd.DataFrame) -> tuple[list[dict], pd.DataFrame, list[dict]]:
        """Chunks that stay before and after a frame, and its rows with those that share a chunk with them.

        Raises:
            _LostChunk: one of which other rows must stay.
        """
        first, last = int(frame.index[0].value), int(frame.index[-1].value)
        before = [chunk for chunk in chunks if chunk["last"] < first]
        after = [chunk for chunk in chunks if chunk["first"] > last]
        shared = [
            chunk
            for chunk in overlapping(chunks, first, last)
            if not (first <= chunk["first"] and chunk["last"] <= last)
        ]
        tables = [self._table(chunk) for chunk in shared]
        # A small neighbour is merged, so that appending a minute at a time does not leave a chunk a minute.
        if before and before[-1]["rows"] + len(frame) <= series_chunks.MOST_ROWS and self._is_readable(before[-1]):
            tables.insert(0, self._table(before.pop()))
        if tables:
            stored = frame_of(pa.concat_tables(tables), None, None)
            self._refuse_other_columns(frame, stored)
            outside = stored[(stored.index < frame.index[0]) | (stored.index > frame.index[-1])]
            frame = pd.concat([outside, frame[stored.columns]]).sort_index()
        elif kept := next(filter(self._is_readable, [*before, *after]), None):
            self._refuse_other_columns(frame, frame_of(self._table(kept), None, None))
        return before, frame, after

    def _refuse_other_columns(self, frame: pd.DataFrame, stored: pd.DataFrame) -> None:
        if set(frame.columns) != set(stored.columns):
            raise UserError(
                f"the frame to write has columns {', '.join(frame.columns)} and {self.key} has "
                f"{', '.join(stored.columns)}; write the same columns, or the whole series"
            )

    def _write_chunks(self, frame: pd.DataFrame) -> list[dict[str, Any]]:
        written = []
        try:
            for content, rows in encoded(frame):
                chunk = {
                    "key": f"{self._chunk_folder}/{uuid.uuid4().hex}",
                    "first": int(rows.index[0].value),
                    "last": int(rows.index[-1].value),
                    "rows": len(rows),
                    "sha256": hashlib.sha256(content).hexdigest(),
                }
                written.append(chunk)
                self._store.set_raw(self._store._get_full_path(chunk["key"]), pickle.dumps(content))
                self.wrote(len(rows))
        except BaseException:
            self._delete_chunks(written)
            raise
        return written

    def _pickled(self, chunks: list[dict]) -> bytes:
        """What kydb stores for this object with other chunks."""
        return pickle.dumps(
            {
                IS_DB_OBJ: True,
                "meta": {"key": self.key, "class_name": self.class_name},
                "data": self.get_stored_dict() | {"chunks": chunks},
            }
        )

    def _delete_chunks(self, chunks: Iterable[dict]) -> None:
        for chunk in chunks:
            try:
                self._store.delete_raw(self._store._get_full_path(chunk["key"]))
            except (FileNotFoundError, KeyError):
                pass  # it was not written, or another writer has deleted it
            except Exception as error:  # an orphan costs space only, and what failed before must be told
                say(f"chunk {chunk['key']} of {self.key} could not be deleted: {one_line(error)}")


def time_series(db, key: str) -> TimeSeries:
    """The series under a key, or a new, empty one; registers the class in the database.

    Args:
        db: a KYDB database that can be written; the first one of a union is.
        key: with or without a slash at its beginning.

    Raises:
        UserError: the key holds something else, or the database has another class of this name.
    """
    register(db)
    key = f"/{key.strip('/')}"
    try:
        found = db.read(key, reload=True) if exists(db, key) else db.new("TimeSeries", key)
    except DamagedValue as damage:
        found = db.new("TimeSeries", key)
        found._damage = f"{damage} with replace"
    if not isinstance(found, TimeSeries):
        raise UserError(f"{key} holds a {type(found).__name__} and no TimeSeries; choose another key")
    return found


def register(db) -> None:
    """Makes `db[key]` return TimeSeries objects; classes registered before stay.

    Raises:
        UserError: the registered classes may not be read, so adding one would lose the others; or there is a
            class of this name already.
    """
    _refuse_a_cache(db)
    mend(db)
    first = db.dbs[0] if hasattr(db, "dbs") else db  # of a union, the one that is written
    for _ in range(_ATTEMPTS):
        old = item_now(first, DBOBJ_CONFIG_PATH)
        classes = {} if old is None else unpickled(first, DBOBJ_CONFIG_PATH, old)
        if not isinstance(classes, dict):
            raise UserError(f"{DBOBJ_CONFIG_PATH} in {redacted(first.url)} holds no classes; mend or delete it")
        theirs = classes.get("TimeSeries")
        if theirs is not None and {**theirs, **_CLASS["TimeSeries"]} != theirs:
            raise UserError(
                f"{redacted(first.url)} has a class TimeSeries of another program already "
                f"({theirs.get('module_path')}.{theirs.get('class_name')}), which this would replace; keep these "
                f"series in a folder of their own, with classes of its own, such as {redacted(first.url.rstrip('/'))}"
                "/position-trainer"
            )
        if theirs is not None or swap(first, DBOBJ_CONFIG_PATH, old, pickle.dumps(classes | _CLASS)):
            return
    raise UserError(f"{DBOBJ_CONFIG_PATH} in {redacted(first.url)} keeps being changed by others; try again")


def _refuse_a_cache(db) -> None:
    """Kydb writes a cache and what it caches one after the other, so they could come to differ."""
    if hasattr(db, "persist_db"):
        raise UserError(
            "a time series cannot be written through a cache; connect to the database behind it, "
            f"{redacted(db.persist_db.url)}"
        )
