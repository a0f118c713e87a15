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


def test_jobs_that_share_a_folder_do_not_see_each_other(tmp_path):
    CheckpointFolder(tmp_path, "one").save(checkpoint(1))
    assert CheckpointFolder(tmp_path, "other").load(IDENTITY) is None


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
