import contextlib
import json
import math

import pytest

from injected import failing_calls
from ml import files
from ml.files import finish_replacing, write_json, write_together, write_whole

NEW = {"1/a": b"new a", "1/v/b": b"new b", "m.h5": b"new h5", "job.json": "{}"}
OLD = {"1/a": b"old a", "1/v/b": b"old b", "1/c": b"old c", "m.h5": b"old h5", "user": b"stays"}

WRITE_TOGETHER = f"""
import sys
from pathlib import Path
from ml.files import write_together
try:
    write_together(Path(sys.argv[1]), {NEW!r}.items())
except OSError as error:
    sys.exit(f"told: {{error.strerror}}")
"""
WRITE_WHOLE = """
import sys
from pathlib import Path
from ml.files import write_whole
try:
    write_whole(Path(sys.argv[1], "m.h5"), b"new h5")
except OSError as error:
    sys.exit(f"told: {error.strerror}")
"""


def as_bytes(contents):
    return {name: content.encode() if isinstance(content, str) else content for name, content in contents.items()}


def fill(folder, contents):
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def found(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "model").mkdir()
    return tmp_path / "model"


AFTER = {name: content for name, content in OLD.items() if not name.startswith("1/")} | as_bytes(NEW)


def test_files_and_folders_are_replaced_together_and_others_stay(folder):
    fill(folder, OLD)
    write_together(folder, NEW.items())
    assert found(folder) == AFTER
    assert sorted(path.name for path in folder.iterdir()) == ["1", "job.json", "m.h5", "user"]


def test_a_content_that_cannot_be_made_leaves_everything_as_it_was(folder):
    fill(folder, OLD)

    def contents():
        yield "m.h5", b"new"
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        write_together(folder, contents())
    assert found(folder) == OLD and not [path for path in folder.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("before", [OLD, {}], ids=["over an earlier model", "in an empty folder"])
@pytest.mark.parametrize("kills", range(9))
def test_what_a_kill_left_half_replaced_is_finished_by_the_next_job(folder, monkeypatch, before, kills):
    fill(folder, before)
    left = iter(range(kills))

    def rename(path, target):
        if next(left, None) is None:
            raise KeyboardInterrupt  # as good as a kill, since nothing is put back either
        return path_rename(path, target)

    path_rename = files.Path.rename
    with monkeypatch.context() as patch:
        patch.setattr(files.Path, "rename", rename)
        with contextlib.suppress(KeyboardInterrupt):
            write_together(folder, NEW.items())
    finish_replacing(folder)
    assert found(folder) in (before, AFTER if before else as_bytes(NEW))
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


@pytest.mark.slow
@pytest.mark.parametrize("before", [OLD, {}], ids=["over an earlier model", "in an empty folder"])
def test_any_call_that_fails_leaves_all_old_or_all_new(folder, before):
    def prepare():
        files.shutil.rmtree(folder)
        folder.mkdir()
        fill(folder, before)

    runs = 0
    for call, code, output, errors in failing_calls(WRITE_TOGETHER, folder, prepare):
        runs += 1
        expected = before if code else AFTER if before else as_bytes(NEW)
        left = found(folder)
        if not code:  # all is new: that removing what was moved aside failed costs space until the next job
            left = {name: content for name, content in left.items() if not name.startswith(".replaced/")}
        assert left == expected, call
        assert code == 0 or (errors.startswith("told: ") and errors.count("\n") == 1), (call, errors)
        assert not output and not [path for path in folder.iterdir() if path.name.startswith(".writing")], call
    assert runs > 20


@pytest.mark.slow
def test_any_call_that_fails_leaves_a_whole_file(folder):
    def prepare():
        fill(folder, OLD)

    runs = 0
    for call, code, _, errors in failing_calls(WRITE_WHOLE, folder, prepare):
        runs += 1
        renamed = not code or "model>" in call or "O_RDONLY" in call  # the sync of the folder comes after it
        assert (folder / "m.h5").read_bytes() == (b"new h5" if renamed else b"old h5"), call
        assert code == 0 or (errors.startswith("told: ") and errors.count("\n") == 1), (call, errors)
        assert not list(folder.glob(".*")), call
    assert runs >= 5


def test_a_whole_file_replaces_the_one_before(tmp_path):
    for content in ("a\r\n", b"\xff"):
        write_whole(tmp_path / "new" / "x", content)
        assert (tmp_path / "new" / "x").read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["x"]


def test_json_has_null_where_there_is_no_number(tmp_path):
    write_json(tmp_path / "new" / "metrics.json", {"a": [1.5, math.nan, {"b": -math.inf}], "c": "nan"})
    assert json.loads((tmp_path / "new/metrics.json").read_text()) == {"a": [1.5, None, {"b": None}], "c": "nan"}
