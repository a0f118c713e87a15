"""Training jobs that start by themselves: an EventBridge Scheduler schedule that calls SageMaker.

A schedule holds the whole request. Scheduler calls CreateTrainingJob (or the tuning call) with it, as the role that
`setup` made, and puts an id of its own into the job's name. Nothing of this project runs in between.
"""

import copy
import json
import re
from collections.abc import Iterator
from typing import Any

import botocore.exceptions

from account.setup import SCHEDULE_GROUP, Aws, aws_code, has_schedule_group, outputs, schedule_names
from ml.errors import UserError
from request import TUNING, operation_of, s3_sources, training_part

# What Scheduler replaces by an id of each call. AWS's guide shows one of 16 characters and promises no length; a
# training job's name has room for a UUID of 36, a tuning job's (32 in all) for 16.
EXECUTION_ID = "<aws.scheduler.execution-id>"
_MOST_NAME = {False: 63 - 1 - 36, True: 32 - 1 - 16}
_NAME = re.compile(r"[A-Za-z0-9](-*[A-Za-z0-9])*")
TAG = "position-trainer:schedule"

_RETRIES = {"MaximumRetryAttempts": 3, "MaximumEventAgeInSeconds": 3600}  # a later night is the better second try
_CRON_FIELD = re.compile(r"[A-Za-z0-9*?,/#-]+")


def schedule_expression(cron: str) -> str:
    """EventBridge's expression of a cron line: its own six fields, or the usual five.

    Raises:
        UserError: it is neither, or numbers its weekdays, which the two count differently.
    """
    if re.fullmatch(r"(cron|rate|at)\(.+\)", cron):
        return cron
    fields = cron.split()
    if len(fields) not in (5, 6) or not all(_CRON_FIELD.fullmatch(field) for field in fields):
        raise UserError(
            f'--cron must be five or six fields, such as "0 2 * * *" (each night at 2:00), received {cron!r}'
        )
    if len(fields) == 6:
        return f"cron({' '.join(fields)})"
    minute, hour, day, month, weekday = fields
    if re.search(r"\d", weekday):
        raise UserError(
            "--cron: name the weekdays (MON-FRI), since cron counts them from 0 and EventBridge from 1, "
            f"received {cron!r}"
        )
    if weekday == "*":
        weekday = "?"
    elif day == "*":
        day = "?"
    else:
        raise UserError(f"--cron: EventBridge takes a day of the month or of the week, not both, received {cron!r}")
    return f"cron({minute} {hour} {day} {month} {weekday} *)"


def scheduled(request: dict[str, Any], name: str) -> dict[str, Any]:
    """The request as a schedule holds it: a new name each time, checkpoints of its own, and the schedule's tag.

    Args:
        request: complete and checked, under whatever name it has now.
        name: the schedule's.

    Raises:
        UserError: the name is too long or of other characters, or the request reads files of this machine.
    """
    tuning = operation_of(request) == TUNING
    if len(name) > _MOST_NAME[tuning] or not _NAME.fullmatch(name):
        raise UserError(
            f"--name must be at most {_MOST_NAME[tuning]} letters, digits and hyphens, since Scheduler adds an id "
            f"to the job's name, received {name!r}"
        )
    for channel, source in s3_sources(request).items():
        if not source["S3Uri"].startswith("s3://"):
            raise UserError(
                f"channel {channel}: a schedule reads the prices of its day, not a file of this machine, received "
                f"{source['S3Uri']}; give --prices s3://... or --set prices_db=URL"
            )
    request = copy.deepcopy(request)
    key = "HyperParameterTuningJobName" if tuning else "TrainingJobName"
    before, request[key] = request[key], f"{name}-{EXECUTION_ID}"
    checkpoints = training_part(request).get("CheckpointConfig")
    if checkpoints:  # a folder of each job's own, or a job would go on with the last night's
        checkpoints["S3Uri"] = f"{checkpoints['S3Uri'].rstrip('/').removesuffix(f'/{before}')}/{request[key]}"
    tags = [tag for tag in request.get("Tags", []) if tag.get("Key") != TAG]
    request["Tags"] = [*tags, {"Key": TAG, "Value": name}]
    return request


def put(aws: Aws, name: str, request: dict[str, Any], cron: str, *, timezone: str = "UTC", notify: str = "") -> str:
    """Makes a schedule, or replaces the one of its name; returns the line that says which.

    Args:
        aws: the account.
        name: of the schedule and the beginning of its jobs' names.
        request: complete and checked.
        cron: when, as `schedule_expression` takes it.
        timezone: that it is meant in, such as Europe/Berlin.
        notify: ARN of an SNS topic that hears of failed nights; empty: nobody does.

    Raises:
        UserError: the account was not set up, or the topic does not let EventBridge publish.
    """
    expression = schedule_expression(cron)
    held = scheduled(request, name)
    operation = "createHyperParameterTuningJob" if operation_of(request) == TUNING else "createTrainingJob"
    role = outputs(aws)["SchedulerRole"]
    if notify:
        _check_topic(aws, notify)
    scheduler = aws.client("scheduler")
    if not has_schedule_group(aws):
        scheduler.create_schedule_group(Name=SCHEDULE_GROUP)
    description = {
        "Name": name,
        "GroupName": SCHEDULE_GROUP,
        "ScheduleExpression": expression,
        "ScheduleExpressionTimezone": timezone,
        "FlexibleTimeWindow": {"Mode": "OFF"},
        "State": "ENABLED",
        "Target": {
            "Arn": f"arn:{role.split(':')[1]}:scheduler:::aws-sdk:sagemaker:{operation}",
            "RoleArn": role,
            "Input": json.dumps(held),
            "RetryPolicy": _RETRIES,
        },
    }
    replaces = name in schedule_names(aws)
    (scheduler.update_schedule if replaces else scheduler.create_schedule)(**description)
    if notify:
        _put_notices(aws, name, notify, tuning=operation_of(request) == TUNING)
    return f"the schedule {name} was {'replaced' if replaces else 'made'}: {expression} {timezone}"


