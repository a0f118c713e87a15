"""Tuning requests whose trials are trained together: what becomes of them, what is refused, how points are drawn."""

import itertools
import json

import optuna
import pytest
import yaml
from click.testing import CliRunner
from optuna.trial import TrialState

import leaderboard
from aws_model import find_problems
from launch import main
from launching import ACCOUNT, REGION, REPOSITORY
from members import member_name, population_of, settings_of_member, split_member_name
from search_points import Points

ON_AWS = ["--on", "aws", *ACCOUNT, "--region", REGION, "--prices", "s3://prices/history/"]
HERE = ["--set", "prices_db=s3://prices"]
CONFIG = "HyperParameterTuningJobConfig"


@pytest.fixture
def tune(tmp_path):
    """Runs `tune --dry-run` on the shipped request with changes of its configuration; returns click's result."""

    def run(*options, **config):
        request = yaml.safe_load((REPOSITORY / "sagemaker" / "tuning_job.yaml").read_text())
        more = config.pop("request", {})
        request[CONFIG] |= config
        path = tmp_path / "request.yaml"
        path.write_text(yaml.safe_dump(request | more))
        return CliRunner().invoke(main, ["tune", "--dry-run", *map(str, options), str(path)])

    return run


def test_in_one_job_all_points_of_a_tuning_request_are_one_population(tune):
    result = tune("--in-one-job", "--name", "S", "--set", "halving=2", "--tag", "team=fx", *ON_AWS)
    assert result.exit_code == 0, result.output
    request = yaml.safe_load(result.stdout)
    shipped = yaml.safe_load((REPOSITORY / "sagemaker" / "tuning_job.yaml").read_text())
    assert not find_problems(request)
    assert request["TrainingJobName"] == "S" and CONFIG not in request
    parameters = request["HyperParameters"]
    assert json.loads(parameters.pop("ranges")) == shipped[CONFIG]["ParameterRanges"]
    assert parameters == {
        "epochs": "3",
        "halving": "2",
        "longest_lookback": "720",
        "monitor": "val_accuracy",
        "population": "8",
    }
    assert request["Tags"] == [{"Key": "team", "Value": "fx"}]
    assert request["InputDataConfig"][0]["DataSource"]["S3DataSource"]["S3Uri"] == "s3://prices/history/"
    assert "TrainingJobEarlyStoppingType does nothing\n" in result.stderr  # halving is given
    assert "by monitor=val_accuracy, as the objective asks" in result.stderr


def test_a_grid_in_one_job_is_its_points(tune):
    ranges = {
        "CategoricalParameterRanges": [
            {"Name": "nodes", "Values": ["16", "32"]},
            {"Name": "seed", "Values": ["1", "2"]},
        ]
    }
    limits = {"MaxParallelTrainingJobs": 1, "MaxRuntimeInSeconds": 600}
    result = tune("--in-one-job", *ON_AWS, Strategy="Grid", ParameterRanges=ranges, ResourceLimits=limits)
    assert result.exit_code == 0, result.output
    request = yaml.safe_load(result.stdout)
    assert json.loads(request["HyperParameters"]["points"]) == [
        {"nodes": nodes, "seed": seed} for nodes in ("16", "32") for seed in ("1", "2")
    ]
    assert "population" not in request["HyperParameters"] and "ranges" not in request["HyperParameters"]
    assert request["StoppingCondition"]["MaxRuntimeInSeconds"] == 600


def test_a_packs_trials_count_as_parallel_ones(tune):
    result = tune("--pack", 8, "--max-jobs", 20, *HERE)
    assert result.exit_code == 0, result.output
    request = yaml.safe_load(result.stdout)
    assert request[CONFIG]["ResourceLimits"] == {"MaxNumberOfTrainingJobs": 20, "MaxParallelTrainingJobs": 8}
    static = request["TrainingJobDefinition"]["StaticHyperParameters"]
    assert (static["monitor"], static["longest_lookback"]) == ("val_accuracy", "720")
    assert "each job trains up to 8 trials at once\n" in result.stderr
    assert "--set halving=2 drops the worse half" in result.stderr


