"""The offline check against the sentences of AWS's documentation, and the rules that our job adds to them.

Each row changes a right request and says which of the rules it breaks, or None where AWS takes it.
"""

import copy
import gzip
import json
from pathlib import Path

import boto3
import moto
import pytest

from build import read_request
from instances import has_local_disk
from launching import IMAGE_URI, REPOSITORY, ROLE
from place.find import make_place
from request import TRAINING, TUNING
from rules import WrongRequest, check

REMOVE = object()
KEY = "arn:aws:kms:eu-west-1:999988887777:key/1234abcd"
VPC = {"VpcConfig": {"Subnets": ["subnet-1"], "SecurityGroupIds": ["sg-1"]}}
SPOT = {"EnableManagedSpotTraining": True, "StoppingCondition.MaxWaitTimeInSeconds": 100_000}
OWN, OURS = ({"HyperParameters.sagemaker_program": value} for value in ("mine.py", REMOVE))
TWO = {"ResourceConfig.InstanceCount": 2}
MODE = "AlgorithmSpecification.TrainingInputMode"
S3 = "InputDataConfig.0.DataSource.S3DataSource"
SHARDED = f"{S3}.S3DataDistributionType"

EFS = {
    "InputDataConfig.0.DataSource": {
        "FileSystemDataSource": {
            "FileSystemId": "fs-12345678901",
            "FileSystemAccessMode": "ro",
            "FileSystemType": "EFS",
            "DirectoryPath": "/prices",
        }
    }
}
GROUPS = [
    {"InstanceType": "ml.c5.xlarge", "InstanceCount": 1, "InstanceGroupName": "feeders"},
    {"InstanceType": "ml.p3.2xlarge", "InstanceCount": 1, "InstanceGroupName": "trainers"},
]
ALIKE = [group | {"InstanceType": "ml.c5.xlarge"} for group in GROUPS]
IN_GROUPS = {
    "ResourceConfig.InstanceType": REMOVE,
    "ResourceConfig.InstanceCount": REMOVE,
    "ResourceConfig.InstanceGroups": GROUPS,
    **OWN,
}


def preferring(*types, counts=(), **others):
    """A ResourceConfig with InstancePreferences; counts: theirs."""
    preferences = [{"InstanceType": name} for name in types]
    for preference, count in zip(preferences, counts, strict=False):
        preference["InstanceCount"] = count
    return {"ResourceConfig": {"VolumeSizeInGB": 30, "InstancePreferences": preferences, **others}}


