"""A TimeSeries that several write, that is damaged, or that shares its database with other programs."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import kydb
import numpy as np
import pandas as pd
import pytest

import series_load
from kydb_servers import BACKENDS, NPM_BACKENDS, make_url
from ml import items, series_chunks, timeseries
from ml.databases import DamagedValue
from ml.errors import UserError
from ml.timeseries import register, time_series

KEY = "/prices/BTC"


def history(rows=3000, start="2020-01-01", price=100.0):
    index = pd.date_range(start, periods=rows, freq="min", tz="UTC", unit="ns", name="dt")
    return pd.DataFrame({"mid": np.full(rows, price)}, index)


def assert_same(one, other):
    pd.testing.assert_frame_equal(one, other, check_exact=True, check_freq=False)


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(series_chunks, "MOST_ROWS", 1000)


def read_anew(url, key=KEY):
    return kydb.connect(url).read(key, reload=True).curve()


# Several writers


def test_a_writer_with_a_list_of_before_another_wrote_loses_nothing(any_kydb_url, small_chunks):
    db = kydb.connect(any_kydb_url)
    time_series(db, KEY).replace(history())
    stale = time_series(db, KEY)
    time_series(db, KEY).replace(history(1000, "2020-01-01 16:40", price=200))
    stale.append(history(10, "2020-02-01", price=300))
    found = read_anew(any_kydb_url)
    assert len(found) == 3010 and (found["mid"] == 200).sum() == 1000 and (found["mid"] == 300).sum() == 10
    assert_same(stale.curve(), found)
    assert sorted(db.ls(f"/timeseries_chunks{KEY}")) == sorted(
        chunk["key"].rpartition("/")[2] for chunk in stale.chunks()
    ), "chunks that nothing names were left behind"


def between_read_and_swap(monkeypatch, action):
    """Does something once, when a writer has made its new list and not yet written it."""
    swap = timeseries.swap

    def interrupted(db, key, old, new):
        if key == KEY and interrupted.waiting:
            interrupted.waiting = False
            action()
        return swap(db, key, old, new)

    interrupted.waiting = True
    monkeypatch.setattr(timeseries, "swap", interrupted)


def test_a_write_that_another_overtook_is_made_again_from_the_other_s_list(any_kydb_url, small_chunks, monkeypatch):
    db = kydb.connect(any_kydb_url)
    time_series(db, KEY).replace(history())
    theirs = history(1000, "2020-01-01 16:40", price=200)
    between_read_and_swap(monkeypatch, lambda: time_series(db, KEY).replace(theirs))
    time_series(db, KEY).replace(history(100, "2020-01-02 09:00", price=300))
    found = read_anew(any_kydb_url)
    assert [(found["mid"] == price).sum() for price in (100, 200, 300)] == [1920, 980, 100]
    assert len(db.ls(f"/timeseries_chunks{KEY}")) == len(db.read(KEY, reload=True).chunks())


def test_the_later_of_two_appends_is_refused(files_url, monkeypatch):
    db = kydb.connect(files_url)
    time_series(db, KEY).replace(history(100))
    rows = history(10, "2020-01-01 01:40", price=200)
    between_read_and_swap(monkeypatch, lambda: time_series(db, KEY).append(rows))
    with pytest.raises(UserError, match="begins at 2020-01-01 01:40.* ends at 2020-01-01 01:49"):
        time_series(db, KEY).append(rows)
    assert len(read_anew(files_url)) == 110


def test_a_series_that_others_write_all_the_time_is_not_written(files_url, monkeypatch):
    db = kydb.connect(files_url)
    time_series(db, KEY).replace(history(100))
    monkeypatch.setattr(timeseries, "_ATTEMPTS", 2)
    monkeypatch.setattr(timeseries, "swap", lambda *arguments: False)
    series = db.read(KEY, reload=True)
    with pytest.raises(UserError, match="was written by others 2 times .* write again when they have ended"):
        series.replace(history(100, price=200))
    assert (read_anew(files_url)["mid"] == 100).all()
    assert len(db.ls(f"/timeseries_chunks{KEY}")) == 1


def test_a_write_that_is_refused_leaves_no_chunks(files_url, monkeypatch):
    def held_by_another(*arguments):
        raise UserError("held")

    series = time_series(kydb.connect(files_url), KEY)
    series.replace(history(100))
    monkeypatch.setattr(timeseries, "swap", held_by_another)
    with pytest.raises(UserError, match="held"):
        series.replace(history(100, price=200))
    assert (read_anew(files_url)["mid"] == 100).all() and len(series.db.ls(f"/timeseries_chunks{KEY}")) == 1


def test_chunks_that_a_list_on_top_of_an_unanswered_one_names_stay(files_url, monkeypatch):
    """A swap that says no although it was done, as after a retry of a broken connection."""
    db = kydb.connect(files_url)
    time_series(db, KEY).replace(history(1000))
    swap = timeseries.swap

    def unanswered(database, key, old, new):
        swap(database, key, old, new)
        monkeypatch.setattr(timeseries, "swap", swap)
        time_series(db, KEY).append(history(10, "2020-03-01", price=300))
        return False

    monkeypatch.setattr(series_chunks, "MOST_ROWS", 100)
    series = time_series(db, KEY)
    monkeypatch.setattr(timeseries, "swap", unanswered)
    series.append(history(100, "2020-02-01", price=200))
    assert [(read_anew(files_url)["mid"] == price).sum() for price in (100, 200, 300)] == [1000, 100, 10]


@pytest.mark.slow
@pytest.mark.parametrize("backend", [each for each in (*BACKENDS, *NPM_BACKENDS) if each != "memory"])
def test_two_processes_that_write_at_the_same_time_lose_nothing(request, backend):
    found = series_load.run(make_url(backend, request), seconds=60, writes=8)
    assert found["writes"] == 16 and found["lost"] == 0


@pytest.mark.slow
def test_reading_leaves_no_native_threads_which_could_abort_the_process_when_python_ends(files_url):
    time_series(kydb.connect(files_url), KEY).replace(history())
    code = (
        "import os, sys, time, kydb, ml.timeseries; time.sleep(0.5);"  # imports start threads that soon end
        "started = set(os.listdir('/proc/self/task')); kydb.connect(sys.argv[1])[sys.argv[2]].curve();"
        "time.sleep(0.3); print(set(os.listdir('/proc/self/task')) - started)"
    )
    environment = {"PYTHONPATH": str(Path(timeseries.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code, files_url, KEY], env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stdout + done.stderr


def test_a_deleted_series_is_told_to_who_still_holds_it(files_url):
    db = kydb.connect(files_url)
    time_series(db, KEY).replace(history(100))
    held = db.read(KEY, reload=True)
    time_series(db, KEY).delete()
    with pytest.raises(UserError, match=f"{KEY} in .* has been deleted"):
        held.curve()
    held.replace(history(5))
    assert len(read_anew(files_url)) == 5


def test_a_union_is_written_in_front_and_a_cache_not_at_all(files_url, tmp_path):
    time_series(kydb.connect(f"{files_url}1;{files_url}2"), KEY).replace(history(10))
    assert len(read_anew(f"{files_url}1")) == 10 and not kydb.connect(f"{files_url}2").exists(KEY)
    with pytest.raises(UserError, match=f"cannot be written through a cache; connect to .*{files_url}1$"):
        time_series(kydb.connect(f"memory://cache|{files_url}1"), KEY)
    through = kydb.connect(f"memory://cache|{files_url}1")[KEY]
    time_series(kydb.connect(f"{files_url}1"), KEY).replace(history(10, price=200))
    assert (through.curve()["mid"] == 200).all()
    with pytest.raises(UserError, match="cannot be written through a cache"):
        through.append(history(10, "2020-02-01"))


# Damage


def test_what_is_left_of_a_damaged_series_is_told_and_the_rest_can_be_written_again(any_kydb_url, small_chunks):
    db = kydb.connect(any_kydb_url)
    time_series(db, KEY).replace(history())
    keys = [chunk["key"] for chunk in db.read(KEY, reload=True).chunks()]
    db[keys[1]] = b"no chunk"
    db.delete(keys[2])
    with pytest.raises(UserError) as told:
        read_anew(any_kydb_url)
    assert f"is damaged: chunk {keys[1]} is damaged: its checksum does not match" in str(told.value)
    assert "cannot be read: 2020-01-01 16:40:00+00:00 to 2020-01-03 01:59:00+00:00; rows that can: 2020" in str(
        told.value
    )
    assert "rows that can: 2020-01-01 00:00:00+00:00 to 2020-01-01 16:39:00+00:00; write the lost" in str(told.value)
    series = db.read(KEY, reload=True)
    assert len(series.curve(end=pd.Timestamp("2020-01-01 16:39"))) == 1000
    with pytest.raises(
        UserError, match="cover a part of it only; write all rows from 2020-01-01 16:40.* to 2020-01-02 09:19"
    ):
        series.replace(history(500, "2020-01-01 16:40"))
    series.replace(history(2000, "2020-01-01 16:40", price=200))
    found = read_anew(any_kydb_url)
    assert [(found["mid"] == price).sum() for price in (100, 200)] == [1000, 2000]


def test_rows_are_appended_after_a_small_chunk_that_is_damaged(files_url):
    db = kydb.connect(files_url)
    time_series(db, KEY).replace(history(10))
    db.delete(time_series(db, KEY).chunks()[0]["key"])
    time_series(db, KEY).append(history(5, "2020-02-01"))
    with pytest.raises(UserError, match="rows that can: 2020-02-01 00:00.* to 2020-02-01 00:04"):
        read_anew(files_url)


@pytest.mark.parametrize("content", [b"", b"\x80\x04half"], ids=["empty", "cut"])
def test_a_series_whose_list_is_damaged_is_told_and_can_be_written_again(files_url, tmp_path, capsys, content):
    db = kydb.connect(files_url)
    time_series(db, KEY).replace(history(100))
    held, path = db.read(KEY, reload=True), tmp_path / f"kydb{KEY}"
    path.write_bytes(content)
    series = time_series(db, KEY)
    for refused in (series.curve, lambda: series.append(history(5)), lambda: held.append(history(5))):
        with pytest.raises(
            DamagedValue, match=f"{KEY} in {files_url}, the file {path}, is damaged: its {len(content)}"
        ):
            refused()
    assert len(held.curve()) == 100
    series.replace(history(50))
    assert len(series.curve()) == len(read_anew(files_url)) == 50
    assert "it is replaced, and holds only the rows that are written now" in capsys.readouterr().out


CHUNK = {"key": "/x", "first": 0, "last": 0, "rows": 1, "sha256": ""}


@pytest.mark.parametrize(
    "chunks",
    [
        *("text", [5], [{"key": "/x"}], [CHUNK, CHUNK]),
        *([CHUNK | wrong] for wrong in ({"key": 5}, {"first": True}, {"first": 1}, {"last": 2**70})),
    ],
)
def test_a_list_that_names_no_chunks_is_told(files_url, chunks):
    series = time_series(kydb.connect(files_url), KEY)
    series.chunks.setvalue(chunks)
    series.write()
    with pytest.raises(DamagedValue, match="has a damaged list of chunks"):
        read_anew(files_url)
    with pytest.raises(DamagedValue, match="has a damaged list of chunks"):
        series.append(history(5))


def test_a_list_that_was_not_written_where_the_server_said_so_costs_no_chunk(files_url, monkeypatch):
    db = kydb.connect(files_url)
    time_series(db, KEY).replace(history(100))
    series = time_series(db, KEY)
    monkeypatch.setattr(items, "_swap_plainly", lambda *arguments: True)
    with pytest.raises(OSError, match="what was read back is not what was written"):
        series.replace(history(100, price=200))
    assert (read_anew(files_url)["mid"] == 100).all()


@pytest.mark.parametrize("wrong", [{"rows": 99}, {"first": 0}, {"last": 2**62}])
def test_a_list_that_says_other_rows_than_a_chunk_holds_is_told(files_url, wrong):
    series = time_series(kydb.connect(files_url), KEY)
    series.replace(history(100))
    series.chunks.setvalue([series.chunks()[0] | wrong])
    series.write()
    with pytest.raises(UserError, match="is damaged: chunk .* does not hold the rows that the list says"):
        read_anew(files_url)


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_disk_that_fails_at_any_step_leaves_the_old_rows_or_the_new(tmp_path, small_chunks, monkeypatch, step):
    owner, whole = (os, os.fsync) if step == "fsync" else (Path, Path.replace)
    failures = 0
    for fails_at in range(100):
        url = f"files:/{tmp_path}/{fails_at}"
        series, calls = time_series(kydb.connect(url), KEY), iter(range(1000))
        series.replace(history())

        def failing(*arguments, calls=calls, fails_at=fails_at):
            if next(calls) == fails_at:
                raise OSError(errno.EIO, "the disk failed")
            return whole(*arguments)

        monkeypatch.setattr(owner, step, failing)
        try:
            series.replace(history(price=200))
        except OSError as error:
            assert error.errno == errno.EIO
            failures += 1
        monkeypatch.setattr(owner, step, whole)
        prices = set(read_anew(url)["mid"])
        assert prices in ({100}, {200}) and len(read_anew(url)) == 3000
        if next(calls) <= fails_at:
            break
    assert failures == {"fsync": 8, "replace": 4}[step], "three chunks and a list; of each the file and the folder"
    assert prices == {200}


def test_something_else_under_the_key_is_not_overwritten(files_url):
    db = kydb.connect(files_url)
    db[KEY] = 5
    with pytest.raises(UserError, match=f"{KEY} holds a int and no TimeSeries; choose another key"):
        time_series(db, KEY)
    db.delete(KEY)
    series = time_series(db, KEY)
    db[KEY] = 6
    with pytest.raises(UserError, match=f"{KEY} in .* is a int and no TimeSeries; choose another key"):
        series.replace(history(5))
    assert db.read(KEY, reload=True) == 6


# Beside other programs


def test_a_class_of_the_same_name_of_another_program_is_not_replaced(kydb_url):
    db = kydb.connect(kydb_url)
    theirs = {"TimeSeries": {"module_path": "tsdb.base", "class_name": "TimeSeries"}}
    db.upload_objdb_config(theirs)
    with pytest.raises(
        UserError, match=r"another program already \(tsdb.base.TimeSeries\).* such as .*/position-trainer"
    ):
        time_series(db, KEY)
    assert kydb.connect(kydb_url).read("/.configs/objdb", reload=True) == theirs
    time_series(kydb.connect(f"{kydb_url}/position-trainer"), KEY).replace(history(5))
    assert len(read_anew(f"{kydb_url}/position-trainer")) == 5


def test_classes_that_two_register_at_the_same_time_both_stay(files_url, monkeypatch):
    db = kydb.connect(files_url)
    greeter = {"Greeter": {"module_path": "greetings", "class_name": "Greeter"}}
    swap = timeseries.swap

    def overtaken(*arguments):
        monkeypatch.setattr(timeseries, "swap", swap)
        db.upload_objdb_config(greeter)
        return swap(*arguments)

    monkeypatch.setattr(timeseries, "swap", overtaken)
    register(db)
    assert set(db.read("/.configs/objdb", reload=True)) == {"Greeter", "TimeSeries"}


def test_keys_with_and_without_a_slash_mean_the_same(kydb_url):
    db = kydb.connect(kydb_url)
    time_series(db, KEY[1:]).replace(history(10))
    time_series(db, KEY).append(history(10, "2020-02-01"))
    assert time_series(db, KEY[1:]).key == KEY
    for key in (KEY, KEY[1:]):
        assert len(read_anew(kydb_url, key)) == 20
    assert db.ls("/timeseries_chunks/prices") == ["BTC/"] and "timeseries_chunksprices/" not in db.ls("/")


def test_a_series_in_the_odd_folder_of_keys_without_a_slash_is_read_and_written(files_url, small_chunks):
    db = kydb.connect(files_url)
    register(db)
    series = db.new("TimeSeries", KEY[1:])
    series._chunk_folder = f"/timeseries_chunks{KEY[1:]}"  # as it was until 0.9.0
    series.replace(history(2000))
    assert db.ls("/timeseries_chunksprices/BTC")
    assert_same(read_anew(files_url), history(2000))
    time_series(db, KEY).replace(history(1000, price=200))
    assert (read_anew(files_url)["mid"] == 200).sum() == 1000
    time_series(db, KEY).delete()
    assert not db.ls("/timeseries_chunksprices/BTC") and not db.ls(f"/timeseries_chunks{KEY}")


@pytest.mark.slow
def test_a_reader_imports_only_what_a_reader_needs():
    code = (
        "import sys, ml.timeseries; "
        "print({'requests', 'tenacity', 'tensorflow', 'scipy', 'botocore', 'redis'} & set(sys.modules) or 'nothing')"
    )
    path = str(Path(timeseries.__file__).parents[1])
    done = subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": path}, capture_output=True, text=True)
    assert done.stdout.strip() == "nothing", done.stdout + done.stderr
