"""Which columns of a file are its times and its prices: by the names that are in use, or as the settings say."""

import dataclasses
from typing import Any

import pyarrow as pa

from ml.data.cells import is_text
from ml.data.stored_tables import FeatherTable, JsonTable, ParquetTable, is_ccxt
from ml.data.text_tables import TextTable
from ml.data.times import is_epoch, looks_like_a_date, looks_like_a_time, looks_like_a_time_of_day
from ml.errors import printable

Table = TextTable | ParquetTable | FeatherTable | JsonTable

# Names in lower case without blanks and signs; of several that a file has, the first here.
_names = str.split
_TIMES = _names(
    "dt opentime timestamp timestampms unixtimestamp unixtime unix epoch ts datetime datetimeutc timestamputc gmttime "
    "utctime timeutc dateutc timegmt localtime timeperiodstart starttime periodstart bartime candletime indexlevel0 "
    "date tradedate day datum time t index"
)
_TIMES_OF_DAY = _names("time timestamp hour timeofday zeit")
_MIDS = _names("mid midprice midclose midc closemid")
_BIDS = _names("bid bidclose closebid bidprice bestbid bidc bidpx")
_ASKS = _names("ask askclose closeask askprice bestask askc askpx offer")
_CLOSES = _names(
    "close closeprice priceclose closing closingprice closelast last lastprice tradeprice price px schluss kurs value c"
)
_HEADER_SHOWN = 200


@dataclasses.dataclass(frozen=True)
class Reading:
    """What a job says about its price files; empty: it is found out.

    Attributes:
        time_column: name of the column of times, or its number from 1; two for day and time of day: `Date+Time`.
        price_column: of the price; then bid and ask are read only where they are named too.
        bid_column: of the bid.
        ask_column: of the ask.
        time_format: as of strptime, or s, ms, us, ns for numbers since 1970.
        timezone: IANA name of the zone of times that carry none.
        resample: length of a bar that the last price of each is kept of, such as 1min.
    """

    time_column: str = ""
    price_column: str = ""
    bid_column: str = ""
    ask_column: str = ""
    time_format: str = ""
    timezone: str = "UTC"
    resample: str = ""

    @classmethod
    def of(cls, settings: Any) -> "Reading":
        """The part of a job's settings that says how its prices are read."""
        return cls(**{field.name: getattr(settings, field.name) for field in dataclasses.fields(cls)})


@dataclasses.dataclass
class Choice:
    """The columns that are read, by number from 0.

    Attributes:
        times: one column, or those of the day and of the time of day.
        prices: `mid`, `bid`, `ask`, `position` to the number of each that there is.
        problems: what is missing or not clear, each with the setting that mends it.
        symbol: the column that names each row's instrument, where there is one.
    """

    times: list[int] = dataclasses.field(default_factory=list)
    prices: dict[str, int] = dataclasses.field(default_factory=dict)
    problems: list[str] = dataclasses.field(default_factory=list)
    symbol: int | None = None


def chosen_columns(table: Table, how: Reading) -> Choice:
    """The columns of times and prices of a table."""
    choice = Choice()
    if table.names is None and not (how.time_column and (how.price_column or how.bid_column)):
        rows = [_samples(table, number) for number in range(min(5, table.width))]
        if table.kind == "JSON rows" and is_ccxt(rows) and not how.time_column and not how.price_column:
            choice.times, choice.prices = [0], {"mid": 4}
            return choice
        choice.problems.append(_no_header(table, rows))
        return choice
    _choose_times(table, how, choice)
    _choose_prices(table, how, choice)
    return choice


def name_of(table: Table, number: int) -> str:
    """A column's name as it stands in the file, or its number from 1."""
    name = (table.names[number] if table.names else "") or f"column {number + 1}"
    return "the index" if name == "__index_level_0__" else name  # pandas' name of one without


def _plain(name: str) -> str:
    return "".join(letter for letter in str(name).lower() if letter.isalnum())


def _samples(table: Table, number: int) -> list[str]:
    if isinstance(table, TextTable):
        return [fields[number] for fields in table.sample if len(fields) > number and fields[number].strip()]
    return table.sample_of(number)


def _no_header(table: Table, rows: list[list[str]]) -> str:
    first = (
        f'line {table.layout.skipped + 1} is "{printable(table.layout.delimiter.join(table.sample[0]))[:120]}"'
        if isinstance(table, TextTable) and table.sample
        else "its rows are lists"
    )
    kinds = [_kind_of_times(table, number) for number in range(min(5, table.width))]
    if is_ccxt(rows):
        hint = " (time_column=1 and price_column=5 where they are those of Binance or ccxt)"
    elif "whole" in kinds:
        hint = f" (times seem to be in time_column={kinds.index('whole') + 1})"
    elif "day" in kinds:
        clock = f"+{kinds.index('clock') + 1}" if "clock" in kinds else ""
        hint = f" (times seem to be in time_column={kinds.index('day') + 1}{clock})"
    else:
        hint = ""
    return f"there is no header: {first}; set time_column and price_column to the columns' numbers, from 1{hint}"


def _named(table: Table, setting: str, wanted: str, choice: Choice) -> int | None:
    """The column that a setting names."""
    names = table.names or []
    if names.count(wanted) > 1:
        numbers = [str(at + 1) for at, name in enumerate(names) if name == wanted]
        choice.problems.append(
            f"several columns are called {wanted}; set {setting} to one of the numbers {', '.join(numbers)}"
        )
        return None
    if wanted in names:
        return names.index(wanted)
    alike = [at for at, name in enumerate(names) if _plain(name) == _plain(wanted) and _plain(wanted)]
    if len(alike) == 1:
        return alike[0]
    if wanted.isdigit() and 1 <= int(wanted) <= table.width:
        return int(wanted) - 1
    has = f"columns {_header(table)}" if table.names else f"no header and {table.width} columns"
    choice.problems.append(f"{setting}={printable(wanted)} is none of its columns; it has {has}")
    return None


