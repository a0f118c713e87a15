"""The doctor, with one thing broken at a time."""

import json

import boto3
import pytest

from account.doctor import OK, UNKNOWN, WRONG, examined
from account.setup import outputs
from moto_account import ACCOUNT, CPU_IMAGE, REGION, put_image, quotas, refuse
from place.aws import AwsPlace

SPOT = {"EnableManagedSpotTraining": True}
GPU = {"ResourceConfig": {"InstanceType": "ml.g5.xlarge", "InstanceCount": 1, "VolumeSizeInGB": 30}}
TRUST = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}],
}


def role_name(aws):
    return outputs(aws)["Role"].rsplit("/", 1)[-1]


def allow_simulator(aws, *refused):
    """IAM's simulator answers, and refuses these actions."""

    def simulate(PolicySourceArn, ActionNames, ResourceArns):  # noqa: N803
        return {
            "EvaluationResults": [
                {"EvalActionName": name, "EvalDecision": "implicitDeny" if name in refused else "allowed"}
                for name in ActionNames
            ]
        }

    aws.client("iam").simulate_principal_policy = simulate


def image_named(uri):
    return {"AlgorithmSpecification": {"TrainingImage": uri, "TrainingInputMode": "File"}}


def results_in(bucket):
    return {"OutputDataConfig": {"S3OutputPath": f"s3://{bucket}/position-trainer/jobs"}}


def other_region(aws):
    boto3.client("s3", region_name="eu-central-1").create_bucket(
        Bucket="elsewhere", CreateBucketConfiguration={"LocationConstraint": "eu-central-1"}
    )


REPOSITORY = f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com/position-trainer"

# What breaks it, what of the request is changed, which finding tells it, what the finding says, what mends it
BROKEN = {
    "no credentials": (
        lambda aws: setattr(aws.client("sts"), "get_caller_identity", refuse("ExpiredToken")),
        {},
        "credentials",
        "the AWS credentials have expired",
        "aws sso login",
    ),
    "a role of another account": (
        None,
        {"RoleArn": "arn:aws:iam::999988887777:role/trainer"},
        "role",
        "a role of another account than 123456789012",
        "launch setup",
    ),
    "no role": (
        None,
        {"RoleArn": f"arn:aws:iam::{ACCOUNT}:role/nobody"},
        "role",
        "there is no role nobody",
        "launch setup",
    ),
    "a role that SageMaker may not assume": (
        lambda aws: aws.client("iam").update_assume_role_policy(
            RoleName=role_name(aws), PolicyDocument=json.dumps(TRUST)
        ),
        {},
        "role",
        "its trust policy does not allow sagemaker.amazonaws.com",
        "section=trust_relationships",
    ),
    "a role without its policy": (
        lambda aws: aws.client("iam").delete_role_policy(RoleName=role_name(aws), PolicyName="job"),
        {},
        "permissions",
        "may not: s3:PutObject on arn:aws:s3:::position-trainer-123456789012-eu-west-1/position-trainer/jobs/x",
        "launch setup",
    ),
    "a role that the simulator says may not pull the image": (
        lambda aws: allow_simulator(aws, "ecr:BatchGetImage"),
        {},
        "permissions",
        f"may not: ecr:BatchGetImage on arn:aws:ecr:eu-west-1:{ACCOUNT}:repository/position-trainer (to pull",
        "launch setup",
    ),
    "a KYDB that the role may not write": (
        None,
        {"HyperParameters": {"model_db": "s3://prices"}},
        "permissions",
        "may not: s3:DeleteObject on arn:aws:s3:::prices/x (jobs read and write s3://prices)",
        "--kydb URL",
    ),
    "no bucket": (None, results_in("nowhere-at-all"), "bucket", "there is no bucket nowhere-at-all", "--bucket"),
    "somebody else's bucket": (
        lambda aws: setattr(aws.client("s3"), "head_bucket", refuse("403")),
        {},
        "bucket",
        "is another account's, or closed to you",
        "--bucket",
    ),
    "a bucket in another region": (
        other_region,
        results_in("elsewhere"),
        "bucket",
        "the bucket elsewhere is in eu-central-1 and the job in eu-west-1",
        "--region eu-central-1",
    ),
    "a bucket that may not be written": (
        lambda aws: setattr(aws.client("s3"), "put_object", refuse("AccessDenied")),
        {},
        "writing",
        "you may not write to position-trainer-123456789012-eu-west-1: AccessDenied",
        "attach the launcher's policy",
    ),
    "an image that is not there": (
        None,
        image_named(f"{REPOSITORY}:2"),
        "image",
        f"there is no image {REPOSITORY}:2",
        "launch push",
    ),
    "a repository that is not there": (
        None,
        image_named(f"{REPOSITORY}s:1"),
        "image",
        "there is no repository position-trainers",
        "launch setup",
    ),
    "an image in another region": (
        None,
        image_named(REPOSITORY.replace(REGION, "us-east-1") + ":1"),
        "image",
        "the image is in us-east-1 and the job in eu-west-1",
        "launch push --region eu-west-1",
    ),
    "an image for another machine": (
        lambda aws: put_image(aws, CPU_IMAGE | {"architecture": "arm64"}, "arm"),
        image_named(f"{REPOSITORY}:arm"),
        "accelerator",
        "is for linux/arm64",
        "docker build --platform linux/amd64",
    ),
    "a CPU image on a GPU instance": (
        None,
        GPU,
        "accelerator",
        "ml.g5.xlarge has a GPU, and the image is for CPUs",
        "make image ACCELERATOR=gpu",
    ),
    "no quota on demand": (
        lambda aws: setattr(aws.client("service-quotas"), "get_paginator", quotas(c7i_4xlarge=(0, 1))),
        {},
        "quota",
        "the quota 'ml.c7i.4xlarge for training job usage' is 0 and the request takes 1",
        "--quota-code L-012 --desired-value 1",
    ),
    "no quota on spot": (
        None,
        SPOT,
        "quota",
        "the quota 'ml.c7i.4xlarge for spot training job usage' is 0 and the request takes 1",
        "--quota-code L-017 --desired-value 1",
    ),
    "a channel with nothing in it": (
        lambda aws: aws.client("s3").delete_object(Bucket="prices", Key="history/2020.csv"),
        {},
        "channel train",
        "there is nothing under s3://prices/history/",
        "aws s3 cp",
    ),
    "a KYDB that does not answer": (
        None,
        {"HyperParameters": {"prices_db": "redis://127.0.0.1:1/0"}},
        "prices_db",
        "redis://127.0.0.1:1/0 cannot be reached from here",
        "--set prices_db=URL",
    ),
    "a KYDB whose bucket is not there": (
        None,
        {"HyperParameters": {"model_db": "s3://nowhere-at-all"}},
        "model_db",
        "s3://nowhere-at-all cannot be reached from here",
        "--set model_db=URL",
    ),
    "a KYDB without these prices": (
        None,
        {"HyperParameters": {"prices_db": "s3://prices", "prices_key": "/a/b"}},
        "prices_db",
        "s3://prices answers and has no /a/b",
        "--set prices_key=KEY",
    ),
    "a subnet that is not there": (
        None,
        {"VpcConfig": {"Subnets": ["subnet-00000001"], "SecurityGroupIds": ["sg-00000001"]}},
        "vpc",
        "subnet-00000001",
        "--subnet",
    ),
}


