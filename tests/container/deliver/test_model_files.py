import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from injected import CONTAINER
from ml.deliver.model_files import h5_content, save_model
from ml.errors import UserError
from ml.learn.network import build_network
from ml.settings import Settings
from small_disks import mounted

LOOKBACK = 30
FORMS = ["1", "btc.h5", "model.keras"]
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
IN_ANOTHER_KERAS = """
import sys
import numpy as np
import tensorflow as tf
try:
    import keras
except ImportError:
    keras = tf.keras
print(keras.__version__)
for number in sys.argv[2:]:
    data = np.load(f"{sys.argv[1]}/{number}/data.npz")
    for file in ("btc.h5", "model.keras"):
        model = keras.models.load_model(f"{sys.argv[1]}/{number}/{file}")
        np.testing.assert_allclose(model.predict(data["windows"], verbose=0), data["expected"], atol=1e-6)
"""
NETWORKS = [(1, 0.0, False), (2, 0.2, True), (5, 0.3, True)]  # layers, dropout, centred


@pytest.fixture(scope="module")
def model():
    return build_network(Settings(lookback=LOOKBACK, nodes=16))


def saved(model, folder, **records):
    save_model(model, h5_content(model), folder, "btc.h5", records)


@pytest.mark.slow
def test_all_three_forms_agree_in_a_fresh_process(model, tmp_path):
    rng = np.random.default_rng(0)
    prices = 10_000_000 + rng.integers(0, 50, (40, LOOKBACK)).astype(float)
    prices[0] = 10_000_000  # a flat window
    low, high = prices.min(axis=1, keepdims=True), prices.max(axis=1, keepdims=True)
    windows = np.divide(prices - low, high - low, out=np.zeros_like(prices), where=high > low)
    saved(model, tmp_path / "model")
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


# Readers with another Keras


@pytest.fixture(scope="session")
def environments():
    """A folder outside the repository for environments of other versions, kept from run to run."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "position-trainer-tests"
    cache.mkdir(parents=True, exist_ok=True)
    return cache


def installed(target: Path, install) -> Path:
    """The target, made by `install` in a folder that gets its name once it is whole."""
    if not target.exists():
        making = target.with_name(f"{target.name}.{os.getpid()}")
        try:
            install(making)
            making.rename(target)
        except subprocess.CalledProcessError as error:
            pytest.skip(f"pip cannot install {target.name} here: {error.stderr.strip().splitlines()[-1]}")
        finally:
            shutil.rmtree(making, ignore_errors=True)
    return target


def command(*arguments):
    subprocess.run(arguments, check=True, capture_output=True, text=True)


def python_of(version: str, environments: Path) -> tuple[str | Path, dict[str, str]]:
    """A Python and its environment variables with that Keras; Keras 3 runs on the TensorFlow that is here."""
    if version == "2.15":
        target = environments / "keras-2.15"

        def keras_2(folder):
            command(sys.executable, "-m", "venv", folder)
            command(folder / "bin/python", "-m", "pip", "install", "-q", "tensorflow-cpu==2.15.1", "numpy<2")

        return installed(target, keras_2) / "bin/python", {}

    def keras_3(folder):
        command(sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", folder, f"keras=={version}")

    return sys.executable, {"PYTHONPATH": str(installed(environments / f"keras-{version}", keras_3))}


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """Every kind of network, saved, with windows and what it makes of them."""
    base = tmp_path_factory.mktemp("networks")
    windows = np.random.default_rng(0).random((50, LOOKBACK)).astype(np.float32)
    for number, (layers, dropout, centred) in enumerate(NETWORKS):
        model = build_network(Settings(lookback=LOOKBACK, nodes=16, layers=layers, dropout=dropout, centred=centred))
        saved(model, base / str(number))
        np.savez(base / str(number) / "data.npz", windows=windows, expected=model.predict(windows, verbose=0))
    return base


@pytest.mark.slow
@pytest.mark.parametrize("version", ["2.15", "3.3.3", "3.10.0", "3.14.0", "3.15.1"])
def test_readers_with_an_older_keras_load_the_same_model(networks, environments, version):
    python, variables = python_of(version, environments)
    done = subprocess.run(
        [python, "-c", IN_ANOTHER_KERAS, networks, *map(str, range(len(NETWORKS)))],
        env=os.environ | {"PYTHONPATH": ""} | variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith(version)


def test_an_h5_names_only_what_every_keras_knows(model):
    assert h5_content(model) == h5_content(model), "the same model must be the same version in KYDB"
    with h5py.File(io.BytesIO(h5_content(model))) as file:
        config = json.loads(file.attrs["model_config"])
        assert "optimizer_weights" not in file
    assert config["config"]["layers"][0]["config"] == {
        "name": "normalised_window",
        "dtype": "float32",
        "batch_input_shape": [None, LOOKBACK],
    }
    known = {"name", "dtype", "units", "activation", "rate", "scale", "offset"}
    assert all(layer["config"].keys() <= known for layer in config["config"]["layers"][1:])


# All or nothing


def test_saving_again_replaces_and_leaves_nothing_else(tmp_path):
    for seed in (1, 2):
        saved(build_network(Settings(lookback=LOOKBACK, nodes=16, seed=seed)), tmp_path, **{"job.json": {"seed": seed}})
    assert sorted(path.name for path in tmp_path.iterdir()) == [*FORMS[:2], "job.json", "model.keras"]
    assert json.loads((tmp_path / "job.json").read_text()) == {"seed": 2}


def test_a_save_that_fails_leaves_the_model_that_was_there(model, tmp_path, monkeypatch):
    saved(model, tmp_path)
    before = (tmp_path / "btc.h5").read_bytes()
    monkeypatch.setattr("ml.deliver.model_files._saved_model", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(UserError, match="cannot be saved in .* free: OSError: disk full"):
        saved(build_network(Settings(lookback=LOOKBACK, nodes=16, seed=9)), tmp_path)
    assert (tmp_path / "btc.h5").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == FORMS


SWEEP = """
import hashlib, json, os, sys
from pathlib import Path
from ml.deliver.model_files import h5_content, save_model
from ml.errors import UserError
from ml.learn.network import build_network
from ml.settings import Settings

