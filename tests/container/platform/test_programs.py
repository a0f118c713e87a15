import os
from pathlib import Path

import pytest

from ml.platform.programs import FOLDER_VARIABLE, KeptPrograms, program_folders

CARD, ANOTHER = {"device": "H100", "driver": "580"}, {"device": "H200", "driver": "580"}


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.setenv("TF_XLA_FLAGS", "--tf_xla_auto_jit=1")
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "2")


def kept(folders, monkeypatch, hardware=CARD):
    """Kept programs, how many were taken, and TensorFlow's folder."""
    monkeypatch.setenv("TF_XLA_FLAGS", "--tf_xla_auto_jit=1")
    programs = KeptPrograms(folders)
    other_flag, flag = os.environ["TF_XLA_FLAGS"].split()
    assert other_flag == "--tf_xla_auto_jit=1"
    return programs, programs.take(hardware), Path(flag.split("=")[1])


def test_programs_are_kept_with_the_checkpoints_and_in_the_folder_that_the_environment_names(monkeypatch):
    monkeypatch.delenv(FOLDER_VARIABLE, raising=False)
    assert program_folders(None, "job") == []
    monkeypatch.setenv(FOLDER_VARIABLE, "/shared")
    assert program_folders(Path("/c"), "job") == [Path("/c/job/programs"), Path("/shared")]
    monkeypatch.setenv(FOLDER_VARIABLE, "none")
    assert program_folders(Path("/c"), "job") == []


def test_a_program_serves_the_same_hardware_alone(tmp_path, monkeypatch):
    first, count, folder = kept([tmp_path], monkeypatch)
    (folder / "a.pb").write_bytes(b"code")
    first.keep()
    assert count == 0
    _, count, folder = kept([tmp_path], monkeypatch)
    assert count == 1 and (folder / "a.pb").read_bytes() == b"code"
    assert kept([tmp_path], monkeypatch, ANOTHER)[1] == 0


def test_a_folder_that_cannot_be_written_is_told_once_and_ends_nothing(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").touch()
    programs, _, folder = kept([tmp_path / "file", tmp_path / "good"], monkeypatch)
    for name in ("a.pb", "b.pb"):
        (folder / name).write_bytes(b"code")
        programs.keep()
    assert capsys.readouterr().out.count("COMPILED PROGRAMS cannot be kept") == 1
    assert kept([tmp_path / "good"], monkeypatch)[1] == 2
