"""How named state finds its way back to subtasks, at any parallelism. Used by the runtime and by the test harness.

A snapshot of one subtask is a `StateChain` per named state: a full chunk and the deltas after it. On a restore each new
subtask gets, of every origin's chain, the rows of its own key groups (keyed state) or all rows (list state).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa

from flinkray.columns import MAX_WATERMARK, MIN_WATERMARK
from flinkray.errors import RestoreError
from flinkray.ids import KeyGroupRange
from flinkray.operators.base import RestoredState, StateCapture, StateKind
from flinkray.state.arrow_memory import TablesOnDemand

KEY_GROUP = "_kg"
"""uint16, first column of every keyed chunk, ascending: the key group of the row."""


@dataclass(frozen=True)
class StateChain:
    """One named state as one subtask wrote it: its chunks in replay order, the full one first."""

    name: str
    kind: StateKind
    subtask: int
    """The subtask that wrote it."""
    key_groups: KeyGroupRange
    """The key groups of that subtask: a keyed chain that overlaps none of one's own need not be read."""
    tables: Sequence[pa.Table]


@dataclass(frozen=True)
class TableCapture(StateCapture):
    """A capture whose chunk is made by a function, called once on the upload thread. `make_parts`: how it is made in parts, where it can be."""

    name: str
    kind: StateKind
    full: bool
    make: Callable[[], pa.Table | None]
    make_parts: Callable[[], Iterator[pa.Table]] | None = None

    def encode(self) -> pa.Table | None:
        return self.make()

    def encode_parts(self) -> Iterator[pa.Table]:
        return super().encode_parts() if self.make_parts is None else self.make_parts()


def cut_to_key_groups(chunk: pa.Table, key_groups: KeyGroupRange) -> pa.Table:
    """The rows of a keyed chunk that lie in `key_groups`, without a copy. RestoreError when it is no keyed chunk."""
    if chunk.num_columns == 0 or chunk.schema.field(0).name != KEY_GROUP:
        raise RestoreError(f"a keyed chunk has no leading column {KEY_GROUP!r}; its columns are {chunk.column_names}")
    groups = chunk.column(0).to_numpy()
    first, last = np.searchsorted(groups, [key_groups.start, key_groups.stop])
    return chunk.slice(int(first), int(last - first))


def restored_states(chains: Iterable[StateChain], key_groups: KeyGroupRange, subtask: int) -> list[RestoredState]:
    """What the new `subtask` with `key_groups` gets of the chains of all origin subtasks, one `RestoredState` per name.

    Keyed: chains that overlap `key_groups`, cut to them, in order of origin. `continues` is True when the only one is
    the subtask's own and its key groups have not changed: a later delta may then go on top of that chain.
    List: all chains, in order of origin, the same for every subtask; each picks its share, and `continues` is False.
    Raises RestoreError when a name is keyed in one chain and a list in another.
    """
    by_name: dict[str, list[StateChain]] = {}
    for chain in sorted(chains, key=lambda chain: chain.subtask):
        by_name.setdefault(chain.name, []).append(chain)
    return [_restored_state(name, origins, key_groups, subtask) for name, origins in by_name.items()]


def _restored_state(name: str, origins: list[StateChain], key_groups: KeyGroupRange, subtask: int) -> RestoredState:
    kind = origins[0].kind
    if any(chain.kind != kind for chain in origins):
        raise RestoreError(f"state {name!r} is keyed in one chunk and a list in another; the checkpoint is damaged")
    if kind == "list":
        return RestoredState(name, kind, tuple(chain.tables for chain in origins))
    needed = [chain for chain in origins if chain.key_groups.overlaps(key_groups)]
    own = len(needed) == 1 and needed[0].subtask == subtask and needed[0].key_groups == key_groups
    cut = tuple(_cut(chain.tables, key_groups) for chain in needed)
    return RestoredState(name, kind, cut, continues=own)


def _cut(tables: Sequence[pa.Table], key_groups: KeyGroupRange) -> Sequence[pa.Table]:
    if isinstance(tables, TablesOnDemand):
        return tables.each(partial(cut_to_key_groups, key_groups=key_groups))
    return tuple(cut_to_key_groups(table, key_groups) for table in tables)


WATERMARK = "watermark"
"""List state of operators that know late rows by the watermark: it goes on from where the snapshot was."""


def capture_watermark(watermark_us: int) -> TableCapture:
    table = pa.table({WATERMARK: pa.array([watermark_us], pa.int64())})
    return TableCapture(WATERMARK, "list", True, lambda: table)


def restored_watermark(restored: Sequence[RestoredState]) -> int:
    """The smallest over the origin subtasks (at an aligned barrier all have the same); MIN_WATERMARK on a fresh start, and where the job had come
    to its end (or was drained): time begins anew with what the restored one reads."""
    return begun_anew(_smallest_watermark(restored))


def _smallest_watermark(restored: Sequence[RestoredState]) -> int:
    tables = [chain[-1] for state in restored if state.name == WATERMARK for chain in state.chains]
    return min((table.column(WATERMARK)[0].as_py() for table in tables), default=MIN_WATERMARK)


def unfinished(restored: Sequence[RestoredState]) -> Sequence[RestoredState]:
    """Of an operator whose state is all of some event time: nothing where that was at its end, since all of it has been emitted."""
    return () if restored and _smallest_watermark(restored) == MAX_WATERMARK else restored


def begun_anew(watermark_us: int) -> int:
    return MIN_WATERMARK if watermark_us == MAX_WATERMARK else watermark_us
