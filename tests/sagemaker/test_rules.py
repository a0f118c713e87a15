"""Checking requests: every wrong one is told before AWS hears of it."""

import copy
from pathlib import Path

import botocore.session
import botocore.validate
import pytest
import yaml
from click.testing import CliRunner

from aws_model import find_problems
from build import add_metric_definitions, read_request
from launch import main
from launching import IMAGE_URI, REPOSITORY, ROLE
from ml.metrics import METRICS, metric_definitions
from place.find import make_place
from request import TRAINING, TUNING, operation_of
from rules import WrongRequest, check

FOLDER = REPOSITORY / "sagemaker"


@pytest.fixture
def training():
    request = read_request(FOLDER / "training_job.yaml", TRAINING)
    request["HyperParameters"]["prices_db"] = "s3://prices"
    return request


@pytest.fixture
def tuning():
    request = read_request(FOLDER / "tuning_job.yaml", TUNING)
    request["TrainingJobDefinition"]["StaticHyperParameters"]["prices_db"] = "s3://prices"
    return request


def put(request, path, value):
    """Sets a value by a path such as ResourceConfig.InstanceType."""
    *parents, last = path.split(".")
    for name in parents:
        request = request.setdefault(name, {}) if isinstance(request, dict) else request[int(name)]
    if isinstance(request, list):
        request.append(value)
    else:
        request[last] = value


def check_in(place, request):
    check(request, make_place(place, Path("runs")).problems_with)


def problems(request, place="local"):
    with pytest.raises(WrongRequest) as error:
        check_in(place, request)
    return error.value.problems


@pytest.mark.parametrize("name", ["training_job.yaml", "tuning_job.yaml"])
def test_the_files_are_valid_as_they_are(name):
    request = yaml.safe_load((FOLDER / name).read_text())
    shape = (
        botocore.session.get_session().get_service_model("sagemaker").operation_model(operation_of(request)).input_shape
    )
    assert not botocore.validate.ParamValidator().validate(request, shape).has_errors()
    assert list(find_problems(request)) == []


def test_the_shipped_requests_pass_where_they_name_prices(training, tuning):
    check_in("local", training)
    check_in("local", tuning)


# path, value, and what the one message must name: the key, what was received, what is allowed
TRAINING_MISTAKES = [
    ("TrainingJobName", "a_b", ["TrainingJobName", "'a_b'", "[a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}"]),
    ("TrainingJobName", "x" * 64, ["TrainingJobName", "64", "1 to 63 characters"]),
    ("ResourceConfig.InstanceType", "ml.g5.xlrge", ["ResourceConfig.InstanceType", "'ml.g5.xlrge'", "ml.g5.xlarge"]),
    ("ResourceConfig.InstanceCount", "one", ["ResourceConfig.InstanceCount", "'one'", "a whole number"]),
    ("ResourceConfig.InstanceCount", 0, ["ResourceConfig.InstanceCount", "received 0", "must be at least 1"]),
    ("ResourceConfig.KeepAlivePeriodInSeconds", 30000, ["KeepAlivePeriodInSeconds", "30000", "[0, 21600]"]),
    ("ResourceConfig.InstanceTyp", "ml.g5.xlarge", ["InstanceTyp", "'ml.g5.xlarge'", "did you mean InstanceType?"]),
    ("StoppingCondition.MaxRuntimeInSeconds", 3_000_000, ["MaxRuntimeInSeconds", "3000000", "2419200"]),
    ("StoppingCondition.MaxWaitTimeInSeconds", 90000, ["MaxWaitTimeInSeconds", "90000", "only spot"]),
    ("EnableManagedSpotTraining", True, ["MaxWaitTimeInSeconds", "missing", "at least"]),
    ("EnableManagedSpotTraining", "yes", ["EnableManagedSpotTraining", "'yes'", "true or false"]),
    ("RoleArn", "arn:aws:iam::1:role/trainer", ["RoleArn", "'arn:aws:iam::1:role/trainer'", "must match arn:aws"]),
    ("AlgorithmSpecification.TrainingInputMode", "Fast", ["TrainingInputMode", "'Fast'", "FastFile"]),
    ("AlgorithmSpecification.TrainingImage", "i" * 300, ["TrainingImage", "300", "0 to 255"]),
    ("RetryStrategy.MaximumRetryAttempts", 31, ["MaximumRetryAttempts", "31", "[1, 30]"]),
    ("VpcConfig", {"Subnets": ["subnet-1"]}, ["VpcConfig.SecurityGroupIds", "missing", "required"]),
    ("Environment", {"A": "x" * 600}, ["Environment.A", "600", "0 to 512"]),
    ("Tags", [{"Key": str(n), "Value": "1"} for n in range(51)], ["Tags", "51 entries", "0 to 50"]),
    ("HyperParameters.dropuot", "0.1", ["HyperParameters", "dropuot", "did you mean dropout?"]),
    ("HyperParameters.dropout", "1", ["dropout", "'1'", "[0, 1)"]),
    ("HyperParameters.preset", "origin", ["preset", "'origin'", "default, original"]),
    ("HyperParameters.epochs", "many", ["epochs", "'many'", "a whole number"]),
    ("HyperParameters.optimizer", "lion", ["optimizer", "'lion'", "adam, adamw"]),
    ("EnableNetworkIsolation", True, ["HyperParameters.prices_db", "'s3://prices'", "EnableNetworkIsolation"]),
    ("HyperParameters.prices_db", "", ["InputDataConfig", "no channel", "'train'"]),
]


