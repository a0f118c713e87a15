import gzip
import os
import re
import uuid
from datetime import date, datetime, timedelta, timezone

import boto3
import kydb
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kydb_servers import make_table
from ml import databases, series_chunks
from ml.data.history import checked, fingerprint, gaps
from ml.data.sources import read_channel, read_kydb
from ml.errors import UserError
from ml.learn.folds import split_by_time
from ml.learn.network import build_network
from ml.settings import Settings
from ml.timeseries import register, time_series
from ml.train_sequence import TrainSequence

KEY = "/symbols/ml/training_data/FX_BTC_JPY"


def history(rows=5000, start="2020-01-01", seed=0, columns=("mid", "position")):
    rng = np.random.default_rng(seed)
    index = pd.date_range(start, periods=rows, freq="min", tz="UTC", unit="ns", name="dt")
    mid = 1000 + rng.normal(size=rows).cumsum() * 0.5
    values = {"mid": mid, "position": rng.integers(-1, 2, rows).astype(float), "bid": mid - 0.25, "ask": mid + 0.25}
    return pd.DataFrame({name: values[name] for name in columns}, index)


def assert_same(one, other):
    pd.testing.assert_frame_equal(one, other, check_exact=True, check_freq=False)


# The object in KYDB, on every backend


def test_what_was_written_is_read_by_another_process_view(kydb_url, monkeypatch):
    monkeypatch.setattr(series_chunks, "MOST_ROWS", 1000)
    db = kydb.connect(kydb_url)
    frame = history()
    time_series(db, KEY).replace(frame)
    db.clear_cache()
    assert_same(db[KEY].curve(), frame)
    assert len(db[KEY].chunks()) == 5
    assert db.ls("/symbols/ml/training_data") == ["FX_BTC_JPY"]


def test_both_ends_of_a_curve_are_included(kydb_url):
    db = kydb.connect(kydb_url)
    frame = history(3 * 1440)
    time_series(db, KEY).replace(frame)
    series = db[KEY]
    assert_same(series.curve(date(2020, 1, 2), date(2020, 1, 2)), frame.loc["2020-01-02"])
    assert_same(series.curve(datetime(2020, 1, 2), datetime(2020, 1, 3)), frame.loc["2020-01-02":"2020-01-03 00:00"])
    tokyo = timezone(timedelta(hours=9))
    assert series.curve(datetime(2020, 1, 2, 9, tzinfo=tokyo)).index[0] == pd.Timestamp("2020-01-02", tz="UTC")
    assert len(series.curve(date(2021, 1, 1), date(2021, 1, 2))) == 0


def test_a_range_is_replaced_and_the_rest_stays(kydb_url, monkeypatch):
    monkeypatch.setattr(series_chunks, "MOST_ROWS", 700)
    db = kydb.connect(kydb_url)
    old, new = history(), history(900, "2020-01-02", seed=9)
    time_series(db, KEY).replace(old)
    time_series(db, KEY).replace(new)
    expected = old.copy()
    expected.loc[new.index] = new
    db.clear_cache()
    assert_same(db[KEY].curve(), expected)
    stored = db.ls(f"/timeseries_chunks{KEY}")
    assert len(stored) == len(db[KEY].chunks()), "chunks that nothing names were left behind"


def test_rows_are_appended_and_small_chunks_merged(kydb_url):
    db = kydb.connect(kydb_url)
    frame = history(30)
    for first in range(0, 30, 10):
        time_series(db, KEY).append(frame.iloc[first : first + 10])
    assert_same(db.read(KEY, reload=True).curve(), frame)
    assert len(db[KEY].chunks()) == 1
    with pytest.raises(UserError, match="begins at 2020-01-01 00:29.* append later rows"):
        time_series(db, KEY).append(frame.iloc[29:])


def test_a_deleted_series_leaves_no_chunks(kydb_url):
    db = kydb.connect(kydb_url)
    time_series(db, KEY).replace(history(100))
    time_series(db, KEY).delete()
    assert not db.exists(KEY)
    assert db.ls(f"/timeseries_chunks{KEY}") == []


def test_incompressible_prices_fit_into_dynamodb_items(kydb_url):
    rng = np.random.default_rng(0)
    frame = history(70_000, columns=("mid", "position", "bid", "ask"))
    for name in ("mid", "ask", "bid"):
        frame[name] = rng.random(len(frame)) + {"mid": 2, "ask": 3, "bid": 1}[name]
    db = kydb.connect(kydb_url)
    time_series(db, KEY).replace(frame)
    db.clear_cache()
    sizes = [len(db.get_raw(db._get_full_path(chunk["key"]))) for chunk in db[KEY].chunks()]
    assert len(sizes) > 2 and max(sizes) < 390_000
    assert_same(db[KEY].curve(), frame)


