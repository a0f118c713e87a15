# pyarrow makes its compute functions when it is imported:
# pyright: reportAttributeAccessIssue=false
"""Times as exchanges, vendors and trading programs write them, as nanoseconds since 1970 in UTC."""

import datetime
import re
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from ml.data.cells import as_text, is_text
from ml.data.zones import Times, in_utc
from ml.errors import one_line

# Nanoseconds, the least and the most that a number of a unit may be: 1990 to 2033, so that no unit's numbers are
# another's, nor a date written as digits (2024010200). Other numbers are times only where time_format says so.
UNITS = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
_FIRST, _LAST = 631_152_000 * 10**9, 2_000_000_000 * 10**9

_DAY = 86_400 * 10**9
_OUT_OF_BOUNDS = "outside the years 1677 to 2262, which nobody traded in; remove them"
_MONTHS = {
    name: number
    for number, name in enumerate(
        ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"], 1
    )
}
_MONTHS |= {"mär": 3, "mrz": 3, "mai": 5, "okt": 10, "dez": 12}

_DATE = (
    r"\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{8}|\d{1,2}[-/.]\d{1,2}[-/.]\d{2,4}"
    r"|\d{1,2}[- ]\pL{3,9}[- ,]+\d{4}|\pL{3,9}\.? \d{1,2},? \d{4}"
)
_TIME = r"\d{1,2}:\d{2}(?::\d{2}(?:[.,:]\d{1,9})?)?(?: ?[aApP][mM])?|\d{1,2}[- ]?[aApP][mM]|\d{9}|\d{6}|\d{4}"
_ZONE = r"Z|z|(?:UTC|GMT)?[+-]\d{2}:?\d{2}|UTC|GMT"
_WHOLE = rf"^(?P<date>{_DATE})(?:[T ,;]*(?P<time>{_TIME}))?(?: ?(?P<zone>{_ZONE}))?$"
_ISO = re.compile(r"\d{4}-\d{2}-\d{2}([T ]\d{2}:.*)?")

_LETTER = r"[^\W\d_]"  # what Python calls \pL
_PYTHON = re.compile(_WHOLE.replace(r"\pL", _LETTER))
_PARTS = {
    name: re.compile(pattern.replace(r"\pL", _LETTER))
    for name, pattern in (("date", _DATE), ("time", _TIME), ("zone", _ZONE))
}
_COMPACT = re.compile(r"(19|20)\d\d[01]\d[0-3]\d(\d{4}|\d{6}|\d{9})?")  # 20240102, with a time of day or without
_DIGITS = re.compile(r"\d+(\.\d*)?")


class NoTimes(Exception):
    """A column that cannot be read as times as a whole; the message says why and what to do."""


def looks_like_a_time(cell: str) -> bool:
    """Whether a cell is a time in one of the forms read here; not a number."""
    return bool(_PYTHON.fullmatch(cell.strip())) and not cell.strip().isdigit()


def looks_like_a_time_of_day(cell: str) -> bool:
    return bool(_PARTS["time"].fullmatch(cell.strip())) and not is_epoch(cell)


def looks_like_a_date(cell: str) -> bool:
    """Whether a cell is a day without a time of day."""
    found = _PYTHON.fullmatch(cell.strip())
    return bool(found) and found["time"] is None


def is_epoch(cell: str) -> bool:
    """Whether a cell is a number that means a time since 1970."""
    return bool(_DIGITS.fullmatch(cell.strip())) and _unit(float(cell)) is not None


def _unit(number: float) -> str | None:
    return next((unit for unit, factor in UNITS.items() if _FIRST <= number * factor < _LAST), None)