def findings(aws, request, **options):
    return {finding.what: finding for finding in examined(aws, request, **options)}


def test_nothing_is_wrong_with_an_account_that_setup_made(ready, request_of):
    found = findings(ready, request_of())
    assert {finding.state for finding in found.values()} == {OK}, found
    assert list(found) == [
        "credentials", "role", "bucket", "image", "permissions", "writing", "accelerator", "quota", "channel train",
    ]  # fmt: skip
    assert found["permissions"].text.endswith("and the organisation's policies were not looked at")
    assert ready.client("s3").list_objects_v2(Bucket=outputs(ready)["Bucket"])["KeyCount"] == 0


@pytest.mark.parametrize("what", BROKEN)
def test_what_is_broken_is_told_with_its_cure(ready, request_of, what):
    break_it, changes, name, text, cure = BROKEN[what]
    if break_it:
        break_it(ready)
    finding = findings(ready, request_of(**changes))[name]
    assert finding.state == WRONG, finding
    assert text in finding.text
    assert cure in (finding.cure or finding.text)


def test_no_region_is_told_before_any_call(ready, request_of, monkeypatch, tmp_path):
    request = request_of()
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name)
    (finding,) = examined(AwsPlace(tmp_path), request)
    assert finding.state == WRONG
    assert "no AWS region is known" in finding.text


def test_what_may_not_be_asked_is_not_known_and_not_wrong(ready, request_of):
    ready.client("service-quotas").get_paginator = lambda _: type("P", (), {"paginate": refuse("AccessDenied")})
    found = findings(ready, request_of())
    assert found["quota"].state == UNKNOWN and "AccessDenied" in found["quota"].text


def test_the_simulator_is_believed_where_it_answers(ready, request_of):
    allow_simulator(ready)
    assert findings(ready, request_of())["permissions"].text.endswith("says IAM's simulator")


