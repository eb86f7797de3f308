"""State that can be read: a manifest, and where its objects and keys lie."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import pyarrow as pa

from flinkray.checkpoint.base import ObjectStore
from flinkray.checkpoint.chunk_writer import read_chunk
from flinkray.checkpoint.keys import DataKeyLostError, KeyRing
from flinkray.checkpoint.manifest import Manifest
from flinkray.checkpoint.verify import Problem, verify
from flinkray.core.messages import StateRef
from flinkray.ids import KeyGroupRange


@dataclass(frozen=True)
class StateSource:
    """Of a checkpoint or of a savepoint."""

    manifest: Manifest
    store: ObjectStore
    ring: KeyRing

    def chains(self, states: Iterable[StateRef], key_group: int | None = None) -> list[tuple[int, tuple[pa.Table, ...]]]:
        """Subtask and chunks, in replay order, of each of these states; of keyed ones only what can hold `key_group`, where it is given.
        Raises DamagedObjectError, KeyUnavailableError, StorageError."""
        found = []
        for state in states:
            groups = KeyGroupRange(state.key_group_start, state.key_group_stop)
            if state.chunks and (key_group is None or state.kind == "list" or key_group in groups):
                keys = self.ring.get_all({chunk.data_key for chunk in state.chunks})
                found.append((state.subtask, tuple(read_chunk(self.store, chunk, keys) for chunk in state.chunks)))
        return found

    def problems(self) -> list[Problem]:
        """What is wrong with it, every byte read back; empty when it can be restored."""
        lost = []
        for data_key in sorted(self.manifest.data_keys):
            try:
                self.ring.get(data_key)
            except DataKeyLostError as error:
                lost.append(Problem(f"keys/{data_key}", str(error)))
        return lost or verify(self.store, self.manifest, self.ring.get_all(self.manifest.data_keys))
