"""Trainings in processes of their own, with the compiled programs of an earlier one."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ml.platform.programs import FOLDER_VARIABLE

pytestmark = pytest.mark.slow

# Trains as one program; prints what is told, and the weights' hash.
SCRIPT = """
import dataclasses, functools, hashlib, sys
from pathlib import Path
folder, after = Path(sys.argv[1]), int(sys.argv[2])
from ml.learn.checkpoints import CheckpointFolder
from ml.platform.hardware import find_instance
from ml.platform.programs import program_folders
instance = find_instance("auto", allow_cpu=True, programs=program_folders(folder, "job"))
instance = dataclasses.replace(instance, one_program=True)
print(instance.description, flush=True)
from trainings import REGULARISED, Stop, trainer_of
model, trainer = trainer_of(dataclasses.replace(REGULARISED, epochs=4), instance=instance)
trainer.fit(stop=Stop(after or None), checkpoints=CheckpointFolder(folder, "job"),
            report=lambda line, **_: print(line, flush=True))
print(hashlib.sha256(b"".join(weight.tobytes() for weight in model.get_weights())).hexdigest())
"""


def start(folder, shared="", after=0):
    """A training in a process; it is asked to end when it has looked `after` times; 0: never."""
    return subprocess.Popen(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {sys.path}\n{SCRIPT}", folder, str(after)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {FOLDER_VARIABLE: str(shared)},
    )


def train(folder, shared="", after=0):
    """What it prints."""
    process = start(folder, shared, after)
    lines = process.communicate()[0].splitlines()
    assert process.returncode == 0
    return lines


def programs_in(folder):
    return {path.name: path.read_bytes() for path in Path(folder).rglob("*.pb")}


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A finished training: the folder that it shares its programs in, and what it printed."""
    folder = tmp_path_factory.mktemp("first")
    return folder / "shared", train(folder, folder / "shared")


def test_training_and_validation_are_one_program_each_kept_in_both_folders(first):
    shared, _ = first
    assert len(programs_in(shared)) == 2
    assert programs_in(shared) == programs_in(shared.parent / "job" / "programs")


def test_a_second_job_that_is_stopped_and_resumed_runs_the_programs_of_the_first(first, tmp_path):
    shared, lines = first
    programs = programs_in(shared)
    stopped = train(tmp_path, shared, after=3)
    assert "with 2 compiled programs from before" in stopped[0]
    resumed = train(tmp_path, shared)
    assert any("resuming in epoch" in line for line in resumed)
    assert resumed[-1] == lines[-1] != stopped[-1]
    assert programs_in(shared) == programs, "something was compiled again"
    assert programs_in(tmp_path) == programs, "a resume without the shared folder would compile again"


def test_a_damaged_program_is_compiled_again(first, tmp_path):
    shared, lines = first
    shutil.copytree(shared, tmp_path / "shared")
    cut, zeros = sorted((tmp_path / "shared").rglob("*.pb"))
    cut.write_bytes(cut.read_bytes()[:1000])
    zeros.write_bytes(bytes(zeros.stat().st_size))
    again = train(tmp_path, tmp_path / "shared")
    assert again[-1] == lines[-1]
    assert sum("is damaged and is compiled again" in line for line in again) == 2
    assert programs_in(tmp_path / "shared").keys() == programs_in(shared).keys()


def is_killed_and_resumed(first, folder):
    shared, lines = first
    process = start(folder, shared)
    for line in process.stdout:
        if line.startswith("epoch=2"):
            process.kill()
    process.wait()
    resumed = train(folder, shared)
    assert any("resuming in epoch" in line for line in resumed)
    assert resumed[-1] == lines[-1]
    return resumed


def test_a_training_that_is_killed_and_resumed_ends_in_the_same_bytes(first, tmp_path):
    is_killed_and_resumed(first, tmp_path)


@pytest.mark.gpu
@pytest.mark.skipif(not Path("/dev/nvidia0").exists(), reason="there is no NVIDIA GPU")
def test_on_a_gpu_a_training_that_is_killed_and_resumed_ends_in_the_same_bytes(first, tmp_path):
    resumed = is_killed_and_resumed(first, tmp_path)
    assert "compute capability" in resumed[0], "it ran on the CPU"