def to_times(columns: list[pa.ChunkedArray], time_format: str = "", timezone: str = "UTC") -> Times:
    """A column of times, or one of days and one of times of day, in UTC.

    Args:
        columns: one or two, of any type.
        time_format: as of `strptime`, or the unit of numbers (s, ms, us, ns); empty: found out.
        timezone: of times that carry none.

    Raises:
        NoTimes: they are no times, or could be read in two ways.
    """
    if len(columns) == 2:
        return _of_text(_joined(*columns), time_format, timezone)
    (column,) = columns
    kind = column.type
    if pa.types.is_dictionary(kind):
        return to_times([column.cast(kind.value_type)], time_format, timezone)
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return _of_timestamps(column, timezone)
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return _of_numbers(column, time_format, timezone)
    if pa.types.is_decimal(kind):
        return _of_numbers(column.cast(pa.float64()), time_format, timezone)
    if is_text(kind):
        return _of_text(as_text(column), time_format, timezone)
    raise NoTimes(f"holds {kind}, not times; set time_column")


def _joined(days: pa.ChunkedArray, times: pa.ChunkedArray) -> pa.ChunkedArray:
    """Days and times of day as one column; 930 and 93000 are 09:30 and 09:30:00."""
    days, times = (
        pc.utf8_trim_whitespace(as_text(column if is_text(column.type) else column.cast(pa.string())))
        for column in (days, times)
    )
    if pc.all(pc.utf8_is_digit(times)).as_py():
        longest = pc.max(pc.utf8_length(times)).as_py()
        times = pc.utf8_lpad(times, 4 if longest <= 4 else 6 if longest <= 6 else 9, "0")
    return pc.binary_join_element_wise(days, times.cast(days.type), " ")


def _of_timestamps(column: pa.ChunkedArray, timezone: str) -> Times:
    naive = getattr(column.type, "tz", None) is None
    if pa.types.is_date(column.type):
        column = column.cast(pa.timestamp("s"))
    bad = column.is_null().to_numpy() if column.null_count else None
    try:
        values = column.cast(pa.timestamp("ns", column.type.tz)).to_pandas().to_numpy(dtype="datetime64[ns]")
    except pa.ArrowInvalid:
        raise NoTimes(f"has times {_OUT_OF_BOUNDS}") from None
    values = values.view(np.int64)
    form = "timestamps"
    if not naive:
        return Times(values, form, column.type.tz, bad=bad, reason="is empty", remedy="give every row a time")
    return in_utc(values, form, timezone, bad)


def _of_numbers(column: pa.ChunkedArray, time_format: str, timezone: str) -> Times:
    numbers = column.to_pandas().to_numpy(np.float64, na_value=np.nan)
    known = numbers[np.isfinite(numbers)]
    if not len(known):
        raise NoTimes("is empty in every row; set time_column")
    if time_format and time_format not in UNITS:
        return _of_text(column.cast(pa.int64()).cast(pa.string()), time_format, timezone)
    unit = time_format or _unit(known[0])
    if unit is None:
        if known[0] < 10**17 and _COMPACT.fullmatch(f"{known[0]:.0f}") and (known == np.floor(known)).all():
            text = column.cast(pa.int64()).cast(pa.string())
            return _of_other_forms(text, timezone)
        raise NoTimes(
            f"holds numbers such as {known[0]:.15g}, which are no times since 1970 in s, ms, us or ns between 1990 and "
            "2033; set time_column, or time_format to the unit"
        )
    factor = UNITS[unit]
    with np.errstate(invalid="ignore"):
        right = np.abs(numbers) * factor < 2**63 if time_format else (
            (numbers * factor >= _FIRST) & (numbers * factor < _LAST)
        )  # fmt: skip
    if pa.types.is_integer(column.type) and not column.null_count:
        values = np.where(right, column.to_numpy().astype(np.int64), 0) * factor
    else:  # a float64 of seconds holds a quarter of a microsecond
        whole = np.floor(np.where(right, numbers, 0))
        part = np.round((np.where(right, numbers, 0) - whole) * factor / 1000) * 1000 if factor > 1 else 0 * whole
        values = whole.astype(np.int64) * factor + part.astype(np.int64)
    words = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}[unit]
    return Times(
        values,
        f"{words} since 1970",
        bad=None if right.all() else ~right,
        reason=f"is no time in {words} since 1970",
        remedy="mend these rows, or set time_format to the unit",
    )


