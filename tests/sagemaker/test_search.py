"""Tuning jobs on this machine: the strategies, their rules, kills, and the page that they leave."""

import contextlib
import csv
import html
import itertools
import json
import os
import random
import signal
import time
from pathlib import Path

import kydb
import optuna
import pytest
import yaml

from launching import REPOSITORY
from search_rules import TunedRange


@pytest.fixture
def tune(launch, tmp_path):
    """Runs a tuning job over the miniature; returns its record with its trials."""

    def run(*options, name="t", expect=0, ranges=None, **config):
        request = yaml.safe_load((REPOSITORY / "sagemaker" / "tuning_job.yaml").read_text())
        request["HyperParameterTuningJobConfig"] |= {"TrainingJobEarlyStoppingType": "Off"} | config
        if ranges:
            request["HyperParameterTuningJobConfig"]["ParameterRanges"] = ranges
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(request))
        out = launch("tune", *launch.stub, "--json", "--name", name, *options, path, expect=expect)
        return json.loads(out[: out.rfind("\n}") + 2])

    return run


def values(found):
    return [
        trial["FinalHyperParameterTuningJobObjectiveMetric"]["Value"]
        for trial in found["Trials"]
        if "FinalHyperParameterTuningJobObjectiveMetric" in trial
    ]


def points(found):
    return [trial["TunedHyperParameters"] for trial in found["Trials"]]


ONE_RANGE = {"ContinuousParameterRanges": [{"Name": "dropout", "MinValue": "0.0", "MaxValue": "0.6"}]}


def test_a_runs_folder_may_have_what_is_special_in_urls(launch, tune):
    launch.runs = launch.runs.with_name("100%41 ? & #")
    assert tune("--max-jobs", 2, ranges=ONE_RANGE)["HyperParameterTuningJobStatus"] == "Completed"
    assert (launch.runs / "t" / "search.db").is_file()


