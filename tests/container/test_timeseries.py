import os
import uuid
from datetime import date, datetime, timedelta, timezone

import boto3
import kydb
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from histories import KEY, assert_same, history
from kydb_servers import make_table
from ml import databases, series_chunks
from ml.errors import UserError
from ml.learn.folds import split_by_time
from ml.learn.network import build_network
from ml.settings import Settings
from ml.timeseries import register, time_series
from ml.train_sequence import TrainSequence

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
