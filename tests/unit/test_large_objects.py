"""Large chunks go through memory in pieces: verified, copied, put into a savepoint and restored. What a store is asked for at once is counted."""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from flinkray.checkpoint import chunk_writer, repack, sealing
from flinkray.checkpoint.base import ChunkRef
from flinkray.checkpoint.chunk_writer import ObjectBuilder, check_chunk, raw_parts, read_chunk
from flinkray.checkpoint.file_store import FileStore
from flinkray.checkpoint.keys import DataKey
from flinkray.checkpoint.repack import Target
from flinkray.checkpoint.s3_store import _regrouped
from flinkray.checkpoint.savepoints import _pieces
from flinkray.checkpoint.sealing import SEGMENT_BYTES, Compression, seal_parts, seal_whole, unseal, unseal_parts
from flinkray.checkpoint.state_source import StateSource
from flinkray.core.messages import StateRef
from flinkray.errors import DamagedObjectError
from flinkray.ids import KeyGroupRange
from flinkray.regions import Region
from tests.unit.checkpoint_fakes import manifest_of

DATA_KEY = DataKey("c1-00", bytes(range(32)))
KEYS = {DATA_KEY.key_id: DATA_KEY}
PIECE = 1 << 20
LARGE = 2 << 20
RAW = 24 << 20


class CountingStore(FileStore):
    """How many bytes at most were asked for, or given, at once."""

    def __init__(self, folder: Path) -> None:
        super().__init__(str(folder))
        self.most_read = self.most_written = 0

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        data = super().get(name, offset, length)
        self.most_read = max(self.most_read, len(data))
        return data

    def put_parts(self, name: str, parts: Iterable[bytes | memoryview]) -> None:
        def counted() -> Iterator[bytes | memoryview]:
            for part in parts:
                self.most_written = max(self.most_written, len(part))
                yield part

        super().put_parts(name, counted())


@pytest.fixture(autouse=True)
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that some megabytes are large."""
    for module in (chunk_writer, repack):
        monkeypatch.setattr(module, "LARGE_BYTES", LARGE)
    monkeypatch.setattr(chunk_writer, "PIECE_BYTES", PIECE)
    monkeypatch.setattr("flinkray.checkpoint.savepoints.PIECE_BYTES", PIECE)


@pytest.fixture
def store(tmp_path: Path) -> CountingStore:
    return CountingStore(tmp_path / "store")


def put_large(store: CountingStore) -> tuple[ChunkRef, pa.Table]:
    rows = RAW // 16
    table = pa.table({"_key_group": np.zeros(rows, np.int64), "value": np.random.default_rng(1).integers(0, 1 << 62, rows)})
    builder = ObjectBuilder("data/large", "app/1", DATA_KEY)
    ref = builder.add("totals", "rows", "keyed", True, 1, KeyGroupRange(0, 128), table)
    store.put_parts(builder.object_name, builder.parts())
    store.most_read = store.most_written = 0
    return ref, table


def python_peak(work: Callable[[], Any]) -> int:
    """Bytes that Python objects held at most at once, beside what was there before: pieces and segments are such."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        work()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


def test_a_large_chunk_is_verified_in_pieces(store: CountingStore) -> None:
    ref, _ = put_large(store)
    assert python_peak(lambda: check_chunk(store, ref, KEYS)) < 8 * PIECE
    assert store.most_read == PIECE


def test_a_large_chunk_is_restored_with_a_piece_beside_the_table(store: CountingStore) -> None:
    ref, table = put_large(store)
    found: list[pa.Table] = []
    assert python_peak(lambda: found.append(read_chunk(store, ref, KEYS))) < 8 * PIECE
    assert found[0].equals(table)
    assert store.most_read == PIECE


def test_a_copy_of_a_large_object_is_made_in_pieces(store: CountingStore, tmp_path: Path) -> None:
    put_large(store)
    target = CountingStore(tmp_path / "target")
    assert python_peak(lambda: target.put_parts("copied", _pieces(store, "data/large"))) < 8 * PIECE
    assert target.get("copied") == store.get("data/large")
    assert target.most_written == PIECE


def test_a_large_chunk_goes_into_a_savepoint_in_pieces_and_reads_back(store: CountingStore, tmp_path: Path) -> None:
    ref, table = put_large(store)
    target_store = CountingStore(tmp_path / "target")
    source = _source(store, ref)
    target = Target(target_store, DATA_KEY, "app/2", 7, lambda number: f"data/{number}", "zstd")
    moved: list[tuple[StateRef, ...]] = []
    assert python_peak(lambda: moved.append(repack.repack(source, target))) < 8 * PIECE
    ((state,),) = moved
    (chunk,) = state.chunks
    assert (chunk.origin, chunk.checkpoint, chunk.offset, chunk.rows) == ("app/2", 7, 0, table.num_rows)
    assert target_store.most_written <= SEGMENT_BYTES + 16
    assert read_chunk(target_store, chunk, KEYS).equals(table)