# What is changed; words of the message that refuses it, or None where the request is right.
JOBS = [
    ({}, None),
    # The volume: "You can't request a VolumeKmsKeyId when using an instance type with local storage."
    ({"ResourceConfig.VolumeKmsKeyId": KEY}, None),
    ({"ResourceConfig.VolumeKmsKeyId": KEY, "ResourceConfig.InstanceType": "ml.g5.xlarge"}, "disks of its own"),
    ({"ResourceConfig.VolumeKmsKeyId": KEY, "ResourceConfig.InstanceType": "ml.p4d.24xlarge"}, "disks of its own"),
    ({"ResourceConfig.VolumeKmsKeyId": KEY, **IN_GROUPS}, None),
    ({"ResourceConfig.VolumeSizeInGB": REMOVE}, "VolumeSizeInGB: must be at least 1"),
    ({"ResourceConfig.VolumeSizeInGB": 0}, "VolumeSizeInGB: must be at least 1"),
    ({"ResourceConfig.VolumeSizeInGB": REMOVE, "ResourceConfig.InstanceType": "ml.g5.xlarge"}, None),
    # Which instances
    ({"ResourceConfig.InstanceType": REMOVE}, "InstanceType: missing"),
    ({"ResourceConfig.InstanceCount": REMOVE}, "InstanceCount: missing"),
    ({"ResourceConfig.InstanceCount": 0}, "InstanceCount: must be at least 1"),
    (TWO, None),
    (IN_GROUPS, None),
    ({**IN_GROUPS, **OURS}, "must all have one InstanceType, since the hosts of a job work in step, received ml.c5"),
    ({**IN_GROUPS, **OURS, "ResourceConfig.InstanceGroups": ALIKE}, None),
    ({"ResourceConfig.InstanceGroups": GROUPS, **OWN}, "InstanceGroups: cannot stand beside"),
    ({**IN_GROUPS, "ResourceConfig.InstanceGroups": GROUPS[:1] * 2}, "names must differ, received 'feeders'"),
    ({**IN_GROUPS, "ResourceConfig.KeepAlivePeriodInSeconds": 600}, "cannot be kept warm"),
    ({**IN_GROUPS, f"{S3}.InstanceGroupNames": ["feeders"]}, None),
    ({f"{S3}.InstanceGroupNames": ["feeders"]}, "InstanceGroupNames: must be names of"),
    ({**IN_GROUPS, **OURS, "ResourceConfig.InstanceGroups": ALIKE, f"{S3}.InstanceGroupNames": ["feeders"]},
     "must name every group, since every host reads it; lacks trainers"),
    ({**TWO, SHARDED: "ShardedByS3Key"}, "must be FullyReplicated, since every host reads the whole history"),
    ({**TWO, SHARDED: "ShardedByS3Key", **OWN}, None),
    ({SHARDED: "ShardedByS3Key"}, None),
    (preferring("ml.c5.xlarge", "ml.c6i.xlarge", InstanceCount=1), None),
    (preferring("ml.c5.xlarge", "ml.c6i.xlarge", counts=(1, 1)), None),
    (preferring("ml.c5.xlarge", "ml.c6i.xlarge", counts=(1,)), "must stand in each of them"),
    (preferring("ml.c5.xlarge", counts=(1,), InstanceCount=1), "must stand in each of them"),
    (preferring("ml.c5.xlarge", "ml.c6i.xlarge"), "must stand in each of them"),
    (preferring("ml.c5.xlarge", "ml.c5.xlarge", InstanceCount=1), "a type may come once"),
    (preferring("ml.c5.xlarge", InstanceCount=1, InstanceType="ml.c5.xlarge"), "cannot stand beside InstanceType"),
    ({**preferring("ml.c5.xlarge", InstanceCount=1), **SPOT}, "cannot stand beside EnableManagedSpotTraining"),
    ({"ResourceConfig.SelectedInstanceType": "ml.c5.xlarge"}, "SelectedInstanceType: SageMaker answers it"),
    ({"ResourceConfig.InstancePlacementConfig": {"EnableMultipleJobs": True}}, "only instances of UltraServers"),
    ({"ServerlessJobConfig": {"BaseModelArn": "arn:a", "JobType": "FineTuning"}}, "ServerlessJobConfig"),
    # Time, spot training, retries
    ({"StoppingCondition.MaxRuntimeInSeconds": 28 * 86400}, None),
    ({"StoppingCondition.MaxRuntimeInSeconds": 28 * 86400 + 1}, "at most 2419200"),
    (SPOT, None),
    ({**SPOT, "StoppingCondition.MaxWaitTimeInSeconds": 10}, "must be at least MaxRuntimeInSeconds"),
    ({"EnableManagedSpotTraining": True}, "MaxWaitTimeInSeconds: missing"),
    ({"StoppingCondition.MaxWaitTimeInSeconds": 100_000}, "only spot training has it"),
    ({**SPOT, "ResourceConfig.KeepAlivePeriodInSeconds": 600}, "a spot instance cannot be kept warm"),
    ({"ResourceConfig.KeepAlivePeriodInSeconds": 600}, None),
    ({"RetryStrategy": {"MaximumRetryAttempts": 30}}, None),
    ({"RetryStrategy": {"MaximumRetryAttempts": 31}}, "MaximumRetryAttempts"),
    ({"RetryStrategy": {}}, "MaximumRetryAttempts: missing"),
    # Channels
    ({MODE: "FastFile"}, None),
    ({MODE: "Pipe"}, "since the job reads files"),
    ({MODE: "Pipe", "InputDataConfig.0.InputMode": "File"}, None),
    ({"InputDataConfig.0.InputMode": "Pipe"}, "since the job reads files"),
    ({MODE: "Pipe", **OWN}, None),
    (EFS, "reached from inside its VPC"),
    ({**EFS, **VPC}, None),
    ({**EFS, **VPC, MODE: "FastFile"}, "must be File for a file system"),
    ({"InputDataConfig.0.DataSource": {}}, "must name one source, received none"),
    ({"InputDataConfig.0.DataSource.FileSystemDataSource": EFS["InputDataConfig.0.DataSource"]["FileSystemDataSource"],
      **VPC}, "must name one source"),
    ({"InputDataConfig": []}, "1 to 20 entries"),
    ({f"{S3}.S3DataType": "ManifestFile"}, None),
    ({f"{S3}.S3DataType": "AugmentedManifestFile"}, "for InputMode Pipe alone"),
    ({f"{S3}.S3DataType": "AugmentedManifestFile", MODE: "Pipe", **OWN}, None),
    ({f"{S3}.S3DataType": "Converse"}, "prices are no conversations"),
    ({"InputDataConfig.0.CompressionType": "Gzip"}, "Gzip is for InputMode Pipe alone"),
    ({"InputDataConfig.0.CompressionType": "None"}, None),
    ({"InputDataConfig.0.RecordWrapperType": "RecordIO"}, "RecordIO is for InputMode Pipe alone"),
    ({"InputDataConfig.0.ShuffleConfig": {"Seed": 1}}, None),
    ({f"{S3}.S3Uri": "s3://s3://prices/history/"}, "a bucket is a name"),
    ({f"{S3}.S3Uri": "s3://p/history/"}, "a bucket is a name"),
    ({f"{S3}.S3Uri": "prices/history/"}, "S3Uri: must match"),
    # Results
    ({"OutputDataConfig.CompressionType": "NONE"}, None),
    ({"OutputDataConfig.S3OutputPath": "s3://s3://prices/jobs"}, "a bucket is a name"),
    ({"OutputDataConfig.S3OutputPath": "s3://prices//jobs"}, "no empty folder"),
    ({"OutputDataConfig.S3OutputPath": "https://prices/jobs"}, "must begin with s3://"),
    ({"OutputDataConfig.KmsKeyId": KEY}, None),
    ({"OutputDataConfig.KmsKeyId": KEY, "OutputDataConfig.S3OutputPath": "s3://prices--euw1-az1--x-s3/jobs"},
     "takes no KMS key"),
    ({"CheckpointConfig": {"S3Uri": "s3://prices/checkpoints"}}, None),
    ({"CheckpointConfig": {"S3Uri": "s3://-prices-/checkpoints"}}, "a bucket is a name"),
    # The image
    ({"AlgorithmSpecification.AlgorithmName": "theirs"}, "AlgorithmName: cannot stand beside TrainingImage"),
    ({"AlgorithmSpecification.TrainingImage": REMOVE}, "TrainingImage: missing"),
    ({"AlgorithmSpecification.TrainingImageConfig": {"TrainingRepositoryAccessMode": "Vpc"}}, "reached from a VPC"),
    ({"AlgorithmSpecification.TrainingImageConfig": {"TrainingRepositoryAccessMode": "Vpc"}, **VPC}, None),
    ({"AlgorithmSpecification.MetricDefinitions": [{"Name": "a", "Regex": "a=(.)"}] * 41}, "0 to 40 entries"),
    ({"AlgorithmSpecification.ContainerArguments": ["train"]}, None),
    # Names that must differ, and AWS's own
    ({"Tags": [{"Key": "team", "Value": "fx"}, {"Key": "Team", "Value": "fx"}]}, None),
    ({"Tags": [{"Key": "team", "Value": "fx"}, {"Key": "team", "Value": "eq"}]}, "keys must differ, received 'team'"),
    ({"Tags": [{"Key": "aws:team", "Value": "fx"}]}, "AWS's own, received 'aws:team'"),
    ({"Tags": [{"Key": "AWS:team", "Value": "fx"}]}, "AWS's own"),
    ({"DebugRuleConfigurations": [{"RuleConfigurationName": "a", "RuleEvaluatorImage": "i"}] * 2}, "names must differ"),
    # The network
    (VPC, None),
    ({"VpcConfig": {"Subnets": ["subnet-1"]}}, "SecurityGroupIds: missing"),
    ({"EnableNetworkIsolation": True}, None),
    ({"EnableNetworkIsolation": True, "HyperParameters.model_db": "dynamodb://models"}, "cannot be reached"),
    ({"EnableNetworkIsolation": True, "HyperParameters.model_db": "s3://models"}, "cannot be reached"),
    ({"EnableInterContainerTrafficEncryption": True}, None),
    # Sizes
    ({"HyperParameters": {f"n{n}": "1" for n in range(101)} | {"sagemaker_program": "mine.py"}}, "0 to 100 entries"),
    ({"Environment": {f"N{n}": "1" for n in range(101)}}, "0 to 100 entries"),
    ({"TrainingJobName": "x" * 64}, "1 to 63 characters"),
]  # fmt: skip

