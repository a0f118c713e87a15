"""Makes what an account needs from the template, once, and takes away what is empty."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import botocore.exceptions
import yaml

from account.template import LOG_GROUP, STACK, Access, access_in, account_template, template_text
from ml.errors import UserError
from ml.files import write_whole

SCHEDULE_GROUP = STACK
REPOSITORY = STACK

# In these states a stack can be updated; of the others only "being worked on" and "failed at birth" are met.
_WHOLE = ("CREATE_COMPLETE", "UPDATE_COMPLETE", "UPDATE_ROLLBACK_COMPLETE", "IMPORT_COMPLETE")
_ABSENT = ("404", "NoSuchBucket", "NotFound", "ResourceNotFoundException", "RepositoryNotFoundException")


class Aws(Protocol):
    """What this package needs of a place on AWS."""

    @property
    def region(self) -> str: ...

    def client(self, service: str) -> Any: ...


class Plan(NamedTuple):
    """What `deploy` would send.

    Attributes:
        template: the template's text.
        parameters: of the template, name to value.
        deployed: whether the stack is there already.
        changes: whether the stack differs from the plan, or is not there.
        kept: what is there already and not the stack's, and is used as it is.
    """

    template: str
    parameters: dict[str, str]
    deployed: bool
    changes: bool
    kept: list[str]


def plan(aws: Aws, access: dict[str, Any], bucket: str | None = None) -> Plan:
    """What the account needs, compared with what it has.

    Args:
        aws: the account.
        access: fields of `Access` that were given; of the others a deployed stack keeps its own.
        bucket: name of the bucket; None: position-trainer-ACCOUNT-REGION, or the deployed stack's.

    Raises:
        UserError: a stack of the name is in a state that cannot be updated, or the bucket is another account's.
    """
    stack = _stack(aws)
    before = {entry["ParameterKey"]: entry["ParameterValue"] for entry in (stack or {}).get("Parameters", [])}
    text = _deployed_template(aws) if stack else ""
    known = access_in(text) if text else Access()
    template = template_text(
        account_template(known._replace(**{name: value for name, value in access.items() if value}))
    )
    account = aws.client("sts").get_caller_identity()["Account"]
    name = bucket or before.get("BucketName") or f"{STACK}-{account}-{aws.region}"
    ours = {key: before.get(key) == "true" for key in ("MakeBucket", "MakeRepository", "MakeLogGroup")}
    if bucket and before.get("BucketName", bucket) != bucket:
        ours["MakeBucket"] = False  # another bucket than the stack's
    found = {
        "MakeBucket": ("the bucket " + name, lambda: bucket_exists(aws, name)),
        "MakeRepository": ("the repository " + REPOSITORY, lambda: _repository_exists(aws)),
        "MakeLogGroup": ("the log group " + LOG_GROUP, lambda: _log_group_exists(aws)),
    }
    there = {key: not ours[key] and exists() for key, (_, exists) in found.items()}
    parameters = {
        "BucketName": name,
        "RepositoryName": REPOSITORY,
        **{key: "false" if there[key] else "true" for key in found},
    }
    changes = text != template or any(before.get(key) != value for key, value in parameters.items())
    return Plan(
        template, parameters, bool(stack), changes, [found[key][0] for key, is_there in there.items() if is_there]
    )


def deploy(aws: Aws, planned: Plan, *, wait_seconds: int = 5) -> dict[str, str]:
    """Makes or updates the stack and returns its outputs; one that is as planned is left alone.

    Raises:
        UserError: CloudFormation could not make something, with its reason.
    """
    cloudformation = aws.client("cloudformation")
    if planned.changes:
        call = cloudformation.update_stack if planned.deployed else cloudformation.create_stack
        waiter = "stack_update_complete" if planned.deployed else "stack_create_complete"
        try:
            call(
                StackName=STACK,
                TemplateBody=planned.template,
                Parameters=[
                    {"ParameterKey": key, "ParameterValue": value} for key, value in planned.parameters.items()
                ],
                Capabilities=["CAPABILITY_IAM"],
                Tags=[{"Key": STACK, "Value": "account"}],
            )
        except botocore.exceptions.ClientError as error:
            if "No updates are to be performed" not in str(error):
                raise
        else:
            _wait(aws, waiter, wait_seconds)
    return outputs(aws)


def outputs(aws: Aws) -> dict[str, str]:
    """The outputs of the deployed stack: Role, SchedulerRole, LauncherPolicy, Bucket, Repository.

    Raises:
        UserError: there is no such stack.
    """
    stack = _stack(aws)
    if stack is None:
        raise UserError(f"there is no stack {STACK} in {aws.region}; make it with: launch setup")
    return {entry["OutputKey"]: entry["OutputValue"] for entry in stack.get("Outputs", [])}


def deployed_access(aws: Aws) -> Access:
    """What the options of `setup` were that the deployed stack was made with."""
    return access_in(_deployed_template(aws))


def newest_image(aws: Aws) -> str | None:
    """URI of the newest tagged image in the repository; None where there is none."""
    ecr = aws.client("ecr")
    try:
        repository = ecr.describe_repositories(repositoryNames=[REPOSITORY])["repositories"][0]
        pages = ecr.get_paginator("describe_images").paginate(repositoryName=REPOSITORY, filter={"tagStatus": "TAGGED"})
        images = [image for page in pages for image in page["imageDetails"]]
    except botocore.exceptions.ClientError as error:
        if aws_code(error) in _ABSENT:
            return None
        raise
    if not images:
        return None
    newest = max(images, key=lambda image: image["imagePushedAt"])
    return f"{repository['repositoryUri']}:{newest['imageTags'][0]}"


def write_settings(path: Path, values: dict[str, str]) -> bool:
    """Sets lines of a settings file and leaves all others, comments too, as they are.

    Returns:
        Whether the file was changed.

    Raises:
        UserError: what is there is no settings file.
    """
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    text = before
    for name, value in values.items():
        line = f"{name}: {value}"
        if re.search(rf"^{name}:", text, re.MULTILINE):
            if (yaml.safe_load(text) or {}).get(name) != value:
                text = re.sub(rf"^{name}:.*$", lambda _, line=line: line, text, count=1, flags=re.MULTILINE)
        else:
            text += ("" if text.endswith("\n") or not text else "\n") + line + "\n"
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError:
        content = None
    if not isinstance(content, dict) or any(content.get(name) != value for name, value in values.items()):
        raise UserError(f"the settings file {path} is not written as lines of NAME: VALUE; add {values} to it yourself")
    if text == before:
        return False
    write_whole(path, text)
    return True


def delete(aws: Aws, *, wait_seconds: int = 5) -> Iterator[str]:
    """Takes the stack away, then whatever of the rest is empty; yields a line for each thing, gone or left.

    Raises:
        UserError: there are schedules, which would go on without their role.
    """
    stack = _stack(aws)
    if stack is None:
        raise UserError(f"there is no stack {STACK} in {aws.region}")
    if names := schedule_names(aws):
        raise UserError(f"there are schedules: {', '.join(names)}; delete them first: launch schedule delete NAME")
    ours = {entry["ParameterKey"]: entry["ParameterValue"] for entry in stack.get("Parameters", [])}
    aws.client("cloudformation").delete_stack(StackName=STACK)
    _wait(aws, "stack_delete_complete", wait_seconds)
    yield "gone: the roles and the launcher's policy"
    bucket = ours.get("BucketName", "")
    for key, what, try_it, how in (
        ("MakeBucket", f"the bucket {bucket}", lambda: _delete_bucket(aws, bucket), f"aws s3 rb --force s3://{bucket}"),
        (
            "MakeRepository",
            f"the repository {REPOSITORY}",
            lambda: aws.client("ecr").delete_repository(repositoryName=REPOSITORY),
            f"aws ecr delete-repository --force --repository-name {REPOSITORY}",
        ),
        (
            "MakeLogGroup",
            f"the log group {LOG_GROUP}",
            lambda: _delete_log_group(aws),
            f"aws logs delete-log-group --log-group-name {LOG_GROUP}",
        ),
    ):
        yield f"left: {what}, which setup did not make" if ours.get(key) != "true" else _removed(what, try_it, how)
    if has_schedule_group(aws):
        aws.client("scheduler").delete_schedule_group(Name=SCHEDULE_GROUP)
    yield "left: position-trainer.yaml on this machine, and every KYDB"


def _removed(what: str, try_it: Callable[[], Any], how: str) -> str:
    try:
        try_it()
    except botocore.exceptions.ClientError as error:
        if aws_code(error) in ("BucketNotEmpty", "RepositoryNotEmptyException"):
            return f"left: {what}, which is not empty; to delete all that is in it: {how}"
        if aws_code(error) in _ABSENT:
            return f"gone before: {what}"
        raise
    except _NotEmpty:
        return f"left: {what}, which is not empty; to delete all that is in it: {how}"
    return f"gone: {what}"


class _NotEmpty(Exception):
    """There is something in it."""


def _delete_bucket(aws: Aws, name: str) -> None:
    if aws.client("s3").list_objects_v2(Bucket=name, MaxKeys=1).get("KeyCount"):
        raise _NotEmpty
    aws.client("s3").delete_bucket(Bucket=name)


def _delete_log_group(aws: Aws) -> None:
    logs = aws.client("logs")
    if logs.describe_log_streams(logGroupName=LOG_GROUP, limit=1)["logStreams"]:
        raise _NotEmpty
    logs.delete_log_group(logGroupName=LOG_GROUP)


def has_schedule_group(aws: Aws) -> bool:
    """Whether this project's group of schedules is there."""
    groups = aws.client("scheduler").list_schedule_groups(NamePrefix=SCHEDULE_GROUP)["ScheduleGroups"]
    return any(group["Name"] == SCHEDULE_GROUP for group in groups)


