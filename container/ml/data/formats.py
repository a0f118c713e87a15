"""Any price file as rows of a price history."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import pandas as pd

from ml.data.cells import to_numbers
from ml.data.columns import Choice, Reading, Table, chosen_columns, name_of
from ml.data.rows import Mended, Rows, settled, with_mid
from ml.data.stored_tables import JSON_OBJECTS, FeatherTable, ParquetTable, json_table
from ml.data.text_tables import NoTable, TextTable, foreseen_lines
from ml.data.times import NoTimes, Times, to_times
from ml.data.unpacking import Content
from ml.errors import UserError, printable

_MESSAGE = 850  # characters of what is wrong with a file: SageMaker shows 1024, the rest is names

NO_LIMIT = 1 << 50  # bytes of memory where nobody says how much there is
_ROW_BYTES = 72  # that a row takes while it is read
_TEXT_BYTES = 110  # the text of a row's time and price, and its copies, besides
_JSON_ROW = 60  # bytes of a row of JSON

# Suffixes of files that claim to hold a table: one that does not is refused, and not left out.
_CLAIMS = (".csv", ".tsv", ".parquet", ".pq", ".feather", ".arrow", ".json", ".jsonl", ".ndjson")


class Part(NamedTuple):
    """The rows of one file between the dates, and how they were read.

    `span` is of all its rows, in nanoseconds since 1970; None: it has none. `symbol` is the instrument that a column of
    that name gives; empty: it has none. The other fields are those of `Understood`.
    """

    name: str
    frame: pd.DataFrame
    form: str
    columns: dict[str, str]
    times: str
    zone: str
    rows_read: int
    mended: Mended
    span: tuple[int, int] | None
    symbol: str = ""


def claims_prices(name: str) -> bool:
    """Whether a file's name says that it holds a table."""
    stem = name.lower()
    for packing in (".gz", ".bz2", ".xz", ".zst", ".zip"):
        stem = stem.removesuffix(packing)
    return stem.endswith(_CLAIMS)


def opened(content: Content, room: int) -> Table:
    """The table that a file's content is.

    Args:
        content: of a file or of an archive's member.
        room: bytes of memory that it may take.

    Raises:
        NoTable: it is none.
        UserError: it is damaged, or larger than the memory.
    """
    if content.head.startswith(b"PAR1"):
        return ParquetTable(content, room)
    if content.head.startswith(b"ARROW1"):
        return FeatherTable(content, room)
    if _is_json(content):
        return json_table(content, room)
    start = content.head.lower()
    if start.startswith((b"<!doctype", b"<?xml", b"<html")):
        raise NoTable("it is a web page or XML, such as an answer of a server that refused the download")
    return TextTable(content, room)


def _is_json(content: Content) -> bool:
    return content.head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] in (b"[", b"{")


def foreseen_in(content: Content) -> tuple[int, int]:
    """About how many rows a file has and how many bytes of memory reading them takes, before they are read.

    Raises:
        UserError: it is damaged.
    """
    if _is_json(content):
        size = content.size()
        return size // _JSON_ROW, size * JSON_OBJECTS
    if content.head.startswith((b"PAR1", b"ARROW1")):
        table = ParquetTable if content.head.startswith(b"PAR1") else FeatherTable
        rows = table(content, NO_LIMIT).rows
        return rows, rows * _ROW_BYTES
    rows = foreseen_lines(content)
    return rows, rows * (_ROW_BYTES + _TEXT_BYTES)


