"""Where prices come from: a key in KYDB, or the files of a channel."""

import functools
import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from ml.data.columns import Reading
from ml.data.formats import NO_LIMIT, Part, bounded, claims_prices, file_parts, foreseen_in
from ml.data.history import bounds, checked
from ml.data.listing import ChannelFile, Listing, list_channel
from ml.data.rows import Mended
from ml.data.text_tables import NoTable
from ml.data.understood import History, Understood, finished
from ml.data.unpacking import contents
from ml.databases import TIMEOUT, connect, exists, patiently
from ml.errors import UserError, one_line, redacted

_SECONDS_BETWEEN_LINES = 5.0
_FOUND = 5  # names of files in a message


def read_kydb(
    url: str,
    key: str,
    start=None,
    end=None,
    *,
    patience: float = 0,
    timeout: float = TIMEOUT,
    given_up: Callable[[], bool] = lambda: False,
    resample: str = "",
) -> History:
    """The history that a KYDB object's `curve(start, end)` gives, checked.

    Args:
        url: KYDB URL.
        key: of any object with such a method: a `TimeSeries`, or one of the user's own.
        start: first day or time; None: from the first row.
        end: last day or time, included; None: to the last row.
        patience: seconds to keep trying where the database does not answer.
        timeout: seconds without a byte after which a connection counts as dead.
        given_up: looked at between attempts: whether to end.
        resample: length of a bar that the last price of each is kept of, such as 1min; empty: rows are bars.

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
    mended = Mended()
    history = checked(frame, source=source, mended=mended, repeats=bool(resample))
    return finished(history, Understood(source=source, rows_read=len(frame), mended=mended), resample)


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


def read_channel(
    folder: Path,
    start=None,
    end=None,
    how: Reading | None = None,
    *,
    room: int = NO_LIMIT,
    say: Callable[[str], None] = print,
) -> History:
    """The history in a channel's files, whatever format they are of, checked; sub-folders too.

    Args:
        folder: /opt/ml/input/data/<channel>, or a file.
        start: first day or time; None: from the first row.
        end: last day or time, included; None: to the last row.
        how: what the settings say about the files; None: everything is found out.
        room: bytes of memory that reading may take.
        say: is told of long waits.

    Raises:
        UserError: there is no such file, one cannot be read, or together they are no price history.
    """
    listing = list_channel(folder, say)
    return read_files(listing, start, end, how, source=f"channel {folder.name}", room=room, say=say)


def read_files(
    listing: Listing,
    start=None,
    end=None,
    how: Reading | None = None,
    *,
    source: str,
    room: int = NO_LIMIT,
    say: Callable[[str], None] = print,
) -> History:
    """The history in files, which may come in any order and repeat each other's rows, but not contradict them.

    Args:
        listing: the files.
        start: first day or time; None: from the first row.
        end: last day or time, included; None: to the last row.
        how: what the settings say about them; None: everything is found out.
        source: what they are called together, for messages.
        room: bytes of memory that reading may take.
        say: is told of long waits.

    Raises:
        UserError: one cannot be read, or together they are no price history.
    """
    read = read_parts(listing, start, end, how, source=source, room=room, say=say)
    return history_of(read.parts, read, how or Reading(), source)


class PartsRead(NamedTuple):
    """The rows of a channel's files, the file that each part was read from, and the names of the others with why."""

    parts: list[Part]
    files: dict[str, ChannelFile]
    left_out: list[str]


def read_parts(
    listing: Listing,
    start=None,
    end=None,
    how: Reading | None = None,
    *,
    source: str,
    room: int = NO_LIMIT,
    say: Callable[[str], None] = print,
) -> PartsRead:
    """The rows of files, not yet put together; the arguments are those of `read_files`.

    Raises:
        UserError: there is no file with prices, or what is wrong with all of them.
    """
    rows, size = foreseen(listing.files)
    if size > room:
        raise UserError(
            f"{source}: reading about {rows:,} rows takes {size / 1e9:.2f} GB of memory and {max(room, 0) / 1e9:.2f} "
            "GB are left; use a larger instance or fewer files"
        )
    left_out = list(listing.left_out)
    try:
        parts = _parts(listing.files, how or Reading(), bounds(start, end), room, left_out, say)
    except UserError as error:
        raise UserError(f"{source}, {error}") from None
    if not parts:
        found = ", ".join(left_out[:_FOUND]) or "nothing"
        raise UserError(f"{source} has no price files: it must hold CSV, Parquet, Feather or JSON files, found {found}")
    return PartsRead([part for _, part in parts], {part.name: file for file, part in parts}, left_out)


def history_of(parts: list[Part], read: PartsRead, how: Reading, source: str) -> History:
    """One instrument's history.

    Args:
        parts: its rows; the list is emptied.
        read: all that was read with them.
        how: what the settings say about them.
        source: what they are called together, for messages.

    Raises:
        UserError: together they are no price history.
    """
    understood = _together(parts, source)
    understood.left_out = read.left_out
    understood.files = [
        {"name": file.name, "bytes": file.path.stat().st_size, "sha256": _sha256(file.path)}
        for file in dict.fromkeys(read.files[part.name] for part in parts)
    ]
    frame = joined(parts, source, understood.mended, repeats=bool(how.resample))
    if not len(frame):
        raise UserError(f"{understood.source} {_why_empty(parts, understood.mended)}")
    parts.clear()
    return finished(frame, understood, how.resample)


