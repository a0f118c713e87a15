"""The looks at an account: each returns what it found, or raises what is wrong or why it cannot be told."""

import json
import re
import urllib.request
import uuid
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import botocore.exceptions

from account.policies import Need, allowed_by_documents, documents_of, needs_of
from account.setup import Aws, aws_code
from error_lines import mendable
from ml.errors import UserError, one_line, redacted
from request import TUNING, host_names, hyperparameters_of, operation_of, training_part

_GPU = re.compile(r"ml\.(g\d|p\d)")
_OTHER_CHIP = re.compile(r"ml\.(trn|inf)\d")
_IMAGE = re.compile(
    r"(?P<account>\d{12})\.dkr\.ecr\.(?P<region>[a-z0-9-]+)\.[^/]+/(?P<name>[^:@]+)(:(?P<tag>[^@]+))?(@(?P<digest>.+))?"
)
_MANIFESTS = [
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.oci.image.index.v1+json",
]
_KYDB_SECONDS = 5
_QUOTAS_PAGE = "https://console.aws.amazon.com/servicequotas/home/services/sagemaker/quotas"


class Wrong(Exception):
    """Something is wrong: its text, and its cure where the text does not say it."""

    def __init__(self, text: str, cure: str = ""):
        super().__init__(text)
        self.text, self.cure = text, cure


class Unknown(Exception):
    """It cannot be told: why."""


def credentials(aws: Aws) -> str:
    """Who calls, in which region and account."""
    try:
        region = aws.region
    except UserError as error:
        raise Wrong(str(error), "aws configure set region REGION, or --region") from None
    try:
        caller = aws.client("sts").get_caller_identity()
    except (botocore.exceptions.NoCredentialsError, botocore.exceptions.ProfileNotFound) as error:
        raise Wrong(mendable(error) or one_line(error)) from None
    except botocore.exceptions.ClientError as error:
        if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0) >= 500:
            raise
        raise Wrong(mendable(error) or one_line(error)) from None
    return f"{caller['Arn']}, region {region}, account {caller['Account']}"


def role(aws: Aws, arn: str, account: str) -> str:
    """Whether the role is there, of this account, and SageMaker may assume it."""
    parts = arn.split(":")
    if parts[4] != account:
        raise Wrong(f"{arn} is a role of another account than {account}", "launch setup, or --role")
    name = arn.rsplit("/", 1)[-1]
    try:
        role = aws.client("iam").get_role(RoleName=name)["Role"]
    except botocore.exceptions.ClientError as error:
        if aws_code(error) == "NoSuchEntity":
            raise Wrong(f"there is no role {name}", "launch setup, or --role") from None
        raise
    document = role["AssumeRolePolicyDocument"]
    for statement in document["Statement"]:
        principal = statement.get("Principal", {})
        services = principal.get("Service", []) if isinstance(principal, dict) else []
        if "sagemaker.amazonaws.com" not in ([services] if isinstance(services, str) else services):
            continue
        accounts = statement.get("Condition", {}).get("StringEquals", {}).get("aws:SourceAccount", account)
        if statement["Effect"] == "Allow" and account in ([accounts] if isinstance(accounts, str) else accounts):
            return f"{name} exists, and SageMaker may assume it"
    raise Wrong(
        f"SageMaker may not assume {name}: its trust policy does not allow sagemaker.amazonaws.com for this account",
        f"https://console.aws.amazon.com/iam/home#/roles/details/{name}?section=trust_relationships",
    )


def permissions(aws: Aws, request: dict[str, Any], account: str) -> str:
    """By IAM's simulator, or by a look at the role's policies where that may not be asked."""
    name = training_part(request)["RoleArn"].rsplit("/", 1)[-1]
    needs = needs_of(request, aws.region, account)
    iam = aws.client("iam")
    try:
        missing = list(_refused_by_simulator(iam, training_part(request)["RoleArn"], needs))
        how = "says IAM's simulator"
    except botocore.exceptions.ClientError as error:
        if aws_code(error) == "NoSuchEntity":
            raise Unknown("there is no such role") from None
        documents = documents_of(iam, name)
        missing = [need for need in needs if not allowed_by_documents(need, documents)]
        how = "by its policies; conditions, boundaries and the organisation's policies were not looked at"
    if missing:
        shown = "; ".join(f"{need.action} on {need.resource} ({need.reason})" for need in missing[:3])
        more = f"; and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise Wrong(
            f"{name} may not: {shown}{more}",
            "launch setup with --kydb URL, --read URL, --subnet or --kms-key, as the request has them",
        )
    return f"{name} may do the {len(needs)} things that this job does, {how}"


