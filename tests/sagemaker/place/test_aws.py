"""SageMaker as a place: against moto where it can, with scripted answers of the API where it cannot."""

import io
import itertools
import json
import re
import tarfile
from datetime import datetime, timedelta, timezone

import boto3
import botocore.stub
import kydb
import moto
import pytest
import yaml
from click.testing import CliRunner

from launch import main
from launching import ACCOUNT, IMAGE_URI, REGION, ROLE, price_list_entry
from ml.errors import UserError
from ml.metrics import metric_definitions
from place.aws import AwsPlace

START = datetime(2026, 1, 1, tzinfo=timezone.utc)
H5 = b"\x89HDF\r\n\x1a\n model"


@pytest.fixture(autouse=True)
def account(monkeypatch):
    """Credentials that open nothing, so that no test can reach an account."""
    for name, value in (
        ("AWS_ACCESS_KEY_ID", "nobody"),
        ("AWS_SECRET_ACCESS_KEY", "nothing"),
        ("AWS_REGION", REGION),
        ("AWS_DEFAULT_REGION", REGION),
    ):
        monkeypatch.setenv(name, value)
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_SESSION_TOKEN", "POSITION_TRAINER_SETTINGS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def cloud():
    with moto.mock_aws(), pytest.MonkeyPatch.context() as patch:
        patch.setattr("place.cost.hourly_price", lambda *_: None)  # moto has no Price List
        boto3.client("s3").create_bucket(Bucket="prices", CreateBucketConfiguration={"LocationConstraint": REGION})
        yield


@pytest.fixture
def launch(tmp_path):
    """Runs a command in this process; returns (exit code, standard output, standard error)."""

    def run(command, *arguments):
        looked = ["--no-doctor"] if command in ("train", "tune") else []  # tests/sagemaker/account has the doctor's
        result = CliRunner().invoke(main, [command, *looked, "--runs", str(tmp_path / "runs"), *map(str, arguments)])
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, result.stdout, result.stderr

    return run


@pytest.fixture
def sagemaker_place(tmp_path):
    return AwsPlace(tmp_path / "runs", REGION, poll_seconds=0)


@pytest.fixture
def scripted(monkeypatch, sagemaker_place):
    """A place whose SageMaker and logs answer what a test adds, and complain about any other call."""
    stubs = {
        service: botocore.stub.Stubber(sagemaker_place.client(service)) for service in ("sagemaker", "logs", "pricing")
    }
    for stub in stubs.values():
        stub.activate()
    monkeypatch.setattr("place.find.AwsPlace", lambda *_: sagemaker_place)
    monkeypatch.setattr("time.sleep", lambda _: None)
    yield stubs
    for stub in stubs.values():
        stub.assert_no_pending_responses()


def description(status, *transitions, name="one", **more):
    return {
        "TrainingJobName": name,
        "TrainingJobArn": f"arn:aws:sagemaker:{REGION}:999988887777:training-job/{name}",
        "ModelArtifacts": {"S3ModelArtifacts": f"s3://prices/position-trainer/jobs/{name}/output/model.tar.gz"},
        "TrainingJobStatus": status,
        "SecondaryStatus": transitions[-1] if transitions else status,
        "SecondaryStatusTransitions": [
            {"Status": transition, "StartTime": START, "StatusMessage": f"now {transition.lower()}"}
            for transition in transitions
        ],
        "AlgorithmSpecification": {"TrainingImage": IMAGE_URI, "TrainingInputMode": "File"},
        "OutputDataConfig": {"S3OutputPath": "s3://prices/position-trainer/jobs"},
        "ResourceConfig": {"InstanceType": "ml.c7i.4xlarge", "InstanceCount": 1, "VolumeSizeInGB": 30},
        "StoppingCondition": {"MaxRuntimeInSeconds": 86400},
        "CreationTime": START,
    } | more


TOKENS = itertools.count()


