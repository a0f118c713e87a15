"""What a request makes the job's role do, and whether policy documents allow it."""

import fnmatch
from collections.abc import Iterator
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from account.template import LOG_GROUP, url_statements, vpc_statements
from request import hyperparameters_of, s3_sources, training_part


class Need(NamedTuple):
    """One thing that the role must be allowed to do."""

    action: str
    resource: str
    reason: str


def needs_of(request: dict[str, Any], region: str, account: str) -> list[Need]:
    """What SageMaker and the job do as the request's role.

    Args:
        request: complete and checked.
        region: of the job.
        account: that it runs in.
    """
    job = training_part(request)
    partition = job["RoleArn"].split(":")[1]
    needs = list(_storage(job, request, partition))
    registry, _, name = job["AlgorithmSpecification"]["TrainingImage"].partition("/")
    if ".dkr.ecr." in registry:
        repository = name.split("@")[0].split(":")[0]
        arn = f"arn:{partition}:ecr:{registry.split('.')[3]}:{registry.split('.')[0]}:repository/{repository}"
        needs += [Need("ecr:GetAuthorizationToken", "*", "to pull the image")]
        needs += [
            Need(f"ecr:{action}", arn, "to pull the image")
            for action in ("BatchCheckLayerAvailability", "BatchGetImage", "GetDownloadUrlForLayer")
        ]
    logs = f"arn:{partition}:logs:{region}:{account}:log-group:{LOG_GROUP}:log-stream:x"
    needs += [Need(f"logs:{action}", logs, "the job's log") for action in ("CreateLogStream", "PutLogEvents")]
    needs.append(Need("cloudwatch:PutMetricData", "*", "the job's metrics"))
    parameters = hyperparameters_of(request)
    statements = []
    if not job.get("EnableNetworkIsolation"):
        for setting, write in (("prices_db", False), ("model_db", True)):
            if parameters.get(setting):
                statements += url_statements(setting, [parameters[setting]], write=write)
    vpc = job.get("VpcConfig")
    if vpc:
        statements += vpc_statements(vpc["Subnets"], vpc["SecurityGroupIds"])
    for statement, reason in statements:
        for resource in statement["Resource"]:
            text = resource["Fn::Sub"] if isinstance(resource, dict) else resource
            for name, value in (("Partition", partition), ("Region", region), ("AccountId", account)):
                text = text.replace(f"${{AWS::{name}}}", value)
            if text != "*":
                text = text.replace("*", "x")  # one of those that the pattern stands for
            needs += [Need(action, text, reason) for action in statement["Action"]]
    for key in dict.fromkeys(
        filter(None, (job["OutputDataConfig"].get("KmsKeyId"), job["ResourceConfig"].get("VolumeKmsKeyId")))
    ):
        if key.startswith("arn:"):
            needs += [Need(f"kms:{action}", key, "encryption") for action in ("CreateGrant", "GenerateDataKey")]
    return list(dict.fromkeys(needs))


def _storage(job: dict[str, Any], request: dict[str, Any], partition: str) -> Iterator[Need]:
    def objects(uri: str) -> tuple[str, str]:
        parts = urlsplit(uri)
        bucket = f"arn:{partition}:s3:::{parts.netloc}"
        return bucket, f"{bucket}/{parts.path.strip('/')}/x".replace("//x", "/x")

    _, results = objects(job["OutputDataConfig"]["S3OutputPath"])
    yield Need("s3:PutObject", results, "the model")
    for name, source in s3_sources(request).items():
        uri = source["S3Uri"] if source["S3Uri"].startswith("s3://") else job["OutputDataConfig"]["S3OutputPath"]
        bucket, files = objects(uri)  # a file of this machine is uploaded to the results' bucket
        yield Need("s3:ListBucket", bucket, f"channel {name}")
        yield Need("s3:GetObject", files, f"channel {name}")
    if uri := job.get("CheckpointConfig", {}).get("S3Uri"):
        bucket, files = objects(uri)
        yield Need("s3:ListBucket", bucket, "checkpoints")
        for action in ("DeleteObject", "GetObject", "PutObject"):
            yield Need(f"s3:{action}", files, "checkpoints")


def documents_of(iam: Any, role: str) -> list[dict[str, Any]]:
    """The policy documents of a role, its own and those attached to it."""
    names = iam.list_role_policies(RoleName=role)["PolicyNames"]
    documents = [iam.get_role_policy(RoleName=role, PolicyName=name)["PolicyDocument"] for name in names]
    for attached in iam.list_attached_role_policies(RoleName=role)["AttachedPolicies"]:
        arn = attached["PolicyArn"]
        version = iam.get_policy(PolicyArn=arn)["Policy"]["DefaultVersionId"]
        documents.append(iam.get_policy_version(PolicyArn=arn, VersionId=version)["PolicyVersion"]["Document"])
    return documents


def allowed_by_documents(need: Need, documents: list[dict[str, Any]]) -> bool:
    """Whether a statement allows it and none denies it; conditions are not looked at, except that a denial with one
    is passed over.
    """
    allowed = False
    for document in documents:
        for statement in _list(document["Statement"]):
            if not _covers(statement, need):
                continue
            if statement["Effect"] == "Allow":
                allowed = True
            elif not statement.get("Condition"):
                return False
    return allowed


def _covers(statement: dict[str, Any], need: Need) -> bool:
    def matches(value: str, patterns: Any) -> bool:
        return any(fnmatch.fnmatchcase(value.lower(), pattern.lower()) for pattern in _list(patterns))

    action = (
        not matches(need.action, statement["NotAction"])
        if "NotAction" in statement
        else matches(need.action, statement.get("Action", []))
    )
    if "NotResource" in statement:
        return action and not matches(need.resource, statement["NotResource"])
    return action and any(
        fnmatch.fnmatchcase(need.resource, pattern) for pattern in _list(statement.get("Resource", []))
    )


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
