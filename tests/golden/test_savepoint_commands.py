"""`flinkray savepoint ...` against a job that runs in another thread of this process, as another process would ask it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import flinkray as fr
from flinkray.checkpoint.key_providers import generate_key_file
from flinkray.checkpoint.store import open_store
from flinkray.cli import run
from tests.golden.test_savepoints import APP, reader, running, storage
from tests.running import TIMEOUT_S, cancel, until_checkpoints


def flinkray(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = run(["savepoint", *arguments])
    shown = capsys.readouterr()
    return code, shown.out, shown.err


def test_create_list_describe_copy_delete(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    handle = running("running totals", tmp_path)
    try:
        code, out, err = flinkray(capsys, "create", APP, "one", "--json")
        assert code == 0, err
        made = json.loads(out)
        assert (made["name"], made["state"]) == ("one", "READY")
        code, _, err = flinkray(capsys, "create", APP, "one")
        assert (code, "exists already (READY)" in err) == (2, True)
        assert flinkray(capsys, "create", APP, "a/b")[0] == 2
        until_checkpoints(handle, handle.status()["checkpoints"]["completed"] + 4)
        assert flinkray(capsys, "create", APP, "later")[0] == 0
        code, out, _ = flinkray(capsys, "diff", APP, "one", "later", "--json")
        (totals,) = json.loads(out)
        assert (code, totals["operator"], totals["removed"]) == (0, "totals", 0)
        assert totals["added"] + totals["changed"] > 0
        assert flinkray(capsys, "delete", APP, "later")[0] == 0
    finally:
        cancel(handle)
    uri = ("--storage", storage(tmp_path))
    assert json.loads(flinkray(capsys, "describe", APP, "one", "--json", *uri)[1]) == made
    key = str(tmp_path / "other.key")
    generate_key_file(key)
    code, out, err = flinkray(capsys, "copy", APP, "one", *uri, "--to-app", "app2", "--to-name", "two", "--to-key", key)
    assert (code, out.splitlines()[0]) == (0, "savepoint two: READY"), err
    state = fr.read_state(storage(tmp_path), APP, "totals", at="savepoint:one")
    assert fr.read_state(storage(tmp_path), "app2", "totals", at="savepoint:two", encryption_key=fr.KeyFile(key)).equals(state)
    assert flinkray(capsys, "list", APP, *uri)[1].startswith("one                      READY ")
    assert flinkray(capsys, "delete", APP, "one", *uri)[0] == 0
    assert json.loads(flinkray(capsys, "list", APP, "--json", *uri)[1]) == []
    assert open_store(storage(tmp_path), APP).list("savepoints/") == [], "nothing is left"


def test_what_is_not_there_or_does_not_run_is_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    handle = running("running totals", tmp_path)
    handle.savepoint("there", TIMEOUT_S)
    cancel(handle)
    for arguments in (("describe", APP, "no"), ("delete", APP, "no"), ("copy", APP, "no"), ("copy", APP, "there")):
        code, out, err = flinkray(capsys, *arguments, "--storage", storage(tmp_path))
        assert (code, out) == (2, ""), (arguments, err)
    code, _, err = flinkray(capsys, "create", APP, "late", "--storage", storage(tmp_path))
    assert (code, "is not running" in err) == (2, True)
    assert [info.name for info in reader(tmp_path).savepoints.list()] == ["there"]
