"""Storage that is away or cannot create if absent, as the job core and its storage see it."""

from __future__ import annotations

from dataclasses import replace

import pytest

import flinkray as fr
from flinkray.core.job_endings import CANCEL_TIMEOUT_S
from flinkray.core.job_events import (
    CancelRequested,
    CheckpointContent,
    End,
    JobStatus,
    ManifestFate,
    RecordEnd,
    Say,
    Tick,
    WriteJournal,
    WriteManifest,
)
from flinkray.core.journal_records import RunEnded
from flinkray.core.messages import Acknowledged, CheckpointDeclined, Counters
from flinkray.errors import RestoreError, StorageError
from flinkray.runtime import job_storage
from flinkray.runtime.job_storage import JobStorage
from flinkray.runtime.task_manager import JobBundle
from flinkray.testing.faulty_store import FaultyStore
from tests.unit.checkpoint_fakes import faulty_store
from tests.unit.test_job_core import Driver

# -- the core ---------------------------------------------------------------------------------------------------------


def test_a_cancelled_job_does_not_wait_for_ever_for_the_record_of_its_end() -> None:
    driver = Driver()
    driver.run()
    assert RecordEnd(JobStatus.CANCELLED) in driver.give(CancelRequested(), at=3.0)
    assert driver.give(Tick(), at=2.9 + CANCEL_TIMEOUT_S) == []
    said, journaled, end = driver.give(Tick(), at=3.1 + CANCEL_TIMEOUT_S)
    assert isinstance(said, Say)
    assert "storage did not take the record of the end" in said.text
    assert journaled == WriteJournal(RunEnded("CANCELLED"))
    assert end == End(JobStatus.CANCELLED, None)


def test_why_checkpoints_cannot_be_stored_is_kept_until_one_can() -> None:
    driver = Driver()
    driver.run()
    driver.give(Tick(), at=2.0)
    driver.report(0, CheckpointDeclined(1, "StorageError: it does not answer"))
    assert driver.core.checkpoints.trouble == "StorageError: it does not answer"
    driver.give(Tick(), at=4.0)
    for slot in range(2):
        driver.report(slot, Acknowledged(2, slot, (), {}, Counters()))
    driver.give(ManifestFate(2, "failed", "a void stands there"))
    assert driver.core.checkpoints.trouble == "a void stands there"
    driver.give(Tick(), at=6.0)
    driver.complete(3)
    assert driver.core.checkpoints.trouble == ""


# -- a store without conditional create ---------------------------------------------------------------------------------


def bundle(restore: str) -> JobBundle:
    env = fr.StreamEnvironment(
        "app", parallelism=1, runtime="local", checkpointing=fr.Checkpointing(storage="memory://unused", retained=1000)
    )
    env.from_source(fr.sources.Nexmark("bid", rows=10), uid="in").sink_to(fr.sinks.Parquet("/nowhere"), uid="out")
    return JobBundle(env.job_graph(), replace(env.config, restore=restore), "app")


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> FaultyStore:
    store = faulty_store(conditional_create=False)
    monkeypatch.setattr(job_storage, "open_store", lambda *arguments: store)
    monkeypatch.setattr(job_storage, "check_fresh_start", lambda graph: None)
    return store


def run_with(checkpoints: list[tuple[int, bool]], token: str) -> list[str]:
    """A run that starts afresh and writes these checkpoints, each with rows to commit or without. Returns their names."""
    storage = JobStorage(bundle("none"), token)
    storage.open()
    return [storage.write_manifest(command(number, visible), lambda text: None) for number, visible in checkpoints]


def command(checkpoint: int, visible: bool) -> WriteManifest:
    transactions = {"out": ({"files": ["part"]},) if visible else ()}
    return WriteManifest(CheckpointContent(checkpoint, 1, (), transactions, Counters(checkpoint, 0)), 0.0, 1.0)


@pytest.mark.usefixtures("store")
def test_the_latest_checkpoint_is_not_guessed_and_the_candidates_are_listed() -> None:
    names = run_with([(1, False), (2, False)], "first")
    storage = JobStorage(bundle("latest"), "second")
    with pytest.raises(StorageError, match=f"Candidates: {names[0]}, {names[1]}"):
        storage.open()


@pytest.mark.usefixtures("store")
def test_a_checkpoint_that_is_asked_for_is_found_and_others_stay_where_they_are() -> None:
    names = run_with([(1, False), (2, False), (3, False)], "first")
    storage = JobStorage(bundle("checkpoint:2"), "second")
    opened, chosen = storage.open()
    assert opened.restore is not None
    assert (opened.restore.checkpoint, [older.checkpoint for older in opened.older], opened.next_checkpoint) == (2, [1], 4)
    assert "restoring checkpoint 2 (asked for)" in chosen
    assert "cannot create if absent" in chosen
    assert storage.about()["fenced"] is False
    added = storage.write_manifest(command(4, False), lambda text: None)
    again = JobStorage(bundle("latest"), "third")
    with pytest.raises(StorageError, match="Candidates") as refusal:
        again.open()
    assert all(name in str(refusal.value) for name in [*names, added])


@pytest.mark.usefixtures("store")
def test_a_number_that_two_clusters_gave_is_settled_by_name() -> None:
    """Neither could be kept out, so both began at 1."""
    first, second = JobStorage(bundle("none"), "first"), JobStorage(bundle("none"), "second")
    for storage in (first, second):
        storage.open()
    names = [storage.write_manifest(command(1, False), lambda text: None) for storage in (first, second)]
    with pytest.raises(RestoreError, match="checkpoint 1 of app was written 2 times"):
        JobStorage(bundle("checkpoint:1"), "third").open()
    opened, _ = JobStorage(bundle(f"checkpoint:{names[0]}"), "third").open()
    assert opened.restore is not None
    assert opened.restore.checkpoint == 1


@pytest.mark.usefixtures("store")
def test_an_older_checkpoint_behind_visible_rows_is_refused() -> None:
    run_with([(1, False), (2, True)], "first")
    with pytest.raises(RestoreError, match="sinks out have committed rows after checkpoint 1"):
        JobStorage(bundle("checkpoint:1"), "second").open()


def test_a_manifest_that_storage_does_not_take_fails_and_the_next_one_is_tried(store: FaultyStore) -> None:
    storage = JobStorage(bundle("none"), "first")
    storage.open()
    lines: list[str] = []
    store.away = True
    with pytest.raises(StorageError):
        storage.write_manifest(command(1, False), lines.append)
    assert len(lines) == 1
    store.away = False
    assert storage.write_manifest(command(2, False), lines.append)
    assert [checkpoint["id"] for checkpoint in storage.checkpoints()] == [2]
