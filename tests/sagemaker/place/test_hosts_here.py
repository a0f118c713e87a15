"""A job on several hosts of this machine, which are processes: what each sees, and that they end as one job."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hosts_script import SCRIPT
from launching import REPOSITORY
from place.hosts import HOSTS, merge, shares
from place.local import LocalPlace
from place.outcome import outcome_of
from place.record import RUNNER_LOCK, is_locked, signal_job
from request import host_names

# As place/runner.py, but less patient
RUNNER = """
import sys
sys.path[:0] = [{sagemaker!r}, {container!r}]
import place.runner as runner
runner._NOTICE_SECONDS, runner._END_SECONDS, runner._STOP_SECONDS = 1, 1, 2
runner.main()
"""


@pytest.fixture
def start(launch, tmp_path, monkeypatch):
    """Starts a job of the script on hosts of this machine, whose runner waits for seconds instead of minutes."""
    script, runner, prices = (tmp_path / name for name in ("script.py", "short_runner.py", "prices.csv"))
    script.write_text(SCRIPT)
    runner.write_text(RUNNER.format(sagemaker=str(REPOSITORY / "sagemaker"), container=str(REPOSITORY / "container")))
    monkeypatch.setattr("place.local._RUNNER", runner)
    source = {"S3DataSource": {"S3Uri": prices.as_uri()}}

    def begin(hosts=2, name="one", limits=(), **variables):
        place = LocalPlace(launch.runs)
        real = place._command
        monkeypatch.setattr(place, "_command", lambda *given: ([sys.executable, str(script)], real(*given)[1]))
        place.start(
            {
                "TrainingJobName": name,
                "AlgorithmSpecification": {"TrainingImage": "", "MetricDefinitions": []},
                "StoppingCondition": dict(limits),
                "ResourceConfig": {"InstanceCount": hosts},
                "InputDataConfig": [{"ChannelName": "train", "DataSource": source}],
                "Environment": {"PYTHONUNBUFFERED": "1"} | variables,
            }
        )
        return place

    return begin


def log(launch, host):
    path = launch.runs / "one" / ("job.log" if host == "algo-1" else f"hosts/{host}/job.log")
    return path.read_text() if path.exists() else ""


def ended(launch):
    """The record of the job, once it has ended."""
    launch.wait_for(lambda: launch.record("one")["TrainingJobStatus"] in ("Completed", "Failed", "Stopped"))
    return launch.record("one")


def wait_until_all_started(launch, hosts=2):
    launch.wait_for(lambda: all(f"started algo-{n}" in log(launch, f"algo-{n}") for n in range(1, hosts + 1)))


def processes_of(launch):
    """Processes whose environment names the job's folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if f"SAGEMAKER_BASE_DIR={launch.runs}".encode() in path.read_bytes():
                found.append(int(path.parent.name))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 3])
def test_each_host_is_a_machine_of_its_own_and_reaches_the_others(launch, start, tmp_path, count):
    start(count)
    assert ended(launch)["TrainingJobStatus"] == "Completed", log(launch, "algo-1")
    names = [f"algo-{number}" for number in range(1, count + 1)]
    seen = {name: launch.record("one", f"output/data/{name}.json") for name in names}
    for name in names:
        resources = seen[name]["resources"]
        assert (resources["current_host"], resources["hosts"]) == (name, names)
        assert resources["network_interface_name"] == "lo"
        assert list(resources["ports"]) == list(resources["addresses"]) == names
        assert len(set(resources["ports"].values())) == count
        assert seen[name]["heard"] == [other for other in names if other != name]
        assert seen[name]["prices"] == (tmp_path / "prices.csv").read_text()
        assert log(launch, name).startswith("heard")
        assert (launch.runs / "one" / "model" / "folder" / name).read_text() == name  # merged, as in model.tar.gz
    assert (launch.runs / "one" / "model" / "own.txt").read_text() == "algo-1"
    told = [line for line in log(launch, "algo-1").splitlines() if "another file of that name" in line]
    assert len(told) == count - 1 and f"hosts/algo-2/model/own.txt is not in {launch.runs}/one/model" in told[0]


