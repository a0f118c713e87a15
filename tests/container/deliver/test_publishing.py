import json
import re
from pathlib import Path

import kydb
import pytest

from injected import failing_calls
from ml.databases import connect
from ml.deliver.model_files import h5_content
from ml.deliver.publishing import ModelTarget, description, lookback_of, publish, version_key
from ml.deliver.results import job_record, metrics_of
from ml.errors import UserError
from ml.hyperparameters import parse_settings
from ml.learn.network import build_network
from ml.settings import PRESETS, Settings

KEY = "/ml/models/btc.h5"
MAGIC = b"\x89HDF\r\n\x1a\n"
DATA = {"rows": 10, "first": "", "last": "", "gaps": {}, "buy_share": 0.5, "train_rows": 8, "validation_rows": 2}
RECORD = job_record(job="job-1", instance_type="", settings=Settings(lookback=30), data=DATA | {"sha256": "5a"})
METRICS = metrics_of(job="job-1", history=[{"loss": 0.5}], best_epoch=1)
METRICS["performance"] = {"verdict": "The model has skill."}


@pytest.fixture(scope="module")
def h5_bytes():
    return h5_content(build_network(Settings(lookback=30, nodes=16)))


def model_of(lookback, name=b""):
    """Bytes that say of themselves what an .h5 file says."""
    return MAGIC + b'... "batch_input_shape": [null, %d] ...' % lookback + name


def stored_file(folder, key):
    return Path(f"{folder}/kydb{key}")


def test_a_published_model_is_the_files_bytes(h5_bytes, tmp_path):
    url = f"files:/{tmp_path}/kydb"
    target = ModelTarget(url, "/ml/models/btc.h5", "job-1")
    target.check(Settings())
    assert target.publish(h5_bytes, Settings(publish_seconds=0), description(RECORD, METRICS))
    assert kydb.connect(url).read("/ml/models/btc.h5", reload=True) == h5_bytes
    assert kydb.connect(url).ls("/ml/models") == ["btc.h5"], "the probe or a temporary key was left behind"
    left = kydb.connect(url).ls("/model_versions/ml/models/btc.h5")
    assert not [name for name in left if "probe" in name]


def test_the_longest_key_can_be_published_to(files_url):
    key = "/".join(["x" * 180] * 4) + "/" + "é" * 36 + ".h5"
    assert len(parse_settings({"model_key": key}).model_key.encode()) == 799
    ModelTarget(files_url, key, "j" * 63).check(Settings())
    publish(files_url, key, MAGIC, "j" * 63, patience=0)
    assert connect(files_url).read(key, reload=True) == MAGIC


def test_what_is_no_model_is_not_published(tmp_path):
    url = f"files:/{tmp_path}/kydb"
    with pytest.raises(UserError, match="not an HDF5 file"):
        publish(url, "/m.h5", b"\x80\x04 a pickle", "job-1")
    assert not kydb.connect(url).exists("/m.h5")


def test_a_target_that_cannot_be_written_is_told_before_training(tmp_path):
    (tmp_path / "kydb").write_text("a file where the folder should be")
    with pytest.raises(UserError, match=r"cannot be published to files:.*/m\.h5: .*grant this job"):
        ModelTarget(f"files:/{tmp_path}/kydb", "/m.h5", "job-1").check(Settings(read_seconds=0))


def test_a_database_that_refuses_versions_is_told_before_training(tmp_path):
    (tmp_path / "kydb").mkdir()
    (tmp_path / "kydb" / "model_versions").write_text("a file where the folder should be")
    with pytest.raises(UserError, match="grant this job write and read access there and under /model_versions"):
        ModelTarget(f"files:/{tmp_path}/kydb", "/m.h5", "job-1").check(Settings(read_seconds=0))


@pytest.mark.parametrize(("nodes", "layers"), [(216, 2), (128, 5), (64, 20)])
def test_what_an_h5_file_adds_to_its_weights_is_counted(nodes, layers):
    settings = Settings(lookback=60 if layers == 20 else 240, nodes=nodes, layers=layers)
    size = len(h5_content(build_network(settings)))
    assert 4 * settings.weights < 400_000 < size
    with pytest.raises(UserError, match="does not fit a DynamoDB item") as told:
        ModelTarget("dynamodb://models", "/m.h5", "job-1").check(settings)
    assert float(re.search(r"about (.+?) MB", str(told.value)).group(1)) == pytest.approx(size / 1e6, abs=0.05)


def test_a_model_too_large_for_dynamodb_is_told_before_training():
    with pytest.raises(UserError, match=r"10\.1 MB, does not fit a DynamoDB item"):
        ModelTarget("dynamodb://models", "/m.h5", "job-1").check(Settings(**PRESETS["original"]))


# Who published what, and for whom


def test_the_record_of_a_version_says_what_the_model_takes_and_is_worth(h5_bytes, files_url):
    publish(files_url, KEY, h5_bytes, "job-1", about=description(RECORD, METRICS))
    record = json.loads(connect(files_url).read(f"{version_key(KEY, h5_bytes)}.json", reload=True))
    assert record.pop("published").startswith("20")
    assert record == {
        "job": "job-1",
        "bytes": len(h5_bytes),
        "lookback": 30,
        "centred": True,
        "horizon": 300,
        "verdict": "The model has skill.",
        "publication": None,
        "rows": 10,
        "last": "",
        "data_sha256": "5a",
        "measured_sha256": None,
        "project_version": "0.9.0",
    }