def digest():
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "filler")
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}

folder = Path(sys.argv[1])
models = [build_network(Settings(lookback=60, nodes=64, seed=seed)) for seed in (1, 2)]
for leave in map(int, sys.argv[2:]):
    (folder / "filler").unlink(missing_ok=True)
    save_model(models[0], h5_content(models[0]), folder, "btc.h5", {"job.json": {"seed": 1}})
    before = digest()
    free = os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize
    (folder / "filler").write_bytes(bytes(max(0, free - leave)))
    try:
        save_model(models[1], h5_content(models[1]), folder, "btc.h5", {"job.json": {"seed": 2}})
        told = ""
    except UserError as error:
        told = str(error)
    after = digest()
    whole = after == before if told else after.keys() == before.keys() and all(after[n] != before[n] for n in after)
    print(json.dumps({"leave": leave, "told": told, "whole": whole, "names": sorted(after)}), flush=True)
"""


@pytest.mark.slow
def test_however_little_is_left_of_a_disk_the_model_is_the_old_one_or_the_new_one(tmp_path):
    # In a process of its own, since HDF5 used to crash it. The files take about 280 KB.
    points = [4096 * pages for pages in (*range(0, 24, 2), *range(24, 100, 5))]
    with mounted(tmp_path / "model", "-o", "size=2m") as folder:
        done = subprocess.run(
            [sys.executable, "-c", SWEEP, folder, *map(str, points)],
            env=os.environ | {"PYTHONPATH": str(CONTAINER)},
            capture_output=True,
            text=True,
            check=False,
        )
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, (results[-1:], done.stderr[-1000:])
    assert [result["leave"] for result in results] == points and len(points) > 20
    assert all(result["whole"] for result in results), [result for result in results if not result["whole"]]
    told = [result["told"] for result in results]
    assert told[0] and not told[-1], "the sweep must go from nothing left to enough"
    assert all("\n" not in text and ("No space left" in text or not text) for text in told)
