"""Schedules that start jobs by themselves."""

import json

import pytest

from account import schedule
from account.setup import outputs
from ml.errors import UserError

TOPIC_POLICY = {
    "Version": "2012-10-17",
    "Statement": [
        {
            "Effect": "Allow",
            "Principal": {"Service": ["events.amazonaws.com", "cloudwatch.amazonaws.com"]},
            "Action": "sns:Publish",
            "Resource": "*",
        }
    ],
}
NIGHTLY = ("schedule", "--name", "nightly", "--cron", "0 2 * * *", "--prices", "s3://prices/history/")


@pytest.fixture
def account(ready, launch, tmp_path):
    """Options of the account in the settings file, as setup leaves them."""
    made = outputs(ready)
    (tmp_path / "position-trainer.yaml").write_text(
        f"role: {made['Role']}\nbucket: {made['Bucket']}\nimage: {made['Repository']}:1\nregion: eu-west-1\n"
    )
    return ready


def described(aws, name="nightly"):
    return aws.client("scheduler").get_schedule(Name=name, GroupName="position-trainer")


@pytest.mark.parametrize(
    ("cron", "expression"),
    [
        ("0 2 * * *", "cron(0 2 * * ? *)"),
        ("30 1 * * MON-FRI", "cron(30 1 ? * MON-FRI *)"),
        ("0 2 1 * *", "cron(0 2 1 * ? *)"),
        ("0 2 ? * SUN *", "cron(0 2 ? * SUN *)"),
        ("rate(1 day)", "rate(1 day)"),
    ],
)
def test_cron_lines_become_eventbridges_expressions(cron, expression):
    assert schedule.schedule_expression(cron) == expression


@pytest.mark.parametrize("cron", ["", "0 2 * *", "0 2 * * 1-5", "0 2 1 * MON", "0 2 * * * * *", "0 2 * * );"])
def test_cron_lines_that_eventbridge_reads_otherwise_are_refused(cron):
    with pytest.raises(UserError, match="--cron"):
        schedule.schedule_expression(cron)


def test_a_schedule_calls_sagemaker_itself_with_the_whole_request(account, launch):
    code, out, err = launch(*NIGHTLY, "--spot", "--timezone", "Europe/Berlin", "--tag", "team=fx")
    assert (code, out) == (0, "the schedule nightly was made: cron(0 2 * * ? *) Europe/Berlin\n"), err
    found = described(account)
    assert found["Target"]["Arn"] == "arn:aws:scheduler:::aws-sdk:sagemaker:createTrainingJob"
    assert found["Target"]["RoleArn"] == outputs(account)["SchedulerRole"]
    assert found["ScheduleExpressionTimezone"] == "Europe/Berlin"
    # What Scheduler sends, once it has put its id in, is a request that SageMaker takes.
    sent = json.loads(found["Target"]["Input"].replace("<aws.scheduler.execution-id>", "d32c5kddcf5bb8c3"))
    assert sent["TrainingJobName"] == "nightly-d32c5kddcf5bb8c3"
    bucket = outputs(account)["Bucket"]
    assert sent["CheckpointConfig"]["S3Uri"] == f"s3://{bucket}/position-trainer/checkpoints/nightly-d32c5kddcf5bb8c3"
    assert sent["Tags"] == [
        {"Key": "team", "Value": "fx"}, {"Key": "position-trainer:schedule", "Value": "nightly"}
    ]  # fmt: skip
    account.client("sagemaker").create_training_job(**sent)


def test_names_stay_legal_with_the_longest_id_that_scheduler_may_give():
    job = {"TrainingJobName": "x"}
    longest = "n" * 26
    assert len(schedule.scheduled(job, longest)["TrainingJobName"].replace(schedule.EXECUTION_ID, "0" * 36)) == 63
    with pytest.raises(UserError, match="at most 26 letters"):
        schedule.scheduled(job, "n" * 27)
    with pytest.raises(UserError, match="received 'a_b'"):
        schedule.scheduled(job, "a_b")


def test_a_search_may_be_scheduled(account, launch, tmp_path):
    code, out, err = launch(
        "schedule", "--json", "--name", "weekly", "--cron", "0 2 * * SUN", "--prices", "s3://prices/history/",
        tuning_request(tmp_path),
    )  # fmt: skip
    assert code == 0, err
    assert described(account, "weekly")["Target"]["Arn"].endswith(":sagemaker:createHyperParameterTuningJob")
    assert json.loads(out)["HyperParameterTuningJobName"] == "weekly-<aws.scheduler.execution-id>"
    with pytest.raises(UserError, match="at most 15 letters"):
        schedule.scheduled({"HyperParameterTuningJobConfig": {}, "HyperParameterTuningJobName": "x"}, "n" * 16)


