"""The chunks of a restore: from memory where a local copy is there, else from storage, neighbours with one request and several at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial

import pyarrow as pa

from flinkray.checkpoint.base import ChunkRef, ObjectStore
from flinkray.checkpoint.chunk_writer import open_chunk, read_chunk
from flinkray.checkpoint.keys import DataKey
from flinkray.checkpoint.local_copies import LocalCopies
from flinkray.errors import DamagedObjectError, StorageError

GAP_BYTES = 256 << 10
"""Bytes between two chunks of an object that are read with them, rather than asking twice."""

REQUEST_BYTES = 8 << 20
"""Chunks are read with one request up to that size; a larger one by itself."""

AHEAD_BYTES = 256 << 20
"""Sealed bytes that are read ahead at most; what is above is read when it is its turn."""

Start = Callable[[Callable[[], bytes]], Callable[[], bytes]]
"""Runs a function beside the caller; what it returns gives the function's result, or raises its error."""


@dataclass
class _Request:
    """Neighbouring chunks of one object."""

    object_name: str
    start: int
    stop: int
    refs: list[ChunkRef] = field(default_factory=list)

    def takes(self, ref: ChunkRef) -> bool:
        near = ref.object_name == self.object_name and ref.offset - self.stop <= GAP_BYTES
        return near and ref.offset + ref.sealed_bytes - self.start <= REQUEST_BYTES

    def add(self, ref: ChunkRef) -> None:
        self.stop = max(self.stop, ref.offset + ref.sealed_bytes)
        self.refs.append(ref)


class ChunkReader:
    """Used by one thread, for one deployment."""

    def __init__(
        self, store: ObjectStore | None, data_keys: Mapping[str, DataKey], copies: LocalCopies, start: Start, ahead_bytes: int | None = None
    ) -> None:
        """`store` None: of a job without storage, which has no chunks. `ahead_bytes`: sealed bytes that are read ahead at most, `AHEAD_BYTES` if not given."""
        self._ahead_bytes = ahead_bytes
        self._store, self._data_keys, self._copies, self._start = store, data_keys, copies, start
        self._ahead: dict[ChunkRef, tuple[Callable[[], bytes], int]] = {}
        """What was asked for already: the answer, and where in it the chunk begins."""
        self.memory_bytes = 0
        """Sealed bytes that local copies gave."""
        self.storage_bytes = 0

    def expect(self, refs: Iterable[ChunkRef]) -> None:
        """Ask for what will be read and is not in memory."""
        lacking = {ref for ref in refs if self._copies.get(ref) is None}
        left_bytes = AHEAD_BYTES if self._ahead_bytes is None else self._ahead_bytes
        for request in requests(lacking):
            left_bytes -= request.stop - request.start
            if left_bytes < 0:
                return
            answer = self._start(partial(self._get, request))
            for ref in request.refs:
                self._ahead[ref] = (answer, ref.offset - request.start)

    def read(self, ref: ChunkRef) -> pa.Table:
        """The table that `ref` refers to. Raises as `read_chunk` does."""
        sealed = self._copies.get(ref)
        if sealed is not None and (table := self._opened(ref, sealed)) is not None:
            self.memory_bytes += len(sealed)
            return table
        self.storage_bytes += ref.sealed_bytes
        sealed = self._read_ahead(ref)
        if sealed is not None and (table := self._opened(ref, sealed)) is not None:
            self._copies.keep([(ref, sealed)])
            return table
        assert self._store is not None
        return read_chunk(self._store, ref, self._data_keys)

    def _get(self, request: _Request) -> bytes:
        assert self._store is not None
        return self._store.get(request.object_name, request.start, request.stop - request.start)

    def _read_ahead(self, ref: ChunkRef) -> bytes | None:
        """None where nothing was, or it failed: reading by itself tells why."""
        if ref not in self._ahead:
            return None
        answer, start = self._ahead.pop(ref)
        try:
            return answer()[start : start + ref.sealed_bytes]
        except (StorageError, OSError):
            return None

    def _opened(self, ref: ChunkRef, sealed: bytes | memoryview) -> pa.Table | None:
        """None for bytes that are not those of the reference: read again, they may be."""
        try:
            return open_chunk(ref, sealed, self._data_keys)
        except DamagedObjectError:
            return None


def requests(refs: Iterable[ChunkRef]) -> list[_Request]:
    """The fewest requests, each within the limits, that read all of these."""
    found: list[_Request] = []
    for ref in sorted(refs, key=lambda ref: (ref.object_name, ref.offset)):
        if not found or not found[-1].takes(ref):
            found.append(_Request(ref.object_name, ref.offset, ref.offset))
        found[-1].add(ref)
    return found
