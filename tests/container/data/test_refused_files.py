# ruff: noqa: E501  (a case a line)
"""What is wrong with a file is told with its name, the line or row, what was received, and what mends it."""

import gzip
import io
import zipfile

import pandas as pd
import pytest

from ml.errors import UserError
from price_files import iso, lines, prices, read

FRAME = prices()
PLAIN = iso(FRAME)
HEADER, *LINES = PLAIN.splitlines()


def changed(number, line):
    """The plain file with another line of this number, from 1."""
    rows = [HEADER, *LINES]
    rows[number - 1] = line
    return "\n".join(rows) + "\n"


def excel():
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        archive.writestr("[Content_Types].xml", "<x/>")
    return sink.getvalue()


def parquet(**columns):
    return pd.DataFrame(columns).to_parquet()


T = "2024-01-20T00:03:00Z"
REFUSED = {
    # what a file is
    "nothing": ({}, {}, r"channel train has no price files: it must hold CSV, Parquet, Feather or JSON files, found nothing"),
    "another kind": ({"prices.xlsx": b"x"}, {}, r"has no price files: .* found prices\.xlsx \(no line of it has a time and a price"),
    "a workbook": ({"p.xlsx": excel()}, {}, r"p\.xlsx is an Excel workbook.*; save it as CSV"),
    "a cut Parquet": ({"p.parquet": b"PAR1 but no more"}, {}, r"p\.parquet is cut off or damaged \(Arrow"),
    "empty": ({"p.csv": b""}, {}, r"p\.csv is empty; send a whole file"),
    "a cut gzip": ({"p.csv.gz": gzip.compress(PLAIN.encode())[:300]}, {}, r"p\.csv\.gz is cut off or damaged \(EOFError.*send the whole file again"),
    "a damaged zip": ({"p.zip": b"PK\x03\x04" + b"x" * 99}, {}, r"p\.zip is cut off or damaged"),
    "a web page": ({"p.csv": "<!DOCTYPE html><html>Denied</html>"}, {}, r"p\.csv cannot be read: it is a web page"),
    "prose": ({"p.csv": "Nothing to see here.\n"}, {}, r'p\.csv cannot be read: no line of it has a time and a price; it begins "Nothing to see'),
    "cut JSON": ({"p.json": '[{"t": 1'}, {}, r"p\.json is no whole JSON: JSONDecodeError"),
    "JSON of something else": ({"p.json": '{"status": "denied"}'}, {}, r"p\.json cannot be read: it is JSON without a list of records"),
    "rows of Bitfinex": ({"p.json": str([[1704153600000 + i * 60000, 5, 6, 7, 4, 1] for i in range(9)])}, {}, r"there is no header: its rows are lists; set time_column and price_column"),
    # lines
    "too many fields": (changed(5, f"{T},1,2,3"), {}, rf'p\.csv: line 5 has 4 fields where the header \(line 1\) has 2: "{T},1,2,3"'),
    "fields that belong to nothing": (changed(5, f"{T},1,x,y"), {}, rf'line 5 has 4 fields where the header \(line 1\) has 2: "{T},1,x,y"; mend or remove it'),
    "too few": (changed(5, T), {}, rf'line 5 has 1 field where the header \(line 1\) has 2: "{T}"; mend or remove it'),
    "a comma between thousands": (changed(5, f"{T},1,000.50"), {}, r"line 5 has 3 fields .*; a comma between thousands\? write 1000\.50"),
    "decimal commas": (PLAIN.replace(".", ","), {}, r"line 2 has 3 fields .*a decimal comma\? write 100\.38, .*so do 89 other lines"),
    "a quote that is not closed": (PLAIN.replace("dt,mid", "dt,x,mid").replace(",1", ",a,1").replace("04:00Z,a", '04:00Z,"a'), {}, r'line 6 opens a quote that it does not close: "2024-01-20T00:04:00Z,""?a,1'),
    "a quote, and no end of line": ("dt,x,mid\n2024-01-20T00:00Z,a,1\n2024-01-20T00:01Z,\"a,2\n2024-01-20T00:02Z,\"a,3\n2024-01-20T00:03Z,a,4", {}, r"line 3 opens a quote"),
    "a second header": (PLAIN + PLAIN, {}, r'the header comes again in 1 of 181 rows, the first at line 92 \("dt,mid"\); remove it there'),
    "blank lines are counted": ("\n\n" + changed(5, f"{T},x").replace("\n", "\n\n"), {}, r'mid is no number in 1 of 90 rows, the first at line 11 \("2024-01-20T00:03:00Z,x"\): received "x"'),
    # columns
    "no header": ("\n".join(LINES), {}, r'there is no header: line 1 is "2024-01-20T00:00:00Z,100\.00"; set time_column and price_column to the columns\' numbers, from 1 \(times seem to be in time_column=1\)'),
    "no header, day and time of day": (lines(FRAME, lambda t, p: f"{t:%Y.%m.%d},{t:%H:%M},{p}"), {}, r"from 1 \(times seem to be in time_column=1\+2\)"),
    "no price": (PLAIN.replace("mid", "volume"), {}, r"no column is known for prices; it has columns dt,volume; set price_column, or bid_column"),
    "no times": (PLAIN.replace("dt", "x"), {}, r"no column is known for times; it has columns x,mid; set time_column"),
    "neither": (PLAIN.replace("dt,mid", "x,y"), {}, r"no column is known for times; .*set time_column; no column is known for prices"),
    "a bid alone": (PLAIN.replace("mid", "Bid"), {}, r"it has columns dt,Bid; Bid alone is no price to train on; set price_column"),
    "two closes": (PLAIN.replace("dt,mid", "dt,close").replace(",1", ",1,1").replace("close", "Close,close"), {}, r"several columns could be close: Close, close; set price_column to 2 or 3"),
    "a name that is not there": (PLAIN, {"price_column": "last"}, r"price_column=last is none of its columns; it has columns dt,mid"),
    "a number that is not there": (PLAIN, {"time_column": "3"}, r"time_column=3 is none of its columns"),
    "times of day alone": (lines(FRAME, lambda t, p: f"{t:%H:%M:%S},{p}", "Time,Close"), {}, r"Time holds times of day and no column holds the day"),
    "other columns in another file": ({"a.csv": iso(FRAME[:9]), "b.csv": iso(FRAME[9:], "dt,bid").replace("bid", "bid,ask").replace(",1", ",1,1")}, {}, r"a\.csv gives mid and b\.csv gives bid and ask"),
    # times
    "a year of nobody": ("dt,mid\n9999-12-31T23:58,1\n9999-12-31T23:59,2\n", {}, r'dt has times outside the years 1677 to 2262, .* remove them: "9999-12-31T23:58"'),
    "years too far apart": ("dt,mid\n2262-04-01T00:00,1\n1677-10-01T00:00,2\n", {}, r"times reach over more than 292 years, from line 3 .* to line 2 .* remove the rows"),
    "no time": (changed(5, "noon,5"), {}, r'p\.csv: dt is no time in 1 of 90 rows, the first at line 5 \("noon,5"\); mend these rows'),
    "no times at all": ("dt,mid\nnoon,5\nnight,6\n", {}, r'dt holds no times: "noon"; set time_column or time_format'),
    "a day that does not exist": (changed(5, "2024-02-30T00:04:00Z,5"), {}, r"dt is no time in 1 of 90 rows, the first at line 5"),
    "an empty time": (changed(5, ",6"), {}, r'dt is empty in 1 of 90 rows, the first at line 5 \(",6"\); give every row a time'),
    "day or month": (lines(prices(start="2024-01-02"), lambda t, p: f"{t:%d/%m/%Y %H:%M},{p}", "Date,Close"), {}, r"Date can be read in two ways: 02/01/2024 .*set time_format, such as %d/%m/%Y %H:%M or %m/%d/%Y"),
    "day or month, to the millisecond": (lines(prices(start="2024-01-02"), lambda t, p: f"{t:%m/%d/%Y %H:%M:%S}.000,{p}", "Date,Close"), {}, r"set time_format, such as %d/%m/%Y %H:%M:%S\.%f or %m/%d/%Y %H:%M:%S\.%f"),
    "day or month of an afternoon": (lines(prices(start="2024-01-02"), lambda t, p: f"{t:%m/%d/%Y %I:%M %p} +01:00,{p}", "Date,Close"), {}, r"set time_format, such as %d/%m/%Y %I:%M %p %z or"),
    "years of two digits": (lines(FRAME, lambda t, p: f"{t:%y-%m-%d %H:%M},{p}", "Date,Close"), {}, r"Date has years of two digits \(24-01-20\); set time_format to %d-%m-%y %H:%M, %m-%d-%y %H:%M, %y-%m-%d %H:%M or"),
    "another format": (PLAIN, {"time_format": "%d.%m.%Y"}, r"dt does not match time_format %d\.%m\.%Y in 90 of 90 rows"),
    "numbers that are no times": (lines(FRAME, lambda t, p: f"{t.minute},{p}", "dt,mid"), {}, r"dt holds numbers such as \d+, which are no times since 1970 .*set time_column, or time_format"),
    "milliseconds, then microseconds": ("dt,mid\n1704153600000,5\n1704153660000000,6\n", {}, r"dt is no time in milliseconds since 1970 in 1 of 2 rows, the first at line 3"),
    "clocks are set back": ("dt,mid\n2023-10-29 02:00,5\n2023-10-29 02:59,6\n2023-10-29 02:00,7\n2023-10-29 02:59,7\n", {}, r"times go back from 2023-10-29 02:59:00 to 2023-10-29 02:00:00 at line 4 .*set timezone"),
    "clocks are set back, newest first": ("dt,mid\n2023-10-29 02:59,5\n2023-10-29 02:00,6\n2023-10-29 02:59,7\n2023-10-29 02:00,7\n", {}, r"times go back from 2023-10-29 02:59:00 to 2023-10-29 02:00:00 at line 3 .*set timezone"),
    "an hour that comes once": ("dt,mid\n2023-10-29 01:30,5\n2023-10-29 02:30,6\n2023-10-29 03:30,7\n", {"timezone": "Europe/Berlin"}, r"dt could be either of two hours in Europe/Berlin .* in 1 of 3 rows, the first at line 3 .*write these times in UTC"),
    "an hour that is skipped": ("dt,mid\n2024-03-31 01:30,5\n2024-03-31 02:30,6\n", {"timezone": "Europe/Berlin"}, r"dt does not exist in Europe/Berlin \(clocks were set on\) in 1 of 2 rows, the first at line 3"),
    "rows in no order": ("\n".join([HEADER, *LINES[50:], *LINES[:50]]), {}, r"times go backwards in 1 of 90 rows, the first at line 42 .*; sort the rows by their time"),
    "trades": ("dt,mid\n2024-01-02T00:00:00.1,5\n2024-01-02T00:00:07,6\n2024-01-02T00:00:59.9,7\n2024-01-02T00:02:00,8\n", {}, r"rows are not evenly spaced, as trades are .*resample=1min"),
    "a row between bars": (PLAIN.replace("\n2024-01-20T00:05", "\n2024-01-20T00:04:30Z,5\n2024-01-20T00:05"), {}, r"rows are mostly 1 minute apart, and those at 2024-01-20 00:04:00\+00:00 and 2024-01-20 00:04:30\+00:00 only 30 seconds"),
    # values
    "no number": (changed(5, f"{T},high"), {}, r'mid is no number in 1 of 90 rows, the first at line 5 .*received "high"; mend or remove these rows'),
    "a comma that means two things": (changed(5, f'{T},"1,234"').replace(".", ""), {}, r'mid is no number in 1 of 90 rows, .*received "1,234"; a comma between thousands or a decimal comma\?'),
    "infinite": (changed(5, f"{T},inf"), {}, r'mid is infinite in 1 of 90 rows, the first at line 5 \("2024-01-20T00:03:00Z,inf"\) \(inf\)'),
    "below 0": (changed(5, f"{T},-1"), {}, r"mid is not above 0 in 1 of 90 rows, the first at line 5 .*\(-1\.0\)"),
    "too large": (changed(5, f"{T},1e16"), {}, r"mid is not within 1e-15 to 1e\+15 .*another unit"),
    "a time with two prices": (changed(5, f"{T[:-5]}2:00Z,5"), {}, r"1 time comes twice with different values, the first is 2024-01-20 00:02:00\+00:00: mid 10\d\.\d+ at line .*; keep one row a bar"),
    "mid outside bid and ask": ("dt,mid,bid,ask\n2024-01-01T00:00,5,6,7\n2024-01-01T00:01,6,6,7\n", {}, r"mid is outside bid and ask in 1 of 2 rows, the first at line 2 .*\(mid 5\.0, bid 6\.0, ask 7\.0\)"),
    "never moves": (lines(FRAME, lambda t, p: f"{t},5", "dt,mid"), {}, r"the price never moves, it is 5\.0 in all 90 rows"),
    "no prices at all": (lines(FRAME, lambda t, p: f"{t},", "dt,mid"), {}, r"p\.csv has no price in any of its 90 rows; set price_column"),
    "no rows": ("dt,mid\n", {}, r"p\.csv has a header and no rows"),
    "no rows between the dates": (PLAIN, {"start": "2025-01-01"}, r"has no rows between the dates: its rows are from 2024-01-20 00:00:00\+00:00 to 2024-01-20 01:29"),
    "another position": (PLAIN.replace("mid", "mid,position").replace("\n2", "\n2").replace(",100", ",100").replace("Z,", "Z,5,"), {}, r"position is not -1, 0 or 1 in 90 of 90 rows, the first at line 2"),
    # files
    "files across each other": ({"a.csv": f"{HEADER}\n{LINES[0]}\n{LINES[9]}\n", "b.csv": f"{HEADER}\n{LINES[5]}\n"}, {}, r"a\.csv ends at 2024-01-20 00:09:00\+00:00 and b\.csv begins at 2024-01-20 00:05"),
    "files that contradict": ({"a.csv": PLAIN, "b.csv": f"{HEADER}\n{LINES[5][:-2]}99\n"}, {}, r"a time comes twice with different prices: 2024-01-20 00:05:00\+00:00 is .* in b\.csv and .*a\.csv"),
    # rows
    "a row of Parquet": ({"p.parquet": parquet(dt=["2024-01-01", "noon"], mid=[1.0, 2.0])}, {}, r'dt is no time in 1 of 2 rows, the first at row 2 \("noon"\)'),
    "a price of Parquet": ({"p.parquet": parquet(dt=pd.date_range("2024", periods=2), mid=[1.0, -2.0])}, {}, r"mid is not above 0 in 1 of 2 rows, the first at row 2 \(2024-01-02 00:00:00\+00:00\) \(-2\.0\)"),
    "a type of Parquet": ({"p.parquet": parquet(dt=pd.date_range("2024", periods=2), mid=[True, False])}, {}, r"mid is no number in 2 of 2 rows, the first at row 1: received \"True\""),
}  # fmt: skip


@pytest.mark.parametrize("wrong", REFUSED)
def test_what_is_wrong_is_told(tmp_path, wrong):
    files, how, message = REFUSED[wrong]
    with pytest.raises(UserError, match=message) as caught:
        read(tmp_path, files, **how)
    told = str(caught.value)
    assert told.startswith("channel train") and "\n" not in told and len(told) < 1000


def test_every_problem_of_a_file_is_told_at_once(tmp_path):
    text = changed(5, f"{T},1,2").replace(LINES[10], "noon,5").replace(LINES[20], LINES[20].split(",")[0] + ",high")
    with pytest.raises(
        UserError, match=r"line 5 has 3 fields .*; dt is no time .* line 12 .*; mid is no number .* line 22 "
    ):
        read(tmp_path, text)


def test_problems_of_many_files_are_told_as_far_as_they_fit(tmp_path):
    files = {f"{number:02}.csv": changed(5, f"{T},{'9' * 200},2") for number in range(30)}
    with pytest.raises(UserError, match=r"00\.csv: line 5 .*; 01\.csv: line 5 .*; and \d\d more problems") as caught:
        read(tmp_path, files)
    assert len(str(caught.value)) < 1000