@pytest.mark.parametrize(("path", "value", "named"), TRAINING_MISTAKES, ids=lambda value: str(value)[:40])
def test_a_wrong_training_job_is_told(training, path, value, named):
    put(training, path, value)
    found = problems(training)
    assert len(found) == 1
    for part in named:
        assert part in found[0]


CONFIG = "HyperParameterTuningJobConfig"
RANGES = f"{CONFIG}.ParameterRanges"
TUNING_MISTAKES = [
    ("HyperParameterTuningJobName", "x" * 33, ["HyperParameterTuningJobName", "33", "1 to 32"]),
    (f"{CONFIG}.Strategy", "Grid", ["Strategy", "lookback", "CategoricalParameterRanges only"]),
    (f"{CONFIG}.Strategy", "Bayes", ["Strategy", "'Bayes'", "Bayesian, Random, Hyperband, Grid"]),
    (f"{CONFIG}.ResourceLimits.MaxParallelTrainingJobs", 9, ["MaxParallelTrainingJobs", "9", "(8)"]),
    (f"{CONFIG}.ResourceLimits.MaxRuntimeInSeconds", 60, ["MaxRuntimeInSeconds", "60", "[120, 15768000]"]),
    (f"{CONFIG}.HyperParameterTuningJobObjective.MetricName", "auc", ["MetricName", "'auc'", "best_val_accuracy"]),
    (f"{CONFIG}.HyperParameterTuningJobObjective.Type", "Minimize", ["Type", "'Minimize'", "Maximize"]),
    (
        f"{RANGES}.IntegerParameterRanges.+",
        {"Name": "layers", "MinValue": "4", "MaxValue": "2"},
        ["layers", "4 and 2", "MinValue must be below MaxValue"],
    ),
    (
        f"{RANGES}.IntegerParameterRanges.+",
        {"Name": "dropout2", "MinValue": "1", "MaxValue": "2"},
        ["dropout2", "did you mean dropout?"],
    ),
    (
        f"{RANGES}.IntegerParameterRanges.+",
        {"Name": "horizon", "MinValue": "3", "MaxValue": "9"},
        ["horizon", "tunable are"],
    ),
    (
        f"{RANGES}.ContinuousParameterRanges.+",
        {"Name": "layers", "MinValue": "1", "MaxValue": "4"},
        ["layers", "IntegerParameterRanges", "ContinuousParameterRanges"],
    ),
    (
        f"{RANGES}.IntegerParameterRanges.+",
        {"Name": "seed", "MinValue": "0", "MaxValue": "9", "ScalingType": "Logarithmic"},
        ["seed", "received 0", "above 0"],
    ),
    (
        f"{RANGES}.IntegerParameterRanges.+",
        {"Name": "seed", "MinValue": "0", "MaxValue": "9", "ScalingType": "ReverseLogarithmic"},
        ["seed", "0 to 9", "[0, 1)"],
    ),
    (
        f"{RANGES}.CategoricalParameterRanges",
        [{"Name": "optimizer", "Values": ["adam", "lion"]}],
        ["optimizer", "'lion'", "adam, adamw"],
    ),
    (
        f"{RANGES}.CategoricalParameterRanges",
        [{"Name": "seed", "Values": [str(n + 1) for n in range(31)]}],
        ["Values", "31 entries", "1 to 30"],
    ),
    ("TrainingJobDefinition.StaticHyperParameters.dropout", "0.1", ["dropout", "'0.1'", "tuned as well"]),
    ("TrainingJobDefinition.StaticHyperParameters.preset", "origin", ["preset", "'origin'", "default, original"]),
    (
        "TrainingJobDefinition.StaticHyperParameters.validation_fraction",
        "0",
        ["MetricName", "'best_val_accuracy'", "validation_fraction=0"],
    ),
    (
        f"{CONFIG}.TuningJobCompletionCriteria",
        {"ConvergenceDetected": {"CompleteOnConvergence": "Enabled"}},
        ["ConvergenceDetected", "only SageMaker"],
    ),
    ("TrainingJobDefinition.TensorBoardOutputConfig", {}, ["TensorBoardOutputConfig", "unknown key"]),
]