@pytest.mark.slow
def test_the_first_hosts_log_is_followed_and_the_others_are_asked_for(launch, tmp_path):
    (tmp_path / "stub" / "stub_job.py").write_text(SCRIPT)
    process = launch.start("train", *launch.stub, "--instance-count", "2", "--name", "one")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, out + err
    assert "heard algo-2" in out and "heard algo-1" not in out and "one: Completed after" in out
    assert "of training on 2 hosts" in out
    assert "2 hosts: the log is algo-1's; another's: logs one --host algo-2" in err
    assert "2 hosts share this machine: a rehearsal" in err
    assert "heard algo-1" in launch("logs", "one", "--host", "algo-2")
    told = launch("logs", "one", "--host", "algo-3", expect=1)
    assert told == "error: the job has no host 'algo-3'; it has algo-1 to algo-2\n"
    assert launch("list").count("one") == 1


@pytest.mark.slow
def test_a_host_that_fails_ends_the_job_and_is_named(launch, start):
    start(3, HOSTS_MODE="fail", HOSTS_CULPRIT="algo-2")
    record = ended(launch)
    assert record["FailureReason"] == "AlgorithmError: algo-2: the market is closed, exit code: 3"
    assert record["ExitCode"] == 3 and [host["ExitCode"] for host in record[HOSTS]] == [0, 3, 0]
    assert "algo-2 ended with exit code 3; the other hosts are stopped if they" in log(launch, "algo-1")
    assert "stopped algo-3" in log(launch, "algo-3")  # it was asked, and not killed
    assert processes_of(launch) == []


@pytest.mark.slow
def test_a_killed_host_is_the_reason_though_another_says_so_first(launch, start):
    start(HOSTS_MODE="told", HOSTS_CULPRIT="algo-2")
    record = ended(launch)
    assert record["FailureReason"].startswith("AlgorithmError: algo-2: the process was killed by SIGKILL")
    assert [host["ExitCode"] for host in record[HOSTS]] == [1, -signal.SIGKILL]


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["wait", "deaf"])
@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_host_ends_the_job_whatever_the_others_do(launch, start, mode, victim):
    start(HOSTS_MODE=mode)
    wait_until_all_started(launch)
    os.kill(launch.record("one")[HOSTS][victim]["JobPid"], signal.SIGKILL)
    record = ended(launch)
    name = f"algo-{victim + 1}"
    folder = launch.runs / "one" / ("hosts/algo-2" if victim else "")
    assert record["FailureReason"] == (
        f"AlgorithmError: {name}: the process was killed by SIGKILL; see {folder / 'job.log'}, exit code: 137"
    )
    assert processes_of(launch) == []


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["wait", "deaf"])
@pytest.mark.parametrize("limits", [{}, {"MaxRuntimeInSeconds": 2}], ids=["stop", "too long"])
def test_a_stop_reaches_every_host(launch, start, mode, limits):
    place = start(3, HOSTS_MODE=mode, limits=limits)
    wait_until_all_started(launch, 3)
    if not limits:
        place.stop("one")
    record = ended(launch)
    assert record["TrainingJobStatus"] == "Stopped"
    assert {host["ExitCode"] for host in record[HOSTS]} == {0 if mode == "wait" else -signal.SIGKILL}
    assert processes_of(launch) == []


@pytest.mark.slow
def test_hosts_that_outlive_their_runner_are_found_and_stopped(launch, start):
    place = start(HOSTS_MODE="wait")
    wait_until_all_started(launch)
    os.kill(launch.record("one")["RunnerPid"], signal.SIGKILL)
    os.kill(launch.record("one")[HOSTS][0]["JobPid"], signal.SIGKILL)  # one host alone is the job, still
    launch.wait_for(lambda: not is_locked(launch.runs / "one", RUNNER_LOCK))
    assert place.describe("one")["TrainingJobStatus"] == "InProgress"
    place.stop("one")
    launch.wait_for(lambda: place.describe("one")["TrainingJobStatus"] != "Stopping")
    assert processes_of(launch) == []