def listed(aws: Aws) -> Iterator[dict[str, Any]]:
    """The schedules of this project, each as GetSchedule describes it."""
    for name in schedule_names(aws):
        yield _described(aws, name)


def set_state(aws: Aws, name: str, *, enabled: bool) -> None:
    """Pauses a schedule or lets it go on; all else of it stays.

    Raises:
        UserError: there is none of the name.
    """
    found = _described(aws, name)
    kept = ("Name", "GroupName", "ScheduleExpression", "ScheduleExpressionTimezone", "FlexibleTimeWindow", "Target")
    kept += ("Description", "StartDate", "EndDate", "KmsKeyArn", "ActionAfterCompletion")
    aws.client("scheduler").update_schedule(
        **{key: found[key] for key in kept if found.get(key) is not None}, State="ENABLED" if enabled else "DISABLED"
    )


def delete(aws: Aws, name: str) -> None:
    """Deletes a schedule and its notices; jobs that it started stay.

    Raises:
        UserError: there is none of the name.
    """
    _described(aws, name)
    aws.client("scheduler").delete_schedule(Name=name, GroupName=SCHEDULE_GROUP)
    events = aws.client("events")
    try:
        events.remove_targets(Rule=_rule(name), Ids=["topic"])
        events.delete_rule(Name=_rule(name))
    except botocore.exceptions.ClientError as error:
        if aws_code(error) != "ResourceNotFoundException":
            raise
    aws.client("cloudwatch").delete_alarms(AlarmNames=[_rule(name)])


def _described(aws: Aws, name: str) -> dict[str, Any]:
    try:
        return aws.client("scheduler").get_schedule(Name=name, GroupName=SCHEDULE_GROUP)
    except botocore.exceptions.ClientError as error:
        if aws_code(error) != "ResourceNotFoundException":
            raise
        raise UserError(f"there is no schedule {name}; `schedule list` shows those there are") from None


# Failed nights


def _rule(name: str) -> str:
    return f"position-trainer-{name}"


def _put_notices(aws: Aws, name: str, topic: str, *, tuning: bool) -> None:
    """A rule on jobs that ended badly, and an alarm on calls that SageMaker refused, which leave no job."""
    kind = "HyperParameterTuningJob" if tuning else "TrainingJob"
    detail = "SageMaker HyperParameter Tuning Job State Change" if tuning else "SageMaker Training Job State Change"
    events = aws.client("events")
    events.put_rule(
        Name=_rule(name),
        Description=f"failed jobs of the schedule {name}",
        EventPattern=json.dumps(
            {
                "source": ["aws.sagemaker"],
                "detail-type": [detail],
                "detail": {f"{kind}Name": [{"prefix": f"{name}-"}], f"{kind}Status": ["Failed", "Stopped"]},
            }
        ),
    )
    answer = events.put_targets(Rule=_rule(name), Targets=[{"Id": "topic", "Arn": topic}])
    if answer.get("FailedEntryCount"):
        raise UserError(f"EventBridge does not take {topic} as a target: {answer['FailedEntries'][0]['ErrorMessage']}")
    aws.client("cloudwatch").put_metric_alarm(
        AlarmName=_rule(name),
        AlarmDescription="a scheduled job of position-trainer could not be started: SageMaker refused the call",
        Namespace="AWS/Scheduler",
        MetricName="TargetErrorCount",
        Dimensions=[{"Name": "ScheduleGroup", "Value": SCHEDULE_GROUP}],
        Statistic="Sum",
        Period=3600,
        EvaluationPeriods=1,
        Threshold=1,
        ComparisonOperator="GreaterThanOrEqualToThreshold",
        TreatMissingData="notBreaching",
        AlarmActions=[topic],
    )


def _check_topic(aws: Aws, topic: str) -> None:
    if not re.fullmatch(r"arn:[^:]+:sns:[^:]+:\d{12}:[^:]+", topic):
        raise UserError(
            f"--notify must be the ARN of an SNS topic, received {topic!r}; aws sns create-topic prints one"
        )
    if topic.split(":")[3] != aws.region:
        raise UserError(f"--notify: the topic must be in the region of the schedule, {aws.region}, received {topic}")
    try:
        attributes = aws.client("sns").get_topic_attributes(TopicArn=topic)["Attributes"]
    except botocore.exceptions.ClientError as error:
        if aws_code(error) in ("NotFound", "NotFoundException"):
            raise UserError(f"--notify: there is no topic {topic}") from None
        raise
    policy = json.loads(attributes.get("Policy") or "{}")
    services = {
        service
        for statement in policy.get("Statement", [])
        if statement.get("Effect") == "Allow" and isinstance(statement.get("Principal"), dict)
        for service in _list(statement["Principal"].get("Service", []))
    }
    missing = {"events.amazonaws.com", "cloudwatch.amazonaws.com"} - services
    if missing:
        raise UserError(
            f"--notify: the policy of {topic} does not let {' and '.join(sorted(missing))} publish to it; "
            "docs/aws.md has the statement to add (aws sns set-topic-attributes --attribute-name Policy)"
        )


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
