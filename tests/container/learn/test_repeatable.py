"""Trainings in processes of their own, with the compiled programs of an earlier one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ml.platform.programs import FOLDER_VARIABLE

pytestmark = pytest.mark.slow

# Trains as one program; prints what is told, and the weights' hash.
SCRIPT = """
import dataclasses, hashlib, sys
from pathlib import Path
folder, after = Path(sys.argv[1]), int(sys.argv[2])
from ml.learn.checkpoints import CheckpointFolder
from ml.platform.hardware import find_instance
from ml.platform.programs import program_folders
instance = find_instance("auto", allow_cpu=True, programs=program_folders(folder, "job"))
from trainings import REGULARISED, Stop, fit
instance = dataclasses.replace(instance, one_program=True)
settings = dataclasses.replace(REGULARISED, epochs=4)
model, result, lines = fit(settings, stop=Stop(after or None), checkpoints=CheckpointFolder(folder, "job"),
                           instance=instance)
print(instance.description, *lines, sep="\\n")
print(hashlib.sha256(b"".join(weight.tobytes() for weight in model.get_weights())).hexdigest())
"""


def train(folder, shared="", after=0):
    """What a training in a process prints; it is asked to end when it has looked `after` times; 0: never."""
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {sys.path}\n{SCRIPT}", folder, str(after)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {FOLDER_VARIABLE: str(shared)},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.splitlines()


def programs_in(folder):
    return {path.name: path.read_bytes() for path in Path(folder).rglob("*.pb")}


def test_a_second_job_and_a_resume_run_the_programs_of_the_first(tmp_path):
    shared = tmp_path / "shared"
    first = train(tmp_path / "first", shared)
    programs = programs_in(shared)
    assert len({name for name in programs if "XLA_" in name}) == len(programs) >= 2
    assert programs_in(tmp_path / "first" / "job" / "programs") == programs

    second = train(tmp_path / "second", shared)
    assert f"{len(programs)} compiled programs kept" in second[0]
    train(tmp_path / "third", shared, after=3)
    resumed = train(tmp_path / "third", shared)
    assert any("resuming in epoch" in line for line in resumed)
    assert second[-1] == resumed[-1] == first[-1]
    assert programs_in(shared) == programs, "something was compiled again"


def test_a_damaged_program_is_compiled_again(tmp_path):
    shared = tmp_path / "shared"
    first = train(tmp_path / "first", shared)
    programs = programs_in(shared)
    for number, path in enumerate(sorted(shared.rglob("*.pb"))):
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2] if number % 2 else b"\0" * len(content))
    second = train(tmp_path / "second", shared)
    assert second[-1] == first[-1]
    assert sum("is damaged and is compiled again" in line for line in second) == len(programs)
    assert programs_in(shared).keys() == programs.keys()
    assert train(tmp_path / "third", shared)[-1] == first[-1]