CONFIG = "HyperParameterTuningJobConfig"
RANGES = f"{CONFIG}.ParameterRanges"
STATIC = "TrainingJobDefinition.StaticHyperParameters"
HYPERBAND = {f"{CONFIG}.Strategy": "Hyperband", f"{CONFIG}.TrainingJobEarlyStoppingType": "Off"}
RESOURCE = f"{CONFIG}.StrategyConfig.HyperbandStrategyConfig"
SCRIPT = {
    f"{STATIC}.sagemaker_program": "mine.py",
    f"{CONFIG}.HyperParameterTuningJobObjective": {"Type": "Maximize", "MetricName": "f1"},
    "TrainingJobDefinition.AlgorithmSpecification.MetricDefinitions": [{"Name": "f1", "Regex": "f1=(.+)"}],
}


def only(kind, name, **values):
    """Ranges of a tuning job: this one alone."""
    return {RANGES: {f"{kind}ParameterRanges": [{"Name": name, **values}]}}


GRID = {f"{CONFIG}.Strategy": "Grid", **only("Categorical", "optimizer", Values=["adam", "sgd"])}
SEARCHES = [
    ({}, None),
    ({"HyperParameterTuningJobName": "x" * 33}, "1 to 32 characters"),
    # "Logarithmic scaling works only for ranges that have only values greater than 0."
    (only("Continuous", "dropout", MinValue="0", MaxValue="0.5", ScalingType="Logarithmic"), "must be above 0"),
    (only("Continuous", "dropout", MinValue="0", MaxValue="0.5", ScalingType="ReverseLogarithmic"), None),
    # "Reverse logarithmic scaling works only for ranges that are entirely within the range 0<=x<1.0."
    ({**SCRIPT, **only("Continuous", "x", MinValue="0", MaxValue="1", ScalingType="ReverseLogarithmic")}, "[0, 1)"),
    ({**SCRIPT, **only("Integer", "x", MinValue="0", MaxValue="1", ScalingType="ReverseLogarithmic")}, "[0, 1)"),
    ({**SCRIPT, **only("Integer", "x", MinValue="0", MaxValue="9", ScalingType="Logarithmic")}, "must be above 0"),
    ({**SCRIPT, **only("Integer", "x", MinValue="1", MaxValue="9", ScalingType="Logarithmic")}, None),
    ({**SCRIPT, **only("Integer", "x", MinValue="1", MaxValue="9.5")}, "must each be a whole number, received '9.5'"),
    ({**SCRIPT, **only("Continuous", "x", MinValue="low", MaxValue="9")}, "must each be a number, received 'low'"),
    ({**SCRIPT, **only("Integer", "x", MinValue="9", MaxValue="1")}, "MinValue must be below MaxValue"),
    (only("Integer", "nodes", MinValue="64", MaxValue="64"), "MinValue must be below MaxValue"),
    # Values once each
    (only("Categorical", "optimizer", Values=["adam", "adam"]), "values must differ, received 'adam', 'adam'"),
    (only("Categorical", "nodes", Values=["16", "16.0"]), "values must differ, received '16', '16.0'"),
    ({**SCRIPT, **only("Categorical", "x", Values=["a", "b", "a"])}, "values must differ, received 'a', 'a'"),
    (only("Categorical", "nodes", Values=["16", "32"]), None),
    (only("Categorical", "nodes", Values=[str(n + 1) for n in range(31)]), "1 to 30 entries"),
    ({RANGES: {}}, "must have at least one range"),
    ({**SCRIPT, RANGES: {"IntegerParameterRanges": [
        {"Name": f"n{n}", "MinValue": "1", "MaxValue": "2"} for n in range(20)], "ContinuousParameterRanges": [
        {"Name": f"c{n}", "MinValue": "1", "MaxValue": "2"} for n in range(11)]}}, "at most 30 ranges in total"),
    ({**SCRIPT, STATIC: {f"n{n}": "1" for n in range(98)} | {"sagemaker_program": "mine.py"}}, "at most 100 together"),
    ({f"{STATIC}.nodes": "64"}, "is tuned as well"),
    # The search
    (GRID, "MaxNumberOfTrainingJobs: must be the grid's 2 points"),
    ({**GRID, f"{CONFIG}.ResourceLimits.MaxNumberOfTrainingJobs": 2}, None),
    ({**GRID, f"{CONFIG}.ResourceLimits.MaxNumberOfTrainingJobs": REMOVE}, None),
    ({f"{CONFIG}.Strategy": "Grid"}, "Grid takes CategoricalParameterRanges only"),
    ({f"{CONFIG}.ResourceLimits.MaxNumberOfTrainingJobs": REMOVE}, "MaxNumberOfTrainingJobs: missing"),
    ({f"{CONFIG}.ResourceLimits.MaxParallelTrainingJobs": 9}, "must be at most MaxNumberOfTrainingJobs (8)"),
    ({f"{CONFIG}.HyperParameterTuningJobObjective": REMOVE}, "HyperParameterTuningJobObjective: missing"),
    ({**SCRIPT, f"{CONFIG}.HyperParameterTuningJobObjective.MetricName": "f2"}, "one of the request's Metric"),
    (HYPERBAND, None),
    ({**HYPERBAND, f"{CONFIG}.TrainingJobEarlyStoppingType": "Auto"}, "must be Off with Hyperband"),
    ({**HYPERBAND, f"{STATIC}.epochs": REMOVE}, "MaxResource: missing"),
    ({**HYPERBAND, RESOURCE: {"MinResource": 1, "MaxResource": 20_000}}, None),
    ({**HYPERBAND, RESOURCE: {"MinResource": 1, "MaxResource": 20_001}}, "MaxResource: must be at most 20,000"),
    ({**HYPERBAND, RESOURCE: {"MinResource": 9, "MaxResource": 9}}, "MinResource: must be below MaxResource (9)"),
    ({**HYPERBAND, RESOURCE: {"MinResource": 3}}, "MinResource: must be below MaxResource (3)"),
    ({**HYPERBAND, **SCRIPT, f"{STATIC}.epochs": REMOVE, f"{STATIC}.num_epochs": "9"}, None),
    ({RESOURCE: {"MinResource": 1, "MaxResource": 9}}, "StrategyConfig: only for Strategy Hyperband"),
    ({f"{CONFIG}.StrategyConfig": {}}, "StrategyConfig: only for Strategy Hyperband"),
    ({f"{RANGES}.AutoParameters": [{"Name": "nodes", "ValueHint": "64"}]}, "AutoParameters: are for Autotune"),
    ({"Autotune": {"Mode": "Enabled"}}, None),
    # Where things stand
    ({f"TrainingJobDefinition.{RANGES.split('.')[1]}": {}}, "unknown key"),
    ({"TrainingJobDefinition.HyperParameterRanges": {}}, "HyperParameterRanges: is for TrainingJobDefinitions"),
    ({"TrainingJobDefinition.TuningObjective": {"Type": "Maximize", "MetricName": "loss"}}, "TuningObjective: is for"),
    ({"TrainingJobDefinition.HyperParameterTuningResourceConfig": {"InstanceCount": 1}}, "reads ResourceConfig"),
    ({"TrainingJobDefinition.ResourceConfig.VolumeKmsKeyId": KEY,
      "TrainingJobDefinition.ResourceConfig.InstanceType": "ml.g4dn.xlarge"}, "disks of its own"),
    ({"TrainingJobDefinition.Environment": {f"N{n}": "1" for n in range(49)}}, "0 to 48 entries"),
    # Earlier searches
    ({"WarmStartConfig": {"WarmStartType": "TransferLearning", "ParentHyperParameterTuningJobs": [
        {"HyperParameterTuningJobName": "one"}]}}, None),
    ({"WarmStartConfig": {"WarmStartType": "TransferLearning", "ParentHyperParameterTuningJobs": [
        {"HyperParameterTuningJobName": "one"}] * 2}}, "can be named once, received 'one' 2 times"),
    ({"WarmStartConfig": {"WarmStartType": "TransferLearning", "ParentHyperParameterTuningJobs": [
        {"HyperParameterTuningJobName": "search"}]}}, "cannot learn from itself"),
    ({"WarmStartConfig": {"WarmStartType": "TransferLearning", "ParentHyperParameterTuningJobs": []}}, "1 to 5"),
]  # fmt: skip

