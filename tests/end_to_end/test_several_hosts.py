"""Jobs on several hosts as the launcher starts them on this machine: processes, and containers of the image."""

import io
import json
import tarfile

import pytest

from hosts_script import SCRIPT


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