def _of_text(cells: pa.ChunkedArray, time_format: str, timezone: str) -> Times:
    first = next((cell for part in cells.chunks for cell in part[:1000].to_pylist() if cell and cell.strip()), None)
    if first is None:
        raise NoTimes("is empty in every row; set time_column")
    if not time_format and _COMPACT.fullmatch(first.strip()):
        return _of_other_forms(pc.utf8_trim_whitespace(cells), timezone)
    if time_format in UNITS or (not time_format and _DIGITS.fullmatch(first.strip())):
        return _of_digits(cells, time_format, timezone)
    if time_format:
        return _of_format(cells, time_format, timezone)
    if _ISO.fullmatch(first):
        return _of_iso(cells, timezone)
    return _of_other_forms(pc.utf8_trim_whitespace(cells), timezone)


def _of_digits(cells: pa.ChunkedArray, time_format: str, timezone: str) -> Times:
    for kind in (pa.int64(), pa.float64()):
        try:
            return _of_numbers(pc.cast(cells, kind), time_format, timezone)
        except pa.ArrowInvalid:
            continue
    cells = pc.utf8_trim_whitespace(cells)
    digits = pc.fill_null(pc.match_substring_regex(cells, r"^\d+(\.\d*)?$"), False)
    return _of_numbers(pc.cast(pc.if_else(digits, cells, None), pa.float64()), time_format, timezone)


def _of_format(cells: pa.ChunkedArray, time_format: str, timezone: str) -> Times:
    try:
        moments = pd.to_datetime(
            pc.utf8_trim_whitespace(cells).to_pandas(), format=time_format, errors="coerce", utc="%z" in time_format
        )
    except (ValueError, TypeError) as error:
        raise NoTimes(f"cannot be read with time_format {time_format}: {one_line(error)[:100]}") from None
    bad = moments.isna().to_numpy()
    values = moments.dt.tz_localize(None).to_numpy(dtype="datetime64[ns]").view(np.int64)
    reason, remedy = f"does not match time_format {time_format}", "mend these rows or the setting"
    if "%z" in time_format:
        return Times(values, time_format, "UTC", False, bad if bad.any() else None, reason, remedy)
    return in_utc(values, time_format, timezone, bad if bad.any() else None, reason, remedy)


def _of_iso(cells: pa.ChunkedArray, timezone: str) -> Times:
    form = "ISO 8601"
    try:  # none carries a zone
        return in_utc(pc.cast(cells, pa.timestamp("ns")).cast(pa.int64()).to_numpy(), form, timezone, None)
    except pa.ArrowInvalid:
        pass
    try:  # all do
        return Times(pc.cast(cells, pa.timestamp("ns", "UTC")).cast(pa.int64()).to_numpy(), form)
    except pa.ArrowInvalid:
        pass
    return _of_other_forms(pc.utf8_trim_whitespace(cells), timezone, form)


def _of_other_forms(cells: pa.ChunkedArray, timezone: str, form: str = "") -> Times:
    """Any form that `_WHOLE` knows: the few different days, and the times of a day, are read one by one."""
    day_words, clock_words, zone_words = _by_position(cells) or _by_pattern(cells)
    days, day_form = _days(day_words.different, _form_around_day(cells))
    clocks = np.array([_time_of_day(word) for word in clock_words.different], np.int64)
    offsets = [_offset(word) for word in zone_words.different]
    day, clock = days[day_words.rows], clocks[clock_words.rows]
    zoned = np.array([offset is not None for offset in offsets], bool)[zone_words.rows]
    offset = np.array([offset or 0 for offset in offsets], np.int64)[zone_words.rows]
    bad = (day == _NONE) | (clock == _NONE) | (offset == _NONE)
    if bad.all():
        example = next((cell for cell in cells[:1000].to_pylist() if cell), "")
        year = re.match(r"(\d{4})-", example)
        if year and not pd.Timestamp.min.year < int(year[1]) < pd.Timestamp.max.year:
            raise NoTimes(f'has times {_OUT_OF_BOUNDS}: "{example[:40]}"')
        raise NoTimes(f'holds no times: "{example[:40]}"; set time_column or time_format')
    values = np.where(bad, 0, day * _DAY + clock - offset)
    reasons = "is no time", "mend these rows, or set time_format"
    if not zoned.any():
        return in_utc(values, form or day_form, timezone, bad if bad.any() else None, *reasons)
    if zoned[~bad].all():
        return Times(values, form or day_form, "UTC", False, bad if bad.any() else None, *reasons)
    local = in_utc(np.where(zoned, 0, values), form or day_form, timezone, bad if bad.any() else None, *reasons)
    wrong = None if local.bad is None or not (local.bad & ~(zoned & ~bad)).any() else local.bad & ~(zoned & ~bad)
    zone = f"UTC, and {timezone} where none is written"
    return local._replace(values=np.where(zoned, values, local.values), zone=zone, bad=wrong)


