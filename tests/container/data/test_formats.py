# ruff: noqa: E501  (a case a line)
"""Each kind of file that is read, as small as it gets; what is wrong with a file is in test_refused_files.py."""

import bz2
import gzip
import io
import json
import lzma
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ml.data.columns import Reading
from ml.data.formats import file_parts
from ml.data.listing import list_channel
from ml.data.sources import foreseen, read_channel, read_files
from ml.data.unpacking import contents
from ml.errors import UserError
from price_files import ROWS, assert_holds, channel, iso, lines, prices, read

FRAME = prices()
PLAIN = iso(FRAME)


def zipped(files):
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return sink.getvalue()


def stored(frame, kind, **options):
    sink = io.BytesIO()
    getattr(frame, f"to_{kind}")(sink, **options)
    return sink.getvalue()


def zstd(content):
    return pa.compress(content, "zstd", asbytes=True)


def test_what_is_there_is_told_in_one_line(tmp_path):
    understood = read(tmp_path, PLAIN).understood
    assert str(understood) == (
        "channel train, p.csv (CSV): times in dt (ISO 8601, UTC), price in mid; "
        "90 bars of 1 minute from 2024-01-20 00:00 to 2024-01-20 01:29 UTC"
    )
    record = understood.as_json()
    json.dumps(record)
    assert record["rows_read"] == record["rows"] == ROWS and record["bar_seconds"] == 60
    (file,) = record["files"]
    assert file["name"] == "p.csv" and file["bytes"] == len(PLAIN) and len(file["sha256"]) == 64


TEXTS = {
    "byte order mark and CRLF": ("\ufeff" + PLAIN.replace("\n", "\r\n")).encode(),
    "carriage returns alone": PLAIN.replace("\n", "\r"),
    "UTF-16": PLAIN.encode("utf-16"),
    "UTF-16 without a mark": PLAIN.encode("utf-16-le"),
    "Latin-1": PLAIN.replace("dt,mid", "dt,mid,Währung").replace("\n2", "\n2").encode("latin-1").replace(b"\n", b",\xa3\n")
    .replace(b"W\xe4hrung,\xa3", b"W\xe4hrung"),
    "semicolons": PLAIN.replace(",", ";"),
    "tabs": PLAIN.replace(",", "\t"),
    "bars": PLAIN.replace(",", "|"),
    "blanks": lines(FRAME, lambda time, price: f"{time:%Y-%m-%d %H:%M:%S} {price}", "date time close"),
    "a line that names the delimiter": "sep=;\n" + PLAIN.replace(",", ";"),
    "comments first": "# from an exchange\n# today\n" + PLAIN,
    "the header in a comment": "# " + PLAIN,
    "an address first": "https://www.example.com\n" + PLAIN,
    "blank lines": PLAIN.replace("\n", "\n\n"),
    "quotes around everything": "".join(f'"{a}","{b}"\n' for a, b in (line.split(",") for line in PLAIN.split())),
    "single quotes": "".join(f"'{a}','{b}'\n" for a, b in (line.split(",") for line in PLAIN.split())),
    "blanks around values": PLAIN.replace(",", " , "),
    "no line end at the end": PLAIN.rstrip("\n"),
    "a delimiter at the end of each row": PLAIN.replace("\n", ",\n").replace("dt,mid,", "dt,mid"),
    "decimal commas": lines(FRAME, lambda time, price: f"{time:%d.%m.%Y %H:%M};{price.replace('.', ',')}", "Datum;Schluss"),
    "quoted thousands": lines(FRAME.assign(price=FRAME["price"] * 100), lambda time, price: f'{time},"{float(price):,.2f}"', "Date,Price"),
    "a plus sign": PLAIN.replace("Z,", "Z,+"),
    "exponents": lines(FRAME, lambda time, price: f"{time},{float(price):.6e}", "dt,mid"),
}  # fmt: skip


@pytest.mark.parametrize("kind", TEXTS)
def test_text_is_read_however_it_is_laid_out(tmp_path, kind):
    factor = 100 if kind == "quoted thousands" else 1
    assert_holds(read(tmp_path, {"p.txt": TEXTS[kind]}), FRAME.assign(price=np.round(FRAME["price"] * factor, 2)))