# What this machine cannot do, though SageMaker can
HERE = [
    ({}, None),
    (VPC, None),
    ({**EFS, **VPC}, "other sources exist on aws alone"),
    ({f"{S3}.S3DataType": "ManifestFile"}, "S3DataType ManifestFile is read on aws alone"),
    ({f"{S3}.HubAccessConfig": {"HubContentArn": "arn:aws:sagemaker:eu-west-1:999988887777:hub-content/a/b/c/1"}},
     "HubAccessConfig is read on aws alone"),
    ({f"{S3}.S3Uri": "https://prices/history/"}, "must be in S3 or on this machine"),
    ({MODE: "Pipe", **OWN}, "must be File or FastFile on this machine"),
    ({"AlgorithmSpecification.ContainerEntrypoint": ["mine"]}, "ContainerEntrypoint: only SageMaker does it"),
    ({"AlgorithmSpecification.ContainerArguments": ["mine"]}, "ContainerArguments: only SageMaker does it"),
    (IN_GROUPS, "InstanceGroups: only SageMaker does it"),
    (TWO, None),
    ({**TWO, **OWN}, None),
    ({**TWO, **OWN, SHARDED: "ShardedByS3Key"}, "only SageMaker deals the files out among hosts"),
]  # fmt: skip


@pytest.fixture(scope="module")
def training():
    request = read_request(REPOSITORY / "sagemaker" / "training_job.yaml", TRAINING)
    source = {"S3DataType": "S3Prefix", "S3Uri": "s3://prices/history/"}
    request["InputDataConfig"] = [{"ChannelName": "train", "DataSource": {"S3DataSource": source}}]
    return with_account(request, request)


