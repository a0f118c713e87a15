"""Docker as a place: the same request in a container of the image."""

import json
import os
import re
import signal
import subprocess
import tarfile

import boto3
import pytest

from docker_engine import docker
from ml.errors import UserError
from place.docker import DockerPlace, _kydb_mounts


@pytest.fixture
def options(launch, stub_image):
    return ["--on", "docker", "--image", stub_image, "--network-isolation", *launch.stub]


def test_a_job_sees_and_leaves_the_same_as_in_a_process(launch, options):
    out = launch("train", *options, "--name", "one")
    assert "one: Completed" in out
    launch("train", *launch.stub, "--name", "two")
    in_container, in_process = (launch.record(name, "output/data/seen.json") for name in ("one", "two"))
    for name in ("parameters", "data"):
        assert in_container[name] == in_process[name]
    assert launch.record("one", "model/metrics.json") == launch.record("two", "model/metrics.json")
    assert launch.record("one")["FinalMetricDataList"] == launch.record("two")["FinalMetricDataList"]
    for path in (launch.runs / "one").rglob("*"):
        assert path.stat().st_uid == os.getuid()


def test_the_reason_of_a_failure_is_the_same_as_in_a_process(launch, options):
    out = launch("train", *options, "--set", "optimizer=sgd", expect=1)
    assert out.rstrip().splitlines()[-1] == "AlgorithmError: sgd is not for me, exit code: 1"


def test_an_image_that_is_not_there_is_told(launch, options):
    out = launch("train", *options, "--image", "localhost:1/no/such:image", expect=1)
    assert re.match(
        r"ClientError: there is no image localhost:1/no/such:image here \(`make image` builds it, .*: \S+",
        out.rstrip().splitlines()[-1],
    )


def test_ctrl_c_stops_the_container_cleanly(launch, options):
    process = launch.start("train", *options, "--set", "epochs=600", "--env", "STUB_SECONDS=0.05", "--name", "one")
    launch.wait_for(lambda: b"epoch=2/" in (launch.runs / "one" / "job.log").read_bytes())
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert launch.record("one")["TrainingJobStatus"] == "Stopped"
    assert len(launch.record("one", "model/metrics.json")["epochs"]) >= 2
    assert docker("ps", "--all", "--quiet", "--filter", "name=^one$").stdout == ""


def test_a_search_in_containers(launch, options):
    found = json.loads(launch("tune", *options, "--name", "t", "--max-jobs", 2, "--max-parallel", 2, "--json"))
    assert [trial["TrainingJobStatus"] for trial in found["Trials"]] == ["Completed"] * 2


def children(pid):
    found = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False)
    return list(map(int, found.stdout.split()))


def containers(launch, name):
    labels = (f"label=position-trainer.runs={launch.runs}", f"label=position-trainer.job={name}")
    return docker("ps", "--quiet", "--filter", labels[0], "--filter", labels[1]).stdout.split()


def kill_runner_and_client(launch, name):
    launch.wait_for(lambda: b"epoch=2/" in (launch.runs / name / "job.log").read_bytes())
    pid = launch.record(name)["RunnerPid"]
    for number in (pid, *children(pid)):
        os.kill(number, signal.SIGKILL)


def test_a_container_that_outlived_its_runner_is_found_and_stopped(launch, options):
    launch("train", *options, "--set", "epochs=600", "--env", "STUB_SECONDS=0.05", "--name", "one", "--detach")
    kill_runner_and_client(launch, "one")
    assert len(containers(launch, "one")) == 1
    assert json.loads(launch("status", "one", "--json"))["TrainingJobStatus"] == "InProgress"
    launch("stop", "one")
    launch.wait_for(lambda: json.loads(launch("status", "one", "--json"))["TrainingJobStatus"] == "Stopped")
    assert containers(launch, "one") == []


def test_a_container_that_ended_after_its_runner_is_completed(launch, options):
    launch("train", *options, "--set", "epochs=40", "--env", "STUB_SECONDS=0.1", "--name", "one", "--detach")
    kill_runner_and_client(launch, "one")
    launch.wait_for(lambda: json.loads(launch("status", "one", "--json"))["TrainingJobStatus"] == "Completed")


def test_a_container_of_somebody_elses_with_the_jobs_name_is_left_alone(launch, options, stub_image):
    docker("run", "--detach", "--name", "t-001", stub_image, "sleep", "600")
    try:
        launch("tune", *options, "--name", "t", "--max-jobs", 1, "--max-parallel", 1)
        assert docker("ps", "--quiet", "--filter", "name=^t-001$").stdout
    finally:
        docker("rm", "--force", "t-001")


