"""Building requests: the file, the options, and what the launcher adds."""

import re

import pytest
import yaml
from click.testing import CliRunner

from build import read_request
from launch import main
from launching import ACCOUNT, IMAGE_URI, REGION, REPOSITORY, ROLE
from ml import __version__
from ml.hyperparameters import parse_settings
from ml.metrics import metric_definitions
from ml.settings import PRESETS
from request import TRAINING, hyperparameters_of, ranges_of, s3_sources

FOLDER = REPOSITORY / "sagemaker"
CONFIG = "HyperParameterTuningJobConfig"


def test_scalars_become_the_text_that_sagemaker_takes(tmp_path):
    (tmp_path / "request.yaml").write_text(
        "HyperParameters: {epochs: 3, dropout: 0.5, tensorboard: no, start_date: 2020-01-01, model_db: }\n"
    )
    assert read_request(tmp_path / "request.yaml", TRAINING)["HyperParameters"] == {
        "epochs": "3",
        "dropout": "0.5",
        "tensorboard": "false",
        "start_date": "2020-01-01",
        "model_db": "",
    }


@pytest.mark.parametrize(
    "text", ["[]", "a: [", "HyperParameters: [1]", "ResourceConfig: ml.g5.xlarge", "Tags: 2020-02-30"]
)
def test_a_file_that_is_no_request_is_told(tmp_path, text):
    (tmp_path / "request.yaml").write_text(text)
    result = CliRunner().invoke(main, ["train", str(tmp_path / "request.yaml")])
    assert result.exit_code == 1
    assert result.stderr.startswith(("error: the request ", "the request has 1 problem, nothing was started:"))


@pytest.mark.parametrize(
    ("text", "arguments", "told"),
    [
        ("Tags: {team: fx}", ["--tag", "a=b"], "Tags: must be a list, received {'team': 'fx'}"),
        ("InputDataConfig: [x]", ["--prices", __file__], "InputDataConfig[0]: must be a mapping, received 'x'"),
        (
            "StoppingCondition: {MaxRuntimeInSeconds: }",
            ["--spot"],
            "StoppingCondition.MaxRuntimeInSeconds: must be a whole number, received None",
        ),
        ("TrainingJobDefinition: [1]", ["--on", "aws"], "TrainingJobDefinition: unknown key"),
    ],
)
def test_a_value_of_a_wrong_type_is_told_whatever_the_options(tmp_path, text, arguments, told):
    (tmp_path / "request.yaml").write_text(text)
    result = CliRunner().invoke(main, ["train", str(tmp_path / "request.yaml"), *arguments])
    assert result.exit_code == 1 and told in result.stderr


def test_a_request_for_the_other_command_is_told():
    for command, file, told in (("train", "tuning_job.yaml", "has a"), ("tune", "training_job.yaml", "has no")):
        result = CliRunner().invoke(main, [command, str(FOLDER / file)])
        assert (
            result.stderr == f"error: the request {FOLDER / file} {told} HyperParameterTuningJobConfig; `train` "
            "takes a CreateTrainingJob, `tune` a CreateHyperParameterTuningJob request\n"
        )


ON_AWS = ["--on", "aws", *ACCOUNT, "--region", REGION, "--prices", "s3://prices/history/"]


def dry_run(command, *arguments):
    """The request that a command would send to SageMaker."""
    result = CliRunner().invoke(main, [command, "--dry-run", *ON_AWS, *arguments])
    assert result.exit_code == 0, result.output
    return yaml.safe_load(result.stdout)


