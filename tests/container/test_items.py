"""One item of a KYDB, on every kind of server: swapped, damaged, written to a disk."""

import os
import pickle
from pathlib import Path

import kydb
import pytest

from kydb_servers import make_url
from ml import items
from ml.data.sources import read_kydb
from ml.databases import DamagedValue, connect, mend
from ml.errors import UserError
from ml.items import _has_conditional_writes, item_now, swap

ONE, TWO, THREE = (pickle.dumps(value) for value in ("one", "two", "three"))


def test_an_item_is_replaced_only_if_it_is_still_what_was_read(any_kydb_url):
    db = connect(f"{any_kydb_url}/folder")
    assert item_now(db, "/a/b") is None
    assert swap(db, "/a/b", None, ONE)
    assert not swap(db, "/a/b", None, TWO), "it was written for new a second time"
    assert db["/a/b"] == "one" and db.ls("/a") == ["b"]
    assert not swap(db, "/a/b", TWO, THREE)
    assert swap(db, "/a/b", ONE, TWO)
    assert item_now(db, "/a/b") == TWO and db["/a/b"] == "two", "kydb's cache still has the item of before"
    db.delete("/a/b")
    assert not swap(db, "/a/b", TWO, THREE)


@pytest.mark.parametrize("backend", ["redis", "s3", "dynamodb", "dynalite"])
def test_the_server_itself_refuses_an_item_that_was_replaced_after_it_was_compared(request, monkeypatch, backend):
    db, ours = connect(make_url(backend, request)), [True]
    swap(db, "/b", None, ONE)
    owner, name = (items, "_s3_item") if db.db_type == "s3" else (type(db), "folder_meta_set_raw")
    whole = getattr(owner, name)

    def overtaken(*arguments):
        done = whole(*arguments) if db.db_type == "s3" else None
        if ours and ours.pop():
            db.set_raw(db._get_full_path("/b"), TWO)
        return done if db.db_type == "s3" else whole(*arguments)

    monkeypatch.setattr(owner, name, overtaken)
    assert not swap(db, "/b", ONE, THREE)
    assert item_now(db, "/b") == TWO


@pytest.mark.parametrize(("backend", "honours"), [("s3", True), ("s3rver", False)])
def test_servers_that_ignore_if_match_are_recognised(request, backend, honours):
    db = connect(make_url(backend, request))
    assert _has_conditional_writes(db, "/a/b") is honours
    assert "Contents" not in db.s3.list_objects_v2(Bucket=db.db_name), "the probe was left behind"


@pytest.mark.slow
def test_a_writer_that_holds_the_lock_of_an_s3_server_without_if_match_is_told(request, monkeypatch):
    monkeypatch.setattr("ml.items._LOCK_SECONDS", 0)
    db = connect(make_url("s3rver", request))
    lock = {"Bucket": db.db_name, "Key": ".configs/locks/a/b/theirs"}
    db.s3.put_object(**lock, Body=b"")
    with pytest.raises(UserError, match=r"/a/b in s3://.* is being written by another .* delete the object .*/theirs"):
        swap(db, "/a/b", None, ONE)
    db.s3.delete_object(**lock)
    assert swap(db, "/a/b", None, ONE)


def test_what_cannot_be_written_is_told():
    db = kydb.connect("http://127.0.0.1:1/x")
    with pytest.raises(UserError, match="http://127.0.0.1:1/x cannot be written; use one of files, memory, redis"):
        swap(db, "/a", None, ONE)


@pytest.mark.parametrize(
    "content", [b"", ONE[:-3], b"\x80\x04\x8c\xff", b"no pickle"], ids=["empty", "cut", "bad", "text"]
)
def test_a_damaged_value_is_named_with_its_key_and_file(files_url, tmp_path, content):
    db = connect(files_url)
    db["/a/b"] = "whole"
    path = tmp_path / "kydb/a/b"
    path.write_bytes(content)
    told = (
        rf"^/a/b in {files_url}, the file {path}, is damaged: its {len(content)} bytes are no whole value .* delete it"
    )
    with pytest.raises(DamagedValue, match=told):
        db.read("/a/b", reload=True)
    with pytest.raises(DamagedValue, match=told):
        kydb.connect(f"memory://empty;{files_url}").read("/a/b", reload=True)
    with pytest.raises(UserError, match=told) as refused:
        read_kydb(files_url, "/a/b")
    assert "permissions" not in str(refused.value)
    db.delete("/a/b")
    assert not db.exists("/a/b")


def test_a_missing_class_is_not_taken_for_damage(files_url, tmp_path):
    connect(files_url)["/a"] = "whole"
    (tmp_path / "kydb/a").write_bytes(b"cnowhere_to_be_found\nThing\n.")
    with pytest.raises(ModuleNotFoundError, match="nowhere_to_be_found"):
        connect(files_url).read("/a", reload=True)


def test_a_file_and_its_folders_last_through_a_power_loss(files_url, tmp_path, monkeypatch):
    events, sync, replace = [], os.fsync, Path.replace

    def synced(descriptor):
        events.append(("sync", Path(f"/proc/self/fd/{descriptor}").readlink()))
        sync(descriptor)

    def renamed(path, target):
        events.append(("rename", Path(target)))
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", renamed)
    db = kydb.connect(files_url)
    mend(db)
    db["/new/folder/value"] = "whole"
    folder = tmp_path / "kydb/new/folder"
    assert [what for what, _ in events] == ["sync"] * 4 + ["rename", "sync"]
    assert [path for _, path in events[:3]] == [tmp_path, tmp_path / "kydb", tmp_path / "kydb/new"]
    assert events[3][1].parent == folder and events[3][1].name.startswith(".writing-")
    assert events[4:] == [("rename", folder / "value"), ("sync", folder)]
