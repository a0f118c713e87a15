"""Searches whose jobs train several trials at once: names, the leaderboard, publishing, faults and kills."""

import csv
import json
import os
import signal

import kydb
import optuna
import pytest
import yaml

from launching import REPOSITORY, Launcher

pytestmark = pytest.mark.slow

DROPOUT = {"Name": "dropout", "MinValue": "0.0", "MaxValue": "0.6"}


def write_request(folder, ranges, **config):
    request = yaml.safe_load((REPOSITORY / "sagemaker" / "tuning_job.yaml").read_text())
    request["HyperParameterTuningJobConfig"] |= {
        "TrainingJobEarlyStoppingType": "Off",
        "Strategy": "Random",
        "ParameterRanges": ranges,
    } | config
    path = folder / "request.yaml"
    path.write_text(yaml.safe_dump(request))
    return path


def trials_of(launch, name="S"):
    return json.loads(launch("status", name, "--json"))["Trials"]


def study_of(launch, name="S"):
    return optuna.load_study(study_name=name, storage=f"sqlite:///{launch.runs / name / 'search.db'}")


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """A search of 7 trials, 3 to a job, that tests only read."""
    folder = tmp_path_factory.mktemp("packed")
    launch = Launcher(folder)
    launch.url = f"files:/{folder / 'kydb'}"
    path = write_request(folder, {"ContinuousParameterRanges": [DROPOUT]})
    options = ["--pack", 3, "--max-jobs", 7, "--set", f"model_db={launch.url}", "--name", "S"]
    launch("tune", *launch.stub, *options, path)
    return launch


def test_a_trial_is_a_member_of_its_job_and_what_is_left_over_has_a_job_of_its_own(packed):
    trials = trials_of(packed)
    members = [f"S-{job:03d}-{member}" for job in (1, 2) for member in range(3)]
    assert [trial["TrainingJobName"] for trial in trials] == [*members, "S-003"]
    assert sorted(path.name for path in packed.runs.glob("[!.]*")) == ["S", "S-001", "S-002", "S-003"]
    sent = packed.record("S-001")["HyperParameters"]
    assert [point["dropout"] for point in json.loads(sent["points"])] == [
        trial["TunedHyperParameters"]["dropout"] for trial in trials[:3]
    ]
    assert "points" not in packed.record("S-003")["HyperParameters"]
    assert [trial.value for trial in study_of(packed).trials] == [
        trial["FinalHyperParameterTuningJobObjectiveMetric"]["Value"] for trial in trials
    ]


