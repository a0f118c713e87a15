"""Nights in a row, each a real job: relative dates, and a publication that a bad night does not get through."""

import json
from datetime import datetime, timedelta, timezone

import kydb
import pandas as pd
import pytest

from job_folder import SMALL, JobFolder
from ml.data.sample_market import sample_market

pytestmark = pytest.mark.slow

KEY = "/ml/models/fx_btc_jpy_model.h5"
NIGHT = SMALL | {"horizon": 60, "validation_fraction": 0.4, "tensorboard": "false", "epochs": 1}


@pytest.fixture(scope="module")
def market():
    """Minutely prices that end yesterday."""
    frame = sample_market(rows=20_000, seed=1)
    end = pd.Timestamp.now(tz="UTC").normalize() - pd.Timedelta(minutes=1)
    return frame.set_axis(pd.date_range(end=end, periods=len(frame), freq="min", name="dt"))


def night(tmp_path, name, channel, **settings):
    """A job that ended well."""
    job = JobFolder(tmp_path / name, NIGHT | settings, channel={"prices.parquet": channel.reset_index()})
    assert job.run(TRAINING_JOB_NAME=name) == 0, job.errors
    return job


def published_by(url):
    """The job whose model is under the key."""
    db = kydb.connect(url)
    versions = {name.removesuffix(".json") for name in db.ls(f"/model_versions{KEY}")}
    records = {name: json.loads(db[f"/model_versions{KEY}/{name}.json"]) for name in versions}
    (current,) = [record for name, record in records.items() if db[f"/model_versions{KEY}/{name}"] == db[KEY]]
    return current


def test_a_night_replaces_the_model_only_where_publish_if_lets_it(tmp_path, files_url, market):
    first = night(tmp_path, "first", market, model_db=files_url, publish_if="better")
    assert first.metrics["publication"] == "there was no model under the key"
    record = published_by(files_url)
    assert (record["job"], record["publication"]) == ("first", "there was no model under the key")
    assert record["rows"] == json.loads((first.base / "model/job.json").read_text())["data"]["rows"]

    same = night(tmp_path, "same", market, model_db=files_url, publish_if="better", seed=1)
    assert same.metrics["published"] is False
    assert same.metrics["publication"].startswith("not worse, and not shown to be better: log-loss ")
    assert f"NOT PUBLISHED: {same.metrics['publication']}; the model is kept in model/" in same.output

    less = night(tmp_path, "less", market.iloc[len(market) // 3 :], model_db=files_url, publish_if="not_worse")
    assert less.metrics["publication"].endswith("prices are missing")

    assert published_by(files_url)["job"] == "first"

    allowed = night(tmp_path, "allowed", market, model_db=files_url, publish_if="not_worse", lookback=60)
    assert allowed.metrics["published"] is True
    assert allowed.metrics["publication"].startswith("not worse, and not shown")


def test_relative_dates_count_from_the_first_start_and_are_recorded_as_resolved(tmp_path, market):
    today = datetime.now(timezone.utc).replace(hour=0, minute=0, second=0, microsecond=0)
    settings = NIGHT | {"start_date": "-10d", "end_date": "-2d"}
    found = {}
    for name, first_day in (("new", None), ("again", today - timedelta(days=1))):
        job = JobFolder(tmp_path / name, settings, channel={"prices.parquet": market.reset_index()}, checkpoints=True)
        if first_day:
            (job.base / "checkpoints/one").mkdir()
            (job.base / "checkpoints/one/first_day.json").write_text(json.dumps({"day": str(first_day.date())}))
        assert job.run(TRAINING_JOB_NAME="one") == 0, job.errors
        record = json.loads((job.base / "model/job.json").read_text())
        found[name] = record
        day = first_day or today
        assert record["settings"]["start_date"] == str(day - timedelta(days=10))
        assert record["settings"]["end_date"][:10] == str((day - timedelta(days=2)).date())
        assert json.loads((job.base / "checkpoints/one/first_day.json").read_text()) == {"day": str(day.date())}
    assert found["new"]["data"]["sha256"] != found["again"]["data"]["sha256"]
