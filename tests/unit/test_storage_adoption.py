"""A new leader goes on with its run's claim in checkpoint storage: earlier leaders are shut out, other runs' checkpoints are not its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

import flinkray as fr
from flinkray.core.job_events import CheckpointContent, JobStatus, Opened, WriteManifest
from flinkray.core.journal_records import AttemptBegun, CheckpointCompleted, Elected, JournalEntry, JournalRecord, StorageClaimed
from flinkray.core.journal_view import JournalView, fold
from flinkray.core.log_records import RecordKind
from flinkray.core.messages import Counters
from flinkray.errors import DamagedObjectError, DeposedError, StorageError
from flinkray.runtime import job_storage
from flinkray.runtime.job_storage import JobStorage
from flinkray.runtime.task_manager import JobBundle
from flinkray.testing.faulty_store import FaultyStore
from tests.unit.checkpoint_fakes import faulty_store


def bundle(restore: str = "latest") -> JobBundle:
    env = fr.StreamEnvironment("app", parallelism=1, runtime="local", checkpointing=fr.Checkpointing(storage="memory://unused", retained=3))
    env.from_source(fr.sources.Nexmark("bid", rows=10), uid="in").sink_to(fr.sinks.Parquet("/nowhere"), uid="out")
    return JobBundle(env.job_graph(), replace(env.config, restore=restore), "app")


@pytest.fixture(params=[True, False], ids=["fenced", "unfenced"])
def any_store(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> FaultyStore:
    return use(faulty_store(conditional_create=request.param), monkeypatch)


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> FaultyStore:
    return use(faulty_store(), monkeypatch)


def use(store: FaultyStore, monkeypatch: pytest.MonkeyPatch) -> FaultyStore:
    monkeypatch.setattr(job_storage, "open_store", lambda *arguments: store)
    monkeypatch.setattr(job_storage, "check_fresh_start", lambda graph: None)
    return store


class Leader:
    """The storage side of one leader, and what it journals."""

    def __init__(self, storage: JobStorage, entries: list[JournalEntry]) -> None:
        self.storage = storage
        self.entries = entries

    @property
    def view(self) -> JournalView:
        return fold(JournalRecord("t", entry) for entry in self.entries)

    def write(self, checkpoint: int, journaled: bool = True) -> None:
        content = CheckpointContent(checkpoint, 1, (), {}, Counters(checkpoint, 0))
        name = self.storage.write_manifest(WriteManifest(content, 0.0, 1.0), lambda text: None)
        if journaled:
            self.entries.append(CheckpointCompleted(checkpoint, name))


def first(restore: str = "none") -> Leader:
    storage = JobStorage(bundle(restore), "first")
    opened, _ = storage.open()
    return Leader(storage, [Elected(1, "jm"), claimed(opened)])


def claimed(opened: Opened) -> StorageClaimed:
    contents = (*((opened.restore,) if opened.restore else ()), *opened.older)
    ids = tuple(content.checkpoint for content in contents)
    return StorageClaimed(opened.claim, opened.hash_seed, opened.data_key, ids, opened.names)


def second(announce: Callable[[str], None] | None = None, restore: str = "none") -> JobStorage:
    return JobStorage(bundle(restore), "second", announce=announce)


@pytest.mark.usefixtures("any_store")
def test_a_new_leader_goes_on_with_the_claim_its_key_and_its_checkpoints() -> None:
    old = first()
    for checkpoint in (1, 2, 3, 4):
        old.write(checkpoint)
    new = second()
    adopted = new.adopt(old.view)
    assert [content.checkpoint for content in adopted.contents] == [4, 3, 2], "as many as are retained"
    assert (adopted.next_checkpoint, adopted.ended) == (5, "")
    assert new.data_keys()[0] == old.storage.data_keys()[0], "the running tasks seal with it"
    successor = Leader(new, list(old.entries))
    successor.write(5)
    assert second().adopt(successor.view).contents[0].checkpoint == 5


@pytest.mark.usefixtures("store")
def test_a_manifest_of_the_deposed_leader_is_refused() -> None:
    old = first()
    old.write(1)
    new = Leader(second(), list(old.entries))
    new.storage.adopt(old.view)
    with pytest.raises(DeposedError):
        old.write(2)
    new.write(2)
    assert [content.checkpoint for content in second().adopt(new.view).contents] == [2, 1]


@pytest.mark.usefixtures("store")
def test_a_manifest_that_stood_before_the_new_leader_looked_is_complete() -> None:
    old = first()
    old.write(1, journaled=False)
    assert [content.checkpoint for content in second().adopt(old.view).contents] == [1]


def test_a_manifest_that_lands_between_the_look_and_the_void_is_complete(store: FaultyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    old = first()
    create, looked = store.create, []

    def faster(name: str, data: bytes) -> object:
        if name.startswith("log/") and not looked:
            looked.append(name)
            old.write(1, journaled=False)
        return create(name, data)

    monkeypatch.setattr(store, "create", faster)
    assert [content.checkpoint for content in second().adopt(old.view).contents] == [1]
    assert looked


def test_a_manifest_that_lands_after_the_void_never_counts(store: FaultyStore) -> None:
    old = first()
    store.next_creates("late", "late")
    old.storage.stop_waiting()
    with pytest.raises(StorageError):
        old.write(1)
    assert second().adopt(old.view).contents == ()
    store.deliver()
    assert second().adopt(old.view).contents == ()


@pytest.mark.usefixtures("any_store")
def test_on_a_store_that_orders_nothing_only_journaled_manifests_count_and_elsewhere_all(any_store: FaultyStore) -> None:
    old = first()
    old.write(1)
    old.write(2, journaled=False)
    newest = second().adopt(old.view).contents[0].checkpoint
    assert newest == (2 if any_store.conditional_create else 1)


@pytest.mark.usefixtures("store")
def test_a_run_that_another_has_claimed_is_lost() -> None:
    old = first()
    old.write(1)
    JobStorage(bundle("latest"), "other").open()
    with pytest.raises(DeposedError, match="claim"):
        second().adopt(old.view)


def test_a_run_whose_end_is_recorded_is_over_and_nothing_is_written_after_it(store: FaultyStore) -> None:
    old = first()
    old.storage.record_end(JobStatus.FINISHED)
    before = store.list("log/")
    assert second().adopt(old.view).ended == "FINISHED"
    assert store.list("log/") == before


@pytest.mark.usefixtures("store")
def test_checkpoints_of_an_earlier_run_that_was_not_restored_are_not_restored_by_a_new_leader() -> None:
    earlier = first()
    earlier.write(1)
    afresh = first("none")
    assert second().adopt(afresh.view).contents == ()


@pytest.mark.usefixtures("any_store")
def test_the_checkpoint_that_a_run_began_with_can_be_restored_by_a_new_leader_and_a_newer_one_that_was_not_chosen_cannot() -> None:
    earlier = first()
    for checkpoint in (1, 2, 3):
        earlier.write(checkpoint)
    asked = first("checkpoint:2")
    adopted = second(restore="checkpoint:2").adopt(asked.view)
    assert [content.checkpoint for content in adopted.contents] == [2, 1]
    assert adopted.next_checkpoint == 4, "but ids go on above all"


@pytest.mark.usefixtures("store")
def test_checkpoints_that_were_passed_over_stay_so() -> None:
    old = first()
    for checkpoint in (1, 2):
        old.write(checkpoint)
    old.entries.append(AttemptBegun(2, ("i",), 1, 1, Counters(), (2,)))
    assert [content.checkpoint for content in second().adopt(old.view).contents] == [1]


def test_an_unreadable_record_of_an_earlier_run_does_not_matter(store: FaultyStore) -> None:
    earlier = first()
    earlier.write(1)
    store.truncate(store.list("log/")[-1], 3)
    afresh = first("none")
    assert second().adopt(afresh.view).contents == ()


def test_an_own_newest_manifest_that_is_damaged_is_told(store: FaultyStore) -> None:
    old = first()
    old.write(1)
    store.flip_byte(store.list("log/")[-1])
    with pytest.raises(DamagedObjectError):
        second().adopt(old.view)


def test_a_new_leader_waits_while_storage_is_away(store: FaultyStore) -> None:
    old = first()
    old.write(1)
    store.away = True
    said: list[str] = []

    def announce(text: str) -> None:
        said.append(text)
        store.away = len(said) < 3

    assert second(announce).adopt(old.view).contents[0].checkpoint == 1
    assert len(said) == 3
    assert "away" in said[0]


def test_a_new_leader_that_is_told_to_stop_waits_no_longer(store: FaultyStore) -> None:
    old = first()
    store.away = True
    new = second()
    new.stop_waiting()
    with pytest.raises(StorageError, match="does not answer the new leader"):
        new.adopt(old.view)


def test_the_void_that_shuts_earlier_leaders_out_is_all_that_is_written(store: FaultyStore) -> None:
    old = first()
    old.write(1)
    before = len(store.list("log/"))
    new = second()
    new.adopt(old.view)
    assert len(store.list("log/")) == before + 1
    assert new._log is not None
    header = new._log.read().entries[0].header
    assert header is not None
    assert (header.kind, header.claim) == (RecordKind.VOID, old.view.claim)
