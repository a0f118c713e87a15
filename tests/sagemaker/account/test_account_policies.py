"""The template's policies: right by two linters, and held to the calls that the code makes."""

import ast
import importlib.util
import json
import re
import sys
import types
from pathlib import Path

import boto3
import botocore.session
import cfnlint.api
import numpy as np
import pandas as pd
import pytest
from botocore import xform_name

from account.policies import allowed_by_documents, needs_of
from account.template import Access, account_template, permissions, statements_of, template_text
from kydb_servers import make_table
from moto_account import ACCOUNT, REGION

REPOSITORY = Path(__file__).resolve().parents[3]
FULL = Access(
    kydb=["dynamodb://epython/timeseries", "s3://epython/a/b;redis://host/0"],
    read=["s3://prices/history", "dynamodb://prices"],
    subnets=["subnet-00000001"],
    security_groups=["sg-00000001"],
    kms_key=f"arn:aws:kms:{REGION}:{ACCOUNT}:key/00000000-0000-0000-0000-000000000000",
)
ACCESSES = {"base": Access(), "full": FULL}


@pytest.fixture(scope="module")
def parliament():
    """The policy linter; it imports pkg_resources for one function, which setuptools has no more."""
    resources = types.ModuleType("pkg_resources")
    resources.resource_filename = lambda package, name: str(
        Path(importlib.util.find_spec(package).origin).parent / name
    )
    with pytest.MonkeyPatch.context() as patch:  # a stub that stayed would be what other tests' imports find
        patch.setitem(sys.modules, "pkg_resources", resources)
        return pytest.importorskip("parliament")


def resolved(value):
    """A policy as CloudFormation would write it."""
    names = {
        "AWS::Partition": "aws", "AWS::Region": REGION, "AWS::AccountId": ACCOUNT, "BucketName": "models",
        "RepositoryName": "position-trainer", "AWS::StackName": "position-trainer",
    }  # fmt: skip
    if isinstance(value, list):
        return [resolved(item) for item in value]
    if not isinstance(value, dict):
        return value
    if "Fn::Sub" in value:
        return re.sub(r"\$\{([^}]+)\}", lambda found: names[found[1]], value["Fn::Sub"])
    if "Fn::GetAtt" in value:
        return f"arn:aws:iam::{ACCOUNT}:role/{value['Fn::GetAtt'][0]}"
    return {key: resolved(item) for key, item in value.items()}


def policies(access):
    """Resource name to its policy about resources, as one document."""
    found = {}
    for name, resource in account_template(access)["Resources"].items():
        statements = [resolved(each) for each in statements_of(resource) if "Resource" in each]
        if statements and name != "BucketPolicy":
            found[name] = {"Version": "2012-10-17", "Statement": statements}
    return found


def actions_of(document, sids=".*"):
    found = set()
    for statement in document["Statement"]:
        if re.fullmatch(sids, statement["Sid"]):
            actions = statement["Action"]
            found |= set(actions if isinstance(actions, list) else [actions])
    return found


@pytest.mark.parametrize("access", ACCESSES)
def test_cfn_lint_finds_nothing(access):
    assert [str(match) for match in cfnlint.api.lint(template_text(account_template(ACCESSES[access])))] == []


@pytest.mark.parametrize("access", ACCESSES)
def test_parliament_finds_nothing(parliament, access):
    for name, document in policies(ACCESSES[access]).items():
        findings = parliament.analyze_policy_string(json.dumps(document)).findings
        assert [(name, found.issue, found.detail) for found in findings] == []


def test_policies_are_as_small_as_iam_takes_them():
    documents = policies(FULL)
    sizes = {name: len(json.dumps(document, separators=(",", ":"))) for name, document in documents.items()}
    assert sizes["LauncherPolicy"] < 6144  # of a managed policy
    assert sizes["JobRole"] < 10240  # of a role's own policies together


