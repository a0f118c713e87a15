"""Every command ends every trouble in one line, with the remedy and the right exit code, and can be run again."""

import errno
import functools
import io
import json
import os
import re
import signal
import socket
import subprocess
from pathlib import Path

import boto3
import botocore.exceptions
import pytest
from botocore.awsrequest import AWSResponse
from botocore.loaders import JSONFileLoader
from botocore.retries.bucket import TokenBucket
from click.testing import CliRunner
from moto import mock_aws

import options
from launch import main
from launching import ACCOUNT, LAUNCH, REGION

COMMANDS = (
    "train", "tune", "status", "logs", "stop", "list", "best", "publish", "setup", "setup --delete", "schedule make",
    "schedule list", "schedule pause", "schedule delete", "clean", "push",
)  # fmt: skip

# An exception, or a code that AWS answers with its HTTP status; words of the line; the exit code.
FAULTS = {
    "no credentials": (None, "no AWS credentials were found; run `aws configure`", 1),
    "expired token": (("ExpiredTokenException", 400), "have expired; renew them", 1),
    "unknown key": (("InvalidClientTokenId", 403), "does not know these credentials", 1),
    "access denied": (("AccessDeniedException", 400), "allow it to these credentials", 1),
    "forbidden": (("403", 403), "allow it to these credentials", 1),
    "no bucket": (("NoSuchBucket", 404), "name another with --bucket", 1),
    "throttled": (("ThrottlingException", 400), "try again in a minute", 1),
    "quota": (("ResourceLimitExceeded", 400), "ask AWS for a higher quota", 1),
    "AWS's fault": (("InternalFailure", 500), "AWS has a fault; try again later", 1),
    "unheard of": (("BrandNewTrouble", 400), "error: AWS refused", 1),
    "time-out": (botocore.exceptions.ReadTimeoutError(endpoint_url="https://aws"), "did not answer in time", 1),
    "unreachable": (
        botocore.exceptions.EndpointConnectionError(endpoint_url="https://aws"),
        "look at the network, the proxy and AWS_ENDPOINT_URL",
        1,
    ),
    "no disk": (OSError(errno.ENOSPC, "No space left on device", "/x/y"), "no space is left on the disk of /x/y", 1),
    "Ctrl-C": (KeyboardInterrupt(), "interrupted", 130),
    "broken pipe": (BrokenPipeError(errno.EPIPE, "Broken pipe"), "", 141),
    "our fault": (ZeroDivisionError("division by zero"), "not of yours (ZeroDivisionError: division by zero)", 70),
}  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def models_read_once():
    """Botocore's models, read from disk once and not once a command."""
    read = functools.cache(lambda path: original(JSONFileLoader(), path))
    original, JSONFileLoader.load_file = JSONFileLoader.load_file, lambda _self, path: read(path)
    yield
    JSONFileLoader.load_file = original


@pytest.fixture
def arguments(tmp_path, monkeypatch):
    """The command line of each command, for AWS."""
    prices = tmp_path / "prices.csv"
    prices.write_text("dt,mid\n2020-01-01T00:00,1\n")
    docker = tmp_path / "bin" / "docker"
    docker.parent.mkdir()
    docker.write_text("#!/bin/sh\necho linux/amd64\n")
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", str(docker.parent), prepend=":")
    place = ["--region", REGION, "--runs", str(tmp_path / "runs")]
    start = ["--on", "aws", *ACCOUNT, *place, "--prices", str(prices), "--name", "one", "--detach", "--no-doctor"]
    start.append("--no-check")
    rest = {name: [name, "one", "--on", "aws", *place] for name in ("status", "logs", "stop", "best")}
    return rest | {
        "train": ["train", *start],
        "tune": ["tune", *start],
        "list": ["list", "--on", "aws", *place],
        "publish": ["publish", "one", "--on", "aws", *place, "--model-db", f"files:/{tmp_path}/kydb"],
        "push": ["push", *place],
        "setup": ["setup", *place],
        "setup --delete": ["setup", "--delete", "--yes", *place],
        "schedule make": ["schedule", "make", "--cron", "0 2 * * *", *ACCOUNT, *place, "--prices", "s3://prices/in"],
        "schedule list": ["schedule", "list", *place],
        "schedule pause": ["schedule", "pause", "one", *place],
        "schedule delete": ["schedule", "delete", "one", *place],
        "doctor": ["doctor", *ACCOUNT, *place, "--prices", "s3://prices/in"],
        "clean": ["clean", "--on", "aws", "--bucket", "prices", *place],
    }


