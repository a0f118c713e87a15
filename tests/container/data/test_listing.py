import os
import subprocess
import sys
from pathlib import Path

import pytest

from ml.data.listing import list_channel
from ml.errors import UserError


@pytest.fixture
def folder(tmp_path):
    for name in ("train/b.csv", "train/deep/a.csv", "train/.env", "train/.git/config", "train/_SUCCESS",
                 "train/_delta_log/0.json", "elsewhere/2019/x.csv", "elsewhere/y.csv"):  # fmt: skip
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return tmp_path / "train"


def names(folder):
    return [file.name for file in list_channel(folder).files]


def test_files_are_listed_in_order_without_the_hidden_ones(folder):
    assert names(folder) == ["b.csv", "deep/a.csv"]
    assert list_channel(folder / "b.csv").files == [("b.csv", folder / "b.csv")]


def test_links_to_files_and_folders_are_followed(folder):
    (folder / "2019").symlink_to("../elsewhere/2019")
    (folder / "z.csv").symlink_to(folder.parent / "elsewhere/y.csv")
    listing = list_channel(folder)
    assert [file.name for file in listing.files] == ["2019/x.csv", "b.csv", "deep/a.csv", "z.csv"]
    assert [file.path.read_text() for file in listing.files][0::3] == ["elsewhere/2019/x.csv", "elsewhere/y.csv"]


def test_what_is_reached_twice_is_listed_once_under_its_own_name(folder):
    for name, target in (("a1", "."), ("a2", "."), ("again", "deep"), ("a0.csv", "b.csv"), ("deep/up", "..")):
        (folder / name).symlink_to(target)
    assert names(folder) == ["b.csv", "deep/a.csv"]


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("gone.csv", r"l is a link to gone\.csv, which is not there; mend or remove it"),
        ("l", "is a link to l, which is not there"),
        ("..", "is a link to .*, the folder that the channel lies in; remove it"),
        ("/", "is a link to /, the folder that the channel lies in"),
    ],
)
def test_a_link_that_makes_no_sense_is_refused_by_name(folder, target, message):
    (folder / "l").symlink_to(target)
    with pytest.raises(UserError, match=message):
        list_channel(folder)


def test_what_is_no_regular_file_is_left_out_with_a_word(folder):
    os.mkfifo(folder / "train_0")
    (folder / "zero").symlink_to("/dev/zero")
    listing = list_channel(folder)
    assert [file.name for file in listing.files] == ["b.csv", "deep/a.csv"]
    assert listing.left_out == ["train_0 (a pipe)", "zero (a device)"]


def test_a_folder_that_is_not_there_is_told(tmp_path):
    with pytest.raises(UserError, match="there is no file or folder .*/none"):
        list_channel(tmp_path / "none")


def test_many_files_are_told_while_they_are_found(folder, monkeypatch):
    monkeypatch.setattr("ml.data.listing._SECONDS_BETWEEN_LINES", -1)
    said = []
    list_channel(folder, said.append)
    assert said == [f"{folder}: 1 files so far", f"{folder}: 2 files so far"]


@pytest.mark.slow
def test_the_launcher_lists_without_pandas():
    container = Path(__file__).resolve().parents[3] / "container"
    code = "import sys, ml.data.listing; sys.exit('pandas' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=container, check=False).returncode == 0