def test_hyperbands_resource_is_the_epochs_in_every_place(tmp_path):
    tuning = yaml.safe_load((FOLDER / "tuning_job.yaml").read_text())
    del tuning["TrainingJobDefinition"]["StaticHyperParameters"]["epochs"]
    tuning["HyperParameterTuningJobConfig"] |= {
        "Strategy": "Hyperband",
        "TrainingJobEarlyStoppingType": "Off",
        "StrategyConfig": {"HyperbandStrategyConfig": {"MinResource": 1, "MaxResource": 27}},
    }
    (tmp_path / "request.yaml").write_text(yaml.safe_dump(tuning))
    request = dry_run("tune", str(tmp_path / "request.yaml"))
    assert hyperparameters_of(request)["epochs"] == "27"


def test_every_override_lands_where_sagemaker_wants_it():
    request = dry_run(
        "train",
        "--name",
        "one",
        "--set",
        "epochs=3",
        "--instance-type",
        "ml.m5.xlarge",
        "--volume-size",
        "50",
        "--spot",
        "--max-runtime",
        "3600",
        "--subnet",
        "subnet-1",
        "--security-group",
        "sg-1",
        "--kms-key",
        "key",
        "--env",
        "A=1",
        "--tag",
        "team=fx",
        "--network-isolation",
        "--channel",
        "more=s3://prices/more/",
    )
    assert request["TrainingJobName"] == "one"
    assert request["RoleArn"] == ROLE
    assert request["AlgorithmSpecification"]["TrainingImage"] == IMAGE_URI
    assert request["AlgorithmSpecification"]["MetricDefinitions"] == metric_definitions()
    assert request["HyperParameters"]["epochs"] == "3"
    assert {name: source["S3Uri"] for name, source in s3_sources(request).items()} == {
        "train": "s3://prices/history/",
        "more": "s3://prices/more/",
    }
    assert request["OutputDataConfig"] == {"S3OutputPath": "s3://prices/position-trainer/jobs", "KmsKeyId": "key"}
    assert request["ResourceConfig"] == {
        "InstanceType": "ml.m5.xlarge",
        "InstanceCount": 1,
        "VolumeSizeInGB": 50,
        "VolumeKmsKeyId": "key",
    }
    assert request["StoppingCondition"] == {"MaxRuntimeInSeconds": 3600, "MaxWaitTimeInSeconds": 7200}
    assert request["CheckpointConfig"] == {"S3Uri": "s3://prices/position-trainer/checkpoints/one"}
    assert request["VpcConfig"] == {"Subnets": ["subnet-1"], "SecurityGroupIds": ["sg-1"]}
    assert request["Environment"] == {"A": "1"}
    assert request["Tags"] == [{"Key": "team", "Value": "fx"}]
    assert request["EnableManagedSpotTraining"] is request["EnableNetworkIsolation"] is True


def test_set_takes_a_hyperparameter_out_of_the_ranges():
    request = dry_run("tune", "--set", "dropout=0.1", "--max-jobs", "20", "--max-parallel", "4", "--strategy", "Random")
    assert request["TrainingJobDefinition"]["StaticHyperParameters"]["dropout"] == "0.1"
    assert [entry["Name"] for _, entry in ranges_of(request)] == ["lookback", "nodes", "learning_rate"]
    assert request[CONFIG]["ResourceLimits"] == {"MaxNumberOfTrainingJobs": 20, "MaxParallelTrainingJobs": 4}


@pytest.mark.parametrize("command", ["train", "tune"])
def test_a_preset_gives_all_that_the_request_does_not(command):
    request = dry_run(command, "--set", "preset=original", "--set", "batch_size=512")
    given = hyperparameters_of(request)
    expected = PRESETS["original"] | {"batch_size": 512} | ({"epochs": 3} if command == "tune" else {})
    settings = parse_settings(given)
    assert {name: getattr(settings, name) for name in expected} == expected
    assert len(ranges_of(request)) == (4 if command == "tune" else 0)  # which win over it as well


def test_trials_do_not_publish():
    request = dry_run(
        "tune",
        "--set",
        "model_db=s3://m",
    )
    assert "model_db" not in request["TrainingJobDefinition"]["StaticHyperParameters"]