def test_classes_registered_before_stay(kydb_url):
    db = kydb.connect(kydb_url)
    theirs = {"Greeter": {"module_path": "greetings", "class_name": "Greeter"}}
    db.upload_objdb_config(theirs)
    register(db)
    register(db)
    assert set(db.read("/.configs/objdb", reload=True)) == {"Greeter", "TimeSeries"}


def test_the_snippet_that_users_have(aws, tmp_path):
    make_table("epython")
    time_series(kydb.connect("dynamodb://epython/timeseries"), KEY).replace(history(3000, "2017-06-01"))

    db = kydb.connect("dynamodb://epython/timeseries")
    ts = db["/symbols/ml/training_data/FX_BTC_JPY"]
    pos_df = ts.curve(date(2017, 6, 1), date(2020, 6, 1))
    seq = TrainSequence(pos_df.reset_index()[["mid", "position"]].copy())

    boto3.client("s3").create_bucket(Bucket="epython")
    model = build_network(Settings(lookback=seq.lookback_period, nodes=8))
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(seq, verbose=0)
    path = tmp_path / "model.h5"
    model.save(path)
    data = path.read_bytes()
    kydb.connect("s3://epython")["/ml/models/fx_btc_jpy_model.h5"] = data
    assert kydb.connect("s3://epython").read("/ml/models/fx_btc_jpy_model.h5", reload=True) == data


# Writes that fail, readers that race


@pytest.mark.parametrize("fails_at", range(4))
def test_a_write_that_fails_leaves_what_was_there(files_url, monkeypatch, fails_at):
    monkeypatch.setattr(series_chunks, "MOST_ROWS", 1000)
    db = kydb.connect(files_url)
    old = history(2000)
    time_series(db, KEY).replace(old)
    before = sorted(db.ls(f"/timeseries_chunks{KEY}"))
    whole, calls = db.set_raw, iter(range(100))

    def failing(path, value):
        if next(calls) == fails_at:
            raise OSError("disk full")
        whole(path, value)

    monkeypatch.setattr(db, "set_raw", failing)
    with pytest.raises(OSError, match="disk full"):
        time_series(db, KEY).replace(history(3000, seed=1))
    db.clear_cache()
    assert_same(db[KEY].curve(), old)
    left = db.ls(f"/timeseries_chunks{KEY}")
    assert sorted(left) == before or (fails_at == 3 and set(left) > set(before)), "the list may have been written"


def test_a_list_that_was_written_without_an_answer_is_readable(files_url, monkeypatch):
    db = kydb.connect(files_url)
    time_series(db, KEY).replace(history(50))
    whole = db.set_raw

    def unanswered(path, value):
        whole(path, value)
        if path.endswith(KEY):
            raise TimeoutError("no answer")

    monkeypatch.setattr(db, "set_raw", unanswered)
    with pytest.raises(TimeoutError, match="no answer"):
        time_series(db, KEY).replace(history(60, seed=1))
    db.clear_cache()
    assert_same(db[KEY].curve(), history(60, seed=1))


def test_other_columns_are_refused_where_other_chunks_stay(files_url, monkeypatch):
    monkeypatch.setattr(series_chunks, "MOST_ROWS", 1000)
    old = history(2000)[["mid"]]
    series = time_series(kydb.connect(files_url), KEY)
    series.replace(old)
    with pytest.raises(UserError, match="columns mid, position and .* has mid"):
        series.replace(history(2000).iloc[1000:][["mid"]].assign(position=1.0))
    assert_same(series.curve(), old)


def test_an_open_end_may_be_a_date_that_nanoseconds_cannot_hold(files_url):
    series = time_series(kydb.connect(files_url), KEY)
    series.replace(history(50))
    assert_same(series.curve(date(1, 1, 1), date(9999, 12, 31)), history(50))
    assert len(series.curve(date(9999, 12, 31))) == 0


def test_a_reader_whose_chunks_were_replaced_reads_the_new_ones(files_url):
    db = kydb.connect(files_url)
    time_series(db, KEY).replace(history(100))
    reader, new = db.read(KEY, reload=True), history(100, seed=1)
    time_series(db, KEY).replace(new)
    assert_same(reader.curve(), new)


