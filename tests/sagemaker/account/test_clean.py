"""What jobs left: found where it is old, deleted where it was asked for, kept where a model was published."""

import json
from datetime import datetime, timedelta, timezone

import pytest

from account import clean
from account.setup import outputs
from ml.deliver import publishing
from ml.errors import UserError

NOW = datetime.now(timezone.utc)
H5 = b"\x89HDF\r\n\x1a\n"


def add_job(runs, name, *, days=100, status="Completed", published=None, **parameters):
    """A job's folder, ended so many days ago."""
    ended = (NOW - timedelta(days=days)).isoformat()
    record = {
        "TrainingJobName": name,
        "TrainingJobStatus": status,
        "CreationTime": ended,
        "TrainingEndTime": ended,
        "LastModifiedTime": ended,
        "HyperParameters": parameters,
    }
    (runs / name / "model").mkdir(parents=True)
    (runs / name / "training_job.json").write_text(json.dumps(record))
    (runs / name / "model" / "metrics.json").write_text(json.dumps({"published": published}))
    return runs / name


@pytest.fixture
def runs(tmp_path):
    return tmp_path / "runs"


def test_old_jobs_are_listed_and_deleted_only_when_asked(launch, runs):
    old, new, sample = add_job(runs, "old"), add_job(runs, "new", days=10), runs / "kydb"
    sample.mkdir()  # the simulated market is no job's
    code, out, err = launch("clean", "--runs", runs)
    assert code == 0
    assert [line.split("\t")[0] for line in out.splitlines()] == ["what", str(old)]
    assert "1 of 1 may be deleted" in err
    assert launch("clean", "--runs", runs, "--delete")[0] == 1  # no answer
    assert old.is_dir()
    assert launch("clean", "--runs", runs, "--delete", "--yes")[0] == 0
    assert sorted(path.name for path in runs.iterdir()) == ["kydb", "new"]
    assert new.is_dir()


def test_what_runs_or_has_no_record_is_nobodys_to_delete(runs):
    from place.record import take_lock

    add_job(runs, "running", status="InProgress")
    lock = take_lock(runs / "running")
    (add_job(runs, "damaged") / "training_job.json").write_text("{")
    (runs / "link").symlink_to(add_job(runs.parent / "elsewhere", "linked"))
    assert list(clean.on_this_machine(runs, NOW, clean.Published())) == []
    assert lock is not None
    assert (runs / "running").is_dir()


def test_jobs_whose_model_was_published_are_kept(runs, tmp_path):
    url = f"files:/{tmp_path}/kydb"
    publishing.publish(url, "/m/x.h5", H5 + b"1", "winner")
    add_job(runs, "winner", model_db=url, model_key="/m/x.h5")
    add_job(runs, "refused", model_db=url, model_key="/m/x.h5")
    add_job(runs, "by-hand", published=True)
    (runs / "search").mkdir()
    tuning = {
        "HyperParameterTuningJobName": "search",
        "HyperParameterTuningJobStatus": "Completed",
        "CreationTime": NOW.isoformat(),
        "LastModifiedTime": NOW.isoformat(),
        "ModelDb": url,
    }
    (runs / "search" / "tuning_job.json").write_text(json.dumps(tuning))
    trial = add_job(runs, "search-001", model_key="/m/x.h5")
    record = json.loads((trial / "training_job.json").read_text()) | {"TuningJobName": "search"}
    (trial / "training_job.json").write_text(json.dumps(record))
    publishing.publish(url, "/m/x.h5", H5 + b"2", "search-001")
    found = {each.job: each for each in clean.on_this_machine(runs, NOW - timedelta(days=1), clean.Published())}
    assert {job for job, each in found.items() if each.kept} == {"winner", "by-hand", "search-001"}
    with pytest.raises(ValueError, match="is to be kept"):
        clean.remove(None, found["winner"])


def test_a_kydb_that_does_not_answer_keeps_its_jobs(runs):
    add_job(runs, "one", model_db="redis://127.0.0.1:1/0")
    (found,) = clean.on_this_machine(runs, NOW, clean.Published())
    assert found.kept == "redis://127.0.0.1:1/0 does not tell whether it published"


@pytest.mark.parametrize("text", ["", "30", "-3d", "3h", "99999d"])
def test_a_span_that_is_none_is_refused(text):
    with pytest.raises(UserError, match="--older-than must be a span"):
        clean.span(text)


@pytest.fixture
def bucket(ready, request_of, tmp_path):
    """The bucket with what an old job, a job that published and a running job left, and with models of its own."""
    name = outputs(ready)["Bucket"]
    url = f"files:/{tmp_path}/kydb"
    publishing.publish(url, "/m/x.h5", H5, "winner")
    sagemaker = ready.client("sagemaker")
    for job, parameters in (("old", {}), ("winner", {"model_db": url, "model_key": "/m/x.h5"}), ("running", {})):
        sagemaker.create_training_job(**request_of(TrainingJobName=job, HyperParameters=parameters))
    for key in (
        "jobs/old/output/model.tar.gz",
        "jobs/winner/output/model.tar.gz",
        "jobs/unknown/output/model.tar.gz",
        "inputs/old/train/prices.csv",
        "checkpoints/winner/1.ckpt",
        "checkpoints/unknown/1.ckpt",
        "checkpoints/running/1.ckpt",
    ):
        ready.client("s3").put_object(Bucket=name, Key=f"position-trainer/{key}", Body=b"1234")
    ready.client("s3").put_object(Bucket=name, Key="model_versions/m/x.h5/0", Body=b"")
    describe = sagemaker.describe_training_job

    def described(TrainingJobName):  # noqa: N803
        record = describe(TrainingJobName=TrainingJobName)
        return record | ({"TrainingJobStatus": "InProgress"} if TrainingJobName == "running" else {})

    sagemaker.describe_training_job = described
    return name


def test_the_bucket_gives_up_what_ended_and_keeps_models_that_were_published(ready, bucket):
    later = NOW + timedelta(days=1)  # moto's jobs end when they begin
    found = {
        each.where.partition(bucket)[2]: each.kept for each in clean.in_bucket(ready, bucket, later, clean.Published())
    }
    at = "/position-trainer"
    assert {where for where, kept in found.items() if not kept} == {
        f"{at}/jobs/old/", f"{at}/inputs/old/", f"{at}/checkpoints/winner/", f"{at}/checkpoints/unknown/",
    }  # fmt: skip
    assert "it published to" in found[f"{at}/jobs/winner/"]
    assert "SageMaker does not know the job" in found[f"{at}/jobs/unknown/"]
    assert list(clean.in_bucket(ready, bucket, NOW - timedelta(days=1), clean.Published())) == []


def test_deleting_from_the_bucket_takes_whole_prefixes_and_nothing_else(ready, bucket):
    for each in list(clean.in_bucket(ready, bucket, NOW + timedelta(days=1), clean.Published())):
        if not each.kept:
            clean.remove(ready, each)
    left = [item["Key"] for item in ready.client("s3").list_objects_v2(Bucket=bucket)["Contents"]]
    assert left == [
        "model_versions/m/x.h5/0",
        "position-trainer/checkpoints/running/1.ckpt",
        "position-trainer/jobs/unknown/output/model.tar.gz",
        "position-trainer/jobs/winner/output/model.tar.gz",
    ]


def test_clean_on_aws_needs_a_bucket(cloud, launch):
    code, _, err = launch("clean", "--on", "aws")
    assert (code, "needs --bucket" in err) == (1, True)
