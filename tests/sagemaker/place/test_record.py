"""Records on this machine: one that is damaged is named and breaks none of the others."""

import json
import shutil

import pytest

from place.local import LocalPlace
from place.record import DamagedRecord, metrics_in, read_record


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A training job, a tuning job and its trial, written by hand."""
    folder = tmp_path_factory.mktemp("runs")
    job = {"TrainingJobName": "one", "TrainingJobStatus": "Completed", "CreationTime": "2026-01-02T00:00:00+00:00"}
    tuning = {
        "HyperParameterTuningJobName": "t",
        "HyperParameterTuningJobStatus": "Completed",
        "CreationTime": "2026-01-01T00:00:00+00:00",
        "HyperParameterTuningJobConfig": {
            "HyperParameterTuningJobObjective": {"MetricName": "val_loss", "Type": "Minimize"},
            "ParameterRanges": {"IntegerParameterRanges": [{"Name": "nodes", "MinValue": "1", "MaxValue": "64"}]},
        },
    }
    trial = job | {"TrainingJobName": "t-001", "TuningJobName": "t"}  # and neither settings nor definitions
    for name, file, record in (
        ("one", "training_job.json", job),
        ("t", "tuning_job.json", tuning),
        ("t-001", "training_job.json", trial),
    ):
        (folder / name).mkdir()
        (folder / name / file).write_text(json.dumps(record))
    return folder


DAMAGES = {"empty": b"", "cut off": b'{"TrainingJobName": "two"', "another thing": b"[1]", "deep": b"[" * 100_000}
DAMAGES["a wrong part"] = json.dumps(
    {
        **dict.fromkeys(("TrainingJobName", "TrainingJobStatus"), "two"),
        **dict.fromkeys(("HyperParameterTuningJobName", "HyperParameterTuningJobStatus"), "two"),
        "CreationTime": "2026-01-02T00:00:00+00:00",
        "AlgorithmSpecification": {"MetricDefinitions": [{"Name": "loss"}]},
    }
).encode()


@pytest.mark.parametrize("content", DAMAGES.values(), ids=DAMAGES)
@pytest.mark.parametrize("file", ["training_job.json", "tuning_job.json"])
def test_a_damaged_record_is_named_and_the_rest_is_listed(runs, tmp_path, file, content):
    shutil.copytree(runs, tmp_path / "runs")
    (tmp_path / "runs" / "two").mkdir()
    (tmp_path / "runs" / "two" / file).write_bytes(content)
    jobs, tunings, damaged = LocalPlace(tmp_path / "runs").records()
    assert [job["TrainingJobName"] for job in jobs] == ["one"]
    assert [job["HyperParameterTuningJobName"] for job in tunings] == ["t"]
    assert len(damaged) == 1 and damaged[0].startswith(f"the record {tmp_path}/runs/two/{file} ")
    with pytest.raises(DamagedRecord, match="remove the folder"):
        read_record(tmp_path / "runs" / "two" / file)


def test_list_names_a_damaged_record_in_a_line(launch, runs):
    shutil.copytree(runs, launch.runs)
    (launch.runs / "two").mkdir()
    (launch.runs / "two" / "training_job.json").touch()
    process = launch.start("list")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert [line.split("\t")[1] for line in out.splitlines()] == ["name", "one", "t"]
    assert err.startswith(f"the record {launch.runs}/two/training_job.json is empty;") and err.count("\n") == 1


def test_a_damaged_trial_is_a_failed_one(runs, tmp_path):
    shutil.copytree(runs, tmp_path / "runs")
    (tmp_path / "runs" / "t-002").mkdir()
    (tmp_path / "runs" / "t-002" / "training_job.json").touch()
    trials = LocalPlace(tmp_path / "runs").trials("t")
    assert [(trial["TrainingJobName"], trial["TrainingJobStatus"]) for trial in trials] == [
        ("t-001", "Completed"),
        ("t-002", "Failed"),
    ]


def test_numbers_of_a_log_that_are_none_are_left_out():
    definitions = [{"Name": "loss", "Regex": r"loss=(\S+)"}, {"Name": "other", "Regex": "(never)?x"}]
    assert metrics_in("loss=0.53, and loss=0.5\nx loss=nan", definitions[:1])["loss"][:1] == [0.5]
    assert metrics_in("x", definitions) == {"loss": [], "other": []}
