"""Chunks of session state: one row per session, named by its key and its start.

`_kg`, `_op`, the key columns as `_key<i>`, `_start`, `_last`, `_state`, then the words of the accumulators. A row with `_op` 1 says that
the name is no more; in a chunk such rows are replayed before the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from flinkray.errors import RestoreError
from flinkray.operators.restore import KEY_GROUP
from flinkray.state.key_encoding import Keys
from flinkray.state.key_hash import key_groups
from flinkray.state.key_index import KeyIndex
from flinkray.state.sessions import Gone, Sessions

IS, IS_GONE = 0, 1


@dataclass(frozen=True)
class SessionChunks:
    """Encodes and decodes chunks of sessions with these keys and words."""

    key_kinds: tuple[pa.DataType, ...]
    words: tuple[str, ...]
    max_parallelism: int

    @property
    def schema(self) -> pa.Schema:
        keys = [pa.field(f"_key{i}", kind) for i, kind in enumerate(self.key_kinds)]
        numbers = [pa.field(name, pa.int64()) for name in ("_start", "_last", "_state", *self.words)]
        return pa.schema([pa.field(KEY_GROUP, pa.uint16()), pa.field("_op", pa.int8()), *keys, *numbers])

    def encode(self, sessions: Sessions, words: npt.NDArray[np.int64], gone: Sequence[Gone]) -> pa.Table:
        """The chunk; `words[i]` is the i-th word of each session. On an upload thread: what is given is nobody else's."""
        parts = [self._part(IS_GONE, names.keys.hashes, names.keys.columns(), [names.starts]) for names in gone]
        numbers = [sessions.starts, sessions.lasts, sessions.states, *words]
        parts.append(self._part(IS, sessions.keys.hashes, sessions.keys.columns(), numbers))
        table = pa.concat_tables(parts).combine_chunks()
        return table.take(pa.array(np.argsort(table.column(0).to_numpy(), kind="stable")))

    def decode(self, chunk: pa.Table, index: KeyIndex, uid: str) -> list[tuple[Keys, dict[str, npt.NDArray[np.int64]]]]:
        """Names that are gone, and sessions: their keys, and their numbers by column. RestoreError when it is another state."""
        if not chunk.schema.equals(self.schema):
            raise RestoreError(
                f"{uid!r}: its sessions were saved with other keys or aggregates; restore with --restore none, or with the "
                f"job as it was\nsaved:\n{chunk.schema}\nnow:\n{self.schema}"
            )
        gone = chunk.column("_op").to_numpy() == IS_GONE
        return [self._decoded(chunk.filter(pa.array(chosen)), index) for chosen in (gone, ~gone)]

    def _part(self, op: int, hashes: np.ndarray, keys: list[pa.Array], numbers: Sequence[npt.NDArray[np.int64]]) -> pa.Table:
        rows = len(hashes)
        missing = len(self.words) + 3 - len(numbers)
        columns = [*numbers, *[np.zeros(rows, np.int64)] * missing]
        groups = pa.array(key_groups(hashes, self.max_parallelism))
        return pa.table([groups, pa.array(np.full(rows, op, np.int8)), *keys, *map(pa.array, columns)], schema=self.schema)

    def _decoded(self, rows: pa.Table, index: KeyIndex) -> tuple[Keys, dict[str, npt.NDArray[np.int64]]]:
        batches = rows.combine_chunks().to_batches()
        batch = batches[0] if batches else pa.RecordBatch.from_pylist([], rows.schema)
        keys = index.keys(batch, [f"_key{i}" for i in range(len(self.key_kinds))])
        return keys, {name: batch.column(name).to_numpy() for name in ("_start", "_last", "_state", *self.words)}