def add_log(logs, *events):
    """One look at the log: its stream, a page of new lines, and the page that has no more."""
    token = f"f/{next(TOKENS)}"
    logs.add_response("describe_log_streams", {"logStreams": [{"logStreamName": "one/algo-1-1600000000"}]})
    for page in ([{"message": text} for text in events], []):
        logs.add_response("get_log_events", {"events": page, "nextForwardToken": token})


def add_free_name(sagemaker, operation="describe_training_job"):
    """The look at whether a name is taken, which finds that it is not."""
    sagemaker.add_client_error(operation, "ValidationException", "Requested resource not found.")


def archive(**files):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as opened:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            opened.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def uploaded():
    found = boto3.client("s3").list_objects_v2(Bucket="prices", Prefix="position-trainer/inputs/")
    return [item["Key"] for item in found.get("Contents", ())]


def put(key, content):
    boto3.client("s3").put_object(Bucket="prices", Key=key, Body=content)


# Against moto


def test_train_sends_the_request_uploads_the_prices_and_collects_the_results(cloud, launch, tmp_path):
    prices = tmp_path / "prices #1 of 100 %.csv"
    prices.write_text("dt,mid\n")
    put("position-trainer/jobs/one/output/output.tar.gz", archive(**{"picture.svg": b"<svg/>"}))
    code, out, err = launch(
        "train",
        "--on",
        "aws",
        *ACCOUNT,
        "--name",
        "one",
        "--no-check",
        "--prices",
        prices,
        "--channel",
        f"again={tmp_path}",
        "--instance-type",
        "ml.m5.xlarge",
        "--tag",
        "team=fx",
        "--detach",
        "--json",
    )
    assert code == 0, err
    keys = uploaded()
    assert len(keys) == 2
    for key, channel in zip(keys, ("again", "train"), strict=True):
        assert re.fullmatch(f"position-trainer/inputs/one-[0-9a-f]{{8}}/{channel}/prices #1 of 100 %.csv", key)
    sent = boto3.client("sagemaker").describe_training_job(TrainingJobName="one")
    assert sent["RoleArn"] == ROLE
    assert sent["HyperParameters"] == {"preset": "default"}
    artifacts = re.fullmatch("s3://prices/(.+)", sent["ModelArtifacts"]["S3ModelArtifacts"]).group(1)
    put(artifacts, archive(**{"fx_btc_jpy_model.h5": H5, "metrics.json": b"{}"}))
    code, out, err = launch("status", "one", "--collect")
    assert code == 0, err
    assert "one: Completed" in out
    assert (tmp_path / "runs" / "one" / "output" / "data" / "picture.svg").read_text() == "<svg/>"
    url = f"files:/{tmp_path / 'kydb'}"
    code, out, err = launch("publish", "one", "--model-db", url)
    assert code == 0, err
    assert kydb.connect(url)["/ml/models/fx_btc_jpy_model.h5"] == H5