def test_files_on_this_machine_are_sent_from_s3(tmp_path):
    (tmp_path / "prices.csv").write_text("dt,mid\n")
    request = dry_run("train", "--name", "one", "--channel", f"other={tmp_path / 'prices.csv'}")
    uri = s3_sources(request)["other"]["S3Uri"]
    assert re.fullmatch("s3://prices/position-trainer/inputs/one-[0-9a-f]{8}/other/", uri)


@pytest.mark.parametrize("arguments", [["--set", "epochs"], ["--on", "moon"], ["--max-runtime", "long"]])
def test_a_wrong_option_is_told_by_the_command_line(arguments):
    result = CliRunner().invoke(main, ["train", *arguments])
    assert result.exit_code == 2
    assert arguments[1] in result.output


@pytest.mark.parametrize("given", ["prices", "prices/", "s3://prices", "s3://prices/"])
@pytest.mark.parametrize("source", ["option", "environment", "settings file"])
def test_a_bucket_is_a_name_however_it_is_written(tmp_path, monkeypatch, given, source):
    arguments = [
        "train",
        "--on",
        "aws",
        "--role",
        ROLE,
        "--image",
        IMAGE_URI,
        "--prices",
        "s3://prices/a/",
        "--dry-run",
    ]
    if source == "option":
        arguments += ["--bucket", given]
    elif source == "environment":
        monkeypatch.setenv("POSITION_TRAINER_BUCKET", given)
    else:
        (tmp_path / "settings.yaml").write_text(f"bucket: {given}\n")
        arguments = ["--settings-file", str(tmp_path / "settings.yaml"), *arguments]
    request = yaml.safe_load(CliRunner().invoke(main, arguments).stdout)
    assert request["OutputDataConfig"]["S3OutputPath"] == "s3://prices/position-trainer/jobs"


@pytest.mark.parametrize("given", ["s3://prices/folder", "s3://s3://prices", "https://prices", "a", "-prices-", "p b"])
def test_what_is_no_bucket_is_told(given):
    result = CliRunner().invoke(main, ["train", "--bucket", given])
    assert result.exit_code == 2
    assert "--bucket" in result.stderr and "a bucket is a name" in " ".join(result.stderr.split())


def test_a_kms_key_encrypts_the_results_alone_where_the_instance_has_disks_of_its_own():
    arguments = ["train", "--dry-run", *ON_AWS, "--kms-key", "key", "--instance-type", "ml.g5.xlarge"]
    result = CliRunner().invoke(main, arguments)
    request = yaml.safe_load(result.stdout)
    assert request["OutputDataConfig"]["KmsKeyId"] == "key"
    assert "VolumeKmsKeyId" not in request["ResourceConfig"]
    assert "the disks of ml.g5.xlarge are encrypted by its hardware" in result.stderr


def test_a_tag_of_the_command_line_replaces_the_requests(tmp_path):
    request = yaml.safe_load((FOLDER / "training_job.yaml").read_text())
    request["Tags"] = [{"Key": "team", "Value": "eq"}, {"Key": "desk", "Value": "a"}]
    (tmp_path / "request.yaml").write_text(yaml.safe_dump(request))
    tags = dry_run("train", str(tmp_path / "request.yaml"), "--tag", "team=fx")["Tags"]
    assert tags == [{"Key": "desk", "Value": "a"}, {"Key": "team", "Value": "fx"}]


@pytest.mark.parametrize("folder", ["a:b", "a;b", "a|b"])
def test_a_runs_folder_whose_name_would_be_cut_in_two_is_told(tmp_path, folder):
    result = CliRunner().invoke(main, ["list", "--runs", str(tmp_path / folder)])
    assert result.exit_code == 2
    assert "docker mounts and KYDB URLs" in " ".join(result.stderr.split())


def test_the_version_is_told():
    assert CliRunner().invoke(main, ["--version"]).output == f"position-trainer, version {__version__}\n"