def schedule_names(aws: Aws) -> list[str]:
    """Names of the schedules in this project's group."""
    if not has_schedule_group(aws):
        return []
    pages = aws.client("scheduler").get_paginator("list_schedules").paginate(GroupName=SCHEDULE_GROUP)
    return [schedule["Name"] for page in pages for schedule in page["Schedules"]]


def bucket_exists(aws: Aws, name: str) -> bool:
    """Whether the account has the bucket.

    Raises:
        UserError: it is another account's.
    """
    try:
        aws.client("s3").head_bucket(Bucket=name)
    except botocore.exceptions.ClientError as error:
        if aws_code(error) in _ABSENT:
            return False
        if aws_code(error) in ("403", "AccessDenied", "Forbidden"):
            raise UserError(
                f"the bucket {name} is another account's, or closed to you; choose another --bucket"
            ) from None
        raise
    return True


def _repository_exists(aws: Aws) -> bool:
    try:
        aws.client("ecr").describe_repositories(repositoryNames=[REPOSITORY])
    except botocore.exceptions.ClientError as error:
        if aws_code(error) in _ABSENT:
            return False
        raise
    return True


def _log_group_exists(aws: Aws) -> bool:
    groups = aws.client("logs").describe_log_groups(logGroupNamePrefix=LOG_GROUP)["logGroups"]
    return any(group["logGroupName"] == LOG_GROUP for group in groups)