def test_in_one_job_a_tuning_request_is_a_training_job_whose_members_are_shown(cloud, launch, tmp_path):
    (tmp_path / "a.csv").write_text("dt,mid\n")
    options = ["--on", "aws", *ACCOUNT, "--no-check", "--prices", tmp_path / "a.csv"]
    code, _, err = launch("tune", "--in-one-job", *options, "--name", "one", "--max-jobs", 2, "--detach")
    assert code == 0, err
    sent = boto3.client("sagemaker").describe_training_job(TrainingJobName="one")
    assert sent["HyperParameters"]["population"] == "2"
    members = [
        {"member": number, "settings": {"nodes": nodes}, "status": "Completed", "epochs": 3, "best_epoch": 3}
        | {"metrics": {"best_val_accuracy": accuracy}}
        for number, (nodes, accuracy) in enumerate([(16, 0.6), (32, 0.7)])
    ]
    metrics = {"best_epoch": 3, "best": {}, "epochs": [], "member": 1, "population": members}
    key = sent["ModelArtifacts"]["S3ModelArtifacts"].removeprefix("s3://prices/")
    put(key, archive(**{"fx_btc_jpy_model.h5": H5, "metrics.json": json.dumps(metrics).encode()}))
    put("position-trainer/jobs/one/output/output.tar.gz", archive(**{"a": b""}))
    code, out, err = launch("status", "one", "--collect")
    assert code == 0, err
    rows = [line.split("\t") for line in out.splitlines() if line.endswith(("one-0", "one-1"))]
    assert [(row[2], row[4], row[-1]) for row in rows] == [("0.7", "32", "one-1"), ("0.6", "16", "one-0")]
    assert f"page: {tmp_path / 'runs' / 'one' / 'leaderboard.html'}" in out
    assert "nodes\t32" in launch("best", "one")[1]
    url = f"files:/{tmp_path / 'kydb'}"
    code, _, err = launch("publish", "--best", "one", "--model-db", url)
    assert code == 0, err
    assert kydb.connect(url)["/ml/models/fx_btc_jpy_model.h5"] == H5
    code, _, err = launch("publish", "one-0", "--model-db", url)
    assert (code, err.splitlines()[-1]) == (
        1,
        "error: one-0 has no model: one trained it with others and keeps the model of the best, one-1, alone; this "
        "trains it by itself: python sagemaker/launch.py train --on aws --member one-0",
    )
    code, out, err = launch("train", "--on", "aws", "--member", "one-0", "--dry-run")
    assert code == 0, err
    alone = yaml.safe_load(out)
    assert alone["HyperParameters"] == {
        "epochs": "3",
        "longest_lookback": "720",
        "monitor": "val_accuracy",
        "nodes": "16",
    }
    assert alone["InputDataConfig"] == sent["InputDataConfig"] and alone["RoleArn"] == ROLE


def test_an_empty_folder_of_prices_starts_nothing(cloud, launch, tmp_path):
    code, _, err = launch("train", "--on", "aws", *ACCOUNT, "--name", "one", "--prices", tmp_path)
    assert (code, err) == (1, f"error: {tmp_path} holds no files\n")
    assert boto3.client("sagemaker").list_training_jobs()["TrainingJobSummaries"] == []


def test_a_name_that_is_taken_is_found_out_before_the_upload(cloud, launch, tmp_path):
    (tmp_path / "a.csv").write_text("dt,mid\n")
    for command, kind in (("train", "job"), ("tune", "tuning job")):
        arguments = [
            command,
            "--on",
            "aws",
            *ACCOUNT,
            "--name",
            "one",
            "--no-check",
            "--prices",
            tmp_path / "a.csv",
            "--detach",
        ]
        assert launch(*arguments)[0] == 0
        before = uploaded()
        code, _, err = launch(*arguments)
        assert (code, err.splitlines()[-1]) == (
            1,
            f"error: there is a {kind} one already on SageMaker in {REGION}; choose another --name",
        )
        assert uploaded() == before


def test_starts_of_one_name_never_share_a_prefix(cloud, launch, tmp_path, monkeypatch):
    monkeypatch.setattr(AwsPlace, "start", refused_by_sagemaker)
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text("dt,mid\n")
        assert (
            launch("train", "--on", "aws", *ACCOUNT, "--name", "one", "--no-check", "--prices", tmp_path / name)[0] != 0
        )
    first, second = uploaded()
    assert first.split("/")[2] != second.split("/")[2]


def refused_by_sagemaker(*_):
    raise RuntimeError("ResourceLimitExceeded")


def test_uploads_carry_the_kms_key(cloud, launch, tmp_path):
    (tmp_path / "a.csv").write_text("dt,mid\n")
    key = boto3.client("kms").create_key()["KeyMetadata"]["Arn"]
    arguments = ["--no-check", "--prices", tmp_path / "a.csv", "--kms-key", key, "--detach"]
    code, _, err = launch("train", "--on", "aws", *ACCOUNT, "--name", "one", *arguments)
    assert code == 0, err
    head = boto3.client("s3").head_object(Bucket="prices", Key=uploaded()[0])
    assert (head["ServerSideEncryption"], head["SSEKMSKeyId"]) == ("aws:kms", key)