@pytest.fixture(scope="module")
def tuning():
    request = read_request(REPOSITORY / "sagemaker" / "tuning_job.yaml", TUNING)
    request["HyperParameterTuningJobName"] = "search"
    request["TrainingJobDefinition"]["StaticHyperParameters"]["prices_db"] = "dynamodb://prices"
    return with_account(request, request["TrainingJobDefinition"])


def with_account(request, job):
    job["RoleArn"] = ROLE
    job["AlgorithmSpecification"]["TrainingImage"] = IMAGE_URI
    job["OutputDataConfig"]["S3OutputPath"] = "s3://prices/jobs"
    return request


def changed(request, changes):
    """A copy of a request with values set, or removed, by paths such as InputDataConfig.0.InputMode."""
    request = copy.deepcopy(request)
    for path, value in changes.items():
        *parents, last = path.split(".")
        part = request
        for name in parents:
            part = part[int(name)] if isinstance(part, list) else part.setdefault(name, {})
        if value is REMOVE:
            part.pop(last, None)
        else:
            part[last] = copy.deepcopy(value)
    return request


def problems(request, place):
    try:
        check(request, make_place(place, Path("runs"), "eu-west-1").problems_with)
    except WrongRequest as error:
        return error.problems
    return []


def row_name(value):
    return None if value is None or isinstance(value, str) else ", ".join(value)[:60] or "as it is"


