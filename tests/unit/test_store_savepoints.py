"""Savepoints in storage: names taken once, never READY and not restorable, whatever is cut off or comes late."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import pytest
from checkpoint_fakes import TABLE, faulty_store, manifest_of, provider, put_chunk

from flinkray.checkpoint.keys import DataKey, KeyRing
from flinkray.checkpoint.memory_store import MemoryStore
from flinkray.checkpoint.repack import Target, repack
from flinkray.checkpoint.savepoint_format import SavepointFacts
from flinkray.checkpoint.savepoints import Creation, Savepoints, SavepointState
from flinkray.checkpoint.state_source import StateSource
from flinkray.core.checkpoints import CheckpointCoordinator, CheckpointPolicy
from flinkray.errors import DamagedObjectError, FlinkrayError, RestoreError, StorageError, UsageError
from flinkray.testing.faulty_store import FaultyStore

FACTS = SavepointFacts(3, 1, "f00d", "c0de", "0.1.0")


def savepoints(store: FaultyStore, application: str = "app") -> Savepoints:
    return Savepoints(store, application, provider)


def source(store: FaultyStore) -> StateSource:
    """A complete checkpoint with a chain of two chunks."""
    ring = KeyRing(store, provider())
    data_key = ring.create(1)
    return StateSource(manifest_of(1, 3, (put_chunk(store, data_key, 1, 2), put_chunk(store, data_key, 1, 3))), store, ring)


def write(into: Savepoints, creation: Creation, found: StateSource) -> None:
    data_key = into.new_key(creation)
    states = repack(found, Target(creation.store, data_key, "app/1", 3, creation.object_namer(1, 3, 1)))
    into.complete(creation, replace(found.manifest, states=states, transactions={}), data_key, FACTS)


def make(into: Savepoints, name: str, found: StateSource) -> None:
    write(into, into.begin(name), found)


def test_what_was_copied_reads_back_as_it_was_and_needs_nothing_of_the_checkpoint() -> None:
    store = faulty_store()
    named, found = savepoints(store), source(store)
    make(named, "one", found)
    store.delete([name for name in store.list("") if not name.startswith("savepoints/")])
    header, copy = named.read("one")
    assert header.facts == FACTS
    assert copy.problems() == []
    ((_, tables),) = copy.chains(copy.manifest.states)
    assert [table.equals(TABLE) for table in tables] == [True, True]


def test_a_name_is_taken_from_the_moment_its_creation_begins() -> None:
    named = savepoints(faulty_store())
    named.begin("one")
    assert named.describe("one").state is SavepointState.CREATING
    with pytest.raises(UsageError, match=r"'one' of app exists already \(CREATING\)"):
        named.begin("one")


def test_one_that_failed_says_why_until_it_is_deleted() -> None:
    store = faulty_store()
    named = savepoints(store)
    creation = named.begin("one")
    creation.store.put("data/c1-k1-a1-ab12-0", b"half")
    named.fail(creation, "the disk is full")
    assert (named.describe("one").state, named.describe("one").reason) == (SavepointState.FAILED, "the disk is full")
    with pytest.raises(RestoreError, match="is FAILED: the disk is full"):
        named.read("one")
    with pytest.raises(UsageError, match=r"exists already \(FAILED\).*flinkray savepoint delete app one"):
        named.begin("one")
    named.delete("one")
    assert store.list("savepoints/") == []
    named.begin("one")


def test_a_manifest_that_lands_after_the_failure_was_noted_changes_nothing() -> None:
    store = faulty_store()
    named, found = savepoints(store), source(store)
    creation = named.begin("one")
    named.fail(creation, "no answer")
    with pytest.raises(RestoreError, match="is FAILED: no answer"):
        write(named, creation, found)
    assert [name for name in store.list("savepoints/") if "/data/" in name or "/keys/" in name] == []


def test_a_failure_that_comes_after_the_manifest_changes_nothing() -> None:
    store = faulty_store()
    named, found = savepoints(store), source(store)
    creation = named.begin("one")
    write(named, creation, found)
    named.fail(creation, "a leader that was frozen gives up")
    assert named.read("one")[1].problems() == []


def test_a_new_leader_goes_on_with_what_was_begun_for_the_same_request_and_one_of_both_makes_it() -> None:
    store = faulty_store()
    named, found = savepoints(store), source(store)
    frozen = named.begin("one", request="r")
    with pytest.raises(UsageError, match="exists already"):
        named.begin("one", request="another")
    named.fail_abandoned(keep=["r"])
    again = named.begin("one", request="r")
    assert (again.token, again.ready) == (frozen.token, False)
    write(named, again, found)
    assert named.begin("one", request="r").ready
    before = store.list("savepoints/")
    write(named, frozen, found)
    assert store.list("savepoints/") == before, "the second writer has taken its own objects away"
    assert named.read("one")[1].problems() == []


def test_a_frozen_writer_cannot_make_a_deleted_savepoint_ready_nor_one_that_took_its_name() -> None:
    store = faulty_store()
    named, found = savepoints(store), source(store)
    frozen = named.begin("one")
    named.delete("one")
    make(named, "one", found)
    with pytest.raises(RestoreError, match="deleted while it was being made"):
        write(named, frozen, found)
    assert named.read("one")[1].problems() == []
    frozen.store.put("data/c1-k9-a1-ab12-0", b"later still")
    named.delete("one")
    assert store.list("savepoints/") == []


def test_whoever_takes_the_application_over_fails_what_earlier_leaders_were_making_and_no_copies() -> None:
    named = savepoints(faulty_store())
    named.begin("of-a-leader")
    named.begin("a-copy", by_run=False)
    named.fail_abandoned()
    assert {info.name: info.state for info in named.list()} == {"a-copy": SavepointState.CREATING, "of-a-leader": SavepointState.FAILED}


@pytest.mark.parametrize("step", range(12))
def test_cut_off_at_any_write_it_is_ready_and_whole_or_not_ready(step: int) -> None:
    """The writer dies at its n-th call that changes storage, during creation or deletion; another process looks."""
    for action in ("create", "delete"):
        inner = faulty_store()
        found, named = source(inner), savepoints(inner)
        if action == "delete":
            make(named, "one", found)
        dying = Savepoints(_Dying(inner, step), "app", provider)
        with contextlib.suppress(_DiedError, FlinkrayError):
            make(dying, "one", found) if action == "create" else dying.delete("one")
        for info in named.list():
            if info.state is SavepointState.READY:
                assert named.read("one")[1].problems() == []
        if inner.list("savepoints/"):
            named.delete("one")
        assert inner.list("savepoints/") == []


class _DiedError(Exception):
    pass


class _Dying(FaultyStore):
    """Goes away for good at the n-th call that changes something."""

    def __init__(self, inner: FaultyStore, calls: int) -> None:
        super().__init__(inner, True)
        self._left = calls

    def _change(self) -> None:
        if self._left <= 0:
            raise _DiedError
        self._left -= 1

    def put(self, name, data):  # type: ignore[no-untyped-def]
        self._change()
        super().put(name, data)

    def create(self, name, data):  # type: ignore[no-untyped-def]
        self._change()
        return super().create(name, data)

    def delete(self, names):  # type: ignore[no-untyped-def]
        for name in names:  # one by one: a store may die in the middle of many
            self._change()
            super().delete([name])


def test_a_copy_of_a_damaged_savepoint_is_failed_and_says_what_is_damaged() -> None:
    store = faulty_store()
    named, target = savepoints(store), savepoints(faulty_store(), "other")
    make(named, "one", source(store))
    (victim,) = (name for name in store.list("savepoints/") if "/data/" in name)
    store.put(victim, store.get(victim)[:-1])
    with pytest.raises(DamagedObjectError, match="truncated"):
        named.copy("one", target, "one")
    assert target.describe("one").state is SavepointState.FAILED


def test_a_savepoint_moved_to_another_name_or_application_is_refused() -> None:
    store = faulty_store()
    named = savepoints(store)
    make(named, "one", source(store))
    with pytest.raises(RestoreError, match="belongs to application 'app', not to 'other'"):
        savepoints(store, "other").read("one")
    for name in store.list("savepoints/one/"):
        data = store.get(name)
        store.put(name.replace("/one/", "/two/"), data.replace(b'"name": "one"', b'"name": "two"') if name.endswith("/intent") else data)
    with pytest.raises(DamagedObjectError, match="it is savepoint 'one', moved"):
        named.read("two")


def test_storage_that_cannot_create_if_absent_has_no_savepoints() -> None:
    with pytest.raises(StorageError, match="cannot create if absent"):
        savepoints(faulty_store(conditional_create=False)).begin("one")


def test_a_wanted_checkpoint_is_due_at_once_and_after_a_failure_not_at_once_again() -> None:
    coordinator = CheckpointCoordinator(CheckpointPolicy(None, 0.5, 600.0, True), 1, 1)
    assert not coordinator.due(0.0, all_ended=False)
    assert coordinator.due(0.0, all_ended=False, wanted=True)
    coordinator.begin(1, 0.0, final=False)
    coordinator.give_up(1.0)
    assert not coordinator.due(1.05, all_ended=False, wanted=True)
    assert coordinator.due(1.5, all_ended=False, wanted=True)


def test_a_data_key_of_another_storage_is_wrapped_by_this_ones_key() -> None:
    store, key = MemoryStore("adds-a-key"), DataKey("c1-ab", bytes(32))
    KeyRing(store, provider()).add(key)
    assert KeyRing(store, provider()).get("c1-ab") == key
