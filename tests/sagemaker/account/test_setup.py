"""Setting an account up, twice, and taking it away."""

import json
from datetime import datetime
from types import SimpleNamespace

import pytest
import yaml

from account import setup
from account.template import Access, account_template, endpoints
from ml.errors import UserError
from moto_account import ACCOUNT, CPU_IMAGE, REGION, put_image, refuse

BUCKET = f"position-trainer-{ACCOUNT}-{REGION}"


def roles(aws):
    return sorted(role["RoleName"] for role in aws.client("iam").list_roles()["Roles"])


def test_setup_makes_what_a_job_needs_and_writes_the_settings_file(cloud, launch, tmp_path):
    (tmp_path / "position-trainer.yaml").write_text("# ours\nruns: jobs\nbucket: old\n")
    code, out, err = launch("setup")
    assert code == 0, err
    role = setup.outputs(cloud)["Role"]
    written = (tmp_path / "position-trainer.yaml").read_text()
    assert written == f"# ours\nruns: jobs\nbucket: {BUCKET}\nrole: {role}\nregion: {REGION}\n"
    assert "no image is in the repository yet: make image, then: launch push" in out
    repository = cloud.client("ecr").describe_repositories()["repositories"][0]
    assert repository["imageTagMutability"] == "IMMUTABLE"
    assert cloud.client("logs").describe_log_groups()["logGroups"][0]["retentionInDays"] == 90
    assert cloud.client("s3").get_bucket_encryption(Bucket=BUCKET)


def test_a_second_run_changes_nothing_and_keeps_what_the_first_was_told(cloud, launch, tmp_path):
    assert launch("setup", "--kydb", "s3://epython")[0] == 0
    stack, written = (
        cloud.client("cloudformation").describe_stacks()["Stacks"],
        (tmp_path / "position-trainer.yaml").read_text(),
    )
    code, out, err = launch("setup")
    assert code == 0, err
    assert "nothing to change: stack position-trainer in eu-west-1" in out
    assert cloud.client("cloudformation").describe_stacks()["Stacks"] == stack
    assert (tmp_path / "position-trainer.yaml").read_text() == written
    assert setup.deployed_access(cloud) == Access(kydb=["s3://epython"])


def test_an_option_of_a_later_run_changes_the_role_and_nothing_else(cloud, launch):
    launch("setup", "--kydb", "s3://epython")
    before = roles(cloud)
    assert launch("setup", "--read", "dynamodb://prices/timeseries")[0] == 0
    assert roles(cloud) == before
    assert setup.deployed_access(cloud) == Access(kydb=["s3://epython"], read=["dynamodb://prices/timeseries"])


def test_the_newest_image_is_written(cloud, launch, tmp_path):
    launch("setup")
    uri = put_image(cloud, CPU_IMAGE, "first")
    launch("setup")
    assert yaml.safe_load((tmp_path / "position-trainer.yaml").read_text())["image"] == uri
    pushed = [("third", 3), ("fourth", 4), ("second", 2)]
    images = [{"imageTags": [tag], "imagePushedAt": datetime(2026, 1, day)} for tag, day in pushed]
    cloud.client("ecr").get_paginator = lambda _: SimpleNamespace(paginate=lambda **_: [{"imageDetails": images}])
    assert setup.newest_image(cloud) == uri.replace("first", "fourth")


def test_a_dry_run_makes_nothing_and_says_why_each_permission_is_there(cloud, launch, tmp_path):
    code, out, err = launch("setup", "--dry-run", "--kydb", "dynamodb://epython/timeseries")
    assert code == 0
    assert yaml.safe_load(out)["Resources"].keys() == account_template()["Resources"].keys()
    assert (
        "JobRole may dynamodb:DeleteItem, dynamodb:GetItem, dynamodb:Query, dynamodb:UpdateItem on "
        "arn:${AWS::Partition}:dynamodb:${AWS::Region}:${AWS::AccountId}:table/epython, "
        "arn:${AWS::Partition}:dynamodb:${AWS::Region}:${AWS::AccountId}:table/epython/index/folder-index: "
        "jobs read and write dynamodb://epython/timeseries" in err.splitlines()
    )
    assert cloud.client("s3").list_buckets()["Buckets"] == []
    assert not (tmp_path / "position-trainer.yaml").exists()


def test_what_was_there_before_is_used_and_left(cloud, launch):
    cloud.client("logs").create_log_group(logGroupName="/aws/sagemaker/TrainingJobs")
    code, _, err = launch("setup")
    assert code == 0
    assert "the log group /aws/sagemaker/TrainingJobs is there already and is used as it is" in err
    assert "nothing to change" in launch("setup")[1]
    code, out, _ = launch("setup", "--delete", "--yes")
    assert "left: the log group /aws/sagemaker/TrainingJobs, which setup did not make" in out
    assert cloud.client("logs").describe_log_groups()["logGroups"]


