"""A name is not ownership, and a job's own word counts, whatever became of the processes that watched it."""

import json
import os
import signal
import subprocess
import sys
import time

import kydb
import pytest

from launching import REPOSITORY
from ml.errors import UserError
from place.local import LocalPlace
from place.record import JOB_LOCK, signal_job

pytestmark = pytest.mark.slow

SLOW = ["--set", "epochs=600", "--env", "STUB_SECONDS=0.05"]


def kill_runner(launch, name):
    launch.wait_for(lambda: b"epoch=1/" in (launch.runs / name / "job.log").read_bytes())
    os.kill(launch.record(name)["RunnerPid"], signal.SIGKILL)


def status(launch, name):
    return json.loads(launch("status", name, "--json"))["TrainingJobStatus"]


def test_a_search_refuses_names_that_a_job_of_the_users_has(launch):
    launch("train", *launch.stub, "--name", "S-001")
    model = launch.runs / "S-001" / "model" / "fx_btc_jpy_model.h5"
    before = model.read_bytes(), model.stat().st_mtime_ns
    told = launch("tune", *launch.stub, "--name", "S", expect=1)
    assert "there is a job S-001 already" in told and "--resume" not in told
    assert not (launch.runs / "S").exists()
    assert "there is no tuning job S" in launch("tune", "--resume", "S", expect=1)
    assert (model.read_bytes(), model.stat().st_mtime_ns) == before


def test_a_search_refuses_the_names_that_its_members_would_have(tmp_path):
    (tmp_path / "S-001-3").mkdir()
    with pytest.raises(UserError, match="there is a job S-001-3 already"):
        LocalPlace(tmp_path).start_tuning({"HyperParameterTuningJobName": "S"}, "")
    assert [path.name for path in tmp_path.iterdir()] == ["S-001-3"]


def test_a_search_that_meets_a_job_of_the_users_leaves_it_alone(launch):
    launch("tune", *launch.stub, *SLOW, "--name", "S", "--max-jobs", 2, "--detach")
    launch.wait_for(lambda: b"epoch=1/" in (launch.runs / "S-001" / "job.log").read_bytes())
    launch("train", *launch.stub, "--name", "S-002")
    record = (launch.runs / "S-002" / "training_job.json").read_bytes()
    launch("stop", "S-001")
    launch.wait_for(lambda: "Failed" in launch("status", "S"))
    assert "there is a job S-002 already" in json.loads(launch("status", "S", "--json"))["FailureReason"]
    assert "S-002 is not of the tuning job S" in launch("tune", "--resume", "S", expect=1)
    assert (launch.runs / "S-002" / "training_job.json").read_bytes() == record
    (launch.runs / "S-002").rename(launch.runs / "mine")
    launch("tune", "--resume", "S", "--detach")
    launch.wait_for(lambda: launch.record("S-002")["TuningJobName"] == "S")
    launch("stop", "S")


@pytest.mark.parametrize("record", [{}, {"TuningJobName": "t"}, {"TuningJobName": "t", "SearchId": "an earlier one"}])
def test_only_a_searchs_own_trial_is_removed(tmp_path, record):
    place = LocalPlace(tmp_path)
    (tmp_path / "t-001").mkdir()
    content = {"TrainingJobName": "t-001", "TrainingJobStatus": "Completed", "CreationTime": "2026"} | record
    (tmp_path / "t-001" / "training_job.json").write_text(json.dumps(content))
    tuning = {"HyperParameterTuningJobName": "t", "SearchId": "this one"}
    with pytest.raises(UserError, match="is not of the tuning job t"):
        place.remove_trial("t-001", tuning)
    assert (tmp_path / "t-001" / "training_job.json").is_file()
    place.remove_trial("t-001", tuning | {"SearchId": record.get("SearchId")}) if record else None
    assert (tmp_path / "t-001").exists() == (not record)


def test_a_folder_without_a_record_is_not_removed(tmp_path):
    (tmp_path / "t-001").mkdir()
    with pytest.raises(UserError, match="move it out of"):
        LocalPlace(tmp_path).remove_trial("t-001", {"HyperParameterTuningJobName": "t"})
    assert (tmp_path / "t-001").is_dir()