class _Ring:
    def get_all(self, _: Any) -> Any:
        return KEYS


def _source(store: CountingStore, ref: ChunkRef) -> StateSource:
    return StateSource(manifest_of(1, 1, (ref,)), store, _Ring())  # type: ignore[arg-type]


@pytest.mark.parametrize("at", [40, RAW // 2, -1])
def test_damage_to_a_large_chunk_is_found_and_nothing_is_put(at: int, store: CountingStore, tmp_path: Path) -> None:
    ref, _ = put_large(store)
    data = bytearray(store.get(ref.object_name))
    data[at] ^= 1
    store.put(ref.object_name, bytes(data))
    for read in (check_chunk, read_chunk):
        with pytest.raises(DamagedObjectError, match="data/large"):
            read(store, ref, KEYS)
    target = CountingStore(tmp_path / "target")
    with pytest.raises(DamagedObjectError, match="data/large"):
        repack.repack(_source(store, ref), Target(target, DATA_KEY, "app/2", 7, lambda number: f"data/{number}"))
    assert target.list("") == []
    assert list((tmp_path / "target" / ".tmp").iterdir()) == [], "nor is litter left"


def test_a_large_chunk_that_is_cut_off_or_missing_or_not_what_the_manifest_says(store: CountingStore) -> None:
    ref, _ = put_large(store)
    other = replace(ref, digest="0" * 64)
    with pytest.raises(DamagedObjectError, match="not those that the manifest refers to"):
        check_chunk(store, other, KEYS)
    with pytest.raises(DamagedObjectError, match="not authentic"):
        check_chunk(store, replace(ref, rows=ref.rows + 1), KEYS)
    with pytest.raises(DamagedObjectError, match="more than the"):
        read_chunk(store, replace(ref, raw_bytes=ref.raw_bytes - 8), KEYS)
    store.put(ref.object_name, store.get(ref.object_name)[:-5])
    with pytest.raises(DamagedObjectError, match="truncated"):
        check_chunk(store, ref, KEYS)
    store.delete([ref.object_name])
    with pytest.raises(DamagedObjectError, match="missing"):
        list(raw_parts(store, ref, KEYS))


@pytest.mark.parametrize("size", [0, 1, SEGMENT_BYTES - 1, SEGMENT_BYTES, SEGMENT_BYTES + 1, 3 * SEGMENT_BYTES + 17])
def test_pieces_of_any_size_seal_and_unseal_alike(size: int) -> None:
    raw, secret = bytes(range(256)) * (size // 256 + 1), DATA_KEY.secret
    raw = raw[:size]
    for piece in (700_001, 3 * SEGMENT_BYTES):
        sealed = b"".join(seal_parts(secret, b"place", size, _cut(raw, piece)))
        assert unseal(secret, b"place", sealed, "object") == raw
        assert b"".join(unseal_parts(secret, b"place", len(sealed), _cut(sealed, piece), "object")) == raw
    with pytest.raises(ValueError, match="announced"):
        list(seal_parts(secret, b"place", size + 1, [raw]))


@pytest.mark.parametrize("compress", ["lz4", "zstd", None])
@pytest.mark.parametrize("packs", [True, False])
def test_a_large_object_is_sealed_where_it_stays(compress: Compression | None, packs: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealing, "LARGE_BYTES", SEGMENT_BYTES)
    size, secret = 3 * SEGMENT_BYTES + 17, DATA_KEY.secret
    raw = (b"as before" * size)[:size] if packs else os.urandom(size)
    sealed = seal_whole(secret, b"place", size, _cut(raw, 700_001), compress)
    assert isinstance(sealed, memoryview)
    assert sealed.readonly
    assert (len(sealed) < size) == (packs and compress is not None)
    assert unseal(secret, b"place", sealed, "object") == raw
    with pytest.raises(ValueError, match="announced"):
        seal_whole(secret, b"place", size + 1, [raw])
    monkeypatch.setattr(Region, "of_bytes", lambda size_bytes: None)
    assert unseal(secret, b"place", seal_whole(secret, b"place", size, [raw], compress), "object") == raw


def _cut(data: bytes, size: int) -> Iterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


def test_parts_of_an_upload_have_one_size_but_for_the_last() -> None:
    assert [len(part) for part in _regrouped([b"a" * 5, b"", memoryview(b"b" * 12), b"c"], 4)] == [4, 4, 4, 4, 2]
    assert list(_regrouped([], 4)) == []


def test_an_error_of_the_parts_leaves_nothing_at_the_name(store: CountingStore) -> None:
    def parts() -> Iterator[bytes]:
        yield b"some"
        raise DamagedObjectError("source", "it is damaged")

    with pytest.raises(DamagedObjectError):
        store.put_parts("target", parts())
    assert not store.exists("target")