def test_an_upload_that_s3_refuses_is_one_line_with_both_paths(cloud, launch, tmp_path):
    (tmp_path / "a.csv").write_text("dt,mid\n")
    account = [*ACCOUNT[:3], "nobodys-bucket", *ACCOUNT[4:]]
    code, _, err = launch(
        "train", "--on", "aws", *account, "--name", "one", "--no-check", "--prices", tmp_path / "a.csv"
    )
    assert code == 1
    assert err.splitlines()[-1].startswith(f"error: {tmp_path}/a.csv cannot be uploaded to s3://nobodys-bucket/")
    assert "NoSuchBucket" in err.splitlines()[-1]


def test_files_are_uploaded_as_the_job_lists_them(cloud, launch, tmp_path):
    elsewhere, folder = tmp_path / "elsewhere", tmp_path / "folder"
    for path in (elsewhere / "b.csv", folder / "a.csv", folder / ".env", folder / ".git" / "config"):
        path.parent.mkdir(exist_ok=True)
        path.write_text("dt,mid\n")
    (folder / "2019").symlink_to(elsewhere)
    assert (
        launch("train", "--on", "aws", *ACCOUNT, "--name", "one", "--no-check", "--prices", folder, "--detach")[0] == 0
    )
    assert [key.split("/train/")[1] for key in uploaded()] == ["2019/b.csv", "a.csv"]


def test_uncompressed_results_are_collected_and_published(cloud, scripted, launch, tmp_path):
    record = description("Completed")
    record["ModelArtifacts"] = {"S3ModelArtifacts": "s3://prices/position-trainer/jobs/one/output/model/"}
    record["OutputDataConfig"] |= {"CompressionType": "NONE"}
    for _ in range(3):
        scripted["sagemaker"].add_response("describe_training_job", record)
    put("position-trainer/jobs/one/output/model/fx_btc_jpy_model.h5", H5)
    put("position-trainer/jobs/one/output/model/1/saved_model.pb", b"graph")
    put("position-trainer/jobs/one/output/data/report.html", b"<!doctype html>")
    url = f"files:/{tmp_path / 'kydb'}"
    code, _, err = launch("publish", "one", "--model-db", url)
    assert code == 0, err
    assert kydb.connect(url)["/ml/models/fx_btc_jpy_model.h5"] == H5
    folder = tmp_path / "runs" / "one"
    assert (folder / "model" / "1" / "saved_model.pb").read_bytes() == b"graph"
    assert (folder / "output" / "data" / "report.html").is_file()


def test_a_parent_that_differs_is_told_before_sagemaker_is_asked(cloud, launch):
    account = ["tune", "--on", "aws", *ACCOUNT, "--detach"]
    assert launch(*account, "--name", "p", "--prices", "s3://prices/a/")[0] == 0
    arguments = ["--name", "c", "--prices", "s3://prices/b/", "--set", "epochs=9", "--warm-start", "p"]
    code, _, err = launch(*account, *arguments)
    assert code == 0, err
    assert "warm start from p: epochs is 9 here and 3 there\n" in err
    assert "warm start from p: channel train is s3://prices/b/ here and s3://prices/a/ there\n" in err
    assert "--warm-start-type TransferLearning is for others" in err


def test_results_are_collected_once_the_job_has_ended(cloud, scripted, sagemaker_place):
    for status in ("InProgress", "Completed", "Completed"):
        scripted["sagemaker"].add_response("describe_training_job", description(status))
    put("position-trainer/jobs/one/output/model.tar.gz", archive(**{"model.h5": H5}))
    sagemaker_place.collect("one")
    put("position-trainer/jobs/one/output/output.tar.gz", b"no archive")
    with pytest.raises(UserError, match="cannot be unpacked"):
        sagemaker_place.collect("one")
    put("position-trainer/jobs/one/output/output.tar.gz", archive(report=b"x"))
    assert (sagemaker_place.collect("one") / "output" / "data" / "report").read_bytes() == b"x"