def test_a_policy_that_is_attached_counts_and_a_denial_wins(ready, request_of):
    iam = ready.client("iam")
    for effect, expected in (("Allow", OK), ("Deny", WRONG)):
        document = {"Version": "2012-10-17", "Statement": {"Effect": effect, "Action": "s3:*", "Resource": "*"}}
        policy = iam.create_policy(PolicyName=effect, PolicyDocument=json.dumps(document))["Policy"]["Arn"]
        iam.attach_role_policy(RoleName=role_name(ready), PolicyArn=policy)
        request = request_of(HyperParameters={"model_db": "s3://prices"})
        assert findings(ready, request)["permissions"].state == expected


def test_a_search_needs_quota_for_all_of_its_trials_at_a_time(ready, request_of):
    job = request_of()
    job.pop("TrainingJobName")
    request = {
        "HyperParameterTuningJobName": "t",
        "HyperParameterTuningJobConfig": {"ResourceLimits": {"MaxParallelTrainingJobs": 4}},
        "TrainingJobDefinition": job,
    }
    assert "and the request takes 4" in findings(ready, request)["quota"].text


def test_an_image_for_several_machines_is_taken_apart(ready, request_of):
    manifest = {
        "schemaVersion": 2,
        "manifests": [{"digest": "sha256:0", "platform": {"os": "linux", "architecture": "arm64"}}],
    }
    ready.client("ecr").batch_get_image = lambda **_: {"images": [{"imageManifest": json.dumps(manifest)}]}
    assert "has no image for linux/amd64" in findings(ready, request_of())["accelerator"].text


def test_the_cheap_ones_are_what_train_looks_at(ready, request_of):
    assert list(findings(ready, request_of(), cheap=True)) == ["credentials", "role", "bucket", "image"]


def options_of(aws):
    made = outputs(aws)
    return (
        "--on", "aws", "--name", "one", "--bucket", made["Bucket"], "--image", f"{made['Repository']}:1",
        "--prices", "s3://prices/history/",
    )  # fmt: skip


def test_train_starts_nothing_where_a_cheap_look_finds_something_wrong(ready, launch):
    missing = f"arn:aws:iam::{ACCOUNT}:role/nobody"
    code, _, err = launch("train", *options_of(ready), "--role", missing)
    assert code == 1
    assert err.splitlines() == [
        "the request has 1 problem, nothing was started:",
        "  role: there is no role nobody; mend it with: launch setup, or --role",
    ]
    assert ready.client("sagemaker").list_training_jobs()["TrainingJobSummaries"] == []
    code, _, err = launch("train", *options_of(ready), "--role", outputs(ready)["Role"], "--detach")
    assert code == 0, err


def test_hosts_in_a_vpc_must_be_let_in_by_their_security_group(ready, request_of):
    ec2 = ready.client("ec2")
    vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.0.0.0/24")["Subnet"]["SubnetId"]
    group = ec2.create_security_group(GroupName="jobs", Description="jobs", VpcId=vpc)["GroupId"]
    config = {"VpcConfig": {"Subnets": [subnet], "SecurityGroupIds": [group]}}
    two = {"ResourceConfig": {"InstanceType": "ml.c7i.4xlarge", "InstanceCount": 2, "VolumeSizeInGB": 30}}
    found = findings(ready, request_of(**config, **two))["vpc"]
    assert found.state == WRONG and "2 hosts could not reach each other" in found.text
    assert f"--group-id {group}" in found.cure and f"--source-group {group}" in found.cure
    assert findings(ready, request_of(**config))["vpc"].state == UNKNOWN  # one host; there is no endpoint of S3
    itself = {"IpProtocol": "tcp", "FromPort": 0, "ToPort": 65535, "UserIdGroupPairs": [{"GroupId": group}]}
    ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[itself])
    assert findings(ready, request_of(**config, **two))["vpc"].state == UNKNOWN


def test_the_command_prints_a_line_for_each_look_and_fails_where_one_is_wrong(ready, launch):
    arguments = [each for each in options_of(ready) if each not in ("--on", "aws")]
    code, out, err = launch("doctor", *arguments, "--role", outputs(ready)["Role"])
    assert code == 0, err
    assert out.splitlines()[1] == f"ok: role: {role_name(ready)} exists, and SageMaker may assume it"
    code, out, _ = launch("doctor", *arguments, "--role", outputs(ready)["Role"], "--spot", "--json")
    assert code == 1
    assert [each["what"] for each in json.loads(out) if each["state"] == WRONG] == ["quota"]