@pytest.fixture
def fail(monkeypatch, tmp_path):
    """Makes every request to AWS end in a fault, after botocore has signed it and before it leaves the machine."""
    monkeypatch.setattr("time.sleep", lambda _seconds: None)  # between botocore's tries
    monkeypatch.setattr(TokenBucket, "acquire", lambda *_arguments, **_options: True)
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))  # where a fault of ours leaves its traceback
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))

    def install(fault):
        def send(_session, request):
            if isinstance(fault, KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
                raise botocore.exceptions.ReadTimeoutError(endpoint_url=request.url)  # in a thread of an upload
            if isinstance(fault, Exception):
                raise fault
            return answer(request, *fault)

        if fault is not None:
            monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
            monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        monkeypatch.setattr("botocore.httpsession.URLLib3Session.send", send)

    return install


def answer(request, code, status):
    """AWS's answer to a request that it refuses, in the request's protocol."""
    text, host = json.dumps({"__type": code, "message": "what AWS says"}), request.url.split("/")[2]
    if ".s3." in host or host.startswith("s3."):
        text = f"<Error><Code>{code}</Code><Message>what AWS says</Message><BucketName>prices</BucketName></Error>"
    elif host.startswith(("cloudformation.", "iam.", "sts.")):
        text = f"<ErrorResponse><Error><Code>{code}</Code><Message>what AWS says</Message></Error></ErrorResponse>"
    if not code:
        text = "<html><body>Proxy Authentication Required</body></html>"
    body = io.BytesIO(text.encode())
    body.stream = lambda: iter([body.read()])
    return AWSResponse(request.url, status, {"x-amzn-RequestId": "1", "x-amzn-errortype": code}, body)


@pytest.mark.parametrize("command", [*COMMANDS[:-1], pytest.param("push", marks=pytest.mark.slow)])
@pytest.mark.parametrize("fault", FAULTS)
def test_every_command_ends_every_trouble_in_one_line(arguments, fail, tmp_path, command, fault):
    cause, told, code = FAULTS[fault]
    fail(cause)
    result = CliRunner().invoke(main, arguments[command])
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    assert told in result.stderr
    assert result.stderr.count("\n") == (1 if told else 0), result.stderr
    assert not (tmp_path / "runs").exists()  # no name is taken
    if command == "train" and fault in ("no disk", "Ctrl-C", "time-out"):
        start_after_all(arguments)


@pytest.mark.parametrize("fault", [name for name in FAULTS if name != "broken pipe"])
def test_doctor_tells_every_trouble_in_one_line(arguments, fail, fault):
    cause, told, code = FAULTS[fault]
    fail(cause)
    result = CliRunner().invoke(main, arguments["doctor"])
    assert (result.exit_code, result.output.count("\n")) == (code, 1), result.output
    assert told.removeprefix("error: ") in result.output


def test_an_answer_that_is_not_of_aws_is_told_by_its_status(arguments, fail):
    fail(("", 407))
    line = CliRunner().invoke(main, arguments["setup"]).stderr
    assert line == "error: AWS refused DescribeStacks: HTTP status 407\n"


def start_after_all(arguments):
    """Starts the job after all, under the same name."""
    with mock_aws():
        boto3.client("s3", REGION).create_bucket(
            Bucket="prices", CreateBucketConfiguration={"LocationConstraint": REGION}
        )
        result = CliRunner().invoke(main, arguments["train"])
    assert "one was started" in result.stdout, result.output


def test_a_fault_of_ours_leaves_its_traceback_in_a_file(arguments, fail):
    fail(ZeroDivisionError("s3://trader:secret@prices"))
    line = CliRunner().invoke(main, arguments["list"]).stderr
    text = Path(re.search(r"report it with (\S+)", line)[1]).read_text()
    assert text.startswith("Traceback") and "ZeroDivisionError: s3://...@prices" in text
    assert "secret" not in line + text


def test_a_job_that_can_no_longer_be_followed_goes_on_and_says_so(arguments, fail, monkeypatch):
    fail(("ExpiredTokenException", 400))
    monkeypatch.setattr("place.aws.AwsPlace.preflight", lambda *_: [])
    monkeypatch.setattr("place.aws.AwsPlace.upload", lambda *_: None)
    monkeypatch.setattr("place.aws.AwsPlace.start", lambda _self, request: request["TrainingJobName"])
    result = CliRunner().invoke(main, [word for word in arguments["train"] if word != "--detach"])
    assert result.exit_code == 1
    assert result.stderr.endswith("; one goes on; come back with: python sagemaker/launch.py logs one\n")
    assert result.stderr.splitlines()[-1].startswith("error: AWS refused DescribeTrainingJob: ExpiredTokenException")


# Through real processes


def run(*arguments, **options):
    return subprocess.run([*LAUNCH, *arguments], stderr=subprocess.PIPE, text=True, check=False, **options)


@pytest.mark.slow
def test_a_reader_that_went_away_ends_a_command_without_a_word():
    reading, writing = os.pipe()
    os.close(reading)
    done = run("train", "--dry-run", stdout=writing)
    os.close(writing)
    assert done.returncode == 141
    assert "stands in" in done.stderr and done.stderr.count("\n") == 1  # the remark on the simulated market


@pytest.mark.slow
@pytest.mark.parametrize(
    "command", [["list"], ["list", "--json"], ["train", "--dry-run", "--no-check", "--prices", __file__]]
)
def test_a_full_disk_for_the_answer_is_told(tmp_path, command):
    with open("/dev/full", "w") as full:  # noqa: PTH123
        done = run(*command, "--runs", tmp_path, stdout=full)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith("error: no space is left on the disk of standard output")


@pytest.mark.slow
def test_an_output_without_an_accent_gets_an_escape(tmp_path):
    job = tmp_path / "é" / "one"
    (job / "model").mkdir(parents=True)
    (job / "model" / "model.keras").touch()
    (job / ".lock").touch()
    record = {"TrainingJobName": "one", "TrainingJobStatus": "Completed", "CreationTime": "2026-01-01T00:00:00+00:00"}
    (job / "training_job.json").write_text(json.dumps(record))
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = run("status", "one", "--runs", job.parent, env=environment, stdout=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (0, "")
    assert "/\\xe9/one/model/model.keras" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("closed", ["1", "2"])
def test_a_closed_output_is_no_fault(tmp_path, closed):
    command = ["sh", "-c", f'exec "$@" {closed}>&-', "sh", *LAUNCH, "list", "--runs", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "told"),
    [
        ("[profile a]", "AWS cannot be asked: The config profile (mine) could not be found"),
        ("[profile mine]\ncredential_process = false", "mend the profile in ~/.aws"),
        ("[profile mine", "mend ~/.aws/config"),
    ],
    ids=["unknown profile", "credential_process fails", "damaged"],
)
def test_a_wrong_profile_is_told(tmp_path, config, told):
    (tmp_path / "config").write_text(config)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    environment |= {"AWS_PROFILE": "mine", "AWS_CONFIG_FILE": str(tmp_path / "config")}
    done = run("list", "--on", "aws", "--region", REGION, env=environment, stdout=subprocess.PIPE)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1), done.stderr
    assert told in done.stderr