def _refused_by_simulator(iam: Any, role: str, needs: list[Need]) -> Iterator[Need]:
    by_resource = dict[str, list[Need]]()
    for need in needs:
        by_resource.setdefault(need.resource, []).append(need)
    for resource, group in by_resource.items():
        answer = iam.simulate_principal_policy(
            PolicySourceArn=role, ActionNames=[need.action for need in group], ResourceArns=[resource]
        )
        decisions = {result["EvalActionName"]: result["EvalDecision"] for result in answer["EvaluationResults"]}
        yield from (need for need in group if decisions.get(need.action) != "allowed")


def bucket(aws: Aws, request: dict[str, Any]) -> str:
    """Whether the bucket of the results is there, open, and in the job's region."""
    name = urlsplit(training_part(request)["OutputDataConfig"]["S3OutputPath"]).netloc
    try:
        answer = aws.client("s3").head_bucket(Bucket=name)
    except botocore.exceptions.ClientError as error:
        code = aws_code(error)
        if code in ("404", "NoSuchBucket"):
            raise Wrong(f"there is no bucket {name}", "launch setup, or --bucket") from None
        if code in ("403", "AccessDenied"):
            raise Wrong(
                f"the bucket {name} is another account's, or closed to you",
                "--bucket, or the launcher's policy that launch setup makes",
            ) from None
        if code not in ("301", "PermanentRedirect"):
            raise
        answer = error.response
    region = answer["ResponseMetadata"]["HTTPHeaders"].get("x-amz-bucket-region")
    if region and region != aws.region:
        raise Wrong(
            f"the bucket {name} is in {region} and the job in {aws.region}", f"--region {region}, or another --bucket"
        )
    return f"{name} is in {aws.region}"


