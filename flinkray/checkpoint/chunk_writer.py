"""Chunks of state, sealed and packed into one object per subtask and checkpoint; and reading them back."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import pyarrow as pa

from flinkray.checkpoint.base import ChunkRef, ObjectStore
from flinkray.checkpoint.keys import DataKey
from flinkray.checkpoint.rereads import sound
from flinkray.checkpoint.sealing import Compression, seal_whole, unseal, unseal_parts
from flinkray.errors import DamagedObjectError, KeyUnavailableError
from flinkray.ids import KeyGroupRange


class ObjectBuilder:
    """One object in the making. Not thread-safe: an upload thread fills it, puts `data()` as `object_name`, and acknowledges the refs."""

    def __init__(
        self,
        object_name: str,
        origin: str,
        data_key: DataKey,
        compress: Compression = "lz4",
        keep: Callable[[bytes | memoryview], bytes | memoryview] | None = None,
    ) -> None:
        """`keep`: where sealed bytes are kept that wait to be stored; as they are if not given."""
        self._keep = keep
        self.object_name = object_name
        self._compress = compress
        self._origin = origin
        self._data_key = data_key
        self.chunks: list[tuple[ChunkRef, bytes | memoryview]] = []
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
        raw_bytes, pieces = _ipc_pieces(table)
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
        sealed = seal_whole(self._data_key.secret, place, raw_bytes, pieces, self._compress)
        ref = ChunkRef(
            self.object_name,
            self.size_bytes,
            len(sealed),
            raw_bytes,
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
        self.chunks.append((ref, sealed if self._keep is None else self._keep(sealed)))
        self.size_bytes += len(sealed)
        return ref

    def parts(self) -> list[bytes | memoryview]:
        """What is put as the object, without another copy of it."""
        return [sealed for _, sealed in self.chunks]

    def data(self) -> bytes:
        return b"".join(self.parts())


LARGE_BYTES = 32 << 20
"""Chunks above this, raw, are never in memory sealed as a whole."""

PIECE_BYTES = 8 << 20
"""Large ones are read in such pieces."""


def read_chunk(store: ObjectStore, ref: ChunkRef, data_keys: Mapping[str, DataKey]) -> pa.Table:
    """The table that `ref` refers to, proved to be what was written. Raises DamagedObjectError naming the object (also when it is missing),
    KeyUnavailableError when its data key was not given, StorageError when storage does not answer."""
    return sound(lambda: _read_chunk(store, ref, data_keys))


def check_chunk(store: ObjectStore, ref: ChunkRef, data_keys: Mapping[str, DataKey]) -> None:
    """Raises as `read_chunk` does. Of a large chunk, every byte is proved to be what was written for just this reference (which says how many rows it has),
    without a table being made of them."""
    if ref.raw_bytes > LARGE_BYTES:
        sound(lambda: _consume(raw_parts(store, ref, data_keys)))
        return
    table = read_chunk(store, ref, data_keys)
    if table.num_rows != ref.rows:
        raise DamagedObjectError(ref.object_name, f"it holds {table.num_rows} rows, the manifest says {ref.rows}")


def raw_parts(store: ObjectStore, ref: ChunkRef, data_keys: Mapping[str, DataKey]) -> Iterator[bytes | memoryview]:
    """What was sealed, in segments, without the whole being in memory; all of it is proved only after the last. Raises as `read_chunk` does."""
    digest, read_bytes = hashlib.sha256(), 0

    def pieces() -> Iterator[bytes]:
        nonlocal read_bytes
        while read_bytes < ref.sealed_bytes:
            try:
                piece = store.get(ref.object_name, ref.offset + read_bytes, min(PIECE_BYTES, ref.sealed_bytes - read_bytes))
            except FileNotFoundError:
                raise DamagedObjectError(ref.object_name, f"it is missing in {store.uri}") from None
            if not piece:
                raise DamagedObjectError(ref.object_name, f"it is truncated: {read_bytes} of {ref.sealed_bytes} bytes at {ref.offset}")
            digest.update(piece)
            read_bytes += len(piece)
            yield piece

    yield from unseal_parts(_secret(ref, data_keys), place_of(ref), ref.sealed_bytes, pieces(), ref.object_name)
    if digest.hexdigest() != ref.digest:
        raise DamagedObjectError(ref.object_name, f"the bytes at {ref.offset} are not those that the manifest refers to")


def _read_chunk(store: ObjectStore, ref: ChunkRef, data_keys: Mapping[str, DataKey]) -> pa.Table:
    if ref.raw_bytes > LARGE_BYTES:
        return _read_large(store, ref, data_keys)
    try:
        sealed = store.get(ref.object_name, ref.offset, ref.sealed_bytes)
    except FileNotFoundError:
        raise DamagedObjectError(ref.object_name, f"it is missing in {store.uri}") from None
    return open_chunk(ref, sealed, data_keys)


def _read_large(store: ObjectStore, ref: ChunkRef, data_keys: Mapping[str, DataKey]) -> pa.Table:
    """Beside the table there is only a piece in memory."""
    raw, filled = pa.allocate_buffer(ref.raw_bytes), 0
    into = memoryview(raw).cast("B")
    for part in raw_parts(store, ref, data_keys):
        if filled + len(part) > ref.raw_bytes:
            raise DamagedObjectError(ref.object_name, f"it holds more than the {ref.raw_bytes} bytes that the manifest says")
        into[filled : filled + len(part)] = part
        filled += len(part)
    return _to_table(raw.slice(0, filled), ref.object_name)


def _consume(parts: Iterator[bytes | memoryview]) -> None:
    for _ in parts:
        pass


def open_chunk(ref: ChunkRef, sealed: bytes | memoryview, data_keys: Mapping[str, DataKey]) -> pa.Table:
    """The table in these bytes, wherever they come from, proved to be the ones that `ref` refers to. Raises as `read_chunk` does."""
    secret = _secret(ref, data_keys)
    if len(sealed) != ref.sealed_bytes:
        raise DamagedObjectError(ref.object_name, f"it is truncated: {len(sealed)} of {ref.sealed_bytes} bytes at {ref.offset}")
    if hashlib.sha256(sealed).hexdigest() != ref.digest:
        raise DamagedObjectError(ref.object_name, f"the bytes at {ref.offset} are not those that the manifest refers to")
    return _to_table(pa.py_buffer(unseal(secret, place_of(ref), sealed, ref.object_name)), ref.object_name)


def _secret(ref: ChunkRef, data_keys: Mapping[str, DataKey]) -> bytes:
    data_key = data_keys.get(ref.data_key)
    if data_key is None:
        raise KeyUnavailableError(f"data key {ref.data_key} of object {ref.object_name} was not given")
    return data_key.secret


def _to_table(raw: pa.Buffer, object_name: str) -> pa.Table:
    try:
        return pa.ipc.open_stream(raw).read_all()
    except pa.ArrowException as error:
        raise DamagedObjectError(object_name, f"its content is no Arrow table: {error}") from error


def place_of(ref: ChunkRef) -> bytes:
    """The associated data of a chunk: everything its reference says of it but for sizes and digest, so that none can pass for another."""
    return _place(
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


def _place(*facts: str | int) -> bytes:
    """The associated data of a chunk, in the order of the format (docs/semantics.md)."""
    return json.dumps(["flinkray chunk 1", *facts], separators=(",", ":")).encode()


class _Pieces(io.RawIOBase):
    """A stream that keeps what is written to it as it is: of a large column, the column's own memory."""

    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[memoryview] = []

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        view = memoryview(data).cast("B")
        self.pieces.append(view)
        return view.nbytes


def _ipc_pieces(table: pa.Table) -> tuple[int, list[memoryview]]:
    """(bytes in all, the pieces) of the table as an Arrow IPC stream, good as long as the table."""
    stream = _Pieces()
    with pa.PythonFile(stream, "w") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sum(piece.nbytes for piece in stream.pieces), stream.pieces