def _parts(
    files: list[ChannelFile],
    how: Reading,
    span: tuple[int | None, int | None],
    room: int,
    left_out: list[str],
    say: Callable[[str], None],
) -> list[tuple[ChannelFile, Part]]:
    """The rows of each file, and of each member of an archive; files that hold no prices are added to `left_out`.

    Raises:
        UserError: what is wrong with all files, as far as it fits into a line.
    """
    parts, problems, told = [], [], time.monotonic()
    for number, file in enumerate(files):
        if time.monotonic() - told > _SECONDS_BETWEEN_LINES:
            told = time.monotonic()
            say(f"read {number:,} of {len(files):,} files")
        try:
            for content in contents(file.name, file.path):
                try:
                    parts.extend((file, part) for part in file_parts(content, how, *span, room))
                except NoTable as error:
                    if claims_prices(content.name):
                        raise UserError(f"{content.name} cannot be read: {error}") from None
                    left_out.append(f"{content.name} ({error})")
        except UserError as error:
            problems.append(str(error))
    if problems:
        raise UserError(bounded(problems))
    return parts


def _why_empty(parts: list[Part], mended: Mended) -> str:
    spans = [part.span for part in parts if part.span]
    if not spans:
        return "has a header and no rows; send files with prices"
    if mended.missing:
        return f"has no price in any of its {mended.missing:,} rows; set price_column, or bid_column and ask_column"
    first, last = (
        pd.Timestamp(each, tz="UTC") for each in (min(span[0] for span in spans), max(span[1] for span in spans))
    )
    return f"has no rows between the dates: its rows are from {first} to {last}; change start_date or end_date"


def foreseen(files: list[ChannelFile]) -> tuple[int, int]:
    """About how many rows files hold, and how many bytes of memory reading them takes, before they are read.

    Files that cannot be read count nothing here; reading them says why.
    """
    rows = size = 0
    for file in files:
        try:
            for content in contents(file.name, file.path):
                more_rows, more_bytes = foreseen_in(content)
                rows, size = rows + more_rows, size + more_bytes
        except UserError:
            continue
    return rows, size


def _together(parts: list[Part], source: str) -> Understood:
    """What was understood of the files, all in one."""

    def each(values) -> str:
        different = list(dict.fromkeys(value for value in values if value))
        return " or ".join(different[:3])

    filled = [part for part in parts if part.rows_read] or parts[:1]
    first, *others = filled
    for other in others:
        if set(other.columns) != set(first.columns):
            one, two = (" and ".join(name for name in part.columns if name != "time") for part in (first, other))
            raise UserError(
                f"{source}: {first.name} gives {one} and {other.name} gives {two}; send files with the same columns, "
                "or name them by price_column, bid_column and ask_column"
            )
    mended = Mended()
    for part in parts:
        mended.add(part.mended)
    name = f"{source}, {parts[0].name}" if len(parts) == 1 else f"{source}, {len(parts):,} files"
    return Understood(
        source=name,
        form=each(part.form for part in filled),
        columns={name: each(part.columns[name] for part in filled) for name in first.columns},
        times=each(part.times for part in filled),
        zone=each(part.zone for part in filled),
        rows_read=sum(part.rows_read for part in parts),
        mended=mended,
    )


def joined(parts: list[Part], source: str, mended: Mended, repeats: bool = False) -> pd.DataFrame:
    """The rows of files as one frame in the order of time.

    Args:
        parts: the files' rows, each in order.
        source: what they are called together.
        mended: is told of rows that a file repeats of another.
        repeats: whether a time may come twice with different prices, as trades' may, where one file ends and another
            begins.

    Raises:
        UserError: two files give different prices for a time, or lie across each other.
    """
    parts = sorted((part for part in parts if len(part.frame)), key=lambda part: part.frame.index[0])
    if not parts:
        return pd.DataFrame()
    kept, latest = [parts[0].frame], parts[0]
    for part in parts[1:]:
        frame, end = part.frame, latest.frame.index[-1]
        if frame.index[0] < end or (frame.index[0] == end and not repeats):
            frame = _without_repeats(pd.concat(kept) if len(kept) > 1 else kept[0], latest.name, part, source, mended)
        if len(frame):
            kept.append(frame)
            latest = part
    return pd.concat(kept) if len(kept) > 1 else kept[0]


def _without_repeats(before: pd.DataFrame, earlier: str, part: Part, source: str, mended: Mended) -> pd.DataFrame:
    """The rows of a file after all before it, where the others are the same as there."""
    frame = part.frame
    count = int(frame.index.searchsorted(before.index[-1], "right"))
    again = frame.iloc[:count]
    found = before.index.get_indexer(again.index) if before.index.is_unique else np.full(count, -1)
    if (found < 0).any():
        raise UserError(
            f"{source}: {earlier} ends at {before.index[-1]} and {part.name} begins at {frame.index[0]}; a channel "
            "holds one price history: send files that follow each other in time"
        )
    same = before.iloc[found].to_numpy() == again[before.columns].to_numpy()
    if not same.all():
        row = int(np.argmin(same.all(axis=1)))
        raise UserError(
            f"{source}: a time comes twice with different prices: {again.index[row]} is {again['mid'].iloc[row]} in "
            f"{part.name} and {before['mid'].iloc[found[row]]} in an earlier file ({earlier} or before it); "
            "keep one of them"
        )
    mended.repeated += count
    return frame.iloc[count:]


@functools.lru_cache(1)  # of several instruments in one file
def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
