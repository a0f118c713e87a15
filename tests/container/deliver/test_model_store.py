import json
import math
import re
import subprocess
import sys

import h5py
import kydb
import numpy as np
import pytest

from ml.deliver.model_store import ModelTarget, library_versions, publish, save_model
from ml.errors import UserError
from ml.files import write_json
from ml.learn.network import build_network
from ml.settings import PRESETS, Settings

LOOKBACK = 30
IN_A_FRESH_PROCESS = """
import sys
import numpy as np, keras, tensorflow as tf
folder, file = sys.argv[1:]
data = np.load(file)
served = tf.saved_model.load(folder + "/1").signatures
np.savez(file + ".out.npz",
    keras=keras.saving.load_model(folder + "/model.keras").predict(data["windows"], verbose=0),
    h5=keras.saving.load_model(folder + "/btc.h5").predict(data["windows"], verbose=0),
    raw64=next(iter(served["serving_default"](tf.constant(data["prices"])).values())),
    raw32=next(iter(served["serving_float32"](tf.constant(data["prices"].astype("float32"))).values())))
"""


@pytest.fixture
def model():
    return build_network(Settings(lookback=LOOKBACK, nodes=16))


@pytest.fixture
def h5_bytes(model, tmp_path):
    return save_model(model, tmp_path / "saved", "btc.h5").read_bytes()


@pytest.mark.slow
def test_all_three_forms_agree_in_a_fresh_process(model, tmp_path):
    rng = np.random.default_rng(0)
    prices = 10_000_000 + rng.integers(0, 50, (40, LOOKBACK)).astype(float)
    prices[0] = 10_000_000  # a flat window
    low, high = prices.min(axis=1, keepdims=True), prices.max(axis=1, keepdims=True)
    windows = np.divide(prices - low, high - low, out=np.zeros_like(prices), where=high > low)
    save_model(model, tmp_path / "model", "btc.h5")
    np.savez(tmp_path / "data.npz", prices=prices, windows=windows.astype(np.float32))
    subprocess.run(
        [sys.executable, "-c", IN_A_FRESH_PROCESS, tmp_path / "model", tmp_path / "data.npz"],
        check=True,
        capture_output=True,
    )
    results = np.load(tmp_path / "data.npz.out.npz")
    expected = model(windows.astype(np.float32), training=False).numpy()
    for form in ("keras", "h5", "raw64", "raw32"):
        np.testing.assert_allclose(results[form], expected, atol=1e-5, err_msg=form)
    np.testing.assert_allclose(results["h5"].sum(axis=1), 1, rtol=1e-6)


def test_saving_again_replaces_and_leaves_nothing_else(model, tmp_path):
    for seed in (1, 2):
        save_model(build_network(Settings(lookback=LOOKBACK, nodes=16, seed=seed)), tmp_path, "btc.h5")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "btc.h5", "model.keras"]
    with h5py.File(tmp_path / "btc.h5") as file:
        assert "model_weights" in file and "optimizer_weights" not in file


def test_a_save_that_fails_leaves_the_model_that_was_there(model, tmp_path, monkeypatch):
    save_model(model, tmp_path, "btc.h5")
    before = (tmp_path / "btc.h5").read_bytes()
    monkeypatch.setattr("ml.deliver.model_store._export", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(UserError, match="cannot be saved in .* free: OSError: disk full"):
        save_model(build_network(Settings(lookback=LOOKBACK, nodes=16, seed=9)), tmp_path, "btc.h5")
    assert (tmp_path / "btc.h5").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "btc.h5", "model.keras"]


def test_json_has_null_where_there_is_no_number(tmp_path):
    write_json(tmp_path / "new" / "metrics.json", {"a": [1.5, math.nan, {"b": -math.inf}], "c": "nan"})
    assert json.loads((tmp_path / "new/metrics.json").read_text()) == {"a": [1.5, None, {"b": None}], "c": "nan"}


def test_library_versions_name_what_computes():
    assert {"python", "keras", "numpy", "kydb"} <= set(library_versions())


def test_a_published_model_is_the_files_bytes(h5_bytes, tmp_path):
    url = f"files:/{tmp_path}/kydb"
    target = ModelTarget(url, "/ml/models/btc.h5", "job-1")
    target.check(Settings())
    assert target.publish(h5_bytes, patience=0)
    assert kydb.connect(url).read("/ml/models/btc.h5", reload=True) == h5_bytes
    assert kydb.connect(url).ls("/ml/models") == ["btc.h5"], "the probe or a temporary key was left behind"
    left = kydb.connect(url).ls("/model_versions/ml/models/btc.h5")
    assert not [name for name in left if "probe" in name]


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
def test_what_an_h5_file_adds_to_its_weights_is_counted(tmp_path, nodes, layers):
    settings = Settings(lookback=60 if layers == 20 else 240, nodes=nodes, layers=layers)
    save_model(build_network(settings), tmp_path, "btc.h5")
    assert 4 * settings.weights < 400_000 < (size := (tmp_path / "btc.h5").stat().st_size)
    with pytest.raises(UserError, match="does not fit a DynamoDB item") as told:
        ModelTarget("dynamodb://models", "/m.h5", "job-1").check(settings)
    assert float(re.search(r"about (.+?) MB", str(told.value)).group(1)) == pytest.approx(size / 1e6, abs=0.05)


def test_a_model_too_large_for_dynamodb_is_told_before_training():
    with pytest.raises(UserError, match=r"10\.1 MB, does not fit a DynamoDB item"):
        ModelTarget("dynamodb://models", "/m.h5", "job-1").check(Settings(**PRESETS["original"]))
