import os

import numpy as np
import pytest

from ml.errors import UserError
from ml.learn.checkpoints import Checkpoint, CheckpointFolder

IDENTITY = {"nodes": 16, "data": "abc"}


def checkpoint(step):
    return Checkpoint(IDENTITY, {"step": step, "loss": 0.1}, {"weight_0": np.full((3, 2), step, np.float32)})


def files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_what_was_saved_is_loaded(tmp_path):
    folder = CheckpointFolder(tmp_path, "job")
    folder.save(checkpoint(7))
    loaded = folder.load(IDENTITY)
    assert loaded.progress == {"step": 7, "loss": 0.1}
    np.testing.assert_array_equal(loaded.arrays["weight_0"], np.full((3, 2), 7, np.float32))


def test_the_last_two_are_kept_and_the_newest_is_loaded(tmp_path):
    folder = CheckpointFolder(tmp_path, "job")
    for step in range(12):
        folder.save(checkpoint(step))
    assert len(files(tmp_path)) == 2
    assert folder.load(IDENTITY).progress["step"] == 11


def test_an_empty_folder_has_none(tmp_path):
    assert CheckpointFolder(tmp_path / "absent", "job").load(IDENTITY) is None


# Other jobs' checkpoints in the same folder


def of(identity, epoch, step=0):
    return Checkpoint(identity, {"epoch": epoch, "step": step}, {"weight_0": np.full(3, epoch, np.float32)})


def test_the_same_training_goes_on_whatever_its_job_was_called(tmp_path, capsys):
    CheckpointFolder(tmp_path, "fx-monday").save(of(IDENTITY, 3))
    tuesday = CheckpointFolder(tmp_path, "fx-tuesday")
    assert tuesday.load(IDENTITY).progress["epoch"] == 3
    assert "which job fx-monday left of the same training" in capsys.readouterr().out
    tuesday.save(of(IDENTITY, 4))
    assert [path.parent.name for path in files(tmp_path)] == ["fx-monday", "fx-tuesday"]


def test_the_furthest_of_several_jobs_is_taken_and_a_jobs_own_among_equals(tmp_path, capsys):
    for job, epoch, step in (("a", 2, 9), ("b", 3, 1), ("c", 3, 0), ("mine", 3, 1)):
        CheckpointFolder(tmp_path, job).save(of(IDENTITY, epoch, step))
    mine = CheckpointFolder(tmp_path, "mine")
    assert mine.load(IDENTITY).progress == {"epoch": 3, "step": 1}
    assert "left of the same training" not in capsys.readouterr().out
    CheckpointFolder(tmp_path, "a").save(of(IDENTITY, 3, 2))
    assert mine.load(IDENTITY).progress == {"epoch": 3, "step": 2}


def test_those_of_other_trainings_are_told_with_the_difference_and_kept(tmp_path, capsys):
    for number in range(5):
        CheckpointFolder(tmp_path, f"job-{number}").save(of(IDENTITY | {"nodes": 32 + number}, 1))
    mine = CheckpointFolder(tmp_path, "mine")
    assert mine.load(IDENTITY) is None
    told = capsys.readouterr().out
    assert "job job-0 (nodes was 32 and is 16)" in told and told.rstrip().endswith("and 2 more")
    for step in range(4):
        mine.save(checkpoint(step))
    assert len(files(tmp_path)) == 5 + 2


def test_a_damaged_one_of_another_job_is_passed_over_and_not_deleted(tmp_path, capsys):
    CheckpointFolder(tmp_path, "other").save(of(IDENTITY, 3))
    path = files(tmp_path)[0]
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert CheckpointFolder(tmp_path, "mine").load(IDENTITY) is None
    assert "its checksum does not match" in capsys.readouterr().out and path.exists()