@pytest.mark.parametrize("access", ACCESSES)
def test_every_statement_has_its_reason_and_every_reason_its_statement(access):
    template = account_template(ACCESSES[access])
    for resource in template["Resources"].values():
        reasons = resource.get("Metadata", {}).get("Reasons", {})
        assert sorted(reasons) == sorted(statement["Sid"] for statement in statements_of(resource))
    assert all(each.reason for each in permissions(template))


def test_models_never_expire_and_the_bucket_is_closed():
    bucket = account_template()["Resources"]["Bucket"]["Properties"]
    expiring = [rule["Prefix"] for rule in bucket["LifecycleConfiguration"]["Rules"] if "ExpirationInDays" in rule]
    assert expiring == ["position-trainer/checkpoints/", "position-trainer/inputs/"]
    assert all(bucket["PublicAccessBlockConfiguration"].values())


# What the job calls: KYDB's calls, recorded


def recorded(aws, url, use):
    """The IAM actions of the calls that a use of a KYDB makes."""
    from ml.databases import configure_aws, connect

    configure_aws()
    seen = set()
    boto3.DEFAULT_SESSION.events.register(
        "before-call.*", lambda model, **_: seen.add(f"{model.service_model.endpoint_prefix}:{model.name}")
    )
    if url.startswith("dynamodb"):
        make_table("epython")
    else:
        boto3.client("s3").create_bucket(Bucket="epython", CreateBucketConfiguration={"LocationConstraint": REGION})
    seen.clear()
    use(connect(url), url)
    renamed = {"s3:HeadObject": "s3:GetObject", "s3:ListObjectsV2": "s3:ListBucket", "s3:ListObjects": "s3:ListBucket"}
    return {renamed.get(action, action) for action in seen}


def write_and_publish(db, url):
    from ml.deliver.publishing import ModelTarget, publish
    from ml.settings import Settings
    from ml.timeseries import time_series

    times = pd.date_range("2020", periods=500, freq="min", tz="UTC")
    time_series(db, "/prices").replace(pd.DataFrame({"mid": np.arange(1.0, 501.0)}, times))
    ModelTarget(url, "/m/x.h5", "job").check(Settings())
    publish(url, "/m/x.h5", b"\x89HDF\r\n\x1a\n12", "job")
    db.ls("/m")


def read(db, url):
    from ml.data.sources import read_kydb
    from ml.errors import UserError

    with pytest.raises(UserError):
        read_kydb(url, "/prices")


@pytest.mark.parametrize(("option", "use"), [("kydb", write_and_publish), ("read", read)])
@pytest.mark.parametrize("url", ["dynamodb://epython/timeseries", "s3://epython/base"])
def test_the_jobs_role_may_do_what_kydb_does_and_nothing_else(cloud, option, use, url):
    url += option  # kydb keeps its connection to a URL, and with it the session of the test before
    called = recorded(cloud, url, use)
    document = policies(Access(**{option: [url]}))["JobRole"]
    assert actions_of(document, r"(Kydb|Read)\d.*") == called


# What SageMaker does as the role: AWS's list for CreateTrainingJob, and deletions, which it mirrors to checkpoints

SAGEMAKER = {
    "cloudwatch:PutMetricData", "ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetAuthorizationToken",
    "ecr:GetDownloadUrlForLayer", "logs:CreateLogGroup", "logs:CreateLogStream", "logs:DescribeLogStreams",
    "logs:PutLogEvents", "s3:DeleteObject", "s3:GetObject", "s3:ListBucket", "s3:PutObject",
}  # fmt: skip


def test_the_jobs_role_may_do_what_sagemaker_does_and_nothing_else():
    assert actions_of(policies(Access())["JobRole"]) == SAGEMAKER