def _stack(aws: Aws) -> dict[str, Any] | None:
    """The deployed stack; None where there is none.

    Raises:
        UserError: it is in a state in which it cannot be updated.
    """
    try:
        stack = aws.client("cloudformation").describe_stacks(StackName=STACK)["Stacks"][0]
    except botocore.exceptions.ClientError as error:
        if "does not exist" in str(error):
            return None
        raise
    if stack["StackStatus"].endswith("IN_PROGRESS"):
        raise UserError(f"the stack {STACK} is being worked on ({stack['StackStatus']}); wait for it")
    if stack["StackStatus"] not in _WHOLE:
        raise UserError(
            f"the stack {STACK} is {stack['StackStatus']}: {_failure(aws)}; delete it with "
            f"aws cloudformation delete-stack --stack-name {STACK}, then run setup again"
        )
    return stack


def _deployed_template(aws: Aws) -> str:
    body = aws.client("cloudformation").get_template(StackName=STACK)["TemplateBody"]
    return body if isinstance(body, str) else template_text(body)


def _wait(aws: Aws, waiter: str, seconds: int) -> None:
    try:
        aws.client("cloudformation").get_waiter(waiter).wait(StackName=STACK, WaiterConfig={"Delay": seconds})
    except botocore.exceptions.WaiterError:
        raise UserError(f"CloudFormation could not finish the stack {STACK}: {_failure(aws)}") from None


def _failure(aws: Aws) -> str:
    """The first thing that failed, which the others then followed."""
    events = aws.client("cloudformation").describe_stack_events(StackName=STACK)["StackEvents"]  # the newest first
    failed = [event for event in events if event.get("ResourceStatus", "").endswith("FAILED")]
    if not failed:
        return "no reason was given"
    return f"{failed[-1]['LogicalResourceId']}: {failed[-1].get('ResourceStatusReason', 'no reason was given')}"


def aws_code(error: botocore.exceptions.ClientError) -> str:
    """The error's name in AWS's words, such as NoSuchEntity."""
    return error.response.get("Error", {}).get("Code", "")