PACKED = {
    "p.csv.gz": gzip.compress(PLAIN.encode()),
    "p.bz2": bz2.compress(PLAIN.encode()),
    "p.xz": lzma.compress(PLAIN.encode()),
    "p.csv.zst": zstd(PLAIN.encode()),
    "p.zip": zipped({"inside/p.csv": PLAIN, "__MACOSX/._p.csv": b"rubbish", "status.txt": "Gap of 122 s found."}),
    "two members.gz": gzip.compress(PLAIN.encode()[:1000]) + gzip.compress(PLAIN.encode()[1000:]),
    "gzip by another name.csv": gzip.compress(PLAIN.encode()),
    "gzip in zip": zipped({"p.csv.gz": gzip.compress(PLAIN.encode())}),
    "p.parquet.gz": gzip.compress(stored(FRAME, "parquet")),
    "no suffix": PLAIN.encode(),
}


@pytest.mark.parametrize("name", PACKED)
def test_what_a_file_is_follows_from_its_content(tmp_path, name):
    assert_holds(read(tmp_path, {name: PACKED[name]}), FRAME)


MILLISECONDS = FRAME["time"].astype("int64") // 10**6
ROWS_OF_CCXT = [[int(t), p, p + 1, p - 1, p, 7.5] for t, p in zip(MILLISECONDS, FRAME["price"], strict=True)]
BINANCE = [
    [row[0], *(f"{value:.8f}" for value in row[1:]), row[0] + 59_999, "1", 3, "4", "5", "0"] for row in ROWS_OF_CCXT
]

TYPED = {
    "feather": stored(FRAME.rename(columns={"time": "date", "price": "close"}), "feather"),
    "uncompressed feather": stored(FRAME, "feather", compression="uncompressed"),
    "parquet, index of another name": stored(FRAME.set_index("time").rename_axis("date"), "parquet"),
    "parquet, index without a name": stored(FRAME.set_index("time").rename_axis(None), "parquet"),
    "parquet, index with a zone": stored(FRAME.set_index("time").tz_localize("UTC").tz_convert("Asia/Tokyo"), "parquet"),
    "parquet, times as text": stored(FRAME.assign(time=FRAME["time"].astype(str)), "parquet"),
    "parquet, times as categories": stored(FRAME.assign(time=FRAME["time"].astype(str).astype("category")), "parquet"),
    "parquet, numbers since 1970": stored(FRAME.assign(time=MILLISECONDS), "parquet"),
    "parquet, day and time of day": stored(
        pd.DataFrame({"Date": FRAME["time"].dt.date, "Time": FRAME["time"].dt.strftime("%H:%M:%S"), "Close": FRAME["price"]}), "parquet"
    ),
    "parquet, day and time as digits": stored(
        pd.DataFrame({
            "date": FRAME["time"].dt.strftime("%Y%m%d").astype(int),
            "time": FRAME["time"].dt.strftime("%H%M%S").astype(int),
            "close": FRAME["price"],
        }),
        "parquet",
    ),
    "JSON records": stored(FRAME.assign(time=MILLISECONDS), "json", orient="records"),
    "JSON, one record a line": stored(FRAME.assign(time=MILLISECONDS), "json", orient="records", lines=True),
    "JSON, an answer of Polygon": json.dumps(
        {"ticker": "X", "results": [{"t": row[0], "o": 1, "h": 2, "l": 0, "c": row[4]} for row in ROWS_OF_CCXT]}
    ),
    "JSON, rows of ccxt": json.dumps(ROWS_OF_CCXT),
    "JSON, klines of Binance": json.dumps(BINANCE),
}  # fmt: skip


@pytest.mark.parametrize("kind", TYPED)
def test_tables_with_types_are_read(tmp_path, kind):
    assert_holds(read(tmp_path, {"p": TYPED[kind]}), FRAME)


def ohlc(time, price, sign=",", before="", after=""):
    return f"{before}{time}{sign}{price}{sign}{price}{sign}{price}{sign}{price}{sign}3{after}"


