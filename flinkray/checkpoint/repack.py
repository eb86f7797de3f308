"""State taken from one place to another, sealed anew under the other's key: into a savepoint, and out of one.

Every chunk is proved on the way (digest, seal, place), so that what arrives is what was written; nothing that arrives refers to where it came
from. Only as much is in memory as an object needs; a large chunk goes through in pieces, into an object of its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial

from flinkray.checkpoint.base import ChunkRef, ObjectStore
from flinkray.checkpoint.chunk_writer import LARGE_BYTES, ObjectBuilder, place_of, raw_parts, read_chunk
from flinkray.checkpoint.keys import DataKey
from flinkray.checkpoint.manifest import Manifest
from flinkray.checkpoint.rereads import sound
from flinkray.checkpoint.sealing import Compression, seal_parts
from flinkray.checkpoint.state_source import StateSource
from flinkray.core.messages import StateRef
from flinkray.errors import DamagedObjectError
from flinkray.ids import KeyGroupRange

OBJECT_BYTES = 64 << 20
"""An object is put when it has grown to this."""

_SINK, _TRANSACTIONS = "sink", "transactions"
"""State of sinks that a savepoint carries none of (rule 21)."""


@dataclass(frozen=True)
class Target:
    """Where state goes, and what it is sealed with."""

    store: ObjectStore
    data_key: DataKey
    origin: str
    checkpoint: int
    object_name: Callable[[int], str]
    """Of the n-th object, counted from 0."""
    compress: Compression = "lz4"


def repack(source: StateSource, target: Target) -> tuple[StateRef, ...]:
    """The states of a manifest as they stand in `target` afterwards; transactions of sinks stay behind. Raises DamagedObjectError,
    KeyUnavailableError, StorageError."""
    packer = _Packer(target)
    keys = source.ring.get_all(source.manifest.data_keys)
    states = []
    for state in source.manifest.states:
        without_rows = carries_transactions(source.manifest, state)
        chunks = []
        for chunk in state.chunks:
            if chunk.raw_bytes > LARGE_BYTES and not without_rows:
                chunks.append(sound(partial(packer.stream, source.store, chunk, keys)))
                continue
            table = read_chunk(source.store, chunk, keys)
            groups = KeyGroupRange(chunk.key_group_start, chunk.key_group_stop)
            kept = table.slice(0, 0) if without_rows else table
            builder = packer.builder()
            chunks.append(builder.add(state.uid, state.name, state.kind, chunk.full, target.checkpoint, groups, kept))
        states.append(replace(state, chunks=tuple(chunks)))
    packer.flush()
    return tuple(states)


def carries_transactions(manifest: Manifest, state: StateRef) -> bool:
    return manifest.operators.get(state.uid) == _SINK and state.name == _TRANSACTIONS


def sealed_bytes(states: tuple[StateRef, ...]) -> int:
    chunks: list[ChunkRef] = [chunk for state in states for chunk in state.chunks]
    return sum(chunk.sealed_bytes for chunk in chunks)


class _Packer:
    """Puts an object whenever it is large enough."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._count = 0
        self._open: ObjectBuilder | None = None

    def builder(self) -> ObjectBuilder:
        if self._open is not None and self._open.size_bytes >= OBJECT_BYTES:
            self.flush()
        if self._open is None:
            self._open = ObjectBuilder(
                self._target.object_name(self._count), self._target.origin, self._target.data_key, self._target.compress
            )
            self._count += 1
        return self._open

    def stream(self, store: ObjectStore, chunk: ChunkRef, keys: Mapping[str, DataKey]) -> ChunkRef:
        """The chunk as an object of its own. Raises as `read_chunk` does; then nothing was put."""
        target, name = self._target, self._target.object_name(self._count)
        self._count += 1
        key_id, secret = target.data_key.key_id, target.data_key.secret
        moved = replace(chunk, object_name=name, offset=0, data_key=key_id, origin=target.origin, checkpoint=target.checkpoint)
        digest, size = hashlib.sha256(), 0

        def sealed() -> Iterator[bytes]:
            nonlocal size
            raw = raw_parts(store, chunk, keys)
            for part in seal_parts(secret, place_of(moved), chunk.raw_bytes, raw, target.compress):
                digest.update(part)
                size += len(part)
                yield part
            if next(raw, None) is not None:  # to its end: only there the whole is proved
                raise DamagedObjectError(chunk.object_name, f"it holds more than the {chunk.raw_bytes} bytes that the manifest says")

        target.store.put_parts(name, sealed())
        return replace(moved, sealed_bytes=size, digest=digest.hexdigest())

    def flush(self) -> None:
        if self._open is not None and not self._open.empty:
            self._target.store.put_parts(self._open.object_name, self._open.parts())
        self._open = None
