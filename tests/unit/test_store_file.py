"""`file://`: the suite of all stores, and what is special about files."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from flinkray.checkpoint.base import CreateOutcome
from flinkray.checkpoint.store import open_store
from flinkray.errors import ConfigError, StorageError
from flinkray.testing.store_suite import ObjectStoreSuite, StoreLocation


class TestFileStore(ObjectStoreSuite):
    @pytest.fixture
    def location(self, tmp_path: Path) -> StoreLocation:
        return StoreLocation(f"file://{tmp_path}/checkpoints")


def test_reading_leaves_no_trace(tmp_path: Path) -> None:
    store = open_store(f"file://{tmp_path}/checkpoints", "app")
    assert store.list("log/") == []
    assert not store.exists("log/1")
    with pytest.raises(FileNotFoundError):
        store.get("log/1")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_has_gone_is_an_error_and_not_an_empty_log(tmp_path: Path) -> None:
    store = open_store(f"file://{tmp_path}/mount", "app")
    store.put("log/1", b"x")
    (tmp_path / "mount").rename(tmp_path / "gone")
    with pytest.raises(StorageError, match="still there"):
        store.list("log/")


def test_a_file_where_the_folder_should_be_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    store = open_store(f"file://{tmp_path}/file", "app")
    for use in (lambda: store.put("a", b""), lambda: store.create("a", b""), lambda: store.list("log/"), lambda: store.exists("a")):
        with pytest.raises(StorageError, match=r"file.*folder"):
            use()


def test_a_full_disk_is_a_storage_error_that_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(f"file://{tmp_path}", "app")
    store.put("a", b"before")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match=r"cannot write a .*No space left on device; free some space"):
        store.put("a", b"after")
    with pytest.raises(StorageError, match="No space left"):
        store.create("b", b"after")
    monkeypatch.undo()
    assert store.get("a") == b"before"
    assert store.list("") == ["a"]
    assert os.listdir(tmp_path / "app" / ".tmp") == []


def test_a_link_that_was_made_although_it_was_answered_with_an_error_is_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NFS sends a request again when its answer was lost; the second answer says EEXIST."""
    store = open_store(f"file://{tmp_path}", "app")
    assert store.conditional_create
    link = os.link

    def linked_twice(source: str, target: str) -> None:
        link(source, target)
        link(source, target)

    monkeypatch.setattr(os, "link", linked_twice)
    store.put("log/0", b"")
    assert store.create("log/1", b"mine") is CreateOutcome.CREATED
    assert store.create("log/1", b"other") is CreateOutcome.TAKEN


def test_a_file_system_without_links_cannot_create_if_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(source: str, target: str) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    store = open_store(f"file://{tmp_path}", "app")
    assert not store.conditional_create
    with pytest.raises(StorageError, match="no hard links"):
        store.create("log/1", b"x")
    store.put("a", b"x")
    assert store.list("") == ["a"]


def test_a_folder_that_another_process_removes_meanwhile_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(f"file://{tmp_path}", "app")
    store.put("keys/k/a", b"x")
    mkdir, robbed = os.mkdir, []

    def robbed_once(path: str, *rest: int) -> None:
        mkdir(path, *rest)
        if path.endswith("/k") and not robbed:
            robbed.append(path)
            os.rmdir(path)

    store.delete(["keys/k/a"])
    monkeypatch.setattr(os, "mkdir", robbed_once)
    assert store.create("keys/k/b", b"y") is CreateOutcome.CREATED
    assert robbed
    assert store.get("keys/k/b") == b"y"


def test_temporary_files_of_killed_processes_go_after_a_day(tmp_path: Path) -> None:
    litter = tmp_path / "app" / ".tmp"
    open_store(f"file://{tmp_path}", "app").put("a", b"x")
    for name, age_s in (("old", 2 * 86_400), ("young", 60)):
        (litter / name).write_bytes(b"half an obj")
        os.utime(litter / name, (time.time() - age_s,) * 2)
    store = open_store(f"file://{tmp_path}", "app")
    store.put("b", b"x")
    assert os.listdir(litter) == ["young"]
    assert store.list("") == ["a", "b"]


@pytest.mark.parametrize("uri", ["file://relative/path", "/no/scheme", "ftp://host/x", "s3://", "gs://bucket"])
def test_a_uri_that_cannot_be_used_is_refused(uri: str) -> None:
    with pytest.raises(ConfigError, match="storage"):
        open_store(uri, "app")


@pytest.mark.parametrize("application", ["", "..", "a/b", "a b"])
def test_an_application_name_that_leads_elsewhere_is_refused(application: str) -> None:
    with pytest.raises(ConfigError, match="application"):
        open_store("memory://x", application)


def test_a_home_folder_may_be_written_with_a_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert open_store("file://~/checkpoints", "app").uri == f"file://{tmp_path}/checkpoints/app"
