"""Tables whose columns carry their types: Parquet, Feather and JSON files."""

import contextlib
import io
import itertools
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq

from ml.data.text_tables import NoTable
from ml.data.times import is_epoch
from ml.data.unpacking import Content
from ml.errors import UserError, one_line

JSON_OBJECTS = 12  # times its text, what a JSON file's objects take in memory
_SAMPLE = 100  # rows


class _Stored:
    problems: list[str]
    names: list[str] | None

    @property
    def header(self) -> str:
        return ", ".join(self.names or [])

    def place(self, row: int) -> str:
        """A row, counted from 1."""
        return f"row {row + 1:,}"


class ParquetTable(_Stored):
    """A Parquet file; only the columns asked for are read.

    Raises:
        UserError: it is cut off or damaged.
    """

    kind = "Parquet"

    def __init__(self, content: Content, room: int):
        self.problems = []
        self.content = content
        source: Any = content.plain or io.BytesIO(content.read(room))
        with _telling(content.name):
            self._file = pq.ParquetFile(source)
        schema = self._file.schema_arrow
        self.names, self.types, self.width = list(schema.names), list(schema.types), len(schema.names)
        self.rows = self._file.metadata.num_rows

    def columns(self, numbers: list[int]) -> list[pa.ChunkedArray]:
        """Columns by number from 0."""
        names = [self._file.schema_arrow.names[number] for number in numbers]
        with _telling(self.content.name):
            table = self._file.read(columns=names)
            return [table.column(name) for name in names]

    def sample_of(self, number: int) -> list[str]:
        """The first values of a column, as text."""
        with _telling(self.content.name):
            batch = next(self._file.iter_batches(_SAMPLE, columns=[self._file.schema_arrow.names[number]]), None)
            return [] if batch is None else [str(value) for value in batch.column(0).to_pylist() if value is not None]


class FeatherTable(_Stored):
    """A Feather file, which is Arrow's IPC format; only the columns asked for are read.

    Raises:
        UserError: it is cut off or damaged.
    """

    kind = "Feather"

    def __init__(self, content: Content, room: int):
        self.problems = []
        self.content = content
        self._source: Any = content.plain or pa.BufferReader(content.read(room))
        with _telling(content.name):
            schema = self._reader().schema
        self.names, self.types, self.width = list(schema.names), list(schema.types), len(schema.names)

    @property
    def rows(self) -> int:
        """How many rows there are."""
        with _telling(self.content.name):
            reader = self._reader([0])
            return sum(reader.get_batch(number).num_rows for number in range(reader.num_record_batches))

    def columns(self, numbers: list[int]) -> list[pa.ChunkedArray]:
        """Columns by number from 0."""
        with _telling(self.content.name):
            table = self._reader(numbers).read_all()
            order = sorted(numbers)
            return [table.column(order.index(number)) for number in numbers]

    def sample_of(self, number: int) -> list[str]:
        """The first values of a column, as text."""
        with _telling(self.content.name):
            reader = self._reader([number])
            values = reader.get_batch(0).column(0)[:_SAMPLE].to_pylist() if reader.num_record_batches else []
            return [str(value) for value in values if value is not None]

    def _reader(self, numbers: list[int] | None = None):
        source = pa.memory_map(str(self._source)) if isinstance(self._source, Path) else self._source
        return pa.ipc.open_file(source, options=pa.ipc.IpcReadOptions(included_fields=sorted(numbers or [])))


class JsonTable(_Stored):
    """The records or rows of a JSON file, in memory."""

    def __init__(self, kind: str, names: list[str] | None, columns: list[list]):
        self.problems = []
        self.kind, self.names = kind, names
        self._columns = [_array(column) for column in columns]
        self.types, self.width, self.rows = [column.type for column in self._columns], len(columns), len(columns[0])

    def columns(self, numbers: list[int]) -> list[pa.ChunkedArray]:
        """Columns by number from 0."""
        return [pa.chunked_array([self._columns[number]]) for number in numbers]

    def sample_of(self, number: int) -> list[str]:
        """The first values of a column, as text."""
        return [str(value) for value in self._columns[number][:_SAMPLE].to_pylist() if value is not None]


def json_table(content: Content, room: int) -> JsonTable:
    """Records (`[{"t": 1, "c": 2}, ...]`, also one a line) or rows (`[[time, open, high, low, close, volume], ...]`).

    They may lie inside other objects, as exchanges' answers do.

    Raises:
        NoTable: it is JSON of something else.
        UserError: it is no JSON.
    """
    raw = content.read(room // JSON_OBJECTS)
    try:
        text = raw.decode("utf-8-sig")
        try:
            value = json.loads(text)
        except json.JSONDecodeError:
            lines = [line for line in text.splitlines() if line.strip()]
            if len(lines) < 2 or not lines[0].strip().endswith(("}", "]")):
                raise
            value = json.loads(f"[{','.join(lines)}]")
    except (ValueError, RecursionError) as error:
        raise UserError(f"{content.name} is no whole JSON: {one_line(error)[:120]}; send the whole file") from None
    found = list(itertools.islice(_lists_of_rows(value), 2))
    if len(found) != 1:
        raise NoTable(
            "it is JSON without a list of records or rows" if not found else "it is JSON with several lists of rows"
        )
    rows = found[0]
    if isinstance(rows[0], dict):
        names = list(dict.fromkeys(name for row in rows for name in row))
        return JsonTable("JSON records", names, [[row.get(name) for row in rows] for name in names])
    width = len(rows[0])
    other = next((at for at, row in enumerate(rows) if len(row) != width), None)
    if other is not None:
        raise UserError(f"{content.name}: row {other + 1:,} has {len(rows[other])} values where row 1 has {width}")
    return JsonTable("JSON rows", None, [list(column) for column in zip(*rows, strict=True)])


def _lists_of_rows(value: Any, depth: int = 0):
    if isinstance(value, list):
        kinds = set(map(type, value))
        if kinds in ({dict}, {list}) and len(value[0]) > 1 and not isinstance(value[0], str):
            yield value
    elif isinstance(value, dict) and depth < 4:
        for inner in value.values():
            yield from _lists_of_rows(inner, depth + 1)


def _array(values: list) -> pa.Array:
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        return pa.array([None if value is None else str(value) for value in values], pa.string())


def is_ccxt(samples: list[list[str]]) -> bool:
    """Whether the first columns are time, open, high, low, close, as those of ccxt and Binance are.

    Bitfinex has the close before the high, Coinbase the low first: there, some close lies outside high and low.
    """
    if len(samples) < 5 or not samples[0] or not all(map(is_epoch, samples[0])):
        return False
    try:
        high, low, close = ([float(value) for value in column] for column in samples[2:5])
    except ValueError:
        return False
    return all(bottom <= end <= top for top, bottom, end in zip(high, low, close, strict=False))


@contextlib.contextmanager
def _telling(name: str):
    """Turns whatever pyarrow raises where a file is damaged into a UserError."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno:
            raise UserError(f"{name} cannot be read: {error.strerror}") from None
        raise UserError(f"{name} is cut off or damaged ({one_line(error)[:120]}); send the whole file again") from None