def test_the_doctor_asks_for_nothing_that_setup_does_not_grant():
    request = {
        "RoleArn": f"arn:aws:iam::{ACCOUNT}:role/job",
        "AlgorithmSpecification": {"TrainingImage": f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com/position-trainer:1"},
        "HyperParameters": {"prices_db": "dynamodb://prices", "model_db": "s3://epython/a/b"},
        "InputDataConfig": [{"ChannelName": "c", "DataSource": {"S3DataSource": {"S3Uri": "s3://prices/history/"}}}],
        "OutputDataConfig": {"S3OutputPath": "s3://models/position-trainer/jobs", "KmsKeyId": FULL.kms_key},
        "ResourceConfig": {"VolumeKmsKeyId": FULL.kms_key},
        "CheckpointConfig": {"S3Uri": "s3://models/position-trainer/checkpoints/one"},
        "VpcConfig": {"Subnets": list(FULL.subnets), "SecurityGroupIds": list(FULL.security_groups)},
    }
    needs = needs_of(request, REGION, ACCOUNT)
    assert {need.action.split(":")[0] for need in needs} == {
        "cloudwatch", "dynamodb", "ec2", "ecr", "kms", "logs", "s3"
    }  # fmt: skip
    assert [need for need in needs if not allowed_by_documents(need, [policies(FULL)["JobRole"]])] == []


# What the launcher calls: every operation of a boto3 client that stands in its code

SERVICES = (
    "cloudformation", "cloudwatch", "ec2", "ecr", "events", "iam", "logs", "pricing", "s3", "sagemaker", "scheduler",
    "service-quotas", "sns", "sts",
)  # fmt: skip
OPERATIONS = {
    service: {
        xform_name(name): name for name in botocore.session.get_session().get_service_model(service).operation_names
    }
    for service in SERVICES
}
OPERATIONS["s3"] |= {"upload_file": "PutObject", "download_file": "GetObject"}
# Calls whose permission has another name, or which need none
RENAMED = {
    "s3:DeleteObjects": "s3:DeleteObject",
    "s3:HeadBucket": "s3:ListBucket",
    "s3:ListObjectsV2": "s3:ListBucket",
    "service-quotas:ListServiceQuotas": "servicequotas:ListServiceQuotas",
    "sts:GetCallerIdentity": None,  # anybody may
}
# Docker's calls to push an image, and what two of the calls need beside the permission of their own name
BESIDE = {
    "ecr:BatchCheckLayerAvailability", "ecr:CompleteLayerUpload", "ecr:InitiateLayerUpload", "ecr:PutImage",
    "ecr:UploadLayerPart", "iam:PassRole", "sagemaker:AddTags",
}  # fmt: skip
# Attributes of other things that are named like a call
NOT_CALLS = {"re.search", "optuna.trial.create_trial", "publishing.publish"}
# `setup` itself needs an administrator; these functions of its module serve other commands
SHARED_WITH_SETUP = {"outputs", "_stack", "_failure", "has_schedule_group", "schedule_names"}


def calls_in(tree):
    """IAM's name of each call of a boto3 client in some code."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node) not in NOT_CALLS:
            name = node.attr
            said = {each.value for each in ast.walk(node.value) if isinstance(each, ast.Constant)}
            said |= {node.value.id} if isinstance(node.value, ast.Name) else set()
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):  # of a paginator, or for getattr
            name, said = node.value, set()
        else:
            continue
        services = [service for service in SERVICES if name in OPERATIONS[service]]
        if len(services) > 1:
            services = [service for service in services if service in said]
        if services:
            assert len(services) == 1, f"of which service is {ast.unparse(node)} in line {node.lineno}?"
            yield f"{services[0]}:{OPERATIONS[services[0]][name]}"


def test_the_launchers_users_may_do_what_it_calls_and_nothing_else():
    called = set()
    for path in (REPOSITORY / "sagemaker").rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if path.name == "setup.py":
            tree.body = [each for each in tree.body if getattr(each, "name", "") in SHARED_WITH_SETUP]
        called |= set(calls_in(tree))
    needed = {RENAMED.get(call, call) for call in called} - {None} | BESIDE
    assert actions_of(policies(Access())["LauncherPolicy"]) == needed


def test_a_schedules_role_may_start_jobs_and_nothing_else():
    assert actions_of(policies(Access())["SchedulerRole"]) == {
        "iam:PassRole", "sagemaker:AddTags", "sagemaker:CreateHyperParameterTuningJob", "sagemaker:CreateTrainingJob"
    }  # fmt: skip