def test_one_that_does_not_serve_is_refused_of_the_own_job_and_not_used_of_another(tmp_path, capsys):
    def too_long(found):
        raise UserError("the checkpoint is of a longer training")

    CheckpointFolder(tmp_path, "other").save(of(IDENTITY, 3))
    assert CheckpointFolder(tmp_path, "mine").load(IDENTITY, too_long) is None
    assert "job other (the checkpoint is of a longer training)" in capsys.readouterr().out
    with pytest.raises(UserError, match="longer training"):
        CheckpointFolder(tmp_path, "other").load(IDENTITY, too_long)


def test_earlier_folds_find_theirs_and_no_others(tmp_path):
    CheckpointFolder(tmp_path, "monday", "fold-1").save(of(IDENTITY, 1))
    assert CheckpointFolder(tmp_path, "tuesday").load(IDENTITY) is None
    assert CheckpointFolder(tmp_path, "tuesday", "fold-1").load(IDENTITY).progress["epoch"] == 1


# What is no checkpoint


def test_pipes_devices_links_and_folders_are_passed_over(tmp_path, capsys):
    folder = CheckpointFolder(tmp_path, "job")
    folder.save(checkpoint(1))
    whole = files(tmp_path)[0]
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(whole.read_bytes())
    os.mkfifo(whole.with_name("00000009.ckpt"))
    whole.with_name("00000010.ckpt").symlink_to("/dev/zero")
    whole.with_name("00000011.ckpt").symlink_to(elsewhere)
    whole.with_name("00000012.ckpt").mkdir()
    assert folder.load(IDENTITY).progress["step"] == 1
    assert capsys.readouterr().out.count("cannot be read") == 4
    for step in range(3):  # nor do they count among the two that are kept
        folder.save(checkpoint(step))
    assert folder.load(IDENTITY).progress["step"] == 2
    kept = [path.name for path in whole.parent.iterdir() if path.is_file() and not path.is_symlink()]
    assert sorted(kept) == ["00000014.ckpt", "00000015.ckpt"]


def test_a_file_of_an_impossible_size_is_not_read(tmp_path, capsys):
    folder = CheckpointFolder(tmp_path, "job")
    folder.save(checkpoint(1))
    whole = files(tmp_path)[0]
    sparse = whole.with_name("00000002.ckpt")
    with sparse.open("wb") as file:
        file.truncate(200 * 10**9)
    assert folder.load(IDENTITY).progress["step"] == 1
    long = whole.with_name("00000003.ckpt")
    long.write_bytes(bytes(10**6) + whole.read_bytes())  # an archive may have anything before it
    assert folder.load(IDENTITY, largest=10**5).progress["step"] == 1
    assert "and one of this training has at most 100,000" in capsys.readouterr().out


def damaged_copies(content):
    yield "empty", b""
    yield "truncated", content[: len(content) // 2]
    yield "one bit", content[:100] + bytes([content[100] ^ 1]) + content[101:]
    yield "garbage", b"\x80\x04\x95 this is not a checkpoint"


@pytest.mark.parametrize("kind", ["empty", "truncated", "one bit", "garbage"])
def test_a_damaged_one_is_passed_over_for_the_one_before(tmp_path, capsys, kind):
    folder = CheckpointFolder(tmp_path, "job")
    folder.save(checkpoint(1))
    folder.save(checkpoint(2))
    newest = files(tmp_path)[-1]
    newest.write_bytes(dict(damaged_copies(newest.read_bytes()))[kind])
    assert folder.load(IDENTITY).progress["step"] == 1
    assert "is damaged" in capsys.readouterr().out


def test_a_half_written_one_is_not_seen(tmp_path):
    folder = CheckpointFolder(tmp_path, "job")
    folder.save(checkpoint(1))
    whole = files(tmp_path)[0]
    (whole.parent / ".writing-00000002.ckpt").write_bytes(whole.read_bytes()[:50])
    assert folder.load(IDENTITY).progress["step"] == 1


def test_one_of_another_training_is_refused_with_the_difference(tmp_path):
    folder = CheckpointFolder(tmp_path, "job")
    folder.save(checkpoint(1))
    with pytest.raises(UserError, match="nodes was 16 and is 32"):
        folder.load(IDENTITY | {"nodes": 32})