@pytest.mark.slow
def test_the_runner_killed_the_results_of_all_hosts_are_collected(launch, start, tmp_path):
    place = start(HOSTS_MODE="wait")
    wait_until_all_started(launch)
    os.kill(launch.record("one")["RunnerPid"], signal.SIGKILL)
    for host in ("", "hosts/algo-2/"):
        (launch.runs / "one" / f"{host}output" / "success").touch()
    (launch.runs / "one" / "hosts" / "algo-2" / "model" / "second.txt").write_text("mine")
    for pid in processes_of(launch):
        os.kill(pid, signal.SIGKILL)
    launch.wait_for(lambda: place.describe("one")["TrainingJobStatus"] == "Completed")
    assert (place.collect("one") / "model" / "second.txt").read_text() == "mine"


@pytest.mark.slow
def test_trials_of_a_search_have_hosts_too(launch, tmp_path):
    (tmp_path / "stub" / "stub_job.py").write_text(
        SCRIPT.replace(
            "def main():",
            "def main():\n    print('epoch=1/1 loss=0.5 val_accuracy=0.5 ''best_val_accuracy=0.5', flush=True)",
            1,
        )
    )
    arguments = ["--instance-count", 2, "--max-jobs", 2, "--max-parallel", 2, "--name", "t", "--json"]
    found = json.loads(launch("tune", *launch.stub, *arguments))
    assert [trial["TrainingJobStatus"] for trial in found["Trials"]] == ["Completed"] * 2
    for trial in ("t-001", "t-002"):
        record = launch.record(trial)
        assert sorted({core for host in record[HOSTS] for core in host["Cores"]}) == record["Cores"]
        data = launch.runs / trial / "hosts" / "algo-2" / "input" / "data" / "train" / "prices.csv"
        assert data.samefile(launch.runs / "t" / "input" / "train" / "prices.csv")


@pytest.mark.slow
def test_a_command_that_is_not_there_leaves_no_host_behind(launch, start, monkeypatch):
    place = LocalPlace(launch.runs)
    commands = iter([["sleep", "600"], ["no such program"]])
    monkeypatch.setattr(place, "_command", lambda *_: (next(commands), {}))
    request = {
        "TrainingJobName": "one",
        "AlgorithmSpecification": {"TrainingImage": "", "MetricDefinitions": []},
        "StoppingCondition": {},
        "ResourceConfig": {"InstanceCount": 2},
    }
    place.start(request)
    record = ended(launch)
    assert record["FailureReason"].startswith("ClientError: no such program cannot be started: No such file")
    assert place.describe("one")["TrainingJobStatus"] == "Failed"  # the record can be read
    with pytest.raises(ProcessLookupError):
        os.kill(record[HOSTS][0]["JobPid"], 0)


@pytest.mark.slow
def test_a_host_that_has_ended_gets_no_signal(tmp_path):
    """Its number may be another process's by then."""
    other = subprocess.Popen(["sleep", "60"], start_new_session=True)
    try:
        signal_job({HOSTS: [{"HostName": "algo-1", "JobPid": other.pid, "ExitCode": 0}]}, signal.SIGKILL)
        time.sleep(0.2)
        assert other.poll() is None
        signal_job({HOSTS: [{"HostName": "algo-1", "JobPid": other.pid, "ExitCode": None}]}, signal.SIGKILL)
        assert other.wait(timeout=10) == -signal.SIGKILL
    finally:
        other.kill()


# Without processes