_NONE = np.iinfo(np.int64).min


class _Words(NamedTuple):
    """A column of text: its different words, and which of them is in each row."""

    different: list[str]
    rows: np.ndarray


def _words(column) -> _Words:
    encoded = pc.fill_null(column, "").dictionary_encode()
    encoded = encoded.combine_chunks() if isinstance(encoded, pa.ChunkedArray) else encoded
    return _Words(encoded.dictionary.to_pylist(), encoded.indices.to_numpy(zero_copy_only=False))


def _by_pattern(cells: pa.ChunkedArray) -> list[_Words]:
    """Day, time of day and zone of each cell; empty where the cell is none of the known forms."""
    parts = pc.extract_regex(pc.fill_null(cells, ""), _WHOLE)
    return [_words(pc.struct_field(parts, name)) for name in _PARTS]


def _by_position(cells: pa.ChunkedArray) -> list[_Words] | None:
    """The same, six times faster, where all cells are laid out like the first; None where they are not."""
    lengths = pc.min_max(pc.binary_length(cells)).as_py()
    first = cells[0].as_py()
    found = _PYTHON.fullmatch(first or "")
    if cells.null_count or not found or not first.isascii() or not lengths["min"] == lengths["max"] == len(first):
        return None
    words, end = [], 0
    for name, pattern in _PARTS.items():
        if found[name] is None:
            words.append(_Words([""], np.zeros(len(cells), np.int64)))
            continue
        start, stop = found.span(name)
        between = pc.utf8_slice_codeunits(cells, end, start)
        if start > end and not pc.all(pc.equal(between, first[end:start])).as_py():
            return None
        words.append(_words(pc.utf8_slice_codeunits(cells, start, stop)))
        if not all(pattern.fullmatch(word) for word in words[-1].different):
            return None
        end = stop
    return words


def _form_around_day(cells: pa.ChunkedArray) -> str:
    """The time_format of the first time, with {} in the place of its day."""
    found = next((found for cell in cells[:1000].to_pylist() if cell and (found := _PYTHON.fullmatch(cell))), None)
    if found is None:
        return "{} %H:%M"
    clock, zone = found["time"] or "", found["zone"] or ""
    if ":" in clock:
        hour = "%I" if clock[-1] in "mM" else "%H"
        form = re.sub(r"^\d+:\d+", f"{hour}:%M", clock)
        form = re.sub(r"(?<=M):\d+", ":%S", form)
        form = re.sub(r"(?<=S)([.,:])\d+", r"\1%f", form)
        form = re.sub(r"[aApP][mM]$", "%p", form)
    else:
        form = {0: "", 4: "%H%M", 6: "%H%M%S", 9: "%H%M%S%f"}.get(len(clock), "%I %p")
    written = re.sub(r"[+-]\d\d:?\d\d|^[zZ]$", "%z", zone)
    between = found.string[found.end("date") : found.start("time")] if clock else ""
    before_zone = found.string[max(found.end("date"), found.end("time")) : found.start("zone")] if zone else ""
    return f"{{}}{between}{form}{before_zone}{written}"