@pytest.mark.parametrize(("path", "value", "named"), TUNING_MISTAKES, ids=lambda value: str(value)[:40])
def test_a_wrong_tuning_job_is_told(tuning, path, value, named):
    put(tuning, path, value)
    found = problems(tuning)
    assert len(found) == 1
    for part in named:
        assert part in found[0]


def test_hyperbands_rules(tuning):
    config, job = tuning[CONFIG], tuning["TrainingJobDefinition"]
    config["Strategy"] = "Hyperband"
    del job["StaticHyperParameters"]["epochs"]
    found = "\n".join(problems(tuning))
    assert "TrainingJobEarlyStoppingType: must be Off with Hyperband" in found
    assert "MaxResource: missing" in found
    config["TrainingJobEarlyStoppingType"] = "Off"
    config["StrategyConfig"] = {"HyperbandStrategyConfig": {"MinResource": 1, "MaxResource": 9}}
    check_in("local", tuning)
    config["HyperParameterTuningJobObjective"]["MetricName"] = "val_auc"
    assert "Hyperband needs a metric of every epoch, received 'val_auc'" in problems(tuning)[0]


@pytest.mark.parametrize("name", [name for name, metric in METRICS.items() if metric.goal])
def test_every_metric_with_a_goal_can_be_tuned_for(tuning, name):
    tuning[CONFIG]["HyperParameterTuningJobObjective"] = {"Type": METRICS[name].goal, "MetricName": name}
    check_in("local", tuning)


def test_there_is_room_for_more_metrics():
    assert len(metric_definitions()) < 40  # as many as SageMaker takes


def test_all_problems_are_told_at_once(training):
    for path, value, _ in TRAINING_MISTAKES[:1] + TRAINING_MISTAKES[2:3] + TRAINING_MISTAKES[-5:-3]:
        put(training, path, value)
    assert len(problems(training)) == 4


def test_the_users_own_script_takes_what_it_likes(training):
    training["HyperParameters"] |= {"sagemaker_program": "mine.py", "anything": "goes"}
    check_in("local", training)