def test_an_engine_that_is_silent_leaves_a_container_unknown(tmp_path, monkeypatch):
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nowhere.sock")
    (tmp_path / "t-001").mkdir()
    content = {
        "TrainingJobName": "t-001",
        "TrainingJobStatus": "InProgress",
        "CreationTime": "2026",
        "TuningJobName": "t",
        "ContainerLabels": {"position-trainer.start": "a"},
    }
    (tmp_path / "t-001" / "training_job.json").write_text(json.dumps(content))
    place = LocalPlace(tmp_path)
    assert "whether its container runs is not known" in place.describe("t-001")["FailureReason"]
    with pytest.raises(UserError, match="whether the container of t-001 still runs is not known"):
        place.remove_trial("t-001", {"HyperParameterTuningJobName": "t"})
    assert (tmp_path / "t-001").is_dir()


def test_a_process_that_does_not_hold_the_jobs_lock_gets_no_signal(tmp_path):
    (tmp_path / JOB_LOCK).touch()
    other = subprocess.Popen(["sleep", "60"], start_new_session=True)
    try:
        signal_job(
            {"Hosts": [{"HostName": "algo-1", "JobPid": other.pid, "ExitCode": None}]},
            signal.SIGKILL,
            tmp_path / JOB_LOCK,
        )
        time.sleep(0.2)
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_a_job_that_ended_after_its_runner_was_killed_is_completed_and_can_be_published(launch, tmp_path):
    launch("train", *launch.stub, "--set", "epochs=6", "--env", "STUB_SECONDS=0.3", "--name", "one", "--detach")
    kill_runner(launch, "one")
    launch.wait_for(lambda: status(launch, "one") == "Completed")
    record = json.loads(launch("status", "one", "--json"))
    metrics = {entry["MetricName"]: entry["Value"] for entry in record["FinalMetricDataList"]}
    assert metrics["val_pnl"] == -1.5
    url = f"files:/{tmp_path / 'kydb'}"
    launch("publish", "one", "--model-db", url)
    assert kydb.connect(url)["/ml/models/fx_btc_jpy_model.h5"].startswith(b"\x89HDF")


def test_the_failure_of_a_job_whose_runner_was_killed_is_its_own(launch, tmp_path):
    job = tmp_path / "stub" / "stub_job.py"
    job.write_text(job.read_text().replace("print(metric_line(", "epoch > 3 and 1 / 0; print(metric_line("))
    launch("train", *launch.stub, "--set", "epochs=9", "--env", "STUB_SECONDS=0.3", "--name", "one", "--detach")
    kill_runner(launch, "one")
    reason = launch.wait_for(
        lambda: (
            (record := json.loads(launch("status", "one", "--json")))["TrainingJobStatus"] == "Failed"
            and record["FailureReason"]
        )
    )
    assert "division by zero" in reason


def test_a_killed_trial_that_ended_by_itself_is_not_trained_again(launch):
    launch(
        *("tune", *launch.stub, "--set", "epochs=8", "--env", "STUB_SECONDS=0.2", "--name", "t"),
        *("--max-jobs", 1, "--max-parallel", 1, "--detach"),
    )
    kill_runner(launch, "t-001")
    launch("logs", "t")
    found = json.loads(launch("status", "t", "--json"))
    assert [trial["TrainingJobStatus"] for trial in found["Trials"]] == ["Completed"]
    assert "vanished" not in (launch.runs / "t" / "tuning.log").read_text()


# The search's one copy of its channels


def test_all_trials_read_what_the_prices_were_when_the_search_began(launch, tmp_path):
    before = (tmp_path / "prices.csv").read_text()
    launch("tune", *launch.stub, *SLOW[2:], "--name", "t", "--max-jobs", 3, "--max-parallel", 1, "--detach")
    launch.wait_for(lambda: (launch.runs / "t-001").exists())
    (tmp_path / "prices.csv").write_text("dt,mid\n2020-01-01T00:00,2\n")
    launch("logs", "t")
    snapshot = launch.runs / "t" / "input" / "train" / "prices.csv"
    assert snapshot.read_text() == before
    assert snapshot.stat().st_mode & 0o222 == 0
    for trial in ("t-001", "t-002", "t-003"):
        assert (launch.runs / trial / "input" / "data" / "train" / "prices.csv").samefile(snapshot)


def test_a_runs_folder_may_have_an_odd_name(launch, tmp_path):
    launch.runs = tmp_path / "what? 100%41, and more"
    launch("tune", *launch.stub, "--name", "t", "--max-jobs", 1, "--max-parallel", 1)
    assert (launch.runs / "t" / "search.db").is_file()


# Warm start