def writing(aws: Aws, job: dict[str, Any]) -> str:
    """Writes and deletes a small object, encrypted as the results would be, with the caller's own rights."""
    bucket = urlsplit(job["OutputDataConfig"]["S3OutputPath"]).netloc
    key = f"position-trainer/doctor-{uuid.uuid4().hex[:12]}"
    encryption = job["OutputDataConfig"].get("KmsKeyId")
    extra = {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": encryption} if encryption else {}
    s3 = aws.client("s3")
    try:
        s3.put_object(Bucket=bucket, Key=key, Body=b"", **extra)
    except botocore.exceptions.ClientError as error:
        raise Wrong(
            f"you may not write to {bucket}{f' with the key {encryption}' if encryption else ''}: {aws_code(error)}",
            "attach the launcher's policy, which launch setup makes, to your user"
            + ("; the key's policy must let you use it, too" if encryption else ""),
        ) from None
    s3.delete_object(Bucket=bucket, Key=key)
    return f"an object was written to {bucket} and deleted" + (f", encrypted with {encryption}" if encryption else "")


def _image_parts(job: dict[str, Any]) -> dict[str, str]:
    uri = job["AlgorithmSpecification"]["TrainingImage"]
    parts = _IMAGE.fullmatch(uri)
    if not parts:
        raise Unknown(f"{uri} is not in ECR")
    return parts.groupdict() | {"uri": uri}


def image(aws: Aws, job: dict[str, Any]) -> str:
    """Whether the image is there, and in the job's region."""
    parts = _image_parts(job)
    if parts["region"] != aws.region:
        raise Wrong(
            f"the image is in {parts['region']} and the job in {aws.region}", f"launch push --region {aws.region}"
        )
    _manifest(aws, parts)
    return f"{parts['uri']} exists"


def _manifest(aws: Aws, parts: dict[str, str], digest: str = "") -> dict[str, Any]:
    wanted = digest or parts["digest"]
    identity = {"imageDigest": wanted} if wanted else {"imageTag": parts["tag"] or "latest"}
    try:
        answer = aws.client("ecr").batch_get_image(
            registryId=parts["account"],
            repositoryName=parts["name"],
            imageIds=[identity],
            acceptedMediaTypes=_MANIFESTS,
        )
    except botocore.exceptions.ClientError as error:
        if aws_code(error) == "RepositoryNotFoundException":
            raise Wrong(f"there is no repository {parts['name']}", "launch setup, then launch push") from None
        raise
    if not answer["images"]:
        raise Wrong(f"there is no image {parts['uri']}", "launch push, or --image")
    return json.loads(answer["images"][0]["imageManifest"])


def accelerator(aws: Aws, request: dict[str, Any]) -> str:
    """Whether the image is for the machine, from its configuration."""
    job = training_part(request)
    parts = _image_parts(job)
    manifest = _manifest(aws, parts)
    if "manifests" in manifest:  # one for each platform
        found = [entry for entry in manifest["manifests"] if _platform(entry.get("platform", {})) == "linux/amd64"]
        if not found:
            raise Wrong(
                f"{parts['uri']} has no image for linux/amd64", "docker build --platform linux/amd64, launch push"
            )
        manifest = _manifest(aws, parts, found[0]["digest"])
    try:
        url = aws.client("ecr").get_download_url_for_layer(
            registryId=parts["account"], repositoryName=parts["name"], layerDigest=manifest["config"]["digest"]
        )["downloadUrl"]
        with urllib.request.urlopen(url, timeout=20) as answer:  # noqa: S310 - ECR's own answer
            configuration = json.load(answer)
    except (KeyError, OSError, ValueError) as error:
        raise Unknown(f"the image's configuration cannot be read: {one_line(error)}") from None
    if (platform := _platform(configuration)) != "linux/amd64":
        raise Wrong(
            f"{parts['uri']} is for {platform}, and SageMaker's instances are linux/amd64",
            "docker build --platform linux/amd64, then launch push",
        )
    instance = job["ResourceConfig"]["InstanceType"]
    if _OTHER_CHIP.match(instance):
        raise Wrong(
            f"{instance} has a chip that the image cannot use", "--instance-type ml.c7i.4xlarge, or ml.g5.xlarge"
        )
    built_for = ((configuration.get("config") or {}).get("Labels") or {}).get("position-trainer.accelerator")
    if built_for is None:
        raise Unknown("the image does not say whether it is for GPUs; an image of `make image` does")
    if _GPU.match(instance) and built_for == "cpu" and hyperparameters_of(request).get("allow_cpu") != "true":
        raise Wrong(
            f"{instance} has a GPU, and the image is for CPUs: the job would refuse to train",
            "make image ACCELERATOR=gpu, then launch push; or an instance without a GPU",
        )
    return f"the image is linux/amd64, for {built_for}; {instance} {'has' if _GPU.match(instance) else 'has no'} GPU"


def _platform(description: dict[str, Any]) -> str:
    return f"{description.get('os', '?')}/{description.get('architecture', '?')}"


def quota(aws: Aws, request: dict[str, Any]) -> str:
    """Whether the account's quotas hold the request's instances."""
    job = training_part(request)
    instance = job["ResourceConfig"]["InstanceType"]
    at_a_time = len(host_names(job))
    if operation_of(request) == TUNING:
        limits = request["HyperParameterTuningJobConfig"].get("ResourceLimits", {})
        at_a_time *= limits.get("MaxParallelTrainingJobs", 1)
    kind = "spot training job" if job.get("EnableManagedSpotTraining") else "training job"
    wanted = {f"{instance} for {kind} usage": at_a_time}
    if job["ResourceConfig"].get("KeepAlivePeriodInSeconds"):
        wanted[f"{instance} for training warm pool usage"] = at_a_time
    pages = aws.client("service-quotas").get_paginator("list_service_quotas").paginate(ServiceCode="sagemaker")
    found = {quota["QuotaName"]: quota for page in pages for quota in page["Quotas"]}
    for name, count in wanted.items():
        if name not in found:
            raise Unknown(f"there is no quota {name!r} in the account's list; see {_QUOTAS_PAGE}")
        if found[name]["Value"] < count:
            raise Wrong(
                f"the quota {name!r} is {found[name]['Value']:g} and the request takes {count}",
                "aws service-quotas request-service-quota-increase --service-code sagemaker "
                f"--quota-code {found[name]['QuotaCode']} --desired-value {count}",
            )
    return "; ".join(f"{name}: {found[name]['Value']:g}" for name in wanted)


def channel(aws: Aws, uri: str) -> str:
    """Whether there is anything under the URI of a channel."""
    parts = urlsplit(uri)
    try:
        found = aws.client("s3").list_objects_v2(Bucket=parts.netloc, Prefix=parts.path.lstrip("/"), MaxKeys=1)
    except botocore.exceptions.ClientError as error:
        if aws_code(error) == "NoSuchBucket":
            raise Wrong(f"there is no bucket {parts.netloc}", "--prices s3://...") from None
        raise
    if not found.get("KeyCount"):
        raise Wrong(f"there is nothing under {uri}", "aws s3 cp FILE " + uri)
    return f"{uri} has objects"


def kydb(aws: Aws, request: dict[str, Any], name: str) -> str:
    """Whether the KYDB answers here, and the prices are there; the job's own network may be another."""
    from ml.databases import configure_aws, connect, exists  # with kydb, which takes a moment

    parameters = hyperparameters_of(request)
    url = parameters[name]
    shown = redacted(url)
    key = parameters.get("prices_key" if name == "prices_db" else "model_key")
    try:
        for part in re.split("[;|]", url):  # S3 says the same of a missing bucket as of a missing key
            if part.startswith("s3://"):
                aws.client("s3").head_bucket(Bucket=urlsplit(part).netloc)
        configure_aws(_KYDB_SECONDS)
        there = exists(connect(url, _KYDB_SECONDS), key or "/doctor")
    except Exception as error:
        raise Wrong(
            f"{shown} cannot be reached from here: {one_line(error)}",
            f"check the URL, and your own right to it; --set {name}=URL",
        ) from None
    if name == "prices_db" and key and not there:
        raise Wrong(f"{shown} answers and has no {key}", "--set prices_key=KEY")
    return f"{shown} answers" + (f", and has {key}" if key and there else "")


def vpc(aws: Aws, config: dict[str, Any], hosts: int) -> str:
    """Whether the job's network is one VPC that reaches S3, and lets several hosts reach each other."""
    ec2 = aws.client("ec2")
    try:
        subnets = ec2.describe_subnets(SubnetIds=config["Subnets"])["Subnets"]
        groups = ec2.describe_security_groups(GroupIds=config["SecurityGroupIds"])["SecurityGroups"]
    except botocore.exceptions.ClientError as error:
        if aws_code(error) in ("InvalidSubnetID.NotFound", "InvalidGroup.NotFound", "InvalidGroupId.Malformed"):
            raise Wrong(str(error).rpartition(": ")[2], "--subnet and --security-group") from None
        raise
    networks = {entry["VpcId"] for entry in (*subnets, *groups)}
    if len(networks) > 1:
        raise Wrong(
            f"the subnets and security groups are of several VPCs: {', '.join(sorted(networks))}",
            "--subnet and --security-group of one VPC",
        )
    vpc = networks.pop()
    if hosts > 1 and not any(_lets_in(group, config["SecurityGroupIds"]) for group in groups):
        group = config["SecurityGroupIds"][0]
        raise Wrong(
            f"the security groups let nothing in from themselves, so {hosts} hosts could not reach each other",
            f"aws ec2 authorize-security-group-ingress --group-id {group} --protocol tcp --port 0-65535 "
            f"--source-group {group}",
        )
    found = ec2.describe_vpc_endpoints(
        Filters=[
            {"Name": "vpc-id", "Values": [vpc]},
            {"Name": "service-name", "Values": [f"com.amazonaws.{aws.region}.s3"]},
        ]
    )["VpcEndpoints"]
    if not found:
        raise Unknown(
            f"{vpc} has no endpoint com.amazonaws.{aws.region}.s3; where its subnets have no other way to S3 (a NAT "
            "gateway), the job cannot start: launch setup --subnet ... prints the endpoints"
        )
    return f"{vpc} has an S3 endpoint"


def _lets_in(group: dict[str, Any], sources: list[str]) -> bool:
    """Whether a security group lets anything in from one of some groups, or from some range of addresses."""
    return any(
        rule["IpRanges"] or any(pair["GroupId"] in sources for pair in rule["UserIdGroupPairs"])
        for rule in group["IpPermissions"]
    )