def test_what_a_container_may_write(launch, options, tmp_path):
    """Its own folder and the model's database; not the prices', nor what all trials read."""
    prices, models = tmp_path / "prices, and : more", tmp_path / "models"
    prices.mkdir()
    script = tmp_path / "stub" / "probe.py"
    script.write_text(
        "import json, pathlib, sys\n"
        "written = {}\n"
        "for folder in ('/opt/ml/model', '/opt/ml/input/data/train', *sys.argv[1:]):\n"
        "    try:\n"
        "        (pathlib.Path(folder) / 'probe').write_text('x')\n"
        "        written[folder] = True\n"
        "    except OSError:\n"
        "        written[folder] = False\n"
        "print(json.dumps(written))\n"
    )
    place = DockerPlace(launch.runs)
    snapshot = launch.runs / "t" / "input" / "train"
    snapshot.mkdir(parents=True)
    (launch.runs / "t-001" / "input" / "data" / "train").mkdir(parents=True)
    (launch.runs / "t-001" / "model").mkdir()
    (launch.runs / ".looks").mkdir()  # as the job's runner does
    source = {"S3DataSource": {"S3Uri": snapshot.as_uri()}}
    request = {
        "TrainingJobName": "t-001",
        "TuningJobName": "t",
        "HyperParameters": {"prices_db": f"files:/{prices}", "model_db": f"files:/{models}"},
        "InputDataConfig": [{"ChannelName": "train", "DataSource": source}],
        "AlgorithmSpecification": {"TrainingImage": options[3]},
    }
    [host] = place._hosts(launch.runs / "t-001", request, ())
    command = place._commands(request, [host])["Hosts"][0]["Command"]
    assert command.pop() == "train"
    program = ["--entrypoint", "python", "--mount", f"type=bind,source={script},target=/probe.py,readonly"]
    command[2:2] = program
    done = subprocess.run([*command, "/probe.py", prices, models], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert list(json.loads(done.stdout).values()) == [True, False, False, True]


def test_a_folder_of_prices_and_models_is_writable_and_told(tmp_path):
    both = f"files:/{tmp_path}"
    request = {"TrainingJobName": "one", "HyperParameters": {"prices_db": both, "model_db": both}}
    assert len(DockerPlace(tmp_path / "runs").preflight(request)) == 1
    assert _kydb_mounts(request) == ["--mount", f"type=bind,source={tmp_path},target={tmp_path}"]


@pytest.mark.parametrize("url", ["files:///", "files:///opt", "files:///opt/ml"])
def test_a_kydb_folder_that_would_hide_the_containers_own_is_refused(url):
    with pytest.raises(UserError, match="would hide the container's own files"):
        _kydb_mounts({"HyperParameters": {"prices_db": url}})


def test_a_cache_of_prices_is_written_when_it_is_read(tmp_path):
    for name in ("cache", "prices"):
        (tmp_path / name).mkdir()
    url = f"files:/{tmp_path}/cache|files:/{tmp_path}/prices"
    mounts = _kydb_mounts({"HyperParameters": {"prices_db": url}})
    assert [mount.endswith(",readonly") for mount in mounts[1::2]] == [False, True]


def test_credentials_are_passed_where_the_request_names_s3(tmp_path, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
        monkeypatch.setenv(name, name.lower())
    place = DockerPlace(tmp_path)
    script = {"HyperParameters": {"sagemaker_submit_directory": "s3://bucket/code.tar.gz"}}
    assert place._secrets(script)["AWS_DEFAULT_REGION"] == "aws_default_region"
    assert "AWS_SECRET_ACCESS_KEY" in place._secrets({"Environment": {"DATA": "dynamodb://table"}})
    assert place._secrets(script | {"EnableNetworkIsolation": True}) == {}
    assert place._secrets({"HyperParameters": {"epochs": "3"}}) == {}
    assert "AWS_ACCESS_KEY_ID" not in place._secrets(script | {"Environment": {"AWS_ACCESS_KEY_ID": "own"}})


def test_the_image_and_the_process_train_alike_to_the_last_digit(launch, image):
    for place in ("local", "docker"):
        launch(
            "train",
            "--on",
            place,
            "--image",
            image,
            "--name",
            place,
            "--sample-rows",
            4000,
            "--set",
            "lookback=60",
            "--set",
            "nodes=32",
            "--set",
            "epochs=2",
        )
    logs = [
        [
            line.split(" windows_per_second")[0]
            for line in (launch.runs / place / "job.log").read_text().splitlines()
            if line.startswith("epoch=")
        ]
        for place in ("local", "docker")
    ]
    assert len(logs[0]) == 2
    assert logs[0] == logs[1]


def test_a_script_of_the_users_own_comes_from_s3(launch, image, aws, tmp_path):
    (tmp_path / "mine.py").write_text("import sys; open('/opt/ml/model/given.txt', 'w').write(' '.join(sys.argv[1:]))")
    with tarfile.open(tmp_path / "code.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "mine.py", "mine.py")
    boto3.client("s3").create_bucket(Bucket="scripts")
    boto3.client("s3").upload_file(str(tmp_path / "code.tar.gz"), "scripts", "a/code.tar.gz")
    launch(
        *("train", "--on", "docker", "--image", image, "--docker-network", "host", "--name", "own"),
        *("--set", "sagemaker_program=mine.py", "--set", "sagemaker_submit_directory=s3://scripts/a/code.tar.gz"),
        *("--set", "depth=3"),
    )
    assert (launch.runs / "own/model/given.txt").read_text() == "--depth 3"
