"""A user's own script in place of the training, run by the `train` command as a process."""

import io
import os
import signal
import sys
import tarfile
import time
from pathlib import Path

from job_folder import TRAIN, JobFolder, wait_for

EXIT_ON_TERM = """
import pathlib, signal, sys, time
def save(*_):
    print("saving", flush=True); time.sleep(1)
    pathlib.Path(MODEL, "saved.txt").write_text("whole"); sys.exit(0)
signal.signal(signal.SIGTERM, save)
print("script runs", flush=True)
while True: time.sleep(0.1)
"""


def own_job(base, script, **hyperparameters):
    """A job of a script, in a channel as SageMaker brings it; MODEL in the script is the model's folder."""
    archive = base / "input/data/code/source.tar.gz"
    job = JobFolder(
        base, {"sagemaker_program": "mine.py", "sagemaker_submit_directory": str(archive)} | hyperparameters
    )
    content = script.replace("MODEL", repr(str(base / "model"))).encode()
    archive.parent.mkdir(parents=True)
    with tarfile.open(archive, "w:gz") as tar:
        member = tarfile.TarInfo("mine.py")
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))
    return job


def test_it_gets_its_hyperparameters_and_its_output_is_the_jobs(tmp_path):
    job = own_job(tmp_path / "ml", "import sys; print('got', sys.argv[1:]); sys.stderr.write('and this\\n')", depth=3)
    assert job.run() == 0, job.errors
    assert "got ['--depth', '3']" in job.output and "and this\n" in job.errors
    assert not (job.base / "output/failure").exists()


def test_its_exception_is_the_jobs_reason(tmp_path):
    job = own_job(tmp_path / "ml", "def load():\n    return {}['prices']\nload()")
    assert job.run() == 1
    first, *trace = job.failure.splitlines()
    assert first == "KeyError: 'prices' (mine.py ended with exit code 1)"
    assert "in load" in "".join(trace) and len(job.failure) <= 1024
    assert job.errors.endswith(f"error: {first}\n")


def test_what_argparse_says_is_the_jobs_reason(tmp_path):
    job = own_job(tmp_path / "ml", "import argparse; argparse.ArgumentParser().parse_args()", depth=3)
    assert job.run() == 1
    assert "error: unrecognized arguments: --depth 3 (mine.py ended with exit code 2)" in job.failure.splitlines()[0]


def test_a_reason_that_it_wrote_itself_is_kept(tmp_path):
    script = "open(MODEL + '/../output/failure', 'w').write('the market is closed'); raise SystemExit(3)"
    job = own_job(tmp_path / "ml", script)
    assert job.run() == 1
    assert job.failure == "the market is closed" and job.errors.endswith("error: the market is closed\n")


def test_it_hears_of_a_stop_and_is_waited_for(tmp_path):
    job = own_job(tmp_path / "ml", EXIT_ON_TERM)
    process = job.start()
    wait_for(process, "script runs")
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert output.count("saving") == 1 and (job.base / "model/saved.txt").read_text() == "whole"
    assert "stopped: mine.py ended" in output


IGNORES = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print("pids", os.getpid(), child.pid, flush=True)
time.sleep(600)
"""


def ended(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return state == "Z"  # a zombie that nobody has waited for


def wait_until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_one_that_ignores_the_stop_is_killed_with_all_that_it_started(tmp_path):
    job = own_job(tmp_path / "ml", IGNORES)
    short = f"""
import runpy, sys
sys.path.insert(0, {str(TRAIN.parents[1])!r})
import ml.platform.own_script
ml.platform.own_script.GRACE_SECONDS = 1
runpy.run_path({str(TRAIN)!r}, run_name="__main__")
"""
    job.command = lambda *_, environment: (
        [sys.executable, "-c", short],
        os.environ | {"SAGEMAKER_BASE_DIR": str(job.base)},
    )
    process = job.start()
    pids = [int(pid) for pid in wait_for(process, "pids").split("pids ")[1].split()]
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 1 and "mine.py was killed by SIGKILL" in errors
    assert "has not ended 1 s after it was asked to" in output
    wait_until(lambda: all(map(ended, pids)))


def test_it_does_not_outlive_a_job_that_is_killed(tmp_path):
    job = own_job(tmp_path / "ml", IGNORES.replace("child = ", "child = type('', (), {'pid': 0}) #"))
    process = job.start()
    pid = int(wait_for(process, "pids").split("pids ")[1].split()[0])
    process.kill()
    process.communicate(timeout=60)
    wait_until(lambda: ended(pid))
