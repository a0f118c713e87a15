"""Looks at a test part are counted wherever jobs see each other, and counting never costs a job its result."""

import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest

from ml.databases import connect
from ml.deliver.looks import TUNED_FOR, count_look, looker_of, looks_key

KEY = "/ml/models/m.h5"


def rows(first=100.0, count=50):
    times = pd.date_range("2024-01-01", periods=count, freq="min", tz="UTC")
    return pd.DataFrame({"mid": first + np.arange(count), "position": 1.0}, times)


def look(looker, part, folder=None, url=""):
    return count_look(part, looker, folder, url, KEY, 5)


def test_looks_at_the_same_rows_are_counted_by_who_looks(tmp_path):
    first = look("a", rows(), tmp_path)
    assert (first["looks"], first["look"]) == (1, "This is the first look at this test part.")
    assert look("a", rows().assign(position=-1.0), tmp_path) == first  # the same job again, and other labels
    assert look("b", rows(101.0), tmp_path)["looks"] == 1
    assert look("b", rows(), tmp_path)["look"].startswith("This is the 2nd look at this test part, after a: what was")
    for other in "cde":
        last = look(other, rows(), tmp_path)
    assert last["looks"] == 5 and "5th look at this test part, after a, b, c and 1 more:" in last["look"]


def test_looks_in_kydb_and_in_a_folder_are_counted_together(tmp_path, files_url):
    look("a", rows(), url=files_url)
    look("b", rows(), tmp_path)
    assert look("c", rows(), tmp_path, files_url)["look"].startswith(
        "This is the 3rd look at this test part, after a and b"
    )
    assert look("d", rows(), url=f"memory://looks;{files_url}")["looks"] == 1  # a union writes into its first


def test_jobs_that_look_at_the_same_time_lose_no_look(files_url):
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: look(f"job-{number}", rows(), url=files_url), range(4)))
    assert look("last", rows(), url=files_url)["looks"] == 5


def test_a_place_that_refuses_is_told_and_costs_nothing(tmp_path, files_url, capsys):
    (tmp_path / "occupied").write_text("")
    damaged = connect(files_url)
    damaged.set_raw(damaged._get_full_path(looks_key(KEY)), pickle.dumps("[")[:-1])
    found = look("a", rows(), tmp_path / "occupied", files_url)
    assert found["looks"] is None and found["look"].startswith("Looks at this test part are not counted")
    told = capsys.readouterr().out
    assert f"not recorded in {tmp_path}/occupied: NotADirectoryError" in told and "is damaged" in told


@pytest.mark.parametrize("trial", ["search-007", "search-1234", "search-007-0a1b2c3d"])
def test_the_trials_of_a_search_look_once(trial):
    assert looker_of(trial, {TUNED_FOR: "val_loss"}) == "search"
    assert looker_of(trial, {"lookback": "60"}) == trial
    assert looker_of("../up", {}) == "..-up"
