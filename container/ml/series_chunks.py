"""The chunks of a time series: Parquet files small enough for an item of any KYDB, and what a list says of each.

A chunk in a list is a dict of `key`, `first` and `last` (ns since 1970), `rows` and `sha256`.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ml.data.history import between

MOST_ROWS = 65_536
_MOST_BYTES = 350_000  # a DynamoDB item holds 400 KB, its key and kydb's wrapping included
_FIELDS = {"key": str, "first": int, "last": int, "rows": int, "sha256": str}


def is_list_of_chunks(value: Any) -> bool:
    """Whether something stored is a list of chunks, each after the one before it."""
    if not isinstance(value, list):
        return False
    last = pd.Timestamp.min.value - 1
    for chunk in value:
        if not isinstance(chunk, dict) or any(type(chunk.get(name)) is not kind for name, kind in _FIELDS.items()):
            return False
        if not last < chunk["first"] <= chunk["last"] <= pd.Timestamp.max.value:
            return False
        last = chunk["last"]
    return True


def is_chunk_of(table: pa.Table, chunk: dict[str, Any]) -> bool:
    """Whether a table holds the rows that a list says."""
    if table.num_rows != chunk["rows"] or not table.num_rows:
        return False
    times = [int(table["dt"][row].cast(pa.timestamp("ns", "UTC")).value) for row in (0, table.num_rows - 1)]
    return times == [chunk["first"], chunk["last"]]


def keys_of(chunks: Iterable[dict]) -> set[str]:
    return {chunk["key"] for chunk in chunks}


def overlapping(chunks: Sequence[dict], first: int | None, last: int | None) -> list[dict]:
    return [
        chunk
        for chunk in chunks
        if (last is None or chunk["first"] <= last) and (first is None or chunk["last"] >= first)
    ]


def moment(nanoseconds: int) -> pd.Timestamp:
    return pd.Timestamp(nanoseconds, tz="UTC")


def spans(chunks: Sequence[dict], readable: Sequence[bool], which: bool) -> str:
    """The times of the chunks that are readable, or of those that are not, as text."""
    found = []
    for kind, group in itertools.groupby(zip(chunks, readable, strict=True), key=lambda pair: pair[1]):
        if kind is which:
            together = [chunk for chunk, _ in group]
            found.append(f"{moment(together[0]['first'])} to {moment(together[-1]['last'])}")
    return ", ".join(found[:5]) + (f" and {len(found) - 5} more" if len(found) > 5 else "") or "none"


def encoded(frame: pd.DataFrame) -> Iterator[tuple[bytes, pd.DataFrame]]:
    """(Parquet bytes, rows) of one chunk after the other, each small enough for any backend."""
    for first in range(0, len(frame), MOST_ROWS):
        rows = frame.iloc[first : first + MOST_ROWS]
        content = _parquet(rows)
        pieces = -(-len(content) // _MOST_BYTES)
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
        use_dictionary=list(rows.columns),  # pyright: ignore[reportArgumentType]
        column_encoding={"dt": "DELTA_BINARY_PACKED"},
    )
    return sink.getvalue().to_pybytes()


def frame_of(table: pa.Table | None, first: int | None, last: int | None) -> pd.DataFrame:
    """Rows of a table between two times, both included, as a history."""
    if table is None:
        return pd.DataFrame({"mid": []}, pd.DatetimeIndex([], tz="UTC", name="dt").as_unit("ns"))
    frame = table.to_pandas(ignore_metadata=True, use_threads=False)
    frame["dt"] = pd.to_datetime(frame["dt"], utc=True).dt.as_unit("ns")
    return between(frame.set_index("dt"), first, last)