def tuning_request(tmp_path):
    import options

    path = tmp_path / "search.yaml"
    path.write_text((options.HERE / "tuning_job.yaml").read_text())
    return path


def test_a_file_of_this_machine_is_refused(account, launch, tmp_path):
    (tmp_path / "prices.csv").write_text("dt,mid\n")
    code, _, err = launch("schedule", "--cron", "0 2 * * *", "--prices", tmp_path / "prices.csv")
    assert code == 1
    assert "a schedule reads the prices of its day, not a file of this machine" in err


def test_a_schedule_is_listed_replaced_paused_and_deleted(account, launch):
    assert launch("schedule", "list")[:2] == (0, "name\tstate\twhen\ttimezone\n")
    launch(*NIGHTLY)
    assert launch(*NIGHTLY, "--set", "epochs=7")[1] == "the schedule nightly was replaced: cron(0 2 * * ? *) UTC\n"
    assert json.loads(described(account)["Target"]["Input"])["HyperParameters"]["epochs"] == "7"
    before = described(account)
    assert launch("schedule", "pause", "nightly")[0] == 0
    assert launch("schedule", "list")[1].splitlines()[1] == "nightly\tDISABLED\tcron(0 2 * * ? *)\tUTC"
    assert described(account)["Target"] == before["Target"]
    assert launch("schedule", "pause", "--resume", "nightly")[0] == 0
    assert described(account)["State"] == "ENABLED"
    assert launch("schedule", "delete", "nightly")[0] == 0
    assert list(schedule.listed(account)) == []
    code, _, err = launch("schedule", "pause", "nightly")
    assert (code, err) == (1, "error: there is no schedule nightly; `schedule list` shows those there are\n")


def test_failed_nights_are_told_whether_the_job_failed_or_was_never_started(account, launch):
    topic = account.client("sns").create_topic(Name="nights")["TopicArn"]
    account.client("sns").set_topic_attributes(
        TopicArn=topic, AttributeName="Policy", AttributeValue=json.dumps(TOPIC_POLICY)
    )
    code, _, err = launch(*NIGHTLY, "--notify", topic)
    assert code == 0, err
    (rule,) = account.client("events").list_rules()["Rules"]
    assert json.loads(rule["EventPattern"])["detail"] == {
        "TrainingJobName": [{"prefix": "nightly-"}],
        "TrainingJobStatus": ["Failed", "Stopped"],
    }
    (target,) = account.client("events").list_targets_by_rule(Rule=rule["Name"])["Targets"]
    assert target["Arn"] == topic
    (alarm,) = account.client("cloudwatch").describe_alarms()["MetricAlarms"]
    assert (alarm["MetricName"], alarm["AlarmActions"]) == ("TargetErrorCount", [topic])
    launch("schedule", "delete", "nightly")
    assert account.client("events").list_rules()["Rules"] == []
    assert account.client("cloudwatch").describe_alarms()["MetricAlarms"] == []


@pytest.mark.parametrize(
    ("topic", "text"),
    [
        ("nights", "must be the ARN of an SNS topic"),
        ("arn:aws:sns:us-east-1:123456789012:nights", "must be in the region of the schedule, eu-west-1"),
        ("arn:aws:sns:eu-west-1:123456789012:nowhere", "there is no topic"),
        ("arn:aws:sns:eu-west-1:123456789012:closed", "does not let cloudwatch.amazonaws.com and events.amazonaws.com"),
    ],
)
def test_a_topic_that_would_hear_nothing_is_refused(account, launch, topic, text):
    account.client("sns").create_topic(Name="closed")
    code, _, err = launch(*NIGHTLY, "--notify", topic)
    assert code == 1
    assert text in err
    assert list(schedule.listed(account)) == []


def test_an_account_that_was_not_set_up_is_told_how(cloud):
    with pytest.raises(UserError, match="there is no stack position-trainer in eu-west-1; make it with: launch setup"):
        schedule.put(cloud, "nightly", {"TrainingJobName": "x"}, "0 2 * * *")
