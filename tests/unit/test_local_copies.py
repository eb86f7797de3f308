"""What a TaskManager still has of a checkpoint is not read from storage again; what it has not, with few requests."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace

import pyarrow as pa
import pytest

from flinkray.checkpoint import chunk_reader
from flinkray.checkpoint.base import ChunkRef
from flinkray.checkpoint.chunk_reader import ChunkReader
from flinkray.checkpoint.chunk_writer import ObjectBuilder
from flinkray.checkpoint.keys import DataKey
from flinkray.checkpoint.local_copies import LocalCopies
from flinkray.checkpoint.memory_store import MemoryStore
from flinkray.errors import DamagedObjectError
from flinkray.ids import KeyGroupRange

DATA_KEY = DataKey("k", bytes(32))
KEYS = {"k": DATA_KEY}


class CountingStore(MemoryStore):
    def __init__(self) -> None:
        super().__init__(f"test-{os.urandom(8).hex()}")
        self.gets: list[tuple[str, int, int | None]] = []

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        self.gets.append((name, offset, length))
        return super().get(name, offset, length)


def table(number: int) -> pa.Table:
    return pa.table({"_kg": pa.array([number], pa.uint16()), "count": [number]})


def written(store: CountingStore, name: str = "data/x", chunks: int = 3, checkpoint: int = 1) -> ObjectBuilder:
    builder = ObjectBuilder(name, "app/1", DATA_KEY)
    for number in range(chunks):
        builder.add("u", f"s{number}", "keyed", True, checkpoint, KeyGroupRange(0, 128), table(number))
    store.put(name, builder.data())
    return builder


def refs_of(*builders: ObjectBuilder) -> list[ChunkRef]:
    return [ref for builder in builders for ref, _ in builder.chunks]


def at_once(function: Callable[[], bytes]) -> Callable[[], bytes]:
    try:
        result = function()
    except OSError as error:
        raised = error

        def fail() -> bytes:
            raise raised

        return fail
    return lambda: result


def reader(store: CountingStore, copies: LocalCopies) -> ChunkReader:
    return ChunkReader(store, KEYS, copies, at_once)


@pytest.fixture
def store() -> CountingStore:
    return CountingStore()


def test_chunks_of_local_copies_cost_no_request(store: CountingStore) -> None:
    builder, copies = written(store), LocalCopies(1 << 20)
    copies.keep(builder.chunks)
    reading = reader(store, copies)
    reading.expect(refs_of(builder))
    assert [reading.read(ref) for ref in refs_of(builder)] == [table(number) for number in range(3)]
    assert store.gets == []
    assert (reading.memory_bytes, reading.storage_bytes) == (builder.size_bytes, 0)


def test_neighbouring_chunks_are_read_with_one_request_and_kept_for_the_next_time(store: CountingStore) -> None:
    one, other, copies = written(store, "data/x"), written(store, "data/y"), LocalCopies(1 << 20)
    for _ in range(2):
        reading = reader(store, copies)
        reading.expect(refs_of(one, other))
        assert [reading.read(ref) for ref in refs_of(one, other)] == [table(number) for number in (0, 1, 2, 0, 1, 2)]
    assert store.gets == [("data/x", 0, one.size_bytes), ("data/y", 0, other.size_bytes)]


def test_what_is_far_apart_or_large_is_asked_for_by_itself(monkeypatch: pytest.MonkeyPatch, store: CountingStore) -> None:
    refs = refs_of(written(store, chunks=4))
    monkeypatch.setattr(chunk_reader, "GAP_BYTES", 0)
    assert [len(request.refs) for request in chunk_reader.requests([refs[0], refs[2], refs[3]])] == [1, 2]
    monkeypatch.setattr(chunk_reader, "REQUEST_BYTES", 2 * max(ref.sealed_bytes for ref in refs))
    assert [len(request.refs) for request in chunk_reader.requests(refs)] == [2, 2]


def test_what_is_not_read_ahead_is_read_when_it_is_its_turn(monkeypatch: pytest.MonkeyPatch, store: CountingStore) -> None:
    monkeypatch.setattr(chunk_reader, "AHEAD_BYTES", 0)
    builder = written(store)
    reading = reader(store, LocalCopies(0))
    reading.expect(refs_of(builder))
    assert store.gets == []
    assert [reading.read(ref) for ref in refs_of(builder)] == [table(number) for number in range(3)]


def test_a_copy_serves_only_the_very_reference_that_it_was_kept_for(store: CountingStore) -> None:
    builder, copies = written(store), LocalCopies(1 << 20)
    copies.keep(builder.chunks)
    ref = refs_of(builder)[0]
    for other in (replace(ref, checkpoint=2), replace(ref, digest="0" * 64), replace(ref, origin="app/2"), replace(ref, rows=7)):
        with pytest.raises(DamagedObjectError):
            reader(store, copies).read(other)


def test_a_copy_that_has_rotted_in_memory_is_read_from_storage(store: CountingStore) -> None:
    builder, copies = written(store), LocalCopies(1 << 20)
    ref, sealed = builder.chunks[0]
    copies.keep([(ref, sealed[:-1] + bytes([sealed[-1] ^ 1]))])
    assert reader(store, copies).read(ref) == table(0)
    assert store.gets


def test_an_object_that_is_gone_is_named(store: CountingStore) -> None:
    builder = written(store)
    store.delete(["data/x"])
    reading = reader(store, LocalCopies(1 << 20))
    reading.expect(refs_of(builder))
    with pytest.raises(DamagedObjectError, match="data/x"):
        reading.read(refs_of(builder)[0])


def test_a_settled_checkpoint_leaves_what_it_needs_and_what_came_after(store: CountingStore) -> None:
    old, needed, later = (written(store, f"data/{k}", 1, checkpoint=k) for k in (1, 2, 4))
    copies = LocalCopies(1 << 20)
    for builder in (old, needed, later):
        copies.keep(builder.chunks)
    copies.settle(3, refs_of(needed))
    assert [copies.get(ref) is not None for ref in refs_of(old, needed, later)] == [False, True, True]
    assert copies.size_bytes == needed.size_bytes + later.size_bytes


def test_the_budget_is_kept_to_and_free_again_after_settling(store: CountingStore) -> None:
    first, second = written(store, "data/1", 1, checkpoint=1), written(store, "data/2", 1, checkpoint=2)
    copies = LocalCopies(first.size_bytes)
    copies.keep(first.chunks)
    copies.keep(first.chunks)
    copies.keep(second.chunks)
    assert copies.get(refs_of(second)[0]) is None
    copies.settle(2, [])
    copies.keep(second.chunks)
    assert copies.get(refs_of(second)[0]) is not None
    assert copies.size_bytes == second.size_bytes