# As the sources of docs/data.md write them: header, form of a row, settings.
VENDORS = {
    "BitMEX": ("timestamp,symbol,open,high,low,close,trades,volume,vwap", lambda t, p: f"{t.isoformat()}.000Z,XBTUSD,1,1,1,{p},3,4,1", {}),
    "Binance klines": ("", lambda t, p: f"{t.value // 10**6},1,1,1,{p},2,{t.value // 10**6 + 59_999},1,2,3,4,0", {"time_column": "1", "price_column": "5"}),
    "Binance klines, microseconds": ("", lambda t, p: f"{t.value // 10**3},1,1,1,{p},2,{t.value // 10**3 + 59_999_999},1,2,3,4,0", {"time_column": "1", "price_column": "5"}),
    "Binance futures": ("open_time,open,high,low,close,volume,close_time,ignore", lambda t, p: f"{t.value // 10**6},1,1,1,{p},2,{t.value // 10**6 + 59_999},0", {}),
    "Bitfinex": ("", lambda t, p: f"{t.value // 10**6},1,{p},2,0,5", {"time_column": "1", "price_column": "3"}),
    "Kraken": ("", lambda t, p: f"{t.value // 10**9},1,2,0,{p},5,6", {"time_column": "1", "price_column": "5"}),
    "Coinbase": ("time,low,high,open,close,volume", lambda t, p: f"{t.value // 10**9},0,2,1,{p},5", {}),
    "CryptoDataDownload": ("https://www.CryptoDataDownload.com\nunix,date,symbol,open,high,low,close,Volume BTC,Volume USD", lambda t, p: f"{t.value // 10**6},{t},BTC/USD,1,1,1,{p},2,3", {}),
    "HistData": ("", lambda t, p: ohlc((t - pd.Timedelta(hours=5)).strftime("%Y%m%d %H%M%S"), p, ";"), {"time_column": "1", "price_column": "5", "timezone": "Etc/GMT+5"}),
    "FXCM": ("DateTime,BidOpen,BidHigh,BidLow,BidClose,AskOpen,AskHigh,AskLow,AskClose,TickVol", lambda t, p: f"{t:%m/%d/%Y %H:%M:%S.000},1,1,1,{p},1,1,1,{p},5", {}),
    "MetaTrader 4": ("", lambda t, p: ohlc(f"{t:%Y.%m.%d},{t:%H:%M}", p), {"time_column": "1+2", "price_column": "6"}),
    "MetaTrader 5": ("<DATE>\t<TIME>\t<OPEN>\t<HIGH>\t<LOW>\t<CLOSE>\t<TICKVOL>\t<VOL>\t<SPREAD>", lambda t, p: ohlc(f"{t:%Y.%m.%d}\t{t:%H:%M:%S}", p, "\t", after="\t0\t1"), {}),
    "JForex": ("Gmt time,Open,High,Low,Close,Volume", lambda t, p: ohlc(f"{t:%d.%m.%Y %H:%M:%S}.000", p), {}),
    "JForex, local time": ("Local time,Open,High,Low,Close,Volume", lambda t, p: ohlc(f"{t + pd.Timedelta(hours=1):%d.%m.%Y %H:%M:%S}.000 GMT+0100", p), {}),
    "Dukascopy ticks": ("Gmt time,Ask,Bid,AskVolume,BidVolume", lambda t, p: f"{t:%d.%m.%Y %H:%M:%S}.000,{p},{p},1,1", {}),
    "yfinance": ("Price,Close,High,Low,Open,Volume\nTicker,SPY,SPY,SPY,SPY,SPY\nDatetime,,,,,", lambda t, p: f"{t}+00:00,{p},1,1,1,5", {}),
    "yfinance, older": ("Datetime,Open,High,Low,Close,Adj Close,Volume", lambda t, p: f"{t}+00:00,1,1,1,{p},1,5", {}),
    "Yahoo and investing.com": ("Date,Price,Open,High,Low,Vol.,Change %", lambda t, p: f'"{t:%b %d, %Y %H:%M}",{p},1,1,1,5K,0.1%', {}),
    "backtrader": ("Date,Time,Open,High,Low,Close,Volume,OpenInterest", lambda t, p: ohlc(f"{t:%Y-%m-%d},{t:%H:%M:%S}", p, after=",0"), {}),
    "TradeStation": ('"Date","Time","Open","High","Low","Close","Up","Down"', lambda t, p: f"{t:%m/%d/%Y},{t:%H:%M},1,1,1,{p},2,3", {}),
    "NinjaTrader": ("", lambda t, p: ohlc(f"{t:%Y%m%d %H%M%S}", p, ";"), {"time_column": "1", "price_column": "5"}),
    "TradingView": ("time,open,high,low,close,Volume", lambda t, p: ohlc(t.value // 10**9, p), {}),
    "Stooq": ("<TICKER>,<PER>,<DATE>,<TIME>,<OPEN>,<HIGH>,<LOW>,<CLOSE>,<VOL>,<OPENINT>", lambda t, p: ohlc(f"{t:%Y%m%d},{t:%H%M%S}", p, before="EURUSD,1,", after=",0"), {}),
    "Kibot": ("", lambda t, p: ohlc(f"{t:%m/%d/%Y},{t:%H:%M}", p), {"time_column": "1+2", "price_column": "6"}),
    "FirstRate Data": ("", lambda t, p: ohlc(t, p), {"time_column": "1", "price_column": "5"}),
    "Alpha Vantage": ("timestamp,open,high,low,close,volume", lambda t, p: ohlc(t, p), {}),
    "CoinAPI": ("time_period_start;time_period_end;time_open;price_open;price_high;price_low;price_close;volume_traded", lambda t, p: f"{t.isoformat()}.0000000Z;x;y;1;1;1;{p};5", {}),
    "OANDA": ("time,mid_o,mid_h,mid_l,mid_c,volume,complete", lambda t, p: f"{t.isoformat()}.000000000Z,1,1,1,{p},5,True", {}),
    "BigQuery": ("ts,price", lambda t, p: f"{t} UTC,{p}", {}),
    "pandas, with an index of numbers": (",dt,mid", lambda t, p: f"{t.minute},{t},{p}", {}),
    "an afternoon in words": ("Date,Close", lambda t, p: f"{t:%Y-%m-%d %I:%M %p},{p}", {}),
    "NSE": ("Date,Close", lambda t, p: f"{t:%d-%b-%Y %H:%M},{p}", {}),
}  # fmt: skip


@pytest.mark.parametrize("vendor", VENDORS)
def test_files_of_vendors_are_read(tmp_path, vendor):
    header, form, how = VENDORS[vendor]
    assert_holds(read(tmp_path, lines(FRAME, form, header), **how), FRAME)


def test_bid_and_ask_are_found_and_their_middle_is_the_price(tmp_path):
    text = lines(
        FRAME,
        lambda time, price: f"{time},{float(price) - 0.25},{float(price) + 0.25},9",
        "time,BidClose,AskClose,volume",
    )
    history = read(tmp_path, text)
    assert list(history.frame) == ["mid", "bid", "ask"]
    np.testing.assert_allclose(history.frame["ask"] - history.frame["bid"], 0.5)
    assert "bid in BidClose, ask in AskClose" in str(history.understood)


def test_settings_name_columns_by_name_or_number(tmp_path):
    text = lines(FRAME, lambda time, price: f"1,{time},2,{price}", "a,when,b,what")
    for how in ({"time_column": "when", "price_column": "what"}, {"time_column": "2", "price_column": "4"}):
        assert_holds(read(tmp_path, text, **how), FRAME)
    history = read(tmp_path, text, time_column="when", bid_column="b", ask_column="what")
    assert set(history.frame) == {"mid", "bid", "ask"}


@pytest.mark.parametrize(
    ("step", "words"),
    [("s", "1 second"), ("5min", "5 minutes"), ("h", "1 hour"), ("D", "1 day"), ("100ms", "100 milliseconds")],
)
def test_bars_of_any_length_are_called_by_it(tmp_path, step, words):
    frame = prices(step=step)
    history = read(tmp_path, iso(frame))
    assert_holds(history, frame)
    assert f"90 bars of {words} from" in str(history.understood)


def test_a_stock_markets_days_are_bars_with_pauses(tmp_path):
    days = [prices(7, f"2024-01-{day} 14:30", "h") for day in (22, 23, 24)]
    assert_holds(read(tmp_path, iso(pd.concat(days))), pd.concat(days).reset_index(drop=True))


def test_trades_are_put_into_bars_where_that_is_asked_for(tmp_path):
    text = "dt,mid\n2024-01-02T00:00:00.1,5\n2024-01-02T00:00:59.9,6\n2024-01-02T00:00:59.9,7\n2024-01-02T00:02:00,8\n"
    frame = read(tmp_path, text, resample="1min").frame
    assert frame["mid"].tolist() == [7, 8]
    assert frame.index.tolist() == list(pd.to_datetime(["2024-01-02 00:00", "2024-01-02 00:02"], utc=True))


def test_other_letters_far_behind_are_no_trouble(tmp_path):
    frame = prices(9000)
    text = lines(frame, lambda time, price: f"{time.isoformat()}Z,{price},plain text", "dt,mid,note").encode()
    assert len(text) > 1 << 18
    assert_holds(read(tmp_path, text.replace(b"plain text\n", b"\xa3\n")[:-2] + b"\xe9\n"), frame)
    assert_holds(read(tmp_path, text[:-5] + b"\xe9\n"), frame)


# Local times


@pytest.mark.parametrize("newest_first", [False, True])
@pytest.mark.parametrize("step", ["min", "h", "15min"])
def test_no_hour_is_lost_where_clocks_are_set_back(tmp_path, step, newest_first):
    frame = prices(200, "2023-10-28 20:00", step)
    local = frame["time"].dt.tz_localize("UTC").dt.tz_convert("Europe/Berlin").dt.strftime("%Y-%m-%d %H:%M:%S")
    rows = pd.DataFrame({"dt": local, "mid": frame["price"]}).iloc[:: -1 if newest_first else 1]
    assert_holds(read(tmp_path, rows.to_csv(index=False), timezone="Europe/Berlin"), frame)


def test_times_with_a_zone_of_their_own_keep_it(tmp_path):
    assert_holds(read(tmp_path, PLAIN, timezone="Asia/Tokyo"), FRAME)


# What says clearly enough what it means


def test_missing_prices_are_missing_bars(tmp_path):
    text = PLAIN.replace(",100.37\n", ",\n").replace(",100.74\n", ",NaN\n")
    history = read(tmp_path, text)
    assert len(history.frame) == ROWS - 2 and history.understood.mended.missing == 2
    assert "2 rows without a price left out" in str(history.understood)


def test_rows_that_come_twice_are_one_wherever_they_are(tmp_path):
    first, *rows = PLAIN.splitlines()
    for files in (
        {"p.csv": "\n".join([first, *rows, *rows[-5:]])},
        {"p.csv": "\n".join([first, *(each for row in rows for each in ([row, row] if row in rows[:5] else [row]))])},
        {"a.csv": "\n".join([first, *rows[:50]]), "b.csv": "\n".join([first, *rows[45:]])},
    ):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        history = read(folder, files)
        assert_holds(history, FRAME)
        assert history.understood.mended.repeated == 5


def test_newest_first_is_sorted_and_told(tmp_path):
    first, *rows = PLAIN.splitlines()
    history = read(tmp_path, "\n".join([first, *rows[::-1]]))
    assert_holds(history, FRAME)
    assert "newest first, now sorted" in str(history.understood)


def test_crossed_quotes_keep_their_mid_without_a_spread(tmp_path):
    text = "dt,bid,ask\n2024-01-02T00:00,99,101\n2024-01-02T00:01,102,101\n2024-01-02T00:02,100,101\n"
    history = read(tmp_path, text)
    assert history.frame["mid"].tolist() == [100, 101.5, 100.5]
    assert history.frame.iloc[1].tolist() == [101.5] * 3
    assert "1 row with crossed quotes (bid above ask) is given no spread" in str(history.understood)


def test_a_tick_at_a_hundredth_is_told_and_left(tmp_path):
    frame = prices(400)
    frame.loc[200, "price"] = 1.0
    history = read(tmp_path, iso(frame))
    assert_holds(history, frame)
    assert "one bar at 2024-01-20 03:20 goes from" in str(history.understood)


def test_dates_are_applied_before_values_are_looked_at(tmp_path):
    text = PLAIN.replace("2024-01-20T00:05:00Z,100.84", "2024-01-20T00:05:00Z,-1")
    assert len(read(tmp_path, text, start="2024-01-20T00:06").frame) == ROWS - 6


def test_files_that_are_no_prices_are_left_out_with_a_word(tmp_path):
    files = {
        "p.csv": PLAIN,
        "README.md": "# Prices\n\nBought from a vendor.\n",
        "manifest": "{}",
        "x.CHECKSUM": "ab12  p.csv\n",
    }
    history = read(tmp_path, files)
    assert_holds(history, FRAME)
    assert "no prices in README.md (" in str(history.understood) and len(history.understood.left_out) == 3


def test_files_of_a_channel_follow_each_other_in_any_format(tmp_path):
    files = {
        "z.parquet": FRAME.iloc[:30],
        "deep/er/b.csv": iso(FRAME.iloc[30:60]),
        "a.csv.gz": gzip.compress(iso(FRAME.iloc[60:]).encode()),
        ".hidden/x.csv": b"rubbish",
        "_SUCCESS": b"",
    }
    history = read(tmp_path, files)
    assert_holds(history, FRAME)
    assert "3 files (CSV, gzip or CSV or Parquet)" in str(history.understood)


def test_what_was_read_before_is_read_the_same(tmp_path):
    frame = FRAME.rename(columns={"time": "dt", "price": "mid"}).assign(position=1.0).set_index("dt").tz_localize("UTC")
    for name in ("p.parquet", "p.csv"):
        folder = tmp_path / name
        folder.mkdir()
        pd.testing.assert_frame_equal(read(folder, {name: frame}).frame, frame, check_exact=True, check_freq=False)


def test_reading_stops_where_there_is_no_memory(tmp_path):
    dictionary = pa.DictionaryArray.from_arrays(
        pa.array(np.zeros(3_000_000, np.int8)), pa.array([pd.Timestamp("2024")])
    )
    table = pa.table({"dt": dictionary.cast(pa.timestamp("ns")), "mid": pa.array(np.ones(3_000_000))})
    sink = io.BytesIO()
    pq.write_table(table, sink)
    bombs = {
        "p.parquet": sink.getvalue(),
        "p.csv.gz": gzip.compress(PLAIN.encode() + b"2024-01-21T00:00:00Z,1\n" * 1_000_000),
    }
    for name, content in bombs.items():
        folder = tmp_path / name
        folder.mkdir()
        listing = list_channel(channel(folder, {name: content}))
        assert len(content) < 100_000
        rows, size = foreseen(listing.files)
        assert rows > 400_000 and size > 50_000_000
        with pytest.raises(UserError, match=r"reading about [\d,]+ rows takes .* GB of memory and 0.05 GB are left"):
            read_files(listing, source="channel train", room=50_000_000)
    (content,) = contents(*listing.files[0])
    with pytest.raises(UserError, match=r"p.csv.gz has more than [\d,]+ rows, for which there is no memory"):
        file_parts(content, Reading(), None, None, room=10_000_000)


def test_how_times_are_written_is_told(tmp_path):
    read_as = {
        "the month in letters": lines(FRAME, lambda time, price: f"{time:%d-%b-%Y %H:%M},{price}", "Date,Close"),
        "day first": lines(FRAME, lambda time, price: f"{time:%d.%m.%Y %H:%M},{price}", "Date,Close"),
        "year first": lines(FRAME, lambda time, price: f"{time:%Y.%m.%d %H:%M},{price}", "Date,Close"),
    }
    for form, text in read_as.items():
        assert f"times in Date ({form}, taken as UTC)" in str(read(tmp_path, text).understood)
    nameless = stored(FRAME.set_index("time").rename_axis(None), "parquet")
    (tmp_path / "train/p.csv").unlink()
    assert "times in the index (timestamps" in str(read(tmp_path, {"p.parquet": nameless}).understood)


def test_every_source_that_is_tested_has_a_recipe():
    recipes = (Path(__file__).parents[3] / "docs/data.md").read_text()
    assert not [vendor for vendor in VENDORS if f"**{vendor.removesuffix(', microseconds')}" not in recipes]


def test_many_files_are_told_while_they_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr("ml.data.sources._SECONDS_BETWEEN_LINES", -1)
    said = []
    read_channel(channel(tmp_path, {"a.csv": iso(FRAME[:45]), "b.csv": iso(FRAME[45:])}), say=said.append)
    assert said == ["read 0 of 2 files", "read 1 of 2 files"]