def test_a_file_is_never_seen_half_written(files_url, tmp_path, monkeypatch):
    db = kydb.connect(files_url)
    time_series(db, KEY).replace(history(100))
    path = next((tmp_path / "kydb/symbols").rglob("FX_BTC_JPY"))
    before = path.read_bytes()

    def full(descriptor):
        raise OSError("full")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="full"):
        db[KEY] = db[KEY]
    assert path.read_bytes() == before and len(list(path.parent.iterdir())) == 1


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 300), st.integers(1, 120), st.integers(0, 5)), min_size=1, max_size=6),
    st.integers(-10, 420),
    st.integers(-10, 420),
)
def test_writes_in_any_order_are_those_of_a_frame(writes, first, last):
    db = kydb.connect(f"memory://{uuid.uuid4().hex}")
    model = None
    for begin, rows, seed in writes:
        frame = history(rows, pd.Timestamp("2020-01-01") + pd.Timedelta(minutes=begin), seed)
        time_series(db, KEY).replace(frame)
        outside = model[(model.index < frame.index[0]) | (model.index > frame.index[-1])] if model is not None else None
        model = frame if outside is None else pd.concat([outside, frame]).sort_index()
    start, end = (datetime(2020, 1, 1) + timedelta(minutes=minute) for minute in (first, last))
    expected = model[(model.index >= pd.Timestamp(start, tz="UTC")) & (model.index <= pd.Timestamp(end, tz="UTC"))]
    got = db[KEY].curve(start, end)
    assert len(got) == len(expected)
    if len(expected):
        assert_same(got, expected)


def test_other_columns_than_those_that_stay_are_refused(files_url):
    db = kydb.connect(files_url)
    time_series(db, KEY).replace(history(100))
    with pytest.raises(UserError, match="has columns mid and .* has mid, position"):
        time_series(db, KEY).append(history(100, "2020-02-01", columns=("mid",)))
    time_series(db, KEY).replace(history(101, columns=("mid",)))  # all of it may change


# Reading from KYDB


def test_a_history_is_read_and_cut(files_url):
    frame = history(3 * 1440)
    time_series(kydb.connect(files_url), KEY).replace(frame)
    assert_same(read_kydb(files_url, KEY, date(2020, 1, 2), date(2020, 1, 2)), frame.loc["2020-01-02"])


def test_any_object_with_a_curve_serves(files_url, tmp_path, monkeypatch):
    (tmp_path / "athena.py").write_text(
        "import kydb, pandas as pd\n"
        "class AthenaCurve(kydb.DbObj):\n"
        "    def curve(self, start, end):\n"
        "        return pd.DataFrame({'dt': pd.date_range('2020', periods=5, freq='min'), 'mid': 1.0, 'x': 'y'})\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    db = kydb.connect(files_url)
    db.upload_objdb_config({"AthenaCurve": {"module_path": "athena", "class_name": "AthenaCurve"}})
    db.new("AthenaCurve", KEY).write()
    frame = read_kydb(files_url, KEY)
    assert list(frame) == ["mid"] and frame.index.tz is not None and len(frame) == 5


def test_what_is_no_history_is_told(files_url):
    db = kydb.connect(files_url)
    db["/symbols/number"] = 5
    db["/symbols/FX_BTC_USD"] = 6
    with pytest.raises(UserError, match=r"is a int without a method curve"):
        read_kydb(files_url, "/symbols/number")
    with pytest.raises(UserError, match=r"no price history /symbols/FX in files:.* beside it are FX_BTC_USD, number"):
        read_kydb(files_url, "/symbols/FX")
    with pytest.raises(UserError, match=r"no KYDB URL, received nosql://x"):
        read_kydb("nosql://x", "/y")


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("redis://127.0.0.1:1/base", "ConnectionError"),
        ("s3://epython-none", "EndpointConnectionError"),
        ("dynamodb://epython-none/timeseries", "EndpointConnectionError"),
    ],
)
def test_an_unreachable_database_is_told(aws, monkeypatch, url, reason):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(UserError, match=rf"{re.escape(KEY)} in {url} cannot be read: {reason}.*check the URL"):
        read_kydb(url, KEY)


def test_forbidden_is_not_mistaken_for_missing(aws, monkeypatch):
    from botocore.exceptions import ClientError

    boto3.client("s3").create_bucket(Bucket="forbidden")
    db = kydb.connect("s3://forbidden")
    response = {"Error": {"Code": "403"}, "ResponseMetadata": {"HTTPStatusCode": 403}}

    def denied(*args, **kwargs):
        raise ClientError(response, "HeadObject")

    monkeypatch.setattr(db.s3, "head_object", denied)
    monkeypatch.setattr(db.s3, "get_object", denied)
    with pytest.raises(UserError, match="may not be read .*grant s3:GetObject"):
        read_kydb("s3://forbidden", KEY)
    with pytest.raises(UserError, match="may not be read"):
        register(db)


