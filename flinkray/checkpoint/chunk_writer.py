"""Chunks of state, sealed and packed into one object per subtask and checkpoint; and reading them back."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Literal

import pyarrow as pa

from flinkray.checkpoint.base import ChunkRef, ObjectStore
from flinkray.checkpoint.keys import DataKey
from flinkray.checkpoint.rereads import sound
from flinkray.checkpoint.sealing import Compression, seal, unseal
from flinkray.errors import DamagedObjectError, KeyUnavailableError
from flinkray.ids import KeyGroupRange


class ObjectBuilder:
    """One object in the making. Not thread-safe: an upload thread fills it, puts `data()` as `object_name`, and acknowledges the refs."""

    def __init__(self, object_name: str, origin: str, data_key: DataKey, compress: Compression = "lz4") -> None:
        self.object_name = object_name
        self._compress = compress
        self._origin = origin
        self._data_key = data_key
        self.chunks: list[tuple[ChunkRef, bytes]] = []
        """What is in it, in order: references and sealed bytes."""
        self.size_bytes = 0

    @property
    def empty(self) -> bool:
        return not self.chunks

    def add(
        self,
        uid: str,
        state_name: str,
        kind: Literal["keyed", "list"],
        full: bool,
        checkpoint: int,
        key_groups: KeyGroupRange,
        table: pa.Table,
    ) -> ChunkRef:
        """Seal `table` as the next chunk of the object. The returned reference is what a manifest keeps."""
        raw = _to_ipc(table)
        place = _place(
            self._origin,
            self.object_name,
            self.size_bytes,
            checkpoint,
            uid,
            state_name,
            kind,
            full,
            table.num_rows,
            key_groups.start,
            key_groups.stop,
        )
        sealed = seal(self._data_key.secret, place, raw, self._compress)
        ref = ChunkRef(
            self.object_name,
            self.size_bytes,
            len(sealed),
            raw.size,
            hashlib.sha256(sealed).hexdigest(),
            self._data_key.key_id,
            self._origin,
            checkpoint,
            uid,
            state_name,
            kind,
            full,
            table.num_rows,
            key_groups.start,
            key_groups.stop,
        )
        self.chunks.append((ref, sealed))
        self.size_bytes += len(sealed)
        return ref

    def data(self) -> bytes:
        return b"".join(sealed for _, sealed in self.chunks)


def read_chunk(store: ObjectStore, ref: ChunkRef, data_keys: Mapping[str, DataKey]) -> pa.Table:
    """The table that `ref` refers to, proved to be what was written. Raises DamagedObjectError naming the object (also when it is missing),
    KeyUnavailableError when its data key was not given, StorageError when storage does not answer."""
    return sound(lambda: _read_chunk(store, ref, data_keys))


def _read_chunk(store: ObjectStore, ref: ChunkRef, data_keys: Mapping[str, DataKey]) -> pa.Table:
    try:
        sealed = store.get(ref.object_name, ref.offset, ref.sealed_bytes)
    except FileNotFoundError:
        raise DamagedObjectError(ref.object_name, f"it is missing in {store.uri}") from None
    return open_chunk(ref, sealed, data_keys)


def open_chunk(ref: ChunkRef, sealed: bytes, data_keys: Mapping[str, DataKey]) -> pa.Table:
    """The table in these bytes, wherever they come from, proved to be the ones that `ref` refers to. Raises as `read_chunk` does."""
    data_key = data_keys.get(ref.data_key)
    if data_key is None:
        raise KeyUnavailableError(f"data key {ref.data_key} of object {ref.object_name} was not given")
    if len(sealed) != ref.sealed_bytes:
        raise DamagedObjectError(ref.object_name, f"it is truncated: {len(sealed)} of {ref.sealed_bytes} bytes at {ref.offset}")
    if hashlib.sha256(sealed).hexdigest() != ref.digest:
        raise DamagedObjectError(ref.object_name, f"the bytes at {ref.offset} are not those that the manifest refers to")
    place = _place(
        ref.origin,
        ref.object_name,
        ref.offset,
        ref.checkpoint,
        ref.operator_uid,
        ref.state_name,
        ref.kind,
        ref.full,
        ref.rows,
        ref.key_group_start,
        ref.key_group_stop,
    )
    raw = unseal(data_key.secret, place, sealed, ref.object_name)
    try:
        return pa.ipc.open_stream(pa.py_buffer(raw)).read_all()
    except pa.ArrowException as error:
        raise DamagedObjectError(ref.object_name, f"its content is no Arrow table: {error}") from error


def _place(*facts: str | int) -> bytes:
    """The associated data of a chunk: everything a reference says about it, so that none can pass for another."""
    return json.dumps(["flinkray chunk 1", *facts], separators=(",", ":")).encode()


def _to_ipc(table: pa.Table) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()