def test_a_parent_that_differs_is_refused_or_told(launch, tmp_path):
    arguments = ["tune", *launch.stub, "--max-jobs", 1, "--max-parallel", 1]
    launch(*arguments, "--name", "p")
    (tmp_path / "prices.csv").write_text("dt,mid\n2020-01-01T00:00,2\n")
    other = ["--warm-start", "p", "--set", "epochs=2", "--image", "another"]
    told = launch(*arguments, *other, "--name", "c", expect=1)
    assert told.startswith("error: p differs from this search, so it cannot teach it as IdenticalDataAndAlgorithm: ")
    for difference in (
        "the image is another here and ",
        "epochs is 2 here and 3 there",
        "the data of channel train is another: prices.csv (1 of 1 files)",
    ):
        assert difference in told
    assert not (launch.runs / "c").exists()
    process = launch.start(*arguments, *other, "--warm-start-type", "TransferLearning", "--name", "c")
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0
    assert err.count("warm start from p: ") == 3


# A user's own script

STUBBORN = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
print("here", os.getpid(), flush=True)
time.sleep(600)
"""

RUNNER = "import sys; import place.runner as runner; runner._STOP_SECONDS = 1; runner.main()"


@pytest.fixture
def started(launch, tmp_path, monkeypatch):
    """Starts a script in place of a job, whose runner waits for a second where others wait for two minutes."""
    short = tmp_path / "short_runner.py"
    folders = f"sys.path[:0] = [{str(REPOSITORY / 'sagemaker')!r}, {str(REPOSITORY / 'container')!r}]"
    short.write_text(f"import sys\n{folders}\n" + RUNNER.replace("import sys; ", ""))
    monkeypatch.setattr("place.local._RUNNER", short)

    def start(text, **limits):
        (tmp_path / "script.py").write_text(text)
        place = LocalPlace(launch.runs)
        monkeypatch.setattr(place, "_command", lambda *_: ([sys.executable, str(tmp_path / "script.py")], {}))
        place.start(
            {
                "TrainingJobName": "one",
                "AlgorithmSpecification": {"TrainingImage": "", "MetricDefinitions": []},
                "StoppingCondition": limits,
            }
        )
        return place

    return start


def processes_with(text):
    found = subprocess.run(["pgrep", "-f", text], capture_output=True, text=True, check=False).stdout.split()
    return [pid for pid in found if int(pid) != os.getpid()]


@pytest.mark.parametrize("limits", [{}, {"MaxRuntimeInSeconds": 1}], ids=["stop", "too long"])
def test_a_script_that_ignores_the_stop_is_ended_with_all_that_it_started(launch, started, limits, tmp_path):
    script = STUBBORN.replace("time.sleep(600)", f"time.sleep(600) # {tmp_path}")
    place = started(script, **limits)
    launch.wait_for(lambda: b"here" in (launch.runs / "one" / "job.log").read_bytes())
    assert len(processes_with(f"# {tmp_path}")) == 1  # what it started; the script's own text is in its file
    if not limits:
        place.stop("one")
    launch.wait_for(lambda: launch.record("one")["TrainingJobStatus"] == "Stopped")
    assert launch.record("one")["ExitCode"] == -signal.SIGKILL
    assert processes_with(f"# {tmp_path}") == []


def test_what_a_script_leaves_behind_ends_with_it(launch, started, tmp_path):
    started(STUBBORN.replace("time.sleep(600)", f"time.sleep(600) # {tmp_path}", 1).replace("\ntime.sleep(600)", ""))
    launch.wait_for(lambda: launch.record("one")["TrainingJobStatus"] == "Completed")
    assert processes_with(f"# {tmp_path}") == []


def test_a_script_gets_no_preset_that_nobody_gave(launch, tmp_path):
    script = ["--set", "sagemaker_program=mine.py", "--dry-run", "--json"]
    request = json.loads(launch("train", *launch.stub, *script))
    assert request["HyperParameters"] == {"epochs": "3", "sagemaker_program": "mine.py"}
    request = json.loads(launch("train", *launch.stub, *script, "--set", "preset=default"))
    assert request["HyperParameters"]["preset"] == "default"


@pytest.mark.parametrize("command", ["train", "tune"])
def test_a_script_gets_none_of_a_shipped_requests_settings(launch, tmp_path, command):
    prices = tmp_path / "prices.csv"
    prices.write_text("dt,mid\n")
    script = [f"--prices={prices}", "--set", "sagemaker_program=mine.py", "--dry-run", "--json"]
    given = {"sagemaker_program": "mine.py"}
    for more in ({}, {"epochs": "7", "preset": "default"}):
        values = [text for name, value in more.items() for text in ("--set", f"{name}={value}")]
        request = json.loads(launch(command, *script, *values))
        job = request.get("TrainingJobDefinition", request)
        assert job["HyperParameters" if command == "train" else "StaticHyperParameters"] == given | more