def test_secrets_in_a_url_are_not_shown():
    with pytest.raises(UserError) as caught:
        read_kydb("redis://user:secret@127.0.0.1:1/base", KEY)
    assert "secret" not in str(caught.value)


# Channels


def channel(tmp_path, files):
    folder = tmp_path / "train"
    for name, frame in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(frame, bytes):
            path.write_bytes(frame)
        elif name.endswith(".parquet"):
            frame.to_parquet(path)
        else:
            frame.to_csv(path)
    folder.mkdir(exist_ok=True)
    return folder


def test_parquet_csv_and_gzip_files_give_one_history(tmp_path):
    frame = history(400)
    folder = channel(
        tmp_path,
        {
            "z.parquet": frame.iloc[:100],
            "deep/er/b.csv": frame.iloc[100:200],
            "a.csv.gz": frame.iloc[200:300],
            "c.parquet": frame.iloc[300:].reset_index(),
            ".hidden/x.csv": b"rubbish",
            "manifest": b"{}",
        },
    )
    pd.testing.assert_frame_equal(read_channel(folder), frame, rtol=1e-12, check_freq=False)
    assert len(read_channel(folder, datetime(2020, 1, 1, 0, 10), datetime(2020, 1, 1, 0, 19))) == 10


@pytest.mark.parametrize("zone", [None, "Asia/Tokyo", "UTC"])
@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_times_become_utc(tmp_path, zone, suffix):
    frame = history(50)
    local = frame.tz_convert(zone) if zone else frame.tz_localize(None)
    read = read_channel(channel(tmp_path, {f"prices.{suffix}": local}))
    assert read.index.equals(frame.index)


def test_an_unnamed_parquet_index_is_taken_for_dt(tmp_path):
    frame = history(50)
    assert read_channel(channel(tmp_path, {"p.parquet": frame.rename_axis(None)})).index.equals(frame.index)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, r"channel train has no price files: .* found nothing"),
        ({"prices.xlsx": b"x"}, r"found prices\.xlsx"),
        ({"p.parquet": b"PAR1 but no more"}, r"p\.parquet cannot be read: Arrow"),
        ({"p.parquet": b""}, r"p\.parquet cannot be read"),
        ({"p.csv": b""}, r"p\.csv cannot be read: EmptyDataError"),
        ({"p.csv.gz": b"not gzip"}, r"p\.csv\.gz cannot be read: BadGzipFile"),
        ({"p.csv": b"when,price\n2020-01-01,5\n"}, r"p\.csv: it must have a column or index dt|no price files|columns"),
        ({"p.csv": b"dt,mid\n2020-01-01,high\n"}, r"p\.csv: mid must hold numbers"),
        ({"p.csv": b"dt,mid\nnoon,5\n"}, r"p\.csv: dt must hold times"),
        ({"p.csv": b"dt,mid\n2020-01-01,5\n,6\n"}, r"dt is empty in 1 rows, the first is row 2"),
        ({"p.csv": b"dt,mid\n2020-01-01T00:00,5\n2020-01-01T00:01,inf\n"}, r"mid is infinite in 1 of 2 rows, .*00:01"),
        ({"p.csv": b"dt,mid\n"}, r"has no rows"),
        (
            {"a.csv": b"dt,mid\n2020-01-01,5\n2020-01-03,5\n", "b.csv": b"dt,mid\n2020-01-02,5\n"},
            r"a\.csv ends at 2020-01-03 .* b\.csv begins",
        ),
        ({"a.csv": b"dt,mid\n2020-01-01,5\n", "b.csv": b"dt,mid\n2020-01-01,5\n"}, r"b\.csv begins at 2020-01-01"),
        ({"p.csv": b"dt,mid\n2020-01-01,5\n2020-01-01,5\n"}, r"a time comes twice"),
    ],
    ids=lambda value: value if isinstance(value, str) else ",".join(value),
)
def test_a_wrong_channel_is_told(tmp_path, files, message):
    with pytest.raises(UserError, match=message) as caught:
        read_channel(channel(tmp_path, files))
    assert "\n" not in str(caught.value)


