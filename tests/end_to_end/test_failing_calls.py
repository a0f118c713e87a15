"""Every system call that a write makes in its folder, failing one at a time: the old content or the new one, in a line.

Of a model's files in tests/container/test_files.py, of publishing in tests/container/deliver/test_publishing.py.
"""

import shutil
from pathlib import Path

import numpy as np
import pytest

from injected import failing_calls
from ml.data.sample_market import sample_market
from ml.databases import connect
from ml.learn.checkpoints import Checkpoint, CheckpointFolder
from ml.timeseries import time_series
from place.folders import JobFolders
from place.record import RECORD, read_record, write_record

LAUNCHER = Path(__file__).resolve().parents[2] / "sagemaker"

REPLACE = """
import sys
from ml.data.sample_market import sample_market
from ml.databases import connect
from ml.timeseries import time_series
try:
    time_series(connect(f"files:/{sys.argv[1]}"), "/s").replace(sample_market(rows=3000, seed=4))
except Exception as error:
    sys.exit(f"told: {error}")
"""


@pytest.mark.slow
def test_a_series_that_is_replaced_is_the_old_one_or_the_new_one(tmp_path):
    folder = tmp_path / "kydb"
    old, new = sample_market(rows=3000, seed=3), sample_market(rows=3000, seed=4)

    def prepare():
        shutil.rmtree(folder, ignore_errors=True)
        time_series(connect(f"files:/{folder}"), "/s").replace(old)

    runs = 0
    for call, code, _, errors in failing_calls(REPLACE, folder, prepare):
        runs += 1
        found = connect(f"files:/{folder}").read("/s", reload=True).curve()["mid"].tolist()
        expected = [old, new] if code else [new]
        assert found in [frame["mid"].tolist() for frame in expected], call
        assert code == 0 or (errors.startswith("told: ") and errors.count("\n") == 1), (call, errors)
    assert runs > 5


SAVE = """
import sys
from pathlib import Path
import numpy as np
from ml.learn.checkpoints import Checkpoint, CheckpointFolder
try:
    CheckpointFolder(Path(sys.argv[1]), "job").save(Checkpoint({}, {"step": 3}, {"weight": np.full(9, 3)}))
except OSError as error:
    sys.exit(f"told: {error}")
"""


@pytest.mark.slow
def test_a_checkpoint_folder_keeps_the_newest_whole_checkpoint(tmp_path, capsys):
    folder = tmp_path / "checkpoints"

    def prepare():
        shutil.rmtree(folder, ignore_errors=True)
        for step in (1, 2):
            CheckpointFolder(folder, "job").save(Checkpoint({}, {"step": step}, {"weight": np.full(9, step)}))

    runs = 0
    for call, code, _, errors in failing_calls(SAVE, folder, prepare):
        runs += 1
        loaded = CheckpointFolder(folder, "job").load({})
        step = loaded.progress["step"]
        assert step in ((2, 3) if code else (3,)) and (loaded.arrays["weight"] == step).all(), call
        assert code == 0 or (errors.startswith("told: ") and errors.count("\n") == 1), (call, errors)
        assert not list(folder.glob("job/.*")) and len(list(folder.glob("job/*"))) <= 3, call
    assert runs >= 10 and not capsys.readouterr().out


START = f"""
import sys
sys.path.insert(0, {str(LAUNCHER)!r})
from pathlib import Path
from place import staging
from place.record import RECORD, write_record
try:
    with staging.staged(Path(sys.argv[1]), "job") as start:
        new = dict.fromkeys(("TrainingJobName", "TrainingJobStatus"), "new")
        write_record(start.folder / RECORD, new | dict(CreationTime="2020-01-01T00:00:00+00:00"))
        start.commit()
except Exception as error:
    sys.exit(f"told: {{error}}")
"""


@pytest.mark.slow
def test_a_job_is_started_whole_or_not_at_all(tmp_path):
    runs_folder = tmp_path / "runs"

    def prepare():
        shutil.rmtree(runs_folder, ignore_errors=True)

    runs = 0
    for call, code, _, errors in failing_calls(START, runs_folder, prepare):
        runs += 1
        left = [path.name for path in runs_folder.iterdir()] if runs_folder.exists() else []
        assert left == ([] if code else ["job"]), call
        assert code or read_record(runs_folder / "job" / RECORD)["TrainingJobStatus"] == "new"
        assert code == 0 or (errors.startswith("told: job cannot be started: ") and errors.count("\n") == 1), errors
    assert runs > 10


RUN = f"""
import sys
sys.path.insert(0, {str(LAUNCHER)!r})
from place import runner
sys.argv.append("0")
runner._descendants = list  # which opens a file of each process of the machine, so that calls could not be counted
runner.main()
"""


@pytest.mark.slow
def test_a_runner_whose_disk_fails_sees_its_job_to_the_end_and_the_record_is_true(tmp_path):
    folder = tmp_path / "runs" / "job"
    record = {
        "TrainingJobName": "job",
        "TrainingJobStatus": "InProgress",
        "SecondaryStatus": "Starting",
        "CreationTime": "2020-01-01T00:00:00+00:00",
        "AlgorithmSpecification": {},
        "StoppingCondition": {},
        "Command": ["/bin/sh", "-c", "touch output/success"],
        "CommandEnvironment": {},
    }

    def prepare():
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "output").mkdir(parents=True)
        write_record(folder / RECORD, dict(record))

    runs = started = 0
    for call, _, _, errors in failing_calls(RUN, folder, prepare):
        runs += 1
        found = JobFolders(folder.parent).describe("job")
        ran = (folder / "output/success").exists()
        started += ran
        assert found["TrainingJobStatus"] == ("Completed" if ran else "Failed"), call
        assert ran or "FailureReason" in found
        assert errors.count("\n") <= 1 and "Traceback" not in errors, (call, errors)
    assert started >= runs - 4 > 10, "only before its start may a job be lost"