@pytest.mark.parametrize(("changes", "told"), JOBS, ids=row_name)
def test_a_training_job_is_judged_as_aws_documents_it(training, changes, told):
    agrees(problems(changed(training, changes), "aws"), told)


@pytest.mark.parametrize(("changes", "told"), SEARCHES, ids=row_name)
def test_a_tuning_job_is_judged_as_aws_documents_it(tuning, changes, told):
    agrees(problems(changed(tuning, changes), "aws"), told)


@pytest.mark.parametrize(("changes", "told"), HERE, ids=row_name)
def test_what_this_machine_cannot_do_is_refused_by_name(training, changes, told):
    agrees(problems(changed(training, changes), "local"), told)


def agrees(found, told):
    if told is None:
        assert found == []
    else:
        assert any(told in problem for problem in found), found


def test_the_table_is_large_enough():
    assert len(JOBS) + len(SEARCHES) >= 60


def test_local_disks_are_those_that_ec2_knows():
    """Moto ships EC2's answer to DescribeInstanceTypes."""
    path = Path(moto.__file__).parent / "ec2" / "resources" / "instance_types.json.gz"
    known = json.loads(gzip.decompress(path.read_bytes()))
    types = boto3.session.Session()._session.get_service_model("sagemaker").shape_for("TrainingInstanceType").enum
    both = [name for name in types if name.removeprefix("ml.") in known]
    assert len(both) > 150
    assert [name for name in both if has_local_disk(name)] == [
        name for name in both if known[name.removeprefix("ml.")]["InstanceStorageSupported"]
    ]