@pytest.mark.slow
def test_ctrl_c_while_aws_is_silent_ends_in_one_line():
    with socket.create_server(("127.0.0.1", 0)) as server:
        endpoint = f"http://127.0.0.1:{server.getsockname()[1]}"
        environment = os.environ | {
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_ACCESS_KEY_ID": "a",
            "AWS_SECRET_ACCESS_KEY": "b",
        }
        process = subprocess.Popen(
            [*LAUNCH, "status", "one", "--on", "aws", "--region", REGION],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        connection, _ = server.accept()
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=30)
        connection.close()
    assert (process.returncode, told) == (130, "interrupted\n")


@pytest.mark.slow
def test_ctrl_c_while_the_program_loads_leaves_no_traceback():
    process = subprocess.Popen([*LAUNCH, "list"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    maps = Path(f"/proc/{process.pid}/maps")
    while "_yaml" not in maps.read_text() and process.poll() is None:  # modules are being loaded
        pass
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=30)
    assert (process.returncode, told) in ((-signal.SIGINT, ""), (130, "interrupted\n"))


def test_a_user_without_a_home_has_a_settings_file_here_alone(monkeypatch):
    def unknown(user):
        raise KeyError(user)

    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", unknown)
    assert options._settings_files() == (Path("position-trainer.yaml"),)
