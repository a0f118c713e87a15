"""Predicting with, and publishing, models wherever they lie: a job, a folder, an archive, a key of KYDB."""

import json
import shutil
import tarfile

import kydb
import numpy as np
import pandas as pd
import pytest

from launching import Launcher
from ml.data.sample_market import sample_market
from ml.databases import connect
from ml.deliver.publishing import version_key
from models import model_files, path_of_model

pytestmark = pytest.mark.slow

LOOKBACK = 30


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A launcher with one small real job, and new prices."""
    folder = tmp_path_factory.mktemp("trained")
    launch = Launcher(folder)
    url = f"files:/{folder / 'kydb'}"
    settings = {"lookback": LOOKBACK, "nodes": 8, "epochs": 1, "model_db": url, "model_key": "/models/m.h5"}
    options = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    sample_market(rows=4000, seed=3)[["mid"]].to_parquet(folder / "old.parquet")
    sample_market(rows=500, seed=4)[["mid"]].to_parquet(folder / "new.parquet")
    launch("train", "--name", "one", "--prices", folder / "old.parquet", *options)
    model = launch.runs / "one" / "model"
    with tarfile.open(folder / "model.tar.gz", "w:gz") as archive:
        for path in model.iterdir():
            archive.add(path, path.name)
    return launch, folder, url


def predict(trained, out, *arguments, expect=0):
    launch, folder, _ = trained
    prices = [] if "--set" in arguments or "--prices" in arguments else ["--prices", folder / "new.parquet"]
    return launch("predict", *arguments, *prices, "--out", out, *(["--json"] if not expect else []), expect=expect)


def test_every_form_of_a_model_takes_the_same_positions(trained, tmp_path):
    launch, folder, url = trained
    forms = {
        "job": ["one"],
        "folder": [launch.runs / "one" / "model"],
        "archive": [folder / "model.tar.gz"],
        "key": ["/models/m.h5", "--model-db", url],
    }
    found = {}
    for name, arguments in forms.items():
        said = json.loads(predict(trained, tmp_path / f"{name}.parquet", *arguments))
        frame = found[name] = pd.read_parquet(tmp_path / f"{name}.parquet")
        assert said["Rows"] == len(frame) == 500 - LOOKBACK + 1
        assert said["Position"] == frame["position"].iloc[-1]
        assert set(frame["position"]) <= {-1, 1}
        assert ((frame["probability"] > 0.5) == (frame["position"] > 0)).all()
    prices = pd.read_parquet(folder / "new.parquet")
    assert found["job"].index[-1] == prices.index[-1] or str(found["job"].index[-1]) == str(prices.index[-1])
    for name in ("folder", "archive", "key"):
        np.testing.assert_allclose(found[name]["probability"], found["job"]["probability"], atol=1e-6)


def test_the_last_bar_is_told(trained, tmp_path):
    launch, folder, _ = trained
    out = launch("predict", "one", "--prices", folder / "new.parquet", "--out", tmp_path / "p.parquet")
    first, second = out.splitlines()
    assert "probability of buy 0." in first and (": long (+1)" in first or ": short (-1)" in first)
    assert second == f"positions: {tmp_path}/p.parquet (471 bars)"


def test_too_few_prices_are_refused_with_both_numbers(trained, tmp_path):
    sample_market(rows=20, seed=4)[["mid"]].to_csv(tmp_path / "few.csv", index_label="dt")
    told = predict(trained, tmp_path / "p.parquet", "one", "--prices", tmp_path / "few.csv", expect=1)
    assert told == "error: there are 20 prices, and the model takes 30 for one position\n"
    assert not (tmp_path / "p.parquet").exists()


def test_prices_come_from_kydb_where_no_file_is_named(trained, tmp_path):
    launch, folder, _ = trained
    from ml.timeseries import time_series

    db = kydb.connect(f"files:/{tmp_path / 'prices'}")
    time_series(db, "/p").replace(pd.read_parquet(folder / "new.parquet"))
    arguments = ["one", "--set", f"prices_db=files:/{tmp_path / 'prices'}", "--set", "prices_key=/p"]
    assert json.loads(predict(trained, tmp_path / "p.parquet", *arguments))["Rows"] == 471
    told = launch("predict", "one", "--out", tmp_path / "p.parquet", expect=1)
    assert told == "error: there are no prices; give --prices FILE or --set prices_db=URL\n"


def test_a_file_that_nobody_named_is_not_replaced(trained, tmp_path, monkeypatch):
    launch, folder, _ = trained
    monkeypatch.chdir(tmp_path)
    (tmp_path / "positions.parquet").write_text("mine")
    told = launch("predict", "one", "--prices", folder / "new.parquet", expect=1)
    assert "positions.parquet is there already" in told
    assert (tmp_path / "positions.parquet").read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["./nothing"], "there is no model at nothing"),
        (["/none.h5", "--model-db", "files:///tmp/nowhere"], "there is no model /none.h5 in files:///tmp/nowhere"),
        (["nobody", "--on", "local"], "there is no job nobody"),
    ],
    ids=["path", "key", "job"],
)
def test_a_model_that_is_not_there_is_told_in_a_line(trained, tmp_path, arguments, told):
    out = predict(trained, tmp_path / "p.parquet", *arguments, expect=1)
    assert told in out and out.count("\n") == 1


def test_packages_that_are_missing_are_named(trained, monkeypatch, tmp_path):
    import predict as module
    from ml.errors import UserError

    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None if name == "tensorflow" else name)
    with pytest.raises(UserError, match=r"predict needs tensorflow, .*: pip install -r requirements.txt"):
        module.ask_model(folder=tmp_path, model=None, prices=[], settings={}, out=tmp_path / "p.parquet")


@pytest.mark.parametrize("form", ["model.tar.gz", "runs/one", "runs/one/model"])
def test_a_folder_or_an_archive_is_published(trained, tmp_path, form):
    launch, folder, _ = trained
    url = f"files:/{tmp_path / 'kydb'}"
    said = json.loads(launch("publish", folder / form, "--model-db", url, "--json"))
    assert said == {"TrainingJobName": "one", "ModelDb": url, "ModelKey": "/models/m.h5", "File": str(folder / form)}
    content = (launch.runs / "one" / "model" / "m.h5").read_bytes()
    assert kydb.connect(url)["/models/m.h5"] == content
    record = json.loads(kydb.connect(url)[f"{version_key('/models/m.h5', content)}.json"])
    assert record["lookback"] == LOOKBACK and record["horizon"] == 300 and len(record["data_sha256"]) == 64
    assert record["verdict"] == launch.record("one", "model/metrics.json")["performance"]["verdict"]


def test_a_model_of_another_lookback_is_replaced_only_when_that_is_asked_for(trained, tmp_path):
    launch, url = trained[0], f"files:/{tmp_path / 'kydb'}"
    connect(url)["/models/m.h5"] = b"\x89HDF\r\n\x1a\n" + b'{"batch_input_shape": [null, 1440]}'
    refused = launch("publish", "one", "--model-db", url, expect=1)
    assert "holds a model that takes 1440 prices" in refused
    launch("publish", "one", "--model-db", url, "--replace-lookback")
    assert connect(url).read("/models/m.h5", reload=True) == (launch.runs / "one" / "model" / "m.h5").read_bytes()


def test_a_model_whose_record_is_damaged_is_refused_and_not_taken_for_one_without_settings(trained, tmp_path):
    launch = trained[0]
    model = shutil.copytree(launch.runs / "one" / "model", tmp_path / "model")
    record = (model / "job.json").read_text()
    (model / "job.json").write_text(record[: len(record) // 2])
    url = f"files:/{tmp_path / 'kydb'}"
    for told in (
        predict(trained, tmp_path / "p.parquet", model, expect=1),
        launch("publish", model, "--model-db", url, "--model-key", "/models/m.h5", expect=1),
    ):
        assert told.startswith(f"error: {model}/job.json is damaged and cannot be read: ") and told.count("\n") == 1
    assert not (tmp_path / "p.parquet").exists() and not (tmp_path / "kydb").exists()
    (model / "job.json").unlink()
    launch("publish", model, "--model-db", url, "--model-key", "/models/m.h5")


def test_an_archive_that_is_none_is_told(trained, tmp_path):
    launch = trained[0]
    (tmp_path / "model.tar.gz").write_bytes(b"no archive")
    told = launch("publish", tmp_path / "model.tar.gz", "--model-db", "files:///tmp/x", expect=1)
    assert told.startswith("error: model.tar.gz is no whole archive: ") and told.count("\n") == 1


def test_names_of_jobs_are_told_from_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("runs/both", "both", "only-here"):
        (tmp_path / folder).mkdir(parents=True)
    runs = tmp_path / "runs"
    assert path_of_model("both", runs) is None
    assert path_of_model("a-job", runs) is None
    for text in ("only-here", "./both", "model.tar.gz", "/somewhere/else"):
        assert str(path_of_model(text, runs)) == str(type(runs)(text))


def test_an_archive_inside_a_folder_is_found(trained):
    with model_files(trained[1]) as folder:  # which has model.tar.gz beside other things
        assert (folder / "metrics.json").is_file()