def test_an_archive_that_reaches_outside_is_refused(cloud, tmp_path):
    place = AwsPlace(tmp_path / "runs", REGION)
    put("bad.tar.gz", archive(**{"../../outside": b"x"}))
    with pytest.raises(UserError, match="cannot be unpacked"):
        place._fetch("s3://prices/bad.tar.gz", tmp_path / "runs" / "one" / "model")
    assert not (tmp_path / "outside").exists()
    assert not (tmp_path / "runs" / "one" / "model").exists()


def test_tune_sends_the_whole_request(cloud, launch):
    code, out, err = launch(
        "tune", "--on", "aws", *ACCOUNT, "--name", "t", "--prices", "s3://prices/history/", "--detach", "--json"
    )
    assert code == 0, err
    sent = boto3.client("sagemaker").describe_hyper_parameter_tuning_job(HyperParameterTuningJobName="t")
    assert sent["HyperParameterTuningJobConfig"]["ResourceLimits"]["MaxNumberOfTrainingJobs"] == 8
    assert json.loads(out)["HyperParameterTuningJobName"] == "t"


def test_list_shows_this_launchers_jobs(cloud, launch):
    for name in ("position-trainer-1", "another", "position-trainer-t-001-ab"):
        launch("train", "--on", "aws", *ACCOUNT, "--name", name, "--prices", "s3://prices/history/", "--detach")
    launch(
        "tune", "--on", "aws", *ACCOUNT, "--name", "position-trainer-t", "--prices", "s3://prices/history/", "--detach"
    )
    code, out, _ = launch("list", "--on", "aws", "--json")
    assert code == 0
    assert [job["TrainingJobName"] for job in json.loads(out)["TrainingJobSummaries"]] == ["position-trainer-1"]


def test_the_printed_request_starts_the_job_by_boto3_alone(cloud, launch):
    _, out, _ = launch(
        "train", "--on", "aws", *ACCOUNT, "--name", "one", "--prices", "s3://prices/history/", "--dry-run"
    )
    request = yaml.safe_load(out)
    assert request["AlgorithmSpecification"]["MetricDefinitions"] == metric_definitions()
    boto3.client("sagemaker").create_training_job(**request)
    assert boto3.client("sagemaker").describe_training_job(TrainingJobName="one")["RoleArn"] == ROLE


def test_push_makes_the_repository_logs_in_and_pushes(cloud, launch, tmp_path, monkeypatch):
    docker = tmp_path / "docker"
    docker.write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\n[ "$1" = login ] && cat > {tmp_path}/password\n'
        f'[ "$1" = image ] && echo sha256:0123456789abcdef\nexit 0\n'
    )
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr("account.commands.refuse_wrong_platform", lambda _image: None)  # has tests of its own
    code, out, err = launch("push", "--image", "position-trainer:2", "--repository", "mine")
    assert code == 0, err
    uri = out.strip()
    assert uri.endswith(f".dkr.ecr.{REGION}.amazonaws.com/mine:2")
    login, tag, push = (tmp_path / "calls").read_text().splitlines()
    assert login.startswith("login --username AWS --password-stdin https://")
    assert (tag, push) == (f"tag position-trainer:2 {uri}", f"push {uri}")
    assert (tmp_path / "password").read_text()
    assert launch("push", "--repository", "mine")[0] == 0  # the repository is there by now
    (tmp_path / "settings.yaml").write_text(f"image: {uri}\n")
    monkeypatch.setenv("POSITION_TRAINER_SETTINGS", str(tmp_path / "settings.yaml"))
    assert launch("push", "--repository", "mine")[0] == 0
    named = f"{uri.removesuffix('2')}0123456789ab"  # by its content
    assert f"tag position-trainer {named}" in (tmp_path / "calls").read_text().splitlines()[-2]
    assert (tmp_path / "settings.yaml").read_text() == f"image: {named}\n"
    docker.write_text("#!/bin/sh\necho denied >&2\nexit 1\n")
    assert launch("push", "--repository", "mine") == (1, "", "error: docker image failed: denied\n")


def test_a_job_that_does_not_exist_is_told_in_one_line(cloud, launch):
    code, _, err = launch("status", "nothing")
    assert code == 1
    assert re.fullmatch(r"error: there is no job nothing, neither in .+ nor on SageMaker in eu-west-1; .+\n", err)