def test_a_request_says_itself_by_what_a_job_keeps_its_best(tune):
    result = tune("--pack", 4, "--set", "monitor=val_loss", "--set", "longest_lookback=1000", *HERE)
    static = yaml.safe_load(result.stdout)["TrainingJobDefinition"]["StaticHyperParameters"]
    assert (static["monitor"], static["longest_lookback"]) == ("val_loss", "1000")
    result = tune("--pack", 4, *HERE, HyperParameterTuningJobObjective={"Type": "Minimize", "MetricName": "loss"})
    assert "by val_loss, which need not be the best by loss; --set monitor=" in result.stderr
    assert "monitor" not in yaml.safe_load(result.stdout)["TrainingJobDefinition"]["StaticHyperParameters"]


BATCH = {"IntegerParameterRanges": [{"Name": "batch_size", "MinValue": "64", "MaxValue": "512"}]}
MIXED = BATCH | {"ContinuousParameterRanges": [{"Name": "dropout", "MinValue": "0", "MaxValue": "0.5"}]}
AUC = {"Type": "Maximize", "MetricName": "val_auc"}
HYPERBAND = {"Strategy": "Hyperband", "TrainingJobEarlyStoppingType": "Off"}
PARENT = {
    "WarmStartType": "TransferLearning",
    "ParentHyperParameterTuningJobs": [{"HyperParameterTuningJobName": "p"}],
}


@pytest.mark.parametrize(
    ("options", "config", "told"),
    [
        (["--in-one-job"], {"ParameterRanges": MIXED}, "batch_size: is one value for all networks of a job"),
        (["--in-one-job"], {"HyperParameterTuningJobObjective": AUC}, "must be best_val_accuracy or best_val_loss"),
        (["--in-one-job"], HYPERBAND, "Strategy: Hyperband stops jobs one by one"),
        (["--in-one-job"], {"request": {"WarmStartConfig": PARENT}}, "WarmStartConfig: is for a search"),
        (["--in-one-job", "--set", "population=4"], {}, "population: is set by --in-one-job; remove one of them"),
        (["--in-one-job", "--set", "sagemaker_program=a.py"], {}, "--in-one-job: trains populations, which"),
        (["--pack", 4, "--set", "sagemaker_program=a.py"], {}, "--pack: trains populations, which this project's"),
        (["--pack", 4, "--set", "points=[]"], {}, "points: is set by --pack; remove one of them"),
        (["--pack", 4], HYPERBAND, "--set halving=2, which drops the worse half after each of the first epochs"),
        (["--pack", 4], {"HyperParameterTuningJobObjective": AUC}, "must be a metric of every epoch with --pack"),
        (["--pack", 4], {"ParameterRanges": BATCH}, "ParameterRanges: must have one of lookback, nodes, dropout"),
        (["--pack", 4, "--set", "halving=0.5"], {}, "StaticHyperParameters: hyperparameter halving must be in [1"),
        (["--pack", 4, *ON_AWS], {}, "SageMaker's search starts a job for each trial; give --in-one-job"),
    ],
)
def test_what_no_population_can_do_is_refused_before_anything_starts(tune, options, config, told):
    result = tune(*HERE, *options, **config)
    assert result.exit_code == 1 and told in result.stderr, result.output
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--pack", 4, "--in-one-job"], "give one of the two"),
        (["--pack", 4, "--max-parallel", 2], "--max-parallel counts trials: must be at least --pack (4), received 2"),
        (["--resume", "S", "--pack", 4], "'--pack'"),
    ],
)
def test_contrary_options_are_a_wrong_command_line(tune, options, told):
    result = tune(*options)
    assert result.exit_code == 2 and told in result.stderr


# How points are drawn


def points_of(folder, size, ranges, **config):
    record = {
        "HyperParameterTuningJobName": "S",
        "RandomSeed": 1,
        "Pack": size,
        "TrainingJobDefinition": {},
        CONFIG: {
            "Strategy": "Random",
            "ResourceLimits": {"MaxNumberOfTrainingJobs": 7},
            "HyperParameterTuningJobObjective": {"Type": "Maximize", "MetricName": "best_val_accuracy"},
            "ParameterRanges": ranges,
        }
        | config,
    }
    return Points(folder, record)


def drawn(points):
    found = []
    while (pack := points.next_pack()) is not None:
        found.append([point for _, point in points.draw(pack)])
    return found


def test_a_random_search_tries_the_same_points_in_packs_as_one_by_one(tmp_path):
    ranges = {"ContinuousParameterRanges": MIXED["ContinuousParameterRanges"]}
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    together, alone = drawn(points_of(tmp_path / "a", 3, ranges)), drawn(points_of(tmp_path / "b", 1, ranges))
    assert [len(pack) for pack in together] == [3, 3, 1] and len(alone) == 7
    assert list(itertools.chain(*together)) == list(itertools.chain(*alone))