def test_hosts_are_named_by_their_numbers():
    preferences = [{"InstanceType": "a", "InstanceCount": 2}, {"InstanceType": "b", "InstanceCount": 3}]
    for resources, last in (
        ({}, 1),
        ({"InstanceCount": 11}, 11),
        ({"InstanceGroups": [{"InstanceCount": 2}, {"InstanceCount": 1}]}, 3),
        ({"InstancePreferences": preferences}, 2),
        ({"InstancePreferences": preferences, "SelectedInstanceCount": 3}, 3),
    ):
        names = host_names({"ResourceConfig": resources})
        assert names == [f"algo-{number}" for number in range(1, last + 1)]


def test_cores_are_dealt_out():
    assert shares([0, 1, 2, 3, 4], 2) == [[0, 2, 4], [1, 3]]
    assert shares([0, 1], 3) == [[0], [1], [0]]
    assert shares([], 2) == [[], []]


def test_a_gpu_belongs_to_one_host(tmp_path, monkeypatch):
    place, request = LocalPlace(tmp_path), {"ResourceConfig": {"InstanceCount": 2}, "TrainingJobName": "one"}
    for gpus, expected in ((["0", "1", "2"], ["0,2", "1"]), (["0"], ["-1", "-1"])):
        monkeypatch.setattr("place.local.machine_gpus", lambda gpus=gpus: gpus)
        commands = place._commands(request, place._hosts(tmp_path, request, ()))[HOSTS]
        assert [host["CommandEnvironment"]["CUDA_VISIBLE_DEVICES"] for host in commands] == expected
    assert "this machine has 1 GPU for 2 hosts, so none uses one" in place.preflight(request)


@pytest.fixture
def two_hosts(tmp_path):
    """A job folder with a second host's, and the job's record."""
    for folder in ("", "hosts/algo-2/"):
        for part in ("model", "output"):
            (tmp_path / folder / part).mkdir(parents=True)
    record = {HOSTS: [{"HostName": "algo-1"}, {"HostName": "algo-2"}], "TrainingJobStatus": "InProgress"}
    return tmp_path, record | {"AlgorithmSpecification": {}}


def test_the_hosts_folders_are_merged_once_and_nothing_is_overwritten(two_hosts):
    folder, record = two_hosts
    second = folder / "hosts" / "algo-2" / "model"
    (folder / "model" / "a").write_text("first")
    for name, text in (("a", "second"), ("b", "new")):
        (second / name).write_text(text)
    (second / "link").symlink_to("/nowhere")
    (folder / "model" / "taken").write_text("a file")
    (second / "taken").mkdir()
    (second / "taken" / "below").touch()
    for _ in range(2):
        told = merge(folder, record)
        assert [line.split(" ")[0] for line in told] == [str(second / "a"), str(second / "taken" / "below")]
    assert {path.name: path.read_text() for path in (folder / "model").iterdir() if path.is_file()} == {
        "a": "first",
        "b": "new",
        "taken": "a file",
    }
    assert (folder / "model" / "link").is_symlink()


def test_a_job_is_completed_by_the_word_of_every_host(two_hosts):
    folder, record = two_hosts
    (folder / "output" / "success").touch()
    assert outcome_of(folder, record) == {}
    (folder / "hosts" / "algo-2" / "output" / "success").touch()
    assert outcome_of(folder, record)["TrainingJobStatus"] == "Completed"
    (folder / "hosts" / "algo-2" / "output" / "failure").write_text("no prices")
    assert outcome_of(folder, record)["FailureReason"] == "AlgorithmError: algo-2: no prices"
    (folder / "output" / "failure").write_text("no prices")
    assert outcome_of(folder, record)["FailureReason"] == "AlgorithmError: algo-1, algo-2: no prices"


def test_a_docker_network_of_the_users_is_refused_for_several_hosts(tmp_path):
    from place.docker import DockerPlace

    request = {"ResourceConfig": {"InstanceCount": 2}}
    [problem] = DockerPlace(tmp_path, "kydb").problems_with(request)
    assert "2 hosts get a network of their own" in problem and "'kydb'" in problem
    assert (
        list(DockerPlace(tmp_path, "kydb").problems_with({}))
        == list(DockerPlace(tmp_path).problems_with(request))
        == []
    )