def _days(words: list[str], around: str) -> tuple[np.ndarray, str]:
    """Days since 1970 of dates in words, and how they are written.

    Args:
        words: the different days.
        around: of `_form_around_day`, for the message.

    Raises:
        NoTimes: the month cannot be told from the day.
    """
    found = [re.findall(r"\d+|[^\W\d_]+", word) for word in words]
    pairs = [
        parts for parts in found if len(parts) == 3 and len(parts[0]) <= 2 and len(parts[1]) <= 2 and parts[1].isdigit()
    ]
    day_first = True
    named = sum(any(part.isalpha() for part in parts) for parts in found)
    form = "the month in letters" if named > len(found) / 2 else "year first"
    if pairs:
        example = next(word for word, parts in zip(words, found, strict=True) if parts == pairs[0])
        first, second = (max(int(parts[at]) for parts in pairs) for at in (0, 1))
        if any(len(parts[2]) != 4 for parts in pairs):
            sign = re.sub(r"\d", "", example)[0]
            forms = [
                around.format(sign.join(order))
                for order in (("%d", "%m", "%y"), ("%m", "%d", "%y"), ("%y", "%m", "%d"))
            ]
            raise NoTimes(f"has years of two digits ({example}); set time_format to {', '.join(forms)} or what it is")
        if first <= 12 and second <= 12 and "." not in example:
            sign = re.sub(r"\d", "", example)[0]
            raise NoTimes(
                f"can be read in two ways: {example} may have the day or the month first; set time_format, such as "
                f"{around.format(f'%d{sign}%m{sign}%Y')} or {around.format(f'%m{sign}%d{sign}%Y')}"
            )
        day_first = first > 12 or second <= 12  # with points the day is first wherever it is written so
        form = "day first" if day_first else "month first"
    epoch = datetime.date(1970, 1, 1).toordinal()
    days = []
    for word, parts in zip(words, found, strict=True):
        try:
            days.append(_date(word, parts, day_first).toordinal() - epoch)
        except (ValueError, KeyError):
            days.append(_NONE)
    days = [day if abs(day) < 106_751 else _NONE for day in days]  # within what nanoseconds can hold
    return np.array(days, np.int64), form


def _date(word: str, parts: list[str], day_first: bool) -> datetime.date:
    if len(parts) == 1 and len(word) == 8:
        return datetime.date(int(word[:4]), int(word[4:6]), int(word[6:]))
    one, two, three = parts
    if len(one) == 4 and one.isdigit():
        return datetime.date(int(one), int(two), int(three))
    if not one.isdigit():  # Jan 02, 2024
        return datetime.date(int(three), _MONTHS[one[:3].lower()], int(two))
    if not two.isdigit():  # 02-Jan-2024
        return datetime.date(int(three), _MONTHS[two[:3].lower()], int(one))
    day, month = (one, two) if day_first else (two, one)
    return datetime.date(int(three), int(month), int(day))


def _time_of_day(word: str) -> int:
    """Nanoseconds since midnight; 0 where there is no word."""
    if not word:
        return 0
    half = re.search(r"([aApP])[mM]$", word)
    digits = re.findall(r"\d+", word)
    if len(digits) == 1 and len(digits[0]) >= 4:  # 0930, 093000, 093000123
        (packed,) = digits
        digits = [packed[:2], packed[2:4], packed[4:6] or "0", packed[6:] or "0"]
    hour, minute, second, fraction = (*digits, "0", "0", "0")[:4]
    hours = int(hour)
    if half:
        if not 1 <= hours <= 12:
            return _NONE
        hours = hours % 12 + (12 if half[1] in "pP" else 0)
    if hours > 23 or int(minute) > 59 or int(second) > 59:
        return _NONE
    return ((hours * 60 + int(minute)) * 60 + int(second)) * 10**9 + int(fraction.ljust(9, "0"))


def _offset(word: str) -> int | None:
    """Nanoseconds east of Greenwich; None where no zone is written."""
    if not word:
        return None
    digits = re.search(r"([+-])(\d\d):?(\d\d)", word)
    if not digits:
        return 0
    return (1 if digits[1] == "+" else -1) * (int(digits[2]) * 60 + int(digits[3])) * 60 * 10**9
