"""What SECURITY.md claims."""

import dataclasses
import hashlib
import io
import os
import pickle
import tarfile
import time

import keras
import numpy as np
import pytest

from job_folder import SMALL, JobFolder
from ml.learn.checkpoints import Checkpoint, CheckpointFolder
from ml.learn.network import build_network
from ml.settings import Settings
from place.docker import DockerPlace
from trainings import SMALL as TRAINING
from trainings import fit, silent, trainer_of

SECRET = "hunter2hunter2"


@pytest.mark.parametrize(
    "url",
    [
        f"redis://trader:{SECRET}@127.0.0.1:1/x",
        f"https://{SECRET}@example.org/x",
        f"files://tmp/x;redis://:{SECRET}@127.0.0.1:1/x",
        f"redis://trader:hunt/{SECRET}@127.0.0.1:1/x",
        f"redis:/trader:{SECRET}@",
        f"s3://bucket/x?token={SECRET}",
    ],
)
def test_credentials_in_a_kydb_url_are_refused_and_written_nowhere(launch, tmp_path, url):
    for name in ("prices_db", "model_db"):
        out = launch("train", "--name", "one", "--set", f"{name}={url}", expect=1)
        assert "must not hold a user name or password" in out
        job = JobFolder(tmp_path / name, SMALL | {name: url})
        assert job.run() == 1
        out += job.output + job.errors + job.failure
        job.base.joinpath("input/config/hyperparameters.json").unlink()  # where this test put it
        assert SECRET not in out
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or SECRET.encode() not in path.read_bytes(), path


class Runs:
    """What a pickle can do: make a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_a_checkpoint_with_pickled_objects_runs_nothing(tmp_path):
    folder = CheckpointFolder(tmp_path / "checkpoints", "job")
    folder.save(Checkpoint({}, {"step": 1}, {"weight_0": np.ones(2)}))
    folder.save(Checkpoint({}, {"step": 2}, {"weight_0": np.ones(2)}))
    newest = max((tmp_path / "checkpoints/job").iterdir())
    buffer = io.BytesIO()
    np.savez(
        buffer,
        weight_0=np.array([Runs(tmp_path / "ran")], object),
        _json=np.frombuffer(b'{"identity": {}, "progress": {}}', np.uint8),
    )
    newest.write_bytes(buffer.getvalue() + hashlib.sha256(buffer.getvalue()).hexdigest().encode())
    assert folder.load({}).progress == {"step": 1}
    assert not (tmp_path / "ran").exists()
    pickle.loads(pickle.dumps(Runs(tmp_path / "ran")))
    assert (tmp_path / "ran").exists(), "the test's own pickle does nothing"


@pytest.mark.parametrize("name", ["../outside", "model/../../outside"])
def test_a_member_of_an_archive_that_would_land_elsewhere_is_refused(tmp_path, name):
    archive = tmp_path / "model.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        member = tarfile.TarInfo(name)
        tar.addfile(member, io.BytesIO())
    with tarfile.open(archive) as opened, pytest.raises(tarfile.TarError):
        opened.extractall(tmp_path / "inside", filter="data")  # as aws.py does
    assert not (tmp_path / "outside").exists()


def test_a_models_file_is_loaded_in_safe_mode(tmp_path):
    build_network(Settings(lookback=20, nodes=8)).save(tmp_path / "model.keras")
    assert keras.saving.load_model(tmp_path / "model.keras", safe_mode=True).output_shape == (None, 2)


def test_containers_are_started_without_powers(tmp_path):
    place = DockerPlace(tmp_path)
    request = {"TrainingJobName": "one", "AlgorithmSpecification": {"TrainingImage": "position-trainer"}}
    command = " ".join(place._commands(request, place._hosts(tmp_path, request, ()))["Hosts"][0]["Command"])
    for fence in (
        "--read-only",
        "--tmpfs /tmp",
        "--cap-drop ALL",
        "--security-opt no-new-privileges",
        f"--user {os.getuid()}:{os.getgid()}",
    ):
        assert fence in command


# Checkpoints of a real training

DAMAGE = {
    "a missing array": lambda c: c.arrays.pop("weight_0"),
    "an array of another shape": lambda c: c.arrays.update(weight_0=np.ones(3, np.float32)),
    "an array of text": lambda c: c.arrays.update(weight_1=np.full(16, "a")),
    "a step beyond the epoch": lambda c: c.progress.update(step=10**6),
    "a count of another type": lambda c: c.progress.update(epoch="2"),
    "a history that is too short": lambda c: c.progress.update(history=[]),
    "an unknown counter": lambda c: c.progress.update(other=1),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_checkpoint_with_a_right_checksum_that_does_not_fit_is_passed_over(tmp_path, capsys, damage):
    folder = CheckpointFolder(tmp_path, "job")
    fit(checkpoints=folder)
    good = folder.load({})
    bad = Checkpoint(good.identity, dict(good.progress), dict(good.arrays))
    DAMAGE[damage](bad)
    folder.save(bad)
    _, result, lines = fit(checkpoints=folder)
    assert "is damaged" in capsys.readouterr().out
    assert len(result.history) == 3 and "resuming in epoch 4" in lines[0]


def test_checkpoints_take_at_most_a_hundredth_of_the_time(tmp_path, monkeypatch):
    spent = []
    save = CheckpointFolder.save

    def timed(folder, checkpoint):
        began = time.monotonic()
        save(folder, checkpoint)
        spent.append(time.monotonic() - began)

    monkeypatch.setattr(CheckpointFolder, "save", timed)
    settings = dataclasses.replace(TRAINING, epochs=400, nodes=64, checkpoint_seconds=1)
    _, trainer = trainer_of(settings)
    began = time.monotonic()
    trainer.fit(checkpoints=CheckpointFolder(tmp_path, "job"), report=silent)
    whole = time.monotonic() - began
    assert len(spent) > 2
    assert sum(spent[:-1]) <= 0.015 * whole, f"{sum(spent):.3f} of {whole:.1f} s"  # the last is the result's
