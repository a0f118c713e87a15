"""Price files as people could have them, right and broken, and what must come of them: part of fuzz.py.

A right file in any layout must give exactly its rows, or be refused for a reason that an oracle of a few lines knows. A
file with a broken layout may be refused, but must never give other rows than it holds.
"""

import bz2
import contextlib
import gzip
import io
import itertools
import json
import lzma
import math
import zipfile
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from hypothesis import strategies as st

from ml.data.columns import Reading
from ml.data.sources import read_channel
from ml.errors import UserError

_START = datetime(2020, 1, 20, tzinfo=timezone.utc)  # a day that is no month
_PRICES = ["100", "100.5", "0.1", "1e4", "10000000", "Infinity", "-inf", "nan", "", "0", "-1", "x", "1e400"]


@contextlib.contextmanager
def told():
    """Only a UserError that one can print may leave."""
    try:
        yield
    except UserError as error:
        assert len(str(error).strip()) > 10, f"a message that says nothing: {error!r}"


@st.composite
def broken_bytes(draw, content: bytes) -> bytes:
    """Bytes with up to four flips, cuts, insertions and repetitions."""
    content = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(content) - 1)))
        length = draw(st.integers(1, 40))
        kind = draw(st.sampled_from(["flip", "cut", "truncate", "insert", "repeat"]))
        if kind == "flip" and content:
            content[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "cut":
            del content[at : at + length]
        elif kind == "truncate":
            del content[at:]
        elif kind == "insert":
            content[at:at] = draw(st.binary(min_size=1, max_size=8) | st.sampled_from([b"\0", b"\n", b",", b"{"]))
        elif kind == "repeat":
            content[at:at] = content[at : at + length]
    return bytes(content)


def history_of(folder: Path, name: str, content: bytes, **how) -> pd.DataFrame | None:
    """The history that a channel's one file gives, which must be one; None where it is refused."""
    channel = folder / "train"
    channel.mkdir(exist_ok=True)
    for other in channel.iterdir():
        other.unlink()
    (channel / name).write_bytes(content)
    with told():
        try:
            history = read_channel(channel, how=Reading(**how))
        except UserError as error:
            assert len(str(error)) <= 1024, f"SageMaker shows no more than 1024 characters of {error!r}"
            raise
        assert "\n" not in str(history.understood) and json.dumps(history.understood.as_json())
        return a_history(history.frame)
    return None


def a_history(frame: pd.DataFrame) -> pd.DataFrame:
    assert str(frame.index.tz) == "UTC" and frame.index.is_monotonic_increasing and frame.index.is_unique
    assert frame.index.name == "dt" and len(frame) and set(frame.columns) <= {"mid", "bid", "ask", "position"}
    assert "mid" in frame and (frame.dtypes == np.float64).all() and np.isfinite(frame.to_numpy()).all()
    assert (frame[[name for name in frame if name != "position"]] > 0).all(axis=None)
    return frame


def _expected(rows: list[tuple[int, str]]) -> list[tuple[int, float]] | None:
    """The rows that a history of minutes and prices must hold; None: it must be refused."""
    try:
        values = [(minute, float(price or "nan")) for minute, price in rows]
    except ValueError:
        return None
    if any(math.isinf(value) or value <= 0 for _, value in values):
        return None
    values = [(minute, value) for minute, value in values if not math.isnan(value)]
    kept = list(dict.fromkeys(values))  # what comes again is one
    minutes = [minute for minute, _ in kept]
    if len(set(minutes)) < len(minutes) or not kept:
        return None
    if minutes != sorted(minutes):
        if minutes != sorted(minutes, reverse=True):
            return None
        kept.reverse()
    steps = [two - one for (one, _), (two, _) in itertools.pairwise(kept)]
    common = [step for step in steps if 2 * steps.count(step) >= len(steps)]
    if common and min(steps) < min(common):
        return None  # a row between bars
    if len(kept) > 1 and len({value for _, value in kept}) == 1:
        return None  # never moves
    return kept


def _is_expected(history: pd.DataFrame | None, rows, text) -> None:
    expected = _expected(rows)
    assert (history is None) == (expected is None), f"{text!r} gave {history}, expected {expected}"
    if history is not None and expected is not None:
        found = [(int((moment - _START).total_seconds() // 60), price) for moment, price in history["mid"].items()]
        assert found == expected, f"{text!r} gave {found}, expected {expected}"


def _rows(data) -> list[tuple[int, str]]:
    minutes = data.draw(st.lists(st.integers(0, 9), min_size=1, max_size=8))
    if data.draw(st.booleans()):
        minutes = sorted(set(minutes))
    prices = _PRICES[:5] if data.draw(st.integers(0, 3)) else _PRICES
    return [(minute, data.draw(st.sampled_from(prices))) for minute in minutes]


def _written(moment: datetime, zone: int | None) -> str:
    """A time as somebody so many minutes east of Greenwich writes it; without its zone where that is None."""
    return (
        moment.replace(tzinfo=None) if zone is None else moment.astimezone(timezone(timedelta(minutes=zone)))
    ).isoformat()


def csv(data, folder: Path) -> None:
    """CSV files of a channel: rows in any zone, any price; and damaged files"""
    rows = _rows(data)
    zones = [data.draw(st.sampled_from([0, 60, -300, 345, None])) for _ in rows]
    text = "dt,mid\n" + "".join(
        f"{_written(_START + timedelta(minutes=minute), zone)},{price}\n"
        for (minute, price), zone in zip(rows, zones, strict=True)
    )
    if data.draw(st.booleans()):
        history_of(folder, "prices.csv", data.draw(broken_bytes(text.encode())))
        return
    _is_expected(history_of(folder, "prices.csv", text.encode()), rows, text)


_TIMES = {
    "iso": lambda t: t.replace(tzinfo=None).isoformat(),
    "iso with a blank": lambda t: f"{t:%Y-%m-%d %H:%M:%S}",
    "UTC": lambda t: f"{t:%Y-%m-%d %H:%M:%S} UTC",
    "seconds": lambda t: str(int(t.timestamp())),
    "seconds with a fraction": lambda t: f"{t.timestamp():.3f}",
    "milliseconds": lambda t: str(int(t.timestamp()) * 1000),
    "nanoseconds": lambda t: str(int(t.timestamp()) * 10**9),
    "digits": lambda t: f"{t:%Y%m%d%H%M%S}",
    "digits and a blank": lambda t: f"{t:%Y%m%d %H%M%S}",
    "points": lambda t: f"{t:%d.%m.%Y %H:%M:%S}.000",
    "slashes": lambda t: f"{t:%d/%m/%Y %H:%M}",
    "slashes, month first": lambda t: f"{t:%m/%d/%Y %I:%M %p}",
    "year first": lambda t: f"{t:%Y/%m/%d %H:%M}",
    "month in letters": lambda t: f"{t:%d-%b-%Y %H:%M}",
}
_NAMES = [("dt", "mid"), ("Date", "Close"), ("timestamp", "price"), (" time ", "<CLOSE>"), ("OPEN_TIME", "last")]
_ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "latin-1", "utf-32"]
_PACKINGS = {
    "plain": bytes,
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": lambda content: pa.compress(content, "zstd", asbytes=True),
}


def layouts(data, folder: Path) -> None:
    """text files in any layout: delimiter, quotes, times, names, line ends, encoding, compression, no header"""
    rows = _rows(data)
    form = data.draw(st.sampled_from(sorted(_TIMES)))
    delimiter, quote = data.draw(st.sampled_from([*",;\t|"])), data.draw(st.sampled_from(["", '"']))
    before = data.draw(st.sampled_from([[], ["# made today"], ["https://example.com"], [f"sep={delimiter}"], ["", ""]]))
    names = data.draw(st.sampled_from([*_NAMES, None]))
    fill = data.draw(st.sampled_from(["", "a", "7.5"]))  # of a column between, which is of no use
    cells = [
        [_TIMES[form](_START + timedelta(minutes=minute)), *([fill] if fill else []), price] for minute, price in rows
    ]
    if names:
        cells.insert(0, [names[0], *(["extra"] if fill else []), names[1]])
    lines = [*before, *(delimiter.join(f"{quote}{cell}{quote}" for cell in row) for row in cells)]
    text = data.draw(st.sampled_from(["\n", "\r\n", "\r"])).join([*lines, ""])
    content = text.encode(data.draw(st.sampled_from(_ENCODINGS)))
    how = {} if names else {"time_column": "1", "price_column": "3" if fill else "2"}
    packing = data.draw(st.sampled_from(sorted(_PACKINGS)))
    if data.draw(st.integers(0, 3)) == 0:
        history_of(folder, "p.txt", data.draw(broken_bytes(_PACKINGS[packing](content))), **how)
        return
    history = history_of(folder, "p.txt", _PACKINGS[packing](content), **how)
    if not names and not all(map(_is_number, (price for _, price in rows))):
        return  # without a header and numbers nobody can say where the rows begin
    _is_expected(history, rows, (text, how))


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def structure(data, folder: Path) -> None:
    """a right CSV file with delimiters, quotes, line ends or lines put in or taken out: its rows or a refusal"""
    rows = [(minute, f"{data.draw(st.integers(100, 1999))}.{minute % 10}5") for minute in range(20)]
    delimiter = data.draw(st.sampled_from([",", ";"]))
    lines = [f"dt{delimiter}x{delimiter}mid"]
    lines += [
        f"{_written(_START + timedelta(minutes=minute), 0)}{delimiter}a{delimiter}{price}" for minute, price in rows
    ]
    text = "\n".join(lines) + "\n"
    for _ in range(data.draw(st.integers(1, 2))):
        at = data.draw(st.integers(0, len(text)))
        kind = data.draw(st.sampled_from(["put in", "take out", "drop a line", "repeat a line", "cut"]))
        if kind == "put in":
            text = (
                text[:at] + data.draw(st.sampled_from([delimiter, '"', "\n", "\r", '""', " ", "\0", "#"])) + text[at:]
            )
        elif kind == "take out":
            signs = [place for place, sign in enumerate(text) if sign in f"{delimiter}\n"]
            place = data.draw(st.sampled_from(signs)) if signs else 0
            text = text[:place] + text[place + 1 :]
        elif kind == "cut":
            text = text[: text.rfind("\n", 0, at) + 1]
        else:
            parts = text.splitlines(keepends=True) or [""]
            number = data.draw(st.integers(0, len(parts) - 1))
            parts[number : number + 1] = [parts[number]] * (2 if kind == "repeat a line" else 0)
            text = "".join(parts)
    history = history_of(folder, "prices.csv", text.encode())
    if history is not None:
        right = dict(rows)
        for moment, price in history["mid"].items():
            minute = int((moment - _START).total_seconds() // 60)
            assert price == float(right[minute]), f"{text!r} gave {price} at {moment}, which is {right[minute]}"


def stored(data, folder: Path) -> None:
    """Feather, JSON and zip files: right ones, and damaged ones"""
    rows = [(minute, float(price)) for minute, price in _rows(data) if _is_number(price)]
    times = [int((_START + timedelta(minutes=minute)).timestamp()) * 1000 for minute, _ in rows]
    kinds = ["feather", "records", "rows", "zip", *(["lines"] if len(rows) > 1 else [])]
    kind = data.draw(st.sampled_from(kinds))
    frame = pd.DataFrame({"time": times, "close": [price for _, price in rows]})
    sink = io.BytesIO()
    how = {"time_column": "1", "price_column": "2"} if kind == "rows" else {}
    if kind == "feather":
        frame.to_feather(sink)
    elif kind == "zip":
        with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("p.csv", frame.to_csv(index=False))
    elif kind == "rows":
        sink.write(json.dumps([[time, price] for time, (_, price) in zip(times, rows, strict=True)]).encode())
    else:
        frame.to_json(sink, orient="records", lines=kind == "lines")
    content = sink.getvalue()
    if data.draw(st.booleans()):
        history_of(folder, f"p.{kind}", data.draw(broken_bytes(content)), **how)
        return
    _is_expected(
        history_of(folder, f"p.{kind}", content, **how), [(minute, str(price)) for minute, price in rows], content
    )


PRICE_SURFACES = {function.__name__: function for function in (csv, layouts, structure, stored)}
