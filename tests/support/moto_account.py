"""An account in moto that `setup` has set up, and the request of a job in it."""

import ast
import hashlib
import json

import boto3
import botocore.exceptions
import moto
import pytest
from click.testing import CliRunner

REGION = "eu-west-1"
ACCOUNT = "123456789012"

# One for all tests, since it reads the services' models, which are large, once.
SESSION = boto3.Session(region_name=REGION, aws_access_key_id="nobody", aws_secret_access_key="nothing")


class Account:
    """What the account package needs of a place; each service has one client, which a test may change."""

    region = REGION

    def __init__(self):
        self._clients = {}

    def client(self, service):
        if service not in self._clients:
            self._clients[service] = SESSION.client(service)
        return self._clients[service]


@pytest.fixture(autouse=True)
def credentials(monkeypatch):
    """Credentials that open nothing, so that no test can reach an account."""
    for name, value in (
        ("AWS_ACCESS_KEY_ID", "nobody"),
        ("AWS_SECRET_ACCESS_KEY", "nothing"),
        ("AWS_REGION", REGION),
        ("AWS_DEFAULT_REGION", REGION),
        ("AWS_EC2_METADATA_DISABLED", "true"),
    ):
        monkeypatch.setenv(name, value)
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_SESSION_TOKEN", "POSITION_TRAINER_SETTINGS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)


@pytest.fixture
def cloud():
    """An empty account."""
    with moto.mock_aws():
        yield Account()


@pytest.fixture
def launch(cloud, tmp_path, monkeypatch):
    """Runs a command in this process, in a folder of its own and with the account's clients.

    Returns (exit code, standard output, standard error).
    """
    from launch import main
    from place.aws import AwsPlace

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(AwsPlace, "client", lambda _, service: cloud.client(service))

    def run(*arguments):
        result = CliRunner().invoke(main, list(map(str, arguments)))
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, result.stdout, result.stderr

    return run


def client_error(code):
    return botocore.exceptions.ClientError({"Error": {"Code": code, "Message": code}}, "Operation")


def refuse(code):
    """A client's method that AWS refuses."""

    def method(**_):
        raise client_error(code)

    return method


def put_image(aws, configuration, tag="1"):
    """Puts an image with that configuration into the repository; returns its URI."""
    content = json.dumps(configuration).encode()
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
        "config": {"mediaType": "application/vnd.docker.container.image.v1+json", "size": 1, "digest": digest},
        "layers": [],
    }
    aws.client("ecr").put_image(repositoryName="position-trainer", imageManifest=json.dumps(manifest), imageTag=tag)
    # moto keeps no layers; a data: URL stands for the signed one that ECR gives
    aws.client("ecr").get_download_url_for_layer = lambda **_: {
        "downloadUrl": "data:application/json," + json.dumps(configuration)
    }
    return f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com/position-trainer:{tag}"


def write_policies_as_json(iam):
    """The roles' policies as AWS keeps them: moto keeps those of a template as Python's text of a dict."""
    for role in iam.list_roles()["Roles"]:
        for name in iam.list_role_policies(RoleName=role["RoleName"])["PolicyNames"]:
            document = iam.get_role_policy(RoleName=role["RoleName"], PolicyName=name)["PolicyDocument"]
            if isinstance(document, str):
                document = ast.literal_eval(document)
                iam.put_role_policy(RoleName=role["RoleName"], PolicyName=name, PolicyDocument=json.dumps(document))


CPU_IMAGE = {
    "os": "linux",
    "architecture": "amd64",
    "config": {"Labels": {"position-trainer.accelerator": "cpu"}},
}


def quotas(**values):
    """A paginator of service quotas; values by instance type with underscores, on demand and on spot."""
    found = [
        {
            "QuotaName": f"ml.{name.replace('_', '.')} for {kind} usage",
            "QuotaCode": f"L-{index}{len(kind)}",
            "Value": value,
        }
        for index, (name, pair) in enumerate(values.items())
        for kind, value in zip(("training job", "spot training job"), pair, strict=True)
    ]

    class Pages:
        def paginate(self, **_):
            return [{"Quotas": found[:1]}, {"Quotas": found[1:]}]

    return lambda _: Pages()


@pytest.fixture
def ready(cloud):
    """An account in which the request below can run."""
    from account import setup

    setup.deploy(cloud, setup.plan(cloud, {"kydb": [], "read": ["s3://prices/"]}), wait_seconds=0)
    write_policies_as_json(cloud.client("iam"))
    s3 = cloud.client("s3")
    s3.create_bucket(Bucket="prices", CreateBucketConfiguration={"LocationConstraint": REGION})
    s3.put_object(Bucket="prices", Key="history/2020.csv", Body=b"")
    put_image(cloud, CPU_IMAGE)
    # moto has neither of these two
    cloud.client("service-quotas").get_paginator = quotas(c7i_4xlarge=(1, 0), g5_xlarge=(1, 1))
    cloud.client("iam").simulate_principal_policy = refuse("AccessDenied")
    return cloud


@pytest.fixture
def request_of(ready):
    """Makes a request that the account can run, with whatever a test changes."""
    from account import setup

    made = setup.outputs(ready)

    def make(**changes):
        return {
            "TrainingJobName": "one",
            "RoleArn": made["Role"],
            "AlgorithmSpecification": {"TrainingImage": f"{made['Repository']}:1", "TrainingInputMode": "File"},
            "HyperParameters": {"preset": "default"},
            "InputDataConfig": [
                {
                    "ChannelName": "train",
                    "DataSource": {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": "s3://prices/history/"}},
                }
            ],
            "OutputDataConfig": {"S3OutputPath": f"s3://{made['Bucket']}/position-trainer/jobs"},
            "ResourceConfig": {"InstanceType": "ml.c7i.4xlarge", "InstanceCount": 1, "VolumeSizeInGB": 30},
            "StoppingCondition": {"MaxRuntimeInSeconds": 3600},
        } | changes

    return make