def _header(table: Table) -> str:
    header = printable(table.header)
    return header if len(header) <= _HEADER_SHOWN else f"{header[:_HEADER_SHOWN]}..."


def _by_name(table: Table, known: list[str], setting: str, choice: Choice) -> int | None:
    """The column whose name comes first among the known ones."""
    plain = [_plain_parts(name) for name in table.names or []]
    for name in known:
        found = [at for at, parts in enumerate(plain) if name in parts]
        if len(found) > 1:
            numbers = " or ".join(str(at + 1) for at in found)
            choice.problems.append(
                f"several columns could be {name}: {', '.join(name_of(table, at) for at in found)}; "
                f"set {setting} to {numbers}"
            )
            return None
        if found:
            return found[0]
    return None


def _plain_parts(name: str) -> set[str]:
    """A name, and its parts where a header of several lines was joined."""
    return {_plain(name), *(_plain(part) for part in str(name).split(" / "))}


def _choose_times(table: Table, how: Reading, choice: Choice) -> None:
    if how.time_column:
        wanted = [how.time_column]
        if how.time_column not in (table.names or []) and "+" in how.time_column:
            wanted = [part.strip() for part in how.time_column.split("+", 1)]
        numbers = [_named(table, "time_column", name, choice) for name in wanted]
        choice.times = [number for number in numbers if number is not None]
        return
    plain = [_plain_parts(name) for name in table.names or []]
    candidates = [at for name in _TIMES for at, parts in enumerate(plain) if name in parts]
    kinds = {at: _kind_of_times(table, at) for at in candidates}
    whole = [at for at in candidates if kinds[at] == "whole"]
    days = [at for at in candidates if kinds[at] == "day"]
    clocks = [
        at
        for name in _TIMES_OF_DAY
        for at, parts in enumerate(plain)
        if name in parts and kinds.get(at, _kind_of_times(table, at)) == "clock"
    ]
    if whole:
        choice.times = [whole[0]]
    elif days:
        choice.times = [days[0], *clocks[:1]]
    elif clocks:
        choice.problems.append(
            f"{name_of(table, clocks[0])} holds times of day and no column holds the day; it has columns "
            f"{_header(table)}; set time_column, or write the day into the file"
        )
    elif candidates:
        choice.times = [candidates[0]]  # whose values are refused with their line, or which has none
    else:
        choice.problems.append(f"no column is known for times; it has columns {_header(table)}; set time_column")


def _kind_of_times(table: Table, number: int) -> str:
    """Whether a column holds whole times, days, times of day (`clock`), or none of them (empty)."""
    if not isinstance(table, TextTable):
        kind = table.types[number]
        if pa.types.is_timestamp(kind):
            return "whole"
        if pa.types.is_date(kind):
            return "day"
        if pa.types.is_time(kind):
            return "clock"
        if not (
            is_text(kind) or pa.types.is_dictionary(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind)
        ):
            return ""
    cells = _samples(table, number)[:50]
    if not cells:
        return ""

    def most(is_one) -> bool:
        return sum(map(is_one, cells)) > len(cells) / 2

    midnight = all(cell.strip().endswith(("00:00:00", "00:00", "00:00:00.000")) for cell in cells)
    if most(is_epoch):
        return "whole"
    if most(looks_like_a_date):
        return "day"
    if most(looks_like_a_time_of_day):
        return "clock"
    if most(looks_like_a_time) or most(lambda cell: cell.strip().isdigit() and len(cell.strip()) in (12, 14, 17)):
        return "day" if midnight and len(cells) > 1 else "whole"
    return ""


def _choose_prices(table: Table, how: Reading, choice: Choice) -> None:
    told = {"mid": how.price_column, "bid": how.bid_column, "ask": how.ask_column}
    found: dict[str, int | None] = {}
    for name, wanted in told.items():
        if wanted:
            setting = "price_column" if name == "mid" else f"{name}_column"
            found[name] = _named(table, setting, wanted, choice)
    if not found:
        before = len(choice.problems)
        for name, known, setting in (
            ("mid", _MIDS, "price_column"),
            ("bid", _BIDS, "bid_column"),
            ("ask", _ASKS, "ask_column"),
        ):
            found[name] = _by_name(table, known, setting, choice)
        if found["bid"] is None or found["ask"] is None:
            alone = next((name_of(table, at) for at in (found["bid"], found["ask"]) if at is not None), "")
            found["bid"] = found["ask"] = None
        else:
            alone = ""
        if found["mid"] is None and found["bid"] is None and len(choice.problems) == before:
            found["mid"] = _by_name(table, _CLOSES, "price_column", choice)
        if found["mid"] is None and found["bid"] is None and len(choice.problems) == before:
            only = f"{alone} alone is no price to train on; " if alone else ""
            choice.problems.append(
                f"no column is known for prices; it has columns {_header(table)}; {only}set price_column, or "
                "bid_column and ask_column"
            )
    choice.prices = {name: number for name, number in found.items() if number is not None}
    symbols = [at for at, name in enumerate(table.names or []) if _plain(name) == "symbol"]
    if len(symbols) == 1:
        choice.symbol = symbols[0]
    position = [at for at, name in enumerate(table.names or []) if _plain(name) == "position"]
    if len(position) == 1:
        choice.prices["position"] = position[0]