def test_a_job_keeps_the_network_that_the_objective_asks_for(packed):
    assert packed.record("S-001")["HyperParameters"]["monitor"] == "val_accuracy"
    with (packed.runs / "S" / "leaderboard.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 7 and rows[0]["model"] == "kept"
    assert sum(row["model"] == "kept" for row in rows) == 3  # of each job one


def test_the_best_is_shown_and_published(packed):
    with (packed.runs / "S" / "leaderboard.csv").open(newline="") as file:
        best = next(csv.DictReader(file))
    found = json.loads(packed("best", "S", "--json"))
    assert found["TrainingJobName"] == best["job"]
    assert f"dropout\t{found['TunedHyperParameters']['dropout']}" in packed("best", "S")
    packed("publish", "--best", "S")
    dropout = found["TunedHyperParameters"]["dropout"].encode()
    assert kydb.connect(packed.url)["/ml/models/fx_btc_jpy_model.h5"].endswith(dropout)


def test_a_member_that_is_not_its_jobs_best_has_no_model_until_it_is_trained_by_itself(packed):
    trial = next(trial for trial in trials_of(packed) if not trial.get("Kept", True))
    name = trial["TrainingJobName"]
    told = packed("publish", name, "--model-db", packed.url, expect=1)
    assert f"error: {name} has no model: S-001 trained it with others and keeps the model of the best, S-001-" in told
    way = f"launch.py train --on local --member {name}\n"
    assert told.endswith(way)
    assert way in packed("predict", name, "--prices", packed.runs, "--out", packed.runs / "x.parquet", expect=1)
    packed("train", "--member", name, "--name", "alone", "--no-check")
    seen = packed.record("alone", "output/data/seen.json")
    assert seen["parameters"] == {"epochs": "3", "monitor": "val_accuracy", **trial["TunedHyperParameters"]}
    assert seen["data"][-1] == "input/data/train/prices.csv"
    assert "--member takes a member of a population" in packed("train", "--member", "S-003", expect=1)
    assert "received a REQUEST_FILE too" in packed(
        "train", "--member", name, REPOSITORY / "sagemaker" / "training_job.yaml", expect=2
    )


def test_the_status_and_the_log_of_a_member_are_its_jobs(packed):
    assert "S-001: Completed" in packed("status", "S-001-1")
    assert "epoch=3/3" in packed("logs", "S-001-1")
    told = packed("stop", "S-001-1", expect=1)
    assert "S-001-1 is a member of S-001, whose networks train together; stop S-001 stops them" in told
    for name in ("S-001-3", "S-003-0", "S-001-00"):
        assert f"there is no job {name}" in packed("status", name, "--on", "local", expect=1)


def test_members_that_diverge_or_are_pruned_are_told_from_those_that_end(launch, tmp_path):
    ranges = {"ContinuousParameterRanges": [DROPOUT], "CategoricalParameterRanges": [{"Name": "seed", "Values": ["0"]}]}
    launch("tune", *launch.stub, "--pack", 4, "--max-jobs", 8, "--name", "S", write_request(tmp_path, ranges), expect=1)
    assert {trial.state.name for trial in study_of(launch).trials} == {"FAIL"}
    assert {trial["FailureReason"] for trial in trials_of(launch)} == {
        "AlgorithmError: its loss was not a finite number after 3 epochs"
    }
    ranges = {"ContinuousParameterRanges": [DROPOUT]}
    options = ["--pack", 4, "--max-jobs", 5, "--set", "halving=2", "--name", "T"]
    launch("tune", *launch.stub, *options, write_request(tmp_path, ranges))
    states = [trial.state.name for trial in study_of(launch, "T").trials]
    assert sorted(states[:4]) == ["COMPLETE", "PRUNED", "PRUNED", "PRUNED"] and states[4] == "COMPLETE"
    assert [trial["TrainingJobStatus"] for trial in trials_of(launch, "T")].count("Stopped") == 3
    assert all(trial.value is not None for trial in study_of(launch, "T").trials)  # which the search learns from


def test_the_trials_of_a_job_share_what_a_population_cannot_vary(launch, tmp_path):
    ranges = {
        "CategoricalParameterRanges": [
            {"Name": "nodes", "Values": ["16", "32"]},
            {"Name": "layers", "Values": ["1", "2"]},
            {"Name": "seed", "Values": ["1", "2"]},
        ]
    }
    path = write_request(tmp_path, ranges, Strategy="Grid", ResourceLimits={"MaxParallelTrainingJobs": 1})
    launch("tune", *launch.stub, "--pack", 3, "--name", "S", path)
    sent = [launch.record(f"S-{job:03d}")["HyperParameters"] for job in range(1, 5)]
    assert [parameters["layers"] for parameters in sent] == ["1", "1", "2", "2"]
    trials = trials_of(launch)
    assert {tuple(trial["TunedHyperParameters"].values()) for trial in trials} == {
        (nodes, layers, seed) for nodes in ("16", "32") for layers in ("1", "2") for seed in ("1", "2")
    }
    assert len(trials) == 8


def test_jobs_that_fail_end_the_search_and_tell_why(launch, tmp_path):
    path = write_request(tmp_path, {"ContinuousParameterRanges": [DROPOUT]})
    options = ["--pack", 4, "--max-jobs", 20, "--set", "optimizer=sgd", "--name", "S"]
    out = launch("tune", *launch.stub, *options, path, expect=1)
    assert len(list(launch.runs.glob("S-*"))) == 3
    assert out.rstrip().endswith("All training jobs failed; the last: AlgorithmError: sgd is not for me, exit code: 1")
    assert len(trials_of(launch)) == 12


def test_a_search_that_is_killed_with_a_job_of_several_trains_the_same_points_again(launch, tmp_path):
    path = write_request(tmp_path, {"ContinuousParameterRanges": [DROPOUT]}, Strategy="Bayesian")
    options = [*launch.stub, "--pack", 3, "--max-jobs", 6, path]
    launch("tune", *options, "--name", "U")
    launch("tune", *options, "--env", "STUB_SECONDS=1", "--name", "S", "--detach")
    record = launch.wait_for(lambda: launch.record("S-001")["Hosts"][0]["JobPid"] and launch.record("S-001"))
    drawn = json.loads(record["HyperParameters"]["points"])
    for pid in (launch.record("S", "tuning_job.json")["SearchPid"], record["RunnerPid"]):
        os.kill(pid, signal.SIGKILL)
    os.killpg(record["Hosts"][0]["JobPid"], signal.SIGKILL)
    launch.wait_for(lambda: "Failed" in launch("status", "S"))
    launch("tune", "--resume", "S")
    assert json.loads(launch.record("S-001")["HyperParameters"]["points"]) == drawn
    trials = trials_of(launch)
    assert [trial["TunedHyperParameters"] for trial in trials] == [
        trial["TunedHyperParameters"] for trial in trials_of(launch, "U")
    ]
    assert {trial["TrainingJobStatus"] for trial in trials} == {"Completed"}
    assert len(study_of(launch).trials) == 6


def test_ctrl_c_stops_a_job_of_several_and_resume_trains_it_again(launch, tmp_path):
    path = write_request(tmp_path, {"ContinuousParameterRanges": [DROPOUT]})
    options = ["--pack", 2, "--max-jobs", 4, "--env", "STUB_SECONDS=0.3", "--name", "S"]
    process = launch.start("tune", *launch.stub, *options, path)
    launch.wait_for(lambda: b"epoch=1/" in (launch.runs / "S-002" / "job.log").read_bytes())
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 130
    first = launch.record("S-001")["CreationTime"]
    launch("tune", "--resume", "S")
    assert launch.record("S-001")["CreationTime"] == first
    assert [trial["TrainingJobStatus"] for trial in trials_of(launch)] == ["Completed"] * 4