def test_missing_credentials_are_told_in_one_line(launch, monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    code, _, err = launch("train", "--on", "aws", *ACCOUNT, "--prices", "s3://prices/history/")
    assert code == 1
    assert err.splitlines()[-1] == "error: no AWS credentials were found; run `aws configure`, or set AWS_PROFILE"
    code, _, err = launch("status", "nothing")
    assert code == 1
    assert re.fullmatch(r"error: there is no job nothing in .+, and SageMaker cannot be asked: .*credentials\n", err)


def test_a_request_is_checked_without_a_region(launch, monkeypatch):
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    code, _, err = launch("train", "--on", "aws", "--prices", "s3://prices/history/", "--dry-run")
    assert code == 1 and "RoleArn" in err and "TrainingImage" in err
    code, out, err = launch("train", "--on", "aws", *ACCOUNT, "--prices", "s3://prices/history/", "--dry-run")
    assert code == 0 and yaml.safe_load(out)["RoleArn"] == ROLE, err
    code, _, err = launch("train", "--on", "aws", *ACCOUNT, "--prices", "s3://prices/history/")
    assert (code, err) == (1, "error: no AWS region is known; give --region or set AWS_REGION\n")


# With scripted answers


def test_a_failed_job_is_followed_to_its_reason(scripted, launch):
    sagemaker, logs = scripted["sagemaker"], scripted["logs"]
    reason = "AlgorithmError: hyperparameter dropout must be in [0, 1), received '2', exit code: 1"
    arn = {"TrainingJobArn": "arn:aws:sagemaker:eu-west-1:999988887777:training-job/one"}
    add_free_name(sagemaker)
    sagemaker.add_response("create_training_job", arn)
    sagemaker.add_response("describe_training_job", description("InProgress", "Starting"))
    logs.add_client_error("describe_log_streams", "ResourceNotFoundException")
    sagemaker.add_response("describe_training_job", description("InProgress", "Starting", "Training"))
    add_log(logs, "error: hyperparameter dropout")
    failed = description("Failed", "Starting", "Training", "Failed", FailureReason=reason, BillableTimeInSeconds=60)
    for _ in range(2):
        scripted["pricing"].add_response(
            "get_products", {"PriceList": [price_list_entry("EU-Train:ml.c7i.4xlarge", "1.57")]}
        )
    sagemaker.add_response("describe_training_job", failed)
    add_log(logs)
    sagemaker.add_response("describe_training_job", failed)
    code, out, err = launch("train", "--on", "aws", *ACCOUNT, "--name", "one", "--prices", "s3://prices/history/")
    assert code == 1
    assert out.index("Starting: now starting") < out.index("Training: now training") < out.index("error: hyper")
    assert out.count("Starting: now starting") == 1
    assert "estimated cost: at most 37.68 USD, if it runs for all of 86400 s (1.57 USD an hour;" in err
    assert "billed: 60 s; about 0.0262 USD at 1.57 USD an hour" in out
    assert err.rstrip().splitlines()[-1] == reason


def test_an_interrupted_spot_job_goes_on_and_tells_what_spot_saved(scripted, sagemaker_place, launch, monkeypatch):
    sagemaker, logs = scripted["sagemaker"], scripted["logs"]
    monkeypatch.setattr(sagemaker_place, "collect", lambda _: None)
    add_free_name(sagemaker)
    sagemaker.add_response("create_training_job", {"TrainingJobArn": "arn:aws:sagemaker:e:1:training-job/one"})
    course = ["Starting", "Training", "Interrupted", "Starting", "Training", "Completed"]
    for end in (2, 3, 5):
        sagemaker.add_response("describe_training_job", description("InProgress", *course[:end]))
        add_log(logs)
    done = description("Completed", *course, BillableTimeInSeconds=900, TrainingTimeInSeconds=3000)
    for _ in range(2):
        sagemaker.add_response("describe_training_job", done)
    add_log(logs)
    code, out, _ = launch(
        "train", "--on", "aws", *ACCOUNT, "--name", "one", "--prices", "s3://prices/history/", "--spot"
    )
    assert code == 0
    assert [line.split(":")[0] for line in out.splitlines() if ": now " in line] == course
    assert "billed: 900 s, 2100 s saved by spot\n" in out  # and no cost, since AWS did not tell a price


def test_the_pages_of_a_hosts_logs_are_read_once(scripted, launch):
    sagemaker, logs = scripted["sagemaker"], scripted["logs"]
    on_two = {"ResourceConfig": {"InstanceType": "ml.c7i.4xlarge", "InstanceCount": 2, "VolumeSizeInGB": 30}}
    for _ in range(3):  # where is it, has it such a host, and then the log
        sagemaker.add_response("describe_training_job", description("Completed", "Training", "Completed") | on_two)
    streams = ["one/algo-2-1600000000", "one/algo-2-1600000900"]  # two where a spot instance was interrupted
    asked = {"logGroupName": "/aws/sagemaker/TrainingJobs", "logStreamNamePrefix": "one/algo-2-"}
    first = {"logStreams": [{"logStreamName": streams[0]}], "nextToken": "more"}
    logs.add_response("describe_log_streams", first, asked)
    logs.add_response(
        "describe_log_streams", {"logStreams": [{"logStreamName": streams[1]}]}, asked | {"nextToken": "more"}
    )
    for stream in streams:
        where = {"logGroupName": "/aws/sagemaker/TrainingJobs", "logStreamName": stream, "startFromHead": True}
        logs.add_response("get_log_events", {"events": [{"message": "first"}], "nextForwardToken": "f/1"}, where)
        for token, events in (("f/2", [{"message": "second"}]), ("f/2", [])):
            logs.add_response(
                "get_log_events",
                {"events": events, "nextForwardToken": token},
                where | {"nextToken": "f/1" if events else "f/2"},
            )
    sagemaker.add_response("describe_training_job", description("Completed"))
    code, out, _ = launch("logs", "one", "--no-follow", "--host", "algo-2")
    assert code == 0
    assert out.splitlines() == ["first", "second"] * 2


def test_ctrl_c_leaves_the_job_running_and_says_how_to_come_back(scripted, launch, monkeypatch):
    sagemaker = scripted["sagemaker"]
    add_free_name(sagemaker)
    sagemaker.add_response("create_training_job", {"TrainingJobArn": "arn:aws:sagemaker:e:1:training-job/one"})
    sagemaker.add_response("describe_training_job", description("InProgress", "Starting"))
    add_log(scripted["logs"])

    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr("time.sleep", interrupt)
    code, _, err = launch("train", "--on", "aws", *ACCOUNT, "--name", "one", "--prices", "s3://prices/history/")
    assert code == 130
    assert err.rstrip().splitlines()[-1] == "one goes on; come back with: python sagemaker/launch.py logs one"


def test_a_look_that_fails_says_that_the_job_goes_on(scripted, launch):
    sagemaker = scripted["sagemaker"]
    add_free_name(sagemaker)
    sagemaker.add_response("create_training_job", {"TrainingJobArn": "arn:aws:sagemaker:e:1:training-job/one"})
    sagemaker.add_client_error("describe_training_job", "ExpiredTokenException", "expired")
    code, _, err = launch("train", "--on", "aws", *ACCOUNT, "--name", "one", "--prices", "s3://prices/history/")
    assert code == 1
    assert "one goes on; come back with:" in err and "ExpiredTokenException" in err.splitlines()[-1]


def test_stop_asks_sagemaker(scripted, launch):
    for _ in range(2):  # where is it, and how does it stand
        scripted["sagemaker"].add_response("describe_training_job", description("InProgress", "Training"))
    scripted["sagemaker"].add_response("stop_training_job", {}, {"TrainingJobName": "one"})
    assert launch("stop", "one")[0] == 0


def tuning_description(status):
    return {
        "HyperParameterTuningJobName": "t",
        "HyperParameterTuningJobArn": "arn:aws:sagemaker:e:1:hyper-parameter-tuning-job/t",
        "HyperParameterTuningJobConfig": {
            "Strategy": "Bayesian",
            "ResourceLimits": {"MaxParallelTrainingJobs": 1},
            "HyperParameterTuningJobObjective": {"Type": "Maximize", "MetricName": "best_val_accuracy"},
            "ParameterRanges": {"ContinuousParameterRanges": [{"Name": "dropout", "MinValue": "0", "MaxValue": "0.5"}]},
        },
        "HyperParameterTuningJobStatus": status,
        "CreationTime": START,
        "TrainingJobStatusCounters": {},
        "ObjectiveStatusCounters": {},
    }


def trial(number, value, status="Completed"):
    return {
        "TrainingJobName": f"t-{number:03d}",
        "TrainingJobArn": f"arn:aws:sagemaker:e:1:training-job/t-{number}",
        "CreationTime": START,
        "TrainingStartTime": START,
        "TrainingEndTime": START + timedelta(minutes=number),
        "TrainingJobStatus": status,
        "TunedHyperParameters": {"dropout": str(number / 10)},
        "FinalHyperParameterTuningJobObjectiveMetric": {"MetricName": "best_val_accuracy", "Value": value},
    }


def test_a_tuning_job_is_followed_and_its_best_shown(scripted, launch, tmp_path):
    sagemaker = scripted["sagemaker"]
    listed = "list_training_jobs_for_hyper_parameter_tuning_job"
    add_free_name(sagemaker, "describe_hyper_parameter_tuning_job")
    sagemaker.add_response(
        "create_hyper_parameter_tuning_job",
        {"HyperParameterTuningJobArn": "arn:aws:sagemaker:e:1:hyper-parameter-tuning-job/t"},
    )
    for status, pages in (
        ("InProgress", [[trial(1, 0.6)]]),
        ("Completed", [[trial(1, 0.6)], [trial(2, 0.7)]]),
        ("Completed", [[trial(1, 0.6)], [trial(2, 0.7)]]),
    ):
        sagemaker.add_response("describe_hyper_parameter_tuning_job", tuning_description(status))
        for index, page in enumerate(pages):
            more = {"NextToken": "more"} if index + 1 < len(pages) else {}
            sagemaker.add_response(listed, {"TrainingJobSummaries": page} | more)
    code, out, err = launch("tune", "--on", "aws", *ACCOUNT, "--name", "t", "--prices", "s3://prices/history/")
    assert code == 0, err
    assert out.splitlines()[:2] == ["t-001 Completed best_val_accuracy=0.6", "t-002 Completed best_val_accuracy=0.7"]
    assert "1\tCompleted\t0.7\t0.2\t120\tt-002" in out
    assert "t-002" in (tmp_path / "runs" / "t" / "leaderboard.html").read_text()


def test_best_and_stop_find_a_tuning_job(scripted, launch):
    sagemaker = scripted["sagemaker"]

    def add_search_for_it():
        sagemaker.add_client_error("describe_training_job", "ValidationException", "Requested resource not found.")
        sagemaker.add_response("describe_hyper_parameter_tuning_job", tuning_description("InProgress"))

    add_search_for_it()
    sagemaker.add_response("describe_hyper_parameter_tuning_job", tuning_description("InProgress"))
    sagemaker.add_response(
        "list_training_jobs_for_hyper_parameter_tuning_job",
        {"TrainingJobSummaries": [trial(1, 0.6), trial(2, 0.7), trial(3, 0.9, "InProgress")]},
    )
    code, out, _ = launch("best", "t", "--json")
    assert (code, json.loads(out)["TrainingJobName"]) == (0, "t-002")
    add_search_for_it()
    sagemaker.add_response("describe_hyper_parameter_tuning_job", tuning_description("InProgress"))
    sagemaker.add_response("stop_hyper_parameter_tuning_job", {}, {"HyperParameterTuningJobName": "t"})
    assert launch("stop", "t")[0] == 0
