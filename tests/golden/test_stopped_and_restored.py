"""Every job with state of its own kind: stopped with a savepoint at parallelism 2, in the middle of its input, and restored at 1, 3 and 4 (from S3 at 4)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import flinkray as fr
from flinkray.checkpoint.savepoints import SavepointState
from flinkray.checkpoint.state_reader import StateReader
from tests.golden.keep_savepoints import FOLDER, application, environment, run, until_still
from tests.golden.kept_jobs import KEPT
from tests.running import TIMEOUT_S
from tests.seaweed import BUCKET, SeaweedServer

AT_ONCE = ("sessions", "running", "regular-join", "connected", "process", "files")
"""The rest is slow only because it is much of the same."""


def slow(name: str) -> Any:
    return name if name in AT_ONCE else pytest.param(name, marks=pytest.mark.slow)


def stop_and_go_on(
    name: str,
    folder: Path,
    storage: str,
    parallelisms: tuple[int, ...],
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, Any] | None = None,
) -> None:
    handle = run(name, environment(name, storage, 2, options), folder / "out", str(folder / "gate"))
    until_still(handle)
    assert handle.stop(savepoint="here", timeout=TIMEOUT_S).status == "STOPPED"
    reader = StateReader(storage, application(name), fr.KeyFile(str(FOLDER / "key")), options)
    for parallelism in parallelisms:
        out = folder / f"out-{parallelism}"
        monkeypatch.setenv("FLINKRAY_RUN_OPTIONS", json.dumps({"restore": "savepoint:here"}))
        again = run(name, environment(name, storage, parallelism, options), out)
        assert again.wait(TIMEOUT_S).records_in == KEPT[name].rows, "no row is read twice, none is left out"
        monkeypatch.delenv("FLINKRAY_RUN_OPTIONS")
        KEPT[name].check([pq.read_table(part) for part in (folder / "out", out) if part.exists()])
        assert reader.savepoints.describe("here").state is SavepointState.READY
    assert reader.savepoints.read("here")[1].problems() == [], "the savepoint stays as it was"


@pytest.mark.parametrize("name", [slow(name) for name in KEPT])
def test_on_files(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stop_and_go_on(name, tmp_path, f"file://{tmp_path}/storage", (4, 1, 3), monkeypatch)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedServer]:
    server = SeaweedServer(tmp_path_factory.mktemp("weed"))
    server.start()
    yield server
    server.stop()


@pytest.mark.s3
@pytest.mark.slow
@pytest.mark.parametrize("name", list(KEPT))
def test_in_s3(name: str, server: SeaweedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stop_and_go_on(name, tmp_path, f"s3://{BUCKET}/{name}", (4,), monkeypatch, server.options())