def test_what_the_sdks_estimator_sends_is_right():
    """As recorded of `sagemaker.estimator.Estimator(...).fit({"train": "s3://..."})`, SDK 2.257.7."""
    results = "s3://prices/position-trainer/jobs"
    check_in(
        "aws",
        {
            "AlgorithmSpecification": {
                "TrainingInputMode": "File",
                "TrainingImage": IMAGE_URI,
                "MetricDefinitions": metric_definitions(),
            },
            "OutputDataConfig": {"S3OutputPath": results},
            "TrainingJobName": "position-trainer-2026-11-24-14-46-17-719",
            "StoppingCondition": {"MaxRuntimeInSeconds": 86400},
            "ResourceConfig": {"VolumeSizeInGB": 30, "InstanceCount": 1, "InstanceType": "ml.g5.xlarge"},
            "RoleArn": ROLE,
            "InputDataConfig": [
                {
                    "ChannelName": "train",
                    "DataSource": {
                        "S3DataSource": {
                            "S3DataType": "S3Prefix",
                            "S3Uri": "s3://prices/history/",
                            "S3DataDistributionType": "FullyReplicated",
                        }
                    },
                }
            ],
            "HyperParameters": {"lookback": "60", "dropout": "0.1", "optimizer": "adam", "tensorboard": "False"},
            "DebugHookConfig": {"S3OutputPath": results, "CollectionConfigurations": []},
            "ProfilerConfig": {"S3OutputPath": results, "DisableProfiler": False},
        },
    )


def test_placeholders_are_for_this_machine_only(training):
    check_in("docker", copy.deepcopy(training))
    found = problems(training, "aws")
    assert [problem.split(":")[0] for problem in found] == [
        "RoleArn",
        "AlgorithmSpecification.TrainingImage",
        "OutputDataConfig.S3OutputPath",
    ]


def test_a_script_of_the_users_keeps_its_metrics(training):
    training["HyperParameters"]["sagemaker_program"] = "own.py"
    own = [{"Name": "f1", "Regex": "f1=([0-9.]+)"}]
    training["AlgorithmSpecification"]["MetricDefinitions"] = own
    add_metric_definitions(training)
    assert training["AlgorithmSpecification"]["MetricDefinitions"] == own
    for regex, told in (("f1=[0-9.]+", "must have a group for the value"), ("f1=(", "is no regular expression")):
        own[0]["Regex"] = regex
        assert told in problems(training)[0]
    del own[0]["Regex"]
    assert problems(training) == ["AlgorithmSpecification.MetricDefinitions[0].Regex: missing; it is required"]


def test_folders_of_this_machine_are_told_where_sagemaker_would_look_for_them(training):
    training["HyperParameters"] |= {"prices_db": "files://home/me/kydb", "model_db": "files://home/me/kydb"}
    found = [problem.split(":")[0] for problem in problems(training, "aws")]
    assert {"HyperParameters.prices_db", "HyperParameters.model_db"} <= set(found)
    check_in("local", training)


def test_prices_that_would_not_be_read_are_told(training):
    training["InputDataConfig"] = [
        {
            "ChannelName": "train",
            "DataSource": {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": "s3://prices/history/"}},
        }
    ]
    assert problems(training) == [
        "InputDataConfig.train: would not be read, since HyperParameters.prices_db is 's3://prices'; remove one of them"
    ]


def test_a_source_that_only_aws_has_is_told_elsewhere(training):
    training["InputDataConfig"] = [
        {
            "ChannelName": "train",
            "DataSource": {
                "FileSystemDataSource": {
                    "FileSystemId": "fs-12345678901",
                    "FileSystemAccessMode": "ro",
                    "FileSystemType": "EFS",
                    "DirectoryPath": "/prices",
                }
            },
        }
    ]
    training["VpcConfig"] = {"Subnets": ["subnet-1"], "SecurityGroupIds": ["sg-1"]}
    del training["HyperParameters"]["prices_db"]
    assert "InputDataConfig.train: must be in S3 or on this machine" in problems(training)[0]
    assert not any("InputDataConfig" in problem for problem in problems(training, "aws"))


def test_no_wrong_request_reaches_aws(monkeypatch):
    def refuse(*_arguments, **_options):
        raise AssertionError("AWS was called")

    monkeypatch.setattr("botocore.client.BaseClient._make_api_call", refuse)
    result = CliRunner().invoke(main, ["train", "--on", "aws", "--region", "eu-west-1", "--set", "dropuot=1"])
    assert result.exit_code == 1
    assert "the request has 5 problems, nothing was started" in result.stderr