def test_delete_takes_away_what_is_empty_and_says_what_it_leaves(cloud, launch):
    launch("setup")
    cloud.client("s3").put_object(Bucket=BUCKET, Key="position-trainer/jobs/one/output/model.tar.gz", Body=b"")
    code, out, err = launch("setup", "--delete", "--yes")
    assert code == 0, err
    assert out.splitlines() == [
        "gone: the roles and the launcher's policy",
        f"left: the bucket {BUCKET}, which is not empty; to delete all that is in it: aws s3 rb --force s3://{BUCKET}",
        "gone: the repository position-trainer",
        "gone: the log group /aws/sagemaker/TrainingJobs",
        "left: position-trainer.yaml on this machine, and every KYDB",
    ]
    assert roles(cloud) == []
    code, _, err = launch("setup")  # the bucket with its models is taken up again
    assert code == 0
    assert f"the bucket {BUCKET} is there already and is used as it is" in err


def test_delete_asks_first_and_refuses_while_there_are_schedules(cloud, launch):
    launch("setup")
    assert launch("setup", "--delete")[0] == 1  # no answer
    cloud.client("scheduler").create_schedule_group(Name="position-trainer")
    cloud.client("scheduler").create_schedule(
        Name="nightly",
        GroupName="position-trainer",
        ScheduleExpression="rate(1 day)",
        FlexibleTimeWindow={"Mode": "OFF"},
        Target={"Arn": "arn:aws:scheduler:::aws-sdk:sagemaker:createTrainingJob", "RoleArn": "arn:aws:iam::1:role/r"},
    )
    code, _, err = launch("setup", "--delete", "--yes")
    assert code == 1
    assert err == "error: there are schedules: nightly; delete them first: launch schedule delete NAME\n"
    assert len(roles(cloud)) == 2


def test_a_stack_that_cannot_be_finished_is_told_with_the_first_reason(cloud, monkeypatch):
    setup.deploy(cloud, setup.plan(cloud, {}), wait_seconds=0)
    cloudformation = cloud.client("cloudformation")
    failed = {"StackName": "position-trainer", "StackStatus": "ROLLBACK_COMPLETE", "Parameters": []}
    cloudformation.describe_stacks = lambda **_: {"Stacks": [failed]}
    events = [
        {"LogicalResourceId": "JobRole", "ResourceStatus": "CREATE_FAILED", "ResourceStatusReason": "cancelled"},
        {"LogicalResourceId": "Bucket", "ResourceStatus": "CREATE_FAILED", "ResourceStatusReason": "it is taken"},
    ]
    cloudformation.describe_stack_events = lambda **_: {"StackEvents": events}
    with pytest.raises(UserError, match="is ROLLBACK_COMPLETE: Bucket: it is taken; delete it with aws cloudformation"):
        setup.plan(cloud, {})


def test_somebody_elses_bucket_is_refused(cloud):
    cloud.client("s3").head_bucket = refuse("403")
    with pytest.raises(UserError, match="the bucket models is another account's"):
        setup.plan(cloud, {}, bucket="models")


def test_subnets_come_with_the_endpoints_that_they_need(cloud, launch):
    code, out, _ = launch(
        "setup", "--vpc-subnets", "subnet-1", "--security-group", "sg-1", "--kydb", "dynamodb://epython"
    )
    assert code == 0
    assert out.splitlines()[-2:] == [
        f"  com.amazonaws.{REGION}.s3, a gateway: channels, checkpoints, results, and KYDB on S3",
        f"  com.amazonaws.{REGION}.dynamodb, a gateway: KYDB on DynamoDB",
    ]
    assert len(endpoints(REGION, Access())) == 1


def test_a_url_that_no_instance_can_reach_is_refused(cloud, launch):
    code, _, err = launch("setup", "--kydb", "files://tmp/db")
    assert code == 1
    assert "received 'files://tmp/db'" in err
    assert cloud.client("s3").list_buckets()["Buckets"] == []


def test_a_settings_file_of_another_form_is_left_alone(tmp_path):
    path = tmp_path / "position-trainer.yaml"
    path.write_text(json.dumps({"role": "one"}))
    with pytest.raises(UserError, match="is not written as lines of NAME: VALUE"):
        setup.write_settings(path, {"role": "two"})
    assert path.read_text() == '{"role": "one"}'


@pytest.mark.slow  # starts a stand-in for docker
def test_a_tag_is_never_moved(cloud, launch, tmp_path, monkeypatch):
    launch("setup")
    uri = put_image(cloud, CPU_IMAGE, "0123456789ab")
    docker = tmp_path / "docker"
    docker.write_text(
        f'#!/bin/sh\necho "$1" >> {tmp_path}/calls\n'
        'case "$*" in *Architecture*) echo linux/amd64 ;; image*) echo sha256:0123456789abcdef ;; esac\n'
    )
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert launch("push")[:2] == (0, f"{uri}\n")  # it is there: nothing is pushed
    assert set((tmp_path / "calls").read_text().split()) == {"image"}
    code, _, err = launch("push", "--image", "position-trainer:0123456789ab")
    assert code == 1
    assert "its tag cannot be moved" in err