@pytest.mark.parametrize("strategy", ["Random", "Bayesian"])
def test_the_points_of_a_pack_share_what_a_population_cannot_vary(tmp_path, strategy):
    packs = drawn(points_of(tmp_path, 3, MIXED, Strategy=strategy))
    for pack in packs:
        assert len({point["batch_size"] for point in pack}) == 1
        assert len({point["dropout"] for point in pack}) == len(pack)
    assert len({pack[0]["batch_size"] for pack in packs}) > 1


@pytest.mark.parametrize("drawn_before", [1, 2, 3])
def test_a_pack_that_was_cut_off_while_it_was_drawn_is_drawn_to_its_end(tmp_path, drawn_before):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    whole = [point for _, point in points_of(tmp_path / "a", 3, MIXED, Strategy="Bayesian").draw(0)]
    points = points_of(tmp_path / "b", 3, MIXED, Strategy="Bayesian")
    points.packs[0] = list(range(drawn_before))
    points.draw(0)
    again = points_of(tmp_path / "b", 3, MIXED, Strategy="Bayesian")
    assert again.unfinished_packs() == [0] and again.next_pack() == 1
    assert [point for _, point in again.draw(0)] == whole
    assert len(again.own()) == 3


def test_an_outcome_is_told_once(tmp_path):
    points = points_of(tmp_path, 2, MIXED)
    (first, _), (second, _) = points.draw(0)
    points.tell(first, "Completed", 0.5)
    points.tell(first, "Failed", None)  # of a search that was killed between two and looks again
    points.tell(second, "Stopped", 0.4, epochs=2)
    assert [trial.state for trial in points.own()] == [TrialState.COMPLETE, TrialState.PRUNED]
    assert points.values() == [0.5, 0.4]
    assert points.study.direction == optuna.study.StudyDirection.MAXIMIZE


# Members


def test_a_members_name_is_its_jobs_and_its_number():
    assert split_member_name(member_name("S-001", 12)) == ("S-001", 12)
    for name in ("S-001", "S", "S-", "-3", "S-1e3", "S-٣", "S-99999"):
        assert split_member_name(name) == (name, None)


def entry(number, status="Completed", **values):
    return {"member": number, "settings": {"lookback": 60 * (number + 1)}, "status": status, "epochs": 2} | values


def test_a_jobs_members_are_trials_whatever_it_left():
    record = {
        "TrainingJobName": "one",
        "TrainingJobStatus": "Completed",
        "HyperParameters": {"population": "4", "ranges": "{}", "epochs": "3", "prices_db": "s3://p", "halving": "2"},
    }
    metrics = {
        "member": 1,
        "population": [
            entry(0, "Pruned", metrics={"val_loss": 0.7}),
            entry(1, metrics={"val_loss": 0.6, "best_val_loss": 0.5}),
            entry(2, "Diverged", metrics={}),
            entry(3, "?", metrics={"val_loss": None}),
            "no entry",
        ],
    }
    tuning, trials = population_of(record, metrics)
    assert [trial["TrainingJobStatus"] for trial in trials] == ["Stopped", "Completed", "Failed", "Failed"]
    objectives = [trial.get("FinalHyperParameterTuningJobObjectiveMetric", {}).get("Value") for trial in trials]
    assert objectives == [0.7, 0.5, None, None]
    assert [trial["Kept"] for trial in trials] == [False, True, False, False]
    assert tuning[CONFIG]["HyperParameterTuningJobObjective"] == {"Type": "Minimize", "MetricName": "best_val_loss"}
    assert settings_of_member(record["HyperParameters"], trials, 1) == {
        "epochs": "3",
        "prices_db": "s3://p",
        "lookback": "120",
        "longest_lookback": "240",  # as all of them had it
    }
    assert tuning[CONFIG]["ParameterRanges"]["CategoricalParameterRanges"] == [
        {"Name": "lookback", "Values": ["60", "120", "180", "240"]}
    ]
    assert leaderboard.page(tuning, trials).count("<figure>") == 2  # over time, against lookback
    assert "longest_lookback" not in settings_of_member(record["HyperParameters"], trials, 3)
    failed = population_of(record | {"TrainingJobStatus": "Failed", "FailureReason": "why"}, metrics)[1]
    assert {(trial["FailureReason"], trial["Kept"]) for trial in failed} == {("why", False)}
    assert population_of(record, {})[1] == []
