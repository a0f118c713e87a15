"""A job on several hosts that are containers on a network of their own, which ends with the job whatever ends that."""

import json
import os
import signal

import pytest

from docker_engine import docker
from hosts_script import SCRIPT
from place.engine import label_options, labels_of

pytestmark = pytest.mark.slow


@pytest.fixture
def options(launch, stub_image, tmp_path):
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "mine.py").write_text(SCRIPT)
    return [
        "--on",
        "docker",
        "--image",
        stub_image,
        *launch.stub,
        "--channel",
        f"code={tmp_path}/code",
        "--name",
        "one",
    ]


def made_for(launch, kind):
    """Ids of all containers or networks of the runs folder, whatever they are called."""
    listing = ("ps", "--all") if kind == "container" else ("network", "ls")
    return docker(*listing, "--quiet", "--filter", f"label=position-trainer.runs={launch.runs}").stdout.split()


def log(launch, host):
    path = launch.runs / "one" / ("job.log" if host == "algo-1" else f"hosts/{host}/job.log")
    return path.read_text() if path.exists() else ""


def detached(launch, options, hosts=2):
    """A job that is under way on all its hosts."""
    launch("train", *options, "--instance-count", hosts, "--env", "HOSTS_MODE=wait", "--detach")
    names = [f"algo-{number}" for number in range(1, hosts + 1)]
    launch.wait_for(lambda: all(f"started {name}" in log(launch, name) for name in names), seconds=60)
    assert len(made_for(launch, "container")) == hosts and len(made_for(launch, "network")) == 1


def clients_of(launch):
    """The docker commands of the job's hosts, by their processes."""
    return [host["JobPid"] for host in launch.record("one")["Hosts"]]


def status(launch):
    return json.loads(launch("status", "one", "--json"))["TrainingJobStatus"]


@pytest.mark.parametrize(("count", "isolation"), [(2, ["--network-isolation"]), (3, [])], ids=["isolated", "three"])
def test_containers_find_each_other_by_their_names(launch, options, tmp_path, count, isolation):
    out = launch("train", *options, *isolation, "--instance-count", count)
    assert f"of training on {count} hosts" in out
    names = [f"algo-{number}" for number in range(1, count + 1)]
    for name in names:
        seen = launch.record("one", f"output/data/{name}.json")
        assert seen["resources"] == {
            "current_host": name,
            "hosts": names,
            "current_instance_type": "local",
            "network_interface_name": "eth0",
        }
        assert seen["heard"] == [other for other in names if other != name]
        assert seen["prices"] == (tmp_path / "prices.csv").read_text() and not seen["writable"]
        assert (launch.runs / "one" / "model" / "folder" / name).read_text() == name
    assert "heard algo-1" in launch("logs", "one", "--host", "algo-2")
    assert made_for(launch, "container") == made_for(launch, "network") == []
    assert (tmp_path / "prices.csv").stat().st_mode & 0o200  # the user's own file is as it was


def test_a_host_that_fails_is_named_and_the_others_end(launch, options):
    launch(
        "train",
        *options,
        "--instance-count",
        2,
        "--env",
        "HOSTS_MODE=fail",
        "--env",
        "HOSTS_CULPRIT=algo-2",
        "--detach",
    )
    launch.wait_for(lambda: "algo-2 ended with exit code 3; the other hosts are stopped if" in log(launch, "algo-1"))
    assert status(launch) == "InProgress"  # the first host has 75 s
    launch("stop", "one")
    launch.wait_for(lambda: status(launch) == "Failed")
    reason = launch.record("one")["FailureReason"]
    assert reason == "AlgorithmError: algo-2: the market is closed, exit code: 3"
    assert "stopped algo-1" in log(launch, "algo-1")
    assert made_for(launch, "container") == made_for(launch, "network") == []


def test_ctrl_c_stops_every_container(launch, options):
    arguments = [*options, "--instance-count", "2", "--env", "HOSTS_MODE=wait"]
    process = launch.start("train", *arguments)
    launch.wait_for(lambda: "started algo-1" in log(launch, "algo-1") and "started algo-2" in log(launch, "algo-2"))
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert launch.record("one")["TrainingJobStatus"] == "Stopped"
    assert "stopped algo-1" in log(launch, "algo-1") and "stopped algo-2" in log(launch, "algo-2")
    assert made_for(launch, "container") == made_for(launch, "network") == []


def test_a_killed_docker_command_leaves_no_container(launch, options):
    detached(launch, [*options, "--network-isolation"])
    assert docker("network", "inspect", "--format", "{{.Internal}}", *made_for(launch, "network")).stdout == "true\n"
    os.kill(clients_of(launch)[1], signal.SIGKILL)
    launch("stop", "one")
    launch.wait_for(lambda: status(launch) in ("Stopped", "Failed"))
    assert made_for(launch, "container") == made_for(launch, "network") == []


def test_the_network_of_a_job_whose_runner_was_killed_goes_with_its_containers(launch, options):
    detached(launch, options)
    for pid in (launch.record("one")["RunnerPid"], *clients_of(launch)):
        os.kill(pid, signal.SIGKILL)
    assert status(launch) == "InProgress"
    launch("stop", "one")
    launch.wait_for(lambda: status(launch) == "Failed")  # it left no word
    assert made_for(launch, "container") == made_for(launch, "network") == []


def test_the_network_of_a_forgotten_job_is_removed_by_the_next_and_no_other_is(launch, options):
    def make(job, runs=launch.runs):
        labels = label_options(labels_of(runs, job, "abc"))
        return docker("network", "create", *labels, f"{job}-{os.getpid()}").stdout.strip()

    forgotten, of_others = make("forgotten"), make("others", launch.runs.with_name("elsewhere"))
    try:
        launch("train", *options, "--instance-count", 2)
        left = docker("network", "ls", "--quiet", "--no-trunc").stdout.split()
        assert forgotten not in left and of_others in left
    finally:
        docker("network", "rm", of_others)
        docker("network", "rm", forgotten)


def test_an_engine_that_makes_no_network_is_the_reason(launch, options, monkeypatch, tmp_path):
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nowhere.sock")
    told = launch("train", *options, "--instance-count", 2, expect=1)
    assert told.rstrip().splitlines()[-1].startswith("ClientError: the hosts' network cannot be made: ")