def file_parts(content: Content, how: Reading, first: int | None, last: int | None, room: int) -> list[Part]:
    """The rows of a file between two times, checked; a part an instrument where a column `symbol` names several.

    Args:
        content: of a file or of an archive's member.
        how: what the settings say about it.
        first: nanoseconds since 1970; None: from the first row.
        last: nanoseconds since 1970, included; None: to the last row.
        room: bytes of memory that it may take.

    Raises:
        NoTable: it is no table.
        UserError: everything that is wrong with it.
    """
    table = opened(content, room)
    choice = chosen_columns(table, how)
    form = ", ".join([table.kind, *content.packing])
    names = {"time": " + ".join(name_of(table, number) for number in choice.times)}
    names |= {name: name_of(table, number) for name, number in choice.prices.items()}
    if choice.problems:
        raise _refused(content, choice.problems)
    numbers = list(dict.fromkeys([*choice.times, *choice.prices.values()]))
    if choice.symbol is not None and choice.symbol not in numbers:
        numbers.append(choice.symbol)
    columns = dict(zip(numbers, table.columns(numbers), strict=True))
    if not len(columns[numbers[0]]):
        if table.problems:
            raise _refused(content, table.problems)
        return [Part(content.name, pd.DataFrame(), form, names, "", "", 0, Mended(), None)]
    problems = list(table.problems)
    try:
        times = to_times([columns[number] for number in choice.times], how.time_format, how.timezone)
    except NoTimes as error:
        raise _refused(content, [*problems, f"{names['time']} {error}"]) from None
    problems += _wrong_times(table, times, columns, choice, names["time"])
    kept = _between(times, first, last)
    values, wrong = _prices(table, choice, columns, names, times.bad, kept)
    problems += wrong
    if problems:
        raise _refused(content, problems)
    moments = times.values if kept is None else times.values[kept]
    values = with_mid(values)
    zone = f"taken as {times.zone}" if times.naive and how.timezone == "UTC" else times.zone

    def part(symbol: str, rows: np.ndarray | None) -> Part:
        def place(row: int) -> str:
            row = int(row if rows is None else rows[row])
            where = table.place(int(row if kept is None else kept[row]))
            return where if isinstance(table, TextTable) else f"{where} ({pd.Timestamp(int(moments[row]), tz='UTC')})"

        mended = Mended()
        mine = moments if rows is None else moments[rows]
        of_rows = values if rows is None else {name: column[rows] for name, column in values.items()}
        of_one = Rows(mine, of_rows, place, times.naive and how.timezone == "UTC")
        frame, problems = settled(of_one, mended, repeats=bool(how.resample))
        if problems:
            raise _refused(content, [f"{symbol}: {problem}" if rows is not None else problem for problem in problems])
        span = int(times.values.min()), int(times.values.max())
        return Part(content.name, frame, form, names, times.form, zone, len(mine), mended, span, symbol)

    if choice.symbol is None or not len(moments):
        return [part("", None)]
    codes, symbols = _symbols(columns[choice.symbol], kept)
    if not all(symbols):
        row = int(np.argmin([bool(symbols[code]) for code in codes]))
        where = table.place(row if kept is None else int(kept[row]))
        raise _refused(content, [f"symbol is empty at {where}; name the instrument of every row, or drop the column"])
    if len(symbols) == 1:
        return [part(symbols[0], None)]
    order = np.argsort(codes, kind="stable")  # the rows of each symbol, as they were
    ends = np.searchsorted(codes[order], np.arange(len(symbols)), "right")
    return [part(symbol, rows) for symbol, rows in zip(symbols, np.split(order, ends[:-1]), strict=True)]


def _symbols(column, kept: np.ndarray | None) -> tuple[np.ndarray, list[str]]:
    """The rows' symbols as numbers, and the names of those."""
    table = pd.factorize(pd.Series(column.to_pandas()).astype("string").fillna("").str.strip())
    codes, names = table[0] if kept is None else table[0][kept], [str(name) for name in table[1]]
    used, codes = np.unique(codes, return_inverse=True)
    return codes, [names[code] for code in used]


def _refused(content: Content, problems: list[str]) -> UserError:
    return UserError(f"{content.name}: {bounded(problems)}")


def bounded(problems: Iterable[str], most: int = _MESSAGE) -> str:
    """Sentences as one of a bounded length: those that fit, and how many there are besides; at least one."""
    problems = list(problems)
    kept = [problems[0][:most]]
    for problem in problems[1:]:
        if len("; ".join([*kept, problem])) > most:
            break
        kept.append(problem)
    more = len(problems) - len(kept)
    return "; ".join(kept) + (f"; and {more} more problem{'s' if more > 1 else ''}" if more else "")


def _wrong_times(table: Table, times: Times, columns: dict, choice: Choice, name: str) -> list[str]:
    if times.bad is None or not times.bad.any():
        return []
    row = int(np.argmax(times.bad))
    value = " ".join(str(columns[number][row].as_py() or "") for number in choice.times).strip()
    count = f"in {int(times.bad.sum()):,} of {len(times.bad):,} rows, the first at {table.place(row)}"
    if not value:
        return [f"{name} is empty {count}; give every row a time"]
    if value == name:
        return [f"the header comes again {count}; remove it there"]
    shown = "" if isinstance(table, TextTable) else f' ("{printable(value)[:60]}")'
    return [f"{name} {times.reason} {count}{shown}; {times.remedy}"]


def _between(times: Times, first: int | None, last: int | None) -> np.ndarray | None:
    """The rows between two times; None: all."""
    inside = np.ones(len(times.values), bool)
    if first is not None:
        inside &= times.values >= first
    if last is not None:
        inside &= times.values <= last
    return None if inside.all() else np.flatnonzero(inside)


def _prices(
    table: Table,
    choice: Choice,
    columns: dict,
    names: dict[str, str],
    told_before: np.ndarray | None,
    kept: np.ndarray | None,
) -> tuple[dict, list[str]]:
    values, problems = {}, []
    for name, number in choice.prices.items():
        found = to_numbers(columns[number])
        values[name] = found.values if kept is None else found.values[kept]
        if found.bad is None:
            continue
        bad = found.bad if told_before is None else found.bad & ~told_before
        bad = bad if kept is None else bad[kept]
        if bad.any():
            row = int(np.argmax(bad)) if kept is None else int(kept[np.argmax(bad)])
            received = printable(str(columns[number][row].as_py()))[:60]
            hint = found.hint or "mend or remove these rows"
            problems.append(
                f"{names[name]} is no number in {int(bad.sum()):,} of {len(bad):,} rows, the first at "
                f'{table.place(row)}: received "{received}"; {hint}'
            )
    return values, problems
