"""Jobs on several hosts as the launcher starts them on this machine: processes, and containers of the image."""

import io
import json
import signal
import tarfile

import pytest

from docker_engine import docker
from hosts_script import SCRIPT

SMALL = ["--sample-rows", 3000, "--set", "lookback=60", "--set", "nodes=16", "--set", "batch_size=512"]


@pytest.fixture
def own_script(launch, tmp_path):
    """Options of a job whose script SageMaker's toolkit runs, which waits for the hosts' names first."""
    with tarfile.open(tmp_path / "source.tar.gz", "w:gz") as tar:
        member = tarfile.TarInfo("mine.py")
        member.size = len(SCRIPT)
        tar.addfile(member, io.BytesIO(SCRIPT.encode()))
    (tmp_path / "prices.csv").write_text("dt,mid\n2020-01-01T00:00,1\n")

    def options(place, base):
        archive = f"sagemaker_submit_directory={base}/input/data/code/source.tar.gz"
        return [
            *("--on", place, "--name", "one", "--no-check", "--channel", f"code={tmp_path}/source.tar.gz"),
            *("--prices", tmp_path / "prices.csv", "--set", "sagemaker_program=mine.py", "--set", archive),
        ]

    return options


def reached_each_other(launch, count):
    names = [f"algo-{number}" for number in range(1, count + 1)]
    heard = [json.loads((launch.runs / f"one/output/data/{name}.json").read_text())["heard"] for name in names]
    assert heard == [[other for other in names if other != name] for name in names]
    assert {path.name for path in (launch.runs / "one/model/folder").iterdir()} == set(names)


def test_an_own_script_runs_as_two_processes(launch, own_script):
    launch("train", *own_script("local", launch.runs / "one"), "--instance-count", 2)
    reached_each_other(launch, 2)


def test_an_own_script_runs_in_three_containers(launch, own_script, image):
    options = [*own_script("docker", "/opt/ml"), "--image", image]
    launch("train", *options, "--instance-count", 3, "--network-isolation")
    reached_each_other(launch, 3)


# The image's own training


def test_two_processes_train_what_one_does(launch):
    for name, hosts in (("one", 1), ("two", 2)):
        launch("train", *SMALL, "--set", "epochs=2", "--name", name, "--instance-count", hosts)
    one, two = (launch.record(name, "model/metrics.json") for name in ("one", "two"))
    assert two["best"]["val_loss"] == pytest.approx(one["best"]["val_loss"], rel=1e-3)
    assert two["best_epoch"] == one["best_epoch"]
    assert list((launch.runs / "two" / "hosts" / "algo-2" / "model").iterdir()) == []


@pytest.fixture
def containers(launch, image):
    """Two containers that train until they are stopped."""
    options = ["--on", "docker", "--image", image, "--network-isolation", "--instance-count", 2]
    launch("train", *SMALL, *options, "--set", "epochs=100000", "--name", "one", "--detach")
    launch.wait_for(lambda: b"epoch=2/" in (launch.runs / "one" / "job.log").read_bytes(), seconds=300)


def made_for(launch, host=""):
    """The job's networks and containers, or a host's."""
    filters = ["--quiet", "--filter", f"label=position-trainer.runs={launch.runs}"]
    filters += ["--filter", f"label=position-trainer.host={host}"] if host else []
    return [*docker("network", "ls", *filters).stdout.split(), *docker("ps", "--all", *filters).stdout.split()]


def end_of(launch):
    launch.wait_for(lambda: launch.record("one")["TrainingJobStatus"] not in ("InProgress", "Stopping"), seconds=200)
    return launch.record("one")


def test_a_stop_keeps_the_model_of_two_containers(launch, containers):
    launch("stop", "one")
    assert end_of(launch)["TrainingJobStatus"] == "Stopped"
    assert launch.record("one", "model/metrics.json")["stopped"]
    assert [host["ExitCode"] for host in launch.record("one")["Hosts"]] == [0, 0]
    assert list((launch.runs / "one" / "hosts" / "algo-2" / "model").iterdir()) == made_for(launch) == []


@pytest.mark.parametrize("victim", ["algo-1", "algo-2"])
def test_a_killed_container_ends_the_job_on_both(launch, containers, victim):
    [container] = made_for(launch, victim)
    docker("kill", "--signal", str(int(signal.SIGKILL)), container)
    record = end_of(launch)
    assert record["FailureReason"].startswith(f"AlgorithmError: {victim}: the container was killed")
    other = 0 if victim == "algo-2" else 1
    assert record["Hosts"][other]["ExitCode"] == 1  # it saw it by itself, and was not killed
    assert made_for(launch) == []