def test_an_h5_file_says_how_many_prices_it_takes(h5_bytes, tmp_path):
    assert lookback_of(h5_bytes) == 30
    build_network(Settings(lookback=1440, nodes=4, layers=1)).save(tmp_path / "keras.h5")
    assert lookback_of((tmp_path / "keras.h5").read_bytes()) == 1440
    assert lookback_of(MAGIC) is None


@pytest.mark.parametrize("by", ["a job", "another program"])
def test_a_model_of_another_lookback_is_refused_before_training_and_when_published(files_url, by):
    before = model_of(1440)
    if by == "a job":
        publish(files_url, KEY, before, "monday")
    else:
        connect(files_url)[KEY] = before
    message = r"holds a model that takes 1440 prices, and this one takes 240, .*set lookback=1440, or another model_key"
    target = ModelTarget(files_url, KEY, "tuesday")
    with pytest.raises(UserError, match=message):
        target.check(Settings(lookback=240))
    with pytest.raises(UserError, match=message):
        publish(files_url, KEY, model_of(240), "tuesday", patience=0)
    assert connect(files_url).read(KEY, reload=True) == before
    assert connect(files_url).ls("/ml/models") == ["btc.h5"], "the probe was left behind"
    target.check(Settings(lookback=1440))
    target.check(Settings(lookback=240, replace_lookback=True))
    publish(files_url, KEY, model_of(240), "tuesday", patience=0, replace_lookback=True)
    assert connect(files_url).read(KEY, reload=True) == model_of(240)
    assert connect(files_url).read(version_key(KEY, before), reload=True) == before


# Damage


@pytest.mark.parametrize("left", [b"", bytes(5000), "half"], ids=["empty", "zeros", "half"])
def test_a_model_damaged_by_a_loss_of_power_is_named_kept_and_replaced(files_url, tmp_path, capsys, left):
    publish(files_url, KEY, model_of(240, b"monday"), "monday")
    path = stored_file(tmp_path, KEY)
    raw = path.read_bytes()[:40] if left == "half" else left
    path.write_bytes(raw)
    ModelTarget(files_url, KEY, "tuesday").check(Settings(read_seconds=0))
    publish(files_url, KEY, model_of(240, b"tuesday"), "tuesday", patience=0)
    db = connect(files_url)
    assert db.read(KEY, reload=True) == model_of(240, b"tuesday")
    assert f"{KEY} in {files_url} is damaged, " in capsys.readouterr().out
    assert not raw or db.read(f"{version_key(KEY, raw)}.damaged", reload=True) == raw


def test_a_damaged_version_is_written_again_from_the_model(files_url, tmp_path):
    monday = model_of(240, b"monday")
    publish(files_url, KEY, monday, "monday")
    for name in (version_key(KEY, monday), f"{version_key(KEY, monday)}.json"):
        stored_file(tmp_path, name).write_bytes(b"")
    publish(files_url, KEY, model_of(240, b"tuesday"), "tuesday", patience=0)
    db = connect(files_url)
    assert db.read(version_key(KEY, monday), reload=True) == monday
    assert json.loads(db.read(f"{version_key(KEY, monday)}.json", reload=True))["lookback"] == 240


def test_an_object_of_an_unknown_class_is_not_published_over(files_url, tmp_path):
    connect(files_url)[KEY] = b"x"
    stored_file(tmp_path, KEY).write_bytes(b"cno_such_module\nThing\n.")
    with pytest.raises(UserError, match="holds an object of a class that is not here") as told:
        ModelTarget(files_url, KEY, "job-1").check(Settings(read_seconds=0))
    assert "grant" not in str(told.value)
    with pytest.raises(UserError, match="set model_key to another key"):
        publish(files_url, KEY, model_of(240), "job-1", patience=0)


PUBLISH = f"""
import sys
from ml.deliver.publishing import publish
from ml.errors import UserError
try:
    publish(f"files:/{{sys.argv[1]}}", {KEY!r}, {model_of(240, b"new")!r}, "new", patience=0)
except UserError as error:
    sys.exit(str(error))
"""


@pytest.mark.slow
def test_any_call_that_fails_while_publishing_leaves_the_old_model_or_the_new_one(tmp_path, monkeypatch):
    folder, url = tmp_path / "kydb", f"files:/{tmp_path}/kydb"
    old, new = model_of(240, b"old"), model_of(240, b"new")

    def prepare():
        publish(url, KEY, old, "old")
        db = connect(url)
        for name in (version_key(KEY, new), f"{version_key(KEY, new)}.json"):
            if db.exists(name):
                db.delete(name)

    runs = 0
    for call, code, _, errors in failing_calls(PUBLISH, folder, prepare):
        runs += 1
        db = connect(url)
        assert db.read(KEY, reload=True) in ((old, new) if code else (new,)), call
        assert db.read(version_key(KEY, old), reload=True) == old, call
        assert code == 0 or (errors.startswith("publishing to ") and errors.count("\n") == 1), (call, errors)
        assert not list(folder.rglob("*.writing-*")), call
    assert runs > 10