def test_a_search_finds_the_optimum_and_says_so_everywhere(launch, tune, tmp_path):
    url = f"files:/{tmp_path / 'kydb'}"
    found = tune("--max-jobs", 8, "--set", f"model_db={url}", ranges=ONE_RANGE)
    assert found["HyperParameterTuningJobStatus"] == "Completed"
    assert [trial["TrainingJobName"] for trial in found["Trials"]] == [f"t-{number:03d}" for number in range(1, 9)]
    best = found["BestTrainingJob"]
    assert best["FinalHyperParameterTuningJobObjectiveMetric"]["Value"] == max(values(found))
    assert float(best["TunedHyperParameters"]["dropout"]) == pytest.approx(0.3, abs=0.1)
    with (launch.runs / "t" / "leaderboard.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 8
    assert rows[0]["job"] == best["TrainingJobName"]
    assert json.loads(launch("best", "t", "--json"))["TrainingJobName"] == best["TrainingJobName"]
    assert [
        job["HyperParameterTuningJobName"]
        for job in json.loads(launch("list", "--json"))["HyperParameterTuningJobSummaries"]
    ] == ["t"]
    luck = found["Luck"]
    assert (luck["tries"], luck["known"], luck["days"]) == (8, 8, 56) and luck["chosen"] == best["TrainingJobName"]
    assert "Luck alone can explain the best of 8 tries." in launch("best", "t")
    page = (launch.runs / "t" / "leaderboard.html").read_text()
    assert all(html.escape(text) in page for row in luck["rows"] for text in row)
    # Trials do not publish, `publish --best` does.
    assert not (tmp_path / "kydb").exists()
    launch("publish", "--best", "t")
    dropout = best["TunedHyperParameters"]["dropout"].encode()
    assert kydb.connect(url)["/ml/models/fx_btc_jpy_model.h5"].endswith(dropout)


def test_grid_tries_every_point_once(tune):
    ranges = {
        "CategoricalParameterRanges": [
            {"Name": "nodes", "Values": ["32", "64", "128"]},
            {"Name": "layers", "Values": ["1", "2"]},
        ]
    }
    found = tune("--set", "dropout=0.1", ranges=ranges, Strategy="Grid", ResourceLimits={"MaxParallelTrainingJobs": 2})
    assert sorted(tuple(point.values()) for point in points(found)) == sorted(
        itertools.product(["32", "64", "128"], ["1", "2"])
    )


@pytest.mark.parametrize(
    ("kind", "entry", "check"),
    [
        (
            "IntegerParameterRanges",
            {"MinValue": "2", "MaxValue": "2000", "ScalingType": "Logarithmic"},
            lambda texts: (
                all(2 <= int(text) <= 2000 for text in texts) and 30 < sum(int(text) < 63 for text in texts) < 70
            ),
        ),
        (
            "IntegerParameterRanges",
            {"MinValue": "2", "MaxValue": "2000", "ScalingType": "Linear"},
            lambda texts: sum(int(text) < 63 for text in texts) < 15,
        ),
        (
            "ContinuousParameterRanges",
            {"MinValue": "0.5", "MaxValue": "0.999", "ScalingType": "ReverseLogarithmic"},
            lambda texts: (
                all(0.5 <= float(text) <= 0.999 for text in texts)
                and 40 < sum(float(text) > 0.95 for text in texts) < 85
            ),
        ),
        ("CategoricalParameterRanges", {"Values": ["adam", "nadam"]}, lambda texts: set(texts) == {"adam", "nadam"}),
    ],
    ids=["logarithmic", "linear", "reverse-logarithmic", "categorical"],
)
def test_ranges_and_scalings_are_kept(kind, entry, check):
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    tuned = TunedRange(kind, {"Name": "any", **entry})
    texts = [tuned.suggest(study.ask()) for _ in range(100)]
    assert check(texts)
    assert all(tuned.distribution._contains(tuned.distribution.to_internal_repr(tuned.parse(text))) for text in texts)


def test_parallel_trials_share_the_cores(launch, tune):
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one core cannot be shared out")
    found = tune("--max-jobs", 4, "--max-parallel", 2, "--env", "STUB_SECONDS=0.2", ranges=ONE_RANGE)
    records = [launch.record(trial["TrainingJobName"]) for trial in found["Trials"]]
    assert records[0]["Cores"] != records[1]["Cores"]
    for record in records:
        seen = launch.record(record["TrainingJobName"], "output/data/seen.json")
        assert seen["cores"] == len(record["Cores"]) < len(os.sched_getaffinity(0))


def test_trials_worse_than_the_median_are_stopped_early(tune):
    found = tune(
        "--max-jobs",
        6,
        "--set",
        "epochs=8",
        "--env",
        "STUB_SECONDS=0.1",
        ranges=ONE_RANGE,
        Strategy="Random",
        TrainingJobEarlyStoppingType="Auto",
    )
    statuses = [trial["TrainingJobStatus"] for trial in found["Trials"]]
    assert statuses[:3] == ["Completed"] * 3  # there is nothing to compare with
    assert "Stopped" in statuses
    assert found["BestTrainingJob"]["TrainingJobStatus"] == "Completed"
    assert found["Luck"]["tries"] == 6  # stopped ones are tries too


def test_an_objective_that_comes_once_a_job_is_searched_for_and_stops_nothing_early(tune):
    found = tune(
        "--max-jobs",
        6,
        ranges=ONE_RANGE,
        Strategy="Random",
        TrainingJobEarlyStoppingType="Auto",
        HyperParameterTuningJobObjective={"Type": "Maximize", "MetricName": "mean_val_accuracy"},
    )
    assert {trial["TrainingJobStatus"] for trial in found["Trials"]} == {"Completed"}
    best = found["BestTrainingJob"]
    assert best["FinalHyperParameterTuningJobObjectiveMetric"]["MetricName"] == "mean_val_accuracy"
    nearest = min(points(found), key=lambda point: abs(float(point["dropout"]) - 0.3))
    assert best["TunedHyperParameters"] == nearest and len(values(found)) == 6


def test_hyperband_stops_trials_early(tune):
    found = tune(
        "--max-jobs",
        6,
        "--set",
        "epochs=27",
        "--env",
        "STUB_SECONDS=0.05",
        ranges=ONE_RANGE,
        Strategy="Hyperband",
        StrategyConfig={"HyperbandStrategyConfig": {"MinResource": 1, "MaxResource": 27}},
    )
    assert found["HyperParameterTuningJobStatus"] == "Completed"
    assert [trial["TrainingJobStatus"] for trial in found["Trials"]].count("Stopped") >= 1


def test_a_reached_target_ends_the_search(tune):
    found = tune("--max-jobs", 30, ranges=ONE_RANGE, TuningJobCompletionCriteria={"TargetObjectiveMetricValue": 0.8})
    assert len(found["Trials"]) < 30
    assert max(values(found)) >= 0.8
    assert "0.8" in found["CompletionReason"]


def test_no_better_objective_for_long_ends_the_search(tune):
    found = tune(
        "--max-jobs",
        30,
        ranges=ONE_RANGE,
        Strategy="Random",
        TuningJobCompletionCriteria={"BestObjectiveNotImproving": {"MaxNumberOfTrainingJobsNotImproving": 3}},
    )
    scores = values(found)
    assert len(scores) < 30
    assert scores.index(max(scores)) == len(scores) - 4


def test_failing_trials_end_the_search_and_tell_why(launch, tmp_path):
    out = launch("tune", *launch.stub, "--set", "optimizer=sgd", "--name", "t", expect=1)
    assert len(list(launch.runs.glob("t-*"))) == 3
    assert (
        out.rstrip().splitlines()[-1]
        == "All training jobs failed; the last: AlgorithmError: sgd is not for me, exit code: 1"
    )


def test_a_search_learns_from_an_earlier_one(launch, tune):
    parent = tune("--max-jobs", 4, ranges=ONE_RANGE, name="parent")
    child = tune("--max-jobs", 2, "--warm-start", "parent", ranges=ONE_RANGE, name="child", RandomSeed=7)
    study = optuna.load_study(study_name="child", storage=f"sqlite:///{launch.runs / 'child' / 'search.db'}")
    assert [trial.value for trial in study.trials[:4]] == values(parent)
    assert [trial["TrainingJobName"] for trial in child["Trials"]] == ["child-001", "child-002"]
    assert "there is no tuning job orphan" in launch("tune", *launch.stub, "--warm-start", "orphan", expect=1)


def test_ctrl_c_stops_the_search_and_resume_goes_on(launch):
    process = launch.start("tune", *launch.stub, "--name", "t", "--max-jobs", 3, "--env", "STUB_SECONDS=0.3")
    launch.wait_for(lambda: b"epoch=1/" in (launch.runs / "t-002" / "job.log").read_bytes())
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 130
    assert launch.record("t", "tuning_job.json")["HyperParameterTuningJobStatus"] == "Stopped"
    first = launch.record("t-001")["CreationTime"]
    launch("tune", "--resume", "t")
    records = [launch.record(f"t-{number:03d}") for number in range(1, 4)]
    assert [record["TrainingJobStatus"] for record in records] == ["Completed"] * 3
    assert records[0]["CreationTime"] == first  # a finished trial is not repeated
    assert "is Completed" in launch("tune", "--resume", "t", expect=1)


def test_killed_at_three_random_moments_no_trial_is_lost_or_doubled(launch, tune):
    undisturbed = points(tune("--max-jobs", 6, "--max-parallel", 2, name="u", Strategy="Random"))
    chance = random.Random()
    # A trial takes 3 s, so that the last two cannot have ended by the third kill, whatever ends between two.
    launch(
        "tune",
        *launch.stub,
        "--name",
        "t",
        "--detach",
        "--env",
        "STUB_SECONDS=1",
        launch.runs.parent / "u.yaml",
        "--max-jobs",
        6,
        "--max-parallel",
        2,
    )
    finished = {}
    for _ in range(3):
        search = launch.wait_for(lambda: launch.record("t", "tuning_job.json")["SearchPid"])
        time.sleep(chance.uniform(0, 1.5))
        victims = [search]
        if chance.random() < 0.5:  # the machine goes down, jobs and all
            for path in launch.runs.glob("t-*/training_job.json"):
                record = json.loads(path.read_text())
                if record["TrainingJobStatus"] == "InProgress" and "RunnerPid" in record:
                    victims += [record["RunnerPid"], *children(record["RunnerPid"])]
        for victim in victims:
            kill(victim)
        launch.wait_for(lambda: "Failed" in launch("status", "t"))
        finished |= {
            path.parent.name: record["TrainingEndTime"]
            for path in launch.runs.glob("t-*/training_job.json")
            if (record := json.loads(path.read_text()))["TrainingJobStatus"] == "Completed"
        }
        launch("tune", "--resume", "t", "--detach")
    launch("logs", "t")
    found = json.loads(launch("status", "t", "--json"))
    assert found["HyperParameterTuningJobStatus"] == "Completed"
    assert [(trial["TrainingJobName"], trial["TrainingJobStatus"]) for trial in found["Trials"]] == [
        (f"t-{number:03d}", "Completed") for number in range(1, 7)
    ]
    for name, ended in finished.items():
        assert launch.record(name)["TrainingEndTime"] == ended
    assert points(found) == undisturbed
    study = optuna.load_study(study_name="t", storage=f"sqlite:///{launch.runs / 't' / 'search.db'}")
    assert [trial.value for trial in study.trials] == values(found)


def test_stop_reaches_what_a_killed_search_left_running(launch):
    launch(
        "tune",
        *launch.stub,
        "--set",
        "epochs=600",
        "--env",
        "STUB_SECONDS=0.05",
        "--name",
        "t",
        "--max-jobs",
        2,
        "--max-parallel",
        1,
        "--detach",
    )
    launch.wait_for(lambda: b"epoch=1/" in (launch.runs / "t-001" / "job.log").read_bytes())
    kill(launch.record("t", "tuning_job.json")["SearchPid"])
    launch.wait_for(lambda: "Failed" in launch("status", "t"))
    assert launch.record("t-001")["TrainingJobStatus"] == "InProgress"
    assert "was asked to stop" in launch("stop", "t")
    launch.wait_for(lambda: launch.record("t-001")["TrainingJobStatus"] == "Stopped")
    assert "has ended already" in launch("stop", "t")


def test_a_search_that_failed_goes_on_once_its_cause_is_mended(launch, tune, tmp_path):
    found = tune("--max-jobs", 6, "--set", "optimizer=sgd", expect=1)
    assert found["HyperParameterTuningJobStatus"] == "Failed" and len(found["Trials"]) == 3
    job = tmp_path / "stub" / "stub_job.py"
    job.write_text(job.read_text().replace('== "sgd"', '== "nothing"'))
    launch("tune", "--resume", "t")
    found = json.loads(launch("status", "t", "--json"))
    assert found["HyperParameterTuningJobStatus"] == "Completed"
    assert [trial["TrainingJobStatus"] for trial in found["Trials"]] == ["Failed"] * 3 + ["Completed"] * 3


def test_resume_takes_no_options_of_a_request(launch):
    told = launch("tune", "--resume", "t", "--max-jobs", 5, "--dry-run", expect=2)
    assert "--resume goes on with the request that the tuning job had" in told and "'--max-jobs', '--dry-run'" in told


def kill(pid):
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def children(pid):
    try:
        return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))
    except FileNotFoundError:
        return []