def test_a_truncated_gzip_file_is_told(tmp_path):
    whole = gzip.compress(history(500).to_csv().encode())
    with pytest.raises(UserError, match=r"p\.csv\.gz cannot be read: EOFError"):
        read_channel(channel(tmp_path, {"p.csv.gz": whole[: len(whole) // 2]}))


# The check


def setter(column, value, row=50):
    return lambda frame: frame.assign(**{column: frame[column].where(frame.index != row, value)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (setter("mid", np.nan), "mid is NaN in 1 of 100 rows, the first at 2020-01-01 00:50:00.00:00; drop or fill"),
        (setter("bid", -np.inf), "bid is infinite in 1 of 100 rows"),
        (setter("mid", 0.0), r"mid is not above 0 in 1 of 100 rows, the first at 2020-01-01 00:50:00\+00:00 \(0.0\)"),
        (setter("ask", -3.0), r"ask is not above 0 .* \(-3.0\)"),
        (setter("position", 2.0), r"position is not -1, 0 or 1 .* \(2.0\)"),
        (setter("position", np.nan), "position is NaN"),
        (setter("bid", 1e6), "bid is above ask in 1 of 100 rows"),
        (setter("dt", pd.Timestamp("2020-01-01 00:49", tz="UTC")), "a time comes twice in 1 of 100 rows"),
        (setter("dt", pd.Timestamp("2019-01-01", tz="UTC")), "times go backwards in 1 of 100 rows"),
        (lambda frame: frame.drop(columns=["mid", "ask"]), "a column mid is needed, or bid and ask"),
        (lambda frame: frame.drop(columns="dt"), "it must have a column or index dt"),
        (lambda frame: frame.iloc[:0], "has no rows"),
    ],
)
def test_a_wrong_frame_is_told_with_its_first_row(change, message):
    frame = history(100, columns=("mid", "position", "bid", "ask")).reset_index()
    with pytest.raises(UserError, match=f"^the test:? {message}"):
        checked(change(frame), source="the test")


def test_mid_is_the_middle_of_bid_and_ask_where_it_is_not_given():
    frame = checked(history(10, columns=("bid", "ask")), source="the test")
    np.testing.assert_array_equal(frame["mid"], (frame["bid"] + frame["ask"]) / 2)


def test_a_bid_without_an_ask_is_no_use_and_is_dropped():
    assert list(checked(history(10, columns=("mid", "bid")), source="the test")) == ["mid"]


def test_gaps_are_counted_not_hidden():
    frame = history(100)
    found = gaps(frame.drop(frame.index[[10, 11, 12, 40]]))
    assert found[:3] == (2, 4, 3) and found.longest_at == "2020-01-01 00:09:00+00:00"
    assert str(found).startswith("4 minutes missing in 2 gaps (the longest 3 after")
    assert str(gaps(frame)) == "no minute missing"


def test_the_fingerprint_sees_every_value_and_time():
    frame = history(100)
    assert fingerprint(frame) == fingerprint(frame.copy())
    for changed in (frame + 1e-9, frame.iloc[1:], frame.shift(freq="min"), frame[["mid"]]):
        assert fingerprint(changed) != fingerprint(frame)


# The split


def test_the_parts_are_purged_and_the_last_rows_are_held_out():
    frame = history(10_000)
    training, validation = split_by_time(frame, 0.2, lookback=100, horizon=50)
    assert validation.index.equals(frame.index[-2000:])
    assert training.index.equals(frame.index[: 10_000 - 2000 - 150])


def test_without_validation_everything_is_trained_on():
    frame = history(200)
    training, validation = split_by_time(frame, 0.0, lookback=100, horizon=50)
    assert training is frame and validation is None


@pytest.mark.parametrize(
    ("rows", "fraction", "message"),
    [
        (99, 0.1, "99 rows of prices are fewer than the 100 of one window"),
        (900, 0.1, "lookback 100 is larger than the validation part: 90 of 900 rows"),
        (400, 0.5, "50 rows are left to train on, fewer than the 100"),
        (200, 0.9, "0 rows are left to train on"),
    ],
)
def test_a_part_without_a_window_is_told(rows, fraction, message):
    with pytest.raises(UserError, match=message):
        split_by_time(history(rows), fraction, lookback=100, horizon=50)


def test_aws_gets_sagemakers_region(monkeypatch):
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_REGION", "eu-west-3")
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    databases.configure_aws()
    client = boto3.client("dynamodb")
    assert client.meta.region_name == "eu-west-3"
    assert client.meta.config.connect_timeout == 5
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
